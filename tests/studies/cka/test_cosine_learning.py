import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

from modalign import records
from modalign.studies.cka import cosine_learning
from modalign.studies.cka.cosine_learning import Setting, claims, sample_pairs, settings, train

TINY = Setting(examples=600, epochs=1)


def test_worlds_differ_in_the_pairing_alone():
    (a, b), (c, d) = (sample_pairs(pairs, 300, seed=3) for pairs in ("shared", "random"))
    assert torch.equal(a, c)
    assert not torch.equal(b, d)
    assert torch.equal(b.sort(0).values, d.sort(0).values)


def test_shared_pairs_share_something_and_random_pairs_do_not():
    for pairs, low, high in [("shared", 0.02, 1), ("random", -0.01, 0.01)]:
        a, b = sample_pairs(pairs, 5000, seed=0)
        assert low < cosine_learning.cka(a, b, debiased=True).item() < high


def kinds(order):
    return [type(module) for module in cosine_learning.encoder(order)]


def test_encoder_is_the_papers():
    assert kinds("relu-bn") == [nn.Linear, nn.ReLU, nn.BatchNorm1d] * 3
    assert kinds("bn-relu") == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 3
    sizes = [m.weight.shape for m in cosine_learning.encoder("relu-bn") if type(m) is nn.Linear]
    assert sizes == [(32, 64), (32, 32), (32, 32)]


def test_uncentred_cka_is_the_cosine_of_gram_matrices():
    x, y = torch.randn(9, 4), torch.randn(9, 3)
    k, l = (x @ x.T).flatten(), (y @ y.T).flatten()
    known = torch.nn.functional.cosine_similarity(k, l, dim=0)
    torch.testing.assert_close(cosine_learning.uncentred_cka(x, y), known)


def test_same_seed_same_run_and_another_seed_another():
    first, again = train(TINY).history, train(TINY).history
    pd.testing.assert_frame_equal(first, again)
    other = train(dataclasses.replace(TINY, seed=1)).history
    assert (first.cosine != other.cosine).all()


def test_training_does_not_touch_the_callers_random_state():
    torch.manual_seed(5)
    known = torch.rand(1)
    torch.manual_seed(5)
    train(TINY)
    assert torch.equal(torch.rand(1), known)


@pytest.mark.parametrize(
    ("objective", "column"), [("cosine", "cosine"), ("cka", "cka_biased"), ("both", "cosine")]
)
def test_an_objective_raises_what_it_names(objective, column):
    history = train(Setting(objective=objective, examples=2000, epochs=5)).history
    part = history[history.split == "train"]
    assert part[column].iloc[-1] > part[column].iloc[0] + 0.1


def test_untrained_encoders_are_evaluated_as_their_first_step_sees_them():
    a, _ = sample_pairs("shared", 500, seed=0)
    network = cosine_learning.encoder("relu-bn")
    cosine_learning.calibrate(network, a)
    with torch.no_grad():
        seen, evaluated = network.train()(a), network.eval()(a)
    torch.testing.assert_close(evaluated, seen, rtol=0, atol=0.05)


def test_warm_up_is_cka_alone_and_then_both():
    x, y = torch.randn(40, 5), torch.randn(40, 5)
    setting = Setting(warmup_steps=3)
    alone = dataclasses.replace(setting, objective="cka")
    both = dataclasses.replace(setting, objective="both")
    for step, same in [(2, alone), (3, both)]:
        assert cosine_learning.loss(x, y, setting, step) == cosine_learning.loss(x, y, same, 0)


def test_loss_is_equation_four():
    x, y = torch.randn(40, 5), torch.randn(40, 5)
    cosine = torch.nn.functional.cosine_similarity(x, y).mean()
    found = cosine_learning.loss(x, y, Setting(objective="both", lambda_cka=0.3), 0)
    torch.testing.assert_close(found, -cosine - 0.3 * cosine_learning.cka(x, y))


def test_a_collapsed_encoder_has_no_cka_and_the_cosine_goes_on():
    x, y = torch.ones(40, 5, requires_grad=True), torch.randn(40, 5)
    assert cosine_learning.alignment("biased", x, y).isnan()
    assert cosine_learning.evaluate(x, y)["cka_debiased"] != 0
    found = cosine_learning.loss(x, y, Setting(objective="both"), 0)
    assert found.isfinite()
    assert torch.autograd.grad(found, x)[0].isfinite().all()


@pytest.mark.parametrize("field", ["pairs", "order", "measure", "objective"])
def test_setting_refuses_what_is_not_offered(field):
    with pytest.raises(ValueError, match=f"{field}: expected one of .* got 'shard'"):
        Setting(**{field: "shard"})


def test_setting_names_the_closest_choice():
    with pytest.raises(ValueError, match="did you mean 'debiased'"):
        Setting(measure="debias")


def test_evaluate_measures_chance_and_perfection():
    x = torch.randn(500, 16)
    same, other = cosine_learning.evaluate(x, 2 * x), cosine_learning.evaluate(x, x.flip(0))
    assert same["cosine"] == pytest.approx(1, abs=1e-5)
    assert same["recall_at_1"] == 1
    assert same["cka_debiased"] == pytest.approx(1, abs=1e-5)
    assert same["shuffled_cosine"] == pytest.approx(other["shuffled_cosine"])
    assert other["recall_at_1"] < 0.02


