import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from modalign.codebook import (
    Codebook,
    FeatureQueue,
    MomentumTeacher,
    Temperature,
    alignment_loss,
)
from modalign.momentum import cross_entropy, distillation_weight, soft_targets
from modalign.transport import ipot
from tests import _asserts as asserts
from tests import _inputs as inputs


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(inputs.draw(*shape, seed=seed), dim=-1)


def four(n: int = 6, d: int = 8) -> list[torch.Tensor]:
    return [unit(n, d, seed=seed).requires_grad_() for seed in range(4)]


def literal_codebook_loss(codebook, image, text, image_teacher, text_teacher):
    """Algorithm 1 with the readings of the chapter, in the paper's letters."""
    c = codebook.prototypes / codebook.prototypes.norm(dim=1, keepdim=True)
    source = (image_teacher, text_teacher)
    if codebook.features == "student":
        source = (image, text)
    i2p, t2p = (each.detach() @ c.T for each in source)
    tg, tf = (ipot((1 - each).clamp_min(0).detach()) for each in (i2p, t2p))
    l_ot = (tg * (1 - i2p)).sum() + (tf * (1 - t2p)).sum()
    if codebook.pairing == "crossed":
        tg, tf = tf, tg
    n, tmp = len(image), codebook.temperature.value

    def h(s, t):
        return -(n * t * torch.log(torch.softmax(s / tmp, dim=1))).sum(dim=1).mean()

    return h(image @ c.T, tg), h(text @ c.T, tf), l_ot


