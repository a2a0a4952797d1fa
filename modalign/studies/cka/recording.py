"""The recorded sweeps of the synthetic experiment."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import pandas as pd

from modalign._checks import require_choice
from modalign.studies import _sweep
from modalign.studies._sweep import Task, settings_of, shared_by
from modalign.studies.cka import cosine_learning, few, steps
from modalign.studies.cka.cosine_learning import (
    THRESHOLDS,
    Measure,
    Order,
    Pairs,
    Setting,
    Statistics,
    train,
)

Grid = Mapping[str, Sequence[Any]]
WARM_UPS = (2, 5, 20)
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BATCHES: tuple[Grid, ...] = (
    {"batch_size": [32], "epochs": [3]},
    {"batch_size": [512], "epochs": [10]},
)
"""Minibatches of the contrastive comparison, and epochs for about as much time of each."""


def _history(setting: Setting) -> pd.DataFrame:
    return train(setting).history


def _halves(setting: Setting) -> pd.DataFrame:
    """Held-out pairs after training, one half to choose by, and one to test on."""
    run = train(setting, keep=[setting.epochs])
    x, y = run.embeddings[setting.epochs]
    half = len(x) // 2
    parts = {"validation": slice(half), "test": slice(half, None)}
    return pd.DataFrame(
        [{"split": name, **cosine_learning.evaluate(x[p], y[p])} for name, p in parts.items()]
    )


class Sweep(NamedTuple):
    """The function of each run, the grids of the runs, and the first of the seeds."""

    measure: Callable[[Setting], pd.DataFrame]
    grids: tuple[Grid, ...]
    first: int = 10


_WORLDS: Grid = {"pairs": get_args(Pairs), "order": get_args(Order)}
_MEASURED: Grid = {**_WORLDS, "measure": get_args(Measure)}
SWEEPS: dict[str, Sweep] = {
    "cka/map": Sweep(
        _history,
        (
            {**_WORLDS, "objective": ["cosine"], "statistics": get_args(Statistics)},
            {**_MEASURED, "objective": ["cka", "both"]},
            {
                **_MEASURED,
                "objective": ["both, warm-up"],
                "warmup_steps": WARM_UPS,
                "counted": [True, False],
            },
        ),
    ),
    "cka/steps": Sweep(
        steps.measured, ({**_WORLDS, "objective": ["cosine", "both"], "epochs": [5]},)
    ),
    "cka/contrastive": Sweep(
        _halves,
        tuple(
            grid
            for sizes in BATCHES
            for grid in (
                {**sizes, "objective": ["both"], "lambda_cka": WEIGHTS},
                {
                    **sizes,
                    "objective": ["contrastive", "contrastive, cka"],
                    "temperature": TEMPERATURES,
                },
            )
        ),
    ),
    "cka/few": Sweep(few.measures, ({"objective": ["both"]},)),
    "cka/objectives": Sweep(
        few.objectives,
        (
            {
                "objective": ["cka"],
                "measure": few.COMPARED,
                "batch_size": few.SIZES,
                "epochs": [3],
            },
        ),
    ),
    "cka/kernels": Sweep(
        _history,
        (
            {
                "objective": ["both"],
                "measure": ["biased", *(f"rbf {t}" for t in THRESHOLDS)],
                "epochs": [3],
            },
        ),
    ),
    "cka/batch": Sweep(
        _history,
        (
            {
                "measure": ["biased", "debiased"],
                "objective": ["cosine", "cka", "both"],
                "batch_size": [16, 32, 128, 512],
                "epochs": [3],
            },
        ),
        first=0,
    ),
}
"""By table. Seeds from 10 on are of the sweeps whose criteria :mod:`modalign.studies.cka.claims`
fixed beforehand; the other one is older, and decides nothing."""


def settings(grids: Iterable[Grid], seeds: Iterable[int]) -> list[Setting]:
    """Every combination of each grid with every seed; runs that CKA cannot change appear once.

    >>> grid = {"objective": ["cosine", "cka"], "measure": ["biased", "debiased"]}
    >>> len(settings([grid], [0, 1]))
    6
    """
    seeds = list(seeds)
    chosen = (
        dataclasses.replace(each, measure="biased", lambda_cka=0.0)
        if each.objective in ("cosine", "contrastive")
        else each
        for each in itertools.chain(*(settings_of(Setting, grid, seeds) for grid in grids))
    )
    return list(dict.fromkeys(chosen))


def _measured(
    task: Task, *, measure: Callable[[Setting], pd.DataFrame], fixed: frozenset[str]
) -> pd.DataFrame:
    """The rows of a run, beside the fields that differ between runs."""
    found = measure(task.setting)
    own = dataclasses.asdict(task.setting)
    varied = {k: v for k, v in own.items() if k not in fixed and k not in found}
    return pd.DataFrame([varied] * len(found)).join(found)


def record(
    names: Iterable[str] = tuple(SWEEPS),
    *,
    seeds: int = 8,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
) -> None:
    """Run sweeps of :data:`SWEEPS`, and keep their tables in results/.

    A sweep that was stopped goes on where it was.

    Args:
        names: of the tables.
        seeds: number of seeds, from the sweep's first on.
        jobs: processes, of one thread each.
        folder: results folder; the book's by default.
    """
    for name in names:
        require_choice(name, tuple(SWEEPS), "names")
        sweep = SWEEPS[name]
        chosen = range(sweep.first, sweep.first + seeds)
        runs = settings(sweep.grids, chosen)
        fixed = shared_by(runs)
        _sweep.record(
            functools.partial(_measured, measure=sweep.measure, fixed=frozenset(fixed)),
            [(run.objective, run) for run in runs],
            name,
            parameters={"grids": list(sweep.grids), "seeds": list(chosen), "fixed": fixed},
            jobs=jobs,
            folder=folder,
        )
