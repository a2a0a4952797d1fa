"""The chapter "Codebook": a toy on which every reading of the codebook loss can be switched.

Two towers see two views of one hidden vector, and learn from the codebook loss alone. Nothing else
tells them which rows belong together.

Decided before any sweep ran. The measure is R@1 of pairs nobody trained on, the mean of both
directions, in percent; by chance it is 100 / ``candidates``. Every row of :data:`ROWS` has the same
data, steps and seeds, and none was tuned. A seed draws the hidden vectors, the views, the weights
and the order. The contrasts are those of :data:`CLAIMS`. The paper prints an effect for c23 alone;
for the readings that its text leaves open the smallest effect of interest is 5 points, and each
contrast is adopted minus literal. Nine contrasts: at 95%, half of one would be decided by chance.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign._checks import require_choice, require_positive
from modalign.codebook import Codebook, MomentumTeacher
from modalign.metrics import Interval, difference, retrieval, seed_interval
from modalign.studies import _sweep
from modalign.studies._sweep import Task
from modalign.training import fit, seeded, shuffled
from modalign.transport import ipot, transport_cost

Pairing = Literal["crossed", "same"]
Features = Literal["teacher", "student"]
Transport = Literal["cost", "similarity", "none"]
Targets = Literal["plan", "softmax", "pairs"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run: the switches of the codebook loss first, then the toy.

    Attributes:
        pairing: whose plan supervises a modality, the other's (``"crossed"``) or its own.
        features: whose features the plans come from.
        scale: multiply a plan by N, so that its rows are distributions.
        transport: the transport loss adds up masses times ``"cost"`` or, as the paper's
            algorithm 1 prints it, ``"similarity"``; or ``"none"``.
        detach: take the plan as a constant; else gradients pass through IPOT.
        targets: ``"plan"``; ``"softmax"``, the teacher's own softmax, which nothing balances; or
            ``"pairs"``, no codebook at all but the contrast of pairs, which is given the pairs
            that the others have to find.
        parts: parts of a batch that have a plan each, as processes would.
        temperature: where the learned one starts.
        beta, outer: of IPOT.
        prototypes: K.
        examples, candidates: pairs to train on, and pairs held out.
        noise: of the views, beside a signal of about one.
        epochs, batch_size, learning_rate, momentum: of training; epochs may be 0.
        seed: of all that is drawn.
    """

    pairing: Pairing = "crossed"
    features: Features = "teacher"
    scale: bool = True
    transport: Transport = "cost"
    detach: bool = True
    targets: Targets = "plan"
    parts: int = 1
    temperature: float = 0.1
    beta: float = 0.5
    outer: int = 50
    prototypes: int = 64
    examples: int = 1792
    candidates: int = 500
    noise: float = 0.1
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 2e-3
    momentum: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        kinds = {"pairing": Pairing, "features": Features, "transport": Transport}
        for name, kind in {**kinds, "targets": Targets}.items():
            require_choice(getattr(self, name), get_args(kind), name)
        require_positive(parts=self.parts, examples=self.examples, batch_size=self.batch_size)
        if self.examples % self.batch_size or self.batch_size % self.parts:
            raise ValueError(
                "examples, batch_size, parts: expected whole batches in equal parts, got "
                f"{self.examples}, {self.batch_size}, {self.parts}"
            )


ROWS: dict[str, dict[str, Any]] = {
    "adopted": {},
    "same": {"pairing": "same"},
    "similarity": {"transport": "similarity"},
    "no transport loss": {"transport": "none"},
    "without N": {"scale": False},
    "gradient in the plan": {"detach": False},
    "student features": {"features": "student"},
    "as printed": {"pairing": "same", "transport": "similarity", "scale": False},
    "softmax": {"targets": "softmax"},
    "8 plans": {"parts": 8},
    "temperature 0.03": {"temperature": 0.03},
    "temperature 0.3": {"temperature": 0.3},
    "untrained": {"epochs": 0},
    "pairs": {"targets": "pairs"},
}
"""The adopted loss, then one switch each, the printed version, and two lines to compare with."""

EXPLORED: dict[str, dict[str, Any]] = {
    "adopted, 60 epochs": {"epochs": 60},
    "student features, 60 epochs": {"features": "student", "epochs": 60},
    "softmax, 60 epochs": {"targets": "softmax", "epochs": 60},
    "momentum 0.9": {"momentum": 0.9},
}
"""Rows that were added after :data:`ROWS` had run; they decide no claim."""

MEASURE = "recall_at_1"
CLAIMS: dict[str, tuple[str, str, float, float | None]] = {
    "c23": ("adopted", "student features", 0.73, 0.73),
    "pairing": ("adopted", "same", 5.0, None),
    "sign": ("adopted", "similarity", 5.0, None),
    "transport": ("adopted", "no transport loss", 5.0, None),
    "scale": ("adopted", "without N", 5.0, None),
    "detach": ("adopted", "gradient in the plan", 5.0, None),
    "printed": ("adopted", "as printed", 5.0, None),
    "balance": ("adopted", "softmax", 5.0, None),
    "global": ("adopted", "8 plans", 5.0, None),
}
"""By id: the better row, the other, the smallest effect of interest, and the paper's effect."""

