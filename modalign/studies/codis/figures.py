"""Tables and figures of the chapter "CODIS": what was recorded, and what one model looks at."""

import dataclasses
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from modalign import plots, records
from modalign._checks import require_choice
from modalign.data import shapes
from modalign.metrics import SYMBOLS, Interval, seed_interval
from modalign.models.codis import Towers, grad_cam
from modalign.studies.codis.maps import named_objects
from modalign.studies.codis.pairs import ready, scenes
from modalign.studies.codis.pretraining import Run
from modalign.studies.codis.recording import readings
from modalign.studies.codis.setting import CLAIMS, TASKS, FineTuning, Task
from modalign.studies.codis.tasks import examples

TABLES = {
    "shapes": "the world, all rows",
    "tasks": "the world, on fresh seeds",
    "flickr8k": "photographs",
}
"""The recorded tables of ``results/codis`` that the chapter shows, and what they are of."""
MISSING = "not recorded yet"


def recorded(folder: str | pathlib.Path | None = None) -> list[str]:
    """Those of :data:`TABLES` that are there."""
    base = records.results_folder(folder)
    return [name for name in TABLES if (base / "codis" / f"{name}.csv").exists()]


def judged(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """Every claim that a table decides which is there; a verdict on each, as of :func:`claims`."""
    rows = readings(folder)
    columns = ["claim", "measure", "contrast", "mean", "low", "high", "pairs", "smallest"]
    table = rows.table.str.removeprefix("codis/")
    return rows[[*columns, "verdict"]].assign(table=table)


def told(verdicts: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Of each claim, in words: its ``symbol``, ``verdict``, and ``effect`` with its interval.

    A claim that several tables decide has the answer of each, with the table's name. One that none
    decides is :data:`MISSING`.
    """
    found = {}
    for claim in CLAIMS:
        rows = verdicts[verdicts["claim"] == claim]
        name = "{} ({})" if len(rows) > 1 else "{}"
        said = {
            "symbol": [SYMBOLS[each] for each in rows["verdict"]],
            "verdict": list(rows["verdict"]),
            "effect": [f"{interval_of(row):.1f}" for _, row in rows.iterrows()],
        }
        found[claim] = {
            what: ", ".join(name.format(*both) for both in zip(each, rows["table"], strict=True))
            or MISSING
            for what, each in said.items()
        }
    return found


def interval_of(row: pd.Series) -> Interval:
    """The interval in a row of a table with ``mean``, ``low`` and ``high``."""
    return Interval(row["mean"], row["low"], row["high"])


def summary(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Mean over seeds and 95% interval of each row of a recorded table, in words.

    Args:
        table: with ``row`` and the columns.
        columns: of the table, and how to name them; those that it lacks are left out. A row that
            was not measured is empty.
    """
    found: dict[str, dict[str, str]] = {}
    for row, part in table.groupby("row", sort=False):
        found[str(row)] = {
            name: f"{seed_interval(part[column]):.1f}" if part[column].notna().all() else ""
            for column, name in columns.items()
            if column in table
        }
    return pd.DataFrame(found).T.rename_axis("row")


def contrasts(ax: Axes, verdicts: pd.DataFrame, names: Mapping[str, str]) -> None:
    """Draw differences with their intervals, and the smallest effect of interest as a tick.

    Args:
        ax: where.
        verdicts: of :func:`judged`.
        names: of the claims that are drawn, by their ids.
    """
    chosen = verdicts[verdicts["claim"].isin(names)].copy()
    chosen["what"] = chosen["claim"].map(names)
    plots.forest(ax, chosen, "what", "table")
    order = list(dict.fromkeys(chosen["what"]))
    for _, row in chosen.iterrows():
        place = order.index(row["what"])
        ax.plot([row["smallest"]] * 2, [place - 0.25, place + 0.25], color="black", linewidth=1.5)
    ax.set(ylabel="", xlabel="points")
    if chosen["table"].nunique() > 1:
        ax.legend(fontsize=8)


def recalls(scores: Mapping[str, float], candidates: int) -> pd.DataFrame:
    """Recall of a run of both directions, by the towers and after re-ranking, beside chance.

    Args:
        scores: of :func:`modalign.studies.codis.pretraining.evaluate`.
        candidates: of each query.
    """
    ways, ks = {"text": "caption of a picture", "image": "picture of a caption"}, (1, 5, 10)
    rows = {"towers": "tower_", "re-ranked": ""}
    found = {
        name: {(ways[w], f"R@{k}"): scores[f"{row}{w}_recall_at_{k}"] for w in ways for k in ks}
        for name, row in rows.items()
    }
    found["chance"] = {(ways[w], f"R@{k}"): 100 * k / candidates for w in ways for k in ks}
    return pd.DataFrame(found).T


def caption(run: Run, split: str, place: int) -> str:
    """A caption of a split, as its tokens say it."""
    return " ".join(_words(run, split, place)[1:]).replace(" ,", ",")


def show(ax: Axes, picture: Tensor, title: str = "") -> None:
    """A picture (3, r, r), without axes."""
    ax.imshow(picture.permute(1, 2, 0).numpy())
    ax.set_axis_off()
    ax.set_title(title, fontsize=9)


def pictures(run: Run, number: int = 3) -> Figure:
    """The first pictures to train on over their first captions."""
    pairs = run.splits["train"]
    figure, axes = plt.subplots(1, number, figsize=(1.8 * number, 2.4))
    for i, ax in enumerate(np.atleast_1d(axes)):
        place = int((pairs.owners == i).nonzero()[0])
        show(ax, pairs.pixels[i], textwrap.fill(caption(run, "train", place), 22))
    return figure


def looks(run: Run, number: int = 3) -> Figure:
    """Grad-CAM maps of the names in captions, over the pictures; outlined is what they name.

    Of the world, the first pictures in which two objects or more can be told apart.
    """
    seen = run.splits["test"].pixels
    drawn = scenes(run.setting.seed, "test", len(seen))
    found = []
    for i, scene in enumerate(drawn):
        words = _words(run, "test", i)
        names = named_objects(scene, words)
        if len(names) > 1:
            found.append((i, names[:2], words))
    figure, axes = plt.subplots(number, 3, figsize=(5.4, 2 * number), squeeze=False)
    for (i, names, words), line in zip(found[:number], axes, strict=True):
        masks = shapes.render_images([drawn[i]], run.setting.resolution).masks[0]
        show(line[0], seen[i], textwrap.fill(caption(run, "test", i), 22))
        cam = maps_of(run, [i])[0]
        for ax, (k, place) in zip(line[1:], names, strict=True):
            show(ax, seen[i], words[place])
            _overlay(ax, cam[place], run.setting.resolution)
            ax.contour(masks[k], levels=[0.5], colors="cyan", linewidths=1)
    return figure


def maps_of(run: Run, places: Sequence[int], split: str = "test") -> Tensor:
    """Grad-CAM maps (n, t, g, g) of the tokens of some captions over their own pictures."""
    pairs, rows = run.splits[split], torch.tensor(places)
    batch = {
        "pixel_values": pairs.pixels[pairs.owners[rows]],
        "input_ids": pairs.input_ids[rows],
        "attention_mask": pairs.attention_mask[rows],
    }
    cams = grad_cam(run.model, ready(batch))
    side = run.setting.resolution // run.model.config.patch
    return cams.unflatten(2, (side, side))


def _words(run: Run, split: str, place: int) -> list[str]:
    pairs = run.splits[split]
    ids = pairs.input_ids[place, : int(pairs.attention_mask[place].sum())].tolist()
    return [run.tokenizer.id_to_token(each) for each in ids]


def _overlay(ax: Axes, cam: Tensor, side: int) -> None:
    """A map, each place of it around the pixel that it is centred on, as `_seen` says."""
    share, patch = (cam / cam.max().clamp_min(1e-12)).numpy(), side // len(cam)
    spread = np.kron(share, np.ones((patch, patch)))
    low, high = -patch / 2, side - patch / 2
    where = (low, high, high, low)
    ax.imshow(spread, cmap="autumn", alpha=0.7 * spread, vmin=0, vmax=1, extent=where)
    ax.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))


