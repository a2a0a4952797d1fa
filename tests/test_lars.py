"""LARS against LAMB of another package, a literal float64 version, Adam, and its own constraint."""

import copy
import io
import pickle
import socket

import numpy as np
import pytest
import pytorch_optimizer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import distributed, multiprocessing, nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import lr_scheduler, swa_utils

from modalign.lars import LARS
from tests import _inputs as inputs
from tests._inputs import INF, NAN

SHAPES = [(4, 3), (4,), (1,), (), (2, 3, 2), (0, 3)]
DIRECTIONS = [{"direction": "adam"}, {"direction": "sgd"}, {"direction": "sgd", "momentum": 0.9}]
every_direction = pytest.mark.parametrize("options", DIRECTIONS, ids=["adam", "sgd", "momentum"])


def make_parameters(seed=0, dtype=torch.float64, shapes=SHAPES):
    """Tensors of several shapes and scales, the last two of them zero."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randn(s, generator=generator, dtype=torch.float64) * 10.0**i
        for i, s in enumerate(shapes)
    ]
    zeros = [torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    return [nn.Parameter(each.to(dtype)) for each in drawn + zeros]


def set_gradients(parameters, seed):
    """Of scales from 1e-3 to 1e3."""
    generator = torch.Generator().manual_seed(seed)
    for i, parameter in enumerate(parameters):
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = (drawn * 10.0 ** (i % 7 - 3)).to(parameter.dtype)


def run(optimizer, parameters, steps=10, first=0):
    for step in range(first, first + steps):
        set_gradients(parameters, step)
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def literal(parameters, steps=10, *, lr=0.007, betas=(0.9, 0.999), eps=1e-8):
    """LAMB without weight decay, clipping and bounds, tensor by tensor in float64 numpy."""
    ws = [parameter.detach().numpy().astype(np.float64) for parameter in parameters]
    ms, vs = [np.zeros_like(w) for w in ws], [np.zeros_like(w) for w in ws]
    for step in range(1, steps + 1):
        set_gradients(parameters, step - 1)
        for i, parameter in enumerate(parameters):
            g = parameter.grad.numpy().astype(np.float64)
            ms[i] = betas[0] * ms[i] + (1 - betas[0]) * g
            vs[i] = betas[1] * vs[i] + (1 - betas[1]) * g * g
            m_hat, v_hat = ms[i] / (1 - betas[0] ** step), vs[i] / (1 - betas[1] ** step)
            u = m_hat / (np.sqrt(v_hat) + eps)
            w_norm, u_norm = np.sqrt((ws[i] ** 2).sum()), np.sqrt((u**2).sum())
            ratio = w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1.0
            ws[i] = ws[i] - lr * ratio * u
    return [torch.from_numpy(np.asarray(w)) for w in ws]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "options", [{}, {"lr": 0.1}, {"betas": (0.5, 0.7)}, {"eps": 1e-2}, {"betas": (0.0, 0.0)}]
)
def test_literal_version(options, dtype):
    parameters = make_parameters(dtype=dtype)
    expected = literal(make_parameters(dtype=dtype), **options)
    for found, known in zip(run(LARS(parameters, **options), parameters), expected, strict=True):
        scale = max(1.0, known.abs().max().item()) if known.numel() else 1.0
        torch.testing.assert_close(found.double(), known, rtol=0, atol=1e-6 * scale)


def test_lamb_of_another_package():
    """Without eps its missing bias correction is a factor, which dividing by |u| takes out."""
    ours, theirs = (make_parameters()[:-2] for _ in range(2))
    lamb = pytorch_optimizer.Lamb(theirs, lr=0.007, eps=0.0, adam_debias=True)
    lamb.clamp = INF
    for found, known in zip(run(LARS(ours, eps=0.0), ours), run(lamb, theirs), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-9, atol=0)


# ten steps of Lamb(lr=0.007, eps=1e-8, weight_decay=0, max_grad_norm=None, always_adapt=True) of
# timm 1.0.31 on the tensors below; it needs a torchvision made for one build of torch, so that its
# numbers are kept here
TIMM = [
    [
        1.518032243,
        -0.2617713417,
        -2.172500674,
        0.5591021015,
        -1.080886904,
        -1.333593393,
        0.4323635511,
        0.7269959579,
        -0.6743919623,
        -0.339384984,
        -0.5881639079,
        0.06733000739,
    ],
    [-7.743375596, 11.17882707, -10.61147557, 1.385414458],
    [-55.83073384],
    [
        300.6727246,
        -846.0726919,
        -1447.386153,
        324.3458811,
        1512.123335,
        838.4651183,
        815.4946884,
        198.2571821,
        1236.326283,
        -1288.431602,
        -822.76227,
        -21.96164272,
    ],
    [0.007337438314, -0.007366586444, 0.007351980603],
    [-0.006663793005],
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lamb_of_timm(dtype):
    parameters = make_parameters(dtype=dtype, shapes=[(4, 3), (4,), (1,), (2, 3, 2)])
    for found, known in zip(run(LARS(parameters, lr=0.007), parameters), TIMM, strict=True):
        expected = torch.tensor(known, dtype=dtype).view(found.shape)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("momentum", "second"), [(0.0, [2.47525, 3.96]), (0.5, [2.5, 3.5])])
def test_golden(momentum, second):
    """Eq. 2: a tenth of 5 along the first axis; a step of 0.1 g where the weights are zero."""
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    zero = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = LARS([w, zero], lr=0.1, direction="sgd", momentum=momentum)
    w.grad, zero.grad = torch.tensor([[1e-3, 0.0], [2.0, -1.0]]).double()
    optimizer.step()
    torch.testing.assert_close(w.data, torch.tensor([2.5, 4.0]).double())
    torch.testing.assert_close(zero.data, torch.tensor([-0.2, 0.1]).double())
    assert optimizer.trust_ratios() == pytest.approx({w: 5000.0, zero: 1.0})


@every_direction
@settings(max_examples=25)
@given(st.integers(0, 9999), st.floats(1e-4, 0.5), st.integers(1, 6))
def test_a_step_has_the_norm_eta_w(options, seed, lr, steps):
    parameters = make_parameters(seed)
    optimizer = LARS(parameters, lr, **options)
    for step in range(steps):
        before = [parameter.detach().clone() for parameter in parameters]
        after = run(optimizer, parameters, 1, first=seed + step)
        for old, new in zip(before, after, strict=True):
            if old.norm() > 0:
                assert (new - old).norm().item() == pytest.approx(lr * old.norm().item(), rel=1e-9)
            elif old.numel():
                assert (new - old).norm() > 0


@every_direction
def test_trust_ratios(options):
    parameters = make_parameters()
    optimizer = LARS(parameters, **options)
    assert optimizer.trust_ratios() == {}
    for step in range(3):
        before = [parameter.detach().clone() for parameter in parameters]
        run(optimizer, parameters, 1, first=step)
        ratios = optimizer.trust_ratios()
        assert list(map(id, ratios)) == list(map(id, parameters))
        if step == 0:
            u = [p.grad if options["direction"] == "sgd" else p.grad.sign() for p in parameters]
            for old, parameter, direction in zip(before, parameters, u, strict=True):
                if old.norm() > 0:
                    expected = (old.norm() / direction.norm()).item()
                    assert ratios[parameter] == pytest.approx(expected, rel=1e-3)
                else:
                    assert ratios[parameter] == 1


def test_direction_is_that_of_adam_and_of_sgd():
    for options, peer in [
        ({}, lambda p: torch.optim.Adam(p, lr=0.01)),
        ({"betas": (0.8, 0.9), "eps": 0.1}, lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.9), 0.1)),
        ({"direction": "sgd"}, lambda p: torch.optim.SGD(p, lr=0.01)),
        ({"direction": "sgd", "momentum": 0.7}, lambda p: torch.optim.SGD(p, 0.01, 0.7)),
    ]:
        for step in range(4):
            ours, theirs = make_parameters(), make_parameters()
            moves = []
            for parameters, optimizer in ((ours, LARS(ours, **options)), (theirs, peer(theirs))):
                for earlier in range(step):
                    set_gradients(parameters, earlier)
                    optimizer.param_groups[0]["lr"] = 0.0
                    optimizer.step()
                optimizer.param_groups[0]["lr"] = 0.01
                before = [parameter.detach().clone() for parameter in parameters]
                after = run(optimizer, parameters, 1, first=step)
                moves.append([new - old for new, old in zip(after, before, strict=True)])
            for i, (ours_move, theirs_move) in enumerate(zip(*moves, strict=True)):
                if i < len(SHAPES):
                    ours_move, theirs_move = (
                        nn.functional.normalize(move.flatten(), dim=0)
                        for move in (ours_move, theirs_move)
                    )
                torch.testing.assert_close(ours_move, theirs_move, rtol=1e-6, atol=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([1e-10, 1e-3, 1e3, 1e15]))
def test_the_scale_of_the_gradient_does_not_matter(seed, scale):
    """Eq. 2 takes it out, with Adam's direction too where eps is small beside the gradient."""
    for options in ({"direction": "sgd"}, {"direction": "sgd", "momentum": 0.9}, {"eps": 1e-30}):
        plain, scaled = make_parameters(seed)[:-2], make_parameters(seed)[:-2]
        one, other = LARS(plain, **options), LARS(scaled, **options)
        for step in range(3):
            set_gradients(plain, step)
            for parameter, like in zip(scaled, plain, strict=True):
                parameter.grad = like.grad * scale
            one.step(), other.step()
        for a, b in zip(plain, scaled, strict=True):
            torch.testing.assert_close(a.data, b.data, rtol=1e-6, atol=0)


