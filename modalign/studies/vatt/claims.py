"""Every claim of the chapter "VATT", read from its two recorded tables."""

import pathlib

import pandas as pd

from modalign import records
from modalign.studies._claims import decided
from modalign.studies.vatt import detection, experiments


def readings(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Every reading of c14 to c20.

    Args:
        folder: results folder; the book's by default.

    Returns:
        The rows of :func:`modalign.studies._claims.with_criteria`.
    """
    detected = detection.readings(records.load("vatt/detection", folder=folder))
    compared = experiments.readings(records.load("vatt/methods", folder=folder))
    return pd.concat([detected, compared], ignore_index=True)


def verdicts(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """One verdict a claim, over its :func:`readings`."""
    return decided(readings(folder))
