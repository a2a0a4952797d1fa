"""Normalisation of sequences against PyTorch's layers, literal equations, and each other."""

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import swa_utils

from modalign.normalization import LayerNormLSTM, SequenceBatchNorm, lstm_states, update_bn
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import HALF, NAN

LENGTHS = torch.tensor([5, 2, 0, 3])
OPTIONS = {
    "default": {},
    "unbiased": {"unbiased": True},
    "cumulative": {"momentum": None},
    "plain": {"affine": False},
    "plain, unbiased": {"affine": False, "unbiased": True},
    "momentum 1": {"momentum": 1.0, "eps": 1e-2},
}
every_option = inputs.each("options", OPTIONS)


def draw(b=4, t=5, p=3, seed=0, dtype=torch.float64):
    return 2 + 3 * inputs.draw(b, t, p, seed=seed, dtype=dtype)


def valid(lengths, steps):
    return torch.arange(steps) < lengths[:, None]


def make(p=3, seed=0, **options):
    """A layer whose scale and shift are not 1 and 0."""
    norm = SequenceBatchNorm(p, **options).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in norm.parameters():
        parameter.data = torch.randn(p, generator=generator, dtype=torch.float64)
    return norm


def literal(x, lengths, weight, bias, eps, unbiased):
    """eq-pace-mean to eq-pace-sbn, one scalar at a time."""
    out = torch.zeros_like(x)
    m = int(lengths.sum())
    for p in range(x.shape[2]):
        steps = [x[b, t, p] for b in range(len(x)) for t in range(lengths[b])]
        mean = sum(steps) / m
        var = sum((step - mean) ** 2 for step in steps) / (m - unbiased)
        for b in range(len(x)):
            for t in range(lengths[b]):
                out[b, t, p] = weight[p] * (x[b, t, p] - mean) / (var + eps) ** 0.5 + bias[p]
    return out


@every_option
def test_literal_equations(options):
    norm, x = make(**options), draw()
    ones, zeros = torch.ones(3), torch.zeros(3)
    weight, bias = (norm.weight, norm.bias) if norm.affine else (ones, zeros)
    asserts.equals_literal(
        lambda x: norm(x, LENGTHS),
        lambda x: literal(x, LENGTHS, weight, bias, norm.eps, norm.unbiased),
        [x.requires_grad_()],
        rtol=0,
        atol=1e-12,
    )


def test_golden():
    """Mean 3 and variance 8/3 of the steps 1, 3, 5; the fourth is padding."""
    norm = SequenceBatchNorm(1, eps=1e-12)
    x = torch.tensor([[[1.0], [3.0]], [[5.0], [NAN]]])
    found = norm(x, torch.tensor([2, 1])).flatten()
    torch.testing.assert_close(found, torch.tensor([-1.5, 0, 1.5, 0]).mul((2 / 3) ** 0.5))
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.9 + 0.1 * 4]))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"momentum": 0.4}])
def test_equals_batch_norm_on_the_same_steps(options):
    """Training, running statistics and evaluation, with padding and without."""
    ours, theirs = SequenceBatchNorm(3, **options), nn.BatchNorm1d(3, **options)
    for seed, lengths in enumerate([LENGTHS, torch.full((4,), 5), torch.tensor([1, 1, 1, 1])]):
        x = draw(seed=seed, dtype=torch.float32)
        steps = valid(lengths, 5)
        torch.testing.assert_close(ours(x, lengths)[steps], theirs(x[steps]))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, LENGTHS)[valid(LENGTHS, 5)], theirs(x[valid(LENGTHS, 5)]))


def test_gradients_equal_those_of_batch_norm():
    ours, theirs, x = make(), nn.BatchNorm1d(3).double(), draw().requires_grad_()
    theirs.load_state_dict(ours.state_dict())
    steps, weights = valid(LENGTHS, 5), draw(seed=1)
    found = torch.autograd.grad(
        (ours(x, LENGTHS) * weights).sum(), [x, *ours.parameters()], retain_graph=True
    )
    expected = torch.autograd.grad(
        (theirs(x[steps]) * weights[steps]).sum(), [x, *theirs.parameters()]
    )
    torch.testing.assert_close(found, expected)


def test_padding_of_nan_reaches_no_gradient():
    norm, steps = make(), valid(LENGTHS, 5)
    x = torch.where(steps[..., None], draw(), NAN).requires_grad_()
    for training in (True, False):
        for route in (norm.train(training)._packed, norm._masked):
            gradients = torch.autograd.grad(route(x, steps).sum(), [x, *norm.parameters()])
            assert all(gradient.isfinite().all() for gradient in gradients)
            assert not gradients[0][~steps].any()


