import functools
import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modalign.models.soft_warping import soft_dtw
from modalign.models.time_warping import dtw
from tests import _asserts as asserts
from tests import _inputs as inputs

X = torch.tensor([0.0, 3, 1, 4, 1, 5, 9, 2, 6], dtype=torch.float64)
Y = torch.tensor([0.0, 1, 4, 9, 6], dtype=torch.float64)
# of tslearn 0.10.0: soft_dtw(X, Y, gamma=gamma, global_constraint=..., sakoe_chiba_radius=band)
BY_GAMMA = {0.1: 29.93068074205408, 1.0: 28.985100581182586, 10.0: -8.56588670687098}
BY_BAND = {0: 29.295895662022172, 1: 28.985100581224895, 2: 28.985100581182586}
# and soft_dtw_alignment(X, Y, gamma=1.0), to 6 digits
ALIGNED = [
    [1.0, 0.26712, 0.0, 0.0, 0.0],
    [0.007673, 0.992086, 0.000353, 0.0, 0.0],
    [0.002697, 0.998686, 0.000476, 0.0, 0.0],
    [1e-06, 0.500303, 0.499757, 0.0, 0.0],
    [0.0, 0.500181, 0.499881, 0.0, 0.0],
    [0.0, 0.0, 1.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0, 0.000123],
    [0.0, 0.0, 0.0, 0.0, 1.0],
    [0.0, 0.0, 0.0, 0.0, 1.0],
]
tslearn_there = pytest.mark.skipif(
    importlib.util.find_spec("tslearn") is None,
    reason="tslearn is not installed; its stored values are compared all the same",
)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def squared(x, y):
    return (x[:, None] - y).square()


def paths(c, s):
    """Every warping path, as pairs (clip, snippet)."""

    def onward(path):
        j, i = path[-1]
        if (j, i) == (c - 1, s - 1):
            yield path
        for dj, di in ((1, 1), (1, 0), (0, 1)):
            if j + dj < c and i + di < s:
                yield from onward([*path, (j + dj, i + di)])

    yield from onward([(0, 0)])


def literal(cost, gamma=1.0):
    """The soft minimum over all paths, path by path."""
    sums = torch.stack([sum(cost[pair] for pair in path) for path in paths(*cost.shape)])
    return -gamma * torch.logsumexp(-sums / gamma, 0)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_literal_equation(seed, c, s):
    asserts.equals_literal(soft_dtw, literal, [draw(c, s, seed=seed).requires_grad_()])


@pytest.mark.parametrize(("gamma", "known"), BY_GAMMA.items())
def test_the_values_of_tslearn_by_gamma(gamma, known):
    assert soft_dtw(squared(X, Y), gamma=gamma).item() == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize(("band", "known"), BY_BAND.items())
def test_the_values_of_tslearn_by_band(band, known):
    assert soft_dtw(squared(X, Y), band=band).item() == pytest.approx(known, rel=1e-9)
    assert soft_dtw(squared(Y, X), band=band).item() == pytest.approx(known, rel=1e-9)


def test_the_gradient_is_the_alignment_of_tslearn():
    cost = squared(X, Y).requires_grad_()
    found = torch.autograd.grad(soft_dtw(cost), cost)[0]
    torch.testing.assert_close(found, found.new_tensor(ALIGNED), rtol=0, atol=6e-7)


