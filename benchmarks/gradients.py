"""Harmonised backward passes beside TorchJD and flatten-and-project, in one process on one thread.

python -m benchmarks.gradients [--repeats 15] [--json FILE]

One trunk of 4 layers and width 256 reads 32 videos of 32 tokens, sounds of 16 and texts of 8; two
contrastive losses share its video side. Each call is a forward pass and the backward passes, and
leaves gradients of 3.2 million parameters. Times are the median of paired repeats, as in
benchmarks.common, over those of a summed loss with one backward pass (*plain*). The floor is two
backward passes and nothing else. Memory is the most that torch held during a call beyond what it
held before, by its profiler.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torchjd.aggregation import PCGrad
from torchjd.autojac import backward, jac_to_grad

from benchmarks.common import paired, parser, write
from modalign.gradients import GradientCurriculum, harmonized_backward

BATCH, WIDTH, TOKENS = 32, 256, {"video": 32, "audio": 16, "text": 8}


class Trimodal(nn.Module):
    """One trunk for three modalities, and a common space."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.trunk = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, 128) for name in TOKENS})

    def forward(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of each clip, video to audio and to text, and the features of the video."""
        features = {name: self.trunk(x).mean(1) for name, x in tokens.items()}
        z = {name: functional.normalize(self.heads[name](x), dim=1) for name, x in features.items()}
        pairs = torch.arange(BATCH)
        audio, text = (
            functional.cross_entropy(z["video"] @ z[name].T / 0.07, pairs, reduction="none")
            for name in ("audio", "text")
        )
        return audio, text, features["video"]


def cases(model: Trimodal, tokens: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
    parameters = list(model.parameters())

    def step(after: Callable[[Tensor, Tensor], object]) -> Callable[[], object]:
        def call() -> None:
            model.zero_grad()
            a, b, _ = model(tokens)
            after(a.mean(), b.mean())

        return call

    def two(a: Tensor, b: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        return (
            torch.autograd.grad(a, parameters, retain_graph=True, allow_unused=True),
            torch.autograd.grad(b, parameters, allow_unused=True),
        )

    def flattened(a: Tensor, b: Tensor) -> None:
        """PCGrad as it is often published: copies of whole gradients at every stage."""
        grads = [
            [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, each, strict=True)]
            for each in two(a, b)
        ]
        flat = [torch.cat([g.flatten() for g in each]) for each in grads]
        projected = [each.clone() for each in flat]
        for new, other in zip(projected, reversed(flat), strict=True):
            if (product := new @ other) < 0:
                new -= product / other.norm() ** 2 * other
        total = torch.stack(projected).sum(0)
        for p, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p).clone()

    def torchjd(chunk: int | None) -> Callable[[Tensor, Tensor], None]:
        def after(a: Tensor, b: Tensor) -> None:
            backward([a, b], inputs=parameters, parallel_chunk_size=chunk)
            jac_to_grad(parameters, PCGrad())

        return after

    def sample(realign: bool) -> Callable[[], object]:
        def call() -> None:
            model.zero_grad()
            a, b, features = model(tokens)
            harmonized_backward(
                a,
                b,
                parameters,
                granularity="sample",
                features=features,
                realign=realign,
                curriculum=GradientCurriculum(-1, -1, steps=1),
            )

        return call

    def ours(a: Tensor, b: Tensor) -> None:
        harmonized_backward(a, b, parameters, realign=True)

    return {
        "plain": step(lambda a, b: (a + b).backward()),
        "floor": step(two),
        "ours": step(ours),
        "ours, sample": sample(False),
        "ours, sample, realigned": sample(True),
        "flatten and project": step(flattened),
        "torchjd": step(torchjd(None)),
        "torchjd, one by one": step(torchjd(1)),
    }


def most_held(call: Callable[[], object]) -> int:
    """Bytes of tensors at the highest point of a call, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def main() -> None:
    given = parser(__doc__, repeats=15).parse_args()
    torch.manual_seed(0)
    model = Trimodal()
    tokens = {name: torch.randn(BATCH, n, WIDTH) for name, n in TOKENS.items()}
    calls = cases(model, tokens)
    seconds = paired(calls, given.repeats, "backward")
    memory = {}
    for name, call in calls.items():
        model.zero_grad()
        memory[name] = most_held(call)
    rows = []
    for name in calls:
        row = {
            "backward": name,
            "seconds": seconds[name],
            "over plain": seconds[name] / seconds["plain"],
            "bytes": memory[name],
            "memory over plain": memory[name] / memory["plain"],
        }
        rows.append(row)
        print(
            f"{name:24} {1e3 * row['seconds']:7.1f} ms  {row['over plain']:.2f}x plain"
            f"  {row['bytes'] / 2**20:6.1f} MiB  {row['memory over plain']:.2f}x plain"
        )
    write(given.json, rows=rows)


if __name__ == "__main__":
    main()
