"""Centred kernel alignment (CKA): how alike two representations of the same examples are.

Rows are examples: ``x`` is (n, d1), ``y`` is (n, d2). Equation numbers are those of the chapter
"Centred kernel alignment", which derives each line below.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchmetrics
from jaxtyping import Float
from torch import Tensor

from modalign._checks import (
    checked,
    require_choice,
    require_features,
    require_finite,
    require_gram,
    require_layers,
    require_rows,
)

Kernel = str | Callable[[Tensor], Tensor]


class DegenerateError(ValueError):
    """A representation in which nothing varies, so that its CKA with anything is undefined."""


@checked
def hsic(
    k: Float[Tensor, "n n"], l: Float[Tensor, "n n"], *, unbiased: bool = False
) -> Float[Tensor, ""]:
    r"""Hilbert-Schmidt independence criterion of two Gram matrices (eq. 2; Gretton et al. 2005).

    Biased: tr(K C L C) / (n - 1)^2, equation 1 of the paper. Unbiased: eq. 8 (Song et al. 2012),
    which may be negative. O(n^2) time and memory.

    Args:
        k: symmetric Gram matrix of the first representation. Build it from centred features:
            a float32 Gram matrix of features with a large mean has already lost its digits.
        l: symmetric Gram matrix of the second, over the same examples.
        unbiased: the unbiased estimator, which ignores the diagonals and needs n >= 4.

    Returns:
        A differentiable scalar, float32 at least.

    Raises:
        ValueError: where a matrix is not square, not symmetric or not finite, the sizes differ,
            or n is too small.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    >>> round(hsic(x @ x.T, x @ x.T).item(), 3)  # the squared variance of x, (14 / 3) ** 2
    21.778
    """
    n = len(k)
    require_rows(n, 4 if unbiased else 2, "k", "unbiased HSIC" if unbiased else "HSIC")
    k, l = _as_pair(k, l)
    require_gram(k, n, "k")
    require_gram(l, n, "l")
    k, l = _center_(k.clone(), unbiased), _center_(l.clone(), unbiased)
    return (k * l).sum() / _pairs(n, unbiased)


@checked
def cka(
    x: Float[Tensor, "n d1"],
    y: Float[Tensor, "n d2"],
    *,
    kernel: Kernel = "linear",
    debiased: bool = False,
    threshold: float = 0.5,
) -> Float[Tensor, ""]:
    r"""Centred kernel alignment of two representations (eq. 3; equation 3 of the paper).

    With the linear and the RBF kernel, features are centred before anything is multiplied, and
    divided by their norm, so float32 keeps its digits whatever their mean and unit. Half
    precision is computed in float32, under autocast too. The linear kernel works on the cheaper
    side: O(min(n^2 (d1 + d2), n d1 d2 + n d1^2 + n d2^2)) time, and O(n^2) or
    O(d1^2 + d1 d2 + d2^2) memory beside the features; its gradient is in closed form (eq. 10)
    and costs about as much again. For second derivatives pass a kernel, ``lambda z: z @ z.T``.
    Other kernels take O(n^2) memory.

    Args:
        x: representation of n examples, one a row.
        y: another representation of the same examples, in the same order.
        kernel: ``"linear"`` (the paper's choice), ``"rbf"``, or a function from (n, d) features,
            as they come, to their symmetric (n, n) Gram matrix.
        debiased: use the unbiased HSIC in all three places (eq. 9; Kornblith et al. 2019). The
            value may be negative and is returned as it is.
        threshold: bandwidth of the RBF kernel as a fraction of the median distance between
            examples (Kornblith et al. 2019); other kernels ignore it.

    Returns:
        A differentiable scalar, float32 at least: from 0 to 1, or at most 1 where debiased.

    Raises:
        ValueError: where the numbers of examples differ or are below 2 (4 debiased), a feature
            is NaN or infinite, or the RBF bandwidth is zero.
        DegenerateError: (a ``ValueError``) where a representation is constant or otherwise
            without a norm (debiased: all examples equally far apart, or all but one equal).

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [4.0, 3.0], [3.0, 1.0]])
    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> round(cka(x, 7 * x @ turn).item(), 4)  # blind to rotation and scale
    1.0
    >>> round(cka(x, x.flip(0), debiased=True).item(), 4)
    -0.2572
    """
    require_rows(len(x), *_smallest(debiased, "x"))
    if isinstance(kernel, str):
        require_choice(kernel, ("linear", "rbf"), "kernel")
    x, y = _as_pair(x, y)
    with torch.autocast(x.device.type, enabled=False):
        if kernel == "linear":
            return _LinearCKA.apply(x, y, debiased)
        k, k_norm = _centered_gram(x, "x", kernel, threshold, debiased)
        l, l_norm = _centered_gram(y, "y", kernel, threshold, debiased)
        return (k * l).sum() / (k_norm * l_norm)


class MinibatchCKA(torchmetrics.Metric):
    r"""Linear CKA accumulated over minibatches (eq. 11; Nguyen et al. 2021).

    Sums the unbiased HSIC terms of the minibatches, each weighted by its number of examples,
    and divides at the end, so that the value does not depend on how large the minibatches are.
    Sums are kept in float64, and added over ranks. A minibatch costs what :func:`cka` costs.

    Call it with x (n, d1) and y (n, d2), n >= 4. ``compute`` returns a float64 scalar, negative
    values included.

    Raises:
        ValueError: from ``update`` as :func:`cka` does, but a constant minibatch counts as zero;
            from ``compute`` before any update.
        DegenerateError: from ``compute`` where a representation never varied.

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

    @torch.no_grad()
    @checked
    def update(self, x: Float[Tensor, "n d1"], y: Float[Tensor, "n d2"]) -> None:
        """Add one minibatch."""
        n = len(x)
        require_rows(n, 4, "x", "the unbiased HSIC of a minibatch")
        x, y = _as_pair(x, y)
        with torch.autocast(x.device.type, enabled=False):
            _, _, x_scale, y_scale, (kl, kk, ll), biased, parts = _compare(x, y, True)
        # rounding is all that is left of a minibatch in which nothing varies
        by_features = len(parts) == 3
        varied = [
            bool(own > _rounding(b, n, by_features=by_features))
            for own, b in zip((kk, ll), biased, strict=True)
        ]
        kl, kk, ll = (
            term.to(self.examples) for term in (kl * all(varied), kk * varied[0], ll * varied[1])
        )
        x_scale, y_scale = x_scale.to(self.examples), y_scale.to(self.examples)
        weight = n / _pairs(n, True)
        self.hsic_xy += weight * kl * x_scale**2 * y_scale**2
        self.hsic_xx += weight * kk * x_scale**4
        self.hsic_yy += weight * ll * y_scale**4
        self.examples += n

    def compute(self) -> Tensor:
        """Return the CKA of everything added so far."""
        if not self.examples:
            raise ValueError("MinibatchCKA: no minibatch was added; call update(x, y) first")
        for name, total in (("x", self.hsic_xx), ("y", self.hsic_yy)):
            if total <= 0:
                raise DegenerateError(f"{name}: nothing varies within any minibatch")
        return self.hsic_xy / (self.hsic_xx.sqrt() * self.hsic_yy.sqrt())


