"""What the assignment "Gradients" is proved by: right answers written otherwise, and planted bugs."""

ALTERNATIVES = {
    "projected": {
        "one long vector": """
def projected(grads_a, grads_b):
    shared = [i for i, (a, b) in enumerate(zip(grads_a, grads_b))
              if not (a is None or b is None)]
    new_a, new_b = list(grads_a), list(grads_b)
    a = torch.cat([grads_a[i].double().reshape(-1) for i in shared])
    b = torch.cat([grads_b[i].double().reshape(-1) for i in shared])
    d = torch.dot(a, b)
    if d < 0:
        a, b = a - d / torch.dot(b, b) * b, b - d / torch.dot(a, a) * a
        sizes = [grads_a[i].numel() for i in shared]
        for i, x, y in zip(shared, a.split(sizes), b.split(sizes)):
            new_a[i] = x.reshape(grads_a[i].shape).to(grads_a[i].dtype)
            new_b[i] = y.reshape(grads_b[i].shape).to(grads_b[i].dtype)
    return new_a, new_b
""",
        "by the cosine": """
def inner(xs, ys):
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(xs, ys)
               if x is not None and y is not None)


def alone(xs, ys):
    return [x for x, y in zip(xs, ys) if x is not None and y is not None]


def projected(grads_a, grads_b):
    ours, theirs = alone(grads_a, grads_b), alone(grads_b, grads_a)
    na, nb = inner(ours, ours) ** 0.5, inner(theirs, theirs) ** 0.5
    if na * nb == 0 or inner(ours, theirs) >= 0:
        return [*grads_a], [*grads_b]
    c = inner(ours, theirs) / (na * nb)
    def less(xs, ys, scale):
        return [x if x is None or y is None else (x.double() - scale * y.double()).to(x.dtype)
                for x, y in zip(xs, ys)]
    return less(grads_a, grads_b, c * na / nb), less(grads_b, grads_a, c * nb / na)
""",
        "by weights": """
def projected(grads_a, grads_b):
    sums = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(grads_a, grads_b):
        if a is not None and b is not None:
            x, y = a.double(), b.double()
            sums += torch.stack([(x * y).sum(), (x * x).sum(), (y * y).sum()])
    d, aa, bb = sums.tolist()
    out_a, out_b = [], []
    for a, b in zip(grads_a, grads_b):
        if a is None or b is None or d >= 0:
            out_a.append(a), out_b.append(b)
        else:
            out_a.append(torch.sub(a.double(), b.double(), alpha=d / bb).to(a.dtype))
            out_b.append(torch.sub(b.double(), a.double(), alpha=d / aa).to(b.dtype))
    return out_a, out_b
""",
    },
    "backward_both": {
        "by backward": """
def backward_both(loss_a, loss_b, parameters):
    ps = list(parameters)
    old = [p.grad for p in ps]
    found = []
    for loss, keep in ((loss_a, True), (loss_b, False)):
        for p in ps:
            p.grad = None
        loss.backward(retain_graph=keep)
        found.append([p.grad for p in ps])
    a, b = found
    ab = sum((x.double() * y.double()).sum() for x, y in zip(a, b) if x is not None and y is not None)
    aa = sum((x.double() ** 2).sum() for x, y in zip(a, b) if x is not None and y is not None)
    bb = sum((y.double() ** 2).sum() for x, y in zip(a, b) if x is not None and y is not None)
    new_a, new_b = projected(a, b)
    for p, before, x, y in zip(ps, old, new_a, new_b):
        parts = [each for each in (before, x, y) if each is not None]
        p.grad = sum(parts[1:], parts[0]) if parts else None
    return float(ab / (aa.sqrt() * bb.sqrt()))
""",
        "in place where there is something": """
def backward_both(loss_a, loss_b, parameters):
    ps = [*parameters]
    a = torch.autograd.grad(loss_a, ps, allow_unused=True, retain_graph=True)
    b = torch.autograd.grad(loss_b, ps, allow_unused=True, retain_graph=True)
    x = torch.cat([u.reshape(-1) for u, v in zip(a, b) if u is not None and v is not None])
    y = torch.cat([v.reshape(-1) for u, v in zip(a, b) if u is not None and v is not None])
    for p, u, v in zip(ps, *projected(list(a), list(b))):
        if u is None and v is None:
            continue
        total = u + v if u is not None and v is not None else (v if u is None else u)
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad += total
    return torch.nn.functional.cosine_similarity(x, y, dim=0).item()
""",
        "the second loss first": """
def backward_both(loss_a, loss_b, parameters):
    ps = list(parameters)
    b = torch.autograd.grad(loss_b, ps, allow_unused=True, retain_graph=True)
    a = torch.autograd.grad(loss_a, ps, allow_unused=True)
    zero = lambda g, p: torch.zeros_like(p) if g is None else g
    both = [i for i in range(len(ps)) if a[i] is not None and b[i] is not None]
    dot = lambda u, v: sum((u[i] * v[i]).sum().item() for i in both)
    new_a, new_b = projected(a, b)
    for i, p in enumerate(ps):
        if a[i] is None and b[i] is None:
            continue
        p.grad = zero(p.grad, p) + zero(new_a[i], p) + zero(new_b[i], p)
    return dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5
""",
    },
    "Patience": {
        "a list of what was said": """
class Patience:
    def __init__(self, start, end, wait, steps):
        self.args, self.said = (start, end, wait, steps), []

    def gamma(self):
        start, end, wait, steps = self.args
        done = len(self.said) - wait
        if done <= 0:
            return start
        if done >= steps:
            return end
        return end - (end - start) * math.cos(math.pi * done / steps / 2) ** 2

    def accept(self, cosine):
        said = bool(cosine > self.gamma() or cosine != cosine)
        self.said.append(said)
        return said

    def share(self):
        return sum(self.said) / len(self.said) if self.said else 1.0
""",
        "all thresholds at once": """
class Patience:
    def __init__(self, start, end, wait, steps):
        self.table = [start] * wait
        for s in range(steps + 1):
            self.table.append(start + (end - start) * 0.5 * (1 - math.cos(math.pi * s / steps)))
        self.n, self.k = 0, 0

    def gamma(self):
        return self.table[min(self.n, len(self.table) - 1)]

    def accept(self, cosine):
        ok = math.isnan(cosine) or cosine > self.gamma()
        self.n, self.k = self.n + 1, self.k + ok
        return ok

    def share(self):
        return self.k / max(1, self.n) if self.n else 1.0
""",
        "with tensors": """
class Patience:
    def __init__(self, start, end, wait, steps):
        self.low, self.high = start, end
        self.wait, self.steps, self.clock, self.dropped = wait, steps, 0, 0

    def gamma(self):
        t = torch.tensor((self.clock - self.wait) / self.steps, dtype=torch.float64).clamp(0, 1)
        return (self.low + (self.high - self.low) * torch.sin(t * torch.pi / 2) ** 2).item()

    def accept(self, cosine):
        drop = cosine <= self.gamma()
        self.clock += 1
        self.dropped += int(drop)
        return not drop

    def share(self):
        return 1.0 if self.clock == 0 else 1 - self.dropped / self.clock
""",
    },
    "joint_step": {
        "zeros for NaN": """
def joint_step(grads_a, grads_b, rows):
    w = (rows / rows.sum()).to(grads_a.dtype)[:, None]
    none = (rows == 0)[:, None]
    a = (grads_a.masked_fill(none, 0) * w).sum(0)
    b = (grads_b.masked_fill(none, 0) * w).sum(0)
    c = torch.dot(a, b)
    if c >= 0:
        return a + b
    return (1 - c / a.dot(a)) * a + (1 - c / b.dot(b)) * b
""",
        "in a loop": """
def joint_step(grads_a, grads_b, rows):
    a, b, n = 0, 0, 0
    for x, y, r in zip(grads_a, grads_b, rows.tolist()):
        if r:
            a, b, n = a + r * x, b + r * y, n + r
    a, b = a / n, b / n
    if (a * b).sum() < 0:
        new_a = a - (a * b).sum() / (b * b).sum() * b
        new_b = b - (a * b).sum() / (a * a).sum() * a
        a, b = new_a, new_b
    return a + b
""",
        "unit vectors": """
def joint_step(grads_a, grads_b, rows):
    keep = rows != 0
    w = rows[keep].to(grads_a.dtype)
    a = torch.einsum("r,rp->p", w, grads_a[keep]) / w.sum()
    b = torch.einsum("r,rp->p", w, grads_b[keep]) / w.sum()
    u, v = a / a.norm(), b / b.norm()
    c = min(0.0, (u @ v).item())
    return a - c * a.norm() * v + b - c * b.norm() * u
""",
    },
}

