import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from modalign import records
from modalign.studies._claims import judged
from modalign.studies.cka import claims
from modalign.studies.cka.claims import CLAIMS, chosen, from_contrastive, from_map
from modalign.studies.cka.recording import SWEEPS, settings


def made_up_map(effect):
    """A map in which every objective ends with a known cosine, and cosine alone loses CKA."""
    ends = {"cosine": 0.5, "cka": effect, "both": 0.5 + effect, "both, warm-up": 0.5 + 2 * effect}
    rows = []
    for setting, epoch in itertools.product(
        settings(SWEEPS["cka/map"].grids, range(5)), (0, 1, 10)
    ):
        after = epoch > 0
        cosine = after * ends[setting.objective] + 1e-3 * setting.seed
        cka = 0.5 - effect * after + 1e-3 * setting.seed * epoch
        found = {f"cka_{measure}": cka for measure in ("biased", "debiased", "uncentred")}
        where = {"epoch": epoch, "split": "train", "cosine": cosine, **found}
        rows.append({**dataclasses.asdict(setting), **where})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("effect", "verdict"), [(0.1, "holds"), (-0.1, "reversed")])
def test_claims_read_a_known_map(effect, verdict):
    found = judged(CLAIMS, from_map(made_up_map(effect)))
    sizes = found.groupby("claim").size().to_dict()
    assert sizes == {"c1": 48, "c2": 12, "c3a": 72, "c3b": 72, "c3c": 12, "c4": 72}
    assert set(found.verdict) == {verdict}
    means = found.groupby("claim")["mean"].agg(["min", "max"])
    for claim, known in {"c3a": 2, "c3b": 2, "c3c": 1, "c4": 1}.items():
        assert means.loc[claim].tolist() == pytest.approx([known * effect] * 2)
    assert set(claims.verdicts(found).verdict) == {verdict}


def test_an_exploratory_claim_changes_no_verdict():
    found = judged(CLAIMS, from_map(made_up_map(0.1)))
    found.loc[found.claim == "c3c", "verdict"] = "reversed"
    assert claims.verdicts(found).verdict["c3"] == "holds"


def test_one_objective_that_scatters_leaves_its_readings_undecided():
    table = made_up_map(0.1)
    table.loc[table.objective == "both", "cosine"] = 0.5 + 0.1 * (table.seed % 2 * 2 - 1)
    found = judged(CLAIMS, from_map(table))
    assert set(found[found.claim == "c3c"].verdict) == {"undecided"}
    assert set(found[found.claim == "c3a"].verdict) == {"holds"}


def test_claims_refuse_a_seed_that_one_side_lacks():
    table = made_up_map(0.1)
    lacks = (table.objective == "both") & (table.seed == 3)
    with pytest.raises(ValueError, match="lacks 3, which"):
        list(from_map(table[~lacks]))


def made_up_search():
    """The test half likes another value than the validation half, which alone may choose."""
    rows = []
    for setting in settings(SWEEPS["cka/contrastive"].grids, range(5)):
        tried = setting.lambda_cka if setting.objective == "both" else setting.temperature
        for split in ("validation", "test"):
            liked = {"validation": 1.0, "test": 0.1}[split]
            cosine = 0.5 * (tried == liked) + 0.1 * (setting.objective == "both")
            found = {"split": split, "cosine": cosine, "shuffled_cosine": 0.0}
            rows.append({**dataclasses.asdict(setting), **found, "recall_at_1": cosine})
    return pd.DataFrame(rows)


def test_searches_are_chosen_on_the_validation_half_and_read_on_the_other():
    table = made_up_search()
    best = chosen(table)
    assert (best.value == 1.0).all()
    assert not best.end.any()
    found = judged(CLAIMS, from_contrastive(table))
    assert found[found.claim == "c39a"]["mean"].to_numpy() == pytest.approx([0.1] * 4)
    assert found[found.claim == "c39b"]["mean"].to_numpy() == pytest.approx([0.0] * 4)


# the recorded tables


@pytest.fixture(scope="module")
def rows():
    return claims.rows()


def test_every_declared_claim_is_decided_from_its_recorded_table(rows):
    assert set(rows.claim) == set(CLAIMS)
    tables = {table for claim in CLAIMS.values() for table in claim.table.split(", ")}
    assert all(records.load(table).attrs["parameters"]["seeds"] for table in tables)
    assert (rows.pairs >= 5).all()


def test_no_reading_compares_a_side_with_itself(rows):
    """Differences that are the same for all seeds say that one setting did not reach its runs."""
    same = rows[rows.low == rows.high]
    assert same.empty, same[["claim", "reading"]].to_string()


def by_the_rule(row, denies):
    """The book's rule, written a second time."""
    if denies:
        apart = row.low > 0 or row.high < 0
        inside = -row.smallest < row.low and row.high < row.smallest
        return "reversed" if apart else "holds" if inside else "undecided"
    if row.low > 0 or row.high < 0:
        return "holds" if row.low > 0 else "reversed"
    return "absent" if row.high < row.smallest else "undecided"


def test_every_verdict_follows_from_its_interval(rows):
    for row in rows.itertuples():
        assert row.verdict == by_the_rule(row, CLAIMS[row.claim].denies), row


def test_intervals_are_students_from_the_recorded_map(rows):
    table = records.load("cka/map").query("split == 'train' and epoch == 10 and order == 'bn-relu'")
    cosine = table.query("objective == 'cosine' and pairs == 'shared' and statistics == 'set'")
    both = table.query(
        "objective == 'both, warm-up' and pairs == 'shared' and measure == 'debiased'"
        " and warmup_steps == 5 and not counted"
    )
    a, b = (part.sort_values("seed").cosine.to_numpy() for part in (both, cosine))
    known = stats.ttest_rel(a, b).confidence_interval(0.95)
    reading = "shared, bn-relu, debiased, 5 steps before"
    found = rows[(rows.claim == "c3a") & (rows.reading == reading)].iloc[0]
    assert [found["mean"], found.low, found.high] == pytest.approx([np.mean(a - b), *known])
