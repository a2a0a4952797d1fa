"""The chapters that can be rerun, with their parameters, their presets and their costs."""

from __future__ import annotations

import ast
import collections
import csv
import dataclasses
import datetime
import difflib
import hashlib
import io
import json
import math
import os
import pathlib
import platform
import re
import sys
import tokenize
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import modalign
from modalign import records
from modalign._parsing import parse
from modalign.rerun import freshness
from modalign.rerun._yaml import read_yaml

if typing.TYPE_CHECKING:
    import nbformat

Path = pathlib.Path
Value = typing.Union[bool, int, float, str, "list[typing.Any]"]
Folder = typing.Union[str, "os.PathLike[str]"]

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# CONTRIBUTING.md tells authors this grammar
BOUNDS: dict[str, Callable[[float, float], bool]] = {
    rf"({NUMBER}) or more": lambda value, bound: value >= bound,
    rf"({NUMBER}) or less": lambda value, bound: value <= bound,
    rf"above ({NUMBER})": lambda value, bound: value > bound,
    rf"below ({NUMBER})": lambda value, bound: value < bound,
}
ANY = "any"
# the largest of numpy and torch; a seed goes to libraries that take 32 bits
LARGEST_INT, LARGEST_SEED = 2**63 - 1, 2**32 - 1


def book_root(root: Folder | None = None) -> Path:
    """Find the book: ``root``, else the nearest folder above, else the one beside the package.

    Raises:
        FileNotFoundError: if no such folder has ``_toc.yml`` and ``notebooks/``.
    """
    here = Path.cwd()
    places = [here, *here.parents, Path(modalign.__file__).parents[1]]
    for place in [Path(root)] if root is not None else places:
        if (place / "_toc.yml").is_file() and (place / "notebooks").is_dir():
            return place.resolve()
    where = f"in {root}" if root is not None else f"above {here} or beside the package"
    raise FileNotFoundError(
        f"chapters: no book (a folder with _toc.yml and notebooks/) {where}; the chapters are not "
        "in the installed package: run this in a checkout of the book"
    )


def page_names(root: Path) -> list[str]:
    """The pages of the table of contents, in its order: paths without suffix.

    Raises:
        OSError: if the table cannot be read.
        ValueError: if it is of another shape.
    """
    contents = root / "_toc.yml"

    def names(node: typing.Any) -> Iterator[str]:
        if isinstance(node, list):
            for child in node:
                yield from names(child)
        elif isinstance(node, dict):
            for key in ("root", "file"):
                if key in node and not isinstance(node[key], str):
                    raise ValueError(f"{contents}: {key}: expected a path, got {node[key]!r:.80}")
                yield from [node[key].removesuffix(".ipynb")] if key in node else []
            yield from names([child for child in node.values() if not isinstance(child, str)])

    held = read_yaml(contents)
    if not isinstance(held, dict):
        raise ValueError(f"{contents}: expected a mapping with the key root, got {_brief(held)}")
    return list(names(held))


