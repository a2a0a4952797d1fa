"""The recorded sweeps, the verdicts on the claims, and captions that look at no picture."""

import functools
import itertools
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from modalign import plots, records
from modalign._checks import require_choice
from modalign.metrics import Interval, caption_scores, interval_table
from modalign.studies import _sweep
from modalign.studies._claims import Reading, decided, paired, with_criteria
from modalign.studies._sweep import Task
from modalign.studies.captioning.pictures import data
from modalign.studies.captioning.setting import (
    CLAIMS,
    CONSTANT,
    PRESETS,
    ROWS,
    SMALLEST,
    WITHOUT,
    Setting,
    declared,
)
from modalign.studies.captioning.training import measured, train
from modalign.training.checks import Device

CURVE = ["bleu_4", "words", "cka", "cka_debiased", "cka_shuffled"]


def _measured(task: Task, *, device: Device) -> pd.DataFrame:
    """A row an epoch; the last one has the final measures too."""
    run = train(task.setting, checkpoint=task.checkpoint, device=device)
    table = run.history[["epoch", *CURVE]].rename(columns={"bleu_4": "validation"})
    table["epoch"] -= task.setting.before
    for name, value in measured(run).items():
        table[name] = np.where(table.epoch == task.setting.epochs, value, np.nan)
    return task.named(table)


def record(
    dataset: str = "shapes",
    *,
    name: str | None = None,
    rows: Sequence[str] = tuple(ROWS),
    seeds: Iterable[int] = range(5),
    jobs: int = 1,
    device: Device = "cpu",
    folder: str | pathlib.Path | None = None,
    **options: Any,
) -> None:
    """Train rows with every seed, and keep curves and scores in ``results/captioning/{name}``.

    A sweep that was stopped goes on where it was, and so does a run within it.

    Args:
        dataset: of :class:`Setting`, with its sizes of :data:`PRESETS`.
        name: of the table, in place of the data set's; such as ``"flickr8k-full"`` with
            ``**FULL``.
        rows: of :data:`ROWS`.
        seeds: of the runs.
        jobs: processes, of one thread each.
        device: ``"cpu"``, or ``"auto"``, with which the processes share a GPU.
        folder: results folder; the book's by default.
        **options: of :class:`Setting`, for every row.
    """
    for row in rows:
        require_choice(row, tuple(ROWS), "rows")
    seeds = list(seeds)
    given = {"dataset": dataset, **PRESETS.get(dataset, {}), **options}
    usual = _sweep.fixed_in(Setting(**given))
    _sweep.record(
        functools.partial(_measured, device=device),
        [
            (row, Setting(**{**given, "seed": seed, **ROWS[row]}))
            for seed, row in itertools.product(seeds, rows)
        ],
        f"captioning/{name or dataset}",
        parameters={"seeds": seeds, "rows": {row: ROWS[row] for row in rows}, "setting": usual},
        jobs=jobs,
        folder=folder,
    )


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row a run: the final measures, and BLEU-4 on validation over the epochs.

    ``curve`` is its mean over all epochs, ``early`` over the first third of them. Epochs of a
    warm-up that goes before are numbered 0 and below, and are in neither.
    """
    counted = table[table.epoch > 0]
    last = counted.epoch.max()
    runs = counted[counted.epoch == last].set_index(["row", "seed"]).drop(columns="epoch")
    early = counted[counted.epoch <= last / 3]
    for name, part in (("curve", counted), ("early", early)):
        runs[name] = part.groupby(["row", "seed"]).validation.mean()
    return runs.reset_index()


def _readings(table: pd.DataFrame, dataset: str) -> Iterator[Reading]:
    runs = {row: part.set_index("seed") for row, part in scores(table).groupby("row", sort=False)}
    for claim, (_, measures, rows) in CLAIMS.items():
        for measure, row in itertools.product(measures, rows):
            if measure in SMALLEST[dataset] and row in runs:
                asked = declared(claim, measure, row, dataset)
                yield Reading(
                    claim, row, asked, *paired(runs[row][measure], runs[WITHOUT][measure])
                )


def claims(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Every reading of each claim that a table can decide, with interval and verdict.

    Only the table of a claim's own data set decides it; see :func:`verdicts`.
    """
    columns = ["claim", "measure", "contrast", "mean", "low", "high", "smallest", "verdict"]
    return with_criteria(_readings(table, dataset))[columns]


def readings(
    folder: str | pathlib.Path | None = None, *, names: Iterable[str] = tuple(CLAIMS)
) -> pd.DataFrame:
    """Every reading of each claim, from the recorded table of the data set that decides it.

    Args:
        folder: results folder; the book's by default.
        names: of the claims, of :data:`CLAIMS`; all by default, which takes all tables.

    Returns:
        The rows of :func:`modalign.studies._claims.with_criteria`.
    """
    found: list[Reading] = []
    for claim in names:
        require_choice(claim, tuple(CLAIMS), "names")
        dataset = CLAIMS[claim].dataset
        table = records.load(f"captioning/{dataset}", folder=folder)
        found += (each for each in _readings(table, dataset) if each.claim == claim)
    return with_criteria(found)


