"""Hidden checks of the assignment "Captioning". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close

sheet = Sheet(
    "Captioning: looking, saying and scoring",
    {
        "attend": 30,
        "beam_search": 40,
        "corpus_bleu": 30,
        "equal_pairs": 20,
        "grounded": (15, 2),
    },
)


def regions(draw, grad=False, dtype=torch.float64, all_there=False):
    """Features with NaN where there is no region, a picture without any, and weights."""
    B, P, D, H, k = 4, draw.integer(5, 6), 3, 4, 5
    counts = torch.tensor([P, 0, draw.integer(1, 3), draw.integer(2, 4)])[draw.permutation(4)]
    mask = torch.stack([torch.arange(P)[draw.permutation(P)] < n for n in counts.tolist()])
    if all_there:
        mask = torch.ones_like(mask)
    features = draw.normal(B, P, D)
    features[~mask] = torch.nan
    others = [draw.normal(B, H), draw.normal(k, D), draw.normal(k, H), draw.normal(k)]
    held = [each.to(dtype) for each in (features, *others, draw.normal(D, H))]
    features, *others = [each.requires_grad_(grad) for each in held]
    return features, mask, *others


@sheet.check("attend", 1, "pictures that have every region")
def _(my, book, draw):
    given = regions(draw, all_there=True)
    close(my.attend(*given), book.attend(*given))


@sheet.check(
    "attend", 1, "regions that are missing, and pictures without any; arguments left alone"
)
def _(my, book, draw):
    given = regions(draw, dtype=torch.float32)
    kept = [my.put(each) for each in given]
    close(my.attend(*kept), book.attend(*given), rtol=1e-3)
    close([each.value for each in kept], list(given))


@sheet.check("attend", 1, "gradients of features, state and weights")
def _(my, book, draw):
    given = regions(draw, grad=True)
    along = draw.normal(4, 3), draw.normal(*given[1].shape)
    close(my.attend.gradients(*given, along=along), book.attend.gradients(*given, along=along))


@sheet.check("attend", 2, "the sum over words: padding, regions that are missing, gradients")
def _(my, book, draw):
    for grad in (False, True):
        _, mask, *_ = regions(draw)
        attention = draw.uniform(4, 7, mask.shape[1]) * mask[:, None]
        attention = (0.3 * attention + 0.01 * draw.uniform(*attention.shape)).requires_grad_(grad)
        given = attention, draw.integers(1, 7, 4), mask
        close(my.everywhere(*given), book.everywhere(*given))
        if grad:
            close(my.everywhere.gradients(*given), book.everywhere.gradients(*given))


MODEL = """
class Model:
    def __init__(self):
        self.asked, self.table, self.weights = [], None, None

    def __call__(self, beginnings):
        self.asked.append(list(beginnings.shape))
        weights = self.weights[: beginnings.shape[1], None]
        return (weights * self.table[beginnings]).sum(1).log_softmax(1)


