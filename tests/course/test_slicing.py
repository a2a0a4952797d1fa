import ast

import pytest

from modalign.course.inside import slicing

CASES = {
    "what it uses": (["import math", "c = math.pi", "def f(): return c"], 3),
    "plots and prints": (["def f(): return 1", "print(f())", "plt.plot([f()])"], 1),
    "a helper below": (["def f(): return g()", "def g(): return 1", "f()"], 2),
    "a table that is filled": (["t = []", "t.append(1)", "def f(): return t"], 3),
    "an attribute": (["def f(): return f.c", "f.c = 2"], 2),
    "calls of modules": (["import torch", "torch.manual_seed(3)", "def f(): return torch.pi"], 2),
    "a name that is a parameter": (["x = train()", "def f(x): return x"], 1),
    "a name that is local": (["x = train()", "def f():\n    x = 1\n    return x"], 1),
    "a global": (["n = 0", "def f():\n    global n\n    n = 1"], 2),
    "of a default": (["x = 1", "def f(y=x): return y"], 2),
    "of a decorator": (["def d(f): return f", "@d\ndef f(): return 1"], 2),
    "of a base": (["class A: pass", "class f(A): pass"], 2),
    "in a branch": (["if True:\n    def f(): return 1"], 1),
    "all of a module": (["from math import *", "def f(): return pi"], 2),
    "counted up": (["a = 1", "a += 1", "def f(): return a"], 3),
    "defined twice": (["def f(): return 1", "def f(): return 2"], 2),
    "a comprehension": (["n = 3", "t = [i * n for i in range(2)]", "def f(): return t"], 3),
}


@pytest.mark.parametrize("name", CASES)
def test_statements_that_an_answer_rests_on(name):
    cells, count = CASES[name]
    found = slicing.sliced([("code", cell) for cell in cells], ["f"])
    assert len(found.statements) == count
    assert not found.unread


def test_what_cannot_be_read_is_named_and_the_rest_counts():
    found = slicing.sliced([("code", "a = (\n"), ("code", "def f(): return 1")], ["f"])
    assert found.unread == [(0, 1)]
    assert len(found.statements) == 1


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline\ndef f(): return 1",
        "!pip install x\ndef f(): return 1",
        "def f(): return 1\nf?",
        "%%time\ndef f(): return 1",
        "def f():\n    %time 1\n    return 1",
        "\ufeffdef f(): return 1",
        "def f():\r\n    return 1\r\n",
    ],
)
def test_what_only_a_notebook_understands(cell):
    found = slicing.sliced([("code", cell)], ["f"])
    assert len(found.statements) == 1, found


def test_a_text_that_looks_like_magic_stays():
    cell = '%time 1\ndef f():\n    return """\n%a\n"""'
    (found,) = slicing.sliced([("code", cell)], ["f"]).statements
    assert "%a" in ast.unparse(found.node)


def test_another_language_is_no_code():
    assert not slicing.sliced([("code", "%%bash\nf = 1")], ["f"]).statements


def test_an_answer_in_markdown_counts_and_prose_does_not():
    cells = [("markdown", "Words"), ("markdown", "def f():\n    return 1"), ("raw", "f")]
    assert len(slicing.sliced(cells, ["f"]).statements) == 1


def test_replaced_answers_stand_in_place_of_a_students():
    cells = [("code", "def g(): return 1"), ("code", "def f(): return g()")]
    found = slicing.sliced(cells, ["f"], {"g": "def g(): return 2"})
    names = {}
    for each in found.statements:
        exec(ast.unparse(each.node), names)
    assert names["f"]() == 2


def test_a_bomb_of_brackets_is_no_crash():
    found = slicing.sliced([("code", "x = " + "(" * 5000), ("code", "f = 1")], ["f"])
    assert len(found.statements) == 1
    assert found.unread
