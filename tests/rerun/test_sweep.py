"""Sweeps and their bad days, on a tiny chapter: nothing finished is lost or made twice."""

import collections
import contextlib
import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from modalign import cli, rerun
from modalign.rerun import execution, sweeping

pytestmark = pytest.mark.timeout(240)
PATIENCE = 90
DASHBOARD = ("--dashboard-address", "127.0.0.1:0")  # dask opens one on all interfaces otherwise


def until(happened, what):
    """Wait for something that is to happen."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.05)


def events(output):
    """What happened to each run, in order, by its name."""
    found = {}
    for path in (pathlib.Path(output) / execution.LOCKS).glob("*.jsonl"):
        found[path.stem] = execution.journal(path.stem, output)
    return found


def count(output, event):
    return sum(line["event"] == event for lines in events(output).values() for line in lines)


def assert_each_run_was_finished_once(output, runs):
    found = events(output)
    assert len(found) == runs
    for name, lines in found.items():
        told = [line["event"] for line in lines]
        assert told.count("finished") == 1, (name, told)
        assert told[-1] == "finished", (name, told)
        assert execution.finished(pathlib.Path(output) / name)
    assert not [path.name for path in pathlib.Path(output).iterdir() if ".tiny-" in path.name]


def alive(pids):
    zombie = psutil.STATUS_ZOMBIE
    return [
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != zombie
    ]


@pytest.fixture
def start(command_environment):
    """Start commands, in sessions of their own, and end them with the test."""
    with contextlib.ExitStack() as started:

        def start(*arguments):
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments)],
                env={**command_environment, "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            # so that no pipe fills up
            lines = []
            reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
            reader.start()

            def end():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                reader.join()

            process.end, process.said = end, lambda: reader.join() or "".join(lines)
            started.callback(end)
            return process

        yield start


@pytest.fixture
def cluster(start, tmp_path):
    """A scheduler and workers as a user starts them by hand, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    class Cluster:
        address = f"tcp://127.0.0.1:{port}"

        def __init__(self):
            self.start_scheduler()
            self.workers = [self.start_worker() for _ in range(2)]

        def start_scheduler(self):
            options = ("--host", "127.0.0.1", "--port", port, *DASHBOARD)
            self.scheduler = start("dask", "scheduler", *options)

        def start_worker(self):
            options = ("--nworkers", 1, "--nthreads", 1, "--local-directory", tmp_path / "dask")
            where = ("--host", "127.0.0.1", *DASHBOARD)
            return start("dask", "worker", self.address, *options, *where)

    return Cluster()


# what a sweep is


def test_a_sweep_is_every_combination_with_every_seed(tiny_book):
    tiny_book()
    what = rerun.define_sweep(
        "tiny", {"rate": [0, 0.5], "optimizer": ["adam", "lars"]}, seeds=3, preset="smoke"
    )
    changes = what.changes()
    assert len(changes) == 12
    assert changes[1] == {"seed": 0, "rate": 0.0, "optimizer": "lars"}
    assert rerun.define_sweep("tiny", {}, seeds=[4, 7]).changes() == [{"seed": 4}, {"seed": 7}]
    assert rerun.define_sweep("tiny", {"rate": [0, 1]}).changes()[1] == {"rate": 1.0}


