"""Chapters for any notebook program: no markup left, and numbers where the pages have them."""

import os
import pathlib
import re

import nbformat
import pytest

from modalign.course.source import without_markers
from modalign.rerun import inventory
from modalign.rerun.execution import glued
from modalign.rerun.plain import Names, names, plain

ROOT = pathlib.Path(__file__).parents[2]
KNOWN = Names(
    labels={
        "eq-a": "(1)",
        "ex-a": "Exercise 1 (Half)",
        "sec-a": "Where it is shown",
        "fig-a": "Fig. 2.1",
    },
    pages={"notebooks/cka": "Centred kernel alignment", "book/running": "Running"},
    works={"b2020": ("Bee et al.", "2020"), "c2021": ("Cee", "2021")},
    macros={"norm": (r"\lVert #1 \rVert", 1), "R": (r"\mathbb{R}", 0)},
)


def read(text, values=None, folder=ROOT):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    (cell,) = plain(notebook, values or {}, KNOWN, folder).cells
    return cell


@pytest.mark.parametrize(
    ("typed", "reads"),
    [
        ("{glue:text}`a-b:.2f` s", "0.33 s"),
        ("{glue:text}`a-word`", "holds"),
        ("{glue:text}`a-many:,`", "1,234"),
        ("by {eq}`eq-a`", "by (1)"),
        ("see {ref}`sec-a` and {ref}`here <sec-a>`", "see Where it is shown and here"),
        ("{ref}`fig-a`, {ref}`this <fig-a>`", "Fig. 2.1, this"),
        ("{doc}`cka`, {doc}`/book/running`", "“Centred kernel alignment”, “Running”"),
        ("{doc}`that chapter <cka>`", "that chapter"),
        (
            "{cite:t}`b2020` and {cite:p}`b2020, c2021`",
            "Bee et al. (2020) and (Bee et al., 2020; Cee, 2021)",
        ),
        (r"$\norm{x_{i}} \in \R^n$", r"$\lVert x_{i} \rVert \in \mathbb{R}^n$"),
        ("$$\nx = \\R\n$$ (eq-a)", "$$\nx = \\mathbb{R}\n\\tag{1}\n$$"),
        ("```{code-block} bash\nls\n```", "```bash\nls\n```"),
        (
            "```{exercise} Half\n:label: ex-a\n\nDo {eq}`eq-a`.\n```",
            "**Exercise 1 (Half)**\n\n\nDo (1).",
        ),
        ("```{solution-start} ex-a\n:class: dropdown\n```", "**Solution to Exercise 1 (Half)**"),
        (":::{admonition} Box\n:class: note\n\n| a |\n:::", "> **Box**\n>\n>\n> | a |"),
        ("(sec-a)=\n## Here", "## Here"),
        ("```python\nx = '{eq}`eq-a`'\n```", "```python\nx = '{eq}`eq-a`'\n```"),
    ],
)
def test_markup_becomes_what_a_reader_sees(typed, reads):
    values = {"a-b": 1 / 3, "a-word": "holds", "a-many": 1234}
    assert read(typed, values).source == reads


def test_hints_are_folded():
    made = read("```{hint}\n:class: dropdown\nTry {eq}`eq-a`.\n```").source
    assert made == "<details>\n<summary>Hint</summary>\n\nTry (1).\n\n</details>"


@pytest.mark.parametrize(
    "typed",
    [
        "{eq}`eq-b`",
        "{glue:text}`gone`",
        "{doc}`gone`",
        "{ref}`gone`",
        "{cite:p}`b2020, gone`",
        "{kbd}`x`",
        "```{note}\nx\n```",
    ],
)
def test_what_the_book_does_not_have_stays_as_typed(typed):
    assert read(typed).source == typed


def test_a_label_that_nothing_numbers_is_dropped():
    assert read("$$\nx\n$$ (eq-b)").source == "$$\nx\n$$"


def test_a_fence_that_is_never_closed_goes_to_the_end():
    assert read("```{code-block} bash\nls").source == "```bash\nls\n```"


