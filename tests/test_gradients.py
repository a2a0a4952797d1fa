"""Harmony of two gradients against TorchJD, the equations written out, and hostile batches."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from modalign._distributed import gathered_with_gradient
from modalign.gradients import (
    GradientCurriculum,
    gradient_cosine,
    harmonized_backward,
    realign,
    sample_cosines,
)
from modalign.training import fit, seeded
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import INF, NAN, draw

SHAPES = [(4, 3), (4,), (), (2, 3, 2), (0, 3)]


def gradients(seed, shapes=SHAPES, dtype=torch.float64):
    return [draw(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes)]


def flat(grads):
    return torch.cat([each.flatten() for each in grads])


def opposed(seed=0):
    """Two gradients that conflict."""
    a, b = gradients(seed), gradients(seed + 50)
    return a, [y - x for x, y in zip(a, b, strict=True)]


def literal_realign(a, b):
    """eq-gradients-realign on flat vectors."""
    d = a @ b
    return (a - d / (b @ b) * b, b - d / (a @ a) * a) if d < 0 else (a, b)


def network(seed=0):
    return seeded(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).double(), seed=seed
    )


X = draw(5, 6, dtype=torch.float64)


def two_losses(model, x=X, far=1.0):
    """They pull the same outputs apart."""
    out = model(x)
    return (out - far).square().mean(), (out + 1).square().mean()


def jacobian(model, losses):
    rows = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            for loss in losses]  # fmt: skip
    return torch.stack([flat(row) for row in rows])


def filled(model):
    return flat([p.grad for p in model.parameters()])


# the cosine


def test_cosine_is_that_of_the_flattened_gradients():
    a, b = gradients(0), gradients(9)
    expected = functional.cosine_similarity(flat(a), flat(b), dim=0).item()
    assert gradient_cosine(a, b) == pytest.approx(expected, rel=1e-12)
    assert gradient_cosine(a, a) == 1
    assert gradient_cosine(a, [-x for x in a]) == -1


def test_tensors_that_one_gradient_lacks_do_not_count():
    a, b = gradients(0), gradients(9)
    assert gradient_cosine([*a, None, a[0]], [*b, a[0], None]) == gradient_cosine(a, b)


UNDEFINED = {
    "zero": lambda a: [torch.zeros_like(x) for x in a],
    "none in both": lambda a: [None for _ in a],
    "NaN": lambda a: [a[0] * NAN, *a[1:]],
    "infinity": lambda a: [inputs.with_entry(a[0], INF), *a[1:]],
    "empty": lambda a: [x[:0] if x.dim() else None for x in a],
}


@inputs.each("change", UNDEFINED)
def test_an_undefined_cosine_is_nan(change):
    a, b = gradients(0), change(gradients(9))
    a = [x[: len(y)] if y is not None and y.dim() else x for x, y in zip(a, b, strict=True)]
    assert math.isnan(gradient_cosine(a, b))
    assert math.isnan(gradient_cosine(b, a))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_products_are_added_in_float64(dtype):
    """A thousand small products beside one of 1e8: float32 would lose them all."""
    small, large = torch.full((4096,), 0.25, dtype=dtype), torch.tensor([8192.0], dtype=dtype)
    a, b = [large, small], [large, -small]
    products = 8192.0**2, 4096 / 16
    expected = (products[0] - products[1]) / sum(products)
    assert gradient_cosine(a, b) == pytest.approx(expected, rel=1e-13)
    assert expected != pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("scales", [(1e-300, 1e300), (1e200, 1e200), (1e-200, 1e-200)], ids=str)
def test_scales_at_the_ends_of_float64(scales):
    a, b = opposed()
    scaled = [[x * s for x in each] for each, s in zip((a, b), scales, strict=True)]
    assert gradient_cosine(*scaled) == pytest.approx(gradient_cosine(a, b), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_at_the_ends_of_float32(scale):
    a, b = ([x.float() for x in each] for each in opposed())
    scaled = [[x * scale for x in each] for each in (a, b)]
    assert gradient_cosine(*scaled) == pytest.approx(gradient_cosine(a, b), rel=1e-6)
    for one, other in zip(realign(*scaled), realign(a, b), strict=True):
        torch.testing.assert_close([x / scale for x in one], other)


@inputs.each("change", inputs.STRIDES)
def test_strides_do_not_matter(change):
    a, b = draw(8, 6, dtype=torch.float64), draw(8, 6, seed=1, dtype=torch.float64)
    assert gradient_cosine([change(a)], [b]) == pytest.approx(gradient_cosine([a], [b]), rel=1e-12)


# realignment


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 1), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6))
def test_properties(seed, towards, ratio, common):
    a, noise = gradients(seed), gradients(seed + 50)
    b = [ratio * (towards * x + 0.5 * y) for x, y in zip(a, noise, strict=True)]
    new_a, new_b = realign(a, b)
    fa, fb, na, nb = flat(a), flat(b), flat(new_a), flat(new_b)
    for ours, theirs in zip((na, nb), literal_realign(fa, fb), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.norm().item())
    if fa @ fb < 0:
        # each is orthogonal to the other as it was, and never grows
        assert abs(na @ fb) <= 1e-9 * fa.norm() * fb.norm()
        assert abs(nb @ fa) <= 1e-9 * fa.norm() * fb.norm()
        assert na.norm() <= fa.norm() * (1 + 1e-12)
        # a step along the sum does not raise either loss, to first order
        assert (na + nb) @ fa >= -1e-9 * fa.norm() * (na + nb).norm()
        assert (na + nb) @ fb >= -1e-9 * fb.norm() * (na + nb).norm()
    else:
        assert all(x is y for x, y in zip(new_a + new_b, a + b, strict=True))
    scaled = realign([common * x for x in a], [common * x for x in b])
    torch.testing.assert_close(flat(scaled[0]), common * na, rtol=1e-9, atol=1e-9 * common)


def test_opposite_gradients_cancel():
    a, _ = opposed()
    new_a, new_b = realign(a, [-3 * x for x in a])
    for x in [*new_a, *new_b]:
        torch.testing.assert_close(x, torch.zeros_like(x), rtol=0, atol=1e-12)


def test_what_one_gradient_lacks_stays():
    (a, b), own = opposed(), draw(3)
    new_a, new_b = realign([*a, own, None], [*b, None, own])
    assert new_a[-2] is own
    assert new_b[-1] is own
    assert new_a[-1] is new_b[-2] is None
    torch.testing.assert_close(new_a[:-2], realign(a, b)[0])


def test_inputs_are_left_alone():
    a, b = opposed()
    asserts.leaves_alone(lambda *x: realign(x[: len(a)], x[len(a) :]), [*a, *b])
    asserts.leaves_alone(lambda *x: gradient_cosine(x[: len(a)], x[len(a) :]), [*a, *b])


BAD = {
    "a tensor": (lambda g: g[0], "got float64"),
    "a generator": (lambda g: iter(g), "got list_iterator"),
    "a number in it": (lambda g: [1.0, *g[1:]], "got float 1.0"),
    "integers": (lambda g: [g[0].long(), *g[1:]], "got int64"),
    "sparse": (lambda g: [g[0].to_sparse(), *g[1:]], "got float64.*sparse"),
    "complex": (lambda g: [g[0] + 1j, *g[1:]], "got complex"),
    "none": (lambda g: [], "at least one, got .*0"),
    "one less": (lambda g: g[1:], "as many .*got"),
    "another shape": (lambda g: [g[0].T, *g[1:]], "got float64"),
    "another type": (lambda g: [g[0].float(), *g[1:]], "got float"),
}


@pytest.mark.parametrize("method", [gradient_cosine, realign])
@pytest.mark.parametrize("name", ["grads_a", "grads_b"])
@inputs.hostile(BAD)
def test_what_are_no_gradients_is_refused(method, name, change, message):
    given_ = {"grads_a": gradients(0), "grads_b": gradients(9)}
    method(**given_)
    given_[name] = change(given_[name])
    with pytest.raises((TypeError, ValueError), match=rf"grads_[ab](\[0\])?: .*{message}"):
        method(**given_)


# the backward pass


def test_equal_to_pcgrad_of_torchjd():
    aggregation = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        model = network(seed)
        expected = aggregation.PCGrad()(jacobian(model, two_losses(model)))
        report = harmonized_backward(*two_losses(model), model.parameters(), realign=True)
        assert report.conflict
        torch.testing.assert_close(filled(model), expected, rtol=1e-10, atol=1e-10)


def test_equal_to_realign():
    model = network()
    grads = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
             for loss in two_losses(model)]  # fmt: skip
    report = harmonized_backward(*two_losses(model), model.parameters(), realign=True)
    assert report.cosine == gradient_cosine(*grads)
    new_a, new_b = realign(*grads)
    torch.testing.assert_close(filled(model), flat(new_a) + flat(new_b), rtol=1e-12, atol=1e-14)


def test_without_conflict_it_is_a_plain_backward_pass():
    model, plain = network(), network()
    report = harmonized_backward(*two_losses(model, far=-2), model.parameters(), realign=True)
    sum(two_losses(plain, far=-2)).backward()
    assert report.cosine > 0
    assert not report.conflict
    torch.testing.assert_close(filled(model), filled(plain), rtol=1e-12, atol=1e-14)


def test_gradients_accumulate():
    model, apart = network(), network()
    total = 0
    for x in X.split(2):
        harmonized_backward(*two_losses(model, x), model.parameters(), realign=True)
        apart.zero_grad()
        harmonized_backward(*two_losses(apart, x), apart.parameters(), realign=True)
        total = total + filled(apart)
    torch.testing.assert_close(filled(model), total)


def test_a_parameter_that_one_loss_reaches_takes_its_gradient():
    model, heads = network(), nn.ModuleList([nn.Linear(4, 1).double() for _ in range(3)])

    def losses():
        out = model(X)
        return (heads[0](out) - 1).square().mean(), (heads[1](out) + out + 1).square().mean()

    parameters = [*model.parameters(), *heads.parameters()]
    a, b = (torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True)
            for x in losses())  # fmt: skip
    report = harmonized_backward(*losses(), parameters, realign=True)
    assert report.cosine == gradient_cosine(a[:4], b[:4])
    torch.testing.assert_close(heads[0].weight.grad, a[4])
    torch.testing.assert_close(heads[1].weight.grad, b[6])
    assert heads[2].weight.grad is None
    shared = literal_realign(flat(a[:4]), flat(b[:4]))
    torch.testing.assert_close(filled(model), shared[0] + shared[1])


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("how", ["None", "zero"])
def test_a_batch_that_lacks_one_loss_is_kept(missing, how):
    """Clips without text have an undefined cosine."""
    model, plain = network(), network()
    losses = list(two_losses(model))
    losses[missing] = None if how == "None" else 0 * losses[missing]
    curriculum = GradientCurriculum(1, 1, steps=1)
    report = harmonized_backward(*losses, model.parameters(), realign=True, curriculum=curriculum)
    assert math.isnan(report.cosine)
    assert report[1:] == (False, True)
    two_losses(plain)[1 - missing].backward()
    torch.testing.assert_close(filled(model), filled(plain))
    assert curriculum.batch == 1


def test_a_dropped_batch_leaves_everything_but_the_clocks():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    harmonized_backward(*two_losses(model), model.parameters())
    optimizer.step()
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    curriculum = GradientCurriculum(0.5, 1, steps=4)
    optimizer.zero_grad()
    report = harmonized_backward(
        *two_losses(model), model.parameters(), curriculum=curriculum, realign=True
    )
    assert report[1:] == (True, False)
    assert all(p.grad is None for p in model.parameters())
    optimizer.step()  # even so
    torch.testing.assert_close([model.state_dict(), optimizer.state_dict()], before, rtol=0, atol=0)
    assert curriculum.batch == 1
    # what an accumulated batch left before stays as it was
    harmonized_backward(*two_losses(model), model.parameters())
    kept = filled(model)
    harmonized_backward(*two_losses(model), model.parameters(), curriculum=curriculum)
    assert torch.equal(filled(model), kept)


def test_gradients_that_share_memory_are_not_written_into():
    """The derivative of a sum is one tensor for both; in-place arithmetic would count it twice."""
    w, v = (nn.Parameter(draw(3, seed=seed)) for seed in (0, 1))
    u = nn.Parameter(draw(3, seed=2))
    harmonized_backward((w + v).square().sum(), (2 * u + 1).sum(), [w, v, u])
    expected = 2 * (w + v).detach()
    torch.testing.assert_close([w.grad, v.grad], [expected, expected])
    w.grad.mul_(2)
    torch.testing.assert_close(v.grad, expected)
    torch.testing.assert_close(u.grad, torch.full((3,), 2.0))


def test_the_graph_is_not_kept():
    model = network()
    losses = two_losses(model)
    harmonized_backward(*losses, model.parameters())
    with pytest.raises(RuntimeError, match="second time"):
        losses[1].backward()


def scaler_step(losses, model, optimizer, scaler, **options):
    optimizer.zero_grad()
    scaled = [scaler.scale(loss) for loss in losses]
    report = harmonized_backward(*scaled, model.parameters(), **options)
    if report.accepted:
        scaler.step(optimizer)
        scaler.update()
    return report


def test_scaled_losses_make_the_same_decision_and_step():
    model, plain = network().float(), network().float()
    for each, scale in ((model, 2.0**16), (plain, 1.0)):
        optimizer = torch.optim.SGD(each.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        report = scaler_step(two_losses(each, X.float()), each, optimizer, scaler, realign=True)
        assert report.conflict
    torch.testing.assert_close(model.state_dict(), plain.state_dict())


def test_the_scaler_finds_gradients_that_overflow():
    model = network().float()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    slope = model[0].weight - model[0].weight.detach()  # steep, and 0
    losses = [loss + 1e6 * slope.sum() for loss in two_losses(model, X.float())]
    report = scaler_step(losses, model, optimizer, scaler, realign=True,
                         curriculum=GradientCurriculum(1, 1, steps=1))  # fmt: skip
    assert math.isnan(report.cosine)
    assert report.accepted
    assert scaler.get_scale() == 2.0**119
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_models(backend):
    model, plain = network(), network()
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    for each in (model, plain):
        each.insert(2, copy.deepcopy(layer))
    x = X[None]
    harmonized_backward(*two_losses(plain, x), plain.parameters(), realign=True)
    compiled = torch.compile(model, backend=backend)
    report = harmonized_backward(*two_losses(compiled, x), model.parameters(), realign=True)
    assert report.conflict
    torch.testing.assert_close(filled(model), filled(plain))


LOSSES = {
    "NaN": (lambda x: x * NAN, "expected a finite loss, got nan"),
    "infinity": (lambda x: x * INF, "expected a finite loss, got inf"),
    "without a gradient": (lambda x: x.detach(), "with a gradient, .*pass None"),
    "of other parameters": (lambda x: nn.Parameter(draw(1)).sum(), "reaches none .*pass None"),
    "a vector": (lambda x: x.repeat(3), r"scalar tensor, got float64 \(3,\) .*'sample'"),
    "two": (lambda x: [x, x], "got list of 2.*more than two losses"),
    "a number": (lambda x: x.item(), "got float"),
}


@pytest.mark.parametrize("name", ["loss_a", "loss_b"])
@inputs.hostile(LOSSES)
def test_what_is_no_loss_is_refused(name, change, message):
    def call(loss_a, loss_b):
        model.zero_grad()
        return harmonized_backward(loss_a, loss_b, model.parameters())

    model = network()
    losses = dict(zip(("loss_a", "loss_b"), two_losses(model), strict=True))
    losses[name] = change(losses[name])
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}: .*{message}"):
        call(**losses)
    assert all(p.grad is None for p in model.parameters())


PARAMETERS = {
    "twice": (lambda ps: [*ps, ps[1]], r"parameters\[4\]: is parameters\[1\] again"),
    "frozen": (lambda ps: [*ps, draw(2)], r"parameters\[4\]: expected a leaf .*without"),
    "computed": (lambda ps: [ps[0] * 2], r"parameters\[0\]: expected a leaf .*computed"),
    "none": (lambda ps: iter(()), "at least one, got none"),
    "a third loss": (lambda ps: ps[0].sum(), "more than two losses"),
    "a name": (lambda ps: ["weight"], r"parameters\[0\]: expected .*got str"),
    "integers": (lambda ps: [torch.ones(2).long()], "got int64"),
}


@inputs.hostile(PARAMETERS)
def test_what_are_no_parameters_is_refused(change, message):
    model = network()
    with pytest.raises((ValueError, TypeError), match=rf"parameters.*{message.split(': ')[-1]}"):
        harmonized_backward(*two_losses(model), change(list(model.parameters())))


def test_arguments_that_do_not_fit():
    model = network()
    with pytest.raises(TypeError, match="positional"):
        harmonized_backward(*two_losses(model), two_losses(model)[0], model.parameters())
    with pytest.raises(ValueError, match="None and None"):
        harmonized_backward(None, None, model.parameters())
    with pytest.raises(ValueError, match="granularity: expected one of batch, shard, sample"):
        harmonized_backward(*two_losses(model), model.parameters(), granularity="epoch")
    for options in ({"granularity": "sample"}, {"features": X}):
        with pytest.raises(ValueError, match="features: expected with 'sample' and only then"):
            harmonized_backward(*two_losses(model), model.parameters(), **options)


def test_a_sparse_gradient_is_refused():
    table = nn.Embedding(5, 3, sparse=True)
    losses = [table(torch.tensor([1, 2])).square().sum() for _ in range(2)]
    with pytest.raises(ValueError, match=r"parameters\[0\]: expected a dense gradient"):
        harmonized_backward(*losses, table.parameters())


# granularity "sample"

SIGNS = torch.tensor([1.0, 1, -1, 1, -1], dtype=torch.float64)


def sample_losses(model, x=X, signs=SIGNS):
    """Rows whose sign is -1 disagree; no row's loss depends on another row."""
    features = model[0](x)
    out = model[2](model[1](features))
    return (out - 9).square().mean(1), (out - 9 * signs[:, None]).square().mean(1), features


