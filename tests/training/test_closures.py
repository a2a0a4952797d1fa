"""Optimizers that compute the loss again within a step, and batches of anything."""

import collections
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from modalign.training import DivergenceError, feed, fit, seeded, shuffled


def data(rows=40):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    return {"x": x, "y": x.sum(1, keepdim=True)}


def network(dropout=0.0):
    def make():
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))

    return seeded(make, 0)


def squared(model, batch):
    return functional.mse_loss(model(batch["x"]), batch["y"])


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=0.5, max_iter=4, history_size=3)


def searching(parameters):
    return torch.optim.LBFGS(parameters, max_iter=4, line_search_fn="strong_wolfe")


def sam(parameters):
    return pytorch_optimizer.SAM(parameters, torch.optim.SGD, lr=0.05, momentum=0.9)


class SecretiveSAM(torch.optim.Optimizer):
    """As SAM is mostly copied: the optimizer within has a state that is in no state_dict."""

    def __init__(self, parameters):
        super().__init__(parameters, {"rho": 0.05, "lr": 0.05, "momentum": 0.9})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.05, momentum=0.9)
        self.param_groups = self.base_optimizer.param_groups

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.base_optimizer.param_groups = self.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        weights = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([w.grad.norm() for w in weights]).norm()
        before = [w.clone() for w in weights]
        for w in weights:
            w += 0.05 * w.grad / norm
        with torch.enable_grad():
            closure()
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)
        self.base_optimizer.step()


class Stopped(Exception):
    pass


def train(make, path=None, *, stop=None, dropout=0.0, loss=squared, **options):
    model = network(dropout)

    def after_step(step):
        if step == stop:
            raise Stopped

    options = {"epochs": 3, "after_step": after_step} | options
    if path is not None:
        options |= {"checkpoint": path, "checkpoint_every": 1}
    optimizer, history = make(model.parameters()), None
    try:
        history = fit(
            model, loss, options.pop("batches", None) or shuffled(data(), 10),
            optimizer=optimizer, device="cpu", progress=False, **options,
        )  # fmt: skip
    except Stopped:
        assert stop is not None
    return torch.cat([p.detach().flatten() for p in model.parameters()]), history


MAKES = {
    "L-BFGS": (lbfgs, {}),
    "with a line search": (searching, {}),
    "SAM": (sam, {"closure": True}),
    "SAM with a secret": (SecretiveSAM, {"closure": True}),
    "clipped": (sam, {"closure": True, "clip": 0.1}),
    "accumulated": (lbfgs, {"accumulate": 2}),
    "with dropout": (lbfgs, {"dropout": 0.3}),
}


def by_hand(make, accumulate=1, clip=None):
    """The loop that one would write."""
    model, batches = network(), shuffled(data(), 10)
    optimizer = make(model.parameters())
    for epoch in range(3):
        drawn = list(batches(epoch))
        for first in range(0, len(drawn), accumulate):
            group = drawn[first : first + accumulate]

            def closure(group=group):
                optimizer.zero_grad()
                total = sum(squared(model, batch) for batch in group) / len(group)
                total.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                return total.detach()

            closure()  # SAM asks for gradients that are there
            optimizer.step(closure)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", [name for name in MAKES if name != "with dropout"])
def test_it_is_the_loop_one_would_write(name):
    make, options = MAKES[name]
    weights, _ = train(make, **options)
    given = {key: value for key, value in options.items() if key in ("accumulate", "clip")}
    torch.testing.assert_close(weights, by_hand(make, **given))


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("name", MAKES)
def test_a_run_that_is_taken_up_is_that_run_to_the_bit(tmp_path, name, stop):
    make, options = MAKES[name]
    weights, history = train(make, **options)
    train(make, tmp_path / "run.pt", stop=stop, **options)
    again, taken_up = train(make, tmp_path / "run.pt", **options)
    assert torch.equal(again, weights)
    assert history.equals(taken_up)


