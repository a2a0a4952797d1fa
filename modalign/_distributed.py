"""Rows of all processes of a group, for methods that look at the whole batch."""

import torch
from torch import Tensor, distributed


def gathered(x: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, in the order of their ranks, and where ours begin.

    Without ``torch.distributed`` that is x itself, and 0. No gradient reaches other processes.

    Raises:
        ValueError: where the processes hold different numbers of rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x, 0
    ranks = distributed.get_world_size()
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
