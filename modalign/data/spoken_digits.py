"""``spoken-digits``: a scan, a recording and a word of the same digit in every row.

The recordings are the Free Spoken Digit Dataset's, ``recordings/DIGIT_SPEAKER_TAKE.wav``; takes 0
to 4 are its customary test set. Each recording is given a scan of its digit, from the same split:
the scans of a digit are shuffled and dealt out in turn, so that all are used about equally often,
and a test scan is never seen in training.
"""

from __future__ import annotations

import pathlib
import re

import datasets
import numpy as np

from modalign._digits import WORDS
from modalign.data import audio
from modalign.data._files import Problem, Reading, Row, Source
from modalign.data.digits import scans

TEST_TAKES = range(5)


def parse(path: pathlib.Path) -> tuple[int, str, int]:
    """Digit, speaker and take from a file's name.

    >>> parse(pathlib.Path("7_jackson_32.wav"))
    (7, 'jackson', 32)
    """
    match = re.fullmatch(r"(\d)_([^_]+)_(\d+)\.wav", path.name)
    if match is None:
        raise Problem(f"expected a name DIGIT_SPEAKER_TAKE.wav, got {path.name!r}")
    return int(match[1]), match[2], int(match[3])


def read(reading: Reading, *, seed: int = 0) -> datasets.Dataset:
    """Recordings in the order of digit, speaker and take, each with a scan of its digit.

    Args:
        reading: the call of ``load``.
        seed: decides which scan goes with which recording.
    """
    paths = sorted(reading.existing("recordings").glob("[!.]*"))
    named = reading.sift(((str(path), path) for path in paths), lambda path: (*parse(path), path))
    dealt: dict[tuple[str, int], int] = {}
    piles = _piles(seed)

    def row(item: tuple[int, str, int, pathlib.Path]) -> Row:
        digit, speaker, take, path = item
        split = "test" if take in TEST_TAKES else "train"
        pile, turn = piles[split, digit], dealt.setdefault((split, digit), 0)
        dealt[split, digit] += 1
        scan = pile[turn % len(pile)]
        return {
            "id": path.stem,
            "image": scan["image"],
            "audio": reading.cell(reading.within(path), "sound", audio.check_audio),
            "text": WORDS[digit],
            "label": digit,
            "speaker": speaker,
            "take": take,
            "scan": scan["id"],
            "split": split,
        }

    wanted = [
        item for item in named if reading.wanted("test" if item[2] in TEST_TAKES else "train")
    ]
    rows = reading.sift(((str(item[3]), item) for item in sorted(wanted)), row)
    return reading.table(rows, _features())


def _piles(seed: int) -> dict[tuple[str, int], list[Row]]:
    """The scans of each split and digit, shuffled."""
    piles: dict[tuple[str, int], list[Row]] = {}
    for scan in scans():
        piles.setdefault((scan["split"], scan["label"]), []).append(scan)
    rng = np.random.default_rng(seed)
    return {key: [pile[i] for i in rng.permutation(len(pile))] for key, pile in piles.items()}


def _features() -> datasets.Features:
    return datasets.Features(
        id=datasets.Value("string"),
        image=datasets.Image(),
        audio=datasets.Audio(decode=False),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(WORDS)),
        speaker=datasets.Value("string"),
        take=datasets.Value("int32"),
        scan=datasets.Value("string"),
        split=datasets.Value("string"),
    )


SOURCE = Source(
    name="spoken-digits",
    holds="3,000 recordings of spoken digits (8 kHz), each with a scan and the word of its digit",
    splits=("train", "test"),
    origin="https://github.com/Jakobovski/free-spoken-digit-dataset",
    terms="CC BY-SA 4.0 (recordings), CC BY 4.0 (scans)",
    read=read,
    folder="fsdd",
    needs=("recordings",),
    layout="recordings/DIGIT_SPEAKER_TAKE.wav",
)
