"""What cka, cka_matrix and hsic refuse, and in which words; and what they must not mind."""

import functools

import numpy as np
import pytest
import torch

from modalign.cka import DegenerateError, cka, cka_matrix, hsic
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import INF, NAN, draw, with_entry

KERNELS = {
    "linear": "linear",
    "rbf": "rbf",
    "callable": lambda z: (z - z.mean(0)) @ (z - z.mean(0)).T,
}


def x(n=8, d=3):
    return draw(n, d)


def y(n=8, d=2):
    return draw(n, d, seed=1)


def gram(z):
    return z @ z.T


REFUSED = {
    "no rows": (lambda k: cka(x(0), y(0), kernel=k), "x: .* at least 2 rows .*, got 0"),
    "one row": (lambda k: cka(x(1), y(1), kernel=k), "x: .* at least 2 rows .*, got 1"),
    "three rows, debiased": (
        lambda k: cka(x(3), y(3), kernel=k, debiased=True),
        "x: debiased CKA needs at least 4 rows .*, got 3",
    ),
    "no columns": (lambda k: cka(x(), y(d=0), kernel=k), r"y: .* feature, got float32 \(8, 0\)"),
    "unequal n": (
        lambda k: cka(x(8), y(7), kernel=k),
        r"(?s)x: expected .*n d1.*, got float32 \(8, 3\)\n.*y: .*n d2.*, got float32 \(7, 2\)",
    ),
}


every_kernel = inputs.each("kernel", KERNELS)


ROWS = {
    "NaN in row 0": (lambda z: with_entry(z, NAN, 0), "expected finite .*NaN in row 0"),
    "NaN in row 3": (lambda z: with_entry(z, NAN, 3), "expected finite .*NaN in row 3"),
}


@every_kernel
@pytest.mark.parametrize("name", ["x", "y"])
@inputs.hostile(inputs.WRONG_TYPE, inputs.NOT_FINITE, inputs.WRONG_DIMENSIONS, ROWS)
def test_refused(change, message, name, kernel):
    asserts.refuses(
        lambda x, y: cka(x, y, kernel=kernel), {"x": x(), "y": y()}, name, change, message
    )


@every_kernel
@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_sizes_refused_whatever_the_kernel(call, message, kernel):
    with pytest.raises(ValueError, match=message):
        call(kernel)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -300.1, 1e15, 1e30])
def test_constant_features(value, debiased):
    constant = torch.full((50, 3), value)
    with pytest.raises(DegenerateError, match=r"x: .*constant"):
        cka(constant, y(50), debiased=debiased)
    with pytest.raises(DegenerateError, match=r"y: .*constant"):
        cka(x(50), constant, debiased=debiased)
    with pytest.raises(DegenerateError, match=r"xs\[1\]: .*constant"):
        cka_matrix([x(50), constant], debiased=debiased)
    with pytest.raises(DegenerateError, match=r"ys\[0\]: .*constant"):
        cka_matrix([x(50)], [constant], debiased=debiased)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_constant_features_with_other_kernels(value):
    constant = torch.full((50, 3), value)
    with pytest.raises(ValueError, match=r"bandwidth of x .*expected a number above 0"):
        cka(constant, y(50), kernel="rbf")
    with pytest.raises(DegenerateError, match=r"y: .*constant"):
        cka(x(50), constant, kernel=gram)


EQUALLY_FAR = ("one-hot", "simplex", "all but one equal", "one-hot and a shift")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EQUALLY_FAR)
def test_without_norm_where_debiased(name, dtype):
    z = inputs.DEGENERATE[name].to(dtype)
    assert cka(z, y()).isfinite()
    for kernel in ("linear", gram):
        with pytest.raises(DegenerateError, match=r"x: .*equally far apart"):
            cka(z - z.mean(), y(), kernel=kernel, debiased=True)
    with pytest.raises(DegenerateError, match=r"y: .*equally far apart"):
        cka(x(), z, debiased=True)
    with pytest.raises(DegenerateError, match=r"xs\[0\]: .*equally far apart"):
        cka_matrix([z, x()])


