"""How one step on a minibatch moves the pairs outside it: Figure 1 of the CKA paper, counted.

A run is stopped after some epochs. From that state single steps are taken, each on a minibatch of
its own and each from the same state again, and the cosine of every pair is compared before and
after.

When the sweep first ran, steps with CKA from a run on the cosine alone took that run's weight of
CKA, which is 0, so that they were steps without it, and all those contrasts were exactly 0. Since
then every step with CKA has :data:`WEIGHT`.
"""

import copy
import dataclasses
from typing import Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.studies.cka import cosine_learning
from modalign.studies.cka.cosine_learning import Objective, Setting, State

Rule = Literal["adam", "gradient"]
STATES = (0, 1, 5)
SIZES = (16, 512)
WEIGHT = 0.1
"""Of CKA in a step on both: the paper's lambda, from whichever run the step leaves."""


@torch.no_grad()
def cosines(state: State, a: Tensor, b: Tensor, held_out: int) -> Tensor:
    """The cosine of every pair (n,), with batch normalisation's statistics of the training pairs.

    They are taken anew, which leaves out the effect of a step's minibatch on running statistics.
    """
    f, g = copy.deepcopy((state.f, state.g))
    cosine_learning.calibrate(f, a[held_out:])
    cosine_learning.calibrate(g, b[held_out:])
    return functional.cosine_similarity(f.eval()(a), g.eval()(b))


def after_step(state: State, a: Tensor, b: Tensor, setting: Setting, rule: Rule) -> State:
    """A copy of the state, one step on a minibatch later.

    ``"adam"`` is the run's own next step, in which earlier minibatches have a part. ``"gradient"``
    goes down this minibatch's gradient alone, as far as Adam would have gone.
    """
    new = copy.deepcopy(state)
    new.step(a, b, setting)
    if rule == "adam":
        return new
    parameters = [*new.f.parameters(), *new.g.parameters()]
    gradient = [each.grad for each in parameters if each.grad is not None]
    old = [*state.f.parameters(), *state.g.parameters()]
    with torch.no_grad():
        steps = [n - o for n, o in zip(parameters, old, strict=True)]
        scale = nn.utils.get_total_norm(steps) / nn.utils.get_total_norm(gradient)
        for parameter, before, slope in zip(parameters, old, gradient, strict=True):
            parameter.copy_(before - scale * slope)
    return new


def effects(
    state: State, setting: Setting, size: int, rule: Rule, objective: Objective, *, steps: int = 4
) -> dict[str, float]:
    """How the mean cosine changes in one step, over several steps from the same state.

    Returns:
        ``inside`` the minibatch, ``outside`` it (training pairs) and ``held_out``: changes of the
        mean cosine; ``falling``: the share of the training pairs outside whose cosine falls.
    """
    a, b, held_out = cosine_learning.data(setting)
    before = cosines(state, a, b, held_out)
    generator = torch.Generator().manual_seed(setting.seed)
    order = torch.randperm(setting.examples, generator=generator) + held_out
    stepped = dataclasses.replace(setting, objective=objective, lambda_cka=WEIGHT)
    found = []
    for batch in order[: steps * size].split(size):
        new = after_step(state, a[batch], b[batch], stepped, rule)
        change = cosines(new, a, b, held_out) - before
        outside = torch.ones(len(a), dtype=torch.bool)
        outside[:held_out] = outside[batch] = False
        found.append(
            {
                "inside": change[batch].mean().item(),
                "outside": change[outside].mean().item(),
                "held_out": change[:held_out].mean().item(),
                "falling": (change[outside] < 0).double().mean().item(),
            }
        )
    return pd.DataFrame(found).mean().to_dict()


def measured(setting: Setting) -> pd.DataFrame:
    """All effects in the states of a run on the cosine alone, or on both.

    From a run on the cosine alone steps are taken with and without CKA, from a run on both with it.

    >>> table = measured(Setting(objective="both", examples=600, epochs=1))
    >>> table.groupby("epoch").size().to_dict()
    {0: 4, 1: 4}
    """
    states: dict[int, State] = {}

    def watch(epoch: int, state: State) -> None:
        if epoch in STATES:
            states[epoch] = copy.deepcopy(state)

    cosine_learning.train(setting, watch=watch)
    objectives: list[Objective] = ["both"] if setting.objective == "both" else ["cosine", "both"]
    return pd.DataFrame(
        [
            {
                "epoch": epoch,
                "size": size,
                "rule": rule,
                "step": objective,
                **effects(state, setting, size, rule, objective),
            }
            for epoch, state in states.items()
            for size in SIZES
            for rule in get_args(Rule)
            for objective in objectives
        ]
    )
