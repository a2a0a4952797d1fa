"""Captions as tokens, and pictures as the features that captioners look at."""

import collections
import importlib.util
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_below
from modalign.metrics.captions import caption_tokens
from modalign.models.word_maps import PAD, UNKNOWN, require_word_map

if TYPE_CHECKING:
    from modalign.data.features import FeatureFile

START, END = "<start>", "<end>"
MARKS = (PAD, START, END, UNKNOWN)


class Vocabulary:
    """The words of captions, and their tokens.

    Captions are cut into words as COCO's scorers cut them, in lower case and without punctuation
    (:func:`modalign.metrics.caption_tokens`). Words that come too seldom to learn are ``<unk>``.

    Args:
        word_map: token of each word, the four marks ``<pad>``, ``<start>``, ``<end>`` and
            ``<unk>`` among them; the word map of a released checkpoint is one.

    Raises:
        ValueError: for a word map without a mark, or whose tokens are not 0 to its size minus 1,
            with ``<pad>`` at 0.

    >>> vocabulary = Vocabulary.of(["A red disc.", "a BLUE disc"])
    >>> captions, lengths = vocabulary.encode(["a red disc", "A green square disc !"])
    >>> captions.tolist(), lengths.tolist()
    ([[1, 4, 6, 5, 2, 0], [1, 4, 3, 3, 5, 2]], [5, 6])
    >>> vocabulary.decode(captions)
    ['a red disc', 'a <unk> <unk> disc']
    """

    def __init__(self, word_map: Mapping[str, int]) -> None:
        require_word_map(word_map, MARKS)
        self.tokens = dict(word_map)
        self.words = sorted(word_map, key=lambda word: word_map[word])
        self.start, self.end, self.unknown = (word_map[mark] for mark in (START, END, UNKNOWN))

    @classmethod
    def of(cls, captions: Iterable[str], *, min_count: int = 1) -> "Vocabulary":
        """The vocabulary of given captions: marks, then words from the most frequent on.

        Args:
            captions: those to be covered.
            min_count: words that come less often are ``<unk>``. The paper's code keeps words that
                come more than 5 times: 6.

        Raises:
            ValueError: if no word comes often enough: the vocabulary would be empty.
            TypeError: for anything but a text.
        """
        counts = collections.Counter(word for text in captions for word in caption_tokens(text))
        kept = [word for word, count in counts.most_common() if count >= min_count]
        if not kept:
            raise ValueError(f"captions: no word comes min_count={min_count} times; none to learn")
        return cls({word: token for token, word in enumerate((*MARKS, *kept))})

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, captions: Sequence[str]) -> tuple[Int[Tensor, "b t"], Int[Tensor, " b"]]:
        """Tokens of captions between their marks, (B, T), and their lengths, marks included.

        Raises:
            ValueError: for no caption, one without a word, or one that holds a mark already.
            TypeError: for anything but a text.
        """
        rows = []
        for i, text in enumerate(captions):
            if isinstance(text, str) and (found := re.search("|".join(MARKS), text)):
                raise ValueError(f"captions: expected words alone, caption {i} has {found[0]}")
            words = caption_tokens(text)
            if not words:
                raise ValueError(f"captions: expected a word at least, caption {i} is {text!r}")
            tokens = (self.tokens.get(word, self.unknown) for word in words)
            rows.append(torch.tensor([self.start, *tokens, self.end]))
        if not rows:
            raise ValueError("captions: expected one or more, got none")
        lengths = torch.tensor([len(row) for row in rows])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths

    def decode(self, tokens: Int[Tensor, "b t"]) -> list[str]:
        """The words up to the first ``<end>``, without start and padding.

        Raises:
            ValueError: for a token outside the vocabulary.
        """
        texts = []
        for row in tokens.tolist():
            if row and not 0 <= min(row) <= max(row) < len(self):
                raise ValueError(f"tokens: expected 0 to {len(self) - 1}, got {row}")
            said = row[: row.index(self.end)] if self.end in row else row
            texts.append(" ".join(self.words[t] for t in said if t not in (0, self.start)))
        return texts


@checked
def require_captions(
    captions: Int[Tensor, "b t"],
    lengths: Int[Tensor, " b"] | Int[Tensor, "b 1"],
    vocabulary: int,
    start: int | None = None,
    end: int | None = None,
) -> Int[Tensor, " b"]:
    """Refuse captions that cannot be said; returns the lengths, (B,).

    Raises:
        ValueError: for tokens outside the vocabulary, lengths outside 2 to T, or a caption that
            does not begin with ``start`` or end with ``end``.

    >>> require_captions(torch.tensor([[1, 5, 2]]), torch.tensor([[3]]), 9, 1, 2)
    tensor([3])
    """
    lengths = lengths.flatten()
    b, t = captions.shape
    if not b or t < 2:
        raise ValueError(f"captions: expected a row of <start> and <end>, got {describe(captions)}")
    require_below(captions, vocabulary, "captions", "tokens")
    if lengths.min() < 2 or lengths.max() > t:
        raise ValueError(
            f"lengths: expected 2 to {t} tokens, marks included, got {int(lengths.min())} to "
            f"{int(lengths.max())}"
        )
    last = captions.gather(1, lengths[:, None] - 1)[:, 0]
    for name, mark, found in (("<start>", start, captions[:, 0]), ("<end>", end, last)):
        if mark is not None and (found != mark).any():
            row = int((found != mark).nonzero()[0])
            place = "first" if name == "<start>" else "last"
            raise ValueError(
                f"captions: expected {name} (token {mark}) {place}, row {row} has "
                f"{int(found[row])} there"
            )
    return lengths


