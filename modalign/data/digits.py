"""``digits``: scikit-learn's 1,797 scans of handwritten digits, with each digit's English word."""

from __future__ import annotations

import io

import datasets
import numpy as np
import PIL.Image

from modalign._digits import LEVELS, TEST_SCANS, WORDS
from modalign.data._files import Reading, Row, Source


def png(scan: np.ndarray) -> bytes:
    """A scan of levels 0 to 16 as a grey picture of 0 to 255, losslessly.

    >>> picture = np.asarray(PIL.Image.open(io.BytesIO(png(np.eye(8) * 16))))
    >>> picture.shape, int(picture.max())
    ((8, 8), 255)
    """
    file = io.BytesIO()
    grey = np.round(scan * (255 / LEVELS)).astype(np.uint8)
    PIL.Image.fromarray(grey).save(file, format="png")
    return file.getvalue()


def scans() -> list[Row]:
    """All scans; the last 360 are the test set.

    >>> {split: sum(row["split"] == split for row in scans()) for split in ("train", "test")}
    {'train': 1437, 'test': 360}
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    first_test = len(source.target) - TEST_SCANS
    return [
        {
            "id": f"{i:04d}",
            "image": {"bytes": png(scan), "path": None},
            "text": WORDS[digit],
            "label": int(digit),
            "split": "train" if i < first_test else "test",
        }
        for i, (scan, digit) in enumerate(zip(source.images, source.target, strict=True))
    ]


def read(reading: Reading) -> datasets.Dataset:
    """Scans (8 x 8, grey), words and labels."""
    features = datasets.Features(
        id=datasets.Value("string"),
        image=datasets.Image(),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(WORDS)),
        split=datasets.Value("string"),
    )
    return reading.table([row for row in scans() if reading.wanted(row["split"])], features)


SOURCE = Source(
    name="digits",
    holds="1,797 scans of handwritten digits (8 x 8) with the digit's English word",
    splits=("train", "test"),
    origin="https://archive.ics.uci.edu/dataset/80 (test part), shipped with scikit-learn",
    terms="CC BY 4.0",
    read=read,
    embedded=True,
)
