"""What the assignment "NeuMATCH" is proved by: right answers written otherwise, and bugs."""

PAIRS_OF = """

def pairs_of(actions, clips, snippets):
    left, found = [clips, snippets], []
    takes = {0: (1, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1), 4: (0, 1)}
    for action in actions:
        if action not in takes:
            raise ValueError("unknown")
        if action > 1:
            if not all(left):
                raise ValueError("nothing to match")
            found.append((clips - left[0], snippets - left[1]))
        left = [n - take for n, take in zip(left, takes[action])]
        if min(left) < 0:
            raise ValueError("empty")
    if any(left):
        raise ValueError("left over")
    return found
"""

UNION = """
def covered(intervals):
    total, end = 0.0, -float("inf")
    for a, b in sorted(intervals):
        total += max(0.0, b - max(a, end))
        end = max(end, b)
    return total


def cut(intervals, a, b):
    return [(max(a, c), min(b, d)) for c, d in intervals if min(b, d) > max(a, c)]

"""

ALTERNATIVES = {
    "actions": {
        "sequence by sequence": """
def actions_of(pairs, clips, snippets):
    if len(set(pairs)) < len(pairs) or list(pairs) != sorted(pairs):
        raise ValueError("not in order")
    for (a, b), (c, d) in zip(pairs, pairs[1:]):
        if d < b:
            raise ValueError("goes back")
    for a, b in pairs:
        if a not in range(clips) or b not in range(snippets):
            raise ValueError("no such pair")
    actions, i, j = [], 0, 0
    for k in range(len(pairs)):
        a, b = pairs[k]
        while i < a:
            actions.append(0)
            i += 1
        while j < b:
            actions.append(1)
            j += 1
        again = pairs[k + 1 :]
        if any(other[1] == b for other in again):
            actions.append(2)
            i += 1
        elif any(other[0] == a for other in again):
            actions.append(4)
            j += 1
        else:
            actions.append(3)
            i, j = i + 1, j + 1
    while i < clips:
        actions.append(0)
        i += 1
    while j < snippets:
        actions.append(1)
        j += 1
    return actions
"""
        + PAIRS_OF,
        "from the end": """
def actions_of(pairs, clips, snippets):
    actions, i, j, before = [], clips, snippets, None
    for clip, snippet in reversed(pairs):
        if clip < 0 or snippet < 0 or clip >= clips or snippet >= snippets:
            raise ValueError("outside")
        if before is not None:
            if clip > before[0] or snippet > before[1] or (clip, snippet) == before:
                raise ValueError("back")
        if before is not None and before[1] == snippet:
            kind, after = 2, (clip + 1, snippet)
        elif before is not None and before[0] == clip:
            kind, after = 4, (clip, snippet + 1)
        else:
            kind, after = 3, (clip + 1, snippet + 1)
        actions += [1] * (j - after[1]) + [0] * (i - after[0]) + [kind]
        i, j, before = clip, snippet, (clip, snippet)
    return (actions + [1] * j + [0] * i)[::-1]
"""
        + PAIRS_OF,
        "checked by the way back": """
def pairs_of(actions, clips, snippets):
    stack_c, stack_s = list(range(clips))[::-1], list(range(snippets))[::-1]
    out = []
    for action in actions:
        try:
            if action == 0:
                stack_c.pop()
            elif action == 1:
                stack_s.pop()
            elif action in (2, 3, 4):
                out.append((stack_c[-1], stack_s[-1]))
                if action != 4:
                    stack_c.pop()
                if action != 2:
                    stack_s.pop()
            else:
                raise ValueError(action)
        except IndexError:
            raise ValueError("empty stack")
    if stack_c or stack_s:
        raise ValueError("left over")
    return out


def actions_of(pairs, clips, snippets):
    pairs = [tuple(each) for each in pairs]
    out, i, j = [], 0, 0
    for n, (c, s) in enumerate(pairs):
        out.extend([0] * max(0, c - i))
        out.extend([1] * max(0, s - j))
        nxt = pairs[n + 1] if n + 1 < len(pairs) else (None, None)
        if nxt[1] == s:
            out.append(2)
            i, j = c + 1, s
        elif nxt[0] == c:
            out.append(4)
            i, j = c, s + 1
        else:
            out.append(3)
            i, j = c + 1, s + 1
    out.extend([0] * (clips - i))
    out.extend([1] * (snippets - j))
    if pairs_of(out, clips, snippets) != pairs:
        raise ValueError("no alignment")
    return out
""",
    },
    "scores": {
        "unions of intervals": UNION
        + """
def scores(given, clips, snippets):
    clips, snippets = clips.tolist(), snippets.tolist()
    right = total = 0.0
    for j, (a, b) in zip(given.tolist(), clips):
        total += b - a
        held = cut(snippets if j < 0 else [snippets[j]], a, b)
        right += (b - a) - covered(held) if j < 0 else covered(held)
    ious = []
    for j, (a, b) in enumerate(snippets):
        if a == b:
            continue
        own = [tuple(clips[i]) for i, each in enumerate(given.tolist()) if each == j]
        both = covered(cut(own, a, b))
        ious.append(both / (covered(own) + (b - a) - both))
    accuracy, iou = right / total, sum(ious) / len(ious)
    return torch.tensor(accuracy).double(), torch.tensor(iou, dtype=torch.float64)
""",
        "piece by piece": """
def scores(given, clips, snippets):
    marks = sorted(set(clips.flatten().tolist() + snippets.flatten().tolist()))
    m = len(snippets)
    right, total = 0.0, 0.0
    both, either = [0.0] * m, [0.0] * m
    for a, b in zip(marks, marks[1:]):
        told = {j for j in range(m) if snippets[j, 0] <= a and b <= snippets[j, 1]}
        seen = set()
        for i in range(len(clips)):
            if clips[i, 0] <= a and b <= clips[i, 1]:
                j = int(given[i])
                total += b - a
                seen.add(j)
                if (j == -1 and not told) or j in told:
                    right += b - a
        for j in range(m):
            both[j] += (b - a) * (j in told and j in seen)
            either[j] += (b - a) * (j in told or j in seen)
    ious = [both[j] / either[j] for j in range(m) if snippets[j, 1] > snippets[j, 0]]
    return torch.tensor([right / total, sum(ious) / len(ious)], dtype=torch.float64).unbind()
""",
        "middles of the pieces": """
def scores(given, clips, snippets):
    edges = torch.cat([clips.reshape(-1), snippets.reshape(-1)]).sort().values
    length, middle = edges[1:] - edges[:-1], (edges[1:] + edges[:-1]) / 2
    v = ((clips[:, 0, None] < middle) & (middle < clips[:, 1, None])).double()
    s = ((snippets[:, 0, None] < middle) & (middle < snippets[:, 1, None])).double()
    hot = (given[None] == torch.arange(len(snippets))[:, None]).double()
    free = (s.sum(0) == 0).double()
    alone = (given < 0).double()
    per_clip = (v * (hot.T @ s)) @ length + alone * ((v * free) @ length)
    A = (hot @ v).clamp(max=1)
    some = (s @ length) > 0
    inter, union = (A * s) @ length, torch.maximum(A, s) @ length
    return per_clip.sum() / (v @ length).sum(), (inter[some] / union[some]).mean()
""",
    },
    "drop_dtw": {
        "tables, and a walk back": """
def drop_dtw(cost, clip_drop, snippet_drop):
    n, m = cost.shape
    c, v, s = cost.double().tolist(), clip_drop.tolist(), snippet_drop.tolist()
    inf = float("inf")
    D = [[[inf, inf] for _ in range(m + 1)] for _ in range(n + 1)]  # 0: without, 1: with
    came = {}

    def offer(i, j, k, value, origin):
        if value < D[i][j][k]:
            D[i][j][k] = value
            came[i, j, k] = origin

    D[0][0][0] = 0.0
    for i in range(n + 1):
        for j in range(m + 1):
            for k in (0, 1):
                if i and D[i - 1][j][k] < inf:
                    offer(i, j, k, D[i - 1][j][k] + v[i - 1], (i - 1, j, k, -1))
                if j:
                    offer(i, j, 0, D[i][j - 1][k] + s[j - 1], (i, j - 1, k, None))
                if i and j:
                    pair = D[i - 1][j - 1][k] + c[i - 1][j - 1]
                    offer(i, j, 1, pair, (i - 1, j - 1, k, j - 1))
            if i and j:
                offer(i, j, 1, D[i - 1][j][1] + c[i - 1][j - 1], (i - 1, j, 1, j - 1))
    k = int(D[n][m][1] < D[n][m][0])
    best = D[n][m][k]
    if best == inf:
        raise ValueError("nothing is allowed")
    found, here = [], (n, m, k)
    while here != (0, 0, 0):
        *here, given = came[here]
        here = tuple(here)
        if given is not None:
            found.append(given)
    return torch.tensor(found[::-1]), cost.new_tensor(best)
""",
        "recursion with memory": """
import functools


def drop_dtw(cost, clip_drop, snippet_drop):
    n, m = cost.shape
    c, v, s = cost.tolist(), clip_drop.tolist(), snippet_drop.tolist()

    @functools.lru_cache(None)
    def best(i, j, used):  # clips from i, snippets from j; used: snippet j has a clip
        if i == n and j == m:
            return 0.0, None
        options = []
        if i < n:
            options.append((v[i] + best(i + 1, j, used)[0], "clip"))
            if j < m:
                options.append((c[i][j] + best(i + 1, j, True)[0], "match"))
        if j < m:
            price = 0.0 if used else s[j]
            options.append((price + best(i, j + 1, False)[0], "snippet"))
        return min(options)

    total = best(0, 0, False)[0]
    if total == float("inf"):
        raise ValueError("no alignment")
    i, j, used, found = 0, 0, False, []
    while (i, j) != (n, m):
        step = best(i, j, used)[1]
        if step == "snippet":
            j, used = j + 1, False
        else:
            found.append(j if step == "match" else -1)
            i, used = i + 1, used or step == "match"
    return torch.tensor(found), torch.tensor(total).to(cost.dtype)
""",
        "snippet by snippet": """
def drop_dtw(cost, clip_drop, snippet_drop):
    n, m = cost.shape
    cost_, v = cost.double(), clip_drop.double()
    each = torch.minimum(cost_, v[:, None])
    past, choice = torch.zeros(n + 1).double(), []
    past[1:] = v.cumsum(0)
    for j in range(m):
        skip = past + snippet_drop[j].double()
        now, first = skip.clone(), torch.full((n + 1,), -1)
        used, where = float("inf"), -1
        for i in range(n):
            start, going = float(past[i] + cost_[i, j]), used + float(each[i, j])
            if start < going:
                used, where = start, i
            else:
                used = going
            if used < now[i + 1]:
                now[i + 1], first[i + 1] = used, where
        past, choice = now, [*choice, first]
    if torch.isinf(past[n]):
        raise ValueError("no alignment has a finite cost")
    found, i = torch.full((n,), -1), n
    for j in reversed(range(m)):
        start = int(choice[j][i])
        if start >= 0:
            found[start] = j
            for k in range(start + 1, i):
                found[k] = j if cost_[k, j] < v[k] else -1
            i = start
    return found, past[n].to(cost.dtype)
""",
    },
    "beam": {
        "probabilities": """
import math


def beam(score, clips, snippets, width):
    held = [(((), 0), 1.0)]
    for _ in range(clips + snippets):
        logits = score([state for state, _ in held]).double()
        found = {}
        for ((given, top), p), row in zip(held, logits):
            can = [len(given) < clips, top < snippets]
            can.append(all(can))
            e = [math.exp(float(x)) if yes else 0.0 for x, yes in zip(row, can)]
            moves = [(given + (-1,), top), (given, top + 1), (given + (top,), top)]
            for move, share, yes in zip(moves, e, can):
                if yes:
                    found[move] = found.get(move, 0.0) + p * share / sum(e)
        held = sorted(found.items(), key=lambda each: -each[1])[:width]
    (given, _), p = held[0]
    return list(given), math.log(p)
""",
        "logaddexp, two at a time": """
import heapq

import numpy as np


def beam(score, clips, snippets, width):
    states, logs = [((), 0)], [0.0]
    while len(states[0][0]) + states[0][1] < clips + snippets:
        logits = score(states)
        table = {}
        for n, (given, top) in enumerate(states):
            options = {}
            if len(given) < clips:
                options[given + (-1,), top] = logits[n, 0]
            if top < snippets:
                options[given, top + 1] = logits[n, 1]
            if len(given) < clips and top < snippets:
                options[given + (top,), top] = logits[n, 2]
            norm = torch.stack(list(options.values())).logsumexp(0)
            for after, logit in options.items():
                gain = logs[n] + float(logit - norm)
                table[after] = float(np.logaddexp(table.get(after, -np.inf), gain))
        states = heapq.nlargest(width, table, key=table.__getitem__)
        logs = [table[each] for each in states]
    return list(states[0][0]), logs[0]
""",
        "one table of tensors": """
def beam(score, clips, snippets, width):
    states, logs = [((), 0)], torch.zeros(1)
    for step in range(clips + snippets):
        c = torch.tensor([len(given) < clips for given, _ in states])
        s = torch.tensor([top < snippets for _, top in states])
        logits = score(states).masked_fill(~torch.stack([c, s, c & s], 1), float("-inf"))
        table = (logs[:, None] + torch.log_softmax(logits, 1)).flatten()
        after = []
        for given, top in states:
            after += [((*given, -1), top), (given, top + 1), ((*given, top), top)]
        alike = sorted(set(after))
        place = torch.tensor([alike.index(each) for each in after])
        same = place == torch.arange(len(alike))[:, None]
        sums = table.expand_as(same).masked_fill(~same, float("-inf")).logsumexp(1)
        logs, kept = sums.sort(descending=True)
        count = min(width, int((logs > float("-inf")).sum()))
        logs, states = logs[:count], [alike[int(k)] for k in kept[:count]]
    return list(states[0][0]), logs[0].item()
""",
    },
    "lazy": {
        "rounded": """
always_video = 0.2
always_iou = 0.05
turns_video = 0.27
turns_iou = 0.08
""",
        "computed": """
length, snippets, each = 15, 4, 3
credits = length - snippets * each
always_video = each / length
always_iou = (each / length + 0 + 0 + 0) / snippets
turns_video = round((1 + credits) / length, 2)
turns_iou = torch.tensor([1 / each, 0, 0, 0]).mean().item()
""",
        "more digits": """
always_video, always_iou = 0.200, 0.0500
turns_video, turns_iou = 0.2667, 0.0833
""",
    },
}

