"""Features from pretrained encoders of `transformers`, computed once and kept in a file.

Weights come as safetensors and code from the installed library alone: nothing that a model's
author uploads is run. Nothing is downloaded unless asked for.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image
import torch
from datasets.arrow_writer import ArrowWriter
from torch import Tensor
from tqdm import tqdm

from modalign._checks import describe, require_choice
from modalign.data.audio import waveform
from modalign.data.features import Attach, FeatureFile, written_whole
from modalign.models.encoders import pooled as pooled_states
from modalign.models.encoders import states
from modalign.models.inputs import tokenize

LIBRARIES = ("transformers", "tokenizers", "torch", "pillow", "scipy")
FORMAT = 1  # of the kept files: raised when the same inputs come to give other features


def encode(
    dataset: datasets.Dataset,
    column: str,
    model_name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
    pooled: bool = True,
    key: str = "id",
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = True,
    progress: bool = True,
) -> datasets.Dataset:
    """Add a column ``{column}_features`` that a pretrained encoder makes of another column.

    Pictures, sounds and texts go through the model's own preprocessing: its image processor (the
    one of PIL, whether torchvision is there or not), its feature extractor, after resampling to
    its rate, or its tokenizer, which cuts texts that are too long for it. Features are kept
    in ``cache_dir`` and found again by the model's files or commit, by the column's content (of
    files on disk: path, size and time of change), and by the versions of the libraries.

    Args:
        dataset: rows with the column, and with ``key`` if not ``pooled``.
        column: pictures, cells of sound, or texts.
        model_name_or_path: a folder, or a name on the Hugging Face hub, of a model with weights in
            safetensors that ``AutoModel`` knows: BERT, ViT, DINOv2, Wav2Vec2, AST, and, of models
            of two modalities such as CLIP and CLAP, the half that fits the column.
        revision: branch, tag or commit on the hub.
        device: where the model runs; a GPU if there is one.
        batch_size: rows at a time. Waveforms of different length go one by one through models
            that take no mask, such as ``facebook/wav2vec2-base``.
        pooled: keep a vector a row, (d,), by :func:`modalign.models.encoders.pooled`, in Arrow; or
            else the unpadded states, (t, d), in a safetensors file that
            :class:`modalign.data.FeatureFile` reads.
        key: the column whose values name the matrices of that file; no two may be equal.
        cache_dir: where features are kept; ``modalign`` in the cache of `datasets` by default.
        local_files_only: use only what is on this machine; ``False`` downloads the model.
        progress: show a bar.

    Returns:
        The rows with one column more, which is read from the file when a row is.

    Raises:
        ImportError: if `transformers` is not installed.
        OSError: if the model is not there, or has no weights in safetensors.
        ValueError: for a column that is missing, empty or of another type, keys that are not
            unique, weights that the checkpoint lacks, or features that are not finite.

    >>> from modalign.data import load
    >>> encode(load("digits", "test"), "image", "no/such-model")
    Traceback (most recent call last):
    ...
    OSError: no/such-model: not on this machine; pass local_files_only=False to download it
    """
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("encode: needs transformers: pip install 'modalign[pretrained]'")
    name = f"{column}_features"
    kind = _kind(dataset, column, name)
    if not pooled:
        _require_keys(dataset, key)
    source = _identity(model_name_or_path, revision, local_files_only)
    asked = {
        "format": FORMAT,
        "model": source.digest,
        "column": _digest(dataset, [column] if pooled else [column, key]),
        "kind": kind,
        "pooled": pooled,
        "libraries": {each: importlib.metadata.version(each) for each in LIBRARIES},
    }
    found = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    folder = pathlib.Path(cache_dir or pathlib.Path(datasets.config.HF_DATASETS_CACHE, "modalign"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found}.{'arrow' if pooled else 'safetensors'}"
    if not path.exists():
        run = _encoder(source, kind, device, pooled)
        computed = _batches(dataset, column, batch_size, run)
        rows = iter(tqdm(computed, desc=name, total=len(dataset), disable=not progress))
        with written_whole(path) as whole:
            if pooled:
                _write_vectors(whole, rows, name)
            else:
                write_matrices(whole, zip(dataset.with_format(None)[key], rows, strict=True))
    if pooled:
        return _beside(dataset, path)
    return _attached(dataset, name, FeatureFile(path), f"{{{key}}}")


class _Source(NamedTuple):
    """A model: where its files are, and its identity."""

    place: str
    options: dict[str, Any]
    digest: str


def _identity(
    model: str | os.PathLike[str], revision: str | None, local_files_only: bool
) -> _Source:
    """The commit of a model on the hub, or a digest of a folder's files."""
    folder = pathlib.Path(model)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision: {folder} is a folder, which has none; got {revision!r}")
        digest = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            if path.is_file():
                _add(digest, [path.name, path.stat().st_size])
                with path.open("rb") as file:
                    for part in iter(lambda: file.read(2**20), b""):
                        digest.update(part)
        return _Source(str(folder), {"local_files_only": True}, digest.hexdigest())
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        config = hf_hub_download(
            str(model), "config.json", revision=revision, local_files_only=local_files_only
        )
    except LocalEntryNotFoundError as error:
        if not local_files_only:
            raise
        raise OSError(
            f"{model}: not on this machine; pass local_files_only=False to download it"
        ) from error
    commit = pathlib.Path(config).parent.name
    options = {"revision": commit, "local_files_only": local_files_only}
    return _Source(str(model), options, f"{model}@{commit}")


