import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from modalign.gradients import gradient_cosine
from modalign.models.vatt import (
    SIZES,
    Config,
    Vatt,
    backbone_size,
    medium,
    per_row,
    tiny,
    total,
)
from modalign.models.vatt_parts import (
    Heads,
    Trunk,
    Tubelets,
    WavePatches,
    Words,
    contrast,
    drop_tokens,
)
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import draw


def unit(*shape, seed=0):
    return functional.normalize(draw(*shape, seed=seed).double(), dim=-1)


def small(**changes):
    sizes = {"width": 16, "layers": 1, "heads": 2, "frames": 4, "side": 8, "tubelet": (2, 4, 4)}
    sizes |= {"samples": 32, "patch": 8, "words": 5, "dim_va": 12, "dim_vt": 6}
    return Config(20, **{**sizes, **changes})


def triplets(b=6, k=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(b, k, 5, dtype=torch.long)
    mask[::2, :, 3:] = 0
    return {
        "video": torch.rand(b, 4, 3, 8, 8, generator=generator) * 2 - 1,
        "audio": torch.randn(b, 32, generator=generator),
        "input_ids": torch.randint(2, 20, (b, k, 5), generator=generator) * mask,
        "attention_mask": mask,
    }


def literal_contrast(video, other, present, temperature):
    """eq-vatt-mil, pair by pair."""
    rows = []
    for i in range(len(video)):
        candidates = [k for k in range(other.shape[1]) if present[i, k]]
        positive = sum(torch.exp(video[i] @ other[i, k] / temperature) for k in candidates)
        negative = sum(
            torch.exp(video[i] @ other[j, k] / temperature)
            for j in range(len(video))
            for k in range(other.shape[1])
            if j != i and present[j, k]
        ) + sum(
            torch.exp(video[j] @ other[i, k] / temperature)
            for j in range(len(video))
            for k in candidates
            if j != i
        )
        rows.append(-torch.log(positive / (positive + negative)))
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 3])
def test_contrast_is_the_papers_equation(k):
    video, other = unit(5, 4).requires_grad_(), unit(5, k, 4, seed=1).requires_grad_()
    present = torch.ones(5, k, dtype=torch.bool)
    if k > 1:
        present[1, 0] = present[3, 1:] = False
    asserts.equals_literal(
        lambda v, o: contrast(v, o, present, temperature=0.2),
        lambda v, o: literal_contrast(v, o, present, 0.2),
        [video, other],
    )


def test_a_positive_is_counted_once():
    """Of one pair alone nothing is left to be told apart: twice would give log 2."""
    assert contrast(unit(1, 4), unit(1, 2, 4)).item() == pytest.approx(0)
    twice = torch.full((2, 1), 1.0)  # all products are alike: 1 positive of 1 + 1 + 1
    assert contrast(twice, twice[:, None]).tolist() == pytest.approx([math.log(3)] * 2)


def test_contrast_does_not_depend_on_the_order_of_rows_and_candidates():
    video, other, order = unit(6, 4), unit(6, 3, 4, seed=1), torch.tensor([3, 1, 5, 0, 2, 4])
    found = contrast(video, other)
    torch.testing.assert_close(contrast(video[order], other[order]), found[order])
    torch.testing.assert_close(contrast(video, other.flip(1)), found)


def test_contrast_of_a_hot_temperature_is_chance_and_of_a_cold_one_finite():
    video, other = unit(4, 5), unit(4, 1, 5, seed=1)
    assert contrast(video, other, temperature=1e6).tolist() == pytest.approx(
        [math.log(7)] * 4, rel=1e-5
    )
    assert contrast(video, other, temperature=1e-6).isfinite().all()


def test_contrast_has_the_gradients_of_finite_differences():
    asserts.gradients_are_right(contrast, [unit(3, 4), unit(3, 2, 4, seed=1)])


GOOD = {"video": draw(4, 3), "other": draw(4, 2, 3), "temperature": 0.07}
OTHERS = {
    "fewer rows": ("other", lambda x: x[:2], r"got float32 \(2, 2, 3\)"),
    "another width": ("other", lambda x: x[..., :2], r"got float32 \(4, 2, 2\)"),
    "no candidate": ("other", lambda x: x[:, :0], r"a candidate at least, got float32 \(4, 0, 3\)"),
    "cold": ("temperature", lambda t: 0.0, "expected a number above 0, got 0.0"),
    "NaN": ("temperature", lambda t: math.nan, "expected a number above 0, got nan"),
}


