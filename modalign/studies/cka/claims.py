"""The claims c1 to c4, c6, c13, c37, c39 and c40, as the chapter decides them.

The declarations in :data:`CLAIMS` were fixed before the sweeps that decide them ran, on seeds 10 to
17. Some results were known by then. A map like this one had been recorded on seeds 0 to 9, with a
warm-up of 20 steps that counted; its verdicts were known. A review had probed the effects of a
warm-up before the first epoch and of default statistics, and the layer check with RBF kernels. Of
seed 100 one run of each kind of c6, c37 and c40 had been seen (CCA at 32 and SVCCA on fewer pairs),
and those of c39 with minibatches of 512. From the last, on held-out pairs, the searches of lambda
and of the temperature were placed so that the best did not lie at an end, except for a lambda that
goes to 0: there the loss is the cosine alone.

The paper leaves several choices open; each combination of them is a reading. A claim *depends* if
its readings differ:

* **c1 to c4**: what the pairs share, the order of the layers, and which CKA; for c1 also the
  statistics of batch normalisation before the first step, and whether CKA falls in the first epoch
  or over all ten; for c3 and c4 how many steps of warm-up, and whether they count among the ten
  epochs. If they do not count, the other side gets that many fewer steps.
* **c6**: against CCA or SVCCA, minibatches of 16 or 32 of a width of 32, after one epoch or ten.
* **c13**: the bandwidth.
* **c37**: the pairs, the layers, the epochs before the step, the size of its minibatch, and the
  rule of the step. For the effect of CKA, both steps leave from the same state of a run on the
  cosine, or each from that of a run on its own loss.
* **c39**: the size of the minibatch, and the yardstick. The mean cosine is no yardstick: it is the
  loss of one side.
* **c40**: which of the two, which minibatch, and whose yardstick over all held-out pairs.
"""

import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

import pandas as pd

from modalign import records
from modalign.metrics import SYMBOLS, Interval, Verdict, excluding_zero
from modalign.studies._claims import Claim, decided, judged, paired
from modalign.studies.cka import few, steps
from modalign.studies.cka.cosine_learning import THRESHOLDS, Measure, Order, Pairs, Statistics
from modalign.studies.cka.recording import BATCHES, WARM_UPS

Found = Iterator[tuple[str, str, Interval, int]]

