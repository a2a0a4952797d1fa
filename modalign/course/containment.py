"""Confined processes for students' code, by the means that this machine has.

Each kind must hold alone. ``modalign course check`` attacks the one that marking will use.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from modalign.course.inside import confine, wire
from modalign.course.inside.worker import ORDER

INSIDE = Path(confine.__file__).parent
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
FILES = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom")
KINDS = ("bubblewrap", "landlock", "none")


class Limits(NamedTuple):
    """All limits on a submission: seconds of a load and of a check, and bytes."""

    load: float = 20.0
    check: float = 20.0
    processor: int = 300
    memory: int = 1 << 30
    notebook: int = 20 * 2**20
    source: int = 2**19


LIMITS = Limits()


class NotContained(RuntimeError):
    """Students' code cannot be confined here, or its process does not start: never their fault."""


def available() -> dict[str, str]:
    """Each kind of containment, and why it does not work here; an empty text if it does."""
    return {"bubblewrap": _bubblewrap_problem(), "landlock": _landlock_problem()}


def chosen(kind: str | None = None, *, own_files: bool = False) -> str:
    """The kind to use: the one asked for, else the first that works.

    Raises:
        NotContained: if none works, and the files are not said to be one's own.
    """
    if kind == "none" or (kind is None and own_files):
        if own_files:
            return "none"
        raise NotContained("containment: none is for files of your own: say so with --own-files")
    found = available()
    if kind is not None:
        if kind not in found:
            raise NotContained(f"containment: expected one of {', '.join(KINDS)}, got {kind!r}")
        if found[kind]:
            raise NotContained(f"containment: {kind} does not work here: {found[kind]}")
        return kind
    works = [name for name, problem in found.items() if not problem]
    if not works:
        reasons = "; ".join(f"{name}: {problem}" for name, problem in found.items())
        raise NotContained(
            f"containment: nothing here confines students' code ({reasons}); install bubblewrap, "
            "use Linux 5.13 or later, or say --own-files if you wrote every file yourself"
        )
    return works[0]


def _landlock_problem() -> str:
    if platform.system() != "Linux":
        return f"not on {platform.system()}"
    if not confine.can_filter():
        return f"no filter of system calls for {platform.machine()}"
    return "" if confine.landlock_version() else "this kernel has no Landlock"


def _bubblewrap_problem() -> str:
    if not shutil.which("bwrap"):
        return "bwrap is not installed"
    if not confine.can_filter():
        return f"no filter of system calls for {platform.machine()}"
    tried = subprocess.run(
        [*_bubblewrap(), sys.executable, "-I", "-c", "pass"], capture_output=True, text=True
    )
    return "" if tried.returncode == 0 else (tried.stderr.strip() or "it fails")[:200]


def _bubblewrap() -> list[str]:
    """A call of bwrap with nothing inside but Python and its libraries, none of it writable."""
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--dev", "/dev", "--tmpfs", "/tmp"]
    for path in dict.fromkeys([*SYSTEM, *FILES[:2], sys.base_prefix, sys.prefix, *_libraries()]):
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            words += ["--ro-bind", path, path]
    for path in _package():
        words += ["--tmpfs", path] if os.path.isdir(path) else ["--ro-bind", "/dev/null", path]
    words += ["--ro-bind", str(INSIDE), str(INSIDE)]
    words += ["--remount-ro", "/dev", "--remount-ro", "/"]  # in /tmp PyTorch's import writes
    return [*words, "--chdir", "/", "--clearenv", "--"]


def _libraries() -> list[str]:
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    # if a .pth file leads elsewhere, PyTorch is not in the environment's own folder
    paths += [str(Path(str(each.__file__)).parents[1]) for each in (torch, numpy)]
    return [path for path in dict.fromkeys(map(os.path.realpath, paths)) if os.path.isdir(path)]


def _package() -> list[str]:
    """Where the book's package is installed: no answer may come from there."""
    return [
        str(each) for folder in _libraries() for each in sorted(Path(folder).glob("*modalign*"))
    ]


