import os
import socket

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from modalign.cka import DegenerateError, MinibatchCKA, cka, hsic

SIZES = [4, 30, 7, 12, 5, 6]


def batches(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for n in SIZES:
        x = torch.randn(n, 5, generator=generator, dtype=dtype)
        y = torch.randn(n, 8, generator=generator, dtype=dtype)
        y[:, :2] += x[:, :2]
        pairs.append((x, y))
    return pairs


def accumulated(pairs):
    metric = MinibatchCKA()
    for x, y in pairs:
        metric.update(x, y)
    return metric.compute()


def written_out(pairs):
    """Each minibatch's unbiased HSIC, weighted by its number of examples."""
    sums = torch.zeros(3, dtype=torch.float64)
    for x, y in pairs:
        x, y = (z.double() - z.double().mean(0) for z in (x, y))
        k, l = x @ x.T, y @ y.T
        terms = [hsic(a, b, unbiased=True) for a, b in ((k, l), (k, k), (l, l))]
        sums += len(x) * torch.stack(terms)
    xy, xx, yy = sums
    return xy / (xx * yy).sqrt()


def test_one_minibatch_is_debiased_cka():
    for x, y in batches():
        torch.testing.assert_close(accumulated([(x, y)]), cka(x, y, debiased=True))


def test_several_minibatches_are_a_weighted_sum():
    found = accumulated(batches())
    torch.testing.assert_close(found, written_out(batches()), rtol=0, atol=1e-12)
    assert found.dtype == torch.float64
    assert found.shape == ()


def test_the_order_of_minibatches_is_irrelevant():
    torch.testing.assert_close(accumulated(batches()[::-1]), accumulated(batches()))


@pytest.mark.parametrize("scale", [1, 1e-4, 1e4, 1e-10, 1e15])
@pytest.mark.parametrize("offset", [0, 300])
def test_float32(offset, scale):
    pairs = [((x + offset) * scale, (y + offset) * scale) for x, y in batches(torch.float32)]
    assert accumulated(pairs).item() == pytest.approx(written_out(pairs).item(), abs=1e-5)


def test_minibatches_of_different_scale_keep_their_weight():
    pairs = [(x * 10**i, y) for i, (x, y) in enumerate(batches())]
    torch.testing.assert_close(accumulated(pairs), written_out(pairs), rtol=0, atol=1e-12)


def test_reset():
    metric = MinibatchCKA()
    metric.update(*batches()[1])
    metric.reset()
    for pair in batches():
        metric.update(*pair)
    torch.testing.assert_close(metric.compute(), written_out(batches()))


def test_a_call_returns_the_value_of_its_minibatch():
    metric = MinibatchCKA()
    for x, y in batches():
        torch.testing.assert_close(metric(x, y), cka(x, y, debiased=True))
    torch.testing.assert_close(metric.compute(), written_out(batches()))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradient(mode):
    with mode():
        found = accumulated(batches())
    assert torch.equal(found, accumulated(batches()))


def test_autocast_changes_nothing():
    expected = accumulated(batches(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(accumulated(batches(torch.float32)), expected)


def test_nothing_is_kept_of_the_graph():
    metric = MinibatchCKA()
    x, y = batches()[1]
    metric.update(x.requires_grad_(), y)
    assert not metric.compute().requires_grad


def test_the_state_survives_saving():
    metric = MinibatchCKA()
    metric.persistent(True)
    for pair in batches():
        metric.update(*pair)
    loaded = MinibatchCKA()
    loaded.load_state_dict(metric.state_dict())
    loaded._update_count = 1  # torchmetrics warns otherwise
    torch.testing.assert_close(loaded.compute(), metric.compute())


def run_rank(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    value = accumulated(batches()[rank::2])
    torch.save(value, os.path.join(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(run_rank, (port, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, accumulated(batches()), rtol=0, atol=1e-12)


def test_compute_before_update():
    with (
        pytest.warns(UserWarning, match=r"before"),
        pytest.raises(ValueError, match=r"call update"),
    ):
        MinibatchCKA().compute()


def test_a_minibatch_of_three():
    x, y = batches()[0]
    with pytest.raises(ValueError, match=r"x: .* at least 4 rows \(examples\), got 3"):
        MinibatchCKA().update(x[:3], y[:3])


@pytest.mark.parametrize("value", [0.0, 0.1, 300.0])
def test_a_constant_minibatch_counts_as_zero(value):
    metric = MinibatchCKA()
    x, y = batches()[1]
    metric.update(x, y)
    expected = metric.compute()
    metric.update(torch.full((9, 5), value), torch.full((9, 8), value))
    torch.testing.assert_close(metric.compute(), expected)


CONSTANT = {
    "zero": torch.zeros(8, 5),
    "0.1": torch.full((8, 5), 0.1),
    "one-hot": torch.eye(8),
    "one-hot, float64": torch.eye(8, dtype=torch.float64),
}


@pytest.mark.parametrize("constant", CONSTANT.values(), ids=CONSTANT.keys())
def test_a_representation_that_never_varies(constant):
    other = torch.randn(8, 3)
    metric = MinibatchCKA()
    for _ in range(2):
        metric.update(constant, other)
    with pytest.raises(ValueError, match=r"x: "):
        metric.compute()
    metric = MinibatchCKA()
    metric.update(other, constant)
    with pytest.raises(ValueError, match=r"y: "):
        metric.compute()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_refused_minibatch_leaves_the_sums_alone(bad):
    metric = MinibatchCKA()
    x, y = batches()[1]
    metric.update(x, y)
    expected = metric.compute()
    with pytest.raises(ValueError, match=r"y: expected finite"):
        metric.update(x, y * bad)
    metric._computed = None
    assert torch.equal(metric.compute(), expected)


X, Y = batches()[1]
REFUSED = {
    "constant, called": (lambda m: m(torch.ones(8, 5), Y[:8].float()), DegenerateError),
    "NaN": (lambda m: m(X * float("nan"), Y), ValueError),
    "NaN, update": (lambda m: m.update(X, Y * float("nan")), ValueError),
    "three rows": (lambda m: m(X[:3], Y[:3]), ValueError),
    "other rows": (lambda m: m(X, Y[:8]), ValueError),
    "whole numbers": (lambda m: m(X.long(), Y), ValueError),
    "a list": (lambda m: m(X.tolist(), Y), TypeError),
    "one argument": (lambda m: m(X), TypeError),
    "no fourth power": (lambda m: m(X, Y * 1e100), ValueError),
    "no fourth power, update": (lambda m: m.update(X * 1e-100, Y), ValueError),
    "sparse": (lambda m: m(X.to_sparse(), Y), ValueError),
    "an unknown argument": (lambda m: m(X, Y, other=True), TypeError),
}


@pytest.mark.parametrize(("call", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_changes_nothing(call, error):
    metric = MinibatchCKA()
    for pair in batches():
        metric(*pair)
    expected, count = metric.compute(), metric.examples.clone()
    with pytest.raises(error):
        call(metric)
    metric._computed = None
    assert torch.equal(metric.compute(), expected)
    assert torch.equal(metric.examples, count)
    assert metric._to_sync
    assert metric._should_unsync
    metric(X, Y)
    assert metric.examples == count + len(X)


def test_an_interrupt_during_a_call_changes_nothing(monkeypatch):
    metric = MinibatchCKA()
    metric(X, Y)
    expected = metric.compute()
    with monkeypatch.context() as patch:
        patch.setattr(metric, "compute", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            metric(X, Y)
    assert metric.examples == len(X)
    metric._computed = None
    assert torch.equal(metric.compute(), expected)


@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.to(torch.float16),
        lambda m: torch.nn.ModuleList([m]).to(torch.bfloat16)[0],
        lambda m: m.half(),
        lambda m: m.set_dtype(torch.float16),
        lambda m: m.to("cpu", torch.float32),
    ],
)
def test_sums_stay_in_float64(cast):
    metric = MinibatchCKA()
    for x, y in batches():
        metric.update(x * 1e-10, y * 1e10)
        metric = cast(metric)
    assert metric.hsic_xx.dtype == metric.examples.dtype == torch.float64
    torch.testing.assert_close(metric.compute(), written_out(batches()), rtol=0, atol=1e-12)


def test_sums_follow_the_default_device():
    with torch.device("meta"):
        metric = MinibatchCKA()
    states = [getattr(metric, name) for name in metric._defaults]
    assert {state.device.type for state in states} == {"meta"}
    assert MinibatchCKA().to("meta").hsic_xy.device.type == "meta"


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-60, 1e60])
def test_scales_whose_squares_leave_the_type(scale):
    dtype = torch.float32 if 1e-35 < scale < 1e35 else torch.float64
    pairs = [(x * scale, y / scale) for x, y in batches(dtype)]
    exact = written_out(batches(dtype)).item()
    assert accumulated(pairs).item() == pytest.approx(exact, abs=1e-5)


def test_a_large_float32_minibatch_counts_by_its_norm():
    x = torch.randn(64, 64)
    metric = MinibatchCKA()
    metric.update(x * 1e37, x * 1e37)
    metric.update(torch.randn(64, 64), torch.randn(64, 64))
    assert metric.compute().item() == pytest.approx(1)
