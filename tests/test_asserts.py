"""The shared assertions fail where a method is wrong."""

import pytest
import torch
from torch import nn

from modalign._checks import checked, require_finite
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import draw


@checked
def mean(x: torch.Tensor):
    require_finite(x, "x")
    return x.mean()


WRONG = {
    "taken": (lambda x: None, lambda z: z + 1, ""),
    "refused by another name": (mean, lambda z: z + inputs.NAN, "y: "),
    "refused as it was": (mean, lambda z: z, ""),
    "in other words": (mean, lambda z: z + inputs.NAN, "a number"),
    "by chance": (lambda x: x.no_such_thing, lambda z: z, ""),
}


@pytest.mark.parametrize(("call", "change", "message"), WRONG.values(), ids=WRONG.keys())
def test_refuses(call, change, message):
    good = {"x": draw(3, 2)}
    asserts.refuses(mean, good, "x", lambda z: z + inputs.NAN, "expected finite")
    with pytest.raises((pytest.fail.Exception, AssertionError, AttributeError)):
        asserts.refuses(call, good, "x", change, message)


def test_refuses_takes_no_refusal_of_good_arguments():
    with pytest.raises(ValueError, match="finite"):
        asserts.refuses(mean, {"x": draw(3, 2) + inputs.NAN}, "x", lambda z: z, "finite")


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


def wrong_by_strides(x):
    return x * (2 if x.is_contiguous() else 1)


def writes(x):
    return x.detach().add_(1)


def grows(x):
    x.requires_grad_()
    return x * 2


class Counts(nn.Module):
    """Its state dict lacks what it depends on."""

    def __init__(self, by=1.0):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


def two_graphs(x):
    torch._dynamo.graph_break()
    return x + 1


def by_compiler(x):
    return x + 1 if torch.compiler.is_compiling() else x


FAIL = {
    "another value": lambda x: asserts.equals_literal(lambda x: 2 * x, lambda x: x, [x]),
    "another gradient": lambda x: asserts.equals_literal(
        WrongGradient.apply, lambda x: 2 * x, [x.requires_grad_()]
    ),
    "not as finite differences": lambda x: asserts.gradients_are_right(WrongGradient.apply, [x]),
    "moved": lambda x: asserts.unmoved(torch.sum, [x], [x + 1]),
    "nothing changed": lambda x: asserts.unmoved(torch.sum, [x], [x]),
    "by strides": lambda x: asserts.strides_do_not_matter(
        wrong_by_strides, [x], inputs.STRIDES["transposed"]
    ),
    "other numbers": lambda x: asserts.strides_do_not_matter(torch.sum, [x], lambda z: z + 1),
    "compiled to something else": lambda x: asserts.same_compiled(by_compiler, [x]),
    "not one graph": lambda x: asserts.same_compiled(two_graphs, [x]),
    "a state that lacks something": lambda x: asserts.comes_back(Counts(2.0), Counts(), x),
    "written into": lambda x: asserts.leaves_alone(writes, [x]),
    "asked for a gradient": lambda x: asserts.leaves_alone(grows, [x]),
}


@inputs.each("call", FAIL)
@pytest.mark.usefixtures("compiler")
def test_fails(call):
    with pytest.raises((AssertionError, torch._dynamo.exc.Unsupported, RuntimeError)):
        call(draw(4, 3))


@inputs.each("change", inputs.STRIDES)
@pytest.mark.parametrize("shape", [(4, 3), (1, 1), (2, 5, 3)])
def test_strides_keep_the_numbers_and_differ(change, shape):
    z = draw(*shape)
    assert torch.equal(change(z), z)
    if shape != (1, 1):
        other = change(z)
        assert other.stride() != z.stride() or other.storage_offset() != z.storage_offset()


def test_degenerate_inputs_have_eight_rows_of_finite_numbers():
    assert all(len(z) == 8 and z.isfinite().all() for z in inputs.DEGENERATE.values())
