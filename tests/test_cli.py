"""The command, as a user runs it: a process in an empty directory."""

import contextlib
import os
import pathlib
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import modalign
from modalign import _command, cli, data, rerun


@pytest.fixture
def run(tmp_path):
    def run(*arguments, **variables):
        environment = {k: v for k, v in os.environ.items() if k != "MODALIGN_DATA"} | variables
        package = str(pathlib.Path(modalign.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [package, os.environ.get("PYTHONPATH")])
        )
        return subprocess.run(
            [sys.executable, "-m", "modalign", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_list_names_every_set_its_source_and_terms(run):
    done = run("data", "list")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    for each in data.available():
        state = "embedded" if each["embedded"] else "not here"
        assert f"{each['name']} [{state}] holds {each['holds']}" in text
        assert f"terms {each['terms']}" in text
        assert each["embedded"] or each["get"] in text
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_show_prints_columns_counts_and_an_example(run):
    done = run("data", "show", "digits")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "rows: 1797 train 1437 test 360" in text
    assert "image image" in text
    assert "label class: zero, one" in text
    assert "image 8 x 8, mode L" in text
    assert "label 0 (zero)" in text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("digts",), "did you mean 'digits'?"),
        (("yms",), "MODALIGN_DATA is not set. Get it from https://github.com/pelindogan"),
    ],
)
def test_a_user_error_is_one_line_and_an_exit_status(run, arguments, problem):
    done = run("data", "show", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("modalign: ")
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_shows_the_usage(run):
    done = run("data", "shwo")
    assert done.returncode == 2
    assert "Usage: modalign data" in done.stderr


def test_help_says_what_there_is_and_starts_at_once(run):
    started = time.perf_counter()
    done = run("--help")
    assert time.perf_counter() - started < 2  # about 0.2 s where nothing else runs
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("list", "show", "run", "sweep", "report", "compare", "data"):
        assert f"\n  {verb} " in done.stdout
    done = run("--version")
    assert done.stdout == f"{modalign.__version__}\n"


def test_help_loads_nothing_that_is_slow():
    code = (
        "import sys; from modalign import cli; cli.main(['--help']); "
        "slow = {'torch', 'pandas', 'numpy', 'yaml', 'nbformat', 'datasets'} & set(sys.modules); "
        "sys.exit(str(slow) if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_runs_without_docstrings_and_assertions():
    command = [sys.executable, "-OO", "-m", "modalign"]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(modalign.__file__).parents[1])}
    for arguments in (["--help"], ["list"]):
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["-p", "rate", "-1e-3"], -0.001),
        (["-p", "rate=-1e-3"], -0.001),
        (["-p", "rate=-.5"], -0.5),
        (["--seed", "4", "-p", "rate", "2"], 2.0),
    ],
)
def test_a_parameter_is_a_name_and_a_value_in_either_form(tiny_book, monkeypatch, words, value):
    tiny_book(parameters={"seed": "0  # a draw; 0 or more", "rate": "0.1  # added; -9 to 9"})
    asked = []
    monkeypatch.setattr(rerun, "run", lambda chapter, given, **_: asked.append(given) or Found())
    assert cli.main(["run", "tiny", *words]) == 0
    assert asked[0]["rate"] == value


class Found:
    ok, found, provenance = True, False, {"no_commit": "git refuses: not yours"}

    def __str__(self):
        return "a run é"


@pytest.mark.parametrize("note", ["a=b", "-p", "--seed", "", "-1", "=", "a b"])
def test_a_text_may_look_like_an_option(tiny_book, monkeypatch, note):
    tiny_book()
    asked = []
    monkeypatch.setattr(rerun, "run", lambda chapter, given, **_: asked.append(given) or Found())
    assert cli.main(["run", "tiny", "-p", "note", note, "--seed", "1"]) == 0
    assert cli.main(["run", "tiny", "-p", f"note={note}", "--seed", "1"]) == 0
    assert asked == [{"note": note, "seed": 1}] * 2


def test_a_run_without_a_commit_says_why(tiny_book, monkeypatch, capsys):
    tiny_book()
    monkeypatch.setattr(rerun, "run", lambda *_, **__: Found())
    assert cli.main(["run", "tiny"]) == 0
    assert capsys.readouterr().err == "modalign: no commit is recorded: git refuses: not yours\n"


