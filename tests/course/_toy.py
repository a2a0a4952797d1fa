"""A book of one chapter, whose exercises are an assignment of three tasks."""

import json

from modalign.course.source import BEGIN, END

CENTRED = '''def centred(k):
    """A Gram matrix with rows and columns of mean zero."""
    ### BEGIN SOLUTION
    rows = k.mean(0, keepdim=True)
    return k - rows - rows.T + k.mean()
    ### END SOLUTION'''

ALIGNMENT = '''def alignment(k, l):
    """The cosine of two centred Gram matrices."""
    ### BEGIN SOLUTION
    if k.shape != l.shape:
        raise ValueError("l: expected the shape of k")
    k, l = centred(k), centred(l)
    return (k * l).sum() / (k.norm() * l.norm())
    ### END SOLUTION'''

CHECKS = """from modalign.course.checks import Sheet, close, refuses

sheet = Sheet("A toy", {"centred": 10, "alignment": 15, "why": (5, 2)})


def gram(draw, n, d):
    x = draw.normal(n, d) + 1
    return x @ x.T


@sheet.check("centred", 2, "means are removed")
def _(my, book, draw):
    k = gram(draw, draw.integer(4, 7), 3)
    close(my.centred(k), book.centred(k))


@sheet.check("centred", 1, "the input is left alone")
def _(my, book, draw):
    k = gram(draw, 5, 3)
    kept = my.put(k)
    close(my.centred(kept), book.centred(k))
    close(kept.value, k)


@sheet.check("alignment", 2, "two examples")
def _(my, book, draw):
    k, l = gram(draw, 6, 3), gram(draw, 6, 4)
    close(my.alignment(k, l), book.alignment(k, l))
    close(my.alignment(k, k), book.alignment(k, k))


@sheet.check("alignment", 1, "gradients reach both")
def _(my, book, draw):
    k, l = draw.normal(5, 5, grad=True), draw.normal(5, 5, grad=True)
    close(my.alignment.gradients(k, l), book.alignment.gradients(k, l))


@sheet.check("alignment", 1, "other sizes are refused")
def _(my, book, draw):
    k = gram(draw, 6, 3)
    close(my.alignment(k, k + k.T), book.alignment(k, k + k.T))
    refuses(my.alignment, k, gram(draw, 5, 3))
"""

NUMBERS = f"{BEGIN}\nshare = 1 / 3\nrest = 1 - share\n{END}"

NEAR = """

sheet.numbers("numbers", 1, {"share": "the share", "rest": "the rest"}, digits=2)
"""


def cell(kind, source, *tags):
    made = {"cell_type": kind, "id": f"c{abs(hash((source, tags)))}", "metadata": {"tags": [*tags]}}
    made["source"] = source
    return made if kind == "markdown" else {**made, "outputs": [], "execution_count": None}


def notebook(*cells):
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def exercise(task, text):
    fence = f"```{{exercise}} Of {task}\n:label: ex-toy-{task}\n\n{text}\n```\n"
    hint = "\n```{hint}\n:class: dropdown\nThink.\n```\n"
    start = f"\n```{{solution-start}} ex-toy-{task}\n:class: dropdown\n```"
    return cell("markdown", fence + hint + start, f"task-{task}")


LAST = "A remark of the solution.\n\n```{solution-end}\n```"


def cells():
    return [
        cell("markdown", "# A toy\n"),
        cell("code", "import torch\nfrom torch.testing import assert_close", "course-setup"),
        exercise("centred", "Centre it, as in {eq}`eq-toy`."),
        cell("code", CENTRED, "task-centred", "solution"),
        cell(
            "code",
            "k = torch.ones(3, 3)\nassert_close(centred(k), torch.zeros(3, 3))",
            "task-centred",
            "check",
        ),
        cell("markdown", LAST, "task-centred"),
        exercise("alignment", "Align them."),
        cell("code", ALIGNMENT, "task-alignment", "solution"),
        cell(
            "code",
            "k = torch.eye(3)\nassert_close(alignment(k, k), torch.tensor(1.0))",
            "task-alignment",
            "check",
        ),
        cell("markdown", LAST, "task-alignment"),
        exercise("why", "Why?"),
        cell("markdown", "Because of the mean.", "task-why", "words"),
        cell("markdown", "```{solution-end}\n```", "task-why"),
    ]


def numbers(folder):
    """The toy with a fourth task, in two numbers."""
    task = [
        exercise("numbers", "How much is a third, and what is the rest?"),
        cell("code", NUMBERS, "task-numbers", "solution"),
        cell("code", "assert share < rest < 1", "task-numbers", "check"),
        cell("markdown", LAST, "task-numbers"),
    ]
    named = CHECKS.replace('"why": (5, 2)', '"why": (5, 2), "numbers": 5')
    return book(folder, [*cells(), *task], named + NEAR)


def book(folder, held=None, checks=CHECKS):
    """A book in a folder; cells and checks may be others."""
    for name in ("notebooks", "course", "book"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n  - chapters:\n      - file: notebooks/toy\n"
    )
    (folder / "book" / "intro.md").write_text("# Toy\n")
    path = folder / "notebooks" / "toy.ipynb"
    path.write_text(notebook(*(cells() if held is None else held)), encoding="utf-8")
    (folder / "course" / "toy.py").write_text(checks)
    return folder
