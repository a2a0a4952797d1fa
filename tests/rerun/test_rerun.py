"""Chapters, their parameters, and single runs: on a tiny chapter written here."""

import errno
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

import nbformat
import psutil
import pytest

from modalign import cli, rerun
from modalign.rerun import execution, inventory, pages
from modalign.rerun.inventory import Parameter

NASTY = [
    'he said "no"',
    "it's",
    '"""',
    "two\nlines\r\n\ttab",
    "back\\slash \\n \\",
    "Ünï©ode 模態 🎬 \u2028",
    "/a path/with spaces/{seed}/$HOME/~",
    "0; import os",
    "'); import os; os._exit(1) #",
    "{__import__('os').getcwd()}",
    "",
]


# what can be changed


def test_parameters_are_read_with_kind_default_help_and_range(tiny_book):
    tiny_book()
    found = rerun.parameters("tiny")
    assert found["seed"] == Parameter("seed", "int", 0, "of the draw", "0 or more")
    assert found["notes"] == Parameter("notes", "list of str", ["a"], "shown as they are", "any")
    assert found["fast"] == Parameter("fast", "bool", True, "read by nobody", "")
    assert found["optimizer"].choices == ["adam", "lars", "sgd"]
    assert found["seed"].choices == found["note"].choices == []