@pytest.mark.parametrize(("name", "change", "message"), OTHERS.values(), ids=OTHERS)
def test_contrast_refuses(name, change, message):
    asserts.refuses(contrast, GOOD, name, change, message)


@inputs.hostile(inputs.WRONG_TYPE)
def test_contrast_refuses_other_types(change, message):
    asserts.refuses(contrast, GOOD, "video", change, message)


def test_contrast_refuses_a_row_without_candidates():
    present = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match="present: expected a candidate in every row, .* row 1"):
        contrast(draw(2, 3), draw(2, 2, 3), present)


# tokens -------------------------------------------------------------------------------------------


def test_tubelets_are_boxes_of_the_clip():
    tubelets = Tubelets(5, frames=4, side=8, tubelet=(2, 4, 4))
    video = draw(2, 4, 3, 8, 8)
    found = tubelets(video).unflatten(1, (2, 2, 2))
    when, row, column = tubelets.positions
    for t, r, c in [(0, 0, 0), (1, 0, 1), (1, 1, 0)]:
        box = video[:, 2 * t : 2 * t + 2, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
        flat = box.permute(0, 1, 3, 4, 2).flatten(1)  # frame, row, column, colour
        expected = tubelets.project(flat) + when[t] + row[r] + column[c]
        torch.testing.assert_close(found[:, t, r, c], expected)


def test_patches_are_stretches_of_the_waveform():
    patches = WavePatches(5, samples=32, patch=8)
    audio = draw(2, 24)
    expected = patches.project(audio[:, 8:16]) + patches.positions[1]
    torch.testing.assert_close(patches(audio)[:, 1], expected)
    assert patches(audio).shape == (2, 3, 5)


def test_words_have_a_vector_and_a_place():
    words = Words(6, 4, words=3)
    found = words(torch.tensor([[5, 1]]))
    torch.testing.assert_close(found[0, 1], words.table.weight[1] + words.positions[1])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 3, 8, 8), "video: expected a multiple of 2 frames up to 4, got 1"),
        ((2, 3, 3, 8, 8), "video: expected a multiple of 2 frames up to 4, got 3"),
        ((2, 6, 3, 8, 8), "video: expected a multiple of 2 frames up to 4, got 6"),
        ((2, 4, 3, 8, 6), "video: expected a multiple of 4 columns up to 8, got 6"),
        ((2, 4, 3, 2, 8), "video: expected a multiple of 4 rows up to 8, got 2"),
        ((2, 4, 8, 8), r"got float32 \(2, 4, 8, 8\)"),
        ((2, 4, 1, 8, 8), r"got float32 \(2, 4, 1, 8, 8\)"),
    ],
)
def test_clips_that_tubelets_do_not_cut_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        Vatt(small()).see(torch.zeros(shape))


@pytest.mark.parametrize("samples", [4, 12, 40])
def test_sounds_that_patches_do_not_cut_are_refused(samples):
    message = f"audio: expected a multiple of 8 samples up to 32, got {samples}"
    with pytest.raises(ValueError, match=message):
        Vatt(small()).hear(torch.zeros(2, samples))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1] * 6], "input_ids: expected texts of 1 to 5 words, got 6"),
        ([[1, 20]], "input_ids: expected words 0 to 19, got 1 to 20"),
        ([[-1, 2]], "input_ids: expected words 0 to 19, got -1 to 2"),
    ],
)
def test_texts_that_do_not_fit_are_refused(ids, message):
    ids = torch.tensor(ids)
    with pytest.raises(ValueError, match=message):
        Vatt(small()).read(ids, torch.ones_like(ids))


def test_a_text_without_a_word_is_refused_where_it_is_read():
    ids = torch.ones(2, 3, dtype=torch.long)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="attention_mask: .* row 1 has none"):
        Vatt(small()).read(ids, mask)


def test_dropped_tokens_are_a_share_of_each_row_drawn_apart():
    tokens = torch.arange(40.0).view(2, 20, 1).expand(-1, -1, 3)
    found = drop_tokens(tokens, 0.75, generator=torch.Generator().manual_seed(0))
    again = drop_tokens(tokens, 0.75, generator=torch.Generator().manual_seed(0))
    assert found.shape == (2, 5, 3)
    torch.testing.assert_close(found, again)
    first, second = (set(row[:, 0].tolist()) for row in found)
    assert len(first) == len(second) == 5  # without replacement
    assert first <= set(range(20))
    assert second <= set(range(20, 40))
    assert {x - 20 for x in second} != first
    assert drop_tokens(tokens, 0.0) is tokens
    assert drop_tokens(tokens, 0.999).shape == (2, 1, 3)