def test_an_array_is_of_the_wrong_type():
    array = np.zeros((8, 3), dtype=np.float32)
    with pytest.raises(TypeError, match=r"(?s)x: expected .*got ndarray.*y: expected"):
        cka(array, y())
    with pytest.raises(TypeError, match=r"l: expected .*got ndarray"):
        hsic(gram(x()), np.eye(8))


def test_a_map_of_arrays_is_of_the_wrong_type():
    for _ in range(20):  # the type check may look at one item only
        with pytest.raises(TypeError, match=r"xs(\[2\])?: .*ndarray"):
            cka_matrix([x(), y(), np.zeros((8, 3))])


@pytest.mark.parametrize("threshold", [0.0, -1.0, NAN])
def test_threshold(threshold):
    with pytest.raises(ValueError, match=f"threshold: .*{threshold}.*above 0"):
        cka(x(), y(), kernel="rbf", threshold=threshold)


def test_a_whole_threshold_is_a_number_too():
    assert torch.equal(
        cka(x(), y(), kernel="rbf", threshold=1), cka(x(), y(), kernel="rbf", threshold=1.0)
    )


def test_most_examples_equal():
    z = torch.zeros(8, 2)
    z[0] = 1
    with pytest.raises(ValueError, match=r"bandwidth of y .*are most examples equal"):
        cka(x(), z, kernel="rbf")


@pytest.mark.parametrize(("kernel", "close"), [("rfb", "rbf"), ("Linear", "linear")])
def test_an_unknown_kernel(kernel, close):
    with pytest.raises(ValueError, match=f"kernel: expected one of linear, rbf, .*'{close}'"):
        cka(x(), y(), kernel=kernel)


@pytest.mark.parametrize("kernel", [None, 3])
def test_a_kernel_of_another_type(kernel):
    with pytest.raises(TypeError, match="kernel: expected str .*Callable"):
        cka(x(), y(), kernel=kernel)


KERNEL_RESULTS = {
    "a row": (lambda z: z[0], r"kernel\(x\): expected .* \(8, 8\) tensor, got float32 \(3,\)"),
    "features": (lambda z: z, r"kernel\(x\): expected .* \(8, 8\) tensor, got float32 \(8, 3\)"),
    "NaN": (lambda z: gram(z) * NAN, r"kernel\(x\): expected finite values, got NaN"),
    "infinity": (lambda z: gram(z).abs() * INF, r"kernel\(x\): expected finite values, got an inf"),
    "an array": (lambda z: gram(z).numpy(), "kernel.*ndarray"),
    "a truth": (lambda z: gram(z) > 0, "kernel.*bool"),
    "asymmetry": (lambda z: gram(z).triu(), "kernel.*symmetric"),
}


@pytest.mark.parametrize(("kernel", "message"), KERNEL_RESULTS.values(), ids=KERNEL_RESULTS.keys())
def test_what_a_kernel_may_not_return(kernel, message):
    with pytest.raises((ValueError, TypeError), match=message):
        cka(x(), y(), kernel=kernel)


