import base64
import io
import re

import av
import numpy as np
import pytest
import scipy.io.wavfile
from bs4 import BeautifulSoup

from modalign import players
from modalign.data.shapes import render_audio, render_video, sample_scene


def content(source):
    kind, encoded = re.fullmatch(r"data:(.+?);base64,(.+)", source).groups()
    return kind, io.BytesIO(base64.b64decode(encoded))


def test_a_movie_holds_the_frames_it_was_given():
    frames = render_video(sample_scene(0, 0), frames=6).images
    shown = players.movie(frames, label='objects "move" <about>', fps=4)
    tag = BeautifulSoup(shown._repr_html_(), "html.parser").video
    assert tag["aria-label"] == 'objects "move" <about>'
    assert {"controls", "muted", "loop"} <= set(tag.attrs)
    kind, file = content(tag.source["src"])
    assert kind == tag.source["type"] == "video/mp4"
    assert (tag["width"], tag["height"]) == ("64", "64")
    with av.open(file) as container:
        assert container.streams.video[0].average_rate == 4
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert decoded.shape == frames.shape
    # colour is stored at half the resolution: edges differ, the rest does not
    assert np.median(np.abs(decoded.astype(int) - frames)) <= 2


@pytest.mark.parametrize("shape", [(0, 16, 16, 3), (2, 15, 16, 3), (2, 16, 17, 3), (2, 0, 0, 3)])
def test_clips_that_cannot_be_shown_are_refused(shape):
    with pytest.raises(ValueError, match="frames: expected one or more, of even height"):
        players.movie(np.zeros(shape, np.uint8), label="nothing")


def test_a_movie_of_other_types_is_refused():
    with pytest.raises(ValueError, match="frames: expected UInt8"):
        players.movie(np.zeros((2, 16, 16, 3)), label="floats")
    with pytest.raises(ValueError, match="fps: expected 1 to 1,000"):
        players.movie(np.zeros((2, 16, 16, 3), np.uint8), label="stuck", fps=0)


def test_sounds_are_kept_as_they_are_under_their_names():
    waves = {f"scene {i} <{i}>": render_audio(sample_scene(0, i), 8000) for i in range(2)}
    page = BeautifulSoup(players.sounds(waves, rate=8000).data, "html.parser")
    assert [part.text for part in page.find_all("p")] == list(waves)
    for tag, wave in zip(page.find_all("audio"), waves.values(), strict=True):
        kind, file = content(tag["src"])
        rate, samples = scipy.io.wavfile.read(file)
        assert (kind, rate) == ("audio/wav", 8000)
        assert np.abs(samples / 32767 - wave).max() < 1e-4


@pytest.mark.parametrize(
    "wave", [[], [np.nan, 0.0], [np.inf], [0.0, 1.5]], ids=["empty", "nan", "infinite", "loud"]
)
def test_sounds_that_cannot_be_heard_are_refused(wave):
    with pytest.raises(ValueError, match=r"waveforms\['it'\]: expected samples from -1 to 1"):
        players.sounds({"it": np.array(wave, np.float32)}, rate=8000)


def test_no_sound_and_no_rate_are_refused():
    with pytest.raises(ValueError, match="waveforms: expected one or more"):
        players.sounds({}, rate=8000)
    with pytest.raises(ValueError, match="rate: expected a positive number"):
        players.sounds({"it": np.zeros(3, np.float32)}, rate=0)


@pytest.mark.parametrize("rate", [2**31, 10**12, -1])
def test_rates_that_no_file_holds_are_refused(rate):
    with pytest.raises(ValueError, match="rate: expected a positive number"):
        players.sounds({"it": np.zeros(3, np.float32)}, rate=rate)
    with pytest.raises(ValueError, match="fps: expected 1 to 1,000"):
        players.movie(np.zeros((1, 2, 2, 3), np.uint8), label="it", fps=rate)
