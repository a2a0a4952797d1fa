"""Centred kernel alignment (CKA): how alike two representations of the same examples are.

Rows are examples: ``x`` is (n, d1), ``y`` is (n, d2). Equation numbers are those of the chapter
"Centred kernel alignment", which derives each line below.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torchmetrics
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from modalign._checks import checked, describe, require_finite, require_rows

Kernel = Literal["linear", "rbf"] | Callable[[Tensor], Tensor]


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
    for name, gram in (("k", k), ("l", l)):
        require_finite(gram, name)
        gap, size = (gram - gram.T).abs().max(), gram.abs().max()
        if gap > torch.finfo(gram.dtype).eps ** 0.5 * size:
            raise ValueError(f"{name}: expected a symmetric matrix, K and K' differ by {gap:.2g}")
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

    Features are centred before anything is multiplied, and divided by their largest entry, so
    float32 keeps its digits whatever the mean and the unit of the features. Half precision is
    computed in float32, under autocast too. The linear kernel works on the cheaper side:
    O(min(n^2 (d1 + d2), n d1 d2 + n d1^2 + n d2^2)) time, and O(n^2) or O(d1^2 + d1 d2 + d2^2)
    memory beside the features; its gradient is in closed form (eq. 10), costs about as much
    again, and cannot be differentiated once more. Other kernels take O(n^2) memory.

    Args:
        x: representation of n examples, one a row.
        y: another representation of the same examples, in the same order.
        kernel: ``"linear"`` (the paper's choice), ``"rbf"``, or a function from (n, d) features
            to their symmetric (n, n) Gram matrix.
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
    for name, z in (("x", x), ("y", y)):
        require_rows(len(z), 4 if debiased else 2, name, "debiased CKA" if debiased else "CKA")
    x, y = _as_pair(x, y)
    with torch.autocast(x.device.type, enabled=False):
        if kernel == "linear":
            return _LinearCKA.apply(x, y, debiased)
        k = _gram(x, "x", kernel, threshold)
        l = _gram(y, "y", kernel, threshold)
        k, l = _center_(k / k.trace(), debiased), _center_(l / l.trace(), debiased)
        k_norm = _norm(k.square().sum(), len(x), "x")
        l_norm = _norm(l.square().sum(), len(y), "y")
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
            from ``compute`` before any update, or where a representation never varied.

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
            (x, x_scale), (y, y_scale) = _standardize(x, "x"), _standardize(y, "y")
            kl, kk, ll = (term.to(self.examples) for term in _products(x, y, True)[:3])
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
                raise ValueError(f"{name}: has no variance within any minibatch")
        return self.hsic_xy / (self.hsic_xx.sqrt() * self.hsic_yy.sqrt())


@checked
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

    >>> x = torch.arange(24.0).reshape(8, 3).sin()
    >>> cka_matrix([x, x.square()]).diagonal()
    tensor([1., 1.])
    """
    first = _unit_grams(xs, "xs", debiased)
    second = first if ys is None else _unit_grams(ys, "ys", debiased)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"ys: expected {len(xs[0])} examples as in xs, got another number")
    return first @ second.T


