"""Reports and comparisons, on runs that are written here: every value shown, or named."""

import errno
import json
import math
import os
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest

from modalign import records, rerun
from modalign.rerun import execution, reporting


@pytest.fixture
def write_run(tmp_path):
    def write(number, parameters, values, code="", **changes):
        folder = tmp_path / "runs" / f"made-{number}"
        folder.mkdir(parents=True)
        results = json.dumps(execution._strict(values))
        held = {
            "name": folder.name,
            "chapter": "made",
            "parameters": parameters,
            "changed": {},
            "seconds": 1.0,
            "peak_memory_mib": 2.0,
            "failure": None,
            "source": "abc",
            "version": "1",
            "commit": "c0ffee",
            "python": "3",
            "libraries": {"torch": "2"},
            "machine": {"processor": "p", "cores": 1, "system": "s"},
            "device": "cpu",
            "date": "2026-01-01",
            **changes,
        }
        sealed = records.seal(held, results.encode())
        (folder / "provenance.json").write_text(json.dumps(sealed))
        (folder / "results.json").write_text(results)
        cells = [nbformat.v4.new_code_cell(code)] if code else []
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebook.ipynb")
        return folder

    return write


GAINS = [0.1, 0.3, 0.2, 0.2]


@pytest.fixture
def runs(tmp_path, write_run):
    """Two optimizers, two sizes, four seeds; lars gains GAINS[seed] over adam at either size."""
    number = 0
    for seed, gain in enumerate(GAINS):
        for size in (10, 2):
            for optimizer in ("adam", "lars"):
                accuracy = 0.1 * seed + size + (gain if optimizer == "lars" else 0)
                write_run(
                    number,
                    {"seed": seed, "size": size, "optimizer": optimizer, "shape": [1, 2]},
                    {"accuracy": accuracy, "constant": 1, "text": "a", "kind": optimizer},
                )
                number += 1
    return tmp_path / "runs"


def test_a_report_pairs_runs_by_seed_and_by_what_else_varies(runs):
    found = rerun.report(runs, by="optimizer")
    (row,) = found.differences.itertuples()
    from modalign.metrics import seed_interval

    assert (row.metric, row.level, row.against) == ("accuracy", "optimizer=lars", "optimizer=adam")
    assert (row.seeds, row.verdict) == (4, "higher")
    np.testing.assert_allclose([row.mean, row.low, row.high], seed_interval(GAINS))
    assert list(found.means["runs"]) == [8, 8]
    assert len(found.table) == 16
    assert "optimizer=lars" in str(found)


def test_a_report_compares_all_that_varies_and_takes_a_baseline(runs):
    levels = set(rerun.report(runs).means["level"])
    assert levels == {f"size={s}, optimizer={o}" for s in (2, 10) for o in ("adam", "lars")}
    by_size = rerun.report(runs, by="size", baseline="10", metric="accuracy")
    assert by_size.differences["against"].tolist() == ["size=10"]
    assert by_size.differences["mean"].item() == pytest.approx(-8)


def test_a_report_is_written_as_tables_figure_and_page(runs):
    report = rerun.report(runs, by="optimizer")
    folder = report.write()
    assert folder == runs.with_name("runs.report")
    table = pd.read_parquet(folder / "runs.parquet")
    pd.testing.assert_frame_equal(table, pd.read_csv(folder / "runs.csv"), check_dtype=False)
    assert table["shape"].iloc[0] == "[1, 2]"
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert "optimizer=lars" in page
    assert "data:image/png;base64," in page
    assert len(report.figure().axes) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"by": "optimiser"}, "by: there is no 'optimiser'.*did you mean 'optimizer'"),
        ({"metric": "acuracy"}, "metric: there is no 'acuracy'.*did you mean 'accuracy'"),
        ({"metric": "text"}, "metric: there is no 'text'"),
        ({"by": "optimizer", "baseline": "sgd"}, "baseline: there is no 'optimizer=sgd'"),
        ({"baseline": "adam"}, "baseline: expected one parameter in by"),
    ],
)
def test_a_report_refuses_what_it_does_not_know(runs, options, problem):
    with pytest.raises(ValueError, match=problem):
        rerun.report(runs, **options)


