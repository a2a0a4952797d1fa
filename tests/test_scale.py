"""The page on running at scale: its commands parse, its files hold together."""

import ast
import contextlib
import inspect
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml

from modalign import cli, rerun
from modalign.rerun import execution

ROOT = pathlib.Path(__file__).parents[1]
SCALE = ROOT / "book" / "scale"
PAGE = ROOT / "book" / "scale.md"
PAGES = ["README.md", "results/README.md", "book/running.md", "book/scale.md"]


def lines(page):
    """The lines of the shell blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def commands(page):
    """The modalign commands in the shell blocks of a page."""
    split = [shlex.split(line, comments=True) for line in lines(page) if "bin/modalign" in line]
    return [
        words[[word.endswith("modalign") for word in words].index(True) + 1 :] for words in split
    ]


def flags_of(words):
    """What the command makes of its words."""
    return cli.modalign.commands[words[0]].make_context(words[0], list(words[1:])).params


def sweep_of(words):
    wanted = inspect.signature(cli._sweep_of).parameters
    return cli._sweep_of(**{name: flag for name, flag in flags_of(words).items() if name in wanted})


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_texts_parses(page):
    found = commands(page)
    assert found
    for words in found:
        chosen = flags_of(words)
        if words[0] == "run":
            short = {name: chosen[name] for name in ("seed", "device")}
            assert cli._parsed(chosen["chapter"], chosen["changes"], **short) is not None
        if words[0] == "sweep" and not chosen["what"].endswith(".yml"):
            assert sweep_of(words).changes()


def test_the_sweep_file_on_the_page_is_the_one_that_the_flags_print(tmp_path):
    page = (ROOT / "book" / "running.md").read_text()
    (block,) = re.findall(r"```yaml\n(chapter: .*?)```", page, re.DOTALL)
    (tmp_path / "mine.yml").write_text(block)
    flags = next(words for words in commands("book/running.md") if "--seeds" in words)
    assert rerun.read_sweep(tmp_path / "mine.yml", root=ROOT) == sweep_of(flags)


def test_the_values_that_the_texts_report_are_ones_that_their_chapter_keeps():
    texts = [(ROOT / page).read_text() for page in [*PAGES, "benchmarks/rerun.py"]]
    named = {
        name
        for text in texts
        for name in re.findall(r"""(?:--metric |metric="|METRIC = "|\.values\[")([\w-]+)""", text)
    }
    kept = execution.glued(nbformat.read(ROOT / "notebooks" / "cka-loss.ipynb", 4))
    assert named
    assert named <= set(kept)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def listening(process):
    """The addresses that a process and its children listen on."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for held in each.net_connections("inet"):
                if held.status == psutil.CONN_LISTEN:
                    found.add(held.laddr.ip)
    return found


@pytest.mark.timeout(240)
def test_workers_by_hand_as_the_page_starts_them_keep_to_loopback_and_to_tls(
    tmp_path, tiny_book, command_environment, monkeypatch
):
    root = tiny_book()
    monkeypatch.chdir(root)
    shutil.copytree(SCALE, root / "book" / "scale")
    ports = {"8786": str(free_port()), "8787": str(free_port())}
    page = "\n".join(lines("book/scale.md"))
    for old, new in ports.items():
        page = page.replace(f":{old}", f":{new}").replace(f"--port {old}", f"--port {new}")
    page = page.replace(".venv/bin/dask", f"{sys.executable} -m dask").splitlines()
    (make,) = [line for line in page if "openssl" in line]
    (export,) = {line for line in page if line.startswith("export")}
    (scheduler,) = [line for line in page if "dask scheduler" in line]
    (worker,) = [line for line in page if "dask worker" in line]
    (sweep,) = [line for line in page if "--scheduler" in line]
    subprocess.run(make, shell=True, check=True, capture_output=True)
    assert (root / "runs" / "tls" / "key.pem").stat().st_mode & 0o077 == 0
    config = export.removeprefix("export ").split("=")
    environment = {**command_environment, **dict([config])}

    with contextlib.ExitStack() as started:
        processes = []
        for line in (scheduler, worker):
            process = subprocess.Popen(
                shlex.split(line),
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            started.callback(process.wait)
            started.callback(os.killpg, process.pid, signal.SIGKILL)
            processes.append(psutil.Process(process.pid))
        # the same flags, for the chapter of the test
        words = shlex.split(sweep)
        flags = ["tiny", "--grid", "slow=0,2", *words[words.index("-o") :]]
        done = subprocess.Popen(
            [sys.executable, "-m", "modalign", "sweep", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        found = set()
        while done.poll() is None:
            for process in [*processes, psutil.Process(done.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found |= listening(process)
            time.sleep(0.2)
        said = done.stdout.read()
        assert done.returncode == 0, said
        assert "2 runs: 2 ran" in said
        assert found == {"127.0.0.1"}
        # who has no certificate, and who has another one; in a process that may wait in vain
        address = shlex.split(sweep)[-1]
        other = tmp_path / "other"
        other.mkdir()
        subprocess.run(make.replace("runs/tls", str(other)), shell=True, check=True)
        theirs = {
            "tls_ca_file": str(root / "runs" / "tls" / "cert.pem"),
            "tls_client_cert": str(other / "cert.pem"),
            "tls_client_key": str(other / "key.pem"),
            "require_encryption": True,
        }
        ours = {**theirs, "tls_client_cert": theirs["tls_ca_file"]}
        ours["tls_client_key"] = str(root / "runs" / "tls" / "key.pem")
        assert connects(address, ours)
        for each, security in (
            (address.replace("tls:", "tcp:"), {}),
            (address, {}),
            (address, theirs),
        ):
            assert not connects(each, security)


def connects(address, security):
    """Whether a client of its own process reaches a scheduler within seconds."""
    code = (
        "import distributed as d; "
        f"d.Client({address!r}, timeout=5, security=d.Security(**{security!r})); print('connected')"
    )
    try:
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return b"connected" in said.stdout


def test_every_command_of_dask_names_its_interfaces():
    found = [line for line in lines("book/scale.md") if "bin/dask" in line]
    assert len(found) == 2
    for line in found:
        words = shlex.split(line)
        assert words[words.index("--host") + 1] == "127.0.0.1"
        assert words[words.index("--dashboard-address") + 1].startswith("127.0.0.1:")
        assert "tls" in line


def test_the_slurm_script_calls_what_there_is():
    calls = [
        node
        for node in ast.walk(ast.parse((SCALE / "slurm.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    (sweep,) = [call for call in calls if call.func.attr == "sweep"]
    arguments = {each.arg: each.value for each in sweep.keywords}
    assert set(arguments) <= set(inspect.signature(rerun.sweep).parameters)
    assert ast.unparse(arguments["scheduler"]) == "cluster"  # which brings its TLS
    assert "security=Security()" in (SCALE / "slurm.py").read_text()
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
    tls = yaml.safe_load((SCALE / "tls.yaml").read_text())["distributed"]["comm"]
    assert tls["require-encryption"] is True
    (secret,) = re.findall(r"create secret generic (\S+) --from-file=runs/tls", PAGE.read_text())
    for pod in (worker, runner, scheduler["spec"]):
        (box,) = pod["containers"]
        assert {each["name"] for each in box["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert pod["volumes"][-1]["secret"]["secretName"] == secret
        place = pathlib.PurePosixPath(box["volumeMounts"][-1]["mountPath"])
        assert str(place.relative_to("/book")) == str(pathlib.Path(tls["tls"]["ca-file"]).parent)
        assert {"name": "DASK_CONFIG", "value": "book/scale/tls.yaml"} in box["env"]
    assert "WORKDIR /book\n" in (SCALE / "Dockerfile").read_text()
    assert scheduler["spec"]["containers"][0]["args"][-2:] == ["--protocol", "tls"]
    assert f"tls://{name}-scheduler:8786" in worker["containers"][0]["args"]
    images = [pod["containers"][0]["image"] for pod in (worker, runner, scheduler["spec"])]
    assert len(set(images)) == 1
    ports = {each["name"] for each in scheduler["spec"]["containers"][0]["ports"]}
    assert ports == {each["targetPort"] for each in scheduler["service"]["ports"]}
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == name
    container = runner["containers"][0]
    words = [*container["command"][1:], *container["args"]]
    assert flags_of(words)["scheduler"] == f"tls://{name}-scheduler:8786"
    assert flags_of(words)["output"] == container["volumeMounts"][0]["mountPath"]
    assert sweep_of(words).changes()


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
