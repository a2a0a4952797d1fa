"""Two sequences brought into one order: by label where they have labels, else by place."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np


def paired(a: Any, b: Any, names: tuple[str, str]) -> tuple[Any, Any]:
    """Both in the order of the first.

    The keys of a mapping are labels, and so is the index of a pandas Series or DataFrame, whose
    columns are labels too. A pandas side labelled 0, 1, ... stands beside one without labels.

    Raises:
        ValueError: for a label that one side lacks or that occurs twice; all are named.
        TypeError: where one side alone has labels.

    >>> paired({1: "a", 2: "b"}, {2: "B", 1: "A"}, ("a", "b"))
    (['a', 'b'], ['A', 'B'])
    """
    sides = [(a, _labels(a)), (b, _labels(b))]
    if all(labels is None for _, labels in sides):
        return a, b
    if any(labels is None for _, labels in sides):
        _require_places(sides, names)
        return rows_of(a), rows_of(b)
    for (_, labels), name in zip(sides, names, strict=True):
        require_once(labels, name)
    (_, first), (_, second) = sides
    require_same_keys(first, second, *names)
    place = {label: i for i, label in enumerate(second or [])}
    order = [place[label] for label in first or []]
    if _is_frame(a) and _is_frame(b):
        require_once(b.columns.tolist(), f"{names[1]}: columns")
        require_same_keys(
            a.columns.tolist(), b.columns.tolist(), *(f"{name}: columns" for name in names)
        )
        b = b[a.columns.tolist()]
    other = rows_of(b)
    return rows_of(a), other[order] if isinstance(other, np.ndarray) else [other[i] for i in order]


def rows_of(values: Any) -> Any:
    """The values without their labels."""
    if isinstance(values, Mapping):
        return list(values.values())
    return values.to_numpy() if _is_pandas(values) else values


def require_same_keys(a: Any, b: Any, a_name: str, b_name: str) -> None:
    """Refuse keys that one side lacks."""
    for keys, others, name, other in ((a, b, b_name, a_name), (b, a, a_name, b_name)):
        missing = [key for key in keys if key not in others]
        if missing:
            raise ValueError(f"{name}: lacks {_listed(missing)}, which {other} has")


def require_once(labels: Any, name: str, what: str = "each label once") -> None:
    """Refuse a label that occurs twice."""
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ValueError(f"{name}: expected {what}, got several of {_listed(twice)}")


def _is_pandas(values: Any) -> bool:
    return hasattr(values, "iloc")  # without importing pandas


def _is_frame(values: Any) -> bool:
    return _is_pandas(values) and values.ndim == 2


def _labels(values: Any) -> list[Any] | None:
    if isinstance(values, Mapping):
        return list(values)
    return values.index.tolist() if _is_pandas(values) else None


def _require_places(sides: list[tuple[Any, list[Any] | None]], names: tuple[str, str]) -> None:
    """Refuse labels on one side alone, unless they are the numbers of the places."""
    for (values, labels), (other, _) in (sides, sides[::-1]):
        if labels is None:
            continue
        places = not isinstance(values, Mapping) and labels == list(range(len(labels)))
        if not places or not hasattr(other, "__len__") or len(labels) != len(other):
            kinds = f"a {type(values).__name__} and a {type(other).__name__}"
            raise TypeError(
                f"{', '.join(names)}: expected two mappings, two pandas objects, or two lists in "
                f"one order, got {kinds}"
            )


def _listed(keys: list[Any]) -> str:
    shown = ", ".join(map(str, keys[:10]))
    return f"{shown} and {len(keys) - 10} more" if len(keys) > 10 else shown
