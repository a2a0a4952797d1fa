import dataclasses
import json

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from modalign import records, rerun
from modalign.data import shapes
from modalign.metrics import Interval
from modalign.models.codis import Codis
from modalign.studies._schedules import share_of_rate
from modalign.studies._seen import as_seen
from modalign.studies.codis import figures, maps, pairs, pretraining, recording, setting, tasks
from modalign.studies.codis.pairs import Epochs, Pairs
from modalign.studies.codis.setting import (
    ALBEF,
    BASELINES,
    CLAIMS,
    DECIDED_BY,
    DECLARED,
    FULL,
    ROWS,
    TASKS,
    FineTuning,
    Setting,
)

SMALL = Setting(examples=48, candidates=24, epochs=3, batch_size=16, resolution=32, k=4)
SIZES = {"width": 16, "heads": 2, "dim": 8, "prototypes": 8, "queue": 32}
TUNING = {"examples": 30, "held_out": 20, "epochs": 1, "batch_size": 10}


@pytest.fixture(scope="module")
def run():
    return pretraining.pretrain(SMALL, progress=False, **SIZES)


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


# settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "flickr30k"}, "did you mean 'flickr8k'"),
        ({"batch_size": 1}, "batch_size: expected 2 to 2000 examples, got 1"),
        ({"examples": 10}, "batch_size: expected 2 to 10 examples, got 64"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Setting(**changes)


def test_tasks_are_checked():
    with pytest.raises(ValueError, match="did you mean 'questions'"):
        FineTuning(task="question")


def test_a_batch_has_to_divide_the_queue():
    with pytest.raises(ValueError, match="a number that divides the queue's 128, got 48"):
        pretraining.pretrain(dataclasses.replace(SMALL, batch_size=48), progress=False)


def test_the_rate_rises_then_falls():
    rates = [share_of_rate(step, steps=50, warm_up=0.2, last=0.1) for step in range(51)]
    assert rates[0] == 0.1
    assert max(rates) == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


# data


def test_captions_tell_all_objects_of_a_scene():
    for scene in pairs.scenes(0, "train", 20):
        for text in pairs.captions(scene, 3):
            assert len(text.replace(" and ", ", ").split(", ")) == len(
                {shapes.Description.of(o) for o in scene.objects}
            )


def test_only_unseen_scenes_combine_shape_and_colour_anew():
    kept = set(shapes.held_out("test"))
    for split in pairs.SCENES:
        new = [
            any((o.shape, o.colour) in kept for o in scene.objects)
            for scene in pairs.scenes(0, split, 50)
        ]
        assert all(new) if split.startswith("unseen") else not any(new), split


def test_splits_share_no_scene():
    drawn = [repr(s.objects) for split in pairs.SCENES for s in pairs.scenes(0, split, 100)]
    assert len(set(drawn)) == len(drawn)


def test_the_tokenizer_knows_every_word_of_the_tasks(run):
    for task in TASKS["shapes"]:
        for split in ("train", "test"):
            found, _ = tasks.examples(
                FineTuning(task=task, examples=300, held_out=300),
                split,
                setting=SMALL,
                tokenizer=run.tokenizer,
            )
            assert not (found["input_ids"] == run.tokenizer.token_to_id("[UNK]")).any(), task


def test_an_epoch_shows_each_picture_once_with_a_caption_of_its_own():
    counts = torch.tensor([1, 3, 2, 5])
    owners = torch.arange(4).repeat_interleave(counts)
    ids = torch.stack([owners, torch.arange(11)], 1)
    few = Pairs(torch.arange(4.0)[:, None], ids, torch.ones_like(ids), owners)
    batches = Epochs(few, batch_size=2, seed=0)
    seen = set()
    for epoch in range(60):
        parts = list(batches(epoch))
        assert len(parts) == len(batches) == 2
        pixels = torch.cat([part["pixel_values"] for part in parts])[:, 0]
        texts = torch.cat([part["input_ids"] for part in parts])
        assert sorted(pixels.tolist()) == [0, 1, 2, 3]
        assert torch.equal(texts[:, 0], pixels.long())
        seen |= set(texts[:, 1].tolist())
    assert seen == set(range(11))  # every caption is drawn sooner or later
    first, again = (next(iter(batches(7)))["input_ids"] for _ in range(2))
    assert torch.equal(first, again)


# pretraining


def test_all_parts_are_recorded_and_fall(run):
    assert {"loss", "mlm", "itm", "cross", "intra", "code"} <= set(run.history)
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    assert run.model.steps == 9
    assert not run.model.training


class Killed(Exception):
    pass


def test_a_run_that_was_killed_goes_on_bit_for_bit(run, tmp_path, monkeypatch):
    checkpoint, update = tmp_path / "run.pt", Codis.update

    def killed(model):
        if model.steps == 5:
            raise Killed
        update(model)

    monkeypatch.setattr(Codis, "update", killed)
    with pytest.raises(Killed):
        pretraining.pretrain(SMALL, checkpoint=checkpoint, progress=False, **SIZES)
    monkeypatch.setattr(Codis, "update", update)
    again = pretraining.pretrain(SMALL, checkpoint=checkpoint, progress=False, **SIZES)
    assert equal(run.model.state_dict(), again.model.state_dict())
    pd.testing.assert_frame_equal(run.history, again.history, check_exact=True)


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    setting = dataclasses.replace(SMALL, epochs=1)
    pretraining.pretrain(setting, checkpoint=tmp_path / "run.pt", progress=False, **SIZES)
    other = {**SIZES, "prototypes": 9}
    with pytest.raises(ValueError, match="prototypes"):
        pretraining.pretrain(setting, checkpoint=tmp_path / "run.pt", progress=False, **other)


def test_the_temperature_has_a_rate_of_its_own():
    still = dataclasses.replace(SMALL, epochs=1, temperature_rate=0.0)
    found = pretraining.pretrain(still, progress=False, **SIZES)
    assert found.model.codebook.temperature().item() == pytest.approx(0.07)


# evaluation


def test_evaluate_means_both_directions(run):
    found = pretraining.evaluate(run)
    for k in (1, 5, 10):
        for name in ("", "tower_"):
            both = [found[f"{name}{way}_recall_at_{k}"] for way in ("text", "image")]
            assert found[f"{name}recall_at_{k}"] == pytest.approx(sum(both) / 2)
    assert found["recall_at_10"] >= found["recall_at_1"]


def test_evaluate_finds_all_with_a_perfect_model(run, monkeypatch):
    def perfect(self, images, input_ids, attention_mask, *, k):
        return (torch.eye(len(images)),) * 3

    monkeypatch.setattr(pretraining.Retrieval, "predict", perfect)
    found = pretraining.evaluate(run)
    assert set(found.values()) == {100.0}


def test_fine_tuned_retrieval_leaves_the_run_as_it_was(run):
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    tuned = tasks.fine_tuned_retrieval(run, epochs=1, progress=False)
    assert equal(before, run.model.state_dict())
    assert not torch.equal(tuned.towers.image_head.weight, run.model.towers.image_head.weight)


@pytest.mark.parametrize("task", TASKS["shapes"])
def test_a_task_is_trained_on_a_copy(run, task):
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    tuned, score = tasks.fine_tune(run, FineTuning(task=task, **TUNING), progress=False)
    assert 0 <= score <= 100
    assert equal(before, run.model.state_dict())
    assert not torch.equal(tuned.codis.fusion.norm.weight, run.model.fusion.norm.weight)


def test_examples_are_right(run):
    options = {"setting": SMALL, "tokenizer": run.tokenizer}
    judged, names = tasks.examples(FineTuning(task="pairs", **TUNING), "test", **options)
    drawn = [shapes.pair(0, i, split="test") for i in range(20)]
    assert judged["images"].shape == (20, 2, 3, 32, 32)
    assert [names[i] == "true" for i in judged["label"]] == [each.true for each in drawn]
    questions, names = tasks.examples(FineTuning(task="questions", **TUNING), "test", **options)
    for i, label in enumerate(questions["label"]):
        asked = shapes.questions(shapes.sample_scene(0, i, split="test"), 1)[0]
        assert names[label] == asked.answers[asked.answer]
        offered = [name for name, here in zip(names, questions["allowed"][i], strict=True) if here]
        assert set(offered) == set(asked.answers)
    entailed, names = tasks.examples(FineTuning(task="entailment", **TUNING), "train", **options)
    assert names == ("entailment", "neutral", "contradiction")
    assert torch.bincount(entailed["label"]).tolist() == [10, 10, 10]


def test_what_must_not_look_sees_grey(run):
    for split in ("train", "test"):
        found, _ = tasks.examples(
            FineTuning(task="pairs", look=False, **TUNING),
            split,
            setting=SMALL,
            tokenizer=run.tokenizer,
        )
        assert (found["images"] == 127).all()


def test_the_majority_is_that_of_the_training_labels(monkeypatch):
    def fixed(tuning, split, **_):
        label = torch.tensor([0, 2, 2, 1]) if split == "train" else torch.tensor([2, 2, 0, 1])
        allowed = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 0]]).bool()
        allowed = allowed if tuning.task == "questions" else None
        return tasks.Examples(pytest.fail, [], label, ("a", "b", "c"), allowed)

    monkeypatch.setattr(tasks, "asked", fixed)
    assert tasks.majority(SMALL, FineTuning(task="entailment")) == 50.0
    assert tasks.majority(SMALL, FineTuning(task="questions")) == 100.0


