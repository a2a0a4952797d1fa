"""CKA beside published packages, forward and backward, in one process on one thread.

python -m benchmarks.cka [--repeats 15] [--json FILE]

Times are the median of paired repeats: ours and the peer's alternate, so that both see the same
machine. A ratio above 1 says that ours is faster. The error of a map is its largest difference from
the same activations compared in float64 by the formula of Song et al. (2012) as printed.
"""

import contextlib
import warnings
from collections.abc import Callable

import torch
from cka import CKA as PytorchCKA
from cka.cka import cka_from_features
from torch import Tensor, nn
from torch_cka import CKA as TorchCKA
from transformers import ResNetConfig, ResNetModel

from benchmarks.common import paired, parser, write
from modalign.cka import cka, cka_matrix
from modalign.layers import layer_cka

SHAPES = [(512, 64), (512, 1024), (4096, 256), (256, 4096)]


def step(measure: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], object]:
    """One forward and backward pass."""
    return lambda: torch.autograd.grad(measure(x, y).sum(), (x, y))


def by_autograd(x: Tensor, y: Tensor) -> Tensor:
    """Feature-side linear CKA whose gradient is left to autograd."""
    x, y = x - x.mean(0), y - y.mean(0)
    norms = (x.T @ x).norm() * (y.T @ y).norm()
    return (x.T @ y).square().sum() / norms


def debiased_by_autograd(x: Tensor, y: Tensor) -> Tensor:
    """The same, debiased: what U-centring takes off, from the diagonals of the Gram matrices."""
    x, y = x - x.mean(0), y - y.mean(0)
    n, k, l = len(x), x.square().sum(1), y.square().sum(1)

    def term(product: Tensor, k: Tensor, l: Tensor) -> Tensor:
        return product.square().sum() - (n * (k * l).sum() - k.sum() * l.sum() / (n - 1)) / (n - 2)

    return term(x.T @ y, k, l) / (term(x.T @ x, k, k) * term(y.T @ y, l, l)).sqrt()


def losses(repeats: int) -> list[dict]:
    rows = []
    for n, d in SHAPES:
        generator = torch.Generator().manual_seed(n + d)
        x = torch.randn(n, d, generator=generator).requires_grad_()
        y = (x.detach() + torch.randn(n, d, generator=generator)).requires_grad_()
        seconds = paired(
            {
                "ours": step(cka, x, y),
                "ours debiased": step(lambda x, y: cka(x, y, debiased=True), x, y),
                "pytorch-cka": step(cka_from_features, x, y),
                "feature side by autograd": step(by_autograd, x, y),
                "the same, debiased": step(debiased_by_autograd, x, y),
            },
            repeats,
            f"{n} x {d}",
        )
        rows += [
            {
                "case": f"loss {n} x {d}, {ours}",
                "peer": peer,
                "ours_ms": 1e3 * seconds[ours],
                "peer_ms": 1e3 * seconds[peer],
                "ratio": seconds[peer] / seconds[ours],
            }
            for ours, peer in [
                ("ours", "pytorch-cka"),
                ("ours debiased", "pytorch-cka"),
                ("ours", "feature side by autograd"),
                ("ours debiased", "feature side by autograd"),
                ("ours debiased", "the same, debiased"),
            ]
        ]
    return rows


def mlp(depth: int = 12, width: int = 128) -> nn.Sequential:
    layers = [
        nn.Sequential(nn.Linear(64 if i == 0 else width, width), nn.ReLU()) for i in range(depth)
    ]
    return nn.Sequential(*layers)


def cnn(depth: int = 8, width: int = 32) -> nn.Sequential:
    layers = [
        nn.Sequential(nn.Conv2d(1 if i == 0 else width, width, 3, padding=1), nn.ReLU())
        for i in range(depth)
    ]
    return nn.Sequential(*layers)