@pytest.mark.parametrize(
    ("kind", "limits", "text", "value"),
    [
        ("int", "0 or more", "3", 3),
        ("int", "1 to 5", "5", 5),
        ("int", "2, 4 or 8", "4", 4),
        ("float", "0 or more", "1", 1.0),
        ("float", "above 0 and 1 or less", "1e-3", 0.001),
        ("bool", "", "false", False),
        ("bool", "", "True", True),
        ("str", "any", "True", "True"),
        ("list of int", "1 or more", "[1, 2]", [1, 2]),
        ("list of float", "1 or more", "(1, 2.5)", [1.0, 2.5]),
        ("list of str", "any", "['a']", ["a"]),
    ],
)
def test_a_value_is_read_as_its_kind(kind, limits, text, value):
    found = Parameter("p", kind, value, "", limits).parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "limits", "text"),
    [
        ("int", "0 or more", "-1"),
        ("int", "0 or more", "1.0"),
        ("int", "0 or more", "1e3"),
        ("int", "0 or more", "True"),
        ("int", "0 or more", "0; import os"),
        ("int", "0 or more", "__import__('os')"),
        ("int", "0 or more", "1" + "+1" * 5000),
        ("int", "0 or more", ""),
        ("int", "2, 4 or 8", "3"),
        ("float", "1 or less", "1.5"),
        ("float", "above 0", "0"),
        ("float", "below 1", "1"),
        ("float", "any", "1e999"),
        ("float", "any", "nan"),
        ("float", "any", "'1'"),
        ("bool", "", "1"),
        ("bool", "", "yes"),
        ("str", "adam or lars", "sgd"),
        ("list of int", "1 or more", "[1, 0]"),
        ("list of int", "1 or more", "[1, 2.0]"),
        ("list of int", "1 or more", "1"),
        ("int", "0 or more", str(2**63)),
        ("int", "any", str(-(2**63))),
        ("list of int", "any", f"[{2**63}]"),
        ("int", "any", "9" * 5000),
        ("int", "any", "0x" + "f" * 5000),
        ("float", "any", "1" + "0" * 400),
        ("float", "any", "0x" + "f" * 5000),
        ("str", "any", "caf\udce9"),
        ("list of str", "any", r"['caf\udce9']"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(kind, limits, text):
    with pytest.raises(ValueError, match=f"p: expected {kind}"):
        Parameter("p", kind, 0, "", limits).parse(text)


def test_a_seed_is_one_that_every_library_takes():
    seed = Parameter("seed", "int", 0, "", "0 or more")
    assert seed.check(2**32 - 1) == 2**32 - 1
    with pytest.raises(ValueError, match="seed: .*got 4294967296; the largest .* is 4294967295"):
        seed.check(2**32)


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        ("float", "1e-3", "got '1e-3', a text; in YAML write 1.0e-3"),
        ("float", "1.5E3", "got '1.5E3', a text; in YAML write 1.5e+3"),
        ("list of float", ["-2e5"], "got '-2e5', a text; in YAML write -2.0e+5"),
        ("float", "0.1", "got '0.1', a text"),
        ("str", False, "got False; in YAML a text that looks like something else stands in quotes"),
        ("list of str", [1], "got 1; in YAML a text"),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_told_how_to_write(kind, value, hint):
    with pytest.raises(ValueError, match=f"^p: expected {kind}, ") as caught:
        Parameter("p", kind, 0, "", "any").check(value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "p = None  # nothing; any",
        "p = (1, 2)  # a tuple; any",
        "p = []  # empty; any",
        "p = [1, 'a']  # mixed; any",
        "p = len('a')  # computed; any",
        "p = q = 1  # two; any",
        "p = 1  # no range; sometimes",
        "p = 1  # a typo; 0 or mroe",
        "p = 0  # outside; 1 or more",
        "p: int = 1  # annotated; any",
        "import os",
        "p = 'a'  # a text; 0 or more",
        "p = 1  # one; any\np = 2  # the other; any",
        "p = {[]: 1}  # no literal; any",
        "p = (",
        "p = '",
        "p = \x00",
        "p += 1",
        "a.p = 1",
        "p = " + "(" * 500,
    ],
)
def test_a_parameters_cell_that_breaks_the_contract_is_refused(tiny_book, line):
    tiny_book(parameters={"seed": f"0\n{line}"})
    with pytest.raises(ValueError, match="tiny: parameters cell"):
        rerun.parameters("tiny")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("smoke: {sede: 1}\n", "preset smoke: parameter: there is no 'sede'.*mean 'seed'"),
        ("smoke: {seed: -1}\n", r"preset smoke: seed: expected int \(0 or more\), got -1"),
        ("smoke: {note: 1}\n", "preset smoke: note: expected str, got 1"),
        ("- smoke\n", r"tiny.yml: expected a mapping of presets by name, got \['smoke'\]"),
        ("text", "tiny.yml: expected a mapping of presets by name, got 'text'"),
        ("smoke:\n", r"preset smoke: expected a mapping .* \{\} for none, got None"),
        ("smoke: [seed]\n", r"preset smoke: expected a mapping .*got \['seed'\]"),
        ("1: {}\n", "expected the name of a preset, got 1"),
        ("smoke: {1: 2}\n", "preset smoke: parameter: there is no 1,"),
        ("smoke: {seed: 1, seed: 2}\n", "tiny.yml: line 1: seed is given twice"),
        ("smoke: {rate: 1e-3}\n", "preset smoke: rate: .*in YAML write 1.0e-3"),
        ("smoke: {seed: 010}\n", "tiny.yml: line 1: 010 is another number"),
        ("smoke: {", "tiny.yml: line 1: "),
    ],
)
def test_presets_are_held_against_the_parameters(tiny_book, text, problem):
    tiny_book(presets=text)
    with pytest.raises(ValueError, match=problem):
        rerun.presets("tiny")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "_toc.yml: expected a mapping with the key root, got None"),
        ("- notebooks/tiny\n", "_toc.yml: expected a mapping with the key root"),
        ("root: 3\n", "_toc.yml: root: expected a path, got 3"),
        ("root: notebooks/tiny\nchapters:\n- file: [a]\n", "_toc.yml: file: expected a path"),
        ("root: notebooks/tiny\nchapters:\n- file: tiny\n", "are chapters of one name"),
        ("root: [", "_toc.yml: line 1: "),
    ],
)
def test_a_table_of_contents_of_another_shape_is_refused(tiny_book, text, problem):
    root = tiny_book()
    (root / "tiny.ipynb").write_bytes((root / "notebooks" / "tiny.ipynb").read_bytes())
    (root / "_toc.yml").write_text(text)
    with pytest.raises(ValueError, match=problem):
        rerun.chapters()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"caf\xe9",
        b'{"nbformat": 4}',
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 1}',
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}',
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
        b'{"nbformat": "4", "nbformat_minor": 5, "metadata": {}, "cells": []}',
        b'{"nbformat": 4, "nbformat_minor": "5", "metadata": {}, "cells": []}',
        b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("command", [["list"], ["show", "tiny"], ["run", "tiny"]])
def test_a_chapter_that_is_no_notebook_is_named_in_a_line(tiny_book, capsys, content, command):
    root = tiny_book()
    (root / "notebooks" / "tiny.ipynb").write_bytes(content)
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("modalign: ")
    assert "notebooks/tiny.ipynb: not a notebook: " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"smoke": 1}', '{"smoke": {"seconds": "a"}}'])
