"""The first model of the book: picture, sound and text on one sphere, where partners meet.

It learns from the shapes world, where it is known which sentence is true of which picture, or from
spoken digits, where it is known which digit a recording says.
"""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor
from tqdm import tqdm

from modalign import data, records
from modalign._checks import require_choice, require_finite, require_rows
from modalign._scale import rescaled
from modalign.cka import cka
from modalign.data import shapes
from modalign.metrics import retrieval
from modalign.models.encoders import AudioEncoder, ImageEncoder, TextEncoder
from modalign.models.inputs import audio_batch, build_tokenizer, image_batch, tokenize
from modalign.models.joint import JointEmbedding, views
from modalign.studies import _sweep
from modalign.studies._sweep import Task
from modalign.training import fit, seeded, shuffled

Dataset = Literal["shapes", "spoken-digits"]
PAIRS = (("image", "text"), ("image", "audio"), ("audio", "text"))


@dataclasses.dataclass(frozen=True)
class Setting:
    """The data that a model learns from, and its training.

    Attributes:
        dataset: ``"shapes"`` or ``"spoken-digits"``.
        examples: training scenes of the world.
        candidates: scenes of each held-out set; all 300 test recordings of spoken digits are.
        max_objects: most objects in a scene.
        epochs: passes over the training examples.
        batch_size: examples in a minibatch.
        learning_rate: of Adam.
        text_other: share of training texts that belong to another scene.
        audio_other: share of training sounds that do.
        compositional: leave some combinations of shape and colour out of training.
        seed: of the world, the weights and the order.
    """

    dataset: Dataset = "shapes"
    examples: int = 2000
    candidates: int = 500
    max_objects: int = 2
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 1e-3
    text_other: float = 0.0
    audio_other: float = 0.0
    compositional: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice(self.dataset, get_args(Dataset), "dataset")