def _kind(dataset: datasets.Dataset, column: str, name: str) -> str:
    """Whether a column holds pictures, sound or text."""
    require_choice(column, dataset.column_names, "column")
    if name in dataset.column_names:
        raise ValueError(f"column: the data set has a column {name!r} already")
    if not len(dataset):
        raise ValueError("dataset: expected at least 1 row, got 0")
    first = dataset.with_format(None)[0][column]
    if isinstance(first, str):
        return "text"
    if isinstance(first, PIL.Image.Image):
        return "image"
    if isinstance(first, Mapping) and {"bytes", "path"} <= first.keys():
        return "audio"
    raise ValueError(f"column: expected pictures, cells of sound or texts, got {describe(first)}")


def _require_keys(dataset: datasets.Dataset, key: str) -> None:
    require_choice(key, dataset.column_names, "key")
    values = list(dataset.with_format(None)[key])
    if len(set(values)) < len(values) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"key: expected texts that differ from row to row in {key!r}")


def _digest(dataset: datasets.Dataset, columns: Sequence[str]) -> str:
    """A digest of columns as they are stored: a file on disk counts by path, size and time."""
    stored = dataset.select_columns(list(columns)).with_format("arrow")
    digest = hashlib.sha256()
    for table in stored.iter(batch_size=1000):
        for row in table.to_pylist():
            _add(digest, [row[column] for column in columns])
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a value to a digest, so that different ones are never the same bytes."""
    if isinstance(value, Mapping):
        value = [[key, value[key]] for key in sorted(value)]
        path = dict(value).get("path")
        if path and dict(value).get("bytes") is None:
            stat = os.stat(path)
            value += [["size", stat.st_size], ["time", stat.st_mtime_ns]]
    if isinstance(value, list):
        digest.update(struct.pack("<cQ", b"l", len(value)))
        for each in value:
            _add(digest, each)
        return
    kind, content = (b"b", value) if isinstance(value, bytes) else (b"r", repr(value).encode())
    digest.update(struct.pack("<cQ", kind, len(content)))
    digest.update(content)


def _batches(
    dataset: datasets.Dataset, column: str, size: int, run: Callable[[list[Any]], list[Tensor]]
) -> Iterator[np.ndarray]:
    """Features row by row, computed batch by batch."""
    number = 0
    for batch in dataset.select_columns([column]).with_format(None).iter(batch_size=size):
        for features in run(batch[column]):
            if not features.isfinite().all():
                raise ValueError(f"{column}: NaN or infinity in the features of row {number}")
            yield features.cpu().numpy()
            number += 1


def _encoder(
    source: _Source, kind: str, device: str | torch.device | None, pooled: bool
) -> Callable[[list[Any]], list[Tensor]]:
    """Loads a model, and returns a function from cells to features."""
    model = _model(source)
    encoder: Any = getattr(model, f"get_{kind}_features", None)
    if encoder is None:
        encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(place)
    prepare = {"image": _image_inputs, "audio": _audio_inputs, "text": _text_inputs}[kind](
        source, model.config
    )

    @torch.inference_mode()
    def run(cells: list[Any]) -> list[Tensor]:
        rows: list[Tensor] = []
        for inputs in prepare(cells):
            there = {name: value.to(place) for name, value in inputs.items()}
            if pooled:
                rows += pooled_states(encoder, **there)
            else:
                hidden, mask = states(encoder, **there)
                rows += [each[kept] for each, kept in zip(hidden, mask, strict=True)]
        return rows

    return run


def _model(source: _Source) -> Any:
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(
        source.place,
        **source.options,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing and all("pooler" in name for name in missing):
        # a classifier's checkpoint has none, and a random one must not pool
        model.pooler = None
    elif missing:
        raise ValueError(f"{source.place}: the checkpoint lacks weights: {', '.join(missing[:5])}")
    return model.eval()


Inputs = Iterator[dict[str, Tensor]]


def _image_inputs(source: _Source, config: Any) -> Callable[[list[Any]], Inputs]:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(
        source.place, **source.options, backend="pil", trust_remote_code=False
    )

    def prepare(pictures: list[Any]) -> Inputs:
        colour = [picture.convert("RGB") for picture in pictures]
        yield {"pixel_values": processor(colour, return_tensors="pt")["pixel_values"]}

    return prepare


def _audio_inputs(source: _Source, config: Any) -> Callable[[list[Any]], Inputs]:
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(
        source.place, **source.options, trust_remote_code=False
    )
    rate = extractor.sampling_rate

    def extract(waves: list[np.ndarray]) -> dict[str, Tensor]:
        return dict(extractor(waves, sampling_rate=rate, padding=True, return_tensors="pt"))

    def prepare(sounds: list[Any]) -> Inputs:
        waves = [waveform(sound, rate=rate)[0].numpy() for sound in sounds]
        inputs = extract(waves)
        raw = "input_values" in inputs and inputs["input_values"].dim() == 2
        if raw and "attention_mask" not in inputs and len({len(wave) for wave in waves}) > 1:
            yield from (extract([wave]) for wave in waves)  # padding would be heard
        else:
            yield inputs

    return prepare


def _text_inputs(source: _Source, config: Any) -> Callable[[list[Any]], Inputs]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        source.place, **source.options, trust_remote_code=False
    )
    text_config = getattr(config, "text_config", config)
    positions = getattr(text_config, "max_position_embeddings", tokenizer.model_max_length)
    longest = min(tokenizer.model_max_length, positions)

    def prepare(texts: list[Any]) -> Inputs:
        yield tokenize(tokenizer, texts, max_length=longest)

    return prepare


def _write_vectors(path: pathlib.Path, rows: Iterator[np.ndarray], name: str) -> None:
    first = next(rows)
    feature = datasets.List(datasets.Value("float32"), length=len(first))
    with ArrowWriter(path=str(path), features=datasets.Features({name: feature})) as writer:
        writer.write({name: first})
        for row in rows:
            writer.write({name: row})
        writer.finalize()


def write_matrices(path: pathlib.Path, rows: Iterator[tuple[str, np.ndarray]]) -> None:
    """Write float32 matrices by key as safetensors, with one of them in memory at a time.

    Raises:
        ValueError: for a key that came before, and a matrix that is not finite in float32.
    """
    header: dict[str, dict[str, object]] = {}
    body, end = path.with_suffix(".body"), 0
    with body.open("wb") as file:
        for key, matrix in rows:
            if key in header:
                raise ValueError(f"rows: expected each key once, got several of {key!r}")
            with np.errstate(over="ignore"):  # answered by an error
                single = np.ascontiguousarray(matrix, "<f4")
            if not np.isfinite(single).all():
                raise ValueError(f"rows: expected matrices that are finite in float32, got {key!r}")
            content = single.tobytes()
            file.write(content)
            offsets = [end, end := end + len(content)]
            header[key] = {"dtype": "F32", "shape": matrix.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as whole, body.open("rb") as file:
        whole.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(file, whole, 2**24)


def _beside(dataset: datasets.Dataset, path: pathlib.Path) -> datasets.Dataset:
    """The rows with the vectors of a file."""
    vectors = datasets.Dataset.from_file(str(path))
    if len(vectors) != len(dataset):
        raise ValueError(
            f"{path}: expected {len(dataset)} rows, got {len(vectors)}; delete the file"
        )
    both = datasets.concatenate_datasets([dataset.with_format(None), vectors], axis=1)
    kept = dataset.format
    return both.with_format(kept["type"], **kept["format_kwargs"])


def _attached(
    dataset: datasets.Dataset, name: str, file: FeatureFile, key: str
) -> datasets.Dataset:
    """The rows with the matrices of a file, beside what is attached to them already."""
    before = dataset.format["format_kwargs"].get("transform")
    columns = before.columns if isinstance(before, Attach) else {}
    return Attach({**columns, name: (file, key)}).to(dataset)
