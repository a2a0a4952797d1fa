"""The loop beside the same loop written by hand, in one process on one thread.

python -m benchmarks.training [--repeats 15] [--json FILE]

Both train one perceptron on the same batches with Adam, and read every loss; they end with the
same weights. They alternate, so that both see the same machine, and processor time is counted.
Times are medians over the repeats; what the loop adds is the median of paired differences, less
what a call costs before its first step, which is given by itself.
"""

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

from benchmarks.common import parser, write
from modalign.training import fit, seeded, shuffled

WIDTHS = (64, 512, 640)
BATCH, STEPS = 64, 50


def perceptron(width: int) -> nn.Sequential:
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch["x"]), batch["y"])


class Loops:
    """One perceptron trained by :func:`fit` and by hand."""

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(width)
        x = torch.randn(BATCH * STEPS, width, generator=generator)
        self.width, self.batches = width, shuffled({"x": x, "y": x.mean(1, keepdim=True)}, BATCH)

    def begin(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = seeded(lambda: perceptron(self.width), 0)
        return model, torch.optim.Adam(model.parameters())

    def by_fit(self, epochs: int, **options: Any) -> nn.Module:
        model, optimizer = self.begin()
        settings = {"optimizer": optimizer, "epochs": epochs, "device": "cpu", "progress": False}
        fit(model, loss, self.batches, **settings, **options)
        return model

    def by_hand(self, epochs: int) -> nn.Module:
        model, optimizer = self.begin()
        total = 0.0
        for epoch in range(epochs):
            for batch in self.batches(epoch):
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                optimizer.step()
                total += value.item()
        return model


def milliseconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def compare(width: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step by hand and by fit, of what fit adds to it, and of a call."""
    loops = Loops(width)
    ours, bare = (list(train(1).parameters()) for train in (loops.by_fit, loops.by_hand))
    assert all(map(torch.equal, ours, bare)), "the two loops train differently"
    rows = []
    for repeat in tqdm(range(repeats), desc=f"width {width}", leave=False):
        order = [loops.by_fit, loops.by_hand][:: 1 if repeat % 2 else -1]
        taken = {
            (train, epochs): milliseconds(lambda train=train, epochs=epochs: train(epochs))
            for train in order
            for epochs in (0, 1)
        }
        steps = {t: (taken[t, 1] - taken[t, 0]) / STEPS for t in order}
        rows.append(
            {
                "by hand": steps[loops.by_hand],
                "fit": steps[loops.by_fit],
                "added": steps[loops.by_fit] - steps[loops.by_hand],
                "call": taken[loops.by_fit, 0] - taken[loops.by_hand, 0],
            }
        )
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def checkpoint(width: int, repeats: int) -> dict[str, float]:
    """Milliseconds that the checkpoint of an epoch takes, and its megabytes."""
    loops = Loops(width)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "run.pt"
        taken = [
            milliseconds(lambda: loops.by_fit(1, checkpoint=path, resume=False))
            - milliseconds(lambda: loops.by_fit(1))
            for _ in range(repeats)
        ]
        return {"ms": statistics.median(taken), "mb": path.stat().st_size / 1e6}


def main() -> None:
    arguments = parser(__doc__, repeats=15).parse_args()
    table = {}
    print("perceptron of width   by hand, ms a step     fit   added us   added %   a call, ms")
    for width in WIDTHS:
        found = table[width] = compare(width, arguments.repeats)
        print(
            f"{width:>19}   {found['by hand']:>18.2f} {found['fit']:>7.2f} "
            f"{1e3 * found['added']:>10.0f} {100 * found['added'] / found['by hand']:>9.1f} "
            f"{found['call']:>12.1f}"
        )
    kept = checkpoint(WIDTHS[-1], arguments.repeats)
    print(f"a checkpoint of {kept['mb']:.1f} MB: {kept['ms']:.0f} ms")
    write(arguments.json, steps=table, checkpoint=kept)


if __name__ == "__main__":
    main()
