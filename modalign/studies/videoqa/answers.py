"""Guesses at real questions from their answers alone, without clip or subtitles."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from modalign import records
from modalign._checks import require_positive
from modalign.data import load
from modalign.metrics import difference
from modalign.models.videoqa_inputs import Words, question_words

FOLDS, STEPS, RATE, DECAY = 5, 60, 0.05, 0.01


def guesses(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """How often the right one of five answers is guessed from the answers alone.

    Args:
        rows: with ``answers`` (five), ``label``, ``question`` and ``video``, such as those of
            ``load("tvqa-plus", "validation")``.

    Returns:
        Accuracy in percent with its 95% interval over questions, of ``longest`` (the answer of
        most words; equal ones share), ``question`` (that which shares most words with the
        question), and ``words``, a weight for each word that is learned on the clips of four
        folds and tried on the fifth.

    Raises:
        ValueError: for no row, one without a label, or fewer clips than folds.

    >>> row = {"question": "Who?", "label": 1, "answers": ["I", "you do", "he", "she", "we"]}
    >>> guesses([row | {"video": str(i)} for i in range(10)]).accuracy.round().to_list()
    [100.0, 20.0, 100.0]
    """
    require_positive(rows=len(rows))
    labels = np.array([int(row["label"]) for row in rows])
    if labels.min() < 0:
        raise ValueError(f"rows: expected a label of each, row {int(labels.argmin())} has none")
    texts = [[question_words(text) for text in row["answers"]] for row in rows]
    lengths = np.array([[len(words) for words in five] for five in texts])
    asked = [set(question_words(row["question"])) for row in rows]
    shared = np.array([[len(asked[i] & set(words)) for words in five]
                       for i, five in enumerate(texts)])  # fmt: skip
    found = {"longest": lengths, "question": shared, "words": _learned(rows, labels)}
    table = []
    for name, scores in found.items():
        best = scores == scores.max(1, keepdims=True)
        hits = 100 * best[np.arange(len(rows)), labels] / best.sum(1)
        interval = difference(hits, np.zeros(len(rows)), method="percentile", progress=False)
        accuracy, low, high = interval
        table.append({"guess": name, "accuracy": accuracy, "low": low, "high": high})
    return pd.DataFrame(table).set_index("guess")


def record(*, folder: str | pathlib.Path | None = None) -> None:
    """Keep the guesses on the validation questions of TVQA+ in ``results/videoqa/answers``.

    Args:
        folder: results folder; the book's by default.

    Raises:
        FileNotFoundError: if ``MODALIGN_DATA`` has no TVQA+; it says what to get.
    """
    started = time.perf_counter()
    rows = load("tvqa-plus", "validation", verify=False)
    rows = rows.select_columns(["question", "answers", "label", "video"]).to_list()
    table = guesses(rows).reset_index().assign(questions=len(rows))
    records.save(
        table,
        "videoqa/answers",
        parameters={"folds": FOLDS, "steps": STEPS, "learning_rate": RATE, "weight_decay": DECAY},
        seconds=time.perf_counter() - started,
        folder=folder,
    )


def _learned(rows: Sequence[dict[str, Any]], labels: np.ndarray) -> np.ndarray:
    """Scores (n, 5) of answers by the sum of their words' weights, learned on other clips."""
    words = Words.of(text for row in rows for text in row["answers"])
    tokens = [words.encode(text) for row in rows for text in row["answers"]]
    flat = torch.tensor([token for text in tokens for token in text])
    offsets = torch.tensor([0, *np.cumsum([len(text) for text in tokens])[:-1]])
    clips = sorted({row["video"] for row in rows})
    if len(clips) < FOLDS:
        raise ValueError(f"rows: expected {FOLDS} clips or more, got {len(clips)}")
    dealt = np.random.default_rng(0).permutation(len(clips)) % FOLDS
    fold_of = dict(zip(clips, dealt, strict=True))
    fold = torch.tensor([int(fold_of[row["video"]]) for row in rows])
    target, scores = torch.from_numpy(labels), torch.zeros(len(rows), 5)
    for k in range(FOLDS):
        start = torch.zeros(len(words), 1)
        model = nn.EmbeddingBag.from_pretrained(start, freeze=False, mode="sum")
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
        for _ in range(STEPS):
            said = model(flat, offsets).view(-1, 5)
            loss = functional.cross_entropy(said[fold != k], target[fold != k])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores[fold == k] = model(flat, offsets).view(-1, 5)[fold == k]
    return scores.numpy()
