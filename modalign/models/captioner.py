"""Show, attend and tell (Xu et al. 2015): an LSTM that looks at a picture anew for each word.

Sizes and equations are those of the PyTorch code whose weights are public, and so are the names of
the parameters: ``DecoderWithAttention`` of sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning.
Letters: B pictures of P places with D features each, captions of T tokens, V words, H the size of
the LSTM's state.

A caption is ``<start> words <end>`` and then padding; its length counts both marks.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_finite, require_positive
from modalign.models.beams import Captions, Search
from modalign.models.caption_inputs import require_captions
from modalign.models.encoders import Encoder, ImageEncoder, states
from modalign.models.padded import Padded, require_dtype
from modalign.models.released import Released, Source


class SoftAttention(nn.Module):
    """Additive attention over the places of a picture.

    Scores are w'relu(U a_p + W h) + b; their softmax weighs the places. O(B P (D + A)) a step, and
    U a_p is computed once for all steps.
    """

    def __init__(self, encoder_dim: int, decoder_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)

    def forward(self, features: Tensor, keys: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The context (b, D) and the weights (b, P) that made it, for states h (b, H)."""
        scores = self.full_att(functional.relu(keys + self.decoder_att(h)[:, None]))
        weights = scores[..., 0].softmax(1)
        return (weights[:, None] @ features)[:, 0], weights


class TeacherForced(NamedTuple):
    """The output of the model for given captions, in the order of the batch.

    Attributes:
        logits: (B, T - 1, V), of the token after each; zeros behind a caption's end.
        attention: (B, T - 1, P), weights of places; zeros behind a caption's end.
    """

    logits: Float[Tensor, "b s v"]
    attention: Float[Tensor, "b s p"]


