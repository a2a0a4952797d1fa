import itertools
import wave

import av
import numpy as np
import pytest
import torch

from modalign.data import shapes
from modalign.studies.vatt.sources import (
    FRAMES,
    PARTS,
    RATE,
    SAMPLES,
    SIDE,
    clips_of,
    decode,
    scenes,
    texts,
)
from modalign.studies.vatt.triplets import (
    KINDS,
    Batches,
    draw_kinds,
    misalign,
    whole_kinds,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def source():
    return clips_of("shapes", "train", 60)[0]


def test_what_is_misaligned_is_that_of_another_clip_and_nothing_else(source):
    kind = torch.arange(60) % 4
    found = misalign(source.clips, kind, same=source.same, generator=generator())
    text, audio = found.source.T
    own = torch.arange(60)
    assert ((text != own) == ((kind == 1) | (kind == 3))).all()
    assert ((audio != own) == ((kind == 2) | (kind == 3))).all()
    assert (text == audio)[kind == 3].all()  # what is told is what is heard
    for i in range(60):
        for j in (int(text[i]), int(audio[i])):
            assert i == j or source.same[i] != source.same[j]
    assert torch.equal(found.input_ids, source.clips.input_ids[text])
    assert torch.equal(found.attention_mask, source.clips.attention_mask[text])
    assert torch.equal(found.audio, source.clips.audio[audio])
    assert torch.equal(found.video, source.clips.video)
    assert torch.equal(found.label, source.clips.label)
    assert source.clips.kind.eq(0).all()  # the aligned ones are left alone


def test_misaligned_texts_are_false_of_the_scene(source):
    drawn = scenes("train", 60, 0)
    found = misalign(
        source.clips, torch.ones(60, dtype=torch.long), same=source.same, generator=generator()
    )
    for i, j in enumerate(found.source[:, 0].tolist()):
        o = drawn[j].objects[0]
        assert not shapes.Moves(shapes.Description.of(o), o.motion).true_of(drawn[i])


def test_rates_are_rates_and_grow_into_each_other():
    few, many = (draw_kinds(6000, rate, generator=generator()) for rate in (0.3, 0.6))
    assert few.bincount(minlength=4)[1:].tolist() == pytest.approx([600] * 3, abs=80)
    assert (many > 0).sum().item() == pytest.approx(3600, abs=120)
    assert torch.equal(many[few > 0], few[few > 0])
    assert not draw_kinds(100, 0.0, generator=generator()).any()
    assert draw_kinds(100, 1.0, generator=generator()).all()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_that_are_no_chance_are_refused(rate):
    with pytest.raises(ValueError, match="rate: expected a chance from 0 to 1"):
        draw_kinds(4, rate, generator=generator())


def test_batches_are_of_one_kind_as_a_whole():
    kinds = whole_kinds(32, 4).view(8, 4)
    assert (kinds == kinds[:, :1]).all()
    assert kinds[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len(KINDS) == 4


def test_misalign_refuses(source):
    with pytest.raises(ValueError, match="kind: expected 60 numbers from 0 to 3"):
        misalign(source.clips, torch.zeros(4).long(), same=source.same, generator=generator())
    with pytest.raises(ValueError, match="kind: expected 60 numbers from 0 to 3"):
        misalign(source.clips, torch.full((60,), 4), same=source.same, generator=generator())
    with pytest.raises(ValueError, match="clips: expected two that differ at least"):
        misalign(source.clips, torch.ones(60).long(), same=[0] * 60, generator=generator())


def test_batches_hold_each_triplet_once_an_epoch(source):
    batches = Batches(source.clips, 8, seed=3)
    found = list(batches(0))
    assert len(found) == len(batches) == 7
    seen = torch.cat([batch["audio"] for batch in found])
    assert len({tuple(row.tolist()[:64]) for row in seen}) > 50
    assert found[0]["video"].min() >= -1
    assert found[0]["video"].max() <= 1
    again, later = next(iter(batches(0))), next(iter(batches(1)))
    assert torch.equal(found[0]["audio"], again["audio"])
    assert not torch.equal(found[0]["audio"], later["audio"])


def test_the_world_gives_pictures_sound_and_words_of_one_scene():
    source, tokenizer = clips_of("shapes", "test", 4, seed=2)
    scene = scenes("test", 4, 2)[1]
    frames = shapes.render_video(scene, FRAMES, SIDE).images
    assert torch.equal(source.clips.video[1], torch.from_numpy(frames).permute(0, 3, 1, 2))
    sound = torch.from_numpy(shapes.render_audio(scene, RATE, seconds=SAMPLES / RATE))
    cosine = torch.nn.functional.cosine_similarity(source.clips.audio[1], sound, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-5)
    assert source.clips.audio.square().mean().item() == pytest.approx(1, abs=1e-4)
    words = tokenizer.decode(source.clips.input_ids[1, 0].tolist())
    assert words == texts(scene, 2)[0]
    o = scene.objects[0]
    assert source.classes[int(source.clips.label[1])] == f"{o.colour} {o.motion}"


def test_splits_share_no_scene():
    drawn = {split: scenes(split, 5, 0) for split in ("train", "probe", "labelled", "test")}
    objects = [scene.objects for part in drawn.values() for scene in part]
    assert len(set(objects)) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shape", "test", 2), "dataset: expected one of shapes, digits, folder"),
        (("shapes", "dev", 2), "split: expected one of train, probe, labelled"),
        (("shapes", "test", 0), "n: expected a clip at least, got 0"),
        (("folder", "test", 2), "folder: expected with 'folder' and only then, got None"),
    ],
)
def test_clips_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        clips_of(*arguments)


