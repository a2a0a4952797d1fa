"""Fair comparisons of NeuMATCH's arms: the same search of learning rates for each of them.

Decided before any of these sweeps ran. Every arm of a comparison of :data:`COMPARISONS` is trained
at every rate of its optimiser (:data:`RATES`, as many for each) with the seeds of
:data:`TUNING`. Of an arm the rate with the best mean of video accuracy plus text IoU on the
*validation* split is chosen; test scores of the search are not even kept. The arm is then trained
at that rate with the seeds of :data:`SEEDS`, which are in no other sweep of the book, and tested.
The claims about the arms stand in :mod:`modalign.studies.neumatch.claims`. A best rate at the
end of its grid is named in the table of verdicts.

If a comparison has a ``reach``, a run is read at the first evaluation at which its text IoU on
the training split is at least so high (at the last one, if it never is), in the search as in the
test: arms are compared at equal training scores, as the paper asks (section 4.4). Norm ratios are
means over the last 20 epochs of the run in any case. They are read of tests alone, so a run of the
search ends where it is read. (The first ones that are recorded went on to their last epoch.)

One command makes a comparison, and goes on where it was stopped::

    from modalign.studies.neumatch import fair
    fair.record("optimizers", jobs=2)  # or "normalizations", "projections"
    fair.record_views(jobs=2)          # on YMS: needs its annotations
    fair.record_processors(jobs=2)     # on another machine than the search's

On a quiet core of the kind that the book names a run of the shapes world takes 35 seconds for 30
epochs (50 with layer normalisation), and one of YMS 270 for 60. That makes 35 core minutes for
``"optimizers"`` (54 runs), 100 for ``"projections"`` (126), 4 hours for ``"normalizations"``
(108 runs of at most 90 epochs) and 2 for the views (28).

On YMS after 60 epochs no row beats the alignment that leaves every clip out. :func:`record_views`
asks in which simulated view the network leaves that floor: with text as 64 dense numbers in place
of 768 sparse ones, with clips that are simulated anew in every epoch, and without noise. LARS and
Adam run in each at their usual rates.
"""

import functools
import itertools
import math
import pathlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from modalign import records
from modalign._checks import require_choice
from modalign.studies import _sweep
from modalign.studies._sweep import Task
from modalign.studies.neumatch import experiments
from modalign.studies.neumatch.baselines import unmatched
from modalign.studies.neumatch.experiments import Setting
from modalign.training import DivergenceError, checkpoint

Changes = Mapping[str, Any]
VALIDATION = ["validation video_accuracy", "validation text_iou"]
FLOOR = "all unmatched"
"""Video accuracy on validation of the alignment that leaves every clip out."""

