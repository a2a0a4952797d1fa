import csv
import io
import json
import os
import zipfile

import pytest
from bs4 import BeautifulSoup

from modalign import cli
from modalign.course import containment, grading, proof, report, source
from tests.course import _toy

LIMITS = containment.LIMITS


def right(toy):
    return json.dumps(source.instructor(toy.assignment)).encode()


def half(toy):
    return right(toy).replace(b"- rows.T + k.mean()", b"- rows.T")


def untouched(toy):
    return json.dumps(source.student(toy.assignment)).encode()


@pytest.fixture(scope="module")
def handed_in(toy, tmp_path_factory):
    """A class, with every kind of damage that is to be named while the others are marked."""
    folder = tmp_path_factory.mktemp("submissions")
    (folder / "ada.ipynb").write_bytes(right(toy))
    (folder / "berta").mkdir()
    (folder / "berta" / "toy.ipynb").write_bytes(half(toy))
    (folder / "berta" / "notes.ipynb").write_bytes(b"{")
    (folder / "=cmd.ipynb").write_bytes(untouched(toy))
    with zipfile.ZipFile(folder / "carl.zip", "w") as file:
        file.writestr("toy/toy.ipynb", right(toy))
        file.writestr("__MACOSX/toy/._toy.ipynb", b"x")
    (folder / "not json.ipynb").write_bytes(b"{cells")
    (folder / "empty.ipynb").write_bytes(b"")
    (folder / "large.ipynb").write_bytes(b" " * (LIMITS.notebook + 1))
    (folder / "link.ipynb").symlink_to("/etc/passwd")
    (folder / "linked").symlink_to(folder / "berta")
    with zipfile.ZipFile(folder / "outside.zip", "w") as file:
        file.writestr("../../toy.ipynb", right(toy))
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("toy.ipynb", b"0" * (LIMITS.notebook * 3))
    (folder / "no zip.zip").write_bytes(b"PK")
    (folder / "two").mkdir()
    for name in ("a", "b"):
        (folder / "two" / f"{name}.ipynb").write_bytes(right(toy))
    os.mkfifo(folder / "pipe.ipynb")
    (folder / "read me.txt").write_text("not a submission")
    return folder


MARKED = {"ada": 7.0, "berta": 4.0, "=cmd": 0.0, "carl": 7.0}
DAMAGED = {
    "not json": "is not a notebook",
    "empty": "is empty",
    "large": "clear its outputs",
    "link": "is a link",
    "linked": "is a link",
    "outside": "leads out of it",
    "bomb": "clear its outputs",
    "no zip": "is not a zip that can be read",
    "two": "2 notebooks, and one is to be marked",
    "pipe": "is not a file",
}


def test_damaged_ones_are_named_and_the_others_are_marked(toy, book, place, handed_in, tmp_path):
    found = grading.submissions(handed_in, "toy", LIMITS)
    records = grading.grade(toy, found, tmp_path, place, "secret", root=book, jobs=2)
    by = {record["student"]: record for record in records}
    marks = {
        name: sum(each for each in record["marks"].values() if each is not None)
        for name, record in by.items()
        if record["state"] == "marked"
    }
    assert marks == MARKED
    assert by.keys() - marks.keys() == DAMAGED.keys()
    for name, problem in DAMAGED.items():
        assert problem in by[name]["problem"], by[name]
        assert by[name]["state"] == "damaged"

    # marked again, nothing runs: what is kept counts
    class Broken:
        kind, limits = place.kind, place.limits

    again = grading.grade(toy, found, tmp_path, Broken(), "secret", root=book)
    assert again == records
    # one job and two, and another secret
    ada = [each for each in found if each.student in ("ada", "berta")]
    other = grading.grade(toy, ada, tmp_path / "other", place, "another", root=book, jobs=1)
    assert [each["marks"] for each in other] == [by["ada"]["marks"], by["berta"]["marks"]]

    report.write(toy, records, tmp_path)
    rows = {row["student"]: row for row in csv.DictReader((tmp_path / "marks.csv").open())}
    assert rows["ada"] == {
        "student": "ada", "state": "to mark by hand: why", "total": "7", "centred": "3",
        "alignment": "4", "why": "", "note": "",
    }  # fmt: skip
    assert "'=cmd" in rows
    assert rows["empty"]["state"] == "not marked"
    assert rows["empty"]["total"] == ""
    page = (tmp_path / "feedback" / "berta.html").read_text()
    assert "marked with the book&#x27;s centred" in page
    assert "<script" not in page
    shown = BeautifulSoup((tmp_path / "class.html").read_text(), "html.parser").get_text()
    assert "4 of 14 marked" in shown


