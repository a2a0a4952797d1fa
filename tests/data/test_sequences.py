"""yms and files of features."""

import pickle

import h5py
import numpy as np
import pytest
import safetensors.numpy

from modalign import data
from modalign.data.yms import match_clips

COUNTS = {
    None: (93, 16802, 5933),
    "train": (66, 12140, 4272),
    "validation": (12, 2014, 747),
    "test": (15, 2648, 914),
}


def total(rows, column):
    return sum(len(items) for items in rows[column])


@pytest.mark.parametrize("split", COUNTS)
def test_yms_in_full(real_data, split):
    rows = data.load("yms", split, checksums=True)
    assert (rows.num_rows, total(rows, "clips"), total(rows, "snippets")) == COUNTS[split]
    assert all(len(row["clips"]) == len(row["clip_snippet"]) for row in rows)
    assert "video 0087, which repeats another one, is left out" in rows.info.description


def test_yms_with_the_repeated_video_has_every_row_of_its_files(real_data):
    rows = data.load("yms", repeated=True)
    assert rows.num_rows == 94
    assert rows.filter(lambda row: row["split"] is None)["id"] == ["0087"]
    counts = [total(rows, name) for name in ("snippets", "unmatched", "unmatched_texts")]
    assert counts == [6019, 51, 161]
    assert sum(counts) == 6231
    assert sum(not text["text"] for texts in rows["snippets"] for text in texts) == 1
    texts = [text["text"] for row in rows["unmatched_texts"] for text in row]
    assert not any(text.startswith(("UNMATCHED", " ")) for text in texts)


def test_yms_ground_truth_is_the_one_of_the_readings(real_data):
    rows = data.load("yms")
    matches = np.concatenate([np.array(each) for each in rows["clip_snippet"]])
    assert (matches < 0).mean() == pytest.approx(0.105, abs=0.001)
    assert (matches >= 0).sum() / 5933 == pytest.approx(2.54, abs=0.005)
    for row in rows:
        matched = [each for each in row["clip_snippet"] if each >= 0]
        assert matched == sorted(matched)


def seconds_right(row):
    """The share of a video's seconds that the ground truth itself gets right."""
    texts = [(text["start"], text["end"]) for text in row["snippets"]]
    right = whole = 0
    for clip, match in zip(row["clips"], row["clip_snippet"], strict=True):
        shared = [max(0, min(clip["end"], end) - max(clip["start"], start)) for start, end in texts]
        length = clip["end"] - clip["start"]
        right += shared[match] if match >= 0 else length - sum(shared)
        whole += length
    return right / whole


@pytest.mark.parametrize(
    ("split", "bound"), [("train", 0.9846), ("validation", 0.9824), ("test", 0.9859)]
)
def test_yms_bounds_on_video_accuracy(real_data, split, bound):
    shares = [seconds_right(row) for row in data.load("yms", split)]
    assert np.mean(shares) == pytest.approx(bound, abs=5e-5)


def test_yms_of_sentences(real_data):
    rows = data.load("yms", unit="sentences")
    assert (rows.num_rows, total(rows, "clips")) == (93, 16802)
    with pytest.raises(ValueError, match="unit: .* got 'words'"):
        data.load("yms", unit="words")


def test_a_tie_between_snippet_and_none_is_none():
    clips = np.array([[0, 10], [10, 20], [20, 30]])
    snippets = np.array([[5, 10], [10, 16], [16, 20], [40, 50]])
    assert match_clips(clips, snippets).tolist() == [-1, 1, -1]


CLIPS = [
    "0001/0001_00.00.00.000-00.00.02.000",
    "0001/0001_00.00.02.000-00.00.04.000",
    "0002/0002_00.00.00.000-00.00.03.000",
]
TEXTS = [
    "0001_00.00.00.000-00.00.02.000\t A  dog runs. ",
    "0001_00.00.02.000-00.00.03.000\tUNMATCHED:and sleeps.",
    "0001_00.00.03.000-00.00.04.000\tUNMATCHED",
    "0002_00.00.00.000-00.00.03.000\tThe end.",
]


@pytest.fixture
def yms(tmp_path):
    write(tmp_path, "clip_segmentation.txt", CLIPS)
    write(tmp_path, "annotations_phrases.txt", TEXTS)
    write(tmp_path, "training_split.txt", ["0001"])
    write(tmp_path, "val_split.txt", ["# 0003  # repeats 0001"])
    write(tmp_path, "test_split.txt", ["0002"])
    return tmp_path


def write(folder, name, lines):
    (folder / name).write_text("\n".join(lines))


