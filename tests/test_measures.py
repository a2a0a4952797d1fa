"""The measures of form, on a small page."""

import importlib.util
import pathlib

from bs4 import BeautifulSoup

ROOT = pathlib.Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("measures", ROOT / "tools" / "measures.py")
measures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measures)

FOLDED = (
    '<div class="cell"><details class="hide above-input"><div class="cell_input">'
    "<pre>a\nb</pre></div></details>{output}</div>"
)
SHOWN = '<div class="cell"><div class="cell_input"><pre>c\nd</pre></div></div>'
PAGE = f"""<article><h1>One two</h1>{FOLDED.format(output="")}
{FOLDED.format(output='<div class="cell_output">x</div>')}<p>three</p>{SHOWN}<p>four five</p>
<img src="a.svg"/><img src="a.png"/><div class="exercise"></div><div class="exercise"></div>
<div class="hint dropdown"></div><div class="solution">{SHOWN}</div></article>"""


def test_what_a_page_has_is_counted():
    found = measures.measured(BeautifulSoup(PAGE, "lxml"))
    assert (found["empty"], found["folded"]) == (1, 50)
    assert (found["to_code"], found["words"]) == (3, 5)
    assert found["drawings"] == 1
    assert (found["exercises"], found["hinted"], found["solved"]) == (2, 1, 1)