# spoken digits and folders ------------------------------------------------------------------------


def write_wave(path, rate=8000, samples=3000):
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = (8000 * np.sin(np.arange(samples) / 5)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(tone.tobytes())


def test_spoken_digits_stand_still_and_are_told_by_a_word(tmp_path, monkeypatch):
    for digit in range(10):
        for take in range(9):
            write_wave(tmp_path / f"fsdd/recordings/{digit}_anna_{take}.wav")
    monkeypatch.setenv("MODALIGN_DATA", str(tmp_path))
    source, tokenizer = clips_of("digits", "train", 15)
    assert source.clips.video.shape == (15, FRAMES, 3, SIDE, SIDE)
    assert (source.clips.video == source.clips.video[:, :1]).all()
    words = [tokenizer.decode(ids[0].tolist()) for ids in source.clips.input_ids]
    assert words == [source.classes[i] for i in source.clips.label]
    assert (source.clips.audio[:, 3000:] == 0).all()  # silence behind
    with pytest.raises(ValueError, match="probe: spoken-digits has 10 clips for it, got 11"):
        clips_of("digits", "probe", 11)


def test_the_parts_of_the_training_rows_do_not_overlap():
    ends = sorted(PARTS.values())
    assert ends[0][0] == 0
    assert ends[-1][1] == 1
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))


def write_video(path, *, level=0, pitch=440, sound=True, frames=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=12)
        video.width, video.height, video.pix_fmt = 48, 64, "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for i in range(frames):
            picture = np.full((64, 48, 3), level, np.uint8)
            picture[5 * i : 5 * i + 5] = 250
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            tone = 0.5 * np.sin(2 * np.pi * pitch * np.arange(16_000) / 16_000)
            for start in range(0, 16_000, 1000):
                part = tone[None, start : start + 1000].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16_000, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode())


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 20), ("test", 4)):
        rows = ["file_name,text,label"]
        for i in range(count):
            write_video(
                tmp_path / split / f"{i}.mp4", level=40 * (i % 3), pitch=300 + 200 * (i % 3)
            )
            rows.append(f"{i}.mp4,a bar falls before {['black', 'dark', 'grey'][i % 3]},{i % 3}")
        (tmp_path / split / "metadata.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_folder_of_clips_with_sound_and_text(folder):
    source, tokenizer = clips_of("folder", "test", 4, folder=folder)
    clips = source.clips
    assert clips.video.shape == (4, FRAMES, 3, SIDE, SIDE)
    assert clips.audio.shape == (4, SAMPLES)
    for i in range(4):
        told = tokenizer.decode(clips.input_ids[i, 0].tolist())
        label = ("black", "dark", "grey").index(told.split()[-1])
        assert label == int(clips.label[i])
        spectrum = torch.fft.rfft(clips.audio[i]).abs()
        pitch = spectrum.argmax().item() * RATE / SAMPLES
        assert pitch == pytest.approx(300 + 200 * label, abs=5)
        bright = clips.video[i].float().mean((1, 3)).argmax(1)  # the bar's row in each frame
        assert bright[0] < bright[3] < bright[-1]
    with pytest.raises(ValueError, match="test: hub:.* has 4 clips for it, got 5"):
        clips_of("folder", "test", 5, folder=folder)


def test_clips_without_sound_or_that_are_cut_are_refused(tmp_path):
    write_video(tmp_path / "silent.mp4", sound=False)
    cell = {"path": str(tmp_path / "silent.mp4"), "bytes": None}
    with pytest.raises(ValueError, match="silent.mp4: expected a video with a sound track"):
        decode(cell)
    write_video(tmp_path / "whole.mp4")
    content = (tmp_path / "whole.mp4").read_bytes()
    frames, sound = decode({"path": None, "bytes": content})
    assert frames.shape == (FRAMES, SIDE, SIDE, 3)
    assert sound.shape == (SAMPLES,)
    with pytest.raises(ValueError, match="video: truncated or not a video"):
        decode({"path": None, "bytes": content[:500]})
