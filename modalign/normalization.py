"""Normalisation for sequences: over the un-padded steps of a batch, and inside an LSTM.

Sequences are (B, T, P): B of them, T steps with the padding, P features. Labels such as
eq-pace-sbn are those of equations in the chapter "Pace and scale".
"""

import functools
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_lengths, require_positive
from modalign._numerics import nan_for_infinite
from modalign.recurrent import LayerNormLSTM, lstm_states

__all__ = ["LayerNormLSTM", "SequenceBatchNorm", "lstm_states"]


class SequenceBatchNorm(nn.modules.batchnorm._BatchNorm):
    r"""Batch normalisation over the un-padded steps of a batch of sequences.

    Paper eq. 5 to 7 (Wang et al. 2020), after Laurent et al. (2015). Each feature is centred and
    scaled by its mean and variance over all steps of all sequences, the padding left out; padded
    steps come out as zeros whatever they held. Where nothing is padded this is
    ``nn.BatchNorm1d``, whose parameters and buffers it has, under the same names.

    Statistics are taken in float32 at least, under autocast, in half precision and compiled too,
    and the output has the type of the input. Running statistics are detached, and as in
    ``nn.BatchNorm1d`` the running variance is the unbiased one. A feature with NaN in a step comes
    out as NaN, as there, and so does one whose variance is beyond its type (numbers of 1e19).
    O(B T P) time and memory.

    ``torch.optim.swa_utils.update_bn`` works on it. ``nn.SyncBatchNorm.convert_sync_batchnorm``
    would put a layer that knows no lengths in its place and is refused: in a distributed run each
    process takes the statistics of its own sequences.

    Args:
        num_features: P.
        eps: added to the variance (PyTorch's default; the paper gives no number).
        momentum: weight of a batch in the running statistics; None averages all batches alike.
        affine: learn a scale and a shift for each feature, gamma and beta of eq-pace-sbn.
        unbiased: divide the squared deviations of a batch by M - 1 and not by M, the number of
            un-padded steps. The paper and ``nn.BatchNorm1d`` divide by M.

    Raises:
        TypeError: where an argument is of another type altogether, and from the conversion above.
        ValueError: for sizes that do not fit, a length outside 0 to T, and, in training, fewer than
            2 un-padded steps, which have no variance. Compiled, values are not looked at: there
            such a batch leaves the running statistics as they were, a single step comes out as
            beta.

    >>> norm = SequenceBatchNorm(1)
    >>> x = torch.tensor([[[1.0], [3.0]], [[5.0], [99.0]]])  # 99 is padding
    >>> norm(x, torch.tensor([2, 1])).flatten().mul(10).round().int().tolist()
    [-12, 0, 12, 0]
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    @checked
    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        unbiased: bool = False,
    ) -> None:
        require_positive(num_features=num_features, eps=eps)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1 or None, got {momentum}")
        super().__init__(num_features, eps, momentum, affine)
        self.unbiased = unbiased

    def extra_repr(self) -> str:
        """Say the settings, as ``nn.BatchNorm1d`` does."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, unbiased={self.unbiased}"
        )

    @checked
    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b t p"], lengths: Int[Tensor, " b"]
    ) -> Tensor:
        """Normalise a batch.

        Args:
            x: features of B sequences, padded at the end.
            lengths: number of steps of each, 0 to T. On the CPU they are checked without waiting
                for a GPU.

        Returns:
            (B, T, P), zero where padded.
        """
        if x.shape[2] != self.num_features:
            raise ValueError(f"x: expected {self.num_features} features, got {describe(x)}")
        compiling = torch.compiler.is_compiling()
        if not compiling:
            require_lengths(lengths, x.shape[1], "lengths", total=2 if self._of_batch() else 0)
        valid = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
        own = (each.dtype for each in (self.weight, self.running_mean) if each is not None)
        wide = functools.reduce(
            torch.promote_types, own, torch.promote_types(x.dtype, torch.float32)
        )
        with torch.autocast(x.device.type, enabled=False):
            return (self._masked if compiling else self._packed)(x.to(wide), valid).to(x.dtype)

    def _masked(self, x: Tensor, valid: Tensor) -> Tensor:
        """Take sums over all steps with zeros for padding, whose shapes a compiler knows."""
        valid = valid[..., None]
        x = torch.where(valid, x, 0)
        if self._of_batch():
            m = valid.sum().to(x.dtype)
            mean = x.sum((0, 1)) / m.clamp_min(1)  # eq-pace-mean
            square = torch.where(valid, x - mean, 0).square().sum((0, 1))
            var = square / (m - int(self.unbiased)).clamp_min(1)  # eq-pace-variance
            self._track(m, mean, square / (m - 1).clamp_min(1))
        else:
            mean, var = self.running_mean.to(x), self.running_var.to(x)
        normed = (x - mean) * torch.rsqrt(nan_for_infinite(var) + self.eps)  # eq-pace-sbn
        if self.affine:
            normed = self.weight * normed + self.bias  # eq-pace-sbn
        return torch.where(valid, normed, 0).to(x.dtype)

    def _packed(self, x: Tensor, valid: Tensor) -> Tensor:
        """Do the same by PyTorch's own kernel on the un-padded steps alone, which is faster."""
        steps = valid.flatten().nonzero()[:, 0]
        flat, m, eps = x.flatten(0, 1), len(steps), self.eps
        weight, bias = (self.weight.to(x), self.bias.to(x)) if self.affine else (None, None)
        of_batch = self._of_batch()
        if of_batch:
            mean, var = x.new_zeros(2, self.num_features)  # for the kernel to fill
            if self.unbiased:  # (m - 1) / m times the variance and eps, in units of the former
                eps *= (m - 1) / m
                shrink = ((m - 1) / m) ** 0.5
                weight = shrink * (torch.ones_like(mean) if weight is None else weight)
        else:
            mean, var = self.running_mean.to(x), nan_for_infinite(self.running_var.to(x))
        real, affine = flat.index_select(0, steps), (weight, bias)
        normed = functional.batch_norm(real, mean, var, *affine, of_batch, 1.0, eps)  # eq-pace-sbn
        if of_batch:
            self._track(valid.sum(), mean, var)
            if var.isinf().any():
                normed = normed.masked_fill(var.isinf(), torch.nan)
        return torch.zeros_like(flat).index_copy(0, steps, normed).view_as(x)

    def _of_batch(self) -> bool:
        """Whether statistics are those of the batch and not the running ones."""
        return self.training or self.running_mean is None

    def _track(self, m: Tensor, mean: Tensor, unbiased: Tensor) -> None:
        """Let the statistics of a batch of m steps into the running ones, if it has a variance."""
        if self.running_mean is None:
            return
        self.num_batches_tracked += m >= 2
        batches = self.num_batches_tracked.to(mean.dtype)
        share = 1 / batches if self.momentum is None else self.momentum
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            after = share * batch.detach() + (1 - share) * running
            running.copy_(torch.where(m >= 2, after, running))

    @property
    def qconfig(self) -> NoReturn:
        """Refuse tools that put another layer in this one's place; they all ask for this."""
        raise TypeError(
            "SequenceBatchNorm: expected to stay as it is, since the layers that "
            "nn.SyncBatchNorm.convert_sync_batchnorm and quantisation put in its place take no "
            "lengths; convert the other layers one by one"
        )
