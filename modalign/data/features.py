"""Features from a file, read when a row is: nothing is pickled, copied or held in memory."""

from __future__ import annotations

import contextlib
import os
import pathlib
import string
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import h5py
import numpy as np
import safetensors
import safetensors.numpy

from modalign._checks import describe
from modalign.data._files import Problem

HDF5 = (".h5", ".hdf5")
WRITTEN = (*HDF5, ".npz", ".safetensors")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")


class FeatureFile:
    """Matrices by key: an HDF5 file, an ``.npz``, a ``.safetensors``, or a folder of ``KEY.npy``.

    A key that is missing, and a matrix that is pickled, not finite, not (rows, width) or of
    another width than the first one read, are errors that name file and key.

    Args:
        path: the file or folder.

    >>> import tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "clips.npz")
    >>> np.savez(file, s01e01=np.ones((3, 2)))
    >>> FeatureFile(file)["s01e01"].shape
    (3, 2)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self.width: int | None = None
        if not self.path.exists():
            raise FileNotFoundError(f"features: no file or folder {self.path}")
        suffix = self.path.suffix.lower()
        if suffix in PICKLES:
            raise ValueError(f"features: {self.path} is a pickle, which can run code: {EXPECTED}")
        if not self.path.is_dir() and suffix not in WRITTEN:
            raise ValueError(f"features: {self.path}: {EXPECTED}")
        self._open: tuple[int, Any] | None = None
        self._rows: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _handle(self) -> Any:
        """The open file, one a process."""
        if self._open is None or self._open[0] != os.getpid():
            try:
                handle = _opened(self.path)
            except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
                raise Problem(f"{self.path} is damaged or of another format: {error}") from error
            self._open = os.getpid(), handle
        return self._open[1]

    def _stored(self, key: str) -> np.ndarray:
        path = self.path / f"{key}.npy"
        if not path.exists() if self.path.is_dir() else key not in self._handle():
            raise Problem(f"no features of {key!r} in {self.path}")
        try:
            if self.path.is_dir():
                return np.load(path, allow_pickle=False)
            return np.asarray(self._handle()[key])
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise Problem(
                f"{self.path}, key {key!r}: pickled or damaged, and not read: {error}"
            ) from error

    def __getitem__(self, key: str) -> np.ndarray:
        """The matrix of a key, float32 (rows, width)."""
        matrix = _matrix(self._stored(key), f"{self.path}, key {key!r}", self.width)
        self.width = matrix.shape[1]
        return matrix

    def check(self, key: str, rows: int | None = None, what: str = "rows") -> None:
        """Refuse bad features of a key, and those of another number of rows than expected."""
        if key not in self._rows:
            self._rows[key] = len(self[key])
        found = self._rows[key]
        if rows is not None and found != rows:
            raise Problem(
                f"{self.path}, key {key!r}: expected {rows} rows, as there are {what}, got {found}"
            )


EXPECTED = "expected .h5, .hdf5, .npz, .safetensors or a folder of KEY.npy"


def _matrix(stored: np.ndarray, place: str, width: int | None) -> np.ndarray:
    """Refuse what is no matrix of features; a width that is known must be kept."""
    if stored.dtype.kind not in "fiu":
        raise Problem(f"{place}: expected numbers, got {stored.dtype}")
    if stored.ndim != 2 or 0 in stored.shape:
        raise Problem(f"{place}: expected a matrix (rows, width), got shape {stored.shape}")
    if width is not None and stored.shape[1] != width:
        raise Problem(f"{place}: expected width {width} as before, got {stored.shape[1]}")
    finite = np.isfinite(stored).all(1)
    if not finite.all():
        row = int(finite.argmin())
        raise Problem(f"{place}: expected finite features, got NaN or infinity in row {row}")
    return stored.astype(np.float32)


class _Safetensors:
    """A memory-mapped file of tensors, read by key."""

    def __init__(self, path: pathlib.Path) -> None:
        # torch reads bfloat16, which numpy does not have
        self.file = safetensors.safe_open(path, framework="pt")
        self.names = frozenset(self.file.keys())

    def __contains__(self, key: str) -> bool:
        return key in self.names

    def __getitem__(self, key: str) -> np.ndarray:
        tensor = self.file.get_tensor(key)
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _opened(path: pathlib.Path) -> Any:
    suffix = path.suffix.lower()
    if suffix in HDF5:
        return h5py.File(path, "r")
    return _Safetensors(path) if suffix == ".safetensors" else np.load(path, allow_pickle=False)


@contextlib.contextmanager
def written_whole(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, which becomes ``target`` when all is written and closed."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as folder:
        path = pathlib.Path(folder, target.name)
        yield path
        os.replace(path, target)


def convert_pickle(
    path: str | os.PathLike[str], target: str | os.PathLike[str], *, trusted: bool = False
) -> list[str]:
    """Turn a pickled dictionary of features into a file that `FeatureFile` reads.

    Features are still distributed as pickles, such as ``.npy`` files that hold a dictionary.
    Unpickling runs whatever code is in the file: do it once, on a file from people whose programs
    you would run, and keep the result.

    Args:
        path: a pickle, or a ``.npy`` that holds one. Those of Python 2 are read as well.
        target: the new ``.npz``, ``.h5``, ``.hdf5`` or ``.safetensors``, written as float32.
        trusted: that you trust the file. Without it nothing is read.

    Returns:
        The keys, as text. A vector becomes a matrix of one row.

    Raises:
        ValueError: where ``trusted`` is not set, for a target of another kind, or contents that
            are not matrices by key, all finite and of one width.
        FileExistsError: where the target exists.

    >>> import warnings
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "old.npy", {"s01e01": np.ones((3, 2))}, allow_pickle=True)
    >>> with warnings.catch_warnings(action="ignore"):
    ...     convert_pickle(folder / "old.npy", folder / "new.safetensors", trusted=True)
    ['s01e01']
    >>> FeatureFile(folder / "new.safetensors")["s01e01"].shape
    (3, 2)
    """
    path, target = pathlib.Path(path), pathlib.Path(target)
    suffix = target.suffix.lower()
    if suffix not in WRITTEN:
        raise ValueError(f"target: expected {', '.join(WRITTEN)}, got {str(target)!r}")
    if target.exists():
        raise FileExistsError(f"target: {target} exists")
    if not trusted:
        raise ValueError(
            f"{path}: unpickling runs any code that the file holds, so it was not read. If you "
            "trust those who made it as far as to run their programs, pass trusted=True"
        )
    warnings.warn(f"unpickling {path}, which runs any code that it holds", stacklevel=2)
    matrices = _matrices(np.load(path, allow_pickle=True, encoding="latin1"), path)
    with written_whole(target) as whole:
        if suffix in HDF5:
            with h5py.File(whole, "w") as file:
                for key, matrix in matrices.items():
                    file[key] = matrix
        elif suffix == ".npz":
            with zipfile.ZipFile(whole, "w") as archive:
                for key, matrix in matrices.items():
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, matrix, allow_pickle=False)
        else:
            safetensors.numpy.save_file(matrices, whole)
    return list(matrices)


def _matrices(content: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The matrices by key of what was unpickled."""
    if isinstance(content, np.ndarray) and content.shape == ():
        content = content.item()
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: expected a dictionary of features, got {describe(content)}")
    matrices: dict[str, np.ndarray] = {}
    width = None
    for key, value in content.items():
        name = key.decode() if isinstance(key, bytes) else str(key)
        if name in matrices:
            raise ValueError(f"{path}: two keys are {name!r} as text")
        stored = np.asarray(value)
        stored = stored[None] if stored.ndim == 1 else stored
        matrices[name] = np.ascontiguousarray(_matrix(stored, f"{path}, key {name!r}", width))
        width = matrices[name].shape[1]
    return matrices


