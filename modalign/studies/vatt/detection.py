"""Is the cosine of the gradients a detector of misalignment? The claim c14.

Decided before any sweep ran:

* **Data.** The baseline is trained as in :mod:`modalign.studies.vatt.experiments`, and stopped at
  steps 0, 100, 200 and 400. At each stop it meets triplets of the split "probe", of which it was
  trained on none, as in training: with dropped tokens and the statistics of the batch, but without
  an update. Half of the triplets are misaligned, a third of these in each way. For batches the
  probe is cut into batches that are aligned, or misaligned in one way, as a whole.
* **Scores**, each expected to be high for misaligned triplets: minus the cosine of the two losses'
  gradients (by the weights of a batch; by the video's features of a sample, a proxy), the sum of
  the two losses, minus the mean of the two similarities, and a random number.
* **Measure.** The area under the ROC curve (AUROC) of misaligned triplets, of any kind, against
  aligned ones, at the last step, at the rate 0.3 of the training set.
* **Criterion.** The AUROC of the cosine minus 0.5, that of a score that knows nothing, over 5
  seeds. The paper prints no effect; the smallest of interest is 0.1, at which dropping the tenth of
  the samples that score highest, if 3 in 10 are misaligned, takes out 1.5 times as many of them
  as dropping a tenth at random (for two normal distributions of scores). c14a is by batch, the
  paper's algorithm, c14b by sample, its text. c14c and c14d ask whether the cosine beats the loss,
  which is free: smallest 0.05. The claim itself is c14a and c14b.

All else (kinds, steps, rates) is shown without a verdict.
"""

import copy
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from modalign.gradients import gradient_cosine, sample_cosines
from modalign.metrics import Verdict, difference
from modalign.models.vatt import Vatt, per_row
from modalign.studies import _sweep
from modalign.studies._claims import Claim, Reading, decided, with_criteria
from modalign.studies._sweep import Task
from modalign.studies.vatt.experiments import Setting, build, pretrain, source_of
from modalign.studies.vatt.triplets import KINDS, Triplets, draw_kinds, misalign, whole_kinds
from modalign.training import seeded
from modalign.training.randomness import mix

SCORES = ("cosine", "loss", "similarity", "random")
GRANULARITIES = ("batch", "sample")
STOPS = (0.0, 0.25, 0.5, 1.0)
"""When it is measured, in shares of the steps."""
BATCHES = 16
"""Batches of each kind."""


class Question(NamedTuple):
    """A contrast of two detectors; ``other`` None is one that knows nothing."""

    granularity: str
    other: str | None
    smallest: float


CLAIMS: dict[str, Question] = {
    "c14a": Question("batch", None, 0.1),
    "c14b": Question("sample", None, 0.1),
    "c14c": Question("batch", "loss", 0.05),
    "c14d": Question("sample", "loss", 0.05),
}
DECLARED: dict[str, Claim] = {
    claim: Claim(
        says="the cosine of the gradients tells misaligned from aligned"
        + ("" if each.other is None else f", and better than the {each.other}"),
        paper="a conjecture",
        measure=f"AUROC by {each.granularity}",
        contrast=f"cosine minus {each.other or 'a score that knows nothing'}",
        budget="the same model and the same triplets",
        smallest=each.smallest,
        table="vatt/detection",
    )
    for claim, each in CLAIMS.items()
}
"""The claims as the book declares all of them."""


def probe(setting: Setting, granularity: str, *, batches: int = BATCHES) -> Triplets:
    """Triplets that are half misaligned, one by one or in whole batches.

    Args:
        setting: whose seed and batch size they have.
        granularity: ``"batch"`` or ``"sample"``.
        batches: of each of the four kinds.
    """
    n = batches * len(KINDS) * setting.batch_size
    source = source_of(setting, "probe", n)
    generator = torch.Generator().manual_seed(mix(setting.seed, 8))
    if granularity == "batch":
        kind = whole_kinds(n, setting.batch_size)
    else:
        kind = draw_kinds(n, 0.5, generator=generator)
    return misalign(source.clips, kind, same=source.same, generator=generator)


