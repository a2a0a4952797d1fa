"""Tables and figures of the chapter "Video QA"."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from modalign import plots
from modalign.cka import ModalityAlignment
from modalign.data import shapes
from modalign.metrics import Interval, difference, seed_interval
from modalign.models.stage import STAGE
from modalign.studies.videoqa.clips import Clip
from modalign.studies.videoqa.recording import scores
from modalign.studies.videoqa.setting import (
    CAPTIONED,
    NAMES,
    PAPER,
    READINGS,
    ROWS,
    with_cka,
)
from modalign.studies.videoqa.training import Run, output, outputs, sides

MODELS = (*NAMES.values(), CAPTIONED)
COLOUR = 2  # the place of "red" in "what is red when Bear speaks"


def film(clip: Clip, axes: np.ndarray) -> None:
    """The frames of a clip, and what is said in each; the one in question has a black edge."""
    painted = shapes.render_images(list(clip.scenes), 96).images
    for m, (ax, image) in enumerate(zip(axes, painted, strict=True)):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.set_xlabel(f"{clip.speakers[m]}:\n{clip.lines[m]}", fontsize=8)
        asked = m == clip.moment
        for spine in ax.spines.values():
            spine.set(visible=asked, color="black", linewidth=2.5)


def shown(clip: Clip) -> Figure:
    """A clip with its question and answers."""
    figure, axes = plt.subplots(1, len(clip.scenes), figsize=(6.4, 2.5))
    film(clip, axes)
    answers = [f"[{a}]" if i == clip.label else a for i, a in enumerate(clip.answers)]
    figure.suptitle(f"{clip.question}?\n{', '.join(answers)}", fontsize=9)
    return figure


@torch.no_grad()
def looks(run: Run, index: int) -> Figure:
    """Where STAGE looks on a test question, for the answer that it gives.

    Above, the regions with the weight of the attention that the word for the colour has for each,
    in percent; below, how likely the span of the answer is to begin in each frame.

    Raises:
        TypeError: for another model.
        ValueError: for a run without video.
    """
    if not isinstance(run.model, STAGE):
        raise TypeError("run: expected one of STAGE, whose attention is over regions")
    if "video" not in run.model.streams:
        raise ValueError("run: expected one with video, got none")
    questions = run.splits["test"]
    clip = questions.clips[index]
    one = {name: each[index : index + 1] for name, each in questions.tensors.items()}
    found = output(run.model, one)
    said = int(found.logits.argmax())
    weights = found.attention["video"][0, said, :, COLOUR]
    begins = found.span_logits[0, said, :, 0].softmax(0)
    figure, axes = plt.subplots(
        2, len(clip.scenes), figsize=(6.4, 3.4), height_ratios=[3, 1], sharey="row"
    )
    film(clip, axes[0])
    for scene, ax, weight in zip(clip.scenes, axes[0], weights, strict=True):
        for o, share in zip(scene.objects, weight.tolist(), strict=True):
            corner = 96 * (o.x - o.radius), 96 * (o.y - o.radius)
            side = 192 * o.radius
            ax.add_patch(Rectangle(corner, side, side, fill=False, color="white",
                                   linewidth=0.5 + 3 * share))  # fmt: skip
            ax.text(*corner, f"{100 * share:.0f}", color="white", fontsize=8, va="bottom")
    for ax, chance in zip(axes[1], begins.tolist(), strict=True):
        ax.bar([0], [chance], width=0.6)
        ax.set(ylim=(0, 1), xticks=[])
    axes[1, 0].set_ylabel("span begins", fontsize=8)
    right = "right" if said == clip.label else f"wrong: {clip.answers[clip.label]}"
    figure.suptitle(f"{clip.question}? {clip.answers[said]} ({right})", fontsize=9)
    return figure


def by_reading(table: pd.DataFrame, column: str, *, digits: int = 1) -> pd.DataFrame:
    """A measure of each model without CKA and with it in each reading, with 95% intervals."""
    runs = scores(table).groupby("row")[column]
    found: dict[str, dict[str, str]] = {}
    for model in MODELS:
        rows = {"without": model, **{reading: with_cka(model, reading) for reading in READINGS}}
        found[model] = {
            name: f"{seed_interval(runs.get_group(row)):.{digits}f}" for name, row in rows.items()
        }
    return pd.DataFrame(found).T.rename_axis("model")


def floors(table: pd.DataFrame, expected: Mapping[str, float]) -> pd.DataFrame:
    """Accuracy of rows that see less, beside what one who makes the best of it scores."""
    runs = scores(table).groupby("row").accuracy
    places = {"answers": "answers", "subtitles": "subtitles", "video": "video"}
    found = []
    for model, name in NAMES.items():
        both = "apart" if model == "tvqa" else "together"
        rows = {f"{name}, {what} only": place for what, place in places.items()} | {name: both}
        for row, place in rows.items():
            accuracy = f"{seed_interval(runs.get_group(row)):.1f}"
            found.append({"row": row, "accuracy": accuracy, "at best": expected[place]})
    return pd.DataFrame(found).set_index("row")


def similarity(table: pd.DataFrame) -> pd.DataFrame:
    """CKA with the words of question and answers: means over seeds of each model and reading.

    Of the video: before training, after it, debiased, and with the words of other questions; of
    subtitles and captions after training.
    """
    means = scores(table).groupby("row").mean(numeric_only=True)
    columns = {
        "video_cka_before": "video, before",
        "video_cka": "video",
        "video_cka_debiased": "debiased",
        "video_cka_shuffled": "shuffled",
        "subtitles_cka": "subtitles",
        "captions_cka": "captions",
    }
    rows = [row for row in ROWS if "only" not in row]
    return means.loc[rows, list(columns)].rename(columns=columns)


def in_training(table: pd.DataFrame) -> pd.DataFrame:
    """CKA in the batches of the last epoch, means over seeds, of each model without it and with."""
    rows = {}
    for model in MODELS:
        last = table[table.accuracy.notna()].groupby("row")[["cka", "cka_debiased", "cka_shuffled"]]
        means = last.mean()
        rows[model, "without"] = means.loc[model]
        for reading in ("batch, counted", "question, counted"):
            rows[model, reading] = means.loc[with_cka(model, reading)]
    found = pd.DataFrame(rows).T.rename_axis(["model", "row"])
    return found.set_axis(["biased", "debiased", "shuffled"], axis=1)


def by_number(run: Run) -> pd.DataFrame:
    """Biased CKA with the words of question and answers, by the number of questions compared.

    Returns:
        A row for each number of questions and each stream: ``cka``, and ``shuffled``, means over
        twenty groups of test questions, or as many as there are.
    """
    found = outputs(run.model, run.splits["test"])
    rows = []
    for name in run.model.streams:
        whole = [torch.cat(part) for part in zip(*(sides(o, name) for o in found), strict=True)]
        n = len(whole[0])
        for questions in sorted({*(2**k for k in range(1, n.bit_length())), n}):
            groups = torch.arange(n // questions * questions).split(questions)
            values = []
            for group in groups[:20]:
                with torch.no_grad():
                    cka = ModalityAlignment(0.0)(*(each[group] for each in whole))
                values.append((cka.biased.item(), cka.shuffled.item()))
            cka_, shuffled = np.mean(values, 0).tolist()
            rows.append({"questions": questions, "stream": name, "cka": cka_, "shuffled": shuffled})
    return pd.DataFrame(rows)


def numbers(found: pd.DataFrame) -> Figure:
    """Draw :func:`by_number`: lines of each stream, dotted where the words are others'."""
    figure, ax = plt.subplots(figsize=(6.4, 3))
    for k, (name, part) in enumerate(found.groupby("stream", sort=False)):
        look: dict[str, Any] = {"color": f"C{k}", "marker": "o", "markersize": 4}
        ax.plot(part.questions, part.cka, label=f"{name}", **look)
        ax.plot(part.questions, part.shuffled, label=f"{name}, shuffled", linestyle=":", **look)
    ax.set(xscale="log", ylim=(0, 1), xlabel="questions compared", ylabel="biased CKA")
    ax.legend(fontsize=8)
    return figure