@every_option
@pytest.mark.parametrize("training", [True, False])
def test_both_routes_agree(options, training):
    """What a compiler is given, and what runs without one."""
    packed, x = make(**options).train(training), draw().requires_grad_()
    masked, steps = copy.deepcopy(packed), valid(LENGTHS, 5)
    for _ in range(3):
        found, expected = masked._masked(x, steps), packed._packed(x, steps)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(masked.state_dict(), packed.state_dict())
    weights = draw(seed=1)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@every_option
@pytest.mark.usefixtures("compiler")
def test_compiled(options):
    norm = make(**options)
    asserts.same_compiled(norm, [draw(), LENGTHS])
    asserts.same_compiled(norm.eval(), [draw(), LENGTHS])


@pytest.mark.usefixtures("compiler")
def test_compiled_by_inductor():
    asserts.same_compiled(make(), [draw(), LENGTHS], backend="inductor")


@pytest.mark.parametrize("steps", [0, 1])
def test_compiled_with_too_few_steps(steps):
    norm = make()
    before = copy.deepcopy(norm.state_dict())
    x, lengths = draw(), torch.tensor([0, steps, 0, 0])
    found = norm._masked(x, valid(lengths, 5))
    assert not found[~valid(lengths, 5)].any()
    torch.testing.assert_close(found[1, 0], norm.bias * steps)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)


INVARIANCES = {
    "more padding": lambda x, n, g: (torch.cat([x, torch.full_like(x[:, :2], NAN)], 1), n),
    "other padding": lambda x, n, g: (torch.where(valid(n, x.shape[1])[..., None], x, 7e3), n),
    "empty sequences": lambda x, n, g: (torch.cat([x, x[:1]]), torch.cat([n, n[:1] * 0])),
    "shift": lambda x, n, g: (x + 40, n),
    "scale": lambda x, n, g: (x * 1e3, n),
}


@pytest.mark.parametrize("change", INVARIANCES.values(), ids=INVARIANCES.keys())
@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=5), st.integers(0, 999))
def test_invariances(change, lengths, seed):
    lengths = torch.tensor([*lengths, 4])
    x = draw(len(lengths), 5, 3, seed)
    norm = make(eps=1e-9)
    changed_x, changed_lengths = change(x, lengths, seed)
    expected, found = norm(x, lengths), norm(changed_x, changed_lengths)
    torch.testing.assert_close(found[: len(x), :5], expected, rtol=0, atol=1e-6)
    assert not found[~valid(changed_lengths, found.shape[1])].any()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 999))
def test_reordering_the_sequences_reorders_the_output(lengths, seed):
    lengths = torch.tensor([*lengths, 3])
    x = draw(len(lengths), 6, 2, seed)
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    found = make(2)(x[order], lengths[order])
    torch.testing.assert_close(found, make(2)(x, lengths)[order])


@settings(max_examples=20)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 999))
def test_output_has_mean_zero_and_variance_one(lengths, seed):
    lengths = torch.tensor([*lengths, 3])
    x = draw(len(lengths), 6, 2, seed)
    steps = SequenceBatchNorm(2, eps=1e-12).double()(x, lengths)[valid(lengths, 6)]
    torch.testing.assert_close(steps.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(steps.var(0, correction=0), torch.ones(2).double())


@every_option
def test_gradcheck(options):
    norm, lengths = make(2, **options), torch.tensor([4, 1, 2])
    for training in (True, False):
        norm.train(training)
        asserts.gradients_are_right(lambda z: norm(z, lengths), [draw(3, 4, 2)])
        asserts.gradients_are_right(lambda z: norm._masked(z, valid(lengths, 4)), [draw(3, 4, 2)])


def test_running_statistics_carry_no_graph():
    norm, x = make(), draw().requires_grad_()
    for route in (norm._packed, norm._masked):
        route(x, valid(LENGTHS, 5)).sum().backward()
        assert not any(buffer.requires_grad for buffer in norm.buffers())
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    norm(x, LENGTHS)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)


def test_state_comes_back_and_is_that_of_batch_norm():
    norm = make()
    norm(draw(), LENGTHS)
    asserts.comes_back(norm, theirs := nn.BatchNorm1d(3).double())
    asserts.comes_back(theirs, norm)
    asserts.comes_back(norm.eval(), SequenceBatchNorm(3).double().eval(), draw(), LENGTHS)


def test_input_is_left_alone():
    asserts.leaves_alone(make(), [draw().requires_grad_(), LENGTHS])


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_takes_statistics_in_float32(dtype):
    x = (draw(32, 50, 4, dtype=torch.float32) * 1000).to(dtype)  # squares overflow float16
    lengths = torch.arange(32) + 19
    norm, exact = SequenceBatchNorm(4), SequenceBatchNorm(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = norm(x, lengths)
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact(x.float(), lengths).to(dtype))
    torch.testing.assert_close(norm.state_dict(), exact.state_dict())
    assert norm.running_var.dtype == torch.float32


