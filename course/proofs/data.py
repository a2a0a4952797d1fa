"""What the assignment "Data" is proved by: right answers written otherwise, and planted bugs."""

ALTERNATIVES = {
    "info_nce": {
        "two cross-entropies": """
def info_nce(a, b, temperature, same=None):
    n = a.shape[0]
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    s = (a @ b.T) / temperature
    if same is not None:
        mask = same[None, :] == same[:, None]
        mask.fill_diagonal_(False)
        s = s.masked_fill(mask, float("-inf"))
    target = torch.arange(n)
    return (functional.cross_entropy(s, target) + functional.cross_entropy(s.T, target)) / 2
""",
        "row by row": """
def info_nce(a, b, temperature, same=None):
    cos = torch.cosine_similarity(a[:, None], b[None], dim=2) / temperature
    total = 0
    for i in range(len(a)):
        keep = [j for j in range(len(a)) if j == i or same is None or same[j] != same[i]]
        total = total + torch.logsumexp(cos[i, keep], 0) + torch.logsumexp(cos[keep, i], 0)
        total = total - 2 * cos[i, i]
    return total / (2 * len(a))
""",
        "shifted by hand": """
def info_nce(a, b, temperature, same=None):
    a, b = functional.normalize(a), functional.normalize(b)
    n = len(a)
    same = torch.arange(n) if same is None else same
    keep = (same[:, None] != same) | torch.eye(n, dtype=torch.bool)
    loss = 0
    for s in (a @ b.T / temperature, b @ a.T / temperature):
        above = torch.where(keep, s - s.diag()[:, None], -torch.inf)
        top = above.detach().amax(1, keepdim=True)
        loss = loss + (top[:, 0] + (above - top).exp().sum(1).log()).sum()
    return loss / (2 * n)
""",
    },
    "recall_at": {
        "binomial coefficients": """
import math


def recall_at(similarity, owners, k):
    if torch.isnan(similarity).any():
        raise ValueError("not a number")
    found = []
    for i, row in enumerate(similarity):
        best = row[owners == i].max()
        places = min(max(k - int((row > best).sum()), 0), int((row == best).sum()))
        tied = int((row == best).sum())
        foreign = int(((row == best) & (owners != i)).sum())
        found.append(1 - math.comb(foreign, places) / math.comb(tied, places))
    return torch.tensor(sum(found) / len(found), dtype=similarity.dtype)
""",
        "sorted, block by block": """
def recall_at(similarity, owners, k):
    if bool((similarity != similarity).any()):
        raise ValueError("not a number")
    total = 0.0
    for i in range(similarity.shape[0]):
        scores = similarity[i].tolist()
        mine = [o == i for o in owners.tolist()]
        left, missed = k, 1.0
        for level in sorted(set(scores), reverse=True):
            block = [own for score, own in zip(scores, mine) if score == level]
            if any(block):
                foreign, size = block.count(False), len(block)
                for j in range(max(0, min(left, size))):
                    missed *= max(foreign - j, 0) / (size - j)
                break
            left -= len(block)
        total += 1 - missed
    return torch.tensor(total / len(similarity)).to(similarity)
""",
        "place by place": """
def recall_at(similarity, owners, k):
    if similarity.isnan().any():
        raise ValueError("not a number")
    n, m = similarity.shape
    own = torch.nn.functional.one_hot(owners, n).T.bool()
    lowest = torch.full_like(similarity, -torch.inf)
    best = torch.where(own, similarity, lowest).max(dim=1, keepdim=True)[0]
    before = (similarity > best).sum(1, keepdim=True)
    level = similarity.eq(best)
    t, f = level.sum(1, keepdim=True), (level * ~own).sum(1, keepdim=True)
    j = torch.arange(m)[None]
    # the chance that the first own one stands at place j of its block
    ratio = ((f - j).clamp(min=0) / (t - j).clamp(min=1)).to(similarity.dtype)
    ratio = torch.where(j < k - before, ratio, torch.ones_like(ratio))
    return (1 - ratio.prod(1)).mean()
""",
    },
    "auroc": {
        "ranks": """
def auroc(score, wrong):
    if wrong.sum() < 2 or (~wrong).sum() < 2:
        raise ValueError("too few")

    def ranks(x):
        _, place, count = x.unique(return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        return (last - (count - 1) / 2)[place]

    x, y = score[~wrong], score[wrong]
    every = ranks(score)
    v = (every[~wrong] - ranks(x)) / len(y)
    w = 1 - (every[wrong] - ranks(y)) / len(x)
    error = v.var() / len(x) + w.var() / len(y)
    return v.mean(), torch.sqrt(error)
""",
        "blocks of pairs": """
def auroc(score, wrong):
    x, y = score[~wrong], score[wrong]
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        raise ValueError("too few")
    v, w = [], torch.zeros(m, dtype=torch.float64)
    for part in x.split(50):
        more = (torch.sign(part[:, None] - y) + 1) / 2
        v.append(more.sum(1).double() / m)
        w += more.sum(0).double()
    v, w = torch.cat(v), w / n
    area = v.sum() / n
    first = ((v - area) ** 2).sum() / (n - 1)
    second = ((w - area) ** 2).sum() / (m - 1)
    return area, (first / n + second / m) ** 0.5
""",
        "numpy": """
import numpy as np


def auroc(score, wrong):
    s, w = score.numpy(), wrong.numpy()
    x, y = s[~w], s[w]
    if len(x) < 2 or len(y) < 2:
        raise ValueError("too few")
    ys, xs = np.sort(y), np.sort(x)
    v = (np.searchsorted(ys, x, "left") + np.searchsorted(ys, x, "right")) / 2 / len(y)
    u = (2 * len(x) - np.searchsorted(xs, y, "left") - np.searchsorted(xs, y, "right")) / 2
    u = u / len(x)
    variance = np.var(v, ddof=1) / len(x) + np.var(u, ddof=1) / len(y)
    return torch.tensor(np.mean(v)), torch.tensor(np.sqrt(variance))
""",
    },
    "ceiling": {
        "one binomial after another": """
import math


def ceiling(counts, k):
    if int(counts.min()) < 0 or int(counts.sum()) == 0:
        raise ValueError("no counts")
    held = counts.tolist()
    best = sum(c * min(1, k / c) for c in held if c)
    return torch.tensor(best / sum(held), dtype=torch.float64)


def expected_ceiling(p, n, k):
    total = 0.0
    for share in p.tolist():
        for j in range(1, n + 1):
            if 0 < share < 1:
                log = math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1)
                log += j * math.log(share) + (n - j) * math.log1p(-share)
                total += min(j, k) * math.exp(log)
        total += min(n, k) * (share == 1)
    return torch.tensor(total / n, dtype=torch.float64)
""",
        "PyTorch's binomial": """
def ceiling(counts, k):
    if (counts < 0).any() or counts.sum() == 0:
        raise ValueError("no counts")
    counts = counts.double()
    return torch.minimum(counts, torch.full_like(counts, k)).sum() / counts.sum()


def expected_ceiling(p, n, k):
    j = torch.arange(n + 1, dtype=torch.float64)
    found = torch.zeros((), dtype=torch.float64)
    for each in p.double():
        chance = torch.distributions.Binomial(n, probs=each).log_prob(j).exp()
        if each == 0 or each == 1:
            chance = (j == n * each).double()
        found = found + (chance * j.clamp(max=k)).sum()
    return found / n
""",
        "one picture more at a time": """
def ceiling(counts, k):
    if torch.any(counts < 0) or not torch.any(counts > 0):
        raise ValueError("no counts")
    sizes = counts[counts > 0].double()
    guess = torch.clamp(k / sizes, max=1)
    return (guess * sizes).sum() / sizes.sum()


def expected_ceiling(p, n, k):
    p = p.double()
    chance = torch.zeros(len(p), k + 1, dtype=torch.float64)
    chance[:, 0] = 1
    for _ in range(n):
        moved = chance[:, :-1] * p[:, None]
        stay = chance * (1 - p[:, None])
        stay[:, -1] = chance[:, -1]
        stay[:, 1:] += moved
        chance = stay
    return (chance * torch.arange(k + 1)).sum() / n
""",
    },
}

