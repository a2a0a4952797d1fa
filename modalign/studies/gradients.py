"""The chapter "Gradients": a toy with two losses, on which conflict can be counted and acted upon.

Video, audio and text are three random views of a hidden vector. One trunk reads all three. Two
contrastive losses share its video side, video to audio and video to text, and a given share of the
clips has the text of another clip. The claims c14 to c20 of the paper are decided on clips, in the
chapter "VATT"; the questions here are about the method alone.

Decided before any sweep ran. Every row has the same data, steps and seeds, and none was tuned; a
seed draws the data, the weights and the order. The batch size was chosen so that some batches are
in conflict, on a seed that is not in the sweep and before any score was seen.

*Averaging* (:func:`averaging`). The measure is how decided the share of conflicts is: its distance
from 50%, in points, over subsets of a pool of 256 clips whose negatives are those of the pool at
every size, so that only the averaging changes. The contrast is subsets of 128 minus single clips,
for each row of :data:`AVERAGED`; the smallest effect of interest is 10 points, and the side is up.
*Proxy*. The measure is Spearman's correlation, over single clips, of the cosine by features with
the cosine by weights, minus 0.5: a proxy worth its name is on the upper side. The smallest effect
of interest is 0.1.

*Rules* (:func:`rules`). The measure is R@1 on clips held out, whose texts are all right, the mean
of audio and text and of both directions, in percent. The contrasts are those of :data:`CONTRASTS`,
and the smallest effect of interest is 2 points. They are of the toy, and decide no claim of the
paper.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign import records
from modalign._checks import require_choice, require_positive
from modalign.gradients import GradientCurriculum, harmonized_backward, sample_cosines
from modalign.metrics import retrieval, seed_interval
from modalign.studies import _sweep
from modalign.studies._claims import Claim, Reading, decided, paired, with_criteria
from modalign.studies._sweep import Task
from modalign.training import fit, seeded, shuffled

Rule = Literal["plain", "realign", "curriculum", "both", "random"]
MODALITIES = ("video", "audio", "text")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        rule: the answer to conflict: nothing, realignment, the curriculum, both, or skips at
            random, at the rate at which the curriculum skipped in each epoch of the same run.
        granularity: of the decision, ``"batch"`` or ``"sample"``.
        start, end: gamma of the curriculum, which rises in a line over the whole run.
        misaligned: share of the clips to train on whose text is that of another.
        examples, candidates: clips to train on, and clips held out, which are all right.
        noise: of the views, beside a signal of about one.
        epochs, batch_size, learning_rate: of training; epochs may be 0.
        seed: of all that is drawn.
    """

    rule: Rule = "plain"
    granularity: str = "batch"
    start: float = -0.3
    end: float = 0.0
    misaligned: float = 0.5
    examples: int = 1024
    candidates: int = 500
    noise: float = 0.1
    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice(self.rule, get_args(Rule), "rule")
        require_choice(self.granularity, ("batch", "sample"), "granularity")
        require_positive(examples=self.examples, batch_size=self.batch_size)
        if not 0 <= self.misaligned <= 1:
            raise ValueError(f"misaligned: expected a share from 0 to 1, got {self.misaligned}")
        if self.examples % self.batch_size:
            raise ValueError(
                f"examples, batch_size: expected whole batches, got {self.examples}, "
                f"{self.batch_size}"
            )

    @property
    def steps(self) -> int:
        return self.epochs * self.examples // self.batch_size


