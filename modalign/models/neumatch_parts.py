"""The parts of NeuMATCH: its fixed input, and the stacks of clips, snippets, actions and matches.

Equation numbers are those of Wang et al. (2020), "the paper". Letters: B samples, T places.
"""

import re
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from modalign._checks import describe, require_finite, require_rows
from modalign.normalization import LayerNormLSTM, SequenceBatchNorm, lstm_states
from modalign.projection import RandomProjection

Recurrent = nn.LSTM | LayerNormLSTM
State = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


class FixedInput(nn.Module):
    """The fixed steps before anything that is trained: projection, then standardisation.

    Args:
        width: of the features.
        projected: width after the random projection (eq. 13), None for no projection.
        seed: of the projection.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, projected: int | None, seed: int) -> None:
        super().__init__()
        self.project = (
            nn.Identity() if projected is None else RandomProjection(width, projected, seed=seed)
        )
        self.features, self.width = width, projected or width
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n d"]) -> None:
        """Take mean and standard deviation of features, a row each; a constant one is centred.

        Raises:
            ValueError: for fewer than 2 rows, another width or dtype, features that are not finite,
                and those whose squares are too large or too small for their dtype.
        """
        self._require(x)
        require_rows(len(x), 2, "x", "a standard deviation")
        require_finite(x, "x")
        z = self.project(x)
        std, mean = torch.std_mean(z, 0, correction=0)
        vanished = (std == 0) & (z != z[0]).any(0)
        if not (std.isfinite() & mean.isfinite()).all() or vanished.any():
            raise ValueError(
                f"x: expected features whose squares {describe(x)} holds, got sizes up to "
                f"{float(x.abs().max()):.2g}; rescale them"
            )
        # rounding of constant features: of each feature, and of the sums in a projection
        size = mean.abs() if isinstance(self.project, nn.Identity) else z.double().abs().mean()
        self.mean, self.std = mean, torch.where(std > 1e-6 * size, std, 1.0)

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows q"]:
        """Zero mean and unit variance over the features that it was fitted to.

        Raises:
            ValueError: for another width or dtype, and for features that are not finite, or are not
                in the units of those it was fitted to.
        """
        self._require(x)
        require_finite(x, "x")
        z = (self.project(x) - self.mean) / self.std
        if not torch.isfinite(z).all():
            raise ValueError(
                f"x: expected features in the units of those that the input was fitted to, got "
                f"sizes up to {float(x.abs().max()):.2g}"
            )
        return z

    def _require(self, x: Tensor) -> None:
        if x.dtype != self.mean.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"x: expected {str(self.mean.dtype).removeprefix('torch.')}, as the network is, "
                f"got {describe(x)}; convert one with .to(dtype)"
            )
        if x.dim() < 2 or x.shape[-1] != self.features:
            raise ValueError(f"x: expected {self.features} features a row, got {describe(x)}")


def _rows(
    x: Float[Tensor, "b t p"], samples: Int[Tensor, "*#many"], places: Int[Tensor, "*many"]
) -> Float[Tensor, "*many p"]:
    """The row of x at each place of its sample."""
    # whole rows are copied; gather would look up each of their numbers
    chosen = (samples * x.shape[1] + places).flatten()
    return x.flatten(0, 1).index_select(0, chosen).view(*places.shape, -1)


def pick(x: Float[Tensor, "b t p"], places: Int[Tensor, "b a"]) -> Float[Tensor, "b a p"]:
    """The rows of each sample at its places."""
    return _rows(x, torch.arange(len(x), device=x.device)[:, None], places)


def _lstm(inputs: int, hidden: int, layers: int, layer_norm: bool) -> Recurrent:
    """LSTM (eq. 1 to 3), or one with layer normalisation in its gates (eq. 11 and 12)."""
    if layer_norm:
        return LayerNormLSTM(inputs, hidden, layers, batch_first=True)
    return nn.LSTM(inputs, hidden, layers, batch_first=True)


class SequenceStack(nn.Module):
    """The Video or the Text Stack: FC layers, an LSTM that runs backward, normalised outputs.

    Sequences are reversed before the LSTM, so that their padding comes last and needs no packing.

    Args:
        width: of the inputs.
        hidden: width P of the outputs.
        full: begin with a trained layer without bias, in place of a random projection.
        relu: a ReLU after that layer.
        fc: how many FC layers with ReLU follow.
        normalization: ``"sbn"`` of the outputs, ``"ln2"`` or ``"ln4"`` inside the LSTM, or None.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        full: bool,
        relu: bool,
        fc: int,
        normalization: str | None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(width, hidden, bias=False)] if full else []
        layers += [nn.ReLU()] if full and relu else []
        for i in range(fc):
            layers += [nn.Linear(width if i == 0 and not full else hidden, hidden), nn.ReLU()]
        self.fc = nn.Sequential(*layers)
        self.lstm = _lstm(hidden, hidden, 2, normalization in ("ln2", "ln4"))
        self.norm = SequenceBatchNorm(hidden) if normalization == "sbn" else None

    def forward(
        self, x: Float[Tensor, "b t d"], lengths: Int[Tensor, " b"]
    ) -> Float[Tensor, "b t p"]:
        """Hidden states, the one of the last element first."""
        parts, start = [], 0
        places = lengths.new_empty(x.shape[1], len(x))  # where the parts hold each step
        step = torch.arange(x.shape[1], device=x.device)[:, None]
        for rows in self._groups(lengths):
            longest = int(lengths[rows].max())
            back = (lengths[rows] - 1 - step[:longest]).clamp(min=0)
            reversed_x = _rows(x, rows, back)  # time first
            hidden, _ = self.lstm(self.fc(reversed_x).transpose(0, 1))
            parts.append(hidden.transpose(0, 1).flatten(0, 1))
            column = torch.arange(len(rows), device=x.device)
            places[:, rows] = start + step.clamp(max=longest - 1) * len(rows) + column
            start += longest * len(rows)
        hidden = torch.cat(parts).index_select(0, places.T.flatten()).view(*x.shape[:2], -1)
        return hidden if self.norm is None else self.norm(hidden, lengths)

    def _groups(self, lengths: Tensor) -> Sequence[Tensor]:
        """Sequences of like length, to a quarter of an octave: a CPU is spared most padding."""
        order = lengths.argsort(descending=True, stable=True)
        if lengths.device.type != "cpu" or not isinstance(self.lstm, nn.LSTM):
            return [order]
        quarters_of_an_octave = (4 * (lengths.max() / lengths[order]).log2()).long()
        _, sizes = quarters_of_an_octave.unique_consecutive(return_counts=True)
        return order.split(sizes.tolist())