@torch.no_grad()
def cka_matrix(
    xs: Sequence[Float[Tensor, "n ..."]],
    ys: Sequence[Float[Tensor, "n ..."]] | None = None,
    *,
    debiased: bool = True,
) -> Float[Tensor, "l1 l2"]:
    r"""Linear CKA of every layer of one network with every layer of another.

    Each layer becomes one unit vector, its centred Gram matrix, and the map is a product of
    these: O(n^2 D + L1 L2 n^2) time and O((L1 + L2) n^2) memory for D features in all. For more
    than a few thousand examples, accumulate :class:`MinibatchCKA` instead.

    Args:
        xs: activations of the first network, one tensor a layer, (n, ...) flattened to (n, d).
        ys: activations of the second on the same examples; None compares ``xs`` with itself.
        debiased: as in :func:`cka`, but on by default: layers differ in width, and the bias
            grows with width.

    Returns:
        (len(xs), len(ys)) values, without gradient.

    Raises:
        ValueError: as :func:`cka`, naming the layer; also for an empty list.
        TypeError: where a layer is not a floating-point tensor.

    >>> x = torch.arange(24.0).reshape(8, 3).sin()
    >>> [round(value, 4) for value in cka_matrix([x, x.square()]).diagonal().tolist()]
    [1.0, 1.0]
    """
    dtype = torch.float32
    for label, layers in (("xs", xs), ("ys", xs if ys is None else ys)):
        require_layers(layers, label, like=xs)
        require_rows(len(xs[0]), *_smallest(debiased, "xs[0]"))
        for layer in layers:
            dtype = torch.promote_types(dtype, layer.dtype)
    with torch.autocast(xs[0].device.type, enabled=False):
        first = _unit_grams(xs, "xs", debiased, dtype)
        second = first if ys is None else _unit_grams(ys, "ys", debiased, dtype)
        # summed row by row: one sum over n^2 products would lose digits in float32
        return torch.bmm(first.transpose(0, 1), second.permute(1, 2, 0)).sum(0)


