"""Hidden checks of the assignment "CODIS". Inputs are drawn from each course's secret."""

import torch
from torch.nn import functional

from modalign.course.checks import Sheet, close

sheet = Sheet(
    "CODIS: targets, negatives and second looks",
    {
        "soft_alignment": 25,
        "hard_negatives": 25,
        "mask_words": 20,
        "rerank": 20,
        "second_look": (15, 2),
    },
)


def aligned(draw, dtype=torch.float64, grad=False, queue=True):
    """Unit vectors of a batch and a queue, with pictures that have several captions."""
    n, m, d = draw.integer(4, 6), draw.integer(7, 9) if queue else 0, 5
    rows = [functional.normalize(draw.normal(k, d), dim=1) for k in (n, n, n, m)]
    ids = draw.integers(0, 2, n)
    held = [each.to(dtype).requires_grad_(grad) for each in rows]
    return [*held, ids, draw.integers(0, 4, m)]


@sheet.check("soft_alignment", 1, "one right key each: an empty queue, and pictures that differ")
def _(my, book, draw):
    z, t, keys, queue, ids, queue_ids = aligned(draw, queue=False)
    given = z, t, keys, queue, draw.permutation(len(ids)), queue_ids
    for alpha, tau in ((0.4, 0.3), (0.0, 1.0)):
        close(my.soft_alignment(*given, alpha, tau), book.soft_alignment(*given, alpha, tau))


@sheet.check("soft_alignment", 2, "several right keys, in the batch and in the queue")
def _(my, book, draw):
    for alpha, tau in ((0.4, 0.3), (0.1, 0.7)):
        given = aligned(draw)
        close(my.soft_alignment(*given, alpha, tau), book.soft_alignment(*given, alpha, tau))


@sheet.check("soft_alignment", 1, "gradients to students and temperature, and to nothing else")
def _(my, book, draw):
    given = aligned(draw, grad=True)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    both = [side.soft_alignment.gradients(*given, 0.4, tau) for side in (my, book)]
    zero = torch.zeros(1, dtype=torch.float64)
    for mine, theirs in zip(*both, strict=True):
        # no gradient and one of zeros are the same
        close(zero if mine is None or not mine.any() else mine, zero if theirs is None else theirs)


@sheet.check("soft_alignment", 1, "a low temperature in float32")
def _(my, book, draw):
    given = aligned(draw, torch.float32)
    close(my.soft_alignment(*given, 0.4, 0.005), book.soft_alignment(*given, 0.4, 0.005), rtol=1e-3)


def drawable(draw, scale=1.0, dtype=torch.float32):
    n = draw.integer(6, 8)
    ids = torch.tensor([0, 0, 1, 1, 1, *range(2, n - 3)])[draw.permutation(n)]
    return (scale * draw.normal(n, n)).to(dtype), ids, draw.uniform(n, 30, dtype=torch.float64)


@sheet.check("hard_negatives", 1, "one caption a picture")
def _(my, book, draw):
    logits, ids, noise = drawable(draw)
    given = logits, torch.arange(len(ids)), noise
    close(my.hard_negatives(*given), book.hard_negatives(*given))


@sheet.check("hard_negatives", 2, "no caption of the same picture, wherever it stands")
def _(my, book, draw):
    for _ in range(2):
        given = drawable(draw)
        close(my.hard_negatives(*given), book.hard_negatives(*given))


@sheet.check("hard_negatives", 1, "logits a thousand apart, the least numbers and the greatest")
def _(my, book, draw):
    logits, ids, noise = drawable(draw, 1000.0)
    logits[range(len(ids)), range(len(ids))] += 5000
    noise[:, 0] = 0
    close(my.hard_negatives(logits, ids, noise), book.hard_negatives(logits, ids, noise))
    # rounding leaves some sums below 1, in rows whose last captions are forbidden
    logits, noise = draw.normal(40, 40), draw.uniform(40, 2)
    ids = torch.cat([draw.permutation(20) + 1, torch.zeros(20, dtype=torch.int64)])
    noise[:, 0], noise[:, 1] = 0, 1 - 2**-53
    close(my.hard_negatives(logits, ids, noise), book.hard_negatives(logits, ids, noise))


