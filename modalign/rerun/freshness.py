"""The files that a chapter depends on: modules it imports, directly or indirectly, and its tables.

Nothing is imported to find out: the code is parsed. A module counts wherever its import stands (in
a function, under ``TYPE_CHECKING``, behind a magic such as ``%time``), and with it the
``__init__`` of every package on the way. So does a module whose full name stands in a text, as in
``import_module("modalign.cka")``. If only a run can tell what is imported (a computed name, or
a cell or module that does not parse), the chapter depends on the whole package.

A text such as ``"cka/map"`` names a recorded table, and ``f"cka/{name}"`` all that fit. The folder
of a chapter's tables counts whole if no table is named so, or one is loaded by a name that only
a run can tell: ``results/CHAPTER``, or ``results/STUDY`` of a chapter named ``STUDY-PART``.

Not seen: files that are neither modules nor recorded tables, a table of another chapter under a
computed name other than an f-string, and code in a text given to ``exec`` or to another process.
"""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import functools
import glob
import os
import pathlib
import re
import typing
import warnings
from collections.abc import Iterable, Iterator

import modalign
from modalign._parsing import parse

if typing.TYPE_CHECKING:
    import nbformat

Path = pathlib.Path

PACKAGE = modalign.__name__
IMPORTERS = {"__import__", "builtins.__import__", "importlib.import_module"}
RUNNERS = {"runpy.run_module", "runpy.run_path"}
TABLE_READERS = {f"{PACKAGE}.records.{name}" for name in ("load", "listing", "results_folder")}
PYTHON_MAGICS, SHELL_MAGICS = {"run_line_magic", "run_cell_magic"}, {"system", "getoutput"}
NO_PYTHON = (SyntaxError, ValueError, MemoryError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Needs:
    """The names in code; whether one is that of a module or a table is looked up later.

    Attributes:
        modules: dotted names; one that ends in ``*`` stands for all modules of a package.
        files: paths of Python files, which ``%run`` takes.
        texts: the literals that may name a table.
        patterns: f-strings, with ``*`` for each value; they begin with a folder.
        any_module: whether it imports by a name that only a run can tell.
        any_table: whether it loads a table by such a name.
    """

    modules: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    any_module: bool = False
    any_table: bool = False

    def __or__(self, other: Needs) -> Needs:
        fields = (field.name for field in dataclasses.fields(self))
        return Needs(**{name: getattr(self, name) | getattr(other, name) for name in fields})


def written_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files below a folder, without hidden ones and caches."""
    return [
        path
        for path in folder.rglob(pattern)
        if path.is_file()
        and not any(
            part[0] == "." or part == "__pycache__" for part in path.parts[len(folder.parts) :]
        )
    ]


def inputs(root: Path, chapter: str, notebook: nbformat.NotebookNode) -> dict[str, Path]:
    """The files that a chapter depends on besides its notebook and presets, by portable name.

    Args:
        root: the book.
        chapter: stem of the notebook.
        notebook: is read in place of its file.
    """
    found, needs = _modules(root, _needs_of_notebook(notebook))
    constraints = root / "constraints.txt"
    if constraints.is_file():
        found[constraints.name] = constraints
    return found | _tables(root, chapter, needs)


def tables_folder(root: Path, chapter: str) -> Path:
    """The folder of a chapter's recorded tables: its own, or its study's if it is a part of one."""
    own = root / "results" / chapter
    return own if own.is_dir() else own.with_name(chapter.partition("-")[0])


def _tables(root: Path, chapter: str, needs: Needs) -> dict[str, Path]:
    """The recorded tables, and their provenance, that the needs name."""
    results = root / "results"
    files = [path for path in written_files(results) if path.suffix in (".csv", ".json")]
    names = {path: path.relative_to(results).with_suffix("").as_posix() for path in files}
    texts = {_table(text) for text in needs.texts}
    wanted = {
        path
        for path, name in names.items()
        if name in texts or any(fnmatch.fnmatchcase(name, pattern) for pattern in needs.patterns)
    }
    if needs.any_table or not wanted:
        own = tables_folder(root, chapter)
        wanted |= {path for path in files if path.is_relative_to(own)}
    return {path.relative_to(root).as_posix(): path for path in wanted}


def _table(text: str) -> str:
    """The name in a text that may be the path of a table's file."""
    return re.sub(r"\.(csv|json)$", "", text.removeprefix("results/"))


def _modules(root: Path, needs: Needs) -> tuple[dict[str, Path], Needs]:
    """The files of all modules below some code, by portable name, and what all of it needs."""
    package = root / PACKAGE
    if not package.is_dir():
        package = Path(modalign.__file__).parent
    found: dict[str, Path] = {}
    waiting, total = [needs], needs
    while waiting:
        needs = waiting.pop()
        total |= needs
        new = [root / name for name in needs.files if (root / name).is_file()]
        new += written_files(package, "*.py") if needs.any_module else []
        for name in needs.modules:
            new += _module_files(name, package.parent if _top(name) == PACKAGE else root)
        for path in new:
            base = package.parent if path.is_relative_to(package) else root
            name = Path(os.path.relpath(path, base)).as_posix()
            if name not in found:
                found[name] = path
                parent = ".".join(Path(name).parent.parts)
                waiting.append(_needs_of_code(path.read_bytes(), parent))
    return found, total


def _top(name: str) -> str:
    return name.partition(".")[0]


def _module_files(name: str, base: Path) -> Iterator[Path]:
    """The file of a module below a folder and the ``__init__`` of each package on the way."""
    place = base
    for part in name.split("."):
        if part == "*":
            yield from sorted([*place.glob("*.py"), *place.glob("*/__init__.py")])
            return
        file, place = place / f"{part}.py", place / part
        if (place / "__init__.py").is_file():
            yield place / "__init__.py"
        elif file.is_file():
            yield file
        if not place.is_dir():
            return


def _needs_of_notebook(notebook: nbformat.NotebookNode) -> Needs:
    parts, total = [], Needs()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            python = _python(cell.source)
            held, needs = _unfolded(python) if python is not None else ([], Needs(any_module=True))
            parts += held
            total |= needs
    # in one piece, since a cell uses the names that one above it has imported
    return total | _needs_of_code("\n".join(parts))


def _parse(source: str | bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a text with an invalid escape, which is not an error
        return parse(source)


def _python(source: str) -> str | None:
    """A cell with calls in place of its magics; None if that is not Python."""
    try:
        _parse(source)
        return source
    except NO_PYTHON:
        # imported late: it takes as long as all else here, and few cells have magics
        from IPython.core.inputtransformer2 import TransformerManager
    try:
        source = TransformerManager().transform_cell(source)
        _parse(source)
        return source
    except NO_PYTHON:
        return None


def _unfolded(python: str) -> tuple[list[str], Needs]:
    """A cell and the Python in its magics, and what the other texts of its magics need."""
    parts, needs = [python], Needs()
    for call in ast.walk(_parse(python)):
        name = getattr(call.func, "attr", "") if isinstance(call, ast.Call) else ""
        if not isinstance(call, ast.Call) or name not in PYTHON_MAGICS | SHELL_MAGICS:
            continue
        for text in filter(None, map(_text, call.args)):
            files = {word for word in text.split() if word.endswith(".py")}
            needs |= Needs(files=frozenset(files))
            inner = _python(text) if name in PYTHON_MAGICS else None
            if inner is None:
                needs |= Needs(any_module=PACKAGE in text)
            else:
                held, more = _unfolded(inner)
                parts += held
                needs |= more
    return parts, needs


@functools.lru_cache(maxsize=1024)
def _needs_of_code(source: str | bytes, package: str = "") -> Needs:
    """The needs of code; ``package`` is where relative imports begin."""
    try:
        tree = _parse(source)
    except NO_PYTHON:
        return Needs(any_module=True)
    nodes = list(ast.walk(tree))
    modules, local = _imports(nodes, package)
    calls = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
    any_module = any_table = False
    for node in nodes:
        for name in _dotted(node, local):
            modules.add(name)
            call = calls.get(id(node))
            given = [*call.args, *(each.value for each in call.keywords)] if call else []
            if name in IMPORTERS and _is_full_name(given):
                modules.add(_text(given[0]) or "")
            elif name in IMPORTERS | RUNNERS:
                any_module = True
            if name in TABLE_READERS and not (given and _names_tables(given[0])):
                any_table = True
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = {text for node in nodes if id(node) not in inner and (text := _text(node))}
    patterns = {text for node in nodes if (text := _pattern(node))}
    modules |= {text for text in texts if re.fullmatch(rf"{PACKAGE}(\.\w+)+", text)}
    return Needs(
        modules=frozenset(modules),
        texts=frozenset(texts),
        patterns=frozenset(patterns),
        any_module=any_module,
        any_table=any_table,
    )


def _imports(nodes: Iterable[ast.AST], package: str) -> tuple[set[str], dict[str, set[str]]]:
    """The modules that code may import, and what its own names for them stand for."""
    modules: set[str] = set()
    local: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for each in node.names:
                modules.add(each.name)
                stands_for = each.name if each.asname else _top(each.name)
                local.setdefault(each.asname or stands_for, set()).add(stands_for)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [".".join(above)] if node.level else []
            base = ".".join(filter(None, [*start, node.module]))
            for each in node.names:
                # what follows `import` may be a module too
                modules.add(f"{base}.{each.name}")
                local.setdefault(each.asname or each.name, set()).add(f"{base}.{each.name}")
    return modules, local


def _dotted(node: ast.AST, local: dict[str, set[str]]) -> set[str]:
    """The names that ``a.b.c`` can stand for if ``a`` was imported; none for other code."""
    if isinstance(node, ast.Name):
        return local.get(node.id, {node.id} & IMPORTERS)
    if isinstance(node, ast.Attribute):
        return {f"{name}.{node.attr}" for name in _dotted(node.value, local)}
    return set()


def _text(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _pattern(node: ast.AST) -> str | None:
    """An f-string that begins with a folder of tables, with ``*`` for its values."""
    if not isinstance(node, ast.JoinedStr):
        return None
    texts = [_text(part) for part in node.values]
    pattern = _table("".join("*" if text is None else glob.escape(text) for text in texts))
    return pattern if "/" in pattern.partition("*")[0] else None


def _is_full_name(given: list[ast.expr]) -> bool:
    """Whether the arguments of an import are one text, which names a module in full."""
    return len(given) == 1 and not (_text(given[0]) or ".").startswith(".")


def _names_tables(node: ast.AST) -> bool:
    """Whether the code of an argument tells which tables it names."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(map(_names_tables, node.elts))
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
        return _names_tables(node.elt)
    if isinstance(node, ast.IfExp):
        return _names_tables(node.body) and _names_tables(node.orelse)
    return _text(node) is not None or _pattern(node) is not None
