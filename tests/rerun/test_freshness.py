"""When a chapter is stale: on books written here, and on this one."""

import ast
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import nbformat
import pytest

from modalign._parsing import parse
from modalign.rerun import execution, freshness, inventory

ROOT = pathlib.Path(__file__).parents[2]
CHAPTERS = inventory.notebooks(ROOT)

specification = importlib.util.spec_from_file_location("book_tool", ROOT / "tools" / "book.py")
tool = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tool)

FILES = {
    "modalign/__init__.py": "",
    "modalign/one.py": "from modalign import _deep\n",
    "modalign/two.py": "def late():\n    import modalign.group.inner\n",
    "modalign/_deep.py": "",
    "modalign/typed.py": "import typing\nif typing.TYPE_CHECKING:\n    import modalign._deep\n",
    "modalign/broken.py": "def :\n",
    "modalign/unused.py": "",
    "modalign/records.py": "def load(name): ...\ndef listing(names):\n    load(names)\n",
    "modalign/group/__init__.py": "from .near import value\n",
    "modalign/group/near.py": "value = 1\n",
    "modalign/group/inner.py": "from . import beside\nfrom .. import _deep\n",
    "modalign/group/beside.py": "",
    "modalign/group/starred.py": "from modalign.group.below import *\n",
    "modalign/group/below/__init__.py": "__all__ = ['x']\n",
    "modalign/group/below/x.py": "",
    "modalign/loads.py": "from modalign.records import load as get\nget('b/x')\n",
    "modalign/loads_any.py": "from modalign import records\ndef get(of):\n    records.load(of)\n",
    "helper.py": "import modalign.one\n",
    "constraints.txt": "torch==2.4.0\n",
    "notebooks/presets/a.yml": "smoke: {}\n",
    "notebooks/presets/b.yml": "smoke: {}\n",
    "results/README.md": "# Tables\n",
    **{
        f"results/{name}.{kind}": "1\n"
        for name in ("a/x", "a/y", "b/x")
        for kind in ("csv", "json")
    },
}
ALL = {name.removesuffix(".py") for name in FILES if name.startswith("modalign/")}


def write_notebook(path, *sources, **metadata):
    cells = [nbformat.v4.new_markdown_cell("# A chapter\n\n    import modalign.unused")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def write_book(root, **chapters):
    contents = "".join(f"- file: notebooks/{name}\n" for name in chapters)
    files = {**FILES, "_toc.yml": f"format: jb-book\nroot: intro\nchapters:\n{contents}"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, sources in chapters.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", *sources)
    return root


def stamp(root):
    """Leave what `make outputs` leaves, without executing."""
    for path in inventory.notebooks(root):
        held = inventory.read_notebook(path)
        held.metadata["modalign"] = {
            "key": inventory.chapter_key(root, path),
            "commit": None,
            **tool.commit_stamp(root, path),
        }
        target = tool.executed_path(root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(held, target)


def stale(root):
    return {path.stem for path in inventory.notebooks(root) if not tool.is_fresh(root, path)}


def files_of(tmp_path, *sources):
    root = write_book(tmp_path, a=sources)
    return {
        name.removesuffix(".py")
        for name in inventory.chapter_files(root, root / "notebooks" / "a.ipynb")
        if name not in ("constraints.txt", "notebooks/presets/a.yml")
    }


def modules_of(tmp_path, *sources):
    found = files_of(tmp_path, *sources)
    assert "modalign/__init__" in found
    return {name for name in found if not name.startswith("results/")} - {"modalign/__init__"}


GROUP = {"modalign/group/__init__", "modalign/group/near"}
INNER = GROUP | {"modalign/group/inner", "modalign/group/beside", "modalign/_deep"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import modalign", set()),
        ("import modalign as m\nm._deep.f()", {"modalign/_deep"}),
        ("import modalign._deep", {"modalign/_deep"}),
        ("from modalign import _deep as d, missing", {"modalign/_deep"}),
        ("import modalign.one as o", {"modalign/one", "modalign/_deep"}),
        ("import modalign.typed", {"modalign/typed", "modalign/_deep"}),
        ("import modalign.two", {"modalign/two"} | INNER),
        ("def f():\n    from modalign.group.inner import g", INNER),
        ("from modalign.group import value", GROUP),
        ("from modalign import group\ngroup.beside.f()", GROUP | {"modalign/group/beside"}),
        (
            "import modalign.group.starred",
            GROUP | {f"modalign/group/{name}" for name in ("starred", "below/__init__", "below/x")},
        ),
        ("import importlib\nimportlib.import_module('modalign._deep')", {"modalign/_deep"}),
        ("import subprocess, modalign\nrun('-m', 'modalign._deep')", {"modalign/_deep"}),
        ("import helper", {"helper", "modalign/one", "modalign/_deep"}),
        ("__import__('helper')", {"helper", "modalign/one", "modalign/_deep"}),
        ("import torch, numpy.random\nimport modalign._deep", {"modalign/_deep"}),
        ("%matplotlib inline\nimport modalign._deep", {"modalign/_deep"}),
        ("%time import modalign._deep", {"modalign/_deep"}),
        ("%%time\n\nimport modalign._deep", {"modalign/_deep"}),
        ("%%timeit import modalign._deep\n1", {"modalign/_deep"}),
        ("%%capture out\n%time import modalign._deep\n!ls", {"modalign/_deep"}),
        ("%run helper.py --seed 3", {"helper", "modalign/one", "modalign/_deep"}),
        ("import modalign\nmodalign?\n!ls -l\n%pip list", set()),
        ("%%html\n<b>no code</b>\n", None),
    ],
)
def test_the_modules_of_a_chapter_are_those_that_it_may_import(tmp_path, source, expected):
    if expected is None:
        assert not {name for name in files_of(tmp_path, source) if name.startswith("modalign/")}
    else:
        assert modules_of(tmp_path, source) == expected


def test_a_cell_uses_what_one_above_it_imported(tmp_path):
    found = modules_of(tmp_path, "%time import modalign as m", "m._deep.f()")
    assert found == {"modalign/_deep"}


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nimportlib.import_module(f'modalign.{name}')",
        "from importlib import import_module as get\nget(name)",
        "import importlib\nlist(map(importlib.import_module, names))",
        "import importlib\nimportlib.import_module('.one', 'modalign')",
        "__import__('modalign', fromlist=['one'])",
        "import runpy\nrunpy.run_module('modalign')",
        "!python -m modalign list",
        "files = !modalign list",
        "%run -m modalign.one",
        "%%bash\npython -m modalign.one",
        "import modalign.broken",
        "def :",
        "a = '\0'",
    ],
)
def test_where_only_a_run_can_tell_the_whole_package_counts(tmp_path, source):
    assert files_of(tmp_path, source) >= ALL


