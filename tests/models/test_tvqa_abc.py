"""TVQA_abc against its equations, written out number by number."""

import math

import pytest
import torch

from modalign.models.padded import Padded
from modalign.models.tvqa_abc import TVQA, masked_max, match
from tests._literal import affine, bilstm, dot, relu, softmax

V, E, H, M, D = 12, 4, 2, 3, 6
PUBLIC = {"video": "vid", "subtitles": "sub", "concepts": "vcpt"}


def lstm_shapes(name, inner, hidden):
    return {
        f"{name}.rnn.{part}_l0{suffix}": shape
        for suffix in ("", "_reverse")
        for part, shape in {
            "weight_ih": (4 * hidden, inner),
            "weight_hh": (4 * hidden, hidden),
            "bias_ih": (4 * hidden,),
            "bias_hh": (4 * hidden,),
        }.items()
    }


def shapes(streams, layers=1):
    """The names and shapes of the public code's ABC."""
    found = {"embedding.weight": (V, E), **lstm_shapes("lstm_raw", E, H)}
    if "vid" in streams:
        found |= {"video_fc.1.weight": (E, D), "video_fc.1.bias": (E,)}
    for name in streams:
        found |= lstm_shapes(f"lstm_mature_{name}", 10 * H, M)
        inner = 2 * M
        for layer in range(layers):
            outer = 1 if layer == layers - 1 else 7
            found[f"classifier_{name}.main.{3 * layer}.weight"] = (outer, inner)
            found[f"classifier_{name}.main.{3 * layer}.bias"] = (outer,)
            inner = outer
    return found


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(streams=("vid", "sub", "vcpt"), layers=1):
    named = shapes(streams, layers)
    return {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(named.items())}


def padded(rows, width):
    """Rows of several lengths, padded with what must not matter."""
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    values = torch.full((len(rows), width), 9)
    for i, row in enumerate(rows):
        values[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return Padded(values, mask)


QUESTIONS = [[3, 4, 5], [6, 7, 8, 2]]
ANSWERS = [[[1], [2, 3], [4, 5, 6], [7], [8, 9]], [[10, 2], [3], [4, 4], [5, 6, 7], [11]]]
TEXTS = {"subtitles": [[3, 8, 1, 5, 2], [9, 2, 7]], "concepts": [[4, 4], [5, 10, 11, 3]]}
FRAMES = draw(2, 6, D, seed=77)
LENGTHS = [6, 4]


def batch(*streams):
    contexts = {name: padded(TEXTS[name], 6) for name in streams if name != "video"}
    if "video" in streams:
        mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
        contexts["video"] = Padded(FRAMES.where(mask[..., None], math.nan), mask)
    five = padded([answer for row in ANSWERS for answer in row], 4)
    answers = Padded(five.values.unflatten(0, (2, 5)), five.mask.unflatten(0, (2, 5)))
    return {"question": padded(QUESTIONS, 5), "answers": answers, **contexts}


class Literal:
    """The equations for one question, in Python's numbers."""

    def __init__(self, weights, layers=1):
        self.w, self.layers = {name: value.tolist() for name, value in weights.items()}, layers

    def read(self, tokens):
        return bilstm(self.w, "lstm_raw.rnn", [self.w["embedding.weight"][t] for t in tokens])

    def watch(self, frames):
        seen = [[math.tanh(z) for z in affine(self.w, "video_fc.1", x)] for x in frames.tolist()]
        return bilstm(self.w, "lstm_raw.rnn", seen)

    def match(self, context, query):
        weights = [softmax([dot(x, word) for word in query]) for x in context]
        read = [[dot(row, column) for column in zip(*query, strict=True)] for row in weights]
        return read, weights

    def stream(self, name, context, question, answers):
        u_question, by_question = self.match(context, question)
        scores, looked = [], []
        for answer in answers:
            u_answer, by_answer = self.match(context, answer)
            looked.append(by_answer)
            steps = [
                [*x, *u, *q, *(a * b for a, b in zip(u, x, strict=True))]
                + [a * b for a, b in zip(q, x, strict=True)]
                for x, u, q in zip(context, u_answer, u_question, strict=True)
            ]
            states = bilstm(self.w, f"lstm_mature_{name}.rnn", steps)
            pooled = [max(column) for column in zip(*states, strict=True)]
            for layer in range(self.layers):
                pooled = affine(self.w, f"classifier_{name}.main.{3 * layer}", pooled)
                pooled = relu(pooled) if layer < self.layers - 1 else pooled
            scores.append(pooled[0])
        return scores, by_question, looked


def literal(weights, row, streams, layers=1):
    model = Literal(weights, layers)
    question = model.read(QUESTIONS[row])
    answers = [model.read(answer) for answer in ANSWERS[row]]
    contexts = {
        name: model.watch(FRAMES[row, : LENGTHS[row]])
        if name == "video"
        else model.read(TEXTS[name][row])
        for name in streams
    }
    found = {
        name: model.stream(PUBLIC[name], context, question, answers)
        for name, context in contexts.items()
    }
    return found, question, answers, contexts


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    "streams", [("video", "subtitles", "concepts"), ("video",), ("subtitles",), ("concepts",)]
)
def test_scores_and_attention_are_the_equations(streams, layers):
    weights = state([PUBLIC[name] for name in streams], layers)
    found = TVQA.from_released(weights)(**batch(*streams))
    assert list(found.scores) == list(streams)
    for row in range(2):
        right, question, answers, contexts = literal(weights, row, streams, layers)
        total = [sum(right[name][0][a] for name in streams) for a in range(5)]
        assert found.logits[row].tolist() == pytest.approx(total, abs=1e-9)
        for name in streams:
            scores, by_question, by_answers = right[name]
            steps = len(contexts[name])
            assert found.scores[name][row].tolist() == pytest.approx(scores, abs=1e-9)
            looked = found.attention[name]
            expected = torch.zeros(6, 5).double()
            expected[:steps, : len(question)] = torch.tensor(by_question)
            torch.testing.assert_close(looked.question[row], expected)
            for a, weights_of_answer in enumerate(by_answers):
                expected = torch.zeros(6, 4).double()
                expected[:steps, : len(answers[a])] = torch.tensor(weights_of_answer)
                torch.testing.assert_close(looked.answers[row, a], expected)