def test_record_runs_every_setting_and_marks_its_rows(tmp_path, monkeypatch):
    grid = {"objective": ["cosine", "both"], "examples": [600], "epochs": [1]}
    monkeypatch.setattr(cosine_learning, "GRIDS", {"cka/map": grid})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README.md").touch()
    monkeypatch.chdir(tmp_path)
    cosine_learning.record(seeds=2)
    table = records.load("cka/map")
    assert len(table) == 4 * 2 * 2
    assert set(table.groupby(["objective", "seed"]).groups) == {
        (objective, seed) for objective in ("cosine", "both") for seed in (0, 1)
    }
    assert table.attrs["parameters"]["fixed"]["examples"] == 600
    known = train(settings(grid, [0])[0]).history
    pd.testing.assert_frame_equal(table[known.columns].head(len(known)), known, rtol=1e-4)


def made_up_map(effect):
    """A map in which every objective ends with a known cosine, and cosine alone loses CKA."""
    ends = {"cosine": 0.5, "cka": effect, "both": 0.5 + effect, "both, warm-up": 0.5 + 2 * effect}
    rows = []
    for setting in settings(cosine_learning.GRIDS["cka/map"], range(5)):
        for epoch in (0, 10):
            cosine = ends[setting.objective] + 1e-3 * setting.seed if epoch else 1e-3 * setting.seed
            cka = 0.5 - effect * (epoch > 0) + 1e-3 * setting.seed * epoch
            found = {f"cka_{measure}": cka for measure in ("biased", "debiased", "uncentred")}
            for split in ("train", "held-out"):
                where = {"epoch": epoch, "split": split, "cosine": cosine, **found}
                rows.append({**dataclasses.asdict(setting), **where})
    return pd.DataFrame(rows).drop(columns=["epochs"])


@pytest.mark.parametrize(("effect", "verdict"), [(0.1, "holds"), (-0.1, "reversed")])
def test_claims_read_a_known_map(effect, verdict):
    found = claims(made_up_map(effect), epoch=10, split="train", quality="cosine")
    assert len(found) == 5 * 12
    assert set(found.verdict) == {verdict}
    both = found[found.claim == "both beat the cosine"]
    assert both["mean"].to_numpy() == pytest.approx(effect)


def test_verdicts_are_counted_and_tabled():
    found = claims(made_up_map(0.1), epoch=10, split="train", quality="cosine")
    counts = cosine_learning.count_verdicts(found)
    assert counts["1-holds"] == counts["5-holds"] == 12
    assert counts["3-shared-holds"] == counts["3-random-holds"] == 6
    assert counts["2-reversed"] == 0
    assert counts["3-largest"] == pytest.approx(0.2)
    table = cosine_learning.verdict_table(found)
    assert table.shape == (12, 5)
    assert table.loc["shared", "relu-bn", "biased"]["warm-up helps"].startswith("holds 0.100 [")


def test_claims_are_undecided_where_the_interval_crosses_zero():
    table = made_up_map(0.1)
    table.loc[table.objective == "both", "cosine"] = 0.5 + 0.1 * (table.seed % 2 * 2 - 1)
    found = claims(table, epoch=10, split="train", quality="cosine")
    assert set(found[found.claim == "both beat the cosine"].verdict) == {"undecided"}


@pytest.mark.parametrize("name", list(cosine_learning.GRIDS))
def test_recorded_tables_hold_every_run_of_their_grid(name):
    table = records.load(name)
    made = table.attrs["parameters"]
    assert made["seeds"] >= 5
    runs = settings(cosine_learning.GRIDS[name], range(made["seeds"]))
    epochs = made["fixed"]["epochs"]
    assert len(table) == len(runs) * (epochs + 1) * 2
    assert made["grid"] == {
        key: list(values) for key, values in cosine_learning.GRIDS[name].items()
    }


def test_a_recorded_run_comes_out_again():
    table = records.load("cka/map").query("objective == 'both' and measure == 'debiased'")
    known = table.query("pairs == 'shared' and order == 'relu-bn' and seed == 0")
    known = known[known.epoch <= 1].reset_index(drop=True)
    found = train(Setting(objective="both", measure="debiased", epochs=1)).history
    for column in ("cosine", "cka_biased", "cka_uncentred"):
        assert found[column].to_numpy() == pytest.approx(known[column].to_numpy(), abs=5e-3)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_uncentred_cka_does_not_depend_on_the_scale(scale):
    x, y = torch.randn(20, 3), torch.randn(20, 4)
    known = cosine_learning.uncentred_cka(x, y)
    torch.testing.assert_close(cosine_learning.uncentred_cka(scale * x, y), known)


def test_uncentred_cka_of_zeros_is_none_and_of_nan_refused():
    x = torch.randn(20, 3)
    assert cosine_learning.alignment("uncentred", torch.zeros(20, 3), x).isnan()
    with pytest.raises(ValueError, match="y: expected finite values, got NaN"):
        cosine_learning.alignment("uncentred", x, torch.full((20, 3), torch.nan))


def test_evaluate_refuses_what_is_not_finite():
    x = torch.randn(20, 3)
    with pytest.raises(ValueError, match="x: expected finite values"):
        cosine_learning.evaluate(x.fill_(torch.inf), x)


def test_claims_refuse_a_seed_that_one_side_lacks():
    table = made_up_map(0.1)
    lacks = (table.objective == "both") & (table.seed == 3)
    with pytest.raises(ValueError, match="lacks 3, which"):
        claims(table[~lacks], epoch=10, split="train", quality="cosine")
