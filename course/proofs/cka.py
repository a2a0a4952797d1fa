"""What the assignment "CKA" is proved by: right answers written otherwise, and planted bugs."""

REFUSE = """    if bool((w < 0).any()) or abs(float(w.sum()) - 1) > 1e-4:
        raise ValueError("no weights")
"""

ALTERNATIVES = {
    "weighted_hsic": {
        "a centring matrix": f"""
def weighted_hsic(k, l, w):
{REFUSE}
    h = torch.eye(len(w), dtype=w.dtype) - w[:, None].expand(-1, len(w)).T
    return ((h @ k @ h.T) * (h @ l @ h.T) * torch.outer(w, w)).sum()
""",
        "one side centred": f"""
def weighted_hsic(k, l, w):
{REFUSE}
    ww = w[:, None] * w
    r = (k * w).sum(1, keepdim=True)
    kc = k - r - r.T + (k * ww).sum()
    return (kc * l * ww).sum()
""",
        "expectations": f"""
def weighted_hsic(k, l, w):
{REFUSE}
    a = torch.einsum("i,j,ij,ij->", w, w, k, l)
    kr, lr = torch.einsum("ij,j->i", k, w), torch.einsum("ij,j->i", l, w)
    return a - 2 * (w * kr * lr).sum() + (w @ kr) * (w @ lr)
""",
    },
    "cka_gradient": {
        "autograd after all": """
def cka_gradient(x, y):
    x = x.detach().clone().requires_grad_()
    a, b = x - x.mean(0), y - y.mean(0)
    value = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    return torch.autograd.grad(value, x)[0]
""",
        "through logarithms": """
def cka_gradient(x, y):
    a = x - x.mean(0, keepdim=True)
    b = y - y.mean(0, keepdim=True)
    c, s, t = b.T @ a, a.T @ a, b.T @ b
    hsic, xx, yy = (c * c).sum(), (s * s).sum(), (t * t).sum()
    value = hsic / (xx * yy).sqrt()
    return value * (2 * b @ c / hsic - 2 * a @ s / xx)
""",
        "unit sides first": """
def cka_gradient(x, y):
    a, b = x - x.mean(0), y - y.mean(0)
    p, q = (a.T @ a).norm().sqrt(), (b.T @ b).norm().sqrt()
    a, b = a / p, b / q
    c = b.T @ a
    return (2 * b @ c - 2 * (c ** 2).sum() * (a @ (a.T @ a))) / p
""",
    },
    "aligned_cosine": {
        "from the other side": """
def aligned_cosine(x, y, x_test, y_test):
    mx, my = x.mean(0, keepdim=True), y.mean(0, keepdim=True)
    u, s, vt = torch.linalg.svd((y - my).T @ (x - mx))
    r = (u @ vt).T
    return torch.cosine_similarity((x_test - mx) @ r, y_test - my, dim=1).mean()
""",
        "a polar decomposition": """
def aligned_cosine(x, y, x_test, y_test):
    a, b = x - x.mean(0), y - y.mean(0)
    m = (a.T @ b).double()
    values, vectors = torch.linalg.eigh(m.T @ m)
    r = (m @ vectors @ torch.diag(values.rsqrt()) @ vectors.T).to(x.dtype)
    p, q = (x_test - x.mean(0)) @ r, y_test - y.mean(0)
    p, q = p / p.norm(dim=1, keepdim=True), q / q.norm(dim=1, keepdim=True)
    return (p * q).sum() / len(p)
""",
        "y turned back": """
def aligned_cosine(x, y, x_test, y_test):
    u, _, vt = torch.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)), full_matrices=False)
    p, q = x_test - x.mean(0), (y_test - y.mean(0)) @ (u @ vt).T
    return torch.nn.functional.cosine_similarity(p, q).mean()
""",
    },
    "chance": {
        "eigenvalues": """
def effective_dimension(x):
    values = torch.linalg.eigvalsh(torch.cov(x.T))
    return values.sum() ** 2 / (values ** 2).sum()


def chance(x, y):
    return torch.sqrt(effective_dimension(x)) * torch.sqrt(effective_dimension(y)) / (x.shape[0] - 1)
""",
        "Gram matrices": """
def gram(x):
    x = x - x.mean(0)
    return x @ x.T


def effective_dimension(x):
    return gram(x).trace() ** 2 / gram(x).norm() ** 2


def chance(x, y):
    k, l = gram(x), gram(y)
    return k.trace() * l.trace() / (len(k) - 1) / (k.norm() * l.norm())
""",
        "singular values": """
def effective_dimension(x):
    s = torch.linalg.svdvals(x - x.mean(0, keepdim=True)).square()
    return s.sum().square() / s.square().sum()


def chance(x, y):
    return (effective_dimension(x) * effective_dimension(y)) ** 0.5 / (len(y) - 1)
""",
    },
}

