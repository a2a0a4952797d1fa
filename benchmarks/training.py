"""The loop beside the same loop written by hand, in one process on one thread.

python -m benchmarks.training [--repeats 15] [--json FILE]

Both train one perceptron on the same batches with Adam, and read every loss; they end with the
same weights. Runs alternate, so that both see the same machine: microseconds a step are medians
over the repeats, and what the loop adds is the median of the paired differences. A checkpoint is
timed by itself.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from modalign.records import provenance
from modalign.training import fit, seeded, shuffled

WIDTHS = (64, 512, 768)
BATCH, STEPS = 64, 60


def perceptron(width: int) -> nn.Sequential:
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch["x"]), batch["y"])


def runs(width: int) -> dict[str, Callable[[], nn.Module]]:
    """One epoch of training, by :func:`fit` and by hand."""
    generator = torch.Generator().manual_seed(width)
    data = {"x": torch.randn(BATCH * STEPS, width, generator=generator)}
    data["y"] = data["x"].mean(1, keepdim=True)
    batches = shuffled(data, BATCH)

    def by_fit(**options: Any) -> nn.Module:
        model = seeded(lambda: perceptron(width), 0)
        optimizer = torch.optim.Adam(model.parameters())
        settings = {"epochs": 1, "device": "cpu", "progress": False} | options
        fit(model, loss, batches, optimizer=optimizer, **settings)
        return model

    def by_hand() -> nn.Module:
        model = seeded(lambda: perceptron(width), 0)
        optimizer = torch.optim.Adam(model.parameters())
        total = 0.0
        for batch in batches(0):
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            optimizer.step()
            total += value.item()
        return model

    return {"fit": by_fit, "by hand": by_hand}


def compare(width: int, repeats: int) -> dict[str, float]:
    """Microseconds a step of both, and what the loop adds."""
    calls = runs(width)
    weights = [list(call().parameters()) for call in calls.values()]
    assert all(map(torch.equal, *weights)), "the two loops train differently"
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in tqdm(range(repeats), desc=f"width {width}", leave=False):
        order = list(calls.items())
        for name, call in order if repeat % 2 else reversed(order):
            start = time.perf_counter()
            call()
            times[name].append(1e6 * (time.perf_counter() - start) / STEPS)
    added = [ours - bare for ours, bare in zip(times["fit"], times["by hand"], strict=True)]
    return {name: statistics.median(taken) for name, taken in (times | {"added": added}).items()}


def checkpoint_seconds(width: int, repeats: int) -> tuple[float, float]:
    """Seconds that one checkpoint takes, and its size in MB."""
    by_fit, taken = runs(width)["fit"], []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "run.pt"
        for _ in range(repeats):
            seconds = []
            for options in ({}, {"checkpoint": path, "resume": False}):
                start = time.perf_counter()
                by_fit(**options)
                seconds.append(time.perf_counter() - start)
            taken.append(seconds[1] - seconds[0])
        return statistics.median(taken), path.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="also write the table here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    print("perceptron of width   by hand us   fit us   added us   added %")
    for width in WIDTHS:
        found = table[width] = compare(width, arguments.repeats)
        share = 100 * found["added"] / found["by hand"]
        print(
            f"{width:>19}   {found['by hand']:>10.0f} {found['fit']:>8.0f} {found['added']:>10.0f} "
            f"{share:>9.1f}"
        )
    seconds, size = checkpoint_seconds(WIDTHS[-1], arguments.repeats)
    print(f"a checkpoint of {size:.1f} MB takes {1e3 * seconds:.0f} ms")
    if arguments.json:
        record = {"steps": table, "checkpoint_s": seconds, "checkpoint_mb": size}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(record | {"provenance": provenance()}, file, indent=1)


if __name__ == "__main__":
    main()