@pytest.mark.parametrize(
    ("grid", "options", "problem"),
    [
        ({"rtae": [1]}, {}, "grid: there is no 'rtae'.*did you mean 'rate'"),
        ({"rate": [-1]}, {}, r"rate: expected float \(0 or more\), got -1"),
        ({"rate": []}, {}, "rate: expected a list of one or more values"),
        ({"optimizer": "adam"}, {}, "optimizer: expected a list of one or more values"),
        ({"rate": [1, 1.0]}, {}, "rate: a value is given twice"),
        ({"rate": [1]}, {"parameters": {"rate": 2}}, "rate: is both fixed and swept"),
        ({"seed": [1]}, {"seeds": 2}, "seed: is both fixed and swept"),
        ({}, {"seeds": -1}, "seeds: expected a number of seeds"),
        ({}, {"seeds": True}, "seeds: expected a number of seeds.*got True"),
        ({}, {"seeds": 1.5}, "seeds: expected a number of seeds.*got 1.5"),
        ({}, {"seeds": "3"}, "seeds: expected a number of seeds.*got '3'"),
        ({}, {"seeds": {"a": 1}}, "seeds: expected a number of seeds.*got {'a': 1}"),
        ({}, {"seeds": [0, 0.5]}, "seeds: expected a number of seeds.*got"),
        ({}, {"seeds": [3, 4, 3]}, "seed: a value is given twice"),
        ({}, {"seeds": 10**9}, "sweep: expected 100,000 runs or fewer, got 1,000,000,000"),
        ({"seed": range(10**9)}, {}, "sweep: expected 100,000 runs or fewer"),
        (
            {"rate": range(1000)},
            {"seeds": 101},
            "sweep: expected 100,000 runs or fewer, got 101,000",
        ),
        ({"rate": {"a": 1}}, {}, "grid: rate: expected a list of one or more values"),
        ({"rate": None}, {}, "grid: rate: expected a list of one or more values, got None"),
        ({1: [1]}, {}, "grid: expected parameters with a list of values each"),
        (["rate"], {}, r"grid: expected parameters.*such as {seed: \[0, 1\]}, got \['rate'\]"),
        ({}, {"parameters": ["rate"]}, "parameters: expected parameters with a value each"),
        ({}, {"preset": "somke"}, "preset: there is no 'somke'"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tiny_book, grid, options, problem):
    tiny_book()
    with pytest.raises(ValueError, match=problem):
        rerun.define_sweep("tiny", grid, **options)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--grid", "rate"], "--grid: expected NAME=V1,V2, got 'rate'"),
        (["--grid", "rate=0", "--grid", "rate=1"], "--grid: rate: given twice"),
        (["--grid", "seed=0;1"], "seed: expected int (0 or more), got '0;1'"),
        (["--grid", "rate=0", "--device", "cuda"], "device: 'cuda' is not on this machine"),
        (["--grid", "rate=0", "--jobs", "0"], "jobs: expected 1 or more, got 0"),
        (["--grid", "rate=0", "-o", "_toc.yml/a"], "output: cannot write _toc.yml/a"),
        (["--scheduler", "tcp://127.0.0.1:9"], "scheduler: none answers at tcp://127.0.0.1:9"),
    ],
)
def test_flags_that_make_no_sweep_are_refused(tiny_book, monkeypatch, capsys, flags, problem):
    tiny_book()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sweeping, "CONNECT_SECONDS", 1)
    assert cli.main(["sweep", "tiny", *flags]) == 1
    assert f"modalign: {problem}" in capsys.readouterr().err


