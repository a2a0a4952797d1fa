import math

import pytest
import torch

from modalign.models.vatt import Vatt
from modalign.models.vatt_tasks import (
    Classifier,
    features,
    linear_probe,
    text_to_video,
    unit_vectors,
)
from tests._inputs import draw
from tests.models.test_vatt import small, triplets


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Vatt(small())


def test_features_are_those_of_the_whole_clip_whatever_the_mode_and_the_parts(model):
    batch = triplets()
    model.train()
    found = features(model, batch["video"], "video", part=4)
    assert model.training
    torch.testing.assert_close(found, features(model, batch["video"], "video"))
    torch.testing.assert_close(found, model.eval().see(batch["video"]).detach())
    torch.testing.assert_close(
        features(model, batch["audio"], "audio"), model.hear(batch["audio"]).detach()
    )


@pytest.mark.parametrize(
    ("inputs", "modality", "message"),
    [
        (torch.zeros(2, 32), "text", "modality: expected one of video, audio, got 'text'"),
        (torch.zeros(0, 32), "audio", "inputs: expected one or more"),
        (torch.zeros(2, 33), "audio", "audio: expected a multiple of 8 samples"),
    ],
)
def test_features_refuse(model, inputs, modality, message):
    with pytest.raises(ValueError, match=message):
        features(model, inputs, modality)
    assert model.training


def test_linear_probe_learns_what_is_linear_whatever_the_scale():
    x, y = draw(200, 5), draw(100, 5, seed=1)
    labels, others = (z[:, 1].gt(0).long() + z[:, 2].gt(0).long() for z in (x, y))
    scale = torch.tensor([1e-3, 1e3, 1.0, 1e-6, 1.0])
    plain = linear_probe(x, labels, y, others, strength=100.0)
    assert plain > 0.65
    shifted = linear_probe(x * scale + 7, labels, y * scale + 7, others, strength=100.0)
    assert shifted == pytest.approx(plain, abs=0.05)
    chance = linear_probe(x, labels, y, others.roll(1), strength=100.0)
    assert chance < plain - 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(8, dtype=torch.long)}, "labels: expected two classes at least"),
        ({"x": torch.full((8, 2), math.nan)}, "x: expected finite values, got NaN"),
        ({"held_out": torch.full((3, 2), math.inf)}, "held_out: expected finite values"),
        ({"held_out": torch.zeros(3, 4)}, r"held_out: expected .*, got float32 \(3, 4\)"),
    ],
)
def test_linear_probe_refuses(change, message):
    good = {
        "x": draw(8, 2),
        "labels": torch.arange(8) % 2,
        "held_out": draw(3, 2),
        "held_out_labels": torch.tensor([0, 1, 0]),
    }
    linear_probe(**good)
    with pytest.raises(ValueError, match=message):
        linear_probe(**{**good, **change})


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_classifiers_train_the_trunk_below_them(model, modality):
    task = Classifier(model, modality, 3)
    batch = {"inputs": triplets()[modality], "label": torch.tensor([0, 1, 2, 0, 1, 2])}
    before = model.trunk(modality).layers.layers[0].linear1.weight.clone()
    optimizer = torch.optim.Adam(task.parameters(), 0.01)
    losses = []
    for _ in range(80):
        loss = task.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
    assert not torch.equal(before, model.trunk(modality).layers.layers[0].linear1.weight)
    assert task.eval().predict(batch["inputs"]).tolist() == batch["label"].tolist()


def test_classifiers_refuse(model):
    with pytest.raises(ValueError, match="modality: expected one of video, audio, got 'text'"):
        Classifier(model, "text", 3)
    with pytest.raises(ValueError, match="classes: expected 2 or more, got 1"):
        Classifier(model, "video", 1)
    batch = {"inputs": triplets()["audio"], "label": torch.full((6,), 3)}
    with pytest.raises(ValueError, match="label: expected classes 0 to 2, got 3 to 3"):
        Classifier(model, "audio", 3).loss(batch)


def test_unit_vectors_are_those_of_the_model(model):
    batch = triplets()
    va, a, vt, t = unit_vectors(model.train(), batch, part=4)
    assert model.training
    spaces = model.eval().embed(batch)
    for found, expected in zip(
        (va, a, vt, t),
        (spaces.video_va, spaces.audio_va, spaces.video_vt, spaces.text_vt[:, 0]),
        strict=True,
    ):
        torch.testing.assert_close(found, expected.detach())


def test_unit_vectors_want_complete_triplets(model):
    batch = triplets()
    batch["attention_mask"][3, 0] = 0
    with pytest.raises(ValueError, match="batch: expected a sound and a first text in every row"):
        unit_vectors(model, batch)


def test_texts_are_the_queries():
    video = torch.eye(3)
    text = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.6, 0.5]])
    found = text_to_video(text, video)
    assert found.ranks.tolist() == [1, 2, 2]
    assert found.recall[1] == pytest.approx(1 / 3)
