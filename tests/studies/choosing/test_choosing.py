"""The study of the chapter "Choosing": arms that differ in what they say, and a fair search."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from modalign import records
from modalign.metrics import excluding_zero
from modalign.studies.choosing import recording, setting, training, views
from modalign.studies.choosing.setting import ARMS, BASELINE, CONDITIONS, Setting, trials

TINY = {"examples": 24, "candidates": 12, "batch_size": 4, "seen": 24}


def trained(**changes):
    return training.train(Setting(**{**TINY, **changes}))


def test_every_arm_has_as_many_trials_of_which_none_is_given_twice():
    for arm in ARMS:
        tried = trials(arm)
        assert len({tuple(sorted(each.items())) for each in tried}) == setting.TRIALS
        assert len({each["learning_rate"] for each in tried}) == setting.TRIALS
        for knob in ARMS[arm].knobs:
            values = [each[knob] for each in tried]
            assert (min(values), max(values)) == pytest.approx(ARMS[arm].between)
            assert abs(np.corrcoef(np.arange(setting.TRIALS), values)[0, 1]) < 0.6
    by_optimizer = {}
    for arm, how in ARMS.items():
        rates = tuple(each["learning_rate"] for each in trials(arm))
        by_optimizer.setdefault(how.changes.get("optimizer", "adam"), set()).add(rates)
    assert [len(rates) for rates in by_optimizer.values()] == [1, 1]


def test_a_pair_of_methods_changes_what_its_two_change():
    for arm, how in ARMS.items():
        if "+" in arm:
            one, other = (ARMS[name] for name in arm.split(" + "))
            assert how.changes == {**one.changes, **other.changes}
            assert set(how.knobs) == {*one.knobs, *other.knobs}


def test_conditions_differ_from_the_usual_one_along_one_axis():
    usual = Setting()
    for name, changes in CONDITIONS.items():
        if name not in ("usual", "digits", "photographs"):
            assert len(changes) == 1
            assert Setting(**changes) != usual
    assert set(setting.EVERY_ARM) <= set(CONDITIONS)
    assert setting.arms_of("usual") == tuple(ARMS)
    assert setting.arms_of("weak sound") == setting.SINGLE


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_trains_and_differs_from_the_baseline(arm):
    changes = {k: v for k, v in trials(arm)[4].items() if k != "learning_rate"}
    if "gamma" in changes:
        changes["gamma"] = 0.9  # so that batches are dropped
    if changes.get("optimizer") == "lars":
        changes["learning_rate"] = 0.02
    run = trained(**changes)
    other = trained()
    assert len(run.history) == setting.ROUNDS
    assert np.isfinite(run.history["measure"]).all()
    assert (run.history["core_seconds"].diff().dropna() > 0).all()
    if arm == BASELINE:
        assert run.history["measure"].equals(other.history["measure"])
        return
    mine, theirs = (training.embed(each.learner, each.scored)["picture"] for each in (run, other))
    # realignment alone acts on batches in conflict, of which so short a run may have none
    if arm != "realignment":
        assert not torch.allclose(mine, theirs)


def test_the_baseline_minimises_the_two_contrastive_losses_alone():
    run = trained()
    assert [each for each in run.history if each.startswith("nce")] == ["nce_sound", "nce_text"]
    total = run.history["nce_sound"] + run.history["nce_text"]
    assert run.history["loss"].to_numpy() == pytest.approx(total.to_numpy(), rel=1e-5)


def test_projected_inputs_stay_as_they_were_drawn():
    run = trained(projected=True)
    again = trained(projected=True, learning_rate=0.02)
    for name, encoder in run.learner.joint.encoders.items():
        first = encoder.tokens if name == "text" else encoder.layers[0]
        theirs = again.learner.joint.encoders[name]
        other = theirs.tokens if name == "text" else theirs.layers[0]
        assert not first.weight.requires_grad
        assert torch.equal(first.weight, other.weight)
        assert len(first.weight.abs().unique()) <= 2  # signs of one size, and zeros


def test_misaligned_texts_move_among_themselves_and_the_test_stays_right():
    clean = views.source(Setting(**TINY)).splits
    mixed = views.source(Setting(**TINY, misaligned=0.5)).splits
    text = "text.input_ids"
    before, after = (each["train"].inputs[text] for each in (clean, mixed))
    assert torch.equal(after[:12], before[:12].roll(1, 0))
    assert torch.equal(after[12:], before[12:])
    for split in ("validation", "test"):
        assert torch.equal(clean[split].inputs[text], mixed[split].inputs[text])
    pictures = [each["train"].inputs["picture.pixel_values"] for each in (clean, mixed)]
    assert torch.equal(*pictures)


def test_a_weak_sound_is_noisier_in_every_split_and_nothing_else_changes():
    clean, weak = (views.source(Setting(**TINY, weak=weak)).splits for weak in (0.0, 2.0))
    for split in clean:
        sound = "sound.input_features"
        noise = weak[split].inputs[sound] - clean[split].inputs[sound]
        assert noise.std() / clean[split].inputs[sound].std() == pytest.approx(2, rel=0.1)
        for name, value in clean[split].inputs.items():
            assert name == sound or torch.equal(value, weak[split].inputs[name])


def test_rounds_read_whole_passes_and_each_example_as_often():
    data = {"x": torch.arange(24)}
    given = Setting(**TINY, seed=3)
    batches = [batch["x"] for i in range(6) for batch in training.Rounds(data, given)(i)]
    assert len(batches) == given.steps == 6
    assert torch.cat(batches).sort().values.tolist() == list(range(24))
    longer = Setting(**{**TINY, "seen": 96}, seed=3)
    many = [batch["x"] for i in range(6) for batch in training.Rounds(data, longer)(i)]
    counts = torch.bincount(torch.cat(many), minlength=24)
    assert len(many) == longer.steps
    assert counts.tolist() == [4] * 24
    alone = [batch["x"] for batch in training.Rounds(data, longer)(2)]
    assert all(torch.equal(a, b) for a, b in zip(alone, many[8:12], strict=True))


def test_two_digits_of_one_kind_are_no_negatives_and_the_right_kind_counts():
    labels = torch.tensor([0, 0, 1])
    examples = views.Examples({"x": torch.zeros(3)}, labels=labels)
    similarity = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.5]])
    # rows find 0, 0 and (wrongly) 0; columns find 0, 0 or, at the tie, the first, and 1
    assert training.retrieved(similarity, examples) == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": "films"}, "dataset"),
        ({"batch_size": 3}, "batch_size"),
        ({"batch_size": 2000}, "batch_size"),
        ({"seen": 100}, "seen"),
        ({"misaligned": 1.5}, "misaligned"),
        ({"cka": -1.0}, "cka"),
        ({"intra": float("nan")}, "intra"),
        ({"realign": True, "cka": 0.1}, "realign"),
        ({"gamma": 0.0, "code": 0.1}, "gamma"),
        ({"dataset": "photographs", "weak": 1.0}, "weak"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        Setting(**changes)


SEARCH = pd.DataFrame(
    [
        {"condition": "usual", "arm": arm, "seed": seed, "learning_rate": trial["learning_rate"]}
        | {"measure": float(i == best) + 0.1 * seed}
        for arm, best in ((BASELINE, 2), ("CKA", 5))
        for seed in (0, 1)
        for i, trial in enumerate(trials(arm))
    ]
)


def test_the_best_trial_is_frozen_and_one_that_diverged_is_never_it():
    assert recording.frozen(SEARCH) == {
        ("usual", BASELINE): trials(BASELINE)[2],
        ("usual", "CKA"): trials("CKA")[5],
    }
    lost = SEARCH.copy()
    lost.loc[(lost.arm == "CKA") & (lost.seed == 1) & (lost.measure > 1), "measure"] = None
    assert recording.frozen(lost)["usual", "CKA"] != trials("CKA")[5]
    with pytest.raises(ValueError, match="as many trials"):
        recording.frozen(SEARCH[:-1])


def test_gains_are_paired_by_seed_and_judged_by_the_rule():
    rows = [
        {"condition": "usual", "arm": arm, "seed": seed, "round": i, "measure": level + seed * i}
        | {"core_seconds": pace * i}
        for arm, level, pace in ((BASELINE, 10.0, 1.0), *((a, 13.0, 2.0) for a in [*ARMS][1:]))
        for seed in range(6)
        for i in (1, 2)
    ]
    table = pd.DataFrame(rows)
    gained = recording.gains(table)
    assert gained["arm"].tolist() == [*ARMS][1:]
    assert set(gained["verdict"]) == {"holds"}
    assert gained["mean"].to_numpy() == pytest.approx(3.0)
    at_equal = recording.at_equal_seconds(table)
    # after as many seconds as the baseline's two rounds, the slower arms have made one
    assert at_equal["usual", "CKA", 5] == pytest.approx(18.0)
    assert at_equal["usual", BASELINE, 5] == pytest.approx(20.0)
    assert excluding_zero(gained.assign(low=-1.0, high=7.0)).nominal == 0


def test_a_sweep_searches_freezes_and_tests(tmp_path, monkeypatch):
    monkeypatch.setattr(setting, "TRIALS", 8)
    monkeypatch.setattr(records, "each", lambda work, tasks, **_: [work(task) for task in tasks])
    few = {name: ARMS[name] for name in (BASELINE, "CKA")}
    for module in (setting, recording):
        monkeypatch.setattr(module, "ARMS", few)
    monkeypatch.setattr(recording, "arms_of", lambda condition: tuple(few))
    monkeypatch.setattr(recording, "arms_searched", lambda condition: tuple(few))
    options = {name: TINY[name] for name in ("examples", "candidates", "batch_size", "seen")}
    recording.record(
        ["usual"], tuning=[7], seeds=[0, 1], folder=tmp_path, progress=False, **options
    )
    search, test = (
        records.load(name, folder=tmp_path) for name in ("choosing/search", "choosing/test")
    )
    assert len(search) == 2 * setting.TRIALS
    assert set(search["seed"]) == {7}
    last = test[test["round"] == setting.ROUNDS]
    assert len(last) == 2 * 2
    assert last["probe"].between(0, 100).all()
    best = recording.frozen(search)
    assert best["usual", "CKA"]["cka"] in [each["cka"] for each in trials("CKA")]
    with pytest.raises(ValueError, match="no seed in both"):
        recording.record(["usual"], tuning=[1], seeds=[1], folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="conditions"):
        recording.record(["nowhere"], folder=tmp_path, progress=False)


def test_one_seed_gives_one_result():
    one, other = (trained(intra=0.3, code=0.3, seed=4).history["measure"] for _ in range(2))
    assert one.equals(other)
    assert dataclasses.replace(Setting(), seed=1) != Setting()
