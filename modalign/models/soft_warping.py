"""Soft dynamic time warping, which a loss can be differentiated through (Cuturi and Blondel 2017).

The least sum over warping paths of :func:`modalign.models.time_warping.dtw` becomes a soft one over
all paths. R[i, j] is the soft least cost of aligning the first i snippets with the first j clips:

    R[i, j] = cost[i, j] - gamma log (e^(-R[i-1, j-1] / gamma) + e^(-R[i-1, j] / gamma)
                                      + e^(-R[i, j-1] / gamma))

Its derivative by the cost of a pair is the chance that a path goes through it, if a path has the
weight e^(-cost / gamma).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalign._checks import checked, describe, require_positive
from modalign.models.time_warping import priced


@checked
def soft_dtw(
    cost: Float[Tensor, "*b c s"],
    *,
    gamma: float = 1.0,
    band: int | None = None,
    clips: Int[Tensor, "*b"] | None = None,
    snippets: Int[Tensor, "*b"] | None = None,
) -> Float[Tensor, "*b"]:
    """Soft-DTW: a smooth least cost of aligning all clips with all snippets.

    It lies below the cost of :func:`modalign.models.time_warping.dtw`, by gamma times the logarithm
    of the number of paths at most. So it may be negative, and of a sequence with itself it is not
    0; the divergence ``soft_dtw(xy) - (soft_dtw(xx) + soft_dtw(yy)) / 2`` is. Its gradient by
    ``cost`` is the soft alignment, and can be differentiated again.

    O(b (c + s) s) time, in c + s vectorised steps, and memory, in float64.

    Args:
        cost: of pairing a clip (row) with a snippet (column); a batch, or one.
        gamma: how soft the minimum is, in the units of the cost. Near 0 it is that of ``dtw``.
        band: how far from the diagonal a pair may be, as in ``dtw``; by default anywhere.
        clips: how many of the rows are clips, if the batch is padded. Padding costs nothing, has
            the gradient 0, and may hold anything.
        snippets: how many of the columns are snippets.

    Raises:
        ValueError: for costs that are not finite or too large for float64 once divided by gamma, a
            gamma that is not above 0, empty sequences, lengths beyond the matrix, a band below 0,
            and if the sum is more than the dtype of the costs holds.

    >>> cost = torch.tensor([[0.0, 2.0], [1.0, 2.0], [2.0, 0.0]], requires_grad=True)
    >>> value = soft_dtw(cost)
    >>> round(value.item(), 3)  # 1 by the best path alone
    0.476
    >>> torch.autograd.grad(value, cost)[0].mul(100).round()
    tensor([[100.,   3.],
            [ 75.,  33.],
            [  8., 100.]])
    """
    require_positive(gamma=gamma)
    price, n, m = priced(cost, clips, snippets, band)
    i, j = (torch.arange(size, device=price.device) for size in price.shape[1:])
    padding = (i[:, None] >= n[:, None, None]) | (j >= m[:, None, None])
    price = price.masked_fill(padding, torch.inf)
    largest = price.detach().masked_fill(torch.isinf(price), 0).abs().max()
    if torch.isinf(largest * sum(price.shape[1:]) / gamma):
        raise ValueError(
            f"gamma: expected one by which the costs, up to {float(largest):.3g}, can be divided, "
            f"got {gamma}"
        )
    diagonals = _fill(price, gamma)
    value = diagonals[n + m, torch.arange(len(n), device=n.device), n].to(cost.dtype)
    if torch.isinf(value).any():
        raise ValueError(
            f"cost: the sum of an alignment is more than {describe(cost)} holds; pass float64 or "
            "rescale"
        )
    return value.reshape(cost.shape[:-2])


def _fill(price: Float[Tensor, "b s c"], gamma: float) -> Float[Tensor, "k b i"]:
    """R by diagonal i + j, example and i; cells of one diagonal depend on earlier ones alone."""
    b, s, c = price.shape
    i = torch.arange(s, device=price.device)
    edge = price.new_full((b, 1), torch.inf)  # no path comes from before the first snippet
    nowhere = price.new_full((b, s + 1), torch.inf)
    start = nowhere.clone()
    start[:, 0] = 0
    diagonals = [start, nowhere]
    for k in range(2, s + c + 1):
        j = k - 2 - i
        here = price[:, i, j.clamp(0, c - 1)].masked_fill((j < 0) | (j >= c), torch.inf)
        before = torch.stack([diagonals[-2][:, :-1], diagonals[-1][:, :-1], diagonals[-1][:, 1:]])
        on_path = torch.isfinite(here) & torch.isfinite(before).any(0)
        # where no path comes by, a softmax of infinities would have NaN for a derivative
        least = -gamma * torch.logsumexp(-before.masked_fill(~on_path, 0) / gamma, 0)
        found = torch.where(on_path, here.masked_fill(~on_path, 0) + least, torch.inf)
        diagonals.append(torch.cat([edge, found], 1))
    return torch.stack(diagonals)
