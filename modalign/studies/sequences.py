"""Two modalities that learn at different pace and scale: the experiments of "Pace and scale".

A label depends on a clip and a text together; neither determines it alone. Two small
networks read one modality each, and one linear layer reads both. ``"towers"`` are given one
vector of each modality, and the clip's features may come in another unit, so that the gradients
of its network are smaller. ``"sequences"`` are given padded sequences, read by LSTMs with and
without normalisation.

:func:`train` has a loop of its own and not :func:`modalign.training.fit`: it measures each step by
the weights before it and after it, which ``fit`` does not show.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from torch import Tensor, nn
from torch.nn import functional

from modalign import players, records
from modalign._checks import require_choice, require_finite, require_lengths
from modalign.lars import LARS
from modalign.normalization import LayerNormLSTM, SequenceBatchNorm
from modalign.studies import _sweep
from modalign.studies._claims import Claim, decided, judged, paired
from modalign.studies._sweep import Task, settings_of, shared_by
from modalign.training import DivergenceError, seeded

Kind = Literal["towers", "sequences"]
Optimizer = Literal["sgd", "adam", "lars"]
Norm = Literal["none", "batch norm", "sbn", "ln", "ln of outputs"]
MODALITIES = ("video", "text")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        kind: ``"towers"`` on vectors or ``"sequences"``.
        optimizer: ``"sgd"`` (momentum 0.9), ``"adam"``, or ``"lars"`` on Adam's direction.
        learning_rate: LARS: the paper's.
        unit: the clip's features are multiplied by it.
        norm: of the LSTMs' outputs: none, plain batch normalisation of the padded tensor,
            sequence-wise, or layer normalisation of the outputs; ``"ln"`` is a layer-normalised
            LSTM.
        examples: training examples; a thousand each are held out to choose and to test.
        epochs: passes over them.
        batch_size: paper: 32.
        seed: of the world, the data, the initial weights and the batches.

    Raises:
        ValueError: for a choice that is not offered.
    """

    kind: Kind = "towers"
    optimizer: Optimizer = "lars"
    learning_rate: float = 0.007
    unit: float = 1.0
    norm: Norm = "none"
    examples: int = 512
    epochs: int = 30
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("kind", Kind),
            ("optimizer", Optimizer),
            ("norm", Norm),
        ):
            require_choice(getattr(self, name), get_args(choices), name)


class Data(NamedTuple):
    """Examples: video and text (n, T, d), their lengths (n,) each, and labels (n,)."""

    video: Tensor
    video_lengths: Tensor
    text: Tensor
    text_lengths: Tensor
    label: Tensor