@pytest.mark.parametrize("share", [1.0, -0.1, math.nan])
def test_shares_that_drop_everything_are_refused(share):
    with pytest.raises(ValueError, match="share: expected a number from 0 to below 1"):
        drop_tokens(torch.zeros(1, 2, 3), share)


def test_tokens_are_dropped_in_training_alone_and_never_words():
    model, batch = Vatt(small(drop=0.5)), triplets()
    model.train()
    assert not torch.equal(model.see(batch["video"]), model.see(batch["video"]))
    assert not torch.equal(model.hear(batch["audio"]), model.hear(batch["audio"]))
    ids, mask = (batch[name][:, 0] for name in ("input_ids", "attention_mask"))
    torch.testing.assert_close(model.read(ids, mask), model.read(ids, mask))
    model.eval()
    torch.testing.assert_close(model.see(batch["video"]), model.see(batch["video"]))


@pytest.mark.parametrize("summary", ["token", "mean"])
def test_padding_does_not_matter(summary):
    model = Vatt(small(summary=summary)).eval()
    ids = torch.tensor([[4, 7, 9]])
    padded = torch.tensor([[4, 7, 9, 11, 3]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(
        model.read(padded, mask), model.read(ids, torch.ones_like(ids)), rtol=1e-4, atol=1e-5
    )


def test_the_summary_is_the_mean_or_the_first_token():
    tokens = draw(2, 4, 8)
    mean = Trunk(8, layers=1, heads=2, summary="mean").eval()
    torch.testing.assert_close(mean(tokens), mean.layers(tokens).mean(1))
    token = Trunk(8, layers=1, heads=2).eval()
    longer = torch.cat([token.summary.expand(2, 1, 8), tokens], 1)
    torch.testing.assert_close(token(tokens), token.layers(longer)[:, 0])


# the model ----------------------------------------------------------------------------------------


def test_medium_has_the_papers_155_million_parameters():
    with torch.device("meta"):
        model = Vatt(medium())
    words, heads = model.words.table.weight.numel(), model.heads
    assert words == 65_536 * 1024
    assert backbone_size(model) == 154_981_376
    everything = sum(each.numel() for each in model.parameters())
    assert everything - words - backbone_size(model) == sum(p.numel() for p in heads.parameters())
    assert (model.config.dim_va, model.config.dim_vt, model.config.temperature) == (512, 256, 0.07)


def test_three_trunks_are_three_times_as_large_and_read_apart():
    one, three = Vatt(small()), Vatt(small(agnostic=False))
    size = sum(each.numel() for each in one.trunks.parameters())
    assert sum(each.numel() for each in three.trunks.parameters()) == 3 * size
    assert len({id(three.trunk(m)) for m in ("video", "audio", "text")}) == 3
    assert len({id(one.trunk(m)) for m in ("video", "audio", "text")}) == 1
    three.losses(triplets())["va"].backward()
    assert three.trunk("audio").layers.layers[0].linear1.weight.grad.abs().sum() > 0
    assert three.trunk("text").layers.layers[0].linear1.weight.grad is None


def test_heads_go_from_the_fine_space_to_the_coarse_one():
    heads = Heads(8, dim_va=6, dim_vt=4).eval()
    features = draw(5, 8)
    z_va, z_vt = heads.video(features)
    torch.testing.assert_close(z_va.norm(dim=1), torch.ones(5))
    fine = heads.video_va(features)
    torch.testing.assert_close(z_vt, functional.normalize(heads.video_vt(fine), dim=1))
    assert (z_va.shape, z_vt.shape) == ((5, 6), (5, 4))


def test_losses_are_those_of_the_literal_equations():
    model, batch = Vatt(small(drop=0.0)).double(), triplets()
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    spaces = model.embed(batch)
    all_there = torch.ones(6, 1, dtype=torch.bool)
    va = literal_contrast(spaces.video_va, spaces.audio_va[:, None], all_there, 0.07)
    vt = literal_contrast(spaces.video_vt, spaces.text_vt, all_there.expand(6, 2), 0.07)
    found = model.losses(batch)
    expected = {"va": va.mean(), "vt": vt.mean(), "loss": va.mean() + vt.mean()}
    torch.testing.assert_close(found, expected)


def test_rows_without_sound_or_text_take_no_part_in_that_loss():
    model, batch = Vatt(small(drop=0.0)).eval(), triplets()  # eval: rows do not meet in the norms
    batch["has_audio"] = torch.tensor([True, False, True, True, False, True])
    batch["attention_mask"][2] = 0  # no text
    batch["attention_mask"][3, 1] = 0  # one of two
    heard, told = batch["has_audio"], batch["attention_mask"].bool().any(2).any(1)
    found = model.losses(batch)
    part = {name: x[heard] for name, x in batch.items()}
    torch.testing.assert_close(found["va"], model.losses(part)["va"])
    part = {name: x[told] for name, x in batch.items()}
    torch.testing.assert_close(found["vt"], model.losses(part)["vt"])
    changed = {**batch, "audio": batch["audio"] + 3 * ~heard[:, None]}
    torch.testing.assert_close(model.losses(changed)["va"], found["va"])


@pytest.mark.parametrize("missing", ["audio", "text"])
def test_a_batch_without_any_sound_or_text_has_no_cosine(missing):
    model, batch = Vatt(small()), triplets()
    if missing == "audio":
        batch["has_audio"] = torch.zeros(6, dtype=torch.bool)
    else:
        batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    found = model.losses(batch)
    silent, other = ("va", "vt") if missing == "audio" else ("vt", "va")
    assert found[silent].item() == 0
    assert found[other].item() > 0
    weights = list(model.parameters())
    grads = [
        torch.autograd.grad(found[name], weights, retain_graph=True, allow_unused=True)
        for name in ("va", "vt")
    ]
    assert math.isnan(gradient_cosine(*grads))
    assert per_row(model.embed(batch))[silent == "vt"].shape == (0,)


def test_a_batch_that_lacks_a_column_is_told_how_to_say_so():
    batch = triplets()
    del batch["audio"]
    with pytest.raises(ValueError, match="batch: expected video, audio, .*; if a row has no"):
        Vatt(small()).losses(batch)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("audio", lambda x: x[:4], r"audio: expected .*, got float32 \(4, 32\)"),
        ("input_ids", lambda x: x[:, 0], r"input_ids: expected .*, got int64 \(6, 5\)"),
        ("attention_mask", lambda x: x[:, :1], r"attention_mask: .*, got int64 \(6, 1, 5\)"),
        ("video", lambda x: x.mul(100).byte(), "video: expected .*, got uint8"),
    ],
)
def test_columns_that_do_not_fit_each_other_are_refused(name, change, message):
    batch = triplets()
    with pytest.raises(ValueError, match=message):
        Vatt(small()).losses({**batch, name: change(batch[name])})


