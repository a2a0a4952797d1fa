"""Figures of the book: seaborn's, with the book's look and interval, and others."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from modalign._checks import describe, require_choice
from modalign.metrics import seed_interval
from modalign.metrics.alignment import checked_times

# seaborn's ten colours for all kinds of colour vision, those first that stand out on white
PALETTE = tuple(sns.color_palette("colorblind").as_hex()[i] for i in (0, 3, 2, 4, 1, 9, 5, 7, 6, 8))
MARKERS = "osD^vPX*p"


def use_style() -> None:
    """Set the book's look for every figure that follows."""
    look = {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.5,
        "legend.frameon": False,
        "lines.linewidth": 1.5,
    }
    sns.set_theme("paper", "ticks", PALETTE, font_scale=1.1, rc=look)


def curves(ax: Axes, table: pd.DataFrame, x: str, y: str, by: str, *, legend: bool = True) -> None:
    """Mean over seeds of column y against column x, one line for each value of ``by``.

    Bands are 95% intervals over the rows that share x and ``by``; a single row draws none. When
    the y axis is logarithmic, set so before, both are taken of logarithms: a geometric mean, and a
    band that stays above zero.

    Raises:
        ValueError: for no row, a missing or infinite value in any of the three columns, groups
            whose names read alike, more of them than there are pairs of colour and marker (90), and
            a value that is not positive on a logarithmic axis.
    """
    _require_rows(table, [x, y, by], finite=[y])
    if ax.get_yscale() == "log" and not (table[y] > 0).all():
        raise ValueError(
            f"table: expected positive {y!r} on a logarithmic axis, got {table[y].min()}"
        )
    shown = _named(table, by)
    groups = {"hue": by, "style": by, "dashes": False, **_looks(shown[by].nunique(), by)}
    style = {"markersize": 4, "markeredgewidth": 0, "err_kws": {"linewidth": 0}}
    sns.lineplot(
        shown, x=x, y=y, errorbar=lambda rows: seed_interval(rows)[1:], ax=ax, **groups, **style
    )
    ax.set(xlabel=_plain(x), ylabel=_plain(y))
    ax.autoscale(None)  # type: ignore[arg-type]  # limits anew, when a scale is set later
    drawn = ax.legend()  # without seaborn's title
    if not legend:
        drawn.remove()


def heatmap(
    ax: Axes, matrix: Float[Tensor, "rows columns"], *, low: float = 0, high: float = 1
) -> None:
    """A matrix of similarities with its values, light where they are high, counted from one.

    Raises:
        ValueError: for anything but a matrix, an entry that is not finite, or ends of the scale
            that are not finite and in order.
    """
    values = np.asarray(matrix)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"matrix: expected finite numbers (rows, columns), got {describe(matrix)}")
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"low, high: expected finite numbers in order, got {low} and {high}")
    table = pd.DataFrame(values).rename(index=lambda i: i + 1, columns=lambda j: j + 1)
    written = {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 7}}
    scale = {"vmin": low, "vmax": high, "cmap": "cividis", "cbar": False, "square": True}
    sns.heatmap(table, ax=ax, **written, **scale)
    ax.tick_params(axis="y", rotation=0)
    # seaborn writes white up to a lightness at which it can hardly be read
    for text, value in zip(ax.texts, values.flat, strict=True):
        text.set_color("black" if value > (low + high) / 2 else "white")


def forest(ax: Axes, table: pd.DataFrame, label: str, by: str) -> None:
    """Intervals (columns mean, low, high), a row for each ``label`` and a colour for each ``by``.

    An interval that crosses the line at 0 decides nothing. A mean of which both ends are missing
    (say, of one seed) is a point alone; a row without a mean too (say, of a run not made) draws
    nothing, and keeps its place.

    Raises:
        ValueError: for no row, a column that is not there, a label or group that is missing, names
            of them that read alike, an interval of which one end is missing, or that is infinite or
            does not hold its mean, two rows of one label and group, or too many groups (90).
    """
    numbers = ["mean", "low", "high"]
    _require_rows(table, [label, by], holes=numbers)
    alone = table[["low", "high"]].isna().all(axis=1) & ~np.isinf(table["mean"])
    ordered = (table["low"] <= table["mean"]) & (table["mean"] <= table["high"])
    wrong = ~(alone | (ordered & np.isfinite(table[numbers]).all(axis=1)))
    if wrong.any():
        raise ValueError(
            f"table: expected finite intervals that hold their mean, got the row "
            f"{table[wrong].iloc[0].to_dict()}"
        )
    if table.duplicated([label, by]).any():
        row = table[table.duplicated([label, by])].iloc[0].to_dict()
        raise ValueError(f"table: expected one row for each {label} and {by}, got another {row}")
    shown = _named(table, label, by)
    n = shown[by].nunique()
    y, hue = (np.repeat(shown[column].to_numpy(), 3) for column in (label, by))
    groups = {"y": y, "hue": hue, "dodge": min(0.22 * (n - 1), 0.8), **_looks(n, by)}
    style = {"linestyle": "none", "linewidth": 1.2, "markersize": 4, "legend": True}
    # of three numbers in order the middle one is the median, and the others are the range
    three = {"x": np.ravel(shown[numbers]), "estimator": "median", "errorbar": ("pi", 100)}
    sns.pointplot(ax=ax, **three, **groups, **style)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.legend().remove()


