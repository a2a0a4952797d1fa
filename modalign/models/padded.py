"""Sequences of several lengths in one tensor, and which of their places are real."""

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from modalign._checks import describe, require_below


class Padded(NamedTuple):
    """Values, and a mask of those that are not padding.

    Attributes:
        values: (..., L), tokens, or (..., L, D), vectors.
        mask: (..., L), True or 1 where a place is real.
    """

    values: Tensor
    mask: Tensor


def require_padded(
    given: object,
    name: str,
    dimensions: int,
    *,
    width: int | None = None,
    tokens: int | None = None,
    leaks: bool = False,
) -> Padded:
    """Refuse anything but a padded batch of tokens or vectors; the mask comes back as bool.

    Args:
        given: a pair of values and mask.
        name: of the argument.
        dimensions: of the mask.
        width: D of vectors.
        tokens: of a vocabulary, if values are tokens.
        leaks: whether padded vectors are looked at too, and have to be finite.

    Raises:
        TypeError: for anything but a pair of tensors, or another dtype.
        ValueError: for other shapes, a width that is not the model's, tokens outside the
            vocabulary, a mask of other numbers than 0 and 1, and real vectors that are not finite.

    >>> given = Padded(torch.tensor([[3, 0]]), torch.tensor([[1, 0]]))
    >>> require_padded(given, "question", 2, tokens=3)
    Traceback (most recent call last):
    ...
    ValueError: question: expected tokens 0 to 2, got 0 to 3
    """
    pair = given if isinstance(given, tuple) else ()
    if len(pair) != 2 or not all(isinstance(each, Tensor) for each in pair):
        raise TypeError(f"{name}: expected values and their mask, got {describe(given)}")
    values: Tensor
    mask: Tensor
    values, mask = pair
    floating = values.is_floating_point()
    if floating != (tokens is None) or values.is_complex() or values.dtype == torch.bool:
        expected = "floating-point vectors" if tokens is None else "integer tokens"
        raise TypeError(f"{name}: expected {expected}, got {describe(values)}")
    shape = values.shape[:-1] if floating else values.shape
    if mask.dim() != dimensions or mask.shape != shape or 0 in values.shape:
        raise ValueError(
            f"{name}: expected a mask of {dimensions} dimensions and values that it fits, none of "
            f"size 0, got values {describe(values)} and mask {describe(mask)}"
        )
    if width is not None and values.shape[-1] != width:
        raise ValueError(
            f"{name}: expected features of width {width}, which the model was made for, got "
            f"{describe(values)}"
        )
    if mask.dtype != torch.bool:
        if ((mask != 0) & (mask != 1)).any():
            raise ValueError(f"{name}: expected a mask of 0 and 1, got other numbers")
        mask = mask.bool()
    if tokens is not None:
        require_below(values, tokens, name, "tokens")
    elif not (values if leaks else values[mask]).isfinite().all():
        raise ValueError(f"{name}: expected finite features, got NaN or infinity")
    return Padded(values, mask)


def require_dtype(x: Tensor, weight: Tensor, name: str) -> None:
    """Refuse numbers of another precision than a model's weights, unless autocast converts them."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"{name}: expected {weight.dtype}, as the weights are, got {describe(x)}")


def lengths_of(mask: Bool[Tensor, "b t"], name: str) -> Tensor:
    """The number of real places of each row, which come first.

    Raises:
        ValueError: if padding comes before a real place.

    >>> lengths_of(torch.tensor([[True, True, False], [False, False, False]]), "video")
    tensor([2, 0])
    """
    lengths = mask.sum(1)
    first = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
    if (first != mask).any():
        row = int((first != mask).any(1).nonzero()[0])
        raise ValueError(f"{name}: expected padding at the end, row {row} has some before")
    return lengths
