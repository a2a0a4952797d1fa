import errno
import json
import os
import pathlib
import re
import subprocess

import pandas as pd
import pytest

import modalign
from modalign import records

RESULTS = pathlib.Path(__file__).parents[1] / "results"


@pytest.fixture
def runs():
    return pd.DataFrame(
        {"seed": [0, 1, 2], "loss": ["both", "cka", "both"], "cka": [0.25, 0.5, 1.0]}
    )


def save(table, folder, name="cka/map"):
    return records.save(table, name, parameters={"seeds": [0, 1, 2]}, seconds=1.23, folder=folder)


def test_what_is_saved_is_loaded_with_its_provenance(runs, tmp_path):
    assert save(runs, tmp_path) == tmp_path / "cka" / "map.csv"
    loaded = records.load("cka/map", tmp_path)
    pd.testing.assert_frame_equal(loaded, runs)
    assert loaded.attrs["parameters"] == {"seeds": [0, 1, 2]}
    assert loaded.attrs["rows"] == 3
    assert loaded.attrs["seconds"] == 1.2
    assert loaded.attrs["version"] == modalign.__version__
    assert loaded.attrs["peak_memory_mib"] > 10
    assert set(loaded.attrs["libraries"]) == set(records.LIBRARIES)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


@pytest.mark.parametrize(
    ("suffix", "old", "new", "problem"),
    [
        (".csv", "0.25", "0.75", "the file is not the one that was written"),
        (".csv", "2,both,1\n", "", "the file is not the one that was written"),
        (".csv", "\n", "\r\n", "the file is not the one that was written"),
        (".json", '"rows": 3', '"rows": 4', "its record is not the one that was written"),
        (".json", "    2\n", "    2,\n    3\n", "its record is not the one that was written"),
        (".json", '  "sha256"', '  "sha"', "its record has no checksum"),
        (".json", "{\n", "[\n", "map.json is damaged: it holds no JSON object"),
    ],
)
def test_a_table_edited_or_damaged_is_refused(runs, tmp_path, suffix, old, new, problem):
    path = save(runs, tmp_path)
    edit(path.with_suffix(suffix), old, new)
    with pytest.raises(ValueError, match=rf"load: .*{problem}; make the run again"):
        records.load("cka/map", tmp_path)


def test_a_provenance_laid_out_another_way_is_the_same(runs, tmp_path):
    path = save(runs, tmp_path).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True).replace("\n", "\r\n"))
    pd.testing.assert_frame_equal(records.load("cka/map", tmp_path), runs)


@pytest.mark.parametrize("step", range(8))
def test_a_save_that_is_killed_leaves_the_old_pair_or_the_new_one(
    runs, tmp_path, monkeypatch, step
):
    """Killed at each of its writes and renames in turn, and nothing cleans up behind it."""
    save(runs, tmp_path)
    new = runs.assign(cka=[0.75, 0.5, 0.25])
    done = []

    def dies(before):
        def call(*arguments, **options):
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(before)
            return before(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies(os.fsync))
        patch.setattr(pathlib.Path, "replace", dies(pathlib.Path.replace))
        # a killed process tidies nothing
        patch.setattr(pathlib.Path, "unlink", lambda path, missing_ok=False: None)
        try:
            save(new, tmp_path)
            finished = True
        except KeyboardInterrupt:
            finished = False
    loaded = records.load("cka/map", tmp_path)
    committed = finished or len(done) > 3
    pd.testing.assert_frame_equal(loaded, new if committed else runs)
    save(runs, tmp_path)
    assert {path.name for path in (tmp_path / "cka").iterdir()} == {"map.csv", "map.json"}


def test_the_recorded_tables_of_the_book_are_as_they_were_written():
    names = [path.relative_to(RESULTS).with_suffix("") for path in RESULTS.glob("*/*.csv")]
    assert len(names) >= 17
    for name in names:
        assert len(records.load(str(name), RESULTS)) > 0
    # a checkout that turns line ends would change every table
    asked = ["git", "check-attr", "text", *(f"results/{name}.csv" for name in names)]
    told = subprocess.run(asked, cwd=RESULTS.parent, capture_output=True, text=True, check=True)
    assert all(line.endswith("text: unset") for line in told.stdout.splitlines()), told.stdout


