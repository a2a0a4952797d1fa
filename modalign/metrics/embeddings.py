"""Retrieval from embeddings, without the matrix of all similarities, in one process or several.

What a matrix product rounds hangs on the place of an entry and on the size of the product: two
equal captions can come out a last digit apart, and a tie is broken by chance. Here the similarity
of a row and a column is one sum of products in one order, in float64, and hangs on these two alone
(:func:`inner_products`). Matrix products only find the few entries that are too close to call.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed
from torch.nn import functional

from modalign._checks import checked, describe, require_features, require_finite, require_positive
from modalign._distributed import everyones, gathered, processes
from modalign.metrics.ranking import Retrieval, ranked, require_ks, require_owners, runs_of

# similarities, and products of two numbers, that are in memory at a time
_AT_A_TIME = 2**20


@checked
def retrieval_of_embeddings(
    rows: Float[Tensor, "n d"],
    columns: Float[Tensor, "m d"],
    *,
    owners: Int[Tensor, "m"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int | None = None,
    across_processes: bool = False,
) -> Retrieval:
    """Recall at k, ranks and average precision by inner products, in chunks of rows.

    The same numbers as :func:`modalign.metrics.retrieval` of the whole matrix, ties included:
    ``retrieval(rows.double() @ columns.double().T, owners=owners)``, where that product rounds no
    two candidates of a query to another order. For cosines, normalise first. No number hangs on
    ``chunk``, on the number of processes or threads, or on the order of the data.

    O(n m d) time in float64, and at most O(n m log m) for the ranks; O((n + m) d) memory, and about
    100 MiB for a chunk. Where many entries of the matrix are level (embeddings that have
    collapsed), each costs d products more, and the whole takes up to ten times as long.

    Args:
        rows: embeddings of one modality (images); float64 is computed on their device.
        columns: of the other (captions).
        owners: for each column the row that it belongs to; each row has one column or more. By
            default column i belongs to row i.
        ks: of the recalls.
        chunk: rows at a time; by default what makes about a million similarities.
        across_processes: each process gives the rows and columns that it has, any number of them,
            and ``owners`` that number its own rows. Each compares its own rows with all columns and
            gets the result of the whole. A sampler that repeats examples to fill up a process
            (PyTorch's ``DistributedSampler`` without ``drop_last``) changes the result: leave the
            repeated ones out.

    Raises:
        ValueError: as :func:`modalign.metrics.retrieval`, for embeddings that are not finite or
            whose inner products float64 does not hold, that lie on two devices, a chunk below 1,
            and where a process has other features than the others, or none have started and
            ``across_processes`` is asked for.

    >>> images, texts = torch.eye(3)[:2], torch.tensor([[2.0, 1, 0], [1, 1, 0], [0, 1, 1]])
    >>> found = retrieval_of_embeddings(images, texts, owners=torch.tensor([0, 0, 1]), ks=(1,))
    >>> found.rows.ranks.tolist(), found.columns.ranks.tolist()
    ([1.0, 2.0], [1.0, 1.5, 1.0])
    """
    ks = require_ks(ks)
    require_positive(chunk=1 if chunk is None else chunk)
    if columns.device != rows.device:
        raise ValueError(f"columns: expected {rows.device}, as rows, got {columns.device}")
    if across_processes and not (distributed.is_available() and distributed.is_initialized()):
        raise ValueError("across_processes: expected torch.distributed to be initialised")
    held = everyones(_held(rows, columns, owners)) if across_processes else None
    parts = held or [_held(rows, columns, owners)]
    _require_parts(parts)
    mine = distributed.get_rank() if held else 0
    before = sum(part.n for part in parts[:mine])
    owners = torch.arange(len(columns)) if owners is None else owners
    owners = owners.to(rows.device, torch.int64) + before
    x, y = rows.detach().double(), columns.detach().double()
    if held:
        x, y, owners = _whole(x, parts, "n"), _whole(y, parts, "m"), _whole(owners, parts, "m")
    _require_embeddings(x, y)
    require_owners(owners, len(x))

    own = torch.cat(
        [inner_products(x[owner], z) for owner, z in zip(*_portions(owners, y), strict=True)]
    )
    size = chunk or max(1, _AT_A_TIME // len(y))
    ours = range(before, before + len(rows), size)
    return ranked(
        _settled(x[: before + len(rows)], y, own, owners, ours),
        own,
        owners,
        len(x),
        ks,
        across_processes=bool(held) and processes() > 1,
    )


def inner_products(x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> Float[Tensor, "p"]:
    """Of each row of one with that of the other, summed by halves, in one order for all.

    >>> inner_products(torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, 10, 100]]))
    tensor([321.])
    """
    products = x * y
    while products.shape[1] > 1:
        half = (products.shape[1] + 1) // 2
        products[:, : products.shape[1] - half] += products[:, half:]
        products = products[:, :half]
    return products[:, 0]


def _settled(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    own: Float[Tensor, "m"],
    owners: Int[Tensor, "m"],
    starts: range,
) -> Iterator[tuple[int, Float[Tensor, "part m"]]]:
    """Chunks of the matrix in which what is compared with ``own`` comes out as it should.

    A product and :func:`inner_products` differ by less than d machine epsilons of sum |x| |y|.
    """
    limits = torch.finfo(torch.float64)
    bound = 2 * x.shape[1] * limits.eps * y.abs().amax(1)
    runs = runs_of(own, owners, len(x))
    for first in starts:
        rows = x[first : first + starts.step]
        part = _product(rows, y)
        margin = rows.abs().sum(1, keepdim=True) * bound + x.shape[1] * limits.tiny
        close = (part - own).abs_() <= margin
        scores = runs.levels(first, len(rows)).scores.flip(1)
        above = torch.searchsorted(scores, part)
        for nearest in (above.clamp(max=scores.shape[1] - 1), (above - 1).clamp(min=0)):
            close |= scores.gather(1, nearest).sub_(part).abs_() <= margin
        _settle(part, close, rows, y)
        yield first, part


def _product(rows: Float[Tensor, "r d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "r m"]:
    """Quick, and right but for d machine epsilons; float64 is spared TF32 and autocast."""
    return rows @ y.T


def _settle(
    part: Float[Tensor, "r m"],
    close: Bool[Tensor, "r m"],
    rows: Float[Tensor, "r d"],
    y: Float[Tensor, "m d"],
) -> None:
    """Replace the entries that are too close to call."""
    for row, column in zip(*_portions(*close.nonzero().unbind(1), width=y.shape[1]), strict=True):
        part[row, column] = inner_products(rows[row], y[column])


def _portions(*tensors: Tensor, width: int = 1) -> list[tuple[Tensor, ...]]:
    """Tensors of one length, cut so that as many rows of a width are few enough at a time."""
    width = max(width, *(each.shape[-1] if each.dim() > 1 else 1 for each in tensors))
    return [each.split(max(1, _AT_A_TIME // width)) for each in tensors]


class _Held(NamedTuple):
    """What one process has: rows, columns, features, and its owners if there are any."""

    n: int
    m: int
    d: int
    owners: tuple[int, int] | None


def _held(rows: Tensor, columns: Tensor, owners: Tensor | None) -> _Held:
    span = None
    if owners is not None:
        span = (int(owners.min()), int(owners.max())) if len(owners) else (0, 0)
    return _Held(len(rows), len(columns), rows.shape[1], span)


def _require_parts(parts: list[_Held]) -> None:
    """Refuse what does not fit, in every process what any of them has."""
    for rank, part in enumerate(parts):
        where = f" in process {rank}" if len(parts) > 1 else ""
        if part.d != parts[0].d:
            raise ValueError(f"rows: expected {parts[0].d} features, got {part.d}{where}")
        if part.owners is None and part.n != part.m:
            raise ValueError(
                f"owners: {part.n} rows and {part.m} columns need the row of each column{where}"
            )
        if part.owners and part.m and (part.owners[0] < 0 or part.owners[1] >= part.n):
            wrong = part.owners[0] if part.owners[0] < 0 else part.owners[1]
            raise ValueError(f"owners: expected rows from 0 to {part.n - 1}, got {wrong}{where}")
    if not sum(part.n for part in parts) or not sum(part.m for part in parts):
        raise ValueError("rows, columns: expected one or more of each, got none")


def _whole(x: Tensor, parts: list[_Held], side: str) -> Tensor:
    """The rows of all processes, which may have other numbers of them."""
    sizes = [getattr(part, side) for part in parts]
    padding = [0, 0] * (x.dim() - 1) + [0, max(sizes) - len(x)]
    padded, _ = gathered(functional.pad(x, padding))
    cut = zip(padded.split(max(sizes)), sizes, strict=True)
    return torch.cat([each[:size] for each, size in cut])


def _require_embeddings(x: Tensor, y: Tensor) -> None:
    for z, name in ((x, "rows"), (y, "columns")):
        require_features(z, name)
        require_finite(z, name)
    if not torch.isfinite(x.abs().sum(1).max() * y.abs().max()):
        raise ValueError(
            f"rows, columns: expected inner products that float64 holds, got {describe(x)} up to "
            f"{float(x.abs().max()):.3g} and {float(y.abs().max()):.3g}"
        )