@dataclasses.dataclass(frozen=True)
class Examples:
    """Views of n scenes or digits.

    Attributes:
        views: the inputs of the encoders, by ``modality.input``; row i of all belongs together.
        labels: (n,) the digit; None in the world, where no two scenes are the same.
        truth: for each two modalities of the world, (n, n): 1 if a judge of truth, who knows
            the content of both views, would accept them as partners.
    """

    views: dict[str, Tensor]
    labels: Tensor | None = None
    truth: Mapping[tuple[str, str], Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, its history, and embeddings of held-out sets before and after training."""

    setting: Setting
    model: JointEmbedding
    history: pd.DataFrame
    held_out: dict[str, Examples]
    before: dict[str, dict[str, Tensor]]
    after: dict[str, dict[str, Tensor]]


def _scenes(
    setting: Setting, split: shapes.Split, start: int, length: int, **changes: Any
) -> list[shapes.Sample]:
    options: dict[str, Any] = {"max_objects": setting.max_objects, "split": split, **changes}
    return [shapes.sample(setting.seed, start + i, **options) for i in range(length)]


def _world_views(samples: list[shapes.Sample], tokenizer: Any) -> dict[str, Tensor]:
    pictures = shapes.render_images([drawn.scene for drawn in samples]).images
    sounds = np.stack([shapes.render_audio(drawn.audio_scene) for drawn in samples])
    words = tokenize(tokenizer, [drawn.text for drawn in samples])
    return {
        **{f"text.{name}": value for name, value in words.items()},
        "image.pixel_values": torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255,
        "audio.input_values": torch.from_numpy(sounds),
    }


def judge(samples: list[shapes.Sample]) -> dict[tuple[str, str], Tensor]:
    """The pairs that a judge of truth accepts: 1 if a text is true of a scene, or if a scene looks
    as another sounds (the same shapes, colours and sizes).

    >>> drawn = [shapes.sample(0, i, max_objects=1) for i in range(3)]
    >>> judge(drawn)["image", "text"]
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    true = torch.tensor([[a.claim.true_of(b.scene) for a in samples] for b in samples]).float()
    looks = [sorted((o.shape, o.colour, o.size) for o in s.scene.objects) for s in samples]
    alike = torch.tensor([[a == b for a in looks] for b in looks]).float()
    return {("image", "text"): true, ("image", "audio"): alike, ("audio", "text"): true}


def world(setting: Setting) -> tuple[Examples, dict[str, Examples], int]:
    """Training scenes, three held-out sets, and the size of the vocabulary.

    Of the held-out sets, ``"held-out"`` has all combinations of shape and colour, ``"seen"`` only
    those that the compositional training split has, and ``"unseen"`` one or more in every scene
    that it has not.
    """
    wrong = {"text_other": setting.text_other, "audio_other": setting.audio_other}
    kinds = {"compositional": setting.compositional}
    learnt = _scenes(setting, "train", 0, setting.examples, **wrong, **kinds)
    n, combined = setting.candidates, {"compositional": True}
    held_out = {
        "held-out": _scenes(setting, "test", 0, n),
        "seen": _scenes(setting, "train", setting.examples, n, **combined),
        "unseen": _scenes(setting, "test", 0, n, **combined),
    }
    tokenizer = build_tokenizer(drawn.text for drawn in learnt)
    sets = {
        name: Examples(_world_views(samples, tokenizer), truth=judge(samples))
        for name, samples in held_out.items()
    }
    return Examples(_world_views(learnt, tokenizer)), sets, tokenizer.get_vocab_size()


def spoken_digits() -> tuple[Examples, dict[str, Examples], int]:
    """Training and test recordings with their scans and words, and the size of the vocabulary."""
    parts = {split: data.load("spoken-digits", split) for split in ("train", "test")}
    tokenizer = build_tokenizer(parts["train"]["text"])
    train, test = (
        Examples(_digit_views(rows, tokenizer), torch.tensor(rows["label"]))
        for rows in parts.values()
    )
    return train, {"held-out": test}, tokenizer.get_vocab_size()


def _digit_views(rows: Any, tokenizer: Any) -> dict[str, Tensor]:
    given = {
        "image": image_batch(rows["image"]),
        "audio": audio_batch(rows["audio"]),
        "text": tokenize(tokenizer, rows["text"]),
    }
    return {
        f"{modality}.{name}": value
        for modality, inputs in given.items()
        for name, value in inputs.items()
    }


def build(setting: Setting, vocabulary: int) -> JointEmbedding:
    """A model with its starting weights, for the pictures and sounds of a data set."""
    digits = setting.dataset == "spoken-digits"
    return seeded(
        lambda: JointEmbedding(
            {
                "image": ImageEncoder(in_channels=1, patch=1) if digits else ImageEncoder(),
                "audio": AudioEncoder(sample_rate=8_000 if digits else 16_000),
                "text": TextEncoder(vocabulary),
            }
        ),
        setting.seed,
    )


def loss(model: JointEmbedding, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum of the contrastive losses of the three pairs; two of one digit are not negatives."""
    pairs = model.losses(views(batch), same=batch.get("label"))
    named = {"-".join(pair): value for pair, value in pairs.items()}
    return {"loss": torch.stack(list(named.values())).sum(), **named}


@torch.no_grad()
def embed(model: JointEmbedding, examples: Examples) -> dict[str, Tensor]:
    """Embeddings of every modality, (n, dim) each, on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    n = len(examples.views["image.pixel_values"])
    parts = []
    for rows in torch.arange(n).split(256):
        batch = {name: value[rows].to(device) for name, value in examples.views.items()}
        parts.append(model.embed(views(batch)))
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


def train(setting: Setting, *, device: str = "cpu", progress: bool = True) -> Run:
    """Train on the sum of the three losses.

    >>> small = Setting(examples=64, candidates=20, epochs=1, batch_size=32)
    >>> train(small, progress=False).history["epoch"].to_list()
    [1]
    """
    digits = setting.dataset == "spoken-digits"
    learnt, held_out, vocabulary = spoken_digits() if digits else world(setting)
    model = build(setting, vocabulary)
    before = {name: embed(model, examples) for name, examples in held_out.items()}
    labels = {} if learnt.labels is None else {"label": learnt.labels}
    history = fit(
        model,
        loss,
        shuffled(learnt.views | labels, batch_size=setting.batch_size, seed=setting.seed),
        optimizer=torch.optim.Adam(model.parameters(), lr=setting.learning_rate),
        epochs=setting.epochs,
        device="cpu" if device == "cpu" else "auto",
        seed=setting.seed,
        progress=progress,
    )
    after = {name: embed(model, examples) for name, examples in held_out.items()}
    return Run(setting, model, history, held_out, before, after)


def directions(z: Tensor) -> float:
    """How many directions embeddings (n, dim) use: (sum of variances)^2 / sum of their squares.

    The participation ratio of the eigenvalues of their covariance: dim if all directions have
    one variance, 1 if only one has any.

    Raises:
        ValueError: for fewer than 2 rows, and embeddings that are not finite or do not vary.

    >>> round(directions(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 2)
    2.0
    """
    require_rows(len(z), 2, "z", "a covariance")
    require_finite(z, "z")
    z = z.double()
    if not (z != z[0]).any():
        raise ValueError("z: expected embeddings that vary, got one point")
    z = rescaled(z - z[0])
    variances = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(z.T)))
    return (variances.sum().square() / variances.square().sum()).item()


def evaluate(run: Run, held_out: str = "held-out") -> pd.DataFrame:
    """Scores on a held-out set, a row for each two modalities and direction.

    ``recall_at_1``, ``recall_at_10`` and ``median_rank`` among all candidates of the set, and the
    same for a judge of truth, ``judge_at_1`` and ``judge_at_10``, in the world;
    ``nearest_right``, the share of queries whose nearest candidate is of their digit, in spoken
    digits. ``cka_before`` and ``cka_after`` training, and ``cka_shuffled``, after it with pairs
    broken, are debiased and the same both ways. ``query_directions`` are those that the
    embeddings of the query's modality use, after training.
    """
    examples, before, after = run.held_out[held_out], run.before[held_out], run.after[held_out]
    generator = torch.Generator().manual_seed(run.setting.seed)
    broken = torch.randperm(len(after["image"]), generator=generator)
    rows = []
    for pair in PAIRS:
        x, y = (after[name] for name in pair)
        alignment = {
            "cka_before": cka(*(before[name] for name in pair), debiased=True).item(),
            "cka_after": cka(x, y, debiased=True).item(),
            "cka_shuffled": cka(x, y[broken], debiased=True).item(),
        }
        scores = _scores(x @ y.T, examples, pair)
        for (query, candidate), found in zip((pair, pair[::-1]), scores, strict=True):
            used = {"query_directions": directions(after[query])}
            rows.append({"query": query, "candidate": candidate, **found, **alignment, **used})
    return pd.DataFrame(rows)


