"""What is claimed of NeuMATCH's rows, and the verdicts that the chapter prints."""

import numpy as np
import pandas as pd
import pytest

from modalign import records
from modalign.metrics import excluding_zero
from modalign.studies.neumatch.claims import (
    ADAM,
    CONTRASTS,
    DECIDED,
    DECISIONS,
    MEASURES,
    PARTS,
    SCORES,
    SET_BEFORE,
    STACKS,
    arms,
    beside,
    could_be_seen,
    judge,
    minus_unmatched,
    readings,
    steadiness,
    verdicts,
)
from modalign.studies.neumatch.experiments import NONE, PAPER, PUBLISHED, finals
from modalign.studies.neumatch.fair import COMPARISONS, VALIDATION, chosen, grids

OLDER = ("yms", "yms-long", "shapes")


def runs(levels):
    """Five seeds of rows with these scores; the last seed is a tenth better in all of them."""
    found = pd.DataFrame(
        [
            {"row": row, "seed": seed, **dict.fromkeys(MEASURES, level + 0.1 * (seed == 4))}
            for row, level in levels.items()
            for seed in range(5)
        ]
    )
    ratios = {f"last ratio {part}": 2.0 for part in PARTS}
    quantiles = [
        f"{s} {m} {q}%" for s in STACKS for m in ("mean", "variance") for q in (10, 50, 90)
    ]
    return found.assign(**ratios, **dict.fromkeys(quantiles, 0.0))


def test_a_contrast_is_paired_by_seed_and_its_smallest_effect_is_the_papers():
    table = runs({PAPER: 0.3, ADAM: 0.1})
    lars = [each for each in CONTRASTS if each.says == "LARS beats Adam"]
    found = judge(table, lars, fair=True)
    assert found["mean"].tolist() == pytest.approx([0.2, 0.2])
    assert found.paper.tolist() == found.smallest.tolist() == [0.089, 0.048]
    assert found.verdict.tolist() == ["holds", "holds"]
    even = judge(runs({PAPER: 0.3, ADAM: 0.3}), lars, fair=True)
    assert even.verdict.tolist() == ["absent", "absent"]
    older = judge(runs({PAPER: 0.3, ADAM: 0.3}), lars)  # no smallest effect was set for those
    assert older.verdict.tolist() == ["undecided", "undecided"]
    assert older.exploratory.tolist() == [False, False]


def test_contrasts_are_of_published_rows_and_once():
    assert len({(each.claim, each.says, each.measure) for each in CONTRASTS}) == len(CONTRASTS)
    for each in SCORES:
        assert {each.better, each.worse} <= set(PUBLISHED)
        of = MEASURES.index(each.measure)
        apart = PUBLISHED[each.better][of] - PUBLISHED[each.worse][of]
        assert each.paper == pytest.approx(apart / 100, abs=1e-9)
    assert set(SET_BEFORE) < {each.says for each in CONTRASTS}


def test_every_claim_has_its_decision_and_every_comparison_its_claims():
    tables = {each.claim for each in CONTRASTS if not each.claim.startswith("Table")}
    assert tables | {"c35", "c38", "Table 1"} == set(DECISIONS)
    for claim, decision in DECISIONS.items():
        if decision.comparison:
            assert claim in {each.claim for each in DECIDED[decision.comparison]}
    assert set(DECIDED) == set(COMPARISONS)


def test_verdicts_are_those_of_the_recorded_tables_by_the_one_rule():
    """Each verdict again from its interval; tests/studies/test_recomputed.py makes those again."""
    found = verdicts()
    for claim in found.index:
        decides = readings(claim)
        for each in decides.itertuples():
            middle, half = (each.low + each.high) / 2, (each.high - each.low) / 2
            assert each.mean == pytest.approx(middle)
            if claim == "c35":
                expected = "holds" if abs(each.mean) + half < each.smallest else "undecided"
            elif each.low > 0:
                expected = "holds"
            elif each.high < 0:
                expected = "reversed"
            else:
                expected = "absent" if each.high < each.smallest else "undecided"
            assert each.verdict == expected, (claim, each)
        of = set(decides.verdict)
        assert found.verdict[claim] == (of.pop() if len(of) == 1 else "depends")


def recorded(name):
    return (records.results_folder() / "neumatch" / f"fair-{name}.json").exists()


@pytest.mark.parametrize("name", [name for name in COMPARISONS if recorded(name)])
def test_a_recorded_comparison_was_made_as_it_was_decided(name):
    search, tested = (records.load(f"neumatch/fair-{name}{end}") for end in ("-search", ""))
    best = chosen(search, COMPARISONS[name].reach)
    assert tested.groupby("row").rate.unique().map(list).to_dict() == {
        arm: [rate] for arm, rate in best.items()
    }
    assert {arm: tuple(sorted(part.rate.unique())) for arm, part in search.groupby("row")} == {
        arm: tuple(sorted(rates)) for arm, rates in grids(name).items()
    }
    assert not set(search.seed) & set(tested.seed)
    assert not [column for column in search if column.startswith("test ")]
    assert set(VALIDATION) <= set(search)


