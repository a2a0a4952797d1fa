"""The tasks after pretraining: retrieval in a new domain, questions, and judgements."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from modalign._checks import require_choice
from modalign.data import load, shapes
from modalign.metrics import accuracy
from modalign.models.codis import Codis
from modalign.models.codis_encoders import with_cls
from modalign.models.codis_tasks import Judge, Questions, Retrieval
from modalign.models.inputs import tokenize
from modalign.studies.codis.pairs import Epochs, painted, ready, shrunk
from modalign.studies.codis.pretraining import Run, schedule_of
from modalign.studies.codis.setting import LENGTH, FineTuning, Setting, Task
from modalign.studies.codis.words import answers
from modalign.training import fit, seeded, shuffled


def fine_tuned_retrieval(
    run: Run, *, epochs: int = 4, learning_rate: float = 1e-3, progress: bool = True
) -> Codis:
    """Train a run's model further on pairs of the domain that its pretraining never saw.

    Args:
        run: pretrained on the world; it stays as it is.
        epochs: passes over the split "unseen train".
        learning_rate: highest rate of AdamW; it rises and falls as in pretraining.
        progress: show a bar.
    """
    task = Retrieval(copy.deepcopy(run.model))
    batches = Epochs(run.splits["unseen train"], run.setting.batch_size, run.setting.seed)
    _fit(
        task,
        lambda task, batch: task.loss(ready(batch)),
        batches,
        run,
        epochs,
        learning_rate,
        progress,
        after_step=lambda step: task.update(),
    )
    return task.codis.eval()


def _fit(
    task: nn.Module,
    loss: Any,
    batches: Any,
    run: Run,
    epochs: int,
    learning_rate: float,
    progress: bool,
    **options: Any,
) -> None:
    trained = [each for each in task.parameters() if each.requires_grad]
    decay = run.setting.weight_decay
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=decay)
    fit(
        task,
        loss,
        batches,
        optimizer=optimizer,
        schedule=schedule_of(optimizer, epochs * len(batches), run.setting),
        schedule_by="step",
        epochs=epochs,
        device="cpu" if run.model.itm_head.weight.device.type == "cpu" else "auto",
        seed=run.setting.seed,
        progress=progress,
        **options,
    )


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples of a task: pictures, texts and labels.

    Attributes:
        draw: makes the pictures, (n, pictures, 3, r, r), uint8.
        texts: n of them.
        label: (n,).
        names: of the labels.
        allowed: (n, k), of questions alone: the answers that each offers.
    """

    draw: Callable[[], Tensor]
    texts: list[str]
    label: Tensor
    names: tuple[str, ...]
    allowed: Tensor | None = None


def asked(tuning: FineTuning, split: str, *, setting: Setting) -> Examples:
    """The examples of a task, for a split; nothing is drawn yet.

    Scenes of the world are of its split of that name. Of NLVR and SNLI-VE the published validation
    rows are trained on, but for those of a fifth of the pictures, which are for validation here. Of
    SNLI-VE's test rows those are scored whose photograph is not in Flickr8k's training list, which
    pretraining has seen.

    Args:
        tuning: task, and how many examples.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        setting: resolution, and the seed of scenes or of the order.
    """
    require_choice(split, shapes.SPLITS, "split")
    n = tuning.examples if split == "train" else tuning.held_out
    find = _of_a_set if tuning.task in ("nlvr", "snli-ve") else _of_the_world
    return find(tuning.task, split, n, setting)


