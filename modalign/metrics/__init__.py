"""Measures that the chapters compare by, and the interval of a comparison."""

from modalign.metrics.alignment import (
    AlignmentScores,
    alignment_scores,
    summarise_alignment,
    times_of,
    times_of_matches,
)
from modalign.metrics.captions import (
    CaptionScores,
    caption_scores,
    caption_tokens,
    corpus_bleu,
    rouge_l,
)
from modalign.metrics.classification import accuracy
from modalign.metrics.correlation import cca
from modalign.metrics.embeddings import retrieval_of_embeddings
from modalign.metrics.grounding import attention_iou, pointing_game
from modalign.metrics.intervals import (
    SYMBOLS,
    Interval,
    Verdict,
    difference,
    interval_table,
    of_readings,
    paired_table,
    seed_interval,
)
from modalign.metrics.multiple import Counted, excluding_zero, p_values
from modalign.metrics.ranking import Ranking, Retrieval, retrieval

__all__ = [
    "SYMBOLS",
    "AlignmentScores",
    "CaptionScores",
    "Counted",
    "Interval",
    "Ranking",
    "Retrieval",
    "Verdict",
    "accuracy",
    "alignment_scores",
    "attention_iou",
    "caption_scores",
    "caption_tokens",
    "cca",
    "corpus_bleu",
    "difference",
    "excluding_zero",
    "interval_table",
    "of_readings",
    "p_values",
    "paired_table",
    "pointing_game",
    "retrieval",
    "retrieval_of_embeddings",
    "rouge_l",
    "seed_interval",
    "summarise_alignment",
    "times_of",
    "times_of_matches",
]
