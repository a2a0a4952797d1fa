"""Errors for arguments of a run that do not fit."""

import functools
import inspect
import itertools
import numbers
import operator
import pathlib
import random
import types
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader

from modalign._checks import describe, require_choice

By = Literal["epoch", "step"]
Precision = Literal["no", "bf16", "fp16"]
Device = Literal["auto", "cpu"]
Mode = Literal["min", "max"]


def check_arguments(
    model: nn.Module,
    batches: Any,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    backward: Any,
    epochs: int | None,
    path: pathlib.Path | None,
    checkpoint_every: int | None,
    settings: Mapping[str, Any],
) -> None:
    """Refuse arguments of ``fit`` that do not fit each other."""
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        came = f"{type(model).__name__} and {type(optimizer).__name__}"
        raise TypeError(f"fit: expected a torch module and an optimizer, got {came}")
    kinds = {"schedule_by": By, "precision": Precision, "device": Device, "mode": Mode}
    for name, kind in kinds.items():
        require_choice(settings[name], get_args(kind), name)
    if (epochs is None) == (settings["steps"] is None):
        raise ValueError("fit: give either epochs or steps, and not both")
    if checkpoint_every is not None and path is None:
        raise ValueError("checkpoint_every: needs checkpoint, the file to write")
    if backward is not None and settings["accumulate"] > 1:
        raise ValueError("backward: works on one batch a step; leave accumulate at 1")
    if isinstance(batches, Iterator):
        raise ValueError(
            "batches: expected something to read once an epoch, got an iterator, which can be read "
            "once; give a function from the epoch to it"
        )
    own = {id(parameter) for parameter in model.parameters()}
    strangers = [p for g in optimizer.param_groups for p in g["params"] if id(p) not in own]
    if strangers:
        raise ValueError(
            f"optimizer: {len(strangers)} of its tensors are no parameters of model, the first "
            f"{describe(strangers[0])}; put all that is trained into one module"
        )
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("schedule: is of another optimizer than the one given")
    if isinstance(schedule, ReduceLROnPlateau) and settings["schedule_by"] == "step":
        raise ValueError("schedule_by: ReduceLROnPlateau follows epochs, got 'step'")
    if settings.get("closure"):
        check_closure(optimizer, backward, settings)
    if path is not None and not callable(batches):
        require_replayable(batches)


def needs_closure(optimizer: Any) -> bool:
    """Whether an optimizer's step cannot do without a closure, by its signature."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return False
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def check_closure(
    optimizer: torch.optim.Optimizer, backward: Any, settings: Mapping[str, Any]
) -> None:
    if not inspect.signature(optimizer.step).parameters:
        raise ValueError(
            f"closure: expected None, as the step of {type(optimizer).__name__} takes no closure"
        )
    if backward is not None:
        raise ValueError(
            "backward: expected none with an optimizer that computes gradients again within a step "
            f"(closure), got {describe(backward)}"
        )
    if settings["precision"] == "fp16":
        raise ValueError(
            "precision: expected 'no' or 'bf16' with an optimizer that computes gradients again "
            "within a step (closure), since losses are not scaled there, got 'fp16'"
        )


def carries_state(batches: Any) -> bool:
    """Whether a loader can tell where it is, and go there without reading again."""
    names = ("state_dict", "load_state_dict")
    return not callable(batches) and all(callable(getattr(batches, name, None)) for name in names)


def require_replayable(batches: Any) -> None:
    """Refuse a loader that would give a run that is taken up other rows."""
    remedy = "or give a function from the epoch to its batches, such as to a new loader"
    workers, carried = getattr(batches, "num_workers", 0), carries_state(batches)
    if workers and getattr(batches, "persistent_workers", False) and not carried:
        raise ValueError(
            "batches: workers that persist go on from one epoch to the next, and cannot be taken "
            f"up where they were; leave persistent_workers out, {remedy}"
        )
    if workers > 1 and not getattr(batches, "in_order", True):
        raise ValueError(
            f"batches: in_order=False gives an order of chance; leave it out, {remedy}"
        )
    if carried:  # but of torchdata's the next epoch hangs on draws that its state does not say
        shared = isinstance(batches, DataLoader) and batches.generator is not None
        places = iter(["batches.generator"] if shared else [])
    else:
        places = _generators(batches, "batches", {})
    for place in places:
        raise ValueError(
            f"batches: a loader with a generator of its own cannot be taken up where it was; leave "
            f"{place} out, and seed orders it, {remedy}"
        )


GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
GLOBAL = (torch.default_generator, np.random.mtrand._rand, random._inst)


def _generators(thing: Any, place: str, seen: dict[int, Any]) -> Iterator[str]:
    """Where an object holds generators, in what it is made of."""
    if id(thing) in seen or any(thing is each for each in GLOBAL):
        return
    seen[id(thing)] = thing
    if isinstance(thing, GENERATORS):
        yield place
        return
    if isinstance(thing, functools.partial):
        parts = {"args": thing.args, "keywords": thing.keywords, "func": thing.func}
    elif inspect.ismethod(thing):
        parts = {"__self__": thing.__self__}
    elif inspect.isfunction(thing):
        cells = [cell for cell in thing.__closure__ or () if cell != types.CellType()]
        parts = {f"closure.{place}": cell.cell_contents for place, cell in enumerate(cells)}
    elif isinstance(thing, Mapping):
        parts = {str(name): value for name, value in itertools.islice(thing.items(), 100)}
    elif isinstance(thing, list | tuple):
        parts = {str(place): value for place, value in enumerate(thing[:100])}
    elif isinstance(thing, type | nn.Module | torch.Tensor):
        return
    else:
        parts = getattr(thing, "__dict__", {})
    for name, part in parts.items():
        yield from _generators(part, f"{place}.{name}", seen)


def require_new(names: Iterable[str], taken: Container[str], by: str) -> None:
    for name in names:
        if name in taken:
            raise ValueError(f"{by}: {name!r} is another column of the history; rename it")


def require_numbers(found: Mapping[str, object], by: str) -> None:
    for name, value in found.items():
        if not is_number(value):
            raise ValueError(f"{by}: expected a number as {name!r}, got {describe(value)}")


def whole(value: object, least: int, name: str) -> int:
    """A whole number of Python, NumPy or torch as Python's."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name}: expected a whole number from {least}, got {value!r}")
    return number


def whole_or_none(value: object, least: int, name: str) -> int | None:
    return None if value is None else whole(value, least, name)


def positive(value: Any, name: str) -> float:
    """A number above 0 of Python, NumPy or torch as Python's."""
    if not is_number(value) or not value > 0:
        came = value if is_number(value) else describe(value)
        raise ValueError(f"{name}: expected a norm above 0, got {came}")
    return float(value)


def is_number(value: object) -> bool:
    """Whether it is one real number, of Python or NumPy or in a tensor."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    if isinstance(value, np.ndarray | np.generic):
        return value.size == 1 and value.dtype.kind in "biuf"
    return isinstance(value, numbers.Real)
