"""Columns of a data set as the inputs of encoders: pictures, clips, sound and text as tensors.

Each function takes the cells of one column and returns a dictionary of named tensors, which goes to
an encoder as it is: ``encoder(**image_batch(rows["image"]))``.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from modalign._checks import describe, require_choice
from modalign.data.audio import waveform

PAD, UNKNOWN = "[PAD]", "[UNK]"


def build_tokenizer(
    texts: Iterable[str], *, min_count: int = 1, special_tokens: Sequence[str] = ()
) -> Tokenizer:
    """A tokenizer of whole words, in lower case, with punctuation split off.

    Token 0 is ``[PAD]`` and 1 is ``[UNK]``, for all other words; then come the special tokens, and
    words from the most to the least frequent.

    Args:
        texts: those to be covered.
        min_count: words that occur less often are unknown.
        special_tokens: further ones, such as ``[MASK]``.

    Raises:
        ValueError: if no word occurs often enough.

    >>> tokenizer = build_tokenizer(["A red disc.", "a BLUE disc"])
    >>> tokenizer.encode("A green disc").tokens
    ['a', '[UNK]', 'disc']
    """
    texts = _texts(texts)
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    counts = collections.Counter(
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    kept = [word for word, count in counts.most_common() if count >= min_count]
    if not kept:
        raise ValueError(f"texts: no word occurs min_count={min_count} times; nothing to learn")
    special = [PAD, UNKNOWN, *special_tokens]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *kept]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(special)
    return tokenizer


def tokenize(
    tokenizer: Any, texts: Iterable[str], *, unknown: str = "keep", max_length: int | None = None
) -> dict[str, Tensor]:
    """Token numbers of texts, padded to the longest.

    Args:
        tokenizer: from :func:`build_tokenizer`, or one of `transformers`.
        texts: one or more, none of them empty.
        unknown: ``keep`` words that are not in the vocabulary, as its token for such, or
            ``refuse`` them.
        max_length: tokens after these are cut off.

    Returns:
        ``input_ids`` and ``attention_mask`` (1 for tokens, 0 for padding), int64 (b, t).

    Raises:
        ValueError: for no text, one without a token, or unknown words that are to be refused.

    >>> tokenizer = build_tokenizer(["a red disc", "a blue disc"])
    >>> tokenize(tokenizer, ["a disc", "red"])["attention_mask"]
    tensor([[1, 1],
            [1, 0]])
    """
    require_choice(unknown, ("keep", "refuse"), "unknown")
    texts = _texts(texts)
    if unknown == "refuse" and (found := unknown_words(tokenizer, texts)):
        raise ValueError(f"texts: words that the tokenizer does not know: {_counted(found)}")
    if isinstance(tokenizer, Tokenizer):
        rows = [encoding.ids[:max_length] for encoding in tokenizer.encode_batch(texts)]
        padding = tokenizer.token_to_id(PAD) or 0
    else:
        cut = max_length is not None
        rows = tokenizer(texts, truncation=cut, max_length=max_length)["input_ids"]
        padding = tokenizer.pad_token_id
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(f"texts: expected a word at least, text {i} is {texts[i]!r}")
    return {
        "input_ids": _padded([torch.tensor(row) for row in rows], padding),
        "attention_mask": _padded([torch.ones(len(row), dtype=torch.long) for row in rows], 0),
    }


def unknown_words(tokenizer: Any, texts: Iterable[str]) -> collections.Counter[str]:
    """How often texts use each word that a tokenizer does not know.

    >>> unknown_words(build_tokenizer(["a red disc"]), ["a Green disc", "green"])
    Counter({'green': 2})
    """
    texts = _texts(texts)
    if isinstance(tokenizer, Tokenizer):
        missing = tokenizer.token_to_id(UNKNOWN)
        found = [(encoding.ids, encoding.offsets) for encoding in tokenizer.encode_batch(texts)]
    else:
        missing = tokenizer.unk_token_id
        encoded = tokenizer(texts, return_offsets_mapping=True)
        found = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    return collections.Counter(
        text[slice(*offset)].lower()
        for text, (ids, offsets) in zip(texts, found, strict=True)
        for token, offset in zip(ids, offsets, strict=True)
        if token == missing
    )


def image_batch(pictures: Iterable[Any]) -> dict[str, Tensor]:
    """Pictures as numbers from 0 to 1.

    Args:
        pictures: of one size: PIL pictures, or arrays of uint8, (h, w, 3), or (h, w) if grey.

    Returns:
        ``pixel_values``, float32 (b, 3, h, w), or (b, 1, h, w) if grey.

    Raises:
        ValueError: for no picture, an empty one, or several sizes or kinds.
        TypeError: for anything but a picture.

    >>> image_batch([np.zeros((8, 8), np.uint8)])["pixel_values"].shape
    torch.Size([1, 1, 8, 8])
    """
    return {"pixel_values": _stack([_pixels(each, i) for i, each in enumerate(pictures)])}


def video_batch(clips: Iterable[Any]) -> dict[str, Tensor]:
    """Clips as numbers from 0 to 1.

    Args:
        clips: of one size and length: arrays of uint8 (t, h, w, 3), or lists of pictures.

    Returns:
        ``pixel_values``, float32 (b, t, 3, h, w), or (b, t, 1, h, w) if grey.

    Raises:
        ValueError: as :func:`image_batch`, and for clips of several lengths.
        TypeError: as :func:`image_batch`.

    >>> video_batch([np.zeros((5, 8, 8, 3), np.uint8)])["pixel_values"].shape
    torch.Size([1, 5, 3, 8, 8])
    """
    frames = [_stack([_pixels(frame, i) for frame in clip]) for i, clip in enumerate(clips)]
    return {"pixel_values": _stack(frames)}


def audio_batch(sounds: Iterable[Any], *, rate: int | None = None) -> dict[str, Tensor]:
    """Waveforms, padded to the longest.

    Args:
        sounds: cells of an audio column, or arrays of floating-point samples, (n,) or (1, n).
        rate: samples a second to resample cells to. Arrays carry no rate: they are taken as they
            are.

    Returns:
        ``input_values``, float32 (b, n), and ``attention_mask``, int64 (b, n), 0 where padded.

    Raises:
        ValueError: for no sound, an empty one, samples that are not finite, cells of several
            rates if ``rate`` is not given.
        TypeError: for anything but a sound.

    >>> batch = audio_batch([np.zeros(3, np.float32), np.ones(2, np.float32)])
    >>> batch["attention_mask"]
    tensor([[1, 1, 1],
            [1, 1, 0]])
    """
    decoded = [_samples(sound, i, rate) for i, sound in enumerate(sounds)]
    if not decoded:
        raise ValueError("sounds: expected one or more, got none")
    rates = sorted({found for _, found in decoded if found is not None})
    if len(rates) > 1:
        raise ValueError(f"sounds: expected one sample rate, got {rates} Hz; pass rate=")
    waves = [wave for wave, _ in decoded]
    return {
        "input_values": _padded(waves, 0),
        "attention_mask": _padded([torch.ones(len(wave), dtype=torch.long) for wave in waves], 0),
    }


def _texts(texts: Iterable[str]) -> list[str]:
    found = [texts] if isinstance(texts, str) else list(texts)
    if not found:
        raise ValueError("texts: expected one or more, got none")
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"texts: expected strings, text {i} is {describe(text)}")
    return found


def _counted(words: collections.Counter[str]) -> str:
    shown = ", ".join(f"{word!r} ({count})" for word, count in words.most_common(5))
    return shown + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _pixels(picture: Any, place: int) -> Tensor:
    """A picture as (c, h, w) from 0 to 1."""
    mode = getattr(picture, "mode", None)
    if mode is not None and mode not in ("L", "RGB"):
        raise ValueError(f"pictures: expected mode RGB or L, picture {place} has {mode!r}")
    pixels = np.asarray(picture)
    # uint8, or the wider integers that `datasets` makes of it in lists
    if pixels.dtype.kind not in "iu":
        raise TypeError(
            f"pictures: expected PIL pictures or arrays of uint8, picture {place} is "
            f"{describe(picture)}"
        )
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] not in (1, 3):
        raise ValueError(
            f"pictures: expected (h, w, 3), or (h, w) if grey, picture {place} is "
            f"{describe(np.asarray(picture))}"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"pictures: expected levels 0 to 255, picture {place} has {pixels.min()} to "
            f"{pixels.max()}"
        )
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)


def _stack(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        raise ValueError("pictures: expected one or more, got none")
    for i, each in enumerate(tensors):
        if each.shape != tensors[0].shape:
            raise ValueError(
                f"pictures: expected one size, (c, h, w) or (t, c, h, w) is "
                f"{tuple(tensors[0].shape)} in picture 0 and {tuple(each.shape)} in picture {i}"
            )
    return torch.stack(tensors)


def _samples(sound: Any, place: int, rate: int | None) -> tuple[Tensor, int | None]:
    """A sound's samples, and its rate if it is known."""
    found = None
    if isinstance(sound, Mapping):
        samples, found = waveform(sound, rate=rate)
    else:
        array = np.asarray(sound)
        if array.dtype.kind != "f":
            raise TypeError(
                f"sounds: expected cells of an audio column or arrays of floating-point samples, "
                f"sound {place} is {describe(sound)}"
            )
        array = array.astype(np.float64)  # whatever its width and order of bytes
        samples = torch.from_numpy(array[0] if array.ndim == 2 and len(array) == 1 else array)
    if samples.dim() != 1 or not len(samples):
        raise ValueError(f"sounds: expected (n,) or (1, n), sound {place} is {describe(sound)}")
    if not samples.isfinite().all():
        raise ValueError(f"sounds: expected finite samples, got NaN or infinity in sound {place}")
    if not samples.float().isfinite().all():
        raise ValueError(
            f"sounds: expected samples that float32 holds, got {float(samples.abs().max()):.3g} in "
            f"sound {place}"
        )
    return samples.float(), found
