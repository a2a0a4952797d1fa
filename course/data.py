"""Hidden checks of the assignment "Data". Inputs are drawn from each course's secret."""

from itertools import product

import torch

from modalign.course.checks import Sheet, close, refuses

sheet = Sheet(
    "Data: scores of pairs, and what they can be",
    {
        "info_nce": 25,
        "recall_at": 25,
        "auroc": 20,
        "ceiling": 20,
        "who_pays": (15, 2),
    },
)


def pair(draw, dtype=torch.float64, grad=False):
    """Features of any length, of partners that are alike, and a class for each row."""
    n, d = draw.integer(6, 8), draw.integer(4, 6)
    a = draw.normal(n, d) * (0.5 + 2 * draw.uniform(n, 1))
    b = (a + draw.normal(n, d)) * (0.5 + 2 * draw.uniform(n, 1))
    same = torch.tensor([0, 0, 0, 1, 1, *range(2, n - 3)])[draw.permutation(n)]
    return *(each.to(dtype).requires_grad_(grad) for each in (a, b)), same


@sheet.check("info_nce", 1, "the value without classes, at several temperatures")
def _(my, book, draw):
    a, b, _ = pair(draw)
    for temperature in (0.07, 0.5):
        close(my.info_nce(a, b, temperature), book.info_nce(a, b, temperature))


@sheet.check("info_nce", 2, "rows of one class are no negatives, in either direction")
def _(my, book, draw):
    for _ in range(2):
        a, b, same = pair(draw)
        close(my.info_nce(a, b, 0.3, same), book.info_nce(a, b, 0.3, same))
        order = draw.permutation(len(a))
        mine = my.info_nce(b[order], a[order], 0.3, same[order])
        close(mine, book.info_nce(a, b, 0.3, same))
    close(my.info_nce(a, b, 0.3, 0 * same), book.info_nce(a, b, 0.3, 0 * same))


@sheet.check("info_nce", 1, "gradients to both sides and to the temperature")
def _(my, book, draw):
    a, b, same = pair(draw, grad=True)
    given = a, b, torch.tensor(0.2, dtype=torch.float64, requires_grad=True), same
    close(my.info_nce.gradients(*given), book.info_nce.gradients(*given))


@sheet.check("info_nce", 1, "a low temperature in float32; arguments left alone")
def _(my, book, draw):
    a, b, same = pair(draw, torch.float32)
    kept = [my.put(each) for each in (a, b, same)]
    mine = my.info_nce(kept[0], kept[1], 0.01, kept[2])
    close(mine, book.info_nce(a, b, 0.01, same), rtol=1e-3, atol=1e-4)
    close([each.value for each in kept], [a, b, same])


def ranked(draw, levels, dtype=torch.float64):
    """Scores with ties, and captions in no order, of which each picture has at least one."""
    n = draw.integer(5, 7)
    captions = 2 * n + draw.integer(1, 4)
    owners = torch.cat([torch.arange(n), draw.integers(0, n - 1, captions - n)])
    owners = owners[draw.permutation(captions)]
    return draw.integers(0, levels, n, captions).to(dtype), owners


@sheet.check("recall_at", 1, "scores that are all different")
def _(my, book, draw):
    scores, owners = ranked(draw, 3)
    scores = scores + draw.normal(*scores.shape)
    for k in (1, 4):
        close(my.recall_at(scores, owners, k), book.recall_at(scores, owners, k))


@sheet.check("recall_at", 2, "ties with own captions and with those of others")
def _(my, book, draw):
    for levels in (1, 3):
        scores, owners = ranked(draw, levels)
        for k in (1, 2, 3, 6):
            close(my.recall_at(scores, owners, k), book.recall_at(scores, owners, k))


