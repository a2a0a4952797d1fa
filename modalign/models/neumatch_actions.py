"""Actions of NeuMATCH: what each removes and matches, and where a list of them leads.

An alignment is a list of actions. Each looks at the topmost clip and the topmost snippet and
removes one of them or both; some match the two first. Letters: B samples, A actions (padded with
-1).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modalign._checks import checked

ACTIONS = ("pop clip", "pop snippet", "match, retain snippet", "match", "match, retain clip")
"""The five actions. The first three suffice if a clip has one snippet at most."""

# a row an action: does it remove the clip, does it remove the snippet, does it match the two?
EFFECTS = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1]])


class Walk(NamedTuple):
    """The topmost clip and snippet before each action, for A actions of B samples.

    Attributes:
        cursors: (B, A, 2), clips and snippets removed so far: the places of the topmost ones.
        matched: (B, A), whether the action matches the two.
        after: (B, 2), clips and snippets removed in all.
    """

    cursors: Int[Tensor, "b a 2"]
    matched: Bool[Tensor, "b a"]
    after: Int[Tensor, "b 2"]


@checked
def walk(actions: Int[Tensor, "b a"]) -> Walk:
    """Follow lists of actions, padded with -1 at the end. O(B A).

    Raises:
        ValueError: for an action above 4.

    >>> walk(torch.tensor([[0, 2, 1, 2]])).cursors.tolist()
    [[[0, 0], [1, 0], [2, 0], [2, 1]]]
    """
    if (actions >= len(ACTIONS)).any():
        raise ValueError(f"actions: expected 0 to 4, or -1 for padding, got {int(actions.max())}")
    taken = actions >= 0
    effects = EFFECTS.to(actions.device)[actions.clamp(min=0)] * taken[..., None]
    after = effects[..., :2].cumsum(1)
    return Walk(after - effects[..., :2], effects[..., 2].bool(), effects[..., :2].sum(1))


def slots(trail: Walk) -> tuple[Int[Tensor, "b a"], Bool[Tensor, "b a 2"]]:
    """The latest slot after each action (-1 before the first), and what each match adds to it.

    A match opens a slot unless it has the clip or the snippet of the match before it. It adds
    its clip and its snippet, unless that match had added them.
    """
    steps = torch.arange(trail.matched.shape[1], device=trail.matched.device)
    latest = torch.where(trail.matched, steps, -1).cummax(1).values
    previous = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], 1)
    there = trail.cursors.take_along_dim(previous.clamp(min=0)[..., None], 1)
    same = (there == trail.cursors) & (previous >= 0)[..., None]
    opens = trail.matched & ~same.any(-1)
    return opens.long().cumsum(1) - 1, trail.matched[..., None] & ~same


def positions(
    cursors: Int[Tensor, "b a 2"], lengths: Int[Tensor, "b 2"]
) -> Float[Tensor, "b a 10"]:
    """Ten numbers that say how far both sequences are.

    The paper names elements left, elements already used, ratios and reciprocals. These are, for
    clips and snippets: how many are left; the part that is left, and its reciprocal; and the ratio
    clips to snippets of those left and of those used, and its reciprocal. One is added to each
    count, so that nothing divides by zero.
    """
    total, left, used = lengths[:, None] + 1.0, lengths[:, None] - cursors + 1.0, cursors + 1.0
    across = torch.stack([left, used], -1)  # (B, A, clips or snippets, left or used)
    ratios = torch.cat([left / total, across[:, :, 0] / across[:, :, 1]], -1)
    return torch.cat([left, ratios, 1 / ratios], -1)


def require_fit(actions: Tensor, trail: Walk, lengths: Tensor, num_actions: int) -> None:
    """Refuse unknown actions, gaps in their lists, and lists that take more than there is."""
    if ((actions < -1) | (actions >= num_actions)).any():
        found = actions.unique().tolist()
        raise ValueError(f"actions: expected -1 to {num_actions - 1}, got {found}")
    if ((actions[:, :-1] < 0) & (actions[:, 1:] >= 0)).any():
        raise ValueError("actions: expected -1 after the last action only, got some between others")
    over = (trail.after > lengths).any(1) | (
        trail.matched & (trail.cursors >= lengths[:, None]).any(-1)
    ).any(1)
    if over.any():
        sample = int(over.nonzero()[0])
        raise ValueError(
            f"actions: sample {sample} has {lengths[sample].tolist()} clips and snippets, and its "
            f"actions take {trail.after[sample].tolist()} or match elements that are not there"
        )
