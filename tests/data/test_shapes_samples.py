"""Misalignment at the rates asked for, and sequences whose matches can be found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modalign.data.shapes import (
    Every,
    Moves,
    held_out,
    render_audio,
    sample,
    sample_scene,
    sample_sequence,
)

N = 1500
RATES = {"text_other": 0.2, "text_absent": 0.1, "audio_other": 0.3}
SAMPLES = [sample(0, i, **RATES, motion=True) for i in range(N)]


def within_binomial_bounds(found, rate):
    return abs(np.mean(found) - rate) <= 4 * (rate * (1 - rate) / len(found)) ** 0.5


def test_rates_of_misalignment():
    texts = [s.text_source for s in SAMPLES]
    assert within_binomial_bounds([t == "other" for t in texts], 0.2)
    assert within_binomial_bounds([t == "absent" for t in texts], 0.1)
    assert within_binomial_bounds([s.text_aligned for s in SAMPLES], 0.7)
    assert within_binomial_bounds([not s.audio_aligned for s in SAMPLES], 0.3)


def test_text_and_audio_are_misaligned_independently():
    both = [not s.text_aligned and not s.audio_aligned for s in SAMPLES]
    assert within_binomial_bounds(both, 0.3 * 0.3)


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("name", RATES)
def test_none_and_all(name, rate):
    drawn = [sample(3, i, **{name: rate}) for i in range(50)]
    kind = name.split("_")[0]
    assert {getattr(s, f"{kind}_aligned") for s in drawn} == {rate == 0}
    other = {"text": "audio", "audio": "text"}[kind]
    assert all(getattr(s, f"{other}_aligned") for s in drawn)


def test_texts_are_true_only_where_they_are_aligned():
    for s in SAMPLES:
        assert s.claim.true_of(s.scene) is s.text_aligned


def test_absent_things_come_beside_what_is_there():
    for s in SAMPLES:
        if s.text_source == "absent":
            assert isinstance(s.claim, Every)
            seen = [bool(part.matches(s.scene)) for part in s.claim.parts]
            assert seen.count(False) == 1
            assert seen.count(True) >= 1


def test_sounds_differ_only_where_they_are_misaligned():
    for s in SAMPLES[:200]:
        ours, heard = (render_audio(scene, 5000) for scene in (s.scene, s.audio_scene))
        assert (np.abs(ours - heard).max() < 1e-6) == s.audio_aligned


def test_another_scene_that_sounds_the_same_is_no_misalignment():
    """Of one object, one scene in 360 sounds like any other."""

    def heard(scene):
        return [(o.shape, o.colour, o.size, o.motion) for o in scene.objects]

    for i in range(1500):
        s = sample(7, i, max_objects=1, audio_other=1.0)
        assert heard(s.scene) != heard(s.audio_scene)


def test_rates_change_nothing_else():
    for i, s in enumerate(SAMPLES[:300]):
        clean = sample(0, i, motion=True)
        assert clean.scene == s.scene == sample_scene(0, i)
        assert s.text == clean.text or not s.text_aligned
        assert sample(0, i, text_other=0.1, text_absent=0.1, motion=True).text_aligned or not (
            s.text_aligned
        )


def test_motion_is_spoken_of_where_it_is_asked_for():
    assert any(isinstance(s.claim, Moves) for s in SAMPLES)
    assert not any(isinstance(sample(0, i, **RATES).claim, Moves) for i in range(300))


def test_other_scenes_keep_to_the_split():
    held = set(held_out("validation")) | set(held_out("test"))
    for i in range(60):
        s = sample(0, i, audio_other=1.0, text_other=1.0, compositional=True)
        assert not {(o.shape, o.colour) for o in s.audio_scene.objects} & held


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_other": -0.1}, "text_other: expected a chance from 0 to 1, got -0.1"),
        ({"audio_other": float("nan")}, "audio_other: .* got nan"),
        ({"text_other": 0.6, "text_absent": 0.6}, "expected at most 1, got 1.2"),
    ],
)
def test_impossible_rates_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(0, 0, **options)


@given(st.integers(0, 2**32), st.integers(1, 25), st.integers(1, 4))
@settings(max_examples=40)
def test_matches_are_what_is_true(seed, events, most):
    drawn = sample_sequence(seed, 0, events=events, most_clips=most)
    truth = [[s.claim.true_of(clip.scene) for clip in drawn.clips] for s in drawn.snippets]
    assert (np.array(truth) == drawn.matches).all()
    assert drawn.matches.any()
    assert [s.true for s in drawn.snippets] == drawn.matches.any(1).tolist()


def test_snippets_hold_through_the_whole_clip():
    drawn = sample_sequence(0, 3, events=20)
    for row, snippet in zip(drawn.matches, drawn.snippets, strict=True):
        for c in np.flatnonzero(row):
            clip = drawn.clips[c]
            assert all(snippet.claim.true_of(clip.scene.at(t)) for t in (clip.start, clip.stop))


def test_one_snippet_has_one_run_of_clips_in_order():
    numbers = []
    for i in range(40):
        drawn = sample_sequence(2, i, events=12, most_clips=3)
        assert (drawn.matches.sum(0) <= 1).all()
        runs = [np.flatnonzero(row) for row in drawn.matches if row.any()]
        assert (np.diff(np.concatenate(runs)) > 0).all()
        for run in runs:
            assert (np.diff(run) == 1).all()
            parts = [drawn.clips[c] for c in run]
            assert {part.scene for part in parts} == {parts[0].scene}
            cuts = [part.start for part in parts] + [parts[-1].stop]
            assert cuts == pytest.approx(np.linspace(0, 1, len(run) + 1))
        numbers += [len(run) for run in runs]
    assert all(within_binomial_bounds(np.array(numbers) == n, 1 / 3) for n in (1, 2, 3))


def test_rates_of_what_is_unmatched():
    options = {"events": 40, "unmatched_clips": 0.1, "unmatched_snippets": 0.3}
    drawn = [sample_sequence(5, i, **options) for i in range(20)]
    clips = sum(int((~s.matches.any(0)).sum()) for s in drawn)
    snippets = sum(int((~s.matches.any(1)).sum()) for s in drawn)
    for found, rate in ((clips, 0.1), (snippets, 0.3)):
        assert abs(found / 800 - rate) < 4 * (rate * (1 - rate) / 800) ** 0.5
    clean = sample_sequence(5, 0, unmatched_clips=0.0, unmatched_snippets=0.0)
    assert clean.matches.any(0).all()
    assert clean.matches.any(1).all()


def test_a_long_sequence_is_repeatable_and_its_clips_can_be_seen():
    drawn, again = (sample_sequence(0, 1, events=100) for _ in range(2))
    assert drawn.clips == again.clips
    assert drawn.snippets == again.snippets
    assert len(drawn.clips) > 100
    assert drawn.clips[0].video(frames=2).images.shape == (2, 64, 64, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events": 0}, "events: expected 1 to 200, got 0"),
        ({"most_clips": 0}, "most_clips: expected at least 1, got 0"),
        ({"unmatched_clips": 1.0}, "unmatched_clips: .* got 1.0"),
        ({"unmatched_clips": 0.5, "unmatched_snippets": 0.5}, "expected less than 1, got 1.0"),
    ],
)
def test_impossible_sequences_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample_sequence(0, 0, **options)
