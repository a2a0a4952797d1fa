import numpy as np
import pandas as pd
import pytest
from scipy import stats

from modalign.metrics import difference, excluding_zero, p_values


def intervals(sides):
    found = [{**difference(*side)._asdict(), "pairs": len(side[0])} for side in sides]
    return pd.DataFrame(found)


def draws(n, shift, pairs=6, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=pairs) + shift, rng.normal(size=pairs)) for _ in range(n)]


def test_p_values_are_those_of_the_paired_test():
    sides = draws(5, 1.0)
    known = [stats.ttest_rel(*side).pvalue for side in sides]
    assert p_values(intervals(sides)) == pytest.approx(known)


def test_p_is_below_a_twentieth_where_the_interval_excludes_zero():
    table = intervals(draws(200, 0.9))
    excludes = (table.low > 0) | (table.high < 0)
    assert 20 < excludes.sum() < 180
    assert ((p_values(table) < 0.05) == excludes).all()
    assert excluding_zero(table).nominal == excludes.sum()


def test_chance_is_taken_back_and_effects_stay():
    chance = excluding_zero(intervals(draws(400, 0.0)))
    assert 5 < chance.nominal < 40
    assert chance.corrected <= 1
    assert excluding_zero(intervals(draws(50, 10.0))) == (50, 50, 50)


def test_benjamini_and_hochberg_by_hand():
    # the k-th smallest of m p-values stays where some j >= k has p_(j) <= 0.05 j / m
    table = intervals(draws(40, 1.5, seed=3))
    p = np.sort(p_values(table))
    below = np.flatnonzero(p <= 0.05 * np.arange(1, 41) / 40)
    assert excluding_zero(table).corrected == below.max() + 1
    assert excluding_zero(table).corrected < excluding_zero(table).nominal


def test_an_interval_without_width():
    table = pd.DataFrame({"mean": [1.0, 0], "low": [1.0, 0], "high": [1.0, 0], "pairs": [5, 5]})
    assert p_values(table).tolist() == [0, 1]


@pytest.mark.parametrize(
    "change", [{"low": np.nan}, {"pairs": 1}, {"mean": 5.0}], ids=["nan", "one pair", "skewed"]
)
def test_what_is_no_student_interval_is_refused(change):
    table = pd.DataFrame([{"mean": 1.0, "low": 0.0, "high": 2.0, "pairs": 5} | change])
    with pytest.raises(ValueError, match="expected one or more finite Student intervals"):
        p_values(table)


def test_a_missing_column_and_no_row_are_refused():
    with pytest.raises(ValueError, match="table: column: expected one of .* got 'pairs'"):
        p_values(pd.DataFrame([{"mean": 1.0, "low": 0.0, "high": 2.0}]))
    with pytest.raises(ValueError, match="expected one or more finite"):
        p_values(pd.DataFrame(columns=["mean", "low", "high", "pairs"]))
