"""The chapter "Captioning": settings, rows and claims, and the decisions before any sweep.

Every row has the same pictures, steps and seeds, and differs by :data:`ROWS` alone: lambda, the
estimator, and a warm-up on CKA alone. Its epochs are *counted* among the others, or go *before*
them; the paper says "few steps", and leaves this open. A seed draws the weights, the order and the
captions, and in the world the scenes. Nothing was tuned for a row. The learning rate and the number
of epochs were set with the row ``without`` and seed 100, which is in no sweep. With them a run
learns to attend, or beats one caption for all, in a minute on one core. When this was written, some
scores of that seed had been seen: on the world those of ``without``, of lambda 0.1 without a
warm-up and of 0.05 with one before (BLEU-4 0.48, 0.41 and 0.39, of 16, 16 and 20 epochs), and on
Flickr8k that of ``without`` (0.07). Of seed 0 the row "0.05, biased" had been seen, which decides
nothing.

The contrasts are rows minus ``without``, paired by seed, over 5 seeds or more; claims predict a
positive difference. :data:`CLAIMS` decides a claim over all readings: biased CKA with a warm-up, as
in the paper, counted and before. Smallest effects of interest are :data:`SMALLEST`. Debiased CKA,
rows without a warm-up and means as pairs are additions of the book: they are shown, and decide
nothing.

*c7*, on Flickr8k. BLEU-4 of captions that the model makes alone, by beam search, on the official
test pictures against five references, after the last epoch. The smallest effect is the paper's,
0.0057.

*c8*, on Flickr8k. "Faster" is the mean of BLEU-4 on validation pictures over all epochs, the area
under the curve of paper Figure 6; "better from early epochs" the mean over the first third of them.
The paper prints no number. The smallest effect is 0.0057 again, and 0.02 in the world, where scores
are ten times as high.

*c36*, on the world, which alone knows where things are; lambda 0.05, as in paper Figure 5. The
model reads a true caption. Its attention at each word of a name is compared with the visible part
of the thing that has the name, moved to where the encoder's places see it. The measures are the
pointing game (2 points) and the intersection over union at half of the maximum (1 point), in
percent, means over words.
"""

import dataclasses
from typing import Any, NamedTuple

from modalign._checks import require_choice, require_positive
from modalign.studies._claims import Claim


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        dataset: ``"shapes"``, or ``"flickr8k"``, or another set with images and five captions each.
        weight: lambda of CKA (paper: 0.05 and 0.1); 0 trains without and still records CKA.
        estimator: of the CKA that is maximised, ``"biased"`` or ``"debiased"``.
        warmup_epochs: of CKA alone ("few steps" in the paper).
        counted: whether these are of the ``epochs``, or go before them.
        pairs: the sides of CKA: ``"sampled"`` places and words of a picture (the paper), or
            their ``"means"``, a vector a picture on either side.
        examples, watched, tested: pictures to train on, to validate on after each epoch, and to
            test on at the end.
        resolution: side of the pictures in pixels; Flickr8k's are made as small.
        patch: distance of the encoder's patches; a place of attention is 2 patch pixels wide.
        width: size of a place, of a word, of the attention, and half of the LSTM's state.
        epochs: passes over the pictures, each time with one of their five captions.
        batch_size: pictures a step (paper: 32).
        learning_rate: of Adam.
        min_count: words that come less often are ``<unk>`` (paper: 6).
        beam: of the search at the end; the curve over epochs is of the likeliest words.
        max_length: words of a generated caption at most.
        seed: of the weights and the order, and in the shapes world of the scenes.
    """

    dataset: str = "shapes"
    weight: float = 0.0
    estimator: str = "biased"
    warmup_epochs: int = 0
    counted: bool = True
    pairs: str = "sampled"
    examples: int = 1600
    watched: int = 200
    tested: int = 400
    resolution: int = 32
    patch: int = 2
    width: int = 64
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 4e-3
    min_count: int = 6
    beam: int = 3
    max_length: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice(self.estimator, ("biased", "debiased"), "estimator")
        require_choice(self.pairs, ("sampled", "means"), "pairs")
        require_positive(
            examples=self.examples,
            batch_size=self.batch_size,
            epochs=self.epochs,
            width=self.width,
        )
        for name in ("watched", "tested"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}: expected 2 pictures or more, got {getattr(self, name)}")
        if self.examples < self.batch_size:
            raise ValueError(
                f"examples: expected a batch of {self.batch_size} or more, got {self.examples}"
            )
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"warmup_epochs: expected 0 to the {self.epochs} epochs, got {self.warmup_epochs}"
            )

    @property
    def before(self) -> int:
        """Epochs that go before the others, and are not counted."""
        return 0 if self.counted else self.warmup_epochs


PRESETS: dict[str, dict[str, Any]] = {
    "shapes": {},
    "flickr8k": {"resolution": 64, "patch": 4, "tested": 1000, "epochs": 14},
}
"""Sizes of a recorded run on a CPU, of each data set."""
FULL: dict[str, Any] = {
    "examples": 6000,
    "watched": 1000,
    "tested": 1000,
    "resolution": 128,
    "patch": 4,
    "width": 512,
    "epochs": 20,
    "learning_rate": 4e-4,
    "max_length": 50,
}
"""All of Flickr8k, with 16 x 16 places and the paper's rate, for a GPU; it decides nothing."""

