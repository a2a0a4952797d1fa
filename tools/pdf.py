"""The book as one PDF: its pages joined in the order of the contents, and printed by a browser.

    python tools/pdf.py              of the pages in _build/html/, into _build/modalign.pdf

Hints and solutions stand at the end, where they give nothing away; code that a page folds away is
left out, and so is sound. Sphinx's own single page is not used: its builder fails on the exercises.
The browser is the one that the tests use.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import urllib.parse

from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Error, sync_playwright

from modalign.rerun.inventory import page_names
from modalign.rerun.pages import BROWSERS, browser

Path = pathlib.Path
WAIT = 300_000  # milliseconds; all equations of the book are set at once
FOOTER = (
    '<div style="font-size: 8px; width: 100%; text-align: center">'
    '<span class="pageNumber"></span></div>'
)
APPENDIX = "hints-and-solutions"
GONE = ".headerlink, script, audio, video, details.hide.above-input"
STYLE = """
@page { size: A4; margin: 18mm 16mm 20mm; }
html { font-size: 10.5px; }
body { background: #fff; }
.bd-article { max-width: none; padding: 0; }
.book-page { break-before: page; }
.cover { text-align: center; padding-top: 35vh; break-after: page; }
.contents ul { list-style: none; }
details > summary { display: none !important; }
figure, .cell_output img, table tr, .admonition-title { break-inside: avoid; }
h1, h2, h3, h4 { break-after: avoid; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; }
.toggle-button, button { display: none !important; }
a { text-decoration: none; }
"""


def anchor(page: str, name: str = "") -> str:
    """Where a place of a page stands in the one document."""
    return f"{page}--{name}" if name else page


def join(html: Path, names: list[str]) -> str:
    """All pages as one document, whose links between pages lead within it.

    Raises:
        ValueError: where a page has no article, or links to a place that no page has.
    """
    document = BeautifulSoup((html / f"{names[0]}.html").read_text(encoding="utf-8"), "lxml")
    articles = {name: _article(html, name, names) for name in names}
    answers = document.new_tag("section", id=APPENDIX)
    answers["class"] = "book-page"
    heading = document.new_tag("h1")
    heading.string = "Hints and solutions"
    answers.append(heading)
    for article in articles.values():
        _move_answers(document, article, answers)
    body = document.new_tag("body")
    body.append(_cover(document, articles))
    main = document.new_tag("main")
    main["class"] = "bd-article"
    for article in (*articles.values(), answers):
        main.append(article)
    body.append(main)
    document.body.replace_with(body)
    _keep_head(document, html, names[0])
    _require_targets(document)
    return str(document)


def _article(html: Path, name: str, names: list[str]) -> Tag:
    """A page's text, its places and links named for the joint document."""
    page = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "lxml")
    article = page.select_one("article")
    if article is None:
        raise ValueError(f"{name}.html: expected a page with an article")
    for each in article.select(GONE):
        each.decompose()
    for each in article.select("noscript"):
        each.unwrap()
    for each in article.select("[id]"):
        each["id"] = anchor(name, each["id"])
    for each in article.select("[href]"):
        _relink(each, name, names)
    for each in article.select("img[src], source[src]"):
        if not each["src"].startswith("data:"):
            each["src"] = (html / name).parent.joinpath(each["src"]).resolve().as_uri()
    for each in article.select("details"):
        each["open"] = ""
    article["id"] = anchor(name)
    article["class"] = "book-page"
    return article


def _relink(link: Tag, name: str, names: list[str]) -> None:
    """Lead a link into the joint document; what has no page there becomes plain text."""
    target = urllib.parse.urlparse(link["href"])
    if target.scheme:
        return
    path, place = urllib.parse.unquote(target.path), urllib.parse.unquote(target.fragment)
    if not path:
        link["href"] = "#" + anchor(name, place)
        return
    absolute = "/" + name
    found = urllib.parse.urljoin(absolute, path).lstrip("/").removesuffix(".html")
    if found in names:
        link["href"] = "#" + anchor(found, place)
    else:
        del link["href"]


