import math

import pandas as pd
import pytest
import torch

from modalign.studies._schedules import share_of_rate
from modalign.studies.vatt import experiments
from modalign.studies.vatt.experiments import (
    CLAIMS,
    LONGER,
    METHODS,
    RANDOM,
    STRICT,
    UNTRAINED,
    Method,
    Objective,
    Setting,
    build,
    claims,
    evaluate,
    gap,
    like,
    mixing,
    pretrain,
    record,
    rows_of,
    tasks,
    training_set,
    verdicts,
)

TINY = {"examples": 64, "held_out": 32, "labelled": 60, "steps": 4, "batch_size": 8}


def weights(run):
    return torch.cat([each.detach().flatten() for each in run.model.parameters()])


@pytest.fixture(scope="module")
def runs():
    names = ("baseline", "GR", "CL", "RW (VA x2)")
    return {n: pretrain(Setting(**TINY), METHODS[n], progress=False) for n in names}


def test_a_method_of_equal_weights_is_the_plain_sum():
    setting = Setting(**TINY)
    model, _ = build(setting)
    objective = Objective(model, METHODS["baseline"], 4)
    batch = training_set(setting).rows(slice(8)).batch()
    found = objective.loss(model, batch)
    torch.testing.assert_close(found["loss"], found["va"] + found["vt"])
    doubled = Objective(model.eval(), Method(va=2.0), 4).loss(model, batch)
    expected = (4 * doubled["va"] + 2 * doubled["vt"]) / 3  # weights sum to 2, as without
    torch.testing.assert_close(doubled["loss"], expected)


def test_methods_differ_and_runs_come_again(runs):
    again = pretrain(Setting(**TINY), METHODS["GR"], progress=False)
    assert torch.equal(weights(again), weights(runs["GR"]))
    assert not torch.equal(weights(runs["GR"]), weights(runs["baseline"]))
    assert not torch.equal(weights(runs["RW (VA x2)"]), weights(runs["baseline"]))
    assert runs["baseline"].accepted == [1.0] * 4
    assert {"cosine", "conflict", "accepted", "va", "vt"} <= set(runs["GR"].history)


def gradients(method):
    setting = Setting(**TINY)
    model, _ = build(setting, drop=0.0)
    objective = Objective(model, method, 4)
    objective.backward(objective.loss(model, training_set(setting).rows(slice(8)).batch()))
    assert objective.accepted == [1.0]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_a_curriculum_that_keeps_all_is_the_baseline(granularity):
    kept = Method(curriculum=True, gamma=(-1.0, -1.0), granularity=granularity)
    expected = gradients(METHODS["baseline"])
    torch.testing.assert_close(gradients(kept), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Detected call of", "ignore:backward. no step")
def test_skipped_batches_move_no_weight():
    skip = pretrain(Setting(**TINY), decisions=[False] * 4, progress=False)
    model, _ = build(Setting(**TINY))
    for one, other in zip(skip.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert skip.accepted == [0.0] * 4


def test_random_decisions_drop_as_many_in_each_stretch():
    accepted = [float(i % 3 > 0) for i in range(120)]
    decisions = like(accepted, seed=1)
    for start in (0, 50, 100):
        stretch = slice(start, start + 50)
        assert sum(decisions[stretch]) == sum(accepted[stretch])
    assert decisions != [bool(each) for each in accepted]
    assert decisions == like(accepted, seed=1) != like(accepted, seed=2)


def test_samples_are_dropped_one_by_one():
    run = pretrain(Setting(**TINY), METHODS["CL of samples"], progress=False)
    assert any(0 < each < 1 for each in run.accepted)


def test_all_that_is_measured():
    found = evaluate(pretrain(Setting(**{**TINY, "tune_steps": 2}), progress=False))
    assert set(found) == {
        *(f"recall_at_{k}" for k in (1, 5, 10)),
        "median_rank",
        *("video", "audio", "video_tuned", "audio_tuned"),
        *(f"{what}_{where}" for what in ("mixing", "gap") for where in ("trunk", "space")),
    }
    assert all(math.isfinite(each) for each in found.values())
    assert found == evaluate(pretrain(Setting(**{**TINY, "tune_steps": 2}), progress=False))


def test_mixing_of_one_cloud_and_of_two():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    assert mixing(x[:150], x[150:]) == pytest.approx(1, abs=0.05)
    assert mixing(x[:150] - 50, x[150:] + 50) == 0
    assert mixing(x[:4], x[:4], k=1) == pytest.approx(7 / 4)  # each one's nearest is its double
    with pytest.raises(ValueError, match="x, y, k: expected two clouds of one size"):
        mixing(x[:4], x[:5])
    with pytest.raises(ValueError, match="of more than k points together"):
        mixing(x[:5], x[5:10])


def test_gap_is_that_of_the_centres_over_the_width():
    x, y = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(0)).double()
    near, far = gap(x, y + 1), gap(x, y + 2)
    assert far > near
    assert gap(5 * x, 5 * (y + 1)) == pytest.approx(near)
    turned = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert gap(x @ turned, (y + 1) @ turned) == pytest.approx(near)
    with pytest.raises(ValueError, match="expected clouds with a width"):
        gap(torch.ones(3, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="expected clouds with a width and two centres"):
        gap(x, x)


def test_the_rate_rises_and_falls_to_half():
    rates = [share_of_rate(step, steps=200, warm_up=0.1, last=0.5) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[20] == 1
    assert rates[-1] == pytest.approx(0.5)
    assert rates[20:] == sorted(rates[20:], reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 1.5}, "rate: expected a chance from 0 to 1, got 1.5"),
        ({"batch_size": 1}, "batch_size: expected 2 to 64 triplets, got 1"),
        ({"batch_size": 65}, "batch_size: expected 2 to 64 triplets, got 65"),
        ({"dataset": "howto100m"}, "dataset: expected one of shapes, digits, folder"),
    ],
)
def test_settings_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        Setting(**{**TINY, **changes})


