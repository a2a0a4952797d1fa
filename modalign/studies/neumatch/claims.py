"""The paper's statements on NeuMATCH's rows, as contrasts of two rows, and their verdicts.

A contrast is declared once, in :data:`CONTRASTS`: the claim it belongs to, the paper's statement
and its place, the measure, the two rows, and the paper's effect, which is also the smallest effect
of interest. It is judged by the paired differences over seeds, at the last epoch unless a
comparison says otherwise, by :meth:`modalign.metrics.Interval.verdict`.

For the comparisons of :data:`modalign.studies.neumatch.fair.COMPARISONS` all of this was decided
before their sweeps ran. For the older tables (one rate an optimiser, five seeds) it was not, as the
history of this repository shows; see :data:`SET_BEFORE`. No smallest effect had been set
for those, so that none of their contrasts is ever called absent.
"""

import math
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from modalign import records
from modalign.metrics import difference, interval_table
from modalign.studies._claims import Claim, decided, judged
from modalign.studies.neumatch.experiments import (
    NONE,
    PAPER,
    PUBLISHED,
    PUBLISHED_RATIOS,
    STOPPED,
    finals,
)
from modalign.studies.neumatch.fair import COMPARISONS, at_an_end, read, short_of

VIDEO, IOU = MEASURES = ("test video_accuracy", "test text_iou")
PARTS = ("video", "text", "action and matched", "fc")
LARGER = {part: f"larger ratio, {part}" for part in PARTS}
CLOSER = "stacks in step"
STACKS = ("video", "text")
CENTRED, VARIANCE = "centred outputs", "variance of outputs"
ADAM, WARM_UP = "RP + SBN + Adam", "RP + SBN + Adam, warm-up"


class Contrast(NamedTuple):
    """Two rows of a table, and the paper's statement on them.

    Attributes:
        claim: its id in the book's list of claims, with a letter if a claim has parts.
        says: the statement.
        where: in the paper.
        measure: ``test video_accuracy`` or ``test text_iou``; of the ratios of norms, the logarithm
            of a part's, or minus the distance of the Text Stack's from the Video Stack's in powers
            of two; of the stacks' outputs, the median variance of a dimension, or minus half the
            width of the band that holds the means of 80% of the dimensions.
        better: the row that the paper has ahead.
        worse: the other one.
        paper: its effect, in the unit of the measure: the smallest effect of interest. NaN if it
            prints none.
    """

    claim: str
    says: str
    where: str
    measure: str
    better: str
    worse: str
    paper: float


def _scores(claim: str, says: str, where: str, better: str, worse: str) -> list[Contrast]:
    """A statement in both measures, with the paper's difference of its printed scores."""
    apart = np.subtract(PUBLISHED[better], PUBLISHED[worse]) / 100
    return [
        Contrast(claim, says, where, measure, better, worse, round(float(each), 3))
        for measure, each in zip(MEASURES, apart, strict=True)
    ]


def _ratios(claim: str, says: str, where: str, better: str, worse: str) -> list[Contrast]:
    """A statement on the ratio of norms of each part, with the paper's in logarithms."""
    apart = np.log(np.divide(PUBLISHED_RATIOS[better], PUBLISHED_RATIOS[worse]))
    return [
        Contrast(claim, says, where, LARGER[part], better, worse, round(float(each), 3))
        for part, each in zip(PARTS, apart, strict=True)
    ]


def _step(row: str) -> float:
    """Distance of the paper's ratios of the two stacks, in powers of two."""
    video, text, *_ = PUBLISHED_RATIOS[row]
    return abs(math.log2(text / video))


def _moments(claim: str, says: str, moment: str) -> list[Contrast]:
    """A statement on the outputs of both stacks, which the paper draws and does not print."""
    return [
        Contrast(claim, f"{says} {other}", "Figure 5", f"{moment}, {stack}", PAPER, row, math.nan)
        for other, row in (("without", "RP + LARS"), ("with 2xLN", LN["2xLN"]))
        for stack in STACKS
    ]


