"""What the assignment "Video QA" is proved by: right answers written otherwise, and bugs."""

SPAN_LOSS = """
def span_loss(start, end, target, frames):
    losses = []
    for b, e, (i, j), n in zip(start, end, target.tolist(), frames.tolist()):
        if i >= 0:
            losses.append(-(b[:n].log_softmax(0)[i] + e[:n].log_softmax(0)[j]) / 2)
    if not losses:
        return torch.zeros((), dtype=start.dtype)
    return torch.stack(losses).mean()
"""

BEST_SPAN = """
def best_span(start, end, frames, longest):
    spans, logs = [], []
    for b, e, n in zip(start, end, frames.tolist()):
        b, e = b[:n].log_softmax(0), e[:n].log_softmax(0)
        best = None
        for more in range(min(longest, n)):
            total = b[: n - more] + e[more:]
            i = int(total.argmax())
            if best is None or total[i] > best[0]:
                best = total[i], [i, i + more]
        logs.append(best[0])
        spans.append(best[1])
    return torch.tensor(spans), torch.stack(logs)
"""

ALTERNATIVES = {
    "context_match": {
        "answer by answer": """
def context_match(query, context, query_mask, context_mask):
    B, A, L, D = query.shape
    out = torch.zeros(B, A, context.shape[1], 3 * D, dtype=query.dtype)
    for i in range(B):
        for t in range(context.shape[1]):
            if not context_mask[i, t]:
                continue
            x = context[i, t]
            for a in range(A):
                q = query[i, a][query_mask[i, a]]
                u = (q @ x).softmax(0) @ q if len(q) else torch.zeros_like(x)
                out[i, a, t] = torch.cat([x, u, u * x])
    return out
""",
        "einsum and large negatives": """
def context_match(query, context, query_mask, context_mask):
    q = torch.where(query_mask.unsqueeze(-1), query, torch.zeros_like(query))
    x = torch.where(context_mask.unsqueeze(-1), context, torch.zeros_like(context))
    scores = torch.einsum("btd,bald->batl", x, q)
    least = torch.finfo(scores.dtype).min
    scores = torch.where(query_mask.unsqueeze(2), scores, torch.full_like(scores, least))
    weights = torch.softmax(scores, dim=3) * query_mask.unsqueeze(2)
    u = torch.einsum("batl,bald->batd", weights, q) * context_mask[:, None, :, None]
    x = x.unsqueeze(1).repeat(1, query.shape[1], 1, 1)
    return torch.cat((x, u, x * u), dim=3)
""",
        "one batch of all answers": """
def context_match(query, context, query_mask, context_mask):
    B, A, L, D = query.shape
    T = context.shape[1]
    q = query.flatten(0, 1).clone()
    q[~query_mask.flatten(0, 1)] = 0
    x = context.clone()
    x[~context_mask] = 0
    x = x.repeat_interleave(A, 0)
    e = torch.bmm(x, q.transpose(1, 2))
    e = e - e.detach().amax(2, keepdim=True) * 0
    real = query_mask.flatten(0, 1)[:, None]
    top = torch.where(real, e, torch.full_like(e, -1e30)).detach().amax(2, keepdim=True)
    e = torch.where(real, e - top, torch.full_like(e, -1e30)).exp() * real
    u = torch.bmm(e / e.sum(2, keepdim=True).clamp(min=1e-30), q)
    out = torch.cat([x, u, u * x], 2).view(B, A, T, 3 * D)
    return out * context_mask[:, None, :, None]
""",
    },
    "qa_guided": {
        "frame by frame": """
def qa_guided(q, v, mask, scale=10.0):
    B, F, R, D = v.shape
    read, compared = [], []
    for i in range(B):
        for f in range(F):
            there = mask[i, f]
            S = torch.zeros(q.shape[1], R, dtype=q.dtype)
            u = torch.zeros_like(q[i])
            if there.any():
                seen = v[i, f][there]
                cosines = functional.cosine_similarity(q[i][:, None], seen[None], dim=2)
                S[:, there] = cosines
                u = (scale * cosines).softmax(1) @ seen
            read.append(torch.cat([q[i], u, q[i] * u], 1))
            compared.append(S)
    L = q.shape[1]
    return torch.stack(read).view(B, F, L, 3 * D), torch.stack(compared).view(B, F, L, R)
""",
        "einsum": """
def qa_guided(q, v, mask, scale=10.0):
    v = torch.where(mask[..., None], v, torch.zeros_like(v))
    length = q.pow(2).sum(-1)[:, None, :, None] * v.pow(2).sum(-1)[:, :, None, :]
    length = torch.where(length > 0, length, torch.ones_like(length)).sqrt()
    S = torch.einsum("bld,bfrd->bflr", q, v) / length
    least = torch.full_like(S, -1e9)
    A = torch.where(mask[:, :, None], scale * S, least).softmax(3) * mask[:, :, None]
    u = torch.einsum("bflr,bfrd->bfld", A, v)
    words = q.unsqueeze(1).repeat(1, v.shape[1], 1, 1)
    return torch.cat([words, u, words * u], dim=3), S
""",
        "exponentials": """
def qa_guided(q, v, mask, scale=10.0):
    v = v.clone()
    v[~mask] = 0
    unit = [x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (q, v)]
    S = torch.matmul(unit[0].unsqueeze(1), unit[1].transpose(2, 3))
    low = torch.where(mask.unsqueeze(2), S, torch.full_like(S, -2.0))
    e = (scale * (S - low.detach().amax(3, keepdim=True))).clamp(max=0).exp() * mask.unsqueeze(2)
    total = e.sum(3, keepdim=True)
    u = (e / torch.where(total > 0, total, torch.ones_like(total))) @ v
    words = q.unsqueeze(1).expand_as(u)
    return torch.cat((words, u, u * words), -1), S
""",
    },
    "best_span": {
        "clip by clip": SPAN_LOSS + BEST_SPAN,
        "cross-entropy, and a search that keeps the best": """
def masked(scores, frames):
    there = torch.arange(scores.shape[1]).unsqueeze(0) < frames.unsqueeze(1)
    return torch.where(there, scores, torch.full_like(scores, -1e30))


def span_loss(start, end, target, frames):
    if (target < 0).all():
        return (0 * masked(start, frames)).sum()
    parts = [
        functional.cross_entropy(masked(each, frames), true, ignore_index=-1)
        for each, true in ((start, target[:, 0]), (end, target[:, 1]))
    ]
    return (parts[0] + parts[1]) / 2


def best_span(start, end, frames, longest):
    b, e = masked(start, frames), masked(end, frames)
    b, e = b - b.logsumexp(1, keepdim=True), e - e.logsumexp(1, keepdim=True)
    B, T = b.shape
    best = torch.full((B,), -torch.inf, dtype=b.dtype)
    first, last = torch.zeros(B).long(), torch.zeros(B).long()
    for more in range(min(longest, T)):
        value, at = (b[:, : T - more] + e[:, more:]).max(1)
        better = value > best
        best = torch.where(better, value, best)
        first, last = torch.where(better, at, first), torch.where(better, at + more, last)
    return torch.stack((first, last), 1), best
""",
        "the best start for each end": """
def logs(scores, frames):
    inside = torch.arange(scores.size(1))[None] < frames[:, None]
    scores = scores.masked_fill(~inside, -1e9)
    return torch.log_softmax(scores, 1)


def span_loss(start, end, target, frames):
    known = (target >= 0).all(1)
    if not known.any():
        return start.new_zeros(())
    true = target[known]
    first = logs(start[known], frames[known]).gather(1, true[:, :1])
    last = logs(end[known], frames[known]).gather(1, true[:, 1:])
    return -torch.cat([first, last]).mean()


def best_span(start, end, frames, longest):
    b, e = logs(start, frames), logs(end, frames)
    padded = functional.pad(b[:, None], (longest - 1, 0), value=-1e12)[:, 0]
    begun, at = padded.unfold(1, longest, 1).max(2)
    value, last = (begun + e).max(1)
    rows = torch.arange(len(b))
    first = last - (longest - 1) + at[rows, last]
    return torch.stack([first, last], 1), value
""",
    },
    "attention_ranking": {
        "word by word": """
def attention_ranking(scores, positive, negative, scale=20.0):
    losses = []
    for s, p, n in zip(scores, positive, negative):
        if p.any() and n.any():
            x = torch.logsumexp(scale * s[n], 0) + torch.logsumexp(-scale * s[p], 0)
            losses.append(torch.logaddexp(torch.zeros_like(x), x))
    if not losses:
        return torch.zeros((), dtype=scores.dtype)
    return sum(losses) / len(losses)
""",
        "shifted by hand": """
def attention_ranking(scores, positive, negative, scale=20.0):
    both = (positive.sum(1) > 0) & (negative.sum(1) > 0)
    if not both.any():
        return scores.new_zeros(())

    def log_sum(x, there):
        x = torch.where(there, x, torch.full_like(x, -1e30))
        top = x.detach().amax(1, keepdim=True)
        return ((x - top).exp() * there).sum(1).log() + top[:, 0]

    s = scores[both] * scale
    x = log_sum(s, negative[both]) + log_sum(-s, positive[both])
    return (x.clamp(min=0) + torch.log1p((-x.abs()).exp())).mean()
""",
        "minus the logarithm of a chance": """
def attention_ranking(scores, positive, negative, scale=20.0):
    total, count = scores.new_zeros(()), 0
    for i in range(len(scores)):
        p, n = scores[i][positive[i]], scores[i][negative[i]]
        if min(len(p), len(n)) == 0:
            continue
        gap = (scale * n).logsumexp(0) + (-scale * p).logsumexp(0)
        total = total - functional.logsigmoid(-gap)
        count += 1
    return total / max(count, 1)
""",
    },
}

