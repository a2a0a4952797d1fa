"""A run that is killed and called again ends as the run that was not, bit for bit."""

import errno
import multiprocessing
import os
import pathlib
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import zipfile

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from modalign.training import DivergenceError, checkpoint, fit, loop, seeded, shuffled


def data(rows=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True)}


def network(width=8):
    def make():
        hidden = [nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)]
        return nn.Sequential(*hidden, nn.Linear(width, 1))

    return seeded(make, seed=0)


def loss(model, batch):
    noise = random.random() + np.random.rand()  # noqa: NPY002
    error = functional.mse_loss(model(batch["x"]), batch["y"])
    return {"loss": error + 0.01 * noise * model[0].weight.square().sum(), "error": error}


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def cosine(optimizer):
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)


def train(
    path=None, *, width=8, rows=40, make=momentum, schedule=cosine, schedule_by="step", **options
):
    """Everything in play: dropout, batch norm, momentum, a schedule, clipping, early stopping."""
    model, held = network(width), data(16)
    optimizer = make(model.parameters())

    def evaluate(model):
        jitter = torch.rand(())
        return {"held": functional.mse_loss(model(held["x"]), held["y"]) + 1e-3 * jitter}

    options = {"epochs": 6, "clip": 1.0, "patience": 3, "watch": "held", "checkpoint_every": 3} | (
        options
    )
    if path is None:
        del options["checkpoint_every"]
    planned = schedule(optimizer)
    history = fit(
        model,
        loss,
        options.pop("batches", None) or shuffled(data(rows), 8),
        optimizer=optimizer,
        schedule=planned,
        schedule_by=schedule_by,
        evaluate=options.pop("evaluate", evaluate),
        checkpoint=path,
        progress=False,
        device="cpu",
        **options,
    )
    return {
        "weights": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": planned.state_dict(),
        "history": history,
        "best": history.attrs.get("best_epoch"),
    }


