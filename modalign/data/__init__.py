"""Data sets with the same columns: `load` reads one, `available` lists them.

Every set has ``id`` and ``split`` (None if a row is in none). Its other columns have these
names: ``image``, ``audio``, ``text`` (the one sentence or word of a row), ``captions`` (several
of one picture), ``question`` and ``answers``, ``label`` (a class; -1 if it is withheld).
Pictures are decoded when a row is read; `waveform` decodes sound.

Files are looked for under the folder that the environment variable ``MODALIGN_DATA`` names.
Nothing is downloaded unless asked for.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import cast

import datasets

from modalign._checks import describe, require_choice
from modalign.data import (
    digits,
    esc10,
    flickr8k,
    hub,
    nlvr,
    snlive,
    spoken_digits,
    tvqa,
    world,
    yms,
)
from modalign.data._files import (
    SPLITS,
    BadRow,
    Problem,
    Reading,
    SkippedRows,
    Source,
    require_split,
)
from modalign.data.audio import waveform
from modalign.data.features import FeatureFile, convert_pickle

__all__ = [
    "SPLITS",
    "BadRow",
    "FeatureFile",
    "SkippedRows",
    "available",
    "check",
    "convert_pickle",
    "load",
    "source",
    "waveform",
]

SOURCES = {
    each.name: each
    for each in (
        world.SOURCE,
        digits.SOURCE,
        spoken_digits.SOURCE,
        flickr8k.SOURCE,
        flickr8k.EXPERT,
        esc10.SOURCE,
        nlvr.SOURCE,
        snlive.SOURCE,
        yms.SOURCE,
        tvqa.SOURCE,
        tvqa.PLUS,
        hub.SOURCE,
    )
}


def load(
    name: str,
    split: str | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    on_bad: str = "raise",
    verify: bool = True,
    checksums: bool = False,
    **options: object,
) -> datasets.Dataset:
    """Read a data set.

    Args:
        name: one of `available`; ``hub:NAME`` for a data set of the Hugging Face hub, or
            ``hub:FOLDER`` for a folder that `datasets` can read.
        split: ``train``, ``validation`` or ``test``; all rows by default.
        folder: where the set's own files lie; its folder under ``MODALIGN_DATA`` by default.
        on_bad: ``raise`` an error for a bad row, or ``skip`` it: skipped rows are counted and
            reported in a `SkippedRows` warning and in the data set's description.
        verify: decode pictures and sound and read features once, so that a bad file raises
            now; with ``False`` it raises when its row is read.
        checksums: compare the small official files with their recorded SHA-256 first.
        **options: the loader's own; an error for an unknown one lists the known ones.

    Returns:
        A `datasets.Dataset` with typed columns, in the order of the set's files.

    Raises:
        ValueError: for an unknown name, split or option, naming the closest; for a `BadRow`.
        FileNotFoundError: if files are missing; says what to get, where, under which terms.

    >>> digits = load("digits", "test")
    >>> digits.num_rows, digits[0]["text"], digits[0]["image"].size
    (360, 'two', (8, 8))
    """
    reading = _asked(name, split, options, folder, on_bad, verify, checksums)
    try:
        dataset = reading.source.read(reading, **options)
    except Problem as problem:
        raise BadRow(f"{name}: {problem}") from problem
    for warning in reading.warnings:
        warnings.warn(warning, stacklevel=2)
    return dataset


def check(
    name: str,
    split: str | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    **options: object,
) -> None:
    """Raise the errors that `load` raises before it reads a row, above all for a missing set.

    It looks for folders and files and opens none, so that a long run can ask before it starts.

    Args:
        name: as in `load`.
        split: the split whose file must be there.
        folder: where the set's own files lie.
        **options: the loader's own.

    Raises:
        ValueError: for an unknown name, split or option.
        FileNotFoundError: if the set is not here; says what to get, where, under which terms.

    >>> check("digits", "test")
    >>> check("hub:no/such-folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: hub:no/such-folder: no folder no/such-folder; if it is a data set of the hub, download=True fetches it (nothing is downloaded unless asked)
    """  # noqa: E501
    reading = _asked(name, split, options, folder)
    if name.startswith(hub.SOURCE.name):
        hub.find(name.removeprefix(hub.SOURCE.name), download=options.get("download") is True)
    if reading.source is flickr8k.SOURCE and options.get("layout") == "kaggle":
        reading.existing(flickr8k.KAGGLE)
    elif reading.folder is not None:
        reading.require_files()
    if reading.source is snlive.SOURCE:
        beside = options.get("flickr8k_folder") or snlive.beside(reading)
        check("flickr8k", folder=cast(pathlib.Path, beside))


def _asked(
    name: str,
    split: str | None,
    options: Mapping[str, object],
    folder: str | os.PathLike[str] | None = None,
    on_bad: str = "raise",
    verify: bool = True,
    checksums: bool = False,
) -> Reading:
    """A call of `load` whose name, split and options are known."""
    chosen = source(name)
    require_split(split, chosen.splits, name)
    known = tuple(inspect.signature(chosen.read).parameters)[1:]
    for option in options:
        if not known:
            raise ValueError(f"{name}: takes no options, got {option!r}")
        require_choice(option, known, f"{name}: option")
    return Reading(chosen, split, folder=folder, on_bad=on_bad, verify=verify, checksums=checksums)


def source(name: str) -> Source:
    """Describe a set: content, splits, origin, terms, files.

    >>> source("spoken-digits").terms
    'CC BY-SA 4.0 (recordings), CC BY 4.0 (scans)'
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a text, got {describe(name)}")
    if name.startswith(hub.SOURCE.name) and name != hub.SOURCE.name:
        return dataclasses.replace(hub.SOURCE, name=name)
    require_choice(name, tuple(SOURCES), "name")
    return SOURCES[name]


def available() -> list[dict[str, object]]:
    """List the data sets, a dictionary each; ``pandas.DataFrame(available())`` is a table.

    Returns:
        For each set: ``name``, ``holds``, ``splits``, ``embedded`` (comes with the book),
        ``found`` (embedded, or its files are there), ``origin``, ``terms`` and ``get`` (what to
        download, and where to put it).

    >>> [each["name"] for each in available() if each["embedded"]]
    ['shapes', 'digits']
    """
    return [
        {
            "name": each.name,
            "holds": each.holds,
            "splits": each.splits,
            "embedded": each.embedded,
            "found": each.name != hub.SOURCE.name and _is_here(each.name),
            "origin": each.origin,
            "terms": each.terms,
            "get": each.how_to_get(),
        }
        for each in SOURCES.values()
    ]


def _is_here(name: str) -> bool:
    try:
        check(name)
    except FileNotFoundError:
        return False
    return True
