"""Pairs of pictures with a sentence, and entailment triples, are labelled rightly."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modalign.data.shapes import (
    COLOURS,
    SHAPES,
    SIZES,
    Count,
    Description,
    Exists,
    Moves,
    Object,
    PairClaim,
    Scene,
    entailment,
    held_out,
    judge,
    pair,
    sample_scene,
)

LABELS = ("entailment", "neutral", "contradiction")
PAIRS = [pair(0, i) for i in range(2000)]


def scene_of(*colours):
    return Scene(tuple(Object("star", colour, 0.1, 0.5, 0.5) for colour in colours))


@pytest.mark.parametrize(
    ("kind", "left", "right", "true"),
    [
        ("both", ("red",), ("red", "blue"), True),
        ("both", ("red",), ("blue",), False),
        ("one", ("red",), ("blue",), True),
        ("one", ("red",), ("red",), False),
        ("one", ("blue",), ("blue",), False),
        ("all", ("red", "red"), ("red", "blue"), True),
        ("all", ("red",), ("red", "blue"), False),
        ("more", ("red", "red"), ("red",), True),
        ("more", ("red",), ("red",), False),
    ],
)
def test_truth_about_two_scenes(kind, left, right, true):
    claim = PairClaim(kind, Description(colour="red"), 3)
    assert claim.true_of(scene_of(*left), scene_of(*right)) is true


def test_half_of_the_pairs_are_true_and_rightly_marked():
    assert all(p.true is p.claim.true_of(p.left, p.right) for p in PAIRS)
    assert np.mean([p.true for p in PAIRS]) == pytest.approx(0.5, abs=4 * 0.5 / len(PAIRS) ** 0.5)


def test_sentences_about_pairs_do_not_give_their_truth_away():
    """The kinds, which have truth rates of their own, are as frequent among the false."""
    kinds = {true: Counter(p.claim.kind for p in PAIRS if p.true is true) for true in (True, False)}
    numbers = {true: sum(n.values()) for true, n in kinds.items()}
    for kind in ("both", "one", "all", "more"):
        shares = [kinds[true][kind] / numbers[true] for true in (True, False)]
        assert abs(shares[0] - shares[1]) < 4 * (2 * 0.25 / 1000) ** 0.5


def test_a_pair_depends_on_seed_and_index_alone_and_keeps_to_its_split():
    assert pair(0, 5) == PAIRS[5]
    assert pair(1, 5) != PAIRS[5]
    held = set(held_out("validation")) | set(held_out("test"))
    for i in range(30):
        drawn = pair(0, i, compositional=True)
        found = {(o.shape, o.colour) for o in drawn.left.objects + drawn.right.objects}
        assert not found & held


def completions(part):
    """Every object that a partial description may be of."""
    for size, colour, shape in itertools.product(SIZES, COLOURS, SHAPES):
        o = Object(shape, colour, {"small": 0.08, "large": 0.15}[size], 0.5, 0.5)
        if part.fits(o):
            yield o


attributes = [st.none() | st.sampled_from(values[:2]) for values in (SIZES, COLOURS, SHAPES)]
descriptions = st.builds(Description, *attributes)
claims = st.builds(Exists, descriptions) | st.builds(Count, descriptions, st.integers(0, 3))


@given(claims, st.lists(descriptions, min_size=1, max_size=2))
@settings(max_examples=150)
def test_judge_agrees_with_every_possible_world(claim, parts):
    worlds = itertools.product(*map(completions, parts))
    truths = {claim.true_of(Scene(objects)) for objects in worlds}
    label = {(True,): "entailment", (False,): "contradiction"}.get(tuple(truths), "neutral")
    assert judge(claim, tuple(parts)) == label


@given(st.integers(0, 2**32), st.sampled_from(LABELS))
@settings(max_examples=100)
def test_triples_are_labelled_rightly(seed, label):
    scene = sample_scene(seed, 1)
    triple = entailment(scene, label)
    assert triple.label == label == judge(triple.claim, triple.parts)
    assert all(part.fits(o) for part, o in zip(triple.parts, scene.objects, strict=True))
    if label != "neutral":
        assert triple.claim.true_of(scene) is (label == "entailment")
    assert triple.premise == entailment(scene, "neutral").premise
    assert triple == entailment(scene, label)


@given(st.integers(0, 2**32), st.sampled_from(LABELS))
@settings(max_examples=100)
def test_triples_on_a_picture_are_labelled_rightly(seed, label):
    """By what stays true, stays false or changes when objects are set in any motion."""
    scene = sample_scene(seed, 1)
    triple = entailment(scene, label, premise="picture")
    ways = [(0, 0), (-0.3, 0), (0.3, 0), (0, -0.3), (0, 0.3)]
    truths = set()
    for vx, vy in ways:
        objects = [Object(o.shape, o.colour, o.radius, o.x, o.y, vx, vy) for o in scene.objects]
        truths.add(triple.claim.true_of(Scene(tuple(objects))))
    assert truths == {"entailment": {True}, "contradiction": {False}}.get(label, {True, False})
    assert triple.premise is None


def test_words_of_motion_do_not_prove_a_picture_neutral():
    drawn = [entailment(sample_scene(0, i), LABELS[2], premise="picture") for i in range(100)]
    assert 20 < sum(isinstance(triple.claim, Moves) for triple in drawn) < 80


def test_an_empty_scene_entails_nothing():
    with pytest.raises(ValueError, match="scene: expected at least one object, got none"):
        entailment(Scene(()), "neutral")


def test_an_unknown_label_is_refused():
    with pytest.raises(TypeError, match="label"):
        entailment(sample_scene(0, 0), "maybe")
