"""What the assignment "Captioning" is proved by: right answers written otherwise, and bugs."""

EVERYWHERE = """
def everywhere(attention, lengths, mask):
    said = torch.arange(attention.shape[1])[None] < lengths[:, None]
    total = torch.einsum("btp,bt->bp", attention, said.to(attention.dtype))
    each = [((1 - row[m]) ** 2).mean() for row, m in zip(total, mask) if m.any()]
    return torch.stack(each).mean()
"""

ALTERNATIVES = {
    "attend": {
        "picture by picture": """
def attend(features, mask, h, U, W, w, V):
    seen, weights = [], []
    for a, m, state in zip(features, mask, h):
        row = torch.zeros(len(a), dtype=a.dtype)
        z = torch.zeros(a.shape[1], dtype=a.dtype)
        if m.any():
            e = torch.clamp(a[m] @ U.T + W @ state, min=0) @ w
            e = (e - e.max()).exp()
            share = e / e.sum()
            row[m] = share
            z = torch.sigmoid(V @ state) * (share @ a[m])
        seen.append(z)
        weights.append(row)
    return torch.stack(seen), torch.stack(weights)
"""
        + EVERYWHERE,
        "a softmax of large negatives": """
def attend(features, mask, h, U, W, w, V):
    there = mask.to(h.dtype)
    a = torch.where(mask.unsqueeze(-1), features, torch.zeros_like(features))
    e = functional.relu(functional.linear(a, U) + functional.linear(h, W).unsqueeze(1))
    e = torch.einsum("bpk,k->bp", e, w)
    alpha = torch.softmax(torch.where(mask, e, torch.full_like(e, -1e9)), 1) * there
    z = torch.bmm(alpha.unsqueeze(1), a).squeeze(1)
    return functional.linear(h, V).sigmoid() * z, alpha


def everywhere(attention, lengths, mask):
    steps = torch.arange(attention.shape[1]).view(1, -1, 1)
    held = torch.where(steps < lengths.view(-1, 1, 1), attention, torch.zeros_like(attention))
    missed = (held.sum(dim=1) - 1).pow(2) * mask
    some = mask.any(1)
    return (missed[some].sum(1) / mask[some].sum(1)).mean()
""",
        "exponentials": """
def attend(features, mask, h, U, W, w, V):
    a = features.clone()
    a[~mask] = 0
    e = torch.relu(a @ U.t() + (h @ W.t())[:, None, :]).matmul(w)
    e = e - e.detach().max(1, keepdim=True).values
    e = e.exp() * mask
    total = e.sum(1, keepdim=True)
    alpha = e / torch.where(total > 0, total, torch.ones_like(total))
    gate = 1 / (1 + torch.exp(-(h @ V.t())))
    return gate * torch.einsum("bp,bpd->bd", alpha, a), alpha
"""
        + EVERYWHERE,
    },
    "beam_search": {
        "lists of words": """
def beam_search(score, start, end, width, longest, alpha):
    beams, done = [([start], 0.0)], []
    for _ in range(longest):
        if not beams or len(done) >= width:
            break
        logs = score(torch.tensor([words for words, _ in beams])).tolist()
        every = [
            (words + [j], total + log)
            for (words, total), row in zip(beams, logs)
            for j, log in enumerate(row)
        ]
        every.sort(key=lambda each: -each[1])
        kept = every[: width - len(done)]
        done += [each for each in kept if each[0][-1] == end]
        beams = [each for each in kept if each[0][-1] != end]
    best = max(done or beams, key=lambda each: each[1] / (len(each[0]) - 1) ** alpha)
    return torch.tensor(best[0][1:]), torch.tensor(best[1])
""",
        "a heap": """
import heapq


def beam_search(score, start, end, width, longest, alpha):
    alive, finished = [(0.0, (start,))], []
    for _ in range(longest):
        room = width - len(finished)
        if not room or not alive:
            break
        log_p = score(torch.tensor([list(words) for _, words in alive]))
        candidates = (
            (total + float(log_p[i, j]), words + (j,))
            for i, (total, words) in enumerate(alive)
            for j in range(log_p.shape[1])
        )
        best = heapq.nlargest(room, candidates)
        finished.extend(each for each in best if each[1][-1] == end)
        alive = [each for each in best if each[1][-1] != end]
    total, words = max(finished or alive, key=lambda e: e[0] / (len(e[1]) - 1) ** alpha)
    return torch.tensor(words[1:]), torch.tensor(total, dtype=torch.float32)
""",
        "topk of each beam first": """
def beam_search(score, start, end, width, longest, alpha):
    words, sums = torch.full((1, 1), start), torch.zeros(1, 1)
    best, best_value, ended = None, None, 0
    for step in range(1, longest + 1):
        room = width - ended
        logs, tokens = score(words).sort(dim=1, descending=True)
        logs, tokens = logs[:, :room], tokens[:, :room]
        n, k = tokens.shape
        sums = (sums + logs).reshape(-1)
        words = torch.cat([words.repeat_interleave(k, 0), tokens.reshape(-1, 1)], 1)
        order = sums.argsort(descending=True)[:room]
        sums, words = sums[order], words[order]
        over = words[:, -1] == end
        for row, total in zip(words[over], sums[over]):
            value = total / step**alpha
            ended += 1
            if best is None or value > best_value:
                best, best_value = (row[1:], total), value
        words, sums = words[~over], sums[~over, None]
        if ended == width:
            break
    if best is None:
        i = int(sums[:, 0].argmax())
        best = words[i, 1:], sums[i, 0]
    return best
""",
    },
    "corpus_bleu": {
        "dictionaries": """
def corpus_bleu(said, references, n=4):
    hits, runs, c, r = [0] * n, [0] * n, 0, 0
    for words, truths in zip(said, references):
        c += len(words)
        lengths = sorted(len(truth) for truth in truths)
        r += min(lengths, key=lambda length: abs(length - len(words)))
        for m in range(1, n + 1):
            own = {}
            for i in range(len(words) - m + 1):
                run = tuple(words[i : i + m])
                own[run] = own.get(run, 0) + 1
            for run, count in own.items():
                most = 0
                for truth in truths:
                    here = sum(tuple(truth[i : i + m]) == run for i in range(len(truth) - m + 1))
                    most = max(most, here)
                hits[m - 1] += min(count, most)
                runs[m - 1] += count
    if c == 0:
        return torch.zeros(n, dtype=torch.float64)
    brevity = 1.0 if c > r else math.exp(1 - r / c)
    scores = []
    for m in range(1, n + 1):
        if min(hits[:m]) == 0:
            scores.append(0.0)
        else:
            logs = [math.log(hits[i] / runs[i]) for i in range(m)]
            scores.append(brevity * math.exp(sum(logs) / m))
    return torch.tensor(scores, dtype=torch.float64)
""",
        "texts and tensors": """
def corpus_bleu(said, references, n=4):
    table = torch.zeros(2, n, dtype=torch.float64)
    r = 0
    for words, truths in zip(said, references):
        r += sorted((abs(len(t) - len(words)), len(t)) for t in truths)[0][1]
        for m in range(n):
            grams = [" ".join(g) for g in zip(*(words[k:] for k in range(m + 1)))]
            refs = [[" ".join(g) for g in zip(*(t[k:] for k in range(m + 1)))] for t in truths]
            table[1, m] += len(grams)
            for gram in set(grams):
                table[0, m] += min(grams.count(gram), max(ref.count(gram) for ref in refs))
    c = sum(len(words) for words in said)
    q = (table[0] / table[1].clamp(min=1)).log().cumsum(0)
    means = torch.exp(q / torch.arange(1, n + 1))
    return means * (min(1.0, math.exp(1 - r / c)) if c else 0.0)
""",
        "one order after another": """
def corpus_bleu(said, references, n=4):
    def count(words, m):
        return Counter(zip(*[words[i:] for i in range(m)]))

    precision = []
    for m in range(1, n + 1):
        found = every = 0
        for words, truths in zip(said, references):
            have = count(words, m)
            limit = Counter()
            for truth in truths:
                for run, times in count(truth, m).items():
                    limit[run] = max(limit[run], times)
            found += sum(min(times, limit[run]) for run, times in have.items())
            every += max(len(words) - m + 1, 0)
        precision.append(found / every if every else 0.0)
    c = sum(len(words) for words in said)
    r = 0
    for words, truths in zip(said, references):
        best = None
        for truth in truths:
            gap = abs(len(truth) - len(words)), len(truth)
            best = gap if best is None or gap < best else best
        r += best[1]
    factor = 1.0 if c >= r else (math.exp((c - r) / c) if c else 0.0)
    return torch.tensor(
        [factor * math.prod(precision[:m]) ** (1 / m) for m in range(1, n + 1)], dtype=torch.float64
    )
""",
    },
    "equal_pairs": {
        "picture by picture": """
def equal_pairs(places, words, there, real, noise):
    x, y, owners = [], [], []
    for b in range(len(places)):
        p = [i for i in range(places.shape[1]) if there[b, i]]
        t = [i for i in range(words.shape[1]) if real[b, i]]
        p.sort(key=lambda i: float(noise[b, i]))
        for i, j in zip(p, t):
            x.append(places[b, i])
            y.append(words[b, j])
            owners.append(b)
    return torch.stack(x), torch.stack(y), torch.tensor(owners)
""",
        "ranks and masks": """
def equal_pairs(places, words, there, real, noise):
    n = torch.min(there.sum(1), real.sum(1))[:, None]
    value = torch.where(there, noise, torch.full_like(noise, 2.0))
    order = torch.sort(value, dim=1).indices
    kept = torch.arange(places.shape[1])[None] < n
    rows = torch.arange(len(places))[:, None].expand_as(order)
    x = places[rows[kept], order[kept]]
    chosen = real & (real.cumsum(1) <= n)
    return x, words[chosen], chosen.nonzero()[:, 0]
""",
        "gathered": """
def equal_pairs(places, words, there, real, noise):
    xs, ys, owner = [], [], []
    for i in range(places.shape[0]):
        index = torch.nonzero(there[i]).flatten()
        index = index[noise[i][index].argsort()]
        said = words[i][real[i]]
        n = min(len(index), len(said))
        xs += [places[i].index_select(0, index[:n])]
        ys += [said[:n]]
        owner += [torch.full((n,), i)]
    return torch.cat(xs, 0), torch.cat(ys, 0), torch.cat(owner)
""",
    },
}

