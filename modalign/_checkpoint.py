"""A run in one file: written in one piece, and read without running code."""

import os
import pathlib
import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the generators of Python, NumPy, torch and the device, as plain values."""
    kind, keys, *place = np.random.get_state()  # noqa: NPY002  (what a model may draw from)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *place),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators back to what :func:`random_state` gave."""
    kind, keys, *place = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *place))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def mix(*words: int) -> int:
    """One seed from several numbers, so that neighbouring ones share nothing.

    >>> mix(0, 1) != mix(1, 0)
    True
    """
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def seed_all(device: torch.device, *words: int) -> None:
    """Seed the generators of Python, NumPy, torch and the device."""
    seed = mix(*words)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


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
        ValueError: where the file is cut short or something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise ValueError(
            f"checkpoint: {path} is cut short or no checkpoint ({_first_line(error)}); "
            "delete it, or pass resume=False, to start over"
        ) from error


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