@pytest.mark.parametrize("offset", [0, 1e4])
def test_float32_is_as_good_as_float64(offset):
    x, lengths = draw(8, 20, 3) + offset, torch.tensor([20, 1, 7, 0, 15, 20, 3, 2])
    exact = SequenceBatchNorm(3).double()(x, lengths)
    norm = SequenceBatchNorm(3)
    for route in (norm._packed, norm._masked):
        found = route(x.float(), valid(lengths, 20)).double()
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-6 * max(1, offset / 10))


def test_an_all_padded_batch_in_evaluation_is_zero():
    norm, x = make().eval(), torch.full_like(draw(), NAN)
    assert not norm(x, LENGTHS * 0).any()
    assert not norm._masked(x, valid(LENGTHS * 0, 5)).any()
    assert make().eval()(draw()[:0], LENGTHS[:0]).shape == (0, 5, 3)


def test_nan_in_a_step_stays_in_its_feature():
    x = draw()
    x[0, 0, 1] = NAN
    found = make()(x, LENGTHS)[valid(LENGTHS, 5)]
    assert found[:, 1].isnan().all()
    assert found[:, [0, 2]].isfinite().all()


TURNED = {"time first": lambda z: z.transpose(0, 1).contiguous().transpose(0, 1)}


@inputs.each("change", {**inputs.STRIDES, **TURNED})
@pytest.mark.parametrize("training", [True, False])
def test_strides(change, training):
    norm = make(momentum=1.0).train(training)
    asserts.strides_do_not_matter(lambda x: norm(x, LENGTHS), [draw().requires_grad_()], change)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_lengths_of_other_types(dtype):
    norm = make().eval()
    torch.testing.assert_close(norm(draw(), LENGTHS.to(dtype)), norm(draw(), LENGTHS))


@pytest.mark.parametrize("kind", ["batch norm", "LSTM"])
@inputs.hostile(inputs.WRONG_TYPE)
def test_wrong_types_are_refused(change, message, kind):
    lstm = LayerNormLSTM(3, 6).double()
    call = functools.partial(make(), lengths=LENGTHS) if kind == "batch norm" else lstm
    asserts.refuses(call, {"x": draw()}, "x", change, message)


@inputs.hostile(
    {
        "fractions": (lambda n: n.float(), "Int.*float32"),
        "unsigned": (lambda n: n.byte(), "Int.*uint8"),
        "a list": (lambda n: n.tolist(), "list"),
        "sparse": inputs.WRONG_TYPE["sparse"],
        "nothing": (lambda n: None, "or a mask in their place, got neither"),
    }
)
def test_lengths_are_whole_numbers(change, message):
    asserts.refuses(make(), {"x": draw(), "lengths": LENGTHS}, "lengths", change, message)


REFUSED = {
    "too long": (draw(), [6, 1, 1, 1], ValueError, "lengths: .*0 to 5 steps, got 6 in sequence 0"),
    "negative": (draw(), [5, 1, -1, 1], ValueError, "lengths: .*got -1 in sequence 2"),
    "all padded": (draw(), [0] * 4, ValueError, "at least 2 un-padded steps .*got 0"),
    "one step": (draw(), [0, 1, 0, 0], ValueError, "at least 2 un-padded steps .*got 1"),
    "no sequence": (draw()[:0], [], ValueError, "at least 2 un-padded steps .*got 0"),
    "too few lengths": (draw(), [5, 5, 5], ValueError, r"(?s)lengths: .*int64 \(3,\)"),
    "other features": (draw(p=2), [5] * 4, ValueError, r"x: expected 3 features, got .*4, 5, 2"),
    "two dimensions": (draw()[0], [5] * 5, ValueError, r"x: .*float64 \(5, 3\)"),
}


@pytest.mark.parametrize(("x", "lengths", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(x, lengths, error, message):
    with pytest.raises(error, match=message):
        make()(x, torch.tensor(lengths, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0}, "num_features: expected a number above 0, got 0"),
        ({"eps": 0.0}, "eps: .*above 0, got 0"),
        ({"momentum": 1.5}, "momentum: .*from 0 to 1 or None, got 1.5"),
        ({"momentum": NAN}, "momentum: .*nan"),
    ],
)
def test_settings_of_batch_norm(options, message):
    with pytest.raises(ValueError, match=message):
        SequenceBatchNorm(**{"num_features": 3, **options})


TYPES = [*HALF, torch.float32, torch.float64]


