"""``yms``: YouTube Movie Summaries, clips and narration to be aligned (Dogan et al. 2018).

A row is a video: its ``clips`` and its ``snippets`` in order, and in ``clip_snippet`` the snippet
that each clip belongs to, -1 if it belongs to none. Times are whole milliseconds.

Readings of the files, which the paper leaves open:

- A clip belongs to the snippet it overlaps longest, and to none if the part of it that no
  snippet covers is at least as long.
- A row ``UNMATCHED: text`` is a text without a clip and its interval a placeholder; these texts
  are in ``unmatched_texts`` and not among the snippets. A bare ``UNMATCHED`` is an interval
  without text, in ``unmatched``.
- Spaces around and doubled within a text are removed. One phrase (of 0073) is empty, and kept.
- A video that a split file names in a comment repeats another one and is left out (0087, which
  repeats 0032), unless ``repeated=True``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np

from modalign._checks import require_choice
from modalign.data._files import (
    Once,
    Problem,
    Reading,
    Row,
    Source,
    decoded,
    fields,
    numbered_lines,
)
from modalign.data.features import attached

SPLIT_FILES = {
    "train": "training_split.txt",
    "validation": "val_split.txt",
    "test": "test_split.txt",
}
CLIPS, TITLES, LINKS = "clip_segmentation.txt", "movie_list.txt", "url_list.txt"
TIME = r"(\d\d)\.(\d\d)\.(\d\d)\.(\d{3})"
INTERVAL = re.compile(rf"(\d{{4}})_{TIME}-{TIME}")


def interval(text: str) -> tuple[str, int, int]:
    """Video, start and end of an interval, in milliseconds.

    >>> interval("0003_00.01.22.540-00.01.23.650")
    ('0003', 82540, 83650)
    """
    match = INTERVAL.fullmatch(text)
    if match is None:
        raise Problem(f"expected NNNN_HH.MM.SS.mmm-HH.MM.SS.mmm, got {text!r:.60}")
    hours = [int(part) for part in match.groups()[1:]]
    start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (hours[:4], hours[4:]))
    if end <= start:
        raise Problem(f"expected an end after the start, got {text!r}")
    return match[1], start, end


def match_clips(clips: np.ndarray, snippets: np.ndarray) -> np.ndarray:
    """The snippet of each clip by the longest overlap, -1 if most of the clip has none.

    Args:
        clips: starts and ends (n, 2).
        snippets: starts and ends (m, 2), which do not overlap.

    >>> match_clips(np.array([[0, 10], [10, 20], [20, 30]]), np.array([[4, 12], [12, 21]]))
    array([ 0,  1, -1])
    """
    start = np.maximum(clips[:, None, 0], snippets[None, :, 0])
    end = np.minimum(clips[:, None, 1], snippets[None, :, 1])
    overlap = np.maximum(end - start, 0)
    uncovered = clips[:, 1] - clips[:, 0] - overlap.sum(1)
    return np.where(uncovered >= overlap.max(1), -1, overlap.argmax(1))


def read(
    reading: Reading,
    *,
    unit: str = "phrases",
    repeated: bool = False,
    clip_features: str | os.PathLike[str] | None = None,
    snippet_features: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """Videos in the order of the clip file.

    Args:
        reading: the call of ``load``.
        unit: ``phrases``, as in the paper, or ``sentences``.
        repeated: keep the video that repeats another one; its ``split`` is None.
        clip_features: a `FeatureFile` of a matrix a video, a row a clip; each row of the data
            set then has ``clip_features``.
        snippet_features: the same for the snippets.
    """
    require_choice(unit, ("phrases", "sentences"), "yms: unit")
    features = attached(
        {"clip_features": (clip_features, "{id}"), "snippet_features": (snippet_features, "{id}")}
    )
    splits, left_out = _splits(reading)
    clips, texts = _clips(reading), _texts(reading, unit)
    titles, links = _table(reading, TITLES, r"\t"), _table(reading, LINKS, r"\s+")
    for video in sorted(left_out & clips.keys() - splits.keys()):
        if not repeated:
            reading.notes.append(f"video {video}, which repeats another one, is left out")

    lost = splits.keys() - clips.keys() - texts.keys()
    videos = [*clips, *sorted(texts.keys() - clips.keys()), *sorted(lost)]

    def row(video: str) -> Row | None:
        if video not in splits and video not in left_out:
            raise Problem(f"video {video} is in none of {', '.join(SPLIT_FILES.values())}")
        kept = video in splits or repeated
        if not kept or not reading.wanted(splits.get(video)):
            return None
        sequences = _video(video, clips.get(video, []), texts.get(video, []))
        if reading.verify:
            lengths = {
                "clip_features": (len(sequences["clips"]), "clips"),
                "snippet_features": (len(sequences["snippets"]), "snippets"),
            }
            features.check(sequences, lengths)
        about = {"title": titles.get(video), "url": links.get(video), "split": splits.get(video)}
        return sequences | about

    made = reading.sift(((f"video {video}", video) for video in videos), row)
    return features.to(reading.table([row for row in made if row is not None], _features()))


def _video(video: str, clips: list[Row], texts: list[Row]) -> Row:
    """The sequences of one video, matched."""
    kinds: dict[str, list[Row]] = {"snippet": [], "unmatched": [], "unmatched text": []}
    for text in texts:
        kinds[text["kind"]].append(text)
    snippets = kinds["snippet"]
    if not clips or not snippets:
        raise Problem(f"{len(clips)} clips and {len(snippets)} snippets; expected some of both")
    times = [
        np.array([[each["start"], each["end"]] for each in part]) for part in (clips, snippets)
    ]
    return {
        "id": video,
        "clips": clips,
        "snippets": snippets,
        "clip_snippet": match_clips(*times).tolist(),
        "unmatched": kinds["unmatched"],
        "unmatched_texts": kinds["unmatched text"],
    }


def _splits(reading: Reading) -> tuple[dict[str, str], set[str]]:
    """The split of each video, and the videos that a comment takes out."""
    splits: dict[str, str] = {}
    commented: set[str] = set()
    for split, name in SPLIT_FILES.items():

        def add(line: bytes, split: str = split) -> None:
            match = re.fullmatch(r"(# ?)?(\d{4})(?(1).*)\s*", decoded(line))
            if match is None:
                raise Problem(f"expected a video NNNN, got {line[:40]!r}")
            if match[1]:
                commented.add(match[2])
                return
            if match[2] in splits:
                raise Problem(f"duplicate: {match[2]} is in the {splits[match[2]]} split already")
            splits[match[2]] = split

        reading.sift(numbered_lines(reading.existing(name)), add)
    return splits, commented - splits.keys()


def _clips(reading: Reading) -> dict[str, list[Row]]:
    """The clips of each video."""

    def parse(line: bytes) -> tuple[str, Row]:
        folder, _, name = decoded(line).partition("/")
        video, start, end = interval(name)
        if video != folder:
            raise Problem(f"expected NNNN/NNNN_..., got {line.decode()[:60]!r}")
        return video, {"start": start, "end": end}

    return _sequences(reading, CLIPS, parse)


def _texts(reading: Reading, unit: str) -> dict[str, list[Row]]:
    """The annotated texts and intervals of each video."""

    def parse(line: bytes) -> tuple[str, Row]:
        key, text = fields(line, ("INTERVAL", "TEXT"))
        video, start, end = interval(key)
        text, kind = " ".join(text.split()), "snippet"
        if text == "UNMATCHED":
            kind = "unmatched"
        elif text.startswith("UNMATCHED:"):
            text, kind = text.removeprefix("UNMATCHED:").strip(), "unmatched text"
        return video, {"text": text, "start": start, "end": end, "kind": kind}

    return _sequences(reading, f"annotations_{unit}.txt", parse)


def _sequences(
    reading: Reading, name: str, parse: Callable[[bytes], tuple[str, Row]]
) -> dict[str, list[Row]]:
    """The rows of a file by video; each must begin no earlier than the one before it ends."""
    videos: dict[str, list[Row]] = {}
    once = Once("row")

    def add(line: bytes) -> None:
        video, row = parse(line)
        once((video, row["start"], row["end"]))
        before = videos.setdefault(video, [])
        if before and row["start"] < before[-1]["end"]:
            raise Problem(
                f"video {video}: starts at {row['start']} ms, before the last ends at "
                f"{before[-1]['end']}"
            )
        before.append(row)

    reading.sift(numbered_lines(reading.existing(name)), add)
    return videos


def _table(reading: Reading, name: str, separator: str) -> dict[str, str]:
    """A list of titles or links by video; empty if the file, which is optional, is absent."""
    entries: dict[str, str] = {}

    def add(line: bytes) -> None:
        match = re.fullmatch(rf"(\d{{4}}){separator}(.+)", decoded(line).strip())
        if match is None:
            raise Problem(f"expected a video NNNN and its entry, got {line[:60]!r}")
        if match[1] in entries:
            raise Problem(f"duplicate: video {match[1]} came before")
        entries[match[1]] = match[2]

    if reading.path(name).exists():
        reading.sift(numbered_lines(reading.path(name)), add)
    return entries


def _features() -> datasets.Features:
    time: dict[str, Any] = {"start": datasets.Value("int64"), "end": datasets.Value("int64")}
    text = {"text": datasets.Value("string"), **time}
    return datasets.Features(
        id=datasets.Value("string"),
        clips=datasets.List(time),
        snippets=datasets.List(text),
        clip_snippet=datasets.List(datasets.Value("int32")),
        unmatched=datasets.List(time),
        unmatched_texts=datasets.List(text),
        title=datasets.Value("string"),
        url=datasets.Value("string"),
        split=datasets.Value("string"),
    )


SOURCE = Source(
    name="yms",
    holds="93 movie summaries: clips and narration in order, and which belong together",
    splits=("train", "validation", "test"),
    origin="https://github.com/pelindogan/NeuMATCH (folder YMS)",
    terms="research use",
    read=read,
    folder="yms",
    needs=(CLIPS, *SPLIT_FILES.values()),
    layout=(
        "annotations_phrases.txt, annotations_sentences.txt, clip_segmentation.txt, "
        "{training,val,test}_split.txt, movie_list.txt and url_list.txt"
    ),
    checksums={
        "annotations_phrases.txt": (
            "4ec42fb4f06b821ffc23e7a179e3c0d541ddad9ed72feeec4c932798b6a4c7d1"
        ),
        "annotations_sentences.txt": (
            "9134f92b30175167bf3e0616a0ec787fab3fead04731b14b5dba6bc1d86e2d1b"
        ),
        CLIPS: "c6ab7949401ba11177dc87c151481a84189c797e4835509e66789a2916dd4e4f",
        TITLES: "935a30d8c19a03680f72241e5ef63ccafe67811bd52fba0f5e3b984749547028",
        LINKS: "54dbcdc28e871dd3dc3b3dba4e9986a7d8f03b1a18a98f2bb0de46daa4c59d98",
        SPLIT_FILES["train"]: "7c2948665dff4a897b7f5eb8e4e9cb232e57fef7fb48b2489b8dfcfc5eac1433",
        SPLIT_FILES["validation"]: (
            "d3aeddb3b849c276c8b5f7be0f1826de1b5ad4b4d8e4fb440458f03a951d1fb5"
        ),
        SPLIT_FILES["test"]: "82a5b460ed8eee5188dd003db102c7f13e66b9093d60b39ff45de2dda99300bf",
    },
)
