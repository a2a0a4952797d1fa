"""Show, attend and tell against its equations, written out number by number."""

import math

import pytest
import torch

from modalign.models.caption_inputs import Vocabulary, require_captions
from modalign.models.captioner import Captioner, caption_loss, doubly_stochastic
from modalign.models.encoders import ImageEncoder
from tests._literal import affine, dot, lstm_step, sigmoid, softmax

V, D, A, E, H = 9, 6, 4, 3, 5
# the names and shapes of the public code's DecoderWithAttention
SHAPES = {
    "attention.encoder_att.weight": (A, D),
    "attention.encoder_att.bias": (A,),
    "attention.decoder_att.weight": (A, H),
    "attention.decoder_att.bias": (A,),
    "attention.full_att.weight": (1, A),
    "attention.full_att.bias": (1,),
    "embedding.weight": (V, E),
    "decode_step.weight_ih": (4 * H, E + D),
    "decode_step.weight_hh": (4 * H, H),
    "decode_step.bias_ih": (4 * H,),
    "decode_step.bias_hh": (4 * H,),
    "init_h.weight": (H, D),
    "init_h.bias": (H,),
    "init_c.weight": (H, D),
    "init_c.bias": (H,),
    "f_beta.weight": (D, H),
    "f_beta.bias": (D,),
    "fc.weight": (V, H),
    "fc.bias": (V,),
}
START, END = 1, 2


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state():
    return {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}


def ending():
    """Weights that end captions sooner or later, so that searches have both kinds."""
    weights = state()
    weights["fc.bias"][END] += 1.5
    return weights


def released(**marks):
    return Captioner.from_released(state(), **marks)


class Literal:
    """The equations of Show, attend and tell for one picture, in Python's numbers."""

    def __init__(self, weights, places):
        self.w = {name: value.tolist() for name, value in weights.items()}
        self.places = places.tolist()
        mean = [sum(column) / len(self.places) for column in zip(*self.places, strict=True)]
        self.first = affine(self.w, "init_h", mean), affine(self.w, "init_c", mean)

    def step(self, token, h, c):
        keys = [affine(self.w, "attention.encoder_att", place) for place in self.places]
        query = affine(self.w, "attention.decoder_att", h)
        scores = [
            affine(
                self.w,
                "attention.full_att",
                [max(0, k + q) for k, q in zip(key, query, strict=True)],
            )[0]
            for key in keys
        ]
        weights = softmax(scores)
        context = [dot(weights, [place[j] for place in self.places]) for j in range(D)]
        gate = [sigmoid(x) for x in affine(self.w, "f_beta", h)]
        x = [
            *self.w["embedding.weight"][token],
            *(g * z for g, z in zip(gate, context, strict=True)),
        ]
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        h, c = lstm_step(*(self.w[f"decode_step.{name}"] for name in names), x, h, c)
        return affine(self.w, "fc", h), weights, h, c

    def teacher_forced(self, tokens):
        h, c = self.first
        logits, attention = [], []
        for token in tokens:
            said, looked, h, c = self.step(token, h, c)
            logits.append(said)
            attention.append(looked)
        return logits, attention

    def beam(self, width, limit, *, normalized):
        """As the public code searches: beams that end leave, and the rest share what is left."""
        alive, ended = [(0.0, [], *self.first)], []
        while alive and limit and width:
            limit -= 1
            grown = []
            for score, tokens, h, c in alive:
                said, _, h2, c2 = self.step(tokens[-1] if tokens else START, h, c)
                norm = math.log(sum(math.exp(x) for x in said))
                grown += [(score + said[t] - norm, [*tokens, t], h2, c2) for t in range(V)]
            grown = sorted(grown, key=lambda each: -each[0])[:width]
            ended += [each for each in grown if each[1][-1] == END]
            alive = [each for each in grown if each[1][-1] != END]
            width = len(alive)
        value = lambda each: each[0] / len(each[1]) if normalized else each[0]  # noqa: E731
        best = max(ended or alive, key=value)
        return best[1], value(best), bool(ended)


