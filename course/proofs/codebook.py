"""What the assignment "Codebook" is proved by: right answers written otherwise, and planted bugs."""

SCALED = "(log_q + log_s).logsumexp(1)"

ALTERNATIVES = {
    "ipot_log": {
        "rows by a softmax": """
def ipot_log(cost, beta, outer, inner, mu, nu):
    log_t, log_s = torch.zeros_like(cost), torch.zeros_like(nu)
    for _ in range(outer):
        log_q = log_t - cost / beta
        for _ in range(inner):
            rows = mu.log()[:, None] + torch.log_softmax(log_q + log_s, dim=1)
            moved = nu.log() - torch.logsumexp(rows, dim=0)
            log_t, log_s = rows + moved, log_s + moved
    return log_t.exp()
""",
        "one kernel, and prices that are added up": """
def ipot_log(cost, beta, outer, inner, mu, nu):
    f, g = torch.zeros_like(mu), torch.zeros_like(nu)
    s = torch.zeros_like(nu)
    for step in range(1, outer + 1):
        kernel = -step / beta * cost + f[:, None] + g
        for _ in range(inner):
            d = torch.log(mu) - torch.logsumexp(kernel + s[None, :], 1)
            s = torch.log(nu) - torch.logsumexp(kernel + d[:, None], 0)
        f, g = f + d, g + s
    return torch.exp(-outer / beta * cost + f[:, None] + g)
""",
        "in float64, columns as a matrix": """
def ipot_log(cost, beta, outer, inner, mu, nu):
    D, a, b = cost.double(), mu.double().log()[:, None], nu.double().log()[None]
    T, sigma = 0 * D, 0 * b
    for _ in range(outer):
        Q = T - D / beta
        for _ in range(inner):
            delta = a - (Q + sigma).logsumexp(1, keepdim=True)
            sigma = b - (Q + delta).logsumexp(0, keepdim=True)
        T = Q + delta + sigma
    return T.exp().to(cost.dtype)
""",
    },
    "potentials": {
        "logarithms of the scalings": """
def potentials(cost, epsilon, iterations, mu, nu):
    log_a, log_v = -cost / epsilon, torch.zeros_like(nu)
    for _ in range(iterations):
        log_u = mu.log() - torch.logsumexp(log_a + log_v[None], dim=1)
        log_v = nu.log() - torch.logsumexp(log_a + log_u[:, None], dim=0)
    return epsilon * log_u, epsilon * log_v
""",
        "shifted by hand": """
def soft(x):
    top = x.max(-1, keepdim=True).values
    return (top + (x - top).exp().sum(-1, keepdim=True).log())[:, 0]


def potentials(cost, epsilon, iterations, mu, nu):
    g = 0 * nu
    for _ in range(iterations):
        f = epsilon * mu.log() - epsilon * soft((g - cost) / epsilon)
        g = epsilon * nu.log() - epsilon * soft((f - cost.T) / epsilon)
    return f, g
""",
        "each row in a loop": """
def potentials(cost, epsilon, iterations, mu, nu):
    g = torch.zeros_like(nu)
    for _ in range(iterations):
        f = torch.stack([
            epsilon * (m.log() - torch.logsumexp((g - row) / epsilon, 0))
            for m, row in zip(mu, cost)
        ])
        g = torch.stack([
            epsilon * (m.log() - torch.logsumexp((f - column) / epsilon, 0))
            for m, column in zip(nu, cost.T)
        ])
    return (f, g)
""",
    },
    "code_loss": {
        "soft targets of PyTorch": """
def code_loss(z_image, z_text, t_image, t_text, prototypes, tau):
    p = prototypes / prototypes.norm(dim=1, keepdim=True)
    n, k = z_image.shape[0], p.shape[0]
    rows, columns = p.new_full((n,), 1 / n), p.new_full((k,), 1 / k)
    total = 0
    for z, t in ((z_image, t_text), (z_text, t_image)):
        plan = ipot_log((1 - t @ p.T).detach(), 0.5, 20, 1, rows, columns)
        total = total + functional.cross_entropy(z @ p.T / tau, n * plan)
    return total
""",
        "sums for means": """
def code_loss(z_image, z_text, t_image, t_text, prototypes, tau):
    p = functional.normalize(prototypes)
    def target(t):
        with torch.no_grad():
            m = torch.ones(len(t), dtype=t.dtype) / len(t)
            return ipot_log(1 - t @ p.T, 0.5, 20, 1, m, torch.ones(len(p), dtype=t.dtype) / len(p))
    image, text = z_image @ p.T / tau, z_text @ p.T / tau
    image = image - image.logsumexp(1, keepdim=True)
    text = text - text.logsumexp(1, keepdim=True)
    return -(target(t_text) * image).sum() - (target(t_image) * text).sum()
""",
        "both at once": """
def code_loss(z_image, z_text, t_image, t_text, prototypes, tau):
    p = functional.normalize(prototypes, dim=1)
    n, k = len(z_image), len(p)
    plans = [
        ipot_log(1 - (t @ p.T).detach(), 0.5, 20, 1, torch.full_like(t[:, 0], 1 / n).detach(),
                 torch.full((k,), 1 / k, dtype=t.dtype))
        for t in (t_text, t_image)
    ]
    logits = torch.cat([z_image, z_text]) @ p.T / tau
    return 2 * functional.cross_entropy(logits, n * torch.cat(plans).detach())
""",
    },
    "shard_step": {
        "by sums": """
def shard_step(cost, plan, sigma, beta, n, reduce):
    q = plan * (-cost / beta).exp()
    rows = q * (1 / n / (q * sigma).sum(1, keepdim=True))
    new = 1 / (rows.shape[1] * reduce(rows.sum(0)))
    return rows * new, new
""",
        "in logarithms": """
def shard_step(cost, plan, sigma, beta, n, reduce):
    log_q = plan.log() - cost / beta
    log_d = -torch.logsumexp(log_q + sigma.log(), 1) - torch.log(torch.tensor(float(n)))
    share = reduce(torch.logsumexp(log_q + log_d[:, None], 0).exp())
    s = 1 / (share * len(sigma))
    return (log_q + log_d[:, None] + s.log()).exp(), s
""",
        "einsum": """
def shard_step(cost, plan, sigma, beta, n, reduce):
    q = torch.einsum("nk,nk->nk", torch.exp(cost / -beta), plan)
    delta = (1 / n) / torch.einsum("nk,k->n", q, sigma)
    column = reduce(torch.einsum("nk,n->k", q, delta))
    sigma = (1 / column.numel()) / column
    return torch.einsum("n,nk,k->nk", delta, q, sigma), sigma
""",
    },
}

