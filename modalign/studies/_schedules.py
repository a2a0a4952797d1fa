"""The learning rate of pretraining, for every study that warms up."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def share_of_rate(step: int, *, steps: int, warm_up: float, last: float) -> float:
    """Share of the highest rate: up from a tenth, then down to ``last`` along a cosine.

    >>> [round(share_of_rate(step, steps=100, warm_up=0.1, last=0.5), 2) for step in (0, 10, 100)]
    [0.1, 1.0, 0.5]
    """
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return 0.1 + 0.9 * step / rising
    done = min(1.0, (step - rising) / max(1, steps - rising))
    return last + (1 - last) * (1 + math.cos(math.pi * done)) / 2


def rising_and_falling(
    optimizer: Optimizer, *, steps: int, warm_up: float, last: float
) -> LambdaLR:
    """The schedule of :func:`share_of_rate`, for ``schedule_by="step"``.

    Args:
        optimizer: with its highest rates.
        steps: of the training.
        warm_up: share of the steps over which the rate rises.
        last: share of the highest rate at the end.
    """

    def share(step: int) -> float:
        return share_of_rate(step, steps=steps, warm_up=warm_up, last=last)

    return LambdaLR(optimizer, share)
