"""CODIS (Duan et al. 2022): two towers, a codebook between them, and an encoder that fuses them.

Labels such as ``eq-codis-final`` are those of the chapter "CODIS". Sizes go from :func:`tiny`,
which trains in about a minute on one core, to :func:`base`, the paper's, through `transformers`.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_choice
from modalign.codebook import Codebook, FeatureQueue, MomentumTeacher, alignment_loss
from modalign.models.encoders import Encoder, EncoderConfig, EncoderOutput, ImageEncoder, states
from modalign.momentum import distillation_weight

CLS, MASK = "[CLS]", "[MASK]"
SPECIAL_TOKENS = (CLS, MASK)
"""For `build_tokenizer`; with them ``[PAD]``, ``[UNK]``, ``[CLS]``, ``[MASK]`` are 0 to 3."""
PAD_ID, CLS_ID, MASK_ID, FIRST_WORD = 0, 2, 3, 4


WEIGHTS = ("mlm", "itm", "cross", "intra", "code")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and switches of CODIS.

    Attributes:
        vocabulary: number of tokens, the special ones included.
        image_size: side of the pictures in pixels; others interpolate the positions.
        patch: side of a patch, an even number.
        width: of the states, a multiple of ``heads``.
        heads: of each attention.
        image_layers: of the image tower.
        text_layers: of the text tower.
        fusion_layers: of the encoder that fuses them.
        max_length: most tokens of a text, with [CLS].
        dim: of the joint space (paper: 256).
        prototypes: of the codebook (paper: 4,000).
        queue: teacher features that are kept, a multiple of the batch (paper: 65,536).
        momentum: of the teacher (paper: 0.995).
        temperature: its start (0.07, as in ALBEF).
        alpha: weight of the soft targets, reached after ``ramp`` steps (0.4, as in ALBEF).
        ramp: steps over which it rises from 0; an epoch in ALBEF.
        pairing: ``"crossed"`` or ``"same"``: whose plan is whose target.
        features: ``"teacher"`` or ``"student"``: whose features the plans come from.
        mlm: weight of masked language modelling.
        itm: weight of image-text matching.
        cross: weight of cross-modal alignment.
        intra: weight of alignment within each modality.
        code: weight of the codebook loss.
        seed: of codebook and queues.
    """

    vocabulary: int
    image_size: int = 64
    patch: int = 8
    width: int = 64
    heads: int = 4
    image_layers: int = 1
    text_layers: int = 1
    fusion_layers: int = 2
    max_length: int = 32
    dim: int = 32
    prototypes: int = 128
    queue: int = 128
    momentum: float = 0.97
    temperature: float = 0.07
    alpha: float = 0.4
    ramp: int = 0
    pairing: str = "crossed"
    features: str = "teacher"
    mlm: float = 1.0
    itm: float = 1.0
    cross: float = 1.0
    intra: float = 1.0
    code: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            least = {"vocabulary": FIRST_WORD + 1, "ramp": 0, "seed": 0}.get(each.name, 1)
            if each.type is int and (not isinstance(value, int) or value < least):
                raise ValueError(f"{each.name}: expected a whole number from {least}, got {value}")
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of {self.heads} heads, got {self.width}")
        if self.patch % 2 or self.image_size % self.patch:
            raise ValueError(
                f"patch, image_size: expected an even patch that divides the side, got "
                f"{self.patch}, {self.image_size}"
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: expected a number from 0 to 1, got {self.alpha}")
        for name in WEIGHTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name}: expected a weight of 0 or more, got {getattr(self, name)}"
                )
        if not any(getattr(self, name) for name in WEIGHTS):
            raise ValueError(f"{', '.join(WEIGHTS)}: expected one weight above 0 at least")


def tiny(vocabulary: int, **changes: Any) -> Config:
    """The size that the book trains, in some hundreds of steps.

    The teacher remembers 1 / (1 - momentum) = 33 steps and the queue two batches of 64: the paper's
    200 steps are a small part of its training and would be a third of ours. A queue that is old
    beside the teacher is told apart by its age, and the pairs are not learned.
    """
    return Config(vocabulary, **changes)


def base(vocabulary: int = 30_522, **changes: Any) -> Config:
    """The paper's sizes: ViT-B/16 at 256 pixels, BERT-base's halves, 4,000 codewords."""
    sizes: dict[str, Any] = {
        "image_size": 256,
        "patch": 16,
        "width": 768,
        "heads": 12,
        "image_layers": 12,
        "text_layers": 6,
        "fusion_layers": 6,
        "max_length": 512,
        "dim": 256,
        "prototypes": 4000,
        "queue": 65_536,
        "momentum": 0.995,
    }
    return Config(vocabulary, **{**sizes, **changes})


