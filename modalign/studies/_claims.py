"""How a study declares a claim before its sweep runs, and the one rule that decides it after."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from modalign.metrics import SYMBOLS, Interval, Verdict, difference, of_readings


class Claim(NamedTuple):
    """A claim of a paper, as a study decides it.

    Attributes:
        says: the statement.
        paper: the value as printed, and its place.
        measure: what is compared.
        contrast: the two sides, in the order in which the claim predicts a positive difference.
        budget: what either side gets, tuning included.
        smallest: the smallest effect of interest, as a size.
        table: the recorded tables that decide it.
        denies: ``""``, or the effect that the claim denies: a ``"gain"``, or a
            ``"difference"`` on either side.
        exploratory: declared after other results had been seen.
    """

    says: str
    paper: str
    measure: str
    contrast: str
    budget: str
    smallest: float
    table: str
    denies: Literal["", "gain", "difference"] = ""
    exploratory: bool = False


def verdict(claim: Claim, interval: Interval) -> Verdict:
    """The verdict of one interval on a claim, by :meth:`modalign.metrics.Interval.verdict`.

    A claim that denies an effect holds if that effect is absent or on the other side, and is
    reversed if it is there.
    """
    up, down = (interval.verdict(paper=side, smallest=claim.smallest) for side in (1, -1))
    if not claim.denies:
        return up
    denied = [up] if claim.denies == "gain" else [up, down]
    if "holds" in denied:
        return "reversed"
    return "undecided" if "undecided" in denied else "holds"


def judged(
    claims: Mapping[str, Claim], found: Iterable[tuple[str, str, Interval, int]]
) -> pd.DataFrame:
    """A row for each reading of each claim: its interval, verdict, and seeds to decide it.

    Args:
        claims: by id.
        found: for each reading the id of its claim, its name, the interval of the paired
            differences, and how many pairs there are.

    Returns:
        ``claim``, ``reading``, ``mean``, ``low``, ``high``, ``pairs``, ``smallest``, ``verdict``,
        and ``seeds``: how many would decide an undecided one, missing for the others.
    """
    rows = []
    for name, reading, interval, pairs in found:
        claim = claims[name]
        judgement = with_seeds(interval, verdict(claim, interval), pairs, claim.smallest)
        rows.append({"claim": name, "reading": reading, **judgement})
    return pd.DataFrame(rows).astype({"seeds": "Int64"})


def with_seeds(interval: Interval, said: Verdict, pairs: int, smallest: float) -> dict[str, Any]:
    """An interval and its verdict, and the number of seeds that would decide an undecided one."""
    undecided = said == "undecided" and smallest
    seeds = interval.seeds_to_decide(pairs, smallest=smallest) if undecided else None
    return {**interval._asdict(), "pairs": pairs, "smallest": smallest, "verdict": said,
            "seeds": seeds}  # fmt: skip


def paired(a: pd.Series, b: pd.Series) -> tuple[Interval, int]:
    """The interval of ``a`` minus ``b``, a value a seed each, and how many pairs there are."""
    return difference(a.to_dict(), b.to_dict()), len(a)


class Reading(NamedTuple):
    """A claim in one reading, with its interval.

    Attributes:
        claim: its id.
        name: of the reading.
        declared: the claim, as it is read here.
        found: the interval of the paired differences.
        pairs: how many there are.
    """

    claim: str
    name: str
    declared: Claim
    found: Interval
    pairs: int


def with_criteria(readings: Iterable[Reading]) -> pd.DataFrame:
    """The rows of :func:`judged`, each beside what its claim declares.

    Returns:
        Those columns, and ``says``, ``paper``, ``measure``, ``contrast``, ``budget``, ``table`` and
        ``exploratory``.
    """
    rows = []
    for claim, name, declared, found, pairs in readings:
        row = judged({claim: declared}, [(claim, name, found, pairs)])
        about = {k: v for k, v in declared._asdict().items() if k not in ("smallest", "denies")}
        rows.append(row.assign(**about))
    return pd.concat(rows, ignore_index=True)


def decided(rows: pd.DataFrame) -> pd.DataFrame:
    """One verdict a claim, and how many of its readings had each verdict.

    Args:
        rows: of :func:`judged`.

    Returns:
        A row a claim, in order: ``verdict``, ``symbol``, ``readings``, and a count for each of
        ``holds``, ``reversed``, ``absent`` and ``undecided``.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, part in rows.groupby("claim", sort=False):
        each = part.verdict.value_counts()
        said = of_readings(part.verdict)
        found[str(name)] = {
            "verdict": said,
            "symbol": SYMBOLS[said],
            "readings": len(part),
            **{kind: int(each.get(kind, 0)) for kind in list(SYMBOLS)[:4]},
        }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("claim")