@every_direction
@pytest.mark.parametrize("scale", [1e-10, 1e15])
def test_scales_of_weights_in_float32(options, scale):
    parameters = [nn.Parameter(p.data * scale) for p in make_parameters(dtype=torch.float32)[:2]]
    before = [parameter.detach().clone() for parameter in parameters]
    after = run(LARS(parameters, **options), parameters, 1)
    for old, new in zip(before, after, strict=True):
        assert ((new - old).norm() / old.norm()).item() == pytest.approx(0.007, rel=1e-4)


@every_direction
def test_zero_gradients_move_nothing_and_missing_ones_are_skipped(options):
    parameters = make_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = LARS(parameters, **options)
    optimizer.step()
    assert not optimizer.state
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, parameters, strict=True):
        assert torch.equal(old, new)
    assert set(optimizer.trust_ratios().values()) == {1.0}


def test_tensors_whose_gradient_comes_late_count_their_own_steps():
    together, late = make_parameters(), make_parameters()
    expected = run(LARS(together), together, 3)
    optimizer = LARS(late)
    for parameter in late[:2]:
        parameter.grad = torch.ones_like(parameter)
    keep = [parameter.detach().clone() for parameter in late[:2]]
    optimizer.step()
    for parameter, old in zip(late[:2], keep, strict=True):
        parameter.data = old
    for found, known in list(zip(run(optimizer, late, 3), expected, strict=True))[2:]:
        torch.testing.assert_close(found, known)


