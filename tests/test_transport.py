import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from modalign.transport import ipot, sinkhorn, transport_cost
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import INF, NAN

EXACT = 0.5428537165785754  # of recipe(), by POT's ot.emd and by SciPy's linprog


def recipe(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal((32, 16)), rng.standard_normal((64, 16))
    x, p = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, p))
    return torch.tensor(1 - x @ p.T, dtype=dtype)


def transcription(
    cost: torch.Tensor, beta: float, outer: int, inner: int, row=None, column=None
) -> torch.Tensor:
    """Algorithm 2 line by line, with the readings of the chapter."""
    n, k = cost.shape
    mu = torch.full((n,), 1 / n, dtype=cost.dtype) if row is None else row
    nu = torch.full((k,), 1 / k, dtype=cost.dtype) if column is None else column
    sigma = torch.full((k,), 1 / k, dtype=cost.dtype)
    plan, kernel = torch.ones_like(cost), torch.exp(-cost / beta)
    for _ in range(outer):
        q = kernel * plan
        for _ in range(inner):
            delta = mu / (q @ sigma)
            sigma = nu / (q.T @ delta)
        plan = torch.diag(delta) @ q @ torch.diag(sigma)
    return plan


@pytest.mark.parametrize("method", ["scaled", "log"])
@pytest.mark.parametrize(("outer", "inner"), [(1, 1), (7, 3), (50, 1)])
def test_is_algorithm_2(method, outer, inner):
    cost = recipe()
    plan = ipot(cost, beta=0.5, outer=outer, inner=inner, method=method)
    torch.testing.assert_close(plan, transcription(cost, 0.5, outer, inner), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("method", ["scaled", "log"])
def test_given_marginals_are_met(method):
    cost, rng = recipe(), np.random.default_rng(1)
    row, column = (torch.tensor(rng.dirichlet(np.ones(n))) for n in cost.shape)
    plan = ipot(cost, row_marginal=row, column_marginal=column, inner=2000, outer=3, method=method)
    expected = transcription(cost, 0.5, 3, 2000, row, column)
    torch.testing.assert_close(plan, expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(plan.sum(1), row, rtol=1e-9, atol=0)
    torch.testing.assert_close(plan.sum(0), column, rtol=1e-12, atol=0)


def test_columns_are_exact_and_rows_are_not():
    plan = ipot(recipe(), beta=0.5, outer=50, inner=1)
    assert (plan.sum(0) - 1 / 64).abs().max() < 1e-15
    assert 1e-6 < (plan.sum(1) - 1 / 32).abs().max() < 1e-3


def test_approaches_the_exact_optimum():
    cost = recipe()
    n, k = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones((1, k))), np.kron(np.ones((1, n)), np.eye(k))
    right = np.concatenate([np.full(n, 1 / n), np.full(k, 1 / k)])
    solved = linprog(cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=right)
    assert solved.fun == pytest.approx(EXACT, abs=1e-9)
    costs = [
        float(transport_cost(ipot(cost, beta=0.5, outer=outer, inner=200), cost))
        for outer in (1, 5, 25, 125)
    ]
    assert all(a > b > EXACT for a, b in itertools.pairwise(costs))
    assert costs[-1] - EXACT < 1e-3


def test_exact_optimum_is_that_of_pot():
    ot = pytest.importorskip("ot", reason="POT is an extra of the tests")
    cost = recipe().numpy()
    plan = ot.emd(np.full(32, 1 / 32), np.full(64, 1 / 64), cost)
    assert (plan * cost).sum() == pytest.approx(EXACT, abs=1e-12)
    assert (plan > 0).sum() == 64  # of at most N + K - 1 = 95


def test_is_sinkhorn_at_beta_over_t():
    cost = recipe()
    for outer in (1, 2, 7):
        ours = ipot(cost, beta=0.5, outer=outer, inner=2000)
        entropic = sinkhorn(cost, epsilon=0.5 / outer, iterations=2000)
        assert (ours - entropic).abs().max() < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 9), k=st.integers(2, 9), outer=st.integers(1, 12), inner=st.integers(1, 3),
    seed=st.integers(0, 99), method=st.sampled_from(["scaled", "log"]),
)  # fmt: skip
def test_cross_ratio(n, k, outer, inner, seed, method):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(n, k, generator=generator, dtype=torch.float64)
    log = ipot(cost, beta=0.3, outer=outer, inner=inner, method=method).log()

    def cross(x):
        return x[0, 0] + x[1, 1] - x[0, 1] - x[1, 0]

    torch.testing.assert_close(cross(log), -outer / 0.3 * cross(cost), rtol=1e-6, atol=1e-8)


def test_batches_are_separate_problems():
    costs = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for method in ("scaled", "log"):
        plans = ipot(costs, method=method)
        for i, j in np.ndindex(2, 3):
            torch.testing.assert_close(plans[i, j], ipot(costs[i, j], method=method))


def test_a_shift_of_a_row_or_a_column_moves_row_scalings_only():
    cost = recipe()
    shifted = cost + torch.arange(32)[:, None]
    torch.testing.assert_close(ipot(shifted), ipot(cost), rtol=1e-6, atol=1e-12)


def test_equal_costs_give_the_product_plan():
    for cost in (torch.zeros(3, 5), torch.full((3, 5), 1e-7), torch.rand(3, 1).expand(3, 5)):
        for method in ("scaled", "log"):
            torch.testing.assert_close(ipot(cost, method=method), torch.full((3, 5), 1 / 15))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 6), (6, 1)])
