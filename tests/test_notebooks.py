"""Every chapter keeps the contract in CONTRIBUTING.md."""

import base64
import json
import os
import pathlib
import re
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
# another processor on this one: torch without vector instructions, and MKL's oldest code
OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
# more than six decimals, or what rounding left of a zero
UNSTABLE = re.compile(r"\d*\.\d{7,}|\d(?:\.\d+)?e-(?:0[7-9]|[1-9]\d)")


def notebook(chapter):
    return nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)


def code_cells(chapter):
    return [cell for cell in notebook(chapter).cells if cell.cell_type == "code"]


def glued(cells):
    """The values glued in the outputs of cells, by name."""
    return execution.glued(nbformat.v4.new_notebook(cells=cells))


def is_compared(cell):
    """Whether a comment or, unseen by a reader, a tag of the cell says that nbval compares it."""
    tagged = "nbval-check-output" in cell.metadata.get("tags", [])
    return tagged or "# NBVAL_CHECK_OUTPUT" in cell.source.splitlines()


def compared(cells):
    """What nbval compares exactly, by the source of its cell; pictures it leaves out."""
    found = {}
    for cell in cells:
        if not is_compared(cell):
            continue
        held = found.setdefault(cell.source, {})
        for output in cell.outputs:
            if output.output_type == "stream":  # a kernel sends it in one piece or in several
                held["text"] = held.get("text", "") + output.text
                continue
            for kind, text in output.get("data", {}).items():
                if kind not in ("image/png", "image/jpeg"):
                    held.setdefault(kind, []).append(text)
            held.setdefault("metadata", []).append(output.get("metadata", {}))
    return found


def run(*command, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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


def test_other_kernels_are_other_kernels():
    asked = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    assert run("-c", asked, **OTHER_KERNELS).split() == ["DEFAULT"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_smoke_preset_says_on_another_processor_what_the_chapter_says(chapter, tmp_path):
    """It glues the same names, and what is compared exactly depends on no parameter."""
    command = ["-m", "modalign", "run", chapter, "--preset", "smoke", "-o", tmp_path]
    run(*command, **OTHER_KERNELS)
    (made,) = tmp_path.glob(f"{chapter}-*")
    assert set(rerun.Result(made).values) == set(glued(code_cells(chapter)))
    cells = nbformat.read(made / execution.NOTEBOOK, as_version=4).cells
    assert compared(cells) == compared(code_cells(chapter))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_is_compared_exactly_has_no_more_digits_than_are_stable(chapter):
    for source, held in compared(code_cells(chapter)).items():
        found = UNSTABLE.findall(json.dumps(held))
        assert not found, f"{found} in the stored outputs of the cell\n{source}"


@pytest.mark.parametrize("text", ["0.5537087995388069", "1.0242083072662354", "2.2e-16", "1e-07"])
def test_digits_that_are_not_stable_are_found(text):
    cell = nbformat.v4.new_code_cell("# NBVAL_CHECK_OUTPUT\n1")
    data = {"application/papermill.record/text/plain": text}
    cell.outputs = [nbformat.v4.new_output("display_data", data)]
    assert UNSTABLE.findall(json.dumps(list(compared([cell]).values()))) == [text]
    assert not UNSTABLE.findall("0.553709 3,408,415 3408415 1e-05 -0.0044 0.70 8340")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_some_outputs_are_compared_exactly(chapter):
    lines = [line.strip() for cell in code_cells(chapter) for line in cell.source.splitlines()]
    marks = [line for line in lines if "NBVAL_CHECK_OUTPUT" in line]
    assert any(map(is_compared, code_cells(chapter)))
    assert all(line.startswith("#") for line in marks), (
        "nbval sees a mark on a line of its own only"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stored_outputs_come_out_again(chapter):
    options = ["-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    run("-m", "pytest", *options, f"notebooks/{chapter}.ipynb")
