"""STAGE against its equations, written out number by number."""

import itertools
import math

import pytest
import torch

from modalign.models.padded import Padded
from modalign.models.stage import STAGE
from modalign.models.stage_losses import Truth, ranking_loss, ranking_pairs
from modalign.models.stage_parts import best_spans, guided_attention, hull_iou, position_table
from tests._literal import affine, dot, layer_norm, relu, softmax

TEXT, VIDEO, BRIDGE, D, ROWS = 5, 4, 3, 4, 9
F, L, W, R = 4, 3, 4, 2
KERNELS = {"input_encoder": 3, "cls_encoder": 5}
BOTH = ("subtitles", "video")


def mapper(name, inner, outer):
    return {
        f"{name}.0.weight": (inner,),
        f"{name}.0.bias": (inner,),
        f"{name}.2.weight": (outer, inner),
        f"{name}.2.bias": (outer,),
    }


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def encoder(name, kernel, convolutions=2):
    block = f"{name}.stacked_encoderBlocks.0"
    found = {f"{block}.position_encoding.pe": (ROWS, D)}
    for i in range(convolutions):
        found |= norm(f"{block}.layer_norm.{i}", D)
    found |= norm(f"{block}.final_layer_norm", D)
    for i in range(convolutions):
        found[f"{block}.conv.{i}.depthwise_conv.weight"] = (D, 1, kernel)
        found[f"{block}.conv.{i}.depthwise_conv.bias"] = (D,)
        found[f"{block}.conv.{i}.pointwise_conv.weight"] = (D, D, 1)
        found[f"{block}.conv.{i}.pointwise_conv.bias"] = (D,)
    return found


def shapes(streams=BOTH, local=True):
    """The names and shapes of the public code's STAGE, in its order."""
    found = mapper("bert_word_encoding_fc", TEXT, BRIDGE) | norm("bert_word_encoding_fc.4", BRIDGE)
    if "video" in streams:
        found |= mapper("vid_fc", VIDEO, BRIDGE) | norm("vid_fc.4", BRIDGE)
    if len(streams) == 2:
        found |= mapper("concat_fc", 3 * D, D) | norm("concat_fc.4", D)
    found |= {"input_embedding.1.weight": (D, BRIDGE), "input_embedding.1.bias": (D,)}
    found |= norm("input_embedding.3", D)
    found |= encoder("input_encoder", KERNELS["input_encoder"])
    found |= mapper("c2q_down_projection", 3 * D, D)
    found |= encoder("cls_encoder", KERNELS["cls_encoder"])
    found |= mapper("cls_projection_layers.0.conv", D, D)
    found |= mapper("temporal_scoring_st_layers.0.conv", D, 1)
    found |= mapper("temporal_scoring_ed_layers.0.conv", D, 1)
    if local:
        found |= mapper("local_mapper.conv", D, D) | mapper("global_mapper.conv", D, D)
    return found | mapper("classifier.conv", 2 * D if local else D, 1)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(streams=BOTH, local=True):
    named = shapes(streams, local)
    found = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(named.items())}
    for name in found:
        if name.endswith("pe"):
            found[name] = torch.tensor(
                [
                    [
                        (math.cos if j % 2 else math.sin)(t / 10000 ** ((j - j % 2) / D))
                        for j in range(D)
                    ]
                    for t in range(ROWS)
                ]
            ).double()
    return found


def real(*lengths, shape):
    """A mask of given lengths."""
    return (torch.arange(shape[-1]) < torch.tensor(lengths)[:, None]).reshape(shape)


def features(mask, width, seed):
    """Features; those of padding leak into their neighbours, as in the public code."""
    return Padded(draw(*mask.shape, width, seed=seed), mask)


def batch(streams=BOTH):
    answers = real(3, 2, 3, 1, 2, 2, 2, 3, 3, 1, shape=(2, 5, L))
    # the second clip has three frames, of which one has no region, and another no subtitle
    regions = real(2, 1, 2, 1, 2, 0, 2, 0, shape=(2, F, R))
    words = real(4, 3, 0, 2, 1, 4, 0, 0, shape=(2, F, W))
    given = {"answers": features(answers, TEXT, 50)}
    if "subtitles" in streams:
        given["subtitles"] = features(words, TEXT, 51)
    if "video" in streams:
        given["video"] = features(regions, VIDEO, 52)
    return given


