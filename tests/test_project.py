"""The files around the package agree with one another."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import modalign
from tests._imports import imports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "modalign"
FLOORS = {
    1: {
        *("cka", "transport", "codebook", "gradients", "lars", "normalization", "projection"),
        "recurrent",  # what normalization.py takes from a file of its own
        "momentum",  # and codebook.py
        "curriculum",  # and gradients.py
        "data",
    },
    2: {"training", "metrics", "plots", "players", "records", "layers"},
    3: {"models"},
    4: {"studies"},
    5: {"cli", "rerun", "course", "__main__"},
}
METHOD_LIBRARIES = {"torch", "torchmetrics", "numpy", "jaxtyping", "beartype"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def direct_dependencies():
    extras = project()["optional-dependencies"].values()
    texts = [*project()["dependencies"], *(text for extra in extras for text in extra)]
    needed = [Requirement(text) for text in texts]
    return [each for each in needed if each.name != "modalign"]


def constraints():
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def top_module(path):
    """The part of the package a file belongs to: modalign/models/x.py is of models."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name):
    for number, names in FLOORS.items():
        if name in names:
            return number
    if name.startswith("_"):
        return 1
    raise AssertionError(f"modalign.{name} stands on no floor: add it to FLOORS and CONTRIBUTING")


def test_mypy_is_strict_on_every_file_of_the_first_floor():
    (strict,) = tomllib.loads(read("pyproject.toml"))["tool"]["mypy"]["overrides"]
    files = {path.stem for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "data")}
    assert set(strict["module"]) == {f"modalign.{name}" for name in files if floor(name) == 1}


def test_the_example_of_tests_is_the_one_that_runs():
    (example,) = re.findall(r"```python\n(.*?)```", read("CONTRIBUTING.md"), re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 30
    assert f"{example}\n\n" in read("tests/test_projection.py")


def test_environment_installs_what_pyproject_says():
    environment = yaml.safe_load(read("environment.yml"))
    *conda, pip = environment["dependencies"]
    assert environment["name"] == project()["name"]
    assert [each.split("=")[0] for each in conda] == ["python", "pip"]
    python = re.fullmatch(r"python=(\d+\.\d+)", conda[0])[1]
    assert Requirement(f"python{project()['requires-python']}").specifier.contains(python)
    assert pip["pip"] == ["-c constraints.txt", "-e .[book]"]
    assert "book" in project()["optional-dependencies"]


@pytest.mark.parametrize("dependency", direct_dependencies(), ids=str)
def test_constraints_pin_every_direct_dependency_above_its_floor(dependency):
    (pin,) = constraints()[canonicalize_name(dependency.name)].specifier
    assert pin.operator == "=="
    assert dependency.specifier.contains(pin.version, prereleases=True)


def test_constraints_fit_every_build_and_leave_python_310_to_the_floors():
    for name, constraint in constraints().items():
        assert "+" not in str(constraint.specifier), f"{name} names a local version"
        assert not constraint.marker.evaluate({"python_version": "3.10"})
        assert constraint.marker.evaluate({"python_version": "3.11"})


def test_one_setting_says_where_the_project_is():
    config = yaml.safe_load(read("_config.yml"))
    urls = project().get("urls", {})
    assert urls.get("Repository", "") == config["repository"]["url"]
    assert urls.get("Documentation", "") == config["html"]["baseurl"]
    assert yaml.safe_load(read("CITATION.cff")).get("repository-code", "") == urls.get(
        "Repository", ""
    )


def test_citation_names_this_version_and_licence():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == modalign.__version__
    assert citation["license"] == project()["license"]
    assert "MIT License" in read("LICENSE")
    assert "creativecommons.org/licenses/by/4.0" in read("LICENSE-text")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_only_go_down(path):
    here = top_module(path)
    for name in imports(path.read_text(encoding="utf-8")):
        root, *below = name.split(".")
        if root == "modalign" and below:
            assert floor(below[0]) <= floor(here), f"{here} imports {name}, which stands higher"
            assert here == "data" or below[0] != "data" or floor(here) > 1, (
                f"the method {here} imports data"
            )
        elif floor(here) == 1 and here != "data" and root not in sys.stdlib_module_names:
            assert root in METHOD_LIBRARIES | {"modalign"}, f"the method {here} imports {root}"


def test_every_method_has_its_page_in_the_reference():
    methods = {top_module(path) for path in MODULES} & (FLOORS[1] - {"data"})
    assert methods
    for name in methods:
        assert f"# `modalign.{name}`" in read(f"book/api/{name}.md")


def test_no_file_names_a_place_on_somebodys_disk():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: cannot tell which files are the project's")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    homes = re.compile(r"(?<![\w.~])/(?:home|Users|root|work|tmp)/[\w.-]+")
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.suffix == ".png" or not path.exists():
            continue
        found = homes.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{name} names {found[0]}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "book/running.md", ".ci/run"])
