"""What the assignment "CODIS" is proved by: right answers written otherwise, and planted bugs."""

ALTERNATIVES = {
    "soft_alignment": {
        "soft targets of PyTorch": """
def soft_alignment(z, t, keys, queue, ids, queue_ids, alpha, tau):
    k = torch.cat((keys, queue), dim=0).detach()
    owner = torch.cat((ids, queue_ids))
    right = owner[None, :] == ids[:, None]
    share = right / right.sum(dim=1, keepdim=True)
    opinion = functional.softmax((t @ k.T / tau).detach(), dim=1)
    target = (alpha * opinion + (1 - alpha) * share.to(opinion)).detach()
    return functional.cross_entropy(z @ k.T / tau, target)
""",
        "both parts by themselves": """
def soft_alignment(z, t, keys, queue, ids, queue_ids, alpha, tau):
    k, owner = torch.cat([keys, queue]).detach(), torch.cat([ids, queue_ids])
    logits = z @ k.t() / tau
    logits = logits - torch.logsumexp(logits, 1, keepdim=True)
    thinks = torch.softmax(t.detach() @ k.t() / (tau if isinstance(tau, float) else tau.detach()), 1)
    distilled = -(thinks * logits).sum() / len(z)
    known = 0
    for i in range(len(z)):
        known = known - logits[i, owner == ids[i]].mean() / len(z)
    return alpha * distilled + (1 - alpha) * known
""",
        "a divergence and an entropy": """
def soft_alignment(z, t, keys, queue, ids, queue_ids, alpha, tau):
    k = torch.cat([keys, queue]).detach()
    with torch.no_grad():
        known = (torch.cat([ids, queue_ids])[None] == ids[:, None]).to(k)
        target = (1 - alpha) * functional.normalize(known, p=1, dim=1)
        target += alpha * (t @ k.T / tau).softmax(1)
        entropy = -torch.xlogy(target, target).sum() / len(z)
    log_p = functional.log_softmax(z @ k.T / tau, dim=-1)
    return functional.kl_div(log_p, target, reduction="batchmean") + entropy
""",
    },
    "hard_negatives": {
        "counted": """
def hard_negatives(logits, ids, noise):
    allowed = ids[:, None] != ids[None]
    x = torch.where(allowed, logits.double(), float("-inf"))
    p = torch.softmax(x, 1)
    p = torch.where(allowed, p, torch.zeros_like(p))
    sums = torch.cumsum(p, 1)
    drawn = (sums[:, None, :] <= noise[:, :, None]).sum(2)
    places = torch.arange(len(ids))
    last = torch.where(allowed, places, -torch.ones_like(places)).max(1, keepdim=True).values
    return drawn.clamp(max=last)
""",
        "row by row": """
def hard_negatives(logits, ids, noise):
    rows = []
    for i, row in enumerate(logits.double()):
        allowed = [j for j in range(len(ids)) if ids[j] != ids[i]]
        if not allowed:
            rows.append([-1] * noise.shape[1])
            continue
        p = row[allowed].softmax(0).tolist()
        drawn = []
        for u in noise[i].tolist():
            total, found = 0.0, allowed[-1]
            for j, share in zip(allowed, p):
                total += share
                if total > u:
                    found = j
                    break
            drawn.append(found)
        rows.append(drawn)
    return torch.tensor(rows)
""",
        "exponentials, shifted by hand": """
def hard_negatives(logits, ids, noise):
    n = len(ids)
    own = ids.unsqueeze(1).eq(ids.unsqueeze(0))
    x = logits.to(torch.float64).masked_fill(own, -1e30)
    w = (x - x.amax(1, keepdim=True)).exp().masked_fill(own, 0)
    total = w.sum(1, keepdim=True)
    sums = w.cumsum(1) / torch.where(total > 0, total, torch.ones_like(total))
    out = torch.full(noise.shape, -1)
    for i in range(n):
        allowed = (~own[i]).nonzero().flatten()
        if len(allowed):
            at = torch.searchsorted(sums[i, allowed], noise[i].double(), right=True)
            out[i] = allowed[at.clamp(max=len(allowed) - 1)]
    return out
""",
    },
    "mask_words": {
        "caption by caption": """
def mask_words(ids, words, pick, how, other, mask_id, rate=0.15):
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    for b in range(ids.shape[0]):
        seen = {}
        for t in range(ids.shape[1]):
            word = int(words[b, t])
            if word < 0:
                continue
            if word not in seen:
                seen[word] = bool(pick[b, t] < rate)
            if seen[word]:
                labels[b, t] = ids[b, t]
                if how[b, t] < 0.8:
                    inputs[b, t] = mask_id
                elif how[b, t] < 0.9:
                    inputs[b, t] = other[b, t]
    return inputs, labels
""",
        "beginnings, carried on": """
def mask_words(ids, words, pick, how, other, mask_id, rate=0.15):
    b, t = ids.shape
    starts = torch.ones(b, t, dtype=torch.bool)
    starts[:, 1:] = words[:, 1:] != words[:, :-1]
    places = torch.where(starts, torch.arange(t).expand(b, t), torch.zeros(b, t).long())
    first = places.cummax(1).values
    chosen = torch.gather(pick < rate, 1, first) & words.ge(0)
    masked = chosen & (how < 0.8)
    swapped = chosen & ~(how < 0.8) & (how < 0.9)
    inputs = ids.masked_fill(masked, mask_id)
    inputs[swapped] = other[swapped]
    return inputs, ids.masked_fill(~chosen, -100)
""",
        "the least place of a word": """
def mask_words(ids, words, pick, how, other, mask_id, rate=0.15):
    b, t = ids.shape
    place = torch.arange(t).expand(b, t)
    keys = words + 1
    least = torch.full((b, t + 1), t)
    least = least.scatter_reduce(1, keys, place, reduce="amin")
    first = least.gather(1, keys)
    chosen = (pick.gather(1, first) < rate) * (words != -1)
    labels = ids * chosen - 100 * ~chosen
    inputs = ids.clone()
    inputs[chosen & (how < 0.9)] = other[chosen & (how < 0.9)]
    inputs[chosen & (how < 0.8)] = mask_id
    return inputs, labels
""",
    },
    "rerank": {
        "in Python": """
def rerank(similarity, match, k):
    s = similarity.tolist()
    orders = [sorted(range(len(row)), key=lambda j, row=row: -row[j]) for row in s]
    pairs = [(i, j) for i, order in enumerate(orders) for j in order[:k]]
    rows, columns = (torch.tensor(each) for each in zip(*pairs))
    score = dict(zip(pairs, match(rows, columns).tolist()))
    return torch.tensor([
        sorted(order[:k], key=lambda j, i=i: -score[i, j]) + order[k:]
        for i, order in enumerate(orders)
    ])
""",
        "a table of scores": """
def rerank(similarity, match, k):
    n, m = similarity.shape
    order = torch.sort(-similarity, dim=1, stable=True).indices
    k = min(k, m)
    rows = torch.arange(n).repeat_interleave(k)
    columns = order[:, :k].reshape(-1)
    scores = torch.full((n, m), -torch.inf, dtype=torch.float64)
    scores[:, :k] = match(rows, columns).reshape(n, k).double()
    again = torch.sort(scores, dim=1, descending=True, stable=True).indices
    return torch.gather(order, 1, again)
""",
        "sorted by two keys": """
def rerank(similarity, match, k):
    n, m = similarity.shape
    k = k if k < m else m
    order = torch.argsort(similarity, dim=-1, descending=True, stable=True)
    out = order.clone()
    rows = torch.tensor([i for i in range(n) for _ in range(k)])
    score = match(rows, torch.cat([row[:k] for row in order]))
    for i in range(n):
        mine = score[i * k : (i + 1) * k]
        out[i, :k] = order[i, :k][torch.sort(mine, descending=True, stable=True)[1]]
    return out
""",
    },
}

