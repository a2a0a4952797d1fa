"""Pictures with five captions each: of the world, and of Flickr8k."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from modalign.data import load, shapes
from modalign.data.shapes.claims import ATTRIBUTES
from modalign.data.shapes.scene import scene_generator
from modalign.data.shapes.text import listed, name
from modalign.metrics import caption_tokens
from modalign.models.caption_inputs import Vocabulary
from modalign.studies.captioning.setting import Setting

CAPTIONS = 5


class Named(NamedTuple):
    """The words of a caption that name something: where they stand, and which objects are meant."""

    words: tuple[int, ...]
    objects: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures with five captions each, as texts and as tokens.

    Attributes:
        pixels: (n, 3, r, r), uint8.
        texts: n lists of five.
        tokens: (n, 5, t), marks included.
        lengths: (n, 5).
    """

    pixels: Tensor
    texts: list[list[str]]
    tokens: Tensor
    lengths: Tensor


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Shuffled batches, with one of its captions drawn for each picture anew every epoch."""

    pictures: Pictures
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return len(self.pictures.pixels) // self.batch_size

    def __call__(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        n = len(self.pictures.pixels)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        chosen = torch.randint(CAPTIONS, (n,), generator=generator)
        for rows in torch.randperm(n, generator=generator).split(self.batch_size)[: len(self)]:
            lengths = self.pictures.lengths[rows, chosen[rows]]
            yield {
                "pixels": self.pictures.pixels[rows],
                "captions": self.pictures.tokens[rows, chosen[rows]][:, : int(lengths.max())],
                "lengths": lengths,
            }


def described(scene: shapes.Scene) -> list[shapes.Description]:
    """The kinds of things in a scene, each once, in the order of the lists of the world's colours.

    Not from left to right: places of a picture carry no position that a captioner could read.
    """
    found = dict.fromkeys(shapes.Description.of(o) for o in scene.objects)
    lists = {name: values.index for name, values in ATTRIBUTES.items()}
    order = ("colour", "shape", "size")
    return sorted(found, key=lambda what: [lists[name](what.known[name]) for name in order])


def captions(scene: shapes.Scene) -> tuple[list[str], list[list[Named]]]:
    """Name what there is, in five wordings; and which words name what.

    >>> texts, named = captions(scenes(0, "train", 1)[0])
    >>> texts[0]
    'a little blue cross, a little yellow cross and a large white diamond'
    >>> named[0][1]
    Named(words=(5, 6, 7), objects=(1,))
    """
    rng = scene_generator(scene, "captioning")
    texts, places = [], []
    for _ in range(CAPTIONS):
        parts = ["a " + name(each, rng) for each in described(scene)]
        texts.append(listed(parts))
        places.append(_named(scene, parts))
    return texts, places


def _named(scene: shapes.Scene, parts: Sequence[str]) -> list[Named]:
    found, start = [], 0
    for k, (what, part) in enumerate(zip(described(scene), parts, strict=True)):
        start += 0 < k == len(parts) - 1  # "and"
        end = start + len(caption_tokens(part))
        objects = [i for i, o in enumerate(scene.objects) if shapes.Description.of(o) == what]
        found.append(Named(tuple(range(start + 1, end)), tuple(objects)))  # without "a"
        start = end
    return found


def scenes(seed: int, split: shapes.Split, length: int) -> list[shapes.Scene]:
    """Scenes of two or three objects."""
    return [
        shapes.sample_scene(seed, i, split=split, min_objects=2, max_objects=3)
        for i in range(length)
    ]


def photographs(dataset: str, split: str, size: int) -> Dataset:
    """The first photographs of a split.

    Raises:
        ValueError: for fewer, or without five captions each.
    """
    rows = load(dataset, split, verify=False)
    if missing := {"image", "captions"} - set(rows.column_names):
        raise ValueError(f"dataset: {dataset!r} has no column {', '.join(sorted(missing))}")
    if size > len(rows):
        raise ValueError(f"dataset: {split} of {dataset} has {len(rows)} photographs, not {size}")
    rows = rows.select(range(size))
    if fewer := [i for i, each in enumerate(rows["captions"]) if len(each) < CAPTIONS]:
        raise ValueError(f"dataset: expected {CAPTIONS} captions a photograph, row {fewer[0]}")
    return rows


def data(setting: Setting) -> tuple[dict[str, Pictures], Vocabulary]:
    """The splits of a setting, and the words of those to train on."""
    seed = setting.seed if setting.dataset == "shapes" else 0  # photographs do not depend on it
    sizes = (setting.examples, setting.watched, setting.tested)
    return _data(setting.dataset, sizes, setting.resolution, setting.min_count, seed)


@functools.lru_cache(maxsize=1)
def _data(
    dataset: str, sizes: tuple[int, int, int], side: int, min_count: int, seed: int
) -> tuple[dict[str, Pictures], Vocabulary]:
    pixels: dict[str, Tensor] = {}
    texts: dict[str, list[list[str]]] = {}
    split: shapes.Split
    for split, size in zip(shapes.SPLITS, sizes, strict=True):
        if dataset == "shapes":
            drawn = scenes(seed, split, size)
            found = shapes.render_images(drawn, side).images
            texts[split] = [captions(each)[0] for each in drawn]
        else:
            rows = photographs(dataset, split, size)
            found = np.stack([np.asarray(each.convert("RGB").resize((side, side)))
                              for each in rows["image"]])  # fmt: skip
            texts[split] = [each[:CAPTIONS] for each in rows["captions"]]
        pixels[split] = torch.from_numpy(found).permute(0, 3, 1, 2).contiguous()
    vocabulary = Vocabulary.of(
        (text for each in texts["train"] for text in each), min_count=min_count
    )
    splits: dict[str, Pictures] = {}
    for part, each in texts.items():
        tokens, lengths = vocabulary.encode([text for several in each for text in several])
        splits[part] = Pictures(
            pixels[part],
            each,
            tokens.unflatten(0, (len(each), CAPTIONS)),
            lengths.unflatten(0, (len(each), CAPTIONS)),
        )
    return splits, vocabulary


def ready(pixels: Tensor) -> Tensor:
    """Pictures as numbers from -1 to 1."""
    return pixels.float() / 127.5 - 1
