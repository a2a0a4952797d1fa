"""The recorded sweep, the verdicts on the claims, and the tables beside the paper's."""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from modalign import records
from modalign._checks import require_choice
from modalign.metrics import interval_table
from modalign.studies import _sweep
from modalign.studies._claims import Reading, decided, paired, with_criteria
from modalign.studies._sweep import Task
from modalign.studies.videoqa.setting import (
    CLAIMS,
    NAMES,
    RATES,
    ROWS,
    TRIED,
    TUNED,
    Setting,
    declared,
    with_cka,
)
from modalign.studies.videoqa.training import measured, train
from modalign.training.checks import Device

CURVE = ["validation", "cka", "cka_debiased", "cka_shuffled"]


def _measured(task: Task, *, device: Device) -> pd.DataFrame:
    """A row an epoch, by the steps that count; the last one has the final measures too."""
    run = train(task.setting, checkpoint=task.checkpoint, device=device)
    table = run.history[["step", *CURVE]].copy()
    table["step"] -= task.setting.before
    last = table.step == table.step.max()
    for name, value in measured(run).items():
        table[name] = pd.Series(value, table.index, dtype=float).where(last)
    return task.named(table)


def _side(row: str) -> tuple[str, bool]:
    """Whose learning rate a row takes: its model's, with CKA or without."""
    return ROWS[row]["model"], "weight" in ROWS[row]


def _validated(task: Task, *, device: Device) -> pd.DataFrame:
    history = train(task.setting, checkpoint=task.checkpoint, device=device).history
    model, rate = task.setting.model, task.setting.learning_rate
    found = {"model": model, "cka": task.setting.weight > 0, "learning_rate": rate}
    return pd.DataFrame([{**found, "validation": history.validation.iloc[-1]}])


def tune(
    *,
    jobs: int = 1,
    device: Device = "cpu",
    folder: str | pathlib.Path | None = None,
    **options: Any,
) -> None:
    """Try each of :data:`RATES` with CKA and without, and keep it in ``results/videoqa/tuning``.

    Args:
        jobs, device, folder: as of :func:`record`.
        **options: of :class:`Setting`, for every trial.
    """
    options = {"watched": 1000, "tested": 2, "seed": TUNED, **options}
    rows = [row for name in NAMES.values() for row in (name, with_cka(name, TRIED))]
    _sweep.record(
        functools.partial(_validated, device=device),
        [
            (row, Setting(**{**ROWS[row], **options, "learning_rate": rate}))
            for row, rate in itertools.product(rows, RATES)
        ],
        "videoqa/tuning",
        parameters={"rates": RATES, "rows": {row: ROWS[row] for row in rows}, "setting": options},
        jobs=jobs,
        folder=folder,
    )


def tuned_rates(table: pd.DataFrame) -> dict[tuple[str, bool], float]:
    """The rate of each model with CKA and without: the best on validation, the lower of equals."""
    ordered = table.sort_values(["validation", "learning_rate"], ascending=[False, True])
    best = ordered.groupby(["model", "cka"]).learning_rate.first()
    return {(str(model), bool(cka)): float(rate) for (model, cka), rate in best.items()}


def record(
    name: str = "shapes",
    *,
    rows: Sequence[str] = tuple(ROWS),
    seeds: Iterable[int] = range(5),
    jobs: int = 1,
    device: Device = "cpu",
    folder: str | pathlib.Path | None = None,
    **options: Any,
) -> None:
    """Train rows with every seed, and keep curves and scores in ``results/videoqa/{name}``.

    A sweep that was stopped goes on where it was, and so does a run within it.

    Args:
        name: of the table.
        rows: of :data:`ROWS`.
        seeds: of the runs.
        jobs: processes, of one thread each.
        device: ``"cpu"``, or ``"auto"``, with which the processes share a GPU.
        folder: results folder; the book's by default.
        **options: of :class:`Setting`, for every row, in place of what the row says; a
            ``learning_rate`` in place of those that :func:`tune` found.
    """
    for row in rows:
        require_choice(row, tuple(ROWS), "rows")
    seeds = list(seeds)
    if "learning_rate" in options:
        changes = {row: ROWS[row] for row in rows}
    else:
        rates = tuned_rates(records.load("videoqa/tuning", folder=folder))
        changes = {row: {**ROWS[row], "learning_rate": rates[_side(row)]} for row in rows}
    usual = _sweep.fixed_in(Setting(**options))
    _sweep.record(
        functools.partial(_measured, device=device),
        [
            (row, Setting(**{**changes[row], **options, "seed": seed}))
            for seed, row in itertools.product(seeds, rows)
        ],
        f"videoqa/{name}",
        parameters={"seeds": seeds, "rows": changes, "setting": usual},
        jobs=jobs,
        folder=folder,
    )


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row a run, with its final measures."""
    return table[table.accuracy.notna()].drop(columns=["step", *CURVE])


def _readings(table: pd.DataFrame) -> Iterator[Reading]:
    runs = {row: part.set_index("seed") for row, part in scores(table).groupby("row", sort=False)}
    for claim, contrasts in CLAIMS.items():
        for each in contrasts:
            if each.row in runs and each.other in runs:
                mine, theirs = runs[each.row][each.measure] + each.plus, runs[each.other][each.than]
                yield Reading(claim, each.row, declared(claim, each), *paired(mine, theirs))


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """Every reading of each claim, with interval and verdict.

    Claims about rows that the table does not hold are left out.
    """
    columns = ["claim", "measure", "contrast", "mean", "low", "high", "smallest", "verdict"]
    return with_criteria(_readings(table))[columns]


def readings(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Every reading of each claim, from the recorded table that decides it.

    Args:
        folder: results folder; the book's by default.

    Returns:
        The rows of :func:`modalign.studies._claims.with_criteria`.
    """
    return with_criteria(_readings(records.load("videoqa/shapes", folder=folder)))


def verdicts(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """One verdict a claim, over its :func:`readings`."""
    return decided(readings(folder))


def summary(table: pd.DataFrame, columns: Sequence[str], *, digits: int = 1) -> pd.DataFrame:
    """The measures of each row, means over seeds with 95% intervals."""
    return interval_table(scores(table), "row", list(columns), digits=digits)