LN = {norm: f"RP + {norm} + LARS" for norm in ("2xLN", "4xLN")}
CONTRASTS: tuple[Contrast, ...] = (
    *_scores("c28a", "pretraining helps", "Table 1", f"{NONE}, pretrained", NONE),
    *_scores("c28b", "early stopping helps", "Table 1", STOPPED, NONE),
    *_scores("c29", "LARS beats Adam", "Table 2", PAPER, ADAM),
    *_scores("c29", "LARS beats Adam with warm-up", "Table 2", PAPER, WARM_UP),
    *_scores("Table 2", "warm-up helps Adam", "Table 2", WARM_UP, ADAM),
    *_ratios("c30a", "LARS raises the ratios above Adam's", "Table 3", PAPER, ADAM),
    *_ratios("c30a", "LARS raises the ratios above warm-up's", "Table 3", PAPER, WARM_UP),
    Contrast(
        "c30b",
        "LARS brings the two stacks closer",
        "Table 3",
        CLOSER,
        PAPER,
        ADAM,
        round(_step(ADAM) - _step(PAPER), 3),
    ),
    *_scores("c31a", "SBN beats 2xLN under LARS", "Table 4", PAPER, LN["2xLN"]),
    *_scores("c31a", "SBN beats 4xLN under LARS", "Table 4", PAPER, LN["4xLN"]),
    *_scores("c31b", "2xLN beats SBN under Adam", "Table 4", "RP + 2xLN + Adam", ADAM),
    # in text IoU the paper has SBN ahead of this one
    *_scores("c31b", "4xLN beats SBN under Adam", "Table 4", "RP + 4xLN + Adam", ADAM)[:1],
    *_scores("Table 4", "LARS beats Adam with 2xLN", "Table 4", LN["2xLN"], "RP + 2xLN + Adam"),
    *_scores("Table 4", "LARS beats Adam with 4xLN", "Table 4", LN["4xLN"], "RP + 4xLN + Adam"),
    *_scores("c32a", "RP beats full features", "Table 5", PAPER, "Full + SBN + LARS"),
    *_scores(
        "c32b", "full features beat RP with 4xLN", "Table 5", "Full + 4xLN + LARS", LN["4xLN"]
    ),
    *_moments("c34a", "SBN has means nearer to 0 than", CENTRED),
    *_moments("c34b", "SBN has larger variances than", VARIANCE),
    *_ratios("c41a", "2xLN has higher ratios than SBN", "Table 3", LN["2xLN"], PAPER),
    *_ratios("c41a", "4xLN has higher ratios than SBN", "Table 3", LN["4xLN"], PAPER),
    *_scores("c41b", "2xLN generalises worse than SBN", "Table 4", PAPER, LN["2xLN"]),
    *_scores("c41b", "4xLN generalises worse than SBN", "Table 4", PAPER, LN["4xLN"]),
    *_scores("Table 1", "the three techniques beat no technique", "Table 1", PAPER, NONE),
    *_scores(
        "Table 1", "RP, SBN and LARS beat pretraining", "Table 1", PAPER, f"{NONE}, pretrained"
    ),
)
"""The statements of Tables 1 to 5. Those of no claim of the book's list bear a table's name."""

SET_BEFORE = (
    "pretraining helps",
    "early stopping helps",
    "LARS beats Adam",
    "LARS beats Adam with warm-up",
    "warm-up helps Adam",
    "SBN beats 2xLN under LARS",
    "SBN beats 4xLN under LARS",
    "RP beats full features",
    "the three techniques beat no technique",
    "RP, SBN and LARS beat pretraining",
)
"""The statements that were set before the first sweep; all else on the older tables is exploratory.

The ten stand in this repository's history before the first run, of 21 November 2026, 14:24. Two on
layer normalisation under Adam and on full features with 4xLN came half an hour later, while the
sweep of the shapes world ran. LARS against Adam with layer normalisation came after its table was
recorded, and the statements on the ratios of norms after all sweeps. The table of 350 epochs was
made because that of 60 left most undecided, and its third row after its first two had been seen.
"""

NO_RELU = "Full + {} + LARS, no ReLU"
NARROW = "Full + SBN + LARS, as many weights"
INPUT_CONTRASTS: tuple[Contrast, ...] = (
    # the paper says that training is the only difference; its code has a ReLU more
    *(each for each in CONTRASTS if each.claim in ("c32a", "c32b")),
    *(
        each._replace(says=f"{each.says}, no ReLU", worse=NO_RELU.format("SBN"))
        for each in CONTRASTS
        if each.claim == "c32a"
    ),
    *(
        each._replace(says=f"{each.says}, no ReLU", better=NO_RELU.format("4xLN"))
        for each in CONTRASTS
        if each.claim == "c32b"
    ),
    # the paper's reason: as few weights as with RP, and the gain is there without RP
    *(
        each._replace(
            claim="c38",
            says="fewer weights help the full width",
            where="4.6",
            better=NARROW,
            worse=NO_RELU.format("SBN"),
        )
        for each in CONTRASTS
        if each.claim == "c32a"
    ),
)
DECIDED: dict[str, tuple[Contrast, ...]] = {
    "optimizers": tuple(
        each for each in CONTRASTS if each.claim in ("c29", "Table 2", "c30a", "c30b")
    ),
    "normalizations": tuple(
        each for each in CONTRASTS if each.claim in ("c31a", "c31b", "c41a", "c41b", "Table 4")
    ),
    "projections": INPUT_CONTRASTS,
}
"""The contrasts that each fair comparison decides."""
SCORES = tuple(
    each
    for each in CONTRASTS
    if each.measure in MEASURES and each.claim != "c41b"  # which are those of c31a
)
"""The contrasts of scores, each once."""


