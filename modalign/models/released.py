"""Weights that authors released, taken by the names of their parameters.

Each system that has such weights names its parameters as the public code does, so that a state dict
fits as it is. Sizes are read off the shapes; an entry that does not fit is refused by name.
"""

import os
import pickle
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modalign._checks import describe

Module = TypeVar("Module", bound=nn.Module)
Source = Mapping[str, Any] | str | os.PathLike[str]


class Released:
    """A state dict, from memory or from a file, whose entries are asked for by name.

    Args:
        source: a mapping from names to tensors, or a file that ``torch.save`` made of one. A file
            is read with ``weights_only=True``, so that it cannot run code.

    Raises:
        TypeError: for anything but a mapping from names to floating-point tensors.
        ValueError: for a file with anything but tensors, such as a whole pickled model, and for
            numbers that are not finite.

    >>> state = Released({"fc.weight": torch.zeros(3, 2)})
    >>> state.shape("fc.weight", 2), "fc.bias" in state
    ((3, 2), False)
    """

    def __init__(self, source: Source) -> None:
        found = _read(source) if isinstance(source, str | os.PathLike) else source
        if not isinstance(found, Mapping):
            raise TypeError(
                f"state_dict: expected tensors by name, or a file of them, got {describe(found)}"
            )
        for name, value in found.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise TypeError(
                    f"state_dict: {name}: expected a floating-point tensor, got {describe(value)}"
                )
            if not value.isfinite().all():
                raise ValueError(
                    f"state_dict: {name}: expected finite numbers, got NaN or infinity"
                )
        self.values = dict(found)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The sizes of an entry.

        Raises:
            ValueError: if it is missing, or has another number of dimensions.
        """
        if name not in self.values:
            raise ValueError(f"state_dict: {name}: expected a tensor of this name, found none")
        found = tuple(self.values[name].shape)
        if len(found) != dimensions:
            raise ValueError(
                f"state_dict: {name}: expected {dimensions} dimensions, got shape {found}"
            )
        return found

    def count(self, name: str) -> int:
        """How many entries there are of a name that numbers its items, ``name.format(0)`` on.

        >>> Released({"layer.0.weight": torch.zeros(1)}).count("layer.{}.weight")
        1
        """
        number = 0
        while name.format(number) in self.values:
            number += 1
        return number

    def into(self, model: Module, *, optional: Collection[str] = ()) -> Module:
        """Fill a model, which takes on the precision of the first entry, and set it to inference.

        Args:
            model: its parameters and buffers are named as the entries.
            optional: names that may be missing; the model's own values stay then.

        Raises:
            ValueError: naming the first entry, in the order of the model, that is missing or has
                another shape, or else the first that the model has no place for.
        """
        expected = model.state_dict()
        for name, value in expected.items():
            if name not in self.values and name in optional:
                continue
            shape = self.shape(name, value.dim())
            if shape != tuple(value.shape):
                raise ValueError(
                    f"state_dict: {name}: expected {tuple(value.shape)}, as the entries before "
                    f"say, got {shape}"
                )
        for name in self.values:
            if name not in expected:
                raise ValueError(f"state_dict: {name}: the model has no such parameter")
        first = self.values[next(name for name in expected if name in self.values)]
        model.to(first.dtype).load_state_dict({**expected, **self.values})
        return model.eval()


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"state_dict: {os.fspath(path)}: expected a file of tensors by name. It is damaged, or "
            "holds something else, such as a whole pickled model, which can run code and was not "
            "read. If you trust it, load it and save its state_dict()"
        ) from error
