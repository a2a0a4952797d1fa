"""Figures of the synthetic experiment's verdicts."""

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modalign.metrics import SYMBOLS

TITLES = {
    "c1": "c1: CKA falls",
    "c2": "c2: the cosine rises",
    "c3a": "c3: both beat the cosine",
    "c3b": "c3: both are faster",
    "c4": "c4: a warm-up helps",
}

PALETTE = sns.color_palette("vlag_r", as_cmap=True)
LIMIT = 0.1  # effects of this size and above have the strongest colour


def verdict_map(rows: pd.DataFrame) -> Figure:
    """The readings of c1 to c4: a column a world and CKA, a colour an effect, and a sign a verdict.

    Args:
        rows: of :func:`modalign.studies.cka.claims.rows`.
    """
    shown = {name: parts(rows[rows.claim == name]) for name in TITLES}
    heights = [each.how.nunique() for each in shown.values()]
    size = 4.2, 0.24 * sum(heights) + 3.4
    figure, axes = plt.subplots(
        len(shown), 1, figsize=size, sharex=True, height_ratios=heights, layout="constrained"
    )
    for ax, (name, readings) in zip(axes, shown.items(), strict=True):
        _panel(ax, readings)
        ax.set_title(TITLES[name], fontsize=10)
    colours = plt.cm.ScalarMappable(plt.Normalize(-LIMIT, LIMIT), PALETTE)
    figure.colorbar(
        colours,
        ax=axes,
        orientation="horizontal",
        label="mean difference, positive on the side of the claim",
        shrink=0.8,
        aspect=40,
    )
    return figure


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Readings of the map taken apart: ``world`` and ``how`` beside what was judged."""
    split = rows.reading.str.split(", ", n=3, expand=True).reindex(columns=range(4))
    world = split[0] + ", " + split[1] + ", " + split[2]
    return rows.assign(world=world, how=split[3].astype(object).fillna(""))


def _panel(ax: Axes, shown: pd.DataFrame) -> None:
    order = {"index": shown.how.unique(), "columns": shown.world.unique()}
    effect = shown.pivot(index="how", columns="world", values="mean").reindex(**order)
    said = shown.assign(symbol=shown.verdict.map(SYMBOLS)).pivot(
        index="how", columns="world", values="symbol"
    )
    sns.heatmap(
        effect,
        ax=ax,
        annot=said.reindex(**order).to_numpy(dtype=str),
        fmt="",
        annot_kws={"fontsize": 8},
        cmap=PALETTE,
        vmin=-LIMIT,
        vmax=LIMIT,
        cbar=False,
        linewidths=0.5,
        xticklabels=True,
        yticklabels=[name.replace(" statistics", "") for name in order["index"]],
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=8)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
