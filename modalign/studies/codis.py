"""The chapter "CODIS": pretraining on pictures and captions, and the ablation of paper Table 4.

Decided before any sweep ran. The measure is R@1 of pictures and captions nobody trained on, the
mean of both directions, after the matching head has ordered the first 16 candidates, in percent.
The contrasts are those of :data:`CLAIMS`; both sides of each have the same data, steps, seeds and
settings, and none was tuned: all rows take the settings of :class:`Setting`. The smallest effect of
interest is the paper's own. A seed draws the weights, the order, the masks and the negatives, and
in the shapes world the scenes.
"""

import dataclasses
import functools
import itertools
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from modalign import records
from modalign._checks import require_choice
from modalign.data import load, shapes
from modalign.data.shapes.scene import scene_generator
from modalign.data.shapes.text import say
from modalign.metrics import paired_table, retrieval
from modalign.models.codis import SPECIAL_TOKENS, Codis, Config, rerank, with_cls
from modalign.models.inputs import build_tokenizer, tokenize
from modalign.training import fit, seeded

Dataset = Literal["shapes", "flickr8k"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One pretraining.

    Attributes:
        dataset: ``"shapes"`` or ``"flickr8k"``.
        examples: pictures to train on; in flickr8k the first of its 6,000.
        candidates: pictures of the test split.
        epochs: passes over them.
        batch_size: pairs a step.
        learning_rate: highest rate of AdamW (paper: 1e-4 for its large encoders).
        temperature_rate: the same for the temperature, a number of some hundredths (paper: 1e-4).
        weight_decay: paper: 0.02.
        warm_up: share of the steps over which the rate rises from a tenth; then it falls to a tenth
            along a cosine, as in the paper.
        resolution: side of the pictures in pixels.
        k: candidates that the matching head orders.
        seed: of all that is drawn.
    """

    dataset: Dataset = "shapes"
    examples: int = 2000
    candidates: int = 500
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 4e-3
    temperature_rate: float = 1e-4
    weight_decay: float = 0.02
    warm_up: float = 0.1
    resolution: int = 64
    k: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice(self.dataset, get_args(Dataset), "dataset")


ROWS: dict[str, dict[str, Any]] = {
    "cross": {"intra": 0.0, "code": 0.0},
    "intra + cross": {"code": 0.0},
    "cross + codebook": {"intra": 0.0},
    "intra + cross + codebook of students": {"features": "student"},
    "intra + cross + codebook": {},
}
"""The rows of the paper's Table 4; all have MLM and ITM. The first is ALBEF's loss."""

MEASURE = "recall_at_1"
CLAIMS: dict[str, tuple[str, str, float]] = {
    "c21": ("intra + cross", "cross", 1.21),
    "c22": ("intra + cross + codebook", "intra + cross", 1.30),
    "c22b": ("cross + codebook", "cross", 1.55),
    "c23": ("intra + cross + codebook", "intra + cross + codebook of students", 0.73),
    "c24": ("intra + cross + codebook", "cross", 2.51),
}
"""By id: the better row, the other, and the paper's effect (Flickr30K, R@1, mean of both ways)."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pictures with one caption or more each.

    Attributes:
        pixels: (n, 3, r, r), uint8.
        input_ids: (m, t) tokens of all captions, [CLS] first.
        attention_mask: (m, t).
        owners: (m,) the picture that each caption belongs to, in order.
    """

    pixels: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    owners: Tensor

    def to(self, device: torch.device | str) -> "Pairs":
        """The same on another device."""
        return Pairs(*(getattr(self, each.name).to(device) for each in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Shuffled batches of pairs, with a caption drawn for each picture anew every epoch."""

    pairs: Pairs
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return len(self.pairs.pixels) // self.batch_size

    def __call__(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        pairs, n = self.pairs, len(self.pairs.pixels)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        counts = torch.bincount(pairs.owners.cpu(), minlength=n)
        firsts = counts.cumsum(0) - counts
        chosen = firsts + (torch.rand(n, generator=generator) * counts).long()
        order = torch.randperm(n, generator=generator)
        for rows in order.split(self.batch_size)[: len(self)]:
            texts = chosen[rows].to(pairs.input_ids.device)
            yield {
                "pixel_values": pairs.pixels[rows.to(pairs.pixels.device)],
                "input_ids": pairs.input_ids[texts],
                "attention_mask": pairs.attention_mask[texts],
            }


def captions(scene: shapes.Scene, number: int) -> list[str]:
    """Describe all objects of a scene, worded ``number`` times, so that few captions fit two."""
    rng = scene_generator(scene, "codis")
    whole = shapes.Every(tuple(dict.fromkeys(shapes.Description.of(o) for o in scene.objects)))
    return [say(whole, rng) for _ in range(number)]


def scenes(setting: Setting, split: shapes.Split, length: int) -> list[shapes.Scene]:
    """Scenes of two or three objects, so that few look alike."""
    return [
        shapes.sample_scene(setting.seed, i, split=split, min_objects=2, max_objects=3)
        for i in range(length)
    ]


@functools.lru_cache(maxsize=2)
def data(setting: Setting) -> tuple[dict[str, Pairs], Any]:
    """The train, validation and test splits of a setting, and their tokenizer."""
    sizes = {"train": setting.examples, "validation": setting.candidates}
    sizes["test"] = setting.candidates
    pixels, texts = {}, {}
    for split, size in sizes.items():
        if setting.dataset == "shapes":
            drawn = scenes(setting, split, size)  # type: ignore[arg-type]
            painted = shapes.render_images(drawn, setting.resolution).images
            pixels[split] = torch.from_numpy(painted).permute(0, 3, 1, 2).contiguous()
            number = 5 if split == "train" else 1
            texts[split] = [captions(each, number) for each in drawn]
        else:
            rows = load("flickr8k", split).select(range(size))
            side = (setting.resolution, setting.resolution)
            found = [np.asarray(each.convert("RGB").resize(side)) for each in rows["image"]]
            pixels[split] = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()
            texts[split] = rows["captions"]
    words = [text for each in texts["train"] for text in each]
    least = 1 if setting.dataset == "shapes" else 3
    tokenizer = build_tokenizer(words, min_count=least, special_tokens=SPECIAL_TOKENS)
    splits = {}
    for split, each in texts.items():
        flat = with_cls([text for several in each for text in several])
        tokens = tokenize(tokenizer, flat, max_length=32)
        owners = [i for i, several in enumerate(each) for _ in several]
        splits[split] = Pairs(pixels[split], **tokens, owners=torch.tensor(owners))
    return splits, tokenizer


def ready(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with its pictures as numbers from -1 to 1."""
    return {**batch, "pixel_values": batch["pixel_values"].float() / 127.5 - 1}


def loss(model: Codis, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of paper eq. 9, and their sum."""
    return model.losses(ready(batch))


def rate(step: int, *, steps: int, warm_up: float) -> float:
    """Share of the highest rate: up from a tenth, then down to a tenth along a cosine.

    >>> [round(rate(step, steps=100, warm_up=0.1), 2) for step in (0, 10, 100)]
    [0.1, 1.0, 0.1]
    """
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return 0.1 + 0.9 * step / rising
    done = min(1.0, (step - rising) / max(1, steps - rising))
    return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2


@dataclasses.dataclass(frozen=True)
class Run:
    """A pretrained model, its history and its data."""

    setting: Setting
    model: Codis
    history: pd.DataFrame
    splits: dict[str, Pairs]
    tokenizer: Any


def pretrain(
    setting: Setting,
    *,
    checkpoint: pathlib.Path | None = None,
    device: Literal["auto", "cpu"] = "cpu",
    progress: bool = True,
    **changes: Any,
) -> Run:
    """Pretrain CODIS as a setting says.

    Args:
        setting: data and schedule.
        checkpoint: file to go on from where a run was stopped.
        device: ``"cpu"``, or ``"auto"`` for a GPU where there is one.
        progress: show a bar.
        **changes: of :class:`modalign.models.codis.Config`, such as a row of :data:`ROWS`.

    >>> run = pretrain(Setting(examples=64, candidates=32, epochs=1, batch_size=32), queue=64)
    >>> set(evaluate(run)) >= {"recall_at_1", "tower_recall_at_1"}
    True
    """
    splits, tokenizer = data(setting)
    batches = Epochs(splits["train"], setting.batch_size, setting.seed)
    sizes = {"image_size": setting.resolution, "ramp": len(batches), "seed": setting.seed}
    config = Config(tokenizer.get_vocab_size(), **{**sizes, **changes})
    model = seeded(lambda: Codis(config), seed=setting.seed)
    model.spread(ready(next(iter(batches(0)))))
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
    steps = len(batches) * setting.epochs
    shape = functools.partial(rate, steps=steps, warm_up=setting.warm_up)
    history = fit(
        model,
        loss,
        batches,
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, shape),
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
def embedded(model: Codis, pairs: Pairs, at_a_time: int = 256) -> tuple[Tensor, ...]:
    """States and vectors of all pictures, then of all captions."""
    device = model.itm_head.weight.device
    pairs = pairs.to(device)
    seen = [model.towers.see(part.float() / 127.5 - 1) for part in pairs.pixels.split(at_a_time)]
    read = [
        model.towers.read(ids, mask)
        for ids, mask in zip(
            pairs.input_ids.split(at_a_time), pairs.attention_mask.split(at_a_time), strict=True
        )
    ]
    return tuple(torch.cat(part) for side in (seen, read) for part in zip(*side, strict=True))


def evaluate(run: Run, split: str = "test") -> dict[str, float]:
    """Retrieval on a split that nobody trained on, by the towers alone and after re-ranking.

    Returns:
        ``recall_at_1`` and so on, the mean of both directions in percent, after re-ranking;
        ``tower_recall_at_1`` and so on, before it; and each direction by itself.
    """
    pairs = run.splits[split]
    image, z_image, text, z_text = embedded(run.model, pairs)
    similarity = z_image @ z_text.T
    mask = pairs.attention_mask.to(similarity.device)
    k = min(run.setting.k, *similarity.shape)
    rows, columns = rerank(run.model, image, text, mask, similarity, k=k)
    found = {}
    for name, by_row, by_column in (("tower_", similarity, similarity), ("", rows, columns)):
        to_text = retrieval(by_row.cpu(), owners=pairs.owners).rows.recall
        to_image = retrieval(by_column.cpu(), owners=pairs.owners).columns.recall
        for k in (1, 5, 10):
            found[f"{name}recall_at_{k}"] = 50 * (to_text[k] + to_image[k])
            found[f"{name}text_recall_at_{k}"] = 100 * to_text[k]
            found[f"{name}image_recall_at_{k}"] = 100 * to_image[k]
    return found


def _measure(task: tuple[str, Setting], *, device: Literal["auto", "cpu"]) -> dict[str, Any]:
    row, setting = task
    started = time.perf_counter()
    run = pretrain(setting, device=device, progress=False, **ROWS[row])
    seconds = time.perf_counter() - started
    scores = evaluate(run)
    return {"row": row, "seed": setting.seed, **scores, "seconds": seconds}


def record(
    dataset: Dataset = "shapes",
    *,
    name: str | None = None,
    seeds: int = 5,
    jobs: int = 1,
    device: Literal["auto", "cpu"] = "cpu",
    folder: str | pathlib.Path | None = None,
    **options: Any,
) -> None:
    """Pretrain every row with every seed, and keep the scores in ``results/codis/{name}``.

    Args:
        dataset: ``"shapes"`` or ``"flickr8k"``.
        name: of the table, in place of the data set's.
        seeds: number of seeds, from 0.
        jobs: processes, of one thread each.
        device: ``"cpu"``, or ``"auto"``.
        folder: results folder; the book's by default.
        **options: of :class:`Setting`, for every row.
    """
    started = time.perf_counter()
    tasks = [
        (row, Setting(dataset=dataset, seed=seed, **options))
        for seed, row in itertools.product(range(seeds), ROWS)
    ]
    rows = records.each(
        functools.partial(_measure, device=device), tasks, jobs=jobs, title=f"codis {dataset}"
    )
    usual = dataclasses.asdict(Setting(dataset=dataset, **options))
    del usual["seed"]
    records.save(
        pd.DataFrame(rows),
        f"codis/{name or dataset}",
        parameters={"seeds": seeds, "rows": ROWS, "setting": usual},
        seconds=time.perf_counter() - started,
        folder=folder,
    )


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """The paired difference of each claim with its 95% interval, and the paper's effect."""
    rows = []
    for claim, (better, worse, published) in CLAIMS.items():
        pair = table[table["row"].isin([better, worse])]
        found = paired_table(pair, by="row", baseline=worse, columns=[MEASURE])
        rows.append({"claim": claim, "contrast": f"{better} minus {worse}", "paper": published})
        rows[-1] |= found.drop(columns=["row", "measure"]).iloc[0].to_dict()
    return pd.DataFrame(rows)
