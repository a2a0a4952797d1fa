"""CKA of two models, layer by layer, by the names of their layers and in one pass over the data."""

import contextlib
import difflib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from modalign._checks import describe
from modalign.cka import DegenerateError, _center_

Forward = Callable[[Any, Any], object]
Features = Callable[[Any], Tensor | None]


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

        It needs the packages of the book (``pip install 'modalign[book]'``). Values below 0 are
        drawn as 0.

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
    features: Features | None = None,
) -> LayerCKA:
    """Compare every layer of a model with every layer of another, over minibatches.

    Minibatch CKA (eq-minibatch; Nguyen et al. 2021): unbiased sums of the minibatches, divided at
    the end, so that the value does not depend on how large they are. Models run in evaluation
    mode, without gradient, on the device that they are on, and are then as they were; hooks are
    removed, whatever happens. A layer's output is read as it leaves the layer, before another
    may change it in place, and compared in float32 at least, under autocast too. A layer that runs
    several times in a pass, such as a shared activation, has an entry for each, the later ones
    named ``relu#2``. PyTorch's fast path of attention, which calls no layers, is off meanwhile, and
    so is ``torch.compile`` (from PyTorch 2.6 on).

    O(n^2 D + L1 L2 n^2) time for each minibatch of n examples and D features in all, and
    O((L1 + L2) n^2) memory: no activation is kept.

    Args:
        model: any module.
        batches: minibatches of 4 examples or more, in one order for both models.
        other: the second model; the first is compared with itself by default.
        layers: names of modules, as ``model.named_modules()`` gives them (all calls of each are
            compared); by default all that have no children, run, and vary. A warning names those
            that never vary, such as a dead ReLU, or embeddings of places (one row for all).
        other_layers: of the second model; those of ``layers`` by default.
        other_batches: inputs of the second model, if it takes other ones (say, another
            modality of the same examples); the same batches by default. Both come in one order:
            loaders must not shuffle.
        forward: ``forward(model, batch)``; :func:`run` by default.
        features: ``features(output)`` gives what is compared of a module's output, a row an
            example. By default :func:`first_tensor`, all but its first dimension as features. So
            ``lambda output: first_tensor(output).transpose(0, 1)`` reads layers that have the steps
            first, and ``lambda output: first_tensor(output).mean(1)`` their mean over steps.

    Raises:
        ValueError: for no batch, a name that is not a module, a layer that does not run, gives no
            tensor of a row an example or is not finite, numbers of examples that differ or are
            below 4, layers that run in one batch and not in another, and two loaders of which one
            ends before the other or shuffles by itself.
        DegenerateError: (a ``ValueError``) for a layer that was named and never varies, or if none
            does.

    >>> net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> batches = torch.arange(48.0).sin().reshape(2, 8, 3)
    >>> found = layer_cka(net, batches, layers=["0", "2"])
    >>> found.rows, found.matrix.shape, round(float(found.matrix[0, 0]), 6)
    (('0', '2'), torch.Size([2, 2]), 1.0)

    Another model, and the mean over steps of what its layers give:

    >>> other = nn.Sequential(nn.Unflatten(1, (3, 1)), nn.GRU(1, 4, batch_first=True))
    >>> found = layer_cka(
    ...     net,
    ...     batches,
    ...     other=other,
    ...     layers=["0", "2"],
    ...     other_layers=["1"],
    ...     features=lambda output: x if (x := first_tensor(output)).dim() < 3 else x.mean(1),
    ... )
    >>> found.columns, found.matrix.shape
    (('1',), torch.Size([2, 1]))
    """
    second = model if other is None else other
    others = layers if other_layers is None else other_layers
    # one iterator read for both would give them batches by turns, and a shuffled loader two orders
    other_batches = None if other_batches is batches else other_batches
    _require_one_order(batches, other_batches)
    alone = other is None and other_batches is None and other_layers is None
    forward, features = forward or run, features or first_tensor
    sums: _Sums | None = None
    for one, another in _together(batches, other_batches):
        k = grams(model, one, layers, forward, features, "layers")
        l = k if alone else grams(second, another, others, forward, features, "other_layers")
        sums = sums or _Sums(k, l)
        sums.add(k, l)
    if sums is None:
        raise ValueError("batches: expected one minibatch or more, got none")
    return sums.found(layers is not None, others is not None)


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
        n, others = _rows(k, "layers"), _rows(l, "other_layers")
        if n != others:
            raise ValueError(
                f"batches: expected as many examples on both sides, got {n} and {others}"
            )
        if n < 4:
            raise ValueError(
                f"batches: the unbiased HSIC needs 4 examples or more, got {n}; leave a smaller "
                "last batch out (drop_last=True of a DataLoader)"
            )
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

    def found(self, *named: bool) -> LayerCKA:
        """The result; layers that were ``named``, of either model, must vary."""
        rows, columns = (own > least for own, least in zip(self.own, self.least, strict=True))
        left_out = []
        sides = ((self.rows, rows), (self.columns, columns))
        for (names, vary), strict in zip(sides, named, strict=True):
            still = ", ".join(itertools.compress(names, ~vary))
            if still and (strict or not vary.any()):
                raise DegenerateError(f"{still}: nothing varies within any minibatch")
            left_out.append(still)
        for still in filter(None, dict.fromkeys(left_out)):  # of one model on both sides once
            warnings.warn(
                f"layers: left out {still}, as nothing varies within any minibatch", stacklevel=4
            )
        norms = self.own[0].sqrt()[:, None] * self.own[1].sqrt()
        return LayerCKA(
            tuple(itertools.compress(self.rows, rows)),
            tuple(itertools.compress(self.columns, columns)),
            (self.between / norms)[rows][:, columns],
        )


