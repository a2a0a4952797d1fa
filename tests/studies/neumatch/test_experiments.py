"""Runs of NeuMATCH: what they learn, what they say, and how a sweep is kept."""

import dataclasses
import math
import pathlib

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from modalign import records
from modalign.models.neumatch import NeuMATCH
from modalign.studies.neumatch import experiments
from modalign.studies.neumatch.experiments import (
    NONE,
    PAPER,
    ROWS,
    Setting,
    WarmupPlateau,
    assign,
    build,
    early_stopped,
    measure,
    norm_ratios,
    record,
    reduced,
    run,
    samples,
    stack_moments,
    train,
    warpings,
)
from modalign.studies.neumatch.worlds import shapes_samples

TINY = {"sequences": 40, "hidden": 8, "epochs": 2, "every": 1}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs_and_says_how_it_ended(row):
    options = {**TINY, **ROWS[row]}
    if "pretrain_epochs" in options:
        options["pretrain_epochs"] = 1
    found = run("shapes", **options, progress=False)
    for split in ("train", "validation", "test"):
        assert 0 <= found[f"{split} video_accuracy"] <= 1
        assert 0 <= found[f"{split} text_iou"] <= 1
    for part in ("video", "text", "action and matched", "fc"):
        assert np.isfinite(found[f"ratio {part}"])
    assert {"loss", "gradient_norm", "video mean 50%", "text variance 90%"} <= set(found)


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    one, same, other = (train(Setting(**TINY, seed=s), progress=False) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one.history, same.history)
    assert not one.history["loss"].equals(other.history["loss"])
    assert not torch.equal(one.model.clip_input.mean, other.model.clip_input.mean)


def test_rows_that_share_a_seed_share_the_data():
    common = {"noise": 0.3, "sequences": 40}
    one, other = (samples("shapes", 3, easier=easier, **common) for easier in (False, True))
    again = samples("shapes", 3, easier=False, **common)
    assert torch.equal(one["test"][1].clips, again["test"][1].clips)
    assert not torch.equal(one["train"][0].clips, other["train"][0].clips)


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    setting = Setting(**TINY)
    whole = train(setting, progress=False)
    train(dataclasses.replace(setting, epochs=1), checkpoint=tmp_path / "run", progress=False)
    resumed = train(setting, checkpoint=tmp_path / "run", progress=False)
    assert resumed.history["loss"].tolist() == whole.history["loss"].tolist()
    for one, other in zip(resumed.assigned, whole.assigned, strict=True):
        assert one.tolist() == other.tolist()


def test_it_learns_the_shapes_world():
    found = train(Setting(sequences=150, epochs=12, hidden=32, every=12), progress=False)
    losses = found.history["loss"]
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]
    before = build(
        Setting(sequences=150, hidden=32), samples("shapes", 0, 0.3, 150, False)["train"]
    )
    part = reduced(before, samples("shapes", 0, 0.3, 150, False)["train"][:100])
    untrained = measure(part, assign(before.eval(), part))
    assert found.history["train text_iou"].iloc[-1] > untrained["text_iou"] + 0.1


def test_the_truth_scores_one_and_nothing_scores_little():
    of = shapes_samples(10)
    assert measure(of, [each.clip_snippet.numpy() for each in of])["text_iou"] == 1
    nothing = measure(of, [np.full(len(each.clips), -1) for each in of])
    assert nothing["text_iou"] == 0
    alone = np.mean([(each.clip_snippet < 0).float().mean() for each in of])
    assert nothing["video_accuracy"] == pytest.approx(alone)


def test_warping_finds_clear_matches():
    train_on, of = shapes_samples(150, noise=0.0), shapes_samples(15, split="test", noise=0.0)
    found = {name: measure(of, each) for name, each in warpings(train_on, of).items()}
    assert found["Drop-DTW"]["text_iou"] > 0.5
    assert found["Drop-DTW"]["video_accuracy"] > found["DTW"]["video_accuracy"]


def test_ratios_are_of_whole_parts():
    setting = Setting(**TINY)
    data = samples("shapes", 0, 0.3, 40, False)["train"]
    model = build(setting, data)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    weights = torch.cat([p.flatten() for p in model.classify.parameters()])
    expected = weights.detach().norm() / (2 * len(weights) ** 0.5)
    assert norm_ratios(model)["ratio fc"] == pytest.approx(float(expected))


