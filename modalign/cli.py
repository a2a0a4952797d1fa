"""The command ``modalign``: rerun chapters, and see what data there are."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import typing
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from modalign import __version__, rerun

if typing.TYPE_CHECKING:
    from modalign.rerun.inventory import Value

WIDTH = 96


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.run(chosen) or 0
    except BrokenPipeError:
        # the reader of a pipe has seen enough; Python would complain again as it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError, RuntimeError) as error:
        # these say what was expected and what came: a traceback would hide it
        print(f"modalign: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "modalign").startswith("modalign"):
            raise
        print(
            f"modalign: {error.name} is not installed; to rerun chapters, install the package "
            "with its extra: pip install -e '.[rerun]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modalign", description=__doc__.split(": ", 1)[1].capitalize()
    )
    parser.add_argument("--version", action="version", version=__version__)
    rooms = parser.add_subparsers(required=True, metavar="COMMAND")
    _rerun_verbs(rooms)
    verbs = rooms.add_parser("data", help="the data sets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    verb = verbs.add_parser("list", help="each set: content, source, terms, where to get it")
    verb.set_defaults(run=lambda chosen: _list_data())
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
    verb.set_defaults(run=_show_data)
    return parser


def _rerun_verbs(rooms: Any) -> None:
    """The verbs that rerun chapters."""
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="another value for a parameter; again for another parameter",
    )
    settings.add_argument("--preset", help="a named setting, which `show` lists; default otherwise")
    settings.add_argument("--device", metavar="D", help="short for -p device D")
    settings.add_argument("-o", "--output", default="runs", metavar="DIR", help="where runs go")
    settings.add_argument("--timeout", type=float, metavar="SECONDS", help="end a run after this")

    verb = rooms.add_parser("list", help="the chapters, and what they cost")
    verb.set_defaults(run=lambda chosen: _list())
    verb = rooms.add_parser("show", help="a chapter's parameters and presets")
    verb.add_argument("chapter", metavar="CHAPTER")
    verb.set_defaults(run=_show)
    verb = rooms.add_parser("run", parents=[settings], help="run a chapter with other parameters")
    verb.add_argument("chapter", metavar="CHAPTER")
    verb.add_argument("--seed", metavar="N", help="short for -p seed N")
    verb.add_argument("--html", action="store_true", help="render the run as a page too")
    verb.add_argument(
        "--record-cost", action="store_true", help="keep time and memory as the preset's cost"
    )
    verb.set_defaults(run=_run)
    verb = rooms.add_parser("sweep", parents=[settings], help="run a grid of parameters and seeds")
    verb.add_argument("what", metavar="CHAPTER|FILE", help="a chapter, or a sweep file (.yml)")
    verb.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V1,V2",
        help="values of a parameter; again for another parameter: every combination runs",
    )
    verb.add_argument("--seeds", type=int, metavar="N", help="each with seeds 0 to N-1")
    verb.add_argument("--scheduler", metavar="ADDRESS", help="of a dask scheduler; here otherwise")
    verb.add_argument("--jobs", type=int, metavar="N", help="runs at a time on this machine")
    verb.add_argument(
        "--print", action="store_true", help="print the sweep as a file, and run nothing"
    )
    verb.set_defaults(run=_sweep)
    verb = rooms.add_parser("report", help="tables, intervals and a figure of many runs")
    verb.add_argument("path", metavar="SWEEP", help="a sweep's file, or a folder of runs")
    verb.add_argument(
        "--by", action="append", metavar="NAME", help="parameter to compare by; again for another"
    )
    verb.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="glued value; again for another",
    )
    verb.add_argument(
        "--baseline", metavar="VALUE", help="of --by, what the others are compared with"
    )
    verb.add_argument("-o", "--output", metavar="DIR", help="where the report goes")
    verb.set_defaults(run=_report)
    verb = rooms.add_parser("compare", help="what differs between two runs")
    verb.add_argument("a", metavar="A", help="a run's folder")
    verb.add_argument("b", metavar="B", help="another")
    verb.set_defaults(run=lambda chosen: print(rerun.compare(chosen.a, chosen.b)))


def _list() -> None:
    for chapter in rerun.chapters():
        print(f"{chapter.name:<14}{chapter.title}")
        for preset, cost in chapter.costs.items():
            print(f"  {preset:<12}{_cost(cost)}")


def _cost(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return "not measured"
    machine = cost["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores"
    where = where if cost["device"] == "cpu" else f"{where}, {cost['device']}"
    old = "" if cost["current"] else ", of an older source"
    return f"{', '.join(rerun.cost_text(cost))} ({where}, {cost['date'][:10]}{old})"


def _show(chosen: argparse.Namespace) -> None:
    known = rerun.parameters(chosen.chapter)
    print("parameters:")
    for each in known.values():
        print(f"  {each.name} = {each.default!r}")
        _paragraph("type", each.kind + (f", {each.range}" if each.range else ""))
        _paragraph("help", each.help)
    print("\npresets:")
    costs = rerun.costs(chosen.chapter)
    for preset, values in rerun.presets(chosen.chapter).items():
        print(f"  {preset}: {_cost(costs[preset])}")
        for name, value in values.items():
            print(f"          {name} = {value!r}")
        if not values:
            print("          the values above")


def _changes(chosen: argparse.Namespace) -> dict[str, Value]:
    """The parameters given on the command line, each once, of its kind."""
    known = rerun.parameters(chosen.chapter)
    given = list(chosen.p)
    for name in ("seed", "device"):
        if getattr(chosen, name, None) is not None:
            given.append([name, getattr(chosen, name)])
    found: dict[str, Value] = {}
    for name, text in given:
        rerun.require_known(name, known, "parameter")
        if name in found:
            raise ValueError(f"{name}: given twice")
        found[name] = known[name].parse(text)
    return found


def _run(chosen: argparse.Namespace) -> int:
    changes = _changes(chosen)
    if chosen.record_cost:
        rerun.require_costable(chosen.preset, changes)
    result = rerun.run(
        chosen.chapter,
        changes,
        preset=chosen.preset or "default",
        output=chosen.output,
        timeout=chosen.timeout,
    )
    print(result)
    if result.found:
        print("It was there already: remove the folder to run it again.")
    if not result.ok:
        return 1
    if chosen.record_cost:
        print(f"Recorded in {rerun.record_cost(result)}")
    if chosen.html:
        print(f"Open {rerun.page(result).as_uri()}")
    return 0


def _sweep(chosen: argparse.Namespace) -> int:
    what = _sweep_of(chosen)
    if chosen.print:
        print(what.to_yaml(), end="")
        return 0
    outcome = rerun.sweep(
        what,
        output=chosen.output,
        scheduler=chosen.scheduler,
        jobs=chosen.jobs,
        timeout=chosen.timeout,
    )
    print(outcome)
    if "stopped" in outcome.states.values():
        return 130
    return 0 if outcome.ok else 1


def _report(chosen: argparse.Namespace) -> None:
    found = rerun.report(chosen.path, by=chosen.by, metric=chosen.metric, baseline=chosen.baseline)
    folder = found.write(chosen.output)
    print(found)
    print(f"\nTables, figure and page are in {folder}")


def _sweep_of(chosen: argparse.Namespace) -> rerun.Sweep:
    """The sweep that flags or a file ask for."""
    if chosen.what.endswith((".yml", ".yaml")):
        if chosen.grid or chosen.seeds or chosen.p or chosen.preset or chosen.device:
            raise ValueError("sweep: expected a sweep file or flags, got both")
        return rerun.read_sweep(chosen.what)
    known = rerun.parameters(chosen.what)
    grid: dict[str, list[Value]] = {}
    for text in chosen.grid:
        name, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"--grid: expected NAME=V1,V2, got {text!r}")
        rerun.require_known(name, known, "parameter")
        if name in grid:
            raise ValueError(f"--grid: {name}: given twice")
        grid[name] = known[name].parse_many(values)
    chosen.chapter = chosen.what
    return rerun.define_sweep(
        chosen.what,
        grid,
        seeds=chosen.seeds or 0,
        preset=chosen.preset or "default",
        parameters=_changes(chosen),
    )


def _list_data() -> None:
    from modalign import data

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


def _show_data(chosen: argparse.Namespace) -> None:
    from modalign import data

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

    >>> import datasets
    >>> _kind(datasets.List({"start": datasets.Value("int64")}))
    'list of {start: int64}'
    """
    import datasets

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
    import datasets

    from modalign import data

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
