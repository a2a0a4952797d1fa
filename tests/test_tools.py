"""tools/book.py, on a tiny book written here."""

import errno
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import nbformat
import pandas as pd
import psutil
import pytest

from modalign import records

TOOL = pathlib.Path(__file__).parents[1] / "tools" / "book.py"
CONFIG = """
title: tiny
only_build_toc_files: true
execute: {execute_notebooks: "off"}
"""


def load_tool():
    spec = importlib.util.spec_from_file_location("book_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def write_chapter(path, *sources):
    cells = [nbformat.v4.new_markdown_cell(f"# Chapter {path.stem}")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    cells[1].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    held = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(held, path)


def write_book(root, **chapters):
    for name, sources in chapters.items():
        write_chapter(root / "notebooks" / f"{name}.ipynb", *sources)
    files = {
        "_config.yml": CONFIG,
        "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n- file: book/status\n"
        + "".join(f"- file: notebooks/{name}\n" for name in chapters),
        "book/intro.md": "# Tiny\n\nA page.\n",
        "book/status.md": f"# Status\n\n{tool.STATUS_MARK}Nothing yet.\n",
        "modalign/method.py": "value = 1\n",
        "notebooks/presets/good.yml": "smoke: {seed: 1}\n",
        "results/README.md": "# Runs\n",
        "constraints.txt": "torch==2.4.0\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    runs = pd.DataFrame({"seed": [0, 1]})
    records.save(runs, "tiny/map", parameters={"seeds": [5, 6]}, seconds=7, folder=root / "results")
    return root


def book(root, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, str(TOOL), "--root", str(root), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,  # one that waits for ever fails
    )
    return done.returncode, done.stdout + done.stderr


GOOD = (
    "seed = 0  # chance",
    "import sys, pathlib\nprint('to the log', file=sys.stderr)\n"
    "if seed:\n    from modalign import method, records\n    records.load('tiny/map')",
    "print(seed, pathlib.Path.cwd().name)",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A book whose one chapter was executed, under a user's own kernel that does not work."""
    root = write_book(tmp_path_factory.mktemp("books") / "tiny", good=GOOD)
    kernel = root.parent / "user" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "no"}))
    code, said = book(root, "execute", JUPYTER_DATA_DIR=str(kernel.parents[1]))
    assert code == 0, said
    assert "to the log" in said
    return root


def test_an_executed_chapter_carries_its_stamp_and_no_trace_of_the_machine(tiny):
    path = tiny / "_build" / "executed" / "good.ipynb"
    held = nbformat.read(path, as_version=4)
    assert held.cells[2].outputs == []
    assert held.cells[3].outputs == [
        nbformat.v4.new_output("stream", name="stdout", text="0 tiny\n")
    ]
    assert {"key", "seconds", "peak_memory_mib", "commit", "libraries"} <= set(
        held.metadata.modalign
    )
    text = path.read_text()
    assert "papermill" not in text
    assert str(tiny) not in text
    assert json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n" == text
    assert not list(path.parent.glob(".*"))


def test_a_second_call_executes_nothing(tiny):
    (tiny / "modalign" / "method.py").touch()
    code, said = book(tiny, "execute")
    assert code == 0
    assert "0 of 1 chapters to execute" in said


@pytest.mark.parametrize(
    "name",
    [
        "modalign/method.py",
        "notebooks/presets/good.yml",
        "results/tiny/map.csv",
        "constraints.txt",
        "notebooks/good.ipynb",
    ],
)
def test_an_edit_makes_the_chapter_stale_until_it_is_undone(tiny, name):
    notebook, edited = tiny / "notebooks" / "good.ipynb", tiny / name
    assert tool.is_fresh(tiny, notebook)
    before = edited.read_bytes()
    if edited == notebook:
        write_chapter(notebook, *GOOD, "# a comment")
    else:
        edited.write_text(before.decode() + "# edited\n")
    assert not tool.is_fresh(tiny, notebook)
    edited.write_bytes(before)
    assert tool.is_fresh(tiny, notebook)


def test_an_edited_page_does_not_make_a_chapter_stale(tiny):
    (tiny / "book" / "intro.md").write_text("# Tiny\n\nAnother text.\n")
    (tiny / "results" / "README.md").write_text("# Other runs\n")
    assert tool.is_fresh(tiny, tiny / "notebooks" / "good.ipynb")


def test_executed_outputs_are_kept_only_while_they_are_of_this_source(tmp_path, tiny):
    root = shutil.copytree(tiny, tmp_path / "copy")
    executed = root / "_build" / "executed" / "good.ipynb"
    assert book(root, "keep")[0] == 0
    assert (root / "notebooks" / "good.ipynb").read_bytes() == executed.read_bytes()
    (root / "modalign" / "method.py").write_text("value = 2\n")
    code, said = book(root, "keep")
    assert code == 1
    assert "good: its executed copy is out of date" in said
    code, said = book(root, "render")
    assert code == 1
    assert "good changed since last executed" in said


def test_a_failing_cell_stops_the_build_and_is_reported_each_time(tmp_path):
    bad = ("seed = 0", "def deep():\n    raise ValueError('no such thing')", "deep()", "seed = 1")
    root = write_book(tmp_path, good=GOOD, bad=bad)
    for calls in range(2):
        code, said = book(root, "execute", "--jobs", 2)
        assert code == 1
        assert f"{2 - calls} of 2 chapters" in said
        assert "Chapter bad stopped at cell 4 of 5" in said
        assert "    deep()\n" in said
        assert "ValueError: no such thing" in said
        half_run = root / "_build" / "executed" / "bad.failed.ipynb"
        assert str(half_run) in said
        assert "no such thing" in half_run.read_text()
        assert not (root / "_build" / "executed" / "bad.ipynb").exists()
    assert tool.is_fresh(root, root / "notebooks" / "good.ipynb")

    write_chapter(root / "notebooks" / "bad.ipynb", "seed = 0")
    assert book(root, "execute")[0] == 0
    assert not half_run.exists()


def test_chapters_that_wait_behind_a_failing_one_do_not_keep_the_build(tmp_path):
    later = {f"later_{n}": GOOD for n in range(3)}
    root = write_book(tmp_path, bad=("seed = 0", "1 / 0"), **later)
    code, said = book(root, "execute", "--jobs", 1)
    assert code == 1
    assert "ZeroDivisionError" in said
    assert "later_2: executed" not in said


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(3)", "Kernel died"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_kernel_that_leaves_early_is_a_failure(tmp_path, source, reason):
    root = write_book(tmp_path, bad=("seed = 0", source, "seed = 1"))
    code, said = book(root, "execute")
    assert code == 1
    assert "Chapter bad stopped at cell 3 of 4" in said
    assert reason in said


SLOW = (
    "seed = 0",
    "import os, pathlib, subprocess, time\n"
    "child = subprocess.Popen(['sleep', '600'])\n"
    "pathlib.Path(f'{os.getpid()}.pids').write_text(f'{os.getpid()} {child.pid}')",
    "while True: time.sleep(0.1)",
)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)]
)
def test_an_interrupt_starts_nothing_and_leaves_nothing(tmp_path, number, to_all):
    root = write_book(tmp_path / "book", a=SLOW, b=SLOW, c=SLOW, d=SLOW)
    scratch = tmp_path / "t"
    scratch.mkdir()
    command = [sys.executable, TOOL, "--root", root, "execute", "--jobs", "2"]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    making = subprocess.Popen(command, env=environment, start_new_session=True, **options)
    while len(list(root.glob("*.pids"))) < 2:
        assert making.poll() is None, making.stdout.read()
        time.sleep(0.1)
    # a terminal tells all its processes, `kill` only one
    os.killpg(making.pid, number) if to_all else making.send_signal(number)
    told = time.monotonic()
    said = making.communicate(timeout=60)[0]
    assert time.monotonic() - told < 20
    assert making.returncode == 128 + number
    assert said.splitlines()[0] == "4 of 4 chapters to execute"
    assert said.count(": started") == 2
    assert said.rstrip().splitlines()[-1].startswith("Stopped: ")
    assert "Traceback" not in said, said
    assert len(said.split()) < 30
    pids = [int(pid) for path in root.glob("*.pids") for pid in path.read_text().split()]
    assert len(pids) == 4
    assert not [pid for pid in pids if alive(pid)]
    assert not list(scratch.glob("modalign-*"))
    assert not list((root / "_build" / "executed").iterdir())


