import os
import pathlib

# before torch is imported: the tests of one machine are to be those of another
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("modalign", deadline=None, derandomize=True)
hypothesis.settings.load_profile("modalign")


@pytest.fixture(autouse=True)
def _fixed_seeds():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (what code under test may still draw from)


@pytest.fixture
def real_data(monkeypatch):
    """The folder of real data sets, named by MODALIGN_DATA or lying beside the checkout."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("MODALIGN_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real data: set MODALIGN_DATA to the folder that holds them")
    monkeypatch.setenv("MODALIGN_DATA", str(folder))
    return folder
