"""Features of tiny random models that lie in a temporary folder: no network."""

import importlib.util
import io
import os
import shutil

import datasets
import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import soundfile
import torch
import transformers

from modalign.data import FeatureFile, load
from modalign.data._files import dataset_of
from modalign.models import pretrained
from modalign.models.encoders import pooled, states
from modalign.models.pretrained import encode, write_matrices

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "disc", "squ", "##are"]
TEXTS = ["a red disc", "a blue square and a red disc", "disc"]


def save(model, folder, *parts):
    for part in (model, *parts):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny models."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    bert = transformers.BertConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=8)
    vit = transformers.ViTConfig(**TINY, image_size=32, patch_size=16)
    pictures = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    wave = {
        "conv_dim": (8, 8),
        "conv_kernel": (10, 4),
        "conv_stride": (5, 4),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    }
    layered = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    sounds = transformers.Wav2Vec2FeatureExtractor
    clip = transformers.CLIPConfig(
        text_config={**TINY, "vocab_size": len(WORDS), "eos_token_id": 3},
        vision_config={**TINY, "image_size": 32, "patch_size": 16},
        projection_dim=12,
    )
    return {
        "bert": save(transformers.BertModel(bert), folder / "bert", tokenizer),
        "vit": save(transformers.ViTModel(vit), folder / "vit", pictures),
        "classifier": save(
            transformers.ViTForImageClassification(vit), folder / "classifier", pictures
        ),
        "wav2vec2": save(
            transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**TINY, **wave, **layered)),
            folder / "wav2vec2",
            sounds(return_attention_mask=True),
        ),
        "wav2vec2 without mask": save(
            transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**TINY, **wave)),
            folder / "wave2vec2-group",
            sounds(return_attention_mask=False),
        ),
        "clip": save(transformers.CLIPModel(clip), folder / "clip", tokenizer, pictures),
    }


def cell(seconds, rate=8000, seed=0):
    noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format="WAV", subtype="FLOAT")
    return {"bytes": file.getvalue(), "path": None}


def rows():
    """Three rows of everything; the second picture is grey, and no two sounds are as long."""
    pictures = [PIL.Image.new("RGB", (40, 24), (i * 90, 60, 200)) for i in range(3)]
    pictures[1] = pictures[1].convert("L")
    cells = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, format="png")
        cells.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features(
        id=datasets.Value("string"),
        image=datasets.Image(),
        audio=datasets.Audio(decode=False),
        text=datasets.Value("string"),
    )
    return dataset_of(
        [
            {
                "id": f"r{i}",
                "image": cells[i],
                "audio": cell(0.1 + 0.05 * i, seed=i),
                "text": TEXTS[i],
            }
            for i in range(3)
        ],
        features,
    )


CASES = [
    ("bert", "text", 16),
    ("vit", "image", 16),
    ("classifier", "image", 16),
    ("wav2vec2", "audio", 16),
    ("wav2vec2 without mask", "audio", 16),
    ("clip", "image", 12),
    ("clip", "text", 12),
]


@pytest.mark.parametrize(("name", "column", "width"), CASES)
def test_vectors_do_not_depend_on_the_batch(models, tmp_path, name, column, width):
    options = {"cache_dir": tmp_path / "a", "progress": False}
    together = encode(rows(), column, models[name], **options)
    vectors = np.array(together[f"{column}_features"])
    assert vectors.shape == (3, width)
    assert together.column_names == [*rows().column_names, f"{column}_features"]
    assert together[1]["text"] == TEXTS[1]
    assert together.features[f"{column}_features"].length == width
    assert np.abs(np.diff(vectors, axis=0)).max() > 1e-4
    options["cache_dir"] = tmp_path / "b"
    alone = encode(rows(), column, models[name], batch_size=1, **options)
    np.testing.assert_allclose(alone[f"{column}_features"], vectors, atol=1e-5)


