"""Hidden checks of the assignment "Video QA". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close

sheet = Sheet(
    "Video QA: matching, attention and spans",
    {
        "context_match": 30,
        "qa_guided": 25,
        "best_span": 30,
        "attention_ranking": 25,
        "guessed": (15, 2),
    },
)


def anything(draw, held, mask):
    """Fill what is missing with NaN, or with numbers."""
    held[~mask] = 9.0
    held[~mask & (draw.uniform(*mask.shape) < 0.5)] = torch.nan


def answers(draw, grad=False, dtype=torch.float64, size=(3, 4, 5, 6), all_there=False):
    """Answers and contexts with NaN in their gaps, as float numbers of one kind."""
    B, A, L, T = size
    query, context = draw.normal(B, A, L, 3), draw.normal(B, T, 3)
    words, steps = draw.uniform(B, A, L) < 0.6, draw.uniform(B, T) < 0.7
    words[..., 0], steps[:, 0] = True, True
    if all_there:
        words, steps = torch.ones_like(words), torch.ones_like(steps)
    anything(draw, query, words), anything(draw, context, steps)
    query, context = (each.to(dtype).requires_grad_(grad) for each in (query, context))
    return query, context, words, steps


@sheet.check("context_match", 1, "all words and steps are there; scores may be large")
def _(my, book, draw):
    given = answers(draw, all_there=True)
    close(my.context_match(*given), book.context_match(*given))
    query, *others = answers(draw, all_there=True, dtype=torch.float32)
    close(my.context_match(200 * query, *others), book.context_match(200 * query, *others))


@sheet.check("context_match", 1, "words and steps that are missing; arguments left alone")
def _(my, book, draw):
    given = answers(draw, dtype=torch.float32)
    kept = [my.put(each) for each in given]
    close(my.context_match(*kept), book.context_match(*given), rtol=1e-3)
    close([each.value for each in kept], list(given))


def emptied(draw, grad=False):
    """Some answers without a word, and a context without a step."""
    query, context, words, steps = answers(draw)
    words[draw.integer(0, 2), draw.integer(0, 3)] = False
    words[draw.integer(0, 2)] = False
    steps[draw.integer(0, 2)] = False
    anything(draw, query, words), anything(draw, context, steps)
    return query.requires_grad_(grad), context.requires_grad_(grad), words, steps


@sheet.check("context_match", 1, "answers without words, and contexts without steps")
def _(my, book, draw):
    for _ in range(2):
        given = emptied(draw)
        close(my.context_match(*given), book.context_match(*given))


@sheet.check("context_match", 1, "gradients of answers and context")
def _(my, book, draw):
    given = emptied(draw, grad=True)
    along = draw.normal(3, 4, 6, 9)
    close(
        my.context_match.gradients(*given, along=along),
        book.context_match.gradients(*given, along=along),
    )


@sheet.check("context_match", 1, "one question, answer, word or step")
def _(my, book, draw):
    for size in ((1, 4, 5, 6), (2, 1, 3, 2), (4, 4, 1, 5), (2, 3, 3, 1), (1, 1, 1, 1)):
        given = answers(draw, size=size)
        close(my.context_match(*given), book.context_match(*given))


def clip(draw, grad=False, dtype=torch.float64, all_there=False):
    """Words and regions of lengths that are very unlike, NaN where there is no region."""
    B, L, F, R = 3, 4, 5, 6
    q, v = draw.normal(B, L, 3), draw.normal(B, F, R, 3)
    q, v = (each * 10 ** (3 * draw.uniform(*each.shape[:-1], 1) - 1.5) for each in (q, v))
    mask = draw.uniform(B, F, R) < 0.6
    mask[..., 0] = True
    mask[draw.integer(0, B - 1), draw.integer(0, F - 1)] = False
    mask[:, draw.integer(0, F - 1), 1:] = False
    if all_there:
        mask = torch.ones_like(mask)
    anything(draw, v, mask)
    return *(each.to(dtype).requires_grad_(grad) for each in (q, v)), mask


@sheet.check("qa_guided", 1, "all regions are there")
def _(my, book, draw):
    given = clip(draw, all_there=True)
    close(my.qa_guided(*given), book.qa_guided(*given))
    close(my.qa_guided(*given, scale=3.0), book.qa_guided(*given, scale=3.0))


@sheet.check("qa_guided", 1, "vectors of zeros, and a scale that is large")
def _(my, book, draw):
    q, v, mask = clip(draw, all_there=True, dtype=torch.float32)
    q[:, draw.integer(0, 3)], v[:, :, draw.integer(0, 5)] = 0, 0
    for scale in (5.0, 300.0):
        close(my.qa_guided(q, v, mask, scale), book.qa_guided(q, v, mask, scale), rtol=1e-3)


@sheet.check("qa_guided", 1, "regions that are missing, frames without any; arguments left alone")
def _(my, book, draw):
    given = clip(draw)
    kept = [my.put(each) for each in given]
    close(my.qa_guided(*kept), book.qa_guided(*given))
    close([each.value for each in kept], list(given))


@sheet.check("qa_guided", 1, "gradients of words and regions")
def _(my, book, draw):
    given = clip(draw, grad=True)
    along = draw.normal(3, 5, 4, 9), draw.normal(3, 5, 4, 6)
    close(
        my.qa_guided.gradients(*given, along=along), book.qa_guided.gradients(*given, along=along)
    )


def framed(draw, grad=False, dtype=torch.float64, padding=True):
    """Scores with NaN beyond each clip's frames, and targets of which some are not known."""
    B, T = 5, 8
    frames = torch.tensor([T, 1, *draw.integers(2, T - 1, 3).tolist()])[draw.permutation(B)]
    frames = frames if padding else torch.full((B,), T)
    start, end = 2 * draw.normal(B, T), 2 * draw.normal(B, T)
    for each in (start, end):
        anything(draw, each, torch.arange(T) < frames[:, None])
    target = (draw.uniform(B, 2) * frames[:, None]).long().sort(1).values
    if padding:
        target[draw.permutation(B)[:2]] = -1
    start, end = (each.to(dtype).requires_grad_(grad) for each in (start, end))
    return start, end, target, frames


