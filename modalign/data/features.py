"""Features from a file, read when a row is: nothing is pickled, copied or held in memory."""

from __future__ import annotations

import os
import pathlib
import string
import zipfile
from collections.abc import Mapping
from typing import Any

import datasets
import h5py
import numpy as np

from modalign.data._files import Problem

HDF5 = (".h5", ".hdf5")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")


class FeatureFile:
    """Matrices of features by key: an HDF5 file, an ``.npz``, or a folder of ``KEY.npy``.

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
        if not self.path.is_dir() and suffix not in (*HDF5, ".npz"):
            raise ValueError(f"features: {self.path}: {EXPECTED}")
        self._open: tuple[int, Any] | None = None
        self._rows: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _handle(self) -> Any:
        """The open file, one a process."""
        if self._open is None or self._open[0] != os.getpid():
            try:
                handle = (
                    h5py.File(self.path, "r")
                    if self.path.suffix.lower() in HDF5
                    else np.load(self.path, allow_pickle=False)
                )
            except (OSError, ValueError, zipfile.BadZipFile) as error:
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
        stored = self._stored(key)
        place = f"{self.path}, key {key!r}"
        if stored.dtype.kind not in "fiu":
            raise Problem(f"{place}: expected numbers, got {stored.dtype}")
        if stored.ndim != 2 or 0 in stored.shape:
            raise Problem(f"{place}: expected a matrix (rows, width), got shape {stored.shape}")
        self.width = self.width or stored.shape[1]
        if stored.shape[1] != self.width:
            raise Problem(f"{place}: expected width {self.width} as before, got {stored.shape[1]}")
        finite = np.isfinite(stored).all(1)
        if not finite.all():
            row = int(finite.argmin())
            raise Problem(f"{place}: expected finite features, got NaN or infinity in row {row}")
        return stored.astype(np.float32)

    def check(self, key: str, rows: int | None = None, what: str = "rows") -> None:
        """Refuse bad features of a key, and those of another number of rows than expected."""
        if key not in self._rows:
            self._rows[key] = len(self[key])
        found = self._rows[key]
        if rows is not None and found != rows:
            raise Problem(
                f"{self.path}, key {key!r}: expected {rows} rows, as there are {what}, got {found}"
            )


EXPECTED = "expected .h5, .hdf5, .npz or a folder of KEY.npy"


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