LESS_A = "a.double() - ab / bb * b.double()"
LESS_B = "b.double() - ab / aa * a.double()"
ADD = "new = grad.clone() if old is None else old + grad"

BUGS = {
    "projected": {
        "one after the other": (LESS_B, "b.double() - ab / aa * x"),
        "by its own norm": [
            (LESS_A, "a.double() - ab / aa * b.double()"),
            (LESS_B, "b.double() - ab / bb * a.double()"),
        ],
        "both by the first norm": (LESS_A, "a.double() - ab / aa * b.double()"),
        "when they agree too": ("if not ab < 0:", "if ab == 0:"),
        "never": ("if not ab < 0:", "if True:"),
        "sign": (LESS_A, "a.double() + ab / bb * b.double()"),
        "one side": (LESS_B, "b.double()"),
        "a number for a vector": [
            (LESS_A, "a.double() - ab / bb"),
            (LESS_B, "b.double() - ab / aa"),
        ],
        "the dot product alone": (LESS_A, "a.double() - ab * b.double()"),
        "square root missing": (LESS_A, "a.double() - ab / bb.sqrt() * b.double()"),
        "an epsilon that counts": (LESS_A, "a.double() - ab / (bb + 1) * b.double()"),
        "products in their own type": (
            "a.double().flatten(), b.double().flatten()",
            "a.flatten(), b.flatten()",
        ),
        "float64 comes back": ("x.to(a.dtype)", "x"),
        "the partner's absence is zero": ("new_b.append(b)", "new_b.append(b if both else None)"),
        "those without a partner count": (
            "aa = sum(a @ a for a, _ in pairs)",
            "aa = sum(a.double().flatten() @ a.double().flatten() for a in grads_a if a is not None)",
        ),
        "the first tensor alone": ("sum(a @ b for a, b in pairs)", "pairs[0][0] @ pairs[0][1]"),
        "swapped": ("return new_a, new_b", "return new_b, new_a"),
        "in place": (
            "new_a, new_b = [], []",
            "new_a, new_b = [], []; [a.mul_(0.5) for a in grads_a if a is not None]",
        ),
        "each tensor for itself": """
def projected(grads_a, grads_b):
    new_a, new_b = [], []
    for a, b in zip(grads_a, grads_b):
        x, y = a, b
        if a is not None and b is not None:
            u, v = a.double(), b.double()
            d = (u * v).sum()
            if d < 0:
                x, y = (u - d / (v * v).sum() * v).to(a.dtype), (v - d / (u * u).sum() * u).to(b.dtype)
        new_a.append(x), new_b.append(y)
    return new_a, new_b
""",
    },
    "backward_both": {
        "the graph is gone": ("**keep", "**some"),
        "replaces .grad": (ADD, "new = grad.clone()"),
        "the first gradient alone": ("for grad in both:", "for grad in both[:1]:"),
        "no projection": ("*projected(a, b)", "a, b"),
        "one backward for both": (
            "b = torch.autograd.grad(loss_b",
            "b = torch.autograd.grad(loss_a + loss_b",
        ),
        "the second loss twice": (
            "a = torch.autograd.grad(loss_a",
            "a = torch.autograd.grad(loss_b",
        ),
        "parameters of one loss dropped": ("if grad is not None:", "if None not in both:"),
        "zeros where no loss reaches": (
            "for grad in both:",
            "parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad"
            "\n        for grad in both:",
        ),
        "the dot product": ("/ (flat_a.norm() * flat_b.norm())", ""),
        "the cosine after": (
            "pairs = zip(a, b)",
            "pairs = zip(*projected(a, b))",
        ),
        "a tensor for a number": (").item()", ")"),
        "one norm": ("(flat_a.norm() * flat_b.norm())", "flat_a.norm() ** 2"),
        "half": (ADD, "new = grad / 2 if old is None else old + grad / 2"),
        "sign": (ADD, "new = -grad if old is None else old - grad"),
        "takes a step": (ADD, ADD + "; parameter.data -= 0.1 * grad"),
        "the mean of cosines": (
            "cosine = (flat_a @ flat_b / (flat_a.norm() * flat_b.norm())).item()",
            "cosine = sum(float((x * y).sum() / x.norm() / y.norm()) for x, y in shared) / len(shared)",
        ),
        "the first alone cosine": (
            "torch.cat([x.flatten().double() for x, _ in shared])",
            "torch.cat([x.flatten().double().abs() for x, _ in shared])",
        ),
    },
    "Patience": {
        "the clock stops at a drop": ("self.batches += 1", "self.batches += used"),
        "at the threshold too": ("not cosine <= self.gamma()", "not cosine < self.gamma()"),
        "NaN is dropped": ("not cosine <= self.gamma()", "cosine > self.gamma()"),
        "the wrong direction": (
            "self.start + (self.end - self.start)",
            "self.end + (self.start - self.end)",
        ),
        "a line": ("(1 - math.cos(math.pi * t)) / 2", "t"),
        "a whole wave": ("math.cos(math.pi * t)", "math.cos(2 * math.pi * t)"),
        "a quarter of a wave": ("(1 - math.cos(math.pi * t)) / 2", "1 - math.cos(math.pi * t / 2)"),
        "no wait": ("(self.batches - self.wait)", "self.batches"),
        "the wait is part of the rise": ("/ self.steps, 0.0)", "/ (self.steps + self.wait), 0.0)"),
        "goes on": (", 0.0), 1.0)", ", 0.0), 9.0)"),
        "begins below": (
            "max((self.batches - self.wait) / self.steps, 0.0)",
            "((self.batches - self.wait) / self.steps)",
        ),
        "whole numbers": (
            "(self.batches - self.wait) / self.steps",
            "(self.batches - self.wait) // self.steps",
        ),
        "one late": ("(self.batches - self.wait)", "(self.batches - self.wait - 1)"),
        "one early": ("(self.batches - self.wait)", "(self.batches - self.wait + 1)"),
        "decides after the tick": [
            ("used = not cosine", "self.batches += 1; used = not cosine"),
            ("self.batches += 1\n        self.used", "self.used"),
        ],
        "the share of dropped": ("self.used / self.batches", "1 - self.used / self.batches"),
        "a number of them": ("self.used / self.batches", "self.used"),
        "none before the first": ("else 1.0", "else 0.0"),
        "one clock for all": (
            "self.batches = self.used = 0",
            "type(self).__dict__.get('batches') is None and setattr(type(self), 'batches', 0); self.used = 0"
            "; Patience.accept = lambda s, c: ((u := not c <= s.gamma()), "
            "setattr(Patience, 'batches', Patience.batches + 1), setattr(s, 'used', s.used + u))[0]",
        ),
        "the absolute cosine": ("not cosine <= self.gamma()", "not abs(cosine) <= self.gamma()"),
    },
    "joint_step": {
        "project, then average": """
def joint_step(grads_a, grads_b, rows):
    has = rows > 0
    total = 0
    for a, b, r in zip(grads_a[has], grads_b[has], rows[has]):
        d = a @ b
        if d < 0:
            a, b = a - d / (b @ b) * b, b - d / (a @ a) * a
        total = total + r / rows.sum() * (a + b)
    return total.to(grads_a.dtype)
""",
        "each process counts once": (
            "rows[has].to(grads_a) / rows.sum()",
            "torch.ones_like(grads_a[has][:, 0]) / has.sum()",
        ),
        "sums": ("/ rows.sum()", ""),
        "divided by processes": ("/ rows.sum()", "/ len(rows)"),
        "the first process": (
            "weights @ grads_a[has], weights @ grads_b[has]",
            "grads_a[has][0], grads_b[has][0]",
        ),
        "NaN times zero": ("has = rows > 0", "has = rows >= 0"),
        "no projection": ("if dot < 0:", "if False:"),
        "always": ("if dot < 0:", "if True:"),
        "when they agree": ("if dot < 0:", "if dot > 0:"),
        "one side": ("b - dot / (a @ a) * a", "b"),
        "norms swapped": (
            "a - dot / (b @ b) * b, b - dot / (a @ a) * a",
            "a - dot / (a @ a) * b, b - dot / (b @ b) * a",
        ),
        "sign": ("a - dot / (b @ b) * b,", "a + dot / (b @ b) * b,"),
        "one after the other": (
            "a, b = a - dot / (b @ b) * b, b - dot / (a @ a) * a",
            "a = a - dot / (b @ b) * b; b = b - dot / (a @ a) * a",
        ),
        "the mean of both": ("return a + b", "return (a + b) / 2"),
        "both": ("return a + b", "return a, b"),
        "float64": ("return a + b", "return (a + b).double()"),
        "inverse weights": (
            "rows[has].to(grads_a) / rows.sum()",
            "(1 / rows[has]).to(grads_a) / (1 / rows[has]).sum()",
        ),
        "in place": ("has = rows > 0", "has = rows > 0; grads_a *= 1.01"),
    },
}