FRAMES = real(4, 3, shape=(2, F))
TRUTH = Truth(torch.tensor([2, 0]), torch.tensor([1, 0]), torch.tensor([3, 0]))


def hadamard(xs, ys):
    return [x * y for x, y in zip(xs, ys, strict=True)]


def normalized(x):
    length = math.sqrt(dot(x, x))
    return [z / max(length, 1e-12) for z in x]


class Literal:
    """The equations for one question, in Python's numbers."""

    def __init__(self, weights, streams, local=True, margin=3):
        self.w = {name: value.tolist() for name, value in weights.items()}
        self.streams, self.local, self.margin = streams, local, margin

    def norm(self, name, x):
        return layer_norm(self.w, name, x)

    def reduced(self, name, x):
        return relu(affine(self.w, f"{name}.2", self.norm(f"{name}.0", x)))

    def encode(self, name, rows):
        block = f"{name}.stacked_encoderBlocks.0"
        kernel = KERNELS[name]
        xs = [
            [z + p for z, p in zip(x, self.w[f"{block}.position_encoding.pe"][t], strict=True)]
            for t, x in enumerate(rows)
        ]
        for i in range(2):
            inner = [self.norm(f"{block}.layer_norm.{i}", x) for x in xs]
            deep = f"{block}.conv.{i}.depthwise_conv"
            wide = f"{block}.conv.{i}.pointwise_conv"
            outer = []
            for t in range(len(xs)):
                each = []
                for channel in range(D):
                    total = self.w[f"{deep}.bias"][channel]
                    for k in range(kernel):
                        place = t + k - kernel // 2
                        if 0 <= place < len(xs):
                            weight = self.w[f"{deep}.weight"][channel][0][k]
                            total += weight * inner[place][channel]
                    each.append(total)
                mixed = [
                    sum(self.w[f"{wide}.weight"][o][c][0] * each[c] for c in range(D))
                    + self.w[f"{wide}.bias"][o]
                    for o in range(D)
                ]
                outer.append([a + b for a, b in zip(relu(mixed), xs[t], strict=True)])
            xs = outer
        return [self.norm(f"{block}.final_layer_norm", x) for x in xs]

    def embed(self, rows, video=False):
        """States of all places of a row, padded ones too."""
        first = "vid_fc" if video else "bert_word_encoding_fc"
        rows = [normalized(x) for x in rows] if video else rows
        rows = [self.norm(f"{first}.4", self.reduced(first, x)) for x in rows]
        rows = [
            self.norm("input_embedding.3", relu(affine(self.w, "input_embedding.1", x)))
            for x in rows
        ]
        return self.encode("input_encoder", rows)

    def attend(self, words, words_real, context, context_real):
        """Of one answer and one frame: cosines and weights, and what each word read."""
        cosines = [[dot(normalized(word), normalized(x)) for x in context] for word in words]
        weights, read = [], []
        for i in range(len(words)):
            places = [j for j in range(len(context)) if words_real[i] and context_real[j]]
            row = [0.0] * len(context)
            if places:
                for j, weight in zip(
                    places, softmax([10 * cosines[i][j] for j in places]), strict=True
                ):
                    row[j] = weight
            weights.append(row)
            read.append([dot(row, column) for column in zip(*context, strict=True)])
        return cosines, weights, read

    def mapped(self, name, x, rectified):
        found = affine(self.w, f"{name}.conv.2", self.norm(f"{name}.conv.0", x))
        return relu(found) if rectified else found

    def frame(self, words, words_real, contexts):
        """Of one answer and one frame: the pooled statement, or None; attention by stream."""
        looked, parts = {}, {}
        for name, (context, context_real) in contexts.items():
            cosines, weights, read = self.attend(words, words_real, context, context_real)
            looked[name] = cosines, weights
            parts[name] = [
                self.reduced("c2q_down_projection", [*w, *u, *hadamard(w, u)])
                for w, u in zip(words, read, strict=True)
            ]
        if len(parts) == 2:
            statement = [
                self.norm("concat_fc.4", self.reduced("concat_fc", [*s, *v, *hadamard(s, v)]))
                for s, v in zip(parts["subtitles"], parts["video"], strict=True)
            ]
        else:
            (statement,) = parts.values()
        statement = self.encode("cls_encoder", statement)
        name = "video" if "video" in contexts else "subtitles"
        has = any(contexts[name][1])
        kept = [x for x, there in zip(statement, words_real, strict=True) if there and has]
        if not kept:
            return None, looked
        pooled = [max(column) for column in zip(*kept, strict=True)]
        more = self.mapped("cls_projection_layers.0", pooled, True)
        return [a + b for a, b in zip(pooled, more, strict=True)], looked

    def question(self, given, row, frames):
        """Pooled statements, span scores and attention, by answer and frame."""
        embedded, masks = {}, {}
        for name, (values, mask) in given.items():
            clean = values[row].tolist()
            embedded[name] = [self.embed(rows, name == "video") for rows in clean]
            masks[name] = mask[row].tolist()
        pooled, spans, looked = [], [], []
        for a in range(5):
            statements, scores, where = [], [], []
            for f in range(F):
                contexts = {name: (embedded[name][f], masks[name][f]) for name in self.streams}
                statement, attention = self.frame(
                    embedded["answers"][a], masks["answers"][a], contexts
                )
                statements.append(statement)
                where.append(attention)
                x = statement or [0.0] * D
                heads = "temporal_scoring_st_layers.0", "temporal_scoring_ed_layers.0"
                scores.append([self.mapped(head, x, False)[0] for head in heads])
            pooled.append(statements)
            looked.append(where)
            spans.append([each for each, there in zip(scores, frames, strict=True) if there])
        return pooled, spans, looked

    def best_span(self, scores):
        start, end = (softmax([each[side] for each in scores]) for side in range(2))
        pairs = itertools.combinations_with_replacement(range(len(scores)), 2)
        return max((start[s] * end[e], s, e) for s, e in pairs)

    def answer(self, statements, span):
        everywhere = [x for x in statements if x]
        near = [
            x
            for f, x in enumerate(statements)
            if x and span[0] - self.margin <= f <= span[1] + self.margin
        ]
        pool = lambda xs: [max(c) for c in zip(*xs, strict=True)] if xs else [0.0] * D  # noqa: E731
        if not self.local:
            return self.mapped("classifier", pool(everywhere), False)[0]
        here = self.mapped("local_mapper", pool(near), True)
        whole = self.mapped("global_mapper", pool(everywhere), True)
        return self.mapped("classifier", [*here, *whole], False)[0]