def test_a_file_of_costs_of_another_shape_is_refused(tiny_book, text):
    root = tiny_book()
    (root / "notebooks" / "costs").mkdir()
    (root / "notebooks" / "costs" / "tiny.json").write_text(text)
    with pytest.raises(ValueError, match="costs/tiny.json: expected costs"):
        rerun.costs("tiny")


def test_a_preset_that_makes_the_tables_costs_what_they_took(tiny_book, capsys):
    cost = {"machine": {"processor": "P", "cores": 2}, "device": "cpu", "peak_memory_mib": 7.0}
    made = {
        "a": (4000.0, "2026-01-02"),
        "a-too": (4000.0, "2026-01-02"),
        "b": (5000.0, "2026-01-01"),
    }
    parameters = {"seed": "0  # a draw; 0 or more", "record_seeds": "0  # of tables; 0 or more"}
    root = tiny_book(parameters=parameters, presets="gpu: {record_seeds: 5}\npaper: {seed: 1}\n")
    (root / "results" / "tiny").mkdir(parents=True)
    for name, (seconds, date) in made.items():
        held = {**cost, "seconds": seconds, "date": date}
        (root / "results" / "tiny" / f"{name}.json").write_text(json.dumps(held))
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    assert "gpu         2.5 h for the recorded tables, 7 MiB (P, 2 cores, 2026-01-02)" in said
    assert "paper       not measured" in said


def test_the_book_is_found_from_below_or_an_error_says_where_to_stand(tiny_book, monkeypatch):
    root = tiny_book()
    monkeypatch.chdir(root / "notebooks" / "presets")
    assert rerun.book_root() == root.resolve()
    with pytest.raises(FileNotFoundError, match="in a checkout of the book"):
        rerun.book_root(root / "notebooks")
    monkeypatch.setattr("modalign.__file__", str(root.parent / "site" / "modalign" / "a.py"))
    monkeypatch.chdir(root.parent)
    with pytest.raises(FileNotFoundError, match="beside the package; the chapters are not"):
        rerun.book_root()


# one run


def test_a_run_leaves_notebook_results_and_provenance(tiny_book, tmp_path):
    tiny_book()
    result = rerun.run("tiny", {"rate": 0}, preset="smoke", output=tmp_path / "out")
    assert result.ok
    assert result.values["tiny-text"] == "0.1 [0.0, 0.2]"
    assert result.parameters["rate"] == 0.0
    assert result.parameters["seed"] == 3
    assert {path.name for path in result.folder.iterdir()} == {
        "notebook.ipynb",
        "reading.ipynb",
        "results.json",
        "provenance.json",
    }
    held = json.loads((result.folder / "provenance.json").read_text())
    wanted = {"key", "source", "preset", "commit", "version", "libraries", "machine", "device"}
    assert wanted <= set(held)
    assert held["changed"] == {"seed": 3, "rate": 0.0}
    assert held["seconds"] > 0
    # the kernel's own memory: not that of this process, which has loaded torch
    assert 10 < held["peak_memory_mib"] < 150
    assert (
        nbformat.read(result.notebook, as_version=4)
        .cells[2]
        .source.endswith("seed = 3\nrate = 0.0\n")
    )
    assert "tiny-value" in str(result)
    assert "<td>tiny-value</td>" in result._repr_html_()
    assert not [path for path in result.folder.parent.iterdir() if ".tiny" in path.name]


def test_the_same_run_is_found_and_not_made_again(tiny_book, tmp_path):
    tiny_book()
    first = rerun.run("tiny", {"seed": 3}, output=tmp_path)
    before = first.folder.stat()
    again = rerun.run("tiny", preset="smoke", output=tmp_path)  # the same by another name
    assert again.folder == first.folder
    assert again.folder.stat() == before
    assert (first.found, again.found) == (False, True)
    events = [line["event"] for line in execution.journal(first.name, tmp_path)]
    assert events == ["started", "finished"]


def test_a_changed_chapter_parameter_or_source_is_another_run(tiny_book):
    def key(**changes):
        return execution.plans("tiny", [changes])[0].key

    root = tiny_book()
    keys = {key(), key(seed=1), key(rate=1)}
    (root / "constraints.txt").write_text("torch==0\n")
    keys.add(key())
    tiny_book("# a comment")
    keys.add(key())
    assert len(keys) == 5
    assert key(rate=1) == key(rate=1.0)


