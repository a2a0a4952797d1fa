"""Hidden checks of the assignment "NeuMATCH". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close, refuses

sheet = Sheet(
    "Aligning two sequences: actions, scores and prices",
    {
        "actions": 25,
        "scores": 25,
        "drop_dtw": 40,
        "beam": 35,
        "lazy": 15,
        "evidence": (15, 2),
    },
)

# both sides run this, so that many lists cross in one message
EACH = """
def each(function, given):
    return [function(*every) for every in given]
"""


def answers(side, function, given):
    return side.code(EACH, "each")(getattr(side, function), given)


def compared(my, book, function, given):
    close(answers(my, function, given), answers(book, function, given))


def path(draw, clips, snippets, several=True):
    """An alignment: pairs of which each goes on in one sequence or in both."""
    pairs, i, j = [], draw.integer(0, 1), draw.integer(0, 1)
    while i < clips and j < snippets:
        pairs.append((i, j))
        steps = [(1, 0), (1, 1), (2, 1), (1, 2), (2, 0), *([(0, 1), (0, 2)] if several else [])]
        di, dj = steps[draw.integer(0, len(steps) - 1)]
        i, j = i + di, j + dj
    return pairs[: draw.integer(len(pairs) - 1, len(pairs))]


def paths(draw, count=12, several=True):
    sizes = [(draw.integer(3, 9), draw.integer(3, 9)) for _ in range(count)]
    return [[path(draw, n, m, several), n, m] for n, m in sizes]


def every_path(clips, snippets, pairs=()):
    """All alignments of two short sequences."""
    yield list(pairs)
    i, j = pairs[-1] if pairs else (0, 0)
    for clip in range(i, clips):
        for snippet in range(j, snippets):
            if not pairs or (clip, snippet) != (i, j):
                yield from every_path(clips, snippets, (*pairs, (clip, snippet)))


def walk(draw, clips, snippets):
    """An allowed list of actions, which need not be the shortest."""
    actions, i, j = [], 0, 0
    while i < clips or j < snippets:
        allowed = [0] * (i < clips) + [1] * (j < snippets)
        allowed = [*allowed, 2, 3, 4] if len(allowed) == 2 else allowed
        actions.append(allowed[draw.integer(0, len(allowed) - 1)])
        i, j = i + (actions[-1] in (0, 2, 3)), j + (actions[-1] in (1, 3, 4))
    return actions


@sheet.check("actions", 1, "clips that have one snippet at most, and back")
def _(my, book, draw):
    given = [*paths(draw, several=False), [[], 2, 3], [[], 0, 2], [[], 0, 0]]
    compared(my, book, "actions_of", given)
    compared(my, book, "pairs_of", [[book.actions_of(*each), *each[1:]] for each in given])


@sheet.check("actions", 1, "several snippets a clip, in every alignment of short sequences")
def _(my, book, draw):
    n, m = ((2, 3), (3, 2))[draw.integer(0, 1)]
    compared(my, book, "actions_of", [*paths(draw), *([each, n, m] for each in every_path(n, m))])


@sheet.check("actions", 1, "any allowed list of actions, also where a shorter one exists")
def _(my, book, draw):
    sizes = [(draw.integer(1, 6), draw.integer(1, 6)) for _ in range(20)]
    compared(my, book, "pairs_of", [[walk(draw, n, m), n, m] for n, m in sizes])


@sheet.check("actions", 1, "what is no alignment, and what no stack allows, is refused")
def _(my, book, draw):
    n, m = draw.integer(4, 7), draw.integer(4, 7)
    right = [(1, 1), (1, 2), (2, 2), (3, 3)]
    close(my.actions_of(right, n, m), book.actions_of(right, n, m))
    back = [(1, 2), (2, 1)], [(2, 1), (1, 2)], [(2, 2), (1, 1)], [(1, 1), (1, 1)]
    outside = [(-1, 0)], [(0, -1)], [(n, 0)], [(0, m)]
    for wrong in (*back, *outside):
        refuses(my.actions_of, wrong, n, m)
    actions = book.actions_of(right, n, m)
    close(my.pairs_of(actions, n, m), book.pairs_of(actions, n, m))
    for wrong in (actions[:-1], [*actions, 0], [*actions, 1], [5, *actions], [-1, *actions]):
        refuses(my.pairs_of, wrong, n, m)
    short = [0] * (n - 1), [1] * (m - 1)
    for wrong in ([*short[0], *[1] * m], [*[0] * n, *short[1]]):
        refuses(my.pairs_of, wrong, n, m)
    for action in (3, 4):
        refuses(my.pairs_of, [*[0] * n, action, *short[1]], n, m)
    for action in (2, 3):
        refuses(my.pairs_of, [*[1] * m, action, *short[0]], n, m)


def film(draw, overlap, clips=7, snippets=4):
    """Clips and snippets in any order; with ``overlap`` they run into one another."""

    def times(count, length):
        if overlap:
            start = 20 * draw.uniform(count)
            return torch.stack([start, start + 0.5 + length * draw.uniform(count)], 1)
        ends = (20 * draw.uniform(2 * count)).sort().values.view(count, 2)
        return ends[draw.permutation(count)]

    given = torch.cat([torch.tensor([-1, 0, 0]), draw.integers(-1, snippets - 1, clips - 3)])
    return given[draw.permutation(clips)], times(clips, 6), times(snippets, 9)


@sheet.check("scores", 1, "clips and snippets that do not overlap, with gaps between them")
def _(my, book, draw):
    for _ in range(3):
        given = film(draw, False)
        close(list(my.scores(*given)), list(book.scores(*given)))


@sheet.check("scores", 2, "clips that overlap, and snippets that do")
def _(my, book, draw):
    for _ in range(3):
        given, clips, snippets = film(draw, True)
        given[:3] = draw.integer(0, 3)  # of one snippet
        close(list(my.scores(given, clips, snippets)), list(book.scores(given, clips, snippets)))


@sheet.check("scores", 1, "clips without snippet, snippets without clip, and those without time")
def _(my, book, draw):
    for overlap in (False, True):
        given, clips, snippets = film(draw, overlap)
        empty = draw.integer(0, 3)
        snippets[empty, 1] = snippets[empty, 0]
        for each in (given, 0 * given - 1, 0 * given + empty, 0 * given + (empty + 1) % 4):
            mine = my.scores(each, clips, snippets)
            close(list(mine), list(book.scores(each, clips, snippets)))


@sheet.check("scores", 1, "blind to the unit of time, to where it begins, and to all orders")
def _(my, book, draw):
    given, clips, snippets = film(draw, True)
    theirs = list(book.scores(given, clips, snippets))
    close(list(my.scores(given, 1000 * clips - 7000, 1000 * snippets - 7000)), theirs)
    order, other = draw.permutation(len(clips)), draw.permutation(len(snippets))
    there = torch.cat([other.argsort(), torch.tensor([-1])])[given]
    kept = [my.put(each) for each in (there[order], clips[order], snippets[other])]
    close(list(my.scores(*kept)), theirs)
    close([each.value for each in kept], [there[order], clips[order], snippets[other]])


def priced(draw, clips, snippets, dtype=torch.float64):
    """Costs, some of them negative, and prices that differ."""
    cost = draw.uniform(clips, snippets) - 0.2
    prices = 0.1 + 0.6 * draw.uniform(clips), 0.1 + 0.6 * draw.uniform(snippets)
    return cost.to(dtype), *(each.to(dtype) for each in prices)


@sheet.check("drop_dtw", 1, "one price for all clips, and another for all snippets")
def _(my, book, draw):
    for n, m in ((5, 3), (3, 5), (6, 6)):
        cost, clip_drop, snippet_drop = priced(draw, n, m)
        given = cost, 0 * clip_drop + 0.3, 0 * snippet_drop + 0.15
        close(list(my.drop_dtw(*given)), list(book.drop_dtw(*given)))


@sheet.check("drop_dtw", 2, "a price for each; dropped clips between two of one snippet")
def _(my, book, draw):
    for n, m in ((7, 2), (7, 4), (2, 4), (5, 7), (1, 1), (9, 3), (9, 3), (2, 8), (3, 9)):
        for much in (1, 0.3):
            cost, *prices = priced(draw, n, m)
            given = cost, *(much * each for each in prices)
            close(list(my.drop_dtw(*given)), list(book.drop_dtw(*given)))


@sheet.check("drop_dtw", 1, "infinite prices; no alignment left; float32, and arguments left alone")
def _(my, book, draw):
    cost, clip_drop, snippet_drop = priced(draw, 7, 4, torch.float32)
    never = torch.inf
    some = torch.arange(7) == draw.integer(2, 5)
    for given in (
        (cost, clip_drop, 0 * snippet_drop + never),
        (cost, 0 * clip_drop + never, snippet_drop),
        (cost, 0 * clip_drop + never, 0 * snippet_drop + never),
        (cost, clip_drop.masked_fill(some, never), snippet_drop),
    ):
        kept = [my.put(each) for each in given]
        close(list(my.drop_dtw(*kept)), list(book.drop_dtw(*given)))
        close([each.value for each in kept], list(given))
    refuses(my.drop_dtw, cost[:3], clip_drop[:3], 0 * snippet_drop + never)


@sheet.check("drop_dtw", 1, "forty clips and thirty snippets")
def _(my, book, draw):
    given = priced(draw, 40, 30)
    close(list(my.drop_dtw(*given)), list(book.drop_dtw(*given)))


MODEL = """
class Model:
    def __init__(self):
        self.asked, self.table = [], None

    def __call__(self, states):
        self.asked.append(sorted([*given, top] for given, top in states))
        rows = {
            (given, top): sum((k + 2) * (each + 2) for k, each in enumerate(given)) + 31 * top
            for given, top in states
        }
        return self.table[[7 * rows[each] % len(self.table) for each in states]]


