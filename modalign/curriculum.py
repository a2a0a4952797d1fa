r"""A threshold on agreement that rises as training goes on; batches that agree less are dropped.

Labels such as ``eq-gradients-curriculum`` are those of the chapter "Gradients", which derives each
line.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from modalign._checks import checked, require_choice, require_positive

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "step": math.floor,
}


class GradientCurriculum:
    r"""A threshold gamma that rises; batches that agree less are dropped (eq-gradients-curriculum).

    Algorithm 2 of Wu et al. (2022), on the cosine. It gives no schedule; this one is ours. The
    clock ticks at every batch, kept or dropped. An undefined cosine is kept. Hand it to ``fit`` in
    ``stateful``, and its clock is in the checkpoint.

    Args:
        start, end: gamma of the first batch and from batch ``steps`` on, -1 to 1, start <= end.
        steps: batches that the rise takes.
        shape: ``"linear"``, ``"cosine"`` (slow at both ends) or ``"step"`` (all at the end).
        patience: batches dropped in a row after which a warning says so, each time.

    Raises:
        ValueError: for a gamma outside -1 to 1, a start above the end, another shape or size, and
            the state of a curriculum with another schedule.

    >>> import torch
    >>> curriculum = GradientCurriculum(-0.5, 0.0, steps=2)
    >>> [bool(curriculum.keeps(torch.tensor(-0.25))) for batch in range(3)]
    [True, False, False]
    """

    @checked
    def __init__(
        self,
        start: float = -0.3,
        end: float = 0.0,
        *,
        steps: int,
        shape: str = "linear",
        patience: int = 100,
    ) -> None:
        for name, gamma in {"start": start, "end": end}.items():
            if not -1 <= gamma <= 1:
                raise ValueError(f"{name}: expected a gamma from -1 to 1, got {gamma}")
        if start > end:
            raise ValueError(f"start: expected a gamma of at most end, {end}, got {start}")
        require_positive(steps=steps, patience=patience)
        require_choice(shape, tuple(_SHAPES), "shape")
        self.start, self.end, self.steps, self.shape = start, end, steps, shape
        self.patience = patience
        self.batch, self.kept, self.dropped = 0, 0.0, 0  # all; their shares; dropped in a row

    @property
    def gamma(self) -> float:
        """The threshold of the next batch."""
        done = _SHAPES[self.shape](min(1.0, self.batch / self.steps))
        return (1 - done) * self.start + done * self.end  # eq-gradients-curriculum

    def keeps(self, cosines: Tensor) -> Tensor:
        """Return which cosines, of a batch or of its examples, are kept; the clock ticks."""
        kept = ~(cosines <= self.gamma)  # NaN is kept
        share = float(kept.double().mean())
        self.batch, self.kept = self.batch + 1, self.kept + share
        self.dropped = 0 if share else self.dropped + 1
        if self.dropped and self.dropped % self.patience == 0:
            warnings.warn(
                f"GradientCurriculum: the last {self.dropped} batches were all dropped, at gamma "
                f"{self.gamma:.3g} (rate of acceptance 0, and {self.kept / self.batch:.3g} over "
                f"all {self.batch}); weights that stand still may never be taken up again",
                stacklevel=2,
            )
        return kept

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, the clock and the counts."""
        return {name: value for name, value in vars(self).items() if name != "patience"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another with the same schedule stopped."""
        own = self.state_dict()
        if state.keys() != own.keys():
            raise ValueError(f"state: expected {', '.join(own)}, got {', '.join(state) or 'none'}")
        for name in ("start", "end", "steps", "shape"):
            if state[name] != own[name]:
                raise ValueError(f"state: expected {name} {own[name]!r}, got {state[name]!r}")
        vars(self).update(state)
