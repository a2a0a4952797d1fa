"""Numerics that only guard digits, so that the method files can be read as their chapters."""

from collections.abc import Iterable

import torch
from torch import Tensor


def wide_norms(tensors: list[Tensor]) -> Tensor:
    """Norms of tensors of one device and type, taken as if in float64; NaN beyond their type.

    The square of a float32 above 2e19 is infinite in float32, and that of one below 1e-23 is 0. On
    a GPU float64 costs little. A CPU needs three times as long for it, so that only the norms that
    need it are taken again, and the CPU takes these for a device without float64.
    """
    largest = torch.finfo(tensors[0].dtype).max
    if tensors[0].device.type not in ("cpu", "mps"):
        found = _stack(torch._foreach_norm(tensors, 2, torch.float64))
        return torch.where(found > largest, torch.nan, found)
    found = _stack(torch._foreach_norm(tensors, 2))
    for i, norm in enumerate(found.tolist()):
        if not 1e-15 < norm < 1e18:
            wide = float(torch.linalg.vector_norm(tensors[i].cpu(), dtype=torch.float64))
            found[i] = torch.nan if wide > largest else wide
    return found


def wide_norm(tensor: Tensor) -> float:
    """The norm of one tensor, as of :func:`wide_norms`; of all its shards in a ``DTensor``."""
    local = tensor.cpu() if tensor.device.type == "mps" else tensor
    norm = torch.linalg.vector_norm(local, dtype=torch.float64)
    found = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    return torch.nan if found > torch.finfo(tensor.dtype).max else found


def zeros_or_nan(tensors: list[Tensor]) -> Tensor:
    """For each tensor 0, or NaN where :func:`nan_beyond` gives it."""
    return 0 * _stack(torch._foreach_norm(tensors, 2))


def nan_beyond(x: Tensor, dim: int | None = None) -> Tensor:
    """Return x, as NaN where the squares along ``dim`` add up to more than float32 holds.

    A variance is infinite there, and a quotient by its root would be 0 without a warning.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(
        x.detach(), dim=dim, keepdim=dim is not None, dtype=wide
    )
    return x + (0 * norm).to(x.dtype)


def nan_beyond_product(c: Tensor, w: Tensor, h: Tensor) -> Tensor:
    """Return c, as NaN where the squares of ``w h`` can add up to more than float32 holds.

    That of any later h too, whose entries are those of a hidden state, at most 1.
    """
    wide = torch.promote_types(c.dtype, torch.float32)
    of_w: Tensor = torch.linalg.vector_norm(w.detach(), dtype=wide)
    of_h: Tensor = torch.linalg.vector_norm(h.detach(), dim=-1, keepdim=True, dtype=wide)
    most: Tensor = of_w * (of_h + h.shape[-1] ** 0.5)
    return c + (0 * most.square()).to(c.dtype)


def nan_for_infinite(variance: Tensor) -> Tensor:
    """Return variances with NaN for those that overflowed, to divide by."""
    return torch.where(variance.isinf(), torch.nan, variance)


def alike(ws: list[Tensor]) -> Iterable[list[Tensor]]:
    """Lists of one device and dtype; on the CPU of a size that its cache holds."""
    lists: dict[tuple[torch.device, torch.dtype, int], list[Tensor]] = {}
    before = 0
    for w in ws:
        block = before // 2**18 if w.device.type == "cpu" else 0
        lists.setdefault((w.device, w.dtype, block), []).append(w)
        before += w.numel()
    return lists.values()


def divide_into(divisors: list[Tensor], dividends: list[Tensor]) -> None:
    """Write each quotient into its divisor, which no ``_foreach_`` does in one pass.

    On a CPU the pass that this saves is a tenth of a step; on a GPU it is the calls that cost.
    """
    if divisors[0].device.type == "cpu":
        for divisor, dividend in zip(divisors, dividends, strict=True):
            torch.div(dividend, divisor, out=divisor)
    else:
        torch._foreach_reciprocal_(divisors)
        torch._foreach_mul_(divisors, dividends)


def _stack(norms: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    stacked = torch.stack(list(norms))
    return (stacked.cpu() if stacked.device.type == "mps" else stacked).double()
