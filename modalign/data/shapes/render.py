"""Pictures and clips of scenes, anti-aliased, with the box and the mask of every object."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from modalign._checks import checked
from modalign.data.shapes.scene import COLOURS, SHAPES, Scene

RGB = {
    "red": (226, 44, 44),
    "green": (46, 184, 72),
    "blue": (52, 104, 240),
    "yellow": (240, 214, 48),
    "purple": (160, 64, 204),
    "white": (244, 244, 244),
}
_CHUNK = 128


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of B scenes of at most K objects, or the B frames of a clip.

    Attributes:
        images: (B, R, R, 3), uint8, red, green, blue.
        owners: (B, R, R), uint8: which object is seen in a pixel: 0 for the background, and k + 1
            for ``objects[k]``, if it covers half of the pixel or more, and none is in front.
        boxes: (B, K, 4), int32: left, top, right and bottom of each object's visible part, in
            pixels, right and bottom excluded; zeros for an object that is hidden or not there.
    """

    images: UInt8[np.ndarray, "b r r 3"]
    owners: UInt8[np.ndarray, "b r r"]
    boxes: Int32[np.ndarray, "b k 4"]

    @property
    def masks(self) -> Bool[np.ndarray, "b k r r"]:
        """The visible part of each object: (B, K, R, R), computed on each call."""
        k = np.arange(1, self.boxes.shape[1] + 1, dtype=np.uint8)
        return self.owners[:, None] == k[:, None, None]


@checked
def render_images(scenes: Sequence[Scene], resolution: int = 64) -> Pictures:
    """Paint scenes at time 0.

    Objects are painted in their order, so that later ones hide earlier ones. The edge of a shape
    is a ramp one pixel wide over its signed distance. Scenes are painted 128 at a time: memory
    beyond the result does not grow with their number.

    Args:
        scenes: any number of scenes.
        resolution: width and height R in pixels, at least 8. Below about 20, the smallest
            objects fill no pixel by half, and have an empty mask.

    Returns:
        The pictures, with the boxes and masks of their objects.

    Raises:
        ValueError: for a resolution below 8.
        TypeError: if an argument is of another type.

    >>> from modalign.data.shapes import sample_scene
    >>> pictures = render_images([sample_scene(0, i) for i in range(3)])
    >>> pictures.images.shape, pictures.masks.shape
    ((3, 64, 64, 3), (3, 5, 64, 64))
    """
    if resolution < 8:
        raise ValueError(f"resolution: expected at least 8 pixels, got {resolution}")
    most = max((len(scene.objects) for scene in scenes), default=0)
    shape = (len(scenes), resolution, resolution)
    images, owners = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    boxes = np.zeros((len(scenes), most, 4), np.int32)
    for start in range(0, len(scenes), _CHUNK):
        part = slice(start, start + _CHUNK)
        _paint(scenes[part], images[part], owners[part])
        _find_boxes(owners[part], boxes[part])
    return Pictures(images, owners, boxes)


