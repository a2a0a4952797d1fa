"""Layer-wise adaptive rate scaling (LARS): every tensor moves by the same share of its norm.

Equation numbers are those of the chapter "Pace and scale", which derives each line below.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from modalign._checks import checked, require_choice


class LARS(torch.optim.Optimizer):
    r"""Adam's or the gradient's direction, with steps of eta times the norm of each tensor.

    Equation 4 of Wang et al. (2020), after You et al. (2017): a tensor w with direction u moves by
    ``eta |w| u / |u|`` (eq. 2), so one learning rate sets the pace of all. Biases and parameters of
    normalisation are scaled like the rest. Where w or u is zero the step is ``eta u`` (eq. 5), so
    what starts at zero moves too. With ``direction="adam"`` u is Adam's bias-corrected step (eq.
    3), and the method is LAMB (You et al. 2020) without weight decay, clipping or bounds on the
    ratio.

    Scaling gradients *before* Adam would do nothing, as Adam takes any scale out again.

    A gradient that is not finite makes its own tensor not finite, as with Adam, and leaves the
    others alone; ``torch.amp.GradScaler`` skips such steps. Batched over tensors
    (``torch._foreach_*``): O(n) time for n parameters, and memory for 2 n numbers of state with
    ``"adam"``, n with momentum, none otherwise.

    Args:
        params: tensors, or groups of them with settings of their own: ``lr``, and ``betas`` and
            ``eps`` or ``momentum``.
        lr: eta, the share of its norm by which a tensor moves (paper: 0.007).
        direction: ``"adam"`` (the paper's) or ``"sgd"``, the gradient (equation 4 as printed).
        betas: decay of Adam's two averages (PyTorch's defaults; the paper gives none).
        eps: added to the root of Adam's second average.
        momentum: with ``"sgd"``, u <- momentum u + gradient, as in ``torch.optim.SGD``.
        weight_decay: only 0 is accepted.

    Raises:
        ValueError: for a setting out of range, another ``direction`` in a group, a
            ``weight_decay`` above 0, and no parameters.
        TypeError: where an argument is of another type altogether; for complex parameters.
        RuntimeError: from ``step``, for a sparse gradient.

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> w.grad = torch.tensor([1e-3, 0.0])
    >>> LARS([w], lr=0.1, direction="sgd").step()  # by a tenth of 5
    >>> w
    Parameter containing:
    tensor([2.5000, 4.0000], requires_grad=True)
    """

    @checked
    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.007,
        *,
        direction: str = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        require_choice(direction, ("adam", "sgd"), "direction")
        _require_settings({"weight_decay": weight_decay})
        of_direction = {"betas": betas, "eps": eps} if direction == "adam" else {}
        if direction == "sgd":
            of_direction = {"momentum": momentum}
        elif momentum:
            raise ValueError(
                f'momentum: expected 0 with direction="adam", got {momentum}; Adam\'s is betas[0]'
            )
        super().__init__(params, {"lr": lr, "direction": direction, **of_direction})
        self._ratios: list[tuple[list[Tensor], Tensor]] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._ratios = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add tensors with settings of their own, as of ``torch.optim.Optimizer``."""
        settings = {**self.defaults, **param_group}
        if settings["direction"] != self.defaults["direction"]:
            expected = f"{self.defaults['direction']!r} in every group"
            raise ValueError(f"direction: expected {expected}, got {settings['direction']!r}")
        _require_settings(settings)
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if not parameter.is_floating_point():
                raise TypeError(f"params: expected real numbers, got {parameter.dtype}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: computes the loss and its gradients again; its loss is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._ratios = []
        for group in self.param_groups:
            for params in _alike(group["params"]):
                self._step(params, group)
        return loss

    def trust_ratios(self) -> dict[Tensor, float]:
        """Return ``|w| / |u|`` of every tensor that the last step moved; 1 where a norm was 0."""
        return {
            parameter: ratio
            for params, ratios in self._ratios
            for parameter, ratio in zip(params, ratios.tolist(), strict=True)
        }

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        u, scales = (self._adam if group["direction"] == "adam" else self._sgd)(params, group)
        wide = torch.float32 if params[0].dtype.itemsize < 4 else None
        w_norm = torch.stack(torch._foreach_norm(params, 2, wide))
        u_norm = torch.stack(torch._foreach_norm(u, 2, wide))
        scale = torch.tensor(scales, dtype=w_norm.dtype).to(w_norm.device, non_blocking=True)
        # u is to be multiplied by its scale: what divides by its norm takes that out again
        rates = torch.where((w_norm > 0) & (u_norm > 0), w_norm / u_norm, scale)
        self._ratios.append((params, rates / scale))
        torch._foreach_addcmul_(params, u, list(rates.unbind()), -group["lr"])  # eq. 2 and 5

    def _adam(
        self, params: list[Tensor], group: dict[str, Any]
    ) -> tuple[list[Tensor], list[float]]:
        """Adam's steps (eq. 3), and the numbers that each is to be multiplied by."""
        (beta1, beta2), states = group["betas"], [self.state[each] for each in params]
        for parameter, state in zip(params, states, strict=True):
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
        grads = [_gradient(parameter) for parameter in params]
        m, v = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        corrections = [(1 - beta2 ** state["step"]) ** 0.5 for state in states]
        roots = list(torch._foreach_sqrt(v))
        torch._foreach_add_(roots, [group["eps"] * each for each in corrections])
        scales = [
            each / (1 - beta1 ** state["step"])
            for each, state in zip(corrections, states, strict=True)
        ]
        torch._foreach_reciprocal_(roots)
        torch._foreach_mul_(roots, m)
        return roots, scales

    def _sgd(self, params: list[Tensor], group: dict[str, Any]) -> tuple[list[Tensor], list[float]]:
        """The gradients, or their sums with momentum."""
        u = grads = [_gradient(parameter) for parameter in params]
        if group["momentum"]:
            for parameter in params:
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            u = [self.state[parameter]["momentum_buffer"] for parameter in params]
            torch._foreach_mul_(u, group["momentum"])
            torch._foreach_add_(u, grads)
        return u, [1.0] * len(params)


def _alike(params: list[Tensor]) -> Iterable[list[Tensor]]:
    """Those with a gradient, in lists of one device and dtype; on the CPU of a cache's size."""
    lists: dict[tuple[torch.device, torch.dtype, int], list[Tensor]] = {}
    before = 0
    for parameter in params:
        if parameter.grad is not None:
            block = before // 2**19 if parameter.device.type == "cpu" else 0
            lists.setdefault((parameter.device, parameter.dtype, block), []).append(parameter)
            before += parameter.numel()
    return lists.values()


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout != torch.strided:
        raise RuntimeError(
            "params: LARS needs the norm of a dense gradient, got a sparse one; pass sparse=False "
            "to the embedding, or give its weight to torch.optim.SparseAdam"
        )
    return gradient


def _require_settings(settings: dict[str, Any]) -> None:
    """Refuse settings of the optimiser or of a group that are out of range."""
    if settings.get("weight_decay"):
        raise ValueError(
            f"weight_decay: expected 0, got {settings['weight_decay']}; a step has norm lr |w| "
            "whatever is added to its direction, so decay would only turn it. Add a penalty to the "
            "loss, or multiply weights by 1 - lr * weight_decay after step()"
        )
    ranges = [("lr", 0.0, float("inf")), ("eps", 0.0, float("inf")), ("momentum", 0.0, 1.0)]
    for name, low, high in ranges:
        if name in settings and not low <= settings[name] < high:
            raise ValueError(
                f"{name}: expected a number from 0, below {high}, got {settings[name]}"
            )
    for i, beta in enumerate(settings.get("betas", ())):
        if not 0 <= beta < 1:
            raise ValueError(f"betas[{i}]: expected a number from 0, below 1, got {beta}")
