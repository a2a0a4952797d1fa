"""The student's side: a process that forks one confined child a submission, and answers calls.

Started as ``python -I worker.py CONTROL SETTINGS`` with a socket for orders and a JSON text. It
imports PyTorch once, holds nothing that is secret, and runs no student's code itself.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import json
import os
import random
import signal
import socket
import struct
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

if __name__ == "__main__":  # by their bare names: nothing of the package is imported here
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import confine
    import slicing
    import wire

    del sys.path[0]
else:
    from modalign.course.inside import confine, slicing, wire

ORDER = struct.Struct(">4sq")


def serve(control: socket.socket, settings: dict[str, Any]) -> None:
    """Fork and end children as ordered, until the marker is gone."""
    children: set[int] = set()
    gc.freeze()  # the memory that all children share is not touched again
    try:
        while True:
            order, handles, _, _ = socket.recv_fds(control, ORDER.size, 1)
            if not order:
                return
            verb, number = ORDER.unpack(order)
            if verb == b"new ":
                number = os.fork()
                if not number:
                    _child(control, handles[0], settings)
                os.close(handles[0])
                children.add(number)
            elif number in children:
                children.remove(number)
                _end(number)
            control.sendall(ORDER.pack(verb, number))
    finally:
        for number in children:
            _end(number)


def _end(number: int) -> None:
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def _child(control: socket.socket, handle: int, settings: dict[str, Any]) -> None:
    """Confine this process, say so, and answer until the marker has enough."""
    try:
        control.close()
        os.dup2(handle, 3)
        os.closerange(4, 4096)
        link = socket.socket(fileno=3)
        try:
            if settings["confine"]:
                confine.limit(settings["seconds"], settings["memory"])
                confine.confine(settings["readable"], settings["listable"])
        except (OSError, ValueError) as error:
            wire.send(link, {"refused": str(error)})
            return
        wire.send(link, {"ready": True})
        Submission(link).answer()
    finally:
        os._exit(0)


class Submission:
    """The names of one submission, the objects that the marker holds by number, and the answers."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        self.objects: list[Any] = []

    def answer(self) -> None:
        verbs = {each: getattr(self, each) for each in ("load", "call", "get", "set", "define")}
        while True:
            request = wire.receive(self.link)
            verb = verbs[request.pop("do")]
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - it is a student's that is set
            try:
                answer = {"value": verb(**request)}
            except BaseException as error:  # exits and interrupts are a student's too
                answer = _told(error)
            try:
                wire.send(self.link, answer)
            except wire.Unsendable as problem:
                wire.send(self.link, {"error": ["Unsendable"], "text": str(problem)})

    def load(
        self,
        cells: list[tuple[str, str]],
        wanted: list[str],
        skip: list[int],
        replaced: dict[str, str],
    ) -> dict[str, Any]:
        """Run the statements that the wanted names rest on; leave out and name those that fail."""
        found = slicing.sliced(cells, wanted, replaced)
        module = types.ModuleType("__main__")  # a dataclass looks its module up
        module.__dict__.update(self.names)
        sys.modules["__main__"], self.names = module, module.__dict__
        failed = []
        for number, each in enumerate(found.statements):
            if number in skip:
                continue
            wire.send(self.link, {"at": [number, each.cell, each.line]})
            try:
                code = compile(slicing.ast.Module([each.node], []), f"<cell {each.cell}>", "exec")
                exec(code, self.names)
            except BaseException as error:
                failed.append([each.cell, each.line, type(error).__name__])
        return {
            "unread": [list(each) for each in found.unread],
            "failed": failed,
            "missing": [name for name in wanted if name not in self.names],
            "rests_on": {name: sorted(held) for name, held in found.rests_on.items()},
        }

    def call(
        self, on: Any, path: list[str], args: list[Any], kwargs: dict[str, Any], returns: str
    ) -> Any:
        """Call the object that a name or a number and a path lead to.

        ``returns`` says the answer: its value, its number, its gradients, or the arguments after.
        """
        args, kwargs = self._resolved(args), self._resolved(kwargs)
        along = kwargs.pop("along", None) if returns == "gradients" else None
        result = self._find(on, path)(*args, **kwargs)
        if returns == "number":
            return self._kept(result)
        if returns == "after":
            return [args, kwargs]
        return gradients(result, along, [args, kwargs]) if returns == "gradients" else result

    def get(self, on: Any, path: list[str], returns: str = "value") -> Any:
        found = self._find(on, path)
        return self._kept(found) if returns == "number" else found

    def set(self, on: Any, path: list[str], value: Any) -> None:
        setattr(self._find(on, path[:-1]), path[-1], self._resolved(value))

    def define(self, value: Any, source: str | None = None) -> Any:
        """Keep a value here, or the object that a source of the marker's defines under a name."""
        if source is None:
            return self._kept(self._resolved(value))
        held: dict[str, Any] = {"torch": torch}
        exec(compile(source, "<marker>", "exec"), held)
        return self._kept(held[value])

    def _find(self, on: Any, path: list[str]) -> Any:
        found = self.objects[on.number] if isinstance(on, wire.Handle) else self.names[on]
        for name in path:
            found = getattr(found, name)
        return found

    def _kept(self, held: Any) -> wire.Handle:
        self.objects.append(held)
        return wire.Handle(len(self.objects) - 1)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, wire.Handle):
            return self.objects[value.number]
        if isinstance(value, dict):
            return {key: self._resolved(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._resolved(each) for each in value)
        return value


def gradients(result: Any, along: Any, arguments: Any) -> list[Any]:
    """Of a result (its sum, or its product with ``along``), by all arguments that ask for one."""
    outputs = [each for each in tensors(result) if each.requires_grad]
    inputs = [each for each in tensors(arguments) if each.requires_grad]
    if not outputs:
        return [None for _ in inputs]
    weights = [torch.ones_like(each) for each in outputs] if along is None else tensors(along)
    return list(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))


def tensors(tree: Any) -> list[torch.Tensor]:
    """All tensors of nested lists, tuples and dictionaries, in order."""

    def found(tree: Any) -> Iterator[torch.Tensor]:
        if isinstance(tree, torch.Tensor):
            yield tree
        elif isinstance(tree, list | tuple | dict):
            for each in tree.values() if isinstance(tree, dict) else tree:
                yield from found(each)

    return list(found(tree))


def _told(error: BaseException) -> dict[str, Any]:
    """The type of an error, and where in the student's own cells it came up; never its text."""
    place, trace = None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith("<cell "):
            place = [int(name[6:-1]), trace.tb_lineno]
        trace = trace.tb_next
    kinds = [each.__name__ for each in type(error).__mro__][:8]
    return {"error": kinds, "place": place}


if __name__ == "__main__":
    torch.set_num_threads(1)
    first = torch.ones(1, requires_grad=True)
    # PyTorch imports much when it first differentiates, and when it first makes an optimiser
    gradients(first.norm(), None, [first])
    torch.optim.SGD([first], lr=0.0)
    with contextlib.suppress(KeyboardInterrupt):
        serve(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
