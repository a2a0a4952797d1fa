"""Assignments of clips to snippets that use no feature: a model has to beat them.

Each returns the snippet of every clip, -1 for none, as :mod:`modalign.metrics` scores it. None of
them sees a picture or a word; the last ones know how long a text is, and when the texts of such
videos begin and end.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy.typing import ArrayLike

from modalign.metrics import times_of
from modalign.metrics.alignment import checked_times


class Margins(NamedTuple):
    """Time without text at both ends of a video, in the unit of its times.

    A margin is negative if the text goes beyond the clips.
    """

    head: float
    tail: float


NO_MARGINS = Margins(0, 0)


def unmatched(clips: int) -> Int64[np.ndarray, "c"]:
    """No clip has a snippet.

    >>> unmatched(3).tolist()
    [-1, -1, -1]
    """
    if clips < 0:
        raise ValueError(f"clips: expected a number of them, got {clips}")
    return np.full(clips, -1)


def uniform(clips: int, snippets: int) -> Int64[np.ndarray, "c"]:
    """The same number of clips for each snippet.

    >>> uniform(5, 2).tolist()
    [0, 0, 1, 1, 1]
    """
    if clips < 1 or snippets < 1:
        raise ValueError(
            f"clips, snippets: expected at least 1 of each, got {clips} and {snippets}"
        )
    return ((np.arange(clips) + 0.5) * snippets / clips).astype(np.int64)


def proportional(
    clip_times: ArrayLike, lengths: ArrayLike, margins: Margins = NO_MARGINS
) -> Int64[np.ndarray, "c"]:
    """Time between the margins is given to the snippets by the lengths of their texts.

    A clip belongs to the snippet in whose time its middle lies, and to none in a margin.

    Args:
        clip_times: starts and ends of the clips (c, 2).
        lengths: of the texts, say in characters.
        margins: time without text at both ends.

    Raises:
        ValueError: for lengths that are negative, not finite or all 0, margins that leave no time,
            and times that are not in order.

    >>> proportional([[0, 4], [4, 6], [6, 9], [9, 10]], [3, 1], Margins(0, 1)).tolist()
    [0, 0, 1, -1]
    """
    times, share = checked_times(clip_times, "clip_times"), np.asarray(lengths, float)
    if share.ndim != 1 or not ((share >= 0).all() and 0 < share.sum() < np.inf):
        raise ValueError(
            f"lengths: expected lengths from 0, not all of them 0, got {lengths!r:.60}"
        )
    start, end = times[0, 0] + margins.head, times[-1, 1] - margins.tail
    if not start < end:  # a NaN is refused too
        raise ValueError(
            f"margins: expected less than the video, {times[-1, 1] - times[0, 0]:g} long, got "
            f"{margins}"
        )
    cuts = start + (end - start) * np.append(0, share.cumsum() / share.sum())
    middle = times.mean(1)
    snippet = np.searchsorted(cuts, middle, side="right") - 1
    return np.where((start <= middle) & (middle < end), snippet.clip(max=len(share) - 1), -1)


def margins_of(clip_times: ArrayLike, snippet_times: ArrayLike) -> Margins:
    """The margins of a video whose snippets have known times.

    >>> margins_of([[0, 4], [4, 10]], [[3, 5], [5, 8]])
    Margins(head=3.0, tail=2.0)
    """
    clips = checked_times(clip_times, "clip_times")
    snippets = checked_times(snippet_times, "snippet_times")
    return Margins(float(snippets[0, 0] - clips[0, 0]), float(clips[-1, 1] - snippets[-1, 1]))


def median_margins(margins: Iterable[Margins]) -> Margins:
    """The median head and the median tail.

    >>> median_margins([Margins(1, 9), Margins(2, 0), Margins(9, 5)])
    Margins(head=2.0, tail=5.0)
    """
    known = np.array(list(margins), float)
    if not len(known) or not np.isfinite(known).all():
        raise ValueError(f"margins: expected finite ones of a video or more, got {known.tolist()}")
    head, tail = np.median(known, axis=0).tolist()
    return Margins(head, tail)


def title_family(title: str) -> str:
    """The series that a video of ``yms`` is of, by its title: spoiler alert, recap or other.

    >>> title_family("Movie Spoiler Alerts - Alien (1979) Video Summary")
    'spoiler alert'
    >>> title_family("Man of Steel in 4 minutes - (DC Universe Recap)")
    'recap'
    """
    if title.startswith("Movie Spoiler Alerts"):
        return "spoiler alert"
    return "recap" if title.endswith("Recap)") else "other"


def feature_free(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]]
) -> dict[str, list[Int64[np.ndarray, "c"]]]:
    """The assignments of every baseline to the videos of ``test``, by its name.

    Texts are measured in characters. Margins are medians over ``train``, of all videos and of
    those of the same :func:`title_family` (of all if the family is new).

    Args:
        train: rows of ``load("yms", "train")``.
        test: rows of another split; their annotated times are not looked at.

    Raises:
        ValueError: for no video in ``train``, or a video without title.
    """
    for name, rows in (("train", train), ("test", test)):
        nameless = [row["id"] for row in rows if not row["title"]]
        if nameless:
            raise ValueError(
                f"{name}: expected titles, from movie_list.txt, got none for video {nameless[0]}"
            )
    if not len(train):
        raise ValueError("train: expected videos to take the margins of, got none")
    known = [margins_of(times_of(row["clips"]), times_of(row["snippets"])) for row in train]
    family = [title_family(row["title"]) for row in train]
    overall = median_margins(known)
    of_family = {
        name: median_margins(each for each, own in zip(known, family, strict=True) if own == name)
        for name in set(family)
    }
    found: dict[str, list[np.ndarray]] = {
        "all unmatched": [],
        "uniform": [],
        "text length": [],
        "text length, median margins": [],
        "text length, margins of the title's family": [],
    }
    for row in test:
        clips = times_of(row["clips"])
        lengths = [len(snippet["text"]) for snippet in row["snippets"]]
        own = of_family.get(title_family(row["title"]), overall)
        for name, assigned in zip(
            found,
            (
                unmatched(len(clips)),
                uniform(len(clips), len(lengths)),
                proportional(clips, lengths),
                proportional(clips, lengths, overall),
                proportional(clips, lengths, own),
            ),
            strict=True,
        ):
            found[name].append(assigned)
    return found
