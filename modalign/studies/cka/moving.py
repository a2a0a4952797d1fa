"""Moving figures of the chapter on CKA, for :func:`modalign.players.sliders`."""

import math

import torch
from IPython.display import HTML

from modalign import players
from modalign.cka import cka

SIZES = (4, 8, 16, 32, 64, 128, 256, 512)
"""Of minibatches."""
WIDTHS = (2, 8, 32, 128, 512)
"""Numbers of features."""
NAMES = ("cat", "dog", "lorry")
PICTURES = torch.tensor([[2.0, 1.0], [1.0, 2.0], [-3.0, -3.0]], dtype=torch.float64)


def floor_values(n: int, d: int, *, draws: int = 8) -> tuple[float, float]:
    """Mean biased and debiased CKA of unrelated representations, over some draws.

    Args:
        n: examples, 4 or more.
        d: features on either side.
        draws: of both sides.

    >>> biased, debiased = floor_values(32, 512)
    >>> round(biased, 1), abs(debiased) < 0.1
    (0.9, True)
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(draws, 2, n, d, generator=generator)
    both = [[float(cka(a, b, debiased=each)) for a, b in x] for each in (False, True)]
    return sum(both[0]) / draws, sum(both[1]) / draws


def floor(*, draws: int = 8) -> HTML:
    """The bias floor against the size of a minibatch, for a number of features that can be moved.

    The line is eq-floor, the dots are :func:`floor_values`.
    """
    means = {(n, d): floor_values(n, d, draws=draws) for n in SIZES for d in WIDTHS}

    def at(n: int, value: float) -> str:
        return f"{50 + 55 * (math.log2(n) - 2):.1f},{230 - 200 * value:.1f}"

    def draw(features: int, examples: int) -> tuple[str, str]:
        line = " ".join(at(n, features / (n - 1 + features)) for n in SIZES)
        dots = "".join(
            f'<circle class="{kind}" r="{8 if n == examples else 3.5}" cx="{x}" cy="{y}"/>'
            for n in SIZES
            for kind, value in zip(("one", "two"), means[n, features], strict=True)
            for x, y in [at(n, value).split(",")]
        )
        ticks = "".join(
            f'<text x="{at(n, 0).split(",")[0]}" y="275" text-anchor="middle">{n}</text>'
            for n in SIZES
        )
        biased, debiased = (round(each, 3) + 0.0 for each in means[examples, features])
        return (
            '<line class="axis" x1="50" x2="450" y1="230" y2="230"/>'
            f'<text x="40" y="235" text-anchor="end">0</text>'
            f'<text x="40" y="35" text-anchor="end">1</text>{ticks}'
            '<text class="one" x="60" y="18">biased CKA</text>'
            '<text class="two" x="180" y="18">debiased CKA</text>'
            '<text x="450" y="295" text-anchor="end">examples n</text>'
            f'<polyline class="one" points="{line}"/>{dots}',
            f"n = {examples}, d = {features}: unrelated representations have a CKA of "
            f"{biased:.3f} (the equation says {features / (examples - 1 + features):.3f}); "
            f"debiased {debiased:.3f}",
        )

    return players.sliders(
        draw,
        {"features": WIDTHS, "examples": SIZES},
        start={"features": 512, "examples": 32},
        size=(470, 300),
        label="CKA of unrelated representations against the number of examples, with sliders for "
        "the number of features and of examples",
    )


def words(degrees: int, swapped: bool) -> torch.Tensor:
    """The words of cat, dog and lorry: the pictures turned, dog and lorry in each other's place.

    >>> words(90, False)[0].round().tolist()
    [-1.0, 2.0]
    """
    a = math.radians(degrees)
    turn = [[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]
    found = PICTURES @ torch.tensor(turn, dtype=torch.float64)
    return found[[0, 2, 1]] if swapped else found


def turned() -> HTML:
    """Three pictures and their words, which a slider turns, with their cosine and CKA."""

    def draw(degrees: int, captions: str) -> tuple[str, str]:
        said = words(degrees, captions != "right")
        cosine = torch.cosine_similarity(PICTURES, said).mean()
        places = [
            [(f"{240 + 36 * x:.1f}", f"{170 - 36 * y:.1f}") for x, y in each.tolist()]
            for each in (PICTURES, said)
        ]
        marks = ""
        for name, (x, y), (u, v) in zip(NAMES, *places, strict=True):
            marks += (
                f'<line class="axis" x1="{x}" y1="{y}" x2="{u}" y2="{v}" stroke-dasharray="4 4"/>'
                f'<circle class="one" cx="{x}" cy="{y}" r="8"/>'
                f'<rect class="two" x="{float(u) - 7:.1f}" y="{float(v) - 7:.1f}" width="14" '
                f'height="14"/><text class="one" x="{float(x) + 12:.1f}" y="{y}">{name}</text>'
                f'<text class="two" x="{float(u) + 12:.1f}" y="{float(v) + 18:.1f}">{name}</text>'
            )
        values = [round(float(each), 2) + 0.0 for each in (cosine, cka(PICTURES, said))]
        return (
            f"{marks}"
            '<text class="one" x="10" y="20">pictures</text>'
            '<text class="two" x="10" y="40">words</text>',
            f"turned by {degrees}°, captions {captions}: the mean cosine of the pairs is "
            f"{values[0]:.2f}, CKA is {values[1]:.2f}",
        )

    return players.sliders(
        draw,
        {"degrees": range(0, 361, 10), "captions": ("right", "of dog and lorry swapped")},
        start={"degrees": 90, "captions": "right"},
        size=(480, 340),
        label="Three pictures and their three words as points of the plane; a slider turns the "
        "words, another swaps two captions",
    )
