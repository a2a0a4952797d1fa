"""Figures of the book: one style, one palette, intervals wherever a mean is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from modalign._checks import describe, require_choice
from modalign.metrics import seed_interval
from modalign.metrics.alignment import checked_times

# Okabe and Ito's eight colours stay apart under all common colour-vision deficiencies; beyond
# eight groups a colour comes again with another marker.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"


def use_style() -> None:
    """Set the book's look for every figure that follows."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 9.5,
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "grid.alpha": 0.3,
            "legend.frameon": False,
        }
    )


def curves(ax: Axes, table: pd.DataFrame, x: str, y: str, by: str, *, legend: bool = True) -> None:
    """Mean over seeds of column y against column x, one line for each value of ``by``.

    Bands are 95% intervals over the rows that share x and ``by``; a single row draws none. Where
    the y axis is logarithmic, set so before, both are taken of logarithms: a geometric mean, and a
    band that stays above zero.

    Raises:
        ValueError: for no row, a missing or infinite value in any of the three columns, more groups
            than there are pairs of colour and marker (64), and a value that is not positive on a
            logarithmic axis.
    """
    _require_rows(table, [x, y, by], finite=[y])
    log = ax.get_yscale() == "log"
    if log and not (table[y] > 0).all():
        raise ValueError(
            f"table: expected positive {y!r} on a logarithmic axis, got {table[y].min()}"
        )
    to, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    groups = table.assign(**{y: to(table[y])}).groupby(by, sort=False, observed=True)
    for (label, part), style in zip(groups, _styles(len(groups), by), strict=True):
        rows = part.groupby(x, observed=True)[y]
        mean = rows.mean()
        line = {"label": _plain(label), "markersize": 3.5, **style}
        ax.plot(mean.index, back(mean), **line)
        several = rows.size() > 1
        if several.any():
            bands = [
                back(seed_interval(each.to_numpy())[1:]) if several[at] else (np.nan, np.nan)
                for at, each in rows
            ]
            low_high = np.array(bands).T
            ax.fill_between(mean.index, *low_high, color=style["color"], alpha=0.2, linewidth=0)
    ax.set(xlabel=_plain(x), ylabel=_plain(y))
    if legend:
        ax.legend()


def heatmap(
    ax: Axes, matrix: Float[Tensor, "rows columns"], *, low: float = 0, high: float = 1
) -> None:
    """A matrix of similarities with its values, light where they are high.

    Raises:
        ValueError: for what is no matrix, an entry that is not finite, or ends of the scale that
            are not finite and in order.
    """
    values = np.asarray(matrix)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"matrix: expected finite numbers (rows, columns), got {describe(matrix)}")
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"low, high: expected finite numbers in order, got {low} and {high}")
    ax.imshow(values, cmap="cividis", vmin=low, vmax=high)
    ax.grid(False)
    for (i, j), value in np.ndenumerate(values):
        colour = "black" if value > (low + high) / 2 else "white"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    ax.set_xticks(*_numbers(values.shape[1]))
    ax.set_yticks(*_numbers(values.shape[0]))


def _numbers(n: int) -> tuple[list[int], list[str]]:
    """Ticks that count layers from one."""
    return list(range(n)), [str(i + 1) for i in range(n)]


def forest(ax: Axes, table: pd.DataFrame, label: str, by: str) -> None:
    """Intervals (columns mean, low, high), a row for each ``label`` and a colour for each ``by``.

    An interval that crosses the line at 0 decides nothing. A row of missing numbers (say, of what
    was not run) draws nothing, and keeps its place.

    Raises:
        ValueError: for no row, a column that is not there, a label or group that is missing, an
            interval of which a part is missing, infinite or does not hold its mean, two rows of
            one label and group, or too many groups (64).
    """
    numbers = ["mean", "low", "high"]
    _require_rows(table, [label, by], holes=numbers)
    missing = table[numbers].isna()
    ordered = (table["low"] <= table["mean"]) & (table["mean"] <= table["high"])
    wrong = ~(missing.all(axis=1) | (ordered & np.isfinite(table[numbers]).all(axis=1)))
    if wrong.any():
        raise ValueError(
            f"table: expected finite intervals that hold their mean, got the row "
            f"{table[wrong].iloc[0].to_dict()}"
        )
    if table.duplicated([label, by]).any():
        row = table[table.duplicated([label, by])].iloc[0].to_dict()
        raise ValueError(f"table: expected one row for each {label} and {by}, got another {row}")
    labels = list(dict.fromkeys(table[label]))
    groups = list(dict.fromkeys(table[by]))
    apart = min(0.22, 0.8 / len(groups))
    for i, (group, style) in enumerate(zip(groups, _styles(len(groups), by), strict=True)):
        part = table[table[by] == group]
        place = np.array([labels.index(name) for name in part[label]]) + apart * (
            i - (len(groups) - 1) / 2
        )
        error = [part["mean"] - part["low"], part["high"] - part["mean"]]
        line = {"label": _plain(group), "markersize": 4, "linestyle": "none", **style}
        ax.errorbar(part["mean"], place, xerr=error, **line)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(list(range(len(labels))), [_plain(each) for each in labels])
    ax.set_ylim(len(labels) - 0.5, -0.5)


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
            assignment, and one of another length or that is no whole numbers from -1.
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
    # neighbours are told apart by strong and weak shades in turn
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
        ValueError: for no modality, more than 64, another number of labels, and points that are
            not (n, 2), none, or not finite.
    """
    if not len(points) or len(points) != len(labels):
        raise ValueError(
            f"labels: expected one for each of one modality or more, got {len(labels)} for "
            f"{len(points)}"
        )
    clouds = [np.asarray(cloud) for cloud in points]
    for cloud, label, style in zip(clouds, labels, _styles(len(clouds), "labels"), strict=True):
        if cloud.ndim != 2 or cloud.shape[1] < 2 or not len(cloud) or not np.isfinite(cloud).all():
            raise ValueError(
                f"points: expected finite ones (n, 2) of {label}, got {describe(cloud)}"
            )
        ax.scatter(cloud[:, 0], cloud[:, 1], s=5, label=_plain(label), alpha=0.6, **style)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def _styles(groups: int, name: str) -> list[dict[str, Any]]:
    """A colour and a marker for each group, no two of them the same.

    >>> len({tuple(style.values()) for style in _styles(64, "by")})
    64
    """
    n = len(PALETTE)
    if groups > n * len(MARKERS):
        raise ValueError(f"{name}: expected at most {n * len(MARKERS)} groups, got {groups}")
    return [
        {"color": PALETTE[i % n], "marker": MARKERS[(i + i // n) % len(MARKERS)]}
        for i in range(groups)
    ]


def _plain(label: object) -> str:
    """A label as it reads: dollars are no mathematics, and a leading underscore hides nothing.

    >>> print(_plain("$5"), _plain("_a"))
    \\$5  _a
    """
    text = str(label).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


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
