r"""Optimal transport by proximal points (IPOT): a plan that moves N masses to K at little cost.

Labels such as ``eq-codebook-ipot`` are those of the chapter "Codebook", which derives each line.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from modalign._checks import checked, describe, require_choice, require_positive

_METHODS = ("scaled", "log")
_SAFE = 80.0  # exp(-80) is still a normal number in float32


@checked
@torch.no_grad()
def ipot(
    cost: Float[Tensor, "*batch n k"],
    *,
    beta: float = 0.5,
    outer: int = 50,
    inner: int = 1,
    row_marginal: Float[Tensor, " n"] | None = None,
    column_marginal: Float[Tensor, " k"] | None = None,
    method: str = "scaled",
) -> Tensor:
    r"""Solve optimal transport by inexact proximal points (eq-codebook-ipot).

    Algorithm 2 of Duan et al. (2022), after Xie et al. (2019), with the two slips of its print
    mended: delta is the row marginal over Q sigma, with no further n, and sigma is of length K.
    Step t takes Q = A * T (elementwise, A = exp(-cost / beta)) and scales its rows and columns to
    the marginals, ``inner`` times. The first step is Sinkhorn's method, and t steps with a
    converged inner loop are Sinkhorn's at regularisation beta / t: the plan approaches the exact
    one while the kernel A stays harmless.

    Columns are scaled last: **the column marginal is exact to rounding, the row marginal is not**.
    With ``inner=1`` and a small beta the plan may therefore cost less than the optimum. The plan
    carries no gradient. Half precision and autocast are computed in float32.

    Time O(outer inner N K), a third of it in products with vectors. ``"scaled"`` works in place on
    two buffers of N K numbers, one of which it returns; A's rows and columns are divided by their
    largest entry, which changes no plan. At a small beta entries underflow and would stay zero when
    later steps call for them, a wrong plan of finite numbers: that is found and refused. ``"log"``
    survives any beta, at several times the time.

    Args:
        cost: (..., N, K) costs, 0 or above; leading dimensions are separate problems.
        beta: weight of the proximal term (0.5, as in Chen et al. 2020; the paper gives none).
        outer: proximal steps (50, likewise).
        inner: scalings a step (1, likewise).
        row_marginal: (N,) masses above 0 that sum to one; 1/N each by default.
        column_marginal: (K,) masses above 0 that sum to one; 1/K each by default.
        method: ``"scaled"`` or ``"log"``.

    Returns:
        (..., N, K) plan, in float64 if the cost is, else in float32.

    Raises:
        ValueError: for costs that are negative or not finite, an empty cost, marginals that hold
            anything but numbers above 0 or do not sum to one, settings below their range.
        FloatingPointError: if entries underflow that the plan needs; it names a beta that works.

    >>> plan = ipot(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), beta=0.1)
    >>> plan.round(decimals=3)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    require_choice(method, _METHODS, "method")
    require_positive(beta=beta, outer=outer, inner=inner)
    _require_costs(cost)
    wide = cost if cost.dtype == torch.float64 else cost.float()
    mu = _marginal(row_marginal, wide.shape[-2], "row_marginal", like=wide)
    nu = _marginal(column_marginal, wide.shape[-1], "column_marginal", like=wide)
    solve = _scaled if method == "scaled" else _log
    with torch.autocast(cost.device.type, enabled=False):
        plan = solve(wide, mu, nu, beta, outer, inner)
        if torch.isfinite(plan.sum()):
            return plan
        larger = (beta * 2.0**doubling for doubling in range(1, 64))
        plans = ((each, solve(wide, mu, nu, each, outer, inner)) for each in larger)
        works = next((each for each, plan in plans if torch.isfinite(plan.sum())), math.inf)
    raise FloatingPointError(
        f'beta: {beta} with method="{method}" takes entries of the plan out of the range of '
        f"{str(wide.dtype).removeprefix('torch.')}; beta={works:.2g} works"
        + (', and so does method="log"' if method == "scaled" else "")
    )


def _scaled(cost: Tensor, mu: Tensor, nu: Tensor, beta: float, outer: int, inner: int) -> Tensor:
    """Keep the plan as diag(a) P diag(b), so that a step costs one product and two matvecs."""
    kernel, row_low, column_low = _shifted(cost)
    # P shrinks by at most exp(-span) a step: fold a and b in before it leaves float32's range
    span = float(kernel.max()) / beta
    patience = max(1, int(min(_SAFE / 2 / span, outer))) if span else outer
    kernel.div_(-beta).exp_()  # eq-codebook-kernel
    p = torch.ones_like(kernel)
    # sigma is 1 for the kernel before its shift; 1/K would make delta K times larger, and T equal
    sigma = torch.exp(column_low.mT / -beta)
    a, b = torch.ones_like(row_low), torch.ones_like(sigma)
    log_a, log_b = row_low * (outer / beta), column_low * (outer / beta)
    for step in range(1, outer + 1):
        p.mul_(kernel)  # eq-codebook-proximal: Q = A * T
        for _ in range(inner):
            delta = mu / (a * (p @ (b * sigma)))  # eq-codebook-scaling
            sigma = nu / (b * (p.mT @ (a * delta)))
        a, b = a * delta, b * sigma
        if step % patience == 0 or step == outer:
            p.mul_(a).mul_(b.mT)
            log_a, log_b = log_a + a.log(), log_b + b.log().mT
            a, b = torch.ones_like(a), torch.ones_like(b)
    # an entry that underflowed stays zero, though later steps may need it: its column shows that
    torch.add(log_a, cost, alpha=-outer / beta, out=kernel).add_(log_b)
    lost = kernel.exp_().sum(-2) / nu[:, 0] - 1
    return p if (lost.abs() < 0.01).all() else p.fill_(math.nan)