def test_single_precision_stays_within_1e_5():
    streams = ("video", "subtitles", "concepts")
    single = {name: value.float() for name, value in state().items()}
    given = batch(*streams)
    right = TVQA.from_released(state())(**given)
    given["video"] = Padded(given["video"].values.float(), given["video"].mask)
    found = TVQA.from_released(single)(**given)
    torch.testing.assert_close(found.logits.double(), right.logits, atol=1e-5, rtol=1e-5)


def test_what_cka_aligns_comes_with_its_masks():
    weights = state()
    found = TVQA.from_released(weights)(**batch("video", "subtitles", "concepts")).embeddings
    assert list(found) == ["qa", "video", "subtitles", "concepts"]
    for row in range(2):
        _, question, answers, contexts = literal(weights, row, tuple(PUBLIC))
        qa = [*question, *(word for answer in answers for word in answer)]
        for name, right in {"qa": qa, **contexts}.items():
            values, mask = found[name]
            torch.testing.assert_close(values[row, mask[row]], torch.tensor(right).double())
            assert not values[row, ~mask[row]].any()


def test_the_loss_is_summed():
    logits, target = draw(3, 5), torch.tensor([4, 0, 2])
    model = TVQA(V, embedding=E, video_dim=D)
    right = -sum(math.log(softmax(row)[t]) for row, t in zip(logits.tolist(), target, strict=True))
    assert model.loss(logits, target).item() == pytest.approx(right, abs=1e-9)


def test_parameters_at_paper_size():
    with torch.device("meta"):
        model = TVQA(1)
    number = sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    assert number == 14_133_303


def test_the_names_are_those_of_the_public_code():
    model = TVQA(V, video_dim=D, embedding=E, hidden=H, matched=M, layers=2, scorer=7)
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == shapes(PUBLIC.values(), layers=2)


