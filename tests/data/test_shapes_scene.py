"""The scenes of the shapes world, and their pictures."""

import dataclasses
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from modalign.data.shapes import (
    COLOURS,
    MAX_OBJECTS,
    RGB,
    SHAPES,
    SPLITS,
    Object,
    Scene,
    held_out,
    render_images,
    render_video,
    sample_scene,
)

SCENES = [sample_scene(3, i) for i in range(400)]
seeds = st.integers(0, 2**64 - 1)


def one(shape="circle", colour="red", radius=0.15, x=0.5, y=0.5, **motion):
    return Scene((Object(shape, colour, radius, x, y, **motion),), background=0.0)


@given(seeds, st.permutations(range(6)), st.sampled_from(SPLITS), st.booleans())
@settings(max_examples=20)
def test_a_scene_is_the_same_in_any_order(seed, order, split, compositional):
    def draw(i):
        return sample_scene(seed, i, split=split, compositional=compositional)

    shuffled = {i: draw(i) for i in order}
    assert [shuffled[i] for i in range(6)] == [draw(i) for i in range(6)]


def test_a_scene_is_the_same_in_another_process():
    code = "from modalign.data.shapes import sample_scene as s; print(s(5, 10**12, split='test'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == repr(sample_scene(5, 10**12, split="test"))


def test_seed_index_and_split_all_matter():
    draws = [sample_scene(0, 0), sample_scene(1, 0), sample_scene(0, 1)]
    draws += [sample_scene(0, 0, split=split) for split in SPLITS[1:]]
    assert len({scene.objects for scene in draws}) == 5


def test_attributes_are_uniform():
    objects = [o for scene in SCENES for o in scene.objects]
    for name, values in (("shape", 6), ("colour", 6), ("size", 2), ("motion", 5)):
        counts = Counter(getattr(o, name) for o in objects)
        assert len(counts) == values
        share = 1 / values
        bound = 4 * np.sqrt(share * (1 - share) / len(objects))
        assert all(abs(n / len(objects) - share) < bound for n in counts.values())


def test_numbers_of_objects_are_those_asked_for():
    counts = {len(sample_scene(0, i, min_objects=2, max_objects=4).objects) for i in range(60)}
    assert counts == {2, 3, 4}
    assert {len(scene.objects) for scene in SCENES} == {1, 2, 3, 4, 5}


def test_held_out_combinations_never_occur_in_train():
    own = {split: set(held_out(split)) for split in SPLITS}
    assert len(own["train"]) + len(own["validation"]) + len(own["test"]) == 36
    assert len(set.union(*own.values())) == 36
    for split in SPLITS:
        for i in range(300):
            scene = sample_scene(1, i, split=split, compositional=True)
            found = {(o.shape, o.colour) for o in scene.objects}
            assert found & own[split]
            assert found <= own[split] | own["train"]


def test_every_shape_and_colour_is_seen_in_every_compositional_split():
    for split in SPLITS:
        shapes, colours = zip(*held_out(split), strict=True)
        assert set(shapes) == set(SHAPES)
        assert set(colours) == set(COLOURS)


def test_objects_stay_in_the_picture_and_move_as_named():
    for scene in SCENES:
        for before, after in zip(scene.objects, scene.at(1).objects, strict=True):
            for o in (before, after):
                assert o.radius - 1e-9 <= min(o.x, o.y)
                assert max(o.x, o.y) <= 1 - o.radius + 1e-9
            way = (np.sign(after.x - before.x), np.sign(after.y - before.y))
            names = {(0, 0): "still", (-1, 0): "left", (1, 0): "right", (0, -1): "up"}
            assert names.get(way, "down") == before.motion


