"""The study of the chapter "Choosing": arms that differ in what they say, and a fair search."""

import dataclasses
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from modalign import records
from modalign.metrics import excluding_zero
from modalign.studies.choosing import answers, figures, recording, setting, training, views
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


def test_a_learner_is_looked_at_as_it_was_scored():
    run = trained(normalization="batch")
    assert training.scores(run.learner, run.scored)["measure"] == run.history["measure"].iloc[-1]


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
    gained = answers.gains(table)
    assert gained["arm"].tolist() == [*ARMS][1:]
    assert set(gained["verdict"]) == {"holds"}
    assert gained["mean"].to_numpy() == pytest.approx(3.0)
    at_equal = answers.at_equal_seconds(table)
    # after as many seconds as the baseline's two rounds, the slower arms have made one
    assert at_equal["usual", "CKA", 5] == pytest.approx(18.0)
    assert at_equal["usual", BASELINE, 5] == pytest.approx(20.0)
    assert excluding_zero(gained.assign(low=-1.0, high=7.0)).nominal == 0


def recorded(effects, *, conditions=("usual", "250 examples"), spread=0.1):
    """A table of the test in which an arm has an effect in every condition."""
    rng = np.random.default_rng(0)
    rows = []
    for condition in conditions:
        for arm in setting.arms_of(condition):
            for seed in range(8):
                for i in (1, 2):
                    level = 10 * i + effects.get(arm, 0.0) + spread * rng.standard_normal()
                    row = {"condition": condition, "arm": arm, "seed": seed, "round": i}
                    row |= {
                        "measure": level,
                        "sound": level,
                        "text": level,
                        "core_seconds": 1.0 * i,
                    }
                    last = {"numbers": 100.0 if arm == BASELINE else 120.0, "probe": 90.0}
                    last |= {"cka_sound": level, "cka_text": -level, "margin": 0.0}
                    rows.append({**row, **(last if i == 2 else dict.fromkeys(last))})
    return pd.DataFrame(rows).astype({"numbers": float, "probe": float, "margin": float})


def test_the_advice_is_the_largest_gain_that_holds_and_the_baseline_where_none_does():
    conditions = ("usual", "4,000 examples")
    effects = dict.fromkeys(ARMS, -1.0) | {"LARS": 2.0, "CKA": 1.0, "CKA + intra-modal": 9.0}
    table = recorded({**effects, BASELINE: 0.0}, conditions=conditions)
    found = answers.helping(answers.gains(table))
    assert found[["condition", "arm"]].to_numpy().tolist() == [
        ["usual", "CKA + intra-modal"],
        ["usual", "LARS"],
        ["usual", "CKA"],
        ["4,000 examples", "LARS"],
        ["4,000 examples", "CKA"],
    ]
    said = answers.advice(table)
    assert said.index.tolist() == [setting.MEANING[each] for each in conditions]
    assert said["use"].tolist() == ["CKA + intra-modal", "LARS"]
    assert said["also"].tolist() == ["LARS, CKA", "CKA"]
    assert said["numbers"].tolist() == ["1.20", "1.20"]
    assert said["gain"].iloc[1].startswith("+2.")
    assert said["timed"].str.startswith("+").all()
    none = answers.advice(recorded({**dict.fromkeys(ARMS, -1.0), BASELINE: 0.0}))
    assert none["use"].tolist() == [BASELINE, BASELINE]
    assert none["gain"].tolist() == none["timed"].tolist() == ["", ""]


def test_a_trial_at_the_end_of_its_range_is_named():
    found = answers.at_an_end(SEARCH).set_index("arm")
    assert not found["rate at an end"].any()
    last = SEARCH.copy()
    last.loc[(last.arm == "CKA") & (last.learning_rate > 0.009), "measure"] = 9.0
    found = answers.at_an_end(last).set_index("arm")
    assert found["rate at an end"].to_dict() == {BASELINE: False, "CKA": True}
    assert found["knob"]["CKA"] == pytest.approx(trials("CKA")[-1]["cka"])


def test_a_baseline_that_is_tried_once_makes_gains():
    found = answers.untuned(SEARCH, rate=3e-4).set_index("arm").loc["CKA"]
    assert found["once"] == pytest.approx(1.0)
    assert found["fairly"] == pytest.approx(0.0)
    with pytest.raises(ValueError, match="rate"):
        answers.untuned(SEARCH, rate=0.0)


