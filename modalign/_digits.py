"""scikit-learn's scanned digits: their English words, and which scans are the test set."""

from typing import NamedTuple

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LEVELS = 16
TEST_SCANS = 360


class Scans(NamedTuple):
    """Scans of one split: (n, 8, 8) of levels 0 to 16, and their digits (n,)."""

    images: np.ndarray
    digits: np.ndarray


def load_scans() -> dict[str, Scans]:
    """The training scans and the test scans, which are the last 360 of 1,797.

    >>> {split: len(scans.digits) for split, scans in load_scans().items()}
    {'train': 1437, 'test': 360}
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    train, test = slice(None, -TEST_SCANS), slice(-TEST_SCANS, None)
    return {
        "train": Scans(source.images[train], source.target[train]),
        "test": Scans(source.images[test], source.target[test]),
    }
