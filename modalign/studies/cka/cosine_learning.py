"""Cosine similarity learning on synthetic pairs (section 4.1 of the CKA paper).

Two encoders, one a modality, are trained so that paired examples point the same way. What the
paper leaves open is a field of :class:`Setting`; the chapter maps the choices.

:func:`train` has a loop of its own and not :func:`modalign.training.fit`: the objective changes
with the number of the step, which ``fit`` tells no loss, and the encoders are evaluated before the
first epoch too.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from modalign import metrics
from modalign._checks import checked, require_choice, require_finite, require_positive
from modalign._scale import rescaled, unit_rows
from modalign.cka import DegenerateError, cka
from modalign.studies import _sweep
from modalign.studies._sweep import Task, fixed_by, settings_of
from modalign.training import seeded

Pairs = Literal["random", "shared"]
Order = Literal["relu-bn", "bn-relu"]
Measure = Literal["biased", "debiased", "uncentred"]
Objective = Literal["cosine", "cka", "both", "both, warm-up"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run. Defaults are the paper's where it gives a value.

    Attributes:
        pairs: ``"random"`` pairs share nothing; in ``"shared"`` pairs B depends on A.
        order: of the layers after each linear one; ``"relu-bn"`` is the paper's wording.
        measure: the CKA that is maximised: centred, debiased, or eq. 2 of the paper as printed.
        objective: mean cosine, CKA, both (cosine + lambda CKA), or both after CKA alone.
        lambda_cka: weight of CKA beside the cosine (paper: 0.1).
        warmup_steps: steps of CKA alone ("few steps" in the paper; ours: one epoch), which count
            among the steps of the run.
        epochs: passes over the training pairs; the paper shows epochs 1, 5 and 10.
        examples: training pairs (paper: 10,000); a fifth as many more are held out.
        batch_size: paper: 512.
        learning_rate: of Adam (paper: 0.001, betas 0.9 and 0.999).
        seed: of the data, the initial weights and the batches.

    Raises:
        ValueError: for a choice that is not offered.
    """

    pairs: Pairs = "shared"
    order: Order = "relu-bn"
    measure: Measure = "biased"
    objective: Objective = "both, warm-up"
    lambda_cka: float = 0.1
    warmup_steps: int = 20
    epochs: int = 10
    examples: int = 10_000
    batch_size: int = 512
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("pairs", Pairs),
            ("order", Order),
            ("measure", Measure),
            ("objective", Objective),
        ):
            require_choice(getattr(self, name), get_args(choices), name)


@checked
def sample_pairs(
    pairs: Pairs, n: int, *, seed: int, dim: int = 64, components: int = 10
) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"]]:
    """Draw n pairs: A from a normal, B from a mixture of normals.

    A's position picks B's component and moves B linearly; random pairs are the same draws with B
    shuffled, so that both worlds have the same two modalities and differ in the pairing alone.

    Args:
        pairs: ``"random"`` or ``"shared"``.
        n: number of pairs.
        seed: of the world and the draw.
        dim: features of each modality (paper: 64).
        components: of the mixture (the paper gives no number).

    >>> a, b = sample_pairs("shared", 5, seed=0)
    >>> a.shape == b.shape == (5, 64)
    True
    """
    require_positive(n=n, dim=dim, components=components)
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    directions, means = normal(components, dim), 2 * normal(components, dim)
    spread, turn = 0.2 + normal(components, dim).abs(), normal(dim, dim) / dim**0.5
    a = normal(n, dim)
    component = (a @ directions.T).argmax(1)
    b = means[component] + a @ turn + spread[component] * normal(n, dim)
    if pairs == "random":
        b = b[torch.randperm(n, generator=generator)]
    return a, b


def encoder(order: Order, dim: int = 64, width: int = 32, layers: int = 3) -> nn.Sequential:
    """Three fully connected layers of width 32, each with ReLU and batch normalisation."""
    modules: list[nn.Module] = []
    for layer in range(layers):
        modules.append(nn.Linear(width if layer else dim, width))
        after = [nn.ReLU(), nn.BatchNorm1d(width)]
        modules += after if order == "relu-bn" else after[::-1]
    return nn.Sequential(*modules)


def uncentred_cka(x: Tensor, y: Tensor) -> Tensor:
    """Equation 2 of the paper as printed: the cosine of two Gram matrices, not centred.

    Raises:
        ValueError: for features that are not finite.
        DegenerateError: where all of them are 0.
    """
    for z, name in ((x, "x"), (y, "y")):
        require_finite(z, name)
        if not z.any():
            raise DegenerateError(f"{name}: expected features, got zeros")
    x, y = rescaled(x), rescaled(y)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "biased": cka,
    "debiased": lambda x, y: cka(x, y, debiased=True),
    "uncentred": uncentred_cka,
}