def verdicts(
    folder: str | pathlib.Path | None = None, *, names: Iterable[str] = tuple(CLAIMS)
) -> pd.DataFrame:
    """One verdict a claim, over its :func:`readings`; the arguments are the same."""
    return decided(readings(folder, names=names))


def summary(
    table: pd.DataFrame, floors: pd.DataFrame | None = None, *, digits: int = 3
) -> pd.DataFrame:
    """The measures of each row, means over seeds with 95% intervals.

    With a table of :func:`record_floors` its means stand first, and below them, in the world, the
    scores of a constant map. Its intersection over union is the part of the picture that the
    named thing fills, as is its chance in the pointing game.
    """
    runs = scores(table)
    measures = ["bleu_4", "cider", "curve", "early", "pointing", "iou", "cka", "cka_debiased",
                "cka_shuffled"]  # fmt: skip
    found = [interval_table(runs, "row", [m for m in measures if m in runs], digits=digits)]
    if floors is not None:
        below = floors.groupby("floor", sort=False)[["bleu_4", "cider"]].mean()
        if "pointing_by_chance" in runs:
            below.loc["even map", ["pointing", "iou"]] = runs.pointing_by_chance.mean()
        found.insert(0, below.map(f"{{:.{digits}f}}".format, na_action="ignore"))
    return pd.concat(found).rename_axis("row").fillna("")


def quoted(
    table: pd.DataFrame, dataset: str, floors: pd.DataFrame, *, digits: int
) -> dict[str, float | str]:
    """What the chapter's text quotes of a table, by name: means of rows, effects, and floors.

    An effect is a text, the mean difference with its 95% interval.
    """
    measures = ["bleu_4", "pointing", "iou", "cka", "cka_debiased", "cka_shuffled"]
    found: dict[str, float | str] = {}
    for row, part in scores(table).groupby("row"):
        for measure in part.columns.intersection(measures):
            found[f"{dataset}-{measure}-{_short(row)}"] = float(part[measure].mean())
    for each in claims(table, dataset).itertuples():
        name = f"{dataset}-{each.measure}-{_short(each.contrast.split(' minus')[0])}-effect"
        found[name] = f"{Interval(each.mean, each.low, each.high):.{digits}f}"
    for floor, part in floors[floors.dataset == dataset].groupby("floor"):
        found[f"{dataset}-floor-{floor}"] = float(part.bleu_4.mean())
    return found


def _short(row: str) -> str:
    return row.replace(", ", "-")


def figure(table: pd.DataFrame, rows: Sequence[str], floors: pd.DataFrame | None = None) -> Figure:
    """BLEU-4 on validation and debiased CKA by epoch, of some rows.

    A table of :func:`record_floors` adds the dotted score of one sentence for all test pictures.
    """
    shown = table[(table.epoch > 0) & table.row.isin(rows)]
    drawn, axes = plt.subplots(2, 1, figsize=(6, 7), sharex=True, layout="constrained")
    plots.curves(axes[0], shown, "epoch", "validation", "row")
    plots.curves(axes[1], shown, "epoch", "cka_debiased", "row", legend=False)
    if floors is not None:
        constant = floors[floors.floor == "constant"].bleu_4.mean()
        axes[0].axhline(constant, color="black", linewidth=0.9, linestyle=":")
    axes[0].set(ylabel="BLEU-4, validation")
    axes[1].set(ylabel="debiased CKA")
    sns.despine(drawn)
    return drawn


def floors(setting: Setting) -> pd.DataFrame:
    """The scores of captions that look at no picture, and of a person's captions.

    ``human`` is the first caption of each test picture against its other four; ``constant`` one
    sentence for all; ``random`` a caption of a picture to train on.
    """
    splits, _ = data(setting)
    references = splits["test"].texts
    n = len(references)
    rng = np.random.default_rng(setting.seed)
    known = [text for each in splits["train"].texts for text in each]
    said: Mapping[str, tuple[list[str], list[list[str]]]] = {
        "human": ([each[0] for each in references], [each[1:] for each in references]),
        "constant": ([CONSTANT[setting.dataset]] * n, references),
        "random": ([known[i] for i in rng.integers(len(known), size=n)], references),
    }
    rows = [{"floor": name, **caption_scores(*each).as_dict()} for name, each in said.items()]
    return pd.DataFrame(rows).set_index("floor")


def record_floors(
    seeds: Iterable[int] = range(5), *, folder: str | pathlib.Path | None = None, **options: Any
) -> None:
    """Keep :func:`floors` of both recorded sweeps as the table ``captioning/floors``, a row a seed.

    A seed draws the scenes of the world, and the captions of ``random``.
    """
    started, seeds, found = time.monotonic(), list(seeds), []
    for dataset, sizes in PRESETS.items():
        for seed in seeds:
            setting = Setting(**{"dataset": dataset, **sizes, **options, "seed": seed})
            part = floors(setting).reset_index()
            found.append(part.assign(dataset=dataset, seed=seed))
    records.save(
        pd.concat(found),
        "captioning/floors",
        parameters={"seeds": seeds, "sizes": PRESETS, **options},
        seconds=time.monotonic() - started,
        folder=folder,
    )
