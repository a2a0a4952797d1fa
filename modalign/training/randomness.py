"""Seeds, and the states of all generators that a model may draw from."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand


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


def fresh(device: torch.device) -> list[Any]:
    """Generators for :func:`exchange`, to be seeded once they are in place."""
    return [
        random.getstate(),
        np.random.MT19937(0),
        torch.get_rng_state(),
        torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    ]


def exchange(new: list[Any], device: torch.device) -> list[Any]:
    """Put other generators in place, and give those that were.

    Of NumPy the generator itself changes hands: to read its state and to set it takes 0.1 ms each.
    """
    old = [random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state(), None]
    random.setstate(new[0])
    mtrand.set_bit_generator(new[1])
    torch.set_rng_state(new[2])
    if device.type == "cuda":
        old[3] = torch.cuda.get_rng_state(device)
        torch.cuda.set_rng_state(new[3], device)
    return old


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


@contextlib.contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)
