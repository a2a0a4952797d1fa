"""Clips, snippets and the actions that align them: checked samples, blocks and padded batches."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from modalign._checks import checked
from modalign.models.neumatch_actions import walk

POP_CLIP, POP_SNIPPET, MATCH_RETAIN, MATCH = range(4)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Two sequences of one video, and the truth about them.

    Attributes:
        video: name, for messages and tables.
        clips: features of N clips.
        snippets: features of M snippets.
        clip_snippet: the snippet that each clip belongs to, -1 for none.
        actions: that lead there.
        clip_times: start and end of each clip.
        snippet_times: start and end of each snippet, in the same unit; equal if it has no clip.
    """

    video: str
    clips: Float[Tensor, "n d"]
    snippets: Float[Tensor, "m e"]
    clip_snippet: Int[Tensor, " n"]
    actions: Int[Tensor, " a"]
    clip_times: Float64[np.ndarray, "n 2"]
    snippet_times: Float64[np.ndarray, "m 2"]

    @property
    def lengths(self) -> tuple[int, int]:
        """Numbers of clips and snippets."""
        return len(self.clips), len(self.snippets)


class Batch(NamedTuple):
    """Samples padded at the end: features with 0, actions with -1."""

    clips: Float[Tensor, "b n d"]
    clip_lengths: Int[Tensor, " b"]
    snippets: Float[Tensor, "b m e"]
    snippet_lengths: Int[Tensor, " b"]
    actions: Int[Tensor, "b a"]


@checked
def actions_of(
    clip_snippet: Sequence[int] | Int[Tensor, " n"], snippets: int, *, five: bool = False
) -> list[int]:
    """Walk the clips, and write down the actions that align them.

    Snippets are popped until the clip's own is on top; then the two are matched and the snippet
    stays. A clip without a snippet is popped. At the end the snippets that are left are popped.

    Args:
        clip_snippet: the snippet of each clip, -1 for none.
        snippets: how many there are.
        five: use "match", which removes both, for the last clip of a snippet.

    Raises:
        ValueError: if a clip's snippet does not exist, or comes before that of an earlier clip.

    >>> actions_of([0, 0, -1, 2], 4)
    [2, 2, 0, 1, 1, 2, 1, 1]
    >>> actions_of([0, 0, -1, 2], 4, five=True)
    [2, 3, 0, 1, 3, 1]
    """
    truth = [int(each) for each in clip_snippet]
    last = {snippet: clip for clip, snippet in enumerate(truth)}
    actions, top, before = [], 0, 0
    for clip, snippet in enumerate(truth):
        if not -1 <= snippet < snippets:
            raise ValueError(f"clip {clip}: snippet {snippet} is not one of the {snippets} (or -1)")
        if snippet == -1:
            actions.append(POP_CLIP)
            continue
        if snippet < before:
            raise ValueError(
                f"clip {clip}: belongs to snippet {snippet}, and one before it to {before}; "
                "an alignment does not go back"
            )
        actions += [POP_SNIPPET] * (snippet - top)
        ends = five and last[snippet] == clip
        actions.append(MATCH if ends else MATCH_RETAIN)
        before, top = snippet, snippet + ends
    return actions + [POP_SNIPPET] * (snippets - top)


@checked
def clip_snippet_of(actions: Sequence[int] | Int[Tensor, " a"], clips: int) -> list[int]:
    """The snippet that each clip is matched with, -1 for none: the inverse of :func:`actions_of`.

    >>> clip_snippet_of([2, 2, 0, 1, 1, 2, 1, 1], 4)
    [0, 0, -1, 2]
    """
    trail = walk(torch.as_tensor(actions, dtype=torch.long)[None])
    found = torch.full((clips,), -1)
    clip, snippet = trail.cursors[0, trail.matched[0]].T
    if len(clip) and clip.max() >= clips:
        raise ValueError(f"actions: match clip {int(clip.max())}, and there are {clips} clips")
    found[clip] = snippet
    return found.tolist()


def make_sample(
    video: str,
    clips: Tensor,
    snippets: Tensor,
    clip_snippet: Sequence[int],
    *,
    clip_times: np.ndarray,
    snippet_times: np.ndarray,
    actions: Sequence[int] | None = None,
    longest: int = 5_000,
) -> Sample:
    """Check the sequences of a video against one another, and find their actions.

    Args:
        video: its name, which errors carry.
        clips: features, a row a clip.
        snippets: features, a row a snippet.
        clip_snippet: the snippet of each clip, -1 for none.
        clip_times: start and end of each clip.
        snippet_times: start and end of each snippet, in the same unit.
        actions: an alignment; made by :func:`actions_of`, with three actions, by default.
        longest: most clips and snippets together. A batch of B such samples takes about
            B longest^2 numbers when it trains: 100 MB a sample at the default.

    Raises:
        ValueError: naming video and row, for a sequence that is empty or too long, features that
            are not finite or belong to another number of rows, times that are not finite or run
            backwards, a clip that lasts no time, and actions that do not lead to ``clip_snippet``
            or leave something.
    """
    n, m = len(clip_times), len(snippet_times)
    if not n or not m:
        raise ValueError(f"video {video}: expected at least one clip and one snippet, got {n}, {m}")
    if n + m > longest:
        raise ValueError(
            f"video {video}: {n} clips and {m} snippets are more than longest={longest} together; "
            "cut the video, or raise it if memory allows (it grows as the square)"
        )
    for what, features, rows in (("clip", clips, n), ("snippet", snippets, m)):
        if features.dim() != 2 or len(features) != rows:
            raise ValueError(
                f"video {video}: expected features of {rows} {what}s, a row each, "
                f"got {tuple(features.shape)}; are they of another video?"
            )
        finite = torch.isfinite(features).all(1)
        if not finite.all():
            row = int(finite.int().argmin())
            raise ValueError(f"video {video}, {what} {row}: expected finite features")
    if len(clip_snippet) != n:
        raise ValueError(f"video {video}: {len(clip_snippet)} matches for {n} clips")
    for what, times in (("clip", clip_times), ("snippet", snippet_times)):
        _require_order(video, what, times)
    try:
        walked = actions_of(list(clip_snippet), m)
        if actions is not None:
            _require_walk(actions, clip_snippet, m)
    except ValueError as error:
        raise ValueError(f"video {video}, {error}") from error
    return Sample(
        video,
        clips,
        snippets,
        torch.tensor(clip_snippet),
        torch.tensor(walked if actions is None else list(actions)),
        np.asarray(clip_times, float),
        np.asarray(snippet_times, float),
    )


