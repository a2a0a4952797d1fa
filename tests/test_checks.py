import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from modalign._checks import (
    checked,
    describe,
    describe_disk,
    require_choice,
    require_finite,
    require_rows,
)


@checked
def scaled(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], *, factor: float = 1.0) -> float:
    """Docstring."""
    return factor * float(x.sum() + y.sum())


def test_what_fits_passes_through():
    assert scaled(torch.ones(3, 2), y=torch.ones(3, 4), factor=0.5) == 9
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "Docstring."


@pytest.mark.parametrize(
    ("arguments", "error", "lines"),
    [
        (
            {"x": torch.ones(3, 2), "y": torch.ones(4, 2)},
            ValueError,
            ["scaled: ", "x: expected .*n d.*, got float32 \\(3, 2\\)", "y: .*float32 \\(4, 2\\)"],
        ),
        ({"x": torch.ones(3), "y": torch.ones(3, 2)}, ValueError, ["x: .*got float32 \\(3,\\)"]),
        (
            {"x": torch.ones(3, 2).int(), "y": torch.ones(3, 2)},
            ValueError,
            ["x: expected Float.*, got int32 \\(3, 2\\)"],
        ),
        (
            {"x": np.ones((3, 2)), "y": torch.ones(3, 2)},
            TypeError,
            ["x: expected .*, got ndarray", "y: expected .*, got float32 \\(3, 2\\)"],
        ),
        ({"x": None, "y": torch.ones(3, 2)}, TypeError, ["x: expected .*, got NoneType None"]),
        (
            {"x": torch.ones(3, 2), "y": torch.ones(3, 2), "factor": "two"},
            TypeError,
            ["factor: expected float, got str 'two'"],
        ),
    ],
)
def test_messages_list_every_argument(arguments, error, lines):
    with pytest.raises(error) as caught:
        scaled(**arguments)
    for line in lines:
        assert caught.match(line)


def test_a_missing_argument_is_pythons_own_error():
    with pytest.raises(TypeError, match=r"missing .* 'y'"):
        scaled(torch.ones(3, 2))


def test_the_object_of_a_method_is_not_listed():
    class Holder:
        @checked
        def add(self, x: Float[Tensor, "n d"]) -> None:
            """Add."""

    with pytest.raises(ValueError, match=r"x: expected") as caught:
        Holder().add(torch.ones(3))
    assert "self" not in str(caught.value)


def test_a_result_that_does_not_fit_is_not_blamed_on_the_arguments():
    @checked
    def broken(x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        return x

    with pytest.raises(Exception, match=r"(?i)return|result"):
        broken(torch.ones(3, 2))


def test_an_error_from_within_is_not_blamed_on_the_arguments():
    @checked
    def outer(function, x: Float[Tensor, "n d"]) -> Tensor:
        return function(x)

    @checked
    def inner(x: Float[Tensor, "n"]) -> Tensor:
        return x

    with pytest.raises(ValueError, match=r"inner: "):
        outer(inner, torch.ones(3, 2))


def test_describe():
    assert describe(torch.zeros(2, 3, dtype=torch.bfloat16)) == "bfloat16 (2, 3)"
    assert describe([torch.zeros(2), 3]) == "list of 2, the first float32 (2,)"
    assert describe("rfb") == "str 'rfb'"
    assert len(describe("long" * 1000)) < 80
    assert "\n" not in describe(np.zeros((9, 9)))
    assert len(describe([0.5] * 10_000)) < 500


def test_require_finite():
    x = torch.ones(4, 2, 2)
    require_finite(x, "x")
    x[2, 1, 0] = -float("inf")
    with pytest.raises(ValueError, match=r"^x: expected finite values, got an infinity in row 2$"):
        require_finite(x, "x")
    x[2, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"got NaN in row 2$"):
        require_finite(x.requires_grad_(), "x")


def test_require_finite_of_a_vector():
    with pytest.raises(ValueError, match=r"got NaN in row 1$"):
        require_finite(torch.tensor([1.0, float("nan")]), "x")


def test_require_rows():
    require_rows(4, 4, "x", "debiased CKA")
    with pytest.raises(ValueError, match=r"^x: debiased CKA needs at least 4 rows .*, got 3$"):
        require_rows(3, 4, "x", "debiased CKA")


def test_require_choice():
    require_choice("both", ("both", "cka"), "loss")
    with pytest.raises(ValueError, match=r"loss: expected one of both, cka, got 'bth'; .*'both'"):
        require_choice("bth", ("both", "cka"), "loss")
    with pytest.raises(ValueError, match=r"got 7$"):
        require_choice(7, ("both", "cka"), "loss")


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), np.int64(2)]
)
def test_scalars_of_numpy_and_torch_count_as_numbers(number):
    x = torch.ones(3, 2)
    assert scaled(x, x, factor=number) == 12 * float(number)


@pytest.mark.parametrize(
    "factor", [np.array([0.5]), torch.tensor([0.5]), torch.tensor(0.5, requires_grad=True), "0.5"]
)
def test_what_is_no_number_does_not_count_as_one(factor):
    with pytest.raises(TypeError, match="factor: expected float, got"):
        scaled(torch.ones(3, 2), torch.ones(3, 2), factor=factor)


def test_a_fraction_does_not_count_as_a_whole_number():
    @checked
    def repeated(times: int | None = None) -> object:
        return times

    assert type(repeated(np.int64(2))) is int
    assert repeated() is None
    for times in (np.float64(2), torch.tensor(2.0)):
        with pytest.raises(TypeError, match="times: expected int"):
            repeated(times)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("sparse", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensors_are_refused(sparse):
    x = torch.eye(3)
    with pytest.raises(ValueError, match=r"^y: expected a dense tensor, got layout torch.sparse"):
        scaled(x, getattr(x, sparse)())


def test_require_finite_of_a_scalar():
    with pytest.raises(ValueError, match="^x: expected a finite value, got nan$"):
        require_finite(torch.tensor(float("nan")), "x")


def test_describe_disk(tmp_path):
    assert " GB free" in describe_disk(tmp_path / "no" / "file")
