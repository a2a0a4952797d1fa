"""The interval of a mean, of a difference and of any statistic of a set of examples."""

import bisect
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from tqdm import tqdm

from modalign._checks import require_choice
from modalign.metrics._paired import paired, require_once, require_same_keys, rows_of

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["t", "percentile", "bca"]
Values = ArrayLike | Mapping[Any, float]
Statistic = Callable[[Any], float]

# numbers that the bootstrap of a mean holds at a time: 32 MiB of indices, and as much of values
_AT_A_TIME = 2**22


Verdict = Literal["holds", "reversed", "absent", "undecided", "depends", "not testable here"]

SYMBOLS: dict[Verdict, str] = {
    "holds": "\N{HEAVY CHECK MARK}",
    "reversed": "\N{HEAVY BALLOT X}",
    "absent": "\N{WHITE CIRCLE}",
    "undecided": "?",
    "depends": "\N{CIRCLE WITH LEFT HALF BLACK}",
    "not testable here": "\N{EN DASH}",
}
"""The verdicts on a claim, and the sign of each."""


class Interval(NamedTuple):
    """An estimate, a mean unless said otherwise, and its confidence interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def verdict(self, *, paper: float, smallest: float | None = None) -> Verdict:
        """What an interval of paired differences says of a claim that they have a side.

        The rule of the book, over at least 5 seeds, with ``paper`` and ``smallest`` set before the
        runs: the claim *holds* where the interval lies on the paper's side of zero, is *reversed*
        where it lies on the other, *absent* where it holds zero and excludes the smallest effect
        of interest, and *undecided* where it holds both. An end belongs to the interval.

        Args:
            paper: the paper's effect. Its sign is the side: 1 or -1 will do where ``smallest`` is
                given and the paper prints no number.
            smallest: the smallest effect of interest, as a size; that of ``paper`` by default. 0
                where none was set before the runs: then nothing is absent.

        Raises:
            ValueError: for an interval that is not finite or ends before it starts, a ``paper``
                that has no side, or a ``smallest`` that is not finite or below 0.

        >>> [Interval(m, m - 1, m + 1).verdict(paper=4) for m in (2, -2, 0)]
        ['holds', 'reversed', 'absent']
        >>> Interval(0, -1, 1).verdict(paper=0.5)
        'undecided'
        """
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"interval: expected finite ends in order, got {self}")
        if not math.isfinite(paper) or paper == 0:
            raise ValueError(
                f"paper: expected an effect with a side, got {paper}; a claim that there is no "
                "effect is judged by the effect that it denies"
            )
        least = abs(paper) if smallest is None else smallest
        if not 0 <= least < math.inf:
            raise ValueError(f"smallest: expected the size of an effect, 0 or more, got {smallest}")
        low, high = (self.low, self.high) if paper > 0 else (-self.high, -self.low)
        if low > 0:
            return "holds"
        if high < 0:
            return "reversed"
        return "absent" if high < least else "undecided"

    def seeds_to_decide(self, seeds: int, *, smallest: float) -> int:
        """How many seeds would make an interval of as many so short that it cannot be undecided.

        For Student's 95% interval: the fewest at which it is shorter than ``smallest``, if the
        differences spread as they did. A guide for planning, since the spread is an estimate.

        Args:
            seeds: of this interval.
            smallest: the smallest effect of interest, as a size.

        Raises:
            ValueError: for fewer than 2 seeds, or a ``smallest`` that is not above 0.

        >>> Interval(0.1, -0.4, 0.6).seeds_to_decide(5, smallest=0.5)
        13
        """
        if seeds < 2 or not 0 < smallest < math.inf:
            raise ValueError(
                f"seeds, smallest: expected 2 seeds or more and an effect above 0, got {seeds} and "
                f"{smallest}"
            )
        spread = (self.high - self.low) / _width(seeds)
        if not math.isfinite(spread) or spread / smallest > 1e4:
            raise ValueError(f"interval: expected one near the smallest effect, got {self}")
        low, high = 2, 2
        while spread * _width(high) >= smallest:
            low, high = high, 2 * high
        between = range(low, high + 1)
        return between[bisect.bisect(between, False, key=lambda n: spread * _width(n) < smallest)]


def of_readings(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict over all readings that a paper leaves open: *depends* where they differ.

    Raises:
        ValueError: for no verdict, or one that is none.

    >>> of_readings(["holds", "holds"]), of_readings(["holds", "undecided"])
    ('holds', 'depends')
    """
    found = set(verdicts)
    if not found:
        raise ValueError("verdicts: expected one or more, got none")
    for each in found:
        require_choice(each, tuple(SYMBOLS), "verdicts")
    return found.pop() if len(found) == 1 else "depends"


