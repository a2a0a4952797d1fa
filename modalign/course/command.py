"""The commands ``modalign course ...``."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from modalign.course.checks import Course

ALL_MARKED, NOTHING_MARKED, SOME_NEED_A_PERSON = 0, 1, 3


@click.group("course")
def course() -> None:
    """Assignments: hand them out, mark them, prove the marker."""


def _root() -> Path:
    from modalign.rerun import inventory

    return inventory.book_root()


def _load(name: str) -> Course:
    from modalign.course import checks

    return checks.load(name, _root())


_name = click.argument("name")
_where = click.option(
    "--containment", metavar="KIND", help="bubblewrap or landlock; else the first that works."
)
_own = click.option(
    "--own-files", is_flag=True, help="Run without containment: you wrote every file yourself."
)
_jobs = click.option("--jobs", type=click.IntRange(1), metavar="N", help="Side by side.")


@course.command("list")
def _list() -> None:
    """The assignments: tasks, marks, minutes."""
    from modalign.course import checks

    root = _root()
    for name in checks.assignments(root):
        held = checks.load(name, root)
        marks, minutes = sum(held.marks.values()), sum(held.sheet.minutes.values())
        print(f"{name:<14}{held.sheet.title}: {marks:g} marks, {minutes} min")
        for task in held.tasks:
            by = ", marked by hand" if held.assignment.in_words(task) else ""
            print(
                f"  {task:<22}{held.sheet.marks(task):>3g} marks"
                f"{held.sheet.minutes[task]:>5} min{by}"
            )


@course.command("new")
@click.argument("folder", type=click.Path(path_type=Path))
def _new(folder: Path) -> None:
    """Make a course: FOLDER/course.toml with a secret of its own."""
    from modalign.course import grading

    print(f"Made {grading.new(folder)}: keep it from students, and keep a copy.")


@course.command("check")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--quick", is_flag=True, help="Two of each kind a task.")
@click.option(
    "--json", "to", is_flag=False, flag_value="-", metavar="[FILE]",
    help="Keep the proof, or print it if no FILE is given.",
)  # fmt: skip
@_where
@_jobs
def _check(
    names: tuple[str, ...], quick: bool, to: str | None, containment: str | None, jobs: int | None
) -> int:
    """Prove the marker on this machine: answers, bugs, attacks."""
    from modalign import records
    from modalign.course import checks, grading, proof
    from modalign.course import containment as places

    root = _root()
    known = checks.assignments(root)
    if to in known:
        raise click.BadParameter(f"{to!r} is an assignment: write it first", param_hint="--json")
    chosen = list(names) or known
    kind = places.chosen(containment)
    say = functools.partial(print, file=sys.stderr if to == "-" else sys.stdout, flush=True)
    say(f"containment: {kind}")
    made = proof.check(
        chosen,
        root,
        kind,
        grading.PRACTICE,
        quick=quick,
        jobs=jobs or os.cpu_count() or 1,
        say=lambda each: say(proof.text(each)),
    )
    attacks = made["attacks"]
    say(f"attacks: {attacks['hold']} of {attacks['tried']} earned and touched nothing")
    for line in attacks["fail"]:
        say(f"    {line}")
    say(f"{made['seconds']:.0f} s")
    if to is not None:
        made["made_by"] = records.provenance()
        text = json.dumps(made, indent=1)
        if to == "-":
            print(text)
        else:
            Path(to).parent.mkdir(parents=True, exist_ok=True)
            records.write_whole(Path(to), f"{text}\n".encode())
    stands = all(map(proof.stands, made["assignments"].values())) and not attacks["fail"]
    return 0 if stands else 1


@course.command("release")
@_name
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("release"), metavar="DIR"
)
@click.option(
    "--format", "form", type=click.Choice(["notebook", "nbgrader"]), default="notebook",
    help="The student's zip, or a source folder of nbgrader.",
)  # fmt: skip
def _release(name: str, output: Path, form: str) -> None:
    """Write what students get."""
    from modalign.course import nbgrader, release

    held = _load(name)
    if form == "notebook":
        print(f"Wrote {release.release(held, _root(), output)}")
        return
    print(f"Wrote {nbgrader.release(held, _root(), output)}\n\nIn nbgrader_config.py:\n")
    print(nbgrader.CONFIG)


@course.command("grade")
@_name
@click.argument("submissions", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="marks/NAME")
@click.option(
    "--course", "folder", type=click.Path(path_type=Path), default=Path("."), metavar="FOLDER",
    help="Of course.toml; here otherwise.",
)  # fmt: skip
@click.option("--practice", is_flag=True, help="Without a course: inputs that everybody may know.")
@_where
@_own
@_jobs
def _grade(
    name: str,
    submissions: Path,
    output: Path | None,
    folder: Path,
    practice: bool,
    containment: str | None,
    own_files: bool,
    jobs: int | None,
) -> int:
    """Mark a folder, a zip or one notebook.

    Exit status: 0 all marked, 3 some need a person, 1 nothing marked.
    """
    from modalign.course import containment as places
    from modalign.course import grading, report

    held, root = _load(name), _root()
    secret = grading.PRACTICE if practice else grading.secret_of(folder)
    found = grading.submissions(submissions, name, places.LIMITS)
    kind = places.chosen(containment, own_files=own_files)
    target = output or Path("marks") / name

    def say(record: dict[str, Any]) -> None:
        total = sum(each for each in record.get("marks", {}).values() if each is not None)
        said = record["problem"] if record["state"] == "damaged" else f"{total:g}"
        print(f"{record['student']}: {said}", flush=True)

    with places.Place(kind) as place:
        grading.require_sound(held, place, secret)
        records = grading.grade(
            held, found, target, place, secret, root=root, jobs=jobs or os.cpu_count() or 1, say=say
        )
    report.write(held, records, target)
    states = [record["state"] for record in records]
    print(f"{states.count('marked')} of {len(states)} marked: {target / 'class.html'}")
    if "marked" not in states and "look" not in states:
        return NOTHING_MARKED
    return ALL_MARKED if set(states) == {"marked"} else SOME_NEED_A_PERSON


@course.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--roster",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A class list as CSV, to write again with one column more.",
)
def _report(folder: Path, roster: Path | None) -> None:
    """Make the tables and pages again, with the marks given by hand in words.csv."""
    from modalign.course import report

    name, records = report.read(folder)
    report.write(_load(name), records, folder)
    print((folder / "marks.csv").read_text(encoding="utf-8"), end="")
    if roster is not None:
        print(f"Wrote {report.gradebook(folder, roster)}", file=sys.stderr)
