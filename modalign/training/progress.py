"""How far a run has come, and what it has measured."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from modalign.training.checkpoint import inner_optimizers
from modalign.training.checks import Mode

READ_EVERY = 200
ADVICE = "try a lower learning rate, clip=1.0 or precision='no'"
Rule = Literal["stop", "skip", "keep"]
GIVEN = {"epochs", "steps", "patience", "watch", "mode"}


class DivergenceError(FloatingPointError):
    """What is trained, or what trains it, became NaN or infinite; ``history`` holds the epochs."""

    def __init__(self, message: str, history: pd.DataFrame) -> None:
        super().__init__(message)
        self.history = history


@dataclasses.dataclass
class Run:
    """How far a run has come."""

    epochs: int | None
    steps: int | None
    patience: int | None
    watch: str
    mode: Mode
    epoch: int = 0
    batch: int = 0
    step: int = 0
    learning_rate: float = math.nan
    seconds: float = 0.0
    # a digest of the first batch of the epoch that it is in; of the next one, where loader is known
    first: str | None = None
    loader: dict[str, Any] | None = None  # the state of a loader that carries one
    sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    waited: int = 0
    best: float = math.inf
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in GIVEN}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    @property
    def finished(self) -> bool:
        limits = ((self.epoch, self.epochs), (self.step, self.steps), (self.waited, self.patience))
        return any(limit is not None and done >= limit for done, limit in limits)

    def close(self, averages: dict[str, float]) -> dict[str, float]:
        """End an epoch with a row of the history."""
        self.epoch, self.batch = self.epoch + 1, 0
        row = {"epoch": self.epoch, "step": self.step, **averages}
        self.history.append(row | {"learning_rate": self.learning_rate})
        return self.history[-1]

    def judge(self, row: Mapping[str, float], model: nn.Module) -> None:
        """Keep the weights where they are the best so far; NaN is never better."""
        if self.patience is None:
            return
        if self.watch not in row:
            raise ValueError(f"watch: expected one of {', '.join(row)}, got {self.watch!r}")
        value = row[self.watch] if self.mode == "min" else -row[self.watch]
        if value < self.best:
            self.waited, self.best, self.best_epoch = 0, value, self.epoch
            self.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            self.waited += 1

    def frame(self, seconds: float) -> pd.DataFrame:
        """The history as a table."""
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        table = pd.DataFrame(self.history, columns=columns or ["epoch", "step"])
        table.attrs = {"seconds": seconds}
        if self.patience is not None:
            table.attrs["best_epoch"] = self.best_epoch
        return table


class Averages:
    """Means over an epoch of values that are left on the device until they are needed.

    They are read at once on a CPU, where that costs nothing, and else together: reading a value
    makes a GPU wait.
    """

    AT_ONCE = frozenset({"cpu"})

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run, self.accelerator = run, accelerator
        self.pending: list[tuple[str, int, Tensor, float, Rule]] = []
        at_once = accelerator.device.type in self.AT_ONCE and accelerator.num_processes == 1
        self.most = 1 if at_once else READ_EVERY

    def add(
        self, values: Mapping[str, Any], *, weight: float = 1, stop: str = "", skip: str = ""
    ) -> None:
        """Note numbers of this step.

        Where one is not finite, the mean leaves it out if ``skip`` names it, the run stops if
        ``stop`` does, and else the mean is not finite either.
        """
        for name, value in values.items():
            rule: Rule = "skip" if name == skip else "stop" if name == stop else "keep"
            number = value if isinstance(value, Tensor) else float(value)
            tensor = torch.as_tensor(number, device=self.accelerator.device).detach().reshape(())
            self.pending.append((name, self.run.step, tensor, weight, rule))
        if len(self.pending) >= self.most:
            self.read()

    def read(self) -> None:
        """Add what is pending to the sums, over all processes."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        values = torch.stack([entry[2] for entry in pending])
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        weights = [entry[3] for entry in pending]
        if self.accelerator.num_processes == 1:
            table = [(values.tolist(), weights)]
        else:
            both = torch.stack([values, torch.tensor(weights).to(values)])
            table = self.accelerator.gather(both[None]).tolist()
        for column, (name, step, _, _, rule) in enumerate(pending):
            for value, weight in ((process[0][column], process[1][column]) for process in table):
                if math.isfinite(value) or rule == "keep":
                    total = self.run.sums.setdefault(name, [0.0, 0.0])
                    total[0] += value * weight
                    total[1] += weight
                elif rule == "stop":
                    raise DivergenceError(
                        f"{name} became {value} in step {step} (epoch {self.run.epoch + 1}). Look "
                        f"at the batch of that step; or {ADVICE}",
                        self.run.frame(self.run.seconds),
                    )

    def close(self) -> dict[str, float]:
        """The means of the epoch."""
        self.read()
        means = {name: total / weight for name, (total, weight) in self.run.sums.items()}
        self.run.sums.clear()
        return means


class Soundness:
    """That what a run trains is finite: parameters, buffers and the optimizer's state.

    A buffer that was not finite from the start, such as a mask of -inf, may stay as it was.

    Args:
        models: modules by name.
        optimizer: of the run.
        accelerator: of the run.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
    ) -> None:
        self.models, self.optimizer, self.accelerator = models, optimizer, accelerator
        buffers = {name: b for name, b in self._tensors() if not isinstance(b, nn.Parameter)}
        self.from_the_start = {name: buffers[name].clone() for name in _not_finite(buffers)}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        names: dict[Any, str] = {}
        for label, model in self.models.items():
            for name, parameter in model.named_parameters():
                names[parameter] = name
                yield f"parameter {name} of {label}", parameter
            for name, buffer in model.named_buffers():
                yield f"buffer {name} of {label}", buffer
        inner = (each.optimizer for each in inner_optimizers(self.optimizer).values())
        states = (each.state.items() for each in (self.optimizer, *inner))
        for key, state in itertools.chain.from_iterable(states):
            for kind, value in state.items() if isinstance(state, Mapping) else ():
                several = isinstance(value, list | tuple)
                for place, each in enumerate(value if several else [value]):
                    if isinstance(each, Tensor):
                        which = f"{kind}[{place}]" if several else kind
                        yield f"optimizer's {which} of parameter {names.get(key, key)}", each

    def require(self, run: Run) -> None:
        """Stop the run, in all processes, where something is not finite in one."""
        tensors = dict(self._tensors())
        found = [
            name
            for name in _not_finite(tensors)
            if name not in self.from_the_start
            or not torch.isclose(tensors[name], self.from_the_start[name], equal_nan=True).all()
        ]
        if self.accelerator.num_processes > 1:
            found = gather_object(found)
        if found:
            others = f", nor are {len(found) - 1} more" if len(found) > 1 else ""
            raise DivergenceError(
                f"{found[0]} is not finite after step {run.step}{others}, and no checkpoint "
                f"was written of it. Look at the gradient of the loss; "
                f"or {ADVICE}",
                run.frame(run.seconds),
            )


@torch.no_grad()
def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of those with NaN or an infinity; each device is waited for once."""
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not is_lazy(tensor):
            by_device.setdefault(tensor.device, {})[name] = tensor.sum().isfinite()
    suspects = [
        name
        for sums in by_device.values()
        for name, finite in zip(sums, torch.stack([*sums.values()]).tolist(), strict=True)
        if not finite
    ]
    # a sum is quick to compute, and may overflow
    return [name for name in suspects if not tensors[name].isfinite().all()]