@sheet.check("hard_negatives", 1, "rows without a negative; arguments left alone")
def _(my, book, draw):
    logits, ids, noise = drawable(draw)
    kept = [my.put(each) for each in (logits, 0 * ids, noise)]
    close(my.hard_negatives(*kept), book.hard_negatives(logits, 0 * ids, noise))
    close([each.value for each in kept], [logits, 0 * ids, noise])
    close(my.hard_negatives(logits, ids, noise), book.hard_negatives(logits, ids, noise))


def captions(draw, rows=6):
    """Tokens, and the word of each: some words of several tokens, and other tokens around."""
    length = draw.integer(14, 18)
    words = torch.full((rows, length), -1)
    for row in words:
        sizes = draw.integers(1, 3, length)
        numbered = torch.arange(length).repeat_interleave(sizes)
        begin, end = draw.integer(0, 1), draw.integer(8, length - 1)
        row[begin:end] = numbered[: end - begin]
    shape = rows, length
    ids, other = draw.integers(10, 999, *shape), draw.integers(10, 999, *shape)
    return ids, words, draw.uniform(*shape), draw.uniform(*shape), other, draw.integer(3, 9)


@sheet.check("mask_words", 1, "what is chosen, and its labels")
def _(my, book, draw):
    for rate in (0.15, 0.5):
        given = captions(draw)
        close(my.mask_words(*given, rate)[1], book.mask_words(*given, rate)[1])
    close(my.mask_words(*given)[1], book.mask_words(*given)[1])


@sheet.check("mask_words", 2, "masked, exchanged, or left")
def _(my, book, draw):
    for rate in (0.4, 0.9):
        given = captions(draw)
        close(my.mask_words(*given, rate), book.mask_words(*given, rate))


@sheet.check("mask_words", 1, "limits that are met exactly; arguments left alone")
def _(my, book, draw):
    ids, words, pick, how, other, mask_id = captions(draw, rows=12)
    how = (how * 10).round() / 10
    pick = (pick * 10).round() / 10
    held = [my.put(each) for each in (ids, words, pick, how, other)]
    given = ids, words, pick, how, other
    close(my.mask_words(*held, mask_id, 0.5), book.mask_words(*given, mask_id, 0.5))
    close([each.value for each in held], list(given))


MATCH = """
class Match:
    def __init__(self):
        self.asked, self.scores = [], None

    def __call__(self, rows, columns):
        self.asked.append(sorted(zip(rows.tolist(), columns.tolist())))
        return self.scores[rows, columns]


match = Match()
"""


def looked(side, similarity, scores, k):
    match = side.code(MATCH, "match")
    match.scores = scores
    kept = side.put(similarity)
    return side.rerank(kept, match, k), match.asked.value, kept.value


@sheet.check("rerank", 2, "the first by their scores, and then the others")
def _(my, book, draw):
    for k in (1, 3):
        shape = draw.integer(4, 6), draw.integer(7, 9)
        given = draw.normal(*shape), draw.normal(*shape), k
        close(looked(my, *given)[0], looked(book, *given)[0])


@sheet.check("rerank", 1, "one call, for the most similar alone; arguments left alone")
def _(my, book, draw):
    shape = draw.integer(4, 6), draw.integer(7, 9)
    given = draw.normal(*shape), draw.normal(*shape), draw.integer(2, 4)
    close(looked(my, *given)[1:], looked(book, *given)[1:])


@sheet.check("rerank", 1, "ties of scores and of similarities, and fewer candidates than k")
def _(my, book, draw):
    for k in (4, 9, 30):
        shape = draw.integer(4, 6), draw.integer(18, 22)
        given = draw.integers(0, 2, *shape).double(), draw.integers(0, 1, *shape).double(), k
        close(looked(my, *given)[0], looked(book, *given)[0])
