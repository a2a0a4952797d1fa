import dataclasses
import math
import re

import pandas as pd
import pytest
import torch

from modalign import records
from modalign.studies import sequences as sequence_norms
from modalign.studies.sequences import (
    Pair,
    Setting,
    best,
    claims,
    readings,
    sample,
    settings,
    train,
)
from modalign.training import DivergenceError

TINY = Setting(examples=96, epochs=1)


def test_padding_is_zero_and_every_sequence_has_a_step():
    data = sample(200, seed=1)
    for x, lengths in ((data.video, data.video_lengths), (data.text, data.text_lengths)):
        padded = torch.arange(x.shape[1]) >= lengths[:, None]
        assert not x[padded].any()
        assert x[~padded].all()
        assert 1 <= lengths.min() < lengths.max() <= x.shape[1]
    assert data.label.unique().tolist() == [0, 1, 2, 3]


def test_the_label_needs_both_modalities():
    history = train(Setting(optimizer="adam", learning_rate=0.003, examples=1000, epochs=15))
    last = history.iloc[-1]
    assert last.test > 0.6
    assert last.test > max(last.without_video, last.without_text) + 0.15
    assert min(last.without_video, last.without_text) > 0.27


@pytest.mark.parametrize("norm", ["none", "batch norm", "sbn", "ln", "ln of outputs"])
def test_normalisations_train(norm):
    setting = Setting("sequences", "adam", 0.01, norm=norm, examples=96, epochs=8, seed=1)
    history = train(setting)
    assert history.loss.iloc[-1] < history.loss.iloc[0] - 0.1
    assert history.isna().sum().sum() == 0


def test_lars_sets_the_pace_of_both_modalities_and_sgd_does_not():
    lars = train(dataclasses.replace(TINY, learning_rate=0.02)).iloc[-1]
    # zero-initialised tensors aside, every tensor moves by two hundredths of its norm
    assert lars.pace_video == pytest.approx(0.02, rel=0.02)
    assert lars.pace_text == pytest.approx(0.02, rel=0.02)
    sgd = train(dataclasses.replace(TINY, optimizer="sgd", learning_rate=0.01, unit=0.001))
    assert sgd.pace_video.iloc[-1] < 0.5 * sgd.pace_text.iloc[-1]


def test_sbn_outputs_have_mean_zero_and_variance_one_before_training_moves_them():
    network = sequence_norms.Pair(Setting("sequences", norm="sbn"))
    found = sequence_norms._output_statistics(network, sample(500, seed=0))
    for name in ("video", "text"):
        assert found[f"mean_{name}"] == pytest.approx(0, abs=1e-4)
        assert found[f"variance_{name}"] == pytest.approx(1, abs=0.01)


def test_same_seed_same_run_and_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    known = torch.rand(1)
    torch.manual_seed(5)
    first, again = train(TINY), train(TINY)
    pd.testing.assert_frame_equal(first, again)
    assert torch.equal(torch.rand(1), known)
    assert train(dataclasses.replace(TINY, seed=1)).loss.iloc[0] != first.loss.iloc[0]


def test_claims_compare_the_best_rates_by_seed():
    rows = [
        {
            "optimizer": optimizer,
            "unit": unit,
            "learning_rate": rate,
            "seed": seed,
            "validation": rate,
            "test": test[optimizer] + 10 * rate + 0.01 * seed,
            "ratio_video": 1.0,
            "ratio_text": 1 + test[optimizer],
        }
        for test in [{"lars": 0.5, "adam": 0.4, "sgd": 0.4}]
        for optimizer in test
        for unit in (1.0, 0.03, 0.001)
        for rate in (0.001, 0.002)
        for seed in range(5)
    ]
    found = claims({"pace": pd.DataFrame(rows)}).set_index("reading")
    assert set(found.claim) == {"3.2", "c29", "c30b"}
    lars = found.loc["LARS beats Adam, towers at unit 0.03"]
    assert (lars.verdict, lars.pairs) == ("holds", 5)
    assert lars["mean"] == pytest.approx(0.1)
    assert found.loc["LARS brings the ratios closer, towers", "verdict"] == "reversed"
    older = claims({"pace": pd.DataFrame(rows)}, fair=False)
    assert (older.smallest == 0).all()


@pytest.mark.parametrize("name", ["pace", "norms"])
def test_fair_grids_hold_the_older_rates_and_fresh_seeds(name):
    older, fair = (sequence_norms.RATES[f"sequences/{kind}{name}"] for kind in ("", "fair-"))
    assert all(set(older[optimizer]) <= set(fair[optimizer]) for optimizer in older)
    assert not set(sequence_norms.FAIR_SEEDS) & set(records.load(f"sequences/{name}").seed)


@pytest.mark.parametrize("first", [False, True])
def test_verdicts_are_those_of_the_recorded_tables_by_the_one_rule(first):
    found = readings(first=first)
    assert (found.fair != first).all()
    assert set(found.claim) == {each.claim for each in sequence_norms.CONTRASTS}
    for each in found.itertuples():
        said = "undecided"
        if each.low > 0 or each.high < 0:
            said = "holds" if each.low > 0 else "reversed"
        elif each.high < each.smallest:
            said = "absent"
        assert each.verdict == said, each
        assert each.fair or each.smallest == 0


