"""What a run starts from: seeded weights, and batches in a seeded order."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from modalign._checks import checked, describe
from modalign.training.checks import whole
from modalign.training.randomness import mix

Made = TypeVar("Made")


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """Call ``make`` with torch's generators seeded, and put them back as they were.

    Raises:
        ValueError: for a seed that is no whole number from -2^63 to 2^64 - 1, as torch takes them.

    >>> first, again = (seeded(lambda: torch.nn.Linear(3, 2), seed=1) for _ in range(2))
    >>> torch.equal(first.weight, again.weight)
    True
    """
    if whole(seed, -(2**63), "seed") >= 2**64:
        raise ValueError(f"seed: expected a whole number below 2^64, got {seed}")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return make()


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Batches of tensors in memory, in an order that depends on the seed and the epoch alone.

    Call it with the epoch to read its batches; its length is their number. Made by
    :func:`shuffled`.
    """

    data: Mapping[str, Tensor]
    batch_size: int
    seed: int
    drop_last: bool

    def __len__(self) -> int:
        rows = len(next(iter(self.data.values())))
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __call__(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        rows = len(next(iter(self.data.values())))
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, 0))
        order = torch.randperm(rows, generator=generator)
        for batch in order.split(self.batch_size)[: len(self)]:
            yield {name: values[batch.to(values.device)] for name, values in self.data.items()}


@checked
def shuffled(data: Any, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> Shuffled:
    """Read data that fit in memory as shuffled batches, dicts of tensors.

    The order depends on (seed, epoch) alone, so that a run may be taken up anywhere. Tensors stay
    on their device: data that lie on the GPU are not moved again.

    Args:
        data: named tensors with the examples in the first dimension, or a ``datasets.Dataset``
            whose columns are numbers of one shape each.
        batch_size: examples a batch.
        seed: of the order.
        drop_last: leave out the last batch of an epoch where it is smaller.

    Raises:
        ValueError: for no column, no example, columns of different lengths or not of tensors, or
            a batch size that leaves no batch.

    >>> batches = shuffled({"x": torch.arange(5)}, batch_size=2, seed=0)
    >>> len(batches), [len(batch["x"]) for batch in batches(0)]
    (3, [2, 2, 1])
    """
    if hasattr(data, "with_format"):
        data = data.with_format("torch")[:]
    if not isinstance(data, Mapping) or not data:
        raise ValueError(
            f"data: expected named tensors or a datasets.Dataset, got {describe(data)}"
        )
    for name, values in data.items():
        if not isinstance(values, Tensor) or not values.dim():
            raise ValueError(
                f"data: expected tensors with examples in rows, got {describe(values)} in "
                f"{name!r}; make it a tensor, or leave the column out"
            )
    lengths = {name: len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"data: expected columns of one length, 1 at least, got {lengths}")
    whole(batch_size, 1, "batch_size")
    whole(seed, 0, "seed")
    batches = Shuffled(data, batch_size, seed, drop_last)
    if not len(batches):
        rows = min(lengths.values())
        raise ValueError(f"batch_size: {batch_size} leaves no whole batch of {rows} examples")
    return batches