def cross_entropy(scores, right):
    top = max(scores)
    return top + math.log(sum(math.exp(x - top) for x in scores)) - scores[right]


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("streams", [BOTH, ("subtitles",), ("video",)])
def test_scores_spans_and_attention_are_the_equations(streams, local, margin):
    weights = state(streams, local)
    given = batch(streams)
    found = STAGE.from_released(weights, margin=margin)(**given, frames=FRAMES)
    assert found.question.tolist() == [0, 1]
    for row in range(2):
        model = Literal(weights, streams, local, margin)
        number = int(FRAMES[row].sum())
        pooled, scores, looked = model.question(given, row, FRAMES[row].tolist())
        right = []
        for a in range(5):
            _, s, e = model.best_span(scores[a])
            assert found.spans[row, a].tolist() == [s, e]
            right.append(model.answer(pooled[a], (s, e)))
            torch.testing.assert_close(
                found.span_logits[row, a, :number], torch.tensor(scores[a]).double()
            )
            assert (found.span_logits[row, a, number:] == -1e10).all()
            for f, name in itertools.product(range(F), streams):
                cosines, attention = (torch.tensor(each).double() for each in looked[a][f][name])
                torch.testing.assert_close(found.attention[name][row, a, f], attention)
                there = given["answers"].mask[row, a, :, None] & given[name].mask[row, f]
                mine = found.cosines[name][row, a, f]
                torch.testing.assert_close(mine[there], cosines[there])
                assert (mine[~there] == -1e10).all()
        assert found.logits[row].tolist() == pytest.approx(right, abs=1e-9)


