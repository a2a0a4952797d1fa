import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, map_coordinates
from sklearn.metrics import jaccard_score

from modalign.data.shapes import render_images, sample_scene
from modalign.metrics import attention_iou, pointing_game


def masks_of_the_world(n=12, resolution=32):
    pictures = render_images([sample_scene(0, i) for i in range(n)], resolution)
    return torch.from_numpy(pictures.owners == 1)


def draw(n, h, w, seed=0):
    return torch.rand(n, h, w, generator=torch.Generator().manual_seed(seed))


def resized(attention, height, width):
    """Bilinear interpolation at pixel centres, by scipy."""
    h, w = attention.shape
    rows = (np.arange(height) + 0.5) * h / height - 0.5
    columns = (np.arange(width) + 0.5) * w / width - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    return map_coordinates(attention.double().numpy(), grid, order=1, mode="nearest")


def test_the_point_is_the_maximum_of_the_resized_map():
    masks = masks_of_the_world()
    near = torch.nn.functional.adaptive_avg_pool2d(masks.float(), (7, 5))
    attention = draw(12, 7, 5) + near
    found = pointing_game(attention, masks)
    for i in range(12):
        map_ = resized(attention[i], 32, 32)
        # at the rim of the picture interpolation is constant, and several pixels are highest
        highest = map_ >= map_.max() - 1e-12
        assert found[i].item() == pytest.approx(masks[i].numpy()[highest].mean())
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_iou_is_scikit_learns(threshold):
    attention, masks = draw(12, 7, 5), masks_of_the_world()
    found = attention_iou(attention, masks, threshold=threshold)
    for i in range(12):
        inside = resized(attention[i], 32, 32)
        inside = inside >= threshold * inside.max()
        assert found[i].item() == pytest.approx(jaccard_score(masks[i].ravel(), inside.ravel()))


def test_the_object_itself_is_found():
    masks = masks_of_the_world()
    attention = masks.float()
    assert (pointing_game(attention, masks) == 1).all()
    assert (attention_iou(attention, masks) == 1).all()
    assert (attention_iou(attention, masks, threshold=None) == 1).all()
    # from a grid twice as coarse it is still the object, if not its edge
    coarse = torch.nn.functional.avg_pool2d(attention[:, None], 2)[:, 0]
    assert pointing_game(coarse, masks).mean() > 0.9
    assert attention_iou(coarse, masks).mean() > 0.7


def test_everything_but_the_object_misses_it():
    masks = masks_of_the_world()
    attention = (~masks).float()
    assert (pointing_game(attention, masks) == 0).all()
    assert (attention_iou(attention, masks) == 0).all()
    assert (attention_iou(attention, masks, threshold=None) == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, 1e15])
def test_a_constant_map_scores_the_share_of_the_object(value):
    masks = masks_of_the_world(resolution=31)
    attention = torch.full((12, 7, 5), value)
    share = masks.double().mean((1, 2))
    torch.testing.assert_close(pointing_game(attention, masks), share)
    torch.testing.assert_close(attention_iou(attention, masks), share)
    torch.testing.assert_close(attention_iou(attention, masks, threshold=None), share)


def test_pixels_that_tie_share():
    masks = torch.zeros(1, 2, 2, dtype=torch.bool)
    masks[0, 0, 0] = True
    attention = torch.tensor([[[3.0, 1.0], [3.0, 3.0]]])
    assert pointing_game(attention, masks).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", [1e-10, 7.0, 1e15])
def test_the_unit_of_attention_does_not_matter(scale):
    attention, masks = draw(12, 8, 8).double(), masks_of_the_world()
    for threshold in (0.5, None):
        torch.testing.assert_close(
            attention_iou(scale * attention, masks, threshold=threshold),
            attention_iou(attention, masks, threshold=threshold),
        )


def test_soft_iou_of_a_map_that_is_half_on():
    masks = torch.tensor([[[True, True], [False, False]]])
    attention = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    assert attention_iou(attention, masks, threshold=None).item() == pytest.approx(1 / 2.5)


def test_a_map_finer_than_the_mask_is_averaged():
    masks = torch.tensor([[[True, False], [False, False]]])
    attention = torch.zeros(1, 64, 64)
    attention[0, 5, 5] = 1  # would fall between the pixels of the mask
    assert pointing_game(attention, masks).item() == 1


