"""Small encoders of pictures, clips, sound and text, with the interface of `transformers`.

An encoder returns the states of its patches, frames or tokens, and one pooled vector. Ours train in
seconds; a pretrained one of `transformers` takes their place, as both are an :class:`Encoder`.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_below, require_finite


class EncoderOutput(NamedTuple):
    """The output of an encoder: states (b, t, d) and their summary (b, d)."""

    last_hidden_state: Tensor
    pooler_output: Tensor


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The configuration of an encoder that other code reads."""

    hidden_size: int


@runtime_checkable
class Encoder(Protocol):
    """An `nn.Module` that turns named inputs into states, as those of `transformers` do.

    Called with inputs by name, ``main_input_name`` first among them, it returns an object with
    ``last_hidden_state`` (b, t, d) and, maybe, ``pooler_output`` (b, d), where d is
    ``config.hidden_size``. Use :func:`pooled` and :func:`states` rather than the raw output: they
    know what to do if there is no ``pooler_output``, or if inputs are padded.
    """

    main_input_name: str

    @property
    def config(self) -> Any: ...

    def __call__(self, *args: Any, **inputs: Any) -> Any: ...


def states(
    encoder: Encoder, **inputs: Tensor
) -> tuple[Float[Tensor, "b t d"], Bool[Tensor, "b t"]]:
    """The states of an encoder, and which of them are not padding.

    Args:
        encoder: ours, or one of `transformers`.
        **inputs: its inputs by name. An ``attention_mask`` counts tokens, or samples of a
            waveform, which the encoder then translates to frames.

    Raises:
        ValueError: if the mask has another length than the states.

    >>> encoder = TextEncoder(10, hidden_size=8)
    >>> ids = torch.tensor([[3, 4, 0]])
    >>> tokens, mask = states(encoder, input_ids=ids, attention_mask=(ids > 0).long())
    >>> tokens.shape, mask.tolist()
    (torch.Size([1, 3, 8]), [[True, True, False]])
    """
    hidden = encoder(**inputs).last_hidden_state
    return hidden, _state_mask(encoder, hidden, inputs.get("attention_mask"))


def pooled(encoder: Encoder, **inputs: Tensor) -> Float[Tensor, "b d"]:
    """One vector a row: the encoder's ``pooler_output``, else the mean of its unpadded states.

    Args:
        encoder: ours, or one of `transformers`.
        **inputs: its inputs by name, as for :func:`states`.

    Raises:
        ValueError: as :func:`states`; if all of a row is padding.

    >>> pooled(ImageEncoder(hidden_size=8), pixel_values=torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 8])
    """
    output = encoder(**inputs)
    summary = getattr(output, "pooler_output", None)
    if summary is not None:
        return summary
    hidden = output.last_hidden_state
    return _masked_mean(hidden, _state_mask(encoder, hidden, inputs.get("attention_mask")))


