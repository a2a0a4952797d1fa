"""Errors that name the argument, what was expected and what came."""

import difflib
import functools
import inspect
import pathlib
import shutil
import types
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import jaxtyped
from torch import Tensor

# an int will do where a float is asked for, as in Python itself
_conf = BeartypeConf(is_pep484_tower=True)
P = ParamSpec("P")
R = TypeVar("R")


def describe(value: object) -> str:
    """Name what came: dtype and shape of a tensor, else the type.

    >>> describe(torch.zeros(3, 2))
    'float32 (3, 2)'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"ndarray {value.dtype} {value.shape}"
    if isinstance(value, list | tuple) and value:
        return f"{type(value).__name__} of {len(value)}, the first {describe(value[0])}"
    return f"{type(value).__name__} {' '.join(repr(value).split()):.60}"


def _readable(annotation: object) -> str:
    # on Python 3.10 Sequence[Scene] counts as a type, whose name is Sequence alone
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation)


def _plain(value: object, kind: Any) -> object:
    """A scalar of NumPy or torch as Python's, if a scalar was asked for."""
    if isinstance(value, Tensor):
        scalar = not value.dim() and not value.requires_grad
    else:
        scalar = isinstance(value, np.ndarray | np.generic) and not value.ndim
    if not scalar or kind is inspect.Parameter.empty or hasattr(kind, "dim_str"):
        return value
    number = value.item()  # type: ignore[attr-defined]
    fits = not is_bearable(value, kind, conf=_conf) and is_bearable(number, kind, conf=_conf)
    return number if fits else value


def _foreign(value: object, kind: Any) -> bool:
    """Whether a value is of another type altogether, and no tensor of another shape or dtype."""
    if get_origin(kind) in (Union, types.UnionType):
        return all(_foreign(value, each) for each in get_args(kind))
    if hasattr(kind, "dim_str"):
        return not isinstance(value, kind.array_type)
    return not is_bearable(value, kind, conf=_conf)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check a function's arguments against the shapes and types in its signature.

    A letter stands for one size in all arguments of a call. If arguments do not fit, an error lists
    each of them beside its expectation: a ``TypeError`` if an argument is of another type
    altogether, and a ``ValueError`` if a tensor has another shape or dtype, or is sparse. A number
    may be one of NumPy, or a tensor without dimensions and gradient.
    Under ``torch.compile`` nothing is checked.
    """
    # this way around each argument is looked at once; typechecker=beartype does it twice
    typed = jaxtyped(typechecker=None)(beartype(conf=_conf)(function))
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # shapes are symbols there
            return function(*args, **kwargs)
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if any(x.layout is not torch.strided for x in tensors):
            for name, x in signature.bind(*args, **kwargs).arguments.items():
                require_dense(x, name)
        try:
            return typed(*args, **kwargs)
        except BeartypeCallHintViolation as error:
            bound = signature.bind(*args, **kwargs)
            came = bound.arguments
            kinds = {name: signature.parameters[name].annotation for name in came}
            plain = {name: _plain(value, kinds[name]) for name, value in came.items()}
            if any(plain[name] is not came[name] for name in came):
                came.update(plain)
                return wrapper(*bound.args, **bound.kwargs)
            lines = [
                f"  {name}: expected {_readable(kind)}, got {describe(came[name])}"
                for name, kind in kinds.items()
                if name != "self"
            ]
            foreign = any(
                _foreign(came[name], kind) for name, kind in kinds.items() if name != "self"
            )
            raise (TypeError if foreign else ValueError)(
                f"{function.__qualname__}: arguments do not fit the signature "
                "(one letter is one size)\n" + "\n".join(lines)
            ) from error

    return wrapper


def require_dense(x: object, name: str) -> None:
    """Refuse a sparse tensor."""
    if isinstance(x, Tensor) and x.layout is not torch.strided:
        raise ValueError(
            f"{name}: expected a dense tensor, got layout {x.layout}; call .to_dense()"
        )


def require_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity, naming the first row that holds one."""
    bad = ~torch.isfinite(x.detach())
    if bad.any():
        if not x.dim():
            raise ValueError(f"{name}: expected a finite value, got {x.item()}")
        row = int(bad.reshape(len(x), -1).any(1).nonzero()[0])
        kind = "NaN" if torch.isnan(x.detach()[row]).any() else "an infinity"
        raise ValueError(f"{name}: expected finite values, got {kind} in row {row}")


