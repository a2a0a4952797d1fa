"""Numbers brought near 1 by powers of two, so that no square or sum of them overflows.

A power of two rounds nothing: later results have the digits that they would have had.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from modalign._checks import require_finite


def rescaled(x: Float[Tensor, "*n"], dim: int | None = None) -> Float[Tensor, "*n"]:
    """Multiply by the power of two that brings the largest size, overall or along ``dim``, to 1.

    The largest size is then in [1/2, 1). Zeros stay zeros.

    >>> rescaled(torch.tensor([3.0, -12.0]))
    tensor([ 0.1875, -0.7500])
    """
    size = x.detach().abs().double()
    size = size.amax() if dim is None else size.amax(dim, keepdim=True)
    exponent = torch.frexp(size).exponent.double()
    half = (exponent / 2).floor()  # in two steps, as the whole factor may be no number of the dtype
    factors = (torch.pow(2.0, -part).to(x.dtype) for part in (half, exponent - half))
    for factor in factors:
        x = x * factor
    return x


def unit_rows(x: Float[Tensor, "n d"], name: str) -> Float[Tensor, "n d"]:
    """Each row over its norm; a row of zeros stays one.

    Raises:
        ValueError: for a row that is not finite.

    >>> unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0]]), "x")
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    if not torch.compiler.is_compiling():
        require_finite(x, name)
    return functional.normalize(rescaled(x, 1), dim=1)
