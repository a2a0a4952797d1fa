"""NeuMATCH: two sequences aligned by a network that reads four stacks and chooses the next action.

After Dogan et al. (2018), with the random projection, the sequence-wise batch normalisation and the
sizes of Wang et al. (2020); equation numbers are those of the latter, "the paper" below.

An alignment is a list of actions. Each looks at the topmost clip and the topmost snippet and
removes one of them or both; some match the two first. Letters: B samples, N clips and M snippets
(padded at the end), A actions (padded with -1), P = 300 the width of the Video and Text Stacks.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from modalign._checks import (
    checked,
    describe,
    require_choice,
    require_finite,
    require_lengths,
    require_positive,
)
from modalign.models.neumatch_actions import EFFECTS, Walk, positions, require_fit, slots, walk
from modalign.models.neumatch_parts import (
    FixedInput,
    SequenceStack,
    SmallStack,
    initialise,
    map_state,
    pick,
)

Normalization = Literal["sbn", "ln2", "ln4"]


class Alignment(NamedTuple):
    """The result of greedy inference.

    Attributes:
        actions: (B, A), padded with -1 at the end.
        matches: (B, N, M), which clip was matched with which snippet.
    """

    actions: Int[Tensor, "b a"]
    matches: Bool[Tensor, "b n m"]

    @property
    def clip_snippet(self) -> Int[Tensor, "b n"]:
        """The snippet of each clip (the first, if five actions gave it several); -1 for none."""
        return torch.where(self.matches.any(2), self.matches.int().argmax(2), -1)


class NeuMATCH(nn.Module):
    r"""The alignment network (section 3.1), by default the paper's best: RP + SBN.

    At each step the topmost clip and snippet, as the Video and the Text Stack see them with all
    that follows, the Action Stack, the Matched Stack and ten positional features make a vector,
    which two FC layers classify into one of the actions. A teacher-forced pass costs
    O(B (N + M) P^2) for the stacks and O(B A^2 H) for the means of matched clips, with H the width
    of the Matched Stack; only its slots are looped over. :meth:`align` costs O(B (N + M) P^2) in
    N + M steps.

    Args:
        clip_features: width of a clip's features (paper: Faster R-CNN; 2048 by its counts of
            parameters).
        text_features: width of a snippet's features (paper: BERT, 768).
        hidden: width P of the Video and Text Stacks (paper: 300).
        action_hidden: of the Action Stack (paper: 8).
        matched_hidden: of the Matched Stack (paper: 20).
        num_actions: how many of :data:`~modalign.models.neumatch_actions.ACTIONS`, from the
            first on: 3 or 5.
        projection: reduce features to P by a fixed random matrix (section 3.5); else by a trained
            one without bias ("Full" in Table 5).
        full_relu: a ReLU after the trained one, as in the authors' code; the paper says that being
            trained is the only difference.
        normalization: ``"sbn"`` at the output of the Video and Text Stacks (section 3.3),
            ``"ln2"`` or ``"ln4"`` inside the LSTMs of these two or of all four stacks (2xLN and
            4xLN, section 3.4), or None.
        seed: of the random projection; other weights come from torch's generator.

    Raises:
        ValueError: for another number of actions, an unknown normalisation, or a width below 1.

    >>> model = NeuMATCH()
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    3408415
    >>> clips, snippets, two = torch.rand(1, 2, 2048), torch.rand(1, 2, 768), torch.tensor([2])
    >>> model(clips, two, snippets, two, torch.tensor([[2, 1, 2]])).shape
    torch.Size([1, 3, 3])
    >>> model.eval().align(clips, two, snippets, two).clip_snippet.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        clip_features: int = 2048,
        text_features: int = 768,
        *,
        hidden: int = 300,
        action_hidden: int = 8,
        matched_hidden: int = 20,
        num_actions: int = 3,
        projection: bool = True,
        full_relu: bool = True,
        normalization: Normalization | None = "sbn",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_actions not in (3, 5):
            raise ValueError(f"num_actions: expected 3 or 5, got {num_actions}")
        require_positive(
            clip_features=clip_features,
            text_features=text_features,
            hidden=hidden,
            action_hidden=action_hidden,
            matched_hidden=matched_hidden,
        )
        if normalization is not None:
            require_choice(normalization, get_args(Normalization), "normalization")
        self.num_actions = num_actions
        projected = hidden if projection else None
        self.clip_input = FixedInput(clip_features, projected, 2 * seed)
        self.text_input = FixedInput(text_features, projected, 2 * seed + 1)
        self.video, self.text = (
            SequenceStack(
                fixed.width,
                hidden,
                full=not projection,
                relu=full_relu,
                fc=fc,
                normalization=normalization,
            )
            for fixed, fc in ((self.clip_input, 2), (self.text_input, 1))
        )
        layer_norm = normalization == "ln4"
        self.action = SmallStack(num_actions, action_hidden, layer_norm=layer_norm)
        self.match = SmallStack(2 * hidden, matched_hidden, layer_norm=layer_norm)
        state = 2 * hidden + action_hidden + matched_hidden + 10
        self.classify = nn.Sequential(
            nn.Linear(state, hidden), nn.ReLU(), nn.Linear(hidden, num_actions)
        )
        self.apply(initialise)

    def fit_inputs(self, clips: Float[Tensor, "n d"], snippets: Float[Tensor, "m e"]) -> None:
        """Standardise by these features, a row each: those of the training set.

        Raises:
            ValueError: for fewer than 2 rows, another width or dtype, features that are not finite,
                and those whose squares are too large or too small for their dtype.
        """
        for fixed, features, name in (
            (self.clip_input, clips, "clips"),
            (self.text_input, snippets, "snippets"),
        ):
            with _named(name):
                fixed.fit(features)

    def forward(
        self,
        clips: Float[Tensor, "b n d"],
        clip_lengths: Int[Tensor, " b"],
        snippets: Float[Tensor, "b m e"],
        snippet_lengths: Int[Tensor, " b"],
        actions: Int[Tensor, "b a"],
    ) -> Float[Tensor, "b a k"]:
        """Logits of each action, given the true ones before it (teacher forcing).

        Args:
            clips: features, padded at the end.
            clip_lengths: numbers of clips, at least 1.
            snippets: features, padded at the end.
            snippet_lengths: numbers of snippets, at least 1.
            actions: of the truth, padded with -1 at the end.

        Raises:
            ValueError: if shapes, lengths or actions do not fit one another, or a feature is
                NaN or infinite.
        """
        video, text = self._reduce(clips, snippets)
        return self.score(video, clip_lengths, text, snippet_lengths, actions)

    def _reduce(
        self, clips: Float[Tensor, "b n d"], snippets: Float[Tensor, "b m e"]
    ) -> tuple[Float[Tensor, "b n q"], Float[Tensor, "b m r"]]:
        """Features through the fixed part."""
        with _named("clips"):
            seen = self.clip_input(clips)
        with _named("snippets"):
            return seen, self.text_input(snippets)

    @checked
    def score(
        self,
        clips: Float[Tensor, "b n q"],
        clip_lengths: Int[Tensor, " b"],
        snippets: Float[Tensor, "b m r"],
        snippet_lengths: Int[Tensor, " b"],
        actions: Int[Tensor, "b a"],
    ) -> Float[Tensor, "b a k"]:
        """:meth:`forward` of features that went through ``clip_input`` and ``text_input`` before.

        Training does that once, as these two do not learn.
        """
        _require_reduced(clips, clip_lengths, snippets, snippet_lengths)
        lengths = torch.stack([clip_lengths, snippet_lengths], 1)
        trail = walk(actions)
        require_fit(actions, trail, lengths, self.num_actions)
        stacks = self.encode(clips, clip_lengths, snippets, snippet_lengths)
        # weights are applied to clips and snippets, of which there are fewer than actions:
        # W [clip, snippet, rest] = W_c clip + W_s snippet + W_r rest
        weight = self.match.first.get_parameter("weight_ih_l0")
        matched = _tops(_apart(weight, stacks), lengths, trail.cursors)
        history = self._teacher_forced(trail, *matched)
        one_hot = nn.functional.one_hot(actions.clamp(min=0), self.num_actions).to(history.dtype)
        past, _ = self.action(one_hot, self.action.start(one_hot))
        rest = torch.cat([_shift(past), _shift(history), positions(trail.cursors, lengths)], -1)
        weight, bias = self.classify[0].parameters()
        known = nn.functional.linear(rest, weight[:, -rest.shape[2] :], bias)
        hidden = sum(_tops(_apart(weight, stacks), lengths, trail.cursors), known)
        return self.classify[1:](hidden)

    def encode(
        self, clips: Tensor, clip_lengths: Tensor, snippets: Tensor, snippet_lengths: Tensor
    ) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "b m p"]]:
        """Outputs of the Video and the Text Stack, the last element of each sequence first."""
        return self.video(clips, clip_lengths), self.text(snippets, snippet_lengths)

    def _teacher_forced(
        self, trail: Walk, clip: Float[Tensor, "b a g"], snippet: Float[Tensor, "b a g"]
    ) -> Float[Tensor, "b a h"]:
        """Output of the Matched Stack after each action, given what was on top before it.

        Clips and snippets were multiplied with their part of its input weights before: a mean of
        products is the product of the mean.

        A slot is a snippet with its clips (or a clip with its snippets). Within it the stack's
        state follows from the slot's means and the state before it, so that a state is needed for
        each slot and not for each match.
        """
        slot, new = slots(trail)
        steps = torch.arange(slot.shape[1], device=slot.device)
        same = (slot[:, :, None] == slot[:, None, :]) & (steps <= steps[:, None])  # (B, A, A)
        of_clips, of_snippets = (
            _masked_mean(same & new[:, None, :, i], x) for i, x in enumerate([clip, snippet])
        )
        means = of_clips + of_snippets
        count = int(slot.max()) + 1
        # where each slot ends: the last step that belongs to it
        ends = torch.where(
            slot[:, None, :] == torch.arange(max(count, 1), device=slot.device)[:, None], steps, 0
        ).amax(2)
        after = self.match.recur(pick(means, ends).transpose(0, 1), self.match.start(means))
        # the state before a slot is that after the one before it
        before = map_state(
            lambda s: pick(_shift(s.transpose(0, 1)), slot.clamp(min=0)).flatten(0, 1)[None], after
        )
        (h_1, _), (h_2, _) = self.match.recur(means.flatten(0, 1)[None], before)
        return (h_1 + h_2).view(*slot.shape, -1) * (slot >= 0)[..., None]

    @torch.no_grad()
    def align(
        self,
        clips: Float[Tensor, "b n d"],
        clip_lengths: Int[Tensor, " b"],
        snippets: Float[Tensor, "b m e"],
        snippet_lengths: Int[Tensor, " b"],
    ) -> Alignment:
        """Choose the likeliest action at each step, until a sample has no clip or no snippet left.

        Call it in evaluation mode; a sample's alignment does not depend on the others' then.
        Arguments and errors are those of :meth:`forward`; it is an error too if the network's
        own weights make a logit that is not finite.
        """
        video, text = self._reduce(clips, snippets)
        return self.align_reduced(video, clip_lengths, text, snippet_lengths)

    @checked
    @torch.no_grad()
    def align_reduced(
        self,
        clips: Float[Tensor, "b n q"],
        clip_lengths: Int[Tensor, " b"],
        snippets: Float[Tensor, "b m r"],
        snippet_lengths: Int[Tensor, " b"],
    ) -> Alignment:
        """:meth:`align` of features that went through ``clip_input`` and ``text_input`` before."""
        _require_reduced(clips, clip_lengths, snippets, snippet_lengths)
        lengths = torch.stack([clip_lengths, snippet_lengths], 1)
        stacks = self.encode(clips, clip_lengths, snippets, snippet_lengths)
        samples = torch.arange(len(clips), device=clips.device)
        matches = clips.new_zeros(len(clips), clips.shape[1], snippets.shape[1], dtype=torch.bool)
        cursor = torch.zeros_like(lengths)
        memory = _Memory(self.match, stacks[0])
        past, action_state = stacks[0].new_zeros(len(clips), 1, self.action.hidden), None
        taken = []
        while (active := (cursor < lengths).all(1)).any():
            tops = _tops(stacks, lengths, cursor[:, None])
            state = [*tops, past, memory.output, positions(cursor[:, None], lengths)]
            logits = self.classify(torch.cat(state, -1))[:, 0]
            if not torch.isfinite(logits[active]).all():
                raise ValueError(
                    "align: the logits of an action are not finite, though the features are; did "
                    "training diverge?"
                )
            action = logits.argmax(1)
            effect = EFFECTS.to(action.device)[action] * active[:, None]
            matched = effect[:, 2].bool()
            matches[samples[matched], cursor[matched, 0], cursor[matched, 1]] = True
            memory.add(matched, cursor, *tops)
            one_hot = nn.functional.one_hot(action, self.num_actions).to(past.dtype)[:, None]
            past, action_state = self.action(one_hot, action_state or self.action.start(one_hot))
            taken.append(torch.where(active, action, -1))
            cursor = cursor + effect[:, :2]
        return Alignment(torch.stack(taken, 1), matches)