def require_rows(n: int, smallest: int, name: str, what: str) -> None:
    """Refuse fewer rows than a measure is defined for."""
    if n < smallest:
        raise ValueError(f"{name}: {what} needs at least {smallest} rows (examples), got {n}")


def require_choice(value: object, choices: Sequence[str], name: str) -> None:
    """Refuse a value that is not among the choices, naming the closest one."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}{hint}")


def require_gram(k: object, n: int, name: str) -> None:
    """Refuse anything but a symmetric, finite (n, n) matrix."""
    if not isinstance(k, Tensor) or not k.is_floating_point() or k.shape != (n, n):
        raise ValueError(f"{name}: expected a floating-point ({n}, {n}) tensor, got {describe(k)}")
    require_finite(k, name)
    gap, size = (k - k.T).detach().abs().max(), k.detach().abs().max()
    if gap > torch.finfo(k.dtype).eps ** 0.5 * size:
        raise ValueError(f"{name}: expected a symmetric matrix, K and K' differ by {gap:.2g}")


def require_features(x: Tensor, name: str) -> None:
    """Refuse a matrix without columns."""
    if not x.numel():
        raise ValueError(f"{name}: expected at least one feature, got {describe(x)}")


def require_layers(layers: Sequence[object], name: str, *, like: Sequence[Tensor]) -> None:
    """Refuse a list of activations that is empty, or not of the examples of ``like[0]``."""
    if not isinstance(layers, Sequence | Tensor):
        raise TypeError(f"{name}: expected a list of tensors, got {describe(layers)}")
    if not len(layers):
        raise ValueError(f"{name}: expected at least one layer, got an empty list")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Tensor) or not layer.is_floating_point():
            raise TypeError(f"{name}[{i}]: expected a floating-point tensor, got {describe(layer)}")
        if layer.dim() < 2 or len(layer) != len(like[0]):
            expected = f"{len(like[0])} examples of one or more features, as xs[0]"
            raise ValueError(f"{name}[{i}]: expected {expected}, got {describe(layer)}")


def require_positive(**numbers: float) -> None:
    """Refuse sizes and small constants that are not above 0, by the name they are given."""
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"{name}: expected a number above 0, got {number}")


def require_below(x: Tensor, n: int, name: str, what: str) -> None:
    """Refuse whole numbers, such as tokens or classes, that are not from 0 to n - 1."""
    if not x.numel():
        return
    low, high = (int(each) for each in x.aminmax())
    if low < 0 or high >= n:
        raise ValueError(f"{name}: expected {what} 0 to {n - 1}, got {low} to {high}")


def require_lengths(lengths: Tensor, steps: int, name: str, *, least: int = 0) -> None:
    """Refuse lengths of sequences outside ``least`` to ``steps``."""
    for i, length in enumerate(lengths.tolist()):
        if not least <= length <= steps:
            raise ValueError(
                f"{name}: expected {least} to {steps} steps, got {length} in sequence {i}"
            )


def describe_disk(path: pathlib.Path) -> str:
    """Name the disk that a path lies on, and the room left there.

    >>> describe_disk(pathlib.Path("no/such/file")).startswith("disk /")
    True
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    room = shutil.disk_usage(place)
    while not place.is_mount():
        place = place.parent
    return f"disk {place}, {room.free / 1e9:.3f} of {room.total / 1e9:.0f} GB free"
