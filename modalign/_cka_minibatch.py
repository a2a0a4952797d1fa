"""CKA accumulated over minibatches; ``modalign.cka`` shows it as its own."""

from collections.abc import Callable
from typing import Any

import torch
import torchmetrics
from jaxtyping import Float
from torch import Tensor

from modalign import _cka as numerics
from modalign._checks import checked, require_rows
from modalign.cka import _products


class MinibatchCKA(torchmetrics.Metric):
    """Linear CKA accumulated over minibatches (eq-minibatch; Nguyen et al. 2021).

    Sums the unbiased HSIC terms of the minibatches, each weighted by its number of examples,
    and divides at the end, so that the value does not depend on how large the minibatches are.
    Sums are kept in float64, whatever type their module is cast to, and added over ranks. A
    minibatch costs what :func:`modalign.cka.cka` costs.

    Call it with x (n, d1) and y (n, d2), n >= 4, for the value of this minibatch alone beside
    the sums, or ``update`` for the sums. What is refused is not added. ``compute`` returns a
    float64 scalar, negative values included.

    Raises:
        ValueError: from ``update`` as :func:`modalign.cka.cka` does, but a constant minibatch
            counts as zero, and features above about 1e70 or below 1e-70 have no fourth power;
            from ``compute`` before any update.
        DegenerateError: from ``compute`` where a representation never varied, and from a call
            with such a minibatch, which has no value of its own.

    >>> x = torch.arange(24.0).reshape(8, 3).sin()
    >>> metric = MinibatchCKA()
    >>> metric.update(x[:4], x[:4] + 300)
    >>> metric.update(x[4:], x[4:] + 300)
    >>> round(metric.compute().item(), 4)
    1.0
    """

    hsic_xy: Tensor
    hsic_xx: Tensor
    hsic_yy: Tensor
    examples: Tensor
    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("hsic_xy", "hsic_xx", "hsic_yy", "examples"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @numerics.eager
    @torch.no_grad()
    @checked
    def update(self, x: Float[Tensor, "n d1"], y: Float[Tensor, "n d2"]) -> None:
        """Add one minibatch."""
        n = len(x)
        require_rows(n, 4, "x", "the unbiased HSIC of a minibatch")
        x, y = numerics.widened(x=x, y=y)
        with numerics.without_autocast(x):
            found = numerics.compare(x, y, True, _products)
        for name, scale in zip("xy", found.scales, strict=True):
            if scale and not 1e-70 < scale < 1e70:
                raise ValueError(
                    f"{name}: expected features whose norm has a fourth power in float64, got one "
                    f"of {scale:.2g}: divide or multiply them, by one number in all minibatches"
                )
        kl, kk, ll = found.terms
        # rounding is all that is left of a minibatch in which nothing varies
        x_varies, y_varies = kk > found.least[0], ll > found.least[1]
        x_square, y_square = (scale**2 for scale in found.scales)
        weight = n / (n * (n - 3))  # n_b / n_b (n_b - 3): eq-minibatch, eq-unbiased
        sums = {
            "hsic_xy": weight * kl * x_square * y_square * (x_varies and y_varies),
            "hsic_xx": weight * kk * x_square**2 * x_varies,
            "hsic_yy": weight * ll * y_square**2 * y_varies,
            "examples": n,
        }
        for name, value in {name: getattr(self, name) + sums[name] for name in sums}.items():
            setattr(self, name, value)

    def compute(self) -> Tensor:
        """Return the CKA of everything added so far (eq-minibatch)."""
        if not self.examples:
            raise ValueError("MinibatchCKA: no minibatch was added; call update(x, y) first")
        for name, total in (("x", self.hsic_xx), ("y", self.hsic_yy)):
            if total <= 0:
                raise numerics.DegenerateError(f"{name}: nothing varies within any minibatch")
        return self.hsic_xy / (self.hsic_xx.sqrt() * self.hsic_yy.sqrt())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add one minibatch and return its own CKA; where that raises, nothing has changed."""
        before = self.__dict__.copy()  # torchmetrics sets its sums aside, and some switches
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            self.__dict__.update(before)
            raise

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> torch.nn.Module:
        """Move the sums with their module, and keep their type where that is cast."""

        def moved(sums: Tensor) -> Tensor:
            found = fn(sums)
            return found if found.dtype == sums.dtype else sums.to(found.device)

        return super()._apply(moved, *args, **kwargs)
