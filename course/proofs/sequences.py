"""What the assignment "Sequences" is proved by: right answers written otherwise, and bugs."""

HEAD = """
class LARS(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.9, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
"""

ALTERNATIVES = {
    "LARS": {
        "a buffer that is changed in place": f"""{HEAD}
    def step(self):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        d = p.grad.add(p, alpha=group["weight_decay"])
                        state = self.state[p]
                        if "momentum_buffer" not in state:
                            state["momentum_buffer"] = torch.zeros_like(p)
                        buffer = state["momentum_buffer"]
                        buffer.mul_(group["momentum"]).add_(d)
                        a, b = torch.linalg.vector_norm(p), torch.linalg.vector_norm(buffer)
                        ratio = a / b if a > 0 and b > 0 else 1.0
                        p.add_(buffer * ratio, alpha=-group["lr"])
""",
        "a closure, and ratios by torch.where": f"""{HEAD}
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            held = [w for w in group["params"] if w.grad is not None]
            for w in held:
                g = w.grad.clone()
                if group["weight_decay"]:
                    g = g + group["weight_decay"] * w
                u = g if "u" not in self.state[w] else group["momentum"] * self.state[w]["u"] + g
                self.state[w]["u"] = u
                p, q = w.square().sum().sqrt(), u.square().sum().sqrt()
                rate = torch.where(p * q > 0, p / q, torch.ones_like(p))
                w.copy_(w - group["lr"] * rate * u)
        return loss
""",
        "through data": f"""{HEAD}
    def step(self):
        for group in self.param_groups:
            lr, beta, decay = (group[k] for k in ("lr", "momentum", "weight_decay"))
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                old = state.get("velocity", 0 * w.data)
                state["velocity"] = beta * old + w.grad.data + decay * w.data
                u = state["velocity"]
                if float(w.data.norm()) and float(u.norm()):
                    u = u / u.norm() * w.data.norm()
                w.data = w.data - lr * u
""",
    },
    "sequence_norm": {
        "sums under a mask": """
def sequence_norm(x, lengths, gamma, beta, mean, variance, momentum=0.1, training=True):
    mask = (torch.arange(x.size(1))[None] < lengths[:, None])[..., None]
    clean = torch.where(mask, x, torch.zeros_like(x))
    mu, var = mean, variance
    if training:
        m = int(lengths.sum())
        if m < 2:
            raise ValueError("too few steps")
        mu = clean.sum((0, 1)) / m
        square = torch.where(mask, clean - mu, torch.zeros_like(x)).pow(2).sum((0, 1))
        var = square / m
        with torch.no_grad():
            mean = mean + momentum * (mu - mean)
            variance = variance + momentum * (square / (m - 1) - variance)
    y = (clean - mu) * torch.rsqrt(var + 1e-5) * gamma + beta
    return torch.where(mask, y, torch.zeros_like(y)), mean, variance
""",
        "PyTorch's kernel": """
def sequence_norm(x, lengths, gamma, beta, mean, variance, momentum=0.1, training=True):
    if training and lengths.sum() < 2:
        raise ValueError("too few steps")
    mean, variance = mean.clone(), variance.clone()
    real = torch.arange(x.shape[1]).expand(len(x), -1) < lengths.unsqueeze(1)
    y = functional.batch_norm(x[real], mean, variance, gamma, beta, training, momentum, 1e-5)
    out = x.new_zeros(x.shape)
    out[real] = y
    return out, mean, variance
""",
        "sequence by sequence": """
def sequence_norm(x, lengths, gamma, beta, mean, variance, momentum=0.1, training=True):
    parts = [row[:n] for row, n in zip(x, lengths.tolist())]
    steps = torch.cat(parts)
    if training and steps.shape[0] < 2:
        raise ValueError("too few steps")
    if training:
        m = steps.shape[0]
        mu = steps.sum(0) / m
        var = ((steps - mu) ** 2).sum(0) / m
        new = (momentum * mu + (1 - momentum) * mean).detach()
        new_var = (momentum * var * m / (m - 1) + (1 - momentum) * variance).detach()
    else:
        mu, var, new, new_var = mean, variance, mean, variance
    rows = []
    for part in parts:
        y = gamma * ((part - mu) / torch.sqrt(var + 1e-5)) + beta
        rows.append(functional.pad(y, (0, 0, 0, x.shape[1] - len(part))))
    return torch.stack(rows), new, new_var
""",
    },
    "layer_norm_lstm": {
        "sequence by sequence": """
def ln(z, g, b):
    mu = z.mean(-1, keepdim=True)
    var = ((z - mu) ** 2).mean(-1, keepdim=True)
    return g * (z - mu) / torch.sqrt(var + 1e-5) + b


def layer_norm_lstm(x, lengths, weights, reverse=False):
    w, size = weights, weights["w_h"].shape[1]
    outputs, hs, cs = [], [], []
    for row, n in zip(x, lengths.tolist()):
        h = c = torch.zeros(size, dtype=x.dtype)
        held = [torch.zeros(size, dtype=x.dtype)] * len(row)
        for t in range(n - 1, -1, -1) if reverse else range(n):
            gates = ln(w["w_x"] @ row[t], w["g_x"], w["b_x"])
            gates = gates + ln(w["w_h"] @ h, w["g_h"], w["b_h"])
            i, f, new, o = torch.split(gates, size)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
            c = ln(c, w["g_c"], w["b_c"])
            h = torch.sigmoid(o) * torch.tanh(c)
            held[t] = h
        outputs.append(torch.stack(held))
        hs.append(h)
        cs.append(c)
    return torch.stack(outputs), torch.stack(hs), torch.stack(cs)
""",
        "turned round first": """
def layer_norm_lstm(x, lengths, weights, reverse=False):
    b, t, _ = x.shape
    places = torch.arange(t).expand(b, t)
    real = places < lengths[:, None]
    order = torch.where(real, lengths[:, None] - 1 - places, places) if reverse else places
    rows = torch.arange(b)[:, None]
    x = torch.where(real[..., None], x, torch.zeros_like(x))[rows, order]
    h = c = torch.zeros(b, weights["w_h"].shape[1], dtype=x.dtype)
    norm = functional.layer_norm
    width, outputs = h.shape[1], []
    for s in range(t):
        zx = norm(x[:, s] @ weights["w_x"].t(), (4 * width,), weights["g_x"], weights["b_x"])
        zh = norm(h @ weights["w_h"].t(), (4 * width,), weights["g_h"], weights["b_h"])
        i, f, a, o = (zx + zh).view(b, 4, width).unbind(1)
        new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(a)
        new = norm(new, (width,), weights["g_c"], weights["b_c"])
        out = torch.sigmoid(o) * torch.tanh(new)
        keep = real[:, s, None]
        h, c = torch.where(keep, out, h), torch.where(keep, new, c)
        outputs.append(torch.where(keep, out, torch.zeros_like(out)))
    return torch.stack(outputs, 1)[rows, order], h, c
""",
        "only the rows that go on": """
def layer_norm_lstm(x, lengths, weights, reverse=False):
    size = weights["w_h"].shape[1]
    h = [torch.zeros(size, dtype=x.dtype) for _ in x]
    c, out = list(h), {}
    for step in range(int(lengths.max())):
        rows = [b for b in range(len(x)) if step < int(lengths[b])]
        at = [int(lengths[b]) - 1 - step if reverse else step for b in rows]
        z = torch.stack([x[b, t] for b, t in zip(rows, at)]) @ weights["w_x"].T
        z = functional.layer_norm(z, z.shape[1:], weights["g_x"], weights["b_x"])
        r = torch.stack([h[b] for b in rows]) @ weights["w_h"].T
        z = z + functional.layer_norm(r, r.shape[1:], weights["g_h"], weights["b_h"])
        i, f, new, o = z.split(size, dim=1)
        cell = i.sigmoid() * new.tanh() + f.sigmoid() * torch.stack([c[b] for b in rows])
        cell = functional.layer_norm(cell, (size,), weights["g_c"], weights["b_c"])
        for k, (b, t) in enumerate(zip(rows, at)):
            c[b] = cell[k]
            h[b] = out[b, t] = o[k].sigmoid() * cell[k].tanh()
    zero = torch.zeros(size, dtype=x.dtype)
    outputs = [[out.get((b, t), zero) for t in range(x.shape[1])] for b in range(len(x))]
    return torch.stack([torch.stack(row) for row in outputs]), torch.stack(h), torch.stack(c)
""",
    },
    "projections": {
        "multinomial": """
def sparse_signs(p, d, density, seed):
    g = torch.Generator()
    g.manual_seed(seed)
    chances = torch.tensor([density / 2, 1 - density, density / 2])
    entries = torch.multinomial(chances, p * d, replacement=True, generator=g) - 1
    return entries.reshape(p, d).float() / torch.tensor(p * density).sqrt()


def width_for(x, density, deviation):
    p = 1
    kurtosis = 1 / density
    for row in x.tolist():
        four, two = sum(v**4 for v in row), sum(v**2 for v in row)
        need = (2 + (kurtosis - 3) * four / two**2) / deviation**2
        while p < need:
            p += 1
    return p
""",
        "numpy": """
import math

import numpy as np


def sparse_signs(p, d, density, seed):
    rng = np.random.default_rng(seed)
    kept = rng.random((p, d)) < density
    signs = rng.choice([-1.0, 1.0], size=(p, d))
    return torch.tensor(kept * signs / math.sqrt(p * density), dtype=torch.float32)


def width_for(x, density, deviation):
    unit = x / x.norm(dim=1, keepdim=True)
    worst = (2 + (1 / density - 3) * unit.pow(4).sum(1)).max().item()
    return max(math.ceil(worst / deviation / deviation), 1)
""",
        "PyTorch's own generator, put back": """
def sparse_signs(p, d, density, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kept = torch.bernoulli(torch.full((p, d), float(density)))
        signs = torch.randint(0, 2, (p, d)) * 2 - 1
    return kept * signs * (1 / (p * density)) ** 0.5


def width_for(x, density, deviation):
    best = 1
    for row in x.double():
        share = row.square() / row.square().sum()
        variance = 2 * (1 - share.square().sum()) + (1 / density - 1) * share.square().sum()
        best = max(best, int(torch.ceil(variance / deviation**2)))
    return best
""",
    },
}


