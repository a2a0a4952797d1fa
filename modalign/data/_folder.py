"""A folder of pictures, sounds, videos or tables: every file is read, or named as left out."""

from __future__ import annotations

import glob
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import yaml
from datasets.table import InMemoryTable

from modalign._checks import require_choice
from modalign.data._files import Placed, Problem, Reading, Row, inside
from modalign.data._tables import JSON, SEPARATORS, STORED, rows_of, stored, table_of, take_numbers
from modalign.data.audio import FORMATS

MEDIA = {
    "image": (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    "audio": tuple(FORMATS),
    "video": (".mp4", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".mpeg", ".m4v"),
}
TABLES = (*SEPARATORS, *JSON, *STORED)
# files that tools write about a data set; they hold no rows
ABOUT = ("dataset_info.json", "dataset_infos.json", "config.json")
READ = f"{', '.join(each for kind in (*MEDIA.values(), TABLES, ('.txt',)) for each in kind)}"
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
HINT = "put the files of each split into a folder train/, validation/ or test/"
CELL = pa.struct({"bytes": pa.binary(), "path": pa.string()})
Part = tuple[str | None, datasets.Dataset, list[str] | None]  # split, rows, and the places of these


def read_folder(folder: pathlib.Path, reading: Reading, config: str | None) -> list[Part]:
    """The rows of a folder by the split that its files' names say; None if they say none.

    Raises:
        ValueError: if nothing can be read, or if it is not clear what belongs to which split.
        BadRow: for a file or row that cannot be used.
    """
    names, left_out = _files(folder, reading)
    said = _configured(folder, names, config)
    kind, chosen = _chosen(names if said is None else [name for name in names if name in said])
    left_out = sorted({*left_out, *names} - set(chosen))
    if not chosen:
        there = f"only {_listed(left_out)}" if left_out else "nothing"
        raise ValueError(f"{reading.source.name}: expected files of {READ}; it holds {there}")
    if left_out:
        reading.remark(f"{len(left_out)} left out, not of kind {kind}: {_listed(left_out)}")
    if kind in MEDIA:
        return _media(folder, chosen, kind, said, reading)
    if said is not None:
        splits = {name: said[name] for name in chosen}
    else:
        splits = _splits(folder, chosen, reading, by_name=True)
    return _tables(folder, splits, reading)


def _listed(names: list[PurePosixPath]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(str, names[:5])) + more


def _files(
    folder: pathlib.Path, reading: Reading
) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """All files by their path in the folder; and hidden ones, links to folders, and non-files."""
    names: list[PurePosixPath] = []
    left_out: list[PurePosixPath] = []

    def unreadable(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=unreadable):
        here = pathlib.Path(place).relative_to(folder)
        for name in sorted(folders):
            path = here / name
            linked = os.path.islink(folder / path)  # which os.walk does not follow
            if linked or name.startswith("."):
                folders.remove(name)
                if not linked or _usable(folder, path, reading):
                    left_out.append(PurePosixPath(path))
        for name in files:
            file = PurePosixPath((here / name).as_posix())
            if not _usable(folder, file, reading):
                continue
            # reading a pipe would wait for ever
            hidden = name.startswith(".") or not os.path.isfile(folder / file)
            (left_out if hidden else names).append(file)
    return sorted(names), left_out


def _usable(folder: pathlib.Path, path: pathlib.PurePath, reading: Reading) -> bool:
    """Whether a file lies in the folder and has a name that can be stored."""
    try:
        inside(folder, path)
        str(path).encode()
    except (Problem, UnicodeEncodeError) as problem:
        reading.refuse(ascii(str(folder / path)), problem)
        return False
    return True


def _chosen(names: list[PurePosixPath]) -> tuple[str, list[PurePosixPath]]:
    """The kind of the rows, and the files that hold them."""
    suffixes = {name: name.suffix.lower() for name in names}
    tables = [each for each in names if suffixes[each] in TABLES and each.name not in ABOUT]
    tables_of_media = [each for each in tables if each.stem.lower() == "metadata"]
    counts = Counter(
        kind for suffix in suffixes.values() for kind, known in MEDIA.items() if suffix in known
    )
    kind, count = counts.most_common(1)[0] if counts else ("", 0)
    if count and (tables_of_media or count > len(tables)):
        return kind, [each for each in names if suffixes[each] in MEDIA[kind]] + tables_of_media
    if tables:
        return "table", tables
    return "text", [each for each in names if suffixes[each] == ".txt"]


# splits


def _splits(
    folder: pathlib.Path, names: Iterable[PurePosixPath], reading: Reading, *, by_name: bool
) -> dict[PurePosixPath, str | None]:
    """The split that each file's path says.

    If only some say one, the others are refused: test rows could be taken for training rows, or
    training rows for test rows. The word "train" alone decides nothing, because rows in no split
    count as training data.
    """
    words: dict[PurePosixPath, str | None] = {}
    for name in names:
        try:
            words[name] = _word(name, by_name=by_name)
        except Problem as problem:
            reading.refuse(str(folder / name), problem)
    splits = {name: WORDS.get(word or "", word) for name, word in words.items()}
    kinds = set(splits.values()) - {None}
    unsaid = [name for name, split in splits.items() if split is None]
    if unsaid and kinds <= {"train"}:
        whole = WORDS.get(folder.resolve().name.lower()) if not kinds else None
        return dict.fromkeys(splits, whole)
    named = [(name, split) for name, split in splits.items() if split not in (None, "train")]
    for name in unsaid:
        reason = f"it names no split, and {named[0][0]} names {named[0][1]}; {HINT}"
        reading.refuse(str(folder / name), reason)
        del splits[name]
    for split in kinds:
        twice = sorted({str(words[name]) for name in splits if splits[name] == split})
        if len(twice) > 1:
            raise ValueError(
                f"{reading.source.name}: {' and '.join(twice)} would both be {split}; {HINT}"
            )
    return splits


def _word(name: PurePosixPath, *, by_name: bool) -> str | None:
    """The word for a split in a path: of its outermost folder that has one, or of its name."""
    found: list[str] = []
    for folder in name.parts[:-1]:
        if folder.lower() in WORDS and not found:
            return folder.lower()
        found += _words(folder)
    sharded = re.match(r"(\w+)-\d{5}-of-\d{5}", name.name)
    if sharded and by_name:
        found += [sharded[1].lower()]
    elif by_name:
        found += _words(name.stem)
    if len({WORDS.get(word, word) for word in found}) > 1:
        raise Problem(f"its path names two splits, {' and '.join(found)}; {HINT}")
    return found[0] if found else None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W\d_]+", name.lower()) if word in WORDS]