def test_any_text_stays_data(tiny_book, tmp_path):
    tiny_book()
    result = rerun.run("tiny", {"note": "\n".join(NASTY), "notes": NASTY}, output=tmp_path)
    assert result.values["tiny-notes"] == ["\n".join(NASTY), *NASTY]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tinny"], "chapter: there is no 'tinny', only tiny; did you mean 'tiny'?"),
        (["tiny", "-p", "sede", "1"], "parameter: there is no 'sede'"),
        (["tiny", "-p", "seed", "0; import os"], "seed: expected int (0 or more), got '0; imp"),
        (["tiny", "-p", "seed", "1", "--seed", "2"], "seed: given twice"),
        (
            ["tiny", "--preset", "smoek"],
            "tiny: preset: there is no 'smoek', only default, smoke; did",
        ),
        (["tiny", "--device", "mps"], "device: 'mps' is not on this machine"),
        (["tiny", "--device", "gpu"], "device: expected str (cpu, cuda or mps), got 'gpu'"),
        (["tiny", "--record-cost"], "--record-cost: expected a preset other than default"),
        (["tiny", "--timeout", "0"], "timeout: expected a number of seconds above 0, got 0.0"),
        (["tiny", "-p", "seed=18446744073709551616"], "seed: expected int (0 or more), got 1844"),
        (["tiny", "-p", "seed=1", "-p", "seed", "2"], "seed: given twice"),
        (["tiny", "-p", "note", "caf\udce9"], r"note: expected str, got 'caf\udce9', which is not"),
        (["tiny", "-p", "dataset", "esc10"], "esc10: its files do not come with the book"),
        (["tiny", "-o", "_toc.yml/runs"], "output: cannot write _toc.yml/runs: Not a dir"),
        (["tiny", "-o", "/proc/runs"], "output: cannot write /proc/runs"),
        (["tiny", "-o", "loop/runs"], "output: cannot write loop/runs"),
    ],
)
def test_what_cannot_run_is_refused_before_a_kernel_starts(
    tiny_book, monkeypatch, capsys, arguments, problem
):
    monkeypatch.delenv("MODALIGN_DATA", raising=False)
    lines = {"seed": "0  # a draw; 0 or more", "note": '"a"  # shown; any'}
    lines |= {"device": '"cpu"  # where; cpu, cuda or mps'}
    lines |= {"dataset": '"shapes"  # what is read; shapes, esc10 or mine'}
    (tiny_book(parameters=lines) / "loop").symlink_to("loop")
    monkeypatch.setattr(execution, "execute", lambda *_, **__: pytest.fail("a kernel started"))
    assert cli.main(["run", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"modalign: {problem}")


def test_a_failing_cell_is_shown_and_its_notebook_kept(tiny_book, capsys):
    root = tiny_book("def deep():\n    raise ValueError('no such thing')", "deep()", "seed = 1")
    for _ in range(2):
        assert cli.main(["run", "tiny"]) == 1
        said = capsys.readouterr().out
        assert "stopped at cell 5 of 6" in said
        assert "    deep()\n" in said
        assert "ValueError: no such thing" in said
    (kept,) = (root / "runs").glob("tiny-*")
    assert kept.name.endswith(".failed")
    assert "no such thing" in (kept / "notebook.ipynb").read_text()
    assert f"Its notebook is {kept / 'notebook.ipynb'}" in said
    found = rerun.Result(kept)
    assert (found.failure.reason, found.failure.cell) == ("error", 5)
    assert found.values["tiny-text"] == "0.1 [0.0, 0.2]"


@pytest.mark.parametrize(
    ("source", "reason", "message"),
    [
        ("import os; os._exit(3)", "died", "Kernel died"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "died", "Kernel died"),
        ("raise SystemExit(0)", "error", "SystemExit: 0"),
    ],
)
def test_a_kernel_that_leaves_is_a_failure(tiny_book, tmp_path, source, reason, message):
    tiny_book(source, "seed = 1")
    found = rerun.run("tiny", output=tmp_path)
    assert not found.ok
    assert (found.failure.reason, found.failure.cell) == (reason, 4)
    assert found.failure.message.startswith(message)
    assert nbformat.read(found.notebook, as_version=4).cells[3].source == source


def test_a_cell_that_hangs_is_ended_with_all_it_started(tiny_book, tmp_path):
    pids = tmp_path / "pids"
    hang = f"""
import os, signal, subprocess
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
while True: pass
"""
    tiny_book(hang)
    found = rerun.run("tiny", output=tmp_path, timeout=6)
    assert found.failure.reason == "timeout"
    assert "not done within its 6 s" in str(found)
    left = [pid for pid in map(int, pids.read_text().split()) if psutil.pid_exists(pid)]
    assert not [pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MPLBACKEND", "Agg"),
        ("PYTHONOPTIMIZE", "2"),
        ("PYTHONWARNINGS", "error::DeprecationWarning"),
    ],
)
def test_a_run_does_not_depend_on_the_shell(tiny_book, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    tiny_book(
        "try:\n    assert False\nexcept AssertionError:\n    keep('asserts', 1)",
        "import warnings\nwarnings.warn('IProgress not found. Please update')",
        "%matplotlib inline\nimport matplotlib.pyplot as plt; plt.plot([0, 1]);"
        if name != "MPLBACKEND"
        else "import matplotlib.pyplot as plt; plt.plot([0, 1]);",
    )
    found = rerun.run("tiny", output=tmp_path)
    assert found.values["asserts"] == 1
    outputs = [o for c in nbformat.read(found.notebook, as_version=4).cells[3:] for o in c.outputs]
    assert ["image/png" in o.get("data", {}) for o in outputs] == [False, True]


def test_output_that_is_lost_fails_the_run_and_keeps_it(tiny_book, tmp_path):
    lossy = """
kernel = get_ipython().kernel
send = kernel.session.send
def lossy(stream, kind, content=None, *rest, **more):
    if kind == "status" and content["execution_state"] == "idle":
        kernel.session.send = send
        return None
    return send(stream, kind, content, *rest, **more)
kernel.session.send = lossy
"""
    tiny_book(lossy, "seed = 1")
    found = rerun.run("tiny", output=tmp_path)
    assert (found.failure.reason, found.failure.cell) == ("lost", 4)
    assert "output did not arrive" in str(found)
    assert found.values["tiny-text"] == "0.1 [0.0, 0.2]"


def test_output_faster_than_it_is_read_is_not_lost(tiny_book, tmp_path):
    tiny_book("for i in range(3000):\n    display(i)")
    found = rerun.run("tiny", output=tmp_path)
    assert found.ok
    outputs = nbformat.read(found.notebook, as_version=4).cells[3].outputs
    assert [int(each.data["text/plain"]) for each in outputs] == list(range(3000))


def test_a_run_that_finds_no_room_is_kept_elsewhere(tiny_book, tmp_path, monkeypatch):
    tiny_book()
    room = tmp_path / "with room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    write = execution._write

    def full(path, text):
        if path.is_relative_to(tmp_path / "out"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, text)

    monkeypatch.setattr(execution, "_write", full)
    with pytest.raises(OSError, match="out/tiny-.*: No space left.*MiB free") as caught:
        rerun.run("tiny", output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".locks"]
    subprocess.run(str(caught.value).split("then: ")[1], shell=True, check=True)
    monkeypatch.undo()
    assert rerun.run("tiny", output=tmp_path / "out", root=tmp_path / "book").found
    assert not list(room.iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_process_and_no_folder(
    tiny_book, tmp_path, command_environment, number, status
):
    pids = tmp_path / "pids"
    hang = f"""
import os, subprocess
child = subprocess.Popen(["sleep", "600"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}} ")
while True: pass
"""
    tiny_book(hang)
    (tmp_path / "t").mkdir()
    environment = {**command_environment, "TMPDIR": str(tmp_path / "t")}
    command = [sys.executable, "-m", "modalign", "run", "tiny", "-o", str(tmp_path / "out")]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (pids.exists() and pids.read_text().endswith(" ")):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(number)
    said = running.communicate(timeout=30)[1]
    assert running.returncode == status
    assert "Traceback" not in said
    left = [pid for pid in map(int, pids.read_text().split()) if psutil.pid_exists(pid)]
    assert not [pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not list((tmp_path / "t").iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".locks"]


def test_what_killed_processes_left_in_the_temporary_folder_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kill = "from modalign.rerun import execution; import os; s = execution.scratch_folder(); "
    kill += "s.__enter__(); os.kill(os.getpid(), 9)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", kill], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "modalign-mine").mkdir()
    os.utime(tmp_path / "modalign-mine", (1, 1))
    with execution.scratch_folder() as ours:
        os.utime(ours, (1, 1))
        with execution.scratch_folder() as too:
            names = {path.name for path in tmp_path.iterdir()}
            assert names == {os.path.basename(ours), os.path.basename(too), "modalign-mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["modalign-mine"]


def test_a_full_disk_leaves_nothing_half_and_says_so(tiny_book, tmp_path, command_environment):
    tiny_book("print('x' * 400_000)")
    command = [sys.executable, "-m", "modalign", "run", "tiny", "-o", str(tmp_path / "out")]

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    options = {"env": command_environment, "capture_output": True, "text": True}
    done = subprocess.run(command, preexec_fn=little_room, **options)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".locks"]
    assert subprocess.run(command, **options).returncode == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", '{"tiny-value": 0.1'),
        ("results.json", "{}\n"),
        ("provenance.json", ""),
        ("provenance.json", "[]"),
        ("notebook.ipynb", '{"cells": ['),
    ],
)
def test_a_truncated_file_is_noticed(tiny_book, tmp_path, name, text):
    tiny_book()
    result = rerun.run("tiny", output=tmp_path)
    (result.folder / name).write_text(text)
    assert execution.finished(result.folder) is None
    with pytest.raises(ValueError, match="is damaged"):
        rerun.Result(result.folder)


