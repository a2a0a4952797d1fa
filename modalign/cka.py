"""Centred kernel alignment (CKA): how alike two representations of the same examples are.

Rows are examples. A label as eq-cka is that of an equation of notebooks/cka.ipynb, its chapter.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from modalign import _cka as numerics
from modalign._checks import checked, require_choice, require_rows
from modalign._cka import DegenerateError as DegenerateError
from modalign._cka import standardize as _standardize  # noqa: F401  (shown by the chapter)

if TYPE_CHECKING:
    from modalign._cka_alignment import ModalityAlignment as ModalityAlignment
    from modalign._cka_minibatch import MinibatchCKA as MinibatchCKA

Kernel = str | Callable[[Tensor], Tensor]


def _center_(k: Tensor, unbiased: bool) -> Tensor:
    """Centre Gram matrices in place: C K C (eq-centring), or U(K) (eq-ucentring)."""
    n = k.shape[-1]
    if unbiased:
        k.diagonal(dim1=-2, dim2=-1).zero_()
    rows = k.sum(-1, keepdim=True) / (n - 2 if unbiased else n)
    rows = rows - rows.sum(-2, keepdim=True) / (2 * (n - 1) if unbiased else 2 * n)
    k = k.sub_(rows).sub_(rows.mT)
    if unbiased:
        k.diagonal(dim1=-2, dim2=-1).zero_()
    return k


@numerics.eager
@checked
def hsic(
    k: Float[Tensor, "n n"], l: Float[Tensor, "n n"], *, unbiased: bool = False
) -> Float[Tensor, ""]:
    """Hilbert-Schmidt independence criterion of two Gram matrices (eq-hsic; paper eq. 1).

    Args:
        k, l: symmetric Gram matrices of the same n examples, from centred features: in float32,
            products of features with a large mean have already lost their digits.
        unbiased: the estimator of Song et al. (2012; eq-unbiased), which may be negative; n >= 4.

    Returns:
        A differentiable scalar, float32 at least, in O(n^2) time and memory.

    Raises:
        ValueError: where a matrix is not square, symmetric and finite, sizes differ, n is too
            small, or entries or the result leave the range of their type.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    >>> round(hsic(x @ x.T, x @ x.T).item(), 3)  # the squared variance of x, (14 / 3) ** 2
    21.778
    """
    n = len(k)
    require_rows(n, 4 if unbiased else 2, "k", "unbiased HSIC" if unbiased else "HSIC")
    (k, k_size), (l, l_size) = numerics.rescaled_grams(n, k=k, l=l)
    inner = numerics.inner(_center_(k, unbiased), _center_(l, unbiased))
    factor = n * (n - 3) if unbiased else (n - 1) ** 2  # eq-unbiased, eq-hsic
    return numerics.in_range(inner, k_size * l_size / factor, "k, l: their HSIC")


@numerics.eager
@checked
def cka(
    x: Float[Tensor, "n d1"],
    y: Float[Tensor, "n d2"],
    *,
    kernel: Kernel = "linear",
    debiased: bool = False,
    threshold: numerics.Number = 0.5,
) -> Float[Tensor, ""]:
    """Centred kernel alignment of two representations (eq-cka; paper eq. 3).

    The linear kernel takes O(min(n^2 (d1 + d2), n d1 d2 + n d1^2 + n d2^2)) time, and its gradient
    as much again; other kernels, and second derivatives, take O(n^2) memory. Features of any unit
    and mean keep their digits. Half precision is computed in float32, under autocast too.
    torch.compile runs it as it is, outside of its graph: not with ``fullgraph=True``.

    Args:
        x, y: representations of the same n examples, one a row, in the same order.
        kernel: ``"linear"`` (the paper's choice), ``"rbf"``, or a function from (n, d) features,
            as they come but float32 at least, to their symmetric (n, n) Gram matrix.
        debiased: the unbiased HSIC in all three places (eq-debiased; Kornblith et al. 2019). The
            value may be negative and is returned as it is.
        threshold: bandwidth of the RBF kernel as a fraction of the median distance between
            examples (Kornblith et al. 2019); other kernels ignore it.

    Returns:
        A differentiable scalar, float32 at least: from 0 to 1, or at most 1 where debiased.

    Raises:
        ValueError: where the numbers of examples differ or are below 2 (4 debiased), a feature
            is NaN or infinite, or the RBF bandwidth is zero or not finite.
        DegenerateError: (a ``ValueError``) where a representation is constant or otherwise
            without a norm (debiased: all examples equally far apart, or all but one equal).

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [4.0, 3.0], [3.0, 1.0]])
    >>> round(cka(x, 7 * x.flip(1)).item(), 4)  # blind to rotation and scale
    1.0
    >>> round(cka(x, x.flip(0), debiased=True).item(), 4)
    -0.2572
    """
    require_rows(len(x), *numerics.smallest(debiased, "x"))
    if isinstance(kernel, str):
        require_choice(kernel, ("linear", "rbf"), "kernel")
    x, y = numerics.widened(x=x, y=y)
    with numerics.without_autocast(x):
        if kernel == "linear" and not numerics.is_transformed(x, y):
            return numerics.closed_form(x, y, debiased, _products, _gradient, _center_)
        return numerics.by_grams(x, y, kernel, float(threshold), debiased, _center_)


class _Grams(NamedTuple):
    """The left side of eq-sides: centred products of examples, (n, n) each."""

    k: Tensor
    l: Tensor

    def swapped(self) -> "_Grams":
        return _Grams(self.l, self.k)


class _Covariances(NamedTuple):
    """The right side: products of centred features."""

    xy: Tensor
    xx: Tensor
    yy: Tensor
    k_off: Tensor | None = None  # where debiased: the diagonals that U-centring takes off, (n,)
    l_off: Tensor | None = None

    def swapped(self) -> "_Covariances":
        return _Covariances(self.xy.T, self.yy, self.xx, self.l_off, self.k_off)


def _products(x: Tensor, y: Tensor, debiased: bool) -> numerics.Products:
    """<K, L>, <K, K> and <L, L> of centred x and y, from the cheaper side of eq-sides."""
    (n, d1), d2 = x.shape, y.shape[1]
    if n * (d1 + d2) <= d1 * d2 + d1 * d1 + d2 * d2:
        k, l = numerics.self_product(x), numerics.self_product(y)
        biased = numerics.inner(k, k), numerics.inner(l, l)
        if debiased:
            k, l = _center_(k, True), _center_(l, True)  # eq-ucentring
        own = (numerics.inner(k, k), numerics.inner(l, l)) if debiased else biased
        return numerics.Products.read(_Grams(k, l), (numerics.inner(k, l), *own), biased)
    xy, xx, yy = x.T @ y, x.T @ x, y.T @ y
    kl, kk, ll = (numerics.inner(product, product) for product in (xy, xx, yy))  # eq-sides
    if not debiased:
        return numerics.Products.read(_Covariances(xy, xx, yy), (kl, kk, ll), (kk, ll))
    k, l = x.square().sum(1), y.square().sum(1)
    k_off, l_off = _off(k), _off(l)
    side, less = _Covariances(xy, xx, yy, k_off, l_off), (k @ l_off, k @ k_off, l @ l_off)
    return numerics.Products.read(side, (kl, kk, ll), (kk, ll), less)  # eq-debiased


def _off(k: Tensor) -> Tensor:
    """The diagonal that eq-ucentring takes off a doubly centred Gram matrix with diagonal k."""
    n = len(k)
    return torch.sub(k * (n / (n - 2)), k.sum(), alpha=1 / ((n - 1) * (n - 2)))


def _gradient(
    x: Tensor, y: Tensor, side: Any, k_norm: float, l_norm: float, value: float, factor: float
) -> Tensor:
    """factor 2 (L / |L| - CKA K / |K|) X / |K| for centred K and L (eq-gradient)."""
    pull, push = 2 * factor / k_norm / l_norm, 2 * factor * value / k_norm / k_norm
    if isinstance(side, _Grams):
        return torch.sub(side.l * pull, side.k, alpha=push) @ x
    if side.k_off is None:
        return torch.mm(x, side.xx).addmm_(y, side.xy.T, beta=-push, alpha=pull)
    off = torch.sub(side.l_off * pull, side.k_off, alpha=push)
    grad = torch.addcmul(off / len(x) @ x, x, off[:, None], value=-1)  # its columns sum to zero
    return grad.addmm_(y, side.xy.T, alpha=pull).addmm_(x, side.xx, alpha=-push)


@numerics.eager
@torch.no_grad()
def cka_matrix(
    xs: Sequence[Float[Tensor, "n ..."]],
    ys: Sequence[Float[Tensor, "n ..."]] | None = None,
    *,
    debiased: bool = True,
) -> Float[Tensor, "l1 l2"]:
    """Linear CKA of every layer of one network with every layer of another, without gradient.

    O(n^2 D + L1 L2 n^2) time and O((L1 + L2) n^2) memory for D features in all: for more than a
    few thousand examples, accumulate :class:`MinibatchCKA`.

    Args:
        xs: activations of the first network, one tensor a layer, (n, ...) flattened to (n, d).
        ys: activations of the second on the same examples; None compares ``xs`` with itself.
        debiased: as in :func:`cka`, but on by default, since the bias grows with a layer's width.

    Raises:
        ValueError, TypeError: as :func:`cka`, naming the layer; also for an empty list.

    >>> x = torch.arange(24.0).reshape(8, 3).sin()
    >>> [round(value, 4) for value in cka_matrix([x, x.square()]).diagonal().tolist()]
    [1.0, 1.0]
    """
    k, l = numerics.unit_grams(xs, ys, debiased, _center_)
    with numerics.without_autocast(k):
        # eq-debiased, eq-cka; row by row, since one sum over n^2 products would lose digits
        return torch.bmm(k.transpose(0, 1), l.permute(1, 2, 0)).sum(0)


def __getattr__(name: str) -> Any:
    if name == "ModalityAlignment":  # in a file of its own, with a chapter of its own
        return import_module("modalign._cka_alignment").ModalityAlignment
    if name == "MinibatchCKA":  # eq-minibatch; it takes torchmetrics, which is slow to import
        return import_module("modalign._cka_minibatch").MinibatchCKA
    raise AttributeError(f"module 'modalign.cka' has no attribute {name!r}")