COSINE = "mean cosine of all training pairs after 10 epochs"
SAME = "the same steps and settings; nothing tuned"
CLAIMS: dict[str, Claim] = {
    "c1": Claim(
        "the cosine alone lowers CKA",
        "0.498 to 0.305 (4.1.2)",
        "CKA of all training pairs",
        "before training minus after",
        "one run; nothing tuned",
        0.193,
        "cka/map",
    ),
    "c2": Claim(
        "CKA alone raises the cosine",
        '"slightly" (4.1.2)',
        COSINE,
        "after training minus before",
        "one run; nothing tuned",
        0.01,
        "cka/map",
    ),
    "c3a": Claim(
        "both beat the cosine alone",
        "a curve (Figure 4)",
        COSINE,
        "both, warmed up, minus cosine",
        f"{SAME}; a warm-up that does not count adds its steps to one side",
        0.01,
        "cka/map",
    ),
    "c3b": Claim(
        "both converge faster",
        "a curve (Figure 4)",
        "mean cosine of all training pairs, mean over epochs 1 to 10",
        "both, warmed up, minus cosine",
        f"{SAME}; a warm-up that does not count adds its steps to one side",
        0.01,
        "cka/map",
    ),
    "c3c": Claim(
        "both beat the cosine alone, not warmed up",
        "equation 4, which the paper never runs so",
        COSINE,
        "both minus cosine",
        SAME,
        0.01,
        "cka/map",
        exploratory=True,
    ),
    "c4": Claim(
        "a warm-up helps",
        "no number (4.1.1)",
        COSINE,
        "both, warmed up, minus both",
        f"{SAME}; a warm-up that does not count adds its steps to one side",
        0.01,
        "cka/map",
    ),
    "c6a": Claim(
        "with few examples CKA is closer to its value over all than CCA and SVCCA to theirs",
        "stated (2.1, 3.2)",
        "mean distance of a minibatch's value from that over 2,000 pairs",
        "CCA or SVCCA minus biased CKA",
        "the same minibatches",
        0.05,
        "cka/few",
    ),
    "c6b": Claim(
        "with few examples CKA tells partners from shuffled pairs better",
        "stated (2.1, 3.2)",
        "how often a minibatch of partners has the higher value than a shuffled one",
        "biased CKA minus CCA or SVCCA",
        "the same minibatches",
        0.05,
        "cka/few",
    ),
    "c13a": Claim(
        "linear and RBF kernels find corresponding layers equally well",
        '"no significant difference" (8.3)',
        "share of layers that match the one at their depth",
        "linear minus RBF",
        "the same networks; the bandwidth is a reading",
        0.05,
        "cka/digit_kernels",
        denies="difference",
    ),
    "c13b": Claim(
        "linear and RBF kernels train equally well",
        '"no significant difference" (8.3)',
        "mean cosine of training pairs, and margin of held-out pairs, after 3 epochs",
        "both with a linear kernel minus both with RBF",
        "the same steps and settings; the bandwidth is a reading",
        0.01,
        "cka/kernels",
        denies="difference",
    ),
    "c37a": Claim(
        "a step on one minibatch lowers the cosine of pairs outside it",
        "Figure 1 (3.2)",
        "change of the mean cosine of the training pairs outside the minibatch",
        "0 minus the change by a step on the cosine alone",
        "one step; nothing tuned",
        0.0005,
        "cka/steps",
    ),
    "c37b": Claim(
        "CKA prevents that",
        "Figure 1 (3.2)",
        "change of the mean cosine of the training pairs outside the minibatch",
        "a step on both minus a step on the cosine alone",
        "one step of the same length rule; lambda 0.1, the paper's",
        0.0005,
        "cka/steps",
    ),
    "c37c": Claim(
        "with CKA fewer pairs outside fall",
        "Figure 1 (3.2)",
        "share of the training pairs outside the minibatch whose cosine falls",
        "a step on the cosine alone minus a step on both",
        "one step of the same length rule; lambda 0.1, the paper's",
        0.01,
        "cka/steps",
    ),
    "c39a": Claim(
        "the cosine with CKA beats a contrastive loss",
        "stated (3.3)",
        "margin, and recall at 1, of the test half of held-out pairs",
        "cosine + lambda CKA minus contrastive",
        "the same steps; lambda or temperature best of six on the validation half",
        0.01,
        "cka/contrastive",
    ),
    "c39b": Claim(
        "CKA beside a contrastive loss improves it",
        "stated (3.3)",
        "margin, and recall at 1, of the test half of held-out pairs",
        "contrastive + 0.1 CKA minus contrastive",
        "the same steps; temperature best of six on the validation half, for each",
        0.01,
        "cka/contrastive",
    ),
    "c40": Claim(
        "CCA and SVCCA are unsuitable as objectives, and CKA is not",
        "stated (3.2)",
        "debiased CKA, and CCA, of 2,000 held-out pairs after 3 epochs",
        "trained on biased CKA minus trained on CCA or SVCCA",
        SAME,
        0.05,
        "cka/objectives",
    ),
}
"""By id; a letter is a part of a claim. The paper prints an effect for c1 alone. 0.01 is a
hundredth of what the mean cosine, the margin or the recall can be; a step of c37 is a twentieth of
an epoch, and gets a twentieth of that; 0.05 is one pair of minibatches, or layers, in twenty."""


def from_map(table: pd.DataFrame, *, split: str = "train", quality: str = "cosine") -> Found:
    """c1 to c4.

    Args:
        table: ``cka/map``.
        split: ``"train"``, which decides, or ``"held-out"`` pairs.
        quality: the column that says how good an embedding is; ``"cosine"`` decides.
    """
    table = table[table["split"] == split]
    last = table.epoch.max()
    keys = ["pairs", "order", "measure", "objective", "statistics", "warmup_steps", "counted"]
    runs = {key: part.set_index("seed") for key, part in table.groupby(keys)}
    usual = max(WARM_UPS)

    def at(epoch: int, column: str, *key: object, warm: int = usual, counted: bool = True):
        part = runs[(*key, warm, counted)]
        return part[part.epoch == epoch][column]

    def curve(*key: object, warm: int = usual, counted: bool = True):
        part = runs[(*key, warm, counted)]
        return part[part.epoch > 0].groupby("seed")[quality].mean()

    for pairs, order, measure in itertools.product(*map(get_args, (Pairs, Order, Measure))):
        world = f"{pairs}, {order}, {measure}"
        here = pairs, order, measure
        for statistics in get_args(Statistics):
            cosine = pairs, order, "biased", "cosine", statistics
            column = f"cka_{measure}"
            for until in (1, last):
                fall = paired(at(0, column, *cosine), at(until, column, *cosine))
                yield "c1", f"{world}, {statistics} statistics, epoch {until}", *fall
        cka, both = ((*here, objective, "set") for objective in ("cka", "both"))
        cosine = pairs, order, "biased", "cosine", "set"
        yield "c2", world, *paired(at(last, quality, *cka), at(0, quality, *cka))
        alone, together = at(last, quality, *cosine), at(last, quality, *both)
        yield "c3c", world, *paired(together, alone)
        for counted, warm in itertools.product((True, False), WARM_UPS):
            where = f"{world}, {warm} steps {'counted' if counted else 'before'}"
            ours = *here, "both, warm-up", "set"
            warmed = at(last, quality, *ours, warm=warm, counted=counted)
            yield "c3a", where, *paired(warmed, alone)
            yield "c3b", where, *paired(curve(*ours, warm=warm, counted=counted), curve(*cosine))
            yield "c4", where, *paired(warmed, together)


