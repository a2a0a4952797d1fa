import json
import pathlib
import random
import subprocess
import sys
from typing import NamedTuple

import accelerate
import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from modalign.training import DivergenceError, fit, loop, progress, seeded, shuffled


def numbers(rows=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True) + torch.randn(rows, 1, generator=generator)}


def network(dropout=0.0):
    def make():
        hidden = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout)]
        return nn.Sequential(*hidden, nn.Linear(8, 1))

    return seeded(make, seed=0)


def squared(model, batch):
    return functional.mse_loss(model(batch["x"]), batch["y"])


def train(model=None, loss=squared, batches=None, *, make=torch.optim.Adam, lr=0.01, **options):
    """A model trained for two epochs where nothing else is said, and its history."""
    model = network() if model is None else model
    batches = shuffled(numbers(), 8) if batches is None else batches
    options = {"optimizer": make(model.parameters(), lr=lr), "progress": False} | options
    if "steps" not in options:
        options.setdefault("epochs", 2)
    return model, fit(model, loss, batches, **options)


def same(first, second):
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# the loop itself


def test_fit_is_the_loop_one_would_write():
    model, batches = network(), shuffled(numbers(), 8, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=14)
    losses, norms, rates = [], [], []
    for epoch in range(2):
        weighted, rows = 0.0, 0
        for batch in batches(epoch):
            optimizer.zero_grad()
            loss = squared(model, batch)
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
            optimizer.step()
            rates.append(schedule.get_last_lr()[0])
            schedule.step()
            weighted, rows = weighted + loss.item() * len(batch["x"]), rows + len(batch["x"])
        losses.append(weighted / rows)
    ours = network()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    history = fit(
        ours,
        squared,
        batches,
        optimizer=optimizer,
        epochs=2,
        schedule=lr_scheduler.CosineAnnealingLR(optimizer, T_max=14),
        schedule_by="step",
        clip=1.0,
        progress=False,
    )
    assert same(ours, model)
    assert history.columns.to_list() == ["epoch", "step", "loss", "gradient_norm", "learning_rate"]
    assert history[["epoch", "step"]].to_numpy().tolist() == [[1, 7], [2, 14]]
    assert history.loss.to_list() == pytest.approx(losses, rel=1e-12)
    assert history.gradient_norm.to_list() == pytest.approx(
        [np.mean(norms[:7]), np.mean(norms[7:])]
    )
    assert history.learning_rate.to_list() == pytest.approx([rates[6], rates[13]])
    assert history.attrs["seconds"] > 0


def test_losses_have_names_and_are_means_over_examples():
    batches = [{"x": torch.full((rows, 1), float(rows))} for rows in (1, 2, 5)]

    def loss(model, batch):
        return {"loss": (0 * model(batch["x"])).mean(), "rows": batch["x"].mean()}

    _, history = train(nn.Linear(1, 1), loss, batches, epochs=1)
    assert history.rows.item() == (1 + 4 + 25) / 8
    assert history.loss.item() == 0


