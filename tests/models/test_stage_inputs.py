"""Rows of TVQA+ as the inputs of STAGE."""

import math

import numpy as np
import pytest
import torch

from modalign.data import load
from modalign.models.stage import STAGE
from modalign.models.stage_inputs import (
    box_labels,
    box_overlap,
    looked_at,
    nearest_lines,
    span_of,
    stage_batch,
)

TEXT, VIDEO = 4, 3
COUNTS = [2, 1, 3] * 5
LINES = [
    {"text": "a b c", "start": 0.5},
    {"text": "d", "start": 2.0},
    {"text": "e f", "start": 4.5},
]


def matrix(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width))


def row(**changes):
    return {
        "question": "Who is it ?",
        "answers": ["Raj", "Penny is", "a b c", "d", "e f"],
        "question_features": matrix(4, TEXT),
        "answer_features": [matrix(n, TEXT, n) for n in (1, 2, 3, 1, 2)],
        "label": 1,
        "start": 1.0,
        "end": 3.0,
        "subtitles": LINES,
        "subtitle_features": matrix(6, TEXT, 7),
        "subtitle_counts": [3, 1, 2],
        "region_features": matrix(30, VIDEO, 8),
        "region_counts": COUNTS,
        **changes,
    }


def boxes():
    """A box of Penny in frame 4, which regions 0 and 1 there share to different degrees."""
    box = {"frame": 4, "label": "penny", "left": 10.0, "top": 10.0, "width": 20.0, "height": 20.0}
    regions = np.tile([[300.0, 300.0, 310.0, 310.0]], (30, 1))
    regions[6] = [10, 10, 30, 26]  # of frame 4: 0.8
    regions[7] = [10, 10, 30, 19]  # 0.45
    return {"boxes": [box], "region_boxes": regions}


@pytest.mark.parametrize(
    ("count", "frames", "expected"),
    [
        (15, [], [1, 7, 13]),
        (15, [7, 13], [1, 7, 13]),
        (15, [6, 12], [6, 12]),
        (3, [], [1]),
        (1, [], [1]),
        (3, [5], [3]),
        (320, [], list(range(1, 301, 6))),
    ],
)
def test_frames_go_with_the_boxes(count, frames, expected):
    assert list(looked_at(count, [{"frame": frame} for frame in frames])) == expected


def test_no_frame_is_refused():
    with pytest.raises(ValueError, match="count: expected a frame at least, got 0"):
        looked_at(0)


@pytest.mark.parametrize(
    ("start", "end", "count", "expected"),
    [
        (0.0, 0.0, 20, (0, 0)),
        (2.0, 2.0, 20, (1, 1)),
        (2.1, 3.9, 20, (2, 2)),  # no frame within: the next one
        (0.0, 100.0, 20, (0, 2)),  # as in the public code, the last frame is left out
        (100.0, 200.0, 20, (3, 3)),
        (4.0, 8.0, 600, (1, 2)),  # thinned out to half
    ],
)
def test_spans_in_frames(start, end, count, expected):
    assert span_of(start, end, range(1, 20, 6), count) == expected


def test_lines_near_a_time():
    assert nearest_lines([0.0, 1.0, 5.0, 6.0], 5.2) == [2, 3]
    assert nearest_lines([3.0], 0.0) == [0]
    assert nearest_lines([], 0.0) == []


def test_overlap_of_boxes():
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 1, 1]])
    b = torch.tensor([[2.0, 2, 4, 6], [5, 5, 6, 6], [0, 0, 4, 4]])
    right = [[4 / 20, 0, 1], [0, 0, 1 / 16]]
    torch.testing.assert_close(box_overlap(a, b), torch.tensor(right))


def test_a_batch():
    batch = stage_batch([row(), row(region_counts=[2] * 25, region_features=matrix(50, VIDEO))])
    inputs = batch.inputs
    assert inputs["frames"].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert inputs["answers"].mask[0].sum(1).tolist() == [5, 6, 7, 5, 6]
    first = np.concatenate([row()["question_features"], row()["answer_features"][2]])
    torch.testing.assert_close(inputs["answers"].values[0, 2], torch.tensor(first).float())
    # frames 1, 7 and 13 have 2 regions each, the first of three frames of 6
    assert inputs["video"].mask[0].sum(1).tolist() == [2, 2, 2, 0, 0]
    regions = torch.tensor(row()["region_features"]).float()
    torch.testing.assert_close(inputs["video"].values[0, 1, :2], regions[12:14])
    # at 1/3, 7/3 and 13/3 seconds; lines begin at 0.5, 2 and 4.5
    words = torch.tensor(row()["subtitle_features"]).float()
    torch.testing.assert_close(inputs["subtitles"].values[0, 0, :4], words[:4])
    torch.testing.assert_close(inputs["subtitles"].values[0, 2, :3], words[3:])
    assert inputs["subtitles"].mask[0].sum(1).tolist() == [4, 4, 3, 0, 0]
    assert [each.tolist() for each in batch.truth] == [[1, 1], [1, 1], [1, 1]]
    assert batch.labels is None
    model = STAGE(text_dim=TEXT, video_dim=VIDEO, bridge=6, hidden=4)
    output = model(**inputs, truth=batch.truth)
    assert model.losses(output, batch.truth)["loss"].isfinite()


