import dataclasses

import matplotlib.pyplot as plt
import pytest
import torch

from modalign import records
from modalign.data import shapes
from modalign.studies import data as trimodal

SMALL = trimodal.Setting(examples=96, candidates=24, epochs=2, batch_size=32, max_objects=1)


@pytest.fixture(scope="module")
def run():
    return trimodal.train(SMALL, progress=False)


def test_the_same_setting_gives_the_same_model(run):
    again = trimodal.train(SMALL, progress=False)
    for name, vectors in run.after["held-out"].items():
        assert torch.equal(vectors, again.after["held-out"][name])
    other = trimodal.train(dataclasses.replace(SMALL, seed=1), progress=False)
    assert not torch.equal(run.after["held-out"]["image"], other.after["held-out"]["image"])


def test_embeddings_lie_on_the_sphere_and_training_moves_them(run):
    assert set(run.after) == {"held-out", "seen", "unseen"}
    for name, vectors in run.after["held-out"].items():
        assert vectors.shape == (24, 64)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(24))
        assert not torch.allclose(vectors, run.before["held-out"][name])
    assert run.history["loss"].is_monotonic_decreasing


def test_the_loss_is_the_sum_of_the_three_pairs(run):
    learnt, _, _ = trimodal.world(SMALL)
    batch = {name: values[:8] for name, values in learnt.views.items()}
    found = trimodal.loss(run.model, batch)
    parts = [value for name, value in found.items() if name != "loss"]
    assert len(parts) == 3
    torch.testing.assert_close(found["loss"], sum(parts))


def test_rows_of_one_digit_are_no_negatives_of_each_other(run):
    learnt, _, _ = trimodal.world(SMALL)
    batch = {name: values[:8] for name, values in learnt.views.items()}
    assert trimodal.loss(run.model, batch)["loss"] > 0
    same = batch | {"label": torch.zeros(8, dtype=torch.long)}
    assert trimodal.loss(run.model, same)["loss"].item() == pytest.approx(0, abs=1e-6)


def test_the_judge_knows_what_is_true_and_what_sounds_alike():
    drawn = [shapes.sample(0, i, max_objects=2, split="test") for i in range(40)]
    truth = trimodal.judge(drawn)
    for i, row in enumerate(truth["image", "text"].tolist()):
        for j, value in enumerate(row):
            assert value == drawn[j].claim.true_of(drawn[i].scene)
    alike = truth["image", "audio"]
    assert torch.equal(alike, alike.T)
    assert torch.equal(alike.diagonal(), torch.ones(40))


def test_evaluation_has_a_row_for_each_direction(run):
    scores = trimodal.evaluate(run)
    directions = set(zip(scores["query"], scores["candidate"], strict=True))
    assert directions == {pair[::way] for pair in trimodal.PAIRS for way in (1, -1)}
    assert scores["judge_at_1"].between(1 / 24, 1).all()
    assert (scores["recall_at_1"] <= scores["recall_at_10"]).all()
    assert scores["cka_shuffled"].abs().max() < 0.5
    assert scores["query_directions"].between(1, 24).all()


def test_directions_count_what_varies():
    spread = torch.eye(8).repeat(3, 1) - torch.ones(24, 8) / 8
    assert trimodal.directions(spread) == pytest.approx(7)
    line = torch.linspace(-1, 1, 10)[:, None] * torch.ones(1, 5)
    assert trimodal.directions(line) == pytest.approx(1)


def test_wrong_texts_and_sounds_are_those_of_training_alone():
    wrong = dataclasses.replace(SMALL, text_other=1.0, audio_other=1.0)
    learnt, held_out, _ = trimodal.world(wrong)
    right, also_held_out, _ = trimodal.world(SMALL)
    assert torch.equal(learnt.views["image.pixel_values"], right.views["image.pixel_values"])
    sounds = "audio.input_values"
    assert not (learnt.views[sounds] == right.views[sounds]).all(1).any()
    for name, examples in held_out.items():
        assert torch.equal(examples.views[sounds], also_held_out[name].views[sounds])
        assert examples.truth["image", "text"].diagonal().all()


def test_compositional_training_has_none_of_the_held_out_combinations():
    for compositional in (False, True):
        setting = dataclasses.replace(SMALL, compositional=compositional)
        samples = trimodal._scenes(setting, "train", 0, 96, compositional=compositional)
        pairs = {(o.shape, o.colour) for drawn in samples for o in drawn.scene.objects}
        kept = set(shapes.held_out("test")) | set(shapes.held_out("validation"))
        assert bool(pairs & kept) is not compositional


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="dataset: expected one of shapes, spoken-digits"):
        trimodal.Setting(dataset="digits")


def test_recorded_runs_are_kept_with_their_conditions(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README.md").write_text("results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trimodal, "RECORDED", {"examples": 64, "candidates": 20, "epochs": 1})
    trimodal.record(seeds=2, conditions=["20% wrong texts"])
    table = records.load("data/retrieval")
    assert table.groupby(["condition", "held_out", "seed"]).size().to_list() == [6] * 6
    assert table.attrs["parameters"]["conditions"] == {"20% wrong texts": {"text_other": 0.2}}
    assert table.attrs["parameters"]["fixed"]["examples"] == 64


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match="conditions: expected one of aligned.*mean 'aligned'"):
        trimodal.record(seeds=2, conditions=["alinged"])


def test_spoken_digits_learn_from_real_recordings(real_data):
    setting = trimodal.Setting(dataset="spoken-digits", epochs=1)
    scores = trimodal.evaluate(trimodal.train(setting, progress=False))
    assert (scores["nearest_right"] > 0.3).all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_directions_do_not_depend_on_the_scale(scale):
    z = torch.randn(50, 4, dtype=torch.float64)
    assert trimodal.directions(scale * z) == pytest.approx(trimodal.directions(z))
    assert trimodal.directions(z[:, :1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(1, 3), "z: a covariance needs at least 2 rows"),
        (torch.full((5, 3), 1 / 3), "z: expected embeddings that vary, got one point"),
        (torch.full((5, 3), torch.nan), "z: expected finite values"),
    ],
)
def test_directions_refuse(z, message):
    with pytest.raises(ValueError, match=message):
        trimodal.directions(z)


def test_a_scene_is_drawn_in_three_views():
    _, axes = plt.subplots(3)
    trimodal.draw_views(axes, shapes.sample_scene(0, 5))
    picture, clip, sound = axes
    assert picture.images[0].get_array().shape == (96, 96, 3)
    assert clip.images[0].get_array().shape == (96, 4 * 96, 3)
    assert len(sound.images) == 1
    assert sound.get_ylabel() == "kHz"
    assert [list(ax.get_xticks()) for ax in axes[:2]] == [[], []]
    plt.close("all")