def test_what_is_left_on_the_device_is_averaged_alike(monkeypatch):
    at_once = train(clip=1.0)[1]
    monkeypatch.setattr(progress.Averages, "AT_ONCE", frozenset())
    pd.testing.assert_frame_equal(train(clip=1.0)[1], at_once)
    monkeypatch.setattr(progress, "READ_EVERY", 3)
    pd.testing.assert_frame_equal(train(clip=1.0)[1], at_once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_averages_keep_the_digits_of_the_losses(dtype):
    batches = [{"x": torch.ones(257, 1, dtype=dtype)}, {"x": torch.zeros(1, 1, dtype=dtype)}]

    def loss(model, batch):
        return (model(batch["x"]) * 0).mean() + batch["x"][0, 0] / 3

    third = torch.tensor(1 / 3, dtype=dtype).item()
    _, history = train(nn.Linear(1, 1).to(dtype), loss, batches, epochs=1)
    assert history.loss.item() == pytest.approx(third * 257 / 258, rel=1e-15)


def linear():
    return seeded(lambda: nn.Linear(4, 1), seed=0)


def test_accumulated_batches_make_the_step_of_a_large_one():
    large, _ = train(linear(), batches=shuffled(numbers(48), 24))
    small, history = train(linear(), batches=shuffled(numbers(48), 8), accumulate=3)
    torch.testing.assert_close(small.weight, large.weight)
    assert history.step.to_list() == [2, 4]


def test_the_last_batches_of_an_epoch_make_a_step_of_their_own():
    def run(batches, accumulate):
        return train(linear(), batches=batches, accumulate=accumulate, epochs=1)

    first, second, third = shuffled(numbers(48), 16)(0)
    pair = {name: torch.cat([first[name], second[name]]) for name in first}
    torch.testing.assert_close(
        run([first, second, third], 2)[0].weight, run([pair, third], 1)[0].weight
    )
    assert run([first, second, third], 2)[1].step.item() == 2


def test_steps_end_a_run_within_an_epoch():
    model, history = train(steps=10)
    assert history[["epoch", "step"]].to_numpy().tolist() == [[1, 7], [2, 10]]
    assert not same(model, train(steps=11)[0])


def test_no_epochs_leave_the_model_alone():
    model, history = train(epochs=0)
    assert same(model, network())
    assert history.columns.to_list() == ["epoch", "step"]
    assert history.empty


def test_gradients_from_before_do_not_count():
    model = network()
    model[0].weight.grad = torch.full_like(model[0].weight, 1e6)
    assert same(train(model)[0], train()[0])


def test_hooks_see_every_step():
    seen = []
    train(after_step=seen.append)
    assert seen == list(range(1, 15))


# what it depends on


def noisy(model, batch):
    noise = random.random() + np.random.rand()  # noqa: NPY002
    return squared(model, batch) + noise * model[0].weight.sum()


def test_a_run_depends_on_its_seed_alone():
    runs = [train(network(dropout=0.5), noisy, seed=seed) for seed in (1, 1, 2)]
    assert same(runs[0][0], runs[1][0])
    pd.testing.assert_frame_equal(runs[0][1], runs[1][1])
    assert not same(runs[0][0], runs[2][0])


def draw():
    return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002


def test_generators_are_as_they_were():
    def seed():
        torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002

    seed()
    known = draw()
    seed()
    train(network(dropout=0.5), noisy)
    assert draw() == known
    seed()
    with pytest.raises(ZeroDivisionError):
        train(loss=lambda model, batch: 1 / 0)
    assert draw() == known


def test_evaluation_does_not_change_the_training():
    def evaluate(model):
        return {"held": sum(draw())}

    assert same(train(network(dropout=0.5), evaluate=evaluate)[0], train(network(dropout=0.5))[0])


def test_seeded_builds_the_same_and_disturbs_nothing():
    torch.manual_seed(5)
    known = torch.rand(1)
    torch.manual_seed(5)
    models = [seeded(lambda: nn.Linear(3, 2), seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), known)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    torch.manual_seed(1)
    assert same(models[2], nn.Linear(3, 2))


# precision and devices


def dtypes_seen(**options):
    seen = []

    def loss(model, batch):
        out = model(batch["x"])
        seen.append(out.dtype)
        return functional.mse_loss(out.float(), batch["y"])

    def evaluate(model):
        seen.append(model(torch.ones(2, 4)).dtype)
        return {}

    model, history = train(loss=loss, evaluate=evaluate, epochs=1, **options)
    assert history.loss.dtype == "float64"
    assert model(torch.ones(2, 4)).dtype == torch.float32
    return set(seen)


def test_runs_of_one_process_may_differ_in_precision_and_device():
    assert dtypes_seen(precision="bf16") == {torch.bfloat16}
    assert dtypes_seen(precision="no") == {torch.float32}
    assert dtypes_seen(precision="bf16", device="cpu") == {torch.bfloat16}
    assert dtypes_seen(device="cpu") == {torch.float32}


def test_an_accelerator_of_the_caller_stays_as_it_was():
    own = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    try:
        train(precision="no")
        assert own.mixed_precision == "bf16"
        assert own.gradient_accumulation_steps == 4
        assert accelerate.Accelerator(cpu=True).mixed_precision == "bf16"
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()


def test_half_precision_with_scaling_is_for_gpus():
    with pytest.raises(ValueError, match="precision: 'fp16' needs a GPU"):
        train(precision="fp16", device="cpu")


def test_a_step_whose_scaled_gradients_overflow_is_left_out():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, overflow, value in [(torch.inf, True, 1.0), (1.0, False, 0.5)]:
        scaler.scale((gradient * parameter).sum()).backward()
        assert loop._update(optimizer, scaler, None) is overflow
        assert parameter.tolist() == [value, value]
        optimizer.zero_grad()


def test_the_launcher_does_not_change_the_run(monkeypatch):
    known, _ = train(accumulate=2)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert same(train(accumulate=2)[0], known)


# evaluation, schedules, stopping


def test_evaluation_is_in_evaluation_mode_and_without_gradients():
    model, modes = network(), []
    model[1].eval()

    def evaluate(inner):
        assert inner is model
        assert not torch.is_grad_enabled()
        modes.append([module.training for module in model])
        return {"weight": model[0].weight.sum()}

    _, history = train(
        model, lambda m, b: modes.append(m.training) or squared(m, b), evaluate=evaluate, epochs=1
    )
    assert modes == [True] * 7 + [[False] * 5]
    assert [module.training for module in model] == [True, False, True, True, True]
    assert history.weight.item() == pytest.approx(model[0].weight.sum().item())


def test_evaluation_comes_every_so_many_epochs_and_at_the_end():
    _, history = train(evaluate=lambda model: {"held": 1.0}, every=3, epochs=5)
    assert history.held.notna().to_list() == [False, False, True, False, True]
    _, history = train(evaluate=lambda model: {"held": 1.0}, every=3, steps=10)
    assert history.held.notna().to_list() == [False, True]


def stopping(values, **options):
    """A run whose evaluations give the values, and the weights after each epoch."""
    found, weights = iter(values), []

    def evaluate(model):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"held": next(found)}

    model, history = train(evaluate=evaluate, epochs=len(values), watch="held", **options)
    return model, history, weights


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_patience_stops_and_keeps_the_best(mode, sign):
    values = [sign * value for value in (5, 3, float("nan"), 4, 3, 1)]
    model, history, weights = stopping(values, patience=3, mode=mode)
    assert len(history) == 5
    assert history.attrs["best_epoch"] == 2
    assert all(torch.equal(value, weights[1][name]) for name, value in model.state_dict().items())


