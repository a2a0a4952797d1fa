"""Scenes: the one description from which every view of the shapes world is made.

Lengths are in sides of the picture: x grows to the right, y grows downwards, and both run from 0
to 1. Time runs from 0 (the still picture) to 1 (the end of a clip).
"""

import dataclasses
import math
import zlib
from typing import Literal, get_args

import numpy as np

from modalign._checks import describe, require_choice

Split = Literal["train", "validation", "test"]
Relation = Literal["left of", "right of", "above", "below"]
Motion = Literal["still", "left", "right", "up", "down"]

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
MOTIONS: tuple[Motion, ...] = get_args(Motion)
RELATIONS: tuple[Relation, ...] = get_args(Relation)
SPLITS: tuple[Split, ...] = get_args(Split)
MAX_OBJECTS = 6

_RADII = {"small": (0.07, 0.09), "large": (0.13, 0.16)}
_LARGE_FROM = 0.11
_TRAVEL = (0.25, 0.45)
_MARGIN = 0.1
_PLACES = 32
_DIRECTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclasses.dataclass(frozen=True)
class Object:
    """One coloured shape.

    Attributes:
        shape: one of :data:`SHAPES`.
        colour: one of :data:`COLOURS`.
        radius: of the circle around the shape, in sides of the picture.
        x: of the centre at time 0, from the left edge.
        y: of the centre at time 0, from the top edge.
        vx: travel to the right over a clip; negative to the left.
        vy: travel downwards over a clip; negative upwards.

    Raises:
        ValueError: for a shape or colour that is not offered, a radius that is not in (0, 0.5],
            or a number that is not finite.
    """

    shape: str
    colour: str
    radius: float
    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0

    def __post_init__(self) -> None:
        require_choice(self.shape, SHAPES, "shape")
        require_choice(self.colour, COLOURS, "colour")
        for name in ("x", "y", "vx", "vy"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: expected a finite number, got {getattr(self, name)}")
        if not 0 < self.radius <= 0.5:
            raise ValueError(f"radius: expected a number in (0, 0.5], got {self.radius}")

    @property
    def size(self) -> str:
        """``"large"`` from a radius of 0.11, else ``"small"``."""
        return "large" if self.radius >= _LARGE_FROM else "small"

    @property
    def motion(self) -> Motion:
        """The direction of the larger part of the travel, or ``"still"``."""
        if not (self.vx or self.vy):
            return "still"
        if abs(self.vx) >= abs(self.vy):
            return "right" if self.vx > 0 else "left"
        return "down" if self.vy > 0 else "up"


@dataclasses.dataclass(frozen=True)
class Scene:
    """A handful of objects; when two overlap, the later one of ``objects`` is in front.

    ``seed``, ``index`` and ``split`` identify the scene, and seed the wording of its texts. Give
    scenes built by hand an ``index`` each to have their texts differ.

    Attributes:
        objects: from the rearmost to the foremost, at most :data:`MAX_OBJECTS`.
        background: grey of the background, from 0 (black) to 1.
        seed: of the world.
        index: of the sample.
        split: of the sample.

    Raises:
        ValueError: for too many objects, or a background out of range.

    >>> scene = sample_scene(0, 2)
    >>> [(o.size, o.colour, o.shape, o.motion) for o in scene.objects]
    [('large', 'yellow', 'diamond', 'still'), ('large', 'purple', 'diamond', 'up')]
    """

    objects: tuple[Object, ...]
    background: float = 0.15
    seed: int = 0
    index: int = 0
    split: Split = "train"

    def __post_init__(self) -> None:
        if len(self.objects) > MAX_OBJECTS:
            raise ValueError(f"objects: expected at most {MAX_OBJECTS}, got {len(self.objects)}")
        if not 0 <= self.background <= 1:
            raise ValueError(f"background: expected a grey from 0 to 1, got {self.background}")

    def at(self, time: float) -> "Scene":
        """The same scene at a later (or earlier) time: every object moved, nothing else changed."""
        moved = (
            dataclasses.replace(o, x=o.x + time * o.vx, y=o.y + time * o.vy) for o in self.objects
        )
        return dataclasses.replace(self, objects=tuple(moved))

    def related(self, i: int, relation: Relation, j: int) -> bool:
        """Whether object i is, say, left of j: by more than 0.1 sides, on that axis alone."""
        a, b = self.objects[i], self.objects[j]
        gap = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
        return gap[relation] > _MARGIN

    def relations(self) -> list[tuple[int, Relation, int]]:
        """Every (i, relation, j) that holds at time 0."""
        n = range(len(self.objects))
        pairs = [(i, j) for i in n for j in n if i != j]
        return [(i, r, j) for i, j in pairs for r in RELATIONS if self.related(i, r, j)]


def held_out(split: Split) -> list[tuple[str, str]]:
    """The (shape, colour) combinations that the compositional splits keep for one split.

    Each shape and each colour is held out in one combination for validation and one for test,
    and is seen in the other four in train.

    >>> held_out("test")[:2]
    [('circle', 'blue'), ('square', 'yellow')]
    """
    require_choice(split, SPLITS, "split")
    n = len(COLOURS)
    pairs = [(s, c) for s in range(n) for c in range(n)]
    kept = [(s, c) for s, c in pairs if _split_of(s, c) == split]
    return [(SHAPES[s], COLOURS[c]) for s, c in kept]


def _split_of(shape: int, colour: int) -> Split:
    return {1: SPLITS[1], 2: SPLITS[2]}.get((colour - shape) % len(COLOURS), SPLITS[0])


def generator(seed: int, index: int, split: Split, purpose: str) -> np.random.Generator:
    """Random numbers that depend on these four alone, by a counter (Philox, Salmon et al. 2011).

    Raises:
        ValueError: for a seed or index that is not in [0, 2^64), or an unknown split.
        TypeError: for a seed or index that is not a whole number.

    >>> generator(0, 7, "train", "scene").random() == generator(0, 7, "train", "scene").random()
    True
    """
    require_choice(split, SPLITS, "split")
    for name, value in (("seed", seed), ("index", index)):
        _require_whole(value, name)
        if not 0 <= value < 2**64:
            raise ValueError(f"{name}: expected a whole number in [0, 2^64), got {value}")
    # the lowest word is left to the draws, so that no two samples share any
    counter = [0, index, zlib.crc32(purpose.encode()), SPLITS.index(split)]
    philox = np.random.Philox(
        key=np.array([seed, 0], np.uint64), counter=np.array(counter, np.uint64)
    )
    return np.random.Generator(philox)


def scene_generator(scene: Scene, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose, such as captions, of one scene."""
    return generator(scene.seed, scene.index, scene.split, purpose)


def sample_scene(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    compositional: bool = False,
    min_objects: int = 1,
    max_objects: int = 5,
) -> Scene:
    """Draw scene ``index`` of a world: the same in any order, process or shard.

    Attributes are uniform and independent. Objects stay wholly in the picture over a clip, and
    at time 0 they overlap a little at most.

    Args:
        seed: of the world.
        index: of the scene.
        split: splits share no random numbers, so that they are as good as disjoint.
        compositional: keep some combinations of shape and colour out of train, see
            :func:`held_out`. Train then holds none of them; a scene of another split holds one
            or more of its own, and else combinations of train.
        min_objects: fewest objects, at least 1.
        max_objects: most objects, at most :data:`MAX_OBJECTS`.

    Raises:
        ValueError: for an unknown split, a negative seed or index, or numbers of objects that
            are out of range.
        TypeError: if one of the numbers is not whole.

    >>> sample_scene(0, 3) == sample_scene(0, 3)
    True
    >>> sample_scene(0, 3).objects == sample_scene(1, 3).objects
    False
    """
    for name, value in (("min_objects", min_objects), ("max_objects", max_objects)):
        _require_whole(value, name)
    if not 1 <= min_objects <= max_objects <= MAX_OBJECTS:
        raise ValueError(
            f"min_objects, max_objects: expected 1 <= min <= max <= {MAX_OBJECTS}, "
            f"got {min_objects} and {max_objects}"
        )
    rng = generator(seed, index, split, "scene")
    count = int(rng.integers(min_objects, max_objects + 1))
    background = float(rng.uniform(0.05, 0.3))
    combinations = _combinations(rng, count, split, compositional)
    objects: list[Object] = []
    draws = rng.random((count, 4 + 2 * _PLACES)).tolist()
    for (shape, colour), drawn in zip(combinations, draws, strict=True):
        objects.append(_place(drawn, shape, colour, objects))
    return Scene(tuple(objects), background, seed, index, split)


def _combinations(
    rng: np.random.Generator, count: int, split: Split, compositional: bool
) -> list[tuple[str, str]]:
    """The shape and colour of each object."""
    if not compositional:
        picks = rng.integers(0, len(SHAPES) * len(COLOURS), count).tolist()
        return [(SHAPES[pick // len(COLOURS)], COLOURS[pick % len(COLOURS)]) for pick in picks]
    own, allowed = held_out(split), held_out("train")
    if split != "train":
        allowed = allowed + own
    picks = rng.integers(0, len(allowed), count).tolist()
    found = [allowed[pick] for pick in picks]
    found[int(rng.integers(count))] = own[int(rng.integers(len(own)))]
    return found


def _place(draws: list[float], shape: str, colour: str, placed: list[Object]) -> Object:
    """Draw size and motion, and the first of some places that is free, or else the freest."""
    size, motion, within, far, *rest = draws
    name = SIZES[int(size * len(SIZES))]
    radius, travel = _between(*_RADII[name], within), _between(*_TRAVEL, far)
    vx, vy = (travel * part for part in _DIRECTIONS[MOTIONS[int(motion * len(MOTIONS))]])
    best, x, y = -math.inf, 0.0, 0.0
    for across, down in zip(rest[::2], rest[1::2], strict=True):
        new_x = _between(radius - min(vx, 0), 1 - radius - max(vx, 0), across)
        new_y = _between(radius - min(vy, 0), 1 - radius - max(vy, 0), down)
        gaps = [math.hypot(o.x - new_x, o.y - new_y) - 0.8 * (o.radius + radius) for o in placed]
        clearance = min(gaps, default=0.0)
        if clearance > best:
            best, x, y = clearance, new_x, new_y
        if best >= 0:
            break
    return Object(shape, colour, radius, x, y, vx, vy)


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


def _require_whole(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected a whole number, got {describe(value)}")
