r"""The sound of a scene: shape sets pitch, colour timbre, motion the envelope, size the loudness.

Object k adds the tone

.. math:: \tfrac{1}{6}\, g_k\, e_k(t) \sum_{h=1}^{6} w_{kh} \sin(2 \pi h f_k t)

with the fundamental f of its shape (:data:`PITCHES`), the weights w of its colour
(:data:`TIMBRES`), which sum to 1, the envelope e of its motion (:data:`ENVELOPES`) over the time
t of the clip from 0 to 1, and the gain g of its size (:data:`GAINS`). The sum of six objects stays
within -1 and 1. Positions are not heard.

Fundamentals are 10 Hz times different primes above 6, so that no two of all their harmonics
coincide: if no two objects share a shape, the spectrum at the harmonics of each gives its
colour, and what surrounds these in time its motion and its size. Objects of one shape add up.
"""

import numpy as np
from jaxtyping import Float32

from modalign._checks import checked
from modalign.data.shapes.scene import MAX_OBJECTS, Object, Scene

PITCHES = {"circle": 190, "square": 230, "triangle": 290, "diamond": 310, "cross": 370, "star": 410}
"""Fundamental of each shape, in Hz."""

TIMBRES = {
    "red": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "green": (0.5, 0.0, 0.3, 0.0, 0.2, 0.0),
    "blue": (0.4, 0.6, 0.0, 0.0, 0.0, 0.0),
    "yellow": (0.3, 0.0, 0.0, 0.4, 0.0, 0.3),
    "purple": (0.25, 0.15, 0.6, 0.0, 0.0, 0.0),
    "white": (0.2, 0.16, 0.16, 0.16, 0.16, 0.16),
}
"""Weights of the first six harmonics for each colour."""

ENVELOPES = {
    "still": (0.7, 0.7, 0.7),
    "left": (1.0, 0.55, 0.1),
    "right": (0.1, 0.55, 1.0),
    "up": (0.1, 1.0, 0.1),
    "down": (1.0, 0.1, 1.0),
}
"""Loudness at the start, in the middle and at the end for each motion; linear in between."""

GAINS = {"small": 0.5, "large": 1.0}
"""Loudness of each size."""

LEAST_RATE = 2 * 6 * max(PITCHES.values())


@checked
def render_audio(
    scene: Scene, sample_rate: int = 16_000, *, seconds: float = 1.0
) -> Float32[np.ndarray, "n"]:
    """Play a scene.

    Args:
        scene: which is heard.
        sample_rate: samples a second, more than 4,920, so that the highest harmonic fits.
        seconds: length of the clip. Motions take the whole of it; pitches do not change with it.

    Returns:
        The waveform, between -1 and 1.

    Raises:
        ValueError: for a sample rate that is too low, or a length of no samples.

    >>> from modalign.data.shapes import sample_scene
    >>> render_audio(sample_scene(0, 0)).shape
    (16000,)
    """
    if sample_rate <= LEAST_RATE:
        raise ValueError(f"sample_rate: expected more than {LEAST_RATE} Hz, got {sample_rate}")
    samples = round(seconds * sample_rate) if 0 < seconds < 1e6 else 0
    if not samples:
        raise ValueError(f"seconds: expected a length of at least one sample, got {seconds}")
    t = np.arange(samples) / (seconds * sample_rate)
    sound = np.zeros(samples)
    for o in scene.objects:
        envelope = np.interp(t, (0, 0.5, 1), ENVELOPES[o.motion])
        sound += GAINS[o.size] * envelope * _tone(o, sample_rate, samples)
    return (sound / MAX_OBJECTS).astype(np.float32)


def _tone(o: Object, sample_rate: int, samples: int) -> np.ndarray:
    """The tone of an object, before its envelope."""
    # every tenth of a second is like the first, if that is a whole number of samples
    period = samples if sample_rate % 10 else min(samples, sample_rate // 10)
    phase = 2 * np.pi * PITCHES[o.shape] * np.arange(period) / sample_rate
    harmonics = [w * np.sin(h * phase) for h, w in enumerate(TIMBRES[o.colour], 1) if w]
    return np.resize(np.sum(harmonics, axis=0), samples)