AVERAGED: dict[str, dict[str, Any]] = {
    f"{when}, {name}": {"epochs": epochs, "misaligned": share}
    for when, epochs in (("untrained", 0), ("trained", 10))
    for name, share in (("all aligned", 0.0), ("half aligned", 0.5), ("none aligned", 1.0))
}
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "realign": {"rule": "realign"},
    "curriculum": {"rule": "curriculum"},
    "both": {"rule": "both"},
    "curriculum from 0": {"rule": "curriculum", "start": 0.0},
    "both from 0": {"rule": "both", "start": 0.0},
    "curriculum, samples": {"rule": "curriculum", "granularity": "sample"},
    "random": {"rule": "random"},
    "random, samples": {"rule": "random", "granularity": "sample"},
}
CONTRASTS: dict[str, tuple[str, str]] = {
    "realign": ("realign", "plain"),
    "curriculum": ("curriculum", "plain"),
    "both": ("both", "plain"),
    "skips": ("curriculum", "random"),
    "samples": ("curriculum, samples", "plain"),
    "sample skips": ("curriculum, samples", "random, samples"),
}
MEASURE, SMALLEST = "recall_at_1", 2.0
BUDGET = "the same data, steps and seeds; none was tuned"
NOT_PRINTED = "none: of the toy alone"
DECLARED: dict[str, Claim] = {
    "averaging": Claim(
        says="the share of conflicts is more decided in averages of 128 clips than in single ones",
        paper=NOT_PRINTED,
        measure="distance of the share of conflicts from 50%, in points",
        contrast="subsets of 128 minus single clips",
        budget=BUDGET,
        smallest=10.0,
        table="gradients/averaging",
    ),
    "proxy": Claim(
        says="the cosine by features tells that by weights",
        paper=NOT_PRINTED,
        measure="Spearman's correlation of the two over single clips",
        contrast="the correlation minus 0.5",
        budget=BUDGET,
        smallest=0.1,
        table="gradients/averaging",
    ),
    **{
        claim: Claim(
            says=f"{better} beats {worse}",
            paper=NOT_PRINTED,
            measure=MEASURE,
            contrast=f"{better} minus {worse}",
            budget=BUDGET,
            smallest=SMALLEST,
            table="gradients/rules",
        )
        for claim, (better, worse) in CONTRASTS.items()
    },
}
"""The claims of the toy; of the first two a reading is a row of :data:`AVERAGED`."""


class Losses(NamedTuple):
    """A loss a clip of each pair of modalities, and the features of the video before its heads."""

    audio: Tensor
    text: Tensor
    features: Tensor


