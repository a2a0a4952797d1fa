"""Answers of the recorded search and test: gains, costs, and which method to use when."""

import numpy as np
import pandas as pd
from scipy import stats

from modalign._checks import require_choice
from modalign.metrics import Interval, seed_interval
from modalign.studies._claims import paired, with_seeds
from modalign.studies.choosing.recording import frozen
from modalign.studies.choosing.setting import (
    BASELINE,
    CONDITIONS,
    MEANING,
    SMALLEST,
    arms_of,
    trials,
)


def _ended(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last round of each run."""
    return table[table["round"] == table["round"].max()]


def at_equal_seconds(table: pd.DataFrame) -> pd.Series:
    """The measure of each run when it had used as many seconds as the baseline of its seed.

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
    """The gain of each arm over the baseline in each condition, with its interval and verdict.

    Args:
        table: of the test.
        seconds: compare at equal seconds in place of equal steps.

    Returns:
        ``condition``, ``arm``, ``mean``, ``low``, ``high``, ``pairs``, ``verdict`` (of the claim
        that the arm helps), and ``seeds`` that would decide an undecided one.
    """
    last = _ended(table)
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
            found, pairs = paired(runs[arm], runs[BASELINE])
            said = found.verdict(paper=1, smallest=smallest)
            judgement = with_seeds(found, said, pairs, smallest)
            rows.append({"condition": condition, "arm": arm, **judgement})
    return pd.DataFrame(rows).astype({"seeds": "Int64"})


def levels(table: pd.DataFrame) -> dict[str, Interval]:
    """The baseline's own measure in each condition."""
    last = _ended(table[table["arm"] == BASELINE])
    return {
        condition: seed_interval(last[last["condition"] == condition]["measure"])
        for condition in CONDITIONS
        if condition in set(last["condition"])
    }


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds and numbers in memory of each arm, as multiples of the baseline's, in ``usual``."""
    last = _ended(table[table["condition"] == "usual"])
    means = last.groupby("arm", sort=False)[["core_seconds", "numbers"]].mean()
    return means / means.loc[BASELINE]


def helping(gained: pd.DataFrame) -> pd.DataFrame:
    """The arms that help in each condition, the largest gain first.

    Args:
        gained: of :func:`gains`.
    """
    ordered = gained.assign(place=gained["condition"].map([*CONDITIONS].index))
    found = ordered[ordered["verdict"] == "holds"]
    return found.sort_values(["place", "mean"], ascending=[True, False]).drop(columns="place")


def advice(table: pd.DataFrame) -> pd.DataFrame:
    """The decision table: for each condition the arm that gains most, and what it costs.

    The arm is the best of those that help, so that its gain is a little too high; if none helps,
    it is the baseline. Pairs of methods are among the arms if they were tried.

    Args:
        table: of the test.

    Returns:
        By a condition's meaning for a reader: the baseline's measure, ``use``, ``gain`` with its
        interval, ``timed``, the gain at equal seconds, ``seconds`` and ``numbers`` in memory as
        multiples of the baseline's, and ``also``, the other arms that help.
    """
    gained, paid, start = gains(table), costs(table), levels(table)
    timed = gains(table, seconds=True).set_index(["condition", "arm"])[["mean", "low", "high"]]
    rows = {}
    for condition, level in start.items():
        found = helping(gained[gained["condition"] == condition])
        best = found["arm"].iloc[0] if len(found) else BASELINE
        rows[MEANING[condition]] = {
            "baseline": f"{level.mean:.1f}",
            "use": best,
            "gain": f"{Interval(*found[['mean', 'low', 'high']].iloc[0]):+.1f}"
            if len(found)
            else "",
            "timed": f"{Interval(*timed.loc[condition, best]):+.1f}" if len(found) else "",
            "seconds": f"{paid['core_seconds'][best]:.2f}",
            "numbers": f"{paid['numbers'][best]:.2f}",
            "also": ", ".join(found["arm"].iloc[1:]),
        }
    return pd.DataFrame(rows).T.rename_axis("your data")


def at_an_end(search: pd.DataFrame) -> pd.DataFrame:
    """The frozen trial of each arm, and whether its rate or knob lies at an end of the search."""
    rows = []
    for (condition, arm), best in frozen(search).items():
        row: dict[str, object] = {"condition": condition, "arm": arm}
        for name, value in best.items():
            tried = sorted(trial[name] for trial in trials(arm))
            if isinstance(value, float) and tried[0] < tried[-1]:
                what = "rate" if name == "learning_rate" else "knob"
                row |= {what: value, f"{what} at an end": value in (tried[0], tried[-1])}
        rows.append(row)
    return pd.DataFrame(rows)


def untuned(search: pd.DataFrame, *, rate: float = 1e-3) -> pd.DataFrame:
    """The gain that each arm seems to have if the baseline has a single trial, at ``rate``.

    Validation scores of the search: the best trial of each arm, minus the baseline's trial whose
    rate is nearest to ``rate`` (``once``), and minus the best of the baseline's (``fairly``).

    Raises:
        ValueError: for a rate that is not above 0.
    """
    if not 0 < rate < np.inf:
        raise ValueError(f"rate: expected a number above 0, got {rate}")
    rows = []
    for condition, part in search.groupby("condition", sort=False):
        means = part.groupby(["arm", "learning_rate"], sort=False)["measure"].mean()
        base = means[BASELINE]
        nearest = min(base.index, key=lambda tried: abs(np.log(tried / rate)))
        for arm, best in means.groupby("arm", sort=False).max().drop(BASELINE).items():
            once, fairly = best - base[nearest], best - base.max()
            rows.append({"condition": condition, "arm": arm, "once": once, "fairly": fairly})
    return pd.DataFrame(rows)


def diagnosed(table: pd.DataFrame, condition: str = "usual") -> pd.DataFrame:
    """Means over seeds of the measure, its two parts, and the diagnostics, by arm.

    Raises:
        ValueError: for a condition that is not in the table.
    """
    require_choice(condition, tuple(table["condition"].unique()), "condition")
    names = ["measure", "sound", "text", "probe", "cka_sound", "cka_text", "margin"]
    last = _ended(table[table["condition"] == condition])
    return last.groupby("arm", sort=False)[names].mean().dropna(axis=1)


def told_by(table: pd.DataFrame, name: str, condition: str = "usual") -> float:
    """Spearman's correlation of a diagnostic and the measure over the arms' means."""
    means = diagnosed(table, condition)
    return float(stats.spearmanr(means[name], means["measure"]).statistic)


def broken(table: pd.DataFrame) -> pd.DataFrame:
    """How many runs of each arm in each condition end below half of the baseline's mean there.

    Returns:
        ``arm``, ``condition``, ``broken``, and ``stuck``: those of them whose last round took no
        step, as a curriculum accepted no batch any more.
    """
    last = _ended(table)
    base = last[last["arm"] == BASELINE].groupby("condition")["measure"].mean()
    low = last["measure"] < last["condition"].map(base) / 2
    none = low & (last["accepted"] == 0) if "accepted" in last else low & False
    counted = last.assign(broken=low, stuck=none)
    columns = ["arm", "condition"]
    return counted.groupby(columns, sort=False)[["broken", "stuck"]].sum().reset_index()
