"""NeuMATCH trained as in the paper, row by row of its tables, on the shapes world and on YMS.

Two rows of :data:`ROWS` differ in a measure if the 95% Student interval of their paired
differences, over at least five seeds at the last epoch, does not hold zero. That much was set
before the first sweep; the claims about rows, and when they were set, stand in
:mod:`modalign.studies.neumatch.claims`. A seed is shared by the rows: it draws the data (the
simulated view, or the world), the random projection, the weights and the order of the batches. The
measures are video accuracy and text IoU on the test split. Early stopping needs no further run: it
reads a recorded run at the evaluation whose sum of both measures was best on the validation split.

Each optimiser has one rate here; :mod:`modalign.studies.neumatch.fair` gives every arm a search.
"""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

from modalign import records
from modalign._checks import require_choice, require_finite
from modalign._scale import unit_rows
from modalign.data import load, source
from modalign.lars import LARS
from modalign.metrics import alignment_scores, summarise_alignment, times_of
from modalign.models.alignment_data import (
    Batch,
    Sample,
    batches,
    blocks,
    pad,
)
from modalign.models.neumatch import NeuMATCH
from modalign.models.time_warping import drop_dtw, dtw, one_to_many_dtw
from modalign.studies import _sweep
from modalign.studies._sweep import Task
from modalign.studies.neumatch.baselines import (
    NO_MARGINS,
    feature_free,
    margins_of,
    median_margins,
    proportional,
    uniform,
    unmatched,
)
from modalign.studies.neumatch.worlds import EASIER, easier_yms_samples, shapes_samples, yms_samples
from modalign.training import fit, seeded

Dataset = Literal["shapes", "yms"]
Optimizer = Literal["lars", "adam", "adam-warmup", "sgd"]
Norms = Literal["sbn", "ln2", "ln4", "none"]
RATES: dict[str, float] = {"lars": 0.007, "adam": 1e-3, "adam-warmup": 1e-3, "sgd": 0.1}
SIZES: dict[str, dict[str, Any]] = {
    "shapes": {"hidden": 64, "epochs": 30, "noise": 0.3},
    "yms": {"hidden": 300, "epochs": 350, "noise": 0.3},
}

USUAL = -1
"""Stands for the value that is usual for a data set or an optimiser."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run. Defaults are the paper's if it gives a value.

    What is left at :data:`USUAL` takes the value of :data:`SIZES` or :data:`RATES`.

    Attributes:
        dataset: ``"shapes"`` or ``"yms"``.
        optimizer: ``"lars"`` (on Adam's direction), ``"adam"``, ``"adam-warmup"``, whose rate
            rises over the first tenth of the epochs, or ``"sgd"`` with momentum 0.9.
        normalization: ``"sbn"``, ``"ln2"``, ``"ln4"`` or ``"none"``.
        projection: random projection of the features; else the full features.
        full_relu: for full features, a ReLU after the layer that replaces the projection.
        pretrain_epochs: epochs on an easier world before.
        epochs: 350 in the paper; 30 on shapes.
        learning_rate: 0.007 with LARS (paper); with Adam 0.001, and with SGD 0.1 (ours).
        hidden: width of the large stacks, 300 in the paper; 64 on shapes.
        noise: of the clip features, relative to their signal.
        sequences: of the shapes world, to train on; a tenth as many for each of the other splits.
        batch_size: paper: 32.
        label_smoothing: paper: 0.03.
        clip: largest norm of the gradient (paper: 2).
        every: epochs between evaluations.
        clip_features: of YMS, a `modalign.data.FeatureFile` of real ones; else they are simulated.
        dense: of YMS, width to which the text features are reduced; 0 for all 768.
        redraw: of YMS, simulate the training clips anew for each epoch.
        seed: of everything that is drawn.

    Raises:
        ValueError: for a choice that is not offered, real clip features if there are none, or
            dense text or a new draw if nothing is simulated.
    """

    dataset: Dataset = "shapes"
    optimizer: Optimizer = "lars"
    normalization: Norms = "sbn"
    projection: bool = True
    full_relu: bool = True
    pretrain_epochs: int = 0
    epochs: int = USUAL
    learning_rate: float = USUAL
    hidden: int = USUAL
    noise: float = USUAL
    sequences: int = 1000
    batch_size: int = 32
    label_smoothing: float = 0.03
    clip: float = 2.0
    every: int = 10
    clip_features: str = ""
    dense: int = 0
    redraw: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"dataset": Dataset, "optimizer": Optimizer, "normalization": Norms}
        for name, offered in choices.items():
            require_choice(getattr(self, name), get_args(offered), name)
        if self.clip_features and (self.dataset != "yms" or self.pretrain_epochs):
            raise ValueError(
                f"clip_features: expected dataset 'yms' without pretraining, whose easier world is "
                f"simulated, got {self.dataset!r} and {self.pretrain_epochs} epochs of it"
            )
        if (self.dense or self.redraw) and (
            self.dataset != "yms" or self.clip_features or self.pretrain_epochs
        ):
            raise ValueError(
                f"dense, redraw: expected dataset 'yms' with simulated clips and no pretraining, "
                f"got {self.dataset!r}, {self.clip_features!r} and {self.pretrain_epochs} epochs"
            )
        usual = {**SIZES[self.dataset], "learning_rate": RATES[self.optimizer]}
        for name, value in usual.items():
            if getattr(self, name) < 0:
                object.__setattr__(self, name, value)