def test_one_row_or_one_column(n, k):
    for method in ("scaled", "log"):
        torch.testing.assert_close(
            ipot(torch.rand(n, k), method=method), torch.full((n, k), 1 / (n * k))
        )


def test_small_beta_is_right_or_refused():
    """An entry that underflows stays zero, and the plan of finite numbers would be wrong."""
    cost, refused = recipe(torch.float32), []
    for beta in (0.5, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 1e-4):
        true = ipot(cost.double(), beta=beta, method="log").float()
        torch.testing.assert_close(ipot(cost, beta=beta, method="log"), true, rtol=2e-3, atol=1e-6)
        try:
            torch.testing.assert_close(ipot(cost, beta=beta), true, rtol=2e-3, atol=1e-6)
        except FloatingPointError:
            refused.append(beta)
    assert 0.1 not in refused
    assert 1e-4 in refused


def test_refusal_names_a_beta_that_works():
    cost = recipe(torch.float32)
    with pytest.raises(FloatingPointError, match="float32; beta=.* works, and so does method") as e:
        ipot(cost, beta=1e-4)
    works = float(str(e.value).split("beta=")[1].split(" ")[0])
    assert torch.isfinite(ipot(cost, beta=1.01 * works)).all()


def test_half_precision_and_autocast_are_computed_in_float32():
    cost = recipe(torch.float32)
    for dtype in inputs.HALF:
        plan = ipot(cost.to(dtype))
        assert plan.dtype == torch.float32
        torch.testing.assert_close(plan, ipot(cost.to(dtype).float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ipot(cost), ipot(cost))
        plan = ipot(cost)
    torch.testing.assert_close(plan, ipot(cost), rtol=0, atol=0)


def test_plan_has_no_gradient_and_the_cost_has():
    cost = recipe().requires_grad_()
    plan = ipot(cost)
    assert not plan.requires_grad
    transport_cost(plan, cost).backward()
    torch.testing.assert_close(cost.grad, plan)


@pytest.mark.parametrize("method", ["scaled", "log"])
def test_input_stays_as_it_was(method):
    masses = torch.full((32,), 1 / 32), torch.full((64,), 1 / 64)
    asserts.leaves_alone(
        lambda cost, rows, columns: ipot(
            cost, row_marginal=rows, column_marginal=columns, method=method
        ),
        [recipe(torch.float32), *masses],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": torch.tensor([[0.1, -0.4]])}, "of a similarity, pass 1 minus it"),
        ({"cost": torch.zeros(0, 3)}, "at least one row and column"),
        ({"beta": 0.0}, "beta: expected a number above 0"),
        ({"outer": 0}, "outer: expected a number above 0"),
        ({"inner": 0}, "inner: expected a number above 0"),
        ({"method": "fast"}, "method: expected one of scaled, log"),
        ({"row_marginal": torch.tensor([0.7, 0.7])}, "row_marginal: expected masses above 0"),
        ({"row_marginal": torch.tensor([1.0, 0.0])}, "row_marginal: expected masses above 0"),
        ({"row_marginal": torch.tensor([1.5, -0.5])}, "row_marginal: expected masses above 0"),
        ({"column_marginal": torch.tensor([0.5, 0.6])}, "column_marginal: expected masses above"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        ipot(**{"cost": torch.rand(2, 2), **change})


VECTOR = {"a vector": (lambda cost: cost[0], r"got float32 \(2,\)")}
MASSES = {
    "NaN": (lambda masses: masses * NAN, "expected masses above 0"),
    "infinity": (lambda masses: masses * INF, "expected masses above 0"),
    "a matrix": (lambda masses: masses[None], r"got float32 \(1, 2\)"),
    "another length": (lambda masses: masses[1:], r"got float32 \(1,\)"),
    **{name: row for name, row in inputs.WRONG_TYPE.items() if name != "nothing"},
}


@pytest.mark.parametrize("method", ["scaled", "log"])
@inputs.hostile(inputs.WRONG_TYPE, inputs.NOT_FINITE, VECTOR)
def test_cost_is_a_finite_matrix(change, message, method):
    call = functools.partial(ipot, method=method)
    asserts.refuses(call, {"cost": torch.rand(2, 2)}, "cost", change, message)


@pytest.mark.parametrize("name", ["row_marginal", "column_marginal"])
@inputs.hostile(MASSES)
def test_marginals_are_vectors_of_masses(change, message, name):
    good = {"cost": torch.rand(2, 2), name: torch.tensor([0.25, 0.75])}
    asserts.refuses(ipot, good, name, change, message)


@pytest.mark.parametrize("method", ["scaled", "log"])
@inputs.each("change", inputs.STRIDES)
def test_strides(change, method):
    call = functools.partial(ipot, method=method)
    asserts.strides_do_not_matter(call, [recipe()], change, rtol=1e-9, atol=1e-12)


def test_transport_cost_wants_one_shape():
    with pytest.raises(ValueError, match="cost: expected"):
        transport_cost(torch.zeros(2, 3), torch.zeros(3, 2))


def test_a_cosine_that_rounds_above_one_is_accepted():
    assert torch.isfinite(ipot(torch.tensor([[-1e-7, 1.0], [1.0, 0.0]]))).all()


def test_memory_is_two_buffers():
    cost = torch.rand(64, 512)
    ipot(cost, outer=3)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        ipot(cost, outer=30)
    large = sum(
        event.self_cpu_memory_usage for event in profile.events()
        if event.self_cpu_memory_usage >= cost.nbytes
    )  # fmt: skip
    assert large <= 2 * cost.nbytes