@torch.inference_mode()
def activations(network: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    outputs = []
    for layer in network:
        inputs = layer(inputs)
        outputs.append(inputs.flatten(1))
    return outputs


def exact(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """The same map by the literal formula in float64."""

    def gram(x: Tensor) -> Tensor:
        x = x.double() - x.double().mean(0)
        return (x @ x.T).fill_diagonal_(0)

    def hsic(k: Tensor, l: Tensor) -> Tensor:
        n, one = len(k), k.new_ones(len(k))
        sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (k * l).sum() + sums - 2 / (n - 2) * (one @ k @ l @ one)

    ks, ls = [gram(x) for x in xs], [gram(y) for y in ys]
    rows = [[hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt() for l in ls] for k in ks]
    return torch.tensor(rows)


def maps(repeats: int) -> list[dict]:
    rows = []
    for label, make, shape in [
        ("12-layer MLP", mlp, (256, 64)),
        ("8-layer CNN", cnn, (256, 1, 8, 8)),
    ]:
        networks = []
        for seed in range(2):
            torch.manual_seed(seed)
            networks.append(make().eval())
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        names = [str(i) for i in range(len(networks[0]))]
        found: dict[str, Tensor] = {}

        def ours(networks=networks, inputs=inputs, found=found) -> None:
            found["ours"] = cka_matrix(*(activations(net, inputs) for net in networks))

        def pytorch_cka(networks=networks, inputs=inputs, found=found, names=names) -> None:
            with PytorchCKA(*networks, layers=names, device="cpu") as peer:
                found["pytorch-cka"] = peer._compare([inputs], progress=False)

        def torch_cka(networks=networks, inputs=inputs, found=found, names=names) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                peer = TorchCKA(*networks, "a", "b", names, names)
            data = torch.utils.data.TensorDataset(inputs)
            loader = torch.utils.data.DataLoader(data, batch_size=len(inputs))
            # its own check for NaN raises; the map is kept all the same
            with torch.no_grad(), contextlib.suppress(AssertionError):
                peer.compare(loader)
            found["torch_cka"] = peer.hsic_matrix
            for net in networks:
                for layer in net:
                    layer._forward_hooks.clear()

        calls = {"ours": ours, "pytorch-cka": pytorch_cka, "torch_cka": torch_cka}
        seconds = paired(calls, repeats, label)
        truth = exact(*(activations(net, inputs) for net in networks))
        errors = {name: (value - truth).abs().max().item() for name, value in found.items()}
        rows += [
            {
                "case": f"map {label}",
                "peer": peer,
                "ours_ms": 1e3 * seconds["ours"],
                "peer_ms": 1e3 * seconds[peer],
                "ratio": seconds[peer] / seconds["ours"],
                "ours_error": errors["ours"],
                "peer_error": errors[peer],
            }
            for peer in ("pytorch-cka", "torch_cka")
        ]
    return rows


def resnet(seed: int) -> nn.Module:
    """ResNet-18 with random weights, what the peers' own examples compare."""
    torch.manual_seed(seed)
    return ResNetModel(
        ResNetConfig(
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
        )
    ).eval()


def loaders(repeats: int) -> list[dict]:
    """Maps of two networks over a loader, by the names of 8 blocks of each."""
    networks = resnet(0), resnet(1)
    names = [f"encoder.stages.{stage}.layers.{layer}" for stage in range(4) for layer in range(2)]
    inputs = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=64)
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = layer_cka(networks[0], data, other=networks[1], layers=names).matrix

    def pytorch_cka() -> None:
        with torch.no_grad(), PytorchCKA(*networks, layers=names, device="cpu") as peer:
            found["pytorch-cka"] = peer._compare([(batch[0]) for batch in data], progress=False)

    def torch_cka() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = TorchCKA(*networks, "a", "b", names, names)
        with torch.no_grad(), contextlib.suppress(AssertionError):
            peer.compare(data)
        found["torch_cka"] = peer.hsic_matrix
        for network in networks:
            for module in network.modules():
                module._forward_hooks.clear()

    calls = {"ours": ours, "pytorch-cka": pytorch_cka, "torch_cka": torch_cka}
    seconds = paired(calls, repeats, "ResNet-18, 256 pictures")
    return [
        {
            "case": "loader ResNet-18",
            "peer": peer,
            "ours_ms": 1e3 * seconds["ours"],
            "peer_ms": 1e3 * seconds[peer],
            "ratio": seconds[peer] / seconds["ours"],
        }
        for peer in ("pytorch-cka", "torch_cka")
    ]


def show(rows: list[dict]) -> str:
    lines = [
        f"{'case':36} {'peer':26} {'ours ms':>9} {'peer ms':>9} {'ratio':>6}  error ours / peer"
    ]
    for row in rows:
        error = f"{row['ours_error']:.0e} / {row['peer_error']:.0e}" if "ours_error" in row else ""
        lines.append(
            f"{row['case']:36} {row['peer']:26} {row['ours_ms']:9.2f} {row['peer_ms']:9.2f} "
            f"{row['ratio']:6.1f}  {error}"
        )
    return "\n".join(lines)


def main() -> None:
    arguments = parser(__doc__, repeats=15).parse_args()
    rows = losses(arguments.repeats) + maps(arguments.repeats)
    rows += loaders(max(1, arguments.repeats // 5))
    print(show(rows))
    write(arguments.json, rows=rows)


if __name__ == "__main__":
    main()