@functools.lru_cache(maxsize=2)
def samples(
    dataset: str,
    seed: int,
    noise: float,
    sequences: int,
    easier: bool,
    clip_features: str = "",
    dense: int = 0,
) -> dict[str, list[Sample]]:
    """The splits of a data set, whole, and blocks of the training split if they are long."""
    if dataset == "yms":
        if easier:
            return {"train": _blocks(easier_yms_samples(3, seed=seed))}
        whole = {
            split: yms_samples(
                split, seed=seed, noise=noise, clip_features=clip_features or None, dense=dense
            )
            for split in ("train", "validation", "test")
        }
        return {**whole, "train": _blocks(whole["train"])}
    options: dict[str, Any] = EASIER if easier else {"noise": noise}
    few = max(sequences // 10, 2)
    return {
        "train": shapes_samples(sequences, seed=seed, **options),
        "validation": shapes_samples(few, split="validation", seed=seed, **options),
        "test": shapes_samples(few, split="test", seed=seed, **options),
    }


def samples_of(setting: Setting, *, easier: bool = False) -> dict[str, list[Sample]]:
    """:func:`samples` of a setting, or of the easier world that it is pretrained on."""
    drawn = (setting.dataset, setting.seed, setting.noise, setting.sequences)
    features = {"clip_features": setting.clip_features, "dense": setting.dense}
    return samples(*drawn, easier=easier, **features)


def redrawn(setting: Setting, draw: int) -> list[Sample]:
    """The training blocks of YMS with clips that are simulated anew."""
    options: dict[str, Any] = {"noise": setting.noise, "dense": setting.dense}
    return _blocks(yms_samples("train", seed=setting.seed, draw=draw, **options))


def _blocks(whole: Iterable[Sample]) -> list[Sample]:
    return [block for sample in whole for block in blocks(sample)]


def reduced(model: NeuMATCH, of: Iterable[Sample]) -> list[Sample]:
    """Samples whose features went through the fixed part of the network, once for all epochs."""
    return [
        dataclasses.replace(
            each, clips=model.clip_input(each.clips), snippets=model.text_input(each.snippets)
        )
        for each in of
    ]


def build(setting: Setting, train: Sequence[Sample]) -> NeuMATCH:
    """The network of a setting, standardised by its training samples."""
    clips = torch.cat([sample.clips for sample in train])
    snippets = torch.cat([sample.snippets for sample in train])
    model = seeded(
        lambda: NeuMATCH(
            clips.shape[1],
            snippets.shape[1],
            hidden=setting.hidden,
            projection=setting.projection,
            full_relu=setting.full_relu,
            normalization=None if setting.normalization == "none" else setting.normalization,
            seed=setting.seed,
        ),
        seed=setting.seed,
    )
    model.fit_inputs(clips, snippets)
    return model


class WarmupPlateau(ReduceLROnPlateau):
    """Raise the rate for ``warmup`` epochs; then halve it after 10 without a lower loss."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, warmup: int = 0) -> None:
        super().__init__(optimizer, factor=0.5, patience=10)
        self.warmup, self.full = warmup, [group["lr"] for group in optimizer.param_groups]
        self._raise(0)

    def _raise(self, epoch: int) -> None:
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = full * min(1.0, (epoch + 1) / (self.warmup + 1))

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Close an epoch of this mean loss."""
        if self.last_epoch < self.warmup:
            self.last_epoch += 1
            self._raise(self.last_epoch)
        else:
            super().step(metrics, epoch)


def optimizer_of(setting: Setting, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a setting over the trained parameters."""
    parameters, rate = list(model.parameters()), setting.learning_rate
    if setting.optimizer == "lars":
        return LARS(parameters, lr=rate)
    if setting.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    return torch.optim.Adam(parameters, lr=rate)


def action_loss(model: NeuMATCH, batch: Batch, *, label_smoothing: float) -> Tensor:
    """Cross-entropy of the next action, over the true actions before it."""
    logits, truth = model.score(*batch), batch.actions
    return functional.cross_entropy(
        logits.flatten(0, 1), truth.flatten(), ignore_index=-1, label_smoothing=label_smoothing
    )


def norm_ratios(model: NeuMATCH) -> dict[str, float]:
    """Norm of the parameters over norm of their gradients, of the parts that Table 3 names.

    NaN if all gradients are 0, or there is none.
    """
    parts: dict[str, list[nn.Module]] = {
        "video": [model.video],
        "text": [model.text],
        "action and matched": [model.action, model.match],
        "fc": [model.classify],
    }
    ratios = {}
    for name, modules in parts.items():
        parameters = [p for module in modules for p in module.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # in float64, where the square of no float32 overflows or vanishes
        weight, gradient = (
            float(nn.utils.get_total_norm([each.detach().double() for each in tensors]))
            for tensors in (parameters, gradients)
        )
        ratios[f"ratio {name}"] = weight / gradient if gradient else math.nan
    return ratios


@torch.no_grad()
def assign(model: NeuMATCH, of: Sequence[Sample], batch_size: int = 64) -> list[np.ndarray]:
    """The snippet that the network gives to each clip of reduced samples."""
    found = []
    for start in range(0, len(of), batch_size):
        part = of[start : start + batch_size]
        chosen = model.align_reduced(*pad(part)[:4]).clip_snippet
        found += [row[: len(s.clips)].numpy() for row, s in zip(chosen, part, strict=True)]
    return found


def measure(of: Sequence[Sample], assigned: Iterable[np.ndarray]) -> dict[str, float]:
    """Video accuracy and text IoU, as means over videos and pooled."""
    return summarise_alignment(
        alignment_scores(each, sample.clip_times, sample.snippet_times)
        for sample, each in zip(of, assigned, strict=True)
    )


@torch.no_grad()
def stack_moments(model: NeuMATCH, of: Sequence[Sample]) -> dict[str, float]:
    """Mean and variance of each output of the Video and Text Stacks, summarised by quantiles."""
    batch = pad(of)
    found = {}
    stacks = model.encode(*batch[:4])
    lengths = batch.clip_lengths, batch.snippet_lengths
    for name, stack, length in zip(("video", "text"), stacks, lengths, strict=True):
        steps = stack[torch.arange(stack.shape[1]) < length[:, None]]
        variance, mean = torch.var_mean(steps, 0, correction=0)
        for moment, values in (("mean", mean), ("variance", variance)):
            for q in (10, 50, 90):
                found[f"{name} {moment} {q}%"] = float(values.quantile(q / 100))
    return found


@dataclasses.dataclass
class Run:
    """The results of a run.

    Attributes:
        model: as trained.
        history: a row an epoch, with its evaluations.
        test: the test split, reduced.
        assigned: the snippets that the model gives to its clips.
    """

    model: NeuMATCH
    history: pd.DataFrame
    test: list[Sample]
    assigned: list[np.ndarray]


def train(
    setting: Setting, *, checkpoint: pathlib.Path | None = None, progress: bool = True
) -> Run:
    """Train a setting and evaluate it as it goes.

    Args:
        setting: the run.
        checkpoint: file from which a run that was stopped goes on.
        progress: show a bar.

    Returns:
        History rows carry the loss, the gradient's norm, the ratios of :func:`norm_ratios`, and
        every few epochs the measures of each split and :func:`stack_moments`.

    >>> run = train(Setting(sequences=40, epochs=1, hidden=8), progress=False)
    >>> len(run.assigned), run.history["test video_accuracy"].between(0, 1).item()
    (4, True)
    """
    whole = samples_of(setting)
    model = build(setting, whole["train"])
    splits = {name: reduced(model, part) for name, part in whole.items()}
    shown = {**splits, "train": splits["train"][:200]}

    def evaluate(model: NeuMATCH) -> dict[str, float]:
        found = stack_moments(model, shown["train"][:64])
        for split, part in shown.items():
            scores = measure(part, assign(model, part))
            found |= {f"{split} {name}": value for name, value in scores.items()}
        return found

    def backward(losses: Mapping[str, Tensor]) -> dict[str, float]:
        losses["loss"].backward()
        return norm_ratios(model)

    def epochs_of(data: list[Sample]) -> Callable[[int], Iterable[Batch]]:
        def epoch_of(epoch: int) -> Iterable[Batch]:
            drawn = reduced(model, redrawn(setting, epoch)) if setting.redraw and epoch else data
            return batches(drawn, setting.batch_size, seed=setting.seed, epoch=epoch)

        return epoch_of

    stages = [("", splits["train"], setting.epochs)]
    if setting.pretrain_epochs:
        easier = reduced(model, samples_of(setting, easier=True)["train"])
        stages.insert(0, (".pretraining", easier, setting.pretrain_epochs))
    for suffix, data, epochs in stages:
        optimizer = optimizer_of(setting, model)
        warmup = epochs // 10 if setting.optimizer == "adam-warmup" else 0
        history = fit(
            model,
            functools.partial(action_loss, label_smoothing=setting.label_smoothing),
            epochs_of(data),
            optimizer=optimizer,
            schedule=WarmupPlateau(optimizer, warmup=warmup),
            epochs=epochs,
            clip=setting.clip,
            backward=backward,
            evaluate=evaluate,
            every=setting.every if not suffix else epochs,
            device="cpu",
            checkpoint=None if checkpoint is None else f"{checkpoint}{suffix}",
            seed=setting.seed,
            progress=progress,
        )
    model.eval()
    return Run(model, history, splits["test"], assign(model, splits["test"]))


def run(dataset: Dataset, *, progress: bool = True, **options: Any) -> dict[str, float]:
    """Train one network, and return the last row of its history.

    Args:
        dataset: ``"shapes"`` or ``"yms"``.
        progress: show a bar.
        **options: of :class:`Setting`, such as ``optimizer``, ``epochs`` or ``seed``.

    Returns:
        Losses, measures on each split, norm ratios by stack, means and variances of stack outputs.
    """
    found = train(Setting(dataset=dataset, **options), progress=progress)
    return found.history.iloc[-1].to_dict()


def similarity(of: Sequence[Sample], *, ridge: float = 10.0) -> Callable[[Sample], Tensor]:
    """Cosine of each clip and snippet, after a ridge regression from matched clips to their text.

    The classical way to a common space before dynamic time warping. ``of`` are training samples.
    """
    matched = [sample.clip_snippet >= 0 for sample in of]
    x = torch.cat([each.clips[rows] for each, rows in zip(of, matched, strict=True)]).double()
    y = torch.cat(
        [each.snippets[each.clip_snippet[rows]] for each, rows in zip(of, matched, strict=True)]
    ).double()
    if not len(x):
        raise ValueError("of: expected samples of which a clip is matched, got none")
    require_finite(x, "of: clips")
    require_finite(y, "of: snippets")
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    penalty = ridge * x.square().sum(0).mean() / len(x) ** 0.5
    weight = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)

    def cosine(sample: Sample) -> Float[Tensor, "n m"]:
        text = sample.snippets.double() - y_mean
        seen = (sample.clips.double() - x_mean) @ weight
        return unit_rows(seen, "clips") @ unit_rows(text, "snippets").T

    return cosine


def warpings(train: Sequence[Sample], of: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
    """The assignments of dynamic time warping and its variants, on one minus :func:`similarity`.

    The price of a drop is the 30th percentile of a video's costs (Dvornik et al. 2021).
    """
    cosine = similarity(train)
    found: dict[str, list[np.ndarray]] = {"DTW": [], "one-to-many DTW, drops": [], "Drop-DTW": []}
    for sample in of:
        cost = 1 - cosine(sample)
        drop = float(cost.quantile(0.3))
        fits = cost.shape[0] >= cost.shape[1]
        for name, warping in (
            ("DTW", dtw(cost)),
            (
                "one-to-many DTW, drops",
                # with fewer clips than snippets no one-to-many alignment exists
                one_to_many_dtw(cost, clip_drop=drop) if fits else dtw(cost),
            ),
            ("Drop-DTW", drop_dtw(cost, clip_drop=drop, snippet_drop=drop)),
        ):
            found[name].append(warping.assignment.numpy())
    return found


def baselines(setting: Setting) -> pd.DataFrame:
    """Measures on the test split of the truth, of assignments without features, and of warpings.

    Returns:
        A row each: ``assignment`` and the columns of :func:`measure`.
    """
    whole = samples_of(setting)
    test = whole["test"]
    found = {"truth": [sample.clip_snippet.numpy() for sample in test]}
    if setting.dataset == "yms":
        found |= feature_free(list(load("yms", "train")), list(load("yms", "test")))
    else:
        found["all unmatched"] = [unmatched(len(sample.clips)) for sample in test]
        found["uniform"] = [uniform(*sample.lengths) for sample in test]
    found |= warpings(whole["train"], test)
    return pd.DataFrame(
        [{"assignment": name, **measure(test, each)} for name, each in found.items()]
    )


def annotations(folder: str | pathlib.Path | None = None) -> dict[str, float]:
    """The counts that the chapters quote of the annotations of YMS.

    Args:
        folder: of its files; its folder under ``MODALIGN_DATA`` by default.

    Returns:
        ``clips`` and the share of them ``without snippet``; ``clips a snippet`` that has some;
        ``blocks`` to train on, the ``longest block`` in actions, and the ``blocks of 100``, if
        all are cut at 100. And video accuracy and text IoU of the truth on the test split and on
        the ``blocks``, also ``pooled``; and of alignment by ``text length``, in which the surplus
        spaces of the file count as letters, without and with ``median margins``.

    Raises:
        FileNotFoundError: if the files are not there.
    """
    place = source("yms").find(folder)
    splits = ("train", "validation", "test")
    rows = {split: list(load("yms", split, folder=place)) for split in splits}
    truth = [np.array(row["clip_snippet"]) for split in splits for row in rows[split]]
    matched = sum(int((each >= 0).sum()) for each in truth)
    snippets = sum(len(np.unique(each[each >= 0])) for each in truth)
    train = yms_samples("train", clip_width=1, text_width=1, folder=place)
    cut = _blocks(train)
    exact = [block for sample in train for block in blocks(sample, shortest=1)]
    clips = sum(map(len, truth))
    found: dict[str, float] = {
        "clips": clips,
        "without snippet": 1 - matched / clips,
        "clips a snippet": matched / snippets,
        "blocks": len(cut),
        "longest block": max(len(block.actions) for block in cut),
        "blocks of 100": len(exact),
    }
    test = yms_samples("test", clip_width=1, text_width=1, folder=place)
    for name, of in (("truth", test), ("blocks", cut)):
        bound = measure(of, (each.clip_snippet.numpy() for each in of))
        found |= {f"{name}, {kind}": value for kind, value in bound.items()}
    texts: dict[str, list[int]] = {}
    for line in (place / "annotations_phrases.txt").read_text(encoding="utf-8").splitlines():
        key, text = line.split("\t")
        if not text.strip().startswith("UNMATCHED"):
            texts.setdefault(key[:4], []).append(len(text))
    known = [(times_of(row["clips"]), times_of(row["snippets"])) for row in rows["train"]]
    usual = median_margins(margins_of(*each) for each in known)
    for name, margins in (("text length", NO_MARGINS), ("median margins", usual)):
        scores = []
        for row in rows["test"]:
            times = times_of(row["clips"])
            assigned = proportional(times, texts[row["id"]], margins)
            scores.append(alignment_scores(assigned, times, times_of(row["snippets"])))
        summary = summarise_alignment(scores)
        for kind in ("video_accuracy", "text_iou"):
            found[f"{name}, {kind}"] = summary[kind]
    return found


def record_annotations(folder: str | pathlib.Path | None = None) -> None:
    """Keep :func:`annotations` as the table ``neumatch/yms-annotations``, one row a quantity.

    Args:
        folder: results folder; the book's by default.
    """
    started = time.perf_counter()
    table = pd.DataFrame(annotations().items(), columns=["quantity", "value"])
    seconds = time.perf_counter() - started
    name = "neumatch/yms-annotations"
    records.save(table, name, parameters={"dataset": "yms"}, seconds=seconds, folder=folder)


PAPER = "RP + SBN + LARS"
NONE = "Full + Adam"
STOPPED = f"{NONE}, early stopping"
ROWS: dict[str, dict[str, Any]] = {
    PAPER: {},
    "RP + SBN + Adam": {"optimizer": "adam"},
    "RP + SBN + Adam, warm-up": {"optimizer": "adam-warmup"},
    "RP + SBN + SGD": {"optimizer": "sgd"},
    "RP + LARS": {"normalization": "none"},
    "RP + 2xLN + LARS": {"normalization": "ln2"},
    "RP + 4xLN + LARS": {"normalization": "ln4"},
    "RP + 2xLN + Adam": {"normalization": "ln2", "optimizer": "adam"},
    "RP + 4xLN + Adam": {"normalization": "ln4", "optimizer": "adam"},
    "Full + SBN + LARS": {"projection": False},
    "Full + 2xLN + LARS": {"projection": False, "normalization": "ln2"},
    "Full + 4xLN + LARS": {"projection": False, "normalization": "ln4"},
    # every 2 epochs, for early stopping to choose from
    NONE: {"projection": False, "normalization": "none", "optimizer": "adam", "every": 2},
    f"{NONE}, pretrained": {
        "projection": False,
        "normalization": "none",
        "optimizer": "adam",
        "pretrain_epochs": 10,
    },
    f"{PAPER}, pretrained": {"pretrain_epochs": 10},
}
"""The rows of the paper's Tables 1 to 5, and some more; early stopping is read from the runs."""

PUBLISHED = {
    PAPER: (30.6, 12.8),
    "RP + SBN + Adam": (21.7, 8.0),
    "RP + SBN + Adam, warm-up": (24.7, 9.3),
    "RP + 2xLN + LARS": (25.3, 8.8),
    "RP + 4xLN + LARS": (25.9, 8.7),
    "RP + 2xLN + Adam": (23.3, 8.2),
    "RP + 4xLN + Adam": (23.6, 7.5),
    "Full + SBN + LARS": (27.6, 9.9),
    "Full + 2xLN + LARS": (25.4, 8.3),
    "Full + 4xLN + LARS": (26.9, 9.9),
    NONE: (24.2, 6.8),
    STOPPED: (24.9, 8.0),
    f"{NONE}, pretrained": (26.8, 10.3),
}
"""Video accuracy and text IoU (%) of the paper's Tables 1, 2, 4 and 5."""

PUBLISHED_RATIOS = {
    "RP + SBN + Adam": (4263.5, 8075.0, 1711.9, 432.1),
    "RP + SBN + Adam, warm-up": (10378.1, 23305.1, 8228.3, 2120.8),
    PAPER: (2.7e5, 4.1e5, 1.9e5, 5604.5),
    "RP + 2xLN + Adam": (2.6e6, 5.5e6, 1.1e6, 7.4e4),
    "RP + 2xLN + LARS": (3.5e6, 6.4e6, 1.4e6, 9.0e4),
    "RP + 4xLN + Adam": (2.3e6, 3.8e6, 7.3e5, 7.8e4),
    "RP + 4xLN + LARS": (1.3e7, 2.1e7, 1.0e7, 2.5e5),
}
"""Norm ratios of the paper's Table 3: Video Stack, Text Stack, Action and Matched Stacks, FC."""

YMS_ROWS = (
    PAPER,
    NONE,
    "RP + SBN + Adam",
    "RP + SBN + Adam, warm-up",
    "Full + SBN + LARS",
    "RP + LARS",
    "RP + 2xLN + LARS",
    "RP + 4xLN + LARS",
    f"{NONE}, pretrained",
)
"""The rows that the book records on YMS."""

LONG_ROWS = (PAPER, "RP + SBN + Adam", NONE)
"""Of these, the rows that it records for the paper's 350 epochs too."""

MEASURES = ["test video_accuracy", "test text_iou"]


def finals(table: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each recorded run, and of :data:`NONE` the early stopped one too."""
    last = table.loc[table.groupby(["row", "seed"], sort=False)["epoch"].idxmax()]
    stopped = early_stopped(table[table["row"] == NONE]).assign(row=STOPPED)
    return pd.concat([last, stopped], ignore_index=True)


def early_stopped(table: pd.DataFrame) -> pd.DataFrame:
    """Of each recorded run (row, seed), the evaluation that is best on the validation split."""
    known = table.dropna(subset=["validation video_accuracy"])
    quality = known["validation video_accuracy"] + known["validation text_iou"]
    best = quality.groupby([known["row"], known["seed"]], sort=False).idxmax()
    return known.loc[best]


def _work(task: Task) -> pd.DataFrame:
    """The evaluated epochs of a run; its snippets for the test clips are in ``attrs``."""
    run = train(task.setting, checkpoint=task.checkpoint, progress=False)
    history = run.history.dropna(axis=1, how="all")
    for ratio in [column for column in history if column.startswith("ratio")]:
        history.loc[history.index[-1], f"last {ratio}"] = history[ratio].tail(20).mean()
    table = task.named(history).dropna(subset=["test text_iou"])
    table.attrs = {"seconds": run.history.attrs["seconds"], "assigned": _assigned(run)}
    return table


def _assigned(run: Run) -> dict[str, list[Any]]:
    """Columns of a row for each test clip: the snippets, true and given, and their times."""
    tables = []
    for sample, given in zip(run.test, run.assigned, strict=True):
        truth = sample.clip_snippet
        spans = np.where(truth[:, None] < 0, np.nan, sample.snippet_times[truth])
        columns = {"video": sample.video, "start": sample.clip_times[:, 0].tolist()}
        columns |= {"end": sample.clip_times[:, 1].tolist(), "truth": truth.tolist()}
        columns |= {"assigned": given, "snippet_start": spans[:, 0], "snippet_end": spans[:, 1]}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables).to_dict("list")


def _shorter(setting: Setting) -> Iterator[Setting]:
    """The shorter runs that a run can continue.

    A warm-up follows from the number of epochs: with it no run is the beginning of another.
    """
    if setting.optimizer != "adam-warmup":
        for epochs in range(setting.epochs - 1, 0, -1):
            yield dataclasses.replace(setting, epochs=epochs)


def record(
    dataset: Dataset = "shapes",
    *,
    name: str | None = None,
    rows: Sequence[str] = tuple(ROWS),
    seeds: int = 5,
    assigned: bool = False,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Train every row with every seed, and keep the evaluated epochs in ``results/neumatch/``.

    ``last ratio`` is the mean over the last 20 epochs, as in Table 3. A call that was killed goes
    on where it was: finished runs are kept in ``.{dataset}`` beside the table, and an unfinished
    one, or one that was asked for fewer epochs, resumes from its last epoch. The checkpoints (40 MB
    each on YMS) can be deleted.

    Args:
        dataset: ``"shapes"`` or ``"yms"``.
        name: of the table, in place of the data set's.
        rows: names of :data:`ROWS`.
        seeds: number of seeds, from 0.
        assigned: keep the snippet that the paper's row gave each test clip with seed 0, the times
            of the clip, and those of its true snippet, as ``{name}-assigned``.
        jobs: processes, of one thread each.
        folder: results folder; the book's by default.
        progress: show a bar.
        **options: of :class:`Setting`, for every row.

    Raises:
        ValueError: for a row that does not exist or is there twice, and ``assigned`` without the
            paper's row.
        TypeError: for an unknown option.
    """
    for row in rows:
        require_choice(row, tuple(ROWS), "rows")
    if assigned and PAPER not in rows:
        raise ValueError(f"assigned: expected {PAPER!r} among the rows, got {', '.join(rows)}")
    table = f"neumatch/{name or dataset}"
    tasks = [
        (row, Setting(dataset=dataset, seed=seed, **(options | ROWS[row])))
        for seed in range(seeds)
        for row in rows
    ]
    usual = _sweep.fixed_in(Setting(dataset=dataset, **options))
    given = {"dataset": dataset, "seeds": seeds, **options, "rows": list(rows), "usual": usual}
    found = _sweep.record(
        _work,
        tasks,
        table,
        parameters=given,
        kept=f".{dataset}",
        shorter=_shorter,
        jobs=jobs,
        folder=folder,
        progress=progress,
    )
    if assigned:
        own = found[list(rows).index(PAPER)].attrs  # seed 0 comes first
        records.save(
            pd.DataFrame(own["assigned"]),
            f"{table}-assigned",
            parameters={**given, "commits": [str(own["commit"])]},
            seconds=own["seconds"],
            folder=folder,
        )


def _baselines(task: Task) -> pd.DataFrame:
    return baselines(task.setting).assign(seed=task.setting.seed)


def record_baselines(
    dataset: Dataset = "shapes",
    *,
    seeds: int = 5,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Keep the measures of :func:`baselines` by seed as the table ``neumatch/{dataset}-baselines``.

    Arguments are those of :func:`record`.
    """
    _sweep.record(
        _baselines,
        [("baselines", Setting(dataset=dataset, seed=seed, **options)) for seed in range(seeds)],
        f"neumatch/{dataset}-baselines",
        parameters={"dataset": dataset, "seeds": seeds, **options},
        jobs=jobs,
        folder=folder,
        progress=progress,
    )