RATES: dict[str, tuple[float, ...]] = {
    "lars": (0.0002, 0.0007, 0.002, 0.007, 0.02),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "adam-warmup": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
"""The rates that are searched, as many for each optimiser; the paper's 0.007 is among them."""
TUNING = (200, 201)
"""Seeds of the search."""
SEEDS = tuple(range(10, 18))
"""Seeds of the test."""
REPEATED: dict[str, tuple[float, ...]] = {
    "RP + SBN + LARS": (0.007,),
    "RP + SBN + Adam": (0.003, 0.01),
    "RP + SBN + Adam, warm-up": (0.01,),
}
"""The runs of the search that :func:`record_processors` repeats: each arm's best rate, and Adam's
second."""


class Comparison(NamedTuple):
    """Arms that are given the same.

    Attributes:
        arms: changes of a :class:`~modalign.studies.neumatch.experiments.Setting`, by name.
        common: changes that all of them share.
        reach: text IoU on the training split at which runs are read; None for the last epoch.
    """

    arms: Mapping[str, Changes]
    common: Changes = types.MappingProxyType({})
    reach: float | None = None


OPTIMIZERS: dict[str, Changes] = {
    "LARS": {"optimizer": "lars"},
    "Adam": {"optimizer": "adam"},
    "Adam, warm-up": {"optimizer": "adam-warmup"},
}
NORMS = {"SBN": "sbn", "2xLN": "ln2", "4xLN": "ln4"}
INPUTS: dict[str, Changes] = {
    "RP + {} + LARS": {},
    "Full + {} + LARS": {"projection": False},
    "Full + {} + LARS, no ReLU": {"projection": False, "full_relu": False},
}
COMPARISONS: dict[str, Comparison] = {
    # c29, c30
    "optimizers": Comparison(
        {f"RP + SBN + {name}": changes for name, changes in OPTIMIZERS.items()}, {"every": 30}
    ),
    # c31, c41; at 0.9, where the row with SBN and LARS ended and those with LN had not come
    "normalizations": Comparison(
        {
            f"RP + {norm} + {optimizer}": {"normalization": NORMS[norm], **OPTIMIZERS[optimizer]}
            for norm, optimizer in itertools.product(NORMS, ("LARS", "Adam"))
        },
        {"epochs": 90, "every": 5},
        reach=0.9,
    ),
    # c32, c38
    "projections": Comparison(
        {
            name.format(norm): {**changes, "normalization": NORMS[norm]}
            for norm in ("SBN", "4xLN")
            for name, changes in INPUTS.items()
        }
        | {
            # stacks so narrow that the network has as many weights as the one with RP
            "Full + SBN + LARS, as many weights": {
                "projection": False,
                "full_relu": False,
                "hidden": 59,
            },
        },
        {"every": 30},
    ),
}

VIEWS: dict[str, Changes] = {
    # as it first was; lowered three hours before the first recorded sweep
    "noise 1": {"noise": 1.0},
    "noise 0.3": {},  # as in the recorded tables
    "no noise": {"noise": 0.0},
    "dense text": {"dense": 64},
    "dense text, no noise": {"dense": 64, "noise": 0.0},
    "dense text, redrawn": {"dense": 64, "redraw": True},
    "dense text, redrawn, no noise": {"dense": 64, "redraw": True, "noise": 0.0},
}
"""Simulated views of YMS, in which the network may leave its floor."""


def tasks_of(
    name: str, rates: Mapping[str, Sequence[float]], seeds: Iterable[int], **options: Any
) -> list[tuple[str, Setting]]:
    """Every arm of a comparison at each of its rates with every seed, whose data are made once."""
    comparison = COMPARISONS[name]
    return [
        (arm, Setting(**{**comparison.common, **changes, **options}, learning_rate=rate, seed=seed))
        for seed, (arm, changes) in itertools.product(seeds, comparison.arms.items())
        for rate in rates[arm]
    ]


def grids(name: str) -> dict[str, tuple[float, ...]]:
    """The rates of each arm of a comparison."""
    return {
        arm: RATES[changes.get("optimizer", "lars")]
        for arm, changes in COMPARISONS[name].arms.items()
    }


def read(table: pd.DataFrame, reach: float | None) -> pd.DataFrame:
    """One row a run, with its ratios: the first at which training reached so much, else the last.

    >>> runs = {"row": "a", "rate": 0.1, "seed": 0, "epoch": [1, 2, 3]}
    >>> table = pd.DataFrame({**runs, "train text_iou": [0.5, 0.9, 0.95]})
    >>> read(table, 0.9).epoch.tolist(), read(table, None).epoch.tolist()
    ([2], [3])
    """
    keys = ["row", "rate", "seed"]
    ordered = table.sort_values("epoch", kind="stable")
    last = ordered.groupby(keys, sort=False).tail(1)
    found = last
    if reach is not None:
        there = ordered[ordered["train text_iou"] >= reach].groupby(keys, sort=False).head(1)
        found = pd.concat([there, last]).drop_duplicates(keys)
        ratios = [column for column in table if column.startswith("last ratio")]
        found = found.drop(columns=ratios).merge(last[[*keys, *ratios]], on=keys)
    return found.sort_values(keys, kind="stable").reset_index(drop=True)


def short_of(table: pd.DataFrame, reach: float | None) -> dict[str, str]:
    """The arms with runs that never reached so much in training, and how many of theirs did not.

    >>> runs = {"row": "a", "rate": 0.1, "seed": [0, 0, 1, 1], "epoch": [1, 2, 1, 2]}
    >>> table = pd.DataFrame({**runs, "train text_iou": [0.5, 0.9, 0.5, 0.8]})
    >>> short_of(table, 0.9), short_of(table, None)
    ({'a': '1 of 2 runs'}, {})
    """
    if reach is None:
        return {}
    most = table.groupby(["row", "rate", "seed"], sort=False)["train text_iou"].max()
    # a run that diverged has no score
    missed = (~(most >= reach)).groupby("row", sort=False)
    return {str(arm): f"{part.sum()} of {len(part)} runs" for arm, part in missed if part.any()}


def chosen(search: pd.DataFrame, reach: float | None) -> dict[str, float]:
    """Of each arm the rate whose mean validation score is best.

    Raises:
        ValueError: for arms that were not searched with the same number of runs.
    """
    runs = read(search, reach)
    trials = runs.groupby("row").size()
    if trials.nunique() != 1:
        raise ValueError(f"search: expected as many runs of each arm, got {trials.to_dict()}")
    # a run that diverged has no score, and is worse than any
    scores = runs[VALIDATION].sum(axis=1, skipna=False).fillna(-math.inf)
    quality = scores.groupby([runs["row"], runs["rate"]]).mean()
    return {arm: float(part.idxmax()[1]) for arm, part in quality.groupby("row")}


def at_an_end(name: str, search: pd.DataFrame) -> list[str]:
    """The arms of a comparison whose chosen rate is the first or the last of its grid."""
    best = chosen(search, COMPARISONS[name].reach)
    return [arm for arm, rates in grids(name).items() if best[arm] in (min(rates), max(rates))]


def _tested(task: Task) -> pd.DataFrame:
    table = experiments._work(task)
    table.insert(1, "rate", task.setting.learning_rate)
    return table


def _until(task: Task, reach: float) -> pd.DataFrame:
    """A run as far as it is read: evaluation by evaluation, each time from its checkpoint."""
    kept = task.checkpoint
    done = checkpoint.read(kept)["states"]["run"]["epoch"] if kept.exists() else 0
    shorter = [
        each
        for each in experiments._shorter(task.setting)
        if each.epochs % each.every == 0 and each.epochs >= done
    ]
    for setting in (*reversed(shorter), task.setting):
        table = _tested(task._replace(setting=setting))
        if (table["train text_iou"] >= reach).any():
            break
    return table


def _searched(task: Task, reach: float | None = None) -> pd.DataFrame:
    """The validation scores, by which a rate is chosen. A run that diverges has none."""
    try:
        table = _tested(task) if reach is None else _until(task, reach)
    except DivergenceError as error:
        known = {"row": task.row, "rate": task.setting.learning_rate, "seed": task.setting.seed}
        known |= {"epoch": len(error.history) + 1, "train text_iou": math.nan}
        return pd.DataFrame([{**known, **dict.fromkeys(VALIDATION, math.nan)}])
    attrs = {"seconds": table.attrs["seconds"]}
    table = table.drop(columns=[column for column in table if column.startswith("test ")])
    table.attrs = attrs
    return table


def _viewed(task: Task) -> pd.DataFrame:
    table = _searched(task)
    table.insert(0, "view", task.row.split(": ")[0])
    of = experiments.samples_of(task.setting)["validation"]
    line = experiments.measure(of, [unmatched(len(sample.clips)) for sample in of])
    table[FLOOR] = line["video_accuracy"]
    return table


def record_views(
    *,
    views: Mapping[str, Changes] = VIEWS,
    seeds: Iterable[int] = TUNING,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Train LARS and Adam in each view of YMS for 60 epochs, and keep ``neumatch/fair-views``.

    Nothing of the test split is kept. Other arguments are those of :func:`record`.

    Args:
        views: changes of a setting, by name.
        seeds: of the runs.
    """
    common = {"dataset": "yms", "epochs": 60, "every": 60, **options}
    seeds = list(seeds)
    usual = _sweep.fixed_in(Setting(**common), "learning_rate", "optimizer")
    _sweep.record(
        _viewed,
        [
            (f"{view}: {name}", Setting(**{**common, **changes, **OPTIMIZERS[name]}, seed=seed))
            for seed, (view, changes) in itertools.product(seeds, views.items())
            for name in ("LARS", "Adam")
        ],
        "neumatch/fair-views",
        parameters={"views": views, "setting": usual, "seeds": seeds},
        jobs=jobs,
        folder=folder,
        progress=progress,
    )


def levels(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores over seeds in each view, in percent; none for a view in which a run diverged.

    Args:
        table: ``neumatch/fair-views``.

    Returns:
        A row a view and optimizer: both measures on validation, :data:`FLOOR`, and
        ``train text_iou``.
    """
    scores = 100 * table[[*VALIDATION, FLOOR, "train text_iou"]]
    optimizer = table["row"].str.split(": ").str[-1].rename("optimizer")
    runs = scores.groupby([table["view"], optimizer], sort=False)
    return runs.agg(lambda values: values.mean(skipna=False))


def record(
    name: str,
    *,
    tuning: Iterable[int] = TUNING,
    seeds: Iterable[int] = SEEDS,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Search the rates of a comparison's arms, then test each arm at its own.

    Keeps ``neumatch/fair-{name}-search`` and ``neumatch/fair-{name}``. A call that was stopped goes
    on where it was, and so does a run within it.

    Args:
        name: of :data:`COMPARISONS`.
        tuning: seeds of the search.
        seeds: of the test.
        jobs: processes, of one thread each.
        folder: results folder; the book's by default.
        progress: show a bar.
        **options: of :class:`~modalign.studies.neumatch.experiments.Setting`, for every arm.

    Raises:
        ValueError: for an unknown comparison, and a seed that is both searched and tested with.
    """
    require_choice(name, tuple(COMPARISONS), "name")
    tuning, seeds = list(tuning), list(seeds)
    _sweep.require_apart(tuning, seeds)
    comparison = COMPARISONS[name]
    usual = _sweep.fixed_in(Setting(**{**comparison.common, **options}), "learning_rate")
    parameters = {"arms": comparison.arms, "setting": usual, "reach": comparison.reach}
    table = f"neumatch/fair-{name}"
    rates: Mapping[str, Sequence[float]] = grids(name)
    searched = functools.partial(_searched, reach=comparison.reach)
    stages = ((searched, f"{table}-search", tuning), (_tested, table, seeds))
    for work, kept, with_seeds in stages:
        _sweep.record(
            work,
            tasks_of(name, rates, with_seeds, **options),
            kept,
            parameters={**parameters, "rates": rates, "seeds": with_seeds},
            jobs=jobs,
            folder=folder,
            progress=progress,
        )
        if work is searched:
            best = chosen(records.load(kept, folder=folder), comparison.reach)
            rates = {arm: (rate,) for arm, rate in best.items()}


def record_processors(
    *,
    rates: Mapping[str, Sequence[float]] = REPEATED,
    seeds: Iterable[int] = TUNING,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Make runs of the recorded search ``"optimizers"`` again, and keep ``neumatch/processors``.

    On another processor, or with another version of torch, a seed draws the same data, weights and
    batches, and sums are rounded differently. :func:`moved` says by how much that moves the scores
    on the validation split; nothing of the test split is kept. The parameters of the table say
    where the search was made. Eight runs of 35 seconds. Arguments are those of :func:`record`.

    Args:
        rates: of each arm, among those that were searched.
        seeds: among those of the search.
    """
    seeds = list(seeds)
    searched = records.load("neumatch/fair-optimizers-search", folder=folder).attrs
    first = {key: searched["parameters"][key] for key in ("commits", "places")}
    _sweep.record(
        _searched,
        tasks_of("optimizers", rates, seeds, **options),
        "neumatch/processors",
        parameters={"rates": rates, "seeds": seeds, "first": first},
        jobs=jobs,
        folder=folder,
        progress=progress,
    )


def moved(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """How far the validation scores of a setting and a seed lie apart on two processors.

    Returns:
        A row for each run of ``neumatch/processors``: ``row``, ``rate``, ``seed``, and for each
        measure of :data:`VALIDATION` the score there minus the one in the recorded search.

    Raises:
        ValueError: for a run that was not searched.
    """
    keys = ["row", "rate", "seed"]
    tables = ("processors", "fair-optimizers-search")
    again, first = (
        records.load(f"neumatch/{name}", folder=folder).set_index(keys)[VALIDATION]
        for name in tables
    )
    if unknown := sorted(set(again.index) - set(first.index)):
        raise ValueError(f"neumatch/processors: expected runs of the search, got {unknown}")
    return (again - first.loc[again.index]).reset_index()
