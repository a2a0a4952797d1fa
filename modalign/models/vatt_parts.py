"""The parts of VATT: tokens of video, sound and text, the trunk, and the heads."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_below, require_choice

SUMMARIES = ("token", "mean")


def start(*shape: int) -> nn.Parameter:
    """Small normal numbers, for positions and for the token that sums up."""
    return nn.Parameter(0.02 * torch.randn(shape))


class Tubelets(nn.Module):
    """Cuts a clip into boxes of a few frames and pixels, one token each.

    Positions are learned by time, row and column and added up, so that shorter and smaller clips
    use the first of each.

    Args:
        width: of the tokens.
        frames: most frames of a clip.
        side: most pixels of a side.
        tubelet: frames, rows and columns of a box.

    Raises:
        ValueError: for a clip that is shorter than a box, is not cut evenly or is too large.

    >>> Tubelets(32, frames=8, side=32, tubelet=(4, 8, 8))(torch.rand(2, 8, 3, 32, 32)).shape
    torch.Size([2, 32, 32])
    """

    def __init__(self, width: int, *, frames: int, side: int, tubelet: Sequence[int]) -> None:
        super().__init__()
        self.tubelet, self.most = tuple(tubelet), (frames, side, side)
        t, h, w = self.tubelet
        self.project = nn.Linear(t * h * w * 3, width)
        self.positions = nn.ParameterList(
            start(most // part, width) for most, part in zip(self.most, tubelet, strict=True)
        )

    @checked
    def forward(self, video: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n d"]:
        size = tuple(video.shape[i] for i in (1, 3, 4))
        for name, found, part, most in zip(
            ("frames", "rows", "columns"), size, self.tubelet, self.most, strict=True
        ):
            if not part <= found <= most or found % part:
                raise ValueError(
                    f"video: expected a multiple of {part} {name} up to {most}, got {found} "
                    f"({describe(video)})"
                )
        (t, h, w), (frames, rows, columns) = self.tubelet, size
        cut = video.reshape(-1, frames // t, t, 3, rows // h, h, columns // w, w)
        tokens = self.project(cut.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4))
        when, row, column = (
            each[: found // part]
            for each, found, part in zip(self.positions, size, self.tubelet, strict=True)
        )
        return (tokens + when[:, None, None] + row[:, None] + column).flatten(1, 3)


class WavePatches(nn.Module):
    """Cuts a raw waveform into patches of samples, one token each.

    Args:
        width: of the tokens.
        samples: most samples of a sound.
        patch: samples of a patch.

    Raises:
        ValueError: for a sound that is shorter than a patch, is not cut evenly or is too long.

    >>> WavePatches(32, samples=1024, patch=128)(torch.zeros(2, 512)).shape
    torch.Size([2, 4, 32])
    """

    def __init__(self, width: int, *, samples: int, patch: int) -> None:
        super().__init__()
        self.patch, self.samples = patch, samples
        self.project = nn.Linear(patch, width)
        self.positions = start(samples // patch, width)

    @checked
    def forward(self, audio: Float[Tensor, "b s"]) -> Float[Tensor, "b n d"]:
        found = audio.shape[1]
        if not self.patch <= found <= self.samples or found % self.patch:
            raise ValueError(
                f"audio: expected a multiple of {self.patch} samples up to {self.samples}, got "
                f"{found} ({describe(audio)})"
            )
        tokens = self.project(audio.unflatten(1, (-1, self.patch)))
        return tokens + self.positions[: tokens.shape[1]]


class Words(nn.Module):
    """A vector for each word, and one for its place.

    Args:
        vocabulary: number of words.
        width: of the tokens.
        words: most words of a text.

    Raises:
        ValueError: for a text that is too long, or a word outside the vocabulary.

    >>> Words(10, 32, words=16)(torch.tensor([[4, 2, 0]])).shape
    torch.Size([1, 3, 32])
    """

    def __init__(self, vocabulary: int, width: int, *, words: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.positions = start(words, width)

    @checked
    def forward(self, input_ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        found, most = input_ids.shape[1], len(self.positions)
        if not 1 <= found <= most:
            raise ValueError(f"input_ids: expected texts of 1 to {most} words, got {found}")
        require_below(input_ids, self.table.num_embeddings, "input_ids", "words")
        return self.table(input_ids) + self.positions[:found]


@checked
def drop_tokens(
    tokens: Float[Tensor, "b n d"], share: float, *, generator: torch.Generator | None = None
) -> Float[Tensor, "b m d"]:
    """DropToken: leave out a share of the tokens of each row, drawn for each by itself.

    Args:
        tokens: of video or sound; they carry their positions, so that those left keep theirs.
        share: that is left out, from 0 to below 1; one token stays at least.
        generator: that draws; torch's own by default.

    Raises:
        ValueError: for a share outside [0, 1).

    >>> drop_tokens(torch.zeros(2, 8, 3), 0.5).shape
    torch.Size([2, 4, 3])
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: expected a number from 0 to below 1, got {share}")
    b, n, d = tokens.shape
    kept = max(1, round(n * (1 - share)))
    if kept == n:
        return tokens
    draws = torch.rand(b, n, generator=generator, device=tokens.device)
    rows = draws.argsort(1)[:, :kept]
    return tokens.gather(1, rows[..., None].expand(-1, -1, d))


