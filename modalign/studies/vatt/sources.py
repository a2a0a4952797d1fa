"""Where triplets come from: the shapes world, spoken digits, or a folder of clips with sound."""

import dataclasses
import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from modalign._checks import require_choice
from modalign.data import load, shapes
from modalign.data.audio import waveform
from modalign.data.shapes.scene import scene_generator
from modalign.data.shapes.text import say
from modalign.models.inputs import build_tokenizer, tokenize
from modalign.studies.vatt.triplets import Triplets

Dataset = Literal["shapes", "digits", "folder"]

SPLITS: dict[str, tuple[shapes.Split, int]] = {
    "train": ("train", 0),
    "probe": ("train", 10**6),
    "labelled": ("train", 2 * 10**6),
    "validation": ("validation", 0),
    "test": ("test", 0),
}
"""Of each split of the study: the split of the world, and its first index. "probe" and
"labelled" are drawn as the training set is, and never pretrained on."""

FRAMES, SIDE, RATE, SAMPLES, WORDS, CANDIDATES = 8, 32, 8000, 4096, 16, 2


@dataclasses.dataclass(frozen=True)
class Source:
    """Aligned clips of one split, what each shows, and the names of their classes."""

    clips: Triplets
    same: Sequence[Any]
    classes: Sequence[str]


def clips_of(
    dataset: Dataset,
    split: str,
    n: int,
    *,
    seed: int = 0,
    folder: str | pathlib.Path | None = None,
) -> tuple[Source, Any]:
    """Aligned clips of a data set, and its tokenizer.

    Args:
        dataset: ``"shapes"``; ``"digits"``, a scan that stands still, with a recording and the word
            of its digit; or ``"folder"``.
        split: one of :data:`SPLITS`.
        n: number of clips.
        seed: of the scenes, or of the order.
        folder: with ``"folder"``: videos with a sound track, and a ``metadata.csv`` with the
            columns ``file_name``, ``text`` and ``label``, in folders ``train`` and ``test``, as
            ``modalign.data.load("hub:FOLDER")`` reads them.

    Raises:
        ValueError: for another data set or split, more clips than there are, a folder that is not
            asked for or not given, or a clip without pictures, sound or text.
        FileNotFoundError: if the files of a data set are not on this machine.

    >>> source, tokenizer = clips_of("shapes", "test", 3)
    >>> source.clips.video.shape, source.clips.input_ids.shape[:2]
    (torch.Size([3, 8, 3, 32, 32]), torch.Size([3, 2]))
    """
    require_choice(dataset, get_args(Dataset), "dataset")
    require_choice(split, tuple(SPLITS), "split")
    if (dataset == "folder") != (folder is not None):
        raise ValueError(f"folder: expected with 'folder' and only then, got {folder!r}")
    if n < 1:
        raise ValueError(f"n: expected a clip at least, got {n}")
    if dataset == "shapes":
        return _shapes(split, n, seed), _shapes_tokenizer()
    name = "spoken-digits" if dataset == "digits" else f"hub:{folder}"
    rows, classes, tokenizer = _table(name)
    chosen = _chosen(name, split, n, seed)
    part = rows.select(chosen)
    if dataset == "digits":
        frames = np.stack([_still(each) for each in part["image"]])
        sounds = np.stack([_cut(waveform(cell, rate=RATE)[0].numpy()) for cell in part["audio"]])
    else:
        decoded = [decode(cell) for cell in part["video"]]
        frames, sounds = (np.stack(each) for each in zip(*decoded, strict=True))
    label = [int(each) for each in part["label"]]
    same = label if dataset == "digits" else list(part["text"])
    said = [[text] for text in part["text"]]
    clips = _assembled(frames, sounds, said, torch.tensor(label), tokenizer)
    return Source(clips, same, classes), tokenizer


# the shapes world ---------------------------------------------------------------------------------


def texts(scene: shapes.Scene, number: int) -> list[str]:
    """Say of one object what it is and how it moves, worded ``number`` times."""
    rng = scene_generator(scene, "vatt")
    found = []
    for k in range(number):
        o = scene.objects[k % len(scene.objects)]
        found.append(say(shapes.Moves(shapes.Description.of(o), o.motion), rng))
    return found


def scenes(split: str, n: int, seed: int, objects: int = 1) -> list[shapes.Scene]:
    """Scenes of one moving object."""
    part, first = SPLITS[split]
    return [
        shapes.sample_scene(seed, first + i, split=part, min_objects=objects, max_objects=objects)
        for i in range(n)
    ]


@functools.lru_cache(maxsize=1)
def _shapes_tokenizer() -> Any:
    drawn = [shapes.sample_scene(0, i) for i in range(2000)]
    return build_tokenizer([text for scene in drawn for text in texts(scene, 5)])


