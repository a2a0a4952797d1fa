"""What the assignment "VATT" is proved by: right answers written otherwise, and bugs."""

VIDEO_OF = """
def video_of(boxes, t, h, w, shape):
    T, C, H, W = shape
    counts = [-(-size // part) for size, part in ((T, t), (H, h), (W, w))]
    video = boxes.new_zeros(len(boxes), counts[0] * t, C, counts[1] * h, counts[2] * w)
    number = 0
    for i in range(counts[0]):
        for j in range(counts[1]):
            for k in range(counts[2]):
                box = boxes[:, number].reshape(-1, t, h, w, C).permute(0, 1, 4, 2, 3)
                video[:, i * t : i * t + t, :, j * h : j * h + h, k * w : k * w + w] = box
                number += 1
    return video[:, :T, :, :H, :W]
"""

ALTERNATIVES = {
    "tubelets": {
        "box by box": """
def tubelets(video, t, h, w):
    B, T, C, H, W = video.shape
    boxes = []
    for i in range(0, T, t):
        for j in range(0, H, h):
            for k in range(0, W, w):
                part = video[:, i : i + t, :, j : j + h, k : k + w]
                box = video.new_zeros(B, t, C, h, w)
                box[:, : part.shape[1], :, : part.shape[3], : part.shape[4]] = part
                boxes.append(box.permute(0, 1, 3, 4, 2).reshape(B, -1))
    return torch.stack(boxes, 1)
"""
        + VIDEO_OF,
        "unfold, and places of numbers": """
def tubelets(video, t, h, w):
    sizes = [(video.shape[a], part) for a, part in ((1, t), (3, h), (4, w))]
    for axis, (size, part) in zip((1, 3, 4), sizes):
        if size % part:
            shape = list(video.shape)
            shape[axis] = part - size % part
            video = torch.cat([video, video.new_zeros(shape)], axis)
    cut = video.unfold(1, t, t).unfold(3, h, h).unfold(4, w, w)
    cut = torch.einsum("bicjkthw->bijkthwc", cut) if cut.is_floating_point() else cut.permute(
        0, 1, 3, 4, 5, 6, 7, 2
    )
    return cut.reshape(len(video), -1, t * h * w * video.shape[2])


def video_of(boxes, t, h, w, shape):
    T, C, H, W = shape
    more = [-(-size // part) * part for size, part in ((T, t), (H, h), (W, w))]
    order = torch.arange(more[0] * C * more[1] * more[2]).view(1, more[0], C, more[1], more[2])
    order = tubelets(order, t, h, w).flatten()
    flat = boxes.flatten(1)[:, order.argsort()]
    return flat.view(-1, more[0], C, more[1], more[2])[:, :T, :, :H, :W]
""",
        "a table with room for all": """
def tubelets(video, t, h, w):
    B, T, C, H, W = video.shape
    a, b, c = math.ceil(T / t), math.ceil(H / h), math.ceil(W / w)
    whole = torch.zeros(B, a * t, b * h, c * w, C, dtype=video.dtype)
    whole[:, :T, :H, :W] = video.permute(0, 1, 3, 4, 2)
    whole = whole.view(B, a, t, b, h, c, w, C).transpose(2, 3).transpose(4, 5).transpose(3, 4)
    return whole.reshape(B, a * b * c, t * h * w * C)


def video_of(boxes, t, h, w, shape):
    T, C, H, W = shape
    a, b, c = math.ceil(T / t), math.ceil(H / h), math.ceil(W / w)
    whole = boxes.reshape(-1, a, b, c, t, h, w, C)
    whole = whole.transpose(3, 4).transpose(4, 5).transpose(2, 3)
    whole = whole.reshape(-1, a * t, b * h, c * w, C)[:, :T, :H, :W]
    return whole.permute(0, 1, 4, 2, 3)
""",
    },
    "drop_tokens": {
        "row by row": """
def drop_tokens(tokens, real, rate, noise):
    kept = []
    for i in range(len(tokens)):
        others = [j for j in range(1, tokens.shape[1]) if real[i, j]]
        n = math.floor(rate * len(others))
        others.sort(key=lambda j: float(noise[i, j]))
        kept.append(sorted([0, *others[: len(others) - n]]))
    K = max(map(len, kept))
    out = torch.zeros(len(tokens), K, tokens.shape[2], dtype=tokens.dtype)
    places = torch.full((len(tokens), K), -1)
    for i, row in enumerate(kept):
        out[i, : len(row)] = tokens[i, row]
        places[i, : len(row)] = torch.tensor(row)
    return out, places
""",
        "a threshold": """
from torch.nn.utils.rnn import pad_sequence


def drop_tokens(tokens, real, rate, noise):
    rows, places = [], []
    for x, there, u in zip(tokens, real, noise):
        at = there.nonzero().flatten()
        values = u[at[1:]]
        n = int(rate * len(values))
        if n:
            bound = values.topk(n).values.min()
            at = torch.cat([at[:1], at[1:][values < bound]])
        rows.append(x[at])
        places.append(at)
    filled = pad_sequence(places, batch_first=True, padding_value=-1)
    return pad_sequence(rows, batch_first=True), filled
""",
        "places sorted": """
def drop_tokens(tokens, real, rate, noise):
    N = real.shape[1]
    u = torch.where(real, noise, torch.full_like(noise, 9.0))
    u = torch.cat([torch.full_like(u[:, :1], -1.0), u[:, 1:]], 1)
    stay = real.sum(1) - ((real.sum(1) - 1) * rate).long()
    order = u.sort(1).indices
    order = torch.where(torch.arange(N) < stay[:, None], order, torch.full_like(order, N))
    places = order.sort(1).values[:, : stay.max()]
    empty = places == N
    padded = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], 1)
    kept = padded.gather(1, places[..., None].repeat(1, 1, tokens.shape[2]))
    return kept, torch.where(empty, torch.full_like(places, -1), places)
""",
    },
    "mil_nce": {
        "clip by clip": """
def mil_nce(video, texts, bags, tau):
    v = video / video.norm(dim=1, keepdim=True)
    s = v @ (texts / texts.norm(dim=1, keepdim=True)).T / tau
    losses = []
    for i in range(len(video)):
        mine = bags == i
        if not mine.any():
            continue
        others = torch.arange(len(video)) != i
        below = torch.cat([s[i], s[others][:, mine].flatten()])
        losses.append(below.logsumexp(0) - s[i, mine].logsumexp(0))
    return torch.stack(losses).mean() if losses else video.new_zeros(())
""",
        "cross-entropy": """
def mil_nce(video, texts, bags, tau):
    clips = [i for i in range(len(video)) if bool((bags == i).any())]
    if not clips:
        return torch.zeros((), dtype=video.dtype)
    s = functional.cosine_similarity(video[:, None], texts[None], dim=2) / tau
    total = 0
    for i in clips:
        mine = bags == i
        wrong = torch.cat([s[i][~mine], s[:i, mine].flatten(), s[i + 1 :, mine].flatten()])
        right = s[i][mine].logsumexp(0)
        both = torch.cat([right[None], wrong])[None]
        total = total + functional.cross_entropy(both, torch.tensor([0]))
    return total / len(clips)
""",
        "one shift a clip": """
def mil_nce(video, texts, bags, tau):
    own = functional.one_hot(bags, len(video)).T.bool()
    s = functional.normalize(video) @ functional.normalize(texts).T / tau
    total, count = 0.0 * video.sum(), 0
    for i, mine in enumerate(own):
        if not mine.any():
            continue
        column = s[:, mine]
        values = torch.cat([s[i, mine], s[i, ~mine], column[:i].flatten(), column[i + 1 :].flatten()])
        top = values.max().detach()
        best = s[i, mine].max().detach()
        over = (s[i, mine] - best).exp().sum().log() + best
        total = total - over + (values - top).exp().sum().log() + top
        count += 1
    return total / max(count, 1)
""",
    },
    "modality_positions": {
        "token by token": """
def modality_positions(tables, shape, kept):
    rows = []
    for place in kept.flatten().tolist():
        added = torch.zeros_like(tables[0][0])
        if place >= 0:
            for table, m in zip(tables[::-1], shape[::-1]):
                place, i = divmod(place, m)
                at = i * (len(table) - 1) / (m - 1) if m > 1 else 0.0
                low = min(int(at), len(table) - 1)
                high = min(low + 1, len(table) - 1)
                added = added + table[low] + (at - low) * (table[high] - table[low])
        rows.append(added)
    return torch.stack(rows).view(*kept.shape, -1)
""",
        "tables made longer first": """
def modality_positions(tables, shape, kept):
    longer = [
        functional.interpolate(table.T[None], size=m, mode="linear", align_corners=True)[0].T
        for table, m in zip(tables, shape)
    ]
    rest, total = kept.clamp(min=0), 0
    for table in reversed(longer):
        total = total + table[rest % len(table)]
        rest = rest // len(table)
    return torch.where(kept[..., None] >= 0, total, torch.zeros_like(total))
""",
        "tents": """
def modality_positions(tables, shape, kept):
    places = torch.unravel_index(kept.clamp(min=0), shape)
    total = 0
    for table, m, place in zip(tables, shape, places):
        at = place.to(table.dtype) * ((len(table) - 1) / (m - 1) if m > 1 else 0.0)
        weights = (1 - (at[..., None] - torch.arange(len(table))).abs()).clamp(min=0)
        total = total + weights @ table
    return total * (kept >= 0)[..., None]
""",
    },
    "detected": {
        "fractions": """
area_text = 27 / 40
area_both = 57 / 160
low = 0.675 - 0.267
high = 0.675 + 0.267
""",
        "more digits": """
area_text = 0.675
area_both = 0.35625
low = 0.40802
high = 0.94198
""",
        "computed": """
def _area(wrong, aligned):
    wins = torch.tensor([[float(a > w) + 0.5 * (a == w) for a in aligned] for w in wrong])
    variance = wins.mean(1).var() / len(wrong) + wins.mean(0).var() / len(aligned)
    return wins.mean().item(), 1.96 * variance.sqrt().item()


_aligned = [0.42, 0.31, 0.27, 0.23, 0.18, 0.12, 0.05, -0.03, -0.10, -0.14]
area_text, _half = _area([0.36, 0.20, 0.12, 0.05, -0.08, -0.12, -0.22, -0.31], _aligned)
area_both, _ = _area([0.55, 0.38, 0.31, 0.27, 0.20, 0.12, 0.09, -0.05], _aligned)
low = area_text - _half
high = area_text + _half
""",
    },
}