def _log(cost: Tensor, mu: Tensor, nu: Tensor, beta: float, outer: int, inner: int) -> Tensor:
    """Scale rows by a softmax, which needs no delta, and columns by logarithms of their sums."""
    log_mu, log_nu = mu.log(), nu.log().mT
    log_b = log_sigma = torch.zeros_like(cost[..., :1, :])
    scores, shares = torch.empty_like(cost), torch.empty_like(cost)
    for step in range(1, outer + 1):
        for _ in range(inner):
            torch.add(log_b + log_sigma, cost, alpha=-step / beta, out=scores)
            torch.softmax(scores, -1, out=shares)
            column_sum = mu.mT @ shares
            if column_sum.min() > torch.finfo(cost.dtype).tiny ** 0.75:
                log_sum = column_sum.log()
            else:  # a column of zeros: its sum in logarithms
                log_sum = (log_mu + scores.log_softmax(-1)).logsumexp(-2, keepdim=True)
            log_sigma = log_sigma + log_nu - log_sum
        log_b = log_b + log_sigma
    return scores.log_softmax(-1).add_(log_mu).add_(log_nu - log_sum).exp_()


def _shifted(cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Costs minus the smallest of their row, then of their column; and those smallest ones."""
    row_low = cost.amin(-1, keepdim=True)
    shifted = cost - row_low
    column_low = shifted.amin(-2, keepdim=True)
    return shifted.sub_(column_low), row_low, column_low


@checked
def sinkhorn(
    cost: Float[Tensor, "*batch n k"],
    *,
    epsilon: float,
    iterations: int,
    row_marginal: Float[Tensor, " n"] | None = None,
    column_marginal: Float[Tensor, " k"] | None = None,
    method: str = "scaled",
) -> Tensor:
    """Solve entropic optimal transport (eq-codebook-sinkhorn): one proximal step, scaled long.

    Sinkhorn's iteration is IPOT's inner loop on its first kernel, so checks, errors, cost and the
    meaning of the other arguments are those of ``ipot``.

    Args:
        cost: (..., N, K) costs, 0 or above.
        epsilon: weight of the entropy.
        iterations: scalings of rows and columns.
        row_marginal, column_marginal, method: as of ``ipot``.

    Returns:
        (..., N, K) plan; its column marginal is exact to rounding.

    Raises:
        ValueError, FloatingPointError: as ``ipot``.

    >>> sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), epsilon=1.0, iterations=9)
    tensor([[0.3655, 0.1345],
            [0.1345, 0.3655]])
    """
    require_positive(epsilon=epsilon, iterations=iterations)
    return ipot(
        cost,
        beta=epsilon,
        outer=1,
        inner=iterations,
        row_marginal=row_marginal,
        column_marginal=column_marginal,
        method=method,
    )


@checked
def transport_cost(plan: Float[Tensor, "*batch n k"], cost: Float[Tensor, "*batch n k"]) -> Tensor:
    r"""Return :math:`\langle T, D \rangle`, the sum of masses times costs (eq-codebook-cost).

    O(N K) time. Gradients reach both arguments.

    Args:
        plan: (..., N, K) masses.
        cost: (..., N, K) costs.

    Raises:
        ValueError: if the shapes differ.

    >>> transport_cost(torch.eye(2) / 2, torch.tensor([[0.0, 1.0], [1.0, 3.0]]))
    tensor(1.5000)
    """
    return (plan * cost).sum((-2, -1))


def _require_costs(cost: Tensor) -> None:
    """Refuse invalid costs, without a temporary of their size."""
    if not cost.numel():
        raise ValueError(f"cost: expected at least one row and column, got {describe(cost)}")
    low, high = (float(each) for each in cost.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        kind = "NaN" if math.isnan(low) else "an infinity"
        raise ValueError(f"cost: expected finite costs, got {kind}")
    if low < -(torch.finfo(cost.dtype).eps ** 0.5) * max(high, 1.0):  # 1 - cosine may round below 0
        raise ValueError(
            f"cost: expected costs of 0 or above, got {low:.3g}; of a similarity, pass 1 minus it"
        )


def _marginal(masses: Tensor | None, size: int, name: str, *, like: Tensor) -> Tensor:
    """Return masses as a column, uniform if none are given."""
    if masses is None:
        return torch.full((size, 1), 1 / size, dtype=like.dtype, device=like.device)
    total = float(masses.double().sum())
    if not (masses > 0).all() or not abs(total - 1) < 1e-3:
        raise ValueError(
            f"{name}: expected masses above 0 that sum to one, got a smallest of "
            f"{float(masses.min()):.3g} and a sum of {total:.6g}"
        )
    return (masses.to(like) / masses.to(like).sum())[:, None]
