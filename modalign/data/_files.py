"""The common part of the loaders: files, bad rows, and how rows become a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
from datasets.table import InMemoryTable

from modalign._checks import require_choice

SPLITS = ("train", "validation", "test")
VARIABLE = "MODALIGN_DATA"
T = TypeVar("T")
R = TypeVar("R")
Row = dict[str, Any]
NESTING = 100  # of lists and objects in JSON
# the errors of pyarrow for a value that does not fit
ARROW_REFUSES = (pa.ArrowException, OverflowError, TypeError, ValueError)


class Placed(dict[str, Any]):
    """A row that knows its place, such as "captions.txt, row 3"."""

    def __init__(self, row: Row, place: str) -> None:
        super().__init__(row)
        self.place = place


class Problem(ValueError):
    """The fault of a row, raised by a loader's parser; `Reading.sift` adds the place."""


class BadRow(ValueError):
    """A row or file that cannot be used; the message names the set, the file and the row."""


class SkippedRows(UserWarning):
    """Rows left out because the caller asked ``on_bad="skip"``; ``rows`` says why, for each."""

    def __init__(self, name: str, rows: list[str], kept: int) -> None:
        self.rows = tuple(rows)
        shown = "".join(f"\n  {row}" for row in rows[:5])
        more = f"\n  and {len(rows) - 5} more" if len(rows) > 5 else ""
        super().__init__(f"{name}: skipped {len(rows)} bad rows, kept {kept} rows{shown}{more}")


