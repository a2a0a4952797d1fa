"""``tvqa`` and ``tvqa-plus``: five-way questions on clips of television series (Lei et al.).

A row is a question; ``label`` is the right answer, -1 if it is withheld (the public test set).
``start`` and ``end`` are the seconds of the clip that the question is about, None if the file
has NaN. TVQA+ adds ``boxes``: of objects in frames that are counted from 1, at 3 a second.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from typing import Any

import datasets

from modalign.data._files import (
    Once,
    Problem,
    Reading,
    Row,
    Source,
    decoded,
    inside,
    json_list,
    loads,
    numbered_lines,
    sentence,
    typed,
)
from modalign.data.features import attached

ANSWERS = ("a0", "a1", "a2", "a3", "a4")
KEYS = {"qid": int, "q": str, "vid_name": str} | dict.fromkeys(ANSWERS, str)
SIDES = ("left", "top", "width", "height")
BOX = {"label": str} | dict.fromkeys(SIDES, (int, float)) | {"img_id": int}
CLOCK = r"(\d{1,3}):(\d\d):(\d\d)[,.](\d{3})"
Path = str | os.PathLike[str]


def span(value: Any) -> tuple[float | None, float | None]:
    """Start and end in seconds, from "START-END" (TVQA) or [START, END] (TVQA+).

    >>> span("76.01-84.2"), span([0.0, 5.4]), span("NaN-NaN")
    ((76.01, 84.2), (0.0, 5.4), (None, None))
    """
    problem = Problem(f"ts: expected 'START-END' or [START, END] in seconds, got {value!r:.60}")
    if isinstance(value, str):
        number = r"(nan|\d+(?:\.\d*)?)"
        match = re.fullmatch(f"{number}-{number}", value.strip(), re.IGNORECASE)
        if match is None:
            raise problem
        value = [float(part) for part in match.groups()]
    if not isinstance(value, list) or len(value) != 2:
        raise problem
    if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in value):
        raise problem
    start, end = map(float, value)
    if math.isnan(start) or math.isnan(end):
        return None, None
    if not 0 <= start <= end < math.inf:
        raise problem
    return start, end


def question(value: dict[str, Any], *, plus: bool) -> Row:
    """One question of either file, with its numbers and text in one form."""
    if plus or "answer_idx" in value:
        typed(value, {"answer_idx": (int, str)})
        if str(value["answer_idx"]) not in ("0", "1", "2", "3", "4"):
            raise Problem(f"answer_idx: expected 0 to 4, got {value['answer_idx']!r}")
    start, end = span(value.get("ts"))
    row = {
        "id": str(value["qid"]),
        "question": sentence(value["q"], "question"),
        "answers": [sentence(value[name], f"text in {name}") for name in ANSWERS],
        "label": int(value.get("answer_idx", -1)),
        "start": start,
        "end": end,
        "video": value["vid_name"],
        "show": value.get("show_name"),
    }
    return {**row, "boxes": boxes(value)} if plus else row


def boxes(value: dict[str, Any]) -> list[Row]:
    """The boxes of a TVQA+ question, in the order of frames."""
    frames = typed(value, {"bbox": dict})["bbox"]
    found = []
    for frame in sorted(frames, key=lambda name: (len(name), name)):
        if not isinstance(frames[frame], list):
            raise Problem(f"bbox: expected a list of boxes of a frame, got {frames[frame]!r:.60}")
        for box in frames[frame]:
            typed(box, BOX)
            if str(box["img_id"]) != frame or box["img_id"] < 1:
                raise Problem(f"bbox: expected img_id {frame}, from 1, got {box['img_id']}")
            if not all(math.isfinite(box[side]) for side in SIDES):
                raise Problem(f"bbox: expected finite sides, got {box!r:.80}")
            if box["width"] <= 0 or box["height"] <= 0:
                raise Problem(f"bbox: expected a width and height above 0, got {box!r:.80}")
            sides = {side: float(box[side]) for side in SIDES}
            found.append({"frame": box["img_id"], "label": box["label"], **sides})
    return found


def subtitles(path: pathlib.Path) -> list[Row]:
    """The cues of an ``.srt`` file, times in seconds.

    The text is UTF-8, with or without a byte order mark, or else cp1252 (which contains the
    printable part of latin-1).

    >>> import tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "clip.srt")
    >>> cue = "1\\n00:00:01,500 --> 00:00:03,000\\n(Leonard:)A caf\\u00e9?\\n"
    >>> _ = file.write_text(cue, encoding="cp1252")
    >>> subtitles(file)
    [{'text': '(Leonard:)A café?', 'start': 1.5, 'end': 3.0}]
    """
    if not os.path.isfile(path):
        raise Problem(f"no subtitles {path}")
    lines = re.sub("\r\n?", "\n", _text(path)).strip()
    cues = []
    for i, block in enumerate(re.split(r"\n\s*\n", lines) if lines else [], start=1):
        number, *rest = block.split("\n")
        match = re.fullmatch(rf"\s*{CLOCK}\s*-->\s*{CLOCK}\s*", rest[0]) if rest else None
        if match is None or not number.strip().isdecimal():
            raise Problem(f"{path}, cue {i}: expected a number and H:M:S,mmm --> H:M:S,mmm")
        parts = [int(part) for part in match.groups()]
        start, end = ((h * 60 + m) * 60 + s + ms / 1000 for h, m, s, ms in (parts[:4], parts[4:]))
        if end < start:
            raise Problem(f"{path}, cue {i}: expected an end after the start, got {rest[0]!r}")
        cues.append({"text": " ".join(" ".join(rest[1:]).split()), "start": start, "end": end})
    return cues


def _text(path: pathlib.Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise Problem(f"{path}: expected UTF-8 or cp1252: {error}") from error


def _read(
    reading: Reading, spoken_in: Path | None, video: Path | None, text: Path | None
) -> datasets.Dataset:
    """Questions of either set, with subtitles and features if asked for."""
    plus = reading.source.name == PLUS.name
    features = attached(
        {
            "video_features": (video, "{video}"),
            "question_features": (text, "{id}_q"),
            "answer_features": (text, [f"{{id}}_{name}" for name in ANSWERS]),
        }
    )
    srt = None if spoken_in is None else pathlib.Path(spoken_in)
    if srt is not None and not srt.is_dir():
        raise FileNotFoundError(f"{reading.source.name}: subtitles: no folder {srt}")
    spoken: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for split, path in reading.split_files().items():
        once = Once("qid")

        def row(item: Any, split: str = split, once: Once = once) -> Row:
            value = typed(loads(item if plus else decoded(item)), KEYS)
            made = {**question(value, plus=plus), "split": split}
            once(made["id"])
            if srt is not None:
                if made["video"] not in spoken:
                    spoken[made["video"]] = subtitles(inside(srt, f"{made['video']}.srt"))
                made["subtitles"] = spoken[made["video"]]
            if reading.verify:
                features.check(made, {})
            return made

        rows += reading.sift(_items(path) if plus else numbered_lines(path), row)
    table = reading.table(rows, _features(plus=plus, spoken=srt is not None))
    return features.to(table)


def _items(path: pathlib.Path) -> list[tuple[str, str]]:
    try:
        return json_list(path)
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from problem


def read(
    reading: Reading,
    *,
    subtitles: Path | None = None,
    video_features: Path | None = None,
    text_features: Path | None = None,
) -> datasets.Dataset:
    """Questions in the order of the files; of ``tvqa-plus``, with boxes.

    Args:
        reading: the call of ``load``.
        subtitles: folder of ``VIDEO.srt``; each row then has ``subtitles``.
        video_features: a `FeatureFile` with a matrix a video; each row then has
            ``video_features``.
        text_features: a `FeatureFile` with ``QID_q`` and ``QID_a0`` to ``QID_a4``; each row then
            has ``question_features`` and ``answer_features``.
    """
    return _read(reading, subtitles, video_features, text_features)


def _features(*, plus: bool, spoken: bool) -> datasets.Features:
    text, number = datasets.Value("string"), datasets.Value("float32")
    cue = {"text": text, "start": number, "end": number}
    box = {"frame": datasets.Value("int32"), "label": text} | dict.fromkeys(SIDES, number)
    return datasets.Features(
        {
            "id": text,
            "question": text,
            "answers": datasets.List(text),
            "label": datasets.ClassLabel(names=list(ANSWERS)),
            "start": datasets.Value("float64"),
            "end": datasets.Value("float64"),
            "video": text,
            "show": text,
            **({"boxes": datasets.List(box)} if plus else {}),
            "split": text,
            **({"subtitles": datasets.List(cue)} if spoken else {}),
        }
    )


SOURCE_FILES = {
    "train": "tvqa_train.jsonl",
    "validation": "tvqa_val.jsonl",
    "test": "tvqa_test_public.jsonl",
}
PLUS_FILES = {"train": "tvqa_plus_train.json", "validation": "tvqa_plus_val.json"}
SOURCE = Source(
    name="tvqa",
    holds="questions with five answers on clips of six television series",
    splits=("train", "validation", "test"),
    origin="https://tvqa.cs.unc.edu",
    terms="see their agreement; the videos belong to the broadcasters",
    read=read,
    folder="tvqa",
    layout="tvqa_{train,val,test_public}.jsonl",
    split_files=SOURCE_FILES,
    checksums={
        SOURCE_FILES["test"]: "abe4718477756e9d37832e03b30718ce9096e41c103fa8297072c503d0264287"
    },
)
PLUS = dataclasses.replace(
    SOURCE,
    name="tvqa-plus",
    holds="questions with five answers, spans and boxes on clips of The Big Bang Theory",
    splits=("train", "validation"),
    origin="https://tvqa.cs.unc.edu (TVQA+)",
    layout="tvqa_plus_{train,val}.json",
    split_files=PLUS_FILES,
    checksums={
        PLUS_FILES["validation"]: "c39e8160ed9bb9a8b964a5530999088e6bbb77702b2e71a7fe4c8521522db79d"
    },
)