A, B = ({f"results/{name}.{kind}" for kind in ("csv", "json")} for name in ("a/x", "b/x"))
OWN = A | {"results/a/y.csv", "results/a/y.json"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("records.load('a/x')", A),
        ("records.load(name='a/x')", A),
        ("records.listing(['a/x', 'b/x'])", A | B),
        ("for name in ['a/x', 'b/x']:\n    print(records.listing([name]))", OWN | B),
        ("records.load(f'a/{name}')", OWN),
        ("records.listing(f'b/{name}' for name in names)", B),
        ("records.load(f'b/{name}y')", OWN),  # there is none, so it is unknown which
        ("records.load(f'{name}/x')", OWN),
        ("records.load('a/x' if seed else 'b/x')", A | B),
        ("records.load('b/x')\nrecords.load(name)", OWN | B),
        ("records.load('b/x')\nlist(map(records.load, names))", OWN | B),
        ("pandas.read_csv('results/b/x.csv')", B),
        ("pandas.read_csv(records.results_folder() / name)\nrecords.load('b/x')", OWN | B),
        ("%time table = records.load('b/x')", B),
        ("import modalign.loads", B),
        ("import modalign.loads\nrecords.load('a/x')", A | B),
        ("import modalign.loads_any\nrecords.load('b/x')", OWN | B),
        ("print('no table')", OWN),
    ],
)
def test_the_tables_of_a_chapter_are_those_named_else_its_folder(tmp_path, source, expected):
    found = files_of(tmp_path, "from modalign import records", source)
    assert {name for name in found if name.startswith("results/")} == expected


def test_a_part_of_a_study_has_the_tables_of_the_study_unless_it_has_its_own(tmp_path):
    assert freshness.tables_folder(tmp_path, "a") == tmp_path / "results" / "a"
    assert freshness.tables_folder(tmp_path, "a-part") == tmp_path / "results" / "a"
    (tmp_path / "results" / "a-part").mkdir(parents=True)
    assert freshness.tables_folder(tmp_path, "a-part") == tmp_path / "results" / "a-part"


