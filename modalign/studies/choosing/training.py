"""One model for every arm, its losses, its training, and how it is scored."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from modalign.cka import ModalityAlignment, cka
from modalign.codebook import Codebook, MomentumTeacher
from modalign.gradients import GradientCurriculum, harmonized_backward
from modalign.lars import LARS
from modalign.metrics import retrieval
from modalign.models.joint import JointEmbedding, contrastive_loss, views
from modalign.momentum import cross_entropy, soft_targets
from modalign.projection import RandomProjection
from modalign.studies._schedules import rising_and_falling
from modalign.studies.choosing.setting import ROUNDS, Setting
from modalign.studies.choosing.views import HUB, OTHERS, Examples, encoders, source
from modalign.training import fit, seeded
from modalign.training.checks import Device
from modalign.training.setting import in_mode

DIM, PROTOTYPES, MOMENTUM, SOFTNESS = 64, 64, 0.97, 0.4
Batch = Mapping[str, Tensor]


class Learner(nn.Module):
    """The joint embedding of three views, with the additions of a method."""

    def __init__(self, setting: Setting, vocabulary: int) -> None:
        super().__init__()
        self.setting = setting
        self.joint = JointEmbedding(encoders(setting, vocabulary), DIM)
        norms: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm1d,
            "layer": nn.LayerNorm,
        }
        if setting.normalization != "none":
            norm = norms[setting.normalization]
            for name, head in self.joint.heads.items():
                self.joint.heads[name] = nn.Sequential(head, norm(DIM))
        if setting.projected:
            project_inputs(self.joint, setting.seed)
        self.teacher = (
            MomentumTeacher(self.joint, MOMENTUM) if setting.intra or setting.code else None
        )
        self.codebook = Codebook(PROTOTYPES, DIM, seed=setting.seed) if setting.code else None
        self.alignment = ModalityAlignment(setting.cka, estimator="debiased")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses that an arm minimises, by part: two contrastive ones, and its own."""
        setting, z = self.setting, self.joint.embed(views(batch))
        temperature, same = self.joint.temperature, batch.get("label")
        found = {
            f"nce_{name}": contrastive_loss(z[HUB], z[name], temperature, same=same)
            for name in OTHERS
        }
        if setting.cka:
            found["cka"] = sum_of(self.alignment(z[HUB], z[name]).loss for name in OTHERS)
        if self.teacher is not None:
            seen = self.teacher(views(batch))
            if setting.intra:
                found["intra"] = setting.intra * sum_of(
                    intra_modal(z[name], seen[name], temperature) for name in z
                )
            if self.codebook is not None:
                found["code"] = setting.code * sum_of(
                    self.codebook.loss(z[HUB], z[name], seen[HUB], seen[name]).total
                    for name in OTHERS
                )
        return found