def test_a_damaged_run_is_made_again(tiny_book, tmp_path):
    tiny_book()
    result = rerun.run("tiny", output=tmp_path)
    os.truncate(result.folder / "results.json", 20)
    assert rerun.run("tiny", output=tmp_path).values == result.values
    os.remove(result.folder / "notebook.ipynb")
    assert rerun.run("tiny", output=tmp_path).values == result.values


def test_links_in_the_output_path_are_followed_but_never_removed_with_their_target(
    tiny_book, tmp_path
):
    tiny_book()
    elsewhere, precious = tmp_path / "elsewhere", tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / "link").symlink_to(elsewhere)
    name = execution.plans("tiny", [{}])[0].name
    elsewhere.mkdir()
    (elsewhere / name).symlink_to(precious)
    result = rerun.run("tiny", output=tmp_path / "link")
    assert result.folder == elsewhere / name
    assert not result.folder.is_symlink()
    assert (precious / "file").exists()


def test_a_run_that_another_process_makes_is_left_to_it(tiny_book, tmp_path):
    import filelock

    tiny_book()
    folder = execution.output_folder(tmp_path)
    name = execution.plans("tiny", [{}])[0].name
    with (
        filelock.FileLock(folder / execution.LOCKS / f"{name}.lock"),
        pytest.raises(RuntimeError, match="another process is making it"),
    ):
        rerun.run("tiny", output=tmp_path)