BUGS = {
    "info_nce": {
        "the partner counted twice": (
            "own = logits.diagonal()",
            "own = logits.diagonal() - torch.tensor(2.0).log()",
        ),
        "partner and denominator": (
            "rows, columns = logits.logsumexp(1) - own, logits.logsumexp(0) - own",
            "rows, columns = (torch.logaddexp(logits.logsumexp(d), own) - own for d in (1, 0))",
        ),
        "one direction": ("(rows + columns).mean() / 2", "rows.mean()"),
        "sum for mean": ("(rows + columns).mean() / 2", "(rows + columns).sum() / 2"),
        "not halved": (".mean() / 2", ".mean()"),
        "not normalised": (
            "a, b = functional.normalize(a, dim=1), functional.normalize(b, dim=1)",
            "a, b = a, b",
        ),
        "one side normalised": ("functional.normalize(b, dim=1)", "b"),
        "columns normalised": ("functional.normalize(b, dim=1)", "functional.normalize(b, dim=0)"),
        "times the temperature": ("/ temperature", "* temperature"),
        "the mask drops the partner": (
            "alike = (same[:, None] == same) & others",
            "alike = same[:, None] == same",
        ),
        "the mask ignored": ("if same is not None", "if False"),
        "those of other classes left out": ("(same[:, None] == same)", "(same[:, None] != same)"),
        "masked by zero": ("-torch.inf", "0.0"),
        "masked by -1": ("-torch.inf", "-1.0"),
        "masked on one direction": (
            "logits.logsumexp(0) - own",
            "(a @ b.T / temperature).logsumexp(0) - own",
        ),
        "exponentials": ("logits.logsumexp(1) - own", "logits.exp().sum(1).log() - own"),
        "a against itself": ("logits = a @ b.T", "logits = a @ a.T"),
        "detached": ("return (rows", "return (rows.detach()"),
        "temperature detached": (
            "/ temperature",
            "/ (temperature.detach() if torch.is_tensor(temperature) else temperature)",
        ),
        "log of the mean": (
            "(rows + columns).mean() / 2",
            "(rows + columns).exp().mean().log() / 2",
        ),
        "over n squared": (".mean() / 2", ".mean() / 2 / len(a)"),
        "squared distances": ("a @ b.T", "-torch.cdist(a, b) ** 2"),
        "logits normalised again": ("own = logits", "logits = logits.softmax(1)\n    own = logits"),
        "float64": ("return (rows", "return (rows.double()"),
        "sign": ("return (rows + columns)", "return -(rows + columns)"),
        "in place": (
            "a, b = functional.normalize(a, dim=1), functional.normalize(b, dim=1)",
            "a.data /= a.data.norm(dim=1, keepdim=True); b = functional.normalize(b, dim=1)",
        ),
    },
    "recall_at": {
        "ties in favour": (
            "missed = torch.where(j < places, missed * share, missed)",
            "missed = torch.where(j < places, 0 * missed, missed)",
        ),
        "ties against": (
            "places = k - (similarity > best).sum(1)",
            "places = k - ((similarity >= best) & ~own).sum(1)",
        ),
        "half of a tie": (
            "share = (foreign - j).clamp(min=0) / (tied - j).clamp(min=1)",
            "share = torch.where(foreign > 0, 0.5, 0.0)",
        ),
        "as if with replacement": (
            "(foreign - j).clamp(min=0) / (tied - j).clamp(min=1)",
            "foreign / tied",
        ),
        "one own caption alone": [
            (
                "tied, foreign = level.sum(1), (level & ~own).sum(1)",
                "tied = level.sum(1); foreign = tied - 1",
            ),
        ],
        "k + 1": ("places = k -", "places = k + 1 -"),
        "k - 1": ("places = k -", "places = k - 1 -"),
        "the worst own": [
            ("-torch.inf).amax(", "torch.inf).amin("),
        ],
        "the first own": (
            "best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)",
            "best = similarity.gather(1, own.int().argmax(1, keepdim=True))",
        ),
        "the mean of the own": (
            "best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)",
            "best = (similarity * own).sum(1, keepdim=True) / own.sum(1, keepdim=True)",
        ),
        "own counted among the better": (
            "(similarity > best).sum(1)",
            "(similarity >= best).sum(1) + 1",
        ),
        "smaller is better": ("(similarity > best)", "(similarity < best)"),
        "captions in blocks": (
            "own = owners == torch.arange(len(similarity))[:, None]",
            "own = owners.sort().values == torch.arange(len(similarity))[:, None]",
        ),
        "masked by 0": ("masked_fill(~own, -torch.inf)", "masked_fill(~own, 0.0)"),
        "masked by a product": ("similarity.masked_fill(~own, -torch.inf)", "(similarity * own)"),
        "masked by -1e9": ("masked_fill(~own, -torch.inf)", "masked_fill(~own, -1e9)"),
        "not refused": ("similarity.isnan().any()", "False"),
        "infinite ones refused": ("similarity.isnan().any()", "not similarity.isfinite().all()"),
        "a share of the own captions": (
            "return 1 - missed.mean()",
            "return ((1 - missed) / own.sum(1)).mean().to(similarity.dtype)",
        ),
        "mean over captions": (
            "return 1 - missed.mean()",
            "return 1 - missed[owners].mean()",
        ),
        "median": ("missed.mean()", "missed.median()"),
        "missed": ("return 1 - missed.mean()", "return missed.mean()"),
        "float32": ("return 1 - missed.mean()", "return (1 - missed.mean()).float()"),
        "a Python number": ("missed.mean()", "missed.mean().item()"),
        "the first k of a sort": (
            "return 1 - missed.mean()",
            "top = similarity.argsort(1, descending=True, stable=True)[:, :k]\n"
            "    return own.gather(1, top).any(1).to(similarity.dtype).mean()",
        ),
        "in place": ("similarity.masked_fill(", "similarity.masked_fill_("),
    },
    "auroc": {
        "sign": ("return v.mean(), (v", "return 1 - v.mean(), (v"),
        "positives swapped": (
            "good, bad = score[~wrong].sort().values, score[wrong].sort().values",
            "bad, good = score[~wrong].sort().values, score[wrong].sort().values",
        ),
        "ties 0": ("(smaller + up_to)", "(smaller + smaller)"),
        "ties 1": ("(smaller + up_to)", "(up_to + up_to)"),
        "ties 1 for one side": (
            "v, w = below(good, bad), 1 - below(bad, good)",
            "v, w = below(good, bad), 1 - torch.searchsorted(good, bad) / len(good)",
        ),
        "not halved": ("(2 * len(others))", "len(others)"),
        "the other class's size": ("(2 * len(others))", "(2 * len(x))"),
        "all scores": ("(2 * len(others))", "(2 * len(score))"),
        "not sorted": ("score[wrong].sort().values", "score[wrong]"),
        "neither sorted": [
            ("score[~wrong].sort().values", "score[~wrong]"),
            ("score[wrong].sort().values", "score[wrong]"),
        ],
        "integer division": (
            "(smaller + up_to).double() / (2 * len(others))",
            "((smaller + up_to) // (2 * len(others))).double()",
        ),
        "a threshold at a half": (
            "return v.mean(),",
            "return ((good > 0.5).double().mean() + (bad < 0.5).double().mean()) / 2,",
        ),
        "never below a half": ("return v.mean()", "return torch.maximum(v.mean(), 1 - v.mean())"),
        "float32": ("return v.mean(),", "return v.mean().float(),"),
        "population variances": (
            "v.var() / len(v) + w.var()",
            "v.var(correction=0) / len(v) + w.var(correction=0)",
        ),
        "one part of the error": ("v.var() / len(v) + w.var() / len(w)", "v.var() / len(v)"),
        "the other part alone": ("v.var() / len(v) + w.var() / len(w)", "w.var() / len(w)"),
        "sizes swapped": (
            "v.var() / len(v) + w.var() / len(w)",
            "v.var() / len(w) + w.var() / len(v)",
        ),
        "no root": (
            "(v.var() / len(v) + w.var() / len(w)).sqrt()",
            "(v.var() / len(v) + w.var() / len(w))",
        ),
        "deviations added": (
            "(v.var() / len(v) + w.var() / len(w)).sqrt()",
            "v.std() / len(v) ** 0.5 + w.std() / len(w) ** 0.5",
        ),
        "that of a share": (
            "(v.var() / len(v) + w.var() / len(w)).sqrt()",
            "(v.mean() * (1 - v.mean()) / len(score)).sqrt()",
        ),
        "a list": (
            "return v.mean(), (v",
            "return [v.mean(), (v",
        ),
        "a table of pairs": (
            "v, w = below(good, bad), 1 - below(bad, good)",
            "table = (good[:, None] > bad).double() + (good[:, None] == bad).double() / 2\n"
            "    v, w = table.mean(1), table.mean(0)",
        ),
        "one of each taken": ("< 2:", "< 1:"),
        "none refused": ("min(len(good), len(bad)) < 2", "len(score) < 2"),
        "few wrong ones taken": ("min(len(good), len(bad))", "len(good)"),
        "few right ones taken": ("min(len(good), len(bad))", "len(bad)"),
        "in place": (
            "good, bad = score[~wrong].sort().values",
            "wrong &= score < score.max(); score -= score.mean()\n"
            "    good, bad = score[~wrong].sort().values",
        ),
        "not a number": ("return v.mean(), (v", "return v.median(), (v"),
    },
    "ceiling": {
        "k over n": ("counts.clamp(max=k).sum().double()", "(0 * counts).sum().double() + k"),
        "every class k": ("counts.clamp(max=k).sum().double()", "k * (counts > 0).sum().double()"),
        "above 1": ("counts.clamp(max=k)", "counts.clamp(min=k)"),
        "k - 1": ("counts.clamp(max=k)", "counts.clamp(max=k - 1)"),
        "not weighted": (
            "return counts.clamp(max=k).sum().double() / counts.sum()",
            "counts = counts[counts > 0].double()\n    return (k / counts).clamp(max=1).mean()",
        ),
        "empty classes divide": (
            "return counts.clamp(max=k).sum().double() / counts.sum()",
            "counts = counts.double()\n"
            "    return ((k / counts).clamp(max=1) * counts / counts.sum()).sum() + 0 / counts.min()",
        ),
        "classes of the mean size": (
            "return counts.clamp(max=k).sum().double() / counts.sum()",
            "return (k / counts[counts > 0].double().mean()).clamp(max=1)",
        ),
        "classes of the median size": (
            "return counts.clamp(max=k).sum().double() / counts.sum()",
            "return (k / counts.double().median()).clamp(max=1)",
        ),
        "own picture left out": ("/ counts.sum()", "/ (counts.sum() - 1)"),
        "over classes": ("/ counts.sum()", "/ len(counts)"),
        "rounded": (
            "counts.clamp(max=k).sum().double() / counts.sum()",
            "(counts.clamp(max=k).sum().double() / counts.sum()).round(decimals=2)",
        ),
        "float32": ("sum().double() / counts", "sum() / counts"),
        "negative ones taken": ("(counts < 0).any() or ", ""),
        "no pictures taken": (" or not counts.any()", ""),
        "empty classes refused": ("(counts < 0)", "(counts <= 0)"),
        "as many as expected": (
            "return found.sum() / n",
            "return (n * p).clamp(max=k).sum() / n",
        ),
        "coefficients": (
            "ways + chance).exp()",
            "chance).exp() * torch.tensor([__import__('math').comb(n, int(i)) for i in j])",
        ),
        "no coefficients": ("(ways + chance)", "chance"),
        "Poisson": (
            "(ways + chance)",
            "(torch.special.xlogy(j, n * p) - n * p - (j + 1).lgamma())",
        ),
        "n for n - j": ("torch.special.xlog1py(n - j, -p)", "torch.special.xlog1py(n, -p)"),
        "logarithms of 0": (
            "torch.special.xlogy(j, p) + torch.special.xlog1py(n - j, -p)",
            "j * p.log() + (n - j) * (1 - p).log()",
        ),
        "one term more": ("((k - j)", "((k - j + 1)"),
        "first term left out": ("found = k - ((k - j)", "found = k - ((j > 0) * (k - j)"),
        "over classes again": ("return found.sum() / n", "return found.mean() / n"),
        "not over n": ("return found.sum() / n", "return found.sum()"),
        "the first class alone": ("return found.sum() / n", "return found[0] * len(found) / n"),
        "drawn": (
            "return found.sum() / n",
            "drawn = torch.multinomial(p[:, 0], n, replacement=True)\n"
            "    return ceiling(torch.bincount(drawn), k)",
        ),
    },
}
