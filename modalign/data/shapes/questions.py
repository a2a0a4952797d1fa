"""Questions with five answers about a picture and a story that comes with it.

The story says who made the picture, and who likes which of its objects. Names stand only in the
story. The objects stand only in the picture, except for the attributes that the story uses.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from modalign._checks import checked
from modalign.data.shapes.claims import Description
from modalign.data.shapes.scene import COLOURS, SHAPES, Scene, scene_generator
from modalign.data.shapes.text import NUMBERS, anything, name, pick

Needs = Literal["text", "picture", "both"]
Asks = Literal["name", "number", "colour", "shape"]

NAMES = ("Bear", "Crow", "Deer", "Fox", "Goat", "Hare", "Lynx", "Mole", "Owl", "Wolf")
ANSWERS = 5
_NUMBERS = ("none", *NUMBERS[1:])
_VALUES: dict[str, tuple[str, ...]] = {
    "name": NAMES,
    "number": _NUMBERS,
    "colour": COLOURS,
    "shape": SHAPES,
}


@dataclasses.dataclass(frozen=True)
class Story:
    """A text that goes with a picture.

    Attributes:
        text: the wording.
        maker: who made the picture.
        likes: who likes what; each description fits one object of the scene.
    """

    text: str
    maker: str
    likes: tuple[tuple[str, Description], ...]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with five answers, one of which is right.

    Attributes:
        story: the text to be read beside the picture; the same for all questions of a scene.
        text: the question.
        answers: five different ones, in random order.
        answer: index of the right one.
        needs: what must be known to answer: the ``"text"``, the ``"picture"``, or ``"both"``.
        asks: for a ``"name"``, a ``"number"``, a ``"colour"`` or a ``"shape"``.
        what: the objects in question; None for the picture as a whole.
    """

    story: str
    text: str
    answers: tuple[str, ...]
    answer: int
    needs: Needs
    asks: Asks
    what: Description | None


_Draft = tuple[str, Asks, str, Description | None]