def notebooks(root: Path) -> list[Path]:
    """The notebooks of the table of contents, in its order.

    Raises:
        OSError: if the table cannot be read.
        ValueError: if it is of another shape, or two notebooks share a name.
    """
    found: dict[str, Path] = {}
    for path in (root / f"{name}.ipynb" for name in page_names(root)):
        if path.exists() and found.setdefault(path.stem, path) != path:
            where = root / "_toc.yml"
            raise ValueError(f"{where}: {found[path.stem]} and {path} are chapters of one name")
    return list(found.values())


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook that keeps to its format.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a notebook.
    """
    import jsonschema
    import nbformat

    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        numbers = [held["nbformat"], held["nbformat_minor"]]
        if [*map(type, numbers)] != [int, int] or numbers[0] not in nbformat.versions:
            raise ValueError(f"its format is {numbers}; expected one of {[*nbformat.versions]}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", nbformat.warnings.MissingIDFieldWarning)
            # first the format, since reading takes anything and fails in the middle of a cell
            nbformat.validate(held, relax_add_props=True)
            return nbformat.reads(json.dumps(held), as_version=4)
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror}") from None
    except jsonschema.ValidationError as error:
        reason = f"{'.'.join(map(str, error.absolute_path))}: {error.message:.120}".lstrip(": ")
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"{path}: not a notebook: {' '.join(reason.split())}")


def notebook_path(chapter: str, root: Folder | None = None) -> Path:
    """The notebook of a chapter.

    Raises:
        ValueError: for an unknown name, with the closest one.
    """
    known = {path.stem: path for path in notebooks(book_root(root))}
    require_known(chapter, known, "chapter")
    return known[chapter]


def require_known(name: object, known: Iterable[str], what: str) -> None:
    """Refuse a name that is not among those known, and say which is closest."""
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        there = ", ".join(known) or "none"
        raise ValueError(f"{what}: there is no {_brief(name)}, only {there}{hint}")


def _brief(value: object) -> str:
    """A value in a few words, whatever it is."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # Python shows no number of more than 4300 digits
        return f"a {type(value).__name__} too large to show"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: a name, its default, and the values that it may have.

    Attributes:
        name: as ``-p`` takes it.
        kind: ``bool``, ``int``, ``float``, ``str``, or ``list of`` one of them.
        default: the chapter's value.
        help: the comment up to its last semicolon.
        range: the text after it, such as ``0 or more``; empty if anything goes.
    """

    name: str
    kind: str
    default: Value
    help: str
    range: str = ""

    @property
    def choices(self) -> list[Value]:
        """The values that the range lists; empty if it lists none."""
        if not self.range or self.range == ANY or _bounds(self.range):
            return []
        texts = [text.strip() for text in re.split(r",| or ", self.range)]
        return [self._scalar(text) for text in texts]

    def parse(self, text: str) -> Value:
        """Read a value from a command line: data, whatever it looks like.

        A text parameter takes the text as it is; all others take one literal of their kind.

        Raises:
            ValueError: for another kind or a value out of range.

        >>> seed = Parameter("seed", "int", 0, "of everything", "0 or more")
        >>> seed.parse("3")
        3
        >>> seed.parse("0; import os")
        Traceback (most recent call last):
            ...
        ValueError: seed: expected int (0 or more), got '0; import os'
        """
        if self.kind == "str":
            return self.check(text)
        try:
            value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise self._refusal(text) from None
        return self.check(value)

    def parse_many(self, text: str) -> list[Value]:
        """Read values separated by commas: of lists ``[1,2],[3]``, of text as in a CSV line.

        >>> Parameter("lambda", "float", 0.1, "a weight").parse_many("0,0.1")
        [0.0, 0.1]
        >>> Parameter("name", "str", "", "any").parse_many('adam,"a,b"')
        ['adam', 'a,b']
        """
        if not self.kind.startswith("list"):
            return [self.parse(part) for part in next(csv.reader([text]), [])]
        try:
            values = ast.literal_eval(f"[{text}]")
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise self._refusal(text) from None
        return [self.check(value) for value in values]

    def check(self, value: object) -> Value:
        """Return the value in its canonical form: a float for an int, a list for a tuple.

        Raises:
            ValueError: for another kind or a value out of range.
        """
        of = self.kind.removeprefix("list of ")
        if of == self.kind:
            return self._checked(value, of)
        if not isinstance(value, list | tuple):
            raise self._refusal(value)
        return [self._checked(each, of) for each in value]

    def _checked(self, value: object, kind: str) -> Value:
        if kind == "float" and type(value) is int and abs(value) <= sys.float_info.max:
            value = float(value)
        if type(value).__name__ != kind:
            raise self._refusal(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refusal(value)
        if kind == "int":
            largest = LARGEST_SEED if self.name == "seed" else LARGEST_INT
            if not -LARGEST_INT <= typing.cast(int, value) <= largest:
                raise self._refusal(value, f"; the largest that every library takes is {largest}")
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self._refusal(value, ", which is not UTF-8") from None
        value = typing.cast(Value, value)
        bounds = _bounds(self.range)
        if not all(fits(typing.cast(float, value), bound) for fits, bound in bounds):
            raise self._refusal(value)
        if self.choices and value not in self.choices:
            raise self._refusal(value)
        return value

    def _scalar(self, text: str) -> Value:
        kind = self.kind.removeprefix("list of ")
        return text if kind == "str" else typing.cast(Value, ast.literal_eval(text))

    def _refusal(self, value: object, hint: str = "") -> ValueError:
        allowed = f" ({self.range})" if self.range and self.range != ANY else ""
        hint = hint or self._hint(value)
        return ValueError(f"{self.name}: expected {self.kind}{allowed}, got {_brief(value)}{hint}")

    def _hint(self, value: object) -> str:
        """A hint for a number that YAML read as text, or a text that it read as something else."""
        of = self.kind.removeprefix("list of ")
        if of == "str" and isinstance(value, bool | int | float | datetime.date):
            return "; in YAML a text that looks like something else stands in quotes"
        if of == "float" and isinstance(value, str) and re.fullmatch(NUMBER, value):
            mantissa, exponent = re.split("[eE]", value + "e")[:2]
            mantissa += "" if "." in mantissa else ".0"
            exponent = exponent if exponent[:1] in "+-" else f"+{exponent}"
            return f", a text; in YAML write {mantissa}e{exponent}" if exponent else ", a text"
        return ""


def _bounds(text: str) -> list[tuple[Callable[[float, float], bool], float]]:
    """The bounds in a range; empty if it has none.

    >>> [bound for _, bound in _bounds("above 0 and 1 or less")]
    [0.0, 1.0]
    """
    if between := re.fullmatch(rf"({NUMBER}) to ({NUMBER})", text):
        text = f"{between[1]} or more and {between[2]} or less"
    found = []
    for part in text.split(" and "):
        for pattern, fits in BOUNDS.items():
            if match := re.fullmatch(pattern, part):
                found.append((fits, float(match[1])))
    return found


def _kind(value: object) -> str | None:
    """The kind of a default; None if it is not a plain literal, or is an empty list."""
    if isinstance(value, list):
        kinds = {_kind(each) for each in value}
        if kinds == {"int", "float"}:
            kinds = {"float"}
        (kind,) = kinds if len(kinds) == 1 else (None,)
        return f"list of {kind}" if kind in ("bool", "int", "float", "str") else None
    return type(value).__name__ if type(value) in (bool, int, float, str) else None


def _parameter(line: ast.stmt, comment: str, chapter: str) -> Parameter:
    text = ast.unparse(line)
    if not (isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)):
        raise ValueError(f"{chapter}: parameters cell: expected NAME = LITERAL, got {text!r}")
    try:
        default = ast.literal_eval(line.value)
    except (ValueError, TypeError, MemoryError, RecursionError):
        default = None
    kind = _kind(default)
    if kind is None or len(line.targets) > 1:
        raise ValueError(
            f"{chapter}: parameters cell: expected a bool, int, float, str or a filled list of "
            f"one of them, got {text!r}"
        )
    help_text, semicolon, limits = comment.rpartition(";")
    if not semicolon:
        help_text, limits = comment, ""
    found = Parameter(line.targets[0].id, kind, default, help_text.strip(), limits.strip())
    try:
        if semicolon and found.range != ANY and not _bounds(found.range) and not found.choices[1:]:
            raise ValueError(f"{found.range!r} is not a range")
        default = found.check(default)
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"{chapter}: parameters cell: {found.name}: {error}; the comment is HELP; RANGE (the "
            "ways to write a range are in CONTRIBUTING.md), and the default lies in its range"
        ) from None
    return dataclasses.replace(found, default=default)


def parameters_of(notebook: nbformat.NotebookNode, chapter: str) -> dict[str, Parameter]:
    """The parameters of a notebook in memory, by name.

    Raises:
        ValueError: for a parameters cell that breaks the contract.
    """
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) > 1 or any(cell.cell_type != "code" for cell in tagged):
        raise ValueError(f"{chapter}: parameters cell: expected one cell of code with this tag")
    source = tagged[0].source if tagged else ""
    comments = collections.defaultdict(list)
    try:
        lines = parse(source).body
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments[token.start[0]].append(token.string.lstrip("# ").strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError, tokenize.TokenError) as error:
        raise ValueError(f"{chapter}: parameters cell: not Python: {error}") from None
    found: dict[str, Parameter] = {}
    for line in lines:
        rows = range(line.lineno, (line.end_lineno or line.lineno) + 1)
        comment = " ".join(text for row in rows for text in comments[row])
        each = _parameter(line, comment, chapter)
        if each.name in found:
            raise ValueError(f"{chapter}: parameters cell: {each.name}: given twice")
        found[each.name] = each
    return found


def parameters(chapter: str, *, root: Folder | None = None) -> dict[str, Parameter]:
    """The parameters of a chapter, read from its parameters cell.

    Raises:
        ValueError: for an unknown chapter, or a parameters cell that breaks the contract.

    >>> parameters("cka")["seed"].default
    0
    """
    return parameters_of(read_notebook(notebook_path(chapter, root)), chapter)


def presets(chapter: str, *, root: Folder | None = None) -> dict[str, dict[str, Value]]:
    """The named settings of a chapter, checked against its parameters.

    Raises:
        ValueError: for a preset that names an unknown parameter or a value it may not have.
    """
    path = notebook_path(chapter, root).parent / "presets" / f"{chapter}.yml"
    held = read_yaml(path) if path.exists() else None
    if not isinstance(held, dict | None):
        raise ValueError(f"{path}: expected a mapping of presets by name, got {_brief(held)}")
    known = parameters(chapter, root=root)
    found = {}
    for preset, values in {"default": {}, **(held or {})}.items():
        if not isinstance(preset, str):
            raise ValueError(f"{path}: expected the name of a preset, got {_brief(preset)}")
        try:
            found[preset] = settings(known, values)
        except ValueError as error:
            raise ValueError(f"{path}: preset {preset}: {error}") from None
    return found


def settings(known: Mapping[str, Parameter], values: Mapping[str, object]) -> dict[str, Value]:
    """Check named values against the parameters; returns them in canonical form.

    Raises:
        ValueError: for an unknown name, with the closest one; for a value that does not fit.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"expected a mapping of parameters to values, {{}} for none, got {_brief(values)}"
        )
    for name in values:
        require_known(name, known, "parameter")
    return {name: known[name].check(value) for name, value in values.items()}