def test_relations_are_read_off_the_coordinates():
    scene = Scene((Object("star", "red", 0.1, 0.2, 0.5), Object("star", "red", 0.1, 0.7, 0.45)))
    assert scene.relations() == [(0, "left of", 1), (1, "right of", 0)]
    assert scene.at(1) == scene


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_scene(0, 0, split="tset"), "split: .* did you mean 'test'?"),
        (lambda: sample_scene(1.5, 0), "seed: expected a whole number, got float 1.5"),
        (lambda: sample_scene(0, "1"), "index: expected a whole number, got str '1'"),
        (lambda: sample_scene(0, 0, max_objects=2.5), "max_objects: .* got float 2.5"),
        (lambda: sample_scene(-1, 0), r"seed: expected a whole number in \[0, 2\^64\), got -1"),
        (lambda: sample_scene(0, -3), "index: .* got -3"),
        (lambda: sample_scene(0, 0, max_objects=9), "max <= 6, got 1 and 9"),
        (lambda: sample_scene(0, 0, min_objects=0), "1 <= min"),
        (lambda: one(shape="cirle"), "shape: .* did you mean 'circle'?"),
        (lambda: one(colour="mauve"), "colour: expected one of red"),
        (lambda: one(radius=0.0), "radius: .* got 0.0"),
        (lambda: one(x=float("nan")), "x: expected a finite number, got nan"),
        (lambda: Scene(one().objects * 7), "objects: expected at most 6, got 7"),
        (lambda: Scene((), background=2.0), "background: .* got 2.0"),
        (lambda: render_images([one()], 4), "resolution: expected at least 8 pixels, got 4"),
        (lambda: render_video(one(), 0), "frames: expected at least 1, got 0"),
        (lambda: held_out("tset"), "did you mean 'test'?"),
    ],
)
def test_errors_name_the_argument_and_what_came(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_what_is_not_a_scene_is_refused():
    with pytest.raises(TypeError, match="scenes: expected .*Scene"):
        render_images(["a red circle"])


@pytest.mark.parametrize("resolution", [16, 64, 101])
def test_masks_agree_with_boxes(resolution):
    pictures = render_images(SCENES, resolution)
    masks = pictures.masks
    for b, scene in enumerate(SCENES):
        for k in range(len(scene.objects)):
            if resolution == 16 and not masks[b, k].any():  # too small to fill half a pixel
                assert not pictures.boxes[b, k].any()
                continue
            rows, columns = masks[b, k].nonzero()
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert pictures.boxes[b, k].tolist() == box
        assert not masks[b, len(scene.objects) :].any()
        assert not pictures.boxes[b, len(scene.objects) :].any()


def test_masks_never_overlap_and_leave_the_rest_to_the_background():
    pictures = render_images(SCENES)
    assert ((pictures.owners == 0) + pictures.masks.sum(1) == 1).all()
    for b, scene in enumerate(SCENES):
        grey = round(255 * scene.background)
        far = pictures.images[b][pictures.owners[b] == 0]
        # the ramp reaches half a pixel beyond the mask
        assert np.median(far) == pytest.approx(grey, abs=1)


def test_the_middle_of_an_object_has_its_colour():
    pictures = render_images(SCENES)
    for b, scene in enumerate(SCENES):
        front = scene.objects[-1]
        pixel = pictures.images[b, int(front.y * 64), int(front.x * 64)]
        assert pixel.tolist() == list(RGB[front.colour])


def test_every_object_of_a_sampled_scene_is_seen():
    crowded = [sample_scene(0, i, min_objects=MAX_OBJECTS, max_objects=6) for i in range(300)]
    seen = render_images(crowded).masks.sum((2, 3))
    for b, scene in enumerate(crowded):
        for k, o in enumerate(scene.objects):
            alone = render_images([Scene((o,))]).masks.sum()
            assert seen[b, k] >= 0.25 * alone


def test_later_objects_are_in_front():
    rear, front = one("square", "red").objects[0], one("circle", "blue", 0.1).objects[0]
    shown = render_images([Scene((rear, front)), Scene((front, rear))])
    assert shown.images[:, 32, 32].tolist() == [list(RGB["blue"]), list(RGB["red"])]
    assert shown.masks[0].any((1, 2)).all()
    assert shown.boxes[1, 0].tolist() == [0, 0, 0, 0], "wholly hidden"


def by_pillow(o, resolution, times=16):
    """The same shape drawn large by Pillow's polygons, then averaged."""
    big = resolution * times

    def at(points):
        return [((o.x + o.radius * x) * big, (o.y + o.radius * y) * big) for x, y in points]

    def turn(angles, radii):
        return [
            (r * np.sin(a), -r * np.cos(a)) for a, r in zip(np.radians(angles), radii, strict=True)
        ]

    w = 0.32
    arm = [(-w, -w), (-w, -1), (w, -1)]
    cross = [(x, y) if i == 0 else (-y, x) for i in (0, 1) for x, y in arm]
    cross += [(-x, -y) for x, y in cross]
    corners = {
        "circle": turn(np.arange(0, 360), [1] * 360),
        "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        "triangle": turn([0, 120, 240], [1] * 3),
        "diamond": turn([0, 90, 180, 270], [1] * 4),
        "cross": cross,
        "star": turn(np.arange(0, 360, 36), [1, 0.45] * 5),
    }[o.shape]
    image = Image.new("L", (big, big))
    ImageDraw.Draw(image).polygon(at(corners), fill=255)
    return np.asarray(image, float).reshape(resolution, times, resolution, times).mean((1, 3)) / 255


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_agree_with_polygons_drawn_by_pillow(shape):
    scene = one(shape, "white", 0.21, 0.43, 0.51)
    painted = render_images([scene], 96)
    ours = painted.images[0, :, :, 0] / RGB["white"][0]
    theirs = by_pillow(scene.objects[0], 96)
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.015)
    assert abs(ours - theirs).max() < 0.4  # a corner's pixel
    assert abs(ours - theirs).mean() < 1.5e-3
    clear = abs(theirs - 0.5) > 0.15
    wrong = clear & (painted.masks[0, 0] != (theirs >= 0.5))
    assert wrong.sum() <= 2  # the points of a star