def at_home(run: Run) -> Run:
    """The same on the CPU."""
    splits = {name: pairs.to("cpu") for name, pairs in run.splits.items()}
    return dataclasses.replace(run, model=run.model.cpu(), splits=splits)


@torch.no_grad()
def taught(run: Run) -> tuple[Tensor, Tensor]:
    """What the teachers make of the test pictures and captions, rows of length one."""
    pairs, teacher = run.splits["test"], run.model.teacher.module
    assert isinstance(teacher, Towers)
    images = ready({"pixel_values": pairs.pixels})["pixel_values"]
    z_image = torch.cat([teacher.see(part)[1] for part in images.split(256)])
    return z_image, teacher.read(pairs.input_ids, pairs.attention_mask)[1]


@torch.no_grad()
def nearest(run: Run, number: int, each: int) -> list[tuple[int, Tensor, int]]:
    """The codewords that most pictures are nearest to, and what is nearest to them.

    Args:
        run: pretrained.
        number: of codewords.
        each: how many pictures of each.

    Returns:
        For each its place in the codebook, its nearest pictures, and its nearest caption.
    """
    by_image, by_text = (run.model.codebook.similarity(z) for z in taught(run))
    counts = torch.bincount(by_image.argmax(1), minlength=by_image.shape[1])
    used = counts.argsort(descending=True, stable=True)[:number].tolist()
    near = [by_image[:, k].topk(each).indices for k in used]
    return [(k, rows, int(by_text[:, k].argmax())) for k, rows in zip(used, near, strict=True)]


