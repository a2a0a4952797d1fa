"""Layer normalisation inside an LSTM: of what input and past bring to the gates, and of the cell.

Labels such as eq-pace-gates are those of equations in the chapter "Pace and scale".
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_positive
from modalign._numerics import nan_beyond, nan_beyond_product


class LayerNormLSTM(nn.Module):
    r"""LSTM with layer normalisation (eq-pace-ln) of its gates and its cell.

    Paper eq. 11, 12 and 3 (Wang et al. 2020), whose configuration is that of PyTorch's fastrnns
    benchmark: one norm over the four gates' input part, one over their recurrent part, one over
    the cell. Their shifts take the place of the biases. Called, named and shaped as ``nn.LSTM``,
    gates in its order (input, forget, cell, output): ``weight_ih_l0``, ``weight_hh_l0``, and so on,
    with ``norm_ih[0]``, ``norm_hh[0]`` and ``norm_cell[0]`` beside them. No packed sequences, no
    second direction (flip a padded batch, and padding at the end never reaches earlier steps), and
    none of ``nn.LSTM``'s dropout, projections or biases; ``batch_first`` is given by name.

    The input part of all steps is one product; the recurrence takes T products of (B, H) and
    (H, 4 H). O(B T H (I + H)) time and O(B T H) memory for each layer. Where squares add up to more
    than float32 holds, numbers of 1e19, a norm would be zero: there the states are NaN from that
    step on.

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
        dtype, kind = self.weight_ih_l0.dtype, str(self.weight_ih_l0.dtype).removeprefix("torch.")
        given = {"x": x, **dict(zip(("hx: h", "hx: c"), hx or (), strict=False))}
        for name, value in given.items():
            if value.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
                raise ValueError(f"{name}: expected {kind}, as the weights, got {describe(value)}")
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
        c = nan_beyond_product(nan_beyond(c, -1), w_h, h)
        return lstm_states(
            self.norm_ih[layer](nan_beyond(from_x, -1)),  # eq-pace-ln
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
    """Hidden and cell states of an LSTM after each step.

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
        i, f, g, o = (each + from_h(h)).chunk(4, -1)  # eq-pace-gates
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()  # eq-pace-cell
        c = c if norm_cell is None else norm_cell(c)
        h = o.sigmoid() * c.tanh()  # eq-pace-hidden
        hs.append(h)
        cs.append(c)
    return torch.stack(hs), torch.stack(cs)