def test_cosines_of_samples_are_those_of_each_alone():
    losses_a, losses_b, features = sample_losses(network())
    found = sample_cosines(losses_a, losses_b, features)
    for i in range(len(X)):
        rows = [torch.autograd.grad(losses[i], features, retain_graph=True)[0][i]
                for losses in (losses_a, losses_b)]  # fmt: skip
        torch.testing.assert_close(found[i], functional.cosine_similarity(*rows, dim=0))
    assert torch.equal(found < 0, SIGNS < 0)


def test_a_curriculum_of_samples_trains_on_those_that_it_keeps():
    model, plain = network(), network()
    a, b, features = sample_losses(model)
    curriculum = GradientCurriculum(0, 0, steps=1)
    report = harmonized_backward(
        a, b, model.parameters(), granularity="sample", features=features, curriculum=curriculum
    )
    assert (report.conflict, report.accepted) == (2 / 5, 3 / 5)
    assert report.cosine == pytest.approx(sample_cosines(*sample_losses(plain)).mean().item())
    a, b, _ = sample_losses(plain, X[SIGNS > 0], SIGNS[SIGNS > 0])
    (a + b).mean().backward()
    torch.testing.assert_close(filled(model), filled(plain))
    assert curriculum.batch == 1


def test_samples_are_realigned_by_their_features():
    model, plain = network(), network()
    a, b, features = sample_losses(model)
    harmonized_backward(
        a, b, model.parameters(), granularity="sample", features=features, realign=True
    )
    a, b, features = sample_losses(plain)
    rows = [torch.autograd.grad(each.mean(), features, retain_graph=True)[0] for each in (a, b)]
    delta = torch.stack([sum(literal_realign(*each)) for each in zip(*rows, strict=True)])
    # behind the features the sum is as it was; before them, what was realigned
    behind = torch.autograd.grad((a + b).mean(), [*plain[2].parameters()], retain_graph=True)
    before = torch.autograd.grad(features, [*plain[0].parameters()], delta)
    torch.testing.assert_close(filled(model), flat([*before, *behind]))


