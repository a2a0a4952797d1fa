"""Small networks on scikit-learn's 1,797 scanned digits and on the digits' English words."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import pandas as pd
import torch
from jaxtyping import Bool, Float
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from modalign import metrics
from modalign._checks import checked, require_choice, require_features, require_finite
from modalign._digits import LEVELS, TEST_SCANS, WORDS
from modalign._scale import unit_rows
from modalign.cka import cka, cka_matrix
from modalign.studies import _sweep
from modalign.studies._sweep import Task
from modalign.studies.cka.cosine_learning import MEASURES, THRESHOLDS
from modalign.training import fit, seeded


def scans() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test scans: images (n, 64) from 0 to 1 and labels (n,).

    The last 360 of the 1,797 scans are the test set.

    >>> (train, _), (test, _) = scans()
    >>> train.shape, test.shape
    (torch.Size([1437, 64]), torch.Size([360, 64]))
    """
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / LEVELS
    labels = torch.tensor(digits.target)
    train, test = slice(None, -TEST_SCANS), slice(-TEST_SCANS, None)
    return (images[train], labels[train]), (images[test], labels[test])


class LayeredCNN(nn.Module):
    """Convolutions of 3 x 3 with batch normalisation and ReLU, whose activations can be listed.

    The plain stack of Kornblith et al. (2019), scaled to scans of 8 x 8: the resolution is halved
    once, after half of the layers.
    """

    def __init__(self, layers: int = 8, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    width if layer else 1,
                    width,
                    kernel_size=3,
                    padding=1,
                    stride=2 if layer == layers // 2 else 1,
                    bias=False,
                ),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            for layer in range(layers)
        )
        self.head = nn.Linear(width, 10)

    def activations(self, images: Tensor) -> list[Tensor]:
        """The output of every hidden layer, (n, channels, height, width)."""
        outputs = []
        images = images.reshape(-1, 1, 8, 8)
        for layer in self.layers:
            images = layer(images)
            outputs.append(images)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.activations(images)[-1].mean((2, 3)))


def image_encoder(width: int) -> nn.Sequential:
    """Two fully connected hidden layers over the 64 pixels."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, width)
    )


class WordEncoder(nn.Module):
    """A word's letters through a GRU, to one vector."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.letters = nn.Embedding(27, 16, padding_idx=0)
        self.gru = nn.GRU(16, width, batch_first=True)
        self.head = nn.Linear(width, width)

    def forward(self, words: tuple[str, ...] = WORDS) -> Tensor:
        codes = [torch.tensor([ord(letter) - ord("a") + 1 for letter in word]) for word in words]
        lengths = torch.tensor([len(code) for code in codes])
        embedded = self.letters(nn.utils.rnn.pad_sequence(codes, batch_first=True))
        packed = nn.utils.rnn.pack_padded_sequence(
            embedded, lengths, batch_first=True, enforce_sorted=False
        )
        return self.head(self.gru(packed)[1][0])


def _train(model: nn.Module, seed: int, epochs: int) -> None:
    """Minimise the cross-entropy of the training scans with Adam at 0.001."""
    (images, labels), _ = scans()

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        # all orders are of one generator: to read the last, it draws those before it
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(images), generator=generator) for _ in range(epoch + 1)]
        for batch in orders[-1].split(64):
            yield images[batch], labels[batch]

    fit(
        model,
        lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        batches,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        epochs=epochs,
        device="cpu",
        progress=False,
    )


def train_classifier(seed: int, epochs: int = 10, layers: int = 8) -> LayeredCNN:
    """Train a digit classifier from a seed.

    >>> network = train_classifier(0, epochs=1, layers=2)
    >>> [activation.shape[1] for activation in network.activations(torch.zeros(1, 64))]
    [16, 16]
    """
    network = seeded(lambda: LayeredCNN(layers), seed)
    _train(network, seed, epochs)
    return network.eval()