def test_best_rates_at_the_end_of_their_grid():
    found = sequence_norms.at_an_end(table(), ["optimizer", "unit"])
    assert len(found) == 4  # of two rates, both are ends
    wider = pd.concat([table(), table().assign(learning_rate=0.05, validation=0.0)])
    found = sequence_norms.at_an_end(wider, ["optimizer", "unit"])
    assert set(zip(found.optimizer, found.unit, strict=True)) == {
        ("adam", 1.0),
        ("sgd", 1.0),
        ("sgd", 0.1),
    }
    older = records.load("sequences/norms")
    assert len(sequence_norms.at_an_end(older, ["optimizer", "norm"])) == 10


def table():
    rows = [
        {"optimizer": o, "unit": u, "learning_rate": r, "seed": s, "validation": v, "test": v + s}
        for o, u, r, v in [
            ("adam", 1.0, 0.1, 0.5),
            ("adam", 1.0, 0.2, 0.6),
            ("adam", 0.1, 0.1, 0.4),
            ("adam", 0.1, 0.2, 0.3),
            ("sgd", 1.0, 0.1, 0.2),
            ("sgd", 0.1, 0.1, 0.1),
        ]
        for s in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_best_rate_of_each_group_and_of_one_unit():
    chosen = best(table(), ["optimizer", "unit"]).query("optimizer == 'adam'")
    assert set(zip(chosen.unit, chosen.learning_rate, strict=True)) == {(1.0, 0.2), (0.1, 0.1)}
    chosen = best(table(), ["optimizer"], at={"unit": 1.0}).query("optimizer == 'adam'")
    assert set(zip(chosen.unit, chosen.learning_rate, strict=True)) == {(1.0, 0.2), (0.1, 0.2)}


def test_settings_give_every_optimizer_as_many_rates():
    for name in sequence_norms.GRIDS:
        runs = settings(name, range(2))
        assert len(set(runs)) == len(runs)
        counts = pd.Series([run.optimizer for run in runs]).value_counts()
        assert counts.nunique() == 1


def test_record_writes_both_tables(tmp_path, monkeypatch):
    grids = {
        "sequences/pace": {"kind": ["towers"], "optimizer": ["lars"], "examples": [64]},
        "sequences/norms": {"kind": ["sequences"], "optimizer": ["adam"], "examples": [64]},
    }
    grids = {k: {**v, "epochs": [1]} for k, v in grids.items()}
    monkeypatch.setattr(sequence_norms, "GRIDS", grids)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README.md").write_text("")
    monkeypatch.chdir(tmp_path)
    sequence_norms.record(seeds=2)
    for name, rates in (("sequences/pace", 4), ("sequences/norms", 2)):
        found = records.load(name)
        assert len(found) == 2 * rates
        assert found.attrs["parameters"]["seeds"] == 2
        assert found.attrs["parameters"]["fixed"]["examples"] == 64
        assert {"learning_rate", "seed", "test"} <= set(found)


@pytest.mark.parametrize("name", ["kind", "optimizer", "norm"])
def test_unknown_choices(name):
    with pytest.raises(ValueError, match=f"{name}: expected one of"):
        Setting(**{name: "other"})


def test_a_run_that_diverges_says_so():
    with pytest.raises(DivergenceError, match="the loss is"):
        train(Setting(optimizer="sgd", learning_rate=1e20, examples=64, epochs=5))


def test_a_rate_that_diverges_is_kept_and_not_chosen():
    wild = Setting(optimizer="sgd", learning_rate=1e20, examples=64, epochs=5)
    found = sequence_norms._last(sequence_norms.Task("sgd", wild, None)).iloc[0]
    assert (found.learning_rate, found.validation) == (1e20, 0)


def test_an_accuracy_of_no_numbers_is_refused():
    network, data = Pair(Setting()), sample(5, seed=0)
    with torch.no_grad():
        network.head.bias[0] = torch.nan
    with pytest.raises(ValueError, match="logits: expected finite values"):
        sequence_norms.accuracy(network, data)


@pytest.mark.parametrize("kind", ["towers", "sequences"])
def test_sequences_of_no_step_are_refused(kind):
    data = sample(5, seed=0)
    data.text_lengths[2] = 0
    with pytest.raises(ValueError, match="lengths: expected 1 to 6 steps"):
        Pair(Setting(kind=kind))(data)


def test_the_angle_of_lars_is_the_rate_whatever_the_norm():
    for rate in (0.001, 0.1, 1.0):
        for norm in sequence_norms.LENGTHS:
            assert sequence_norms.one_step("lars", rate, norm)[1] == pytest.approx(
                math.atan(rate), rel=1e-4
            )
            slope = 0.75**0.5 / norm  # of the loss, along the circle
            angle = math.atan(rate * slope / norm)
            assert sequence_norms.one_step("sgd", rate, norm)[1] == pytest.approx(angle, rel=1e-4)


def test_the_turning_figure_shows_the_angles_of_the_package(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{sequence_norms.turning().data}", "utf-8")
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page.as_uri())
    for rate, norm in ((0, 0), (4, 3), (6, 1)):
        tab.locator("[name=rate]").fill(str(rate))
        tab.locator("[name=norm]").fill(str(norm))
        told = tab.locator("output").inner_text()
        found = [float(each) for each in re.findall(r"\d+\.?\d*", told)]
        at = sequence_norms.STEPS[rate], sequence_norms.LENGTHS[norm]
        angles = [sequence_norms.one_step(each, *at)[1] for each in ("lars", "sgd")]
        assert found == pytest.approx([*at, *angles], abs=6e-5)
    tab.close()