@dataclasses.dataclass(frozen=True)
class Source:
    """One data set: its content, its origin, and how it is read.

    Attributes:
        name: what ``load`` calls it.
        holds: one line on its content.
        splits: the splits it has; empty if it has none.
        origin: where it comes from.
        terms: its licence or conditions.
        read: the loader; takes a `Reading`, and options of its own as keywords.
        embedded: whether it comes with the book.
        folder: its folder under ``MODALIGN_DATA``; None if it needs none.
        layout: the files that are expected in that folder.
        checksums: SHA-256 of its small official files, by path in the folder.
        needs: paths in that folder without which nothing can be read.
        split_files: the file of each split, if each has its own.
    """

    name: str
    holds: str
    splits: tuple[str, ...]
    origin: str
    terms: str
    read: Callable[..., datasets.Dataset]
    embedded: bool = False
    folder: str | None = None
    layout: str = ""
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    split_files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def how_to_get(self) -> str:
        """Say what to download, from where, under which terms, and where to put it."""
        if self.embedded:
            return f"{self.name} needs no download."
        if self.folder is None:
            return self.layout
        return (
            f"Get it from {self.origin} (terms: {self.terms}), put it so that a folder "
            f"{self.folder}/ holds {self.layout}, and set {VARIABLE} to the folder above "
            f"{self.folder}/, or pass folder= with the path of {self.folder}/ itself."
        )

    def find(self, folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
        """The folder of the set's files.

        Raises:
            FileNotFoundError: if none is named, or the named one does not exist; says how to
                get the files.
        """
        root = os.environ.get(VARIABLE)
        if folder is None and not root:
            raise FileNotFoundError(
                f"{self.name}: its files do not come with the book and the environment variable "
                f"{VARIABLE} is not set. {self.how_to_get()}"
            )
        path = pathlib.Path(folder if folder is not None else root or "").expanduser()
        path = path if folder is not None else path / (self.folder or "")
        if not os.path.isdir(path):
            raise FileNotFoundError(f"{self.name}: no folder {path}. {self.how_to_get()}")
        return path


def inside(folder: pathlib.Path, name: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file that a data set names, which must lie in the set's folder.

    Data sets come from elsewhere. Without this, a row that names ``../../secret.png``, or a link
    to it, would show one of the reader's private files.

    Raises:
        Problem: for a path that leads out of the folder, by its name or by a link, and for a name
            that no file can have.

    >>> inside(pathlib.Path("pictures"), "cat/0.png").as_posix()
    'pictures/cat/0.png'
    >>> inside(pathlib.Path("pictures"), "../secret.png")
    Traceback (most recent call last):
    ...
    modalign.data._files.Problem: '../secret.png' leads out of the folder pictures, and is not read
    """
    path = folder / name
    try:
        root, real = os.path.realpath(folder), os.path.realpath(path)
        within = os.path.commonpath([root, real]) == root
    except (OSError, ValueError, RuntimeError) as error:
        raise Problem(f"{os.fspath(name)!r:.80} is not the name of a file: {error}") from error
    if not within:
        raise Problem(f"{os.fspath(name)!r:.200} leads out of the folder {folder}, and is not read")
    return path


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a text file, each with its place; a final newline ends the last one.

    >>> import tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "captions.txt")
    >>> _ = file.write_bytes(b"one\\r\\ntwo")
    >>> [(place.removeprefix(str(file)), line) for place, line in numbered_lines(file)]
    [(', row 1', b'one'), (', row 2', b'two')]
    """
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        yield f"{path}, row {number}", line.removesuffix(b"\r")


def decoded(line: bytes) -> str:
    """The text of a line in UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(f"expected UTF-8, got {line[:40]!r}") from error


def fields(line: bytes, names: tuple[str, ...]) -> list[str]:
    """Split a line at its tabs.

    >>> fields(b"a.jpg#0\\tA dog .", ("image#number", "caption"))
    ['a.jpg#0', 'A dog .']
    """
    parts = decoded(line).split("\t")
    if len(parts) != len(names):
        expected = " TAB ".join(names)
        raise Problem(f"expected {expected}, got {len(parts)} fields: {line.decode()[:60]!r}")
    return parts


def loads(text: str) -> Any:
    """Read JSON, and refuse values that would be lost, or would fail later, far from their row.

    Refused are a key given twice, a whole number of more than 64 bits, a number beyond float64,
    half of a surrogate pair, and lists in lists a hundred deep. ``NaN`` and ``Infinity`` are read.

    >>> loads('{"id": 7, "weights": [0.5, 1]}')
    {'id': 7, 'weights': [0.5, 1]}
    """
    if text.count("[") + text.count("{") > NESTING and _depth(text) > NESTING:
        raise Problem(f"expected at most {NESTING} lists or objects within each other")
    try:
        text.encode()
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_whole_number, parse_float=_number
        )
    except json.JSONDecodeError as error:
        raise Problem(f"expected a JSON object, got {text[:60]!r}: {error}") from error
    except UnicodeEncodeError as error:
        raise Problem(f"expected UTF-8, got {text[:60]!a}") from error
    if "\\u" in text and any(0xD800 <= ord(c) <= 0xDFFF for c in _texts(value)):
        raise Problem("expected text, got a lone surrogate (half of a character)")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Problem(f"duplicate: the key {twice!r:.60} is given twice")
    return found


def _whole_number(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise Problem(
            f"expected a whole number of at most 64 bits (a longer one goes in quotes, as a text), "
            f"got {text[:40]} of {len(text)} characters"
        )
    return int(text)


def _number(text: str) -> float:
    if math.isinf(float(text)):
        raise Problem(f"expected a number within float64, got {text[:40]}")
    return float(text)


def _depth(text: str) -> int:
    """How many lists and objects are open at most; brackets in texts do not count."""
    return max(depth for _, depth in _marks(text))


def _marks(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """The brackets and commas of JSON, without those in texts, and how many brackets are open."""
    depth = 0
    for match in re.finditer(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', text):
        depth += (match[0] in "[{") - (match[0] in "]}")
        if not match[0].startswith('"'):
            yield match, depth


def _texts(value: Any) -> str:
    """All text of a JSON value, keys included."""
    if isinstance(value, dict):
        return "".join(_texts(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return value if isinstance(value, str) else ""


def json_list(path: pathlib.Path) -> list[tuple[str, str]]:
    """The items of a file that is one JSON list, each with its place; each is parsed alone.

    >>> import tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "rows.json")
    >>> _ = file.write_text('[{"a": [1, 2]}, {}]')
    >>> [item for _, item in json_list(file)]
    ['{"a": [1, 2]}', '{}']
    """
    # a byte that is not UTF-8 becomes a surrogate here, for which its item is refused
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff").strip()
    marks = [match for match, depth in _marks(text) if depth == (match[0] not in "]}")]
    whole = len(marks) > 1 and marks[0].start() == 0 and marks[-1].end() == len(text)
    if not whole or marks[0][0] + marks[-1][0] != "[]":
        raise Problem(f"expected a JSON list, got {text[:20]!a} to {text[-20:]!a}")
    items = [text[a.end() : b.start()].strip() for a, b in itertools.pairwise(marks)]
    return [(f"{path}, row {i}", item) for i, item in enumerate(items, 1) if items != [""]]


def json_object(line: bytes, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Read a line of JSON that must hold these keys, with values of these types.

    >>> json_object(b'{"sentence": "There is a circle.", "label": "true"}', {"sentence": str})
    {'sentence': 'There is a circle.', 'label': 'true'}
    """
    return typed(loads(decoded(line)), types)


def typed(value: Any, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Refuse anything but a dictionary with these keys, and values of these types."""
    if not isinstance(value, dict):
        raise Problem(f"expected a JSON object, got {value!r:.60}")
    for key, kind in types.items():
        if key not in value:
            raise Problem(f"expected a key {key!r}, got {', '.join(map(repr, value))}")
        if not isinstance(value[key], kind) or isinstance(value[key], bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            expected = " or ".join(each.__name__ for each in kinds)
            raise Problem(f"{key}: expected {expected}, got {value[key]!r:.60}")
    return value


def sentence(text: str, what: str) -> str:
    """A text without space around it; an empty one is refused."""
    if not text.strip():
        raise Problem(f"expected a {what}, got an empty one")
    return text.strip()


class Once:
    """Refuses keys that were seen before.

    >>> once = Once("caption")
    >>> once("a.jpg#0")
    'a.jpg#0'
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.seen: set[object] = set()

    def __call__(self, key: T) -> T:
        if key in self.seen:
            raise Problem(f"duplicate: {self.what} {key!r} came before")
        self.seen.add(key)
        return key


class Reading:
    """One call of ``load``: its arguments, and the bad rows met on the way."""

    def __init__(
        self,
        source: Source,
        split: str | None,
        *,
        folder: str | os.PathLike[str] | None = None,
        on_bad: str = "raise",
        verify: bool = True,
        checksums: bool = False,
    ) -> None:
        require_choice(on_bad, ("raise", "skip"), "on_bad")
        self.source, self.split, self.on_bad, self.verify = source, split, on_bad, verify
        if source.folder is None and folder is not None:
            raise ValueError(f"{source.name}: folder: the set reads no folder, got {str(folder)!r}")
        self.folder = None if source.folder is None else source.find(folder)
        self.bad: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[Warning] = []
        self._sound: dict[pathlib.Path, str] = {}
        if checksums:
            self.verify_checksums()

    def require_files(self) -> None:
        """Refuse a set whose folder lacks a file that every row needs; nothing is read."""
        for name in self.source.needs:
            self.existing(name)
        if self.source.split_files:
            self.split_files()

    def verify_checksums(self) -> None:
        """Compare the small official files that are present with their recorded SHA-256."""
        present = [name for name in self.source.checksums if self.path(name).exists()]
        if not present:
            raise ValueError(
                f"{self.source.name}: checksums: no checksum is recorded for its files"
            )
        for name in present:
            found = hashlib.sha256(self.path(name).read_bytes()).hexdigest()
            if found != self.source.checksums[name]:
                raise ValueError(
                    f"{self.source.name}: {self.path(name)} is not the official file: expected "
                    f"SHA-256 {self.source.checksums[name]}, got {found}"
                )

    def path(self, name: str) -> pathlib.Path:
        """A path in the set's folder, whether or not it exists; one that leaves it is refused."""
        assert self.folder is not None, f"{self.source.name} is embedded"
        return inside(self.folder, name)

    def within(self, path: pathlib.Path) -> str:
        """The name of a path within the set's folder; `path` is its inverse."""
        return path.relative_to(self.path(".")).as_posix()

    def existing(self, name: str) -> pathlib.Path:
        """A path in the set's folder; an error that says how to get it if it is missing."""
        if not self.path(name).exists():
            raise FileNotFoundError(
                f"{self.source.name}: no {self.path(name)}. {self.source.how_to_get()}"
            )
        return self.path(name)

    def wanted(self, split: str | None) -> bool:
        """Whether rows of this split were asked for."""
        return self.split is None or self.split == split

    def split_files(self) -> dict[str, pathlib.Path]:
        """The file of each wanted split.

        If all splits were asked for, those without a file are named in a warning; a split
        asked for by name must be there.
        """
        names = self.source.split_files
        if self.split is not None:
            return {self.split: self.existing(names[self.split])}
        present = {split: self.path(name) for split, name in names.items()}
        missing = [split for split, path in present.items() if not path.exists()]
        if len(missing) == len(names):
            self.existing(next(iter(names.values())))
        if missing:
            absent = ", ".join(f"{split} ({present[split]})" for split in missing)
            self.remark(f"these splits have no file here: {absent}")
        return {split: path for split, path in present.items() if path.exists()}

    def sift(self, items: Iterable[tuple[str, T]], make: Callable[[T], R]) -> list[R]:
        """Make a row of each item; one that cannot be made raises, or is kept for the report."""
        rows = []
        for place, item in items:
            try:
                made = make(item)
            except Problem as problem:
                self.refuse(place, problem)
            else:
                rows.append(cast(R, Placed(made, place)) if isinstance(made, dict) else made)
        return rows

    def refuse(self, place: str, problem: object) -> None:
        """Raise for a bad row, or count it if the caller asked to skip."""
        if self.on_bad == "raise":
            cause = problem if isinstance(problem, Problem) else None
            hint = " (on_bad='skip' leaves such rows out and reports them)"
            raise BadRow(f"{self.source.name}: {place}: {problem}{hint}") from cause
        self.bad.append(f"{place}: {problem}")

    def remark(self, note: str) -> None:
        """Say in a warning, and in the data set's description, what the caller should know."""
        self.notes.append(note)
        self.warnings.append(UserWarning(f"{self.source.name}: {note}"))

    def checked_once(self, path: pathlib.Path, check: Callable[[pathlib.Path], None]) -> None:
        """Check a file that several rows may share, decoding it at most once."""
        if path not in self._sound:
            self._sound[path] = ""
            try:
                check(path)
            except Problem as problem:
                self._sound[path] = str(problem)
        if self._sound[path]:
            raise Problem(self._sound[path])

    def cell(
        self,
        name: str,
        what: str,
        check: Callable[[pathlib.Path], None],
        folder: pathlib.Path | None = None,
    ) -> Row:
        """The cell of a picture or sound, a file of the set's folder or of another one.

        It is decoded once, to see that it is whole.
        """
        path = self.path(name) if folder is None else inside(folder, name)
        if not os.path.isfile(path):
            raise Problem(f"no {what} {path}")
        if self.verify:
            self.checked_once(path, check)
        return {"path": str(path), "bytes": None}

    def image(self, name: str, folder: pathlib.Path | None = None) -> Row:
        """The cell of an image file."""
        return self.cell(name, "image", check_image, folder)

    def report(self, kept: int) -> None:
        """Report the skipped rows; refuse an empty result."""
        name = self.source.name
        if not kept:
            skipped = f"; skipped: {self.bad[0]}" if self.bad else ""
            what = "it" if self.split is None else f"split {self.split!r}"
            raise ValueError(f"{name}: {what} has no row{skipped}")
        if self.bad:
            self.warnings.append(SkippedRows(name, self.bad, kept))
            self.notes.append(f"{len(self.bad)} bad rows were skipped")

    def table(self, rows: list[Row], features: datasets.Features) -> datasets.Dataset:
        """The data set of the rows, with the report of the rows left out.

        A value that does not fit its column is a bad row like any other.
        """
        try:
            arrow_table(rows, features)
        except Problem:
            places = ((getattr(row, "place", f"row {i}"), row) for i, row in enumerate(rows, 1))
            rows = self.sift(places, lambda row: _fitting(row, features))
        self.report(len(rows))
        info = datasets.DatasetInfo(
            description=". ".join([self.source.holds, *self.notes]),
            homepage=self.source.origin,
            license=self.source.terms,
            features=features,
        )
        return dataset_of(rows, features, info=info, split=self.split)


def _fitting(row: Row, features: datasets.Features) -> Row:
    """The row, each of whose values fits its column."""
    for name, feature in features.items():
        try:
            arrow_table([{name: row.get(name)}], datasets.Features({name: feature}))
        except Problem as problem:
            raise Problem(f"{name}: {row.get(name)!r:.60} does not fit: {problem}") from problem
    return row


def arrow_table(rows: Sequence[Row], features: datasets.Features) -> InMemoryTable:
    """The rows in Arrow; a number beyond the type of its column would be infinite there.

    Raises:
        Problem: for a value that does not fit its column.
    """
    try:
        table = InMemoryTable.from_pylist(rows, schema=features.arrow_schema)
    except ARROW_REFUSES as error:
        raise Problem(str(error)) from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not np.isfinite(_floats(column.combine_chunks())).all():
            raise Problem(f"not finite as {features[name]}")
    return table


def _floats(array: pa.Array) -> np.ndarray:
    """All floating-point numbers of a column, however deep, without the missing ones."""
    if pa.types.is_struct(array.type):
        return np.concatenate([np.empty(0), *map(_floats, array.flatten())])
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return _floats(array.flatten())
    if not pa.types.is_floating(array.type):
        return np.empty(0)
    return array.drop_null().to_numpy(zero_copy_only=False)


def dataset_of(
    rows: Sequence[Row],
    features: datasets.Features,
    *,
    info: datasets.DatasetInfo | None = None,
    split: str | None = None,
) -> datasets.Dataset:
    """Rows whose pictures and sounds are cells already, as a data set.

    They go straight to Arrow: `datasets` would encode a sound, for which it asks for torchcodec.
    """
    info = info or datasets.DatasetInfo(features=features)
    cells = arrow_table(rows, features)
    return datasets.Dataset(cells, info=info, split=split and datasets.NamedSplit(split))


def require_split(split: object, available: Collection[str], name: str) -> None:
    """Refuse a split that the set does not have, naming the closest that it has.

    >>> require_split("val", SPLITS, "esc10")
    Traceback (most recent call last):
    ...
    ValueError: esc10: split: expected one of train, validation, test, got 'val'; did you mean 'validation'?
    """  # noqa: E501
    if split is None or split in available:
        return
    short = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test"}
    close = short.get(str(split))
    if close in available:
        choices = ", ".join(available)
        raise ValueError(
            f"{name}: split: expected one of {choices}, got {split!r}; did you mean {close!r}?"
        )
    require_choice(split, tuple(available), f"{name}: split")


def check_image(path: pathlib.Path) -> None:
    """Refuse an image file that does not decode to its end."""
    check_picture(path.read_bytes(), str(path))


def check_picture(content: bytes, name: str) -> None:
    """Refuse an encoded image that does not decode to its end."""
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            # a JPEG is read to its end at an eighth of its size, several times faster
            image.draft("L", (1, 1))
            image.load()
    # damaged bytes make the decoders raise nearly anything
    except Exception as error:
        raise Problem(f"{name} is truncated or not an image: {error}") from error