BUGS = {
    "ipot_log": {
        "sign": ("log_t - cost", "log_t + cost"),
        "beta squared": ("cost / beta", "cost / beta**2"),
        "times beta": ("cost / beta", "cost * beta"),
        "no proximal term": ("log_t - cost", "-cost"),
        "uniform rows": ("mu.log()", "torch.full_like(mu, 1 / len(mu)).log()"),
        "uniform columns": ("nu.log()", "torch.full_like(nu, 1 / len(nu)).log()"),
        "masses in reverse": ("mu.log()", "mu.flip(0).log()"),
        "loops swapped": [
            ("range(outer)", "range(steps)"),
            ("range(inner)", "range(outer)"),
            ("range(steps)", "range(inner)"),
        ],
        "inner ignored": ("range(inner)", "range(1)"),
        "one step fewer": ("range(outer)", "range(max(1, outer - 1))"),
        "the scaling forgotten at each step": (
            "log_q = log_t - cost / beta",
            "log_q = log_t - cost / beta; log_s = torch.zeros_like(nu)",
        ),
        "sums of exponentials": (SCALED, "(log_q + log_s).exp().sum(1).log()"),
        "the logarithm of the plan": ("return log_t.exp()", "return log_t"),
        "the kernel": ("return log_t.exp()", "return log_q.exp()"),
        "without the scaling of columns": (
            "+ log_d[:, None] + log_s",
            "+ log_d[:, None]",
        ),
        "float64": ("return log_t.exp()", "return log_t.exp().double()"),
        "in place": (
            "log_t = torch.zeros_like(cost)",
            "log_t = torch.zeros_like(cost); cost -= cost.min()",
        ),
        "rows last": [
            (
                "log_d = mu.log() - (log_q + log_s).logsumexp(1)",
                "log_s = nu.log() - (log_q + log_first[:, None]).logsumexp(0)",
            ),
            (
                "log_s = nu.log() - (log_q + log_d[:, None]).logsumexp(0)",
                "log_d = log_first = mu.log() - (log_q + log_s).logsumexp(1)",
            ),
            (
                "log_s = torch.zeros_like(nu)",
                "log_s = torch.zeros_like(nu); log_first = torch.zeros_like(mu)",
            ),
        ],
        "a square matrix": (
            "return log_t.exp()",
            "return torch.diag(log_d.exp()) @ (log_q + log_s).exp()",
        ),
        "times the number of rows": ("return log_t.exp()", "return len(mu) * log_t.exp()"),
    },
    "potentials": {
        "sums of exponentials": (
            "((g - cost) / epsilon).logsumexp(1)",
            "((g - cost) / epsilon).exp().sum(1).log()",
        ),
        "rows alone": ("g = epsilon * (nu.log()", "h = epsilon * (nu.log()"),
        "the other axis": ("logsumexp(1)", "logsumexp(0)"),
        "epsilon missing outside": ("f = epsilon * (", "f = ("),
        "epsilon missing inside": ("((g - cost) / epsilon)", "(g - cost)"),
        "begins at minus infinity": ("torch.zeros_like(nu)", "torch.full_like(nu, -torch.inf)"),
        "begins at one": ("torch.zeros_like(nu)", "torch.ones_like(nu)"),
        "the plan": ("return f, g", "return torch.exp((f[:, None] + g - cost) / epsilon)"),
        "costs doubled": ("(g - cost)", "(g - 2 * cost)"),
        "logarithms for prices": ("return f, g", "return f / epsilon, g / epsilon"),
        "row masses missing": ("mu.log() - ", "-"),
        "column masses missing": ("nu.log() - ", "-"),
        "one iteration fewer": ("range(iterations)", "range(max(1, iterations - 1))"),
        "float64": ("return f, g", "return f.double(), g.double()"),
        "sign": ("return f, g", "return -f, -g"),
        "swapped": ("return f, g", "return g, f"),
        "a list": ("return f, g", "return [f, g]"),
        "in place": ("g = torch.zeros_like(nu)", "g = torch.zeros_like(nu); cost -= 0.1"),
    },
    "code_loss": {
        "same pairing": [
            ("one_way(z_image, t_text)", "one_way(z_image, t_image)"),
            ("one_way(z_text, t_image)", "one_way(z_text, t_text)"),
        ],
        "not times N": ("(n * plan", "(plan"),
        "times K": ("(n * plan", "(k * plan"),
        "not detached": ("with torch.no_grad():", "if True:"),
        "the student's plan": ("1 - teacher @ p.T", "1 - student @ p.T"),
        "softmax over rows": ("log_softmax(1)", "log_softmax(0)"),
        "no normalisation": ("functional.normalize(prototypes, dim=1)", "prototypes"),
        "normalised columns": (
            "functional.normalize(prototypes, dim=1)",
            "functional.normalize(prototypes, dim=0)",
        ),
        "the logarithm outside": (
            "(n * plan * log_share).sum(1)",
            "(n * plan * log_share.exp()).sum(1).log()",
        ),
        "sum for mean": (".sum(1).mean()", ".sum()"),
        "mean over prototypes": (".sum(1).mean()", ".mean()"),
        "sign": ("return -(n", "return (n"),
        "one direction": ("+ one_way(z_text, t_image)", "+ one_way(z_image, t_text)"),
        "half": ("return one_way(z_image", "return 0.5 * one_way(z_image"),
        "temperature squared": ("/ tau)", "/ tau**2)"),
        "times the temperature": ("/ tau)", "* tau)"),
        "no temperature": ("/ tau)", ")"),
        "prototypes detached": (
            "functional.normalize(prototypes, dim=1)",
            "functional.normalize(prototypes, dim=1).detach()",
        ),
        "similarities for costs": ("1 - teacher @ p.T", "teacher @ p.T"),
        "exp without shift": (
            "(student @ p.T / tau).log_softmax(1)",
            "torch.log((s := (student @ p.T / tau).exp()) / s.sum(1, keepdim=True))",
        ),
        "teachers through the softmax": ("student @ p.T / tau", "teacher @ p.T / tau"),
    },
    "shard_step": {
        "no sum over processes": ("reduce(delta @ q)", "(delta @ q)"),
        "a sum of the wrong thing": (
            "1 / cost.shape[1] / reduce(delta @ q)",
            "reduce(1 / cost.shape[1] / (delta @ q))",
        ),
        "rows summed too": (
            "delta = 1 / n / (q @ sigma)",
            "delta = 1 / n / reduce(q @ sigma).mean()",
        ),
        "two sums": ("reduce(delta @ q)", "reduce(reduce(delta @ q))"),
        "own rows for all": ("1 / n /", "1 / len(cost) /"),
        "no marginal of rows": ("1 / n / (q @ sigma)", "1 / (q @ sigma)"),
        "no marginal of columns": ("1 / cost.shape[1] / ", "1 / "),
        "rows for columns": ("1 / cost.shape[1] / ", "1 / n / "),
        "the old scaling in the plan": ("sigma = 1 / cost.shape[1]", "new = 1 / cost.shape[1]"),
        "the plan forgotten": ("torch.exp(-cost / beta) * plan", "torch.exp(-cost / beta)"),
        "sign": ("-cost / beta", "cost / beta"),
        "times beta": ("-cost / beta", "-cost * beta"),
        "sigma ignored": ("(q @ sigma)", "q.sum(1)"),
        "only the plan": (
            "return delta[:, None] * q * sigma, sigma",
            "return delta[:, None] * q * sigma",
        ),
        "in place": (
            "q = torch.exp(-cost / beta) * plan",
            "q = plan.mul_(torch.exp(-cost / beta))",
        ),
        "float64": ("q * sigma, sigma", "q * sigma, sigma.double()"),
        "sum of all numbers": ("reduce(delta @ q)", "reduce(delta[:, None] * q).sum(0)"),
    },
}