def test_batch_normalised_stacks_have_mean_zero_and_variance_one_where_they_begin():
    data = samples("shapes", 0, 0.3, 40, False)["train"]
    model = build(Setting(**TINY), data)
    moments = stack_moments(model.train(), reduced(model, data))
    assert moments["video mean 90%"] == pytest.approx(0, abs=1e-3)
    assert moments["text variance 50%"] == pytest.approx(1, abs=0.05)  # but for eps


def test_the_rate_rises_and_is_halved_after_ten_epochs_without_a_lower_loss():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.8)
    schedule = WarmupPlateau(optimizer, warmup=3)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step(1.0)
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == pytest.approx([0.8] * 11 + [0.4] * 5)


def test_rates_and_sizes_are_the_papers():
    setting = Setting("yms")
    assert (setting.learning_rate, setting.epochs, setting.hidden) == (0.007, 350, 300)
    assert Setting("yms", optimizer="adam").learning_rate == 0.001
    assert Setting("shapes", epochs=4).epochs == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "ymz"}, "dataset: expected one of shapes, yms.*did you mean 'yms'"),
        ({"optimizer": "lamb"}, "optimizer: expected one of lars, adam, adam-warmup, sgd"),
        ({"normalization": "bn"}, "normalization: expected one of sbn, ln2, ln4, none"),
        ({"clip_features": "real.h5"}, "clip_features: expected dataset 'yms' .* got 'shapes'"),
        (
            {"dataset": "yms", "clip_features": "real.h5", "pretrain_epochs": 3},
            "clip_features: expected dataset 'yms' without pretraining.* and 3 epochs of it",
        ),
    ],
)
def test_unknown_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Setting(**options)


def test_every_row_that_is_published_is_run():
    known = set(ROWS) | {experiments.STOPPED}
    assert set(experiments.PUBLISHED) <= known
    assert set(experiments.PUBLISHED_RATIOS) | set(experiments.YMS_ROWS) <= set(ROWS)


def test_early_stopping_reads_the_evaluation_that_validation_chooses():
    table = pd.DataFrame(
        {
            "row": ["a"] * 3 + ["b"] * 2,
            "seed": [0] * 5,
            "epoch": [1, 2, 3, 1, 2],
            "validation video_accuracy": [0.1, 0.3, 0.2, 0.5, np.nan],
            "validation text_iou": [0.1, 0.2, 0.2, 0.1, np.nan],
        }
    )
    assert early_stopped(table)["epoch"].tolist() == [2, 1]


def test_a_sweep_keeps_what_is_finished(tmp_path, monkeypatch):
    options = {"folder": tmp_path, "progress": False, **TINY}
    options |= {"rows": ["RP + SBN + Adam", PAPER], "seeds": 2}
    called = []
    monkeypatch.setattr(records, "each", in_this_process)
    monkeypatch.setattr(records, "commit", lambda: ("0" * 12, None))
    work = experiments._work
    monkeypatch.setattr(experiments, "_work", lambda task: (called.append(task[:2]), work(task))[1])
    record("shapes", **options, assigned=True)
    assert len(called) == 4
    table = records.load("neumatch/shapes", tmp_path)
    assert table.groupby(["row", "seed"]).size().tolist() == [2] * 4
    assert table.attrs["parameters"]["seeds"] == 2
    assigned = records.load("neumatch/shapes-assigned", tmp_path)
    assert assigned["video"].nunique() == 4
    assert assigned["snippet_start"].isna().equals(assigned["truth"] < 0)
    matched = assigned[assigned["truth"] >= 0]  # in this world a snippet lasts as its clips do
    assert (matched["snippet_start"] <= matched["start"]).all()
    assert (matched["snippet_end"] >= matched["end"]).all()
    known = train(Setting(**TINY), progress=False)  # of the paper's row, though it came second
    assert assigned["assigned"].tolist() == np.concatenate(known.assigned).tolist()
    next((tmp_path / "neumatch" / ".shapes").glob("*Adam-1-*.run")).unlink()
    record("shapes", **options)
    assert [(row, setting.seed) for row, setting in called[4:]] == [("RP + SBN + Adam", 1)]
    pd.testing.assert_frame_equal(records.load("neumatch/shapes", tmp_path), table)


