"""The loop."""

import contextlib
import itertools
import operator
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from modalign._checks import describe
from modalign.training.checkpoint import Checkpoint, configuration_of, held, inner_optimizers
from modalign.training.checks import (
    By,
    Device,
    Mode,
    Precision,
    carries_state,
    check_arguments,
    is_number,
    needs_closure,
    positive,
    require_new,
    require_numbers,
    whole,
    whole_or_none,
)
from modalign.training.feed import Batches, Feed, own_rows
from modalign.training.progress import Averages, Run, Soundness
from modalign.training.randomness import (
    random_state,
    random_state_kept,
    seed_all,
    set_random_state,
)
from modalign.training.setting import in_mode, own_accelerator

Loss = Callable[[Any, Any], Tensor | Mapping[str, Any]]
Share = tuple[Any, float, float]
COLUMNS = {"epoch", "step", "learning_rate", "gradient_norm"}


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
    backward: Callable[[Mapping[str, Tensor]], Mapping[str, Any] | tuple[Any, ...] | None]
    | None = None,
    closure: bool | None = None,
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
    Python are seeded for every epoch, for batches and model apart, and are as they were when the
    call returns. A run with a ``checkpoint`` that is killed at any moment and called again ends,
    on a CPU, with the weights, optimizer state and history of a run that was not, bit for bit; or
    it is refused before it trains, since ``batches`` would give it other rows.

    With several processes (``accelerate launch``; on CPUs ``torchrun``) each takes its share of
    the rows of every batch, and gradients are weighted by rows, so that a loss that is a mean over
    examples is minimised as on one process, whatever their number. What is computed within a batch
    (batch normalisation, contrastive losses, CKA) sees the rows of one process. Every process
    reads whole batches. What has as many entries as there are examples (the first dimension of the
    first tensor) is shared, be it a tensor, an array or a list of other values; everything else
    goes whole to every process, and so do all examples where they are fewer than the processes.

    Args:
        model: trained where accelerate puts it, and left there, in the mode (training or
            evaluation) it came in. It holds all parameters that are trained.
        loss: ``loss(model, batch)`` gives a scalar to minimise, or named scalars, of which
            ``"loss"`` is minimised and all are recorded (the others may be NaN, and are so in the
            history then). It is run under autocast where ``precision`` asks for it.
        batches: something to read once an epoch, such as :func:`shuffled` or a ``DataLoader``, or
            a function from the epoch, counted from 0, to its batches, in an order that depends on
            the epoch alone. A batch is tensors, whose first dimension is the examples, in dicts,
            tuples, lists or dataclasses, with what else ``loss`` needs: texts, None, values of any
            type, at any depth. These stay as they are; tensors come to the model's device. Without
            a tensor the first array, or else list of plain values, says how many examples there
            are. With a
            ``checkpoint``, a loader has to draw from the global generators, which ``seed`` seeds:
            one with a generator of its own or with workers that persist is refused at once; what
            hides its state is refused when the run is taken up, as is one whose data have changed.
            A run that is taken up reads its epoch again up to where it was, unless the loader
            carries its state (``state_dict`` and ``load_state_dict``, as ``StatefulDataLoader`` of
            torchdata does): then it goes on from there, with generators of its own too (but for
            torchdata's ``generator=``, which is no part of that state). Only the batch that comes
            next is compared then. torchdata draws its order when a loader is made, and not by
            ``seed``: make it in :func:`seeded`.
        optimizer: over the model's parameters. An optimizer within it (SAM's ``base_optimizer``) is
            kept in checkpoints with it.
        epochs: passes over the batches; give this or ``steps``.
        steps: optimizer steps; the epoch in which the last one lies ends there.
        schedule: of the learning rate, over ``optimizer``.
        schedule_by: whether it advances after each ``"epoch"`` or each ``"step"``.
            ``ReduceLROnPlateau`` goes by epoch, on the value of ``watch``.
        clip: largest norm of the gradient; its norm before clipping is recorded.
        accumulate: batches a step; they weigh the same.
        backward: takes over the backward pass. It is given the named losses, fills ``.grad``, and
            may return numbers to record, in a mapping or a named tuple; where one is named
            ``"accepted"`` and is false the step makes no update (a warning follows an epoch without
            any). One process, one batch a step, not in fp16.
        closure: whether ``optimizer.step`` is given a function that computes the loss of the step's
            batches and its gradients again, at the weights of the moment; by default where its
            signature asks for one (``torch.optim.LBFGS``). Say True for an optimizer that takes one
            and needs it all the same, such as SAM. The gradients are there before the step, as SAM
            asks, which costs one evaluation more than the optimizer makes; what is recorded is of
            that one. All evaluations of a step draw the same random numbers (dropout), so that
            they are of one function; ``clip`` applies to each. Batch norms take running statistics
            in each. One process, not in fp16.
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
            loaded with ``weights_only=True``: it can run no code. A checksum tells any damage. All
            processes read it; one run at a time may have it (``.NAME.lock`` lies beside it then).
        checkpoint_every: steps between checkpoints within an epoch.
        resume: go on from ``checkpoint`` where it exists; False starts over and replaces it. A
            finished run returns at once, and can be prolonged by asking for more ``epochs``.
        stateful: further objects with ``state_dict`` and ``load_state_dict`` that the checkpoint
            is to hold, such as the curriculum that ``backward`` follows, or a teacher.
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
            (where an optimizer with a ``closure`` has moved there, in the step after), and always
            before it reaches a checkpoint; and, before every checkpoint and at the end,
            for a parameter, buffer or state of the optimizer that is (of ``model``, and of modules
            in ``stateful``), unless a buffer came so. The checkpoint before stays.
        ValueError: for arguments that do not fit each other, a
            checkpoint that is damaged, in use, or of a run with another model, optimizer, seed,
            number of batches or workers, or setting, and batches that cannot be taken up.
        OSError: for a checkpoint that cannot be written; the one before stays.

    >>> from modalign.training import seeded, shuffled
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

    An optimizer that evaluates the loss again within a step, here on all rows at once:

    >>> model = seeded(lambda: nn.Linear(1, 1), seed=0)
    >>> _ = fit(
    ...     model,
    ...     lambda model, batch: (model(batch["x"]) - 3 * batch["x"]).square().mean(),
    ...     shuffled(data, batch_size=64, seed=0),
    ...     optimizer=torch.optim.LBFGS(model.parameters()),
    ...     epochs=2,
    ...     progress=False,
    ... )
    >>> round(model.weight.item(), 2)
    3.0

    A loader that carries its state: with a ``checkpoint``, a run that is taken up goes on from
    ``place`` and reads no batch again:

    >>> class Counted:
    ...     place = 0
    ...
    ...     def __iter__(self):
    ...         while self.place < 4:
    ...             self.place += 1
    ...             yield {"x": data["x"][self.place - 1 :: 4], "of": "no tensor"}
    ...         self.place = 0
    ...
    ...     def state_dict(self):
    ...         return {"place": self.place}
    ...
    ...     def load_state_dict(self, state):
    ...         self.place = state["place"]
    >>> history = fit(
    ...     model,
    ...     lambda model, batch: (model(batch["x"]) - 3 * batch["x"]).square().mean(),
    ...     Counted(),
    ...     optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
    ...     epochs=2,
    ...     progress=False,
    ... )
    >>> history["step"].to_list()
    [4, 8]
    """
    path = None if checkpoint is None else pathlib.Path(checkpoint).resolve()
    epochs, steps = whole_or_none(epochs, 0, "epochs"), whole_or_none(steps, 0, "steps")
    seed, every = whole(seed, 0, "seed"), whole(every, 1, "every")
    accumulate = whole(accumulate, 1, "accumulate")
    patience = whole_or_none(patience, 1, "patience")
    checkpoint_every = whole_or_none(checkpoint_every, 1, "checkpoint_every")
    clip = None if clip is None else positive(clip, "clip")
    settings = {
        "seed": seed,
        "steps": steps,
        "batches": _length(batches),
        "workers": getattr(batches, "num_workers", None),
        "accumulate": accumulate,
        "clip": clip,
        "precision": precision,
        "schedule_by": schedule_by,
        "every": every,
        "patience": patience,
        "watch": watch,
        "mode": mode,
        "device": device,
        "stateful": [type(each).__name__ for each in stateful],
    }
    if closure is not None and not isinstance(closure, bool):
        raise TypeError(f"closure: expected True, False or None, got {describe(closure)}")
    closure = needs_closure(optimizer) if closure is None else closure
    # what older checkpoints do not know stands in them only where it matters
    settings |= {"closure": True} if closure else {}
    settings |= {"loader": "carries its state"} if carries_state(batches) else {}
    inner = inner_optimizers(optimizer)
    settings |= {"optimizer's own optimizers": [*inner]} if inner else {}
    check_arguments(
        model, batches, optimizer, schedule, backward, epochs, path, checkpoint_every, settings
    )
    with (
        own_accelerator(device, precision, backward) as accelerator,
        held(path if accelerator.is_main_process else None),
        random_state_kept(accelerator.device),
        in_mode(model, training=True),
    ):
        if closure and accelerator.num_processes > 1:
            raise ValueError(f"closure: works on one process, got {accelerator.num_processes}")
        objective = accelerator.prepare(_Objective(model, loss))
        scaler = accelerator.scaler  # of the loss, in fp16; else None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if optimizer.state:
            optimizer.load_state_dict(optimizer.state_dict())  # where the parameters are now
        for each in inner.values():
            each.load_state_dict(each.state_dict())
        optimizer.zero_grad()
        run = Run(epochs, steps, patience, watch, mode)
        averages = Averages(run, accelerator)
        feed = Feed(batches, seed, accelerator.device)
        models = {"model": model} | {
            f"stateful {i}": each for i, each in enumerate(stateful) if isinstance(each, nn.Module)
        }
        soundness = Soundness(models, optimizer, accelerator)
        kept = {"run": run, "model": model, "optimizer": optimizer, "schedule": schedule}
        kept |= {f"optimizer's {name}": each for name, each in inner.items()}
        kept |= {"scaler": scaler, **{f"stateful {i}": each for i, each in enumerate(stateful)}}
        configuration = configuration_of(accelerator, model, optimizer, schedule, settings)
        keeper = Checkpoint(path, accelerator, configuration, kept)
        taken_up: Any = None
        if resume and (content := keeper.read()):
            run.load_state_dict(content["states"]["run"])
            if epochs is not None and run.epoch > epochs:
                raise ValueError(f"epochs: {path} holds {run.epoch} of them already, got {epochs}")
            if not run.finished:
                feed.take_up(run, path)
            taken_up = keeper.load(content)
        started = time.perf_counter() - run.seconds

        def gradients(shares: Iterable[Share], among: int, *, again: bool) -> tuple[Any, Any]:
            """Fill in a step's gradients: losses of its last batch, and, again, its objective."""
            objective_of_step: Any = 0.0
            for number, (batch, rows, weight) in enumerate(shares, start=1):
                more = number < among  # processes exchange gradients with the last batch
                with accelerator.no_sync(objective) if more else contextlib.nullcontext():
                    losses = objective(batch)
                    if not again:
                        averages.add(losses, weight=rows, stop="loss")
                    if backward is None:
                        total, share = losses["loss"], weight / among
                        total = total if share == 1 else total * share
                        accelerator.backward(total)
                        if again:
                            objective_of_step = objective_of_step + total.detach()
            return losses, objective_of_step

        def step(group: list[Any]) -> None:
            run.step, run.batch = run.step + 1, run.batch + len(group)
            run.learning_rate = float(optimizer.param_groups[0]["lr"])
            shares: Iterable[Share] = (own_rows(given, accelerator) for given in group)
            if closure:
                shares, before = list(shares), random_state(accelerator.device)
            losses, _ = gradients(shares, len(group), again=False)
            report = {} if backward is None else _named(backward(losses))
            require_new(report, losses.keys() | COLUMNS, "backward")
            require_numbers(report, "backward")
            averages.add(report)

            def evaluate_again() -> Any:
                """The objective of this step and its gradients, at other weights."""
                optimizer.zero_grad()
                set_random_state(before, accelerator.device)
                _, found = gradients(shares, len(group), again=True)
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                return found

            overflow = False
            if report.get("accepted", True):
                if clip is not None:
                    accelerator.unscale_gradients(optimizer)
                    norm = nn.utils.clip_grad_norm_(parameters, clip)
                    scaled = "" if scaler is None else "gradient_norm"  # it may overflow
                    averages.add({"gradient_norm": norm}, stop="gradient_norm", skip=scaled)
                overflow = _update(
                    optimizer, scaler, torch.enable_grad()(evaluate_again) if closure else None
                )
            optimizer.zero_grad()
            if schedule_by == "step" and not overflow:
                _advance(schedule)
            if after_step is not None:
                after_step(run.step)

        def close_epoch() -> dict[str, float]:
            row = run.close(averages.close())
            if row.get("accepted") == 0:
                warnings.warn(
                    f"backward: no step of epoch {run.epoch} was accepted (rate 0), so that "
                    "nothing was trained; a curriculum's gamma may be too high",
                    stacklevel=3,
                )
            due = run.epoch % every == 0 or run.epoch == epochs or run.step == steps
            if evaluate is not None and due:
                row |= _evaluate(evaluate, model, accelerator, taken=row)
            if evaluate is None or due:
                run.judge(row, model)
            if schedule_by == "epoch":
                _advance(schedule, row.get(watch))
            return row

        def save() -> None:
            averages.read()
            if path is not None or run.finished:
                soundness.require(run)
            run.seconds = time.perf_counter() - started
            if path is not None:
                last = run.finished and (steps is not None or feed.by_epoch)
                feed.keep(run, last=last)
            keeper.save()

        planned = _total(epochs, steps, batches, accumulate)
        shown = progress and accelerator.is_main_process
        with tqdm(desc="training", total=planned, initial=run.step, disable=not shown) as bar:
            while not run.finished:
                feed.open(run.epoch)
                if run.batch:
                    set_random_state(taken_up, accelerator.device)
                else:
                    feed.require_any()
                    run.first = None if path is None else feed.look(run.epoch)
                    seed_all(accelerator.device, seed, run.epoch, 2 + accelerator.process_index)
                while run.step != steps and (group := list(itertools.islice(feed, accumulate))):
                    step(group)
                    bar.update()
                    if checkpoint_every and run.step % checkpoint_every == 0:
                        save()
                row = close_epoch()
                save()
                bar.set_postfix({k: f"{row[k]:.4g}" for k in ("loss", watch) if k in row})
        if run.best_weights is not None:
            model.load_state_dict(run.best_weights)
        return run.frame(time.perf_counter() - started)


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
            if not is_number(value) or np.ndim(value):
                raise ValueError(f"loss: expected {name!r} to be a scalar, got {describe(value)}")
        require_new(losses, COLUMNS, "loss")
        return losses