def test_a_batch_of_one_keeps_its_dimension():
    one = {name: Padded(x.values[:1], x.mask[:1]) for name, x in batch(*PUBLIC).items()}
    model = TVQA.from_released(state())
    found = model(**one)
    assert found.logits.shape == (1, 5)
    torch.testing.assert_close(found.logits, model(**batch(*PUBLIC)).logits[:1])


def test_padding_does_not_matter():
    given = batch(*PUBLIC)
    right = TVQA.from_released(state())(**given)
    wider = {}
    for name, (values, mask) in given.items():
        shape = (*mask.shape[:-1], 3)
        more = values.new_zeros(*shape, *values.shape[mask.dim() :])
        axis = mask.dim() - 1
        wider[name] = Padded(
            torch.cat([values, more], axis), torch.cat([mask, mask.new_zeros(shape)], axis)
        )
    found = TVQA.from_released(state())(**wider)
    torch.testing.assert_close(found.logits, right.logits)


def test_a_stream_that_has_nothing_favours_no_answer():
    given = batch("video", "subtitles")
    given["video"] = Padded(given["video"].values, torch.zeros_like(given["video"].mask))
    model = TVQA.from_released(state(("vid", "sub")))
    found = model(**given)
    assert found.logits.isfinite().all()
    assert (found.scores["video"] == model.classifier_vid.main[0].bias).all()
    assert not found.attention["video"].question.any()
    assert not found.attention["video"].answers.any()
    assert not found.embeddings["video"].values.any()


def test_all_masked_rows_give_zeros_and_gradients_stay_finite():
    x = draw(2, 3, 4).requires_grad_()
    q = draw(2, 5, 4, seed=1).requires_grad_()
    real = torch.tensor([[True] * 3, [False] * 3])
    words = torch.zeros(2, 5, dtype=torch.bool)
    words[1] = True
    read, weights = match(x, real, q, words)
    assert not read.any()
    assert not weights.any()
    read.sum().backward()
    assert not x.grad.any()
    assert not q.grad.any()
    assert not masked_max(x, torch.zeros(2, 3, 1, dtype=torch.bool), 1).any()


