"""CKA against constants, independent oracles, its own other routes, and its invariances."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.preprocessing import KernelCenterer
from torch import nn

from modalign.cka import cka, cka_matrix, hsic
from tests import _asserts as asserts

# n < d, n > d, n = d, d = 1, and the least n: (n, d1, d2)
SHAPES = [(50, 10, 12), (10, 50, 60), (20, 20, 20), (9, 1, 1), (30, 1, 29), (4, 3, 7), (7, 40, 2)]


def draw(n, d1, d2, seed=0, dtype=torch.float64):
    """Two representations that share something."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d1, generator=generator, dtype=dtype)
    y = torch.randn(n, d2, generator=generator, dtype=dtype)
    y[:, 0] += x[:, 0]
    return x, y


def linear(z):
    return z @ z.T


def recorded_pair(name):
    if name == "independent":
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(50, 10)), rng.normal(size=(50, 12))
    else:
        rng = np.random.RandomState(1337)
        x = rng.randn(100, 10)
        y = rng.randn(100, 10) + x
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize(
    ("pair", "options", "value"),
    [
        ("independent", {}, 0.210776322607),
        ("independent", {"debiased": True}, 0.038413851468),
        ("independent", {"kernel": "rbf"}, 0.640911192434),
        ("independent", {"kernel": "rbf", "threshold": 1.0}, 0.318633703422),
        ("related", {}, 0.557613256612),
        ("related", {"debiased": True}, 0.513456489506),
        ("related", {"kernel": "rbf"}, 0.654831182261),
        ("related", {"kernel": "rbf", "threshold": 1.0}, 0.575832223014),
    ],
)
def test_recorded_values(pair, options, value):
    assert cka(*recorded_pair(pair), **options).item() == pytest.approx(value, abs=1e-10)


def by_kernel_centerer(x, y):
    k, l = (KernelCenterer().fit_transform(z @ z.T) for z in (x, y))
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


def by_rsatoolbox(x, y):
    rdm = pytest.importorskip("rsatoolbox.rdm")
    above = np.triu_indices(len(x), 1)
    x, y = (rdm.RDMs(euclidean_distances(z, squared=True)[above][None]) for z in (x, y))
    return rdm.compare(x, y, method="cosine_cov").item()


def by_dcor(x, y):
    dcor = pytest.importorskip("dcor")
    centred = []
    for z in (x, y):
        gram = z @ z.T
        np.fill_diagonal(gram, 0)
        centred.append(dcor.u_centered(gram))
    k, l = centred
    return dcor.u_product(k, l) / np.sqrt(dcor.u_product(k, k) * dcor.u_product(l, l))


def by_rbf_kernel(x, y, threshold):
    grams = []
    for z in (x, y):
        median = np.median(euclidean_distances(z, squared=True))
        grams.append(rbf_kernel(z, gamma=1 / (2 * threshold**2 * median)))
    k, l = (KernelCenterer().fit_transform(gram) for gram in grams)
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("oracle", "options"),
    [
        (by_kernel_centerer, {}),
        (by_rsatoolbox, {}),
        (by_dcor, {"debiased": True}),
        (lambda x, y: by_rbf_kernel(x, y, 0.5), {"kernel": "rbf"}),
        (lambda x, y: by_rbf_kernel(x, y, 1.3), {"kernel": "rbf", "threshold": 1.3}),
    ],
    ids=["KernelCenterer", "rsatoolbox", "dcor", "rbf_kernel 0.5", "rbf_kernel 1.3"],
)
def test_oracles(oracle, options, shape):
    x, y = draw(*shape)
    # Away from the origin too, which no centred measure may notice.
    for shift in (0, 3):
        found = cka(x + shift, y - shift, **options).item()
        assert found == pytest.approx(oracle(x.numpy(), y.numpy()), abs=1e-10)


