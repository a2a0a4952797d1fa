"""Normalisation for sequences: over the un-padded steps of a batch, and inside an LSTM.

Sequences are (B, T, P): B of them, T steps with the padding, P features. Equation numbers are those
of the chapter "Pace and scale", which derives each line below.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_lengths, require_positive


class SequenceBatchNorm(nn.Module):
    r"""Batch normalisation over the un-padded steps of a batch of sequences (eq. 6 to 8).

    Equations 5 to 7 of Wang et al. (2020), after Laurent et al. (2015). Each feature is centred and
    scaled by its mean and variance over all steps of all sequences, the padding left out; padded
    steps come out as zeros whatever they held. Where nothing is padded this is
    ``nn.BatchNorm1d``, whose parameters and buffers it has, under the same names.

    Statistics are taken in float32 at least, under autocast too, and the output has the type of
    the input. Running statistics are detached, and as in ``nn.BatchNorm1d`` the running variance
    is the unbiased one. NaN in a step makes its feature NaN, as there. O(B T P) time and memory.

    Args:
        num_features: P.
        eps: added to the variance (PyTorch's default; the paper gives no number).
        momentum: weight of a batch in the running statistics; None averages all batches alike.
        affine: learn a scale and a shift for each feature, gamma and beta of eq. 8.
        unbiased: divide the squared deviations of a batch by M - 1 and not by M, the number of
            un-padded steps. The paper and ``nn.BatchNorm1d`` divide by M.

    Raises:
        TypeError: where an argument is of another type altogether.
        ValueError: for sizes that do not fit, a length outside 0 to T, and, in training, fewer than
            2 un-padded steps, which have no variance. Compiled, values are not looked at: there
            such a batch leaves the running statistics as they were, a single step comes out as
            beta.

    >>> norm = SequenceBatchNorm(1)
    >>> x = torch.tensor([[[1.0], [3.0]], [[5.0], [99.0]]])  # 99 is padding
    >>> norm(x, torch.tensor([2, 1])).flatten().mul(10).round().int().tolist()
    [-12, 0, 12, 0]
    """

    weight: Tensor | None
    bias: Tensor | None
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
        super().__init__()
        require_positive(num_features=num_features, eps=eps)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1 or None, got {momentum}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.unbiased = affine, unbiased
        self.register_parameter(
            "weight", nn.Parameter(torch.ones(num_features)) if affine else None
        )
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def extra_repr(self) -> str:
        """Say the settings, as ``nn.BatchNorm1d`` does."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, unbiased={self.unbiased}"
        )

    @checked
    def forward(self, x: Float[Tensor, "b t p"], lengths: Int[Tensor, " b"]) -> Tensor:
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
            require_lengths(lengths, x.shape[1], "lengths", total=2 if self.training else 0)
        valid = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
        wide = x.to(torch.promote_types(x.dtype, self.running_mean.dtype))
        with torch.autocast(x.device.type, enabled=False):
            return (self._masked if compiling else self._packed)(wide, valid).to(x.dtype)

    def _packed(self, x: Tensor, valid: Tensor) -> Tensor:
        """By PyTorch's own kernel on the un-padded steps alone."""
        steps = valid.flatten().nonzero()[:, 0]
        flat, m = x.flatten(0, 1), len(steps)
        eps, weight, momentum = self.eps, self.weight, self.momentum or 0.0
        if self.training:
            self.num_batches_tracked += 1
            if self.momentum is None:
                momentum = 1 / int(self.num_batches_tracked)
            if self.unbiased:  # (m - 1) / m times the variance and eps, in units of the former
                eps *= (m - 1) / m
                shrink = ((m - 1) / m) ** 0.5
                weight = shrink * (torch.ones_like(x[0, 0]) if weight is None else weight)
        normed = functional.batch_norm(
            flat.index_select(0, steps),
            self.running_mean,
            self.running_var,
            weight,
            self.bias,
            self.training,
            momentum,
            eps,
        )
        return torch.zeros_like(flat).index_copy(0, steps, normed).view_as(x)

    def _masked(self, x: Tensor, valid: Tensor) -> Tensor:
        """By sums over all steps with zeros for padding: slower, but shapes a compiler knows."""
        valid = valid[..., None]
        x = torch.where(valid, x, 0)
        if self.training:
            m = valid.sum().to(x.dtype)
            mean = x.sum((0, 1)) / m.clamp_min(1)  # eq. 6
            square = torch.where(valid, x - mean, 0).square().sum((0, 1))
            var = square / (m - int(self.unbiased)).clamp_min(1)  # eq. 7
            unbiased = square / (m - 1).clamp_min(1)
            self.num_batches_tracked += m >= 2
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
                change = share * (batch.detach() - running)
                running += torch.where(m >= 2, change, 0).to(running)
        else:
            mean, var = self.running_mean, self.running_var
        normed = (x - mean) * torch.rsqrt(var + self.eps)  # eq. 8
        if self.weight is not None and self.bias is not None:
            normed = normed * self.weight + self.bias
        return torch.where(valid, normed, 0)


