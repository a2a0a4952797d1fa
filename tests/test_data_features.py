"""Features in safetensors, and pickles of them."""

import os
import pickle

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
