"""Clips of the world with subtitles and a question, in the form of TVQA+ with its features."""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modalign.data import shapes
from modalign.data.shapes.questions import ANSWERS, NAMES
from modalign.data.shapes.scene import generator
from modalign.models.stage_inputs import EVERY, SIZE
from modalign.models.videoqa_inputs import FPS

MOMENTS = 4  # of a clip, each of one frame that is looked at, two seconds from the next
OBJECTS = 2  # of a frame
SHOWN = 2  # moments that show the colour in question
SECONDS = EVERY / FPS
WIDTH = 32  # of a word's features, and of a region's
NOISE = 0.5  # of a region's features, beside 1 for what they say of its colour and shape
FILLERS = ("oh well", "you see", "never mind", "too bad")
SURE = "clearly"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of four moments, and one question about it.

    Attributes:
        scenes: what is seen in each moment: two objects of different colours.
        speakers: who speaks in each.
        lines: what is said in each, beside "Bear speaks".
        moment: the one that the question is about.
        question: such as "what is red when Bear speaks".
        answers: five shapes, of which one may say "clearly".
        label: the right one.
        told: whether the line of the moment says it.
    """

    scenes: tuple[shapes.Scene, ...]
    speakers: tuple[str, ...]
    lines: tuple[str, ...]
    moment: int
    question: str
    answers: tuple[str, ...]
    label: int
    told: bool

    @property
    def place(self) -> int:
        """Which object of its moment the question is about."""
        colour = self.question.split()[2]
        return [o.colour for o in self.scenes[self.moment].objects].index(colour)


def sample_clip(
    seed: int,
    index: int,
    *,
    split: shapes.Split = "train",
    text_bias: float = 0.5,
    answer_bias: float = 0.2,
) -> Clip:
    """Draw a clip with its question; the same for the same seed, index and split.

    Two moments show something of the colour in question, in two shapes that are both answers. So
    a model that sees the clip alone has two answers left, and one that also knows the moment has
    one.

    Args:
        seed, index, split: of the draw.
        text_bias: the chance that the line of a moment says what one of its objects is. In the
            moment in question that is the answer; elsewhere it is of another colour.
        answer_bias: the chance that the right answer says "clearly". Wrong ones never do.

    >>> clip = sample_clip(0, 0)
    >>> clip.question, clip.answers[clip.label], clip.lines[clip.moment]
    ('what is red when Fox speaks', 'clearly circle', 'red circle')
    """
    for name, value in (("text_bias", text_bias), ("answer_bias", answer_bias)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a probability, got {value}")
    rng = generator(seed, index, split, "videoqa")
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[:MOMENTS]]
    colour, *others = (shapes.COLOURS[i] for i in rng.permutation(len(shapes.COLOURS)))
    offered = [shapes.SHAPES[i] for i in rng.permutation(len(shapes.SHAPES))[:ANSWERS]]
    order = rng.permutation(MOMENTS).tolist()
    moment, shown = order[0], dict(zip(order[:SHOWN], offered, strict=False))
    told = (rng.random(MOMENTS) < text_bias).tolist()
    scenes, lines = [], []
    for m in range(MOMENTS):
        picked = rng.permutation(len(others))[:OBJECTS]
        forms = rng.integers(len(shapes.SHAPES), size=OBJECTS)
        seen = [(others[c], shapes.SHAPES[s]) for c, s in zip(picked, forms, strict=True)]
        asked = int(rng.integers(OBJECTS))
        if m in shown:
            seen[asked] = (colour, shown[m])
        # nobody speaks of the colour in question in another moment
        spoken = seen[asked if m == moment else 1 - asked]
        filler = FILLERS[int(rng.integers(len(FILLERS)))]
        scenes.append(_scene(seed, MOMENTS * index + m, split, seen))
        lines.append(" ".join(spoken) if told[m] else filler)
    places = rng.permutation(ANSWERS).tolist()
    answers, label = [offered[place] for place in places], places.index(0)
    if rng.random() < answer_bias:
        answers[label] = f"{SURE} {answers[label]}"
    question = f"what is {colour} when {names[moment]} speaks"
    return Clip(tuple(scenes), tuple(names), tuple(lines), moment, question, tuple(answers), label,
                told[moment])  # fmt: skip


def _scene(
    seed: int, index: int, split: shapes.Split, seen: Sequence[tuple[str, str]]
) -> shapes.Scene:
    """A scene of the world whose objects have given colours and shapes."""
    n = len(seen)
    scene = shapes.sample_scene(seed, index, split=split, min_objects=n, max_objects=n)
    objects = (
        dataclasses.replace(o, colour=colour, shape=shape)
        for o, (colour, shape) in zip(scene.objects, seen, strict=True)
    )
    return dataclasses.replace(scene, objects=tuple(objects))


def expected(text_bias: float, answer_bias: float) -> dict[str, float]:
    """The best possible scores, in percent, from each part of the input.

    Returns:
        ``chance``; ``answers`` and question alone; with ``subtitles``; with ``video``; with both,
        but with their scores added (``apart``, as in TVQA_abc), which loses the moment at which
        something is seen; and ``together``.

    >>> {name: round(value) for name, value in expected(0.5, 0.2).items()}
    {'chance': 20, 'answers': 36, 'subtitles': 68, 'video': 60, 'apart': 80, 'together': 100}
    """

    def right(known: float, left: int) -> float:
        """Known, or else one of the answers that are left."""
        sure = answer_bias + (1 - answer_bias) * known
        return 100 * (sure + (1 - sure) / left)

    return {
        "chance": 100 / ANSWERS,
        "answers": right(0, ANSWERS),
        "subtitles": right(text_bias, ANSWERS),
        "video": right(0, SHOWN),
        "apart": right(text_bias, SHOWN),
        "together": 100.0,
    }


@functools.cache
def vector(word: str) -> Tensor:
    """The features of a word, (32,): fixed, and of different words as good as unrelated."""
    drawn = torch.Generator().manual_seed(zlib.crc32(word.lower().encode()))
    return torch.randn(WIDTH, generator=drawn)


def vectors(*texts: str) -> Tensor:
    """The features of the words of texts, one after another."""
    return torch.stack([vector(word) for text in texts for word in text.split()])


def regions(clip: Clip, noise: Tensor) -> Tensor:
    """The features of the objects, (4, 2, 32), as a detector trained on colours and shapes has.

    They say what there is, each time a little differently, in a space of their own: nothing in
    them is like the features of a word.
    """
    seen = [
        vector(f"seen {o.colour}") + vector(f"seen {o.shape}")
        for scene in clip.scenes
        for o in scene.objects
    ]
    return torch.stack(seen).unflatten(0, (MOMENTS, OBJECTS)) + NOISE * noise


def box(o: shapes.Object) -> dict[str, float]:
    """Where an object is in a frame of TVQA's size, in pixels."""
    width, height = SIZE
    across, down = o.radius * width, o.radius * height
    return {
        "left": o.x * width - across,
        "top": o.y * height - down,
        "width": 2 * across,
        "height": 2 * down,
    }


