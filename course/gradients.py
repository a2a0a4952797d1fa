"""Hidden checks of the assignment "Gradients". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close

sheet = Sheet(
    "Gradients: two losses, one set of weights",
    {
        "projected": 25,
        "backward_both": 30,
        "Patience": 25,
        "joint_step": 25,
        "both_rules": (15, 2),
    },
)


def lists(draw, sign, dtype=torch.float64):
    """Two lists of three tensors whose vectors conflict (-1) or agree (1)."""
    shapes = [(draw.integer(2, 4), 3), (draw.integer(2, 5),), (2, 2)]
    a = [draw.normal(*shape) for shape in shapes]
    b = [draw.normal(*shape) + sign * 1.5 * x for shape, x in zip(shapes, a, strict=True)]
    return [x.to(dtype) for x in a], [x.to(dtype) for x in b]


@sheet.check("projected", 2, "several tensors are one vector")
def _(my, book, draw):
    for _ in range(2):
        a, b = lists(draw, -1)
        close(my.projected(a, b), book.projected(a, b))


@sheet.check("projected", 1, "tensors without a partner stay, and are no part of the angle")
def _(my, book, draw):
    a, b = lists(draw, -1)
    a.append(None)
    b.append(100 * draw.normal(3))
    a.insert(0, 100 * draw.normal(2))
    b.insert(0, None)
    close(my.projected(a, b), book.projected(a, b))


@sheet.check("projected", 1, "gradients that agree, or are zero, stay as they are")
def _(my, book, draw):
    a, b = lists(draw, 1)
    close(my.projected(a, b), book.projected(a, b))
    nothing = [torch.zeros_like(each) for each in b]
    close(my.projected(a, nothing), (a, nothing))
    c, d = lists(draw, -1)
    close(my.projected(c, d), book.projected(c, d))


@sheet.check("projected", 1, "float16, whose products overflow; arguments left alone")
def _(my, book, draw):
    a, b = lists(draw, -1)
    a, b = ([(200 * each).half() for each in side] for side in (a, b))
    kept = my.put(a), my.put(b)
    close(my.projected(*kept), book.projected(a, b), rtol=5e-3, atol=0.5)
    close([kept[0].value, kept[1].value], [a, b])


CASE = """
class Case:
    def __init__(self, x, weights, kind):
        self.p = [torch.nn.Parameter(w.clone()) for w in weights]
        u, v, own_a, own_b, unused = self.p
        h = torch.tanh(x @ u) * v
        self.a = (h - 1).square().mean() + (0 if kind == "shared" else own_a.square().sum())
        self.b = (h + 1).square().mean() + (0 if kind == "shared" else (own_b - 1).square().sum())
        if kind == "agree":
            self.b = (h - 2).square().mean()

    def fill(self, grads):
        for p, grad in zip(self.p, grads):
            p.grad = grad

    def grads(self):
        return [p.grad for p in self.p]

    def weights(self):
        return [p.detach() for p in self.p]


def case(x, weights, kind):
    return Case(x, weights, kind)
"""


def backward(side, x, weights, kind, before=None):
    """The cosine, all gradients and all weights after the call, on one side."""
    case = side.code(CASE, "case").make(x, weights, kind)
    if before is not None:
        case.fill(before)
    cosine = side.backward_both(case.a, case.b, case.p)
    return cosine, case.grads(), case.weights()


def weights(draw):
    return draw.normal(6, 3), [draw.normal(3, 4), draw.normal(4), draw.normal(2), draw.normal(2),
                               draw.normal(3)]  # fmt: skip


def same_kinds(found):
    """The parts that check compares: cosine, gradients where there are some, and weights."""
    cosine, grads, held = found
    return [cosine, [each is None for each in grads], [g for g in grads if g is not None], held]


@sheet.check("backward_both", 2, "the step after projection, and the cosine before")
def _(my, book, draw):
    given = weights(draw)
    close(same_kinds(backward(my, *given, "shared")), same_kinds(backward(book, *given, "shared")))


@sheet.check("backward_both", 1, "parameters of one loss alone, and of none")
def _(my, book, draw):
    given = weights(draw)
    close(same_kinds(backward(my, *given, "own")), same_kinds(backward(book, *given, "own")))


@sheet.check("backward_both", 1, "what was in .grad is added to")
def _(my, book, draw):
    x, held = weights(draw)
    before = [draw.normal(*each.shape) for each in held]
    close(same_kinds(backward(my, x, held, "own", before)),
          same_kinds(backward(book, x, held, "own", before)))  # fmt: skip


@sheet.check("backward_both", 1, "losses that agree")
def _(my, book, draw):
    given = weights(draw)
    close(same_kinds(backward(my, *given, "agree")), same_kinds(backward(book, *given, "agree")))


def run(side, settings, cosines):
    """Thresholds, decisions and shares of a run."""
    rule = side.Patience.make(*settings)
    said = []
    for cosine in cosines:
        said.append([rule.gamma(), rule.accept(cosine), rule.share()])
    return said


@sheet.check("Patience", 2, "waits, rises and stays")
def _(my, book, draw):
    settings = (-0.6, 0.2, draw.integer(2, 4), draw.integer(4, 6))
    cosines = (2 * draw.uniform(14) - 1).tolist()
    close(run(my, settings, cosines), run(book, settings, cosines))


@sheet.check("Patience", 1, "a cosine at the threshold, or of a batch without one loss")
def _(my, book, draw):
    settings = (-0.5, -0.5, draw.integer(1, 3), 2)
    cosines = [-0.5, float("nan"), -0.25, float("nan"), -0.5]
    close(run(my, settings, cosines), run(book, settings, cosines))


@sheet.check("Patience", 1, "two objects, each with a clock of its own; the share before the first")
def _(my, book, draw):
    def two(side):
        first, second = (side.Patience.make(-0.9, 0.9, 0, 4) for _ in range(2))
        begin = first.share()
        return [begin, [first.accept(x) for x in cosines], second.gamma(), second.share()]

    cosines = (2 * draw.uniform(5) - 1).tolist()
    close(two(my), two(book))


def shards(draw, dtype=torch.float64):
    r, p = draw.integer(3, 5), draw.integer(6, 9)
    a = draw.normal(r, p)
    b = draw.normal(r, p) - 0.8 * a.mean(0) * r
    return a.to(dtype), b.to(dtype), draw.integers(1, 9, r)


@sheet.check("joint_step", 2, "the mean of all clips first, then the projection")
def _(my, book, draw):
    for _ in range(2):
        given = shards(draw)
        close(my.joint_step(*given), book.joint_step(*given))


@sheet.check("joint_step", 1, "a process without clips")
def _(my, book, draw):
    a, b, rows = shards(draw)
    rows[1], a[1], b[1] = 0, torch.nan, torch.nan
    close(my.joint_step(a, b, rows), book.joint_step(a, b, rows))


@sheet.check("joint_step", 1, "gradients that agree; float32 stays; arguments left alone")
def _(my, book, draw):
    a, _, rows = shards(draw, torch.float32)
    b = a + 0.1
    kept = [my.put(each) for each in (a, b, rows)]
    close(my.joint_step(*kept), book.joint_step(a, b, rows))
    close([each.value for each in kept], [a, b, rows])
    a, b, rows = shards(draw, torch.float32)
    close(my.joint_step(a, b, rows), book.joint_step(a, b, rows))