def sample(
    n: int, *, seed: int, steps: tuple[int, int] = (12, 6), dim: int = 32, latent: int = 6
) -> Data:
    """Draw n pairs of sequences whose label, of four, depends on both modalities together.

    A step is a noisy, bent view of its sequence's latent vector, with a mean that is not zero, as
    features after a ReLU have. Sequences have a quarter of the steps to all of them.

    >>> data = sample(5, seed=0)
    >>> tuple(data.video.shape), tuple(data.text.shape)
    ((5, 12, 32), (5, 6, 32))
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    score, sides = torch.zeros(n, 4), []
    for longest in steps:
        mix, readout, offset = normal(latent, dim), normal(latent, 4), normal(dim)
        z = normal(n, latent)
        score += z @ readout
        lengths = torch.randint(max(1, longest // 4), longest + 1, (n,), generator=generator)
        x = torch.tanh((z[:, None] + normal(n, longest, latent)) @ mix / 2) + offset
        valid = torch.arange(longest) < lengths[:, None]
        sides.append((x * valid[..., None], lengths))
    (video, video_lengths), (text, text_lengths) = sides
    return Data(video, video_lengths, text, text_lengths, score.argmax(1))


class OutputNorm(nn.Module):
    """One of the normalisations of an LSTM's outputs, or none."""

    def __init__(self, norm: Norm, width: int) -> None:
        super().__init__()
        layers = {
            "batch norm": nn.BatchNorm1d,
            "sbn": SequenceBatchNorm,
            "ln of outputs": nn.LayerNorm,
        }
        self.layer = layers.get(norm, nn.Identity)(width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Normalise (B, T, P); plain batch normalisation takes the padding for data."""
        if isinstance(self.layer, SequenceBatchNorm):
            return self.layer(x, lengths)
        if isinstance(self.layer, nn.BatchNorm1d):
            return self.layer(x.flatten(0, 1)).view_as(x)
        return self.layer(x)


class Reader(nn.Module):
    """Reads one modality: an LSTM, normalised, and the mean of its un-padded outputs."""

    def __init__(self, norm: Norm, dim: int, width: int) -> None:
        super().__init__()
        lstm = LayerNormLSTM if norm == "ln" else nn.LSTM
        self.inputs = nn.Linear(dim, width)
        self.lstm = lstm(width, width, batch_first=True)
        self.norm = OutputNorm(norm, width)

    def steps(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, P) and which of them are not padding (B, T)."""
        outputs = self.norm(self.lstm(self.inputs(x).relu())[0], lengths)
        return outputs, torch.arange(x.shape[1], device=x.device) < lengths[:, None]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        require_lengths(lengths, x.shape[1], "lengths", least=1)  # of no step there is no mean
        outputs, valid = self.steps(x, lengths)
        return (outputs * valid[..., None]).sum(1) / lengths[:, None]


class Tower(nn.Module):
    """Reads the mean of one modality's un-padded steps: two layers of ReLU."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU()
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        require_lengths(lengths, x.shape[1], "lengths", least=1)
        return self.layers(x.sum(1) / lengths[:, None])


class Pair(nn.Module):
    """Two readers and the layer that reads their outputs."""

    def __init__(self, setting: Setting, dim: int = 32, width: int = 16) -> None:
        super().__init__()
        towers = setting.kind == "towers"
        self.readers = nn.ModuleDict(
            {
                name: Tower(dim, width) if towers else Reader(setting.norm, dim, width)
                for name in MODALITIES
            }
        )
        self.head = nn.Linear(2 * width, 4)
        self.unit = setting.unit

    def forward(self, data: Data) -> Tensor:
        video = self.readers["video"](self.unit * data.video, data.video_lengths)
        text = self.readers["text"](data.text, data.text_lengths)
        return self.head(torch.cat([video, text], 1))


def optimizer_for(setting: Setting, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a setting."""
    if setting.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), setting.learning_rate, momentum=0.9)
    if setting.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), setting.learning_rate)
    return LARS(network.parameters(), setting.learning_rate)


def rows(data: Data, index: Tensor | slice) -> Data:
    """Some of the examples."""
    return Data(*(column[index] for column in data))


@torch.no_grad()
def accuracy(network: Pair, data: Data, *, shuffled: str | None = None) -> float:
    """Share of right labels; with one modality ``shuffled``, of those that the other one gives."""
    if shuffled:
        columns = {
            name: getattr(data, name).roll(1, 0) for name in (shuffled, f"{shuffled}_lengths")
        }
        data = data._replace(**columns)
    logits = network(data)
    require_finite(logits, "logits")
    return (logits.argmax(1) == data.label).float().mean().item()


def _norm(tensors: list[Tensor]) -> float:
    return nn.utils.get_total_norm(tensors).item()


@torch.no_grad()
def _sizes(name: str, ws: list[Tensor], before: list[Tensor]) -> dict[str, float]:
    """|w| / |gradient|, undefined if that is 0, and |step| / |w|."""
    norm, gradient = _norm(before), _norm([w.grad for w in ws if w.grad is not None])
    steps = [w - old for w, old in zip(ws, before, strict=True)]
    return {
        f"ratio_{name}": norm / gradient if gradient else float("nan"),
        f"pace_{name}": _norm(steps) / norm,
    }


def _output_statistics(network: Pair, data: Data) -> dict[str, float]:
    """Mean size of the outputs' means, and mean of their variances, over un-padded steps."""
    found = {}
    for name in MODALITIES:
        reader = network.readers[name]
        assert isinstance(reader, Reader)
        with torch.no_grad():
            outputs, valid = reader.steps(getattr(data, name), getattr(data, f"{name}_lengths"))
        found[f"mean_{name}"] = outputs[valid].mean(0).abs().mean().item()
        found[f"variance_{name}"] = outputs[valid].var(0).mean().item()
    return found


