"""One training loop for every chapter: on a CPU, on a GPU, and on several by ``accelerate launch``.

:func:`fit` is meant to be read. Devices, mixed precision and processes are accelerate's; the order
of the batches, the averages, and what makes a resumed run equal to one that was never stopped are
below.
"""

import contextlib
import dataclasses
import itertools
import math
import operator
import os
import pathlib
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    broadcast_object_list,
    gather_object,
    recursively_apply,
    send_to_device,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from modalign import _checkpoint
from modalign._checks import checked, describe, require_choice

Loss = Callable[[Any, Any], Tensor | Mapping[str, Tensor]]
Batches = Iterable[Any] | Callable[[int], Iterable[Any]]
By = Literal["epoch", "step"]
Precision = Literal["no", "bf16", "fp16"]
Device = Literal["auto", "cpu"]
Mode = Literal["min", "max"]
COLUMNS = {"epoch", "step", "learning_rate", "gradient_norm"}
LIMITS = {"epochs", "steps", "patience"}
READ_EVERY = 200
Made = TypeVar("Made")


class DivergenceError(FloatingPointError):
    """A loss or gradient became NaN or infinite; ``history`` holds the epochs before that."""

    def __init__(self, message: str, history: pd.DataFrame) -> None:
        super().__init__(message)
        self.history = history


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """Call ``make`` with torch's generators seeded, and put them back as they were.

    >>> first, again = (seeded(lambda: nn.Linear(3, 2), seed=1) for _ in range(2))
    >>> torch.equal(first.weight, again.weight)
    True
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return make()


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Batches of tensors in memory, in an order that depends on the seed and the epoch alone.

    Call it with the epoch to read its batches; its length is their number. Made by
    :func:`shuffled`.
    """

    data: Mapping[str, Tensor]
    batch_size: int
    seed: int
    drop_last: bool

    def __len__(self) -> int:
        rows = len(next(iter(self.data.values())))
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __call__(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        rows = len(next(iter(self.data.values())))
        generator = torch.Generator().manual_seed(_checkpoint.mix(self.seed, epoch, 0))
        order = torch.randperm(rows, generator=generator)
        for batch in order.split(self.batch_size)[: len(self)]:
            yield {name: values[batch.to(values.device)] for name, values in self.data.items()}


@checked
def shuffled(data: Any, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> Shuffled:
    """Read data that fit in memory as shuffled batches, dicts of tensors.

    The order depends on (seed, epoch) alone, so that a run may be taken up anywhere. Tensors stay
    on their device: data that lie on the GPU are not moved again.

    Args:
        data: named tensors with the examples in the first dimension, or a ``datasets.Dataset``
            whose columns are numbers of one shape each.
        batch_size: examples a batch.
        seed: of the order.
        drop_last: leave out the last batch of an epoch where it is smaller.

    Raises:
        ValueError: for no column, no example, columns of different lengths or not of tensors, or
            a batch size that leaves no batch.

    >>> batches = shuffled({"x": torch.arange(5)}, batch_size=2, seed=0)
    >>> len(batches), [len(batch["x"]) for batch in batches(0)]
    (3, [2, 2, 1])
    """
    if hasattr(data, "with_format"):
        data = data.with_format("torch")[:]
    if not isinstance(data, Mapping) or not data:
        raise ValueError(
            f"data: expected named tensors or a datasets.Dataset, got {describe(data)}"
        )
    for name, values in data.items():
        if not isinstance(values, Tensor) or not values.dim():
            raise ValueError(
                f"data: expected tensors with examples in rows, got {describe(values)} in "
                f"{name!r}; make it a tensor, or leave the column out"
            )
    lengths = {name: len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"data: expected columns of one length, 1 at least, got {lengths}")
    _require_at_least(1, batch_size=batch_size)
    _require_at_least(0, seed=seed)
    batches = Shuffled(data, batch_size, seed, drop_last)
    if not len(batches):
        rows = min(lengths.values())
        raise ValueError(f"batch_size: {batch_size} leaves no whole batch of {rows} examples")
    return batches


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int | None = None,
    steps: int | None = None,
    schedule: LRScheduler | None = None,
    schedule_by: By = "epoch",
    clip: float | None = None,
    accumulate: int = 1,
    backward: Callable[[Mapping[str, Tensor]], Mapping[str, Any] | None] | None = None,
    after_step: Callable[[int], object] | None = None,
    precision: Precision = "no",
    device: Device = "auto",
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
    every: int = 1,
    patience: int | None = None,
    watch: str = "loss",
    mode: Mode = "min",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    stateful: Sequence[Any] = (),
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place.

    The result depends on the arguments and ``seed`` alone: the generators of torch, NumPy and
    Python are seeded for every epoch and are as they were when the call returns. A run with a
    ``checkpoint`` that is killed at any moment and called again ends, on a CPU, with the weights,
    optimizer state and history of a run that was not, bit for bit.

    With several processes (``accelerate launch``) each takes its share of the rows of every batch,
    and gradients are weighted by rows, so that a loss that is a mean over examples is minimised as
    on one process, whatever their number. What is computed within a batch (batch normalisation,
    contrastive losses, CKA) sees the rows of one process. Every process reads whole batches.

    Args:
        model: trained where accelerate puts it, and left there, in the mode (training or
            evaluation) it came in. It holds all parameters that are trained.
        loss: ``loss(model, batch)`` gives a scalar to minimise, or named scalars, of which
            ``"loss"`` is minimised and all are recorded. It is run under autocast where
            ``precision`` asks for it.
        batches: something to read once an epoch, such as :func:`shuffled` or a ``DataLoader``, or
            a function from the epoch, counted from 0, to its batches, in an order that depends on
            the epoch alone. A batch is tensors, whose first dimension is the examples, in dicts,
            tuples or lists.
        optimizer: over the model's parameters.
        epochs: passes over the batches; give this or ``steps``.
        steps: optimizer steps; the epoch in which the last one lies ends there.
        schedule: of the learning rate, over ``optimizer``.
        schedule_by: whether it advances after each ``"epoch"`` or each ``"step"``.
            ``ReduceLROnPlateau`` goes by epoch, on the value of ``watch``.
        clip: largest norm of the gradient; its norm before clipping is recorded.
        accumulate: batches a step; they weigh the same.
        backward: takes over the backward pass. It is given the named losses, fills ``.grad``, and
            may return numbers to record; where one is named ``"accepted"`` and is false the step
            makes no update. One process, one batch a step, not in fp16.
        after_step: called with the number of steps done after each, such as to move a teacher.
        precision: of autocast: ``"no"`` (float32), ``"bf16"``, or ``"fp16"`` with loss scaling
            (GPU only).
        device: ``"auto"``, what accelerate finds, or ``"cpu"``.
        evaluate: ``evaluate(model)`` gives named numbers; run in evaluation mode, without
            gradients, under autocast. It moves its data to the model's device.
        every: epochs between evaluations; the last epoch is evaluated too.
        patience: stop after so many evaluations (without ``evaluate``: epochs) in a row in which
            ``watch`` was not better than its best; the model then has, as in every run with
            ``patience``, the weights of its best epoch.
        watch: the recorded column that says how good the model is.
        mode: whether a small (``"min"``) or a large (``"max"``) value of it is good.
        checkpoint: file to keep the run in, after every epoch. It is replaced in one piece, and
            loaded with ``weights_only=True``: it can run no code. All processes read it.
        checkpoint_every: steps between checkpoints within an epoch.
        resume: go on from ``checkpoint`` where it exists; False starts over and replaces it. A
            finished run returns at once, and can be prolonged by asking for more ``epochs``.
        stateful: further objects with ``state_dict`` and ``load_state_dict`` that the checkpoint
            is to hold, such as the curriculum that ``backward`` follows.
        seed: of everything random, dropout included; not of the weights (see :func:`seeded`).
        progress: show a bar.

    Returns:
        A row an epoch: ``epoch``, from 1; ``step``, done by its end; each loss, as the mean over
        the examples of the epoch; ``gradient_norm``, where ``clip`` is given, as the mean over
        its steps; ``learning_rate`` of the first parameter group in its last step; and what
        ``backward`` and ``evaluate`` gave (NaN in an epoch that was not evaluated). ``attrs``
        holds the ``seconds`` taken and, with ``patience``, the ``best_epoch``.

    Raises:
        DivergenceError: (a ``FloatingPointError``) for a loss or gradient norm that is NaN or
            infinite, before it reaches the weights on a CPU, at most 200 steps later elsewhere,
            and always before it reaches a checkpoint.
        ValueError: for arguments that do not fit each other, or a checkpoint that is damaged or
            of a run with another model, optimizer, seed, number of batches or setting.

    >>> data = {"x": torch.linspace(-1, 1, 64)[:, None]}
    >>> model = seeded(lambda: nn.Linear(1, 1), seed=0)
    >>> history = fit(
    ...     model,
    ...     lambda model, batch: (model(batch["x"]) - 3 * batch["x"]).square().mean(),
    ...     shuffled(data, batch_size=16, seed=0),
    ...     optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
    ...     epochs=10,
    ...     progress=False,
    ... )
    >>> history[["epoch", "step"]].iloc[-1].to_list(), round(model.weight.item(), 2)
    ([10, 40], 3.0)
    """
    path = None if checkpoint is None else pathlib.Path(checkpoint)
    settings = {
        "seed": seed,
        "steps": steps,
        "batches": _length(batches),
        "accumulate": accumulate,
        "clip": clip,
        "precision": precision,
        "schedule_by": schedule_by,
        "every": every,
        "patience": patience,
        "watch": watch,
        "mode": mode,
        "device": device,
    }
    _check_arguments(
        model, batches, optimizer, schedule, backward, epochs, path, checkpoint_every, settings
    )
    with (
        _accelerator(device, precision, backward) as accelerator,
        _random_state_kept(accelerator.device),
        _mode(model, training=True),
    ):
        objective = accelerator.prepare(_Objective(model, loss))
        scaler = accelerator.scaler  # of the loss, in fp16; else None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if optimizer.state:
            optimizer.load_state_dict(optimizer.state_dict())  # where the parameters are now
        optimizer.zero_grad()
        run = _Run(epochs, steps, patience)
        averages = _Averages(run, accelerator)
        kept = {"run": run, "model": model, "optimizer": optimizer, "schedule": schedule}
        kept |= {"scaler": scaler, **{f"stateful {i}": each for i, each in enumerate(stateful)}}
        configuration = _configuration(accelerator, model, optimizer, schedule, settings)
        random_state = _load(path, configuration, kept, accelerator) if resume else None
        if epochs is not None and run.epoch > epochs:
            raise ValueError(f"epochs: {path} holds {run.epoch} of them already, got {epochs}")
        started = time.perf_counter() - run.seconds

        def save() -> None:
            if path is not None:
                averages.read()
                run.seconds = time.perf_counter() - started
                _save(path, configuration, kept, accelerator)

        def step(group: list[Any]) -> None:
            run.step, run.batch = run.step + 1, run.batch + len(group)
            run.learning_rate = float(optimizer.param_groups[0]["lr"])
            for number, whole in enumerate(group, start=1):
                batch, rows, weight = _share(whole, accelerator)
                more = number < len(group)  # processes exchange gradients with the last batch
                with accelerator.no_sync(objective) if more else contextlib.nullcontext():
                    losses = objective(batch)
                    averages.add(losses, weight=rows)
                    if backward is None:
                        accelerator.backward(losses["loss"] * (weight / len(group)))
            report = (backward(losses) or {}) if backward is not None else {}
            _require_new(report, losses.keys() | COLUMNS, "backward")
            averages.add(report, watched=False)
            overflow = False
            if report.get("accepted", True):
                if clip is not None:
                    accelerator.unscale_gradients(optimizer)
                    norm = nn.utils.clip_grad_norm_(parameters, clip)
                    averages.add({"gradient_norm": norm}, watched=scaler is None)
                overflow = _update(optimizer, scaler)
            optimizer.zero_grad()
            if schedule_by == "step" and not overflow:
                _advance(schedule)
            if after_step is not None:
                after_step(run.step)

        def close_epoch() -> dict[str, float]:
            row = run.close(averages.close())
            due = run.epoch % every == 0 or run.epoch == epochs or run.step == steps
            if evaluate is not None and due:
                row |= _evaluate(evaluate, model, accelerator, taken=row)
            if evaluate is None or due:
                run.judge(row, watch, mode, model)
            if schedule_by == "epoch":
                _advance(schedule, row.get(watch))
            return row

        total = _total(run, batches, accumulate)
        shown = progress and accelerator.is_main_process
        with tqdm(desc="training", total=total, initial=run.step, disable=not shown) as bar:
            while not run.finished:
                stream = _epoch(batches, run, seed, accelerator, random_state)
                while run.step != steps and (group := list(itertools.islice(stream, accumulate))):
                    step(group)
                    bar.update()
                    if checkpoint_every and run.step % checkpoint_every == 0:
                        save()
                row = close_epoch()
                bar.set_postfix(
                    {name: f"{row[name]:.4g}" for name in ("loss", watch) if name in row}
                )
                save()
        if run.best_weights is not None:
            model.load_state_dict(run.best_weights)
        return run.frame(time.perf_counter() - started)


@dataclasses.dataclass
class _Run:
    """How far a run has come."""

    epochs: int | None
    steps: int | None
    patience: int | None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    learning_rate: float = math.nan
    seconds: float = 0.0
    sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    waited: int = 0
    best: float = math.inf
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in LIMITS}

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

    def judge(self, row: Mapping[str, float], watch: str, mode: Mode, model: nn.Module) -> None:
        """Keep the weights where they are the best so far; NaN is never better."""
        if self.patience is None:
            return
        if watch not in row:
            raise ValueError(f"watch: expected one of {', '.join(row)}, got {watch!r}")
        value = row[watch] if mode == "min" else -row[watch]
        if value < self.best:
            self.waited, self.best, self.best_epoch = 0, value, self.epoch
            self.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            self.waited += 1

    def frame(self, seconds: float) -> pd.DataFrame:
        table = pd.DataFrame(
            self.history or None, columns=None if self.history else ["epoch", "step"]
        )
        table.attrs = {"seconds": seconds}
        if self.patience is not None:
            table.attrs["best_epoch"] = self.best_epoch
        return table


class _Averages:
    """Means over an epoch of values that are left on the device until they are needed.

    They are read at once on a CPU, where that costs nothing, and else together: reading a value
    makes a GPU wait.
    """

    AT_ONCE = frozenset({"cpu"})

    def __init__(self, run: _Run, accelerator: Accelerator) -> None:
        self.run, self.accelerator = run, accelerator
        self.pending: list[tuple[str, int, Tensor, float, bool]] = []
        at_once = accelerator.device.type in self.AT_ONCE and accelerator.num_processes == 1
        self.most = 1 if at_once else READ_EVERY

    def add(self, values: Mapping[str, Any], *, weight: float = 1, watched: bool = True) -> None:
        """Note values of this step. Watched ones have to be finite; else only finite ones count."""
        for name, value in values.items():
            tensor = torch.as_tensor(value, device=self.accelerator.device).detach()
            self.pending.append((name, self.run.step, tensor, weight, watched))
        if len(self.pending) >= self.most:
            self.read()

    def read(self) -> None:
        """Add what is pending to the sums, over all processes."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        values = torch.stack([entry[2] for entry in pending])
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        weights = torch.tensor([entry[3] for entry in pending]).to(values)
        table = self.accelerator.gather(torch.stack([values, weights])[None]).tolist()
        for column, (name, step, _, _, watched) in enumerate(pending):
            for value, weight in ((process[0][column], process[1][column]) for process in table):
                if math.isfinite(value):
                    total = self.run.sums.setdefault(name, [0.0, 0.0])
                    total[0] += value * weight
                    total[1] += weight
                elif watched:
                    raise DivergenceError(
                        f"{name} became {value} in step {step} (epoch {self.run.epoch + 1}). Look "
                        "at the batch of that step; or try a lower learning rate, clip=1.0 or "
                        "precision='no'",
                        self.run.frame(self.run.seconds),
                    )

    def close(self) -> dict[str, float]:
        """The means of the epoch."""
        self.read()
        means = {name: total / weight for name, (total, weight) in self.run.sums.items()}
        self.run.sums.clear()
        return means


class _Objective(nn.Module):
    """The loss of a batch as a module: the model in it need not be called through ``forward``."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> dict[str, Tensor]:
        found = self.loss(self.model, batch)
        losses = dict(found) if isinstance(found, Mapping) else {"loss": found}
        total = losses.get("loss")
        if not isinstance(total, Tensor) or not total.requires_grad:
            what = describe(found) if total is None else describe(total)
            raise ValueError(
                f"loss: expected a tensor with a gradient, or a dict with it as 'loss', got {what}"
            )
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.dim():
                raise ValueError(f"loss: expected {name!r} to be a scalar, got {describe(value)}")
        _require_new(losses, COLUMNS, "loss")
        return losses


def _evaluate(
    evaluate: Callable[[Any], Mapping[str, Any]],
    model: nn.Module,
    accelerator: Accelerator,
    *,
    taken: Mapping[str, float],
) -> dict[str, float]:
    """What ``evaluate`` finds; the main process has the say, so that all decide alike."""
    with _mode(model, training=False), torch.no_grad(), accelerator.autocast():
        found = evaluate(model)
    if not isinstance(found, Mapping):
        raise TypeError(f"evaluate: expected named numbers, got {describe(found)}")
    for name, value in found.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"evaluate: expected a number as {name!r}, got {describe(value)}")
    _require_new(found, taken, "evaluate")
    found = {name: float(value) for name, value in found.items()}
    return broadcast_object_list([found])[0]


def _epoch(
    batches: Batches, run: _Run, seed: int, accelerator: Accelerator, random_state: Any
) -> Iterator[Any]:
    """The batches of an epoch less those done, and the random state to go on with.

    What shuffles by the global generator does so before the first batch, with the same seed in
    every process and whenever the epoch is begun anew; what follows differs between processes.
    """
    device, process = accelerator.device, accelerator.process_index
    _checkpoint.seed_all(device, seed, run.epoch, 1)
    stream = iter(batches(run.epoch) if callable(batches) else batches)
    drawn = deque(itertools.islice(stream, max(run.batch, 1)), maxlen=1)
    if not drawn:
        raise ValueError(f"batches: expected at least one in every epoch, got none in {run.epoch}")
    if run.batch:
        _checkpoint.set_random_state(random_state, device)
        return stream
    _checkpoint.seed_all(device, seed, run.epoch, 2 + process)
    return itertools.chain(drawn, stream)


def _share(batch: Any, accelerator: Accelerator) -> tuple[Any, int, float]:
    """This process's rows on its device, their number, and their weight in the mean gradient."""
    first = _first_tensor(batch)
    if first is None or not first.dim() or not len(first):
        raise ValueError(f"batches: expected tensors with examples in rows, got {describe(batch)}")
    rows, number, process = len(first), accelerator.num_processes, accelerator.process_index
    part = slice(rows * process // number, rows * (process + 1) // number)
    own = part.stop - part.start
    if number > 1:
        if rows < number:
            raise ValueError(f"batches: {rows} examples cannot be shared by {number} processes")

        def share(tensor: Tensor) -> Tensor:
            return tensor[part]

        batch = recursively_apply(share, batch, error_on_other_type=True)
    return send_to_device(batch, accelerator.device, non_blocking=True), own, own * number / rows


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(batch, Mapping | tuple | list):
        return None
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def _update(optimizer: torch.optim.Optimizer, scaler: Any) -> bool:
    """Make an optimizer step; whether it was left out since gradients overflowed in fp16."""
    if scaler is None:
        optimizer.step()
        return False
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() < scale


def _advance(schedule: LRScheduler | None, value: float | None = None) -> None:
    if isinstance(schedule, ReduceLROnPlateau):
        if value is not None:
            schedule.step(value)
    elif schedule is not None:
        schedule.step()


def _save(
    path: pathlib.Path, configuration: Any, kept: Mapping[str, Any], accelerator: Accelerator
) -> None:
    random_states = gather_object([_checkpoint.random_state(accelerator.device)])
    if accelerator.is_main_process:
        states = {name: each.state_dict() for name, each in kept.items() if each is not None}
        content = {"configuration": configuration, "states": states, "random": random_states}
        _checkpoint.write(path, content)


def _load(
    path: pathlib.Path | None,
    configuration: Any,
    kept: Mapping[str, Any],
    accelerator: Accelerator,
) -> Any:
    """Take up a run where there is one; the random state of this process in it."""
    if path is None or not path.exists():
        return None
    content = _checkpoint.read(path)
    _checkpoint.require_same(path, content["configuration"], configuration)
    for name, state in content["states"].items():
        kept[name].load_state_dict(state)
    return content["random"][accelerator.process_index]


def _configuration(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    settings: Mapping[str, Any],
) -> dict[str, str]:
    """What has to be equal for a run to be taken up."""
    groups = [len(group["params"]) for group in optimizer.param_groups]
    described = {
        **settings,
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "schedule": type(schedule).__name__,
        "optimizer": f"{type(optimizer).__name__} of {groups} tensors",
        **{f"optimizer's {k}": v for k, v in optimizer.defaults.items() if not callable(v)},
        **{f"model's {name}": describe(value) for name, value in model.state_dict().items()},
    }
    return {name: str(value) for name, value in described.items()}


def _length(batches: Any) -> int | None:
    """Number of batches an epoch, where it is known."""
    return operator.length_hint(batches) or None


def _total(run: _Run, batches: Any, accumulate: int) -> int | None:
    length = _length(batches)
    if run.epochs is None or length is None:
        return run.steps
    return run.epochs * -(-length // accumulate)


@contextlib.contextmanager
def _accelerator(device: Device, precision: Precision, backward: Any) -> Iterator[Accelerator]:
    """An accelerator of our own: accelerate keeps one setting a process, here put aside."""
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
        accelerator.gradient_accumulation_steps = 1  # ours is below, whatever the launcher says
        _check_processes(accelerator, precision, backward)
        yield accelerator
    finally:
        for state, content in zip(shared, before, strict=True):
            state.clear()
            state.update(content)


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    state = _checkpoint.random_state(device)
    try:
        yield
    finally:
        _checkpoint.set_random_state(state, device)


@contextlib.contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode, and then each module in the one it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def _check_processes(accelerator: Accelerator, precision: Precision, backward: Any) -> None:
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


def _check_arguments(
    model: nn.Module,
    batches: Any,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | None,
    backward: Any,
    epochs: int | None,
    path: pathlib.Path | None,
    checkpoint_every: int | None,
    settings: Mapping[str, Any],
) -> None:
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        came = f"{type(model).__name__} and {type(optimizer).__name__}"
        raise TypeError(f"fit: expected a torch module and an optimizer, got {came}")
    kinds = {"schedule_by": By, "precision": Precision, "device": Device, "mode": Mode}
    for name, kind in kinds.items():
        require_choice(settings[name], get_args(kind), name)
    if (epochs is None) == (settings["steps"] is None):
        raise ValueError("fit: give either epochs or steps, and not both")
    _require_at_least(0, epochs=epochs, steps=settings["steps"], seed=settings["seed"])
    at_least_one = ("accumulate", "every", "patience")
    _require_at_least(
        1, checkpoint_every=checkpoint_every, **{k: settings[k] for k in at_least_one}
    )
    if settings["clip"] is not None and not settings["clip"] > 0:
        raise ValueError(f"clip: expected a norm above 0, got {settings['clip']}")
    if checkpoint_every is not None and path is None:
        raise ValueError("checkpoint_every: needs checkpoint, the file to write")
    if backward is not None and settings["accumulate"] > 1:
        raise ValueError("backward: works on one batch a step; leave accumulate at 1")
    if isinstance(batches, Iterator):
        raise ValueError(
            "batches: expected something to read once an epoch, got an iterator, which can be read "
            "once; give a function from the epoch to it"
        )
    own = {id(parameter) for parameter in model.parameters()}
    strangers = [p for g in optimizer.param_groups for p in g["params"] if id(p) not in own]
    if strangers:
        raise ValueError(
            f"optimizer: {len(strangers)} of its tensors are no parameters of model, the first "
            f"{describe(strangers[0])}; put all that is trained into one module"
        )
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("schedule: is of another optimizer than the one given")
    if isinstance(schedule, ReduceLROnPlateau) and settings["schedule_by"] == "step":
        raise ValueError("schedule_by: ReduceLROnPlateau follows epochs, got 'step'")
    generator = getattr(batches, "generator", None) or getattr(
        getattr(batches, "sampler", None), "generator", None
    )
    if path is not None and generator is not None:
        raise ValueError(
            "batches: a loader with a generator of its own cannot be taken up where it was; leave "
            "generator out, and seed orders it"
        )


def _require_new(names: Iterable[str], taken: Container[str], by: str) -> None:
    for name in names:
        if name in taken:
            raise ValueError(f"{by}: {name!r} is another column of the history; rename it")


def _require_at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name}: expected a whole number from {least}, got {value!r}")
