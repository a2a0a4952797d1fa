import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from modalign import plots
from modalign.metrics import seed_interval


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_curves_draw_the_mean_and_its_interval(ax):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": [0, 1] * 5, "y": rng.normal(size=10), "by": "a"})
    table.index = [0] * 10  # as tables that were put together
    plots.curves(ax, table, "x", "y", "by")
    first = table[table.x == 0].y
    assert ax.lines[0].get_ydata()[0] == pytest.approx(first.mean())
    heights = ax.collections[0].get_paths()[0].vertices
    _, low, high = seed_interval(first.to_numpy())
    assert {round(y, 6) for x, y in heights if x == 0} == {round(low, 6), round(high, 6)}


def test_curves_draw_no_band_for_one_seed(ax):
    plots.curves(ax, pd.DataFrame({"x": [0, 1], "y": [1, 2], "by": "a"}), "x", "y", "by")
    assert not ax.collections


def test_curves_on_a_logarithmic_axis_are_geometric_and_stay_above_zero(ax):
    table = pd.DataFrame({"x": 0, "y": [1.0, 1.0, 1.0, 1e-6], "by": "a"})
    ax.set_yscale("log")
    plots.curves(ax, table, "x", "y", "by")
    mean, low, high = np.exp(seed_interval(np.log(table.y)))
    assert ax.lines[0].get_ydata()[0] == pytest.approx(mean)
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert set(heights.round(9)) == {round(low, 9), round(high, 9)}


def test_curves_refuse_what_has_no_logarithm(ax):
    ax.set_yscale("log")
    with pytest.raises(ValueError, match="table: expected positive 'y' .* got 0"):
        plots.curves(ax, pd.DataFrame({"x": [0, 1], "y": [0, 2], "by": "a"}), "x", "y", "by")


def test_heatmap_prints_every_value_and_counts_layers_from_one(ax):
    plots.heatmap(ax, torch.tensor([[0.1, 0.9], [0.3, 0.5]]))
    assert [text.get_text() for text in ax.texts] == ["0.10", "0.90", "0.30", "0.50"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2"]


def test_forest_draws_what_it_is_given(ax):
    table = pd.DataFrame(
        {"where": ["a", "b"], "mean": [1.0, 2.0], "low": [0.5, 1.9], "high": [1.5, 2.1], "by": "g"}
    )
    plots.forest(ax, table, "where", "by")
    segments = ax.containers[0].lines[2][0].get_segments()
    assert [segment[:, 0].tolist() for segment in segments] == [[0.5, 1.5], [1.9, 2.1]]


def test_the_palette_has_no_two_colours_alike():
    assert len({to_hex(colour) for colour in plots.PALETTE}) == len(plots.PALETTE)
    assert len(plots.MARKERS) >= len(plots.PALETTE)


def test_modalities_need_a_label_each(ax):
    with pytest.raises(ValueError, match="shorter"):
        plots.modalities(ax, [np.zeros((3, 2))] * 2, ["only one"])


def test_timeline_draws_snippets_above_in_the_colours_of_their_clips(ax):
    times = np.array([[0.0, 1.0], [1.0, 3.0]])
    told = {0: (0.0, 1.5), 2: (1.5, 3.0)}
    plots.timeline(ax, times, {"truth": np.array([0, 2])}, snippets=told)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["text", "truth"]
    text, clips = ax.patches[:2], ax.patches[2:]
    assert [bar.get_width() for bar in text] == [1.5, 1.5]
    assert [bar.get_facecolor() for bar in text] == [bar.get_facecolor() for bar in clips]


def test_timeline_draws_a_strip_for_each_assignment_and_leaves_unmatched_clips_grey(ax):
    times = np.array([[0.0, 2.0], [2.0, 3.0], [3.0, 7.0]])
    plots.timeline(ax, times, {"truth": np.array([0, 0, -1]), "found": np.array([0, 1, 2])})
    colours = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    assert [patch.get_width() for patch in ax.patches[:3]] == [2, 1, 4]
    assert colours[0] == colours[1] == colours[3]
    assert colours[2] == "#d9d9d9"
    assert len(set(colours[3:])) == 3
    assert [label.get_text() for label in ax.get_yticklabels()] == ["truth", "found"]
