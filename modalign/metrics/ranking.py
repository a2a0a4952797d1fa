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
_AT_A_TIME = 2**24


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

    O(m^2) time; beside the matrix, a few tens of MiB of memory. Where the matrix is too large, see
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
    runs = _runs(own, owners, n)
    of_runs = torch.zeros(2, len(runs.row), dtype=torch.int64, device=own.device)
    of_columns = torch.zeros(2, len(own), dtype=torch.int64, device=own.device)
    for first, part in parts:
        of_columns += torch.stack([(part > own).sum(0), (part == own).sum(0)])
        begin, end = (int((runs.row < row).sum()) for row in (first, first + len(part)))
        for at in torch.arange(begin, end, device=own.device).split(len(part)):
            rows, score = part.index_select(0, runs.row[at] - first), runs.score[at, None]
            of_runs[:, at] = torch.stack([(rows > score).sum(1), (rows == score).sum(1)])
    if across_processes:
        summed(of_runs)
        summed(of_columns)
    one = torch.ones_like(owners)
    column = _Runs(torch.arange(len(own), device=own.device), own, one - 1, one)
    return Retrieval(_ranking(of_runs, runs, ks), _ranking(of_columns, column, ks))


class _Runs(NamedTuple):
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


def _runs(own: Float[Tensor, "m"], owners: Int[Tensor, "m"], n: int) -> _Runs:
    order = own.argsort(descending=True, stable=True)
    order = order[owners[order].argsort(stable=True)]
    row, score = owners[order], own[order]
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = (row[1:] != row[:-1]) | (score[1:] != score[:-1])
    start = begins.nonzero().flatten()
    size = start.diff(append=start.new_tensor([len(row)]))
    of_row = owners.bincount(minlength=n)
    before = start - (of_row.cumsum(0) - of_row)[row[start]]
    return _Runs(row[start], score[start], before, size)


def _ranking(counts: Int[Tensor, "2 r"], runs: _Runs, ks: tuple[int, ...]) -> Ranking:
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
