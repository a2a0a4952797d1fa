"""VATT (Akbari et al. 2021): a video, its sound and its text, read by one transformer or by three.

Labels such as ``eq-vatt-mil`` are those of the chapter "VATT". Sizes go from :func:`tiny`, which
trains in about a minute on one core, to :func:`medium`, the paper's.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from modalign._checks import checked, describe, require_choice
from modalign.models.vatt_parts import (
    SUMMARIES,
    Heads,
    Spaces,
    Trunk,
    Tubelets,
    WavePatches,
    Words,
    contrast,
    drop_tokens,
)

MODALITIES = ("video", "audio", "text")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and switches of VATT.

    Attributes:
        vocabulary: number of words, padding and unknown ones included (paper: 65,536).
        agnostic: one trunk for all modalities; False for one each.
        width: of the tokens, a multiple of ``heads``.
        layers: of a trunk.
        heads: of each attention.
        frames: most frames of a clip (paper: 32).
        side: most pixels of a side (paper: 224).
        tubelet: frames, rows and columns of a token (paper: 4, 16, 16).
        samples: most samples of a sound (paper: 61,440, which is 32 frames at 25 a second).
        patch: samples of a token (paper: 128).
        words: most words of a text (paper: 16).
        drop: share of the tokens of video and sound that training leaves out (paper: 0.5).
        summary: ``"mean"`` of the trunk's outputs, or a learned ``"token"`` (paper).
        dim_va: of the space of video and audio (paper: 512).
        dim_vt: of the space of video and text (paper: 256).
        temperature: of both losses (paper: 0.07).

    Raises:
        ValueError: for a size that is not a whole number from 1, a width that the heads do not
            divide, sizes that tokens do not divide, or a drop or temperature out of range.
    """

    vocabulary: int
    agnostic: bool = True
    width: int = 64
    layers: int = 2
    heads: int = 4
    frames: int = 8
    side: int = 32
    tubelet: tuple[int, int, int] = (8, 4, 4)
    samples: int = 4096
    patch: int = 128
    words: int = 16
    drop: float = 0.5
    summary: str = "mean"
    dim_va: int = 64
    dim_vt: int = 32
    temperature: float = 0.07

    def __post_init__(self) -> None:
        whole = [(each.name, getattr(self, each.name)) for each in dataclasses.fields(self)]
        sizes = [(name, value) for name, value in whole if _kind(self, name) is int]
        if not isinstance(self.tubelet, tuple | list) or len(self.tubelet) != 3:
            raise ValueError(
                f"tubelet: expected frames, rows and columns, got {describe(self.tubelet)}"
            )
        for name, value in [*sizes, *(("tubelet", each) for each in self.tubelet)]:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number from 1, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of {self.heads} heads, got {self.width}")
        for name, part in zip(("frames", "side", "side"), self.tubelet, strict=True):
            if getattr(self, name) % part:
                raise ValueError(
                    f"{name}: expected a multiple of the tubelet's {part}, got "
                    f"{getattr(self, name)}"
                )
        if self.samples % self.patch:
            raise ValueError(
                f"samples: expected a multiple of the patch's {self.patch}, got {self.samples}"
            )
        require_choice(self.summary, SUMMARIES, "summary")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop: expected a share from 0 to below 1, got {self.drop}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")


def _kind(config: Config, name: str) -> Any:
    return next(each.type for each in dataclasses.fields(config) if each.name == name)


def tiny(vocabulary: int, **changes: Any) -> Config:
    """The size that the book trains, in some hundreds of steps.

    Its tubelets span the clip, so that one token sees which way something moves, and the mean of
    the tokens takes the place of the learned one, which at this size learns less in as many steps.
    """
    return Config(vocabulary, **changes)


def small(vocabulary: int = 65_536, **changes: Any) -> Config:
    """6 layers of width 512, on the paper's clips, sounds and texts."""
    return _full(vocabulary, 512, 6, 8, changes)


def base(vocabulary: int = 65_536, **changes: Any) -> Config:
    """12 layers of width 768, on the paper's clips, sounds and texts."""
    return _full(vocabulary, 768, 12, 12, changes)


def medium(vocabulary: int = 65_536, **changes: Any) -> Config:
    """The paper's modality-agnostic trunk, 12 layers of width 1,024: 155 million parameters.

    They are those of trunk, tubelets, patches and positions; the table of words, 67 million, and
    the heads come on top.
    """
    return _full(vocabulary, 1024, 12, 16, changes)


def _full(vocabulary: int, width: int, layers: int, heads: int, changes: Any) -> Config:
    sizes: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "frames": 32,
        "side": 224,
        "tubelet": (4, 16, 16),
        "summary": "token",
        "samples": 61_440,
        "dim_va": 512,
        "dim_vt": 256,
    }
    return Config(vocabulary, **{**sizes, **changes})


SIZES = {"tiny": tiny, "small": small, "base": base, "medium": medium}