@every_direction
def test_state_dict_round_trip(options):
    whole, parts = make_parameters(), make_parameters()
    expected = run(LARS(whole, lr=0.02, **options), whole, 6)
    run(optimizer := LARS(parts, lr=0.02, **options), parts, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = LARS(parts, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for found, known in zip(run(resumed, parts, 3, first=3), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=0, atol=0)


def test_copies_and_pickles():
    parameters = make_parameters()
    run(optimizer := LARS(parameters), parameters, 2)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.trust_ratios() == {}
        found = run(other, other.param_groups[0]["params"], 2, first=2)
        twin = make_parameters()
        for a, b in zip(found, run(LARS(twin), twin, 4), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=2),
    "LinearLR": lr_scheduler.LinearLR,
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: step / 5),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=6),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.5, anneal_epochs=3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.5)]
    ),
}


@every_direction
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_schedulers(scheduler, options):
    parameters = make_parameters()
    optimizer = LARS(parameters, 0.05, **options)
    schedule = scheduler(optimizer)
    rates = []
    for step in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        old = parameters[0].detach().clone()
        run(optimizer, parameters, 1, first=step)
        moved = (parameters[0] - old).norm().item()
        assert moved == pytest.approx(rates[-1] * old.norm().item(), rel=1e-9)
        plateau = isinstance(schedule, lr_scheduler.ReduceLROnPlateau)
        schedule.step(1.0) if plateau else schedule.step()
    assert len(set(rates)) > 1


def test_groups():
    parameters = make_parameters()
    first, second = parameters[:3], parameters[3:]
    groups = [{"params": first, "lr": 0.1, "betas": (0.5, 0.5)}, {"params": iter(second)}]
    found = run(LARS(groups), parameters)
    alone = make_parameters()
    expected = run(LARS(alone[:3], 0.1, betas=(0.5, 0.5)), alone)[:3]
    alone = make_parameters()
    expected += run(LARS(alone[3:]), alone)[3:]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_group_added_later():
    parameters = make_parameters()
    optimizer = LARS(parameters[:2])
    optimizer.add_param_group({"params": parameters[2], "lr": 0.2})
    old = parameters[2].detach().clone()
    run(optimizer, parameters, 1)
    assert (parameters[2] - old).norm().item() == pytest.approx(0.2 * old.norm().item())


def test_blocks_and_dtypes_change_nothing():
    """More numbers than one block holds, in three types, beside each tensor alone."""
    shapes, types = [(600, 500), (600, 500), (400,), (600, 500)], [torch.float32, torch.float64]
    drawn = [torch.randn(shape).to(dtype) for shape in shapes for dtype in types]
    gradients = [torch.randn_like(each) for each in drawn]
    together = [nn.Parameter(each.clone()) for each in drawn]
    alone = [nn.Parameter(each.clone()) for each in drawn]
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    optimizer = LARS(together)
    optimizer.step()
    for parameter, other in zip(together, alone, strict=True):
        LARS([other]).step()
        assert torch.equal(parameter, other)
    assert len(optimizer.trust_ratios()) == len(together)


