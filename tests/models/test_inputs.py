import io
import math

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
import transformers

from modalign.data import load
from modalign.data.shapes import as_dataset, as_iterable
from modalign.models.encoders import AudioEncoder, ImageEncoder, TextEncoder, pooled
from modalign.models.inputs import (
    audio_batch,
    build_tokenizer,
    image_batch,
    tokenize,
    unknown_words,
    video_batch,
)

TEXTS = ["A red disc, and a BLUE disc.", "there is a red square"]


def bert_tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "disc", "squ", "##are"]
    return transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


def sound(samples, rate=8000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return {"bytes": file.getvalue(), "path": None}


def test_words_are_numbered_by_frequency():
    tokenizer = build_tokenizer(TEXTS, special_tokens=["[MASK]"])
    named = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    assert named[:6] == ["[PAD]", "[UNK]", "[MASK]", "a", "red", "disc"]
    assert set(named[6:]) == {",", "and", "blue", ".", "there", "is", "square"}
    assert tokenizer.encode("a [MASK] disc").ids == [3, 2, 5]


def test_rare_words_are_unknown_and_counted():
    tokenizer = build_tokenizer(TEXTS, min_count=2)
    assert tokenizer.get_vocab_size() == 5
    assert unknown_words(tokenizer, TEXTS)["square"] == 1
    assert tokenize(tokenizer, ["a Green disc"])["input_ids"].tolist() == [[2, 1, 4]]
    assert unknown_words(tokenizer, ["a Green disc", "green GREEN pink"]) == {"green": 3, "pink": 1}
    with pytest.raises(ValueError, match=r"words that the tokenizer does not know: 'green' \(1\)"):
        tokenize(tokenizer, ["a Green disc"], unknown="refuse")
    assert tokenize(tokenizer, ["a disc"], unknown="refuse")["input_ids"].shape == (1, 2)


def test_batches_are_padded_at_the_end():
    tokenizer = build_tokenizer(TEXTS)
    batch = tokenize(tokenizer, TEXTS)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 9)
    assert batch["input_ids"][1, 5:].tolist() == [0] * 4
    assert batch["attention_mask"].sum(1).tolist() == [9, 5]
    assert tokenize(tokenizer, TEXTS, max_length=3)["input_ids"].shape == (2, 3)
    assert pooled(TextEncoder(tokenizer.get_vocab_size()), **batch).shape == (2, 128)


def test_a_tokenizer_of_transformers_does_as_well():
    tokenizer = bert_tokenizer()
    batch = tokenize(tokenizer, ["a red disc", "a square"])
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7, 3], [2, 5, 8, 9, 3]]
    assert tokenize(tokenizer, ["a", "a red"])["attention_mask"].tolist() == [[1, 1, 1, 0], [1] * 4]
    assert tokenize(tokenizer, ["a red disc"], max_length=3)["input_ids"].tolist() == [[2, 5, 3]]
    assert unknown_words(tokenizer, ["a Blue disc"]) == {"blue": 1}
    with pytest.raises(ValueError, match="'blue'"):
        tokenize(tokenizer, ["a Blue disc"], unknown="refuse")


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ([], ValueError, "texts: expected one or more, got none"),
        (["a", " "], ValueError, "texts: expected a word at least, text 1 is ' '"),
        (["a", None], TypeError, "texts: expected strings, text 1 is NoneType"),
    ],
)
def test_texts_that_do_not_fit(texts, error, message):
    with pytest.raises(error, match=message):
        tokenize(build_tokenizer(TEXTS), texts)


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="unknown: expected one of keep, refuse"):
        tokenize(build_tokenizer(TEXTS), TEXTS, unknown="refse")
    with pytest.raises(ValueError, match="min_count=9"):
        build_tokenizer(TEXTS, min_count=9)
    with pytest.raises(ValueError, match="texts: expected one or more"):
        build_tokenizer([])


def test_pictures_of_the_world_and_their_sounds(tmp_path):
    rows = load("shapes", "train", length=3, views=["image", "audio", "text"], cache_dir=tmp_path)
    images = image_batch(rows["image"])
    assert images["pixel_values"].shape == (3, 3, 64, 64)
    first = np.asarray(rows[0]["image"])
    assert images["pixel_values"][0, :, 5, 9].tolist() == pytest.approx(first[5, 9] / 255)
    assert pooled(ImageEncoder(), **images).shape == (3, 128)
    sounds = audio_batch(rows["audio"])
    assert sounds["input_values"].shape == (3, 16_000)
    assert sounds["attention_mask"].all()
    assert audio_batch(rows["audio"], rate=8000)["input_values"].shape == (3, 8000)


