import json
import socket

import numpy as np
import pytest
import torch

from modalign.course.inside import wire

VALUES = [
    None, True, 3, 2.5, float("inf"), "ä", [1, [2.0]], (1, "a"), {"a": 1, 2: (None,)},
    torch.arange(6).reshape(2, 3), torch.tensor(1.5), torch.zeros(0, 3),
    torch.ones(2, 2).bfloat16(),
    torch.randn(4, 3).T, torch.tensor([1 + 2j]), torch.tensor([True]), np.arange(3.0),
    np.float32(2), wire.Handle(3),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_values_come_back(value):
    found = wire.decode(wire.encode(value))
    if isinstance(value, torch.Tensor):
        torch.testing.assert_close(found, value)
    elif isinstance(value, np.ndarray | np.generic):
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype
    else:
        assert found == value
        assert type(found) is type(value)


def test_a_gradient_is_asked_for_on_the_other_side_too():
    assert wire.decode(wire.encode(torch.ones(2, requires_grad=True))).requires_grad
    assert wire.decode(wire.encode(torch.ones(2, requires_grad=True) * 2)).is_leaf


class Order:
    def __reduce__(self):
        return print, ("run",)


def nested():
    held = []
    for _ in range(100_000):
        held = [held]
    return held


@pytest.mark.parametrize(
    "value",
    [Order(), object(), print, {1, 2}, b"x", nested(), torch.ones(2).to_sparse(), "x" * 2**21,
     [torch.zeros(2**22) for _ in range(5)], np.array(["a"])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_data_is_not_sent(value):
    with pytest.raises(wire.Unsendable):
        wire.encode(value)


def message(tree, blob=b"", size=None):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return wire.HEAD.pack(len(text), len(blob) if size is None else size) + text + blob


BAD = {
    "nothing": b"",
    "no tree": message(b"{"),
    "an unknown kind": message({"code": "print(1)"}),
    "two kinds": message({"tuple": [], "dict": []}),
    "no such type": message({"tensor": ["object", [1], 8, False]}, bytes(8)),
    "another size": message({"tensor": ["float32", [3], 8, False]}, bytes(8)),
    "a negative size": message({"tensor": ["float32", [-2], -8, False]}, bytes(8)),
    "a size that is none": message({"tensor": ["float32", ["2"], 8, False]}, bytes(8)),
    "a huge shape": message({"tensor": ["float32", [2**40, 2**40], 0, False]}),
    "beyond the end": message({"tensor": ["float32", [4], 16, False]}, bytes(8)),
    "bytes too many": message(1, bytes(8)),
    "an announcement": message(1, b"", 8),
    "a key that is none": message({"dict": [[[1], 2]]}),
    "a tree too deep": message(b"[" * 10_000 + b"]" * 10_000),
    "a gradient of whole numbers": message({"tensor": ["int64", [1], 8, True]}, bytes(8)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_we_would_not_send_is_malformed(name):
    with pytest.raises(wire.Malformed):
        wire.decode(BAD[name])


@pytest.mark.parametrize("sent", [b"", b"0" * 8, b"0" * 64, wire.HEAD.pack(2**62, 1)])
def test_a_broken_message_on_a_socket(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises((wire.Lost, wire.Malformed)):
            wire.receive(ours, 5)


def test_silence_is_lost():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(wire.Lost, match="too late"):
        wire.receive(ours, 0.05)
