"""Sixty runs on two workers, one of which is killed twice; and what a run costs beside papermill.

    python -m benchmarks.rerun [--seeds 30] [--repeats 3]

The sweep is the smoke preset of `cka-loss` with lambda_cka at 0 and 0.1, on a scheduler and
two workers started by hand on loopback. Prints how many runs were lost and how many were finished
twice, the time between runs, and the paired interval of the report.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import papermill

from modalign import rerun
from modalign.rerun import execution, inventory

METRIC = "cka-live-both-margin"


def start(*arguments: object) -> subprocess.Popen[bytes]:
    package = str(pathlib.Path(rerun.__file__).parents[2])
    paths = [package, os.environ.get("PYTHONPATH")]
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def journals(output: pathlib.Path) -> dict[str, list[dict[str, str]]]:
    paths = (output / execution.LOCKS).glob("*.jsonl")
    return {path.stem: execution.journal(path.stem, output) for path in paths}


def finished(output: pathlib.Path) -> int:
    return sum(line["event"] == "finished" for lines in journals(output).values() for line in lines)


def sweep(output: pathlib.Path, seeds: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    host, port = address.removeprefix("tcp://").split(":")
    # dask opens the dashboard's port on all interfaces unless it is told where
    here = ("--host", host, "--dashboard-address", f"{host}:0")
    options = (address, "--nworkers", 1, "--nthreads", 1, *here)
    scheduler = start("dask", "scheduler", "--port", port, *here)
    workers = [start("dask", "worker", *options, "--local-directory", output) for _ in range(2)]
    total, kills = 2 * seeds, []

    def kill_twice() -> None:
        for part in (1 / 4, 1 / 2):
            while finished(output) < part * total:
                time.sleep(0.5)
            time.sleep(2)
            kill(workers[0])
            kills.append(finished(output))
            workers[0] = start("dask", "worker", *options, "--local-directory", output)

    killer = threading.Thread(target=kill_twice, daemon=True)
    killer.start()
    began = time.perf_counter()
    try:
        outcome = rerun.sweep(
            "cka-loss",
            {"lambda_cka": [0, 0.1]},
            seeds=seeds,
            preset="smoke",
            output=output,
            scheduler=address,
        )
    finally:
        for process in (*workers, scheduler):
            kill(process)
    seconds = time.perf_counter() - began
    print(outcome)
    told = {name: [line["event"] for line in lines] for name, lines in journals(output).items()}
    lost = [name for name in outcome.states if not execution.finished(output / name)]
    twice = [name for name, events in told.items() if events.count("finished") > 1]
    again = [name for name, events in told.items() if events.count("started") > 1]
    print(f"{len(outcome.states)} runs in {seconds / 60:.1f} min, worker killed after {kills} runs")
    print(f"runs lost: {len(lost)}; finished runs repeated: {len(twice)}")
    print(f"unfinished runs of the killed worker made again: {len(again)}")
    print(f"from one run's end to the next one's start, median: {gap(output):.0f} ms")
    print(rerun.report(outcome.path, metric=METRIC))


def gap(output: pathlib.Path) -> float:
    """Median milliseconds between the end of a run and the next start in the same worker."""
    lines = sorted(
        (line["pid"], datetime.datetime.fromisoformat(line["date"]), line["event"])
        for lines in journals(output).values()
        for line in lines
    )
    gaps = [
        (later[1] - earlier[1]).total_seconds() * 1e3
        for earlier, later in itertools.pairwise(lines)
        if earlier[0] == later[0] and (earlier[2], later[2]) == ("finished", "started")
    ]
    return statistics.median(gaps)


def overhead(repeats: int) -> None:
    """The smoke preset by papermill alone and by us, in turn, in one process."""
    root = inventory.book_root()
    values = rerun.presets("cka-loss")["smoke"]
    times: dict[str, list[float]] = {"papermill": [], "modalign": []}
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            papermill.execute_notebook(
                str(root / "notebooks" / "cka-loss.ipynb"),
                f"{folder}/out.ipynb",
                {**values, "seed": number},
                kernel_name="python3",
                cwd=root,
                progress_bar=False,
            )
            times["papermill"].append(time.perf_counter() - began)
            began = time.perf_counter()
            rerun.run("cka-loss", {"seed": number}, preset="smoke", output=folder, progress=False)
            times["modalign"].append(time.perf_counter() - began)
    bare, ours = (statistics.median(times[name]) for name in times)
    pairs = zip(times["modalign"], times["papermill"], strict=True)
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"papermill {bare:.2f} s, modalign run {ours:.2f} s (medians of {repeats})")
    print(f"a run beside papermill, median of pairs: {100 * (ratio - 1):+.1f}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30, help="two runs each; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=3, help="of the single run; 0 leaves it out")
    chosen = parser.parse_args()
    if chosen.repeats:
        overhead(chosen.repeats)
    if chosen.seeds:
        with tempfile.TemporaryDirectory() as folder:
            sweep(pathlib.Path(folder), chosen.seeds)


if __name__ == "__main__":
    main()
