"""Sound files: checked when they are loaded, decoded by soundfile when they are heard.

`datasets` decodes its ``Audio`` columns with torchcodec, whose wheel does not load beside a CPU
build of torch. The columns here are therefore ``Audio(decode=False)``, and `waveform` decodes.
"""

from __future__ import annotations

import io
import math
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from modalign.data._files import Problem

FORMATS = {
    ".wav": ("WAV", "WAVEX", "RF64"),
    ".ogg": ("OGG",),
    ".flac": ("FLAC",),
    ".mp3": ("MP3",),
}
LAST_PAGE, PAGE_SIZE = 4, 65307


def waveform(audio: Mapping[str, Any], *, rate: int | None = None) -> tuple[Tensor, int]:
    """Decode a cell of an audio column.

    Args:
        audio: what a row holds: ``{"path": ..., "bytes": ...}``, one of them None.
        rate: samples a second to resample to (polyphase filter); as recorded by default.

    Returns:
        The samples as float32 (n,), from -1 to 1, channels averaged; and samples a second.

    Raises:
        ValueError: for a rate below 1, and a sound that cannot be decoded or is not finite.

    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros(800), 8000, format="WAV")
    >>> samples, rate = waveform({"bytes": file.getvalue(), "path": None}, rate=16000)
    >>> tuple(samples.shape), rate
    ((1600,), 16000)
    """
    if rate is not None and (not isinstance(rate, int | np.integer) or rate < 1):
        raise ValueError(f"rate: expected a positive number of samples a second, got {rate!r}")
    content, name = audio["bytes"], audio["path"] or "audio"
    place = audio["path"] if content is None else io.BytesIO(content)
    try:
        samples, recorded = soundfile.read(place, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name}: truncated or not a sound file: {error}") from error
    samples = samples.mean(1)
    if rate is not None and rate != recorded:
        from scipy.signal import resample_poly

        common = math.gcd(int(rate), recorded)
        samples = resample_poly(samples, rate // common, recorded // common)
    if not np.isfinite(samples).all():
        raise ValueError(f"{name}: expected finite samples, got NaN or infinity")
    return torch.from_numpy(np.ascontiguousarray(samples, np.float32)), rate or recorded


def check_audio(path: pathlib.Path) -> None:
    """Refuse sound that is empty, truncated, not finite, or of another format than its name."""
    check_sound(path.read_bytes(), path.suffix.lower())


def check_sound(content: bytes, suffix: str | None) -> None:
    """Refuse encoded sound as `check_audio` does; without a suffix, any format will do."""
    expected = None if suffix is None else FORMATS.get(suffix)
    if suffix is not None and expected is None:
        raise Problem(f"expected one of {', '.join(FORMATS)}, got {suffix!r}")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            found, frames = file.format, file.frames
            samples = file.read(dtype="float32")
    # damaged bytes make the decoder raise nearly anything, or ask for more memory than there is
    except Exception as error:
        raise Problem(f"truncated or not a sound file: {error}") from error
    if expected is not None and found not in expected:
        raise Problem(f"expected {expected[0]} as its name says, got {found} inside")
    if not frames or len(samples) != frames or _is_cut(content):
        raise Problem(f"empty or truncated: {len(samples)} samples can be read")
    if not np.isfinite(samples).all():
        raise Problem("expected finite samples, got NaN or infinity")


def _is_cut(content: bytes) -> bool:
    """Whether a file ends before its own header, or its last page, says so."""
    if content[:4] == b"RIFF":
        (size,) = struct.unpack("<I", content[4:8])
        # a recorder that could not seek back leaves 0 or the largest number
        return size not in (0, 2**32 - 1) and size + 8 > len(content)
    if content[:4] == b"OggS":
        page = content[content.rfind(b"OggS") :]
        return len(page) > PAGE_SIZE or len(page) < 27 or not page[5] & LAST_PAGE
    return False
