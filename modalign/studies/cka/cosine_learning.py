"""Cosine similarity learning on synthetic pairs (section 4.1 of the CKA paper).

Two encoders, one a modality, are trained so that paired examples point the same way. Each choice
that the paper leaves open is a field of :class:`Setting`; the chapter maps the choices.

:func:`train` has a loop of its own and not :func:`modalign.training.fit`. The objective changes
with the number of the step, which ``fit`` does not pass to a loss, and the encoders are evaluated
before the first epoch too.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
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
from modalign.training import seeded

Pairs = Literal["random", "shared"]
Order = Literal["relu-bn", "bn-relu"]
Measure = Literal["biased", "debiased", "uncentred"]
Objective = Literal["cosine", "cka", "both", "both, warm-up", "contrastive", "contrastive, cka"]
Statistics = Literal["set", "default"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run. Defaults are the paper's if it gives a value.

    Attributes:
        pairs: ``"random"`` pairs share nothing; in ``"shared"`` pairs B depends on A.
        order: of the layers after each linear one; ``"relu-bn"`` is the paper's wording.
        measure: maximised as CKA, one of :data:`MEASURES`: centred, debiased, eq. 2 of the
            paper as printed, CKA with an RBF kernel, CCA or SVCCA.
        objective: mean cosine, CKA, both (cosine + lambda CKA), or both after CKA alone; or the
            contrastive loss in the cosine's place, alone or with lambda CKA.
        lambda_cka: weight of CKA beside the other loss (paper: 0.1).
        warmup_steps: steps of CKA alone ("few steps" in the paper; ours: one epoch).
        counted: whether these are of the epochs, or go before them.
        statistics: of batch normalisation before the first step, with which epoch 0 is evaluated:
            ``"set"`` to those of the training pairs, or PyTorch's ``"default"``, 0 and 1.
        temperature: of the contrastive loss.
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
    measure: str = "biased"
    objective: Objective = "both, warm-up"
    lambda_cka: float = 0.1
    warmup_steps: int = 20
    counted: bool = True
    statistics: Statistics = "set"
    temperature: float = 0.1
    epochs: int = 10
    examples: int = 10_000
    batch_size: int = 512
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("pairs", get_args(Pairs)),
            ("order", get_args(Order)),
            ("measure", tuple(MEASURES)),
            ("objective", get_args(Objective)),
            ("statistics", get_args(Statistics)),
        ):
            require_choice(getattr(self, name), choices, name)

    @property
    def before(self) -> int:
        """Steps of CKA alone that go before the first epoch."""
        warm = self.objective == "both, warm-up" and not self.counted
        return self.warmup_steps if warm else 0


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
        DegenerateError: if all of them are 0.
    """
    for z, name in ((x, "x"), (y, "y")):
        require_finite(z, name)
        if not z.any():
            raise DegenerateError(f"{name}: expected features, got zeros")
    x, y = rescaled(x), rescaled(y)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


THRESHOLDS = (0.2, 0.4, 0.8, 2.0)
"""Bandwidths of the RBF kernel; the first three are those of Kornblith et al. (2019)."""

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "biased": cka,
    "debiased": lambda x, y: cka(x, y, debiased=True),
    "uncentred": uncentred_cka,
    **{f"rbf {t}": functools.partial(cka, kernel="rbf", threshold=t) for t in THRESHOLDS},
    "cca": metrics.cca,
    "svcca": functools.partial(metrics.cca, variance=0.99),
}


def alignment(measure: str, x: Tensor, y: Tensor) -> Tensor:
    """One of :data:`MEASURES`, or NaN if an encoder has collapsed to a point."""
    try:
        return MEASURES[measure](x, y)
    except DegenerateError:
        return x.new_tensor(torch.nan)