def train(setting: Setting) -> pd.DataFrame:
    """Train, and evaluate after every epoch.

    Returns:
        A row an epoch: ``loss`` (its mean), ``train``, ``validation`` and ``test`` accuracy,
        ``without_video`` and ``without_text`` (test accuracy with that modality shuffled); for
        each modality, and means over the epoch, ``ratio`` (``|w| / |gradient|``) and ``pace``
        (``|step| / |w|``) of its network; and the statistics of the outputs of LSTMs.

    Raises:
        DivergenceError: if the loss is no longer finite.

    >>> history = train(Setting(examples=64, epochs=2))
    >>> history.epoch.tolist()
    [1, 2]
    """
    data = sample(setting.examples + 2000, seed=setting.seed)
    training, chosen, test = (
        rows(data, slice(start, end)) for start, end in ((2000, None), (0, 1000), (1000, 2000))
    )
    generator = torch.Generator().manual_seed(setting.seed)
    network = seeded(lambda: Pair(setting), setting.seed)
    optimizer = optimizer_for(setting, network)
    readers: dict[str, list[Tensor]] = {n: [*network.readers[n].parameters()] for n in MODALITIES}
    history: list[dict[str, Any]] = []
    for epoch in range(1, setting.epochs + 1):
        losses, sizes = [], []
        order = torch.randperm(setting.examples, generator=generator)
        for index in order.split(setting.batch_size):
            batch = rows(training, index)
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(batch), batch.label)
            loss.backward()
            if not torch.isfinite(loss):
                raise DivergenceError(
                    f"epoch {epoch}: the loss is {loss.item()}; lower the learning rate",
                    pd.DataFrame(history),
                )
            before = {name: [w.detach().clone() for w in ws] for name, ws in readers.items()}
            optimizer.step()
            losses.append(loss.item())
            sizes.append(
                {k: v for n in readers for k, v in _sizes(n, readers[n], before[n]).items()}
            )
        network.eval()
        row = {
            "epoch": epoch,
            "loss": sum(losses) / len(losses),
            "train": accuracy(network, training),
            "validation": accuracy(network, chosen),
            "test": accuracy(network, test),
            "without_video": accuracy(network, test, shuffled="video"),
            "without_text": accuracy(network, test, shuffled="text"),
            **pd.DataFrame(sizes).mean().to_dict(),
        }
        if setting.kind == "sequences":
            row |= _output_statistics(network, test)
        network.train()
        history.append(row)
    return pd.DataFrame(history)


def last(setting: Setting) -> dict[str, Any]:
    """A run's setting and its last epoch, as one row."""
    return {**dataclasses.asdict(setting), **train(setting).iloc[-1].to_dict()}


def best(table: pd.DataFrame, by: Sequence[str], *, at: Mapping[str, Any] = {}) -> pd.DataFrame:
    """Keep the runs of each group's best learning rate, by mean validation accuracy over seeds.

    Args:
        table: rows of :func:`last`.
        by: columns whose combinations have a learning rate each.
        at: choose among the rows with these values only, and keep the chosen rate everywhere.
    """
    among = table
    for column, value in at.items():
        among = among[among[column] == value]
    keys = [*by, "learning_rate"]
    means = among.groupby(keys)["validation"].mean().reset_index()
    chosen = means.loc[means.groupby(list(by))["validation"].idxmax(), keys]
    return table.merge(chosen, on=keys)


NORMALIZED: dict[str, Sequence[Any]] = {
    "kind": ["sequences"],
    "optimizer": ["adam", "lars"],
    "norm": get_args(Norm),
    "epochs": [10],
}
PACED: dict[str, Sequence[Any]] = {
    "kind": ["towers"],
    "optimizer": get_args(Optimizer),
    "unit": [1.0, 0.03, 0.001],
    "epochs": [30],
}
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "sequences/pace": PACED,
    "sequences/norms": NORMALIZED,
    "sequences/fair-pace": PACED,
    "sequences/fair-norms": NORMALIZED,
}
RATES: dict[str, dict[str, Sequence[float]]] = {
    "sequences/pace": {
        "sgd": [0.003, 0.01, 0.03, 0.1],
        "adam": [0.001, 0.003, 0.01, 0.03],
        "lars": [0.003, 0.007, 0.02, 0.05],
    },
    "sequences/norms": {"adam": [0.003, 0.01], "lars": [0.007, 0.02]},
    "sequences/fair-pace": {
        "sgd": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
        "adam": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
        "lars": [0.0003, 0.001, 0.003, 0.007, 0.02, 0.05],
    },
    "sequences/fair-norms": {
        "adam": [0.0003, 0.001, 0.003, 0.01, 0.03],
        "lars": [0.001, 0.003, 0.007, 0.02, 0.05],
    },
}
"""Rates that are searched. On the older two grids several best ones lay at an end."""
FAIR_SEEDS = range(10, 18)
"""Seeds that are in none of the older tables."""


