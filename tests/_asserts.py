"""What the tests of every method assert, so that a new one says only what is its own.

Each takes the method as a function. ``tests/test_asserts.py`` shows each one fail.
"""

import copy
import io
import re

import pytest
import torch


def refuses(call, arguments, name, change, message):
    """A call is refused once one argument is changed, by an error that begins with its name.

    As they are the arguments must be taken, so that nothing else can be what is refused.
    """
    call(**arguments)
    with pytest.raises((ValueError, TypeError), match=rf"\b{re.escape(name)}: .*{message}"):
        call(**{**arguments, name: change(arguments[name])})


def equals_literal(call, literal, inputs, **tolerances):
    """A method gives what its equations give, written out, with the same gradients.

    Gradients are those of a weighted sum of the result, by each input that asks for one.
    """
    results = [each(*inputs) for each in (call, literal)]
    torch.testing.assert_close(*results, **tolerances)
    wanted = [z for z in inputs if z.requires_grad]
    if wanted:
        gradients = [torch.autograd.grad(weighted(result), wanted) for result in results]
        torch.testing.assert_close(*gradients, **tolerances)


def weighted(result):
    """A sum in which no two entries count the same."""
    tensors = [result] if isinstance(result, torch.Tensor) else list(result)
    return sum((z * torch.linspace(1, 2, z.numel()).view_as(z).to(z)).sum() for z in tensors)


def unmoved(call, inputs, changed, **tolerances):
    """A method is invariant: changed inputs give the same result."""
    assert any(one is not other for one, other in zip(inputs, changed, strict=True))
    torch.testing.assert_close(call(*changed), call(*inputs), **tolerances)


def strides_do_not_matter(call, inputs, change, **tolerances):
    """Each input may lie in memory in another way, with the same result and gradient."""
    for i, z in enumerate(inputs):
        other = change(z.detach())
        assert torch.equal(other, z)
        equals_literal(
            lambda x, i=i: call(*inputs[:i], x, *inputs[i + 1 :]),
            lambda x, i=i: call(*inputs[:i], x.contiguous(), *inputs[i + 1 :]),
            [other.requires_grad_(z.requires_grad)],
            **tolerances,
        )


def gradients_are_right(call, inputs):
    """Gradients are those of finite differences, in float64."""
    doubles = [z.detach().double().requires_grad_() for z in inputs]
    assert torch.autograd.gradcheck(call, doubles)


def same_compiled(call, inputs, backend="aot_eager", **tolerances):
    """One graph gives what the method gives, and leaves a module with the same buffers.

    The test takes the fixture ``compiler``.
    """
    plain = copy.deepcopy(call)
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*inputs), plain(*inputs), **tolerances)
    if isinstance(call, torch.nn.Module):
        torch.testing.assert_close(call.state_dict(), plain.state_dict(), **tolerances)


def comes_back(module, fresh, *inputs):
    """A state dict that went through a file makes another module the same, to the bit."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(fresh.state_dict(), module.state_dict(), rtol=0, atol=0)
    if inputs:
        torch.testing.assert_close(fresh(*inputs), module(*inputs), rtol=0, atol=0)


def leaves_alone(call, inputs):
    """A call, and a backward pass where there is one, writes into none of its inputs."""
    before = [(z.detach().clone(), z._version, z.requires_grad) for z in inputs]
    result = call(*inputs)
    if isinstance(result, torch.Tensor) and result.requires_grad:
        result.sum().backward()
    for z, (values, version, wanted) in zip(inputs, before, strict=True):
        assert torch.equal(z, values)
        assert z._version == version
        assert z.requires_grad == wanted
        assert z.grad is None or z.grad.shape == z.shape


def made_again_on_the_cpu(make):
    """A module made on the default device comes off it as a new one is; returns both."""
    with torch.device("meta"):
        module = make()
    tensors = [*module.parameters(), *module.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    module.to_empty(device="cpu").reset_parameters()
    return module, make()
