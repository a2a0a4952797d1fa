"""Hidden checks: how they are written, what they are given, and what they compare.

A check reads like a test, and compares numbers with the book's on drawn inputs::

    @sheet.check("hsic", 2, "blind to the mean")
    def _(my, book, draw):
        x = draw.normal(7, 4)
        close(my.hsic(x @ x.T + 3), book.hsic(x @ x.T))

``my`` calls the student's functions in their process; ``book`` calls the solutions here.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import random
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from modalign.course import source
from modalign.course.inside import wire, worker

_ONE_AT_A_TIME = threading.RLock()  # solutions may draw from the process's own generator


class Wrong(Exception):
    """An answer is not the book's."""


class StudentError(Exception):
    """The student's code raised, or its process was lost; ``kinds`` are its type and its bases."""

    def __init__(self, kinds: Sequence[str], place: tuple[int, int] | None = None) -> None:
        super().__init__(kinds[0])
        self.kinds, self.place = list(kinds), place


class Ask(Protocol):
    """How a side answers; the verbs are those of ``inside/worker.py``."""

    def __call__(self, do: str, **request: Any) -> Any: ...


class Thing:
    """A function, an object or a part of one, on one of both sides.

    Calling it gives a value. ``.make`` keeps the result there, as a Thing; ``.gradients`` gives
    those of the result's sum (or of its product with ``along``) by all arguments that ask for one;
    ``.after`` gives the arguments as they are after the call. ``.value`` is its value.
    """

    def __init__(self, ask: Ask, on: Any, path: tuple[str, ...] = ()) -> None:
        self.__dict__.update(_ask=ask, _on=on, _path=list(path))

    def __getattr__(self, name: str) -> Thing:
        return Thing(self._ask, self._on, (*self._path, name))

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", on=self._on, path=[*self._path, name], value=_handed(value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("value", args, kwargs)

    def make(self, *args: Any, **kwargs: Any) -> Thing:
        return Thing(self._ask, self._call("number", args, kwargs))

    def gradients(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("gradients", args, kwargs)

    def after(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("after", args, kwargs)

    @property
    def value(self) -> Any:
        return self._ask("get", on=self._on, path=self._path)

    def _call(self, returns: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._ask(
            "call",
            on=self._on,
            path=self._path,
            args=_handed(list(args)),
            kwargs=_handed(kwargs),
            returns=returns,
        )


class Side:
    """One of both sides: ``side.NAME`` is what an answer defines.

    ``side.put(value)`` keeps a value there, and ``side.code(source, name)`` a marker's function.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def __getattr__(self, name: str) -> Thing:
        return Thing(self._ask, name)

    def put(self, value: Any) -> Thing:
        return Thing(self._ask, self._ask("define", value=_handed(value)))

    def code(self, text: str, name: str) -> Thing:
        return Thing(self._ask, self._ask("define", value=name, source=text))


def _handed(value: Any) -> Any:
    """Things by their numbers."""
    if isinstance(value, Thing):
        if not value._path and isinstance(value._on, wire.Handle):
            return value._on
        return value._ask("get", on=value._on, path=value._path, returns="number")
    if isinstance(value, dict):
        return {key: _handed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_handed(each) for each in value)
    return value


def here(names: dict[str, Any]) -> Side:
    """The side of the book: the same verbs, in this process, on the solutions' names."""
    held = worker.Submission(None)  # type: ignore[arg-type]
    held.names = names

    def ask(do: str, **request: Any) -> Any:
        with _ONE_AT_A_TIME:
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - it is a student's that is set
            # through the wire, so that both sides get copies and give back the same kinds
            return wire.decode(wire.encode(getattr(held, do)(**wire.decode(wire.encode(request)))))

    return Side(ask)


class Draw:
    """Inputs drawn from the course's secret: the same for the same course, assignment and check."""

    def __init__(self, secret: str, *names: str) -> None:
        seed = hashlib.sha256("\0".join([secret, *names]).encode()).digest()[:7]
        self.generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return x.to(dtype).requires_grad_(grad)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).to(dtype)

    def masses(self, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Numbers above 0 that sum to one."""
        x = self.uniform(n) + 0.2
        return (x / x.sum()).to(dtype)

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator)

    def rotation(self, d: int) -> Tensor:
        return torch.linalg.qr(self.normal(d, d)).Q


def close(answer: Any, expected: Any, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Compare an answer with the book's: kinds, shapes, types of numbers, and the numbers.

    Raises:
        Wrong: if they differ; its text names no number.
    """
    if isinstance(expected, list | tuple):
        if type(answer) is not type(expected) or len(answer) != len(expected):
            raise Wrong(f"expected a {type(expected).__name__} of another length, or another kind")
        for one, other in zip(answer, expected, strict=True):
            close(one, other, rtol=rtol, atol=atol)
    elif isinstance(expected, dict):
        if not isinstance(answer, dict) or answer.keys() != expected.keys():
            raise Wrong("expected a dictionary with other keys, or another kind")
        close([answer[key] for key in expected], list(expected.values()), rtol=rtol, atol=atol)
    elif isinstance(expected, Tensor):
        if not isinstance(answer, Tensor):
            raise Wrong("expected a tensor")
        if answer.shape != expected.shape:
            raise Wrong("another shape")
        if answer.dtype != expected.dtype:
            raise Wrong("another type of numbers")
        if not torch.allclose(answer, expected, rtol=rtol, atol=atol, equal_nan=True):
            raise Wrong("wrong numbers")
    elif isinstance(expected, float):
        if type(answer) is not float:
            raise Wrong("expected a Python number")
        close(torch.tensor(answer), torch.tensor(expected), rtol=rtol, atol=atol)
    elif type(answer) is not type(expected) or answer != expected:
        raise Wrong("another value")


def near(answer: Thing, expected: Thing, *, digits: int) -> None:
    """Compare a number that a student typed with the book's, to so many digits after the point.

    Raises:
        Wrong: for another number, or anything but a Python number.
    """
    typed = answer.value
    if type(typed) not in (int, float):
        raise Wrong("expected a Python number")
    if not abs(typed - expected.value) <= 0.5 * 10.0**-digits + 1e-9:
        raise Wrong("another number")


def refuses(thing: Thing, *args: Any, **kwargs: Any) -> None:
    """Require that a call raises a ValueError, on whichever side.

    Raises:
        Wrong: if it returns, or raises another error.
    """
    try:
        thing(*args, **kwargs)
    except StudentError as raised:
        if "ValueError" in raised.kinds:
            return
        raise
    except ValueError:
        return
    raise Wrong("expected a ValueError, and none was raised")


class Check(NamedTuple):
    """A hidden check: its task, its marks, the property that it tests, and the function."""

    task: str
    marks: float
    says: str
    run: Callable[[Any, Any, Draw], None]


class Sheet:
    """The hidden side of an assignment.

    Args:
        title: for lists and reports.
        tasks: minutes of each task, by name; of one in words, minutes and marks.
    """

    def __init__(self, title: str, tasks: dict[str, int | tuple[int, float]]) -> None:
        self.title = title
        self.minutes = {
            name: each[0] if isinstance(each, tuple) else each for name, each in tasks.items()
        }
        self.by_hand = {name: each[1] for name, each in tasks.items() if isinstance(each, tuple)}
        self.checks: list[Check] = []

    def check(self, task: str, marks: float, says: str) -> Callable[[Any], Any]:
        """Add a check; students read its text, which names a property, never an input."""

        def add(run: Any) -> Any:
            self.checks.append(Check(task, marks, says, run))
            return run

        return add

    def numbers(self, task: str, marks: float, says: dict[str, str], *, digits: int) -> None:
        """Add a check by :func:`near` for each number of a task, whose names say what it is."""

        def compare(my: Any, book: Any, draw: Draw, *, name: str) -> None:
            near(getattr(my, name), getattr(book, name), digits=digits)

        for name, text in says.items():
            self.checks.append(Check(task, marks, text, functools.partial(compare, name=name)))

    def of(self, task: str) -> list[Check]:
        return [each for each in self.checks if each.task == task]

    def marks(self, task: str) -> float:
        return self.by_hand.get(task, 0) + sum(each.marks for each in self.of(task))


class Course(NamedTuple):
    """An assignment with its hidden checks, and the book's answers."""

    assignment: source.Assignment
    sheet: Sheet
    names: dict[str, Any]

    @property
    def tasks(self) -> list[str]:
        return self.assignment.tasks

    @property
    def coded(self) -> list[str]:
        """The tasks that are not in words."""
        return [task for task in self.tasks if not self.assignment.in_words(task)]

    @property
    def marks(self) -> dict[str, float]:
        """The most that each task can earn."""
        return {task: self.sheet.marks(task) for task in self.tasks}

    def side(self) -> Side:
        return here(dict(self.names))


def assignments(root: Path) -> list[str]:
    """Names of all assignments: the files with hidden checks."""
    return sorted(each.stem for each in (root / "course").glob("*.py") if each.stem != "attacks")


def load(name: str, root: Path) -> Course:
    """An assignment of the book.

    Raises:
        ValueError: if there is no such assignment, or notebook and checks do not agree.
    """
    known = assignments(root)
    if name not in known:
        raise ValueError(f"{name}: no such assignment: choose one of {', '.join(known) or 'none'}")
    assignment = source.read(root / "notebooks" / f"{name}.ipynb")
    sheet = module(root / "course" / f"{name}.py").sheet
    where = f"course/{name}.py"
    if set(sheet.minutes) != set(assignment.tasks):
        raise ValueError(
            f"{where}: its tasks are {sorted(sheet.minutes)}, and those of the notebook "
            f"{sorted(assignment.tasks)}: make them agree"
        )
    for check in sheet.checks:
        if check.task not in assignment.tasks:
            raise ValueError(
                f"{where}: a check of {check.task}, which is not a task: correct its name"
            )
    for task in assignment.tasks:
        if assignment.in_words(task) != (task in sheet.by_hand):
            raise ValueError(f"{where}: {task}: give minutes and marks of a task in words alone")
        if not sheet.of(task) and not assignment.in_words(task):
            raise ValueError(f"{where}: {task} has no hidden check: add one")
    names: dict[str, Any] = {"__name__": f"solutions of {name}"}
    for cell in assignment.cells:
        if cell.role in ("setup", "solution"):
            exec(compile(cell.source, f"<solution of {name}>", "exec"), names)
    return Course(assignment, sheet, names)


def module(path: Path) -> Any:
    """A Python file of ``course/`` as a module."""
    name = f"modalign_course_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{path}: expected a Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made