@every_option
@pytest.mark.parametrize("of_module", TYPES)
@pytest.mark.parametrize("of_x", TYPES)
def test_each_pair_of_types_takes_statistics_in_float32_at_least(options, of_module, of_x):
    """By both routes, whose sums of 12,800 twenties are beyond float16."""
    x = (draw(64, 200, 3) + 20).to(of_x)
    lengths = torch.full((64,), 200)
    exact = SequenceBatchNorm(3, **options).double()
    expected = exact(x.double(), lengths)
    for compiling in (False, True):
        norm = SequenceBatchNorm(3, **options).to(of_module)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
            found = norm(x, lengths)
        assert found.dtype == of_x
        eps = max(torch.finfo(of_x).eps, torch.finfo(torch.float32).eps)
        torch.testing.assert_close(
            found.double(), expected, rtol=4 * eps, atol=500 * eps if eps < 1e-4 else 4 * eps
        )
        for name in ("running_mean", "running_var"):
            value = getattr(norm, name)
            assert value.dtype == of_module
            eps = max(torch.finfo(of_module).eps, 1e-5)
            torch.testing.assert_close(value.double(), getattr(exact, name), rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.usefixtures("compiler")
def test_compiled_in_half_precision(dtype):
    x, lengths = (draw(64, 200, 3) + 20).to(dtype), torch.full((64,), 200)
    asserts.same_compiled(SequenceBatchNorm(3).to(dtype), [x, lengths], rtol=0.01, atol=0.01)


@every_option
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e15, 1e20, 1e30])
def test_scales_in_float32(options, scale):
    """As in float64 by both routes, and NaN where the variance is beyond float32."""
    x, steps = draw() - 2, valid(LENGTHS, 5)
    exact = SequenceBatchNorm(3, **options).double()
    expected = exact(x * scale, LENGTHS)
    evaluated = exact.eval()(x * scale, LENGTHS)
    for route in ("_masked", "_packed"):
        norm = SequenceBatchNorm(3, **options)
        found = getattr(norm, route)((x * scale).float(), steps)
        after = getattr(norm.eval(), route)((x * scale).float(), steps)
        if scale > 1e18:
            assert found[steps].isnan().all()
            assert after[steps].isnan().all()
            assert not found[~steps].any()
        else:
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-35)
            torch.testing.assert_close(after.double(), evaluated, rtol=1e-4, atol=1e-35)


class Normed(nn.Module):
    """A network of one layer, whose batches are pairs."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, batch):
        x, lengths = batch
        if isinstance(self.norm, SequenceBatchNorm):
            return self.norm(x, lengths)
        return self.norm(x[valid(lengths, 5)])


def padded_batches(seeds=range(4), wrap=tuple):
    return [wrap((draw(seed=seed, dtype=torch.float32), LENGTHS)) for seed in seeds]


@pytest.mark.parametrize(
    "update",
    [
        lambda network, batches: swa_utils.update_bn([(batch,) for batch in batches], network),
        update_bn,
        lambda network, batches: update_bn(network, iter(batches), lambda net, batch: net(batch)),
    ],
    ids=["PyTorch's", "ours", "by a call"],
)
def test_update_bn_works_as_with_batch_norm(update):
    ours, theirs = Normed(SequenceBatchNorm(3)), Normed(nn.BatchNorm1d(3))
    for network, each in ((ours, update), (theirs, lambda net, batches: update_bn(net, batches))):
        network(padded_batches()[0])
        network.eval()
        each(network, padded_batches())
        assert not network.training
        assert network.norm.momentum == 0.1
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert ours.norm.num_batches_tracked == 4


def test_update_bn_is_that_of_pytorch():
    """On a network of two batch norms, whose second sees what the first one makes."""
    ours = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5), nn.BatchNorm1d(5)).eval()
    theirs = copy.deepcopy(ours)
    batches = [inputs.draw(8, 3, seed=seed) + 2 for seed in range(3)]
    update_bn(ours, batches)
    swa_utils.update_bn(batches, theirs)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_update_bn_leaves_what_is_frozen_and_gives_modes_back():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    network[0].eval()
    before = copy.deepcopy(network[0].state_dict())
    update_bn(network, [inputs.draw(8, 3)])
    assert [module.training for module in network] == [False, True, True]
    assert network.training
    torch.testing.assert_close(network[0].state_dict(), before, rtol=0, atol=0)
    assert network[2].num_batches_tracked == 1


@pytest.mark.parametrize("batches", [[], [torch.ones(4, 3), None]], ids=["none", "a bad one"])
def test_update_bn_that_fails_changes_nothing(batches):
    """PyTorch's leaves statistics of nothing, training mode and no momentum behind."""
    network = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3)).eval()
    network[0].running_mean += 1
    before = copy.deepcopy(network.state_dict())
    with pytest.raises((ValueError, TypeError, AttributeError)):
        update_bn(network, batches)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert not any(module.training for module in network.modules())
    assert network[0].momentum == 0.3