@pytest.mark.parametrize("local", [True, False])
def test_training_and_its_losses_are_the_equations(local):
    weights, given = state(local=local), batch()
    model = STAGE.from_released(weights, margin=1)
    plain = Literal(weights, BOTH, local, margin=1)
    questions = [plain.question(given, row, FRAMES[row].tolist()) for row in range(2)]
    # truths of every kind, so that the predicted span is a proposal for some and not for others
    counts = set()
    for first, second in itertools.product([(0, 0), (0, 3), (2, 3), (1, 2)], [(0, 2), (1, 1)]):
        truth = Truth(torch.tensor([2, 0]), *torch.tensor([first, second]).T)
        found = model(**given, frames=FRAMES, truth=truth)
        rows, targets, spans, span_loss = [], [], [], 0.0
        for row, true in enumerate((first, second)):
            target = int(truth.target[row])
            scores = questions[row][1][target]
            chance, s, e = plain.best_span(scores)
            overlap = max(0, min(e, true[1]) + 1 - max(s, true[0]))
            hull = max(e, true[1]) + 1 - min(s, true[0])
            also = local and chance >= 0.01 and overlap / hull >= 0.5
            kept = [true, (s, e)] if also else [true]
            for span in kept:
                spans.append(span)
                targets.append(target)
                rows.append(row)
            span_loss += sum(
                cross_entropy([each[side] for each in scores], true[side]) for side in range(2)
            )
        right = [
            [plain.answer(questions[row][0][a], span) for a in range(5)]
            for row, span in zip(rows, spans, strict=True)
        ]
        assert found.question.tolist() == rows
        torch.testing.assert_close(found.logits, torch.tensor(right).double())
        losses = model.losses(found, truth, span=0.3)
        answer = sum(map(cross_entropy, right, targets)) * 2 / len(rows)
        assert losses["answer"].item() == pytest.approx(answer, abs=1e-9)
        assert losses["span"].item() == pytest.approx(span_loss / 2, abs=1e-9)
        assert losses["loss"].item() == pytest.approx(answer + 0.3 * span_loss / 2, abs=1e-9)
        counts.add(len(rows))
    assert (len(counts) > 1) == local  # without local pooling no span is looked at


def test_the_ranking_of_attention_is_the_equation():
    given = batch()
    model = STAGE.from_released(state())
    found = model(**given, frames=FRAMES, truth=TRUTH)
    labels = torch.zeros(2, F, L, R, dtype=torch.bool)
    labels[0, 0, 1, 1] = labels[0, 2, 0, 0] = labels[1, 0, 0, 0] = True
    labels[0, 3, 2, 0] = True  # the only region of its frame: no negative, no pair
    losses = model.losses(
        found, TRUTH, labels=labels, regions=given["video"].mask, attention=0.2, negatives=3
    )
    # one frame has one other region for each, so that every draw is the same
    s = found.cosines["video"]
    pairs = [
        (s[0, 2, 0, 1, 1], s[0, 2, 0, 1, 0]),
        (s[0, 2, 2, 0, 0], s[0, 2, 2, 0, 1]),
        (s[1, 0, 0, 0, 0], s[1, 0, 0, 0, 1]),
    ]
    right = sum(3 * math.log(1 + math.exp(20 * (neg - pos).item())) for pos, neg in pairs)
    assert losses["attention"].item() == pytest.approx(right, abs=1e-9)
    total = losses["answer"] + 0.5 * losses["span"] + 0.2 * losses["attention"]
    assert losses["loss"].item() == pytest.approx(total.item(), abs=1e-9)


