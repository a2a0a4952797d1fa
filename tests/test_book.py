"""The pages, rendered from the committed outputs, read as a reader would: from disk, offline."""

import doctest
import functools
import pathlib
import subprocess
import sys
import urllib.parse

import pypdf
import pytest
from bs4 import BeautifulSoup

from modalign.rerun.plain import names

ROOT = pathlib.Path(__file__).parents[1]
FAULTS = """
async () => {
  if (window.MathJax?.startup) await MathJax.startup.promise;
  const found = [], text = (node) => node.textContent.trim().slice(0, 60);
  for (const math of document.querySelectorAll("span.math, div.math"))
    if (!math.querySelector("mjx-container")) found.push("unrendered equation: " + text(math));
  const errors = 'mjx-merror, mjx-mtext[style*="red"], [data-mjx-error]';
  for (const bad of document.querySelectorAll(errors))
    found.push("equation with an error: " + text(bad));
  const prose = document.querySelector("main").cloneNode(true);
  prose.querySelectorAll("pre, code, script, mjx-container").forEach((node) => node.remove());
  for (const raw of ["$$", "\\\\(", "\\\\[", "\\\\begin{", "{cite", "{eq}", "{glue"])
    if (prose.textContent.includes(raw)) found.push("raw markup: " + raw);
  for (const image of document.querySelectorAll("img"))
    if (!image.naturalWidth) found.push("empty image: " + image.src);
  for (const image of document.querySelectorAll("figure img"))
    if (image.getBoundingClientRect().width < 0.5 * image.naturalWidth)
      found.push("too small to read: " + image.alt);
  if (document.documentElement.scrollWidth > window.innerWidth)
    found.push("page is " + document.documentElement.scrollWidth + " wide");
  const scrolls = (node) => getComputedStyle(node).overflowX !== "visible";
  for (const node of document.querySelectorAll("article *")) {
    if (node.getBoundingClientRect().right <= window.innerWidth + 1) continue;
    let box = node.parentElement;
    while (box.tagName !== "ARTICLE" && !scrolls(box)) box = box.parentElement;
    if (box.tagName === "ARTICLE") found.push("sticks out: " + node.tagName + " " + text(node));
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    output = tmp_path_factory.mktemp("book")
    command = [sys.executable, "tools/book.py", "render", "--committed", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return output / "_build" / "html"


@functools.cache
def parsed(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(page):
    return {element["id"] for element in parsed(page).find_all(id=True)}


def pages(html):
    return sorted(path for path in html.rglob("*.html") if "_static" not in path.parts)


def references(page):
    """Everything on a page that names another place, as (attribute, value)."""
    for element in parsed(page).find_all(True):
        for attribute in ("href", "src", "srcset", "data"):
            if value := element.get(attribute):
                yield element.name, value


def is_remote(address):
    return urllib.parse.urlsplit(address).scheme not in ("", "file")


@pytest.mark.parametrize("page", sorted(ROOT.glob("book/*.md")), ids=lambda path: path.name)
def test_examples_in_the_prose_are_true(page):
    prose = page.read_text(encoding="utf-8").replace("```", "")
    examples = doctest.DocTestParser().get_doctest(prose, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_every_page_of_the_contents_is_there(html):
    names = {page.relative_to(html).with_suffix("").as_posix() for page in pages(html)}
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    listed = [
        line.split()[-1] for line in contents.splitlines() if "file:" in line or "root:" in line
    ]
    assert {*listed, "index"} <= names
    assert "book/intro.html" in (html / "index.html").read_text()


def test_every_link_anchor_and_image_leads_somewhere(html):
    broken = []
    for page in pages(html):
        for _, address in references(page):
            if is_remote(address):
                continue
            place, fragment = urllib.parse.urldefrag(urllib.parse.unquote(address))
            target = (page.parent / place.split("?")[0]).resolve() if place else page
            if not target.exists():
                broken.append(f"{page.name}: {address}")
            elif fragment and target.suffix == ".html" and fragment not in anchors(target):
                broken.append(f"{page.name}: {address} (no such anchor)")
    assert not broken


def test_plain_copies_number_figures_as_the_pages_do(html):
    shown = {
        figure["id"]: number.get_text().strip()
        for page in pages(html)
        for figure in parsed(page).find_all("figure", id=True)
        if (number := figure.select_one(".caption-number"))
    }
    told = {k: v for k, v in names(ROOT).labels.items() if v.startswith("Fig. ")}
    assert told
    assert {name: shown.get(name.lower()) for name in told} == told


def test_no_page_loads_anything_from_the_network(html):
    loading = {"script", "link", "img", "iframe", "source", "object"}
    remote = {
        address
        for page in pages(html)
        for element, address in references(page)
        if element in loading and is_remote(address) and not address.startswith("data:")
    }
    assert not remote


def test_the_status_page_tells_what_stands_behind_the_outputs(html):
    status = parsed(html / "book" / "status.html").get_text()
    assert "Centred kernel alignment" in status
    assert "torchmetrics" in status
    assert "was built without make" not in status


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_look_right_offline(html, browser, scheme, width):
    found = []
    context = browser.new_context(
        offline=True, color_scheme=scheme, viewport={"width": width, "height": 900}
    )
    context.route(lambda address: not address.startswith(("file:", "data:")), lambda r: r.abort())
    tab = context.new_page()
    tab.on("console", lambda m: found.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: found.append(str(error)))
    # a page that is left aborts what it still loads, such as its icon in the tab
    tab.on(
        "requestfailed",
        lambda request: (
            None
            if request.failure == "net::ERR_ABORTED"
            else found.append(f"failed: {request.url}")
        ),
    )
    faults = {}
    for page in pages(html):
        if page == html / "index.html":
            continue
        tab.goto(page.as_uri(), wait_until="load")
        found += tab.evaluate(FAULTS)
        if tab.evaluate("document.documentElement.dataset.theme") != scheme:
            found.append(f"not {scheme}")
        if found:
            faults[page.relative_to(html).as_posix()] = found.copy()
            found.clear()
    context.close()
    assert not faults


def test_search_results_have_excerpts_on_disk(html, browser):
    context, found = browser.new_context(offline=True), []
    tab = context.new_page()
    tab.on("console", lambda m: found.append(m.text) if m.type in ("error", "warning") else None)
    tab.goto((html / "search.html").as_uri() + "?q=permutations")
    tab.wait_for_selector("#search-results li p.context", timeout=60_000)
    told = tab.locator("#search-results li").all_inner_texts()
    context.close()
    (codebook,) = [each for each in told if "Codebook" in each]
    assert "One may try all" in codebook
    assert not found


def test_the_front_door_leads_to_the_introduction(html, browser):
    tab = browser.new_page()
    tab.goto((html / "index.html").as_uri())
    tab.wait_for_url("**/book/intro.html")
    assert "Aligning modalities" in tab.title()
    tab.close()


def test_the_book_is_one_pdf(html, browser, tmp_path):
    target = tmp_path / "book.pdf"
    command = [sys.executable, "tools/pdf.py", "--html", str(html), "--output", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    book = pypdf.PdfReader(target)
    chapters = [parsed(html / f"{name}.html").h1 for name in ("notebooks/cka", "book/status")]
    contents = book.pages[1].extract_text()
    assert all(title.find(string=True) in contents for title in chapters)
    assert len(book.pages[1]["/Annots"]) > len(chapters)  # its lines are links
    places = [book.get_destination_page_number(each) for each in book.named_destinations.values()]
    assert len(places) > 100
    assert max(places) < len(book.pages)
    end = "\n".join(page.extract_text() for page in book.pages[-12:])
    assert "Hint to Exercise" in end
    assert "Solution to" in end
    derivation = "\n".join(page.extract_text() for page in book.pages[10:20])
    assert "Solution to" not in derivation
    assert not [mark for mark in ("\\frac", "\\(", "$$") if mark in derivation]
    assert sorted(tmp_path.iterdir()) == [target]
