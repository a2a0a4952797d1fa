"""Rows of TVQA as the inputs of its systems."""

import math

import h5py
import numpy as np
import pytest
import torch

from modalign.data import load
from modalign.models.tvqa_abc import TVQA
from modalign.models.videoqa_inputs import (
    Words,
    frame_window,
    located_lines,
    question_words,
    tvqa_batch,
)

LINES = [
    {"text": "(Penny:)Where's my mug?", "start": 0.5, "end": 2.0},
    {"text": "I don't know...", "start": 4.0, "end": 6.0},
    {"text": "(Sheldon:)It's on the table, Penny.", "start": 8.0, "end": 9.0},
]


def row(**changes):
    features = np.arange(60.0).reshape(30, 2) + 1
    return {
        "question": "Where is Penny's mug?",
        "answers": ["On the table", "In the sink", "At work", "Lost", "Sold, of course!"],
        "label": 0,
        "start": 3.0,
        "end": 6.0,
        "subtitles": LINES,
        "video_features": features,
        "concepts": ["red mug, table", "table, red mug , blue sofa"] * 15,
        "captions": ["a woman looks for a mug"],
        **changes,
    }


WORDS = Words.of(
    [line["text"] for line in LINES] + ["a woman looks for the red table , blue sofa", "Lost!"]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's that?", ["what", "'s", "that", "?"]),
        ("I don't; they'll, I'm", ["i", "do", "n't", "they", "'ll", "i", "'m"]),
        ("Wait... no.", ["wait", ".", "no", "."]),
        ("(Ross:)Hi, caf\u00e9 #1", ["ross", ":", "hi", "caf", "1"]),
        ("", []),
    ],
)
def test_words(text, words):
    assert question_words(text) == words


def test_a_word_seen_once_is_unknown_where_asked_for():
    texts = ["Who is Penny?", "Who is it?"]
    assert Words.of(texts).encode("Penny?") == [5, 6, 2]
    assert Words.of(texts, min_count=2).encode("who is Penny?") == [3, 4, 1, 5, 2]
    with pytest.raises(ValueError, match="texts: no word comes min_count=3 times"):
        Words.of(texts, min_count=3)
    with pytest.raises(ValueError, match="texts: no word comes min_count=1 times"):
        Words.of([])


@pytest.mark.parametrize(
    ("word_map", "message"),
    [
        ({"<pad>": 0, "<unk>": 1}, "word_map: expected the mark <eos>, found none"),
        ({"<pad>": 0, "<unk>": 1, "<eos>": 3}, "word_map: expected the tokens 0 to 2, once each"),
        ({"<pad>": 1, "<unk>": 0, "<eos>": 2}, "<pad> at 0"),
    ],
)
def test_a_word_map_that_is_none_is_refused(word_map, message):
    with pytest.raises(ValueError, match=message):
        Words(word_map)


@pytest.mark.parametrize(
    ("start", "end", "rows", "expected"),
    [
        (10.0, 20.0, 300, (27, 63)),
        (0.2, 0.4, 300, (0, 4)),
        (0.0, 0.0, 300, (0, 3)),
        (5.0, 100.0, 30, (12, 30)),
        (80.0, 90.0, 30, (29, 30)),
        (None, None, 30, (0, 30)),
        (0.0, 0.0, 1, (0, 1)),
    ],
)
def test_windows_of_clips_and_of_clips_longer_than_their_features(start, end, rows, expected):
    assert frame_window(start, end, rows) == slice(*expected)


@pytest.mark.parametrize(
    ("start", "end"), [(math.nan, 3.0), (3.0, 2.0), (-1.0, 2.0), (None, 2.0), (0.0, math.inf)]
)
def test_a_span_that_cannot_be_is_refused(start, end):
    with pytest.raises(ValueError, match="start, end: expected 0 <= start <= end"):
        frame_window(start, end, 30)
    with pytest.raises(ValueError, match="start, end: expected"):
        tvqa_batch([row(start=start, end=end)], WORDS)


def test_no_features_are_refused():
    with pytest.raises(ValueError, match="rows: expected a row of features at least, got 0"):
        frame_window(0.0, 1.0, 0)


def test_lines_are_those_of_the_span():
    texts = [line["text"] for line in LINES]
    assert located_lines(LINES, 3.0, 6.0) == texts[:2]
    assert located_lines(LINES, 8.5, 9.0) == texts  # none begins: the closest, and one before
    assert located_lines(LINES, 0.0, 1.0) == texts[:1]
    assert located_lines(LINES, None, None) == texts
    assert located_lines([], 1.0, 2.0) == []