CAPTIONS = torch.tensor([[1, 5, 2, 0, 0], [1, 6, 7, 8, 2], [1, 4, 3, 2, 0]])
LENGTHS = torch.tensor([3, 5, 4])


def test_teacher_forcing_is_the_equations_in_the_order_of_the_batch():
    features = draw(3, 7, D, seed=90)
    logits, attention = released().teacher_forced(features, CAPTIONS, LENGTHS)
    assert logits.shape == (3, 4, V)
    assert attention.shape == (3, 4, 7)
    for row, length in enumerate(LENGTHS.tolist()):
        said, looked = Literal(state(), features[row]).teacher_forced(CAPTIONS[row, : length - 1])
        torch.testing.assert_close(logits[row, : length - 1], torch.tensor(said).double())
        torch.testing.assert_close(attention[row, : length - 1], torch.tensor(looked).double())
        assert not logits[row, length - 1 :].any()
        assert not attention[row, length - 1 :].any()


def test_single_precision_stays_within_1e_5():
    single = {name: value.float() for name, value in state().items()}
    features = draw(3, 7, D, seed=90)
    found = Captioner.from_released(single).teacher_forced(features.float(), CAPTIONS, LENGTHS)
    right = released().teacher_forced(features, CAPTIONS, LENGTHS)
    for one, other in zip(found, right, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


def test_a_grid_is_its_places_and_lengths_may_be_a_column():
    features = draw(3, 6, D, seed=91)
    flat = released().teacher_forced(features, CAPTIONS, LENGTHS)
    grid = released()(features.unflatten(1, (2, 3)), CAPTIONS, LENGTHS[:, None])
    for one, other in zip(flat, grid, strict=True):
        assert torch.equal(one, other)


def test_a_batch_of_one_keeps_its_dimension():
    logits, attention = released().teacher_forced(
        draw(1, 7, D), torch.tensor([[1, 2]]), torch.tensor([2])
    )
    assert logits.shape == (1, 1, V)
    assert attention.shape == (1, 1, 7)


def test_the_loss_is_the_equation():
    features = draw(3, 7, D, seed=92)
    logits, attention = released().teacher_forced(features, CAPTIONS, LENGTHS)
    found = caption_loss(logits, attention, CAPTIONS, LENGTHS, weight=0.7)
    words, number = 0.0, 0
    sums = [[0.0] * 7 for _ in range(3)]
    for row, length in enumerate(LENGTHS.tolist()):
        said, looked = Literal(state(), features[row]).teacher_forced(CAPTIONS[row, : length - 1])
        for t in range(length - 1):
            words -= math.log(softmax(said[t])[CAPTIONS[row, t + 1]])
            number += 1
            for p in range(7):
                sums[row][p] += looked[t][p]
    spread = sum((1 - value) ** 2 for row in sums for value in row) / 21
    assert found["words"].item() == pytest.approx(words / number, abs=1e-9)
    assert found["attention"].item() == pytest.approx(spread, abs=1e-9)
    assert found["loss"].item() == pytest.approx(words / number + 0.7 * spread, abs=1e-9)


def test_the_doubly_stochastic_term_is_0_where_each_place_is_seen_once():
    assert doubly_stochastic(torch.eye(4)[None]) == 0
    assert doubly_stochastic(torch.zeros(2, 3, 4)) == 1


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("beam", [1, 3, V])
def test_beam_search_is_that_of_the_public_code(beam, normalized):
    features = draw(6, 7, D, seed=93)
    model = Captioner.from_released(ending(), start=START, end=END)
    found = model.beam_search(features, beam=beam, max_length=7, normalized=normalized)
    ends = set()
    for row in range(6):
        tokens, score, ended = Literal(ending(), features[row]).beam(beam, 7, normalized=normalized)
        assert found.tokens[row, : found.lengths[row]].tolist() == tokens
        assert found.scores[row].item() == pytest.approx(score, abs=1e-9)
        assert found.finished[row] == ended
        assert not found.tokens[row, len(tokens) :].any()
        ends.add(ended)
    assert True in ends


def test_attention_of_a_beam_is_that_of_its_caption():
    features = draw(2, 7, D, seed=94)
    model = released(start=START, end=END)
    found = model.beam_search(features, beam=4, max_length=6)
    for row in range(2):
        length = int(found.lengths[row])
        captions = torch.cat([torch.tensor([START]), found.tokens[row, :length]])[None]
        plain = released()
        _, attention = plain.teacher_forced(
            features[row : row + 1], captions, torch.tensor([length + 1])
        )
        torch.testing.assert_close(found.attention[row, :length], attention[0])
        assert not found.attention[row, length:].any()


def test_a_search_in_which_no_beam_ends_returns_the_best_that_did_not():
    never = state() | {"fc.bias": draw(V, seed=18)}
    never["fc.bias"][END] = -1e4
    model = Captioner.from_released(never, start=START, end=END)
    features = draw(2, 7, D, seed=95)
    for normalized in (False, True):
        found = model.beam_search(features, beam=3, max_length=4, normalized=normalized)
        assert not found.finished.any()
        assert found.lengths.tolist() == [4, 4]
        for row in range(2):
            tokens, score, ended = Literal(never, features[row]).beam(3, 4, normalized=normalized)
            assert not ended
            assert found.tokens[row].tolist() == tokens
            assert found.scores[row].item() == pytest.approx(score, abs=1e-9)


def test_a_search_does_not_depend_on_the_rest_of_the_batch():
    features = draw(4, 7, D, seed=96)
    model = released(start=START, end=END)
    together = model.beam_search(features, beam=3)
    for row in range(4):
        alone = model.beam_search(features[row : row + 1], beam=3)
        length = int(alone.lengths[0])
        assert together.lengths[row] == length
        assert together.tokens[row, :length].tolist() == alone.tokens[0].tolist()


def test_an_end_at_once_is_a_caption_of_no_word():
    at_once = state()
    at_once["fc.bias"][END] = 1e3
    found = Captioner.from_released(at_once, start=START, end=END).beam_search(draw(2, 7, D))
    assert found.tokens.tolist() == [[END], [END]]
    assert found.finished.all()


def test_what_cka_aligns_comes_with_its_masks():
    features = draw(3, 7, D)
    found = released().embeddings(features, CAPTIONS, LENGTHS)
    assert torch.equal(found["image"].values, features)
    assert found["image"].mask.all()
    assert torch.equal(found["text"].values, state()["embedding.weight"][CAPTIONS])
    assert found["text"].mask.sum(1).tolist() == LENGTHS.tolist()


def test_the_default_has_a_small_encoder_that_trains():
    model = Captioner(V, attention_dim=A, embed_dim=E, decoder_dim=H)
    assert isinstance(model.encoder, ImageEncoder)
    features = model.see(torch.rand(3, 3, 32, 32))
    assert features.shape == (3, 16, 128)
    loss = caption_loss(*model(features, CAPTIONS, LENGTHS), CAPTIONS, LENGTHS)["loss"]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_step_of_training_lowers_the_loss():
    model = Captioner(V, encoder_dim=D, attention_dim=A, embed_dim=E, decoder_dim=H, dropout=0.0)
    features, optimizer = draw(3, 7, D).float(), torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(10):
        loss = caption_loss(*model(features, CAPTIONS, LENGTHS), CAPTIONS, LENGTHS)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_mixed_precision_trains_and_searches():
    single = {name: value.float() for name, value in state().items()}
    model = Captioner.from_released(single, start=START, end=END)
    features = draw(3, 7, D).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = caption_loss(*model(features, CAPTIONS, LENGTHS), CAPTIONS, LENGTHS)["loss"]
        assert model.beam_search(features, max_length=4).scores.isfinite().all()
    loss.backward()
    right = caption_loss(*model(features, CAPTIONS, LENGTHS), CAPTIONS, LENGTHS)["loss"]
    assert loss.item() == pytest.approx(right.item(), rel=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradients_are_right():
    model = released()
    features = draw(3, 4, D, seed=97).requires_grad_()

    def loss(x):
        return caption_loss(*model(x, CAPTIONS, LENGTHS), CAPTIONS, LENGTHS)["loss"]

    assert torch.autograd.gradcheck(loss, (features,))


def test_the_paper_size():
    with torch.device("meta"):
        model = Captioner(2538, encoder_dim=2048)
    sizes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert sizes["decode_step.weight_ih"] == (2048, 2560)
    assert sizes["attention.encoder_att.weight"] == (512, 2048)
    assert sum(math.prod(shape) for shape in sizes.values()) == (
        (2048 + 1) * 512
        + (512 + 1) * 512
        + 512
        + 1  # attention
        + 2538 * 512
        + 4 * 512 * (2560 + 512 + 2)  # words and LSTM
        + 2 * (2048 + 1) * 512
        + (512 + 1) * 2048
        + (512 + 1) * 2538  # start, gate, logits
    )


def test_dropout_is_before_the_logits_alone():
    model = released().train()
    features = draw(3, 7, D)
    first, second = (model(features, CAPTIONS, LENGTHS) for _ in range(2))
    assert not torch.equal(first.logits, second.logits)
    assert torch.equal(first.attention, second.attention)


REFUSED = {
    "features of another width": (
        {"features": draw(3, 7, D + 1)},
        r"features: expected width 6, which the model was made for, got float64 \(3, 7, 7\)",
    ),
    "another precision": (
        {"features": draw(3, 7, D).float()},
        "features: expected torch.float64, as the weights are, got float32",
    ),
    "NaN": ({"features": draw(3, 7, D) * math.nan}, "features: expected finite"),
    "no place": ({"features": draw(3, 0, D)}, "features: expected"),
    "one vector a picture": ({"features": draw(3, D)}, "features: expected"),
    "other pictures": ({"features": draw(2, 7, D)}, "captions: expected 2, one a picture, got 3"),
    "a token too high": (
        {"captions": CAPTIONS + 3},
        "captions: expected tokens 0 to 8, got 3 to 11",
    ),
    "no end": (
        {"captions": CAPTIONS.where(CAPTIONS != END, 3)},
        r"captions: expected <end> \(token 2\) last, row 0 has 3 there",
    ),
    "no start": (
        {"captions": CAPTIONS.where(CAPTIONS != START, 4)},
        r"captions: expected <start> \(token 1\) first, row 0 has 4 there",
    ),
    "too long": ({"lengths": LENGTHS + 1}, "lengths: expected 2 to 5 tokens.*got 4 to 6"),
    "too short": ({"lengths": LENGTHS - 2}, "lengths: expected 2 to 5 tokens.*got 1 to 3"),
    "lengths of another batch": ({"lengths": LENGTHS[:2]}, "lengths: expected"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(change, message):
    given = {"features": draw(3, 7, D), "captions": CAPTIONS, "lengths": LENGTHS, **change}
    model = released(start=START, end=END)
    for call in (model.teacher_forced, model.embeddings):
        with pytest.raises(ValueError, match=message):
            call(**given)


def test_features_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="features: expected floating-point numbers, got int64"):
        released().teacher_forced(torch.ones(3, 7, D, dtype=torch.long), CAPTIONS, LENGTHS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": V + 1}, "beam: expected 1 to the 9 tokens, got 10"),
        ({"beam": 0}, "beam: expected 1 to the 9 tokens, got 0"),
        ({"max_length": 0}, "max_length: expected a token at least, got 0"),
    ],
)
def test_a_search_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        released(start=START, end=END).beam_search(draw(1, 7, D), **settings)


def test_a_search_needs_the_marks():
    with pytest.raises(ValueError, match="beam_search: needs the marks"):
        released().beam_search(draw(1, 7, D))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 0}, "vocabulary: expected a token at least, got 0"),
        ({"vocabulary": 4, "end": 4}, "end: expected a token below 4, got 4"),
        ({"vocabulary": 4, "decoder_dim": 0}, "decoder_dim: expected a number above 0"),
        ({"vocabulary": 4, "encoder": ImageEncoder(), "encoder_dim": 3}, "encoder_dim: expected"),
    ],
)
def test_a_model_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Captioner(**settings)