def alignment(measure: Measure, x: Tensor, y: Tensor) -> Tensor:
    """One of the three CKAs, or NaN where an encoder has collapsed to a point."""
    try:
        return MEASURES[measure](x, y)
    except DegenerateError:
        return x.new_tensor(torch.nan)


@torch.no_grad()
def evaluate(x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean cosine of the pairs and of shuffled pairs, the three CKAs, and recall at 1.

    Recall at 1 is the part of the first 1,000 x whose own y has the largest cosine among theirs.

    Raises:
        ValueError: for features that are not finite, or too few rows for CKA.
    """
    x_unit, y_unit = unit_rows(x, "x"), unit_rows(y, "y")
    few = x_unit[:1000] @ y_unit[:1000].T
    own = torch.arange(len(few), device=few.device)
    return {
        "cosine": (x_unit * y_unit).sum(1).mean().item(),
        "shuffled_cosine": (x_unit.mean(0) @ y_unit.mean(0)).item(),
        "recall_at_1": (few.argmax(1) == own).float().mean().item(),
        **{f"cka_{measure}": alignment(measure, x, y).item() for measure in get_args(Measure)},
    }


@torch.no_grad()
def calibrate(network: nn.Module, inputs: Tensor) -> None:
    """Set the running statistics of batch normalisation to those of the inputs.

    An untrained network would else be evaluated with means of 0 and variances of 1, which are not
    what its first training step sees.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(inputs)
    for norm in norms:
        norm.momentum = 0.1


def loss(x: Tensor, y: Tensor, setting: Setting, step: int) -> Tensor:
    """Equation 4 of the paper: the objective, less lambda times CKA.

    Where an encoder has collapsed there is no CKA to maximise, and its term is left out.
    """
    alone = setting.objective == "cka" or (
        setting.objective == "both, warm-up" and step < setting.warmup_steps
    )
    if alone:
        return -alignment(setting.measure, x, y).nan_to_num()
    cosine = functional.cosine_similarity(x, y).mean()
    if setting.objective == "cosine":
        return -cosine
    return -cosine - setting.lambda_cka * alignment(setting.measure, x, y).nan_to_num()


@dataclasses.dataclass
class Trained:
    """What a run leaves: a tidy history, and the held-out embeddings at the kept epochs."""

    history: pd.DataFrame
    embeddings: dict[int, tuple[Tensor, Tensor]]


def train(setting: Setting, *, keep: Iterable[int] = (), device: str = "cpu") -> Trained:
    """Train both encoders, and evaluate them after every epoch, before the first included.

    Args:
        setting: the run.
        keep: epochs whose held-out embeddings are kept.
        device: where to train.

    Returns:
        History rows carry ``epoch``, ``split`` (``"train"`` or ``"held-out"``) and the columns
        of :func:`evaluate`.

    >>> run = train(Setting(examples=600, epochs=1))
    >>> run.history[["epoch", "split"]].values.tolist()
    [[0, 'train'], [0, 'held-out'], [1, 'train'], [1, 'held-out']]
    """
    held_out = setting.examples // 5
    a, b = (
        z.to(device)
        for z in sample_pairs(setting.pairs, setting.examples + held_out, seed=setting.seed)
    )
    splits = {"train": slice(held_out, None), "held-out": slice(held_out)}
    generator = torch.Generator().manual_seed(setting.seed)
    f, g = seeded(lambda: [encoder(setting.order).to(device) for _ in range(2)], setting.seed)
    calibrate(f, a[held_out:]), calibrate(g, b[held_out:])
    optimizer = torch.optim.Adam([*f.parameters(), *g.parameters()], lr=setting.learning_rate)
    rows: list[dict[str, Any]] = []
    embeddings = {}

    def record(epoch: int) -> None:
        f.eval(), g.eval()
        with torch.no_grad():
            for split, part in splits.items():
                x, y = f(a[part]), g(b[part])
                rows.append({"epoch": epoch, "split": split, **evaluate(x, y)})
                if split == "held-out" and epoch in keep:
                    embeddings[epoch] = (x.cpu(), y.cpu())
        f.train(), g.train()

    record(0)
    step = 0
    for epoch in range(1, setting.epochs + 1):
        order = torch.randperm(setting.examples, generator=generator) + held_out
        for batch in order.to(device).split(setting.batch_size):
            optimizer.zero_grad()
            loss(f(a[batch]), g(b[batch]), setting, step).backward()
            optimizer.step()
            step += 1
        record(epoch)
    return Trained(pd.DataFrame(rows), embeddings)


def settings(grid: Mapping[str, Iterable[Any]], seeds: Iterable[int]) -> list[Setting]:
    """Every combination of the grid with every seed; runs that CKA cannot change appear once.

    >>> len(settings({"objective": ["cosine", "cka"], "measure": ["biased", "debiased"]}, [0, 1]))
    6
    """
    chosen = (
        dataclasses.replace(each, measure="biased", lambda_cka=0.0)
        if each.objective == "cosine"
        else each
        for each in settings_of(Setting, grid, seeds)
    )
    return list(dict.fromkeys(chosen))


def _history(task: Task, *, device: str) -> pd.DataFrame:
    history = train(task.setting, device=device).history
    return pd.DataFrame([dataclasses.asdict(task.setting)] * len(history)).join(history)


def claims(table: pd.DataFrame, *, epoch: int, split: str, quality: str) -> pd.DataFrame:
    """Hold the paper's four statements against a recorded map, the third in two versions.

    An effect is positive where the statement holds, and is paired by seed; its verdict is that of
    :meth:`modalign.metrics.Interval.verdict`.

    Args:
        table: ``cka/map``.
        epoch: after which the runs are compared.
        split: ``"train"`` or ``"held-out"`` pairs.
        quality: the column that says how good an embedding is, such as ``"cosine"``.
    """
    table = table[(table["split"] == split) & table["epoch"].isin([0, epoch])]
    keys = ["pairs", "order", "measure", "objective", "epoch", "seed"]
    runs = table.set_index(keys).sort_index()
    rows = []
    for pairs, order, measure in itertools.product(*map(get_args, (Pairs, Order, Measure))):

        def value(objective: str, column: str, at: int = epoch, where=(pairs, order, measure)):
            trained_on = "biased" if objective == "cosine" else where[2]
            return runs.loc[(*where[:2], trained_on, objective, at), column]

        aligned = f"cka_{measure}"
        effects = {
            "cosine alone lowers CKA": (value("cosine", aligned, 0), value("cosine", aligned)),
            "CKA alone raises the cosine": (value("cka", quality), value("cka", quality, 0)),
            "both, warm-up, beat the cosine": (
                value("both, warm-up", quality),
                value("cosine", quality),
            ),
            "both beat the cosine": (value("both", quality), value("cosine", quality)),
            "warm-up helps": (value("both, warm-up", quality), value("both", quality)),
        }
        for claim, effect in effects.items():
            interval = metrics.difference(*effect)
            choice = {"pairs": pairs, "order": order, "measure": measure, "claim": claim}
            # no smallest effect of interest was set before the sweep ran
            found = {"verdict": interval.verdict(paper=1, smallest=0), "effect": f"{interval:.3f}"}
            rows.append({**choice, **interval._asdict(), **found})
    return pd.DataFrame(rows)


def verdict_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Verdict and effect of :func:`claims`, a row for each choice and a column for each claim."""
    cells = verdicts.assign(cell=verdicts["verdict"] + " " + verdicts["effect"])
    order = list(dict.fromkeys(verdicts["claim"]))
    return cells.pivot(index=["pairs", "order", "measure"], columns="claim", values="cell")[order]


def count_verdicts(verdicts: pd.DataFrame) -> dict[str, float]:
    """How often each claim (1, 2, ...) holds and is reversed, in all and by kind of pairs."""
    counts: dict[str, float] = {}
    for i, (_, part) in enumerate(verdicts.groupby("claim", sort=False), start=1):
        counts[f"{i}-largest"] = part["mean"].max()
        for verdict in ("holds", "reversed"):
            met = part["verdict"] == verdict
            counts[f"{i}-{verdict}"] = int(met.sum())
            for kind in get_args(Pairs):
                counts[f"{i}-{kind}-{verdict}"] = int((met & (part["pairs"] == kind)).sum())
    return counts


GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "cka/map": {
        "pairs": get_args(Pairs),
        "order": get_args(Order),
        "measure": get_args(Measure),
        "objective": get_args(Objective),
        "epochs": [10],
    },
    "cka/lambda": {
        "pairs": get_args(Pairs),
        "objective": ["both"],
        "lambda_cka": [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
        "epochs": [10],
    },
    "cka/batch": {
        "measure": ["biased", "debiased"],
        "objective": ["cosine", "cka", "both"],
        "batch_size": [16, 32, 128, 512],
        "epochs": [3],
    },
}


def record(*, seeds: int = 10, jobs: int = 1, device: str = "cpu") -> None:
    """Run the three sweeps of :data:`GRIDS` over seeds, and keep their tables in results/."""
    for name, grid in GRIDS.items():
        fixed = fixed_by(Setting, grid)
        _sweep.record(
            functools.partial(_history, device=device),
            [(run.objective, run) for run in settings(grid, range(seeds))],
            name,
            parameters={"grid": grid, "seeds": seeds, "fixed": fixed},
            drop=fixed,
            jobs=jobs,
        )
