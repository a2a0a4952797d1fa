"""The tasks that a pretrained CODIS is fine-tuned for: retrieval, questions, and judgements.

Each task is a module on top of a :class:`modalign.models.codis.Codis`, which it trains further,
with a ``loss`` of a batch and a ``predict``. They share its towers and its fusion encoder.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe
from modalign.models.codis import Codis, rerank
from modalign.models.codis_encoders import CLS_ID, layer_options, with_cls
from modalign.models.inputs import tokenize


class Retrieval(nn.Module):
    """Find a picture's text and a text's picture: pretraining goes on without masked words.

    Args:
        codis: pretrained; the other parts of its loss keep their weights.
    """

    def __init__(self, codis: Codis) -> None:
        super().__init__()
        self.codis = codis

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss, as of :meth:`Codis.losses`; call :meth:`update` after a step.

        Raises:
            ValueError: if only masked words have a weight.
        """
        return self.codis.losses(batch, without=("mlm",))

    def update(self) -> None:
        """As :meth:`Codis.update`."""
        self.codis.update()

    @torch.no_grad()
    def predict(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, *, k: int, part: int = 256
    ) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """Score N pictures against M texts.

        Args:
            images: (N, 3, h, w).
            input_ids: (M, t).
            attention_mask: (M, t).
            k: how many candidates of each query the matching head orders.
            part: rows at a time.

        Returns:
            Cosines of the towers, and the scores of :func:`modalign.models.codis.rerank` for
            pictures as queries and for texts as queries.

        Raises:
            ValueError: as :func:`modalign.models.codis.rerank`.
        """
        towers = self.codis.towers
        seen = [towers.see(each) for each in images.split(part)]
        texts = zip(input_ids.split(part), attention_mask.split(part), strict=True)
        read = [towers.read(ids, mask) for ids, mask in texts]
        (image, z_image), (text, z_text) = (
            (torch.cat(each) for each in zip(*side, strict=True)) for side in (seen, read)
        )
        similarity = z_image @ z_text.T
        by = rerank(self.codis, image, text, attention_mask, similarity, k=k, at_a_time=4 * part)
        return similarity, *by


class Judge(nn.Module):
    """Classify a sentence together with one picture or more.

    Two classes and two pictures are NLVR's true and false; three classes and one picture are
    entailment. The sentence attends to the states of all pictures, each with a mark of its place,
    and a small network reads the fused [CLS].

    Args:
        codis: pretrained.
        classes: 2 or more.
        pictures: 1 or more.

    Raises:
        ValueError: for fewer classes or pictures, or a batch of another number of pictures.

    >>> from modalign.models.codis_encoders import Config
    >>> judge = Judge(Codis(Config(20)), classes=2, pictures=2)
    >>> ids = torch.tensor([[2, 4, 5]])
    >>> batch = {"images": torch.rand(1, 2, 3, 64, 64), "input_ids": ids}
    >>> batch["attention_mask"] = torch.ones_like(ids)
    >>> judge.predict(batch).shape
    torch.Size([1])
    """

    def __init__(self, codis: Codis, classes: int, *, pictures: int = 1) -> None:
        super().__init__()
        if classes < 2 or pictures < 1:
            raise ValueError(
                f"classes, pictures: expected 2 and 1 at least, got {classes} and {pictures}"
            )
        self.codis, self.classes = codis, classes
        width = codis.config.width
        self.places = nn.Parameter(0.02 * torch.randn(pictures, 1, width))
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, classes)
        )

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, classes) of ``images`` (b, pictures, 3, h, w) and tokens (b, t)."""
        images, ids, mask = (batch[name] for name in ("images", "input_ids", "attention_mask"))
        if images.dim() != 5 or images.shape[1] != len(self.places):
            raise ValueError(
                f"images: expected (b, {len(self.places)}, 3, h, w), got {describe(images)}"
            )
        seen, _ = self.codis.towers.see(images.flatten(0, 1))
        seen = seen.unflatten(0, images.shape[:2]) + self.places
        text, _ = self.codis.towers.read(ids, mask)
        fused = self.codis.fusion(text, mask, seen.flatten(1, 2), first=True)
        return self.head(fused[:, 0])

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy of ``label`` (b,).

        Raises:
            ValueError: for a label that is not a class.
        """
        _require_labels(batch["label"], self.classes)
        return {"loss": functional.cross_entropy(self(batch), batch["label"])}

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Tensor]) -> Int[Tensor, " b"]:
        """The likeliest class."""
        return self(batch).argmax(1)


