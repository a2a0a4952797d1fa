"""Retrieval both ways: recall at k, ranks and mean average precision, with ties told honestly."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalign._checks import checked
from modalign._distributed import summed

# entries of the matrix that are compared at a time
_AT_A_TIME = 2**22
# scores of a row from which on it costs less to sort the row than to compare it with each
_MANY = 16


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How queries of one modality rank the candidates of the other.

    Attributes:
        ks: the k of each recall.
        hits: (queries, ks), float64: 1 where a candidate of the query's own is among the first
            k, 0 where none is, and the chance of it where ties are cut. Their mean is recall at
            k; :func:`modalign.metrics.difference` of two systems' columns is a paired comparison.
        ranks: (queries,), float64, from 1: rank of the best candidate of the query's own, its
            mean under a random order of ties.
        average_precision: (queries,), float64: the mean over the query's own candidates of the
            share of own ones from the first place to theirs, its mean under a random order of
            ties.
    """

    ks: tuple[int, ...]
    hits: Float[Tensor, "q ks"]
    ranks: Float[Tensor, "q"]
    average_precision: Float[Tensor, "q"]

    @property
    def recall(self) -> dict[int, float]:
        """Recall at each k, from 0 to 1."""
        return dict(zip(self.ks, self.hits.mean(0).tolist(), strict=True))

    @property
    def median_rank(self) -> float:
        """The median over queries, between the middle two where their number is even."""
        return float(np.median(self.ranks.numpy()))

    @property
    def mean_rank(self) -> float:
        """The mean over queries, from 1."""
        return float(self.ranks.mean())

    @property
    def mean_average_precision(self) -> float:
        """mAP, the mean over queries, from 0 to 1."""
        return float(self.average_precision.mean())


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Both directions of a similarity matrix.

    Attributes:
        rows: the rows are queries and the columns candidates.
        columns: the columns are queries and the rows candidates.
    """

    rows: Ranking
    columns: Ranking

    def as_dict(self, rows: str = "image", columns: str = "text") -> dict[str, float]:
        """Every number under a name such as ``image_to_text_recall_at_1``."""
        numbers: dict[str, float] = {}
        for name, ranking in (
            (f"{rows}_to_{columns}", self.rows),
            (f"{columns}_to_{rows}", self.columns),
        ):
            recalls = {f"{name}_recall_at_{k}": value for k, value in ranking.recall.items()}
            numbers |= recalls | {
                f"{name}_median_rank": ranking.median_rank,
                f"{name}_mean_rank": ranking.mean_rank,
                f"{name}_map": ranking.mean_average_precision,
            }
        return numbers


@checked
def retrieval(
    similarity: Float[Tensor, "n m"],
    *,
    owners: Int[Tensor, "m"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Recall at k, ranks and average precision, rows to columns and columns to rows.

    Ties count as if they stood in random order, and what is reported is the mean over the
    orders, in closed form. With g candidates above a query's best own one, and t candidates
    level with it, r of them its own, the rank is g + (t + 1) / (r + 1) and the chance of a hit
    within k is 1 - C(t - r, k - g) / C(t, k - g). So a constant similarity scores as chance, and
    no order of the data scores better than another. Average precision is the mean over the
    orders too (McSherry and Najork 2008).

    Own candidates count whatever the sign of their similarity. torchmetrics 1.9 takes those at 0
    and below for no hits, so that its mAP of cosines is another number.

    O(n m) time where no row has more than 16 columns of its own, and O(n m log m) at most; beside
    the matrix, about 100 MiB of memory. Where the matrix is too large, see
    :func:`retrieval_of_embeddings`.

    Args:
        similarity: the larger the more alike; infinities are ordered as any number.
        owners: for each column (say, caption) the row (image) that it belongs to; each row has
            one column or more. By default column i belongs to row i.
        ks: of the recalls (1, 5 and 10 in the papers).

    Raises:
        ValueError: for NaN, an empty matrix, one that is not square where ``owners`` are not
            given, owners that are not rows or leave a row without column, or a k below 1.

    >>> similarity = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.3]])  # 2 images, 3 captions
    >>> found = retrieval(similarity, owners=torch.tensor([0, 0, 1]), ks=(1, 2))
    >>> found.rows.recall, found.columns.recall
    ({1: 0.75, 2: 1.0}, {1: 1.0, 2: 1.0})
    >>> found.columns.mean_rank, round(found.rows.mean_average_precision, 3)
    (1.0, 0.875)
    """
    n, m = similarity.shape
    _require_similarity(similarity)
    if owners is None and n != m:
        raise ValueError(
            f"owners: a matrix of {n} rows and {m} columns needs the row of each column"
        )
    owners = torch.arange(m) if owners is None else owners
    owners = owners.to(similarity.device, torch.int64)
    require_owners(owners, n)
    ks = require_ks(ks)

    own = similarity[owners, torch.arange(m, device=similarity.device)]
    portion = max(1, _AT_A_TIME // m)
    parts = zip(range(0, n, portion), similarity.split(portion), strict=True)
    return ranked(parts, own, owners, n, ks)


def ranked(
    parts: Iterable[tuple[int, Float[Tensor, "part m"]]],
    own: Float[Tensor, "m"],
    owners: Int[Tensor, "m"],
    n: int,
    ks: tuple[int, ...],
    *,
    across_processes: bool = False,
) -> Retrieval:
    """Both rankings from parts of the matrix, each with the number of its first row.

    Args:
        parts: some rows each, each row once, here or in another process.
        own: of each column, its similarity with the row that it belongs to.
        owners: these rows, from 0 to n - 1.
        n: how many rows there are.
        ks: of the recalls.
        across_processes: add up what the parts of all processes give.
    """
    runs = runs_of(own, owners, n)
    of_runs = torch.zeros(2, len(runs.row), dtype=torch.int64, device=own.device)
    of_columns = torch.zeros(2, len(own), dtype=torch.int64, device=own.device)
    for first, part in parts:
        of_columns += torch.stack([(part > own).sum(0), (part == own).sum(0)])
        row, place, levels, here = runs.levels(first, len(part))
        of_runs[:, here] = _above_and_level(part, levels)[:, row, place]
    if across_processes:
        summed(of_runs)
        summed(of_columns)
    one = torch.ones_like(owners)
    column = Runs(torch.arange(len(own), device=own.device), own, one - 1, one)
    return Retrieval(_ranking(of_runs, runs, ks), _ranking(of_columns, column, ks))


class Levels(NamedTuple):
    """The runs of some rows of the matrix, a row each, the best first.

    Attributes:
        row: of each run, from the first of these rows.
        place: of each run in its row.
        scores: of the runs by row and place, and minus infinity where a row has fewer.
        here: where they stand among all runs.
    """

    row: Int[Tensor, "r"]
    place: Int[Tensor, "r"]
    scores: Float[Tensor, "rows most"]
    here: slice


class Runs(NamedTuple):
    """Own candidates that are level in their query: by query, the best run first.

    Attributes:
        row: the query.
        score: of the run.
        before: how many own candidates are above it.
        size: how many it has.
    """

    row: Int[Tensor, "r"]
    score: Float[Tensor, "r"]
    before: Int[Tensor, "r"]
    size: Int[Tensor, "r"]

    def levels(self, first: int, rows: int) -> Levels:
        """The runs of some rows, side by side."""
        begin, end = torch.searchsorted(
            self.row, self.row.new_tensor([first, first + rows])
        ).tolist()
        here = slice(begin, end)
        row, score = self.row[here], self.score[here]
        place = torch.arange(end - begin, device=row.device) - torch.searchsorted(row, row)
        scores = score.new_full((rows, int(place.max()) + 1), -torch.inf)
        scores[row - first, place] = score
        return Levels(row - first, place, scores, here)


def _above_and_level(
    part: Float[Tensor, "rows m"], scores: Float[Tensor, "rows most"]
) -> Int[Tensor, "2 rows most"]:
    """How many entries of each row are above, and level with, each of its scores."""
    m, most = part.shape[1], scores.shape[1]
    if most <= _MANY:
        each = scores[:, :, None].unbind(1)
        found = [torch.stack([(part > one).sum(1), (part == one).sum(1)]) for one in each]
        return torch.stack(found, 2)
    ordered, scores = part.sort(1).values, scores.contiguous()
    below, not_above = (torch.searchsorted(ordered, scores, right=end) for end in (False, True))
    return torch.stack([m - not_above, not_above - below])


def runs_of(own: Float[Tensor, "m"], owners: Int[Tensor, "m"], n: int) -> Runs:
    """Each query's own candidates, best first, those that are level as one run."""
    order = own.argsort(descending=True, stable=True)
    order = order[owners[order].argsort(stable=True)]
    row, score = owners[order], own[order]
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = (row[1:] != row[:-1]) | (score[1:] != score[:-1])
    start = begins.nonzero().flatten()
    size = start.diff(append=start.new_tensor([len(row)]))
    of_row = owners.bincount(minlength=n)
    before = start - (of_row.cumsum(0) - of_row)[row[start]]
    return Runs(row[start], score[start], before, size)


def _ranking(counts: Int[Tensor, "2 r"], runs: Runs, ks: tuple[int, ...]) -> Ranking:
    """Ranking from how many candidates of its query are above and level with each run."""
    row, _, before, size = (each.cpu() for each in runs)
    above, tied = counts.cpu().double()
    best = before == 0
    first, level, own = above[best], tied[best], size[best].double()
    hits = torch.stack([_chance(k - first, level, own) for k in ks], 1)
    precision = _precision(above, tied, before.double(), size.double())
    total = torch.zeros(2, len(own), dtype=torch.float64)
    total.index_add_(1, row, torch.stack([precision, size.double()]))
    return Ranking(ks, hits, first + (level + 1) / (own + 1), total[0] / total[1])


def _precision(
    above: Float[Tensor, "r"],
    tied: Float[Tensor, "r"],
    before: Float[Tensor, "r"],
    own: Float[Tensor, "r"],
) -> Float[Tensor, "r"]:
    """Sum over a run of the precision at each place that one of its own candidates may take.

    At place above + j of those that are level there is an own one in own / tied of the orders, and
    then (own - 1) (j - 1) / (tied - 1) of the run are before it.
    """
    # sum over j of 1 / (above + j), and of (j - 1) / (above + j)
    inverse = torch.special.digamma(above + tied + 1) - torch.special.digamma(above + 1)
    inverse = torch.where(tied == 1, 1 / (above + 1), inverse)
    later = (tied - (above + 1) * inverse) / (tied - 1).clamp(min=1)
    return own / tied * ((before + 1) * inverse + (own - 1) * later)


def _chance(
    places: Float[Tensor, "q"], tied: Float[Tensor, "q"], own: Float[Tensor, "q"]
) -> Float[Tensor, "q"]:
    """Chance that one of ``own`` among ``tied`` comes first, in that many places."""
    others = tied - own
    places = places.clamp(min=0)
    open_ = places.minimum(others)  # where places > others, a hit is certain
    miss = _log_choose(others, open_) - _log_choose(tied, open_)
    return torch.where(places > others, 1.0, -torch.expm1(miss)).clamp(0, 1)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _require_similarity(similarity: Tensor) -> None:
    if not similarity.numel():
        raise ValueError(f"similarity: expected rows and columns, got {tuple(similarity.shape)}")
    if torch.isnan(similarity.amax()):
        row, column = torch.isnan(similarity).nonzero()[0].tolist()
        raise ValueError(f"similarity: expected no NaN, got one in row {row}, column {column}")


def require_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Refuse what are no places in a ranking."""
    if any(k < 1 for k in ks) or not len(ks):
        raise ValueError(f"ks: expected whole numbers from 1, got {tuple(ks)}")
    return tuple(ks)


def require_owners(owners: Tensor, n: int) -> None:
    """Refuse owners that are no rows, and a row that owns nothing."""
    low, high = int(owners.min()), int(owners.max())
    if low < 0 or high >= n:
        raise ValueError(f"owners: expected rows from 0 to {n - 1}, got {low if low < 0 else high}")
    count = owners.bincount(minlength=n)
    if (count == 0).any():
        row = int(count.argmin())
        raise ValueError(f"owners: expected a column for every row, got none for row {row}")