class ImageTransformer(nn.Module):
    """A vision transformer on convolutions: patches, [CLS] first, and learned positions.

    The layers of :class:`modalign.models.encoders.ImageEncoder` make the patches ("early
    convolutions", Xiao et al. 2021), and [CLS] starts from their mean plus their maximum: with
    patches that are cut out and a [CLS] that knows nothing, minutes of training teach nothing.
    Pictures of another size than ``image_size`` interpolate the positions, as the paper does to
    fine-tune at 384 pixels.

    >>> ImageTransformer(Config(10))(torch.zeros(2, 3, 64, 64)).last_hidden_state.shape
    torch.Size([2, 65, 64])
    """

    main_input_name = "pixel_values"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.patch = EncoderConfig(config.width), config.patch
        self.grid = config.image_size // config.patch
        self.patches = ImageEncoder(32, config.width, patch=config.patch // 2)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, config.width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + self.grid**2, config.width))
        self.layers = _transformer(config, config.image_layers)

    @checked
    def forward(self, pixel_values: Float[Tensor, "b 3 h w"]) -> EncoderOutput:
        height, width = pixel_values.shape[2:]
        if not len(pixel_values) or height % self.patch or width % self.patch:
            raise ValueError(
                f"pixel_values: expected one picture or more, with sides that are multiples of "
                f"{self.patch}, got {describe(pixel_values)}"
            )
        patches = self.patches.maps(pixel_values).flatten(2).mT
        summary = self.cls + patches.mean(1, keepdim=True) + patches.amax(1, keepdim=True)
        tokens = torch.cat([summary, patches], 1)
        places = self._places(height // self.patch, width // self.patch)
        hidden = self.layers(tokens + places)
        return EncoderOutput(hidden, hidden[:, 0])

    def _places(self, rows: int, columns: int) -> Tensor:
        if rows == columns == self.grid:
            return self.positions
        grid = self.positions[:, 1:].mT.unflatten(2, (self.grid, self.grid))
        grid = functional.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:, :1], grid.flatten(2).mT], 1)


