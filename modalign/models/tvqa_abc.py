"""TVQA_abc (Lei et al. 2018): which of five answers fits, by matching each with every context.

Sizes, equations and the names of the parameters are those of the public code (``ABC`` of
jayleicn/TVQA), so that its weights fit. Letters: B questions of five answers, contexts of T steps,
texts of L tokens, E the width of a word, d = 2 ``hidden`` the width of states.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from modalign._checks import checked, describe, require_choice, require_positive
from modalign.models.padded import Padded, lengths_of, require_dtype, require_padded
from modalign.models.released import Released, Source

ANSWERS = 5
# the streams, and the names of their parameters in the public code; captions are an addition
STREAMS = {"video": "vid", "subtitles": "sub", "concepts": "vcpt", "captions": "cap"}


class Matches(NamedTuple):
    """Where each step of a context looked: weights that add up to 1, or zeros where padded.

    Attributes:
        question: (B, T, L), over the question's words.
        answers: (B, 5, T, L), over the words of each answer.
    """

    question: Float[Tensor, "b t l"]
    answers: Float[Tensor, "b 5 t l"]


class TVQAOutput(NamedTuple):
    """Scores of five answers, and what led to them.

    Attributes:
        logits: (B, 5), the sum of the streams' scores.
        scores: of each stream, (B, 5).
        attention: of each stream, see :class:`Matches`.
        embeddings: the sides of the attention, before it compares them, with masks: ``qa``, all
            words of question and answers, (B, L + 5 L', d), and each stream by its name,
            (B, T, d). CKA aligns these (Yun et al. 2022, 8.3 and fig. 7).
    """

    logits: Float[Tensor, "b 5"]
    scores: dict[str, Tensor]
    attention: dict[str, Matches]
    embeddings: dict[str, Padded]


class BiLSTM(nn.Module):
    """An LSTM in both directions over real steps alone; zeros at padded ones."""

    def __init__(self, inner: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inner, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # a row without a real step runs one, which the mask then removes
        lengths = mask.sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return hidden * mask[..., None]


class Scorer(nn.Module):
    """Linear layers to one score, with ReLU and dropout between them."""

    def __init__(self, inner: int, hidden: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Linear(inner, hidden), nn.ReLU(), nn.Dropout(0.5)]
            inner = hidden
        self.main = nn.Sequential(*parts, nn.Linear(inner, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)[..., 0]


@checked
def match(
    context: Float[Tensor, "*b t d"],
    context_mask: Bool[Tensor, "*b t"],
    query: Float[Tensor, "*b l d"],
    query_mask: Bool[Tensor, "*b l"],
) -> tuple[Float[Tensor, "*b t d"], Float[Tensor, "*b t l"]]:
    """Context matching without parameters: what each step of a context reads in a query.

    Weights are the softmax of dot products over the query's real words; a padded step, and a step
    that finds no real word, gets zeros. O(T L d) a row.

    Returns:
        Sums of the query's vectors by the weights, and the weights.

    >>> x = torch.eye(2)[None]
    >>> real = torch.tensor([[True, False]])
    >>> match(x, real, x, real)[1].tolist()
    [[[1.0, 0.0], [0.0, 0.0]]]
    """
    real = context_mask[..., None] & query_mask[..., None, :]
    scores = context @ query.mT
    weights = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(-1) * real
    return weights @ query, weights


class TVQA(nn.Module):
    """TVQA_abc, of any of its streams; about 14.13 M parameters beside the words at paper size.

    Video features are to have length one, as :func:`modalign.models.videoqa_inputs.tvqa_batch`
    makes them. A stream that has nothing for a question favours none of its answers.

    Args:
        vocabulary: number of tokens.
        streams: of ``video``, ``subtitles``, ``concepts`` (of detected objects) and ``captions``.
            The public code has the first three; captions are texts as subtitles are.
        video_dim: width of a step's features.
        embedding: E, width of a word.
        hidden: of the first LSTM, a direction.
        matched: of the second, one a stream.
        layers: of a stream's scorer.
        scorer: its hidden width, if it has several layers.

    Raises:
        ValueError: for sizes that are not above 0, and no stream, one twice, or an unknown one.

    >>> model = TVQA(20, streams=["subtitles"], embedding=6, hidden=4, matched=3)
    >>> texts = Padded(torch.tensor([[3, 4]]), torch.tensor([[1, 1]]))
    >>> answers = Padded(torch.full((1, 5, 2), 7), torch.ones(1, 5, 2))
    >>> model(texts, answers, subtitles=texts).logits.shape
    torch.Size([1, 5])
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        streams: Sequence[str] = ("video", "subtitles", "concepts"),
        video_dim: int = 2048,
        embedding: int = 300,
        hidden: int = 150,
        matched: int = 300,
        layers: int = 1,
        scorer: int = 500,
    ) -> None:
        super().__init__()
        require_positive(
            vocabulary=vocabulary,
            video_dim=video_dim,
            embedding=embedding,
            hidden=hidden,
            matched=matched,
            layers=layers,
            scorer=scorer,
        )
        for name in streams:
            require_choice(name, tuple(STREAMS), "streams")
        if not streams or len(set(streams)) < len(streams):
            raise ValueError(f"streams: expected one or more, each once, got {list(streams)}")
        self.vocabulary, self.video_dim = vocabulary, video_dim
        self.streams = [name for name in STREAMS if name in streams]
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm_raw = BiLSTM(embedding, hidden)
        if "video" in streams:
            self.video_fc = nn.Sequential(
                nn.Dropout(0.5), nn.Linear(video_dim, embedding), nn.Tanh()
            )
        for name in self.streams:
            self.add_module(f"lstm_mature_{STREAMS[name]}", BiLSTM(10 * hidden, matched))
            self.add_module(f"classifier_{STREAMS[name]}", Scorer(2 * matched, scorer, layers))

    @classmethod
    def from_released(cls, state_dict: Source) -> "TVQA":
        """The model of released weights, set to inference; streams and sizes are read off them.

        Args:
            state_dict: of ``ABC``, or a file of it, which is read with ``weights_only=True``.

        Raises:
            TypeError, ValueError: as :class:`modalign.models.released.Released`; the first
                parameter that differs is named.

        >>> state = TVQA(20, streams=["concepts"], embedding=6).state_dict()
        >>> TVQA.from_released(state).streams
        ['concepts']
        """
        state = Released(state_dict)
        vocabulary, embedding = state.shape("embedding.weight", 2)
        _, hidden = state.shape("lstm_raw.rnn.weight_hh_l0", 2)
        streams = [
            name
            for name, short in STREAMS.items()
            if any(f".{key}".startswith(f".lstm_mature_{short}.") for key in state.values)
        ]
        if not streams:
            state.shape("lstm_mature_vid.rnn.weight_ih_l0", 2)  # says that it is missing
        first = STREAMS[streams[0]]
        _, matched = state.shape(f"lstm_mature_{first}.rnn.weight_hh_l0", 2)
        layers = 1
        while f"classifier_{first}.main.{3 * layers}.weight" in state:
            layers += 1
        sizes = {"layers": layers}
        if layers > 1:
            sizes["scorer"] = state.shape(f"classifier_{first}.main.0.weight", 2)[0]
        if "video" in streams:
            sizes["video_dim"] = state.shape("video_fc.1.weight", 2)[1]
        with torch.random.fork_rng(devices=()):
            model = cls(
                vocabulary,
                streams=streams,
                embedding=embedding,
                hidden=hidden,
                matched=matched,
                **sizes,
            )
        return state.into(model)

    def forward(self, question: Padded, answers: Padded, **contexts: Padded) -> TVQAOutput:
        """Score the five answers of each question.

        Args:
            question: tokens and mask, (B, L).
            answers: tokens and mask, (B, 5, L').
            **contexts: by the name of each stream of the model: tokens and mask (B, T), or for
                ``video`` features (B, T, ``video_dim``) and a mask (B, T). Padding comes last; a
                row may be padding alone.

        Raises:
            ValueError: for streams that are missing or that the model lacks, other than five
                answers, other numbers of rows, features of another width or not finite, tokens
                outside the vocabulary, and padding before a real step.
            TypeError: for anything but a pair of values and mask.
        """
        if set(contexts) != set(self.streams):
            raise ValueError(
                f"contexts: expected {', '.join(self.streams)}, got {', '.join(contexts) or 'none'}"
            )
        question = require_padded(question, "question", 2, tokens=self.vocabulary)
        answers = require_padded(answers, "answers", 3, tokens=self.vocabulary)
        b = len(question.values)
        require_answers(answers.values, b)
        asked = self._read(question, "question")
        flat = Padded(answers.values.flatten(0, 1), answers.mask.flatten(0, 1))
        offered = self._read(flat, "answers").values.unflatten(0, (b, ANSWERS))
        offered = Padded(offered, answers.mask)
        embeddings = {"qa": _joined(asked, offered)}
        scores, attention = {}, {}
        for name in self.streams:
            seen = self._context(contexts[name], name, b)
            scores[name], attention[name] = self._stream(name, seen, asked, offered)
            embeddings[name] = seen
        logits = torch.stack(list(scores.values())).sum(0)
        return TVQAOutput(logits, scores, attention, embeddings)

    @checked
    def loss(self, logits: Float[Tensor, "b 5"], target: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Cross-entropy of the right answers, summed over the batch as in the public code.

        Raises:
            ValueError: for an answer that is not 0 to 4.

        >>> model = TVQA(5, streams=["concepts"], embedding=6)
        >>> round(model.loss(torch.zeros(2, 5), torch.tensor([0, 4])).item(), 4)
        3.2189
        """
        require_target(target)
        return functional.cross_entropy(logits, target, reduction="sum")

    def _read(self, text: Padded, name: str) -> Padded:
        lengths_of(text.mask, name)
        return Padded(self.lstm_raw(self.embedding(text.values), text.mask), text.mask)

    def _context(self, given: Padded, name: str, b: int) -> Padded:
        if name == "video":
            given = require_padded(given, name, 2, width=self.video_dim)
            require_dtype(given.values, self.embedding.weight, name)
            lengths_of(given.mask, name)
            values = self.video_fc(given.values.where(given.mask[..., None], 0))
            seen = Padded(self.lstm_raw(values, given.mask), given.mask)
        else:
            seen = self._read(require_padded(given, name, 2, tokens=self.vocabulary), name)
        if len(seen.values) != b:
            raise ValueError(f"{name}: expected {b} rows, one a question, got {len(seen.values)}")
        return seen

    def _stream(
        self, name: str, context: Padded, question: Padded, answers: Padded
    ) -> tuple[Tensor, Matches]:
        """The scores of one stream, (B, 5), and where it looked."""
        x, mask = context
        u_question, by_question = match(x, mask, question.values, question.mask)
        five = (-1, ANSWERS, -1, -1)
        x5, mask5 = x[:, None].expand(*five), mask[:, None].expand(-1, ANSWERS, -1)
        u_answer, by_answer = match(x5, mask5, answers.values, answers.mask)
        u5 = u_question[:, None].expand(*five)
        matched = torch.cat([x5, u_answer, u5, u_answer * x5, u5 * x5], -1).flatten(0, 1)
        steps = mask5.flatten(0, 1)
        short = STREAMS[name]
        states = self.get_submodule(f"lstm_mature_{short}")(matched, steps)
        pooled = masked_max(states, steps[..., None], 1).unflatten(0, (len(x), ANSWERS))
        scores = self.get_submodule(f"classifier_{short}")(pooled)
        return scores, Matches(by_question, by_answer)


def masked_max(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """The maximum over real places; zeros where there is none.

    >>> masked_max(-torch.ones(2, 3), torch.tensor([[True, True, False], [False] * 3]), 1).tolist()
    [-1.0, 0.0]
    """
    found = x.masked_fill(~mask, torch.finfo(x.dtype).min).amax(dim)
    return found.where(mask.any(dim), 0)


def require_answers(answers: Tensor, b: int) -> None:
    """Refuse other than five answers for each of b questions; answers are (b, 5, ...)."""
    if answers.shape[1] != ANSWERS:
        raise ValueError(f"answers: expected five a question, got {describe(answers)}")
    if len(answers) != b:
        raise ValueError(f"answers: expected {b} rows, one a question, got {len(answers)}")


def require_target(target: Tensor) -> None:
    """Refuse anything but the number of one of five answers."""
    if not len(target) or target.min() < 0 or target.max() >= ANSWERS:
        raise ValueError(f"target: expected answers 0 to 4, got {target.tolist()[:10]}")


def _joined(question: Padded, answers: Padded) -> Padded:
    """All words of a question and its answers in one row."""
    return Padded(
        torch.cat([question.values, answers.values.flatten(1, 2)], 1),
        torch.cat([question.mask, answers.mask.flatten(1, 2)], 1),
    )
