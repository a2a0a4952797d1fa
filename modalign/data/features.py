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
from modalign.data._files import Problem, inside

HDF5 = (".h5", ".hdf5")
WRITTEN = (*HDF5, ".npz", ".safetensors")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")


class FeatureFile:
    """Matrices by key: an HDF5 file, an ``.npz``, a ``.safetensors``, or a folder of ``KEY.npy``.

    A key that is missing, and a matrix that is pickled, not finite as float32, not (rows, width) or
    of another width than the first one read, are errors that name file and key. So is data of
    another file: a key such as ``../x``, a link out of the folder, and the links, external storage
    and virtual data sets of HDF5.

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
        place = f"{self.path}, key {key!r:.80}"
        try:
            if self.path.is_dir():
                path = inside(self.path, f"{key}.npy")
                if os.path.isfile(path):
                    return np.load(path, allow_pickle=False)
            elif key in self._handle():
                return np.asarray(self._handle()[key])
        except Problem as problem:
            raise Problem(f"{place}: {problem}") from problem
        # damaged bytes make the readers raise nearly anything, or ask for more memory than there is
        except Exception as error:
            raise Problem(f"{place}: pickled or damaged, and not read: {error}") from error
        raise Problem(f"no features of {key!r:.80} in {self.path}")

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
    """Refuse anything but a matrix of features, of the known width if there is one."""
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
    with np.errstate(over="ignore", under="ignore"):
        matrix = stored.astype(np.float32)
    kept = np.isfinite(matrix).all(1) & (matrix.any(1) | ~stored.any(1))
    if not kept.all():
        row = int(kept.argmin())
        size = np.abs(stored[row]).max()
        raise Problem(
            f"{place}: expected features that float32 can hold (1e-45 to 3.4e38), got a largest "
            f"of {size:.3g} in row {row}"
        )
    return matrix


class _HDF5:
    """An HDF5 file, of which only data in the file itself are read."""

    def __init__(self, path: pathlib.Path) -> None:
        self.file = h5py.File(path, "r")

    def __contains__(self, key: str) -> bool:
        return self._link(key) is not None

    def _link(self, key: str) -> Any:
        """The first link on the way to a key that is not a hard one, else the last; None if none.

        It is asked for without following it: an external link would open another file.
        """
        place = self.file
        parts = [part for part in key.split("/") if part not in ("", ".")]
        link = None
        for part in parts:
            link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
            if not isinstance(link, h5py.HardLink):
                return link
            place = place[part]
        return link

    def __getitem__(self, key: str) -> np.ndarray:
        link = self._link(key)
        if not isinstance(link, h5py.HardLink):
            raise Problem(f"expected a matrix in the file itself, got a {type(link).__name__}")
        stored = self.file[key]
        if not isinstance(stored, h5py.Dataset):
            raise Problem(f"expected a matrix, got a {type(stored).__name__}")
        if stored.external or stored.is_virtual:
            kind = "a virtual data set" if stored.is_virtual else "external storage"
            raise Problem(f"expected a matrix in the file itself, got {kind}")
        return np.asarray(stored)


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
        if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
            tensor = tensor.float()
        return tensor.numpy()


def _opened(path: pathlib.Path) -> Any:
    suffix = path.suffix.lower()
    if suffix in HDF5:
        return _HDF5(path)
    if suffix == ".safetensors":
        return _Safetensors(path)
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("expected an archive of arrays")
    return archive


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
        ValueError: if ``trusted`` is not set, for a target of another kind, or contents that
            are not matrices by key, all finite and of one width.
        FileExistsError: if the target exists.

    >>> import warnings
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "old.npy", {"s01e01": np.ones((3, 2))}, allow_pickle=True)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
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
    """The matrices by key of the unpickled object."""
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
        # a batch of one column alone may lack the columns that the keys are made of
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
