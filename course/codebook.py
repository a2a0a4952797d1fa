"""Hidden checks of the assignment "Codebook". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close

sheet = Sheet(
    "Codebook: transport plans as targets",
    {
        "ipot_log": 35,
        "potentials": 25,
        "code_loss": 30,
        "shard_step": 25,
        "marginals": (15, 2),
    },
)


def problem(draw, dtype=torch.float64, scale=2):
    """Costs of more or fewer columns than rows, and marginals that are not uniform."""
    n = draw.integer(4, 7)
    k = n + draw.integer(1, 3)
    if draw.integer(0, 1):
        n, k = k, n
    return scale * draw.uniform(n, k, dtype=dtype), draw.masses(n, dtype), draw.masses(k, dtype)


@sheet.check("ipot_log", 1, "other marginals, and another number of columns than rows")
def _(my, book, draw):
    cost, mu, nu = problem(draw)
    for outer in (1, 7):
        close(my.ipot_log(cost, 0.5, outer, 1, mu, nu), book.ipot_log(cost, 0.5, outer, 1, mu, nu))


@sheet.check("ipot_log", 1, "several scalings a step")
def _(my, book, draw):
    cost, mu, nu = problem(draw)
    inner = draw.integer(2, 4)
    close(my.ipot_log(cost, 0.3, 6, inner, mu, nu), book.ipot_log(cost, 0.3, 6, inner, mu, nu))


@sheet.check("ipot_log", 1, "a small beta in float32")
def _(my, book, draw):
    cost, mu, nu = problem(draw, torch.float32, 1)
    mine = my.ipot_log(cost, 0.002, 20, 1, mu, nu)
    close(mine, book.ipot_log(cost, 0.002, 20, 1, mu, nu), rtol=1e-2, atol=1e-4)


@sheet.check("ipot_log", 1, "blind to what is added to the costs of a row")
def _(my, book, draw):
    cost, mu, nu = problem(draw)
    more = 3 * draw.uniform(len(cost), 1)
    close(my.ipot_log(cost + more, 0.5, 5, 2, mu, nu), book.ipot_log(cost, 0.5, 5, 2, mu, nu))


@sheet.check("ipot_log", 1, "converged scalings give Sinkhorn's plan at beta over the steps")
def _(my, book, draw):
    cost, mu, nu = problem(draw)
    mine = my.ipot_log(cost, 1.0, 4, 300, mu, nu)
    close(mine, book.ipot_log(cost, 0.25, 1, 1500, mu, nu), rtol=1e-3)


@sheet.check("ipot_log", 1, "many rows without a square matrix; arguments left alone")
def _(my, book, draw):
    cost = draw.uniform(20_000, 3, dtype=torch.float32)
    mu, nu = torch.full((20_000,), 1 / 20_000), draw.masses(3, torch.float32)
    kept = my.put([cost, mu, nu])
    first, second, third = (my.put(each) for each in (cost, mu, nu))
    close(my.ipot_log(first, 0.5, 3, 1, second, third), book.ipot_log(cost, 0.5, 3, 1, mu, nu),
          atol=1e-8)  # fmt: skip
    close([first.value, second.value, third.value], kept.value)


@sheet.check("potentials", 1, "both prices, of other sizes and marginals")
def _(my, book, draw):
    cost, mu, nu = problem(draw)
    for iterations in (1, 5):
        close(my.potentials(cost, 0.5, iterations, mu, nu),
              book.potentials(cost, 0.5, iterations, mu, nu))  # fmt: skip


@sheet.check("potentials", 1, "costs of a thousand times epsilon in float32")
def _(my, book, draw):
    cost, mu, nu = problem(draw, torch.float32)
    close(my.potentials(cost, 0.002, 20, mu, nu), book.potentials(cost, 0.002, 20, mu, nu),
          rtol=1e-3, atol=1e-4)  # fmt: skip


@sheet.check("potentials", 1, "what is added to the costs of a row is added to its price")
def _(my, book, draw):
    cost, mu, nu = problem(draw)
    more = 3 * draw.uniform(len(cost))
    f, g = book.potentials(cost, 0.3, 6, mu, nu)
    close(my.potentials(cost + more[:, None], 0.3, 6, mu, nu), (f + more, g))


@sheet.check("potentials", 1, "columns in another order; arguments left alone")
def _(my, book, draw):
    cost, mu, nu = problem(draw)
    order = draw.permutation(len(nu))
    f, g = book.potentials(cost, 0.4, 4, mu, nu)
    shuffled = my.put(cost[:, order])
    close(my.potentials(shuffled, 0.4, 4, mu, nu[order]), (f, g[order]))
    close(shuffled.value, cost[:, order])


def features(draw, dtype=torch.float64, grad=False):
    """Student and teacher features of two modalities, and prototypes of any length."""
    n, k, d = draw.integer(4, 6), draw.integer(7, 9), 5
    rows = [draw.normal(n, d) for _ in range(4)]
    unit = [torch.nn.functional.normalize(each, dim=1).to(dtype) for each in rows]
    prototypes = (draw.normal(k, d) * (0.5 + draw.uniform(k, 1))).to(dtype)
    return [each.requires_grad_(grad) for each in (*unit, prototypes)]


@sheet.check("code_loss", 2, "the value, with each modality's plan for the other")
def _(my, book, draw):
    given = features(draw)
    for tau in (0.3, 0.7):
        close(my.code_loss(*given, tau), book.code_loss(*given, tau))


@sheet.check("code_loss", 1, "lengths of prototypes change nothing")
def _(my, book, draw):
    *given, prototypes = features(draw)
    longer = prototypes * (1 + 5 * draw.uniform(len(prototypes), 1))
    close(my.code_loss(*given, longer, 0.2), book.code_loss(*given, prototypes, 0.2))


@sheet.check("code_loss", 1, "gradients of students and prototypes, and none through a plan")
def _(my, book, draw):
    given = features(draw, grad=True)
    for mine, theirs in zip(
        my.code_loss.gradients(*given, 0.3), book.code_loss.gradients(*given, 0.3), strict=True
    ):
        # no gradient and one of zeros are the same
        zero = torch.zeros(1, dtype=torch.float64)
        close(zero if mine is None or not mine.any() else mine, zero if theirs is None else theirs)


@sheet.check("code_loss", 1, "a low temperature in float32")
def _(my, book, draw):
    given = features(draw, torch.float32)
    close(my.code_loss(*given, 0.005), book.code_loss(*given, 0.005), rtol=1e-3)


REDUCE = """
class Reduce:
    def __init__(self):
        self.sizes, self.others = [], None

    def __call__(self, x):
        self.sizes.append(list(x.shape))
        return x + self.others