class SmallStack(nn.Module):
    """The Action or the Matched Stack: two LSTM layers, whose hidden states are added.

    Args:
        inputs: width of the inputs.
        hidden: width of both layers.
        layer_norm: normalise inside the LSTMs.
    """

    def __init__(self, inputs: int, hidden: int, *, layer_norm: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.first = _lstm(inputs, hidden, 1, layer_norm)
        self.second = _lstm(hidden, hidden, 1, layer_norm)

    def start(self, like: Tensor) -> State:
        """The empty stack, for a batch (B, T, P)."""
        zeros = like.new_zeros(1, len(like), self.hidden)
        return (zeros, zeros), (zeros, zeros)

    def forward(
        self, x: Float[Tensor, "b t d"], state: State
    ) -> tuple[Float[Tensor, "b t p"], State]:
        """Outputs after each of T more inputs, and the state after the last."""
        first, after_first = self.first(x, state[0])
        second, after_second = self.second(first, state[1])
        return first + second, (after_first, after_second)

    def recur(self, from_x: Float[Tensor, "t b g"], before: State) -> State:
        """Hidden and cell states of both layers after each of T steps.

        ``from_x`` are inputs that were multiplied with the first layer's input weights before.
        """
        first = _recur(self.first, from_x, before[0])
        from_first = nn.functional.linear(first[0], self.second.get_parameter("weight_ih_l0"))
        return first, _recur(self.second, from_first, before[1])


def _recur(
    lstm: Recurrent, from_x: Float[Tensor, "t b g"], before: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """States after each step; nn.LSTM would return the last cell state only."""
    h, c = before[0][0], before[1][0]
    if isinstance(lstm, LayerNormLSTM):
        return lstm.recur(0, from_x, h, c)
    _, w_h, b_x, b_h = lstm.all_weights[0]
    return lstm_states(from_x + b_x, lambda h: nn.functional.linear(h, w_h, b_h), h, c)


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply a function to the corresponding tensors of states."""
    (h1, c1), (h2, c2) = (
        [function(*parts) for parts in zip(*layer, strict=True)]
        for layer in zip(*states, strict=True)
    )
    return (h1, c1), (h2, c2)


def initialise(module: nn.Module) -> None:
    """Xavier input weights, orthogonal recurrent weights and a forget-gate bias of 1."""
    if not isinstance(module, Recurrent):
        return
    forget = slice(module.hidden_size, 2 * module.hidden_size)
    for name, weight in module.named_parameters():
        if "weight_ih" in name:
            nn.init.xavier_uniform_(weight)
        elif "weight_hh" in name:
            nn.init.orthogonal_(weight)
        elif "bias" in name:
            nn.init.zeros_(weight)
        if "bias_ih" in name or re.fullmatch(r"norm_ih\.\d+\.bias", name):
            nn.init.ones_(weight[forget])
