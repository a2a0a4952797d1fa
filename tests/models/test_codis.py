import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from modalign.codebook import alignment_loss
from modalign.models.codis import Codis, grad_cam, hard_negatives, mask_tokens, rerank
from modalign.models.codis_encoders import (
    CLS_ID,
    FIRST_WORD,
    MASK_ID,
    Config,
    ImageTransformer,
    TextTransformer,
    base,
    tiny,
    transformers_towers,
    with_cls,
)
from tests import _asserts as asserts


def small(**changes):
    sizes = {"image_size": 16, "width": 16, "heads": 2, "dim": 8, "prototypes": 6, "queue": 8}
    return tiny(20, **{**sizes, "max_length": 6, **changes})


def pairs(n=4, side=16):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(FIRST_WORD, 20, (n, 5), generator=generator)
    ids[:, 0] = CLS_ID
    mask = torch.ones_like(ids)
    mask[::2, 3:] = 0
    pixels = torch.rand(n, 3, side, side, generator=generator)
    return {"pixel_values": pixels, "input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture
def model():
    made = Codis(small())
    made.spread(pairs())
    return made


def test_the_default_is_the_tiny_size_and_base_is_the_papers():
    assert tiny(20) == Config(20)
    paper = base()
    assert (paper.prototypes, paper.queue, paper.momentum, paper.dim) == (4000, 65_536, 0.995, 256)
    assert (paper.image_layers, paper.text_layers, paper.fusion_layers) == (12, 6, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18, "heads": 4}, "width: expected a multiple of 4 heads, got 18"),
        ({"patch": 5, "image_size": 20}, "expected an even patch that divides the side, got 5, 20"),
        ({"image_size": 20}, "expected an even patch that divides the side, got 8, 20"),
        ({"queue": 0}, "queue: expected a whole number from 1, got 0"),
        ({"fusion_layers": 1.5}, "fusion_layers: expected a whole number from 1, got 1.5"),
        ({"prototypes": -3}, "prototypes: expected a whole number from 1"),
        ({"ramp": -1}, "ramp: expected a whole number from 0"),
        ({"alpha": 1.5}, "alpha: expected a number from 0 to 1"),
        ({"alpha": math.nan}, "alpha: expected a number from 0 to 1"),
        ({"mlm": -1.0}, "mlm: expected a weight of 0 or more"),
        ({"code": math.inf}, "code: expected a weight of 0 or more"),
        (dict.fromkeys(("mlm", "itm", "cross", "intra", "code"), 0.0), "one weight above 0"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_vocabulary_needs_a_word():
    with pytest.raises(ValueError, match="vocabulary: expected a whole number from 5, got 4"):
        Config(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 1.0}, "momentum: expected"),
        ({"temperature": 0.0}, "temperature: expected"),
        ({"pairing": "crosed"}, "did you mean 'crossed'"),
        ({"features": "pupil"}, "features: expected one of teacher, student"),
    ],
)
def test_the_parts_refuse_theirs(changes, message):
    with pytest.raises(ValueError, match=message):
        Codis(small(**changes))


@pytest.mark.parametrize("name", ["image", "text"])
def test_an_encoder_of_another_width_is_refused(name):
    other = {"image": ImageTransformer, "text": TextTransformer}[name](small(width=32))
    with pytest.raises(ValueError, match=f"{name}: expected an encoder of width 16, got 32"):
        Codis(small(), **{name: other})


def test_positions_are_interpolated_for_other_sizes():
    tower = ImageTransformer(small())
    assert torch.equal(tower._places(2, 2), tower.positions)
    with torch.no_grad():
        tower.positions[:, 1:] = 3.0
        tower.positions[:, 0] = 7.0
    wider = tower._places(3, 4)
    assert wider.shape == (1, 13, 16)
    torch.testing.assert_close(wider[:, 1:], torch.full((1, 12, 16), 3.0))
    torch.testing.assert_close(wider[:, 0], torch.full((1, 16), 7.0))  # [CLS] is no place
    assert tower(torch.rand(2, 3, 24, 32)).last_hidden_state.shape == (2, 13, 16)


