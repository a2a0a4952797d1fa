import shutil
import sys
from pathlib import Path

import pytest

from modalign.course import checks, containment, proof, source
from tests.course import _toy

ROOT = Path(__file__).parents[2]
# what may be tried without a wall, and what the proof must then find
HARMLESS = {
    "changes times": "files were touched",
    "kills a bystander": "a bystander was killed",
    "starts a program": "a secret was read",
}
SHORT = [
    *HARMLESS,
    *("reads the secret", "overwrites marks", "opens a secret to all", "calls a server"),
    *("imports the book's package", "equals everything", "forges an answer", "crashes in C"),
    *("a fork bomb", "raises its limits", "fills the disk", "kills its parent"),
    *("signals by a file's owner", "answers deeply", "tells inputs by an error's name"),
]


def with_attacks(folder, names):
    held = checks.module(ROOT / "course" / "attacks.py").ATTACKS
    _toy.book(folder)
    (folder / "course" / "attacks.py").write_text(
        f"ATTACKS = { ({name: held[name] for name in names})!r}"
    )
    return folder


ALL = checks.module(ROOT / "course" / "attacks.py").ATTACKS
WORKS = [name for name, problem in containment.available().items() if not problem]


@pytest.mark.parametrize("kind", WORKS)
def test_attacks_earn_and_touch_nothing(kind, toy, tmp_path):
    """All of them under what marking would choose, and some under the rest."""
    names = list(ALL) if kind == WORKS[0] else SHORT
    found = proof.attack(toy, with_attacks(tmp_path, names), kind, "secret")
    assert [(each.trial.name, each.problem) for each in found if not each.holds] == []
    assert len(found) == len(names)


@pytest.mark.skipif(sys.platform != "linux", reason="the bystander's process is seen in /proc")
@pytest.mark.parametrize("name", HARMLESS)
def test_without_a_wall_the_same_attacks_are_found_out(name, toy, tmp_path):
    (found,) = proof.attack(toy, with_attacks(tmp_path, [name]), "none", "secret")
    assert found.earned == 0
    assert found.problem == HARMLESS[name]


def test_no_containment_is_refused_unless_files_are_ones_own(monkeypatch):
    monkeypatch.setattr(containment, "available", lambda: {"landlock": "not on Plan 9"})
    with pytest.raises(containment.NotContained, match="landlock: not on Plan 9.*--own-files"):
        containment.chosen()
    with pytest.raises(containment.NotContained, match="landlock does not work here"):
        containment.chosen("landlock")
    with pytest.raises(containment.NotContained, match="expected one of"):
        containment.chosen("a wish")
    with pytest.raises(containment.NotContained, match="say so with --own-files"):
        containment.chosen("none")
    assert containment.chosen(own_files=True) == "none"


def test_a_process_that_does_not_start_is_our_failure(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with containment.Place("none") as place, pytest.raises(containment.NotContained):
        place.start()


def test_what_may_be_read_holds_no_part_of_the_book():
    files, folders = containment.readable()
    assert files
    package = str(Path(source.__file__).parents[1])
    assert not [each for each in (*files, *folders) if package.startswith(f"{each}/")]
    assert not [each for each in files if "modalign" in Path(each).name]
