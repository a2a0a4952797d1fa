"""Python source as a tree, from any thread."""

import ast
import threading

_ONE_AT_A_TIME = threading.Lock()


def parse(source: str | bytes) -> ast.Module:
    """:func:`ast.parse`, one thread at a time.

    Two threads of Python 3.11 that parse beside one another can fail with a ``SystemError``, since
    they share one counter of depth (python/cpython#106905). A thread of another library, which no
    lock of ours stops, is met by trying again.

    Raises:
        SyntaxError: for anything but Python; and the other errors of ``ast.parse``.

    >>> ast.unparse(parse("x=1"))
    'x = 1'
    """
    with _ONE_AT_A_TIME:
        for _ in range(9):
            try:
                return ast.parse(source)
            except SystemError:
                continue
        return ast.parse(source)
