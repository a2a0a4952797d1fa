"""A chapter for any notebook program: MyST's markup turned into plain Markdown, numbers in place.

The pages render roles and directives. JupyterLab, VS Code and a forge show them as they are typed.
A plain copy has equations in dollars, values in place of glue, names in place of references,
drawings within it, and the numbers and captions of its figures.
"""

from __future__ import annotations

import base64
import copy
import functools
import html
import pathlib
import re
import typing
from collections.abc import Iterator, Mapping

import nbformat

from modalign.course.source import without_markers
from modalign.rerun import inventory
from modalign.rerun._yaml import read_yaml

Path = pathlib.Path
ROLE = re.compile(r"\{([\w:]+)\}`([^`]*)`")
FENCE = re.compile(r"^(`{3,}|:{3,})\{([\w:-]+)\} ?(.*)$")
OPTION = re.compile(r"^:([\w-]+): ?(.*)$")
TARGET = re.compile(r"^\(([\w-]+)\)=$")
LABELLED = re.compile(r"^\$\$ \(([\w-]+)\)$")
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


class Names(typing.NamedTuple):
    """The texts that replace references of a book.

    Attributes:
        labels: the text of each label: an equation's or a figure's number, a section's or an
            exercise's title.
        pages: the title of each page, by its path without suffix.
        works: authors and year of each work in the bibliography.
        macros: the text of each command that the book defines, and its number of arguments.
    """

    labels: Mapping[str, str]
    pages: Mapping[str, str]
    works: Mapping[str, tuple[str, str]]
    macros: Mapping[str, tuple[str, int]]


class Directive(typing.NamedTuple):
    """A fenced block: ``name`` and ``argument`` of its first line, options, and body."""

    name: str
    argument: str
    options: dict[str, str]
    body: list[str]


def names(root: Path) -> Names:
    """The targets of references in a book; read again if one of its files has changed."""
    files = [root / "_config.yml", root / "book" / "references.bib", *inventory.notebooks(root)]
    files += sorted((root / "book").rglob("*.md"))
    there = [each for each in files if each.exists()]
    return _names(root, tuple((each, each.stat().st_mtime_ns) for each in there))


@functools.lru_cache(maxsize=1)
def _names(root: Path, files: tuple[tuple[Path, int], ...]) -> Names:
    labels: dict[str, str] = {}
    titles = {}
    for page in sorted((root / "book").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        titles[page.relative_to(root).with_suffix("").as_posix()] = _title(text)
    numbers = _chapter_numbers(root / "_toc.yml")
    for path in inventory.notebooks(root):
        held = inventory.read_notebook(path)
        name = path.relative_to(root).with_suffix("").as_posix()
        texts = [cell.source for cell in held.cells if cell.cell_type == "markdown"]
        titles[name] = _title("\n".join(texts))
        found = [*_labels(texts), *_figures(held, numbers.get(name))]
        for label, text in found:
            labels.setdefault(label, text)
    return Names(
        labels, titles, _works(root / "book" / "references.bib"), _macros(root / "_config.yml")
    )


def _title(text: str) -> str:
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1] if found else ""


def _chapter_numbers(contents: Path) -> dict[str, int]:
    """The number of each page in the numbered parts of a book, which are numbered through."""
    held = read_yaml(contents)
    parts = [part for part in held.get("parts", []) if part.get("numbered")]
    pages = [each["file"] for part in parts for each in part["chapters"]]
    return {page.removesuffix(".ipynb"): number for number, page in enumerate(pages, 1)}


def _labels(texts: list[str]) -> Iterator[tuple[str, str]]:
    """Every label of a chapter but a figure's, with the text that a reference to it becomes."""
    equations = exercises = 0
    lines = [line for text in texts for line in text.splitlines()]
    for place, line in enumerate(lines):
        if target := TARGET.match(line):
            heading = next((each for each in lines[place:] if each.startswith("#")), "")
            yield target[1], heading.lstrip("# ")
        elif equation := LABELLED.match(line):
            equations += 1
            yield equation[1], f"({equations})"
        elif (fence := FENCE.match(line)) and fence[2] == "exercise":
            found, _ = _block(lines, place)
            exercises += 1
            yield found.options["label"], f"Exercise {exercises} ({found.argument})"