def test_what_a_killed_process_left_is_cleared(tiny_book, tmp_path):
    tiny_book()
    name = execution.plans("tiny", [{}])[0].name
    (tmp_path / f".{name}.0123abcd").mkdir()
    (tmp_path / f".{name}.0123abcd" / "notebook.ipynb").write_text("{")
    rerun.run("tiny", output=tmp_path)
    assert not list(tmp_path.glob(".tiny*"))


def test_a_run_works_inside_a_notebook(tiny_book, tmp_path):
    root = tiny_book()
    cell = f"from modalign import rerun\nrerun.run('tiny', output={str(tmp_path)!r})"
    outer = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    made = execution.execute(outer, {}, cwd=root)
    assert made.failure is None
    (shown,) = [out for out in made.notebook.cells[0].outputs if "data" in out]
    assert "<td>tiny-value</td>" in shown.data["text/html"]


@pytest.mark.parametrize(
    "value",
    [
        *(math.nan, math.inf, -math.inf),
        {"float": "float32"},
        {"float": "nan"},
        {"float": math.nan},
        {"dict": []},
        {"dict": [["float", "nan"]]},
        [{"dict": {"float": {"dict": 1}}}],
        {"float": 1, "b": 2},
    ],
)
def test_what_json_has_no_word_for_survives_in_it(value):
    for held in (value, {"a": value}, {"float": value}):
        text = json.dumps(execution._strict(held), allow_nan=False)
        assert repr(json.loads(text, object_hook=execution._unstrict)) == repr(held)