@pytest.mark.parametrize("task", TASKS["shapes"])
def test_the_majority_needs_no_picture(monkeypatch, task):
    monkeypatch.setattr(tasks, "painted", lambda *_: pytest.fail("drawn"))
    assert 0 < tasks.majority(SMALL, FineTuning(task=task, **TUNING)) <= 100


def test_no_photograph_that_pretraining_saw_is_scored(run, real_data):
    tuning = FineTuning(task="snli-ve", examples=40, held_out=10**6)
    setting = dataclasses.replace(SMALL, dataset="flickr8k")
    found, names = tasks.examples(tuning, "test", setting=setting, tokenizer=run.tokenizer)
    rows = tasks.load("snli-ve", "test")
    unseen = sum(split != "train" for split in rows["flickr8k_split"])
    assert 0 < len(found["label"]) == unseen < len(rows)
    assert names == ("entailment", "neutral", "contradiction")
    nlvr = FineTuning(task="nlvr", examples=12, held_out=12)
    found, names = tasks.examples(nlvr, "train", setting=setting, tokenizer=run.tokenizer)
    assert found["images"].shape == (12, 1, 3, 32, 32)
    assert names == ("false", "true")


@pytest.fixture
def folder(tmp_path):
    """Pictures that differ and a text each, as anyone may have them."""
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        lines = ["file_name,text"]
        (tmp_path / split).mkdir()
        for i in range(24):
            noise = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / split / f"{i}.png")
            lines.append(f"{i}.png,a picture of {['one', 'two', 'three'][i % 3]}")
        (tmp_path / split / "metadata.csv").write_text("\n".join(lines))
    return tmp_path


