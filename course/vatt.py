"""Hidden checks of the assignment "VATT". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close

sheet = Sheet(
    "VATT: tokens, bags and a detector",
    {
        "tubelets": 20,
        "drop_tokens": 20,
        "mil_nce": 35,
        "modality_positions": 20,
        "detected": 25,
        "skipped": (15, 2),
    },
)


@sheet.check("tubelets", 1, "boxes of a video whose sizes are multiples")
def _(my, book, draw):
    given = draw.normal(2, 4, 3, 6, 10), 2, 3, 5
    close(my.tubelets(*given), book.tubelets(*given))
    given = draw.normal(1, 3, 2, 4, 4), 1, 4, 2
    close(my.tubelets(*given), book.tubelets(*given))


@sheet.check("tubelets", 1, "boxes of sizes that are no multiples, and of whole numbers")
def _(my, book, draw):
    for t, h, w in ((3, 3, 5), (4, 2, 4), (2, 5, 3), (9, 9, 9)):
        given = draw.normal(2, 4, 3, 6, 10, dtype=torch.float32), t, h, w
        close(my.tubelets(*given), book.tubelets(*given))
    given = draw.integers(0, 255, 3, 5, 3, 4, 7).to(torch.uint8), 2, 3, 4
    close(my.tubelets(*given), book.tubelets(*given))


@sheet.check("tubelets", 1, "the video of any boxes, without what was put at its end")
def _(my, book, draw):
    for t, h, w, shape in (
        (2, 3, 5, (4, 3, 6, 10)),
        (3, 2, 4, (4, 3, 5, 7)),
        (2, 4, 3, (5, 2, 6, 4)),
        (4, 4, 4, (3, 1, 2, 1)),
    ):
        n = -(-shape[0] // t) * -(-shape[2] // h) * -(-shape[3] // w)
        boxes = draw.normal(2, n, t * h * w * shape[1])
        given = boxes, t, h, w, shape
        close(my.video_of(*given), book.video_of(*given))
        given = (1000 * boxes).long(), t, h, w, shape
        close(my.video_of(*given), book.video_of(*given))


@sheet.check("tubelets", 1, "gradients both ways")
def _(my, book, draw):
    given = draw.normal(2, 5, 3, 4, 7, grad=True), 2, 3, 4
    along = draw.normal(2, 3 * 2 * 2, 2 * 3 * 4 * 3)
    close(my.tubelets.gradients(*given, along=along), book.tubelets.gradients(*given, along=along))
    given = draw.normal(2, 3 * 2 * 2, 2 * 3 * 4 * 3, grad=True), 2, 3, 4, (5, 3, 4, 7)
    along = draw.normal(2, 5, 3, 4, 7)
    close(my.video_of.gradients(*given, along=along), book.video_of.gradients(*given, along=along))


RATES = (0.0, 0.25, 0.5, 0.75)  # so that a rounded product cannot cross a whole number


def rows(draw, B=4, N=9, grad=False, all_there=False, dtype=torch.float64):
    """Rows with gaps, one with its first token alone; NaN or numbers in gaps."""
    tokens, real, noise = draw.normal(B, N, 3), draw.uniform(B, N) < 0.7, draw.uniform(B, N)
    real[:, 0] = True
    real[draw.integer(0, B - 1), 1:] = False
    if all_there:
        real = torch.ones_like(real)
    wrong = ~real & (draw.uniform(B, N) < 0.5)
    tokens[wrong], noise[wrong] = torch.nan, torch.nan
    noise[:, 0] = draw.uniform(B) + 0.6  # often the greatest, and never dropped
    return tokens.to(dtype).requires_grad_(grad), real, noise


@sheet.check("drop_tokens", 1, "rows of equal length: which tokens stay, in their order")
def _(my, book, draw):
    for rate in RATES:
        tokens, real, noise = rows(draw, all_there=True, N=draw.integer(7, 10))
        given = tokens, real, rate, noise
        close(my.drop_tokens(*given), book.drop_tokens(*given))


@sheet.check("drop_tokens", 1, "rows with gaps, of unequal length; arguments left alone")
def _(my, book, draw):
    for rate in RATES:
        tokens, real, noise = rows(draw, dtype=torch.float32)
        given = tokens, real, rate, noise
        kept = [my.put(each) for each in given]
        close(my.drop_tokens(*kept), book.drop_tokens(*given))
        close([each.value for each in kept], list(given))
    tokens, real, noise = rows(draw, B=1)
    given = tokens, real, 0.5, noise
    close(my.drop_tokens(*given), book.drop_tokens(*given))


@sheet.check("drop_tokens", 1, "gradients reach what stays")
def _(my, book, draw):
    for rate in (0.25, 0.75):
        tokens, real, noise = rows(draw, grad=True)
        given = tokens, real, rate, noise
        places = book.drop_tokens(*given)[1]
        along = draw.normal(*places.shape, 3)
        close(
            my.drop_tokens.gradients(*given, along=[along]),
            book.drop_tokens.gradients(*given, along=[along]),
        )


def bags(draw, N=5, grad=False, dtype=torch.float64, counts=(3, 0, 1, 2, 4)):
    """Clips and texts of unlike lengths, in bags of unequal size, in any order."""
    counts = torch.tensor(counts)[draw.permutation(N)]
    owners = torch.arange(N).repeat_interleave(counts)
    owners = owners[draw.permutation(len(owners))]
    video, texts = draw.normal(N, 4), draw.normal(len(owners), 4)
    video, texts = (each * 10 ** (draw.uniform(len(each), 1) - 0.5) for each in (video, texts))
    video, texts = (each.to(dtype).requires_grad_(grad) for each in (video, texts))
    return video, texts, owners


@sheet.check("mil_nce", 1, "one text a clip")
def _(my, book, draw):
    for tau in (0.2, 1.0):
        given = *bags(draw, counts=(1,) * 5), tau
        close(my.mil_nce(*given), book.mil_nce(*given))


@sheet.check("mil_nce", 1, "bags of equal size, in any order")
def _(my, book, draw):
    for tau in (0.1, 0.6):
        given = *bags(draw, counts=(3,) * 5), tau
        close(my.mil_nce(*given), book.mil_nce(*given))


@sheet.check("mil_nce", 1, "bags of unequal size")
def _(my, book, draw):
    for tau in (0.1, 0.6):
        given = *bags(draw, counts=(3, 2, 1, 2, 4)), tau
        close(my.mil_nce(*given), book.mil_nce(*given))


@sheet.check("mil_nce", 1, "clips without texts; one clip; no text at all; arguments left alone")
def _(my, book, draw):
    given = *bags(draw), 0.3
    kept = [my.put(each) for each in given]
    close(my.mil_nce(*kept), book.mil_nce(*given))
    close([each.value for each in kept], list(given))
    for counts in ((3,), (0, 2), (0, 0, 0)):
        given = *bags(draw, N=len(counts), counts=counts), 0.3
        close(my.mil_nce(*given), book.mil_nce(*given))


@sheet.check("mil_nce", 1, "a small temperature in float32")
def _(my, book, draw):
    for tau in (0.005, 0.02):
        given = *bags(draw, dtype=torch.float32), tau
        close(my.mil_nce(*given), book.mil_nce(*given), rtol=1e-3)


@sheet.check("mil_nce", 1, "gradients of clips and texts")
def _(my, book, draw):
    for counts in ((3, 0, 1, 2, 4), (4,)):
        for tau in (0.05, 0.5):
            given = *bags(draw, N=len(counts), counts=counts, grad=True), tau
            close(my.mil_nce.gradients(*given), book.mil_nce.gradients(*given))


def tables(draw, sizes, grad=False, dtype=torch.float64):
    return [draw.normal(n, 4).to(dtype).requires_grad_(grad) for n in sizes]


def places(draw, shape, B=3, K=12):
    """Places of tokens, some of them padding; the first and the last place are among them."""
    count = torch.Size(shape).numel()
    kept = draw.integers(0, count - 1, B, K)
    kept[:, 0], kept[:, 1] = 0, count - 1
    kept[1:, K - draw.integer(2, 4) :] = -1
    return kept


@sheet.check("modality_positions", 1, "tables of the same size, for one axis and several")
def _(my, book, draw):
    for shape in ((7,), (3, 5), (2, 3, 4)):
        given = tables(draw, shape), shape, places(draw, shape)
        close(my.modality_positions(*given), book.modality_positions(*given))


@sheet.check("modality_positions", 1, "tables of another size, single places and single rows")
def _(my, book, draw):
    for sizes, shape in (
        ((5,), (8,)),
        ((9, 3), (4, 7)),
        ((2, 6, 4), (5, 3, 9)),
        ((4, 1, 3), (1, 5, 2)),
        ((1,), (1,)),
    ):
        for dtype in (torch.float64, torch.float32):
            given = tables(draw, sizes, dtype=dtype), shape, places(draw, shape)
            close(my.modality_positions(*given), book.modality_positions(*given))


@sheet.check("modality_positions", 1, "gradients of the tables, and very many places")
def _(my, book, draw):
    shape = 400, 300, 1000
    given = tables(draw, (8, 30, 7), dtype=torch.float32), shape, places(draw, shape)
    close(my.modality_positions(*given), book.modality_positions(*given), rtol=1e-3, atol=1e-4)
    given = tables(draw, (3, 6, 4), grad=True), (5, 4, 9), places(draw, (5, 4, 9))
    along = draw.normal(3, 12, 4)
    close(
        my.modality_positions.gradients(*given, along=along),
        book.modality_positions.gradients(*given, along=along),
    )


sheet.numbers(
    "detected",
    1,
    {
        "area_text": "the area for wrong texts",
        "area_both": "the area where text and sound are wrong",
        "low": "the lower end of the interval",
        "high": "the upper end of the interval",
    },
    digits=3,
)
