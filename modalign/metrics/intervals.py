"""The interval of a mean, of a difference and of any statistic of a set of examples."""

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from tqdm import tqdm

from modalign._checks import require_choice

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["t", "percentile", "bca"]
Values = ArrayLike | Mapping[Any, float]
Statistic = Callable[[Any], float]

# numbers that the bootstrap of a mean holds at a time: 32 MiB of indices, and as much of values
_AT_A_TIME = 2**22


class Interval(NamedTuple):
    """An estimate, a mean unless said otherwise, and its confidence interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


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
    return _student(_numbers(values, "values"), confidence)


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

    Values are paired by position, or by key where both are mappings (``{seed: value}``). The
    methods:

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
        ValueError: where the two sides do not pair (seeds of one side alone are named), for fewer
            than 2 values, for values or statistics that are not finite, for a ``statistic`` with
            method ``"t"``, and where BCa is undefined because nothing varies.
        TypeError: where one side is a mapping and the other is not.

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
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, got {resamples}")
    left, right = _paired(a, b)
    if statistic is None:
        values = _numbers(left, "a")
        values = values if right is None else values - _numbers(right, "b")
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

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"loss": ["a", "a", "b", "b"], "cka": [0.1, 0.3, 0.4, 0.4]})
    >>> interval_table(runs, "loss", ["cka"], digits=1)["cka"].to_list()
    ['0.2 [-1.1, 1.5]', '0.4 [0.4, 0.4]']
    """

    def text(values: "pd.Series") -> str:
        return f"{seed_interval(values.to_numpy()):.{digits}f}"

    return table.groupby(by, sort=False)[columns].agg(text)


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

    for column in (by, paired_by, *columns):
        require_choice(column, [str(name) for name in table.columns], "table: column")
    needed = table[[by, paired_by, *columns]]
    if needed.isna().any(axis=None):
        row = needed[needed.isna().any(axis=1)].iloc[0].to_dict()
        raise ValueError(f"table: expected no missing value, got the row {row}")
    conditions = dict(iter(table.groupby(by, sort=False, observed=True)))
    if baseline not in conditions:
        raise ValueError(
            f"baseline: expected one of {', '.join(map(str, conditions))} ({by}), got {baseline!r}"
        )
    if len(conditions) < 2:
        raise ValueError(f"table: expected a condition beside {baseline!r} in {by}, got none")
    for name, part in conditions.items():
        twice = part[paired_by][part[paired_by].duplicated()].unique().tolist()
        if twice:
            raise ValueError(
                f"table: expected one row for each {paired_by} of {name!r}, got "
                f"several of {_listed(twice)}"
            )
    runs = {name: part.set_index(paired_by) for name, part in conditions.items()}
    rows = []
    for name in [name for name in conditions if name != baseline]:
        _require_same_keys(runs[name].index, runs[baseline].index, repr(name), repr(baseline))
        for column in columns:
            found = difference(
                runs[name][column].to_dict(), runs[baseline][column].to_dict(), **options
            )
            rows.append({by: name, "measure": column, **found._asdict(), "pairs": len(runs[name])})
    return pd.DataFrame(rows)


def _student(sample: np.ndarray, confidence: float) -> Interval:
    half = stats.sem(sample) * stats.t.ppf((1 + confidence) / 2, len(sample) - 1)
    return Interval(sample.mean(), sample.mean() - half, sample.mean() + half)


def _bootstrap(
    value: Callable[[np.ndarray], np.ndarray],
    n: int,
    method: Method,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Interval of ``value``, a function from indices of examples (last axis) to a number."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
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
        raise ValueError(
            "method: BCa is undefined here, because the values or their resamples do not vary; "
            "'percentile' is defined"
        )
    return Interval(float(value(np.arange(n))), float(low), float(high))


def _paired(a: Values, b: Values | None) -> tuple[Any, Any]:
    """Both sides in one order."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        _require_same_keys(a, b, "a", "b")
        return list(a.values()), [b[key] for key in a]
    if b is not None and isinstance(a, Mapping) != isinstance(b, Mapping):
        kinds = f"a {type(a).__name__} and a {type(b).__name__}"
        raise TypeError(f"a, b: expected two mappings, or two lists in one order, got {kinds}")
    a = list(a.values()) if isinstance(a, Mapping) else a
    if b is not None and np.ndim(a) and np.ndim(b) and len(a) != len(b):  # type: ignore[arg-type]
        sizes = f"{len(a)} and {len(b)}"  # type: ignore[arg-type]
        raise ValueError(f"a, b: expected values of the same seeds or examples, got {sizes}")
    return a, b


def _require_same_keys(a: Any, b: Any, a_name: str, b_name: str) -> None:
    for keys, others, name, other in ((a, b, b_name, a_name), (b, a, a_name, b_name)):
        missing = [key for key in keys if key not in others]
        if missing:
            raise ValueError(f"{name}: lacks {_listed(missing)}, which {other} has")


def _listed(keys: list[Any]) -> str:
    shown = ", ".join(map(str, keys[:10]))
    return f"{shown} and {len(keys) - 10} more" if len(keys) > 10 else shown


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(
            f"{name}: expected at least 2 numbers, one a seed or example, got {values!r:.60}"
        )
    if not np.isfinite(sample).all():
        place = int(np.argmin(np.isfinite(sample)))
        raise ValueError(f"{name}: expected finite numbers, got {sample[place]} at {place}")
    return sample


def _rows(values: Any, name: str) -> np.ndarray:
    rows = np.asarray(values)
    if rows.ndim < 1 or len(rows) < 2:
        raise ValueError(f"{name}: expected the rows of at least 2 examples, got {values!r:.60}")
    return rows


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