def test_half_precision_is_taken():
    attention, masks = draw(12, 8, 8).half(), masks_of_the_world()
    torch.testing.assert_close(
        attention_iou(attention, masks), attention_iou(attention.float(), masks)
    )


def with_entry(value):
    attention = draw(3, 2, 2)
    attention[1, 0, 0] = value
    return attention


MASKS = torch.ones(3, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("attention", "masks", "message"),
    [
        (with_entry(torch.nan), MASKS, "attention: expected finite values, got NaN in row 1"),
        (with_entry(torch.inf), MASKS, "attention: expected finite values, got an infinity"),
        (with_entry(-0.1), MASKS, "attention: expected no negative entry, got one in map 1"),
        (draw(3, 2, 2), MASKS & torch.tensor([1, 0, 0]).bool()[:, None, None], "2 empty .* 1; le"),
        (draw(3, 0, 2), MASKS, "attention: expected at least one pixel"),
        (draw(3, 2, 2), MASKS[:, :0], "masks: expected at least one pixel"),
        (draw(0, 2, 2), MASKS[:0], "attention: expected at least one pixel"),
        (draw(2, 2, 2), MASKS, "masks: expected Bool"),
        (draw(3, 2, 2), MASKS.float(), "masks: expected Bool"),
    ],
)
def test_grounding_refuses(attention, masks, message):
    for measure in (pointing_game, attention_iou):
        with pytest.raises(ValueError, match=message):
            measure(attention, masks)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_iou_refuses_a_threshold(threshold):
    with pytest.raises(ValueError, match="threshold: expected a share"):
        attention_iou(draw(3, 2, 2), MASKS, threshold=threshold)


@pytest.mark.parametrize("scale", [1e-323, 1e-300, 1e307])
def test_the_scale_of_a_map_does_not_matter(scale):
    maps = torch.tensor([[[1.0, 5.0], [2.0, 3.0]]], dtype=torch.float64)
    masks = torch.tensor([[[False, True], [False, False]]]).repeat_interleave(4, 1)
    masks = masks.repeat_interleave(4, 2)
    assert pointing_game(scale * maps, masks).tolist() == pointing_game(maps, masks).tolist()


@pytest.mark.parametrize("tolerance", [0, 0.9, 1, 1.5, 4, 2.5**0.5 * 5, 100])
def test_a_point_as_near_as_the_tolerance_hits(tolerance):
    masks = masks_of_the_world()
    attention = draw(12, 32, 32)
    found = pointing_game(attention, masks, tolerance=tolerance)
    for i in range(12):
        away = distance_transform_edt(~masks[i].numpy())
        assert found[i] == (away.flat[int(attention[i].argmax())] <= tolerance)
    if tolerance == 100:
        assert (found == 1).all()


def test_without_tolerance_nothing_changes_and_each_pixel_makes_it_easier():
    masks, attention = masks_of_the_world(), torch.ones(12, 32, 32)
    assert torch.equal(
        pointing_game(attention, masks, tolerance=0.99), pointing_game(attention, masks)
    )
    # of a constant map it is the part of the picture that counts as inside
    scores = [pointing_game(attention, masks, tolerance=t) for t in (0, 1, 2, 5)]
    for less, more in itertools.pairwise(scores):
        assert (less <= more).all()
        assert less.mean() < more.mean()


def test_a_box_in_the_corner_is_widened_inwards_alone():
    mask = torch.zeros(1, 5, 9, dtype=torch.bool)
    mask[0, 0, 0] = True
    attention = torch.zeros(1, 5, 9)
    attention[0, 4, 8] = 1
    assert pointing_game(attention, mask, tolerance=8.9).item() == 0
    assert pointing_game(attention, mask, tolerance=8.95).item() == 1  # 80 ** 0.5 is 8.944


@pytest.mark.parametrize("tolerance", [-1.0, float("inf"), float("nan")])
def test_pointing_refuses_a_tolerance(tolerance):
    with pytest.raises(ValueError, match=f"tolerance: expected pixels from 0, got {tolerance}"):
        pointing_game(torch.ones(1, 2, 2), torch.ones(1, 2, 2).bool(), tolerance=tolerance)