def test_a_batch():
    streams = ("video", "subtitles", "concepts", "captions")
    batch = tvqa_batch([row(), row(start=None, end=None)], WORDS, streams=streams)
    assert list(batch) == ["question", "answers", *streams]
    assert batch["answers"].values.shape[:2] == (2, 5)
    assert batch["answers"].mask[0].sum(1).tolist() == [4, 4, 3, 2, 5]
    assert batch["question"].values[0].tolist() == WORDS.encode("Where is Penny's mug?")
    said = WORDS.encode("(Penny:)Where's my mug?", "I don't know...")
    assert batch["subtitles"].values[0, : len(said)].tolist() == said
    assert not batch["subtitles"].mask[0, len(said) :].any()
    assert batch["concepts"].values[0].tolist() == WORDS.encode("red mug table blue sofa")
    values, mask = batch["video"]
    assert mask.sum(1).tolist() == [21 - 6, 30]
    right = torch.arange(60.0).reshape(30, 2)[6:21] + 1
    right /= right.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(values[0, mask[0]], right)
    whole = tvqa_batch([row()], WORDS, streams=streams, localized=False)
    assert whole["video"].mask.sum() == 30
    model = TVQA(len(WORDS), streams=streams, video_dim=2, embedding=4, hidden=2, matched=3)
    assert model(**batch).logits.shape == (2, 5)


def test_a_clip_without_dialogue_is_padding_alone():
    batch = tvqa_batch([row(subtitles=[])], WORDS, streams=["subtitles"])
    assert batch["subtitles"].mask.tolist() == [[False]]
    model = TVQA(len(WORDS), streams=["subtitles"], embedding=4, hidden=2, matched=3)
    logits = model(**batch).logits
    torch.testing.assert_close(logits, logits[:, :1].expand(1, 5))


def test_contexts_are_cut_where_the_public_code_cuts_them():
    long = [{"text": "mug " * 400, "start": 4.0}]
    features = np.ones((600, 2))
    batch = tvqa_batch([row(subtitles=long, video_features=features)], WORDS, localized=False)
    assert batch["subtitles"].values.shape == (1, 300)
    assert batch["video"].values.shape == (1, 480, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: expected a question at least, got none"),
        ([row(answers=["a", "b", "c", "d"])], "answers: expected five a question, row 0 has 4"),
        ([row(), {"question": "?"}], "rows: expected a column answers, row 1 has question"),
        ([row(video_features=np.ones(3))], "video_features: expected a matrix.*row 0 has"),
        ([row(video_features=np.ones((0, 3)))], "video_features: expected a matrix.*row 0 has"),
    ],
)
def test_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        tvqa_batch(rows, WORDS)


def test_a_question_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match="text: expected a text, got int 3"):
        tvqa_batch([row(question=3)], WORDS)


def test_the_official_files_go_in(tmp_path):
    """The jsonl with a NaN span, subtitles in latin-1, and features in HDF5 by clip."""
    line = (
        '{{"qid": {i}, "q": "Who caf\\u00e9?", "a0": "a", "a1": "b", "a2": "c", "a3": "d", '
        '"a4": "e", "answer_idx": 1, "ts": "{ts}", "vid_name": "clip", "show_name": "s"}}\n'
    )
    for split in ("train", "val", "test_public"):
        ts = ("1.0-2.0", "NaN-NaN", "90-95")
        lines = [line.format(i=i, ts=each) for i, each in enumerate(ts)]
        (tmp_path / f"tvqa_{split}.jsonl").write_text("".join(lines))
    cue = "1\n00:00:01,500 --> 00:00:03,000\n(Leonard:)A caf\u00e9?\n"
    (tmp_path / "clip.srt").write_text(cue, encoding="latin-1")
    with h5py.File(tmp_path / "video.h5", "w") as file:
        file["clip"] = np.ones((20, 4))
    rows = load(
        "tvqa",
        "validation",
        folder=tmp_path,
        subtitles=tmp_path,
        video_features=tmp_path / "video.h5",
        verify=False,
    )
    batch = tvqa_batch(list(rows), Words.of(["caf ? who leonard a"]))
    assert batch["video"].mask.sum(1).tolist() == [9, 20, 1]
    assert batch["subtitles"].mask.sum(1).tolist() == [6, 6, 6]
