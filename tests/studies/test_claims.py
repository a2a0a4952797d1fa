import pandas as pd
import pytest

from modalign.metrics import Interval
from modalign.studies._claims import Claim, Reading, decided, judged, verdict, with_criteria

CLAIM = Claim("a beats b", "1.0, Table 1", "recall", "a minus b", "the same", 1.0, "toy/table")
GAIN, SAME = CLAIM._replace(denies="gain"), CLAIM._replace(denies="difference")


@pytest.mark.parametrize(
    ("low", "high", "plain", "no_gain", "no_difference"),
    [
        (0.1, 0.5, "holds", "reversed", "reversed"),
        (-0.5, -0.1, "reversed", "holds", "reversed"),
        (-0.5, 0.5, "absent", "holds", "holds"),
        (-2.0, 0.5, "absent", "holds", "undecided"),
        (-0.5, 2.0, "undecided", "undecided", "undecided"),
    ],
)
def test_one_rule_for_claims_and_denials(low, high, plain, no_gain, no_difference):
    interval = Interval((low + high) / 2, low, high)
    found = [verdict(claim, interval) for claim in (CLAIM, GAIN, SAME)]
    assert found == [plain, no_gain, no_difference]


def test_readings_are_rows_and_a_claim_has_one_verdict():
    claims = {"c1": CLAIM, "c2": SAME}
    found = [
        ("c1", "first", Interval(2, 1, 3), 5),
        ("c1", "second", Interval(0.5, -1, 2), 5),
        ("c2", "only", Interval(0, -0.1, 0.1), 5),
    ]
    rows = judged(claims, found)
    assert rows.verdict.tolist() == ["holds", "undecided", "holds"]
    assert rows.seeds.isna().tolist() == [True, False, True]
    assert rows.seeds[1] == found[1][2].seeds_to_decide(5, smallest=1.0)
    table = decided(rows)
    assert table.verdict.to_dict() == {"c1": "depends", "c2": "holds"}
    assert table.loc["c1", ["readings", "holds", "reversed", "absent", "undecided"]].tolist() == [
        2, 1, 0, 0, 1,
    ]  # fmt: skip
    assert table.symbol["c2"] == "\N{HEAVY CHECK MARK}"


def test_an_undeclared_claim_is_refused():
    with pytest.raises(KeyError, match="c3"):
        judged({"c1": CLAIM}, [("c3", "any", Interval(0, -1, 1), 5)])


def test_a_reading_is_told_with_what_its_claim_declares():
    other = SAME._replace(smallest=2.0, table="toy/other")
    found = [Interval(0.5, -1, 2), Interval(0, -0.1, 0.1)]
    readings = [Reading("c1", "one", CLAIM, found[0], 5), Reading("c1", "two", other, found[1], 6)]
    rows = with_criteria(readings)
    each = [judged({"c1": claim}, [("c1", *rest)]) for _, claim, *rest in (
        (r.claim, r.declared, r.name, r.found, r.pairs) for r in readings)]  # fmt: skip
    expected = pd.concat(each, ignore_index=True)
    pd.testing.assert_frame_equal(rows[list(expected)], expected)
    assert rows.table.tolist() == ["toy/table", "toy/other"]
    added = ["says", "paper", "measure", "contrast", "budget", "table", "exploratory"]
    assert rows.columns.difference(expected.columns, sort=False).tolist() == added
    assert decided(rows).verdict["c1"] == "depends"
