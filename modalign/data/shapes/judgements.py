"""Sentences to be judged: against a pair of pictures, or against another sentence."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from modalign._checks import checked
from modalign.data.shapes.claims import ATTRIBUTES, Claim, Count, Description, Exists, Moves
from modalign.data.shapes.scene import (
    MOTIONS,
    Scene,
    Split,
    generator,
    sample_scene,
    scene_generator,
)
from modalign.data.shapes.text import (
    NUMBERS,
    absent,
    draw_claim,
    draw_falsehood,
    listed,
    name,
    pick,
    say,
)

Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = get_args(Label)
Premise = Literal["text", "picture"]


@dataclasses.dataclass(frozen=True)
class PairClaim:
    """Something that is true or false of two scenes.

    Attributes:
        kind: ``"both"`` show one or more, only ``"one"`` does, they show ``number`` in ``"all"``,
            or there are ``"more"`` in the left one.
        what: the objects in question.
        number: of objects in all.
    """

    kind: Literal["both", "one", "all", "more"]
    what: Description
    number: int = 0

    def true_of(self, left: Scene, right: Scene) -> bool:
        """Whether it holds, from the descriptions of the scenes."""
        a, b = (len(self.what.matches(scene)) for scene in (left, right))
        return {
            "both": bool(a and b),
            "one": bool(a) != bool(b),
            "all": a + b == self.number,
            "more": a > b,
        }[self.kind]

    def say(self, rng: np.random.Generator) -> str:
        """Word it."""
        one, many = name(self.what, rng), name(self.what, rng, plural=True)
        if self.kind == "both":
            return pick(rng, (f"both pictures show a {one}", f"there is a {one} in each picture"))
        if self.kind == "one":
            start = pick(rng, ("exactly one", "only one"))
            return f"{start} of the pictures shows a {one}"
        if self.kind == "more":
            return f"there are more {many} in the left picture than in the right one"
        verb, noun = ("is", one) if self.number == 1 else ("are", many)
        return f"there {verb} exactly {_number(self.number)} {noun} in the two pictures together"


def _number(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two scenes and a sentence about both.

    Attributes:
        left: one scene.
        right: the other.
        text: the sentence.
        claim: what it says.
        true: whether it holds.
    """

    left: Scene
    right: Scene
    text: str
    claim: PairClaim
    true: bool


def pair(seed: int, index: int, *, split: Split = "train", compositional: bool = False) -> Pair:
    """Draw two scenes and a sentence that is true of them half of the time.

    The sentence is made for two scenes of which it is true. For a false one, other scenes are
    drawn until it is false of them. So sentences are alike whether true or false, and cannot be
    judged without looking (as in NLVR2, where each sentence comes with pictures of both kinds).

    Args:
        seed: of the world.
        index: of the pair.
        split: of the scenes.
        compositional: as in :func:`sample_scene`.

    Raises:
        ValueError: as :func:`sample_scene`.

    >>> drawn = pair(0, 0)
    >>> drawn.text, drawn.true
    ('exactly one of the pictures shows a green rhombus', True)
    """
    rng = generator(seed, index, split, "pair")

    def draw() -> tuple[Scene, Scene]:
        left, right = (
            sample_scene(seed, int(i), split=split, compositional=compositional)
            for i in rng.integers(2**63, size=2, dtype=np.int64)
        )
        return left, right

    true = bool(rng.random() < 0.5)
    left, right = draw()
    claim = _draw_pair_claim(left, right, rng)
    text = claim.say(rng)
    while claim.true_of(left, right) is not true:
        left, right = draw()
    return Pair(left, right, text, claim, true)


def _draw_pair_claim(left: Scene, right: Scene, rng: np.random.Generator) -> PairClaim:
    """A claim that is true of two scenes."""
    objects = left.objects + right.objects
    while True:
        what = Description.of(objects[int(rng.integers(len(objects)))]).blurred(rng)
        number = len(what.matches(left)) + len(what.matches(right))
        claim = (
            PairClaim("both", what),
            PairClaim("one", what),
            PairClaim("all", what, number),
            PairClaim("more", what),
        )[int(rng.integers(4))]
        if claim.true_of(left, right):
            return claim


@dataclasses.dataclass(frozen=True)
class Triple:
    """A premise, a hypothesis, and what the first says about the second.

    Attributes:
        scene: which both are about.
        premise: a text, or None if the premise is the picture of the scene.
        parts: the objects as the premise describes them, in the order of the scene.
        hypothesis: the text to be judged.
        claim: what it says.
        label: ``"entailment"``, ``"neutral"`` or ``"contradiction"``.
    """

    scene: Scene
    premise: str | None
    parts: tuple[Description, ...]
    hypothesis: str
    claim: Claim
    label: Label


