"""``hub:NAME`` or ``hub:FOLDER``: data sets of the Hugging Face hub, and folders of the same form.

A folder may hold what ``save_to_disk`` wrote, or files of one kind: pictures, sounds or videos,
each in the folder of its class or described in a ``metadata.csv``, ``.jsonl`` or ``.parquet`` with
a column ``file_name``; tables in CSV, TSV, JSON, JSON lines, Parquet or Arrow; or lines of text.

- Every file is read, or named in a warning and in the data set's description, or refused.
- A folder (``train/``), a word in the names of tables (``words_test.csv``), README.md or a column
  ``split`` names the split of rows. If nothing does, they are training data. If a split is named
  for some files only, that is an error, because a test set could be among the rest.
- In CSV and TSV a field is a number only if all of its column are, as Python writes them:
  ``007``, ``1e5``, ``NA``, ``True`` and dates stay texts. An empty field is missing, and ``""``
  is an empty text.
- Nothing outside the folder is read. No code of a data set is run.

A folder of tables is read into memory; one that ``save_to_disk`` wrote is not. A data
set of the hub is read by `datasets`, whose own rules for CSV and splits hold.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import datasets
import huggingface_hub

from modalign.data._files import SPLITS, Problem, Reading, Source, check_picture, inside
from modalign.data._folder import WORDS, Part, read_folder
from modalign.data.audio import check_sound

HOW = "hub:NAME with download=True fetches a data set from the hub; hub:FOLDER reads a folder"


def read(
    reading: Reading,
    *,
    columns: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
    config: str | None = None,
    download: bool = False,
) -> datasets.Dataset:
    """The rows of a data set, with ``id`` and ``split`` added if it has none.

    Args:
        reading: the call of ``load``.
        columns: new names to names in the set, as ``{"text": "sentence1"}``; others stay.
        splits: the same for splits, as ``{"validation": "dev"}``.
        config: the configuration of a data set that has several.
        download: allow a download; without it, only a folder is read.
    """
    if reading.source.name == SOURCE.name:
        raise ValueError(f"name: expected hub:NAME or hub:FOLDER, got {SOURCE.name!r}")
    target = reading.source.name.removeprefix(SOURCE.name)
    folder = find(target, download=download)
    if folder is None:
        found, roots = _of(datasets.load_dataset(target, name=config)), _caches()
    elif any((folder / name).exists() for name in SAVED):
        found, roots = _of(_saved(folder)), [folder]
    else:
        found, roots = read_folder(folder, reading, config), [folder]
    parts = _by_split(reading, found, columns or {})
    renamed = _renamed_splits(reading, parts, splits or {})
    wanted = [name for name in parts if reading.wanted(renamed[name])]
    tables = [
        _completed(reading, rows, name, renamed[name], roots)
        for name in wanted
        for rows in parts[name]
    ]
    if not tables:
        reading.report(0)
    table = _joined(reading, tables)
    reading.report(table.num_rows)
    table.info.description = ". ".join(filter(None, [table.info.description, *reading.notes]))
    return table


def _renamed_splits(
    reading: Reading, parts: Collection[str | None], splits: Mapping[str, str]
) -> dict[str | None, str | None]:
    """The name that each split of the set takes: its own, unless ``splits`` gives it another."""
    name = reading.source.name
    for split, own in splits.items():
        if split not in SOURCE.splits or own not in parts:
            raise ValueError(
                f"{name}: splits: expected one of {', '.join(SOURCE.splits)} to be one of "
                f"{', '.join(map(str, parts))}, got {split!r}: {own!r}"
            )
    renamed = {own: own for own in parts} | {own: split for split, own in splits.items()}
    if len(set(renamed.values())) < len(renamed):
        raise ValueError(f"{name}: splits: two of the set's splits would have one name: {renamed}")
    if reading.split is not None and reading.split not in renamed.values():
        known = ", ".join(own for own in parts if own is not None) or "none"
        raise ValueError(
            f"{name}: split: no {reading.split!r} there, but {known}; "
            f"splits={{{reading.split!r}: ...}} says which one it is"
        )
    return renamed


def find(target: str, *, download: bool = False) -> pathlib.Path | None:
    """The folder of that name; None if there is none and a download is allowed.

    Raises:
        FileNotFoundError: if there is none and a download is not allowed.
    """
    folder = pathlib.Path(target).expanduser()
    if os.path.isdir(folder):
        return folder
    if download:
        return None
    raise FileNotFoundError(
        f"hub:{target}: no folder {folder}; if it is a data set of the hub, download=True "
        "fetches it (nothing is downloaded unless asked)"
    )


def _of(found: datasets.Dataset | datasets.DatasetDict) -> list[Part]:
    if isinstance(found, datasets.Dataset):
        return [(None if found.split is None else str(found.split), found, None)]
    return [(str(name), part, None) for name, part in found.items()]


def _caches() -> list[pathlib.Path]:
    """Where downloads lie."""
    places = (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE)
    return [pathlib.Path(place) for place in (*places, huggingface_hub.constants.HF_HUB_CACHE)]


SAVED = ("dataset_dict.json", "state.json")


def _saved(folder: pathlib.Path) -> datasets.Dataset | datasets.DatasetDict:
    """The data that ``save_to_disk`` wrote; its files must lie in the folder."""
    try:
        parts = [folder]
        if (folder / SAVED[0]).exists():
            names = json.loads(inside(folder, SAVED[0]).read_text("utf-8"))["splits"]
            parts = [inside(folder, name) for name in names]
        for part in parts:
            state = json.loads(
                inside(folder, part.relative_to(folder) / SAVED[1]).read_text("utf-8")
            )
            for file in state["_data_files"]:
                inside(folder, part.relative_to(folder) / file["filename"])
        found = datasets.load_from_disk(str(folder))
    except Problem:
        raise
    # a damaged one makes datasets raise nearly anything
    except Exception as error:
        raise ValueError(f"hub:{folder}: damaged or of another format: {error!r}") from error
    # a format may hide columns
    return found.with_format(None)


class _Rows(NamedTuple):
    """Rows of a split, where each comes from, and the number of the first one's id."""

    dataset: datasets.Dataset
    places: list[str]
    first: int


