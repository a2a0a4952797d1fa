"""IPOT beside two transcriptions of its algorithm, in one process on one thread.

python -m benchmarks.transport [--repeats 7] [--json FILE]

512 features, 4,000 prototypes, 50 steps, float32, as in the paper. Times are the median of
paired repeats, as in benchmarks.common. *direct* is algorithm 2 in torch with fresh temporaries and
broadcasting in place of diagonal matrices; *diag* multiplies by diagonal matrices as it is printed,
and runs two steps only, whose time is scaled up.
"""

import torch
from torch import Tensor

from benchmarks.common import paired, parser, write
from modalign.transport import ipot

N, K, OUTER, BETA = 512, 4000, 50, 0.5


def direct(cost: Tensor, outer: int = OUTER) -> Tensor:
    n, k = cost.shape
    sigma = torch.full((k, 1), 1 / k)
    plan, kernel = torch.ones_like(cost), torch.exp(-cost / BETA)
    for _ in range(outer):
        q = kernel * plan
        delta = 1 / (n * (q @ sigma))
        sigma = 1 / (k * (q.T @ delta))
        plan = delta * q * sigma.T
    return plan


def diag(cost: Tensor, outer: int) -> Tensor:
    n, k = cost.shape
    sigma = torch.full((k,), 1 / k)
    plan, kernel = torch.ones_like(cost), torch.exp(-cost / BETA)
    for _ in range(outer):
        q = kernel * plan
        delta = 1 / (n * (q @ sigma))
        sigma = 1 / (k * (q.T @ delta))
        plan = torch.diag(delta) @ q @ torch.diag(sigma)
    return plan


def main() -> None:
    given = parser(__doc__, repeats=7).parse_args()
    generator = torch.Generator().manual_seed(0)
    z, c = (torch.randn(rows, 256, generator=generator) for rows in (N, K))
    cost = 1 - torch.nn.functional.normalize(z, dim=1) @ torch.nn.functional.normalize(c, dim=1).T
    gap = (ipot(cost, beta=BETA) - direct(cost)).abs().max() * N * K
    logs = (ipot(cost, beta=BETA, method="log") - direct(cost)).abs().max() * N * K
    times = paired(
        {
            "scaled": lambda: ipot(cost, beta=BETA),
            "log": lambda: ipot(cost, beta=BETA, method="log"),
            "direct": lambda: direct(cost),
            "diag": lambda: diag(cost, 2),
        },
        given.repeats,
        "ipot",
    )
    times["diag"] *= OUTER / 2
    print(f"{N} x {K}, {OUTER} steps; largest difference to direct, relative to a mean entry: "
          f"scaled {gap:.1e}, log {logs:.1e}")  # fmt: skip
    for name, seconds in times.items():
        print(f"{name:8} {1000 * seconds:9.1f} ms {seconds / times['scaled']:7.1f} x scaled")
    write(given.json, times=times)


if __name__ == "__main__":
    main()