def _move_answers(document: BeautifulSoup, article: Tag, answers: Tag) -> None:
    """Take hints and solutions out of a page, and leave a link to them behind each exercise."""
    moved = article.select(".admonition.hint.dropdown, .admonition.solution")
    if not moved:
        return
    title = document.new_tag("h2", id=anchor(APPENDIX, article["id"]))
    title.string = article.select_one("h1").get_text()
    answers.append(title)
    for number, answer in enumerate(moved):
        place = anchor(APPENDIX, f"{article['id']}-{number}")
        word = "solution" if "solution" in answer["class"] else "hint"
        left = document.new_tag("p")
        link = document.new_tag("a", href=f"#{place}")
        link.string = f"The {word} is at the end of the book."
        left.append(link)
        answer.replace_with(left)
        if word == "hint":
            exercise = left.find_previous(class_="exercise")
            answer.select_one(".admonition-title").string = "Hint to " + _title(exercise)
        holder = document.new_tag("div", id=place)
        holder.append(answer)
        answers.append(holder)


def _title(exercise: Tag | None) -> str:
    if exercise is None:
        raise ValueError("expected an exercise before its hint")
    return exercise.select_one(".admonition-title").get_text().strip()


def _cover(document: BeautifulSoup, articles: dict[str, Tag]) -> Tag:
    cover = BeautifulSoup(
        '<div><div class="cover"><h1>modalign</h1><p>Aligning video, image, audio and text: '
        'four papers, reproduced</p></div><div class="contents"><h1>Contents</h1><ul></ul></div>'
        "</div>",
        "lxml",
    ).div
    titles = {name: article.select_one("h1").get_text() for name, article in articles.items()}
    for place, title in {**titles, APPENDIX: "Hints and solutions"}.items():
        line, link = document.new_tag("li"), document.new_tag("a", href=f"#{place}")
        link.string = title
        line.append(link)
        cover.ul.append(line)
    return cover


def _keep_head(document: BeautifulSoup, html: Path, name: str) -> None:
    """Of the head, only styles and the equations stay, with paths that hold anywhere."""
    head, base = document.head, (html / name).parent
    for each in head.select("script"):
        setting = "MathJax" in (each.string or "")
        if not setting and "mathjax" not in each.get("src", ""):
            each.decompose()
    if not head.select("script[src]"):  # a first page without an equation does not load it
        raise ValueError(f"{name}.html: expected a page that loads MathJax")
    for each in head.select("link"):
        if "stylesheet" not in each.get("rel", []):
            each.decompose()
    for attribute in ("src", "href"):
        for each in head.select(f"[{attribute}]"):
            path = each[attribute].split("?")[0]
            each[attribute] = (base / path).resolve().as_uri()
    style = document.new_tag("style")
    style.string = STYLE
    head.append(style)
    document.html["data-theme"] = "light"


def _require_targets(document: BeautifulSoup) -> None:
    places = {each["id"] for each in document.select("[id]")}
    lost = {each["href"] for each in document.select("a[href^='#']")}
    lost = {each for each in lost if urllib.parse.unquote(each[1:]) not in places}
    if lost:
        raise ValueError(f"links: expected places of the book, got {', '.join(sorted(lost)[:5])}")


def printed(document: Path, target: Path) -> None:
    """Print a page, when its equations are set and its pictures are there.

    Raises:
        RuntimeError: where no Chromium is found, or it fails; says why.
    """
    path = browser()
    try:
        with sync_playwright() as driver:
            opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = opened.new_page()
            page.emulate_media(media="print", color_scheme="light")
            page.goto(document.as_uri(), wait_until="load", timeout=WAIT)
            page.evaluate("() => MathJax.startup.promise")
            page.pdf(
                path=target,
                format="A4",
                print_background=True,
                outline=True,
                tagged=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
                prefer_css_page_size=True,
            )
            opened.close()
    except Error as error:
        known = "; ".join(BROWSERS)
        raise RuntimeError(f"the browser ({path or f'none of {known}'}): {error}") from None


def make(root: Path, html: Path, target: Path) -> None:
    """Print the pages in ``html`` into ``target``, whole or not at all."""
    joined, half = html / "book.html", target.with_suffix(".half")
    joined.write_text(join(html, page_names(root)), encoding="utf-8")
    try:
        printed(joined, half)
        half.replace(target)
    finally:
        joined.unlink()
        half.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="The book as one PDF, of its rendered pages.")
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--html", type=Path, default=root / "_build" / "html")
    parser.add_argument("--output", type=Path, default=root / "_build" / "modalign.pdf")
    given = parser.parse_args()
    try:
        make(root, given.html.resolve(), given.output.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        print(f"pdf: {error}", file=sys.stderr)
        return 1
    print(f"Open {given.output.resolve().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
