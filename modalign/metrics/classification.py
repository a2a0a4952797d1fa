"""Accuracy, of logits or of predicted classes."""

from jaxtyping import Float, Int
from torch import Tensor

from modalign._checks import checked, require_features, require_finite


@checked
def accuracy(
    predictions: Float[Tensor, "n c"] | Int[Tensor, "n"],
    labels: Int[Tensor, "n"],
    *,
    ignore_index: int = -1,
) -> float:
    """Share of the labelled examples that are classified as labelled. O(n c).

    Classes with the same largest logit share: the right one among t of them counts 1 / t, so
    that constant logits score as chance.

    Args:
        predictions: logits, an example a row, or the predicted classes.
        labels: from 0; an example labelled ``ignore_index`` does not count.
        ignore_index: marks examples without a label.

    Raises:
        ValueError: where no example has a label, there is no class, a label is not among the c
            classes, or a logit of a labelled example is not finite.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    >>> accuracy(logits, torch.tensor([0, 0, 1, -1]))
    0.5
    """
    known = labels != ignore_index
    if not known.any():
        raise ValueError(
            f"labels: expected a label other than {ignore_index}, got {len(labels)} without"
        )
    predictions, labels = predictions[known], labels[known].long()
    if labels.min() < 0:
        raise ValueError(f"labels: expected classes from 0, got {int(labels.min())}")
    if predictions.dim() == 1:
        return float((predictions == labels).double().mean())

    classes = predictions.shape[1]
    require_features(predictions, "predictions")
    if labels.max() >= classes:
        raise ValueError(
            f"labels: expected classes from 0 to {classes - 1}, got {int(labels.max())}"
        )
    require_finite(predictions, "predictions")
    largest = predictions == predictions.amax(1, keepdim=True)
    right = largest.gather(1, labels[:, None]).squeeze(1)
    return float((right.double() / largest.sum(1)).mean())