class _LinearCKA(torch.autograd.Function):
    """Linear CKA with its gradient in closed form (eq. 10), which is already centred."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, debiased: bool) -> Tensor:
        ctx.debiased, ctx.dtype = debiased, x.dtype
        x, y, x_scale, y_scale, (kl, kk, ll), biased, parts = _compare(x, y, debiased)
        by_features = len(parts) == 3
        k_norm = _norm(kk, _rounding(biased[0], len(x), by_features=by_features), "x")
        l_norm = _norm(ll, _rounding(biased[1], len(x), by_features=by_features), "y")
        value = kl / (k_norm * l_norm)
        ctx.save_for_backward(x, y, x_scale, y_scale, k_norm, l_norm, value, *parts)
        return value.to(ctx.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "cka: the linear kernel can be differentiated once; for second derivatives "
                "(create_graph=True) pass kernel=lambda z: z @ z.T"
            )
        x, y, x_scale, y_scale, k_norm, l_norm, value, *parts = ctx.saved_tensors
        swapped = parts[::-1] if len(parts) == 2 else (parts[0].T, parts[2], parts[1])
        x_grad = y_grad = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                x_grad = _gradient(x, y, k_norm, l_norm, value, parts, ctx.debiased)
                x_grad = x_grad.mul_(grad / x_scale).to(ctx.dtype)
            if ctx.needs_input_grad[1]:
                y_grad = _gradient(y, x, l_norm, k_norm, value, swapped, ctx.debiased)
                y_grad = y_grad.mul_(grad / y_scale).to(ctx.dtype)
        return x_grad, y_grad, None


def _compare(x: Tensor, y: Tensor, debiased: bool) -> tuple:
    """Standardise x and y and multiply them; return both, their scales, and the products."""
    (a, a_scale), (b, b_scale) = _standardize(x, "x"), _standardize(y, "y")
    products, biased, parts = _products(a, b, debiased)
    # An example far from all others has nearly all of |K| on the diagonal that debiasing takes off
    # again: more digits than float32 has.
    far = min(products[1] / biased[0], products[2] / biased[1]) < 0.01
    if far and len(parts) == 3 and x.dtype == torch.float32:
        return _compare(x.double(), y.double(), debiased)
    return a, b, a_scale, b_scale, products, biased, parts


def _products(x: Tensor, y: Tensor, debiased: bool) -> tuple[tuple, tuple, tuple]:
    """Return <K, L>, <K, K>, <L, L> of the centred Gram matrices of centred x and y (eq. 4).

    Beside them: the latter two before debiasing, and the matrices that the gradient needs.
    """
    (n, d1), d2 = x.shape, y.shape[1]
    if n * (d1 + d2) <= d1 * d2 + d1 * d1 + d2 * d2:
        k, l = _self_product(x), _self_product(y)
        biased = k.square().sum(), l.square().sum()
        if not debiased:
            return ((k * l).sum(), *biased), biased, (k, l)
        k, l = _center_(k, True), _center_(l, True)
        return ((k * l).sum(), k.square().sum(), l.square().sum()), biased, (k, l)
    xy, xx, yy = x.T @ y, _self_product(x.T), _self_product(y.T)
    kl, kk, ll = xy.square().sum(), xx.square().sum(), yy.square().sum()
    if not debiased:
        return (kl, kk, ll), (kk, ll), (xy, xx, yy)
    k, l = x.square().sum(1), y.square().sum(1)
    debiasing = k @ _diagonal(l), k @ _diagonal(k), l @ _diagonal(l)
    return (kl - debiasing[0], kk - debiasing[1], ll - debiasing[2]), (kk, ll), (xy, xx, yy)


def _gradient(
    x: Tensor,
    y: Tensor,
    k_norm: Tensor,
    l_norm: Tensor,
    value: Tensor,
    parts: Sequence[Tensor],
    debiased: bool,
) -> Tensor:
    """2 (L/|L| - CKA K/|K|) X / |K| for centred Gram matrices K and L (eq. 10)."""
    if len(parts) == 2:
        k, l = parts
        return (l / l_norm - k * (value / k_norm)) @ x * (2 / k_norm)
    xy, xx, _ = parts
    grad = torch.addmm(x @ (xx * (-value / k_norm)), y, xy.T / l_norm)
    if debiased:
        k, l = x.square().sum(1), y.square().sum(1)
        grad -= (_diagonal(l) / l_norm - _diagonal(k) * (value / k_norm))[:, None] * x
        grad -= grad.mean(0)
    return grad * (2 / k_norm)


def _self_product(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Return x x'. Its lower left quarter is a copy of the upper right, a quarter less work."""
    n, h = len(x), len(x) // 2
    k = x.new_empty(n, n) if out is None else out
    if x.shape[1] < n:  # so little work that three products take longer than one
        return torch.mm(x, x.T, out=k)
    torch.mm(x[:h], x[:h].T, out=k[:h, :h])
    torch.mm(x[:h], x[h:].T, out=k[:h, h:])
    torch.mm(x[h:], x[h:].T, out=k[h:, h:])
    k[h:, :h] = k[:h, h:].T
    return k


