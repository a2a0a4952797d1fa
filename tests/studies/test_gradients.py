"""The study of the chapter "Gradients": its gradients are autograd's, its rules the package's."""

import dataclasses

import pandas as pd
import pytest
import scipy.stats
import torch

from modalign import records
from modalign.gradients import gradient_cosine
from modalign.studies import gradients as study
from modalign.studies._sweep import Task

TINY = {"examples": 320, "candidates": 40, "epochs": 1}


def train(**options):
    return study.train(study.Setting(**{**TINY, **options}))


@pytest.fixture(scope="module")
def run():
    return train()


@pytest.fixture(scope="module")
def pool(run):
    return study.pool_of(run)


def gradients(run, clips):
    """By the shared weights, of the mean losses of some clips of the pool."""
    known, _ = study.data(run.setting)
    order = torch.randperm(320, generator=torch.Generator().manual_seed(1))[:256]
    found = study.losses(run.model, {name: view[order] for name, view in known.items()})
    shared = run.model.shared()
    return [
        torch.autograd.grad(each[clips].mean(), shared, retain_graph=True) for each in found[:2]
    ]


def test_the_shared_weights_are_all_that_both_losses_reach(run):
    known, _ = study.data(run.setting)
    found = study.losses(run.model, {name: view[:32] for name, view in known.items()})
    every = dict(run.model.named_parameters())
    reached = [
        torch.autograd.grad(each.mean(), list(every.values()), allow_unused=True, retain_graph=True)
        for each in found[:2]
    ]
    both = [
        each for each, *grads in zip(every.values(), *reached, strict=True) if None not in grads
    ]
    assert {id(each) for each in run.model.shared()} == {id(each) for each in both}


def test_cosines_of_a_pool_are_those_of_autograd(run, pool):
    single = study.averaged_cosines(pool, 1)
    for i in (0, 100, 255):
        assert single[i].item() == pytest.approx(gradient_cosine(*gradients(run, [i])), abs=1e-4)
    (whole,) = study.averaged_cosines(pool, 256).tolist()
    assert whole == pytest.approx(gradient_cosine(*gradients(run, slice(None))), abs=1e-4)


def test_subsets_of_a_size_have_that_many_clips(pool):
    generator = torch.Generator().manual_seed(0)
    clips = torch.randperm(256, generator=generator)[:16]
    expected = [each[clips].mean(0) for each in pool[:2]]
    found = study.averaged_cosines(pool, 16)
    assert len(found) == 256
    assert found[0].item() == pytest.approx(
        torch.nn.functional.cosine_similarity(*expected, dim=0).item(), abs=1e-5
    )


def test_texts_of_the_misaligned_clips_are_those_of_others():
    known, held_out = study.data(study.Setting(misaligned=0.25, noise=0.0))
    right, all_right = study.data(study.Setting(misaligned=0.0, noise=0.0))
    moved = (known["text"] != right["text"]).any(1)
    assert moved.nonzero().flatten().tolist() == list(range(256))
    assert torch.equal(known["text"][1:256], right["text"][:255])
    for name in ("video", "audio"):
        assert torch.equal(known[name], right[name])
    assert all(torch.equal(held_out[name], all_right[name]) for name in held_out)


def test_from_a_gamma_of_0_both_is_the_curriculum_to_the_bit():
    runs = [train(rule=rule, start=0.0) for rule in ("both", "curriculum")]
    assert 0 < runs[0].history.accepted.item() < 1
    torch.testing.assert_close(*(run.model.state_dict() for run in runs), rtol=0, atol=0)


def test_every_rule_makes_another_run():
    seen = {}
    for row, switches in study.RULES.items():
        if row != "both from 0":
            seen[row] = train(start=-0.1, **{k: v for k, v in switches.items() if k != "start"}) \
                if "start" not in switches else train(**switches)  # fmt: skip
    weights = [run.model.trunk[1].weight for run in seen.values()]
    for i, each in enumerate(weights):
        assert not any(torch.equal(each, other) for other in weights[:i])


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_random_skips_have_the_rate_of_the_curriculum(granularity):
    options = {"examples": 1600, "batch_size": 8, "start": 0.0, "granularity": granularity}
    rates = [
        train(rule=rule, **options).history.accepted.item() for rule in ("curriculum", "random")
    ]
    assert 0.2 < rates[0] < 0.98
    assert rates[1] == pytest.approx(rates[0], abs=0.08)


def test_the_proxy_is_spearmans_correlation(run, pool):
    table = study.averaging(Task("row", run.setting, None))
    expected = scipy.stats.spearmanr(study.averaged_cosines(pool, 1), pool.by_features)
    assert table.proxy.to_list() == pytest.approx([expected.statistic] * len(study.SIZES))
    assert table["size"].to_list() == list(study.SIZES)
    assert table.conflicts.between(0, 100).all()


def test_sweeps_are_recorded_and_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "AVERAGED", {"untrained": {"epochs": 0}})
    monkeypatch.setattr(study, "RULES", {"plain": {}, "realign": {"rule": "realign"}})
    monkeypatch.setattr(study, "CONTRASTS", {"realign": ("realign", "plain")})
    study.record(seeds=2, folder=tmp_path, **TINY)
    averaging = records.load("gradients/averaging", tmp_path)
    assert len(averaging) == 2 * len(study.SIZES)
    found = study.averaging_claims(averaging)
    assert found.claim.to_list() == ["averaging", "proxy"]
    table = records.load("gradients/rules", tmp_path)
    (judged,) = study.rule_claims(table).to_dict("records")
    scores = table.pivot(index="seed", columns="row", values="recall_at_1")
    assert judged["mean"] == pytest.approx((scores.realign - scores.plain).mean())


def test_what_was_recorded_is_what_the_study_sets():
    usual = {k: v for k, v in dataclasses.asdict(study.Setting()).items() if k != "seed"}
    for name, rows in (("averaging", study.AVERAGED), ("rules", study.RULES)):
        table = records.load(f"gradients/{name}")
        made = table.attrs["parameters"]
        assert made["rows"] == rows
        assert made["setting"] == usual
        counts = table.groupby("row").seed.nunique()
        assert counts.to_dict() == dict.fromkeys(rows, 8)
    pairs = table.set_index(["row", "seed"])
    same = [pairs.loc[row].sort_index() for row in ("both from 0", "curriculum from 0")]
    pd.testing.assert_frame_equal(*same, check_exact=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "none"}, "rule: expected one of plain"),
        ({"granularity": "shard"}, "granularity: expected one of batch, sample"),
        ({"misaligned": 1.5}, "misaligned: expected a share from 0 to 1, got 1.5"),
        ({"batch_size": 33}, "examples, batch_size: expected whole batches"),
        ({"examples": 0}, "examples: expected a number above 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        study.Setting(**change)
