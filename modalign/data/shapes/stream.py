"""The shapes world as data sets of rows: in Arrow files, or a stream as long as one likes."""

import dataclasses
import hashlib
import io
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import datasets
import scipy.io.wavfile
from PIL import Image

from modalign._checks import checked, require_choice
from modalign.data.shapes.audio import render_audio
from modalign.data.shapes.judgements import LABELS, Premise, entailment, pair
from modalign.data.shapes.questions import ANSWERS, questions
from modalign.data.shapes.render import render_images, render_video
from modalign.data.shapes.samples import Sample, sample
from modalign.data.shapes.scene import Split, scene_generator
from modalign.data.shapes.sequences import sample_sequence
from modalign.data.shapes.text import captions, statement

View = Literal[
    "image",
    "boxes",
    "owners",
    "video",
    "audio",
    "text",
    "captions",
    "question",
    "statement",
    "entailment",
    "pair",
    "objects",
    "sequence",
]
VIEWS: tuple[View, ...] = get_args(View)
_BATCH = 64
_PAINTED = {"image", "boxes", "owners"}
_NUMBERS = ("x", "y", "radius", "vx", "vy")
_NAMES = ("shape", "colour", "size", "motion")


@dataclasses.dataclass(frozen=True)
class Options:
    """The content of rows. Every row has ``id``, ``split`` and ``index``, and then these views.

    ==============  ==========================================================================
    view            columns
    ==============  ==========================================================================
    ``image``       ``image``: a picture, stored as PNG; if ``arrays``, (R, R, 3) uint8
    ``boxes``       ``boxes``: left, top, right, bottom of every object, in pixels
    ``owners``      ``owners``: (R, R) uint8, which object is seen where, see :class:`Pictures`
    ``video``       ``video``: (T, R, R, 3) uint8; ``video_boxes``: boxes in every frame
    ``audio``       ``audio``: the bytes of a WAV file, as in ``Audio(decode=False)``, for
                    :func:`modalign.data.waveform`; if ``arrays``, (1, n) float32;
                    ``audio_aligned``
    ``text``        ``text``: one caption; ``text_aligned`` and ``text_source``
    ``captions``    ``captions``: five, true always
    ``question``    ``story``, ``question``, ``answers`` (five), ``answer`` (index), ``needs``
    ``statement``   ``statement``; ``statement_true``, which half are
    ``entailment``  ``premise`` (None if it is the picture), ``hypothesis``, ``judgement``
    ``pair``        ``left`` and ``right``: pictures; ``pair_text``; ``pair_true``, which half are
    ``objects``     ``objects``: shape, colour, size, motion, place and travel of each
    ``sequence``    a sequence of its own scenes, from :func:`sample_sequence`: ``clips``, a picture
                    from the middle of each; ``snippets``; ``clip_snippet``, the snippet of each
                    clip, -1 for none
    ==============  ==========================================================================

    Attributes:
        views: the columns wanted; only these are computed.
        seed: of the world.
        split: of the rows.
        compositional: as in :func:`sample_scene`.
        min_objects: as in :func:`sample_scene`.
        max_objects: as in :func:`sample_scene`.
        resolution: of pictures and clips, at least 8.
        arrays: pictures and sounds as arrays, which saves the time for PNG. Clips always are.
            Streams give them as they are; files as lists, or as arrays of int64 or float32
            through ``with_format("numpy")``.
        frames: of a clip.
        sample_rate: of the sound.
        seconds: length of the sound.
        motion: captions and statements may say how things move.
        text_bias: as in :func:`questions`.
        premise: as in :func:`entailment`.
        text_other: as in :func:`sample`.
        text_absent: as in :func:`sample`.
        audio_other: as in :func:`sample`.
        events: as in :func:`sample_sequence`.
        most_clips: as in :func:`sample_sequence`.
        unmatched_clips: as in :func:`sample_sequence`.
        unmatched_snippets: as in :func:`sample_sequence`.

    Raises:
        ValueError: for no view, or an unknown view or premise.
    """

    views: Sequence[View] = ("image", "text")
    seed: int = 0
    split: Split = "train"
    compositional: bool = False
    min_objects: int = 1
    max_objects: int = 5
    resolution: int = 64
    arrays: bool = False
    frames: int = 16
    sample_rate: int = 16_000
    seconds: float = 1.0
    motion: bool = False
    text_bias: float = 0.3
    premise: Premise = "text"
    text_other: float = 0.0
    text_absent: float = 0.0
    audio_other: float = 0.0
    events: int = 10
    most_clips: int = 3
    unmatched_clips: float = 0.2
    unmatched_snippets: float = 0.2

    def __post_init__(self) -> None:
        if isinstance(self.views, str) or not self.views:
            raise ValueError(f"views: expected a list of one or more, got {self.views!r}")
        for view in self.views:
            require_choice(view, VIEWS, "views")
        require_choice(self.premise, get_args(Premise), "premise")

    def sample(self, index: int) -> Sample:
        """The sample of a row."""
        return sample(
            self.seed,
            index,
            split=self.split,
            compositional=self.compositional,
            min_objects=self.min_objects,
            max_objects=self.max_objects,
            text_other=self.text_other,
            text_absent=self.text_absent,
            audio_other=self.audio_other,
            motion=self.motion,
        )


