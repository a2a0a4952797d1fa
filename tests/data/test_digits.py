import io
import os
import shutil
from collections import Counter

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from sklearn.datasets import load_digits

from modalign import data
from modalign.studies.cka import digits as model


def test_digits_are_the_scans_of_scikit_learn():
    scans, rows = load_digits(), data.load("digits")
    assert rows.num_rows == 1797
    assert rows["label"] == scans.target.tolist()
    pixels = np.stack([np.asarray(image) for image in rows["image"]])
    np.testing.assert_array_equal(np.round(pixels * (16 / 255)), scans.images)
    names = rows.features["label"].names
    assert all(names[row["label"]] == row["text"] for row in rows)


def test_digits_split_as_the_models_of_the_book_do():
    for split, (images, labels) in zip(("train", "test"), model.scans(), strict=True):
        rows = data.load("digits", split)
        assert rows["label"] == labels.tolist()
        assert set(rows["split"]) == {split}
        first = torch.tensor(np.asarray(rows[0]["image"])).flatten() / 255
        torch.testing.assert_close(first, images[0], atol=0.002, rtol=0)


@pytest.mark.parametrize(("split", "count"), [(None, 3000), ("train", 2700), ("test", 300)])
def test_spoken_digits_in_full(real_data, split, count):
    rows = data.load("spoken-digits", split)
    assert rows.num_rows == count == len(set(rows["id"]))
    assert set(Counter(rows["speaker"]).values()) == {count // 6}
    assert set(Counter(rows["text"]).values()) == {count // 10}
    assert all(
        (take < 5) == (split == "test")
        for take, split in zip(rows["take"], rows["split"], strict=True)
    )


def test_spoken_digits_pair_scans_of_the_same_digit_and_split(real_data):
    scans = {row["id"]: row for row in data.load("digits").remove_columns("image")}
    rows = data.load("spoken-digits", verify=False).remove_columns(["image", "audio"])
    for row in rows:
        scan = scans[row["scan"]]
        assert (scan["label"], scan["split"]) == (row["label"], row["split"])
        assert row["id"].startswith(f"{row['label']}_")
    uses = Counter((row["label"], row["scan"]) for row in rows if row["split"] == "train")
    for digit in range(10):
        counts = [count for (label, _), count in uses.items() if label == digit]
        assert max(counts) - min(counts) <= 1


def test_pairs_depend_on_the_seed_alone(real_data):
    def pairs(split, seed=0):
        rows = data.load("spoken-digits", split, seed=seed, verify=False)
        return dict(zip(rows["id"], rows["scan"], strict=True))

    everything = pairs(None)
    assert everything.items() >= pairs("test").items()
    assert pairs(None, seed=1) != everything


def test_recordings_are_heard(real_data):
    row = data.load("spoken-digits", "test", verify=False)[0]
    samples, rate = data.waveform(row["audio"])
    assert rate == 8000
    assert samples.dtype == torch.float32
    assert 0.01 < samples.abs().max() <= 1
    doubled, rate = data.waveform(row["audio"], rate=16000)
    assert (rate, len(doubled)) == (16000, 2 * len(samples))


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    tone = np.sin(np.arange(800) / 5) / 2
    for name in ("7_ann_0", "7_ann_5", "3_ann_12", "3_bo_1"):
        soundfile.write(folder / f"{name}.wav", tone, 8000)
    return folder


def spoil(recordings, how):
    """Spoil 7_ann_5.wav in one way, and return the path of the bad file."""
    path = recordings / "7_ann_5.wav"
    if how == "mp3":
        samples = np.sin(np.arange(8000) / 5)
        soundfile.write(path, samples, 8000, format="MP3")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "nan":
        soundfile.write(path, np.array([0, np.nan, 1], np.float32), 8000, subtype="FLOAT")
    elif how == "empty":
        soundfile.write(path, np.zeros(0), 8000)
    elif how == "text":
        path.write_text("no sound")
    elif how == "name":
        path = path.rename(recordings / "seven_ann.wav")
    elif how == "other":
        path = path.rename(recordings / "7_ann_5.mp3")
    return path


def test_small_recordings_are_read(recordings):
    rows = data.load("spoken-digits", folder=recordings.parent)
    assert rows["id"] == ["3_ann_12", "3_bo_1", "7_ann_0", "7_ann_5"]
    assert rows["split"] == ["train", "test", "test", "train"]
    assert rows["text"] == ["three", "three", "seven", "seven"]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("mp3", "expected WAV as its name says, got MP3 inside"),
        ("cut", "truncated"),
        ("nan", "expected finite samples"),
        ("empty", "empty or truncated: 0 samples"),
        ("text", "not a sound file"),
        ("name", "expected a name DIGIT_SPEAKER_TAKE.wav, got 'seven_ann.wav'"),
        ("other", "expected a name DIGIT_SPEAKER_TAKE.wav"),
    ],
)
def test_a_bad_recording_is_named_or_counted(recordings, how, problem):
    path = spoil(recordings, how)
    with pytest.raises(data.BadRow, match=problem) as error:
        data.load("spoken-digits", folder=recordings.parent)
    assert str(path) in str(error.value)
    with pytest.warns(data.SkippedRows, match="skipped 1 bad rows, kept 3 rows") as caught:
        rows = data.load("spoken-digits", folder=recordings.parent, on_bad="skip")
    assert str(path) in caught[0].message.rows[0]
    assert "1 bad rows were skipped" in rows.info.description
    assert rows.num_rows == 3


@pytest.mark.parametrize("name", ["7_ann_99999999999.wav", b"7_\xff_5.wav", "link"])
def test_a_recording_that_cannot_be_a_row_is_named_or_counted(recordings, name):
    path = recordings / "7_ann_5.wav"
    if name == "link":
        outside = path.rename(recordings.parent.parent / "secret.wav")
        path.symlink_to(outside)
    else:
        os.rename(path, os.path.join(os.fsencode(recordings), os.fsencode(name)))
    with pytest.raises(data.BadRow, match="recordings/7_.*wav: .*(does not fit|leads out)"):
        data.load("spoken-digits", folder=recordings.parent, verify=False)
    with pytest.warns(data.SkippedRows, match="skipped 1 bad rows, kept 3 rows"):
        data.load("spoken-digits", folder=recordings.parent, on_bad="skip")


def test_where_every_row_is_bad_nothing_is_returned(recordings):
    shutil.rmtree(recordings)
    recordings.mkdir()
    with pytest.raises(ValueError, match="spoken-digits: it has no row"):
        data.load("spoken-digits", folder=recordings.parent)
    (recordings / "x.wav").write_text("")
    with pytest.raises(ValueError, match="no row; skipped: .*x.wav"):
        data.load("spoken-digits", folder=recordings.parent, on_bad="skip")


def test_sound_is_decoded_from_bytes_and_channels_are_averaged():
    file = io.BytesIO()
    soundfile.write(file, np.array([[0.5, 0.0], [0.25, -0.25]]), 8000, "FLOAT", format="WAV")
    samples, _ = data.waveform({"bytes": file.getvalue(), "path": None})
    torch.testing.assert_close(samples, torch.tensor([0.25, 0.0]))
    with pytest.raises(ValueError, match="rate: expected a positive"):
        data.waveform({"bytes": file.getvalue(), "path": None}, rate=-1)


def test_pictures_are_grey():
    assert isinstance(data.load("digits")[0]["image"], PIL.Image.Image)
    assert data.load("digits")[0]["image"].mode == "L"
