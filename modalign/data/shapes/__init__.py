"""A procedural world of coloured shapes: one scene description, many consistent views.

:func:`sample_scene` draws a scene, :func:`sample` one with a text and a sound that may be
misaligned on purpose; sample i depends on (seed, i) alone. Of a scene, :func:`render_images`,
:func:`render_video` and :func:`render_audio` give pictures, clips and sound, :func:`captions`,
:func:`statement`, :func:`entailment` and :func:`questions` text of known truth. :func:`pair` draws
two scenes with a sentence, and :func:`sample_sequence` a long sequence to be aligned.
:func:`as_dataset` and :func:`as_iterable` give rows.
"""

from modalign.data.shapes.audio import (
    ENVELOPES,
    GAINS,
    PITCHES,
    TIMBRES,
    render_audio,
)
from modalign.data.shapes.claims import (
    Claim,
    Count,
    Description,
    Every,
    Exists,
    Moves,
    Related,
)
from modalign.data.shapes.judgements import (
    Label,
    Pair,
    PairClaim,
    Triple,
    entailment,
    judge,
    pair,
)
from modalign.data.shapes.questions import (
    Question,
    questions,
)
from modalign.data.shapes.render import (
    RGB,
    Pictures,
    render_images,
    render_video,
)
from modalign.data.shapes.samples import (
    Sample,
    sample,
)
from modalign.data.shapes.scene import (
    COLOURS,
    MAX_OBJECTS,
    MOTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    Motion,
    Object,
    Relation,
    Scene,
    Split,
    held_out,
    sample_scene,
)
from modalign.data.shapes.sequences import (
    Clip,
    Sequence,
    sample_sequence,
)
from modalign.data.shapes.stream import (
    VIEWS,
    Options,
    View,
    as_dataset,
    as_iterable,
    features,
)
from modalign.data.shapes.text import (
    Sentence,
    captions,
    statement,
)

__all__ = [
    "COLOURS",
    "ENVELOPES",
    "GAINS",
    "MAX_OBJECTS",
    "MOTIONS",
    "PITCHES",
    "RELATIONS",
    "RGB",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TIMBRES",
    "VIEWS",
    "Claim",
    "Clip",
    "Count",
    "Description",
    "Every",
    "Exists",
    "Label",
    "Motion",
    "Moves",
    "Object",
    "Options",
    "Pair",
    "PairClaim",
    "Pictures",
    "Question",
    "Related",
    "Relation",
    "Sample",
    "Scene",
    "Sentence",
    "Sequence",
    "Split",
    "Triple",
    "View",
    "as_dataset",
    "as_iterable",
    "captions",
    "entailment",
    "features",
    "held_out",
    "judge",
    "pair",
    "questions",
    "render_audio",
    "render_images",
    "render_video",
    "sample",
    "sample_scene",
    "sample_sequence",
    "statement",
]