@every_direction
@pytest.mark.parametrize("dtype", inputs.HALF)
def test_half_precision_is_refused(options, dtype):
    """At construction, in a group added later, and for a module that was cast afterwards."""
    message = r"params: expected float32 or float64, got b?float16 \(3,\); .*autocast"
    half, w = nn.Parameter(torch.ones(3, dtype=dtype)), nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match=message):
        LARS([half], **options)
    optimizer = LARS([w], **options)
    with pytest.raises(TypeError, match=message):
        optimizer.add_param_group({"params": [half]})
    assert len(optimizer.param_groups) == 1
    w.data = w.data.to(dtype)
    w.grad = torch.ones_like(w)
    with pytest.raises(TypeError, match=message):
        optimizer.step()
    assert not optimizer.state


@every_direction
@inputs.each("change", inputs.STRIDES)
def test_strides_do_not_matter(change, options):
    plain = [make_parameters()[0], make_parameters()[4]]
    strided = [nn.Parameter(change(each.data)) for each in plain]
    found, known = (run(LARS(each, **options), each) for each in (strided, plain))
    torch.testing.assert_close(found, known)


@every_direction
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_that_is_not_finite_stays_with_its_tensor(options, value):
    parameters, clean = make_parameters(), make_parameters()
    set_gradients(parameters, 0)
    parameters[0].grad[1, 1] = value
    LARS(parameters, **options).step()
    assert not parameters[0].isfinite().all()
    expected = run(LARS(clean, **options), clean, 1)
    for found, known in list(zip(parameters, expected, strict=True))[1:]:
        assert torch.equal(found, known)


def test_grad_scaler_skips_overflow_and_unscales():
    scaled, plain = (
        make_parameters(dtype=torch.float32)[:2],
        make_parameters(dtype=torch.float32)[:2],
    )
    optimizer, scaler = LARS(scaled), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(4):
        optimizer.zero_grad()
        set_gradients(plain, step)
        loss = sum((p * q.grad).sum() for p, q in zip(scaled, plain, strict=True))
        scaler.scale(loss * (INF if step == 1 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**9
    optimizer = LARS(plain)
    for step in (0, 2, 3):
        set_gradients(plain, step)
        optimizer.step()
    for a, b in zip(scaled, plain, strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=1e-5, atol=1e-7)


def test_closure():
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LARS([w], lr=0.1, direction="sgd")

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(25.0)
    torch.testing.assert_close(w.data, torch.tensor([2.7, 3.6]))
    assert optimizer.step() is None


def test_it_trains_a_network():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    y = (x[:, :1] - 2 * x[:, 1:2]).tanh()
    for options in DIRECTIONS:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = LARS(network.parameters(), 0.02, **options)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            loss = (network(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.1 * losses[0]


REFUSED = {
    "weight decay": ({"weight_decay": 0.1}, TypeError, "weight_decay"),
    "capturable": ({"capturable": True}, TypeError, "capturable"),
    "negative rate": ({"lr": -0.1}, ValueError, "lr: expected a number from 0.*got -0.1"),
    "NaN rate": ({"lr": NAN}, ValueError, "lr: .*got nan"),
    "infinite rate": ({"lr": INF}, ValueError, "lr: .*got inf"),
    "rates": ({"lr": torch.ones(2)}, TypeError, r"lr: expected a number, got float32 \(2,\)"),
    "rate as a text": ({"lr": "0.1"}, TypeError, "lr: expected a number, got str '0.1'"),
    "NaN tensor rate": ({"lr": torch.tensor(NAN)}, ValueError, "lr: .*got nan"),
    "tensor beta": ({"betas": (torch.tensor(0.9), 0.9)}, TypeError, r"betas\[0\]: .*float32 \(\)"),
    "maximize": ({"maximize": "yes"}, TypeError, "maximize: expected True or False, got str"),
    "foreach": ({"foreach": 1}, TypeError, "foreach: expected True or False, got int 1"),
    "betas with sgd": (
        {"betas": (0.5, 0.9), "direction": "sgd"},
        ValueError,
        r"betas: expected none, as LARS with direction='sgd'.*got \(0.5, 0.9\)",
    ),
    "eps with sgd": ({"eps": 1e-3, "direction": "sgd"}, ValueError, "eps: expected none"),
    "direction": ({"direction": "Adam"}, ValueError, "direction: expected one of .*'adam'"),
    "beta of 1": ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]: .*below 1, got 1.0"),
    "one beta": ({"betas": (0.9,)}, TypeError, "betas: expected tuple"),
    "negative eps": ({"eps": -1.0}, ValueError, "eps: .*got -1"),
    "momentum of 1": ({"momentum": 1.0, "direction": "sgd"}, ValueError, "momentum: .*got 1.0"),
    "momentum with adam": (
        {"momentum": 0.9},
        ValueError,
        "momentum: expected none.*'adam'.*got 0.9",
    ),
}


@pytest.mark.parametrize(("options", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        LARS(make_parameters(), **options)


GROUPS = {
    "another direction": ({"direction": "sgd"}, "direction: expected 'adam' in every group"),
    "negative rate": ({"lr": -1.0}, "lr: .*got -1"),
    "betas": ({"betas": (2.0, 0.9)}, r"betas\[0\]: .*got 2.0"),
    **{
        name: ({name: 0.1}, f"{name}: expected none, as LARS with direction='adam'.*got 0.1")
        for name in (
            "weight_decay",
            "momentum",
            "dampening",
            "nesterov",
            "amsgrad",
            "capturable",
            "differentiable",
            "fused",
        )
    },
}


@pytest.mark.parametrize(("options", "message"), GROUPS.values(), ids=GROUPS.keys())
def test_refused_in_a_group(options, message):
    parameters = make_parameters()
    with pytest.raises(ValueError, match=message):
        LARS([{"params": parameters, **options}])
    optimizer = LARS(parameters[:1])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": parameters[1:], **options})
    assert len(optimizer.param_groups) == 1


def test_no_parameters():
    with pytest.raises(ValueError, match="empty parameter list"):
        LARS([])


@every_direction
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.int64, torch.bool])
def test_parameters_that_are_no_real_numbers(dtype, options):
    w = nn.Parameter(torch.zeros(3, dtype=dtype), requires_grad=False)
    with pytest.raises(TypeError, match=r"params: expected float32 or float64, got \w+ \(3,\)"):
        LARS([w], **options)


@every_direction
def test_sparse_gradients(options):
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"params: .*sparse one; pass sparse=False"):
        LARS(embedding.parameters(), **options).step()


@every_direction
def test_a_refused_step_moves_nothing(options):
    """One sparse gradient among dense ones, last in line."""
    embedding, w = nn.Embedding(5, 3, sparse=True), nn.Parameter(torch.ones(3))
    embedding(torch.tensor([1, 2])).sum().backward()
    w.grad = torch.ones(3)
    optimizer = LARS([w, *embedding.parameters()], **options)
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(w.data, torch.ones(3))
    assert not optimizer.state


@every_direction
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("maximize", [False, True])
def test_the_literal_step_is_the_fast_one(options, dtype, maximize):
    literal_ones, fast = make_parameters(dtype=dtype), make_parameters(dtype=dtype)
    optimizers = [
        LARS(parameters, foreach=foreach, maximize=maximize, **options)
        for parameters, foreach in ((literal_ones, False), (fast, None))
    ]
    found, expected = (
        run(optimizer, parameters)
        for optimizer, parameters in zip(optimizers, (literal_ones, fast), strict=True)
    )
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0.1 * rtol)
    ratios = [list(optimizer.trust_ratios().values()) for optimizer in optimizers]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-3 if dtype == torch.float32 else 1e-9)


