"""Every study tells its claims in one form, and their verdicts follow from what it recorded."""

import pandas as pd
import pytest

from modalign.metrics import Interval, of_readings
from modalign.studies import gradients
from modalign.studies.captioning import recording as captioning
from modalign.studies.codis import recording as codis
from modalign.studies.vatt import claims as vatt
from modalign.studies.videoqa import recording as videoqa

STUDIES = {
    "captioning": (captioning, ["c7", "c8", "c36"]),
    "codis": (codis, ["c21", "c22", "c23", "c24", "c25", "c26a", "c27", "c36a", "c36b"]),
    "gradients": (gradients, ["averaging", "proxy"]),
    "vatt": (vatt, ["c14", "c15", "c16", "c17", "c18", "c19", "c20"]),
    "videoqa": (videoqa, ["c9", "c10", "c11", "c12a", "c12b"]),
}
NO_GAIN = {"holds": "reversed", "reversed": "holds", "absent": "holds", "undecided": "undecided"}


@pytest.fixture(scope="module", params=STUDIES)
def study(request):
    module, ids = STUDIES[request.param]
    return request.param, module.readings(), module.verdicts(), ids


def test_readings_say_what_was_declared(study):
    name, rows, _, ids = study
    assert set(ids) <= set(rows.claim)
    for column in ("says", "paper", "measure", "contrast", "budget", "reading"):
        assert rows[column].str.strip().all(), column
    assert (rows.smallest > 0).all()
    assert (rows.pairs >= 5).all()
    assert rows.table.str.startswith(f"{name}/").all()
    assert not rows.duplicated(["claim", "measure", "contrast", "reading"]).any()
    assert (rows.groupby("claim")[["says", "paper"]].nunique() == 1).all(axis=None)


def test_verdicts_follow_the_rule(study):
    name, rows, verdicts, _ = study
    for row in rows.itertuples():
        said = Interval(row.mean, row.low, row.high).verdict(paper=1, smallest=row.smallest)
        denies = name == "vatt" and row.claim == "c18"
        assert row.verdict == (NO_GAIN[said] if denies else said)
        assert pd.isna(row.seeds) == (row.verdict != "undecided")
    by_claim = rows.groupby("claim").verdict.agg(of_readings)
    assert verdicts.verdict.to_dict() == by_claim.to_dict()
    assert (verdicts.readings == rows.claim.value_counts()[verdicts.index]).all()