class Trimodal(nn.Module):
    """One trunk for three views, each of which enters and leaves by layers of its own."""

    def __init__(self, width: int = 24, hidden: int = 64, dim: int = 16) -> None:
        super().__init__()
        self.enter = nn.ModuleDict({name: nn.Linear(width, hidden) for name in MODALITIES})
        self.trunk = nn.Sequential(
            nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.leave = nn.ModuleDict({name: nn.Linear(hidden, dim) for name in MODALITIES})

    def features(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The output of the trunk for each view, (N, hidden)."""
        return {name: self.trunk(self.enter[name](batch[name])) for name in MODALITIES}

    def embed(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of length one, in the space that all three share."""
        return {
            name: functional.normalize(self.leave[name](functional.gelu(x)), dim=1)
            for name, x in features.items()
        }

    def shared(self) -> list[nn.Parameter]:
        """The parameters that both losses reach: the trunk, and the video's way in and out."""
        parts = (self.enter["video"], self.trunk, self.leave["video"])
        return [each for part in parts for each in part.parameters()]


Batch = Mapping[str, Tensor]
TEMPERATURE = 0.1


def losses(model: Trimodal, batch: Batch) -> Losses:
    """Each video against all sounds, and against all texts, of a batch."""
    features = model.features(batch)
    z = model.embed(features)
    own = torch.arange(len(z["video"]))

    def contrast(name: str) -> Tensor:
        logits = z["video"] @ z[name].T / TEMPERATURE
        return functional.cross_entropy(logits, own, reduction="none")

    return Losses(contrast("audio"), contrast("text"), features["video"])


def data(setting: Setting) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Views of hidden vectors, to train on and held out.

    Texts of the misaligned clips, the first ones, move on by one within these.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    hidden = torch.randn(setting.examples + setting.candidates, 8, generator=generator)
    views = {}
    for name in MODALITIES:
        seen = torch.tanh(hidden @ torch.randn(8, 24, generator=generator) / 8**0.5)
        views[name] = seen + setting.noise * torch.randn(seen.shape, generator=generator)
    cut, wrong = setting.examples, round(setting.misaligned * setting.examples)
    views["text"][:wrong] = views["text"][:wrong].roll(1, 0)
    return {k: v[:cut] for k, v in views.items()}, {k: v[cut:] for k, v in views.items()}


class RandomSkips(GradientCurriculum):
    """Keep at random, at a rate for each epoch, whatever the cosine says."""

    def __init__(self, rates: Iterable[float], batches: int, seed: int) -> None:
        super().__init__(-1, 1, steps=1)
        self.rates, self.batches = list(rates), batches
        self.generator = torch.Generator().manual_seed(seed)

    def keeps(self, cosines: Tensor) -> Tensor:
        rate = self.rates[self.batch // self.batches]
        self.batch += 1
        return torch.rand(cosines.shape, generator=self.generator) < rate


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, its history, and the clips held out."""

    setting: Setting
    model: Trimodal
    history: pd.DataFrame
    held_out: dict[str, Tensor]


def train(setting: Setting) -> Run:
    """Train the toy as a setting says.

    >>> run = train(Setting(epochs=1, examples=128, candidates=50, rule="both"))
    >>> sorted(evaluate(run)), run.history.accepted.item() <= 1
    (['recall_at_1', 'recall_audio', 'recall_text'], True)
    """
    known, held_out = data(setting)
    model = seeded(Trimodal, seed=setting.seed)
    if not setting.epochs:
        return Run(setting, model, pd.DataFrame(), held_out)
    parameters = list(model.parameters())
    curriculum = curriculum_of(setting)
    samples = setting.granularity == "sample"
    found: dict[str, Tensor] = {}

    def objective(model: Trimodal, batch: Batch) -> dict[str, Tensor]:
        each = losses(model, batch)
        means = each.audio.mean(), each.text.mean()
        found["audio"], found["text"] = each[:2] if samples else means
        found["features"] = each.features
        return {"loss": sum(means, torch.zeros(()))}

    def backward(_: Mapping[str, Tensor]) -> Any:
        return harmonized_backward(
            found["audio"],
            found["text"],
            parameters,
            realign=setting.rule in ("realign", "both"),
            curriculum=curriculum,
            granularity=setting.granularity,
            features=found["features"] if samples else None,
        )

    history = fit(
        model,
        objective,
        shuffled(known, setting.batch_size, seed=setting.seed),
        optimizer=torch.optim.Adam(parameters, setting.learning_rate),
        epochs=setting.epochs,
        backward=backward,
        device="cpu",
        seed=setting.seed,
        progress=False,
    )
    return Run(setting, model, history, held_out)


def curriculum_of(setting: Setting) -> GradientCurriculum | None:
    """The rule that decides which batches or samples a run keeps."""
    if setting.rule in ("curriculum", "both"):
        return GradientCurriculum(setting.start, setting.end, steps=setting.steps)
    if setting.rule == "random":
        other = train(dataclasses.replace(setting, rule="curriculum"))
        batches = setting.examples // setting.batch_size
        return RandomSkips(other.history.accepted, batches, setting.seed)
    return None


@torch.no_grad()
def evaluate(run: Run) -> dict[str, float]:
    """R@1 of the clips held out, in percent: of audio and text, and their mean."""
    z = run.model.embed(run.model.features(run.held_out))
    found = {}
    for name in ("audio", "text"):
        recalls = retrieval(z["video"] @ z[name].T)
        found[f"recall_{name}"] = 50 * (recalls.rows.recall[1] + recalls.columns.recall[1])
    return {MEASURE: (found["recall_audio"] + found["recall_text"]) / 2, **found}


class Pool(NamedTuple):
    """Gradients of each clip of a pool by the shared weights (N, P), and their cosines."""

    audio: Tensor
    text: Tensor
    by_features: Tensor


def pool_of(run: Run, clips: int = 256) -> Pool:
    """The gradients of each clip, whose negatives are all of the pool."""
    known, _ = data(run.setting)
    # of a random part, since the first clips are the misaligned ones
    order = torch.randperm(run.setting.examples, generator=torch.Generator().manual_seed(1))
    batch = {name: view[order[:clips]] for name, view in known.items()}
    audio, text, features = losses(run.model, batch)
    shared, each = run.model.shared(), torch.eye(clips)
    rows = [
        torch.cat(
            [
                grad.flatten(1)
                for grad in torch.autograd.grad(
                    loss, shared, each, retain_graph=True, is_grads_batched=True
                )
            ],
            dim=1,
        )
        for loss in (audio, text)
    ]
    return Pool(rows[0], rows[1], sample_cosines(audio, text, features))


def averaged_cosines(pool: Pool, size: int, *, draws: int = 256, seed: int = 0) -> Tensor:
    """Cosines of mean gradients of random subsets of a size (draws,); of single clips, of all."""
    generator = torch.Generator().manual_seed(seed)
    clips = len(pool.audio)
    if size == 1:
        rows = torch.arange(clips)[:, None]
    elif size == clips:
        rows = torch.arange(clips)[None]
    else:
        rows = torch.stack(
            [torch.randperm(clips, generator=generator)[:size] for _ in range(draws)]
        )
    weights = torch.zeros(len(rows), clips).scatter_(1, rows, 1 / size)
    return functional.cosine_similarity(weights @ pool.audio, weights @ pool.text, dim=1)


def averaging(task: Task) -> pd.DataFrame:
    """Conflicts of a run's gradients by the size of the subset; and the proxy's correlation."""
    run = train(task.setting)
    pool = pool_of(run)
    rows = []
    for size in SIZES:
        cosines = averaged_cosines(pool, size)
        share = 100 * float((cosines < 0).float().mean())
        rows.append({"size": size, "conflicts": share, "cosine": float(cosines.mean())})
    table = pd.DataFrame(rows)
    single = averaged_cosines(pool, 1)
    ranks = pd.DataFrame({"weights": single.numpy(), "features": pool.by_features.numpy()})
    table["proxy"] = float(ranks.rank().corr().iloc[0, 1])
    table["same_sign"] = 100 * float((np.sign(ranks.weights) == np.sign(ranks.features)).mean())
    return task.named(table)


def rules(task: Task) -> pd.DataFrame:
    """Scores of a run, and how often batches were in conflict and accepted in each half of it."""
    run = train(task.setting)
    found: dict[str, Any] = {"row": task.row, "seed": task.setting.seed, **evaluate(run)}
    late = run.history.epoch > task.setting.epochs // 2
    for name, part in (("early", run.history[~late]), ("late", run.history[late])):
        found[f"conflict_{name}"] = 100 * part.conflict.mean()
        found[f"accepted_{name}"] = 100 * part.accepted.mean()
    return pd.DataFrame([found])


def record(
    *, seeds: int = 8, jobs: int = 1, folder: str | pathlib.Path | None = None, **options: Any
) -> None:
    """Run both sweeps, and keep them as ``results/gradients/averaging`` and ``rules``.

    Args:
        seeds: number of seeds, from 0.
        jobs: processes, of one thread each.
        folder: results folder; the book's by default.
        **options: of :class:`Setting`, for every row.
    """
    for work, rows in ((averaging, AVERAGED), (rules, RULES)):
        tasks = [
            (row, Setting(**{**options, **switches, "seed": seed}))
            for seed in range(seeds)
            for row, switches in rows.items()
        ]
        usual = _sweep.fixed_in(Setting(**options))
        _sweep.record(
            work,
            tasks,
            f"gradients/{work.__name__}",
            parameters={"seeds": seeds, "rows": rows, "setting": usual},
            jobs=jobs,
            folder=folder,
        )


def _averaging_readings(table: pd.DataFrame) -> Iterator[Reading]:
    for row, part in table.groupby("row", sort=False):
        distance = (part.assign(d=(part.conflicts - 50).abs())).pivot(
            index="seed", columns="size", values="d"
        )
        sizes, pairs = paired(distance[128], distance[1])
        proxy = seed_interval(part[part["size"] == 1].proxy - 0.5)
        for claim, found in (("averaging", sizes), ("proxy", proxy)):
            yield Reading(claim, str(row), DECLARED[claim], found, pairs)


def _rule_readings(table: pd.DataFrame) -> Iterator[Reading]:
    runs = {row: part.set_index("seed")[MEASURE] for row, part in table.groupby("row")}
    for claim, (better, worse) in CONTRASTS.items():
        declared = DECLARED[claim]
        yield Reading(claim, declared.contrast, declared, *paired(runs[better], runs[worse]))


SHOWN = ["claim", "contrast", "smallest", "mean", "low", "high", "verdict"]


def averaging_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The contrast of sizes and the proxy's correlation, with interval and verdict, row by row."""
    rows = with_criteria(_averaging_readings(table))
    return rows.assign(contrast=rows.reading)[SHOWN]


def rule_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The paired difference of each contrast in R@1, with interval and verdict."""
    return with_criteria(_rule_readings(table))[SHOWN]


def readings(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """The verdicts of the recorded tables on every claim of the toy, in each of its readings.

    Args:
        folder: results folder; the book's by default.

    Returns:
        The rows of :func:`modalign.studies._claims.with_criteria`.
    """
    found = _averaging_readings(records.load("gradients/averaging", folder=folder))
    rules = _rule_readings(records.load("gradients/rules", folder=folder))
    return with_criteria([*found, *rules])


def verdicts(folder: str | pathlib.Path | None = None) -> pd.DataFrame:
    """One verdict a claim of the toy, over its :func:`readings`; none is of the paper's claims."""
    return decided(readings(folder))