class Contrast(NamedTuple):
    """Two groups of runs, and the paper's statement on them; see :data:`CONTRASTS`."""

    claim: str
    says: str
    paper: str
    table: str
    measure: str
    better: tuple[Any, ...]
    worse: tuple[Any, ...]
    smallest: float


TABLE_2, TABLE_3 = "21.7 to 30.6, Table 2", "1.9 to 1.5, Table 3"
CLOSER = "LARS brings the ratios closer"
CONTRASTS: tuple[Contrast, ...] = (
    *(
        Contrast("3.2", f"LARS beats SGD at unit {unit:g}",
                 "poorly scaled layers can be optimised, 3.2",
                 "pace", "test", ("lars", unit), ("sgd", unit), 0.05)
        for unit in (0.03, 0.001)
    ),
    *(
        Contrast("c29", f"LARS beats Adam, towers at unit {unit:g}", TABLE_2,
                 "pace", "test", ("lars", unit), ("adam", unit), 0.089)
        for unit in (1.0, 0.03, 0.001)
    ),
    Contrast("c29", "LARS beats Adam, LSTMs with SBN", TABLE_2,
             "norms", "test", ("lars", "sbn"), ("adam", "sbn"), 0.089),
    Contrast("c30b", f"{CLOSER}, towers", TABLE_3,
             "pace", "in step", ("lars", 1.0), ("adam", 1.0), 0.236),
    *(
        Contrast("c30b", f"{CLOSER}, LSTMs, {norm}", TABLE_3,
                 "norms", "in step", ("lars", norm), ("adam", norm), 0.236)
        for norm in ("none", "sbn")
    ),
    Contrast("c31a", "SBN beats LN under LARS", "25.9 to 30.6, Table 4",
             "norms", "test", ("lars", "sbn"), ("lars", "ln"), 0.047),
    Contrast("c31b", "LN beats SBN under Adam", "21.7 to 23.6, Table 4",
             "norms", "test", ("adam", "ln"), ("adam", "sbn"), 0.019),
    *(
        Contrast("3.4", f"LN of the outputs is worse than {other}", "performed poorly, 3.4",
                 "norms", "test", ("lars", other), ("lars", "ln of outputs"), 0.02)
        for other in ("none", "ln")
    ),
    *(
        Contrast(f"c34{part}", f"{says}, {name} under {optimizer}", "Figure 5",
                 "norms", f"{measure}_{name}", (optimizer, "sbn"), (optimizer, "none"), smallest)
        for part, says, measure, smallest in (
            ("a", "SBN brings means nearer to 0", "centred", 0.05),
            ("b", "SBN raises variances", "variance", 0.3),
        )
        for optimizer in ("adam", "lars")
        for name in MODALITIES
    ),
)  # fmt: skip
"""The paper's statements on the ingredients, in this small world.

Each contrast was declared, with its smallest effect of interest, before the sweeps ``fair-pace``
and ``fair-norms`` ran: test accuracy as a share (the paper's differences); ``in step`` is minus
the size of the logarithm of the two ratios' ratio, and ``centred`` minus the mean size of the
outputs' means. Every combination has the same number of rates for each optimiser, of which the
one with the best mean validation accuracy counts. On the older tables no smallest effect had been
set, so that nothing there is absent. Claims of the whole network are decided in the next chapter.
"""


def _table(name: str, fair: bool) -> str:
    return f"sequences/{'fair-' if fair else ''}{name}"


