"""CKA of two models, layer by layer, by the names of their layers and in one pass over the data."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modalign._checks import describe
from modalign.cka import DegenerateError, _center_

Forward = Callable[[Any, Any], object]


class LayerCKA(NamedTuple):
    """How alike layers are: ``matrix[i, j]`` is the CKA of row i with column j.

    Attributes:
        rows: names of the first model's layers, in the order in which they ran.
        columns: of the other's.
        matrix: (rows, columns), float64 on the CPU; minibatch CKA, which may be below zero.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: Tensor

    def draw(self, ax: Any) -> None:
        """Draw the matrix on axes of matplotlib, with the names of the layers.

        >>> import matplotlib.pyplot as plt
        >>> LayerCKA(("0", "1"), ("0", "1"), torch.eye(2)).draw(plt.figure().subplots())
        """
        from modalign import plots

        plots.heatmap(ax, self.matrix.clamp(0, 1))
        ax.set_xticks(ax.get_xticks(), self.columns, rotation=90)
        ax.set_yticks(ax.get_yticks(), self.rows, rotation=0)


def run(model: Any, batch: Any) -> object:
    """Call a model on a batch as loaders give them.

    Named tensors are passed by name; of a tuple or list the first entry alone, since loaders put
    labels after it.

    >>> run(torch.neg, (torch.ones(2), torch.tensor([0, 1])))
    tensor([-1., -1.])
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


@torch.no_grad()
def layer_cka(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    other: nn.Module | None = None,
    layers: Sequence[str] | None = None,
    other_layers: Sequence[str] | None = None,
    other_batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
) -> LayerCKA:
    """Compare every layer of a model with every layer of another, over minibatches.

    Minibatch CKA (eq-minibatch; Nguyen et al. 2021): unbiased sums of the minibatches, divided at
    the end, so that the value does not depend on how large they are. Models run in evaluation
    mode, without gradient, on the device that they are on, and are then as they were; hooks are
    removed, whatever happens. A layer's output is read as it leaves the layer, before another
    may change it in place, and compared in float32 at least, under autocast too. A layer that runs
    several times in a pass, such as a shared activation, has an entry for each, the later ones
    named ``relu#2``. PyTorch's fast path of attention, which calls no layers, is off meanwhile.

    O(n^2 D + L1 L2 n^2) time for each minibatch of n examples and D features in all, and
    O((L1 + L2) n^2) memory: no activation is kept.

    Args:
        model: any module.
        batches: minibatches of 4 examples or more, in one order for both models.
        other: the second model; the first is compared with itself by default.
        layers: names of modules, as ``model.named_modules()`` gives them; by default all that have
            no children, and run. If a module gives a tuple, a mapping or a dataclass (as
            transformers do), its first tensor is taken, and of a tensor all but the first dimension
            as features.
        other_layers: of the second model; those of ``layers`` by default.
        other_batches: inputs of the second model, if it takes other ones (say, another
            modality of the same examples); the same batches by default.
        forward: ``forward(model, batch)``; :func:`run` by default.

    Raises:
        ValueError: for no batch, a name that is not a module, a layer that does not run, gives no
            tensor of a row an example or is not finite, numbers of examples that differ or are
            below 4, layers that run in one batch and not in another, and loaders of which one
            ends before the other.
        DegenerateError: (a ``ValueError``) for a layer that never varies.

    >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> batches = torch.arange(48.0).sin().reshape(2, 8, 3)
    >>> found = layer_cka(net, batches, layers=["0", "2"])
    >>> found.rows, found.matrix.shape, round(float(found.matrix[0, 0]), 6)
    (('0', '2'), torch.Size([2, 2]), 1.0)
    """
    second = model if other is None else other
    others = layers if other_layers is None else other_layers
    alone = other is None and other_batches is None and other_layers is None
    forward = forward or run
    sums: _Sums | None = None
    for one, another in _together(batches, other_batches):
        k = grams(model, one, layers, forward, "layers")
        l = k if alone else grams(second, another, others, forward, "other_layers")
        sums = sums or _Sums(k, l)
        sums.add(k, l)
    if sums is None:
        raise ValueError("batches: expected one minibatch or more, got none")
    return sums.found()


class _Sums:
    """Sums over minibatches of the unbiased HSIC of every row with every column (eq-minibatch)."""

    def __init__(self, k: Mapping[str, Tensor], l: Mapping[str, Tensor]) -> None:
        self.rows, self.columns = tuple(k), tuple(l)
        self.between = torch.zeros(len(k), len(l), dtype=torch.float64)
        self.own = [torch.zeros(len(each), dtype=torch.float64) for each in (k, l)]
        # the size that rounding alone may leave in a layer that does not vary
        self.least = [torch.zeros(len(each), dtype=torch.float64) for each in (k, l)]

    def add(self, k: Mapping[str, Tensor], l: Mapping[str, Tensor]) -> None:
        for had, got in ((self.rows, k), (self.columns, l)):
            if had != tuple(got):
                raise ValueError(
                    f"layers: expected {', '.join(had)} to run in every batch, got "
                    f"{', '.join(got) or 'none'}"
                )
        sizes = {len(each) for each in (*k.values(), *l.values())}
        if len(sizes) > 1:
            raise ValueError(f"batches: expected as many examples on both sides, got {sizes}")
        (n,) = sizes
        if n < 4:
            raise ValueError(f"batches: the unbiased HSIC needs 4 examples or more, got {n}")
        weight = n / (n * (n - 3))  # n_b / n_b (n_b - 3): eq-minibatch, eq-unbiased
        both = []
        for side, grams in enumerate((k, l)):
            stacked = torch.stack([*grams.values()])
            size = stacked.square().sum((1, 2))
            centred = _center_(stacked.clone(), True).flatten(1)
            self.own[side] += weight * centred.square().sum(1).cpu()
            self.least[side] += weight * size.cpu() * 64 * n * torch.finfo(torch.float32).eps ** 2
            both.append(centred)
        self.between += weight * (both[0] @ both[1].to(both[0].device).T).cpu()

    def found(self) -> LayerCKA:
        for names, own, least in zip((self.rows, self.columns), self.own, self.least, strict=True):
            for name, varies in zip(names, own > least, strict=True):
                if not varies:
                    raise DegenerateError(f"{name}: nothing varies within any minibatch")
        norms = self.own[0].sqrt()[:, None] * self.own[1].sqrt()
        return LayerCKA(self.rows, self.columns, self.between / norms)


def grams(
    model: nn.Module, batch: Any, layers: Sequence[str] | None, forward: Forward, argument: str
) -> dict[str, Tensor]:
    """The Gram matrix of each layer's output in one pass, by the layer's name.

    Raises:
        ValueError: for a name that is not a module of the model, or twice; see :func:`layer_cka`.
    """
    modules = dict(model.named_modules())
    leaves = [name for name, module in modules.items() if not [*module.children()]]
    names = leaves if layers is None else [*layers]
    unknown = [name for name in names if name not in modules]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(
            f"{argument}: expected names of modules, each once, got {', '.join(unknown or names)}; "
            f"there are {', '.join(filter(None, modules)) or 'none'}"
        )
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            entry, calls = name, 1
            while entry in kept:
                calls += 1
                entry = f"{name}#{calls}"
            kept[entry] = gram(output, name)

        return keep

    modes = [(module, module.training) for module in model.modules()]
    hooks = [modules[name].register_forward_hook(keeper(name)) for name in names]
    model.eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        forward(model, _moved(batch, model))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    idle = [name for name in names if name not in kept]
    if idle and (layers is not None or not kept):
        raise ValueError(
            f"{argument}: expected layers that run, but forward called none of {', '.join(idle)}"
        )
    return kept


def gram(output: Any, name: str) -> Tensor:
    """Products (n, n) of the centred examples of a layer's output.

    Raises:
        ValueError: for an output without a tensor of a row an example, or that is not finite.
    """
    x = first_tensor(output)
    if x is None or x.dim() < 1 or not x.numel():
        raise ValueError(f"{name}: expected a tensor of a row an example, got {describe(output)}")
    x = x.detach().flatten(1) if x.dim() > 1 else x.detach()[:, None]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not torch.isfinite(x).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    # features that are the same in every row are then zero to the last digit
    x = x - x[0]
    x = x - x.mean(0)
    with torch.autocast(x.device.type, enabled=False):  # that of the model, within which hooks run
        product = x @ x.T
    return product if product.device.type == "mps" else product.double()  # MPS has no float64


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor of floating-point numbers in what a module gave, however it is wrapped.

    >>> first_tensor({"loss": None, "states": (torch.ones(2, 3), torch.ones(1))}).shape
    torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts: Iterable[Any] = ()
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, tuple | list):
        parts = output
    elif hasattr(output, "__dataclass_fields__"):
        parts = (getattr(output, field) for field in output.__dataclass_fields__)
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def _together(batches: Iterable[Any], others: Iterable[Any] | None) -> Iterator[tuple[Any, Any]]:
    if others is None:
        yield from ((batch, batch) for batch in batches)
        return
    ended = object()
    for number, pair in enumerate(itertools.zip_longest(batches, others, fillvalue=ended)):
        if any(each is ended for each in pair):
            raise ValueError(
                "other_batches: expected as many as there are of the first model's, but one of the "
                f"two ended after {number}"
            )
        yield pair


def _moved(batch: Any, model: nn.Module) -> Any:
    """A batch with its tensors on the device of a model."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    if first is None:
        return batch
    if isinstance(batch, Tensor):
        return batch.to(first.device)
    if isinstance(batch, Mapping):
        return {name: _moved(each, model) for name, each in batch.items()}
    if isinstance(batch, tuple | list):
        return [_moved(each, model) for each in batch]
    return batch
