"""CODIS (Duan et al. 2022): two towers, a codebook between them, and an encoder that fuses them.

Labels such as ``eq-codis-final`` are those of the chapter "CODIS".
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, require_choice
from modalign.codebook import Codebook, FeatureQueue, MomentumTeacher, alignment_loss
from modalign.models.codis_encoders import (
    FIRST_WORD,
    MASK_ID,
    WEIGHTS,
    Config,
    CrossAttention,
    FusionEncoder,
    ImageTransformer,
    TextTransformer,
)
from modalign.models.encoders import Encoder, states
from modalign.momentum import distillation_weight


class Towers(nn.Module):
    """The part that has a teacher: an encoder a modality, and its projection to the joint space."""

    def __init__(self, image: Encoder, text: Encoder, dim: int) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.image_head = nn.Linear(image.config.hidden_size, dim)
        self.text_head = nn.Linear(text.config.hidden_size, dim)

    def see(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """States of a picture, and its [CLS] as a vector of length one in the joint space."""
        hidden = self.image(pixel_values=pixel_values).last_hidden_state
        return hidden, functional.normalize(self.image_head(hidden[:, 0]), dim=1)

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """States of a text, and its [CLS] as a vector of length one in the joint space."""
        hidden, _ = states(self.text, input_ids=input_ids, attention_mask=attention_mask)
        return hidden, functional.normalize(self.text_head(hidden[:, 0]), dim=1)

    @torch.no_grad()
    def spread(self, batch: Mapping[str, Tensor]) -> None:
        """Scale and shift the heads, so that their outputs on this batch have mean 0, variance 1.

        Untrained towers put all rows near one place of the sphere, where a teacher's rows say
        little about which pair is which.

        Raises:
            ValueError: for fewer than 2 pairs, or rows that do not differ.
        """
        image = self.image(pixel_values=batch["pixel_values"]).last_hidden_state[:, 0]
        ids, mask = batch["input_ids"], batch["attention_mask"]
        text = states(self.text, input_ids=ids, attention_mask=mask)[0][:, 0]
        for name, head, hidden in (
            ("pixel_values", self.image_head, image),
            ("input_ids", self.text_head, text),
        ):
            if len(hidden) < 2 or not (deviation := head(hidden).std(0)).all():
                raise ValueError(f"{name}: expected 2 rows or more that differ")
            mean = head(hidden).mean(0)
            head.weight.div_(deviation[:, None])
            head.bias.sub_(mean).div_(deviation)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The two vectors of each pair of a batch."""
        _, z_image = self.see(batch["pixel_values"])
        return z_image, self.read(batch["input_ids"], batch["attention_mask"])[1]


class Masked(NamedTuple):
    """Tokens with some hidden, and the labels of those; -100 elsewhere."""

    input_ids: Tensor
    labels: Tensor


