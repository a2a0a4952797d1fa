"""The study of the chapter "Captioning": its words and masks, its curves, floors and claims."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from modalign import records
from modalign.data import shapes
from modalign.metrics import caption_scores, caption_tokens, pointing_game
from modalign.studies._seen import as_seen
from modalign.studies.captioning import figures, pictures, recording, training
from modalign.studies.captioning.setting import (
    CLAIMS,
    FULL,
    PRESETS,
    ROWS,
    SMALLEST,
    WITHOUT,
    Setting,
)
from tests._inputs import draw

TINY = {"examples": 64, "watched": 6, "tested": 8, "epochs": 3, "min_count": 1, "max_length": 8}


def setting(**options):
    return Setting(**{**TINY, **options})


@pytest.fixture(scope="module")
def run():
    return training.train(setting())


@pytest.fixture(scope="module")
def drawn():
    return pictures.scenes(0, "train", 60)


def test_a_caption_names_all_that_there_is_in_the_order_of_colours(drawn):
    for scene in drawn:
        named = pictures.described(scene)
        assert {shapes.Description.of(o) for o in scene.objects} == set(named)
        colours = [shapes.COLOURS.index(each.colour) for each in named]
        assert colours == sorted(colours)
    # where things lie changes nothing
    scene = drawn[0]
    moved = dataclasses.replace(scene, objects=scene.objects[::-1])
    assert pictures.described(moved) == pictures.described(scene)


def test_named_words_are_those_of_the_object(drawn):
    wordings = {
        word: {w for text in texts for w in text.split()}
        for word, texts in shapes.text.SYNONYMS.items()
    }
    twice = 0
    for scene in drawn:
        for text, named in zip(*pictures.captions(scene), strict=True):
            tokens = caption_tokens(text)
            for each in named:
                for o in (scene.objects[i] for i in each.objects):
                    allowed = wordings[o.size] | wordings[o.colour] | wordings[o.shape]
                    assert {tokens[i] for i in each.words} <= allowed
                    assert len(each.words) in (3, 4)  # "plus sign" is two words
            rest = set(range(len(tokens))) - {i for each in named for i in each.words}
            assert {tokens[i] for i in rest} <= {"a", "and"}
            objects = [i for each in named for i in each.objects]
            assert sorted(objects) == list(range(len(scene.objects)))
            twice += len(named) < len(scene.objects)
    assert not twice or any(len(pictures.described(s)) < len(s.objects) for s in drawn)


def test_things_of_one_kind_are_named_once_and_meant_together():
    one = shapes.Object("star", "red", 0.08, 0.3, 0.3)
    scene = shapes.Scene((one, dataclasses.replace(one, x=0.7)))
    texts, named = pictures.captions(scene)
    assert [each.objects for each in named[0]] == [(0, 1)]
    assert len(texts) == 5


def test_a_map_on_the_object_itself_scores_full():
    scene = shapes.sample_scene(0, 3, min_objects=2, max_objects=2)
    masks = torch.from_numpy(shapes.render_images([scene], 32).masks)
    named = pictures.captions(scene)[1][0]
    steps = 1 + max(word for each in named for word in each.words)
    perfect = torch.full((steps, 32 * 32), 9.0)  # what no word of a name looks at
    for each in named:
        perfect[list(each.words)] = masks[0, list(each.objects)].any(0).float().flatten()
    looked, shown = training.words_and_masks([perfect], masks, [named])
    assert torch.equal(looked, shown.float())
    assert len(looked) == sum(len(each.words) for each in named)


def test_objects_that_are_hidden_are_left_out():
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, 1, 1] = True
    named = [pictures.Named((0, 1), (0,)), pictures.Named((2,), (1,))]
    looked, shown = training.words_and_masks([torch.arange(48.0).view(3, 16)], masks, [named])
    assert looked.shape == shown.shape == (2, 4, 4)
    assert looked[1, 0, 0] == 16


def test_captions_of_an_epoch_are_drawn_anew_and_hang_on_seed_and_epoch_alone(run):
    epochs = pictures.Epochs(run.splits["train"], 32, seed=0)
    first, again, second = (list(epochs(epoch)) for epoch in (0, 0, 1))
    assert len(first) == len(epochs) == 2
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(first[0]["pixels"], second[0]["pixels"])
    train = run.splits["train"]
    for batch in first:
        for pixels, caption, length in zip(*batch.values(), strict=True):
            (row,) = (train.pixels == pixels).flatten(1).all(1).nonzero()[:1, 0].tolist()
            text = run.vocabulary.decode(caption[None, :length])[0]
            assert text in {" ".join(caption_tokens(each)) for each in train.texts[row]}


def test_rows_begin_with_the_same_weights_and_differ_later():
    _, vocabulary = pictures.data(setting())
    weights = [training.build(setting(weight=w), vocabulary).state_dict() for w in (0, 0.1)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    seen = {}
    for row in ROWS:
        few = training.train(setting(**{"epochs": 2, **ROWS[row]}))
        seen[row] = few.model.embedding.weight.detach()
    for one, other in itertools.combinations(seen.values(), 2):
        assert not torch.equal(one, other)


def test_a_warm_up_trains_no_word_and_is_counted_or_goes_before(run):
    counted, before = (
        training.train(setting(weight=0.1, warmup_epochs=1, counted=counted))
        for counted in (True, False)
    )
    assert counted.history.epoch.tolist() == [1, 2, 3]
    assert before.history.epoch.tolist() == [1, 2, 3, 4]
    for each in (counted, before):
        warm = each.history.iloc[0]
        assert warm.loss == pytest.approx(-0.1 * warm.cka, abs=1e-6)
        last = each.history.iloc[-1]
        assert last.loss == pytest.approx(last.task - 0.1 * last.cka, abs=1e-5)
    assert run.history.loss.tolist() == pytest.approx(run.history.task.tolist())


def test_a_run_that_stopped_goes_on_to_the_bit(tmp_path):
    """Draws of vectors and the warm-up go on where they were."""
    options = {"weight": 0.1, "warmup_epochs": 1, "estimator": "debiased"}
    whole = training.train(setting(**options))
    checkpoint = tmp_path / "run.pt"
    training.train(setting(**{**options, "epochs": 1}), checkpoint=checkpoint)
    taken_up = training.train(setting(**options), checkpoint=checkpoint)
    weights = [each.model.state_dict() for each in (whole, taken_up)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert taken_up.history.equals(whole.history)


def test_what_is_validated_is_what_the_model_says_alone(run):
    watched = run.splits["validation"]
    said = training.spoken(run.model, watched.pixels, run.vocabulary, max_length=8)
    expected = caption_scores(said.texts, watched.texts).bleu[3]
    assert run.history.bleu_4.iloc[-1] == pytest.approx(expected)


def test_a_model_that_looks_everywhere_points_by_chance(run):
    flat = training.build(run.setting, run.vocabulary).eval()
    torch.nn.init.zeros_(flat.attention.full_att.weight)
    found = training.attention_scores(dataclasses.replace(run, model=flat))
    assert found["pointing"] == pytest.approx(found["pointing_by_chance"])
    assert found["iou"] == pytest.approx(found["pointing_by_chance"])
    assert 0 < found["pointing"] < 20


def test_a_place_is_centred_where_a_scene_as_seen_lies(run):
    """What moves a place of an untrained encoder lies around its middle in the grid, once moved."""
    weights = torch.zeros(32, 32)
    for seed in range(20):
        model = training.build(setting(seed=seed), run.vocabulary)
        pixels = draw(1, 3, 32, 32, seed=seed).requires_grad_()
        place = model.see(pixels)[0, 8 * 4 + 4]  # row 4, column 4
        (grad,) = torch.autograd.grad(place @ draw(64, seed=seed), pixels)
        weights += grad[0].square().sum(0)
    centre = (weights.sum(0) * torch.arange(32)).sum() / weights.sum()
    o = shapes.Object("star", "red", 0.08, float(centre + 0.5) / 32, 0.5)  # pixels' middles
    seen = as_seen(shapes.Scene((o,)), 32, 4).objects[0]
    assert 32 * seen.x == pytest.approx(4 * 4.5, abs=0.5)
    assert 32 * o.x == pytest.approx(4 * 4.5 - 1.5, abs=0.5)


def test_a_reading_is_what_is_scored(run):
    looked, shown = [], []
    for index in range(run.setting.tested):
        each = training.reading(run, index, resolution=32)
        assert " ".join(each.words) == " ".join(caption_tokens(run.splits["test"].texts[index][0]))
        named = each.masks.any((1, 2))
        assert not {each.words[i] for i in np.flatnonzero(~named)} - {"a", "and"}
        looked.append(torch.from_numpy(each.maps[named]))
        shown.append(torch.from_numpy(each.masks[named]))
    points = pointing_game(torch.cat(looked), torch.cat(shown))
    found = training.attention_scores(run)["pointing"]
    assert 100 * points.mean().item() == pytest.approx(found)


@pytest.mark.parametrize("index", [0, 5])
def test_what_the_model_says_alone_comes_with_where_it_looked(run, index):
    each = training.saying(run, index, resolution=64)
    pixels = run.splits["test"].pixels[index : index + 1]
    options = {"beam": run.setting.beam, "max_length": run.setting.max_length}
    said = training.spoken(run.model, pixels, run.vocabulary, **options)
    assert " ".join(each.words) == said.texts[0]
    assert each.maps.shape == (len(each.words), 8, 8)
    np.testing.assert_allclose(each.maps.sum((1, 2)), 1, rtol=1e-5)
    assert each.masks is None
    assert np.array_equal(each.picture, training.reading(run, index, resolution=64).picture)


def test_a_picture_of_words_shows_each_place_as_bright_as_it_was_looked_at():
    picture = np.full((4, 4, 3), 200, np.uint8)
    maps = np.array([[[0.0, 0.5], [0.25, 0.25]], [[0.25, 0.25], [0.25, 0.25]]])
    drawn = figures.words(training.Reading(picture, ["a", "star"], maps), columns=2)
    shown = [ax.images[0].get_array()[..., 0] for ax in drawn.axes]
    assert [ax.get_title() for ax in drawn.axes] == ["a", "star"]
    assert shown[0][::2, ::2].tolist() == [[50, 200], [125, 125]]
    assert (shown[1] == 200).all()
    with pytest.raises(ValueError, match="expected a word at least, the caption has none"):
        figures.words(training.Reading(picture, [], maps[:0]))


def test_means_leave_padding_out(run):
    batch = next(iter(pictures.Epochs(run.splits["train"], 32, seed=0)(0)))
    _, (image, text) = training.parts(run.model, batch, pairs="means")
    assert image.shape == text.shape == (32, 64)
    length = int(batch["lengths"][3])
    words = run.model.embedding(batch["captions"][3, :length]).mean(0)
    torch.testing.assert_close(text[3], words)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    rows = [WITHOUT, "0.05, biased, warm-up", "0.05, biased, before"]
    recording.record(rows=rows, seeds=[0, 1], folder=folder, **TINY)
    return records.load("captioning/shapes", folder)


def test_a_sweep_keeps_curves_and_scores(recorded):
    counts = recorded.groupby("row").epoch.agg(["min", "max", "count"]).T.to_dict("list")
    assert counts == {
        WITHOUT: [1, 3, 6],
        "0.05, biased, warm-up": [1, 3, 6],
        "0.05, biased, before": [0, 3, 8],
    }
    runs = recording.scores(recorded)
    assert len(runs) == 6
    assert not runs.drop(columns=["row"]).isna().any(axis=None)
    before = recorded[(recorded.row == "0.05, biased, before") & (recorded.seed == 1)]
    (kept,) = runs[(runs.row == "0.05, biased, before") & (runs.seed == 1)].itertuples()
    assert kept.curve == pytest.approx(before.validation[before.epoch > 0].mean())
    assert kept.early == pytest.approx(before.validation[before.epoch == 1].item())
    (again,) = training.train(setting(seed=1, **ROWS["0.05, biased, before"])).history.words[3:]
    assert kept.words == pytest.approx(again, abs=1e-3)


def test_claims_are_paired_differences(recorded):
    found = recording.claims(recorded, "shapes").set_index(["claim", "measure", "contrast"])
    runs = recording.scores(recorded).pivot(index="seed", columns="row", values="pointing")
    row = "0.05, biased, before"
    judged = found.loc[("c36", "pointing", f"{row} minus {WITHOUT}")]
    assert judged["mean"] == pytest.approx((runs[row] - runs[WITHOUT]).mean())
    assert judged.smallest == 2.0
    assert {each[0] for each in found.index} == set(CLAIMS)
    assert len(found.loc["c36"]) == 4


def table_of(effects, seeds=6):
    """A table in which rows beat the one without by given amounts, in every measure."""
    noise = np.random.default_rng(0).normal(0, 1e-4, size=(seeds, 4))
    rows = []
    for row in ROWS:
        for seed in range(seeds):
            for epoch in range(1, 4):
                value = 0.1 + 0.01 * seed + effects.get(row, 0) + noise[seed, epoch]
                maps = {"pointing": 100 * value, "iou": 100 * value}
                told = {"row": row, "seed": seed, "epoch": epoch}
                rows.append({**told, "validation": value, "bleu_4": value, **maps})
    return pd.DataFrame(rows)


def test_a_claim_depends_where_its_readings_differ(tmp_path):
    rows = CLAIMS["c7"].rows
    for effects, expected in (
        (dict.fromkeys(rows, 0.1), "holds"),
        (dict.fromkeys(rows, -0.1), "reversed"),
        ({rows[0]: 0.1}, "depends"),
    ):
        for name in ("flickr8k", "shapes"):
            records.save(
                table_of(effects), f"captioning/{name}", parameters={}, seconds=1.0, folder=tmp_path
            )
        found = recording.verdicts(tmp_path)
        assert found.index.tolist() == ["c7", "c8", "c36"]
        assert found.verdict.tolist() == [expected] * 3
    (tmp_path / "captioning" / "shapes.csv").unlink()
    assert recording.verdicts(tmp_path, names=["c7", "c8"]).verdict.tolist() == ["depends"] * 2
    with pytest.raises(FileNotFoundError, match="shapes"):
        recording.verdicts(tmp_path)
    with pytest.raises(ValueError, match="names: expected one of c7, c8, c36"):
        recording.verdicts(tmp_path, names=["c9"])


def test_every_claim_has_a_smallest_effect_and_rows_that_are_trained():
    for dataset, measures, rows in CLAIMS.values():
        assert set(measures) <= set(SMALLEST[dataset])
        assert set(rows) <= set(ROWS)
    for row, changes in ROWS.items():
        for dataset, sizes in PRESETS.items():
            assert Setting(**{"dataset": dataset, **sizes, **changes}).weight == changes.get(
                "weight", 0.0
            ), row


def test_a_summary_and_a_figure_show_the_table(recorded):
    found = recording.summary(recorded)
    assert list(found.index) == [WITHOUT, "0.05, biased, warm-up", "0.05, biased, before"]
    assert {"bleu_4", "cider", "curve", "early", "pointing", "iou", "cka"} <= set(found)
    drawn = recording.figure(recorded, list(found.index))
    legend = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert legend == list(found.index)
    assert drawn.axes[1].get_legend() is None


def test_floors_stand_above_the_rows(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "PRESETS", {"shapes": {}})
    recording.record_floors([0, 1], folder=tmp_path, **TINY)
    floors = records.load("captioning/floors", tmp_path)
    one = recording.floors(setting(seed=1)).bleu_4
    kept = floors[floors.seed == 1].set_index("floor").bleu_4
    assert kept.to_dict() == pytest.approx(one.to_dict(), rel=1e-4)
    found = recording.summary(recorded, floors)
    assert found.index.tolist()[:4] == ["human", "constant", "random", "even map"]
    assert found.loc["even map", "pointing"] == found.loc["even map", "iou"]
    chance = recording.scores(recorded).pointing_by_chance.mean()
    assert found.loc["even map", "iou"] == f"{chance:.3f}"
    assert found.bleu_4["human"] == f"{floors[floors.floor == 'human'].bleu_4.mean():.3f}"
    assert found.loc["human", "pointing"] == found.loc["even map", "bleu_4"] == ""
    line = recording.figure(recorded, [WITHOUT], floors).axes[0].lines[-1]
    assert set(line.get_ydata()) == {floors[floors.floor == "constant"].bleu_4.mean()}
    rest = found.iloc[4:][recording.summary(recorded).columns]
    assert rest.equals(recording.summary(recorded))


def test_the_text_quotes_the_table(recorded):
    floors = pd.DataFrame({"dataset": ["shapes"] * 2 + ["flickr8k"], "floor": ["human"] * 3})
    floors["bleu_4"] = [0.2, 0.4, 0.9]
    found = recording.quoted(recorded, "shapes", floors, digits=2)
    assert found["shapes-floor-human"] == pytest.approx(0.3)
    runs = recording.scores(recorded).groupby("row").pointing.mean()
    assert found["shapes-pointing-0.05-biased-before"] == runs["0.05, biased, before"]
    judged = recording.claims(recorded, "shapes").set_index(["claim", "measure", "contrast"])
    each = judged.loc["c36", "pointing", "0.05, biased, before minus without"]
    text = found["shapes-pointing-0.05-biased-before-effect"]
    assert text == f"{each['mean']:.2f} [{each.low:.2f}, {each.high:.2f}]"


def test_floors_of_the_world():
    found = recording.floors(setting(tested=200))
    assert found.index.tolist() == ["human", "constant", "random"]
    assert found.bleu_4["human"] > 0.7 > found.bleu_4["random"]


def test_floors_of_flickr8k_are_the_published_ones(real_data):
    found = recording.floors(Setting("flickr8k", examples=1600, tested=1000))
    assert found.bleu_4["human"] == pytest.approx(0.2095, abs=5e-5)
    assert found.bleu_4["constant"] == pytest.approx(0.0406, abs=5e-5)
    assert found.bleu_4["random"] == pytest.approx(0.0177, abs=5e-3)


@pytest.mark.parametrize("sizes", [PRESETS["flickr8k"], FULL], ids=["preset", "full"])
def test_photographs_are_captioned(real_data, sizes):
    options = {**sizes, **TINY, "epochs": 1, "width": min(64, sizes.get("width", 64))}
    run = training.train(Setting("flickr8k", **options))
    found = training.measured(run)
    assert set(found) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider"}
    assert [len(run.splits[name].texts) for name in ("train", "validation", "test")] == [64, 6, 8]
    each = training.reading(run, 3)
    assert " ".join(each.words) == " ".join(caption_tokens(run.splits["test"].texts[3][0]))
    assert each.masks is None
    assert len(each.maps) == len(each.words)
    assert np.array_equal(each.picture.transpose(2, 0, 1), run.splits["test"].pixels[3].numpy())


REFUSED = {
    "estimator": "unbiased",
    "pairs": "mean",
    "examples": 16,
    "watched": 1,
    "tested": 0,
    "warmup_epochs": 4,
    "epochs": 0,
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        setting(**{name: REFUSED[name]})


def test_sets_that_do_not_fit_are_refused(real_data):
    with pytest.raises(ValueError, match="validation of flickr8k has 1000 photographs, not 1001"):
        pictures.photographs("flickr8k", "validation", 1001)
    with pytest.raises(ValueError, match="dataset: 'digits' has no column captions"):
        pictures.photographs("digits", "test", 10)
    with pytest.raises(ValueError, match="rows: expected one of without"):
        recording.record(rows=["0.2"])