def test_an_empty_table_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="'cka/map' has no row"):
        save(runs.iloc[:0], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_table_without_its_other_half_is_no_record(runs, tmp_path, suffix):
    save(runs, tmp_path).with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError):
        records.load("cka/map", tmp_path)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_full_disk_leaves_the_old_pair_and_is_named(runs, tmp_path, monkeypatch, writes):
    save(runs, tmp_path)
    left = [writes]

    def full_disk(number):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match=r"cannot write .*map.*: No space left.*MiB free") as info:
            save(runs.head(1), tmp_path)
    assert info.value.errno == errno.ENOSPC
    assert {path.name for path in (tmp_path / "cka").iterdir()} == {"map.csv", "map.json"}
    pd.testing.assert_frame_equal(records.load("cka/map", tmp_path), runs)


def test_a_folder_that_cannot_be_made_is_named(runs, tmp_path):
    (tmp_path / "cka").touch()
    with pytest.raises(OSError, match=r"cannot write .*map\.csv: (File exists|Not a directory)"):
        save(runs, tmp_path)


def test_a_checkout_whose_git_refuses_has_no_commit_and_says_why(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(modalign, "__file__", str(tmp_path / "modalign" / "__init__.py"))
    assert records.commit() == (None, f"{tmp_path} is not a git checkout")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert records.commit()[0] is None  # nothing was committed yet
    # git itself then takes the folder for another user's
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    found = records.provenance()
    assert found["commit"] is None
    assert "git refuses: fatal: detected dubious ownership" in found["no_commit"]
    with pytest.warns(UserWarning, match="no commit is recorded: git refuses: .*ownership"):
        save(runs, tmp_path)
    assert "dubious ownership" in records.load("cka/map", tmp_path).attrs["no_commit"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.commit() == (None, "git does not start: No such file or directory")


def test_a_commit_is_told_and_so_are_changes_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(modalign, "__file__", str(tmp_path / "modalign" / "__init__.py"))
    (tmp_path / "modalign").mkdir()
    (tmp_path / "modalign" / "__init__.py").touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    found, why = records.commit()
    assert re.fullmatch("[0-9a-f]{12}", found)
    assert why is None
    assert "no_commit" not in records.provenance()
    (tmp_path / "modalign" / "__init__.py").write_text("changed = 1\n")
    assert records.commit() == (f"{found}+changes", None)


def test_provenance_is_plain_data():
    told = records.provenance()
    assert json.loads(json.dumps(told)) == told
    assert told["machine"]["cores"] >= 1
    assert told["date"].endswith("+00:00")


def test_the_results_folder_is_found_from_below(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README.md").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert records.results_folder() == tmp_path / "results"


def test_listing_tells_what_stands_behind_tables(tmp_path):
    table = pd.DataFrame({"x": [1.0, 2.0]})
    records.save(table, "one", parameters={"seeds": 7}, seconds=90, folder=tmp_path)
    found = records.listing(["one"], tmp_path).iloc[0]
    assert (found["rows"], found["seeds"], found["minutes"]) == (2, 7, 1.5)
    assert "torch" in found["machine"]


def test_a_missing_run_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="gpu preset makes it"):
        records.load("nowhere", tmp_path)


def test_provenance_tells_which_data_were_at_hand(tmp_path, monkeypatch):
    monkeypatch.delenv("MODALIGN_DATA", raising=False)
    assert records.provenance()["data"] is None
    monkeypatch.setenv("MODALIGN_DATA", str(tmp_path))
    assert records.provenance()["data"]["files"] == 0
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.csv").write_text("a,b\n")
    found = records.provenance()["data"]
    assert (found["files"], found["bytes"]) == (1, 4)
    (tmp_path / "set" / "rows.csv").write_text("a,b,c\n")
    assert records.provenance()["data"]["fingerprint"] != found["fingerprint"]


def square(number):
    import torch

    if number < 0:
        raise ValueError(f"number: expected 0 or more, got {number}")
    return number**2, torch.get_num_threads(), os.getpid()


def test_the_tasks_of_a_sweep_come_back_in_their_order_each_on_one_thread():
    found = records.each(square, [3, 1, 2, 5], jobs=2, progress=False)
    squares, threads, processes = zip(*found, strict=True)
    assert squares == (9, 1, 4, 25)
    assert set(threads) == {1}
    assert os.getpid() not in processes


def test_an_error_in_a_task_ends_the_sweep():
    with pytest.raises(ValueError, match="number: expected 0 or more, got -1"):
        records.each(square, [1, -1, 2], progress=False)
