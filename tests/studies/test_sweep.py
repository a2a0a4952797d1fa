"""What a sweep keeps, what it makes again, and what it refuses."""

import dataclasses
import functools
import pathlib
import re
import warnings

import pandas as pd
import pytest

from modalign import records
from modalign.studies import _sweep
from modalign.training import DivergenceError


@dataclasses.dataclass(frozen=True)
class Setting:
    rate: float = 0.1
    norms: tuple = ("sbn",)
    epochs: int = 2
    seed: int = 0


GRID = {"rate": [0.1, 1 / 3], "epochs": [2]}


def work(task, log):
    """Two rows of numbers that only float64 holds; each call leaves a line in the log."""
    with open(log, "a") as file:
        file.write(f"{task.row} {task.setting.seed}\n")
    if task.setting.rate < 0:
        raise DivergenceError("the loss is inf", pd.DataFrame())
    found = [task.setting.rate + task.setting.seed, float("nan")]
    table = pd.DataFrame({"row": task.row, "seed": task.setting.seed, "x": found})
    table.attrs = {"seconds": 0.25, "note": [task.row]}
    return table


def counted(task, log):
    """Epochs done before, from the checkpoint, and then those that are left."""
    done = int(task.checkpoint.read_text()) if task.checkpoint.exists() else 0
    with open(log, "a") as file:
        file.write(f"from {done}\n")
    task.checkpoint.write_text(str(task.setting.epochs))
    return pd.DataFrame([{"epochs": task.setting.epochs}])


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Record in this process; what was run is in the log."""
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setattr(records, "each", lambda work, tasks, **_: [work(task) for task in tasks])
    monkeypatch.setattr(records, "commit", lambda: ("0" * 12, None))

    def record(tasks, work=work, **options):
        log.write_text("")
        given = {"parameters": {"seeds": 2}, "folder": tmp_path, "progress": False} | options
        return _sweep.record(functools.partial(work, log=log), tasks, "tiny/map", **given)

    record.log = lambda: log.read_text().splitlines()
    record.runs = tmp_path / "tiny" / ".map"
    record.load = lambda: records.load("tiny/map", tmp_path)
    return record


TASKS = [("a", Setting(1 / 3, seed=seed)) for seed in (0, 1)] + [("b", Setting())]


def test_a_grid_has_every_combination_with_every_seed_and_what_it_leaves_is_fixed():
    found = _sweep.settings_of(Setting, GRID, range(2))
    assert [(each.rate, each.seed) for each in found] == [
        (0.1, 0),
        (0.1, 1),
        (1 / 3, 0),
        (1 / 3, 1),
    ]
    assert _sweep.shared_by(found) == {"norms": ("sbn",), "epochs": 2}
    assert _sweep.fixed_in(found[0], "norms") == {"rate": 0.1, "epochs": 2}


def test_what_is_finished_is_kept_exactly_and_not_made_again(sweep):
    first = sweep(TASKS)
    assert sweep.log() == ["a 0", "a 1", "b 0"]
    table = sweep.load()
    known = {"commits": ["0" * 12], "places": [records.place()]}
    assert table.attrs["parameters"] == {"seeds": 2, **known}
    assert table.attrs["seconds"] == 0.8  # three times what the work says
    next(sweep.runs.glob("a-1-*.run")).unlink()  # as if killed before this one was finished
    again = sweep(TASKS)
    assert sweep.log() == ["a 1"]
    for one, other, (row, setting) in zip(first, again, TASKS, strict=True):
        known = [setting.rate + setting.seed, float("nan")]
        assert one["x"].tolist() == pytest.approx(known, abs=0, rel=0, nan_ok=True)
        pd.testing.assert_frame_equal(one, other, check_exact=True)
        assert one.attrs["note"] == [row]
    pd.testing.assert_frame_equal(sweep.load(), table)


def test_another_setting_or_row_is_another_run(sweep):
    sweep(TASKS)
    for other in (("a+", Setting(1 / 3)), ("a", Setting(1 / 3, epochs=3)), ("b", Setting(seed=5))):
        sweep([other])
        assert len(sweep.log()) == 1
    assert len(list(sweep.runs.glob("*.run"))) == 6


def test_a_default_that_changed_makes_the_run_again(sweep):
    sweep(TASKS[2:])

    @dataclasses.dataclass(frozen=True)
    class Changed(Setting):
        epochs: int = 3
        added: str = "usual"

    sweep([("b", Changed(epochs=3))])  # its file has the same name
    assert sweep.log() == ["b 0"]
    assert len(list(sweep.runs.glob("*.run"))) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[: len(text) // 3], "its record is no JSON object"),
        (lambda text: text[:-3], "the file is not the one that was written"),
        (lambda text: text.replace('"seed": 0', '"seed": 7'), "its record is not the one"),
        (lambda text: "[]\n[]", "its record is no JSON object"),
    ],
)
def test_a_kept_run_that_was_damaged_is_refused_and_named(sweep, change, problem):
    sweep(TASKS)
    part = next(sweep.runs.glob("b-*.run"))
    part.write_text(change(part.read_text()))
    with pytest.raises(ValueError, match=rf"b-0-.*\.run: {problem}.*; delete it, and its run"):
        sweep(TASKS)
    part.unlink()
    sweep(TASKS)
    assert sweep.log() == ["b 0"]


@pytest.mark.parametrize("tasks", [[], [TASKS[0], TASKS[0]]])
def test_no_run_and_a_run_twice_are_refused(sweep, tasks):
    with pytest.raises(ValueError, match="tasks: expected one or more, each once, got"):
        sweep(tasks)


@pytest.mark.parametrize("now", ["1" * 12, "0" * 12 + "+changes", None])
def test_runs_of_other_code_are_used_with_a_warning(sweep, monkeypatch, now):
    sweep(TASKS[:2])
    monkeypatch.setattr(records, "commit", lambda: (now, None))
    with pytest.warns(UserWarning, match="keeps 2 of the runs from before, made at 0{12} "):
        sweep(TASKS)
    assert sweep.load().attrs["parameters"]["commits"] == sorted(["0" * 12, str(now)])
    for part in sweep.runs.glob("a-*.run"):
        part.unlink()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sweep(TASKS[2:])
    # of two with changes, or without a commit, nothing says that they are the same
    assert len(told) == (now != "1" * 12)


def test_a_run_begins_at_the_end_of_the_longest_shorter_one(sweep):
    def shorter(setting):
        return [dataclasses.replace(setting, epochs=e) for e in range(setting.epochs - 1, 0, -1)]

    for epochs, begun in ((3, 0), (5, 3), (4, 3), (9, 5), (9, None)):
        sweep([("a", Setting(epochs=epochs))], counted, shorter=shorter)
        assert sweep.log() == ([] if begun is None else [f"from {begun}"])
        assert sweep.load()["epochs"].tolist() == [epochs]
    sweep([("b", Setting(epochs=9))], counted, shorter=shorter)
    assert sweep.log() == ["from 0"]  # another row's are not its own
    assert {path.suffix for path in sweep.runs.iterdir()} == {".run", ".pt"}


def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path):
    """In processes of their own, whose errors have to be sent: DivergenceError cannot be."""
    log = tmp_path / "log"
    call = functools.partial(
        _sweep.record,
        functools.partial(work, log=log),
        name="tiny/map",
        parameters={},
        folder=tmp_path,
        progress=False,
    )
    message = re.escape("run 'b', Setting(rate=-1, norms=('sbn',), epochs=2, seed=0): Divergence")
    with pytest.raises(RuntimeError, match=message):
        call([TASKS[0], ("b", Setting(rate=-1))])
    assert not pathlib.Path(tmp_path / "tiny" / "map.csv").exists()
    call([TASKS[0]])
    assert log.read_text().splitlines() == ["a 0", "b 0"]