@functools.lru_cache(maxsize=8)
def _shapes(split: str, n: int, seed: int) -> Source:
    drawn = scenes(split, n, seed)
    frames = np.stack([shapes.render_video(scene, FRAMES, SIDE).images for scene in drawn])
    sounds = [shapes.render_audio(each, RATE, seconds=SAMPLES / RATE) for each in drawn]
    said = [texts(scene, CANDIDATES) for scene in drawn]
    objects = [scene.objects[0] for scene in drawn]
    same = [(o.shape, o.colour, o.size, o.motion) for o in objects]
    classes = [f"{colour} {motion}" for colour in shapes.COLOURS for motion in shapes.MOTIONS]
    label = torch.tensor([classes.index(f"{o.colour} {o.motion}") for o in objects])
    clips = _assembled(frames, np.stack(sounds), said, label, _shapes_tokenizer())
    return Source(clips, same, classes)


def _assembled(
    frames: np.ndarray, sounds: np.ndarray, said: list[list[str]], label: Tensor, tokenizer: Any
) -> Triplets:
    n, k = len(frames), len(said[0])
    tokens = tokenize(tokenizer, [text for each in said for text in each], max_length=WORDS)
    audio = torch.from_numpy(sounds)
    return Triplets(
        torch.from_numpy(frames).permute(0, 1, 4, 2, 3).contiguous(),
        audio / audio.square().mean().sqrt().clamp_min(1e-6),
        tokens["input_ids"].unflatten(0, (n, k)),
        tokens["attention_mask"].unflatten(0, (n, k)),
        label,
        torch.zeros(n, dtype=torch.long),
        torch.arange(n)[:, None].expand(-1, 2),
    )


# spoken digits, and folders -----------------------------------------------------------------------

PARTS = {
    "labelled": (0.0, 0.15),
    "validation": (0.15, 0.3),
    "probe": (0.3, 0.55),
    "train": (0.55, 1),
}
"""The shares of a data set's training rows, shuffled, that become each split of the study."""


@functools.lru_cache(maxsize=1)
def _table(name: str) -> tuple[Any, list[str], Any]:
    """The rows of a data set, the names of its classes, and a tokenizer of its training texts."""
    rows = load(name)
    for column in ("text", "label", "split"):
        if column not in rows.column_names:
            raise ValueError(f"{name}: expected a column {column!r}, got {rows.column_names}")
    if "video" not in rows.column_names and "image" not in rows.column_names:
        raise ValueError(f"{name}: expected videos, got columns {rows.column_names}")
    feature = rows.features["label"]
    names = list(getattr(feature, "names", None) or map(str, range(max(rows["label"]) + 1)))
    words = [text for text, of in zip(rows["text"], rows["split"], strict=True) if of == "train"]
    return rows, names, build_tokenizer(words)


def _chosen(name: str, split: str, n: int, seed: int) -> list[int]:
    """The places of n rows of a split, the same ones first for every n."""
    of = _table(name)[0]["split"]
    here = [i for i, each in enumerate(of) if each == ("test" if split == "test" else "train")]
    order = np.random.default_rng([seed, 10]).permutation(len(here))
    low, high = PARTS.get(split, (0, 1))
    order = order[round(low * len(here)) : round(high * len(here))]
    if n > len(order):
        raise ValueError(f"{split}: {name} has {len(order)} clips for it, got {n}")
    return [here[i] for i in order[:n]]


def _still(picture: Any) -> np.ndarray:
    """A clip in which a picture stands still."""
    shown = np.asarray(picture.convert("RGB").resize((SIDE, SIDE)))
    return np.broadcast_to(shown, (FRAMES, *shown.shape)).copy()


def _cut(sound: np.ndarray) -> np.ndarray:
    """The middle of a sound, or all of it with silence behind."""
    start = max(0, (len(sound) - SAMPLES) // 2)
    sound = sound[start : start + SAMPLES]
    return np.pad(sound, (0, SAMPLES - len(sound))).astype(np.float32)


def decode(cell: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and sound of a video file: evenly spread frames, and the middle of its sound.

    Args:
        cell: of a video column, ``{"path": ..., "bytes": ...}``, one of them None.

    Returns:
        (t, side, side, 3), uint8, and (s,), float32, in the sizes of the chapter.

    Raises:
        ValueError: for a file without pictures or without sound, or that cannot be decoded.
    """
    import av

    name = cell["path"] or "video"
    source = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
    try:
        with av.open(source, "r") as container:
            if not container.streams.video or not container.streams.audio:
                raise ValueError(f"{name}: expected a video with a sound track")
            shown = [
                frame.to_ndarray(format="rgb24", width=SIDE, height=SIDE)
                for frame in container.decode(video=0)
            ]
            container.seek(0)
            resample = av.AudioResampler(format="flt", layout="mono", rate=RATE)
            heard = [
                part.to_ndarray()[0]
                for frame in container.decode(audio=0)
                for part in resample.resample(frame)
            ]
    except av.FFmpegError as error:
        raise ValueError(f"{name}: truncated or not a video: {error}") from error
    if not shown or not heard:
        raise ValueError(f"{name}: expected frames and samples, got {len(shown)} and {len(heard)}")
    places = np.linspace(0, len(shown) - 1, FRAMES).round().astype(int)
    return np.stack([shown[i] for i in places]), _cut(np.concatenate(heard))
