import copy

import numpy as np
import pandas as pd
import pytest
import torch

from modalign.gradients import gradient_cosine
from modalign.models.vatt import per_row
from modalign.studies.vatt.detection import (
    SCORES,
    areas,
    claims,
    detect,
    probe,
    record,
    scores,
    verdicts,
)
from modalign.studies.vatt.experiments import Setting, build
from modalign.studies.vatt.triplets import KINDS

TINY = {"examples": 64, "held_out": 32, "labelled": 60, "steps": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def model():
    return build(Setting(**TINY))[0]


def test_probes_are_half_misaligned_one_by_one_or_in_whole_batches():
    whole = probe(Setting(**TINY), "batch", batches=3).kind.view(-1, 8)
    assert (whole == whole[:, :1]).all()
    assert whole[:, 0].bincount().tolist() == [3, 3, 3, 3]
    single = probe(Setting(**TINY), "sample", batches=20).kind
    assert (single > 0).float().mean().item() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_scores_leave_model_and_generator_as_they_are(model, granularity):
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    triplets = probe(Setting(**TINY), granularity, batches=1)
    found = scores(model, triplets, granularity, batch_size=8)
    assert len(found) == (4 if granularity == "batch" else 32)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    pd.testing.assert_frame_equal(found, scores(model, triplets, granularity, batch_size=8))


def test_scores_of_batches_are_those_of_their_own_definition(model):
    triplets = probe(Setting(**TINY), "batch", batches=1)
    found = scores(model, triplets, "batch", batch_size=8, seed=5)
    from modalign.training import seeded
    from modalign.training.randomness import mix

    double = copy.deepcopy(model).train()

    def first():
        spaces = double.embed(triplets.rows(slice(8)).batch())
        va, vt = per_row(spaces)
        grads = [
            torch.autograd.grad(
                rows.mean(), list(double.parameters()), retain_graph=True, allow_unused=True
            )
            for rows in (va, vt)
        ]
        return gradient_cosine(*grads), (va + vt).mean().item()

    cosine, loss = seeded(first, seed=mix(5, 9))
    assert found.cosine[0] == pytest.approx(-cosine, abs=1e-4)
    assert found.loss[0] == pytest.approx(loss, rel=1e-4)
    assert found.kind.tolist() == list(KINDS)


def test_areas_of_a_perfect_and_a_useless_detector():
    kinds = ["aligned"] * 40 + ["text"] * 20 + ["audio"] * 20 + ["both"] * 20
    wrong = np.array([kind != "aligned" for kind in kinds], float)
    noise = np.random.default_rng(0).random(100)
    text = np.array([kind == "text" for kind in kinds], float)
    found = (
        areas(
            pd.DataFrame(
                {
                    "kind": kinds,
                    "cosine": wrong,
                    "loss": 1 - wrong,
                    "similarity": text,
                    "random": noise,
                }
            )
        )
        .set_index(["kind", "score"])
        .auroc
    )
    assert found["any", "cosine"] == 1
    assert found["both", "loss"] == 0
    assert found["text", "similarity"] == 1
    assert found["audio", "similarity"] == 0.5
    assert 0.3 < found["any", "random"] < 0.7


def test_areas_refuse():
    good = pd.DataFrame({"kind": ["aligned", "text"], **{score: [0.0, 1.0] for score in SCORES}})
    areas(good)
    with pytest.raises(ValueError, match="kind: expected aligned and misaligned rows"):
        areas(good[:1])
    with pytest.raises(ValueError, match="scores: loss is undefined in 1 rows"):
        areas(good.assign(loss=[np.nan, 1.0]))


def test_detection_over_training():
    found = detect(Setting(**TINY), batches=2, progress=False)
    assert sorted(found.step.unique()) == [0, 1, 2, 4]
    assert found.auroc.between(0, 1).all()
    counts = found.groupby(["step", "granularity", "score"]).kind.nunique()
    assert counts.eq(4).all()


def planted(cosine, loss=0.9, seeds=5):
    rows = []
    for seed in range(seeds):
        for granularity in ("batch", "sample"):
            for score, area in (("cosine", cosine[granularity]), ("loss", loss), ("random", 0.5)):
                rows.append(
                    {
                        "rate": 0.3,
                        "seed": seed,
                        "step": 4,
                        "granularity": granularity,
                        "kind": "any",
                        "score": score,
                        "auroc": area + 0.002 * (seed - 2) * (1 if score == "cosine" else -1),
                    }
                )
    return pd.DataFrame(rows)


def test_verdicts_on_planted_areas():
    both = planted({"batch": 0.8, "sample": 0.7})
    assert verdicts(both) == {"c14": "holds"}
    found = claims(both).set_index("claim")
    assert found.verdict["c14c"] == "reversed"  # the loss is better
    assert found["mean"]["c14b"] == pytest.approx(0.2)
    assert verdicts(planted({"batch": 0.5, "sample": 0.7})) == {"c14": "depends"}
    assert verdicts(planted({"batch": 0.5, "sample": 0.5})) == {"c14": "absent"}
    assert verdicts(planted({"batch": 0.3, "sample": 0.3})) == {"c14": "reversed"}


def test_the_table_is_recorded(tmp_path):
    record(seeds=1, rates=[0.3], batches=1, folder=tmp_path, **TINY)
    found = pd.read_csv(tmp_path / "vatt/detection.csv")
    assert set(found.score) == set(SCORES)
    assert found.step.max() == TINY["steps"]