@pytest.mark.parametrize("pairing", ["crossed", "same"])
@pytest.mark.parametrize("features", ["teacher", "student"])
def test_codebook_loss_is_algorithm_1(pairing, features):
    codebook, z = Codebook(12, 8, pairing=pairing, features=features), four()
    found, expected = codebook.loss(*z), literal_codebook_loss(codebook, *z)
    torch.testing.assert_close(tuple(found), expected)
    torch.testing.assert_close(found.total, sum(expected))
    wanted = [codebook.prototypes, codebook.temperature.value, z[0], z[1]]
    for ours, theirs in zip(
        torch.autograd.grad(found.total, wanted),
        torch.autograd.grad(sum(expected), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_transport_trains_the_codebook_alone():
    codebook, z = Codebook(12, 8), four()
    parameters = [codebook.prototypes, *z]
    found = torch.autograd.grad(codebook.loss(*z).transport, parameters, allow_unused=True)
    assert found[0].abs().sum() > 0
    assert found[1:] == (None,) * 4


def test_teachers_have_no_gradient():
    codebook, z = Codebook(12, 8), four()
    codebook.loss(*z).total.backward()
    assert z[2].grad is None
    assert z[3].grad is None


def test_a_target_is_a_distribution_over_prototypes():
    codebook, z = Codebook(12, 8), unit(5, 8)
    target = 5 * codebook.plan(z)
    torch.testing.assert_close(target.sum(1), torch.ones(5), rtol=1e-2, atol=0)
    torch.testing.assert_close(codebook.plan(z).sum(0), torch.full((12,), 1 / 12))


def toy(seed: int, steps: int = 200, **switches) -> float:
    """R@1 of 300 pairs nobody trained on, from the codebook loss alone."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(2000, 8, generator=generator)
    views = [torch.tanh(shared @ torch.randn(8, 32, generator=generator)) for _ in range(2)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        towers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16)) for _ in views
        )
    teachers = [MomentumTeacher(tower, 0.99) for tower in towers]
    codebook = Codebook(64, 16, temperature=0.1, seed=seed, **switches)
    optimizer = torch.optim.Adam([*towers.parameters(), *codebook.parameters()], 2e-3)

    def embed(towers, rows):
        return [
            functional.normalize(tower(view[rows]), dim=1)
            for tower, view in zip(towers, views, strict=True)
        ]

    for _ in range(steps):
        rows = torch.randint(0, 1700, (128,), generator=generator)
        loss = codebook.loss(*embed(towers, rows), *embed(teachers, rows)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for teacher, tower in zip(teachers, towers, strict=True):
            teacher.update(tower)
    with torch.no_grad():
        image, text = embed(towers, slice(1700, None))
    return ((image @ text.T).argmax(1) == torch.arange(300)).float().mean().item()


def test_crossed_plans_align_and_same_ones_do_not():
    assert sum(toy(seed) for seed in range(2)) / 2 > 0.4
    assert sum(toy(seed, pairing="same") for seed in range(2)) / 2 < 0.05


def run_rank(rank: int, folder: str) -> None:
    """One of two processes, each with half of the rows; what it found goes to a file."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    torch.save(half_step(slice(4 * rank, 4 * rank + 4), [unit(8, 8, seed=s) for s in range(4)]),
               f"{folder}/{rank}.pt")  # fmt: skip
    torch.distributed.destroy_process_group()


def half_step(rows: slice, z: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Plans, losses and gradients of some rows of a batch, and the queue after it."""
    codebook, queue = Codebook(12, 8), FeatureQueue(16, 8)
    own = [each[rows].requires_grad_() for each in z]
    loss = codebook.loss(*own)
    queues = queue.features.clone(), queue.features.clone()
    aligned = alignment_loss(*own, *queues, temperature=codebook.temperature(), alpha=0.4)
    total = loss.total + aligned.total
    gradients = torch.autograd.grad(
        total, [codebook.prototypes, codebook.temperature.value, own[0]]
    )
    queue.enqueue(own[2].detach())
    return {
        "plan": codebook.plan(own[2]),
        "loss": total.detach(),
        "prototypes": gradients[0],
        "temperature": gradients[1],
        "image": gradients[2],
        "queue": queue.features,
    }


def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    one = half_step(slice(0, 8), [unit(8, 8, seed=seed) for seed in range(4)])

    def close(ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    close(torch.cat([each["plan"] for each in ranks]), one["plan"])
    for name in ("loss", "prototypes", "temperature"):  # what DDP averages
        close((ranks[0][name] + ranks[1][name]) / 2, one[name])
    close(torch.cat([each["image"] for each in ranks]) / 2, one["image"])
    for each in ranks:
        assert torch.equal(each["queue"], one["queue"])
    # what a plan per process would be: another problem
    z, codebook = unit(8, 8, seed=2), Codebook(12, 8)
    apart = torch.cat([codebook.plan(z[:4]), codebook.plan(z[4:])]) / 2
    assert (apart - one["plan"]).abs().sum() > 0.05


def literal_alignment(image, text, image_t, text_t, image_q, text_q, tau, alpha):
    rows = range(len(image))
    keys = {"i": torch.cat([image_t, image_q]), "t": torch.cat([text_t, text_q])}
    found = {}
    for name, student, teacher, kind in (
        ("i2t", image, image_t, "t"),
        ("t2i", text, text_t, "i"),
        ("i2i", image, image_t, "i"),
        ("t2t", text, text_t, "t"),
    ):
        total = 0.0
        for r in rows:
            p = torch.softmax(keys[kind] @ student[r] / tau, 0)
            q = torch.softmax(keys[kind] @ teacher[r] / tau, 0).detach()
            y = alpha * q + (1 - alpha) * torch.eye(len(q))[r]
            total = total - (y * p.log()).sum() / len(image)
        found[name] = total
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_alignment_is_equation_5(alpha):
    z, queues = four(), [unit(10, 8, seed=seed) for seed in (7, 8)]
    found = alignment_loss(*z, *queues, temperature=0.07, alpha=alpha)
    expected = literal_alignment(*z, *queues, 0.07, alpha)
    torch.testing.assert_close(list(found), list(expected.values()))
    torch.testing.assert_close(found.total, sum(expected.values()))
    found.total.backward()
    assert z[2].grad is None
    assert z[3].grad is None


def test_parts_that_are_not_asked_for_are_zero():
    z, queues = four(), [unit(10, 8, seed=seed) for seed in (7, 8)]
    both = alignment_loss(*z, *queues, temperature=0.07)
    cross = alignment_loss(*z, *queues, temperature=0.07, intra=False)
    assert cross.image_to_image == cross.text_to_text == 0
    assert cross.image_to_text == both.image_to_text
    intra = alignment_loss(*z, *queues, temperature=0.07, cross=False)
    assert intra.image_to_text == intra.text_to_image == 0
    assert intra.text_to_text == both.text_to_text


def test_soft_targets_are_distributions():
    targets = soft_targets(torch.randn(4, 9), torch.tensor([3, 2, 1, 0]), 0.4)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert (targets[torch.arange(4), torch.tensor([3, 2, 1, 0])] >= 0.6).all()


def test_cross_entropy_is_torchs():
    logits, targets = torch.randn(5, 7), torch.randn(5, 7).softmax(1)
    torch.testing.assert_close(
        cross_entropy(logits, targets), functional.cross_entropy(logits, targets)
    )


def test_weight_of_distillation_rises_in_a_line():
    assert [distillation_weight(step, 4) for step in (0, 1, 4, 5)] == [0.0, 0.1, 0.4, 0.4]
    assert distillation_weight(0, 0) == 0.4


def test_teacher_is_the_moving_average():
    student = nn.Linear(3, 2)
    teacher, expected = MomentumTeacher(student, 0.9), copy.deepcopy(student.state_dict())
    for step in range(5):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(step + 1.0)
        teacher.update(student)
        for name, value in student.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value
    torch.testing.assert_close(dict(teacher.module.state_dict()), dict(expected))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(torch.zeros(1, 3)).requires_grad


def test_queue_is_first_in_first_out():
    queue = FeatureQueue(6, 4)
    parts = [unit(2, 4, seed=seed) for seed in range(5)]
    for part in parts:
        queue.enqueue(part)
    assert torch.equal(queue.features, torch.cat([parts[3], parts[4], parts[2]]))


def test_temperature_stays_within_its_bounds_and_comes_back():
    temperature = Temperature(0.5)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=1.0)
    for sign in (-1, -1, 1):
        optimizer.zero_grad()
        (sign * temperature()).backward()
        optimizer.step()
        assert 0.001 <= temperature().item() <= 0.5
    assert temperature().item() < 0.5 or temperature.value > 0.5


def test_state_dicts_make_the_same_again():
    codebook, queue = Codebook(12, 8, seed=1), FeatureQueue(8, 8, seed=1)
    student = nn.Linear(8, 8)
    teacher = MomentumTeacher(student)
    with torch.no_grad():
        student.weight.add_(1)
    teacher.update(student)
    queue.enqueue(unit(4, 8))
    for one, other in (
        (codebook, Codebook(12, 8, seed=2)),
        (queue, FeatureQueue(8, 8, seed=2)),
        (teacher, MomentumTeacher(nn.Linear(8, 8))),
    ):
        asserts.comes_back(one, other)
    again = FeatureQueue(8, 8)
    again.load_state_dict(queue.state_dict())
    again.enqueue(unit(4, 8, seed=5))
    assert torch.equal(again.features[4:], unit(4, 8, seed=5))
    with pytest.raises(RuntimeError, match="size mismatch"):
        Codebook(13, 8).load_state_dict(codebook.state_dict())


def test_one_prototype_and_one_row():
    for k, n in ((1, 3), (5, 1), (1, 1)):
        loss = Codebook(k, 8).loss(*four(n)).total
        assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Codebook(0, 8), "num_prototypes: expected a number above 0"),
        (lambda: Codebook(4, 8, temperature=2.0), "temperature: expected 0.001 to 0.5, got 2.0"),
        (lambda: Codebook(4, 8, pairing="cross"), "pairing: .*did you mean 'crossed'"),
        (lambda: Codebook(4, 8, features="pupil"), "features: expected one of teacher, student"),
        (lambda: Codebook(4, 8).similarity(torch.ones(2, 8)), "z: expected finite rows of length"),
        (lambda: Codebook(4, 8).similarity(unit(2, 7)), "z: expected rows of 8 features"),
        (lambda: Codebook(4, 8).plan(unit(0, 8)), "z: expected finite rows of length one"),
        (lambda: MomentumTeacher(nn.Linear(2, 2), 1.0), "momentum: expected a number from 0"),
        (lambda: FeatureQueue(0, 8), "size: expected a number above 0"),
        (lambda: FeatureQueue(8, 8).enqueue(unit(3, 8)), "divides the queue's 8, got 3"),
        (lambda: FeatureQueue(8, 8).enqueue(unit(16, 8)), "divides the queue's 8, got 16"),
        (lambda: FeatureQueue(8, 8).enqueue(torch.ones(2, 8)), "z: expected finite rows"),
        (
            lambda: alignment_loss(*four(), unit(4, 8), 2 * unit(4, 8), temperature=0.1),
            "text_queue: expected finite rows of length one",
        ),
        (
            lambda: alignment_loss(*four(), unit(4, 8), unit(4, 8), temperature=0.1, alpha=1.5),
            "alpha: expected a number from 0 to 1",
        ),
        (
            lambda: alignment_loss(
                *four(), unit(4, 8), unit(4, 8), temperature=0.1, intra=False, cross=False
            ),
            "intra, cross: expected at least one",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


FEATURES = {
    "NaN": (lambda z: inputs.with_entry(z, inputs.NAN), "expected finite rows"),
    "infinity": (lambda z: inputs.with_entry(z, inputs.INF), "expected finite rows"),
    "too long": (lambda z: 2 * z, "expected finite rows of length one"),
}
CALLS = {
    "similarity": Codebook(4, 8).similarity,
    "plan": Codebook(4, 8).plan,
    "enqueue": FeatureQueue(6, 8).enqueue,
}


@inputs.each("call", CALLS)
@inputs.hostile(inputs.WRONG_TYPE, inputs.WRONG_DIMENSIONS, FEATURES)
def test_features_are_rows_of_length_one(change, message, call):
    asserts.refuses(call, {"z": unit(6, 8)}, "z", change, message)


@pytest.mark.parametrize("number", range(4))
@inputs.hostile(FEATURES)
def test_each_feature_of_a_loss_is_looked_at(change, message, number):
    def loss(z):
        return Codebook(4, 8).loss(*[z if i == number else unit(6, 8, seed=i) for i in range(4)])

    asserts.refuses(loss, {"z": unit(6, 8)}, "z", change, message)


@inputs.each("change", inputs.STRIDES)
def test_strides(change):
    students, teachers = four()[:2], [z.detach() for z in four()[2:]]
    asserts.strides_do_not_matter(
        lambda *z: Codebook(4, 8).loss(*z), [*students, *teachers], change
    )


def test_features_are_left_alone():
    asserts.leaves_alone(lambda *z: Codebook(4, 8).loss(*z).total, four())
    asserts.leaves_alone(FeatureQueue(6, 8).enqueue, [unit(6, 8)])


def test_half_precision_features():
    codebook = Codebook(12, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = [functional.normalize(nn.Linear(8, 8)(each), dim=1) for each in four()]
        loss = codebook.loss(*z).total
    loss.backward()
    assert torch.isfinite(codebook.prototypes.grad).all()
