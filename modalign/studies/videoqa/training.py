"""Training TVQA_abc and STAGE with CKA before their attention, and their measures."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from modalign.cka import ModalityAlignment
from modalign.data import shapes
from modalign.metrics import accuracy
from modalign.models.caption_inputs import Vocabulary
from modalign.models.captioner import Captioner, caption_loss
from modalign.models.padded import Padded
from modalign.models.stage import STAGE
from modalign.models.stage_inputs import stage_batch
from modalign.models.stage_losses import STAGEOutput, Truth
from modalign.models.tvqa_abc import TVQA, TVQAOutput
from modalign.models.videoqa_inputs import Words, tvqa_batch
from modalign.studies.videoqa.clips import (
    MOMENTS,
    OBJECTS,
    WIDTH,
    Clip,
    regions,
    row,
    sample_clip,
    vectors,
)
from modalign.studies.videoqa.setting import Setting
from modalign.training import fit, seeded, shuffled
from modalign.training.checks import Device

Model = TVQA | STAGE
AT_A_TIME = 250
SILENCE = "oh well you see"


class Questions(NamedTuple):
    """Clips of a split, the captions that were made of them, and all as tensors by name."""

    clips: list[Clip]
    captions: list[list[str]]
    tensors: dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, its history, and its data."""

    setting: Setting
    model: Model
    history: pd.DataFrame
    splits: dict[str, Questions]
    words: Words


def data(setting: Setting) -> tuple[dict[str, Questions], Words]:
    """The splits of a setting as the inputs of its model, and the words of that to train on."""
    splits, words = _data(
        setting.model,
        "captions" in setting.streams,
        (setting.examples, setting.watched, setting.tested),
        (setting.text_bias, setting.answer_bias),
        setting.captioned,
        setting.seed,
    )
    if not setting.streams:
        splits = {
            name: each._replace(tensors=each.tensors | _silence(setting.model, each, words))
            for name, each in splits.items()
        }
    return splits, words


@functools.lru_cache(maxsize=1)
def _data(
    model: str,
    captioned: bool,
    sizes: tuple[int, int, int],
    biases: tuple[float, float],
    examples: int,
    seed: int,
) -> tuple[dict[str, Questions], Words]:
    clips: dict[str, list[Clip]] = {}
    found: dict[str, Tensor] = {}
    split: shapes.Split
    for split, size in zip(shapes.SPLITS, sizes, strict=True):
        clips[split] = [
            sample_clip(seed, i, split=split, text_bias=biases[0], answer_bias=biases[1])
            for i in range(size)
        ]
        noise = _noise(seed, shapes.SPLITS.index(split), size)
        found[split] = torch.stack(
            [regions(clip, each) for clip, each in zip(clips[split], noise, strict=True)]
        )
    said: dict[str, list[list[str]]] = {split: [[] for _ in clips[split]] for split in clips}
    streams = ["subtitles", "video"]
    if captioned:
        captioner = trained_captioner(clips["train"][:examples], found["train"], seed=seed)
        said = {split: captions_of(captioner, found[split]) for split in clips}
        streams.append("captions")
    rows = {
        split: [row(*each) for each in zip(clips[split], found[split], said[split], strict=True)]
        for split in clips
    }
    words = Words.of(
        text
        for each in rows["train"]
        for text in (each["question"], *each["answers"], *(s["text"] for s in each["subtitles"]))
    )
    tensors = {split: _tensors(model, rows[split], streams, words) for split in rows}
    return {split: Questions(clips[split], said[split], tensors[split]) for split in clips}, words


def _silence(model: str, questions: Questions, words: Words) -> dict[str, Tensor]:
    """Subtitles that are the same everywhere, for a model that is to see nothing else."""
    given = questions.tensors["subtitles"]
    if model == "tvqa":
        line = torch.tensor(words.encode(SILENCE)).expand(len(given), -1)
    else:
        line = vectors(SILENCE).expand(*given.shape[:2], -1, -1)
    mask = torch.ones(line.shape[: line.dim() - (model == "stage")], dtype=torch.bool)
    return {"subtitles": line, "subtitles_mask": mask}


