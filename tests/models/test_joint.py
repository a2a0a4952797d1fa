import math
import statistics

import pytest
import torch
from torch.nn import functional

from modalign.data.shapes import render_audio, render_images, sample
from modalign.models.encoders import AudioEncoder, ImageEncoder, TextEncoder
from modalign.models.inputs import audio_batch, image_batch
from modalign.models.joint import JointEmbedding, contrastive_loss


def unit(n=6, d=4, seed=0):
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(x, dim=1).requires_grad_()


def literal(a, b, temperature, negatives):
    """The loss as a loop over rows, positives counted once."""
    s = (a @ b.T / temperature).exp()
    total = 0
    for i in range(len(a)):
        others = [j for j in range(len(a)) if negatives[i][j]]
        total -= (s[i, i] / (s[i, i] + sum(s[i, j] for j in others))).log()
        total -= (s[i, i] / (s[i, i] + sum(s[j, i] for j in others))).log()
    return total / (2 * len(a))


def test_loss_is_the_loop():
    a, b = unit(), unit(seed=1)
    every = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(contrastive_loss(a, b, 0.1), literal(a, b, 0.1, every))


def test_rows_of_one_class_are_no_negatives():
    a, b = unit(), unit(seed=1)
    labels = torch.tensor([0, 1, 0, 2, 1, 3])
    differ = labels[:, None] != labels
    expected = literal(a, b, 0.1, differ)
    by_label = contrastive_loss(a, b, 0.1, same=labels)
    torch.testing.assert_close(by_label, expected)
    torch.testing.assert_close(contrastive_loss(a, b, 0.1, same=~differ), by_label)
    alone = contrastive_loss(a, b, 0.1, same=torch.arange(6))
    torch.testing.assert_close(alone, contrastive_loss(a, b, 0.1))


def test_one_class_only_gives_zero_and_a_finite_gradient():
    a, b = unit(), unit(seed=1)
    loss = contrastive_loss(a, b, same=torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert a.grad.abs().max() == 0


def test_loss_is_symmetric_and_has_its_gradient():
    a, b = unit(), unit(seed=1)
    torch.testing.assert_close(contrastive_loss(a, b), contrastive_loss(b, a))
    assert torch.autograd.gradcheck(
        lambda a, b: contrastive_loss(a, b, 0.3, same=torch.tensor([0, 1, 0, 2, 1, 3])), (a, b)
    )


def test_loss_in_half_precision_is_taken_in_single():
    a, b = (x.detach().bfloat16() for x in (unit(), unit(seed=1)))
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(a, b, 0.01)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, contrastive_loss(a.float(), b.float(), 0.01))


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (torch.ones(1, 2), torch.ones(1, 2), {}, "a: InfoNCE needs at least 2 rows"),
        (torch.ones(3, 2), torch.ones(2, 2), {}, "b: expected"),
        (torch.ones(3, 2), torch.ones(3, 4), {}, "b: expected"),
        (torch.full((3, 2), math.nan), torch.ones(3, 2), {}, "a: expected finite.*NaN in row 0"),
        (torch.ones(3, 2), torch.full((3, 2), math.inf), {}, "b: expected finite"),
        (torch.ones(3, 2), torch.ones(3, 2), {"same": torch.ones(2).long()}, "same: expected"),
        (
            torch.ones(3, 2),
            torch.ones(3, 2),
            {"temperature": 0.0},
            "temperature: expected .*above 0",
        ),
    ],
)
def test_inputs_that_do_not_fit(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(a, b, **options)


def small_model(**options):
    encoders = {"image": ImageEncoder(8, 16), "text": TextEncoder(20, 16)}
    return JointEmbedding(encoders, dim=8, **options)


def small_batch(n=5):
    return {
        "image": {"pixel_values": torch.rand(n, 3, 16, 16)},
        "text": {"input_ids": torch.randint(0, 20, (n, 4))},
    }


def test_embeddings_are_unit_vectors_of_what_is_there():
    model, batch = small_model(), small_batch()
    vectors = model(batch)
    assert list(vectors) == ["image", "text"]
    for each in vectors.values():
        torch.testing.assert_close(each.norm(dim=1), torch.ones(5))
    assert list(model.embed({"text": batch["text"]})) == ["text"]


def test_losses_are_of_every_two():
    model = small_model()
    model.encoders["other"], model.heads["other"] = model.encoders["text"], model.heads["text"]
    batch = small_batch()
    batch["other"] = batch["text"]
    losses = model.losses(batch)
    assert list(losses) == [("image", "text"), ("image", "other"), ("text", "other")]
    vectors = model.embed(batch)
    torch.testing.assert_close(
        losses["image", "text"],
        contrastive_loss(vectors["image"], vectors["text"], model.temperature),
    )
    sum(losses.values()).backward()
    assert all(each.grad is not None for each in model.parameters())


def test_temperature_starts_at_007_and_stays_in_bounds():
    model = small_model()
    assert model.temperature.item() == pytest.approx(0.07)
    for far, bound in ((5.0, 0.5), (-50.0, 0.001)):
        with torch.no_grad():
            model.log_temperature.fill_(far)
        assert model.temperature.item() == pytest.approx(bound)
        # at a bound it still has a gradient, and can come back
        (grad,) = torch.autograd.grad(model.temperature, model.log_temperature)
        assert grad > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_model(temperature=0.7), "temperature: expected .*0.5.*got 0.7"),
        (lambda: JointEmbedding({"image": ImageEncoder()}), "encoders: expected 2"),
        (lambda: small_model().embed({}), "batch: expected some of image, text, got"),
        (lambda: small_model().embed({"sound": {}}), "batch: .*image, text, got .*sound"),
        (
            lambda: small_model().losses({"text": small_batch()["text"]}),
            "batch: expected 2 modalities at least, got .*text",
        ),
        (
            lambda: small_model().losses(
                {"image": small_batch(4)["image"], "text": small_batch(5)["text"]}
            ),
            "batch: .*4 rows of image, 5 rows of text",
        ),
    ],
)
def test_models_and_batches_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_encoder_is_refused():
    with pytest.raises(TypeError, match="encoders: expected an Encoder for text, got Linear"):
        JointEmbedding({"image": ImageEncoder(), "text": torch.nn.Linear(2, 2)})