@torch.no_grad()
def evaluate(x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean cosine of the pairs and of shuffled pairs, the three CKAs, and recall at 1.

    Recall at 1 is the share of the first 1,000 x that have their partner as nearest of the 1,000 y.

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

    Otherwise an untrained network would be evaluated with means of 0 and variances of 1, unlike in
    its first training step.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(inputs)
    for norm in norms:
        norm.momentum = 0.1


def contrastive(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Each x against all y of the minibatch, and each y against all x (InfoNCE)."""
    logits = unit_rows(x, "x") @ unit_rows(y, "y").T / temperature
    own = torch.arange(len(x), device=x.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def loss(x: Tensor, y: Tensor, setting: Setting, step: int) -> Tensor:
    """Equation 4 of the paper: the original loss minus lambda times CKA.

    Steps are counted from 0, and those of a warm-up before the first epoch are below 0. If an
    encoder has collapsed there is no CKA to maximise, and its term is left out.
    """

    def aligned() -> Tensor:
        return alignment(setting.measure, x, y).nan_to_num()

    warm = setting.warmup_steps if setting.counted else 0
    if setting.objective == "cka" or (setting.objective == "both, warm-up" and step < warm):
        return -aligned()
    if setting.objective.startswith("contrastive"):
        original = contrastive(x, y, setting.temperature)
    else:
        original = -functional.cosine_similarity(x, y).mean()
    if setting.objective in ("cosine", "contrastive"):
        return original
    return original - setting.lambda_cka * aligned()


@dataclasses.dataclass
class Trained:
    """The results of a run: a tidy history, and the held-out embeddings at the kept epochs."""

    history: pd.DataFrame
    embeddings: dict[int, tuple[Tensor, Tensor]]


@dataclasses.dataclass
class State:
    """Both encoders and their optimiser, at some point of a run."""

    f: nn.Sequential
    g: nn.Sequential
    optimizer: torch.optim.Adam

    def step(self, a: Tensor, b: Tensor, setting: Setting, step: int = 0) -> None:
        """One step of training on a minibatch."""
        self.optimizer.zero_grad()
        loss(self.f(a), self.g(b), setting, step).backward()
        self.optimizer.step()


def data(setting: Setting) -> tuple[Tensor, Tensor, int]:
    """A and B of all pairs, and how many of them, the first ones, are held out."""
    held_out = setting.examples // 5
    a, b = sample_pairs(setting.pairs, setting.examples + held_out, seed=setting.seed)
    return a, b, held_out


def start(setting: Setting, device: str = "cpu") -> State:
    """Encoders before training."""
    f, g = seeded(lambda: [encoder(setting.order).to(device) for _ in range(2)], setting.seed)
    both = [*f.parameters(), *g.parameters()]
    return State(f, g, torch.optim.Adam(both, lr=setting.learning_rate))


def train(
    setting: Setting,
    *,
    keep: Iterable[int] = (),
    watch: Callable[[int, State], None] | None = None,
    device: str = "cpu",
) -> Trained:
    """Train both encoders, and evaluate them after every epoch, before the first included.

    Args:
        setting: the run.
        keep: epochs whose held-out embeddings are kept.
        watch: called with each epoch's number and the state after it, which it may copy.
        device: where to train.

    Returns:
        History rows carry ``epoch``, ``split`` (``"train"`` or ``"held-out"``) and the columns
        of :func:`evaluate`. Epoch 0 is before the first step, a warm-up's included.

    >>> run = train(Setting(examples=600, epochs=1))
    >>> run.history[["epoch", "split"]].values.tolist()
    [[0, 'train'], [0, 'held-out'], [1, 'train'], [1, 'held-out']]
    """
    a, b, held_out = data(setting)
    a, b = a.to(device), b.to(device)
    splits = {"train": slice(held_out, None), "held-out": slice(held_out)}
    generator = torch.Generator().manual_seed(setting.seed)
    state = start(setting, device)
    if setting.statistics == "set":
        calibrate(state.f, a[held_out:]), calibrate(state.g, b[held_out:])
    rows: list[dict[str, Any]] = []
    embeddings = {}

    def record(epoch: int) -> None:
        f, g = state.f.eval(), state.g.eval()
        with torch.no_grad():
            for split, part in splits.items():
                x, y = f(a[part]), g(b[part])
                rows.append({"epoch": epoch, "split": split, **evaluate(x, y)})
                if split == "held-out" and epoch in keep:
                    embeddings[epoch] = (x.cpu(), y.cpu())
        f.train(), g.train()
        if watch is not None:
            watch(epoch, state)

    def batches() -> tuple[Tensor, ...]:
        order = torch.randperm(setting.examples, generator=generator) + held_out
        return order.to(device).split(setting.batch_size)

    record(0)
    step = -setting.before
    while step < 0:
        for batch in batches()[:-step]:
            state.step(a[batch], b[batch], setting, step)
            step += 1
    for epoch in range(1, setting.epochs + 1):
        for batch in batches():
            state.step(a[batch], b[batch], setting, step)
            step += 1
        record(epoch)
    return Trained(pd.DataFrame(rows), embeddings)