def test_every_make_command_in_the_texts_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|\s)make ([a-z-]+)(?=[`\s]|$)", read(page)))
    commands = {
        name for name in named if f"`make {name}" in read(page) or f"\nmake {name}" in read(page)
    }
    assert commands, f"{page} names no command"
    assert commands <= targets


def test_help_lists_every_verb():
    makefile = read("Makefile")
    verbs = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()) - {"help"}
    assert verbs == set(re.findall(r'@echo "make ([a-z-]+)', makefile))


def test_lab_listens_on_this_machine_alone_and_has_what_renders_the_chapters():
    command = ["make", "-n", "lab", "LAB=--port 9000"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (started,) = [line for line in said.splitlines() if "-m jupyterlab" in line]
    assert "--ip=127.0.0.1" in started
    assert "--port 9000" in started
    assert (ROOT / started.split()[-1]).exists()
    assert "pip install" not in said or "'.[lab]'" in said
    needed = {Requirement(each).name for each in project()["optional-dependencies"]["lab"]}
    assert {"jupyterlab", "jupyterlab-myst"} <= needed


def test_another_python_runs_the_tests_of_the_package_and_none_of_the_book():
    command = ["make", "-n", "test-python", f"PYTHON={sys.executable}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    place = f".venv-{sys.version_info.major}.{sys.version_info.minor}"
    assert f"{sys.executable} -m venv {place}" in said or (ROOT / place).exists()
    assert re.search(rf"{re.escape(place)}/bin/python -m pytest", said)
    ignored = re.findall(r"--ignore=(\S+)", said)
    assert sorted(ignored) == ["tests/test_book.py", "tests/test_notebooks.py"]
    assert all((ROOT / path).exists() for path in ignored)


def test_the_floor_is_the_oldest_that_the_package_asks_for():
    """Extras are left to pip: what they bring asks for newer releases of one another."""
    held = read("constraints-floor.txt").splitlines()
    lines = [line for line in held if not line.startswith("#")]
    pyarrow = [each for each in project()["optional-dependencies"]["book"] if "pyarrow" in each]
    asked = [*project()["dependencies"], *pyarrow]
    assert lines == [each.replace(">=", "==") for each in asked]


def test_the_floor_is_tested_with_every_method():
    command = ["make", "-n", "test-floor", f"PYTHON={sys.executable}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (started,) = [line for line in said.splitlines() if "-m pytest" in line]
    assert started.split()[started.split().index("-m") - 1] == ".venv-floor/bin/python"
    paths = set(re.findall(r"(?:(?<==)|(?<= ))tests/\S+", started))
    assert all((ROOT / path).exists() for path in paths)
    methods = {f"tests/test_{name}.py" for name in FLOORS[1]} | {"tests/test_layers.py"}
    assert {path for path in methods if (ROOT / path).exists()} <= paths
    assert {f"tests/{folder}" for folder in ("metrics", "models", "training")} <= paths


def test_ctrl_c_ends_make_book_and_starts_no_other_step(tmp_path):
    # an environment whose python says what it was asked for, and waits
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/started\nexec sleep 60\n")
    (scripts / "python").chmod(0o755)
    for done in (scripts / "pip", scripts.parent / ".has-book"):
        done.touch()
    made = subprocess.Popen(
        ["make", "book"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started = tmp_path / "started"
    until = time.monotonic() + 30
    # the shell makes the file before it writes to it
    while not (started.exists() and started.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(made.pid, signal.SIGINT)  # as a terminal does
    said, _ = made.communicate(timeout=30)
    # 130 in a shell; GNU make fails in place of that if it had just taken its step's end when the
    # signal came, and then waits for the step again
    assert made.returncode == -signal.SIGINT or "wait: No child processes" in said
    assert "render" not in said
    (child,) = started.read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


def references():
    database = pytest.importorskip("pybtex.database")
    return database.parse_file(str(ROOT / "book" / "references.bib")).entries


def test_no_two_sources_have_one_label():
    from modalign.rerun.bibliography import Labels

    entries = references()
    labels = list(Labels().format_labels(entries.values()))
    assert "You et al., 2020" in labels
    assert {label for label in labels if labels.count(label) > 1} == set()


def test_every_source_is_cited_and_every_citation_has_its_source():
    cited = set()
    for path in (*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/**/*.md")):
        for keys in re.findall(r"{cite:[pt]}`([^`]+)`", path.read_text(encoding="utf-8")):
            cited |= {key.strip() for key in keys.split(",")}
    assert cited == set(references())


def test_no_letter_is_in_two_rows_of_one_table_of_the_notation():
    for section in read("book/notation.md").split("\n## ")[1:]:
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| $")]
        letters = [each for row in rows for each in re.findall(r"\$[^$]+\$", row)]
        assert len(letters) == len(set(letters)), section.splitlines()[0]


def test_readme_opens_with_the_two_commands_and_a_picture():
    blocks = re.findall(r"```bash\n(.*?)```", read("README.md"), re.DOTALL)
    assert [line.split("#")[0].strip() for line in blocks[0].splitlines()] == [
        "make book",
        "make test",
    ]
    assert read("README.md").index("make book") < read("README.md").index("![")


def test_the_findings_of_the_readme_are_those_of_the_tables():
    text = " ".join(read("README.md").split())
    records = pytest.importorskip("modalign.records")
    metrics = pytest.importorskip("modalign.metrics")
    photographs = records.load("codis/flickr8k")
    towers = photographs.pivot(index="seed", columns="row", values="tower_recall_at_10")
    gain = metrics.difference(towers["intra + cross + codebook"], towers["intra + cross"])
    assert f"in {gain:.2f} points more" in text
    assert gain.low > 0
    whole = metrics.difference(towers["intra + cross + codebook"], towers["cross"])
    assert f"is {whole:.2f} points and decides nothing" in text
    assert whole.low < 0 < whole.high
    assert f"({photographs.seed.nunique()} seeds, trained from scratch)" in text
    toy = records.load("codebook/switches").groupby("row").recall_at_1.mean()
    assert f"finds {toy['adopted']:.1f}% of the partners" in text
    assert f"as it is printed finds {toy['as printed']:.1f}%" in text
    assert toy["as printed"] < 2 * 100 / 500  # that of 500 candidates
    captions = records.load("captioning/flickr8k")
    last = captions[captions.epoch == captions.groupby(["row", "seed"]).epoch.transform("max")]
    mean = last.groupby("row")[["cka", "cka_shuffled", "cka_debiased"]].mean()
    without, with_term = mean.loc["without"], mean.loc["0.1, biased"]
    for measure, said in (("cka", "raises CKA"), ("cka_shuffled", "*other* pictures,")):
        assert f"{said} from {without[measure]:.3f} to {with_term[measure]:.3f}" in text
    assert "Debiased CKA stays within 0.001 of zero, with the term and without" in text
    assert abs(without.cka_debiased) < 0.001 > abs(with_term.cka_debiased)
    averages = records.load("gradients/averaging").query("row == 'trained, half aligned'")
    conflicts = averages.groupby("size").conflicts.mean()
    assert f"{conflicts[1]:.0f}% of the single clips" in text
    assert f"{conflicts[32]:.0f}% of the means over 32 clips" in text
    assert conflicts[256] == 0


def test_the_examples_of_the_readme_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert len(examples) >= 3
    names = {}
    for example in examples:
        exec(example, names)
    assert 0 <= -names["loss"] / 0.1 <= 1
    assert names["scenes"].num_rows == 100
    assert (tmp_path / "run.ckpt").exists()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", read(page))
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