class LayerNormLSTM(nn.Module):
    r"""LSTM with layer normalisation of its gates and its cell (eq. 11 to 13).

    Equations 11, 12 and 3 of Wang et al. (2020), whose configuration is that of PyTorch's fastrnns
    benchmark: one norm over the four gates' input part, one over their recurrent part, one over
    the cell. Their shifts take the place of the biases. Called, named and shaped as ``nn.LSTM``,
    gates in its order (input, forget, cell, output): ``weight_ih_l0``, ``weight_hh_l0``, and so on,
    with ``norm_ih[0]``, ``norm_hh[0]`` and ``norm_cell[0]`` beside them. No packed sequences, no
    second direction (flip a padded batch, and padding at the end never reaches earlier steps), and
    none of ``nn.LSTM``'s dropout, projections or biases; ``batch_first`` is given by name.

    The input part of all steps is one product; the recurrence takes T products of (B, H) and
    (H, 4 H). O(B T H (I + H)) time and O(B T H) memory for each layer.

    Args:
        input_size: I, features of a step.
        hidden_size: H.
        num_layers: stacked LSTMs (paper: 2).
        batch_first: sequences are (B, T, I) and not (T, B, I).
        eps: added to the variances (PyTorch's default).

    Raises:
        TypeError: where an argument is of another type altogether, a ``PackedSequence`` included.
        ValueError: for sizes that do not fit.

    >>> output, (h, c) = LayerNormLSTM(3, 5, num_layers=2, batch_first=True)(torch.ones(4, 7, 3))
    >>> tuple(output.shape), tuple(h.shape), tuple(c.shape)
    ((4, 7, 5), (2, 4, 5), (2, 4, 5))
    """

    @checked
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, eps=eps
        )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first = batch_first
        for layer in range(num_layers):
            width = hidden_size if layer else input_size
            self.register_parameter(
                f"weight_ih_l{layer}", nn.Parameter(torch.empty(4 * hidden_size, width))
            )
            self.register_parameter(
                f"weight_hh_l{layer}", nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
            )
        self.norm_ih, self.norm_hh, self.norm_cell = (
            nn.ModuleList(nn.LayerNorm(gates * hidden_size, eps) for _ in range(num_layers))
            for gates in (4, 4, 1)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as ``nn.LSTM`` does; norms start as the identity."""
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -(self.hidden_size**-0.5), self.hidden_size**-0.5)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def extra_repr(self) -> str:
        """Say the sizes, as ``nn.LSTM`` does."""
        first = ", batch_first=True" if self.batch_first else ""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}{first}"

    @checked
    def forward(
        self, x: Float[Tensor, "*b t i"], hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over sequences.

        Args:
            x: (T, B, I), or (B, T, I) where ``batch_first``, or one sequence, (T, I).
            hx: hidden and cell state before the first step, each (num_layers, B, H); zeros by
                default.

        Returns:
            The last layer's hidden states, shaped as x, and the hidden and cell states after the
            last step, each (num_layers, B, H).
        """
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            expected = f"sequences of {self.input_size} features a step in 2 or 3 dimensions"
            raise ValueError(f"x: expected {expected}, got {describe(x)}")
        steps_first = x.transpose(0, 1) if self.batch_first and x.dim() == 3 else x
        if not len(steps_first):
            raise ValueError(f"x: expected at least one step, got {describe(x)}")
        size = (self.num_layers, *steps_first.shape[1:-1], self.hidden_size)
        h0, c0 = (x.new_zeros(size), x.new_zeros(size)) if hx is None else hx
        for name, state in (("h", h0), ("c", c0)):
            if state.shape != size:
                raise ValueError(f"hx: expected {name} of shape {size}, got {describe(state)}")
        output, hs, cs = steps_first, [], []
        for layer in range(self.num_layers):
            from_x = functional.linear(output, getattr(self, f"weight_ih_l{layer}"))
            output, cells = self.recur(layer, from_x, h0[layer], c0[layer])
            hs.append(output[-1])
            cs.append(cells[-1])
        if steps_first is not x:
            output = output.transpose(0, 1)
        return output, (torch.stack(hs), torch.stack(cs))

    def recur(
        self, layer: int, from_x: Float[Tensor, "t *b g"], h: Tensor, c: Tensor
    ) -> tuple[Float[Tensor, "t *b h"], Float[Tensor, "t *b h"]]:
        """Run one layer over inputs that were multiplied with its ``weight_ih`` before.

        Args:
            layer: which, from 0.
            from_x: its inputs after that, the steps first.
            h: hidden state before the first step.
            c: cell state before the first step.

        Returns:
            Hidden states and cell states after each step, as :func:`lstm_states`.
        """
        norm_hh, w_h = self.norm_hh[layer], getattr(self, f"weight_hh_l{layer}")
        return lstm_states(
            self.norm_ih[layer](from_x),
            lambda h: norm_hh(functional.linear(h, w_h)),
            h,
            c,
            self.norm_cell[layer],
        )


@checked
def lstm_states(
    from_x: Float[Tensor, "t *b g"],
    from_h: Callable[[Tensor], Tensor],
    h: Float[Tensor, "*b h"],
    c: Float[Tensor, "*b h"],
    norm_cell: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "t *b h"], Float[Tensor, "t *b h"]]:
    """Hidden and cell states of an LSTM after each step (eq. 11 to 13).

    Args:
        from_x: what the inputs bring to the four gates (input, forget, cell, output).
        from_h: what a hidden state brings to them.
        h: hidden state before the first step.
        c: cell state before the first step.
        norm_cell: applied to each cell state, where one is given.

    Returns:
        Hidden states and cell states, in O(T B H^2) time and O(T B H) memory.

    Raises:
        ValueError: for no step, or sizes that do not fit.

    >>> h, c = lstm_states(torch.zeros(5, 1, 8), lambda h: 0, torch.zeros(1, 2), torch.ones(1, 2))
    >>> c[:, 0, 0].tolist()
    [0.5, 0.25, 0.125, 0.0625, 0.03125]
    """
    if not len(from_x) or from_x.shape[-1] != 4 * h.shape[-1]:
        expected = f"at least one step of 4 times {h.shape[-1]} gates"
        raise ValueError(f"from_x: expected {expected}, got {describe(from_x)}")
    hs, cs = [], []
    for each in from_x:
        i, f, g, o = (each + from_h(h)).chunk(4, -1)  # eq. 11
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()  # eq. 12
        c = c if norm_cell is None else norm_cell(c)
        h = o.sigmoid() * c.tanh()  # eq. 13
        hs.append(h)
        cs.append(c)
    return torch.stack(hs), torch.stack(cs)
