"""Every chapter keeps the contract in CONTRIBUTING.md."""

import base64
import os
import pathlib
import statistics
import subprocess
import sys

import nbformat
import pytest
import yaml

from modalign import rerun
from modalign.rerun import execution

ROOT = pathlib.Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LARGEST_FIGURE = 200_000


def notebook(chapter):
    return nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)


def code_cells(chapter):
    return [cell for cell in notebook(chapter).cells if cell.cell_type == "code"]


def glued(cells):
    """The values glued in the outputs of cells, by name."""
    return execution.glued(nbformat.v4.new_notebook(cells=cells))


def run(*command):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_chapters_and_the_contents_list_them():
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert CHAPTERS
    assert all(f"file: notebooks/{chapter}\n" in contents for chapter in CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_one_cell_of_parameters(chapter):
    tagged = [c for c in code_cells(chapter) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert rerun.parameters(chapter, root=ROOT)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_parameter_says_what_it_may_be(chapter):
    for each in rerun.parameters(chapter, root=ROOT).values():
        assert each.help, each.name
        assert each.range or each.kind == "bool", f"{each.name}: no range in its comment"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_presets_fit_the_parameters(chapter):
    found = rerun.presets(chapter, root=ROOT)
    assert set(found) == {"smoke", "default", "gpu", "paper"}
    known = rerun.parameters(chapter, root=ROOT)
    assert all(known[name].default == value for name, value in found["default"].items())


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_outputs_are_those_of_one_whole_run(chapter):
    held = notebook(chapter)
    cells = [cell for cell in code_cells(chapter) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert held.metadata.kernelspec.name == "python3"
    assert "papermill" not in held.metadata
    assert held.metadata.modalign.seconds > 0


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_cells_are_short_and_figures_small(chapter):
    cells = code_cells(chapter)
    lengths = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in cells]
    assert statistics.median(lengths) <= 10
    for output in (output for cell in cells for output in cell.outputs):
        image = output.get("data", {}).get("image/png", "")
        assert len(base64.b64decode(image)) < LARGEST_FIGURE


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_glued_values_are_the_golden_ones(chapter):
    golden = yaml.safe_load((ROOT / "tests" / "golden" / f"{chapter}.yml").read_text())
    found = glued(code_cells(chapter))
    assert golden
    assert set(golden) <= set(found)
    for name, known in golden.items():
        value = float(found[name])
        assert value == pytest.approx(known["value"], abs=known["tolerance"], rel=0), name


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_smoke_preset_runs_and_glues_what_the_chapter_glues(chapter, tmp_path):
    run("-m", "modalign", "run", chapter, "--preset", "smoke", "-o", tmp_path)
    (made,) = tmp_path.glob(f"{chapter}-*")
    assert set(rerun.Result(made).values) == set(glued(code_cells(chapter)))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_some_outputs_are_compared_exactly(chapter):
    lines = [line.strip() for cell in code_cells(chapter) for line in cell.source.splitlines()]
    marks = [line for line in lines if "NBVAL_CHECK_OUTPUT" in line]
    assert marks
    assert all(line.startswith("#") for line in marks), (
        "nbval sees a mark on a line of its own only"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stored_outputs_come_out_again(chapter):
    options = ["-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    run("-m", "pytest", *options, f"notebooks/{chapter}.ipynb")