def claims(tables: Mapping[str, pd.DataFrame], *, fair: bool = True) -> pd.DataFrame:
    """Judge :data:`CONTRASTS` by tables of runs.

    Args:
        tables: ``"pace"`` and ``"norms"``, or one of them.
        fair: False for the older tables, for which no smallest effect was set.

    Returns:
        The rows of :func:`modalign.studies._claims.judged`, one a contrast.
    """
    runs = {}
    for name, table in tables.items():
        by = ["optimizer", "unit" if name == "pace" else "norm"]
        measured = best(table, by)
        step = -np.log(measured["ratio_text"] / measured["ratio_video"]).abs()
        measured = measured.assign(**{"in step": step})
        if name == "norms":
            for modality in MODALITIES:
                measured[f"centred_{modality}"] = -measured[f"mean_{modality}"]
        runs[name] = {key: part.set_index("seed") for key, part in measured.groupby(by)}
    rows = []
    for each in CONTRASTS:
        if each.table not in runs:
            continue
        sides = (runs[each.table][side][each.measure] for side in (each.better, each.worse))
        found, pairs = paired(*sides)
        table = _table(each.table, fair)
        trials = " and ".join(str(len(RATES[table][side[0]])) for side in (each.better, each.worse))
        claim = Claim(
            says=each.says,
            paper=each.paper,
            measure=each.measure,
            contrast=f"{each.better} minus {each.worse}",
            budget=f"{trials} rates, the best on validation",
            smallest=each.smallest if fair else 0.0,
            table=table,
        )
        rows.append(judged({each.claim: claim}, [(each.claim, each.says, found, pairs)]))
    return pd.concat(rows, ignore_index=True)


def readings(folder: str | pathlib.Path | None = None, *, first: bool = False) -> pd.DataFrame:
    """:func:`claims` on the table of the fair grid, and on the older one until that is recorded.

    Args:
        folder: results folder; the book's by default.
        first: read the older one in any case.

    Returns:
        The rows of :func:`claims`, with ``fair``, ``table``, and the ``budget`` of both sides.
    """
    root = records.results_folder(folder)
    found = []
    for name in ("pace", "norms"):
        fair = not first and (root / f"{_table(name, True)}.json").exists()
        table = records.load(_table(name, fair), folder=folder)
        offered = {len(rates) for rates in table.attrs["parameters"]["rates"].values()}
        trials = " or ".join(map(str, sorted(offered)))
        budget = f"{trials} rates, {table.seed.nunique()} seeds"
        rows = claims({name: table}, fair=fair)
        found.append(rows.assign(fair=fair, budget=budget, table=_table(name, fair)))
    rows = pd.concat(found, ignore_index=True)
    return rows.sort_values("claim", kind="stable", ignore_index=True)


def verdicts(folder: str | pathlib.Path | None = None, *, first: bool = False) -> pd.DataFrame:
    """One verdict a claim, over its :func:`readings`."""
    return decided(readings(folder, first=first))