def test_all_evaluations_of_a_step_are_of_one_function():
    """Each draws the same dropout, and the next step another."""
    masks, grads = [], []

    def loss(model, batch):
        masks.append(functional.dropout(torch.ones(64)).tolist())
        grads.append(torch.is_grad_enabled())
        return squared(model, batch)

    train(lbfgs, loss=loss, epochs=1)
    steps = [masks[0]] + [b for a, b in itertools.pairwise(masks) if a != b]
    assert len(steps) == 4 < len(masks)
    assert all(grads)


def test_a_closure_for_an_optimizer_that_needs_none_changes_nothing_but_cost():
    """Adam's gradients are then those of its closure, which are the same."""
    calls = {True: 0, False: 0}
    for closure in calls:

        def loss(model, batch, closure=closure):
            calls[closure] += 1
            return squared(model, batch)

        weights, history = train(torch.optim.Adam, closure=closure, loss=loss, dropout=0.3)
        if closure:
            expected = weights, history
    assert torch.equal(weights, expected[0])
    assert history.equals(expected[1])
    assert calls[True] == 2 * calls[False]


def test_a_loss_that_is_not_finite_stops_the_next_step():
    seen = []

    def loss(model, batch):
        seen.append(batch)
        return squared(model, batch) * (torch.nan if len(seen) == 3 else 1)

    with pytest.raises(DivergenceError, match="loss became nan in step 2"):
        train(lbfgs, loss=loss)


def test_a_state_in_lists_has_to_be_finite(tmp_path):
    def spoil(step):
        next(iter(made[0].state.values()))["old_dirs"][0][0] = torch.nan

    made = []

    def make(parameters):
        made.append(lbfgs(parameters))
        return made[0]

    with pytest.raises(DivergenceError, match=r"optimizer's old_dirs\[0\] of parameter 0.weight"):
        train(make, tmp_path / "run.pt", after_step=spoil)


def test_an_optimizer_within_another_has_to_be_finite(tmp_path):
    def spoil(step):
        next(iter(made[0].base_optimizer.state.values()))["momentum_buffer"][0] = torch.inf

    made = []

    def make(parameters):
        made.append(SecretiveSAM(parameters))
        return made[0]

    with pytest.raises(DivergenceError, match="optimizer's momentum_buffer of parameter 0.weight"):
        train(make, tmp_path / "run.pt", after_step=spoil, closure=True)


def test_groups_stay_shared_with_an_optimizer_within(tmp_path):
    """So that a schedule over one is of both, in a run that is taken up too."""
    made = []

    def make(parameters):
        made.append(SecretiveSAM(parameters))
        return made[-1]

    train(make, tmp_path / "run.pt", stop=2, closure=True)
    train(make, tmp_path / "run.pt", closure=True)
    for each in made:
        assert each.param_groups is each.base_optimizer.param_groups


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (torch.optim.Adam, {"closure": 1}, TypeError, "closure: expected True, False or None"),
        (lbfgs, {"backward": dict}, ValueError, "backward: expected none with an optimizer that"),
    ],
)
def test_closures_that_do_not_fit_are_refused(make, options, error, message):
    with pytest.raises(error, match=message):
        train(make, **options)


def test_checkpoints_with_and_without_a_closure_are_of_other_runs(tmp_path):
    train(torch.optim.Adam, tmp_path / "run.pt", stop=2)
    with pytest.raises(ValueError, match="closure was None and is True"):
        train(torch.optim.Adam, tmp_path / "run.pt", closure=True)


# batches of anything


class Text(str):
    """A text with a method that a tensor has too."""

    def to(self, language):
        raise AssertionError("a text is not moved")


@dataclasses.dataclass(frozen=True)
class Pair:
    x: Any
    y: Any
    texts: list = dataclasses.field(default_factory=list)
    length: int = dataclasses.field(init=False, default=0)

    def __post_init__(self):
        object.__setattr__(self, "length", self.length + len(self.x))


class Words(list):
    """A list that is made in another way than lists are."""

    def __init__(self, first, second):
        super().__init__([first, second])


def everything():
    rows = data(10)
    return rows | {
        "text": Text("a"),
        "texts": [Text("b")] * 10,
        "none": None,
        "nested": [{"deep": (None, [1, "x"], rows["x"])}, set("ab"), object],
        "default": collections.defaultdict(list, {"x": rows["x"]}),
        "words": Words("one", "two"),
        "packed": pack_sequence([torch.ones(2), torch.ones(1)]),
        "array": np.arange(3),
        "pair": Pair(rows["x"], None),
    }