def _state_mask(encoder: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    b, t, _ = hidden.shape
    if mask is None:
        return hidden.new_ones(b, t, dtype=torch.bool)
    if hasattr(encoder, "_get_feature_vector_attention_mask"):  # of Wav2Vec2 and its kin
        mask = encoder._get_feature_vector_attention_mask(t, mask)
    if mask.shape != (b, t):
        raise ValueError(
            f"attention_mask: expected ({b}, {t}), as the states of "
            f"{type(encoder).__name__} are, got {tuple(mask.shape)}"
        )
    return mask.bool()


def _masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    _refuse_rows(~mask.any(1), "a step that is not padding")
    # half precision does not hold all counts beyond 256 or 2048; padding may hold anything
    total = hidden.masked_fill(~mask[..., None], 0).sum(
        1, dtype=torch.promote_types(hidden.dtype, torch.float32)
    )
    return (total / mask.sum(1, keepdim=True)).to(hidden.dtype)


def _lengths(inputs: Tensor, mask: Tensor | None, name: str, step: str) -> Tensor:
    """The number of unpadded steps of each row, refusing padding that is not at the end."""
    if 0 in inputs.shape:
        raise ValueError(f"{name}: expected at least 1 row of 1 {step}, got {describe(inputs)}")
    if mask is None:
        return inputs.new_full((len(inputs),), inputs.shape[1], dtype=torch.long)
    lengths = mask.sum(1)
    _refuse_rows(lengths == 0, "a step that is not padding")
    _refuse_rows((_first(lengths, inputs.shape[1]) != mask.bool()).any(1), "padding at the end")
    return lengths


def _first(lengths: Tensor, t: int) -> Tensor:
    """The mask (b, t) of the first steps of each row."""
    return torch.arange(t, device=lengths.device) < lengths[:, None]


def _refuse_infinite(x: Tensor, name: str) -> None:
    if not torch.compiler.is_compiling():
        require_finite(x, name)


def _refuse_rows(bad: Tensor, expected: str) -> None:
    if bad.any():
        raise ValueError(
            f"attention_mask: expected {expected}, row {int(bad.nonzero()[0])} has none"
        )


class _Small(nn.Module):
    """The common part of the encoders below."""

    main_input_name: str

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.config = EncoderConfig(hidden_size)


class ImageEncoder(_Small):
    """A convolutional network over pictures of any size, to a grid of states and a summary.

    Pictures are cut into overlapping patches; each stage then halves the grid and doubles the
    channels: 64 x 64 pixels give 8 x 8 states by default, and scans of 8 x 8 pixels 4 x 4 states
    with ``patch=1``. Group normalisation (Wu and He 2018), not batch normalisation: it costs the
    same, and a picture's states do not depend on the rest of the batch, which in a clip would
    be its neighbours. The summary is the mean of the states plus their maximum: an object fills few
    of the places, and a mean alone dilutes it.

    Args:
        width: channels of the patches, a multiple of 8.
        hidden_size: d of the states.
        in_channels: 3, or 1 for grey pictures.
        patch: distance of patches in pixels; they are 2 patch - 1 wide.
        stages: 1 or more. The least side of a picture is patch 2^stages.

    >>> ImageEncoder(in_channels=1, patch=1)(torch.zeros(5, 1, 8, 8)).last_hidden_state.shape
    torch.Size([5, 16, 128])
    """

    main_input_name = "pixel_values"

    def __init__(
        self,
        width: int = 32,
        hidden_size: int = 128,
        in_channels: int = 3,
        *,
        patch: int = 4,
        stages: int = 1,
    ) -> None:
        super().__init__(hidden_size)
        if width % 8 or width < 8:
            raise ValueError(f"width: expected a multiple of 8, got {width}")
        if patch < 1 or stages < 1:
            raise ValueError(f"patch, stages: expected at least 1, got {patch}, {stages}")
        self.in_channels, self.least = in_channels, patch * 2**stages
        widths = [width * 2**stage for stage in range(stages + 1)]
        self.layers = nn.Sequential(
            *_convolution(in_channels, width, 2 * patch - 1, stride=patch),
            *(layer for pair in itertools.pairwise(widths) for layer in _stage(*pair)),
            nn.Conv2d(widths[-1], hidden_size, 1),
        )

    def maps(self, pixel_values: Tensor) -> Tensor:
        """The states in their grid, (b, d, h / least, w / least)."""
        b, c, h, w = pixel_values.shape
        if not b or c != self.in_channels or min(h, w) < self.least:
            raise ValueError(
                f"pixel_values: expected at least 1 picture of {self.in_channels} channels and "
                f"sides of at least {self.least} pixels, got {describe(pixel_values)}"
            )
        _refuse_infinite(pixel_values, "pixel_values")
        dtype = next(self.parameters()).dtype
        if pixel_values.dtype != dtype and not torch.is_autocast_enabled(pixel_values.device.type):
            raise ValueError(
                f"pixel_values: expected {dtype}, as the weights are, got {describe(pixel_values)}"
            )
        return self.layers(pixel_values)

    @checked
    def forward(self, pixel_values: Float[Tensor, "b c h w"]) -> EncoderOutput:
        hidden = self.maps(pixel_values).flatten(2).mT
        return EncoderOutput(hidden, hidden.mean(1) + hidden.amax(1))


class VideoEncoder(_Small):
    """The image encoder on every frame, then a convolution over time, to a state a frame.

    Time is mixed in each place of the grid before space is averaged, so that what moves from one
    place to the next can be seen. Takes ``pixel_values`` (b, t, c, h, w), as VideoMAE, ViViT and
    TimeSformer do; V-JEPA 2 names the same tensor ``pixel_values_videos``.

    Args:
        width: as in :class:`ImageEncoder`.
        hidden_size: d of the states.
        **options: ``in_channels``, ``patch`` and ``stages`` of :class:`ImageEncoder`.

    >>> VideoEncoder()(torch.zeros(2, 5, 3, 32, 32)).last_hidden_state.shape
    torch.Size([2, 5, 128])
    """

    main_input_name = "pixel_values"

    def __init__(self, width: int = 32, hidden_size: int = 128, **options: int) -> None:
        super().__init__(hidden_size)
        self.frames = ImageEncoder(width, hidden_size, **options)
        self.time = nn.Sequential(
            nn.Conv3d(hidden_size, hidden_size, (3, 1, 1), padding=(1, 0, 0), groups=hidden_size),
            nn.GroupNorm(1, hidden_size),
            nn.ReLU(),
            nn.Conv3d(hidden_size, hidden_size, 1),
        )

    @checked
    def forward(self, pixel_values: Float[Tensor, "b t c h w"]) -> EncoderOutput:
        b, t = pixel_values.shape[:2]
        if not (b and t):
            raise ValueError(f"pixel_values: no clip, or one of no frame: {describe(pixel_values)}")
        maps = self.frames.maps(pixel_values.flatten(0, 1)).unflatten(0, (b, t)).transpose(1, 2)
        maps = maps + self.time(maps)
        hidden = (maps.mean((3, 4)) + maps.amax((3, 4))).mT
        return EncoderOutput(hidden, hidden.mean(1))


class AudioEncoder(_Small):
    """A convolutional network over the log-mel spectrogram of a waveform.

    The spectrogram has a frame of ``bands`` mel bands every ``hop`` seconds. Three convolutions
    over time take the bands as channels, as a pattern means something else in another band.
    Frames are normalised one by one, so that padding changes nothing.

    Args:
        width: channels of the convolutions.
        hidden_size: d of the states.
        sample_rate: of the waveforms, in Hz: 16,000 in the shapes world, 8,000 in spoken digits.
        window: of the spectrogram, in seconds; it separates tones that are 2 / window Hz apart.
        hop: distance of frames, in seconds, at most the window.
        bands: number of mel bands, each of them at least 1 / window Hz wide.
        top: highest frequency, in Hz; at most half the sample rate.

    >>> AudioEncoder()(torch.zeros(2, 16_000)).last_hidden_state.shape
    torch.Size([2, 32, 128])
    """

    main_input_name = "input_values"
    taper: Tensor
    mel: Tensor

    def __init__(
        self,
        width: int = 128,
        hidden_size: int = 128,
        *,
        sample_rate: int = 16_000,
        window: float = 0.064,
        hop: float = 0.032,
        bands: int = 64,
        top: float = 4000.0,
    ) -> None:
        super().__init__(hidden_size)
        if not 0 < top <= sample_rate / 2:
            raise ValueError(f"top: expected a frequency up to {sample_rate / 2} Hz, got {top}")
        self.window, self.hop = round(window * sample_rate), round(hop * sample_rate)
        if not 1 <= self.hop <= self.window:
            raise ValueError(f"hop: expected above 0 s and up to the window's {window}, got {hop}")
        self.register_buffer("taper", torch.hann_window(self.window), persistent=False)
        mel = mel_filters(bands, self.window, sample_rate, top)
        self.register_buffer("mel", mel, persistent=False)
        self.layers = nn.ModuleList(
            nn.Conv1d(inner, width, 3, padding=1) for inner in (bands, width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.layers)
        self.head = nn.Linear(width, hidden_size)

    def spectrogram(self, input_values: Tensor) -> Tensor:
        """Log-mel energies (b, bands, frames), about -1 to 1; frame i starts at sample i hop."""
        n = input_values.shape[1]
        padding = (self._frames(n) - 1) * self.hop + self.window - n
        waves = functional.pad(input_values.to(self.taper.dtype), (0, padding))
        # energies span more than half precision holds
        with torch.autocast(waves.device.type, enabled=False):
            spectrum = torch.stft(
                waves, self.window, self.hop, window=self.taper, center=False, return_complex=True
            )[:, : self.mel.shape[1]]
            energy = self.mel @ (spectrum.real.square() + spectrum.imag.square())
            _refuse_infinite(energy, "input_values: energies")
            return (energy + 1e-6).log10() / 4

    def _get_feature_vector_attention_mask(self, t: int, attention_mask: Tensor) -> Tensor:
        return _first(self._frames(attention_mask.sum(1)), t)

    def _frames(self, samples: Any) -> Any:
        """The number of frames: the last one begins within the sound."""
        return (samples + self.hop - 1) // self.hop

    @checked
    def forward(
        self,
        input_values: Float[Tensor, "b n"],
        attention_mask: Int[Tensor, "b n"] | Bool[Tensor, "b n"] | None = None,
    ) -> EncoderOutput:
        lengths = _lengths(input_values, attention_mask, "input_values", "sample")
        if attention_mask is not None:
            input_values = input_values.where(attention_mask.bool(), 0)
        _refuse_infinite(input_values, "input_values")
        hidden = self.spectrogram(input_values)
        mask = _first(self._frames(lengths), hidden.shape[2])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            # padded frames are zeros to each convolution, as frames beyond the end are
            hidden = functional.relu(norm(layer(hidden * mask[:, None]).mT)).mT
        hidden = self.head(hidden.mT)
        return EncoderOutput(hidden, _masked_mean(hidden, mask))


def mel_filters(bands: int, window: int, sample_rate: int, top: float) -> Float[Tensor, "bands f"]:
    """Triangles over a spectrum's frequencies below ``top``, equally spaced in mel.

    A frequency f is 2595 lg(1 + f / 700) mel.

    Raises:
        ValueError: if a band falls between two frequencies.

    >>> mel_filters(4, 256, 8000, 4000.0).shape
    torch.Size([4, 128])
    """
    mels = torch.linspace(0, 2595 * math.log10(1 + top / 700), bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = torch.arange(0, top, sample_rate / window, dtype=torch.float64)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    filters = torch.minimum(rising, falling).clamp_min(0).float()
    if not filters.any(1).all():
        raise ValueError(
            f"bands: {bands} up to {top} Hz are too fine for a window of {window} samples"
        )
    return filters


class TextEncoder(_Small):
    """Embedded tokens through a GRU in both directions, to a state a token and their mean.

    Args:
        vocabulary: number of tokens, ``tokenizer.get_vocab_size()``.
        hidden_size: d of the states and of the tokens' embeddings, even.

    >>> encoder = TextEncoder(10, hidden_size=8)
    >>> encoder(torch.tensor([[3, 4, 5]])).pooler_output.shape
    torch.Size([1, 8])
    """

    main_input_name = "input_ids"

    def __init__(self, vocabulary: int, hidden_size: int = 128) -> None:
        super().__init__(hidden_size)
        if hidden_size % 2:
            raise ValueError(f"hidden_size: expected an even number, got {hidden_size}")
        self.tokens = nn.Embedding(vocabulary, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size // 2, batch_first=True, bidirectional=True)

    @checked
    def forward(
        self,
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"] | None = None,
    ) -> EncoderOutput:
        lengths = _lengths(input_ids, attention_mask, "input_ids", "token")
        require_below(input_ids, self.tokens.num_embeddings, "input_ids", "tokens")
        packed = nn.utils.rnn.pack_padded_sequence(
            self.tokens(input_ids),
            lengths.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        hidden, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=input_ids.shape[1]
        )
        return EncoderOutput(hidden, _masked_mean(hidden, _first(lengths, hidden.shape[1])))


def _convolution(inner: int, outer: int, size: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inner, outer, size, stride=stride, padding=size // 2, bias=False),
        nn.GroupNorm(8, outer),
        nn.ReLU(),
    )


def _stage(inner: int, outer: int) -> tuple[nn.Module, ...]:
    return (*_convolution(inner, outer, 3, stride=2), *_convolution(outer, outer, 3))