class TextTransformer(nn.Module):
    """A transformer over tokens, whose first is [CLS]; padding is masked.

    A convolution tells each word its neighbours first, and [CLS] starts from the words' mean plus
    their maximum: attention alone takes several times the steps to tell a red star and a blue
    circle from a blue star and a red circle.

    >>> ids = torch.tensor([[2, 4, 5, 0]])
    >>> TextTransformer(Config(10))(ids, (ids > 0).long()).last_hidden_state.shape
    torch.Size([1, 4, 64])
    """

    main_input_name = "input_ids"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = EncoderConfig(config.width)
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, config.max_length, config.width))
        self.neighbours = nn.Conv1d(config.width, config.width, 3, padding=1)
        self.layers = _transformer(config, config.text_layers)

    @checked
    def forward(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"] | None = None,
    ) -> EncoderOutput:
        longest = self.positions.shape[1]
        if not input_ids.numel() or input_ids.shape[1] > longest:
            raise ValueError(
                f"input_ids: expected texts of 1 to {longest} tokens (the position table's), got "
                f"{describe(input_ids)}"
            )
        low, high = (int(each) for each in input_ids.aminmax())
        if low < 0 or high >= self.tokens.num_embeddings:
            raise ValueError(
                f"input_ids: expected tokens 0 to {self.tokens.num_embeddings - 1}, got {low} to "
                f"{high}"
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if not mask[:, 0].all():
            raise ValueError(
                "attention_mask: expected [CLS] first, and padding behind; row "
                f"{int(mask[:, 0].logical_not().nonzero()[0])} begins with padding"
            )
        padding = ~mask.bool()[..., None]
        words = self.tokens(input_ids) + self.positions[:, : input_ids.shape[1]]
        words = words.masked_fill(padding, 0)
        words = words + functional.gelu(self.neighbours(words.mT)).mT.masked_fill(padding, 0)
        summary = words.sum(1) / mask.sum(1, keepdim=True)
        summary = summary + words.masked_fill(padding, -math.inf).amax(1)
        words = torch.cat([(words[:, 0] + summary)[:, None], words[:, 1:]], 1)
        hidden = self.layers(words, src_key_padding_mask=padding[..., 0])
        return EncoderOutput(hidden, hidden[:, 0])


class Interpolated(nn.Module):
    """A ``ViTModel`` of `transformers` that takes pictures of any size, by interpolated positions.

    Args:
        vit: the model.
    """

    main_input_name = "pixel_values"

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    @property
    def config(self) -> Any:
        """That of the model, with ``hidden_size``."""
        return self.vit.config

    def forward(self, pixel_values: Tensor) -> Any:
        """As the model, without its pooler."""
        return self.vit(pixel_values=pixel_values, interpolate_pos_encoding=True)


def transformers_towers(
    config: Config, *, image: str | None = None, text: str | None = None
) -> tuple[Encoder, Encoder]:
    """A ViT and the first layers of a BERT, for :class:`Codis` of the :func:`base` size.

    Args:
        config: sizes; ``base()`` gives those of the paper.
        image: a folder or name of pretrained weights on this machine, such as
            ``google/vit-base-patch16-224-in21k``; random ones by default.
        text: the same, such as ``bert-base-uncased``, whose first ``text_layers`` are taken.

    Raises:
        ImportError: where `transformers` is not installed.
        OSError: where the weights are not on this machine; nothing is downloaded.

    >>> small = Config(30, patch=16, max_length=8)
    >>> Codis(small, **dict(zip(("image", "text"), transformers_towers(small)))).config.patch
    16
    """
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    both: dict[str, Any] = {
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
    }
    kept: dict[str, Any] = {
        "add_pooling_layer": False,
        "local_files_only": True,
        "use_safetensors": True,
    }
    if image is None:
        both["num_hidden_layers"] = config.image_layers
        sizes = ViTConfig(image_size=config.image_size, patch_size=config.patch, **both)
        vit = ViTModel(sizes, add_pooling_layer=False)
    else:
        vit = ViTModel.from_pretrained(image, **kept)
    if text is None:
        both |= {"vocab_size": config.vocabulary, "num_hidden_layers": config.text_layers}
        both["max_position_embeddings"] = config.max_length
        bert = BertModel(BertConfig(**both), add_pooling_layer=False)
    else:
        bert = BertModel.from_pretrained(text, num_hidden_layers=config.text_layers, **kept)
    return Interpolated(vit), bert


def _transformer(config: Config, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        config.width,
        config.heads,
        4 * config.width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(config.width)
    return nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)


class CrossAttention(nn.Module):
    """A text attends to a picture; where ``keep``, ``weights`` (b, heads, t, p) are kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.keep, self.weights = False, torch.empty(0)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """What each token sees, (b, t, width)."""
        q, k, v = (
            project(each).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project, each in ((self.query, text), (self.key, image), (self.value, image))
        )
        if self.keep:  # torch's own attention gives weights that its output does not depend on
            self.weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
            seen = self.weights @ v
        else:
            seen = functional.scaled_dot_product_attention(q, k, v)
        return self.out(seen.transpose(1, 2).flatten(2))


class FusionLayer(nn.Module):
    """Text attends to itself, then to the picture."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross = CrossAttention(width, heads)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, text: Tensor, padding: Tensor | None, image: Tensor) -> Tensor:
        x = self.norms[0](text)
        text = text + self.own(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        text = text + self.cross(self.norms[1](text), image)
        return text + self.feed(self.norms[2](text))


class FusionEncoder(nn.Module):
    """Fuse the states of a text with those of a picture by cross-attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            FusionLayer(config.width, config.heads) for _ in range(config.fusion_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, text: Tensor, mask: Tensor | None, image: Tensor) -> Tensor:
        """Return fused states (b, t, width), [CLS] first."""
        padding = None if mask is None else ~mask.bool()
        for layer in self.layers:
            text = layer(text, padding, image)
        return self.norm(text)


class Towers(nn.Module):
    """What has a teacher: an encoder a modality, and its projection to the joint space."""

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
        """Scale and shift the heads, so that what they make of this batch has mean 0, variance 1.

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
        ValueError: where there is no other partner, or fewer columns than rows.

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
            ValueError: for a part to leave out that is none, or where none is left; for a batch of
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
            words = self.mlm_head(self.fusion(hidden, mask, image))
            chosen = masked.labels != -100
            # eq-codis-mlm; a batch where no word was chosen has nothing to learn
            found["mlm"] = functional.cross_entropy(
                words[chosen], masked.labels[chosen], reduction="sum"
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
        fused = self.fusion(
            torch.cat([text, text[texts], text]),
            torch.cat([mask, mask[texts], mask]),
            torch.cat([image, image, image[images]]),
        )
        truth = torch.zeros(len(fused), dtype=torch.long, device=fused.device)
        truth[: len(image)] = 1
        return functional.cross_entropy(self.itm_head(fused[:, 0]), truth)

    def update(self) -> None:
        """Let the last batch's teacher features into the queues, then move the teacher.

        Raises:
            RuntimeError: where :meth:`losses` was not called before.
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
        scores = self.itm_head(self.fusion(text, attention_mask, image)[:, 0])
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
    logits = [
        model.itm_head(model.fusion(text[j], mask[j], image[i])[:, 0])
        for i, j in (part.unbind(1) for part in pairs.split(at_a_time))
    ]
    matched = torch.zeros_like(similarity)
    matched[tuple(pairs.T)] = torch.cat(logits).softmax(1)[:, 1].to(similarity.dtype)
    rows, columns = similarity.where(~near, 2 + matched)  # above every cosine
    return rows, columns


def with_cls(texts: Sequence[str]) -> list[str]:
    """Texts with [CLS] before them, for a tokenizer that knows it."""
    return [f"{CLS} {text}" for text in texts]