def test_without_a_terminal_lines_tell_what_runs(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tool, "TELL_SECONDS", 0.5)
    root = write_book(tmp_path, good=("seed = 0", "import time; time.sleep(1)"))
    assert tool.execute(root, 1) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == ["1 of 1 chapters to execute", "good: started"]
    assert lines[2].endswith(" s: good running")
    assert lines[-1].startswith("good: executed in ")


def test_an_executed_chapter_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    held = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    full, room = tmp_path / "full", tmp_path / "with room"
    full.mkdir()
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    monkeypatch.setattr(os, "fsync", full_below(full))
    with pytest.raises(OSError, match="No space left on device.* MiB free") as caught:
        tool.write_notebook(held, full / "good.ipynb")
    assert list(full.iterdir()) == []
    (kept,) = room.glob("modalign-rescued-*/good.ipynb")
    move = str(caught.value).split("then: ")[1]
    subprocess.run(move, shell=True, check=True)
    assert nbformat.read(full / "good.ipynb", as_version=4).cells[0].source == "1"
    assert not kept.exists()


def full_below(folder):
    """An ``os.fsync`` on whose disk no more fits below a folder."""

    def fsync(number):
        if pathlib.Path(f"/proc/self/fd/{number}").resolve().is_relative_to(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fsync


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_jobs_are_a_number_of_processes(tiny, jobs):
    code, said = book(tiny, "execute", "--jobs", jobs)
    assert code == 2
    assert f"expected 1 or more, got '{jobs}'" in said


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("_toc.yml", "- 1\n", "_toc.yml: expected a mapping with the key root"),
        ("notebooks/good.ipynb", "{", "good.ipynb: not a notebook"),
        ("_build/executed/good.ipynb", "[]", "good.ipynb: not a notebook"),
        ("results/tiny/map.json", "[]", "map.json: expected the provenance"),
    ],
)
def test_a_file_of_another_shape_is_named_in_a_line(tmp_path, tiny, name, text, problem):
    root = shutil.copytree(tiny, tmp_path / "copy")
    (root / name).write_text(text)
    code, said = book(root, "render", *([] if name.startswith("_build") else ["--committed"]))
    assert code == 1
    line = said.replace("Rendering the pages\n", "")
    assert line.startswith("book: ")
    assert problem in line
    assert len(line.splitlines()) == 1


