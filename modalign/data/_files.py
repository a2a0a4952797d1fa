"""What the loaders share: where files lie, what a bad row is, and how rows become a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import datasets
import PIL.Image
from datasets.table import InMemoryTable

from modalign._checks import require_choice

SPLITS = ("train", "validation", "test")
VARIABLE = "MODALIGN_DATA"
T = TypeVar("T")
R = TypeVar("R")
Row = dict[str, Any]


class Problem(ValueError):
    """What is wrong with a row, raised by a loader's parser; `Reading.sift` adds the place."""


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
    """One data set: what it is, whose, and how it is read.

    Attributes:
        name: what ``load`` calls it.
        holds: one line on its content.
        splits: the splits it has; empty where it has none.
        origin: where it comes from.
        terms: its licence or conditions.
        read: the loader; takes a `Reading`, and options of its own as keywords.
        embedded: whether it comes with the book.
        folder: its folder under ``MODALIGN_DATA``; None where it needs none.
        layout: the files that are expected in that folder.
        checksums: SHA-256 of its small official files, by path in the folder.
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
            FileNotFoundError: where none is named, or the named one does not exist; says how to
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
        if not path.is_dir():
            raise FileNotFoundError(f"{self.name}: no folder {path}. {self.how_to_get()}")
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


def json_object(line: bytes, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Read a line of JSON that must hold these keys, with values of these types.

    >>> json_object(b'{"sentence": "There is a circle.", "label": "true"}', {"sentence": str})
    {'sentence': 'There is a circle.', 'label': 'true'}
    """
    try:
        value = json.loads(decoded(line))
    except json.JSONDecodeError as error:
        raise Problem(f"expected a JSON object, got {line[:60]!r}: {error}") from error
    return typed(value, types)


def typed(value: Any, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Refuse what is not a dictionary with these keys, and values of these types."""
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
    """Refuses what was seen before.

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
    """One call of ``load``: what was asked for, and the bad rows met on the way."""

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
            raise ValueError(f"{source.name}: folder: it reads no folder, got {str(folder)!r}")
        self.folder = None if source.folder is None else source.find(folder)
        self.bad: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[Warning] = []
        self._sound: dict[pathlib.Path, str] = {}
        if checksums:
            self.verify_checksums()

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
        """A path in the set's folder, whether or not it exists."""
        assert self.folder is not None, f"{self.source.name} is embedded"
        return self.folder / name

    def existing(self, name: str) -> pathlib.Path:
        """A path in the set's folder; an error that says how to get it where it is missing."""
        if not self.path(name).exists():
            raise FileNotFoundError(
                f"{self.source.name}: no {self.path(name)}. {self.source.how_to_get()}"
            )
        return self.path(name)

    def wanted(self, split: str | None) -> bool:
        """Whether rows of this split were asked for."""
        return self.split is None or self.split == split

    def split_files(self, names: Mapping[str, str]) -> dict[str, pathlib.Path]:
        """The file of each wanted split.

        Where all splits were asked for, those without a file are named in a warning; a split
        asked for by name must be there.
        """
        if self.split is not None:
            return {self.split: self.existing(names[self.split])}
        present = {split: self.path(name) for split, name in names.items()}
        missing = [split for split, path in present.items() if not path.exists()]
        if len(missing) == len(names):
            self.existing(next(iter(names.values())))
        if missing:
            absent = ", ".join(f"{split} ({present[split]})" for split in missing)
            self.notes.append(f"these splits have no file here: {absent}")
            self.warnings.append(UserWarning(f"{self.source.name}: {self.notes[-1]}"))
        return {split: path for split, path in present.items() if path.exists()}

    def sift(self, items: Iterable[tuple[str, T]], make: Callable[[T], R]) -> list[R]:
        """Make a row of each item; one that cannot be made raises, or is kept for the report."""
        rows = []
        for place, item in items:
            try:
                rows.append(make(item))
            except Problem as problem:
                self.refuse(place, problem)
        return rows

    def refuse(self, place: str, problem: object) -> None:
        """Raise for a bad row, or count it where the caller asked to skip."""
        if self.on_bad == "raise":
            cause = problem if isinstance(problem, Problem) else None
            hint = " (on_bad='skip' leaves such rows out and reports them)"
            raise BadRow(f"{self.source.name}: {place}: {problem}{hint}") from cause
        self.bad.append(f"{place}: {problem}")

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

    def image(self, path: pathlib.Path) -> Row:
        """The cell of an image file, which is decoded once to see that it is whole."""
        if not path.is_file():
            raise Problem(f"no image {path}")
        if self.verify:
            self.checked_once(path, check_image)
        return {"path": str(path), "bytes": None}

    def report(self, kept: int) -> None:
        """Say what was skipped; refuse to return nothing."""
        name = self.source.name
        if not kept:
            skipped = f"; skipped: {self.bad[0]}" if self.bad else ""
            raise ValueError(f"{name}: split {self.split!r} has no row{skipped}")
        if self.bad:
            self.warnings.append(SkippedRows(name, self.bad, kept))
            self.notes.append(f"{len(self.bad)} bad rows were skipped")

    def table(self, rows: list[Row], features: datasets.Features) -> datasets.Dataset:
        """The data set of the rows, with the report of what was left out."""
        self.report(len(rows))
        info = datasets.DatasetInfo(
            description=". ".join([self.source.holds, *self.notes]),
            homepage=self.source.origin,
            license=self.source.terms,
            features=features,
        )
        return dataset_of(rows, features, info=info, split=self.split)


def dataset_of(
    rows: list[Row],
    features: datasets.Features,
    *,
    info: datasets.DatasetInfo | None = None,
    split: str | None = None,
) -> datasets.Dataset:
    """Rows whose pictures and sounds are cells already, as a data set.

    They go straight to Arrow: `datasets` would encode a sound, for which it asks for torchcodec.
    """
    cells = InMemoryTable.from_pylist(rows, schema=features.arrow_schema)
    info = info or datasets.DatasetInfo(features=features)
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
    broken = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError)
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            # a JPEG is read to its end at an eighth of its size, several times faster
            image.draft("L", (1, 1))
            image.load()
    except broken as error:
        raise Problem(f"{name} is truncated or not an image: {error}") from error