def test_marks_by_hand_come_back_and_a_gradebook_gets_its_column(toy, book, place, tmp_path):
    folder, made = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("ada", "zoë"):
        (folder / f"{name}.ipynb").write_bytes(right(toy))
    records = grading.grade(
        toy, grading.submissions(folder, "toy", LIMITS), made, place, "secret", root=book
    )
    report.write(toy, records, made)
    words = list(csv.DictReader((made / "words.csv").open()))
    assert words[0]["answer"] == "Because of the mean."
    words[0]["marks"] = "1.5"
    (made / "words.csv").write_text(report.table(words))
    report.write(toy, report.read(made)[1], made)
    rows = list(csv.DictReader((made / "marks.csv").open()))
    assert [row["total"] for row in rows] == ["8.5", "7"]
    assert [row["state"] for row in rows] == ["marked", "to mark by hand: why"]
    roster = tmp_path / "roster.csv"
    roster.write_text("\ufeffName,Id\nAda L.,ada\nzoe\u0308,7\nNobody,8\n", encoding="utf-8")
    column = list(csv.reader(io.StringIO(report.gradebook(made, roster).read_text())))
    assert [row[-1] for row in column] == ["toy (9)", "8.5", "7", ""]
    roster.write_text("Name\nNobody\n")
    with pytest.raises(ValueError, match="no cell is the name of a submission, such as"):
        report.gradebook(made, roster)
    roster.write_text("Name\nada\nada\n")
    with pytest.raises(ValueError, match="ada is in rows 2 and 3"):
        report.gradebook(made, roster)
    roster.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        report.gradebook(made, roster)
    for text in ("3", "-1", "good"):
        words[0]["marks"] = text
        (made / "words.csv").write_text(report.table(words))
        with pytest.raises(ValueError, match="ada, why: expected marks from 0 to 2"):
            report.write(toy, records, made)


def test_a_check_that_only_the_strong_fail_is_to_be_looked_at():
    right, wrong = {"state": "right"}, {"state": "wrong"}
    strong, weak = {"outcomes": [right, wrong]}, {"outcomes": [wrong, wrong]}
    assert report.is_odd(1, [strong] * 3 + [weak] * 9)
    assert not report.is_odd(1, [strong] * 2 + [weak] * 9)
    assert not report.is_odd(1, [strong] * 3 + [{"outcomes": [right, right]}] * 3)


def test_a_zip_of_a_class(toy, tmp_path):
    path = tmp_path / "class.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("ada/toy.ipynb", "berta/toy.ipynb"):
            file.writestr(f"week 3/{name}", right(toy))
        file.writestr("week 3/list.csv", "x")
    found = grading.submissions(path, "toy", LIMITS)
    assert [each.student for each in found] == ["ada", "berta"]
    assert found[0].read() == right(toy)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no notebook in it"),
        (["a.txt"], "no notebook in it"),
        (["a.ipynb", "A/x.ipynb"], "two submissions of"),
        (["a:b.ipynb"], "cannot name a file of marks"),
    ],
)
def test_folders_that_cannot_be_marked(names, message, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=message):
        grading.submissions(tmp_path, "toy", LIMITS)


def test_a_course_has_a_secret_of_its_own(tmp_path):
    paths = [grading.new(tmp_path / name) for name in ("a", "b")]
    first, second = (grading.secret_of(path.parent) for path in paths)
    assert first != second
    assert paths[0].stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="name another folder"):
        grading.new(tmp_path / "a")
    assert grading.secret_of(tmp_path / "a") == first