class Vatt(nn.Module):
    """A transformer that reads tubelets, patches of sound and words, and compares them.

    Args:
        config: sizes and switches.

    >>> model = Vatt(tiny(20)).eval()
    >>> model.see(torch.rand(2, 8, 3, 32, 32)).shape, model.hear(torch.zeros(2, 4096)).shape
    (torch.Size([2, 64]), torch.Size([2, 64]))
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.tubelets = Tubelets(
            width, frames=config.frames, side=config.side, tubelet=config.tubelet
        )
        self.patches = WavePatches(width, samples=config.samples, patch=config.patch)
        self.words = Words(config.vocabulary, width, words=config.words)
        names = ("all",) if config.agnostic else MODALITIES
        self.trunks = nn.ModuleDict(
            {
                name: Trunk(width, layers=config.layers, heads=config.heads, summary=config.summary)
                for name in names
            }
        )
        self.heads = Heads(width, dim_va=config.dim_va, dim_vt=config.dim_vt)

    def trunk(self, modality: str) -> nn.Module:
        """The trunk that reads a modality."""
        return self.trunks["all" if self.config.agnostic else modality]

    def _dropped(self, tokens: Tensor) -> Tensor:
        return drop_tokens(tokens, self.config.drop) if self.training else tokens

    def see(self, video: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of clips, numbers from -1 to 1; in training, of half of their tubelets.

        Raises:
            ValueError: for clips that tubelets do not cut evenly, are shorter or too large.
        """
        return self.trunk("video")(self._dropped(self.tubelets(video)))

    def hear(self, audio: Float[Tensor, "b s"]) -> Float[Tensor, "b d"]:
        """Features of sounds, of size 1 or so; in training, of half of their patches.

        Raises:
            ValueError: for sounds that patches do not cut evenly, are shorter or too long.
        """
        return self.trunk("audio")(self._dropped(self.patches(audio)))

    def read(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b d"]:
        """Features of texts.

        Raises:
            ValueError: for texts without a word or with too many, or unknown tokens.
        """
        present = attention_mask.bool()
        if not present.any(1).all():
            row = int((~present.any(1)).nonzero()[0])
            raise ValueError(f"attention_mask: expected a word in every text, row {row} has none")
        return self.trunk("text")(self.words(input_ids), present)

    def embed(self, batch: Mapping[str, Tensor], *, seen: Tensor | None = None) -> Spaces:
        """Where the triplets of a batch lie in both spaces.

        Args:
            batch: ``video`` (b, t, 3, h, w); ``audio`` (b, s), with ``has_audio`` (b,) if some
                rows have no sound; ``input_ids`` and ``attention_mask`` (b, k, t), the k texts of
                each row: a text that is all padding is not there.
            seen: features of the videos, if they have been computed.

        Raises:
            ValueError: for a batch whose columns do not fit each other.
        """
        video, audio, ids, mask = _columns(batch)
        has_audio = batch.get("has_audio", audio.new_ones(len(audio), dtype=torch.bool))
        has_text = mask.bool().any(2)
        z_va, z_vt = self.heads.video(self.see(video) if seen is None else seen)
        heard = z_va.new_zeros(0, z_va.shape[1])
        if has_audio.any():
            heard = self.heads.audio(self.hear(audio[has_audio]))
        text_vt = z_vt.new_zeros(*has_text.shape, z_vt.shape[1])
        if has_text.any():
            read = self.heads.text(self.read(ids[has_text], mask[has_text]))
            text_vt = text_vt.index_put((has_text,), read)
        return Spaces(z_va, heard, z_vt, text_vt, has_audio, has_text)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The two losses of a batch, ``va`` and ``vt``, means over rows, and ``loss``, their sum.

        A row without sound takes no part in the first and one without text none in the second. A
        batch without any has a loss of 0 with a gradient of 0: the cosine of the two gradients is
        undefined then.

        Raises:
            ValueError: as :meth:`embed`.
        """
        spaces = self.embed(batch)
        va, vt = per_row(spaces, self.config.temperature)
        return total(spaces, va, vt)


def per_row(spaces: Spaces, temperature: float = 0.07) -> tuple[Tensor, Tensor]:
    """The losses of the rows that have a sound (a,), and of those that have a text (t,)."""
    sounds, texts = spaces.has_audio, spaces.has_text.any(1)
    va, vt = spaces.video_va.new_zeros(0), spaces.video_vt.new_zeros(0)
    if sounds.any():
        va = contrast(spaces.video_va[sounds], spaces.audio_va[:, None], temperature=temperature)
    if texts.any():
        vt = contrast(
            spaces.video_vt[texts],
            spaces.text_vt[texts],
            spaces.has_text[texts],
            temperature=temperature,
        )
    return va, vt


def total(spaces: Spaces, va: Tensor, vt: Tensor) -> dict[str, Tensor]:
    """Means of the rows' losses, and their sum; of no row, 0 with a gradient of 0."""
    means = {
        name: rows.mean() if len(rows) else 0 * z.sum()
        for name, rows, z in (("va", va, spaces.video_va), ("vt", vt, spaces.video_vt))
    }
    return {**means, "loss": means["va"] + means["vt"]}


@checked
def _fit_each_other(
    video: Float[Tensor, "b t 3 h w"],
    audio: Float[Tensor, "b s"],
    input_ids: Int[Tensor, "b k n"],
    attention_mask: Int[Tensor, "b k n"] | Bool[Tensor, "b k n"],
    has_audio: Bool[Tensor, "b"] | None,
) -> None:
    if len(video) < 1:
        raise ValueError("video: expected a row at least, got an empty batch")


def _columns(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    needed = ("video", "audio", "input_ids", "attention_mask")
    for name in needed:
        if name not in batch:
            raise ValueError(
                f"batch: expected {', '.join(needed)}, got {', '.join(map(str, batch))}; if a "
                "row has no sound or no text, say so by has_audio or an attention_mask of zeros"
            )
    video, audio, ids, mask = (batch[name] for name in needed)
    _fit_each_other(video, audio, ids, mask, batch.get("has_audio"))
    return video, audio, ids, mask


def backbone_size(model: Vatt) -> int:
    """Parameters of trunk, tubelets, patches and positions: those that the paper counts.

    >>> backbone_size(Vatt(tiny(20))) < sum(each.numel() for each in Vatt(tiny(20)).parameters())
    True
    """
    left_out = {id(each) for each in (*model.heads.parameters(), model.words.table.weight)}
    return sum(each.numel() for each in model.parameters() if id(each) not in left_out)