class Trunk(nn.Module):
    """A transformer, and one vector that sums up its outputs.

    Args:
        width: of the tokens, a multiple of ``heads``.
        layers: number of layers, normalised before attention and before the feed-forward part.
        heads: of each attention.
        summary: ``"token"``: the output of a learned token before the others, or ``"mean"``:
            the mean of all that are not padding.

    >>> Trunk(32, layers=1, heads=4)(torch.zeros(2, 5, 32)).shape
    torch.Size([2, 32])
    """

    def __init__(self, width: int, *, layers: int, heads: int, summary: str = "token") -> None:
        super().__init__()
        require_choice(summary, SUMMARIES, "summary")
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.summary = start(1, width) if summary == "token" else None
        self.layers = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """The summary, (b, d).

        Args:
            tokens: (b, n, d).
            present: (b, n), false for padding; none by default.
        """
        padding = None if present is None else ~present
        if self.summary is None:
            hidden = self.layers(tokens, src_key_padding_mask=padding)
            if padding is None:
                return hidden.mean(1)
            kept = ~padding[..., None]
            return (hidden * kept).sum(1) / kept.sum(1)
        tokens = torch.cat([self.summary.expand(len(tokens), 1, -1), tokens], 1)
        if padding is not None:
            padding = functional.pad(padding, (1, 0), value=False)
        return self.layers(tokens, src_key_padding_mask=padding)[:, 0]


@dataclasses.dataclass(frozen=True)
class Spaces:
    """Unit vectors in the two spaces, and which rows have them.

    Attributes:
        video_va: (b, d_va).
        audio_va: (a, d_va), of the rows that have a sound.
        video_vt: (b, d_vt).
        text_vt: (b, k, d_vt), zeros if a row lacks the candidate.
        has_audio: (b,).
        has_text: (b, k).
    """

    video_va: Tensor
    audio_va: Tensor
    video_vt: Tensor
    text_vt: Tensor
    has_audio: Tensor
    has_text: Tensor


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))


class Heads(nn.Module):
    """Hierarchical projections (VATT section 3.4): video to a fine space, and from there on.

    Video and sound meet in the first space, of ``dim_va`` numbers. A video's vector there is
    projected further, to the second space, of ``dim_vt`` numbers, where it meets text. Each
    linear layer is followed by batch normalisation; that of video has two, with a ReLU between.

    Args:
        width: of the features.
        dim_va: of the space of video and audio (paper: 512).
        dim_vt: of the space of video and text (paper: 256).
    """

    def __init__(self, width: int, *, dim_va: int, dim_vt: int) -> None:
        super().__init__()
        self.video_va = nn.Sequential(_linear(width, dim_va), nn.ReLU(), _linear(dim_va, dim_va))
        self.audio_va = _linear(width, dim_va)
        self.video_vt = _linear(dim_va, dim_vt)
        self.text_vt = _linear(width, dim_vt)

    def video(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of videos (b, d) in both spaces, (b, dim_va) and (b, dim_vt)."""
        fine = self.video_va(features)
        return functional.normalize(fine, dim=-1), functional.normalize(self.video_vt(fine), dim=-1)

    def audio(self, features: Tensor) -> Tensor:
        """Unit vectors of sounds (b, d), (b, dim_va)."""
        return functional.normalize(self.audio_va(features), dim=-1)

    def text(self, features: Tensor) -> Tensor:
        """Unit vectors of texts (b, d), (b, dim_vt)."""
        return functional.normalize(self.text_vt(features), dim=-1)


@checked
def contrast(
    video: Float[Tensor, "b d"],
    other: Float[Tensor, "b k d"],
    present: Bool[Tensor, "b k"] | None = None,
    *,
    temperature: float = 0.07,
) -> Float[Tensor, "b"]:
    r"""The loss of each video, for its own candidates against those of others (eq-vatt-mil).

    With ``s`` the products over the temperature, the positives of row i are its own candidates,
    and its negatives are the candidates of other rows, and its own candidates beside the videos
    of other rows:

    .. math::
        \ell_i = -\log \frac{\sum_k e^{s_{iik}}}
        {\sum_k e^{s_{iik}} + \sum_{j \ne i} \sum_k (e^{s_{ijk}} + e^{s_{jik}})}

    Each positive is counted once below the line, as in the paper; the code of VATT and of MIL-NCE
    counts it twice. One candidate a row makes it NCE, several MIL-NCE. O(b^2 k d).

    Args:
        video: unit vectors.
        other: unit vectors of the k candidates of each row.
        present: false if a row lacks a candidate, which then takes no part. All by default.
        temperature: above 0 (paper: 0.07).

    Returns:
        A loss a row, 0 or more.

    Raises:
        ValueError: for no row, no candidate, a row without any candidate, or a temperature that is
            not above 0.

    >>> z = torch.eye(4)
    >>> contrast(z, z[:, None]).max() < 1e-5
    tensor(True)
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    if not other.shape[0] or not other.shape[1]:
        raise ValueError(f"other: expected a row and a candidate at least, got {describe(other)}")
    products = torch.einsum("id,jkd->ijk", video, other) / temperature  # [video, row, candidate]
    if present is not None:
        if not present.any(1).all():
            row = int((~present.any(1)).nonzero()[0])
            raise ValueError(f"present: expected a candidate in every row, got none in row {row}")
        products = products.masked_fill(~present, -torch.inf)
    own = torch.eye(len(video), dtype=torch.bool, device=video.device)
    positive = products[own].logsumexp(1)
    by_video = products.logsumexp(2)
    by_other = by_video.T.masked_fill(own, -torch.inf)
    return torch.cat([by_video, by_other], 1).logsumexp(1) - positive