BOOK = {
    "a": ["import modalign.one\nfrom modalign import records", "records.load('a/x')"],
    "b": ["import modalign.two\nfrom modalign import records", "records.load('b/x')"],
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("modalign/one.py", {"a"}),
        ("modalign/two.py", {"b"}),
        ("modalign/group/near.py", {"b"}),
        ("modalign/_deep.py", {"a", "b"}),
        ("modalign/__init__.py", {"a", "b"}),
        ("modalign/records.py", {"a", "b"}),
        ("constraints.txt", {"a", "b"}),
        ("notebooks/presets/a.yml", {"a"}),
        ("results/a/x.csv", {"a"}),
        ("results/b/x.json", {"b"}),
        ("results/a/y.csv", set()),
        ("results/README.md", set()),
        ("modalign/unused.py", set()),
        ("modalign/new.py", set()),
        ("notebooks/presets/c.yml", set()),
    ],
)
def test_an_edit_makes_stale_the_chapters_that_use_the_file(tmp_path, name, expected):
    root = write_book(tmp_path, **BOOK)
    stamp(root)
    assert stale(root) == set()
    path = root / name
    before = path.read_text() if path.exists() else ""
    path.write_text(before + "# edited\n")
    assert stale(root) == expected
    path.write_text(before)
    assert stale(root) == set()


def test_an_edited_notebook_and_another_python_make_chapters_stale(tmp_path, monkeypatch):
    root = write_book(tmp_path, **BOOK)
    stamp(root)
    write_notebook(root / "notebooks" / "a.ipynb", *BOOK["a"], "# a comment")
    assert stale(root) == {"a"}
    monkeypatch.setattr(inventory.platform, "python_version", lambda: "3.99.0")
    assert stale(root) == {"a", "b"}


def test_a_module_that_appears_or_goes_makes_its_chapter_stale(tmp_path):
    root = write_book(tmp_path, a=["from modalign import new"], b=["import modalign.one"])
    stamp(root)
    (root / "modalign" / "new.py").write_text("")
    assert stale(root) == {"a"}
    stamp(root)
    (root / "modalign" / "one.py").unlink()
    assert stale(root) == {"b"}


def test_the_key_is_the_same_wherever_the_book_lies(tmp_path):
    here = write_book(tmp_path / "here", **BOOK)
    there = shutil.copytree(here, tmp_path / "else" / "where")
    for path in inventory.notebooks(here):
        moved = there / path.relative_to(here)
        assert inventory.chapter_key(here, path) == inventory.chapter_key(there, moved)


def test_a_run_is_found_again_after_an_edit_of_what_it_does_not_use(tiny_book):
    root = tiny_book("if False:\n    import modalign.one")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def key():
        return execution.plans("tiny", [{}])[0].key

    before = key()
    (root / "modalign" / "unused.py").write_text("x = 1\n")
    assert key() == before
    (root / "modalign" / "_deep.py").write_text("x = 1\n")
    assert key() != before


# this book


# a process for each chapter, so that none finds the modules of another
IMPORTED = """
import json, os, sys
import datasets, matplotlib.pyplot, myst_nb, pandas, seaborn, sklearn, torch, torchmetrics
for name, lines in json.load(sys.stdin).items():
    child = os.fork()
    if not child:
        exec("\\n".join(lines), {})
        here = [each for each in sys.modules if each.startswith("modalign")]
        print(json.dumps({name: here}), flush=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"{name}: status {status}"
"""


@pytest.fixture(scope="module")
def imported():
    """What Python imports for the import lines of each chapter."""
    lines = {}
    for path in CHAPTERS:
        cells = [cell for cell in inventory.read_notebook(path).cells if cell.cell_type == "code"]
        nodes = [node for cell in cells for node in ast.walk(parse(cell.source))]
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        lines[path.stem] = [ast.unparse(node) for node in imports]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return {k: v for line in done.stdout.splitlines() for k, v in json.loads(line).items()}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_what_python_imports_for_a_chapter_is_among_its_files(imported, path):
    names = freshness.inputs(ROOT, path.stem, inventory.read_notebook(path))
    known = {name.removesuffix(".py").removesuffix("/__init__") for name in names}
    used = {name.replace(".", "/") for name in imported[path.stem]}
    assert len(used) > 5
    assert used <= known