def _noise(seed: int, split: int, size: int) -> Tensor:
    drawn = torch.Generator().manual_seed(3 * seed + split)
    return torch.randn(size, MOMENTS, OBJECTS, WIDTH, generator=drawn)


def _tensors(
    model: str, rows: Sequence[Mapping[str, Any]], streams: Sequence[str], words: Words
) -> dict[str, Tensor]:
    """All questions as one batch, in named tensors; a mask stands beside what has padding."""
    given: dict[str, Any]
    if model == "tvqa":
        given = dict(tvqa_batch(rows, words, streams=streams, localized=False))
        given["target"] = torch.tensor([each["label"] for each in rows])
    else:
        batch = stage_batch(rows, streams=streams)
        assert batch.truth is not None  # the world knows it
        given = batch.inputs | batch.truth._asdict()
        assert batch.labels is not None
        given["labels"] = batch.labels
    tensors: dict[str, Tensor] = {}
    for name, value in given.items():
        if isinstance(value, Padded):
            tensors |= {name: value.values, f"{name}_mask": value.mask}
        else:
            tensors[name] = value
    return tensors


class Written(NamedTuple):
    """A captioner and its words."""

    model: Captioner
    vocabulary: Vocabulary


def true_caption(scene: shapes.Scene) -> str:
    """The two things that are seen, in the order of the world's lists.

    >>> one, other = (shapes.Object("star", colour, 0.1, 0.5, 0.5) for colour in ("white", "red"))
    >>> true_caption(shapes.Scene((one, other)))
    'red star and white star'
    """
    kinds = sorted((shapes.COLOURS.index(o.colour), o.shape) for o in scene.objects)
    return " and ".join(f"{shapes.COLOURS[colour]} {shape}" for colour, shape in kinds)