def require_equal(first, second, where="run"):
    """Equal to the last bit, whatever they are nested in."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for name in first:
            require_equal(first[name], second[name], f"{where}.{name}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            require_equal(one, other, f"{where}[{i}]")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    else:
        assert first == second, where


def call(pickled):
    torch.set_num_threads(1)
    cloudpickle.loads(pickled)()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(path, sabotage=lambda: None, **options):
    """Whether training in a process that ``sabotage`` has prepared ends by a signal.

    A child of this process could wait for ever for a thread that a test before this one started.
    """

    def work():
        tqdm.set_lock(threading.RLock())  # the one it has is shared, and dies locked
        sabotage()
        train(path, **options)

    context = multiprocessing.get_context("forkserver")
    # what a first step would import, a second each time
    context.set_forkserver_preload(["cloudpickle", "pytest", "modalign.training", "torch._dynamo"])
    process = context.Process(target=call, args=(cloudpickle.dumps(work),))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGVTALRM), "failed by itself"
    return process.exitcode != 0


def die_in_step(step):
    """A hook that kills its process after so many steps."""
    return lambda done: die() if done == step else None


@pytest.mark.parametrize("step", [1, 3, 5, 6, 14, 15, 16, 30])
@pytest.mark.parametrize("every", [None, 1, 3])
def test_a_run_killed_in_any_step_ends_as_if_it_had_not_been(tmp_path, step, every):
    path = tmp_path / "run.pt"
    options = {"checkpoint_every": every}
    known = train(**options)
    assert len(known["history"]) == 6
    assert killed(path, after_step=die_in_step(step), **options)
    assert path.exists() == (step > (every or 5))
    require_equal(train(path, **options), known)


def test_a_run_killed_again_and_again_at_any_time_ends_as_if_it_had_not_been(tmp_path):
    path, chance = tmp_path / "run.pt", random.Random(0)
    known = train(epochs=25, patience=25)
    deaths = 0

    def sabotage():
        # seconds of processor time; ever more of them, so that it ends on a slow machine too
        signal.setitimer(signal.ITIMER_VIRTUAL, chance.uniform(0.005, 0.05) * (1 + deaths / 5))

    while killed(path, sabotage, epochs=25, patience=25):
        deaths += 1
        chance.random()
    assert deaths > 0
    require_equal(train(path, epochs=25, patience=25), known)


def half_a_file(content, file):
    file.write(pickle.dumps("half"))
    file.flush()
    die()


@pytest.mark.parametrize("moment", ["written", "flushed", "checked", "before", "after"])
@pytest.mark.parametrize("save", [1, 2, 5])
def test_a_run_killed_while_a_checkpoint_is_written_keeps_the_one_before(tmp_path, moment, save):
    path, calls = tmp_path / "run.pt", []

    def sabotage():
        place, name = {
            "written": (torch, "save"),
            "flushed": (os, "fsync"),
            "checked": (torch, "load"),
            "before": (os, "replace"),
            "after": (os, "replace"),
        }[moment]
        original = getattr(place, name)

        def fatal(*arguments, **options):
            calls.append(1)
            if len(calls) < save:
                return original(*arguments, **options)
            if moment == "written":
                half_a_file(*arguments)
            if moment == "after":
                original(*arguments, **options)
            return die()

        setattr(place, name, fatal)

    assert killed(path, sabotage)
    assert path.exists() == (save > 1 or moment == "after")
    require_equal(train(path), train())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.pt"]


def test_a_run_killed_between_its_last_step_and_the_end_of_an_epoch_goes_on(tmp_path):
    evaluate, calls = loop._evaluate, []

    def fatal(*arguments, **options):
        calls.append(1)
        return evaluate(*arguments, **options) if len(calls) < 2 else die()

    path = tmp_path / "run.pt"
    assert killed(path, lambda: setattr(loop, "_evaluate", fatal), checkpoint_every=1)
    assert torch.load(path, weights_only=True)["states"]["run"]["step"] == 10
    require_equal(train(path, checkpoint_every=1), train())


def plateau(optimizer):
    return lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)


def warm(optimizer):
    start = lr_scheduler.LinearLR(optimizer, total_iters=7)
    return lr_scheduler.SequentialLR(
        optimizer, [start, lr_scheduler.ExponentialLR(optimizer, 0.9)], milestones=[7]
    )


@pytest.mark.parametrize(
    ("schedule", "by"),
    [
        (lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 4]), "epoch"),
        (lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=30), "step"),
        (lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 7), "step"),
        (lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step), "step"),
        (plateau, "epoch"),
        (warm, "step"),
    ],
)
def test_every_schedule_is_taken_up(tmp_path, schedule, by):
    options = {"schedule": schedule, "schedule_by": by}
    assert killed(tmp_path / "run.pt", after_step=die_in_step(17), **options)
    require_equal(train(tmp_path / "run.pt", **options), train(**options))


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Adam,
        lambda parameters: torch.optim.AdamW(parameters, amsgrad=True),
        torch.optim.RMSprop,
        torch.optim.Adagrad,
    ],
)
def test_every_optimizer_is_taken_up(tmp_path, make):
    assert killed(tmp_path / "run.pt", after_step=die_in_step(17), make=make)
    require_equal(train(tmp_path / "run.pt", make=make), train(make=make))


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2, "checkpoint_every": 1},
        {"precision": "bf16", "checkpoint_every": 1},
        {"epochs": None, "steps": 23, "checkpoint_every": 2},
        {"every": 2, "checkpoint_every": 2},
        {"patience": None, "checkpoint_every": 2},
        {"clip": None, "checkpoint_every": 2},
    ],
)
def test_every_setting_is_taken_up(tmp_path, options):
    assert killed(tmp_path / "run.pt", after_step=die_in_step(14), **options)
    require_equal(train(tmp_path / "run.pt", **options), train(**options))


def test_early_stopping_is_taken_up(tmp_path):
    def options():
        values = iter([3.0, 2.0, 4.0, 5.0, 6.0, 7.0])
        return {"evaluate": lambda model: {"held": next(values)}, "patience": 2}

    known = train(**options())
    assert (len(known["history"]), known["best"]) == (4, 2)
    assert killed(tmp_path / "run.pt", after_step=die_in_step(18), **options())
    resumed = iter([5.0, 6.0, 7.0])
    found = train(tmp_path / "run.pt", evaluate=lambda model: {"held": next(resumed)}, patience=2)
    require_equal(found, known)
    require_equal(train(tmp_path / "run.pt", **options()), known)


class Augmented(Dataset):
    """Rows that draw random numbers as they are read."""

    def __len__(self):
        return 40

    def __getitem__(self, row):
        return {name: values[row] + 0.1 * torch.rand(()) for name, values in data().items()}


def test_a_data_loader_that_shuffles_and_augments_is_taken_up(tmp_path):
    def options():
        return {"batches": DataLoader(Augmented(), 8, shuffle=True), "checkpoint_every": 1}

    assert killed(tmp_path / "run.pt", after_step=die_in_step(14), **options())
    require_equal(train(tmp_path / "run.pt", **options()), train(**options()))


class Curriculum:
    """A threshold that rises with every step."""

    def __init__(self):
        self.steps = 0

    def __call__(self, losses):
        self.steps += 1
        losses["loss"].backward()
        return {"accepted": self.steps % 3 > 0, "threshold": self.steps / 10}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_what_else_has_a_state_is_taken_up(tmp_path):
    def options():
        curriculum = Curriculum()
        return {"backward": curriculum, "stateful": [curriculum], "checkpoint_every": 1}

    known = train(**options())
    assert known["history"].threshold.iloc[-1] == pytest.approx(2.8)
    assert killed(tmp_path / "run.pt", after_step=die_in_step(14), **options())
    require_equal(train(tmp_path / "run.pt", **options()), known)


def test_a_finished_run_returns_at_once_and_can_be_prolonged(tmp_path):
    path, steps = tmp_path / "run.pt", []
    known = train(path, epochs=3)
    require_equal(train(path, epochs=3, after_step=steps.append), known)
    assert not steps
    require_equal(train(path, epochs=6, after_step=steps.append), train())
    assert steps == list(range(16, 31))
    with pytest.raises(ValueError, match="epochs: .*run.pt holds 6 of them already, got 5"):
        train(path, epochs=5)


def test_a_run_can_start_over(tmp_path):
    path, steps = tmp_path / "folder" / "run.pt", []
    train(path, epochs=3)
    found = train(path, epochs=2, resume=False, after_step=steps.append)
    assert steps == list(range(1, 11))
    require_equal(found, train(epochs=2))
    require_equal(train(path, epochs=2), found)


def test_a_diverged_run_keeps_its_last_finite_checkpoint(tmp_path):
    path, calls = tmp_path / "run.pt", []

    def batches(epoch):
        for batch in shuffled(data(), 8)(epoch):
            calls.append(1)
            spoilt = float("nan") if len(calls) == 13 else 1
            yield {name: values * spoilt for name, values in batch.items()}

    with pytest.raises(DivergenceError, match=r"loss became nan in step 13 .epoch 3.") as error:
        train(path, batches=batches)
    assert len(error.value.history) == 2
    content = torch.load(path, weights_only=True)
    assert content["states"]["run"]["step"] == 12
    assert all(torch.isfinite(value).all() for value in content["states"]["model"].values())
    calls.append(1)
    require_equal(train(path, batches=batches), train())


# what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, r"model's 0.weight was float32 \(8, 4\) and is float32 \(9, 4\)"),
        ({"make": torch.optim.Adam}, r"optimizer was SGD of \[6\] tensors and is Adam of"),
        (
            {"make": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9)},
            "optimizer's lr was 0.01 and is 0.02",
        ),
        ({"rows": 48}, "batches was 5 and is 6"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"clip": 2.0}, "clip was 1.0 and is 2.0"),
        ({"precision": "bf16"}, "precision was no and is bf16"),
        ({"schedule": plateau, "schedule_by": "epoch"}, "schedule_by was step and is epoch"),
        ({"patience": 4}, "patience was 3 and is 4"),
        ({"epochs": None, "steps": 9}, "steps was None and is 9"),
        ({"stateful": [Curriculum()]}, r"stateful was \[\] and is \['Curriculum'\]"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, options, message):
    path = tmp_path / "run.pt"
    train(path, epochs=1)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"checkpoint: .*run.pt is of another run: .*{message}"):
        train(path, **options)
    assert path.read_bytes() == before


def test_what_differs_is_named_at_most_three_times():
    was = {str(i): "a" for i in range(5)}
    with pytest.raises(ValueError, match="0 was a and is b; 1 .*; 2 was a and is b, and 2 more"):
        checkpoint.require_same("run.pt", was, dict.fromkeys(was, "b"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_named(tmp_path, share):
    path = tmp_path / "run.pt"
    train(path, epochs=1)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="checkpoint: .*run.pt is cut short or no checkpoint"):
        train(path)


@pytest.mark.parametrize("content", [b"not a checkpoint", pickle.dumps(die), pickle.dumps([1])])
def test_a_file_that_is_no_checkpoint_is_refused_and_not_run(tmp_path, content):
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint: .*run.pt is cut short or no checkpoint"):
        train(path)


def test_every_damage_of_a_checkpoint_is_named(tmp_path):
    path = tmp_path / "run.pt"
    train(path, epochs=1)
    whole, chance = path.read_bytes(), random.Random(0)
    assert checkpoint.read(path)["states"]["run"]["epoch"] == 1
    places = [*range(0, len(whole), 29), *range(len(whole) - 200, len(whole))]
    flipped = [(place, whole[place] ^ 1 << chance.randrange(8)) for place in places]
    damaged = [whole[:place] + bytes([bit]) + whole[place + 1 :] for place, bit in flipped]
    damaged += [whole[: len(whole) // 2] + whole, whole + b"\0", whole[1:], whole[:-1], whole * 2]
    message = "checkpoint: .*run.pt is cut short or no checkpoint .its checksum"
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            checkpoint.read(path)
    with pytest.raises(ValueError, match=message):
        train(path)


def test_a_checkpoint_is_a_zip_as_torch_writes_them(tmp_path):
    path = tmp_path / "run.pt"
    train(path, epochs=1)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.comment.startswith(b"modalign")
    require_equal(torch.load(path, mmap=True), torch.load(path))


def test_a_checkpoint_that_is_not_finite_is_not_written(tmp_path):
    path, model = tmp_path / "run.pt", seeded(lambda: nn.Linear(4, 1, bias=False), 0)

    def run(loss, epochs):
        return fit(
            model,
            loss,
            [data(8)],
            optimizer=torch.optim.SGD(model.parameters(), 0.1),
            epochs=epochs,
            checkpoint=path,
            device="cpu",
            progress=False,
        )

    run(lambda m, b: m(b["x"]).square().mean(), 1)
    before = path.read_bytes()
    with pytest.raises(DivergenceError, match="parameter weight of model is not finite after st"):
        # the norm of 0 is finite, and has no gradient
        run(lambda m, b: (0 * m(b["x"])).square().sum(1).sqrt().mean(), 2)
    assert path.read_bytes() == before
    assert len(run(lambda m, b: m(b["x"]).square().mean(), 2)) == 2
    assert model.weight.isfinite().all()


def full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path, monkeypatch, place):
    path = tmp_path / "run.pt"
    train(path, epochs=1)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, place, full)
        message = "run.pt could not be written: No space left .*disk /.* free.; the one before"
        with pytest.raises(OSError, match=message) as error:
            train(path)
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run.pt"]
    require_equal(train(path), train())


def test_a_disk_that_takes_no_more_while_torch_writes_is_named(tmp_path):
    """torch hides the error of the system behind one of its own."""
    path = tmp_path / "run.pt"

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        with pytest.raises(OSError, match="run.pt could not be written: File too large .disk /"):
            train(path)
        assert list(tmp_path.iterdir()) == []
        die()

    assert killed(path, limited)


@pytest.mark.parametrize("name", ["", "folder", "file/run.pt"])
def test_a_place_that_can_hold_no_file_is_refused_before_training(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    steps = []
    with pytest.raises((ValueError, OSError), match="checkpoint: "):
        train(name, after_step=steps.append)
    assert not steps


def test_a_checkpoint_is_of_one_run_at_a_time(tmp_path):
    path, other = tmp_path / "run.pt", tmp_path / "link"
    other.symlink_to(tmp_path)
    message = "checkpoint: .*run.pt is in use by another run"

    def again(step):
        for name in (path, other / "run.pt"):
            with pytest.raises(ValueError, match=message):
                train(name, epochs=1)
            code = f"""if True:
                import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
                from test_resume import train
                train({str(name)!r}, epochs=1)"""
            if step == 2:
                ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
                assert re.search(message, ended.stderr), ended.stderr
        train(tmp_path / "other.pt", epochs=1)

    found = train(path, after_step=again)
    require_equal(found, train())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "other.pt", "run.pt"]


def test_a_worker_that_outlives_its_killed_run_does_not_keep_the_checkpoint(tmp_path):
    path, reader, writer = tmp_path / "run.pt", *os.pipe()

    def sabotage():
        if not os.fork():
            os.read(reader, 1)  # until the test is over
            os._exit(0)

    try:
        assert killed(path, lambda: None, after_step=lambda step: (sabotage(), die()))
        require_equal(train(path), train())
    finally:
        os.close(writer)
        os.close(reader)


def test_numbers_of_numpy_are_kept_as_pythons(tmp_path):
    def rated(parameters):
        return torch.optim.SGD(parameters, lr=np.float64(0.01), momentum=np.float32(0.9))

    curriculum = Curriculum()
    curriculum.steps = np.int64(2)
    options = {"make": rated, "stateful": [curriculum]}
    train(tmp_path / "run.pt", epochs=1, **options)
    states = torch.load(tmp_path / "run.pt", weights_only=True)["states"]
    assert type(states["optimizer"]["param_groups"][0]["lr"]) is float
    assert type(states["stateful 0"]["steps"]) is int
    assert len(train(tmp_path / "run.pt", **options)["history"]) == 6


def test_a_file_of_other_tensors_is_no_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    torch.save(network().state_dict(), path)
    with pytest.raises(ValueError, match="checkpoint: .*run.pt is cut short or no checkpoint"):
        train(path)


class Unstorable(Curriculum):
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return {"steps": self.state}


@pytest.mark.parametrize("state", [Curriculum(), lambda: 0, (each for each in ()), np.ones(2)])
def test_a_state_that_would_need_code_is_refused_before_it_is_kept(tmp_path, state):
    path = tmp_path / "run.pt"
    with pytest.raises(ValueError, match="checkpoint: .*run.pt would need code to be read again"):
        train(path, stateful=[Unstorable(state)])
    assert list(tmp_path.iterdir()) == []