def _width(seeds: int) -> float:
    """Length of Student's 95% interval of differences whose standard deviation is 1."""
    return float(2 * stats.t.ppf(0.975, seeds - 1) / math.sqrt(seeds))


def seed_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of one value a seed, with its Student t interval.

    For a comparison use :func:`difference`, which pairs the runs that share a seed, so that what
    the seed does to both sides cancels.

    Args:
        values: one a seed, 2 at least (5 for anything the book concludes from).
        confidence: of the interval.

    Raises:
        ValueError: for fewer than 2 values, one that is not finite, or a confidence outside
            (0, 1).

    >>> f"{seed_interval([0.1, 0.2, 0.3, 0.2, 0.2]):.2f}"
    '0.20 [0.11, 0.29]'
    """
    _require_confidence(confidence)
    return _student(_numbers(rows_of(values), "values"), confidence)


def difference(
    a: Values,
    b: Values | None = None,
    *,
    statistic: Statistic | None = None,
    method: Method = "t",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> Interval:
    """``a`` minus ``b`` with its confidence interval, pair by pair; ``a`` alone without ``b``.

    Values are paired by label where both sides have labels, the keys of a mapping
    (``{seed: value}``) or the index of a pandas Series or DataFrame, and by place where neither
    has. A difference of the size of float64's rounding is 0. The methods:

    - ``"t"``: Student's interval of the mean (paired) difference. For one value a seed.
    - ``"percentile"``: the paired bootstrap. Examples are drawn with replacement, the same ones
      for both sides, and the interval holds the middle of the resampled differences (Efron and
      Tibshirani 1993, chapter 13; Koehn 2004 for systems on one test set). For one score an
      example, and for a ``statistic``.
    - ``"bca"``: the same, corrected for bias and skewness (chapter 14); better for small samples
      of skewed scores. Costs one more evaluation an example.

    The bootstrap of n examples takes O(resamples n) time, and of a mean 64 MiB of memory at most
    (more only beyond 4 million examples).

    Args:
        a: one value a seed or example. With ``statistic``, anything that numpy indexes by
            example: rows of sufficient statistics, or ``np.arange(n)``.
        b: the other side, of the same seeds or examples.
        statistic: from the rows of the examples drawn to a number; the mean by default. What is
            reported is then ``statistic(a) - statistic(b)``, or ``statistic(a)``.
        method: ``"t"``, ``"percentile"`` or ``"bca"``.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: show a bar where a ``statistic`` takes more than two seconds.

    Raises:
        ValueError: where the two sides do not pair (labels of one side alone, and those that
            occur twice, are named), for fewer than 2 values, for values or statistics that are not
            finite or overflow, for a ``statistic`` with method ``"t"``, and where BCa is undefined
            because nothing varies.
        TypeError: where one side has labels and the other has not.

    >>> f"{difference({1: 0.3, 2: 0.5, 3: 0.7}, {3: 0.6, 2: 0.4, 1: 0.1}):.2f}"
    '0.13 [-0.01, 0.28]'
    >>> hits = np.array([1, 1, 0, 1, 0, 1, 1, 1])
    >>> f"{difference(hits, 1 - hits, method='percentile'):.2f}"
    '0.50 [-0.25, 1.00]'
    >>> lengths = np.array([[9, 10], [7, 12], [11, 11], [8, 10]])  # of captions and references
    >>> f"{difference(lengths, statistic=lambda r: np.divide(*r.sum(0)), method='bca'):.2f}"
    '0.81 [0.63, 0.95]'
    """
    require_choice(method, get_args(Method), "method")
    _require_confidence(confidence)
    for name, number, least in (("resamples", resamples, 1), ("seed", seed, 0)):
        if not isinstance(number, Integral) or number < least:
            raise ValueError(f"{name}: expected at least {least}, a whole number, got {number!r}")
    left, right = (rows_of(a), None) if b is None else paired(a, b, ("a", "b"))
    if right is not None and np.ndim(left) and np.ndim(right) and len(left) != len(right):
        sizes = f"{len(left)} and {len(right)}"
        raise ValueError(f"a, b: expected values of the same seeds or examples, got {sizes}")
    if statistic is None:
        values = _numbers(left, "a")
        if right is not None:
            other = _numbers(right, "b")
            with np.errstate(over="ignore"):  # answered by an error
                apart = values - other
                size = np.maximum(abs(values), abs(other))
            # 0.1 + 0.2 is not more than 0.3
            values = np.where(abs(apart) <= 4 * np.finfo(float).eps * size, 0, apart)
        if method == "t":
            return _student(values, confidence)
        return _bootstrap(
            lambda indices: values[indices].mean(-1),
            len(values),
            method,
            confidence,
            resamples,
            seed,
        )

    if method == "t":
        raise ValueError("method: a statistic is bootstrapped: pass 'percentile' or 'bca', got 't'")
    sides = [_rows(side, name) for side, name in ((left, "a"), (right, "b")) if side is not None]

    def value(indices: np.ndarray) -> float:
        found = [float(statistic(side[indices])) for side in sides]
        if not np.isfinite(found).all():
            raise ValueError(f"statistic: expected finite numbers, got {found}")
        return found[0] - sum(found[1:])

    with tqdm(desc="resamples", delay=2, disable=not progress) as bar:

        def each(indices: np.ndarray) -> np.ndarray:
            found = np.empty(indices.shape[:-1])
            for place in np.ndindex(found.shape):
                found[place] = value(indices[place])
                bar.update()
            return found

        return _bootstrap(each, len(sides[0]), method, confidence, resamples, seed)


def interval_table(
    table: "pd.DataFrame", by: str | list[str], columns: list[str], *, digits: int = 3
) -> "pd.DataFrame":
    """Mean and 95% interval of each column, as text, a row for each group of ``by``.

    Raises:
        ValueError: for no row, a column that is not there, a missing value, or a group of one row.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"loss": ["a", "a", "b", "b"], "cka": [0.1, 0.3, 0.4, 0.4]})
    >>> interval_table(runs, "loss", ["cka"], digits=1)["cka"].to_list()
    ['0.2 [-1.1, 1.5]', '0.4 [0.4, 0.4]']
    """

    groups = [by] if isinstance(by, str) else list(by)
    if set(groups) & set(table.index.names):
        table = table.reset_index()
    _require_whole(table, [*groups, *columns], columns)

    def text(values: "pd.Series") -> str:
        return f"{seed_interval(values.to_numpy()):.{digits}f}"

    return table.groupby(by, sort=False, observed=True)[columns].agg(text)


def paired_table(
    table: "pd.DataFrame",
    *,
    by: str,
    baseline: Hashable,
    columns: list[str],
    paired_by: str = "seed",
    **options: Any,
) -> "pd.DataFrame":
    """Differences of every condition to the baseline, paired by seed, with intervals.

    Args:
        table: tidy, one row a run.
        by: the column that names the condition.
        baseline: the condition that the others are compared with.
        columns: the measures.
        paired_by: the column by which runs are paired; each of its values may occur once in a
            condition.
        options: for :func:`difference`.

    Returns:
        A row for each other condition and each measure, in the order in which they came, with
        the columns ``by``, ``measure``, ``mean``, ``low``, ``high`` and ``pairs`` (how many).

    Raises:
        ValueError: for a column or baseline that is not there, no other condition, a seed that a
            condition lacks or has twice, or a missing value; all are named.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({
    ...     "optimizer": ["adam", "adam", "lars", "lars"],
    ...     "seed": [0, 1, 1, 0],
    ...     "accuracy": [0.50, 0.60, 0.71, 0.60],
    ... })
    >>> paired_table(runs, by="optimizer", baseline="adam", columns=["accuracy"]).round(3)
      optimizer   measure   mean    low   high  pairs
    0      lars  accuracy  0.105  0.041  0.169      2
    """
    import pandas as pd

    _require_whole(table, [by, paired_by, *columns], columns)
    conditions = dict(iter(table.groupby(by, sort=False, observed=True)))
    if baseline not in conditions:
        raise ValueError(
            f"baseline: expected one of {', '.join(map(str, conditions))} ({by}), got {baseline!r}"
        )
    if len(conditions) < 2:
        raise ValueError(f"table: expected a condition beside {baseline!r} in {by}, got none")
    for name, part in conditions.items():
        require_once(part[paired_by], "table", f"one row for each {paired_by} of {name!r}")
    runs = {name: part.set_index(paired_by) for name, part in conditions.items()}
    rows = []
    for name in [name for name in conditions if name != baseline]:
        require_same_keys(runs[name].index, runs[baseline].index, repr(name), repr(baseline))
        for column in columns:
            found = difference(
                runs[name][column].to_dict(), runs[baseline][column].to_dict(), **options
            )
            rows.append({by: name, "measure": column, **found._asdict(), "pairs": len(runs[name])})
    return pd.DataFrame(rows)


def _require_whole(table: "pd.DataFrame", needed: list[str], columns: list[str]) -> None:
    """Refuse a table that lacks a column or a value, and no measure or no row at all."""
    if isinstance(columns, str) or not len(columns) or not len(table):
        raise ValueError(
            f"table, columns: expected rows and a list of columns, got {len(table)} rows and "
            f"{columns!r}"
        )
    for column in needed:
        require_choice(column, [str(name) for name in table.columns], "table: column")
    part = table[needed]
    if part.isna().any(axis=None):
        row = part[part.isna().any(axis=1)].iloc[0].to_dict()
        raise ValueError(f"table: expected no missing value, got the row {row}")


def _student(sample: np.ndarray, confidence: float) -> Interval:
    with np.errstate(over="ignore", invalid="ignore"):  # answered by an error
        mean = float(sample.mean())
        half = float(stats.sem(sample) * stats.t.ppf((1 + confidence) / 2, len(sample) - 1))
    return _require_held(Interval(mean, mean - half, mean + half))


def _bootstrap(
    value: Callable[[np.ndarray], np.ndarray],
    n: int,
    method: Method,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Interval of ``value``, a function from indices of examples (last axis) to a number."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore", over="ignore"):
        # answered by an error below
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        low, high = stats.bootstrap(
            (np.arange(n),),
            lambda indices, axis: value(indices),
            n_resamples=resamples,
            batch=max(1, _AT_A_TIME // n),
            vectorized=True,
            axis=-1,
            confidence_level=confidence,
            method={"percentile": "percentile", "bca": "BCa"}[method],
            random_state=np.random.default_rng(seed),
        ).confidence_interval
    if np.isnan([low, high]).any():
        _require_held(Interval(float(value(np.arange(n))), 0, 0))
        raise ValueError(
            "method: BCa is undefined here, because the values or their resamples do not vary; "
            "'percentile' is defined"
        )
    return _require_held(Interval(float(value(np.arange(n))), float(low), float(high)))


def _numbers(values: Any, name: str) -> np.ndarray:
    raw = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    numeric = raw.dtype.kind in "biuf" or (
        raw.dtype.kind == "O" and all(isinstance(each, Real | Decimal) for each in raw.flat)
    )
    if raw.ndim != 1 or len(raw) < 2 or not numeric:
        raise ValueError(
            f"{name}: expected at least 2 numbers, one a seed or example, got {values!r:.60}"
        )
    try:
        sample = raw.astype(float)
    except OverflowError as error:
        raise ValueError(f"{name}: expected numbers that float64 holds, got {error}") from error
    if not np.isfinite(sample).all():
        place = int(np.argmin(np.isfinite(sample)))
        raise ValueError(f"{name}: expected finite numbers, got {raw[place]} at {place}")
    return sample


def _require_held(interval: Interval) -> Interval:
    """Refuse an interval of which something overflowed."""
    if not np.isfinite(interval).all():
        raise ValueError(
            f"values: expected numbers whose sums and squares float64 holds, got the interval "
            f"{interval}; rescale them"
        )
    return interval


def _rows(values: Any, name: str) -> np.ndarray:
    rows = np.asarray(values)
    if rows.ndim < 1 or len(rows) < 2:
        raise ValueError(f"{name}: expected the rows of at least 2 examples, got {values!r:.60}")
    return rows


def _require_confidence(confidence: float) -> None:
    if isinstance(confidence, str) or not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
