"""What the benchmarks share: options of the command, paired times, and rows with provenance."""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from modalign.records import provenance

torch.set_num_threads(1)  # in every benchmark, whatever the environment says


def parser(about: str, *, repeats: int) -> argparse.ArgumentParser:
    """The options of every benchmark; a description is the first line of its docstring."""
    found = argparse.ArgumentParser(description=about.splitlines()[0])
    found.add_argument("--repeats", type=int, default=repeats, help="paired repeats a case")
    found.add_argument("--json", help="also write the rows and their provenance to this file")
    return found


def paired(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    label: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each call, by a clock, taken in turn after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in tqdm(range(repeats + 1), desc=label, leave=False):
        order = list(calls.items())
        for name, call in order if repeat % 2 else reversed(order):
            start = clock()
            call()
            if repeat:
                times[name].append(clock() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def write(path: str | None, **found: object) -> None:
    """Write what was found beside its provenance, where a path is given."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**found, "provenance": provenance()}, file, indent=2)