def _figures(notebook: nbformat.NotebookNode, chapter: int | None) -> Iterator[tuple[str, str]]:
    """The number of every figure that has a name, drawn by a directive or by a cell.

    The pages count those with a name or a caption, in a numbered chapter within it.
    """
    number = 0
    for cell in notebook.cells:
        shown = [_figure(cell)]
        if cell.cell_type == "markdown":
            lines = cell.source.splitlines()
            places = [place for place, line in enumerate(lines) if FENCE.match(line)]
            blocks = [_block(lines, place)[0] for place in places]
            shown = [(b.options.get("name", ""), b.body) for b in blocks if b.name == "figure"]
        for name, caption in shown:
            number += bool(name or caption)
            if name:
                yield name, "the figure" if chapter is None else f"Fig. {chapter}.{number}"


def _figure(cell: nbformat.NotebookNode) -> tuple[str, list[str]]:
    """The name of what a cell of code draws, and the lines of its caption; empty without."""
    given = cell.metadata.get("mystnb", {}).get("figure", {})
    return given.get("name", ""), given.get("caption", "").splitlines()


def _macros(path: Path) -> dict[str, tuple[str, int]]:
    if not path.exists():
        return {}
    held = read_yaml(path) or {}
    for name in ("sphinx", "config", "mathjax3_config", "tex", "macros"):
        held = held.get(name) or {}
    return {
        name: (each, 0) if isinstance(each, str) else tuple(each) for name, each in held.items()
    }


def _works(path: Path) -> dict[str, tuple[str, str]]:
    from pybtex.database import parse_file

    from modalign.rerun import bibliography

    if not path.exists():
        return {}
    works = parse_file(str(path)).entries.items()
    return {key: (bibliography.names(entry), entry.fields["year"]) for key, entry in works}


def plain(
    notebook: nbformat.NotebookNode,
    values: Mapping[str, typing.Any],
    known: Names,
    folder: Path,
) -> nbformat.NotebookNode:
    """A copy of an executed chapter that reads well without MyST.

    Markup that the book does not use, and references that lead nowhere, stay as they are typed.

    Args:
        notebook: with its outputs.
        values: glued by it, by name.
        known: of :func:`names`.
        folder: where the chapter stands, to find its drawings.
    """
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        cell.source = without_markers(cell.source)
        if cell.cell_type == "markdown":
            attached: dict[str, Path] = {}
            lines = _render(cell.source.splitlines(), known, values, attached)
            cell.source = "\n".join(lines).strip("\n")
            for name, path in attached.items():
                if path.suffix not in MEDIA or not (folder / path).is_file():
                    # a run is not lost for a picture: the link stays as it was typed
                    cell.source = cell.source.replace(f"attachment:{name}", path.as_posix())
                    continue
                data = base64.b64encode((folder / path).read_bytes()).decode("ascii")
                cell.setdefault("attachments", {})[name] = {MEDIA[path.suffix]: data}
    made.cells = [cell for cell in made.cells if cell.cell_type == "code" or cell.source]
    made.cells = [each for cell in made.cells for each in (cell, *_caption(cell, known, values))]
    return made


def _caption(
    cell: nbformat.NotebookNode, known: Names, values: Mapping[str, typing.Any]
) -> list[nbformat.NotebookNode]:
    """What stands below a figure that a cell draws: in the notebook it is metadata."""
    name, lines = _figure(cell)
    if not lines:
        return []
    text = "\n".join(_numbered(name, _render(lines, known, values, {}), known))
    below = nbformat.v4.new_markdown_cell(text)
    below.pop("id", None)
    if "id" in cell:
        below["id"] = f"{cell.id:.56}-caption"  # the same in every copy
    return [below]


def _numbered(name: str, caption: list[str], known: Names) -> list[str]:
    """A caption behind the number of its figure, where it has one."""
    return [f"**{known.labels[name]}**", *caption] if name in known.labels else caption


def _block(lines: list[str], start: int) -> tuple[Directive, int]:
    """The directive whose fence is at ``start``, and the line behind it."""
    fence = FENCE.match(lines[start])
    assert fence
    mark = fence[1]
    closing = (n for n in range(start + 1, len(lines)) if lines[n].rstrip() == mark)
    end = next(closing, len(lines))  # one that is never closed goes to the end, as in MyST
    body = lines[start + 1 : end]
    options = {}
    while body and (option := OPTION.match(body[0])):
        options[option[1]] = option[2]
        body = body[1:]
    return Directive(fence[2], fence[3], options, body), end + 1