def test_rows_that_are_arrays(tmp_path):
    views = {"arrays": True, "views": ["image", "audio", "video"], "frames": 4, "resolution": 16}
    rows = list(as_iterable(2, **views).with_format("numpy"))
    lists = as_dataset(2, cache_dir=tmp_path, **views)
    listed = image_batch(lists["image"])["pixel_values"]
    assert listed.equal(image_batch([row["image"] for row in rows])["pixel_values"])
    assert image_batch([row["image"] for row in rows])["pixel_values"].shape == (2, 3, 16, 16)
    assert audio_batch([row["audio"] for row in rows])["input_values"].shape == (2, 16_000)
    clips = video_batch([row["video"] for row in rows])["pixel_values"]
    assert clips.shape == (2, 4, 3, 16, 16)
    assert clips[1, 2, 0].mul(255).numpy() == pytest.approx(rows[1]["video"][2, ..., 0])


def test_grey_scans():
    scans = load("digits", "test")[:4]["image"]
    pixels = image_batch(scans)["pixel_values"]
    assert pixels.shape == (4, 1, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert pooled(ImageEncoder(in_channels=1, patch=1), pixel_values=pixels).shape == (4, 128)


def test_spoken_digits(real_data):
    rows = load("spoken-digits", "test", verify=False).select([0, 100, 200])
    batch = audio_batch(rows["audio"])
    lengths = batch["attention_mask"].sum(1)
    assert lengths.unique().numel() > 1
    assert lengths.max() == batch["input_values"].shape[1]
    encoder = AudioEncoder(sample_rate=8000)
    together = pooled(encoder, **batch)
    for i, row in enumerate(rows["audio"]):
        alone = pooled(encoder, **audio_batch([row]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("pictures", "error", "message"),
    [
        ([], ValueError, "pictures: expected one or more, got none"),
        ([np.zeros((0, 8), np.uint8)], ValueError, r"expected \(h, w, 3\).*picture 0 is ndarray"),
        ([np.zeros((8, 8, 4), np.uint8)], ValueError, r"picture 0 is ndarray uint8 \(8, 8, 4\)"),
        ([np.full((8, 8), 256)], ValueError, "levels 0 to 255, picture 0 has 256 to 256"),
        ([np.zeros((8, 8))], TypeError, "arrays of uint8, picture 0 is ndarray float64"),
        ([None], TypeError, "pictures: expected .*, picture 0 is NoneType"),
        ([PIL.Image.new("RGBA", (8, 8))], ValueError, "mode RGB or L, picture 0 has 'RGBA'"),
        (
            [PIL.Image.new("RGB", (8, 8)), PIL.Image.new("RGB", (9, 8))],
            ValueError,
            r"one size.*\(3, 8, 8\) in picture 0 and \(3, 8, 9\) in picture 1",
        ),
        (
            [PIL.Image.new("RGB", (8, 8)), PIL.Image.new("L", (8, 8))],
            ValueError,
            r"\(3, 8, 8\) in picture 0 and \(1, 8, 8\) in picture 1",
        ),
    ],
)
def test_pictures_that_do_not_fit(pictures, error, message):
    with pytest.raises(error, match=message):
        image_batch(pictures)


def test_clips_that_do_not_fit():
    frame = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) in picture 0 and \(1, 3, 8, 8\)"):
        video_batch([[frame, frame], [frame]])
    with pytest.raises(ValueError, match="expected one or more, got none"):
        video_batch([[]])


@pytest.mark.parametrize(
    ("sounds", "error", "message"),
    [
        ([], ValueError, "sounds: expected one or more, got none"),
        ([np.zeros(0, np.float32)], ValueError, r"sounds: expected \(n,\).*sound 0"),
        ([sound(np.zeros(0))], ValueError, r"sounds: expected \(n,\).*sound 0"),
        ([np.zeros((2, 5), np.float32)], ValueError, r"sound 0 is ndarray float32 \(2, 5\)"),
        ([np.zeros(5, np.int16)], TypeError, "floating-point samples, sound 0 is ndarray int16"),
        (
            [np.zeros(3, np.float32), np.array([0, math.nan])],
            ValueError,
            "sounds: expected finite samples, got NaN or infinity in sound 1",
        ),
        ([sound(np.zeros(9)), sound(np.zeros(9), 16_000)], ValueError, r"\[8000, 16000\] Hz"),
    ],
)
def test_sounds_that_do_not_fit(sounds, error, message):
    with pytest.raises(error, match=message):
        audio_batch(sounds)


def test_sounds_of_several_rates_are_resampled():
    mixed = [sound(np.ones(80)), sound(np.ones(160), 16_000)]
    batch = audio_batch(mixed, rate=8000)
    assert batch["input_values"].shape == (2, 80)
    assert batch["attention_mask"].all()


def test_sounds_beyond_float32_are_refused():
    with pytest.raises(ValueError, match="sounds: expected samples that float32 holds, got 1e"):
        audio_batch([np.array([1e300])])


@pytest.mark.parametrize("kind", [">f4", "<f8", np.longdouble, np.float16])
def test_samples_of_any_floating_kind_will_do(kind):
    assert audio_batch([np.array([0.5, 1], kind)])["input_values"].tolist() == [[0.5, 1.0]]