def test_positions_keep_rows_and_columns_apart():
    tower = ImageTransformer(small(image_size=32))  # 4 x 4
    with torch.no_grad():
        tower.positions[0, 1:] = torch.arange(4.0).repeat_interleave(4)[:, None]
    grid = tower._places(8, 4)[0, 1:, 0].unflatten(0, (8, 4))
    torch.testing.assert_close(grid, grid[:, :1].expand(8, 4))
    assert (grid[:, 0].diff() > 0).all()


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (1, 3, 17, 16), (1, 3, 16, 20)])
def test_pictures_that_are_no_whole_patches_are_refused(shape):
    with pytest.raises(ValueError, match="sides that are multiples of 8"):
        ImageTransformer(small())(torch.rand(shape))


def test_captions_longer_than_the_position_table_are_refused(model):
    batch = pairs()
    for name in ("input_ids", "attention_mask"):
        batch[name] = functional.pad(batch[name], (0, 2), value=1)
    with pytest.raises(ValueError, match=r"texts of 1 to 6 tokens \(the position table's\)"):
        model.losses(batch)


@pytest.mark.parametrize("token", [-1, 20])
def test_tokens_out_of_the_vocabulary_are_refused(token):
    with pytest.raises(ValueError, match="input_ids: expected tokens 0 to 19"):
        TextTransformer(small())(torch.tensor([[CLS_ID, token]]))


def test_a_text_begins_with_a_token():
    with pytest.raises(ValueError, match="row 1 begins with padding"):
        TextTransformer(small())(torch.tensor([[2, 5], [0, 5]]), torch.tensor([[1, 1], [0, 1]]))


def test_padding_changes_no_text():
    tower = TextTransformer(small()).eval()
    ids, mask = torch.tensor([[2, 5, 7, 9]]), torch.tensor([[1, 1, 1, 0]])
    alone = tower(ids[:, :3]).last_hidden_state
    padded = tower(ids, mask).last_hidden_state[:, :3]
    torch.testing.assert_close(padded, alone)
    torch.testing.assert_close(tower(ids, mask.bool()).pooler_output, alone[:, 0])


def test_the_order_of_words_matters():
    tower = TextTransformer(small(text_layers=1))
    first, second = tower(torch.tensor([[2, 5, 7, 9, 11], [2, 5, 11, 9, 7]])).pooler_output
    assert (first - second).abs().max() > 1e-3


def test_spread_starts_the_vectors_all_over_the_sphere():
    torch.manual_seed(0)
    model, batch = Codis(small()), pairs(64)
    model.spread(batch)
    for z, head in zip(model.embed(batch), ("image_head", "text_head"), strict=True):
        assert (z @ z.T).mean() < 0.1
        student, teacher = (
            getattr(each, head).weight for each in (model.towers, model.teacher.module)
        )
        assert torch.equal(student, teacher)


def test_spread_needs_rows_that_differ():
    batch = {name: value[:1].expand(3, *value.shape[1:]) for name, value in pairs().items()}
    for few in (batch, {name: value[:1] for name, value in batch.items()}):
        with pytest.raises(ValueError, match="pixel_values: expected 2 rows or more that differ"):
            Codis(small()).spread(few)


# masking


def test_masked_words_are_chosen_at_the_rate_and_fare_as_in_bert():
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((1000, 100), 7)
    hidden, labels = mask_tokens(ids, 1004, generator=generator)
    chosen = labels != -100
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.004)
    assert (labels[chosen] == 7).all()
    assert (hidden[~chosen] == 7).all()
    shares = {
        "mask": (hidden[chosen] == MASK_ID).float().mean().item(),
        "same": (hidden[chosen] == 7).float().mean().item(),
    }
    assert shares["mask"] == pytest.approx(0.8, abs=0.01)
    assert shares["same"] == pytest.approx(0.1, abs=0.01)
    others = hidden[chosen & (hidden != MASK_ID) & (hidden != 7)]
    assert (others.min(), others.max()) == (FIRST_WORD, 1003)