def test_pairs_are_of_one_word_and_frame_and_draws_repeat_with_the_generator():
    labels = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    regions = real(6, 4, 2, 6, 5, 0, shape=(2, 3, 6))
    labels &= regions[:, :, None]
    found = [
        ranking_pairs(labels, regions, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    positive, negative = found[0]
    assert torch.equal(positive[:, :3], negative[:, :3])
    assert labels[tuple(positive.T)].all()
    assert not labels[tuple(negative.T)].any()
    assert regions[negative[:, 0], negative[:, 1], negative[:, 3]].all()
    expected = 0
    for b, f, word, region in itertools.product(*map(range, labels.shape)):
        others = regions[b, f] & ~labels[b, f, word]
        expected += 2 * bool(labels[b, f, word, region] and others.any())
    assert len(positive) == expected
    other = ranking_pairs(labels, regions, generator=torch.Generator().manual_seed(6))
    assert not torch.equal(other[1], negative)


def test_negatives_are_drawn_evenly():
    labels = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    labels[..., 0] = True
    regions = torch.ones(1, 1, 4, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    _, negative = ranking_pairs(labels, regions, negatives=3000, generator=generator)
    counts = negative[:, 3].bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 1000).abs().max() < 120


def test_no_label_is_a_loss_of_0_with_a_gradient():
    cosines = draw(1, 2, 3, 4).requires_grad_()
    labels = torch.zeros(1, 2, 3, 4, dtype=torch.bool)
    loss = ranking_loss(cosines, *ranking_pairs(labels, torch.ones(1, 2, 4, dtype=torch.bool)))
    loss.backward()
    assert loss == 0
    assert not cosines.grad.any()


@pytest.mark.parametrize("seed", range(5))
def test_the_best_span_is_that_of_all_spans(seed):
    logits = draw(3, 7, 2, seed=seed) * 3
    spans, chances = best_spans(logits)
    for row in range(3):
        chance, s, e = Literal({}, ()).best_span(logits[row].tolist())
        assert spans[row].tolist() == [s, e]
        assert chances[row].item() == pytest.approx(chance, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_of_equal_spans_the_one_that_starts_last_and_then_the_longest_is_taken(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 2, (5, 2), generator=generator).double() * 8
    spans, _ = best_spans(logits)
    start, end = (softmax(side) for side in logits.T.tolist())
    pairs = itertools.combinations_with_replacement(range(5), 2)
    assert spans.tolist() == list(max((start[s] * end[e], s, e) for s, e in pairs)[1:])


def test_overlap_of_spans():
    spans = torch.tensor([[0, 3], [0, 3], [0, 3], [2, 2]])
    others = torch.tensor([[0, 3], [4, 5], [3, 5], [2, 2]])
    assert hull_iou(spans, others).tolist() == pytest.approx([1, 0, 1 / 6, 1])


def test_positions_are_the_sines_and_cosines():
    torch.testing.assert_close(
        position_table(ROWS, D).double(),
        state()["input_encoder.stacked_encoderBlocks.0.position_encoding.pe"],
    )
    assert position_table(500, 128).shape == (500, 128)


def test_single_precision_stays_within_1e_5():
    single = {name: value.float() for name, value in state().items()}
    given = batch()
    right = STAGE.from_released(state())(**given, frames=FRAMES)
    low = {name: Padded(x.values.float(), x.mask) for name, x in given.items()}
    found = STAGE.from_released(single)(**low, frames=FRAMES)
    torch.testing.assert_close(found.logits.double(), right.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found.attention["video"].double(), right.attention["video"], atol=1e-5, rtol=1e-5
    )


def test_what_cka_aligns_comes_with_its_masks():
    weights, given = state(), batch()
    found = STAGE.from_released(weights)(**given, frames=FRAMES).embeddings
    assert list(found) == ["qa", "subtitles", "video"]
    for name, key in (("qa", "answers"), ("subtitles", "subtitles"), ("video", "video")):
        values, mask = found[name]
        assert torch.equal(mask, given[key].mask.flatten(1))
        for row in range(2):
            clean = given[key].values[row].tolist()
            model = Literal(weights, BOTH)
            right = [x for rows in clean for x in model.embed(rows, key == "video")]
            torch.testing.assert_close(values[row], torch.tensor(right).double())


@pytest.mark.parametrize(
    ("settings", "number"),
    [({"local": False}, 552_563), ({}, 586_483)],
    ids=["global pooling alone", "local and global pooling"],
)
def test_parameters_at_paper_size(settings, number):
    with torch.device("meta"):
        model = STAGE(**settings)
    assert sum(p.numel() for p in model.parameters()) == number


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("streams", [BOTH, ("subtitles",), ("video",)])
def test_the_names_are_those_of_the_public_code(streams, local):
    model = STAGE.from_released(state(streams, local))
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == shapes(streams, local)
    assert model.streams == list(streams)


def test_the_table_of_positions_may_be_missing():
    weights = state()
    bare = {name: value for name, value in weights.items() if not name.endswith(".pe")}
    right = STAGE.from_released(weights)(**batch(), frames=FRAMES)
    found = STAGE.from_released(bare)(**batch(), frames=FRAMES)
    torch.testing.assert_close(found.logits, right.logits, atol=1e-6, rtol=1e-6)


def one(given, row=0):
    return {
        name: Padded(x.values[row : row + 1], x.mask[row : row + 1]) for name, x in given.items()
    }


def test_a_batch_of_one_keeps_its_dimension():
    model, given = STAGE.from_released(state()), batch()
    found = model(**one(given), frames=FRAMES[:1])
    assert found.logits.shape == (1, 5)
    torch.testing.assert_close(found.logits, model(**given, frames=FRAMES).logits[:1])


def test_frames_are_those_with_something_in_them():
    model, given = STAGE.from_released(state()), batch()
    assert torch.equal(model(**given).span_logits, model(**given, frames=FRAMES).span_logits)


def test_padding_leaks_as_in_the_public_code_unless_it_is_zeros():
    given = batch()
    wider = {
        name: Padded(torch.cat([x.values] * 2, 2), torch.cat([x.mask, torch.zeros_like(x.mask)], 2))
        for name, x in given.items()
    }
    for zero_padding in (True, False):
        model = STAGE.from_released(state(), zero_padding=zero_padding)
        gap = model(**given, frames=FRAMES).logits - model(**wider, frames=FRAMES).logits
        assert (gap.abs().max() < 1e-9) == zero_padding


def test_padding_may_hold_anything_where_it_is_zeros():
    given = batch()
    nothing = {
        name: Padded(x.values.where(x.mask[..., None], math.nan), x.mask)
        for name, x in given.items()
    }
    model = STAGE.from_released(state(), zero_padding=True)
    right = model(**given, frames=FRAMES).logits
    assert torch.equal(model(**nothing, frames=FRAMES).logits, right)
    with pytest.raises(ValueError, match="answers: expected finite features, got NaN"):
        STAGE.from_released(state())(**nothing)


def test_all_masked_rows_give_zeros_and_gradients_stay_finite():
    qa, context = draw(1, 5, 1, 3, 4).requires_grad_(), draw(1, 1, 2, 3, 4, seed=1).requires_grad_()
    words = torch.ones(1, 5, 1, 3, dtype=torch.bool)
    regions = torch.tensor([[[[True] * 3, [False] * 3]]])
    read, cosines, weights = guided_attention(qa, words, context, regions)
    assert read[:, :, 0].any()
    for each in (read, weights):
        assert not each[:, :, 1].any()
    assert (cosines[:, :, 1] == -1e10).all()
    read.sum().backward()
    assert qa.grad.isfinite().all()
    assert not context.grad[:, :, 1].any()


def test_a_batch_that_is_all_padding_trains():
    given = {name: Padded(x.values, torch.zeros_like(x.mask)) for name, x in batch().items()}
    model = STAGE.from_released(state())
    found = model(**given, truth=TRUTH)
    torch.testing.assert_close(found.logits, found.logits[:, :1].expand(-1, 5))
    loss = model.losses(found, TRUTH)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_half_precision_has_no_nan():
    weights = {name: value.half() / 4 for name, value in state().items()}
    given = {name: Padded(x.values.half(), x.mask) for name, x in batch().items()}
    found = STAGE.from_released(weights)(**given)
    assert found.logits.isfinite().all()
    assert not found.attention["video"].isnan().any()


def test_mixed_precision_trains():
    model = STAGE.from_released({name: value.float() for name, value in state().items()})
    given = {name: Padded(x.values.float(), x.mask) for name, x in batch().items()}
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(model(**given, frames=FRAMES, truth=TRUTH), TRUTH)
    losses["loss"].backward()
    right = model.losses(model(**given, frames=FRAMES, truth=TRUTH), TRUTH)
    assert losses["loss"].item() == pytest.approx(right["loss"].item(), rel=0.1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_captions_are_a_third_stream():
    sizes = {"text_dim": TEXT, "video_dim": VIDEO, "bridge": BRIDGE, "hidden": D}
    torch.manual_seed(0)
    model = STAGE(streams=("subtitles", "video", "captions"), **sizes)
    given = {name: Padded(x.values.float(), x.mask) for name, x in batch().items()}
    given["captions"] = Padded(given["subtitles"].values + 1, given["subtitles"].mask)
    assert model.concat_fc[2].in_features == 6 * D
    model.losses(model(**given, truth=TRUTH), TRUTH)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    again = STAGE.from_released(model.state_dict())
    assert again.streams == ["subtitles", "video", "captions"]
    assert torch.equal(again(**given).logits, model.eval()(**given).logits)
    # what is fused, written out
    read = {name: draw(1, 5, 1, 2, D, seed=i).float() for i, name in enumerate(model.streams)}
    s, v, c = read.values()
    each = torch.cat([s, v, c, s * v, s * c, v * c], -1)
    assert torch.equal(model._fused(read), model.concat_fc(each))
    for two in (["video", "captions"], ["subtitles", "captions"]):
        weights = STAGE(streams=two, **sizes).state_dict()
        assert STAGE.from_released(weights, streams=two).streams == two


def test_gradients_are_right():
    model, given = STAGE.from_released(state()), batch(())
    clean = {name: x.values for name, x in batch().items()}

    def loss(video):
        contexts = {"subtitles": clean["subtitles"], "video": video}
        inputs = {name: Padded(x, batch()[name].mask) for name, x in contexts.items()}
        found = model(Padded(clean["answers"], given["answers"].mask), truth=TRUTH, **inputs)
        return model.losses(found, TRUTH)["loss"]

    assert torch.autograd.gradcheck(loss, (clean["video"].requires_grad_(),), atol=1e-4)


GIVEN = batch()
FIVE, VIDEO_IN = GIVEN["answers"], GIVEN["video"]
REFUSED = {
    "four answers": (
        {"answers": Padded(FIVE.values[:, :4], FIVE.mask[:, :4])},
        r"answers: expected five a question, got float64 \(2, 4, 3, 5\)",
    ),
    "features of another width": (
        {"video": Padded(VIDEO_IN.values[..., 1:], VIDEO_IN.mask)},
        "video: expected features of width 4, which the model was made for, got",
    ),
    "words of another width": (
        {"answers": Padded(FIVE.values[..., 1:], FIVE.mask)},
        "answers: expected features of width 5",
    ),
    "a clip longer than its features": (
        {"video": Padded(VIDEO_IN.values[:, :3], VIDEO_IN.mask[:, :3])},
        r"video: expected 2 questions of 4 frames, got \(2, 3\)",
    ),
    "a mask longer than its features": (
        {"video": Padded(VIDEO_IN.values[:, :3], VIDEO_IN.mask)},
        "video: expected a mask of 3 dimensions and values that it fits",
    ),
    "another precision": (
        {"video": Padded(VIDEO_IN.values.float(), VIDEO_IN.mask)},
        "video: expected torch.float64, as the weights are, got float32",
    ),
    "NaN in a region": (
        {"video": Padded(VIDEO_IN.values * math.nan, VIDEO_IN.mask)},
        "video: expected finite features, got NaN",
    ),
    "frames of another clip": ({"frames": FRAMES[:, :3]}, r"frames: expected bool \(2, 4\), got"),
    "no sixth answer": (
        {"truth": TRUTH._replace(target=torch.tensor([5, 0]))},
        "target: expected answers 0 to 4",
    ),
    "a span beyond the clip": (
        {"truth": TRUTH._replace(end=torch.tensor([3, 4]))},
        "truth: expected 0 <= start <= end < 4 frames, question 1 has 0 to 4",
    ),
    "a span that ends before": (
        {"truth": TRUTH._replace(end=torch.tensor([0, 0]))},
        "truth: expected 0 <= start <= end < 4 frames, question 0 has 1 to 0",
    ),
    "a truth of one question": (
        {"truth": TRUTH._replace(end=torch.tensor([0]))},
        "truth: end: expected 2 integers",
    ),
    "a stream more": ({"captions": GIVEN["subtitles"]}, "contexts: expected subtitles, video, got"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        STAGE.from_released(state())(**{**GIVEN, **change})


def test_a_row_longer_than_the_positions_is_refused():
    model = STAGE.from_released(state())
    long = Padded(torch.ones(2, F, ROWS + 1, TEXT).double(), torch.ones(2, F, ROWS + 1))
    with pytest.raises(ValueError, match="expected at most 9 words or regions.*got 10"):
        model(**{**GIVEN, "subtitles": long})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"streams": []}, r"streams: expected one or more, each once, got \[\]"),
        ({"streams": ["vid"]}, "streams: expected one of subtitles, video, captions"),
        ({"hidden": 5}, "hidden: expected an even number, got 5"),
        ({"kernels": (7, 4)}, r"kernels: expected odd numbers, got \(7, 4\)"),
        ({"margin": -1}, "margin: expected 0 frames or more, got -1"),
        ({"bridge": 0}, "bridge: expected a number above 0"),
    ],
)
def test_a_model_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        STAGE(**settings)


def test_labels_that_cannot_be_are_refused():
    model = STAGE.from_released(state())
    found = model(**GIVEN, truth=TRUTH)
    labels = torch.zeros(2, F, L, R, dtype=torch.bool)
    regions = VIDEO_IN.mask
    with pytest.raises(ValueError, match="labels: expected regions and a model with video"):
        model.losses(found, TRUTH, labels=labels)
    with pytest.raises(ValueError, match=r"labels: expected \(2, 4, 3, 2\), question, frame"):
        model.losses(found, TRUTH, labels=labels[:, :, :2], regions=regions)
    labels[1, 3, 0, 1] = True
    with pytest.raises(ValueError, match=r"labels: expected real regions.*\[1, 3, 0, 1\]"):
        model.losses(found, TRUTH, labels=labels, regions=regions)
    with pytest.raises(ValueError, match="negatives: expected 1 or more, got 0"):
        ranking_pairs(labels, regions, negatives=0)


WRONG = {
    "no first layer": (
        {"vid_fc.2.weight": torch.ones(3, 4)},
        "bert_word_encoding_fc.2.weight: expected a tensor of this name, found none",
    ),
    "another bias": (
        state() | {"c2q_down_projection.2.bias": torch.zeros(3)},
        r"c2q_down_projection.2.bias: expected \(4,\), as the entries before say, got \(3,\)",
    ),
    "self-attention": (
        state() | {"cls_encoder.stacked_encoderBlocks.0.attn_layer_norm.bias": torch.zeros(4)},
        "cls_encoder.stacked_encoderBlocks.0.attn_layer_norm.bias: the model has no such parameter",
    ),
    "a round more": (
        state() | {"temporal_scoring_st_layers.1.conv.2.bias": torch.zeros(1)},
        "temporal_scoring_st_layers.1.conv.2.bias: the model has no such parameter",
    ),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_weights_that_do_not_fit_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=f"^state_dict: {message}"):
        STAGE.from_released(given)