def test_update_bn_refuses():
    with pytest.raises(ValueError, match="batches: expected at least one, got none"):
        update_bn(SequenceBatchNorm(3), iter(()))
    with pytest.raises(TypeError, match="model: expected a torch module, got function"):
        update_bn(lambda batch: batch, [draw()])


def holes(b=4, t=5, seed=3):
    """A mask whose real steps lie anywhere."""
    return torch.rand(b, t, generator=torch.Generator().manual_seed(seed)) < 0.6


@every_option
@pytest.mark.parametrize("training", [True, False])
def test_a_mask_of_lengths_is_lengths(options, training):
    one, other = (make(**options).train(training) for _ in range(2))
    found, expected = one(draw(), mask=valid(LENGTHS, 5)), other(draw(), LENGTHS)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_a_mask_with_holes_is_batch_norm_of_the_steps_that_are_there(training):
    ours, theirs, mask = make(), nn.BatchNorm1d(3).double(), holes()
    theirs.load_state_dict(ours.state_dict())
    x = torch.where(mask[..., None], draw(), NAN).requires_grad_()
    ours.train(training), theirs.train(training)
    found, expected = ours(x, mask=mask), theirs(x[mask])
    torch.testing.assert_close(found[mask], expected)
    assert not found[~mask].any()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    gradient = torch.autograd.grad((found * draw(seed=1)).sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(
        gradient[mask], torch.autograd.grad((expected * draw(seed=1)[mask]).sum(), x)[0][mask]
    )
    assert not gradient[~mask].any()


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_where_the_steps_of_a_mask_lie_does_not_matter(seed):
    """Steps that change places within the batch, padding with them, keep their values."""
    x, mask = draw(seed=seed), holes(seed=seed)
    mask[0, :2] = True
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    moved_x, moved_mask = (z.flatten(0, 1)[order].view_as(z) for z in (x, mask))
    expected = make()(x, mask=mask).flatten(0, 1)[order].view_as(x)
    torch.testing.assert_close(make()(moved_x, mask=moved_mask), expected)


@inputs.hostile(
    {
        "whole numbers": (lambda m: m.long(), "Bool.*int64"),
        "other shape": (lambda m: m[:, :3], r"Bool.*bool \(4, 3\)"),
        "lengths beside it": (lambda m: m, "in place of lengths, got both"),
        "a list": (lambda m: m.tolist(), "got list"),
        "too few steps": (lambda m: m & (m.cumsum(1) == 99), "2 un-padded steps .*got 0"),
    }
)
def test_masks_are_booleans_of_the_shape_of_steps(change, message, request):
    both = "beside" in request.node.name
    with pytest.raises((ValueError, TypeError), match=f"mask: .*{message}"):
        make()(draw(), LENGTHS if both else None, mask=change(holes()))


@pytest.mark.usefixtures("compiler")
def test_a_mask_compiled():
    asserts.same_compiled(Masked(make()), [draw(), holes()])


class Masked(nn.Module):
    """A norm whose second argument is a mask."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x, mask):
        return self.norm(x, mask=mask)


SHARES = {"even": (2, 2), "uneven": (3, 1), "one process has none": (4, 0)}


def joint_step(norm, rows, lengths=LENGTHS):
    """Two batches through a layer; outputs, gradients of the sum of losses, statistics."""
    xs = [draw(seed=seed)[rows].requires_grad_() for seed in range(2)]
    found = [norm(x, lengths[rows]) for x in xs]
    loss = sum((y.square() * draw(seed=5)[rows] + y).sum() for y in found)
    gradients = torch.autograd.grad(loss, [*xs, *norm.parameters()])
    statistics = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    return {
        "output": torch.stack(found, 1).detach(),
        "by x": torch.stack(gradients[:2], 1),
        "by parameters": list(gradients[2:]),
        "statistics": [each.clone() for each in statistics],
    }


def run_rank(rank, folder):
    """One of two processes, each with some of the sequences; what it found goes to a file."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    found = {}
    for share, (first, _) in SHARES.items():
        rows = slice(0, first) if rank == 0 else slice(first, 4)
        for option, options in OPTIONS.items():
            norm = make(**options, synchronize=True)
            found[share, option] = joint_step(norm, rows)
            norm.eval()  # looks at no other process: only this one calls it
            if rank == 0:
                found[share, option]["evaluated"] = norm(draw(), LENGTHS).detach()
    norm = make(synchronize=True)
    with pytest.raises(ValueError, match="x: .*2 un-padded steps .*got 1"):  # in both
        norm(draw()[:1], torch.tensor([rank]))
    found["one step each"] = norm(draw()[rank : rank + 1], torch.tensor([1])).detach()
    apart = make()
    found["alone"] = joint_step(apart, slice(2 * rank, 2 * rank + 2))["output"]
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one_on_the_joined_batch(tmp_path):
    torch.multiprocessing.spawn(run_rank, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for share in SHARES:
        for option, options in OPTIONS.items():
            norm = make(**options)
            one, found = joint_step(norm, slice(0, 4)), [each[share, option] for each in ranks]
            for name in ("output", "by x"):
                torch.testing.assert_close(torch.cat([each[name] for each in found]), one[name])
            for a, b, both in zip(*(each["by parameters"] for each in [*found, one]), strict=True):
                torch.testing.assert_close(a + b, both)
            for each in found:
                torch.testing.assert_close(each["statistics"], one["statistics"])
            torch.testing.assert_close(found[0]["evaluated"], norm.eval()(draw(), LENGTHS))
    single = make()(draw()[:2], torch.tensor([1, 1]))
    torch.testing.assert_close(torch.cat([each["one step each"] for each in ranks]), single)
    # what statistics of each process alone would give: something else
    alone = torch.cat([each["alone"] for each in ranks])
    assert (alone - joint_step(make(), slice(0, 4))["output"]).abs().max() > 0.1


def test_synchronised_in_one_process_it_is_the_same():
    one, other = make(synchronize=True), make()
    for call in (lambda norm: norm(draw(), LENGTHS), lambda norm: norm._masked(draw(), holes())):
        torch.testing.assert_close(call(one), call(other), rtol=0, atol=0)
    assert "synchronize=True" in repr(one)


def test_conversion_to_sync_batch_norm_is_refused():
    with pytest.raises(TypeError, match="SequenceBatchNorm: .*take no lengths; .*synchronize=True"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(SequenceBatchNorm(3)))


def test_without_running_statistics_those_of_the_batch_are_taken():
    """As torch.func leaves a network whose batch norms it may not write to."""
    norm = make()
    expected = norm(draw(), LENGTHS)
    torch.func.replace_all_batch_norm_modules_(norm)
    for route in (norm.eval()._packed, norm._masked):
        torch.testing.assert_close(route(draw(), valid(LENGTHS, 5)), expected)
    with pytest.raises(ValueError, match="at least 2 un-padded steps"):
        norm(draw(), LENGTHS * 0)


@pytest.mark.parametrize("make_module", [lambda: SequenceBatchNorm(3), lambda: LayerNormLSTM(3, 6)])
def test_modules_follow_the_default_device_and_can_be_made_there_first(make_module):
    module, fresh = asserts.made_again_on_the_cpu(make_module)
    for (name, value), known in zip(
        module.state_dict().items(), fresh.state_dict().values(), strict=True
    ):
        if "weight_" not in name:  # those of the LSTM are drawn
            assert torch.equal(value, known)
    arguments = (draw(dtype=torch.float32), LENGTHS)
    with torch.device("meta"):
        module(*arguments[: 2 if isinstance(module, SequenceBatchNorm) else 1])


def literal_lstm(lstm, x, h, c):
    """eq-pace-gates to eq-pace-hidden for one layer, one sequence and one step at a time."""

    def norm(z, layer_norm):
        z = (z - z.mean()) / (z.var(correction=0) + layer_norm.eps).sqrt()
        return layer_norm.weight * z + layer_norm.bias

    size, outputs = lstm.hidden_size, torch.zeros(*x.shape[:2], lstm.hidden_size).double()
    for b in range(len(x)):
        h_b, c_b = h[b], c[b]
        for t in range(x.shape[1]):
            gates = norm(lstm.weight_ih_l0 @ x[b, t], lstm.norm_ih[0])
            gates = gates + norm(lstm.weight_hh_l0 @ h_b, lstm.norm_hh[0])
            i, f, g, o = (gates[k * size : (k + 1) * size] for k in range(4))
            c_b = norm(torch.sigmoid(f) * c_b + torch.sigmoid(i) * torch.tanh(g), lstm.norm_cell[0])
            h_b = torch.sigmoid(o) * torch.tanh(c_b)
            outputs[b, t] = h_b
    return outputs


def make_lstm(*sizes, **options):
    lstm = LayerNormLSTM(*sizes, **options).double()
    for name, parameter in lstm.named_parameters():
        if "norm" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return lstm


def states(layers=1, b=4, size=6, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, layers, b, size, generator=generator, dtype=torch.float64))


def test_lstm_literal_equations():
    lstm, x, (h, c) = make_lstm(3, 6, batch_first=True), draw(), states()
    asserts.equals_literal(
        lambda x, h, c: lstm(x, (h, c))[0],
        lambda x, h, c: literal_lstm(lstm, x, h[0], c[0]),
        [each.requires_grad_() for each in (x, h, c)],
    )


def test_lstm_layers_are_lstms_on_top_of_each_other():
    lstm = make_lstm(3, 6, 2, batch_first=True)
    x, (h, c) = draw(), states(2)
    output = x
    for layer in range(2):
        one = LayerNormLSTM(output.shape[2], 6, batch_first=True).double()
        one.load_state_dict(
            {
                name.replace(f"_l{layer}", "_l0").replace(f".{layer}.", ".0."): value
                for name, value in lstm.state_dict().items()
                if f"_l{layer}" in name or f".{layer}." in name
            }
        )
        output, (h_n, c_n) = one(output, (h[[layer]], c[[layer]]))
        found, (all_h, all_c) = lstm(x, (h, c))
        torch.testing.assert_close((all_h[[layer]], all_c[[layer]]), (h_n, c_n))
    torch.testing.assert_close(found, output)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("x", [draw(), draw()[0]], ids=["batch", "one sequence"])
def test_lstm_shapes_are_those_of_pytorch(x, batch_first):
    ours = LayerNormLSTM(3, 6, 2, batch_first=batch_first).double()
    theirs = nn.LSTM(3, 6, 2, batch_first=batch_first, bias=False).double()
    output, (h, c) = ours(x)
    expected, (expected_h, expected_c) = theirs(x)
    assert (output.shape, h.shape, c.shape) == (expected.shape, expected_h.shape, expected_c.shape)
    assert set(theirs.state_dict()) <= set(ours.state_dict())
    torch.testing.assert_close(ours(x, (torch.zeros_like(h), torch.zeros_like(c)))[0], output)


def test_lstm_with_norms_that_do_nothing_is_an_lstm(monkeypatch):
    ours, theirs = LayerNormLSTM(3, 6, 2), nn.LSTM(3, 6, 2, bias=False)
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if k.startswith("weight")})
    for norms in (ours.norm_ih, ours.norm_hh, ours.norm_cell):
        for i in range(2):
            norms[i] = nn.Identity()
    x = draw(dtype=torch.float32)
    torch.testing.assert_close(ours(x), theirs(x))