def test_rows_refuse_another_method():
    with pytest.raises(ValueError, match="row: expected one of baseline, .*, got 'PCGrad'"):
        rows_of("PCGrad", Setting(**TINY))


@pytest.mark.filterwarnings("ignore:Detected call of", "ignore:backward. no step")
def test_the_strict_curriculum_comes_with_its_controls():
    rows = {row["row"]: row for row in rows_of(STRICT, Setting(**{**TINY, "steps": 8}))}
    assert set(rows) == {STRICT, RANDOM, LONGER}
    assert rows[RANDOM]["updates"] == rows[STRICT]["updates"] < 8
    assert rows[LONGER]["steps"] > 8


def test_the_sweep_holds_what_the_claims_are_about():
    planned = {(row, s.rate, s.examples) for row, s in tasks(range(2))}
    controls = {RANDOM, LONGER}
    for claim, asked in CLAIMS.items():
        for row in {asked.row, asked.other} - controls:
            assert (row, asked.rate, asked.examples) in planned, claim
    assert (UNTRAINED, 0.3, 2048) in planned
    seeds = pd.Series([s.seed for _, s in tasks(range(2))]).value_counts()
    assert seeds[0] == seeds[1]


def table(effects, seeds=5, spread=0.1):
    """A table in which each row's measures are 50, more by its effect, with some spread."""
    rows = []
    for rate, examples in ((0.3, 2048), (0.6, 2048), (0.6, 4096)):
        for row in METHODS:
            for seed in range(seeds):
                value = (
                    50
                    + seed
                    + effects.get(row, 0)
                    + spread * ((seed * 7) % 5 - 2) * (row != "baseline")
                )
                rows.append({"row": row, "rate": rate, "examples": examples, "seed": seed})
                names = {asked.measure for asked in CLAIMS.values()}
                rows[-1] |= dict.fromkeys(names, value)
    return pd.DataFrame(rows)


def test_verdicts_on_planted_effects():
    found = verdicts(table({"GR": 3, "CL": -3, "RW (VA x2)": -2, "GR + CL": 9}))
    assert found["c15"] == "holds"
    assert found["c16"] == "depends"  # of batches it is worse, of samples there is nothing
    assert found["c17"] == found["c19"] == found["c20"] == "holds"
    assert found["c18"] == "holds"  # worse, or no gain of interest
    assert verdicts(table({"RW (VT x4)": 5}))["c18"] == "depends"
    better = {row: 5.0 for row in METHODS if row.startswith("RW")}
    assert verdicts(table(better))["c18"] == "reversed"


def test_contrasts_that_a_table_lacks_are_left_out():
    part = table({}).query("rate == 0.3")
    assert "c19a" not in set(claims(part).claim)
    assert set(claims(part).pairs) == {5}


def test_a_sweep_is_kept_and_taken_up(tmp_path, monkeypatch):
    few = [("baseline", Setting(**TINY)), (UNTRAINED, Setting(**TINY))]
    monkeypatch.setattr(experiments, "tasks", lambda seeds, **options: few)
    record(seeds=1, folder=tmp_path)
    first = (tmp_path / "vatt/methods.csv").read_text()
    record(seeds=1, folder=tmp_path)
    assert (tmp_path / "vatt/methods.csv").read_text() == first
    assert len(list((tmp_path / "vatt/.methods").glob("*.run"))) == 2
