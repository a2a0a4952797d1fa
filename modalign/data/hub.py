"""``hub:NAME`` or ``hub:FOLDER``: any data set that `datasets` reads, with the columns renamed.

A folder may hold what ``save_to_disk`` wrote, or files in a form that `datasets` knows: pictures
or sounds in folders, Parquet, CSV, JSON lines. No code of a data set is run.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import datasets

from modalign.data._files import Reading, Row, Source, check_picture, dataset_of
from modalign.data.audio import FORMATS, cell, check_sound

HOW = "hub:NAME with download=True fetches a data set from the hub; hub:FOLDER reads a folder"


def read(
    reading: Reading,
    *,
    columns: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
    config: str | None = None,
    download: bool = False,
) -> datasets.Dataset:
    """The rows of a data set, with ``id`` and ``split`` added where it has none.

    Args:
        reading: what was asked for.
        columns: our name of a column to theirs, as ``{"text": "sentence1"}``; others stay.
        splits: our name of a split to theirs, as ``{"validation": "dev"}``.
        config: the configuration of a data set that has several.
        download: allow a download; without it, only a folder is read.
    """
    if reading.source.name == SOURCE.name:
        raise ValueError(f"name: expected hub:NAME or hub:FOLDER, got {SOURCE.name!r}")
    parts = _parts(reading.source.name.removeprefix(SOURCE.name), config, download)
    splits = splits or {}
    for split, name in splits.items():
        if split not in SOURCE.splits or name not in parts:
            raise ValueError(
                f"{reading.source.name}: splits: expected one of {', '.join(SOURCE.splits)} to be "
                f"one of {', '.join(parts)}, got {split!r}: {name!r}"
            )
    # a split of theirs keeps its name unless one of ours was said to be it
    ours = {name: name for name in parts} | {name: split for split, name in splits.items()}
    if len(set(ours.values())) < len(ours):
        raise ValueError(
            f"{reading.source.name}: splits: two of theirs would be one of ours: {ours}"
        )
    if reading.split is not None and reading.split not in ours.values():
        raise ValueError(
            f"{reading.source.name}: split: no {reading.split!r} there, but "
            f"{', '.join(parts)}; splits={{{reading.split!r}: ...}} says which one it is"
        )
    wanted = [name for name in parts if reading.wanted(ours[name])]
    tables = [
        _completed(reading, _renamed(parts[name], columns or {}, reading.source.name), name, ours)
        for name in wanted
    ]
    table = datasets.concatenate_datasets(tables)
    reading.report(table.num_rows)
    table.info.description = ". ".join(filter(None, [table.info.description, *reading.notes]))
    return table


def _parts(target: str, config: str | None, download: bool) -> dict[str, datasets.Dataset]:
    """The data set's own splits."""
    folder = pathlib.Path(target).expanduser()
    if folder.is_dir():
        saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
        if saved:
            found = datasets.load_from_disk(str(folder))
        else:
            found = _sounds(folder) or datasets.load_dataset(str(folder), name=config)
    elif download:
        found = datasets.load_dataset(target, name=config)
    else:
        raise FileNotFoundError(
            f"hub:{target}: no folder {folder}; if it is a data set of the hub, download=True "
            "fetches it (nothing is downloaded unless asked)"
        )
    if isinstance(found, datasets.Dataset):
        return {str(found.split or "train"): found}
    return {str(name): part for name, part in found.items()}