def test_a_run_with_patience_ends_with_its_best_weights_without_stopping():
    model, history, weights = stopping([3, 1, 2], patience=5)
    assert len(history) == 3
    assert torch.equal(model[0].weight, weights[1]["0.weight"])
    model, history, weights = stopping([3, 1, 2])
    assert torch.equal(model[0].weight, weights[2]["0.weight"])
    assert "best_epoch" not in history.attrs


def test_without_evaluation_patience_goes_by_the_training_loss():
    _, history = train(lr=0.0, make=torch.optim.SGD, patience=2, epochs=9)
    assert 3 <= len(history) < 9


def test_schedules_go_by_epoch_or_step():
    def rates(make, **options):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        options = {"epochs": 4, "schedule": make(optimizer)} | options
        history = train(model, optimizer=optimizer, **options)[1]
        return (100 * history.learning_rate).to_list()

    def halve(optimizer):
        return lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

    assert rates(halve) == pytest.approx([1, 0.5, 0.25, 0.125])
    assert rates(halve, schedule_by="step") == pytest.approx([2**-6, 2**-13, 2**-20, 2**-27])
    held = iter([3, 2, 4, 4, 1, 1])
    plateau = rates(
        lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0),
        evaluate=lambda model: {"held": next(held)},
        watch="held",
        epochs=6,
    )
    assert plateau == pytest.approx([1, 1, 1, 0.1, 0.01, 0.01])


# what goes wrong


