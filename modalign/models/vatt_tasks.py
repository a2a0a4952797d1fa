"""The tests of a pretrained VATT: classification of one modality, and retrieval of clips.

:func:`linear_probe` leaves the trunk as it is, :class:`Classifier` trains it further, and
:func:`text_to_video` needs no training at all.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_below, require_choice, require_finite
from modalign.metrics import Ranking, accuracy, retrieval
from modalign.models.vatt import Vatt
from modalign.training.setting import in_mode

Modality = Literal["video", "audio"]


@torch.no_grad()
def features(
    model: Vatt, inputs: Tensor, modality: Modality, *, part: int = 256
) -> Float[Tensor, "n d"]:
    """Features of many clips (n, t, 3, h, w) or sounds (n, s), ``part`` at a time, on the CPU.

    The model is put into evaluation mode for it, so that no token is left out.

    Raises:
        ValueError: for another modality, no input, or as :meth:`Vatt.see` and :meth:`Vatt.hear`.
    """
    require_choice(modality, get_args(Modality), "modality")
    if not len(inputs):
        raise ValueError(f"inputs: expected one or more, got {describe(inputs)}")
    encode = model.see if modality == "video" else model.hear
    place = next(model.parameters()).device
    with in_mode(model, training=False):
        return torch.cat([encode(each.to(place)).cpu() for each in inputs.split(part)])


@checked
def linear_probe(
    x: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    held_out: Float[Tensor, "m d"],
    held_out_labels: Int[Tensor, "m"],
    *,
    strength: float = 1.0,
) -> float:
    """Accuracy of a linear classifier of frozen features, which are standardised.

    Args:
        x: features to learn from.
        labels: their classes.
        held_out: features to be classified.
        held_out_labels: their classes.
        strength: inverse of the L2 penalty (scikit-learn's ``C``).

    Raises:
        ValueError: for fewer than two classes, or features that are not finite.

    >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
    >>> linear_probe(x, torch.tensor([0, 0, 1, 1]), x, torch.tensor([0, 0, 1, 1]))
    1.0
    """
    from sklearn.linear_model import LogisticRegression

    for name, each in (("x", x), ("held_out", held_out)):
        require_finite(each, name)
    if len(labels.unique()) < 2:
        raise ValueError(f"labels: expected two classes at least, got {len(labels.unique())}")
    mean, spread = x.mean(0), x.std(0)
    standard = [(each - mean) / spread.clamp_min(1e-6) for each in (x, held_out)]
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(standard[0].double().numpy(), labels.numpy())
    said = model.predict(standard[1].double().numpy())
    return accuracy(torch.from_numpy(np.asarray(said)).long(), held_out_labels)


class Classifier(nn.Module):
    """A linear layer on the features of one modality, to be trained with the trunk below it.

    Args:
        model: pretrained, and trained further.
        modality: ``"video"`` or ``"audio"``.
        classes: 2 or more.

    Raises:
        ValueError: for another modality, fewer classes, or a label that is not a class.

    >>> from modalign.models.vatt import tiny
    >>> classify = Classifier(Vatt(tiny(20)), "audio", 3)
    >>> classify.predict(torch.zeros(2, 4096)).shape
    torch.Size([2])
    """

    def __init__(self, model: Vatt, modality: Modality, classes: int) -> None:
        super().__init__()
        require_choice(modality, get_args(Modality), "modality")
        if classes < 2:
            raise ValueError(f"classes: expected 2 or more, got {classes}")
        self.model, self.modality = model, modality
        self.head = nn.Linear(model.config.width, classes)

    def forward(self, inputs: Tensor) -> Float[Tensor, "b c"]:
        """Logits of clips (b, t, 3, h, w) or sounds (b, s)."""
        encode = self.model.see if self.modality == "video" else self.model.hear
        return self.head(encode(inputs))

    def loss(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy of ``label`` (b,) by ``inputs``."""
        require_below(batch["label"], self.head.out_features, "label", "classes")
        return {"loss": functional.cross_entropy(self(batch["inputs"]), batch["label"])}

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Int[Tensor, "b"]:
        """The likeliest class."""
        return self(inputs).argmax(1)


@torch.no_grad()
def unit_vectors(
    model: Vatt, batch: Mapping[str, Tensor], *, part: int = 256
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where complete triplets lie: video and audio in one space, video and the first text in the
    other.

    Args:
        model: put into evaluation mode for it.
        batch: as for :meth:`Vatt.embed`; every row has a sound and a first text.
        part: rows at a time.

    Raises:
        ValueError: for a row without sound or first text.
    """
    place = next(model.parameters()).device
    found = []
    with in_mode(model, training=False):
        for rows in torch.arange(len(batch["video"])).split(part):
            spaces = model.embed({name: each[rows].to(place) for name, each in batch.items()})
            if not (spaces.has_audio.all() and spaces.has_text[:, 0].all()):
                raise ValueError("batch: expected a sound and a first text in every row")
            z = (spaces.video_va, spaces.audio_va, spaces.video_vt, spaces.text_vt[:, 0])
            found.append([each.cpu() for each in z])
    va, a, vt, t = (torch.cat(each) for each in zip(*found, strict=True))
    return va, a, vt, t


@checked
def text_to_video(text: Float[Tensor, "n d"], video: Float[Tensor, "n d"]) -> Ranking:
    """How texts find their clips, without training: recall at 1, 5 and 10 and the median rank.

    Args:
        text: unit vectors, the text of clip i in row i.
        video: unit vectors.

    >>> text_to_video(torch.eye(12), torch.eye(12)).median_rank
    1.0
    """
    return retrieval(text @ video.T).rows
