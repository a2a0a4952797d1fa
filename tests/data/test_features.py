"""Features in safetensors, and pickles of them."""

import os
import pickle

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch

from modalign import data
from modalign.data.features import FeatureFile, written_whole

MATRICES = {"s01e01": np.arange(6.0).reshape(2, 3), "s01e02": np.ones((1, 3), np.float32)}


class Malicious:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int16])
def test_safetensors_of_any_type_are_read_as_float32(tmp_path, dtype):
    matrix = torch.arange(6).reshape(2, 3).to(dtype)
    safetensors.torch.save_file({"a": matrix}, tmp_path / "a.safetensors")
    read = FeatureFile(tmp_path / "a.safetensors")["a"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.arange(6).reshape(2, 3))


def test_a_cut_safetensors_is_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.ones(9, 9)}, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="a.safetensors is damaged or of another format"):
        FeatureFile(path)["a"]


def test_a_missing_key_of_a_safetensors_is_named(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(9, 9)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no features of 'b' in .*a.safetensors"):
        FeatureFile(tmp_path / "a.safetensors")["b"]


def test_a_pickle_is_not_read_unless_trusted(tmp_path):
    mark, path, target = tmp_path / "mark", tmp_path / "old.npy", tmp_path / "new.npz"
    np.save(path, {"a": Malicious(mark)}, allow_pickle=True)
    with pytest.raises(ValueError, match=r"runs any code.*not read.*trusted=True"):
        data.convert_pickle(path, target)
    assert not mark.exists()
    assert not target.exists()
    # what the refusal is for: it does run where it is trusted
    with (
        pytest.warns(UserWarning, match="unpickling .*old.npy, which runs any code"),
        pytest.raises(ValueError, match="old.npy, key 'a': expected numbers"),
    ):
        data.convert_pickle(path, target, trusted=True)
    assert mark.exists()
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5", ".safetensors"])
@pytest.mark.parametrize("kind", ["npy", "pickle", "python 2"])
@pytest.mark.filterwarnings("ignore:unpickling")
def test_pickles_become_files_of_matrices(tmp_path, suffix, kind):
    path, target = tmp_path / "old.npy", tmp_path / f"new{suffix}"
    if kind == "npy":
        np.save(path, MATRICES, allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(MATRICES, protocol=2 if kind == "python 2" else 5))
    assert data.convert_pickle(path, target, trusted=True) == ["s01e01", "s01e02"]
    file = FeatureFile(target)
    for key, matrix in MATRICES.items():
        np.testing.assert_array_equal(file[key], matrix)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([target.name, "old.npy"])


@pytest.mark.filterwarnings("ignore:unpickling")
def test_keys_become_text_and_vectors_rows(tmp_path):
    odd = {7: np.ones(2), b"x": [[1.0, 2.0], [3.0, 4.0]], "file": np.ones((1, 2))}
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(odd))
    keys = data.convert_pickle(tmp_path / "old.pkl", tmp_path / "new.npz", trusted=True)
    assert keys == ["7", "x", "file"]
    file = FeatureFile(tmp_path / "new.npz")
    assert file["7"].shape == (1, 2)
    assert file["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dictionary of features, got list"),
        ({}, "expected a dictionary of features, got dict"),
        (
            {"a": np.ones((2, 2)), "b": np.ones((2, 3))},
            "key 'b': expected width 2 as before, got 3",
        ),
        ({"a": np.full((2, 2), np.nan)}, "key 'a': expected finite features, .* row 0"),
        ({"a": np.ones((2, 2, 2))}, r"key 'a': expected a matrix .* \(2, 2, 2\)"),
        ({"a": np.array([["x"]])}, "key 'a': expected numbers, got <U1"),
        ({"1": np.ones((2, 2)), 1: np.ones((2, 2))}, "two keys are '1' as text"),
    ],
)
@pytest.mark.filterwarnings("ignore:unpickling")
def test_a_pickle_of_something_else_is_refused(tmp_path, content, message):
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        data.convert_pickle(tmp_path / "old.pkl", tmp_path / "new.npz", trusted=True)
    assert not (tmp_path / "new.npz").exists()


