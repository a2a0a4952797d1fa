"""CKA of two models by the names of their layers."""

import dataclasses

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from modalign import layers
from modalign.cka import DegenerateError, MinibatchCKA, cka_matrix
from modalign.layers import LayerCKA, first_tensor, gram, layer_cka, run


def network(seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 3), nn.Tanh()
    )


INPUTS = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))


def outputs(net, x):
    found = []
    for layer in net:
        x = layer(x)
        found.append(x)
    return found


def test_one_batch_gives_the_debiased_matrix_of_all_layers():
    one, other = network().eval(), network(1, 9).eval()
    found = layer_cka(one, [INPUTS], other=other)
    expected = cka_matrix(outputs(one, INPUTS), outputs(other, INPUTS))
    torch.testing.assert_close(found.matrix, expected.double(), atol=1e-5, rtol=1e-5)
    assert found.rows == found.columns == ("0", "1", "2", "3", "4")


def test_several_batches_are_accumulated_as_minibatch_cka():
    one, other = network().eval(), network(1).eval()
    found = layer_cka(one, INPUTS.split(8), other=other, layers=["0", "3"], other_layers=["3"])
    for i, layer in enumerate((0, 3)):
        metric = MinibatchCKA()
        for part in INPUTS.split(8):
            metric.update(outputs(one, part)[layer], outputs(other, part)[3])
        assert float(found.matrix[i, 0]) == pytest.approx(float(metric.compute()), abs=1e-5)


def test_a_model_with_itself_is_symmetric_with_a_diagonal_of_ones():
    found = layer_cka(network(), INPUTS.split(6))
    torch.testing.assert_close(found.matrix, found.matrix.T)
    torch.testing.assert_close(found.matrix.diagonal(), torch.ones(5).double())


def test_each_layer_is_read_once_in_a_pass(monkeypatch):
    read = []
    once = layers.gram
    monkeypatch.setattr(
        layers, "gram", lambda x, name, features: read.append(name) or once(x, name, features)
    )
    layer_cka(network(), INPUTS.split(8))
    assert read == ["0", "1", "2", "3", "4"] * 3


def test_models_are_left_as_they_were_also_after_an_error():
    net = network()
    net[3].eval()
    before = [(module.training, len(module._forward_hooks)) for module in net.modules()]
    layer_cka(net, [INPUTS])
    with pytest.raises(RuntimeError):
        layer_cka(net, [torch.zeros(8, 5)])
    assert [(m.training, len(m._forward_hooks)) for m in net.modules()] == before


def test_what_a_later_layer_overwrites_in_place_is_read_before():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))
    apart = nn.Sequential(net[0], nn.ReLU())
    torch.testing.assert_close(layer_cka(net, [INPUTS]).matrix, layer_cka(apart, [INPUTS]).matrix)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(4, 5), nn.Linear(5, 5), nn.ReLU()

    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(x))))


def test_a_layer_that_runs_twice_has_two_entries():
    torch.manual_seed(0)
    assert layer_cka(Shared(), INPUTS.split(8)).rows == ("a", "relu", "b", "relu#2")


@dataclasses.dataclass
class Output:
    loss: object
    states: tuple


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.pool = nn.AdaptiveAvgPool1d(1)

    def forward(self, values, mask=None):
        states, _ = self.gru(values)
        return Output(None, (states, self.pool(states.mT)))


def test_tuples_dataclasses_and_maps_of_any_shape_and_batches_by_name():
    torch.manual_seed(0)
    batches = [{"values": torch.randn(8, t, 4), "mask": torch.ones(8, t)} for t in (3, 5)]
    found = layer_cka(Wrapped(), batches, layers=["gru", "pool", ""])
    assert found.rows == ("gru", "pool", "")
    assert float(found.matrix[0, 2]) == pytest.approx(1)


def test_a_loader_with_labels_and_two_loaders_for_two_modalities():
    labels = torch.arange(24)
    loader = DataLoader(TensorDataset(INPUTS, labels), batch_size=8)
    net = network()
    one = layer_cka(net, loader)
    torch.testing.assert_close(one.matrix, layer_cka(net, INPUTS.split(8)).matrix)
    sounds = torch.randn(24, 7, generator=torch.Generator().manual_seed(2))
    ear = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    found = layer_cka(net, loader, other=ear, other_batches=sounds.split(8))
    assert found.matrix.shape == (5, 2)
    with pytest.raises(ValueError, match="ended after 2"):
        layer_cka(net, loader, other=ear, other_batches=sounds[:16].split(8))
    with pytest.raises(ValueError, match="as many examples"):
        layer_cka(net, loader, other=ear, other_batches=sounds.split(7)[:3])