def test_states_after_each_step_are_those_after_the_last_of_shorter_sequences():
    lstm, x = nn.LSTM(3, 6).double(), draw()
    w_x, w_h, b_x, b_h = lstm.all_weights[0]
    h, c = (state[0] for state in states(b=5))
    hs, cs = lstm_states(x @ w_x.T + b_x, lambda h: h @ w_h.T + b_h, h, c)
    for steps in range(1, len(x) + 1):
        _, (after_h, after_c) = lstm(x[:steps], (h[None], c[None]))
        torch.testing.assert_close(hs[steps - 1], after_h[0])
        torch.testing.assert_close(cs[steps - 1], after_c[0])


@pytest.mark.parametrize("shape", [(0, 5, 24), (4, 5, 23), (4, 3, 24)])
@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_states_of_gates_that_do_not_fit_are_refused(shape, kind):
    with pytest.raises(ValueError, match=r"from_x: expected"):
        lstm_states(torch.zeros(shape, dtype=kind), lambda h: h, *torch.zeros(2, 5, 6))


def test_lstm_carries_its_state_on():
    lstm, x = make_lstm(3, 6, 2), draw()
    whole, last = lstm(x)
    first, state = lstm(x[:2])
    second, found = lstm(x[2:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(found, last)


def test_lstm_padding_at_the_end_never_reaches_earlier_steps():
    lstm, x = make_lstm(3, 6, 2, batch_first=True), draw()
    longer = torch.cat([x, torch.full((4, 3, 3), 1e3).double()], 1)
    torch.testing.assert_close(lstm(longer)[0][:, :5], lstm(x)[0])


def test_lstm_ignores_the_scale_of_input_and_weights():
    lstm, x = LayerNormLSTM(3, 6, eps=1e-12).double(), draw()
    expected = lstm(x)
    torch.testing.assert_close(lstm(1e3 * x), expected)
    for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0):
        weight.data *= 50
    torch.testing.assert_close(lstm(x), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e15, 1e30])
