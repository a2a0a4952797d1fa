"""The ledger: every claim once, each verdict from its table, and pages that say the same."""

import importlib.util
import json
import pathlib
import re
import shutil

import pandas as pd
import pytest

from modalign import cli, records
from modalign.metrics import SYMBOLS, Interval, of_readings
from modalign.studies import ledger

ROOT = pathlib.Path(__file__).parents[2]
IDS = [f"c{i}" for i in range(1, 42)]


@pytest.fixture(scope="module")
def table():
    return ledger.ledger()


@pytest.fixture(scope="module")
def told():
    return ledger.readings()


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tools_ledger", ROOT / "tools" / "ledger.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_id_is_there_once_and_in_order(table):
    assert table["id"].tolist() == IDS == list(ledger.CLAIMS)


def test_a_verdict_is_that_of_the_readings_that_were_planned(table, told):
    for row in table.itertuples():
        part = told[told["id"] == row.id]
        planned = part[~part["exploratory"].astype(bool)]
        if not len(part):
            assert row.id in ("c5", "c33") or row.verdict == ledger.NOT_TESTABLE
            continue
        own = planned if len(planned) else part
        assert row.exploratory == (not len(planned))
        assert row.verdict == of_readings(own["verdict"])
        assert row.symbol == SYMBOLS[row.verdict]
        assert set(row.tables.split(", ")) == set(own["table"])
        assert row.pairs >= 2


def test_readings_say_where_they_come_from_and_follow_the_rule(told):
    for row in told.itertuples():
        kinds = {
            Interval(row.mean, row.low, row.high).verdict(paper=side, smallest=row.smallest)
            for side in (1, -1)
        }
        assert row.verdict in kinds | {"holds", "reversed"}
        assert (ROOT / "results" / f"{row.table}.json").exists(), row.table
    assert told[["says", "measure", "contrast", "budget"]].map(bool).all(axis=None)


def test_undecided_claims_say_how_many_seeds_would_decide(table, told):
    for row in table.itertuples():
        part = told[(told["id"] == row.id) & (told["verdict"] == "undecided")]
        if row.verdict == "undecided":
            assert row.seeds == part["seeds"].max() > row.pairs
            device = records.load(row.tables.split(", ")[0]).attrs["device"]
            assert row.hours > 2 or device != "cpu"  # the seeds of a cheaper one should be run
        else:
            assert pd.isna(row.seeds)
            assert pd.isna(row.hours)


def test_a_claim_whose_smallest_effect_was_not_set_before_is_planned_by_the_papers(told):
    part = told[told["id"] == "c28"].set_index("reading")
    assert (part["smallest"] == 0).all()
    spread = part.loc["early stopping helps"].iloc[0]
    interval = Interval(spread["mean"], spread["low"], spread["high"])
    assert spread["seeds"] == interval.seeds_to_decide(5, smallest=0.007)  # 24.9 and 24.2


def test_hours_to_decide_are_those_of_the_recorded_runs():
    table = pd.DataFrame({"row": ["a", "a", "b", "b"], "seed": 0, "epoch": [1, 2, 1, 2]})
    table.attrs["seconds"] = 360.0
    assert ledger.hours_to_decide(5, table) == pytest.approx(2 * 5 * 180 / 3600)


def test_what_cannot_be_tested_says_what_it_would_take(table):
    for row in table[table["verdict"] == ledger.NOT_TESTABLE].itertuples():
        assert row.value.startswith("it would take ")


def test_the_scoreboard_counts_each_claim(table):
    counts = ledger.scoreboard(table)
    assert counts.loc["all"].sum() == 41
    shared = sum("," in each.paper for each in ledger.CLAIMS.values())
    assert counts.drop(index="all").to_numpy().sum() == 41 + shared
    assert list(counts.columns) == list(SYMBOLS)


def test_invariance_is_measured():
    assert ledger.is_invariant() < 1e-9


def test_links_lead_to_labels_that_are_there(table):
    for chapter in set(table["chapter"]):
        page, _, label = chapter.partition("#")
        source = (ROOT / "notebooks" / f"{page}.ipynb").read_text(encoding="utf-8")
        assert not label or f"({label})=" in source, chapter


def test_pages_show_what_is_computed(table, tool):
    assert tool.main(["--check"]) == 0
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    for row in table.itertuples():
        found = re.findall(rf"\| \{{\w+\}}`{row.id} <[^|]*\|([^|]*)\|[^|]*\| ([^|]*) \|", page)
        assert found, row.id
        for says, verdict in found:
            assert says.strip() == row.says
            assert verdict.startswith(f"{row.symbol}\N{NO-BREAK SPACE}{row.verdict}")
    for name in ("README.md", "book/intro.md"):
        assert tool.scores(table) in (ROOT / name).read_text(encoding="utf-8")


def test_a_page_without_marks_is_refused(tool):
    with pytest.raises(ValueError, match="marks"):
        tool.written("no marks here", "x")


def test_a_changed_table_changes_the_verdict(tmp_path, table):
    """The codebook's rows on photographs, with the codebook's scores put below the others'."""
    for name in {name for each in ledger.readings()["table"] for name in [each]}:
        for path in (ROOT / "results").glob(f"{name.split('/')[0]}/*"):
            if path.is_file():
                target = tmp_path / path.relative_to(ROOT / "results")
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)
    photos = records.load("codis/flickr8k")
    full = photos["row"] == "intra + cross + codebook"
    photos.loc[full, "tower_recall_at_10"] -= 30
    given = {k: v for k, v in photos.attrs["parameters"].items() if k != "commits"}
    records.save(photos, "codis/flickr8k", parameters=given, seconds=1.0, folder=tmp_path)
    changed = ledger.readings(tmp_path)
    assert (changed[changed["claim"] == "c22p"]["verdict"] == "reversed").all()
    before = ledger.readings()
    assert (before[before["claim"] == "c22p"]["verdict"] == "holds").all()
    assert ledger.ledger(tmp_path)["verdict"].tolist() != table["verdict"].tolist()


def test_the_command_prints_the_ledger(capsys, table):
    assert cli.main(["claims"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^\S c\d+ ", printed, re.M)) == 41
    assert cli.main(["claims", "--paper", "codis", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ledger.of_paper(table, "codis")["id"].tolist()
    assert cli.main(["claims", "--paper", "lxmert"]) == 1
    assert "paper: expected" in capsys.readouterr().err
