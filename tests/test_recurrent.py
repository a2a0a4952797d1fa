"""The layer-normalised LSTM of padded and packed sequences, in two directions, with dropout.

Its equations, shapes and numerics are in ``test_normalization.py``.
"""

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from modalign.normalization import LayerNormLSTM
from tests import _asserts as asserts
from tests import _inputs as inputs
from tests._inputs import NAN

LENGTHS = torch.tensor([5, 2, 1, 5, 3])
KINDS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
}
every_kind = inputs.each("options", KINDS)


def draw(t=5, b=5, i=3, seed=0):
    return inputs.draw(t, b, i, seed=seed, dtype=torch.float64)


def make(options, seed=0):
    """A module whose norms are not the identity."""
    lstm = LayerNormLSTM(3, 6, **options).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in lstm.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.3 * noise
    return lstm


def without_norms(lstm):
    """The same module with norms that only shift, as biases do, and none of the cell."""

    class Shift(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.bias = norm.bias

        def forward(self, x):
            return x + self.bias

    for row in range(len(lstm.norm_cell)):
        lstm.norm_ih[row], lstm.norm_hh[row] = Shift(lstm.norm_ih[row]), Shift(lstm.norm_hh[row])
        lstm.norm_cell[row] = nn.Identity()
    return lstm


def before(lstm, b=5, seed=2):
    rows = lstm.num_layers * (1 + lstm.bidirectional)
    return tuple(inputs.draw(2, rows, b, 6, seed=seed, dtype=torch.float64))


def padded_by(x, value):
    return torch.where((torch.arange(len(x))[:, None] < LENGTHS)[..., None], x, value)


def one_by_one(lstm, x, lengths, hx):
    """Each sequence alone, without its padding."""
    width = lstm.hidden_size * (1 + lstm.bidirectional)
    output, ends = x.new_zeros(*x.shape[:2], width), []
    for b, n in enumerate(lengths.tolist()):
        state = tuple(z[:, b : b + 1].contiguous() for z in hx)
        if n:
            output[:n, b : b + 1], state = lstm(x[:n, b : b + 1], state)
        ends.append(state)
    return output, tuple(torch.cat(each, 1) for each in zip(*ends, strict=True))


@every_kind
def test_padded_sequences_are_each_sequence_alone(options):
    lstm, x = make(options), padded_by(draw(), NAN)
    hx = before(lstm)
    torch.testing.assert_close(lstm(x, hx, LENGTHS), one_by_one(lstm, x, LENGTHS, hx))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.sampled_from(list(KINDS)))
def test_any_lengths_are_each_sequence_alone(lengths, kind):
    """A sequence without a step keeps the state it came with."""
    lstm, lengths, x = make(KINDS[kind]), torch.tensor(lengths), draw(b=len(lengths))
    hx = before(lstm, len(lengths))
    found, state = lstm(x, hx, lengths)
    torch.testing.assert_close((found, state), one_by_one(lstm, x, lengths, hx))
    for b in torch.nonzero(lengths == 0)[:, 0]:
        for after, given_before in zip(state, hx, strict=True):
            assert torch.equal(after[:, b], given_before[:, b])


@every_kind
def test_lengths_that_leave_nothing_out_change_nothing(options):
    lstm, x = make(options), draw()
    torch.testing.assert_close(lstm(x, None, torch.tensor([5] * 5)), lstm(x), rtol=0, atol=0)


@every_kind
def test_gradients_are_those_of_each_sequence_alone(options):
    lstm, x = make(options), padded_by(draw(), NAN).requires_grad_()
    hx, found = before(lstm), []
    for run in (lstm, functools.partial(one_by_one, lstm)):
        arguments = (x, hx, LENGTHS) if run is lstm else (x, LENGTHS, hx)
        output, (h, c) = run(*arguments)
        loss = asserts.weighted([output, h, c])
        found.append(torch.autograd.grad(loss, [x, *lstm.parameters()]))
    torch.testing.assert_close(*found)
    assert not found[0][0][3:, 1].any()


@every_kind
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_in_is_packed_out(options, batch_first, enforce_sorted):
    lengths = LENGTHS.sort(descending=True).values if enforce_sorted else LENGTHS
    lstm = make({**options, "batch_first": batch_first})
    x, hx = draw(), before(lstm)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    found, state = lstm(packed, hx)
    given_x = x.transpose(0, 1) if batch_first else x
    expected, expected_state = lstm(given_x, hx, lengths)
    assert isinstance(found, PackedSequence)
    output, found_lengths = pad_packed_sequence(found, batch_first=batch_first)
    torch.testing.assert_close((output, state), (expected, expected_state))
    assert torch.equal(found_lengths, lengths)
    like, _ = nn.LSTM(3, 6, **{**options, "batch_first": batch_first}).double()(packed)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        one, other = getattr(found, name), getattr(like, name)
        assert (one is None and other is None) or torch.equal(one, other)
    assert found.data.shape == like.data.shape


