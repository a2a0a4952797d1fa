import itertools

import pandas as pd
from matplotlib import pyplot as plt

from modalign.studies.cka import figures

WORLDS = [f"{pairs}, relu-bn, {kind}" for pairs in ("random", "shared") for kind in ("biased",)]
READINGS = {
    "c1": ["set statistics, epoch 1", "default statistics, epoch 1"],
    "c2": [""],
    "c3a": ["2 steps counted", "2 steps before"],
    "c3b": ["2 steps counted"],
    "c4": ["2 steps counted"],
}


def made_up():
    rows = [
        {"claim": claim, "reading": f"{world}, {how}".removesuffix(", ")}
        for claim, hows in READINGS.items()
        for world, how in itertools.product(WORLDS, hows)
    ]
    verdict = itertools.cycle(["holds", "reversed"])
    return pd.DataFrame(rows).assign(mean=0.05, verdict=[next(verdict) for _ in rows])


def test_a_map_of_verdicts_is_one_narrow_column_with_a_sign_for_each_reading():
    figure = figures.verdict_map(made_up())
    *panels, _ = figure.axes
    assert figure.get_figwidth() <= 4.2  # what a phone shows without scrolling
    assert [ax.get_title() for ax in panels] == list(figures.TITLES.values())
    for ax, hows in zip(panels, READINGS.values(), strict=True):
        told = [label.get_text() for label in ax.get_yticklabels()]
        assert told == [how.replace(" statistics", "") for how in hows]
        signs = [text.get_text() for text in ax.texts]
        assert len(signs) == len(hows) * len(WORLDS)
        assert set(signs) <= {"✔", "✘"}
    assert [label.get_text() for label in panels[-1].get_xticklabels()] == WORLDS
    plt.close(figure)
