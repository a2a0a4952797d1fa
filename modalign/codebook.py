r"""A codebook: prototypes between two modalities, and transport plans that assign to them.

Labels such as ``eq-codebook-loss`` are those of the chapter "Codebook", which derives each line.
Features are rows of length one; teacher features carry no gradient. With ``torch.distributed``
every process passes its own rows, and plans, negatives and queues are those of the joined batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, require_choice, require_positive
from modalign._distributed import gathered
from modalign.momentum import (
    AlignmentLoss,
    FeatureQueue,
    MomentumTeacher,
    Temperature,
    alignment_loss,
    cross_entropy,
    require_unit_rows,
    unit_rows,
)
from modalign.transport import ipot, transport_cost

__all__ = [
    "AlignmentLoss",
    "Codebook",
    "CodebookLoss",
    "FeatureQueue",
    "MomentumTeacher",
    "Temperature",
    "alignment_loss",
]


class CodebookLoss(NamedTuple):
    """The parts of eq-codebook-loss: image and text to prototypes, and the cost of both plans."""

    image: Tensor
    text: Tensor
    transport: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, paper eq. 3."""
        return self.image + self.text + self.transport


class Codebook(nn.Module):
    r"""K prototypes that image and text are assigned to, each by the other's transport plan.

    ``plan`` assigns features to prototypes by optimal transport with uniform marginals, so that
    all prototypes are used; ``loss`` is paper eq. 3, read as the chapter derives it: each row of a
    plan, times N, is the target of a softmax over prototypes (eq-codebook-target). Time
    O(outer N K) for the plans and O(N K D) for similarities, memory O(N K).

    Args:
        num_prototypes: K (paper: 4,000).
        dim: D, the width of the joint space (paper: 256).
        temperature: of the softmax, learned from this start; or a ``Temperature`` that is shared.
        pairing: ``"crossed"``: the image's plan is the text's target and the other way round (the
            paper's figure 3 and abstract). ``"same"``: each is its own (paper eq. 3, algorithm 1).
        features: plans come from ``"teacher"`` features (the paper's) or ``"student"`` ones.
        beta, outer, inner: of ``modalign.transport.ipot``.
        seed: of the prototypes' start.

    Raises:
        ValueError: for a size below 1, another choice, or a temperature outside its bounds; from
            the methods for features that are not rows of length one and width D, or not finite.

    >>> codebook = Codebook(4, 2)
    >>> z = functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), dim=1)
    >>> codebook.plan(z).sum(0)  # every prototype gets its share
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    >>> codebook.loss(z, z, z, z).total.backward()
    """

    @checked
    def __init__(
        self,
        num_prototypes: int,
        dim: int,
        *,
        temperature: float | Temperature = 0.07,
        pairing: str = "crossed",
        features: str = "teacher",
        beta: float = 0.5,
        outer: int = 50,
        inner: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_positive(
            num_prototypes=num_prototypes, dim=dim, beta=beta, outer=outer, inner=inner
        )
        require_choice(pairing, ("crossed", "same"), "pairing")
        require_choice(features, ("teacher", "student"), "features")
        if not isinstance(temperature, Temperature):
            temperature = Temperature(temperature)
        self.temperature = temperature
        self.pairing, self.features = pairing, features
        self.beta, self.outer, self.inner = beta, outer, inner
        self.prototypes = nn.Parameter(unit_rows(num_prototypes, dim, seed))

    @checked
    def similarity(self, z: Float[Tensor, "n d"]) -> Tensor:
        """Return the (N, K) cosines of features and prototypes (eq-codebook-similarity)."""
        require_unit_rows(z, self.prototypes.shape[1], "z")
        return z @ functional.normalize(self.prototypes, dim=1).T

    @checked
    def plan(self, z: Float[Tensor, "n d"]) -> Tensor:
        """Return our rows of the (N, K) transport plan of all processes' features, detached."""
        with torch.no_grad():
            everyone, first = gathered(z.detach())
            return self._solve(self.similarity(everyone))[first : first + len(z)]

    @checked
    def loss(
        self,
        image_student: Float[Tensor, "n d"],
        text_student: Float[Tensor, "n d"],
        image_teacher: Float[Tensor, "n d"],
        text_teacher: Float[Tensor, "n d"],
    ) -> CodebookLoss:
        """Return the parts of the codebook loss (eq-codebook-loss).

        The plans are constants, and so are the features that they come from: the transport costs
        train the prototypes alone. Losses are means over our rows, so that averaging gradients over
        processes gives those of the joined batch.
        """
        teacher = self.features == "teacher"
        image_plan, image_cost = self._assign(image_teacher if teacher else image_student)
        text_plan, text_cost = self._assign(text_teacher if teacher else text_student)
        image_target, text_target = image_plan, text_plan
        if self.pairing == "crossed":
            image_target, text_target = text_plan, image_plan
        gamma = self.temperature()
        return CodebookLoss(
            image=cross_entropy(self.similarity(image_student) / gamma, image_target),
            text=cross_entropy(self.similarity(text_student) / gamma, text_target),
            transport=image_cost + text_cost,
        )

    def _assign(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Our rows of the plan as distributions, and the cost of the whole plan."""
        everyone, first = gathered(z.detach())
        similarity = self.similarity(everyone)
        plan = self._solve(similarity)
        cost = transport_cost(plan, 1 - similarity.to(plan.dtype))  # eq-codebook-transport
        return len(plan) * plan[first : first + len(z)], cost  # eq-codebook-target

    def _solve(self, similarity: Tensor) -> Tensor:
        cost = (1 - similarity.detach().float()).clamp_min_(0)  # rounding may go below 0
        return ipot(cost, beta=self.beta, outer=self.outer, inner=self.inner)