def test_packed_sequences_carry_gradients():
    lstm, x = make(KINDS["two layers, both directions"]), draw().requires_grad_()
    found = lstm(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))[0].data
    gradient = torch.autograd.grad(found.square().sum(), x, retain_graph=True)[0]
    padded = lstm(x, None, LENGTHS)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(padded.square().sum(), x)[0])
    assert gradient[0].abs().min() > 0


@pytest.mark.parametrize("layers", [1, 2])
def test_the_second_direction_is_the_first_on_sequences_that_are_turned(layers):
    """With each direction's weights in a module of its own; one layer at a time."""
    both = make({"num_layers": layers, "bidirectional": True})
    output, hx = draw(), before(both)
    expected, (h, c) = both(output, hx)
    for layer in range(layers):
        halves = []
        for way, name in enumerate(("", "_reverse")):
            row = 2 * layer + way
            one = LayerNormLSTM(output.shape[2], 6).double()
            for kind in ("ih", "hh"):
                getattr(one, f"weight_{kind}_l0").data = getattr(
                    both, f"weight_{kind}_l{layer}{name}"
                ).data
            for kind in ("norm_ih", "norm_hh", "norm_cell"):
                getattr(one, kind)[0] = getattr(both, kind)[row]
            x = output.flip(0) if way else output
            half, (h_n, c_n) = one(x, (hx[0][row : row + 1], hx[1][row : row + 1]))
            halves.append(half.flip(0) if way else half)
            torch.testing.assert_close((h[row], c[row]), (h_n[0], c_n[0]))
        output = torch.cat(halves, -1)
    torch.testing.assert_close(output, expected)


@every_kind
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_with_weights_of_an_lstm_and_no_norms_it_is_that_lstm(options, bias, batch_first):
    theirs = nn.LSTM(3, 6, bias=bias, batch_first=batch_first, **options).double()
    ours = without_norms(LayerNormLSTM.from_lstm(theirs))
    x, hx = draw(), before(theirs)
    torch.testing.assert_close(ours(x, hx), theirs(x, hx))
    packed = pack_padded_sequence(x, LENGTHS, batch_first=batch_first, enforce_sorted=False)
    (found, state), (expected, expected_state) = ours(packed, hx), theirs(packed, hx)
    torch.testing.assert_close((found.data, state), (expected.data, expected_state))


def test_what_has_no_counterpart_starts_as_in_a_new_module():
    theirs = nn.LSTM(3, 6, 2, bidirectional=True, dropout=0.3).half().eval()
    drawn = torch.get_rng_state()
    ours = LayerNormLSTM.from_lstm(theirs, eps=1e-3)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (ours.dropout, ours.training) == (0.3, False)
    assert {z.dtype for z in ours.parameters()} == {torch.float16}
    for row in range(4):
        name = f"l{row // 2}{'_reverse' if row % 2 else ''}"
        for kind in ("ih", "hh"):
            assert torch.equal(getattr(ours, f"weight_{kind}_{name}"),
                               getattr(theirs, f"weight_{kind}_{name}"))  # fmt: skip
            norm = getattr(ours, f"norm_{kind}")[row]
            assert torch.equal(norm.bias, getattr(theirs, f"bias_{kind}_{name}"))
            assert bool((norm.weight == 1).all())
            assert norm.eps == 1e-3
        assert bool((ours.norm_cell[row].weight == 1).all())
        assert not ours.norm_cell[row].bias.any()
    ours.weight_ih_l0.data += 1  # a copy, not the same memory
    assert not torch.equal(ours.weight_ih_l0, theirs.weight_ih_l0)