@checked
def as_iterable(
    length: int | None = None,
    *,
    shards: int = 1,
    options: Options | None = None,
    **changes: Any,
) -> datasets.IterableDataset:
    """Stream rows, made as they are read: memory does not grow with the length.

    Row i is the same whatever the length, the shards and the workers that read them.

    Args:
        length: number of rows; None for a stream without end.
        shards: parts of the rows that several workers or nodes may share. A finite stream is
            cut into runs; an endless one is dealt out in turn.
        options: what rows hold.
        **changes: fields of :class:`Options`, in place of those of ``options``.

    Raises:
        ValueError: for a length or a number of shards below 1, or options out of range.
        TypeError: for an unknown option.

    >>> stream = as_iterable(views=["text", "boxes"])
    >>> [row["text"] for row in stream.take(2)][1]
    'here is a rhombus and a red box'
    """
    ranges = _ranges(length, shards)
    chosen = _changed(options, changes)
    return datasets.IterableDataset.from_generator(
        _rows, features=features(chosen), gen_kwargs={"ranges": ranges, "options": chosen}
    )


@checked
def as_dataset(
    length: int,
    *,
    options: Options | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **changes: Any,
) -> datasets.Dataset:
    """Write rows 0 to length - 1 to Arrow files, once, and open these without loading them.

    Files are found again by their options and by the code that made them.

    Args:
        length: number of rows.
        options: what rows hold.
        cache_dir: where files are kept; the cache of ``datasets`` by default.
        **changes: fields of :class:`Options`, in place of those of ``options``.

    Raises:
        ValueError: for a length below 1, or options out of range.
        TypeError: for an unknown option.

    >>> import tempfile
    >>> rows = as_dataset(3, views=["question"], cache_dir=tempfile.mkdtemp())
    >>> rows[1]["question"], rows[1]["answers"][rows[1]["answer"]]
    ('how many big green shapes are there?', 'none')
    """
    ranges = _ranges(length, 1)
    chosen = _changed(options, changes)
    return datasets.Dataset.from_generator(
        _rows,
        features=features(chosen),
        gen_kwargs={"ranges": ranges, "options": chosen},
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        fingerprint=_fingerprint(length, chosen),
        split=datasets.NamedSplit(chosen.split),
        writer_batch_size=_BATCH,
    )


