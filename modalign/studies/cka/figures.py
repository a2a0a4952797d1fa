"""Figures of the synthetic experiment's verdicts."""

import numpy as np
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


def verdict_map(rows: pd.DataFrame, *, limit: float = 0.1) -> Figure:
    """The readings of c1 to c4: a row a world and CKA, a colour an effect, and a sign a verdict.

    Args:
        rows: of :func:`modalign.studies.cka.claims.rows`.
        limit: effects of this size and above have the strongest colour.
    """
    figure = plt.figure(figsize=(8, 8.5), layout="constrained")
    axes = figure.subplot_mosaic([["c1", "c1", "c2"], ["c3a", "c3b", "c4"]], width_ratios=[1, 1, 1])
    for name, title in TITLES.items():
        shown = parts(rows[rows.claim == name])
        first = name in ("c1", "c3a")
        _panel(axes[name], shown, limit, labels=first)
        axes[name].set_title(title, fontsize=10)
    colours = plt.cm.ScalarMappable(plt.Normalize(-limit, limit), PALETTE)
    figure.colorbar(
        colours,
        ax=list(axes.values()),
        orientation="horizontal",
        label="effect, above 0 where the claim's side is",
        shrink=0.5,
        aspect=40,
    )
    return figure


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Readings of the map taken apart: ``world`` and ``how`` beside what was judged."""
    split = rows.reading.str.split(", ", n=3, expand=True).reindex(columns=range(4))
    world = split[0] + ", " + split[1] + ", " + split[2]
    return rows.assign(world=world, how=split[3].fillna(""))


def _panel(ax: Axes, shown: pd.DataFrame, limit: float, *, labels: bool) -> None:
    order = {"index": shown.world.unique(), "columns": shown.how.unique()}
    effect = shown.pivot(index="world", columns="how", values="mean").reindex(**order)
    said = shown.assign(symbol=shown.verdict.map(SYMBOLS)).pivot(
        index="world", columns="how", values="symbol"
    )
    sns.heatmap(
        effect,
        ax=ax,
        annot=said.reindex(**order).to_numpy(dtype=str),
        fmt="",
        annot_kws={"fontsize": 8},
        cmap=PALETTE,
        vmin=-limit,
        vmax=limit,
        cbar=False,
        linewidths=0.5,
        yticklabels=list(order["index"]) if labels else False,
    )
    ax.set(xlabel="", ylabel="")
    ticks = [name.replace(" statistics", "") for name in order["columns"]]
    ax.set_xticks(np.arange(len(ticks)) + 0.5, ticks, rotation=90, fontsize=8)
    ax.tick_params(axis="y", labelsize=8)
