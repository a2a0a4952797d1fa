"""hub: folders that datasets reads, with our column names. Nothing here asks the network."""

import datasets
import numpy as np
import PIL.Image
import pytest
import soundfile

from modalign import data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table"
    path.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        rows = [f'{{"sentence": "{split} {i}", "y": {i}}}\n' for i in range(count)]
        (path / f"{split}.jsonl").write_text("".join(rows))
    return path


def test_columns_are_renamed_and_splits_kept(table):
    rows = data.load(f"hub:{table}", columns={"text": "sentence", "label": "y"})
    assert rows["split"] == ["train"] * 3 + ["test"] * 2
    assert rows[4] == {"text": "test 1", "label": 1, "id": "test/1", "split": "test"}
    assert data.load(f"hub:{table}", "test").column_names == ["sentence", "y", "id", "split"]


def test_splits_are_mapped_and_a_missing_one_is_named(table):
    rows = data.load(f"hub:{table}", "validation", splits={"validation": "test"})
    assert rows["split"] == ["validation"] * 2
    with pytest.raises(ValueError, match="no 'validation' there, but train, test; splits="):
        data.load(f"hub:{table}", "validation")
    with pytest.raises(ValueError, match="splits: expected one of train, .* 'dev'"):
        data.load(f"hub:{table}", splits={"validation": "dev"})
    with pytest.raises(ValueError, match="splits: two of the set.s splits would have one name"):
        data.load(f"hub:{table}", splits={"test": "train"})
    with pytest.raises(ValueError, match="split: .*got 'tset'; did you mean 'test'"):
        data.load(f"hub:{table}", "tset")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"text": "words"}, "no column 'words'; it has sentence, y"),
        ({"y": "sentence"}, "'y' is there already"),
        ({"text": "y", "label": "y"}, "a column named twice"),
    ],
)
def test_a_wrong_mapping_is_refused(table, columns, problem):
    with pytest.raises(ValueError, match=f"columns: {problem}"):
        data.load(f"hub:{table}", columns=columns)


def test_nothing_is_downloaded_unless_asked():
    with pytest.raises(FileNotFoundError, match="no folder nobody/nothing; .* download=True"):
        data.load("hub:nobody/nothing")
    with pytest.raises(ValueError, match="expected hub:NAME or hub:FOLDER"):
        data.load("hub:")


def test_what_save_to_disk_wrote_is_read(tmp_path):
    data.load("digits", "test").save_to_disk(tmp_path / "saved")
    rows = data.load(f"hub:{tmp_path / 'saved'}", "test")
    assert rows.num_rows == 360
    assert rows[0]["image"].size == (8, 8)


@pytest.fixture
def pictures(tmp_path):
    path = tmp_path / "pictures"
    for kind in ("cat", "dog"):
        (path / "train" / kind).mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        PIL.Image.fromarray(noise).save(path / "train" / kind / f"{kind}.png")
    return path


def test_a_folder_of_pictures_is_read(pictures):
    rows = data.load(f"hub:{pictures}", "train")
    assert rows.features["label"].names == ["cat", "dog"]
    assert rows[1]["image"].size == (40, 40)


def test_a_truncated_picture_is_named_or_counted(pictures):
    path = pictures / "train" / "cat" / "cat.png"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(data.BadRow, match="train, row 1: .*cat.png is truncated"):
        data.load(f"hub:{pictures}")
    with pytest.warns(data.SkippedRows, match="skipped 1 bad rows, kept 1 rows"):
        rows = data.load(f"hub:{pictures}", on_bad="skip")
    assert rows["id"] == ["train/1"]
    assert "1 bad rows were skipped" in rows.info.description


def test_a_folder_of_sounds_is_read_without_torchcodec(tmp_path):
    for kind in ("high", "low"):
        (tmp_path / "sounds" / kind).mkdir(parents=True)
        soundfile.write(tmp_path / "sounds" / kind / f"{kind}.wav", np.zeros(800), 8000)
    rows = data.load(f"hub:{tmp_path / 'sounds'}")
    samples, rate = data.waveform(rows[0]["audio"])
    assert (len(samples), rate) == (800, 8000)
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write(tmp_path / "sounds" / "low" / "low.wav", noise, 8000, format="MP3")
    with pytest.raises(data.BadRow, match="expected WAV as its name says, got MP3 inside"):
        data.load(f"hub:{tmp_path / 'sounds'}")
