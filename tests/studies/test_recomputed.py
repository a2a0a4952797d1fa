"""Verdicts on CKA and NeuMATCH again, from the recorded tables by pandas and SciPy alone.

Nothing of the studies is used: contrasts and the papers' numbers are written a second time.
"""

import importlib
import itertools
import math
import pathlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

RESULTS = pathlib.Path(__file__).parents[2] / "results"
WORLDS = list(itertools.product(("random", "shared"), ("relu-bn", "bn-relu")))
MEASURES = ("biased", "debiased", "uncentred")
VIDEO, IOU = "test video_accuracy", "test text_iou"
RATIOS = [f"last ratio {part}" for part in ("video", "text", "action and matched", "fc")]
PRINTED = {  # Tables 1, 2, 4 and 5, in percent
    "RP + SBN + LARS": (30.6, 12.8),
    "RP + SBN + Adam": (21.7, 8.0),
    "RP + SBN + Adam, warm-up": (24.7, 9.3),
    "RP + 2xLN + LARS": (25.3, 8.8),
    "RP + 4xLN + LARS": (25.9, 8.7),
    "RP + 2xLN + Adam": (23.3, 8.2),
    "RP + 4xLN + Adam": (23.6, 7.5),
    "Full + SBN + LARS": (27.6, 9.9),
    "Full + 4xLN + LARS": (26.9, 9.9),
    "Full + Adam": (24.2, 6.8),
    "Full + Adam, early stopping": (24.9, 8.0),
    "Full + Adam, pretrained": (26.8, 10.3),
}
PRINTED_RATIOS = {  # Table 3
    "RP + SBN + Adam": (4263.5, 8075.0, 1711.9, 432.1),
    "RP + SBN + Adam, warm-up": (10378.1, 23305.1, 8228.3, 2120.8),
    "RP + SBN + LARS": (2.7e5, 4.1e5, 1.9e5, 5604.5),
    "RP + 2xLN + LARS": (3.5e6, 6.4e6, 1.4e6, 9.0e4),
    "RP + 4xLN + LARS": (1.3e7, 2.1e7, 1.0e7, 2.5e5),
}
LARS, ADAM, WARM = "RP + SBN + LARS", "RP + SBN + Adam", "RP + SBN + Adam, warm-up"


def load(name):
    return pd.read_csv(RESULTS / f"{name}.csv")


