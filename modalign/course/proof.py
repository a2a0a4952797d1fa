"""The marker proved like an instrument: answers that must be right, wrong, harmless, or unharmed.

The trials of an assignment stand in ``course/proofs/NAME.py``: ``ALTERNATIVES`` and ``BUGS``,
each by task. A bug is a change of the book's answer: pairs of a text in it and its replacement, or
a whole answer. Empty answers, damaged notebooks and attacks are the same for all.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import modalign
from modalign._parsing import parse
from modalign.course import checks, marking, source
from modalign.course.checks import Course
from modalign.course.containment import LIMITS, Place
from modalign.course.source import tags_of

WHOLE = ("instructor", "untouched", "damage")
LEAST = {"bugs": 10, "alternatives": 3, "stubs": 5}
# an attack may be cut off early: it is to earn nothing
BRIEF = LIMITS._replace(load=6.0, check=1.0)

STUBS = {
    "as it was handed out": None,
    "nothing": "return None",
    "zero": "return torch.zeros(())",
    "one": "return torch.ones(())",
    "a number": "return 0.5",
    "its first argument": "return args[0]",
    "zeros like its first argument": "return torch.zeros_like(args[0])",
    "an even share": "return torch.full_like(args[0], 1 / args[0].numel())",
    "an error": "raise ValueError('no')",
    "an empty list": "return []",
}


class Trial(NamedTuple):
    """One notebook to mark: ``task`` alone, or all; ``wants`` is full, less or nothing."""

    kind: str
    task: str
    name: str
    notebook: bytes
    wants: str


class Finding(NamedTuple):
    """The marks earned, and those possible."""

    trial: Trial
    earned: float
    full: float
    problem: str = ""

    @property
    def holds(self) -> bool:
        wanted = {
            "full": self.earned == self.full,
            "less": self.earned < self.full,
            "nothing": self.earned == 0,
        }
        return wanted[self.trial.wants] and not self.problem


def trials(course: Course, root: Path, *, quick: bool = False) -> Iterator[Trial]:
    """All that is tried on an assignment, attacks aside.

    Raises:
        ValueError: if there is less than the least of each kind, or a bug changes nothing.
    """
    path = root / "course" / "proofs" / f"{course.assignment.name}.py"
    if not path.is_file():
        raise ValueError(f"{course.assignment.name}: no proofs: write {path.relative_to(root)}")
    held = checks.module(path)
    whole = source.instructor(course.assignment)
    untouched = source.student(course.assignment)
    yield Trial("instructor", "", "the book's answers", _bytes(whole), "full")
    yield Trial("untouched", "", "as it was handed out", _bytes(untouched), "nothing")
    for name, damage in list(DAMAGE.items())[: 4 if quick else None]:
        yield Trial("damage", "", name, damage(json.loads(_bytes(whole))), "full")
    for task in course.coded:
        answer = course.assignment.solution(task)
        found: dict[str, dict[str, str | None]] = {
            "stubs": {name: _stub(course, task, body) for name, body in STUBS.items()},
            "alternatives": dict(held.ALTERNATIVES.get(task, {})),
            "bugs": {
                name: changed(answer, bug, f"{path.name}: {task}: {name}")
                for name, bug in held.BUGS.get(task, {}).items()
            },
        }
        for kind, wants in (("stubs", "nothing"), ("alternatives", "full"), ("bugs", "less")):
            if len(found[kind]) < LEAST[kind]:
                raise ValueError(
                    f"course/proofs/{path.name}: {task}: expected at least {LEAST[kind]} {kind}, "
                    f"got {len(found[kind])}"
                )
            for name, text in list(found[kind].items())[: 2 if quick else None]:
                yield Trial(kind, task, name, _with(whole, task, text or ""), wants)


def changed(answer: str, bug: Any, where: str) -> str:
    """An answer with a bug planted.

    Raises:
        ValueError: if the text to change is not in the answer, or is there twice.
    """
    if isinstance(bug, str):
        return bug
    for old, new in [bug] if isinstance(bug[0], str) else bug:
        if answer.count(old) != 1:
            raise ValueError(f"{where}: expected once in the answer, and found {answer.count(old)} "
                             f"times: {old!r}")  # fmt: skip
        answer = answer.replace(old, new)
    return answer


def _stub(course: Course, task: str, body: str | None) -> str:
    answer = course.assignment.solution(task)
    if body is None:
        return source.stubbed(answer)
    made = "import torch\n"
    for node in parse(answer).body:
        if isinstance(node, ast.FunctionDef):
            made += f"def {node.name}(*args, **kwargs):\n    {body}\n"
        elif isinstance(node, ast.ClassDef):
            methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
            made += f"class {node.name}:\n"
            for name in methods:
                what = "pass" if name == "__init__" else body
                made += f"    def {name}(self, *args, **kwargs):\n        {what}\n"
        elif isinstance(node, ast.Assign):
            target = ast.unparse(node.targets[0])
            made += f"def stub(*args):\n    {body}\n{target} = stub(torch.zeros(()))\n"
    return made


def _bytes(notebook: Mapping[str, Any]) -> bytes:
    return json.dumps(notebook).encode()


def _with(notebook: Mapping[str, Any], task: str, answer: str) -> bytes:
    """A copy with another answer to a task."""
    cells = [
        {**cell, "source": answer} if {f"task-{task}", "solution"} <= {*tags_of(cell)} else cell
        for cell in notebook["cells"]
    ]
    return _bytes({**notebook, "cells": cells})


# damage that must cost no mark

Cell = dict[str, Any]


def _code(text: str) -> Cell:
    return {"cell_type": "code", "metadata": {}, "source": text, "outputs": []}


def _cells(change: Callable[[list[Cell]], list[Cell]]) -> Callable[[Any], bytes]:
    return lambda notebook: _bytes({**notebook, "cells": change(notebook["cells"])})


def _each(change: Callable[[Cell], Cell]) -> Callable[[Any], bytes]:
    return _cells(lambda cells: [{**cell, **change(cell)} for cell in cells])


def _answers(cells: list[Cell], change: Callable[[Cell], Cell]) -> list[Cell]:
    return [{**each, **change(each)} if "solution" in tags_of(each) else each for each in cells]


def _before(text: str) -> Callable[[Any], bytes]:
    return _cells(lambda cells: [_code(text), *cells])


def _windows(notebook: Any) -> bytes:
    made = _each(lambda cell: {"source": cell["source"].replace("\n", "\r\n")})(notebook)
    return b"\xef\xbb\xbf" + json.dumps(json.loads(made), indent=1).replace("\n", "\r\n").encode()


DAMAGE: dict[str, Callable[[Any], bytes]] = {
    "all cells twice": _cells(lambda cells: cells + cells),
    "metadata stripped": _each(lambda cell: {"metadata": {}}),
    "answers turned to Markdown": _cells(
        lambda cells: _answers(cells, lambda cell: {"cell_type": "markdown"})
    ),
    "an endless loop in a cell": _before("while True:\n    pass"),
    "checks deleted": _cells(
        lambda cells: [each for each in cells if "check" not in tags_of(each)]
    ),
    "a syntax error in another cell": _before("def broken(:"),
    "magics and shell lines": _cells(
        lambda cells: [
            _code("%matplotlib inline\n!ls\n?print"),
            *_answers(cells, lambda cell: {"source": f"%time 1\n{cell['source']}"}),
            _code("%%bash\nrm -rf nothing"),
        ]
    ),
    "input()": _before("name = input('Who are you? ')"),
    "15 MB of outputs": _cells(
        lambda cells: [*cells, {**_code("1"), "outputs": [{"text": "0" * 15_000_000}]}]
    ),
    "Windows line ends and a BOM": _windows,
    "sources as lists of lines": _each(lambda cell: {"source": cell["source"].splitlines(True)}),
    "an experiment that fails": _cells(lambda cells: [*cells, _code("1 / 0"), _code("undefined")]),
}


def run_book(course: Course) -> str:
    """Run every code cell of the instructor's copy in order; returns the error, or nothing."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(course.assignment.cells, start=1):
        if cell.kind != "code":
            continue
        try:
            exec(compile(cell.source, f"<cell {number}>", "exec"), names)
        except Exception as error:  # of any kind: it is reported, and the proof fails
            return f"cell {number}: {type(error).__name__}: {error}"[:300]
    return ""