class _Grid(nn.Module):
    """The last map of a convolutional network of `transformers`, averaged to side^2 places."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, pixel_values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p d"]:
        maps = self.network(pixel_values=pixel_values).last_hidden_state
        if maps.dim() != 4:
            raise ValueError(
                f"model: expected a convolutional network, whose states are (b, d, h, w), got "
                f"{describe(maps)}"
            )
        return functional.adaptive_avg_pool2d(maps, self.side).flatten(2).mT


def resnet_features(
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "microsoft/resnet-101",
    revision: str | None = None,
    column: str = "image",
    key: str = "id",
    side: int = 14,
    size: int = 256,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    local_files_only: bool = True,
) -> "FeatureFile":
    """Compute a residual network's features of pictures once, and keep them in a file.

    As in the public captioner, pictures are resized to a square, whatever their sides, and the last
    map of the network is averaged to ``side`` x ``side`` places; ResNet-101 gives 14 x 14 of width
    2048 (about 1.6 MB a picture in float32). Needs `transformers`.

    Args:
        dataset: rows with the two columns.
        path: the new ``.safetensors`` file; a matrix (side^2, D) a picture.
        model: a folder, or a name on the hub, with weights in safetensors.
        revision: branch, tag or commit on the hub.
        column: of pictures.
        key: of texts that name the matrices, no two equal. Pictures of equal keys that follow one
            another (rows of one photograph's captions) are computed once.
        side: of the grid.
        size: of the resized picture.
        batch_size: pictures at a time.
        device: where the network runs; a GPU if there is one.
        local_files_only: ``False`` downloads the model.

    Raises:
        FileExistsError: if ``path`` exists; ``FeatureFile(path)`` reads it.
        ImportError: if `transformers` is not installed.
        OSError: if the model is not there.
        ValueError: for no row, a column that is missing, keys that come again later, a file of
            another kind, or a model that is not convolutional.

    >>> resnet_features([], "features.npz")
    Traceback (most recent call last):
    ...
    ValueError: path: expected a .safetensors file, got features.npz
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected a .safetensors file, got {path}")
    if path.exists():
        raise FileExistsError(f"path: {path} exists; FeatureFile(path) reads it")
    if not len(dataset):
        raise ValueError("dataset: expected a row at least, got none")
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("resnet_features: needs transformers: pip install 'modalign[pretrained]'")
    from modalign.data.features import FeatureFile, written_whole
    from modalign.models import pretrained

    source = pretrained._identity(model, revision, local_files_only)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    grid = _Grid(pretrained._model(source), side).to(place)
    mean, std = (torch.tensor(each)[:, None, None] for each in _normalization(source))

    def pixels(picture: Any) -> Tensor:
        square = np.asarray(picture.convert("RGB").resize((size, size)), np.float32) / 255
        return (torch.from_numpy(square).permute(2, 0, 1) - mean) / std

    @torch.inference_mode()
    def rows() -> Iterator[tuple[str, np.ndarray]]:
        pictures = _pictures(dataset, column, key)
        while batch := list(itertools.islice(pictures, batch_size)):
            keys, cells = zip(*batch, strict=True)
            seen = grid(torch.stack([pixels(each) for each in cells]).to(place))
            yield from zip(keys, seen.cpu().numpy(), strict=True)

    with written_whole(path) as whole:
        pretrained.write_matrices(whole, rows())
    return FeatureFile(path)


def _normalization(source: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pictures that a model was trained on."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(
        source.place, **source.options, backend="pil", trust_remote_code=False
    )
    return processor.image_mean, processor.image_std


def _pictures(dataset: Any, column: str, key: str) -> Iterator[tuple[str, Any]]:
    """Pictures by key; equal keys that follow one another are one picture."""
    before = None
    for i, row in enumerate(dataset):
        for name in (column, key):
            if name not in row:
                raise ValueError(f"{name}: expected among {', '.join(row)}, row {i} has none")
        if not isinstance(row[key], str):
            raise ValueError(f"{key}: expected texts, row {i} has {describe(row[key])}")
        if row[key] != before:
            yield row[key], row[column]
        before = row[key]
