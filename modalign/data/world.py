"""``shapes``: the procedural world, as a data set like the others."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import cast

import datasets

from modalign.data._files import SPLITS, Reading, Source
from modalign.data.shapes import Options, View, as_dataset
from modalign.data.shapes.scene import Split


def read(
    reading: Reading,
    *,
    length: int = 1000,
    seed: int = 0,
    views: Sequence[View] = ("image", "text"),
    options: Options | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """Rows 0 to ``length`` - 1 of a split, or of each split one after the other.

    ``options`` sets all that rows can hold, in place of ``seed`` and ``views``.
    """
    chosen = options if options is not None else Options(seed=seed, views=views)
    wanted = SPLITS if reading.split is None else (reading.split,)
    parts = []
    for split in wanted:
        one = dataclasses.replace(chosen, split=cast(Split, split))
        parts.append(as_dataset(length, options=one, cache_dir=cache_dir))
    rows = datasets.concatenate_datasets(parts, split=datasets.NamedSplit(reading.split or "all"))
    rows.info.description = SOURCE.holds
    rows.info.license = SOURCE.terms
    return rows


SOURCE = Source(
    name="shapes",
    holds="scenes of coloured shapes as image, video, audio and text, drawn by the code",
    splits=SPLITS,
    origin="modalign.data.shapes",
    terms="MIT (the code that draws it)",
    read=read,
    embedded=True,
)
