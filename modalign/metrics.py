"""Measures that the chapters compare by, and the interval of a comparison."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from modalign._checks import checked, require_finite, require_rows

if TYPE_CHECKING:
    import pandas as pd


class Interval(NamedTuple):
    """A mean over seeds and its confidence interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def seed_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of one value a seed, with its Student t interval.

    For a comparison pass the differences of runs that share a seed, so that what the seed does to
    both sides cancels.

    Args:
        values: one a seed, 2 at least (5 for anything the book concludes from).
        confidence: of the interval.

    Raises:
        ValueError: for fewer than 2 values, one that is not finite, or a confidence outside
            (0, 1).

    >>> f"{seed_interval([0.1, 0.2, 0.3, 0.2, 0.2]):.2f}"
    '0.20 [0.11, 0.29]'
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(f"values: expected at least 2 numbers, one a seed, got {values!r:.60}")
    if not np.isfinite(sample).all():
        raise ValueError(f"values: expected finite numbers, got {values!r:.60}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    half = stats.sem(sample) * stats.t.ppf((1 + confidence) / 2, len(sample) - 1)
    return Interval(sample.mean(), sample.mean() - half, sample.mean() + half)


def interval_table(
    table: "pd.DataFrame", by: str | list[str], columns: list[str], *, digits: int = 3
) -> "pd.DataFrame":
    """Mean and 95% interval of each column, as text, a row for each group of ``by``.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"loss": ["a", "a", "b", "b"], "cka": [0.1, 0.3, 0.4, 0.4]})
    >>> interval_table(runs, "loss", ["cka"], digits=1)["cka"].to_list()
    ['0.2 [-1.1, 1.5]', '0.4 [0.4, 0.4]']
    """

    def text(values: "pd.Series") -> str:
        return f"{seed_interval(values.to_numpy()):.{digits}f}"

    return table.groupby(by, sort=False)[columns].agg(text)


def _basis(x: Tensor, kept: float, name: str) -> Tensor:
    """Orthonormal basis of the centred columns' span, or of the directions of most variance."""
    require_rows(len(x), 2, name, "canonical correlation")
    require_finite(x, name)
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    if s[0] == 0:
        raise ValueError(f"{name}: expected features that vary, got a constant representation")
    variance = s.square().cumsum(0) / s.square().sum()
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

    Raises:
        ValueError: for fewer than 2 examples, features that are not finite or all constant, or
            different numbers of examples.

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [4.0, 3.0], [3.0, 1.0]])
    >>> round(cca(x, x @ torch.tensor([[1.0, 9.0], [0.0, 1.0]])).item(), 4)
    1.0
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance: expected a share in (0, 1], got {variance}")
    q, r = _basis(x, variance, "x"), _basis(y, variance, "y")
    return (q.T @ r).square().sum() / min(q.shape[1], r.shape[1])