def test_a_drawing_travels_within_the_notebook(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    cell = read("```{image} a.svg\n:alt: three dots\n```", folder=tmp_path)
    assert cell.source == "![three dots](attachment:a.svg)"
    assert cell.attachments == {"a.svg": {"image/svg+xml": "PHN2Zy8+"}}


def test_a_drawing_has_its_number_before_its_caption():
    source = read("```{figure} gone.svg\n:name: fig-a\n:alt: dots\n\nBy {eq}`eq-a`.\n```").source
    assert source == "![dots](gone.svg)\n\n**Fig. 2.1**\n\nBy (1)."


def drawn(name="", caption="By {eq}`eq-a`,\n{glue:text}`a:.1f`."):
    cell = nbformat.v4.new_code_cell("draw()", id=f"draws-{name}")
    cell.metadata.mystnb = {"figure": {"name": name, "caption": caption}}
    return cell


@pytest.mark.parametrize(
    ("name", "reads"),
    [("fig-a", "**Fig. 2.1**\nBy (1),\n0.5."), ("", "By (1),\n0.5.")],
)
def test_what_a_cell_draws_has_its_number_and_caption_below(name, reads):
    held = nbformat.v4.new_notebook(cells=[drawn(name)])
    made = plain(held, {"a": 0.5}, KNOWN, ROOT)
    nbformat.validate(made)
    assert [cell.cell_type for cell in made.cells] == ["code", "markdown"]
    assert made.cells[1].source == reads
    assert made.cells[1].id == f"draws-{name}-caption"


def test_figures_are_numbered_within_the_numbered_chapters(tmp_path):
    markdown = nbformat.v4.new_markdown_cell
    with_name = "```{figure} a.svg\n:name: fig-drawing\n\nWords.\n```"
    without = "```{figure} a.svg\n\nOnly words.\n```\n\n```{image} a.svg\n```"
    cells = [markdown(with_name), drawn("fig-first"), markdown(without), drawn("fig-last")]
    (tmp_path / "book").mkdir()
    for name, held in {"a": [], "b": cells, "c": [drawn("fig-loose")]}.items():
        nbformat.write(nbformat.v4.new_notebook(cells=held), tmp_path / f"{name}.ipynb")
    contents = """format: jb-book
root: intro
parts:
  - numbered: 1
    chapters: [{file: a}]
  - numbered: 1
    chapters: [{file: b.ipynb}]
  - chapters: [{file: c}]
"""
    (tmp_path / "_toc.yml").write_text(contents)
    assert names(tmp_path).labels == {
        "fig-drawing": "Fig. 2.1",
        "fig-first": "Fig. 2.2",
        "fig-last": "Fig. 2.4",
        "fig-loose": "the figure",
    }


@pytest.mark.parametrize("path", ["gone.svg", "../other/b.webp"])
def test_a_picture_that_cannot_travel_stays_a_link(path, tmp_path):
    cell = read(f"```{{image}} {path}\n:alt: dots\n```", folder=tmp_path)
    assert cell.source == f"![dots]({path})"
    assert "attachments" not in cell


@pytest.mark.parametrize("chapter", inventory.notebooks(ROOT), ids=lambda path: path.stem)
def test_no_markup_is_left_in_a_chapter(chapter):
    held = inventory.read_notebook(chapter)
    before = nbformat.writes(held)
    known = names(ROOT)
    made = plain(held, glued(held), known, chapter.parent)
    nbformat.validate(made)
    assert nbformat.writes(held) == before
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert not re.findall(r"\{[\w:]+\}`[^`]*`|^(?:`{3,}|:{3,})\{.*|^\([\w-]+\)=$", text, re.M)
    for macro in known.macros:
        assert not re.search(rf"\\{macro}(?![A-Za-z])", text)
    # but for the marks between which an answer stands
    code = [without_markers(cell.source) for cell in held.cells if cell.cell_type == "code"]
    assert [cell.source for cell in made.cells if cell.cell_type == "code"] == code


def test_a_folder_without_a_book_has_no_names(tmp_path):
    contents = "format: jb-book\nroot: intro\nparts:\n  - chapters:\n      - file: other\n"
    (tmp_path / "_toc.yml").write_text(contents)
    assert names(tmp_path) == Names({}, {}, {}, {})


def test_names_are_read_once_and_again_after_a_change(tiny_book, monkeypatch):
    root = tiny_book("seed")
    (root / "book").mkdir(exist_ok=True)
    page = root / "book" / "a.md"
    page.write_text("# Before\n")
    assert names(root).pages["book/a"] == "Before"
    monkeypatch.setattr(inventory, "read_notebook", lambda path: pytest.fail("read again"))
    assert names(root) is names(root)
    monkeypatch.undo()
    page.write_text("# After a change\n")
    os.utime(page, ns=(0, 0))
    assert names(root).pages["book/a"] == "After a change"


def test_works_are_cited_as_in_the_bibliography():
    works = names(ROOT).works
    assert works["peyre2019computational"] == ("Peyré and Cuturi", "2019")
    assert works["oord2018representation"] == ("van den Oord et al.", "2018")