class Captioner(nn.Module):
    """The decoder of Show, attend and tell, and the encoder of pictures before it.

    At paper size it is ``Captioner(V, encoder_dim=2048)``, on features of ResNet-101, which
    :func:`modalign.models.caption_inputs.resnet_features` computes once and keeps in a file.

    Args:
        vocabulary: V, the number of tokens.
        encoder_dim: D, if features come from outside. By default the model has an encoder.
        encoder: of pictures; a small convolutional one by default. Its states are the places.
        attention_dim: width in which places and states are compared.
        embed_dim: E, width of a word's embedding.
        decoder_dim: H, size of the LSTM's state.
        dropout: before the logits.
        start, end: the tokens ``<start>`` and ``<end>``. If given, captions are checked against
            them; :meth:`beam_search` needs them.

    Raises:
        ValueError: for an empty vocabulary, sizes that are not above 0, marks outside the
            vocabulary, or both an encoder and ``encoder_dim``.

    >>> model = Captioner(9, encoder_dim=6, attention_dim=4, embed_dim=3, decoder_dim=5)
    >>> captions = torch.tensor([[1, 5, 2, 0], [1, 6, 7, 2]])
    >>> lengths = torch.tensor([3, 4])
    >>> logits, attention = model.teacher_forced(torch.ones(2, 8, 6), captions, lengths)
    >>> logits.shape, attention.shape
    (torch.Size([2, 3, 9]), torch.Size([2, 3, 8]))
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        encoder_dim: int | None = None,
        encoder: Encoder | None = None,
        attention_dim: int = 512,
        embed_dim: int = 512,
        decoder_dim: int = 512,
        dropout: float = 0.5,
        start: int | None = None,
        end: int | None = None,
    ) -> None:
        super().__init__()
        if encoder_dim is None:
            encoder = encoder or ImageEncoder()
            encoder_dim = encoder.config.hidden_size
        elif encoder is not None:
            raise ValueError("encoder_dim: expected none beside an encoder, whose width it is")
        if vocabulary < 1:
            raise ValueError(f"vocabulary: expected a token at least, got {vocabulary}")
        require_positive(
            encoder_dim=encoder_dim,
            attention_dim=attention_dim,
            embed_dim=embed_dim,
            decoder_dim=decoder_dim,
        )
        for name, mark in (("start", start), ("end", end)):
            if mark is not None and not 0 <= mark < vocabulary:
                raise ValueError(f"{name}: expected a token below {vocabulary}, got {mark}")
        self.encoder_dim, self.vocabulary, self.start, self.end = (
            encoder_dim,
            vocabulary,
            start,
            end,
        )
        self.attention = SoftAttention(encoder_dim, decoder_dim, attention_dim)
        self.embedding = nn.Embedding(vocabulary, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.fc = nn.Linear(decoder_dim, vocabulary)
        self.encoder = encoder
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.fc.weight, -0.1, 0.1)
        nn.init.zeros_(self.fc.bias)

    @classmethod
    def from_released(
        cls,
        state_dict: Source,
        *,
        dropout: float = 0.5,
        start: int | None = None,
        end: int | None = None,
    ) -> "Captioner":
        """The model of released weights, set to inference; sizes are read off their shapes.

        Args:
            state_dict: of ``DecoderWithAttention``, or a file of it, which is read with
                ``weights_only=True``. The public checkpoint is a pickle of whole objects: it is
                refused; if you trust it, save ``checkpoint["decoder"].state_dict()``.
            dropout: for further training.
            start: the token ``<start>`` of the checkpoint's word map.
            end: the token ``<end>``.

        Raises:
            TypeError, ValueError: as :class:`modalign.models.released.Released`; the first
                parameter that differs is named.

        >>> state = Captioner(9, encoder_dim=6).state_dict()
        >>> Captioner.from_released(state).encoder_dim
        6
        """
        state = Released(state_dict)
        attention_dim, encoder_dim = state.shape("attention.encoder_att.weight", 2)
        _, decoder_dim = state.shape("attention.decoder_att.weight", 2)
        vocabulary, embed_dim = state.shape("embedding.weight", 2)
        with torch.random.fork_rng(devices=()):
            model = cls(
                vocabulary,
                encoder_dim=encoder_dim,
                attention_dim=attention_dim,
                embed_dim=embed_dim,
                decoder_dim=decoder_dim,
                dropout=dropout,
                start=start,
                end=end,
            )
        return state.into(model)

    def see(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p d"]:
        """Features of pictures, by the model's own encoder.

        Raises:
            ValueError: if features come from outside.
        """
        if self.encoder is None:
            raise ValueError("pixel_values: this model takes features, and has no encoder")
        return states(self.encoder, pixel_values=pixel_values)[0]

    def teacher_forced(
        self,
        features: Float[Tensor, "b *places d"],
        captions: Int[Tensor, "b t"],
        lengths: Int[Tensor, " b"] | Int[Tensor, "b 1"],
    ) -> TeacherForced:
        """Say at each token of given captions which one comes next.

        Rows stay in the order of the batch (the public code sorts them by length).
        O(B T (P (D + A) + H V)) time.

        Args:
            features: (B, P, D), or in their grid, (B, h, w, D).
            captions: (B, T), ``<start>``, words, ``<end>``, padding.
            lengths: (B,), marks included; 2 to T. The longest, minus 1, is the number of steps.

        Raises:
            ValueError: for features of another width or not finite, tokens outside the
                vocabulary, lengths outside 2 to T, and, if the model knows its marks, a
                caption that lacks one.
        """
        places, lengths = self._require(features, captions, lengths)
        steps = int(lengths.max()) - 1
        words = self.embedding(captions[:, :steps])
        keys = self.attention.encoder_att(places)
        h, c = self._begin(places)
        hidden, looked = [], []
        for word in words.unbind(1):
            h, c, weights = self._step(word, places, keys, h, c)
            hidden.append(h)
            looked.append(weights)
        here = (torch.arange(steps, device=lengths.device) < lengths[:, None] - 1)[..., None]
        logits = self.fc(self.dropout(torch.stack(hidden, 1)))
        return TeacherForced(logits * here, torch.stack(looked, 1) * here)

    forward = teacher_forced

    def embeddings(
        self,
        features: Float[Tensor, "b *places d"],
        captions: Int[Tensor, "b t"],
        lengths: Int[Tensor, " b"] | Int[Tensor, "b 1"],
    ) -> dict[str, Padded]:
        """The two sides of the cross-attention, before it: ``image`` and ``text``, with masks.

        These are the two sides that CKA aligns (Yun et al. 2022, 8.1): the encoder's output
        (B, P, D), and the embedded words (B, T, E), marks included. Features from a file do not
        train: then CKA moves the words alone.

        Raises:
            ValueError: as :meth:`teacher_forced`.
        """
        places, lengths = self._require(features, captions, lengths)
        here = torch.arange(captions.shape[1], device=lengths.device) < lengths[:, None]
        everywhere = torch.ones(places.shape[:2], dtype=torch.bool, device=places.device)
        return {
            "image": Padded(places, everywhere),
            "text": Padded(self.embedding(captions), here),
        }

    @torch.no_grad()
    def beam_search(
        self,
        features: Float[Tensor, "b *places d"],
        *,
        beam: int = 3,
        max_length: int = 50,
        normalized: bool = False,
    ) -> Captions:
        """The likeliest captions, by beam search, without the true words.

        As in the public code, a beam that ends leaves its place empty, and of all that ended the
        best is taken: by the sum of log-probabilities, or by their mean over tokens if
        ``normalized``, which does not prefer short captions. If none ends within the limit, the
        best that did not is returned, with ``finished`` False. Set the model to ``eval()`` first if
        features come from its own encoder; dropout is off here. O(B S beam (P (D + A) + H V)).

        Args:
            features: as of :meth:`teacher_forced`.
            beam: candidates that are kept, 1 to V.
            max_length: S, tokens at most, ``<end>`` included.
            normalized: divide scores by the number of tokens.

        Raises:
            ValueError: for a model without marks, a beam wider than the vocabulary, no step, and
                features as of :meth:`teacher_forced`.

        >>> model = Captioner(9, encoder_dim=6, start=1, end=2)
        >>> model.beam_search(torch.ones(2, 8, 6), max_length=4).tokens.shape[0]
        2
        """
        if self.start is None or self.end is None:
            raise ValueError("beam_search: needs the marks; make the model with start= and end=")
        if not 1 <= beam <= self.vocabulary:
            raise ValueError(f"beam: expected 1 to the {self.vocabulary} tokens, got {beam}")
        if max_length < 1:
            raise ValueError(f"max_length: expected a token at least, got {max_length}")
        places = self._places(features)
        b, p, _ = places.shape
        search = Search.begin(b, beam, p, like=places)
        # beams of a picture lie side by side: (B beam, ...)
        places = places.repeat_interleave(beam, 0)
        keys = self.attention.encoder_att(places)
        h, c = self._begin(places)
        last = torch.full((b * beam,), self.start, device=places.device)
        for _ in range(max_length):
            h, c, weights = self._step(self.embedding(last), places, keys, h, c)
            chances = self.fc(h).log_softmax(1).unflatten(0, (b, beam))
            origin = search.extend(chances, weights.unflatten(0, (b, beam)), self.end, normalized)
            last = search.tokens[:, :, -1].flatten()
            rows = (origin + beam * torch.arange(b, device=origin.device)[:, None]).flatten()
            h, c = h[rows], c[rows]
            if search.scores.isinf().all():
                break
        return search.best(normalized)

    def _begin(self, places: Tensor) -> tuple[Tensor, Tensor]:
        mean = places.mean(1)
        return self.init_h(mean), self.init_c(mean)

    def _step(
        self, word: Tensor, places: Tensor, keys: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token: look, gate what was seen, and move the state."""
        context, weights = self.attention(places, keys, h)
        context = self.f_beta(h).sigmoid() * context
        h, c = self.decode_step(torch.cat([word, context], 1), (h, c))
        return h, c, weights

    def _places(self, features: Tensor) -> Tensor:
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise TypeError(f"features: expected floating-point numbers, got {describe(features)}")
        if features.dim() < 3 or 0 in features.shape:
            raise ValueError(
                f"features: expected (b, places, {self.encoder_dim}) of a picture at least, got "
                f"{describe(features)}"
            )
        if features.shape[-1] != self.encoder_dim:
            raise ValueError(
                f"features: expected width {self.encoder_dim}, which the model was made for, got "
                f"{describe(features)}"
            )
        require_dtype(features, self.fc.weight, "features")
        require_finite(features, "features")
        return features.flatten(1, -2)

    def _require(
        self, features: Tensor, captions: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        places = self._places(features)
        lengths = require_captions(captions, lengths, self.vocabulary, self.start, self.end)
        if len(captions) != len(places):
            raise ValueError(
                f"captions: expected {len(places)}, one a picture, got {len(captions)}"
            )
        return places, lengths


@checked
def doubly_stochastic(attention: Float[Tensor, "b s p"]) -> Float[Tensor, ""]:
    """How far each place is from being looked at once in all: mean of (1 - sum over steps)^2.

    >>> round(doubly_stochastic(torch.full((1, 2, 4), 0.25)).item(), 4)
    0.25
    """
    return (1 - attention.sum(1)).square().mean()


@checked
def caption_loss(
    logits: Float[Tensor, "b s v"],
    attention: Float[Tensor, "b s p"],
    captions: Int[Tensor, "b t"],
    lengths: Int[Tensor, " b"] | Int[Tensor, "b 1"],
    *,
    weight: float = 1.0,
) -> dict[str, Tensor]:
    """The loss of Show, attend and tell, and its parts.

    Args:
        logits, attention: of :meth:`Captioner.teacher_forced`.
        captions, lengths: the same that it was given.
        weight: of the doubly stochastic term (paper: 1).

    Returns:
        ``words``, the mean cross-entropy of the tokens after ``<start>``; ``attention``, see
        :func:`doubly_stochastic`; and ``loss``, their weighted sum.

    Raises:
        ValueError: for captions as of :func:`require_captions`, other numbers of steps, or a
            weight below 0.

    >>> logits, attention = torch.zeros(1, 2, 4), torch.full((1, 2, 4), 0.25)
    >>> found = caption_loss(logits, attention, torch.tensor([[1, 3, 2]]), torch.tensor([3]))
    >>> {name: round(value.item(), 4) for name, value in found.items()}
    {'loss': 1.6363, 'words': 1.3863, 'attention': 0.25}
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight: expected 0 or more, got {weight}")
    lengths = require_captions(captions, lengths, logits.shape[2])
    steps = logits.shape[1]
    if steps != int(lengths.max()) - 1:
        raise ValueError(
            f"logits: expected {int(lengths.max()) - 1} steps, the longest caption minus 1, got "
            f"{steps}"
        )
    here = torch.arange(steps, device=lengths.device) < lengths[:, None] - 1
    words = functional.cross_entropy(logits[here], captions[:, 1 : steps + 1][here])
    spread = doubly_stochastic(attention)
    return {"loss": words + weight * spread, "words": words, "attention": spread}
