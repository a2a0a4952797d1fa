"""Samples of two worlds: sequences of shapes, and the annotations of YouTube Movie Summaries.

:func:`shapes_samples` draws them, with known truth, and :func:`yms_samples` takes the real
annotations. The features of its clips are not distributed; if no file of them is given they are
*simulated* from the annotations, by :class:`SimulatedView`.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from modalign._checks import require_positive, require_rows
from modalign._scale import unit_rows
from modalign.data import load
from modalign.data.shapes import COLOURS, SHAPES, SIZES, Clip, Split, sample_sequence
from modalign.metrics import times_of, times_of_matches
from modalign.models.alignment_data import Sample, make_sample


class SimulatedView:
    """Clips as a camera might see the content of snippets: noisy, nonlinear, partly occluded.

    A stand-in for features that are not distributed. A clip of snippet j is seen as

        relu(W (u_j m + s d)) + noise e,

    with u_j the snippet's features as a unit vector, m a mask that hides a part of them, d the
    features of a random other snippet (a distractor), W fixed normal weights and e normal noise.
    A clip without a snippet sees a distractor alone. Of a video, all draws depend on (seed, video)
    alone; W depends on the seed alone.

    Args:
        text: features of all snippets that may appear, a row each: also the distractors.
        width: of the clip features.
        noise: size of e relative to the signal.
        hidden: part of a snippet's features that a clip does not show.
        distraction: weight s of the distractor.
        seed: of the world.

    Raises:
        ValueError: for no snippet, features that are not finite, a weight that is not finite or
            below 0, or a part outside [0, 1].
    """

    def __init__(
        self,
        text: Float[Tensor, "m e"],
        width: int,
        *,
        noise: float = 0.3,
        hidden: float = 0.2,
        distraction: float = 0.3,
        seed: int = 0,
    ) -> None:
        require_rows(len(text), 1, "text", "a simulated view")
        require_positive(width=width)
        if not (0 <= noise < math.inf and 0 <= distraction < math.inf and 0 <= hidden <= 1):
            raise ValueError(
                "noise, distraction, hidden: expected finite numbers from 0, the last up to 1, got "
                f"{noise}, {distraction} and {hidden}"
            )
        self.text = unit_rows(text, "text")
        self.noise, self.hidden, self.distraction, self.seed = noise, hidden, distraction, seed
        self.weight = self._normal("camera", text.shape[1], width)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))

    def _normal(self, name: str, *size: int) -> Tensor:
        return torch.randn(*size, generator=self._generator(name))

    def clips(
        self,
        video: str,
        snippets: Float[Tensor, "m e"],
        clip_snippet: Sequence[int],
        *,
        draw: int = 0,
    ) -> Float[Tensor, "n d"]:
        """Features of a video's clips, given its snippets' and which clip belongs to which.

        Another ``draw`` of the same video differs in what is hidden, in distractors and in noise.

        Raises:
            ValueError: for features that are not finite, or a snippet that is not there.
        """
        random = self._generator(f"video {video}" + (f" draw {draw}" if draw else ""))
        truth = torch.tensor(clip_snippet, dtype=torch.long)
        if len(truth) and not -1 <= truth.min() <= truth.max() < len(snippets):
            raise ValueError(
                f"clip_snippet: expected snippets from 0 to {len(snippets) - 1} or -1, got "
                f"{int(truth.min())} to {int(truth.max())}"
            )
        matched = (truth >= 0)[:, None]
        seen = unit_rows(snippets, "snippets")[truth.clamp(min=0)]
        seen = seen * (torch.rand(seen.shape, generator=random) >= self.hidden) * matched
        other = self.text[torch.randint(len(self.text), truth.shape, generator=random)]
        mixed = seen + torch.where(matched, self.distraction, 1.0) * other
        signal = (mixed @ self.weight).relu()
        # a unit vector seen through relu has a mean square of a half
        noise = torch.randn(signal.shape, generator=random) * self.noise * 0.5**0.5
        return signal + noise


@functools.cache
def _yms(split: str | None, options: tuple[tuple[str, Any], ...]) -> Any:
    return load("yms", split, **dict(options))


def text_vectoriser(texts: Sequence[str], width: int) -> TfidfVectorizer:
    """TF-IDF of words and pairs of words, the ``width`` most frequent, fitted to texts."""
    return TfidfVectorizer(
        max_features=width, ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32
    ).fit(texts)


def _vectors(vectoriser: TfidfVectorizer, texts: Sequence[str], width: int) -> Tensor:
    """Features of texts; columns that the vocabulary does not fill are zero."""
    found = torch.from_numpy(vectoriser.transform(texts).toarray())
    return torch.nn.functional.pad(found, (0, width - found.shape[1]))


Encode = Callable[[Sequence[str]], Tensor]


@functools.lru_cache(maxsize=4)
def _text_encoder(known: tuple[tuple[str, Any], ...], width: int, dense: int) -> Encode:
    """Features of texts of YMS, fitted to the training texts."""
    train = [snippet["text"] for each in _yms("train", known) for snippet in each["snippets"]]
    encode = functools.partial(_vectors, text_vectoriser(train, width), width=width)
    if not dense:
        return encode
    axes = TruncatedSVD(dense, random_state=0).fit(encode(train).double().numpy()).components_
    # float64 and a fixed sign, so that another processor sees the same axes
    axes *= np.sign(axes[np.arange(dense), abs(axes).argmax(1)])[:, None]
    return lambda texts: (encode(texts).double() @ torch.from_numpy(axes.T)).float()


def yms_samples(
    split: str,
    *,
    seed: int = 0,
    noise: float = 0.3,
    hidden: float = 0.2,
    distraction: float = 0.3,
    clip_features: str | None = None,
    snippet_features: str | None = None,
    clip_width: int = 2048,
    text_width: int = 768,
    dense: int = 0,
    draw: int = 0,
    longest: int = 5_000,
    **options: Any,
) -> list[Sample]:
    """Whole videos of YouTube Movie Summaries: real annotations, by default simulated clips.

    Args:
        split: ``train``, ``validation`` or ``test``.
        seed: of the simulated view.
        noise: of the simulated view, as are ``hidden`` and ``distraction``.
        clip_features: a `modalign.data.FeatureFile` of a matrix a video instead of the simulation.
        snippet_features: the same for the snippets, instead of TF-IDF.
        clip_width: of the simulated features (2048 by the paper's counts of parameters).
        text_width: of the TF-IDF features (paper: 768), fitted to the training texts.
        dense: width, at least 1, to which a singular value decomposition of the training texts
            reduces the TF-IDF features; 0 leaves them as they are.
        draw: of the simulated view, see :meth:`SimulatedView.clips`.
        longest: as in :func:`make_sample`.
        **options: of ``modalign.data.load("yms")``, such as ``folder``.

    Raises:
        FileNotFoundError: if the annotations are not there; says where to get them.
        ValueError: for a bad row, naming file, video and row.
    """
    paths = {"clip_features": clip_features, "snippet_features": snippet_features}
    options |= {name: path for name, path in paths.items() if path}
    known = tuple(sorted(options.items()))
    rows = {each["id"]: each for each in _yms(split, known)}
    encode = _text_encoder(known, text_width, dense)
    text = encode([each["text"] for row in _yms("train", known) for each in row["snippets"]])
    view = SimulatedView(
        text, clip_width, noise=noise, hidden=hidden, distraction=distraction, seed=seed
    )
    return [_yms_sample(row, encode, view, draw, longest) for row in rows.values()]


def easier_yms_samples(
    copies: int, *, seed: int = 0, noise: float = 0.1, **options: Any
) -> list[Sample]:
    """The snippets of the training videos with one simulated clip each, seen clearly.

    Something to pretrain on, as the paper does on LSMDC: the snippets are real and in their order;
    a fifth of them has no clip, and as many clips without a snippet are between them. Each clip
    lasts one second.

    Args:
        copies: samples of each video, which differ in all that is drawn.
        seed: of the simulated view and of which elements are unmatched.
        noise: of the simulated view.
        **options: of :func:`yms_samples`.
    """
    train = yms_samples("train", seed=seed, **options)
    text = torch.cat([sample.snippets for sample in train])
    view = SimulatedView(text, train[0].clips.shape[1], noise=noise, hidden=0, seed=seed)
    made = []
    for sample, copy in itertools.product(train, range(copies)):
        name = f"{sample.video} easier {copy}"
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        number = len(sample.snippets)
        alone, shown = rng.random((2, number)) < [[0.2], [0.8]]
        shown[rng.integers(number)] = True
        pairs = np.stack([np.where(alone, -1, -2), np.where(shown, np.arange(number), -2)], 1)
        truth = pairs[pairs > -2].tolist()  # before each snippet's clip one that has none, perhaps
        clip_times, snippet_times = times_of_matches(np.arange(number)[:, None] == truth)
        made.append(
            make_sample(
                name,
                view.clips(name, sample.snippets, truth),
                sample.snippets,
                truth,
                clip_times=clip_times,
                snippet_times=snippet_times,
            )
        )
    return made


def _yms_sample(
    row: Mapping[str, Any],
    encode: Encode,
    view: SimulatedView,
    draw: int,
    longest: int,
) -> Sample:
    texts = encode([each["text"] for each in row["snippets"]])
    if "clip_features" in row:
        clips = torch.as_tensor(np.asarray(row["clip_features"], np.float32))
    else:
        clips = view.clips(row["id"], texts, row["clip_snippet"], draw=draw)
    if "snippet_features" in row:
        texts = torch.as_tensor(np.asarray(row["snippet_features"], np.float32))
    return make_sample(
        row["id"],
        clips,
        texts,
        row["clip_snippet"],
        clip_times=times_of(row["clips"]),
        snippet_times=times_of(row["snippets"]),
        longest=longest,
    )


EASIER: dict[str, Any] = {"most_clips": 1, "noise": 0.1}
"""An easier shapes world: one clip a snippet, as in LSMDC, which the paper pretrains on, and little
noise. Unlike LSMDC it has unmatched elements; without any the actions would follow from the
previous one, and nothing would be learned of the features."""


def bag_of_attributes(clip: Clip) -> Float[np.ndarray, " d"]:
    """How many objects a clip shows of each size, colour and shape, and of each combination."""
    size = (len(SIZES), len(COLOURS), len(SHAPES))
    counts = np.zeros(size, np.float32)
    for o in clip.scene.objects:
        counts[
            tuple(SIZES).index(o.size), tuple(COLOURS).index(o.colour), tuple(SHAPES).index(o.shape)
        ] += 1
    sides = [counts.sum((1, 2)), counts.sum((0, 2)), counts.sum((0, 1))]
    return np.concatenate([counts.ravel(), *sides])


def shapes_samples(
    number: int,
    *,
    split: Split = "train",
    seed: int = 0,
    noise: float = 0.3,
    clip_width: int = 256,
    text_width: int = 128,
    longest: int = 5_000,
    **options: Any,
) -> list[Sample]:
    """Sequences of the shapes world, whose truth is known by construction. About 2 ms each.

    A clip's features are its bag of attributes, seen through fixed random weights, a relu and
    noise; a snippet's are its TF-IDF. Every clip lasts one second.

    Args:
        number: of sequences.
        split: of the scenes.
        seed: of the world and the noise; sample i depends on (seed, i) alone.
        noise: relative to the signal.
        clip_width: of the clip features.
        text_width: of the TF-IDF features, fitted to 100 sequences of world 0, whose grammar is
            that of all.
        longest: as in :func:`make_sample`.
        **options: of :func:`modalign.data.shapes.sample_sequence`. :data:`EASIER` is a set of
            options that makes an easier world.

    >>> [sample.lengths for sample in shapes_samples(2, events=5)]
    [(10, 3), (4, 3)]
    """
    vectoriser = _shapes_vectoriser(text_width)
    made = []
    for index in range(number):
        sequence = sample_sequence(seed, index, split=split, **options)
        texts = [snippet.text for snippet in sequence.snippets]
        seen = torch.from_numpy(np.stack([bag_of_attributes(clip) for clip in sequence.clips]))
        random = torch.Generator().manual_seed(zlib.crc32(f"{seed} {split} {index}".encode()))
        signal = (unit_rows(seen, "clips") @ _camera(seed, seen.shape[1], clip_width)).relu()
        clips = signal + noise * 0.5**0.5 * torch.randn(signal.shape, generator=random)
        clip_times, snippet_times = times_of_matches(sequence.matches)
        made.append(
            make_sample(
                f"{split} {index}",
                clips,
                _vectors(vectoriser, texts, text_width),
                sequence.clip_snippet.tolist(),
                clip_times=clip_times,
                snippet_times=snippet_times,
                longest=longest,
            )
        )
    return made


@functools.cache
def _camera(seed: int, inputs: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} camera".encode()))
    return torch.randn(inputs, width, generator=generator)


@functools.cache
def _shapes_vectoriser(width: int) -> TfidfVectorizer:
    sequences = [sample_sequence(0, index) for index in range(100)]
    return text_vectoriser([each.text for seq in sequences for each in seq.snippets], width)
