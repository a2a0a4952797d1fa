"""Rows and numbers of all processes of a group, for methods that look at the whole batch."""

from typing import Any

import torch
from torch import Tensor, distributed


def processes() -> int:
    """How many there are: 1 without ``torch.distributed``."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return int(distributed.get_world_size())


def gathered(x: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, in the order of their ranks, and where ours begin.

    Without ``torch.distributed`` that is x itself, and 0. No gradient reaches other processes.

    Raises:
        ValueError: if the processes hold different numbers of rows.
    """
    ranks = processes()
    if ranks == 1:
        return x, 0
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(ranks)]
    distributed.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    rows = [int(size) for size in sizes]
    if len(set(rows)) > 1:
        raise ValueError(f"expected the same number of rows in every process, got {rows}")
    parts = [torch.empty_like(x) for _ in range(ranks)]
    distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts), distributed.get_rank() * len(x)


def gathered_with_gradient(x: Tensor) -> Tensor:
    """Return the rows of all processes, for a loss that each computes of the whole batch.

    Ours carry a gradient, times the number of processes, so that the mean over processes of the
    gradients by their parameters is that of the one loss. No process waits in the backward pass.

    Raises:
        ValueError: if the processes hold different numbers of rows.
    """
    rows, first = gathered(x)
    if rows is x:
        return x
    ours = x.detach() + processes() * (x - x.detach())
    return torch.cat([rows[:first], ours, rows[first + len(x) :]])


def everyones(value: Any) -> list[Any]:
    """A small plain value of each process, in the order of their ranks."""
    found = [value]
    if processes() > 1:
        found = [None] * processes()
        distributed.all_gather_object(found, value)
    return found


class _Sum(torch.autograd.Function):
    """The sum over processes; the gradient of the sum of all losses is the sum of gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Sum.apply(gradient)  # type: ignore[no-untyped-call]


def summed_with_gradient(x: Tensor) -> Tensor:
    """The sum of a tensor over processes; all wait for each other, in the backward pass too.

    Without ``torch.distributed`` that is x itself.
    """
    total: Tensor = x if processes() == 1 else _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def summed(x: Tensor) -> None:
    """Replace a tensor by its sum over processes."""
    distributed.all_reduce(x)
