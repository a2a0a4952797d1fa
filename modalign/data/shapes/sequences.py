"""Long sequences of clips, and of snippets of text that describe some of them, to be aligned."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Int

from modalign.data.shapes.claims import Description, Every
from modalign.data.shapes.render import Pictures, render_video
from modalign.data.shapes.scene import Scene, Split, generator, sample_scene
from modalign.data.shapes.text import Sentence, say


@dataclasses.dataclass(frozen=True)
class Clip:
    """A stretch of time of one scene.

    Attributes:
        scene: what is seen.
        start: time of its first frame, from 0.
        stop: time of its last frame, to 1.
    """

    scene: Scene
    start: float = 0.0
    stop: float = 1.0

    def video(self, frames: int = 8, resolution: int = 64) -> Pictures:
        """Its frames, with boxes and masks, as :func:`render_video`."""
        return render_video(self.scene, frames, resolution, start=self.start, stop=self.stop)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """Clips and snippets, each in the order of time.

    Attributes:
        clips: C of them.
        snippets: S of them.
        matches: (S, C), bool: which snippet describes which clips. A row holds one run of clips, or
            none for an unmatched snippet; a column one snippet, or none for an unmatched clip.
    """

    clips: tuple[Clip, ...]
    snippets: tuple[Sentence, ...]
    matches: Bool[np.ndarray, "s c"]

    @property
    def clip_snippet(self) -> Int[np.ndarray, " c"]:
        """The snippet of each clip; -1 for none."""
        return np.where(self.matches.any(0), self.matches.argmax(0), -1)


def sample_sequence(
    seed: int,
    index: int,
    *,
    events: int = 10,
    most_clips: int = 3,
    unmatched_clips: float = 0.2,
    unmatched_snippets: float = 0.2,
    split: Split = "train",
    compositional: bool = False,
) -> Sequence:
    """Draw a sequence of events: a snippet with its clips, a clip alone, or a snippet alone.

    The clips of one snippet show one scene, cut into stretches of equal length. A snippet names
    two or more of the objects, with all their attributes. It is true of its own clips and false
    of all others, so that the matches can be found, and only those.

    Args:
        seed: of the world.
        index: of the sequence.
        events: number of events, at most 200.
        most_clips: a snippet has one to this many clips, each number equally likely.
        unmatched_clips: the chance that an event is a clip without a snippet.
        unmatched_snippets: the chance that it is a snippet without a clip. One event at least is
            a match: sequences without any are drawn again.
        split: of the scenes.
        compositional: as in :func:`sample_scene`.

    Raises:
        ValueError: for numbers below 1, too many events, chances that are not in [0, 1) or add
            up to 1, or as :func:`sample_scene`.

    >>> sequence = sample_sequence(0, 0, events=5)
    >>> sequence.matches.astype(int)
    array([[0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
           [0, 0, 0, 0, 1, 1, 0, 0, 0, 0],
           [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]])
    """
    _require_numbers(events, most_clips, unmatched_clips, unmatched_snippets)
    rng = generator(seed, index, split, "sequence")
    kinds = rng.random(events)
    while (kinds < unmatched_clips + unmatched_snippets).all():
        kinds = rng.random(events)
    clips: list[Clip] = []
    snippets: list[Sentence] = []
    matches: list[tuple[int, int]] = []
    for kind in kinds.tolist():
        has_text, shown = kind >= unmatched_clips, True
        if has_text:
            shown = kind >= unmatched_clips + unmatched_snippets
        while True:
            number = int(rng.integers(2**63))
            scene = sample_scene(
                seed, number, split=split, compositional=compositional, min_objects=2
            )
            claim = _tell(scene, rng)
            if _is_clear(scene, claim, clips, snippets if shown else []):
                break
        count = int(rng.integers(1, most_clips + 1)) if has_text else 1
        cuts = np.linspace(0, 1, count + 1).tolist() if shown else []
        if has_text:
            matches += [(len(snippets), len(clips) + k) for k in range(len(cuts[1:]))]
            snippets.append(Sentence(say(claim, rng), claim, shown))
        clips += [Clip(scene, *cut) for cut in itertools.pairwise(cuts)]
    table = np.zeros((len(snippets), len(clips)), bool)
    table[tuple(np.array(matches).T)] = True
    return Sequence(tuple(clips), tuple(snippets), table)


def _is_clear(scene: Scene, claim: Every, clips: list[Clip], snippets: list[Sentence]) -> bool:
    """Whether a claim is true of none of the clips so far, and no snippet so far of the scene."""
    confused = any(claim.true_of(clip.scene) for clip in clips)
    confused = confused or any(snippet.claim.true_of(scene) for snippet in snippets)
    return len(claim.parts) > 1 and not confused


def _tell(scene: Scene, rng: np.random.Generator) -> Every:
    """Two or more of the objects, in full, which stays true while they move."""
    full = [Description.of(o) for o in scene.objects]
    number = int(rng.integers(2, len(full) + 1))
    return Every(tuple(dict.fromkeys(full[i] for i in rng.permutation(len(full))[:number])))


def _require_numbers(
    events: int, most_clips: int, unmatched_clips: float, unmatched_snippets: float
) -> None:
    if not 1 <= events <= 200:
        raise ValueError(f"events: expected 1 to 200, got {events}")
    if most_clips < 1:
        raise ValueError(f"most_clips: expected at least 1, got {most_clips}")
    rates = {"unmatched_clips": unmatched_clips, "unmatched_snippets": unmatched_snippets}
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name}: expected a chance in [0, 1), got {rate}")
    if sum(rates.values()) >= 1:
        raise ValueError(f"{' + '.join(rates)}: expected less than 1, got {sum(rates.values())}")