def test_labels_say_which_regions_words_name():
    batch = stage_batch([row(**boxes())])
    # frames 4 and 10 are looked at; the right answer is "Penny is"
    assert batch.labels.shape == (1, 2, 7, 2)
    assert batch.labels.nonzero().tolist() == [[0, 0, 4, 0]]
    model = STAGE(text_dim=TEXT, video_dim=VIDEO, bridge=6, hidden=4)
    output = model(**batch.inputs, truth=batch.truth)
    losses = model.losses(
        output, batch.truth, labels=batch.labels, regions=batch.inputs["video"].mask
    )
    assert losses["attention"] > 0


def test_a_box_outside_its_frame_is_refused():
    far = boxes()
    far["boxes"] = [{**far["boxes"][0], "left": 625.0}]
    with pytest.raises(ValueError, match="boxes: expected a box within 640 x 360 pixels, 'penny'"):
        stage_batch([row(**far)])
    regions = torch.tensor([[620.0, 0.0, 640.0, 361.0]])
    edge = {"label": "A", "left": 620.0, "top": 0.0, "width": 21.0, "height": 361.0}
    assert box_labels(["a"], [edge], regions).tolist() == [[True]]


def test_one_without_answer_or_span_has_no_truth():
    for change in ({"label": -1}, {"start": None, "end": None}):
        batch = stage_batch([row(), row(**change, **boxes())])
        assert batch.truth is None
        assert batch.labels is None


def test_clips_longer_than_their_features_have_frames_without_any():
    short = row(region_features=matrix(13, VIDEO), subtitle_features=matrix(4, TEXT))
    inputs = stage_batch([short]).inputs
    assert inputs["video"].mask[0].sum(1).tolist() == [2, 1, 0]
    assert inputs["subtitles"].mask[0].sum(1).tolist() == [4, 4, 1]
    assert inputs["frames"].all()
    model = STAGE(text_dim=TEXT, video_dim=VIDEO, bridge=6, hidden=4).eval()
    assert model(**inputs).logits.isfinite().all()


def test_a_clip_without_a_line():
    silent = row(subtitles=[], subtitle_counts=[], subtitle_features=matrix(0, TEXT))
    inputs = stage_batch([silent]).inputs
    assert not inputs["subtitles"].mask.any()
    model = STAGE(text_dim=TEXT, video_dim=VIDEO, bridge=6, hidden=4).eval()
    assert model(**inputs).logits.isfinite().all()
    with pytest.raises(ValueError, match="subtitle_features: expected at most 0 rows"):
        stage_batch([{**silent, "subtitle_features": matrix(1, TEXT)}])


def test_captions_and_texts_alone():
    captioned = row(
        captions=LINES[:1], caption_features=matrix(2, TEXT), caption_counts=[2], frame_count=9
    )
    batch = stage_batch([captioned], streams=["captions"])
    assert batch.inputs["captions"].mask.shape == (1, 2, 2)
    streams = ["subtitles", "video", "captions"]
    assert set(stage_batch([captioned], streams=streams).inputs) == {*streams, "answers", "frames"}


REFUSED = {
    "no row": ([], "rows: expected a question at least, got none"),
    "four answers": (
        [row(answer_features=[matrix(1, TEXT)] * 4)],
        "answer_features: expected five a question, row 0 has 4",
    ),
    "no counts": (
        [{key: value for key, value in row().items() if key != "region_counts"}],
        "rows: expected a column region_counts, row 0 has question",
    ),
    "more features than counts": (
        [row(region_counts=[1] * 15)],
        "region_features: expected at most 15 rows, as region_counts add up to, row 0 has 30",
    ),
    "a count less": (
        [row(subtitle_counts=[3, 3])],
        "subtitle_counts: expected 3, row 0 has 2",
    ),
    "no matrix": (
        [row(question_features=np.ones(3))],
        "question_features: expected a matrix of features, row 0 has",
    ),
    "NaN in the span": (
        [row(start=math.nan)],
        "start, end: expected 0 <= start <= end in seconds, got nan to 3.0",
    ),
    "words that are not those of the features": (
        [row(**boxes(), question="Who is it?")],
        "question, answers: expected 6 words, one a row of features, row 0 has 5",
    ),
    "fewer boxes than regions": (
        [row(**{**boxes(), "region_boxes": boxes()["region_boxes"][:7]})],
        "region_boxes: expected 2 of frame 4, row 0 has float32",
    ),
}


@pytest.mark.parametrize(("rows", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        stage_batch(rows)


def test_boxes_of_the_official_file_are_within_their_frames(real_data):
    rows = load("tvqa-plus", "validation", folder=real_data / "tvqa", verify=False)
    regions = torch.tensor([[0.0, 0.0, 640.0, 360.0]])
    named = 0
    for each in rows.select(range(0, 3000, 20)):
        words = [*each["question"].split(), *each["answers"][each["label"]].split()]
        frames = set(looked_at(300, each["boxes"]))
        assert {box["frame"] for box in each["boxes"]} <= frames
        named += box_labels(words, each["boxes"], regions, overlap=0.01).any(1).sum().item()
    assert named > 100