def contrasts(ax: Axes, judged: pd.DataFrame) -> None:
    """Differences in accuracy of c9 to c11 in each reading, and the smallest effects as ticks."""
    chosen = judged[judged.claim.isin(["c9", "c10", "c11"])].copy()
    names = {"c9": "c9: TVQA_abc,\nCKA", "c10": "c10: STAGE,\nCKA", "c11": "c11: STAGE,\ncaptions"}
    chosen["what"] = chosen.claim.map(names)
    chosen["reading"] = chosen.contrast.str.extract(r"\+ CKA, (\w+, \w+) minus")[0]
    plots.forest(ax, chosen, "what", "reading")
    for place, (_, part) in enumerate(chosen.groupby("what", sort=False)):
        tick = part.smallest.iloc[0]
        ax.plot([tick] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
    ax.set(ylabel="", xlabel="points of accuracy, with minus without")
    ax.legend(title=None, fontsize=8)


def curves(table: pd.DataFrame) -> Figure:
    """Accuracy on validation by step of training, of each model with and without CKA."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3), layout="constrained")
    for ax, name in zip(axes, NAMES.values(), strict=True):
        rows = {name: "without", with_cka(name, "question, counted"): "with CKA"}
        part = table[table.row.isin(rows)].copy()
        part["row"] = part.row.map(rows)
        plots.curves(ax, part, "step", "validation", "row")
        ax.set(title=name, ylabel="% right, validation")
    return figure


def told(judged: pd.DataFrame, claims: Sequence[str]) -> pd.DataFrame:
    """The contrasts of some claims in few words: model, reading and difference."""
    chosen = judged[judged.claim.isin(claims)]
    row = chosen.contrast.str.extract(r"^(?P<model>.+) \+ CKA, (?P<reading>\w+, \w+) minus (.+)$")
    against = row[2].str.extract(r"(?:: )?(video_cka_before|subtitles_cka)$")[0]
    words = {"video_cka_before": "before training", "subtitles_cka": "subtitles"}
    found = pd.DataFrame({"claim": chosen.claim, "model": row.model, "reading": row.reading})
    if against.notna().any():
        found["minus"] = against.map(words).fillna("without CKA")
    return found.join(chosen[["mean", "low", "high", "verdict"]]).set_index("claim")


def range_of(judged: pd.DataFrame, claim: str) -> str:
    """The smallest and the largest mean difference over the readings of a claim."""
    means = judged[judged.claim == claim]["mean"]
    largest = means.abs().max()
    digits = 4 if largest < 0.01 else 2 if largest < 1 else 1
    return f"{means.min():.{digits}f} to {means.max():.{digits}f}"


def counted(judged: pd.DataFrame, claim: str) -> str:
    """How many readings of a claim have which verdict, in words.

    >>> counted(pd.DataFrame({"claim": ["c9"] * 3, "verdict": ["holds", "absent", "holds"]}), "c9")
    'holds in 2, absent in 1'
    """
    often = judged[judged.claim == claim].verdict.value_counts()
    return ", ".join(f"{verdict} in {count}" for verdict, count in often.items())


def gain(table: pd.DataFrame, row: str, other: str, column: str = "accuracy") -> str:
    """The difference of two rows, paired by seed, with its interval; exploratory."""
    runs = {name: part.set_index("seed")[column] for name, part in scores(table).groupby("row")}
    return f"{difference(runs[row].to_dict(), runs[other].to_dict()):.1f}"


def quoted(
    table: pd.DataFrame, judged: pd.DataFrame, best: Mapping[str, float]
) -> dict[str, float | str]:
    """What the chapter's text quotes of the recorded table, by name.

    Args:
        table: ``videoqa/shapes``.
        judged: of :func:`modalign.studies.videoqa.recording.claims`.
        best: what each source is worth, of :func:`modalign.studies.videoqa.clips.expected`.
    """
    runs, seeds = scores(table), table.seed.nunique()
    means = runs.groupby("row").mean(numeric_only=True)
    found: dict[str, float | str] = {f"table-{name}": value for name, value in best.items()}
    for claim in judged.claim.unique():
        found[f"range-{claim}"] = range_of(judged, claim)
        found[f"counted-{claim}"] = counted(judged, claim)
    for claim, part in judged[judged.verdict == "undecided"].groupby("claim"):
        ends = part[["mean", "low", "high", "smallest"]].itertuples(index=False)
        found[f"need-{claim}"] = max(
            Interval(*each[:3]).seeds_to_decide(seeds, smallest=each.smallest) for each in ends
        )
    for name, key in (("tvqa", "TVQA_abc"), ("stage", "STAGE")):
        found[f"paper-{name}"] = PAPER[key]["accuracy"]
        found[f"paper-{name}-cka"] = PAPER[f"{key} + CKA"]["accuracy"]
        for part in ("told", "untold"):
            found[f"{name}-{part}"] = means[part][key]
        found[f"{name}-mean"] = means.accuracy[key]
        start = table[table.row == key].step.min()
        first = table[table.step == start].set_index("seed").groupby("row").validation
        rows = (with_cka(key, "question, counted"), key)
        early = difference(*(first.get_group(row).to_dict() for row in rows))
        found[f"early-{name}"] = f"{early:.1f}"
    found["paper-captions"] = PAPER["STAGE + captions + CKA"]["accuracy"]
    found["captions-right"] = means.captions_right.dropna().mean()
    found["captions-plain"] = gain(table, "STAGE + captions", "STAGE")
    found |= {"moment": means.moment["STAGE"], "region": means.region["STAGE"]}
    found["spread"] = runs[runs.row == "STAGE"].accuracy.std()
    found["seeds"] = seeds
    return found