def _evaluate(
    evaluate: Callable[[Any], Mapping[str, Any]],
    model: nn.Module,
    accelerator: Accelerator,
    *,
    taken: Mapping[str, float],
) -> dict[str, float]:
    """What ``evaluate`` finds; the main process has the say, so that all decide alike."""
    with in_mode(model, training=False), torch.no_grad(), accelerator.autocast():
        found = evaluate(model)
    if not isinstance(found, Mapping):
        raise TypeError(f"evaluate: expected named numbers, got {describe(found)}")
    require_numbers(found, "evaluate")
    require_new(found, taken, "evaluate")
    found = {name: float(value) for name, value in found.items()}
    return broadcast_object_list([found])[0]


def _named(report: Any) -> dict[str, Any]:
    """What ``backward`` returned: nothing, a mapping, or a named tuple."""
    return dict(report._asdict() if hasattr(report, "_asdict") else report or {})


def _update(optimizer: torch.optim.Optimizer, scaler: Any, closure: Any) -> bool:
    """Make an optimizer step; whether it was left out since gradients overflowed in fp16."""
    if closure is not None:
        optimizer.step(closure)
        return False
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


def _length(batches: Any) -> int | None:
    """Number of batches an epoch, where it is known."""
    return operator.length_hint(batches) or None


def _total(epochs: int | None, steps: int | None, batches: Any, accumulate: int) -> int | None:
    """Number of steps of the run, where it is known."""
    length = _length(batches)
    return steps if epochs is None or length is None else epochs * -(-length // accumulate)
