"""What the optimiser LARS remembers of tensors, and settings that a checkpoint does not say."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from modalign._lars_checks import require_settings

_ADDED: dict[str, Any] = {"adapt": True, "trust_clip": None}  # no setting of older checkpoints


def remembered(state: dict[str, Any], w: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    """What is remembered of a tensor, made at its first step; one step more is counted."""
    names: tuple[str, ...] = ("momentum_buffer",) if group.get("momentum") else ()
    if group["direction"] == "adam":
        names = ("exp_avg", "exp_avg_sq")
        state["step"] = int(state.get("step", 0)) + 1
    for name in names:
        if state.get(name) is None:
            state[name] = torch.zeros_like(w)
    return state


def complete(
    groups: list[dict[str, Any]], built: Iterable[dict[str, Any]], defaults: dict[str, Any]
) -> None:
    """Give the groups of a checkpoint, a copy or a pickle the settings that it does not say.

    Args:
        groups: to be completed, and refused where they do not fit.
        built: the groups that they replace, whose settings are taken.
        defaults: those of the optimiser.
    """
    defaults = _ADDED | defaults
    for group, own in zip(groups, built, strict=True):
        known = {name: own.get(name, default) for name, default in defaults.items()}
        group.update(known | group)
        require_settings(group, defaults["direction"])
