"""Marks: hidden checks run here, in a process that never holds a student's code."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from modalign.course import source
from modalign.course.checks import Check, Course, Draw, Side, StudentError, Wrong
from modalign.course.containment import Limits, Place, Worker
from modalign.course.inside import wire

PATIENCE = 3  # lost processes after which a task, or a load, is given up
ERRORS = {
    name
    for name, each in vars(builtins).items()
    if isinstance(each, type) and issubclass(each, BaseException)
}


class Outcome(NamedTuple):
    """The outcome of a check.

    Attributes:
        task, says, marks: of the check.
        earned: marks given.
        state: right, wrong, error (it raised), lost (it ended or took too long), or look (the
            check itself fails: no mark, and a person must look at it).
        detail: for the student; names no input and no value.
    """

    task: str
    says: str
    marks: float
    earned: float
    state: str
    detail: str = ""


def outcome_of(check: Check, state: str, detail: str = "") -> Outcome:
    earned = check.marks if state == "right" else 0.0
    return Outcome(check.task, check.says, check.marks, earned, state, detail)


class Result(NamedTuple):
    """A submission's outcomes, the parts left out, and its texts for a person to mark."""

    outcomes: list[Outcome]
    left_out: list[str]
    words: dict[str, str]

    @property
    def earned(self) -> float:
        return sum(each.earned for each in self.outcomes)

    @property
    def needs_a_person(self) -> bool:
        return any(each.state == "look" for each in self.outcomes)

    def of(self, task: str) -> float:
        return sum(each.earned for each in self.outcomes if each.task == task)


class Session:
    """A submission in its process, which is started again when it was lost."""

    def __init__(
        self,
        place: Place,
        cells: Sequence[tuple[str, str]],
        wanted: Sequence[str],
        replaced: Mapping[str, str] | None = None,
    ) -> None:
        self.place, self.cells, self.wanted = place, list(cells), list(wanted)
        self.replaced = dict(replaced or {})
        self.skip: dict[int, tuple[int, int]] = {}  # statements that ended the process
        self.loaded: dict[str, Any] = {}
        self.until = 0.0
        self._worker: Worker | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.close()

    def load(self) -> None:
        """Start the process and run what the names rest on, but for statements that end it."""
        while True:
            self._worker = self.place.start()
            at: tuple[int, ...] = (0, 0, 0)
            request = {
                "do": "load",
                "cells": self.cells,
                "wanted": self.wanted,
                "skip": list(self.skip),
                "replaced": self.replaced,
            }
            try:
                for said in self._worker.ask(request, self.place.limits.load):
                    if "at" in said:
                        at = _numbers(said["at"], 3)
                self.loaded = _loaded(said)
                return
            except (wire.Lost, wire.Unsendable, _Untold):
                self._worker.close()
                if at[0] in self.skip or len(self.skip) >= PATIENCE:
                    raise StudentError(["Lost"]) from None
                self.skip[at[0]] = (at[1], at[2])

    def ask(self, do: str, **request: Any) -> Any:
        """Ask the student's side within the rest of the check's time.

        Raises:
            StudentError: if their code raises, or the process is lost.
        """
        if self._worker is None or not self._worker.open:
            self.load()
        assert self._worker is not None
        left = max(0.1, self.until - time.monotonic())
        try:
            (said,) = self._worker.ask({"do": do, **request}, left)
            if set(said) == {"value"}:
                return said["value"]
            kinds = [str(each) for each in said["error"]]
            place = said.get("place")
        except (wire.Lost, KeyError, TypeError, ValueError):
            self._worker.close()
            raise StudentError(["Lost"]) from None
        raise StudentError(kinds or ["error"], None if place is None else _place(place))

    def renew(self, seconds: float) -> None:
        """Give the next check its time, and no object of the last one."""
        self.until = time.monotonic() + seconds


class _Untold(Exception):
    """A reply that the worker's own code would not have made."""


def _numbers(found: Any, count: int) -> tuple[int, ...]:
    if not isinstance(found, list) or len(found) != count:
        raise _Untold
    if not all(type(each) is int and -1 <= each < 10**6 for each in found):
        raise _Untold
    return tuple(found)


def _place(found: Any) -> tuple[int, int] | None:
    try:
        cell, line = _numbers(found, 2)
    except _Untold:
        return None
    return (cell, line) if cell >= 0 else None


def _loaded(said: Any) -> dict[str, Any]:
    try:
        held = said["value"]
        rests_on = {str(name): {str(each) for each in on} for name, on in held["rests_on"].items()}
        failed = [
            (*_numbers(list(each[:2]), 2), each[2] if each[2] in ERRORS else "an error of its own")
            for each in held["failed"]
        ]
        unread = [_numbers(list(each), 2) for each in held["unread"]]
        return {"rests_on": rests_on, "failed": failed[:20], "unread": unread[:20]}
    except (KeyError, TypeError, AttributeError, IndexError):
        raise _Untold from None


