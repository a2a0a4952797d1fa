"""The output of STAGE, the truth that it knows in training, and the loss between the two."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from modalign._checks import checked
from modalign.models.padded import Padded
from modalign.models.tvqa_abc import require_target


class Truth(NamedTuple):
    """The truth about each question, for training.

    Attributes:
        target: (B,), the right answer.
        start: (B,), the first frame that the question is about.
        end: (B,), the last one.
    """

    target: Int[Tensor, " b"]
    start: Int[Tensor, " b"]
    end: Int[Tensor, " b"]


class STAGEOutput(NamedTuple):
    """Scores of five answers, and what led to them.

    Attributes:
        logits: (N, 5), a row a proposal: a span of frames that local pooling looked at.
        question: (N,), of each proposal; 0 to B - 1 if the truth was not given.
        span_logits: (B, 5, F, 2), of each frame to be an answer's first and last; -1e10 behind
            the end of a clip.
        spans: (B, 5, 2), the likeliest first and last frame of each answer.
        attention: of each stream, (B, 5, F, L, R), softmax(10 S), zeros where masked.
        cosines: of each stream, S, (B, 5, F, L, R), -1e10 where masked.
        embeddings: the sides of the attention, before it compares them, with masks: ``qa``,
            (B, 5 L, D), and each stream by its name, (B, F R, D). CKA aligns these
            (Yun et al. 2022, 8.3 and fig. 8).
    """

    logits: Float[Tensor, "n 5"]
    question: Int[Tensor, " n"]
    span_logits: Float[Tensor, "b 5 f 2"]
    spans: Int[Tensor, "b 5 2"]
    attention: dict[str, Tensor]
    cosines: dict[str, Tensor]
    embeddings: dict[str, Padded]


def require_truth(truth: Truth, b: int, f: int) -> Truth:
    """Refuse answers and spans that cannot be."""
    target, start, end = truth
    for name, value in zip(Truth._fields, truth, strict=True):
        if value.shape != (b,) or value.is_floating_point():
            raise ValueError(f"truth: {name}: expected {b} integers, got {tuple(value.shape)}")
    require_target(target)
    if start.min() < 0 or end.max() >= f or (start > end).any():
        row = int(((start < 0) | (end >= f) | (start > end)).nonzero()[0])
        raise ValueError(
            f"truth: expected 0 <= start <= end < {f} frames, question {row} has "
            f"{int(start[row])} to {int(end[row])}"
        )
    return truth


def stage_losses(
    output: STAGEOutput,
    truth: Truth,
    *,
    labels: Bool[Tensor, "b f l r"] | None = None,
    regions: Bool[Tensor, "b f r"] | None = None,
    span: float = 0.5,
    attention: float = 0.1,
    negatives: int = 2,
    alpha: float = 20.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The loss of STAGE, and its parts, as sums over the batch.

    Args:
        output: of the model, given the same truth.
        truth: as there.
        labels: which regions the words of the right answer name, if that is known.
        regions: the real ones, the mask of ``video``; with ``labels``.
        span, attention: weights of these parts (paper: 0.5 and 0.1).
        negatives, alpha: of the ranking, see
            :func:`ranking_loss`.
        generator: of its draws.

    Returns:
        ``answer``, the cross-entropy over proposals, scaled from their number to B; ``span``,
        half of the cross-entropies of first and last frame; ``attention``, if there are
        labels; and ``loss``, their weighted sum.

    Raises:
        ValueError: for labels without regions or video, or of other sizes; a truth that cannot
            be.
    """
    b, _, f, _ = output.span_logits.shape
    target, start, end = require_truth(truth, b, f)
    logits, question = output.logits, output.question
    answer = functional.cross_entropy(logits, target[question], reduction="sum")
    found = {"answer": answer * (b / len(logits))}
    right = output.span_logits[torch.arange(b, device=target.device), target]
    sides = zip(right.unbind(-1), (start, end), strict=True)
    found["span"] = torch.stack(
        [functional.cross_entropy(side, frame, reduction="sum") for side, frame in sides]
    ).mean()
    weights = {"answer": 1.0, "span": span, "attention": attention}
    if labels is not None:
        if regions is None or "video" not in output.cosines:
            raise ValueError("labels: expected regions and a model with video beside them")
        scores = output.cosines["video"][torch.arange(b, device=target.device), target]
        if labels.shape != scores.shape:
            raise ValueError(
                f"labels: expected {tuple(scores.shape)}, question, frame, word and region, "
                f"got {tuple(labels.shape)}"
            )
        pairs = ranking_pairs(labels, regions, negatives=negatives, generator=generator)
        found["attention"] = ranking_loss(scores, *pairs, alpha=alpha)
    total = torch.stack([weights[name] * part for name, part in found.items()]).sum()
    return {"loss": total, **found}


@checked
def ranking_pairs(
    labels: Bool[Tensor, "b f l r"],
    regions: Bool[Tensor, "b f r"],
    *,
    negatives: int = 2,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "n 4"], Int[Tensor, "n 4"]]:
    """Pairs of a region that a word means and one that it does not, of the same frame.

    Args:
        labels: whether a word of the right answer names a region, by question, frame,
            word and region.
        regions: the real ones.
        negatives: drawn for each positive, with replacement.
        generator: of the draws; torch's own by default.

    Returns:
        Places (question, frame, word, region) of positives, each ``negatives`` times, and of their
        negatives. A word that names all regions of a frame has none, and makes no pair.

    Raises:
        ValueError: for no negative, or a label on a region that is padding.

    >>> labels = torch.tensor([[[[True, False, False]]]])
    >>> positive, negative = ranking_pairs(labels, torch.tensor([[[True, True, False]]]))
    >>> positive.tolist(), negative.tolist()
    ([[0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 1]])
    """
    if negatives < 1:
        raise ValueError(f"negatives: expected 1 or more, got {negatives}")
    real = regions[:, :, None]
    if (labels & ~real).any():
        place = (labels & ~real).nonzero()[0].tolist()
        raise ValueError(f"labels: expected real regions, (question, frame, word, region) {place}")
    others = (real & ~labels) & labels.any(-1, keepdim=True)
    positive = (labels & others.any(-1, keepdim=True)).nonzero()
    if not len(positive):
        return positive, positive
    question, frame, word, _ = positive.T
    chances = others[question, frame, word].float()
    drawn = torch.multinomial(chances, negatives, replacement=True, generator=generator)
    positive = positive.repeat_interleave(negatives, 0)
    return positive, torch.cat([positive[:, :3], drawn.flatten()[:, None]], 1)


@checked
def ranking_loss(
    cosines: Float[Tensor, "b f l r"],
    positive: Int[Tensor, "n 4"],
    negative: Int[Tensor, "n 4"],
    *,
    alpha: float = 20.0,
) -> Float[Tensor, ""]:
    """LogSumExp ranking of attention: the sum over pairs of log(1 + exp(alpha (S- - S+))).

    >>> cosines = torch.tensor([[[[0.5, 0.5]]]])
    >>> pairs = torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 1]])
    >>> round(ranking_loss(cosines, *pairs).item(), 4)
    0.6931
    """
    gap = cosines[tuple(negative.T)] - cosines[tuple(positive.T)]
    return functional.softplus(alpha * gap).sum()
