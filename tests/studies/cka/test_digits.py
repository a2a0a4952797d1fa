import pytest
import torch

from modalign import records
from modalign.studies.cka import digits


def test_scans_are_scikit_learns():
    (train, train_labels), (test, test_labels) = digits.scans()
    assert len(train) + len(test) == 1797
    assert len(train_labels) == len(train)
    assert torch.cat([train_labels, test_labels]).unique().tolist() == list(range(10))
    assert (train.min(), train.max()) == (0, 1)


def test_networks_learn_and_list_their_layers():
    _, (images, labels) = digits.scans()
    network = digits.train_classifier(0, epochs=3)
    assert (network(images).argmax(1) == labels).float().mean() > 0.8
    shapes = [tuple(layer.shape[1:]) for layer in network.activations(images[:2])]
    assert shapes == [(16, 8, 8)] * 4 + [(16, 4, 4)] * 4


def test_same_seed_same_network():
    first, again = (digits.train_classifier(3, epochs=1, layers=2) for _ in range(2))
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_word_encoder_ignores_padding():
    torch.manual_seed(0)
    encoder = digits.WordEncoder()
    assert torch.allclose(encoder(("one",))[0], encoder(("one", "seven"))[0], atol=1e-6)


def test_scans_find_their_words():
    before, after = (
        digits.image_word_alignment(digits.train_image_words(0, epochs)) for epochs in (0, 5)
    )
    assert after["accuracy"] > 0.7 > 0.2 > before["accuracy"]
    assert after["cka_debiased"] > before["cka_debiased"]
    assert abs(after["shuffled_debiased"]) < 0.05


def test_matching_layers_of_a_diagonal_map():
    matches = digits.matching_layers(torch.eye(4))
    assert matches.tolist() == [torch.eye(4).bool().tolist()] * 2
    found = digits.shares(matches)
    assert (found[["same depth", "at most one off", "level"]] == 1).all(axis=None)
    assert found[["network", "layer"]].values.tolist() == [[n, i] for n in (0, 1) for i in range(4)]


def test_layers_that_are_level_share_a_match():
    # all but the last column are 1 up to rounding, as CCA of wide layers is
    similarity = 1 + 1e-7 * torch.randn(4, 4)
    similarity[:, 3] = 0.5
    found = digits.shares(digits.matching_layers(similarity)).set_index(["network", "layer"])
    assert found.level[0].tolist() == [3, 3, 3, 3]
    assert found["same depth"][0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert found["at most one off"][0].tolist() == pytest.approx([2 / 3, 1, 2 / 3, 1 / 3])
    assert found["same depth"][1].tolist() == pytest.approx([1 / 4] * 4)


def test_cca_of_wide_layers_is_a_tie_of_all():
    x, y = torch.randn(20, 40), torch.randn(20, 50)
    matches = digits.matching_layers(digits.LAYER_MEASURES["CCA"]([x, y], [y, x]))
    assert matches.all()


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (torch.tensor([[1.0, torch.nan], [0, 1]]), "similarity: expected finite values, got NaN"),
        (torch.empty(0, 0), "similarity: expected at least one"),
    ],
)
def test_matching_layers_refuse(similarity, message):
    with pytest.raises(ValueError, match=message):
        digits.matching_layers(similarity)
    with pytest.raises(ValueError, match="rounding: expected 0 or more"):
        digits.matching_layers(torch.eye(2), rounding=-1)


@pytest.mark.parametrize("name", ["digit_layers", "digit_words"])
def test_recorded_tables_have_enough_seeds(name):
    table = records.load(f"cka/{name}")
    assert table.seed.nunique() == table.attrs["parameters"]["seeds"] >= 5
