import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from modalign import records
from modalign.data import shapes
from modalign.data.shapes.text import SYNONYMS
from modalign.models.codis import grad_cam
from modalign.studies.codis import figures, pairs, pretraining, recording
from modalign.studies.codis.setting import CLAIMS, DECIDED_BY, TASKS, Setting

SMALL = Setting(examples=48, candidates=24, epochs=1, batch_size=16, resolution=32, k=4)
SIZES = {"width": 16, "heads": 2, "dim": 8, "prototypes": 8, "queue": 32}
VERDICTS = pd.DataFrame(
    [
        {"claim": "c21", "mean": 2.0, "low": 1.0, "high": 3.0, "smallest": 1.5, "verdict": "holds"},
        {"claim": "c22", "mean": 0.0, "low": -1, "high": 0.5, "smallest": 0.7, "verdict": "absent"},
        {"claim": "c21", "mean": -2, "low": -3, "high": -1, "smallest": 1.5, "verdict": "reversed"},
    ]
).assign(table=["shapes", "shapes", "flickr8k"])


@pytest.fixture(scope="module")
def run():
    return pretraining.pretrain(SMALL, progress=False, **SIZES)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    own = [figure._suptitle.get_text()] if figure._suptitle else []
    drawn = [each.get_title() for each in figure.axes]
    drawn += [text.get_text() for ax in figure.axes for text in ax.texts]
    inside = [text for part in figure.subfigs for text in texts(part)]
    return " ".join([*own, *drawn, *inside]).split()


# recorded tables


def test_only_tables_that_are_there_are_judged(tmp_path):
    with pytest.raises(ValueError, match="folder: expected one of shapes.*got \\[\\]"):
        figures.judged(tmp_path)
    assert figures.recorded(tmp_path) == []
    (tmp_path / "codis").mkdir()
    for kind in ("csv", "json"):
        shutil.copy(records.results_folder() / "codis" / f"shapes.{kind}", tmp_path / "codis")
    assert figures.recorded(tmp_path) == ["shapes"]
    found = figures.judged(tmp_path)
    assert set(found["claim"]) == set(DECIDED_BY["shapes"])
    expected = recording.claims(records.load("codis/shapes"))
    expected = expected[expected["claim"].isin(DECIDED_BY["shapes"])].assign(table="shapes")
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))


def test_recorded_tables_are_those_of_the_chapter():
    assert set(DECIDED_BY) <= set(figures.TABLES)
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        figures.table_of("shape")


def test_a_claim_is_told_with_each_table_that_decides_it():
    told = figures.told(VERDICTS)
    assert set(told) == set(CLAIMS)
    assert told["c22"] == {"symbol": "○", "verdict": "absent", "effect": "0.0 [-1.0, 0.5]"}
    assert told["c21"]["symbol"] == "✔ (shapes), ✘ (flickr8k)"
    assert told["c21"]["effect"] == "2.0 [1.0, 3.0] (shapes), -2.0 [-3.0, -1.0] (flickr8k)"
    assert set(told["c24"].values()) == {figures.MISSING}


def test_a_summary_leaves_empty_what_was_not_measured():
    table = pd.DataFrame({"row": ["a", "a", "b", "b"], "x": [1.0, 3.0, np.nan, np.nan]})
    found = figures.summary(table, {"x": "X", "y": "Y"})
    assert list(found.columns) == ["X"]
    assert found.loc["a", "X"].startswith("2.0 [")
    assert found.loc["b", "X"] == ""


def test_contrasts_mark_the_smallest_effect():
    _, ax = plt.subplots()
    figures.contrasts(ax, VERDICTS, {"c21": "first", "c22": "second"})
    assert [each.get_text() for each in ax.get_yticklabels()] == ["first", "second"]
    lines = [line.get_xydata().tolist() for line in ax.lines if line.get_linewidth() == 1.5]
    ticks = [x for (x, low), (_, high) in lines if high - low == 0.5]
    assert sorted(ticks) == [0.7, 1.5, 1.5]
    assert [each.get_text() for each in ax.get_legend().texts] == ["shapes", "flickr8k"]


def test_recalls_stand_beside_chance(run):
    scores = pretraining.evaluate(run)
    found = figures.recalls(scores, 24)
    assert found.loc["chance", ("caption of a picture", "R@5")] == pytest.approx(500 / 24)
    assert found.loc["towers", ("picture of a caption", "R@1")] == scores["tower_image_recall_at_1"]
    assert found.loc["re-ranked", ("caption of a picture", "R@10")] == scores["text_recall_at_10"]


# one model


def test_a_caption_is_that_of_its_scene(run):
    for i, scene in enumerate(pairs.scenes(0, "test", 5)):
        (said,) = pairs.captions(scene, 1)
        assert figures.caption(run, "test", i) == said.lower()


def test_pictures_have_their_captions(run):
    words = texts(figures.pictures(run, 2))
    firsts = [(run.splits["train"].owners == i).nonzero()[0].item() for i in (0, 1)]
    assert words == " ".join(figures.caption(run, "train", place) for place in firsts).split()


def test_maps_are_of_the_captions_own_pictures(run):
    split = run.splits["train"]
    places = [0, 7, 12]
    assert len(set(split.owners[places].tolist())) > 1
    batch = {
        "pixel_values": split.pixels[split.owners[places]],
        "input_ids": split.input_ids[places],
        "attention_mask": split.attention_mask[places],
    }
    expected = grad_cam(run.model, pairs.ready(batch))
    torch.testing.assert_close(figures.maps_of(run, places, "train").flatten(2), expected)


def test_looks_show_words_that_name_objects(run):
    figure = figures.looks(run, 2)
    nouns = {name.split()[-1] for shape in shapes.SHAPES for name in SYNONYMS[shape]}
    for line in range(2):
        picture, *maps = figure.axes[3 * line : 3 * line + 3]
        assert all(each.get_title() in nouns for each in maps)
        assert all(each.get_title() in picture.get_title() for each in maps)
        assert [len(each.images) for each in (picture, *maps)] == [1, 2, 2]


def test_codewords_are_shown_by_what_is_nearest(run):
    z_image, z_text = figures.taught(run)
    by_image = run.model.codebook.similarity(z_image)
    counts = torch.bincount(by_image.argmax(1), minlength=8)
    found = figures.nearest(run, 3, 4)
    used = [int(counts[k]) for k, _, _ in found]
    assert used == sorted(counts.tolist(), reverse=True)[:3]
    for k, rows, text in found:
        assert set(rows.tolist()) == set(by_image[:, k].argsort(descending=True)[:4].tolist())
        assert text == run.model.codebook.similarity(z_text)[:, k].argmax()
    figure = figures.codebook(run, 3, 4)
    assert len(figure.axes) == 12
    assert texts(figure.subfigs[0]) == figures.caption(run, "test", found[0][2]).split()


def test_one_example_of_each_task_is_shown(run):
    figure = figures.asked(run)
    words = texts(figure)
    assert [word for word in words if word.endswith(":")] == [f"{t}:" for t in TASKS["shapes"]]
    assert words.count("→") == 3
    assert [len(ax.images) for ax in figure.axes] == [1, 0, 1, 1, 0, 1, 0]


def test_a_run_comes_home(run):
    home = figures.at_home(run)
    assert home.history is run.history
    assert {pairs.pixels.device.type for pairs in home.splits.values()} == {"cpu"}