def diverging(step, part="loss"):
    """A loss of two parts, one of which is NaN in one step."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        found = {"loss": squared(model, batch), "other": model[0].weight.square().sum()}
        if len(calls) == step:
            found[part] = found[part] * float("nan")
        return found

    return loss


def test_a_loss_that_is_not_finite_stops_the_run():
    model = network()
    with pytest.raises(FloatingPointError, match="loss became nan in step 9 .epoch 2.") as error:
        train(model, diverging(9), epochs=3)
    before, _ = train(steps=8, loss=diverging(0))
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    assert isinstance(error.value, DivergenceError)
    pd.testing.assert_frame_equal(error.value.history, train(loss=diverging(0), epochs=1)[1])


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights():
    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    model = network()
    with pytest.raises(DivergenceError, match="gradient_norm became (inf|nan) in step 1 "):
        train(model, lambda m, b: Infinite.apply(squared(m, b)), clip=1.0)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_on_a_device_that_is_read_seldom_the_step_is_still_named(monkeypatch):
    monkeypatch.setattr(progress.Averages, "AT_ONCE", frozenset())
    with pytest.raises(DivergenceError, match="loss became nan in step 9 "):
        train(loss=diverging(9), epochs=3)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_metric_that_is_not_finite_is_one_of_the_history(monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr(progress.Averages, "AT_ONCE", frozenset())

    def backward(losses):
        losses["loss"].backward()
        return {"cosine": torch.tensor(float("inf")), "size": np.float32(2)}

    model, history = train(loss=diverging(9, "other"), epochs=3, backward=backward)
    assert history.other.isna().to_list() == [False, True, False]
    assert history.loss.notna().all()
    assert (history["size"] == 2).all()
    assert np.isinf(history.cosine).all()
    assert same(model, train(loss=diverging(0), epochs=3)[0])


class Spoilt(torch.autograd.Function):
    """Finite forwards, and NaN backwards."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("clip", [None, 1.0])
def test_weights_that_are_not_finite_do_not_leave_the_run(clip):
    """Of the last step no loss follows that could tell."""

    def loss(model, batch):
        return Spoilt.apply(squared(model, batch))

    batches = [numbers(8)]
    name = "gradient_norm became nan in step 1" if clip else "parameter 0.weight of model is not"
    with pytest.raises(DivergenceError, match=name):
        train(batches=batches, loss=loss, epochs=1, clip=clip)


@pytest.mark.parametrize("buffer", ["persistent", "not persistent"])
def test_buffers_that_are_not_finite_do_not_leave_the_run(buffer):
    model = linear()
    model.register_buffer("peak", torch.zeros(2), persistent=buffer == "persistent")
    mask = torch.full((3, 3), -torch.inf).triu(1)
    model.register_buffer("mask", mask)
    assert len(train(model)[1]) == 2  # a mask may stay as it came
    with pytest.raises(DivergenceError, match="buffer peak of model is not finite after step 14,"):
        train(model, after_step=lambda step: model.peak.fill_(torch.inf if step > 9 else 0))
    model.peak.zero_()
    with pytest.raises(DivergenceError, match="buffer mask of model is not finite"):
        train(model, after_step=lambda step: model.mask.fill_(torch.inf))


def test_an_optimizer_that_is_not_finite_does_not_leave_the_run():
    model = linear()
    optimizer = torch.optim.Adam(model.parameters())

    def spoil(step):
        if step == 14:
            optimizer.state[model.bias]["exp_avg_sq"].fill_(torch.nan)
            optimizer.state[model.weight]["exp_avg"].fill_(torch.nan)

    message = "optimizer's exp_avg of parameter weight is not finite .*, nor are 1 more"
    with pytest.raises(DivergenceError, match=message):
        train(model, optimizer=optimizer, after_step=spoil)


def test_large_weights_are_finite():
    model = linear()
    with torch.no_grad():
        model.weight.fill_(3e38)
    assert len(train(model, lambda m, b: (m.bias * 1.0).sum(), make=torch.optim.SGD)[1]) == 2


