"""Errors that name the argument, what was expected and what came."""

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, jaxtyped
from torch import Tensor

# an int will do where a float is asked for, as in Python itself
_typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
P = ParamSpec("P")
R = TypeVar("R")


def describe(value: object) -> str:
    """Name what came: dtype and shape of a tensor, else the type.

    >>> describe(torch.zeros(3, 2))
    'float32 (3, 2)'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of [{', '.join(map(describe, value))}]"
    return f"{type(value).__name__} {value!r:.60}"


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Hold a function's arguments against the shapes and types in its signature.

    A letter stands for one size in all arguments of a call. What does not fit raises a
    ``ValueError`` that lists each argument beside what was expected of it (a ``TypeError``
    where an argument is of another type altogether).
    """
    typed = jaxtyped(function, typechecker=_typechecker)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return typed(*args, **kwargs)
        except TypeCheckError as error:
            came = signature.bind(*args, **kwargs).arguments
            kinds = {name: signature.parameters[name].annotation for name in came}
            lines = [
                f"  {name}: expected {getattr(kind, '__name__', kind)}, got {describe(came[name])}"
                for name, kind in kinds.items()
                if name != "self"
            ]
            foreign = any(
                hasattr(kinds[name], "dim_str") and not isinstance(value, Tensor)
                for name, value in came.items()
            )
            raise (TypeError if foreign else ValueError)(
                f"{function.__qualname__}: arguments do not fit the signature "
                "(one letter is one size)\n" + "\n".join(lines)
            ) from error

    return wrapper


def require_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity, naming the first row that holds one."""
    bad = ~torch.isfinite(x.detach())
    if bad.any():
        row = int(bad.flatten(1).any(1).nonzero()[0])
        kind = "NaN" if torch.isnan(x.detach()[row]).any() else "an infinity"
        raise ValueError(f"{name}: expected finite values, got {kind} in row {row}")


def require_rows(n: int, smallest: int, name: str, what: str) -> None:
    """Refuse fewer rows than a measure is defined for."""
    if n < smallest:
        raise ValueError(f"{name}: {what} needs at least {smallest} rows (examples), got {n}")


def require_choice(value: object, choices: Sequence[str], name: str) -> None:
    """Refuse what is not among the choices, naming the closest that is."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}{hint}")
