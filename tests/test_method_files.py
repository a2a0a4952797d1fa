"""Method files print with their chapter: short, labelled with its equations, and portable."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "modalign"
# file -> the notebook whose equations it names, with the private files that hold parts of it
METHODS = {
    "cka.py": "cka",
    "_cka.py": "cka",
    "_cka_alignment.py": "cka-loss",
    "_cka_minibatch.py": "cka",
    "lars.py": "sequences",
    "normalization.py": "sequences",
    "recurrent.py": "sequences",
    "projection.py": "sequences",
    "transport.py": "codebook",
    "codebook.py": "codebook",
    "momentum.py": "codebook",
    "gradients.py": "gradients",
    "curriculum.py": "gradients",
    "_gradients_sample.py": "gradients",
}
# lines at most
PRINTED = {
    "cka.py": 220,
    "lars.py": 220,
    "normalization.py": 220,
    "recurrent.py": 220,
    "projection.py": 220,
    "transport.py": 240,
    "codebook.py": 220,
    "gradients.py": 220,
    "curriculum.py": 220,
}
# what a reader who takes the file with them runs
TAKEN = {
    "cka.py": "from modalign.cka import MinibatchCKA, ModalityAlignment, cka, cka_matrix, hsic\n"
    "x, y = torch.randn(2, 20, 4)\n"
    "value = cka(x.requires_grad_(), y)\n"
    "value.backward()\n"
    "metric = MinibatchCKA()\n"
    "metric.update(x.detach(), y)\n"
    "hsic(y @ y.T, y @ y.T), metric.compute(), cka_matrix([x.detach(), y])\n"
    "assert abs(value - cka(x, y, kernel=lambda z: z @ z.T)) < 1e-5\n"
    "assert abs(value + ModalityAlignment(1.0)(x, y).loss) < 1e-5\n",
    "lars.py": "from modalign.lars import LARS\n"
    "w = torch.nn.Parameter(torch.ones(3))\n"
    "w.grad = torch.ones(3)\n"
    "LARS([w], lr=0.1).step()\n"
    "assert abs(float(w.detach().norm()) - 0.9 * 3**0.5) < 1e-5\n",
    "normalization.py": "from modalign.normalization import SequenceBatchNorm\n"
    "x = SequenceBatchNorm(2)(torch.randn(3, 4, 2), torch.tensor([4, 2, 1]))\n"
    "assert float(x[2, 1:].abs().sum().detach()) == 0\n",
    "projection.py": "from modalign.projection import RandomProjection\n"
    "assert RandomProjection(4, 3)(torch.ones(2, 4)).shape == (2, 3)\n",
    "codebook.py": "from modalign.codebook import Codebook\n"
    "z = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)\n"
    "assert Codebook(6, 8).loss(z, z, z, z).total.isfinite()\n",
    "gradients.py": "from modalign.gradients import GradientCurriculum, harmonized_backward\n"
    "w = torch.nn.Parameter(torch.ones(2))\n"
    "losses = w[0] + w[1], w[1] - 2 * w[0]\n"
    "assert harmonized_backward(*losses, [w], realign=True).conflict\n"
    "assert abs(float(w.grad @ torch.tensor([1.0, 1.0])) - 1.8) < 1e-5\n",
}


def labels(notebook):
    """The labels of the equations of a chapter."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return set(re.findall(r"^\$\$ \((\S+)\)$", text, re.M))


def source(name):
    return (PACKAGE / name).read_text(encoding="utf-8")


def named(text):
    return set(re.findall(r"\beq-[a-z0-9-]*[a-z0-9]", text))


def needed(name):
    """A file of the package and those that it imports, directly or not, wherever in the file."""
    found, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(source(name))):
            if isinstance(node, ast.ImportFrom) and node.module == "modalign":
                waiting += [f"{alias.name}.py" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("modalign."):
                waiting.append(node.module.removeprefix("modalign.").replace(".", "/") + ".py")
    return found


def test_labels_are_read():
    assert {"eq-hsic", "eq-cka", "eq-gradient"} <= labels("cka")
    assert named("by eq-sides, (eq-cka); eq-pace-lars.") == {"eq-sides", "eq-cka", "eq-pace-lars"}


@pytest.mark.parametrize(("name", "notebook"), METHODS.items(), ids=METHODS.keys())
def test_each_label_is_one_of_the_chapter(name, notebook):
    assert named(source(name)) <= labels(notebook)


@pytest.mark.parametrize("name", METHODS)
def test_equations_have_labels_and_those_of_the_paper_say_so(name):
    numbered = [
        line
        for line in source(name).splitlines()
        if re.search(r"\b(?<![Pp]aper )eqs?\. ?\d|\b[Ee]quations? \d", line)
    ]
    assert not numbered


@pytest.mark.parametrize(("name", "most"), PRINTED.items(), ids=PRINTED.keys())
def test_a_method_file_can_be_printed(name, most):
    assert len(source(name).splitlines()) <= most
    assert named(source(name))


def test_cka_says_where_each_of_its_equations_is():
    used = {"centring", "hsic", "cka", "sides", "ucentring", "unbiased", "debiased", "gradient"}
    assert {f"eq-{label}" for label in used} <= named(source("cka.py"))
    assert "eq-minibatch" in named(source("_cka_minibatch.py"))
    assert "eq-loss" in named(source("_cka_alignment.py"))


@pytest.mark.parametrize(("name", "use"), TAKEN.items(), ids=TAKEN.keys())
def test_a_method_can_be_taken_along(name, use, tmp_path):
    (tmp_path / "modalign").mkdir()
    for file in needed(name):
        shutil.copy(PACKAGE / file, tmp_path / "modalign" / file)
    (tmp_path / "modalign" / "__init__.py").touch()  # so that an installed modalign stays out
    where = f"assert modalign.__path__ == [{str(tmp_path / 'modalign')!r}]"
    script = f"import modalign, torch\n{where}\ntorch.manual_seed(0)\n{use}"
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
    )


def test_the_readme_names_what_to_take():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in TAKEN:
        for file in needed(name):
            assert f"`{file}`" in readme


def test_importing_cka_is_light():
    heavy = {"pandas", "matplotlib", "torchmetrics", "scipy", "sklearn", "transformers"}
    found = subprocess.run(
        [sys.executable, "-c", "import sys, modalign.cka; print(*sys.modules)"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "modalign.cka" in found
    assert not heavy & set(found)