def test_an_example_without_a_second_loss_is_kept():
    model = network()
    a, b, features = sample_losses(model)
    b = b * torch.tensor([1.0, 0, 1, 1, 1])
    assert sample_cosines(a, b, features).isnan().tolist() == [False, True, False, False, False]
    curriculum = GradientCurriculum(1, 1, steps=1)  # keeps what is undefined, and nothing else
    report = harmonized_backward(
        a, b, model.parameters(), granularity="sample", features=features, curriculum=curriculum
    )
    assert report.accepted == 1 / 5


def test_when_all_samples_are_dropped_so_is_the_step():
    model = network()
    a, b, features = sample_losses(model)
    curriculum = GradientCurriculum(1, 1, steps=1)
    report = harmonized_backward(
        a, b + a.flip(0), model.parameters(), granularity="sample", features=features,
        curriculum=curriculum,
    )  # fmt: skip
    assert not report.accepted
    assert all(p.grad is None for p in model.parameters())


SAMPLES = {
    "a scalar": (lambda x: x.sum(), r"each of 5 examples, got float64 \(\)"),
    "one less": (lambda x: x[1:], r"each of 5 examples, got float64 \(4,\)"),
    "None": (lambda x: None, "each of 5 examples, got NoneType.*0 if"),
    "NaN": (lambda x: inputs.with_entry(x, NAN, 2), "expected finite losses, got nan in row 2"),
    "without a gradient": (lambda x: x.detach(), "expected losses with a gradient"),
    "of others": (lambda x: nn.Parameter(x.detach()) * 2, "computed from features"),
}


