"""Samples of all modalities, some misaligned on purpose, each with its truth."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from modalign.data.shapes.claims import Claim, Description, Every
from modalign.data.shapes.scene import Scene, Split, generator, sample_scene, scene_generator
from modalign.data.shapes.text import absent, captions, draw_claim, say

Source = Literal["own", "other", "absent"]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A scene, with a text and a sound that may be wrong.

    Attributes:
        scene: what is seen.
        text: one caption.
        claim: what it says.
        text_source: ``"own"``; ``"other"`` if it was made for another scene and is false of
            this one; ``"absent"`` if it also names something that is not there.
        audio_scene: what is heard.
        audio_source: ``"own"``, or ``"other"`` if another scene is heard, which sounds
            different.
    """

    scene: Scene
    text: str
    claim: Claim
    text_source: Source
    audio_scene: Scene
    audio_source: Source

    @property
    def text_aligned(self) -> bool:
        """Whether the text belongs to the scene, and is then true of it."""
        return self.text_source == "own"

    @property
    def audio_aligned(self) -> bool:
        """Whether the sound belongs to the scene."""
        return self.audio_source == "own"


def sample(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    compositional: bool = False,
    min_objects: int = 1,
    max_objects: int = 5,
    text_other: float = 0.0,
    text_absent: float = 0.0,
    audio_other: float = 0.0,
    motion: bool = False,
) -> Sample:
    """Draw sample ``index``, with its text and its sound misaligned at given rates.

    Each is misaligned by a draw of its own. The scene does not depend on the rates, and a text or
    a sound that is aligned at one rate is the same at all lower rates.

    Args:
        seed: of the world.
        index: of the sample.
        split: as in :func:`sample_scene`, for the scene and for those that others come from.
        compositional: as in :func:`sample_scene`.
        min_objects: as in :func:`sample_scene`.
        max_objects: as in :func:`sample_scene`.
        text_other: the chance that the text belongs to another scene.
        text_absent: the chance that the text names what is there, and something that is not.
        audio_other: the chance that the sound belongs to another scene.
        motion: captions may say how things move, which a single picture does not show.

    Raises:
        ValueError: for chances that are not in [0, 1], or as :func:`sample_scene`.

    >>> drawn = sample(0, 2, text_absent=1.0)
    >>> drawn.text, drawn.text_aligned, drawn.audio_aligned
    ('a yellow diamond and a tiny white triangle', False, True)
    """
    rates = {"text_other": text_other, "text_absent": text_absent, "audio_other": audio_other}
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"{name}: expected a chance from 0 to 1, got {rate}")
    if text_other + text_absent > 1:
        raise ValueError(
            f"text_other + text_absent: expected at most 1, got {text_other + text_absent}"
        )

    def draw(number: int) -> Scene:
        return sample_scene(
            seed,
            number,
            split=split,
            compositional=compositional,
            min_objects=min_objects,
            max_objects=max_objects,
        )

    scene = draw(index)
    text_chance, audio_chance = generator(seed, index, split, "misalignment").random(2).tolist()
    # one from below and one from above, so that neither rate moves what the other picks
    text_source: Source = "other" if text_chance < text_other else "own"
    if text_chance >= 1 - text_absent:
        text_source = "absent"
    audio_source: Source = "other" if audio_chance < audio_other else "own"
    claim, text = _caption(scene, text_source, draw, motion)
    audio_scene = _other(scene, draw) if audio_source == "other" else scene
    return Sample(scene, text, claim, text_source, audio_scene, audio_source)


def _caption(
    scene: Scene, source: Source, draw: Callable[[int], Scene], motion: bool
) -> tuple[Claim, str]:
    if source == "own":
        caption = captions(scene, 1, motion=motion)[0]
        return caption.claim, caption.text
    rng = scene_generator(scene, f"text {source}")
    if source == "absent":
        there = dict.fromkeys(Description.of(o).blurred(rng) for o in scene.objects)
        named = list(there)[: int(rng.integers(1, 4))]
        named.insert(int(rng.integers(len(named) + 1)), absent(scene, rng).what)
        claim: Claim = Every(tuple(named))
        return claim, say(claim, rng)
    while True:
        claim = draw_claim(draw(int(rng.integers(2**63))), rng, motion=motion)
        if not claim.true_of(scene):
            return claim, say(claim, rng)


def _other(scene: Scene, draw: Callable[[int], Scene]) -> Scene:
    """Another scene that sounds different."""
    rng = scene_generator(scene, "audio other")
    while True:
        other = draw(int(rng.integers(2**63)))
        if _sounds(other) != _sounds(scene):
            return other


def _sounds(scene: Scene) -> list[tuple[str, ...]]:
    """The audible part of a scene."""
    return sorted((o.shape, o.colour, o.size, o.motion) for o in scene.objects)