def test_a_target_of_another_kind_or_that_exists_is_refused(tmp_path):
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(MATRICES))
    with pytest.raises(ValueError, match=r"target: expected .h5.*got .*new.pkl"):
        data.convert_pickle(tmp_path / "old.pkl", tmp_path / "new.pkl", trusted=True)
    (tmp_path / "new.npz").write_bytes(b"")
    with pytest.raises(FileExistsError, match="target: .*new.npz exists"):
        data.convert_pickle(tmp_path / "old.pkl", tmp_path / "new.npz", trusted=True)


def test_what_is_written_halfway_leaves_nothing(tmp_path):
    def write(target):
        with written_whole(target) as path:
            path.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def linked(tmp_path):
    """An HDF5 file whose keys are kept in other files, one way each."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["m"] = np.ones((2, 2))
    (tmp_path / "raw").write_bytes(np.ones((2, 2), np.float32).tobytes())
    layout = h5py.VirtualLayout((2, 2), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "m", (2, 2))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["own"] = file["group/own"] = np.ones((2, 2))
        file["external"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/m")
        file["folder"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        file["soft"] = h5py.SoftLink("/external")
        file.create_dataset("stored", (2, 2), "f4", external=[(str(tmp_path / "raw"), 0, 16)])
        file.create_virtual_dataset("virtual", layout)
    return FeatureFile(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("external", "a ExternalLink"),
        ("folder/m", "a ExternalLink"),
        ("soft", "a SoftLink"),
        ("stored", "external storage"),
        ("virtual", "a virtual data set"),
    ],
)
def test_matrices_of_other_hdf5_files_are_not_read(linked, key, what):
    assert linked["own"].shape == linked["group/own"].shape == (2, 2)
    with pytest.raises(
        ValueError, match=f"key '{key}': expected a matrix in the file itself, .*{what}"
    ):
        linked[key]


def test_matrices_of_other_folders_are_not_read(tmp_path):
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    (tmp_path / "set" / "link.npy").symlink_to(tmp_path / "x.npy")
    file = FeatureFile(tmp_path / "set")
    for key in ("../x", str(tmp_path / "x"), "link"):
        with pytest.raises(ValueError, match="leads out of the folder"):
            file[key]
    for key in ("x" * 5000, "", "y"):
        with pytest.raises(ValueError, match="no features of"):
            file[key]
    for key in ("\0", "\ud800"):
        with pytest.raises(ValueError, match="is not the name of a file"):
            file[key]


BEYOND = {
    "large": ([[1.0, 0.0], [1e39, 0.0]], "float32 can hold .* a largest of 1e.39 in row 1"),
    "small": ([[1.0, 0.0], [1e-60, 0.0]], "float32 can hold .* a largest of 1e-60 in row 1"),
    "half": (np.array([[1, np.inf]], np.float16), "NaN or infinity in row 0"),
    "nan": ([[0.0], [np.nan]], "NaN or infinity in row 1"),
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("suffix", [".npz", ".h5", ".safetensors", ".npy"])
def test_features_beyond_float32_are_refused(tmp_path, name, suffix):
    matrix, problem = np.array(BEYOND[name][0]), BEYOND[name][1]
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, a=matrix)
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["a"] = matrix
    elif suffix == ".safetensors":
        safetensors.torch.save_file({"a": torch.from_numpy(matrix)}, path)
    else:
        np.save(path, matrix)
    with pytest.raises(ValueError, match=f"key 'a': .*{problem}"):
        FeatureFile(tmp_path if suffix == ".npy" else path)["a"]


def test_a_small_number_beside_ordinary_ones_is_zero(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([[0.5, 1e-60], [0.0, 0.0]]))
    assert FeatureFile(tmp_path / "a.npz")["a"].tolist() == [[0.5, 0.0], [0.0, 0.0]]
