"""Guards of the harmony of two gradients: digits, arguments, and several processes."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from modalign._checks import describe
from modalign._distributed import everyones, processes, summed

Gradients: TypeAlias = Sequence[Tensor | None]
BLOCK = 2**16  # numbers whose float64 fits a CPU's cache


def angle(grads_a: Gradients, grads_b: Gradients) -> tuple[float, float, float]:
    """The cosine and both norms, over the tensors that both lists hold; NaN if a norm is 0.

    Products are taken tensor by tensor and added in float64, in which those of float32 are exact.
    Squares of float64 may overflow, so that powers of two bring such gradients near 1 first.
    """
    both = [(a.detach(), b.detach()) for a, b in pairs(grads_a, grads_b)]
    if not both:
        return math.nan, math.nan, math.nan
    scale_a, scale_b = (_scale(side) for side in zip(*both, strict=True))
    parts: list[Tensor] = []
    for a, b in both:
        block = BLOCK if a.device.type in ("cpu", "mps") else max(1, a.numel())
        for x, y in zip(_flat(a).split(block), _flat(b).split(block), strict=True):
            x, y = _wide(x, scale_a), _wide(y, scale_b)
            parts.append(torch.stack([x @ x, x @ y, y @ y]))
    products = torch.stack([part.to(parts[0].device) for part in parts]).sum(0)
    aa, ab, bb = products.tolist()
    size = math.sqrt(aa) * math.sqrt(bb)
    cosine = ab / size if size else math.nan
    if abs(cosine) > 1:  # by rounding; NaN stays
        cosine = math.copysign(1.0, cosine)
    return cosine, math.sqrt(aa) / scale_a, math.sqrt(bb) / scale_b


def pairs(grads_a: Gradients, grads_b: Gradients) -> list[tuple[Tensor, Tensor]]:
    """The gradients of parameters that both losses reach."""
    zipped = zip(grads_a, grads_b, strict=True)
    return [(a, b) for a, b in zipped if a is not None and b is not None]


def _flat(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).reshape(-1)


def _wide(x: Tensor, scale: float) -> Tensor:
    return x.double() if scale == 1 else x.double() * scale


def _scale(tensors: Sequence[Tensor]) -> float:
    """A power of two that brings the largest number near 1; 1 if squares are safe without."""
    if all(x.dtype != torch.float64 for x in tensors):
        return 1.0
    largest = max((float(x.abs().max()) for x in tensors if x.numel()), default=0.0)
    if not 0 < largest < math.inf:
        return 1.0
    return 2.0 ** -max(-1000, min(1000, math.frexp(largest)[1]))


def require_gradients(grads_a: Gradients, grads_b: Gradients) -> None:
    """Refuse two lists that are not the gradients of one list of parameters.

    Raises:
        ValueError: for lists of other lengths, shapes, devices or types, or without a tensor.
        TypeError: for anything but a list of dense tensors of real numbers.
    """
    for name, grads in (("grads_a", grads_a), ("grads_b", grads_b)):
        if isinstance(grads, Tensor) or not isinstance(grads, Sequence):
            raise TypeError(f"{name}: expected a list of gradients, got {describe(grads)}")
        for i, each in enumerate(grads):
            if each is not None and not isinstance(each, Tensor):
                raise TypeError(f"{name}[{i}]: expected a tensor or None, got {describe(each)}")
            if each is not None and not (each.is_floating_point() and _plain(each)):
                raise TypeError(
                    f"{name}[{i}]: expected a dense floating-point tensor, got {describe(each)} "
                    f"({type(each).__name__}, {each.layout})"
                )
    if len(grads_a) != len(grads_b) or not len(grads_a):
        expected = "as many gradients as grads_a, at least one"
        raise ValueError(f"grads_b: expected {expected}, got {len(grads_a)} and {len(grads_b)}")
    for i, (a, b) in enumerate(zip(grads_a, grads_b, strict=True)):
        if a is None or b is None:
            continue
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            raise ValueError(
                f"grads_b[{i}]: expected {describe(a)} on {a.device}, as grads_a[{i}], "
                f"got {describe(b)} on {b.device}"
            )


def _plain(x: Tensor) -> bool:
    return x.layout is torch.strided and type(x) in (Tensor, nn.Parameter)


def require_parameters(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The parameters as a list.

    Raises:
        ValueError: for none, one that is given twice, or one whose ``.grad`` nothing would fill.
        TypeError: for anything but a plain tensor of real numbers.
    """
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(
            f"parameters: expected a list of tensors after two losses, got {describe(parameters)}; "
            "more than two losses are not harmonised here (torchjd's PCGrad does that)"
        )
    found, seen = list(parameters), dict[int, int]()
    if not found:
        raise ValueError("parameters: expected at least one, got none (a generator read before?)")
    for i, p in enumerate(found):
        if not isinstance(p, Tensor) or not p.is_floating_point() or not _plain(p):
            raise TypeError(
                f"parameters[{i}]: expected a dense floating-point tensor, got {describe(p)} "
                f"({type(p).__name__})"
            )
        if not p.requires_grad or not p.is_leaf:
            raise ValueError(
                f"parameters[{i}]: expected a leaf with requires_grad, got {describe(p)} "
                + ("that is computed" if p.requires_grad else "without; leave frozen ones out")
            )
        if seen.setdefault(id(p), i) != i:
            raise ValueError(f"parameters[{i}]: is parameters[{seen[id(p)]}] again; give each once")
    return found


