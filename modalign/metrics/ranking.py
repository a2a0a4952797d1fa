"""Retrieval both ways: recall at k and the median rank, with ties told honestly."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalign._checks import checked

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
    """

    ks: tuple[int, ...]
    hits: Float[Tensor, "q ks"]
    ranks: Float[Tensor, "q"]

    @property
    def recall(self) -> dict[int, float]:
        """Recall at each k, from 0 to 1."""
        return dict(zip(self.ks, self.hits.mean(0).tolist(), strict=True))

    @property
    def median_rank(self) -> float:
        """The median over queries, between the middle two where their number is even."""
        return float(np.median(self.ranks.numpy()))


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
            numbers |= recalls | {f"{name}_median_rank": ranking.median_rank}
        return numbers


@checked
def retrieval(
    similarity: Float[Tensor, "n m"],
    *,
    owners: Int[Tensor, "m"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Recall at k and median rank, rows to columns and columns to rows.

    Ties count as if they stood in random order, and what is reported is the mean over the
    orders, in closed form. With g candidates above a query's best own one, and t candidates
    level with it, r of them its own, the rank is g + (t + 1) / (r + 1) and the chance of a hit
    within k is 1 - C(t - r, k - g) / C(t, k - g). So a constant similarity scores as chance, and
    no order of the data scores better than another.

    O(n m) time; beside the matrix, a few tens of MiB of memory.

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
    _require_owners(owners, n)
    bad = [k for k in ks if k < 1]
    if bad or not len(ks):
        raise ValueError(f"ks: expected whole numbers from 1, got {tuple(ks)}")

    own = similarity[owners, torch.arange(m, device=similarity.device)]
    best = own.new_full((n,), -torch.inf).scatter_reduce(0, owners, own, "amax")
    level = (own == best[owners]).long()
    relevant = owners.new_zeros(n).scatter_add(0, owners, level)
    of_rows, of_columns = _counts(similarity, best, own)
    return Retrieval(
        _ranking(of_rows, relevant, tuple(ks)),
        _ranking(of_columns, torch.ones_like(owners), tuple(ks)),
    )


def _counts(
    similarity: Float[Tensor, "n m"], best: Float[Tensor, "n"], own: Float[Tensor, "m"]
) -> tuple[Int[Tensor, "2 n"], Int[Tensor, "2 m"]]:
    """How many candidates are above and level with each row's best and each column's own."""
    portion = max(1, _AT_A_TIME // similarity.shape[1])
    rows, columns = [], torch.zeros(2, len(own), dtype=torch.int64, device=own.device)
    for part, score in zip(similarity.split(portion), best[:, None].split(portion), strict=True):
        rows.append(torch.stack([(part > score).sum(1), (part == score).sum(1)]))
        columns += torch.stack([(part > own).sum(0), (part == own).sum(0)])
    return torch.cat(rows, 1), columns


def _ranking(
    counts: Int[Tensor, "2 q"], relevant: Int[Tensor, "q"], ks: tuple[int, ...]
) -> Ranking:
    """Ranking by queries whose best own candidates, ``relevant`` of them, are level."""
    above, tied = counts.cpu().double()
    own = relevant.cpu().double()
    hits = torch.stack([_chance(k - above, tied, own) for k in ks], 1)
    return Ranking(ks, hits, above + (tied + 1) / (own + 1))


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


def _require_owners(owners: Tensor, n: int) -> None:
    low, high = int(owners.min()), int(owners.max())
    if low < 0 or high >= n:
        raise ValueError(f"owners: expected rows from 0 to {n - 1}, got {low if low < 0 else high}")
    count = owners.bincount(minlength=n)
    if (count == 0).any():
        row = int(count.argmin())
        raise ValueError(f"owners: expected a column for every row, got none for row {row}")
