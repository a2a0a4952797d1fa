"""Pictures with captions: of the world, and of Flickr8k."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from modalign.data import load, shapes
from modalign.data.shapes.scene import scene_generator
from modalign.data.shapes.text import say
from modalign.models.codis_encoders import SPECIAL_TOKENS, with_cls
from modalign.models.inputs import build_tokenizer, tokenize
from modalign.studies.codis.setting import Setting
from modalign.studies.codis.words import words_of_tasks


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


SCENES: dict[str, tuple[shapes.Split, int]] = {
    "train": ("train", 0),
    "validation": ("train", 10**6),
    "test": ("train", 2 * 10**6),
    "unseen": ("test", 0),
    "unseen train": ("test", 10**6),
    "unseen validation": ("test", 2 * 10**6),
}
"""Of each split of the study: the split of the world, and its first index.

Shape and colour combine in train, validation and test in the same ways, and in each scene of
"unseen" at least once in a way that pretraining never saw: the domain of zero-shot retrieval.
"""


def scenes(seed: int, split: str, length: int) -> list[shapes.Scene]:
    """Scenes of two or three objects, so that few look alike."""
    part, first = SCENES[split]
    return [
        shapes.sample_scene(
            seed, first + i, split=part, compositional=True, min_objects=2, max_objects=3
        )
        for i in range(length)
    ]


def data(setting: Setting) -> tuple[dict[str, Pairs], Any]:
    """The splits of a setting, and their tokenizer, which knows the words of the tasks too."""
    seed = setting.seed if setting.dataset == "shapes" else 0  # photographs do not depend on it
    return _data(
        setting.dataset,
        setting.examples,
        setting.candidates,
        setting.caption_length,
        setting.resolution,
        seed,
    )


@functools.lru_cache(maxsize=2)
def _data(
    dataset: str, examples: int, candidates: int, length: int, side: int, seed: int
) -> tuple[dict[str, Pairs], Any]:
    pixels, texts = {}, {}
    if dataset == "shapes":
        for split in SCENES:
            learnt = split.endswith("train")
            drawn = scenes(seed, split, examples if learnt else candidates)
            pixels[split] = painted(drawn, side)
            texts[split] = [captions(each, 5 if learnt else 1) for each in drawn]
        words = [text for each in texts["train"] for text in each] + words_of_tasks()
    else:
        for split, size in (("train", examples), ("validation", candidates), ("test", candidates)):
            rows = described(dataset, split, size)
            pixels[split] = shrunk(rows["image"], side)
            texts[split] = rows["captions"]
        words = [text for each in texts["train"] for text in each]
    least = 1 if dataset == "shapes" else 3
    tokenizer = build_tokenizer(words, min_count=least, special_tokens=SPECIAL_TOKENS)
    splits = {}
    for split, each in texts.items():
        flat = with_cls([text for several in each for text in several])
        tokens = tokenize(tokenizer, flat, max_length=length)
        owners = [i for i, several in enumerate(each) for _ in several]
        splits[split] = Pairs(pixels[split], **tokens, owners=torch.tensor(owners))
    return splits, tokenizer


def described(dataset: str, split: str, size: int) -> Dataset:
    """The first pictures of a split, each with a list of captions.

    Raises:
        ValueError: for columns that are not there, or fewer pictures.
    """
    rows = load(dataset, split)
    if "captions" not in rows.column_names and "text" in rows.column_names:
        rows = rows.add_column("captions", [[text] for text in rows["text"]])
    if missing := {"image", "captions"} - set(rows.column_names):
        raise ValueError(
            f"dataset: expected columns image, and captions or text, got {dataset!r} without "
            f"{', '.join(sorted(missing))}: it has {', '.join(rows.column_names)}"
        )
    if size > len(rows):
        raise ValueError(
            f"examples, candidates: expected {len(rows)} pictures or fewer, which the split "
            f"{split} of {dataset} has, got {size}"
        )
    return rows.select(range(size))


def painted(drawn: Sequence[shapes.Scene], side: int) -> Tensor:
    """Pictures of scenes, (n, 3, side, side), uint8."""
    images = shapes.render_images(drawn, side).images
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def shrunk(pictures: Sequence[Any], side: int) -> Tensor:
    """Photographs made as small, (n, 3, side, side), uint8."""
    found = [np.asarray(each.convert("RGB").resize((side, side))) for each in pictures]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def ready(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with its pictures as numbers from -1 to 1."""
    return {**batch, "pixel_values": batch["pixel_values"].float() / 127.5 - 1}
