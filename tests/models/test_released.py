"""State dicts of others: what fits is taken, and what does not is refused by its name."""

import pickle

import pytest
import torch
from torch import nn

from modalign.models.captioner import Captioner
from modalign.models.released import Released


def state():
    torch.manual_seed(3)
    model = Captioner(9, encoder_dim=6, attention_dim=4, embed_dim=3, decoder_dim=5)
    return {name: value + 0.1 for name, value in model.state_dict().items()}


def test_all_that_is_given_is_in_the_model():
    given = state()
    model = Captioner.from_released(given)
    assert model.state_dict().keys() == given.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, given[name])
        assert value.data_ptr() != given[name].data_ptr(), "training would change what was given"
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_is_that_of_the_file(dtype):
    model = Captioner.from_released({name: value.to(dtype) for name, value in state().items()})
    assert {value.dtype for value in model.parameters()} == {dtype}


def test_what_comes_next_at_random_is_left_alone():
    given = state()
    torch.manual_seed(1)
    right = torch.rand(2)
    torch.manual_seed(1)
    Captioner.from_released(given)
    assert torch.equal(torch.rand(2), right)


def test_a_file_of_tensors_is_read(tmp_path):
    torch.save(state(), tmp_path / "decoder.pth")
    found = Captioner.from_released(tmp_path / "decoder.pth").state_dict()
    assert all(torch.equal(found[name], value) for name, value in state().items())


class Runs:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise KeyboardInterrupt",)


@pytest.mark.parametrize("content", [Runs(), nn.Linear(2, 2)], ids=["code", "a whole model"])
def test_a_pickle_of_anything_else_is_refused_unread(tmp_path, content):
    torch.save({"decoder": content}, tmp_path / "BEST_checkpoint.pth.tar")
    message = r"BEST_checkpoint.pth.tar: expected a file of tensors by name.*was not read"
    with pytest.raises(ValueError, match=message):
        Captioner.from_released(tmp_path / "BEST_checkpoint.pth.tar")


def test_a_plain_pickle_and_a_damaged_file_are_refused(tmp_path):
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Runs(), protocol=2))
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save(state(), tmp_path / "half.pth")
    content = (tmp_path / "half.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    for name in ("plain", "empty", "half"):
        with pytest.raises(ValueError, match=f"{name}.pth: expected a file of tensors"):
            Captioner.from_released(tmp_path / f"{name}.pth")
    with pytest.raises(FileNotFoundError):
        Captioner.from_released(tmp_path / "absent.pth")


WRONG = {
    "missing at first": ("attention.encoder_att.weight", None, "expected a tensor of this name"),
    "missing at last": ("fc.bias", None, "expected a tensor of this name, found none"),
    "another shape": (
        "init_h.bias",
        torch.zeros(6),
        r"expected \(5,\), .*got \(6,\)",
    ),
    "other dimensions": (
        "embedding.weight",
        torch.zeros(3),
        "expected 2 dimensions, got ",
    ),
    "a bias as a matrix": ("fc.bias", torch.zeros(9, 1), "expected 1 dimensions"),
    "too many": ("fc2.weight", torch.zeros(2), "the model has no such parameter"),
    "NaN": ("f_beta.bias", torch.full((6,), torch.nan), "expected finite numbers, got NaN"),
}


@pytest.mark.parametrize(("name", "value", "message"), WRONG.values(), ids=WRONG.keys())
def test_the_first_parameter_that_differs_is_named(name, value, message):
    given = state()
    if value is None:
        del given[name]
    else:
        given[name] = value
    with pytest.raises(ValueError, match=f"^state_dict: {name}: {message}"):
        Captioner.from_released(given)


def test_of_several_the_first_in_the_order_of_the_model_is_named():
    given = dict(reversed(state().items()))
    del given["fc.weight"], given["init_c.bias"]
    with pytest.raises(ValueError, match="^state_dict: init_c.bias: "):
        Captioner.from_released(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1], "state_dict: expected tensors by name, or a file of them, got list"),
        ({"fc.bias": 3}, "state_dict: fc.bias: expected a floating-point tensor, got int 3"),
        (
            {"a": torch.arange(2)},
            r"state_dict: a: expected a floating-point tensor, got int64 \(2,\)",
        ),
    ],
)
def test_what_is_no_state_dict_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        Captioner.from_released(given)


def test_entries_are_counted_from_0_without_a_gap():
    entries = {f"conv.{i}.weight": torch.zeros(1) for i in (0, 1, 3)}
    assert Released(entries).count("conv.{}.weight") == 2
    assert Released({}).count("conv.{}.weight") == 0


def test_what_is_optional_may_be_missing():
    given = Released({"weight": torch.ones(1, 2)})
    model = given.into(nn.Linear(2, 1), optional=["bias"])
    assert torch.equal(model.weight, torch.ones(1, 2))
