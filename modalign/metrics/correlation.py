"""Canonical correlation of two representations of the same examples."""

import torch
from jaxtyping import Float
from torch import Tensor

from modalign._checks import checked, require_features, require_finite, require_rows
from modalign._scale import rescaled


def _basis(x: Tensor, kept: float, name: str) -> Tensor:
    """Orthonormal basis of the centred columns' span, or of the directions of most variance."""
    require_rows(len(x), 2, name, "canonical correlation")
    require_finite(x, name)
    require_features(x, name)
    x = rescaled(x)
    # what is constant is exactly 0 after this, and leaves no rounding to take for a direction
    x = rescaled(x - x[0])
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    if s[0] == 0:
        raise ValueError(f"{name}: expected features that vary, got a constant representation")
    share = (s / s[0]).square()
    variance = share.cumsum(0) / share.sum()
    rank = int((s > s[0] * max(x.shape) * torch.finfo(x.dtype).eps).sum())
    return u[:, : min(rank, int((variance < kept).sum()) + 1)]


@checked
def cca(
    x: Float[Tensor, "n d1"], y: Float[Tensor, "n d2"], *, variance: float = 1.0
) -> Float[Tensor, ""]:
    """Mean squared canonical correlation; with ``variance`` below 1, SVCCA (Raghu et al. 2017).

    The mean is over the smaller of the two ranks, as Kornblith et al. (2019) take it. O(n d^2).

    Args:
        x: representation of n examples, one a row.
        y: another representation of the same examples.
        variance: share of each representation's variance whose directions are kept; SVCCA keeps
            0.99.

    Returns:
        A differentiable scalar, float32 at least.

    Raises:
        ValueError: for fewer than 2 examples, features that are not finite or all constant, or
            different numbers of examples.

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [4.0, 3.0], [3.0, 1.0]])
    >>> round(cca(x, x @ torch.tensor([[1.0, 9.0], [0.0, 1.0]])).item(), 4)
    1.0
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance: expected a share in (0, 1], got {variance}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    q, r = _basis(x.to(dtype), variance, "x"), _basis(y.to(dtype), variance, "y")
    return (q.T @ r).square().sum() / min(q.shape[1], r.shape[1])