@pytest.mark.parametrize("of", ["x", "weight_ih_l0", "weight_hh_l0", "h", "c"])
def test_lstm_scales_in_float32(of, scale):
    """As in float64, and NaN from the step on where squares are beyond float32."""
    exact, x, (h, c) = make_lstm(3, 6), draw(), states(b=5)
    parts = {"x": x, "h": h, "c": c}
    if of in parts:
        parts[of] = parts[of] * scale
    else:
        getattr(exact, of).data *= scale
    if of == "x":
        parts["x"] = torch.cat([x[:2], parts["x"][2:]])
    lstm = copy.deepcopy(exact).float()
    found = lstm(parts["x"].float(), (parts["h"].float(), parts["c"].float()))[0].double()
    expected = exact(parts["x"], (parts["h"], parts["c"]))[0]
    if scale > 1e18:
        first = 2 if of == "x" else 0
        assert found[first:].isnan().all()
        found, expected = found[:first], expected[:first]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.usefixtures("compiler")
def test_lstm_in_half_precision_by_both_routes(dtype):
    lstm, x = LayerNormLSTM(3, 6).to(dtype), (draw() * 1000).to(dtype)
    compiled = torch.compile(lstm, fullgraph=True, backend="aot_eager")
    expected = copy.deepcopy(lstm).float()(x.float())[0]
    for found in (lstm(x)[0], compiled(x)[0]):
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)