def test_a_report_says_what_is_missing_or_not_finite(tmp_path, write_run):
    for seed in (0, 1):
        for rate in (0.0, 0.5):
            value = math.nan if (seed, rate) == (1, 0.5) else rate + seed
            write_run(f"{seed}{rate}", {"seed": seed, "rate": rate}, {"loss": value})
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    (tmp_path / "runs" / "sweep.yml").write_text(json.dumps({"runs": [*names, "made-lost"]}))
    found = rerun.report(tmp_path / "runs" / "sweep.yml")
    assert "1 run left out, missing: made-lost" in found.remarks
    assert any("loss is not finite in 1 run: " in remark for remark in found.remarks)
    assert math.isnan(found.differences["mean"].item())
    assert found.differences["verdict"].item() == "no interval"


def test_a_report_of_nothing_is_refused(tmp_path, write_run):
    with pytest.raises(FileNotFoundError, match="there is no"):
        rerun.report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no finished run"):
        rerun.report(tmp_path / "empty")
    write_run(1, {"seed": 0}, {"loss": 1.0})
    write_run(2, {"seed": 0}, {"loss": 1.0}, chapter="other")
    with pytest.raises(ValueError, match="has runs of made, other"):
        rerun.report(tmp_path / "runs")


def test_compare_shows_what_differs_and_nothing_else(write_run):
    a = write_run(1, {"seed": 0, "rate": 0.1}, {"loss": 1.0, "same": 2, "odd": math.nan})
    b = write_run(
        2,
        {"seed": 0, "rate": 0.5},
        {"loss": 0.5, "same": 2, "odd": math.nan},
        libraries={"torch": "3"},
    )
    found = rerun.compare(a, b)
    assert found.parameters.to_dict("records") == [{"parameter": "rate", "A": 0.1, "B": 0.5}]
    assert found.results.to_dict("records") == [
        {"value": "loss", "A": 1.0, "B": 0.5, "B - A": -0.5}
    ]
    assert found.environment.to_dict("records") == [{"of": "libraries torch", "A": "2", "B": "3"}]
    assert "Results that differ:" in str(found)
    assert "Results: the same" in str(rerun.compare(a, rerun.Result(a)))
    assert "libraries torch" in found._repr_html_()


def test_compare_refuses_two_chapters_and_no_run(write_run, tmp_path):
    a = write_run(1, {"seed": 0}, {"loss": 1.0})
    b = write_run(2, {"seed": 0}, {"loss": 1.0}, chapter="other")
    with pytest.raises(ValueError, match="runs of one chapter, got made, other"):
        rerun.compare(a, b)
    with pytest.raises(FileNotFoundError, match="no run in"):
        rerun.compare(a, tmp_path)


def test_a_verdict_is_read_from_the_interval():
    read = reporting._verdict
    assert read({"low": 0.1, "high": 0.2}) == "higher"
    assert read({"low": -0.2, "high": -0.1}) == "lower"
    assert read({"low": -0.1, "high": 0.1}) == "undecided"


# every value that was asked for


def grid(write_run, values, seeds=3, rates=(0.1, 0.2), **changes):
    """A run a seed and rate; values gives what each glues."""
    for seed in range(seeds):
        for rate in rates:
            held = values(seed, rate)
            write_run(f"{seed}-{rate}{changes.get('code', '')}", {"seed": seed, "rate": rate}, held)


def test_a_run_that_lacks_a_value_is_named_and_its_level_has_no_mean(tmp_path, write_run):
    def values(seed, rate):
        held = {"loss": 1.0 + seed, "acc": None if seed == 1 else 0.5 + rate, "text": "x"}
        # another number, text, a number too large, nothing at all
        held["odd"] = {0: 10**400, 1: "diverged", 2: 0.5}[seed] if rate == 0.2 else seed
        if seed != 2:
            held["late"] = rate
        return held

    grid(write_run, values)
    found = rerun.report(tmp_path / "runs")
    means = found.means.set_index(["metric", "level"])["mean"]
    assert set(means.index.get_level_values(0)) == {"loss", "acc", "odd", "late"}
    assert means["loss"].tolist() == [2.0, 2.0]
    assert means.sort_index().drop("loss").isna().tolist() == [True, True, True, True, False, True]
    said = "\n".join(found.remarks)
    assert "acc is not a number in 2 runs (made-1-0.1, made-1-0.2): levels with them" in said
    assert "odd is not a number in 1 run (made-1-0.2)" in said
    assert "odd is not finite in 1 run" in said
    assert "late is not a number in 2 runs (made-2-0.1, made-2-0.2)" in said
    assert found.table["acc"].isna().sum() == 2
    assert "diverged" in set(found.table["odd"])
    assert pd.read_parquet(found.write() / "runs.parquet")["odd"].tolist()[-1] == "0.5"


