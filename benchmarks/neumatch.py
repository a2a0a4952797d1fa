"""A training step of NeuMATCH beside a direct transcription, in one process on one thread.

python -m benchmarks.neumatch [--repeats 5] [--json FILE]

The setting is the paper's: 32 samples of up to 94 clips, 40 snippets and 108 actions, widths of the
paper, forward, backward and an optimiser step (LARS). The transcription does what the paper says in
its order, in the manner of the authors' published code: batched LSTM cells go through both
sequences step by step and fill a tensor of outputs; then the actions are taken one by one, with the
topmost elements and the clips of a slot indexed sample by sample, as their cursors differ (clips
only where the snippet that is then on top has some), and the Matched Stack is run for the whole
batch and kept where there was a match. A second batch has no padding: its sequences all have the
largest lengths. Both use the same
parameters, and logits and gradients are compared first.

Times are the median of paired repeats: ours and the peer's alternate, so that both see the same
machine. A ratio above 1 says that ours is faster.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common import paired, parser, write
from modalign.lars import LARS
from modalign.models.alignment_data import Batch
from modalign.models.neumatch import NeuMATCH
from modalign.models.neumatch_actions import EFFECTS, positions
from modalign.models.neumatch_parts import SequenceStack, SmallStack

SAMPLES, CLIPS, SNIPPETS, ACTIONS = 32, 94, 40, 108


def draw_batch(seed: int = 0, *, shortest: float = 1 / 3) -> Batch:
    """Random features and actions; the longest sample has all the clips, snippets and actions."""
    generator = torch.Generator().manual_seed(seed)

    def lengths(most: int) -> Tensor:
        fewest = round(shortest * most)
        drawn = torch.randint(fewest, most + 1, (SAMPLES,), generator=generator)
        drawn[0] = most
        return drawn

    clip_lengths, snippet_lengths = lengths(CLIPS), lengths(SNIPPETS)
    actions = []
    for n, m in zip(clip_lengths.tolist(), snippet_lengths.tolist(), strict=True):
        # clips and pops of snippets in a random order, as many as a block of actions has
        pops = min(m, ACTIONS - n)
        kinds = torch.cat([torch.zeros(n), torch.ones(pops)])
        kinds = kinds[torch.randperm(len(kinds), generator=generator)].bool()
        used = kinds.long().cumsum(0)
        matched = torch.rand(len(kinds), generator=generator) < 0.85
        row = torch.where(kinds, 1, torch.where(matched & (used < m), 2, 0))
        actions.append(row)
    return Batch(
        torch.randn(SAMPLES, CLIPS, 300, generator=generator),
        clip_lengths,
        torch.randn(SAMPLES, SNIPPETS, 300, generator=generator),
        snippet_lengths,
        nn.utils.rnn.pad_sequence(actions, batch_first=True, padding_value=-1),
    )


def direct_stack(stack: SequenceStack, x: Tensor, lengths: Tensor) -> Tensor:
    """Video or Text Stack: every sequence reversed, then two LSTM cells step by step."""
    x = stack.fc(x)
    flipped = torch.stack(
        [torch.cat([x[b, :n].flip(0), x[b, n:]]) for b, n in enumerate(lengths.tolist())]
    )
    state = [(torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])) for _ in range(2)]
    outputs = torch.zeros_like(x)
    for step in range(x.shape[1]):
        inputs = flipped[:, step]
        for layer in range(2):
            weights = stack.lstm.all_weights[layer]
            state[layer] = torch.lstm_cell(inputs, state[layer], *weights)
            inputs = state[layer][0]
        outputs[:, step] = inputs
    return stack.norm(outputs, lengths)


def cells(stack: SmallStack, x: Tensor, state: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list]:
    """Both layers of a small stack, one step."""
    h1, c1 = torch.lstm_cell(x, state[0], *stack.first._flat_weights)
    h2, c2 = torch.lstm_cell(h1, state[1], *stack.second._flat_weights)
    return h1 + h2, [(h1, c1), (h2, c2)]


def direct(model: NeuMATCH, batch: Batch) -> Tensor:
    """Logits (B, A, 3), action by action; three actions."""
    clips, clip_lengths, snippets, snippet_lengths, actions = batch
    video = direct_stack(model.video, clips, clip_lengths)
    text = direct_stack(model.text, snippets, snippet_lengths)
    lengths = torch.stack([clip_lengths, snippet_lengths], 1)
    samples = range(len(clips))
    nothing = video.new_zeros(video.shape[2])

    def empty(hidden: int) -> list[tuple[Tensor, Tensor]]:
        zeros = video.new_zeros(len(clips), hidden)
        return [(zeros, zeros), (zeros, zeros)]

    def top(stack: Tensor, side: int) -> Tensor:
        left = (lengths[:, side] - 1 - cursor[:, side]).tolist()
        return torch.stack([stack[b][k] if k >= 0 else nothing for b, k in enumerate(left)])

    def where(mask: Tensor, one: list, other: list) -> list[tuple[Tensor, Tensor]]:
        return [
            tuple(torch.where(mask[:, None], x, y) for x, y in zip(*layer, strict=True))
            for layer in zip(one, other, strict=True)
        ]

    past, past_state = video.new_zeros(len(clips), 8), empty(8)
    memory, before, now = video.new_zeros(len(clips), 20), empty(20), empty(20)
    matched_with = [-1 for _ in samples]
    slot: list[list[int]] = [[] for _ in samples]
    cursor = torch.zeros_like(lengths)
    logits = video.new_zeros(*actions.shape, 3)
    for step in range(actions.shape[1]):
        top_clip, top_snippet = top(video, 0), top(text, 1)
        place = positions(cursor[:, None], lengths)[:, 0]
        state = torch.cat([top_clip, top_snippet, past, memory, place], 1)
        logits[:, step] = model.classify(state)
        chosen = actions[:, step]
        one_hot = functional.one_hot(chosen.clamp(min=0), 3).float()
        past, past_state = cells(model.action, one_hot, past_state)
        opens = torch.zeros(len(clips), dtype=torch.bool)
        for b in samples:
            if chosen[b] == 2:
                if matched_with[b] != int(cursor[b, 1]):
                    opens[b], slot[b], matched_with[b] = True, [], int(cursor[b, 1])
                slot[b].append(int(lengths[b, 0] - 1 - cursor[b, 0]))
        before = where(opens, now, before)
        inputs = video.new_zeros(len(clips), 600)
        cursor = cursor + EFFECTS[chosen.clamp(min=0), :2] * (chosen >= 0)[:, None]
        for b in samples:
            if slot[b] and matched_with[b] == int(cursor[b, 1]):
                inputs[b] = torch.cat([video[b, slot[b]].mean(0), top_snippet[b]])
        output, after = cells(model.match, inputs, before)
        now = where(chosen == 2, after, now)
        memory = torch.where((chosen == 2)[:, None], output, memory)
    return logits


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(
        logits.flatten(0, 1), batch.actions.flatten(), ignore_index=-1, label_smoothing=0.03
    )


def agreement(model: NeuMATCH, batch: Batch) -> dict[str, float]:
    """Largest differences between the two, of logits and of gradients relative to their norm."""
    known = batch.actions >= 0
    found, gradients = [], []
    for logits in (model.score(*batch), direct(model, batch)):
        model.zero_grad()
        loss_of(logits, batch).backward()
        found.append(logits[known].detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    pairs = zip(*gradients, strict=True)
    return {
        "logits": float((found[0] - found[1]).abs().max()),
        "gradients": max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in pairs),
    }


def steps(repeats: int, batch: Batch, about: str) -> list[dict]:
    torch.manual_seed(0)
    model = NeuMATCH()
    errors = agreement(model, batch)
    optimizer = LARS(model.parameters(), lr=1e-4)

    def step(logits_of) -> None:
        optimizer.zero_grad()
        loss_of(logits_of(), batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2)
        optimizer.step()

    calls = {
        "ours": lambda: step(lambda: model.score(*batch)),
        "direct": lambda: step(lambda: direct(model, batch)),
        "ours, forward": torch.no_grad()(lambda: model.score(*batch)),
        "direct, forward": torch.no_grad()(lambda: direct(model, batch)),
    }
    seconds = paired(calls, repeats, about)
    return [
        {
            "case": f"{case}, {SAMPLES} x {about}",
            "ours_ms": 1e3 * seconds[f"ours{suffix}"],
            "peer_ms": 1e3 * seconds[f"direct{suffix}"],
            "ratio": seconds[f"direct{suffix}"] / seconds[f"ours{suffix}"],
            "logits_differ": errors["logits"],
            "gradients_differ": errors["gradients"],
        }
        for case, suffix in (("training step", ""), ("forward only", ", forward"))
    ]


def main() -> None:
    arguments = parser(__doc__, repeats=5).parse_args()
    most = f"{CLIPS} clips, {SNIPPETS} snippets, {ACTIONS} actions"
    rows = [
        *steps(arguments.repeats, draw_batch(), f"up to {most}"),
        *steps(arguments.repeats, draw_batch(shortest=1), most),
    ]
    for row in rows:
        print(
            f"{row['case']}: ours {row['ours_ms']:.0f} ms, direct {row['peer_ms']:.0f} ms, "
            f"ratio {row['ratio']:.1f}; logits differ by {row['logits_differ']:.0e}, gradients by "
            f"{row['gradients_differ']:.0e}"
        )
    write(arguments.json, rows=rows)


if __name__ == "__main__":
    main()
