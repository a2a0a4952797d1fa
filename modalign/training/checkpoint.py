"""A run in one file: written in one piece, and read without running code."""

import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from modalign._checks import describe
from modalign.training.randomness import random_state

PARTS = ("configuration", "states", "random")


class Checkpoint:
    """What a file keeps of a run, and what a run has to be to take it up.

    Args:
        path: the file; None keeps nothing.
        accelerator: of the run.
        configuration: what has to be equal, from :func:`configuration_of`.
        kept: named objects with ``state_dict`` and ``load_state_dict``, or None.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        accelerator: Accelerator,
        configuration: Mapping[str, str],
        kept: Mapping[str, Any],
    ) -> None:
        self.path, self.accelerator, self.configuration = path, accelerator, configuration
        self.kept = {name: each for name, each in kept.items() if each is not None}

    def save(self) -> None:
        """Write the file, from the main process."""
        if self.path is None:
            return
        random_states = gather_object([random_state(self.accelerator.device)])
        if self.accelerator.is_main_process:
            states = {name: each.state_dict() for name, each in self.kept.items()}
            values = (self.configuration, states, random_states)
            write(self.path, dict(zip(PARTS, values, strict=True)))

    def load(self) -> Any:
        """Take up the run where there is one; the random state of this process in it."""
        if self.path is None or not self.path.exists():
            return None
        content = read(self.path)
        configuration, states, random_states = (content[part] for part in PARTS)
        require_same(self.path, configuration, self.configuration)
        for name, each in self.kept.items():
            each.load_state_dict(states[name])
        return random_states[self.accelerator.process_index]


def configuration_of(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    settings: Mapping[str, Any],
) -> dict[str, str]:
    """What has to be equal for a run to be taken up."""
    groups = [len(group["params"]) for group in optimizer.param_groups]
    described = {
        **settings,
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "schedule": type(schedule).__name__,
        "optimizer": f"{type(optimizer).__name__} of {groups} tensors",
        **{f"optimizer's {k}": v for k, v in optimizer.defaults.items() if not callable(v)},
        **{f"model's {name}": describe(value) for name, value in model.state_dict().items()},
    }
    return {name: str(value) for name, value in described.items()}


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Replace the file in one piece: killed at any moment, it is the previous one or this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    with open(scratch, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        torch.load(scratch, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint: {path} would need code to be read again, so that it was not written: "
            f"a state is to hold tensors and plain values only ({_first_line(error)})"
        ) from error
    os.replace(scratch, path)


def read(path: pathlib.Path) -> dict[str, Any]:
    """Read what :func:`write` wrote.

    Raises:
        ValueError: where the file is cut short, damaged or something else.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise _unreadable(path, _first_line(error)) from error
    if damaged:
        raise _unreadable(path, f"{damaged} in it is damaged")
    if not isinstance(content, dict) or content.keys() != set(PARTS):
        raise _unreadable(path, f"it does not hold {', '.join(PARTS)}")
    return content


def _unreadable(path: pathlib.Path, why: str) -> ValueError:
    return ValueError(
        f"checkpoint: {path} is cut short or no checkpoint ({why}); "
        "delete it, or pass resume=False, to start over"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def require_same(path: pathlib.Path, was: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse a checkpoint of another run, naming the first things that differ."""
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if names:
        told = [f"{name} was {was.get(name)} and is {now.get(name)}" for name in names[:3]]
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"checkpoint: {path} is of another run: {'; '.join(told)}{more}. "
            "Name another file, or pass resume=False to start over"
        )