def _diagonal(k: Tensor) -> Tensor:
    """What U-centring takes off a doubly centred Gram matrix with diagonal k (eq. 7)."""
    n = len(k)
    return n / (n - 2) * k - k.sum() / ((n - 1) * (n - 2))


def _center_(k: Tensor, unbiased: bool) -> Tensor:
    """C K C in place, or its unbiased counterpart: U-centring, with a zero diagonal (eq. 7)."""
    n = k.shape[-1]
    if unbiased:
        k.diagonal(dim1=-2, dim2=-1).zero_()
    rows = k.sum(-1, keepdim=True) / (n - 2 if unbiased else n)
    rows = rows - rows.sum(-2, keepdim=True) / (2 * (n - 1) if unbiased else 2 * n)
    k = k.sub_(rows).sub_(rows.mT)
    if unbiased:
        k.diagonal(dim1=-2, dim2=-1).zero_()
    return k


def _smallest(debiased: bool, name: str) -> tuple[int, str, str]:
    """The least number of examples, for whom and for what."""
    return (4, name, "debiased CKA") if debiased else (2, name, "CKA")


def _pairs(n: int, unbiased: bool) -> int:
    return n * (n - 3) if unbiased else (n - 1) ** 2


def _as_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two tensors to their wider type, at least float32."""
    if x.device != y.device:
        raise ValueError(f"y: expected a tensor on {x.device} as x is, got one on {y.device}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _standardize(x: Tensor, name: str, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Centre x and divide it by its Frobenius norm; return both. Constant features give zeros."""
    require_features(x, name)
    mean = x.mean(0)
    centred = torch.sub(x, mean, out=out)
    scale = torch.linalg.vector_norm(centred.detach())
    residue = torch.finfo(x.dtype).eps * len(x) ** 0.5 * torch.linalg.vector_norm(mean.detach())
    if residue > 3e-4 * scale:  # rounding left too much of a large mean
        centred = centred.sub_(centred.mean(0))
        scale = torch.linalg.vector_norm(centred.detach())
    if max(residue.item(), 1e-18) < scale.item() < 1e18:
        return centred.div_(scale), scale
    # Constant features, entries that are not finite, or entries whose squares are not.
    require_finite(x, name)
    if (x == x[:1]).all():
        return centred.zero_(), scale * 0
    peak = centred.detach().abs().amax()
    if not peak.isfinite():
        raise ValueError(f"{name}: entries too large to be summed in {x.dtype}; divide them")
    centred = centred.div_(peak)
    scale = torch.linalg.vector_norm(centred.detach())
    return centred.div_(scale), scale * peak