def test_an_empty_batch_is_refused():
    batch = {name: each[:0] for name, each in triplets().items()}
    with pytest.raises(ValueError, match="video: expected a row at least"):
        Vatt(small()).losses(batch)


def test_means_and_sum():
    model, batch = Vatt(small()).eval(), triplets()
    spaces = model.embed(batch)
    va, vt = per_row(spaces)
    found = total(spaces, va, vt)
    torch.testing.assert_close(found["loss"], va.mean() + vt.mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18, "heads": 4}, "width: expected a multiple of 4 heads, got 18"),
        ({"layers": 0}, "layers: expected a whole number from 1, got 0"),
        ({"layers": True}, "layers: expected a whole number from 1, got True"),
        ({"patch": 2.5}, "patch: expected a whole number from 1, got 2.5"),
        ({"tubelet": (2, 4)}, "tubelet: expected frames, rows and columns"),
        ({"tubelet": (2, 4, 0)}, "tubelet: expected a whole number from 1, got 0"),
        ({"tubelet": (3, 4, 4)}, "frames: expected a multiple of the tubelet's 3, got 4"),
        ({"tubelet": (2, 4, 3)}, "side: expected a multiple of the tubelet's 3, got 8"),
        ({"samples": 33}, "samples: expected a multiple of the patch's 8, got 33"),
        ({"drop": 1.0}, "drop: expected a share from 0 to below 1, got 1.0"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0.0"),
        ({"summary": "tokens"}, "summary: expected one of .*did you mean 'token'"),
    ],
)
def test_sizes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_the_sizes_grow():
    counts = []
    for make in SIZES.values():
        with torch.device("meta"):
            counts.append(backbone_size(Vatt(make(65_536))))
    assert counts == sorted(counts)
    assert tiny(20) == Config(20)
    assert dataclasses.replace(tiny(20), drop=0.0).drop == 0
