"""Chapters, their parameters, and single runs: on a tiny chapter written here."""

import json
import math
import os
import re
import resource
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from modalign import cli, rerun
from modalign.rerun import execution, inventory, pages, reporting
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
    ],
)
def test_what_does_not_fit_is_refused_by_name(kind, limits, text):
    with pytest.raises(ValueError, match=f"p: expected {kind}"):
        Parameter("p", kind, 0, "", limits).parse(text)


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
    ],
)
def test_presets_are_held_against_the_parameters(tiny_book, text, problem):
    tiny_book(presets=text)
    with pytest.raises(ValueError, match=problem):
        rerun.presets("tiny")


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


def test_the_commands_are_no_part_of_a_runs_address():
    names = {path.name for path in inventory.source_files(inventory.book_root())}
    assert {"cka.py", "records.py", "map.csv", "constraints.txt"} <= names
    assert not {"cli.py", "execution.py"} & names


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
        (["tiny", "-o", "_toc.yml/runs"], "output: cannot write to _toc.yml/runs: Not a dir"),
        (["tiny", "-o", "/proc/runs"], "output: cannot write to /proc/runs"),
        (["tiny", "-o", "loop/runs"], "output: cannot write to loop/runs"),
    ],
)
def test_what_cannot_run_is_refused_before_a_kernel_starts(
    tiny_book, monkeypatch, capsys, arguments, problem
):
    (tiny_book() / "loop").symlink_to("loop")
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_survives_in_strict_json(value):
    text = json.dumps(execution._strict({"a": value}), allow_nan=False)
    assert repr(json.loads(text, object_hook=execution._unstrict)["a"]) == repr(value)


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
    (root / "_config.yml").write_text("title: tiny\nexecute: {execute_notebooks: 'off'}\n")
    assert cli.main(["run", "tiny", "--seed", "1", "--html"]) == 0
    (page,) = (root / "runs").glob("tiny-*/html/notebooks/tiny.html")
    assert f"Open {page.as_uri()}" in capsys.readouterr().out
    assert "Rerun this chapter" in page.read_text()
    assert "42" in page.read_text()


# reports, on runs written here


@pytest.fixture
def write_run(tmp_path):
    def write(number, parameters, values, **changes):
        folder = tmp_path / "runs" / f"made-{number}"
        folder.mkdir(parents=True)
        results = json.dumps(execution._strict(values))
        held = {
            "name": folder.name,
            "chapter": "made",
            "parameters": parameters,
            "changed": {},
            "seconds": 1.0,
            "peak_memory_mib": 2.0,
            "failure": None,
            "source": "abc",
            "version": "1",
            "commit": "c0ffee",
            "python": "3",
            "libraries": {"torch": "2"},
            "machine": {"processor": "p", "cores": 1, "system": "s"},
            "device": "cpu",
            "date": "2026-01-01",
            "sha256": execution.hashlib.sha256(results.encode()).hexdigest(),
            **changes,
        }
        (folder / "provenance.json").write_text(json.dumps(held))
        (folder / "results.json").write_text(results)
        (folder / "notebook.ipynb").write_text("{}")
        return folder

    return write


GAINS = [0.1, 0.3, 0.2, 0.2]


@pytest.fixture
def runs(tmp_path, write_run):
    """Two optimizers, two sizes, four seeds; lars gains GAINS[seed] over adam at either size."""
    number = 0
    for seed, gain in enumerate(GAINS):
        for size in (10, 2):
            for optimizer in ("adam", "lars"):
                accuracy = 0.1 * seed + size + (gain if optimizer == "lars" else 0)
                write_run(
                    number,
                    {"seed": seed, "size": size, "optimizer": optimizer, "shape": [1, 2]},
                    {"accuracy": accuracy, "constant": 1, "text": "a", "kind": optimizer},
                )
                number += 1
    return tmp_path / "runs"


def test_a_report_pairs_runs_by_seed_and_by_what_else_varies(runs):
    found = rerun.report(runs, by="optimizer")
    (row,) = found.differences.itertuples()
    from modalign.metrics import seed_interval

    assert (row.metric, row.level, row.against) == ("accuracy", "optimizer=lars", "optimizer=adam")
    assert (row.seeds, row.verdict) == (4, "higher")
    np.testing.assert_allclose([row.mean, row.low, row.high], seed_interval(GAINS))
    assert list(found.means["runs"]) == [8, 8]
    assert len(found.table) == 16
    assert "optimizer=lars" in str(found)


