"""Statements about a scene, as data whose truth is looked up in the scene: no text is parsed.

"A" means at least one, and numbers are exact.
"""

import abc
import dataclasses

import numpy as np

from modalign.data.shapes.scene import (
    COLOURS,
    MAX_OBJECTS,
    MOTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Motion,
    Object,
    Relation,
    Scene,
)

ATTRIBUTES = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}


@dataclasses.dataclass(frozen=True)
class Description:
    """Some or all of an object's attributes; None leaves one open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    @staticmethod
    def of(o: Object) -> "Description":
        """The full description of an object."""
        return Description(o.size, o.colour, o.shape)

    @property
    def known(self) -> dict[str, str]:
        """The attributes that are given."""
        return {name: getattr(self, name) for name in ATTRIBUTES if getattr(self, name)}

    def fits(self, o: Object) -> bool:
        """Whether an object has all the attributes that are given."""
        return all(getattr(o, name) == value for name, value in self.known.items())

    def matches(self, scene: Scene) -> list[int]:
        """The objects of a scene that fit."""
        return [i for i, o in enumerate(scene.objects) if self.fits(o)]

    def blurred(self, rng: np.random.Generator) -> "Description":
        """The same with some attributes left open, but not all."""
        keep = _BLURS[int(rng.integers(len(_BLURS)))]
        return Description(**{name: value for name, value in self.known.items() if name in keep})

    def altered(self, rng: np.random.Generator) -> "Description":
        """The same with one of the given attributes changed."""
        name = list(self.known)[int(rng.integers(len(self.known)))]
        others = [value for value in ATTRIBUTES[name] if value != self.known[name]]
        return dataclasses.replace(self, **{name: others[int(rng.integers(len(others)))]})


_BLURS = (
    *({"size", "colour", "shape"},) * 2,
    *({"colour", "shape"},) * 3,
    {"size", "shape"},
    {"size", "colour"},
    *({"shape"},) * 2,
    {"colour"},
)


class Claim(abc.ABC):
    """Something that is true or false of a scene."""

    still = True
    """Whether the picture alone shows if it is true."""

    @abc.abstractmethod
    def true_of(self, scene: Scene) -> bool:
        """Whether it holds, from the description of the scene."""

    @abc.abstractmethod
    def altered(self, rng: np.random.Generator) -> "Claim":
        """A claim that differs in one thing; it may happen to be true as well."""


@dataclasses.dataclass(frozen=True)
class Exists(Claim):
    """There is a small red circle."""

    what: Description

    def true_of(self, scene: Scene) -> bool:
        return bool(self.what.matches(scene))

    def altered(self, rng: np.random.Generator) -> "Exists":
        return Exists(self.what.altered(rng))


@dataclasses.dataclass(frozen=True)
class Count(Claim):
    """There are exactly two circles."""

    what: Description
    number: int

    def true_of(self, scene: Scene) -> bool:
        return len(self.what.matches(scene)) == self.number

    def altered(self, rng: np.random.Generator) -> "Count":
        more = self.number < MAX_OBJECTS and (not self.number or rng.random() < 0.5)
        return Count(self.what, self.number + (1 if more else -1))


@dataclasses.dataclass(frozen=True)
class Related(Claim):
    """A circle is left of a square."""

    what: Description
    relation: Relation
    other: Description

    def true_of(self, scene: Scene) -> bool:
        pairs = [(i, j) for i in self.what.matches(scene) for j in self.other.matches(scene)]
        return any(scene.related(i, self.relation, j) for i, j in pairs if i != j)

    def altered(self, rng: np.random.Generator) -> "Related":
        turn = int(rng.integers(3))
        if turn == 0:
            return dataclasses.replace(self, what=self.what.altered(rng))
        if turn == 1:
            return dataclasses.replace(self, other=self.other.altered(rng))
        others = [relation for relation in RELATIONS if relation != self.relation]
        return dataclasses.replace(self, relation=others[int(rng.integers(len(others)))])


@dataclasses.dataclass(frozen=True)
class Moves(Claim):
    """A circle moves to the left. Seen in a clip and heard, but not seen in a picture."""

    what: Description
    motion: Motion
    still = False

    def true_of(self, scene: Scene) -> bool:
        return any(scene.objects[i].motion == self.motion for i in self.what.matches(scene))

    def altered(self, rng: np.random.Generator) -> "Moves":
        if rng.random() < 0.5:
            return Moves(self.what.altered(rng), self.motion)
        others = [motion for motion in MOTIONS if motion != self.motion]
        return Moves(self.what, others[int(rng.integers(len(others)))])


@dataclasses.dataclass(frozen=True)
class Every(Claim):
    """There is a circle, a square and a small star: each of several, in any place."""

    parts: tuple[Description, ...]

    def true_of(self, scene: Scene) -> bool:
        return all(part.matches(scene) for part in self.parts)

    def altered(self, rng: np.random.Generator) -> "Every":
        i = int(rng.integers(len(self.parts)))
        changed = self.parts[i].altered(rng)
        rest = [part for part in self.parts if part != changed]
        rest.insert(i, changed)
        return Every(tuple(part for part in rest if part != self.parts[i]))
