"""Questions of TVQA, as its files and loaders give them, as the inputs of TVQA_abc.

Rows are those of ``load("tvqa", subtitles=..., video_features=...)``. Clips are cut as in the
public code (jayleicn/TVQA), unless a docstring says otherwise.
"""

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import describe, require_choice
from modalign.models.padded import Padded
from modalign.models.tvqa_abc import ANSWERS, STREAMS
from modalign.models.word_maps import PAD, UNKNOWN, require_word_map

EOS = "<eos>"
MARKS = (PAD, UNKNOWN, EOS)
FPS = 3.0  # frames a second whose features are kept
# most steps of a context, as in the public code
LONGEST = {"video": 480, "subtitles": 300, "concepts": 300, "captions": 300}
_CLITIC = re.compile(r"(?=n't|'(?:s|ve|re|d|ll|m))")


def question_words(text: str) -> list[str]:
    """The words of a question, an answer or a line of dialogue, in lower case.

    Clitics and marks are words of their own; commas, brackets and foreign characters go.

    Raises:
        TypeError: for anything but a text.

    >>> question_words("(Penny:)What's Leonard's, er, plan?")
    ['penny', ':', 'what', "'s", 'leonard', "'s", 'er', 'plan', '?']
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected a text, got {describe(text)}")
    text = re.sub(r"[^a-z0-9!?:.'`]", " ", text.lower())
    text = re.sub(r"([:!?]|\.\.\.|\.)", lambda mark: f" {mark[0][0]} ", text)
    return _CLITIC.sub(" ", text).split()


class Words:
    """Tokens of words: ``<pad>`` 0, ``<unk>`` 1, ``<eos>`` 2 behind each text, then words.

    Args:
        word_map: token of each word, the marks included; the ``word2idx`` of released weights is
            one.

    Raises:
        ValueError: for a word map without a mark, or whose tokens are not 0 to its size minus 1,
            with ``<pad>`` at 0.

    >>> words = Words.of(["Who is it?", "It is Penny."])
    >>> words.encode("is it Howard?")
    [4, 5, 1, 6, 2]
    """

    def __init__(self, word_map: Mapping[str, int]) -> None:
        require_word_map(word_map, MARKS)
        self.tokens = dict(word_map)

    @classmethod
    def of(cls, texts: Iterable[str], *, min_count: int = 1) -> "Words":
        """The words of given texts, in the order in which they come (paper: ``min_count=2``).

        Raises:
            ValueError: if no word comes often enough: there would be none.
        """
        counts = collections.Counter(word for text in texts for word in question_words(text))
        kept = [word for word, count in counts.items() if count >= min_count]
        if not kept:
            raise ValueError(f"texts: no word comes min_count={min_count} times; none to learn")
        return cls({word: token for token, word in enumerate((*MARKS, *kept))})

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, *texts: str) -> list[int]:
        """Tokens of texts one after another, ``<eos>`` behind each; none for no text."""
        unknown, end = self.tokens[UNKNOWN], self.tokens[EOS]
        return [
            token
            for text in texts
            for token in (*(self.tokens.get(word, unknown) for word in question_words(text)), end)
        ]


def frame_window(
    start: float | None, end: float | None, rows: int, *, fps: float = FPS, margin: float = 1.0
) -> slice:
    """The rows of a clip's features that a question is about: its span and a second around it.

    A clip may be longer than its features: then the window is the part that they have, and at least
    their last row. Without a span (NaN in the file) all rows are in it; the public code takes
    seconds 10 to 30 for these.

    Args:
        start, end: in seconds, or None.
        rows: of the features.
        fps: rows a second.
        margin: seconds before and behind the span.

    Raises:
        ValueError: for no row, or a span that is NaN, negative or ends before it starts.

    >>> frame_window(2.0, 4.0, 100), frame_window(2.0, 40.0, 20), frame_window(50.0, 60.0, 20)
    (slice(3, 15, None), slice(3, 20, None), slice(19, 20, None))
    >>> frame_window(None, None, 20)
    slice(0, 20, None)
    """
    if rows < 1:
        raise ValueError(f"rows: expected a row of features at least, got {rows}")
    if start is None and end is None:
        return slice(0, rows)
    if start is None or end is None or not 0 <= start <= end < math.inf:
        raise ValueError(f"start, end: expected 0 <= start <= end in seconds, got {start} to {end}")
    first = min(max(math.floor((start - margin) * fps), 0), rows - 1)
    last = min(math.floor((end + margin) * fps), rows)
    return slice(first, max(last, first + 1))


def located_lines(
    subtitles: Sequence[Mapping[str, Any]], start: float | None, end: float | None
) -> list[str]:
    """The lines that begin within a question's span, or else near it, and the one before.

    If none begins within, the three closest to its start; without a span, all lines.

    >>> lines = [{"text": name, "start": float(i)} for i, name in enumerate("abcdef")]
    >>> located_lines(lines, 1.5, 3.5), located_lines(lines, 4.2, 4.3)
    (['b', 'c', 'd'], ['c', 'd', 'e', 'f'])
    """
    texts = [line["text"] for line in subtitles]
    if start is None or end is None or not texts:
        return texts
    begins = [line["start"] for line in subtitles]
    within = [i for i, begin in enumerate(begins) if start < begin < end]
    if not within:
        near = min(range(len(begins)), key=lambda i: abs(begins[i] - start))
        within = [i for i in (near - 1, near, near + 1) if 0 <= i < len(texts)]
    before = [within[0] - 1] if within[0] > 0 else []
    return [texts[i] for i in before + within]


def tvqa_batch(
    rows: Sequence[Mapping[str, Any]],
    words: Words,
    *,
    streams: Sequence[str] = ("video", "subtitles"),
    localized: bool = True,
) -> dict[str, Padded]:
    """Questions as the inputs of TVQA_abc: ``model(**tvqa_batch(rows, words, streams=...))``.

    Args:
        rows: with ``question``, ``answers`` (five), ``start`` and ``end``, and of each stream
            ``video_features`` (T, D), ``subtitles`` (lines with ``text`` and ``start``),
            ``concepts`` (a text a frame, of pairs divided by commas, each taken once) or
            ``captions`` (texts).
        words: their tokens.
        streams: of the model.
        localized: look at the question's span alone, and not at the whole clip.

    Returns:
        ``question``, ``answers`` and the streams. A clip without a line of dialogue has padding
        alone. Video features have length one.

    Raises:
        ValueError: for no row, a column that is missing, other than five answers, video features
            that are not a matrix, or a span that cannot be.

    >>> row = {"question": "Who?", "answers": ["me", "you", "she", "he", "all"]}
    >>> row |= {"start": None, "end": None, "subtitles": [{"text": "She did.", "start": 0.0}]}
    >>> batch = tvqa_batch([row], Words.of(["who ? she did ."]), streams=["subtitles"])
    >>> batch["subtitles"].values.tolist(), batch["answers"].values.shape
    ([[5, 6, 7, 2]], torch.Size([1, 5, 2]))
    """
    if not len(rows):
        raise ValueError("rows: expected a question at least, got none")
    for name in streams:
        require_choice(name, tuple(STREAMS), "streams")
    questions, answers = [], []
    contexts: dict[str, list[Any]] = {name: [] for name in streams}
    for i, row in enumerate(rows):
        needed = {"question", "answers", "start", "end"}
        needed |= {"video_features" if name == "video" else name for name in streams}
        require_columns(row, needed, i)
        questions.append(words.encode(row["question"]))
        if len(row["answers"]) != ANSWERS:
            raise ValueError(
                f"answers: expected five a question, row {i} has {len(row['answers'])}"
            )
        answers += [words.encode(text) for text in row["answers"]]
        span = (row["start"], row["end"]) if localized else (None, None)
        for name in streams:
            contexts[name].append(_context(name, row, span, words, i)[: LONGEST[name]])
    five = _padded_tokens(answers)
    found = {
        "question": _padded_tokens(questions),
        "answers": Padded(*(each.unflatten(0, (-1, ANSWERS)) for each in five)),
    }
    for name, each in contexts.items():
        found[name] = padded_rows(each) if name == "video" else _padded_tokens(each)
    return found


def require_columns(row: Mapping[str, Any], needed: Iterable[str], i: int) -> None:
    """Refuse a row that lacks a column."""
    for name in sorted(needed):
        if name not in row:
            raise ValueError(f"rows: expected a column {name}, row {i} has {', '.join(row)}")


def matrix_of(value: Any, name: str, i: int, *, least: int = 1) -> Tensor:
    """Features of a row as a float32 matrix.

    Raises:
        ValueError: for anything but a matrix, or one of fewer than ``least`` rows.
    """
    matrix = torch.as_tensor(value, dtype=torch.float32)
    if matrix.dim() != 2 or len(matrix) < least or not matrix.shape[1]:
        raise ValueError(f"{name}: expected a matrix of features, row {i} has {describe(matrix)}")
    return matrix


def padded_rows(rows: Sequence[Tensor]) -> Padded:
    """Matrices (t, d) of several lengths as one tensor; a length of 0 is padding alone.

    >>> padded_rows([torch.ones(2, 3), torch.ones(0, 3)]).mask.tolist()
    [[True, True], [False, False]]
    """
    values = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    if not values.shape[1]:  # a step that none of them has: padding
        values = values.new_zeros(len(values), 1, *values.shape[2:])
    lengths = torch.tensor([len(row) for row in rows])
    return Padded(values, torch.arange(values.shape[1]) < lengths[:, None])


def _padded_tokens(rows: Sequence[Sequence[int]]) -> Padded:
    return padded_rows([torch.tensor(row, dtype=torch.long) for row in rows])


def _context(name: str, row: Mapping[str, Any], span: Any, words: Words, i: int) -> Any:
    start, end = span
    if name == "video":
        features = matrix_of(row["video_features"], "video_features", i)
        return functional.normalize(features[frame_window(start, end, len(features))], dim=1)
    if name == "subtitles":
        return words.encode(*located_lines(row["subtitles"], start, end))
    if name == "captions":
        return words.encode(*row["captions"])
    frames = row["concepts"]
    seen = frames[frame_window(start, end, len(frames))] if frames else []
    pairs = [pair.strip() for frame in seen for pair in frame.split(",")]
    return words.encode(" ".join(dict.fromkeys(pairs)))