def test_a_bool_counts_as_0_or_1(tmp_path, write_run):
    grid(write_run, lambda seed, rate: {"converged": seed > 0 or rate > 0.1, "on": True})
    found = rerun.report(tmp_path / "runs", metric="converged")
    assert found.means["mean"].tolist() == pytest.approx([2 / 3, 1])
    assert found.differences["mean"].tolist() == pytest.approx([1 / 3])
    assert rerun.report(tmp_path / "runs").remarks[-1] == "the same in all runs: on = True"
    assert found.table["converged"].dtype == bool


@pytest.mark.parametrize("name", ["level", "run", "code", "rate", "seconds", "seed", "metric"])
def test_a_glued_value_of_any_name_is_shown_beside_what_has_the_name(tmp_path, write_run, name):
    grid(write_run, lambda seed, rate: {name: 0.5 + rate, f"{name} (value)": "taken"})
    found = rerun.report(tmp_path / "runs", metric=f"{name} (value)" if name == "seconds" else name)
    assert found.means["mean"].tolist() == pytest.approx([0.6, 0.7])
    assert found.means["level"].tolist() == ["rate=0.1", "rate=0.2"]
    assert found.table["run"].tolist()[0] == "made-0-0.1"
    assert found.table["seconds"].tolist() == [1.0] * 6
    assert set(found.table["rate"]) == {0.1, 0.2}


def test_parameters_of_any_name_are_compared(tmp_path, write_run):
    names = ("run", "level", "code", "seconds", "metric")
    for n in range(2):
        write_run(n, {"seed": 0, **dict.fromkeys(names, n)}, {"loss": n})
    for name in names:
        found = rerun.report(tmp_path / "runs", by=name)
        assert found.means["level"].tolist() == [f"{name}=0", f"{name}=1"]
    assert found.table["run (parameter)"].tolist() == [0, 1]


def test_texts_that_look_like_other_levels_stay_apart(tmp_path, write_run):
    pairs = [("a, x=b", "c"), ("a", "b, x=c"), ("", "$x_"), ("1", '["a", 2]'), ("\ud800", "ü")]
    for n, (note, x) in enumerate(pairs):
        write_run(n, {"seed": 0, "note": note, "x": x}, {"loss": float(n), "\udfff": "\ud800"})
    found = rerun.report(tmp_path / "runs", by=["note", "x"])
    levels = set(found.means["level"])
    assert len(levels) == 5
    assert {'note="", x=$x_', 'note=1, x=["a", 2]', "note=\\ud800, x=ü"} <= levels
    assert found.write()


def test_what_varies_in_nothing_is_shown_too(tmp_path, write_run):
    write_run(1, {"seed": 0, "rate": 0.5}, {"loss": 2.0, "text": "a"})
    found = rerun.report(tmp_path / "runs")
    assert found.means[["metric", "mean"]].to_dict("records") == [{"metric": "loss", "mean": 2.0}]
    assert found.differences.empty
    write_run(2, {"seed": 1, "rate": 0.5}, {"loss": 2.0, "text": "a"})
    assert rerun.report(tmp_path / "runs").means["low"].tolist() == [2.0]


