"""The figures of the chapter "Choosing"."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from modalign._checks import require_choice
from modalign.studies.choosing.setting import ARMS, BASELINE, CONDITIONS, SINGLE

AXES: dict[str, dict[str, float]] = {
    "examples": {"250 examples": 250, "usual": 1000, "4,000 examples": 4000},
    "misaligned texts in percent": {"usual": 0, "30% misaligned": 30, "60% misaligned": 60},
    "examples a batch": {"batches of 16": 16, "usual": 64, "batches of 256": 256},
}
"""The axes along which conditions lie, and where each of them lies."""


def gain_map(ax: Axes, gained: pd.DataFrame) -> None:
    """Gains over the baseline: an arm a row, a condition a column; bold where zero is excluded.

    Colours are of gains over the smallest effect of interest, so that conditions compare.

    Args:
        ax: to draw on.
        gained: of :func:`modalign.studies.choosing.answers.gains`.
    """
    arms = [arm for arm in ARMS if arm in set(gained["arm"])]
    columns = [each for each in CONDITIONS if each in set(gained["condition"])]
    by = gained.assign(share=gained["mean"] / gained["smallest"]).set_index(["arm", "condition"])
    share = by["share"].unstack().reindex(index=arms, columns=columns)
    mean = by["mean"].unstack().reindex(index=arms, columns=columns)
    written = mean.map(lambda value: "" if np.isnan(value) else f"{value:+.1f}")
    scale = {"cmap": "vlag_r", "center": 0, "vmin": -5, "vmax": 5, "cbar": False}
    sns.heatmap(share, ax=ax, annot=written, fmt="", annot_kws={"fontsize": 8.5}, **scale)
    sure = by["verdict"].unstack().reindex(index=arms, columns=columns)
    cells = [(i, j) for i, j in np.ndindex(mean.shape) if not np.isnan(mean.iat[i, j])]
    for text, (i, j) in zip([each for each in ax.texts if each.get_text()], cells, strict=True):
        decided = sure.iat[i, j] in ("holds", "reversed")
        text.set(fontweight="bold" if decided else "normal", color="black")
        if not decided:
            text.set_alpha(0.6)
    ax.set(xlabel="", ylabel="")
    ax.grid(visible=False)
    ax.tick_params(axis="x", rotation=60)
    for label in ax.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
    ax.tick_params(axis="y", rotation=0)


def along(ax: Axes, gained: pd.DataFrame, axis: str, arms: Sequence[str]) -> None:
    """Gains over the baseline along one of :data:`AXES`, with the intervals of some arms.

    Args:
        ax: to draw on.
        gained: of :func:`modalign.studies.choosing.answers.gains`.
        axis: one of :data:`AXES`.
        arms: that are drawn in colour; the other single methods are thin and grey.

    Raises:
        ValueError: for another axis, or an arm that is no single method.
    """
    require_choice(axis, tuple(AXES), "axis")
    for arm in arms:
        require_choice(arm, SINGLE[1:], "arms")
    places = AXES[axis]
    shown = gained[gained["condition"].isin(places)]
    shown = shown.assign(place=shown["condition"].map(places)).sort_values("place")
    for arm in SINGLE[1:]:
        one = shown[shown["arm"] == arm]
        if arm in arms:
            n = list(arms).index(arm)
            looks = {"color": sns.color_palette("colorblind")[n], "marker": "osD^v"[n % 5]}
            ends = [one["mean"] - one["low"], one["high"] - one["mean"]]
            ax.errorbar(one["place"], one["mean"], ends, capsize=2, label=arm, **looks)
        else:
            ax.plot(one["place"], one["mean"], color="0.7", linewidth=0.9, zorder=0)
    ax.axhline(0, color="black", linewidth=0.8)
    if 0 not in places.values():
        ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(places.values()), [f"{each:,}" for each in sorted(places.values())])
    ax.minorticks_off()
    ax.set(xlabel=axis, ylabel="gain in points")


def rates(ax: Axes, search: pd.DataFrame, arms: Sequence[str]) -> None:
    """Validation scores of the search against the learning rate: the baseline and some arms.

    Args:
        ax: to draw on.
        search: of one condition.
        arms: that are drawn in colour beside the baseline; the other single methods of the same
            optimiser are thin and grey.

    Raises:
        ValueError: for an arm that is no single method.
    """
    for arm in arms:
        require_choice(arm, SINGLE[1:], "arms")
    means = search.groupby(["arm", "learning_rate"])["measure"].mean()
    same = [arm for arm in SINGLE if "optimizer" not in ARMS[arm].changes]
    for arm in dict.fromkeys([*same, *arms]):
        line = means[arm].sort_index()
        if arm == BASELINE:
            ax.plot(line.index, line, color="black", marker="o", linewidth=2.2, label=arm)
        elif arm in arms:
            n = list(arms).index(arm)
            looks = {"color": sns.color_palette("colorblind")[n], "marker": "sD^v"[n % 4]}
            ax.plot(line.index, line, label=arm, **looks)
        else:
            ax.plot(line.index, line, color="0.7", linewidth=0.9, zorder=0)
    ax.set_xscale("log")
    ax.set(xlabel="learning rate", ylabel="R@10 in percent, validation")