def test_a_stateful_module_has_to_be_finite():
    teacher = linear()

    def spoil(step):
        with torch.no_grad():
            teacher.bias.fill_(torch.nan)

    with pytest.raises(DivergenceError, match="parameter bias of stateful 0 is not finite"):
        train(stateful=[teacher], after_step=spoil)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: m(b["x"]), r"loss: expected 'loss' to be a scalar, got float32 \(8, 1\)"),
        (lambda m, b: torch.zeros(()), r"loss: expected a tensor with a gradient.* float32 \(\)"),
        (lambda m, b: {"mse": squared(m, b)}, "loss: expected a tensor with a gradient, or a dict"),
        (lambda m, b: 0.5, "loss: expected a tensor with a gradient.* got float 0.5"),
        (
            lambda m, b: {"loss": squared(m, b), "a": "1.0"},
            "loss: expected 'a' to be a scalar, got str '1.0'",
        ),
        (
            lambda m, b: {"loss": squared(m, b), "a": np.ones(1)},
            r"loss: expected 'a' to be a scalar, got ndarray float64 \(1,\)",
        ),
        (lambda m, b: {"loss": squared(m, b), "epoch": squared(m, b)}, "loss: 'epoch' is another"),
    ],
)
def test_loss_has_to_be_a_scalar_with_a_gradient(loss, message):
    with pytest.raises(ValueError, match=message):
        train(loss=loss)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (0.5, "evaluate: expected named numbers, got float 0.5"),
        ({"loss": 1.0}, "evaluate: 'loss' is another column"),
        ({"held": torch.ones(2)}, r"evaluate: expected a number as 'held', got float32 \(2,\)"),
        ({"held": "0.5"}, "evaluate: expected a number as 'held', got str '0.5'"),
        ({"held": None}, "evaluate: expected a number as 'held', got NoneType None"),
        ({"held": 1j}, "evaluate: expected a number as 'held', got complex 1j"),
    ],
)
def test_evaluation_has_to_give_named_numbers(found, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(evaluate=lambda model: found)


def test_what_is_watched_has_to_be_there():
    with pytest.raises(ValueError, match="watch: expected one of epoch, step, loss.* got 'held'"):
        train(watch="held", patience=1)


def other_schedule():
    return lr_scheduler.ExponentialLR(torch.optim.SGD(network().parameters(), lr=1), 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": None}, "fit: give either epochs or steps"),
        ({"epochs": 1, "steps": 1}, "fit: give either epochs or steps"),
        ({"epochs": -1}, "epochs: expected a whole number from 0, got -1"),
        ({"epochs": 1.5}, "epochs: expected a whole number from 0, got 1.5"),
        ({"seed": -1}, "seed: expected a whole number from 0, got -1"),
        ({"every": 0}, "every: expected a whole number from 1, got 0"),
        ({"accumulate": 0}, "accumulate: expected a whole number from 1, got 0"),
        ({"patience": 0}, "patience: expected a whole number from 1, got 0"),
        ({"clip": 0.0}, "clip: expected a norm above 0, got 0.0"),
        ({"clip": float("nan")}, "clip: expected a norm above 0, got nan"),
        ({"clip": "1"}, "clip: expected a norm above 0, got str '1'"),
        # NumPy 1 writes the number alone
        ({"epochs": np.float64(2)}, r"epochs: expected a whole number from 0, got .*2\.0"),
        ({"epochs": torch.tensor(-1)}, r"epochs: expected a whole number from 0, got tensor\(-1"),
        (
            {"make": torch.optim.LBFGS, "backward": dict},
            "backward: expected none with an optimizer that computes gradients again",
        ),
        (
            {"make": torch.optim.LBFGS, "precision": "fp16"},
            "precision: expected 'no' or 'bf16' with an optimizer that computes gradients again",
        ),
        ({"precision": "fp8"}, "precision: expected one of no, bf16, fp16, got 'fp8'"),
        ({"mode": "maximum"}, "mode: expected one of min, max, got 'maximum'; did you mean 'max'"),
        ({"device": "gpu"}, "device: expected one of auto, cpu, got 'gpu'"),
        ({"schedule_by": "steps"}, "schedule_by: .* did you mean 'step'"),
        ({"checkpoint_every": 1}, "checkpoint_every: needs checkpoint"),
        ({"schedule": other_schedule()}, "schedule: is of another optimizer"),
        ({"accumulate": 2, "backward": dict}, "backward: works on one batch a step"),
        ({"batches": iter([])}, "batches: expected something to read once an epoch, got an iter"),
        ({"batches": []}, "batches: expected at least one in every epoch, got none in 0"),
        ({"batches": [{}]}, "batches: expected tensors with examples in rows, got dict"),
        ({"batches": [{"x": torch.ones(())}]}, "batches: expected tensors with examples in rows"),
        ({"optimizer": None}, "fit: expected a torch module and an optimizer"),
        (
            {"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(3))])},
            r"optimizer: 1 of .*\(3,\)",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(**options)


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_may_be_of_numpy_and_torch(number):
    names = {"epochs": 2, "seed": 3, "accumulate": 2, "every": 1, "patience": 4}
    model, history = train(**{name: number(value) for name, value in names.items()})
    known, same_history = train(**names)
    assert same(model, known)
    pd.testing.assert_frame_equal(history, same_history)
    assert len(shuffled(numbers(), number(8), seed=number(1))) == 7
    assert same(seeded(lambda: nn.Linear(3, 2), number(1)), seeded(lambda: nn.Linear(3, 2), 1))


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array, torch.tensor, float, int])
def test_numbers_may_be_of_numpy_and_torch(number):
    model, history = train(
        loss=lambda m, b: {"loss": squared(m, b), "two": number(2.0)},
        clip=number(1.0),
        evaluate=lambda m: {"three": number(3.0)},
    )
    assert same(model, train(clip=1.0)[0])
    assert history.two.to_list() == [2, 2]
    assert history.three.to_list() == [3, 3]


@pytest.mark.parametrize("seed", [2**64, 1.5, "1", -(2**63) - 1])
def test_seeds_that_torch_does_not_take_are_refused(seed):
    with pytest.raises(ValueError, match="^seed: expected a whole number"):
        seeded(lambda: nn.Linear(3, 2), seed)


def test_a_plateau_goes_by_epoch():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="schedule_by: ReduceLROnPlateau follows epochs"):
        train(
            model,
            optimizer=optimizer,
            schedule=lr_scheduler.ReduceLROnPlateau(optimizer),
            schedule_by="step",
        )


# a backward pass of the caller's


def two_losses(model, batch):
    out = model(batch["x"])
    first, second = functional.mse_loss(out, batch["y"]), out.square().mean()
    return {"loss": first + second, "first": first, "second": second}


def test_a_backward_pass_of_the_callers_makes_the_same_step():
    def backward(losses):
        (losses["first"] + losses["second"]).backward()

    assert same(train(loss=two_losses, backward=backward)[0], train(loss=two_losses)[0])


def test_a_backward_pass_may_refuse_the_update_and_say_why():
    calls = []

    def backward(losses):
        calls.append(1)
        losses["loss"].backward()
        return {"accepted": len(calls) > 7, "cosine": losses["first"].detach() * 0 - 0.5}

    model, weights = network(), []
    known = model[0].weight.detach().clone()
    _, history = train(
        model,
        two_losses,
        backward=backward,
        after_step=lambda step: weights.append(model[0].weight.detach().clone()),
    )
    assert all(torch.equal(weight, known) for weight in weights[:7])
    assert not torch.equal(weights[7], known)
    assert history.accepted.to_list() == [0, 1]
    assert history.cosine.to_list() == [-0.5, -0.5]
    assert model[0].weight.grad is None


def test_a_backward_pass_may_report_in_a_named_tuple():
    class Report(NamedTuple):
        cosine: float
        accepted: bool

    def backward(losses):
        losses["loss"].backward()
        return Report(0.5, True)

    model, history = train(loss=two_losses, backward=backward)
    assert same(model, train(loss=two_losses)[0])
    assert history[["cosine", "accepted"]].iloc[-1].to_list() == [0.5, 1]


def test_an_epoch_without_an_accepted_step_is_told():
    calls = []

    def backward(losses):
        calls.append(1)
        losses["loss"].backward()
        return {"accepted": len(calls) > 7}

    with pytest.warns(UserWarning, match="no step of epoch 1 was accepted") as told:
        train(loss=two_losses, backward=backward)
    assert len([each for each in told if "accepted" in str(each.message)]) == 1


def test_numbers_of_a_backward_pass_have_names_of_their_own():
    def backward(losses):
        losses["loss"].backward()
        return {"first": 1.0}

    with pytest.raises(ValueError, match="backward: 'first' is another column"):
        train(loss=two_losses, backward=backward)


# batches


def test_shuffled_gives_every_row_once_in_an_order_of_seed_and_epoch():
    data = {"row": torch.arange(10), "x": torch.arange(20.0).reshape(10, 2)}
    batches = shuffled(data, 4, seed=1)
    orders = [torch.cat([batch["row"] for batch in batches(epoch)]) for epoch in (0, 1, 0)]
    assert orders[0].sort().values.tolist() == list(range(10))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    other = torch.cat([batch["row"] for batch in shuffled(data, 4, seed=2)(0)])
    assert not torch.equal(other, orders[0])
    assert [len(batch["x"]) for batch in batches(0)] == [4, 4, 2]
    assert all(torch.equal(batch["x"][:, 0], 2.0 * batch["row"]) for batch in batches(0))
    whole = shuffled(data, 4, drop_last=True)
    assert [len(batch["x"]) for batch in whole(0)] == [4, 4]
    assert (len(batches), len(whole)) == (3, 2)


def test_orders_and_dropout_do_not_share_their_random_numbers():
    data = {"row": torch.arange(1000)}
    drawn = []
    train(
        nn.Linear(1, 1),
        lambda m, b: drawn.append(torch.randperm(1000)) or m(torch.ones(1, 1)).mean(),
        shuffled(data, 1000, seed=0),
        epochs=1,
    )
    (order,) = shuffled(data, 1000, seed=0)(0)
    assert not torch.equal(drawn[0], order["row"])


def test_shuffled_reads_a_dataset():
    table = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "y": [0, 1, 2]})
    (batch,) = shuffled(table, 3)(0)
    assert torch.equal(batch["x"][:, 0], 2.0 * batch["y"] + 1)


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        ({}, 2, "data: expected named tensors or a datasets.Dataset"),
        (torch.ones(3), 2, r"data: expected named tensors .* got float32 \(3,\)"),
        ({"x": ["a", "b"]}, 2, "data: expected tensors .* in 'x'; make it a tensor"),
        ({"x": torch.tensor(1.0)}, 2, "data: expected tensors with examples in rows"),
        ({"x": torch.ones(3), "y": torch.ones(2)}, 2, "data: expected columns of one length"),
        ({"x": torch.ones(0)}, 2, "data: expected columns of one length, 1 at least"),
        ({"x": torch.ones(3)}, 0, "batch_size: expected a whole number from 1, got 0"),
        ({"x": torch.ones(3)}, 4, "batch_size: 4 leaves no whole batch of 3 examples"),
    ],
)
def test_shuffled_refuses(data, size, message):
    with pytest.raises(ValueError, match=message):
        shuffled(data, size, drop_last=True)


