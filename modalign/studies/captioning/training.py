"""Training a captioner with CKA before its attention, and its measures."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modalign.cka import ModalityAlignment
from modalign.data import shapes
from modalign.metrics import (
    CaptionScores,
    attention_iou,
    caption_scores,
    caption_tokens,
    pointing_game,
)
from modalign.models.beams import Captions
from modalign.models.caption_inputs import Vocabulary
from modalign.models.captioner import Captioner, caption_loss
from modalign.models.encoders import ImageEncoder
from modalign.models.padded import Padded
from modalign.studies._seen import as_seen
from modalign.studies.captioning.pictures import (
    Epochs,
    Named,
    Pictures,
    captions,
    data,
    ready,
    scenes,
)
from modalign.studies.captioning.setting import Setting
from modalign.training import fit, seeded
from modalign.training.checks import Device

AT_A_TIME = 100


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained captioner, its history, and its data."""

    setting: Setting
    model: Captioner
    history: pd.DataFrame
    splits: dict[str, Pictures]
    vocabulary: Vocabulary


def build(setting: Setting, vocabulary: Vocabulary) -> Captioner:
    """An untrained captioner; equal seeds give equal weights, whatever the loss will be."""
    width = setting.width
    return seeded(
        lambda: Captioner(
            len(vocabulary),
            encoder=ImageEncoder(32, width, patch=setting.patch),
            attention_dim=width,
            embed_dim=width,
            decoder_dim=2 * width,
            start=vocabulary.start,
            end=vocabulary.end,
        ),
        setting.seed,
    )


Parts = tuple[dict[str, Tensor], tuple[Tensor, ...]]


def parts(
    model: Captioner,
    batch: Mapping[str, Tensor],
    *,
    pairs: str = "sampled",
) -> Parts:
    """The losses of captions, and the sides that attention compares."""
    places = model.see(ready(batch["pixels"]))
    said = batch["captions"], batch["lengths"]
    losses = caption_loss(*model.teacher_forced(places, *said), *said)
    image, text = model.embeddings(places, *said).values()
    if pairs == "means":
        return losses, (image.values.mean(1), _mean(text))
    return losses, (image.values, text.values, image.mask, text.mask)


def _mean(padded: Padded) -> Tensor:
    here = padded.mask[..., None]
    return (padded.values * here).sum(1) / here.sum(1)


def train(
    setting: Setting,
    *,
    checkpoint: pathlib.Path | None = None,
    device: Device = "cpu",
    progress: bool = False,
) -> Run:
    """Train a captioner as a setting says; BLEU-4 on validation follows every epoch.

    >>> run = train(Setting(examples=64, watched=4, tested=4, epochs=1, weight=0.1))
    >>> sorted(set(run.history) - {"epoch", "step", "learning_rate", "gradient_norm"})
    ['attention', 'bleu_4', 'cka', 'cka_debiased', 'cka_shuffled', 'loss', 'task', 'words']
    """
    splits, vocabulary = data(setting)
    model = build(setting, vocabulary)
    batches = Epochs(splits["train"], setting.batch_size, setting.seed)
    alignment = ModalityAlignment(
        setting.weight,
        warmup_steps=setting.warmup_epochs * len(batches),
        estimator=setting.estimator,
        seed=setting.seed,
    )

    def evaluate(model: Captioner) -> dict[str, float]:
        watched = splits["validation"]
        said = spoken(model, watched.pixels, vocabulary, max_length=setting.max_length)
        return {"bleu_4": caption_scores(said.texts, watched.texts).bleu[3]}

    history = fit(
        model,
        alignment.objective(functools.partial(parts, pairs=setting.pairs)),
        batches,
        optimizer=torch.optim.Adam(model.parameters(), setting.learning_rate),
        epochs=setting.before + setting.epochs,
        clip=5.0,
        evaluate=evaluate,
        stateful=[alignment],
        checkpoint=checkpoint,
        device=device,
        seed=setting.seed,
        progress=progress,
    )
    return Run(setting, model.eval(), history, splits, vocabulary)


class Spoken(NamedTuple):
    """Captions of pictures, and where each of their words looked."""

    texts: list[str]
    found: list[Captions]


def spoken(
    model: Captioner,
    pixels: Tensor,
    vocabulary: Vocabulary,
    *,
    beam: int = 1,
    max_length: int = 24,
) -> Spoken:
    """Captions that the model makes alone, without the true words."""
    device = model.fc.weight.device
    texts, found = [], []
    for part in pixels.split(AT_A_TIME):
        with torch.no_grad():
            places = model.see(ready(part.to(device)))
        said = model.beam_search(places, beam=beam, max_length=max_length)
        texts += vocabulary.decode(said.tokens)
        found.append(said)
    return Spoken(texts, found)


def test_scores(run: Run) -> CaptionScores:
    """Scores of the captions of the test pictures, against five references each."""
    setting, tested = run.setting, run.splits["test"]
    said = spoken(
        run.model, tested.pixels, run.vocabulary, beam=setting.beam, max_length=setting.max_length
    )
    return caption_scores(said.texts, tested.texts)