def _require_order(video: str, what: str, times: np.ndarray) -> None:
    """Refuse an interval that ends before it starts, or starts before the last one ends."""
    end = None
    for row, (start, stop) in enumerate(np.asarray(times).tolist()):
        if not math.isfinite(stop - start):
            raise ValueError(
                f"video {video}, {what} {row}: expected finite times, got {start:g} to {stop:g}"
            )
        if what == "clip" and stop == start:
            raise ValueError(f"video {video}, {what} {row}: lasts no time, at {start:g}")
        if stop < start:
            raise ValueError(f"video {video}, {what} {row}: ends at {stop:g}, starts at {start:g}")
        if end is not None and start < end:
            raise ValueError(
                f"video {video}, {what} {row}: starts at {start:g}, before the last ends at {end:g}"
            )
        end = stop


def _require_walk(actions: Sequence[int], clip_snippet: Sequence[int], snippets: int) -> None:
    """Refuse actions that are unknown, take more or less than there is, or lead elsewhere."""
    unknown = [each for each in actions if not 0 <= each <= 4]
    if unknown:
        raise ValueError(f"actions: expected 0 to 4, got {unknown[0]}")
    taken = walk(torch.tensor(list(actions), dtype=torch.long)[None]).after[0].tolist()
    there = [len(clip_snippet), snippets]
    if any(one > other for one, other in zip(taken, there, strict=True)):
        raise ValueError(_removed(taken, there))
    found = clip_snippet_of(list(actions), len(clip_snippet))
    for clip, (one, other) in enumerate(zip(found, clip_snippet, strict=True)):
        if one != other:
            raise ValueError(f"clip {clip}: actions match it with snippet {one}, truth is {other}")
    if taken != there:
        raise ValueError(_removed(taken, there))


def _removed(taken: list[int], there: list[int]) -> str:
    return (
        f"actions: remove {taken[0]} clips and {taken[1]} snippets, there are {there[0]} and "
        f"{there[1]}"
    )


def blocks(sample: Sample, *, size: int = 100, shortest: int = 9) -> list[Sample]:
    """Cut a sample into blocks of ``size`` actions, for training.

    The paper trains on blocks of at most 100 actions. Here a rest shorter than ``shortest`` stays
    with the block before it, so that YMS gives 187 blocks, the longest of 108 actions; with
    ``shortest=1`` it gives 195 of at most 100. A snippet that is cut is in both blocks.

    >>> times = np.array([[i, i + 1] for i in range(12)])
    >>> both = {"clip_times": times, "snippet_times": times}
    >>> one = make_sample("film", torch.ones(12, 2), torch.ones(12, 3), list(range(12)), **both)
    >>> [len(block.actions) for block in blocks(one, size=10, shortest=5)]
    [10, 14]
    """
    cuts = list(range(0, len(sample.actions), size))
    if len(cuts) > 1 and len(sample.actions) - cuts[-1] < shortest:
        cuts.pop()
    trail = walk(sample.actions[None])
    clip, snippet = trail.cursors[0].T.tolist()
    ends = [*cuts[1:], len(sample.actions)]
    parts = []
    for start, end in zip(cuts, ends, strict=True):
        # the clips that are removed; the snippets that are removed, and the one on top at the end
        last = clip[end] if end < len(clip) else len(sample.clips)
        top = snippet[end] + 1 if end < len(snippet) else len(sample.snippets)
        clips, snippets = slice(clip[start], last), slice(snippet[start], top)
        parts.append(_part(sample, clips, snippets, slice(start, end)))
    return [part for part in parts if len(part.clips)]


def _part(sample: Sample, clips: slice, snippets: slice, actions: slice) -> Sample:
    """Some clips, snippets and actions of a sample."""
    truth = sample.clip_snippet[clips]
    return dataclasses.replace(
        sample,
        clips=sample.clips[clips],
        snippets=sample.snippets[snippets],
        clip_snippet=torch.where(truth < 0, -1, truth - snippets.start),
        actions=sample.actions[actions],
        clip_times=sample.clip_times[clips],
        snippet_times=sample.snippet_times[snippets],
    )


def pad(samples: Sequence[Sample]) -> Batch:
    """Put samples into one batch.

    Raises:
        ValueError: for no sample.
    """
    if not len(samples):
        raise ValueError("samples: expected one or more, got none")

    def stack(parts: list[Tensor], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    lengths = torch.tensor([sample.lengths for sample in samples])
    return Batch(
        stack([sample.clips for sample in samples], 0),
        lengths[:, 0],
        stack([sample.snippets for sample in samples], 0),
        lengths[:, 1],
        stack([sample.actions for sample in samples], -1),
    )


def batches(samples: Sequence[Sample], size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
    """One epoch of shuffled batches; the order depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    for rows in torch.randperm(len(samples), generator=generator).split(size):
        yield pad([samples[row] for row in rows.tolist()])
