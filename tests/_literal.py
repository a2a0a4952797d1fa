"""The arithmetic of layers in Python's own numbers, for tests that write equations out."""

import math


def dot(xs, ys):
    return sum(x * y for x, y in zip(xs, ys, strict=True))


def affine(weights, name, x):
    """W x + b."""
    rows, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return [dot(row, x) + bias[i] for i, row in enumerate(rows)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def relu(xs):
    return [max(0, x) for x in xs]


def softmax(xs):
    top = max(xs)
    total = sum(math.exp(x - top) for x in xs)
    return [math.exp(x - top) / total for x in xs]


def layer_norm(weights, name, x):
    mean = sum(x) / len(x)
    variance = sum((z - mean) ** 2 for z in x) / len(x)
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return [(z - mean) / math.sqrt(variance + 1e-5) * scale[i] + shift[i] for i, z in enumerate(x)]


def lstm_step(w_ih, w_hh, b_ih, b_hh, x, h, c):
    """One step, gates in PyTorch's order: input, forget, cell, output."""
    n = len(h)
    gates = [dot(w_ih[row], x) + b_ih[row] + dot(w_hh[row], h) + b_hh[row] for row in range(4 * n)]
    i, f, g, o = (gates[part * n : (part + 1) * n] for part in range(4))
    c = [sigmoid(f[j]) * c[j] + sigmoid(i[j]) * math.tanh(g[j]) for j in range(n)]
    return [sigmoid(o[j]) * math.tanh(c[j]) for j in range(n)], c


def bilstm(weights, name, steps):
    """The states of both directions, step by step."""
    sides = []
    for suffix, order in (("", steps), ("_reverse", steps[::-1])):
        parts = [
            weights[f"{name}.{part}_l0{suffix}"]
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        h = c = [0.0] * len(parts[1][0])
        states = []
        for x in order:
            h, c = lstm_step(*parts, x, h, c)
            states.append(h)
        sides.append(states if not suffix else states[::-1])
    return [forth + back for forth, back in zip(*sides, strict=True)]
