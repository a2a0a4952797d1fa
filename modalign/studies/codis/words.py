"""The words of the world's tasks, which a tokenizer of its captions has to know too."""

import functools
from typing import Any, get_args

from modalign.data import shapes


@functools.cache
def asked() -> tuple[shapes.Question, ...]:
    """Questions that between them have all words and all answers."""
    drawn = [shapes.sample_scene(0, i) for i in range(200)]
    return tuple(each for scene in drawn for each in shapes.questions(scene, 5))


def answers() -> tuple[str, ...]:
    """All answers of the world."""
    return tuple(sorted({answer for each in asked() for answer in each.answers}))


def words_of_tasks() -> list[str]:
    """Texts that hold all words of the world's tasks."""
    kinds: tuple[Any, ...] = get_args(shapes.Label)
    scenes = [shapes.sample_scene(0, i) for i in range(200)]
    return [
        *(f"{each.story} {each.text}" for each in asked()),
        *answers(),
        *(shapes.pair(0, i).text for i in range(400)),
        *(
            shapes.entailment(s, kind, premise="picture").hypothesis
            for s in scenes
            for kind in kinds
        ),
    ]