def test_edges_are_smooth():
    """A shape moved by a tenth of a pixel at a time never changes in steps."""
    scenes = [one("square", "white", 0.2, 0.4 + i / 640) for i in range(11)]
    mass = render_images(scenes).images[..., 0].astype(float).sum((1, 2))
    assert np.ptp(mass) / mass.mean() < 0.005
    row = render_images(scenes).images[:, 32, :, 0].astype(int)
    assert abs(np.diff(row, axis=0)).max() <= 0.1 * 244 + 2


def test_what_leaves_the_picture_is_cut_off():
    places = [(0, 0), (1, 0.5), (-3, 0.5), (0.5, 40.0)]
    shown = render_images([one(radius=0.2, x=x, y=y) for x, y in places])
    assert shown.boxes[:, 0].tolist() == [[0, 0, 13, 13], [51, 19, 64, 45], [0] * 4, [0] * 4]


def test_pictures_do_not_depend_on_their_batch():
    scenes = SCENES[:130]  # more than one chunk
    together = render_images(scenes)
    for b in (0, 127, 128, 129):
        alone = render_images([scenes[b]])
        assert (alone.images[0] == together.images[b]).all()
        assert (alone.owners[0] == together.owners[b]).all()


def test_no_scene_and_no_object():
    assert render_images([]).images.shape == (0, 64, 64, 3)
    empty = render_images([Scene((), background=1.0)])
    assert (empty.images == 255).all()
    assert empty.masks.shape == (1, 0, 64, 64)


@pytest.mark.parametrize("scene", SCENES[:10])
def test_video_starts_with_the_picture_and_follows_the_objects(scene):
    video = render_video(scene, frames=5)
    assert (video.images[0] == render_images([scene]).images[0]).all()
    front = dataclasses.replace(scene, objects=scene.objects[-1:])
    boxes = render_video(front, frames=5).boxes[:, 0]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    (o,) = front.objects
    travel = (middle[-1] - middle[0]) / 64
    assert travel == pytest.approx([o.vx, o.vy], abs=1.5 / 64)
    assert np.diff(middle, axis=0) == pytest.approx(np.tile(travel * 16, (4, 1)), abs=1.5)


def test_a_part_of_a_video():
    scene = SCENES[1]
    whole, part = render_video(scene, 9), render_video(scene, 5, start=0.5, stop=1.0)
    assert (whole.images[4:] == part.images).all()