@checked
def render_video(
    scene: Scene,
    frames: int = 16,
    resolution: int = 64,
    *,
    start: float = 0.0,
    stop: float = 1.0,
) -> Pictures:
    """Paint a scene at equally spaced times, the first and the last included.

    Args:
        scene: whose objects move.
        frames: number of frames T; one frame shows ``start``.
        resolution: width and height in pixels, at least 8.
        start: time of the first frame.
        stop: time of the last frame.

    Returns:
        Frames, masks and boxes, with T in the place of B.

    Raises:
        ValueError: for no frame, or a resolution below 8.

    >>> from modalign.data.shapes import sample_scene
    >>> render_video(sample_scene(0, 0), frames=8).boxes.shape
    (8, 3, 4)
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    return render_images([scene.at(t) for t in np.linspace(start, stop, frames)], resolution)


def _paint(
    scenes: Sequence[Scene],
    images: UInt8[np.ndarray, "b r r 3"],
    owners: UInt8[np.ndarray, "b r r"],
) -> None:
    """Paint a chunk: every object into a patch of its own, the patches layer by layer."""
    b, r = owners.shape[:2]
    rows = [
        (i, k, SHAPES.index(o.shape), COLOURS.index(o.colour), o.radius * r, o.x * r, o.y * r)
        for i, scene in enumerate(scenes)
        for k, o in enumerate(scene.objects)
    ]
    table = np.array(rows, np.float32).reshape(-1, 7)
    side = int(2 * table[:, 4].max(initial=0)) + 4
    # a margin on every side, for objects that leave the picture
    canvas = np.empty((b, r + 2 * side, r + 2 * side, 3), np.float32)
    canvas[:] = 255 * np.array([scene.background for scene in scenes], np.float32).reshape(
        b, 1, 1, 1
    )
    front = np.zeros(canvas.shape[:3], np.uint8)
    patch = _patches(table, side, r)
    for k in range(int(table[:, 1].max(initial=-1)) + 1):
        layer = table[:, 1] == k
        cover, at = patch[0][layer], tuple(index[layer] for index in patch[1])
        colour = _PALETTE[table[layer, 3].astype(int)][:, None, None]
        under = canvas[at]
        under += cover[..., None] * (colour - under)
        canvas[at] = under
        front[at] = np.where(cover >= 0.5, np.uint8(k + 1), front[at])
    inner = slice(side, side + r)
    np.add(canvas[:, inner, inner], 0.5, out=images, casting="unsafe")
    owners[:] = front[:, inner, inner]


def _patches(
    table: Float32[np.ndarray, "n 7"], side: int, r: int
) -> tuple[Float32[np.ndarray, "n p p"], tuple[np.ndarray, ...]]:
    """How much of each pixel of its patch an object covers, and where on the canvas these are."""
    corner = np.floor(table[:, 5:] - side / 2).astype(int)
    # an object far outside keeps a patch, at the rim of the canvas, and covers nothing of it
    corner = np.clip(corner, -side, r)
    pixel = corner[:, :, None] + np.arange(side)
    x, y = ((pixel + np.float32(0.5)) - table[:, 5:, None]).transpose(1, 0, 2).astype(np.float32)
    radius = table[:, 4, None, None]
    cover = np.empty((len(table), side, side), np.float32)
    for number, shape in enumerate(SHAPES):
        of = table[:, 2] == number
        size = radius[of]
        distance = _DISTANCES[shape](x[of][:, None] / size, y[of][:, :, None] / size)
        cover[of] = np.clip(0.5 - distance * size, 0, 1)
    index = table[:, 0].astype(int)[:, None, None]
    return cover, (
        np.broadcast_to(index, cover.shape),
        np.broadcast_to(pixel[:, 1, :, None] + side, cover.shape),
        np.broadcast_to(pixel[:, 0, None, :] + side, cover.shape),
    )


def _find_boxes(owners: UInt8[np.ndarray, "b r r"], boxes: Int32[np.ndarray, "b k 4"]) -> None:
    """Fill in the tight box around each object's pixels."""
    r = owners.shape[1]
    for k in range(boxes.shape[1]):
        seen = owners == k + 1
        for axis, line in enumerate((seen.any(axis=1), seen.any(axis=2))):
            found = line.any(axis=1)
            boxes[:, k, axis] = np.where(found, line.argmax(axis=1), 0)
            boxes[:, k, axis + 2] = np.where(found, r - line[:, ::-1].argmax(axis=1), 0)


# signed distances from shapes in the unit circle, y downwards: negative inside; exact at the edges


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) - np.float32(0.8)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, np.float32(0.75**0.5) * abs(x) - y / 2) - np.float32(0.5)


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(x) + abs(y) - 1) * np.float32(0.5**0.5)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    long, wide = np.float32(1), np.float32(0.32)
    x, y = abs(x), abs(y)
    return np.minimum(np.maximum(x - long, y - wide), np.maximum(x - wide, y - long))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fold the plane onto a tenth of the star, and measure from the line between two corners."""
    tenth = np.float32(np.pi / 5)
    angle = abs((np.arctan2(x, -y) + tenth) % (2 * tenth) - tenth)
    inner = 0.45 * np.array([np.sin(np.pi / 5), np.cos(np.pi / 5)])
    along = inner - (0, 1)
    normal = (np.array([-along[1], along[0]]) / np.hypot(*along)).astype(np.float32)
    r = np.sqrt(x * x + y * y)
    return normal[0] * (r * np.sin(angle)) + normal[1] * (r * np.cos(angle) - 1)


_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "star": _star,
}
_PALETTE = np.array([RGB[colour] for colour in COLOURS], np.float32)