def pairs(model, batch):
    return functional.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_is_shuffled_by_the_seed(workers):
    def run(seed):
        loader = DataLoader(
            TensorDataset(*numbers().values()), 8, shuffle=True, num_workers=workers
        )
        return train(network(dropout=0.5), pairs, loader, seed=seed, epochs=1)[0]

    assert same(run(0), run(0))
    if not workers:
        assert not same(run(0), run(1))


def test_batches_may_be_a_function_of_the_epoch():
    asked = []

    def batches(epoch):
        asked.append(epoch)
        return (batch for batch in shuffled(numbers(), 8)(epoch))

    assert same(train(batches=batches, epochs=3)[0], train(epochs=3)[0])
    assert asked == [0, 1, 2]


# the bar


def test_the_bar_is_one_line_and_can_be_off(capfd):
    train()
    assert capfd.readouterr() == ("", "")
    train(progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "training: 100%" in shown.err
    assert "14/14" in shown.err
    assert shown.err.count("\n") == 1


# several processes


def plain(**options):
    """A run that on several processes has to be what it is on one: no batch normalisation."""
    data = numbers(50)
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), 0)
    options = {"epochs": 3, "clip": 1.0, "patience": 9, "watch": "held"} | options

    def loss(model, batch):
        return {"loss": squared(model, batch), "mean": model(batch["x"]).mean()}

    def evaluate(model):
        return {"held": squared(model, data)}

    batches = shuffled(data, 9)
    _, history = train(model, loss, batches, evaluate=evaluate, device="cpu", **options)
    return [*torch.cat([p.flatten() for p in model.parameters()]).tolist(), *history.stack()]


