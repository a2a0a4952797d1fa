"""Hidden checks of the assignment "CKA". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close, refuses

sheet = Sheet(
    "CKA: similarity of representations",
    {
        "weighted_hsic": 20,
        "cka_gradient": 30,
        "aligned_cosine": 25,
        "chance": 25,
        "small_batch": (15, 2),
    },
)


def features(draw, n, d, dtype=torch.float64):
    """Rows whose columns differ in scale, and whose mean is not zero."""
    x = draw.normal(n, d) * (0.5 + 2 * draw.uniform(d)) + 2 * draw.normal(d)
    return x.to(dtype)


def grams(draw, dtype=torch.float64):
    n = draw.integer(5, 8)
    x, y = features(draw, n, 3), features(draw, n, 4)
    return (x @ x.T).to(dtype), (y @ y.T).to(dtype), draw.masses(n, dtype)


@sheet.check("weighted_hsic", 2, "weights that are not equal")
def _(my, book, draw):
    for _ in range(2):
        given = grams(draw)
        close(my.weighted_hsic(*given), book.weighted_hsic(*given))


@sheet.check("weighted_hsic", 1, "an example of twice the weight counts as two")
def _(my, book, draw):
    k, l, _ = grams(draw)
    n = len(k)
    order = torch.cat([torch.arange(n), torch.tensor([1])])
    w = torch.ones(n, dtype=torch.float64) / (n + 1)
    w[1] *= 2
    twice = torch.ones(n + 1, dtype=torch.float64) / (n + 1)
    close(
        my.weighted_hsic(k, l, w),
        book.weighted_hsic(k[order][:, order], l[order][:, order], twice),
    )


@sheet.check("weighted_hsic", 1, "gradients to both matrices")
def _(my, book, draw):
    k, l, w = grams(draw)
    given = k.requires_grad_(), l.requires_grad_(), w
    mine, theirs = my.weighted_hsic.gradients(*given), book.weighted_hsic.gradients(*given)
    # matrices are symmetric: how a gradient is shared by an entry and its mirror is free
    close([g + g.T for g in mine], [g + g.T for g in theirs])


@sheet.check("weighted_hsic", 1, "other weights are refused; float32 stays; arguments left alone")
def _(my, book, draw):
    k, l, w = grams(draw, torch.float32)
    kept = [my.put(each) for each in (k, l, w)]
    close(my.weighted_hsic(*kept), book.weighted_hsic(k, l, w), rtol=1e-3)
    close([each.value for each in kept], [k, l, w])
    refuses(my.weighted_hsic, k, l, 1.5 * w)
    negative = w.clone()
    negative[0], negative[1] = -w[0], w[1] + 2 * w[0]
    refuses(my.weighted_hsic, k, l, negative)
    one = torch.zeros_like(w)
    one[:2] = 0.5
    close(my.weighted_hsic(k, l, one), book.weighted_hsic(k, l, one), rtol=1e-3)


@sheet.check("cka_gradient", 2, "two sides of other widths")
def _(my, book, draw):
    for _ in range(2):
        n = draw.integer(9, 14)
        x, y = features(draw, n, 3), features(draw, n, 5)
        close(my.cka_gradient(x, y), book.cka_gradient(x, y))


@sheet.check("cka_gradient", 1, "fewer rows than features")
def _(my, book, draw):
    x, y = features(draw, 4, draw.integer(6, 8)), features(draw, 4, 7)
    close(my.cka_gradient(x, y), book.cka_gradient(x, y))


@sheet.check("cka_gradient", 1, "many rows without a square matrix, in float32")
def _(my, book, draw):
    x, y = (draw.normal(20_000, d, dtype=torch.float32) for d in (3, 4))
    y[:, 0] += x[:, 1]
    scale = 1e4
    close(scale * my.cka_gradient(x, y), scale * book.cka_gradient(x, y), rtol=1e-2, atol=1e-3)


@sheet.check("cka_gradient", 1, "the scale of both sides; arguments left alone")
def _(my, book, draw):
    x, y = features(draw, 8, 4), features(draw, 8, 3)
    kept = my.put(3 * x), my.put(7 * y)
    close(my.cka_gradient(*kept), book.cka_gradient(x, y) / 3)
    close([each.value for each in kept], [3 * x, 7 * y])


def halves(draw, noise, mirror=False):
    d = draw.integer(3, 5)
    turn = draw.rotation(d)
    if mirror == (torch.linalg.det(turn) > 0):
        turn = turn * torch.tensor([-1.0] + [1.0] * (d - 1), dtype=torch.float64)
    x, x_test = features(draw, 12, d), features(draw, 7, d)
    shift = draw.normal(d)
    return (
        x,
        x @ turn + shift + noise * draw.normal(12, d),
        x_test,
        x_test @ turn + shift + noise * draw.normal(7, d),
    )


@sheet.check("aligned_cosine", 2, "a turn in noise")
def _(my, book, draw):
    for _ in range(2):
        given = halves(draw, 1.0)
        close(my.aligned_cosine(*given), book.aligned_cosine(*given))


@sheet.check("aligned_cosine", 1, "a mirrored space")
def _(my, book, draw):
    given = halves(draw, 0.2, mirror=True)
    close(my.aligned_cosine(*given), book.aligned_cosine(*given))


@sheet.check("aligned_cosine", 1, "halves that are unlike, in float32")
def _(my, book, draw):
    x, y, x_test, y_test = (each.float() for each in halves(draw, 0.5))
    given = x, 3 * y, x_test + 1, -y_test + 2
    close(my.aligned_cosine(*given), book.aligned_cosine(*given), rtol=1e-3, atol=1e-4)


@sheet.check("chance", 1, "the effective dimension")
def _(my, book, draw):
    for n, d in ((9, 4), (4, 7)):
        x = features(draw, n, d)
        close(my.effective_dimension(x), book.effective_dimension(x))


@sheet.check("chance", 2, "the mean over all orders of four rows")
def _(my, book, draw):
    x, y = features(draw, 4, 3), features(draw, 4, 2)
    a, b = x - x.mean(0), y - y.mean(0)
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[[len(set(order.tolist())) == 4 for order in orders]]
    size = (a.T @ a).norm() * (b.T @ b).norm()
    values = [(b[order].T @ a).square().sum() / size for order in orders]
    close(my.chance(x, y), torch.stack(values).mean())


@sheet.check("chance", 1, "other widths and scales, in float32; arguments left alone")
def _(my, book, draw):
    x, y = features(draw, 12, 5, torch.float32), 10 * features(draw, 12, 2, torch.float32)
    kept = my.put(x), my.put(y)
    close(my.chance(*kept), book.chance(x, y), rtol=1e-3)
    close([each.value for each in kept], [x, y])