def readable() -> tuple[list[str], list[str]]:
    """Files that a student's code may read under Landlock, and folders that it may only list.

    A right on a folder is one on all below it, so that what holds the package is given by parts.
    """
    libraries = _libraries()
    stdlib = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    parts = [
        str(each)
        for folder in (*libraries, *sorted(stdlib))
        for each in Path(folder).iterdir()
        if str(each) not in _package() and str(each) not in libraries
    ]
    native = [path for path in ("/usr/lib", "/lib", "/lib64", "/usr/lib64") if os.path.isdir(path)]
    inside = [path for path in libraries if path.startswith(tuple(f"{each}/" for each in native))]
    if inside:  # a system's own Python: its libraries lie beside those of the system
        native = [str(each) for path in native for each in Path(path).glob("*-linux-gnu*")]
    base = os.path.join(sys.base_prefix, "lib")
    native += [str(each) for each in Path(base).glob("lib*.so*")]
    return [*parts, *native, *FILES], [*libraries, *sorted(stdlib)]


class Place:
    """A process that starts one child a submission, confined, and ends it again."""

    def __init__(self, kind: str, limits: Limits = LIMITS) -> None:
        self.kind, self.limits = kind, limits
        self._lock = threading.Lock()
        self._control, inner = socket.socketpair()
        files, folders = readable() if kind == "landlock" else (None, [])
        settings = {
            "confine": kind != "none",
            "readable": files,
            "listable": folders,
            "seconds": limits.processor,
            "memory": limits.memory,
        }
        words = _bubblewrap() if kind == "bubblewrap" else []
        words += [sys.executable, "-I", str(INSIDE / "worker.py"), str(inner.fileno())]
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        if kind == "bubblewrap":
            words[-4:-4] = ["env", *(f"{name}={value}" for name, value in one.items())]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the place
        self._process = subprocess.Popen(
            [*words, json.dumps(settings)],
            pass_fds=[inner.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), **one},
            start_new_session=True,
        )
        inner.close()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def start(self) -> Worker:
        """A fresh child.

        Raises:
            NotContained: if it does not start, or cannot be confined.
        """
        near, far = socket.socketpair()
        number = self._order(b"new ", 0, [far.fileno()])
        far.close()
        worker = Worker(self, near, number)
        try:
            said = wire.receive(near, 60)
        except (wire.Lost, wire.Malformed) as error:
            worker.close()
            raise NotContained(f"worker: does not start: {error}") from None
        if "ready" not in said:
            worker.close()
            raise NotContained(f"containment: {self.kind} fails: {said.get('refused')}")
        return worker

    def _order(self, verb: bytes, number: int, handles: Sequence[int] = ()) -> int:
        with self._lock:
            try:
                socket.send_fds(self._control, [ORDER.pack(verb, number)], handles)
                answer = self._control.recv(ORDER.size, socket.MSG_WAITALL)
                return int(ORDER.unpack(answer)[1])
            except (OSError, ValueError, wire.struct.error):
                self._errors.seek(0)
                said = self._errors.read().decode(errors="replace").strip().splitlines()
                reason = said[-1] if said else "its process is gone"
                raise NotContained(f"worker: does not start under {self.kind}: {reason}") from None


class Worker:
    """One submission's process: requests go in, data come out, and it may be lost at any time."""

    def __init__(self, place: Place, link: socket.socket, number: int) -> None:
        self._place, self._link, self._number = place, link, number
        self.open = True

    def ask(self, request: dict[str, Any], seconds: float) -> Iterator[Any]:
        """Send a request, and yield the answers; the last has a value or an error.

        Raises:
            wire.Lost: if the process is gone, too late, or sends anything but an answer.
        """
        try:
            self._link.settimeout(seconds)
            wire.send(self._link, request)
            while True:
                said = wire.receive(self._link, seconds)
                if not isinstance(said, dict):
                    raise wire.Malformed("no answer")
                yield said
                if "at" not in said:
                    return
        except (wire.Lost, wire.Malformed) as error:
            self.close()
            raise wire.Lost(str(error)) from None

    def close(self) -> None:
        if self.open:
            self.open = False
            self._link.close()
            with contextlib.suppress(NotContained):
                self._place._order(b"end ", self._number)