def _rounding(biased: Tensor, n: int, *, by_features: bool = False) -> Tensor:
    """What rounding leaves of a zero |K|^2, which on the feature side is a difference."""
    eps = 8 * torch.finfo(biased.dtype).eps
    return biased * (eps if by_features else n * eps**2)


def _norm(self_product: Tensor, rounding: Tensor, name: str) -> Tensor:
    """Return |K|, refusing one that is zero but for rounding."""
    if self_product <= rounding:
        raise DegenerateError(
            f"{name}: nothing to compare: constant features, or (debiased) all examples equally "
            "far apart or all but one equal"
        )
    return self_product.sqrt()


def _centered_gram(
    x: Tensor, name: str, kernel: Kernel, threshold: float, debiased: bool
) -> tuple[Tensor, Tensor]:
    """Centred Gram matrix of an RBF or a given kernel, and its norm."""
    require_features(x, name)
    if callable(kernel):
        require_finite(x, name)
        k = kernel(x)
        require_gram(k, len(x), f"kernel({name})")
    else:
        k = _rbf(x, name, threshold)
    size = k.detach().abs().max()
    k = k / (size + (size == 0))
    rounding = _rounding(k.detach().square().sum(), len(x))
    k = _center_(k, False)
    _norm(k.detach().square().sum(), rounding, name)
    if debiased:
        rounding = _rounding(k.detach().square().sum(), len(x))
        k = _center_(k, True)
    return k, _norm(k.square().sum(), rounding, name)


def _rbf(x: Tensor, name: str, threshold: float) -> Tensor:
    """exp(-|x_i - x_j|^2 / 2 (t median)^2), the median over all pairs with themselves."""
    x, _ = _standardize(x, name)
    norms = x.square().sum(1)
    square = (norms + norms[:, None] - 2 * x @ x.T).clamp_min(0).fill_diagonal_(0)
    ordered, middle = square.flatten().sort().values, square.numel() // 2
    median = (ordered[middle] + ordered[(square.numel() - 1) // 2]) / 2
    if not (median > 0 and threshold > 0):
        raise ValueError(
            f"threshold: the RBF bandwidth of {name} is {threshold} x median distance "
            f"{median.sqrt():.3g}; expected a number above 0 (are most examples equal?)"
        )
    return torch.exp(-square / (2 * threshold**2 * median))


def _unit_grams(layers: Sequence[Tensor], label: str, debiased: bool, dtype: torch.dtype) -> Tensor:
    """Centred Gram matrices of unit norm, (layers, n, n)."""
    n = len(layers[0])
    grams = torch.empty(len(layers), n, n, dtype=dtype, device=layers[0].device)
    scratch = grams.new_empty(max(layer.numel() for layer in layers))
    for i, layer in enumerate(layers):
        flat = layer.flatten(1).to(dtype)
        centred, _ = _standardize(flat, f"{label}[{i}]", scratch[: flat.numel()].view_as(flat))
        _self_product(centred, out=grams[i])
    rounding = _rounding(_squared_norms(grams), n)
    squares = _squared_norms(_center_(grams, True) if debiased else grams)
    norms = [
        _norm(*pair, f"{label}[{i}]") for i, pair in enumerate(zip(squares, rounding, strict=True))
    ]
    return grams.div_(torch.stack(norms)[:, None, None])


def _squared_norms(grams: Tensor) -> Tensor:
    """Row by row, which keeps float32's digits where one sum over n^2 squares would not."""
    return torch.linalg.vector_norm(grams, dim=2).square().sum(1)
