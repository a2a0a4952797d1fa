"""Random projection against recorded matrices, scikit-learn's, and what Achlioptas proves of it."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim

from modalign.projection import RandomProjection
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import INF, NAN, draw


def signs(projection):
    return projection.matrix.sign().to(torch.int8)


def literal(x):
    """eq-pace-project, number by number, for the matrix of seed 3."""
    r = signs(RandomProjection(7, 5, seed=3)) * 3**0.5
    rows = [[sum(r[i, j] * row[j] for j in range(7)) / 5**0.5 for i in range(5)] for row in x]
    return torch.stack([torch.stack(row) for row in rows])


def test_literal_equations():
    asserts.equals_literal(RandomProjection(7, 5, seed=3), literal, [draw(4, 7).requires_grad_()])


def test_gradcheck():
    asserts.gradients_are_right(RandomProjection(5, 4, seed=1).double(), [draw(3, 5)])


def test_input_is_left_alone():
    asserts.leaves_alone(RandomProjection(7, 5), [draw(4, 7).requires_grad_()])


@inputs.each("change", inputs.STRIDES)
def test_strides(change):
    asserts.strides_do_not_matter(RandomProjection(7, 5), [draw(4, 7).requires_grad_()], change)


@pytest.mark.usefixtures("compiler")
def test_compiled():
    asserts.same_compiled(RandomProjection(7, 5), [draw(4, 7)])


def test_state_comes_back():
    asserts.comes_back(RandomProjection(7, 5), RandomProjection(7, 5, seed=1), draw(4, 7))


OTHERS = {
    "other features": (lambda x: x[:, 1:], r"expected 7 features, got float32 \(4, 6\)"),
    "a number": (lambda x: x[0, 0], r"got float32 \(\)"),
    "double": (lambda x: x.double(), r"expected float32, .*got float64 \(4, 7\)"),
}


@inputs.hostile(inputs.WRONG_TYPE, OTHERS)
def test_refused(change, message):
    asserts.refuses(RandomProjection(7, 5), {"x": draw(4, 7)}, "x", change, message)


def test_golden():
    """Pinned: a seed means this matrix on every machine and for every version."""
    expected = [
        [0, -1, 0, 0, 0, 0, 0, -1],
        [0, -1, 0, 0, 0, -1, 0, 0],
        [1, 1, 1, -1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
    ]
    projection = RandomProjection(8, 4)
    assert signs(projection).tolist() == expected
    torch.testing.assert_close(projection.matrix, torch.tensor(expected) * (3 / 4) ** 0.5)


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (0, "8dd03c59685b87ebbe164ca63047a4c20fb001b93bf6b2a7b89b29d68b94d811"),
        (7, "029e6aac57a3f3c13b3d058be48e8e7aa2e0fa12008612c96a86b5afba16732e"),
    ],
)
def test_golden_at_the_size_of_the_paper(seed, digest):
    matrix = signs(RandomProjection(2048, 300, seed=seed))
    assert hashlib.sha256(matrix.numpy().tobytes()).hexdigest() == digest


def test_entries_and_scale_are_those_of_scikit_learn():
    ours = RandomProjection(2048, 300).double().matrix
    reference = SparseRandomProjection(300, density=1 / 3, random_state=0).fit(np.zeros((2, 2048)))
    theirs = torch.from_numpy(reference.components_.toarray())
    torch.testing.assert_close(ours.unique(), theirs.unique(), rtol=0, atol=1e-7)
    for value in ours.unique():
        shares = [
            (matrix - value).abs().lt(1e-6).double().mean().item() for matrix in (ours, theirs)
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.003)


def test_entries_have_the_probabilities_of_the_paper():
    counts = signs(RandomProjection(2048, 300)).long().add(1).flatten().bincount().numpy()
    found = stats.chisquare(counts, counts.sum() * np.array([1 / 6, 2 / 3, 1 / 6]))
    assert found.pvalue > 0.001


def test_rows_and_columns_are_uncorrelated():
    matrix = RandomProjection(2048, 300).matrix
    rows = matrix @ matrix.T * 300 / 2048
    off = rows - torch.eye(300)
    assert off.abs().max() < 6 / 2048**0.5
    assert off.mean().abs() < 1e-3


@pytest.mark.parametrize("x", [draw(1, 100), torch.eye(100)[:1], torch.ones(1, 100)])
def test_squared_norms_are_right_on_average_and_spread_as_the_theory_says(x):
    """Mean 1 and deviation sqrt(2 / P), one-hot or dense (eq-pace-spread)."""
    ratios = torch.stack(
        [
            RandomProjection(100, 300, seed=s)(x).square().sum() / x.square().sum()
            for s in range(400)
        ]
    )
    spread = (2 / 300) ** 0.5
    assert ratios.mean() == pytest.approx(1, abs=4 * spread / 400**0.5)
    assert ratios.std() == pytest.approx(spread, rel=0.15)


def test_distances_are_preserved():
    x = draw(300, 2048)
    ratios = torch.pdist(RandomProjection(2048, 300)(x)) / torch.pdist(x)
    assert ratios.mean() == pytest.approx(1, abs=0.01)
    assert ratios.std() == pytest.approx((2 / 300) ** 0.5 / 2, rel=0.1)
    assert ratios.square().std() == pytest.approx((2 / 300) ** 0.5, rel=0.1)


def test_no_guarantee_for_the_clips_of_the_paper_below_a_half():
    assert johnson_lindenstrauss_min_dim(17_000, eps=0.5) > 300


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**40), st.integers(0, 999))
def test_linear_and_the_same_for_any_leading_dimensions(d, p, seed, data):
    projection, x = RandomProjection(d, p, seed=seed).double(), draw(2, 3, d, seed=data).double()
    found = projection(x)
    assert found.shape == (2, 3, p)
    torch.testing.assert_close(projection(x[1, 2]), found[1, 2])
    torch.testing.assert_close(projection(3 * x[0] - x[1]), 3 * found[0] - found[1])
    assert projection(x[:0]).shape == (0, 3, p)


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**40))
def test_the_same_seed_gives_the_same_matrix(d, p, seed):
    one, other = (RandomProjection(d, p, seed=seed) for _ in range(2))
    assert torch.equal(one.matrix, other.matrix)
    larger = RandomProjection(d, p + 3, seed=seed)
    assert torch.equal(signs(larger)[:p], signs(one))


def test_other_seeds_give_other_matrices_and_no_global_state_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert not torch.equal(RandomProjection(50, 20).matrix, RandomProjection(50, 20, seed=1).matrix)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_matrix_is_a_buffer_that_is_never_trained():
    projection, x = RandomProjection(7, 5), draw(4, 7).requires_grad_()
    assert not list(projection.parameters())
    projection(x).sum().backward()
    torch.testing.assert_close(x.grad, projection.matrix.sum(0).expand(4, 7))
    assert projection.matrix.grad is None


def test_half_precision_and_autocast():
    projection, x = RandomProjection(7, 5), draw(7, 4)
    half = RandomProjection(7, 5).bfloat16()
    torch.testing.assert_close(half(x.T.bfloat16()).float(), projection(x.T), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert projection(x.T.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", inputs.HALF)
def test_half_precision_adds_up_in_float32(dtype):
    projection, x = RandomProjection(2048, 30), draw(4, 2048).abs() * 100
    found = RandomProjection(2048, 30).to(dtype)(x.to(dtype)).float()
    scale = projection(x).abs().max().item()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, projection(x), rtol=0, atol=2 * eps * scale)


def test_it_follows_the_default_device_and_can_be_made_there_first():
    projection, fresh = asserts.made_again_on_the_cpu(lambda: RandomProjection(7, 5, seed=3))
    assert torch.equal(projection.matrix, fresh.matrix)
    x = draw(4, 7)
    with torch.device("meta"):
        assert projection(x).device.type == "cpu"


@pytest.mark.parametrize(("of_matrix", "of_x"), [("double", "float"), ("float", "double")])
def test_autocast_does_not_cast_double(of_matrix, of_x):
    projection, x = getattr(RandomProjection(7, 5), of_matrix)(), getattr(draw(4, 7), of_x)()
    message = r"x: expected float\d\d, the matrix's dtype"
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=message):
        projection(x)


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_entry_that_is_not_finite_stays_in_its_row(value):
    x = draw(4, 7)
    x[2, 3] = value
    finite = RandomProjection(7, 5, seed=3)(x).isfinite().all(1)
    assert finite.tolist() == [True, True, False, True]


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e15, 1e30])
def test_scales(scale):
    projection, x = RandomProjection(7, 5), draw(4, 7)
    torch.testing.assert_close(projection(x * scale) / scale, projection(x))


@pytest.mark.parametrize(
    ("sizes", "seed", "error", "message"),
    [
        ((0, 5), 0, ValueError, "in_features: expected a number above 0, got 0"),
        ((7, -5), 0, ValueError, "out_features: expected a number above 0, got -5"),
        ((7, 5), -1, ValueError, "seed: expected a whole number, 0 or above, got -1"),
        ((7, 5), 1.5, TypeError, "seed: expected int, got float 1.5"),
        ((7, 5.0), 0, TypeError, "out_features: expected int, got float 5.0"),
    ],
)
def test_settings(sizes, seed, error, message):
    with pytest.raises(error, match=message):
        RandomProjection(*sizes, seed=seed)
