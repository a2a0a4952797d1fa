"""The parts of STAGE: convolutional encoders, attention guided by an answer, and spans.

Names of parameters, shapes and equations are those of the public code (jayleicn/TVQAplus).
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked

LOWEST = -1e10  # the score of masked places, as in the public code
LONGEST = 500  # rows of a table of positions, as there


def lowest(dtype: torch.dtype) -> float:
    """The score of masked places, in a precision that may not hold -1e10."""
    return max(LOWEST, torch.finfo(dtype).min)


def unit(x: Tensor) -> Tensor:
    """Vectors of length one; zeros stay zeros, in half precision too."""
    return functional.normalize(x, dim=-1, eps=max(1e-12, torch.finfo(x.dtype).tiny))


def position_table(rows: int, width: int) -> Float[Tensor, "rows width"]:
    """Sinusoidal positions: sin(t / 10000^(j / width)) at even places j, and the cosine beside it.

    >>> position_table(2, 4)[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    times = torch.arange(rows)[:, None]
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.stack([(times * rates).sin(), (times * rates).cos()], 2).flatten(1)


class Positions(nn.Module):
    """Adds a table of positions, ``pe``, to sequences (..., L, D)."""

    pe: Tensor

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.register_buffer("pe", position_table(rows, width))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-2]
        if length > len(self.pe):
            raise ValueError(
                f"input: expected at most {len(self.pe)} words or regions, which the table of "
                f"positions has, got {length}"
            )
        return x + self.pe[:length]


class SeparableConvolution(nn.Module):
    """Each channel along the sequence, then all channels at each place, then ReLU: (N, L, D)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv1d(width, width, kernel, groups=width, padding=kernel // 2)
        self.pointwise_conv = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.pointwise_conv(self.depthwise_conv(x.mT))).mT


class EncoderBlock(nn.Module):
    """Positions; layers of norm, dropout (every other), convolution and residual; a norm."""

    def __init__(
        self, width: int, kernel: int, convolutions: int, dropout: float, rows: int
    ) -> None:
        super().__init__()
        self.position_encoding = Positions(width, rows)
        self.layer_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(convolutions))
        self.final_layer_norm = nn.LayerNorm(width)
        self.conv = nn.ModuleList(SeparableConvolution(width, kernel) for _ in range(convolutions))
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.position_encoding(x)
        for i, (norm, convolution) in enumerate(zip(self.layer_norm, self.conv, strict=True)):
            inner = norm(x)
            if mask is not None:
                inner = inner * mask[..., None]
            if i % 2 == 0:
                inner = functional.dropout(inner, self.dropout, self.training)
            x = convolution(inner) + x
        return self.final_layer_norm(x)


class ConvolutionalEncoder(nn.Module):
    """Blocks over sequences (N, L, D) with a mask (N, L).

    Args:
        width: D, of states.
        kernel: places that a convolution sees, odd.
        blocks: one after another.
        convolutions: of a block.
        dropout: within blocks.
        zero_padding: whether padded places are zeros to convolutions, as places beyond the end
            are. The public code lets them leak into their neighbours.
        rows: of the table of positions.
    """

    def __init__(
        self,
        width: int,
        kernel: int,
        *,
        blocks: int = 1,
        convolutions: int = 2,
        dropout: float = 0.1,
        zero_padding: bool = False,
        rows: int = LONGEST,
    ) -> None:
        super().__init__()
        self.zero_padding = zero_padding
        self.stacked_encoderBlocks = nn.ModuleList(
            EncoderBlock(width, kernel, convolutions, dropout, rows) for _ in range(blocks)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.stacked_encoderBlocks:
            x = block(x, mask if self.zero_padding else None)
        return x


class Mapper(nn.Module):
    """Layer norm, dropout, linear, and ReLU if asked for."""

    def __init__(self, inner: int, outer: int, dropout: float, *, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.LayerNorm(inner), nn.Dropout(dropout), nn.Linear(inner, outer))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return functional.relu(x) if self.relu else x


@checked
def guided_attention(
    qa: Float[Tensor, "b a 1 l d"],
    qa_mask: Bool[Tensor, "b a 1 l"],
    context: Float[Tensor, "b 1 f r d"],
    context_mask: Bool[Tensor, "b 1 f r"],
    *,
    scale: float = 10.0,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "b a f l d"], Float[Tensor, "b a f l r"], Float[Tensor, "b a f l r"]]:
    """Attention guided by question and answer: what each word finds in each frame.

    Cosines S of words and regions (or the words of subtitles); weights softmax(``scale`` S) over
    the real ones of a frame, and zeros for a padded word or a frame without any.
    O(A F L R D) time a question.

    Returns:
        Sums of the context's vectors by the weights; the cosines, -1e10 where masked; the weights.

    >>> words, regions = torch.eye(2).view(1, 1, 1, 2, 2), torch.eye(2).view(1, 1, 1, 2, 2)
    >>> real = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    >>> read, cosines, weights = guided_attention(words, real, regions, real)
    >>> weights[0, 0, 0, 0].tolist()[0] > 0.9999
    True
    """
    drop = dropout > 0
    words = functional.dropout(unit(qa), dropout, drop)
    regions = functional.dropout(unit(context), dropout, drop)
    real = qa_mask[..., None] & context_mask[..., None, :]
    cosines = words @ regions.mT
    least = lowest(cosines.dtype)
    cosines = cosines.masked_fill(~real, least)
    scores = (scale * cosines).masked_fill(~real, least)
    weights = scores.softmax(-1) * real
    return weights @ context, cosines, weights


@checked
def best_spans(
    span_logits: Float[Tensor, "*b f 2"],
) -> tuple[Int[Tensor, "*b 2"], Float[Tensor, "*b"]]:
    """The likeliest span of frames: start <= end with the largest product of their chances. O(F).

    Of spans that are equally likely it is the one that starts last, and of these the longest.

    Returns:
        First and last frame, and the product.

    >>> logits = torch.tensor([[0.0, 3.0], [4.0, 0.0], [0.0, 2.0]])  # the likeliest end comes first
    >>> best_spans(logits)[0]
    tensor([1, 2])
    """
    start, end = span_logits.softmax(-2).unbind(-1)
    begun, since = start.cummax(-1)  # the best start up to each frame
    chance, back = (begun * end).flip(-1).max(-1)  # of equals the last, as in the public code
    last = end.shape[-1] - 1 - back
    first = since.gather(-1, last[..., None])[..., 0]
    return torch.stack([first, last], -1), chance


@checked
def hull_iou(a: Int[Tensor, "*b 2"], b: Int[Tensor, "*b 2"]) -> Float[Tensor, "*b"]:
    """Overlap of spans of frames over the stretch from the first of both to the last of both.

    >>> hull_iou(torch.tensor([2, 5]), torch.tensor([4, 5])).item()
    0.5
    """
    overlap = torch.minimum(a[..., 1], b[..., 1]) + 1 - torch.maximum(a[..., 0], b[..., 0])
    hull = torch.maximum(a[..., 1], b[..., 1]) + 1 - torch.minimum(a[..., 0], b[..., 0])
    return overlap.clamp_min(0) / hull
