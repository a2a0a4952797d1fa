"""The command ``modalign``: rerun chapters, and see what data there are."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import re
import shlex
import signal
import sys
import textwrap
import threading
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import click.shell_completion

from modalign import __version__
from modalign._command import shortest_path
from modalign.course.command import course

if typing.TYPE_CHECKING:
    from modalign import rerun
    from modalign.rerun.inventory import Value

WIDTH = 96
COMPLETE = "_MODALIGN_COMPLETE"
# the names under which these libraries are installed
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "bs4": "beautifulsoup4",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = [_decoded(text) for text in (sys.argv[1:] if arguments is None else arguments)]
    for stream in (sys.stdout, sys.stderr):
        # a letter that a terminal lacks is shown by its number, without an error
        with contextlib.suppress(AttributeError):  # a stream that somebody put there
            typing.cast(Any, stream).reconfigure(errors="backslashreplace")
    if asked := os.environ.get(COMPLETE):
        return click.shell_completion.shell_complete(modalign, {}, "modalign", COMPLETE, asked)
    try:
        with _ended_by_a_signal(), modalign.make_context("modalign", given) as context:
            return modalign.invoke(context) or 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # the reader of a pipe has seen enough; Python would complain again as it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        if (error.name or "modalign").startswith("modalign"):
            raise
        problem = f"{error.name} is not installed; {_how_to_install(str(error.name), given)}"
    except (OSError, ValueError, RuntimeError) as error:
        # these say what was expected and what came: a traceback would hide it
        problem = str(error)
    except KeyboardInterrupt:
        print("modalign: interrupted", file=sys.stderr)
        return 130
    print(f"modalign: {problem}", file=sys.stderr)
    return 1


def _decoded(text: str) -> str:
    """An argument as UTF-8, if the locale has another idea of its bytes."""
    with contextlib.suppress(UnicodeDecodeError):
        return os.fsencode(text).decode("utf-8")
    return text


@contextlib.contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """End as after Ctrl-C when asked to end, so that kernels and folders go too."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = []
    if threading.current_thread() is threading.main_thread():
        # nohup ignores them, and is obeyed
        both = (signal.SIGTERM, signal.SIGHUP)
        numbers = [number for number in both if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _how_to_install(library: str, given: Sequence[str]) -> str:
    """The extra that brings a library: that of the command, else the first that has it."""
    needs: dict[str, set[str]] = {}
    for text in importlib.metadata.requires("modalign") or []:
        if found := re.match(r"""([\w.-]+)(?:\[([\w,]+)\])?.*extra == ['"](\w+)['"]""", text):
            name, extras, extra = found.groups()
            needs.setdefault(extra, set()).update(
                {f"[{each}]" for each in extras.split(",")} if extras else {name.lower()}
            )

    def brings(extra: str) -> set[str]:
        held = needs.get(extra, set())
        return held.union(*(brings(each[1:-1]) for each in held if each.startswith("[")))

    name = DISTRIBUTIONS.get(library, library.replace("_", "-"))
    wanted = {"data": "data", "sweep": "rerun"}.get(given[0] if given else "", "book")
    order = [wanted, "data", "train", "book", "rerun", "captions", "pretrained"]
    extra = next((each for each in order if {name, library} & brings(each)), wanted)
    python = shlex.quote(shortest_path(sys.executable))
    return f"in the checkout: {python} -m pip install -c constraints.txt -e '.[{extra}]'"


# completions that a shell offers for the Tab key


def _completed(names: Callable[[click.Context], Sequence[str]]) -> Any:
    def complete(context: click.Context, option: click.Parameter, text: str) -> list[str]:
        try:
            return [name for name in names(context) if name.startswith(text)]
        except (OSError, ValueError):  # no book here, or no such chapter: nothing to offer
            return []

    return complete


def _chapters(context: click.Context) -> list[str]:
    from modalign.rerun import inventory

    return [path.stem for path in inventory.notebooks(inventory.book_root())]


def _presets(context: click.Context) -> list[str]:
    from modalign import rerun

    return list(rerun.presets(_chapter_before(context)))


def _names(context: click.Context) -> list[str]:
    from modalign import rerun

    return list(rerun.parameters(_chapter_before(context)))


def _chapter_before(context: click.Context) -> str:
    return str(context.params.get("chapter", context.params.get("what")))


# the commands


class _Changing(click.Command):
    """A command with ``-p NAME VALUE``, which may be written ``-p NAME=VALUE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words, rest = [], iter(args)
        for word in rest:
            words.append(word)
            for text in itertools.islice(rest, 1 if word == "-p" else 0):
                name, equals, value = text.partition("=")
                words += [name, value] if equals else [text, *itertools.islice(rest, 1)]
        if ctx.resilient_parsing and words[-1:] and words[-1].startswith("-"):
            words.pop()  # a shell asks for the next word, and the words before it are parsed
        try:
            return super().parse_args(ctx, words)
        except click.BadOptionUsage as error:
            if error.option_name != "-p":
                raise
            raise click.UsageError("-p: expected NAME VALUE or NAME=VALUE", ctx) from None


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that run and sweep share."""
    options = [
        click.option(
            "-p",
            "changes",
            nargs=2,
            multiple=True,
            metavar="NAME VALUE",
            shell_complete=_completed(_names),
            help="Another value for a parameter; again for another parameter.",
        ),
        click.option(
            "--preset",
            shell_complete=_completed(_presets),
            help="A named setting, which `show` lists; default otherwise.",
        ),
        click.option("--device", metavar="D", help="Short for -p device D."),
        click.option("-o", "--output", default="runs", metavar="DIR", help="Where runs go."),
        click.option("--timeout", type=float, metavar="SECONDS", help="End a run after this."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_chapter = click.argument("chapter", shell_complete=_completed(_chapters))


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    epilog='Completion of names: eval "$(_MODALIGN_COMPLETE=bash_source modalign)", or zsh_source, '
    "or fish_source.",
)
@click.version_option(__version__, message="%(version)s")
def modalign() -> None:
    """Rerun chapters, and see what data there are."""


modalign.add_command(course)


@modalign.command("list")
def _list() -> None:
    """List the chapters and their costs."""
    from modalign import rerun

    for chapter in rerun.chapters():
        print(f"{chapter.name:<14}{chapter.title}")
        for preset, cost in chapter.costs.items():
            print(f"  {preset:<12}{_cost(cost)}")


def _cost(cost: dict[str, Any] | None) -> str:
    from modalign import rerun

    if cost is None:
        return "not measured"
    old = "" if cost["current"] else ", of an older source"
    where = f"{rerun.place_text(cost)}, {cost['date'][:10]}{old}"
    return f"{', '.join(rerun.cost_text(cost))} ({where})"


@modalign.command("show")
@_chapter
def _show(chapter: str) -> None:
    """A chapter's parameters and presets."""
    from modalign import rerun

    known = rerun.parameters(chapter)
    print("parameters:")
    for each in known.values():
        print(f"  {each.name} = {each.default!r}")
        _paragraph("type", each.kind + (f", {each.range}" if each.range else ""))
        _paragraph("help", each.help)
    print("\npresets:")
    costs = rerun.costs(chapter)
    for preset, values in rerun.presets(chapter).items():
        print(f"  {preset}: {_cost(costs[preset])}")
        for name, value in values.items():
            print(f"          {name} = {value!r}")
        if not values:
            print("          the values above")


def _parsed(chapter: str, changes: Sequence[tuple[str, str]], **short: str | None) -> Any:
    """The parameters given on the command line, each once, of its kind."""
    from modalign import rerun

    known = rerun.parameters(chapter)
    found: dict[str, Value] = {}
    for name, text in [*changes, *short.items()]:
        if text is None:
            continue
        rerun.require_known(name, known, "parameter")
        if name in found:
            raise ValueError(f"{name}: given twice")
        found[name] = known[name].parse(text)
    return found


@modalign.command("run", cls=_Changing)
@_chapter
@_settings
@click.option("--seed", metavar="N", help="Short for -p seed N.")
@click.option("--html", is_flag=True, help="Render the run as a page too.")
@click.option("--record-cost", is_flag=True, help="Keep time and memory as the preset's cost.")
def _run(
    chapter: str,
    changes: Sequence[tuple[str, str]],
    preset: str | None,
    device: str | None,
    output: str,
    timeout: float | None,
    seed: str | None,
    html: bool,
    record_cost: bool,
) -> int:
    """Run a chapter with other parameters."""
    from modalign import rerun

    parameters = _parsed(chapter, changes, seed=seed, device=device)
    if record_cost:
        rerun.require_costable(preset, parameters)
    result = rerun.run(
        chapter, parameters, preset=preset or "default", output=output, timeout=timeout
    )
    print(result)
    if reason := result.provenance.get("no_commit"):
        print(f"modalign: no commit is recorded: {reason}", file=sys.stderr)
    if result.found:
        print("It was there already: remove the folder to run it again.")
    if not result.ok:
        return 1
    if record_cost:
        print(f"Recorded in {rerun.record_cost(result)}")
    if html:
        print(f"Open {rerun.page(result).as_uri()}")
    return 0


@modalign.command("sweep", cls=_Changing)
@click.argument("what", metavar="CHAPTER|FILE", shell_complete=_completed(_chapters))
@_settings
@click.option(
    "--grid",
    multiple=True,
    metavar="NAME=V1,V2",
    shell_complete=_completed(lambda context: [f"{name}=" for name in _names(context)]),
    help="Values of a parameter; again for another parameter: every combination runs.",
)
@click.option("--seeds", type=int, metavar="N", help="Each with seeds 0 to N-1.")
@click.option("--scheduler", metavar="ADDRESS", help="Of a dask scheduler; here otherwise.")
@click.option("--jobs", type=int, metavar="N", help="Runs at a time on this machine.")
@click.option("--print", "only_print", is_flag=True, help="Print the sweep as a file; run nothing.")
def _sweep(
    what: str,
    output: str,
    timeout: float | None,
    scheduler: str | None,
    jobs: int | None,
    only_print: bool,
    **flags: Any,
) -> int:
    """Run a grid of parameters and seeds.

    Flags say which, or a sweep file (.yml).
    """
    from modalign import rerun

    asked = _sweep_of(what, **flags)
    if only_print:
        with contextlib.suppress(AttributeError):  # a file is in UTF-8, whatever a terminal shows
            typing.cast(Any, sys.stdout).reconfigure(encoding="utf-8")
        print(asked.to_yaml(), end="")
        return 0
    outcome = rerun.sweep(asked, output=output, scheduler=scheduler, jobs=jobs, timeout=timeout)
    print(outcome)
    if "stopped" in outcome.states.values():
        return 130
    return 0 if outcome.ok else 1


def _sweep_of(
    what: str,
    changes: Sequence[tuple[str, str]],
    preset: str | None,
    device: str | None,
    grid: Sequence[str],
    seeds: int | None,
) -> rerun.Sweep:
    """The sweep that flags or a file ask for."""
    from modalign import rerun

    if what.endswith((".yml", ".yaml")):
        if grid or seeds is not None or changes or preset or device:
            raise ValueError("sweep: expected a sweep file or flags, got both")
        return rerun.read_sweep(what)
    known = rerun.parameters(what)
    axes: dict[str, list[Value]] = {}
    for text in grid:
        name, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"--grid: expected NAME=V1,V2, got {text!r}")
        rerun.require_known(name, known, "parameter")
        if name in axes:
            raise ValueError(f"--grid: {name}: given twice")
        axes[name] = known[name].parse_many(values)
    fixed = _parsed(what, changes, device=device)
    return rerun.define_sweep(
        what, axes, seeds=seeds or 0, preset=preset or "default", parameters=fixed
    )


@modalign.command("report")
@click.argument("paths", metavar="SWEEP...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--by", multiple=True, metavar="NAME", help="Parameter to compare by; again for another."
)
@click.option("--metric", multiple=True, metavar="NAME", help="Glued value; again for another.")
@click.option(
    "--baseline", metavar="VALUE", help="The value of --by that the others are compared with."
)
@click.option("-o", "--output", metavar="DIR", help="Where the report goes; of one sweep only.")
def _report(
    paths: Sequence[str],
    by: Sequence[str],
    metric: Sequence[str],
    baseline: str | None,
    output: str | None,
) -> None:
    """Tables, intervals and a figure of many runs.

    SWEEP is a sweep's file or a folder of runs; each gets a report of its own.
    """
    from modalign import rerun

    if output is not None and len(paths) > 1:
        raise ValueError(f"report: -o names one folder, and {len(paths)} sweeps were given")
    for path in paths:
        found = rerun.report(
            path, by=list(by) or None, metric=list(metric) or None, baseline=baseline
        )
        print(found)  # first, so that it is not lost if nothing can be written
        folder = found.write(output)
        print(f"\nTables, figure and page are in {folder}" + "\n" * (path != paths[-1]))


@modalign.command("compare")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
def _compare(a: str, b: str) -> None:
    """Show the differences between two runs.

    A and B are their folders.
    """
    from modalign import rerun

    print(rerun.compare(a, b))


@modalign.command("claims")
@click.option("--paper", metavar="KEY", help="Of one paper: cka, gradients, codis or neumatch.")
@click.option("--json", "as_json", is_flag=True, help="All that is known of each, as JSON.")
def _claims(paper: str | None, as_json: bool) -> None:
    """Show the verdict on each claim of the papers.

    Verdicts are computed from the recorded tables.
    """
    import pandas as pd

    from modalign.studies import ledger

    table = ledger.ledger()
    if paper is not None:
        table = ledger.of_paper(table, paper)
    if as_json:
        print(table.to_json(orient="records", indent=2, force_ascii=False))
        return
    for row in table.to_dict("records"):
        found = "exploratory" if row["exploratory"] else ""
        print(f"{row['symbol']} {row['id']:<4} {row['verdict']}{found and f' ({found})'}")
        _paragraph("says", f"{row['says']} ({row['where']}: {row['printed']})")
        _paragraph("ours", row["value"])
        if not pd.isna(row["seeds"]):
            _paragraph(
                "seeds", f"about {int(row['seeds'])} would decide it, in {row['hours']:.0f} hours"
            )
        _paragraph("page", row["chapter"].partition("#")[0])
        print()
    counts = ledger.scoreboard(table).loc["all"]
    print(", ".join(f"{kind}: {number}" for kind, number in counts.items() if number))


@modalign.group("data")
def _data() -> None:
    """The data sets."""


@_data.command("list")
def _list_data() -> None:
    """Each set: content, source, terms, where to get it."""
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


@_data.command("show")
@click.argument("name")
@click.option("--split", help="train, validation or test; all by default.")
@click.option("--folder", type=click.Path(), help="Where the set's files lie.")
@click.option("--skip-bad", is_flag=True, help="Count and report bad rows instead of stopping.")
@click.option("--checksums", is_flag=True, help="Compare official files with their SHA-256 first.")
def _show_data(
    name: str, split: str | None, folder: str | None, skip_bad: bool, checksums: bool
) -> None:
    """A set's columns, counts and one example.

    NAME is one that `modalign data list` shows.
    """
    from modalign import data

    on_bad = "skip" if skip_bad else "raise"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        rows = data.load(name, split, folder=folder, on_bad=on_bad, checksums=checksums)
    for warning in caught:
        print(f"modalign: {warning.message}", file=sys.stderr)
    print(f"{name}: {rows.info.description}")
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