@tslearn_there
@pytest.mark.parametrize("gamma", [0.05, 20])
@pytest.mark.parametrize(("c", "s"), [(9, 6), (4, 7), (1, 3)])
def test_it_is_tslearn(c, s, gamma):
    from tslearn.metrics import soft_dtw as known

    x, y = 3 * draw(c, 2), 3 * draw(s, 2, seed=1)
    cost = (x[:, None] - y).square().sum(-1)
    for band in (None, 0, 2):
        options = {"global_constraint": "sakoe_chiba", "sakoe_chiba_radius": band}
        # its other backend takes minutes to compile
        value = known(x, y, gamma=gamma, be="pytorch", **(options if band is not None else {}))
        found = soft_dtw(cost, gamma=gamma, band=band)
        assert found.item() == pytest.approx(float(value), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("band", [None, 0, 1])
@pytest.mark.parametrize("shape", [(4, 3), (2, 5), (1, 1), (1, 4), (2, 3, 4)])
def test_gradcheck(shape, band):
    if len(shape) == 2:
        asserts.gradients_are_right(
            functools.partial(soft_dtw, gamma=0.3, band=band), [draw(*shape)]
        )
    cost = draw(3, *shape[-2:])
    lengths = {"clips": torch.tensor([shape[-2], 1, max(1, shape[-2] - 1)])}
    asserts.gradients_are_right(functools.partial(soft_dtw, band=band, **lengths), [cost])


def test_of_equal_paths_there_are_as_many_as_delannoy_counted():
    # with no cost at all the value is minus gamma times the logarithm of the number of paths
    for shape, count in (((3, 3), 13), ((4, 3), 25), ((6, 6), 1683), ((1, 7), 1)):
        value = soft_dtw(torch.zeros(shape, dtype=torch.float64), gamma=2.0)
        assert value.item() == pytest.approx(-2 * torch.tensor(float(count)).log().item(), rel=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.sampled_from([None, 0, 1]))
def test_near_no_softness_it_is_dtw(seed, c, s, band):
    cost = draw(c, s, seed=seed).requires_grad_()
    value = soft_dtw(cost, gamma=1e-6, band=band)
    assert value.item() == pytest.approx(dtw(cost, band=band).cost.item(), abs=1e-4)
    assert value <= dtw(cost, band=band).cost + 1e-9


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_each_clip_and_snippet_is_on_a_path_and_both_ends_are(seed, c, s):
    cost = draw(c, s, seed=seed).requires_grad_()
    chance = torch.autograd.grad(soft_dtw(cost, gamma=0.2), cost)[0]
    assert (chance >= 0).all()
    assert (chance <= 1 + 1e-9).all()
    assert (chance.sum(0) >= 1 - 1e-9).all()
    assert (chance.sum(1) >= 1 - 1e-9).all()
    assert chance[0, 0].item() == pytest.approx(1)
    assert chance[-1, -1].item() == pytest.approx(1)


@pytest.mark.parametrize("band", [None, 1])
def test_a_padded_batch_is_each_of_its_examples(band):
    cost, clips, snippets = draw(4, 10, 6), torch.tensor([10, 7, 4, 5]), torch.tensor([6, 2, 4, 1])
    for k in range(4):
        cost[k, clips[k] :] = torch.nan
        cost[k, :, snippets[k] :] = torch.inf
    cost.requires_grad_()
    found = soft_dtw(cost, band=band, clips=clips, snippets=snippets)
    gradient = torch.autograd.grad((found * torch.arange(1, 5)).sum(), cost)[0]
    for k in range(4):
        own = cost[k, : clips[k], : snippets[k]].detach().requires_grad_()
        alone = soft_dtw(own, band=band)
        torch.testing.assert_close(found[k], alone)
        wanted = torch.zeros(10, 6, dtype=torch.float64)
        wanted[: clips[k], : snippets[k]] = (k + 1) * torch.autograd.grad(alone, own)[0]
        torch.testing.assert_close(gradient[k], wanted)


def test_a_band_holds_a_path_for_any_two_lengths():
    # other code answers infinity here
    for c, s in ((15, 12), (12, 15), (30, 2), (1, 9)):
        for band in (0, 1, 2):
            cost = draw(8, c, s).requires_grad_()
            value = soft_dtw(cost, gamma=0.1, band=band)
            value.sum().backward()
            assert value.isfinite().all()
            assert cost.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1e6, 1e300])
def test_the_unit_of_costs_does_not_matter(scale):
    cost = draw(5, 4).requires_grad_()
    value = soft_dtw(cost * scale, gamma=scale)
    torch.testing.assert_close(value / scale, soft_dtw(cost))
    torch.testing.assert_close(
        torch.autograd.grad(value / scale, cost)[0], torch.autograd.grad(soft_dtw(cost), cost)[0]
    )


def test_shapes_and_types_of_what_comes_back():
    cost = draw(2, 3, 9, 5).float().requires_grad_()
    found = soft_dtw(cost)
    assert found.shape == (2, 3)
    assert found.dtype == torch.float32
    assert torch.autograd.grad(found.sum(), cost)[0].dtype == torch.float32
    torch.testing.assert_close(soft_dtw(cost[1, 2]), found[1, 2])
    assert soft_dtw(cost.detach()).requires_grad is False


def test_a_loss_is_brought_down():
    target, x = draw(6, 2), draw(9, 2, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = soft_dtw((x[:, None] - target).square().sum(-1), gamma=0.01)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.3 * values[0]


def test_input_is_left_alone():
    asserts.leaves_alone(soft_dtw, [draw(4, 3).requires_grad_()])


@inputs.each("change", inputs.STRIDES)
def test_strides(change):
    asserts.strides_do_not_matter(soft_dtw, [draw(4, 3).requires_grad_()], change)


def test_the_gradient_can_be_differentiated():
    cost = draw(2, 3, 3).requires_grad_()
    lengths = {"clips": torch.tensor([3, 2])}
    assert torch.autograd.gradgradcheck(functools.partial(soft_dtw, band=1, **lengths), cost)


GOOD = draw(2, 4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_dtw(GOOD, gamma=0.0), "gamma: expected a number above 0, got 0"),
        (lambda: soft_dtw(GOOD, gamma=torch.nan), "gamma: expected a number above 0, got nan"),
        (lambda: soft_dtw(1e300 * GOOD, gamma=1e-9), r"gamma: expected one by which the costs, up"),
        (lambda: soft_dtw(GOOD, band=-1), "band: expected a number of places from 0"),
        (lambda: soft_dtw(GOOD * torch.nan), "cost: expected finite values, got NaN in row 0"),
        (
            lambda: soft_dtw(GOOD[:, :0]),
            r"cost: expected clips and snippets, got shape \(2, 0, 3\)",
        ),
        (lambda: soft_dtw(GOOD, clips=torch.tensor([4, 5])), "clips: .* from 1 to 4, got 5"),
        (lambda: soft_dtw(GOOD, snippets=torch.tensor([0, 3])), "snippets: .* to 3, got 0"),
        (
            lambda: soft_dtw((3e4 + GOOD).half()),
            "cost: the sum of an alignment is more than float16",
        ),
        (lambda: soft_dtw(GOOD.long()), "cost: expected"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
