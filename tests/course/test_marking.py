import json

import pytest
import torch

from modalign.course import checks, containment, grading, marking, proof, source
from modalign.course.checks import Wrong, close
from tests.course import _toy


def notebook(toy, *changes):
    held = source.instructor(toy.assignment)
    for old, new in changes:
        assert any(old in cell["source"] for cell in held["cells"]), old
        for cell in held["cells"]:
            cell["source"] = cell["source"].replace(old, new)
    return json.dumps(held).encode()


def outcomes(toy, place, *changes, secret="secret"):
    return marking.mark(toy, notebook(toy, *changes), place, secret)


def test_right_answers_get_all_marks_and_untouched_ones_none(toy, place):
    found = outcomes(toy, place)
    assert found.earned == 7
    assert found.words == {"why": "Because of the mean."}
    assert not found.left_out
    untouched = json.dumps(source.student(toy.assignment)).encode()
    assert marking.mark(toy, untouched, place, "secret").earned == 0


def test_an_error_is_punished_once(toy, place):
    found = outcomes(toy, place, ("- rows.T + k.mean()", "- rows.T"))
    assert found.of("centred") == 0
    assert found.of("alignment") == 4
    notes = [each.detail for each in found.outcomes if "book's centred" in each.detail]
    assert len(notes) == 2  # of the third check the value does not depend on it


def test_the_books_version_helps_no_wrong_answer(toy, place):
    found = outcomes(
        toy, place, ("- rows.T + k.mean()", "- rows.T"), ("(k * l).sum()", "2 * (k * l).sum()")
    )
    assert found.of("alignment") == 0


@pytest.mark.parametrize(
    ("change", "state", "detail"),
    [
        ("return 1 / 0", "error", "ZeroDivisionError in line 4 of cell 3"),
        ("return undefined", "error", "NameError in line 4 of cell 3"),
        ("return k.tolist()", "wrong", "expected a tensor"),
        ("return k.float()", "wrong", "another type of numbers"),
        ("return k[None]", "wrong", "another shape"),
        ("return 2 * k", "wrong", "wrong numbers"),
        ("return print", "error", "other than a number, text, list or tensor"),
        ("import os; os._exit(0)", "lost", "ended its process"),
        ("raise type(str(k[0, 0].item()), (ValueError,), {})", "error", "raised ValueError"),
        ("raise SystemExit", "error", "raised SystemExit"),
    ],
)
def test_what_a_student_is_told(toy, place, change, state, detail):
    old = "rows = k.mean(0, keepdim=True)"
    found = outcomes(
        toy, place, (f"    {source.BEGIN}\n    {old}", f"    {source.BEGIN}\n    {change}")
    )
    first = found.outcomes[0]
    assert first.state == state
    assert detail in first.detail
    assert not any(each.isdigit() and "." in each for each in first.detail.split())


def test_the_next_check_goes_on_after_a_lost_process(toy, place):
    found = outcomes(
        toy, place, ("rows = k", "if len(k) > 5: import os; os._exit(0)\n    rows = k")
    )
    assert {each.state for each in found.outcomes if each.task == "alignment"} >= {"lost", "right"}


def test_a_loop_costs_its_own_check_alone(toy, kind):
    limits = containment.LIMITS._replace(check=2.0)
    with containment.Place(kind, limits) as place:
        found = outcomes(
            toy, place, ('raise ValueError("l: expected the shape of k")', "while 1: pass")
        )
    assert [each.state for each in found.outcomes] == ["right"] * 4 + ["lost"]


def test_what_ends_the_process_as_it_is_loaded_is_left_out(toy, place):
    change = ("def centred(k):", "import os\nos.x = os._exit(0)\ndef centred(k):")
    found = outcomes(toy, place, change, ("rows = k", "os\n    rows = k"))
    assert found.earned == 7
    assert found.left_out == ["cell 3, line 2: ended the process, or took too long"]


def test_a_statement_that_fails_is_left_out_and_named(toy, place):
    change = ("def centred(k):", "try_me = 1 / 0\ndef centred(k, more=lambda: try_me):")
    found = outcomes(toy, place, change)
    assert found.earned == 7
    assert found.left_out == ["cell 3, line 1: raised ZeroDivisionError"]