def only(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def verdict(d, smallest, denies=False):
    """The interval of paired differences, and its verdict by the rule of CLAIMS."""
    d = np.asarray(d, float)
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    if denies:
        apart, inside = low > 0 or high < 0, max(-low, high) < smallest
        return low, high, "reversed" if apart else "holds" if inside else "undecided"
    if low > 0 or high < 0:
        return low, high, "holds" if low > 0 else "reversed"
    return low, high, "absent" if high < smallest else "undecided"


def apart(a, b):
    """Of two columns, each with one value a seed."""
    assert set(a.index) == set(b.index)
    assert a.index.is_unique
    return a - b


def cka_map():
    table = only(load("cka/map"), split="train")
    worlds = dict(list(table.groupby(["pairs", "order", "objective"])))

    def at(epoch, column="cosine", *, pairs, order, objective, **values):
        part = only(worlds[pairs, order, objective], **values).set_index("seed")
        if epoch is None:  # the mean over all epochs
            return part[part.epoch > 0].groupby("seed")[column].mean()
        return part[part.epoch == epoch][column]

    for pairs, order in WORLDS:
        world = {"pairs": pairs, "order": order}
        cosine = {**world, "objective": "cosine"}
        usual = {**cosine, "statistics": "set"}
        for measure in MEASURES:
            for kind, until in itertools.product(("set", "default"), (1, 10)):
                own, column = {**cosine, "statistics": kind}, f"cka_{measure}"
                yield "c1", verdict(apart(at(0, column, **own), at(until, column, **own)), 0.193)
            cka, both, warmed = (
                {**world, "measure": measure, "objective": name}
                for name in ("cka", "both", "both, warm-up")
            )
            yield "c2", verdict(apart(at(10, **cka), at(0, **cka)), 0.01)
            yield "c3c", verdict(apart(at(10, **both), at(10, **usual)), 0.01)
            for steps, counted in itertools.product((2, 5, 20), (True, False)):
                own = {**warmed, "warmup_steps": steps, "counted": counted}
                yield "c3a", verdict(apart(at(10, **own), at(10, **usual)), 0.01)
                yield "c3b", verdict(apart(at(None, **own), at(None, **usual)), 0.01)
                yield "c4", verdict(apart(at(10, **own), at(10, **both)), 0.01)


def cka_few():
    table = load("cka/few").set_index("seed")
    for other, size, epoch in itertools.product(("cca", "svcca"), (16, 32), (1, 10)):
        here = only(table, size=size, epoch=epoch)
        ours, theirs = only(here, measure="biased"), only(here, measure=other)
        yield "c6a", verdict(apart(theirs.error, ours.error), 0.05)
        yield "c6b", verdict(apart(ours.told_apart, theirs.told_apart), 0.05)


def cka_kernels():
    layers = load("cka/digit_kernels").set_index("seed")
    ends = only(load("cka/kernels"), epoch=3).set_index("seed")
    ends["margin"] = ends.cosine - ends.shuffled_cosine
    for multiple in ("0.2", "0.4", "0.8", "2.0"):
        rbf = {"measure": f"rbf {multiple}"}
        linear = {"measure": "biased"}
        d = apart(only(layers, **linear)["same depth"], only(layers, **rbf)["same depth"])
        yield "c13a", verdict(d, 0.05, denies=True)
        for split, column in (("train", "cosine"), ("held-out", "margin")):
            sides = (only(ends, split=split, **each)[column] for each in (linear, rbf))
            yield "c13b", verdict(apart(*sides), 0.01, denies=True)


def cka_steps():
    table = load("cka/steps").set_index("seed")
    for (pairs, order), epoch, size, rule in itertools.product(
        WORLDS, (0, 1, 5), (16, 512), ("adam", "gradient")
    ):
        here = only(table, pairs=pairs, order=order, epoch=epoch, size=size, rule=rule)
        alone = only(here, objective="cosine", step="cosine")
        yield "c37a", verdict(-alone.outside, 0.0005)
        for leaves in ("cosine", "both") if epoch else ("cosine",):
            both = only(here, objective=leaves, step="both")
            yield "c37b", verdict(apart(both.outside, alone.outside), 0.0005)
            yield "c37c", verdict(apart(alone.falling, both.falling), 0.01)


def cka_contrastive():
    table = load("cka/contrastive").set_index("seed")
    table["margin"] = table.cosine - table.shuffled_cosine
    searched = {"both": "lambda_cka", "contrastive": "temperature"}
    searched["contrastive, cka"] = "temperature"
    for size, yardstick in itertools.product((32, 512), ("margin", "recall_at_1")):
        scores = {}
        for objective, column in searched.items():
            mine = only(table, batch_size=size, objective=objective)
            best = only(mine, split="validation").groupby(column)[yardstick].mean().idxmax()
            scores[objective] = only(mine, split="test", **{column: best})[yardstick]
        yield "c39a", verdict(apart(scores["both"], scores["contrastive"]), 0.01)
        yield "c39b", verdict(apart(scores["contrastive, cka"], scores["contrastive"]), 0.01)


def cka_objectives():
    table = only(load("cka/objectives"), epoch=3).set_index("seed")
    for other, size in itertools.product(("cca", "svcca"), (16, 32)):
        ours, theirs = (only(table, measure=m, batch_size=size) for m in ("biased", other))
        for yardstick in ("cka_debiased", "cca"):
            yield "c40", verdict(apart(ours[yardstick], theirs[yardstick]), 0.05)


def with_early_stopping(table):
    """One row a run, its last; and each run without the techniques where validation is best."""
    last = table.loc[table.groupby(["row", "seed"]).epoch.idxmax()]
    plain = only(table, row="Full + Adam")
    validation = plain["validation video_accuracy"] + plain["validation text_iou"]
    best = plain.loc[validation.groupby(plain.seed).idxmax()]
    return pd.concat([last, best.assign(row="Full + Adam, early stopping")])


def at_equal_training(table, reach):
    """Scores where training first had so much, or at the end; ratios at the end."""
    rows = []
    for _, run in table.sort_values("epoch").groupby(["row", "rate", "seed"]):
        there = run[run["train text_iou"] >= reach]
        row = (there if len(there) else run.tail(1)).iloc[0].copy()
        row[RATIOS] = run.iloc[-1][RATIOS]
        rows.append(row)
    return pd.DataFrame(rows)


def fair_runs(name):
    """Runs of a fair comparison at the rate that validation chose, or None if not recorded."""
    if not (RESULTS / f"neumatch/fair-{name}.json").exists():
        return None
    tables = load(f"neumatch/fair-{name}-search"), load(f"neumatch/fair-{name}")
    if name == "normalizations":
        search, tested = (at_equal_training(table, 0.9) for table in tables)
    else:
        search, tested = (t.loc[t.groupby(["row", "rate", "seed"]).epoch.idxmax()] for t in tables)
    scores = search["validation video_accuracy"] + search["validation text_iou"]
    means = scores.fillna(-math.inf).groupby([search.row, search.rate]).mean()
    for arm, part in means.groupby("row"):
        assert set(only(tested, row=arm).rate) == {part.idxmax()[1]}
    assert not set(search.seed) & set(tested.seed)
    return tested


def neumatch():
    older = with_early_stopping(load("neumatch/shapes"))
    known = {name: fair_runs(name) for name in ("optimizers", "normalizations", "projections")}

    def sides(name, better, worse):
        runs = older if name is None or known[name] is None else known[name]
        return tuple(only(runs, row=row).set_index("seed") for row in (better, worse))

    def effect(name, size):  # none had been set for the older tables
        return 0 if name is None or known[name] is None else size

    def scores(claim, name, better, worse, printed=None, columns=(VIDEO, IOU)):
        ours, theirs = sides(name, better, worse)
        gain = np.subtract(*(PRINTED[row] for row in printed or (better, worse))) / 100
        for column, size in zip(columns, gain, strict=False):
            smallest = effect(name, round(size, 3))
            yield claim, verdict(apart(ours[column], theirs[column]), smallest)

    def ratios(claim, name, better, worse):
        ours, theirs = sides(name, better, worse)
        gain = np.log(np.divide(PRINTED_RATIOS[better], PRINTED_RATIOS[worse]))
        for column, size in zip(RATIOS, gain, strict=True):
            d = apart(np.log(ours[column]), np.log(theirs[column]))
            yield claim, verdict(d, effect(name, round(size, 3)))

    yield from scores("c28a", None, "Full + Adam, pretrained", "Full + Adam")
    yield from scores("c28b", None, "Full + Adam, early stopping", "Full + Adam")
    for other in (ADAM, WARM):
        yield from scores("c29", "optimizers", LARS, other)
        yield from ratios("c30a", "optimizers", LARS, other)
    both = sides("optimizers", LARS, ADAM)
    gaps = [np.log2(run[RATIOS[1]] / run[RATIOS[0]]).abs() for run in both]
    printed = [math.log2(PRINTED_RATIOS[row][1] / PRINTED_RATIOS[row][0]) for row in (LARS, ADAM)]
    closer = effect("optimizers", round(printed[1] - printed[0], 3))
    yield "c30b", verdict(-apart(*gaps), closer)
    for norm, columns in (("2xLN", (VIDEO, IOU)), ("4xLN", (VIDEO,))):
        name = "normalizations"
        yield from scores("c31a", name, LARS, f"RP + {norm} + LARS")
        yield from scores("c41b", name, LARS, f"RP + {norm} + LARS")
        yield from ratios("c41a", name, f"RP + {norm} + LARS", LARS)
        yield from scores("c31b", name, f"RP + {norm} + Adam", ADAM, columns=columns)
    for claim, norm in (("c32a", "SBN"), ("c32b", "4xLN")):
        rows = f"RP + {norm} + LARS", f"Full + {norm} + LARS"
        pairs = [rows, (rows[0], f"{rows[1]}, no ReLU")]
        for pair in pairs if known["projections"] is not None else pairs[:1]:
            ordered, printed = (pair, rows) if norm == "SBN" else (pair[::-1], rows[::-1])
            yield from scores(claim, "projections", *ordered, printed)
    if known["projections"] is not None:
        narrow = "Full + SBN + LARS, as many weights", "Full + SBN + LARS, no ReLU"
        printed = LARS, "Full + SBN + LARS"
        yield from scores("c38", "projections", *narrow, printed)
    for other, stack in itertools.product(("RP + LARS", "RP + 2xLN + LARS"), ("video", "text")):
        ours, theirs = sides(None, LARS, other)
        bands = [run[f"{stack} mean 90%"] - run[f"{stack} mean 10%"] for run in (theirs, ours)]
        yield "c34a", verdict(apart(*bands) / 2, 0)
        yield "c34b", verdict(apart(*(run[f"{stack} variance 50%"] for run in (ours, theirs))), 0)
    long = only(load("neumatch/yms-long"), row=LARS).set_index("seed")
    for column in (VIDEO, IOU):
        d = apart(only(long, epoch=350)[column], only(long, epoch=250)[column])
        yield "c35", verdict(d, 0.01, denies=True)


def sequences():
    """Of the chapter on pace and scale, each group at the rate that is best on validation."""
    at = {}
    for name, column in (("pace", "unit"), ("norms", "norm")):
        for key, part in load(f"sequences/fair-{name}").groupby(["optimizer", column]):
            best = part.groupby("learning_rate").validation.mean().idxmax()
            at[key] = only(part, learning_rate=best).set_index("seed")

    def gap(*key):
        return np.log(at[key].ratio_text / at[key].ratio_video).abs()

    def gain(claim, better, worse, smallest):
        return claim, verdict(apart(at[better].test, at[worse].test), smallest)

    for unit in (0.03, 0.001):
        yield gain("3.2", ("lars", unit), ("sgd", unit), 0.05)
    for kind in (1, 0.03, 0.001, "sbn"):
        yield gain("c29", ("lars", kind), ("adam", kind), 0.306 - 0.217)
    for kind in (1, "none", "sbn"):
        closer = apart(gap("adam", kind), gap("lars", kind))
        yield "c30b", verdict(closer, round(math.log(1.9 / 1.5), 3))
    yield gain("c31a", ("lars", "sbn"), ("lars", "ln"), 0.306 - 0.259)
    yield gain("c31b", ("adam", "ln"), ("adam", "sbn"), 0.236 - 0.217)
    for other in ("none", "ln"):
        yield gain("3.4", ("lars", other), ("lars", "ln of outputs"), 0.02)
    for optimizer, side in itertools.product(("adam", "lars"), ("video", "text")):
        ours, theirs = at[optimizer, "sbn"], at[optimizer, "none"]
        means, variances = f"mean_{side}", f"variance_{side}"
        yield "c34a", verdict(apart(theirs[means], ours[means]), 0.05)
        yield "c34b", verdict(apart(ours[variances], theirs[variances]), 0.3)


STUDIES = {
    "c1 to c4": cka_map,
    "c6": cka_few,
    "c13": cka_kernels,
    "c37": cka_steps,
    "c39": cka_contrastive,
    "c40": cka_objectives,
    "c28 to c41": neumatch,
}


@pytest.fixture(scope="module")
def told():
    ledger = importlib.import_module("modalign.studies.ledger")
    return ledger.readings(), ledger.ledger().set_index("id").verdict


def same(again, every):
    """Compare intervals and verdicts, claim by claim, in the order of their lower ends."""
    for part in sorted({claim for claim, _ in again}):
        ours = sorted(found for claim, found in again if claim == part)
        rows = every[every.claim == part]
        theirs = sorted(zip(rows.low, rows.high, rows.verdict, strict=True))
        assert len(ours) == len(theirs), part
        for (low, high, said), known in zip(ours, theirs, strict=True):
            assert [low, high] == pytest.approx(known[:2], rel=1e-6, abs=1e-9), part
            assert said == known[2], (part, low, high)


@pytest.mark.parametrize("study", STUDIES)
def test_every_verdict_again_from_the_recorded_tables(study, told):
    every, decided = told
    again = list(STUDIES[study]())
    same(again, every)
    planned = {}
    for part, (*_, said) in again:
        if part != "c3c":  # exploratory
            planned.setdefault(part.rstrip("abc"), set()).add(said)
    for name, kinds in planned.items():
        assert decided[name] == (kinds.pop() if len(kinds) == 1 else "depends"), name


def test_verdicts_of_the_small_world_again_from_its_tables():
    rows = importlib.import_module("modalign.studies.sequences").readings()
    again = list(sequences())
    assert {claim for claim, _ in again} == set(rows.claim)
    same(again, rows)