def features(options: Options) -> datasets.Features:
    """The type of every column.

    >>> list(features(Options(views=["image", "audio"])))
    ['id', 'split', 'index', 'image', 'audio', 'audio_aligned']
    """
    value, many, r = datasets.Value, datasets.List, options.resolution
    box = many(value("int32"), length=4)
    picture = datasets.Array3D((r, r, 3), "uint8") if options.arrays else datasets.Image()
    shape = (1, round(options.seconds * options.sample_rate))
    named = {key: value("string") for key in _NAMES} | {key: value("float64") for key in _NUMBERS}
    columns: dict[View, dict[str, Any]] = {
        "image": {"image": picture},
        "boxes": {"boxes": many(box)},
        "owners": {"owners": datasets.Array2D((r, r), "uint8")},
        "video": {
            "video": datasets.Array4D((options.frames, r, r, 3), "uint8"),
            "video_boxes": many(many(box), length=options.frames),
        },
        "audio": {
            "audio": (
                datasets.Array2D(shape, "float32")
                if options.arrays
                # what Audio(decode=False) holds: datasets would ask torchcodec to encode it
                else {"bytes": value("binary"), "path": value("string")}
            ),
            "audio_aligned": value("bool"),
        },
        "text": {
            "text": value("string"),
            "text_aligned": value("bool"),
            "text_source": value("string"),
        },
        "captions": {"captions": many(value("string"))},
        "question": {
            "story": value("string"),
            "question": value("string"),
            "answers": many(value("string"), length=ANSWERS),
            "answer": value("int32"),
            "needs": value("string"),
        },
        "statement": {"statement": value("string"), "statement_true": value("bool")},
        "entailment": {
            "premise": value("string"),
            "hypothesis": value("string"),
            "judgement": datasets.ClassLabel(names=list(LABELS)),
        },
        "pair": {
            "left": picture,
            "right": picture,
            "pair_text": value("string"),
            "pair_true": value("bool"),
        },
        "objects": {"objects": many(named)},
        "sequence": {
            "clips": (
                datasets.Array4D((None, r, r, 3), "uint8") if options.arrays else many(picture)
            ),
            "snippets": many(value("string")),
            "clip_snippet": many(value("int32")),
        },
    }
    found = {"id": value("string"), "split": value("string"), "index": value("int64")}
    for view in VIEWS:
        found |= columns[view] if view in options.views else {}
    return datasets.Features(found)


def _changed(options: Options | None, changes: dict[str, Any]) -> Options:
    chosen = dataclasses.replace(options or Options(), **changes)
    # a value out of range raises now, and not when the first row is read
    next(_rows([(0, 1, 1)], chosen))
    return chosen


