"""Measures of form, a row for each chapter: folding, code, drawings, exercises, and what is cut.

    python tools/measures.py         of the pages in _build/html/, as a table

A block is cut if a window of 1,280 pixels hides a part of it to the right. The browser is the one
that the tests use.
"""

from __future__ import annotations

import argparse
import pathlib
import re

from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

from modalign.rerun.pages import browser

Path = pathlib.Path
CUT = """() => [...document.querySelectorAll("article .highlight pre, article .output")]
    .filter(each => each.scrollWidth > each.clientWidth + 1).length"""
COLUMNS = {
    "words": "words",
    "to_code": "words to the first code",
    "empty": "bars that show nothing",
    "folded": "% of code folded",
    "drawings": "drawings",
    "exercises": "exercises",
    "hinted": "with hint",
    "solved": "with code that ran",
    "cut": "blocks cut",
}


def measured(article: BeautifulSoup) -> dict[str, int]:
    """What the text of a page tells, without a browser."""
    counts = dict.fromkeys(COLUMNS, 0)
    cells = article.select(".cell")
    folded = [cell for cell in cells if cell.select_one("details.hide.above-input")]
    lines = {
        id(cell): len(cell.select_one("pre").get_text().splitlines())
        for cell in cells
        if cell.select_one("pre")
    }
    counts["empty"] = sum(not cell.select_one(".cell_output") for cell in folded)
    counts["folded"] = round(
        100 * sum(lines[id(cell)] for cell in folded) / max(1, sum(lines.values()))
    )
    counts["drawings"] = len(article.select("img[src$='.svg']"))
    counts["exercises"] = len(article.select(".exercise"))
    counts["hinted"] = len(article.select(".hint.dropdown"))
    counts["solved"] = sum(bool(each.select_one(".cell")) for each in article.select(".solution"))
    seen, words = False, []
    for each in article.find_all(string=True):
        holder = each.parent
        if holder.find_parent(class_="cell_input") and not holder.find_parent("details"):
            if not seen:
                counts["to_code"], seen = len(words), True
        elif not holder.find_parent(class_="cell") and holder.name not in ("script", "style"):
            words += re.findall(r"\w+", each)
    counts["words"] = len(words)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures of form, a row for each chapter.")
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--html", type=Path, default=root / "_build" / "html")
    html = parser.parse_args().html.resolve()
    print("| chapter | " + " | ".join(COLUMNS.values()) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        tab = opened.new_page(viewport={"width": 1280, "height": 900})
        for page in sorted((html / "notebooks").glob("*.html")):
            text = BeautifulSoup(page.read_text(encoding="utf-8"), "lxml")
            counts = measured(text.select_one("article"))
            tab.goto(page.as_uri(), wait_until="load")
            counts["cut"] = tab.evaluate(CUT)
            print(f"| {page.stem} | " + " | ".join(str(counts[name]) for name in COLUMNS) + " |")
        opened.close()


if __name__ == "__main__":
    main()
