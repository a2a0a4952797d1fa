"""The command, as a user runs it: a process in an empty directory."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import modalign
from modalign import cli, data


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