def test_a_diagnostic_is_correlated_over_the_means_of_the_arms():
    table = recorded({arm: float(i) for i, arm in enumerate(ARMS)})
    assert answers.told_by(table, "cka_sound") == pytest.approx(1.0)
    assert answers.told_by(table, "cka_text") == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="condition"):
        answers.diagnosed(table, "photographs")


def test_runs_that_broke_down_are_counted_and_those_that_took_no_step_any_more():
    table = recorded({}).assign(accepted=0.9)
    here = (table["arm"] == "curriculum") & (table["condition"] == "usual") & (table["round"] == 2)
    table.loc[here & (table["seed"] < 3), "measure"] = 4.0
    table.loc[here & (table["seed"] < 2), "accepted"] = 0.0
    found = answers.broken(table).set_index(["arm", "condition"])
    assert found.loc[("curriculum", "usual")].tolist() == [3, 2]
    assert found["broken"].sum() == 3
    assert answers.broken(table.drop(columns="accepted"))["stuck"].sum() == 0


def test_the_figures_show_every_gain_and_mark_what_is_sure():
    gained = answers.gains(recorded({"LARS": 2.0}, spread=1.0))
    _, (ax, other) = plt.subplots(2)
    figures.gain_map(ax, gained)
    written = [each for each in ax.texts if each.get_text()]
    assert len(written) == len(gained)
    row = [*ARMS][1:].index("LARS")
    bold = {each.get_position() for each in written if each.get_fontweight() == "bold"}
    assert (0.5, row + 0.5) in bold
    both = gained.set_index(["arm", "condition"])["verdict"]
    assert len(bold) == both.isin(["holds", "reversed"]).sum()
    figures.along(other, gained, "examples", ["LARS", "CKA"])
    assert [each.get_text() for each in other.get_xticklabels()] == ["250", "1,000", "4,000"]
    many = pd.concat([SEARCH[SEARCH.arm == "CKA"].assign(arm=arm) for arm in setting.SINGLE])
    other.clear()
    figures.rates(other, many, ["LARS", "CKA"])
    assert other.get_legend_handles_labels()[1] == [BASELINE, "CKA", "LARS"]
    with pytest.raises(ValueError, match="arms"):
        figures.rates(other, many, ["LARS + batch norm"])
    for wrong in ({"axis": "colour", "arms": ["CKA"]}, {"axis": "examples", "arms": [BASELINE]}):
        with pytest.raises(ValueError, match="axis|arms"):
            figures.along(other, gained, **wrong)
    plt.close("all")


def test_pictures_with_captions_of_ones_own_are_read(tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 8), ("validation", 5), ("test", 5)):
        folder = tmp_path / split
        folder.mkdir()
        lines = []
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(
                folder / f"{i}.png"
            )
            captions = [f"thing {i % 3} here", f"a thing {i % 3}", "one more"]
            lines.append(json.dumps({"file_name": f"{i}.png", "captions": captions}))
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    given = {"dataset": f"hub:{tmp_path}", "batch_size": 4, "seen": 24, "candidates": 50}
    run = training.train(Setting(**given))
    assert len(run.learnt) == 8
    assert len(run.scored) == 5
    assert np.isfinite(run.history["measure"]).all()
    with pytest.raises(ValueError, match="batch_size: expected at most the 8 examples"):
        training.train(Setting(**{**given, "batch_size": 16, "seen": 96}))
    lines[0] = json.dumps({"file_name": "0.png", "captions": ["alone"]})
    (tmp_path / "test" / "metadata.jsonl").write_text("\n".join(lines))
    views._source.cache_clear()
    with pytest.raises(ValueError, match="two captions or more of every picture, got 1 in test"):
        training.train(Setting(**given))


def test_a_method_of_ones_own_adds_its_part():
    class Shrinking(training.Learner):
        def losses(self, batch):
            vectors = self.joint.embed(training.views(batch)).values()
            return {**super().losses(batch), "spread": 0.1 * sum(z.std(0).sum() for z in vectors)}

    run = training.train(Setting(**TINY), method=Shrinking)
    assert np.isfinite(run.history["spread"]).all()
    assert not run.history["measure"].isna().any()


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
