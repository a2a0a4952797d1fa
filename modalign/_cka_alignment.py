"""CKA beside the loss of a training step; ``modalign.cka`` shows it as its own.

The label eq-loss is that of an equation of notebooks/cka-loss.ipynb.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalign import _cka as numerics
from modalign._checks import checked, describe, require_choice, require_dense, require_finite
from modalign.cka import cka

Sides = tuple[Tensor, ...]  # x, y and, where there is padding, their masks
Parts = Callable[[Any, Any], tuple[Tensor | Mapping[str, Any], Sides]]


class Alignment(NamedTuple):
    """What one batch gave; scalars, of which ``loss`` alone has a gradient."""

    loss: Tensor
    biased: Tensor
    debiased: Tensor
    shuffled: Tensor
    warming_up: bool

    def added_to(self, loss: Tensor) -> Tensor:
        """Return what to minimise: the sum (eq-loss), or CKA alone while it warms up."""
        return self.loss if self.warming_up else loss + self.loss


class ModalityAlignment:
    r"""Add minus CKA of two modalities to the loss of any training step (eq-loss; paper eq. 4).

    Call it with the embeddings of a batch, before the cross-attention. From each example as many
    vectors are drawn on either side, without replacement, as its shorter side has, and paired in
    the order of the draw: rows of CKA are such pairs. (The paper draws N vectors a side and says
    nothing of pairs; drawn over the whole batch, they would belong to different examples.) Padding
    is never drawn, and an example without a vector on one side gives none. One vector an example,
    (b, d), needs no draw.

    The result is **to be added to a loss that is minimised**: ``alignment(x, y).loss`` is minus
    ``weight`` times CKA, and ``alignment(x, y).added_to(loss)`` leaves the other loss out in the
    first ``warmup_steps`` calls. What CKA does not reach has no gradient in these. A call counts
    where gradients are on, and draws by seed and count alone. For ``fit``, see :meth:`objective`,
    and hand the object over in ``stateful``. O(b (l + m)) beyond three times the cost of ``cka``.

    Args:
        weight: lambda, 0 or more. The paper: 0.05 and 0.1 for captions, 0.1 and 0.2 for questions.
        warmup_steps: calls in which CKA is all ("few steps" in the paper).
        estimator: of the CKA that is maximised, ``"biased"`` (the paper's) or ``"debiased"``.
        examples: pairs at most, drawn from all of a batch, where rows cost too much.
        seed: of the draws.

    Returns:
        From a call, ``loss``; for the record ``biased`` and ``debiased`` CKA of the pairs, and
        ``shuffled``: by the estimator that is maximised, of x with the y of other examples, which
        is what nothing in common would give. A record is NaN where it is undefined: with fewer
        than 2 (debiased: 4) pairs, where nothing varies, or, shuffled, in a batch of one example.
        ``warming_up`` says whether the other loss is left out.

    Raises:
        ValueError: for a weight, size or seed out of range, or a warm-up without a weight; from a
            call, for other numbers of examples, masks that do not fit, real vectors that are not
            finite, and fewer pairs than the estimator needs, such as where all is padding.
        TypeError: for what is no tensor of floating-point numbers.
        DegenerateError: (a ``ValueError``) as :func:`modalign.cka.cka`.

    >>> images, words = torch.arange(240.0).sin().view(4, 12, 5), torch.arange(84.0).cos()
    >>> mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [True] * 7, [True] * 7])
    >>> alignment = ModalityAlignment(0.1)
    >>> found = alignment(images, words.view(4, 7, 3), y_mask=mask)  # of 7 + 4 + 7 + 7 pairs
    >>> bool(found.loss == -0.1 * found.biased)
    True
    """

    @checked
    def __init__(
        self,
        weight: float,
        *,
        warmup_steps: int = 0,
        estimator: str = "biased",
        examples: int | None = None,
        seed: int = 0,
    ) -> None:
        require_choice(estimator, ("biased", "debiased"), "estimator")
        least = 4 if estimator == "debiased" else 2
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight: expected 0 or more, got {weight}")
        if warmup_steps < 0 or (warmup_steps and not weight):
            raise ValueError(
                f"warmup_steps: expected 0 or more, and 0 where weight is 0, got {warmup_steps}"
            )
        if examples is not None and examples < least:
            raise ValueError(f"examples: expected {least} pairs or more, got {examples}")
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {seed}")
        self.weight, self.warmup_steps, self.estimator = weight, warmup_steps, estimator
        self.examples, self.seed = examples, seed
        self.step = 0  # calls with gradients

    @property
    def warming_up(self) -> bool:
        """Whether CKA is all that the next call trains on."""
        return self.step < self.warmup_steps

    @numerics.eager
    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        x_mask: Tensor | None = None,
        y_mask: Tensor | None = None,
    ) -> Alignment:
        """Measure a batch.

        Args:
            x, y: (b, l, dx) and (b, m, dy), the sequences of the same b examples; or (b, d).
            x_mask, y_mask: (b, l) and (b, m), True or 1 where a vector is none of padding.
        """
        (x, x_mask), (y, y_mask) = _sequences(x, x_mask, "x"), _sequences(y, y_mask, "y")
        b = len(x)
        if len(y) != b:
            raise ValueError(f"y: expected {b} examples, as many as x has, got {len(y)}")
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.step))
        pairs = self._pairs(x, y, x_mask, y_mask, generator)
        debiased = self.estimator == "debiased"
        if len(pairs[0]) < (4 if debiased else 2):
            raise ValueError(
                f"x, y: {self.estimator} CKA needs {4 if debiased else 2} pairs of vectors that "
                f"are no padding, got {len(pairs[0])} from {b} examples"
            )
        value = cka(*pairs, debiased=debiased)
        other = _record(*pairs, not debiased)
        shuffled = value.new_tensor(float("nan"))
        if b > 1:
            shift = 1 + int(torch.randint(b - 1, (), generator=generator))
            others = (x.detach(), y.detach().roll(shift, 0), x_mask, y_mask.roll(shift, 0))
            shuffled = _record(*self._pairs(*others, generator), debiased)
        own = value.detach()
        warming_up = self.warming_up
        self.step += torch.is_grad_enabled()
        return Alignment(
            -self.weight * value,  # eq-loss
            other if debiased else own,
            own if debiased else other,
            shuffled,
            warming_up,
        )

    def objective(self, parts: Parts) -> Callable[[Any, Any], dict[str, Any]]:
        """Return a loss for :func:`modalign.training.fit`.

        Args:
            parts: of a model and a batch: the loss of the task, or named losses, of which
                ``"loss"`` is minimised; and what to call this object with, ``(x, y)`` or
                ``(x, y, x_mask, y_mask)``.

        Returns:
            A function that gives the named losses with CKA in ``"loss"``; ``task``, without; and
            ``cka``, ``cka_debiased`` and ``cka_shuffled`` for the history.

        >>> alignment = ModalityAlignment(0.1, warmup_steps=1)
        >>> loss = alignment.objective(lambda model, x: (x.square().mean(), (x, x.flip(1))))
        >>> first, second = (loss(None, torch.arange(9.0).sin().view(3, 3)) for _ in range(2))
        >>> bool(first["loss"] == -0.1 * first["cka"])
        True
        >>> bool(second["loss"] == second["task"] - 0.1 * second["cka"])
        True
        """

        def loss(model: Any, batch: Any) -> dict[str, Any]:
            given, sides = parts(model, batch)
            losses = dict(given) if isinstance(given, Mapping) else {"loss": given}
            found = self(*sides)
            return {
                **losses,
                "loss": found.added_to(losses["loss"]),
                "task": losses["loss"],
                "cka": found.biased,
                "cka_debiased": found.debiased,
                "cka_shuffled": found.shuffled,
            }

        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the setting and the number of calls, by which the next draw is known."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another of the same setting stopped.

        Raises:
            ValueError: for the state of another setting.
        """
        own = self.state_dict()
        if state.keys() != own.keys():
            raise ValueError(f"state: expected {', '.join(own)}, got {', '.join(state) or 'none'}")
        for name in own.keys() - {"step"}:
            if state[name] != own[name]:
                raise ValueError(f"state: expected {name} {own[name]!r}, got {state[name]!r}")
        self.step = state["step"]

    def _pairs(
        self, x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Vectors of either side, (n, dx) and (n, dy), of which each two are of one example."""
        counts = torch.minimum(x_mask.sum(1), y_mask.sum(1))
        kept = torch.arange(int(counts.max()), device=x.device) < counts[:, None]
        rows = [
            torch.take_along_dim(z, _order(mask, generator)[:, : kept.shape[1], None], 1)[kept]
            for z, mask in ((x, x_mask), (y, y_mask))
        ]
        if self.examples is not None and len(rows[0]) > self.examples:
            chosen = torch.randperm(len(rows[0]), generator=generator)[: self.examples]
            rows = [each[chosen.to(each.device)] for each in rows]
        return rows[0], rows[1]


def _mixed(*words: int) -> int:
    """One seed from several numbers, so that neighbouring ones share nothing."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _order(mask: Tensor, generator: torch.Generator) -> Tensor:
    """The places of each example in an order drawn at random, those of padding last, (b, l)."""
    keys = torch.rand(mask.shape, generator=generator).to(mask.device)
    return keys.masked_fill(~mask, 2).argsort(dim=1, stable=True)


def _record(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """CKA without a gradient, NaN where it is undefined."""
    if len(x) >= (4 if debiased else 2):
        try:
            return cka(x.detach(), y.detach(), debiased=debiased)
        except numerics.DegenerateError:  # it is no part of the loss
            pass
    return x.new_tensor(float("nan"))


def _sequences(z: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """The vectors (b, l, d), and which of them are real (b, l)."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"{name}: expected a tensor of floating-point numbers, got {describe(z)}")
    require_dense(z, name)
    if z.dim() not in (2, 3) or 0 in z.shape:
        raise ValueError(f"{name}: expected (b, l, d) or (b, d), none of them 0, got {describe(z)}")
    if mask is None:
        mask = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
    if not isinstance(mask, Tensor) or mask.shape != z.shape[:-1]:
        raise ValueError(
            f"{name}_mask: expected {tuple(z.shape[:-1])}, a number for each vector of {name}, got "
            f"{describe(mask)}"
        )
    if mask.dtype != torch.bool:
        if ((mask != 0) & (mask != 1)).any():
            raise ValueError(f"{name}_mask: expected True or False, 1 or 0, got other numbers")
        mask = mask.bool()
    require_finite(z.detach().masked_fill(~mask[..., None], 0), name)
    return (z, mask) if z.dim() == 3 else (z[:, None], mask[:, None])
