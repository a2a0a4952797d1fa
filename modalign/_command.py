"""Words of the command line, so that what a message tells to type can be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys


def shortest_path(path: str) -> str:
    """A path from here if that goes only down, else the whole."""
    below = os.path.relpath(path)
    return os.path.abspath(path) if below.startswith(os.pardir) else below


def command(*words: object) -> str:
    """A call of ``modalign``, begun as this process was and quoted for a shell.

    >>> command("report", "my runs/sweep.yml").endswith("modalign report 'my runs/sweep.yml'")
    True
    """
    called = sys.argv[0]
    name = os.path.basename(called)
    if name == "__main__.py" and os.path.basename(os.path.dirname(called)) == "modalign":
        begin = [shortest_path(sys.executable), "-m", "modalign"]
    elif name == "modalign" and shutil.which(name) != os.path.abspath(called):
        begin = [shortest_path(called)]
    else:
        begin = ["modalign"]
    return shlex.join([*begin, *map(str, words)])