def sum_of(parts: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()


def intra_modal(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """Match each vector with its teacher's among those of its view (eq-codebook-alignment)."""
    own = torch.arange(len(student), device=student.device)
    targets = soft_targets(teacher @ teacher.T / temperature.detach(), own, SOFTNESS)
    return cross_entropy(student @ teacher.T / temperature, targets)


def project_inputs(joint: JointEmbedding, seed: int) -> None:
    """Make the first layer of each encoder a random projection, and keep it so."""
    for number, encoder in enumerate(joint.encoders.values()):
        first: Any = encoder.tokens if hasattr(encoder, "tokens") else cast(Any, encoder).layers[0]
        words = isinstance(first, nn.Embedding)
        rows, columns = (first.weight.T if words else first.weight.flatten(1)).shape
        matrix = RandomProjection(columns, rows, seed=3 * seed + number).matrix
        with torch.no_grad():
            first.weight.copy_(matrix.T if words else matrix.view_as(first.weight))
        first.weight.requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The batches of each of :data:`ROUNDS` equal parts of the steps, from whole passes."""

    inputs: Mapping[str, Tensor]
    setting: Setting

    def __len__(self) -> int:
        return self.setting.steps // ROUNDS

    def __call__(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        size = self.setting.batch_size
        rows = len(next(iter(self.inputs.values())))
        per_pass = rows // size
        for step in range(epoch * len(self), (epoch + 1) * len(self)):
            number, place = divmod(step, per_pass)
            if place == 0 or step == epoch * len(self):
                generator = torch.Generator().manual_seed(100_003 * self.setting.seed + number)
                order = torch.randperm(rows, generator=generator)
            chosen = order[place * size : (place + 1) * size]
            yield {name: value[chosen] for name, value in self.inputs.items()}


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained learner, its history, and the data of its training and its scores."""

    setting: Setting
    learner: Learner
    history: pd.DataFrame
    learnt: Examples
    scored: Examples


def train(
    setting: Setting,
    split: str = "validation",
    *,
    method: type[Learner] | None = None,
    device: Device = "cpu",
    progress: bool = False,
) -> Run:
    """Train an arm, and score it on a split after each round.

    Args:
        setting: all of the run but split and device.
        split: that is scored, ``"validation"`` or ``"test"``.
        method: your own: a class below :class:`Learner` whose ``losses`` add a part.
        device: that trains, ``"cpu"`` or ``"auto"``. Seconds are of a core, so that those of a GPU
            do not count.
        progress: show a bar.

    >>> small = Setting(examples=64, candidates=20, batch_size=16, seen=96, cka=0.1, intra=0.1)
    >>> train(small).history["epoch"].to_list()
    [1, 2, 3, 4, 5, 6]
    """
    given, make = source(setting), method or Learner
    learnt, scored = given.splits["train"], given.splits[split]
    if setting.batch_size > len(learnt):
        raise ValueError(
            f"batch_size: expected at most the {len(learnt)} examples that there are, got "
            f"{setting.batch_size}"
        )
    learner = seeded(lambda: make(setting, given.vocabulary), setting.seed)
    parameters = [each for each in learner.parameters() if each.requires_grad]
    adam = setting.optimizer == "adam"
    rate = setting.learning_rate
    optimizer = torch.optim.Adam(parameters, lr=rate) if adam else LARS(parameters, lr=rate)
    curriculum = None
    if setting.gamma is not None:
        start = max(-1.0, setting.gamma - 0.3)
        curriculum = GradientCurriculum(start, setting.gamma, steps=setting.steps)
    clock = Clock()

    def loss(_: nn.Module, batch: Batch) -> dict[str, Tensor]:
        parts = learner.losses(batch)
        return {"loss": sum_of(iter(parts.values())), **parts}

    def backward(parts: Mapping[str, Tensor]) -> Any:
        sound, text = (parts[f"nce_{name}"] for name in OTHERS)
        return harmonized_backward(
            sound, text, parameters, realign=setting.realign, curriculum=curriculum
        )

    def after_step(_: int) -> None:
        if learner.teacher is not None:
            learner.teacher.update(learner.joint)

    def evaluate(_: nn.Module) -> dict[str, float]:
        clock.stop()
        found = {**scores(learner, scored), "core_seconds": clock.seconds}
        clock.start()
        return found

    labels = {} if learnt.labels is None else {"label": learnt.labels}
    clock.start()
    history = fit(
        learner,
        loss,
        Rounds(learnt.inputs | labels, setting),
        optimizer=optimizer,
        schedule=rising_and_falling(optimizer, steps=setting.steps, warm_up=0.1, last=0.1),
        schedule_by="step",
        epochs=ROUNDS,
        backward=backward if setting.harmonized else None,
        after_step=after_step,
        evaluate=evaluate,
        device=device,
        seed=setting.seed,
        progress=progress,
    )
    return Run(setting, learner, history, learnt, scored)


class Clock:
    """Seconds of one core, without the time between stop and start."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def start(self) -> None:
        self.since = time.process_time()

    def stop(self) -> None:
        self.seconds += time.process_time() - self.since


@torch.no_grad()
def embed(learner: Learner, examples: Examples) -> dict[str, Tensor]:
    """Unit vectors of every view, (n, dim)."""
    place = next(learner.parameters()).device
    parts = []
    with in_mode(learner, training=False):
        for rows in torch.arange(len(examples)).split(250):
            inputs = {name: value[rows].to(place) for name, value in examples.inputs.items()}
            parts.append(learner.joint.embed(views(inputs)))
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def scores(learner: Learner, examples: Examples) -> dict[str, float]:
    """Retrieval of the picture and of either other view, and the measure of the study, in percent.

    ``measure`` is the mean of ``sound`` and ``text``: of each R@10 of both directions, or of
    digits the share of queries whose nearest candidate is of their digit.
    """
    z = embed(learner, examples)
    found = {name: 100 * retrieved(z[HUB] @ z[name].T, examples) for name in OTHERS}
    return {"measure": sum(found.values()) / len(found), **found}


def retrieved(similarity: Tensor, examples: Examples) -> float:
    """A share of queries, the mean of both directions."""
    if examples.labels is not None:
        own = examples.labels
        right = [own[each.argmax(1)] == own for each in (similarity, similarity.T)]
        return float(torch.stack(right).double().mean())
    both = retrieval(similarity, ks=(10,))
    return (both.rows.recall[10] + both.columns.recall[10]) / 2


def diagnosis(run: Run) -> dict[str, float]:
    """Diagnostics of a score, on the split that was scored.

    ``cka_sound`` and ``cka_text``, debiased, of the picture with either; ``margin``, the cosine of
    pairs minus that of others, of the text; ``probe``, the mean AUROC in percent of linear probes
    that predict the attributes from frozen vectors of the picture; and the ``numbers`` that the
    method holds in memory beside the data: weights, two moments of each, and a teacher.
    """
    z = embed(run.learner, run.scored)
    found = {f"cka_{name}": float(cka(z[HUB], z[name], debiased=True)) for name in OTHERS}
    similarity = z[HUB] @ z["text"].T
    n = len(similarity)
    own = float(similarity.diagonal().mean())
    found["margin"] = own - float((similarity.sum() - n * own) / (n * (n - 1)))
    if run.learnt.attributes is not None and run.scored.attributes is not None:
        known = embed(run.learner, run.learnt)[HUB]
        predicted = ridge(known, run.learnt.attributes, z[HUB])
        # no probe can separate examples that all have an attribute, or all lack it
        differs = run.scored.attributes.std(0) > 0
        there, guessed = run.scored.attributes[:, differs], predicted[:, differs]
        found["probe"] = 100 * float(roc_auc_score(there, guessed, average="macro"))
    trained = sum(each.numel() for each in run.learner.parameters() if each.requires_grad)
    every = sum(each.numel() for each in run.learner.state_dict().values())
    found["numbers"] = float(every + 2 * trained)
    return found


def ridge(x: Tensor, y: Tensor, new: Tensor, *, penalty: float = 1.0) -> Tensor:
    """Predict columns of y (n, c) for new rows, by least squares on x with a penalty.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> ridge(x, 2 * x, torch.tensor([[3.0]]), penalty=0.0).item()
    6.0
    """
    x, y, new = x.double(), y.double(), new.double()
    mean, target = x.mean(0), y.mean(0)
    gram = (x - mean).T @ (x - mean) + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    return target + (new - mean) @ torch.linalg.solve(gram, (x - mean).T @ (y - target))
