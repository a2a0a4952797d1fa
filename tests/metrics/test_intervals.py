import itertools
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from modalign.metrics import (
    SYMBOLS,
    Interval,
    Verdict,
    difference,
    interval_table,
    of_readings,
    paired_table,
    seed_interval,
)


def draw(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


# one value a seed


def test_interval_is_scipys():
    values = draw(7)
    known = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = seed_interval(values, confidence=0.9)
    assert found.mean == pytest.approx(values.mean())
    assert found[1:] == pytest.approx((known.low, known.high))
    assert difference(values, confidence=0.9) == found


def test_difference_is_scipys_paired_one():
    a, b = draw(6, 0), draw(6, 1)
    known = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = difference(a, b)
    assert found == pytest.approx((np.mean(a - b), known.low, known.high))
    assert difference(torch.tensor(a), b.tolist()) == pytest.approx(found)


def test_pairing_cancels_what_a_seed_does_to_both_sides():
    seeds, noise = 10 * draw(5, 0), draw(5, 1)
    _, low, high = difference(seeds + noise, seeds)
    assert high - low < 0.3 * np.ptp(seed_interval(seeds))
    assert (low, high) == pytest.approx(seed_interval(noise)[1:])


def test_mappings_are_paired_by_key():
    a, b = draw(4, 0), draw(4, 1)
    forward = dict(enumerate(a))
    backward = {key: b[key] for key in (2, 0, 3, 1)}
    assert difference(forward, backward) == difference(a, b)
    assert difference(forward) == seed_interval(a)


@pytest.mark.parametrize("method", ["t", "percentile", "bca"])
def test_sides_swapped_give_the_interval_mirrored(method):
    a, b = draw(8, 0), draw(8, 1)
    found, mirrored = difference(a, b, method=method), difference(b, a, method=method)
    assert mirrored == pytest.approx((-found.mean, -found.high, -found.low), abs=1e-3)


@pytest.mark.parametrize(("method", "n"), [("t", 5), ("percentile", 80), ("bca", 80)])
def test_intervals_cover_as_often_as_they_say(method, n):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        shared = rng.normal(size=n)
        _, low, high = difference(
            shared + rng.normal(size=n), shared, method=method, confidence=0.9, resamples=300
        )
        covered.append(low <= 0 <= high)
    assert np.mean(covered) == pytest.approx(0.9, abs=0.03)


# the bootstrap


def test_percentile_bootstrap_of_three_values_is_the_one_counted_out():
    values = np.array([0.0, 1.0, 5.0])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=3)]
    found = difference(values, method="percentile", confidence=0.8, resamples=200_000)
    assert found.mean == values.mean()
    assert found[1:] == pytest.approx(np.quantile(means, [0.1, 0.9]), abs=0.01)


def test_bca_is_scipys():
    a, b = np.exp(draw(30, 0)), np.exp(draw(30, 1))
    known = stats.bootstrap(
        (a - b,), np.mean, n_resamples=20_000, method="BCa", random_state=np.random.default_rng(1)
    ).confidence_interval
    found = difference(a, b, method="bca", resamples=20_000)
    assert found[1:] == pytest.approx((known.low, known.high), abs=0.02)
    assert found[1:] != pytest.approx(difference(a, b, method="percentile")[1:], abs=0.005)


def test_a_statistic_of_means_gives_what_means_give():
    a, b = draw(12, 0), draw(12, 1)
    for method in ("percentile", "bca"):
        known = difference(a, b, method=method, resamples=500)
        found = difference(a, b, statistic=np.mean, method=method, resamples=500)
        assert found == pytest.approx(known)


def test_both_sides_of_a_statistic_draw_the_same_examples():
    rows = np.random.default_rng(0).integers(1, 9, (20, 2))

    def ratio(rows):
        return rows[:, 0].sum() / rows[:, 1].sum()

    assert difference(rows, rows, statistic=ratio, method="percentile") == (0, 0, 0)
    found = difference(rows, rows[:, ::-1], statistic=ratio, method="percentile", resamples=300)
    by_index = difference(
        np.arange(20),
        statistic=lambda i: ratio(rows[i]) - ratio(rows[i, ::-1]),
        method="percentile",
        resamples=300,
    )
    assert found == by_index
    assert found.mean == ratio(rows) - ratio(rows[:, ::-1])