@pytest.mark.parametrize(
    ("lstm", "error", "message"),
    [
        (nn.GRU(3, 6), TypeError, r"lstm: expected nn.LSTM, got GRU"),
        (nn.LSTM(3, 6, proj_size=2), ValueError, r"lstm: expected no projection, .*proj_size=2"),
    ],
)
def test_other_modules_are_refused(lstm, error, message):
    with pytest.raises(error, match=message):
        LayerNormLSTM.from_lstm(lstm)


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_dropout_of_a_single_layer_is_none():
    assert LayerNormLSTM.from_lstm(nn.LSTM(3, 6, dropout=0.3)).dropout == 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_is_that_of_an_lstm_to_the_last_draw(bidirectional):
    """Between layers, in training only, and not after the last one."""
    theirs = nn.LSTM(3, 6, 3, dropout=0.5, bidirectional=bidirectional).double()
    ours = without_norms(LayerNormLSTM.from_lstm(theirs))
    found = []
    for training in (True, False):
        for lstm in (ours, theirs):
            torch.manual_seed(1)
            found.append(lstm.train(training)(draw())[0])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])
    assert (found[0] - found[2]).abs().max() > 1e-3
    assert bool((found[0] != 0).all())  # none of the last layer's


def test_dropout_of_everything_leaves_the_second_layer_without_input():
    lstm = make({"num_layers": 2, "dropout": 1.0})
    torch.testing.assert_close(lstm(draw(), None, LENGTHS)[0][0, :1].expand(5, 6),
                               lstm(draw(seed=1))[0][0])  # fmt: skip


def test_weights_are_drawn_as_those_of_an_lstm():
    torch.manual_seed(4)
    ours = LayerNormLSTM(3, 6, 2, bidirectional=True)
    torch.manual_seed(4)
    theirs = nn.LSTM(3, 6, 2, bias=False, bidirectional=True)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@every_kind
def test_the_state_comes_back(options):
    asserts.comes_back(make(options), LayerNormLSTM(3, 6, **options).double(), draw())


@pytest.mark.usefixtures("compiler")
def test_compiled_with_lengths():
    lstm = make(KINDS["both directions"])
    expected = copy.deepcopy(lstm)(draw(), None, LENGTHS)
    compiled = torch.compile(lstm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(draw(), None, LENGTHS), expected)


def test_one_sequence_in_both_directions():
    lstm, x = make(KINDS["two layers, both directions"]), draw()
    found, (h, c) = lstm(x[:, 0])
    expected, (expected_h, expected_c) = lstm(x[:, :1])
    torch.testing.assert_close(found, expected[:, 0])
    torch.testing.assert_close((h, c), (expected_h[:, 0], expected_c[:, 0]))


def test_what_it_says_of_itself():
    assert repr(LayerNormLSTM(3, 6)).startswith("LayerNormLSTM(\n  3, 6, num_layers=1\n")
    told = LayerNormLSTM(3, 6, 2, batch_first=True, dropout=0.5, bidirectional=True).extra_repr()
    assert told == "3, 6, num_layers=2, batch_first=True, dropout=0.5, bidirectional=True"


PACKED = pack_padded_sequence(draw(), LENGTHS, enforce_sorted=False)
REFUSED = {
    "too long": ((draw(), None, LENGTHS + 1), r"lengths: expected 0 to 5 steps, got 6 in seq"),
    "negative": ((draw(), None, LENGTHS - 2), r"lengths: .*got -1 in sequence 2"),
    "of others": ((draw(), None, LENGTHS[:3]), r"lengths: expected one for each of 5 .*int64 \(3,"),
    "of one": ((draw()[:, 0], None, LENGTHS), r"lengths: expected a batch, got int64 \(5,\)"),
    "fractions": ((draw(), None, LENGTHS / 2), r"lengths: .*Int.*float32"),
    "a mask": ((draw(), None, draw()[..., 0] > 0), r"lengths: .*Int.*got bool"),
    "twice": ((PACKED, None, LENGTHS), "lengths: expected none, as a PackedSequence has its own"),
    "packed of another type": (
        (pack_padded_sequence(draw().float(), LENGTHS, enforce_sorted=False),),
        "x: expected float64, as the weights, got float32",
    ),
    "packed of other features": (
        (pack_padded_sequence(draw(i=2), LENGTHS, enforce_sorted=False),),
        "x: .*3 features a step",
    ),
    "states of one direction": (
        (draw(), tuple(draw(2, 2, 5)[:, :1].expand(2, 5, 5))),
        r"hx: expected h of shape \(2, 5, 6\)",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(KINDS["both directions"])(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.5}, "dropout: expected 0 with num_layers=1"),
        ({"dropout": 1.5, "num_layers": 2}, "dropout: expected a rate from 0 to 1, got 1.5"),
        ({"dropout": NAN, "num_layers": 2}, "dropout: expected a rate from 0 to 1, got nan"),
        ({"bidirectional": 2}, "bidirectional: expected bool, got int 2"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LayerNormLSTM(3, 6, **options)