def scores(
    model: Vatt, triplets: Triplets, granularity: str, *, batch_size: int, seed: int = 0
) -> pd.DataFrame:
    """The scores of every detector for each batch or triplet; the model stays as it is.

    Args:
        model: as far as it is trained.
        triplets: in batches of one kind each, with ``"batch"``.
        granularity: ``"batch"`` or ``"sample"``.
        batch_size: triplets at a time.
        seed: of dropped tokens and of the random score.

    Returns:
        A row a batch or a triplet: its ``kind``, and the scores, high for what looks misaligned.
    """
    double = copy.deepcopy(model).train()  # batch statistics move, and gradients come and go

    def found() -> list[pd.DataFrame]:
        parts = torch.arange(len(triplets)).split(batch_size)
        return [_scored(double, triplets.rows(part), granularity) for part in parts]

    with torch.enable_grad():
        return pd.concat(seeded(found, seed=mix(seed, 9)), ignore_index=True)


def _scored(model: Vatt, part: Triplets, granularity: str) -> pd.DataFrame:
    place = next(model.parameters()).device
    batch = {name: each.to(place) for name, each in part.batch().items()}
    seen = model.see(batch["video"])
    spaces = model.embed(batch, seen=seen)
    va, vt = per_row(spaces, model.config.temperature)
    alike = (spaces.video_va * spaces.audio_va).sum(1)
    alike = alike + (spaces.video_vt[:, None] * spaces.text_vt).sum(2).amax(1)
    if granularity == "batch":
        weights = list(model.parameters())
        grads = [
            torch.autograd.grad(rows.mean(), weights, retain_graph=True, allow_unused=True)
            for rows in (va, vt)
        ]
        cosine = torch.tensor([gradient_cosine(*grads)])
        numbers: list[Tensor] = [-cosine, (va + vt).mean()[None], -alike.mean()[None] / 2]
        kinds = part.kind[:1]
    else:
        numbers = [-sample_cosines(va, vt, seen), va + vt, -alike / 2]
        kinds = part.kind
    columns = dict(zip(SCORES, [*numbers, torch.rand(len(kinds))], strict=True))
    named = {name: each.detach().double().cpu().numpy() for name, each in columns.items()}
    return pd.DataFrame({"kind": [KINDS[int(kind)] for kind in kinds], **named})


def areas(found: pd.DataFrame) -> pd.DataFrame:
    """AUROC of every score, for each kind of misalignment, and for any, against aligned rows.

    Args:
        found: of :func:`scores`.

    Raises:
        ValueError: if nothing is aligned, nothing is misaligned, or a score is undefined.

    >>> found = pd.DataFrame({"kind": ["aligned", "text"], **dict.fromkeys(SCORES, [0.0, 1.0])})
    >>> areas(found).query("score == 'loss'")[["kind", "auroc"]].values.tolist()
    [['any', 1.0], ['text', 1.0]]
    """
    from sklearn.metrics import roc_auc_score

    if found[list(SCORES)].isna().any(axis=None):
        name = found[list(SCORES)].isna().any().idxmax()
        raise ValueError(f"scores: {name} is undefined in {found[name].isna().sum()} rows")
    kinds = found.kind.to_numpy()
    wrong = [kind for kind in KINDS[1:] if (kinds == kind).any()]
    if not (kinds == "aligned").any() or not wrong:
        raise ValueError(f"kind: expected aligned and misaligned rows, got {sorted(set(kinds))}")
    rows = []
    for kind in ("any", *wrong):
        part = found if kind == "any" else found[(kinds == kind) | (kinds == "aligned")]
        for score in SCORES:
            area = roc_auc_score(part.kind != "aligned", part[score])
            rows.append({"kind": kind, "score": score, "auroc": float(area)})
    return pd.DataFrame(rows)


