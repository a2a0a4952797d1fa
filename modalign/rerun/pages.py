"""Pages: the book's sources gathered in one folder, with the box that reruns each chapter."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import typing
from collections.abc import Mapping

import yaml

from modalign import records
from modalign.course.source import without_markers
from modalign.rerun import inventory, publishing, reading
from modalign.rerun.execution import Result, glued, scratch_folder
from modalign.rerun.freshness import written_files
from modalign.rerun.inventory import Folder

if typing.TYPE_CHECKING:
    import nbformat

Path = pathlib.Path
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Names of the browser that prints the pages, and that tests look at them with."""
BUILD = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"


def browser() -> str | None:
    """Where the first of :data:`BROWSERS` is; None if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def rerun_box(chapter: str, root: Path) -> str:
    """The box under a chapter's parameters: a command to copy, and its cost."""
    known = inventory.parameters(chapter, root=root)
    change = " -p seed 1" if "seed" in known else ""
    costs = inventory.costs(chapter, root=root)
    rows = []
    for preset, cost in costs.items():
        time, memory = inventory.cost_text(cost)
        old = "" if cost is None or cost["current"] else " (older source)"
        rows.append(f"| `{preset}` | {time}{old} | {memory} |")
    places = sorted({inventory.place_text(cost) for cost in costs.values() if cost})
    return "\n".join(
        [
            "````{admonition} Rerun this chapter",
            ":class: tip",
            "",
            "```bash",
            f".venv/bin/modalign run {chapter} --preset default{change}",
            "```",
            "",
            f"`.venv/bin/modalign show {chapter}` lists the parameters, "
            f"`.venv/bin/modalign sweep {chapter}` runs a grid of them.",
            "",
            "| Preset | Time | Peak memory |",
            "|---|---|---|",
            *rows,
            "",
            f"Measured on: {'; '.join(places)}." if places else "",
            "````",
        ]
    )


def with_box(notebook: nbformat.NotebookNode, box: str) -> nbformat.NotebookNode:
    """Put the box behind the parameters, or at the end if a chapter has none."""
    import nbformat

    tagged = [
        number
        for number, cell in enumerate(notebook.cells)
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
    ]
    place = tagged[-1] + 1 if tagged else len(notebook.cells)
    notebook.cells.insert(place, nbformat.v4.new_markdown_cell(box, id="rerun-box"))
    return notebook


def configuration(root: Path) -> publishing.Config:
    """The settings of ``_config.yml``.

    Raises:
        ValueError: if it is not a mapping.
    """
    held = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise ValueError(f"_config.yml: expected a mapping, got {type(held).__name__}")
    return held


def gather(root: Path, sources: Mapping[Path, Path], folder: Path) -> None:
    """Copy the sources of the pages into a clean folder.

    Args:
        root: the book.
        sources: for each notebook of the book, the executed one to show.
        folder: where to put them.
    """
    import nbformat

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(root / "_toc.yml", folder / "_toc.yml")
    config = publishing.with_buttons(configuration(root))
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / "_config.yml").write_text(text, encoding="utf-8")
    for page in written_files(root / "book"):
        target = folder / page.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, target)
    for notebook, source in sources.items():
        target = folder / notebook.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        held = with_box(inventory.read_notebook(source), rerun_box(notebook.stem, root))
        for cell in held.cells:
            cell.source = without_markers(cell.source)
        nbformat.write(held, target)


def write_downloads(root: Path, sources: Mapping[Path, Path], folder: Path) -> None:
    """Write the file of each page's download button: the chapter, for any notebook program.

    Args:
        root: the book.
        sources: for each notebook of the book, the executed one to give.
        folder: ``_sources`` of the pages.
    """
    import nbformat

    from modalign.rerun import plain

    known = plain.names(root)
    for notebook, source in sources.items():
        held = inventory.read_notebook(source)
        made = plain.plain(held, glued(held), known, notebook.parent)
        text = nbformat.writes(made, version=4) + "\n"
        records.write_whole(folder / notebook.relative_to(root), text.encode())


def build(source: Path, output: Path, *options: str) -> int:
    """Build the pages of a gathered folder in ``output/_build/html``; the exit status."""
    arguments = ["build", source, "--path-output", output, "--all", "-q", *options]
    status = subprocess.run([sys.executable, "-c", BUILD, *map(str, arguments)]).returncode
    if status == 0:
        html = output / "_build" / "html"
        reading.write_excerpts(html)
        publishing.announce(html, configuration(source))
    return status


def page(result: Result, *, root: Folder | None = None) -> Path:
    """Render a run as a page, inside the book, so that its references lead somewhere.

    Returns:
        The page, in ``html/`` of the run's folder.

    Raises:
        RuntimeError: if the pages cannot be built.
    """
    folder = inventory.book_root(root)
    shown = {path: path for path in inventory.notebooks(folder)}
    chapter = inventory.notebook_path(result.chapter, folder)
    shown[chapter] = result.notebook
    with scratch_folder() as scratch:
        gather(folder, shown, Path(scratch) / "source")
        if build(Path(scratch) / "source", Path(scratch)) != 0:
            raise RuntimeError(f"page: {result.folder} cannot be rendered: see above")
        html = Path(scratch) / "_build" / "html"
        write_downloads(folder, shown, html / "_sources")
        target = result.folder / "html"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(html, target)
    return (target / chapter.relative_to(folder)).with_suffix(".html").resolve()