def fit(model, batch, *, seed, steps, size=50, same=None):
    """Adam at 0.001 on the sum of the losses, drawing rows from a seed."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    n = len(next(iter(next(iter(batch.values())).values())))
    for _ in range(steps):
        rows = torch.randperm(n, generator=generator)[:size]
        part = {m: {k: v[rows] for k, v in inputs.items()} for m, inputs in batch.items()}
        optimizer.zero_grad()
        sum(model.losses(part, same=None if same is None else same[rows]).values()).backward()
        optimizer.step()
    return model.eval()


def recall(a, b, k):
    similar = a @ b.T
    return ((similar > similar.diag()[:, None]).sum(1) < k).float().mean().item()


def scenes(split, n):
    drawn = [sample(0, i, split=split, max_objects=1).scene for i in range(n)]
    return {
        "image": image_batch(render_images(drawn).images),
        "audio": audio_batch([render_audio(scene) for scene in drawn]),
    }


def trained(seed):
    torch.manual_seed(seed)
    model = JointEmbedding({"image": ImageEncoder(), "audio": AudioEncoder()}, dim=32)
    return fit(model, scenes("train", 200), seed=seed, steps=120, size=32)


def test_pictures_find_their_sounds_in_new_scenes():
    test, forth, back = scenes("test", 100), [], []
    for seed in range(3):
        model = trained(seed)
        with torch.no_grad():
            vectors = model.embed(test)
        forth.append(recall(vectors["image"], vectors["audio"], 10))
        back.append(recall(vectors["audio"], vectors["image"], 10))
    # by chance 0.1 of them would; so short a training fails now and then
    assert statistics.median(forth) > 0.3
    assert statistics.median(back) > 0.3


def test_same_seed_same_model():
    first, again = (
        fit(small, small_batch(20), seed=3, steps=2, size=8)
        for small in (seeded(small_model) for _ in range(2))
    )
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def seeded(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_embeddings_are_unit_vectors_whatever_the_size_of_the_outputs(scale):
    model = JointEmbedding({"image": ImageEncoder(), "other": ImageEncoder()}, dim=8)
    batch = {"image": {"pixel_values": torch.rand(3, 3, 32, 32)}}
    known = model.embed(batch)["image"]
    with torch.no_grad():
        model.heads["image"].weight *= scale
        model.heads["image"].bias *= scale
    torch.testing.assert_close(model.embed(batch)["image"], known)
    torch.testing.assert_close(known.norm(dim=1), torch.ones(3))


def test_outputs_that_are_not_finite_are_refused():
    model = JointEmbedding({"image": ImageEncoder(), "other": ImageEncoder()}, dim=8)
    with torch.no_grad():
        model.heads["image"].bias[0] = torch.nan
    with pytest.raises(ValueError, match="image: expected finite values, got NaN in row 0"):
        model.embed({"image": {"pixel_values": torch.rand(3, 3, 32, 32)}})


@pytest.mark.parametrize(
    ("size", "temperature"), [(1.0, 1e-45), (1e25, 0.07), (1.0, math.inf), (1.0, math.nan)]
)
def test_exponents_beyond_float32_are_refused(size, temperature):
    x = size * torch.eye(3)
    with pytest.raises(ValueError, match="temperature: expected"):
        contrastive_loss(x, x, temperature)


def test_vectors_of_no_column_are_refused():
    with pytest.raises(ValueError, match="a: expected at least one feature"):
        contrastive_loss(torch.empty(3, 0), torch.empty(3, 0))
