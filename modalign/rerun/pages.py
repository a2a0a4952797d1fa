"""Pages: the book's sources gathered in one folder, with the box that reruns each chapter."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import typing
from collections.abc import Mapping

from modalign.course.source import without_markers
from modalign.rerun import inventory
from modalign.rerun.execution import Result, scratch_folder
from modalign.rerun.freshness import written_files
from modalign.rerun.inventory import Folder

if typing.TYPE_CHECKING:
    import nbformat

Path = pathlib.Path
BUILD = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"


def rerun_box(chapter: str, root: Path) -> str:
    """The box under a chapter's parameters: a command to copy, and what it costs."""
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
    """Put the box behind the parameters, or at the end where a chapter has none."""
    import nbformat

    tagged = [
        number
        for number, cell in enumerate(notebook.cells)
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
    ]
    place = tagged[-1] + 1 if tagged else len(notebook.cells)
    notebook.cells.insert(place, nbformat.v4.new_markdown_cell(box, id="rerun-box"))
    return notebook


def gather(root: Path, sources: Mapping[Path, Path], folder: Path) -> None:
    """Copy what the pages are made of into a clean folder.

    Args:
        root: the book.
        sources: for each notebook of the book, the executed one to show.
        folder: where to put them.
    """
    import nbformat

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, folder / name)
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


def build(source: Path, output: Path, *options: str) -> int:
    """Build the pages of a gathered folder in ``output/_build/html``; the exit status."""
    arguments = ["build", source, "--path-output", output, "--all", "-q", *options]
    return subprocess.run([sys.executable, "-c", BUILD, *map(str, arguments)]).returncode


def page(result: Result, *, root: Folder | None = None) -> Path:
    """Render a run as a page, inside the book, so that its references lead somewhere.

    Returns:
        The page, in ``html/`` of the run's folder.

    Raises:
        RuntimeError: where the pages cannot be built.
    """
    folder = inventory.book_root(root)
    shown = {path: path for path in inventory.notebooks(folder)}
    chapter = inventory.notebook_path(result.chapter, folder)
    shown[chapter] = result.notebook
    with scratch_folder() as scratch:
        gather(folder, shown, Path(scratch) / "source")
        if build(Path(scratch) / "source", Path(scratch)) != 0:
            raise RuntimeError(f"page: {result.folder} cannot be rendered: see above")
        target = result.folder / "html"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(scratch) / "_build" / "html", target)
    return (target / chapter.relative_to(folder)).with_suffix(".html").resolve()