@pytest.mark.parametrize("name", ["loss_a", "loss_b"])
@inputs.hostile(SAMPLES)
def test_what_are_no_losses_of_samples_is_refused(name, change, message):
    def call(**losses):
        return harmonized_backward(
            **losses, parameters=model.parameters(), granularity="sample", features=features
        )

    model = network()
    a, b, features = sample_losses(model)
    losses = {"loss_a": a, "loss_b": b}
    losses[name] = change(losses[name])
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        call(**losses)
    if losses[name] is not None and losses[name].shape == a.shape:
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            sample_cosines(**losses, features=features)


def test_samples_that_reach_no_parameter_are_refused():
    a, b, features = sample_losses(network())
    with pytest.raises(ValueError, match="parameters: expected one that the losses reach"):
        harmonized_backward(a, b, network().parameters(), granularity="sample", features=features)


def test_features_without_a_gradient_are_refused():
    model = network()
    a, b, features = sample_losses(model)
    with pytest.raises(ValueError, match="features: expected .* with a gradient"):
        sample_cosines(a, b, features.detach())


# in the loop


def harmony(model, **options):
    def backward(losses):
        return harmonized_backward(losses["a"], losses["b"], model.parameters(), **options)

    return backward


def both(model, batch):
    a, b = two_losses(model, batch["x"], far=batch["far"])
    return {"loss": a + b, "a": a, "b": b}