def with_measures(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the measures of their ratios of norms and their outputs, one row a run."""
    ratios = {part: runs[f"last ratio {part}"] for part in PARTS}
    apart = np.log2(ratios["text"] / ratios["video"]).abs()
    larger = {LARGER[part]: np.log(ratio) for part, ratio in ratios.items()}
    outputs = {f"{VARIANCE}, {stack}": runs[f"{stack} variance 50%"] for stack in STACKS}
    for stack in STACKS:
        band = runs[f"{stack} mean 90%"] - runs[f"{stack} mean 10%"]
        outputs[f"{CENTRED}, {stack}"] = -band / 2
    return runs.assign(**larger, **outputs, **{CLOSER: -apart})


def judge(
    runs: pd.DataFrame,
    contrasts: Iterable[Contrast] = CONTRASTS,
    *,
    fair: bool = False,
    budget: str = "",
    table: str = "",
) -> pd.DataFrame:
    """Judge contrasts by runs, one row each of a row's name and a seed.

    Args:
        runs: with the columns ``row``, ``seed``, the measures and ``last ratio ...``.
        contrasts: those whose rows the runs have are judged.
        fair: whether the contrasts and their smallest effects were set before the runs. If not,
            nothing is absent, and what :data:`SET_BEFORE` does not name is exploratory.
        budget: of both sides.
        table: that holds the runs.

    Returns:
        The rows of :func:`modalign.studies._claims.judged`, one a contrast, with ``says``,
        ``measure``, ``contrast``, ``table``, ``exploratory``, and the paper's effect as ``paper``.
    """
    by_row = {row: part.set_index("seed") for row, part in with_measures(runs).groupby("row")}
    found = []
    for each in contrasts:
        if not {each.better, each.worse} <= set(by_row):
            continue
        claim = Claim(
            says=each.says,
            paper=each.where if math.isnan(each.paper) else f"{each.paper:g}, {each.where}",
            measure=each.measure,
            contrast=f"{each.better} minus {each.worse}",
            budget=budget,
            smallest=abs(each.paper) if fair else 0.0,
            table=table,
            exploratory=not fair and each.says not in SET_BEFORE,
        )
        sides = (by_row[row][each.measure].to_dict() for row in (each.better, each.worse))
        reading = (each.claim, each.says, difference(*sides), len(by_row[each.better]))
        row = judged({each.claim: claim}, [reading])
        if not fair and row.verdict[0] == "undecided" and each.paper:
            # what a sweep would take that sets the paper's effect before it runs
            row["seeds"] = reading[2].seeds_to_decide(reading[3], smallest=abs(each.paper))
        about = {"measure": each.measure, "paper": each.paper, "exploratory": claim.exploratory}
        about |= {"says": claim.says, "contrast": claim.contrast, "table": claim.table}
        found.append(row.assign(**about))
    return pd.concat(found, ignore_index=True)


class Decision(NamedTuple):
    """The source of a verdict: a fair comparison, and an older table until that is recorded.

    Attributes:
        comparison: of :data:`modalign.studies.neumatch.fair.COMPARISONS`; None if none is planned.
        hangs: the budget of both sides in the older table, on which the verdict hangs there.
    """

    comparison: str | None
    hangs: str


ONE_RATE = "one rate each: LARS 0.007, the paper's, and Adam 0.001"
DECISIONS: dict[str, Decision] = {
    "Table 1": Decision(None, f"{ONE_RATE}; the full width has one ReLU more"),
    "c28a": Decision(None, "Adam at 0.001 for both; our own pretraining of 10 epochs"),
    "c28b": Decision(None, "the same runs, read at two epochs; Adam at 0.001"),
    "c29": Decision("optimizers", ONE_RATE),
    "c30a": Decision("optimizers", ONE_RATE),
    "c30b": Decision("optimizers", ONE_RATE),
    "c31a": Decision("normalizations", "LARS at 0.007 for all; training ends at 90, 80 and 78%"),
    "c31b": Decision("normalizations", "Adam at 0.001 for all; training ends at 84, 100 and 100%"),
    "c32a": Decision("projections", "LARS at 0.007 for both; the full width has one ReLU more"),
    "c32b": Decision("projections", "LARS at 0.007 for both; the full width has one ReLU more"),
    "c34a": Decision(None, "LARS at 0.007 for all"),
    "c34b": Decision(None, "LARS at 0.007 for all"),
    "c35": Decision(None, "the same run, read at two epochs"),
    "c38": Decision("projections", ""),
    "c41a": Decision("normalizations", "LARS at 0.007 for all"),
    "c41b": Decision("normalizations", "LARS at 0.007 for all; training ends at 90, 80 and 78%"),
}
"""The source of each verdict, in the shapes world: on YMS the network hardly leaves the floor."""
FAIR_BUDGET = "5 rates an arm, the best on validation over 2 seeds; tested with 8 others"


STEADY = Claim(
    says="with the three techniques test scores are stable to the end of training",
    paper="Figure 3",
    measure="score",
    contrast="epoch 350 minus epoch 250",
    budget="the same run, read at two epochs",
    smallest=0.01,
    table="neumatch/yms-long",
    denies="difference",
    exploratory=True,
)


def steadiness(table: pd.DataFrame, row: str = PAPER, *, since: int = 250) -> pd.DataFrame:
    """How much a row's test scores change between an epoch and the last one, in both measures."""
    runs = table[table["row"] == row]
    found = []
    for measure in MEASURES:
        scores = runs.pivot(index="seed", columns="epoch", values=measure)
        change = difference(scores[scores.columns.max()].to_dict(), scores[since].to_dict())
        found.append(("c35", STEADY.says, change, len(scores)))
    about = {"measure": MEASURES, "paper": math.nan, "exploratory": STEADY.exploratory}
    about |= {"says": STEADY.says, "contrast": STEADY.contrast, "table": STEADY.table}
    return judged({"c35": STEADY}, found).assign(**about)


def readings(claim: str, folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Every reading of a claim, from the table that decides it; empty if nothing is recorded.

    They are the fair comparison's if it is recorded, and the older one's until then. ``budget`` is
    that of both sides.
    """
    comparison, hangs = DECISIONS[claim]
    name = f"neumatch/fair-{comparison}"
    root = records.results_folder(folder)
    if comparison and (root / f"{name}.json").exists():
        reach = COMPARISONS[comparison].reach
        tested = records.load(name, folder=folder)
        runs = read(tested, reach)
        contrasts = [each for each in DECIDED[comparison] if each.claim == claim]
        compared = {row for each in contrasts for row in (each.better, each.worse)}
        ends = at_an_end(comparison, records.load(f"{name}-search", folder=folder))
        budget = FAIR_BUDGET
        if told := ", ".join(arm for arm in ends if arm in compared):
            budget += f"; the best rate at an end of its grid: {told}"
        short = short_of(tested, reach).items()
        if told := ", ".join(f"{arm} ({missed})" for arm, missed in short if arm in compared):
            budget += f"; read at the end, short of {reach:.0%} in training: {told}"
        found = judge(runs, contrasts, fair=True, budget=budget, table=name)
        return found.assign(budget=budget, fair=True)
    if claim == "c35":
        long = records.load("neumatch/yms-long", folder=folder)
        return steadiness(long).assign(budget=hangs, fair=False)
    contrasts = [each for each in CONTRASTS if each.claim == claim]
    if not contrasts:
        return pd.DataFrame()
    older = finals(records.load("neumatch/shapes", folder=folder))
    found = judge(older, contrasts, budget=hangs, table="neumatch/shapes")
    return found.assign(budget=hangs, fair=False)


def every_reading(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """:func:`readings` of all claims of :data:`DECISIONS`."""
    found = (readings(claim, folder) for claim in DECISIONS)
    return pd.concat([each for each in found if len(each)], ignore_index=True)


def verdicts(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """One verdict for each claim of :data:`DECISIONS` that a recorded table decides.

    Returns:
        The rows of :func:`modalign.studies._claims.decided`, with ``budget``, ``fair``, and
        ``exploratory`` if every reading is.
    """
    rows = []
    for claim in DECISIONS:
        found = readings(claim, folder)
        if len(found):
            about = {"budget": found.budget[0], "fair": bool(found.fair[0])}
            row = decided(found).assign(**about, exploratory=bool(found.exploratory.all()))
            rows.append(row)
    return pd.concat(rows)


def beside(comparison: str, folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """A fair comparison's readings beside those of its world's older table, with one rate each.

    Args:
        comparison: of :data:`modalign.studies.neumatch.fair.COMPARISONS`, recorded.
        folder: results folder; the book's by default.

    Returns:
        A row a contrast, of scores and of ratios: ``claim``, ``reading``, ``measure``, and
        ``mean``, ``low``, ``high``, ``pairs`` and ``verdict`` for ``fair`` and for ``one rate``,
        missing if the older table has no such rows.
    """
    keys = ["claim", "reading", "measure"]
    world = COMPARISONS[comparison].common.get("dataset", "shapes")
    table = records.load(f"neumatch/fair-{comparison}", folder=folder)
    runs = {
        "fair": read(table, COMPARISONS[comparison].reach),
        "one rate": finals(records.load(f"neumatch/{world}", folder=folder)),
    }
    found = {
        kind: judge(each, DECIDED[comparison], fair=kind == "fair").set_index(keys)
        for kind, each in runs.items()
    }
    shown = ["mean", "low", "high", "pairs", "verdict"]
    return pd.concat({kind: each[shown] for kind, each in found.items()}, axis=1).reindex(
        found["fair"].index
    )


def arms(comparison: str, folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """The arms of a recorded comparison, each at its rate, with test scores in percent.

    Args:
        comparison: of :data:`modalign.studies.neumatch.fair.COMPARISONS`, recorded.
        folder: results folder; the book's by default.

    Returns:
        A row an arm: ``rate``, and mean and interval over seeds of ``video_accuracy``,
        ``text_iou`` and ``train text_iou``. If runs are read where training first reached so
        much, also ``epoch``, at which they are on average, and how many are ``short`` of it.
    """
    reach = COMPARISONS[comparison].reach
    tested = records.load(f"neumatch/fair-{comparison}", folder=folder)
    runs = read(tested, reach)
    names = {each: each.removeprefix("test ") for each in (*MEASURES, "train text_iou")}
    scores = (100 * runs.set_index("row")[list(names)]).rename(columns=names)
    found = interval_table(scores, "row", list(scores), digits=1)
    by_row = runs.groupby("row")
    found.insert(0, "rate", by_row["rate"].first())
    if reach is not None:
        found["epoch"] = by_row["epoch"].mean().map("{:.0f}".format)
        short = short_of(tested, reach)
        found["short"] = [short.get(str(arm), "none") for arm in found.index]
    return found.reindex(list(COMPARISONS[comparison].arms))


def minus_unmatched(runs: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    """Each row minus the alignment that leaves every clip out, on the same videos by seed.

    Args:
        runs: one row each of a row's name and a seed.
        lines: of a ``-baselines`` table.

    Returns:
        A row each, in order: ``row``, ``measure``, ``mean``, ``low``, ``high`` and ``pairs``.
    """
    out = lines[lines["assignment"] == "all unmatched"].set_index("seed")
    found = []
    for row, part in runs.groupby("row", sort=False):
        for measure in MEASURES:
            floor = out[measure.removeprefix("test ")].to_dict()
            interval = difference(part.set_index("seed")[measure].to_dict(), floor)
            found.append({"row": row, "measure": measure, **interval._asdict(), "pairs": len(part)})
    return pd.DataFrame(found)


def could_be_seen(judged_rows: pd.DataFrame) -> dict[str, int]:
    """Of contrasts on a recorded table: how many could see the paper's own effect.

    Returns:
        ``contrasts``; those ``blind`` to it, whose interval would exclude zero in fewer than four
        of five such tables if the paper's effect were true (by the noncentral t distribution);
        those ``undecided``, and how many of them ``exclude`` the paper's effect.
    """
    free = judged_rows.pairs - 1
    critical = stats.t.ppf(0.975, free)
    error = (judged_rows.high - judged_rows.low) / 2 / critical
    power = stats.nct.sf(critical, free, judged_rows.paper.abs() / error)
    undecided = judged_rows[judged_rows.verdict == "undecided"]
    return {
        "contrasts": len(judged_rows),
        "blind": int((power < 0.8).sum()),
        "undecided": len(undecided),
        "exclude": int((undecided.high < undecided.paper).sum()),
    }
