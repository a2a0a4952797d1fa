"""Hidden checks of the assignment "Sequences". Inputs are drawn from each course's secret."""

import torch

from modalign.course.checks import Sheet, close, refuses

sheet = Sheet(
    "Pace and scale: steps, statistics and gates",
    {
        "LARS": 30,
        "sequence_norm": 30,
        "layer_norm_lstm": 35,
        "projections": 25,
        "before_adam": (15, 2),
    },
)

# both sides run this: tensors, groups and gradients of several steps, and what may happen between
DRIVE = """
def drive(make, ws, gradients, options, rates=None, reload=False):
    ws = [w.clone().requires_grad_() for w in ws]
    groups = [{"params": [w], **own} for w, own in zip(ws, options["groups"])]
    others = {name: value for name, value in options.items() if name != "groups"}
    optimizer = make(groups, **others)
    same = True
    for t, row in enumerate(gradients):
        if rates is not None:
            for group in optimizer.param_groups:
                group["lr"] = rates[t]
        if reload and t == 2:
            held = optimizer.state_dict()
            ws = [w.detach().clone().requires_grad_() for w in ws]
            optimizer = make([{"params": [w], **own} for w, own in zip(ws, options["groups"])],
                             **others)
            optimizer.load_state_dict(held)
        for w, g in zip(ws, row):
            w.grad = None if g is None else g.clone()
        optimizer.step()
        same = same and all(g is None or bool((w.grad == g).all()) for w, g in zip(ws, row))
    return [w.detach() for w in ws], [w.requires_grad for w in ws], same
"""


def steps(draw, count=4, dtype=torch.float64):
    """Tensors of other shapes and sizes, and gradients that are very unlike."""
    ws = [draw.normal(3, 2), 20 * draw.normal(4), 0.1 * draw.normal(2, 2, 2)]
    gradients = [
        [10.0 ** draw.integer(-3, 3) * draw.normal(*w.shape) for w in ws] for _ in range(count)
    ]
    return [w.to(dtype) for w in ws], [[g.to(dtype) for g in row] for row in gradients]


def driven(side, *args, **kwargs):
    return side.code(DRIVE, "drive")(side.LARS, *args, **kwargs)


ALIKE = [{}, {}, {}]


@sheet.check("LARS", 1, "several tensors over several steps, with and without momentum")
def _(my, book, draw):
    ws, gradients = steps(draw)
    for momentum in (0.0, 0.8):
        options = {"lr": 0.1, "momentum": momentum, "groups": ALIKE}
        close(driven(my, ws, gradients, options), driven(book, ws, gradients, options))


@sheet.check("LARS", 1, "weight decay goes into the gradient")
def _(my, book, draw):
    ws, gradients = steps(draw)
    options = {"lr": 0.05, "momentum": 0.6, "weight_decay": 0.3, "groups": ALIKE}
    close(driven(my, ws, gradients, options), driven(book, ws, gradients, options))


@sheet.check("LARS", 1, "norms of 0, and tensors without a gradient")
def _(my, book, draw):
    ws, gradients = steps(draw)
    ws[0], gradients[0][1] = 0 * ws[0], 0 * gradients[0][1]
    gradients[1][2] = gradients[2][1] = None
    options = {"lr": 0.1, "momentum": 0.7, "groups": ALIKE}
    close(driven(my, ws, gradients, options), driven(book, ws, gradients, options))


@sheet.check("LARS", 1, "groups with settings of their own, and rates that change")
def _(my, book, draw):
    ws, gradients = steps(draw)
    groups = [{"lr": 0.2}, {"momentum": 0.3}, {"weight_decay": 0.5, "lr": 0.01}]
    options = {"lr": 0.1, "groups": groups}
    close(driven(my, ws, gradients, options), driven(book, ws, gradients, options))
    rates = [0.1, 0.05, 0.2, 0.01]
    close(driven(my, ws, gradients, options, rates), driven(book, ws, gradients, options, rates))


