"""The assignments of the book hold: one in full, and the others quickly."""

import re
from pathlib import Path

import pytest

from modalign.course import checks, grading, proof, source

ROOT = Path(__file__).parents[2]
NAMES = checks.assignments(ROOT)
WHOLE = "cka"  # proved in full; its checks are the quickest


@pytest.mark.parametrize("name", NAMES)
def test_an_assignment_holds(name, place):
    course = checks.load(name, ROOT)
    found = proof.prove(course, ROOT, place, grading.PRACTICE, quick=name != WHOLE, jobs=2)
    made = proof.report(found, course, proof.run_book(course))
    assert proof.stands(made), proof.text({**made, "seconds": 0})
    assert all(each["bugs"]["tried"] >= 2 for each in made["tasks"].values())


def test_what_must_hold_can_fail(place):
    """A check that looks at nothing is found out: stubs then earn, and bugs lose nothing."""
    course = checks.load(WHOLE, ROOT)
    task = course.tasks[0]
    blind = [each._replace(run=lambda my, book, draw: None) for each in course.sheet.of(task)]
    sheet = checks.Sheet("blind", {each: course.sheet.minutes[each] for each in course.tasks})
    sheet.by_hand = course.sheet.by_hand
    sheet.checks = [*blind, *(each for each in course.sheet.checks if each.task != task)]
    blinded = course._replace(sheet=sheet)
    trials = [each for each in proof.trials(blinded, ROOT, quick=True) if each.task == task]
    kinds = {each.kind for each in trials}
    assert kinds == {"stubs", "alternatives", "bugs"}
    findings = []
    for trial in trials:
        result = proof.marking.mark(blinded, trial.notebook, place, "s", tasks=[task])
        findings.append(proof.Finding(trial, result.earned, sheet.marks(task)))
    assert {each.trial.kind for each in findings if not each.holds} == {"stubs", "bugs"}


def test_a_bug_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="here: expected once in the answer, and found 0 times"):
        proof.changed("return 1", ("return 2", "return 3"), "here")


def test_too_few_bugs_are_refused(book, toy):
    folder = book / "course" / "proofs"
    with pytest.raises(ValueError, match="toy: no proofs: write course/proofs/toy.py"):
        list(proof.trials(toy, book))
    folder.mkdir()
    (folder / "toy.py").write_text("ALTERNATIVES = {}\nBUGS = {}\n")
    with pytest.raises(ValueError, match="centred: expected at least 3 alternatives, got 0"):
        list(proof.trials(toy, book))


@pytest.mark.parametrize("name", NAMES)
def test_tasks_can_be_read_without_the_book(name):
    """No reference to what a student's copy does not hold."""
    for cell in source.student(source.read(ROOT / "notebooks" / f"{name}.ipynb"))["cells"]:
        assert not re.search(r"\{(eq|ref|numref|doc|cite\S*|glue\S*)\}`", cell["source"])