def train(curriculum=None, epochs=3, far=1.0, **options):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    batches = [{"x": x, "far": torch.tensor(far).double()} for x in X.split(2)]
    history = fit(
        model, both, lambda epoch: batches, optimizer=optimizer, epochs=epochs,
        backward=harmony(model, realign=True, curriculum=curriculum), progress=False,
        stateful=[curriculum] if curriculum else [], **options,
    )  # fmt: skip
    return model, history


def test_fit_records_what_the_backward_pass_reports():
    _, history = train()
    assert history.accepted.to_list() == [1, 1, 1]
    assert history.conflict.between(0, 1).all()
    assert history.cosine.between(-1, 1).all()


@pytest.mark.filterwarnings("ignore:backward. no step")
def test_fit_takes_up_the_clock_of_a_curriculum(tmp_path):
    def curriculum():
        return GradientCurriculum(-0.95, -0.5, steps=8)

    whole, history = train(curriculum(), checkpoint=tmp_path / "whole.pt")
    train(curriculum(), epochs=1, checkpoint=tmp_path / "half.pt")
    again = curriculum()
    resumed, parts = train(again, checkpoint=tmp_path / "half.pt")
    assert again.batch == 9
    assert 0 < history.accepted.mean() < 1
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert parts.accepted.to_list() == history.accepted.to_list()


