"""Several modalities on one unit sphere: an encoder and a linear head each, and InfoNCE."""

import itertools
import math
from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_features, require_finite, require_rows
from modalign._scale import unit_rows
from modalign.models.encoders import Encoder, pooled

Batch = Mapping[str, Mapping[str, Tensor]]


@checked
def contrastive_loss(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    temperature: Float[Tensor, ""] | float = 0.07,
    *,
    same: Int[Tensor, "n"] | Bool[Tensor, "n n"] | None = None,
) -> Float[Tensor, ""]:
    r"""Symmetric InfoNCE: each row finds its own among the other side's.

    .. math:: -\frac{1}{2n} \sum_i \left[ \log \frac{e^{a_i b_i / \tau}}{\sum_j e^{a_i b_j / \tau}}
        + \log \frac{e^{a_i b_i / \tau}}{\sum_j e^{a_j b_i / \tau}} \right]

    The positive stands in its denominator once (Wu et al. 2022). O(n^2 d) time, O(n^2) memory.

    Args:
        a: unit vectors of one modality.
        b: unit vectors of another, row i belonging to row i of ``a``.
        temperature: :math:`\tau`.
        same: which rows mean the same, as a label each or a symmetric table of pairs. If two
            do, neither is a negative of the other; without it every other row is one.

    Raises:
        ValueError: for fewer than 2 rows, rows that are not finite or of no column, a temperature
            that is not finite and above 0, or so small that float32 does not hold the exponents.

    >>> x = torch.eye(3)
    >>> round(contrastive_loss(x, x, 1.0).item(), 4)
    0.5514
    >>> contrastive_loss(x, x, 1.0, same=torch.tensor([0, 0, 0])).item()
    0.0
    """
    require_rows(len(a), 2, "a", "InfoNCE")
    require_finite(a, "a")
    require_finite(b, "b")
    require_features(a, "a")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number above 0, got {float(temperature)}")
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        logits = a.to(dtype) @ b.to(dtype).T / temperature
    if not torch.isfinite(logits).all():
        raise ValueError(
            f"temperature: expected unit vectors over one for which {dtype} holds the exponents, "
            f"got {float(temperature):.3g} and entries up to "
            f"{float(torch.stack([a.abs().max(), b.abs().max()]).max()):.3g}"
        )
    if same is not None:
        equal = same if same.dim() == 2 else same[:, None] == same
        others = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
        logits = logits.masked_fill(equal & others, -math.inf)
    own = torch.arange(len(a), device=a.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def views(batch: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A batch as :class:`JointEmbedding` takes it, from one whose keys are ``modality.input``.

    Keys without a dot, such as labels, are left out.

    >>> views({"image.pixel_values": torch.zeros(1), "label": torch.zeros(1)})
    {'image': {'pixel_values': tensor([0.])}}
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in batch.items():
        modality, _, given = name.partition(".")
        if given:
            found.setdefault(modality, {})[given] = value
    return found


class JointEmbedding(nn.Module):
    """Encoders of several modalities, each with a linear head to one unit sphere.

    At the start all rows lie near one place of the sphere, and a loss that stays at log n has kept
    them there: warm the learning rate up, or lower it.

    Args:
        encoders: by the name of their modality.
        dim: of the sphere's space.
        temperature: its start; learned, and kept within 0.001 and 0.5 (Duan et al. 2022).

    Raises:
        ValueError: for fewer than 2 encoders, or a temperature out of its bounds.
        TypeError: for anything but an encoder.

    >>> from modalign.models.encoders import AudioEncoder, ImageEncoder
    >>> model = JointEmbedding({"image": ImageEncoder(), "audio": AudioEncoder()}, dim=32)
    >>> batch = {
    ...     "image": {"pixel_values": torch.rand(4, 3, 64, 64)},
    ...     "audio": {"input_values": torch.rand(4, 16_000)},
    ... }
    >>> model.embed(batch)["audio"].shape
    torch.Size([4, 32])
    >>> model.losses(batch).keys()
    dict_keys([('image', 'audio')])
    """

    BOUNDS = 0.001, 0.5

    def __init__(
        self, encoders: Mapping[str, Encoder], dim: int = 64, *, temperature: float = 0.07
    ) -> None:
        super().__init__()
        if len(encoders) < 2:
            raise ValueError(f"encoders: expected 2 modalities at least, got {list(encoders)}")
        if not self.BOUNDS[0] <= temperature <= self.BOUNDS[1]:
            raise ValueError(f"temperature: expected a number in {self.BOUNDS}, got {temperature}")
        for name, each in encoders.items():
            if not (isinstance(each, Encoder) and isinstance(each, nn.Module)):
                raise TypeError(f"encoders: expected an Encoder for {name}, got {describe(each)}")
        self.encoders = nn.ModuleDict(cast(dict[str, nn.Module], dict(encoders)))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(each.config.hidden_size, dim) for name, each in encoders.items()}
        )
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """The temperature, differentiable; brought back within its bounds first."""
        with torch.no_grad():
            self.log_temperature.clamp_(*map(math.log, self.BOUNDS))
        return self.log_temperature.exp()

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "b dim"]]:
        """Unit vectors of the modalities that a batch has.

        Args:
            batch: for each modality, its encoder's inputs by name.

        Raises:
            ValueError: for an empty batch, a modality that the model does not have, or outputs of
                an encoder that are not finite.
        """
        unknown = batch.keys() - self.encoders.keys()
        if unknown or not batch:
            raise ValueError(
                f"batch: expected some of {', '.join(self.encoders)}, got {list(batch)}"
            )
        return {
            name: unit_rows(
                self.heads[name](pooled(cast(Encoder, self.encoders[name]), **inputs)), name
            )
            for name, inputs in batch.items()
        }

    forward = embed

    def losses(
        self, batch: Batch, *, same: Tensor | None = None
    ) -> dict[tuple[str, str], Float[Tensor, ""]]:
        """:func:`contrastive_loss` of every two modalities of a batch; train on their sum.

        Args:
            batch: two modalities or more, with the same rows in each.
            same: as in :func:`contrastive_loss`.

        Raises:
            ValueError: as :meth:`embed`; for one modality, or different numbers of rows.
        """
        if len(batch) < 2:
            raise ValueError(f"batch: expected 2 modalities at least, got {list(batch)}")
        vectors, temperature = self.embed(batch), self.temperature
        if len({len(each) for each in vectors.values()}) > 1:
            rows = ", ".join(f"{len(each)} rows of {name}" for name, each in vectors.items())
            raise ValueError(f"batch: expected the same rows in each modality, got {rows}")
        return {
            (one, other): contrastive_loss(vectors[one], vectors[other], temperature, same=same)
            for one, other in itertools.combinations(vectors, 2)
        }
