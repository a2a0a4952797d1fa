"""Comparisons in which every arm has the same search of rates."""

import dataclasses
from statistics import mean

import pandas as pd
import pytest

from modalign import records
from modalign.models.neumatch import NeuMATCH
from modalign.studies.neumatch import experiments, fair
from modalign.studies.neumatch.claims import DECIDED
from modalign.studies.neumatch.fair import COMPARISONS, chosen, grids, read, record, tasks_of
from modalign.training import DivergenceError

TINY = {"sequences": 40, "hidden": 8, "epochs": 2, "every": 1}


def runs(**columns):
    usual = {"row": "a", "rate": 0.1, "seed": 0, "epoch": 1, "train text_iou": 0.5}
    usual |= dict.fromkeys(fair.VALIDATION, 0.2)
    return pd.DataFrame([{**usual, **each} for each in transposed(columns)])


def transposed(columns):
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_arm_has_as_many_trials_and_no_seed_is_in_both_stages(name):
    tasks = tasks_of(name, grids(name), fair.TUNING)
    assert len(set(tasks)) == len(tasks)
    assert pd.Series([arm for arm, _ in tasks]).value_counts().nunique() == 1
    # as many steps, batches and examples too
    shared = {(s.dataset, s.epochs, s.batch_size, s.sequences, s.every) for _, s in tasks}
    assert len(shared) == 1
    older = range(5)
    assert not set(fair.TUNING) & set(fair.SEEDS)
    assert not {*fair.TUNING, *fair.SEEDS} & set(older)


@pytest.mark.parametrize("name", COMPARISONS)
def test_what_a_comparison_decides_is_about_its_arms(name):
    rows = {row for each in DECIDED[name] for row in (each.better, each.worse)}
    assert rows == set(COMPARISONS[name].arms)


def test_the_narrow_arm_has_as_many_weights_as_the_projected_one():
    def size(hidden, **options):
        model = NeuMATCH(256, 128, hidden=hidden, **options)
        return sum(p.numel() for p in model.parameters())

    off = {h: abs(size(h, projection=False) - size(64)) for h in range(50, 65)}
    narrow = COMPARISONS["projections"].arms["Full + SBN + LARS, as many weights"]
    assert narrow["hidden"] == min(off, key=off.get)


def test_a_run_is_read_where_training_first_reached_so_much_with_the_ratios_of_its_end():
    table = runs(epoch=[2, 1, 3, 1, 2], seed=[0, 0, 0, 1, 1]).assign(
        **{"train text_iou": [0.9, 0.3, 0.95, 0.4, 0.6], "last ratio video": [0, 0, 7, 0, 8]}
    )
    found = read(table, 0.9)
    assert found.epoch.tolist() == [2, 2]
    assert found["last ratio video"].tolist() == [7, 8]
    assert read(table, None).epoch.tolist() == [3, 2]


def test_the_rate_is_the_best_on_validation_over_the_tuning_seeds():
    table = runs(rate=[0.1, 0.1, 0.2, 0.2], seed=[0, 1, 0, 1])
    table[fair.VALIDATION[0]] = [0.9, 0.1, 0.6, 0.5]
    assert chosen(table, None) == {"a": 0.2}
    table[fair.VALIDATION[1]] = [0.2, 0.2, 0.2, float("nan")]  # a run that diverged
    assert chosen(table, None) == {"a": 0.1}
    with pytest.raises(ValueError, match="search: expected as many runs of each arm"):
        chosen(pd.concat([table, runs(row=["b"])]), None)


def test_arms_whose_best_rate_is_at_an_end_are_named():
    arms = grids("optimizers")
    best = dict(zip(arms, (0.007, 0.0003, 0.003), strict=True))
    table = runs(row=[arm for arm, rates in arms.items() for _ in rates])
    table["rate"] = [rate for rates in arms.values() for rate in rates]
    table[fair.VALIDATION[0]] = [
        float(r == best[a]) for a, r in zip(table.row, table.rate, strict=True)
    ]
    assert fair.at_an_end("optimizers", table) == ["RP + SBN + Adam"]


def test_a_run_that_diverges_in_the_search_is_kept_without_a_score(monkeypatch):
    def diverges(task):
        raise DivergenceError("loss became nan", pd.DataFrame({"epoch": [1, 2]}))

    monkeypatch.setattr(fair, "_tested", diverges)
    found = fair._searched(fair.Task("a", fair.Setting(), None)).iloc[0]
    assert (found.row, found.rate, found.epoch) == ("a", 0.007, 3)
    assert found[fair.VALIDATION].isna().all()


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_run_of_the_search_ends_where_it_is_read(done, tmp_path):
    setting = fair.Setting(**{**TINY, "epochs": 4})
    whole = fair._searched(fair.Task("a", setting, tmp_path / "whole.pt"))
    risen = whole["train text_iou"].cummax()
    reach = risen.iloc[1]
    ends = (risen >= reach).idxmax() + 1
    task = fair.Task("a", setting, tmp_path / "run.pt")
    if done:  # a run that was stopped there
        shorter = dataclasses.replace(setting, epochs=done)
        fair._tested(task._replace(setting=shorter))
    found = fair._searched(task, reach)
    assert found.epoch.max() == max(ends, done)
    columns = ["epoch", "train text_iou", *fair.VALIDATION]
    pd.testing.assert_frame_equal(
        read(found, reach)[columns], read(whole, reach)[columns], check_exact=True
    )
    never = fair._searched(fair.Task("a", setting, tmp_path / "never.pt"), 1.1)
    assert never.epoch.tolist() == [1, 2, 3, 4]


