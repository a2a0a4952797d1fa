"""Settings, arms and conditions of the chapter "Choosing", and the decisions before its sweeps.

* **Model.** One network for every arm: a picture is the hub, and its sound and its text are each
  matched with it by InfoNCE. The arms of :data:`ARMS` add a method, or two, and change nothing
  else. Which two: those that one paper joins (intra-modal and codebook: CODIS; realignment and
  curriculum: VATT; LARS with normalised outputs, and LARS with projected inputs: NeuMATCH), and CKA
  with intra-modal alignment, the two terms that look at a modality's own similarities.
* **Budget.** Every arm has the same data, pairs seen and order of batches, and the same search: the
  trials of :func:`trials`, as many for each arm, of which the baseline too has its share. A
  trial is a learning rate and, if the arm has one, its knob; the rates are spread evenly in their
  logarithm over a range of 30 (LARS over its own), and the knob's values are each with one of them.
  The trial with the best mean of the measure on the *validation* split, over the seeds of
  :data:`TUNING`, is frozen for all conditions of its data set, before any test score is computed.
  The search of the world is made in the condition ``usual``.
* **Measure.** In the world and on photographs R@10 of the picture by its sound, of the sound by
  the picture, and so with the text, the mean of the four in percent, after the last step; on spoken
  digits the share of queries whose nearest candidate is of their digit. Scores on the test split
  are computed in the test alone. No number is the best of several steps.
* **Contrasts.** An arm minus the baseline, paired by seed, in each condition, over the seeds of
  :data:`SEEDS`, which are in no search. The smallest effect of interest is 2 points, and half a
  point on photographs, where R@10 is near its floor. The verdict is the book's rule, with the
  arm's gain as the side that is claimed; beside it stands how many of all intervals exclude zero
  after Benjamini and Hochberg. A pair of methods is judged against the
  baseline too; against the better of its two it is exploratory.
* **Seconds** are those of one core that the steps took, without evaluation. At equal seconds an arm
  is read when it has used as much as the baseline in the same condition, by a line between the
  scores before and after; an arm that is faster is read at its end.
* **Sizes** were chosen with the baseline, seed 100 and one rate, on validation. There are enough
  steps for R@10 of the usual condition to stop rising (42.6%; chance is 2). There is enough noise
  for the weak sound to be found less often (13.4% in place of 33.9), and there are few enough
  digits for some to be missed (93.1% right; 98.7 with 2,400 recordings).

Numbers below these are exploratory.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from modalign._checks import require_choice, require_positive

Dataset = Literal["shapes", "digits", "photographs"]
HUB_DATA = "hub:"
Optimizer = Literal["adam", "lars"]
Normalization = Literal["none", "batch", "layer"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        dataset: ``"shapes"``, a picture with its sound and a sentence; ``"digits"``, a scan with
            its recording and word; ``"photographs"``, Flickr8k with two captions each; or pictures
            with two captions or more as ``hub:FOLDER``, which :func:`modalign.data.load` reads,
            with the columns ``image`` and ``captions``.
        examples: to train on, at most.
        candidates: of validation and test, at most.
        misaligned: share of the training texts that describe another picture.
        weak: noise in the sounds, in their standard deviations; not for photographs.
        batch_size: examples a step.
        seen: examples in all steps together.
        learning_rate: of Adam, or of LARS on Adam.
        cka, intra, code: weights of CKA of picture and other view, of alignment within a view with
            a momentum teacher, and of the codebook.
        realign: gradients of the two losses are realigned.
        gamma: where the curriculum's threshold ends, 0.3 above its start; None without one.
        optimizer: ``"adam"`` or ``"lars"``.
        normalization: of the vectors before they are brought to length one.
        projected: the first layer of each encoder is a random projection that nobody trains.
        seed: of all that is drawn.
    """

    dataset: str = "shapes"
    examples: int = 1000
    candidates: int = 500
    misaligned: float = 0.0
    weak: float = 0.0
    batch_size: int = 64
    seen: int = 19_200
    learning_rate: float = 1e-3
    cka: float = 0.0
    intra: float = 0.0
    code: float = 0.0
    realign: bool = False
    gamma: float | None = None
    optimizer: Optimizer = "adam"
    normalization: Normalization = "none"
    projected: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.dataset.startswith(HUB_DATA):
            require_choice(self.dataset, (*get_args(Dataset), f"{HUB_DATA}NAME"), "dataset")
        require_choice(self.optimizer, get_args(Optimizer), "optimizer")
        require_choice(self.normalization, get_args(Normalization), "normalization")
        require_positive(learning_rate=self.learning_rate, candidates=self.candidates)
        if not 4 <= self.batch_size <= self.examples:
            raise ValueError(
                f"batch_size: expected 4 to {self.examples} examples, got {self.batch_size}"
            )
        if self.steps < ROUNDS:
            raise ValueError(
                f"seen: expected {ROUNDS * self.batch_size} examples or more, got {self.seen}"
            )
        if not 0 <= self.misaligned <= 1:
            raise ValueError(f"misaligned: expected a share from 0 to 1, got {self.misaligned}")
        for name in ("weak", "cka", "intra", "code"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.harmonized and (self.cka or self.intra or self.code):
            raise ValueError(
                "realign, gamma: they harmonise two losses, and expect no third: cka, intra and "
                f"code have to be 0, got {self.cka}, {self.intra} and {self.code}"
            )
        if self.weak and self.without_sound:
            raise ValueError(f"weak: photographs have no sound, got {self.weak}")

    @property
    def steps(self) -> int:
        return self.seen // self.batch_size

    @property
    def without_sound(self) -> bool:
        return self.dataset not in ("shapes", "digits")

    @property
    def harmonized(self) -> bool:
        return self.realign or self.gamma is not None


ROUNDS = 6
"""How often a run is scored: after each sixth of its steps."""
TRIALS = 8
"""Trials of each arm in the search."""
TUNING = (200, 201)
"""Seeds of the search."""
SEEDS = tuple(range(8))
"""Seeds of the test."""
SMALLEST: dict[Dataset, float] = {"shapes": 2.0, "digits": 2.0, "photographs": 0.5}
"""The smallest effect of interest of each data set, in points."""
RATES: dict[Optimizer, tuple[float, float]] = {"adam": (3e-4, 1e-2), "lars": (2e-3, 6e-2)}


class Arm(NamedTuple):
    """A method, or two.

    Attributes:
        changes: of the baseline's :class:`Setting`.
        knobs: parameters that the search sets to one and the same value.
        between: the lowest and highest value of it.
        evenly: whether its values are spread evenly, or so in their logarithm.
    """

    changes: Mapping[str, Any] = {}
    knobs: tuple[str, ...] = ()
    between: tuple[float, float] = (0.0, 0.0)
    evenly: bool = False


WEIGHTS = (0.03, 3.0)
GAMMAS = (-0.2, 0.2)
BASELINE = "baseline"
ARMS: dict[str, Arm] = {
    BASELINE: Arm(),
    "CKA": Arm({}, ("cka",), WEIGHTS),
    "intra-modal": Arm({}, ("intra",), WEIGHTS),
    "codebook": Arm({}, ("code",), WEIGHTS),
    "realignment": Arm({"realign": True}),
    "curriculum": Arm({}, ("gamma",), GAMMAS, evenly=True),
    "LARS": Arm({"optimizer": "lars"}),
    "batch norm": Arm({"normalization": "batch"}),
    "layer norm": Arm({"normalization": "layer"}),
    "projection": Arm({"projected": True}),
    "intra-modal + codebook": Arm({}, ("intra", "code"), WEIGHTS),
    "realignment + curriculum": Arm({"realign": True}, ("gamma",), GAMMAS, evenly=True),
    "LARS + batch norm": Arm({"optimizer": "lars", "normalization": "batch"}),
    "LARS + projection": Arm({"optimizer": "lars", "projected": True}),
    "CKA + intra-modal": Arm({}, ("cka", "intra"), WEIGHTS),
}
SINGLE = tuple(name for name in ARMS if "+" not in name)

CONDITIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "250 examples": {"examples": 250},
    "4,000 examples": {"examples": 4000},
    "30% misaligned": {"misaligned": 0.3},
    "60% misaligned": {"misaligned": 0.6},
    "weak sound": {"weak": 3.0},
    "batches of 16": {"batch_size": 16},
    "batches of 256": {"batch_size": 256},
    "digits": {"dataset": "digits", "examples": 250, "candidates": 300},
    "photographs": {"dataset": "photographs", "examples": 6000, "candidates": 1000, "seen": 38_400},
}
"""Each differs from the usual one along one axis; the last two are real data."""
MEANING = {
    "usual": "1,000 clean triplets, batches of 64",
    "250 examples": "only 250 triplets",
    "4,000 examples": "4,000 triplets",
    "30% misaligned": "30% of the texts belong to something else",
    "60% misaligned": "60% of the texts belong to something else",
    "weak sound": "one view, the sound, tells little",
    "batches of 16": "batches of 16",
    "batches of 256": "batches of 256",
    "digits": "spoken digits: 250 scans, recordings and words",
    "photographs": "Flickr8k: 6,000 photographs, two captions each",
}
"""The meaning of a condition for a reader's data."""
EVERY_ARM = ("usual", "250 examples", "30% misaligned")
"""Conditions in which pairs of methods are tested too; elsewhere the single ones."""
SEARCHED = ("usual", "digits", "photographs")
"""The conditions in which every arm is searched: one for each data set."""