def test_the_seed_decides_and_nothing_else():
    values = draw(30)
    found = difference(values, method="percentile", seed=1)
    np.random.random(3)  # noqa: NPY002
    assert difference(values, method="percentile", seed=1) == found
    assert difference(values, method="percentile", seed=2) != found


def test_a_bootstrap_that_needs_several_portions_is_the_same(monkeypatch):
    values = draw(30)
    whole = difference(values, method="percentile", resamples=1000)
    monkeypatch.setattr("modalign.metrics.intervals._AT_A_TIME", 1000)
    assert difference(values, method="percentile", resamples=1000) == whole


def test_values_that_do_not_vary():
    assert difference([2, 2, 2], [1, 1, 1], method="percentile") == (1, 1, 1)
    assert difference([2, 2, 2], [1, 1, 1]) == (1, 1, 1)
    with pytest.raises(ValueError, match="method: BCa is undefined here"):
        difference([2, 2, 2], [1, 1, 1], method="bca")


# what is refused


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]], [1.0, np.nan], [1.0, np.inf], 3.0])
def test_interval_refuses(values):
    with pytest.raises(ValueError, match="values: expected"):
        seed_interval(values)
    with pytest.raises(ValueError, match="a: expected"):
        difference(values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_interval_refuses_a_confidence(confidence):
    for function in (seed_interval, difference):
        with pytest.raises(ValueError, match="confidence: expected"):
            function([1.0, 2.0], confidence=confidence)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: difference([1, 2], [1, 2, 3]), ValueError, "a, b: .* same seeds .* 2 and 3"),
        (lambda: difference({0: 1, 1: 2}, {0: 1, 7: 2}), ValueError, "b: lacks 1, which a has"),
        (lambda: difference({0: 1, 1: 2}, {0: 1, 1: 3, 7: 2}), ValueError, "a: lacks 7, which b"),
        (lambda: difference({0: 1, 1: 2}, [1, 2]), TypeError, "two mappings, .* dict and a list"),
        (lambda: difference([1, 2], [np.nan, 2]), ValueError, "b: expected finite .* nan at 0"),
        (lambda: difference([1, 2], method="bcaa"), ValueError, "method: .*did you mean 'bca'"),
        (lambda: difference([1, 2], resamples=0), ValueError, "resamples: expected at least 1"),
        (lambda: difference([1, 2], statistic=np.mean), ValueError, "method: a statistic is boot"),
        (
            lambda: difference([1], statistic=np.mean, method="bca"),
            ValueError,
            "a: expected the rows of at least 2 examples",
        ),
        (
            lambda: difference([1, 2], statistic=lambda rows: np.nan, method="percentile"),
            ValueError,
            "statistic: expected finite numbers",
        ),
    ],
)
def test_difference_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


# tables


RUNS = pd.DataFrame(
    {
        "optimizer": ["adam"] * 4 + ["lars"] * 4 + ["sgd"] * 4,
        "seed": [0, 1, 2, 3, 3, 2, 1, 0, 1, 0, 2, 3],
        "accuracy": draw(12, 0),
        "iou": draw(12, 1),
    }
)


def test_interval_table_is_text():
    table = interval_table(RUNS, "optimizer", ["iou"])
    part = RUNS[RUNS.optimizer == "lars"].iou
    assert table.loc["lars", "iou"] == f"{seed_interval(part):.3f}"


def test_paired_table_pairs_by_seed_whatever_the_order():
    table = paired_table(RUNS, by="optimizer", baseline="adam", columns=["accuracy", "iou"])
    assert table.columns.to_list() == ["optimizer", "measure", "mean", "low", "high", "pairs"]
    assert table["optimizer"].to_list() == ["lars", "lars", "sgd", "sgd"]
    assert table["measure"].to_list() == ["accuracy", "iou"] * 2
    assert (table["pairs"] == 4).all()
    wide = RUNS.pivot(index="seed", columns="optimizer", values="iou")
    known = seed_interval(wide["sgd"] - wide["adam"])
    assert Interval(*table.loc[3, ["mean", "low", "high"]]) == pytest.approx(known)