def test_a_kernel_without_a_trace():
    """Minus the squared distance is the linear kernel once centred."""

    def distance(z):
        return -(z[:, None] - z).square().sum(-1)

    torch.testing.assert_close(cka(x(), y(), kernel=distance), cka(x(), y()))


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("scale", [1e-25, 1e-30])
def test_entries_whose_squares_underflow(scale, kernel):
    exact = cka(x().double(), y().double(), kernel=kernel).item()
    assert cka(x(), y() * scale, kernel=kernel).item() == pytest.approx(exact, abs=1e-5)
    assert cka_matrix([x(), y() * scale], debiased=False).isfinite().all()


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("size", [1e37, 3e38])
def test_entries_whose_sums_overflow(size, kernel):
    signs = y(50).sign()
    exact = cka(x(50), signs, kernel=kernel).item()
    assert cka(x(50), size * signs, kernel=kernel).item() == pytest.approx(exact, abs=1e-5)
    assert cka_matrix([x(50)], [size * signs], debiased=False).isfinite().all()


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_float64_beyond_the_range_of_float32(scale, kernel, debiased):
    a, b = x().double(), y().double()
    exact = cka(a, b, kernel=kernel, debiased=debiased).item()
    assert cka(a, b * scale, kernel=kernel, debiased=debiased).item() == pytest.approx(exact)
    assert cka_matrix([a, b * scale]).isfinite().all()
    # beside float32 features it is not cast down
    assert cka(x(), b * scale, kernel=kernel, debiased=debiased).item() == pytest.approx(exact)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("size", [6e-8, 1e-4, 6e4])
def test_float16_at_the_ends_of_its_range(size, kernel):
    signs = (y().sign() * size).half()
    exact = cka(x().double(), y().sign().double(), kernel=kernel).item()
    assert cka(x(), signs, kernel=kernel).item() == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-14, 1, 1e18])
def test_a_kernel_keeps_its_digits(scale):
    z = y() - y().mean(0)
    found = cka(x() - x().mean(0), z * scale, kernel=gram).item()
    assert found == pytest.approx(cka(x(), y()).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1e-18, r"kernel\(y\): the largest entry is .*keeps no digits"),
        (1e-21, r"kernel\(y\): the largest entry is .*keeps no digits"),
        (1e-25, "y: nothing to compare"),
        (1e25, r"kernel\(y\): expected finite values"),
    ],
)
def test_a_kernel_without_digits_is_refused(scale, message):
    with pytest.raises(ValueError, match=message):
        cka(x(), y() * scale, kernel=gram)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1, 1e12, 1e18])
def test_hsic_keeps_its_digits_or_says_that_it_cannot(scale, unbiased):
    k, l = gram(x()), gram(y())
    exact = hsic(k.double(), l.double(), unbiased=unbiased).item()
    found = hsic(k * scale, l / scale, unbiased=unbiased).item()
    assert found == pytest.approx(exact, rel=1e-4)
    for factor in (scale, 1 / scale):
        if not 1.2e-38 < factor**2 * abs(exact) < 3.4e38:
            with pytest.raises(ValueError, match=r"k, l: their HSIC.*out of the range.*float32"):
                hsic(k * factor, l * factor, unbiased=unbiased)
        doubled = hsic(k.double() * factor, l.double() * factor, unbiased=unbiased).item()
        assert doubled == pytest.approx(exact * factor**2, rel=1e-6)


def test_hsic_of_entries_without_digits():
    with pytest.raises(ValueError, match=r"l: the largest entry is .*keeps no digits"):
        hsic(gram(x()), gram(y()) * 1e-38)


@pytest.mark.parametrize("threshold", [1e-30, 1e-200, 1e30, INF])
def test_thresholds_out_of_range(threshold):
    with pytest.raises(ValueError, match="threshold: "):
        cka(x(), y(), kernel="rbf", threshold=threshold)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("threshold", [100, 1e4, 1e6])
def test_a_wide_rbf_kernel_is_the_linear_kernel(threshold, debiased):
    expected = cka(x(), y(), debiased=debiased).item()
    found = cka(x(), y(), kernel="rbf", threshold=threshold, debiased=debiased).item()
    assert found == pytest.approx(expected, abs=1e-3 if threshold == 100 else 1e-5)