@sheet.check("best_span", 1, "the loss: frames that are missing, spans that are not known")
def _(my, book, draw):
    for padding in (False, True):
        start, end, target, frames = framed(draw, padding=padding)
        given = 100 * start, end, target, frames
        close(my.span_loss(*given), book.span_loss(*given))
    given = start, end, torch.full_like(target, -1), frames
    close(my.span_loss(*given), book.span_loss(*given))


@sheet.check("best_span", 1, "the loss: its gradients")
def _(my, book, draw):
    given = framed(draw, grad=True)
    close(my.span_loss.gradients(*given), book.span_loss.gradients(*given))


def turned(draw, **options):
    """Scores that like to end before they start."""
    start, end, _, frames = framed(draw, **options)
    slope = 0.4 * torch.arange(start.shape[1])
    return start + slope, end - slope, frames


@sheet.check("best_span", 1, "the best span: ends before starts, and spans that are too long")
def _(my, book, draw):
    for longest in (1, 2, 3, 5, 8, 20):
        given = *turned(draw, padding=False), longest
        close(my.best_span(*given), book.best_span(*given))
        start, end, *others = given
        given = end, start, *others  # now long spans are liked
        close(my.best_span(*given), book.best_span(*given))
        start[:, -1], end[:, 0] = 20.0, 20.0  # and whole clips
        close(my.best_span(*given), book.best_span(*given))


@sheet.check("best_span", 1, "the best span: frames that are missing, chances that vanish")
def _(my, book, draw):
    for longest in (1, 3, 8):
        start, end, frames = turned(draw, dtype=torch.float32)
        for scale in (1.0, 100.0):
            given = scale * start, scale * end, frames, longest
            close(my.best_span(*given), book.best_span(*given), rtol=1e-3, atol=1e-3)


@sheet.check("best_span", 1, "the best span: clips with many frames, without a table of pairs")
def _(my, book, draw):
    start, end = (draw.normal(1, 30_000, dtype=torch.float32) for _ in range(2))
    first, length = draw.integer(20_000, 25_000), draw.integer(1, 3)
    start[0, first], end[0, first + length] = 7.0, 7.0
    end[0, first - 9] = 9.0
    given = start, end, torch.tensor([29_000]), 4
    close(my.best_span(*given), book.best_span(*given), rtol=1e-3)


def ranked(draw, grad=False, dtype=torch.float64, spread=0.1, some=0.5):
    """Words of which some lack one kind of region; NaN where nothing is known."""
    N, R = 6, 8
    kind = draw.uniform(N, R)
    positive, negative = kind < 0.6 * some, kind > 1 - some
    positive[:, 0], negative[:, 0] = True, False
    positive[:, 1], negative[:, 1] = False, True
    lacking = draw.permutation(N)
    positive[lacking[0]], negative[lacking[1]] = False, False
    positive[lacking[2]] = negative[lacking[2]] = False
    scores = spread * draw.normal(N, R)
    anything(draw, scores, positive | negative)
    return scores.to(dtype).requires_grad_(grad), positive, negative


@sheet.check("attention_ranking", 1, "one region of each kind, and several")
def _(my, book, draw):
    for some in (0.0, 0.5):
        scores, positive, negative = ranked(draw, some=some)
        kept = (positive.any(1) & negative.any(1)).nonzero()[:, 0]
        given = [each[kept] for each in (scores, positive, negative)]
        close(my.attention_ranking(*given), book.attention_ranking(*given))
        close(my.attention_ranking(*given, scale=4.0), book.attention_ranking(*given, scale=4.0))


@sheet.check("attention_ranking", 1, "words that lack a kind, and none that has both")
def _(my, book, draw):
    scores, positive, negative = ranked(draw, dtype=torch.float32)
    given = scores, positive, negative
    kept = [my.put(each) for each in given]
    close(my.attention_ranking(*kept), book.attention_ranking(*given))
    close([each.value for each in kept], list(given))
    given = scores, positive, torch.zeros_like(negative)
    close(my.attention_ranking(*given), book.attention_ranking(*given))


@sheet.check("attention_ranking", 1, "gradients, and scores in the hundreds")
def _(my, book, draw):
    for spread in (0.1, 300.0):
        for dtype in (torch.float64, torch.float32):
            given = ranked(draw, grad=True, dtype=dtype, spread=spread)
            close(my.attention_ranking(*given), book.attention_ranking(*given))
            mine = my.attention_ranking.gradients(*given)
            close(mine, book.attention_ranking.gradients(*given), rtol=1e-3)


@sheet.check("attention_ranking", 1, "many regions, without a table of pairs")
def _(my, book, draw):
    scores = 0.2 * draw.normal(2, 40_000, dtype=torch.float32)
    positive = draw.uniform(2, 40_000) < 0.5
    given = scores, positive, ~positive
    close(my.attention_ranking(*given), book.attention_ranking(*given))
