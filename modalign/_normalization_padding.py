"""Which steps of a batch are real, and statistics of batch normalisation taken again."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modalign._checks import describe, require_lengths


def real_steps(
    x: Float[Tensor, "b t p"],
    lengths: Int[Tensor, " b"] | None,
    mask: Bool[Tensor, "b t"] | None,
) -> Bool[Tensor, "b t"]:
    """Where a batch has a step and no padding; values of lengths are looked at if not compiled.

    Raises:
        ValueError: for lengths and a mask both or neither, and a length outside 0 to T.
    """
    if lengths is None:
        if mask is None:
            raise ValueError("lengths: expected lengths, or a mask in their place, got neither")
        return mask.to(x.device)
    if mask is not None:
        raise ValueError("mask: expected a mask in place of lengths, got both")
    if not torch.compiler.is_compiling():
        require_lengths(lengths, x.shape[1], "lengths")
    return torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]


def require_variance(steps: Tensor, name: str) -> None:
    """Refuse fewer than 2 steps to train on, of lengths, a mask or their number."""
    if (found := int(steps.sum())) < 2:
        raise ValueError(
            f"{name}: expected at least 2 un-padded steps in the batch (to train on), got {found}"
        )


@torch.no_grad()
def update_bn(
    model: nn.Module,
    batches: Iterable[Any],
    call: Callable[[Any, Any], object] | None = None,
) -> None:
    """Take the running statistics of all batch normalisation in a model again, from its batches.

    For weights that were averaged or set (Izmailov et al. 2018). That is
    ``torch.optim.swa_utils.update_bn``, with its numbers, for models that take more than one
    tensor; and modes and momenta are as they were afterwards, also where a batch fails (then the
    statistics too). Layers in evaluation mode in a model in training mode count as frozen: they
    are left alone. All batches weigh alike. Dropout is on, as in training. One pass, in order.

    Args:
        model: statistics are those of its layers ``SequenceBatchNorm`` and ``nn.BatchNorm1d`` to
            ``3d``, ``nn.SyncBatchNorm`` included.
        batches: read once.
        call: ``call(model, batch)`` runs the model over a batch, and moves it to its device where
            that is needed; by default ``model(batch)``. PyTorch's takes the first entry of a tuple
            alone; where labels follow it pass ``lambda model, batch: model(batch[0])``.

    Raises:
        TypeError: for a model that is no module.
        ValueError: for no batch.

    >>> from modalign.normalization import SequenceBatchNorm
    >>> norm = SequenceBatchNorm(1)
    >>> batches = [(torch.tensor([[[1.0], [3.0]]]), torch.tensor([2]))]
    >>> update_bn(norm, batches, lambda norm, batch: norm(*batch))
    >>> norm.running_mean, norm.running_var
    (tensor([2.]), tensor([2.]))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch module, got {describe(model)}")
    modes = {module: module.training for module in model.modules()}
    if not model.training:
        model.train()
    norms = [norm for norm in modes if isinstance(norm, _BatchNorm) and norm.training]
    momenta = [norm.momentum for norm in norms]
    before = [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms]
    seen = done = False
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        for batch in batches:
            seen = True
            _ = model(batch) if call is None else call(model, batch)
        done = seen
    finally:
        for module, training in modes.items():
            module.training = training
        for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            for name, value in buffers.items() if not done else ():
                norm.get_buffer(name).copy_(value)
    if not seen:
        raise ValueError("batches: expected at least one, got none; an iterator is read only once")