def prove(
    course: Course, root: Path, place: Place, secret: str, *, quick: bool = False, jobs: int = 1
) -> list[Finding]:
    """Mark everything that is tried on an assignment."""

    def one(trial: Trial) -> Finding:
        tasks = [trial.task] if trial.task else course.coded
        full = sum(course.marks[task] for task in tasks)
        found = marking.mark(course, trial.notebook, place, secret, tasks=tasks)
        looked = [each.detail for each in found.outcomes if each.state == "look"]
        return Finding(trial, found.earned, full, "; ".join(looked))

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, trials(course, root, quick=quick)))


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


class Scene:
    """The targets of attacks (files, a bystander, a server), and whether they still stand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, os.urandom(16).hex()
        (folder / "course.toml").write_text(f'secret = "{self.token}"\n')
        (folder / "marks.csv").write_text("student,marks\nother,5\n")
        (folder / "other.ipynb").write_text(json.dumps({"cells": [], "note": self.token}))
        for path in folder.iterdir():
            path.chmod(0o600)
        self.victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.before = self._state()

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        self.server.close()

    def _state(self) -> dict[str, Any]:
        return {
            path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns,
                        os.listxattr(path) if hasattr(os, "listxattr") else [])
            for path in sorted(self.folder.iterdir())
        }  # fmt: skip

    def harm(self) -> str:
        """The harm that was done; empty if there is none."""
        if self._state() != self.before:
            return "files were touched"
        if self.victim.poll() is not None:
            return "a bystander was killed"
        left = [place for place in ("/tmp", "/var/tmp", "/dev/shm")
                if os.path.exists(f"{place}/modalign-attack")]  # fmt: skip
        if left:
            return f"a file was left in {left[0]}"
        if any(b"sleep\x00987" in each for each in _command_lines()):
            return "a process stayed"
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return ""
        return "a server was reached"

    def filled(self, text: str, name: str) -> str:
        return string.Template(text).safe_substitute(
            name=name,
            folder=self.folder,
            marker=os.getpid(),
            victim=self.victim.pid,
            port=self.server.getsockname()[1],
            package=Path(modalign.__file__).parent,
        )


def attack(course: Course, root: Path, kind: str, secret: str) -> list[Finding]:
    """Run each attack as the answer to the first task, and see what it earns, learns and harms."""
    task = course.tasks[0]
    (name, *_) = course.assignment.names(task)
    whole, full = source.instructor(course.assignment), course.sheet.marks(task)
    found = []
    with tempfile.TemporaryDirectory() as folder, Place(kind, BRIEF) as place:
        scene = Scene(Path(folder))
        try:
            for title, text in checks.module(root / "course" / "attacks.py").ATTACKS.items():
                answer = scene.filled(text, name)
                trial = Trial("attacks", task, title, _with(whole, task, answer), "nothing")
                result = marking.mark(course, trial.notebook, place, secret, tasks=[task])
                feedback = " ".join(each.detail for each in result.outcomes) + str(result.left_out)
                problem = scene.harm() or _learned(answer, name, place, scene.token, feedback)
                found.append(Finding(trial, result.earned, full, problem))
        finally:
            scene.close()
    return found


def _learned(answer: str, name: str, place: Place, token: str, feedback: str) -> str:
    """The secret that an attack can say, or that feedback reveals; empty if there is none."""
    with marking.Session(place, [("code", answer)], [name]) as session:
        session.renew(BRIEF.check)
        try:
            session.load()
            said = repr(
                session.ask("call", on=name, path=[], args=[1.5], kwargs={}, returns="value")
            )
        except checks.StudentError:
            return "a hidden input is revealed" if "tensor(" in feedback else ""
    return "a secret was read" if token in said or "imported the package" in said else ""


def report(findings: list[Finding], course: Course, problem: str) -> dict[str, Any]:
    """The proof of an assignment as data."""

    def count(kind: str, task: str = "") -> dict[str, Any]:
        chosen = [each for each in findings if each.trial[:2] == (kind, task)]
        return {
            "tried": len(chosen),
            "hold": sum(each.holds for each in chosen),
            "fail": [
                f"{each.trial.name}: {each.earned:g} of {each.full:g} {each.problem}".strip()
                for each in chosen
                if not each.holds
            ],
        }

    return {
        "title": course.sheet.title,
        "marks": sum(course.marks.values()),
        "book": problem or "runs",
        **{kind: count(kind) for kind in WHOLE},
        "tasks": {task: {kind: count(kind, task) for kind in LEAST} for task in course.coded},
    }


def stands(proof: Mapping[str, Any]) -> bool:
    """Whether a proof holds: all, and of the bugs 95 in a hundred."""
    whole = all(not proof[kind]["fail"] for kind in WHOLE)
    tasks = proof["tasks"].values()
    rest = all(not task[kind]["fail"] for task in tasks for kind in ("stubs", "alternatives"))
    tried = sum(task["bugs"]["tried"] for task in tasks)
    caught = sum(task["bugs"]["hold"] for task in tasks)
    return proof["book"] == "runs" and whole and rest and caught >= 0.95 * tried


def check(
    names: list[str], root: Path, kind: str, secret: str, *, quick: bool, jobs: int, say: Any
) -> dict[str, Any]:
    """Prove assignments, and attack the first of them."""
    started = time.monotonic()
    courses = [checks.load(name, root) for name in names]
    made: dict[str, Any] = {}
    with Place(kind) as place:
        for course in courses:
            begun = time.monotonic()
            findings = prove(course, root, place, secret, quick=quick, jobs=jobs)
            proof = report(findings, course, run_book(course))
            proof["seconds"] = round(time.monotonic() - begun, 1)
            made[course.assignment.name] = proof
            say(proof)
    attacks = attack(courses[0], root, kind, secret)
    held = [each for each in attacks if each.holds]
    return {
        "quick": quick,
        "containment": kind,
        "seconds": round(time.monotonic() - started, 1),
        "assignments": made,
        "attacks": {
            "tried": len(attacks),
            "hold": len(held),
            "fail": [f"{e.trial.name}: {e.earned:g} {e.problem}" for e in attacks if not e.holds],
        },
    }


def text(proof: Mapping[str, Any]) -> str:
    """A proof in lines."""
    lines = [f"{proof['title']}: {proof['marks']:g} marks, {proof['seconds']:.0f} s"]
    failed = []
    for kind in WHOLE:
        lines.append(f"  {kind:<16}{proof[kind]['hold']} of {proof[kind]['tried']}")
        failed += proof[kind]["fail"]
    if proof["book"] != "runs":
        failed.append(f"the book's own notebook: {proof['book']}")
    for task, held in proof["tasks"].items():
        said = ", ".join(f"{kind} {held[kind]['hold']} of {held[kind]['tried']}" for kind in held)
        lines.append(f"  {task:<16}{said}")
        failed += [f"{task}, {kind}: {each}" for kind in held for each in held[kind]["fail"]]
    return "\n".join([*lines, *(f"    {each}" for each in failed)])