def test_paired_table_takes_the_options_of_difference():
    options = {"method": "percentile", "resamples": 200, "seed": 3}
    table = paired_table(
        RUNS.rename(columns={"seed": "image"}),
        by="optimizer",
        baseline="lars",
        columns=["iou"],
        paired_by="image",
        **options,
    )
    wide = RUNS.pivot(index="seed", columns="optimizer", values="iou")
    # in the order of the condition's own rows
    order = RUNS[RUNS.optimizer == "adam"].seed
    known = difference(wide["adam"][order], wide["lars"][order], **options)
    assert Interval(*table.loc[0, ["mean", "low", "high"]]) == pytest.approx(known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(index=5), "'lars': lacks 2, which 'adam' has"),
        (lambda t: t.drop(index=[0, 2]), "'adam': lacks 2, 0, which 'lars' has"),
        (
            lambda t: pd.concat([t, t.iloc[5:6]]),
            "one row for each seed of 'lars', got several of 2",
        ),
        (lambda t: t.assign(iou=t.iou.where(t.index != 6)), "missing value, .*'seed': 1"),
        (lambda t: t[t.optimizer == "adam"], "a condition beside 'adam'"),
        (lambda t: t[t.optimizer != "adam"], "baseline: expected one of lars, sgd"),
        (lambda t: t.drop(columns="iou"), "table: column: expected one of .*, got 'iou'"),
        (lambda t: t[t.seed == 0], "a: expected at least 2 numbers"),
    ],
)
def test_paired_table_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        paired_table(change(RUNS), by="optimizer", baseline="adam", columns=["iou"])


def test_interval_table_groups_by_a_level_of_the_index():
    means = RUNS.groupby(["optimizer", "seed"]).mean()
    table = interval_table(means, "optimizer", ["iou"])
    assert table.to_dict() == interval_table(RUNS, "optimizer", ["iou"]).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:0], "table, columns: expected rows"),
        (lambda t: t.assign(iou=np.nan), "missing value"),
        (lambda t: t.assign(optimizer=t.optimizer.where(t.seed > 0)), "missing value"),
        (lambda t: t.drop(columns="iou"), "got 'iou'"),
        (lambda t: t[t.seed == 0], "at least 2 numbers"),
    ],
)
def test_interval_table_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        interval_table(change(RUNS), "optimizer", ["iou"])


def test_categories_without_rows_are_no_conditions():
    kinds = pd.Categorical(RUNS.optimizer, ["adam", "lars", "sgd", "none"])
    assert len(interval_table(RUNS.assign(optimizer=kinds), "optimizer", ["iou"])) == 3


@pytest.mark.parametrize("columns", [[], "iou"])
def test_tables_need_a_list_of_measures(columns):
    with pytest.raises(ValueError, match="table, columns: expected rows and a list of columns"):
        paired_table(RUNS, by="optimizer", baseline="adam", columns=columns)


# labels


FIRST = pd.Series({0: 0.10, 1: 0.50, 2: 0.90})
SECOND = pd.Series({2: 0.91, 0: 0.13, 1: 0.51})
KNOWN = difference([0.10, 0.50, 0.90], [0.13, 0.51, 0.91])


@pytest.mark.parametrize("first", [FIRST, FIRST.to_dict(), FIRST.rename("a"), FIRST[::-1]])
@pytest.mark.parametrize("second", [SECOND, SECOND.to_dict(), SECOND.sort_index()])
def test_labelled_values_are_paired_by_label(first, second):
    assert difference(first, second) == pytest.approx(KNOWN)
    assert difference(first, second, method="bca", resamples=99).mean == pytest.approx(KNOWN.mean)


def test_labels_may_have_levels():
    a, b = (side.set_axis([("x", i) for i in side.index]) for side in (FIRST, SECOND))
    levels = pd.MultiIndex.from_tuples(b.index)
    assert difference(a, b.set_axis(levels)) == pytest.approx(KNOWN)


def test_labels_that_number_the_places_stand_beside_a_list():
    assert difference(FIRST, [0.13, 0.51, 0.91]) == pytest.approx(KNOWN)
    assert difference(np.array([0.10, 0.50, 0.90]), SECOND.sort_index()) == pytest.approx(KNOWN)


