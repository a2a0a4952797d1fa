"""CKA, CCA and SVCCA with few examples: as measures, and as objectives.

The debiased CKA has no value if all but one of the examples are alike, and an encoder that has
nearly collapsed makes such minibatches. The sweep met them when it first ran, and failed: since
then they are counted. The claims do not ask for the debiased CKA.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from modalign import metrics
from modalign.cka import cka
from modalign.studies.cka import cosine_learning
from modalign.studies.cka.cosine_learning import MEASURES, Setting, alignment

COMPARED = ("biased", "debiased", "cca", "svcca")
SIZES = (16, 32)
STATES = (1, 10)
ROUNDING = 1e-5


def reliability(
    x: Tensor, y: Tensor, size: int, *, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """The values of each measure on minibatches of related pairs, and on the same pairs shuffled.

    Args:
        x, y: two representations of all examples.
        size: of the minibatches.
        draws: how many of them.
        seed: of the minibatches.

    Returns:
        A row a measure: ``all``, its value over all examples; ``own`` and ``shuffled``, its means
        over minibatches with the right partners and with others; ``error``, the mean distance of
        the minibatches' values from ``all``; ``told_apart``, how often a minibatch with the
        right partners has the higher value than a shuffled one (0.5 is chance; values that differ
        by rounding are level); and ``undefined``, in how many of these ``2 * draws`` minibatches
        the measure has no value. The other columns are of those in which it has one.

    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> reliability(x, x, 16, draws=5).set_index("measure").told_apart["biased"].item()
    1.0
    """
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(len(x), generator=generator)[:size] for _ in range(draws)]
    rows = []
    for name in COMPARED:
        own = _defined(alignment(name, x[batch], y[batch]) for batch in batches)
        # random batches are in random order: moved on by one, no partner is right
        other = _defined(alignment(name, x[batch], y[batch.roll(1)]) for batch in batches)
        whole = MEASURES[name](x, y).item()
        levels = [np.round(values / ROUNDING) for values in (own, other)]
        wins = stats.mannwhitneyu(*levels).statistic / (len(own) * len(other))
        rows.append(
            {
                "measure": name,
                "size": size,
                "all": whole,
                "own": own.mean(),
                "shuffled": other.mean(),
                "error": abs(own - whole).mean(),
                "told_apart": wins,
                "undefined": 2 * draws - len(own) - len(other),
            }
        )
    return pd.DataFrame(rows)


def _defined(values: Iterable[Tensor]) -> np.ndarray:
    found = np.array([value.item() for value in values])
    return found[~np.isnan(found)]


def measures(setting: Setting) -> pd.DataFrame:
    """:func:`reliability` on held-out pairs, after one epoch of training and after ten."""
    run = cosine_learning.train(setting, keep=STATES)
    found = [
        reliability(*pair, size, seed=setting.seed).assign(epoch=epoch)
        for epoch, pair in run.embeddings.items()
        for size in SIZES
    ]
    return pd.concat(found, ignore_index=True)


def objectives(setting: Setting) -> pd.DataFrame:
    """How alike held-out embeddings are before and after training, over all held-out pairs.

    All of them are many more than the width, so that CCA can be trusted here.

    >>> objectives(Setting(objective="cka", examples=600, epochs=1)).epoch.tolist()
    [0, 1]
    """
    ends = (0, setting.epochs)
    run = cosine_learning.train(setting, keep=ends)
    rows = []
    for epoch in ends:
        x, y = run.embeddings[epoch]
        found = cosine_learning.evaluate(x, y)
        rows.append(
            {
                "epoch": epoch,
                "cka_debiased": cka(x, y, debiased=True).item(),
                "cca": metrics.cca(x, y).item(),
                "margin": found["cosine"] - found["shuffled_cosine"],
            }
        )
    return pd.DataFrame(rows)
