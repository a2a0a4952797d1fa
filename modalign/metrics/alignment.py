"""How well clips are assigned to the snippets of text that tell them.

An assignment is a vector with an entry a clip: the number of its snippet, or -1 for none. Times
are (n, 2), starts and ends in one unit, in order and without overlap. The two measures are those
of Dogan et al. (2018), read as the chapter on sequence alignment says.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike
from torch import Tensor

from modalign._checks import checked, describe
from modalign.metrics._paired import paired, rows_of


@dataclasses.dataclass(frozen=True)
class AlignmentScores:
    """Scores of one video.

    Attributes:
        right: time that is assigned rightly, in the unit of the times.
        total: time of all clips.
        ious: temporal IoU of each snippet; NaN where a snippet has no time, since nothing could
            be right.
    """

    right: float
    total: float
    ious: Float64[np.ndarray, "s"]

    @property
    def video_accuracy(self) -> float:
        """Share of the clips' time that is assigned rightly."""
        return self.right / self.total

    @property
    def text_iou(self) -> float:
        """Mean IoU over the snippets that have a time."""
        return float(np.nanmean(self.ious))


def alignment_scores(
    predicted: ArrayLike, clip_times: ArrayLike, snippet_times: ArrayLike
) -> AlignmentScores:
    """Video accuracy and text IoU of an assignment. O(clips snippets).

    Rightly assigned is the time that a clip shares with its snippet, and for a clip without
    snippet the time that it shares with none. The IoU of a snippet is between its own time and
    all of the time of the clips assigned to it; 0 where there are none.

    Args:
        predicted: the snippet of each clip, -1 for none.
        clip_times: starts and ends of the clips. Where these and ``predicted`` have labels
            (mappings, pandas objects), they are paired by them, in the order of ``predicted``.
        snippet_times: starts and ends of the snippets. An empty time (start = end) marks a
            snippet that no clip shows.

    Raises:
        ValueError: for times that are not finite, run backwards or overlap, an empty clip, no
            snippet with a time, an assignment of another length or to a snippet that is not, or
            labels that one side lacks.
        TypeError: where one of ``predicted`` and ``clip_times`` alone has labels.

    >>> clips, snippets = [[0, 10], [10, 20], [20, 30]], [[0, 14], [14, 20]]
    >>> found = alignment_scores([0, 1, -1], clips, snippets)
    >>> round(found.video_accuracy, 3), found.ious.round(3).tolist()  # 26 / 30; 10 / 14, 6 / 10
    (0.867, [0.714, 0.6])
    """
    predicted, clip_times = paired(predicted, clip_times, ("predicted", "clip_times"))
    clips, snippets = (
        checked_times(clip_times, "clip_times"),
        checked_times(rows_of(snippet_times), "snippet_times"),
    )
    if (clips[:, 0] == clips[:, 1]).any():
        place = int((clips[:, 0] == clips[:, 1]).argmax())
        raise ValueError(f"clip_times: expected an end after the start, got none in row {place}")
    length = snippets[:, 1] - snippets[:, 0]
    if not length.any():
        raise ValueError("snippet_times: expected a snippet that has a time, got none")
    assigned = _assignment(predicted, len(clips), len(snippets))

    start = np.maximum(clips[:, None, 0], snippets[None, :, 0])
    end = np.minimum(clips[:, None, 1], snippets[None, :, 1])
    shared = np.maximum(end - start, 0)
    seconds = clips[:, 1] - clips[:, 0]
    chosen = assigned[:, None] == np.arange(len(snippets))
    alone = (seconds - shared.sum(1))[assigned < 0].sum()
    both = (shared * chosen).sum(0)
    either = seconds @ chosen + length - both
    ious = np.where(length > 0, both / np.where(length > 0, either, 1), np.nan)
    return AlignmentScores(float(both.sum() + alone), float(seconds.sum()), ious)


def summarise_alignment(videos: Iterable[AlignmentScores]) -> dict[str, float]:
    """Both measures as means over videos (the papers' way), and over all of their time and text.

    >>> one = alignment_scores([0, 0], [[0, 1], [1, 2]], [[0, 2]])
    >>> two = alignment_scores([-1], [[0, 8]], [[0, 8]])
    >>> summarise_alignment([one, two])["video_accuracy"]
    0.5
    >>> summarise_alignment([one, two])["pooled_video_accuracy"]
    0.2
    """
    scores = list(videos)
    if not scores:
        raise ValueError("videos: expected the scores of at least one, got none")
    return {
        "video_accuracy": float(np.mean([each.video_accuracy for each in scores])),
        "text_iou": float(np.mean([each.text_iou for each in scores])),
        "pooled_video_accuracy": sum(each.right for each in scores)
        / sum(each.total for each in scores),
        "pooled_text_iou": float(np.nanmean(np.concatenate([each.ious for each in scores]))),
    }