def _ranges(length: int | None, shards: int) -> list[tuple[int, int | None, int]]:
    """First row, last row excluded, and step of every shard."""
    if shards < 1:
        raise ValueError(f"shards: expected at least 1, got {shards}")
    if length is None:
        return [(shard, None, shards) for shard in range(shards)]
    if length < shards:
        raise ValueError(f"length: expected at least {shards}, one row a shard, got {length}")
    cuts = [length * shard // shards for shard in range(shards + 1)]
    return [(start, stop, 1) for start, stop in itertools.pairwise(cuts)]


def _fingerprint(length: int, options: Options) -> str:
    """A hash of the options and of this package's files; rows are made again when it changes."""
    digest = hashlib.sha256(json.dumps([length, dataclasses.asdict(options)]).encode())
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _rows(
    ranges: Sequence[tuple[int, int | None, int]], options: Options
) -> Iterator[dict[str, Any]]:
    """Make the rows of some shards, painting 64 pictures at a time."""
    for start, stop, step in ranges:
        rows = itertools.count(start, step) if stop is None else range(start, stop, step)
        indices = iter(rows)
        while chunk := list(itertools.islice(indices, _BATCH)):
            samples = [options.sample(index) for index in chunk]
            painted = None
            if _PAINTED & set(options.views):
                painted = render_images([drawn.scene for drawn in samples], options.resolution)
            for b, drawn in enumerate(samples):
                row: dict[str, Any] = {
                    "id": f"{options.seed}/{options.split}/{chunk[b]}",
                    "split": options.split,
                    "index": chunk[b],
                }
                if painted is not None:
                    known = painted.boxes[b, : len(drawn.scene.objects)]
                    views = {
                        "image": painted.images[b],
                        "boxes": known,
                        "owners": painted.owners[b],
                    }
                    row |= {view: views[view] for view in views if view in options.views}
                for view, columns in _COLUMNS.items():
                    row |= columns(drawn, options) if view in options.views else {}
                yield row


def _video(drawn: Sample, options: Options) -> dict[str, Any]:
    clip = render_video(drawn.scene, options.frames, options.resolution)
    return {"video": clip.images, "video_boxes": clip.boxes}


def _audio(drawn: Sample, options: Options) -> dict[str, Any]:
    sound = render_audio(drawn.audio_scene, options.sample_rate, seconds=options.seconds)
    if options.arrays:
        return {"audio": sound[None], "audio_aligned": drawn.audio_aligned}
    file = io.BytesIO()
    scipy.io.wavfile.write(file, options.sample_rate, sound)
    cell = {"bytes": file.getvalue(), "path": None}
    return {"audio": cell, "audio_aligned": drawn.audio_aligned}


def _text(drawn: Sample, options: Options) -> dict[str, Any]:
    return {
        "text": drawn.text,
        "text_aligned": drawn.text_aligned,
        "text_source": drawn.text_source,
    }


def _captions(drawn: Sample, options: Options) -> dict[str, Any]:
    found = captions(drawn.scene, motion=options.motion)
    return {"captions": [caption.text for caption in found]}


def _question(drawn: Sample, options: Options) -> dict[str, Any]:
    (asked,) = questions(drawn.scene, 1, text_bias=options.text_bias)
    return {
        "story": asked.story,
        "question": asked.text,
        "answers": list(asked.answers),
        "answer": asked.answer,
        "needs": asked.needs,
    }


def _statement(drawn: Sample, options: Options) -> dict[str, Any]:
    true = bool(scene_generator(drawn.scene, "statement").random() < 0.5)
    said = statement(drawn.scene, true, motion=options.motion)
    return {"statement": said.text, "statement_true": said.true}


def _entailment(drawn: Sample, options: Options) -> dict[str, Any]:
    label = LABELS[int(scene_generator(drawn.scene, "judgement").integers(len(LABELS)))]
    triple = entailment(drawn.scene, label, premise=options.premise)
    return {
        "premise": triple.premise,
        "hypothesis": triple.hypothesis,
        "judgement": LABELS.index(label),
    }


def _pair(drawn: Sample, options: Options) -> dict[str, Any]:
    seed, index, split = drawn.scene.seed, drawn.scene.index, drawn.scene.split
    both = pair(seed, index, split=split, compositional=options.compositional)
    left, right = render_images([both.left, both.right], options.resolution).images
    return {"left": left, "right": right, "pair_text": both.text, "pair_true": both.true}


def _objects(drawn: Sample, options: Options) -> dict[str, Any]:
    keys = (*_NAMES, *_NUMBERS)
    return {"objects": [{key: getattr(o, key) for key in keys} for o in drawn.scene.objects]}


def _sequence(drawn: Sample, options: Options) -> dict[str, Any]:
    found = sample_sequence(
        options.seed,
        drawn.scene.index,
        events=options.events,
        most_clips=options.most_clips,
        unmatched_clips=options.unmatched_clips,
        unmatched_snippets=options.unmatched_snippets,
        split=options.split,
        compositional=options.compositional,
    )
    middles = [clip.scene.at((clip.start + clip.stop) / 2) for clip in found.clips]
    pictures = render_images(middles, options.resolution).images
    return {
        # datasets would turn arrays in a list into lists of numbers first
        "clips": pictures if options.arrays else [Image.fromarray(each) for each in pictures],
        "snippets": [snippet.text for snippet in found.snippets],
        "clip_snippet": found.clip_snippet.tolist(),
    }


_COLUMNS: dict[View, Callable[[Sample, Options], dict[str, Any]]] = {
    "video": _video,
    "audio": _audio,
    "text": _text,
    "captions": _captions,
    "question": _question,
    "statement": _statement,
    "entailment": _entailment,
    "pair": _pair,
    "objects": _objects,
    "sequence": _sequence,
}
