import json
import os

import pandas as pd
import pytest

import modalign
from modalign import records


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


def test_a_truncated_table_is_noticed(runs, tmp_path):
    path = save(runs, tmp_path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="2 rows, its provenance says 3"):
        records.load("cka/map", tmp_path)


def test_an_empty_table_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="'cka/map' has no row"):
        save(runs.iloc[:0], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_table_without_its_other_half_is_no_record(runs, tmp_path, suffix):
    save(runs, tmp_path).with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError):
        records.load("cka/map", tmp_path)


def test_saving_leaves_whole_files_only(runs, tmp_path, monkeypatch):
    save(runs, tmp_path)
    before = {path.name: path.read_text() for path in (tmp_path / "cka").iterdir()}
    assert set(before) == {"map.csv", "map.json"}

    def full_disk(path, text):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.write_text", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save(runs.head(1), tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in (tmp_path / "cka").iterdir()} == before


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