class Pair(NamedTuple):
    first: object
    second: object


def mixed(rows=10):
    """A batch of everything that one may hold beside the examples."""
    return numbers(rows) | {
        "texts": [str(row) for row in range(rows)],
        "nested": Pair(torch.arange(rows), {"ids": tuple(range(rows))}),
        "arrays": np.arange(rows),
        "mask": None,
        "scalar": torch.tensor(2.0),
        "weights": torch.ones(3),
        "name": "world",
        "sizes": (2, 3),
    }


def on_mixed_batches(rows=10):
    """The weights, and what the loss saw of a batch beside the numbers."""
    seen = []

    def loss(model, batch):
        first = batch["nested"].first.tolist()
        assert batch["texts"] == [str(row) for row in first]
        assert list(batch["nested"].second["ids"]) == first == batch["arrays"].tolist()
        others = [batch[name] for name in ("mask", "name", "sizes")]
        assert [*others, batch["scalar"].item(), len(batch["weights"])] == [
            None, "world", (2, 3), 2.0, 3,
        ]  # fmt: skip
        seen.extend(first)
        return squared(model, batch)

    model, history = train(linear(), loss, [mixed(rows)], device="cpu", make=torch.optim.SGD)
    return [*model.weight.flatten().tolist(), *history.loss], seen