@pytest.mark.parametrize(("name", "column", "width"), CASES)
def test_states_come_from_a_file_of_matrices(models, tmp_path, name, column, width):
    found = encode(rows(), column, models[name], pooled=False, cache_dir=tmp_path, progress=False)
    matrices = [row[f"{column}_features"] for row in found]
    assert {each.shape[1] for each in matrices} == {16}
    if column != "image":
        assert len({len(each) for each in matrices}) == 3  # none is padded
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(FeatureFile(path)["r2"], matrices[2])


def test_features_are_the_models_own(models, tmp_path):
    found = encode(rows(), "text", models["bert"], cache_dir=tmp_path, progress=False)
    model = transformers.BertModel.from_pretrained(models["bert"]).eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(models["bert"])
    with torch.no_grad():
        own = model(**tokenizer(TEXTS[0], return_tensors="pt"))
    np.testing.assert_allclose(found[0]["text_features"], own.pooler_output[0], atol=1e-6)
    found = encode(rows(), "image", models["vit"], cache_dir=tmp_path, progress=False)
    processor = transformers.ViTImageProcessorPil.from_pretrained(models["vit"])
    model = transformers.ViTModel.from_pretrained(models["vit"]).eval()
    with torch.no_grad():
        own = pooled(model, **processor(rows()[0]["image"], return_tensors="pt"))
    np.testing.assert_allclose(found[0]["image_features"], own[0], atol=1e-6)


def test_a_pooler_that_the_checkpoint_lacks_is_not_made_up(models, tmp_path):
    options = {"cache_dir": tmp_path, "progress": False}
    vectors = encode(rows(), "image", models["classifier"], **options)["image_features"]
    matrices = encode(rows(), "image", models["classifier"], pooled=False, **options)
    for vector, row in zip(vectors, matrices, strict=True):
        np.testing.assert_allclose(vector, row["image_features"].mean(0), atol=1e-6)


def test_sounds_are_resampled_to_the_models_rate(models, tmp_path):
    found = encode(
        rows(), "audio", models["wav2vec2"], pooled=False, cache_dir=tmp_path, progress=False
    )
    # 0.1 s at 16 kHz: 1600 samples, (1600 - 10) // 5 + 1 = 319, (319 - 4) // 4 + 1 = 79 frames
    assert len(found[0]["audio_features"]) == 79


def test_long_texts_are_cut_to_what_the_model_takes(models, tmp_path):
    long = datasets.Dataset.from_dict({"id": ["a"], "text": ["red " * 50]})
    found = encode(long, "text", models["bert"], pooled=False, cache_dir=tmp_path, progress=False)
    assert len(found[0]["text_features"]) == 8


@pytest.fixture
def counted(monkeypatch):
    """The number of times that a model was loaded."""
    loads = []
    load_model = pretrained._model
    monkeypatch.setattr(pretrained, "_model", lambda *args: loads.append(1) or load_model(*args))
    return loads


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_computed_is_found_again(models, tmp_path, counted, kept):
    options = {"pooled": kept, "cache_dir": tmp_path, "progress": False}
    first, again = (encode(rows(), "text", models["bert"], **options) for _ in range(2))
    assert len(counted) == 1
    np.testing.assert_array_equal(first[2]["text_features"], again[2]["text_features"])
    # of rows that come another way but hold the same
    encode(rows().select([2, 0, 1]).select([1, 2, 0]), "text", models["bert"], **options)
    assert len(counted) == 1


def test_other_rows_columns_models_and_kinds_are_computed_anew(models, tmp_path, counted):
    options = {"cache_dir": tmp_path, "progress": False}
    encode(rows(), "text", models["bert"], **options)
    encode(rows().select([0, 2, 1]), "text", models["bert"], **options)
    encode(rows(), "text", models["bert"], pooled=False, **options)
    encode(rows(), "text", models["clip"], **options)
    changed = shutil.copytree(models["bert"], tmp_path.parent / "changed")
    model = transformers.BertModel.from_pretrained(changed)
    with torch.no_grad():
        model.pooler.dense.bias += 1
    model.save_pretrained(changed)
    encode(rows(), "text", changed, **options)
    assert len(counted) == 5


