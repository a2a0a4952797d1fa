"""What the optimiser LARS refuses, of parameters and of settings."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from modalign._checks import describe, require_choice

_READ = {"betas": "adam", "eps": "adam", "momentum": "sgd"}  # settings of one direction
_DEFAULT = {"betas": (0.9, 0.999), "eps": 1e-8, "momentum": 0.0}
_NONE = (
    "weight_decay",
    "amsgrad",
    "nesterov",
    "dampening",
    "capturable",
    "differentiable",
    "fused",
)


def own_settings(direction: str, **given: Any) -> dict[str, Any]:
    """Those that the direction reads, and those that only the other one does but were set."""
    return {k: v for k, v in given.items() if _READ[k] == direction or v != _DEFAULT[k]}


def require_parameters(ws: list[Tensor]) -> None:
    """Refuse what loses a step of a small share of its norm, is not real, or has another norm."""
    for w in ws:
        if getattr(w, "_fsdp_flattened", False):  # tensors joined and cut into equal pieces
            raise TypeError(
                f"params: expected whole tensors or DTensors, got {describe(w)}, a piece that "
                "FullyShardedDataParallel cut, whose norm is not that of its tensor; shard with "
                "torch.distributed.fsdp.fully_shard"
            )
        if w.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"params: expected float32 or float64, got {describe(w)}; in half precision small "
                "steps are lost: keep the weights in float32 and run the network under "
                "torch.autocast"
            )


def require_step(ws: list[Tensor]) -> None:
    """Refuse, before anything moves, what a step cannot do."""
    require_parameters(ws)
    for w in ws:
        if w.grad is not None and w.grad.layout != torch.strided:
            raise RuntimeError(
                "params: LARS needs the norm of a dense gradient, got a sparse one; pass "
                "sparse=False to the embedding, or give its weight to torch.optim.SparseAdam"
            )
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("step: expected no capture of a CUDA graph, as the CPU counts steps")


def require_settings(settings: dict[str, Any], direction: str) -> None:
    """Refuse settings of the optimiser or of a group that are out of range or of no effect."""
    require_choice(direction, ("adam", "sgd"), "direction")
    if settings["direction"] != direction:
        expected = f"{direction!r} in every group"
        raise ValueError(f"direction: expected {expected}, got {settings['direction']!r}")
    for name in (*_NONE, *(name for name, of in _READ.items() if of != direction)):
        if settings.get(name):
            raise ValueError(
                f"{name}: expected none, as LARS with direction={direction!r} would not read it, "
                f"got {settings[name]!r}"
            )
    betas = settings.get("betas", (0, 0))
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas: expected tuple of two numbers, got {describe(betas)}")
    numbers = {f"betas[{i}]": beta for i, beta in enumerate(betas)}
    numbers |= {k: settings[k] for k in ("lr", "eps", "momentum") if k in settings}
    for name, value in numbers.items():
        rate = name == "lr" and isinstance(value, Tensor) and not value.dim()
        if not isinstance(value, Real) and not rate:
            raise TypeError(f"{name}: expected a number, got {describe(value)}")
        high = float("inf") if name in ("lr", "eps") else 1
        if not 0 <= value < high:
            raise ValueError(f"{name}: expected a number from 0, below {high}, got {value}")
    most = settings["trust_clip"]
    if isinstance(most, bool) or not isinstance(most, Real | None):
        raise TypeError(f"trust_clip: expected a number or None, got {describe(most)}")
    if most is not None and not 0 < float(most) < float("inf"):
        raise ValueError(f"trust_clip: expected a number above 0 or None, got {most}")
    if not isinstance(settings["adapt"], bool):
        raise TypeError(f"adapt: expected True or False, got {describe(settings['adapt'])}")
    for name in ("maximize", "foreach"):
        if not isinstance(settings[name], bool | None):
            raise TypeError(f"{name}: expected True or False, got {describe(settings[name])}")
