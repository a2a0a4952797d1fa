"""The search and the test."""

import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from modalign import records
from modalign._checks import require_choice
from modalign.studies import _sweep
from modalign.studies._sweep import Task
from modalign.studies.choosing.setting import (
    ARMS,
    CONDITIONS,
    SEARCHED,
    SEEDS,
    TUNING,
    Setting,
    arms_of,
    search_of,
    trials,
)
from modalign.studies.choosing.training import diagnosis, train
from modalign.training import DivergenceError

SEARCH, TEST = "choosing/search", "choosing/test"


def _named(task: Task) -> dict[str, Any]:
    condition, arm = task.row.split(": ", 1)
    return {"condition": condition, "arm": arm, "seed": task.setting.seed}


def _searched(task: Task) -> pd.DataFrame:
    """The validation score of a trial; of one that diverged, none."""
    setting = task.setting
    knobs = ARMS[_named(task)["arm"]].knobs
    named = {**_named(task), "learning_rate": setting.learning_rate}
    named["knob"] = getattr(setting, knobs[0]) if knobs else None
    try:
        history = train(setting).history
    except DivergenceError:
        return pd.DataFrame([{**named, "measure": None}])
    return pd.DataFrame([{**named, "measure": history["measure"].iloc[-1]}])


def _tested(task: Task) -> pd.DataFrame:
    """The test scores of each round of a run, its seconds, and diagnostics of the last round."""
    run = train(task.setting, "test")
    table = run.history[["epoch", "measure", "sound", "text", "core_seconds"]].rename(
        columns={"epoch": "round"}
    )
    if "accepted" in run.history:
        table["accepted"] = run.history["accepted"]
    for name, value in diagnosis(run).items():
        table[name] = [*[np.nan] * (len(table) - 1), value]
    for place, (name, value) in enumerate(_named(task).items()):
        table.insert(place, name, value)
    return table


def frozen(search: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """Of each arm in each condition that was searched, the trial with the best mean score.

    Raises:
        ValueError: for arms that were not given the same number of trials.
    """
    found = {}
    per_arm = search.groupby(["condition", "arm"]).size()
    if per_arm.nunique() != 1:
        raise ValueError(f"search: expected as many trials of each arm, got {per_arm.to_dict()}")
    for (condition, arm), part in search.groupby(["condition", "arm"]):
        # a trial that diverged has no score, and is worse than any
        means = part.groupby("learning_rate")["measure"].mean(skipna=False).fillna(-np.inf)
        best = float(means.idxmax())
        # a table holds rates to some digits
        found[str(condition), str(arm)] = min(
            trials(str(arm)), key=lambda trial: abs(trial["learning_rate"] / best - 1)
        )
    return found


def record(
    conditions: Iterable[str] = tuple(CONDITIONS),
    *,
    tuning: Iterable[int] = TUNING,
    seeds: Iterable[int] = SEEDS,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Search the trials of every arm, freeze the best, and test it in every condition.

    Keeps ``choosing/search`` and ``choosing/test``. A call that was stopped goes on where it was.

    Args:
        conditions: of :data:`CONDITIONS`; digits and photographs need their files.
        tuning: seeds of the search.
        seeds: of the test.
        jobs: processes, of one thread each.
        folder: results folder; the book's by default.
        progress: show a bar.
        **options: of :class:`Setting`, for every run.

    Raises:
        ValueError: for an unknown condition, and a seed that is both searched and tested with.
    """
    conditions, tuning, seeds = list(conditions), list(tuning), list(seeds)
    for condition in conditions:
        require_choice(condition, tuple(CONDITIONS), "conditions")
    _sweep.require_apart(tuning, seeds)
    named = {each: CONDITIONS[each] for each in conditions}
    parameters = {"setting": _sweep.fixed_in(Setting(**options)), "conditions": named}
    common: dict[str, Any] = {"jobs": jobs, "folder": folder, "progress": progress}
    searched = [each for each in SEARCHED if each in {*map(search_of, conditions)}]
    _sweep.record(
        _searched,
        [
            (f"{each}: {arm}", Setting(**{**CONDITIONS[each], **trial, **options}, seed=seed))
            for each, seed, arm in itertools.product(searched, tuning, ARMS)
            if arm in arms_searched(each)
            for trial in trials(arm)
        ],
        SEARCH,
        parameters={**parameters, "seeds": tuning},
        **common,
    )
    best = frozen(records.load(SEARCH, folder=folder))
    _sweep.record(
        _tested,
        [
            (
                f"{each}: {arm}",
                Setting(**{**CONDITIONS[each], **best[search_of(each), arm], **options}, seed=seed),
            )
            for each, seed in itertools.product(conditions, seeds)
            for arm in arms_of(each)
        ],
        TEST,
        parameters={**parameters, "seeds": seeds},
        **common,
    )


def arms_searched(condition: str) -> tuple[str, ...]:
    """The arms that any condition of this search tests."""
    tested = {arm for each in CONDITIONS if search_of(each) == condition for arm in arms_of(each)}
    return tuple(arm for arm in ARMS if arm in tested)
