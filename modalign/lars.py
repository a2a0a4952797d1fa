"""Layer-wise adaptive rate scaling (LARS): every tensor moves by the same share of its norm.

Labels such as eq-pace-lars are those of equations in the chapter "Pace and scale".
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from modalign._lars_checks import own_settings, require_parameters, require_settings, require_step
from modalign._lars_state import complete, remembered
from modalign._numerics import alike, divide_into, nan_beyond, wide_norm, wide_norms, zeros_or_nan


class LARS(torch.optim.Optimizer):
    r"""Adam's or the gradient's direction, with steps of eta times the norm of each tensor.

    Paper eq. 4 (Wang et al. 2020), after You et al. (2017): a tensor w with direction u moves by
    ``eta |w| u / |u|``, so one learning rate sets the pace of all. Biases and parameters of
    normalisation are scaled like the rest, as in the paper, unless their group has ``adapt=False``.
    Where w or u is zero the step is ``eta u``, so what starts at zero moves too. With
    ``direction="adam"`` u is Adam's bias-corrected step, and the method is LAMB (You et al. 2020)
    without weight decay and clipping of gradients.

    Scaling gradients *before* Adam is something else: Adam takes a constant scale out. A gradient
    that is not finite makes its own tensor NaN and leaves the others alone;
    ``torch.amp.GradScaler`` skips such steps. So does one whose square is beyond its type (a norm
    of 5e20 in float32) with ``"adam"``, where it would stop its tensor for ever.

    Shards (``DTensor``, as of ``fully_shard``) move by the norm of the whole. Those of the older
    ``FullyShardedDataParallel`` do not tell what they are of, and are refused. Half precision is
    refused too: bfloat16 loses steps of less than 1/256, and with them the one pace.
    There is no weight decay: within u it could only turn a step whose norm is fixed, and
    decoupled, as in AdamW, it is a second step beside it, after which no tensor moves by the
    share eta any more. Nor is there ``amsgrad``, ``capturable``, ``differentiable`` or
    ``fused``. O(n) time for n parameters; memory for 2 n numbers of state with ``"adam"``, n
    with momentum, none otherwise.

    Args:
        params: tensors, named or not, or groups of them with settings of their own.
        lr: eta, the share of its norm by which a tensor moves (paper: 0.007).
        direction: ``"adam"`` (the paper's) or ``"sgd"``, the gradient (paper eq. 4 as printed).
        betas: decay of Adam's two averages (PyTorch's defaults; the paper gives none).
        eps: added to the root of Adam's second average.
        momentum: with ``"sgd"``, u <- momentum u + gradient, as in ``torch.optim.SGD``.
        adapt: False, in a group of biases and norms, leaves it out: its steps are ``eta u``, those
            of Adam or SGD, and it needs an ``lr`` of its own.
        trust_clip: largest ratio ``|w| / |u|``, if any: a longer step becomes ``trust_clip eta u``.
            1 is ``trust_clip=True`` of timm's Lamb, ``a / eta`` the clipping of LARC at rate a.
        maximize: climb instead.
        foreach: False for the literal step, tensor by tensor, which shards always take.

    Raises:
        ValueError: for a setting out of range, one that nothing reads, another ``direction`` in a
            group or in a loaded state, and no parameters.
        TypeError: for a setting of another type; for parameters in half precision, complex or cut
            up by ``FullyShardedDataParallel``.
        RuntimeError: from ``step``, before anything moves: for a sparse gradient, and while a CUDA
            graph is captured.

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> w.grad = torch.tensor([1e-3, 0.0])
    >>> LARS([w], lr=0.1, direction="sgd").step()  # by a tenth of 5
    >>> w
    Parameter containing:
    tensor([2.5000, 4.0000], requires_grad=True)
    >>> bias = {"params": [torch.nn.Parameter(torch.zeros(2))], "adapt": False, "lr": 1e-3}
    >>> optimizer = LARS([{"params": [w]}, bias], lr=0.01, trust_clip=10)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.007,
        *,
        direction: str = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.0,
        adapt: bool = True,
        trust_clip: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        settings = {"lr": lr, "direction": direction, "maximize": maximize, "foreach": foreach}
        settings |= {"adapt": adapt, "trust_clip": trust_clip}
        settings |= own_settings(direction, betas=betas, eps=eps, momentum=momentum)
        require_settings(settings, direction)
        super().__init__(params, settings)
        self._ratios: list[tuple[list[Tensor], Tensor, Tensor]] = []

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
        moving = [[w for w in group["params"] if w.grad is not None] for group in self.param_groups]
        for ws in moving:
            require_step(ws)
        self._ratios = []
        for group, ws in zip(self.param_groups, moving, strict=True):
            plain = () if group["foreach"] is False else (Tensor, nn.Parameter)
            for w in ws:
                if type(w) not in plain:
                    self._literal_step(w, group)
            for each in alike([w for w in ws if type(w) in plain]):
                self._step(each, group)
        return loss

    def trust_ratios(self) -> dict[Tensor, float]:
        """Return ``|w| / |u|`` of every tensor that the last step moved, 1 if it was not scaled."""
        return {
            w: ratio
            for ws, rates, scale in self._ratios
            for w, ratio in zip(ws, (rates / scale).tolist(), strict=True)
        }

    def _literal_step(self, w: Tensor, group: dict[str, Any]) -> None:
        """Move one tensor, line by line as the chapter says."""
        (g,), eta = _gradients([w]), float(group["lr"]) * (-1 if group["maximize"] else 1)
        state = remembered(self.state[w], w, group)
        if group["direction"] == "adam":
            (beta1, beta2), eps, t = group["betas"], group["eps"], state["step"]
            m, v = state["exp_avg"], state["exp_avg_sq"]
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g**2 - v)
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            u = m_hat / (nan_beyond(v_hat.sqrt()) + eps)  # eq-pace-adam
        else:
            u = g
            if group["momentum"]:
                u = state["momentum_buffer"].mul_(group["momentum"]).add_(g)
        w_norm, u_norm, most = wide_norm(w), wide_norm(u), group["trust_clip"]
        scaled = group["adapt"] and w_norm != 0 and u_norm != 0
        ratio = w_norm / u_norm if scaled else 1.0
        if group["adapt"] and most is not None and ratio > most:
            scaled, ratio = False, most
        if scaled:
            w -= eta * w_norm * (u / u_norm)  # eq-pace-lars, paper eq. 4
        else:
            w -= eta * ratio * u  # eq-pace-zero
        one = torch.ones(1, dtype=torch.float64, device="cpu")
        self._ratios.append(([w], one * ratio, one))

    def _step(self, ws: list[Tensor], group: dict[str, Any]) -> None:
        """Move tensors of one device and dtype by the same step, in a few calls."""
        u, scale = self._adam(ws, group) if group["direction"] == "adam" else self._sgd(ws, group)
        w_norm, u_norm = wide_norms([*ws, *u]).chunk(2)
        # u is to be multiplied by its scale: what divides by the norm of u takes that out again
        rates = torch.where(w_norm * u_norm == 0, scale, w_norm / u_norm + 0 * scale)  # keeps NaN
        if group["trust_clip"] is not None:
            rates = torch.minimum(rates, group["trust_clip"] * scale)
        rates = rates if group["adapt"] else scale
        etas = list((group["lr"] * rates).to(ws[0]).unbind())
        sign = 1 if group["maximize"] else -1
        torch._foreach_addcmul_(ws, u, etas, value=sign)  # eq-pace-lars, eq-pace-zero
        self._ratios.append((ws, rates, scale))

    def _adam(self, ws: list[Tensor], group: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
        """Adam's steps, and the number that each is to be multiplied by."""
        (beta1, beta2), states = group["betas"], [remembered(self.state[w], w, group) for w in ws]
        m, v = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        g, steps = _gradients(ws), [state["step"] for state in states]
        torch._foreach_lerp_(m, g, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, g, g, 1 - beta2)
        corrections = [(1 - beta2**t) ** 0.5 for t in steps]
        u = list(torch._foreach_sqrt(v))
        beyond = zeros_or_nan(u)
        torch._foreach_add_(u, [group["eps"] * each for each in corrections])
        divide_into(u, m)  # eq-pace-adam
        scales = [each / (1 - beta1**t) for each, t in zip(corrections, steps, strict=True)]
        scale = torch.tensor(scales, dtype=torch.float64, device="cpu")
        return u, scale.to(beyond.device, non_blocking=True) + beyond

    def _sgd(self, ws: list[Tensor], group: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
        """Gradients, or their sums with momentum, of norm one; and the norms that they had."""
        u = _gradients(ws)
        if group["momentum"]:
            sums = [remembered(self.state[w], w, group)["momentum_buffer"] for w in ws]
            torch._foreach_mul_(sums, group["momentum"])
            torch._foreach_add_(sums, u)
            u = sums
        norms = wide_norms(u)
        norms = torch.where(norms == 0, 1, norms)
        divisors = list(norms.to(ws[0]).unbind())
        return list(torch._foreach_div(u, divisors)), norms

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add tensors with settings of their own, as of ``torch.optim.Optimizer``."""
        require_settings({**self.defaults, **param_group}, self.defaults["direction"])
        super().add_param_group(param_group)
        try:
            require_parameters(self.param_groups[-1]["params"])
        except TypeError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint, a copy or a pickle, if LARS can go on from it.

        What it does not say of a group, such as an older one, stays as the group was made.
        """
        groups, defaults = state["param_groups"], state.get("defaults") or self.defaults
        complete(groups, getattr(self, "param_groups", groups), defaults)
        super().__setstate__(state)
        self._ratios = []


def _gradients(ws: list[Tensor]) -> list[Tensor]:
    return [w.grad for w in ws if w.grad is not None]
