"""The tools of the book: execute its chapters, keep their outputs, render its pages.

    python tools/book.py execute               run the chapters that changed
    python tools/book.py keep                  copy the executed chapters over notebooks/
    python tools/book.py render [--committed]  make the pages, in _build/html/
    python tools/book.py run cka --preset smoke -p seed 3 -o out.ipynb

The verbs of the Makefile call these. Run it with the Python that the book is installed in.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
import typing
from collections.abc import Iterable, Iterator

import nbformat
import yaml

Path = pathlib.Path
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
STATUS_MARK = "% The build writes everything below this line.\n"


def chapters(root: Path) -> list[Path]:
    """The notebooks of the table of contents, in its order."""

    def names(node: typing.Any) -> Iterator[str]:
        if isinstance(node, list):
            for child in node:
                yield from names(child)
        elif isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            yield from names([child for child in node.values() if not isinstance(child, str)])

    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found = (root / f"{name.removesuffix('.ipynb')}.ipynb" for name in names(contents))
    return [path for path in found if path.exists()]


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


def digest(root: Path, files: Iterable[Path], *texts: str) -> str:
    """Hash the names and contents of files, and further texts."""
    total = hashlib.sha256(json.dumps(texts).encode())
    for path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()


def chapter_key(root: Path, notebook: Path) -> str:
    """Hash all that a chapter's outputs depend on, and none of the outputs."""
    cells = nbformat.read(notebook, as_version=4).cells
    source = [[cell.cell_type, cell.metadata.get("tags", []), cell.source] for cell in cells]
    files = [
        *written_files(root / "modalign", "*.py"),
        *written_files(root / "notebooks" / "presets"),
        *written_files(root / "results"),
        *root.glob("constraints.txt"),
    ]
    return digest(root, files, notebook.name, json.dumps(source), platform.python_version())


def executed_path(root: Path, notebook: Path) -> Path:
    return root / "_build" / "executed" / notebook.name


def stamp(notebook: Path) -> dict[str, typing.Any]:
    """What was recorded when the notebook's outputs were made; empty where nothing was."""
    if not notebook.exists():
        return {}
    return nbformat.read(notebook, as_version=4).metadata.get("modalign", {})


def is_fresh(root: Path, notebook: Path) -> bool:
    return stamp(executed_path(root, notebook)).get("key") == chapter_key(root, notebook)


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write one text for one content (sorted keys, indent 1), and never half of it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(nbformat.writes(notebook, version=4) + "\n", encoding="utf-8")
    scratch.replace(path)


