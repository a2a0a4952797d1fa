"""What is said of scenes is true, or false, as it is marked."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from modalign.data.shapes import (
    Count,
    Description,
    Every,
    Exists,
    Moves,
    Object,
    Related,
    Scene,
    captions,
    sample_scene,
    statement,
)
from modalign.data.shapes.text import NUMBERS, SYNONYMS

SCENE = Scene(
    (
        Object("circle", "red", 0.08, 0.2, 0.2, vx=0.3),
        Object("circle", "red", 0.15, 0.8, 0.2),
        Object("star", "blue", 0.08, 0.5, 0.8, vy=-0.3),
    )
)
d = Description
RED, CIRCLE, STAR = d(colour="red"), d(shape="circle"), d(shape="star")


@pytest.mark.parametrize(
    ("claim", "true"),
    [
        (Exists(d("small", "red", "circle")), True),
        (Exists(d("large", "blue", "star")), False),
        (Exists(d(colour="blue", shape="circle")), False),
        (Count(RED, 2), True),
        (Count(RED, 1), False),
        (Count(d(shape="cross"), 0), True),
        (Related(CIRCLE, "above", STAR), True),
        (Related(STAR, "above", CIRCLE), False),
        (Related(CIRCLE, "left of", CIRCLE), True),
        (Related(STAR, "left of", STAR), False),
        (Related(d(size="large"), "left of", STAR), False),
        (Related(CIRCLE, "left of", d(size="large")), True),
        (Moves(CIRCLE, "right"), True),
        (Moves(CIRCLE, "still"), True),
        (Moves(STAR, "up"), True),
        (Moves(STAR, "down"), False),
        (Every((RED, STAR)), True),
        (Every((RED, d(shape="cross"))), False),
    ],
)
def test_truth_is_looked_up_in_the_scene(claim, true):
    assert claim.true_of(SCENE) is true


WORDS = {word: term for term, words in SYNONYMS.items() for word in words}
WORDS |= {"boxes": "square", "crosses": "cross", "rhombuses": "diamond"}
WORDS |= {f"{word}s": term for word, term in WORDS.items() if term in SYNONYMS}


def read_noun(text):
    """A description, from its words: an independent reading of the grammar."""
    text = text.removeprefix("a ")
    *first, last = text.replace("plus sign", "cross").split()
    terms = [WORDS[word] for word in (*first, last)]
    kinds = {"small": "size", "large": "size"}
    kinds |= dict.fromkeys(("red", "green", "blue", "yellow", "purple", "white"), "colour")
    wanted = {kinds.get(term, "shape"): term for term in terms if term != "thing"}
    return lambda o: all(getattr(o, key) == value for key, value in wanted.items())


def read(text, scene):
    """Whether a sentence is true, from its words alone."""
    objects = scene.objects
    for term in ("left of", "right of", "above", "below"):
        for words in sorted(SYNONYMS[term], key=len, reverse=True):
            if f" is {words} " in text:
                first, second = map(read_noun, text.split(f" is {words} "))
                axis = "x" if term in ("left of", "right of") else "y"
                sign = 1 if term in ("left of", "above") else -1
                gaps = [
                    sign * (getattr(b, axis) - getattr(a, axis))
                    for a in objects
                    for b in objects
                    if a is not b and first(a) and second(b)
                ]
                return max(gaps, default=0) > 0.1
    for term in ("left", "right", "up", "down", "still"):
        for words in SYNONYMS[term]:
            if text.endswith(f" {words}"):
                noun = read_noun(text.removesuffix(f" {words}"))
                way = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
                goal = way.get(term, (0, 0))
                return any(noun(o) and (np.sign(o.vx), np.sign(o.vy)) == goal for o in objects)
    match = re.fullmatch(r"there (?:is|are) (?:exactly |just )?(\w+) (.*)", text)
    if match and match[1] in NUMBERS:
        return sum(map(read_noun(match[2]), objects)) == NUMBERS.index(match[1])
    text = re.sub(r"^(there is|we see|the picture shows|here is) ", "", text)
    return all(any(map(read_noun(part), objects)) for part in re.split(", | and ", text))


@given(st.integers(0, 2**32), st.integers(0, 2**63), st.booleans())
@settings(max_examples=150)
def test_captions_are_true_of_their_scene(seed, index, motion):
    scene = sample_scene(seed, index)
    for caption in captions(scene, 8, motion=motion):
        assert caption.true
        assert caption.claim.true_of(scene)
        assert caption.claim.still or motion
        assert read(caption.text, scene), f"{caption.text!r} of {scene}"


@given(st.integers(0, 2**32), st.booleans(), st.booleans())
@settings(max_examples=300)
def test_statements_are_as_true_as_asked(seed, true, motion):
    scene = sample_scene(seed, 0)
    said = statement(scene, true, motion=motion)
    assert said.true is said.claim.true_of(scene) is read(said.text, scene) is true


def test_an_empty_scene_can_be_spoken_of():
    nothing = Scene(())
    assert {type(caption.claim) for caption in captions(nothing)} == {Count}
    assert not statement(nothing, False).claim.true_of(nothing)


def test_six_equal_objects_can_be_spoken_of():
    for i in range(50):
        crowd = Scene((Object("star", "red", 0.1, 0.5, 0.5),) * 6, index=i)
        assert all(caption.claim.true_of(crowd) for caption in captions(crowd))
        assert not statement(crowd, False).claim.true_of(crowd)


def test_captions_vary_and_are_always_the_same():
    scene = sample_scene(0, 1)
    texts = [caption.text for caption in captions(scene, 20, motion=True)]
    assert len(set(texts)) == 20
    assert texts == [caption.text for caption in captions(sample_scene(0, 1), 20, motion=True)]
    assert texts[:5] == [caption.text for caption in captions(scene, motion=True)]
    lengths = {len(text.split()) for text in texts}
    assert min(lengths) <= 6
    assert max(lengths) >= 14


def test_every_wording_and_every_kind_occurs():
    said = [s for i in range(500) for s in captions(sample_scene(0, i), motion=True)]
    kinds = Counter(type(s.claim) for s in said)
    assert set(kinds) == {Exists, Count, Related, Moves, Every}
    assert min(kinds.values()) > 0.05 * len(said)
    everything = " ".join(s.text for s in said)
    assert all(word in everything for words in SYNONYMS.values() for word in words)


def test_no_wording_belongs_to_two_terms():
    words = Counter(word for words in SYNONYMS.values() for word in words)
    assert max(words.values()) == 1


def test_words_alone_hardly_tell_true_from_false():
    scenes = [sample_scene(0, i) for i in range(2000)]
    labels = np.arange(2000) % 2 == 0
    texts = [statement(scene, bool(true)).text for scene, true in zip(scenes, labels, strict=True)]
    words = CountVectorizer(ngram_range=(1, 2), min_df=5).fit_transform(texts)
    found = cross_val_score(LogisticRegression(C=0.01, max_iter=500), words, labels, cv=5)
    assert found.mean() < 0.6


@pytest.mark.parametrize("n", [0, 21])
def test_an_impossible_number_of_captions_is_refused(n):
    with pytest.raises(ValueError, match=f"n: expected 1 to 20 captions, got {n}"):
        captions(SCENE, n)