def test_rows_and_columns_of_a_statistic_are_paired_by_label():
    rng = np.random.default_rng(0)
    a = pd.DataFrame(rng.integers(1, 9, (20, 2)), columns=["right", "all"])
    b = pd.DataFrame(rng.integers(1, 9, (20, 2)), columns=["right", "all"])

    def ratio(rows):
        return rows[:, 0].sum() / rows[:, 1].sum()

    options = {"statistic": ratio, "method": "percentile", "resamples": 50}
    known = difference(a.to_numpy(), b.to_numpy(), **options)
    assert difference(a, b.sample(frac=1, random_state=0)[["all", "right"]], **options) == known


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        (FIRST, pd.Series({7: 1.0, 8: 2.0, 9: 3.0}), ValueError, "b: lacks 0, 1, 2, which a has"),
        (FIRST, SECOND[:2], ValueError, "b: lacks 1, which a has"),
        (FIRST, {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}, ValueError, "a: lacks 3, which b has"),
        (FIRST.set_axis([0, 0, 1]), SECOND, ValueError, "a: expected each label once, .* 0"),
        (FIRST, SECOND.set_axis([0, 1, 1]), ValueError, "b: expected each label once, .* 1"),
        (FIRST.set_axis(["0", "1", "2"]), SECOND, ValueError, "b: lacks 0, 1, 2"),
        (SECOND, [0.1, 0.2, 0.3], TypeError, "a Series and a list"),
        (FIRST, [0.1, 0.2], TypeError, "a Series and a list"),
        (np.zeros(3), SECOND, TypeError, "a Series and a ndarray"),
        (FIRST.to_frame(), SECOND.to_frame(), ValueError, "a: expected at least 2 numbers"),
        (FIRST.set_axis([0, 1, np.nan]), SECOND, ValueError, "b: lacks nan"),
    ],
)
def test_labels_that_do_not_pair_are_refused(first, second, error, message):
    with pytest.raises(error, match=message):
        difference(first, second)


def test_other_columns_of_a_statistic_are_refused():
    a, b = pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"y": [1, 2]})
    with pytest.raises(ValueError, match="b: columns: lacks x, which a: columns has"):
        difference(a, b, statistic=np.mean, method="percentile")


# what is no number, or no longer one


@pytest.mark.parametrize(
    "values",
    [["0.1", "0.2"], [None, 1.0], [1 + 1j, 2.0], np.array(["2020", "2021"], "M8[Y]"), [{}, {}]],
)
def test_what_is_no_number_is_refused(values):
    with pytest.raises(ValueError, match="values: expected at least 2 numbers"):
        seed_interval(values)


@pytest.mark.parametrize(
    "values",
    [
        [np.float32(1), np.int64(2)],
        [True, 2],
        np.array([1, 2], np.float16),
        pd.Series([1, 2], dtype="Int64"),
        [torch.tensor(1.0), torch.tensor(2.0)],
        torch.nn.Parameter(torch.tensor([1.0, 2.0])),
    ],
)
def test_numbers_of_any_kind_will_do(values):
    assert seed_interval(values).mean == 1.5


@pytest.mark.parametrize("method", ["t", "percentile", "bca"])
@pytest.mark.parametrize(("a", "b"), [([1e308, 1.7e308, 1e308], None), ([1e308, 2], [-1e308, 1])])
def test_what_overflows_is_refused(a, b, method):
    with pytest.raises(ValueError, match="expected numbers whose sums and squares float64 holds"):
        difference(a, b, method=method)


def test_numbers_beyond_float64_are_refused():
    with pytest.raises(ValueError, match="values: expected numbers that float64 holds"):
        seed_interval([10**400, 1])


# the rule of verdicts


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 1.0, "holds"),
        (0.6, 1.0, "holds"),
        (0.0, 1.0, "undecided"),  # an end belongs to the interval
        (-0.1, 0.5, "undecided"),
        (-0.1, 0.49, "absent"),
        (-2.0, 0.49, "absent"),
        (0.0, 0.0, "absent"),
        (-1.0, 0.0, "absent"),
        (-1.0, -0.01, "reversed"),
    ],
)
def test_verdicts_at_the_borders(low, high, verdict):
    up, down = Interval((low + high) / 2, low, high), Interval(-(low + high) / 2, -high, -low)
    assert up.verdict(paper=0.5) == verdict
    assert down.verdict(paper=-0.5) == verdict
    assert up.verdict(paper=1, smallest=0.5) == verdict
    assert down.verdict(paper=-7.0, smallest=0.5) == verdict