@checked
def questions(scene: Scene, n: int = 5, *, text_bias: float = 0.3) -> list[Question]:
    """Ask n questions, each of which may be asked again.

    Args:
        scene: what the picture shows; its seed, index and split choose story and questions.
        n: number of questions.
        text_bias: the chance that a question can be answered from the story alone. The others
            need the picture, and half of them the story as well, if the scene allows it.

    Returns:
        The questions. The first k of n are those that ``n=k`` returns.

    Raises:
        ValueError: if n is below 1, or the bias is not a probability.

    >>> from modalign.data.shapes import sample_scene
    >>> asked = questions(sample_scene(0, 2), 1)[0]
    >>> asked.story
    'Deer made this picture. Bear likes the large yellow object. Hare likes the violet diamond.'
    >>> asked.text, asked.answers[asked.answer], asked.needs
    ('who likes the purple diamond?', 'Hare', 'text')
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 question, got {n}")
    if not 0 <= text_bias <= 1:
        raise ValueError(f"text_bias: expected a probability, got {text_bias}")
    story = tell(scene)
    rng = scene_generator(scene, "questions")
    return [_ask(scene, story, rng, text_bias) for _ in range(n)]


def tell(scene: Scene) -> Story:
    """The story of a scene: its maker, and up to two objects that are liked."""
    rng = scene_generator(scene, "story")
    maker, *people = (NAMES[i] for i in rng.permutation(len(NAMES)))
    lines = [f"{maker} {pick(rng, ('made', 'drew', 'painted'))} this picture."]
    likes: list[tuple[str, Description]] = []
    for i in rng.permutation(len(scene.objects))[:2]:
        found = unique(scene, int(i), rng)
        if found and len(found.known) < 3:
            likes.append((people[len(likes)], found))
            verb = pick(rng, ("likes", "loves", "is fond of"))
            lines.append(f"{likes[-1][0]} {verb} the {name(found, rng)}.")
    return Story(" ".join(lines[i] for i in rng.permutation(len(lines))), maker, tuple(likes))


def unique(scene: Scene, i: int, rng: np.random.Generator) -> Description | None:
    """A description that fits object i alone, in part if one of a few draws does."""
    full = Description.of(scene.objects[i])
    drafts = [*(full.blurred(rng) for _ in range(4)), full]
    return next((draft for draft in drafts if draft.matches(scene) == [i]), None)


def _ask(scene: Scene, story: Story, rng: np.random.Generator, text_bias: float) -> Question:
    needs: Needs = "picture"
    draft: _Draft | None = None
    if rng.random() < text_bias:
        needs, draft = "text", _about_names(story, rng)
    elif rng.random() < 0.5:
        needs, draft = "both", _about_what_is_liked(scene, story, rng)
    if draft is None:
        needs, draft = "picture", _about_the_picture(scene, story, rng)
    text, asks, right, what = draft
    wrong = [value for value in _VALUES[asks] if value != right]
    answers = [right, *(wrong[i] for i in rng.permutation(len(wrong))[: ANSWERS - 1])]
    order = rng.permutation(ANSWERS).tolist()
    shuffled = tuple(answers[i] for i in order)
    return Question(story.text, text, shuffled, order.index(0), needs, asks, what)


def _about_names(story: Story, rng: np.random.Generator) -> _Draft:
    chosen = int(rng.integers(len(story.likes) + 1))
    if chosen == len(story.likes):
        return "who is this picture by?", "name", story.maker, None
    who, what = story.likes[chosen]
    return f"who likes the {name(what, rng)}?", "name", who, what


def _about_what_is_liked(scene: Scene, story: Story, rng: np.random.Generator) -> _Draft | None:
    """An attribute that the story leaves open, and in which objects differ."""
    open_: list[tuple[str, Asks, Description]] = []
    for who, what in story.likes:
        for asks in _open(scene, story, what):
            if len({getattr(o, asks) for o in scene.objects}) > 1:
                open_.append((who, asks, what))
    if not open_:
        return None
    who, asks, what = open_[int(rng.integers(len(open_)))]
    right = getattr(scene.objects[what.matches(scene)[0]], asks)
    return f"what {asks} is the thing that {who} likes?", asks, right, what


def _about_the_picture(scene: Scene, story: Story, rng: np.random.Generator) -> _Draft:
    kinds: list[Callable[[], _Draft | None]] = [
        lambda: _attribute(scene, story, rng),
        lambda: _number(scene, story, rng),
    ]
    while True:
        draft = kinds[int(rng.integers(2))]()
        if draft:
            return draft


def _attribute(scene: Scene, story: Story, rng: np.random.Generator) -> _Draft | None:
    if not scene.objects:
        return None
    what = unique(scene, int(rng.integers(len(scene.objects))), rng)
    open_ = _open(scene, story, what) if what else []
    if not (what and open_):
        return None
    asks = open_[int(rng.integers(len(open_)))]
    right = getattr(scene.objects[what.matches(scene)[0]], asks)
    return f"what {asks} is the {name(what, rng)}?", asks, right, what


def _open(scene: Scene, story: Story, what: Description) -> list[Asks]:
    """Colour and shape, if neither the description nor the story gives them."""
    same = [liked for _, liked in story.likes if liked.matches(scene) == what.matches(scene)]
    said = {key for description in (what, *same) for key in description.known}
    asked: tuple[Asks, ...] = ("colour", "shape")
    return [asks for asks in asked if asks not in said]


def _number(scene: Scene, story: Story, rng: np.random.Generator) -> _Draft | None:
    """How many there are, unless the story gives it away by its word "the"."""
    if scene.objects and rng.random() < 0.8:
        full = Description.of(scene.objects[int(rng.integers(len(scene.objects)))])
    else:
        full = anything(rng)
    what = full.blurred(rng)
    if any(liked.known.items() <= what.known.items() for _, liked in story.likes):
        return None
    number = _NUMBERS[len(what.matches(scene))]
    return f"how many {name(what, rng, plural=True)} are there?", "number", number, what