def test_a_model_on_features_does_not_see():
    with pytest.raises(ValueError, match="this model takes features, and has no encoder"):
        released().see(torch.zeros(1, 3, 32, 32))


def test_logits_of_other_captions_are_refused():
    logits, attention = released()(draw(3, 7, D), CAPTIONS, LENGTHS)
    with pytest.raises(ValueError, match="logits: expected 3 steps"):
        caption_loss(logits, attention, CAPTIONS, LENGTHS.clamp_max(4))
    with pytest.raises(ValueError, match="weight: expected 0 or more, got -1"):
        caption_loss(logits, attention, CAPTIONS, LENGTHS, weight=-1)


def test_words_seen_once_are_unknown_where_asked_for():
    texts = ["A dog runs.", "A dog sits."]
    assert Vocabulary.of(texts).words[4:] == ["a", "dog", "runs", "sits"]
    seldom = Vocabulary.of(texts, min_count=2)
    assert seldom.words == ["<pad>", "<start>", "<end>", "<unk>", "a", "dog"]
    captions, lengths = seldom.encode(texts)
    assert captions.tolist() == [[1, 4, 5, 3, 2]] * 2
    assert seldom.decode(captions) == ["a dog <unk>"] * 2
    assert torch.equal(require_captions(captions, lengths, len(seldom), 1, 2), lengths)