model = Model()
"""


def spoken(side, table, weights, *settings):
    model = side.code(MODEL, "model")
    model.table, model.weights = table, weights
    return side.beam_search(model, *settings), model.asked.value


def speaker(draw, words=7, ends=0.0):
    """A model whose next word depends on all words before; ``ends`` makes its mark likelier."""
    table = 1.5 * draw.normal(words, words, dtype=torch.float32)
    start, end = draw.permutation(words)[:2].tolist()
    table[:, end] += ends
    return table, 0.5 + draw.uniform(20, dtype=torch.float32), start, end


@sheet.check("beam_search", 1, "one beam")
def _(my, book, draw):
    for _ in range(3):
        given = *speaker(draw), 1, draw.integer(6, 9), 0.0
        close(spoken(my, *given)[0], spoken(book, *given)[0])


@sheet.check("beam_search", 2, "several beams, of which some end early")
def _(my, book, draw):
    for width in (2, 3, 5):
        for ends in (-0.7, 0.4):
            given = *speaker(draw, ends=ends), width, draw.integer(6, 9), 0.0
            close(spoken(my, *given)[0], spoken(book, *given)[0])


@sheet.check("beam_search", 1, "sums over a power of the length")
def _(my, book, draw):
    for alpha in (0.7, 1.0, 2.0):
        for _ in range(12):
            given = *speaker(draw, ends=0.3), 6, 9, alpha
            close(spoken(my, *given)[0], spoken(book, *given)[0])


@sheet.check("beam_search", 1, "no beginning that ends in time, and one word at most")
def _(my, book, draw):
    for longest in (1, 4):
        given = *speaker(draw, ends=-30.0), 3, longest, 1.0
        close(spoken(my, *given)[0], spoken(book, *given)[0])
        given = *speaker(draw, ends=1.5), 3, longest, 1.0
        close(spoken(my, *given)[0], spoken(book, *given)[0])


@sheet.check("beam_search", 1, "one call a step, for beginnings that have not ended")
def _(my, book, draw):
    for width in (2, 4, 9):
        given = *speaker(draw, ends=0.4), width, 8, 0.0
        close(spoken(my, *given), spoken(book, *given))


def texts(draw, count, shortest=4, longest=9, words=5):
    """Captions and references of few words, so that runs are found, and come several times."""

    def text(low, high):
        return [f"w{i}" for i in draw.integers(0, words - 1, draw.integer(low, high)).tolist()]

    said = [text(shortest, longest) for _ in range(count)]
    truths = [[text(4, 10) for _ in range(draw.integer(1, 4))] for _ in range(count)]
    return said, truths


@sheet.check("corpus_bleu", 1, "runs of one and two words, counted as often as in one reference")
def _(my, book, draw):
    for words in (2, 4):
        given = *texts(draw, 6, 8, 12, words), 2
        close(my.corpus_bleu(*given), book.corpus_bleu(*given))


@sheet.check("corpus_bleu", 1, "sums over captions before the quotient, up to four words")
def _(my, book, draw):
    for _ in range(2):
        given = texts(draw, 12, 3, 14, 3)
        close(my.corpus_bleu(*given), book.corpus_bleu(*given))


@sheet.check("corpus_bleu", 2, "captions that are short: the nearest reference")
def _(my, book, draw):
    for count in (1, 2, 8):
        given = *texts(draw, count, 2, 5, 3), 3
        close(my.corpus_bleu(*given), book.corpus_bleu(*given))
    one = ["w0", "w1", "w2", "w0", "w3", "w2"]
    for said, lengths in ((one, (8, 3, 12)), (one[:4], (6, 2, 9))):
        near = [(one * 2)[: lengths[i]] for i in draw.permutation(3).tolist()]
        close(my.corpus_bleu([said], [near], 2), book.corpus_bleu([said], [near], 2))


@sheet.check("corpus_bleu", 1, "empty captions, and runs that are not found")
def _(my, book, draw):
    said, truths = texts(draw, 5, 2, 4, 3)
    said[draw.integer(0, 4)] = []
    close(my.corpus_bleu(said, truths), book.corpus_bleu(said, truths))
    close(my.corpus_bleu([[]], truths[:1]), book.corpus_bleu([[]], truths[:1]))
    strange = [["x", *each] for each in said]
    close(my.corpus_bleu(strange, truths, 1), book.corpus_bleu(strange, truths, 1))
    given = [["x", "y", "w0", "z"]], truths[:1]
    close(my.corpus_bleu(*given), book.corpus_bleu(*given))


def captioned(draw, grad=False, dtype=torch.float64):
    B, P, T = 4, 6, 7
    places, words = draw.normal(B, P, 3).to(dtype), draw.normal(B, T, 2).to(dtype)
    there, real = draw.uniform(B, P) < 0.7, draw.uniform(B, T) < 0.6
    there[0], real[0, :2], real[0, 2:], real[1] = True, True, False, True
    places, words = (each.requires_grad_(grad) for each in (places, words))
    return places, words, there, real, draw.uniform(B, P)


@sheet.check("equal_pairs", 1, "fewer words than places, none of them missing")
def _(my, book, draw):
    places, words, there, real, noise = captioned(draw)
    given = places, words[:, :3], there | True, real[:, :3] | True, noise
    close(my.equal_pairs(*given), book.equal_pairs(*given))


@sheet.check("equal_pairs", 2, "either may be fewer, with gaps in both")
def _(my, book, draw):
    for _ in range(2):
        given = captioned(draw)
        close(my.equal_pairs(*given), book.equal_pairs(*given))


@sheet.check("equal_pairs", 1, "gradients to both sides, and pictures without a pair")
def _(my, book, draw):
    given = captioned(draw, grad=True)
    given[2][1], given[3][3] = False, False
    close(my.equal_pairs(*given), book.equal_pairs(*given))
    scored = """
def scored(pairs, *given):
    x, y, _ = pairs(*given)
    return (x.square().sum(1) * y[:, 0]).sum()
"""
    close(*(
        side.code(scored, "scored").gradients(side.equal_pairs, *given) for side in (my, book)
    ))  # fmt: skip
