"""The search, the test, and what they say."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from modalign import records
from modalign._checks import require_choice
from modalign.metrics import Interval, difference, seed_interval
from modalign.studies import _sweep
from modalign.studies._sweep import Task
from modalign.studies.choosing.setting import (
    ARMS,
    BASELINE,
    CONDITIONS,
    SEARCHED,
    SEEDS,
    SMALLEST,
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
    """The test scores of each round of a run, its seconds, and what explains the last ones."""
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
    if both := sorted(set(tuning) & set(seeds)):
        raise ValueError(f"tuning, seeds: expected no seed in both, got {both}")
    usual = dataclasses.asdict(Setting(**options))
    del usual["seed"]
    parameters = {"setting": usual, "conditions": {each: CONDITIONS[each] for each in conditions}}
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


def at_equal_seconds(table: pd.DataFrame) -> pd.Series:
    """The measure of each run where it had used as many seconds as the baseline of its seed.

    Returns:
        By condition, arm and seed.
    """
    found = {}
    for (condition, seed), part in table.groupby(["condition", "seed"], sort=False):
        runs = {arm: each.sort_values("round") for arm, each in part.groupby("arm", sort=False)}
        given = runs[BASELINE]["core_seconds"].iloc[-1]
        for arm, each in runs.items():
            # before the first score a run is at chance, which no condition is near
            found[condition, arm, seed] = float(
                np.interp(given, each["core_seconds"], each["measure"])
            )
    index = pd.MultiIndex.from_tuples(found, names=["condition", "arm", "seed"])
    return pd.Series(list(found.values()), index=index, name="measure")


def gains(table: pd.DataFrame, *, seconds: bool = False) -> pd.DataFrame:
    """What each arm gains over the baseline in each condition, with its interval and verdict.

    Args:
        table: of the test.
        seconds: compare at equal seconds in place of equal steps.

    Returns:
        ``condition``, ``arm``, ``mean``, ``low``, ``high``, ``pairs``, ``verdict`` (of the claim
        that the arm helps), and ``seeds`` that would decide an undecided one.
    """
    last = table[table["round"] == table["round"].max()]
    measured = (
        at_equal_seconds(table)
        if seconds
        else last.set_index(["condition", "arm", "seed"])["measure"]
    )
    rows = []
    for condition in CONDITIONS:
        if condition not in measured.index.get_level_values("condition"):
            continue
        runs = {arm: part.droplevel("arm") for arm, part in measured[condition].groupby("arm")}
        smallest = SMALLEST[CONDITIONS[condition].get("dataset", "shapes")]
        for arm in arms_of(condition)[1:]:
            found = difference(runs[arm].to_dict(), runs[BASELINE].to_dict())
            said = found.verdict(paper=1, smallest=smallest)
            pairs = len(runs[arm])
            rows.append(
                {
                    "condition": condition,
                    "arm": arm,
                    **found._asdict(),
                    "pairs": pairs,
                    "smallest": smallest,
                    "verdict": said,
                    "seeds": found.seeds_to_decide(pairs, smallest=smallest)
                    if said == "undecided"
                    else None,
                }
            )
    return pd.DataFrame(rows).astype({"seeds": "Int64"})


def levels(table: pd.DataFrame) -> dict[str, Interval]:
    """The baseline's own measure in each condition."""
    last = table[(table["round"] == table["round"].max()) & (table["arm"] == BASELINE)]
    return {
        condition: seed_interval(last[last["condition"] == condition]["measure"])
        for condition in CONDITIONS
        if condition in set(last["condition"])
    }


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds and numbers in memory of each arm, as multiples of the baseline's, in ``usual``."""
    last = table[(table["round"] == table["round"].max()) & (table["condition"] == "usual")]
    means = last.groupby("arm", sort=False)[["core_seconds", "numbers"]].mean()
    return means / means.loc[BASELINE]