def test_the_same_secret_draws_the_same_inputs_and_another_others():
    first = [checks.Draw("a", "x").normal(3) for _ in range(2)]
    assert torch.equal(*first)
    assert not torch.equal(first[0], checks.Draw("b", "x").normal(3))
    assert not torch.equal(first[0], checks.Draw("a", "y").normal(3))


def test_a_check_that_fails_by_itself_is_no_zero(book, tmp_path, place):
    broken = _toy.CHECKS.replace("k = gram(draw, 5, 3)\n    kept", "k = gram(draw, 5)\n    kept")
    other = checks.load("toy", _toy.book(tmp_path, checks=broken))
    found = outcomes(other, place)
    assert [each.state for each in found.outcomes] == ["right", "look", "right", "right", "right"]
    assert found.needs_a_person
    with pytest.raises(RuntimeError, match="nobody is marked: mend centred, the input is left"):
        grading.require_sound(other, place, "secret")


def test_an_answer_that_a_check_cannot_use_is_the_answers_fault(tmp_path, place):
    line = "k = gram(draw, draw.integer(4, 7), 3)\n    close(my.centred(k)%s, book.centred(k)%s)"
    assert line % ("", "") in _toy.CHECKS
    sums = _toy.CHECKS.replace(line % ("", ""), line % (".sum()", ".sum()"))
    other = checks.load("toy", _toy.book(tmp_path, checks=sums))
    assert outcomes(other, place).earned == 7
    found = outcomes(other, place, ("return k - rows - rows.T + k.mean()", "return None"))
    assert found.outcomes[0].state == "wrong"
    assert found.outcomes[0].detail == "it gives something of another kind"


def test_a_gap_between_right_and_wrong_is_seen_by_close():
    one = torch.ones(3)
    close(one, one + 1e-7)
    for other in (one + 1e-2, one.double(), one[None], 1.0, [1.0], one * float("nan")):
        with pytest.raises(Wrong):
            close(other, one)
    close(one * float("nan"), one * float("nan"))
    with pytest.raises(Wrong):
        close(1, 1.0)


@pytest.mark.parametrize(
    ("typed", "earned"),
    [
        ("0.33", 1),
        ("0.335", 1),
        ("round(10 / 3) / 9", 1),
        ("0.34", 0),
        ("33", 0),
        ("True", 0),
        ("float('nan')", 0),
        ("'0.33'", 0),
        ("torch.tensor(1 / 3)", 0),
        ("10**400", 0),
        ("...", 0),
    ],
)
def test_numbers_are_marked_each_to_the_digits_asked(tmp_path, place, typed, earned):
    held = checks.load("toy", _toy.numbers(tmp_path))
    found = outcomes(held, place, ("share = 1 / 3", f"share = {typed}"), ("1 - share", "0.67"))
    assert found.of("numbers") == 1 + earned
    assert not found.needs_a_person


def test_stubs_of_numbers_earn_nothing(tmp_path, place):
    held = checks.load("toy", _toy.numbers(tmp_path))
    untouched = json.dumps(source.student(held.assignment)).encode()
    assert marking.mark(held, untouched, place, "secret").earned == 0
    for name, body in proof.STUBS.items():
        answer = proof._stub(held, "numbers", body)
        assert "rest = " in answer, name
        given = notebook(held, (_toy.NUMBERS, answer))
        assert marking.mark(held, given, place, "s", tasks=["numbers"]).earned == 0, name


@pytest.mark.parametrize("name", proof.DAMAGE)
def test_damage_that_costs_no_mark(toy, place, name):
    held = proof.DAMAGE[name](source.instructor(toy.assignment))
    assert marking.mark(toy, held, place, "secret").earned == 7


def test_marks_are_equal_in_each_kind_of_containment(toy):
    works = [name for name, problem in containment.available().items() if not problem]
    found = []
    for kind in [*works, "none"]:
        with containment.Place(kind) as each:
            found.append(outcomes(toy, each, ("k.mean()", "1")).outcomes)
    assert all(each == found[0] for each in found)
    assert 0 < sum(each.earned for each in found[0]) < 7