def test_pairs_of_a_folder_are_pretrained_on(folder):
    setting = dataclasses.replace(SMALL, dataset=f"hub:{folder}", examples=24, epochs=1)
    found = pretraining.pretrain(setting, progress=False, **SIZES)
    assert pretraining.evaluate(found)["recall_at_10"] <= 100
    with pytest.raises(ValueError, match="expected 24 pictures or fewer, .* train .*, got 25"):
        pairs.data(dataclasses.replace(setting, examples=25))


def test_pairs_without_texts_are_refused(folder):
    for each in folder.glob("*/metadata.csv"):
        each.write_text(each.read_text().replace("file_name,text", "file_name,words"))
    setting = dataclasses.replace(SMALL, dataset=f"hub:{folder}", examples=24)
    with pytest.raises(ValueError, match="dataset: expected columns image, .*without captions"):
        pairs.data(setting)


def test_photographs_are_pretrained_on(real_data):
    setting = dataclasses.replace(SMALL, dataset="flickr8k", epochs=1)
    found = pretraining.pretrain(setting, progress=False, **SIZES)
    assert set(found.splits) == {"train", "validation", "test"}
    assert len(found.splits["test"].input_ids) == 24 * 5
    assert pretraining.evaluate(found)["recall_at_10"] <= 100


