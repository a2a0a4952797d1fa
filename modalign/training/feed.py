"""The batches of a run: drawn so that they can be drawn again, and shared among processes."""

import copy
import hashlib
import itertools
import pathlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor

from modalign._checks import describe
from modalign.training.batches import Shuffled
from modalign.training.progress import Run
from modalign.training.randomness import exchange, fresh, seed_all

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]


class Feed(Iterator[Any]):
    """The batches of one epoch after another.

    What a loader draws from the generators of Python, NumPy and torch depends on the seed and the
    epoch alone, and not on what the model draws between two batches. A batch can be looked at
    before its turn.
    """

    def __init__(self, batches: Batches, seed: int, device: torch.device) -> None:
        self.batches, self.seed, self.device = batches, seed, device
        self.epoch: int | None = None
        self.stream: Iterator[Any] = iter(())
        self.ahead: list[Any] = []

    def __next__(self) -> Any:
        return self.ahead.pop() if self.ahead else next(self.stream)

    @property
    def by_epoch(self) -> bool:
        """Whether a function of the caller's gives batches, which may know no further epoch."""
        return callable(self.batches) and not isinstance(self.batches, Shuffled)

    def open(self, epoch: int) -> None:
        """Begin an epoch, where looking ahead has not done so."""
        if self.epoch != epoch:
            self.epoch, self.ahead = epoch, []
            self.stream = _drawn(self.batches, epoch, self.seed, self.device)

    def require_any(self) -> None:
        """Refuse an epoch without a batch."""
        if not self.ahead:
            self.ahead = list(itertools.islice(self.stream, 1))
        if not self.ahead:
            raise ValueError(
                f"batches: expected at least one in every epoch, got none in {self.epoch}"
            )

    def look(self, epoch: int) -> str:
        """A digest of the batch that comes next; an error of the loader waits until it is due."""
        self.open(epoch)
        if not self.ahead:
            try:
                self.ahead = list(itertools.islice(self.stream, 1))
            except Exception as error:
                self.stream = _failing(error)
                return type(error).__name__
        return digest(self.ahead)

    def take_up(self, run: Run, path: pathlib.Path | None) -> None:
        """Go to where a run was, and refuse to go on with other rows than it would have seen."""
        if run.first is not None and self.look(run.epoch) != run.first:
            raise ValueError(
                f"batches: {path} cannot be taken up, since epoch {run.epoch + 1} begins with "
                "another batch than it did or would have. The data are others, or their order "
                "hangs on more than seed and epoch, such as on how often batches was read; give a "
                "function from the epoch to its batches, and pass resume=False to start over"
            )
        self.open(run.epoch)
        deque(itertools.islice(self, run.batch), maxlen=0)


def _drawn(batches: Batches, epoch: int, seed: int, device: torch.device) -> Iterator[Any]:
    if isinstance(batches, Shuffled | list | tuple):  # they draw nothing: save the exchange
        yield from batches(epoch) if callable(batches) else batches
        return
    others = exchange(fresh(device), device)
    try:
        seed_all(device, seed, epoch, 1)
        stream = iter(batches(epoch) if callable(batches) else batches)
    finally:
        own = exchange(others, device)
    while True:
        others = exchange(own, device)
        try:
            batch = next(stream)
        except StopIteration:
            return
        finally:
            own = exchange(others, device)
        yield batch


def _failing(error: Exception) -> Iterator[Any]:
    raise error
    yield


def digest(batch: Any) -> str:
    """A checksum of the values of a batch."""
    found = hashlib.sha256()
    for part in _leaves(batch):
        if isinstance(part, Tensor | np.ndarray):
            found.update(describe(part).encode())
            found.update(_bytes(part))
        elif isinstance(part, str | bytes | int | float | None):
            found.update(repr(part).encode())
    return found.hexdigest()


def _bytes(values: Tensor | np.ndarray) -> bytes:
    if isinstance(values, np.ndarray):
        return repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
    if values.layout is not torch.strided:
        values = values.to_dense()
    values = values.detach().cpu().resolve_conj().resolve_neg().reshape(-1).contiguous()
    return values.view(torch.uint8).numpy().tobytes()


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, Mapping):
        batch = batch.values()
    elif not isinstance(batch, list | tuple):
        yield batch
        return
    for part in batch:
        yield from _leaves(part)


def own_rows(batch: Any, accelerator: Accelerator) -> tuple[Any, float, float]:
    """This process's rows on its device, their number, and their weight in the mean gradient.

    Of fewer rows than processes each takes all of them, with the weight of its share.
    """
    rows = _rows(batch)
    number, process = accelerator.num_processes, accelerator.process_index
    own = rows / number
    if 1 < number <= rows:
        part = slice(rows * process // number, rows * (process + 1) // number)
        own = part.stop - part.start
        batch = _cut(batch, part, rows)
    return send_to_device(batch, accelerator.device, non_blocking=True), own, own * number / rows


def _rows(batch: Any) -> int:
    """Number of examples: the first dimension of the first tensor that has one."""
    tensors = (each for each in _leaves(batch) if isinstance(each, Tensor) and each.dim())
    rows = next((len(tensor) for tensor in tensors), 0)
    if not rows:
        raise ValueError(f"batches: expected tensors with examples in rows, got {describe(batch)}")
    return rows


def _cut(batch: Any, part: slice, rows: int) -> Any:
    """A part of what has an entry for each example, and all else as it is."""
    if isinstance(batch, Tensor | np.ndarray):
        return batch[part] if batch.ndim and len(batch) == rows else batch
    if isinstance(batch, Mapping):
        kept: Any = copy.copy(batch) if isinstance(batch, MutableMapping) else dict(batch)
        for name, value in batch.items():
            kept[name] = _cut(value, part, rows)
        return kept
    if not isinstance(batch, list | tuple):
        return batch
    if len(batch) == rows and not any(
        isinstance(each, Tensor | np.ndarray) for each in _leaves(batch)
    ):
        return batch[part]
    parts = [_cut(each, part, rows) for each in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
