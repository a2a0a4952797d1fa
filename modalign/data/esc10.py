"""``esc10``: 400 environmental sounds of five seconds in ten classes and five folds (Piczak).

The set has no split but folds, made so that clips of one recording share a fold; the custom is to
test on each in turn. Here ``fold`` is the test set, ``validation_fold``, if one is named, the
validation set, and the others are the training set.
"""

from __future__ import annotations

import pathlib
import re

import datasets

from modalign.data import audio
from modalign.data._files import Once, Problem, Reading, Row, Source

CLASSES = (
    "dog bark",
    "rain",
    "sea waves",
    "baby cry",
    "clock tick",
    "person sneeze",
    "helicopter",
    "chainsaw",
    "rooster",
    "fire crackling",
)
FOLDS = range(1, 6)


def parse(path: pathlib.Path) -> tuple[int, int]:
    """Class and fold of a clip, from the names of its folder and file.

    >>> parse(pathlib.Path("002 - Rain/4-181563-A.ogg"))
    (1, 4)
    """
    folder = re.fullmatch(r"(\d{3}) - (.+)", path.parent.name)
    if folder is None or not 1 <= int(folder[1]) <= len(CLASSES):
        raise Problem(f"expected a folder such as '001 - Dog bark', got {path.parent.name!r}")
    label = int(folder[1]) - 1
    if folder[2].lower() != CLASSES[label]:
        raise Problem(f"expected class {CLASSES[label]!r} in folder {folder[1]}, got {folder[2]!r}")
    name = re.fullmatch(r"([1-5])-\d+-[A-Z]\.ogg", path.name)
    if name is None:
        raise Problem(f"expected a name FOLD-CLIP-TAKE.ogg, FOLD 1 to 5, got {path.name!r}")
    return label, int(name[1])


def read(
    reading: Reading, *, fold: int = 5, validation_fold: int | None = None
) -> datasets.Dataset:
    """Clips in the order of class and file name.

    Args:
        reading: the call of ``load``.
        fold: the fold that is the test set, 1 to 5.
        validation_fold: the fold that is the validation set; none by default.
    """
    splits = _splits(fold, validation_fold)
    if reading.split is not None and reading.split not in splits.values():
        raise ValueError("esc10: a validation set needs validation_fold=1 to 5; it has folds only")
    paths = sorted(reading.path(".").glob("[0-9]*/[!.]*"))
    if not paths:
        reading.existing("001 - Dog bark")

    once = Once("clip")

    def row(path: pathlib.Path) -> Row | None:
        label, found = parse(path)
        if not reading.wanted(splits[found]):
            return None
        return {
            "id": once(path.stem),
            "audio": reading.cell(reading.within(path), "sound", audio.check_audio),
            "text": CLASSES[label],
            "label": label,
            "fold": found,
            "split": splits[found],
        }

    rows = reading.sift(((str(path), path) for path in paths), row)
    features = datasets.Features(
        id=datasets.Value("string"),
        audio=datasets.Audio(decode=False),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(CLASSES)),
        fold=datasets.Value("int32"),
        split=datasets.Value("string"),
    )
    return reading.table([row for row in rows if row is not None], features)


def _splits(fold: int, validation_fold: int | None) -> dict[int, str]:
    """The split of each fold."""
    if fold not in FOLDS:
        raise ValueError(f"esc10: fold: expected 1 to 5, got {fold!r}")
    if validation_fold is not None and validation_fold not in set(FOLDS) - {fold}:
        raise ValueError(
            f"esc10: validation_fold: expected one of 1 to 5 other than the test fold {fold}, "
            f"got {validation_fold!r}"
        )
    return {**dict.fromkeys(FOLDS, "train"), validation_fold or fold: "validation", fold: "test"}


SOURCE = Source(
    name="esc10",
    holds="400 environmental sounds of five seconds (44.1 kHz), ten classes, five folds",
    splits=("train", "validation", "test"),
    origin="https://github.com/karoldvl/ESC-10",
    terms="CC BY 3.0; some clips under their own terms, in its README",
    read=read,
    folder="esc10",
    needs=("001 - Dog bark",),
    layout="001 - Dog bark/*.ogg to 010 - Fire crackling/*.ogg",
)
