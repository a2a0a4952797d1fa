"""Rows of the shapes world: the same however they are read, typed, and never piling up."""

import itertools
import tracemalloc

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modalign.data import waveform
from modalign.data.shapes import (
    VIEWS,
    Options,
    as_dataset,
    as_iterable,
    captions,
    entailment,
    features,
    pair,
    render_audio,
    render_images,
    render_video,
    sample,
    sample_scene,
    sample_sequence,
    stream,
)

SMALL = Options(views=VIEWS, resolution=24, frames=3, sample_rate=5000, seconds=0.2, arrays=True)
LIGHT = {"views": ["text", "objects"], "text_other": 0.5}


@pytest.fixture(autouse=True)
def _no_progress_bars():
    datasets.disable_progress_bars()


def test_every_view_is_that_of_its_scene(tmp_path):
    rows = as_dataset(4, options=SMALL, cache_dir=tmp_path)
    rows.set_format("numpy")
    for i, row in enumerate(rows):
        scene = sample_scene(0, i)
        painted = render_images([scene], 24)
        clip = render_video(scene, 3, 24)
        assert (row["image"] == painted.images[0]).all()
        assert (row["owners"] == painted.owners[0]).all()
        assert (np.array(row["boxes"].tolist()) == painted.boxes[0]).all()
        assert (row["video"] == clip.images).all()
        assert (
            np.array([list(map(list, frame)) for frame in row["video_boxes"]]) == clip.boxes
        ).all()
        assert (row["audio"][0] == render_audio(scene, 5000, seconds=0.2)).all()
        assert list(row["captions"]) == [caption.text for caption in captions(scene)]
        assert row["text"] == row["captions"][0]
        assert len(row["answers"]) == 5
        drawn = pair(0, i)
        sides = np.stack([row["left"], row["right"]])
        assert (sides == render_images([drawn.left, drawn.right], 24).images).all()
        assert (row["pair_text"], row["pair_true"]) == (drawn.text, drawn.true)
        label = rows.features["judgement"].int2str(int(row["judgement"]))
        triple = entailment(scene, label)
        assert (row["premise"], row["hypothesis"]) == (triple.premise, triple.hypothesis)
        assert [o["shape"] for o in row["objects"]] == [o.shape for o in scene.objects]
        assert [o["vx"] for o in row["objects"]] == [o.vx for o in scene.objects]
        assert row["id"] == f"0/train/{i}"