def arms_of(condition: str) -> tuple[str, ...]:
    """The arms that are tested in a condition."""
    return tuple(ARMS) if condition in EVERY_ARM else SINGLE


def search_of(condition: str) -> str:
    """The condition whose search chose the trials of a condition's arms."""
    return condition if condition in SEARCHED else SEARCHED[0]


def trials(arm: str) -> list[dict[str, Any]]:
    """The trials of an arm: changes of a :class:`Setting`, as many for every arm.

    >>> [round(trial["learning_rate"], 4) for trial in trials("baseline")]
    [0.0003, 0.0005, 0.0008, 0.0013, 0.0022, 0.0037, 0.0061, 0.01]
    >>> [round(trial["cka"], 2) for trial in trials("CKA")]
    [0.42, 0.06, 1.55, 0.22, 0.03, 3.0, 0.11, 0.8]
    """
    how = ARMS[arm]
    rates = _spread(RATES[how.changes.get("optimizer", "adam")], evenly=False)
    if not how.knobs:
        return [{**how.changes, "learning_rate": rate} for rate in rates]
    # each value once, and neither rising nor falling with the rate
    values = _spread(how.between, evenly=how.evenly)
    order = (4, 1, 6, 3, 0, 7, 2, 5)
    return [
        {**how.changes, "learning_rate": rate, **dict.fromkeys(how.knobs, values[i])}
        for rate, i in zip(rates, order, strict=True)
    ]


def _spread(between: tuple[float, float], *, evenly: bool) -> list[float]:
    low, high = between
    shares = [i / (TRIALS - 1) for i in range(TRIALS)]
    if evenly:
        return [low + share * (high - low) for share in shares]
    return [low * (high / low) ** share for share in shares]