def test_the_value_hardly_depends_on_the_size_of_the_minibatches():
    net, x = network(), torch.randn(960, 4, generator=torch.Generator().manual_seed(3))
    small, large = (layer_cka(net, x.split(n), layers=["0", "3"]).matrix for n in (24, 480))
    assert float((small - large).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("changes", "batches", "message"),
    [
        ({}, [], "batches: expected one minibatch"),
        ({}, [INPUTS[:3]], "4 examples or more, got 3"),
        ({"layers": ["7"]}, [INPUTS], "layers: expected names of modules.*got 7; there are 0, 1"),
        ({"layers": []}, [INPUTS], "layers: expected names"),
        ({"layers": ["0", "0"]}, [INPUTS], "each once"),
        ({"other_layers": []}, [INPUTS], "other_layers: expected names"),
        ({"other_layers": ["x"]}, [INPUTS], "other_layers: expected names"),
        ({}, [INPUTS / 0], "0: expected finite numbers"),
    ],
)
def test_bad_input_is_named(changes, batches, message):
    with pytest.raises(ValueError, match=message):
        layer_cka(network(), batches, **changes)


class Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x):
        return self.a(x) if len(x) > 8 else self.a(x) + self.b(x)


def test_layers_that_never_vary_or_do_not_always_run_are_named():
    net = network()
    nn.init.zeros_(net[0].weight)
    with pytest.raises(DegenerateError, match="0, 1, 2, 3, 4: nothing varies"):
        layer_cka(net, [INPUTS])
    with pytest.raises(DegenerateError, match="0: nothing varies"):
        layer_cka(net, [INPUTS], layers=["0"], other=network())
    with pytest.raises(ValueError, match="expected a, b to run in every batch, got a"):
        layer_cka(Sometimes(), [INPUTS[:8], INPUTS[8:]])
    with pytest.raises(ValueError, match="tensor of a row an example"):
        layer_cka(nn.Sequential(nn.Flatten(0)), [torch.ones(8, 2).long()])


