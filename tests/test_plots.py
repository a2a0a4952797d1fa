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
    assert not [path for band in ax.collections for path in band.get_paths()]


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
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["1", "2"]
        assert {label.get_rotation() for label in labels} == {0}
    assert [text.get_color() for text in ax.texts] == ["white", "black", "white", "white"]


def test_forest_draws_what_it_is_given(ax):
    table = pd.DataFrame(
        {"where": ["a", "b"], "mean": [1.0, 2.0], "low": [0.5, 1.9], "high": [1.5, 2.1], "by": "g"}
    )
    plots.forest(ax, table, "where", "by")
    points, *intervals = [[*line.get_xdata()] for line in ax.lines if len(line.get_xdata())]
    assert points == [1, 2]
    assert intervals[:2] == [[0.5, 1.5], [1.9, 2.1]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.yaxis_inverted()


def test_the_palette_has_no_two_colours_alike():
    assert len(set(plots.PALETTE)) == 10


@pytest.mark.parametrize("labels", [["only one"], ["the same", "the same"]])
def test_modalities_need_a_label_each(ax, labels):
    with pytest.raises(ValueError, match="labels: expected one of its own for each .* for 2"):
        plots.modalities(ax, [np.zeros((3, 2))] * 2, labels)


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


# many groups, odd names, holes


def groups(n, **columns):
    names = [f"g{i}" for i in range(n)]
    return pd.DataFrame({"x": [0, 1] * n, "y": 1.0, "by": np.repeat(names, 2), **columns})


def styles_of(ax):
    """Colours and shapes of the lines, without those that stand for them in the legend."""
    lines = [line for line in ax.lines if len(line.get_xdata())]
    return [(to_hex(line.get_color()), repr(line.get_marker())) for line in lines]


@pytest.mark.parametrize("n", [8, 10, 11, 20, 90])
def test_every_group_of_many_has_a_style_of_its_own(ax, n):
    plots.curves(ax, groups(n), "x", "y", "by", legend=False)
    assert len(set(styles_of(ax))) == len(styles_of(ax)) == n


def test_the_first_ten_groups_have_a_colour_of_their_own(ax):
    plots.curves(ax, groups(10), "x", "y", "by")
    assert [colour.upper() for colour, _ in styles_of(ax)] == [*map(str.upper, plots.PALETTE)]


def test_more_groups_than_styles_are_refused(ax):
    with pytest.raises(ValueError, match="by: expected at most 90 groups, got 91"):
        plots.curves(ax, groups(91), "x", "y", "by")


def test_limits_fit_a_scale_that_is_set_later(ax):
    plots.curves(ax, pd.DataFrame({"x": [0, 10], "y": 1.0, "by": "a"}), "x", "y", "by")
    ax.set_xscale("symlog", linthresh=0.01)
    assert -0.01 < ax.get_xlim()[0] <= 0


def test_the_legend_is_that_of_the_groups_alone_and_can_be_drawn_elsewhere(ax):
    plots.curves(ax, groups(2), "x", "y", "by")
    assert not ax.get_legend().get_title().get_text()
    figure, other = plt.subplots()
    plots.curves(other, groups(2), "x", "y", "by", legend=False)
    assert other.get_legend() is None
    assert other.get_legend_handles_labels()[1] == ["g0", "g1"]
    plt.close(figure)


def test_names_that_read_alike_are_refused(ax):
    alike = pd.DataFrame({"x": [0, 1], "y": 1.0, "by": [1, "1"]})
    with pytest.raises(ValueError, match="table: expected values of 'by' that do not read alike"):
        plots.curves(ax, alike, "x", "y", "by")
    with pytest.raises(ValueError, match="table: expected values of 'by' that do not read alike"):
        plots.forest(ax, alike.assign(mean=0, low=0, high=0), "x", "by")


def test_nine_groups_of_intervals_stay_in_their_row(ax):
    table = pd.DataFrame({"mean": 0.0, "low": -1.0, "high": 1.0, "by": list("abcdefghi")})
    plots.forest(ax, table.assign(label="one"), "label", "by")
    places = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert len(set(places)) == 9
    assert max(places) - min(places) < 0.9


def test_nine_modalities_are_told_apart(ax):
    plots.modalities(ax, [np.zeros((2, 2))] * 9, list("abcdefghi"))
    assert len({tuple(cloud.get_facecolors()[0]) for cloud in ax.collections}) == 9
    assert len({len(cloud.get_paths()[0].vertices) for cloud in ax.collections}) > 1
    assert ax.get_legend_handles_labels()[1] == list("abcdefghi")


@pytest.mark.parametrize("label", ["$5", "$\\nothing{$", "_hidden", "a_b $x$", 3])
def test_names_are_drawn_as_they_are(label):
    figure, axes = plt.subplots(1, 4)
    plots.curves(axes[0], groups(1, by=label), "x", "y", "by")
    row = {"mean": [0], "low": [0], "high": [0], "label": [label], "by": [label]}
    plots.forest(axes[1], pd.DataFrame(row), "label", "by")
    plots.timeline(axes[2], np.array([[0, 1]]), {label: np.array([0])})
    plots.modalities(axes[3], [np.zeros((1, 2))], [label])
    axes[3].legend()
    figure.canvas.draw()
    shown = axes[0].get_legend().get_texts()[0].get_text()
    assert shown.replace("\\$", "$").strip() == str(label)
    assert len(axes[3].get_legend().get_texts()) == 1
    plt.close(figure)


def test_a_group_without_rows_is_not_in_the_legend(ax):
    table = groups(2, by=pd.Categorical(["a", "a", "b", "b"], ["a", "none", "b"]))
    plots.curves(ax, table, "x", "y", "by")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_a_band_is_drawn_where_there_are_several_rows(ax):
    table = pd.DataFrame({"x": [0, 0, 1, 1, 2], "y": [1.0, 2, 1, 2, 5], "by": "a"})
    plots.curves(ax, table, "x", "y", "by")
    assert ax.collections[0].get_paths()[0].vertices[:, 0].max() == 1
    assert ax.lines[0].get_ydata().tolist() == [1.5, 1.5, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:0], "table: expected one row or more"),
        (lambda t: t.assign(y=[1, np.nan]), "table: expected no missing .* 'y': nan"),
        (lambda t: t.assign(y=[np.inf, 1]), "table: expected no missing or infinite .* inf"),
        (lambda t: t.assign(by=["a", None]), "table: expected no missing"),
        (lambda t: t.assign(x=[np.nan, 0]), "table: expected no missing"),
        (lambda t: t.drop(columns="y"), "table: column: expected one of x, by, got 'y'"),
    ],
)
def test_curves_refuse(ax, change, message):
    with pytest.raises(ValueError, match=message):
        plots.curves(ax, change(groups(1)), "x", "y", "by")


