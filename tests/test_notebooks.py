"""Every chapter keeps the contract in CONTRIBUTING.md."""

import ast
import base64
import io
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tokenize

import nbformat
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LARGEST_FIGURE = 200_000


def notebook(chapter):
    return nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)


def code_cells(chapter):
    return [cell for cell in notebook(chapter).cells if cell.cell_type == "code"]


def presets(chapter):
    path = ROOT / "notebooks" / "presets" / f"{chapter}.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def parameters_source(chapter):
    tagged = [c for c in code_cells(chapter) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1, "a chapter has exactly one cell tagged parameters"
    return tagged[0].source


def parameters(chapter):
    tree = ast.parse(parameters_source(chapter))
    assert all(isinstance(line, ast.Assign) and len(line.targets) == 1 for line in tree.body)
    return {line.targets[0].id: ast.literal_eval(line.value) for line in tree.body}


def glued(cells):
    """The values glued in the outputs of cells, by name."""
    values = {}
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        text = [
            text for mime, text in output.get("data", {}).items() if mime.endswith("text/plain")
        ]
        if name and text:
            values[name] = re.sub(r"^np\.\w+\((.*)\)$", r"\1", text[0])
    return values


def kind(value):
    """The type of a parameter, with the types inside a list; an int will do for a float."""
    if isinstance(value, list):
        return ("list", *sorted({kind(each) for each in value}))
    return "number" if type(value) is float else type(value).__name__


def fits(value, default):
    allowed = {kind(default)} | ({"int"} if type(default) is float else set())
    if isinstance(default, list) and isinstance(value, list):
        return all(any(fits(each, one) for one in default) for each in value)
    return kind(value) in allowed


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
def test_parameters_are_plain_literals_with_a_comment_each(chapter):
    source = parameters_source(chapter)
    assert parameters(chapter)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for line in ast.parse(source).body:
        assert commented & set(range(line.lineno, line.end_lineno + 1)), ast.unparse(line)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_presets_name_known_parameters_with_their_types(chapter):
    defaults = parameters(chapter)
    assert list(presets(chapter)) == ["smoke", "default", "gpu", "paper"]
    for preset, values in presets(chapter).items():
        assert set(values) <= set(defaults), f"{preset} names unknown parameters"
        for name, value in values.items():
            assert fits(value, defaults[name]), f"{preset}: {name} = {value!r}"
    assert all(defaults[name] == value for name, value in presets(chapter)["default"].items())


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
    written = tmp_path / "smoke.ipynb"
    run("tools/book.py", "run", chapter, "--preset", "smoke", "-o", written)
    cells = nbformat.read(written, as_version=4).cells
    assert set(glued(cells)) == set(glued(code_cells(chapter)))


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
