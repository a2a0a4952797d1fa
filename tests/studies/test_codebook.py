"""The study of the chapter "Codebook": its loss is the package's, and its rules are the book's."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
import torch

from modalign import records
from modalign.studies import codebook as study
from modalign.transport import ipot

NOTEBOOK = pathlib.Path(__file__).parents[2] / "notebooks" / "codebook.ipynb"
TINY = {"examples": 64, "candidates": 40, "batch_size": 32, "epochs": 1, "prototypes": 12}


def towers_and_batch(setting):
    known, _ = study.data(setting)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = study.Towers(setting)
        for teacher in (towers.image_teacher, towers.text_teacher):
            for weight in teacher.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return towers, {name: view[: setting.batch_size] for name, view in known.items()}


@pytest.mark.parametrize("pairing", ["crossed", "same"])
@pytest.mark.parametrize("features", ["teacher", "student"])
def test_adopted_loss_is_the_packages(pairing, features):
    setting = study.Setting(pairing=pairing, features=features, **TINY)
    towers, batch = towers_and_batch(setting)
    towers.codebook.pairing, towers.codebook.features = pairing, features
    found = study.loss(towers, batch, setting)
    expected = towers.codebook.loss(*towers.embed(batch), *towers.teach(batch)).total
    torch.testing.assert_close(found, expected)
    trained = [each for each in towers.parameters() if each.requires_grad]
    for ours, theirs in zip(
        torch.autograd.grad(found, trained), torch.autograd.grad(expected, trained), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_every_switch_changes_the_loss_or_its_gradient():
    seen = {}
    for row, switches in study.ROWS.items():
        if row == "untrained":
            continue
        setting = study.Setting(**{**TINY, **switches})
        towers, batch = towers_and_batch(setting)
        found = study.loss(towers, batch, setting)
        trained = [each for each in towers.parameters() if each.requires_grad]
        gradients = torch.autograd.grad(found, trained, allow_unused=True)
        size = sum(float(each.abs().sum()) for each in gradients if each is not None)
        assert torch.isfinite(found)
        seen[row] = (round(found.item(), 5), round(size, 3))
    assert len(set(seen.values())) == len(seen), seen


def test_unrolled_plan_is_that_of_ipot():
    cost = torch.rand(6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(study.unrolled(cost, 0.5, 50), ipot(cost), rtol=1e-3, atol=1e-7)


def test_plans_of_parts_are_each_their_own():
    setting = study.Setting(parts=4, **TINY)
    similarity = torch.rand(32, 12, generator=torch.Generator().manual_seed(0))
    plan = study.assign(similarity, torch.tensor(0.1), setting)
    torch.testing.assert_close(plan.sum(), torch.tensor(1.0))
    torch.testing.assert_close(plan[:8], ipot(1 - similarity[:8]) / 4)


def test_a_run_is_the_same_twice_and_a_seed_is_another():
    setting = study.Setting(**TINY)
    one, two = (study.evaluate(study.train(setting)) for _ in range(2))
    assert one == two
    assert study.evaluate(study.train(dataclasses.replace(setting, seed=1))) != one


def test_measures_lie_in_their_ranges():
    run = study.train(study.Setting(**TINY))
    found = study.evaluate(run)
    assert 0 <= found["recall_at_1"] <= 100
    assert 1 <= found["usage"] <= 12
    assert -1 <= found["cosine"] <= 1
    assert found["entries"] > 0
    torch.testing.assert_close(study.usage(run.towers, run.held_out).sum(), torch.tensor(1.0))
    assert len(run.history) == 1


def test_record_keeps_a_row_for_each_switch_and_seed(tmp_path):
    rows = {name: study.ROWS[name] for name in ("adopted", "untrained")}
    study.record(seeds=2, folder=tmp_path, rows=rows, **TINY)
    table = records.load("codebook/switches", tmp_path)
    assert table[["row", "seed"]].values.tolist() == [
        ["adopted", 0], ["untrained", 0], ["adopted", 1], ["untrained", 1],
    ]  # fmt: skip
    assert table.attrs["parameters"]["setting"]["prototypes"] == 12


def test_claims_are_differences_paired_by_seed():
    rows = [
        {"row": row, "seed": seed, "recall_at_1": 10 * (row == "adopted") + seed, "entries": 50.0}
        for row in study.ROWS
        for seed in range(5)
    ]
    found = study.claims(pd.DataFrame(rows)).set_index("claim")
    assert set(found.index) == {*study.CLAIMS, "c27"}
    assert (found.drop("c27")["mean"] == 10).all()
    assert (found["verdict"] == "holds").all()
    assert found.loc["c27", "mean"] == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairing": "cross"}, "pairing: .*did you mean 'crossed'"),
        ({"targets": "soft"}, "targets: expected one of plan, softmax, pairs"),
        ({"parts": 5}, "expected whole batches in equal parts, got 1792, 128, 5"),
        ({"examples": 100}, "expected whole batches in equal parts, got 100, 128, 1"),
        ({"parts": 0}, "parts: expected a number above 0"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        study.Setting(**change)


def test_recorded_tables_are_those_of_the_study():
    recorded = records.load("codebook/switches")
    assert recorded.attrs["parameters"]["rows"] == study.ROWS
    assert recorded.groupby("row").seed.nunique().eq(8).all()
    assert records.load("codebook/explored").attrs["parameters"]["rows"] == study.EXPLORED
    usual = {**dataclasses.asdict(study.Setting()), **recorded.attrs["parameters"]["setting"]}
    assert study.Setting(**usual) == study.Setting()


def test_the_chapters_figure_moves(browser, tmp_path):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pages = ["".join(each.get("data", {}).get("text/html", "")) for each in outputs]
    (figure,) = [each for each in pages if "moving-plan" in each]
    assert len(figure.encode()) < 300_000
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{figure}", encoding="utf-8")
    rng = np.random.default_rng(6)
    points, prototypes = rng.uniform(size=(10, 2)), rng.uniform(size=(6, 2))
    cost = torch.from_numpy(np.linalg.norm(points[:, None] - prototypes, axis=2))
    tab = browser.new_page()
    tab.goto(page.as_uri())
    for beta, step in ((0, 50), (10, 3), (40, 1)):
        tab.locator("[name=beta]").fill(str(beta))
        tab.locator("[name=step]").fill(str(step))
        shown = re.search(r"plan costs ([0-9.]+)", tab.locator("output").inner_text())[1]
        plan = ipot(cost, beta=0.01 * 10 ** (beta / 20), outer=step, method="log")
        assert float(shown) == pytest.approx(float((plan * cost).sum()), abs=6e-5)
    tab.close()