def test_flags_print_the_file_that_makes_the_same_sweep(tiny_book, capsys):
    root = tiny_book()
    flags = [
        "--grid",
        "rate=0,0.5",
        "--grid",
        'note="a,b",ü',
        "--seeds",
        "2",
        "-p",
        "fast",
        "false",
    ]
    assert cli.main(["sweep", "tiny", *flags, "--preset", "smoke", "--print"]) == 0
    (root / "mine.yml").write_text(capsys.readouterr().out)
    found = rerun.read_sweep(root / "mine.yml")
    assert found.grid == {"rate": [0.0, 0.5], "note": ["a,b", "ü"]}
    assert (found.seeds, found.preset, found.parameters) == ([0, 1], "smoke", {"fast": False})
    assert cli.main(["sweep", "mine.yml", "--seeds", "3"]) == 1
    assert "expected a sweep file or flags, got both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1", "mine.yml: line 1: expected ',' or"),
        ("", "a mapping with the key chapter"),
        ("chapter: [tiny]", r"mine.yml: chapter: expected a name, got \['tiny'\]"),
        ("chapter:", "mine.yml: chapter: there is no ''"),
        ("chapter: tiny\npreset: 3", "mine.yml: preset: expected a name, got 3"),
        ("chapter: tiny\ngrid: [rate]", "mine.yml: grid: expected parameters with a list"),
        ("chapter: tiny\ngrid: 0", "mine.yml: grid: expected parameters with a list"),
        ("chapter: tiny\ngrid: {rate: 0.1}", "mine.yml: grid: rate: expected a list of one"),
        ("chapter: tiny\ngrid: {rate: [0.1], rate: [0.3]}", "line 2: rate is given twice"),
        ("chapter: tiny\ngrid: {rate: [1e-3]}", "grid: rate: expected float.*got '1e-3'"),
        ("chapter: tiny\nparameters: [a]", "mine.yml: parameters: expected parameters with"),
        ("chapter: tiny\nparameters: false", "mine.yml: parameters: expected parameters with"),
        ("chapter: tiny\nseeds: true", "mine.yml: seeds: expected a number of seeds"),
        ("chapter: tiny\nseeds: {a: 1}", "mine.yml: seeds: expected a number of seeds"),
        ("chapter: tiny\nseeds: 1000000000", "mine.yml: sweep: expected 100,000 runs or fewer"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{n}: &{n} [{','.join(['*' + chr(ord(n) - 1)] * 9)}]\n" for n in "bcdefghi"),
            "mine.yml: line 1: more than 500,000 values, those of aliases included",
        ),
        ("grid: {}", "a mapping with the key chapter"),
        ("chapter: tiny\ngird: {}", "key: there is no 'gird'.*did you mean 'grid'"),
        ("chapter: tiny\ngrid: {rate: [x]}", "rate: expected float"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(tiny_book, text, problem):
    root = tiny_book()
    (root / "mine.yml").write_text(text)
    with pytest.raises(ValueError, match=problem) as info:
        rerun.read_sweep(root / "mine.yml")
    assert "\n" not in str(info.value)


def test_a_key_with_nothing_behind_it_was_not_given(tiny_book):
    root = tiny_book()
    (root / "mine.yml").write_text("chapter: tiny\ngrid:\nseeds:\npreset:\nparameters:\n")
    assert rerun.read_sweep(root / "mine.yml") == rerun.define_sweep("tiny", {})


def test_numbers_of_numpy_are_numbers(tiny_book):
    tiny_book()
    made = rerun.define_sweep("tiny", {"rate": np.linspace(0, 1, 3)}, seeds=np.int64(2))
    assert made == rerun.define_sweep("tiny", {"rate": [0, 0.5, 1]}, seeds=np.arange(2))
    assert made.to_yaml()


def test_what_is_refused_has_written_nothing(tiny_book, monkeypatch, capsys):
    root = tiny_book()
    before = sorted(root.rglob("*"))
    monkeypatch.setattr(sweeping, "CONNECT_SECONDS", 1)
    assert cli.main(["sweep", "tiny", "--seeds", "2", "--scheduler", "tcp://127.0.0.1:9"]) == 1
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main(["sweep", "tiny", "--seeds", "2", "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "distributed" in capsys.readouterr().err
    with pytest.raises(ValueError, match="sweep: expected a chapter or a sweep, got 3"):
        rerun.sweep(3)
    assert sorted(root.rglob("*")) == before


def test_a_sweep_here_needs_no_dask(tiny_book, tmp_path, monkeypatch):
    tiny_book()
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    assert rerun.sweep("tiny", {}, seeds=1, output=tmp_path).ok


def test_a_disk_that_is_full_is_named_and_loses_nothing(tiny_book, tmp_path, monkeypatch):
    tiny_book()
    output = tmp_path / "out"
    done = rerun.sweep("tiny", {}, seeds=1, output=output)
    held = done.path.read_bytes()

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*\.yml: No space left on device; its disk"):
        rerun.sweep("tiny", {}, seeds=1, output=output)
    assert done.path.read_bytes() == held
    assert rerun.report(done.path).table.shape[0] == 1


# on this machine


def test_a_second_call_runs_only_what_is_missing_failed_or_changed(tiny_book, tmp_path):
    tiny_book("assert (rate, seed) != (0.5, 1), 'no luck'")
    first = rerun.sweep("tiny", {"rate": [0, 0.5]}, seeds=2, output=tmp_path, jobs=2)
    assert collections.Counter(first.states.values()) == {"ran": 3, "failed": 1}
    (problem,) = first.problems.values()
    assert problem.startswith("cell 5: AssertionError: no luck (see ")
    report = rerun.report(first.path)
    assert len(report.table) == 3
    assert any("1 run left out, failed: " in remark for remark in report.remarks)

    damaged = next(name for name, state in first.states.items() if state == "ran")
    os.truncate(tmp_path / damaged / "results.json", 10)
    again = rerun.sweep("tiny", {"rate": [0, 0.5, 1]}, seeds=2, output=tmp_path, jobs=2)
    assert collections.Counter(again.states.values()) == {"found": 2, "ran": 3, "failed": 1}
    assert again.states[damaged] == "ran"

    tiny_book("# mended")
    last = rerun.sweep("tiny", {"rate": [0, 0.5, 1]}, seeds=2, output=tmp_path, jobs=2)
    assert set(last.states.values()) == {"ran"}
    assert not set(last.states) & set(again.states)
    differences = rerun.report(last.path, metric="tiny-value").differences
    assert differences["level"].tolist() == ["rate=0.5", "rate=1.0"]
    assert differences["mean"].tolist() == pytest.approx([0.5, 1])


def test_workers_get_a_gpu_each(tiny_book, tmp_path, monkeypatch):
    tiny_book("import os\nkeep('card', os.environ.get('CUDA_VISIBLE_DEVICES'))")
    (plan, other) = execution.plans("tiny", [{"slow": 1}, {"slow": 2}])
    output = execution.output_folder(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    workers = sweeping._Here(2, sweeping.gpus())
    try:
        futures = [workers.submit(each, str(output), None, "nowhere") for each in (plan, other)]
        assert [workers.answer(future) for future in futures] == [("ran", "")] * 2
    finally:
        workers.close()
    cards = {rerun.Result(output / each.name).values["card"] for each in (plan, other)}
    assert cards == {"2", "5"}


@pytest.mark.parametrize(("device", "cards"), [("auto", {"2", "5"}), ("cpu", {None})])
def test_runs_that_may_take_a_gpu_share_out_those_there_are(
    tiny_book, tmp_path, monkeypatch, device, cards
):
    tiny_book("import os\nkeep('card', os.environ.get('CUDA_VISIBLE_DEVICES'))")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sweeping, "gpus", lambda: ["2", "5"])
    # runs of a second, so that neither worker takes both
    parameters = {"device": device, "slow": 1.0}
    outcome = rerun.sweep("tiny", seeds=2, parameters=parameters, output=tmp_path, jobs=2)
    found = {rerun.Result(tmp_path / name).values["card"] for name in outcome.states}
    assert found == cards


def listening(process):
    """The addresses that a process and its children listen on, by whether it is a child."""
    found = {False: set(), True: set()}
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = each.net_connections("inet")
            listen = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN or not s.raddr}
            found[each != process] |= listen
    return found


def test_a_sweep_here_listens_on_nothing_and_its_kernels_on_loopback(tiny_book, tmp_path, start):
    tiny_book()
    flags = ("--grid", "slow=5,6", "--jobs", 2, "-o", tmp_path / "out")
    process = start("modalign", "sweep", "tiny", *flags)
    own, kernels = set(), set()

    def look():
        found = listening(psutil.Process(process.pid))
        own.update(found[False])
        kernels.update(found[True])
        return kernels and count(tmp_path / "out", "started") == 2

    until(look, "both kernels")
    end = time.monotonic() + 3  # and what they open later
    while time.monotonic() < end:
        look()
        time.sleep(0.1)
    assert len(psutil.Process(process.pid).children(recursive=True)) >= 2
    assert own == set()
    assert kernels == {"127.0.0.1"}


@pytest.mark.parametrize("seconds", [0, 0.4, 1.2])
def test_an_early_ctrl_c_ends_a_sweep_without_a_traceback(tiny_book, tmp_path, start, seconds):
    tiny_book()
    output = tmp_path / "out"
    flags = ("--grid", "slow=300", "--seeds", 3, "--jobs", 2, "-o", output)
    process = start("modalign", "sweep", "tiny", *flags)
    until(output.exists, "the sweep to begin")
    time.sleep(seconds)
    children = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, process.said()
    assert "Traceback" not in process.said()
    assert not alive(children)
    assert count(output, "finished") == count(output, "failed") == 0
    assert not list((output / execution.LOCKS).glob("go-*"))
    assert not list((output / execution.LOCKS).glob("stop-*"))


def test_ctrl_c_ends_the_kernels_and_keeps_what_is_finished(tiny_book, tmp_path, start):
    tiny_book()
    output = tmp_path / "out"
    flags = ("--grid", "slow=0,300", "--seeds", 2, "--jobs", 2, "-o", output)
    process = start("modalign", "sweep", "tiny", *flags)
    until(lambda: count(output, "finished") >= 1 and count(output, "started") >= 2, "a run")
    until(lambda: count(output, "started") > count(output, "finished"), "a slow run")
    children = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, process.said()
    said = process.said()
    assert "runs that are not finished are ended" in said
    assert "Traceback" not in said
    until(lambda: not alive(children), "the kernels to end")
    finished = count(output, "finished")
    assert f"{finished} ran, {4 - finished} stopped" in said, said
    assert count(output, "failed") == 0

    done = rerun.sweep("tiny", {"slow": [0]}, seeds=2, output=output, jobs=1)
    assert set(done.states.values()) <= {"found", "ran"}
    assert "found" in done.states.values()


def test_a_notebook_edited_during_a_sweep_changes_nothing_and_is_told(tiny_book, tmp_path):
    root = tiny_book()
    notebook = root / "notebooks" / "tiny.ipynb"

    def edit():
        until(lambda: count(tmp_path, "started") >= 1, "the sweep to start")
        notebook.write_text(notebook.read_text().replace(" + rate", " + 100"))

    editor = threading.Thread(target=edit)
    editor.start()
    done = rerun.sweep("tiny", {"rate": [0]}, seeds=4, output=tmp_path, jobs=1)
    editor.join()
    assert "+ 100" in notebook.read_text()
    assert set(done.states.values()) == {"ran"}
    values = rerun.report(done.path).table["tiny-value"]
    assert values.max() < 1
    assert any("The notebook changed meanwhile" in remark for remark in done.remarks)


def test_source_changed_during_a_sweep_is_no_run_of_the_plan(tiny_book, tmp_path):
    root = tiny_book()
    (plan,) = execution.plans("tiny", [{}])
    (root / "constraints.txt").write_text("torch==0\n")
    state, problem = sweeping.perform_on_worker(plan, str(tmp_path), None, str(tmp_path / "stop"))
    assert state == "failed"
    assert "is not that of the plan" in problem


def test_two_sweeps_into_one_folder_share_the_runs(tiny_book, tmp_path, start):
    tiny_book()
    output = tmp_path / "out"
    flags = ("--grid", "rate=0,0.5", "--seeds", 3, "--jobs", 2, "-o", output)
    both = [start("modalign", "sweep", "tiny", *flags) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert_each_run_was_finished_once(output, 6)
    assert count(output, "started") == 6


# on workers started by hand


def test_a_killed_workers_run_is_made_again_and_no_other(tiny_book, tmp_path, cluster):
    tiny_book()
    output, killed = tmp_path / "out", []

    def kill_twice():
        for number in range(2):
            before = count(output, "finished")
            until(lambda before=before: count(output, "finished") > before, "a run to finish")
            worker = cluster.workers[number]
            killed.append(run_of(worker))
            worker.end()
            cluster.workers[number] = cluster.start_worker()

    def run_of(worker):
        found = []
        until(lambda: found.extend(running(worker)) or found, "the worker to run something")
        return found[0]

    def running(worker):
        # a worker that was just started gets its processes later
        pids = [each.pid for each in psutil.Process(worker.pid).children(recursive=True)]
        lasts = [(name, lines[-1]) for name, lines in events(output).items() if lines]
        return [name for name, last in lasts if last["event"] == "started" and last["pid"] in pids]

    killer = threading.Thread(target=kill_twice)
    killer.start()
    done = rerun.sweep(
        "tiny", {"rate": [0, 0.5], "slow": [2]}, seeds=5, output=output, scheduler=cluster.address
    )
    killer.join()
    # found: by the worker that finished it, and died before it could say so
    assert set(done.states.values()) <= {"ran", "found"}
    assert_each_run_was_finished_once(output, 10)
    again = {name for name, lines in events(output).items() if len(lines) > 2}
    assert again
    assert again <= set(killed)


def test_a_restarted_scheduler_costs_no_finished_run(tiny_book, tmp_path, cluster):
    tiny_book()
    output = tmp_path / "out"

    def restart():
        until(lambda: count(output, "finished") >= 2, "two runs to finish")
        cluster.scheduler.end()
        for worker in cluster.workers:
            worker.end()
        cluster.start_scheduler()
        cluster.workers = [cluster.start_worker() for _ in range(2)]

    restarter = threading.Thread(target=restart)
    restarter.start()
    done = rerun.sweep(
        "tiny", {"rate": [0, 0.5], "slow": [1]}, seeds=4, output=output, scheduler=cluster.address
    )
    restarter.join()
    assert done.ok
    assert_each_run_was_finished_once(output, 8)


def test_a_run_that_kills_its_worker_is_told_and_not_tried_for_ever(tiny_book, tmp_path, cluster):
    tiny_book("import os, signal\nif seed == 1: os.kill(os.getppid(), signal.SIGKILL)")
    done = rerun.sweep("tiny", {}, seeds=2, output=tmp_path, scheduler=cluster.address)
    assert sorted(done.states.values()) == ["failed", "ran"]
    (problem,) = done.problems.values()
    assert "its worker died each time it was tried" in problem
