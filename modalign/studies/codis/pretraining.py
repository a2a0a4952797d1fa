"""Pretrain CODIS, and measure retrieval."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from modalign.metrics import retrieval
from modalign.models.codis import Codis
from modalign.models.codis_encoders import Config
from modalign.models.codis_tasks import Retrieval
from modalign.studies._schedules import rising_and_falling
from modalign.studies.codis.pairs import Epochs, Pairs, data, ready
from modalign.studies.codis.setting import LENGTH, Setting
from modalign.training import fit, seeded
from modalign.training.checks import Device


def loss(model: Codis, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of paper eq. 9, and their sum."""
    return model.losses(ready(batch))


def schedule_of(optimizer: torch.optim.Optimizer, steps: int, setting: Setting) -> LambdaLR:
    """Of pretraining and of fine-tuning: up from a tenth, and down to a tenth, as in the paper."""
    return rising_and_falling(optimizer, steps=steps, warm_up=setting.warm_up, last=0.1)


@dataclasses.dataclass(frozen=True)
class Run:
    """A pretrained model, its history and its data."""

    setting: Setting
    model: Codis
    history: pd.DataFrame
    splits: dict[str, Pairs]
    tokenizer: Any


def build(setting: Setting, tokenizer: Any, **changes: Any) -> Codis:
    """A model with its starting weights.

    Args:
        setting: whose seed draws them.
        tokenizer: of its texts.
        **changes: of :class:`modalign.models.codis.Config`, such as a row of :data:`ROWS`.
    """
    sizes = {
        "image_size": setting.resolution,
        "max_length": LENGTH,
        "temperature": setting.temperature,
        "ramp": setting.examples // setting.batch_size,
        "seed": setting.seed,
    }
    config = Config(tokenizer.get_vocab_size(), **{**sizes, **changes})
    return seeded(lambda: Codis(config), seed=setting.seed)


def pretrain(
    setting: Setting,
    *,
    checkpoint: pathlib.Path | None = None,
    device: Device = "cpu",
    progress: bool = True,
    **changes: Any,
) -> Run:
    """Pretrain CODIS as a setting says.

    Args:
        setting: data and schedule.
        checkpoint: file from which a run that was stopped goes on.
        device: ``"cpu"``, or ``"auto"`` for a GPU if there is one.
        progress: show a bar.
        **changes: of :class:`modalign.models.codis.Config`, such as a row of :data:`ROWS`.

    Raises:
        ValueError: for a batch that does not divide the queue, or a checkpoint of another run.

    >>> run = pretrain(Setting(examples=64, candidates=32, epochs=1, batch_size=32), queue=64)
    >>> set(evaluate(run)) >= {"recall_at_1", "tower_recall_at_1"}
    True
    """
    splits, tokenizer = data(setting)
    if device == "auto" and torch.cuda.is_available():
        splits = {name: pairs.to("cuda") for name, pairs in splits.items()}
    batches = Epochs(splits["train"], setting.batch_size, setting.seed)
    model = build(setting, tokenizer, **changes)
    if model.config.queue % setting.batch_size:
        raise ValueError(
            f"batch_size: expected a number that divides the queue's {model.config.queue}, got "
            f"{setting.batch_size}"
        )
    first = ready(next(iter(batches(0))))
    model.spread({name: value.cpu() for name, value in first.items()})
    gamma = list(model.codebook.temperature.parameters())
    others = [
        each
        for name, each in model.named_parameters()
        if each.requires_grad and not name.startswith("codebook.temperature")
    ]
    groups: list[dict[str, Any]] = [{"params": others}]
    groups.append({"params": gamma, "lr": setting.temperature_rate, "weight_decay": 0.0})
    decay = setting.weight_decay
    optimizer = torch.optim.AdamW(groups, lr=setting.learning_rate, weight_decay=decay)
    schedule = schedule_of(optimizer, len(batches) * setting.epochs, setting)
    history = fit(
        model,
        loss,
        batches,
        optimizer=optimizer,
        schedule=schedule,
        schedule_by="step",
        epochs=setting.epochs,
        after_step=lambda step: model.update(),
        device=device,
        checkpoint=checkpoint,
        seed=setting.seed,
        progress=progress,
    )
    return Run(setting, model.eval(), history, splits, tokenizer)


@torch.no_grad()
def evaluate(run: Run, split: str = "test", *, model: Codis | None = None) -> dict[str, float]:
    """Retrieval on a split that nobody trained on, by the towers alone and after re-ranking.

    Args:
        run: pretrained.
        split: one of its splits.
        model: in place of the run's.

    Returns:
        ``recall_at_1`` and so on, the mean of both directions in percent, after re-ranking;
        ``tower_recall_at_1`` and so on, before it; and each direction by itself.
    """
    pairs, codis = run.splits[split], model or run.model
    pairs = pairs.to(codis.itm_head.weight.device)
    images = ready({"pixel_values": pairs.pixels})["pixel_values"]
    k = min(run.setting.k, len(images), len(pairs.input_ids))
    scored = Retrieval(codis)
    similarity, rows, columns = scored.predict(images, pairs.input_ids, pairs.attention_mask, k=k)
    owners, found = pairs.owners.cpu(), {}
    for name, by_row, by_column in (("tower_", similarity, similarity), ("", rows, columns)):
        to_text = retrieval(by_row.cpu(), owners=owners).rows.recall
        to_image = retrieval(by_column.cpu(), owners=owners).columns.recall
        for k in (1, 5, 10):
            found[f"{name}recall_at_{k}"] = 50 * (to_text[k] + to_image[k])
            found[f"{name}text_recall_at_{k}"] = 100 * to_text[k]
            found[f"{name}image_recall_at_{k}"] = 100 * to_image[k]
    return found