# pointing


def test_names_are_found_in_captions(run):
    drawn, told = pairs.scenes(0, "test", 24), run.splits["test"]
    checked = 0
    for i, scene in enumerate(drawn):
        length = int(told.attention_mask[i].sum())
        tokens = [run.tokenizer.id_to_token(int(t)) for t in told.input_ids[i][:length]]
        for k, place in maps.named_objects(scene, tokens):
            nouns = shapes.text.SYNONYMS[scene.objects[k].shape]
            assert any(tokens[place] == noun.split()[-1] for noun in nouns)
            checked += 1
    assert checked > 48


def test_two_objects_of_one_description_have_no_name_of_their_own():
    scene = pairs.scenes(0, "train", 1)[0]
    o = scene.objects[0]
    twins = dataclasses.replace(scene, objects=(o, dataclasses.replace(o, x=0.5), scene.objects[1]))
    assert maps.named_objects(twins, ["[CLS]", "a", "star", "and", "a", "box"]) == [(2, 5)]


def maps_of(run, drawn, shown):
    """In place of Grad-CAM: the map of the last word of each name, ``shown`` (n, objects, h, w)."""

    def known(model, batch):
        found = torch.zeros(len(batch["input_ids"]), batch["input_ids"].shape[1], 32 * 32)
        for i, scene in enumerate(drawn):
            length = int(batch["attention_mask"][i].sum())
            tokens = [run.tokenizer.id_to_token(int(t)) for t in batch["input_ids"][i][:length]]
            for k, place in maps.named_objects(scene, tokens):
                found[i, place] = shown[i, k].float().flatten()
        return found

    return known


@pytest.mark.parametrize(("there", "wanted"), [(True, 100.0), (False, 0.0)])
def test_pointing_scores_maps_that_know(run, monkeypatch, there, wanted):
    drawn = pairs.scenes(0, "test", 24)
    masks = torch.from_numpy(shapes.render_images(drawn, 32).masks)

    monkeypatch.setattr(maps, "grad_cam", maps_of(run, drawn, masks == there))
    found = maps.pointing(run)
    assert found["pointing"] == pytest.approx(wanted)
    assert 0 < found["pointing_by_chance"] < 20


def test_pointing_of_constant_maps_is_chance(run, monkeypatch):
    def constant(model, batch):
        return torch.ones(*batch["input_ids"].shape, 16)

    monkeypatch.setattr(maps, "grad_cam", constant)
    found = maps.pointing(run)
    assert found["pointing"] == pytest.approx(found["pointing_by_chance"])


def test_a_place_is_centred_where_a_scene_as_seen_lies(run):
    """What moves a place of an untrained tower lies around its middle in the grid, once moved."""
    weights = torch.zeros(32, 32)
    for seed in range(20):
        model = pretraining.build(dataclasses.replace(SMALL, seed=seed), run.tokenizer)
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randn(1, 3, 32, 32, generator=generator).requires_grad_()
        places = model.towers.image.patches.maps(pixels)
        direction = torch.randn(places.shape[1], generator=generator)
        (grad,) = torch.autograd.grad(direction @ places[0, :, 2, 2], pixels)
        weights += grad[0].square().sum(0)
    centre = (weights.sum(0) * torch.arange(32)).sum() / weights.sum()
    o = shapes.Object("star", "red", 0.08, float(centre + 0.5) / 32, 0.5)  # pixels' middles
    seen = as_seen(shapes.Scene((o,)), 32, 8).objects[0]
    assert 32 * seen.x == pytest.approx(8 * 2.5, abs=1)
    assert 32 * o.x == pytest.approx(8 * 2.5 - 3.5, abs=1)
    assert seen.y - o.y == seen.x - o.x