def test_a_report_compares_all_that_varies_and_takes_a_baseline(runs):
    levels = set(rerun.report(runs).means["level"])
    assert levels == {f"size={s}, optimizer={o}" for s in (2, 10) for o in ("adam", "lars")}
    by_size = rerun.report(runs, by="size", baseline="10", metric="accuracy")
    assert by_size.differences["against"].tolist() == ["size=10"]
    assert by_size.differences["mean"].item() == pytest.approx(-8)


def test_a_report_is_written_as_tables_figure_and_page(runs):
    report = rerun.report(runs, by="optimizer")
    folder = report.write()
    assert folder == runs.with_name("runs.report")
    table = pd.read_parquet(folder / "runs.parquet")
    pd.testing.assert_frame_equal(table, pd.read_csv(folder / "runs.csv"), check_dtype=False)
    assert table["shape"].iloc[0] == "[1, 2]"
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert "optimizer=lars" in page
    assert "data:image/png;base64," in page
    assert len(report.figure().axes) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"by": "optimiser"}, "by: there is no 'optimiser'.*did you mean 'optimizer'"),
        ({"metric": "acuracy"}, "metric: there is no 'acuracy'.*did you mean 'accuracy'"),
        ({"metric": "text"}, "metric: there is no 'text'"),
        ({"by": "optimizer", "baseline": "sgd"}, "baseline: there is no 'optimizer=sgd'"),
        ({"baseline": "adam"}, "baseline: expected one parameter in by"),
    ],
)
def test_a_report_refuses_what_it_does_not_know(runs, options, problem):
    with pytest.raises(ValueError, match=problem):
        rerun.report(runs, **options)


def test_a_report_says_what_is_missing_or_not_finite(tmp_path, write_run):
    for seed in (0, 1):
        for rate in (0.0, 0.5):
            value = math.nan if (seed, rate) == (1, 0.5) else rate + seed
            write_run(f"{seed}{rate}", {"seed": seed, "rate": rate}, {"loss": value})
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    (tmp_path / "runs" / "sweep.yml").write_text(json.dumps({"runs": [*names, "made-lost"]}))
    found = rerun.report(tmp_path / "runs" / "sweep.yml")
    assert "1 runs of the sweep are missing: made-lost" in found.remarks
    assert any("loss is not finite in 1 runs" in remark for remark in found.remarks)
    assert math.isnan(found.differences["mean"].item())
    assert found.differences["verdict"].item() == "no interval"


def test_a_report_of_nothing_is_refused(tmp_path, write_run):
    with pytest.raises(FileNotFoundError, match="there is no"):
        rerun.report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no finished run"):
        rerun.report(tmp_path / "empty")
    write_run(1, {"seed": 0}, {"loss": 1.0})
    write_run(2, {"seed": 0}, {"loss": 1.0}, chapter="other")
    with pytest.raises(ValueError, match="has runs of made, other"):
        rerun.report(tmp_path / "runs")


def test_compare_shows_what_differs_and_nothing_else(write_run):
    a = write_run(1, {"seed": 0, "rate": 0.1}, {"loss": 1.0, "same": 2, "odd": math.nan})
    b = write_run(
        2,
        {"seed": 0, "rate": 0.5},
        {"loss": 0.5, "same": 2, "odd": math.nan},
        libraries={"torch": "3"},
    )
    found = rerun.compare(a, b)
    assert found.parameters.to_dict("records") == [{"parameter": "rate", "A": 0.1, "B": 0.5}]
    assert found.results.to_dict("records") == [
        {"value": "loss", "A": 1.0, "B": 0.5, "B - A": -0.5}
    ]
    assert found.environment.to_dict("records") == [{"of": "libraries torch", "A": "2", "B": "3"}]
    assert "Results that differ:" in str(found)
    assert "Results: the same" in str(rerun.compare(a, rerun.Result(a)))
    assert "libraries torch" in found._repr_html_()


def test_compare_refuses_two_chapters_and_no_run(write_run, tmp_path):
    a = write_run(1, {"seed": 0}, {"loss": 1.0})
    b = write_run(2, {"seed": 0}, {"loss": 1.0}, chapter="other")
    with pytest.raises(ValueError, match="runs of one chapter, got made, other"):
        rerun.compare(a, b)
    with pytest.raises(FileNotFoundError, match="no run in"):
        rerun.compare(a, tmp_path)


def test_a_verdict_is_read_from_the_interval():
    read = reporting._verdict
    assert read({"low": 0.1, "high": 0.2}) == "higher"
    assert read({"low": -0.2, "high": -0.1}) == "lower"
    assert read({"low": -0.1, "high": 0.1}) == "undecided"
