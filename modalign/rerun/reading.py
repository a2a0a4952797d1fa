"""The plain text of a rendered page, for excerpts of search results and for previews."""

from __future__ import annotations

import dataclasses
import json
import pathlib

Path = pathlib.Path
EXCERPTS = "_static/excerpts.js"  # read by book/_static/search.js
SILENT = "script, style, svg, nav, button, .headerlink, div.math"
BLOCKS = "p, h1, h2, h3, li, td, th, pre, div"
SHORT = 60  # letters; a first paragraph below is a remark


@dataclasses.dataclass(frozen=True)
class Page:
    """Title, text, first full paragraph and first raster picture (source and description)."""

    title: str
    text: str
    summary: str
    picture: tuple[str, str] | None


def read(text: str) -> Page:
    """The text of a page's article.

    >>> page = read("<nav>x</nav><article><h1>A<a class='headerlink'>#</a></h1><p>b <b>c</b></p>")
    >>> page.title, page.text
    ('A', 'A b c')
    """
    from bs4 import BeautifulSoup

    article = BeautifulSoup(text, "html.parser").select_one("article")
    if article is None:
        return Page("", "", "", None)
    for each in article.select(SILENT):
        each.decompose()
    paragraphs = (_words(each.get_text()) for each in article.select("p"))
    summary = next((each for each in paragraphs if len(each) >= SHORT), "")
    picture = article.select_one("img[src$='.png'], img[src$='.jpg']")
    shown = (str(picture["src"]), str(picture.get("alt", ""))) if picture else None
    title = _words("".join(each.get_text() for each in article.select("h1")))
    for each in article.select(BLOCKS):
        each.insert_before(" ")
    return Page(title, _words(article.get_text()), summary, shown)


def _words(text: str) -> str:
    """A text with single spaces, and without the marks of equations."""
    return " ".join(text.replace("\\(", "").replace("\\)", "").split())


def pages(folder: Path) -> dict[str, Path]:
    """The pages of a rendered book with an article of ours, by name without suffix."""
    found = sorted(
        path for part in ("book", "notebooks") for path in (folder / part).rglob("*.html")
    )
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def write_excerpts(folder: Path) -> None:
    """Put the text of all pages into one script: on disk a page may read no other page."""
    texts = {
        name: read(path.read_text(encoding="utf-8")).text for name, path in pages(folder).items()
    }
    data = json.dumps(texts, ensure_ascii=False, sort_keys=True)
    (folder / EXCERPTS).write_text(f"window.bookExcerpts = {data};\n", encoding="utf-8")