def times_of(parts: Sequence[Mapping[str, Any]]) -> Float64[np.ndarray, "n 2"]:
    """Starts and ends of the clips or snippets of a row of ``load("yms")``.

    >>> times_of([{"start": 0, "end": 1500}, {"start": 1500, "end": 2400}]).tolist()
    [[0.0, 1500.0], [1500.0, 2400.0]]
    """
    return np.array([[part["start"], part["end"]] for part in parts], float).reshape(-1, 2)


@checked
def times_of_matches(
    matches: Bool[np.ndarray, "s c"], lengths: Float64[np.ndarray, "c"] | None = None
) -> tuple[Float64[np.ndarray, "c 2"], Float64[np.ndarray, "s 2"]]:
    """Times of clips that follow one another, and of the snippets that tell them.

    For sequences of :func:`modalign.data.shapes.sample_sequence`, whose truth then scores 1.

    Args:
        matches: which snippet tells which clips, one run of them a row, in order.
        lengths: of the clips; each 1 by default.

    Returns:
        ``clip_times`` and ``snippet_times``; a snippet without clip has an empty time.

    Raises:
        ValueError: where there is no clip or snippet, a clip has no length or two snippets, or the
            clips of a snippet do not follow one another.

    >>> clips, snippets = times_of_matches(np.array([[True, True, False], [False, False, False]]))
    >>> clips.tolist(), snippets.tolist()
    ([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], [[0.0, 2.0], [2.0, 2.0]])
    """
    lengths = np.ones(matches.shape[1]) if lengths is None else lengths
    if not matches.size:
        raise ValueError(f"matches: expected snippets and clips, got {describe(matches)}")
    if not ((lengths > 0) & np.isfinite(lengths.sum())).all():
        raise ValueError(f"lengths: expected finite numbers above 0, got {lengths!r:.60}")
    ends = np.cumsum(lengths)
    clip_times = np.stack([np.concatenate([[0.0], ends[:-1]]), ends], 1)
    snippet_times = np.empty((len(matches), 2))
    last = 0.0
    for i, own in enumerate(matches):
        places = np.flatnonzero(own)
        if (np.diff(places) != 1).any():
            raise ValueError(f"matches: expected one run of clips in row {i}, got {places}")
        span = (clip_times[places[0], 0], clip_times[places[-1], 1]) if len(places) else (last,) * 2
        if span[0] < last:
            raise ValueError(f"matches: expected snippets in order, got clips {places} in row {i}")
        snippet_times[i], last = span, span[1]
    return clip_times, snippet_times


def checked_times(times: ArrayLike, name: str) -> np.ndarray:
    """Starts and ends (n, 2) in float64, refused where they are none, or not in order."""
    try:
        found = np.asarray(times.detach().cpu() if isinstance(times, Tensor) else times, float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: expected starts and ends (n, 2), got {describe(times)}"
        ) from error
    if found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise ValueError(f"{name}: expected starts and ends (n, 2), got {describe(times)}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: expected finite times, got {found[~np.isfinite(found)][0]}")
    if (np.diff(found.ravel()) < 0).any():
        place = int((np.diff(found.ravel()) < 0).argmax() + 1) // 2
        raise ValueError(
            f"{name}: expected times in order that do not overlap, got {found[place].tolist()} in "
            f"row {place}" + (f", after {found[place - 1].tolist()}" if place else "")
        )
    if not np.isfinite(2 * (found[-1, 1] - found[0, 0])):
        raise ValueError(
            f"{name}: expected a length that float64 holds, got {found.tolist()!r:.60}"
        )
    return found


def _assignment(predicted: ArrayLike, clips: int, snippets: int) -> np.ndarray:
    found = np.asarray(predicted)
    if found.shape != (clips,) or found.dtype.kind not in "iu":
        raise ValueError(
            f"predicted: expected a whole number for each of {clips} clips, got "
            f"{describe(predicted)}"
        )
    if found.min() < -1 or found.max() >= snippets:
        wrong = found.min() if found.min() < -1 else found.max()
        raise ValueError(
            f"predicted: expected snippets from 0 to {snippets - 1} or -1, got {wrong}"
        )
    return found
