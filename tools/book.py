"""The tools of the book: execute its chapters, keep their outputs, render its pages.

    python tools/book.py execute               run the chapters that changed
    python tools/book.py keep                  copy the executed chapters over notebooks/
    python tools/book.py render [--committed]  make the pages, in _build/html/

The verbs of the Makefile call these. Run it with the Python that the book is installed in. To run a
chapter with other parameters there is `modalign run`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import typing

import nbformat

from modalign import records
from modalign.rerun import execution, inventory, pages
from modalign.rerun.freshness import written_files
from modalign.rerun.inventory import chapter_key, digest
from modalign.rerun.inventory import notebooks as chapters

Path = pathlib.Path
TELL_SECONDS = 30
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CHANGES = "+changes"  # how records.commit marks the commit of an edited checkout
MOST_FILES = 3  # that a cell of the status page names
STATUS_MARK = "% The build writes everything below this line.\n"


def executed_path(root: Path, notebook: Path) -> Path:
    return root / "_build" / "executed" / notebook.name


def stamp(notebook: Path) -> dict[str, typing.Any]:
    """What was recorded when the notebook's outputs were made; empty where nothing was."""
    if not notebook.exists():
        return {}
    return inventory.read_notebook(notebook).metadata.get("modalign", {})


def is_fresh(root: Path, notebook: Path) -> bool:
    return stamp(executed_path(root, notebook)).get("key") == chapter_key(root, notebook)


def git(root: Path, *arguments: str) -> str:
    """What git says of the book.

    Raises:
        RuntimeError: where git refuses; says why.
    """
    done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, encoding="utf-8")
    if done.returncode:
        why = " ".join(done.stderr.split())
        raise RuntimeError(f"git {' '.join(arguments)} refuses: {why:.200}")
    return done.stdout


def uncommitted(root: Path, notebook: Path) -> list[str]:
    """The files behind a chapter that differ from the last commit or are not in it."""
    committed = git(root, "ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0")
    changed = git(root, "diff", "-z", "--name-only", "HEAD").split("\0")
    files = inventory.chapter_files(root, notebook)
    inside = [name for name, path in files.items() if path == root / name]
    found = [name for name in inside if name in changed or name not in committed]
    name = notebook.relative_to(root).as_posix()
    if name in changed:
        # what an author writes there counts: its outputs are what is being made
        before = nbformat.reads(git(root, "show", f"HEAD:{name}"), as_version=4)
        now = inventory.read_notebook(notebook)
        found += [name] if inventory.sources(before) != inventory.sources(now) else []
    elif name not in committed:
        found.append(name)
    return sorted(found)


