"""Questions of TVQA+, with features from files, as the inputs of STAGE.

Rows are those of ``load("tvqa-plus", text_features=..., subtitles=...)`` with the features of
regions and lines beside them. Clips are cut as in the public code (jayleicn/TVQAplus), unless a
docstring says otherwise.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from modalign._checks import checked, describe, require_choice
from modalign.models.padded import Padded
from modalign.models.stage import STREAMS
from modalign.models.stage_losses import Truth
from modalign.models.tvqa_abc import ANSWERS
from modalign.models.videoqa_inputs import FPS, matrix_of, require_columns

EVERY = 6  # frames from one that is looked at to the next: 0.5 a second
# most frames of a clip, regions of a frame, words of its lines, and words of an answer
FRAMES, REGIONS, WORDS, ANSWER = 300, 25, 50, 40
SIZE = (640, 360)  # of a frame, in pixels
SIDES = ("left", "top", "width", "height")


class STAGEBatch(NamedTuple):
    """The inputs of STAGE: ``model(**batch.inputs, truth=batch.truth)``.

    Attributes:
        inputs: ``answers``, the streams and ``frames``.
        truth: None if a row lacks its answer (-1) or its span.
        labels: (B, F, L, R), which regions the words of the right answer name, if rows have
            ``boxes`` and ``region_boxes`` and there is a truth.
    """

    inputs: dict[str, Any]
    truth: Truth | None
    labels: Bool[Tensor, "b f l r"] | None


def looked_at(count: int, boxes: Sequence[Mapping[str, Any]] = (), *, every: int = EVERY) -> range:
    """The frames of a clip that are looked at, counted from 1, among them those with boxes.

    >>> list(looked_at(20)), list(looked_at(20, [{"frame": 10}, {"frame": 16}])), list(looked_at(2))
    ([1, 7, 13, 19], [4, 10, 16], [1])
    """
    if count < 1:
        raise ValueError(f"count: expected a frame at least, got {count}")
    first = min((box["frame"] for box in boxes), default=1)
    first = (first - 1) % every + 1
    return range(min(first, count), min(count, FRAMES) + 1, every)


def span_of(start: float, end: float, frames: range, count: int) -> tuple[int, int]:
    """The places of a span's first and last frame among those that are looked at.

    A span behind the last frame, of a clip longer than its features, is that frame.

    >>> span_of(2.0, 4.5, range(1, 20, 6), 20)
    (1, 2)
    >>> span_of(50.0, 60.0, range(1, 20, 6), 20)
    (3, 3)
    """
    scale = FPS * min(1, FRAMES / count)  # longer clips were thinned out
    times = [frame - 1 for frame in frames]
    first = min(bisect.bisect_left(times, scale * start), len(times) - 1)
    last = min(bisect.bisect_right(times, scale * end), len(times) - 1)
    return first, max(first, last - 1)


def nearest_lines(starts: Sequence[float], time: float) -> list[int]:
    """The two lines that begin nearest to a time, in order.

    >>> nearest_lines([0.0, 2.0, 4.0], 3.5)
    [1, 2]
    """
    return sorted(sorted(range(len(starts)), key=lambda i: abs(starts[i] - time))[:2])


@checked
def box_overlap(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of boxes (left, top, right, bottom).

    >>> box_overlap(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])).item()
    0.3333333432674408
    """
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def box_labels(
    words: Sequence[str],
    boxes: Iterable[Mapping[str, Any]],
    regions: Float[Tensor, "r 4"],
    *,
    overlap: float = 0.5,
    size: tuple[int, int] = SIZE,
) -> Bool[Tensor, "l r"]:
    """Which regions of a frame each word names: those that overlap a box with the word as label.

    Args:
        words: of question and answer.
        boxes: of the frame, with ``label``, ``left``, ``top``, ``width`` and ``height``.
        regions: (left, top, right, bottom) of each.
        overlap: intersection over union at least.
        size: width and height of a frame. A box may stand out by one pixel, as some of TVQA+ do.

    Raises:
        ValueError: for a box outside its frame.

    >>> box = {"label": "Raj", "left": 0.0, "top": 0.0, "width": 10.0, "height": 10.0}
    >>> regions = torch.tensor([[0.0, 0.0, 9.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    >>> box_labels(["Why", "raj"], [box], regions).tolist()
    [[False, False], [True, False]]
    """
    found = torch.zeros(len(words), len(regions), dtype=torch.bool)
    for box in boxes:
        left, top, width, height = (float(box[side]) for side in SIDES)
        right, bottom = left + width, top + height
        if min(left, top) < -1 or right > size[0] + 1 or bottom > size[1] + 1:
            raise ValueError(
                f"boxes: expected a box within {size[0]} x {size[1]} pixels, {box['label']!r} has "
                f"{left:g}, {top:g} to {right:g}, {bottom:g}"
            )
        same = torch.tensor([word.lower() == box["label"].lower() for word in words])
        near = box_overlap(torch.tensor([[left, top, right, bottom]]), regions)[0] >= overlap
        found |= same[:, None] & near
    return found