class Questions(nn.Module):
    """Answer questions about a picture by ranking a list of answers (VQA as generation).

    A decoder writes answers word by word, attending to the question that was fused with the
    picture; an answer begins and ends with [CLS]. Training makes the right one likely; predicting
    takes the answer of the list with the highest log-likelihood, as in ALBEF.

    Args:
        codis: pretrained.
        answers: the list.
        tokenizer: of its texts.
        layers: of the decoder (6 in ALBEF).

    Raises:
        ValueError: for a list that is empty or repeats (in other letters, say), an answer without a
            word, with one that the tokenizer does not know, or longer than the position table.

    >>> from modalign.models.codis_encoders import SPECIAL_TOKENS, Config
    >>> from modalign.models.inputs import build_tokenizer
    >>> tokenizer = build_tokenizer(["what colour", "red", "blue"], special_tokens=SPECIAL_TOKENS)
    >>> model = Questions(Codis(Config(8)), ["red", "blue"], tokenizer)
    >>> batch = {"images": torch.rand(1, 1, 3, 64, 64)}
    >>> batch |= tokenize(tokenizer, ["[CLS] what colour"])
    >>> model.scores(batch).shape
    torch.Size([1, 2])
    """

    answer_ids: Tensor
    answer_mask: Tensor

    def __init__(
        self, codis: Codis, answers: Sequence[str], tokenizer: Any, *, layers: int = 1
    ) -> None:
        super().__init__()
        self.codis, self.answers = codis, tuple(answers)
        if isinstance(answers, str) or not self.answers:
            raise ValueError(f"answers: expected a list of one or more, got {answers!r}")
        if layers < 1:
            raise ValueError(f"layers: expected 1 at least, got {layers}")
        for place, answer in enumerate(self.answers):
            if not answer.strip():
                raise ValueError(
                    f"answers: expected a text of a word or more, got {answer!r} in place {place}"
                )
        tokens = tokenize(tokenizer, with_cls(self.answers), unknown="refuse")
        ids = functional.pad(tokens["input_ids"], (0, 1))
        mask = functional.pad(tokens["attention_mask"], (1, 0), value=1)
        ids[torch.arange(len(ids)), mask.sum(1) - 1] = CLS_ID
        _require_once([tuple(row) for row in ids.tolist()], self.answers)
        config = codis.config
        if ids.shape[1] > config.max_length:
            longest = self.answers[int(mask.sum(1).argmax())]
            raise ValueError(
                f"answers: expected at most {config.max_length - 2} tokens each, got {longest!r}"
            )
        self.register_buffer("answer_ids", ids)
        self.register_buffer("answer_mask", mask)
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, config.max_length, config.width))
        layer = nn.TransformerDecoderLayer(**layer_options(config))
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(config.width))
        self.head = nn.Linear(config.width, config.vocabulary)

    def _fused(self, batch: Mapping[str, Tensor]) -> Tensor:
        images, ids, mask = (batch[name] for name in ("images", "input_ids", "attention_mask"))
        if images.dim() != 5 or images.shape[1] != 1:
            raise ValueError(f"images: expected (b, 1, 3, h, w), got {describe(images)}")
        image, _ = self.codis.towers.see(images[:, 0])
        text, _ = self.codis.towers.read(ids, mask)
        return self.codis.fusion(text, mask, image)

    def _log_likelihood(self, memory: Tensor, padding: Tensor, chosen: Tensor) -> Tensor:
        """Of answer ``chosen[i]``, given the fused question i."""
        ids, mask = self.answer_ids[chosen], self.answer_mask[chosen]
        given = ids[:, :-1]  # each word is predicted from those before it
        steps = given.shape[1]
        later = torch.ones(steps, steps, dtype=torch.bool, device=ids.device).triu(1)
        hidden = self.decoder(
            self.words(given) + self.positions[:, :steps],
            memory,
            tgt_mask=later,
            memory_key_padding_mask=padding,
        )
        words = self.head(hidden).log_softmax(2)
        return (words.gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]).sum(1)

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Negative log-likelihood of the right answers, ``label`` (b,) in the list.

        Raises:
            ValueError: for a label that is not in the list.
        """
        _require_labels(batch["label"], len(self.answers))
        padding = ~batch["attention_mask"].bool()
        found = self._log_likelihood(self._fused(batch), padding, batch["label"])
        return {"loss": -found.mean()}

    @torch.no_grad()
    def scores(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "b k"]:
        """Log-likelihood of every answer of the list."""
        memory, k = self._fused(batch), len(self.answers)
        chosen = torch.arange(k, device=memory.device).repeat(len(memory))
        padding = (~batch["attention_mask"].bool()).repeat_interleave(k, 0)
        found = self._log_likelihood(memory.repeat_interleave(k, 0), padding, chosen)
        return found.unflatten(0, (len(memory), k))

    @checked
    def predict(
        self, batch: Mapping[str, Tensor], *, allowed: Tensor | None = None
    ) -> Int[Tensor, " b"]:
        """The likeliest answer, as its place in the list.

        Args:
            batch: ``images`` (b, 1, 3, h, w), ``input_ids`` and ``attention_mask`` (b, t).
            allowed: (b, k), bool; which answers each question offers, all by default.

        Raises:
            ValueError: for a question that offers none, or ``allowed`` of another shape.
        """
        scores = self.scores(batch)
        if allowed is None:
            return scores.argmax(1)
        if allowed.shape != scores.shape or allowed.dtype != torch.bool:
            raise ValueError(
                f"allowed: expected bool {tuple(scores.shape)}, got {describe(allowed)}"
            )
        if not allowed.any(1).all():
            row = int((~allowed.any(1)).nonzero()[0])
            raise ValueError(f"allowed: expected an answer for each question, row {row} has none")
        return scores.masked_fill(~allowed, -torch.inf).argmax(1)


def _require_once(rows: Sequence[tuple[int, ...]], names: Sequence[str]) -> None:
    row, times = Counter(rows).most_common(1)[0]
    twice = [name for each, name in zip(rows, names, strict=True) if each == row and times > 1]
    if twice:
        raise ValueError(f"answers: expected each once, got {twice[0]!r} and {twice[1]!r}")


def _require_labels(labels: Tensor, number: int) -> None:
    bad = (labels < 0) | (labels >= number)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"label: expected 0 to {number - 1}, got {int(labels[row])} in row {row}")
