"""Sound files: checked when they are loaded, decoded by soundfile when they are used.

PyAV decodes M4A (AAC or ALAC in an MP4 file), which soundfile does not read: ``pip install av``. It
keeps an encoder's padding before and after the sound if the file does not say how long that is.

`datasets` decodes its ``Audio`` columns with torchcodec, whose wheel does not load beside a CPU
build of torch. The columns here are therefore ``Audio(decode=False)``, and `waveform` decodes.
"""

from __future__ import annotations

import importlib.util
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
    ".aif": ("AIFF",),
    ".aiff": ("AIFF",),
    ".opus": ("OGG",),
    ".m4a": ("MP4",),
}
LAST_PAGE, PAGE_SIZE = 4, 65307


def waveform(audio: Mapping[str, Any], *, rate: int | None = None) -> tuple[Tensor, int]:
    """Decode a cell of an audio column.

    Args:
        audio: the cell of a row: ``{"path": ..., "bytes": ...}``, one of them None.
        rate: samples a second to resample to (polyphase filter); as recorded by default.

    Returns:
        The samples as float32 (n,), from -1 to 1, channels averaged; and samples a second.

    Raises:
        ValueError: for a rate below 1, and a sound that cannot be decoded or is not finite.
        ImportError: for M4A without PyAV.

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
    if content is None:
        with open(audio["path"], "rb") as file:
            head = file.read(12)
    else:
        head = content[:12]
    try:
        if _is_mp4(head):
            samples, recorded = _mp4(place)
        else:
            samples, recorded = soundfile.read(place, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, Problem) as error:
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
    if content[:4] == b"FORM" and _is_cut(content):  # libsndfile seeks before its beginning
        raise Problem("empty or truncated: it ends before its header says")
    try:
        if _is_mp4(content):
            found, (samples, _) = "MP4", _mp4(io.BytesIO(content))
            frames = len(samples)
        else:
            with soundfile.SoundFile(io.BytesIO(content)) as file:
                found, frames = file.format, file.frames
                samples = file.read(dtype="float32")
    except ImportError:
        raise
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
    if content[:4] == b"FORM":
        return int.from_bytes(content[4:8].ljust(4, b"\xff"), "big") + 8 > len(content)
    if content[:4] == b"OggS":
        page = content[content.rfind(b"OggS") :]
        return len(page) > PAGE_SIZE or len(page) < 27 or not page[5] & LAST_PAGE
    if _is_mp4(content):
        place = 0
        while place + 8 <= len(content):
            (size,) = struct.unpack(">I", content[place : place + 4])
            if size == 1:  # it follows, in 64 bits
                (size,) = struct.unpack(">Q", content[place + 8 : place + 16].rjust(8, b"\xff"))
            place += size or len(content) - place  # 0 is to the end of the file
        return place != len(content)
    return False


def _is_mp4(head: bytes) -> bool:
    return head[4:8] == b"ftyp"


def _mp4(file: Any) -> tuple[np.ndarray, int]:
    """Samples (n, channels) of the first sound of an MP4 file, and samples a second."""
    if importlib.util.find_spec("av") is None:
        raise ImportError("an M4A file needs the package av, which is not here: pip install av")
    import av

    try:
        with av.open(file) as container:
            if not container.streams.audio:
                raise Problem("no sound in it")
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
            frames = [
                part.to_ndarray()
                for frame in (*container.decode(stream), None)
                for part in resampler.resample(frame)
            ]
    except av.FFmpegError as error:
        raise Problem(str(error)) from error
    samples = np.concatenate(frames, 1).T if frames else np.zeros((0, 1), np.float32)
    return samples, stream.rate