model = Model()
"""


def searched(side, table, *sizes):
    model = side.code(MODEL, "model")
    model.table = table
    return side.beam(model, *sizes), model.asked.value


def table(draw, scale=1.5):
    """Logits that depend on all that was matched."""
    return scale * draw.normal(211, 3, dtype=torch.float32)


@sheet.check("beam", 1, "a width of one: the likeliest action, where stacks allow it")
def _(my, book, draw):
    for sizes in ((3, 2, 1), (2, 4, 1), (5, 5, 1), (1, 1, 1), (4, 0, 1), (0, 3, 1)):
        given = table(draw), *sizes
        close(list(searched(my, *given)[0]), list(searched(book, *given)[0]))


@sheet.check("beam", 1, "a width that drops nothing: all lists of each alignment")
def _(my, book, draw):
    for sizes in ((2, 2), (3, 2), (2, 3), (3, 3)):
        given = table(draw, 0.3), *sizes, 1000
        close(list(searched(my, *given)[0]), list(searched(book, *given)[0]))


@sheet.check("beam", 1, "widths between, at which states are added before they are dropped")
def _(my, book, draw):
    for width in (2, 3, 4, 6, 9):
        given = table(draw, 0.5), draw.integer(4, 6), draw.integer(3, 5), width
        close(list(searched(my, *given)[0]), list(searched(book, *given)[0]))


@sheet.check("beam", 1, "one call a step, for each state that was kept, once")
def _(my, book, draw):
    for width in (1, 3, 8):
        given = table(draw), draw.integer(3, 5), draw.integer(3, 4), width
        close(searched(my, *given)[1], searched(book, *given)[1])


sheet.numbers(
    "lazy",
    0.5,
    {
        "always_video": "always matching: video accuracy",
        "always_iou": "always matching: text IoU",
        "turns_video": "taking turns: video accuracy",
        "turns_iou": "taking turns: text IoU",
    },
    digits=2,
)
