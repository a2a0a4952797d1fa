r"""Momentum teachers, queues of their features, and alignment that is guided by both.

Labels such as ``eq-codebook-alignment`` are those of the chapter "Codebook", which derives each
line. Features are rows of length one; teacher features carry no gradient. With
``torch.distributed`` every process passes its own rows, and negatives and queues are those of the
joined batch.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modalign._checks import checked, describe, require_positive
from modalign._distributed import gathered


class Temperature(nn.Module):
    """A temperature that is learned: ``gamma`` of the paper, kept within [0.001, 0.5].

    Args:
        start: its first value (0.07, as in ALBEF; the paper gives none).

    Raises:
        ValueError: for a start outside [0.001, 0.5].

    >>> round(Temperature()().item(), 2)
    0.07
    """

    LOW, HIGH = 0.001, 0.5

    @checked
    def __init__(self, start: float = 0.07) -> None:
        super().__init__()
        if not self.LOW <= start <= self.HIGH:
            raise ValueError(f"temperature: expected {self.LOW} to {self.HIGH}, got {start}")
        self.value = nn.Parameter(torch.tensor(start))

    def forward(self) -> Tensor:
        """Return the temperature; outside the bounds it stands still and keeps its gradient."""
        return self.value + (self.value.clamp(self.LOW, self.HIGH) - self.value).detach()


class AlignmentLoss(NamedTuple):
    """The parts of eq-codebook-alignment; a part that was not asked for is zero."""

    image_to_text: Tensor
    text_to_image: Tensor
    image_to_image: Tensor
    text_to_text: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, paper eq. 5."""
        return torch.stack(tuple(self)).sum()


@checked
def alignment_loss(
    image_student: Float[Tensor, "n d"],
    text_student: Float[Tensor, "n d"],
    image_teacher: Float[Tensor, "n d"],
    text_teacher: Float[Tensor, "n d"],
    image_queue: Float[Tensor, "m d"],
    text_queue: Float[Tensor, "m d"],
    *,
    temperature: Tensor | float,
    alpha: float = 0.4,
    intra: bool = True,
    cross: bool = True,
) -> AlignmentLoss:
    r"""Align students with teachers, within and across modalities (paper eq. 4 and 5).

    A student's keys are the teacher features of the batch and then those of the queue, so that the
    positive is in the denominator; its target is alpha times the softmax of the teacher's own
    similarities plus 1 - alpha on the positive, as in ALBEF (algorithm 1 of the paper has neither,
    and collapses). Call it before the queues take the batch in. O(N (N + M) D) time.

    Args:
        image_student, text_student: (N, D) rows of length one, with a gradient.
        image_teacher, text_teacher: (N, D) rows of length one; the gradient stops there.
        image_queue, text_queue: (M, D) teacher features of earlier batches.
        temperature: gamma; a tensor if it is learned.
        alpha: weight of the teacher's soft targets, 0 to 1 (0.4, as in ALBEF).
        intra: image to image and text to text.
        cross: image to text and text to image.

    Raises:
        ValueError: for features that are not finite rows of length one, alpha outside 0 to 1, or
            neither of ``intra`` and ``cross``.

    >>> z = functional.normalize(torch.eye(3), dim=1)
    >>> loss = alignment_loss(z, z, z, z, -z, -z, temperature=0.07, alpha=0.0)
    >>> [round(float(part), 4) for part in loss]
    [0.0, 0.0, 0.0, 0.0]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number from 0 to 1, got {alpha}")
    if not (intra or cross):
        raise ValueError("intra, cross: expected at least one of them, got neither")
    width = image_student.shape[1]
    for name, z in {
        "image_student": image_student,
        "text_student": text_student,
        "image_teacher": image_teacher,
        "text_teacher": text_teacher,
        "image_queue": image_queue,
        "text_queue": text_queue,
    }.items():
        require_unit_rows(z, width, name)
    images, first = gathered(image_teacher.detach())
    texts, _ = gathered(text_teacher.detach())
    image_keys, text_keys = torch.cat([images, image_queue]), torch.cat([texts, text_queue])
    positives = torch.arange(first, first + len(image_student), device=images.device)

    def part(wanted: bool, student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
        if not wanted:
            return student.new_zeros(())
        targets = soft_targets(teacher.detach() @ keys.T / temperature, positives, alpha)
        return cross_entropy(student @ keys.T / temperature, targets)

    return AlignmentLoss(
        image_to_text=part(cross, image_student, image_teacher, text_keys),
        text_to_image=part(cross, text_student, text_teacher, image_keys),
        image_to_image=part(intra, image_student, image_teacher, image_keys),
        text_to_text=part(intra, text_student, text_teacher, text_keys),
    )


def soft_targets(logits: Tensor, positives: Tensor, alpha: float) -> Tensor:
    """Mix the teacher's distribution with the known pairs (eq-codebook-targets); detached.

    >>> soft_targets(torch.zeros(1, 4), torch.tensor([2]), 0.4)
    tensor([[0.1000, 0.1000, 0.7000, 0.1000]])
    """
    known = functional.one_hot(positives, logits.shape[1])
    return alpha * logits.detach().softmax(1) + (1 - alpha) * known


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return H(s, t) of algorithm 1: the mean over rows of -sum t log softmax(s)."""
    return -(targets.detach() * logits.log_softmax(1)).sum(1).mean()


