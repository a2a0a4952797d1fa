"""The wheel, beside the packages that it asks for and no other, does what the README says."""

import ast
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests._imports import imports

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTHING = "nothing more"
# what the package imports for those who ask for it, and the extra that has it
NOT_FOR_THE_BOOK = {
    "distributed": "rerun",
    "nbconvert": "course",
    "nbgrader": "course",
    "transformers": "pretrained",
}


def snippets():
    """The Python of the README by its section and number there: ("Use a method", 1)."""
    found = {}
    for section in re.split(r"^## ", README, flags=re.M)[1:]:
        title = section.partition("\n")[0]
        for k, text in enumerate(re.findall(r"```python\n(.*?)```", section, re.DOTALL), start=1):
            found[title, k] = text
    return found


def told():
    """What the table of the README says that each snippet needs, an extra or nothing more."""
    rows = re.findall(r"^\| ([^|]+?), snippet (\d) \| ([^|]+?) \|$", README, re.M)
    return {(title, int(k)): needs.strip("`[]") for title, k, needs in rows}


SNIPPETS, TOLD = snippets(), told()


def test_the_table_tells_of_each_snippet_and_of_extras_that_there_are():
    assert len(SNIPPETS) >= 4
    assert TOLD.keys() == SNIPPETS.keys()
    extras = importlib.metadata.metadata("modalign").get_all("Provides-Extra")
    assert set(TOLD.values()) <= {NOTHING, *extras}
    assert NOTHING in TOLD.values()


def needed(names):
    """Distributions by name, with all that they ask for, and all that these do."""
    found, waiting = {}, [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found[name, extra] = importlib.metadata.distribution(name)
        for text in found[name, extra].requires or []:
            each = Requirement(text)
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(each.name), more) for more in ("", *each.extras)]
    return {name: each for (name, _), each in found.items()}


def asked_for(extra):
    """The packages that pyproject.toml names, without an extra or with one."""
    texts = importlib.metadata.distribution("modalign").requires
    requirements = [Requirement(text) for text in texts]
    return {
        canonicalize_name(each.name)
        for each in requirements
        if each.marker is None or each.marker.evaluate({"extra": extra})
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed: pip install '.[test]'")
    source, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "modalign", source / "modalign", ignore=shutil.ignore_patterns("__pycache__")
    )
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([sys.executable, *build, "-w", str(folder), str(source)], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Makes an environment of the wheel, of what it asks for with an extra, and of nothing else."""
    made = {}

    def make(extra):
        if extra in made:
            return made[extra]
        folder = tmp_path_factory.mktemp(f"with-{extra or 'nothing'}")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        places = "import sysconfig; print(sysconfig.get_path('purelib'))"
        python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        site = pathlib.Path(
            subprocess.run(
                [python, "-c", places], check=True, capture_output=True, text=True
            ).stdout.strip()
        )
        # nothing is fetched: the packages are those of the environment of the tests
        for distribution in needed(asked_for(extra)).values():
            for top in {
                file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."
            }:
                link = site / top
                if top != "__pycache__" and not link.exists():
                    link.symlink_to(distribution.locate_file(top))
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(site)
        made[extra] = python
        return python

    return make


def run(python, code, folder):
    # -I: no folder of the tests, and no variable, is looked at
    return subprocess.run(
        [python, "-I", "-c", code], cwd=folder, capture_output=True, text=True, timeout=500
    )


def test_the_wheel_holds_the_package_and_its_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.startswith("modalign/")}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "modalign").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == files
    assert "modalign/py.typed" in inside
    assert all(name.startswith("modalign") for name in names)


def test_the_environment_has_what_is_asked_for_alone(environment, tmp_path):
    packages = ["pandas", "datasets", "pytest", "matplotlib"]
    code = (
        "import importlib.util, modalign\n"
        f"print(modalign.__file__)\nprint([importlib.util.find_spec(n) for n in {packages}])"
    )
    python = environment("")
    where, found = run(python, code, tmp_path).stdout.splitlines()
    assert pathlib.Path(where).is_relative_to(python.parents[1])
    assert found == str([None] * len(packages))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda each: f"{each[0]} {each[1]}")
def test_a_snippet_needs_what_the_table_says_and_no_less(snippet, environment, tmp_path):
    extra = TOLD[snippet]
    done = run(environment("" if extra == NOTHING else extra), SNIPPETS[snippet], tmp_path)
    assert not done.returncode, done.stderr
    if extra != NOTHING:
        without = run(environment(""), SNIPPETS[snippet], tmp_path)
        assert "ModuleNotFoundError" in without.stderr


def sources():
    """The Python of the package and of the chapters."""
    for path in (ROOT / "modalign").rglob("*.py"):
        yield path.read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield "".join(cell["source"])


def test_the_extra_book_has_what_the_package_and_the_chapters_import(environment, tmp_path):
    names = {name.partition(".")[0] for source in sources() for name in imports(source)}
    # files of this folder import those beside them
    beside = {path.stem for path in (ROOT / "modalign/course/inside").glob("*.py")}
    names -= {*sys.stdlib_module_names, *beside}
    assert {"matplotlib", "pycocoevalcap", *NOT_FOR_THE_BOOK} <= names
    code = (
        "import importlib.util\n"
        f"print([n for n in {sorted(names)} if importlib.util.find_spec(n) is None])"
    )
    done = run(environment("book"), code, tmp_path)
    assert ast.literal_eval(done.stdout) == sorted(NOT_FOR_THE_BOOK), done.stderr
    for name, extra in NOT_FOR_THE_BOOK.items():
        assert name in asked_for(extra)
