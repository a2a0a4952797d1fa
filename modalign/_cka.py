"""What keeps the digits of ``modalign.cka``: types, scales, and what is only rounding.

The two lines that complete an equation of the chapter carry its label. Numbers that a decision
hangs on are read from the device together, since on a GPU each reading waits for all before it.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from modalign._checks import (
    require_features,
    require_finite,
    require_gram,
    require_layers,
    require_rows,
)

P = ParamSpec("P")
R = TypeVar("R")
# Python's numbers, numpy's, and tensors without dimensions
Number = float | Real | Shaped[Tensor, ""]


class DegenerateError(ValueError):
    """A representation in which nothing varies, so that its CKA with anything is undefined."""


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function as it is where it is called from a compiled one, with all its checks."""
    outside = torch.compiler.disable(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return (outside if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return wrapper


def numbers(*scalars: Tensor) -> list[float]:
    """Read scalars from their device at once."""
    if scalars[0].device.type == "cpu":
        return [scalar.item() for scalar in scalars]
    return torch.stack([scalar.detach() for scalar in scalars]).tolist()


def require_dense(name: str, x: Tensor, like: Tensor) -> None:
    """Refuse tensors that are sparse, without data, or on another device than ``like``."""
    if x.layout != torch.strided or x.is_meta:
        came = "one without data (on meta)" if x.is_meta else f"layout {x.layout}"
        raise ValueError(f"{name}: expected a dense tensor, got {came}")
    if x.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got one on {x.device}")


def widened(**pair: Tensor) -> list[Tensor]:
    """Bring named tensors to one type: float64 where one is, else float32."""
    first, *_ = pair.values()
    for name, x in pair.items():
        require_dense(name, x, first)
    double = any(x.dtype == torch.float64 for x in pair.values())
    return [x.to(torch.float64 if double else torch.float32) for x in pair.values()]


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Products of float32 stay in float32."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def standardize(x: Tensor, name: str, out: Tensor | None = None) -> tuple[Tensor, float]:
    """Centre x, and divide it by its Frobenius norm where that is far from 1; return both.

    The norm is given as 1 where nothing was divided, and as 0 for constant features.
    """
    require_features(x, name)
    mean = x.mean(0)
    centred = torch.sub(x, mean, out=out)  # eq-centring
    norm = torch.linalg.vector_norm
    scale, offset = numbers(norm(centred), norm(mean))
    residue = torch.finfo(x.dtype).eps * len(x) ** 0.5 * offset
    if residue > 3e-4 * scale:  # rounding left too much of a large mean
        centred = centred.sub_(centred.mean(0))
        (scale,) = numbers(norm(centred))
    if 1e-6 < scale < 1e6 and residue < scale:
        return centred, 1.0
    if max(residue, 1e-18) < scale < 1e18:
        return centred.div_(scale), scale
    # Constant features, entries that are not finite, or entries whose squares are not.
    require_finite(x, name)
    if (x == x[:1]).all():
        return centred.zero_(), 0.0
    (peak,) = numbers(x.detach().abs().amax())
    x = x / peak
    centred = torch.sub(x, x.mean(0), out=out)
    centred = centred.sub_(centred.mean(0))
    (scale,) = numbers(norm(centred))
    return centred.div_(scale), scale * peak


def rescaled(k: Tensor, name: str) -> tuple[Tensor, float]:
    """Divide a Gram matrix by its largest entry, so that squares of it are finite."""
    (peak,) = numbers(k.detach().abs().amax())
    info = torch.finfo(k.dtype)
    if 0 < peak < info.tiny / info.eps:
        raise ValueError(
            f"{name}: the largest entry is {peak:.2g}; expected at least {info.tiny / info.eps:.2g}"
            f", since {k.dtype} keeps no digits below that: multiply the features, or pass float64"
        )
    return k / (peak or 1.0), peak


def rescaled_grams(n: int, **grams: Tensor) -> list[tuple[Tensor, float]]:
    """Check named (n, n) Gram matrices, and bring them to one type and to entries of 1 at most."""
    wide = widened(**grams)
    for name, k in grams.items():
        require_gram(k, n, name)
    return [rescaled(k, name) for k, name in zip(wide, grams, strict=True)]


def in_range(value: Tensor, factor: float, what: str) -> Tensor:
    """Multiply a value by a factor, refusing a product that its type cannot hold."""
    product = value * factor
    before, after = numbers(value, product)
    if before and not torch.finfo(value.dtype).tiny <= abs(after) < math.inf:
        raise ValueError(
            f"{what}, {before:.2g} x {factor:.2g}, is out of the range of {value.dtype}: divide or "
            "multiply the features, or pass float64"
        )
    return product


def self_product(x: Tensor, out: Tensor | None = None) -> Tensor:
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


def squared_norms(grams: Tensor) -> Tensor:
    """Row by row, which keeps float32's digits where one sum over n^2 squares would not."""
    norms: Tensor = torch.linalg.vector_norm(grams, dim=2)
    return norms.square().sum(1)


def rounding(biased: Any, x: Tensor, *, difference: bool = False) -> Any:
    """What rounding leaves of a zero |K|^2, which on the feature side is a difference."""
    eps = 8 * torch.finfo(x.dtype).eps
    return biased * (eps if difference else len(x) * eps**2)


def root(square: Any, least: Any, name: str) -> Any:
    """Return |K| of |K|^2, refusing one that is zero but for rounding."""
    if not square > least:
        raise DegenerateError(
            f"{name}: nothing to compare: constant features, or (debiased) all examples equally "
            "far apart or all but one equal"
        )
    return square**0.5


def smallest(debiased: bool, name: str) -> tuple[int, str, str]:
    """The least number of examples, for whom and for what."""
    return (4, name, "debiased CKA") if debiased else (2, name, "CKA")


def is_transformed(*tensors: Tensor) -> bool:
    """Whether torch.func differentiates with respect to one of them; torch.vmap is refused."""
    functorch = torch._C._functorch
    if any(functorch.is_batchedtensor(x) for x in tensors):
        raise ValueError("cka: torch.vmap is not supported; call it in a loop")
    return any(functorch.is_functorch_wrapped_tensor(x) for x in tensors)


def by_grams(
    x: Tensor,
    y: Tensor,
    kernel: str | Callable[[Tensor], Tensor],
    threshold: float,
    debiased: bool,
    center: Callable[[Tensor, bool], Tensor],
) -> Tensor:
    """CKA of any kernel by its (n, n) Gram matrices, differentiated by autograd."""
    k, k_norm = centred_gram(x, "x", kernel, threshold, debiased, center)
    l, l_norm = centred_gram(y, "y", kernel, threshold, debiased, center)
    return inner(k, l) / (k_norm * l_norm)  # eq-cka, eq-debiased


def centred_gram(
    x: Tensor,
    name: str,
    kernel: str | Callable[[Tensor], Tensor],
    threshold: float,
    debiased: bool,
    center: Callable[[Tensor, bool], Tensor],
) -> tuple[Tensor, Tensor]:
    """The centred Gram matrix of a kernel, and its norm."""
    require_features(x, name)
    if callable(kernel):
        require_finite(x, name)
        k = kernel(x)
        require_gram(k, len(x), f"kernel({name})")
        require_dense(f"kernel({name})", k, x)
        k = k.to(torch.promote_types(k.dtype, x.dtype))
    elif kernel == "linear":
        z, _ = standardize(x, name)
        k = z @ z.T
    else:
        k = rbf(x, name, threshold)
    k, _ = rescaled(k, f"kernel({name})")
    for unbiased in (False, True)[: 1 + debiased]:
        least = rounding(k.detach().square().sum(), k)
        k = center(k, unbiased)
        norm = root(k.square().sum(), least, name)
    return k, norm


def rbf(x: Tensor, name: str, threshold: float) -> Tensor:
    """exp(-|x_i - x_j|^2 / 2 (t median)^2) - 1, the median over all pairs with themselves.

    Centring takes any constant off; without the 1, wide kernels keep their digits.
    """
    z, _ = standardize(x, name)
    norms = z.square().sum(1)
    square = (norms + norms[:, None] - 2 * z @ z.T).clamp_min(0).fill_diagonal_(0)
    ordered, middle = square.flatten().sort().values, square.numel() // 2
    median = (ordered[middle] + ordered[(square.numel() - 1) // 2]) / 2
    found, typical = numbers(median, norms.median())
    if x.dtype == torch.float32 and found < 1e-3 * typical:  # most examples equal, or nearly
        return rbf(x.double(), name, threshold).to(x.dtype)
    if not (found > 0 and threshold > 0 and 1e-30 < threshold**2 * found < 1e30):
        raise ValueError(
            f"threshold: the RBF bandwidth of {name} is {threshold} x median distance "
            f"{math.sqrt(found):.3g}; expected a number above 0 (are most examples equal?)"
        )
    return torch.expm1(-square / (2 * threshold**2 * median))


class Products(NamedTuple):
    """Inner products of two centred Gram matrices, and the matrices that they came from."""

    side: Any  # a NamedTuple of tensors, whose swapped() is that of y and x
    terms: list[float]  # <K, L>, <K, K>, <L, L>
    biased: list[float]  # the latter two before debiasing
    difference: bool  # whether debiasing took the terms from the latter

    @classmethod
    def read(
        cls,
        side: Any,
        terms: Sequence[Tensor],
        biased: Sequence[Tensor],
        less: Sequence[Tensor] = (),
    ) -> "Products":
        kl, kk, ll, *rest = numbers(*terms, *biased, *less)
        found = [kl, kk, ll]
        if less:
            found = [term - off for term, off in zip(found, rest[2:], strict=True)]
        return cls(side, found, rest[:2], bool(less))


def inner(k: Tensor, l: Tensor) -> Tensor:
    """<K, L>, summed in pairs, which keeps float32's digits."""
    return (k.square() if k is l else k * l).sum()


class Comparison(NamedTuple):
    """Two representations, centred and divided by their scales, and what their products give."""

    inputs: tuple[Tensor, Tensor]
    scales: tuple[float, float]
    side: Any
    terms: list[float]
    least: list[float]  # what rounding leaves of <K, K> and <L, L> where nothing varies


def compare(x: Tensor, y: Tensor, debiased: bool, products: Callable[..., Products]) -> Comparison:
    """Standardise x and y and multiply them."""
    (a, a_scale), (b, b_scale) = standardize(x, "x"), standardize(y, "y")
    side, terms, biased, difference = products(a, b, debiased)
    # An example far from all others has nearly all of |K| on the diagonal that debiasing takes off
    # again: more digits than float32 has.
    far = terms[1] < 0.01 * biased[0] or terms[2] < 0.01 * biased[1]
    if far and difference and x.dtype == torch.float32:
        return compare(x.double(), y.double(), debiased, products)
    least = [rounding(each, a, difference=difference) for each in biased]
    return Comparison((a, b), (a_scale, b_scale), side, terms, least)


class _ClosedForm(torch.autograd.Function):
    """What :func:`closed_form` calls."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        debiased: bool,
        products: Callable[..., Products],
        gradient: Callable[..., Tensor],
        center: Callable[[Tensor, bool], Tensor],
    ) -> Tensor:
        found = compare(x, y, debiased, products)
        kl, kk, ll = found.terms
        k_norm, l_norm = root(kk, found.least[0], "x"), root(ll, found.least[1], "y")
        value = kl / (k_norm * l_norm)  # eq-cka, eq-debiased
        ctx.debiased, ctx.gradient, ctx.center = debiased, gradient, center
        ctx.side, ctx.value, ctx.norms, ctx.scales = (
            type(found.side),
            value,
            (k_norm, l_norm),
            found.scales,
        )
        inputs = [z.clone() if z.is_inference() else z for z in (x, y)]
        ctx.save_for_backward(*inputs, *found.inputs, *found.side)
        return x.new_full((), value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, a, b, *parts = ctx.saved_tensors
        (k_norm, l_norm), (x_scale, y_scale) = ctx.norms, ctx.scales
        side, value, x_grad, y_grad = ctx.side(*parts), ctx.value, None, None
        with without_autocast(x):
            if torch.is_grad_enabled():  # create_graph=True
                return *second_derivatives(ctx, x, y, grad), None, None, None, None
            weight = grad.item()
            if ctx.needs_input_grad[0]:
                x_grad = ctx.gradient(a, b, side, k_norm, l_norm, value, weight / x_scale)
                x_grad = x_grad.to(x.dtype)
            if ctx.needs_input_grad[1]:
                side = side.swapped()
                y_grad = ctx.gradient(b, a, side, l_norm, k_norm, value, weight / y_scale)
                y_grad = y_grad.to(y.dtype)
        return x_grad, y_grad, None, None, None, None


def closed_form(
    x: Tensor,
    y: Tensor,
    debiased: bool,
    products: Callable[..., Products],
    gradient: Callable[..., Tensor],
    center: Callable[[Tensor, bool], Tensor],
) -> Tensor:
    """A cosine between Gram matrices whose gradient is given; autograd takes second derivatives."""
    value: Tensor = _ClosedForm.apply(x, y, debiased, products, gradient, center)  # type: ignore[no-untyped-call]
    return value


def second_derivatives(ctx: Any, x: Tensor, y: Tensor, grad: Tensor) -> list[Tensor | None]:
    """The same gradients as functions of x and y, which may be one tensor."""
    needed = ctx.needs_input_grad[:2]
    x, y = x.view_as(x), y.view_as(y)
    value = by_grams(x, y, "linear", 0.5, ctx.debiased, ctx.center)
    inputs = [z for z, wanted in zip((x, y), needed, strict=True) if wanted]
    grads = iter(torch.autograd.grad(value, inputs, grad, create_graph=True))
    return [next(grads) if wanted else None for wanted in needed]


def unit_grams(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor] | None,
    debiased: bool,
    center: Callable[[Tensor, bool], Tensor],
) -> list[Tensor]:
    """Centred Gram matrices of norm 1 of the layers of two networks, (layers, n, n) each."""
    networks = {"xs": xs} if ys is None else {"xs": xs, "ys": ys}
    for label, layers in networks.items():
        require_layers(layers, label, like=xs)
        require_rows(len(xs[0]), *smallest(debiased, "xs[0]"))
        for i, layer in enumerate(layers):
            require_dense(f"{label}[{i}]", layer, xs[0])
    double = any(layer.dtype == torch.float64 for layers in networks.values() for layer in layers)
    dtype = torch.float64 if double else torch.float32
    with without_autocast(xs[0]):
        found = [layer_grams(*each, debiased, dtype, center) for each in networks.items()]
    return [found[0], found[-1]]


def layer_grams(
    label: str,
    layers: Sequence[Tensor],
    debiased: bool,
    dtype: torch.dtype,
    center: Callable[[Tensor, bool], Tensor],
) -> Tensor:
    n = len(layers[0])
    grams = torch.empty(len(layers), n, n, dtype=dtype, device=layers[0].device)
    scratch = grams.new_empty(max(layer.numel() for layer in layers))
    for i, layer in enumerate(layers):
        flat = layer.flatten(1).to(dtype)
        centred, _ = standardize(flat, f"{label}[{i}]", scratch[: flat.numel()].view_as(flat))
        self_product(centred, out=grams[i])
    least = rounding(squared_norms(grams), grams[0]).tolist()
    squares = squared_norms(center(grams, True) if debiased else grams).tolist()
    norms = [
        root(*each, f"{label}[{i}]") for i, each in enumerate(zip(squares, least, strict=True))
    ]
    return grams.div_(grams.new_tensor(norms)[:, None, None])
