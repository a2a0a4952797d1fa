"""A run in one file: written in one piece, and read without running code."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import pickle
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from modalign._checks import describe, describe_disk
from modalign.training.randomness import random_state

PARTS = ("configuration", "states", "random")
SEAL = b"modalign"
# a file's last bytes: the length of the comment of a zip, and the comment, SEAL and a SHA-256
LENGTH, TAIL = struct.Struct("<H"), len(SEAL) + hashlib.sha256().digest_size
_held: set[pathlib.Path] = set()


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
            states = {name: _plain(each.state_dict()) for name, each in self.kept.items()}
            values = (self.configuration, states, random_states)
            write(self.path, dict(zip(PARTS, values, strict=True)))

    def read(self) -> dict[str, Any] | None:
        """What the file holds of this run, None where there is no file."""
        if self.path is None or not self.path.exists():
            return None
        content = read(self.path)
        require_same(self.path, content["configuration"], self.configuration)
        return content

    def load(self, content: Mapping[str, Any]) -> Any:
        """Take up the run; the random state of this process in it."""
        for name, each in self.kept.items():
            each.load_state_dict(content["states"][name])
        return content["random"][self.accelerator.process_index]


def _plain(state: Any) -> Any:
    """Numbers of NumPy as Python's, which can be read without running code."""
    if isinstance(state, np.generic):
        return state.item()
    if type(state) is dict:
        return {_plain(name): _plain(value) for name, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_plain(value) for value in state)
    return state


@contextlib.contextmanager
def held(path: pathlib.Path | None) -> Iterator[None]:
    """Keep other runs from the file; the lock is the kernel's, and goes with a killed process.

    Raises:
        ValueError: where another run has the file, in this process or another.
        OSError: where nothing can be written there, or the file system has no locks.
    """
    if path is None:
        yield
        return
    if path.is_dir():
        raise ValueError(f"checkpoint: expected a file, got the folder {path}")
    if path in _held:  # no process is kept out by its own lock, and closing a second handle ends it
        raise _taken(path)
    _held.add(path)
    try:
        lock = path.with_name(f".{path.name}.lock")
        with _locked(lock, path):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        _held.discard(path)


def _locked(lock: pathlib.Path, path: pathlib.Path) -> IO[bytes]:
    """A file with a lock that children do not inherit: one that lives on must not keep it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "wb")  # noqa: SIM115  (held by the caller)
    except OSError as error:
        raise _failed(error, path, "could not be begun") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise _taken(path) from None
        raise _failed(error, path, "could not be locked against other runs") from error
    if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
        file.close()
        raise _taken(path)  # by a run that removed it as it ended
    return file


def _taken(path: pathlib.Path) -> ValueError:
    return ValueError(f"checkpoint: {path} is in use by another run; wait for it, or name another")


class Inner:
    """The state of an optimizer that another one holds, and leaves out of its own, as SAM does.

    Groups are not in it: the two share them, and the other one brings them back.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.optimizer.state_dict()["state"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        groups = self.optimizer.param_groups
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), **state})
        self.optimizer.param_groups = groups


def inner_optimizers(optimizer: Any) -> dict[str, Inner]:
    """The optimizers that an optimizer holds, but for those whose state is its own."""
    return {
        name: Inner(each)
        for name, each in getattr(optimizer, "__dict__", {}).items()
        if isinstance(each, torch.optim.Optimizer) and each.state is not optimizer.state
    }


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
    """Replace the file in one piece: killed at any moment, it is the previous one or this one.

    Raises:
        ValueError: where it holds what only code could make again.
        OSError: where the disk is full or fails.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        with open(scratch, "w+b") as file:
            torch.save(content, file)
            _seal(file)
            file.flush()
            os.fsync(file.fileno())
        torch.load(scratch, map_location="cpu", mmap=True, weights_only=True)
        os.replace(scratch, path)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        scratch.unlink(missing_ok=True)
        raise ValueError(
            f"checkpoint: {path} would need code to be read again, so that it was not written: "
            f"a state is to hold tensors and plain values only ({_first_line(error)})"
        ) from error
    except (OSError, RuntimeError) as error:
        scratch.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides it
        if not isinstance(cause, OSError):
            raise
        raise _failed(cause, path, "could not be written") from error


def _failed(error: OSError, path: pathlib.Path, what: str) -> OSError:
    before = "the one before is still there" if path.exists() else "there is none from before"
    why = f"{error.strerror or error} ({describe_disk(path)})"
    return OSError(error.errno, f"checkpoint: {path} {what}: {why}; {before}")


def _seal(file: IO[bytes]) -> None:
    """Append a checksum of the file, as the comment of the zip that it is."""
    file.seek(-LENGTH.size, os.SEEK_END)
    file.write(LENGTH.pack(TAIL))
    file.write(SEAL + _checksum(file, file.tell()))


def _checksum(file: IO[bytes], size: int) -> bytes:
    """Of the first bytes of a file; the place in it is behind them then."""
    found = hashlib.sha256()
    file.seek(0)
    while size and (block := file.read(min(size, 1 << 20))):
        found.update(block)
        size -= len(block)
    return found.digest()


def read(path: pathlib.Path) -> dict[str, Any]:
    """Read what :func:`write` wrote.

    Raises:
        ValueError: where any bit of the file is another, or the file is something else.
    """
    with open(path, "rb") as file:
        size = max(file.seek(0, os.SEEK_END) - TAIL, 0)
        checksum = _checksum(file, size)
        if file.read() != SEAL + checksum:
            raise _unreadable(path, "its checksum is missing or not that of the rest")
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _unreadable(path, _first_line(error)) from error
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