def test_pointing_at_scenes_as_seen(run, monkeypatch):
    """A map that is one where the moved object is, scores fully when moved and less when not."""
    drawn = pairs.scenes(0, "test", 24)
    moved = [as_seen(scene, 32, 8) for scene in drawn]
    masks = torch.from_numpy(shapes.render_images(moved, 32).masks)

    monkeypatch.setattr(maps, "grad_cam", maps_of(run, drawn, masks))
    assert maps.pointing(run, moved=True)["pointing"] == pytest.approx(100)
    assert maps.pointing(run)["pointing"] < 70


# codewords


def test_codewords_counts_entries_and_use(run, monkeypatch):
    found = maps.codewords(run)
    assert found["vertex_bound"] == 16 + 8 - 1
    assert found["paper_bound"] == 2 * 16 - 1
    assert 1 <= found["codewords_used"] <= 8

    def vertex(self, z):
        plan = torch.full((len(z), 8), 1e-5)
        plan[:, 0] = 1 / len(z)
        return plan

    monkeypatch.setattr(type(run.model.codebook), "plan", vertex)
    assert maps.codewords(run)["plan_entries"] == 16


# the sweep


def table(**effects):
    """Five seeds in which the full row is better by so much."""
    rows = []
    for row in (*ROWS, *BASELINES):
        for seed in range(5):
            base = 10.0 * seed
            found = {"recall_at_1": base, "questions": base, "plan_entries": 200.0 + seed}
            found |= {"vertex_bound": 191.0, "paper_bound": 255.0}
            for measure, effect in effects.items():
                found[measure] += effect * (row == FULL) + 0.01 * seed * (row == FULL)
            rows.append({"row": row, "seed": seed, **found})
    return pd.DataFrame(rows)


def test_claims_are_paired_differences():
    found = recording.claims(table(recall_at_1=2.0, questions=-1.0)).set_index("claim")
    assert found.loc["c22", "mean"] == pytest.approx(2.02)
    assert found.loc["c22", "low"] > 1.9  # what a seed does to both sides cancels
    assert found.loc["c22b", "mean"] == 0
    assert found.loc["c26a", "high"] < 0
    assert found.loc["c27", "mean"] == pytest.approx(255 - 202)
    assert found.loc["c27b", "mean"] == pytest.approx(191 - 202)
    assert "c36a" not in found.index  # not measured here
    assert (found["pairs"] == 5).all()
    assert found.loc["c22", "smallest"] == 1.3


def test_claims_speak_of_rows_and_measures_that_are_there():
    for claim in CLAIMS.values():
        assert {claim.row, claim.other} <= set(ROWS)
        assert claim.smallest > 0
        assert (claim.row, claim.measure) != (claim.other, claim.than)
    assert {claim.other for name, claim in CLAIMS.items() if name.startswith("c26")} == {ALBEF}
    with pytest.raises(KeyError):
        recording.claims(table().query("row != @FULL"))


SWEEP = {
    name: getattr(SMALL, name)
    for name in ("examples", "candidates", "batch_size", "resolution", "k")
} | {"epochs": 1, "tuning": FineTuning(**TUNING)}


@pytest.fixture
def small(monkeypatch):
    """Rows with the sizes of a test, in this process, which alone knows them."""
    rows = {row: {**changes, **SIZES} for row, changes in ROWS.items()}
    monkeypatch.setattr(recording, "ROWS", rows)
    monkeypatch.setattr(records, "each", lambda work, tasks, **_: [work(task) for task in tasks])