ALL_WORDS = ".masked_fill(missing, -torch.inf).softmax(-1)"
JOINED = "[x.expand_as(u), u, u * x]"
FILLED = "carried.masked_fill(~context_mask[:, None, :, None], 0)"
READ = "[q.expand_as(u), u, q * u]"
UNITS = "functional.normalize(q, dim=-1) @ functional.normalize(v, dim=-1).mT"
BOTH_FILLED = "both = (each.masked_fill(missing, -torch.inf) for each in (start, end))"
SOFT = "functional.softplus(low + high).sum()"
LOSS = "loss - logs[known, true[known]].sum() / 2"

BUGS = {
    "context_match": {
        "masked after the softmax": (ALL_WORDS, ".softmax(-1)"),
        "masked by 0": ("(missing, -torch.inf)", "(missing, 0)"),
        "none is NaN": ("weights.masked_fill(missing, 0)", "weights"),
        "none is all": [
            ("(missing, -torch.inf)", "(missing, -1e30)"),
            ("weights.masked_fill(missing, 0)", "weights"),
            ("query.masked_fill(~query_mask[..., None], 0)", "query.nan_to_num(0.5)"),
        ],
        "a softmax over the context": (ALL_WORDS, ".masked_fill(missing, -torch.inf).softmax(2)"),
        "a softmax over the answers": (ALL_WORDS, ".masked_fill(missing, -torch.inf).softmax(1)"),
        "a softmax over all answers' words": (
            ALL_WORDS,
            ".masked_fill(missing, -torch.inf).transpose(1, 2).flatten(2).softmax(2)"
            ".unflatten(2, query.shape[1:3]).transpose(1, 2)",
        ),
        "steps read steps": (
            "u = weights.masked_fill(missing, 0) @ q",
            "u = weights.masked_fill(missing, 0).sum(-1, keepdim=True) * x",
        ),
        "the scaled product": ("(x @ q.mT)", "(x @ q.mT / x.shape[-1] ** 0.5)"),
        "cosines": (
            "(x @ q.mT)",
            "(functional.normalize(x, dim=-1) @ functional.normalize(q, dim=-1).mT)",
        ),
        "a mean of words": (
            "u = weights.masked_fill(missing, 0) @ q",
            "u = (weights.masked_fill(missing, 0) > 0).to(q).softmax(-1) @ q",
        ),
        "the best word alone": (
            "u = weights.masked_fill(missing, 0) @ q",
            "best = functional.one_hot(weights.nan_to_num(0).argmax(-1), q.shape[2]).to(q)\n"
            "    u = best.masked_fill(missing, 0) @ q",
        ),
        "no shift": (
            ALL_WORDS,
            ".masked_fill(missing, -torch.inf).exp()\n"
            "    weights = weights / weights.sum(-1, keepdim=True)",
        ),
        "mask the other way": ("missing = ~query_mask", "missing = query_mask"),
        "words times a mask": (
            "query.masked_fill(~query_mask[..., None], 0)",
            "query * query_mask[..., None]",
        ),
        "steps times a mask": (
            "context.masked_fill(~context_mask[..., None], 0)[:, None]",
            "(context * context_mask[..., None])[:, None]",
        ),
        "steps left out keep what they read": (FILLED, "carried"),
        "the context's mask for answers": (
            FILLED,
            "carried.masked_fill(~query_mask.any(2)[..., None, None], 0)",
        ),
        "the first answer for all": ("(x @ q.mT)", "(x @ q[:, :1].mT)"),
        "the next answer's words": ("missing, 0) @ q", "missing, 0) @ q.roll(1, 1)"),
        "contexts of the next question": ("0)[:, None]\n", "0)[:, None].roll(1, 0)\n"),
        "the product left out": (JOINED, "[x.expand_as(u), u]"),
        "a difference for the product": (JOINED, "[x.expand_as(u), u, u - x]"),
        "x squared": (JOINED, "[x.expand_as(u), u, x.expand_as(u) * x]"),
        "in another order": (JOINED, "[u, x.expand_as(u), u * x]"),
        "answers in another order": (
            "return carried",
            "carried = carried.roll(1, 1)\n    return carried",
        ),
        "axes of one are dropped": (
            "return " + FILLED,
            "carried = " + FILLED + "\n    return carried.squeeze()",
        ),
        "filled in place": (
            "q = query.masked_fill(",
            "query.data = query.data.nan_to_num(0)\n    q = query.masked_fill(",
        ),
        "u detached": (JOINED, "[x.expand_as(u), u.detach(), u * x]"),
        "weights detached": (
            "weights.masked_fill(missing, 0)",
            "weights.masked_fill(missing, 0).detach()",
        ),
        "float64": ("return carried", "carried = carried.double()\n    return carried"),
    },
    "qa_guided": {
        "the dot product": (UNITS, "q @ v.mT"),
        "words alone are units": ("functional.normalize(v, dim=-1).mT", "v.mT"),
        "regions alone are units": ("functional.normalize(q, dim=-1) @", "q @"),
        "units along the words": (
            "functional.normalize(q, dim=-1)",
            "functional.normalize(q, dim=-2)",
        ),
        "squared lengths": (
            UNITS,
            "q @ v.mT / (q.square().sum(-1)[..., None] * v.square().sum(-1)[:, :, None]).clamp(min=1e-12)",
        ),
        "eps of a thousandth": (
            "functional.normalize(q, dim=-1)",
            "q / (q.norm(dim=-1, keepdim=True) + 1e-2)",
        ),
        "zeros are NaN": ("functional.normalize(q, dim=-1)", "q / q.norm(dim=-1, keepdim=True)"),
        "no scale": ("(scale * cosines)", "cosines"),
        "scale 10 always": ("(scale * cosines)", "(10.0 * cosines)"),
        "divided by the scale": ("(scale * cosines)", "(cosines / scale)"),
        "scaled after the softmax": (
            "(scale * cosines).masked_fill(missing, -torch.inf).softmax(-1)",
            "cosines.masked_fill(missing, -torch.inf).softmax(-1) * scale",
        ),
        "another default": ("scale=10.0", "scale=1.0"),
        "scaled cosines returned": ("q * u], -1), cosines", "q * u], -1), scale * cosines"),
        "weights returned": (
            "q * u], -1), cosines",
            "q * u], -1), weights.masked_fill(missing, 0)",
        ),
        "minus infinity returned": (
            "q * u], -1), cosines",
            "q * u], -1), cosines.masked_fill(missing, -1e10)",
        ),
        "a softmax over the words": ("-torch.inf).softmax(-1)", "-torch.inf).softmax(2)"),
        "a softmax over the frames": ("-torch.inf).softmax(-1)", "-torch.inf).softmax(1)"),
        "a softmax over all regions": (
            "-torch.inf).softmax(-1)",
            "-torch.inf).transpose(1, 2).flatten(2).softmax(2)"
            ".unflatten(2, v.shape[1:3]).transpose(1, 2)",
        ),
        "masked after the softmax": (
            "(scale * cosines).masked_fill(missing, -torch.inf).softmax(-1)",
            "(scale * cosines).softmax(-1)",
        ),
        "masked by 0": ("masked_fill(missing, -torch.inf)", "masked_fill(missing, 0)"),
        "none is NaN": ("weights.masked_fill(missing, 0)", "weights"),
        "regions times a mask": ("v.masked_fill(~mask[..., None], 0)", "v * mask[..., None]"),
        "no shift": (
            ".masked_fill(missing, -torch.inf).softmax(-1)",
            ".masked_fill(missing, -torch.inf).exp()\n"
            "    weights = weights / weights.sum(-1, keepdim=True)",
        ),
        "units are summed": ("missing, 0) @ v", "missing, 0) @ functional.normalize(v, dim=-1)"),
        "a mean of regions": ("missing, 0) @ v", "missing, 0) @ v / v.shape[2]"),
        "the word left out": (READ, "[u, q * u]"),
        "the product left out": (READ, "[q.expand_as(u), u]"),
        "the word squared": (READ, "[q.expand_as(u), u, (q * q).expand_as(u)]"),
        "a difference for the product": (READ, "[q.expand_as(u), u, q - u]"),
        "in another order": (READ, "[u, q.expand_as(u), q * u]"),
        "the word as a unit": (READ, "[functional.normalize(q, dim=-1).expand_as(u), u, q * u]"),
        "u detached in the product": (READ, "[q.expand_as(u), u, q * u.detach()]"),
        "weights detached": (
            "weights.masked_fill(missing, 0)",
            "weights.masked_fill(missing, 0).detach()",
        ),
        "cosines detached": ("q * u], -1), cosines", "q * u], -1), cosines.detach()"),
        "the first frame for all": (
            "functional.normalize(v, dim=-1).mT",
            "functional.normalize(v[:, :1], dim=-1).mT.expand_as(v.mT)",
        ),
        "words before frames": (
            "return torch.cat(",
            "cosines = cosines.transpose(1, 2)\n    return torch.cat(",
        ),
        "regions filled in place": (
            "q, v = q[:, None]",
            "v.data = v.data.nan_to_num(0)\n    q, v = q[:, None]",
        ),
    },
    "best_span": {
        "loss: a sum over clips": ("loss / known.sum().clamp(min=1)", "loss"),
        "loss: a mean over all clips": ("loss / known.sum().clamp(min=1)", "loss / len(target)"),
        "loss: a mean over frames": ("loss / known.sum().clamp(min=1)", "loss / frames.sum()"),
        "loss: NaN if none is known": ("known.sum().clamp(min=1)", "known.sum()"),
        "loss: both in full": (".sum() / 2\n", ".sum()\n"),
        "loss: the sign": (LOSS, "loss + logs[known, true[known]].sum() / 2"),
        "loss: the start twice": ("zip((start, end), target.T)", "zip((start, start), target.T)"),
        "loss: the first frame twice": (
            "zip((start, end), target.T)",
            "zip((start, end), target[:, :1].expand(-1, 2).T)",
        ),
        "loss: first and last swapped": (
            "zip((start, end), target.T)",
            "zip((end, start), target.T)",
        ),
        "loss: chances for logarithms": (
            "-torch.inf).log_softmax(1)\n        loss",
            "-torch.inf).softmax(1)\n        loss",
        ),
        "loss: no softmax": (
            "-torch.inf).log_softmax(1)\n        loss",
            "-torch.inf)\n        loss",
        ),
        "loss: a logarithm of the softmax": (
            "-torch.inf).log_softmax(1)\n        loss",
            "-torch.inf).softmax(1).log()\n        loss",
        ),
        "loss: missing frames count": (
            "scores.masked_fill(missing, -torch.inf)",
            "scores.nan_to_num(0)",
        ),
        "loss: one frame more": (
            ">= frames[:, None]\n    known",
            "> frames[:, None]\n    known",
        ),
        "loss: a softmax over the batch": (
            "-torch.inf).log_softmax(1)\n        loss",
            "-torch.inf).log_softmax(0)\n        loss",
        ),
        "loss: a missing target is the last frame": (
            "known, loss = target[:, 0] >= 0, 0",
            "known, loss = target[:, 0] >= -1, 0",
        ),
        "loss: the first frame is unknown": ("target[:, 0] >= 0", "target[:, 0] > 0"),
        "loss: detached": (
            LOSS,
            "loss - logs[known, true[known]].detach().sum() / 2 + 0 * logs[known, true[known]].sum()",
        ),
        "ends before starts": (
            "(b[..., None] + ends).flatten(1).max(1)",
            "(b[..., None] + functional.pad(e, (n - 1, 0), value=-torch.inf).unfold(1, n, 1)).flatten(1).max(1)",
        ),
        "each by itself": (
            "best, at = (b[..., None] + ends).flatten(1).max(1)\n    return torch.stack([at // n, at // n + at % n], 1), best",
            "return torch.stack([b.argmax(1), e.argmax(1)], 1), b.max(1).values + e.max(1).values",
        ),
        "the best start, then an end": (
            "best, at = (b[..., None] + ends).flatten(1).max(1)\n",
            "only = functional.one_hot(b.argmax(1), b.shape[1]).bool()\n"
            "    b = b.masked_fill(~only, -torch.inf)\n"
            "    best, at = (b[..., None] + ends).flatten(1).max(1)\n",
        ),
        "one frame too long": ("min(longest, b.shape[1])", "min(longest + 1, b.shape[1])"),
        "one frame too short": ("min(longest, b.shape[1])", "max(min(longest, b.shape[1]) - 1, 1)"),
        "longest left out": ("min(longest, b.shape[1])", "b.shape[1]"),
        "all but one frame": ("min(longest, b.shape[1])", "min(longest, b.shape[1] - 1)"),
        "the end after the last": ("at // n + at % n]", "at // n + at % n + 1]"),
        "the length for the end": ("at // n + at % n]", "at % n + 1]"),
        "the end twice": ("[at // n, at // n + at % n]", "[at // n + at % n] * 2"),
        "rows by the frames": (
            "[at // n, at // n + at % n]",
            "[at // b.shape[1], at % b.shape[1]]",
        ),
        "missing frames chosen": (
            BOTH_FILLED,
            "both = (each.nan_to_num(0) for each in (start, end))",
        ),
        "missing frames in the softmax": (
            BOTH_FILLED + "\n    b, e = (each.log_softmax(1) for each in both)",
            "both = (each.nan_to_num(0) for each in (start, end))\n"
            "    b, e = (each.log_softmax(1).masked_fill(missing, -torch.inf) for each in both)",
        ),
        "the last frame is missing": (
            ">= frames[:, None]\n    both",
            ">= (frames[:, None] - 1).clamp(min=1)\n    both",
        ),
        "frames of the first clip": (
            ">= frames[:, None]\n    both",
            ">= frames[:1, None]\n    both",
        ),
        "no softmax": ("b, e = (each.log_softmax(1) for each in both)", "b, e = both"),
        "chances added": (
            "(each.log_softmax(1) for each in both)",
            "(each.softmax(1).masked_fill(missing, -torch.inf) for each in both)",
        ),
        "chances multiplied": (
            "best, at = (b[..., None] + ends).flatten(1).max(1)\n",
            "best, at = (b.exp()[..., None] * ends.exp()).flatten(1).max(1)\n    best = best.log()\n",
        ),
        "the chance returned": ("at % n], 1), best", "at % n], 1), best.exp()"),
        "half of the logarithm": ("at % n], 1), best", "at % n], 1), best / 2"),
        "the worst": ("flatten(1).max(1)", "nan_to_num(neginf=99).flatten(1).min(1)"),
        "a table of all pairs": (
            "n = min(longest, b.shape[1])\n",
            "i = torch.arange(b.shape[1])\n"
            "    n, gap = b.shape[1], i - i[:, None]\n"
            "    table = (b[..., None] + e[:, None]).masked_fill((gap < 0) | (gap >= longest), -torch.inf)\n"
            "    best, at = table.flatten(1).max(1)\n"
            "    return torch.stack([at // n, at % n], 1), best\n",
        ),
        "spans as floats": ("at % n], 1), best", "at % n], 1).to(best), best"),
        "spans transposed": ("at % n], 1), best", "at % n], 0), best"),
        "longer spans pay": (
            "b[..., None] + ends)",
            "b[..., None] + ends - 0.1 * torch.arange(n))",
        ),
    },
    "attention_ranking": {
        "a logarithm a pair": (
            SOFT,
            "sum(functional.softplus(r[y][:, None] - r[x]).sum() for r, x, y in zip(s, p, n))",
        ),
        "a mean over pairs": (
            SOFT,
            "functional.softplus(low + high - p.sum(1).log() - n.sum(1).log()).sum()",
        ),
        "a mean over negatives": (SOFT, "functional.softplus(low + high - n.sum(1).log()).sum()"),
        "a sum over words": (" / both.sum().clamp(min=1)", ""),
        "a mean over all words": ("both.sum().clamp(min=1)", "len(scores)"),
        "NaN if there is none": ("both.sum().clamp(min=1)", "both.sum()"),
        "half of the kinds is enough": (
            "positive.any(1) & negative.any(1)",
            "positive.any(1) | negative.any(1)",
        ),
        "positives are enough": ("positive.any(1) & negative.any(1)", "positive.any(1)"),
        "the sign": (
            "low = (-s).masked_fill(~p, -torch.inf).logsumexp(1)\n    high = s.",
            "low = s.masked_fill(~p, -torch.inf).logsumexp(1)\n    high = (-s).",
        ),
        "positives are negatives": ("s.masked_fill(~n, -torch.inf)", "s.nan_to_num(0)"),
        "what is not positive is negative": ("~n, -torch.inf", "p, -torch.inf"),
        "what is not negative is positive": [
            ("~p, -torch.inf", "n, -torch.inf"),
            ("scale * scores[both]", "(scale * scores[both]).nan_to_num(0)"),
        ],
        "kinds swapped": ("positive[both], negative[both]", "negative[both], positive[both]"),
        "the hardest negative": (
            "s.masked_fill(~n, -torch.inf).logsumexp(1)",
            "s.masked_fill(~n, -torch.inf).amax(1)",
        ),
        "the worst positive": (
            "(-s).masked_fill(~p, -torch.inf).logsumexp(1)",
            "(-s).masked_fill(~p, -torch.inf).amax(1)",
        ),
        "the best positive": (
            "(-s).masked_fill(~p, -torch.inf).logsumexp(1)",
            "-s.masked_fill(~p, -torch.inf).amax(1)",
        ),
        "positives summed before": (
            "(-s).masked_fill(~p, -torch.inf).logsumexp(1)",
            "-s.masked_fill(~p, -torch.inf).logsumexp(1)",
        ),
        "a mean of positives": (
            "(-s).masked_fill(~p, -torch.inf).logsumexp(1)",
            "-s.masked_fill(~p, 0).sum(1) / p.sum(1)",
        ),
        "a hinge": (SOFT, "(low + high + 1).relu().sum()"),
        "no 1": (SOFT, "(low + high).sum()"),
        "a relu for the logarithm": (SOFT, "torch.relu(low + high).sum()"),
        "no logarithm": (SOFT, "(low + high).exp().sum()"),
        "no shift": (SOFT, "(1 + (low + high).exp()).log().sum()"),
        "log1p of an exponential": (SOFT, "(low + high).exp().log1p().sum()"),
        "clamped": (SOFT, "functional.softplus((low + high).clamp(-30, 30)).sum()"),
        "scale 20 always": ("scale * scores[both]", "20.0 * scores[both]"),
        "another default": ("scale=20.0", "scale=10.0"),
        "no scale": ("scale * scores[both]", "scores[both]"),
        "scale squared": ("scale * scores[both]", "scale * scale * scores[both]"),
        "divided by the scale": ("both.sum().clamp(min=1)", "both.sum().clamp(min=1) / scale"),
        "negatives detached": ("s.masked_fill(~n,", "s.detach().masked_fill(~n,"),
        "positives detached": ("(-s).masked_fill(", "(-s).detach().masked_fill("),
        "one softplus for all": (SOFT, "functional.softplus((low + high).sum())"),
        "one logarithm for all": (SOFT, "functional.softplus((low + high).logsumexp(0))"),
        "a table of all pairs": (
            SOFT,
            "functional.softplus((s[:, None] - s[:, :, None])"
            ".masked_fill(~(p[:, :, None] & n[:, None]), -torch.inf).flatten(1).logsumexp(1)).sum()",
        ),
        "the softmax of positives": (
            SOFT,
            "(s.masked_fill(~(p | n), -torch.inf).logsumexp(1)"
            " - s.masked_fill(~p, -torch.inf).logsumexp(1)).sum()",
        ),
        "filled in place": (
            "both = positive.any",
            "scores.data = scores.data.nan_to_num(0)\n    both = positive.any",
        ),
    },
}