def _configured(
    folder: pathlib.Path, names: list[PurePosixPath], config: str | None
) -> dict[PurePosixPath, str | None] | None:
    """The split of each file of a configuration that README.md describes, as on the hub."""
    found = _configurations(folder / "README.md") if PurePosixPath("README.md") in names else {}
    place = f"hub:{folder}"
    if not found:
        if config is not None:
            raise ValueError(f"{place}: config: its README.md describes none, got {config!r}")
        return None
    default = [name for name, each in found.items() if each.get("default")] or [
        name for name in found if name == "default" or len(found) == 1
    ]
    if config is not None or not default:
        require_choice(config, tuple(found), f"{place}: config")
    splits: dict[PurePosixPath, str | None] = {}
    for split, patterns in _patterns(found[config or default[0]], place).items():
        for pattern in patterns:
            inside(folder, pattern)
            paths = glob.glob(pattern, root_dir=folder, recursive=True)
            if not paths:
                raise ValueError(f"{place}: README.md names {pattern!r}, which is not there")
            for path in paths:
                name = PurePosixPath(os.path.normpath(path))
                if splits.setdefault(name, split) != split:
                    raise ValueError(f"{place}: README.md puts {name} into two splits")
    return splits


def _configurations(readme: pathlib.Path) -> dict[str, dict[str, Any]]:
    match = re.match(r"\ufeff?---\s*\n(.*?\n)---", readme.read_text("utf-8", "replace"), re.DOTALL)
    try:
        head = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise ValueError(f"{readme}: its head is not YAML: {error}") from error
    configs = head.get("configs") if isinstance(head, dict) else None
    if not isinstance(configs, list) or not all(isinstance(each, dict) for each in configs):
        return {}
    return {str(each.get("config_name", "default")): each for each in configs}


def _patterns(config: Mapping[str, Any], place: str) -> dict[str, list[str]]:
    """Patterns of files by split."""
    files = config.get("data_files", f"{config.get('data_dir', '.')}/**")
    entries = files if isinstance(files, list) else [files]
    found: dict[str, list[str]] = {}
    for each in entries:
        each = {"split": "train", "path": each} if isinstance(each, str) else each
        paths = each.get("path") if isinstance(each, dict) else None
        paths = [paths] if isinstance(paths, str) else paths
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"{place}: README.md: expected data_files as split and path: {each!r}")
        found.setdefault(str(each.get("split", "train")), []).extend(paths)
    return found


# rows


def _tables(
    folder: pathlib.Path, splits: Mapping[PurePosixPath, str | None], reading: Reading
) -> list[Part]:
    """The rows of tables: those of text files in one table, so that their types agree."""
    parts: list[Part] = []
    rows: list[Row] = []
    delimited: list[Row] = []
    owners: dict[int, str | None] = {}
    for name, split in splits.items():
        path, suffix = folder / name, name.suffix.lower()
        if suffix in STORED:
            try:
                part = stored(path, reading)
                places = [f"{path}, row {i + 1}" for i in range(part.num_rows)]
                parts.append((split, part, places))
            except Problem as problem:
                reading.refuse(str(path), problem)
            continue
        found = rows_of(path, reading)
        rows += found
        delimited += found if suffix in SEPARATORS else []
        owners |= {id(row): split for row in found}
    take_numbers(delimited)
    kept, table = table_of(rows, reading)
    splits_of = [owners[id(row)] for row in kept]
    return parts + _by_split(datasets.Dataset(InMemoryTable(table)), splits_of, kept)


