"""A run that is taken up sees the rows that it would have seen, whatever gives them, or refuses."""

import contextlib
import importlib.util
import inspect
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    WeightedRandomSampler,
    default_collate,
)

from modalign.training import checkpoint, feed, fit, seeded, shuffled
from modalign.training.checks import require_replayable

ROWS, BATCH = 24, 8


def item(row, noise=0.0):
    return {"x": torch.full((4,), row / ROWS) + noise, "row": torch.tensor(row)}


class Augmented(Dataset):
    """Rows with noise from all global generators."""

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        noise = torch.rand(4) + random.random() + np.random.rand()  # noqa: NPY002
        return item(row, noise)


class OwnNoise(Augmented):
    def __init__(self):
        self.generator = np.random.default_rng(0)


class HiddenNoise(Augmented):
    """Its generator lies where none is looked for."""

    generator = np.random.default_rng(0)

    def __getitem__(self, row):
        return item(row, self.generator.random())


class Lazy(Sampler):
    """Draws each row when it is asked for it."""

    def __init__(self, generator=None):
        self.generator = generator

    def __len__(self):
        return ROWS

    def __iter__(self):
        left = list(range(ROWS))
        while left:
            yield left.pop(int(torch.randint(len(left), (), generator=self.generator)))


class Buffered(IterableDataset):
    """Shuffles within a buffer, as streams do."""

    def __iter__(self):
        rows, buffer = iter(range(ROWS)), []
        for row in rows:
            buffer.append(row)
            if len(buffer) > 5:
                yield item(buffer.pop(random.randrange(len(buffer))))
        for row in buffer:
            yield item(row)