def differentiated(
    loss_a: Tensor | None, loss_b: Tensor | None, parameters: Sequence[Tensor], gamma: float | None
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The gradients of both losses by the parameters; the graph is kept for the second only.

    With several processes each learns of an error in another, and raises the same error.

    Raises:
        ValueError: for a loss that is not a finite scalar, or that reaches none of the parameters.
    """
    problems: list[str] = []
    grads: list[list[Tensor | None]] = []
    for name, loss in (("loss_a", loss_a), ("loss_b", loss_b)):
        found: list[Tensor | None] = [None] * len(parameters)
        problem = "" if loss is None else _unfit(loss, name)
        if loss is not None and not problem:
            twice = name == "loss_a" and loss_b is not None
            # of a NaN too: another process may wait for ours in the backward pass
            found = list(
                torch.autograd.grad(loss, parameters, retain_graph=twice, allow_unused=True)
            )
            problem = _unsound(loss, found, name)
        problems.append(problem)
        grads.append(found)
    require_alike(problems[0] or problems[1], gamma)
    if all(everyones(loss_a is None and loss_b is None)):
        raise ValueError("loss_a, loss_b: expected one of them at least, got None and None")
    return grads[0], grads[1]


def require_alike(problem: str, gamma: float | None) -> None:
    """Raise a problem of any process in all of them, or that their thresholds differ."""
    everyone = everyones((problem, gamma))
    for rank, (each, _) in enumerate(everyone):
        if each:
            raise ValueError(each + (f" (in process {rank})" if len(everyone) > 1 else ""))
    gammas = [each for _, each in everyone]
    if len(set(gammas)) > 1:
        raise ValueError(f"curriculum: expected one gamma in all processes, got {gammas}")


def _unfit(loss: object, name: str) -> str:
    if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
        hint = "a loss an example is for granularity='sample'; more than two losses are not taken"
        return f"{name}: expected a scalar tensor, got {describe(loss)} ({hint})"
    if not loss.requires_grad:
        return (
            f"{name}: expected a loss with a gradient, got {loss.item()} without; "
            "pass None if a batch has no such loss"
        )
    return ""


def _unsound(loss: Tensor, grads: Gradients, name: str) -> str:
    if not math.isfinite(loss.item()):
        return f"{name}: expected a finite loss, got {loss.item()}"
    if all(each is None for each in grads):
        return (
            f"{name}: expected a loss that reaches parameters, got one that reaches none of these; "
            "pass None if a batch has no such loss"
        )
    sparse = [i for i, each in enumerate(grads) if each is not None and not _plain(each)]
    if sparse:
        return f"parameters[{sparse[0]}]: expected a dense gradient of {name}, got a sparse one"
    return ""


def averaged(grads: list[Tensor | None], parameters: Sequence[Tensor], ours: bool) -> None:
    """Replace gradients by their means over the processes whose own counts; O(n) sent."""
    if processes() == 1:
        return
    everyone = everyones((ours, [each is not None for each in grads]))
    count = sum(counts for counts, _ in everyone)
    for i, p in enumerate(parameters):
        if any(reached[i] for _, reached in everyone):
            own = grads[i] if ours else None
            total = (
                torch.zeros_like(p)
                if own is None
                else own.clone(memory_format=torch.contiguous_format)
            )
            summed(total)
            grads[i] = total.div_(max(1, count))


def of_process_0(*numbers: float) -> tuple[float, ...]:
    """Its numbers: last digits may differ between machines, and all must decide alike."""
    first: tuple[float, ...] = everyones(numbers)[0]
    return first


def combine(
    grads_a: list[Tensor | None], grads_b: list[Tensor | None], weights: tuple[float, float]
) -> None:
    """Replace the first gradients by weighted sums, and free the second as it goes.

    A parameter that one loss alone reaches takes its gradient as it is. All are new tensors, as
    those of ``torch.autograd.grad`` may share memory with each other.
    """
    for i, (a, b) in enumerate(zip(grads_a, grads_b, strict=True)):
        grads_b[i] = None
        if a is not None and b is not None:
            grads_a[i] = (a * weights[0]).add_(b, alpha=weights[1])
        elif (alone := b if a is None else a) is not None:
            grads_a[i] = alone.clone()


def accumulate(parameters: Sequence[Tensor], grads: list[Tensor | None]) -> None:
    """Add new tensors to ``.grad``, or make them that."""
    for p, grad in zip(parameters, grads, strict=True):
        if grad is not None:
            p.grad = grad if p.grad is None else p.grad.add_(grad)


def row_angles(rows_a: Tensor, rows_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row the cosine, NaN if it is undefined, and both norms; in float64."""
    scales = [_scale([rows]) for rows in (rows_a, rows_b)]
    a, b = (_wide(x.detach().flatten(1), s) for x, s in zip((rows_a, rows_b), scales, strict=True))
    norms_a, norms_b = a.norm(dim=1), b.norm(dim=1)
    cosines = ((a * b).sum(1) / norms_a / norms_b).clamp(-1, 1)
    return cosines, norms_a / scales[0], norms_b / scales[1]


def shares(cosines: Tensor, kept: Tensor) -> tuple[float, float, float]:
    """Over all processes: the mean cosine if there is one, the shares in conflict and kept."""
    defined = cosines[~cosines.isnan()]
    own = (float(defined.sum()), len(defined), int((cosines < 0).sum()), int(kept.sum()), len(kept))
    total, count, conflicts, accepted, number = (
        sum(each) for each in zip(*everyones(own), strict=True)
    )
    return total / count if count else math.nan, conflicts / number, accepted / number