def _by_split(
    whole: datasets.Dataset, splits: list[str | None], rows: Sequence[Row] | None
) -> list[Part]:
    parts: list[Part] = []
    for split in dict.fromkeys(splits):
        chosen = [i for i, each in enumerate(splits) if each == split]
        places = [getattr(rows[i], "place", f"row {i + 1}") for i in chosen] if rows else None
        parts.append((split, whole.select(chosen), places))
    return parts


def _media(
    folder: pathlib.Path,
    chosen: list[PurePosixPath],
    kind: str,
    said: Mapping[PurePosixPath, str | None] | None,
    reading: Reading,
) -> list[Part]:
    """Files with the class that their folder names, or with their row of a metadata table."""
    files = [name for name in chosen if name.suffix.lower() in MEDIA[kind]]
    tables = [name for name in chosen if name not in files]
    by_name = said is None and all(_words(name.stem) for name in files)
    splits = {name: said[name] for name in files} if said is not None else {}
    splits = splits or _splits(folder, files, reading, by_name=by_name)
    if tables:
        rows = _described(folder, tables, list(splits), kind, reading)
    else:
        rows = [Placed({"file": name}, str(folder / name)) for name in splits]
    names = [row.pop("file") for row in rows]
    features: dict[str, Any] = {
        "image": datasets.Image(),
        "audio": datasets.Audio(decode=False),
        "video": datasets.Video(decode=False),
    }
    owners = dict(zip(map(id, rows), names, strict=True))
    labels = {} if tables else _labels(folder, splits, reading)
    rows = [row for row in rows if not labels or owners[id(row)] in labels]
    kept, table = table_of(rows, reading)
    names = [owners[id(row)] for row in kept]
    cells = [{"bytes": None, "path": str(folder / name)} for name in names]
    columns = {kind: pa.array(cells, CELL)}
    known = datasets.Features({kind: features[kind]})
    if labels:
        classes = sorted({label for label in labels.values() if label is not None})
        known["label"] = datasets.ClassLabel(names=classes)
        numbers = [classes.index(label) if label else -1 for label in map(labels.get, names)]
        columns["label"] = pa.array(numbers, pa.int64())
    columns |= dict(zip(table.column_names, table.columns, strict=True))
    known |= datasets.Features.from_arrow_schema(table.schema)
    info = datasets.DatasetInfo(features=known)
    whole = datasets.Dataset(InMemoryTable(pa.table(columns)), info=info)
    return _by_split(whole, [splits[name] for name in names], kept if tables else None)


def _described(
    folder: pathlib.Path,
    tables: list[PurePosixPath],
    files: list[PurePosixPath],
    kind: str,
    reading: Reading,
) -> list[Row]:
    """The rows of metadata files, each with the file that it is about."""
    known, described = set(files), set()

    def describe(item: tuple[PurePosixPath, Row]) -> Row:
        table, row = item
        name = row.get("file_name")
        if not isinstance(name, str):
            raise Problem(f"expected a column file_name with a text, got {name!r:.60}")
        if kind in row:
            raise Problem(f"a column {kind!r} is there already")
        inside(folder, table.parent / name)
        file = PurePosixPath(os.path.normpath(table.parent / name))
        if file not in known:
            raise Problem(f"no {kind} {folder / file}")
        described.add(file)
        return {"file": file, **{key: value for key, value in row.items() if key != "file_name"}}

    rows: list[Row] = []
    delimited: list[Row] = []
    for table in tables:
        found = rows_of(folder / table, reading)
        items = ((getattr(row, "place", str(table)), (table, row)) for row in found)
        made = reading.sift(items, describe)
        rows += made
        delimited += made if table.suffix.lower() in SEPARATORS else []
    for file in files:
        if file not in described:
            reading.refuse(str(folder / file), "no row of metadata names it")
    take_numbers(delimited)
    return rows


def _labels(
    folder: pathlib.Path, splits: dict[PurePosixPath, str | None], reading: Reading
) -> dict[PurePosixPath, str | None]:
    """The class of each file: the folders on its way, without its split's and the shared ones.

    Empty if there are no classes. If a whole split has none, they are withheld (None).
    """
    ways = {name: _way(name, splits[name]) for name in splits}
    if not ways:
        return {}
    steps = enumerate(zip(*ways.values(), strict=False))
    shared = next((i for i, step in steps if len(set(step)) > 1), min(map(len, ways.values())))
    classes = {name: "/".join(way[shared:]) for name, way in ways.items()}
    for split in set(splits.values()):
        part = {name: classes[name] for name in classes if splits[name] == split}
        unsaid = [name for name, label in part.items() if not label]
        for name in unsaid if len(unsaid) < len(part) else ():
            reading.refuse(str(folder / name), "it lies in no folder of a class, as others do")
            del classes[name]
    return {name: label or None for name, label in classes.items()} if any(classes.values()) else {}


def _way(name: PurePosixPath, split: str | None) -> tuple[str, ...]:
    """The folders on the way to a file, without the one that names its split."""
    folders = name.parts[:-1]
    for i, folder in enumerate(folders if split else ()):
        if split in [WORDS[word] for word in _words(folder)]:
            return folders[:i] + folders[i + 1 :]
    return folders