def from_few(table: pd.DataFrame) -> Found:
    """c6: ``cka/few``."""
    keys = ["measure", "size", "epoch"]
    runs = {key: part.set_index("seed") for key, part in table.groupby(keys)}
    for other, size, epoch in itertools.product(("cca", "svcca"), few.SIZES, few.STATES):
        ckas, others = (runs[measure, size, epoch] for measure in ("biased", other))
        reading = f"{other}, {size} examples, epoch {epoch}"
        yield "c6a", reading, *paired(others.error, ckas.error)
        yield "c6b", reading, *paired(ckas.told_apart, others.told_apart)


def from_kernels(digits: pd.DataFrame, synthetic: pd.DataFrame) -> Found:
    """c13: ``cka/digit_kernels`` and ``cka/kernels``."""
    layers = digits.set_index(["measure", "seed"])["same depth"]
    synthetic = synthetic.eval("margin = cosine - shuffled_cosine")
    ends = synthetic[synthetic.epoch == synthetic.epoch.max()].set_index(["measure", "seed"])
    for threshold in THRESHOLDS:
        rbf = f"rbf {threshold}"
        yield "c13a", rbf, *paired(layers["biased"], layers[rbf])
        for split, column in (("train", "cosine"), ("held-out", "margin")):
            values = ends[ends["split"] == split][column]
            yield "c13b", f"{rbf}, {column}", *paired(values["biased"], values[rbf])


def from_steps(table: pd.DataFrame) -> Found:
    """c37: ``cka/steps``."""
    keys = ["pairs", "order", "epoch", "size", "rule", "objective", "step"]
    runs = {key: part.set_index("seed") for key, part in table.groupby(keys)}
    places = itertools.product(
        get_args(Pairs), get_args(Order), steps.STATES, steps.SIZES, get_args(steps.Rule)
    )
    for place in places:
        pairs, order, epoch, size, rule = place
        reading = f"{pairs}, {order}, epoch {epoch}, {size} pairs, {rule}"
        alone = runs[(*place, "cosine", "cosine")]
        yield "c37a", reading, *paired(0 * alone.outside, alone.outside)
        for path, how in (("cosine", "same state"), ("both", "own run")):
            if path == "both" and not epoch:
                continue  # before training the two states are one
            both = runs[(*place, path, "both")]
            yield "c37b", f"{reading}, {how}", *paired(both.outside, alone.outside)
            yield "c37c", f"{reading}, {how}", *paired(alone.falling, both.falling)