class _Memory:
    """The Matched Stack during inference: the open slot, and the state before it."""

    def __init__(self, stack: SmallStack, like: Tensor) -> None:
        self.stack = stack
        self.before = self.now = stack.start(like)
        self.output = like.new_zeros(len(like), 1, stack.hidden)
        self.sums = [like.new_zeros(len(like), 1, like.shape[2]) for _ in range(2)]
        self.counts = like.new_zeros(len(like), 2)
        self.last = torch.full((len(like), 2), -1, device=like.device)

    def add(self, matched: Tensor, cursor: Tensor, *tops: Tensor) -> None:
        """Match what is on top if ``matched``: rewind to before its slot, and run again."""
        if not matched.any():
            return
        same = cursor == self.last  # (B, 2): is it the clip, the snippet of the last match?
        opens = matched & ~same.any(1)
        self.before = map_state(
            lambda a, b: torch.where(opens[:, None], a, b), self.now, self.before
        )
        adds = matched[:, None] & ~same
        self.counts = torch.where(opens[:, None], 0, self.counts) + adds
        for side, top in enumerate(tops):
            kept = torch.where(opens[:, None, None], 0, self.sums[side])
            self.sums[side] = kept + top * adds[:, side, None, None]
        self.last = torch.where(matched[:, None], cursor, self.last)
        means = [
            total / self.counts[:, side, None, None].clamp(min=1)
            for side, total in enumerate(self.sums)
        ]
        output, now = self.stack(torch.cat(means, -1), self.before)
        self.output = torch.where(matched[:, None, None], output, self.output)
        self.now = map_state(lambda a, b: torch.where(matched[:, None], a, b), now, self.now)