class Attach:
    """Adds features to the rows of a data set, by keys made from their columns.

    Args:
        columns: for each new column, the file and the key as a format such as ``"{id}_q"``; a
            list of formats gives a list of matrices.
    """

    def __init__(self, columns: Mapping[str, tuple[FeatureFile, str | list[str]]]) -> None:
        self.columns = dict(columns)
        formats = "".join("".join(keys) for _, keys in self.columns.values())
        self.needs = {field for _, field, _, _ in string.Formatter().parse(formats) if field}

    def check(self, row: Mapping[str, Any], expected: Mapping[str, tuple[int, str]]) -> None:
        """Refuse a row whose features are bad; ``expected`` gives numbers of rows."""
        for column, (file, keys) in self.columns.items():
            for key in [keys] if isinstance(keys, str) else keys:
                file.check(key.format_map(row), *expected.get(column, ()))

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        # asked for a column alone, a batch may lack what the keys are made of
        if not self.needs <= batch.keys():
            return batch
        rows = [
            dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)
        ]
        attached = {
            column: [
                file[keys.format_map(row)]
                if isinstance(keys, str)
                else [file[key.format_map(row)] for key in keys]
                for row in rows
            ]
            for column, (file, keys) in self.columns.items()
        }
        return {**batch, **attached}

    def to(self, dataset: datasets.Dataset) -> datasets.Dataset:
        """The data set, whose rows carry the features when they are read."""
        return dataset.with_transform(self) if self.columns else dataset


def attached(
    columns: Mapping[str, tuple[str | os.PathLike[str] | None, str | list[str]]],
) -> Attach:
    """The features of those columns for which a path was given."""
    return Attach(
        {name: (FeatureFile(path), keys) for name, (path, keys) in columns.items() if path}
    )