def test_a_word_map_of_a_released_checkpoint_is_a_vocabulary():
    word_map = {"a": 1, "dog": 2, "<unk>": 3, "<start>": 4, "<end>": 5, "<pad>": 0}
    vocabulary = Vocabulary(word_map)
    captions, lengths = vocabulary.encode(["A dog, a cat", "dog"])
    assert captions.tolist() == [[4, 1, 2, 1, 3, 5], [4, 2, 5, 0, 0, 0]]
    assert lengths.tolist() == [6, 3]
    assert vocabulary.decode(captions[:, 1:]) == ["a dog a <unk>", "dog"]


def test_decoding_stops_at_the_first_end():
    vocabulary = Vocabulary.of(["a dog"])
    assert vocabulary.decode(torch.tensor([[4, 2, 5, 0], [2, 0, 0, 0], [4, 5, 4, 5]])) == [
        "a",
        "",
        "a dog a dog",
    ]
    with pytest.raises(ValueError, match="tokens: expected 0 to 5, got"):
        vocabulary.decode(torch.tensor([[6]]))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "captions: no word comes min_count=1 times"),
        (["!"], "captions: no word comes min_count=1 times"),
    ],
)
def test_an_empty_vocabulary_is_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.of(texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "captions: expected one or more, got none"),
        (["a", "..."], "captions: expected a word at least, caption 1 is '...'"),
        (["a <end>"], "captions: expected words alone, caption 0 has <end>"),
    ],
)
def test_captions_that_cannot_be_encoded_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.of(["a"]).encode(texts)


@pytest.mark.parametrize(
    ("word_map", "message"),
    [
        ({"a": 0}, "word_map: expected the mark <pad>, found none"),
        (
            {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 4},
            "word_map: expected the tokens 0 to 3",
        ),
        ({"<pad>": 3, "<start>": 1, "<end>": 2, "<unk>": 0}, "<pad> at 0"),
    ],
)
def test_a_word_map_that_is_none_is_refused(word_map, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(word_map)