def test_a_method_belongs_to_the_chapters_that_use_it_and_no_command_to_any():
    files = {path.stem: set(inventory.chapter_files(ROOT, path)) for path in CHAPTERS}
    for name in ("modalign/cka.py", "modalign/lars.py"):
        users = [stem for stem, held in files.items() if name in held]
        assert 0 < len(users) < len(CHAPTERS), f"{name} is behind {users}"
    for stem, held in files.items():
        shared = {"modalign/__init__.py", "modalign/records.py", "constraints.txt"}
        assert {*shared, f"notebooks/presets/{stem}.yml"} <= held
        own = freshness.tables_folder(ROOT, stem).name
        assert [name for name in held if name.startswith(f"results/{own}/")]
        assert not {name for name in held if name.startswith(("modalign/rerun", "modalign/cli"))}


# the stamp


def git(root, *arguments):
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "core.hooksPath=/dev/null"]
    command = ["git", "-C", str(root), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A committed book, and its commit as stamps have it."""
    root = write_book(tmp_path / "book", **BOOK)
    (root / ".gitignore").write_text("_build/\nnew.py\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "All")
    return root, git(root, "rev-parse", "--short=12", "HEAD")


def test_a_stamp_names_the_commit_and_the_files_that_differ_from_it(checkout):
    root, commit = checkout
    a, b = inventory.notebooks(root)
    assert tool.commit_stamp(root, a) == {"commit": commit, "uncommitted": []}
    (root / "modalign" / "one.py").write_text("import modalign.new\n")
    (root / "modalign" / "new.py").write_text("")  # which git ignores
    (root / "results" / "a" / "x.csv").write_text("2\n")
    git(root, "add", "results")
    (root / "modalign" / "unused.py").write_text("x = 1\n")
    changed = ["modalign/new.py", "modalign/one.py", "results/a/x.csv"]
    assert tool.commit_stamp(root, a) == {"commit": f"{commit}+changes", "uncommitted": changed}
    assert tool.commit_stamp(root, b) == {"commit": commit, "uncommitted": []}


def test_of_the_notebook_what_the_author_writes_counts_and_no_output(checkout):
    root, _ = checkout
    path = inventory.notebooks(root)[0]
    held = inventory.read_notebook(path)
    held.cells[1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    held.metadata["modalign"] = {"key": "0"}
    nbformat.write(held, path)
    assert tool.uncommitted(root, path) == []
    held.cells[1].source += "\n# more"
    nbformat.write(held, path)
    assert tool.uncommitted(root, path) == ["notebooks/a.ipynb"]


def test_a_book_that_git_does_not_know_has_no_stamp_of_it(tmp_path):
    root = write_book(tmp_path, **BOOK)
    assert tool.commit_stamp(root, inventory.notebooks(root)[0]) == {}
    (root / ".git").write_text("gitdir: nowhere\n")
    assert tool.commit_stamp(root, inventory.notebooks(root)[0]) == {}


def test_what_git_cannot_compare_is_an_error_and_not_a_clean_stamp(checkout):
    root, _ = checkout
    (root / ".git" / "index").write_bytes(b"no index")
    with pytest.raises(RuntimeError, match="git diff .*HEAD.* refuses: .*index"):
        tool.commit_stamp(root, inventory.notebooks(root)[0])


def test_kept_outputs_tell_of_changes_until_these_are_committed(checkout, capsys):
    root, commit = checkout
    (root / "modalign" / "one.py").write_text("from modalign import _deep  # edited\n")
    stamp(root)
    assert tool.keep(root) == 0
    assert "made with changes that no commit has: modalign/one.py; " in capsys.readouterr().out
    a, b = inventory.notebooks(root)
    assert tool.stamp(a)["uncommitted"] == ["modalign/one.py"]
    assert (
        tool.commit_text(tool.stamp(a))
        == f"{commit} and changes to `modalign/one.py` that it lacks"
    )
    assert tool.commit_text(tool.stamp(b)) == commit

    git(root, "commit", "--quiet", "--all", "--message", "Edit")
    assert tool.keep(root) == 0
    assert "no commit has" not in capsys.readouterr().out
    assert tool.stamp(a)["commit"] == git(root, "rev-parse", "--short=12", "HEAD")
    assert tool.stamp(a)["uncommitted"] == []
    assert tool.stamp(b)["commit"] == commit  # that of its making holds it too


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"commit": "0a1b"}, "0a1b"),
        ({"commit": None}, "none"),
        ({"commit": None, "no_commit": "no git"}, "no git"),
        ({"commit": "0a1b+changes"}, "0a1b and changes to the package that it lacks"),
        (
            {"commit": "0a1b+changes", "uncommitted": list("abcdef")},
            "0a1b and changes to `a`, `b`, `c` and 3 more files that it lacks",
        ),
    ],
)
def test_the_commit_of_a_record_in_words(record, expected):
    assert tool.commit_text(record) == expected