def test_two_examples_are_always_alike():
    x, y = draw(2, 3, 5)
    assert cka(x, y).item() == pytest.approx(1, abs=1e-12)
    assert cka(x, y).item() == pytest.approx(by_kernel_centerer(x.numpy(), y.numpy()), abs=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cka_is_normalised_hsic(shape, unbiased):
    x, y = draw(*shape)
    k, l = linear(x), linear(y)
    norms = hsic(k, k, unbiased=unbiased) * hsic(l, l, unbiased=unbiased)
    expected = hsic(k, l, unbiased=unbiased) / norms.sqrt()
    torch.testing.assert_close(cka(x, y, debiased=unbiased), expected, rtol=0, atol=1e-10)


def test_hsic_by_the_literal_formulas():
    n = 7
    k, l = (linear(z) for z in draw(n, 3, 5))
    c = torch.eye(n, dtype=torch.float64) - 1 / n
    biased = (k @ c @ l @ c).trace() / (n - 1) ** 2
    torch.testing.assert_close(hsic(k, l), biased, rtol=0, atol=1e-10)
    k0, l0 = k - k.diag().diag(), l - l.diag().diag()  # Song et al. 2012, equation 5
    unbiased = (k0 @ l0).trace() + k0.sum() * l0.sum() / ((n - 1) * (n - 2))
    unbiased = (unbiased - 2 / (n - 2) * (k0 @ l0).sum()) / (n * (n - 3))
    torch.testing.assert_close(hsic(k, l, unbiased=True), unbiased, rtol=0, atol=1e-10)


def test_the_unbiased_hsic_has_no_bias():
    draws = [[linear(torch.randn(6, 4, dtype=torch.float64)) for _ in "xy"] for _ in range(2000)]
    values = torch.stack([hsic(k, l, unbiased=True) for k, l in draws])
    assert values.mean().abs() < 4 * values.std() / len(values) ** 0.5


def pad(z, columns):
    return torch.cat([z, z.new_zeros(len(z), columns)], 1)


@pytest.mark.parametrize("debiased", [False, True])
def test_the_gram_side_is_the_feature_side(debiased):
    x, y = draw(40, 5, 6)
    expected = cka(x, y, debiased=debiased)  # 40 x 11 is far from the Gram side ...
    found = cka(pad(x, 200), pad(y, 300), debiased=debiased)  # ... and 40 x 511 is on it
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_callable_linear_kernel_is_the_linear_kernel(shape, debiased):
    x, y = draw(*shape)
    found = cka(x, y, kernel=linear, debiased=debiased)
    torch.testing.assert_close(found, cka(x, y, debiased=debiased), rtol=0, atol=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_a_map_holds_the_pairwise_values(debiased):
    xs = [torch.randn(12, d, dtype=torch.float64) for d in (1, 5, 40)]
    ys = [torch.randn(12, 2, 3, 3, dtype=torch.float64), torch.randn(12, 4, dtype=torch.float64)]
    values = [[cka(x, y.flatten(1), debiased=debiased) for y in ys] for x in xs]
    found = cka_matrix(xs, ys, debiased=debiased)
    torch.testing.assert_close(found, torch.tensor(values).double(), rtol=0, atol=1e-7)
    for i, x in enumerate(xs):
        for j, y in enumerate(ys):
            expected = cka(x, y.flatten(1), debiased=debiased)
            torch.testing.assert_close(found[i, j], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_a_map_of_a_network_with_itself(debiased):
    xs = [torch.randn(12, d, dtype=torch.float64) for d in (1, 5, 40)]
    found = cka_matrix(xs, debiased=debiased)
    torch.testing.assert_close(found, cka_matrix(xs, xs, debiased=debiased), rtol=0, atol=0)
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(found.diagonal(), torch.ones(3, dtype=torch.float64))


def test_a_map_is_debiased_unless_told_otherwise():
    x, y = draw(12, 5, 6)
    torch.testing.assert_close(cka_matrix([x], [y])[0, 0], cka(x, y, debiased=True))


def rotation(d, generator):
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]


# What may be done to (x, y) without changing their CKA, with any of the kernels below.
INVARIANCES = {
    "rotate": lambda x, y, g: (x @ rotation(x.shape[1], g), y @ rotation(y.shape[1], g)),
    "reflect": lambda x, y, g: (-x, y),
    "rescale": lambda x, y, g: (x * 1e3, y * 1e-3),
    "shift": lambda x, y, g: (x + torch.randn(x.shape[1], generator=g).double(), y - 2),
    "reorder the examples": lambda x, y, g: (x[o := torch.randperm(len(x), generator=g)], y[o]),
    "reorder the features": lambda x, y, g: (x[:, torch.randperm(x.shape[1], generator=g)], y),
    "swap": lambda x, y, g: (y, x),
    "pad with zeros": lambda x, y, g: (pad(x, 50), pad(y, 3)),
    "repeat the features": lambda x, y, g: (torch.cat([x, x], 1), y),
}
MEASURES = {
    "linear": {},
    "linear, debiased": {"debiased": True},
    "rbf": {"kernel": "rbf"},
    "rbf, debiased": {"kernel": "rbf", "debiased": True, "threshold": 0.8},
    "callable": {"kernel": linear},
}


@pytest.mark.parametrize("options", MEASURES.values(), ids=MEASURES.keys())
@pytest.mark.parametrize("change", INVARIANCES.values(), ids=INVARIANCES.keys())
@settings(max_examples=15)
@given(st.tuples(st.integers(5, 20), st.integers(1, 24), st.integers(1, 24)), st.integers(0, 9999))
def test_invariances(change, options, shape, seed):
    x, y = draw(*shape, seed)
    changed = change(x, y, torch.Generator().manual_seed(seed))
    asserts.unmoved(functools.partial(cka, **options), [x, y], changed, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", MEASURES.values(), ids=MEASURES.keys())
def test_an_invertible_linear_map_changes_it(options):
    x, y = draw(30, 5, 6)
    stretch = torch.diag(torch.tensor([1.0, 3.0, 0.2, 1.0, 5.0], dtype=torch.float64))
    assert (cka(x @ stretch, y, **options) - cka(x, y, **options)).abs() > 0.01


@pytest.mark.parametrize("options", MEASURES.values(), ids=MEASURES.keys())
@settings(max_examples=40)
@given(st.tuples(st.integers(5, 20), st.integers(1, 24), st.integers(1, 24)), st.integers(0, 9999))
def test_range(options, shape, seed):
    x, y = draw(*shape, seed)
    lowest = -1 if options.get("debiased") else 0
    assert lowest - 1e-12 <= cka(x, y, **options) <= 1 + 1e-12
    torch.testing.assert_close(cka(x, x, **options).item(), 1.0, rtol=0, atol=1e-10)


def test_negative_debiased_values_are_returned():
    values = torch.stack([cka(*torch.randn(2, 8, 3), debiased=True) for _ in range(50)])
    assert values.min() < -0.2
    assert 10 < (values < 0).sum() < 40


@pytest.mark.parametrize(("n", "d"), [(512, 32), (512, 64), (64, 512), (32, 512)])
def test_bias_floor(n, d):
    """Independent representations: d / (n - 1 + d) to 2%, and zero where debiased."""
    pairs = [torch.randn(2, n, d) for _ in range(20)]
    biased = torch.stack([cka(x, y) for x, y in pairs])
    assert biased.mean() == pytest.approx(d / (n - 1 + d), rel=0.02)
    debiased = torch.stack([cka(x, y, debiased=True) for x, y in pairs])
    assert debiased.mean().abs() < 4 * debiased.std() / len(pairs) ** 0.5


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("scale", [1, 1e-4, 1e4, 1e-10, 1e15])
@pytest.mark.parametrize("offset", [0, 300])
@pytest.mark.parametrize("shape", [*SHAPES, (512, 64, 32), (64, 512, 700)], ids=str)
def test_float32_is_as_good_as_float64(shape, offset, scale, debiased):
    x, y = ((z + offset) * scale for z in draw(*shape, dtype=torch.float32))
    exact = cka(x.double(), y.double(), debiased=debiased).item()
    assert cka(x, y, debiased=debiased).item() == pytest.approx(exact, abs=1e-5)
    assert cka_matrix([x], [y], debiased=debiased).item() == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("factor", [10, 100])
@pytest.mark.parametrize("row", [0, 5])
@pytest.mark.parametrize("shape", [(256, 8, 8), (256, 128, 128), (64, 512, 512)], ids=str)
def test_float32_with_one_example_far_from_the_rest(shape, row, factor, debiased):
    x, y = draw(*shape, dtype=torch.float32)
    x[row] *= factor
    y[row] *= factor
    exact = cka(x.double(), y.double(), debiased=debiased).item()
    assert cka(x, y, debiased=debiased).item() == pytest.approx(exact, abs=1e-5)
    assert cka_matrix([x], [y], debiased=debiased).item() == pytest.approx(exact, abs=1e-5)


def test_a_map_in_float32_over_many_examples():
    x, y = draw(2000, 32, 32, dtype=torch.float32)
    y += 3 * x
    exact = cka_matrix([x.double()], [y.double()])
    torch.testing.assert_close(cka_matrix([x], [y]).double(), exact, rtol=0, atol=1e-5)


def mlp(depth=12, width=128):
    linears = [nn.Linear(64 if i == 0 else width, width) for i in range(depth)]
    return [nn.Sequential(linear, nn.ReLU()) for linear in linears]


def cnn(depth=8, width=32):
    convolutions = [nn.Conv2d(1 if i == 0 else width, width, 3, padding=1) for i in range(depth)]
    return [nn.Sequential(convolution, nn.ReLU()) for convolution in convolutions]


@torch.no_grad()
def activations(layers, inputs):
    outputs = [inputs]
    for layer in layers:
        outputs.append(layer(outputs[-1]))
    return outputs[1:]


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize(("network", "shape"), [(mlp, (128, 64)), (cnn, (64, 1, 8, 8))])
def test_a_map_of_untrained_networks(network, shape, debiased):
    inputs = torch.randn(shape)
    xs, ys = activations(network(), inputs), activations(network(), inputs)
    exact = cka_matrix([x.double() for x in xs], [y.double() for y in ys], debiased=debiased)
    found = cka_matrix(xs, ys, debiased=debiased).double()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


def test_the_same_inputs_give_the_same_bits():
    x, y = draw(40, 30, 12, dtype=torch.float32)
    for options in MEASURES.values():
        assert torch.equal(cka(x, y, **options), cka(x.clone(), y.clone(), **options))
    assert torch.equal(cka_matrix([x, y]), cka_matrix([x.clone(), y.clone()]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradient(mode):
    x, y = draw(12, 5, 6)
    for options in MEASURES.values():
        expected = cka(x, y, **options)
        with mode():
            found = cka(x, y.requires_grad_(), **options)
        assert not found.requires_grad
        assert torch.equal(found, expected)
        y.requires_grad_(False)
