"""Of a submission, the statements that the wanted names rest on; the rest is never run.

Names are followed through the top level of all cells in order. Plots, prints, magics and
experiments bind nothing that an answer needs, and so stay out.
"""

from __future__ import annotations

import ast
import io
import symtable
import tokenize
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

MAGICS_THAT_KEEP = ("%%time", "%%timeit", "%%capture")
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


class Statement(NamedTuple):
    """One statement of a cell: the names that it binds, uses, and changes in place."""

    cell: int
    node: ast.stmt
    binds: frozenset[str]
    uses: frozenset[str]
    changes: frozenset[str]

    @property
    def line(self) -> int:
        return self.node.lineno


class Slice(NamedTuple):
    """Statements to run, those not readable (cell and line), and the names each name rests on."""

    statements: list[Statement]
    unread: list[tuple[int, int]]
    rests_on: dict[str, set[str]]


def sliced(
    cells: Sequence[tuple[str, str]],
    wanted: Sequence[str],
    replaced: Mapping[str, str] | None = None,
) -> Slice:
    """The statements that the wanted names rest on, in order.

    Args:
        cells: kind (code or another) and source of each. An answer whose cell became Markdown
            counts: a cell of another kind is read if it is Python that binds a name.
        wanted: names.
        replaced: sources that define these names in place of the cells.

    >>> cells = [("code", "import math\\nprint(1)"), ("code", "def f(): return math.pi")]
    >>> found = sliced(cells, ["f"])
    >>> [ast.unparse(each.node) for each in found.statements]
    ['import math', 'def f():\\n    return math.pi']
    """
    replaced = replaced or {}
    statements: list[Statement] = []
    unread = []
    for number, (kind, cell) in enumerate(cells):
        try:
            found = [_statement(number, node) for node in parsed(cell)]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if kind == "code":
                unread.append((number, getattr(error, "lineno", None) or 1))
            continue
        if kind == "code" or any(each.binds for each in found):
            statements += [each for each in found if not each.binds & set(replaced)]
    for source in dict.fromkeys(replaced.values()):
        statements += [_statement(-1, node) for node in ast.parse(source).body]
    modules = {name for each in statements if isinstance(each.node, IMPORTS) for name in each.binds}
    statements = [
        each._replace(changes=each.changes - modules) if isinstance(each.node, ast.Expr) else each
        for each in statements
    ]
    rests_on = {name: _closure(name, statements) for name in wanted}
    needed = set[str]().union(*rests_on.values())
    return Slice([each for each in statements if _is_needed(each, needed)], unread, rests_on)


def parsed(cell: str) -> list[ast.stmt]:
    """The statements of a cell, without the lines that only a notebook understands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(_plain(cell)).body


def _plain(cell: str) -> str:
    """Blank the lines that begin with %, ! or ?, outside texts and brackets."""
    lines = cell.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff").split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        if not lines[first].startswith(MAGICS_THAT_KEEP):
            return ""
        lines[first] = ""
    try:
        ast.parse("\n".join(lines))
    except (SyntaxError, ValueError):
        inside = _continued("\n".join(lines))
        for i, line in enumerate(lines):
            if i + 1 not in inside and (
                line.lstrip().startswith(("%", "!", "?")) or line.rstrip().endswith("?")
            ):
                lines[i] = line[: len(line) - len(line.lstrip())] + "pass"
    return "\n".join(lines)


def _continued(text: str) -> set[int]:
    """Numbers of the lines that begin within a text."""
    inside: set[int] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING:
                inside.update(range(token.start[0] + 1, token.end[0] + 1))
    except (tokenize.TokenError, SyntaxError, IndentationError):
        pass  # the rest is not Python: the lines up to here count
    return inside


def _statement(cell: int, node: ast.stmt) -> Statement:
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    names = table.get_symbols()
    uses = {each.get_name() for each in names if each.is_referenced()} | _globals_within(table)
    binds = {each.get_name() for each in names if each.is_assigned() or each.is_imported()}
    changes = set()
    for each in _at_top(node):
        if isinstance(each, IMPORTS) and each.names[0].name == "*":
            binds.add("*")
        elif isinstance(each, ast.Attribute | ast.Subscript) and not isinstance(each.ctx, ast.Load):
            changes.add(_root(each))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        # table.append(1), f.cache.clear()
        changes.add(_root(node.value.func) if isinstance(node.value.func, ast.Attribute) else "")
    return Statement(cell, node, frozenset(binds), frozenset(uses), frozenset(changes - {""}))


def _globals_within(table: symtable.SymbolTable) -> set[str]:
    """The names that functions, classes and comprehensions take from the top level."""
    inner = table.get_children()
    own = {name.get_name() for each in inner for name in each.get_symbols() if name.is_global()}
    return own.union(*map(_globals_within, inner))


def _at_top(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and its parts, without the insides of functions and classes."""
    yield node
    if not isinstance(node, (*SCOPES, ast.Lambda)):
        for each in ast.iter_child_nodes(node):
            yield from _at_top(each)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _closure(name: str, statements: Sequence[Statement]) -> set[str]:
    """All names that a name rests on, itself among them."""
    found: set[str] = set()
    further = {name}
    while further:
        found |= further
        used = [each.uses for each in statements if _is_needed(each, further)]
        further = set[str]().union(*used) - found
    return found


def _is_needed(statement: Statement, needed: set[str]) -> bool:
    future = getattr(statement.node, "module", "") == "__future__"
    return future or bool({"*", *needed} & (statement.binds | statement.changes))
