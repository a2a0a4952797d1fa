"""The picture of the book in README.md: the top of a rendered chapter, in a browser's window.

    python tools/picture.py          of the pages in _build/html/, into book/_static/page.png

Published pages show it where they have no picture of their own. The browser is the one that
the tests use.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from playwright.sync_api import Error, sync_playwright

from modalign.rerun.pages import BROWSERS, browser

Path = pathlib.Path
CHAPTER, FIGURE = "notebooks/gradients.html", "figure img"
SIZE = {"width": 1200, "height": 900}
MOST = 200_000  # bytes


def take(page: Path, target: Path) -> None:
    """Save what a window shows of a page, from the end of its opening on.

    Raises:
        RuntimeError: where no Chromium is found, it fails, or the picture is too large.
    """
    path = browser()
    try:
        with sync_playwright() as driver:
            opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            tab = opened.new_page(viewport=SIZE, color_scheme="light")
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate("() => window.MathJax?.startup?.promise")
            bottom = tab.locator(FIGURE).first.evaluate(
                "each => window.scrollY + each.getBoundingClientRect().bottom"
            )
            tab.evaluate("y => window.scrollTo(0, y)", max(0, bottom - SIZE["height"] + 40))
            tab.wait_for_timeout(500)  # the table of contents follows the text
            picture = tab.screenshot()
            opened.close()
    except Error as error:
        raise RuntimeError(f"the browser ({path or f'none of {BROWSERS}'}): {error}") from None
    if len(picture) > MOST:
        raise RuntimeError(f"{target}: expected at most {MOST} bytes, got {len(picture)}")
    target.write_bytes(picture)


def main() -> int:
    parser = argparse.ArgumentParser(description="The picture of the book in README.md.")
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--html", type=Path, default=root / "_build" / "html")
    parser.add_argument("--output", type=Path, default=root / "book" / "_static" / "page.png")
    given = parser.parse_args()
    try:
        take(given.html.resolve() / CHAPTER, given.output.resolve())
    except (OSError, RuntimeError) as error:
        print(f"picture: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