def _by_split(
    reading: Reading, found: list[Part], columns: Mapping[str, str]
) -> dict[str | None, list[_Rows]]:
    """The rows by their split, in the order train, validation, test and others.

    A column ``split`` decides, and must agree with the place of the row.
    """
    parts: dict[str | None, list[_Rows]] = {}

    def add(name: str | None, rows: datasets.Dataset, places: list[str]) -> None:
        before = parts.setdefault(name, [])
        first = before[-1].first + len(before[-1].places) if before else 0
        before.append(_Rows(rows, places, first))

    for said, part, known in found:
        part = _renamed(part, columns, reading.source.name)
        places = known or [f"{said or 'train'}, row {i + 1}" for i in range(part.num_rows)]
        if "split" not in part.features:
            add(said or "train", part, places)
            continue
        find_split = _split_finder(reading, part, said)
        splits = reading.sift(zip(places, range(part.num_rows), strict=True), find_split)
        for name in dict.fromkeys(name for _, name in splits):
            chosen = [row for row, each in splits if each == name]
            rows = part.select(chosen).remove_columns("split")
            add(name, rows, [places[row] for row in chosen])
    order = sorted(parts, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS))
    return {name: parts[name] for name in order}


def _split_finder(
    reading: Reading, part: datasets.Dataset, said: str | None
) -> Callable[[int], tuple[int, str | None]]:
    """A function that finds the split of a row in its column ``split``."""
    if part.features["split"] != datasets.Value("string"):
        raise ValueError(
            f"{reading.source.name}: expected texts in its column 'split', got "
            f"{part.features['split']}; columns={{'NEW': 'split'}} renames it"
        )
    names = part["split"][:]

    def find_split(row: int) -> tuple[int, str | None]:
        known = WORDS.get(str(names[row]).lower())
        if said in SPLITS and known is not None and known != said:
            raise Problem(f"its column split says {names[row]!r}, and it lies in {said!r}")
        return row, names[row]

    return find_split


def _joined(reading: Reading, parts: list[datasets.Dataset]) -> datasets.Dataset:
    """The rows of all; their columns must be of the same types."""
    known: dict[str, object] = {}
    for part in parts:
        for name, feature in part.features.items():
            if known.setdefault(name, feature) != feature:
                raise ValueError(
                    f"{reading.source.name}: the column {name!r} is {known[name]} in one file and "
                    f"{feature} in another"
                )
    return datasets.concatenate_datasets(parts)