def stage_batch(
    rows: Sequence[Mapping[str, Any]], *, streams: Sequence[str] = ("subtitles", "video")
) -> STAGEBatch:
    """Questions as the inputs of STAGE.

    Args:
        rows: with ``question_features`` (L, D) and ``answer_features`` (five of these), ``start``,
            ``end`` and ``label``, and of each stream

            - ``video``: ``region_features`` (N, D'), those of all frames one after another, and
              ``region_counts``, how many each frame has;
            - ``subtitles``: ``subtitles`` (lines with ``start``), ``subtitle_features`` (N, D) of
              their words, and ``subtitle_counts``, how many each line has; each frame gets the two
              lines that begin nearest to it;
            - ``captions``: the same with ``captions``, ``caption_features``, ``caption_counts``.

            Without video, ``frame_count`` says how many frames a clip has. If there are
            ``boxes`` (of TVQA+) and ``region_boxes`` (N, 4), ``question`` and ``answers`` are cut
            at blanks, to say which regions their words name.
        streams: of the model.

    A clip may be longer than its features: frames and lines that these do not reach have nothing,
    and are left out by the model.

    Raises:
        ValueError: for no row, a column that is missing, other than five answers, features that
            are not a matrix, more of them than the counts say, or a box outside its frame.
    """
    if not len(rows):
        raise ValueError("rows: expected a question at least, got none")
    for name in streams:
        require_choice(name, STREAMS, "streams")
    answers: list[list[Tensor]] = []
    contexts: dict[str, list[list[Tensor]]] = {name: [] for name in streams}
    truths: list[tuple[int, int, int] | None] = []
    labels: list[Tensor | None] = []
    for i, row in enumerate(rows):
        require_columns(row, _needed(streams), i)
        if len(row["answer_features"]) != ANSWERS:
            raise ValueError(
                f"answer_features: expected five a question, row {i} has "
                f"{len(row['answer_features'])}"
            )
        asked = matrix_of(row["question_features"], "question_features", i)
        five = [matrix_of(each, "answer_features", i) for each in row["answer_features"]]
        answers.append([torch.cat([asked, each])[:ANSWER] for each in five])
        video = "video" in streams
        count = len(row["region_counts"]) if video else int(row["frame_count"])
        frames = looked_at(count, row.get("boxes", ()))
        for name in streams:
            contexts[name].append(_context(name, row, frames, i))
        truths.append(_truth(row, frames, count))
        labels.append(_labels(row, frames, i) if video and truths[-1] else None)
    known = [truth for truth in truths if truth is not None]
    lengths = torch.tensor([len(each) for each in next(iter(contexts.values()))])
    found: dict[str, Any] = {"answers": _stacked(answers)}
    found |= {name: _stacked(each) for name, each in contexts.items()}
    found["frames"] = torch.arange(int(lengths.max())) < lengths[:, None]
    truth = Truth(*torch.tensor(known).T) if len(known) == len(rows) else None
    named = [each for each in labels if each is not None]
    if truth is None or len(named) < len(rows):
        return STAGEBatch(found, truth, None)
    shape = (*found["video"].mask.shape[:2], found["answers"].mask.shape[2], REGIONS)
    dense = torch.zeros(shape, dtype=torch.bool)
    for i, each in enumerate(named):
        f, l, r = each.shape
        dense[i, :f, :l, :r] = each
    return STAGEBatch(found, truth, dense[..., : found["video"].mask.shape[2]])


