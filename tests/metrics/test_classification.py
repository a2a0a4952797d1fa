import pytest
import torch
from sklearn.metrics import accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from modalign.metrics import accuracy


def draw(n=50, c=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, c, generator=generator)
    return logits, torch.randint(-1, c, (n,), generator=generator)


def test_accuracy_is_torchmetrics():
    logits, labels = draw()
    known = multiclass_accuracy(logits, labels, 4, average="micro", ignore_index=-1)
    assert accuracy(logits, labels) == pytest.approx(known.item())
    assert accuracy(logits.argmax(1), labels) == pytest.approx(known.item())


def test_accuracy_is_scikit_learns():
    logits, labels = draw()
    kept = labels >= 0
    known = accuracy_score(labels[kept], logits.argmax(1)[kept])
    assert accuracy(logits.half(), labels.int()) == pytest.approx(known)


def test_another_mark_of_no_label():
    logits, labels = draw()
    moved = labels.masked_fill(labels == -1, -100)
    assert accuracy(logits, moved, ignore_index=-100) == accuracy(logits, labels)


def test_what_has_no_label_may_be_anything():
    logits, labels = draw()
    known = accuracy(logits, labels)
    logits[labels == -1] = torch.nan
    assert accuracy(logits, labels) == known


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_logits_score_as_chance(value):
    labels = torch.zeros(8, dtype=torch.long)
    assert accuracy(torch.full((8, 4), value), labels) == 0.25


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (torch.ones(3, 2), torch.full((3,), -1), "labels: expected a label other than -1, got 3"),
        (torch.ones(0, 2), torch.ones(0).long(), "labels: expected a label other than -1, got 0"),
        (torch.ones(3, 2), torch.tensor([0, 1, 2]), "labels: expected classes from 0 to 1, got 2"),
        (torch.ones(3, 2), torch.tensor([0, 1, -2]), "labels: expected classes from 0, got -2"),
        (torch.full((3, 2), torch.nan), torch.tensor([-1, 0, 1]), "predictions: .* NaN in row 0"),
        (torch.ones(3, 2), torch.tensor([0, 1]), "predictions: expected"),
        (torch.ones(3), torch.tensor([0, 1, 1]), "predictions: expected"),
    ],
)
def test_accuracy_refuses(predictions, labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        accuracy(predictions, labels)