@every_direction
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("of_w", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("of_g", [1e-30, 1e-22, 1.0, 1e18])
def test_scales_in_float32(options, foreach, of_w, of_g):
    """Norms whose squares float32 does not hold; the ratio of w and u is up to 1e60 here."""
    w = nn.Parameter(torch.tensor([3.0, 4.0]) * of_w)
    before, g = w.detach().double(), torch.tensor([1.0, -2.0]) * of_g
    optimizer = LARS([w], lr=0.1, foreach=foreach, **options)
    w.grad = g.clone()
    optimizer.step()
    if options["direction"] == "adam" and foreach is None and of_w > 1 > 1e8 * of_g:
        assert not w.isfinite().any()  # the ratio itself is beyond float32
        return
    moved = (w.detach().double() - before) / before.norm()
    u = g.double() / of_g
    if options["direction"] == "adam":
        u = g.double() / (g.double().abs() + 1e-8)
    torch.testing.assert_close(moved, -0.1 * u / u.norm(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("scale", [1e25, 1e30])
def test_a_gradient_whose_square_overflows_is_not_silent(foreach, scale):
    """It would have made v infinite, and u zero for ever."""
    w, other = (nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    w.grad, other.grad = torch.tensor([scale, 1.0]), torch.ones(2)
    LARS([w, other], foreach=foreach).step()
    assert w.isnan().all()
    assert other.isfinite().all()
    assert (other != torch.tensor([3.0, 4.0])).all()


@every_direction
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_that_is_not_finite_is_seen_in_the_whole_tensor(options, foreach, value):
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    w.grad = torch.tensor([value, 1.0])
    LARS([w], foreach=foreach, **options).step()
    assert w.isnan().all()


@every_direction
def test_maximize_is_the_step_of_the_opposite_gradient(options):
    up, down = make_parameters(), make_parameters()
    one, other = LARS(up, maximize=True, **options), LARS(down, **options)
    for step in range(3):
        set_gradients(up, step), set_gradients(down, step)
        for parameter in down:
            parameter.grad.neg_()
        one.step(), other.step()
    for a, b in zip(up, down, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@every_direction
@pytest.mark.parametrize("foreach", [None, False])
def test_a_rate_that_is_a_tensor(options, foreach):
    rate = torch.tensor(0.02, dtype=torch.float64)
    one, other = make_parameters(), make_parameters()
    found = run(LARS(one, rate, foreach=foreach, **options), one, 3)
    expected = run(LARS(other, 0.02, foreach=foreach, **options), other, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_named_parameters():
    if Version(torch.__version__) < Version("2.6"):
        pytest.skip(f"the optimizers of torch {torch.__version__} take no names")
    network, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(network.state_dict())
    optimizer, plain = LARS(network.named_parameters()), LARS(twin.parameters())
    for each in (network, twin):
        each(torch.ones(4, 3)).square().sum().backward()
    optimizer.step(), plain.step()
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert torch.equal(network.weight, twin.weight)
    with pytest.raises(ValueError, match="without names"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("options", DIRECTIONS)
def test_parameters_on_meta(options):
    w = nn.Parameter(torch.ones(3, device="meta"))
    w.grad = torch.ones_like(w)
    LARS([w], **options).step()
    assert w.device.type == "meta"


def test_a_step_under_another_default_device():
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    w.grad = torch.tensor([1e-3, 0.0])
    for foreach in (None, False):
        with torch.device("meta"):
            optimizer = LARS([w], lr=0.1, direction="sgd", foreach=foreach)
            optimizer.step()
        assert optimizer.trust_ratios()[w] > 0
    torch.testing.assert_close(w.data, torch.tensor([3 - 0.5 - 0.1 * (2.5**2 + 16) ** 0.5, 4]))


def test_hooks():
    w, seen = nn.Parameter(torch.ones(2)), []
    optimizer = LARS([w])
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", w.detach().clone())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", w.detach().clone())))
    w.grad = torch.ones(2)
    optimizer.step()
    assert [name for name, _ in seen] == ["before", "after"]
    torch.testing.assert_close(seen[1][1], seen[0][1] * 0.993)


def test_state_of_another_dtype_and_of_an_older_version():
    parameters, single = make_parameters(), make_parameters(dtype=torch.float32)
    run(optimizer := LARS(parameters), parameters, 2)
    state = optimizer.state_dict()
    for name in ("maximize", "foreach"):
        del state["param_groups"][0][name]
    resumed = LARS(single)
    resumed.load_state_dict(state)
    moments = resumed.state[single[0]]
    assert (moments["step"], moments["exp_avg"].dtype) == (2, torch.float32)
    set_gradients(single, 2)
    resumed.step()
    assert all(parameter.isfinite().all() for parameter in single)


def test_state_of_adam_is_gone_on_from():
    """Its moments are ours, and it counts steps in tensors."""
    ours, theirs = make_parameters(), make_parameters()
    run(adam := torch.optim.Adam(theirs), theirs, 2)
    run(plain := LARS(ours), ours, 2)
    resumed = LARS(theirs)
    resumed.load_state_dict(adam.state_dict())
    for parameter, like in zip(theirs, ours, strict=True):
        parameter.data = like.data.clone()
    resumed.param_groups[0]["lr"] = 0.007
    found, expected = run(resumed, theirs, 2, first=2), run(plain, ours, 2, first=2)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.optim.AdamW, "weight_decay: expected none.*got 0.01"),
        (lambda p: LARS(p, direction="sgd"), "direction: expected 'adam' in every group"),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), "momentum: expected none"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(other, message):
    parameters = make_parameters()
    run(optimizer := LARS(parameters), parameters, 2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(other(make_parameters()).state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


def left_out(parameters, **options):
    """Groups as many libraries make them: vectors and numbers are not scaled."""
    plain = [p for p in parameters if p.dim() < 2]
    rest = [p for p in parameters if p.dim() >= 2]
    return [{"params": rest}, {"params": plain, "adapt": False, **options}]


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize(
    ("options", "peer"),
    [
        ({}, torch.optim.Adam),
        ({"betas": (0.5, 0.9), "eps": 1e-3}, torch.optim.Adam),
        ({"direction": "sgd"}, torch.optim.SGD),
        ({"direction": "sgd", "momentum": 0.9}, torch.optim.SGD),
    ],
    ids=["adam", "adam's settings", "sgd", "momentum"],
)
def test_what_is_left_out_of_the_scaling_moves_as_by_adam_or_sgd(options, peer, foreach):
    ours, theirs, scaled = make_parameters(), make_parameters(), make_parameters()
    optimizer = LARS(left_out(ours, lr=0.01), 0.05, foreach=foreach, **options)
    settings = {name: value for name, value in options.items() if name != "direction"}
    found = run(optimizer, ours)
    expected = run(peer(theirs, lr=0.01, **settings), theirs)
    all_scaled = run(LARS(scaled, 0.05, foreach=foreach, **options), scaled)
    for i, parameter in enumerate(ours):
        known = expected[i] if parameter.dim() < 2 else all_scaled[i]
        torch.testing.assert_close(found[i], known, rtol=1e-9, atol=1e-12)
    ratios = optimizer.trust_ratios()
    assert {ratios[p] for p in ours if p.dim() < 2} == {1.0}


def test_lars_of_another_package_which_leaves_vectors_out():
    """Its rate and its trust coefficient are factors of ours."""
    ours, theirs = (make_parameters()[:-3] for _ in range(2))
    found = run(LARS(left_out(ours, lr=0.1), 0.1 * 0.02, direction="sgd"), ours)
    peer = pytorch_optimizer.LARS(theirs, lr=0.1, momentum=0.0, trust_coefficient=0.02)
    for a, b in zip(found, run(peer, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


def larc(parameters, steps, *, lr, trust_coefficient):
    """LARC with clipping (You et al. 2017, as NVIDIA's apex has it) in front of SGD."""
    ws = [parameter.detach().clone() for parameter in parameters]
    for step in range(steps):
        set_gradients(parameters, step)
        for w, parameter in zip(ws, parameters, strict=True):
            g = parameter.grad
            if w.norm() != 0 and g.norm() != 0:
                adaptive = trust_coefficient * w.norm() / g.norm()
                g = g * min(adaptive / lr, 1)
            w -= lr * g
    return ws


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("lr", [1e-4, 1e-2, 1.0])
def test_a_bound_on_the_ratio_is_the_clipping_of_larc(lr, foreach):
    """But for tensors of zeros, whose rate there is the clipped one at once."""
    eta, parameters = 0.02, make_parameters()[:-2]
    expected = larc(make_parameters()[:-2], 6, lr=lr, trust_coefficient=eta)
    optimizer = LARS(parameters, eta, direction="sgd", trust_clip=lr / eta, foreach=foreach)
    for found, known in zip(run(optimizer, parameters, 6), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-12)


@every_direction
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("most", [1e-3, 1, 30.0])
def test_a_bound_on_the_ratio(options, foreach, most):
    """It is the smaller of the bound and of what the ratio is without one, zero norms included."""
    bound, free = make_parameters(), make_parameters()
    clipped = LARS(bound, trust_clip=most, foreach=foreach, **options)
    plain = LARS(free, foreach=foreach, **options)
    before = [parameter.detach().clone() for parameter in free]
    after, unbound = run(clipped, bound, 1), run(plain, free, 1)
    of = plain.trust_ratios()
    for i, (p, q) in enumerate(zip(bound, free, strict=True)):
        expected = min(of[q], most)
        assert clipped.trust_ratios()[p] == pytest.approx(expected)
        moves = after[i] - before[i], (unbound[i] - before[i]) * (expected / of[q])
        torch.testing.assert_close(*moves, rtol=1e-6, atol=1e-9)
    assert any(of[q] > most for q in free)


@every_direction
def test_a_bound_that_is_never_met_changes_nothing(options):
    found = []
    for more in ({}, {"trust_clip": 1e12}, {"trust_clip": None, "adapt": True}):
        parameters = make_parameters()
        found.append(run(LARS(parameters, **options, **more), parameters))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)


@every_direction
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("more", [{"adapt": False}, {"trust_clip": 0.5}], ids=["left", "bound"])
def test_a_gradient_of_nan_stays_in_its_tensor_there_too(options, more, foreach):
    parameters = make_parameters()
    set_gradients(parameters, 0)
    parameters[0].grad[0, 0] = NAN
    LARS(parameters, foreach=foreach, **more, **options).step()
    assert parameters[0].isnan().any()
    assert all(p.isfinite().all() for p in parameters[1:])


@every_direction
def test_flags_of_groups_come_back(options):
    """Through a file, a copy and a pickle; a checkpoint of before they existed takes nothing."""
    whole, parts = make_parameters(), make_parameters()
    settings = {"trust_clip": 2.0, **options}
    expected = run(LARS(left_out(whole, lr=0.01), **settings), whole, 6)
    run(optimizer := LARS(left_out(parts, lr=0.01), **settings), parts, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert [group["adapt"] for group in state["param_groups"]] == [True, False]
    copied = pickle.loads(pickle.dumps(optimizer))
    bare = LARS([{"params": group["params"]} for group in optimizer.param_groups], **options)
    bare.load_state_dict(state)  # what the checkpoint says counts
    moved = [p for group in copied.param_groups for p in group["params"]]
    for other, parameters in ((copied, moved), (bare, parts)):
        order = parameters if other is bare else [moved[i] for i in reorder(parts)]
        for found, known in zip(run(other, order, 3, first=3), expected, strict=True):
            torch.testing.assert_close(found, known, rtol=0, atol=0)


def reorder(parameters):
    """Where each parameter is in the groups of left_out."""
    grouped = [p for group in left_out(parameters) for p in group["params"]]
    return [next(i for i, q in enumerate(grouped) if q is p) for p in parameters]


def without_flags(optimizer):
    """The state dict as it was before there were flags."""
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        del group["adapt"], group["trust_clip"]
    return state


@every_direction
def test_an_older_checkpoint_goes_on_as_it_did(options):
    whole, parts = make_parameters(), make_parameters()
    expected = run(LARS(whole, **options), whole, 6)
    run(optimizer := LARS(parts, **options), parts, 3)
    resumed = LARS(parts, **options)
    resumed.load_state_dict(without_flags(optimizer))
    for found, known in zip(run(resumed, parts, 3, first=3), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=0, atol=0)


def test_flags_that_a_checkpoint_does_not_say_stay_as_groups_were_made():
    parameters = make_parameters()
    run(optimizer := LARS(left_out(parameters)), parameters, 2)
    resumed = LARS(left_out(parameters), trust_clip=3.0)
    resumed.load_state_dict(without_flags(optimizer))
    assert [group["adapt"] for group in resumed.param_groups] == [True, False]
    assert [group["trust_clip"] for group in resumed.param_groups] == [3.0, 3.0]


@pytest.mark.parametrize("where", ["everywhere", "in a group", "in a state"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trust_clip": 0}, ValueError, "trust_clip: expected a number above 0 or None, got 0"),
        ({"trust_clip": -1.0}, ValueError, "trust_clip: .*got -1.0"),
        ({"trust_clip": NAN}, ValueError, "trust_clip: .*got nan"),
        ({"trust_clip": INF}, ValueError, "trust_clip: .*got inf"),
        ({"trust_clip": True}, TypeError, "trust_clip: expected a number or None, got bool True"),
        ({"trust_clip": "1"}, TypeError, "trust_clip: .*got str '1'"),
        ({"adapt": None}, TypeError, "adapt: expected True or False, got NoneType"),
        ({"adapt": 0}, TypeError, "adapt: expected True or False, got int 0"),
        ({"weight_decay": 0.1}, ValueError, "weight_decay: expected none"),
    ],
)
def test_flags_that_do_not_fit_are_refused(options, error, message, where):
    parameters = make_parameters()
    if where == "everywhere" and "weight_decay" in options:
        error, message = TypeError, "weight_decay"
    made = LARS(parameters)
    state = made.state_dict()
    state["param_groups"][0] |= options
    calls = {
        "everywhere": lambda: LARS(parameters, **options),
        "in a group": lambda: LARS([{"params": parameters, **options}]),
        "in a state": lambda: made.load_state_dict(state),
    }
    with pytest.raises(error, match=message):
        calls[where]()


def test_the_capture_of_a_cuda_graph_is_refused(monkeypatch):
    """Its replay would count no steps; without a GPU here, as torch says that one is captured."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    parameters = make_parameters()
    set_gradients(parameters, 0)
    optimizer = LARS(parameters)
    with pytest.raises(RuntimeError, match="step: expected no capture of a CUDA graph"):
        optimizer.step()
    assert not optimizer.state


def shards(rank, world, port, folder):
    """Train networks as shards and whole, and write down how far they are apart."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    x, found = inputs.draw(8, 5, dtype=torch.float64), []
    for options in DIRECTIONS:
        whole = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)).double()
        for parameter in whole.parameters():
            parameter.data = inputs.draw(*parameter.shape, dtype=torch.float64)
        nn.init.zeros_(whole[0].bias)
        sharded = copy.deepcopy(whole)
        fully_shard(sharded, mesh=init_device_mesh("cpu", (world,)))
        pairs = [(each, LARS(each.parameters(), 0.05, **options)) for each in (sharded, whole)]
        for _ in range(3):
            for network, optimizer in pairs:
                optimizer.zero_grad()
                network(x).square().mean().backward()
                optimizer.step()
        apart = [
            (a.full_tensor() - b).abs().max().item()
            for a, b in zip(sharded.parameters(), whole.parameters(), strict=True)
        ]
        ratios = [list(optimizer.trust_ratios().values()) for _, optimizer in pairs]
        found.append((max(apart), ratios))
    for original in (True, False):
        pieces = FullyShardedDataParallel(
            nn.Linear(5, 3),
            device_mesh=init_device_mesh("cpu", (world,)),
            device_id=torch.device("cpu"),
            use_orig_params=original,
        )
        with pytest.raises(TypeError, match="expected whole tensors or DTensors, got float"):
            LARS(pieces.parameters())
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_shards_move_as_the_whole(tmp_path):
    """Norms are those of whole tensors with fully_shard; pieces of FSDP1 are refused."""
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip(f"torch {torch.__version__} has no torch.distributed.fsdp.fully_shard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(shards, (2, port, tmp_path), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert len(found) == len(DIRECTIONS)
        for apart, ratios in found:
            assert apart < 1e-12
            assert ratios[0] == pytest.approx(ratios[1], rel=1e-9)
