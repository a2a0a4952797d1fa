"""Alignment of clips and snippets by dynamic time warping, with and without drops.

One dynamic programme does all three: :func:`dtw` (Sakoe and Chiba 1978), :func:`one_to_many_dtw`
and :func:`drop_dtw` (Dvornik et al. 2021). Elements of either sequence may be dropped at a cost;
those that are kept are aligned by a warping path, a run of pairs (snippet i, clip j) in which each
step goes on by one in one sequence or in both. The alignment minimises the sum of the costs of all
pairs and all drops. A band keeps the path near the diagonal, and with open ends the snippets may be
a part of the clips. :mod:`modalign.models.soft_warping` has the sum that can be differentiated.

Four tables hold the least cost of aligning the first i snippets with the first j clips, one for
each state of the end of the path:

- ``PAIR``: the last step paired i and j;
- ``SNIPPET``: snippet i may go on to later clips, those after its last pair being dropped;
- ``CLIP``: clip j may go on to later snippets, those after its last pair being dropped;
- ``NONE``: snippet i and clip j are both dropped.

Cells with one i + j depend on earlier ones alone, and are filled at once, for all of a batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalign._checks import checked, describe, require_finite

PAIR, SNIPPET, CLIP, NONE = range(4)
# (state before, state after, step in snippets, step in clips)
_NEXT_PAIR = [(state, PAIR, 1, 1) for state in (PAIR, SNIPPET, CLIP, NONE)]
_SAME_SNIPPET = [(state, PAIR, 0, 1) for state in (PAIR, SNIPPET)]
_SAME_CLIP = [(state, PAIR, 1, 0) for state in (PAIR, CLIP)]
_DROPS = [
    *((state, SNIPPET, 0, 1) for state in (PAIR, SNIPPET)),
    *((state, CLIP, 1, 0) for state in (PAIR, CLIP)),
    *((state, NONE, 1, 0) for state in (SNIPPET, NONE)),
    *((state, NONE, 0, 1) for state in (CLIP, NONE)),
]


class Warping(NamedTuple):
    """Alignments of a batch.

    Attributes:
        assignment: (..., clips), the snippet of each clip, -1 for a dropped one and for padding.
            A clip that is paired with several snippets has the one of least cost, the first of
            equals.
        cost: (...), the sum over pairs and drops.
    """

    assignment: Int[Tensor, "... c"]
    cost: Float[Tensor, "..."]


@checked
def dtw(
    cost: Float[Tensor, "*b c s"],
    *,
    band: int | None = None,
    open_begin: bool = False,
    open_end: bool = False,
    clips: Int[Tensor, "*b"] | None = None,
    snippets: Int[Tensor, "*b"] | None = None,
) -> Warping:
    """Dynamic time warping: all is matched, clips to several snippets too.

    For the time and memory it takes see :func:`drop_dtw`.

    Args:
        cost: of pairing a clip (row) with a snippet (column); a batch, or one.
        band: how far from the diagonal a pair may be (Sakoe and Chiba 1978): of n snippets and m
            clips, snippet i and clip j are paired if j - i is from min(0, m - n) - band to
            max(0, m - n) + band. So a band of 0 holds a path for any two lengths. By default all
            pairs may be.
        open_begin: leave clips before the first snippet unmatched, at no cost.
        open_end: leave clips after the last snippet unmatched, at no cost. With both the snippets
            are found within the clips (subsequence DTW); of equal ends the first is taken.
        clips: how many of the rows are clips, if the batch is padded.
        snippets: how many of the columns are snippets.

    Raises:
        ValueError: as :func:`drop_dtw`.

    >>> cost = torch.tensor([[0.0, 5.0], [1.0, 5.0], [5.0, 0.0]])
    >>> dtw(cost)
    Warping(assignment=tensor([0, 0, 1]), cost=tensor(1.))
    >>> dtw(torch.tensor([[9.0, 0.0], [9.0, 9.0]]), band=0)
    Warping(assignment=tensor([0, 1]), cost=tensor(18.))
    >>> among = torch.cat([torch.full((1, 2), 9.0), cost, torch.full((1, 2), 9.0)])
    >>> dtw(among, open_begin=True, open_end=True)
    Warping(assignment=tensor([-1, -1,  0,  1, -1]), cost=tensor(1.))
    """
    return _warp(
        cost,
        torch.inf,
        torch.inf,
        clips,
        snippets,
        many_to_many=True,
        band=band,
        open_begin=open_begin,
        open_end=open_end,
    )


@checked
def one_to_many_dtw(
    cost: Float[Tensor, "*b c s"],
    *,
    clip_drop: float | Float[Tensor, "*b c"] = torch.inf,
    band: int | None = None,
    clips: Int[Tensor, "*b"] | None = None,
    snippets: Int[Tensor, "*b"] | None = None,
) -> Warping:
    """Each snippet has one clip or more, and a clip one snippet, or none at ``clip_drop``.

    For the time and memory it takes and for the other arguments see :func:`drop_dtw` and, for
    ``band``, :func:`dtw`.

    Raises:
        ValueError: as :func:`drop_dtw`, and if there are more snippets than clips.

    >>> cost = torch.tensor([[0.0, 5.0], [3.0, 5.0], [5.0, 0.0]])
    >>> one_to_many_dtw(cost, clip_drop=2.0)
    Warping(assignment=tensor([ 0, -1,  1]), cost=tensor(2.))
    """
    return _warp(cost, clip_drop, torch.inf, clips, snippets, many_to_many=False, band=band)


@checked
def drop_dtw(
    cost: Float[Tensor, "*b c s"],
    *,
    clip_drop: float | Float[Tensor, "*b c"],
    snippet_drop: float | Float[Tensor, "*b s"],
    many_to_many: bool = False,
    band: int | None = None,
    clips: Int[Tensor, "*b"] | None = None,
    snippets: Int[Tensor, "*b"] | None = None,
) -> Warping:
    """Drop-DTW: clips and snippets may be dropped (Dvornik et al. 2021, section 3).

    The paper takes a percentile of the costs for the price of a drop: ``cost.quantile(0.3)``.

    O(b c s) time in c + s vectorised steps, and O(b (c + s) s) memory.

    Args:
        cost: of pairing a clip (row) with a snippet (column); a batch, or one. Costs may be
            negative.
        clip_drop: the cost of a clip without snippet; infinity forbids it.
        snippet_drop: the cost of a snippet without clip; infinity forbids it.
        many_to_many: let a clip be paired with several snippets, as in the paper; by default it
            has one at most, as the truth has.
        band: how far from the diagonal a pair may be, see :func:`dtw`.
        clips: how many of the rows are clips, if the batch is padded.
        snippets: how many of the columns are snippets.

    Raises:
        ValueError: for costs that are not finite, a NaN or minus infinity for a drop, empty
            sequences, lengths beyond the matrix, a band below 0, if no alignment has a finite
            cost, and if the sum is more than the dtype of the costs holds.

    >>> cost = torch.tensor([[0.0, 5.0, 5.0], [4.0, 5.0, 4.0], [5.0, 6.0, 0.0]])
    >>> drop_dtw(cost, clip_drop=2.0, snippet_drop=1.0)
    Warping(assignment=tensor([ 0, -1,  2]), cost=tensor(3.))
    """
    return _warp(
        cost, clip_drop, snippet_drop, clips, snippets, many_to_many=many_to_many, band=band
    )


def _warp(
    cost: Tensor,
    clip_drop: float | Tensor,
    snippet_drop: float | Tensor,
    clips: Tensor | None,
    snippets: Tensor | None,
    *,
    many_to_many: bool,
    band: int | None,
    open_begin: bool = False,
    open_end: bool = False,
) -> Warping:
    price, n, m = priced(cost.detach(), clips, snippets, band)
    batch, (b, s, c) = cost.shape[:-2], price.shape
    steps = _NEXT_PAIR + _SAME_SNIPPET + (_SAME_CLIP if many_to_many else []) + _DROPS
    tables, origins = _fill(
        price,
        _drop(snippet_drop, "snippet_drop", price, batch, s),
        _drop(clip_drop, "clip_drop", price, batch, c),
        steps,
        open_begin=open_begin,
    )
    rows = torch.arange(b, device=price.device)
    end = _open_end(tables, n, m) if open_end else m
    total, state = tables[n + end, :, rows, n].min(1)
    if torch.isinf(total).any():
        place = int(torch.isinf(total).nonzero()[0])
        raise ValueError(
            f"cost: no alignment of the {int(m[place])} clips and {int(n[place])} snippets of "
            f"example {place} is allowed; let drops cost less than infinity, or widen the band"
        )
    given = total.to(cost.dtype)
    if torch.isinf(given).any():
        raise ValueError(
            f"cost: the sum of an alignment, {float(total.abs().max()):.3g}, is more than "
            f"{describe(cost)} holds; pass float64 or rescale"
        )
    assignment = _trace(price, origins, steps, state, n, end)
    return Warping(assignment.reshape(*batch, c), given.reshape(batch))


def priced(
    cost: Float[Tensor, "*b c s"],
    clips: Int[Tensor, "*b"] | None,
    snippets: Int[Tensor, "*b"] | None,
    band: int | None,
) -> tuple[Float[Tensor, "b s c"], Int[Tensor, "b"], Int[Tensor, "b"]]:
    """Costs by snippet and clip in float64, infinite outside the band, and both lengths.

    >>> priced(torch.zeros(2, 3), None, None, 0)[0]
    tensor([[[0., inf],
             [0., 0.],
             [inf, 0.]]], dtype=torch.float64)
    """
    if cost.dim() < 2 or not cost.numel():
        raise ValueError(f"cost: expected clips and snippets, got shape {tuple(cost.shape)}")
    if band is not None and band < 0:
        raise ValueError(f"band: expected a number of places from 0, or None, got {band}")
    c, s = cost.shape[-2:]
    price = cost.double().reshape(-1, c, s).transpose(1, 2)
    b = len(price)
    n, m = _lengths(snippets, b, s, "snippets", price), _lengths(clips, b, c, "clips", price)
    _require_finite_costs(price.detach(), n, m)
    if band is not None:
        i, j = (torch.arange(size, device=price.device) for size in (s, c))
        ahead, more = j - i[:, None], (m - n)[:, None, None]
        outside = (ahead < more.clamp(max=0) - band) | (ahead > more.clamp(min=0) + band)
        price = price.masked_fill(outside, torch.inf)
    return price, n, m


def _open_end(
    tables: Float[Tensor, "k 4 b i"], n: Int[Tensor, "b"], m: Int[Tensor, "b"]
) -> Int[Tensor, "b"]:
    """How many clips there are up to the last that is paired, where it costs least to stop."""
    b = tables.shape[2]
    ends = torch.arange(1, int(m.max()) + 1, device=n.device)
    rows = torch.arange(b, device=n.device)[:, None]
    totals = tables[n[:, None] + ends, PAIR, rows, n[:, None]]
    return totals.masked_fill(ends > m[:, None], torch.inf).argmin(1) + 1


def _fill(
    price: Float[Tensor, "b s c"],
    snippet_drop: Float[Tensor, "b s"],
    clip_drop: Float[Tensor, "b c"],
    steps: list[tuple[int, int, int, int]],
    *,
    open_begin: bool,
) -> tuple[Float[Tensor, "k 4 b i"], Int[Tensor, "k 4 b i"]]:
    """Least costs by diagonal k = i + j, state, example and i, and the step that led there."""
    b, s, c = price.shape
    i = torch.arange(s + 1, device=price.device)
    by_state = {
        after: [k for k, step in enumerate(steps) if step[1] == after]
        for after in (PAIR, SNIPPET, CLIP, NONE)
    }
    numbered = {
        after: torch.tensor(numbers, dtype=torch.uint8, device=price.device)
        for after, numbers in by_state.items()
    }
    # two diagonals and one column of infinity before the first, so that no step leaves the table
    tables = price.new_full((s + c + 3, 4, b, s + 2), torch.inf)
    tables[2, NONE, :, 1] = 0
    origins = torch.zeros((s + c + 1, 4, b, s + 1), dtype=torch.uint8, device=price.device)
    for k in range(1, s + c + 1):
        j = k - i
        outside = (j < 0) | (j > c)
        row, column = (i - 1).clamp(min=0), (j - 1).clamp(0, c - 1)
        # the cost of reaching (i, j): by a pair, a dropped snippet, a dropped clip
        pair = price[:, row, column].masked_fill(outside | (i < 1) | (j < 1), torch.inf)
        drops = {
            (1, 0): snippet_drop[:, row].masked_fill(outside | (i < 1), torch.inf),
            (0, 1): clip_drop[:, column].masked_fill(outside | (j < 1), torch.inf),
        }
        if open_begin and k <= c:
            drops[0, 1][:, 0] = 0
        for after, numbers in by_state.items():
            found = [
                tables[k + 2 - di - dj, before, :, 1 - di : s + 2 - di]
                + (pair if after == PAIR else drops[di, dj])
                for before, _, di, dj in (steps[number] for number in numbers)
            ]
            tables[k + 2, after, :, 1:], best = torch.stack(found).min(0)
            origins[k, after] = numbered[after][best]
    return tables[2:, :, :, 1:], origins


def _trace(
    price: Float[Tensor, "b s c"],
    origins: Int[Tensor, "k 4 b i"],
    steps: list[tuple[int, int, int, int]],
    state: Int[Tensor, "b"],
    i: Int[Tensor, "b"],
    j: Int[Tensor, "b"],
) -> Int[Tensor, "b c"]:
    """Walk back from the ends, all examples at once, and note the pairs."""
    b, _, c = price.shape
    table = torch.tensor(steps, device=price.device)
    example = torch.arange(b, device=price.device)
    assignment = torch.full((b, c), -1, device=price.device)
    lowest = price.new_full((b, c), torch.inf)
    for _ in range(int((i + j).max())):
        paired = (state == PAIR) & (i + j > 0)
        here, row, column = example[paired], i[paired] - 1, j[paired] - 1
        toll = price[here, row, column]
        # going back, an earlier snippet comes later: <= keeps the first of equals
        better = toll <= lowest[here, column]
        lowest[here[better], column[better]] = toll[better]
        assignment[here[better], column[better]] = row[better]
        before, _, di, dj = table[origins[i + j, state, example, i].long()].unbind(1)
        walking = i + j > 0
        state = torch.where(walking, before, state)
        i, j = i - di * walking, j - dj * walking
    return assignment


def _lengths(given: Tensor | None, b: int, most: int, name: str, like: Tensor) -> Tensor:
    if given is None:
        return torch.full((b,), most, device=like.device)
    lengths = given.reshape(-1).to(like.device, torch.int64)
    if lengths.min() < 1 or lengths.max() > most:
        wrong = lengths.min() if lengths.min() < 1 else lengths.max()
        raise ValueError(f"{name}: expected lengths from 1 to {most}, got {int(wrong)}")
    return lengths


def _require_finite_costs(price: Tensor, n: Tensor, m: Tensor) -> None:
    """Refuse NaN and infinity among the costs, whatever the padding holds."""
    i, j = (torch.arange(size, device=price.device) for size in price.shape[1:])
    padding = (i[:, None] >= n[:, None, None]) | (j >= m[:, None, None])
    real = price.masked_fill(padding, 0)
    require_finite(real, "cost")
    if not torch.isfinite(real.abs().amax() * sum(price.shape[1:])):
        raise ValueError(
            f"cost: expected sums that float64 holds, got costs up to {float(real.abs().max()):.3g}"
        )


def _drop(
    drop: float | Tensor, name: str, like: Tensor, batch: torch.Size, size: int
) -> Float[Tensor, "b n"]:
    given = torch.as_tensor(drop, dtype=like.dtype, device=like.device).detach()
    if torch.isnan(given).any() or (given == -torch.inf).any():
        raise ValueError(f"{name}: expected costs of a drop, got {float(given.min())}")
    return given.expand(*batch, size).reshape(-1, size)