@pytest.mark.parametrize("name", [name for name in COMPARISONS if recorded(name)])
def test_a_fair_reading_stands_beside_the_one_with_one_rate_each(name):
    found = beside(name)
    assert len(found) == len(DECIDED[name])
    world = COMPARISONS[name].common.get("dataset", "shapes")
    older = judge(finals(records.load(f"neumatch/{world}")), DECIDED[name])
    for row in older.itertuples():
        kept = found.loc[(row.claim, row.reading, row.measure), "one rate"]
        assert (kept["mean"], kept["verdict"]) == (row.mean, row.verdict)
    for claim in found.index.unique("claim"):
        if claim in DECISIONS and DECISIONS[claim].comparison == name:
            verdict = found.loc[claim]["fair"].verdict
            assert verdict.tolist() == readings(claim).verdict.tolist()


def test_a_fair_comparison_decides_in_place_of_the_older_table(tmp_path):
    arms = COMPARISONS["optimizers"].arms
    tested = runs({arm: 0.3 - 0.1 * (arm == ADAM) for arm in arms}).assign(epoch=30, rate=0.003)
    search = pd.concat(
        [
            tested[tested.row == arm].assign(rate=rate)
            for arm in arms
            for rate in grids("optimizers")[arm]
        ]
    )
    best = (search.rate == 0.003).astype(float)
    search = search.assign(**dict.fromkeys(VALIDATION, best), **{"train text_iou": 0.5})
    for name, table in (("", tested), ("-search", search)):
        path = f"neumatch/fair-optimizers{name}"
        records.save(table, path, parameters={}, seconds=1.0, folder=tmp_path)
    found = readings("c29", tmp_path)
    assert found.fair.all()
    assert found.verdict.tolist() == ["holds", "holds", "absent", "absent"]
    # no rate of LARS is 0.003 in its grid: all are as good, and the first is taken
    assert found.budget[0].endswith("at an end of its grid: RP + SBN + LARS")


def equal_training(short):
    """The comparison at equal training scores; ``short`` arms end below them with seeds 0 and 1."""
    arms = COMPARISONS["normalizations"].arms
    early, late = (
        runs(dict.fromkeys(arms, 0.3)).assign(epoch=epoch, rate=0.003) for epoch in (5, 90)
    )
    low = late.row.isin(short) & late.seed.isin([0, 1])
    late["train text_iou"] = np.where(low, 0.8, 0.95)
    return pd.concat([early.assign(**{"train text_iou": 0.5}), late], ignore_index=True)


def test_arms_that_stay_below_the_training_score_are_named(tmp_path):
    search = pd.concat(
        [
            equal_training([])
            .query("row == @arm")
            .assign(rate=rate, **dict.fromkeys(VALIDATION, 0.2))
            for arm, rates in grids("normalizations").items()
            for rate in rates
        ]
    )
    better = np.isin(search.rate, (0.003, 0.002)) * 0.1
    search[VALIDATION[0]] += better
    for name, table in (("-search", search), ("", equal_training(["RP + 2xLN + LARS"]))):
        path = f"neumatch/fair-normalizations{name}"
        records.save(table, path, parameters={}, seconds=1.0, folder=tmp_path)
    shown = arms("normalizations", tmp_path)
    assert shown.index.tolist() == list(COMPARISONS["normalizations"].arms)
    assert (shown.epoch == "90").all()
    assert shown.short[shown.short != "none"].to_dict() == {"RP + 2xLN + LARS": "2 of 5 runs"}
    assert shown.video_accuracy.iloc[0].startswith("32.0 ")
    budget = readings("c31a", tmp_path).budget[0]
    assert budget.endswith(
        "read at the end, short of 90% in training: RP + 2xLN + LARS (2 of 5 runs)"
    )
    assert "end of its grid" not in budget


def test_how_many_exclude_zero_and_what_could_be_seen():
    tables = {name: judge(finals(records.load(f"neumatch/{name}")), SCORES) for name in OLDER}
    counted = {name: tuple(excluding_zero(table)) for name, table in tables.items()}
    assert counted == {"yms": (20, 2, 0), "yms-long": (6, 3, 3), "shapes": (29, 15, 10)}
    seen = could_be_seen(tables["yms"])
    assert (seen["blind"], seen["undecided"], seen["exclude"]) == (13, 18, 7)


def test_rows_minus_the_line_that_leaves_every_clip_out():
    lines = pd.DataFrame(
        {"assignment": "all unmatched", "seed": range(5), "video_accuracy": 0.1, "text_iou": 0.0}
    )
    found = minus_unmatched(runs({PAPER: 0.3, NONE: 0.1}), lines).set_index(["row", "measure"])
    assert found["mean"].to_numpy() == pytest.approx(np.array([0.22, 0.32, 0.02, 0.12]))
    assert (found.pairs == 5).all()


def test_a_row_that_still_moves_is_not_steady():
    table = pd.DataFrame(
        {
            "row": PAPER,
            "seed": [0, 0, 1, 1, 2, 2],
            "epoch": [250, 350] * 3,
            **{measure: [0.1, 0.2, 0.1, 0.21, 0.1, 0.19] for measure in MEASURES},
        }
    )
    assert steadiness(table).verdict.tolist() == ["reversed", "reversed"]
    still = table.assign(**dict.fromkeys(MEASURES, 0.1))
    assert steadiness(still).verdict.tolist() == ["holds", "holds"]