def trained_captioner(clips: Sequence[Clip], found: Tensor, *, seed: int) -> Written:
    """A small captioner of frames: places are their regions, captions the true ones."""
    truth = [true_caption(scene) for clip in clips for scene in clip.scenes]
    vocabulary = Vocabulary.of(truth)
    tokens, lengths = vocabulary.encode(truth)
    model = seeded(
        lambda: Captioner(
            len(vocabulary),
            encoder_dim=WIDTH,
            attention_dim=WIDTH,
            embed_dim=WIDTH,
            decoder_dim=WIDTH,
            start=vocabulary.start,
            end=vocabulary.end,
        ),
        seed,
    )

    def loss(model: Captioner, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        captions, lengths = batch["captions"], batch["lengths"]
        said = model.teacher_forced(batch["regions"], captions, lengths)
        return caption_loss(*said, captions, lengths)

    frames = found[: len(clips)].flatten(0, 1)
    fit(
        model,
        loss,
        shuffled({"regions": frames, "captions": tokens, "lengths": lengths}, 32, seed=seed),
        optimizer=torch.optim.Adam(model.parameters(), 5e-3),
        epochs=6,
        clip=5.0,
        device="cpu",
        seed=seed,
        progress=False,
    )
    return Written(model.eval(), vocabulary)


def captions_of(captioner: Written, found: Tensor) -> list[list[str]]:
    """Two lines a moment, of the first thing that the caption of its frame names and the rest."""
    model, vocabulary = captioner
    frames = found.flatten(0, 1)
    texts: list[str] = []
    for part in frames.split(4 * AT_A_TIME):
        said = model.beam_search(part, beam=1, max_length=8)
        texts += vocabulary.decode(said.tokens)
    lines = [text.partition(" and ")[::2] for text in texts]
    return [
        [line for two in lines[i : i + MOMENTS] for line in two]
        for i in range(0, len(lines), MOMENTS)
    ]


def captions_right(questions: Questions) -> float:
    """Percent of frames whose generated caption names both things."""
    hits = [
        " and ".join(said[2 * m : 2 * m + 2]) == true_caption(scene)
        for clip, said in zip(questions.clips, questions.captions, strict=True)
        for m, scene in enumerate(clip.scenes)
    ]
    return 100 * sum(hits) / len(hits)


def build(setting: Setting, words: Words) -> Model:
    """An untrained model; equal seeds give equal weights, whatever the loss will be."""
    width = setting.width
    streams = setting.streams or ("subtitles",)  # which are silence then

    def tvqa() -> TVQA:
        return TVQA(
            len(words),
            streams=streams,
            video_dim=WIDTH,
            embedding=width,
            hidden=width // 2,
            matched=width // 2,
        )

    def stage() -> STAGE:
        return STAGE(
            streams=streams,
            text_dim=WIDTH,
            video_dim=WIDTH,
            bridge=width,
            hidden=width,
            margin=0,
            zero_padding=True,
        )

    if setting.model == "tvqa":
        return seeded(tvqa, setting.seed)
    return seeded(stage, setting.seed)


def output(model: Model, batch: Mapping[str, Tensor], truth: Truth | None = None) -> Any:
    """The output of a model for a batch of named tensors, :class:`TVQAOutput` or `STAGEOutput`."""

    def padded(*names: str) -> dict[str, Padded]:
        return {name: Padded(batch[name], batch[f"{name}_mask"]) for name in names}

    if isinstance(model, TVQA):
        return model(**padded("question", "answers", *model.streams))
    return model(**padded("answers", *model.streams), frames=batch["frames"], truth=truth)


def sides(found: TVQAOutput | STAGEOutput, name: str = "video") -> tuple[Tensor, ...]:
    """A stream and the words of question and answers, before any attention compares them."""
    stream, qa = found.embeddings[name], found.embeddings["qa"]
    return stream.values, qa.values, stream.mask, qa.mask


def parts(model: Model, batch: Mapping[str, Tensor]) -> tuple[Any, tuple[Tensor, ...]]:
    """The losses of a batch, sums over its questions, and the two sides that CKA aligns."""
    if isinstance(model, TVQA):
        found = output(model, batch)
        losses: Any = model.loss(found.logits, batch["target"])
    else:
        truth = Truth(batch["target"], batch["start"], batch["end"])
        found = output(model, batch, truth)
        seeing = "video" in model.streams
        losses = model.losses(
            found,
            truth,
            labels=batch["labels"] if seeing else None,
            regions=batch["video_mask"] if seeing else None,
        )
    return losses, sides(found, "video" if "video" in model.streams else model.streams[0])


def train(
    setting: Setting,
    *,
    checkpoint: pathlib.Path | None = None,
    device: Device = "cpu",
    progress: bool = False,
) -> Run:
    """Train a model as a setting says; its accuracy on validation follows every epoch.

    >>> small = {"examples": 64, "watched": 8, "tested": 8, "captioned": 32, "epochs": 1}
    >>> run = train(Setting(**small, weight=0.1))
    >>> sorted(set(run.history) - {"epoch", "step", "learning_rate", "gradient_norm", "validation"})
    ['answer', 'attention', 'cka', 'cka_debiased', 'cka_shuffled', 'loss', 'span', 'task']
    """
    splits, words = data(setting)
    model = build(setting, words)
    batches = shuffled(
        splits["train"].tensors, setting.batch_size, seed=setting.seed, drop_last=True
    )
    alignment = ModalityAlignment(
        # losses are sums over the batch, and so is what stands beside them
        setting.weight * setting.batch_size,
        warmup_steps=setting.warmup_steps,
        seed=setting.seed,
    )
    stage = setting.model == "stage"
    history = fit(
        model,
        alignment.objective(parts),
        batches,
        optimizer=torch.optim.Adam(
            model.parameters(), setting.learning_rate, weight_decay=3e-7 if stage else 1e-5
        ),
        steps=setting.before + setting.epochs * len(batches),
        clip=10.0 if stage else None,
        evaluate=lambda model: {"validation": right(model, splits["validation"])},
        stateful=[alignment],
        checkpoint=checkpoint,
        device=device,
        seed=setting.seed,
        progress=progress,
    )
    return Run(setting, model.eval(), history, splits, words)


@torch.no_grad()
def outputs(model: Model, questions: Questions) -> list[Any]:
    """The outputs of a model for all questions, in batches of 250; set it to ``eval()`` first."""
    device = next(model.parameters()).device
    n = len(questions.clips)
    return [
        output(model, {name: each[i : i + AT_A_TIME].to(device)
                       for name, each in questions.tensors.items()})
        for i in range(0, n, AT_A_TIME)
    ]  # fmt: skip


def right(model: Model, questions: Questions) -> float:
    """Accuracy in percent."""
    logits = torch.cat([each.logits.cpu() for each in outputs(model, questions)])
    return 100 * accuracy(logits, questions.tensors["target"])


def similarities(found: Sequence[Any], *, seed: int = 0) -> dict[str, float]:
    """CKA of each stream with the words of question and answers, over all questions.

    Returns:
        For each stream ``STREAM_cka`` as the paper measures it, ``STREAM_cka_debiased``, and
        ``STREAM_cka_shuffled``, of words of other questions.
    """
    measured: dict[str, float] = {}
    for name in found[0].embeddings:
        if name != "qa":
            each = [torch.cat(part) for part in zip(*(sides(o, name) for o in found), strict=True)]
            with torch.no_grad():
                cka = ModalityAlignment(0.0, seed=seed)(*each)
            measured[f"{name}_cka"] = cka.biased.item()
            measured[f"{name}_cka_debiased"] = cka.debiased.item()
            measured[f"{name}_cka_shuffled"] = cka.shuffled.item()
    return measured


def looked(run: Run, found: Sequence[STAGEOutput]) -> dict[str, float]:
    """Does STAGE find the moment, and look at the object? Percent of test questions.

    Returns:
        ``moment``, whether the likeliest span of the right answer begins there (chance 25), and
        ``region``, whether the word for the colour looks more at the object in question than at
        the other one of its frame (chance 50); the latter if there is video.
    """
    questions = run.splits["test"]
    target = questions.tensors["target"]
    n = torch.arange(len(target))
    spans = torch.cat([each.spans for each in found]).cpu()
    moment = questions.tensors["start"]
    measured = {"moment": 100 * (spans[n, target, 0] == moment).double().mean().item()}
    if "video" in run.setting.streams:
        weights = torch.cat([each.attention["video"] for each in found]).cpu()
        colour = 2  # its place in "what is red when Bear speaks"
        there = weights[n, target, moment, colour]
        place = torch.tensor([clip.place for clip in questions.clips])
        measured["region"] = 100 * (there.argmax(1) == place).double().mean().item()
    return measured


def measured(run: Run) -> dict[str, Any]:
    """All measures of a trained model on test questions.

    Beside :func:`similarities`, after training and (``..._before``) before it, and :func:`looked`:
    ``accuracy``; on the questions that the subtitles answer, ``told``, and on the others,
    ``untold``; and, of generated captions, ``captions_right``.
    """
    questions = run.splits["test"]
    found = outputs(run.model, questions)
    logits = torch.cat([each.logits.cpu() for each in found])
    target = questions.tensors["target"]
    told = torch.tensor([clip.told for clip in questions.clips])
    values: dict[str, Any] = {"accuracy": 100 * accuracy(logits, target)}
    for name, these in (("told", told), ("untold", ~told)):
        values[name] = 100 * accuracy(logits[these], target[these]) if these.any() else None
    values |= similarities(found)
    fresh = build(run.setting, run.words).eval()
    before = similarities(outputs(fresh, questions))
    values |= {f"{name}_before": value for name, value in before.items()}
    if run.setting.model == "stage":
        values |= looked(run, found)
    if "captions" in run.setting.streams:
        values["captions_right"] = captions_right(questions)
    return values