def test_without_seeds_there_is_no_interval(tmp_path, write_run):
    for n in range(4):
        write_run(n, {"rate": n % 2, "size": n // 2}, {"loss": n})
    means = rerun.report(tmp_path / "runs", by="rate").means
    assert means["mean"].tolist() == [1, 2]
    assert means["seeds"].tolist() == [1, 1]
    assert means["low"].isna().all()


def test_a_difference_of_rounding_is_no_verdict(tmp_path, write_run):
    off = {0.1: 0.0, 0.2: 1e-16, 0.3: 1e-7, 0.4: 1e-4}
    grid(write_run, lambda seed, rate: {"loss": (10 + seed) * (1 + off[rate])}, rates=off)
    found = rerun.report(tmp_path / "runs").differences
    assert found["verdict"].tolist() == ["undecided", "undecided", "higher"]
    found = rerun.report(tmp_path / "runs", baseline=0.4).differences
    assert found["verdict"].tolist() == ["lower"] * 3


# which runs


def test_runs_of_other_code_are_rows_of_their_own(tmp_path, write_run):
    number = 0
    for code, source, date, up in [
        ("b", "1", "2026-01-02", 10),
        ("a", "1", "2026-01-01", 0),
        ("b", "2", "2026-01-03", 20),
    ]:
        for seed in (0, 1):
            for rate in (0.1, 0.2):
                held = {"score": up + seed + rate}
                number += 1
                parameters = {"seed": seed, "rate": rate}
                write_run(number, parameters, held, code=code, source=source, date=date)
    found = rerun.report(tmp_path / "runs")
    means = dict(zip(found.means["level"], found.means["mean"], strict=True))
    expected = {"rate=0.1, code 1": 0.6, "rate=0.1, code 2": 10.6, "rate=0.1, code 3": 20.6}
    assert {name: means[name] for name in expected} == pytest.approx(expected)
    assert list(means)[:4] == [*expected, "rate=0.2, code 1"]
    assert found.means["runs"].tolist() == [2] * 6
    against = found.differences.set_index("level")["against"].to_dict()
    assert against == {f"rate=0.2, code {n}": f"rate=0.1, code {n}" for n in (1, 2, 3)}
    assert found.differences["mean"].tolist() == pytest.approx([0.1] * 3)
    assert any("runs are of 3 versions of the code" in remark for remark in found.remarks)
    assert sorted(found.table["code"]) == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert found.write()


def test_a_code_without_a_baseline_is_compared_with_none(tmp_path, write_run):
    for seed in (0, 1):
        write_run(f"a{seed}", {"seed": seed, "rate": 0.1}, {"loss": seed}, code="a")
        write_run(f"b{seed}", {"seed": seed, "rate": 0.2}, {"loss": seed}, code="b")
    found = rerun.report(tmp_path / "runs")
    assert found.differences.empty
    assert "rate=0.2, code 2 has no baseline of its code: it is compared with none" in found.remarks


def edit(path, **changes):
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, **changes}))


def test_an_edited_or_copied_run_is_left_out_and_named(tmp_path, write_run):
    grid(write_run, lambda seed, rate: {"loss": seed + rate})
    folder = tmp_path / "runs"
    edit(folder / "made-0-0.1" / "provenance.json", parameters={"seed": 0, "rate": 0.2})
    edit(folder / "made-1-0.1" / "results.json", loss=9)
    (folder / "made-2-0.1" / "notebook.ipynb").write_text('{"cells": [1]}')
    held = json.loads((folder / "made-2-0.2" / "provenance.json").read_text())
    held["failure"] = {"reason": "error"}
    failed = records.seal(held, (folder / "made-2-0.2" / "results.json").read_bytes())
    (folder / "made-2-0.2" / "provenance.json").write_text(json.dumps(failed))
    shutil.copytree(folder / "made-0-0.2", folder / "zopy")
    found = rerun.report(folder)
    assert found.table["run"].tolist() == ["made-0-0.2", "made-1-0.2"]
    said = "\n".join(found.remarks)
    assert "1 run left out, failed: made-2-0.2" in said
    assert "3 runs left out, damaged: made-0-0.1 (run: " in said
    assert "its record is not the one that was written" in said
    assert "the file is not the one that was written" in said
    assert "1 run left out, copies: zopy (of made-0-0.2)" in said

    # a folder under another's name is not that run
    (folder / "made-0-0.1.failed").mkdir()
    shutil.rmtree(folder / "made-0-0.1")
    (folder / "s.yml").write_text(json.dumps({"runs": ["made-1-0.2", "zopy", "made-0-0.1"]}))
    said = "\n".join(rerun.report(folder / "s.yml").remarks)
    assert "damaged: zopy (it holds the run made-0-0.2)" in said
    assert "failed: made-0-0.1" in said


def test_a_baseline_that_has_no_run_is_told(tmp_path, write_run):
    grid(write_run, lambda seed, rate: {"loss": rate}, rates=(0.2, 0.1))
    names = [f"made-{seed}-{rate}" for rate in (0.3, 0.2, 0.1) for seed in range(3)]
    path = tmp_path / "runs" / "s.yml"
    path.write_text(json.dumps({"grid": {"rate": [0.3, 0.2, 0.1]}, "runs": names}))
    found = rerun.report(path)
    assert found.differences["against"].tolist() == ["rate=0.2"]
    assert (
        "rate=0.3, the first of the grid, has no finished run: the others are compared with "
        "rate=0.2" in found.remarks
    )
    # one seed of the first is missing: it stays the baseline, and the others pair as they can
    names = [f"made-{seed}-{rate}" for seed in (1, 2, 0) for rate in (0.1, 0.2)]
    asked = {"grid": {"rate": [0.2, 0.1]}, "runs": [each for each in names if each != "made-1-0.2"]}
    path.write_text(json.dumps(asked))
    found = rerun.report(path)
    assert found.differences[["against", "seeds"]].to_numpy().tolist() == [["rate=0.2", 2]]
    assert "1 run without a partner in the baseline: left out of the differences" in found.remarks


