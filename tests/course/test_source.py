import json

import pytest

from modalign.course import checks, source
from tests.course import _toy


def text(notebook):
    return "\n".join(source.text_of(cell) for cell in notebook["cells"])


def test_an_assignment_is_read_in_order(toy):
    assert toy.tasks == ["centred", "alignment", "why"]
    assert toy.assignment.names("alignment") == ["alignment"]
    assert toy.assignment.in_words("why")
    assert toy.assignment.names("why") == []
    assert toy.sheet.marks("alignment") == 4


def test_no_line_of_a_solution_is_in_the_students_copy(toy, book):
    held = text(source.plain(source.student(toy.assignment), book))
    for cell in toy.assignment.cells:
        if cell.role == "solution":
            inside = cell.source.split(source.BEGIN)[1].split(source.END)[0].split("\n")
            assert all(line.strip() not in held for line in inside if line.strip())
    for gone in (
        "A remark of the solution",
        "Because of the mean",
        "solution-",
        ":class:",
        "BEGIN",
    ):
        assert gone not in held
    assert held.count(source.STUB) == 2
    assert "assert_close(centred(k)" in held
    assert held.count("```") == 0
    assert "<summary>Hint</summary>" in held


def test_numbers_keep_their_names_in_the_students_copy():
    numbers = f"{source.BEGIN}\nshare = 1 / 3\ncount = 7  # of ten\n{source.END}"
    assert source.stubbed(f"a = 1\n{numbers}\nb = 2") == "a = 1\nshare = ...\ncount = ...\nb = 2"
    mixed = numbers.replace("count =", "print(share)\ncount =")
    assert source.stubbed(mixed) == source.STUB


def test_the_instructors_copy_runs(toy):
    names = {}
    for cell in source.instructor(toy.assignment)["cells"]:
        if cell["cell_type"] == "code":
            exec(cell["source"], names)


def test_the_page_shows_no_marker():
    shown = source.without_markers(_toy.CENTRED)
    assert "###" not in shown
    assert "return k - rows" in shown


def changed(number, cell):
    held = _toy.cells()
    held[number] = cell
    return held


BAD = {
    "no assignment": ([_toy.cell("markdown", "# A toy")], "toy: no assignment: tag cells"),
    "two tasks of one name": (
        [*_toy.cells(), _toy.exercise("centred", "Again.")],
        "a second task centred: give it another name",
    ),
    "two answers": (
        changed(4, _toy.cell("code", _toy.CENTRED, "task-centred", "solution")),
        "task-centred: tag one cell solution .*, got 2",
    ),
    "no visible check": (
        changed(4, _toy.cell("markdown", "nothing", "task-centred")),
        "task-centred: tag at least one cell check, got none",
    ),
    "a region that is not closed": (
        changed(
            3,
            _toy.cell("code", _toy.CENTRED.replace(source.END, ""), "task-centred", "solution"),
        ),
        "cell 4: put ### BEGIN SOLUTION and ### END SOLUTION around",
    ),
    "nothing to mark": (
        changed(
            3, _toy.cell("code", f"{source.BEGIN}\n1\n{source.END}", "task-centred", "solution")
        ),
        "task-centred: its solution defines no name",
    ),
    "a strange name": (
        changed(3, _toy.cell("code", _toy.CENTRED, "task-A b", "solution")),
        "give it one tag task-NAME of letters",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_assignment_that_is_none_is_refused(name, tmp_path):
    held, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        checks.load("toy", _toy.book(tmp_path, held))


SHEETS = {
    "another name": (('"why"', '"what"'), "make them agree"),
    "no check": (('check("centred"', 'check("alignment"'), "centred has no hidden check: add one"),
    "a check of no task": (
        ('check("centred", 2', 'check("centered", 2'),
        "a check of centered, which is no task",
    ),
    "a text as code": (("(5, 2)", "5"), "why: give minutes and marks of a task in words"),
}


@pytest.mark.parametrize("name", SHEETS)
def test_checks_that_do_not_fit_the_notebook_are_refused(name, tmp_path):
    (old, new), message = SHEETS[name]
    with pytest.raises(ValueError, match=message):
        checks.load("toy", _toy.book(tmp_path, checks=_toy.CHECKS.replace(old, new)))


def test_an_assignment_of_another_name_is_refused(book):
    with pytest.raises(ValueError, match="clock: no such assignment: choose one of toy"):
        checks.load("clock", book)


@pytest.mark.parametrize(
    "held", [b"", b"{}", b"[1]", b'{"cells": [1]}', b"\xff\xfe", b"[" * 100_000, b"null"]
)
def test_what_is_no_notebook_is_refused(held):
    with pytest.raises(ValueError, match="mine: is .*hand it in again"):
        list(source.submitted(held, "mine"))


def test_line_ends_and_a_mark_of_byte_order_are_read():
    held = json.dumps({"cells": [_toy.cell("code", "a = 1\r\n")]}, indent=1)
    found = list(source.submitted(b"\xef\xbb\xbf" + held.replace("\n", "\r\n").encode(), "mine"))
    assert found == [("code", "a = 1\r\n")]