def mark(
    course: Course,
    notebook: bytes,
    place: Place,
    secret: str,
    *,
    name: str = "notebook",
    tasks: Iterable[str] | None = None,
) -> Result:
    """Mark a submission.

    Args:
        course: the assignment.
        notebook: as it was handed in.
        place: where its code runs.
        secret: from which inputs are drawn.
        name: of the submission, for messages.
        tasks: mark these alone.

    Raises:
        ValueError: for a submission that is not a notebook; the message says what to do.
        NotContained: if our side fails.
    """
    limits = place.limits
    if len(notebook) > limits.notebook:
        raise ValueError(
            f"{name}: {len(notebook) / 2**20:.0f} MiB: clear its outputs, and hand it in again"
        )
    cells = [each for each in source.submitted(notebook, name) if each[1].strip()]
    if sum(len(text) for kind, text in cells if kind == "code") > limits.source:
        raise ValueError(f"{name}: more code than {limits.source} characters: hand in your answers")
    chosen = [each for each in course.tasks if tasks is None or each in set(tasks)]
    coded = [each for each in course.coded if each in chosen]
    wanted = [each for task in coded for each in course.assignment.names(task)]
    found = [each for task in coded for each in course.sheet.of(task)]
    with Session(place, cells, wanted) as session:
        try:
            session.load()
        except StudentError:
            detail = "the notebook's process ended as it was loaded"
            lost = [outcome_of(each, "lost", detail) for each in found]
            return Result(lost, _left_out(session), {})
        first = _run(course, found, session, secret, limits)
        outcomes = _punished_once(course, found, first, session, secret)
        return Result(outcomes, _left_out(session), words(course, notebook, chosen))


def _run(
    course: Course, found: Sequence[Check], session: Session, secret: str, limits: Limits
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for check in found:
        lost = [each for each in outcomes if each.task == check.task and each.state == "lost"]
        if len(lost) >= PATIENCE:
            detail = "not run: this answer ended or took too long before"
            outcomes.append(outcome_of(check, "lost", detail))
        else:
            outcomes.append(run_check(course, check, Side(session.ask), secret, session, limits))
    return outcomes


def run_check(
    course: Course, check: Check, my: Side, secret: str, session: Session | None, limits: Limits
) -> Outcome:
    """Run one check, on a student's side or on the book's own."""
    outcome = partial(outcome_of, check)
    if session is not None:
        session.renew(limits.check)
    draw = Draw(secret, course.assignment.name, check.task, check.says)
    try:
        check.run(my, course.side(), draw)
        return outcome("right")
    except Wrong as wrong:
        return outcome("wrong", str(wrong))
    except wire.Unsendable as problem:
        return outcome("look", f"the check sends {problem}")
    except StudentError as error:
        if error.kinds[0] == "Lost":
            return outcome("lost", "it ended its process, or took too long or too much memory")
        return outcome("error", _raised(error))
    except Exception as error:
        # of a check that the book's own answer passes, it is the answer that cannot be used
        if session is not None and passes(course, check, secret, limits):
            return outcome("wrong", "it gives something of another kind")
        return outcome("look", f"the check itself fails: {type(error).__name__}")


def passes(course: Course, check: Check, secret: str, limits: Limits) -> bool:
    """Whether the book's own answer passes a check."""
    return run_check(course, check, course.side(), secret, None, limits).state == "right"


def _raised(error: StudentError) -> str:
    kind = error.kinds[0]
    if kind == "Unsendable":
        return "it gives something other than a number, text, list or tensor"
    known = next((each for each in error.kinds if each in ERRORS), "an error")
    if error.place is None:
        return f"it raised {known}"
    return f"it raised {known} in line {error.place[1]} of cell {error.place[0] + 1}"


def _punished_once(
    course: Course,
    found: Sequence[Check],
    first: Sequence[Outcome],
    session: Session,
    secret: str,
) -> list[Outcome]:
    """Run a failed check again with the book's version of an earlier answer that was wrong."""
    outcomes, full = list(first), course.marks
    got = {each.task: 0.0 for each in first}
    for each in first:
        got[each.task] += each.earned
    for task in got:
        earlier = course.tasks[: course.tasks.index(task)]
        names = course.assignment.names
        rests_on = set().union(
            *(session.loaded["rests_on"].get(name, set()) for name in names(task))
        )
        wrong = [
            each
            for each in earlier
            if each in got and got[each] < full[each] and rests_on & set(names(each))
        ]
        failed = [i for i, each in enumerate(first) if each.task == task and each.state != "right"]
        if not wrong or not failed:
            continue
        setup = course.assignment.setup()
        answers = {
            name: f"{setup}\n{course.assignment.solution(each)}"
            for each in wrong
            for name in names(each)
        }
        note = f"marked with the book's {', '.join(wrong)}, as yours is wrong"
        with Session(session.place, session.cells, session.wanted, answers) as again:
            repeated = _run(course, [found[i] for i in failed], again, secret, session.place.limits)
        for i, each in zip(failed, repeated, strict=True):
            if each.state == "right":
                outcomes[i] = each._replace(detail=note)
    return outcomes


def _left_out(session: Session) -> list[str]:
    """The parts of a submission that were not run, and why, by the numbers of its cells."""
    said = [f"cell {cell + 1}, line {line}: cannot be read" for cell, line in
            session.loaded.get("unread", [])]  # fmt: skip
    said += [
        f"cell {cell + 1}, line {line}: raised {kind}"
        for cell, line, kind in session.loaded.get("failed", [])
    ]
    return said + [
        f"cell {cell + 1}, line {line}: ended the process, or took too long"
        for cell, line in session.skip.values()
    ]


def words(course: Course, notebook: bytes, tasks: Iterable[str]) -> dict[str, str]:
    """The texts that people mark, by task; empty if the cell's tags are gone."""
    found = {task: "" for task in tasks if course.assignment.in_words(task)}
    for cell in source.read_notebook(notebook, "notebook")["cells"]:
        for task in found:
            if {f"task-{task}", "words"} <= {*source.tags_of(cell)}:
                found[task] = source.text_of(cell)
    return found