BUGS = {
    "actions": {
        "no clips removed at the end": ("+ [0] * (clips - i) + [1]", "+ [1]"),
        "no snippets removed at the end": (" + [1] * (snippets - j)", ""),
        "snippets first at the end": (
            "+ [0] * (clips - i) + [1] * (snippets - j)",
            "+ [1] * (snippets - j) + [0] * (clips - i)",
        ),
        "snippets first between": (
            "[0] * (clip - i) + [1] * (snippet - j)",
            "[1] * (snippet - j) + [0] * (clip - i)",
        ),
        "retains the snippet always": (
            "2 if after[1] == snippet else 4 if after[0] == clip else 3",
            "4 if after[0] == clip else 2",
        ),
        "three actions alone": ("2 if after[1] == snippet else 4 if after[0] == clip else 3", "2"),
        "never retains the clip": (
            "2 if after[1] == snippet else 4 if after[0] == clip else 3",
            "2 if after[1] == snippet else 3",
        ),
        "codes of 3 and 4 swapped": [
            ("else 4 if after[0] == clip else 3", "else 3 if after[0] == clip else 4"),
            ("clip + (action != 4)", "clip + (action != 3)"),
        ],
        "codes of 2 and 4 swapped": [
            ("2 if after[1] == snippet else 4", "4 if after[1] == snippet else 2"),
            (
                "clip + (action != 4), snippet + (action != 2)",
                "clip + (action != 2), snippet + (action != 4)",
            ),
        ],
        "the last one by the pair before": (
            "[*pairs[1:], (clips, snippets)]",
            "[*pairs[1:], *pairs[-1:]]",
        ),
        "the last pair left out": ("[*pairs[1:], (clips, snippets)]", "pairs[1:]"),
        "a pair after that only looks near": ("after[1] == snippet", "after[1] <= snippet + 1"),
        "pairs that go back": (
            "if not (i <= clip < clips and j <= snippet < snippets)",
            "if not (0 <= clip < clips and 0 <= snippet < snippets)",
        ),
        "clips that do not exist": ("i <= clip < clips and", "i <= clip and"),
        "snippets that do not exist": ("j <= snippet < snippets)", "j <= snippet)"),
        "an assertion": (
            'raise ValueError(f"{(clip, snippet)} is none of the pairs that are left")',
            "raise AssertionError",
        ),
        "removes the clip twice": ("i, j = clip + (action != 4)", "i, j = clip + 1"),
        "unknown actions pass": ("if action not in range(5):", "if action > 5:"),
        "actions below 0 pass": ("if action not in range(5):", "if action > 4:"),
        "an empty stack of clips": ("if (action != 1 and i == clips) or (", "if ("),
        "an empty stack of snippets": (" or (action != 0 and j == snippets):", ":"),
        "a match needs one of both": (
            "(action != 0 and j == snippets)",
            "(action == 1 and j == snippets)",
        ),
        "something may be left": ("if (i, j) != (clips, snippets):", "if i != clips:"),
        "clips may be left": ("if (i, j) != (clips, snippets):", "if j != snippets:"),
        "3 is no match": ("if action >= 2:", "if action in (2, 4):"),
        "lists for tuples": ("pairs.append((i, j))", "pairs.append([i, j])"),
        "snippet and clip": ("pairs.append((i, j))", "pairs.append((j, i))"),
        "matched after it is removed": [
            ("        if action >= 2:\n            pairs.append((i, j))\n", ""),
            (
                "j + (action in (1, 3, 4))\n",
                "j + (action in (1, 3, 4))\n        if action >= 2:\n"
                "            pairs.append((i, j))\n",
            ),
        ],
        "3 keeps the snippet": ("j + (action in (1, 3, 4))", "j + (action in (1, 4))"),
        "a set of pairs": ("return pairs", "return sorted(set(pairs), reverse=True)"),
    },
    "scores": {
        "clips counted, not seconds": (
            "accuracy = ((shown & own) * seconds).sum() / (shown * seconds).sum()",
            "accuracy = (shown & own).any(1).double().mean()",
        ),
        "a mean over clips": (
            "((shown & own) * seconds).sum() / (shown * seconds).sum()",
            "(((shown & own) * seconds).sum(1) / (shown * seconds).sum(1)).mean()",
        ),
        "time counted once where clips overlap": (
            "/ (shown * seconds).sum()",
            "/ (shown.any(0) * seconds).sum()",
        ),
        "right once where clips overlap": (
            "((shown & own) * seconds).sum() /",
            "((shown & own).any(0) * seconds).sum() /",
        ),
        "unmatched is wrong": ("~told.any(0, keepdim=True)", "0 * told[:1]"),
        "unmatched is right": ("~told.any(0, keepdim=True)", "told[:1] | True"),
        "unmatched by one snippet": ("~told.any(0, keepdim=True)", "~told[-1:]"),
        "unmatched outside of all together": (
            "~told.any(0, keepdim=True)",
            "~told.all(0, keepdim=True)",
        ),
        "-1 is the last snippet": (
            "torch.cat([told, ~told.any(0, keepdim=True)])[given]",
            "told[given]",
        ),
        "free time of the whole film": ("/ (shown * seconds).sum()", "/ seconds.sum()"),
        "a sum of IoUs": ("iou.mean()", "iou.sum()"),
        "the best IoU": ("iou.mean()", "iou.max()"),
        "snippets with a clip alone": ("iou.mean()", "iou[iou > 0].mean()"),
        "one quotient for all": (
            "(both * seconds).sum(1) / (either * seconds).sum(1)",
            "(both * seconds).sum() / (either * seconds).sum()",
        ),
        "snippets without time count 0": [
            ("timed = snippets[:, 0] < snippets[:, 1]", "timed = slice(None)"),
            ("iou.mean()", "iou.nan_to_num().mean()"),
        ],
        "snippets without time are NaN": (
            "timed = snippets[:, 0] < snippets[:, 1]",
            "timed = slice(None)",
        ),
        "a union of sums": (
            "(either * seconds).sum(1)",
            "((told[timed] * seconds).sum(1)"
            " + (chosen[timed].double() @ shown.double()) @ seconds)",
        ),
        "clips twice in a union": (
            "(both * seconds).sum(1) / (either * seconds).sum(1)",
            "(both * seconds).sum(1) / ((told[timed] * seconds).sum(1) + (chosen[timed].double()"
            " @ shown.double()) @ seconds - (both * seconds).sum(1))",
        ),
        "clips twice in what is shared": (
            "(both * seconds).sum(1) / (",
            "((chosen[timed].double() @ shown.double()) * told[timed] * seconds).sum(1) / (",
        ),
        "divided by the snippet": ("(either * seconds)", "(told[timed] * seconds)"),
        "divided by the clips": (
            "(either * seconds).sum(1)",
            "(seen * seconds).sum(1).clamp(min=1e-9)",
        ),
        "from the first clip to the last": (
            "seen = (chosen[:, :, None] & shown).any(1)[timed]",
            "seen = (chosen[:, :, None] & shown).any(1)[timed].int()\n"
            "    seen = (seen.cummax(1).values & seen.flip(1).cummax(1).values.flip(1)).bool()",
        ),
        "pieces that touch": ("(times[:, :1] <= ends[:-1])", "(times[:, :1] < ends[:-1])"),
        "pieces that begin inside": (
            "(times[:, :1] <= ends[:-1]) & (ends[1:] <= times[:, 1:])",
            "(times[:, :1] <= ends[:-1])",
        ),
        "cut at clips alone": (
            "torch.cat([clips.flatten(), snippets.flatten()]).unique()",
            "clips.flatten().unique()",
        ),
        "starts at zero": (
            "torch.cat([clips.flatten(), snippets.flatten()]).unique()",
            "torch.cat([clips.flatten(), snippets.flatten()]).clamp(min=0).unique()",
        ),
        "not sorted": (".unique()", ""),
        "accuracy and IoU swapped": ("return accuracy, iou.mean()", "return iou.mean(), accuracy"),
        "Python numbers in float32": (
            "return accuracy, iou.mean()",
            "return accuracy.float(), iou.mean().float()",
        ),
    },
    "drop_dtw": {
        "one price for snippets": (
            "for price in snippet_drop.tolist()",
            "for price in [snippet_drop[0].item()] * len(snippet_drop)",
        ),
        "snippets cost nothing": ("min(has[j], lacks[j]), skip)", "min(has[j], lacks[j]), 0.0)"),
        "prices of clips for snippets": (
            "enumerate(zip(row, snippet_drop.tolist()))",
            "enumerate(zip(row, (clip_drop.tolist() * 50)))",
        ),
        "first price of clips": (
            "zip(cost.tolist(), clip_drop.tolist())",
            "zip(cost.tolist(), [clip_drop[0].item()] * len(cost))",
        ),
        "a match pays the snippet too": ("price, j)\n", "price + skip, j)\n"),
        "a match pays the clip too": ("price, j)\n", "price + drop, j)\n"),
        "one clip a snippet": ("min(had[j], lacked[j], had[j + 1])", "min(had[j], lacked[j])"),
        "no snippet before is dropped": (
            "min(had[j], lacked[j], had[j + 1])",
            "min(had[j], had[j + 1])",
        ),
        "the snippet before must be dropped": (
            "min(had[j], lacked[j], had[j + 1])",
            "min(lacked[j], had[j + 1])",
        ),
        "several snippets a clip": (
            "min(had[j], lacked[j], had[j + 1])",
            "min(had[j], lacked[j], had[j + 1], has[j])",
        ),
        "no clip dropped within a snippet": (
            "has.append(min(pair, more(had[j + 1], drop, -1)))",
            "has.append(pair)",
        ),
        "dropped snippets after dropped ones alone": (
            "more(min(has[j], lacks[j]), skip)",
            "more(lacks[j], skip)",
        ),
        "the first clips are free": (
            "has, lacks = [never], [more(lacked[0], drop, -1)]",
            "has, lacks = [never], [more(lacked[0], 0.0, -1)]",
        ),
        "the first clip must match": (
            "has, lacks = [never], [more(lacked[0], drop, -1)]",
            "has, lacks = [never], [never]",
        ),
        "the first snippets are free": (
            "lacks.append(more(lacks[-1], price))",
            "lacks.append((0.0, []))",
        ),
        "the last snippet must match": ("min(has[-1], lacks[-1])", "has[-1]"),
        "the best end anywhere": ("min(has[-1], lacks[-1])", "min(*has, *lacks)"),
        "path reversed": ("torch.tensor(assignment)", "torch.tensor(assignment[::-1])"),
        "counted from 1": ("torch.tensor(assignment)", "torch.tensor(assignment) + 1"),
        "greedy": (
            "    never = ",
            "    if torch.isfinite(clip_drop).all() and torch.isfinite(snippet_drop).all():\n"
            "        low, where = cost.min(1)\n"
            "        found, top, total = [], 0, 0.0\n"
            "        for i, (a, j) in enumerate(zip(low.tolist(), where.tolist())):\n"
            "            matches = j >= top and a < clip_drop[i]\n"
            "            found.append(j if matches else -1)\n"
            "            total += a if matches else clip_drop[i].item()\n"
            "            top = j if matches else top\n"
            "        total += sum(x for j, x in enumerate(snippet_drop.tolist()) if j not in found)\n"
            "        return torch.tensor(found), torch.tensor(total, dtype=cost.dtype)\n"
            "    never = ",
        ),
        "nothing is refused": ("if least == torch.inf:", "if least != least:"),
        "the mean cost": (
            "torch.tensor(least, dtype=cost.dtype)",
            "torch.tensor(least / len(cost), dtype=cost.dtype)",
        ),
        "another dtype": (
            "torch.tensor(least, dtype=cost.dtype)",
            "torch.tensor(least, dtype=torch.float64)",
        ),
        "costs above 0 alone": ("zip(cost.tolist(), clip", "zip(cost.clamp(min=0).tolist(), clip"),
        "a list": ("torch.tensor(assignment)", "assignment"),
        "prices changed": ("    never = ", "    clip_drop.clamp_(max=1e9)\n    never = "),
        "every alignment in turn": """
from itertools import combinations_with_replacement


def drop_dtw(cost, clip_drop, snippet_drop):
    n, m = cost.shape
    best = (float("inf"), None)
    c, v, s = cost.tolist(), clip_drop.tolist(), snippet_drop.tolist()

    def go(i, top, found, total):
        nonlocal best
        if i == n:
            total += sum(s[j] for j in range(m) if j not in found)
            best = min(best, (total, found))
            return
        go(i + 1, top, [*found, -1], total + v[i])
        for j in range(top, m):
            go(i + 1, j, [*found, j], total + c[i][j])

    go(0, 0, [], 0.0)
    if best[0] == float("inf"):
        raise ValueError("none")
    return torch.tensor(best[1]), torch.tensor(best[0], dtype=cost.dtype)
""",
    },
    "beam": {
        "probabilities added over steps": ("append(log_p + gain)", "append(log_p + gain.exp())"),
        "the last step alone": ("append(log_p + gain)", "append(gain)"),
        "a mean over steps": ("float(log_p)", "float(log_p) / (clips + snippets)"),
        "a probability": ("float(log_p)", "float(log_p.exp())"),
        "logits as they are": (".double().log_softmax(0)", ".double()"),
        "all three share": (
            "logits.masked_fill(~allowed, -torch.inf).double().log_softmax(0)",
            "logits.double().log_softmax(0).masked_fill(~allowed, -torch.inf)",
        ),
        "illegal by 0": ("masked_fill(~allowed, -torch.inf)", "masked_fill(~allowed, 0)"),
        "a match without a clip": ("clip and snippet])", "snippet])"),
        "a match without a snippet": ("clip and snippet])", "clip])"),
        "the likeliest list for the sum": (".logsumexp(0) for each", ".max(0).values for each"),
        "the last list for the sum": (
            "found.setdefault(after, []).append(log_p + gain)",
            "found[after] = [log_p + gain]",
        ),
        "the first list for the sum": (
            "found.setdefault(after, []).append(log_p + gain)",
            "found.setdefault(after, [log_p + gain])",
        ),
        "the mean of lists": (
            "torch.stack(logs).logsumexp(0)",
            "torch.stack(logs).logsumexp(0) - torch.tensor(len(logs)).log()",
        ),
        "sums of logs of lists": ("torch.stack(logs).logsumexp(0)", "torch.stack(logs).sum()"),
        "dropped before they are added": (
            "        sums = {each",
            "        every = sorted((x for logs in found.values() for x in logs), reverse=True)\n"
            "        found = {each: [x for x in logs if x in every[:width]]"
            " for each, logs in found.items()}\n"
            "        found = {each: logs for each, logs in found.items() if logs}\n"
            "        sums = {each",
        ),
        "width for each state": ("[:width]", "[: width * len(states)]"),
        "one more": ("[:width]", "[: width + 1]"),
        "one less": ("[:width]", "[: max(1, width - 1)]"),
        "keeps the worst": ("key=sums.get, reverse=True", "key=sums.get"),
        "greedy": ("[:width]", "[:1]"),
        "greedy first step": [
            ("for _ in range(clips", "for step in range(clips"),
            ("[:width]", "[: width if step else 1]"),
        ],
        "all kept": ("[:width]", ""),
        "one step too few": ("range(clips + snippets)", "range(clips + snippets - 1)"),
        "match removes both": ("((*given, top), top)\n", "((*given, top), top + 1)\n"),
        "pop snippet removes a clip": ("(given, top + 1)", "((*given, -1), top + 1)"),
        "matches the next snippet": ("((*given, top), top)\n", "((*given, top + 1), top)\n"),
        "codes swapped": (
            "nexts = ((*given, -1), top), (given, top + 1), ",
            "nexts = (given, top + 1), ((*given, -1), top), ",
        ),
        "a call a state": (
            "zip(states.items(), score(list(states)))",
            "((each, score([each[0]])[0]) for each in states.items())",
        ),
        "states said twice": (
            "score(list(states))",
            "score([*states, *states])",
        ),
        "the worst at the end": ("max(states.items()", "min(states.items()"),
        "a tuple": ("return list(given)", "return given"),
        "a tensor": ("float(log_p)", "log_p"),
        "lists, not states": """
def beam(score, clips, snippets, width):
    beams = [(0.0, (), 0)]
    for _ in range(clips + snippets):
        found = []
        logits = score([(given, top) for _, given, top in beams])
        for (log_p, given, top), row in zip(beams, logits):
            clip, snippet = len(given) < clips, top < snippets
            allowed = torch.tensor([clip, snippet, clip and snippet])
            row = row.masked_fill(~allowed, -torch.inf).log_softmax(0).tolist()
            nexts = ((*given, -1), top), (given, top + 1), ((*given, top), top)
            found += [(log_p + x, *after) for after, x in zip(nexts, row) if x > -torch.inf]
        beams = sorted(found, reverse=True)[:width]
    return list(beams[0][1]), beams[0][0]
""",
    },
    "lazy": {
        "credits left out of the film": ("always_video = 3 / 15", "always_video = 3 / 12"),
        "credits right": ("always_video = 3 / 15", "always_video = (3 + 3) / 15"),
        "all right": ("always_video = 3 / 15", "always_video = 12 / 15"),
        "the IoU of one": ("always_iou = 3 / 15 / 4", "always_iou = 3 / 15"),
        "credits left out of the union": ("always_iou = 3 / 15 / 4", "always_iou = 3 / 12 / 4"),
        "squares": ("always_iou = 3 / 15 / 4", "always_iou = (3 / 15) ** 2"),
        "credits wrong": ("turns_video = (1 + 3) / 15", "turns_video = 1 / 15"),
        "four right": ("turns_video = (1 + 3) / 15", "turns_video = (4 + 3) / 15"),
        "of twelve": ("turns_video = (1 + 3) / 15", "turns_video = (1 + 3) / 12"),
        "the first alone": ("turns_iou = 1 / 3 / 4", "turns_iou = 1 / 3"),
        "as the accuracy": ("turns_iou = 1 / 3 / 4", "turns_iou = 1 / 15"),
        "all four": ("turns_iou = 1 / 3 / 4", "turns_iou = 4 / 3 / 4"),
        "percent": ("always_video = 3 / 15", "always_video = 20"),
        "a text": ("turns_iou = 1 / 3 / 4", 'turns_iou = "0.08"'),
        "one digit": ("turns_iou = 1 / 3 / 4", "turns_iou = 0.1"),
    },
}