YARDSTICKS = ("margin", "recall_at_1")


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The choice of the validation half in each search of ``cka/contrastive``.

    Returns:
        A row for each minibatch, loss and yardstick: the ``value`` of lambda or of the temperature
        with the best mean, and whether it is at an ``end`` of the search.
    """
    half = table[table["split"] == "validation"].eval("margin = cosine - shuffled_cosine")
    rows = []
    for (size, objective), part in half.groupby(["batch_size", "objective"], sort=False):
        tried = "lambda_cka" if objective == "both" else "temperature"
        means = part.groupby(tried)[list(YARDSTICKS)].mean()
        for yardstick in YARDSTICKS:
            best = means[yardstick].idxmax()
            rows.append(
                {
                    "batch_size": size,
                    "objective": objective,
                    "yardstick": yardstick,
                    "searched": tried,
                    "value": best,
                    "end": best in (means.index.min(), means.index.max()),
                }
            )
    return pd.DataFrame(rows)


def from_contrastive(table: pd.DataFrame) -> Found:
    """c39: ``cka/contrastive``."""
    best = chosen(table).set_index(["batch_size", "objective", "yardstick"])
    test = table[table["split"] == "test"].eval("margin = cosine - shuffled_cosine")

    def scores(size: int, objective: str, yardstick: str) -> pd.Series:
        at = best.loc[(size, objective, yardstick)]
        mine = (test.batch_size == size) & (test.objective == objective)
        return test[mine & (test[at.searched] == at.value)].set_index("seed")[yardstick]

    sizes = [size for grid in BATCHES for size in grid["batch_size"]]
    for size, yardstick in itertools.product(sizes, YARDSTICKS):
        base = scores(size, "contrastive", yardstick)
        reading = f"{size} pairs, {yardstick}"
        yield "c39a", reading, *paired(scores(size, "both", yardstick), base)
        yield "c39b", reading, *paired(scores(size, "contrastive, cka", yardstick), base)


def from_objectives(table: pd.DataFrame) -> Found:
    """c40: ``cka/objectives``."""
    ends = table[table.epoch == table.epoch.max()]
    runs = {key: part.set_index("seed") for key, part in ends.groupby(["measure", "batch_size"])}
    for other, size in itertools.product(("cca", "svcca"), few.SIZES):
        for yardstick in ("cka_debiased", "cca"):
            sides = (runs[measure, size][yardstick] for measure in ("biased", other))
            yield "c40", f"{other}, {size} examples, by {yardstick}", *paired(*sides)


def rows(tables: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Every reading of every claim, from the recorded tables."""
    load = records.load if tables is None else tables.__getitem__
    found: Iterable[tuple[str, str, Interval, int]] = itertools.chain(
        from_map(load("cka/map")),
        from_few(load("cka/few")),
        from_kernels(load("cka/digit_kernels"), load("cka/kernels")),
        from_steps(load("cka/steps")),
        from_contrastive(load("cka/contrastive")),
        from_objectives(load("cka/objectives")),
    )
    return judged(CLAIMS, found)


def readings(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """:func:`rows`, each beside what its claim declares.

    Args:
        folder: results folder; the book's by default.

    Returns:
        Those columns, and ``says``, ``paper``, ``measure``, ``contrast``, ``budget``, ``table`` and
        ``exploratory``.
    """
    names = dict.fromkeys(claim.table for claim in CLAIMS.values())
    found = rows({name: records.load(name, folder=folder) for name in names})
    about = ("says", "paper", "measure", "contrast", "budget", "table", "exploratory")
    declared = {name: [getattr(CLAIMS[claim], name) for claim in found["claim"]] for name in about}
    return found.assign(**declared)


def verdicts(judgements: pd.DataFrame) -> pd.DataFrame:
    """One verdict a claim of the paper, over all parts and readings that are not exploratory."""
    added = {name for name, claim in CLAIMS.items() if claim.exploratory}
    of_paper = judgements[~judgements.claim.isin(added)]
    return decided(of_paper.assign(claim=of_paper.claim.str.extract(r"(c\d+)", expand=False)))


def quotes(judgements: pd.DataFrame) -> dict[str, str]:
    """The values that a page quotes of each claim and part: its symbol, its verdict, and a count.

    The count says how many readings hold, are reversed, absent and undecided, in their symbols.
    """
    found = {}
    for name, row in pd.concat([decided(judgements), verdicts(judgements)]).iterrows():
        found[f"symbol-{name}"] = row.symbol
        found[f"verdict-{name}"] = row.verdict
        counts = (f"{SYMBOLS[kind]} {row[kind]}" for kind in get_args(Verdict)[:4])
        found[f"count-{name}"] = " ".join(counts)
    return found


def by_chance(judgements: pd.DataFrame) -> pd.DataFrame:
    """How many readings of each claim exclude zero, as they stand and after correction.

    Returns:
        A row a claim and one for all: ``contrasts``, ``by chance`` (a twentieth of them),
        ``exclude zero`` and ``after correction`` (Benjamini and Hochberg, within the row).
    """
    claim = judgements.claim.str.extract(r"(c\d+)", expand=False)
    parts = [*judgements.groupby(claim, sort=False), ("all", judgements)]
    rows = {}
    for name, part in parts:
        counted = excluding_zero(part)
        rows[name] = {
            "contrasts": counted.contrasts,
            "by chance": counted.contrasts / 20,
            "exclude zero": counted.nominal,
            "after correction": counted.corrected,
        }
    return pd.DataFrame.from_dict(rows, orient="index")
