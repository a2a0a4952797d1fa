"""The chapter "Video QA": settings, rows and claims, and the decisions before any sweep.

Every row has the same clips, questions, steps and seeds. Rows of one model differ by :data:`ROWS`
alone, and by the learning rate. That is tuned for rows with CKA and rows without it alike: each
side tries the four rates of :data:`RATES` with seed 100, which is in no sweep, and takes the one
with the best accuracy on 1,000 questions of the validation split after the last epoch
(:func:`modalign.studies.videoqa.recording.tune`). The side with CKA tries them in the reading
"question, counted" and takes the same rate in all; rows with generated captions and rows of one
stream take the rates of their model. No number is the best of several epochs. A seed draws clips,
weights and order.

The paper leaves two things open. Losses of both models are sums over a batch, of 32 questions and
of 4 with STAGE, and lambda stands beside that (*batch*) or beside the loss of a question
(*question*): so lambda a question is 0.2 / 32 or 0.2 with TVQA_abc, and 0.1 / 4 or 0.1 with STAGE.
And 25 steps of CKA alone go *before* the others, or are the first of them (*counted*); the paper
says "few steps". The claims are judged over all four readings, by the 95% interval of differences
paired by seed, over 5 seeds or more, on test questions:

*c9*, accuracy of TVQA_abc with CKA minus without; the smallest effect is the paper's, 1.68 points.

*c10*, the same of STAGE; 2.58 points.

*c11*, accuracy of STAGE with CKA and generated captions minus STAGE with CKA, each pair in the same
reading; 0.99 points.

*c12a*, biased CKA between video and the words of question and answers, over all test questions,
rises: in TVQA_abc and in STAGE with captions, as in paper Table 1, with CKA minus without, and
after training minus before it; the paper's 0.39 and 0.27.

*c12b*, it rises to the level within text: it is no further below CKA between subtitles and words of
the same model than in the paper, 0.07 and 0.22. The contrast is CKA of video plus this much minus
CKA of subtitles; the smallest effect is 0.05.

Before this was written, seed 100 had shown validation accuracies of rows without CKA alone: STAGE
reached 84% in half a minute on one core, and TVQA_abc 66%, which the subtitles alone allow; from
video alone it learned little.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modalign._checks import require_choice, require_positive
from modalign.studies._claims import Claim

STREAMS = ("subtitles", "video", "captions")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        model: ``"tvqa"`` (TVQA_abc) or ``"stage"``.
        streams: what it gets beside question and answers, of ``"subtitles"``, ``"video"`` and
            generated ``"captions"``; with none, the same line for all.
        weight: lambda of CKA for each question of a batch, whose losses are added up.
        warmup_steps: of CKA alone ("few steps" in the paper).
        counted: whether these are of the ``epochs``, or go before them.
        text_bias: the chance that the subtitles say the answer.
        answer_bias: the chance that a word of the right answer sets it apart from the wrong ones.
        examples, watched, tested: questions to train on, to validate on after each epoch, and to
            test on at the end.
        captioned: clips that the captioner is trained on.
        width: of words, states and what is compared.
        epochs: passes over the questions; rows of TVQA_abc, which is slower, take 10.
        batch_size: questions a step (paper: 32, and 4 for STAGE).
        learning_rate: of Adam (paper: 3e-4, and 1e-3 for STAGE).
        seed: of clips, weights and order.
    """

    model: str = "stage"
    streams: tuple[str, ...] = ("subtitles", "video")
    weight: float = 0.0
    warmup_steps: int = 0
    counted: bool = True
    text_bias: float = 0.5
    answer_bias: float = 0.2
    examples: int = 2000
    watched: int = 400
    tested: int = 1000
    captioned: int = 400
    width: int = 32
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice(self.model, ("tvqa", "stage"), "model")
        for name in self.streams:
            require_choice(name, STREAMS, "streams")
        if self.model == "tvqa" and "captions" in self.streams:
            raise ValueError("streams: captions are given to STAGE alone, as in the paper")
        require_positive(
            examples=self.examples,
            batch_size=self.batch_size,
            epochs=self.epochs,
            width=self.width,
            captioned=self.captioned,
        )
        for name in ("watched", "tested"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}: expected 2 questions or more, got {getattr(self, name)}")
        if self.examples < max(self.batch_size, self.captioned):
            raise ValueError(
                f"examples: expected a batch of {self.batch_size} and the {self.captioned} clips "
                f"to be captioned, or more, got {self.examples}"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps: expected 0 or more, got {self.warmup_steps}")

    @property
    def before(self) -> int:
        """Steps that go before the epochs, and are not counted."""
        return 0 if self.counted else self.warmup_steps


RATES = (1e-3, 2e-3, 4e-3, 8e-3)
"""Learning rates that either side tries."""
TUNED = 100
"""The seed of these trials."""

NAMES = {"tvqa": "TVQA_abc", "stage": "STAGE"}
CAPTIONED = "STAGE + captions"
_LAMBDAS = {"TVQA_abc": (0.2, 32), "STAGE": (0.1, 4), CAPTIONED: (0.1, 4)}
"""Of the paper: lambda, and the questions of a batch."""
READINGS = tuple(f"{beside}, {when}" for beside in ("batch", "question")
                 for when in ("counted", "before"))  # fmt: skip
TRIED = "question, counted"
"""The reading in which rows with CKA are tuned."""
_FLOORS = {"answers": (), "subtitles": ("subtitles",), "video": ("video",)}


def with_cka(name: str, reading: str) -> str:
    """The row of a model with CKA.

    >>> with_cka("STAGE", "batch, before")
    'STAGE + CKA, batch, before'
    """
    return f"{name} + CKA, {reading}"


def _rows() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for model, name in NAMES.items():
        common: dict[str, Any] = {"model": model, **({"epochs": 10} if model == "tvqa" else {})}
        for what, streams in _FLOORS.items():
            found[f"{name}, {what} only"] = common | {"streams": streams}
        for each in (name, CAPTIONED) if model == "stage" else (name,):
            own = common | ({"streams": STREAMS} if each == CAPTIONED else {})
            found[each] = own
            lambda_, batch = _LAMBDAS[each]
            for reading in READINGS:
                found[with_cka(each, reading)] = {
                    **own,
                    "weight": lambda_ / batch if "batch" in reading else lambda_,
                    "warmup_steps": 25,
                    "counted": "counted" in reading,
                }
    return found


ROWS = _rows()
"""The changes of each row: floors of a model, the model, and the model with CKA in each reading."""


class Contrast(NamedTuple):
    """A measure of a row, plus a constant, minus a measure of another; and the smallest effect."""

    row: str
    measure: str
    other: str
    than: str
    plus: float
    smallest: float


def _accuracy(name: str, other: Callable[[str], str], smallest: float) -> list[Contrast]:
    return [
        Contrast(with_cka(name, reading), "accuracy", other(reading), "accuracy", 0.0, smallest)
        for reading in READINGS
    ]


def _similarity(*thans: tuple[str, bool], rise: Mapping[str, float]) -> list[Contrast]:
    return [
        Contrast(row, "video_cka", row if same else name, than, 0.0, smallest)
        for name, smallest in rise.items()
        for row in (with_cka(name, reading) for reading in READINGS)
        for than, same in thans
    ]


CLAIMS: dict[str, list[Contrast]] = {
    "c9": _accuracy("TVQA_abc", lambda reading: "TVQA_abc", 1.68),
    "c10": _accuracy("STAGE", lambda reading: "STAGE", 2.58),
    "c11": _accuracy(CAPTIONED, lambda reading: with_cka("STAGE", reading), 0.99),
    "c12a": _similarity(
        ("video_cka", False),
        ("video_cka_before", True),
        rise={"TVQA_abc": 0.3908, CAPTIONED: 0.2710},
    ),
    "c12b": [
        Contrast(row, "video_cka", row, "subtitles_cka", gap, 0.05)
        for name, gap in (("TVQA_abc", 0.0713), (CAPTIONED, 0.2170))
        for row in (with_cka(name, reading) for reading in READINGS)
    ],
}
"""The contrasts that decide each claim, one a reading."""
_SAYS = {
    "c9": ("TVQA_abc answers more questions with CKA", "67.70 to 69.38, Table 2"),
    "c10": ("STAGE answers more questions with CKA", "70.31 to 72.89, Table 2"),
    "c11": ("generated captions add to it", "72.89 to 73.88, Table 2"),
    "c12a": ("training with CKA raises that of video and text", ".39 to .78, .27 to .67, Table 1"),
    "c12b": ("it rises to the level within text", ".78 to .85, .67 to .89, Table 1"),
}


def declared(claim: str, contrast: Contrast) -> Claim:
    """A claim as the book declares all of them, in one of its readings."""
    says, paper = _SAYS[claim]
    row, measure, other, than, plus, smallest = contrast
    shown = f"{other}: {than}" if measure != than else other
    return Claim(
        says=says,
        paper=paper,
        measure=measure + (f" + {plus:.2f}" if plus else ""),
        contrast=f"{row} minus {shown}",
        budget="the same clips and steps; four rates each with CKA and without, on validation",
        smallest=smallest,
        table="videoqa/shapes",
    )


PAPER = {
    "TVQA_abc": {"accuracy": 67.70, "video_cka": 0.3907, "subtitles_cka": 0.8798},
    "TVQA_abc + CKA": {"accuracy": 69.38, "video_cka": 0.7815, "subtitles_cka": 0.8528},
    "STAGE, video only": {"accuracy": 52.75},
    "STAGE, subtitles only": {"accuracy": 67.99},
    "STAGE": {"accuracy": 70.31, "video_cka": 0.2694, "subtitles_cka": 0.8999},
    "STAGE + CKA": {"accuracy": 72.89},
    CAPTIONED: {"video_cka": 0.3998, "subtitles_cka": 0.8625, "captions_cka": 0.8741},
    f"{CAPTIONED} + CKA": {
        "accuracy": 73.88,
        "video_cka": 0.6708,
        "subtitles_cka": 0.8878,
        "captions_cka": 0.9215,
    },
}
"""Tables 1 and 2 of the paper: accuracy in percent, and CKA with question and answers."""
