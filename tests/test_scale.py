"""The page on running at scale: its commands parse, its files hold together."""

import ast
import inspect
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from modalign import cli, rerun

ROOT = pathlib.Path(__file__).parents[1]
SCALE = ROOT / "book" / "scale"
PAGES = ["README.md", "results/README.md", "book/running.md", "book/scale.md"]


def commands(page):
    """The modalign commands in the shell blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines if "bin/modalign" in line]
    return [
        words[[word.endswith("modalign") for word in words].index(True) + 1 :] for words in split
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_texts_parses(page):
    found = commands(page)
    assert found
    for words in found:
        chosen = cli._parser().parse_args(words)
        if words[0] in ("run", "show"):
            changes = cli._changes(chosen) if words[0] == "run" else {}
            assert set(changes) <= set(rerun.parameters(chosen.chapter, root=ROOT))
        if words[0] == "sweep" and not chosen.what.endswith(".yml"):
            assert cli._sweep_of(chosen).changes()


def test_the_sweep_file_on_the_page_is_the_one_that_the_flags_print(tmp_path):
    page = (ROOT / "book" / "running.md").read_text()
    (block,) = re.findall(r"```yaml\n(chapter: .*?)```", page, re.DOTALL)
    (tmp_path / "mine.yml").write_text(block)
    flags = next(words for words in commands("book/running.md") if "--seeds" in words)
    wanted = cli._sweep_of(cli._parser().parse_args(flags))
    assert rerun.read_sweep(tmp_path / "mine.yml", root=ROOT) == wanted


def test_the_slurm_script_calls_what_there_is():
    calls = [
        node
        for node in ast.walk(ast.parse((SCALE / "slurm.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    (sweep,) = [call for call in calls if call.func.attr == "sweep"]
    arguments = {each.arg: each.value for each in sweep.keywords}
    assert set(arguments) <= set(inspect.signature(rerun.sweep).parameters)
    chapter, grid = map(ast.literal_eval, sweep.args)
    fixed = ast.literal_eval(arguments["parameters"])
    seeds = ast.literal_eval(arguments["seeds"])
    assert rerun.define_sweep(chapter, grid, seeds=seeds, parameters=fixed, root=ROOT)


def test_the_kubernetes_file_agrees_with_itself():
    volume, cluster, job = yaml.safe_load_all((SCALE / "kubernetes.yaml").read_text())
    assert [each["kind"] for each in (volume, cluster, job)] == [
        "PersistentVolumeClaim",
        "DaskCluster",
        "Job",
    ]
    worker, runner = cluster["spec"]["worker"]["spec"], job["spec"]["template"]["spec"]
    scheduler, name = cluster["spec"]["scheduler"], cluster["metadata"]["name"]
    for pod in (worker, runner):
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
        assert pod["containers"][0]["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    images = [pod["containers"][0]["image"] for pod in (worker, runner, scheduler["spec"])]
    assert len(set(images)) == 1
    ports = {each["name"] for each in scheduler["spec"]["containers"][0]["ports"]}
    assert ports == {each["targetPort"] for each in scheduler["service"]["ports"]}
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == name
    container = runner["containers"][0]
    chosen = cli._parser().parse_args([*container["command"][1:], *container["args"]])
    assert chosen.scheduler == f"tcp://{name}-scheduler:8786"
    assert chosen.output == container["volumeMounts"][0]["mountPath"]
    assert cli._sweep_of(chosen).changes()


def test_the_training_script_runs_in_two_processes(command_environment):
    launch = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(SCALE / "several_gpus.py")],
        env={**command_environment, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"CKA (\d\.\d+) over 2 processes", done.stdout)
    assert len(found) == 5
    assert float(found[-1]) > 2 * float(found[0])