def test_stream_and_files_hold_the_same_rows_with_the_same_types(tmp_path):
    files, flow = as_dataset(5, options=SMALL, cache_dir=tmp_path), as_iterable(5, options=SMALL)
    assert files.features == flow.features == features(SMALL)
    for row, other in zip(files, flow, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            assert np.array_equal(np.array(row[key]), np.array(other[key])), key


def test_pictures_are_pictures(tmp_path):
    for rows in (as_dataset(2, cache_dir=tmp_path), as_iterable(2)):
        row = next(iter(rows))
        assert isinstance(row["image"], Image.Image)
        painted = render_images([sample_scene(0, 0)])
        assert (np.asarray(row["image"]) == painted.images[0]).all()


def test_sounds_are_files_that_others_read(tmp_path):
    for rows in (as_dataset(2, views=["audio"], cache_dir=tmp_path), as_iterable(views=["audio"])):
        cell = next(iter(rows))["audio"]
        sound, rate = waveform(cell)
        assert rate == 16_000
        assert (sound.numpy() == render_audio(sample_scene(0, 0))).all()
    typed = as_dataset(2, views=["audio"], cache_dir=tmp_path)
    typed = typed.cast_column("audio", datasets.Audio(decode=False))
    assert typed[0]["audio"] == cell


@pytest.mark.parametrize("length", [10, None])
@pytest.mark.parametrize("shards", [1, 3])
def test_rows_do_not_depend_on_shards_or_length(length, shards):
    flow = as_iterable(length, shards=shards, **LIGHT)
    assert flow.num_shards == shards
    found = {}
    for part in range(shards):
        for row in flow.shard(shards, part).take(4):
            found[row["index"]] = row
    assert len(found) == min(4 * shards, length or 12)
    for i, row in found.items():
        drawn = sample(0, i, text_other=0.5)
        assert row["text"] == drawn.text
        assert row["text_source"] == drawn.text_source


def test_every_row_comes_once_through_two_workers():
    flow = as_iterable(11, shards=4, views=["text"])
    loader = torch.utils.data.DataLoader(flow, batch_size=3, num_workers=2)
    rows = [pair for batch in loader for pair in zip(batch["index"], batch["text"], strict=True)]
    assert sorted(int(i) for i, _ in rows) == list(range(11))
    assert all(text == captions(sample_scene(0, int(i)), 1)[0].text for i, text in rows)


def test_a_stream_is_in_order_and_can_be_read_again():
    flow = as_iterable(70, shards=2, views=["boxes"])  # more than one batch
    assert [row["index"] for row in flow] == [row["index"] for row in flow] == list(range(70))


def test_memory_does_not_grow_with_the_length():
    peaks = []
    flow = as_iterable(views=["image", "text", "boxes"], arrays=True)
    for length in (150, 150, 900):
        tracemalloc.start()
        for _ in itertools.islice(flow, length):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 750 more pictures alone would be 9 MB
    assert peaks[2] < peaks[1] + 2e6


def test_files_are_made_once_and_again_where_options_change(tmp_path, monkeypatch):
    first = as_dataset(3, cache_dir=tmp_path, **LIGHT)

    def only_the_first(options, index, whole=Options.sample):
        assert index == 0, "made again"
        return whole(options, index)

    monkeypatch.setattr(stream.Options, "sample", only_the_first)
    again = as_dataset(3, cache_dir=tmp_path, **LIGHT)
    assert again[2] == first[2]
    for change in ({"seed": 1}, {"text_other": 0.4}, {"split": "test"}):
        with pytest.raises(datasets.exceptions.DatasetGenerationError):
            as_dataset(3, cache_dir=tmp_path, **{**LIGHT, **change})


def test_misalignment_is_flagged_and_half_of_the_statements_are_true():
    views = ["text", "audio", "statement"]
    rates = {"text_other": 0.2, "text_absent": 0.2, "audio_other": 0.3}
    flow = as_iterable(400, views=views, sample_rate=5000, seconds=0.01, **rates)
    found = {
        key: np.array([row[key] for row in flow])
        for key in ("text_aligned", "audio_aligned", "statement_true")
    }
    for key, rate in (("text_aligned", 0.6), ("audio_aligned", 0.7), ("statement_true", 0.5)):
        assert abs(found[key].mean() - rate) < 4 * (rate * (1 - rate) / 400) ** 0.5


def test_sounds_of_other_scenes_are_heard():
    flow = as_iterable(3, views=["audio"], arrays=True, seconds=0.1, audio_other=1.0)
    for i, row in enumerate(flow):
        other = sample(0, i, audio_other=1.0).audio_scene
        assert (row["audio"][0] == render_audio(other, seconds=0.1)).all()


def test_premises_of_triples_may_be_the_picture():
    rows = list(as_iterable(90, views=["entailment"], premise="picture"))
    assert {row["premise"] for row in rows} == {None}
    assert all(15 < [row["judgement"] for row in rows].count(label) < 50 for label in range(3))


def test_only_what_is_asked_for_is_computed(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("computed")

    for name in ("render_images", "render_video", "render_audio", "questions"):
        monkeypatch.setattr(stream, name, never)
    assert next(iter(as_iterable(views=["text"])))["text"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_iterable(views=["picture"]), "views: expected one of image"),
        (lambda: as_iterable(views=["images"]), "did you mean 'image'"),
        (lambda: as_iterable(views=[]), "views: expected a list of one or more"),
        (lambda: as_iterable(views="text"), "views: expected a list .* got 'text'"),
        (lambda: as_iterable(3, shards=0), "shards: expected at least 1, got 0"),
        (lambda: as_iterable(2, shards=3), "length: expected at least 3"),
        (lambda: as_dataset(0), "length: expected at least 1"),
        (lambda: as_iterable(split="dev"), "split: expected one of train"),
        (lambda: as_iterable(text_other=2.0), "text_other: .* got 2.0"),
        (lambda: as_iterable(premise="image"), "premise: expected one of text, picture"),
        (lambda: as_iterable(resolution=2), "resolution: .* got 2"),
        (lambda: as_iterable(views=["audio"], sample_rate=10), "sample_rate: .* got 10"),
        (lambda: as_iterable(color=True), "unexpected keyword argument 'color'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_row(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_sequences_are_rows_too(tmp_path):
    options = {"views": ["sequence"], "events": 4, "unmatched_clips": 0.4, "resolution": 16}
    rows = as_dataset(6, **options, cache_dir=tmp_path)
    for i, row in enumerate(rows):
        drawn = sample_sequence(0, i, events=4, unmatched_clips=0.4)
        assert row["snippets"] == [snippet.text for snippet in drawn.snippets]
        for clip, snippet in enumerate(row["clip_snippet"]):
            assert drawn.matches[:, clip].nonzero()[0].tolist() == [snippet] * (snippet >= 0)
        shown = [each.video(3, 16).images[1] for each in drawn.clips]
        assert (np.stack([np.asarray(picture) for picture in row["clips"]]) == shown).all()
    assert any(-1 in row["clip_snippet"] for row in rows)
    with pytest.raises(ValueError, match="events: expected 1 to 200, got 0"):
        as_iterable(views=["sequence"], events=0)