def distillation_weight(step: int, ramp: int, *, final: float = 0.4) -> float:
    """Return alpha, which rises in a line from 0 to ``final`` over the first ``ramp`` steps.

    The ramp is ALBEF's first epoch; the paper gives none.

    >>> distillation_weight(5, 10), distillation_weight(99, 10)
    (0.2, 0.4)
    """
    return final * min(1.0, step / ramp) if ramp else final


class MomentumTeacher(AveragedModel):
    """A teacher whose weights follow a module's by moving average (eq-codebook-teacher).

    ``torch.optim.swa_utils.AveragedModel`` with exponential averaging of parameters; buffers are
    copied. It starts as a copy, has no gradient and its output none either. Call ``update`` after
    each step of the optimiser.

    Args:
        module: the student; it is copied.
        momentum: alpha of paper eq. 6 (paper: 0.995).

    Raises:
        ValueError: for a momentum outside 0 to 1.

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = MomentumTeacher(student, momentum=0.5)
    >>> with torch.no_grad():
    ...     _ = student.weight.add_(1)
    >>> teacher.update(student)
    >>> round((student.weight - teacher.module.weight).item(), 3)
    0.5
    """

    @checked
    def __init__(self, module: nn.Module, momentum: float = 0.995) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number from 0, below 1, got {momentum}")
        super().__init__(module, multi_avg_fn=get_ema_multi_avg_fn(momentum))
        self.momentum = momentum
        self.n_averaged += 1  # the copy counts: else the first update would copy again
        self.requires_grad_(False)

    def update(self, module: nn.Module) -> None:
        """Move towards the student by a share of 1 - momentum."""
        self.update_parameters(module)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged module, without a gradient."""
        return self.module(*args, **kwargs)


class FeatureQueue(nn.Module):
    """The last M teacher features, first in, first out; random directions until they come.

    ``features`` (M, D) and ``place`` are buffers, saved with the module. With several processes the
    rows of all enter, in the order of their ranks, so that all queues stay equal.

    Args:
        size: M (paper: 65,536); a multiple of the number of rows that enter at once.
        dim: D.
        seed: of the random directions.

    Raises:
        ValueError: for a size below 1; from ``enqueue`` for rows whose number does not divide M or
            that are not of length one.

    >>> queue = FeatureQueue(4, 2)
    >>> queue.enqueue(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> queue.features[:2]
    tensor([[1., 0.],
            [0., 1.]])
    """

    features: Tensor
    place: Tensor

    @checked
    def __init__(self, size: int, dim: int, *, seed: int = 0) -> None:
        super().__init__()
        require_positive(size=size, dim=dim)
        self.register_buffer("features", unit_rows(size, dim, seed))
        self.register_buffer("place", torch.tensor(0))

    @checked
    @torch.no_grad()
    def enqueue(self, z: Float[Tensor, "n d"]) -> None:
        """Replace the oldest rows, those of all processes."""
        require_unit_rows(z, self.features.shape[1], "z")
        rows, _ = gathered(z)
        size, place = len(self.features), int(self.place)
        if size % len(rows):
            raise ValueError(
                f"z: expected a number of rows that divides the queue's {size}, got {len(rows)}"
            )
        self.features[place : place + len(rows)] = rows
        self.place.fill_((place + len(rows)) % size)


def unit_rows(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(rows, width, generator=generator, device="cpu")
    return functional.normalize(drawn, dim=1).to(torch.empty(0).device)


def require_unit_rows(z: Tensor, width: int, name: str) -> None:
    if z.shape[1] != width:
        raise ValueError(f"{name}: expected rows of {width} features, got {describe(z)}")
    lengths = z.detach().float().norm(dim=1)
    if not len(z) or not ((lengths - 1).abs() < 1e-2).all():
        came = f"lengths {lengths.min():.3g} to {lengths.max():.3g}" if len(z) else describe(z)
        raise ValueError(
            f"{name}: expected finite rows of length one (functional.normalize), got {came}"
        )