class Counting(IterableDataset):
    """Other rows each time it is read."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        self.read += 1
        yield from (item(row, self.read) for row in range(ROWS))


def fixed():
    return [
        {name: values[None].repeat_interleave(3, 0) for name, values in item(i).items()}
        for i in range(3)
    ]


def of_the_epoch(epoch):
    return DataLoader(
        Augmented(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(epoch)
    )


REPLAYED = {
    "list": fixed,
    "global generators": lambda: DataLoader(Augmented(), BATCH, shuffle=True),
    "global generator by name": lambda: DataLoader(
        Augmented(), BATCH, shuffle=True, generator=torch.default_generator
    ),
    "workers that read ahead": lambda: DataLoader(
        Augmented(), BATCH, shuffle=True, num_workers=2, prefetch_factor=3
    ),
    "a sampler that draws row by row": lambda: DataLoader(Augmented(), BATCH, sampler=Lazy()),
    "a batch sampler": lambda: DataLoader(
        Augmented(), batch_sampler=BatchSampler(Lazy(), BATCH, drop_last=False)
    ),
    "a weighted sampler": lambda: DataLoader(
        Augmented(), BATCH, sampler=WeightedRandomSampler(torch.arange(1.0, ROWS + 1), ROWS)
    ),
    "a stream": lambda: DataLoader(Buffered(), BATCH),
    "a stream with workers": lambda: DataLoader(Buffered(), BATCH, num_workers=1),
    "a stream of its own in each worker": lambda: DataLoader(Counting(), BATCH, num_workers=1),
    "a function of the epoch": lambda: of_the_epoch,
}


class Stopped(Exception):
    pass


def train(batches, path=None, *, stop=None, every=1, epochs=3):
    """The rows seen, the weights, and the history."""
    seen = []
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1)), 0)

    def loss(model, batch):
        seen.append(batch["row"].tolist())
        noise = random.random() + np.random.randn()  # noqa: NPY002
        return model(batch["x"]).square().mean() * (1 + 0.1 * noise)

    def after_step(step):
        if step == stop:
            raise Stopped

    kept = {} if path is None else {"checkpoint": path, "checkpoint_every": every}
    history = None
    with contextlib.suppress(Stopped):
        history = fit(
            model,
            loss,
            batches,
            optimizer=torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9),
            epochs=epochs,
            after_step=after_step,
            device="cpu",
            progress=False,
            **kept,
        )
    return seen, torch.cat([p.detach().flatten() for p in model.parameters()]), history


@pytest.mark.parametrize(("stop", "every"), [(2, 1), (4, 1), (5, 1), (6, None)])
@pytest.mark.parametrize("name", REPLAYED)
def test_the_same_rows_and_weights(tmp_path, name, stop, every):
    make = REPLAYED[name]
    rows, weights, history = train(make())
    assert len(rows) == 9
    train(make(), tmp_path / "run.pt", stop=stop, every=every)
    rest, again, taken_up = train(make(), tmp_path / "run.pt", every=every)
    assert rest == rows[-len(rest) :]
    assert len(rest) == 9 - (stop - 1 if every else 3)
    assert torch.equal(again, weights)
    assert history.equals(taken_up)


def test_a_run_that_is_prolonged_goes_on_with_the_same_rows(tmp_path):
    make = REPLAYED["global generators"]
    rows, weights, _ = train(make())
    train(make(), tmp_path / "run.pt", epochs=2)
    rest, again, _ = train(make(), tmp_path / "run.pt")
    assert rest == rows[6:]
    assert torch.equal(again, weights)


def own():
    return torch.Generator().manual_seed(0)


def noisy(generator):
    return lambda rows: default_collate([row | {"noise": generator.random()} for row in rows])


def out_of_order():
    if "in_order" not in inspect.signature(DataLoader).parameters:
        pytest.skip(f"loaders of torch {torch.__version__} always keep the order")
    return DataLoader(Augmented(), BATCH, num_workers=2, in_order=False)


REFUSED = {
    "workers that persist": (
        lambda: DataLoader(Augmented(), BATCH, num_workers=1, persistent_workers=True),
        "workers that persist .* leave persistent_workers out",
    ),
    "an order of chance": (
        out_of_order,
        "in_order=False gives an order of chance",
    ),
    "a loader's generator": (
        lambda: DataLoader(Augmented(), BATCH, shuffle=True, generator=own()),
        "generator of its own .* leave batches.*generator out",
    ),
    "a sampler's": (
        lambda: DataLoader(Augmented(), BATCH, sampler=Lazy(own())),
        "leave batches.sampler.generator out",
    ),
    "that of a batch sampler's sampler": (
        lambda: DataLoader(Augmented(), batch_sampler=BatchSampler(Lazy(own()), BATCH, False)),
        r"leave batches.*sampler.*\.generator out",
    ),
    "a data set's": (
        lambda: DataLoader(OwnNoise(), BATCH),
        "leave batches.dataset.generator out",
    ),
    "that of a data set in another": (
        lambda: DataLoader(ConcatDataset([Augmented(), OwnNoise()]), BATCH),
        r"leave batches.dataset.datasets.1.generator out",
    ),
    "that of a function": (
        lambda: DataLoader(Augmented(), BATCH, collate_fn=noisy(random.Random(0))),
        "leave batches.collate_fn.closure.0 out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused_before_training(tmp_path, name):
    make, message = REFUSED[name]
    steps = []
    with pytest.raises(ValueError, match=f"^batches: .*{message}.*function from the epoch"):
        train(make(), tmp_path / "run.pt", stop=steps.append)
    assert list(tmp_path.iterdir()) == []
    assert len(train(make(), epochs=1)[0]) >= 3  # without a checkpoint there is nothing to replay


def test_a_loader_that_refers_to_itself_is_looked_through():
    loader = fixed()
    loader.append({"all": loader})
    require_replayable(loader)


SEEN_ONLY_WHEN_TAKEN_UP = {
    "a stream that counts": lambda: DataLoader(Counting(), BATCH),
    "a generator of the class": lambda: DataLoader(HiddenNoise(), BATCH),
    "one loader for all epochs": lambda: (lambda loader: lambda epoch: loader)(
        DataLoader(Augmented(), BATCH, shuffle=True, generator=own())
    ),
}


@pytest.mark.parametrize(
    ("name", "stop", "every"),
    [
        (name, *moment)
        for name in SEEN_ONLY_WHEN_TAKEN_UP
        for moment in [(5, 1), (4, 1), (5, None), (None, None)]
        # a function of the epoch is not asked for an epoch that was not ordered
        if name != "one loader for all epochs" or moment[0]
    ],
)
def test_a_hidden_state_is_refused_when_the_run_is_taken_up(tmp_path, name, stop, every):
    make, path = SEEN_ONLY_WHEN_TAKEN_UP[name], tmp_path / "run.pt"
    HiddenNoise.generator = np.random.default_rng(0)
    train(make(), path, stop=stop, every=every, epochs=3 if stop else 2)
    kept = path.read_bytes()
    HiddenNoise.generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="batches: .*run.pt cannot be taken up, since epoch [23] "):
        train(make(), path, every=every)
    assert path.read_bytes() == kept


class Carrying:
    """A loader with a generator of its own, which carries its state and says what it read.

    Rows get noise from the global generators, and orders of epochs hang on those before.
    """

    def __init__(self, shift=0.0, forgets=()):
        self.generator = torch.Generator().manual_seed(5)
        self.order, self.place, self.read, self.loaded = [], 0, [], 0
        self.shift, self.forgets = shift, forgets

    def __len__(self):
        return ROWS // BATCH

    def __iter__(self):
        if not self.order:
            self.order = torch.randperm(ROWS, generator=self.generator).tolist()
        while self.place < ROWS:
            rows = self.order[self.place : self.place + BATCH]
            self.place += BATCH
            self.read += rows
            noise = torch.rand(4) + random.random() + np.random.rand()  # noqa: NPY002
            yield default_collate([item(row, noise + self.shift) for row in rows])
        self.order, self.place = [], 0

    def state_dict(self):
        state = {
            "order": self.order,  # the list itself: fit has to copy it
            "place": self.place,
            "generator": self.generator.get_state(),
        }
        return {name: value for name, value in state.items() if name not in self.forgets}

    def load_state_dict(self, state):
        self.loaded += 1
        self.order, self.place = state.get("order", []), state.get("place", 0)
        if "generator" in state:
            self.generator.set_state(state["generator"])


def stateful(**options):
    """torchdata's loader, where it is installed."""
    if importlib.util.find_spec("torchdata") is None:
        pytest.skip("torchdata, whose StatefulDataLoader this is about, is not installed")
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Augmented(), BATCH, **options)


