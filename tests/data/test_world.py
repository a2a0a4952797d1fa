import pytest

from modalign.data import load
from modalign.data.shapes import Options, sample_scene


def test_the_world_is_a_data_set_like_the_others(tmp_path):
    rows = load("shapes", "test", length=4, seed=3, cache_dir=tmp_path)
    assert rows["split"] == ["test"] * 4
    assert rows[0]["image"].size == (64, 64)
    assert rows["index"] == list(range(4))
    assert "coloured shapes" in rows.info.description


def test_all_rows_are_those_of_every_split(tmp_path):
    rows = load("shapes", length=3, cache_dir=tmp_path)
    assert rows["split"] == ["train"] * 3 + ["validation"] * 3 + ["test"] * 3


def test_options_reach_the_world(tmp_path):
    options = Options(seed=5, views=["objects"], max_objects=2)
    rows = load("shapes", "train", length=5, options=options, cache_dir=tmp_path)
    known = [len(sample_scene(5, i, max_objects=2).objects) for i in range(5)]
    assert [len(row["objects"]) for row in rows] == known


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="did you mean 'length'"):
        load("shapes", "train", lenght=5)
