import dataclasses

import pytest

from modalign.studies._seen import as_seen
from modalign.studies.codis.pairs import scenes


@pytest.mark.parametrize(("resolution", "distance"), [(64, 8), (32, 4), (32, 1)])
def test_a_scene_moves_by_half_a_place_and_stays_what_it_is(resolution, distance):
    scene = scenes(0, "test", 1)[0]
    moved = as_seen(scene, resolution, distance)
    for before, after in zip(scene.objects, moved.objects, strict=True):
        for axis in ("x", "y"):
            by = resolution * (getattr(after, axis) - getattr(before, axis))
            assert by == pytest.approx((distance - 1) / 2)
        assert dataclasses.replace(after, x=before.x, y=before.y) == before
    assert dataclasses.replace(moved, objects=scene.objects) == scene