def test_without_a_smallest_effect_nothing_is_absent():
    ends = [(0.1, 0.2), (0.0, 0.2), (-0.1, 0.0), (0.0, 0.0), (-0.2, -0.1)]
    found = [Interval(0, *each).verdict(paper=1, smallest=0) for each in ends]
    assert found == ["holds", "undecided", "undecided", "undecided", "reversed"]


@pytest.mark.parametrize(
    ("ends", "options", "message"),
    [
        ((np.nan, 1), {"paper": 1}, "interval: expected finite ends"),
        ((0, np.inf), {"paper": 1}, "interval: expected finite ends"),
        ((1, 0), {"paper": 1}, "interval: expected finite ends in order"),
        ((0, 1), {"paper": 0}, "paper: expected an effect with a side, got 0"),
        ((0, 1), {"paper": np.nan}, "paper: expected an effect with a side, got nan"),
        ((0, 1), {"paper": 1, "smallest": -0.1}, "smallest: expected the size"),
        ((0, 1), {"paper": 1, "smallest": np.nan}, "smallest: expected the size"),
    ],
)
def test_verdicts_refuse(ends, options, message):
    with pytest.raises(ValueError, match=message):
        Interval(0, *ends).verdict(**options)


def test_the_vocabulary_is_that_of_the_claims():
    assert list(SYMBOLS.values()) == ["\u2714", "\u2718", "\u25cb", "?", "\u25d0", "\u2013"]
    assert set(SYMBOLS) == set(get_args(Verdict))


def test_readings_that_differ_depend():
    assert of_readings(["absent"] * 3) == "absent"
    assert of_readings(iter(["holds", "reversed"])) == "depends"
    with pytest.raises(ValueError, match="verdicts: expected one or more"):
        of_readings([])
    with pytest.raises(ValueError, match="verdicts: .*did you mean 'holds'"):
        of_readings(["hold"])


@pytest.mark.parametrize(("seeds", "smallest"), [(5, 0.5), (5, 0.9), (3, 0.2), (10, 5.0)])
def test_seeds_to_decide_are_the_fewest(seeds, smallest):
    found = Interval(0.1, -0.4, 0.6)
    needed = found.seeds_to_decide(seeds, smallest=smallest)
    spread = stats.t.ppf(0.975, seeds - 1) / seeds**0.5

    def length(n):
        return stats.t.ppf(0.975, n - 1) / n**0.5 / spread

    assert length(needed) < smallest
    assert needed == 2 or length(needed - 1) >= smallest


def test_seeds_to_decide_are_found_at_once_where_they_are_many():
    # a scan would take hours
    assert Interval(0, -1, 1).seeds_to_decide(8, smallest=5e-4) > 10**7


@pytest.mark.parametrize(("seeds", "smallest"), [(1, 0.5), (5, 0), (5, np.nan), (5, 1e-9)])
def test_seeds_to_decide_refuse(seeds, smallest):
    with pytest.raises(ValueError, match="expected"):
        Interval(0.1, -0.4, 0.6).seeds_to_decide(seeds, smallest=smallest)


def test_rounding_is_no_difference():
    tenths = [0.1 * i + 0.2 for i in range(1, 6)]
    assert difference(tenths, [round(each, 3) for each in tenths]) == (0, 0, 0)
    assert difference([1.0, 2.0], [1.0 - 1e-14, 2.0 - 1e-14]).mean > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 2.5}, "resamples: expected at least 1, a whole number, got 2.5"),
        ({"seed": -1}, "seed: expected at least 0, a whole number, got -1"),
        ({"confidence": "0.9"}, "confidence: expected a number between 0 and 1, got '0.9'"),
    ],
)
def test_options_of_another_kind_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        difference([1, 2, 3], method="percentile", **options)