def test_an_epoch_in_which_everything_is_dropped_is_told():
    with pytest.warns(UserWarning, match=r"no step of epoch 1 was accepted \(rate 0\)"):
        model, history = train(GradientCurriculum(0.9, 0.9, steps=1), epochs=1)
    assert history.accepted.to_list() == [0]
    torch.testing.assert_close(model.state_dict(), network().state_dict(), rtol=0, atol=0)


# several processes


def clips(rows):
    """Features of 8 clips; each text is that of the clip before."""
    v = draw(8, 6, dtype=torch.float64)
    a = v + 0.3 * draw(8, 6, seed=1, dtype=torch.float64)
    return v[rows], a[rows], a.roll(1, 0)[rows]


def contrastive(z, w):
    """Of the batch of all processes, which each computes."""
    z, w = (functional.normalize(gathered_with_gradient(x), dim=1) for x in (z, w))
    return functional.cross_entropy(z @ w.T / 0.2, torch.arange(len(z)))


def joint_losses(model, rows):
    v, a, t = (model(x) for x in clips(rows))
    return contrastive(v, a), contrastive(v, t)


def harmony_of(rows, **options):
    model = network()
    report = harmonized_backward(*joint_losses(model, rows), model.parameters(), **options)
    return {"grad": filled(model) if report.accepted else None, "report": list(report)}


