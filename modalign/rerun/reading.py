"""The plain text of a rendered page, for excerpts of search results and for previews."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import pathlib

Path = pathlib.Path
EXCERPTS = "_static/excerpts.js"  # read by book/_static/search.js
SILENT = {"script", "style", "svg", "nav", "button"}
VOID = {
    "area",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}
SHORT = 60  # letters; a first paragraph below is a remark


@dataclasses.dataclass(frozen=True)
class Page:
    """Title, text, first full paragraph and first raster picture (source and description)."""

    title: str
    text: str
    summary: str
    picture: tuple[str, str] | None


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, bool]] = []  # tags, and whether what is in them is read
        self.said: list[str] = []
        self.title: list[str] = []
        self.paragraphs: list[list[str]] = []
        self.picture: tuple[str, str] | None = None

    @property
    def reading(self) -> bool:
        return bool(self.open) and self.open[-1][1]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        kinds = set(given.get("class", "").split())
        if tag == "img" and self.reading and self.picture is None:
            source = given.get("src", "")
            if source.endswith((".png", ".jpg")):
                self.picture = (source, given.get("alt", ""))
        if tag in VOID:
            return
        inside = tag == "article" or self.reading
        block = tag == "div" and "math" in kinds
        self.open.append(
            (tag, inside and tag not in SILENT and "headerlink" not in kinds and not block)
        )
        if tag == "p" and self.reading:
            self.paragraphs.append([])
        if tag in ("p", "h1", "h2", "h3", "li", "td", "th", "pre", "div"):
            self.said.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in (names := [name for name, _ in self.open]):
            last = len(names) - 1 - names[::-1].index(tag)
            del self.open[last:]

    def handle_data(self, data: str) -> None:
        if not self.reading:
            return
        data = data.replace("\\(", "").replace("\\)", "")
        tags = [name for name, _ in self.open]
        self.said.append(data)
        if "h1" in tags:
            self.title.append(data)
        if "p" in tags:
            self.paragraphs[-1].append(data)


def read(text: str) -> Page:
    """The text of a page's article.

    >>> page = read("<nav>x</nav><article><h1>A<a class='headerlink'>#</a></h1><p>b <b>c</b></p>")
    >>> page.title, page.text
    ('A', 'A b c')
    """
    reader = _Reader()
    reader.feed(text)
    texts = [" ".join("".join(each).split()) for each in reader.paragraphs]
    summary = next((each for each in texts if len(each) >= SHORT), "")
    title = " ".join("".join(reader.title).split())
    return Page(title, " ".join("".join(reader.said).split()), summary, reader.picture)


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