BUGS = {
    "soft_alignment": {
        "no positives": (
            "alpha * thinks + (1 - alpha) * known / known.sum(1, keepdim=True)",
            "thinks",
        ),
        "the pair alone": (
            "(ids[:, None] == torch.cat([ids, queue_ids])).to(z.dtype)",
            "torch.eye(len(z), len(every), dtype=z.dtype)",
        ),
        "not shared": ("known / known.sum(1, keepdim=True)", "known"),
        "shared over columns": (
            "known.sum(1, keepdim=True)",
            "known.sum(0, keepdim=True).clamp(min=1)",
        ),
        "the queue's captions unknown": (
            "known = (ids[:, None] == torch.cat([ids, queue_ids])).to(z.dtype)",
            "known = (ids[:, None] == torch.cat([ids, queue_ids - 99])).to(z.dtype)",
        ),
        "the batch's captions unknown": (
            "    return -",
            "    known = torch.cat([torch.eye(len(z)).to(z), known[:, len(z) :]], 1)\n"
            "    target = alpha * thinks + (1 - alpha) * known / known.sum(1, keepdim=True)\n    return -",
        ),
        "queue first": ("torch.cat([keys, queue])", "torch.cat([queue, keys])"),
        "no queue": [("torch.cat([keys, queue])", "keys"), ("torch.cat([ids, queue_ids])", "ids")],
        "alpha the other way": (
            "alpha * thinks + (1 - alpha) * known",
            "(1 - alpha) * thinks + alpha * known",
        ),
        "a sum of both": ("(1 - alpha) * known", "known"),
        "similarities for chances": ("(t @ every.T / tau).softmax(1)", "(t @ every.T / tau)"),
        "the teacher without temperature": ("(t @ every.T / tau)", "(t @ every.T)"),
        "the student without temperature": ("(z @ every.T / tau)", "(z @ every.T)"),
        "times the temperature": ("(z @ every.T / tau)", "(z @ every.T * tau)"),
        "a softmax over students": ("log_softmax(1)", "log_softmax(0)"),
        "the teacher over rows": (".softmax(1)", ".softmax(0)"),
        "the student's own opinion": ("(t @ every.T", "(z @ every.T"),
        "the log of a softmax": (".log_softmax(1)", ".softmax(1).log()"),
        "a sum for the mean": (".sum(1).mean()", ".sum()"),
        "a mean over keys": (".sum(1).mean()", ".mean()"),
        "sign": ("return -", "return "),
        "a gradient through targets and keys": ("with torch.no_grad():", "if True:"),
        "a gradient through keys": ("(z @ every.T", "(z @ torch.cat([keys, queue]).T"),
        "no gradient of the temperature": ("(z @ every.T / tau)", "(z @ every.T / float(tau))"),
        "students detached": ("(z @ every.T", "(z.detach() @ every.T"),
        "divergence for cross-entropy": (
            "return -(target *",
            "return (torch.xlogy(target, target)).sum(1).mean() - (target *",
        ),
        "float32": (".sum(1).mean()", ".sum(1).mean().float()"),
        "a Python number": (".sum(1).mean()", ".sum(1).mean().item()"),
        "keys normalised by their number": (
            "(z @ every.T / tau)",
            "(z @ every.T / tau / every.shape[1] ** 0.5)",
        ),
    },
    "hard_negatives": {
        "masked after the softmax": (
            "logits.double().masked_fill(own, -torch.inf).softmax(1)",
            "logits.double().softmax(1).masked_fill(own, 0); chances = chances / chances.sum(1, keepdim=True)",
        ),
        "with a small constant": (
            "logits.double().masked_fill(own, -torch.inf).softmax(1)",
            "(logits.double().softmax(1) + 1e-5).masked_fill(own, 0); chances = chances / chances.sum(1, keepdim=True)",
        ),
        "not masked": ("masked_fill(own, -torch.inf)", "masked_fill(own & ~own, -torch.inf)"),
        "the pair masked alone": (
            "own = ids[:, None] == ids",
            "own = torch.eye(len(ids), dtype=torch.bool)",
        ),
        "others of the picture alone": (
            "ids[:, None] == ids",
            "(ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool)",
        ),
        "masked by 0": ("-torch.inf", "0"),
        "masked by -10": ("-torch.inf", "-10"),
        "the hardest": (
            "drawn = torch.searchsorted(sums, noise.double(), right=True)",
            "drawn = chances.argmax(1, keepdim=True).expand(-1, noise.shape[1])",
        ),
        "the easiest": ("logits.double()", "-logits.double()"),
        "uniform": ("logits.double()", "(0 * logits).double()"),
        "columns": ("softmax(1)", "softmax(0)"),
        "transposed": ("logits.double()", "logits.double().T"),
        "the exponentials of a softmax": (".softmax(1)", ".softmax(1).softmax(1)"),
        "normalised by the rows alone": (".softmax(1)", ".exp()"),
        "from the other end": ("noise.double()", "1 - noise.double()"),
        "the column before": (
            "torch.searchsorted(sums, noise.double(), right=True)",
            "torch.searchsorted(sums, noise.double(), right=True) - 1",
        ),
        "left": ("right=True", "right=False"),
        "one number for all rows": (
            "noise.double()",
            "noise.double()[:1].expand_as(noise).contiguous()",
        ),
        "the first number alone": (
            "noise.double()",
            "noise.double()[:, :1].expand_as(noise).contiguous()",
        ),
        "rounding draws what is forbidden": (
            "return torch.minimum(drawn, last)",
            "return torch.where(last < 0, last, drawn.clamp(max=len(ids) - 1))",
        ),
        "beyond the last": (
            "return torch.minimum(drawn, last)",
            "return torch.where(last < 0, last, drawn)",
        ),
        "without a negative the last": (
            "return torch.minimum(drawn, last)",
            "return torch.minimum(drawn, last.abs())",
        ),
        "without a negative 0": (
            "return torch.minimum(drawn, last)",
            "return torch.minimum(drawn, last).clamp(min=0)",
        ),
        "float32 numbers": (
            "return torch.minimum(drawn, last)",
            "return torch.minimum(drawn, last).float()",
        ),
        "32 bits": ("return torch.minimum(drawn, last)", "return torch.minimum(drawn, last).int()"),
        "each once": (
            "return torch.minimum(drawn, last)",
            "drawn = torch.minimum(drawn, last)\n    return drawn.sort(1).values",
        ),
        "drawn anew": (
            "drawn = torch.searchsorted(sums, noise.double(), right=True)",
            "drawn = torch.searchsorted(sums, torch.rand(noise.shape, dtype=torch.float64), right=True)",
        ),
        "logits changed": (
            "logits.double().masked_fill",
            "logits.masked_fill_(own, -torch.inf).double().masked_fill",
        ),
    },
    "mask_words": {
        "tokens by themselves": ("pick.gather(1, first)", "pick"),
        "the last token": (
            "first = (words[:, :, None] == words[:, None]).int().argmax(2)",
            "first = words.shape[1] - 1 - (words[:, :, None] == words[:, None]).int().flip(2).argmax(2)",
        ),
        "any of its tokens": (
            "chosen = (pick.gather(1, first) < rate)",
            "chosen = ((words[:, :, None] == words[:, None]) & (pick < rate)[:, None]).any(2)",
        ),
        "all of its tokens": (
            "chosen = (pick.gather(1, first) < rate)",
            "chosen = ((words[:, :, None] != words[:, None]) | (pick < rate)[:, None]).all(2)",
        ),
        "special ones too": (" & (words >= 0)", ""),
        "the first word never": ("words >= 0", "words > 0"),
        "above the rate": ("first) < rate", "first) > rate"),
        "the rate too": ("first) < rate", "first) <= rate"),
        "always 15%": ("first) < rate", "first) < 0.15"),
        "0.8 is masked": [("how < 0.8", "how <= 0.8"), ("how >= 0.8", "how > 0.8")],
        "0.8 stays": ("how >= 0.8", "how > 0.8"),
        "0.9 is exchanged": ("how < 0.9", "how <= 0.9"),
        "all masked": ("how < 0.8", "how < 2"),
        "none stays": ("how < 0.9", "how < 2"),
        "none exchanged": ("how >= 0.8", "how >= 1.8"),
        "80% of what is left": ("how < 0.9", "how < 0.98"),
        "exchanged outside": ("chosen & (how >= 0.8)", "(how >= 0.8)"),
        "masked outside": ("chosen & (how < 0.8)", "(how < 0.8)"),
        "one fate for a word": [
            ("how < 0.8", "how.gather(1, first) < 0.8"),
            ("how >= 0.8", "how.gather(1, first) >= 0.8"),
            ("how < 0.9", "how.gather(1, first) < 0.9"),
        ],
        "one exchange for a word": ("other, inputs)", "other.gather(1, first), inputs)"),
        "labels everywhere": ("torch.where(chosen, ids, -100)", "ids"),
        "labels of what changed": (
            "torch.where(chosen, ids, -100)",
            "torch.where(inputs != ids, ids, -100)",
        ),
        "labels of what is masked": (
            "torch.where(chosen, ids, -100)",
            "torch.where(inputs == mask_id, ids, -100)",
        ),
        "labels after": ("torch.where(chosen, ids, -100)", "torch.where(chosen, inputs, -100)"),
        "-1 for no label": ("-100", "-1"),
        "0 for no label": ("-100", "0"),
        "labels first": (
            "return inputs, torch.where(chosen, ids, -100)",
            "return torch.where(chosen, ids, -100), inputs",
        ),
        "words across captions": (
            "pick.gather(1, first)",
            "pick[:1].expand_as(pick).gather(1, first)",
        ),
        "the mask of BERT": ("mask_id, ids)", "103, ids)"),
        "in place": (
            "inputs = torch.where(chosen & (how < 0.8), mask_id, ids)",
            "inputs = ids.masked_fill_(chosen & (how < 0.8), mask_id)",
        ),
    },
    "rerank": {
        "not re-ranked": ("top.gather(1, again)", "top"),
        "least similar first": (
            "similarity.argsort(dim=1, descending=True",
            "similarity.argsort(dim=1, descending=False",
        ),
        "worst score first": (
            "scores.argsort(dim=1, descending=True",
            "scores.argsort(dim=1, descending=False",
        ),
        "columns for rows": ("similarity.argsort(dim=1", "similarity.T.argsort(dim=1"),
        "places for candidates": ("top.gather(1, again)", "again"),
        "the inverse": ("top.gather(1, again)", "top.gather(1, again.argsort(dim=1))"),
        "k + 1": ("order[:, :k], order[:, k:]", "order[:, : k + 1], order[:, k + 1 :]"),
        "k - 1": (
            "order[:, :k], order[:, k:]",
            "order[:, : max(k - 1, 1)], order[:, max(k - 1, 1) :]",
        ),
        "all of them": ("order[:, :k], order[:, k:]", "order, order[:, :0]"),
        "others dropped": (
            "torch.cat([top.gather(1, again), rest], dim=1)",
            "top.gather(1, again)",
        ),
        "others first": ("[top.gather(1, again), rest]", "[rest, top.gather(1, again)]"),
        "others in the order of columns": ("again), rest]", "again), rest.sort(1).values]"),
        "others the worst first": ("again), rest]", "again), rest.flip(1)]"),
        "unstable": (
            "scores.argsort(dim=1, descending=True, stable=True)",
            "scores.flip(1).argsort(dim=1, descending=True, stable=True).neg() + scores.shape[1] - 1",
        ),
        "ties of similarity the other way": (
            "similarity.argsort(dim=1, descending=True, stable=True)",
            "similarity.argsort(dim=1, stable=True).flip(1)",
        ),
        "scores added": ("view_as(top)", "view_as(top) + similarity.gather(1, top)"),
        "scores of probabilities": ("view_as(top)", "view_as(top) * similarity.gather(1, top)"),
        "rows and columns swapped": (
            "match(rows.flatten(), top.flatten())",
            "match(top.flatten() % len(top), rows.flatten())",
        ),
        "in the order of queries": (
            "match(rows.flatten(), top.flatten()).view_as(top)",
            "match(rows.T.flatten(), top.T.flatten()).view_as(top)",
        ),
        "one call a query": (
            "match(rows.flatten(), top.flatten()).view_as(top)",
            "torch.stack([match(r, c) for r, c in zip(rows, top)])",
        ),
        "every pair asked": (
            "scores = match(rows.flatten(), top.flatten()).view_as(top)",
            "n, m = similarity.shape\n    all_rows = torch.arange(n).repeat_interleave(m)\n"
            "    scores = match(all_rows, torch.arange(m).repeat(n)).view(n, m).gather(1, top)",
        ),
        "asked twice": (
            "scores = match(",
            "match(rows.flatten(), top.flatten())\n    scores = match(",
        ),
        "tables for vectors": (
            "match(rows.flatten(), top.flatten()).view_as(top)",
            "match(rows, top)",
        ),
        "the best alone": (
            "again = scores.argsort(dim=1, descending=True, stable=True)",
            "best = scores.argmax(1, keepdim=True)\n"
            "    again = torch.cat([best, (torch.arange(top.shape[1]) + 0 * best)], 1)\n"
            "    again = torch.stack([torch.tensor(list(dict.fromkeys(r.tolist()))) for r in again])",
        ),
        "topk refuses": (
            "similarity.argsort(dim=1, descending=True, stable=True)",
            "torch.cat([similarity.topk(k, 1).indices, similarity.argsort(dim=1, descending=True, stable=True)[:, k:]], 1)",
        ),
        "one more as scores of 0": (
            "order = similarity",
            "similarity.sub_(similarity.mean())\n    order = similarity",
        ),
        "a list": (
            "return torch.cat([top.gather(1, again), rest], dim=1)",
            "return torch.cat([top.gather(1, again), rest], dim=1).tolist()",
        ),
    },
}