def resolve(
    chapter: str,
    changes: Mapping[str, object] | None = None,
    preset: str = "default",
    *,
    root: Folder | None = None,
) -> dict[str, Value]:
    """All parameters of a run: the chapter's own, then the preset's, then the changes.

    Raises:
        ValueError: for an unknown chapter, preset or parameter, or a value that does not fit.
    """
    sets, known = presets(chapter, root=root), parameters(chapter, root=root)
    require_known(preset, sets, f"{chapter}: preset")
    defaults = {name: each.default for name, each in known.items()}
    return {**defaults, **sets[preset], **settings(known, changes or {})}


def require_device(device: object) -> None:
    """Refuse a device that PyTorch does not find on this machine."""
    kind = str(device).split(":")[0]
    if kind not in ("cuda", "mps"):
        return
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[kind]:
        found = ", ".join(["cpu", *(name for name, is_there in there.items() if is_there)])
        raise ValueError(f"device: {device!r} is not on this machine, which has {found}")


def require_dataset(name: object) -> None:
    """Refuse a set of `modalign.data` whose files are not here; other names are the chapter's own.

    Raises:
        FileNotFoundError: says how to get it.
    """
    from modalign import data

    if name in data.SOURCES and (source := data.source(str(name))).folder:
        source.find()


def require_here(values: Mapping[str, object], known: Mapping[str, Parameter]) -> None:
    """Refuse a run whose device or data set this machine does not have.

    Raises:
        ValueError: for the device.
        FileNotFoundError: for the data set.
    """
    require_device(values.get("device"))
    # the default runs everywhere, and a check costs the import of the loaders
    if "dataset" in values and values["dataset"] != known["dataset"].default:
        require_dataset(values["dataset"])


