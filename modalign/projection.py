"""Random projection: fewer features, with nearly the same distances, by a matrix nobody trains.

Labels such as eq-pace-project are those of equations in the chapter "Pace and scale".
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import checked, describe, require_positive


class RandomProjection(nn.Module):
    r"""Multiply features by a sparse random matrix of signs (Achlioptas 2001).

    Paper eq. 13 (Wang et al. 2020): entries are +sqrt(3) and -sqrt(3) with probability 1/6 each
    and 0 otherwise. The product is divided by sqrt(P), so that squared distances are right on
    average; for P = 300 a distance is off by a factor of about 1 +- sqrt(1/600) = 1 +- 0.04, and a
    squared one by 1 +- sqrt(2/300) = 1 +- 0.08
    (eq-pace-spread).

    ``matrix`` (P, D) is a buffer: it moves and is saved with the module, and has no gradient. Its
    signs come from the raw 64-bit integers of numpy's PCG64, whose stream is fixed for all
    versions and machines, so a seed means one matrix everywhere. The multiplication is dense,
    O(P D) for each row of x: with a third of the entries in use, that is the faster one.
    An entry that is not finite makes its own row not finite, as with ``nn.Linear``.
    ``reset_parameters`` draws the matrix again, for modules that were made on ``meta``.

    Args:
        in_features: D.
        out_features: P (paper: 300). The rows of a smaller P are the first rows of a larger one,
            but for the scale.
        seed: of the matrix.

    Raises:
        TypeError: if an argument is of another type altogether.
        ValueError: for a size below 1, a negative seed, another number of features, or features of
            another dtype than the matrix.

    >>> project = RandomProjection(4, 3, seed=0)
    >>> project.matrix.sign().int().tolist()
    [[0, -1, 0, 0], [0, 0, 0, -1], [0, -1, 0, 0]]
    >>> project(torch.ones(2, 5, 4)).shape
    torch.Size([2, 5, 3])
    """

    matrix: Tensor

    @checked
    def __init__(self, in_features: int, out_features: int, *, seed: int = 0) -> None:
        super().__init__()
        require_positive(in_features=in_features, out_features=out_features)
        if seed < 0:
            raise ValueError(f"seed: expected a whole number, 0 or above, got {seed}")
        self.in_features, self.out_features, self.seed = in_features, out_features, seed
        self.register_buffer("matrix", torch.empty(out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the matrix, the same one each time."""
        signs = _signs(self.out_features, self.in_features, self.seed)
        self.matrix.copy_(signs * (3 / self.out_features) ** 0.5)  # eq-pace-signs

    def extra_repr(self) -> str:
        """Say sizes and seed."""
        return f"{self.in_features}, {self.out_features}, seed={self.seed}"

    @checked
    def forward(self, x: Float[Tensor, "*b d"]) -> Tensor:
        """Project (..., D) to (..., P)."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x: expected {self.in_features} features, got {describe(x)}")
        types = {x.dtype, self.matrix.dtype}
        if len(types) > 1 and (
            torch.float64 in types or not torch.is_autocast_enabled(x.device.type)
        ):
            raise ValueError(
                f"x: expected {str(self.matrix.dtype).removeprefix('torch.')}, the matrix's dtype, "
                f"got {describe(x)}; convert one with .to(dtype)"
            )
        return functional.linear(x, self.matrix)  # eq-pace-project


def _signs(rows: int, columns: int, seed: int) -> Tensor:
    """Signs of eq-pace-signs: 1 and -1 with probability 1/6 each, 0 otherwise."""
    sides = np.random.PCG64(seed).random_raw(rows * columns) % 6  # a die for each entry
    signs = (sides == 0).astype(np.int8) - (sides == 1).astype(np.int8)
    return torch.from_numpy(signs.reshape(rows, columns))
