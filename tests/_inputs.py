"""Tensors that the tests of every method share: ordinary ones, and what is hostile about others.

A table maps a name to a change of a good tensor; beside a change that a method must refuse stands
what the error has to say.
"""

import pytest
import torch

NAN, INF = float("nan"), float("inf")
HALF = [torch.float16, torch.bfloat16]


def draw(*shape, seed=0, dtype=torch.float32):
    """Normal numbers, the same ones each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_entry(z, value, row=-1):
    """A copy with another number at the start of a row."""
    z = z.clone()
    z[(row, *[0] * (z.dim() - 1))] = value
    return z


# refused by whatever takes a tensor of real numbers
WRONG_TYPE = {
    "integers": (lambda z: z.long(), "got int64"),
    "booleans": (lambda z: z > 0, "got bool"),
    "complex": (lambda z: z + 1j, "got complex"),
    "an array": (lambda z: z.numpy(), "got ndarray"),
    "a list": (lambda z: z.tolist(), "got list"),
    "a text": (lambda z: "linear", "got str 'linear'"),
    "nothing": (lambda z: None, "got NoneType"),
    "sparse": (lambda z: z.to_sparse(), "expected a dense tensor, got .*sparse_coo"),
}
# refused where a number has one meaning only
NOT_FINITE = {
    "NaN": (lambda z: with_entry(z, NAN), "expected finite .*got NaN"),
    "infinity": (lambda z: with_entry(z, INF), "expected finite .*got an infinity"),
    "minus infinity": (lambda z: with_entry(z, -INF), "expected finite .*got an infinity"),
}
# refused where the number of dimensions is fixed
WRONG_DIMENSIONS = {
    "a number": (lambda z: z.flatten()[0], r"got float\d\d \(\)"),
    "one dimension less": (lambda z: z[0], r"got float\d\d \("),
    "one dimension more": (lambda z: z[None], r"got float\d\d \(1, "),
}
# the same numbers, which lie in memory in another way
STRIDES = {
    "transposed": lambda z: z.mT.contiguous().mT,
    "every other row": lambda z: z.repeat_interleave(2, 0)[::2],
    "every other column": lambda z: z.repeat_interleave(2, -1)[..., ::2],
    "within a longer one": lambda z: torch.cat([z + 1, z, z + 2])[len(z) : 2 * len(z)],
    "flipped twice": lambda z: z.flip(0).mT.contiguous().mT.flip(0),
}
# matrices that are finite and have too little in them, of 8 rows each
DEGENERATE = {
    "constant": torch.full((8, 3), 0.1),
    "zero": torch.zeros(8, 3),
    "one-hot": torch.eye(8),
    "simplex": torch.eye(8) - 1 / 8,
    "one-hot and a shift": torch.eye(8) + 300,
    "all but one equal": with_entry(torch.ones(8, 2), 5.0),
    "of rank one": draw(8, 1) @ torch.ones(1, 5),
    "two columns, many times": draw(8, 2).repeat(1, 4),
}


def hostile(*tables):
    """Run a test with each ``change`` of some tables and the ``message`` that it must meet."""
    rows = {name: row for table in tables for name, row in table.items()}
    return pytest.mark.parametrize(("change", "message"), rows.values(), ids=rows.keys())


def each(name, table):
    """Run a test with each value of a table, named by its keys."""
    return pytest.mark.parametrize(name, table.values(), ids=table.keys())