def _masked_mean(mask: Bool[Tensor, "b a k"], x: Float[Tensor, "b k p"]) -> Float[Tensor, "b a p"]:
    """Mean of the chosen rows of x, zero if none is."""
    weights = mask.to(x.dtype)
    return (weights / weights.sum(-1, keepdim=True).clamp(min=1)) @ x


def _tops(
    stacks: Iterable[Float[Tensor, "b t p"]],
    lengths: Int[Tensor, "b 2"],
    cursors: Int[Tensor, "b a 2"],
) -> list[Float[Tensor, "b a p"]]:
    """Clip and snippet at each cursor of reversed sequences; zero if nothing is left."""
    places = lengths[:, None] - 1 - cursors
    return [
        pick(stack, place.clamp(min=0)) * (place >= 0)[..., None]
        for stack, place in zip(stacks, places.unbind(-1), strict=True)
    ]


def _apart(
    weight: Float[Tensor, "g w"], stacks: Iterable[Float[Tensor, "b t p"]]
) -> list[Float[Tensor, "b t g"]]:
    """The product of the first columns with each clip, and of the next ones with each snippet."""
    products, start = [], 0
    for stack in stacks:
        end = start + stack.shape[2]
        products.append(stack @ weight[:, start:end].T)
        start = end
    return products


def _shift(x: Float[Tensor, "b a p"]) -> Float[Tensor, "b a p"]:
    """One step later: the values known before each action."""
    return nn.functional.pad(x[:, :-1], (0, 0, 1, 0))


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors about ``x`` name the argument that it came as."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("x: ", f"{name}: ", 1)) from error


def _require_reduced(
    clips: Tensor, clip_lengths: Tensor, snippets: Tensor, snippet_lengths: Tensor
) -> None:
    """Refuse an empty batch, lengths outside of it, and features that are not finite."""
    for x, lengths, name in (
        (clips, clip_lengths, "clips"),
        (snippets, snippet_lengths, "snippets"),
    ):
        if not x.numel():
            raise ValueError(f"{name}: expected one sample or more, got {describe(x)}")
        require_lengths(lengths, x.shape[1], f"{name.removesuffix('s')}_lengths", least=1)
        require_finite(x, name)
