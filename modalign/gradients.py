r"""Two losses, one set of weights: compare their gradients, realign them, or skip the step.

Labels such as ``eq-gradients-realign`` are those of the chapter "Gradients", which derives each
line. With ``torch.distributed`` every process passes the losses of its own rows (or of the joined
batch, of ``modalign._distributed.gathered_with_gradient``), and all come to one decision.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from modalign._checks import require_choice
from modalign._gradients import (
    Gradients,
    accumulate,
    angle,
    averaged,
    combine,
    differentiated,
    of_process_0,
    require_gradients,
    require_parameters,
    shares,
)
from modalign._gradients_sample import by_sample, sample_cosines
from modalign.curriculum import GradientCurriculum

__all__ = [
    "GradientCurriculum",
    "HarmonyReport",
    "gradient_cosine",
    "harmonized_backward",
    "realign",
    "sample_cosines",
]

_GRANULARITIES = ("batch", "shard", "sample")


def gradient_cosine(grads_a: Gradients, grads_b: Gradients) -> float:
    r"""Return the cosine of two gradients (eq-gradients-cosine).

    Over the tensors that both hold: None stands if a loss does not reach a parameter. Products
    are added in float64, tensor by tensor, without a copy of either gradient. O(n) time.

    Args:
        grads_a, grads_b: a tensor or None a parameter, as of ``torch.autograd.grad``.

    Returns:
        A number from -1 to 1; NaN if it is undefined, since one gradient is zero or not finite,
        or no tensor is in both.

    Raises:
        ValueError, TypeError: for lists that are not two gradients of the same parameters.

    >>> gradient_cosine([torch.tensor([1.0, 0.0]), None], [torch.tensor([-3.0, 4.0]), None])
    -0.6
    """
    require_gradients(grads_a, grads_b)
    return angle(grads_a, grads_b)[0]


@torch.no_grad()
def realign(
    grads_a: Gradients, grads_b: Gradients
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    r"""If two gradients conflict, take from each its part against the other (eq-gradients-realign).

    Algorithm 1 of Wu et al. (2022), with the direction that its print lost, both projections from
    the original gradients; PCGrad (Yu et al. 2020) of two tasks. A tensor that one gradient lacks
    takes no part in the projection and comes back as it is. O(n) time; new tensors in a conflict.

    Args:
        grads_a, grads_b: as of ``gradient_cosine``.

    Returns:
        Both gradients after projection; the same tensors if they do not conflict.

    Raises:
        ValueError, TypeError: as ``gradient_cosine``.

    >>> a, b = realign([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])])
    >>> a, b
    ([tensor([0.5000, 0.5000])], [tensor([0., 1.])])
    """
    require_gradients(grads_a, grads_b)
    cosine, norm_a, norm_b = angle(grads_a, grads_b)
    new_a, new_b = list(grads_a), list(grads_b)
    if cosine < 0:
        for i, (a, b) in enumerate(zip(grads_a, grads_b, strict=True)):
            if a is not None and b is not None:
                new_a[i] = a.sub(b, alpha=cosine * norm_a / norm_b)
                new_b[i] = b.sub(a, alpha=cosine * norm_b / norm_a)
    return new_a, new_b


class HarmonyReport(NamedTuple):
    """The report of a backward pass; of shards and examples, the mean cosine and shares of them."""

    cosine: float
    conflict: float
    accepted: float


def harmonized_backward(
    loss_a: Tensor | None,
    loss_b: Tensor | None,
    parameters: Iterable[Tensor],
    *,
    realign: bool = False,
    curriculum: GradientCurriculum | None = None,
    granularity: str = "batch",
    features: Tensor | None = None,
) -> HarmonyReport:
    r"""Backpropagate two losses apart, and add to ``.grad`` the part that they agree on.

    In place of ``(loss_a + loss_b).backward()``. Gradients that the curriculum keeps are added,
    realigned first if asked for (eq-gradients-weights). **A batch that it drops leaves every .grad
    as it was**, and ``accepted`` is false: leave the step out. After ``zero_grad()`` each ``.grad``
    is then None, and no optimiser of PyTorch moves a weight or a moment even if it steps.
    Schedules of the learning rate go on.

    The cosine is that of the parameters that both losses reach; the others take the gradient of
    their loss. Undefined (a loss is None, or a gradient 0), it is kept. Losses may be scaled by a
    ``GradScaler``: no decision changes, and gradients that overflowed are added for it to find.
    With several processes, gradients of each loss are averaged over those that have it, and only
    then compared; a model in ``DistributedDataParallel`` averages nothing more. Two backward passes
    share one forward pass; memory for one more gradient.

    Args:
        loss_a, loss_b: scalars; or None if a batch has no such loss (no clip has a text).
            With ``"sample"`` (N,), a loss an example, 0 if an example has none.
        parameters: to train: leaves with ``requires_grad``, each once.
        realign: project conflicting gradients (of ``"sample"``, those by the features).
        curriculum: decides which batches, shards or examples to drop.
        granularity: ``"batch"``: one decision. ``"shard"``: each process decides about its rows,
            before gradients are averaged. ``"sample"``: one decision an example, by
            ``sample_cosines``, a proxy at the price of an ordinary step.
        features: for ``"sample"``, those from which both losses are computed.

    Returns:
        cosine, conflict and accepted.

    Raises:
        ValueError, TypeError: for a loss that is not finite, no scalar, without a gradient, or that
            reaches no parameter (in every process, if it is so in one); parameters that are
            none, not leaves, frozen or given twice; and curricula that differ between processes.

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    >>> report = harmonized_backward(w[0] ** 2, (w[0] - w[1] - 3) ** 2, [w], realign=True)
    >>> report.conflict, report.accepted, w.grad  # of (2, 0) and (-4, 4), which oppose each other
    (True, True, tensor([1., 5.]))
    """
    wanted = require_parameters(parameters)
    require_choice(granularity, _GRANULARITIES, "granularity")
    if (granularity == "sample") != (features is not None):
        expected = "features: expected with 'sample' and only then"
        raise ValueError(f"{expected}, got granularity {granularity!r}")
    if features is not None:
        losses = loss_a, loss_b
        return HarmonyReport(*by_sample(*losses, features, wanted, realign, curriculum))
    gamma = None if curriculum is None else curriculum.gamma
    grads_a, grads_b = differentiated(loss_a, loss_b, wanted, gamma)
    if granularity == "batch":  # eq-gradients-order: average first
        averaged(grads_a, wanted, loss_a is not None)
        averaged(grads_b, wanted, loss_b is not None)
    cosine, norm_a, norm_b = angle(grads_a, grads_b)
    if granularity == "batch":
        cosine, norm_a, norm_b = of_process_0(cosine, norm_a, norm_b)
    found = torch.tensor([cosine], dtype=torch.float64)
    kept = curriculum is None or bool(curriculum.keeps(found))
    report = HarmonyReport(cosine, cosine < 0, kept)
    if granularity == "shard":
        report = HarmonyReport(*shares(found, torch.tensor([kept])))
    if report.accepted:
        weights = (1.0, 1.0)
        if realign and cosine < 0:  # eq-gradients-weights
            ratio = norm_b / norm_a
            weights = 1 - cosine * ratio, 1 - cosine / ratio
        combine(grads_a, grads_b, weights)
        if granularity == "shard":
            averaged(grads_a, wanted, kept)
        accumulate(wanted, grads_a)
    return report
