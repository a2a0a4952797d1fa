"""Three views of the same things: a picture, and two others that are matched with it."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modalign._checks import require_choice
from modalign.data import load, shapes
from modalign.data.shapes.scene import scene_generator
from modalign.data.shapes.text import say
from modalign.models.encoders import (
    AudioEncoder,
    Encoder,
    EncoderOutput,
    ImageEncoder,
    TextEncoder,
)
from modalign.models.inputs import audio_batch, build_tokenizer, image_batch, tokenize
from modalign.studies.choosing.setting import Setting

HUB, OTHERS = "picture", ("sound", "text")
WIDTH = 64
SIDE = 32


@dataclasses.dataclass(frozen=True)
class Examples:
    """Views of n things.

    Attributes:
        inputs: of the encoders, by ``view.input``; row i of all belongs together.
        attributes: (n, c) of zeros and ones, for probes to predict; None for photographs.
        labels: (n,) the digit; None if no two things are the same.
    """

    inputs: dict[str, Tensor]
    attributes: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclasses.dataclass(frozen=True)
class Source:
    """The splits of a data set, and how many words its texts have."""

    splits: Mapping[str, Examples]
    vocabulary: int


class Listener(AudioEncoder):
    """The encoder of sounds, which takes spectrograms that were computed once."""

    main_input_name = "input_features"

    def forward(self, input_features: Tensor) -> EncoderOutput:  # type: ignore[override]
        hidden = input_features
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = functional.relu(norm(layer(hidden).mT)).mT
        hidden = self.head(hidden.mT)
        return EncoderOutput(hidden, hidden.mean(1))


def encoders(setting: Setting, vocabulary: int) -> dict[str, Encoder]:
    """An encoder a view; photographs have a second caption in the place of a sound."""
    digits = setting.dataset == "digits"
    text = functools.partial(TextEncoder, vocabulary, WIDTH)
    grey = {"in_channels": 1, "patch": 1} if digits else {}
    return {
        "picture": ImageEncoder(16, WIDTH, **grey),
        "sound": text()
        if setting.without_sound
        else Listener(WIDTH, WIDTH, sample_rate=_rate(setting)),
        "text": text(),
    }


def source(setting: Setting) -> Source:
    """The training, validation and test examples of a setting."""
    seed = setting.seed if setting.dataset == "shapes" else 0
    made = _source(setting.dataset, setting.examples, setting.candidates, seed)
    return Source(
        {
            split: _weakened(
                _misaligned(each, setting) if split == "train" else each, setting, number
            )
            for number, (split, each) in enumerate(made.splits.items())
        },
        made.vocabulary,
    )


def _misaligned(given: Examples, setting: Setting) -> Examples:
    """The first share of the texts move on by one within these."""
    wrong = round(setting.misaligned * len(given))
    if wrong < 2:
        return given
    moved = {
        name: torch.cat([value[:wrong].roll(1, 0), value[wrong:]]) if "text" in name else value
        for name, value in given.inputs.items()
    }
    return dataclasses.replace(given, inputs=moved)


def _weakened(given: Examples, setting: Setting, number: int) -> Examples:
    if not setting.weak:
        return given
    generator = torch.Generator().manual_seed(3 * setting.seed + number)
    sound = given.inputs["sound.input_features"]
    noise = setting.weak * sound.std() * torch.randn(sound.shape, generator=generator)
    return dataclasses.replace(
        given, inputs={**given.inputs, "sound.input_features": sound + noise}
    )


@functools.lru_cache(maxsize=2)
def _source(dataset: str, examples: int, candidates: int, seed: int) -> Source:
    if dataset == "shapes":
        return _world(examples, candidates, seed)
    if dataset == "digits":
        return _digits(examples, candidates)
    return _photos("flickr8k" if dataset == "photographs" else dataset, examples, candidates)


def _rate(setting: Setting) -> int:
    return 8_000 if setting.dataset == "digits" else 16_000


FIRST = {"train": 0, "validation": 10**6, "test": 2 * 10**6}


def _world(examples: int, candidates: int, seed: int) -> Source:
    """Scenes of two objects; the sentence says everything but their places."""
    texts, parts = {}, {}
    for split, first in FIRST.items():
        drawn = [
            shapes.sample_scene(seed, first + i, min_objects=2, max_objects=2)
            for i in range(examples if split == "train" else candidates)
        ]
        texts[split] = [_told(scene) for scene in drawn]
        parts[split] = (_pictures(drawn), _heard(drawn), _attributes(drawn))
    tokenizer = build_tokenizer(texts["train"])
    return Source(
        {
            split: Examples(
                {
                    "picture.pixel_values": pictures,
                    "sound.input_features": heard,
                    **_words("text", tokenize(tokenizer, texts[split])),
                },
                attributes,
            )
            for split, (pictures, heard, attributes) in parts.items()
        },
        tokenizer.get_vocab_size(),
    )


def _told(scene: shapes.Scene) -> str:
    whole = shapes.Every(tuple(dict.fromkeys(shapes.Description.of(o) for o in scene.objects)))
    return say(whole, scene_generator(scene, "choosing"))


def _pictures(drawn: list[shapes.Scene]) -> Tensor:
    images = shapes.render_images(drawn, SIDE).images
    # channels first: torch 2.13 crashes in the backward pass of a group norm over a frozen
    # convolution of pictures whose channels are last in memory
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous() / 255


def _heard(drawn: list[shapes.Scene]) -> Tensor:
    parts = [
        _spectrograms(torch.from_numpy(np.stack([*map(shapes.render_audio, part)])), 16_000)
        for part in (drawn[i : i + 250] for i in range(0, len(drawn), 250))
    ]
    return torch.cat(parts)


def _spectrograms(waves: Tensor, rate: int) -> Tensor:
    with torch.no_grad():
        return AudioEncoder(sample_rate=rate).spectrogram(waves)


def _attributes(drawn: list[shapes.Scene]) -> Tensor:
    """Which shapes and colours there are."""
    there = [{o.shape for o in s.objects} | {o.colour for o in s.objects} for s in drawn]
    names = (*shapes.SHAPES, *shapes.COLOURS)
    return torch.tensor([[name in each for name in names] for each in there]).float()


def _words(view: str, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{view}.{name}": value for name, value in tokens.items()}


def _digits(examples: int, candidates: int) -> Source:
    """Spoken digits: the last training recordings validate."""
    rows = {split: load("spoken-digits", split) for split in ("train", "test")}
    train, n = rows["train"], min(examples, len(rows["train"]) - candidates)
    order = np.random.default_rng(0).permutation(len(train))
    parts = {
        "train": train.select(order[:n]),
        "validation": train.select(order[-candidates:]),
        "test": rows["test"].select(range(min(candidates, len(rows["test"])))),
    }
    tokenizer = build_tokenizer(parts["train"]["text"])
    waves = {split: audio_batch(part["audio"])["input_values"] for split, part in parts.items()}
    # of one length in all splits, as their spectrograms have no mask
    length = max(each.shape[1] for each in waves.values())
    splits = {}
    for split, part in parts.items():
        labels = torch.tensor(part["label"])
        splits[split] = Examples(
            {
                "picture.pixel_values": image_batch(part["image"])["pixel_values"],
                "sound.input_features": _spectrograms(
                    functional.pad(waves[split], (0, length - waves[split].shape[1])), 8_000
                ),
                **_words("text", tokenize(tokenizer, part["text"])),
            },
            functional.one_hot(labels, 10).float(),
            labels,
        )
    return Source(splits, tokenizer.get_vocab_size())


def _photos(name: str, examples: int, candidates: int) -> Source:
    """Photographs of 32 pixels; the first two captions of each."""
    sizes = {"train": examples, "validation": candidates, "test": candidates}
    rows = {split: load(name, split) for split in sizes}
    for column in ("image", "captions"):
        require_choice(column, tuple(rows["train"].column_names), f"dataset: {name}: column")
    rows = {split: each.select(range(min(sizes[split], len(each)))) for split, each in rows.items()}
    for split, each in rows.items():
        if (fewest := min(map(len, each["captions"]), default=0)) < 2:
            raise ValueError(
                f"dataset: {name}: expected two captions or more of every picture, got {fewest} "
                f"in {split}"
            )
    tokenizer = build_tokenizer(
        (text for captions in rows["train"]["captions"] for text in captions[:2]), min_count=3
    )
    splits = {}
    for split, part in rows.items():
        pictures = [each.convert("RGB").resize((SIDE, SIDE)) for each in part["image"]]
        inputs = image_batch(pictures)
        splits[split] = Examples(
            {
                "picture.pixel_values": inputs["pixel_values"],
                **{
                    name: value
                    for view, i in (("sound", 0), ("text", 1))
                    for name, value in _words(
                        view,
                        tokenize(tokenizer, [c[i] for c in part["captions"]], max_length=20),
                    ).items()
                },
            }
        )
    return Source(splits, tokenizer.get_vocab_size())