@pytest.mark.parametrize(
    "text", ["", "secret = 3", 'secret = "abc"', "\0", 'secret = "' + "g" * 32]
)
def test_a_broken_course_is_refused(text, tmp_path):
    path = grading.new(tmp_path)
    path.write_text(text)
    with pytest.raises(ValueError, match="course.toml: expected one line secret"):
        grading.secret_of(tmp_path)


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    grading.new(tmp_path).chmod(0o644)
    with pytest.raises(ValueError, match="others can read it: chmod 600"):
        grading.secret_of(tmp_path)
    with pytest.raises(ValueError, match="no course here: make one with"):
        grading.secret_of(tmp_path / "nowhere")


# the commands


def run(*words):
    return cli.main(["course", *map(str, words)])


def test_from_a_course_to_marks(book, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(book)
    assert run("list") == 0
    assert "alignment" in capsys.readouterr().out
    assert run("release", "toy", "-o", tmp_path) == 0
    with zipfile.ZipFile(tmp_path / "toy.zip") as file:
        assert file.namelist() == ["toy/toy.ipynb", "toy/README.txt"]
        notebook = file.read("toy/toy.ipynb")
    assert b"k.mean()" not in notebook
    assert run("new", tmp_path / "course") == 0
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "ada.ipynb").write_bytes(right(toy))
    (folder / "berta.ipynb").write_bytes(notebook)
    words = ("grade", "toy", folder, "--course", tmp_path / "course", "-o", tmp_path / "out")
    assert run(*words, "--own-files") == 0
    said = capsys.readouterr().out
    assert "ada: 7" in said
    assert "berta: 0" in said
    (folder / "carl.ipynb").write_text("{")
    assert run(*words, "--own-files") == 3
    assert "carl: carl: is not a notebook" in capsys.readouterr().out
    only = tmp_path / "only.ipynb"
    only.write_text("{")
    assert run("grade", "toy", only, "--practice", "--own-files", "-o", tmp_path / "no") == 1
    assert run("report", tmp_path / "out") == 0
    assert "carl,not marked" in capsys.readouterr().out
    assert run("report", tmp_path / "nowhere") == 1
    assert "name the folder that" in capsys.readouterr().err
    assert run("grade", "toy", folder) == 1
    assert "make one with `modalign course new" in capsys.readouterr().err
    assert run("grade", "clock", folder, "--practice") == 1
    assert "clock: no such assignment: choose one of toy" in capsys.readouterr().err


def test_nbgraders_source_marks_each_task_once(book, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(book)
    assert run("release", "toy", "--format", "nbgrader", "-o", tmp_path) == 0
    assert "configure(get_config()" in capsys.readouterr().out
    held = json.loads((tmp_path / "source" / "toy" / "toy.ipynb").read_text())
    about = [cell["metadata"]["nbgrader"] for cell in held["cells"]]
    points = {each["grade_id"]: each["points"] for each in about if each["grade"]}
    assert points == {"marks-centred": 3, "marks-alignment": 4, "marks-why": 2}
    assert len({each["grade_id"] for each in about}) == len(about)
    solutions = [
        source.text_of(cell) for cell in held["cells"] if "solution" in cell["metadata"]["tags"]
    ]
    assert solutions == [_toy.CENTRED, _toy.ALIGNMENT]


def test_the_proof_is_printed_or_kept(book, tmp_path, monkeypatch, capsys):
    """What the command does with a proof; the proof itself is another test's."""
    monkeypatch.chdir(book)
    made = {"assignments": {}, "attacks": {"tried": 2, "hold": 2, "fail": []}, "seconds": 1.0}
    monkeypatch.setattr(proof, "check", lambda *args, **kwargs: made)
    assert run("check", "toy", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["attacks"]["hold"] == 2
    assert "containment: " in said.err
    assert run("check", "toy", "--json", tmp_path / "new" / "proof.json") == 0
    assert "2 of 2 earned" in capsys.readouterr().out
    kept = json.loads((tmp_path / "new" / "proof.json").read_text(encoding="utf-8"))
    assert kept["made_by"]["python"]
    assert run("check", "--json", "toy") == 2
    assert "'toy' is an assignment: write it first" in capsys.readouterr().err
    assert not (book / "toy").exists()