class Watch:
    """Measures the detectors at :data:`STOPS` of a training; its ``after_step``.

    Args:
        setting: of the training.
        batches: of each of the four kinds.

    Attributes:
        tables: areas found so far.
    """

    def __init__(self, setting: Setting, *, batches: int = BATCHES) -> None:
        self.setting, self.tables = setting, list[pd.DataFrame]()
        self.stops = {round(share * setting.steps) for share in STOPS}
        self.probes = {each: probe(setting, each, batches=batches) for each in GRANULARITIES}

    def __call__(self, model: Vatt, step: int) -> None:
        """Measure, if this is a stop."""
        if step not in self.stops:
            return
        size, seed = self.setting.batch_size, self.setting.seed
        for granularity, each in self.probes.items():
            found = areas(scores(model, each, granularity, batch_size=size, seed=seed))
            about = {"rate": self.setting.rate, "seed": seed, "step": step}
            self.tables.append(found.assign(**about, granularity=granularity))

    def table(self) -> pd.DataFrame:
        """``rate``, ``seed``, ``step``, ``granularity``, ``kind``, ``score`` and ``auroc``."""
        return pd.concat(self.tables, ignore_index=True)


def detect(setting: Setting, *, batches: int = BATCHES, progress: bool = True) -> pd.DataFrame:
    """Train the baseline, and measure the detectors at :data:`STOPS`, as :meth:`Watch.table`."""
    watch = Watch(setting, batches=batches)
    watch(build(setting)[0], 0)
    pretrain(setting, after_step=watch, progress=progress)
    return watch.table()


def _work(task: Task, *, batches: int) -> pd.DataFrame:
    return detect(task.setting, batches=batches, progress=False)


def record(
    *,
    seeds: int = 5,
    rates: Iterable[float] = (0.3, 0.0),
    batches: int = BATCHES,
    jobs: int = 1,
    name: str = "vatt/detection",
    folder: str | pathlib.Path | None = None,
    **options: Any,
) -> None:
    """Measure the detectors at every rate and with every seed, and keep their areas.

    Args:
        seeds: number of seeds, from 0.
        rates: of misalignment of the training set.
        batches: of each of the four kinds.
        jobs: processes, of one thread each.
        name: of the table.
        folder: results folder; the book's by default.
        **options: of :class:`Setting`, for every run.
    """
    rates = list(rates)
    chosen = [
        ("baseline", Setting(rate=rate, seed=seed, **options))
        for rate in rates
        for seed in range(seeds)
    ]
    usual = _sweep.fixed_in(chosen[0][1], "rate")
    parameters = {"seeds": seeds, "rates": rates, "batches": batches, "setting": usual}
    work = functools.partial(_work, batches=batches)
    _sweep.record(work, chosen, name, parameters=parameters, jobs=jobs, folder=folder)


def _readings(table: pd.DataFrame, rate: float = 0.3) -> Iterator[Reading]:
    last = table[(table.step == table.step.max()) & (table.kind == "any") & (table.rate == rate)]
    for claim, asked in CLAIMS.items():
        part = last[last.granularity == asked.granularity]
        by: dict[str, Mapping[int, float]] = {
            score: each.set_index("seed").auroc.to_dict() for score, each in part.groupby("score")
        }
        nothing = dict.fromkeys(by["cosine"], 0.5)
        found = difference(by["cosine"], nothing if asked.other is None else by[asked.other])
        yield Reading(claim, claim, DECLARED[claim], found, len(nothing))


def claims(table: pd.DataFrame, *, rate: float = 0.3) -> pd.DataFrame:
    """The difference of each contrast at the last step with its 95% interval, and its verdict."""
    rows = with_criteria(_readings(table, rate)).assign(rate=rate)
    columns = ["claim", "measure", "contrast", "rate", "mean", "low", "high", "pairs", "smallest"]
    return rows[[*columns, "verdict"]]


def readings(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`modalign.studies._claims.with_criteria` of c14: c14a and c14b."""
    found = (each for each in _readings(table) if CLAIMS[each.claim].other is None)
    return with_criteria(each._replace(claim="c14") for each in found)


def verdicts(table: pd.DataFrame) -> dict[str, Verdict]:
    """The verdict on c14: *depends* if batches and samples differ."""
    return dict(decided(readings(table)).verdict)