def wrapped_of(rows):
    """The second of two steps through DistributedDataParallel, which is to average nothing more."""
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):
        model.zero_grad()
        harmonized_backward(*joint_losses(wrapped, rows), model.parameters(), realign=True)
    return filled(model)


def naive_of(rows):
    """Project, then average: each process realigns the gradients of its own losses."""
    model = network()
    losses = joint_losses(model, rows)
    grads = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
             for loss in losses]  # fmt: skip
    new_a, new_b = realign(*grads)
    total = flat(new_a) + flat(new_b)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        total /= 2
    return total


def caught(call):
    try:
        return {"error": "none", "result": call()}
    except ValueError as error:
        return {"error": str(error)}


# of a loss in process 1 alone, and what is said of it
UNUSUAL = {"none": "none", "nan": "finite loss, got nan", "no path": "reaches none"}


def without_text(rank, how):
    """Losses of own rows, one of which is unusual in process 1 alone."""
    model = network()
    loss_a, loss_b = two_losses(model, X[2 * rank : 2 * rank + 2])
    if rank == 1:
        loss_b = {"none": None, "nan": loss_b * NAN, "no path": nn.Parameter(draw(1)).sum()}[how]
    report = harmonized_backward(loss_a, loss_b, model.parameters(), realign=True)
    return {"grad": filled(model), "report": list(report)}


def by_shard(rank):
    """Process 1 alone is in conflict, and drops its rows."""
    model, curriculum = network(), GradientCurriculum(0, 0, steps=1)
    losses = two_losses(model, X[2 * rank : 2 * rank + 2], far=1.0 if rank else -2.0)
    report = harmonized_backward(
        *losses, model.parameters(), granularity="shard", curriculum=curriculum
    )
    return {"grad": filled(model), "report": list(report), "batch": curriculum.batch}