SPARSE = 10.0
"""c27: the entries that hold 99% of the adopted plan's mass are at most N + K - 1; measured in
percent of that bound, claimed to be below 100; a difference of 10 is the smallest of interest."""


def unit(z: Tensor) -> Tensor:
    """Rows of length one."""
    return functional.normalize(z, dim=1)


class Towers(nn.Module):
    """Two towers with momentum teachers, and the codebook between them."""

    def __init__(self, setting: Setting, width: int = 32, dim: int = 16) -> None:
        super().__init__()

        def tower() -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, dim))

        self.image, self.text = tower(), tower()
        self.image_teacher = MomentumTeacher(self.image, setting.momentum)
        self.text_teacher = MomentumTeacher(self.text, setting.momentum)
        self.codebook = Codebook(
            setting.prototypes, dim, temperature=setting.temperature, seed=setting.seed
        )

    def embed(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Image and text features of length one, from the students."""
        return unit(self.image(batch["image"])), unit(self.text(batch["text"]))

    def teach(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The same from the teachers."""
        return unit(self.image_teacher(batch["image"])), unit(self.text_teacher(batch["text"]))

    def update(self) -> None:
        """Move the teachers towards the students."""
        self.image_teacher.update(self.image)
        self.text_teacher.update(self.text)


def loss(towers: Towers, batch: Mapping[str, Tensor], setting: Setting) -> Tensor:
    """The codebook loss with every switch; as adopted it is ``Codebook.loss(...).total``."""
    students, codebook = towers.embed(batch), towers.codebook
    gamma = codebook.temperature()
    if setting.targets == "pairs":
        logits, known = students[0] @ students[1].T / gamma, torch.arange(len(students[0]))
        return functional.cross_entropy(logits, known) + functional.cross_entropy(logits.T, known)
    sources = towers.teach(batch) if setting.features == "teacher" else students
    similarities = [codebook.similarity(each.detach()) for each in sources]
    plans = [assign(each, gamma, setting) for each in similarities]
    total = torch.zeros(())
    if setting.transport != "none":
        for plan, similarity in zip(plans, similarities, strict=True):
            worth = 1 - similarity if setting.transport == "cost" else similarity
            total = total + transport_cost(plan, worth)
    for student, own, other in zip(students, plans, plans[::-1], strict=True):
        target = other if setting.pairing == "crossed" else own
        target = len(target) * target if setting.scale else target
        scores = (codebook.similarity(student) / gamma).log_softmax(1)
        total = total - (target * scores).sum(1).mean()
    return total


def assign(similarity: Tensor, gamma: Tensor, setting: Setting) -> Tensor:
    """Masses between the rows of a batch and the prototypes; they sum to one."""
    if setting.targets == "softmax":
        return (similarity / gamma).detach().softmax(1) / len(similarity)
    cost = (1 - similarity).clamp_min(0)
    if not setting.detach:
        return unrolled(cost, setting.beta, setting.outer)
    solve = functools.partial(ipot, beta=setting.beta, outer=setting.outer)
    return torch.cat([solve(each) for each in cost.detach().chunk(setting.parts)]) / setting.parts


def unrolled(cost: Tensor, beta: float, outer: int) -> Tensor:
    """Algorithm 2 as ``ipot`` computes it, with a gradient."""
    (n, k), plan = cost.shape, torch.ones_like(cost)
    kernel, sigma = torch.exp(-cost / beta), torch.full((cost.shape[1],), 1 / cost.shape[1])
    for _ in range(outer):
        q = kernel * plan
        delta = 1 / (n * (q @ sigma))
        sigma = 1 / (k * (q.T @ delta))
        plan = delta[:, None] * q * sigma
    return plan


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, its history and the pairs held out."""

    setting: Setting
    towers: Towers
    history: pd.DataFrame
    held_out: dict[str, Tensor]


def data(setting: Setting) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Views of hidden vectors through two fixed random layers, with noise: train and held out."""
    generator = torch.Generator().manual_seed(setting.seed)
    hidden = torch.randn(setting.examples + setting.candidates, 8, generator=generator)
    views = {}
    for name in ("image", "text"):
        seen = torch.tanh(hidden @ torch.randn(8, 32, generator=generator))
        views[name] = seen + setting.noise * torch.randn(seen.shape, generator=generator)
    cut = setting.examples
    return {k: v[:cut] for k, v in views.items()}, {k: v[cut:] for k, v in views.items()}


def train(
    setting: Setting, *, progress: bool = False, checkpoint: pathlib.Path | None = None
) -> Run:
    """Train the towers and the codebook as a setting says; it is measured after every epoch.

    >>> run = train(Setting(epochs=1, examples=256, candidates=50))
    >>> sorted(evaluate(run))
    ['cosine', 'entries', 'recall_at_1', 'temperature', 'usage']
    """
    known, held_out = data(setting)
    towers = seeded(lambda: Towers(setting), seed=setting.seed)
    if not setting.epochs:
        return Run(setting, towers, pd.DataFrame(), held_out)
    trained = [each for each in towers.parameters() if each.requires_grad]
    history = fit(
        towers,
        lambda towers, batch: loss(towers, batch, setting),
        shuffled(known, setting.batch_size, seed=setting.seed),
        optimizer=torch.optim.Adam(trained, setting.learning_rate),
        epochs=setting.epochs,
        after_step=lambda step: towers.update(),
        evaluate=lambda towers: measure(towers, held_out, setting),
        device="cpu",
        seed=setting.seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    return Run(setting, towers, history, held_out)


def evaluate(run: Run) -> dict[str, float]:
    """The measures of :func:`measure` after training."""
    return measure(run.towers, run.held_out, run.setting)


@torch.no_grad()
def measure(towers: Towers, pairs: Mapping[str, Tensor], setting: Setting) -> dict[str, float]:
    """Measures on pairs nobody trained on.

    Returns:
        ``recall_at_1``: of images and texts, mean of both directions, in percent.
        ``usage``: codewords in use, the exponential of the entropy of which is nearest (1 to K).
        ``cosine``: mean cosine of two images, 1 if all features are one.
        ``entries``: entries of a batch's plan that hold 99% of its mass, in percent of N + K - 1.
        ``temperature``: gamma.
    """
    features = towers.embed(pairs)
    found = retrieval(features[0] @ features[1].T)
    gamma = towers.codebook.temperature()
    plan = assign(towers.codebook.similarity(features[0][: setting.batch_size]), gamma, setting)
    ordered = plan.flatten().sort(descending=True).values.cumsum(0)
    n = len(features[0])
    cosines = features[0] @ features[0].T
    return {
        MEASURE: 50 * (found.rows.recall[1] + found.columns.recall[1]),
        "usage": float(torch.distributions.Categorical(usage(towers, pairs)).entropy().exp()),
        "cosine": float((cosines.sum() - n) / (n * (n - 1))),
        "entries": 100 * (int((ordered < 0.99).sum()) + 1) / (sum(plan.shape) - 1),
        "temperature": float(gamma),
    }


@torch.no_grad()
def usage(towers: Towers, pairs: Mapping[str, Tensor]) -> Tensor:
    """Share of the images and texts that are nearest to each prototype (K,)."""
    nearest = towers.codebook.similarity(torch.cat(towers.embed(pairs))).argmax(1)
    return torch.bincount(nearest, minlength=len(towers.codebook.prototypes)) / len(nearest)


def _measured(task: Task) -> pd.DataFrame:
    scores = evaluate(train(task.setting))
    return pd.DataFrame([{"row": task.row, "seed": task.setting.seed, **scores}])


def record(
    name: str = "switches",
    *,
    seeds: int = 8,
    jobs: int = 1,
    folder: str | pathlib.Path | None = None,
    rows: Mapping[str, Mapping[str, Any]] = ROWS,
    **options: Any,
) -> None:
    """Train every row with every seed, and keep the scores in ``results/codebook/{name}``.

    Args:
        name: of the table.
        seeds: number of seeds, from 0.
        jobs: processes, of one thread each.
        folder: results folder; the book's by default.
        rows: switches by name.
        **options: of :class:`Setting`, for every row.
    """
    usual = _sweep.fixed_in(Setting(**options))
    _sweep.record(
        _measured,
        [
            (row, Setting(**{**options, "seed": seed, **switches}))
            for seed, (row, switches) in itertools.product(range(seeds), rows.items())
        ],
        f"codebook/{name}",
        parameters={"seeds": seeds, "rows": dict(rows), "setting": usual},
        jobs=jobs,
        folder=folder,
    )


def claims(table: pd.DataFrame) -> pd.DataFrame:
    """The paired difference of each contrast with its 95% interval, and its verdict."""
    runs = {row: part.set_index("seed") for row, part in table.groupby("row", sort=False)}
    found = []
    for claim, (better, worse, smallest, published) in CLAIMS.items():
        sides = (runs[row][MEASURE].to_dict() for row in (better, worse))
        interval = difference(*sides)
        contrast = f"{better} minus {worse}"
        found.append(_judged(claim, contrast, interval, smallest, published))
    entries = seed_interval((100 - runs["adopted"]["entries"]).to_numpy())
    found.append(_judged("c27", "bound minus entries, in percent of it", entries, SPARSE, None))
    return pd.DataFrame(found)


def _judged(
    claim: str, contrast: str, interval: Interval, smallest: float, published: float | None
) -> dict[str, Any]:
    named = {"claim": claim, "contrast": contrast, "paper": published, "smallest": smallest}
    return {**named, **interval._asdict(), "verdict": interval.verdict(paper=1, smallest=smallest)}
