"""Normalisation for sequences: over the un-padded steps of a batch, and inside an LSTM.

Sequences are (B, T, P): B of them, T steps with the padding, P features. Labels such as
eq-pace-sbn are those of equations in the chapter "Pace and scale".
"""

import functools
from typing import NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_positive
from modalign._distributed import processes, summed_with_gradient
from modalign._normalization_padding import real_steps, require_variance, update_bn
from modalign._numerics import nan_for_infinite
from modalign.recurrent import LayerNormLSTM, lstm_states

__all__ = ["LayerNormLSTM", "SequenceBatchNorm", "lstm_states", "update_bn"]


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

    :func:`update_bn` takes the running statistics again. ``nn.SyncBatchNorm``'s
    ``convert_sync_batchnorm`` would put a layer that knows no lengths in its place and is refused:
    ``synchronize`` does its work. Then the output and all gradients are those of one process that
    has the sequences of all, whose losses add up, however the steps are spread; a process may have
    none. All call the layer, and its backward pass, equally often, as collectives ask.

    Args:
        num_features: P.
        eps: added to the variance (PyTorch's default; the paper gives no number).
        momentum: weight of a batch in the running statistics; None averages all batches alike.
        affine: learn a scale and a shift for each feature, gamma and beta of eq-pace-sbn.
        unbiased: divide the squared deviations of a batch by M - 1 and not by M, the number of
            un-padded steps. The paper and ``nn.BatchNorm1d`` divide by M.
        synchronize: in training, take statistics over all processes of ``torch.distributed``, by
            two sums over processes forward and two backward; without processes it does nothing.

    Raises:
        TypeError: where an argument is of another type altogether, and from the conversion above.
        ValueError: for sizes that do not fit, lengths and a mask both or neither, a length outside
            0 to T, and, in training, fewer than 2 un-padded steps, which have no variance.
            Compiled, values are not looked at: there such a batch leaves the running statistics as
            they were, a single step comes out as beta.

    >>> norm = SequenceBatchNorm(1)
    >>> x = torch.tensor([[[1.0], [3.0]], [[5.0], [99.0]]])  # 99 is padding
    >>> norm(x, torch.tensor([2, 1])).flatten().mul(10).round().int().tolist()
    [-12, 0, 12, 0]
    >>> hole = torch.tensor([[True, False], [True, True]])  # the 3 was not observed
    >>> norm(x, mask=hole)[0, 1].item()
    0.0
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
        synchronize: bool = False,
    ) -> None:
        require_positive(num_features=num_features, eps=eps)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1 or None, got {momentum}")
        super().__init__(num_features, eps, momentum, affine)
        self.unbiased, self.synchronize = unbiased, synchronize

    def extra_repr(self) -> str:
        """Say the settings, as ``nn.BatchNorm1d`` does."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, unbiased={self.unbiased}, synchronize={self.synchronize}"
        )

    @checked
    def forward(
        self,
        x: Float[Tensor, "b t p"],
        lengths: Int[Tensor, " b"] | None = None,
        *,
        mask: Bool[Tensor, "b t"] | None = None,
    ) -> Tensor:
        """Normalise a batch.

        Args:
            x: features of B sequences, padded at the end if ``lengths`` are given.
            lengths: number of steps of each, 0 to T. On the CPU they are checked without waiting
                for a GPU.
            mask: in their place, True where there is a step and False where there is none (that is
                the opposite of ``key_padding_mask`` in PyTorch): padding at either side, and holes.
                What a mask leaves out counts nowhere and comes out as zero.

        Returns:
            (B, T, P), zero where padded.
        """
        if x.shape[2] != self.num_features:
            raise ValueError(f"x: expected {self.num_features} features, got {describe(x)}")
        compiling = torch.compiler.is_compiling()
        joint = self.synchronize and self._of_batch() and processes() > 1
        valid = real_steps(x, lengths, mask)
        if self._of_batch() and not (compiling or joint):
            require_variance(*((valid, "mask") if lengths is None else (lengths, "lengths")))
        own = (each.dtype for each in (self.weight, self.running_mean) if each is not None)
        wide = functools.reduce(
            torch.promote_types, own, torch.promote_types(x.dtype, torch.float32)
        )
        with torch.autocast(x.device.type, enabled=False):
            route = self._masked if compiling or joint else self._packed
            return route(x.to(wide), valid).to(x.dtype)

    def _masked(self, x: Tensor, valid: Tensor) -> Tensor:
        """Take sums over all steps with zeros for padding, whose shapes a compiler knows."""
        valid = valid[..., None]
        x = torch.where(valid, x, 0)
        if self._of_batch():
            sums = self._joint(torch.cat([valid.sum().to(x.dtype)[None], x.sum((0, 1))]))
            m, mean = sums[0].detach(), sums[1:] / sums[0].detach().clamp_min(1)  # eq-pace-mean
            if self.synchronize and not torch.compiler.is_compiling():
                require_variance(m, "x")
            square = self._joint(torch.where(valid, x - mean, 0).square().sum((0, 1)))
            var = square / (m - int(self.unbiased)).clamp_min(1)  # eq-pace-variance
            self._track(m, mean, square / (m - 1).clamp_min(1))
        else:
            mean, var = self.running_mean.to(x), self.running_var.to(x)
        normed = (x - mean) * torch.rsqrt(nan_for_infinite(var) + self.eps)  # eq-pace-sbn
        if self.affine:
            normed = self.weight * normed + self.bias  # eq-pace-sbn
        return torch.where(valid, normed, 0).to(x.dtype)

    def _packed(self, x: Tensor, valid: Tensor) -> Tensor:
        """Normalise by PyTorch's own kernel, on the un-padded steps alone, which is faster."""
        steps = valid.flatten().nonzero()[:, 0]
        flat, m, eps = x.flatten(0, 1), len(steps), self.eps
        weight, bias = (self.weight.to(x), self.bias.to(x)) if self.affine else (None, None)
        of_batch = self._of_batch()
        if of_batch:
            mean, var = x.new_zeros(2, self.num_features)  # for the kernel to fill
            if self.unbiased:  # var m / (m - 1) for var: the factor goes into weight and eps
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

    def _joint(self, sums: Tensor) -> Tensor:
        """Sums over the steps of this process, or of all."""
        return summed_with_gradient(sums) if self.synchronize else sums

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
            "lengths; set synchronize=True for statistics over processes, and convert the other "
            "layers one by one"
        )