@sheet.check("recall_at", 1, "the mean over all orders of equals")
def _(my, book, draw):
    owners = torch.tensor([0, 0, 1, 1, 1])[draw.permutation(5)]
    scores = torch.tensor([[2.0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    scores = torch.stack([row[draw.permutation(5)] for row in scores])
    nudges = 1e-3 * torch.stack([
        torch.tensor(each).float()
        for each in product(range(5), repeat=5)
        if len(set(each)) == 5
    ])  # fmt: skip
    for k in (1, 2):
        values = [book.recall_at(scores + nudge, owners, k) for nudge in nudges]
        close(my.recall_at(scores, owners, k), torch.stack(values).mean())


@sheet.check("recall_at", 1, "infinite scores, more places than captions, and NaN")
def _(my, book, draw):
    scores, owners = ranked(draw, 3, torch.float32)
    scores[0], scores[1, owners == 1] = -torch.inf, torch.inf
    kept = my.put(scores)
    for k in (1, 3, 50):
        close(my.recall_at(kept, owners, k), book.recall_at(scores, owners, k))
    close(kept.value, scores)
    scores[2, draw.integer(0, 9)] = torch.nan
    refuses(my.recall_at, scores, owners, 1)


def scored(draw, levels=0, dtype=torch.float64):
    n = draw.integer(20, 30)
    wrong = draw.uniform(n) < 0.3
    wrong[:2], wrong[2:4] = True, False
    score = draw.normal(n) - wrong.double()
    return ((levels * score).round() if levels else score).to(dtype), wrong


@sheet.check("auroc", 1, "more right pairs than wrong ones, no ties")
def _(my, book, draw):
    for sign in (1, -1):
        score, wrong = scored(draw)
        close(my.auroc(sign * score, wrong), book.auroc(sign * score, wrong))


@sheet.check("auroc", 1, "ties count a half")
def _(my, book, draw):
    for levels in (1, 2):
        score, wrong = scored(draw, levels)
        close(my.auroc(score, wrong), book.auroc(score, wrong))


@sheet.check("auroc", 1, "blind to maps that keep the order, in float32; arguments left alone")
def _(my, book, draw):
    score, wrong = scored(draw, 2, torch.float32)
    mine, kept = my.put((score / 2).exp()), my.put(wrong)
    close(my.auroc(mine, kept), book.auroc(score, wrong))
    close([mine.value, kept.value], [(score / 2).exp(), wrong])


@sheet.check("auroc", 1, "many scores without a table of pairs; fewer than two are refused")
def _(my, book, draw):
    score, wrong = draw.normal(20_000, dtype=torch.float32), draw.uniform(20_000) < 0.5
    score[wrong] -= 0.3
    close(my.auroc(score, wrong), book.auroc(score, wrong))
    for few in ([0], list(range(1, 9))):
        lonely = torch.zeros(9, dtype=torch.bool)
        lonely[few] = True
        refuses(my.auroc, score[:9], lonely)


@sheet.check("ceiling", 1, "classes of other sizes, also smaller than k, also empty")
def _(my, book, draw):
    counts = draw.integers(1, 9, 6)
    counts[draw.integer(0, 5)] = 0
    for k in (1, 4, 12):
        close(my.ceiling(counts, k), book.ceiling(counts, k))
    close(my.ceiling(counts[:1] + 5, 2), book.ceiling(counts[:1] + 5, 2))


@sheet.check("ceiling", 1, "the mean over all sets of four pictures")
def _(my, book, draw):
    p = draw.masses(3)
    for k in (1, 2, 3):
        mean = torch.zeros((), dtype=torch.float64)
        for drawn in product(range(3), repeat=4):
            counts = torch.bincount(torch.tensor(drawn), minlength=3)
            mean += p[list(drawn)].prod() * book.ceiling(counts, k)
        close(my.expected_ceiling(p, 4, k), mean)


@sheet.check("ceiling", 1, "many pictures, a large k, and k above n")
def _(my, book, draw):
    p = draw.masses(5) * 0.4
    p = torch.cat([p, (1 - p.sum())[None]])
    for n, k in ((3000, 400), (3000, 10), (7, 30)):
        close(my.expected_ceiling(p, n, k), book.expected_ceiling(p, n, k))


@sheet.check("ceiling", 1, "classes that never or always come; counts that are none are refused")
def _(my, book, draw):
    p = torch.zeros(draw.integer(3, 5), dtype=torch.float64)
    p[1] = 1
    n = draw.integer(6, 9)
    for k in (2, 5):
        close(my.expected_ceiling(p, n, k), book.expected_ceiling(p, n, k))
    counts = draw.integers(1, 5, 4)
    close(my.ceiling(counts, 2), book.ceiling(counts, 2))
    refuses(my.ceiling, torch.tensor([-1, *counts.tolist()]), 2)
    refuses(my.ceiling, 0 * counts, 2)