def examples(
    tuning: FineTuning, split: str, *, setting: Setting, tokenizer: Any
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Inputs and labels of a task, for a split, and the names of its labels.

    Args:
        tuning: task, and how many examples.
        split: as of :func:`asked`.
        setting: likewise.
        tokenizer: of the texts.

    Returns:
        ``images`` (n, pictures, 3, r, r), uint8, ``input_ids`` and ``attention_mask`` (n, t),
        ``label`` (n,), and, of questions, ``allowed`` (n, k): the answers that each offers.
    """
    found = asked(tuning, split, setting=setting)
    images = found.draw()
    inputs = {"images": images if tuning.look else torch.full_like(images, 127)}
    inputs |= tokenize(tokenizer, with_cls(found.texts), max_length=LENGTH)
    inputs["label"] = found.label
    if found.allowed is not None:
        inputs["allowed"] = found.allowed
    return inputs, found.names


def _of_the_world(task: Task, split: Any, n: int, setting: Setting) -> Examples:
    seed = setting.seed

    def draw(*pictures: Sequence[shapes.Scene]) -> Tensor:
        return torch.stack([painted(each, setting.resolution) for each in pictures], 1)

    if task == "pairs":
        judged = [shapes.pair(seed, i, split=split) for i in range(n)]
        both = [p.left for p in judged], [p.right for p in judged]
        labels = torch.tensor([int(each.true) for each in judged])
        texts = [each.text for each in judged]
        return Examples(functools.partial(draw, *both), texts, labels, ("false", "true"))
    drawn = [shapes.sample_scene(seed, i, split=split) for i in range(n)]
    if task == "entailment":
        kinds: tuple[Any, ...] = get_args(shapes.Label)
        labels = torch.arange(n) % len(kinds)
        texts = [
            shapes.entailment(scene, kinds[k], premise="picture").hypothesis
            for scene, k in zip(drawn, labels.tolist(), strict=True)
        ]
        return Examples(functools.partial(draw, drawn), texts, labels, kinds)
    questions = [shapes.questions(scene, 1)[0] for scene in drawn]
    names = answers()
    allowed = torch.tensor([[name in each.answers for name in names] for each in questions])
    labels = torch.tensor([names.index(each.answers[each.answer]) for each in questions])
    texts = [f"{each.story} {each.text}" for each in questions]
    return Examples(functools.partial(draw, drawn), texts, labels, names, allowed)


def _of_a_set(task: Task, split: str, n: int, setting: Setting) -> Examples:
    rows = load(task, "test" if split == "test" else "validation")
    if split != "test":
        pictures = (
            rows["photograph"] if task == "snli-ve" else [i.rsplit("-", 1)[0] for i in rows["id"]]
        )
        names = sorted(set(pictures))
        kept = set(np.random.default_rng(0).permutation(names)[: len(names) // 5].tolist())
        wanted = split == "validation"
        rows = rows.select([i for i, name in enumerate(pictures) if (name in kept) == wanted])
    elif task == "snli-ve":
        rows = rows.filter(lambda seen: seen != "train", input_columns="flickr8k_split")
    order = np.random.default_rng(setting.seed).permutation(len(rows))[:n]
    rows = rows.select(order)
    return Examples(
        lambda: shrunk(rows["image"], setting.resolution)[:, None],
        list(rows["text"]),
        torch.tensor(rows["label"]),
        tuple(rows.features["label"].names),
    )


def fine_tune(
    run: Run, tuning: FineTuning, *, split: str = "test", progress: bool = True
) -> tuple[nn.Module, float]:
    """Train a run's model for a task, and score it.

    Args:
        run: pretrained; it stays as it is.
        tuning: task and schedule.
        split: that is scored: ``"validation"`` to choose by, ``"test"`` to report.
        progress: show a bar.

    Returns:
        The trained module, and its accuracy on that split, in percent.
    """
    device = run.model.itm_head.weight.device
    options = {"setting": run.setting, "tokenizer": run.tokenizer}
    learnt, names = examples(tuning, "train", **options)
    held, _ = examples(tuning, split, **options)

    def make() -> nn.Module:
        codis = copy.deepcopy(run.model)
        if tuning.task == "questions":
            return Questions(codis, names, run.tokenizer)
        return Judge(codis, len(names), pictures=learnt["images"].shape[1])

    task = seeded(make, run.setting.seed)
    batches = shuffled(
        {name: value.to(device) for name, value in learnt.items()},
        batch_size=tuning.batch_size,
        seed=run.setting.seed,
    )
    _fit(
        task,
        lambda task, batch: task.loss(_floats(batch)),
        batches,
        run,
        tuning.epochs,
        tuning.learning_rate,
        progress,
    )
    said = _predicted(task.eval(), {name: value.to(device) for name, value in held.items()})
    return task, 100 * accuracy(said, held["label"])


def majority(setting: Setting, tuning: FineTuning) -> float:
    """Accuracy of the commonest training label, of questions among the answers that each offers."""
    learnt, held = (asked(tuning, split, setting=setting) for split in ("train", "test"))
    counts = torch.bincount(learnt.label, minlength=len(learnt.names)).expand(len(held.label), -1)
    allowed = torch.ones_like(counts, dtype=torch.bool) if held.allowed is None else held.allowed
    return 100 * accuracy(counts.masked_fill(~allowed, -1).argmax(1), held.label)


def _floats(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**batch, "images": batch["images"].float() / 127.5 - 1}


@torch.no_grad()
def _predicted(task: Any, held: Mapping[str, Tensor]) -> Tensor:
    said = []
    for rows in torch.arange(len(held["label"])).split(128):
        batch = _floats({name: value[rows.to(value.device)] for name, value in held.items()})
        options = {"allowed": batch["allowed"]} if "allowed" in batch else {}
        said.append(task.predict(batch, **options).cpu())
    return torch.cat(said)
