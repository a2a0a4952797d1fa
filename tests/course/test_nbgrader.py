"""nbgrader, where its extra is installed: its database holds the marks that `grade` gives."""

import csv
import json
import os
import subprocess
import sys

import pytest

from modalign.course import containment, grading, marking, nbgrader, source
from tests.course import _toy

pytest.importorskip("nbgrader")

CONFIG = """
from modalign.course.nbgrader import configure
configure(get_config(), course={course!r}, root={book!r})
"""
HOSTILE = """
import os
def centred(k):
    os.kill(os.getppid(), 9)
def alignment(k, l):
    os._exit(0)
"""


def run(folder, *words):
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HOME": str(folder)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    return subprocess.run(
        [sys.executable, "-m", "nbgrader", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def answers(notebook, change):
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "solution" in tags:
            text = _toy.CENTRED if "task-centred" in tags else _toy.ALIGNMENT
            cell["source"] = change(text)
    return json.dumps(notebook)


def test_nbgrader_and_grade_give_the_same_marks(book, toy, place, tmp_path):
    nbgrader.release(toy, book, tmp_path)
    secret = grading.secret_of(grading.new(tmp_path / "course").parent)
    (tmp_path / "nbgrader_config.py").write_text(
        CONFIG.format(course=str(tmp_path / "course"), book=str(book))
    )
    made = run(tmp_path, "generate_assignment", "toy")
    assert made.returncode == 0, made.stderr
    released = (tmp_path / "release" / "toy" / "toy.ipynb").read_text()
    assert "k.mean()" not in released
    handed_in = {
        "right": answers(json.loads(released), str),
        "wrong": answers(json.loads(released), lambda text: text.replace("+ k.mean()", "")),
        "hostile": answers(json.loads(released), lambda text: HOSTILE),
        "untouched": released,
        "damaged": "{no",
    }
    for name, text in handed_in.items():
        folder = tmp_path / "submitted" / name / "toy"
        folder.mkdir(parents=True)
        (folder / "toy.ipynb").write_text(text)
    graded = run(tmp_path, "autograde", "toy")
    assert "student 'damaged'" in graded.stderr
    assert "student 'right'" not in graded.stderr.split("Please see")[-1]
    assert run(tmp_path, "export").returncode == 0
    rows = csv.DictReader((tmp_path / "grades.csv").open())
    scores = {row["student_id"]: float(row["score"]) for row in rows}
    ours = {
        name: marking.mark(toy, text.encode(), place, secret).earned
        for name, text in handed_in.items()
        if name != "damaged"
    }
    assert scores == {**ours, "damaged": 0.0}
    assert ours == {"right": 7.0, "wrong": 4.0, "hostile": 0.0, "untouched": 0.0}
    assert containment.chosen()
    assert source.BEGIN not in released
