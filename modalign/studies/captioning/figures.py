"""Where a captioner looked, word by word, as a picture that prints."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from modalign.studies.captioning.training import Reading


def words(each: Reading, *, columns: int = 3) -> Figure:
    """A panel a word, 16 at most: the picture, the darker the less a place was looked at.

    Args:
        each: of :func:`modalign.studies.captioning.training.reading` or ``saying``.
        columns: panels side by side.

    Raises:
        ValueError: for a caption of no word.
    """
    if not each.words:
        raise ValueError("each: expected a word at least, the caption has none")
    shown = each.words[:16]
    lines = -(-len(shown) // columns)
    size = (1.27 * columns, 1.45 * lines)  # inches; three columns fit a phone
    drawn, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, word, looked in zip(axes.flat, shown, each.maps, strict=False):
        ax.imshow(_lit(each.picture, looked))
        ax.set_title(word)
    return drawn


def _lit(picture: np.ndarray, looked: np.ndarray) -> np.ndarray:
    """The picture, dimmed to a quarter where nothing looked and whole where most did."""
    height, width, _ = picture.shape
    light = 0.25 + 0.75 * looked / looked.max()
    rows, columns = (
        np.arange(pixels) * places // pixels
        for pixels, places in zip((height, width), looked.shape, strict=True)
    )
    return (picture * light[rows][:, columns, None]).astype(np.uint8)
