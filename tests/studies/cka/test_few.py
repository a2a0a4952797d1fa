import pytest
import torch

from modalign.studies.cka import few
from modalign.studies.cka.cosine_learning import Setting


def related(n=400, d=8):
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, d, generator=generator)
    return x, x + noise


def test_cca_of_as_few_examples_as_features_tells_nothing():
    found = few.reliability(*related(), 8, draws=40).set_index("measure")
    assert found.own["cca"] == pytest.approx(1, abs=1e-4)
    assert found.told_apart["cca"] == 0.5
    assert found.told_apart["biased"] > 0.8


def test_many_examples_are_told_apart_and_near_their_value_by_all():
    found = few.reliability(*related(), 200, draws=20).set_index("measure")
    assert (found.told_apart == 1).all()
    assert (found.error < 0.1).all()
    assert (found.own > found.shuffled).all()


def test_unrelated_pairs_are_not_told_apart():
    x, y = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(1))
    found = few.reliability(x, y, 32, draws=100)
    assert ((found.told_apart - 0.5).abs() < 0.15).all()


def test_what_maximises_cka_raises_it_on_held_out_pairs():
    setting = Setting(objective="cka", examples=2000, batch_size=128, epochs=5)
    table = few.objectives(setting).set_index("epoch")
    assert table.cka_debiased[5] > table.cka_debiased[0] + 0.1


def test_minibatches_without_a_value_are_counted():
    # an encoder that has nearly collapsed: all but a few examples are alike but for rounding
    x, y = related()
    y[torch.arange(400) % 20 > 0] *= 1e-9
    found = few.reliability(x, y, 8, draws=200).set_index("measure")
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randperm(400, generator=generator)[:8] for _ in range(200)]
    alone = sum(int((batch % 20 == 0).sum() == 1) for batch in batches)
    assert alone > 20
    assert found.undefined.to_dict() == {"biased": 0, "debiased": 2 * alone, "cca": 0, "svcca": 0}
    assert found.notna().all(axis=None)


def test_a_measure_of_every_minibatch_is_undefined_in_none():
    assert (few.reliability(*related(), 8, draws=5).undefined == 0).all()