def _rows(grams: Mapping[str, Tensor], argument: str) -> int:
    """How many examples there are, of which every layer of a model has a row."""
    by_rows: dict[int, list[str]] = {}
    for name, each in grams.items():
        by_rows.setdefault(len(each), []).append(name)
    if len(by_rows) > 1:
        found = "; ".join(f"{n} of {_listed(names)}" for n, names in by_rows.items())
        raise ValueError(
            f"{argument}: expected a row an example of every layer, got {found}; pass the names of "
            "those to compare, or features, which gives a row an example"
        )
    return next(iter(by_rows))


def _listed(names: Sequence[str]) -> str:
    """Some names and how many more there are: networks have thousands."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def grams(
    model: nn.Module,
    batch: Any,
    layers: Sequence[str] | None,
    forward: Forward,
    features: Features,
    argument: str,
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
        known = [*filter(None, modules)]
        close = difflib.get_close_matches(unknown[0], known, n=1) if unknown else []
        raise ValueError(
            f"{argument}: expected names of modules, each once, got {', '.join(unknown or names)}; "
            f"there are {_listed(known) or 'none'}"
            + "".join(f"; did you mean {name!r}?" for name in close)
        )
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            entry, calls = name, 1
            while entry in kept:
                calls += 1
                entry = f"{name}#{calls}"
            kept[entry] = gram(output, name, features)

        return keep

    modes = [(module, module.training) for module in model.modules()]
    hooks = [modules[name].register_forward_hook(keeper(name)) for name in names]
    model.eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # compiled again for these hooks, a network takes minutes
    eager = getattr(torch.compiler, "set_stance", lambda _: contextlib.nullcontext())
    try:
        with eager("force_eager"):
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
    sizes = {len(each) for each in kept.values()} - {1}
    if len(sizes) == 1:  # one row for all examples, as of embeddings of places, is each one's
        (n,) = sizes
        kept = {k: each if len(each) > 1 else each.new_zeros(n, n) for k, each in kept.items()}
    return kept


def gram(output: Any, name: str, features: Features) -> Tensor:
    """Products (n, n) of the centred examples of a layer's output.

    Raises:
        ValueError: for an output without a tensor of a row an example, or that is not finite.
    """
    x = features(output)
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim() or not x.numel():
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

    In tuples, lists, mappings and dataclasses; a single number, such as a loss, is none.

    >>> first_tensor({"loss": torch.ones(()), "states": (torch.ones(2, 3), torch.ones(1))}).shape
    torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.dim() else None
    parts: Iterable[Any] = ()
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, tuple | list):
        parts = output
    elif hasattr(output, "__dataclass_fields__"):
        parts = (getattr(output, field) for field in output.__dataclass_fields__)
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def _require_one_order(batches: Any, others: Any) -> None:
    """Refuse two loaders of which one draws an order that the other cannot have."""
    for loader, argument in ((batches, "batches"), (others, "other_batches")):
        sampler = loader.sampler if isinstance(loader, DataLoader) else None
        shuffles = isinstance(sampler, RandomSampler) and sampler.generator is None
        if others is not None and shuffles:
            raise ValueError(
                f"{argument}: expected examples in one order for both models, got a DataLoader "
                "that shuffles by itself; leave shuffle out, or give both loaders generators with "
                "one seed"
            )


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