def spoil_one(model, step):
    """Make the weights of the second process NaN, after the last step."""
    if step == 14 and accelerate.PartialState(cpu=True).process_index:
        nn.init.constant_(model.weight, torch.nan)


def on_a_process(folder: pathlib.Path) -> None:
    """What each of several processes finds."""
    masks = []

    def loss(model, batch):
        masks.append(functional.dropout(torch.ones(64)).tolist())
        return squared(model, batch)

    found = {"plain": plain(), "accumulated": plain(accumulate=2, clip=None)}
    with pytest.raises(ValueError, match="closure: works on one process, got 2"):
        train(device="cpu", closure=True)
    plain(epochs=1, checkpoint=folder / "run.pt")
    found["resumed"] = plain(checkpoint=folder / "run.pt")
    train(loss=loss, batches=shuffled(numbers(), 10), device="cpu", epochs=1)
    found["masks"] = masks
    with pytest.raises(ValueError, match="backward: works on one process .* got 2"):
        train(device="cpu", backward=dict)
    found["mixed"], found["rows"] = on_mixed_batches()
    found["few"], found["few rows"] = on_mixed_batches(rows=1)
    with pytest.raises(DivergenceError, match="parameter weight of model is not finite"):
        train(model := linear(), device="cpu", after_step=lambda step: spoil_one(model, step))
    state = accelerate.PartialState(cpu=True)
    found["processes"] = state.num_processes
    (folder / f"{state.process_index}.json").write_text(json.dumps(found))


def test_two_processes_train_as_one(tmp_path):
    # the launcher forks, and a child of this process could wait for ever for a thread that a test
    # before this one started
    launch = (
        "import pathlib, sys, accelerate; from test_training import on_a_process as work\n"
        "accelerate.debug_launcher(work, args=(pathlib.Path(sys.argv[1]),), num_processes=2)"
    )
    here = pathlib.Path(__file__).parent
    subprocess.run([sys.executable, "-c", launch, tmp_path], cwd=here, check=True, timeout=300)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["processes"] == 2
    assert first["plain"] == pytest.approx(plain(), abs=1e-6)
    assert first["accumulated"] == pytest.approx(plain(accumulate=2, clip=None), abs=1e-6)
    for name in ("plain", "accumulated", "resumed"):
        assert first[name] == second[name]
    assert first["resumed"] == first["plain"]
    for name, rows in (("mixed", 10), ("few", 1)):
        assert first[name] == pytest.approx(on_mixed_batches(rows)[0], abs=1e-6)
        assert first[name] == second[name]
    assert first["rows"] == 2 * list(range(5))
    assert second["rows"] == 2 * list(range(5, 10))
    assert first["few rows"] == second["few rows"] == [0, 0]
    assert all(one != other for one, other in zip(first["masks"], second["masks"], strict=True))
