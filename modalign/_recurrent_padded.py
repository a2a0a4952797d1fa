"""Arguments of an LSTM, and its padded sequences: the steps come first here, (T, B, I)."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from modalign._checks import describe, require_lengths

State = tuple[Tensor, Tensor]
Module = TypeVar("Module", bound=nn.Module)


def require_options(num_layers: int, dropout: float) -> None:
    """Refuse a dropout that is not a rate, and one between layers if there is one layer."""
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: expected a rate from 0 to 1, got {dropout}")
    if dropout and num_layers == 1:
        raise ValueError(
            f"dropout: expected 0 with num_layers=1, as it comes between layers, got {dropout}"
        )


def require_sequences(module: Any, x: Tensor | PackedSequence, hx: State | None) -> None:
    """Refuse other features than the module takes, another type than its weights', and no step."""
    if isinstance(x, PackedSequence):
        x = x.data
    if x.dim() not in (2, 3) or x.shape[-1] != module.input_size:
        expected = f"sequences of {module.input_size} features a step in 2 or 3 dimensions"
        raise ValueError(f"x: expected {expected}, got {describe(x)}")
    dtype = module.weight_ih_l0.dtype
    kind = str(dtype).removeprefix("torch.")
    given = {"x": x} if hx is None else {"x": x, "hx: h": hx[0], "hx: c": hx[1]}
    for name, value in given.items():
        if value.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{name}: expected {kind}, as the weights, got {describe(value)}")
    if not x.shape[1 if module.batch_first and x.dim() == 3 else 0]:
        raise ValueError(f"x: expected at least one step, got {describe(x)}")


def first_states(x: Tensor, hx: State | None, rows: int, size: int) -> State:
    """The states before the first step, zeros by default: (rows, B, H) for x of (T, B, I)."""
    shape = (rows, *x.shape[1:-1], size)
    h0, c0 = (x.new_zeros(shape), x.new_zeros(shape)) if hx is None else hx
    for name, state in (("h", h0), ("c", c0)):
        if state.shape != shape:
            raise ValueError(f"hx: expected {name} of shape {shape}, got {describe(state)}")
    return h0, c0


class Steps:
    """The steps that sequences have, of T in the batch; without lengths all of them.

    Raises:
        ValueError: for lengths of other sequences than x has, or outside 0 to T.
    """

    def __init__(self, x: Float[Tensor, "t *b i"], lengths: Tensor | None) -> None:
        self.lengths: Tensor | None = None
        if lengths is None:
            return
        if x.dim() != 3 or x.shape[1] != len(lengths):
            expected = f"one for each of {x.shape[1]} sequences" if x.dim() == 3 else "a batch"
            raise ValueError(f"lengths: expected {expected}, got {describe(lengths)}")
        if not torch.compiler.is_compiling():
            require_lengths(lengths, len(x), "lengths")
        self.lengths = n = lengths.to(x.device, torch.long)
        t = torch.arange(len(x), device=x.device)[:, None]
        self.valid = t < n
        self.mirrored = torch.where(self.valid, n - 1 - t, t)

    def cleared(self, x: Tensor) -> Tensor:
        """Zeros for padding, whatever it held."""
        return x if self.lengths is None else torch.where(self.valid[..., None], x, 0)

    def flipped(self, x: Tensor) -> Tensor:
        """Each sequence backwards, its padding still at the end; twice, it is as it was."""
        if self.lengths is None:
            return x.flip(0)
        return x.gather(0, self.mirrored[..., None].expand_as(x))

    def after_last(self, states: Tensor, before: Tensor) -> Tensor:
        """The state after the last step of each sequence; ``before`` of one without a step."""
        if self.lengths is None:
            return states[-1]
        last = (self.lengths - 1).clamp_min(0)[:, None]
        found = states.gather(0, last.expand(states.shape[1:])[None])[0]
        return torch.where(self.lengths[:, None] > 0, found, before.to(found.dtype))


def opened(
    x: Tensor | PackedSequence, lengths: Tensor | None, batch_first: bool
) -> tuple[Tensor, Tensor | None, Callable[[Tensor], Any]]:
    """Sequences with the steps first, their lengths, and what gives an output the form of x."""
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths: expected none, as a PackedSequence has its own")
        steps, found = pad_packed_sequence(x)
        return steps, found, lambda output: _packed(output, x, found)
    if batch_first and x.dim() == 3:
        return x.transpose(0, 1), lengths, lambda output: output.transpose(0, 1)
    return x, lengths, lambda output: output


def _packed(output: Tensor, like: PackedSequence, lengths: Tensor) -> PackedSequence:
    """Padded sequences packed as others were."""
    if like.sorted_indices is not None:
        output = output.index_select(1, like.sorted_indices)
        lengths = lengths[like.sorted_indices.to(lengths.device)]
    steps = torch.arange(len(output), device=output.device)[:, None]
    data = output[steps < lengths.to(output.device)]
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)


def settings_of(lstm: nn.LSTM) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Sizes and options of an ``nn.LSTM``, which counts dropout of a single layer as none."""
    if not isinstance(lstm, nn.LSTM):
        raise TypeError(f"lstm: expected nn.LSTM, got {describe(lstm)}")
    if lstm.proj_size:
        raise ValueError(f"lstm: expected no projection, got proj_size={lstm.proj_size}")
    sizes = lstm.input_size, lstm.hidden_size, lstm.num_layers
    options = {"batch_first": lstm.batch_first, "bidirectional": lstm.bidirectional}
    return sizes, {**options, "dropout": lstm.dropout if lstm.num_layers > 1 else 0.0}


@torch.no_grad()
def with_weights(module: Module, lstm: nn.LSTM) -> Module:
    """A module without memory of its own, with the matrices and biases of an ``nn.LSTM``."""
    like = next(lstm.parameters())
    module.to(like.dtype).to_empty(device=like.device)
    for norm in module.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.reset_parameters()
    for row, names in enumerate(lstm._all_weights):
        for name in names:
            value, (kind, part) = getattr(lstm, name), name.split("_")[:2]
            if kind == "bias":
                getattr(module, f"norm_{part}")[row].bias.copy_(value)
            else:
                getattr(module, name).copy_(value)
    return module.train(lstm.training)