def test_small_yms_is_read(yms):
    rows = data.load("yms", folder=yms)
    assert rows["split"] == ["train", "test"]
    assert rows[0]["snippets"] == [{"text": "A dog runs.", "start": 0, "end": 2000}]
    assert rows[0]["clip_snippet"] == [0, -1]
    assert rows[0]["unmatched"] == [{"start": 3000, "end": 4000}]
    assert rows[0]["unmatched_texts"][0]["text"] == "and sleeps."
    assert rows[0]["title"] is None


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("clip_segmentation.txt", "0002/0002_00.00.03.000", "expected NNNN_HH.MM.SS.mmm-"),
        ("clip_segmentation.txt", "0001/0002_00.00.03.000-00.00.04.000", "expected NNNN/NNNN_"),
        ("clip_segmentation.txt", CLIPS[-1], "duplicate: row"),
        ("clip_segmentation.txt", "0002/0002_00.00.02.000-00.00.04.000", "before the last ends"),
        ("annotations_phrases.txt", "0002_00.00.04.000-00.00.04.000\tx", "an end after the start"),
        ("annotations_phrases.txt", "0002_00.00.04.000-00.00.05.000 x", "got 1 fields"),
        ("annotations_phrases.txt", "", "got 1 fields"),
        ("val_split.txt", "0001", "duplicate: 0001 is in the train split"),
        ("val_split.txt", "one", "expected a video NNNN, got b'one'"),
    ],
)
def test_a_bad_row_is_named_or_counted(yms, name, line, problem):
    lines = (yms / name).read_text().split("\n")
    # an empty line is a row unless it is the last
    write(yms, name, [*lines, line, *([] if line else [""])])
    with pytest.raises(data.BadRow, match=f"{name}, row {len(lines) + 1}: .*{problem}"):
        data.load("yms", folder=yms)
    with pytest.warns(data.SkippedRows, match="skipped 1 bad rows, kept 2 rows"):
        data.load("yms", folder=yms, on_bad="skip")


def test_a_video_of_no_split_or_without_clips_is_a_bad_row(yms):
    write(yms, "test_split.txt", ["0005"])
    with pytest.warns(data.SkippedRows) as caught:
        rows = data.load("yms", folder=yms, on_bad="skip")
    assert rows["id"] == ["0001"]
    assert "video 0002 is in none of training_split.txt" in caught[0].message.rows[0]
    assert "video 0005: 0 clips and 0 snippets" in caught[0].message.rows[1]


# features


def store(kind, folder, arrays):
    if kind == "npy":
        path = folder / "features"
        path.mkdir()
        for key, array in arrays.items():
            np.save(path / f"{key}.npy", array)
    elif kind == "npz":
        path = folder / "features.npz"
        np.savez(path, **arrays)
    elif kind == "safetensors":
        path = folder / "features.safetensors"
        safetensors.numpy.save_file(arrays, path)
    else:
        path = folder / "features.h5"
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
    return path


@pytest.mark.parametrize("kind", ["h5", "npz", "npy", "safetensors"])
def test_features_come_with_the_rows(yms, kind):
    arrays = {"0001": np.arange(6.0).reshape(2, 3), "0002": np.ones((1, 3))}
    path = store(kind, yms, arrays)
    rows = data.load("yms", folder=yms, clip_features=path)
    assert rows[0]["clip_features"].dtype == np.float32
    np.testing.assert_array_equal(rows[0]["clip_features"], arrays["0001"])
    assert [len(each) for each in rows[:2]["clip_features"]] == [2, 1]
    assert rows["id"] == ["0001", "0002"]
    again = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(again[1]["clip_features"], arrays["0002"])


@pytest.mark.parametrize("kind", ["h5", "npz", "npy", "safetensors"])
@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.array([[0.0], [np.nan]]), "NaN or infinity in row 1"),
        (np.ones((3, 1)), "expected 2 rows, as there are clips, got 3"),
        (np.ones(2), r"expected a matrix \(rows, width\), got shape \(2,\)"),
        (np.ones((2, 2)), "expected width 2 as before, got 1"),
        (None, "no features of '0001'"),
    ],
)
def test_bad_features_are_named_or_counted(yms, kind, array, problem):
    arrays = {"0002": np.ones((1, 1))} | ({} if array is None else {"0001": array})
    path = store(kind, yms, arrays)
    with pytest.raises(data.BadRow, match=problem) as error:
        data.load("yms", folder=yms, clip_features=path)
    assert str(path) in str(error.value)
    with pytest.warns(data.SkippedRows, match="skipped 1 bad rows, kept 1 rows"):
        data.load("yms", folder=yms, clip_features=path, on_bad="skip")


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_pickled_features_are_refused_by_name(yms, kind):
    path = store(kind, yms, {"0001": np.array([[{}], [{}]]), "0002": np.ones((1, 1))})
    with pytest.raises(data.BadRow, match=f"{path}, key '0001': pickled or damaged, and not read"):
        data.load("yms", folder=yms, clip_features=path)


def test_a_pickle_named_npy_is_refused_by_name(yms):
    path = store("npy", yms, {"0002": np.ones((1, 1))})
    (path / "0001.npy").write_bytes(pickle.dumps({"0001": 1}))
    with pytest.raises(data.BadRow, match=f"{path}, key '0001': pickled or damaged"):
        data.load("yms", folder=yms, clip_features=path)


@pytest.mark.parametrize("name", ["a.pkl", "a.npy", "a.pt"])
def test_files_of_other_kinds_are_refused_by_name(yms, name):
    (yms / name).write_bytes(pickle.dumps({}))
    with pytest.raises(
        ValueError, match=f"{name}.*expected .h5, .hdf5, .npz, .safetensors or a folder"
    ):
        data.load("yms", folder=yms, clip_features=yms / name)


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a.safetensors"])
def test_a_damaged_file_of_features_is_named(yms, name):
    (yms / name).write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(data.BadRow, match=f"{name} is damaged or of another format"):
        data.load("yms", folder=yms, clip_features=yms / name)


def test_a_missing_file_of_features_is_named(yms):
    with pytest.raises(FileNotFoundError, match="features: no file or folder nowhere.h5"):
        data.load("yms", folder=yms, clip_features="nowhere.h5")