@torch.no_grad()
def attention_of(run: Run, rows: Tensor) -> list[Tensor]:
    """Where the model looks as it reads the first true caption of test pictures, (steps, places).

    Step i has read the words before word i of the caption, and has to say that one.
    """
    tested, device = run.splits["test"], run.model.fc.weight.device
    maps = []
    for part in rows.split(AT_A_TIME):
        places = run.model.see(ready(tested.pixels[part].to(device)))
        said = tested.tokens[part, 0].to(device), tested.lengths[part, 0].to(device)
        maps += list(run.model.teacher_forced(places, *said).attention.cpu())
    return maps


def attention_scores(run: Run) -> dict[str, float]:
    """Does attention lie on what a word names? On the test scenes of the world.

    The model reads the first true caption of each scene. The map of the step that has to say a word
    of a name, "small", "red" or "star", is compared with the visible part of the things it names.

    Returns:
        ``pointing`` and ``iou``, means over words in percent, and ``pointing_by_chance``, of a map
        that is the same everywhere.
    """
    drawn = scenes(run.setting.seed, "test", run.setting.tested)
    maps = attention_of(run, torch.arange(len(drawn)))
    seen = [_seen(scene, run.setting) for scene in drawn]
    masks = torch.from_numpy(shapes.render_images(seen, run.setting.resolution).masks)
    named = [captions(scene)[1][0] for scene in drawn]
    looked, shown = words_and_masks(maps, masks, named)
    return {
        "pointing": 100 * pointing_game(looked, shown).mean().item(),
        "iou": 100 * attention_iou(looked, shown).mean().item(),
        "pointing_by_chance": 100 * shown.double().mean().item(),
    }


def _seen(scene: shapes.Scene, setting: Setting) -> shapes.Scene:
    """As the encoder's places see it; they are two patches apart."""
    return as_seen(scene, setting.resolution, 2 * setting.patch)


class Reading(NamedTuple):
    """A picture, words of a caption, the attention of each, and masks of the things they name.

    Photographs have no masks, and neither has a caption that the model makes alone.
    """

    picture: np.ndarray
    words: list[str]
    maps: np.ndarray
    masks: np.ndarray | None = None


def reading(run: Run, index: int, *, resolution: int = 128) -> Reading:
    """A test picture and its first caption for :func:`modalign.players.attention`."""
    words = caption_tokens(run.splits["test"].texts[index][0])
    (looked,) = attention_of(run, torch.tensor([index]))
    masks = None
    if run.setting.dataset == "shapes":
        scene, painted = _painted(run, index, resolution)
        masks = np.zeros((len(words), resolution, resolution), bool)
        for each in captions(scene)[1][0]:
            masks[list(each.words)] = painted.masks[0, list(each.objects)].any(0)
    return Reading(_picture(run, index, resolution), words, _grid(looked[: len(words)]), masks)


def saying(run: Run, index: int, *, resolution: int = 128) -> Reading:
    """A test picture with the caption that the model makes alone, and where each word looked."""
    pixels = run.splits["test"].pixels[index : index + 1]
    said = spoken(
        run.model,
        pixels,
        run.vocabulary,
        beam=run.setting.beam,
        max_length=run.setting.max_length,
    ).found[0]
    length = int(said.lengths[0]) - bool(said.finished[0])  # without <end>
    words = [run.vocabulary.words[token] for token in said.tokens[0, :length].tolist()]
    maps = _grid(said.attention[0, :length].cpu())
    return Reading(_picture(run, index, resolution), words, maps)


def _picture(run: Run, index: int, resolution: int) -> np.ndarray:
    """A photograph as the model gets it, or a scene painted anew, finer and as seen."""
    if run.setting.dataset == "shapes":
        return _painted(run, index, resolution)[1].images[0]
    return run.splits["test"].pixels[index].permute(1, 2, 0).numpy()


def _painted(run: Run, index: int, resolution: int) -> tuple[shapes.Scene, Any]:
    scene = scenes(run.setting.seed, "test", index + 1)[index]
    return scene, shapes.render_images([_seen(scene, run.setting)], resolution)


def _grid(maps: Tensor) -> np.ndarray:
    side = math.isqrt(maps.shape[1])
    return maps.unflatten(1, (side, side)).numpy()


def words_and_masks(
    maps: list[Tensor], masks: Tensor, named: list[list[Named]]
) -> tuple[Tensor, Tensor]:
    """Maps of the words that name something seen, (n, h, w), and their masks, (n, r, r)."""
    looked, shown = [], []
    for attention, mask, names in zip(maps, masks, named, strict=True):
        for each in names:
            seen = mask[list(each.objects)].any(0)
            if seen.any():
                looked += [attention[word] for word in each.words]
                shown += [seen] * len(each.words)
    side = math.isqrt(looked[0].numel())
    return torch.stack(looked).unflatten(1, (side, side)), torch.stack(shown)


def measured(run: Run) -> dict[str, Any]:
    """All measures of a trained captioner on test pictures."""
    found: dict[str, Any] = test_scores(run).as_dict()
    if run.setting.dataset == "shapes":
        found |= attention_scores(run)
    return found
