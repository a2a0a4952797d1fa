"""Triplets of video, sound and text, some of them misaligned on purpose.

Each misaligned triplet is of one of three kinds (:data:`KINDS`): its text belongs to another clip,
its sound does, or both belong to one other clip, as when a speaker talks of something else and the
text is what was said.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from modalign.training.randomness import mix

KINDS = ("aligned", "text", "audio", "both")
"""The part of a triplet that belongs to another clip: nothing, its text, its sound, or both."""


@dataclasses.dataclass(frozen=True)
class Triplets:
    """Clips with a sound and some texts each.

    Attributes:
        video: (n, t, 3, h, w), uint8.
        audio: (n, s), of a root mean square of 1 over all sounds together.
        input_ids: (n, k, w), the texts of each clip.
        attention_mask: (n, k, w).
        label: (n,) class of the clip.
        kind: (n,) place in :data:`KINDS`.
        source: (n, 2) whose text and whose sound it is.
    """

    video: Tensor
    audio: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    label: Tensor
    kind: Tensor
    source: Tensor

    def __len__(self) -> int:
        return len(self.video)

    def to(self, device: torch.device | str) -> "Triplets":
        """The same on another device."""
        return self._each(lambda column: column.to(device))

    def rows(self, index: Any) -> "Triplets":
        """Some of the triplets."""
        return self._each(lambda column: column[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Triplets":
        columns = (getattr(self, each.name) for each in dataclasses.fields(self))
        return Triplets(*map(change, columns))

    def batch(self) -> dict[str, Tensor]:
        """The columns that :class:`modalign.models.vatt.Vatt` reads, video from -1 to 1."""
        return {
            "video": self.video.float() / 127.5 - 1,
            "audio": self.audio,
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
        }


def misalign(
    clips: Triplets, kind: Tensor, *, same: Sequence[Any], generator: torch.Generator
) -> Triplets:
    """Give triplets the text, the sound or both of another clip.

    Args:
        clips: aligned ones.
        kind: (n,) place in :data:`KINDS` of each.
        same: what each clip shows; another clip shows something else.
        generator: that draws the other clips.

    Raises:
        ValueError: for an unknown kind, another number of them, or if every clip shows the
            same.
    """
    n = len(clips)
    if kind.shape != (n,) or len(same) != n or (n and not 0 <= int(kind.min()) <= 3):
        raise ValueError(f"kind: expected {n} numbers from 0 to 3, got {tuple(kind.shape)}")
    if int(kind.max()) and len(set(same)) < 2:
        raise ValueError("clips: expected two that differ at least, to take the other's text")
    code = torch.tensor([{each: i for i, each in enumerate(same)}[each] for each in same])
    other = torch.randint(n, (n,), generator=generator)
    while (alike := code[other] == code).any():  # a few rounds: fewer are left each time
        other[alike] = torch.randint(n, (int(alike.sum()),), generator=generator)
    own = torch.arange(n)
    text, audio = (torch.where((kind == k) | (kind == 3), other, own) for k in (1, 2))
    return dataclasses.replace(
        clips,
        audio=clips.audio[audio],
        input_ids=clips.input_ids[text],
        attention_mask=clips.attention_mask[text],
        kind=kind,
        source=torch.stack([text, audio], 1),
    )


def draw_kinds(n: int, rate: float, *, generator: torch.Generator) -> Tensor:
    """Misalign each triplet with a chance of ``rate``, by one of three kinds, all equally likely.

    A triplet that is misaligned at one rate is so at all higher rates, in the same way.

    Raises:
        ValueError: for a rate outside [0, 1].

    >>> draw_kinds(6, 0.5, generator=torch.Generator().manual_seed(0)).tolist()
    [2, 0, 2, 1, 3, 0]
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a chance from 0 to 1, got {rate}")
    chance = torch.rand(n, generator=generator)
    kind = torch.randint(1, 4, (n,), generator=generator)
    return kind.masked_fill(chance >= rate, 0)


def whole_kinds(n: int, batch_size: int) -> Tensor:
    """Kinds of triplets that make batches which are aligned, or misaligned in one way, as a whole.

    >>> whole_kinds(8, 2).tolist()
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    return torch.arange(n) // batch_size % len(KINDS)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Shuffled batches of triplets; the last of an epoch is left out if it is smaller."""

    triplets: Triplets
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return len(self.triplets) // self.batch_size

    def __call__(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, 5))
        order = torch.randperm(len(self.triplets), generator=generator)
        for rows in order.split(self.batch_size)[: len(self)]:
            part = self.triplets.rows(rows.to(self.triplets.video.device))
            yield part.batch() | {"kind": part.kind}
