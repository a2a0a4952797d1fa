"""Tables of rows: CSV, TSV, JSON, JSON lines, lines of text, Parquet and Arrow.

`datasets` guesses types: 007 becomes 7, NA a missing value, a date a time, and one odd value ends
the load. Here a text stays as it is, a type is used only if nothing is lost by it, and the error
for a bad row names its place.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
from datasets.table import InMemoryTable

from modalign.data._files import (
    ARROW_REFUSES,
    Placed,
    Problem,
    Reading,
    Row,
    decoded,
    json_list,
    loads,
    numbered_lines,
)

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON = (".json", ".jsonl", ".ndjson")
STORED = (".parquet", ".arrow")
Fields = list[str | None]
LINE_END = re.compile(r"\r\n|\r|\n|\Z")


def rows_of(path: pathlib.Path, reading: Reading) -> list[Row]:
    """The rows of a table, each with its place; the bad ones are refused."""
    suffix = path.suffix.lower()
    try:
        if suffix in SEPARATORS:
            return reading.sift(*delimited(path, SEPARATORS[suffix]))
        if suffix in JSON:
            return reading.sift(_json_rows(path), _record)
        if suffix in STORED:
            rows = enumerate(stored(path, reading).to_list(), 1)
            return [Placed(row, f"{path}, row {i}") for i, row in rows]
        lines = numbered_lines(path) if path.stat().st_size else iter(())
        return reading.sift(lines, lambda line: {"text": decoded(line)})
    except Problem as problem:
        reading.refuse(str(path), problem)
        return []


def delimited(
    path: pathlib.Path, separator: str
) -> tuple[Iterator[tuple[str, Fields | Problem]], Callable[[Fields | Problem], Row]]:
    """The rows below the header with their places, and a function that makes a row of one."""
    # a byte that is not UTF-8 becomes a surrogate here, for which its row is refused
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = csv_rows(text.rstrip("\r\n"), separator)
    _, header = next(lines, (1, Problem("expected a header, the file is empty")))
    if isinstance(header, Problem):
        raise Problem(f"row 1: {header}")
    # pandas writes the numbers of rows without a name
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    _require_utf8("".join(names))
    for name, count in Counter(names).items():
        if count > 1:
            raise Problem(f"row 1: {count} columns are named {name!r}")

    def make(fields: Fields | Problem) -> Row:
        if isinstance(fields, Problem):
            raise fields
        _require_utf8("".join(filter(None, fields)))
        if len(fields) != len(names):
            raise Problem(f"expected {len(names)} fields as in the header, got {len(fields)}")
        return dict(zip(names, fields, strict=True))

    # an empty line is a row only if a row has one field
    rows = (each for each in lines if each[1] != [None] or len(names) == 1)
    return ((f"{path}, row {line}", fields) for line, fields in rows), make


def _require_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.start + 20].encode(errors="surrogateescape")
        raise Problem(f"expected UTF-8, got {around!r}") from error


def csv_rows(text: str, separator: str) -> Iterator[tuple[int, Fields | Problem]]:
    """Rows of CSV with the line each begins on; None is an empty field without quotes.

    >>> list(csv_rows('id,text\\n007,"a ""b"", c"\\n008,\\n009,""', ","))
    [(1, ['id', 'text']), (2, ['007', 'a "b", c']), (3, ['008', None]), (4, ['009', ''])]
    """
    field = re.compile(
        rf'(?:"([^"]*(?:""[^"]*)*)"|((?!")[^{separator}\r\n]*))({separator}|{LINE_END.pattern})'
    )
    line = start = 0
    while start < len(text):
        fields: Fields = []
        end = start
        while match := field.match(text, end):
            quoted, plain, mark = match.groups()
            fields.append(quoted.replace('""', '"') if quoted is not None else plain or None)
            end = match.end()
            if mark != separator:
                yield line + 1, fields
                break
        else:
            whole = next(LINE_END.finditer(text, start))
            end, cut = whole.end(), text[start : min(whole.start(), start + 60)]
            yield line + 1, Problem(f"a quote is not closed, or closed too early: {cut!r}")
        line += sum(1 for found in LINE_END.finditer(text, start, end) if found[0])
        start = end


def _json_rows(path: pathlib.Path) -> list[tuple[str, str]]:
    """Rows of a list in JSON, or of JSON lines."""
    lines = [(place, line) for place, line in numbered_lines(path) if line.strip()]
    if path.suffix.lower() == ".json" and lines and lines[0][1].lstrip().startswith(b"["):
        return json_list(path)
    return [(place, line.decode("utf-8", "surrogateescape")) for place, line in lines]


def _record(text: str) -> Row:
    value = loads(text)
    if not isinstance(value, dict) or not value:
        raise Problem(f"expected a JSON object with keys, got {value!r:.60}")
    return value


def take_numbers(rows: Sequence[Row]) -> None:
    """Make numbers of the columns of CSV files whose every field is one, as Python writes it.

    007, 1e5, +1, 0.50 and a number of 30 digits are texts, and so is a whole column with one of
    them: as numbers they could not be written back as they stood.

    >>> rows = [{"id": "007", "size": "12"}, {"id": "12", "size": None}]
    >>> take_numbers(rows)
    >>> rows
    [{'id': '007', 'size': 12}, {'id': '12', 'size': None}]
    """
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        with contextlib.suppress(ValueError, TypeError):
            numbers = [None if value is None else _number(value) for value in values]
            for row, number in zip(rows, numbers, strict=True):
                row.update({name: number} if name in row else {})


def _number(text: str) -> int | float:
    """The number that is written so; a ValueError if it would be written otherwise."""
    if not re.fullmatch(r"-?[0-9]{1,19}(\.[0-9]{1,20})?", text):
        raise ValueError(text)
    number = float(text) if "." in text else int(text)
    if str(number) != text or not -(2**63) <= number < 2**63:
        raise ValueError(text)
    return number


def table_of(rows: Sequence[Row], reading: Reading) -> tuple[list[Row], pa.Table]:
    """Rows as Arrow, each column of the type that most of its values have.

    A value of another type makes its row a bad one.

    Returns:
        The rows that are kept, and their table.
    """
    columns: dict[str, pa.Array] = {}
    odd: dict[int, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _array(values)
        except ARROW_REFUSES:
            for i, problem in _odd(values).items():
                odd.setdefault(i, f"{name}: {problem}")
    kept = list(rows)
    if odd:
        for i, problem in sorted(odd.items()):
            reading.refuse(getattr(rows[i], "place", f"row {i + 1}"), problem)
        return table_of([row for i, row in enumerate(rows) if i not in odd], reading)
    # a column without any value is one of texts
    for name, column in columns.items():
        columns[name] = column.cast(pa.string()) if pa.types.is_null(column.type) else column
    return kept, pa.table(columns)


def _array(values: Sequence[Any]) -> pa.Array:
    array = pa.array(values)
    if pa.types.is_floating(array.type) and any(isinstance(value, bool) for value in values):
        raise TypeError("Arrow takes True for 1.0 beside numbers")
    return array


def _odd(values: Sequence[Any]) -> dict[int, str]:
    """The values whose type is unlike that of the others, each with its problem."""
    common, _ = Counter(type(value) for value in values if value is not None).most_common(1)[0]
    seen: list[Any] = []  # a value of each kind that goes with the most common one
    kind = None
    for value in sorted(values, key=lambda value: type(value) is not common):
        try:
            found = _array([*seen, value]).type
        except ARROW_REFUSES:
            continue
        if found != kind:
            kind = found
            seen.append(value)
    odd: dict[int, str] = {}
    for i, value in enumerate(values):
        try:
            _array([*seen, value])
        except ARROW_REFUSES:
            odd[i] = f"expected {kind} as in other rows, got {value!r:.60}"
    assert odd, "Arrow refuses the values together, but accepts each beside the others"
    return odd


def stored(path: pathlib.Path, reading: Reading) -> datasets.Dataset:
    """The rows of a Parquet or Arrow file, without bad ones."""
    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.ParquetFile(path).read()
        else:
            with pa.memory_map(str(path)) as file:
                table = _arrow_table(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Problem(f"damaged or of another format: {error}") from error
    return datasets.Dataset(InMemoryTable(_valid(table, path, reading)))


def _arrow_table(file: pa.NativeFile) -> pa.Table:
    if file.read(6) == b"ARROW1":
        return pa.ipc.open_file(file).read_all()
    file.seek(0)
    return pa.ipc.open_stream(file).read_all()


def _valid(table: pa.Table, path: pathlib.Path, reading: Reading) -> pa.Table:
    """The rows without those whose texts are not UTF-8."""

    def check(row: int) -> int:
        try:
            table.slice(row, 1).combine_chunks().validate(full=True)
        except pa.ArrowInvalid as error:
            raise Problem(str(error)) from error
        return row

    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        places = ((f"{path}, row {row + 1}", row) for row in range(table.num_rows))
        return table.take(reading.sift(places, check))
    return table