class _LinearCKA(torch.autograd.Function):
    """Linear CKA with its gradient in closed form (eq. 10), which is already centred."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, debiased: bool) -> Tensor:
        (x, x_scale), (y, y_scale) = _standardize(x, "x"), _standardize(y, "y")
        kl, kk, ll, parts = _products(x, y, debiased)
        k_norm = _norm(kk, len(x), "x")
        l_norm = _norm(ll, len(y), "y")
        value = kl / (k_norm * l_norm)
        ctx.save_for_backward(x, y, x_scale, y_scale, k_norm, l_norm, value, *parts)
        ctx.debiased = debiased
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, x_scale, y_scale, k_norm, l_norm, value, *parts = ctx.saved_tensors
        wanted_x, wanted_y, _ = ctx.needs_input_grad
        swapped = parts[::-1] if len(parts) == 2 else (parts[0].T, parts[2], parts[1])
        with torch.autocast(x.device.type, enabled=False):
            x_grad = _gradient(x, y, k_norm, l_norm, value, parts, ctx.debiased)
            y_grad = _gradient(y, x, l_norm, k_norm, value, swapped, ctx.debiased)
        return (
            x_grad.mul_(grad / x_scale) if wanted_x else None,
            y_grad.mul_(grad / y_scale) if wanted_y else None,
            None,
        )


def _products(x: Tensor, y: Tensor, debiased: bool) -> tuple[Tensor, Tensor, Tensor, tuple]:
    """Return <K, L>, <K, K>, <L, L> of the centred Gram matrices of centred x and y (eq. 4)."""
    (n, d1), d2 = x.shape, y.shape[1]
    if n * (d1 + d2) <= d1 * d2 + d1 * d1 + d2 * d2:
        k, l = _self_product(x), _self_product(y)
        if debiased:
            k, l = _center_(k, True), _center_(l, True)
        return (k * l).sum(), k.square().sum(), l.square().sum(), (k, l)
    xy, xx, yy = x.T @ y, _self_product(x.T), _self_product(y.T)
    kl, kk, ll = xy.square().sum(), xx.square().sum(), yy.square().sum()
    if debiased:
        k, l = x.square().sum(1), y.square().sum(1)
        kl, kk, ll = kl - k @ _diagonal(l), kk - k @ _diagonal(k), ll - l @ _diagonal(l)
    return kl, kk, ll, (xy, xx, yy)


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


def _pairs(n: int, unbiased: bool) -> int:
    return n * (n - 3) if unbiased else (n - 1) ** 2


def _as_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two tensors to their wider type, at least float32."""
    if x.device != y.device:
        raise ValueError(f"y: expected a tensor on {x.device} as x is, got one on {y.device}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _shifted(x: Tensor, name: str) -> Tensor:
    """x less its first row: a large mean is gone before anything is summed or multiplied, and
    constant features become exactly zero."""
    if not x.numel():
        raise ValueError(f"{name}: expected at least one feature, got {describe(x)}")
    return x - x[:1]


def _standardize(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Centre x and divide it by its Frobenius norm; return both."""
    centred = _shifted(x, name)
    centred = centred.sub_(centred.mean(0))
    scale = torch.linalg.vector_norm(centred.detach())
    _require_scale(scale, x, name)
    return centred.div_(scale + (scale == 0)), scale


def _require_scale(scale: Tensor, x: Tensor, name: str) -> None:
    if not scale.isfinite():
        require_finite(x, name)
        raise ValueError(f"{name}: entries too large to be squared in {scale.dtype}; divide them")


def _norm(self_product: Tensor, n: int, name: str) -> Tensor:
    """Return |K| of a Gram matrix of unit trace; it is zero where it is below rounding."""
    if self_product <= torch.finfo(self_product.dtype).eps / n:
        raise DegenerateError(
            f"{name}: nothing to compare: constant features, or (debiased) all examples equally "
            "far apart or all but one equal"
        )
    return self_product.sqrt()


def _gram(x: Tensor, name: str, kernel: Kernel, threshold: float) -> Tensor:
    """Gram matrix of an RBF or a given kernel."""
    if callable(kernel):
        k = kernel(x)
        if k.shape != (len(x), len(x)):
            raise ValueError(f"kernel: expected ({len(x)}, {len(x)}) for {name}, got {describe(k)}")
        require_finite(k, f"kernel({name})")
        return k
    x, _ = _standardize(x, name)
    norms = x.square().sum(1)
    square = (norms + norms[:, None] - 2 * x @ x.T).clamp_min(0).fill_diagonal_(0)
    ordered, middle = square.flatten().sort().values, square.numel() // 2
    median = (ordered[middle] + ordered[(square.numel() - 1) // 2]) / 2
    if median <= 0 or threshold <= 0:
        raise ValueError(
            f"threshold: the RBF bandwidth of {name} is {threshold} x median distance "
            f"{median.sqrt():.3g}; expected a number above 0 (are most examples equal?)"
        )
    return torch.exp(-square / (2 * threshold**2 * median))


@torch.no_grad()
def _unit_grams(xs: Sequence[Tensor], label: str, debiased: bool) -> Tensor:
    """Centred Gram matrices of unit norm, each flattened to a row of one (layers, n^2) matrix."""
    if not xs:
        raise ValueError(f"{label}: expected at least one layer, got an empty list")
    n, dtype = len(xs[0]), torch.float32
    require_rows(n, 4 if debiased else 2, f"{label}[0]", "debiased CKA" if debiased else "CKA")
    for x in xs:
        dtype = torch.promote_types(dtype, x.dtype)
    grams = torch.empty(len(xs), n, n, dtype=dtype, device=xs[0].device)
    for i, x in enumerate(xs):
        name = f"{label}[{i}]"
        if len(x) != n:
            raise ValueError(f"{name}: expected {n} examples as in {label}[0], got {describe(x)}")
        # The Gram matrix is centred below; its features need only lose their common offset.
        with torch.autocast(x.device.type, enabled=False):
            shifted = _shifted(x.flatten(1).to(dtype), name)
            _self_product(shifted, out=grams[i])
    traces = grams.diagonal(dim1=1, dim2=2).sum(1)
    for i, x in enumerate(xs):
        _require_scale(traces[i], x, f"{label}[{i}]")
    _center_(grams.div_((traces + (traces == 0))[:, None, None]), debiased)
    grams = grams.flatten(1)
    squares = torch.linalg.vector_norm(grams, dim=1).square()
    norms = [_norm(square, n, f"{label}[{i}]") for i, square in enumerate(squares)]
    return grams.div_(torch.stack(norms)[:, None])