WITHOUT = "without"
WARM = {"warm-up": {"warmup_epochs": 1}, "before": {"warmup_epochs": 1, "counted": False}}
ROWS: dict[str, dict[str, Any]] = {
    WITHOUT: {},
    **{
        ", ".join(filter(None, (str(weight), estimator, warm))): {
            "weight": weight,
            "estimator": estimator,
            **WARM.get(warm, {}),
        }
        for weight in (0.05, 0.1)
        for estimator in ("biased", "debiased")
        for warm in ("", *WARM)
        if (estimator, warm) != ("debiased", "before")
    },
    "0.1, biased, means": {"weight": 0.1, "pairs": "means"},
}
"""The changes of each row. A warm-up takes one epoch, of the others or before them."""


class Contrasts(NamedTuple):
    """The data set that decides a claim, and its readings: each measure in each row."""

    dataset: str
    measures: tuple[str, ...]
    rows: tuple[str, ...]


_PAPERS = {weight: tuple(f"{weight}, biased, {warm}" for warm in WARM) for weight in (0.05, 0.1)}
CLAIMS = {
    "c7": Contrasts("flickr8k", ("bleu_4",), _PAPERS[0.05] + _PAPERS[0.1]),
    "c8": Contrasts("flickr8k", ("curve", "early"), _PAPERS[0.05] + _PAPERS[0.1]),
    "c36": Contrasts("shapes", ("pointing", "iou"), _PAPERS[0.05]),
}
SMALLEST = {
    "flickr8k": {"bleu_4": 0.0057, "curve": 0.0057, "early": 0.0057},
    "shapes": {"bleu_4": 0.02, "curve": 0.02, "early": 0.02, "pointing": 2.0, "iou": 1.0},
}
_SAYS = {
    "c7": ("BLEU-4 rises with CKA", ".1560 to .1617, 4.2"),
    "c8": ("with CKA training converges faster, and is better from early epochs", "Figure 6"),
    "c36": ("with CKA attention looks at the right places more often", "Figure 5"),
}


def declared(claim: str, measure: str, row: str, dataset: str) -> Claim:
    """A claim as the book declares all of them, in one of its readings."""
    says, paper = _SAYS[claim]
    return Claim(
        says=says,
        paper=paper,
        measure=measure,
        contrast=f"{row} minus {WITHOUT}",
        budget="the same pictures, steps and rate, which was chosen without CKA",
        smallest=SMALLEST[dataset][measure],
        table=f"captioning/{dataset}",
    )


CONSTANT = {
    "flickr8k": "A dog is running through the grass .",
    "shapes": "a large red circle and a small white star",
}
"""One caption for all pictures."""
