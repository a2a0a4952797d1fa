import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

from modalign import records
from modalign.studies.cka import cosine_learning
from modalign.studies.cka.cosine_learning import MEASURES, Setting, sample_pairs, train

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


def test_a_warm_up_that_does_not_count_goes_before_the_first_step():
    x, y = torch.randn(40, 5), torch.randn(40, 5)
    setting = Setting(warmup_steps=3, counted=False)
    for step, objective in [(-1, "cka"), (0, "both")]:
        same = dataclasses.replace(setting, objective=objective)
        assert cosine_learning.loss(x, y, setting, step) == cosine_learning.loss(x, y, same, 0)


def steps_taken(setting, monkeypatch):
    taken = []

    def step(state, a, b, setting, number=0):
        taken.append((number, len(a)))

    monkeypatch.setattr(cosine_learning.State, "step", step)
    train(setting)
    return taken


@pytest.mark.parametrize(
    ("counted", "warm", "first", "steps"),
    [(True, 2, 0, 6), (False, 2, -2, 8), (False, 4, -4, 10), (False, 0, 0, 6)],
)
def test_steps_of_a_warm_up_count_or_go_before(counted, warm, first, steps, monkeypatch):
    setting = Setting(examples=600, epochs=2, batch_size=200, counted=counted, warmup_steps=warm)
    taken = steps_taken(setting, monkeypatch)
    assert [number for number, _ in taken] == list(range(first, first + steps))


def test_a_whole_epoch_before_is_the_counted_run_an_epoch_later():
    setting = dataclasses.replace(TINY, batch_size=200, warmup_steps=3)
    before = train(dataclasses.replace(setting, counted=False)).history
    counted = train(dataclasses.replace(setting, epochs=2)).history
    ends = [run[run.epoch == run.epoch.max()].drop(columns="epoch") for run in (before, counted)]
    assert ends[0].to_numpy()[:, 1:].tolist() == ends[1].to_numpy()[:, 1:].tolist()


def test_default_statistics_change_what_is_seen_and_not_what_is_learnt():
    usual, default = (
        dataclasses.replace(TINY, statistics=statistics) for statistics in ("set", "default")
    )
    states = {}
    for setting in (usual, default):
        train(setting, watch=lambda epoch, state: states.setdefault(epoch, []).append(
            [each.detach().clone() for each in state.f.parameters()]
        ))  # fmt: skip
    for one, other in zip(*states[1], strict=True):
        assert torch.equal(one, other)
    first, other = (train(setting).history.iloc[0] for setting in (usual, default))
    assert abs(first.cka_uncentred - other.cka_uncentred) > 0.01


def test_contrastive_loss_is_two_cross_entropies_by_hand():
    x, y = torch.randn(6, 4), torch.randn(6, 4)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2)
    rows, columns = ((cosines / 0.2).softmax(axis).diagonal().log().mean() for axis in (1, 0))
    known = -(rows + columns) / 2
    setting = Setting(objective="contrastive", temperature=0.2)
    torch.testing.assert_close(cosine_learning.loss(x, y, setting, 0), known)
    with_cka = dataclasses.replace(setting, objective="contrastive, cka", lambda_cka=0.3)
    found = cosine_learning.loss(x, y, with_cka, 0)
    torch.testing.assert_close(found, known - 0.3 * cosine_learning.cka(x, y))


@pytest.mark.parametrize("measure", list(MEASURES))
def test_every_measure_is_one_of_a_thing_with_itself_and_has_a_gradient(measure):
    x = torch.randn(50, 5)
    assert MEASURES[measure](x, x).item() == pytest.approx(1, abs=1e-5)
    y = torch.randn(50, 5, requires_grad=True)
    found = cosine_learning.alignment(measure, x, y)
    assert torch.autograd.grad(found, y)[0].norm() > 1e-4


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


@pytest.mark.parametrize("field", ["pairs", "order", "measure", "objective", "statistics"])
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


def test_a_recorded_run_comes_out_again():
    table = records.load("cka/map").query("objective == 'both' and measure == 'debiased'")
    known = table.query("pairs == 'shared' and order == 'relu-bn' and seed == 10")
    known = known[known.epoch <= 1].reset_index(drop=True)
    found = train(Setting(objective="both", measure="debiased", epochs=1, seed=10)).history
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
