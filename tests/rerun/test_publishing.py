"""The buttons, previews and sitemap of a published book, and the excerpts of one on disk."""

import json
import pathlib
import shutil

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from modalign.rerun import pages, publishing, reading

ROOT = pathlib.Path(__file__).parents[2]
REPOSITORY, ADDRESS = "https://github.com/someone/book", "https://someone.example/book"
LONG = "A first paragraph that says at some length what the page is about, so that it is quoted."


def write_book(root, **places):
    """A book of one page and one chapter under the configuration of ours."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = places.get("repository", "")
    config["html"]["baseurl"] = places.get("address", "")
    files = {
        "_config.yml": yaml.safe_dump(config),
        "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/good\n",
        "book/intro.md": f"# First\n\nShort.\n\n{LONG}\n\nThen a walrus & $x < 1$.\n",
        "book/references.bib": "",
        "notebooks/presets/good.yml": "smoke: {}\ndefault: {}\ngpu: {}\npaper: {}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    cell = nbformat.v4.new_markdown_cell(f"# Good\n\n{LONG} It has **more** than a page says.")
    coded = nbformat.v4.new_code_cell("seed = 0  # chance; 0 or more")
    coded.metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, coded]), root / "notebooks/good.ipynb")
    return root


def built(root):
    source = root / "_build" / "source"
    notebook = root / "notebooks" / "good.ipynb"
    pages.gather(root, {notebook: notebook}, source)
    assert pages.build(source, root) == 0
    return root / "_build" / "html"


def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def remote(page):
    links = [
        each["href"]
        for each in soup(page).select("header a[href^='http'], .article-header-buttons a")
    ]
    return {each for each in links if each.startswith("http")}


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    return built(write_book(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return built(write_book(root, repository=REPOSITORY, address=ADDRESS))


def test_a_book_without_a_place_has_no_button_preview_or_sitemap(at_home):
    for name in ("book/intro.html", "notebooks/good.html"):
        page = soup(at_home / name)
        assert not remote(at_home / name)
        assert not page.select("meta[property^='og:'], meta[name=description], link[rel=canonical]")
    assert not (at_home / "sitemap.xml").exists()


def test_buttons_point_into_the_repository(published):
    chapter = remote(published / "notebooks" / "good.html")
    path = "notebooks/good.ipynb"
    assert REPOSITORY in chapter
    assert f"https://colab.research.google.com/github/someone/book/blob/main/{path}" in chapter
    assert f"https://mybinder.org/v2/gh/someone/book/main?urlpath=lab/tree/{path}" in chapter
    assert any(each.startswith(f"{REPOSITORY}/issues/new") for each in chapter)
    page = remote(published / "book" / "intro.html")
    assert REPOSITORY in page
    assert not [each for each in page if "colab" in each or "mybinder" in each]


def test_pages_tell_what_they_are(published):
    page = soup(published / "book" / "intro.html")
    told = {
        each.get("name") or each.get("property"): each["content"]
        for each in page.select("head meta[content]")
    }
    assert told["description"] == told["og:description"] == LONG
    assert told["og:title"] == "First"
    assert told["og:url"] == f"{ADDRESS}/book/intro.html"
    picture = told["og:image"].removeprefix(f"{ADDRESS}/")
    assert (published / picture).exists()


def test_the_sitemap_lists_every_page(published):
    listed = {each.text for each in soup(published / "sitemap.xml").select("loc")}
    assert listed == {f"{ADDRESS}/book/intro.html", f"{ADDRESS}/notebooks/good.html"}


def test_the_text_of_all_pages_is_in_one_script(at_home):
    held = (at_home / reading.EXCERPTS).read_text(encoding="utf-8")
    texts = json.loads(held.removeprefix("window.bookExcerpts = ").rstrip(";\n"))
    assert set(texts) == {"book/intro", "notebooks/good"}
    assert texts["book/intro"] == f"First Short. {LONG} Then a walrus & x < 1."
    assert "It has more than a page says." in texts["notebooks/good"]


@pytest.mark.parametrize(
    ("host", "issues", "colab"),
    [("github.com", True, True), ("gitlab.com", True, False), ("forge.example", False, False)],
)
def test_a_host_has_the_buttons_that_work_there(host, issues, colab):
    given = {"repository": {"url": f"https://{host}/someone/book", "branch": "trunk"}}
    options = publishing.with_buttons(given)["sphinx"]["config"]["html_theme_options"]
    assert options["use_issues_button"] is issues
    assert ("colab_url" in options["launch_buttons"]) is colab
    assert options["repository_branch"] == "trunk"
    assert "sphinx" not in given


@pytest.mark.parametrize(
    "url", ["github.com/a/b", "http://github.com/a/b", "https://github.com/a", 3]
)
def test_another_repository_is_refused(url):
    with pytest.raises(ValueError, match=r"repository\.url: expected https://HOST/OWNER/NAME"):
        publishing.with_buttons({"repository": {"url": url}})


@pytest.mark.parametrize("url", ["book.example", "http://book.example", "https://book example"])
def test_another_address_is_refused(url):
    with pytest.raises(ValueError, match=r"html\.baseurl: expected https://"):
        publishing.address({"html": {"baseurl": url}})


def test_a_long_description_ends_with_a_word():
    page = reading.Page("A", "", "word " * 80, None)
    told = publishing.tags(page, f"{ADDRESS}/a.html", f"{ADDRESS}/")
    assert 'content="' + "word " * 38 + 'word…"' in told
    assert f'og:image" content="{ADDRESS}/_static/page.png"' in told