@dataclasses.dataclass(frozen=True)
class Chapter:
    """A chapter in the list: its name, title, and the measured cost of each preset."""

    name: str
    title: str
    costs: dict[str, dict[str, typing.Any] | None]


def chapters(*, root: Folder | None = None) -> list[Chapter]:
    """The chapters of the book, in its order, with the measured cost of each preset.

    >>> "cka" in [chapter.name for chapter in chapters()]
    True
    """
    found = []
    for path in notebooks(book_root(root)):
        cells = read_notebook(path).cells
        heads = re.findall(r"^# +(.+)$", cells[0].source if cells else "", re.MULTILINE)
        title = heads[0].strip() if heads else path.stem
        found.append(Chapter(path.stem, title, costs(path.stem, root=root)))
    return found


def costs_path(chapter: str, root: Folder | None = None) -> Path:
    return notebook_path(chapter, root).parent / "costs" / f"{chapter}.json"


def _read_costs(path: Path) -> dict[str, dict[str, typing.Any]]:
    """The costs in a file; none if there is no file.

    Raises:
        ValueError: if it is not a file of costs.
    """
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        # the shown values are read here once, so that an error names the file
        for cost in held.values():
            cost_text(cost), cost["machine"]["processor"], cost["machine"]["cores"], cost["key"]
            cost["device"], cost["date"][:10]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path}: expected costs as --record-cost writes them; remove it and measure again"
        ) from None
    return held


