"""CKA as a term of a training step: draws, masks, warm-up, records, and runs that are taken up."""

import math

import pytest
import torch

from modalign.cka import DegenerateError, ModalityAlignment, cka
from modalign.training import fit, seeded, shuffled
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import draw


def sequences(dtype=torch.float32):
    """Of 6 examples: up to 9 places and up to 5 words, of other widths; one has no word."""
    x, y = draw(6, 9, 4, dtype=dtype), draw(6, 5, 3, seed=1, dtype=dtype)
    x_mask = torch.arange(9) < torch.tensor([9, 9, 2, 9, 9, 9])[:, None]
    y_mask = torch.arange(5) < torch.tensor([5, 3, 4, 0, 1, 5])[:, None]
    return {"x": x, "y": y, "x_mask": x_mask, "y_mask": y_mask}


def numbered():
    """The same masks, with vectors that say which example and which place they are of."""
    given = sequences()
    for name in "xy":
        b, l, _ = given[name].shape
        places = torch.arange(l).expand(b, l)
        given[name] = torch.stack([torch.arange(b)[:, None].expand(b, l), places], -1).float()
    return given


def drawn(given, monkeypatch, **options):
    """The rows that CKA is taken of."""
    found = []

    def spy(x, y, **kwargs):
        found.append((x, y))
        return cka(x, y, **kwargs)

    monkeypatch.setattr("modalign._cka_alignment.cka", spy)
    ModalityAlignment(0.1, **options)(**given)
    return found


def test_one_vector_an_example_is_cka():
    x, y = draw(8, 4).requires_grad_(), draw(8, 3, seed=1).requires_grad_()
    for name, debiased in (("biased", False), ("debiased", True)):
        asserts.equals_literal(
            lambda x, y, name=name: ModalityAlignment(0.3, estimator=name)(x, y).loss,
            lambda x, y, debiased=debiased: -0.3 * literal(x, y, debiased),
            [x, y],
        )