@pytest.mark.parametrize("distance", [1e3, 1e5, 1e7])
def test_an_rbf_kernel_of_one_far_example(distance):
    a = with_entry(x(100, 8), distance, 3)
    exact = cka(a.double(), y(100).double(), kernel="rbf").item()
    assert cka(a, y(100), kernel="rbf").item() == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_a_threshold_may_be_a_number_of_another_library(number):
    assert torch.equal(
        cka(x(), y(), kernel="rbf", threshold=number), cka(x(), y(), kernel="rbf", threshold=0.5)
    )


NOT_DENSE = {
    "sparse": (lambda z: z.to_sparse(), "expected a dense tensor, got .*sparse_coo"),
    "sparse rows": (lambda z: z.to_sparse_csr(), "expected a dense tensor, got .*sparse_csr"),
    "without data": (lambda z: z.to("meta"), "y: |expected a dense tensor|expected a tensor on"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(("change", "message"), NOT_DENSE.values(), ids=NOT_DENSE.keys())
def test_tensors_that_are_not_dense(change, message):
    for kernel in KERNELS.values():
        for pair in [(change(x()), y()), (x(), change(y()))]:
            with pytest.raises(ValueError, match=message):
                cka(*pair, kernel=kernel)
    with pytest.raises(ValueError, match=message):
        hsic(gram(x()), change(gram(y())))
    with pytest.raises(ValueError, match=rf"xs\[1\]: ({message})"):
        cka_matrix([x(), change(y())])


@every_kernel
def test_another_default_device(kernel):
    expected = cka(x(), y(), kernel=kernel), cka_matrix([x(), y()]), hsic(gram(x()), gram(x()))
    inputs = x(), y()
    grams = gram(inputs[0])
    with torch.device("meta"):
        a, b = (z.requires_grad_() for z in inputs)
        found = cka(a, b, kernel=kernel)
        torch.autograd.grad(found, (a, b), create_graph=True)
        found = found.detach(), cka_matrix([a, b]), hsic(grams, grams)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layers", [{"a": x()}, (z for z in [x()]), 3])
def test_a_map_of_what_is_no_list(layers):
    with pytest.raises(TypeError, match="xs: expected a list of tensors, got"):
        cka_matrix(layers)


def test_mixed_types_are_promoted():
    value = cka(x(), y().double())
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, cka(x().double(), y().double()), rtol=0, atol=0)
    value = hsic(gram(x()), gram(y()).double())
    torch.testing.assert_close(
        value, hsic(gram(x()).double(), gram(y()).double()), rtol=0, atol=1e-5
    )
    assert cka(x().half(), y().bfloat16()).dtype == torch.float32


def test_mixed_types_are_promoted_in_a_map():
    expected = cka_matrix([x().double()], [y().double()])
    torch.testing.assert_close(cka_matrix([x()], [y().double()]), expected, rtol=0, atol=1e-6)
    assert cka_matrix([x(), y().double()]).dtype == torch.float64


STRIDES = {**inputs.STRIDES, "one column expanded": lambda z: z[:, :1].expand(z.shape)}


@every_kernel
@inputs.each("change", STRIDES)
def test_strides_do_not_matter(change, kernel):
    a, b = change(x()).contiguous().requires_grad_(), y().requires_grad_()
    call = functools.partial(cka, kernel=kernel)
    if change is not STRIDES["one column expanded"]:
        asserts.strides_do_not_matter(call, [a, b], change)
    z = change(x())
    torch.testing.assert_close(call(z, b), call(z.contiguous(), b))
    torch.autograd.grad(call(z.requires_grad_(), b), z)
    torch.testing.assert_close(cka_matrix([z]), cka_matrix([z.contiguous()]))
    k = gram(z.detach())
    torch.testing.assert_close(hsic(k.T, k), hsic(k, k))


def test_an_expanded_gram_matrix():
    ones = torch.ones(1, 1).expand(8, 8)
    assert hsic(ones, gram(x())).item() == pytest.approx(0, abs=1e-6)


def test_rank_deficient():
    z = x(20, 2) @ torch.randn(2, 9)
    assert cka(z, z[:, :4]).isfinite()
    assert cka(z, torch.cat([z, z], 1)).item() == pytest.approx(1, abs=1e-6)
    assert cka(z[:, :1] @ torch.ones(1, 5), z[:, :1], debiased=True).item() == pytest.approx(1)


@every_kernel
@pytest.mark.parametrize("debiased", [False, True])
def test_inputs_are_left_as_they_are(debiased, kernel):
    k, l = gram(x()), gram(y())

    def all_three(a, b, k, l):
        cka_matrix([a, b], debiased=debiased)
        hsic(k, l, unbiased=debiased)
        cka(a, b, kernel=lambda z: k if z.shape[1] == 3 else l)
        return cka(a, b, kernel=kernel, debiased=debiased)

    a = x().requires_grad_()
    asserts.leaves_alone(all_three, [a, y(), k, l])
    assert a.is_leaf
    assert a.grad.shape == a.shape


HSIC = {
    "not square": (lambda k: k[:, :5], r".*n n.*float32 \(8, 5\)"),
    "different sizes": (lambda k: k[:5, :5], r".*n n.*float32 \(5, 5\)"),
    "not symmetric": (lambda k: k.triu(), "expected a symmetric matrix"),
}
SMALL = {
    "one row": (lambda k: k[:1, :1], "HSIC needs at least 2 rows"),
    "no rows": (lambda k: k[:0, :0], "HSIC needs at least 2 rows"),
}


@pytest.mark.parametrize("name", ["k", "l"])
@inputs.hostile(inputs.WRONG_TYPE, inputs.NOT_FINITE, inputs.WRONG_DIMENSIONS, ROWS, HSIC)
def test_hsic_refuses(change, message, name):
    asserts.refuses(hsic, {"k": gram(x()), "l": gram(y())}, name, change, message)


@inputs.hostile(SMALL)
def test_hsic_refuses_few_rows(change, message):
    asserts.refuses(lambda k: hsic(k, k), {"k": gram(x())}, "k", change, message)


def test_unbiased_hsic_of_three():
    with pytest.raises(ValueError, match=r"k: unbiased HSIC needs at least 4 rows"):
        hsic(gram(x(3)), gram(y(3)), unbiased=True)


def test_a_gram_matrix_is_symmetric_to_rounding():
    k = gram(x(200, 50) + 3)
    k[0, 1] += 1e-5
    assert hsic(k, k).isfinite()


MAPS = {
    "no layer": (([],), "xs: expected at least one layer"),
    "no second layer": (([x()], []), "ys: expected at least one layer"),
    "one layer of other n": (([x(), x(7)],), r"xs\[1\]: expected 8 .*got float32 \(7, 3\)"),
    "second list of other n": (([x()], [y(7)]), r"(?s)ys.*8.*7|xs.*8.*ys.*7"),
    "NaN": (([x(), with_entry(y(), NAN, 3)],), r"xs\[1\]: .*NaN in row 3"),
    "no columns": (([x(), x(d=0)],), r"xs\[1\]: .*\(8, 0\)"),
    "three rows": (([x(3)],), r"xs\[0\]: debiased CKA needs at least 4 rows"),
    "a column without its dimension": (([x(), x()[:, 0]],), r"xs\[1\]: .*\(8,\)"),
}


@pytest.mark.parametrize(("layers", "message"), MAPS.values(), ids=MAPS.keys())
def test_a_map_refuses(layers, message):
    for _ in range(5):  # whatever the type check happens to look at
        with pytest.raises(ValueError, match=message):
            cka_matrix(*layers)


def test_few_examples_of_many_features_have_a_debiased_norm():
    """Four centred examples leave two dimensions to U-centring, so its norm is often small."""
    draws = torch.randn(3000, 4, 300, generator=torch.Generator().manual_seed(0))
    assert all(cka(z, draws[0], debiased=True).abs() <= 1 + 1e-5 for z in draws)
