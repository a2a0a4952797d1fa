"""Does a map of attention lie on the object that is spoken of?

Maps are (n, h, w), one an example and not negative; masks (n, H, W) are of the objects, as
:func:`modalign.data.shapes.render_images` makes them. A map is brought to the resolution of the
masks by bilinear interpolation, with pixel centres in place, and widened to the spacing of the
coarser grid where the map is the finer one. Each measure returns a number an example: their mean
is what papers report, and two systems' numbers go into
:func:`modalign.metrics.difference`.
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from modalign._checks import checked, describe, require_finite

# what interpolation in float64 leaves of equality, relative to a map's maximum
_ROUNDING = 1e-9


@checked
def pointing_game(
    attention: Float[Tensor, "n h w"],
    masks: Bool[Tensor, "n H W"],
    *,
    tolerance: float = 0.0,
) -> Float64[Tensor, "n"]:
    """Is the maximum of the map inside the object's mask, or near it? (Zhang et al. 2016.)

    Pixels that share the maximum share the point: the score is the part of them inside, so that a
    constant map (a map of zeros, say) scores as chance, the part of the picture that counts as
    inside. O(n H W), and with a tolerance t O(n H W t^2).

    Args:
        attention: maps.
        masks: of the objects, or of their boxes.
        tolerance: how far from the object a point may be and still hit it, in pixels of the masks,
            from centre to centre. The paper has 15, for pictures of some 500 pixels; with a
            tolerance a small object is a larger aim, and chance is higher.

    Returns:
        From 0 to 1, 0 or 1 where the maximum is unique.

    Raises:
        ValueError: for another number of maps than masks, a map that is not finite or has a
            negative entry, and an example whose mask is empty: leave those out, an object that
            is hidden cannot be pointed at. For a tolerance below 0 or without end.

    >>> attention = torch.tensor([[[0.1, 0.7], [0.1, 0.1]], [[0.2, 0.2], [0.2, 0.2]]])
    >>> mask = torch.tensor([[False, True], [False, False]])
    >>> pointing_game(attention, mask.expand(2, 2, 2)).tolist()
    [1.0, 0.25]
    >>> pointing_game(attention, mask.expand(2, 2, 2), tolerance=1).tolist()
    [1.0, 0.75]
    """
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance: expected pixels from 0, got {tolerance}")
    maps = _at_resolution(attention, masks)
    largest = maps >= 1 - _ROUNDING
    masks = _widened(masks, tolerance)
    return (largest & masks).sum((1, 2)).double() / largest.sum((1, 2))


@checked
def attention_iou(
    attention: Float[Tensor, "n h w"],
    masks: Bool[Tensor, "n H W"],
    *,
    threshold: float | None = 0.5,
) -> Float64[Tensor, "n"]:
    """Intersection over union of the map and the object's mask. O(n H W).

    The map counts where it is at least ``threshold`` of its maximum. With ``threshold=None``
    nothing is cut: the map is divided by its maximum, and the soft IoU of map a and mask m is
    sum min(a, m) / sum max(a, m).

    Args:
        attention: maps.
        masks: of the objects.
        threshold: share of the maximum, in (0, 1], or None.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: as :func:`pointing_game`, and for a threshold outside (0, 1].

    >>> attention = torch.tensor([[[1.0, 0.6], [0.2, 0.0]]])
    >>> mask = torch.tensor([[[True, False], [False, False]]])
    >>> attention_iou(attention, mask).tolist()
    [0.5]
    >>> round(attention_iou(attention, mask, threshold=None).item(), 3)  # 1 / 1.8
    0.556
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected a share in (0, 1] or None, got {threshold}")
    maps = _at_resolution(attention, masks)
    if threshold is not None:
        maps = (maps >= threshold - _ROUNDING).double()
    both, either = maps.minimum(masks.double()), maps.maximum(masks.double())
    return both.sum((1, 2)) / either.sum((1, 2))


def _widened(masks: Bool[Tensor, "n H W"], by: float) -> Bool[Tensor, "n H W"]:
    """With all pixels whose centre is as near as that to one of the object's."""
    reach = min(int(by), max(masks.shape[1:]) - 1)
    if not reach:
        return masks
    offset = torch.arange(-reach, reach + 1, device=masks.device)
    disc = (offset[:, None].square() + offset.square() <= by**2).float()
    covered = functional.conv2d(masks[:, None].float(), disc[None, None], padding=reach)
    return covered[:, 0] > 0.5


def _at_resolution(attention: Tensor, masks: Tensor) -> Float64[Tensor, "n H W"]:
    """Maps at the masks' resolution, each divided by its maximum."""
    for value, name in ((attention, "attention"), (masks, "masks")):
        if not value.numel():
            raise ValueError(f"{name}: expected at least one pixel, got {describe(value)}")
    require_finite(attention, "attention")
    negative = (attention < 0).flatten(1).any(1)
    if negative.any():
        row = int(negative.nonzero()[0])
        raise ValueError(f"attention: expected no negative entry, got one in map {row}")
    empty = ~masks.flatten(1).any(1)
    if empty.any():
        rows = empty.nonzero().flatten().tolist()
        raise ValueError(
            f"masks: expected an object in each, got {len(rows)} empty ones, the first in "
            f"example {rows[0]}; leave these examples out"
        )
    given = attention.detach().double()
    top = given.amax((1, 2), keepdim=True)
    # before the weights of the interpolation, under which the least numbers vanish
    given = torch.where(top > 0, given / top, 1.0)
    maps = functional.interpolate(
        given[:, None],
        size=masks.shape[1:],
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[:, 0]
    return maps / maps.amax((1, 2), keepdim=True)
