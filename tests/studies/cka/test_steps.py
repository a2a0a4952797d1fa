import copy
import dataclasses

import pytest
import torch

from modalign.studies.cka import cosine_learning, recording, steps
from modalign.studies.cka.cosine_learning import Setting

SETTING = Setting(examples=600, objective="cosine")


def begun():
    state = cosine_learning.start(SETTING)
    a, b, held_out = cosine_learning.data(SETTING)
    state.step(a[held_out:], b[held_out:], SETTING)
    return state, a, b, held_out


def parameters(state):
    return torch.cat([each.flatten() for each in (*state.f.parameters(), *state.g.parameters())])


def test_a_step_leaves_the_state_as_it_was():
    state, a, b, _ = begun()
    known = parameters(state).clone()
    for rule in ("adam", "gradient"):
        steps.after_step(state, a[:50], b[:50], SETTING, rule)
        assert torch.equal(parameters(state), known)


def test_adams_step_is_the_runs_own():
    state, a, b, _ = begun()
    found = steps.after_step(state, a[:50], b[:50], SETTING, "adam")
    copy.deepcopy(state).step(a[:50], b[:50], SETTING)
    state.step(a[:50], b[:50], SETTING)
    assert torch.equal(parameters(found), parameters(state))


def test_the_gradients_step_is_as_long_and_of_this_minibatch_alone():
    state, a, b, _ = begun()
    old = parameters(state)
    adam, plain = (
        parameters(steps.after_step(state, a[:50], b[:50], SETTING, rule)) - old
        for rule in ("adam", "gradient")
    )
    assert plain.norm().item() == pytest.approx(adam.norm().item(), rel=1e-4)
    fresh = copy.deepcopy(state)
    loss = cosine_learning.loss(fresh.f(a[:50]), fresh.g(b[:50]), SETTING, 0)
    both = [*fresh.f.parameters(), *fresh.g.parameters()]
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, both)])
    assert torch.cosine_similarity(plain, -gradient, dim=0).item() == pytest.approx(1, abs=1e-4)


def test_a_step_raises_the_cosine_of_its_own_minibatch():
    state, *_ = begun()
    found = steps.effects(state, SETTING, 16, "gradient", "cosine", steps=2)
    assert found["inside"] > max(0.01, found["outside"])
    assert 0 <= found["falling"] <= 1


def test_a_step_on_both_from_a_run_on_the_cosine_is_one_with_cka():
    (run,) = recording.settings([{"objective": ["cosine"], "examples": [600]}], [0])
    state, a, b, _ = begun()
    alone, both = (
        steps.effects(state, run, 16, "gradient", objective, steps=1)
        for objective in ("cosine", "both")
    )
    # the change is what the gradient of the paper's loss makes of this minibatch
    paper = dataclasses.replace(run, objective="both", lambda_cka=0.1)
    generator = torch.Generator().manual_seed(run.seed)
    batch = (torch.randperm(run.examples, generator=generator) + len(a) - run.examples)[:16]
    new = steps.after_step(state, a[batch], b[batch], paper, "gradient")
    held_out = len(a) - run.examples
    change = steps.cosines(new, a, b, held_out) - steps.cosines(state, a, b, held_out)
    assert both["inside"] == pytest.approx(change[batch].mean().item(), abs=1e-6)
    assert abs(both["inside"] - alone["inside"]) > 1e-5


def test_statistics_are_those_of_the_training_pairs():
    state, a, b, held_out = begun()
    known = steps.cosines(state, a, b, held_out)
    for norm in (m for m in state.f.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean.fill_(100)
    assert torch.equal(steps.cosines(state, a, b, held_out), known)


def test_every_state_size_rule_and_loss_is_measured():
    table = steps.measured(Setting(objective="cosine", examples=600, epochs=1))
    assert len(table) == 2 * 2 * 2 * 2
    assert not table.duplicated(["epoch", "size", "rule", "step"]).any()
