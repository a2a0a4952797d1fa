import dataclasses

import pandas as pd
import pytest

from modalign import records
from modalign.studies.cka import recording
from modalign.studies.cka.cosine_learning import Setting, train
from modalign.studies.cka.recording import SWEEPS, Sweep, record, settings

TINY = {"examples": [600], "epochs": [1]}


def test_record_runs_every_setting_and_marks_its_rows(tmp_path, monkeypatch):
    grids = ({**TINY, "objective": ["cosine", "both"]},)
    sweep = Sweep(SWEEPS["cka/map"].measure, grids)
    monkeypatch.setattr(recording, "SWEEPS", {"cka/map": sweep})
    record(["cka/map"], seeds=2, folder=tmp_path)
    table = records.load("cka/map", folder=tmp_path)
    assert len(table) == 4 * 2 * 2
    assert set(table.groupby(["objective", "seed"]).groups) == {
        (objective, seed) for objective in ("cosine", "both") for seed in (10, 11)
    }
    assert table.attrs["parameters"]["fixed"]["examples"] == 600
    assert "examples" not in table
    known = train(settings(grids, [10])[0]).history
    pd.testing.assert_frame_equal(table[known.columns].head(len(known)), known, rtol=1e-4)


def test_a_column_of_the_measure_is_kept_where_the_setting_has_one_too(tmp_path, monkeypatch):
    def measure(setting):
        return pd.DataFrame({"measure": ["cca"], "value": [setting.seed]})

    monkeypatch.setattr(recording, "SWEEPS", {"cka/few": Sweep(measure, (TINY,))})
    runs = settings((TINY,), [10, 11])
    found = [
        recording._measured(
            recording.Task("row", run, tmp_path), measure=measure, fixed=frozenset(["measure"])
        )
        for run in runs
    ]
    assert pd.concat(found).measure.tolist() == ["cca", "cca"]


def test_runs_that_cka_cannot_change_appear_once():
    grid = {"objective": ["cosine", "contrastive"], "lambda_cka": [0.1, 1.0]}
    runs = settings([grid, grid], [0])
    assert [(run.objective, run.lambda_cka) for run in runs] == [("cosine", 0), ("contrastive", 0)]


def test_an_unknown_table_is_named():
    with pytest.raises(ValueError, match="names: expected one of .* did you mean 'cka/map'"):
        record(["cka/mab"])


@pytest.mark.parametrize("name", list(SWEEPS))
def test_recorded_tables_hold_every_run_of_their_grids(name):
    table = records.load(name)
    made = table.attrs["parameters"]
    if "grid" in made:  # as it was written before a sweep had several
        made |= {"grids": [made["grid"]], "seeds": list(range(made["seeds"]))}
    assert made["grids"] == [
        {key: list(values) for key, values in grid.items()} for grid in SWEEPS[name].grids
    ]
    assert len(made["seeds"]) >= 5
    assert made["seeds"][0] == SWEEPS[name].first
    runs = settings(SWEEPS[name].grids, made["seeds"])
    varied = {key for grid in made["grids"] for key in grid} - set(made["fixed"])
    columns = [f.name for f in dataclasses.fields(Setting) if f.name in table.columns]
    assert varied <= set(columns)
    if "measure" in made["fixed"] and "measure" in columns:
        columns.remove("measure")  # a column of what was measured
    assert len(table[columns].drop_duplicates()) == len(runs)