class ImageWordModel(nn.Module):
    """An image encoder and a word encoder, matched by the cosine of their embeddings."""

    def __init__(self, width: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.image = image_encoder(width)
        self.word = WordEncoder(width)
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten words for each image."""
        x = unit_rows(self.image(images), "images")
        return x @ unit_rows(self.word(), "words").T / self.temperature


def train_image_words(seed: int, epochs: int = 20) -> ImageWordModel:
    """Train both encoders so that a scan lies closest to its word.

    >>> train_image_words(0, epochs=0)(torch.zeros(3, 64)).shape
    torch.Size([3, 10])
    """
    model = seeded(ImageWordModel, seed)
    _train(model, seed, epochs)
    return model.eval()


@torch.no_grad()
def image_word_alignment(model: ImageWordModel, *, seed: int = 0) -> dict[str, float]:
    """CKA between test scans and their words, with and without the right pairing, and accuracy."""
    _, (images, labels) = scans()
    x, y = model.image(images), model.word()[labels]
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return {
        "cka_biased": cka(x, y).item(),
        "cka_debiased": cka(x, y, debiased=True).item(),
        "shuffled_biased": cka(x, y[shuffled]).item(),
        "shuffled_debiased": cka(x, y[shuffled], debiased=True).item(),
        "accuracy": (model(images).argmax(1) == labels).float().mean().item(),
    }


def _of_all(measure: Callable[..., Tensor], xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """A measure of every layer of a network with every layer of another."""
    return torch.stack([torch.stack([measure(x, y) for y in ys]) for x in xs])


LAYER_MEASURES: dict[str, Callable[[list[Tensor], list[Tensor]], Tensor]] = {
    "CKA, debiased": cka_matrix,
    "CKA, biased": functools.partial(cka_matrix, debiased=False),
    "CCA": functools.partial(_of_all, metrics.cca),
    "SVCCA": functools.partial(_of_all, functools.partial(metrics.cca, variance=0.99)),
}


@checked
def matching_layers(
    similarity: Float[Tensor, "l l"], *, rounding: float = 1e-5
) -> Bool[Tensor, "2 l l"]:
    """For each layer of either network, its most similar layers in the other.

    If several are level, all of them are given: CCA of layers that have at least as many features
    as there are examples is 1, whatever they compute, and differences are rounding.

    Args:
        similarity: of the first network's layers (rows) with the second's.
        rounding: layers are level with the most similar one up to this difference.

    Returns:
        Which layer of the other network (last axis) matches; first for the rows, then the columns.

    Raises:
        ValueError: for no layer, a similarity that is not finite, or a negative ``rounding``.

    >>> matching_layers(torch.tensor([[0.9, 0.5], [0.6, 0.6]])).int().tolist()
    [[[1, 0], [1, 1]], [[1, 0], [0, 1]]]
    """
    require_features(similarity, "similarity")
    require_finite(similarity, "similarity")
    if not rounding >= 0:
        raise ValueError(f"rounding: expected 0 or more, got {rounding}")
    both = torch.stack([similarity, similarity.T])
    return both >= both.amax(2, keepdim=True) - rounding


def shares(matches: Bool[Tensor, "2 l l"]) -> pd.DataFrame:
    """How much of each layer's matches is at its own depth, and at most one off.

    Among t level layers each counts 1 / t, the chance of it if a tie is broken at random.

    Returns:
        A row for each network and layer: ``network``, ``layer``, ``level`` (t), ``same depth`` and
        ``at most one off``.

    >>> shares(matching_layers(torch.ones(3, 3)))["same depth"].round(2).unique().tolist()
    [0.33]
    """
    depth = torch.arange(matches.shape[1])
    off = (depth[:, None] - depth).abs()
    level = matches.sum(2)
    columns = {
        "level": level,
        **{
            name: (matches & (off <= most)).sum(2).double() / level
            for name, most in (("same depth", 0), ("at most one off", 1))
        },
    }
    return pd.DataFrame(
        {
            "network": [n for n in range(2) for _ in depth],
            "layer": depth.repeat(2).tolist(),
            **{name: values.flatten().tolist() for name, values in columns.items()},
        }
    )


@torch.no_grad()
def layer_similarities(first: LayeredCNN, second: LayeredCNN) -> dict[str, Tensor]:
    """Maps of every measure between two networks' layers, on the test scans."""
    _, (images, _) = scans()
    xs, ys = (
        [layer.flatten(1) for layer in network.activations(images)] for network in (first, second)
    )
    return {name: measure(xs, ys) for name, measure in LAYER_MEASURES.items()}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run: two classifiers, or one model of scans and words.

    Attributes:
        epochs: passes over the training scans.
        seed: of weights and batches; the classifiers take 2 ``seed`` and 2 ``seed`` + 1.
    """

    epochs: int = 10
    seed: int = 0


def _layers(task: Task) -> pd.DataFrame:
    epochs, seed = task.setting.epochs, task.setting.seed
    found = []
    for name, similarity in layer_similarities(
        *(train_classifier(2 * seed + i, epochs) for i in range(2))
    ).items():
        matches = matching_layers(similarity)
        # the first of the level ones, beside what all of them say
        first = matches.int().argmax(2).flatten().tolist()
        found.append(shares(matches).assign(seed=seed, measure=name, found=first))
    table = pd.concat(found, ignore_index=True)
    order = ["seed", "measure", "network", "layer", "found", "level"]
    return table[[*order, *table.columns.difference(order, sort=False)]]


def _kernels(task: Task) -> pd.DataFrame:
    """The check of layers by biased CKA with each kernel; shares are means over both networks."""
    _, (images, _) = scans()
    networks = [train_classifier(2 * task.setting.seed + i, task.setting.epochs) for i in range(2)]
    with torch.no_grad():
        xs, ys = ([layer.flatten(1) for layer in net.activations(images)] for net in networks)
    rows = []
    for name in ("biased", *(f"rbf {t}" for t in THRESHOLDS)):
        similarity = _of_all(MEASURES[name], xs, ys)
        found = shares(matching_layers(similarity))[["same depth", "at most one off"]].mean()
        rows.append({"seed": task.setting.seed, "measure": name, **found})
    return pd.DataFrame(rows)


def _words(task: Task) -> pd.DataFrame:
    epochs, seed = task.setting.epochs, task.setting.seed
    alignment = image_word_alignment(train_image_words(seed, epochs), seed=seed)
    return pd.DataFrame([{"seed": seed, "epochs": epochs, **alignment}])


SWEEPS: dict[str, tuple[Callable[[Task], pd.DataFrame], tuple[int, ...], int]] = {
    "cka/digit_layers": (_layers, (10,), 0),
    "cka/digit_words": (_words, (0, 20), 0),
    "cka/digit_kernels": (_kernels, (10,), 10),
}
"""By table: the function of each run, its lengths in epochs, and the first of the seeds."""


def record(names: Iterable[str] = tuple(SWEEPS), *, seeds: int = 10, jobs: int = 1) -> None:
    """Run experiments on digits for every seed, and keep them in results/.

    ``cka/digit_layers``: the sanity check of Kornblith et al. (2019) on independent pairs of
    networks, a row for each layer with its most similar layer in the other network and its
    :func:`shares`.
    ``cka/digit_words``: alignment of scans and words, before and after training.
    ``cka/digit_kernels``: the sanity check with a linear kernel and with RBF kernels.

    Args:
        names: of :data:`SWEEPS`.
        seeds: number of seeds, from the sweep's first on.
        jobs: processes, of one thread each.
    """
    for name in names:
        require_choice(name, tuple(SWEEPS), "names")
        work, lengths, first = SWEEPS[name]
        tasks = [
            (f"{epochs} epochs", Setting(epochs, seed))
            for seed in range(first, first + seeds)
            for epochs in lengths
        ]
        _sweep.record(work, tasks, name, parameters={"seeds": seeds}, jobs=jobs)
