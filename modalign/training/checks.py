"""Errors for arguments of a run that do not fit."""

import pathlib
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

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
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        came = f"{type(model).__name__} and {type(optimizer).__name__}"
        raise TypeError(f"fit: expected a torch module and an optimizer, got {came}")
    kinds = {"schedule_by": By, "precision": Precision, "device": Device, "mode": Mode}
    for name, kind in kinds.items():
        require_choice(settings[name], get_args(kind), name)
    if (epochs is None) == (settings["steps"] is None):
        raise ValueError("fit: give either epochs or steps, and not both")
    require_at_least(0, epochs=epochs, steps=settings["steps"], seed=settings["seed"])
    at_least_one = ("accumulate", "every", "patience")
    require_at_least(1, checkpoint_every=checkpoint_every, **{k: settings[k] for k in at_least_one})
    if settings["clip"] is not None and not settings["clip"] > 0:
        raise ValueError(f"clip: expected a norm above 0, got {settings['clip']}")
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
    generator = getattr(batches, "generator", None) or getattr(
        getattr(batches, "sampler", None), "generator", None
    )
    if path is not None and generator is not None:
        raise ValueError(
            "batches: a loader with a generator of its own cannot be taken up where it was; leave "
            "generator out, and seed orders it"
        )


def require_new(names: Iterable[str], taken: Container[str], by: str) -> None:
    for name in names:
        if name in taken:
            raise ValueError(f"{by}: {name!r} is another column of the history; rename it")


def require_at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name}: expected a whole number from {least}, got {value!r}")
