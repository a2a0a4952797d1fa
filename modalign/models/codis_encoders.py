"""The encoders of CODIS: a vision transformer, a text transformer, and one that fuses the two.

Sizes go from :func:`tiny`, which trains in about a minute on one core, to :func:`base`, the
paper's, through `transformers`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_below
from modalign.models.encoders import Encoder, EncoderConfig, EncoderOutput, ImageEncoder

CLS, MASK = "[CLS]", "[MASK]"
SPECIAL_TOKENS = (CLS, MASK)
"""For `build_tokenizer`; with them ``[PAD]``, ``[UNK]``, ``[CLS]``, ``[MASK]`` are 0 to 3."""
PAD_ID, CLS_ID, MASK_ID, FIRST_WORD = 0, 2, 3, 4


def with_cls(texts: Sequence[str]) -> list[str]:
    """Texts with [CLS] before them, for a tokenizer that knows it."""
    return [f"{CLS} {text}" for text in texts]


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
    200 steps are a small part of its training and would be more than half of ours. If the queue is
    old beside the teacher, students learn to recognise its age, and not the pairs.
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

    A convolution first mixes each word with its neighbours, and [CLS] starts from the words' mean
    plus their maximum: attention alone takes several times the steps to distinguish a red star and
    a blue circle from a blue star and a red circle.

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
        require_below(input_ids, self.tokens.num_embeddings, "input_ids", "tokens")
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
    """A ViT and the first layers of a BERT, for ``Codis`` of the :func:`base` size.

    Args:
        config: sizes; ``base()`` gives those of the paper.
        image: a folder or name of pretrained weights on this machine, such as
            ``google/vit-base-patch16-224-in21k``; random ones by default.
        text: the same, such as ``bert-base-uncased``, whose first ``text_layers`` are taken.

    Raises:
        ImportError: if `transformers` is not installed.
        OSError: if the weights are not on this machine; nothing is downloaded.

    >>> image, text = transformers_towers(Config(30, patch=16, max_length=8))
    >>> image.config.hidden_size, text.config.hidden_size
    (64, 64)
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


def layer_options(config: Config) -> dict[str, Any]:
    """Of every transformer layer of CODIS, whether it encodes or decodes."""
    return {
        "d_model": config.width,
        "nhead": config.heads,
        "dim_feedforward": 4 * config.width,
        "dropout": 0.0,
        "activation": "gelu",
        "batch_first": True,
        "norm_first": True,
    }


def _transformer(config: Config, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(**layer_options(config))
    norm = nn.LayerNorm(config.width)
    return nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)


class CrossAttention(nn.Module):
    """A text attends to a picture; if ``keep``, ``weights`` (b, heads, t, p) are kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.keep, self.weights = False, torch.empty(0)

    def forward(self, text: Tensor, image: Tensor, images: Tensor | None = None) -> Tensor:
        """Each token's view, (b, t, width), of picture ``images`` (b,), or of its own."""
        q, k, v = (
            project(each).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project, each in ((self.query, text), (self.key, image), (self.value, image))
        )
        if images is not None:
            k, v = k[images], v[images]
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

    def read(self, text: Tensor, padding: Tensor | None, *, first: bool = False) -> Tensor:
        """The text after it has attended to itself; if ``first``, the state of [CLS] alone."""
        x, end = self.norms[0](text), 1 if first else None
        own, _ = self.own(x[:, :end], x, x, key_padding_mask=padding, need_weights=False)
        return text[:, :end] + own

    def look(self, text: Tensor, image: Tensor, images: Tensor | None = None) -> Tensor:
        """The text after it has attended to its picture too."""
        text = text + self.cross(self.norms[1](text), image, images)
        return text + self.feed(self.norms[2](text))


class FusionEncoder(nn.Module):
    """Fuse the states of a text with those of a picture by cross-attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            FusionLayer(config.width, config.heads) for _ in range(config.fusion_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        text: Float[Tensor, "n t d"],
        mask: Tensor | None,
        image: Float[Tensor, "m p d"],
        pairs: tuple[Tensor, Tensor] | None = None,
        *,
        first: bool = False,
    ) -> Float[Tensor, "b s d"]:
        """Fuse pairs of a text and a picture.

        Projections of one of the two alone are computed once for each text and picture, however
        many pairs they are in, and if only [CLS] is read the last layer computes nothing else.

        Args:
            text: states.
            mask: their tokens; all by default.
            image: states.
            pairs: (b,) places of the texts, and of the pictures; row i with row i by default.
            first: whether only the state of [CLS] is wanted.

        Returns:
            Fused states, [CLS] first; s is t, or 1 if ``first``.
        """
        padding = None if mask is None else ~mask.bool()
        texts, images = (None, None) if pairs is None else pairs
        for depth, layer in enumerate(self.layers):
            assert isinstance(layer, FusionLayer)
            text = layer.read(text, padding, first=first and depth == len(self.layers) - 1)
            if depth == 0 and texts is not None:
                text, padding = text[texts], None if padding is None else padding[texts]
            text = layer.look(text, image, images)
        return self.norm(text)
