"""The recorded sweeps, and the verdicts on the claims."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch

from modalign import records
from modalign._checks import require_choice
from modalign.studies import _sweep
from modalign.studies._claims import Reading, decided, paired, with_criteria
from modalign.studies._sweep import Task
from modalign.studies.codis.maps import codewords, pointing
from modalign.studies.codis.pairs import data
from modalign.studies.codis.pretraining import Run, build, evaluate, pretrain
from modalign.studies.codis.setting import (
    ALBEF,
    BASELINES,
    CLAIMS,
    DECIDED_BY,
    DECLARED,
    FULL,
    LEFT_OUT,
    ROWS,
    TASKS,
    Setting,
)
from modalign.studies.codis.tasks import fine_tune, fine_tuned_retrieval, majority
from modalign.training.checks import Device


def _pretrained(row: str, setting: Setting, checkpoint: pathlib.Path, device: Device) -> Run:
    if row in ROWS:
        return pretrain(setting, checkpoint=checkpoint, device=device, progress=False, **ROWS[row])
    splits, tokenizer = data(setting)
    model = build(setting, tokenizer).eval()
    if device == "auto" and torch.cuda.is_available():
        model = model.cuda()
    return Run(setting, model, pd.DataFrame(), splits, tokenizer)


def scores(row: str, run: Run) -> dict[str, float]:
    """All measures of a row: retrieval, maps, codewords, and the tasks.

    Args:
        row: of :data:`ROWS` or :data:`BASELINES`; of the latter only the tasks are measured.
        run: pretrained as the row says, or not at all.
    """
    setting = run.setting
    found: dict[str, float] = {}
    if row in ROWS:
        found |= evaluate(run)
        if "code" not in ROWS[row]:
            found |= codewords(run)
        if setting.dataset == "shapes":
            found |= {f"zero_shot_{name}": each for name, each in evaluate(run, "unseen").items()}
            tuned = fine_tuned_retrieval(run, progress=False)
            again = evaluate(run, "unseen", model=tuned)
            found |= {f"fine_tuned_{name}": each for name, each in again.items()}
            found |= pointing(run)
    for task in TASKS.get(setting.dataset, ()) if row in (FULL, ALBEF, *BASELINES) else ():
        how = dataclasses.replace(setting.tuning, task=task, look=row != "text only")
        if row == "majority":
            found[task] = majority(setting, how)
        else:
            found[task] = fine_tune(run, how, progress=False)[1]
    return found


def _measured(task: Task, *, device: Device) -> pd.DataFrame:
    run = _pretrained(task.row, task.setting, task.checkpoint, device)
    return pd.DataFrame([{"row": task.row, "seed": task.setting.seed, **scores(task.row, run)}])


def record(
    dataset: str = "shapes",
    *,
    name: str | None = None,
    rows: Sequence[str] | None = None,
    seeds: Iterable[int] = range(5),
    jobs: int = 1,
    device: Device = "cpu",
    folder: str | pathlib.Path | None = None,
    **options: Any,
) -> None:
    """Pretrain rows with every seed, and keep the scores in ``results/codis/{name}``.

    A sweep that was stopped goes on where it was.

    Args:
        dataset: of :class:`Setting`.
        name: of the table, in place of the data set's.
        rows: of :data:`ROWS` and :data:`BASELINES`; all but :data:`LEFT_OUT` by default.
        seeds: of the runs.
        jobs: processes, of one thread each.
        device: ``"cpu"``, or ``"auto"``, with which the processes share a GPU.
        folder: results folder; the book's by default.
        **options: of :class:`Setting`, for every row.
    """
    if rows is None:
        rows = [row for row in (*ROWS, *BASELINES) if row not in LEFT_OUT.get(dataset, ())]
    for row in rows:
        require_choice(row, (*ROWS, *BASELINES), "rows")
    seeds = list(seeds)
    usual = _sweep.fixed_in(Setting(dataset=dataset, **options))
    del usual["tuning"]["task"], usual["tuning"]["look"]
    changes = {row: ROWS[row] for row in rows if row in ROWS}
    _sweep.record(
        functools.partial(_measured, device=device),
        [
            (row, Setting(dataset=dataset, seed=seed, **options))
            for seed, row in itertools.product(seeds, rows)
        ],
        f"codis/{name or dataset}",
        parameters={"seeds": seeds, "rows": changes, "setting": usual},
        jobs=jobs,
        folder=folder,
    )


def _pointed(task: Task) -> pd.DataFrame:
    checkpoint = task.checkpoint.parent.with_name(".tasks") / task.checkpoint.name
    run = _pretrained(task.row, task.setting, checkpoint, "cpu")
    usual = {"row": task.row, "seed": task.setting.seed}
    return pd.DataFrame(
        [
            {**usual, "masks": "as seen" if moved else "as painted", **pointing(run, moved=moved)}
            for moved in (False, True)
        ]
    )


def record_pointing(
    *,
    seeds: Iterable[int] = range(5, 10),
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    **options: Any,
) -> None:
    """Play the pointing game again, with masks moved to where the places of the tower see them.

    Exploratory: done after the verdicts on c36, and without effect on them. The runs are those of
    the table ``tasks``. If its folder ``.tasks`` has their checkpoints, nothing is trained anew.

    Args:
        seeds: of the runs.
        jobs: processes, of one thread each.
        folder: results folder; the book's by default.
        **options: of :class:`Setting`, for every row.
    """
    seeds, rows = list(seeds), (FULL, ALBEF)
    _sweep.record(
        _pointed,
        [(row, Setting(seed=seed, **options)) for seed, row in itertools.product(seeds, rows)],
        "codis/pointing",
        parameters={"seeds": seeds, "rows": list(rows), "runs": "codis/tasks"},
        jobs=jobs,
        folder=folder,
    )


def _readings(table: pd.DataFrame, ids: Iterable[str]) -> Iterator[Reading]:
    by_row = {row: part.set_index("seed") for row, part in table.groupby("row")}
    for claim in ids:
        each = CLAIMS[claim]
        if {each.measure, each.than} <= set(table.columns):
            mine, theirs = by_row[each.row][each.measure], by_row[each.other][each.than]
            yield Reading(claim, each.says, DECLARED[claim], *paired(mine, theirs))


def claims(table: pd.DataFrame, ids: Iterable[str] = tuple(CLAIMS)) -> pd.DataFrame:
    """The paired difference of each claim with its 95% interval, and its verdict.

    Args:
        table: recorded; claims about measures that it does not hold are left out.
        ids: of the claims.

    Raises:
        KeyError: for a claim about a row that the table does not hold.
    """
    columns = ["claim", "measure", "contrast", "mean", "low", "high", "pairs", "smallest"]
    return with_criteria(_readings(table, ids))[[*columns, "verdict"]]


def readings(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Every claim whose recorded table is there.

    Args:
        folder: results folder; the book's by default.

    Returns:
        The rows of :func:`modalign.studies._claims.with_criteria`, one a claim.

    Raises:
        ValueError: if no such table is there.
    """
    root = records.results_folder(folder)
    there = [name for name in DECIDED_BY if (root / "codis" / f"{name}.csv").exists()]
    if not there:
        raise ValueError(f"folder: expected one of {', '.join(DECIDED_BY)} in it, got {there}")
    tables = {name: records.load(f"codis/{name}", folder=folder) for name in there}
    return with_criteria(
        each for name, table in tables.items() for each in _readings(table, DECIDED_BY[name])
    )


def verdicts(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """One verdict a claim, over its :func:`readings`."""
    return decided(readings(folder))
