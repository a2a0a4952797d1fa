"""Questions about scenes have one right answer, which is where it is said to be."""

from collections import Counter

import numpy as np
import pytest

from modalign.data.shapes import Question, Scene, questions, sample_scene
from modalign.data.shapes.questions import NAMES, tell
from modalign.data.shapes.text import SYNONYMS

NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
SCENES = [sample_scene(1, i) for i in range(500)]
ASKED = [(scene, q) for scene in SCENES for q in questions(scene, 4)]


def right(question):
    return question.answers[question.answer]


def test_five_different_answers_of_one_kind():
    for _, q in ASKED:
        assert len(set(q.answers)) == 5
        kinds = {"name": NAMES, "number": NUMBERS}
        assert set(q.answers) <= set(kinds.get(q.asks, SYNONYMS))


def test_right_answers_stand_in_every_place():
    places = Counter(q.answer for _, q in ASKED)
    n = len(ASKED)
    assert all(abs(places[i] / n - 0.2) < 4 * (0.16 / n) ** 0.5 for i in range(5))


def test_the_right_answer_is_that_of_the_scene():
    for scene, q in ASKED:
        if q.asks == "number":
            assert right(q) == NUMBERS[sum(map(q.what.fits, scene.objects))]
        elif q.asks != "name":
            (o,) = filter(q.what.fits, scene.objects)
            assert right(q) == getattr(o, q.asks)


def test_names_are_those_of_the_story():
    for scene, q in ASKED:
        lines = q.story.removesuffix(".").split(". ")
        if q.asks == "name":
            about = "this picture" if q.what is None else "the "
            owners = {line.split()[0] for line in lines if about in line}
            assert right(q) in owners
            if q.what is not None:
                likes = dict(tell(scene).likes)
                assert likes[right(q)] == q.what


def says(text, term):
    words = text.replace(".", "").split()
    return any(word in words for word in SYNONYMS[term]) or any(
        " " in word and word in text for word in SYNONYMS[term]
    )


def test_what_needs_the_picture_is_not_in_the_text():
    kinds = Counter()
    for scene, q in ASKED:
        kinds[q.needs, q.asks] += 1
        told = [d for _, d in tell(scene).likes]
        if q.needs == "picture" and q.asks == "number":
            # the story would tell if it called one of these "the" one
            assert not any(d.known.items() <= q.what.known.items() for d in told)
        elif q.needs != "text":
            (o,) = filter(q.what.fits, scene.objects)
            assert not any(d.fits(o) and q.asks in d.known for d in told)
            assert q.asks not in q.what.known
            assert not says(q.text, right(q))
    assert set(kinds) == {
        ("text", "name"),
        *(("picture", asks) for asks in ("number", "colour", "shape")),
        *(("both", asks) for asks in ("colour", "shape")),
    }


def test_what_needs_both_cannot_be_told_from_the_picture_alone():
    for scene, q in ASKED:
        if q.needs == "both":
            assert len({getattr(o, q.asks) for o in scene.objects}) > 1
            assert any(f"that {name} likes" in q.text for name, d in tell(scene).likes)


@pytest.mark.parametrize("bias", [0.0, 0.25, 0.8, 1.0])
def test_text_bias_is_the_share_of_questions_that_the_text_answers(bias):
    asked = [q for scene in SCENES for q in questions(scene, 4, text_bias=bias)]
    share = np.mean([q.needs == "text" for q in asked])
    assert abs(share - bias) <= 4 * (bias * (1 - bias) / len(asked)) ** 0.5


def test_the_story_is_one_for_a_scene_and_questions_are_repeatable():
    for scene in SCENES[:30]:
        asked = questions(scene, 6)
        assert len({q.story for q in asked}) == 1
        assert asked[:3] == questions(scene, 3)


def test_an_empty_scene_can_be_asked_about():
    asked = questions(Scene(()), 10)
    assert {(q.needs, q.asks) for q in asked} <= {("text", "name"), ("picture", "number")}
    assert all(isinstance(q, Question) for q in asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: expected at least 1 question, got 0"),
        ({"text_bias": 1.5}, "text_bias: expected a probability, got 1.5"),
        ({"text_bias": float("nan")}, "text_bias: .* got nan"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        questions(SCENES[0], **options)