def _render(
    lines: list[str], known: Names, values: Mapping[str, typing.Any], attached: dict[str, Path]
) -> list[str]:
    made: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        if FENCE.match(line):
            found, end = _block(lines, place)
            made += _directive(found, known, values, attached) or lines[place:end]
            place = end
            continue
        if line.startswith("```"):  # code is left as it is
            closing = (n for n in range(place + 1, len(lines)) if lines[n].startswith("```"))
            end = next(closing, len(lines))
            made += lines[place : end + 1]
            place = end + 1
            continue
        place += 1
        if equation := LABELLED.match(line):
            made += [*_tag(equation[1], known), "$$"]
        elif not TARGET.match(line):
            made.append(_expand(_roles(line, known, values), known))
    return made


def _directive(
    found: Directive,
    known: Names,
    values: Mapping[str, typing.Any],
    attached: dict[str, Path],
) -> list[str]:
    def within() -> list[str]:
        return _render(found.body, known, values, attached)

    name = found.name
    if name == "code-block":
        return [f"```{found.argument}", *found.body, "```"]
    if name in ("image", "figure"):
        path = Path(found.argument)
        attached[path.name] = path
        alt = html.escape(found.options.get("alt", ""), quote=False)
        caption = _numbered(found.options.get("name", ""), within(), known)
        return [f"![{alt}](attachment:{path.name})", "", *caption]
    if name == "exercise":
        title = known.labels.get(found.options.get("label", ""), found.argument)
        return [f"**{title}**", "", *within()]
    if name == "hint":
        return ["<details>", "<summary>Hint</summary>", "", *within(), "", "</details>"]
    if name == "solution-start":
        return [f"**Solution to {known.labels.get(found.argument, found.argument)}**"]
    if name == "solution-end":
        return [""]
    if name == "admonition":
        title = _roles(found.argument, known, values)
        return [f"> **{title}**", ">", *(f"> {line}".rstrip() for line in within())]
    return []


def _tag(label: str, known: Names) -> list[str]:
    number = known.labels.get(label, "").strip("()")
    return [f"\\tag{{{number}}}"] if number else []


def _roles(line: str, known: Names, values: Mapping[str, typing.Any]) -> str:
    return ROLE.sub(lambda found: _role(found, known, values), line)


def _role(found: re.Match[str], known: Names, values: Mapping[str, typing.Any]) -> str:
    """The text of a role; itself, if the book has nothing of that name."""
    as_typed, role, content = found[0], found[1], found[2]
    titled = re.fullmatch(r"(.*\S)\s*<(.+)>", content)
    text, target = (titled[1], titled[2]) if titled else ("", content)
    if role == "glue:text":
        name, _, form = content.partition(":")
        return format(values[name], form) if name in values else as_typed
    if role in ("eq", "ref"):
        return text or known.labels.get(target, as_typed)
    if role == "doc":
        page = target.lstrip("/").removeprefix("../")
        title = known.pages.get(page) or known.pages.get(f"notebooks/{page}")
        return text or (f"“{title}”" if title else as_typed)
    keys = [key.strip() for key in content.split(",")]
    if role not in ("cite:t", "cite:p") or not known.works.keys() >= set(keys):
        return as_typed
    works = [known.works[key] for key in keys]
    if role == "cite:t":
        return ", ".join(f"{who} ({year})" for who, year in works)
    return "(" + "; ".join(f"{who}, {year}" for who, year in works) + ")"


def _expand(line: str, known: Names) -> str:
    r"""Write out the book's own commands, which other programs do not know.

    >>> known = Names({}, {}, {}, {"norm": (r"\lVert #1 \rVert", 1), "R": (r"\mathbb{R}", 0)})
    >>> _expand(r"$\norm{x_{i}} \in \R$", known)
    '$\\lVert x_{i} \\rVert \\in \\mathbb{R}$'
    """
    for name, (template, number) in known.macros.items():
        start = 0
        while found := re.compile(rf"\\{name}(?![A-Za-z])").search(line, start):
            end, written = found.end(), template
            for argument in range(1, number + 1):
                content, end = _argument(line, end)
                written = written.replace(f"#{argument}", content)
            line = line[: found.start()] + written + line[end:]
            start = found.start()
    return line


def _argument(line: str, start: int) -> tuple[str, int]:
    """The text in the braces that open at ``start``, and the place behind them."""
    depth = 0
    for place in range(start, len(line)):
        depth += {"{": 1, "}": -1}.get(line[place], 0)
        if depth == 0:
            return line[start + 1 : place], place + 1
    raise ValueError(f"expected braces that close, got {line[start:]!r}")