BUGS = {
    "LARS": {
        "sign": ("w -= group", "w += group"),
        "momentum damped": (
            'u = self.state[w]["u"] = group["momentum"] * u + g',
            'u = self.state[w]["u"] = group["momentum"] * u + (1 - group["momentum"]) * g',
        ),
        "an average of steps": (
            'w -= group["lr"] * (u if zero else size * u / length)',
            's = self.state[w].get("s", torch.zeros_like(w))\n'
            '                s = self.state[w]["s"] = 0.5 * s + (u if zero else size * u / length)\n'
            '                w -= group["lr"] * s',
        ),
        "the gradient scaled before momentum": (
            'g = w.grad + group["weight_decay"] * w',
            'g = w.grad + group["weight_decay"] * w\n'
            "                g = g / g.norm().clamp(min=1e-12)",
        ),
        "the norm of the gradient": ("u.norm()", "g.norm()"),
        "momentum left out": ('group["momentum"] * u + g', "g"),
        "momentum of the constructor alone": (
            'group["momentum"] * u',
            'self.defaults["momentum"] * u',
        ),
        "rate of the constructor alone": ('group["lr"] *', 'self.defaults["lr"] *'),
        "decay of the constructor alone": (
            'group["weight_decay"] * w',
            'self.defaults["weight_decay"] * w',
        ),
        "decay left out": ('w.grad + group["weight_decay"] * w', "w.grad"),
        "decay of the weight itself": (
            "w -= group",
            'w *= 1 - group["lr"] * group["weight_decay"]\n                w -= group',
        ),
        "decay after momentum": [
            ('g = w.grad + group["weight_decay"] * w', "g = w.grad"),
            (
                "size, length = w.norm(), u.norm()",
                'u = u + group["weight_decay"] * w\n                size, length = w.norm(), u.norm()',
            ),
        ],
        "decay times the norm": (
            'group["weight_decay"] * w\n',
            'group["weight_decay"] * w / (w.norm() + 1e-9)\n',
        ),
        "a weight of 0 stays": ("u if zero else", "0 * u if zero else"),
        "0 divides": ("u if zero else size * u / length", "size * u / length"),
        "an epsilon": ("size * u / length", "size * u / (length + 0.001)"),
        "an epsilon for 0": ("u if zero else size * u / length", "size * u / (length + 1e-9)"),
        "not the weight's norm": ("size * u / length", "u / length"),
        "over the weight's norm": ("size * u / length", "u / size"),
        "the rate squared": ('group["lr"] *', 'group["lr"] ** 2 *'),
        "squared norms": ("w.norm(), u.norm()", "w.norm() ** 2, u.norm() ** 2"),
        "sums of absolute values": ("w.norm(), u.norm()", "w.abs().sum(), u.norm()"),
        "largest entries": ("w.norm(), u.norm()", "w.abs().max(), u.abs().max()"),
        "rows by themselves": (
            "w.norm(), u.norm()",
            "w.norm(), u.norm(dim=-1, keepdim=True)",
        ),
        "one norm for all": (
            "w.norm(), u.norm()",
            'torch.stack([v.norm() for v in group["params"]]).norm() * 0 + '
            'torch.stack([v.norm() for h in self.param_groups for v in h["params"]]).norm(), u.norm()',
        ),
        "vectors not scaled": ("u if zero else", "u if zero or w.dim() < 2 else"),
        "never above a share of 1": ("size * u / length", "u * (size / length).clamp(max=1)"),
        "no gradient is one of 0": (
            "                if w.grad is None:\n                    continue\n"
            "                g = w.grad +",
            "                g = (0 * w if w.grad is None else w.grad) +",
        ),
        "stops at the first without a gradient": ("continue", "return"),
        "the gradient changed": (
            'g = w.grad + group["weight_decay"] * w',
            'g = w.grad.mul_(1.5) / 1.5 + group["weight_decay"] * w',
        ),
        "the state beside the optimiser's": [
            ('self.state[w].get("u"', 'self.__dict__.setdefault("own", {}).get(w'),
            ('self.state[w]["u"]', "self.own[w]"),
        ],
        "the first group alone": ("in self.param_groups", "in self.param_groups[:1]"),
        "Nesterov": ("size, length", 'u = g + group["momentum"] * u\n                size, length'),
        "the sign of the step": ("size * u / length", "size * u.sign() / length"),
        "buffer begins with a gradient counted twice": ("torch.zeros_like(w))", "g)"),
    },
    "sequence_norm": {
        "padding counted as zeros": (
            "steps = x[real]",
            "steps = torch.nan_to_num(x).flatten(0, 1)",
        ),
        "padding counted in the mean": (
            "steps.mean(0), steps.var(0, correction=0)",
            "steps.sum(0) / (len(x) * x.shape[1]), steps.var(0, correction=0)",
        ),
        "padding counted in the variance": (
            "steps.var(0, correction=0)\n",
            "(steps - steps.mean(0)).square().sum(0) / (len(x) * x.shape[1])\n",
        ),
        "over features too": (
            "steps.mean(0), steps.var(0, correction=0)",
            "steps.mean() + 0 * mean, steps.var(correction=0) + 0 * mean",
        ),
        "each step by itself": (
            "steps.mean(0), steps.var(0, correction=0)",
            "steps.mean(1, keepdim=True), steps.var(1, correction=0, keepdim=True)",
        ),
        "epsilon outside": ("(sigma2 + 1e-5).sqrt()", "(sigma2.sqrt() + 1e-5)"),
        "another epsilon": ("1e-5", "1e-2"),
        "no root": ("(sigma2 + 1e-5).sqrt()", "(sigma2 + 1e-5)"),
        "unbiased inside": ("steps.var(0, correction=0)", "steps.var(0)"),
        "running variance biased": ("steps.detach().var(0)", "steps.detach().var(0, correction=0)"),
        "momentum swapped": [
            (
                "mean = (1 - momentum) * mean + momentum * mu",
                "mean = momentum * mean + (1 - momentum) * mu",
            ),
            (
                "variance = (1 - momentum) * variance + momentum * unbiased",
                "variance = momentum * variance + (1 - momentum) * unbiased",
            ),
        ],
        "the mean runs alone": (
            "        variance = (1 - momentum) * variance + momentum * unbiased\n",
            "",
        ),
        "the variance runs alone": (
            "        mean = (1 - momentum) * mean + momentum * mu.detach()\n",
            "",
        ),
        "a momentum of its own": [
            ("(1 - momentum) * mean + momentum * mu", "0.9 * mean + 0.1 * mu"),
        ],
        "normalised by the running ones after": (
            "    out = torch.zeros_like(x)",
            "    mu, sigma2 = mean, variance\n    out = torch.zeros_like(x)",
        ),
        "the batch's statistics in evaluation": ("    if training:\n", "    if True:\n"),
        "running ones move in evaluation": (
            "    out = torch.zeros_like(x)",
            "    if not training:\n        mean = 0.9 * mean + 0.1 * steps.mean(0)\n"
            "    out = torch.zeros_like(x)",
        ),
        "shift in the padding": ("torch.zeros_like(x)", "torch.zeros_like(x) + beta.detach()"),
        "padding as it came": ("torch.zeros_like(x)", "x.detach().clone()"),
        "gain before": ("gamma * (steps - mu)", "(gamma * steps - mu)"),
        "no shift": ("sqrt() + beta", "sqrt()"),
        "no gain": ("gamma * (steps", "(steps"),
        "one step more": ("< lengths[:, None]", "<= lengths[:, None]"),
        "one step less": ("< lengths[:, None]", "< lengths[:, None] - 1"),
        "one step taken": ("len(steps) < 2", "len(steps) < 1"),
        "two refused": ("len(steps) < 2", "len(steps) < 3"),
        "one step refused in evaluation": [
            (
                "    if training:\n        if len(steps) < 2:\n            raise",
                "    if len(steps) < 2:\n        raise",
            ),
            (
                "        mu, sigma2 = steps.mean(0)",
                "    if training:\n        mu, sigma2 = steps.mean(0)",
            ),
        ],
        "no gradient through the mean": (
            "steps.mean(0), steps.var",
            "steps.detach().mean(0), steps.var",
        ),
        "no gradient through the variance": (
            "steps.var(0, correction=0)",
            "steps.detach().var(0, correction=0)",
        ),
        "a gradient of the running mean": ("momentum * mu.detach()", "momentum * mu"),
        "a gradient of the running variance": ("steps.detach().var(0)", "steps.var(0)"),
        "the running ones in place": (
            "mean = (1 - momentum) * mean + momentum * mu.detach()",
            "mean.mul_(1 - momentum).add_(momentum * mu.detach())",
        ),
        "squares minus the square": (
            "steps.mean(0), steps.var(0, correction=0)",
            "steps.mean(0), steps.square().mean(0) - (steps.mean(0)) ** 2 + 1e-4",
        ),
        "masked by a product": (
            "out[real] = gamma * (steps - mu) / (sigma2 + 1e-5).sqrt() + beta",
            "out = (gamma * (x - mu) / (sigma2 + 1e-5).sqrt() + beta) * real[..., None]",
        ),
        "the longest alone": (
            "steps = x[real]",
            "steps = x[real] if not training else x[lengths.argmax(), : lengths.max()]",
        ),
    },
    "layer_norm_lstm": {
        "one norm of the sum": (
            'inputs[:, t] + norm(h @ weights["w_h"].T, "h")',
            'functional.layer_norm(inputs[:, t] + h @ weights["w_h"].T, (4 * h.shape[1],))',
        ),
        "each gate by itself": (
            'return functional.layer_norm(z, gain.shape, gain, weights[f"b_{name}"])',
            'parts = z.unflatten(-1, (-1, weights["w_h"].shape[1]))\n'
            "        parts = functional.layer_norm(parts, parts.shape[-1:]).flatten(-2)\n"
            '        return gain * parts + weights[f"b_{name}"]',
        ),
        "the cell not normalised": (
            'norm(f.sigmoid() * c + i.sigmoid() * candidate.tanh(), "c")',
            "f.sigmoid() * c + i.sigmoid() * candidate.tanh()",
        ),
        "the cell normalised for the output alone": [
            (
                'norm(f.sigmoid() * c + i.sigmoid() * candidate.tanh(), "c")',
                "f.sigmoid() * c + i.sigmoid() * candidate.tanh()",
            ),
            ("o.sigmoid() * cell.tanh()", 'o.sigmoid() * norm(cell, "c").tanh()'),
        ],
        "gates in another order": ("i, f, candidate, o", "f, i, candidate, o"),
        "candidate last": ("i, f, candidate, o", "i, f, o, candidate"),
        "a shift of the forget gate": ("f.sigmoid()", "(f + 1).sigmoid()"),
        "no tanh of the candidate": ("candidate.tanh()", "candidate"),
        "a gate for the candidate": ("candidate.tanh()", "candidate.sigmoid()"),
        "no tanh of the cell": ("cell.tanh()", "cell"),
        "the input gate of the forget gate": ("i.sigmoid()", "(1 - f.sigmoid())"),
        "the recurrent part not normalised": (
            'norm(h @ weights["w_h"].T, "h")',
            '(h @ weights["w_h"].T)',
        ),
        "the inputs not normalised": (
            'inputs = norm(x.masked_fill(~real, 0) @ weights["w_x"].T, "x")',
            'inputs = x.masked_fill(~real, 0) @ weights["w_x"].T',
        ),
        "the shift of the recurrent part left out": (
            'norm(h @ weights["w_h"].T, "h")',
            'norm(h @ weights["w_h"].T, "h") - weights["b_h"]',
        ),
        "a shift twice": (
            'norm(h @ weights["w_h"].T, "h")',
            'norm(h @ weights["w_h"].T, "h") + weights["b_x"]',
        ),
        "gain left out": ("gain.shape, gain, weights", "gain.shape, None, weights"),
        "another epsilon": ('weights[f"b_{name}"])', 'weights[f"b_{name}"], 0.01)'),
        "the cell runs into the padding": ("c = torch.where(real[:, t], cell, c)", "c = cell"),
        "the output runs into the padding": (
            "h = torch.where(real[:, t], o.sigmoid() * cell.tanh(), h)",
            "h = o.sigmoid() * cell.tanh()",
        ),
        "the state forgotten in the padding": (
            "h = torch.where(real[:, t], o.sigmoid() * cell.tanh(), h)",
            "h = torch.where(real[:, t], o.sigmoid() * cell.tanh(), 0 * h)",
        ),
        "old outputs in the padding": ("outputs.append(h * real[:, t])", "outputs.append(h)"),
        "padding read": ("x.masked_fill(~real, 0)", "x"),
        "padding made a number, and read": [
            ("x.masked_fill(~real, 0)", "torch.nan_to_num(x)"),
            (
                "real = (torch.arange(x.shape[1]) < lengths[:, None])[..., None]",
                "real = torch.ones_like(x[..., :1]).bool()",
            ),
        ],
        "one step more": ("< lengths[:, None]", "<= lengths[:, None]"),
        "h and c swapped": (
            "stack(outputs[::-1] if reverse else outputs, 1), h, c",
            "stack(outputs[::-1] if reverse else outputs, 1), c, h",
        ),
        "batch second": ("else outputs, 1)", "else outputs, 0)"),
        "reverse ignored": ("for t in reversed(order) if reverse else order", "for t in order"),
        "outputs in the order of reading": ("outputs[::-1] if reverse else outputs", "outputs"),
        "only outputs turned round": (
            "for t in reversed(order) if reverse else order",
            "for t in order",
        ),
        "steps turned round with the padding": (
            "    h = c = x.new_zeros",
            "    inputs = inputs.flip(1) if reverse else inputs\n"
            "    order = range(x.shape[1])\n"
            "    h = c = x.new_zeros",
        ),
        "the input of the step before": ("inputs[:, t] +", "inputs[:, t - 1] +"),
        "the new cell's gate of the old state": ("f.sigmoid() * c +", "f.sigmoid() * h +"),
        "state detached": ("norm(h @ weights", "norm(h.detach() @ weights"),
        "cell detached": ("f.sigmoid() * c +", "f.sigmoid() * c.detach() +"),
        "float32": (
            "stack(outputs[::-1] if reverse else outputs, 1), h, c",
            "stack(outputs[::-1] if reverse else outputs, 1).float(), h, c",
        ),
        "state of ones": ("x.new_zeros(", "x.new_ones("),
    },
    "projections": {
        "not scaled": ("signs / (p * density) ** 0.5", "signs"),
        "one over p": ("(p * density) ** 0.5", "(p * density)"),
        "d for p": ("(p * density)", "(d * density)"),
        "the density left out": ("(p * density)", "(p)"),
        "times the root of the density": ("/ (p * density) ** 0.5", "* (density / p) ** 0.5"),
        "plus alone": (
            " - (drawn > 1 - density / 2).float()",
            " + (drawn > 1 - density / 2).float()",
        ),
        "twice as dense": ("drawn < density / 2", "drawn < density"),
        "half as dense": [
            ("drawn < density / 2", "drawn < density / 4"),
            ("drawn > 1 - density / 2", "drawn > 1 - density / 4"),
        ],
        "the density upside down": (
            "signs = (drawn < density / 2)",
            "density = 1 - density\n    signs = (drawn < density / 2)",
        ),
        "a third": ("signs = (drawn <", "density = 1 / 3\n    signs = (drawn <"),
        "rows scaled": (
            "signs / (p * density) ** 0.5",
            "signs / signs.norm(dim=0, keepdim=True).clamp(min=1)",
        ),
        "normal": (
            "signs / (p * density) ** 0.5",
            "torch.randn(p, d, generator=generator) / p**0.5",
        ),
        "transposed": (
            "torch.rand(p, d, generator=generator)",
            "torch.rand(d, p, generator=generator)",
        ),
        "one column for all": (
            "torch.rand(p, d, generator=generator)",
            "torch.rand(p, 1, generator=generator).expand(p, d)",
        ),
        "one row for all": (
            "torch.rand(p, d, generator=generator)",
            "torch.rand(1, d, generator=generator).expand(p, d)",
        ),
        "one sign for a column": (
            "signs = (drawn < density / 2).float() - (drawn > 1 - density / 2).float()",
            "sign = torch.rand(d, generator=generator).round() * 2 - 1\n"
            "    signs = (drawn < density).float() * sign",
        ),
        "no seed": ("torch.rand(p, d, generator=generator)", "torch.rand(p, d)"),
        "PyTorch's own generator": (
            "generator = torch.Generator().manual_seed(seed)",
            "generator = torch.manual_seed(seed)",
        ),
        "always the same seed": ("manual_seed(seed)", "manual_seed(0)"),
        "float64": ("return signs /", "return signs.double() /"),
        "a fixed number of entries": (
            "signs = (drawn < density / 2).float() - (drawn > 1 - density / 2).float()",
            "signs = torch.zeros(p, d)\n    signs[: max(1, int(p * density))] = "
            "(drawn[: max(1, int(p * density))] < 0.5).float() * 2 - 1",
        ),
        "the paper's density": ("(1 / density - 3)", "(3 - 3)"),
        "kurtosis for its excess": ("(1 / density - 3)", "(1 / density)"),
        "density for its inverse": ("(1 / density - 3)", "(density - 3)"),
        "the mean row": ("variance.max()", "variance.mean()"),
        "the best row": ("variance.max()", "variance.min()"),
        "the first row": ("variance.max()", "variance[0]"),
        "variance for deviation": ("deviation**2", "deviation"),
        "of a length": ("deviation**2", "(2 * deviation) ** 2"),
        "rounded down": (".ceil()", ".floor()"),
        "one more": ("max(1, int(", "max(1, 1 + int("),
        "0 for what is exact": (
            "max(1, int((variance.max() / deviation**2).ceil()))",
            "int((variance.max() / deviation**2).ceil())",
        ),
        "rows of length one assumed": (" / x.square().sum(1).square()", ""),
        "a square missing": ("x.square().sum(1).square()", "x.square().sum(1)"),
        "columns": (
            "(x**4).sum(1) / x.square().sum(1).square()",
            "(x**4).sum(0) / x.square().sum(0).square()",
        ),
        "a tensor": (
            "return max(1, int((variance.max() / deviation**2).ceil()))",
            "return (variance.max() / deviation**2).ceil().clamp(min=1).long()",
        ),
        "in place": ("x = x.double()", "x /= x.norm(dim=1, keepdim=True)"),
        "centred": ("x = x.double()", "x = x.double() - x.double().mean(1, keepdim=True) + 1e-3"),
    },
}
