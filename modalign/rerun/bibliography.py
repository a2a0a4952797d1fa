"""A Sphinx extension: the bibliography has the labels by which the text cites, names and a year.

``sphinxcontrib-bibtex`` cites by author and year, but lists by number or by initials. With
``bibtex_default_style: names-and-year`` a reader of "(You et al., 2020)" finds that in the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle


def names(entry: Entry) -> str:
    """The authors as the text names them: one, two, or the first and the others.

    >>> from pybtex.database import Entry, Person
    >>> people = [Person("van den Oord, A."), Person("Li, Y.")]
    >>> names(Entry("article", persons={"author": people}))
    'van den Oord and Li'
    """
    last = [
        str(Text(" ").join([*each.rich_prelast_names, *each.rich_last_names]))
        for each in entry.persons["author"]
    ]
    return f"{last[0]} et al." if len(last) > 2 else " and ".join(last)


class Labels(BaseLabelStyle):
    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        for entry in sorted_entries:
            yield f"{names(entry)}, {entry.fields['year']}"


class Style(PlainStyle):
    default_label_style = Labels


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    register_plugin("pybtex.style.formatting", "names-and-year", Style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
