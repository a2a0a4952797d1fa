"""Where and how a run takes place, and everything else as it was once it is over."""

import contextlib
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from modalign.training.checks import Device, Precision


@contextlib.contextmanager
def own_accelerator(device: Device, precision: Precision, backward: Any) -> Iterator[Accelerator]:
    """An accelerator for one run.

    accelerate keeps one setting for the whole process and refuses another; what was set is put
    aside, and is there again afterwards.
    """
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
        accelerator.gradient_accumulation_steps = 1  # the loop sees to it, whatever was launched
        check_processes(accelerator, precision, backward)
        yield accelerator
    finally:
        for state, content in zip(shared, before, strict=True):
            state.clear()
            state.update(content)


def check_processes(accelerator: Accelerator, precision: Precision, backward: Any) -> None:
    kind = str(accelerator.distributed_type.value)
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ValueError(f"fit: expected data-parallel processes, launched for {kind}")
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("precision: 'fp16' needs a GPU; use 'bf16' or 'no' on a CPU")
    if backward is not None and (accelerator.num_processes > 1 or precision == "fp16"):
        raise ValueError(
            f"backward: works on one process and without loss scaling, got "
            f"{accelerator.num_processes} and precision {precision!r}"
        )


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode, and then each module in the one it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