def test_a_comparison_is_searched_then_tested_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "each", lambda work, tasks, **_: [work(task) for task in tasks])
    monkeypatch.setattr(records, "commit", lambda: ("0" * 12, None))
    monkeypatch.setitem(fair.RATES, "lars", (0.007, 0.02))
    monkeypatch.setitem(fair.RATES, "adam", (0.001, 0.01))
    monkeypatch.setitem(fair.RATES, "adam-warmup", (0.001, 0.01))
    options = {"tuning": [7], "seeds": [8, 9], "folder": tmp_path, "progress": False, **TINY}
    record("optimizers", **options)
    search = records.load("neumatch/fair-optimizers-search", tmp_path)
    tested = records.load("neumatch/fair-optimizers", tmp_path)
    assert not [column for column in search if column.startswith("test ")]
    assert set(search.seed) == {7}
    assert set(tested.seed) == {8, 9}
    best = chosen(search, None)
    assert tested.groupby("row").rate.unique().map(list).to_dict() == {
        arm: [rate] for arm, rate in best.items()
    }

    def fails(task):
        raise AssertionError("all runs are kept")

    monkeypatch.setattr(fair.experiments, "_work", fails)
    record("optimizers", **options)
    pd.testing.assert_frame_equal(records.load("neumatch/fair-optimizers", tmp_path), tested)


def test_each_view_is_trained_with_both_optimizers_and_stands_beside_its_floor(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "each", lambda work, tasks, **_: [work(task) for task in tasks])
    monkeypatch.setattr(records, "commit", lambda: ("0" * 12, None))
    quick = {"dataset": "shapes", "sequences": 40, "hidden": 8, "epochs": 2, "every": 2}
    views = {"noise 0.3": {}, "no noise": {"noise": 0.0}}
    fair.record_views(views=views, seeds=[7], folder=tmp_path, progress=False, **quick)
    table = records.load("neumatch/fair-views", tmp_path)
    assert not [column for column in table if column.startswith("test ")]
    found = fair.levels(table)
    assert found.index.tolist() == [(v, o) for v in views for o in ("LARS", "Adam")]
    of = experiments.samples("shapes", 7, 0.3, 40, easier=False)["validation"]
    left_out = [(sample.clip_snippet == -1).double().mean().item() for sample in of]
    assert found[fair.FLOOR]["noise 0.3"].tolist() == pytest.approx(
        [100 * mean(left_out)] * 2, abs=0.01
    )


def test_levels_are_means_over_seeds_and_none_where_a_run_diverged():
    names = ("a: LARS", "a: LARS", "a: Adam", "a: Adam")
    table = runs(view=["a"] * 4, row=names, seed=[0, 1, 0, 1])
    table[fair.VALIDATION[0]] = [0.1, 0.2, 0.3, float("nan")]
    found = fair.levels(table.assign(**{fair.FLOOR: 0.15}))[fair.VALIDATION[0]]
    assert found["a", "LARS"] == pytest.approx(15)
    assert pd.isna(found["a", "Adam"])


def test_seeds_in_both_stages_and_unknown_comparisons_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected no seed in both, got \[3\]"):
        record("optimizers", tuning=[3], seeds=[3, 4], folder=tmp_path)
    with pytest.raises(ValueError, match="name: expected one of optimizers"):
        record("optimisers", folder=tmp_path)


def test_runs_of_the_search_are_repeated_and_compared_run_by_run(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "each", lambda work, tasks, **_: [work(task) for task in tasks])
    monkeypatch.setattr(records, "commit", lambda: ("0" * 12, None))
    arms = dict.fromkeys(fair.REPEATED, (0.01,))
    again = {"rates": arms, "seeds": [7], "folder": tmp_path, "progress": False, **TINY}
    searched = pd.concat(
        fair._searched(fair.Task(arm, setting, None))
        for arm, setting in tasks_of("optimizers", arms, [7], **TINY)
    )
    searched = searched[searched.epoch == 2].assign(seed=7, rate=0.01)
    where = {"commits": ["f" * 12], "places": ["elsewhere"]}
    for shift in (0.0, 0.25):
        shifted = searched.assign(**{m: searched[m] - shift for m in fair.VALIDATION})
        records.save(
            shifted,
            "neumatch/fair-optimizers-search",
            parameters=where,
            seconds=1.0,
            folder=tmp_path,
        )
        fair.record_processors(**{**again, "every": 2})
        found = fair.moved(tmp_path)
        assert found.row.tolist() == list(arms)
        # on one processor a seed repeats a run
        assert found[fair.VALIDATION].to_numpy() == pytest.approx(shift, abs=1e-4)
    kept = records.load("neumatch/processors", tmp_path)
    assert kept.attrs["parameters"]["first"] == where
    assert not [column for column in kept if column.startswith("test ")]
    fair.record_processors(**{**again, "every": 2, "seeds": [7, 8]})
    with pytest.raises(ValueError, match="expected runs of the search"):
        fair.moved(tmp_path)
