"""The batches of a run: drawn so that they can be drawn again, and shared among processes."""

import contextlib
import copy
import dataclasses
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
from torch.nn.utils.rnn import PackedSequence

from modalign._checks import describe
from modalign.training.batches import Shuffled
from modalign.training.checks import carries_state
from modalign.training.progress import Run
from modalign.training.randomness import exchange, fresh, random_state, seed_all, set_random_state

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]


class Feed(Iterator[Any]):
    """The batches of one epoch after another.

    What a loader draws from the generators of Python, NumPy and torch depends on the seed and the
    epoch alone, and not on what the model draws between two batches. A batch can be looked at
    before its turn.

    A loader that carries its own state (``state_dict`` and ``load_state_dict``, as torchdata's
    ``StatefulDataLoader``) is taken up by it, and reads nothing twice; any other by reading again.
    """

    def __init__(self, batches: Batches, seed: int, device: torch.device) -> None:
        self.batches, self.seed, self.device = batches, seed, device
        self.epoch: int | None = None
        self.stream: Iterator[Any] = iter(())
        self.ahead: list[Any] = []
        self.carries_state = carries_state(batches)
        self.noted: dict[str, Any] | None = None  # the loader's state before what is ahead

    def __next__(self) -> Any:
        if self.ahead or isinstance(self.stream, _Drawn):
            self.noted = None
        return self.ahead.pop() if self.ahead else next(self.stream)

    @property
    def by_epoch(self) -> bool:
        """Whether a function of the caller's gives batches, which may know no further epoch."""
        return callable(self.batches) and not isinstance(self.batches, Shuffled)

    def open(self, epoch: int) -> None:
        """Begin an epoch, where looking ahead has not done so."""
        if self.epoch != epoch:
            self.epoch, self.ahead = epoch, []
            self.stream = self._stream(epoch)

    def _stream(self, epoch: int) -> Iterator[Any]:
        if isinstance(self.batches, Shuffled | list | tuple):  # they draw nothing
            return iter(self.batches(epoch) if callable(self.batches) else self.batches)
        return _Drawn(self.batches, epoch, self.seed, self.device)

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

    def keep(self, run: Run, *, last: bool) -> None:
        """Note in a run, for its checkpoint, what comes next and where a loader with a state is.

        Args:
            run: that the checkpoint will hold.
            last: whether nothing comes next that could be looked at.
        """
        if self.carries_state:
            if not (run.batch or last):  # begun, so that its state is no longer the end of another
                self.open(run.epoch)
                self.stream.begin()  # type: ignore[attr-defined]
            run.loader = self.noted = self.noted or self._state()
        elif run.batch:
            return
        run.first = None if last else self.look(run.epoch)
        if run.loader and run.batch and run.first == NOTHING:  # the loader has noticed its end
            run.loader = self.noted = self._state()

    def _state(self) -> dict[str, Any]:
        """The state of the loader, with that of the generators that it draws from."""
        assert isinstance(self.stream, _Drawn)
        batches: Any = self.batches
        with self.stream.drawing():
            return {
                "loader": copy.deepcopy(batches.state_dict()),
                "random": random_state(self.device),
            }

    def take_up(self, run: Run, path: pathlib.Path | None) -> None:
        """Go to where a run was, and refuse to go on with other rows than it would have seen."""
        if self.carries_state and run.loader is not None:
            self._go_to(run, run.loader)
        if run.first is not None and self.look(run.epoch) != run.first:
            where = "goes on" if self.carries_state and run.batch else "begins"
            raise ValueError(
                f"batches: {path} cannot be taken up, since epoch {run.epoch + 1} {where} with "
                "another batch than it did or would have. The data are others, or their order "
                "hangs on more than seed and epoch, such as on how often batches was read, and on "
                "more than the state that a loader carries; give a function from the epoch to its "
                "batches, and pass resume=False to start over"
            )
        if not self.carries_state:
            self.open(run.epoch)
            deque(itertools.islice(self, run.batch), maxlen=0)

    def _go_to(self, run: Run, state: dict[str, Any]) -> None:
        """Give a loader its state back; it reads on from there."""
        batches: Any = self.batches
        batches.load_state_dict(copy.deepcopy(state["loader"]))
        self.epoch, self.ahead, self.noted = run.epoch, [], state
        if run.batch and run.first == NOTHING:  # read to its end: what comes is the next epoch
            self.stream = iter(())
        else:
            random = state["random"] if run.batch else None
            self.stream = _Drawn(self.batches, run.epoch, self.seed, self.device, random)