def bare(ax: Axes) -> None:
    """Leave a picture alone: no ticks, no grid, no frame."""
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def draw_views(axes: Sequence[Axes], scene: shapes.Scene) -> None:
    """A scene's picture, four frames of its clip, and the spectrogram of its sound."""
    strip = shapes.render_video(scene, 4, 96).images
    sound = shapes.render_audio(scene)
    axes[0].imshow(shapes.render_images([scene], 96).images[0])
    axes[1].imshow(np.concatenate(strip, axis=1))
    how: dict[str, Any] = {"NFFT": 512, "noverlap": 480, "mode": "magnitude", "scale": "linear"}
    axes[2].specgram(sound, Fs=16, cmap="cividis", **how)
    axes[2].set(ylim=(0, 2.6), ylabel="kHz", xticks=[0, 500, 1000])
    axes[2].grid(visible=False)
    for ax in axes[:2]:
        bare(ax)


def _scores(
    similarity: Tensor, examples: Examples, pair: tuple[str, str]
) -> list[dict[str, float]]:
    """Of rows as queries, and of columns."""
    if examples.labels is not None:
        own = examples.labels
        nearest = (own[matrix.argmax(1)] == own for matrix in (similarity, similarity.T))
        return [{"nearest_right": right.float().mean().item()} for right in nearest]
    ours, judged = (retrieval(s, ks=(1, 10)) for s in (similarity, examples.truth[pair]))
    return [
        {
            "recall_at_1": mine.recall[1],
            "recall_at_10": mine.recall[10],
            "median_rank": mine.median_rank,
            "judge_at_1": judges.recall[1],
            "judge_at_10": judges.recall[10],
        }
        for mine, judges in ((ours.rows, judged.rows), (ours.columns, judged.columns))
    ]


CONDITIONS: dict[str, dict[str, Any]] = {
    "aligned": {},
    "20% wrong texts": {"text_other": 0.2},
    "40% wrong texts": {"text_other": 0.4},
    "80% wrong texts": {"text_other": 0.8},
    "compositional": {"compositional": True},
    "spoken digits": {"dataset": "spoken-digits"},
}
RECORDED: dict[str, Any] = {"examples": 3000}


def _measure(task: Task, *, device: str) -> pd.DataFrame:
    run = train(task.setting, device=device, progress=False)
    rows = [evaluate(run, name).assign(held_out=name) for name in run.held_out]
    return pd.concat(rows).assign(condition=task.row, seed=task.setting.seed)


def record(
    *, seeds: int = 5, jobs: int = 1, device: str = "cpu", conditions: list[str] | None = None
) -> None:
    """Train under every condition and seed, and keep the scores in results/.

    ``data/retrieval`` has those of the world and ``data/spoken_digits`` those of spoken digits,
    whose files have to be there. Decided beforehand: scores on held-out examples after the last
    epoch, differences paired by seed, 95% intervals.

    Raises:
        ValueError: for an unknown condition.
    """
    names = list(CONDITIONS) if conditions is None else conditions
    for name in names:
        require_choice(name, tuple(CONDITIONS), "conditions")
    for table, chosen in (
        ("data/retrieval", [name for name in names if name != "spoken digits"]),
        ("data/spoken_digits", [name for name in names if name == "spoken digits"]),
    ):
        if not chosen:
            continue
        conditions_of = {name: CONDITIONS[name] for name in chosen}
        fixed = dataclasses.asdict(Setting(**RECORDED))
        _sweep.record(
            functools.partial(_measure, device=device),
            [
                (name, Setting(**RECORDED, **condition, seed=seed))
                for name, condition in conditions_of.items()
                for seed in range(seeds)
            ],
            table,
            parameters={"conditions": conditions_of, "seeds": seeds, "fixed": fixed},
            jobs=jobs,
        )


def record_sets() -> None:
    """Read every real set whose files are there, in full, and keep the counts in results/."""
    start, rows = time.perf_counter(), []
    here = [str(each["name"]) for each in data.available() if each["found"]]
    for name in tqdm([each for each in here if each != "shapes"], desc="sets"):
        began = time.perf_counter()
        table = data.load(name)
        counts = {split or "in no split": n for split, n in Counter(table["split"]).items()}
        columns = ", ".join(c for c in table.column_names if c not in ("id", "split"))
        row = {"name": name, "rows": len(table), **counts, "columns": columns}
        rows.append({**row, "seconds": time.perf_counter() - began})
    seconds = time.perf_counter() - start
    records.save(pd.DataFrame(rows), "data/sets", parameters={"seeds": 0}, seconds=seconds)
