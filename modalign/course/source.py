"""An assignment, read from the Exercises section of a chapter: one source, three copies.

Cells of a task carry the tag ``task-NAME``: texts, one code cell tagged ``solution`` with the two
marker lines of nbgrader around what students write, and visible checks tagged ``check``. What they
write may be numbers: a region at the margin whose lines are all ``name = value``. A cell tagged
``words`` holds a text that people mark. A cell tagged ``course-setup`` holds imports.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modalign._parsing import parse

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = 'raise NotImplementedError("your answer")'
START_FOLD, END_FOLD = (
    re.compile(rf"^`{{3,}}\{{{each}\}}") for each in ("solution-start", "solution-end")
)
TASK = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
REGION = re.compile(rf"^([ \t]*){BEGIN}[ \t]*\n(.*?)^[ \t]*{END}[ \t]*$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"([A-Za-z]\w*) = ")


class Cell(NamedTuple):
    """A cell of an assignment: ``role`` is setup, text, solution, check or words."""

    kind: str
    source: str
    role: str
    task: str = ""


class Assignment(NamedTuple):
    """The assignment of a chapter: its cells in order."""

    name: str
    cells: list[Cell]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(each.task for each in self.cells if each.task))

    def solution(self, task: str) -> str:
        """The source of a task's answer; the reference text of one in words."""
        found = [each for each in self.cells if each.task == task]
        return next(each.source for each in found if each.role in ("solution", "words"))

    def in_words(self, task: str) -> bool:
        return any(each.task == task and each.role == "words" for each in self.cells)

    def names(self, task: str) -> list[str]:
        """The names that an answer must define: functions, classes and values of the solution."""
        if self.in_words(task):
            return []
        found = []
        for node in parse(self.solution(task)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.append(node.name)
            elif isinstance(node, ast.Assign):
                found += [each.id for each in node.targets if isinstance(each, ast.Name)]
        return [name for name in found if not name.startswith("_")]

    def setup(self) -> str:
        return "\n".join(each.source for each in self.cells if each.role == "setup")


def read(path: Path) -> Assignment:
    """The assignment of a chapter's notebook.

    Raises:
        ValueError: if there is none, or it is not whole; one sentence says what to do.
    """
    if not path.is_file():
        raise ValueError(f"{path.stem}: no chapter of that name: expected {path}")
    name, cells, closed = path.stem, [], list[str]()
    for number, cell in enumerate(read_notebook(path.read_bytes(), path.name)["cells"], start=1):
        tags = tags_of(cell)
        tasks = [tag.removeprefix("task-") for tag in tags if tag.startswith("task-")]
        where, source = f"{path.name}, cell {number}", text_of(cell)
        if not tasks:
            if "course-setup" in tags:
                cells.append(Cell("code", source, "setup"))
            continue
        if len(tasks) > 1 or not TASK.fullmatch(tasks[0]):
            raise ValueError(f"{where}: give it one tag task-NAME of letters, got {tags}")
        if cells and cells[-1].task != tasks[0]:
            closed.append(cells[-1].task)
        if tasks[0] in closed:
            raise ValueError(
                f"{where}: a second task {tasks[0]}: give it another name, or move its cells "
                "beside the first"
            )
        roles = {"solution", "check", "words"} & set(tags)
        cells.append(Cell(cell["cell_type"], source, roles.pop() if roles else "text", tasks[0]))
        if cells[-1].role == "solution":
            _require_closed(source, where)
    if not any(each.task for each in cells):
        raise ValueError(f"{name}: no assignment: tag cells of {path} with task-NAME")
    made = Assignment(name, cells)
    for task in made.tasks:
        _require_whole(made, task, path.name)
    return made


def _require_closed(source: str, where: str) -> None:
    marks = [line.strip() for line in source.splitlines() if line.strip() in (BEGIN, END)]
    if not marks or marks != [BEGIN, END] * (len(marks) // 2):
        raise ValueError(f"{where}: put {BEGIN} and {END} around what students write, each once")


def _require_whole(assignment: Assignment, task: str, where: str) -> None:
    roles = [each.role for each in assignment.cells if each.task == task]
    answers = roles.count("solution") + roles.count("words")
    if answers != 1:
        raise ValueError(f"{where}: task-{task}: tag one cell solution (or words), got {answers}")
    if "words" in roles:
        return
    if "check" not in roles:
        raise ValueError(f"{where}: task-{task}: tag at least one cell check, got none")
    if not assignment.names(task):
        raise ValueError(f"{where}: task-{task}: its solution defines no name to mark")


def read_notebook(held: bytes, name: str) -> dict[str, Any]:
    """A notebook as a tree, whatever wrote it: Windows line ends and a BOM do no harm.

    Raises:
        ValueError: for anything but a notebook.
    """
    try:
        tree = json.loads(held.decode("utf-8-sig"))
        cells = tree["cells"]
        if not all(isinstance(text_of(cell), str) and cell["cell_type"] for cell in cells):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        said = "is empty" if not held.strip() else "is not a notebook (JSON with cells)"
        raise ValueError(f"{name}: {said}: save it again in Jupyter and hand it in again") from None
    return {**tree, "cells": cells}


def text_of(cell: dict[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def tags_of(cell: Mapping[str, Any]) -> list[str]:
    return list(cell.get("metadata", {}).get("tags", []))


def without_markers(source: str) -> str:
    """A solution as the page shows it.

    >>> without_markers("def f():\\n    ### BEGIN SOLUTION\\n    return 1\\n    ### END SOLUTION")
    'def f():\\n    return 1'
    """
    return "\n".join(line for line in source.split("\n") if line.strip() not in (BEGIN, END))


def stubbed(source: str) -> str:
    """A solution with its regions replaced by a stub; numbers keep their names.

    >>> print(stubbed("def f():\\n    ### BEGIN SOLUTION\\n    return 1\\n    ### END SOLUTION"))
    def f():
        raise NotImplementedError("your answer")
    >>> print(stubbed("### BEGIN SOLUTION\\nshare = 1 / 3\\n### END SOLUTION"))
    share = ...
    """

    def stub(region: re.Match[str]) -> str:
        named = [NUMBER.match(line) for line in region[2].splitlines()]
        kept = [f"{each[1]} = ..." for each in named if each]
        return "\n".join(kept) if kept and len(kept) == len(named) else region[1] + STUB

    return REGION.sub(stub, source)


def instructor(assignment: Assignment) -> dict[str, Any]:
    """The copy with the answers."""
    return _notebook(assignment, assignment.cells)


def student(assignment: Assignment, *, markers: bool = False) -> dict[str, Any]:
    """The copy to work in: no line of a solution is in it.

    Args:
        markers: keep the answers between their markers, for nbgrader, which takes them out itself.
    """
    cells, folded = [], False
    for cell in assignment.cells:
        source = cell.source
        if cell.role == "text":
            lines, last = [], ""
            for line in source.split("\n"):
                folded = folded or bool(START_FOLD.match(line))
                if not folded:
                    lines.append(line)
                folded = folded and not END_FOLD.match(last)  # its fence closes on the next line
                last = line
            source = "\n".join(lines).strip("\n")
            if not source:
                continue
        elif cell.role == "solution" and not markers:
            source = stubbed(source)
        elif cell.role == "words":
            source = "*Your answer, in place of this line.*"
        cells.append(cell._replace(source=source))
    return _notebook(assignment, cells)


def _notebook(assignment: Assignment, cells: Sequence[Cell]) -> dict[str, Any]:
    made = []
    for number, cell in enumerate(cells):
        tags = [f"task-{cell.task}"] if cell.task else ["course-setup"]
        tags += [cell.role] if cell.role in ("solution", "check", "words") else []
        held: dict[str, Any] = {
            "cell_type": cell.kind,
            "id": f"{cell.task or 'setup'}-{number}",
            "metadata": {"tags": tags},
            "source": cell.source,
        }
        if cell.kind == "code":
            held |= {"outputs": [], "execution_count": None}
        made.append(held)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about = {"kernelspec": kernel, "modalign": {"assignment": assignment.name}}
    return {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def plain(notebook: dict[str, Any], root: Path) -> dict[str, Any]:
    """A copy whose directives and references are plain Markdown."""
    import nbformat

    from modalign.rerun import plain as markup

    made = markup.plain(nbformat.from_dict(copy.deepcopy(notebook)), {}, markup.names(root), root)
    return dict(json.loads(nbformat.writes(made)))


def submitted(held: bytes, name: str) -> Iterator[tuple[str, str]]:
    """Kind and source of each cell of a submission.

    Raises:
        ValueError: for anything but a notebook.
    """
    for cell in read_notebook(held, name)["cells"]:
        yield str(cell["cell_type"]), text_of(cell)
