"""Values as data across a socket: a JSON tree and the raw bytes of its tensors, sizes checked.

Nothing that arrives can run: no pickle, no names of classes, no code. A message is two lengths,
the tree, and the bytes that the tree's tensors point into.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from typing import Any, NamedTuple

import numpy as np
import torch

HEAD = struct.Struct(">QQ")
LARGEST_TREE = 2**20
LARGEST = 2**26
DTYPES = {
    str(each).removeprefix("torch."): each
    for each in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.complex64, torch.complex128),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Unsendable(ValueError):
    """A value that is not data, or too large."""


class Malformed(ValueError):
    """Bytes that are not a message of this module."""


class Lost(RuntimeError):
    """The other side is gone, or too late."""


class Handle(NamedTuple):
    """An object that stays on the student's side, by its number."""

    number: int


def encode(value: Any) -> bytes:
    """A value as one message.

    Raises:
        Unsendable: for anything but numbers, texts, lists, tuples, dictionaries, arrays, tensors,
            and for more than ``LARGEST`` bytes.

    >>> decode(encode({"a": (1, [2.5, None])}))
    {'a': (1, [2.5, None])}
    """
    blobs: list[bytes] = []
    try:
        tree = json.dumps(_tree(value, blobs), separators=(",", ":")).encode()
    except RecursionError:
        raise Unsendable("nested too deeply") from None
    size = sum(map(len, blobs))
    if len(tree) > LARGEST_TREE or size > LARGEST:
        raise Unsendable(f"{len(tree)} and {size} bytes, which is too large")
    return b"".join([HEAD.pack(len(tree), size), tree, *blobs])


def _tree(value: Any, blobs: list[bytes]) -> Any:
    """A value in JSON: a list is a list, and any other value that is not plain has its tag."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, Handle):
        return {"handle": value.number}
    if kind is list:
        return [_tree(each, blobs) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_tree(each, blobs) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[_tree(key, blobs), _tree(each, blobs)] for key, each in value.items()]}
    if isinstance(value, torch.Tensor) and value.dtype in NAMES and value.layout is torch.strided:
        plain = value.detach().cpu().contiguous()
        _add(plain.reshape(-1).view(torch.uint8).numpy().tobytes(), blobs)
        shape = list(value.shape)
        return {"tensor": [NAMES[value.dtype], shape, len(blobs[-1]), bool(value.requires_grad)]}
    if isinstance(value, np.ndarray | np.generic) and str(value.dtype) in DTYPES:
        _add(np.ascontiguousarray(value).tobytes(), blobs)
        return {"array": [str(value.dtype), list(value.shape), len(blobs[-1]), False]}
    raise Unsendable(f"{kind.__name__}, which is not data")


def _add(blob: bytes, blobs: list[bytes]) -> None:
    blobs.append(blob)
    if sum(map(len, blobs)) > LARGEST:
        raise Unsendable(f"more than {LARGEST} bytes")


def decode(message: bytes) -> Any:
    """The value of a message.

    Raises:
        Malformed: for anything that ``encode`` would not have made.
    """
    try:
        tree_size, size = HEAD.unpack_from(message)
        start = HEAD.size + tree_size
        tree = json.loads(message[HEAD.size : start])
        blob = _Blob(message, start)
        value = _value(tree, blob)
    except (ValueError, TypeError, KeyError, RecursionError, struct.error, RuntimeError) as error:
        raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None
    if blob.place != len(message) or len(message) != start + size:
        raise Malformed("bytes that nothing points to")
    return value


class _Blob:
    """Where the bytes of the next tensor begin."""

    def __init__(self, message: bytes, place: int) -> None:
        self.message, self.place = message, place

    def next(self, kind: str, found: Any) -> Any:
        name, shape, size, gradient = found
        whole = all(type(each) is int and 0 <= each <= LARGEST for each in (*shape, size))
        if name not in DTYPES or not whole or len(shape) > 16:
            raise Malformed("no such tensor")
        end = self.place + size
        if math.prod(shape) * DTYPES[name].itemsize != size or end > len(self.message):
            raise Malformed("a tensor of another size than its bytes")
        held = bytearray(self.message[self.place : end])
        self.place = end
        if kind == "array":
            return np.frombuffer(held, dtype=name).reshape(shape)
        flat = (
            torch.frombuffer(held, dtype=DTYPES[name]) if size else torch.empty(0).to(DTYPES[name])
        )
        return flat.reshape(shape).requires_grad_(gradient is True)


def _value(tree: Any, blob: _Blob) -> Any:
    if isinstance(tree, list):
        return [_value(each, blob) for each in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "handle":
        return Handle(int(held))
    if kind == "tuple":
        return tuple(_value(each, blob) for each in held)
    if kind == "dict":
        return {_value(key, blob): _value(each, blob) for key, each in held}
    if kind in ("tensor", "array"):
        return blob.next(kind, held)
    raise Malformed(f"a value of kind {kind!r}"[:60])


def send(link: socket.socket, value: Any) -> None:
    """Send a value.

    Raises:
        Unsendable: as ``encode``; nothing is sent then.
        Lost: if the other side is gone or does not read.
    """
    message = encode(value)
    try:
        link.sendall(message)
    except OSError as error:
        raise Lost(str(error)) from None


def receive(link: socket.socket, seconds: float | None = None) -> Any:
    """Wait for a value.

    Raises:
        Malformed: for anything but a message of this module.
        Lost: if the other side is gone, or says nothing whole within the time.
    """
    until = None if seconds is None else time.monotonic() + seconds
    head = _exactly(link, HEAD.size, until)
    tree_size, size = HEAD.unpack(head)
    if tree_size > LARGEST_TREE or size > LARGEST:
        raise Malformed("too large")
    return decode(head + _exactly(link, tree_size + size, until))


def _exactly(link: socket.socket, size: int, until: float | None) -> bytes:
    held = bytearray()
    while len(held) < size:
        left = None if until is None else until - time.monotonic()
        if left is not None:
            if left <= 0:
                raise Lost("too late")
            link.settimeout(left)
        try:
            part = link.recv(min(size - len(held), 2**20))
        except TimeoutError:
            raise Lost("too late") from None
        except OSError as error:
            raise Lost(str(error)) from None
        if not part:
            raise Lost("gone")
        held += part
    return bytes(held)