def codebook(run: Run, number: int = 4, each: int = 5) -> Figure:
    """Codewords by their nearest pictures, a line each, under the nearest caption."""
    figure = plt.figure(figsize=(5.4, 1.5 * number))
    lines = figure.subfigures(number, 1, squeeze=False)[:, 0]
    for (_, rows, text), line in zip(nearest(run, number, each), lines, strict=True):
        said = textwrap.fill(caption(run, "test", text), 60)
        line.suptitle(said, fontsize=9, x=0.02, ha="left")
        for ax, i in zip(line.subplots(1, each), rows.tolist(), strict=True):
            show(ax, run.splits["test"].pixels[i])
    return figure


def asked(run: Run) -> Figure:
    """One example of each task of a run's data set: pictures, text, and the right answer."""
    kinds = TASKS[run.setting.dataset]
    figure = plt.figure(figsize=(5.4, 1.5 * len(kinds)))
    grid = figure.add_gridspec(len(kinds), 4)
    for line, task in enumerate(kinds):
        images, said = _example(run, task)
        for column, picture in enumerate(images):
            show(figure.add_subplot(grid[line, column]), picture)
        ax = figure.add_subplot(grid[line, len(images) :])
        ax.set_axis_off()
        said = textwrap.fill(f"{task}: {said}", 48 - 14 * len(images))
        ax.text(0, 0.5, said, fontsize=9, va="center")
    return figure


def _example(run: Run, task: Task) -> tuple[Tensor, str]:
    how = FineTuning(task=task, examples=2, held_out=2)
    found, names = examples(how, "test", setting=run.setting, tokenizer=run.tokenizer)
    ids = found["input_ids"][0][found["attention_mask"][0].bool()].tolist()
    said = " ".join(run.tokenizer.id_to_token(token) for token in ids[1:])
    return found["images"][0], f"{said} → {names[int(found['label'][0])]}"


def table_of(name: str, folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """A recorded table of :data:`TABLES`."""
    require_choice(name, tuple(TABLES), "name")
    return records.load(f"codis/{name}", folder=folder)
