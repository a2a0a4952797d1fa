"""Captions as tokens, and features of pictures from a tiny random network: no download."""

import numpy as np
import PIL.Image
import pytest
import torch

from modalign.models.caption_inputs import resnet_features
from modalign.models.captioner import Captioner

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(folder)
    processor = transformers.ConvNextImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    processor.save_pretrained(folder)
    return folder


def picture(level, width=40):
    ramp = PIL.Image.linear_gradient("L").resize((width, 30)).point(lambda x: (x + level) % 256)
    return PIL.Image.merge("RGB", [ramp, ramp.rotate(180), ramp])


def rows(n=3):
    return [{"id": f"p{i}", "image": picture(40 * i, 30 + 5 * i)} for i in range(n)]


def test_features_are_the_last_map_averaged_to_a_grid(network, tmp_path):
    found = resnet_features(
        rows(), tmp_path / "f.safetensors", model=network, side=3, size=64, batch_size=2
    )
    model = transformers.AutoModel.from_pretrained(network).eval()
    for i, row in enumerate(rows()):
        levels = np.array(row["image"].resize((64, 64)))
        pixels = torch.from_numpy(levels).float().movedim(2, 0)[None] / 255
        with torch.no_grad():
            maps = model(pixel_values=(pixels - 0.5) / 0.25).last_hidden_state
        assert maps.shape == (1, 12, 8, 8)
        # cells of 8 / 3 places reach from floor(8 i / 3) up to ceil(8 (i + 1) / 3)
        bounds = [(0, 3), (2, 6), (5, 8)]
        cells = [maps[0, :, a:b, c:d].mean((1, 2)) for a, b in bounds for c, d in bounds]
        features = torch.from_numpy(found[f"p{i}"])
        torch.testing.assert_close(features, torch.stack(cells), atol=1e-5, rtol=1e-4)


def test_captions_of_one_picture_share_its_features(network, tmp_path):
    twice = [row for row in rows(2) for _ in range(5)]
    found = resnet_features(twice, tmp_path / "f.safetensors", model=network, side=2, size=32)
    assert found["p1"].shape == (4, 12)
    with pytest.raises(ValueError, match="expected each key once, got several of 'p0'"):
        resnet_features(
            [*rows(2), *rows(1)], tmp_path / "g.safetensors", model=network, side=2, size=32
        )
    assert not (tmp_path / "g.safetensors").exists()


def test_features_from_a_file_go_into_a_captioner(network, tmp_path):
    found = resnet_features(rows(2), tmp_path / "f.safetensors", model=network, side=2, size=32)
    features = torch.stack([torch.from_numpy(found[f"p{i}"]) for i in range(2)])
    model = Captioner(9, encoder_dim=12, start=1, end=2)
    assert len(model.beam_search(features, max_length=3).tokens) == 2
    with pytest.raises(ValueError, match="features: expected width 2048, which the model was made"):
        Captioner(9, encoder_dim=2048).embeddings(features, None, None)


def test_what_exists_is_kept(network, tmp_path):
    (tmp_path / "f.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match="f.safetensors exists; FeatureFile"):
        resnet_features(rows(), tmp_path / "f.safetensors", model=network)
    assert (tmp_path / "f.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "dataset: expected a row at least, got none"),
        ([{"id": "a", "picture": 1}], "image: expected among id, picture, row 0 has none"),
        ([{"id": 3, "image": 1}], "id: expected texts, row 0 has int 3"),
    ],
)
def test_refused(network, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        resnet_features(given, tmp_path / "f.safetensors", model=network)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_no_convolutional_network_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, intermediate_size=8, image_size=32, patch_size=16)
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessorPil().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="model: expected a convolutional network, whose states"):
        resnet_features(rows(), tmp_path / "f.safetensors", model=tmp_path / "vit", size=32)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="no/such: not on this machine; pass local_files_only=False"):
        resnet_features(rows(), tmp_path / "f.safetensors", model="no/such")


def test_without_transformers_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs transformers: pip install"):
        resnet_features(rows(), tmp_path / "f.safetensors")
