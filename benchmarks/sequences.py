"""LARS, the normalisations and the projection beside PyTorch's own, in one process on one thread.

python -m benchmarks.sequences [--repeats 15] [--json FILE]

Times are the median of paired repeats, as in benchmarks.common. A cost above 1 says that ours is
slower. The peers do less than ours: Adam takes no norms, nn.LSTM normalises nothing and
nn.BatchNorm1d knows no padding. Sizes are those of NeuMATCH: its 46 tensors, and batches of 32
sequences of up to 100 steps and 300 features.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.common import paired, parser, write
from modalign.lars import LARS
from modalign.normalization import LayerNormLSTM, SequenceBatchNorm
from modalign.projection import RandomProjection

B, T, P = 32, 100, 300


def neumatch_tensors() -> list[Tensor]:
    """The 3,408,415 numbers that NeuMATCH trains, in tensors of their shapes."""
    lstms = [nn.LSTM(i, h, 2) for i, h in [(P, P), (P, P), (3, 8), (600, 20)]]
    layers = [nn.Linear(P, P), nn.Linear(P, P), nn.Linear(P, P), nn.Linear(638, P), nn.Linear(P, 3)]
    norms = [nn.BatchNorm1d(P), nn.BatchNorm1d(P)]
    return list(nn.ModuleList([*lstms, *layers, *norms]).parameters())


def optimizer_steps() -> dict[str, Callable[[], object]]:
    calls: dict[str, Callable[[], object]] = {}
    for name, make in [
        ("LARS", LARS),
        ("torch.optim.Adam(foreach=True)", lambda p: torch.optim.Adam(p, foreach=True)),
    ]:
        torch.manual_seed(0)
        parameters = neumatch_tensors()
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        calls[name] = make(parameters).step
    return calls


def passes(layers: dict[str, Callable[[Tensor], Tensor]]) -> dict[str, Callable[[], object]]:
    """Forward and backward of each layer on one padded batch."""
    torch.manual_seed(0)
    x, weights = torch.randn(B, T, P), torch.randn(B, T, P)

    def one(layer: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: (layer(x.clone().requires_grad_()) * weights).sum().backward()

    return {name: one(layer) for name, layer in layers.items()}


def cases() -> dict[str, dict[str, Callable[[], object]]]:
    lengths = torch.linspace(30, T, B).long()
    ours, theirs = LayerNormLSTM(P, P, batch_first=True), nn.LSTM(P, P, batch_first=True)
    padded, plain = SequenceBatchNorm(P), nn.BatchNorm1d(P)
    project, x = RandomProjection(2048, P), torch.randn(B * T, 2048)
    sparse = project.matrix.to_sparse_csr()
    return {
        "step of 46 tensors": optimizer_steps(),
        "LSTM, forward and backward": passes(
            {"LayerNormLSTM": lambda x: ours(x)[0], "nn.LSTM": lambda x: theirs(x)[0]}
        ),
        "batch norm, forward and backward": passes(
            {
                "SequenceBatchNorm": lambda x: padded(x, lengths),
                "nn.BatchNorm1d": lambda x: plain(x.flatten(0, 1)).view_as(x),
            }
        ),
        "projection of 2048 to 300": {
            "RandomProjection": lambda: project(x),
            "sparse CSR product": lambda: sparse @ x.T,
        },
    }


def main() -> None:
    arguments = parser(__doc__, repeats=15).parse_args()
    rows = []
    print(f"{'case':34} {'ours':18} {'peer':32} {'ours ms':>8} {'peer ms':>8} {'cost':>6}")
    for case, calls in cases().items():
        (ours, own), (peer, other) = paired(calls, arguments.repeats, case).items()
        rows.append({"case": case, "ours_ms": 1e3 * own, "peer_ms": 1e3 * other})
        print(
            f"{case:34} {ours:18} {peer:32} {1e3 * own:8.2f} {1e3 * other:8.2f} {own / other:6.2f}"
        )
    write(arguments.json, rows=rows)


if __name__ == "__main__":
    main()