reduce = Reduce()
"""


def step(side, draw, dtype=torch.float64):
    """A step on rows of ours, beside other processes' sums, on one side."""
    k = draw.integer(4, 6)
    cost, plan = draw.uniform(3, k, dtype=dtype), draw.uniform(3, k, dtype=dtype)
    reduce = side.code(REDUCE, "reduce")
    reduce.others = 0.1 + draw.uniform(k, dtype=dtype)
    sigma, n = 0.5 + draw.uniform(k, dtype=dtype), draw.integer(8, 12)
    kept = [side.put(cost), side.put(plan), side.put(sigma)]
    return side.shard_step(*kept, 0.4, n, reduce), reduce.sizes.value, [x.value for x in kept]


def both(my, book, draw, dtype=torch.float64):
    state = draw.generator.get_state()
    mine = step(my, draw, dtype)
    draw.generator.set_state(state)
    return mine, step(book, draw, dtype)


@sheet.check("shard_step", 1, "the new rows and the new scaling, beside other processes")
def _(my, book, draw):
    (mine, _, _), (theirs, _, _) = both(my, book, draw)
    close(mine, theirs)


@sheet.check("shard_step", 1, "one sum over processes, of as many numbers as columns")
def _(my, book, draw):
    (mine, sizes, _), (theirs, expected, _) = both(my, book, draw)
    close(mine[1], theirs[1])
    close(sizes, expected)


@sheet.check("shard_step", 1, "float32 stays, and arguments are left alone")
def _(my, book, draw):
    (mine, _, kept), (theirs, _, expected) = both(my, book, draw, torch.float32)
    close(mine, theirs)
    close(kept, expected)