BUGS = {
    "weighted_hsic": {
        "means that are not weighted": ("rows = m @ w", "rows = m.mean(1)"),
        "weights once": (
            "return w @ (centred(k) * centred(l)) @ w",
            "return (w @ (centred(k) * centred(l))).mean()",
        ),
        "weights squared": (
            "return w @ (centred(k) * centred(l)) @ w",
            "return w**2 @ (centred(k) * centred(l)) @ w**2",
        ),
        "roots of weights": (
            "return w @ (centred(k) * centred(l)) @ w",
            "return w.sqrt() @ (centred(k) * centred(l)) @ w.sqrt()",
        ),
        "no grand mean": (" + w @ rows", ""),
        "a grand mean that is not weighted": ("w @ rows", "rows.mean()"),
        "columns alone": ("m - rows[:, None] - rows + w @ rows", "m - rows"),
        "no centring": ("(centred(k) * centred(l))", "(k * l)"),
        "made to sum to one": (
            '        raise ValueError("w: expected weights that sum to one")',
            "        w = w / w.sum()",
        ),
        "not refused": ("(w < 0).any() or abs(w.sum() - 1) > 1e-4", "False"),
        "negative ones taken": ("(w < 0).any() or ", ""),
        "any sum taken": (" or abs(w.sum() - 1) > 1e-4", ""),
        "zeros refused": ("(w < 0)", "(w <= 0)"),
        "times n / (n - 1)": (
            "return w @ (centred(k)",
            "return len(w) / (len(w) - 1) * w @ (centred(k)",
        ),
        "a matrix product": ("centred(k) * centred(l)", "centred(k) @ centred(l)"),
        "detached": ("return w @ (centred(k)", "return w @ (centred(k).detach()"),
        "a Python number": (
            "return w @ (centred(k) * centred(l)) @ w",
            "return (w @ (centred(k) * centred(l)) @ w).item()",
        ),
        "float64": (
            "return w @ (centred(k) * centred(l)) @ w",
            "return (w @ (centred(k) * centred(l)) @ w).double()",
        ),
        "in place": ("rows = m @ w\n", "rows = m @ w\n        m.data -= rows\n"),
        "a TypeError": ("raise ValueError", "raise TypeError"),
    },
    "cka_gradient": {
        "factor 2": ("2 * y @ cross", "y @ cross"),
        "no norm term": ("return rise - 2 * value * x @ own / own.square().sum()", "return rise"),
        "no centring": ("x, y = x - x.mean(0), y - y.mean(0)", "x, y = x, y"),
        "x not centred": ("x - x.mean(0), y", "x, y"),
        "centred over features": ("x - x.mean(0)", "x - x.mean(1, keepdim=True)"),
        "sides swapped": (
            "cross, own = y.T @ x, x.T @ x",
            "x, y = y, x; cross, own = y.T @ x, x.T @ x",
        ),
        "norm for its square": ("own.square().sum()", "own.norm()"),
        "value missing": ("2 * value * x", "2 * x"),
        "value squared": ("2 * value * x", "2 * value**2 * x"),
        "sign": ("return rise - 2", "return rise + 2"),
        "minus all": ("return rise - 2 * value", "return -rise + 2 * value"),
        "norm term once": ("- 2 * value * x", "- value * x"),
        "without y's norm": ("own.norm() * (y.T @ y).norm()", "own.norm()"),
        "without x's norm": ("own.norm() * (y.T @ y).norm()", "(y.T @ y).norm()"),
        "traces for norms": ("own.norm() * (y.T @ y).norm()", "own.trace() * (y.T @ y).trace()"),
        "divided by n": ("return rise", "return (1 / len(x)) * rise"),
        "a square matrix": ("rise = 2 * y @ cross / size", "rise = 2 * (y @ y.T) @ x / size"),
        "in place": ("x, y = x - x.mean(0), y - y.mean(0)", "x -= x.mean(0); y = y - y.mean(0)"),
        "the value": ("return rise - 2 * value * x @ own / own.square().sum()", "return value"),
        "float64": ("return rise", "return rise.double()"),
    },
    "aligned_cosine": {
        "transposed": ("(u @ vt)", "(u @ vt).T"),
        "fitted on the second half": (
            "(x - x_mean).T @ (y - y_mean)",
            "(x_test - x_mean).T @ (y_test - y_mean)",
        ),
        "the second half's means": ("x.mean(0), y.mean(0)", "x_test.mean(0), y_test.mean(0)"),
        "no means": ("x.mean(0), y.mean(0)", "0 * x.mean(0), 0 * y.mean(0)"),
        "no means in the test": (
            "(x_test - x_mean) @ (u @ vt), y_test - y_mean",
            "x_test @ (u @ vt), y_test",
        ),
        "no means in the fit": ("(x - x_mean).T @ (y - y_mean)", "x.T @ y"),
        "no reflection": (
            "u, _, vt = torch.linalg.svd((x - x_mean).T @ (y - y_mean))",
            "u, _, vt = torch.linalg.svd((x - x_mean).T @ (y - y_mean)); "
            "u[:, -1] *= torch.linalg.det(u @ vt).sign()",
        ),
        "scales kept": [("u, _, vt", "u, s, vt"), ("(u @ vt)", "(u * s @ vt)")],
        "unit rows first": (
            "(x - x_mean).T @ (y - y_mean)",
            "torch.nn.functional.normalize(x - x_mean).T @ torch.nn.functional.normalize(y - y_mean)",
        ),
        "V U'": ("(u @ vt)", "(vt.T @ u.T)"),
        "decomposition of x alone": (
            "(x - x_mean).T @ (y - y_mean)",
            "(x - x_mean).T @ (x - x_mean)",
        ),
        "no turn": ("@ (u @ vt)", ""),
        "least squares": ("(u @ vt)", "torch.linalg.lstsq(x - x_mean, y - y_mean).solution"),
        "mean over entries": ("(a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))", "(a * b)"),
        "one long vector": (
            "((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()",
            "(a * b).sum() / (a.norm() * b.norm())",
        ),
        "columns": [
            ("(a * b).sum(1)", "(a * b).sum(0)"),
            ("(a.norm(dim=1) * b.norm(dim=1))", "(a.norm(dim=0) * b.norm(dim=0))"),
        ],
        "a sum": (").mean()", ").sum()"),
        "absolute": ("((a * b).sum(1)", "((a * b).sum(1).abs()"),
        "median": (").mean()", ").median()"),
        "a Python number": (").mean()", ").mean().item()"),
    },
    "chance": {
        "no square": ("s.trace() ** 2 / s.square().sum()", "s.trace() / s.square().sum()"),
        "upside down": ("s.trace() ** 2 / s.square().sum()", "s.square().sum() / s.trace() ** 2"),
        "diagonals for eigenvalues": ("s.square().sum()", "s.diagonal().square().sum()"),
        "not centred": ("x = x - x.mean(0)", "x = x + 0"),
        "over features": ("x - x.mean(0)", "x - x.mean(1, keepdim=True)"),
        "roots of variances": (
            "return s.trace() ** 2 / s.square().sum()",
            "v = torch.linalg.svdvals(x); return v.sum() ** 2 / v.square().sum()",
        ),
        "the largest alone": (
            "s.trace() ** 2 / s.square().sum()",
            "s.trace() / torch.linalg.eigvalsh(s).max()",
        ),
        "the rank": (
            "return s.trace() ** 2 / s.square().sum()",
            "return torch.linalg.matrix_rank(s).to(x.dtype)",
        ),
        "standardised": ("x = x - x.mean(0)", "x = (x - x.mean(0)) / x.std(0)"),
        "n": ("(len(x) - 1)", "len(x)"),
        "n - 2": ("(len(x) - 1)", "(len(x) - 2)"),
        "no root": ("both.sqrt()", "both"),
        "one side twice": (
            "effective_dimension(x) * effective_dimension(y)",
            "effective_dimension(x) * effective_dimension(x)",
        ),
        "a sum": (
            "effective_dimension(x) * effective_dimension(y)",
            "effective_dimension(x) + effective_dimension(y)",
        ),
        "features for rows": ("(len(x) - 1)", "(x.shape[1] - 1)"),
        "widths": (
            "effective_dimension(x) * effective_dimension(y)",
            "torch.tensor(x.shape[1] * y.shape[1]).to(x)",
        ),
        "float64": ("both.sqrt() /", "both.sqrt().double() /"),
        "a Python number": (
            "return both.sqrt() / (len(x) - 1)",
            "return (both.sqrt() / (len(x) - 1)).item()",
        ),
        "in place": ("x = x - x.mean(0)", "x -= x.mean(0)"),
    },
}