def row(clip: Clip, found: Tensor, captions: Sequence[str] = ()) -> dict[str, Any]:
    """A clip as a row of TVQA+, with features as :func:`stage_batch` and `tvqa_batch` take them.

    Args:
        clip: the clip.
        found: features of its :func:`regions`.
        captions: generated ones, two a moment.
    """
    # two lines a moment begin just before and just behind its frame, and so belong to it
    begins = [max(0.0, SECONDS * m + by) for m in range(MOMENTS) for by in (-0.1, 0.1)]
    said = [t for who, line in zip(clip.speakers, clip.lines, strict=True)
            for t in (f"{who} speaks", line)]  # fmt: skip
    asked = clip.scenes[clip.moment].objects[clip.place]
    frame = 1 + EVERY * clip.moment
    sides = [box(o) for scene in clip.scenes for o in scene.objects]
    made: dict[str, Any] = {
        "question": clip.question,
        "answers": list(clip.answers),
        "label": clip.label,
        "start": SECONDS * clip.moment,
        "end": SECONDS * clip.moment + SECONDS / 2,
        "boxes": [{"frame": frame, "label": word, **box(asked)}
                  for word in (asked.colour, asked.shape)],
        "question_features": vectors(clip.question),
        "answer_features": [vectors(each) for each in clip.answers],
        "video_features": found.flatten(0, 1),
        "region_features": found.flatten(0, 1),
        "frame_count": EVERY * MOMENTS,
        "region_counts": ([OBJECTS] + [0] * (EVERY - 1)) * MOMENTS,
        "region_boxes": torch.tensor(
            [[s["left"], s["top"], s["left"] + s["width"], s["top"] + s["height"]] for s in sides]
        ),
    }  # fmt: skip
    for name, texts in (("subtitle", said), ("caption", captions)):
        if texts:
            made[f"{name}s"] = [{"text": text, "start": start}
                                for text, start in zip(texts, begins, strict=True)]  # fmt: skip
            made[f"{name}_features"] = vectors(*texts)
            made[f"{name}_counts"] = [len(text.split()) for text in texts]
    return made
