import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from modalign.metrics import cca


def random(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_cca_is_scikit_learns():
    x, y = random(60, 4, 0), random(60, 3, 1)
    y = y + x[:, :3]
    model = CCA(3, scale=False, max_iter=5000, tol=1e-12).fit(x.numpy(), y.numpy())
    left, right = model.transform(x.numpy(), y.numpy())
    known = [np.corrcoef(left[:, i], right[:, i])[0, 1] ** 2 for i in range(3)]
    assert cca(x, y).item() == pytest.approx(np.mean(known), abs=1e-6)


def test_cca_ignores_invertible_maps_and_rank():
    x, y, mix = random(60, 4, 0), random(60, 3, 1), random(4, 4, 2)
    assert cca(x @ mix + 5, y).item() == pytest.approx(cca(x, y).item(), abs=1e-10)
    assert cca(torch.cat([x, x], 1), y).item() == pytest.approx(cca(x, y).item(), abs=1e-10)


def test_svcca_keeps_the_directions_of_most_variance():
    x, y = random(60, 2, 0), random(60, 3, 1)
    noisy = torch.cat([10 * x, 1e-3 * random(60, 5, 2)], 1)
    assert cca(noisy, y, variance=0.99).item() == pytest.approx(cca(x, y).item(), abs=1e-3)


def test_cca_is_at_its_ceiling_with_more_features_than_examples():
    assert cca(random(20, 40, 0), random(20, 40, 1)).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(5, 2), "x: expected features that vary"),
        (torch.full((5, 2), torch.nan), "x: expected finite"),
        (torch.ones(1, 2), "x: canonical correlation needs at least 2 rows"),
        (torch.ones(4, 2), "expected Float"),
    ],
)
def test_cca_refuses(x, message):
    with pytest.raises(ValueError, match=message):
        cca(x, torch.randn(len(x) if "Float" not in message else 5, 3))


def test_cca_refuses_a_share():
    with pytest.raises(ValueError, match="variance: expected a share"):
        cca(random(5, 2, 0), random(5, 2, 1), variance=99)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e37])
@pytest.mark.parametrize("variance", [1.0, 0.9])
def test_the_scale_does_not_matter_even_where_squares_overflow(scale, variance):
    x, y = torch.randn(20, 3), torch.randn(20, 4)
    known = cca(x, y, variance=variance)
    assert cca(scale * x, y, variance=variance).item() == pytest.approx(known.item(), rel=1e-4)


def test_rounding_of_a_constant_feature_is_no_direction():
    x = torch.cat([torch.full((20, 1), 1 / 3), 1e-9 * torch.randn(20, 1)], 1)
    y = torch.randn(20, 2)
    assert cca(x, y).item() == pytest.approx(cca(x[:, 1:], y).item(), rel=1e-3)


def test_features_of_no_column_are_refused():
    with pytest.raises(ValueError, match="x: expected at least one feature"):
        cca(torch.empty(5, 0), torch.randn(5, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_two_dtypes_meet_in_the_wider_one(dtype):
    x, y = torch.randn(20, 3), torch.randn(20, 4)
    found = cca(x.to(dtype), y)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.item() == pytest.approx(cca(x, y).item(), abs=0.01)