def literal(x, y, debiased):
    """eq-cka and eq-debiased with the centring matrix, and with Song's sums."""
    n = len(x)
    if debiased:

        def product(k, l):
            k, l = k - k.diag().diag(), l - l.diag().diag()
            cross = (k @ l).sum() * 2 / (n - 2)
            return (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - cross

    else:

        def product(k, l):
            c = torch.eye(n) - 1 / n
            return (k @ c @ l @ c).trace()

    k, l = x @ x.T, y @ y.T
    return product(k, l) / (product(k, k) * product(l, l)).sqrt()


def test_pairs_are_of_one_example_and_of_no_padding(monkeypatch):
    given = numbered()
    (x, y), *_ = drawn(given, monkeypatch)
    assert torch.equal(x[:, 0], y[:, 0])
    # as many as the shorter side has, each once
    assert x[:, 0].long().bincount(minlength=6).tolist() == [5, 3, 2, 0, 1, 5]
    for rows, mask in ((x, given["x_mask"]), (y, given["y_mask"])):
        assert mask[tuple(rows.long().T)].all()
        assert len(rows.unique(dim=0)) == len(rows)


def test_shuffled_pairs_are_of_different_examples(monkeypatch):
    for seed in range(5):
        _, _, (x, y) = drawn(numbered(), monkeypatch, seed=seed)
        assert len(x) > 4
        assert (x[:, 0] != y[:, 0]).all()


def test_every_place_has_its_turn(monkeypatch):
    given = numbered()
    seen = torch.cat([drawn(given, monkeypatch, seed=seed)[0][0] for seed in range(60)])
    assert set(seen[seen[:, 0] == 0][:, 1].tolist()) == set(range(9))


def test_at_most_as_many_pairs_as_asked_for(monkeypatch):
    for examples, expected in ((7, 7), (100, 16)):
        (x, y), *_ = drawn(numbered(), monkeypatch, examples=examples)
        assert len(x) == len(y) == expected
        assert torch.equal(x[:, 0], y[:, 0])


def test_both_estimators_are_reported():
    by = {name: ModalityAlignment(1.0, estimator=name)(**sequences()) for name in
          ("biased", "debiased")}  # fmt: skip
    for name, found in by.items():
        assert found.loss.item() == -getattr(found, name).item()
        assert not any(each.requires_grad for each in found[1:4])
    assert by["biased"].biased == by["debiased"].biased
    assert by["biased"].debiased == by["debiased"].debiased
    assert by["biased"].shuffled > by["debiased"].shuffled


def test_shuffled_pairs_tell_what_is_shared():
    # places and words of an example share a vector, whichever are drawn
    shared = draw(64, 1, 8)
    x = shared @ draw(8, 8, seed=1) + draw(64, 6, 8, seed=2)
    y = shared @ draw(8, 5, seed=3) + draw(64, 4, 5, seed=4)
    found = ModalityAlignment(0.1, estimator="debiased")(x, y)
    assert found.debiased > found.shuffled + 0.2


def test_warm_up_leaves_the_other_loss_out_and_ends():
    alignment = ModalityAlignment(0.5, warmup_steps=2)
    other = torch.tensor(3.0, requires_grad=True)
    for step in range(4):
        assert alignment.warming_up == (step < 2)
        found = alignment(**sequences())
        assert found.warming_up == (step < 2)
        total = found.added_to(other)
        assert total.item() == pytest.approx(found.loss.item() + (3 if step >= 2 else 0))
        assert (total is found.loss) == (step < 2)


def test_evaluation_moves_no_clock():
    alignment = ModalityAlignment(0.5, warmup_steps=1)
    with torch.no_grad():
        first, again = (alignment(**sequences()) for _ in range(2))
    assert alignment.step == 0
    assert first.biased == again.biased == alignment(**sequences()).biased
    assert alignment.step == 1
    assert alignment(**sequences()).biased != first.biased  # another draw


def test_draws_hang_on_seed_and_count_alone():
    torch.manual_seed(0)
    first = ModalityAlignment(0.1, seed=3)(**sequences())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert ModalityAlignment(0.1, seed=3)(**sequences()).loss == first.loss
    assert torch.equal(torch.get_rng_state(), before)
    assert ModalityAlignment(0.1, seed=4)(**sequences()).loss != first.loss


def test_a_state_that_came_back_draws_on():
    whole, half = (ModalityAlignment(0.1, warmup_steps=3, seed=5) for _ in range(2))
    values = [whole(**sequences()).loss.item() for _ in range(4)]
    for _ in range(2):
        half(**sequences())
    fresh = ModalityAlignment(0.1, warmup_steps=3, seed=5)
    fresh.load_state_dict(half.state_dict())
    assert [fresh(**sequences()).loss.item() for _ in range(2)] == values[2:]
    with pytest.raises(ValueError, match="state: expected warmup_steps 4, got 3"):
        ModalityAlignment(0.1, warmup_steps=4, seed=5).load_state_dict(half.state_dict())
    with pytest.raises(ValueError, match="state: expected weight, .*got none"):
        fresh.load_state_dict({})


def test_padding_may_hold_anything():
    given = sequences()
    expected = ModalityAlignment(0.1)(**given)
    for name in "xy":
        padding = ~given[f"{name}_mask"]
        given[name] = given[name].masked_fill(padding[..., None], math.nan).requires_grad_()
    found = ModalityAlignment(0.1)(**given)
    assert found.loss == expected.loss
    found.loss.backward()
    for name in "xy":
        assert not given[name].grad[~given[f"{name}_mask"]].any()
        assert given[name].grad.isfinite().all()


def test_gradcheck():
    given = sequences(torch.float64)
    asserts.gradients_are_right(
        lambda x, y: ModalityAlignment(0.7)(x, y, given["x_mask"], given["y_mask"]).loss,
        [given["x"], given["y"]],
    )


def test_inputs_are_left_alone():
    given = sequences()
    asserts.leaves_alone(
        lambda x, y: ModalityAlignment(0.7)(x, y, given["x_mask"], given["y_mask"]).loss,
        [given["x"].requires_grad_(), given["y"].requires_grad_()],
    )


@inputs.each("dtype", {str(dtype): dtype for dtype in inputs.HALF})
def test_half_precision_is_computed_in_float32(dtype):
    x, y = draw(8, 3, 4).to(dtype), draw(8, 3, 4, seed=1).to(dtype)
    found, wide = (ModalityAlignment(0.1)(a, b) for a, b in ((x, y), (x.float(), y.float())))
    assert found.loss.dtype == torch.float32
    assert found.loss == wide.loss


def test_a_batch_of_one_example_has_no_other_to_shuffle_with():
    given = {name: z[:1] for name, z in sequences().items()}
    found = ModalityAlignment(0.1)(**given)
    assert found.biased > 0
    assert found.shuffled.isnan()


def test_a_record_that_is_undefined_is_nan_and_a_loss_is_refused():
    x, y = draw(3, 4), draw(3, 4, seed=1)
    assert ModalityAlignment(0.1)(x, y).debiased.isnan()  # it takes 4
    with pytest.raises(ValueError, match="x, y: debiased CKA needs 4 pairs .*got 3 from 3"):
        ModalityAlignment(0.1, estimator="debiased")(x, y)
    # all equally far apart: defined for one estimator alone
    assert ModalityAlignment(0.1)(torch.eye(8), draw(8, 3)).debiased.isnan()
    with pytest.raises(DegenerateError, match="x: "):
        ModalityAlignment(0.1, estimator="debiased")(torch.eye(8), draw(8, 3))
    with pytest.raises(DegenerateError, match="y: "):
        ModalityAlignment(0.1)(x, torch.ones(3, 4))


def test_a_batch_of_padding_alone_is_refused():
    given = sequences()
    given["y_mask"] = torch.zeros_like(given["y_mask"])
    with pytest.raises(ValueError, match="x, y: biased CKA needs 2 pairs .*got 0 from 6 examples"):
        ModalityAlignment(0.1)(**given)


@inputs.hostile(inputs.WRONG_TYPE, inputs.NOT_FINITE)
@pytest.mark.parametrize("name", ["x", "y"])
def test_refused(name, change, message):
    asserts.refuses(ModalityAlignment(0.1), sequences(), name, change, message)


OTHERS = {
    "other examples": ("y", lambda z: z[:5], "y: |y_mask: expected"),
    "one dimension": ("x", lambda z: z[0, 0], r"x: expected \(b, l, d\) or \(b, d\)"),
    "four dimensions": ("x", lambda z: z[None], r"x: expected \(b, l, d\) or \(b, d\)"),
    "no vector": ("x", lambda z: z[:, :0], "none of them 0"),
    "a mask of another length": ("y_mask", lambda m: m[:, 1:], r"expected \(6, 5\)"),
    "a mask of numbers": ("y_mask", lambda m: m + 1, "1 or 0, got other numbers"),
    "a mask of lists": ("x_mask", lambda m: m.tolist(), "got list"),
}


@inputs.each("case", OTHERS)
def test_what_does_not_fit_is_refused(case):
    name, change, message = case
    given = sequences()
    with pytest.raises((ValueError, TypeError), match=message):
        ModalityAlignment(0.1)(**{**given, name: change(given[name])})


def test_examples_are_as_many_on_both_sides():
    with pytest.raises(ValueError, match="y: expected 6 examples, as many as x has, got 5"):
        ModalityAlignment(0.1)(draw(6, 4), draw(5, 3))


SETTINGS = {
    "weight": (-0.1, "expected 0 or more"),
    "weight that is NaN": (math.nan, "expected 0 or more"),
    "warmup_steps": (-1, "expected 0 or more"),
    "estimator": ("unbiased", "did you mean 'biased'"),
    "examples": (1, "expected 2 pairs or more"),
    "seed": (-1, "expected 0 or more"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_out_of_range_are_refused(name):
    value, message = SETTINGS[name]
    key = name.split()[0]
    with pytest.raises(ValueError, match=f"{key}: .*{message}"):
        ModalityAlignment(**{"weight": 0.1, key: value})


def test_a_warm_up_needs_a_weight():
    with pytest.raises(ValueError, match="warmup_steps: .*0 where weight is 0, got 3"):
        ModalityAlignment(0, warmup_steps=3)


def train(tmp_path=None, *, weight=0.5, warmup=5, epochs=4, **options):
    """Two linear maps that are pulled together, beside a loss of one of them."""
    x = draw(64, 6)
    data = {"x": x, "y": x @ draw(6, 4, seed=1) + draw(64, 4, seed=2)}
    model = seeded(
        lambda: torch.nn.ModuleDict({"x": torch.nn.Linear(6, 3), "y": torch.nn.Linear(4, 3)}), 0
    )
    alignment = ModalityAlignment(weight, warmup_steps=warmup)

    def parts(model, batch):
        x, y = model["x"](batch["x"]), model["y"](batch["y"])
        return {"loss": x.square().mean(), "size": x.norm()}, (x, y)

    history = fit(
        model,
        alignment.objective(parts),
        shuffled(data, 16, seed=0),
        optimizer=torch.optim.Adam(model.parameters(), 1e-2),
        epochs=epochs,
        checkpoint=None if tmp_path is None else tmp_path / "run.ckpt",
        stateful=[alignment],
        device="cpu",
        progress=False,
        **options,
    )
    return model, history


def test_fit_trains_with_it_and_records_all():
    _, history = train()
    named = {"loss", "task", "size", "cka", "cka_debiased", "cka_shuffled"}
    assert named <= set(history.columns)
    assert history.cka.iloc[-1] > history.cka.iloc[0]
    # the epochs after the warm-up, which ends in the second
    for row in history.iloc[2:].itertuples():
        assert row.loss == pytest.approx(row.task - 0.5 * row.cka, abs=1e-6)
    assert history.loss[0] == pytest.approx(-0.5 * history.cka[0], abs=1e-6)


def test_a_killed_run_is_taken_up_to_the_bit(tmp_path):
    class Killed(Exception):
        pass

    def kill(step):
        if step == 7:  # within an epoch, behind the warm-up
            raise Killed

    whole, history = train()
    with pytest.raises(Killed):
        train(tmp_path, checkpoint_every=3, after_step=kill)
    taken_up, again = train(tmp_path, checkpoint_every=3)
    torch.testing.assert_close(taken_up.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert again.equals(history)


def test_a_weight_of_0_trains_as_without():
    found, _ = train(weight=0, warmup=0)
    x = draw(64, 6)
    data = {"x": x, "y": x @ draw(6, 4, seed=1) + draw(64, 4, seed=2)}
    model = seeded(
        lambda: torch.nn.ModuleDict({"x": torch.nn.Linear(6, 3), "y": torch.nn.Linear(4, 3)}), 0
    )
    fit(
        model,
        lambda model, batch: model["x"](batch["x"]).square().mean(),
        shuffled(data, 16, seed=0),
        optimizer=torch.optim.Adam(model.parameters(), 1e-2),
        epochs=4,
        device="cpu",
        progress=False,
    )
    torch.testing.assert_close(found.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.usefixtures("compiler")
def test_it_runs_outside_of_a_compiled_graph():
    x, y = draw(8, 4), draw(8, 3, seed=1)
    alignment = ModalityAlignment(0.3)
    compiled = torch.compile(lambda x, y: 2 * alignment(2 * x, y).loss, backend="aot_eager")
    assert compiled(x, y).item() == pytest.approx(2 * ModalityAlignment(0.3)(x, y).loss.item())