@sheet.check("LARS", 1, "state_dict goes on where another left off, in float32")
def _(my, book, draw):
    ws, gradients = steps(draw, dtype=torch.float32)
    options = {"lr": 0.1, "momentum": 0.9, "groups": ALIKE}
    mine = driven(my, ws, gradients, options, reload=True)
    close(mine, driven(book, ws, gradients, options), rtol=1e-3, atol=1e-4)


def batch(draw, dtype=torch.float64, grad=False):
    """A padded batch with NaN in its padding, one empty sequence, and all that is to be learnt."""
    lengths = torch.tensor([5, 0, draw.integer(2, 4), draw.integer(1, 3)])[draw.permutation(4)]
    x = 3 * draw.normal(3) + draw.normal(4, 6, 3) * (0.5 + draw.uniform(3))
    x[torch.arange(6) >= lengths[:, None]] = torch.nan
    gamma, beta = 0.5 + draw.uniform(3), draw.normal(3)
    learnt = [each.to(dtype).requires_grad_(grad) for each in (x, gamma, beta)]
    return learnt[0], lengths, *learnt[1:], draw.normal(3).to(dtype), draw.uniform(3).to(dtype)


@sheet.check("sequence_norm", 1, "padding of NaN and empty sequences, in training")
def _(my, book, draw):
    for _ in range(2):
        given = batch(draw)
        close(my.sequence_norm(*given)[0], book.sequence_norm(*given)[0])


@sheet.check("sequence_norm", 1, "running statistics at another momentum")
def _(my, book, draw):
    given = batch(draw)
    for momentum in (0.3, 1.0):
        close(my.sequence_norm(*given, momentum), book.sequence_norm(*given, momentum))


@sheet.check("sequence_norm", 1, "evaluation by the running statistics, of one step too")
def _(my, book, draw):
    given = batch(draw)
    close(
        my.sequence_norm(*given, training=False),
        book.sequence_norm(*given, training=False),
    )
    x, _, *others = given
    one = torch.tensor([1, 0, 0, 0])
    x = torch.nan_to_num(x)
    close(
        my.sequence_norm(x, one, *others, training=False),
        book.sequence_norm(x, one, *others, training=False),
    )
    refuses(my.sequence_norm, x, one, *others)
    two = torch.tensor([1, 0, 0, 1])
    close(my.sequence_norm(x, two, *others), book.sequence_norm(x, two, *others))


@sheet.check("sequence_norm", 1, "gradients, through the statistics too, and 0 in the padding")
def _(my, book, draw):
    given = batch(draw, grad=True)
    along = draw.normal(4, 6, 3)
    scored = """
def scored(norm, along, *given):
    out, mean, variance = norm(*given)
    return (out * along).sum() + mean.sum() + variance.sum()
"""
    close(*(
        side.code(scored, "scored").gradients(side.sequence_norm, along, *given)
        for side in (my, book)
    ))  # fmt: skip


@sheet.check("sequence_norm", 1, "far from 0 in float32; arguments left alone")
def _(my, book, draw):
    given = batch(draw, torch.float32)
    given[0].add_(100)
    kept = [my.put(each) for each in given]
    close(my.sequence_norm(*kept), book.sequence_norm(*given), rtol=1e-3, atol=1e-3)
    close([each.value for each in kept], list(given))


def recurrent(draw, grad=False):
    """A batch with NaN in its padding, and weights whose gains and shifts are all other numbers."""
    width, features = draw.integer(2, 4), draw.integer(3, 5)
    lengths = torch.tensor([5, 0, draw.integer(2, 4), draw.integer(1, 3)])[draw.permutation(4)]
    x = draw.normal(4, 6, features)
    x[torch.arange(6) >= lengths[:, None]] = torch.nan
    sizes = {"x": 4 * width, "h": 4 * width, "c": width}
    weights = {"w_x": draw.normal(4 * width, features), "w_h": draw.normal(4 * width, width)}
    weights |= {f"g_{name}": 0.5 + draw.uniform(n) for name, n in sizes.items()}
    weights |= {f"b_{name}": draw.normal(n) for name, n in sizes.items()}
    weights = {name: each.requires_grad_(grad) for name, each in weights.items()}
    return x.requires_grad_(grad), lengths, weights