def test_of_all_layers_those_that_never_vary_are_left_out_and_named():
    dead = nn.Sequential(*network(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(3, 3))
    dead.forward = lambda x: (dead[6](dead[5](z := dead[:5](x))), dead[7](z))
    nn.init.constant_(dead[5].bias, -100)
    with pytest.warns(UserWarning, match="left out 6, as nothing varies") as told:
        found = layer_cka(dead, INPUTS.split(8))
    assert [each.filename for each in told] == [__file__]  # once, at the call
    assert found.rows == found.columns == ("0", "1", "2", "3", "4", "5", "7")
    torch.testing.assert_close(found.matrix.diagonal(), torch.ones(7).double())
    with pytest.warns(UserWarning, match="left out 6"):
        other = layer_cka(network(1), INPUTS.split(8), other=dead)
    assert other.rows == ("0", "1", "2", "3", "4")
    assert other.columns == found.columns
    with pytest.raises(DegenerateError, match="^6: nothing varies"):
        layer_cka(dead, INPUTS.split(8), layers=["5", "6"])


class Positions(nn.Module):
    """As BERT, it has one row for all examples, and as Swin a row a window."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Linear(4, 5), nn.Embedding(3, 5)
        self.window = nn.Identity()

    def forward(self, x):
        x = self.tokens(x[:, None]) + self.places(torch.arange(3)[None])
        return self.window(x.flatten(0, 1)).view_as(x)


def test_a_row_for_all_examples_does_not_vary():
    layers = ["tokens", "places", ""]
    model = Positions()
    model.window = None
    model.forward = lambda x: model.tokens(x[:, None]) + model.places(torch.arange(3)[None])
    with pytest.warns(UserWarning, match="left out places, as nothing varies"):
        assert layer_cka(model, [INPUTS]).rows == ("tokens",)
    with pytest.raises(DegenerateError, match="^places: nothing varies"):
        layer_cka(model, [INPUTS], layers=layers)


def test_layers_with_other_rows_than_examples_are_named():
    with pytest.raises(ValueError, match="of every layer, got 24 of tokens; 1 of places; 72"):
        layer_cka(Positions(), [INPUTS], layers=["tokens", "places", "window"])
    assert layer_cka(Positions(), [INPUTS], layers=["tokens", ""]).rows == ("tokens", "")


def test_features_say_what_is_compared():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8)  # the steps first
    steps = torch.randn(24, 3, 4)
    apart = layer_cka(layer, [steps.transpose(0, 1)], features=lambda z: z.transpose(0, 1))
    first = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    first.load_state_dict(layer.state_dict())
    torch.testing.assert_close(apart.matrix, layer_cka(first, [steps]).matrix)
    pooled = layer_cka(first, [steps], features=lambda z: first_tensor(z).mean(1))
    assert float((pooled.matrix - apart.matrix).abs().max()) > 0.01
    with pytest.raises(ValueError, match="linear1: expected a tensor of a row an example"):
        layer_cka(first, [steps], features=lambda z: None, layers=["linear1"])


def test_a_loss_before_the_states_is_no_layer_of_features():
    states = torch.randn(8, 3)
    assert first_tensor({"loss": states.sum(), "states": (states,)}) is states
    assert first_tensor(states.sum()) is None


def test_both_models_see_the_same_examples():
    net, ear = network(), network(1)
    known = layer_cka(net, INPUTS.split(8), other=ear).matrix
    batches = iter(INPUTS.split(8))
    found = layer_cka(net, batches, other=ear, other_batches=batches).matrix
    torch.testing.assert_close(found, known)
    data = TensorDataset(INPUTS)
    loader = DataLoader(data, 24, shuffle=True)
    found = layer_cka(net, loader, other=ear, other_batches=loader).matrix
    torch.testing.assert_close(found, layer_cka(net, [INPUTS], other=ear).matrix)
    for one, two, argument in ((loader, [INPUTS], "batches"), ([INPUTS], loader, "other_batches")):
        with pytest.raises(ValueError, match=f"^{argument}: expected examples in one order"):
            layer_cka(net, one, other=ear, other_batches=two)
    seeded = [
        DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(0)) for _ in "ab"
    ]
    layer_cka(net, seeded[0], other=ear, other_batches=seeded[1])


def test_of_many_names_the_closest_is_told():
    deep = nn.Sequential(*[nn.Identity() for _ in range(30)], nn.ModuleDict({"head": nn.ReLU()}))
    with pytest.raises(ValueError, match="0, 1, .*, 19 and 12 more; did you mean '30.head'"):
        layer_cka(deep, [INPUTS], layers=["30.heads"])


class Idle(Sometimes):
    def forward(self, x):
        return self.a(x)


def test_a_layer_that_is_asked_for_and_never_runs_is_named():
    assert layer_cka(Idle(), [INPUTS]).rows == ("a",)
    with pytest.raises(ValueError, match="layers: expected layers that run, .* called none of b"):
        layer_cka(Idle(), [INPUTS], layers=["a", "b"])
    with pytest.raises(ValueError, match="other_layers: expected layers that run, .* none of b"):
        layer_cka(Idle(), [INPUTS], layers=["a"], other_layers=["b"])
    with pytest.raises(ValueError, match="layers: expected layers that run, .* none of a, b"):
        layer_cka(Idle(), [INPUTS], forward=lambda model, x: x)


def test_a_module_that_was_compiled_and_run_before_is_read():
    net, graphs = network(), []
    compiled = torch.compile(net, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    compiled(INPUTS)
    before = len(graphs)
    found, known = layer_cka(compiled, [INPUTS]), layer_cka(net, [INPUTS])
    if hasattr(torch.compiler, "set_stance"):  # it came with PyTorch 2.6
        assert len(graphs) == before > 0, "compiled again for the hooks"
    assert found.rows == tuple(f"_orig_mod.{name}" for name in known.rows)
    torch.testing.assert_close(found.matrix, known.matrix)


class Encoder(nn.Module):
    """PyTorch's, which in evaluation passes by its layers, and takes padding out."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        steps = x[:, None] * torch.tensor([1.0, 0.5, 0.0])[:, None]
        padding = torch.arange(3) > torch.arange(len(x))[:, None] % 3
        return self.encoder(steps, src_key_padding_mask=padding)


def test_every_layer_of_pytorchs_transformers_is_read():
    fast = torch.backends.mha.get_fastpath_enabled()
    model = Encoder()
    found = layer_cka(model, [INPUTS])
    run = [f"encoder.layers.{k}.{name}" for k in range(2) for name in ("linear1", "norm1", "norm2")]
    assert set(run) <= set(found.rows)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    layers = ["encoder.layers.0", "encoder"]
    assert layer_cka(model, [INPUTS], layers=layers).rows == tuple(layers)


def test_autocast_does_not_round_what_is_compared():
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(4))
    known = gram(x, "x", first_tensor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gram(x, "x", first_tensor), known)


def test_the_drawing_names_the_layers():
    ax = plt.figure().subplots()
    LayerCKA(("conv", "head"), ("a", "b"), torch.tensor([[1.0, -0.1], [0.2, 0.9]])).draw(ax)
    assert [each.get_text() for each in ax.get_yticklabels()] == ["conv", "head"]
    assert [each.get_text() for each in ax.get_xticklabels()] == ["a", "b"]
    plt.close("all")


def test_run_takes_the_first_of_a_tuple():
    assert run(lambda x: x + 1, [1, 2]) == 2
