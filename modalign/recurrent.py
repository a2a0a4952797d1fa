"""Layer normalisation inside an LSTM: of the gates' two parts, from input and past; of the cell.

Labels such as eq-pace-gates are those of equations in the chapter "Pace and scale".
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from modalign import _recurrent_padded as padding
from modalign._checks import checked, describe, require_positive
from modalign._numerics import nan_beyond, nan_beyond_product


class LayerNormLSTM(nn.Module):
    r"""LSTM with layer normalisation (eq-pace-ln) of its gates and its cell.

    Paper eq. 11, 12 and 3 (Wang et al. 2020), whose configuration is that of PyTorch's fastrnns
    benchmark: one norm over the four gates' input part, one over their recurrent part, one over
    the cell. Their shifts take the place of the biases. Called, named and shaped as ``nn.LSTM``,
    gates in its order (input, forget, cell, output): ``weight_ih_l0``, ``weight_hh_l0``, those of
    the second direction with ``_reverse``, and so on, with ``norm_ih[0]``, ``norm_hh[0]`` and
    ``norm_cell[0]`` beside them, in the order of the states. No projections or biases.

    The input part of all steps is one product; the recurrence takes T products of (B, H) and
    (H, 4 H), padded or packed. O(B T H (I + H)) time and O(B T H) memory for each layer and
    direction. If squares add up to more than float32 holds, numbers of 1e19, a norm would be
    zero: there the states are NaN from that step on.

    Args:
        input_size: I, features of a step.
        hidden_size: H.
        num_layers: stacked LSTMs (paper: 2).
        batch_first: sequences are (B, T, I) and not (T, B, I).
        dropout: rate between layers, in training.
        bidirectional: D = 2 directions: each sequence backwards too, from its last step; else 1.
        eps: added to the variances (PyTorch's default).

    Raises:
        TypeError: if an argument is of another type altogether.
        ValueError: for sizes that do not fit, lengths outside 0 to T or beside a
            ``PackedSequence``, and dropout with one layer, which has no place there.

    >>> lstm = LayerNormLSTM.from_lstm(nn.LSTM(3, 5, 2, batch_first=True, bidirectional=True))
    >>> output, (h, c) = lstm(torch.ones(4, 7, 3), lengths=torch.tensor([7, 2, 1, 7]))
    >>> tuple(output.shape), tuple(h.shape), output[1, 2:].any().item()
    ((4, 7, 10), (4, 4, 5), False)
    """

    @checked
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_positive(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, eps=eps
        )
        padding.require_options(num_layers, dropout)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        ways = 1 + bidirectional
        self.rows = [f"l{i // ways}" + i % ways * "_reverse" for i in range(num_layers * ways)]
        for row, name in enumerate(self.rows):
            width = input_size if row < ways else ways * hidden_size
            for kind, columns in (("ih", width), ("hh", hidden_size)):
                weight = nn.Parameter(torch.empty(4 * hidden_size, columns))
                self.register_parameter(f"weight_{kind}_{name}", weight)
        self.norm_ih, self.norm_hh, self.norm_cell = (
            nn.ModuleList(nn.LayerNorm(gates * hidden_size, eps) for _ in self.rows)
            for gates in (4, 4, 1)
        )
        self.reset_parameters()

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM, *, eps: float = 1e-5) -> "LayerNormLSTM":
        """Take sizes, options and weights of an ``nn.LSTM``, on its device.

        Matrices come over as they are, biases as the shifts of ``norm_ih`` and ``norm_hh``. The
        norms' scales (1) and ``norm_cell`` have no counterpart, and start as in a new module, so
        that the function is another: that of ``lstm`` if nothing were centred and scaled.
        ``proj_size`` is refused by a ``ValueError``.
        """
        sizes, options = padding.settings_of(lstm)
        with torch.device("meta"):
            made = cls(*sizes, **options, eps=eps)
        return padding.with_weights(made, lstm)

    def reset_parameters(self) -> None:
        """Draw the weights as ``nn.LSTM`` does; norms start as the identity."""
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -(self.hidden_size**-0.5), self.hidden_size**-0.5)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def extra_repr(self) -> str:
        """Say the sizes, as ``nn.LSTM`` does."""
        names = ("batch_first", "dropout", "bidirectional")
        more = "".join(f", {name}={getattr(self, name)}" for name in names if getattr(self, name))
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}{more}"

    @checked
    def forward(
        self,
        x: Float[Tensor, "*b t i"] | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Int[Tensor, " n"] | None = None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """Run over sequences.

        Args:
            x: (T, B, I), or (B, T, I) if ``batch_first``, or one sequence, (T, I); or a
                ``PackedSequence``.
            hx: hidden and cell state before the first step, each (D num_layers, B, H); zeros by
                default.
            lengths: number of steps of each sequence, 0 to T, if some are padded at the end.

        Returns:
            The last layer's hidden states, shaped as x with D H features, zero where padded, and
            the hidden and cell states after the last step of each sequence, each (D num_layers,
            B, H). Packed if x is.
        """
        padding.require_sequences(self, x, hx)
        steps, lengths, shaped_as_x = padding.opened(x, lengths, self.batch_first)
        padded, ways = padding.Steps(steps, lengths), 1 + self.bidirectional
        h0, c0 = padding.first_states(steps, hx, len(self.rows), self.hidden_size)
        output, hs, cs, found = padded.cleared(steps), [], [], []
        for row, name in enumerate(self.rows):
            way = row % ways
            from_x = padded.flipped(output) if way else output
            from_x = functional.linear(from_x, getattr(self, f"weight_ih_{name}"))
            states, cells = self.recur(row, from_x, h0[row], c0[row])
            hs.append(padded.after_last(states, h0[row]))
            cs.append(padded.after_last(cells, c0[row]))
            found.append(padded.flipped(states) if way else states)
            if len(found) == ways:  # of this layer
                output = padded.cleared(torch.cat(found, -1) if way else found[0])
                found = []
                if self.dropout and row + 1 < len(self.rows):
                    output = functional.dropout(output, self.dropout, self.training)
        return shaped_as_x(output), (torch.stack(hs), torch.stack(cs))

    def recur(
        self, row: int, from_x: Float[Tensor, "t *b g"], h: Tensor, c: Tensor
    ) -> tuple[Float[Tensor, "t *b h"], Float[Tensor, "t *b h"]]:
        """Run one layer over inputs that were multiplied with its ``weight_ih`` before.

        Args:
            row: which, of the states: the layer from 0, or twice that, and 1 more for the second
                direction.
            from_x: its inputs after that, the steps first, in the order in which they are read.
            h: hidden state before the first step.
            c: cell state before the first step.

        Returns:
            Hidden states and cell states after each step, as :func:`lstm_states`.
        """
        norm_hh, w_h = self.norm_hh[row], getattr(self, f"weight_hh_{self.rows[row]}")
        c = nan_beyond_product(nan_beyond(c, -1), w_h, h)
        return lstm_states(
            self.norm_ih[row](nan_beyond(from_x, -1)),  # eq-pace-ln
            lambda h: norm_hh(functional.linear(h, w_h)),
            h,
            c,
            self.norm_cell[row],
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
        from_x: the inputs' part of the four gates (input, forget, cell, output).
        from_h: gives a hidden state's part of them.
        h: hidden state before the first step.
        c: cell state before the first step.
        norm_cell: applied to each cell state, if one is given.

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