def _needed(streams: Sequence[str]) -> set[str]:
    needed = {"question_features", "answer_features", "start", "end", "label"}
    for name in streams:
        one = "region" if name == "video" else name.removesuffix("s")
        needed |= {f"{one}_features", f"{one}_counts"} | ({name} if name != "video" else set())
    return needed if "video" in streams else needed | {"frame_count"}


def _parts(row: Mapping[str, Any], one: str, i: int) -> list[Tensor]:
    """Features cut by the counts; lines and frames beyond these have none."""
    features = matrix_of(row[f"{one}_features"], f"{one}_features", i, least=0)
    counts = [int(count) for count in row[f"{one}_counts"]]
    if min(counts, default=0) < 0 or sum(counts) < len(features):
        raise ValueError(
            f"{one}_features: expected at most {sum(counts)} rows, as {one}_counts add up to, row "
            f"{i} has {len(features)}"
        )
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    return [features[a:b] for a, b in itertools.pairwise(ends)]


def _context(name: str, row: Mapping[str, Any], frames: range, i: int) -> list[Tensor]:
    """Regions, or words, of each frame."""
    if name == "video":
        parts = _parts(row, "region", i)
        return [parts[frame - 1][:REGIONS] for frame in frames]
    one, lines = name.removesuffix("s"), row[name]
    parts = _parts(row, one, i)
    if len(parts) != len(lines):
        raise ValueError(f"{one}_counts: expected {len(lines)}, row {i} has {len(parts)}")
    starts = [line["start"] for line in lines]
    empty = matrix_of(row[f"{one}_features"], f"{one}_features", i, least=0)[:0]
    return [
        torch.cat([empty, *(parts[j] for j in nearest_lines(starts, frame / FPS))])[:WORDS]
        for frame in frames
    ]


def _truth(row: Mapping[str, Any], frames: range, count: int) -> tuple[int, int, int] | None:
    start, end, label = row["start"], row["end"], int(row["label"])
    if start is None or end is None or label < 0:
        return None
    if not 0 <= start <= end < math.inf:
        raise ValueError(f"start, end: expected 0 <= start <= end in seconds, got {start} to {end}")
    return (label, *span_of(start, end, frames, count))


def _labels(row: Mapping[str, Any], frames: range, i: int) -> Tensor | None:
    """Which regions the words of the right answer name, (F, L, R)."""
    if "boxes" not in row or "region_boxes" not in row:
        return None
    words = [*row["question"].split(), *row["answers"][int(row["label"])].split()][:ANSWER]
    right = row["answer_features"][int(row["label"])]
    number = min(len(row["question_features"]) + len(right), ANSWER)
    if len(words) != number:
        raise ValueError(
            f"question, answers: expected {number} words, one a row of features, row {i} has "
            f"{len(words)}"
        )
    parts = _parts(
        {**row, "box_features": row["region_boxes"], "box_counts": row["region_counts"]}, "box", i
    )
    seen = _parts(row, "region", i)
    found = torch.zeros(len(frames), len(words), REGIONS, dtype=torch.bool)
    for place, frame in enumerate(frames):
        regions = parts[frame - 1][:REGIONS]
        if len(regions) != len(seen[frame - 1][:REGIONS]):
            raise ValueError(
                f"region_boxes: expected {len(seen[frame - 1])} of frame {frame}, row {i} has "
                f"{describe(regions)}"
            )
        boxes = [box for box in row["boxes"] if box["frame"] == frame]
        found[place, :, : len(regions)] = box_labels(words, boxes, regions)
    return found


def _stacked(rows: Sequence[Sequence[Tensor]]) -> Padded:
    """Matrices (t, d) in rows of several lengths as one tensor (b, n, t, d)."""
    n = max(len(row) for row in rows)
    t = max(1, max(len(each) for row in rows for each in row))
    values = torch.zeros(len(rows), n, t, rows[0][0].shape[1])
    mask = torch.zeros(len(rows), n, t, dtype=torch.bool)
    for i, row in enumerate(rows):
        for j, each in enumerate(row):
            values[i, j, : len(each)] = each
            mask[i, j, : len(each)] = True
    return Padded(values, mask)