PADDING = "0, -W % w, 0, -H % h, 0, 0, 0, -T % t"
CUT = "video.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(1, (-1, t))"
ORDER = "video.permute(0, 1, 4, 6, 2, 5, 7, 3)"
BACK = "video.permute(0, 1, 4, 7, 2, 5, 3, 6)"
STAY = "stay = 1 + n - (rate * n).floor().long()"
RANKED = "noise.argsort(1).argsort(1) >= stay[:, None]"
RESULT = "kept.masked_fill(padding[..., None], 0), places.masked_fill(padding, -1)"
MEAN = "losses[has].sum() / has.sum().clamp(min=1)"
BELOW = "torch.logaddexp(s.logsumexp(1), wrong_clips)"
RIGHT = "right = s.masked_fill(~own, -torch.inf).logsumexp(1)"
ADDED = "total + (1 - part) * table[below] + part * table[above]"
ROW = "place * (len(table) - 1) / max(m - 1, 1)"

BUGS = {
    "tubelets": {
        "what is left over is dropped": (
            "functional.pad(video, padding)",
            "video[:, : T - T % t, :, : H - H % h, : W - W % w]",
        ),
        "zeros at the beginning": (PADDING, "-W % w, 0, -H % h, 0, 0, 0, -T % t, 0"),
        "the last frame again": (
            "functional.pad(video, padding)",
            "functional.pad(video, (0, -W % w, 0, -H % h))\n"
            "    video = torch.cat([video, *[video[:, -1:]] * (-T % t)], 1)",
        ),
        "ones for zeros": (
            "functional.pad(video, padding)",
            "functional.pad(video, padding, value=1)",
        ),
        "a box too many": (PADDING, "0, w - W % w, 0, h - H % h, 0, 0, 0, t - T % t"),
        "as many rows as columns": (PADDING, "0, -W % w, 0, -H % w, 0, 0, 0, -T % t"),
        "the channel first in a box": (ORDER, "video.permute(0, 1, 4, 6, 3, 2, 5, 7)"),
        "the channel before the columns": (ORDER, "video.permute(0, 1, 4, 6, 2, 5, 3, 7)"),
        "columns before rows in a box": (ORDER, "video.permute(0, 1, 4, 6, 2, 7, 5, 3)"),
        "frames last in a box": (ORDER, "video.permute(0, 1, 4, 6, 5, 7, 2, 3)"),
        "boxes by columns": (ORDER, "video.permute(0, 1, 6, 4, 2, 5, 7, 3)"),
        "boxes by time last": (ORDER, "video.permute(0, 4, 6, 1, 2, 5, 7, 3)"),
        "reshaped without a permutation": (
            ORDER + ".flatten(4).flatten(1, 3)",
            "video.reshape(len(video), -1, t * h * w * video.shape[3])",
        ),
        "every other frame in a box": (
            ".unflatten(1, (-1, t))\n",
            ".unflatten(1, (t, -1)).transpose(1, 2)\n",
        ),
        "every other column in a box": (
            CUT,
            CUT.replace("(4, (-1, w))", "(4, (w, -1)).transpose(4, 5)"),
        ),
        "h and w swapped": ("def tubelets(video, t, h, w):", "def tubelets(video, t, w, h):"),
        "boxes as they are": (ORDER + ".flatten(4)", ORDER),
        "batch and boxes mixed": (".flatten(4).flatten(1, 3)", ".flatten(4).flatten(0, 3)"),
        "as float numbers": (
            "video = functional.pad(video, padding)",
            "video = functional.pad(video.to(torch.get_default_dtype()), padding)",
        ),
        "centred": (
            "video = functional.pad(video, padding)",
            "video = functional.pad(video, padding)\n    video = video - video[:1, :1, :1, :1, :1]",
        ),
        "detached": (
            "functional.pad(video, padding)",
            "functional.pad(video.detach(), padding) + 0 * video.sum()",
        ),
        "back: what was added stays": ("[:, :T, :, :H, :W]", ""),
        "back: frames that were added stay": ("[:, :T, :, :H, :W]", "[:, :, :, :H, :W]"),
        "back: the end is kept": ("[:, :T, :, :H, :W]", "[:, -T:, :, -H:, -W:]"),
        "back: the channel first": (
            "unflatten(2, (t, h, w, C))",
            "unflatten(2, (C, t, h, w)).movedim(2, 5)",
        ),
        "back: rows and columns swapped": (BACK, "video.permute(0, 1, 4, 7, 3, 6, 2, 5)"),
        "back: columns before rows in a box": (
            "unflatten(2, (t, h, w, C))",
            "unflatten(2, (t, w, h, C)).transpose(3, 4)",
        ),
        "back: boxes by columns": (
            "unflatten(1, counts)",
            "unflatten(1, (counts[0], counts[2], counts[1])).transpose(2, 3)",
        ),
        "back: boxes by time last": (
            "unflatten(1, counts)",
            "unflatten(1, (counts[1], counts[2], counts[0])).movedim(3, 1)",
        ),
        "back: frames of boxes first": (BACK, "video.permute(0, 4, 1, 7, 2, 5, 3, 6)"),
        "back: rounded down": (
            "math.ceil(T / t), math.ceil(H / h), math.ceil(W / w)",
            "max(T // t, 1), max(H // h, 1), max(W // w, 1)",
        ),
        "back: as float numbers": (
            "video = boxes.unflatten",
            "video = boxes.to(torch.float64).unflatten",
        ),
        "back: channels last": ("[:, :T, :, :H, :W]", "[:, :T, :, :H, :W].movedim(2, 4)"),
        "back: flipped": ("[:, :T, :, :H, :W]", "[:, :T, :, :H, :W].flip(3)"),
    },
    "drop_tokens": {
        "the first token may be dropped": (
            "    noise = noise.masked_fill(torch.arange(real.shape[1]) == 0, -torch.inf)\n",
            "",
        ),
        "the first token counts": (
            "(torch.arange(real.shape[1]) > 0)",
            "(torch.arange(real.shape[1]) >= 0)",
        ),
        "the rate stays": (STAY, "stay = 1 + (rate * n).floor().long()"),
        "rounded up": (STAY, "stay = 1 + n - (rate * n).ceil().long()"),
        "to the nearest": (STAY, "stay = 1 + n - (rate * n).round().long()"),
        "the floor of what stays": (STAY, "stay = 1 + ((1 - rate) * n).floor().long()"),
        "at least one": (STAY, "stay = 1 + n - (rate * n).floor().long().clamp(min=1)"),
        "of all places": (
            STAY,
            "stay = 1 + n - torch.minimum(n, n * 0 + int(rate * (real.shape[1] - 1)))",
        ),
        "as many in all rows": (STAY, "stay = 1 + n - (rate * n.min()).floor().long()"),
        "the least noise is dropped": (
            "masked_fill(~other, torch.inf)",
            "neg().masked_fill(~other, torch.inf)",
        ),
        "missing tokens stay": ("masked_fill(~other, torch.inf)", "nan_to_num(0)"),
        "missing tokens first": ("masked_fill(~other, torch.inf)", "masked_fill(~other, -1.0)"),
        "missing tokens as 0.5": ("masked_fill(~other, torch.inf)", "masked_fill(~other, 0.5)"),
        "one draw for all": (
            "noise = noise.masked_fill(~other, torch.inf)",
            "noise = noise[:1].expand_as(noise).nan_to_num(0.5).masked_fill(~other, torch.inf)",
        ),
        "one rank for ranks": (RANKED, "noise.argsort(1) >= stay[:, None]"),
        "by chance, each alone": (RANKED, "(noise > 1 - rate)"),
        "in the order of the noise": (
            "dropped.int().argsort(dim=1, stable=True)",
            "noise.argsort(1)",
        ),
        "in the other order": (
            "dropped.int().argsort(dim=1, stable=True)",
            "(dropped.int() * 99 - torch.arange(real.shape[1])).argsort(1)",
        ),
        "as wide as before": (": int(stay.max())]", ":]"),
        "as wide as the shortest": (": int(stay.max())]", ": int(stay.min())]"),
        "padding keeps tokens": (RESULT, "kept, places.masked_fill(padding, -1)"),
        "padding times 0": (RESULT, "kept * ~padding[..., None], places.masked_fill(padding, -1)"),
        "padding keeps places": (RESULT, "kept.masked_fill(padding[..., None], 0), places"),
        "padding has place 0": (
            "places.masked_fill(padding, -1)",
            "places.masked_fill(padding, 0)",
        ),
        "places among what is there": (
            RESULT,
            "kept.masked_fill(padding[..., None], 0), (real.cumsum(1) - 1)"
            ".gather(1, places).masked_fill(padding, -1)",
        ),
        "scaled as dropout does": (
            "kept.masked_fill(padding[..., None], 0)",
            "kept.masked_fill(padding[..., None], 0) / (1 - rate)",
        ),
        "tokens of the first row": (
            "tokens[torch.arange(len(tokens))[:, None], places]",
            "tokens[0][places]",
        ),
        "the tokens that are dropped": (RANKED, RANKED.replace(">=", "<")),
        "detached": ("kept = tokens[", "kept = tokens.detach()["),
        "places as float numbers": (
            "places.masked_fill(padding, -1)",
            "places.masked_fill(padding, -1).to(tokens)",
        ),
        "places from 1": (
            "places.masked_fill(padding, -1)",
            "(places + 1).masked_fill(padding, -1)",
        ),
        "nothing is dropped": (STAY, "stay = 1 + n"),
    },
    "mil_nce": {
        "counted twice": (BELOW, f"torch.logaddexp({BELOW}, right)"),
        "one direction: clips": (BELOW, "s.logsumexp(1)"),
        "one direction: texts": (
            BELOW,
            "torch.logaddexp(right, wrong_clips)",
        ),
        "two losses": (
            f"{BELOW} - right",
            "(s.logsumexp(1) - right + torch.logaddexp(right, wrong_clips) - right) / 2",
        ),
        "right pairs not below": (
            BELOW,
            "torch.logaddexp(s.masked_fill(own, -torch.inf).logsumexp(1), wrong_clips)",
        ),
        "the best text": (RIGHT, "right = s.masked_fill(~own, -torch.inf).amax(1)"),
        "a mean of texts": (
            RIGHT,
            "right = s.masked_fill(~own, -torch.inf).logsumexp(1) - own.sum(1).clamp(min=1).log()",
        ),
        "the mean of logarithms": (
            RIGHT,
            "right = s.masked_fill(~own, 0).sum(1) / own.sum(1).clamp(min=1)",
        ),
        "a loss a text": (MEAN, "(losses[has] * own.sum(1)[has]).sum() / max(len(texts), 1)"),
        "the first text alone": (
            RIGHT,
            "first = own & (own.cumsum(1) == 1)\n"
            "    right = s.masked_fill(~first, -torch.inf).logsumexp(1)",
        ),
        "texts in the order of clips": (
            "own = bags ==",
            "own = bags.sort().values ==",
        ),
        "own texts are wrong for the others too": (
            "s.masked_fill(own, -torch.inf).logsumexp(0)",
            "s.logsumexp(0)",
        ),
        "clips without texts are no wrong clips": (
            "s.masked_fill(own, -torch.inf).logsumexp(0)",
            "s.masked_fill(own | ~has[:, None], -torch.inf).logsumexp(0)",
        ),
        "a mean over all clips": (MEAN, "losses[has].sum() / len(video)"),
        "a sum": (MEAN, "losses[has].sum()"),
        "NaN without texts": ("has.sum().clamp(min=1)", "has.sum()"),
        "clips without texts count": (MEAN, "losses.mean()"),
        "not normalised": [
            ("functional.normalize(video, dim=1)", "video"),
            ("functional.normalize(texts, dim=1)", "texts"),
        ],
        "clips not normalised": ("functional.normalize(video, dim=1)", "video"),
        "texts not normalised": ("functional.normalize(texts, dim=1)", "texts"),
        "normalised over the batch": (
            "functional.normalize(texts, dim=1)",
            "functional.normalize(texts, dim=0)",
        ),
        "times tau": (".T / tau", ".T * tau"),
        "tau 0.07": (".T / tau", ".T / 0.07"),
        "the root of tau": (".T / tau", ".T / tau**0.5"),
        "no shift": (
            f"{BELOW} - right",
            "-((s.exp() * own).sum(1) / (s.exp().sum(1) + wrong_clips.exp())).log()",
        ),
        "one shift for all": (
            f"{BELOW} - right",
            "s.max() + ((s - s.max()).exp().sum(1) + (wrong_clips - s.max()).exp()).log()"
            " - s.max() - ((s - s.max()).exp() * own).sum(1).log()",
        ),
        "a little in the logarithm": (
            f"{BELOW} - right",
            f"-((right - {BELOW}).exp() + 1e-8).log()",
        ),
        "the sign": (f"{BELOW} - right", f"right - {BELOW}"),
        "no logarithm": (f"losses = {BELOW} - right", f"losses = 1 - (right - {BELOW}).exp()"),
        "detached below": (BELOW, f"{BELOW}.detach()"),
        "texts detached": (
            "functional.normalize(texts, dim=1)",
            "functional.normalize(texts.detach(), dim=1) + 0 * texts",
        ),
        "lengths detached": (
            "functional.normalize(texts, dim=1)",
            "(texts / texts.detach().norm(dim=1, keepdim=True))",
        ),
        "the logarithm of the mean": (MEAN, "-(-losses[has]).exp().mean().log()"),
        "normalised in place": (
            "clips = functional",
            "texts.data = functional.normalize(texts.data, dim=1)\n    clips = functional",
        ),
    },
    "modality_positions": {
        "a product": [
            ("total, stride = 0,", "total, stride = 1,"),
            (ADDED, "total * ((1 - part) * table[below] + part * table[above])"),
        ],
        "a mean over axes": (
            "return total.masked_fill",
            "total = total / len(shape)\n    return total.masked_fill",
        ),
        "the first table for all axes": (
            "zip(tables, shape):\n",
            "zip(tables, shape):\n        table = tables[0]\n",
        ),
        "the last axis alone": (ADDED, ADDED.replace("total + (1", "(1")),
        "time left out": (
            "zip(tables, shape):\n        stride //= m\n",
            "zip(tables, shape):\n        stride //= m\n        if m != shape[-1] and len(shape) == 3 and stride > shape[-1]:\n            continue\n",
        ),
        "the first axis fastest": (
            "stride //= m\n        place = kept.clamp(min=0) // stride % m",
            "place = kept.clamp(min=0) // (math.prod(shape) // stride) % m\n        stride //= m",
        ),
        "axes the other way round": ("zip(tables, shape):", "zip(tables[::-1], shape[::-1]):"),
        "no interpolation": (ADDED, "total + table[below]"),
        "the nearest row": (ADDED, "total + table[row.round().long().clamp(max=len(table) - 1)]"),
        "cut off": (ROW, "(place + 0.0).clamp(max=len(table) - 1)"),
        "from 1": ("// stride % m\n", "// stride % m + 1\n"),
        "turned round": ("// stride % m\n", "// stride % m\n        place = m - 1 - place\n"),
        "ends not on ends": (
            ROW,
            "((place + 0.5) * len(table) / m - 0.5).clamp(0, len(table) - 1)",
        ),
        "n for n - 1": (ROW, "(place * len(table) / max(m, 1)).clamp(max=len(table) - 1)"),
        "m for m - 1": (ROW, "place * (len(table) - 1) / m"),
        "a single place divides by 0": (ROW, "place * (len(table) - 1) / (m - 1)"),
        "a single place reads the middle": (
            ROW,
            "place * (len(table) - 1) / max(m - 1, 1) + (m == 1) * (len(table) - 1) / 2",
        ),
        "a single place reads the last row": (
            ROW,
            "place * (len(table) - 1) / max(m - 1, 1) + (m == 1) * (len(table) - 1.0)",
        ),
        "the last row is beyond the end": (".clamp(max=len(table) - 1)\n", "\n"),
        "parts swapped": (ADDED, "total + part * table[below] + (1 - part) * table[above]"),
        "parts added up": (ADDED, "total + table[below] + part * table[above]"),
        "parts squared": (
            "part = (row - below)[..., None]",
            "part = (row - below)[..., None].square()",
        ),
        "padding reads the first place": (
            "return total.masked_fill((kept < 0)[..., None], 0)",
            "return total",
        ),
        "padding reads the last place": [
            ("kept.clamp(min=0)", "kept"),
            ("return total.masked_fill((kept < 0)[..., None], 0)", "return total"),
        ],
        "place 0 is padding": ("kept < 0", "kept < 1"),
        "padding is NaN": ("(kept < 0)[..., None], 0)", "(kept < 0)[..., None], torch.nan)"),
        "tables detached": (ADDED, ADDED.replace("part * table", "part * table.detach()")),
        "a table of all places": (
            "    total, stride = 0,",
            "    torch.zeros(math.prod(shape), tables[0].shape[1]).sum().item()\n    total, stride = 0,",
        ),
        "scaled by a root": (
            "return total.masked_fill",
            "total = total * total.shape[-1] ** 0.5\n    return total.masked_fill",
        ),
        "float64": (
            "return total.masked_fill",
            "total = total.double()\n    return total.masked_fill",
        ),
        "one row of tokens": (
            "return total.masked_fill((kept < 0)[..., None], 0)",
            "return total.masked_fill((kept < 0)[..., None], 0)[:1]",
        ),
        "rows of a matrix of tokens": (
            "return total.masked_fill((kept < 0)[..., None], 0)",
            "return total.masked_fill((kept < 0)[..., None], 0).mT",
        ),
    },
    "detected": {
        "the cosine for minus the cosine": ("area_text = 0.675", "area_text = 0.325"),
        "ties lose": ("area_text = 0.675", "area_text = 0.6625"),
        "ties win": ("area_text = 0.675", "area_text = 0.6875"),
        "rounded to two digits": ("area_text = 0.675", "area_text = 0.68"),
        "a text": ("area_text = 0.675", 'area_text = "0.675"'),
        "a tensor": ("area_text = 0.675", "area_text = torch.tensor(0.675)"),
        "both: the cosine for minus the cosine": ("area_both = 0.356", "area_both = 0.644"),
        "both: ties lose": ("area_both = 0.356", "area_both = 0.3375"),
        "both: ties win": ("area_both = 0.356", "area_both = 0.375"),
        "both: all that is wrong": ("area_both = 0.356", "area_both = 0.516"),
        "both: against wrong texts": ("area_both = 0.356", "area_both = 0.219"),
        "variances divide by n": [("low = 0.408", "low = 0.424"), ("high = 0.942", "high = 0.926")],
        "sizes swapped": [("low = 0.408", "low = 0.415"), ("high = 0.942", "high = 0.935")],
        "one standard error": [("low = 0.408", "low = 0.539"), ("high = 0.942", "high = 0.811")],
        "an interval of 90%": [("low = 0.408", "low = 0.451"), ("high = 0.942", "high = 0.899")],
        "wrong triplets alone": [("low = 0.408", "low = 0.456"), ("high = 0.942", "high = 0.894")],
        "aligned triplets alone": [
            ("low = 0.408", "low = 0.522"),
            ("high = 0.942", "high = 0.828"),
        ],
        "no root": [("low = 0.408", "low = 0.639"), ("high = 0.942", "high = 0.711")],
        "that of a coin": [("low = 0.408", "low = 0.399"), ("high = 0.942", "high = 0.951")],
        "pairs as if independent": [
            ("low = 0.408", "low = 0.572"),
            ("high = 0.942", "high = 0.778"),
        ],
        "errors added": [("low = 0.408", "low = 0.303"), ("high = 0.942", "high = 1.047")],
        "ends swapped": [("low = 0.408", "low = 0.942"), ("high = 0.942", "high = 0.408")],
        "the half width": ("high = 0.942", "high = 0.267"),
    },
}