BUGS = {
    "attend": {
        "a softmax over the batch": ("-torch.inf).softmax(1)", "-torch.inf).softmax(0)"),
        "masked after the softmax": (
            "scores.masked_fill(~mask, -torch.inf).softmax(1).masked_fill(~mask, 0)",
            "scores.softmax(1).masked_fill(~mask, 0)",
        ),
        "masked by 0": ("-torch.inf).softmax", "0).softmax"),
        "none is NaN": (".softmax(1).masked_fill(~mask, 0)", ".softmax(1)"),
        "none is everywhere": (
            "masked_fill(~mask, -torch.inf).softmax(1).masked_fill(~mask, 0)",
            "masked_fill(~mask, -1e9).softmax(1)",
        ),
        "features not filled": (
            "features = features.masked_fill(~mask[..., None], 0)",
            "features = features * mask[..., None]",
        ),
        "no relu": (
            "torch.relu(features @ U.T + (h @ W.T)[:, None])",
            "(features @ U.T + (h @ W.T)[:, None])",
        ),
        "tanh for relu": ("torch.relu(", "torch.tanh("),
        "relu of the scores": (
            "torch.relu(features @ U.T + (h @ W.T)[:, None]) @ w",
            "torch.relu((features @ U.T + (h @ W.T)[:, None]) @ w)",
        ),
        "relu of each": (
            "torch.relu(features @ U.T + (h @ W.T)[:, None])",
            "(torch.relu(features @ U.T) + torch.relu(h @ W.T)[:, None])",
        ),
        "a product": (
            "features @ U.T + (h @ W.T)[:, None]",
            "(features @ U.T) * (h @ W.T)[:, None]",
        ),
        "the state left out": (" + (h @ W.T)[:, None]", ""),
        "scaled by a root": (") @ w\n", ") @ w / len(w) ** 0.5\n"),
        "no gate": ("torch.sigmoid(h @ V.T) * seen", "seen"),
        "tanh for the gate": ("torch.sigmoid(h", "torch.tanh(h"),
        "a softmax for the gate": ("torch.sigmoid(h @ V.T)", "(h @ V.T).softmax(1)"),
        "the gate twice": ("torch.sigmoid(h @ V.T) * seen", "torch.sigmoid(h @ V.T) ** 2 * seen"),
        "a mean for the sum": (
            "(weights[..., None] * features).sum(1)",
            "(weights[..., None] * features).mean(1)",
        ),
        "not weighted": ("(weights[..., None] * features).sum(1)", "features.mean(1)"),
        "the best region alone": (
            "seen = (weights[..., None] * features).sum(1)",
            "seen = features[torch.arange(len(h)), weights.argmax(1)]",
        ),
        "weights detached": ("seen = (weights[", "seen = (weights.detach()["),
        "state detached": ("(h @ W.T)", "(h.detach() @ W.T)"),
        "features in place": (
            "features = features.masked_fill(",
            "features.data = features.data.masked_fill(",
        ),
        "z alone": ("* seen, weights", "* seen, scores"),
        "padding words count": (
            "attention.masked_fill(~said[..., None], 0).sum(1)",
            "attention.sum(1)",
        ),
        "one word more": ("< lengths[:, None]", "<= lengths[:, None]"),
        "a sum over places": (
            "attention.masked_fill(~said[..., None], 0).sum(1)",
            "attention.masked_fill(~said[..., None], 0).sum(2)[:, :1].expand(mask.shape)",
        ),
        "a mean over words": (
            "attention.masked_fill(~said[..., None], 0).sum(1)",
            "attention.masked_fill(~said[..., None], 0).sum(1) / lengths[:, None]",
        ),
        "not squared": ("(1 - total).square()", "(1 - total)"),
        "absolute": ("(1 - total).square()", "(1 - total).abs()"),
        "the square of the mean": (
            "return (missed / regions.clamp(min=1)).sum() / (regions > 0).sum()",
            "m = (1 - total).masked_fill(~mask, 0).sum(1) / regions.clamp(min=1)\n"
            "    return m.square().sum() / (regions > 0).sum()",
        ),
        "missing regions count": (
            "masked_fill(~mask, 0).sum(1)\n    regions",
            "sum(1)\n    regions",
        ),
        "over all places": ("regions = mask.sum(1)", "regions = mask.any(1) * mask.shape[1]"),
        "a sum over regions": ("(missed / regions.clamp(min=1)).sum()", "missed.sum()"),
        "one mean over regions": (
            "(missed / regions.clamp(min=1)).sum() / (regions > 0).sum()",
            "missed.sum() / regions.sum()",
        ),
        "pictures without a region count": ("/ (regions > 0).sum()", "/ len(regions)"),
        "total detached": ("(1 - total)", "(1 - total.detach() + 0 * total)"),
    },
    "beam_search": {
        "chances added": ("score(beams)", "score(beams).exp()"),
        "chances of the sums": (
            "table = sums[:, None] + score(beams)",
            "table = sums[:, None] * score(beams) + (sums[:, None] == 0) * score(beams)",
        ),
        "the last word alone": ("table = sums[:, None] + score(beams)", "table = score(beams)"),
        "greedy": ("room = min(width - len(done), table.numel())", "room = 1"),
        "one more": ("width - len(done), table", "width + 1 - len(done), table"),
        "places are not given up": (
            "min(width - len(done), table.numel())",
            "min(width, table.numel())",
        ),
        "stops at the first": ("while len(done) < width and", "while not done and"),
        "ended ones dropped": (
            "    done += zip(beams[ended, 1:], sums[ended])\n",
            "    done += zip(beams[ended, 1:], sums[ended] - 100)\n",
        ),
        "the first to end": (
            "return max(done, key=lambda each: each[1] / len(each[0]) ** alpha)",
            "return done[0]",
        ),
        "the last to end": (
            "return max(done, key=lambda each: each[1] / len(each[0]) ** alpha)",
            "return done[-1]",
        ),
        "the worst": ("return max(done", "return min(done"),
        "unfinished ones compete": (
            "done = done or list(zip(beams[:, 1:], sums))",
            "done = done + list(zip(beams[:, 1:], sums))",
        ),
        "unfinished ones never": (
            "done = done or list(zip(beams[:, 1:], sums))",
            "done = done or [(beams[0, 1:0], sums[0])]",
        ),
        "the first unfinished one, by the worst": (
            "done = done or list(zip(beams[:, 1:], sums))",
            "done = done or list(zip(beams[-1:, 1:], sums[-1:]))",
        ),
        "alpha left out": (" / len(each[0]) ** alpha", ""),
        "alpha the other way": (
            "each[1] / len(each[0]) ** alpha",
            "each[1] * len(each[0]) ** alpha",
        ),
        "alpha 1": ("** alpha", "** 1.0"),
        "start counted": ("len(each[0]) ** alpha", "(len(each[0]) + 1) ** alpha"),
        "end not counted": ("len(each[0]) ** alpha", "max(len(each[0]) - 1, 1) ** alpha"),
        "the normalised sum returned": (
            "return max(done, key=lambda each: each[1] / len(each[0]) ** alpha)",
            "best = max(done, key=lambda each: each[1] / len(each[0]) ** alpha)\n"
            "    return best[0], best[1] / len(best[0]) ** alpha",
        ),
        "normalised in the search": (
            "table.flatten().topk(room)",
            "(table / 1.0).flatten().topk(room); sums = sums / (1 + alpha)",
        ),
        "one word more": ("beams.shape[1] <= longest", "beams.shape[1] <= longest + 1"),
        "one word less": ("beams.shape[1] <= longest", "beams.shape[1] <= max(longest - 1, 1)"),
        "start kept": ("zip(beams[ended, 1:], sums[ended])", "zip(beams[ended], sums[ended])"),
        "end left out": (
            "return max(done, key=lambda each: each[1] / len(each[0]) ** alpha)",
            "best = max(done, key=lambda each: each[1] / len(each[0]) ** alpha)\n"
            "    return best[0][best[0] != end], best[1]",
        ),
        "the width of each beam": (
            "table.flatten().topk(room)",
            "table[:1].flatten().topk(min(room, table.shape[1]))",
        ),
        "another parent": (
            "beams, ended = torch.cat([beams[row], word[:, None]], 1)",
            "beams, ended = torch.cat([beams[row.flip(0)], word[:, None]], 1)",
        ),
        "rows by the number of beams": (
            "row, word = chosen // table.shape[1], chosen % table.shape[1]",
            "row, word = chosen % len(beams), chosen // len(beams) % table.shape[1]",
        ),
        "the least": ("topk(room)", "topk(room, largest=False)"),
        "one call a beam": ("score(beams)", "torch.cat([score(each[None]) for each in beams])"),
        "the last word for a beginning": ("score(beams)", "score(beams[:, -1:])"),
        "start for a mark": ("word == end", "word == start"),
        "float64": (
            "return max(done, key=lambda each: each[1] / len(each[0]) ** alpha)",
            "best = max(done, key=lambda each: each[1] / len(each[0]) ** alpha)\n"
            "    return best[0], best[1].double()",
        ),
    },
    "corpus_bleu": {
        "a mean over captions": (
            "    length, target = sum(map(len, said)), 0\n",
            "    if len(said) > 1:\n"
            "        pairs = zip(said, references)\n"
            "        return torch.stack([corpus_bleu([w], [t], n) for w, t in pairs]).mean(0)\n"
            "    length, target = sum(map(len, said)), 0\n",
        ),
        "the shortest reference": (
            "min((abs(len(each) - len(words)), len(each)) for each in truths)[1]",
            "min(len(each) for each in truths)",
        ),
        "the longest reference": (
            "min((abs(len(each) - len(words)), len(each)) for each in truths)[1]",
            "max(len(each) for each in truths)",
        ),
        "the mean reference": (
            "min((abs(len(each) - len(words)), len(each)) for each in truths)[1]",
            "sum(len(each) for each in truths) / len(truths)",
        ),
        "the first reference": (
            "min((abs(len(each) - len(words)), len(each)) for each in truths)[1]",
            "len(truths[0])",
        ),
        "the longer of two as near": (
            "min((abs(len(each) - len(words)), len(each)) for each in truths)[1]",
            "-min((abs(len(each) - len(words)), -len(each)) for each in truths)[1]",
        ),
        "runs of all references added": ("best |= runs(truth, m)", "best += runs(truth, m)"),
        "runs of the first reference": ("for truth in truths:", "for truth in truths[:1]:"),
        "runs of the last reference": ("best |= runs(truth, m)", "best = runs(truth, m)"),
        "not clipped": (
            "sum((mine & best).values())",
            "sum(mine[run] for run in mine if run in best)",
        ),
        "kinds of runs": ("sum((mine & best).values())", "len(mine & best)"),
        "kinds of both": [
            ("sum((mine & best).values())", "len(mine & best)"),
            ("sum(mine.values())", "len(mine)"),
        ],
        "recall": ("total + sum(mine.values())", "total + sum(best.values())"),
        "no brevity": ("brevity * product", "product"),
        "brevity upside down": ("1 - target / length", "1 - length / target"),
        "above 1": ("min(1.0, math.exp(1 - target / length))", "math.exp(1 - target / length)"),
        "a quotient for the exponential": ("math.exp(1 - target / length)", "length / target"),
        "brevity of each caption": (
            "    scores, product = [], 1.0\n",
            "    parts = [min(1.0, math.exp(1 - min((abs(len(t) - len(w)), len(t)) for t in r)[1] / len(w)))\n"
            "             if w else 0.0 for w, r in zip(said, references)]\n"
            "    brevity = sum(parts) / len(parts)\n    scores, product = [], 1.0\n",
        ),
        "brevity to the power": ("brevity * product ** (1 / m)", "(brevity * product) ** (1 / m)"),
        "no power": ("product ** (1 / m)", "product"),
        "the power of all": ("product ** (1 / m)", "product ** (1 / n)"),
        "an arithmetic mean": [
            ("product *= hits", "product += hits"),
            ("product ** (1 / m)", "(product - 1) / m"),
        ],
        "each by itself": ("product *= hits", "product = hits"),
        "smoothed": ("product *= hits / max(total, 1)", "product *= (hits + 1) / (total + 1)"),
        "smoothed beyond words": (
            "product *= hits / max(total, 1)",
            "product *= (hits + (m > 1)) / (max(total, 1) + (m > 1))",
        ),
        "a little for 0": (
            "product *= hits / max(total, 1)",
            "product *= max(hits, 0.1) / max(total, 1)",
        ),
        "no runs divides": ("max(total, 1)", "total"),
        "empty divides": (" if length else 0.0", ""),
        "empty captions left out": (
            "for words, truths in zip(said, references):\n        target",
            "for words, truths in zip(said, references):\n        if not words:\n            continue\n        target",
        ),
        "runs one short": ("range(len(words) - m + 1)", "range(len(words) - m)"),
        "runs beyond the end": ("range(len(words) - m + 1)", "range(len(words))"),
        "sets of words": ("tuple(words[i : i + m])", "tuple(sorted(words[i : i + m]))"),
        "letters": ("tuple(words[i : i + m])", "''.join(words[i : i + m])[:2]"),
        "the last alone": ("torch.tensor(scores,", "torch.tensor(scores[-1],"),
        "float32": ("dtype=torch.float64", "dtype=torch.float32"),
        "n left out": ("range(1, n + 1)", "range(1, n)"),
    },
    "equal_pairs": {
        "the first places": (
            "order = noise.masked_fill(~there, torch.inf).argsort(dim=1)",
            "order = (~there).int().argsort(dim=1, stable=True)",
        ),
        "the greatest noise": ("argsort(dim=1)", "argsort(dim=1, descending=True)"),
        "ranks for places": ("argsort(dim=1)", "argsort(dim=1).argsort(dim=1)"),
        "places in their order": ("each[drawn[:n]]", "each[drawn[:n].sort().values]"),
        "missing places drawn": ("noise.masked_fill(~there, torch.inf)", "noise"),
        "missing places first": ("torch.inf", "-torch.inf"),
        "missing places as 0": ("torch.inf)", "0)"),
        "the same draw for all": (
            "order = noise.masked_fill(~there, torch.inf).argsort(dim=1)",
            "order = noise[:1].expand_as(noise).masked_fill(~there, torch.inf).argsort(dim=1)",
        ),
        "with replacement": ("each[drawn[:n]]", "each[drawn[torch.arange(n) // 2]]"),
        "padding words drawn": ("each[mask][:n]", "each[:n]"),
        "the last words": ("each[mask][:n]", "each[mask][len(each[mask]) - n :]"),
        "words turned round": ("each[mask][:n]", "each[mask][:n].flip(0)"),
        "as many as words": ("torch.minimum(there.sum(1), real.sum(1))", "real.sum(1)"),
        "as many as places": ("torch.minimum(there.sum(1), real.sum(1))", "there.sum(1)"),
        "the greater": ("torch.minimum(", "torch.maximum("),
        "as many in all pictures": (
            "    order = noise",
            "    counts = counts.min().expand_as(counts)\n    order = noise",
        ),
        "one less": (
            "torch.minimum(there.sum(1), real.sum(1))",
            "(torch.minimum(there.sum(1), real.sum(1)) - 1).clamp(min=0)",
        ),
        "half": (
            "torch.minimum(there.sum(1), real.sum(1))",
            "torch.minimum(there.sum(1), real.sum(1)) // 2",
        ),
        "places of the next picture": (
            "zip(places, order, counts)",
            "zip(places.roll(1, 0), order, counts)",
        ),
        "words of the next picture": (
            "zip(words, real, counts)",
            "zip(words.roll(1, 0), real, counts)",
        ),
        "places detached": ("return torch.cat(x),", "return torch.cat(x).detach(),"),
        "words detached": ("torch.cat(y), owners", "torch.cat(y).detach(), owners"),
        "words first": ("return torch.cat(x), torch.cat(y)", "return torch.cat(y), torch.cat(x)"),
        "numbers within pictures": (
            "torch.repeat_interleave(torch.arange(len(places)), counts)",
            "torch.cat([torch.arange(int(n)) for n in counts])",
        ),
        "pictures counted without the empty": (
            "torch.repeat_interleave(torch.arange(len(places)), counts)",
            "torch.repeat_interleave(torch.arange(int((counts > 0).sum())), counts[counts > 0])",
        ),
        "counts for owners": (
            "torch.repeat_interleave(torch.arange(len(places)), counts)",
            "counts",
        ),
        "empty pictures left in": (
            "torch.minimum(there.sum(1), real.sum(1))",
            "torch.minimum(there.sum(1), real.sum(1)).clamp(min=1)",
        ),
        "owners as floats": (
            "torch.repeat_interleave(torch.arange(len(places)), counts)",
            "torch.repeat_interleave(torch.arange(len(places)), counts).to(places)",
        ),
    },
}
