"""Sentences about scenes: a small grammar with synonyms, for claims whose truth is known."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from modalign._checks import checked
from modalign.data.shapes.claims import (
    ATTRIBUTES,
    Claim,
    Count,
    Description,
    Every,
    Exists,
    Moves,
    Related,
)
from modalign.data.shapes.scene import Scene, scene_generator

SYNONYMS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big"),
    "red": ("red",),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "purple": ("purple", "violet"),
    "white": ("white",),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus sign"),
    "star": ("star",),
    "thing": ("shape", "thing", "object"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
    "left": ("moves left", "is moving to the left", "goes left"),
    "right": ("moves right", "is moving to the right", "goes right"),
    "up": ("moves up", "is moving upwards", "rises"),
    "down": ("moves down", "is moving downwards", "sinks"),
    "still": ("stays still", "does not move", "rests"),
}
"""The wordings of every term; no wording belongs to two terms."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_OPENINGS = ("there is ", "we see ", "the picture shows ", "here is ")
_PLURALS = {"cross": "crosses", "box": "boxes", "rhombus": "rhombuses"}


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence about a scene.

    Attributes:
        text: the wording.
        claim: what it says.
        true: whether that holds of the scene it was made for.
    """

    text: str
    claim: Claim
    true: bool


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of several, each equally likely."""
    return choices[int(rng.integers(len(choices)))]


def name(what: Description, rng: np.random.Generator, *, plural: bool = False) -> str:
    """Word a description: "little red disc", or "red things"."""
    noun = pick(rng, SYNONYMS[what.shape or "thing"])
    if plural:
        noun = _PLURALS.get(noun, noun + "s")
    words = [pick(rng, SYNONYMS[word]) for word in (what.size, what.colour) if word]
    return " ".join([*words, noun])


def listed(names: Sequence[str]) -> str:
    """Join names as in "a circle, a star and a square"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def say(claim: Claim, rng: np.random.Generator) -> str:
    """Word a claim."""
    if isinstance(claim, Exists):
        return pick(rng, _OPENINGS) + "a " + name(claim.what, rng)
    if isinstance(claim, Every):
        opening = pick(rng, ("", *_OPENINGS))
        return opening + listed(["a " + name(part, rng) for part in claim.parts])
    if isinstance(claim, Count):
        return _say_count(claim, rng)
    if isinstance(claim, Related):
        relation = pick(rng, SYNONYMS[claim.relation])
        return f"a {name(claim.what, rng)} is {relation} a {name(claim.other, rng)}"
    if isinstance(claim, Moves):
        return f"a {name(claim.what, rng)} {pick(rng, SYNONYMS[claim.motion])}"
    raise TypeError(f"claim: expected a claim of modalign.data.shapes, got {claim!r:.60}")


def _say_count(claim: Count, rng: np.random.Generator) -> str:
    one = claim.number == 1
    noun = name(claim.what, rng, plural=not one)
    exactly = "" if not claim.number else pick(rng, ("exactly ", "just "))
    return f"there {'is' if one else 'are'} {exactly}{NUMBERS[claim.number]} {noun}"


def draw_claim(scene: Scene, rng: np.random.Generator, *, motion: bool = False) -> Claim:
    """A claim that is true of the scene; of any kind that the scene allows."""
    kinds: list[Callable[[Scene, np.random.Generator], Claim]] = [_count]
    if scene.objects:
        kinds += [_exists, _all, *([_moves] if motion else [])]
    if len(scene.objects) > 2:
        kinds += [_some]
    if scene.relations():
        kinds += [_related]
    return kinds[int(rng.integers(len(kinds)))](scene, rng)


def _describe(scene: Scene, rng: np.random.Generator) -> Description:
    o = scene.objects[int(rng.integers(len(scene.objects)))]
    return Description.of(o).blurred(rng)


def _exists(scene: Scene, rng: np.random.Generator) -> Claim:
    return Exists(_describe(scene, rng))


def _all(scene: Scene, rng: np.random.Generator) -> Claim:
    return Every(tuple(dict.fromkeys(Description.of(o) for o in scene.objects)))


def _some(scene: Scene, rng: np.random.Generator) -> Claim:
    number = int(rng.integers(2, len(scene.objects)))
    return Every(tuple(dict.fromkeys(_describe(scene, rng) for _ in range(number))))


def _count(scene: Scene, rng: np.random.Generator) -> Claim:
    """Of what is there, or of anything: otherwise "no stars" would be false wherever it is said."""
    if scene.objects and rng.random() < 0.7:
        what = _describe(scene, rng)
    else:
        what = anything(rng).blurred(rng)
    return Count(what, len(what.matches(scene)))


def _related(scene: Scene, rng: np.random.Generator) -> Claim:
    found = scene.relations()
    i, relation, j = found[int(rng.integers(len(found)))]
    first, second = (Description.of(scene.objects[k]).blurred(rng) for k in (i, j))
    return Related(first, relation, second)


def _moves(scene: Scene, rng: np.random.Generator) -> Claim:
    o = scene.objects[int(rng.integers(len(scene.objects)))]
    return Moves(Description.of(o).blurred(rng), o.motion)


def anything(rng: np.random.Generator) -> Description:
    """A full description, drawn without looking at a scene."""
    return Description(*(pick(rng, values) for values in ATTRIBUTES.values()))


def draw_falsehood(scene: Scene, rng: np.random.Generator, *, motion: bool = False) -> Claim:
    """A true claim with one thing changed, so that it is false."""
    for _ in range(100):
        claim = draw_claim(scene, rng, motion=motion).altered(rng)
        if not claim.true_of(scene):
            return claim
    return absent(scene, rng)


def absent(scene: Scene, rng: np.random.Generator) -> Exists:
    """A false claim that something is there."""
    while True:
        claim = Exists(anything(rng))
        if not claim.true_of(scene):
            return claim


@checked
def captions(scene: Scene, n: int = 5, *, motion: bool = False) -> list[Sentence]:
    """Say n true things of a scene: what is there, how many, and where; short and long.

    Args:
        scene: what they are true of; its seed, index and split choose the wording.
        n: number of captions, each worded differently.
        motion: some say how things move, which a single picture does not show.

    Returns:
        The captions. The first k of n captions are those that ``n=k`` returns.

    Raises:
        ValueError: if n is not from 1 to 20.

    >>> from modalign.data.shapes import sample_scene
    >>> [caption.text for caption in captions(sample_scene(0, 2), 2)]
    ['here is a big yellow rhombus and a big violet diamond', 'we see a violet diamond']
    """
    if not 1 <= n <= 20:
        raise ValueError(f"n: expected 1 to 20 captions, got {n}")
    rng = scene_generator(scene, "captions")
    found: dict[str, Sentence] = {}
    while len(found) < n:
        claim = draw_claim(scene, rng, motion=motion)
        text = say(claim, rng)
        found.setdefault(text, Sentence(text, claim, True))
    return list(found.values())


@checked
def statement(scene: Scene, true: bool, *, motion: bool = False) -> Sentence:
    """Say one true or one false thing of a scene.

    A false one is a true one with one thing changed: an attribute, a number, a relation or a
    motion. Neither kind has words of its own.

    Args:
        scene: what it is about; its seed, index and split choose what is said.
        true: which of the two.
        motion: it may say how things move, which a single picture does not show.

    >>> from modalign.data.shapes import sample_scene
    >>> statement(sample_scene(0, 2), False).text
    'there is exactly one green cross'
    """
    rng = scene_generator(scene, f"statement {true}")
    claim = (draw_claim if true else draw_falsehood)(scene, rng, motion=motion)
    return Sentence(say(claim, rng), claim, true)