def at_an_end(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The groups whose best rate is the first or the last one that was offered.

    Args:
        table: of :func:`last`, with ``optimizer`` among ``by``.
        by: columns whose combinations have a rate each.
    """
    taken = best(table, by)[[*by, "learning_rate"]].drop_duplicates()
    offered = table.groupby("optimizer").learning_rate
    ends = pd.concat([offered.min(), offered.max()], axis=1).apply(set, axis=1)
    kept = [row.learning_rate in ends[row.optimizer] for row in taken.itertuples()]
    return taken[kept].reset_index(drop=True)


def settings(name: str, seeds: Iterable[int]) -> list[Setting]:
    """Every combination of a grid with every seed and every rate of its optimiser.

    >>> len(settings("sequences/pace", range(2)))
    72
    """
    return [
        dataclasses.replace(chosen, learning_rate=rate)
        for chosen in settings_of(Setting, GRIDS[name], seeds)
        for rate in RATES[name][chosen.optimizer]
    ]


def _last(task: Task) -> pd.DataFrame:
    """The last epoch of a run; one that diverges has a score that is never chosen."""
    try:
        found = last(task.setting)
    except DivergenceError as error:
        found = {**dataclasses.asdict(task.setting), "epoch": len(error.history), "validation": 0.0}
    return pd.DataFrame([found])


def record(
    names: Sequence[str] = ("sequences/pace", "sequences/norms"),
    *,
    seeds: int | Iterable[int] = 10,
    jobs: int = 1,
) -> None:
    """Run sweeps of :data:`GRIDS` over seeds, and keep their tables in results/.

    Args:
        names: of the tables; see also :func:`record_fair`.
        seeds: their number, from 0, or the seeds.
        jobs: processes, of one thread each.
    """
    drawn = range(seeds) if isinstance(seeds, int) else list(seeds)
    for name in names:
        runs = settings(name, drawn)
        fixed = shared_by(runs)
        given = seeds if isinstance(seeds, int) else drawn
        _sweep.record(
            _last,
            [(run.optimizer, run) for run in runs],
            name,
            parameters={"grid": GRIDS[name], "rates": RATES[name], "seeds": given, "fixed": fixed},
            drop=[*fixed, "epoch"],
            jobs=jobs,
        )


def record_fair(
    names: Sequence[str] = ("norms", "pace"),
    *,
    seeds: Iterable[int] = FAIR_SEEDS,
    jobs: int = 1,
) -> None:
    """Run the sweeps with grids so wide that no best rate need lie at an end.

    400 runs of 2.3 s (``norms``) and 432 of 1 s (``pace``): 16 and 7 core minutes. A sweep that was
    stopped goes on where it was.
    """
    record([_table(name, True) for name in names], seeds=seeds, jobs=jobs)


LENGTHS = (0.5, 1.0, 2.0, 4.0)
STEPS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def one_step(optimizer: Literal["lars", "sgd"], rate: float, norm: float) -> tuple[Tensor, float]:
    """A tensor of the plane after one step on a loss that its scale does not change.

    Args:
        optimizer: LARS along the gradient, or plain SGD.
        rate: the learning rate.
        norm: of the tensor before.

    Returns:
        The tensor, which began at 60 degrees, and the angle by which it turned, in radians.

    >>> [round(one_step("lars", 0.1, norm)[1], 4) for norm in (0.5, 4.0)]
    [0.0997, 0.0997]
    """
    before = norm * torch.tensor([0.5, 0.75**0.5], dtype=torch.float64)
    w = nn.Parameter(before.clone())
    lars = optimizer == "lars"
    stepper = LARS([w], lr=rate, direction="sgd") if lars else torch.optim.SGD([w], lr=rate)
    (-functional.normalize(w, dim=0)[0]).backward()
    stepper.step()
    cosine = functional.cosine_similarity(before, w.detach(), dim=0).clamp(max=1)
    return w.detach(), float(cosine.arccos())


def turning() -> HTML:
    """A moving figure: by how much one step turns a tensor, against learning rate and norm."""

    def arrow(kind: str, tip: Tensor, name: str) -> str:
        x, y = 40 + 60 * float(tip[0]), 270 - 60 * float(tip[1])
        return (
            f'<line class="{kind}" x1="40" y1="270" x2="{x:.1f}" y2="{y:.1f}" stroke-width="3"/>'
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            f'<text class="{kind}" x="{x + 8:.1f}" y="{y + 4:.1f}">{name}</text>'
        )

    def draw(rate: float, norm: float) -> tuple[str, str]:
        lars, by_lars = one_step("lars", rate, norm)
        sgd, by_sgd = one_step("sgd", rate, norm)
        before = norm * torch.tensor([0.5, 0.75**0.5])
        return (
            f'<circle class="axis" cx="40" cy="270" r="{60 * norm:.0f}" fill="none" '
            'stroke-dasharray="4 4"/>'
            f"{arrow('axis', before, '')}{arrow('two', sgd, 'SGD')}{arrow('one', lars, 'LARS')}",
            f"learning rate {rate:g}, norm {norm:g}: one step of LARS turns the tensor by "
            f"{by_lars:.4f} radians, one step of SGD by {by_sgd:.4f}",
        )

    return players.sliders(
        draw,
        {"rate": STEPS, "norm": LENGTHS},
        start={"rate": 0.3, "norm": 2.0},
        size=(400, 290),
        label="A tensor of the plane before and after a step of LARS and of SGD, with sliders for "
        "the learning rate and for the norm of the tensor",
    )