class _Drawn(Iterator[Any]):
    """The batches of an epoch, which have generators to themselves while they are drawn.

    Args:
        batches: a loader, or a function from the epoch to one.
        epoch: seeds the generators, with ``seed``.
        seed: of the run.
        device: whose generators are meant.
        random: what the generators are to be once the epoch has begun, to go on within it.
    """

    def __init__(
        self, batches: Batches, epoch: int, seed: int, device: torch.device, random: Any = None
    ) -> None:
        self.batches, self.epoch, self.seed, self.device = batches, epoch, seed, device
        self.random, self.own = random, fresh(device)
        self.stream: Iterator[Any] | None = None

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Put its generators in the place of those of all others, for a while."""
        others = exchange(self.own, self.device)
        try:
            yield
        finally:
            self.own = exchange(others, self.device)

    def begin(self) -> None:
        """Have the loader begin its epoch; an error of it waits until a batch is due."""
        if self.stream is not None:
            return
        with self.drawing():
            seed_all(self.device, self.seed, self.epoch, 1)
            batches = self.batches
            try:
                self.stream = iter(batches(self.epoch) if callable(batches) else batches)
            except Exception as error:
                self.stream = _failing(error)
            if self.random is not None:
                set_random_state(self.random, self.device)

    def __next__(self) -> Any:
        self.begin()
        try:
            with self.drawing():
                return next(self.stream)  # type: ignore[arg-type]
        except BaseException:
            self.stream = iter(())  # at its end, or broken: it is not asked again
            raise


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


def _fields(batch: Any) -> dict[str, Any] | None:
    """What a dataclass holds, by name; None for anything else."""
    if not dataclasses.is_dataclass(batch) or isinstance(batch, Mapping | list | tuple | type):
        return None
    return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}


def _parts(batch: Any) -> list[Any] | None:
    """What a batch holds that may hold more; None if it is one thing."""
    if isinstance(batch, Mapping):
        return [*batch.values()]
    if isinstance(batch, list | tuple):
        return [*batch]
    fields = _fields(batch)
    return None if fields is None else [*fields.values()]


def _leaves(batch: Any) -> Iterator[Any]:
    parts = _parts(batch)
    if parts is None:
        yield batch
        return
    for part in parts:
        yield from _leaves(part)


NOTHING = digest([])


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
    return _moved(batch, accelerator.device), own, own * number / rows


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device, and all else as it is."""
    if _parts(batch) is not None and not isinstance(batch, PackedSequence):
        return _rebuilt(batch, lambda part: _moved(part, device))
    return batch if isinstance(batch, str) else send_to_device(batch, device, non_blocking=True)


def _rows(batch: Any) -> int:
    """Number of examples: the length of the first tensor, or else array, or else plain list."""
    leaves = list(_leaves(batch))
    lengths = [
        *(len(each) for each in leaves if isinstance(each, Tensor) and each.dim()),
        *(len(each) for each in leaves if isinstance(each, np.ndarray) and each.ndim),
        *(len(each) for each in _lists(batch)),
    ]
    if not lengths or not lengths[0]:
        raise ValueError(f"batches: expected tensors with examples in rows, got {describe(batch)}")
    return lengths[0]


def _lists(batch: Any) -> Iterator[Any]:
    """Lists, in a batch, that hold no others."""
    parts = _parts(batch) or []
    if all(_parts(part) is None for part in parts):
        if isinstance(batch, list | tuple):
            yield batch
        return
    for part in parts:
        yield from _lists(part)


def _cut(batch: Any, part: slice, rows: int) -> Any:
    """A part of what has an entry for each example, and all else as it is."""
    if isinstance(batch, Tensor | np.ndarray):
        return batch[part] if batch.ndim and len(batch) == rows else batch
    if _parts(batch) is None:
        return batch
    of_examples = isinstance(batch, list | tuple) and len(batch) == rows
    if of_examples and not any(isinstance(each, Tensor | np.ndarray) for each in _leaves(batch)):
        return batch[part]
    return _rebuilt(batch, lambda each: _cut(each, part, rows))


def _rebuilt(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A mapping, list, tuple or dataclass of the same kind with other parts."""
    kept: Any
    if (fields := _fields(batch)) is not None:
        kept = copy.copy(batch)
        for name, value in fields.items():
            object.__setattr__(kept, name, change(value))  # of frozen ones too
        return kept
    if isinstance(batch, Mapping):
        kept = copy.copy(batch) if isinstance(batch, MutableMapping) else dict(batch)
        for name, value in batch.items():
            kept[name] = change(value)
        return kept
    parts = [change(each) for each in batch]
    if isinstance(batch, list):
        kept = copy.copy(batch)
        kept[:] = parts
        return kept
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