CARRYING = {
    "a loader of one's own": Carrying,
    "torchdata": lambda: seeded(lambda: stateful(shuffle=True), 0),
    "torchdata, in order": stateful,
}
MOMENTS = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (6, None), (7, 2), (9, 1)]


@pytest.mark.parametrize(("stop", "every"), MOMENTS)
@pytest.mark.parametrize("name", CARRYING)
def test_a_loader_that_carries_its_state_goes_on(tmp_path, name, stop, every):
    """With the same rows and noise, to the bit, in the middle of an epoch and at its ends."""
    make, path = CARRYING[name], tmp_path / "run.pt"
    rows, weights, history = train(make())
    train(make(), path, stop=stop, every=every)
    # killed in that step, the last checkpoint is that of an earlier one
    done = (stop - 1) // every * every if every else 0
    done = max(done, (stop - 1) // 3 * 3)
    loader = make()
    rest, again, taken_up = train(loader, path, every=every)
    assert rest == rows[done:]
    assert torch.equal(again, weights)
    assert history.equals(taken_up)
    if name == "a loader of one's own":  # nothing was read twice
        seen = [row for batch in rest for row in batch]
        assert loader.read[: len(seen)] == seen
        assert len(loader.read) - len(seen) in (0, BATCH)  # one batch ahead
        assert loader.loaded == (1 if done else 0)


@pytest.mark.parametrize("name", CARRYING)
def test_a_loader_that_carries_its_state_is_prolonged_and_stopped_often(tmp_path, name):
    make, path = CARRYING[name], tmp_path / "run.pt"
    rows, weights, _ = train(make(), epochs=4)
    for stop in (2, 3, 5):  # twice within an epoch
        train(make(), path, stop=stop)
    train(make(), path, epochs=3)
    rest, again, _ = train(make(), path, epochs=4)
    assert rest == rows[9:]
    assert torch.equal(again, weights)


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_one_loader_that_was_read_before_goes_back(tmp_path, stop):
    rows, weights, _ = train(Carrying())
    loader = Carrying()
    train(loader, tmp_path / "run.pt", stop=stop)
    rest, again, _ = train(loader, tmp_path / "run.pt")
    assert rest == rows[stop - 1 :]
    assert torch.equal(again, weights)


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize(
    "options", [{"shift": 1.0}, {"forgets": ("place",)}, {"forgets": ("order",)}], ids=str
)
def test_a_loader_whose_state_does_not_say_all_is_refused(tmp_path, options, stop):
    """Or whose data are others; the file and the model stay as they are."""
    path = tmp_path / "run.pt"
    train(Carrying(**{**options, "shift": 0.0}), path, stop=stop)
    kept = path.read_bytes()
    with pytest.raises(ValueError, match="batches: .*cannot be taken up, since epoch . goes on"):
        train(Carrying(**options), path)
    assert path.read_bytes() == kept


def test_torchdata_with_a_generator_is_refused(tmp_path):
    """Its loader draws from it too, once an epoch, and forgets that when it is taken up."""
    with pytest.raises(ValueError, match="leave batches.generator out"):
        train(stateful(shuffle=True, generator=own()), tmp_path / "run.pt")


def test_a_loader_that_carried_no_state_before_is_another(tmp_path):
    path = tmp_path / "run.pt"
    train(fixed(), path, stop=3)
    with pytest.raises(ValueError, match="loader was None and is carries its state"):
        train(Carrying(), path)


def test_a_state_that_needs_code_to_be_read_is_refused(tmp_path):
    class Strange(Carrying):
        def state_dict(self):
            return super().state_dict() | {"set": {1, 2}, "object": item}

    with pytest.raises(ValueError, match="checkpoint: .*would need code to be read again"):
        train(Strange(), tmp_path / "run.pt")


def test_older_checkpoints_of_plain_loaders_are_taken_up(tmp_path):
    """Without the field that holds a loader's state."""
    make, path = REPLAYED["global generators"], tmp_path / "run.pt"
    rows, weights, _ = train(make())
    train(make(), path, stop=5)
    content = checkpoint.read(path)
    assert content["states"]["run"].pop("loader") is None
    assert "loader" not in content["configuration"]
    checkpoint.write(path, content)
    rest, again, _ = train(make(), path)
    assert rest == rows[4:]
    assert torch.equal(again, weights)


def test_a_refused_run_leaves_the_model_alone(tmp_path):
    model = seeded(lambda: nn.Linear(4, 1), 0)
    before = model.weight.detach().clone()

    def run(epochs, shift):
        return fit(
            model,
            lambda m, b: m(b["x"]).square().mean(),
            shuffled({"x": torch.ones(8, 4) + shift}, 4),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            epochs=epochs,
            checkpoint=tmp_path / "run.pt",
            device="cpu",
            progress=False,
        )

    run(1, 0)
    with torch.no_grad():
        model.weight.copy_(before)
    with pytest.raises(ValueError, match="epoch 2 begins with another batch"):
        run(2, 1)
    assert torch.equal(model.weight, before)


def test_an_error_of_the_loader_comes_when_its_batch_is_due(tmp_path):
    """Not before the epoch that was done is kept, and not at all behind the last epoch."""

    class Once:
        def __init__(self):
            self.read = 0

        def __iter__(self):
            self.read += 1
            if self.read > 2:
                raise OSError("the tape has ended")
            yield from fixed()

    path = tmp_path / "run.pt"
    assert len(train(Once(), path, epochs=2)[0]) == 6
    path.unlink()
    with pytest.raises(OSError, match="the tape has ended"):
        train(Once(), path)
    assert torch.load(path, weights_only=True)["states"]["run"]["epoch"] == 2


def test_what_the_batches_draw_does_not_hang_on_what_the_model_draws():
    def rows(extra):
        model, seen = seeded(lambda: nn.Linear(4, 1), 0), []

        def loss(model, batch):
            seen.append(batch["x"].tolist())
            for _ in range(extra):
                torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
            return model(batch["x"]).square().mean()

        fit(
            model,
            loss,
            DataLoader(Augmented(), BATCH, sampler=Lazy()),
            optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
            epochs=2,
            device="cpu",
            progress=False,
        )
        return seen

    assert rows(0) == rows(1)


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.tensor([[1.0, 2.0]])},
        {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"x": torch.tensor([1.0, 2.5])},
        {"x": torch.tensor([1.0, 2.0]), "text": ["a"]},
    ],
)
def test_digests_tell_batches_apart(other):
    batch = {"x": torch.tensor([1.0, 2.0])}
    assert feed.digest(batch) == feed.digest({"x": torch.tensor([1.0, 2.0])})
    assert feed.digest(batch) != feed.digest(other)


def test_digests_read_every_kind_of_values():
    odd = [
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.tensor(3),
        torch.ones(3, 2, requires_grad=True).T,
        torch.arange(6).reshape(3, 2)[:, 0],
        torch.ones(1, 1)[:, :0],
        torch.eye(2).to_sparse(),
        np.ones(2),
        np.array(["a", None], dtype=object),
        object(),
        None,
    ]
    assert feed.digest(odd) == feed.digest(tuple(odd))