def judge(claim: Exists | Count, parts: tuple[Description, ...]) -> Label:
    """The label of a claim if each object is known in part, and there are no other objects.

    Attributes left open may have any value, independently, so that every number between the
    objects that must fit and those that may fit is possible.

    >>> judge(Exists(Description("small")), (Description("small", "red"), Description("large")))
    'entailment'
    >>> judge(Count(Description("small", "red"), 1), (Description("small"), Description("large")))
    'neutral'
    """
    wanted = claim.what.known.items()
    clashes = [any(part.known.get(key, value) != value for key, value in wanted) for part in parts]
    surely = sum(wanted <= part.known.items() for part in parts)
    perhaps = len(parts) - sum(clashes)
    least, most = (claim.number,) * 2 if isinstance(claim, Count) else (1, len(parts))
    if least <= surely and perhaps <= most:
        return "entailment"
    return "neutral" if surely <= most and least <= perhaps else "contradiction"


@checked
def entailment(scene: Scene, label: Label, *, premise: Premise = "text") -> Triple:
    """Make a hypothesis that a premise about a scene entails, leaves open, or contradicts.

    A premise in text numbers all objects and describes each in part. It does not depend on the
    label. The hypothesis is made from the scene with some things changed, and the label is
    worked out by :func:`judge`.

    If the premise is the picture, only motion is open. Motion of things that are not there is a
    contradiction, so that words of motion do not prove a neutral hypothesis; but they are never
    entailed.

    Args:
        scene: with one object or more; its seed, index and split choose the wording.
        label: which of the three.
        premise: ``"text"``, or ``"picture"`` for the picture of the scene.

    Raises:
        ValueError: for a scene without objects.

    >>> from modalign.data.shapes import sample_scene
    >>> triple = entailment(sample_scene(0, 2), "neutral")
    >>> triple.premise, triple.hypothesis
    ('there are two shapes: a big yellow rhombus and a large rhombus', 'there are no white shapes')
    """
    if not scene.objects:
        raise ValueError("scene: expected at least one object, got none")
    if premise == "picture":
        rng = scene_generator(scene, f"entailment by picture {label}")
        claim = _against_picture(scene, label, rng)
        full = tuple(Description.of(o) for o in scene.objects)
        return Triple(scene, None, full, say(claim, rng), claim, label)
    rng = scene_generator(scene, "premise")
    parts = _describe_in_part(scene, rng)
    number = "one shape" if len(parts) == 1 else f"{NUMBERS[len(parts)]} shapes"
    names = listed(["a " + name(part, rng) for part in parts])
    text = f"there {'is' if len(parts) == 1 else 'are'} {number}: {names}"
    rng = scene_generator(scene, f"entailment {label}")
    hypothesis = _against_text(parts, label, rng)
    return Triple(scene, text, parts, say(hypothesis, rng), hypothesis, label)


def _describe_in_part(scene: Scene, rng: np.random.Generator) -> tuple[Description, ...]:
    """Each object with some attributes left open; at least one object loses one."""
    while True:
        full = [Description.of(o) for o in scene.objects]
        parts = tuple(description.blurred(rng) for description in full)
        if any(len(part.known) < len(ATTRIBUTES) for part in parts):
            return parts


def _against_text(
    parts: tuple[Description, ...], label: Label, rng: np.random.Generator
) -> Exists | Count:
    while True:
        part = parts[int(rng.integers(len(parts)))]
        filled = {key: pick(rng, values) for key, values in ATTRIBUTES.items()} | part.known
        what = Description(**filled).blurred(rng)
        if rng.random() < 0.4:
            what = what.altered(rng)
        number = int(rng.integers(len(parts) + 1))
        claim = Exists(what) if rng.random() < 0.5 else Count(what, number)
        if judge(claim, parts) == label:
            return claim


def _against_picture(scene: Scene, label: Label, rng: np.random.Generator) -> Claim:
    if label == "entailment":
        return draw_claim(scene, rng)
    if label == "contradiction" and rng.random() < 0.5:
        return draw_falsehood(scene, rng)
    motion = MOTIONS[int(rng.integers(len(MOTIONS)))]
    if label == "contradiction":
        return Moves(absent(scene, rng).what, motion)
    o = scene.objects[int(rng.integers(len(scene.objects)))]
    return Moves(Description.of(o).blurred(rng), motion)
