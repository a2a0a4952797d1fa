"""How many of many intervals exclude zero, and how many of them still do when many are read."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from modalign._checks import require_choice

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("mean", "low", "high", "pairs")


class Counted(NamedTuple):
    """Of ``contrasts`` intervals, those that exclude zero, and those that do after correction."""

    contrasts: int
    nominal: int
    corrected: int


def p_values(table: "pd.DataFrame") -> np.ndarray:
    """Two-sided p-values of Student's 95% intervals, as :func:`modalign.metrics.difference` gives.

    Below 0.05 where the interval excludes zero, and nowhere else.

    Args:
        table: a row an interval: ``mean``, ``low``, ``high``, and ``pairs``, the number of values
            that it is of.

    Raises:
        ValueError: for a column that is not there, no row, an interval that is not finite or
            whose mean is not in its middle, or fewer than 2 pairs.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"mean": [2, 1], "low": [1, -1.5], "high": [3, 3.5], "pairs": [5, 5]})
    >>> p_values(table).round(4).tolist()
    [0.0051, 0.329]
    """
    for column in NEEDED:
        require_choice(column, [str(name) for name in table.columns], "table: column")
    mean, low, high, pairs = (table[name].to_numpy(dtype=float) for name in NEEDED)
    middle = np.isclose((low + high) / 2, mean, atol=1e-9)
    if not len(mean) or not (np.isfinite([low, high]).all() and middle.all() and (pairs > 1).all()):
        raise ValueError(
            "table: expected one or more finite Student intervals of 2 pairs or more, got\n"
            f"{table[list(NEEDED)]}"
        )
    free = pairs - 1
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is an interval at zero
        t = np.nan_to_num(mean / ((high - low) / 2), nan=0.0, posinf=np.inf, neginf=-np.inf)
    return 2 * stats.t.sf(abs(t) * stats.t.ppf(0.975, free), free)


def excluding_zero(table: "pd.DataFrame") -> Counted:
    """How many intervals of a table exclude zero, as they stand and after correction.

    The correction of Benjamini and Hochberg (1995) keeps the expected share of false ones among
    those that are left at 5%. As they stand, one contrast in twenty of those without an effect
    excludes zero.

    Args:
        table: as for :func:`p_values`.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"mean": [2, 1], "low": [0.1, -1], "high": [3.9, 3], "pairs": [5, 5]})
    >>> excluding_zero(table)
    Counted(contrasts=2, nominal=1, corrected=0)
    """
    p = p_values(table)
    corrected = stats.false_discovery_control(p)
    return Counted(len(p), int((p < 0.05).sum()), int((corrected < 0.05).sum()))