def test_a_picture_changed_on_disk_is_computed_anew(models, tmp_path, counted):
    path = tmp_path / "picture.png"
    features = datasets.Features(image=datasets.Image())
    for colour in ("red", "blue"):
        PIL.Image.new("RGB", (32, 32), colour).save(path)
        os.utime(path, (len(colour), len(colour)))
        listed = dataset_of([{"image": {"path": str(path), "bytes": None}}], features)
        encode(listed, "image", models["vit"], cache_dir=tmp_path / "kept", progress=False)
    assert len(counted) == 2


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_stopped_halfway_is_not_used(models, tmp_path, monkeypatch, kept):
    options = {"pooled": kept, "cache_dir": tmp_path, "progress": False, "batch_size": 1}
    whole = pretrained._batches

    def stopped(*args):
        yield next(whole(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "_batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        encode(rows(), "text", models["bert"], **options)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(pretrained, "_batches", whole)
    assert (
        len([row["text_features"] for row in encode(rows(), "text", models["bert"], **options)])
        == 3
    )


def test_a_file_with_too_few_rows_is_refused(models, tmp_path):
    encode(rows(), "text", models["bert"], cache_dir=tmp_path / "a", progress=False)
    encode(rows().select([0]), "text", models["bert"], cache_dir=tmp_path / "b", progress=False)
    ((whole,), (part,)) = ((tmp_path / name).iterdir() for name in "ab")
    shutil.copy(part, whole)
    with pytest.raises(ValueError, match=rf"{whole}: expected 3 rows, got 1; delete the file"):
        encode(rows(), "text", models["bert"], cache_dir=tmp_path / "a", progress=False)


def test_features_of_several_columns_stand_side_by_side(models, tmp_path):
    options = {"cache_dir": tmp_path, "progress": False}
    found = encode(rows(), "image", models["vit"], pooled=False, **options)
    found = encode(found, "text", models["bert"], pooled=False, **options)
    found = encode(found, "audio", models["wav2vec2"], **options)
    row = found[1]
    assert row["image_features"].shape == (5, 16)
    assert row["text_features"].shape == (8, 16)
    assert len(row["audio_features"]) == 16
    assert row["image"].size == (40, 24)


def test_digits_and_their_words(models, tmp_path):
    digits = load("digits", "test").select(range(4))
    found = encode(digits, "image", models["vit"], cache_dir=tmp_path, progress=False)
    assert found[3]["label"] == digits[3]["label"]
    assert np.array(found["image_features"]).shape == (4, 16)


def test_a_checkpoint_that_lacks_weights_is_refused(models, tmp_path):
    folder = shutil.copytree(models["bert"], tmp_path / "bert")
    weights = transformers.BertModel.from_pretrained(folder).state_dict()
    del weights["encoder.layer.0.output.dense.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="lacks weights: encoder.layer.0.output.dense.weight"):
        encode(rows(), "text", folder, cache_dir=tmp_path / "kept", progress=False)


def test_weights_that_are_pickled_are_refused(models, tmp_path):
    folder = shutil.copytree(models["bert"], tmp_path / "bert")
    weights = transformers.BertModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        encode(rows(), "text", folder, cache_dir=tmp_path / "kept", progress=False)


def test_features_that_are_not_finite_are_refused(models, tmp_path):
    folder = shutil.copytree(models["bert"], tmp_path / "bert")
    model = transformers.BertModel.from_pretrained(folder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[WORDS.index("blue")] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="text: NaN or infinity in the features of row 1"):
        encode(rows(), "text", folder, cache_dir=tmp_path / "kept", progress=False)
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "txt"}, "column: expected one of id, image, audio, text, got 'txt'"),
        ({"key": "name", "pooled": False}, "key: expected one of id, .*got 'name'"),
        ({"revision": "main"}, "revision: .*folder, which has none"),
    ],
)
def test_arguments_that_do_not_fit(models, tmp_path, options, message):
    arguments = {"column": "text", "cache_dir": tmp_path, "progress": False, **options}
    with pytest.raises(ValueError, match=message):
        encode(rows(), arguments.pop("column"), models["bert"], **arguments)


