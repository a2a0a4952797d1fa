"""The command ``modalign``: what data there are, and what is in them."""

from __future__ import annotations

import argparse
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets

from modalign import __version__, data

WIDTH = 96


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (FileNotFoundError, ValueError) as error:
        # these say what was expected and what came: a traceback would hide it
        print(f"modalign: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modalign", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--version", action="version", version=__version__)
    rooms = parser.add_subparsers(required=True, metavar="COMMAND")
    verbs = rooms.add_parser("data", help="the data sets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    verb = verbs.add_parser("list", help="each set: content, source, terms, where to get it")
    verb.set_defaults(run=lambda chosen: _list())
    verb = verbs.add_parser("show", help="a set's columns, counts and one example")
    verb.add_argument("name", metavar="NAME", help="a name that `modalign data list` shows")
    verb.add_argument("--split", metavar="SPLIT", help="train, validation or test; all by default")
    verb.add_argument("--folder", metavar="FOLDER", help="where the set's files lie")
    verb.add_argument(
        "--skip-bad", action="store_true", help="count and report bad rows instead of stopping"
    )
    verb.add_argument(
        "--checksums", action="store_true", help="compare official files with their SHA-256 first"
    )
    verb.set_defaults(run=_show)
    return parser


def _list() -> None:
    for each in data.available():
        state = "embedded" if each["embedded"] else "found" if each["found"] else "not here"
        print(f"{each['name']}  [{state}]")
        splits = ", ".join(data.source(str(each["name"])).splits)
        _paragraph("holds", each["holds"])
        _paragraph("splits", splits)
        _paragraph("source", each["origin"])
        _paragraph("terms", each["terms"])
        if state == "not here":
            _paragraph("get it", each["get"])
        print()


def _paragraph(head: str, text: object) -> None:
    indent = " " * 10
    lines = textwrap.wrap(str(text), WIDTH - len(indent), break_on_hyphens=False)
    print(f"  {head:<8}" + f"\n{indent}".join(lines))


def _show(chosen: argparse.Namespace) -> None:
    on_bad = "skip" if chosen.skip_bad else "raise"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        rows = data.load(
            chosen.name,
            chosen.split,
            folder=chosen.folder,
            on_bad=on_bad,
            checksums=chosen.checksums,
        )
    for warning in caught:
        print(f"modalign: {warning.message}", file=sys.stderr)
    print(f"{chosen.name}: {rows.info.description}")
    print(f"terms: {rows.info.license}")
    print(f"\nrows: {rows.num_rows}")
    for split, count in Counter(rows["split"]).items():
        print(f"  {split or 'in no split':<12}{count}")
    print("\ncolumns:")
    for column, feature in rows.features.items():
        print(f"  {column:<18}{_kind(feature)}")
    print("\nthe first row:")
    for column, value in rows[0].items():
        print(f"  {column:<18}{_brief(value, rows.features[column])}")


def _kind(feature: Any) -> str:
    """A column's type in a line.

    >>> _kind(datasets.List({"start": datasets.Value("int64")}))
    'list of {start: int64}'
    """
    if isinstance(feature, datasets.ClassLabel):
        return f"class: {', '.join(feature.names)}"
    if isinstance(feature, datasets.List):
        return f"list of {_kind(feature.feature)}"
    if isinstance(feature, dict):
        return "{" + ", ".join(f"{name}: {_kind(part)}" for name, part in feature.items()) + "}"
    if isinstance(feature, datasets.Value):
        return str(feature.dtype)
    return type(feature).__name__.lower()


def _brief(value: Any, feature: Any) -> str:
    """A value in a line."""
    if isinstance(feature, datasets.Image) and value is not None:
        return f"{value.width} x {value.height}, mode {value.mode}"
    if isinstance(feature, datasets.Audio) and value is not None:
        samples, rate = data.waveform(value)
        return f"{len(samples) / rate:.2f} s at {rate} Hz"
    if isinstance(feature, datasets.ClassLabel) and isinstance(value, int):
        return f"{value} ({feature.int2str(value)})" if value >= 0 else f"{value} (withheld)"
    if isinstance(value, list):
        return textwrap.shorten(f"{len(value)}: {value}", WIDTH - 20, placeholder=" ...")
    return textwrap.shorten(str(value), WIDTH - 20, placeholder=" ...")
