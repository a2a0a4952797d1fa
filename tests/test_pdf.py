"""The book as one file: the joining of pages, on small pages of the same form."""

import importlib.util
import pathlib

import pytest
from bs4 import BeautifulSoup

ROOT = pathlib.Path(__file__).parents[1]
pdf_spec = importlib.util.spec_from_file_location("pdf", ROOT / "tools" / "pdf.py")
pdf = importlib.util.module_from_spec(pdf_spec)
pdf_spec.loader.exec_module(pdf)

HEAD = '<head><script src="{up}_static/mathjax/tex-chtml.js"></script></head>'
EXERCISE = """
<div class="exercise admonition" id="ex"><p class="admonition-title">Exercise 1.1</p></div>
<div class="dropdown admonition hint"><p class="admonition-title">Hint</p><p>look left</p></div>
<div class="solution dropdown admonition"><p class="admonition-title">Solution to
<a href="#ex">Exercise 1.1</a></p><p>it was left</p></div>
"""


@pytest.fixture
def html(tmp_path):
    """Two pages that link to each other, the second with an exercise."""

    def write(first="", second=EXERCISE):
        for name, up, text in (
            ("book/intro", "../", f'<a href="../notebooks/cka.html#ex">there</a>{first}'),
            ("notebooks/cka", "../", f'<a href="../book/intro.html">back</a>{second}'),
        ):
            page = tmp_path / f"{name}.html"
            page.parent.mkdir(exist_ok=True)
            title = f'<h1>{name}<a class="headerlink" href="#x">#</a></h1>'
            page.write_text(
                f"<html>{HEAD.format(up=up)}<body><article>{title}{text}</article></body></html>"
            )
        return tmp_path

    return write


def joined(folder):
    return BeautifulSoup(pdf.join(folder, ["book/intro", "notebooks/cka"]), "lxml")


def test_links_between_pages_lead_within_the_file(html):
    found = joined(html())
    targets = [each["href"] for each in found.select("article a")]
    assert targets[:2] == ["#notebooks/cka--ex", "#book/intro"]
    assert found.find(id="notebooks/cka--ex").get_text(strip=True) == "Exercise 1.1"


def test_hints_and_solutions_stand_at_the_end(html):
    found = joined(html())
    (page,) = found.select("article[id='notebooks/cka']")
    assert "left" not in page.get_text()
    answers = found.find(id=pdf.APPENDIX)
    assert "look left" in answers.get_text()
    assert "it was left" in answers.get_text()
    assert "Hint to Exercise 1.1" in answers.get_text()
    assert answers.find_previous("article") == page


def test_what_paper_cannot_show_is_left_out(html):
    found = joined(html('<audio src="x.wav"></audio><script>1</script>'))
    assert not found.select("main audio, main script, .headerlink")


def test_a_page_outside_the_book_is_not_linked(html):
    found = joined(html('<a href="../genindex.html">index</a> <a href="https://a.org">a</a>'))
    by_text = {each.get_text(): each.get("href") for each in found.select("article a")}
    assert by_text["index"] is None
    assert by_text["a"] == "https://a.org"


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ('<a href="../notebooks/cka.html#gone">x</a>', "#notebooks/cka--gone"),
        ('<a href="#gone">x</a>', "#book/intro--gone"),
    ],
)
def test_a_link_to_nowhere_is_refused(html, first, says):
    with pytest.raises(ValueError, match=f"links: expected places of the book, got {says}"):
        joined(html(first))


def test_pages_without_text_or_equations_are_refused(html):
    folder = html()
    (folder / "notebooks" / "cka.html").write_text("<html><body></body></html>")
    with pytest.raises(ValueError, match=r"notebooks/cka\.html: expected a page with an article"):
        joined(folder)
    folder = html()
    page = folder / "book" / "intro.html"
    page.write_text(page.read_text().replace("mathjax", "other"))
    with pytest.raises(ValueError, match=r"intro\.html: expected a page that loads MathJax"):
        joined(folder)


def test_the_order_is_that_of_the_contents():
    names = pdf.page_names(ROOT)
    assert names[:3] == ["book/intro", "notebooks/data", "notebooks/cka"]
    assert len(set(names)) == len(names)
