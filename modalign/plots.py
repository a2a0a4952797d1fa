"""Figures of the book: one style, one palette, intervals wherever a mean is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from modalign.metrics import seed_interval

# Okabe and Ito's eight colours stay apart under all common colour-vision deficiencies.
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
        ValueError: for a value that is not positive on a logarithmic axis.
    """
    log = ax.get_yscale() == "log"
    if log and not (table[y] > 0).all():
        raise ValueError(
            f"table: expected positive {y!r} on a logarithmic axis, got {table[y].min()}"
        )
    to, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    for i, (label, part) in enumerate(table.assign(**{y: to(table[y])}).groupby(by, sort=False)):
        groups = part.groupby(x)[y]
        mean = groups.mean()
        style: dict[str, Any] = {"color": PALETTE[i], "marker": MARKERS[i], "markersize": 3.5}
        ax.plot(mean.index, back(mean), label=label, **style)
        if groups.size().min() > 1:
            bands = back([seed_interval(each.to_numpy())[1:] for _, each in groups])
            ax.fill_between(mean.index, *bands.T, color=PALETTE[i], alpha=0.2, linewidth=0)
    ax.set(xlabel=x, ylabel=y)
    if legend:
        ax.legend()


def heatmap(
    ax: Axes, matrix: Float[Tensor, "rows columns"], *, low: float = 0, high: float = 1
) -> None:
    """A matrix of similarities with its values, light where they are high."""
    values = np.asarray(matrix)
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

    An interval that crosses the line at 0 decides nothing.
    """
    labels = list(dict.fromkeys(table[label]))
    groups = list(dict.fromkeys(table[by]))
    for i, group in enumerate(groups):
        part = table[table[by] == group]
        place = np.array([labels.index(name) for name in part[label]]) + 0.22 * (
            i - (len(groups) - 1) / 2
        )
        error = [part["mean"] - part["low"], part["high"] - part["mean"]]
        style: dict[str, Any] = {
            "color": PALETTE[i],
            "marker": MARKERS[i],
            "markersize": 4,
            "linestyle": "none",
        }
        ax.errorbar(part["mean"], place, xerr=error, label=group, **style)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(list(range(len(labels))), labels)
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
    """
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
    ax.set_yticks(list(range(len(strips))), list(strips))
    ax.set_ylim(len(strips) - 0.5, -0.5)
    ax.set_xlim(times[0, 0], times[-1, 1])
    ax.grid(False)


def modalities(ax: Axes, points: Sequence[np.ndarray], labels: Sequence[str]) -> None:
    """Two-dimensional points of several modalities, one colour and marker each."""
    for i, (cloud, label) in enumerate(zip(points, labels, strict=True)):
        ax.scatter(
            cloud[:, 0],
            cloud[:, 1],
            s=5,
            color=PALETTE[i],
            marker=MARKERS[i],
            label=label,
            alpha=0.6,
        )
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