def test_a_mean_without_an_interval_is_a_point_alone(ax):
    table = pd.DataFrame({"mean": [1.0], "low": np.nan, "high": np.nan, "label": "a", "by": "b"})
    plots.forest(ax, table, "label", "by")
    points, interval = [line.get_xdata() for line in ax.lines if len(line.get_xdata())][:2]
    assert [*points] == [1.0]
    assert np.isnan(interval).all()


@pytest.mark.parametrize("missing", ["a", "b", "c", "ab", "abc"])
def test_rows_that_were_not_run_keep_their_places_in_a_forest(ax, missing):
    table = pd.DataFrame({"label": list("abc"), "mean": 0.0, "low": -1.0, "high": 1.0, "by": "x"})
    table.loc[table.label.isin([*missing]), ["mean", "low", "high"]] = np.nan
    plots.forest(ax, table, "label", "by")
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    drawn = [
        line.get_data() for line in ax.lines if len(line.get_xdata()) and line.get_marker() == "o"
    ]
    places = {y for xs, ys in drawn for x, y in zip(xs, ys, strict=True) if np.isfinite(x)}
    assert places == {"abc".index(label) for label in "abc" if label not in missing}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0.0, np.nan, 1.0), "finite intervals that hold their mean"),
        ((np.nan, -1.0, 1.0), "finite intervals that hold their mean"),
        ((np.inf, np.nan, np.nan), "finite intervals that hold their mean"),
        ((0.0, -1.0, np.inf), "finite intervals that hold their mean"),
        ((2.0, -1.0, 1.0), "finite intervals that hold their mean"),
    ],
)
def test_forest_refuses(ax, numbers, message):
    table = pd.DataFrame([numbers], columns=["mean", "low", "high"]).assign(label="a", by="b")
    with pytest.raises(ValueError, match=message):
        plots.forest(ax, table, "label", "by")


def test_forest_refuses_two_rows_in_one_place(ax):
    table = pd.DataFrame({"mean": [0, 1], "low": [0, 1], "high": [0, 1], "label": "a", "by": "b"})
    with pytest.raises(ValueError, match="expected one row for each label and by"):
        plots.forest(ax, table, "label", "by")


@pytest.mark.parametrize("matrix", [[[0.1, np.nan]], [[np.inf]], [], [0.1, 0.2]])
def test_heatmap_refuses(ax, matrix):
    with pytest.raises(ValueError, match="matrix: expected finite numbers"):
        plots.heatmap(ax, torch.tensor(matrix))


def test_heatmap_refuses_a_scale_without_length(ax):
    with pytest.raises(ValueError, match="low, high: expected finite numbers in order"):
        plots.heatmap(ax, torch.eye(2), low=1, high=1)


@pytest.mark.parametrize(
    ("times", "assigned", "message"),
    [
        ([[0, 1]], {}, "assigned: expected one assignment"),
        ([[0, 1]], {"a": np.array([0, 1])}, r"assigned\['a'\]: expected a whole number"),
        ([[0, 1]], {"a": np.array([0.0])}, r"assigned\['a'\]: expected a whole number"),
        ([[0, 1]], {"a": np.array([-2])}, r"assigned\['a'\]: expected a whole number"),
        ([[0, np.nan]], {"a": np.array([0])}, "times: expected finite times"),
        (np.empty((0, 2)), {"a": np.array([], int)}, "times: expected starts and ends"),
    ],
)
def test_timeline_refuses(ax, times, assigned, message):
    with pytest.raises(ValueError, match=message):
        plots.timeline(ax, np.array(times), assigned)


@pytest.mark.parametrize("cloud", [np.empty((0, 2)), np.zeros((3, 1)), np.full((1, 2), np.nan)])
def test_modalities_refuse(ax, cloud):
    with pytest.raises(ValueError, match="points: expected finite ones"):
        plots.modalities(ax, [cloud], ["a"])