def _sounds(folder: pathlib.Path) -> dict[str, datasets.Dataset] | None:
    """Sound files as [SPLIT/]CLASS/FILE, which `datasets` would encode with torchcodec."""
    paths = sorted(path for path in folder.rglob("[!.]*") if path.suffix.lower() in FORMATS)
    if not paths:
        return None
    tables = sorted(folder.rglob("metadata.*"))
    if tables:
        raise ValueError(f"hub:{folder}: expected sounds as [SPLIT/]CLASS/FILE, got {tables[0]}")
    inside = [path.relative_to(folder).parts for path in paths]
    depths = {len(parts) for parts in inside}
    if len(depths) > 1 or max(depths) > 3:
        longest = max(inside, key=len)
        raise ValueError(f"hub:{folder}: expected sounds as [SPLIT/]CLASS/FILE, got {longest}")
    classes = sorted({parts[-2] for parts in inside if len(parts) > 1})
    features = datasets.Features(audio=datasets.Audio(decode=False))
    if classes:
        features["label"] = datasets.ClassLabel(names=classes)
    rows: dict[str, list[Row]] = {}
    for path, parts in zip(paths, inside, strict=True):
        row: Row = {"audio": cell(path)}
        if classes:
            row["label"] = classes.index(parts[-2])
        rows.setdefault(parts[0] if len(parts) == 3 else "train", []).append(row)
    return {name: dataset_of(part, features) for name, part in rows.items()}


def _renamed(part: datasets.Dataset, columns: Mapping[str, str], name: str) -> datasets.Dataset:
    """Columns by our names; sound and video as their files are, to be decoded later."""
    missing = [theirs for theirs in columns.values() if theirs not in part.column_names]
    taken = [ours for ours in columns if ours in part.column_names and ours not in columns.values()]
    if missing or taken or len(set(columns.values())) < len(columns):
        wrong = [
            *(f"no column {each!r}" for each in missing),
            *(f"{each!r} is there already" for each in taken),
        ] or ["a column named twice"]
        raise ValueError(
            f"{name}: columns: {'; '.join(wrong)}; it has {', '.join(part.column_names)}"
        )
    part = part.rename_columns({theirs: ours for ours, theirs in columns.items() if ours != theirs})
    for column, feature in part.features.items():
        if isinstance(feature, datasets.Audio):
            part = part.cast_column(column, datasets.Audio(decode=False))
        elif isinstance(feature, datasets.Video):
            part = part.cast_column(column, datasets.Video(decode=False))
    return part


def _completed(
    reading: Reading, part: datasets.Dataset, name: str, ours: Mapping[str, str]
) -> datasets.Dataset:
    """Without bad rows, and with an id and a split."""
    encoded = _encoded(part)
    if "id" not in part.column_names:
        part = part.add_column("id", [f"{name}/{i}" for i in range(part.num_rows)])
    if "split" not in part.column_names:
        part = part.add_column("split", [ours[name]] * part.num_rows)
    if not reading.verify or not encoded.column_names:
        return part

    def check(row: int) -> int:
        for column, feature in encoded.features.items():
            _check_cell(encoded[row][column], feature)
        return row

    places = ((f"{name}, row {row + 1}", row) for row in range(part.num_rows))
    return part.select(reading.sift(places, check))


def _encoded(part: datasets.Dataset) -> datasets.Dataset:
    """The columns of pictures and sounds, not decoded."""
    kinds = (datasets.Image, datasets.Audio)
    part = part.select_columns(
        [name for name, kind in part.features.items() if isinstance(kind, kinds)]
    )
    for name, kind in part.features.items():
        if isinstance(kind, datasets.Image):
            part = part.cast_column(name, datasets.Image(decode=False))
    return part


def _check_cell(cell: Mapping[str, object] | None, feature: object) -> None:
    if cell is None:
        return
    path = None if cell["path"] is None else pathlib.Path(str(cell["path"]))
    content = cell["bytes"]
    if not isinstance(content, bytes):
        assert path is not None, "a cell has bytes or a path"
        content = path.read_bytes()
    if isinstance(feature, datasets.Image):
        check_picture(content, str(path or "the picture"))
    else:
        check_sound(content, None if path is None else path.suffix.lower())


SOURCE = Source(
    name="hub:",
    holds="any data set of the Hugging Face hub, or a folder that `datasets` reads",
    splits=("train", "validation", "test"),
    origin="https://huggingface.co/datasets",
    terms="those of the data set",
    read=read,
    layout=HOW,
)