@checked
def mask_tokens(
    input_ids: Int[Tensor, "b t"],
    vocabulary: int,
    *,
    rate: float = 0.15,
    generator: torch.Generator | None = None,
) -> Masked:
    """Hide words as BERT does: of the chosen, 80% become [MASK], 10% another word, 10% stay.

    Args:
        input_ids: tokens; special ones (below :data:`FIRST_WORD`) are never chosen.
        vocabulary: number of tokens.
        rate: chance of a word to be chosen (paper: 0.15).
        generator: of the draws; torch's own by default.

    Raises:
        ValueError: for a rate that is not between 0 and 1.

    >>> masked = mask_tokens(torch.tensor([[2, 7, 8]]), 9, rate=1.0)
    >>> masked.labels
    tensor([[-100,    7,    8]])
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a chance from 0 to 1, got {rate}")
    shape, device = input_ids.shape, input_ids.device
    chosen, fate = torch.rand(2, *shape, device=device, generator=generator)
    words = torch.randint(FIRST_WORD, vocabulary, shape, device=device, generator=generator)
    chosen = (chosen < rate) & (input_ids >= FIRST_WORD)
    hidden = input_ids.where(~chosen | (fate >= 0.9), words)
    hidden = hidden.where(~chosen | (fate >= 0.8), MASK_ID)
    return Masked(hidden, input_ids.where(chosen, -100))


@checked
def hard_negatives(
    similarity: Float[Tensor, "n m"], *, generator: torch.Generator | None = None
) -> Int[Tensor, " n"]:
    """Draw a wrong partner for each row, the likelier the more similar it is.

    The positives, on the diagonal, are masked before the softmax.

    Args:
        similarity: (N, N) logits, own partners on the diagonal.
        generator: of the draws; torch's own by default.

    Raises:
        ValueError: if there is no other partner, or fewer columns than rows.

    >>> hard_negatives(torch.tensor([[9.0, 1.0], [1.0, 9.0]]))
    tensor([1, 0])
    """
    n, m = similarity.shape
    if m < max(n, 2):
        raise ValueError(f"similarity: negatives need a batch of 2 pairs or more, got ({n}, {m})")
    own = torch.eye(n, m, dtype=torch.bool, device=similarity.device)
    chances = similarity.detach().float().masked_fill(own, -math.inf).softmax(1)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


class Codis(nn.Module):
    """The pretrained model: towers, teacher, codebook, queues, fusion, and two heads.

    :meth:`losses` are the parts of paper eq. 9 (eq-codis-final). After each step of the optimiser
    call :meth:`update`, which moves the teacher and fills the queues.

    Args:
        config: sizes and switches.
        image: encoder of pictures; a small vision transformer by default.
        text: encoder of texts, whose first state is [CLS]; a small transformer by default.

    Raises:
        ValueError: for encoders whose width is not the config's.

    >>> model = Codis(Config(20, queue=8))
    >>> ids = torch.tensor([[2, 4, 5], [2, 6, 0]])
    >>> batch = {"pixel_values": torch.rand(2, 3, 64, 64), "input_ids": ids}
    >>> batch["attention_mask"] = (ids > 0).long()
    >>> sorted(model.losses(batch))
    ['code', 'cross', 'intra', 'itm', 'loss', 'mlm']
    >>> model.update()
    """

    steps: Tensor

    def __init__(
        self, config: Config, *, image: Encoder | None = None, text: Encoder | None = None
    ) -> None:
        super().__init__()
        self.config = config
        image, text = image or ImageTransformer(config), text or TextTransformer(config)
        for name, encoder in (("image", image), ("text", text)):
            if encoder.config.hidden_size != config.width:
                raise ValueError(
                    f"{name}: expected an encoder of width {config.width}, got "
                    f"{encoder.config.hidden_size}"
                )
        self.towers = Towers(image, text, config.dim)
        self.teacher = MomentumTeacher(self.towers, config.momentum)
        self.codebook = Codebook(
            config.prototypes,
            config.dim,
            temperature=config.temperature,
            pairing=config.pairing,
            features=config.features,
            seed=config.seed,
        )
        self.image_queue = FeatureQueue(config.queue, config.dim, seed=2 * config.seed)
        self.text_queue = FeatureQueue(config.queue, config.dim, seed=2 * config.seed + 1)
        self.fusion = FusionEncoder(config)
        self.itm_head = nn.Linear(config.width, 2)
        self.mlm_head = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.vocabulary),
        )
        self.register_buffer("steps", torch.tensor(0))
        self._fresh: tuple[Tensor, Tensor] | None = None

    def spread(self, batch: Mapping[str, Tensor]) -> None:
        """Start the heads of student and teacher from a batch, see :meth:`Towers.spread`."""
        self.towers.spread(batch)
        self.teacher.module.load_state_dict(self.towers.state_dict())

    def losses(
        self,
        batch: Mapping[str, Tensor],
        *,
        without: Collection[str] = (),
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the parts of the loss and, as ``"loss"``, their weighted sum (eq-codis-final).

        Args:
            batch: ``pixel_values`` (b, 3, h, w), ``input_ids`` and ``attention_mask`` (b, t); row i
                of each belongs together, and no two pairs are alike.
            without: parts that are left out, such as ``"mlm"`` in fine-tuning.
            generator: of masks and negatives; torch's own by default.

        A part of weight 0 is not computed.

        Raises:
            ValueError: for an unknown part to leave out, or if none is left; for a batch of
                one pair, whose negatives ITM needs.
        """
        for name in without:
            require_choice(name, WEIGHTS, "without")
        nothing: dict[str, Any] = dict.fromkeys(without, 0.0)
        config = dataclasses.replace(self.config, **nothing)
        found: dict[str, Tensor] = {}
        ids, mask = batch["input_ids"], batch["attention_mask"]
        image, z_image = self.towers.see(batch["pixel_values"])
        text, z_text = self.towers.read(ids, mask)
        teacher = self.teacher(batch)
        self._fresh = teacher
        if config.cross or config.intra:
            aligned = alignment_loss(
                z_image,
                z_text,
                teacher[0],
                teacher[1],
                self.image_queue.features.clone(),
                self.text_queue.features.clone(),
                temperature=self.codebook.temperature(),
                alpha=distillation_weight(int(self.steps), config.ramp, final=config.alpha),
                intra=config.intra > 0,
                cross=config.cross > 0,
            )
            found["cross"] = aligned.image_to_text + aligned.text_to_image
            found["intra"] = aligned.image_to_image + aligned.text_to_text
        if config.code:
            found["code"] = self.codebook.loss(z_image, z_text, *teacher).total
        if config.itm:
            similarity = z_image @ z_text.T / self.codebook.temperature()
            found["itm"] = self._matching(image, text, mask, similarity, generator)
        if config.mlm:
            masked = mask_tokens(ids, config.vocabulary, generator=generator)
            hidden, _ = self.towers.read(masked.input_ids, mask)
            chosen = masked.labels != -100
            words = self.mlm_head(self.fusion(hidden, mask, image)[chosen])
            # eq-codis-mlm; a batch in which no word was chosen has nothing to learn
            found["mlm"] = functional.cross_entropy(
                words, masked.labels[chosen], reduction="sum"
            ) / chosen.sum().clamp_min(1)
        found = {name: part for name, part in found.items() if getattr(config, name)}
        total = torch.stack([getattr(config, name) * part for name, part in found.items()]).sum()
        return {"loss": total, **found}

    def _matching(
        self,
        image: Tensor,
        text: Tensor,
        mask: Tensor,
        similarity: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Tell pairs from hard negatives, one each way (eq-codis-itm)."""
        texts = hard_negatives(similarity, generator=generator)
        images = hard_negatives(similarity.T, generator=generator)
        own = torch.arange(len(image), device=image.device)
        pairs = torch.cat([own, texts, own]), torch.cat([own, own, images])
        fused = self.fusion(text, mask, image, pairs, first=True)
        truth = torch.zeros(len(fused), dtype=torch.long, device=fused.device)
        truth[: len(image)] = 1
        return functional.cross_entropy(self.itm_head(fused[:, 0]), truth)

    def update(self) -> None:
        """Let the last batch's teacher features into the queues, then move the teacher.

        Raises:
            RuntimeError: if :meth:`losses` was not called before.
            ValueError: for a batch that does not divide the queue; nothing has moved then.
        """
        if self._fresh is None:
            raise RuntimeError("update: call losses first; its teacher features enter the queues")
        for queue, z in zip((self.image_queue, self.text_queue), self._fresh, strict=True):
            queue.enqueue(z)
        self.teacher.update(self.towers)
        self._fresh = None
        self.steps += 1

    @torch.no_grad()
    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors of length one of pictures and texts, in the joint space."""
        return self.towers(batch)

    def match(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logit of each pair being a match, from the fused [CLS]."""
        image, _ = self.towers.see(pixel_values)
        text, _ = self.towers.read(input_ids, attention_mask)
        scores = self.itm_head(self.fusion(text, attention_mask, image, first=True)[:, 0])
        return scores[:, 1] - scores[:, 0]


def grad_cam(
    model: Codis, batch: Mapping[str, Tensor], *, layer: int = -2
) -> Float[Tensor, "b t p"]:
    """Where a picture says that it matches, word by word: cross-attention times its gradient.

    Attention of one fusion layer times the positive part of the gradient of the match, mean over
    heads, as ALBEF draws it. In the last layer no word reaches the [CLS] that is judged any more,
    and the maps of words would be zeros.

    Args:
        model: pretrained, with two fusion layers or more.
        batch: ``pixel_values``, ``input_ids`` and ``attention_mask``, as of :meth:`Codis.losses`.
        layer: of the fusion encoder, from 0, or from -2 backwards.

    Returns:
        A map over patches, without [CLS], for each token; zeros for padding.

    Raises:
        ValueError: for a layer that is not there, or the last.
    """
    layers = model.fusion.layers
    if not -len(layers) <= layer < len(layers) - 1 or layer == -1:
        raise ValueError(
            f"layer: expected one before the last of {len(layers)} fusion layers, got {layer}"
        )
    attention = layers[layer].cross
    assert isinstance(attention, CrossAttention)
    attention.keep = True
    try:
        with torch.enable_grad():
            score = model.match(batch["pixel_values"], batch["input_ids"], batch["attention_mask"])
            (gradient,) = torch.autograd.grad(score.sum(), attention.weights)
        return (attention.weights * gradient.relu()).mean(1)[:, :, 1:].detach()
    finally:
        attention.keep, attention.weights = False, torch.empty(0)


@torch.no_grad()
def rerank(
    model: Codis,
    image: Float[Tensor, "n p d"],
    text: Float[Tensor, "m t d"],
    mask: Int[Tensor, "m t"] | Bool[Tensor, "m t"],
    similarity: Float[Tensor, "n m"],
    *,
    k: int,
    at_a_time: int = 1024,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Order the k nearest of each row, and of each column, by the matching head, before all others.

    Args:
        model: pretrained.
        image: states of N pictures.
        text: states of M texts.
        mask: their tokens.
        similarity: of the towers, (N, M).
        k: how many candidates of a query are fused with it.
        at_a_time: pairs that are fused at once.

    Returns:
        Scores for pictures as queries (by row), and for texts as queries (by column).

    Raises:
        ValueError: for a k outside 1 to the smaller of N and M.
    """
    n, m = similarity.shape
    if not 1 <= k <= min(n, m):
        raise ValueError(f"k: expected 1 to {min(n, m)} candidates, got {k}")
    near = torch.zeros(2, n, m, dtype=torch.bool, device=similarity.device)
    near[0].scatter_(1, similarity.topk(k, 1).indices, True)
    near[1].scatter_(0, similarity.topk(k, 0).indices, True)
    pairs = near.any(0).nonzero()
    logits = []
    for part in pairs.split(at_a_time):
        (i, images), (j, texts) = (each.unique(return_inverse=True) for each in part.unbind(1))
        fused = model.fusion(text[j], mask[j], image[i], (texts, images), first=True)
        logits.append(model.itm_head(fused[:, 0]))
    matched = torch.zeros_like(similarity)
    matched[tuple(pairs.T)] = torch.cat(logits).softmax(1)[:, 1].to(similarity.dtype)
    rows, columns = similarity.where(~near, 2 + matched)  # above every cosine
    return rows, columns