def test_a_report_by_the_seed_compares_seeds(tmp_path, write_run):
    grid(write_run, lambda seed, rate: {"loss": seed + rate})
    found = rerun.report(tmp_path / "runs", by="seed").differences
    assert found["level"].tolist() == ["seed=1", "seed=2"]
    assert found["mean"].tolist() == pytest.approx([1, 2])
    assert set(found["verdict"]) == {"no interval"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no runs"),
        ("- a", "names no runs"),
        ("runs: 3", "names no runs"),
        ("runs: {a: 1}", "names no runs"),
        ("runs: [3]", "runs: expected names of runs, got 3"),
        ("runs: [[a]]", r"runs: expected names of runs, got \['a'\]"),
        ("runs: [../made-1]", "runs: expected names of runs, got '../made-1'"),
        ("runs: [a, b]", "has no finished run; 2 runs left out, missing: a, b"),
        ("runs: []", "has no finished run"),
        ("runs: [a\n", "s.yml: line 2: expected"),
        ("runs: [a]\nruns: [b]", "s.yml: line 2: runs is given twice"),
    ],
)
def test_a_file_that_names_no_runs_is_refused_in_a_line(tmp_path, text, problem):
    (tmp_path / "s.yml").write_text(text)
    with pytest.raises(ValueError, match=problem) as info:
        rerun.report(tmp_path / "s.yml")
    assert "\n" not in str(info.value)


def test_a_file_of_bytes_is_refused_in_a_line(tmp_path):
    (tmp_path / "s.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="s.yml: line 1: expected UTF-8"):
        rerun.report(tmp_path / "s.yml")


def test_a_report_of_many_levels_draws_some_and_says_so(tmp_path, write_run):
    for n in range(100):
        write_run(n, {"seed": 0, "rate": n}, {f"m{k}": k + n for k in range(8)})
    found = rerun.report(tmp_path / "runs")
    assert len(found.means) == 800
    assert "the figure shows the first 6 of 8 metrics" in found.remarks
    assert "the figure shows the first 60 of 99 levels" in found.remarks
    assert found.png().startswith(b"\x89PNG")


def test_a_full_disk_is_named_and_keeps_the_report_before(runs, monkeypatch):
    report = rerun.report(runs, by="optimizer")
    folder = report.write()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot write .*runs\.csv: No space left.*MiB free"):
            report.write()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (runs / "file").touch()
    with pytest.raises(OSError, match="cannot write .*file: File exists"):
        report.write(runs / "file")


def test_a_report_without_a_figure_removes_that_of_an_earlier_one(runs, tmp_path, write_run):
    folder = rerun.report(runs).write(tmp_path / "report")
    assert (folder / "figure.png").exists()
    shutil.rmtree(runs)
    write_run(1, {"seed": 0}, {"loss": 1})
    rerun.report(runs).write(folder)
    assert not (folder / "figure.png").exists()
    assert "<img" not in (folder / "report.html").read_text()


def test_a_run_without_a_commit_says_why(tmp_path, write_run):
    write_run(1, {"seed": 0}, {"loss": 1}, commit=None, no_commit="git refuses: it is yours")
    (line,) = rerun.report(tmp_path / "runs").origin
    assert "modalign 1 (no commit: git refuses: it is yours)" in line


def test_compare_takes_lists_with_nan_for_the_same_and_bools_and_large_numbers(write_run):
    values = {"same": [1, math.nan], "on": True, "large": 10**400, "none": None}
    a = write_run(1, {"seed": 0}, values)
    b = write_run(2, {"seed": 0}, {**values, "on": False, "large": 1.5, "none": 1})
    found = rerun.compare(a, b).results.set_index("value")["B - A"].to_dict()
    assert found == {"on": -1, "large": -math.inf, "none": ""}