def test_lstm_gradcheck():
    lstm, x, state = make_lstm(3, 4, 2), draw(3, 2, 3), states(2, 2, 4)
    parameters = dict(lstm.named_parameters())

    def run(x, h, c, *values):
        output, (h, c) = torch.func.functional_call(
            lstm, dict(zip(parameters, values, strict=True)), (x, (h, c))
        )
        return output, h, c

    asserts.gradients_are_right(run, [x, *state, *parameters.values()])


@pytest.mark.usefixtures("compiler")
def test_lstm_compiled():
    asserts.same_compiled(make_lstm(3, 6), [draw()])


def test_lstm_state_comes_back():
    asserts.comes_back(make_lstm(3, 6, 2), LayerNormLSTM(3, 6, 2).double(), draw())


def test_lstm_leaves_its_input_alone():
    asserts.leaves_alone(lambda x: make_lstm(3, 6)(x)[0], [draw().requires_grad_()])


@inputs.each("change", inputs.STRIDES)
def test_lstm_strides(change):
    lstm = make_lstm(3, 6)
    asserts.strides_do_not_matter(lambda x: lstm(x)[0], [draw().requires_grad_()], change)


def test_lstm_under_autocast():
    lstm, x = LayerNormLSTM(3, 6), draw(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = lstm(x)
    torch.testing.assert_close(found.float(), lstm(x)[0], rtol=0, atol=0.05)


def test_lstm_same_seed_same_weights():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(LayerNormLSTM(3, 6).weight_hh_l0)
    assert torch.equal(*weights)
    assert weights[0].abs().max() <= 6**-0.5


LSTM_REFUSED = {
    "other features": ((draw(p=2),), ValueError, r"x: .*3 features a step .*\(4, 5, 2\)"),
    "no steps": ((draw()[:0],), ValueError, r"x: .*at least one step, got float64 \(0, 5, 3\)"),
    "four dimensions": ((draw()[None],), ValueError, r"x: .*2 or 3 dimensions"),
    "one dimension": ((draw()[0, 0],), ValueError, r"x: .*float64 \(3,\)"),
    "state of another size": (
        (draw(), states(1, 3, 6)),
        ValueError,
        r"hx: expected h of shape \(1, 5, 6\), got float64 \(1, 3, 6\)",
    ),
    "a state alone": ((draw(), states()[0]), TypeError, "hx: expected tuple"),
}


@pytest.mark.parametrize(
    ("arguments", "error", "message"), LSTM_REFUSED.values(), ids=LSTM_REFUSED.keys()
)
def test_lstm_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        LayerNormLSTM(3, 6).double()(*arguments)


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
def test_lstm_sizes(name):
    with pytest.raises(ValueError, match=f"{name}: expected a number above 0, got 0"):
        LayerNormLSTM(**{"input_size": 3, "hidden_size": 6, name: 0})
    with pytest.raises(TypeError, match=f"{name}: expected int, got float"):
        LayerNormLSTM(**{"input_size": 3, "hidden_size": 6, name: 2.5})


def test_lstm_wants_the_dtype_of_its_weights():
    lstm = LayerNormLSTM(3, 2)
    x, state = torch.randn(4, 5, 3), torch.zeros(1, 5, 2)
    with pytest.raises(ValueError, match=r"^x: expected float32, as the weights, got float64"):
        lstm(x.double())
    with pytest.raises(ValueError, match=r"^hx: c: expected float32, as the weights, got float64"):
        lstm(x, (state, state.double()))
    assert lstm.double()(x.double(), (state.double(), state.double()))[0].dtype == torch.float64