def test_whatever_a_chapter_glues_can_be_read_again(tiny_book, tmp_path):
    tiny_book(
        "keep('precision', {'float': 'float32'})",
        "keep('large', 10**4000)",
        "import sys; sys.set_int_max_str_digits(0); keep('huge', 10**9000)",
        "keep('keys', {1: 'a', '1': 'b'})",
        "class Deep:\n    def __repr__(self): return '(' * 9000 + ')' * 9000\nkeep('deep', Deep())",
        "keep('float', float('nan'))",
        "keep('odd', '\\ud800')",
        "keep('types', {'a': b'c', 'd': (1, {2}), None: 1j})",
    )
    first = rerun.run("tiny", output=tmp_path)
    assert first.ok
    found = rerun.run("tiny", output=tmp_path)
    assert found.found
    assert found.values["precision"] == {"float": "float32"}
    assert found.values["large"] == 10**4000
    assert found.values["huge"] == "1" + "0" * 9000
    assert found.values["keys"] == "{1: 'a', '1': 'b'}"
    assert math.isnan(found.values["float"])
    assert "tiny-value" in str(found)


# the commands


def test_list_and_show_tell_everything(tiny_book, capsys):
    tiny_book()
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    assert "tiny          A tiny chapter\n" in said
    assert "smoke       not measured" in said
    assert cli.main(["show", "tiny"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "rate = 0.1 type float, 0 or more help what is added" in said
    assert "optimizer = 'adam' type str, adam, lars or sgd help a choice" in said
    assert "smoke: not measured seed = 3" in said


def test_a_measured_cost_is_shown_until_the_source_changes(tiny_book, capsys):
    root = tiny_book()
    assert cli.main(["run", "tiny", "--preset", "smoke", "--record-cost"]) == 0
    assert (root / "notebooks" / "costs" / "tiny.json").exists()
    capsys.readouterr()
    cli.main(["list"])
    said = capsys.readouterr().out
    assert re.search(r"smoke       \d+ s, \d+ MiB \(", said)
    assert "older source" not in said
    tiny_book("# another version")
    cli.main(["list"])
    assert "older source" in capsys.readouterr().out
    box = pages.rerun_box("tiny", root)
    assert "modalign run tiny --preset default -p seed 1" in box
    assert "| `default` | not measured |" in box
    assert re.search(r"\| `smoke` \| \d+ s \(older source\) \| \d+ MiB \|", box)


def test_only_a_whole_preset_has_a_cost(tiny_book, tmp_path):
    tiny_book()
    changed = rerun.run("tiny", {"rate": 1}, preset="smoke", output=tmp_path)
    with pytest.raises(ValueError, match="no change to it"):
        rerun.record_cost(changed)


def test_the_box_follows_the_parameters():
    cells = [nbformat.v4.new_code_cell("seed = 0"), nbformat.v4.new_code_cell("seed")]
    cells[0].metadata.tags = ["parameters"]
    held = pages.with_box(nbformat.v4.new_notebook(cells=cells), "the box")
    assert [cell.source for cell in held.cells] == ["seed = 0", "the box", "seed"]


def test_html_renders_the_run_as_a_page(tiny_book, capsys):
    root = tiny_book("print(seed + 41)")
    chapter = root / "notebooks" / "tiny.ipynb"
    held = inventory.read_notebook(chapter)
    held.cells.insert(0, nbformat.v4.new_markdown_cell("# Tiny\n\nSee {doc}`tiny`."))
    nbformat.write(held, chapter)
    (root / "_config.yml").write_text("title: tiny\nexecute: {execute_notebooks: 'off'}\n")
    assert cli.main(["run", "tiny", "--seed", "1", "--html"]) == 0
    (page,) = (root / "runs").glob("tiny-*/html/notebooks/tiny.html")
    assert f"Open {page.as_uri()}" in capsys.readouterr().out
    assert "Rerun this chapter" in page.read_text()
    assert "42" in page.read_text()
    download = inventory.read_notebook(page.parents[1] / "_sources" / "notebooks" / "tiny.ipynb")
    assert [c.source for c in download.cells if "See" in c.source] == ["# Tiny\n\nSee “Tiny”."]
    assert "42\n" in [each.get("text") for c in download.cells for each in c.get("outputs", [])]