def test_rows_that_do_not_fit(models, tmp_path):
    def tried(table, column, **options):
        encode(table, column, models["bert"], cache_dir=tmp_path, progress=False, **options)

    numbers = datasets.Dataset.from_dict({"x": [1, 2], "text": ["a", "red"], "id": ["r", "r"]})
    with pytest.raises(ValueError, match="column: expected pictures, .* got int 1"):
        tried(numbers, "x")
    with pytest.raises(ValueError, match="key: expected texts that differ from row to row in 'id'"):
        tried(numbers, "text", pooled=False)
    with pytest.raises(ValueError, match="key: expected texts that differ from row to row in 'x'"):
        tried(numbers, "text", pooled=False, key="x")
    with pytest.raises(ValueError, match="dataset: expected at least 1 row, got 0"):
        tried(rows().select([]), "text")
    with pytest.raises(ValueError, match="has a column 'text_features' already"):
        tried(rows().rename_column("image", "text_features"), "text")


def test_a_model_that_is_not_here_is_not_fetched(tmp_path):
    with pytest.raises(OSError, match="no/model: not on this machine; pass local_files_only=False"):
        encode(rows(), "text", "no/model", cache_dir=tmp_path)


def test_a_model_of_the_hub_goes_by_its_commit(models, tmp_path, monkeypatch, counted):
    hub = tmp_path / "hub"
    stored = hub / "models--some--bert"
    (stored / "refs").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    options = {"cache_dir": tmp_path / "kept", "progress": False}
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(models["bert"], stored / "snapshots" / commit)
        (stored / "refs" / "main").write_text(commit)
        encode(rows(), "text", "some/bert", **options)
    assert len(counted) == 2
    encode(rows(), "text", "some/bert", revision="a" * 40, **options)
    encode(rows(), "text", "some/bert", revision="main", **options)
    assert len(counted) == 2
    with pytest.raises(OSError, match="some/bert: not on this machine"):
        encode(rows(), "text", "some/bert", revision="other", **options)


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'modalign\[pretrained\]'"):
        encode(rows(), "text", "no/model")


def test_matrices_are_written_as_safetensors(tmp_path):
    written = {"a": np.ones((2, 3)), "ä/b": np.arange(3.0)[None], "c": np.zeros((7, 3), np.float16)}
    write_matrices(tmp_path / "x.safetensors", iter(written.items()))
    file = FeatureFile(tmp_path / "x.safetensors")
    for key, matrix in written.items():
        np.testing.assert_array_equal(file[key], matrix)


def test_states_of_a_waveform_are_masked_as_the_model_does(models):
    model = transformers.Wav2Vec2Model.from_pretrained(models["wav2vec2"]).eval()
    mask = torch.ones(2, 800, dtype=torch.long)
    mask[1, 400:] = 0
    _, kept = states(model, input_values=torch.randn(2, 800) * mask, attention_mask=mask)
    assert kept.sum(1).tolist() == [39, 19]


@pytest.mark.parametrize("bad", [np.array([[1e300]]), np.array([[np.nan]])])
def test_matrices_that_float32_does_not_hold_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="rows: expected matrices that are finite .* got 'a'"):
        pretrained.write_matrices(tmp_path / "a.safetensors", iter([("a", bad)]))
    assert not (tmp_path / "a.safetensors").exists()


def test_two_matrices_of_one_key_are_refused(tmp_path):
    rows = iter([("a", np.zeros((1, 1))), ("a", np.ones((1, 1)))])
    with pytest.raises(ValueError, match="rows: expected each key once, got several of 'a'"):
        pretrained.write_matrices(tmp_path / "a.safetensors", rows)