def _recorded_cost(folder: Path) -> dict[str, typing.Any] | None:
    """The cost of the recorded tables of a chapter together; None if there are none."""
    made: dict[float, dict[str, typing.Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            # two tables of one run carry the time of the run
            made[float(held["seconds"])] = held
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: expected the provenance of a recorded table") from None
    if not made:
        return None
    newest = max(made.values(), key=lambda held: held["date"])
    cost = {name: newest[name] for name in ("machine", "device", "date")}
    return {
        **cost,
        "seconds": sum(made),
        "peak_memory_mib": max(held["peak_memory_mib"] for held in made.values()),
        "current": True,
        "recorded": True,
    }


def costs(chapter: str, *, root: Folder | None = None) -> dict[str, dict[str, typing.Any] | None]:
    """The last known cost of each preset: seconds, MiB and place; None if there is none.

    That of ``default`` is the stamp of the committed outputs; the others are written by
    ``modalign run CHAPTER --preset PRESET --record-cost``. ``current`` says whether it was
    measured on this very source. A preset that makes the recorded tables (``record_seeds`` above
    0) and was not measured has the sum of what those tables took, and says so in ``recorded``.

    Raises:
        ValueError: for an unknown chapter, or a file of costs that is damaged.
    """
    root = book_root(root)
    notebook = notebook_path(chapter, root)
    found: dict[str, dict[str, typing.Any]] = _read_costs(costs_path(chapter, root))
    held, sets = read_notebook(notebook), presets(chapter, root=root)
    if "modalign" in held.metadata:
        found["default"] = dict(held.metadata.modalign)
    keys = {"default": chapter_key(root, notebook)}
    for name, values in sets.items():
        if name in found:
            key = keys.get(name) or run_key(
                held,
                resolve(chapter, {}, name, root=root),
                chapter,
                source_digest(root, chapter, held),
            )
            found[name]["current"] = found[name]["key"] == key
        elif typing.cast(int, values.get("record_seeds", 0)) > 0:
            recorded = _recorded_cost(freshness.tables_folder(root, chapter))
            found |= {name: recorded} if recorded else {}
    return {name: found.get(name) for name in sets}


def cost_text(cost: dict[str, typing.Any] | None) -> tuple[str, str]:
    """Time and memory as the commands and the pages show them.

    >>> cost_text({"seconds": 52.3, "peak_memory_mib": 670, "current": True})
    ('52 s', '670 MiB')
    >>> cost_text({"seconds": 18000, "peak_memory_mib": 670, "recorded": True})
    ('5.0 h for the recorded tables', '670 MiB')
    >>> cost_text(None)
    ('not measured', '')
    """
    if cost is None:
        return "not measured", ""
    seconds = cost["seconds"]
    time = f"{seconds / 3600:.1f} h"
    if seconds < 100:
        time = f"{seconds:.0f} s"
    elif seconds < 2 * 3600:
        time = f"{seconds / 60:.0f} min"
    source = " for the recorded tables" if cost.get("recorded") else ""
    return time + source, f"{cost['peak_memory_mib']:.0f} MiB"


def place_text(cost: Mapping[str, typing.Any]) -> str:
    """Where a cost was measured, as the commands and the pages show it."""
    machine = cost["machine"]
    device = "" if cost["device"] == "cpu" else f", {cost['device']}"
    return f"{machine['processor']}, {machine['cores']} cores{device}"


def digest(files: Mapping[str, Path], *texts: str) -> str:
    """Hash the names and contents of files, and further texts."""
    total = hashlib.sha256(json.dumps(texts).encode())
    for name, path in sorted(files.items()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{name} {content}\n".encode())
    return total.hexdigest()


def source_digest(root: Path, chapter: str, notebook: nbformat.NotebookNode) -> str:
    """Hash the files that a chapter uses beside its notebook, and the versions that it runs on."""
    versions = [
        platform.python_version(),
        *map(str, map(records.library_version, records.LIBRARIES)),
    ]
    return digest(freshness.inputs(root, chapter, notebook), *versions)


def sources(notebook: nbformat.NotebookNode) -> list[list[typing.Any]]:
    """The cells of a notebook as its author wrote them: the kind, the tags and the text of each."""
    return [[cell.cell_type, cell.metadata.get("tags", []), cell.source] for cell in notebook.cells]


def chapter_files(root: Path, notebook: Path) -> dict[str, Path]:
    """The files that the committed outputs of a chapter depend on, but its notebook, by name."""
    found = freshness.inputs(root, notebook.stem, read_notebook(notebook))
    presets = notebook.parent / "presets" / f"{notebook.stem}.yml"
    return found | ({presets.relative_to(root).as_posix(): presets} if presets.is_file() else {})


def chapter_key(root: Path, notebook: Path) -> str:
    """Hash all that the committed outputs of a chapter depend on, and none of the outputs."""
    source = json.dumps(sources(read_notebook(notebook)))
    return digest(chapter_files(root, notebook), notebook.name, source, platform.python_version())


def run_key(
    notebook: nbformat.NotebookNode, values: Mapping[str, Value], chapter: str, source: str
) -> str:
    """The address of a run: a hash of its code cells, all its parameters and the source."""
    code = [
        [cell.metadata.get("tags", []), cell.source]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    content = [chapter, code, sorted(values.items()), source]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def require_costable(preset: str | None, changes: Mapping[str, object]) -> None:
    """Refuse to record the cost of anything but a preset as it is."""
    if preset in (None, "default") or changes:
        raise ValueError(
            "--record-cost: expected a preset other than default and no change to it; the cost of "
            "default is that of the committed outputs, which `make outputs` records"
        )


def write_cost(provenance: Mapping[str, typing.Any], root: Folder | None = None) -> Path:
    """Write the cost of a run as the cost of its preset."""
    path = costs_path(provenance["chapter"], root)
    held = _read_costs(path)
    wanted = ("key", "seconds", "peak_memory_mib", "device", "machine", "commit", "date")
    held[provenance["preset"]] = {name: provenance[name] for name in wanted}
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(held, indent=2, sort_keys=True) + "\n"
    records.write_whole(path, text.encode())
    return path
