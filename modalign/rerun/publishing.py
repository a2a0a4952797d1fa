"""The parts that only a published book has: buttons, previews and a sitemap.

``_config.yml`` says where it is: ``repository.url`` is its repository, ``html.baseurl`` the address
of its pages. If one is empty, the parts that need it are left out.
"""

from __future__ import annotations

import copy
import pathlib
import re
import urllib.parse
from html import escape
from typing import Any

from modalign.rerun import reading

Path = pathlib.Path
Config = dict[str, Any]
BINDER = "https://mybinder.org"
COLAB = "https://colab.research.google.com"
SUMMARY = 200  # letters of a description
COVER = "_static/page.png"


def repository(config: Config) -> str:
    """The address of the repository, empty if there is none.

    Raises:
        ValueError: for anything else than https://HOST/OWNER/NAME.

    >>> repository({"repository": {"url": "https://github.com/someone/book"}})
    'https://github.com/someone/book'
    """
    url = str((config.get("repository") or {}).get("url") or "")
    if url and not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", url):
        raise ValueError(
            f"_config.yml: repository.url: expected https://HOST/OWNER/NAME or nothing, got {url!r}"
        )
    return url


def address(config: Config) -> str:
    """The address of the pages, empty if there is none, else with a slash at its end.

    Raises:
        ValueError: for anything else than an address that begins with https://.

    >>> address({"html": {"baseurl": "https://someone.github.io/book"}})
    'https://someone.github.io/book/'
    """
    url = str((config.get("html") or {}).get("baseurl") or "")
    if url and not re.fullmatch(r"https://[\w.-]+(/[\w./-]*)?", url):
        raise ValueError(f"_config.yml: html.baseurl: expected https://... or nothing, got {url!r}")
    return url and url.rstrip("/") + "/"


def with_buttons(config: Config) -> Config:
    """A configuration whose pages have the buttons that their repository allows.

    Issues can be opened on GitHub and GitLab, and Colab reads GitHub only.
    """
    url = repository(config)
    if not url:
        return config
    changed = copy.deepcopy(config)
    host = urllib.parse.urlsplit(url).netloc
    launch = {"binderhub_url": BINDER, "notebook_interface": "jupyterlab"}
    if host == "github.com":
        launch["colab_url"] = COLAB
    sphinx = changed.setdefault("sphinx", {}).setdefault("config", {})
    sphinx.setdefault("html_theme_options", {}).update(
        repository_url=url,
        repository_branch=changed["repository"].get("branch", "main"),
        use_repository_button=True,
        use_issues_button=host in ("github.com", "gitlab.com"),
        launch_buttons=launch,
    )
    return changed


def _shortened(text: str) -> str:
    if len(text) <= SUMMARY:
        return text
    return text[: SUMMARY - 1].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def tags(page: reading.Page, url: str, base: str) -> str:
    """The description and the preview of a page, for its head."""
    source, described = page.picture or (None, "A page of the book")
    picture = urllib.parse.urljoin(url, source) if source else base + COVER
    summary = _shortened(page.summary)
    given = [
        ("name", "description", summary),
        ("property", "og:type", "article"),
        ("property", "og:title", page.title),
        ("property", "og:description", summary),
        ("property", "og:url", url),
        ("property", "og:image", picture),
        ("property", "og:image:alt", described),
        ("name", "twitter:card", "summary_large_image"),
    ]
    lines = (f'<meta {kind}="{name}" content="{escape(value)}" />' for kind, name, value in given)
    return "\n".join(lines) + "\n"


def announce(folder: Path, config: Config) -> None:
    """Give rendered pages descriptions and previews, and write their sitemap.

    Nothing is done if the book has no address.
    """
    base = address(config)
    if not base:
        return
    urls = []
    for name, path in reading.pages(folder).items():
        text = path.read_text(encoding="utf-8")
        urls.append(f"{base}{name}.html")
        head, end, rest = text.partition("</head>")
        path.write_text(head + tags(reading.read(text), urls[-1], base) + end + rest, "utf-8")
    lines = "".join(f"  <url><loc>{escape(url)}</loc></url>\n" for url in urls)
    (folder / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{lines}</urlset>\n',
        encoding="utf-8",
    )
