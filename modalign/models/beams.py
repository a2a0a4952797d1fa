"""Beam search over many pictures at once: the state of their captions from token to token."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Captions(NamedTuple):
    """Captions that a beam search found.

    Attributes:
        tokens: (B, S), without ``<start>``, with ``<end>`` if finished; padded with 0.
        lengths: (B,), tokens of each.
        scores: (B,), the sum of log-probabilities, or their mean if normalised.
        attention: (B, S, P), where each token looked; zeros behind the end.
        finished: (B,), whether ``<end>`` came within the limit.
    """

    tokens: Int[Tensor, "b s"]
    lengths: Int[Tensor, " b"]
    scores: Float[Tensor, " b"]
    attention: Float[Tensor, "b s p"]
    finished: Bool[Tensor, " b"]


class Search:
    """The beams of each picture, and the best caption that has ended."""

    def __init__(self, scores: Tensor, tokens: Tensor, attention: Tensor) -> None:
        self.scores = scores  # (B, beam), minus infinity if a place is empty
        self.tokens, self.attention = tokens, attention  # (B, beam, S), (B, beam, S, P)
        self.ended = torch.full_like(scores[:, 0], -torch.inf)  # (B,), the best score that ended
        self.lengths = torch.zeros_like(self.ended, dtype=torch.long)
        self.kept_tokens, self.kept_attention = tokens[:, 0], attention[:, 0]

    @classmethod
    def begin(cls, b: int, beam: int, p: int, *, like: Tensor) -> "Search":
        scores = like.new_full((b, beam), -torch.inf)
        scores[:, 0] = 0  # all beams would be equal: one of them starts
        tokens = torch.zeros(b, beam, 0, dtype=torch.long, device=like.device)
        return cls(scores, tokens, like.new_zeros(b, beam, 0, p))

    def extend(self, chances: Tensor, looked: Tensor, end: int, normalized: bool) -> Tensor:
        """Append the best tokens (chances are (B, beam, V)); says which beam each came from."""
        _, beam, v = chances.shape
        # places of beams that ended stay empty; at the first token all are free
        steps = self.tokens.shape[2]
        free = self.scores.isfinite().sum(1) if steps else torch.full_like(self.lengths, beam)
        totals = (self.scores[..., None] + chances).flatten(1)
        self.scores, chosen = totals.topk(beam, 1)
        place = torch.arange(beam, device=chosen.device)
        self.scores = self.scores.where(place < free[:, None], -torch.inf)
        origin, token = chosen // v, chosen % v
        self.tokens = torch.cat([_pick(self.tokens, origin), token[..., None]], 2)
        looked = _pick(looked, origin)
        self.attention = torch.cat([_pick(self.attention, origin), looked[:, :, None]], 2)
        self._set_aside((token == end) & self.scores.isfinite(), normalized)
        return origin

    def _set_aside(self, ends: Tensor, normalized: bool) -> None:
        """Keep the best of those that end now if it beats all that ended before."""
        steps = self.tokens.shape[2]
        final = self.scores / steps if normalized else self.scores
        best, which = final.where(ends, -torch.inf).max(1)
        better = best > self.ended
        tokens, attention = (_pick(x, which[:, None])[:, 0] for x in (self.tokens, self.attention))
        self.kept_tokens = tokens.where(better[:, None], _longer(self.kept_tokens))
        kept = _longer(self.kept_attention)
        self.kept_attention = attention.where(better[:, None, None], kept)
        self.ended = best.where(better, self.ended)
        self.lengths = self.lengths.masked_fill(better, steps)
        self.scores = self.scores.masked_fill(ends, -torch.inf)

    def best(self, normalized: bool) -> Captions:
        """The best that ended, or, if none did, the best that did not."""
        finished = self.ended.isfinite()
        steps = self.tokens.shape[2]
        which = self.scores.argmax(1)
        alive = self.scores.amax(1) / (steps if normalized else 1)
        tokens, attention = (_pick(x, which[:, None])[:, 0] for x in (self.tokens, self.attention))
        lengths = self.lengths.where(finished, steps)
        longest = int(lengths.max())
        return Captions(
            self.kept_tokens.where(finished[:, None], tokens)[:, :longest],
            lengths,
            self.ended.where(finished, alive),
            self.kept_attention.where(finished[:, None, None], attention)[:, :longest],
            finished,
        )


def _pick(x: Tensor, origin: Tensor) -> Tensor:
    """Rows of each picture: x is (B, beam, ...), origin (B, k)."""
    return x[torch.arange(len(x), device=x.device)[:, None], origin]


def _longer(x: Tensor) -> Tensor:
    """With a step of zeros more at the end, (B, S, ...)."""
    return torch.cat([x, x.new_zeros(len(x), 1, *x.shape[2:])], 1)