def test_what_is_no_tensor_stays_as_it_is():
    """At any depth, and in containers of any kind; the batch itself is left alone."""
    given, seen = everything(), []

    def loss(model, batch):
        seen.append(dict(batch))
        batch.pop("none")  # of a container of its own
        return squared(model, batch)

    train(torch.optim.SGD, batches=[given], loss=loss, epochs=2)
    for batch in seen:
        assert batch.keys() == given.keys()
        for name in ("text", "array", "none"):
            assert batch[name] is given[name]
        assert batch["texts"] == given["texts"]
        deep = batch["nested"][0]["deep"]
        assert deep[:2] == (None, [1, "x"])
        assert torch.equal(deep[2], given["x"])
        assert batch["nested"][1:] == given["nested"][1:]
        assert type(batch["default"]) is collections.defaultdict
        assert batch["default"]["new"] == []
        assert type(batch["words"]) is Words
        assert isinstance(batch["packed"], PackedSequence)
        assert type(batch["pair"]) is Pair
        assert batch["pair"].length == 10
        assert batch["pair"].y is None
    assert "none" in given


def test_tensors_are_moved_wherever_they_are():
    moved = feed._moved(everything(), torch.device("meta"))
    found = [moved["x"], moved["nested"][0]["deep"][2], moved["default"]["x"], moved["packed"].data]
    found.append(moved["pair"].x)
    assert {each.device.type for each in found} == {"meta"}


@pytest.mark.parametrize(
    "batch",
    [
        ["a", "b", "c"],
        {"texts": ["a", "b", "c"], "name": "n"},
        [("a", "b", "c"), ("d", "e", "f")],
        {"array": np.zeros((3, 2)), "texts": ["a", "b"]},
        {"scalar": torch.tensor(2.0), "texts": ["a", "b", "c"]},
    ],
    ids=["texts", "named", "pairs", "an array", "a scalar"],
)
def test_without_a_tensor_of_rows_lists_say_how_many_there_are(batch):
    assert feed._rows(batch) == 3

    def loss(model, batch):
        return model[0].weight.square().mean()

    _, history = train(torch.optim.SGD, batches=[batch], loss=loss, epochs=1)
    assert history.step.to_list() == [1]


def test_a_batch_may_be_a_dataclass(tmp_path):
    rows = data(12)

    def batches(epoch, kind=Pair):
        for x, y in zip(rows["x"].split(5), rows["y"].split(5), strict=True):
            yield kind(x, y, ["a"] * len(x))

    def loss(model, batch):
        assert len(batch.texts) == len(batch.x) == batch.length
        return functional.mse_loss(model(batch.x), batch.y)

    def named(epoch):
        return ({"x": each.x, "y": each.y} for each in batches(epoch))

    weights, history = train(torch.optim.Adam, batches=batches, loss=loss)
    known, expected = train(torch.optim.Adam, batches=named)
    assert torch.equal(weights, known)
    assert history.equals(expected)
    train(torch.optim.Adam, tmp_path / "run.pt", batches=batches, loss=loss, stop=4)
    again, _ = train(torch.optim.Adam, tmp_path / "run.pt", batches=batches, loss=loss)
    assert torch.equal(again, known)
    cut = feed._cut(Pair(rows["x"], rows["y"], ["a"] * 12), slice(0, 7), 12)
    assert (len(cut.x), len(cut.y), len(cut.texts), cut.length) == (7, 7, 7, 12)
    one, other = (feed.digest(Pair(rows["x"] + k, rows["y"])) for k in (0, 1))
    assert one != other


@pytest.mark.parametrize("batch", [None, "abc", {}, [], {"name": "x"}, torch.tensor(1.0)], ids=repr)
def test_a_batch_without_rows_is_refused(batch):
    with pytest.raises(ValueError, match="batches: expected tensors with examples in rows, got"):
        train(torch.optim.SGD, batches=[batch])