def timeline(
    ax: Axes,
    times: np.ndarray,
    assigned: Mapping[str, np.ndarray],
    *,
    snippets: Mapping[int, tuple[float, float]] | None = None,
) -> None:
    """Clips along their time, a strip for each assignment, coloured by the snippet they have.

    Args:
        ax: where to draw.
        times: starts and ends of the clips (n, 2).
        assigned: for each name the snippet of each clip; -1, for none, is left grey.
        snippets: start and end of some snippets, for a strip on top.

    Raises:
        ValueError: for times that :func:`modalign.metrics.alignment_scores` would refuse, no
            assignment, and one of another length or with others than whole numbers from -1.
    """
    times = checked_times(times, "times")
    if not assigned:
        raise ValueError("assigned: expected one assignment or more, got none")
    assigned = {name: np.asarray(each) for name, each in assigned.items()}
    for name, each in assigned.items():
        if each.shape != (len(times),) or each.dtype.kind not in "iu" or each.min() < -1:
            raise ValueError(
                f"assigned[{name!r}]: expected a whole number from -1 for each of {len(times)} "
                f"clips, got {describe(each)}"
            )
    for number, span in (snippets or {}).items():
        checked_times([span], f"snippets[{number}]")
    count = max([*(int(each.max()) for each in assigned.values()), *(snippets or [])]) + 1
    shades = plt.get_cmap("cividis")(np.linspace(0, 1, max(count, 2)))
    # strong and weak shades in turn set neighbours apart
    shades[1::2, :3] = 0.5 + shades[1::2, :3] / 2
    strips = {name: (times, each) for name, each in assigned.items()}
    if snippets:
        strips = {"text": (np.array([*snippets.values()]), np.array([*snippets]))} | strips
    for row, (intervals, each) in enumerate(strips.values()):
        starts, ends = intervals.T
        colours = np.where((each < 0)[:, None], (0.85, 0.85, 0.85, 1), shades[each])
        style: dict[str, Any] = {"color": colours, "edgecolor": "white", "linewidth": 0.3}
        ax.bar(starts, 0.8, ends - starts, row - 0.4, align="edge", **style)
    ax.set_yticks(list(range(len(strips))), [_plain(name) for name in strips])
    ax.set_ylim(len(strips) - 0.5, -0.5)
    ax.set_xlim(times[0, 0], times[-1, 1])
    ax.grid(False)


def modalities(ax: Axes, points: Sequence[np.ndarray], labels: Sequence[str]) -> None:
    """Two-dimensional points of several modalities, one colour and marker each.

    Raises:
        ValueError: for no modality, more than 90, another number of labels, two that are the
            same, and points that are not (n, 2), none, or not finite.
    """
    names = [_plain(label) for label in labels]
    if not len(points) or len(points) != len(set(names)):
        raise ValueError(
            f"labels: expected one of its own for each of one modality or more, got {labels} for "
            f"{len(points)}"
        )
    looks = _looks(len(names), "labels")
    for points_of, name, *look in zip(points, names, *looks.values(), strict=True):
        cloud = np.asarray(points_of)
        if cloud.ndim != 2 or cloud.shape[1] < 2 or not len(cloud) or not np.isfinite(cloud).all():
            raise ValueError(
                f"points: expected finite ones (n, 2) of {name}, got {describe(cloud)}"
            )
        # matplotlib's: seaborn's points of several shapes make a picture twice as large
        style: dict[str, Any] = {"color": look[0], "marker": look[1], "label": name, "alpha": 0.6}
        ax.scatter(cloud[:, 0], cloud[:, 1], s=5, linewidth=1, **style)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def _looks(groups: int, what: str) -> dict[str, list[str]]:
    """A colour and a marker for each group, no two of them the same: 9 and 10 share no factor.

    >>> looks = _looks(90, "by")
    >>> len({*zip(looks["palette"], looks["markers"])})
    90
    """
    if groups > len(PALETTE) * len(MARKERS):
        raise ValueError(f"{what}: expected at most 90 groups, got {groups}")
    looks = {"palette": PALETTE, "markers": MARKERS}
    return {key: list(islice(cycle(values), groups)) for key, values in looks.items()}


def _plain(label: object) -> str:
    """A label as it reads: dollars begin no mathematics, and a leading underscore hides nothing.

    >>> print(_plain("$5"), _plain("_a"))
    \\$5  _a
    """
    text = str(label).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _named(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The table with these columns as text, which seaborn takes as names of groups."""
    shown = table.reset_index(drop=True)
    for column in columns:
        shown[column] = [_plain(value) for value in table[column]]
        if shown[column].nunique() != table[column].nunique():
            raise ValueError(f"table: expected values of {column!r} that do not read alike")
    return shown


def _require_rows(
    table: pd.DataFrame,
    columns: list[str],
    *,
    finite: Sequence[str] = (),
    holes: Sequence[str] = (),
) -> None:
    """Refuse a table without rows, and values that cannot be drawn outside the columns of holes."""
    if not len(table):
        raise ValueError("table: expected one row or more, got none")
    for column in [*columns, *holes]:
        require_choice(column, [str(name) for name in table.columns], "table: column")
    bad = table[columns].isna().any(axis=1).to_numpy()
    for column in finite:
        bad = bad | ~np.isfinite(table[column].to_numpy(float, na_value=np.nan))
    if bad.any():
        row = table.loc[bad, columns].iloc[0].to_dict()
        raise ValueError(f"table: expected no missing or infinite value, got the row {row}")