def test_a_batch_that_is_all_padding_trains():
    given = {name: Padded(x.values, torch.zeros_like(x.mask)) for name, x in batch(*PUBLIC).items()}
    model = TVQA.from_released(state()).train()
    loss = model.loss(model(**given).logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(2 * math.log(5), abs=1e-9)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_mixed_precision_trains():
    model = TVQA.from_released({name: value.float() for name, value in state().items()})
    given = batch(*PUBLIC)
    given["video"] = Padded(given["video"].values.float(), given["video"].mask)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(model(**given).logits, torch.tensor([0, 1]))
    loss.backward()
    right = model.loss(model(**given).logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(right.item(), rel=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_captions_are_a_stream_of_their_own():
    model = TVQA(V, streams=["captions", "video"], video_dim=D, embedding=E, hidden=H, matched=M)
    assert model.streams == ["video", "captions"]
    given = batch("video", "subtitles")
    given["video"] = Padded(given["video"].values.float(), given["video"].mask)
    given["captions"] = given.pop("subtitles")
    model.loss(model(**given).logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    again = TVQA.from_released(model.state_dict())
    assert torch.equal(again(**given).logits, model.eval()(**given).logits)


def change(**changed):
    return lambda given: {**given, **changed}


def without(name):
    return lambda given: {key: value for key, value in given.items() if key != name}


GIVEN = batch(*PUBLIC)
QUESTION, FIVE, VIDEO = (GIVEN[name] for name in ("question", "answers", "video"))
REFUSED = {
    "four answers": (
        change(answers=Padded(FIVE.values[:, :4], FIVE.mask[:, :4])),
        r"answers: expected five a question, got int64 \(2, 4, 4\)",
    ),
    "a question less": (
        change(question=Padded(QUESTION.values[:1], QUESTION.mask[:1])),
        "answers: expected 1 rows, one a question, got 2",
    ),
    "features of another width": (
        change(video=Padded(VIDEO.values[..., 1:], VIDEO.mask)),
        r"video: expected features of width 6, .*got float64 \(2, 6, 5\)",
    ),
    "longer than its features": (
        change(video=Padded(VIDEO.values[:, :4], VIDEO.mask)),
        r"video: expected a mask .*got values float64 \(2, 4, 6\) and mask bool \(2, 6\)",
    ),
    "another precision": (
        change(video=Padded(VIDEO.values.float(), VIDEO.mask)),
        "video: expected torch.float64, as the weights are, got float32",
    ),
    "NaN in a frame": (
        change(video=Padded(VIDEO.values * math.nan, VIDEO.mask)),
        "video: expected finite features, got NaN",
    ),
    "a clip less": (
        change(video=Padded(VIDEO.values[:1], VIDEO.mask[:1])),
        "video: expected 2 rows, one a question, got 1",
    ),
    "padding at the start": (
        change(video=Padded(VIDEO.values.nan_to_num(), VIDEO.mask.flip(1))),
        "video: expected padding at the end, row 1 has some before",
    ),
    "an unknown token": (
        change(question=Padded(QUESTION.values + 4, QUESTION.mask)),
        "question: expected tokens 0 to 11, got 6 to 13",
    ),
    "a mask of other numbers": (
        change(question=Padded(QUESTION.values, QUESTION.mask * 2)),
        "question: expected a mask of 0 and 1",
    ),
    "a stream less": (
        without("video"),
        "contexts: expected video, subtitles, concepts, got subtitles, concepts",
    ),
    "a stream more": (change(captions=QUESTION), "contexts: expected video, subtitles, concepts"),
    "no frame": (
        change(video=Padded(VIDEO.values[:, :0], VIDEO.mask[:, :0])),
        "video: expected a mask of 2 dimensions and values that it fits, none of size 0",
    ),
}


@pytest.mark.parametrize(("changed", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        TVQA.from_released(state())(**changed(GIVEN))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (QUESTION.values, "question: expected values and their mask, got int64"),
        (Padded(QUESTION.values.float(), QUESTION.mask), "question: expected integer tokens"),
        (Padded([1], [1]), "question: expected values and their mask, got Padded"),
    ],
)
def test_another_type_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        TVQA.from_released(state())(**{**GIVEN, "question": given})


@pytest.mark.parametrize("target", [[5, 0], [-1, 0], []])
def test_an_answer_that_is_none_is_refused(target):
    model = TVQA(V, embedding=E, video_dim=D)
    with pytest.raises(ValueError, match="target: expected answers 0 to 4"):
        model.loss(torch.zeros(len(target), 5), torch.tensor(target, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"streams": []}, r"streams: expected one or more, each once, got \[\]"),
        ({"streams": ["video", "video"]}, "streams: expected one or more, each once"),
        ({"streams": ["subtitle"]}, "did you mean 'subtitles'"),
        ({"hidden": 0}, "hidden: expected a number above 0"),
    ],
)
def test_a_model_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        TVQA(V, **settings)


WRONG = {
    "no stream": (state(()), "lstm_mature_vid.rnn.weight_ih_l0: expected a tensor of this name"),
    "no words": ({"embedding.weights": torch.ones(2, 2)}, "embedding.weight: expected a tensor"),
    "a gate less": (
        state() | {"lstm_mature_sub.rnn.bias_hh_l0": torch.zeros(9)},
        r"lstm_mature_sub.rnn.bias_hh_l0: expected \(12,\), as the entries before say, got \(9,\)",
    ),
    "another first layer": (
        state() | {"lstm_raw.rnn.weight_ih_l0_reverse": torch.zeros(8, 5)},
        r"lstm_raw.rnn.weight_ih_l0_reverse: expected \(8, 4\)",
    ),
    "a second LSTM layer": (
        state() | {"lstm_raw.rnn.weight_ih_l1": torch.zeros(8, 4)},
        "lstm_raw.rnn.weight_ih_l1: the model has no such parameter",
    ),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_weights_that_do_not_fit_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=f"^state_dict: {message}"):
        TVQA.from_released(given)