def commit_stamp(root: Path, notebook: Path) -> dict[str, typing.Any]:
    """The commit of a chapter's source and the files that differ from it; empty without git."""
    if not (root / ".git").exists() or not shutil.which("git"):
        return {}
    try:
        head = git(root, "rev-parse", "--short=12", "HEAD").strip()
    except RuntimeError:
        return {}  # as without git: `records.provenance` says why there is no commit
    changed = uncommitted(root, notebook)
    return {"commit": head + (CHANGES if changed else ""), "uncommitted": changed}


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write one text for one content (sorted keys, indent 1), and never half of it."""
    text = nbformat.writes(notebook, version=4) + "\n"
    try:
        records.write_whole(path, text.encode())
    except OSError as error:
        raise OSError(execution.rescue({path.name: text}, path.parent, error)) from None


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


def execute_chapter(root: Path, notebook: Path, position: int) -> int:
    """Execute one chapter in a kernel of its own; 0 where it ran to its end."""
    target = executed_path(root, notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    failed = target.with_name(f"{notebook.stem}.failed.ipynb")
    key, committed = chapter_key(root, notebook), commit_stamp(root, notebook)
    made = execution.execute(
        inventory.read_notebook(notebook),
        {},
        cwd=root,
        progress={"desc": notebook.stem, "position": position, "disable": None},
    )
    if made.failure:
        write_notebook(made.notebook, failed)
        print(f"\nChapter {notebook.stem} {made.failure}\n\nIts half-run notebook is {failed}")
        return 1
    for text in drop_run_traces(made.notebook):
        print(f"{notebook.stem}: left out of the stored outputs, from stderr:\n{text.rstrip()}")
    made.notebook.metadata["modalign"] = {
        "key": key,
        "seconds": round(made.seconds, 1),
        "peak_memory_mib": round(made.peak_memory_mib),
        **made.made,
        **committed,
    }
    write_notebook(made.notebook, target)
    failed.unlink(missing_ok=True)
    print(f"{notebook.stem}: executed in {made.seconds:.0f} s")
    return 0


def execute(root: Path, jobs: int) -> int:
    """Execute the chapters whose outputs are out of date, each in its own process."""
    environment = {
        **os.environ,
        # chapters run side by side: the number of cores is not to change what they say
        **dict.fromkeys(execution.ONE_THREAD, "1"),
        "MPLCONFIGDIR": str(root / "_build" / "matplotlib"),
    }
    running: dict[subprocess.Popen[str], str] = {}

    def start(notebook: Path, position: int) -> tuple[int, str]:
        command = [sys.executable, __file__, "--root", root, "chapter", notebook, str(position)]
        chapter = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        running[chapter] = notebook.stem
        tell(f"{notebook.stem}: started")
        said = chapter.communicate()[0]
        del running[chapter]
        return chapter.returncode, said

    def tell(text: str) -> None:
        # in a terminal a bar tells how far each chapter is
        if not sys.stderr.isatty():
            print(text, flush=True)

    stale = [notebook for notebook in chapters(root) if not is_fresh(root, notebook)]
    print(f"{len(stale)} of {len(chapters(root))} chapters to execute", flush=True)
    failures = 0
    began = time.monotonic()
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        runs = [pool.submit(start, notebook, n) for n, notebook in enumerate(stale)]
        waiting = set(runs)
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, TELL_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            for run in done:
                if run.cancelled():
                    continue
                code, said = run.result()
                print(said.rstrip(), flush=True)
                if code != 0:
                    failures += 1
                    pool.shutdown(wait=False, cancel_futures=True)
                    # `wait` never returns what a shutdown has cancelled
                    waiting = {each for each in waiting if not each.cancelled()}
            if not done:
                tell(f"{time.monotonic() - began:.0f} s: {', '.join(running.values())} running")
    except BaseException:
        # nothing that waits begins, and what runs ends with its kernel
        pool.shutdown(wait=False, cancel_futures=True)
        for chapter in list(running):
            chapter.terminate()
        raise
    finally:
        pool.shutdown()
    return 1 if failures else 0


def keep(root: Path) -> int:
    """Copy executed chapters over the committed ones."""
    for notebook in chapters(root):
        if not is_fresh(root, notebook):
            print(f"{notebook.stem}: its executed copy is out of date; run: make outputs")
            return 1
        held = inventory.read_notebook(executed_path(root, notebook))
        made = held.metadata["modalign"]
        if (made["commit"] or "").endswith(CHANGES):
            # what was changed then, and is as it was then, may have been committed since
            made.update(commit_stamp(root, notebook))
        write_notebook(held, notebook)
        print(f"kept {notebook.relative_to(root)}")
        if made.get("uncommitted"):
            print(
                f"  made with changes that no commit has: {', '.join(made['uncommitted'])}; its "
                "stamp says so until you commit them and run make outputs again (nothing is "
                "executed twice)"
            )
    return 0


def table(header: str, rows: list[list[typing.Any]]) -> str:
    """A MyST table; the header names its columns, separated by bars."""
    if not rows:
        return "None yet.\n"
    lines = [[header], ["---"] * len(rows[0]), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def origin(record: dict[str, typing.Any], machines: dict[str, str]) -> list[str]:
    """Where and when a record was made, as cells of a table; a machine is named by its number."""
    machine = record["machine"]
    device = "" if record["device"] == "cpu" else f", {record['device']}"
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}{device}"
    number = machines.setdefault(where, str(len(machines) + 1))
    return [number, record["date"][:10], commit_text(record)]


def commit_text(record: dict[str, typing.Any]) -> str:
    """The commit of a record, and in words what differed from it.

    >>> commit_text({"commit": "0a1b2c+changes", "uncommitted": ["modalign/lars.py"]})
    '0a1b2c and changes to `modalign/lars.py` that it lacks'
    """
    commit = record["commit"]
    if not commit:
        return record.get("no_commit", "none")
    if not commit.endswith(CHANGES):
        return commit
    files = [f"`{name}`" for name in record.get("uncommitted", [])]
    more = f" and {len(files) - MOST_FILES} more files" if len(files) > MOST_FILES else ""
    told = ", ".join(files[:MOST_FILES]) or "the package"
    return f"{commit.removesuffix(CHANGES)} and changes to {told}{more} that it lacks"


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
    machines: dict[str, str] = {}
    for notebook, held in stamps.items():
        link = f"{{doc}}`/{notebook.relative_to(root).with_suffix('').as_posix()}`"
        cost = [f"{held['seconds']:.0f}&nbsp;s", f"{held['peak_memory_mib']}&nbsp;MiB"]
        current = "yes" if held["key"] == chapter_key(root, notebook) else "no"
        times.append([link, *cost, *origin(held, machines), current])
    for path in sorted((root / "results").rglob("*.json")):
        name = path.relative_to(root / "results").with_suffix("").as_posix()
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            seeds = held["parameters"].get("seeds", held["parameters"].get("seed", "none"))
            seeds = ", ".join(map(str, seeds)) if isinstance(seeds, list) else seeds
            recorded.append(
                [f"`{name}`", seeds, f"{held['seconds']:.0f}&nbsp;s", *origin(held, machines)]
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: expected the provenance of a recorded table") from None
    where = "Machine | Date | Commit"
    return "\n".join(
        [
            "## Running times\n",
            table(f"Chapter | Time | Peak memory | {where} | Of this source", times),
            "## Machines\n",
            table("Number | Machine", [[number, where] for where, number in machines.items()]),
            "## Versions\n",
            table("Library | Version", versions(stamps)),
            "## Recorded runs\n",
            table(f"Table | Seeds | Time | {where}", recorded),
        ]
    )


def stage(root: Path, notebooks: dict[Path, Path], folder: Path) -> None:
    """Gather the sources of the pages in one clean folder, and write the status page."""
    pages.gather(root, notebooks, folder)
    written = {
        "status.md": lambda: status_tables(root, notebooks),
        "course.md": lambda: proved(root),
    }
    for name, text in written.items():
        path = folder / "book" / name
        if path.exists():
            head = path.read_text(encoding="utf-8").split(STATUS_MARK)[0]
            path.write_text(head + text(), encoding="utf-8")


def proved(root: Path) -> str:
    """The table of the last recorded proof of the course's marker."""
    path = root / "course" / "proof.json"
    if not path.exists():
        return "\nNo run is recorded.\n"
    held = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [name, task, *(f"{each['hold']} of {each['tried']}" for each in found.values())]
        for name, proof in held["assignments"].items()
        for task, found in proof["tasks"].items()
    ]
    damage = [proof["damage"] for proof in held["assignments"].values()]
    attacks, made = held["attacks"], held["made_by"]
    return "\n".join(
        [
            table(
                "Assignment | Task | Bugs found | Alternatives with all marks | Stubs with none",
                rows,
            ),
            "",
            f"Damaged notebooks with all marks: {sum(each['hold'] for each in damage)} of "
            f"{sum(each['tried'] for each in damage)}. Attacks that earned, read and touched "
            f"nothing: {attacks['hold']} of {attacks['tried']}, under {held['containment']}. "
            f"The run took {held['seconds'] / 60:.0f} minutes ({inventory.place_text(made)}, "
            f"{made['date'][:10]}).",
            "",
        ]
    )


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
        *(path for path in [root / "course" / "proof.json"] if path.exists()),
        *written_files(root / "notebooks" / "presets"),
        *written_files(root / "notebooks" / "costs"),
        *notebooks.values(),
    ]
    names = {os.path.relpath(path, root): path for path in files}
    inputs = digest(names, Path(__file__).read_text(encoding="utf-8"), sys.version)
    if done.exists() and done.read_text() == inputs:
        print("The pages are up to date.")
    else:
        # an incremental strict build forgets the warnings of the build before
        for old in (html, output / "_build" / ".doctrees"):
            shutil.rmtree(old, ignore_errors=True)
        print("Rendering the pages", flush=True)
        source = output / "_build" / "source"
        stage(root, notebooks, source)
        if pages.build(source, output, "-W", "--keep-going") != 0:
            print("\nThe pages were not made: see the warnings above; each is an error.")
            return 1
        pages.write_downloads(root, notebooks, html / "_sources")
        done.write_text(inputs)
    print(f"Open {(html / 'index.html').as_uri()}")
    return 0


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description="The tools of the book.")
    top.add_argument(
        "--root", type=Path, default=Path(__file__).parents[1], help="the book's folder"
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("execute", help="execute the chapters that changed")
    verb.add_argument("--jobs", type=positive, default=os.cpu_count(), help="chapters at a time")
    verbs.add_parser("keep", help="copy executed chapters over the committed ones")
    verb = verbs.add_parser("render", help="make the pages, in _build/html/")
    verb.add_argument("--committed", action="store_true", help="of the outputs in notebooks/")
    verb.add_argument("--output", type=Path, help="where to put _build/, the root by default")
    verb = verbs.add_parser("chapter", help="execute one chapter (what execute calls)")
    verb.add_argument("notebook", type=Path)
    verb.add_argument("position", type=int, nargs="?", default=0, help="line of its progress bar")
    return top


def perform(given: argparse.Namespace) -> int:
    root = given.root.resolve()
    if given.verb == "execute":
        return execute(root, given.jobs)
    if given.verb == "keep":
        return keep(root)
    if given.verb == "render":
        return render(root, (given.output or root).resolve(), given.committed)
    return execute_chapter(root, given.notebook.resolve(), given.position)


def main() -> int:
    given = parser().parse_args()

    def leave(number: int, frame: object) -> None:
        # a chapter is told by the terminal and by `execute`; a person may lose patience
        # (SIG_IGN would make Python complain of a signal that has just come)
        for each in SIGNALS:
            signal.signal(each, (lambda *_: None) if given.verb == "chapter" else signal.SIG_DFL)
        raise SystemExit(128 + number)

    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, leave)
    try:
        return perform(given)
    except SystemExit as leaving:
        if given.verb != "chapter":
            print("\nStopped: chapters that were not finished run again at the next call.")
        return int(leaving.code or 0)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"book: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