def test_pages_are_made_once_and_again_when_a_page_changes(tiny):
    page = tiny / "_build" / "html" / "book" / "intro.html"
    intro = tiny / "book" / "intro.md"
    intro.write_text("# Tiny\n\nThe first text.\n")
    assert book(tiny, "render")[0] == 0
    assert "The first text." in page.read_text()
    assert (tiny / "_build" / "html" / "index.html").exists()
    status = (tiny / "_build" / "html" / "book" / "status.html").read_text()
    assert "Chapter good" in status
    assert "tiny/map" in status
    assert "5, 6" in status
    assert "torchmetrics" in status
    assert "Nothing yet." not in status

    code, said = book(tiny, "render")
    assert code == 0
    assert "up to date" in said

    intro.write_text("# Tiny\n\nThe second text.\n")
    assert book(tiny, "render")[0] == 0
    assert "The second text." in page.read_text()


def test_a_warning_fails_the_pages_each_time_until_it_is_mended(tiny):
    intro = tiny / "book" / "intro.md"
    intro.write_text("# Tiny\n\nSee {doc}`nowhere`.\n")
    for _ in range(2):
        code, said = book(tiny, "render")
        assert code == 1
        assert "nowhere" in said
        assert "up to date" not in said
    intro.write_text("# Tiny\n\nMended.\n")
    assert book(tiny, "render")[0] == 0