@sheet.check("layer_norm_lstm", 1, "one sequence without padding")
def _(my, book, draw):
    x, _, weights = recurrent(draw)
    x = torch.nan_to_num(x[:1], nan=0.3)
    for length in (1, 6):
        given = x[:, :length], torch.tensor([length]), weights
        close(my.layer_norm_lstm(*given), book.layer_norm_lstm(*given))


@sheet.check("layer_norm_lstm", 2, "sequences of other lengths, one of them empty")
def _(my, book, draw):
    for _ in range(2):
        given = recurrent(draw)
        close(my.layer_norm_lstm(*given), book.layer_norm_lstm(*given))


@sheet.check("layer_norm_lstm", 1, "each from its own end")
def _(my, book, draw):
    x, lengths, weights = recurrent(draw)
    mine = my.layer_norm_lstm(x, lengths, weights, reverse=True)
    close(mine, book.layer_norm_lstm(x, lengths, weights, reverse=True))
    for i, n in enumerate(lengths.tolist()):
        if n:
            out, h, c = book.layer_norm_lstm(x[i : i + 1, :n].flip(1), lengths[i : i + 1], weights)
            close([mine[0][i, :n], mine[1][i], mine[2][i]], [out[0].flip(0), h[0], c[0]])


@sheet.check("layer_norm_lstm", 1, "gradients of all weights, in both directions")
def _(my, book, draw):
    x, lengths, weights = recurrent(draw, grad=True)
    for reverse in (False, True):
        given = x, lengths, weights, reverse
        close(my.layer_norm_lstm.gradients(*given), book.layer_norm_lstm.gradients(*given))


@sheet.check("projections", 1, "entries, and how often each of them comes")
def _(my, book, draw):
    for density in (0.1, 0.5, 1.0):
        p, seed = draw.integer(90, 110), draw.integer(1, 1000)
        mine = my.sparse_signs(p, 400, density, seed)
        theirs = book.sparse_signs(p, 400, density, seed)
        close(mine.unique(), theirs.unique(), rtol=1e-4, atol=1e-5)
        for sign in (-1, 1):
            close((mine.sign() == sign).double().mean().item(), density / 2, rtol=0, atol=0.02)
        size = mine.square().sum(0)
        close(size.mean(), torch.ones(()), rtol=0, atol=0.1)
        # entries that are drawn each by itself: rows and columns are as good as orthogonal
        inner = (mine.T @ mine).fill_diagonal_(0).square().mean() * p
        close(inner, torch.tensor(1.0), rtol=0, atol=0.2)


@sheet.check("projections", 1, "a matrix belongs to its seed, and touches no other generator")
def _(my, book, draw):
    twice = """
def twice(make, p, seed):
    torch.manual_seed(seed + 1)
    first = make(p, 300, 0.4, seed)
    after = torch.rand(5)
    torch.rand(3)
    second, other = make(p, 300, 0.4, seed), make(p, 300, 0.4, seed + 1)
    alike = (first == second).double().mean().item()
    return alike, (first == other).double().mean().item(), after
"""
    given = draw.integer(40, 60), draw.integer(1, 1000)
    mine, theirs = (side.code(twice, "twice")(side.sparse_signs, *given) for side in (my, book))
    close([mine[0], mine[2]], [theirs[0], theirs[2]])
    close(mine[1], theirs[1], rtol=0, atol=0.05)


@sheet.check("projections", 2, "rows of any length and shape, at other densities and deviations")
def _(my, book, draw):
    for density, deviation in ((0.05, 0.2), (0.3, 0.1), (1.0, 0.15), (0.6, 0.05)):
        x = draw.normal(5, 4) * (0.1 + 5 * draw.uniform(5, 1))
        x[0] = torch.eye(4)[draw.integer(0, 3)]
        kept = my.put(x)
        close(my.width_for(kept, density, deviation), book.width_for(x, density, deviation))
        for row in (x[:1], x[1:2]):
            close(my.width_for(row, density, deviation), book.width_for(row, density, deviation))
        close(kept.value, x)