def by_sample(rows):
    model = network()
    a, b, features = sample_losses(model, X[:4][rows], SIGNS[:4][rows])
    report = harmonized_backward(
        a, b, model.parameters(), granularity="sample", features=features,
        curriculum=GradientCurriculum(0, 0, steps=1), realign=True,
    )  # fmt: skip
    return {"grad": filled(model), "report": list(report)}


def run_rank(rank, folder):
    """One of two processes; what it found goes to a file."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    rows = slice(4 * rank, 4 * rank + 4)
    gammas = GradientCurriculum(-0.5 + rank / 4, 0, steps=9)
    found = {
        "plain": harmony_of(rows),
        "realign": harmony_of(rows, realign=True),
        "dropped": harmony_of(rows, curriculum=GradientCurriculum(0, 0, steps=1)),
        "wrapped": wrapped_of(rows),
        "naive": naive_of(rows),
        **{
            how: caught(lambda how=how: without_text(rank, how))
            for how in ("none", "nan", "no path")
        },
        "gammas": caught(lambda: harmony_of(rows, curriculum=gammas)),
        "shard": by_shard(rank),
        "sample": by_sample(slice(2 * rank, 2 * rank + 2)),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    torch.multiprocessing.spawn(run_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["plain", "realign"])
def test_two_processes_are_one(ranks, name):
    one = harmony_of(slice(0, 8), realign=name == "realign")
    assert one["report"][0] < -0.05
    for each in ranks:
        torch.testing.assert_close(each[name]["grad"], one["grad"], rtol=1e-6, atol=1e-9)
        assert each[name]["report"] == pytest.approx(one["report"])
    assert torch.equal(ranks[0][name]["grad"], ranks[1][name]["grad"])


def test_a_wrapped_model_takes_the_same_gradient(ranks):
    for each in ranks:
        torch.testing.assert_close(each["wrapped"], each["realign"]["grad"])


def test_to_project_and_then_average_is_wrong(ranks):
    """By how much: a quarter of the gradient, here."""
    one = harmony_of(slice(0, 8), realign=True)["grad"]
    torch.testing.assert_close(naive_of(slice(0, 8)), one)
    error = (ranks[0]["naive"] - one).norm() / one.norm()
    assert 0.2 < error < 0.3


def test_all_processes_drop_a_batch_together(ranks):
    assert [each["dropped"]["grad"] for each in ranks] == [None, None]
    assert ranks[0]["dropped"]["report"] == ranks[1]["dropped"]["report"]


def test_a_process_without_a_text_does_not_hold_up_the_other(ranks):
    model = network()
    loss_a = two_losses(model, X[:4])[0]
    loss_b = two_losses(model, X[:2])[1]  # of process 0 alone
    report = harmonized_backward(loss_a, loss_b, model.parameters(), realign=True)
    for each in ranks:
        assert each["none"]["error"] == "none"
        torch.testing.assert_close(each["none"]["result"]["grad"], filled(model))
        assert each["none"]["result"]["report"] == pytest.approx(list(report))


@pytest.mark.parametrize("how", ["nan", "no path"])
def test_what_is_wrong_in_one_process_is_raised_in_both(ranks, how):
    for each in ranks:
        assert UNUSUAL[how] in each[how]["error"]
        assert each[how]["error"].startswith("loss_b: ")
        assert each[how]["error"].endswith("(in process 1)")


def test_curricula_that_differ_are_refused(ranks):
    for each in ranks:
        assert "one gamma in all processes, got [-0.5, -0.25]" in each["gammas"]["error"]


def test_shards_are_dropped_apart(ranks):
    model = network()
    sum(two_losses(model, X[:2], far=-2.0)).backward()
    for each in ranks:
        torch.testing.assert_close(each["shard"]["grad"], filled(model))
        assert each["shard"]["report"][1:] == [0.5, 0.5]
        assert each["shard"]["batch"] == 1


def test_samples_of_two_processes_are_those_of_one(ranks):
    one = by_sample(slice(0, 4))
    assert one["report"][2] == 3 / 4
    for each in ranks:
        torch.testing.assert_close(each["sample"]["grad"], one["grad"])
        assert each["sample"]["report"] == pytest.approx(one["report"])
