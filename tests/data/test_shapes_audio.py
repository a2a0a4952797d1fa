"""The sound of a scene holds what it is documented to hold."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.signal import stft

from modalign.data.shapes import (
    COLOURS,
    ENVELOPES,
    PITCHES,
    SHAPES,
    TIMBRES,
    Object,
    Scene,
    render_audio,
    sample_scene,
)

MOVES = {"still": (0, 0), "left": (-0.3, 0), "right": (0.3, 0), "up": (0, -0.3), "down": (0, 0.3)}


def amplitudes(sound, rate):
    """At every multiple of 10 Hz, by the discrete Fourier transform of one second."""
    assert len(sound) == rate
    return 2 * abs(np.fft.rfft(sound.astype(float)))[::10] / rate


def loudness(sound, rate, pitch):
    """Of one pitch over time, by short-time Fourier transforms."""
    frequencies, _, spectra = stft(sound, rate, nperseg=rate // 10, boundary=None)
    levels = abs(spectra[abs(frequencies - pitch).argmin()])
    return levels[[0, len(levels) // 2, -1]]


def closest(found, table):
    """The name of the row that points the same way."""
    found = np.asarray(found) / np.linalg.norm(found)
    return max(table, key=lambda name: found @ table[name] / np.linalg.norm(table[name]))


def hear(sound, rate=16_000):
    """Shape, colour and motion of the one object that is heard."""
    levels = amplitudes(sound, rate)
    harmonics = {shape: levels[np.arange(1, 7) * hz // 10] for shape, hz in PITCHES.items()}
    shape = max(harmonics, key=lambda name: (harmonics[name] ** 2).sum())
    colour = closest(harmonics[shape], TIMBRES)
    return shape, colour, closest(loudness(sound, rate, PITCHES[shape]), ENVELOPES)


@pytest.mark.parametrize(("shape", "colour"), list(itertools.product(SHAPES, COLOURS)))
def test_shape_colour_and_motion_are_recovered_from_the_waveform(shape, colour):
    for motion, (vx, vy) in MOVES.items():
        o = Object(shape, colour, 0.08, 0.5, 0.5, vx, vy)
        assert o.motion == motion
        assert hear(render_audio(Scene((o,)))) == (shape, colour, motion)


def test_sampled_scenes_of_one_object_are_recovered():
    for i in range(60):
        scene = sample_scene(0, i, max_objects=1)
        (o,) = scene.objects
        assert hear(render_audio(scene)) == (o.shape, o.colour, o.motion)


def test_colours_of_six_different_shapes_are_recovered_together():
    for turn in range(6):
        colours = np.roll(COLOURS, turn)
        things = zip(SHAPES, colours.tolist(), strict=True)
        scene = Scene(tuple(Object(s, c, 0.15, 0.5, 0.5) for s, c in things))
        levels = amplitudes(render_audio(scene), 16_000)
        for shape, colour in zip(SHAPES, colours, strict=True):
            found = levels[np.arange(1, 7) * PITCHES[shape] // 10]
            assert found == pytest.approx(0.7 * np.array(TIMBRES[colour]) / 6, abs=1e-5)


@pytest.mark.parametrize("rate", [16_000, 11_025])
def test_the_waveform_is_the_documented_formula(rate):
    o = Object("cross", "yellow", 0.15, 0.5, 0.5, vx=0.3)
    t = np.arange(round(rate * 1.5)) / rate
    tone = sum(w * np.sin(2 * np.pi * h * 370 * t) for h, w in ((1, 0.3), (4, 0.4), (6, 0.3)))
    expected = tone * (0.1 + 0.9 * t / 1.5) / 6
    assert render_audio(Scene((o,)), rate, seconds=1.5) == pytest.approx(expected, abs=1e-6)


def test_no_two_harmonics_coincide():
    harmonics = [h * hz for hz in PITCHES.values() for h in range(1, 7)]
    assert len(set(harmonics)) == 36
    assert all(sum(weights) == pytest.approx(1) for weights in TIMBRES.values())


def test_size_is_loudness_and_objects_add_up():
    small, large = (Object("star", "blue", r, 0.5, 0.5) for r in (0.08, 0.15))
    quiet, loud = (render_audio(Scene((o,))) for o in (small, large))
    assert loud == pytest.approx(2 * quiet, abs=1e-6)
    assert render_audio(Scene((small, large))) == pytest.approx(quiet + loud, abs=1e-6)


def test_the_loudest_scene_is_not_clipped():
    scene = Scene((Object("star", "red", 0.15, 0.5, 0.5, 0, 0.3),) * 6)
    sound = render_audio(scene)
    assert sound.dtype == np.float32
    assert 0.9 < abs(sound).max() <= 1


def test_a_scene_without_objects_is_silent_and_places_are_not_heard():
    assert not render_audio(Scene(())).any()
    scene = sample_scene(0, 4)
    moved = dataclasses.replace(scene.objects[0], x=0.5, y=0.5)
    other = dataclasses.replace(scene, objects=(moved, *scene.objects[1:]))
    assert (render_audio(scene) == render_audio(other)).all()


@pytest.mark.parametrize(("rate", "seconds", "n"), [(8000, 1.0, 8000), (22050, 0.5, 11025)])
def test_length_and_rate(rate, seconds, n):
    assert render_audio(sample_scene(0, 0), rate, seconds=seconds).shape == (n,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 4000}, "sample_rate: expected more than 4920 Hz, got 4000"),
        ({"seconds": 0.0}, "seconds: .* got 0.0"),
        ({"seconds": float("nan")}, "seconds: .* got nan"),
        ({"seconds": -1}, "seconds: .* got -1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        render_audio(sample_scene(0, 0), **options)