def test_baselines_are_recorded_by_seed(tmp_path):
    experiments.record_baselines("shapes", seeds=2, folder=tmp_path, progress=False, sequences=40)
    baselines = records.load("neumatch/shapes-baselines", tmp_path)
    assert baselines.groupby("assignment")["seed"].nunique().unique().tolist() == [2]
    truth = baselines[baselines["assignment"] == "truth"]
    assert truth["text_iou"].tolist() == [1, 1]
    assert set(baselines["assignment"]) > {"all unmatched", "uniform", "DTW", "Drop-DTW"}


def test_more_epochs_prolong_a_sweep_and_end_as_if_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "each", in_this_process)
    options = {"rows": [PAPER, "RP + SBN + Adam, warm-up"], "seeds": 1, "progress": False, **TINY}
    resumed, fit = [], experiments.fit

    def watched(*given, checkpoint, **settings):
        resumed.append(pathlib.Path(checkpoint).exists())
        return fit(*given, checkpoint=checkpoint, **settings)

    monkeypatch.setattr(experiments, "fit", watched)
    record("shapes", folder=tmp_path / "a", **options)
    record("shapes", folder=tmp_path / "a", name="longer", **{**options, "epochs": 12})
    record("shapes", folder=tmp_path / "b", **{**options, "epochs": 12})
    # the rate of a warm-up follows from the number of epochs, so that row starts anew
    assert resumed == [False, False, True, False, False, False]
    longer, once = (
        records.load(name, folder)
        for name, folder in (
            ("neumatch/longer", tmp_path / "a"),
            ("neumatch/shapes", tmp_path / "b"),
        )
    )
    last = [table.groupby("row").tail(1).reset_index(drop=True) for table in (longer, once)]
    pd.testing.assert_frame_equal(*last)
    assert records.load("neumatch/shapes", tmp_path / "a")["epoch"].max() == TINY["epochs"]


def in_this_process(work, tasks, **_):
    return [work(task) for task in tasks]


def test_a_sweep_in_processes_of_its_own(tmp_path):
    options = {**TINY, "epochs": 1, "seeds": 1, "jobs": 1}
    record("shapes", rows=[PAPER], folder=tmp_path, progress=False, **options)
    assert len(records.load("neumatch/shapes", tmp_path)) == 1


def test_an_unknown_row_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rows: expected one of"):
        record("shapes", rows=["RP + LAMB"], folder=tmp_path)
    with pytest.raises(ValueError, match="assigned: expected 'RP . SBN . LARS' among the rows"):
        record("shapes", rows=[NONE], assigned=True, folder=tmp_path)
    with pytest.raises(ValueError, match="tasks: expected one or more, each once"):
        record("shapes", rows=[NONE, NONE], folder=tmp_path)


def test_the_recorded_counts_of_the_annotations_are_those_of_the_files(real_data):
    recorded = records.load("neumatch/yms-annotations").set_index("quantity").value
    assert recorded.to_dict() == pytest.approx(experiments.annotations(), abs=1e-5)
    known = {"clips": 16_802, "blocks": 187, "longest block": 108, "blocks of 100": 195}
    assert {name: recorded[name] for name in known} == known
    # IoUs count by video; the paper's 93.6 is that of blocks of 100 actions, over all snippets
    bounds = {"truth, text_iou": 96.48, "truth, pooled_text_iou": 96.52}
    bounds |= {"blocks, video_accuracy": 98.42, "blocks, text_iou": 92.43}
    bounds |= {"blocks, pooled_text_iou": 93.40}
    assert {name: round(100 * recorded[name], 2) for name in bounds} == bounds


def test_annotations_that_are_not_there_are_refused_with_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="Get it from"):
        experiments.annotations(tmp_path / "nowhere")


def test_norm_ratios_survive_squares_that_overflow_and_gradients_of_zero():
    model = NeuMATCH(9, 7, hidden=12, action_hidden=4, matched_hidden=6)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e25)
    small = norm_ratios(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-25)
    large = norm_ratios(model)
    assert all(large[name] == pytest.approx(1e50 * small[name], rel=1e-5) for name in small)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    assert all(math.isnan(ratio) for ratio in norm_ratios(model).values())