def test_special_tokens_are_never_masked_nor_drawn():
    special = torch.arange(FIRST_WORD).expand(500, -1)
    hidden, labels = mask_tokens(special, 6, rate=1.0)
    assert torch.equal(hidden, special)
    assert (labels == -100).all()
    drawn = mask_tokens(torch.full((500, 9), 5), 6, rate=1.0).input_ids
    assert set(drawn.unique().tolist()) == {MASK_ID, 4, 5}


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_is_a_chance(rate):
    with pytest.raises(ValueError, match="rate: expected a chance from 0 to 1"):
        mask_tokens(torch.tensor([[2, 5]]), 9, rate=rate)


# negatives


def test_hard_negatives_are_never_the_positive():
    similarity = torch.eye(5) * 1e4
    drawn = torch.stack([hard_negatives(similarity) for _ in range(200)])
    assert (drawn != torch.arange(5)).all()


def test_hard_negatives_follow_the_softmax_over_the_others():
    similarity = torch.tensor([[9.0, math.log(3), 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    drawn = torch.stack([hard_negatives(similarity)[0] for _ in range(2000)])
    assert (drawn == 1).float().mean().item() == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_negatives_need_others(shape):
    with pytest.raises(ValueError, match=r"negatives need a batch of 2 pairs or more"):
        hard_negatives(torch.zeros(shape))


def test_a_batch_of_one_is_refused(model):
    with pytest.raises(ValueError, match="batch of 2 pairs or more"):
        model.losses(pairs(1))


# losses


def attended(query, memory, projections, out, heads):
    q, k, v = (
        (each @ w.T + b).unflatten(2, (heads, -1)).transpose(1, 2)
        for each, (w, b) in zip((query, memory, memory), projections, strict=True)
    )
    return out(((q @ k.mT / q.shape[3] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


def fused(model, image, text, mask):
    """The fusion encoder in formulas, one pair at a time, without padding."""
    x, image = text[mask.bool()][None], image[None]
    for layer in model.fusion.layers:
        query, own, cross = layer.norms[0](x), layer.own, layer.cross
        projections = list(zip(own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3), strict=True))
        x = x + attended(query, query, projections, own.out_proj, own.num_heads)
        projections = [(each.weight, each.bias) for each in (cross.query, cross.key, cross.value)]
        x = x + attended(layer.norms[1](x), image, projections, cross.out, cross.heads)
        x = x + layer.feed(layer.norms[2](x))
    return model.fusion.norm(x)[0]


def test_matching_equals_its_definition(model):
    batch = pairs()
    generator = torch.Generator().manual_seed(3)
    found = model.losses(batch, generator=generator)["itm"]
    image, z_image = model.towers.see(batch["pixel_values"])
    mask = batch["attention_mask"]
    text, z_text = model.towers.read(batch["input_ids"], mask)
    similarity = z_image @ z_text.T / model.codebook.temperature()
    generator = torch.Generator().manual_seed(3)
    texts = hard_negatives(similarity, generator=generator)
    images = hard_negatives(similarity.T, generator=generator)
    judged = [(i, i, 1) for i in range(4)]
    judged += [(i, int(j), 0) for i, j in enumerate(texts)]
    judged += [(int(i), j, 0) for j, i in enumerate(images)]
    losses = [
        -model.itm_head(fused(model, image[i], text[j], mask[j])[0]).log_softmax(0)[truth]
        for i, j, truth in judged
    ]
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_masked_language_modelling_equals_its_definition():
    torch.manual_seed(0)
    model, batch = Codis(small(itm=0.0)), pairs()
    found = model.losses(batch, generator=torch.Generator().manual_seed(5))["mlm"]
    generator = torch.Generator().manual_seed(5)
    hidden, labels = mask_tokens(batch["input_ids"], 20, generator=generator)
    image, _ = model.towers.see(batch["pixel_values"])
    mask = batch["attention_mask"]
    text, _ = model.towers.read(hidden, mask)
    losses = []
    for i in range(4):
        words = model.mlm_head(fused(model, image[i], text[i], mask[i])).log_softmax(1)
        truth = labels[i, mask[i].bool()]
        losses += [-words[t, label] for t, label in enumerate(truth) if label != -100]
    assert losses
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_a_batch_without_a_word_has_no_masked_language_to_model(model):
    batch = pairs()
    batch["input_ids"] = torch.full_like(batch["input_ids"], CLS_ID)
    assert model.losses(batch)["mlm"] == 0


def test_alignment_and_codebook_are_those_of_their_modules(model):
    batch = pairs()
    found = model.losses(batch)
    students, teachers = model.towers(batch), model.teacher(batch)
    aligned = alignment_loss(
        *students,
        *teachers,
        model.image_queue.features,
        model.text_queue.features,
        temperature=0.07,
        alpha=0.4,
    )
    torch.testing.assert_close(found["cross"], aligned.image_to_text + aligned.text_to_image)
    torch.testing.assert_close(found["intra"], aligned.image_to_image + aligned.text_to_text)
    torch.testing.assert_close(found["code"], model.codebook.loss(*students, *teachers).total)


def test_parts_are_left_out_by_name(model):
    assert set(model.losses(pairs(), without=("mlm", "code"))) == {"loss", "itm", "cross", "intra"}
    with pytest.raises(ValueError, match="did you mean 'mlm'"):
        model.losses(pairs(), without=("mlmm",))


def test_alpha_rises_over_the_ramp():
    model = Codis(small(ramp=4, mlm=0.0, itm=0.0, code=0.0, intra=0.0))
    batch = pairs()
    model.steps.fill_(2)
    half = model.losses(batch)["cross"]
    model.config = dataclasses.replace(model.config, ramp=0, alpha=0.2)
    torch.testing.assert_close(model.losses(batch)["cross"], half)


def test_the_loss_is_the_weighted_sum_and_a_part_of_weight_zero_is_absent():
    weights = {"mlm": 0.5, "itm": 2.0, "cross": 3.0, "intra": 0.0, "code": 0.25}
    found = Codis(small(**weights)).losses(pairs())
    assert set(found) == {"loss", "mlm", "itm", "cross", "code"}
    total = sum(weights[name] * part for name, part in found.items() if name != "loss")
    torch.testing.assert_close(found["loss"], total)


def test_the_teacher_is_not_in_the_gradient_and_all_else_is(model):
    model.losses(pairs())["loss"].backward()
    for name, parameter in model.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name


# update


def test_update_queues_what_the_old_teacher_saw_and_then_moves_it(model):
    batch = pairs()
    saw = model.teacher(batch)
    model.losses(batch)
    with torch.no_grad():
        model.towers.image_head.bias.add_(1.0)
    before = model.teacher.module.image_head.bias.clone()
    model.update()
    for queue, z in zip((model.image_queue, model.text_queue), saw, strict=True):
        torch.testing.assert_close(queue.features[:4], z)
        assert queue.place == 4
    moved = model.teacher.module.image_head.bias - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.03), rtol=1e-3, atol=1e-5)
    assert model.steps == 1


def test_update_needs_losses_first_and_once(model):
    with pytest.raises(RuntimeError, match="call losses first"):
        model.update()
    model.losses(pairs())
    model.update()
    with pytest.raises(RuntimeError, match="call losses first"):
        model.update()


def test_a_batch_that_does_not_divide_the_queue_moves_nothing(model):
    model.losses(pairs(3))
    with torch.no_grad():
        model.towers.image_head.bias.add_(1.0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="divides the queue's 8, got 3"):
        model.update()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_checkpoint_goes_back_and_one_of_another_size_does_not(model):
    model.losses(pairs())
    model.update()
    again = Codis(small(seed=9))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.image_queue.features, model.image_queue.features)
    for ours, theirs in zip(again.embed(pairs()), model.embed(pairs()), strict=True):
        assert torch.equal(ours, theirs)
    for changes in ({"width": 32}, {"queue": 16}, {"prototypes": 7}, {"max_length": 9}):
        with pytest.raises(RuntimeError, match="size mismatch"):
            Codis(small(**changes)).load_state_dict(model.state_dict())


# what comes after


def test_match_is_the_logit_of_the_matching_head(model):
    batch = pairs()
    image, _ = model.towers.see(batch["pixel_values"])
    mask = batch["attention_mask"]
    text, _ = model.towers.read(batch["input_ids"], mask)
    wanted = [
        model.itm_head(fused(model, image[i], text[i], mask[i])[0]).diff()[0] for i in range(4)
    ]
    torch.testing.assert_close(model.match(**batch), torch.stack(wanted))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_fusing_pairs_equals_fusing_copies_of_their_texts_and_pictures(first, masked):
    fusion, batch = Codis(small()).double().fusion, pairs()
    text, image = torch.rand(2, 4, 5, 16).double().requires_grad_()
    texts, images = torch.tensor([[0, 1, 2, 3, 2, 2], [0, 1, 2, 3, 0, 1]])
    mask = batch["attention_mask"] if masked else None

    def copies(text, image):
        each = None if mask is None else mask[texts]
        return fusion(text[texts], each, image[images])[:, : 1 if first else None]

    inputs = [each.detach().requires_grad_() for each in (text, image)]
    asserts.equals_literal(
        lambda text, image: fusion(text, mask, image, (texts, images), first=first), copies, inputs
    )


def test_grad_cam_is_a_map_a_word_and_zero_for_padding(model):
    batch = pairs()
    maps = grad_cam(model, batch)
    assert maps.shape == (4, 5, 4)
    assert (maps >= 0).all()
    padding = batch["attention_mask"] == 0
    assert (maps[padding] == 0).all()
    assert maps[~padding].any()
    assert not model.fusion.layers[0].cross.keep


def test_grad_cam_equals_attention_times_gradient_by_finite_differences():
    torch.manual_seed(0)
    model, batch = Codis(small()).double(), pairs(2)
    batch["pixel_values"] = batch["pixel_values"].double()
    cross, kept = model.fusion.layers[0].cross, {}

    def nudged(text, image, images=None):
        """The attention in formulas, with a nudge of one of its weights."""
        q, k, v = (
            project(x).unflatten(2, (2, -1)).transpose(1, 2)
            for project, x in ((cross.query, text), (cross.key, image), (cross.value, image))
        )
        kept["weights"] = (q @ k.mT / q.shape[3] ** 0.5).softmax(-1)
        return cross.out(((kept["weights"] + kept["nudge"]) @ v).transpose(1, 2).flatten(2))

    maps = grad_cam(model, batch)
    cross.forward = nudged
    wanted = torch.zeros_like(maps)
    with torch.no_grad():
        for i, t, p in ((0, 1, 2), (1, 2, 0), (1, 3, 3)):
            for head in range(2):
                ends = []
                for step in (1e-5, -1e-5):
                    kept["nudge"] = torch.zeros(2, 2, 5, 5, dtype=torch.float64)
                    kept["nudge"][i, head, t, 1 + p] = step
                    ends.append(model.match(**batch)[i])
                slope = (ends[0] - ends[1]) / 2e-5
                weight = kept["weights"][i, head, t, 1 + p]
                wanted[i, t, p] += (weight * slope.relu()) / 2
            torch.testing.assert_close(maps[i, t, p], wanted[i, t, p], rtol=1e-4, atol=1e-9)
    assert wanted.any()


@pytest.mark.parametrize("layer", [-1, 1, 2, -3])
def test_grad_cam_needs_a_layer_before_the_last(model, layer):
    with pytest.raises(ValueError, match=f"before the last of 2 fusion layers, got {layer}"):
        grad_cam(model, pairs(), layer=layer)


def test_grad_cam_of_one_fusion_layer_is_refused():
    with pytest.raises(ValueError, match="before the last of 1 fusion layers, got -2"):
        grad_cam(Codis(small(fusion_layers=1)), pairs())


def test_reranking_puts_the_nearest_first_and_orders_them_by_the_match(model):
    batch = pairs(6)
    mask = batch["attention_mask"]
    image, z_image = model.towers.see(batch["pixel_values"])
    text, z_text = model.towers.read(batch["input_ids"], mask)
    similarity = z_image @ z_text.T
    both = rerank(model, image, text, mask, similarity, k=2, at_a_time=5)
    for scores, sides in zip(both, (similarity, similarity.T), strict=True):
        by_query = scores if sides is similarity else scores.T
        for q, row in enumerate(by_query):
            near, far = sides[q].topk(2).indices, sides[q].argsort()[:-2]
            torch.testing.assert_close(row[far], sides[q][far])
            for c in near:
                i, j = (q, c) if sides is similarity else (c, q)
                chance = model.itm_head(fused(model, image[i], text[j], mask[j])[0]).softmax(0)[1]
                torch.testing.assert_close(row[c], 2 + chance)
            assert row[near].min() > row[far].max()


@pytest.mark.parametrize("k", [0, 4])
def test_reranking_needs_so_many_candidates(model, k):
    image, text = torch.rand(3, 5, 16), torch.rand(5, 4, 16)
    with pytest.raises(ValueError, match=f"k: expected 1 to 3 candidates, got {k}"):
        rerank(model, image, text, torch.ones(5, 4).long(), torch.rand(3, 5), k=k)


def test_with_cls():
    assert with_cls(["a disc"]) == ["[CLS] a disc"]


# the size of the paper


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def test_towers_of_transformers_take_pictures_of_another_size(transformers):
    config = small(patch=8, image_size=16)
    image, text = transformers_towers(config)
    assert isinstance(image.vit, transformers.ViTModel)
    assert isinstance(text, transformers.BertModel)
    model = Codis(config, image=image, text=text)
    model.spread(pairs())
    found = model.losses(pairs())
    found["loss"].backward()
    model.update()
    assert grad_cam(model, pairs(side=24)).shape == (4, 5, 9)
    assert isinstance(model.losses(pairs(side=24))["loss"].item(), float)


def test_towers_of_transformers_start_from_weights_on_this_machine(transformers, tmp_path):
    config = small(text_layers=2)
    image, text = transformers_towers(config)
    image.vit.save_pretrained(tmp_path / "vit")
    text.save_pretrained(tmp_path / "bert")
    again, half = transformers_towers(
        small(text_layers=1), image=str(tmp_path / "vit"), text=str(tmp_path / "bert")
    )
    pixels = pairs()["pixel_values"]
    torch.testing.assert_close(
        again.eval()(pixels).last_hidden_state, image.eval()(pixels).last_hidden_state
    )
    assert len(half.encoder.layer) == 1
    for (name, ours), theirs in zip(
        half.encoder.layer[0].named_parameters(), text.encoder.layer[0].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_weights_that_are_not_here_are_not_downloaded(transformers):
    with pytest.raises(OSError, match="connect|no-such"):
        transformers_towers(small(), image="no-such/model")


def test_base_has_as_many_parameters_as_the_paper_says(transformers):
    """ViT-B/16 has 85.8M; the paper's BERT-base of 123.7M holds text, fusion and its heads."""
    config = base()
    with torch.device("meta"):
        image, text = transformers_towers(config)
        model = Codis(config, image=image, text=text)

    def millions(*modules: nn.Module) -> float:
        return sum(p.numel() for each in modules for p in each.parameters()) / 1e6

    assert millions(image) == pytest.approx(85.8, abs=0.4)
    assert millions(text, model.fusion) == pytest.approx(123.7, abs=1.0)
    assert model.codebook.prototypes.shape == (4000, 256)
    assert model.image_queue.features.shape == (65_536, 256)