def _renamed(part: datasets.Dataset, columns: Mapping[str, str], name: str) -> datasets.Dataset:
    """Columns under their new names; sound and video as their files are, to be decoded later."""
    missing = [old for old in columns.values() if old not in part.column_names]
    taken = [new for new in columns if new in part.column_names and new not in columns.values()]
    if missing or taken or len(set(columns.values())) < len(columns):
        wrong = [
            *(f"no column {each!r}" for each in missing),
            *(f"{each!r} is there already" for each in taken),
        ] or ["a column named twice"]
        raise ValueError(
            f"{name}: columns: {'; '.join(wrong)}; it has {', '.join(part.column_names)}"
        )
    part = part.rename_columns({old: new for new, old in columns.items() if new != old})
    features = datasets.Features({name: _undecoded(each) for name, each in part.features.items()})
    return part if features == part.features else part.cast(features)


def _undecoded(feature: Any) -> Any:
    """A type whose sounds and videos, however deep, are left as their files are."""
    if isinstance(feature, datasets.Audio | datasets.Video):
        return type(feature)(decode=False)
    if isinstance(feature, dict):
        return {name: _undecoded(part) for name, part in feature.items()}
    if isinstance(feature, datasets.List):
        return datasets.List(_undecoded(feature.feature), length=feature.length)
    return feature


def _completed(
    reading: Reading,
    rows: _Rows,
    name: str | None,
    ours: str | None,
    roots: list[pathlib.Path],
) -> datasets.Dataset:
    """Without bad rows, and with an id and a split."""
    part = rows.dataset
    files = {column: each for column, each in part.features.items() if _holds_files(each)}
    encoded = part.select_columns(list(files)).with_format("arrow")
    if "id" not in part.column_names:
        part = part.add_column("id", [f"{name}/{rows.first + i}" for i in range(part.num_rows)])
    split = datasets.Features(split=datasets.Value("string"))
    part = part.add_column("split", [ours] * part.num_rows, feature=split["split"])
    if not files:
        return part

    def check(row: int) -> int:
        (values,) = encoded[row : row + 1].to_pylist()
        for column, feature in files.items():
            for kind, cell in _cells(feature, values[column]):
                _check_cell(cell, kind, roots, verify=reading.verify)
        return row

    places = zip(rows.places, range(part.num_rows), strict=True)
    return part.select(reading.sift(places, check))


def _holds_files(feature: Any) -> bool:
    """Whether a column holds files, as pictures and sounds are held, at any depth."""
    if isinstance(feature, dict):
        return any(map(_holds_files, feature.values()))
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _holds_files(feature.feature)
    return hasattr(feature, "decode_example") and hasattr(feature, "embed_storage")


def _cells(feature: Any, value: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The files of a value, each with its type."""
    if value is None:
        return
    if isinstance(feature, dict):
        for name, part in feature.items():
            yield from _cells(part, value[name])
    elif isinstance(feature, datasets.List | datasets.LargeList):
        for item in value:
            yield from _cells(feature.feature, item)
    elif _holds_files(feature):
        yield feature, value


def _check_cell(
    cell: Mapping[str, Any], feature: object, roots: list[pathlib.Path], *, verify: bool
) -> None:
    """Refuse a file that is bad, or that lies outside the set's folders."""
    content, name = cell["bytes"], cell["path"]
    if content is None:
        path = _own_file(name, roots)
        content = path.read_bytes() if verify else b""
    if verify and isinstance(feature, datasets.Image):
        check_picture(content, name or "the picture")
    elif verify and isinstance(feature, datasets.Audio):
        check_sound(content, None if name is None else pathlib.Path(name).suffix.lower())


def _own_file(name: str | None, roots: list[pathlib.Path]) -> pathlib.Path:
    """The path of a file that a row names; it must lie in one of the set's folders."""
    if name is None or "://" in name:
        raise Problem(f"expected a file's content or its path in the data set's folder, got {name}")
    path = pathlib.Path(name).absolute()
    problems = []
    for root in roots:
        try:
            inside(root, path)
        except Problem as problem:
            problems.append(problem)
    if len(problems) == len(roots):
        raise problems[0]
    if not os.path.isfile(path):
        raise Problem(f"no file {path}")
    return path


SOURCE = Source(
    name="hub:",
    holds="any data set of the Hugging Face hub, or a folder that `datasets` reads",
    splits=("train", "validation", "test"),
    origin="https://huggingface.co/datasets",
    terms="those of the data set",
    read=read,
    layout=HOW,
)