def test_a_sweep_measures_what_the_claims_ask_for(small, tmp_path):
    recording.record(folder=tmp_path, seeds=[7], **SWEEP)
    found = records.load("codis/shapes", folder=tmp_path)
    assert found["row"].tolist() == [*ROWS, *BASELINES]
    assert set(found["seed"]) == {7}
    assert found.attrs["parameters"]["setting"]["tuning"]["examples"] == 30
    found = found.set_index("row")
    wanted = {claim.measure for claim in CLAIMS.values()} - {"nlvr", "snli-ve"}
    assert found.loc[FULL, list(wanted)].notna().all()
    assert found.loc["majority", list(TASKS["shapes"])].notna().all()
    assert found.loc["cross", ["codewords_used", "plan_entries"]].isna().all()


def test_a_sweep_of_some_rows(small, tmp_path):
    recording.record(name="few", rows=[FULL, "majority"], folder=tmp_path, seeds=[1], **SWEEP)
    assert records.load("codis/few", folder=tmp_path)["row"].tolist() == [FULL, "majority"]
    with pytest.raises(ValueError, match="rows: .*'majorities'"):
        recording.record(rows=["majorities"], folder=tmp_path)


@pytest.mark.parametrize(("preset", "name"), [("gpu", "flickr8k"), ("default", "tasks")])
def test_the_chapter_makes_the_recorded_tables_again(preset, name, monkeypatch):
    cells = nbformat.read(rerun.book_root() / "notebooks" / "codis.ipynb", 4).cells
    (makes,) = (cell.source for cell in cells if "recording.record(" in cell.source)
    given = {name: each.default for name, each in rerun.parameters("codis").items()}
    given |= {"record_seeds": 5, **rerun.presets("codis")[preset]}
    known = {name: getattr(setting, name) for name in ("ALBEF", "BASELINES", "FULL", "ROWS")}
    asked = {}

    def sweep(work, tasks, name, *, parameters, **_):
        runs = {(row, one.seed) for row, one in tasks}
        asked[name] = runs, json.loads(json.dumps(parameters))

    monkeypatch.setattr(recording._sweep, "record", sweep)
    exec(makes, {"Setting": Setting, "recording": recording, **known, **given})
    made = records.load(f"codis/{name}")
    held = {key: made.attrs["parameters"][key] for key in ("seeds", "rows", "setting")}
    assert asked[f"codis/{name}"] == (set(zip(made.row, made.seed, strict=True)), held)


def test_pointing_is_recorded_again_from_the_runs_that_are_kept(small, tmp_path, monkeypatch):
    rows, options = [FULL, ALBEF], {"folder": tmp_path, "seeds": [1]}
    recording.record(name="tasks", rows=rows, **options, **SWEEP)
    monkeypatch.setattr(Codis, "losses", lambda *_, **__: pytest.fail("trained again"))
    recording.record_pointing(**options, **SWEEP)
    found = records.load("codis/pointing", folder=tmp_path)
    before = records.load("codis/tasks", folder=tmp_path)
    painted = found[found["masks"] == "as painted"]
    assert found["row"].tolist() == [FULL, FULL, ALBEF, ALBEF]
    assert found["masks"].unique().tolist() == ["as painted", "as seen"]
    for name in ("pointing", "pointing_by_chance"):
        assert painted[name].tolist() == pytest.approx(before[name].tolist())


def test_every_claim_is_decided_by_one_table():
    ids = [claim for each in DECIDED_BY.values() for claim in each]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(CLAIMS)
    assert figures.judged()["claim"].tolist() == ids


def test_claims_are_declared_and_their_verdicts_are_those_of_the_rule():
    rows = recording.readings()
    assert rows.claim.tolist() == list(DECLARED)
    assert set(DECLARED) == set(CLAIMS)
    assert (rows[["says", "paper", "measure", "contrast", "budget"]] != "").all(axis=None)
    assert rows.table.tolist() == [each.table for each in DECLARED.values()]
    for row in rows.itertuples():
        found = Interval(row.mean, row.low, row.high)
        assert row.verdict == found.verdict(paper=1, smallest=CLAIMS[row.claim].smallest)
    assert recording.verdicts().verdict.to_dict() == dict(
        zip(rows.claim, rows.verdict, strict=True)
    )
