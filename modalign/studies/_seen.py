"""The part of a scene that each place of an encoder sees."""

import dataclasses

from modalign.data import shapes


def as_seen(scene: shapes.Scene, resolution: int, distance: int) -> shapes.Scene:
    """A scene moved by half a place: cells of a grid over it show what an encoder's places see.

    The encoders' kernels are odd and padded alike on both sides, so that place i is centred on
    pixel i s, for places s pixels apart; in the grid its middle is at i s + (s - 1) / 2.

    Args:
        scene: of the world.
        resolution: side of its picture in pixels.
        distance: s, from a place to the next.

    >>> star = shapes.Object("star", "red", 0.08, 0.5, 0.25)
    >>> moved = as_seen(shapes.Scene((star,)), 32, 8).objects[0]
    >>> 32 * (moved.x - star.x), 32 * (moved.y - star.y)
    (3.5, 3.5)
    """
    by = (distance - 1) / 2 / resolution
    objects = (dataclasses.replace(o, x=o.x + by, y=o.y + by) for o in scene.objects)
    return dataclasses.replace(scene, objects=tuple(objects))
