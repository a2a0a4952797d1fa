"""One decision an example: a proxy of the gradients' cosine, by features in place of weights."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modalign._checks import checked, describe
from modalign._distributed import everyones, processes
from modalign._gradients import accumulate, averaged, require_alike, row_angles, shares
from modalign.curriculum import GradientCurriculum


@checked
def sample_cosines(
    loss_a: Float[Tensor, " n"], loss_b: Float[Tensor, " n"], features: Float[Tensor, "n *d"]
) -> Tensor:
    r"""Return, for each example, the cosine of two losses' gradients by its features.

    A proxy of the cosine by the weights (eq-gradients-sample), for the price of two backward passes
    from the losses to the features. The graph is kept.

    Args:
        loss_a, loss_b: (N,) losses; 0 if an example has none.
        features: (N, ...), from which both are computed, with a gradient.

    Returns:
        (N,) cosines in float64, NaN if one gradient is 0.

    Raises:
        ValueError, TypeError: for losses that are not finite or not computed from the features.

    >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> sample_cosines(z.sum(1), z[:, 0] * torch.tensor([2.0, -2.0]), z).round(decimals=4)
    tensor([ 0.7071, -0.7071], dtype=torch.float64)
    """
    rows, problem = _rows(loss_a, loss_b, features)
    if problem:
        raise ValueError(problem)
    return row_angles(*rows)[0]


def by_sample(
    loss_a: Any,
    loss_b: Any,
    features: Tensor,
    parameters: list[Tensor],
    realign: bool,
    curriculum: GradientCurriculum | None,
) -> tuple[float, float, float]:
    """Add the gradient of the mean losses of the examples kept; the report's numbers."""
    rows, problem = _rows(loss_a, loss_b, features)
    require_alike(problem, None if curriculum is None else curriculum.gamma)
    cosines = row_angles(*rows)[0]
    kept = torch.ones_like(cosines, dtype=torch.bool)
    if curriculum is not None:
        kept = curriculum.keeps(cosines)
    report = shares(cosines, kept)
    if not report[2]:
        return report
    count = sum(everyones(int(kept.sum())))  # of all processes, over which a mean is taken below
    kept_a, kept_b = (loss * kept * (processes() / count) for loss in (loss_a, loss_b))
    if realign:
        delta = _realigned(*_rows(kept_a, kept_b, features)[0])
        features.register_hook(lambda _: delta)
    total = (kept_a + kept_b).sum()
    found = list[Tensor | None](torch.autograd.grad(total, parameters, allow_unused=True))
    if all(each is None for each in found):
        raise ValueError("parameters: expected one that the losses reach, got none that they do")
    averaged(found, parameters, True)
    accumulate(parameters, found)
    return report


def _rows(loss_a: Any, loss_b: Any, features: Tensor) -> tuple[list[Tensor], str]:
    """The gradients of both losses by the features, and the problem with them, if any.

    A row also holds gradients that its example gets from losses of others, as their negative.
    """
    rows: list[Tensor] = []
    for name, loss in (("loss_a", loss_a), ("loss_b", loss_b)):
        if problem := _unfit(loss, features, name):
            return [], problem
        (found,) = torch.autograd.grad(loss.sum(), features, retain_graph=True, allow_unused=True)
        if found is None:
            return [], f"{name}: expected losses that are computed from features, got others"
        rows.append(found)
    return rows, ""


def _realigned(rows_a: Tensor, rows_b: Tensor) -> Tensor:
    """The sum of both, row by row realigned (eq-gradients-weights)."""
    cosines, norms_a, norms_b = row_angles(rows_a, rows_b)
    opposed = torch.where(cosines < 0, -cosines, 0.0)
    shape = (-1, *[1] * (rows_a.dim() - 1))
    of_a = 1 + opposed * torch.where(opposed > 0, norms_b / norms_a, 0.0)
    of_b = 1 + opposed * torch.where(opposed > 0, norms_a / norms_b, 0.0)
    return rows_a * of_a.view(shape).to(rows_a) + rows_b * of_b.view(shape).to(rows_b)


def _unfit(loss: object, features: Tensor, name: str) -> str:
    """The problem with the losses of the examples, if there is one."""
    if not features.dim() or not features.requires_grad:
        return (
            f"features: expected (N, ...) with a gradient, got {describe(features)} "
            f"{'with' if features.requires_grad else 'without'} one"
        )
    if not isinstance(loss, Tensor) or loss.shape != (len(features),):
        return (
            f"{name}: expected a loss for each of {len(features)} examples, got {describe(loss)} "
            "(0 if an example has none)"
        )
    if not loss.requires_grad:
        return f"{name}: expected losses with a gradient, got {describe(loss)} without"
    if not loss.detach().isfinite().all():
        where = int((~loss.detach().isfinite()).nonzero()[0])
        return f"{name}: expected finite losses, got {loss[where].item()} in row {where}"
    return ""
