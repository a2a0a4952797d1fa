import os
import pathlib
import shutil
import signal

# before torch is imported: the tests of one machine are to be those of another
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # which numba would give to torch too
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import nbformat
import numpy as np
import pytest
import torch

from modalign.rerun import pages
from tests._groups import FIRST, Groups

# a shell that starts us in the background makes all our processes deaf to it, and tests send it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("tests._asserts")
torch.set_num_threads(1)
hypothesis.settings.register_profile("modalign", deadline=None, derandomize=True)
hypothesis.settings.load_profile("modalign")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """No test cuts the power, and each wait for a disk takes longer than a small run."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture(autouse=True)
def _fixed_seeds():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (what code under test may still draw from)


def arithmetic():
    """The settings of a process on which the last bit of a number may depend."""
    return {
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "products of float32": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "gradients": torch.is_grad_enabled(),
        "keeps subnormal numbers": bool(np.float32(1e-39) * np.float32(0.5) > 0),
    }


@pytest.fixture(autouse=True)
def _same_arithmetic():
    before = arithmetic()
    yield
    assert arithmetic() == before, "the test left the process with other settings"


# a browser of a test neither shares a sandbox with the system nor looks for updates
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def browser():
    path = pages.browser()
    if path is None and not os.environ.get("MODALIGN_NEEDS_BROWSER"):
        pytest.skip(f"no browser to look at the pages with: none of {', '.join(pages.BROWSERS)}")
    assert path, f"none of {', '.join(pages.BROWSERS)} is installed"
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def real_data(monkeypatch):
    """The folder of real data sets, named by MODALIGN_DATA or lying beside the checkout."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("MODALIGN_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real data: set MODALIGN_DATA to the folder that holds them")
    monkeypatch.setenv("MODALIGN_DATA", str(folder))
    return folder


@pytest.fixture
def compiler():
    """A compiler that has compiled nothing yet; it gives up after a few variants of a function."""
    if not shutil.which("c++") and not shutil.which("g++"):
        pytest.skip("no C++ compiler, which torch.compile needs on the CPU")
    torch.compiler.reset()


TINY = {
    "seed": "0  # of the draw; 0 or more",
    "rate": "0.1  # what is added; 0 or more",
    "note": '"a"  # shown as it is; any',
    "notes": '["a"]  # shown as they are; any',
    "optimizer": '"adam"  # a choice; adam, lars or sgd',
    "slow": "0.0  # seconds that a run takes; 0 to 600",
    "fast": "True  # read by nobody",
    "device": '"cpu"  # where; auto, cpu, cuda or mps',
}
DRAW = """
import random, time
time.sleep(slow)
def keep(name, value):  # what myst_nb's glue leaves, without its import
    record = {"application/papermill.record/text/plain": repr(value)}
    display(record, raw=True, metadata={"scrapbook": {"name": name}})
keep("tiny-value", random.Random(seed).random() + rate)
keep("tiny-notes", [note, *notes])
keep("tiny-text", "0.1 [0.0, 0.2]")
"""


@pytest.fixture
def tiny_book(tmp_path, monkeypatch):
    """A function that writes a book of one chapter, whose runs take a second, and goes there."""

    def write(*sources, parameters=TINY, presets="smoke: {seed: 3}\n"):
        root = tmp_path / "book"
        lines = "\n".join(f"{name} = {text}" for name, text in parameters.items())
        cells = [nbformat.v4.new_markdown_cell("# A tiny chapter\n\nThat draws.")]
        cells += [nbformat.v4.new_code_cell(source) for source in (lines, DRAW, *sources)]
        cells[1].metadata.tags = ["parameters"]
        (root / "notebooks" / "presets").mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "tiny.ipynb")
        (root / "notebooks" / "presets" / "tiny.yml").write_text(presets)
        (root / "_toc.yml").write_text("format: jb-book\nroot: notebooks/tiny\n")
        monkeypatch.chdir(root)
        return root

    return write


@pytest.fixture
def command_environment():
    """The environment in which a process finds the modalign under test."""
    package = str(pathlib.Path(__file__).parents[1])
    paths = [package, os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
