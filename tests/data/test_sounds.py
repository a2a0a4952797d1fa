"""esc10, in full where it is, and as tiny files; and the formats of sounds."""

from collections import Counter

import av
import numpy as np
import pytest
import soundfile
import torch

from modalign import data
from modalign.data import audio


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


# formats


TONE = 0.5 * np.sin(0.05 * np.arange(24000)).astype(np.float32)


def m4a(path, codec="aac", options=None):
    """A tone, by the encoders of FFmpeg."""
    file = av.open(str(path), "w", format="ipod", options=options or {})
    stream = file.add_stream(codec, rate=48000)
    stream.layout = "mono"
    samples = TONE[None] if codec == "aac" else (32767 * TONE[None]).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(
        samples, format="fltp" if codec == "aac" else "s16p", layout="mono"
    )
    frame.sample_rate = 48000
    for each in (frame, None):
        for packet in stream.encode(each):
            file.mux(packet)
    file.close()


WRITERS = {
    "a.aiff": lambda path: soundfile.write(path, TONE, 48000, format="AIFF"),
    "b.aif": lambda path: soundfile.write(path, TONE, 48000, format="AIFF", subtype="FLOAT"),
    "c.opus": lambda path: soundfile.write(path, TONE, 48000, format="OGG", subtype="OPUS"),
    "d.m4a": m4a,
    "e.M4A": lambda path: m4a(path, "alac"),
    "f.m4a": lambda path: m4a(path, options={"movflags": "faststart"}),
}


@pytest.fixture(params=WRITERS, ids=str)
def heard(request, tmp_path):
    path = tmp_path / "sounds" / request.param
    path.parent.mkdir()
    WRITERS[request.param](path)
    return path


def test_a_tone_is_heard_in_each_format(heard):
    rows = data.load(f"hub:{heard.parent}")
    samples, rate = data.waveform(rows[0]["audio"])
    assert rate == 48000
    assert samples.dtype == torch.float32
    assert 0 <= len(samples) - len(TONE) <= 2048  # AAC comes in frames, with one before the sound
    error = min(
        np.abs(samples[start : start + 20000].numpy() - TONE[:20000]).max() for start in (0, 1024)
    )
    assert error < 0.06
    content = {"bytes": heard.read_bytes(), "path": None}
    assert torch.equal(data.waveform(content)[0], samples)
    assert len(data.waveform(content, rate=16000)[0]) == -(-len(samples) // 3)


@pytest.mark.parametrize("left", [1, 10, 200, 2000, -10, -60])
def test_a_cut_file_of_each_format_is_refused(heard, left):
    content = heard.read_bytes()
    heard.write_bytes(content[:-left])
    with pytest.raises(data.BadRow, match="row 1: (empty or )?truncated"):
        data.load(f"hub:{heard.parent}")


@pytest.mark.parametrize("suffix", [".aiff", ".opus", ".m4a"])
def test_a_file_of_another_format_than_its_name_is_refused(tmp_path, suffix):
    soundfile.write(tmp_path / f"a{suffix}", TONE, 48000, format="WAV")
    expected = audio.FORMATS[suffix][0]
    with pytest.raises(data.BadRow, match=f"expected {expected} as its name says, got WAV"):
        data.load(f"hub:{tmp_path}")
    (tmp_path / f"a{suffix}").rename(tmp_path / "a.wav")
    m4a(tmp_path / "a.wav")
    with pytest.raises(data.BadRow, match="expected WAV as its name says, got MP4 inside"):
        data.load(f"hub:{tmp_path}")


def test_without_pyav_m4a_says_what_to_install(tmp_path, monkeypatch):
    m4a(tmp_path / "a.m4a")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="an M4A file needs the package av.* pip install av"):
        audio.check_audio(tmp_path / "a.m4a")
    with pytest.raises(ImportError, match="pip install av"):
        data.waveform({"path": str(tmp_path / "a.m4a"), "bytes": None})


def test_captions_beside_sounds_are_read_as_an_audiofolder(tmp_path):
    for name, write in WRITERS.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        write(tmp_path / "data" / name)
    # what datasets' own reader loses: ./ before a name, folders, several captions of one sound
    names = [f"./data/{name}" for name in WRITERS]
    lines = [f'{name},"a tone, number {i}"\n' for i, name in enumerate(names)]
    lines.append(f"{names[0]},the same again\n")
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,caption\n" + "".join(lines))
    rows = data.load(f"hub:{tmp_path}", columns={"text": "caption"})
    assert rows["text"] == [*(f"a tone, number {i}" for i in range(6)), "the same again"]
    assert [row["audio"]["path"] for row in rows][-1] == str(tmp_path / "data" / "a.aiff")
    table.write_text(table.read_text().replace("d.m4a", "d.mp3"))
    with pytest.raises(data.BadRow, match=r"metadata.csv, row 5: no audio .*data/d.mp3"):
        data.load(f"hub:{tmp_path}")