@pytest.mark.parametrize("words", [["-p"], ["-p", "rate"]])
def test_half_a_parameter_is_told_how_to_write(tiny_book, capsys, words):
    tiny_book()
    assert cli.main(["run", "tiny", *words]) == 2
    assert "-p: expected NAME VALUE or NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sh", {"show"}),
        ("run t", {"tiny"}),
        ("run tiny --pr", {"--preset"}),
        ("run tiny --preset s", {"smoke"}),
        ("run tiny -p not", {"note", "notes"}),
        ("sweep tiny --grid ra", {"rate="}),
        ("run nothing -p not", set()),
    ],
)
def test_a_shell_can_complete_names(tiny_book, monkeypatch, capsys, words, offered):
    tiny_book()
    monkeypatch.setenv(cli.COMPLETE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"modalign {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    cli.main([])
    lines = capsys.readouterr().out.split()
    assert {line.partition(",")[2] for line in lines} == offered


def test_text_in_another_locale_is_read_as_utf8(tiny_book, command_environment):
    tiny_book()
    command = [sys.executable, "-m", "modalign", "sweep", "tiny", "--print", "-p", "note", "é"]
    environment = {
        **command_environment,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "note: é" in done.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("library", "given", "extra"),
    [
        ("datasets", ["data", "list"], "data"),
        ("yaml", ["list"], "book"),
        ("papermill", ["run", "cka"], "book"),
        ("distributed", ["sweep", "cka"], "rerun"),
        ("pyarrow", ["report", "x"], "book"),
        ("sklearn", ["run"], "book"),
        ("transformers", ["run"], "pretrained"),
    ],
)
def test_a_missing_library_names_the_extra_that_brings_it(
    monkeypatch, capsys, library, given, extra
):
    def missing(*_, **__):
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr(cli.modalign, "invoke", missing)
    monkeypatch.setattr(cli.modalign, "make_context", lambda *_: contextlib.nullcontext())
    assert cli.main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"modalign: {library} is not installed; ")
    assert said.endswith(f"-m pip install -c constraints.txt -e '.[{extra}]'\n")


def test_several_sweeps_are_reported_in_turn(monkeypatch, capsys):
    class Report:
        def __init__(self, path, **_):
            self.path = path

        def __str__(self):
            return f"report of {self.path}"

        def write(self, folder):
            return folder or f"{self.path}.report"

    monkeypatch.setattr(rerun, "report", Report)
    assert cli.main(["report", "a.yml", "b.yml", "--metric", "m"]) == 0
    said = capsys.readouterr().out
    assert (
        said.index("report of a.yml") < said.index("a.yml.report") < said.index("report of b.yml")
    )
    assert cli.main(["report", "a.yml", "b.yml", "-o", "c"]) == 1
    assert "-o names one folder, and 2 sweeps were given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("called", "begin"),
    [
        ("bin dir/modalign", "'bin dir/modalign'"),
        ("/elsewhere/modalign", "/elsewhere/modalign"),
        ("x/modalign/__main__.py", None),
        ("ipykernel_launcher.py", "modalign"),
    ],
)
def test_a_command_that_is_told_can_be_pasted(monkeypatch, called, begin):
    monkeypatch.setattr(sys, "argv", [called])
    words = shlex.split(_command.command("report", "my runs/é.yml"))
    assert words[-2:] == ["report", "my runs/é.yml"]
    if begin is None:
        assert words[1:3] == ["-m", "modalign"]
        assert os.path.samefile(words[0], sys.executable)
    else:
        assert shlex.quote(words[0]) == begin


REAL = [each["name"] for each in data.available() if data.source(each["name"]).folder]


@pytest.mark.parametrize("name", REAL)
def test_show_works_on_every_real_set(real_data, capsys, name):
    assert cli.main(["data", "show", name]) == 0
    shown = capsys.readouterr().out
    assert "the first row:" in shown
    assert shown.startswith(f"{name}: {data.source(name).holds}")


def test_list_says_which_real_sets_are_found(real_data, capsys):
    assert cli.main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    for name in REAL:
        here = (real_data / data.source(name).folder).is_dir()
        assert f"{name}  [{'found' if here else 'not here'}]" in shown


def test_what_is_skipped_is_said(capsys, tmp_path):
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings" / "1_ann_7.wav", np.zeros(800), 8000)
    (tmp_path / "recordings" / "2_ann_7.wav").write_text("no sound")
    show = ["data", "show", "spoken-digits", "--folder", str(tmp_path)]
    assert cli.main(show) == 1
    assert "2_ann_7.wav: truncated or not a sound file" in capsys.readouterr().err
    assert cli.main([*show, "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert "skipped 1 bad rows, kept 1 rows" in shown.err
    assert "0.10 s at 8000 Hz" in shown.out
