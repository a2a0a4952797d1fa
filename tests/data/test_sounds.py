"""esc10, in full where it is, and as tiny files."""

from collections import Counter

import numpy as np
import pytest
import soundfile

from modalign import data


def test_esc10_in_full(real_data):
    rows = data.load("esc10")
    assert rows.num_rows == 400 == len(set(rows["id"]))
    assert Counter(rows["label"]) == dict.fromkeys(range(10), 40)
    assert Counter(rows["fold"]) == dict.fromkeys(range(1, 6), 80)
    names = rows.features["label"].names
    assert [names[label] for label in rows["label"]] == rows["text"][:]
    samples, rate = data.waveform(rows[0]["audio"])
    assert rate == 44100
    assert len(samples) / rate == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("fold", [1, 5])
def test_esc10_splits_are_folds(real_data, fold):
    def load(split, **options):
        return data.load("esc10", split, fold=fold, verify=False, **options)

    assert set(load("test")["fold"]) == {fold}
    assert set(load("train")["fold"]) == set(range(1, 6)) - {fold}
    assert set(load("validation", validation_fold=3)["fold"]) == {3}
    assert set(load("train", validation_fold=3)["fold"]) == set(range(1, 6)) - {fold, 3}
    with pytest.raises(ValueError, match="a validation set needs validation_fold"):
        load("validation")


@pytest.mark.parametrize("options", [{"fold": 0}, {"fold": 6}, {"validation_fold": 5}])
def test_esc10_refuses_folds_there_are_not(tmp_path, options):
    with pytest.raises(ValueError, match="expected .*1 to 5"):
        data.load("esc10", folder=tmp_path, **options)


@pytest.fixture
def clips(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 44100)
    for folder, name in (("001 - Dog bark", "1-10-A"), ("002 - Rain", "5-20-A")):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / f"{name}.ogg", noise, 44100, format="OGG")
    return tmp_path


def test_small_esc10_is_read(clips):
    rows = data.load("esc10", folder=clips)
    assert rows["text"] == ["dog bark", "rain"]
    assert rows["split"] == ["train", "test"]


def spoil(clips, how):
    path = clips / "002 - Rain" / "5-20-A.ogg"
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "wav":
        soundfile.write(path, np.zeros(100), 44100, format="WAV")
    elif how == "name":
        path = path.rename(path.with_name("6-20-A.ogg"))
    elif how == "class":
        path.parent.rename(clips / "002 - Snow")
        path = clips / "002 - Snow" / path.name
    elif how == "folder":
        path.parent.rename(clips / "11 rain")
        path = clips / "11 rain" / path.name
    else:
        path = path.rename(path.with_name("1-10-A.ogg"))
    return path


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("cut", "truncated"),
        ("wav", "expected OGG as its name says, got WAV inside"),
        ("name", "expected a name FOLD-CLIP-TAKE.ogg, FOLD 1 to 5, got '6-20-A.ogg'"),
        ("class", "expected class 'rain' in folder 002, got 'Snow'"),
        ("folder", "expected a folder such as '001 - Dog bark', got '11 rain'"),
        ("twice", "duplicate: clip '1-10-A' came before"),
    ],
)
def test_a_bad_clip_is_named_or_counted(clips, how, problem):
    path = spoil(clips, how)
    with pytest.raises(data.BadRow, match=problem) as error:
        data.load("esc10", folder=clips)
    assert str(path) in str(error.value)
    with pytest.warns(data.SkippedRows, match="esc10: skipped 1 bad rows, kept 1 rows"):
        assert data.load("esc10", folder=clips, on_bad="skip").num_rows == 1


def test_links_out_of_the_folder_are_refused(clips, tmp_path_factory):
    path = clips / "002 - Rain" / "5-20-A.ogg"
    outside = path.rename(tmp_path_factory.mktemp("outside") / path.name)
    path.symlink_to(outside)
    with pytest.raises(data.BadRow, match="5-20-A.ogg' leads out of the folder"):
        data.load("esc10", folder=clips, verify=False)
    with pytest.warns(data.SkippedRows):
        assert data.load("esc10", folder=clips, on_bad="skip").num_rows == 1


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_waveform_is_finite_or_refused(tmp_path):
    path = tmp_path / "a.wav"
    for samples, kind in (([0, np.nan], "FLOAT"), ([0, 1e39], "DOUBLE"), ([[3e38, 3e38]], "FLOAT")):
        soundfile.write(path, np.array(samples), 8000, subtype=kind)
        with pytest.raises(ValueError, match="a.wav: expected finite samples"):
            data.waveform({"path": str(path), "bytes": None})
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="a.wav: truncated or not a sound file"):
        data.waveform({"path": str(path), "bytes": None})
    with pytest.raises(ValueError, match="rate: expected a positive number"):
        data.waveform({"path": str(path), "bytes": None}, rate=0.5)