def drop_run_traces(notebook: nbformat.NotebookNode) -> list[str]:
    """Drop time stamps, paths and what was written to stderr; return the latter."""
    notebook.metadata.pop("papermill", None)
    dropped = []
    for cell in notebook.cells:
        for trace in ("papermill", "execution"):
            cell.metadata.pop(trace, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            dropped += [output.text for output in cell.outputs if output.get("name") == "stderr"]
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return dropped


def failure_report(chapter: str, half_run: Path, reason: str) -> str:
    """Say which cell stopped a chapter, what it holds and what it raised."""
    cells = [
        cell
        for cell in nbformat.read(half_run, as_version=4).cells
        if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    started = [n for n, c in enumerate(cells) if c.metadata.get("papermill", {}).get("start_time")]
    number = started[-1] if started else 0
    cell = cells[number]
    errors = [o for o in cell.get("outputs", []) if o.output_type == "error"]
    traceback = "\n".join(errors[0].traceback) if errors else reason
    lines = re.sub(r"\x1b\[[0-9;]*m", "", traceback).splitlines()
    return "\n".join(
        [
            f"\nChapter {chapter} stopped at cell {number + 1} of {len(cells)}, which reads:\n",
            *(f"    {line}" for line in cell.source.splitlines()),
            "\nand raised:\n",
            *(f"    {line}" for line in lines[-30:]),
            f"\nIts half-run notebook is {half_run}",
        ]
    )


def execute_chapter(root: Path, notebook: Path, position: int) -> int:
    """Execute one chapter in a kernel of its own; 0 where it ran to its end."""
    import nbclient.exceptions
    import papermill.exceptions

    from modalign.records import provenance

    target = executed_path(root, notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    running = target.with_name(f".running-{notebook.name}")
    failed = target.with_name(f"{notebook.stem}.failed.ipynb")
    key = chapter_key(root, notebook)
    bar = {"desc": notebook.stem, "position": position, "disable": None}
    started = time.perf_counter()
    reason = ""
    try:
        papermill.execute_notebook(
            notebook,
            running,
            kernel_name="python3",
            cwd=root,
            progress_bar=bar,
            # else every kernel warns that it talks over a local socket
            extra_arguments=["--log-level=40"],
        )
    except (papermill.exceptions.PapermillExecutionError, nbclient.exceptions.DeadKernelError) as e:
        reason = str(e)
    seconds = time.perf_counter() - started
    executed = nbformat.read(running, as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    if not reason and any(cell.execution_count is None for cell in code):
        reason = "the kernel was told to exit before the last cell"
    if reason:
        running.replace(failed)
        print(failure_report(notebook.stem, failed, reason))
        return 1
    for text in drop_run_traces(executed):
        print(f"{notebook.stem}: left out of the stored outputs, from stderr:\n{text.rstrip()}")
    executed.metadata["modalign"] = {
        "key": key,
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(
            resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            / (2**20 if sys.platform == "darwin" else 2**10)
        ),
        **provenance(),
    }
    write_notebook(executed, target)
    running.unlink()
    failed.unlink(missing_ok=True)
    print(f"{notebook.stem}: executed in {seconds:.0f} s")
    return 0


def execute(root: Path, jobs: int) -> int:
    """Execute the chapters whose outputs are out of date, each in its own process."""
    environment = {
        **os.environ,
        **dict.fromkeys(ONE_THREAD, "1"),
        # this environment's kernel and no start-up file of the user's decide the outputs
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(root / "_build" / "ipython"),
        "MPLCONFIGDIR": str(root / "_build" / "matplotlib"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }

    def start(notebook: Path, position: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, __file__, "--root", root, "chapter", notebook, str(position)]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)

    stale = [notebook for notebook in chapters(root) if not is_fresh(root, notebook)]
    print(f"{len(stale)} of {len(chapters(root))} chapters to execute", flush=True)
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(start, notebook, n) for n, notebook in enumerate(stale)]
        for run in concurrent.futures.as_completed(runs):
            if run.cancelled():
                continue
            print(run.result().stdout.rstrip(), flush=True)
            if run.result().returncode != 0:
                failures += 1
                for other in runs:
                    other.cancel()
    return 1 if failures else 0


def keep(root: Path) -> int:
    """Copy executed chapters over the committed ones."""
    for notebook in chapters(root):
        if not is_fresh(root, notebook):
            print(f"{notebook.stem}: its executed copy is out of date; run: make outputs")
            return 1
        write_notebook(nbformat.read(executed_path(root, notebook), as_version=4), notebook)
        print(f"kept {notebook.relative_to(root)}")
    return 0


def table(header: str, rows: list[list[typing.Any]]) -> str:
    """A MyST table; the header names its columns, separated by bars."""
    if not rows:
        return "None yet.\n"
    lines = [[header], ["---"] * len(rows[0]), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def origin(record: dict[str, typing.Any]) -> list[str]:
    """Where and when a record was made, as cells of a table."""
    machine = record["machine"]
    device = "" if record["device"] == "cpu" else f", {record['device']}"
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}{device}"
    return [where, record["date"][:10], record["commit"] or "none"]


def versions(stamps: dict[Path, dict[str, typing.Any]]) -> list[list[str]]:
    """One row a library; where the chapters differ, each version with its chapters."""
    users: dict[str, dict[str, list[str]]] = {}
    for notebook, held in stamps.items():
        used = {"Python": held["python"], "modalign": held["version"], **held["libraries"]}
        for library, version in used.items():
            users.setdefault(library, {}).setdefault(version, []).append(notebook.stem)
    rows = []
    for library, used in users.items():
        told = [f"{version} ({', '.join(names)})" for version, names in used.items()]
        rows.append([library, *used] if len(used) == 1 else [library, ", ".join(told)])
    return rows


def status_tables(root: Path, notebooks: dict[Path, Path]) -> str:
    """What the stamps of the chapters and of the recorded runs say, as tables."""
    stamps = {n: stamp(source) for n, source in notebooks.items() if "key" in stamp(source)}
    times, recorded = [], []
    for notebook, held in stamps.items():
        link = f"{{doc}}`/{notebook.relative_to(root).with_suffix('').as_posix()}`"
        cost = [f"{held['seconds']:.0f}&nbsp;s", f"{held['peak_memory_mib']}&nbsp;MiB"]
        current = "yes" if held["key"] == chapter_key(root, notebook) else "no"
        times.append([link, *cost, *origin(held), current])
    for path in sorted((root / "results").rglob("*.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        name = path.relative_to(root / "results").with_suffix("").as_posix()
        seeds = held["parameters"].get("seeds", held["parameters"].get("seed", "none"))
        seeds = ", ".join(map(str, seeds)) if isinstance(seeds, list) else seeds
        recorded.append([f"`{name}`", seeds, f"{held['seconds']:.0f}&nbsp;s", *origin(held)])
    where = "Machine | Date | Commit"
    return "\n".join(
        [
            "## Running times\n",
            table(f"Chapter | Time | Peak memory | {where} | Of this source", times),
            "## Versions\n",
            table("Library | Version", versions(stamps)),
            "## Recorded runs\n",
            table(f"Table | Seeds | Time | {where}", recorded),
        ]
    )


def stage(root: Path, notebooks: dict[Path, Path], folder: Path) -> None:
    """Gather the sources of the pages in one clean folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, folder / name)
    for page in written_files(root / "book"):
        target = folder / page.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, target)
    for notebook, source in notebooks.items():
        target = folder / notebook.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    status = folder / "book" / "status.md"
    if status.exists():
        head = status.read_text(encoding="utf-8").split(STATUS_MARK)[0]
        status.write_text(head + status_tables(root, notebooks), encoding="utf-8")


def render(root: Path, output: Path, committed: bool) -> int:
    """Make the pages in ``output/_build/html``; any warning is an error.

    Nothing is done where no input changed since the last success.
    """
    notebooks = {n: n if committed else executed_path(root, n) for n in chapters(root)}
    late = [n.stem for n in notebooks if not committed and not is_fresh(root, n)]
    if late:
        print(f"render: {', '.join(late)} changed since last executed; run: make book")
        return 1
    html = output / "_build" / "html"
    done = html / ".inputs"
    files = [
        root / "_config.yml",
        root / "_toc.yml",
        *written_files(root / "book"),
        *written_files(root / "modalign", "*.py"),
        *written_files(root / "results"),
        *notebooks.values(),
    ]
    inputs = digest(root, files, Path(__file__).read_text(encoding="utf-8"), sys.version)
    if done.exists() and done.read_text() == inputs:
        print("The pages are up to date.")
    else:
        # an incremental strict build forgets the warnings of the build before
        for old in (html, output / "_build" / ".doctrees"):
            shutil.rmtree(old, ignore_errors=True)
        source = output / "_build" / "source"
        stage(root, notebooks, source)
        build = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
        options = ["build", source, "--path-output", output, "--all", "-W", "--keep-going", "-q"]
        if subprocess.run([sys.executable, "-c", build, *options]).returncode != 0:
            print("\nThe pages were not made: see the warnings above; each is an error.")
            return 1
        done.write_text(inputs)
    print(f"Open {(html / 'index.html').as_uri()}")
    return 0


def run(root: Path, chapter: str, preset: str, changes: list[list[str]], output: Path) -> int:
    """Run one chapter with a preset and further changes, into a notebook of its own."""
    import papermill

    notebook = root / "notebooks" / f"{chapter}.ipynb"
    presets = yaml.safe_load((notebook.parent / "presets" / f"{chapter}.yml").read_text())
    if preset not in presets:
        print(f"run: {chapter} has no preset {preset!r}, only {', '.join(presets)}")
        return 1
    parameters = {**presets[preset], **{name: yaml.safe_load(text) for name, text in changes}}
    unknown = set(parameters) - set(papermill.inspect_notebook(str(notebook)))
    if unknown:
        print(f"run: {chapter} has no parameter {', '.join(sorted(unknown))}")
        return 1
    papermill.execute_notebook(notebook, output, parameters, kernel_name="python3", cwd=root)
    print(f"Wrote {output}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument(
        "--root", type=Path, default=Path(__file__).parents[1], help="the book's folder"
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("execute", help="execute the chapters that changed")
    verb.add_argument("--jobs", type=int, default=os.cpu_count(), help="chapters at a time")
    verbs.add_parser("keep", help="copy executed chapters over the committed ones")
    verb = verbs.add_parser("render", help="make the pages, in _build/html/")
    verb.add_argument("--committed", action="store_true", help="of the outputs in notebooks/")
    verb.add_argument("--output", type=Path, help="where to put _build/, the root by default")
    verb = verbs.add_parser("run", help="run one chapter with other parameters")
    verb.add_argument("chapter", help="such as cka")
    verb.add_argument("--preset", default="default", help="a key of notebooks/presets/CHAPTER.yml")
    verb.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    verb.add_argument("-o", "--output", type=Path, required=True, help="notebook to write")
    verb = verbs.add_parser("chapter", help="execute one chapter (what execute calls)")
    verb.add_argument("notebook", type=Path)
    verb.add_argument("position", type=int, help="line of its progress bar")
    return top


def main() -> int:
    given = parser().parse_args()
    root = given.root.resolve()
    if given.verb == "execute":
        return execute(root, given.jobs)
    if given.verb == "keep":
        return keep(root)
    if given.verb == "render":
        return render(root, (given.output or root).resolve(), given.committed)
    if given.verb == "run":
        return run(root, given.chapter, given.preset, given.p, given.output)
    return execute_chapter(root, given.notebook, given.position)


if __name__ == "__main__":
    sys.exit(main())
