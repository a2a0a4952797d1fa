"""Writes notebooks/captioning.ipynb (argument: the path to write)."""
import sys

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

cells = []


def md(text):
    cells.append(new_markdown_cell(text.strip("\n")))


def code(text, *, tags=(), caption=None, name=None, alt=None):
    meta = {}
    if tags:
        meta["tags"] = list(tags)
    if caption:
        meta["mystnb"] = {"figure": {"caption": caption, "name": name}, "image": {"alt": alt}}
    cells.append(new_code_cell(text.strip("\n"), metadata=meta))


HIDE = ["hide-input"]

md(r"""
# Captioning

## What you will see

A captioner that attends looks at a picture anew for each word that it says. *Where* it looks is decided by a comparison of
two modalities: the state of a network that reads words, and the features of places. {cite:t}`yun2022modality` propose to make that comparison
easier: while the captioner learns, raise the centred kernel alignment of its places and its words. They report a BLEU-4 of 0.1617 in
place of 0.1560 on photographs, a curve that rises faster, and maps of attention that look better. The maps are shown as pictures.

This chapter builds the captioner, *Show, attend and tell* {cite:p}`xu2015show`, and the auxiliary term. It trains both where the truth is known: in the shapes world
the code knows which pixels a word names, so that "looks at the right place" is a number. And it trains both on photographs, with the words that the model says
alone, five references, and what captions score that look at no picture.

:::{admonition} The claims, and what this chapter decides
:class: note

| | The paper says | Here |
|---|---|---|
| c7 | BLEU-4 rises with CKA | {glue:text}`captioning-symbol-c7` ({ref}`sec-captioning-photographs`) |
| c8 | the captioner converges faster, and is better from early epochs | {glue:text}`captioning-symbol-c8` ({ref}`sec-captioning-photographs`) |
| c36 | attention looks at the right place, the more so with CKA | {glue:text}`captioning-symbol-c36` ({ref}`sec-captioning-world`) |

✔ holds, ✘ reversed, ○ absent (too small an effect to matter), ? undecided, ◐ depends on what the paper leaves open
:::

The cells below ran in {glue:text}`captioning-minutes:.1f` minutes on one core; the [status page](../book/status.md) says on which machine.
""")
code("""
import inspect
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Code
from myst_nb import glue
from torch.testing import assert_close

from modalign import players, plots, records
from modalign.cka import ModalityAlignment, cka
from modalign.metrics import SYMBOLS, Interval, caption_scores, seed_interval
from modalign.models.captioner import Captioner, caption_loss
from modalign.studies.captioning import pictures, recording, training
from modalign.studies.captioning.setting import CLAIMS, ROWS, WITHOUT, Setting

plots.use_style()
started = time.perf_counter()


def keep(name, value):  # for the text to quote
    value = value.item() if isinstance(value, np.generic) else value
    glue(f"captioning-{name}", value, display=False)
""", tags=HIDE)
code("""
world = records.load("captioning/shapes")
method = "0.05, biased, warm-up"
recording.figure(world, [WITHOUT, method]);
""", tags=HIDE, name="fig-captioning-opening",
caption="The same captioner on scenes of the shapes world, without CKA and as in the paper. Above: BLEU-4 of the captions that it says alone, after each epoch. Below: the debiased CKA of its places and words. Recorded runs, means and 95% intervals over seeds.",
alt="Two curves over epochs in two panels: BLEU-4 on validation pictures, and debiased CKA.")
md(r"""
## Derivation and code

```{figure} ../book/_static/captioner.svg
:name: fig-captioning-drawing
:alt: A picture becomes places, a caption becomes words. Before each word, attention compares the places with the state of an LSTM; what was seen and the last word move the state, which says the next word. CKA compares places with words.

Show, attend and tell. The sides that attention brings together are blue (what is seen) and orange (what is said). CKA (green) compares them before attention does.
```

### Look, then say

A picture is a set of $P$ places with features $a_1, \dots, a_P$ of width $D$: a grid that a convolutional network leaves. A caption is $y_0, \dots, y_T$,
where $y_0$ is `<start>` and $y_T$ is `<end>`. Before the network says $y_t$ it has a state $h_{t-1}$, which has read all words before. It compares
the state with each place, by a small network of its own:

```{math}
:label: eq-captioning-attention
\begin{aligned}
e_{tp} &= w^\top \operatorname{relu}(U a_p + W h_{t-1}) + b , \\
\alpha_{tp} &= \frac{\exp e_{tp}}{\sum_q \exp e_{tq}} .
\end{aligned}
```

The weights $\alpha_t$ are the *attention*: they sum to one over the places. What is seen is the mean of the places with these weights, times a
gate that lets the network close its eyes for words such as "and":

```{math}
:label: eq-captioning-context
z_t = \operatorname{sig}(V h_{t-1}) \odot \sum_p \alpha_{tp} \, a_p .
```

An LSTM takes the last word's embedding $E y_{t-1}$ and $z_t$, moves its state, and a linear layer of the new state scores all words:

```{math}
:label: eq-captioning-step
h_t = \operatorname{LSTM}\bigl( [E y_{t-1}, z_t], h_{t-1} \bigr), \qquad
p(y_t) = \operatorname{softmax}(L h_t) .
```

Here is one step, written out, beside the package.
""")
code("""
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
model = Captioner(
    9, encoder_dim=6, attention_dim=4, embed_dim=3, decoder_dim=5, dropout=0.0
)
places = torch.randn(2, 8, 6)


def literal_step(word, places, h, c):
    m = model.attention
    e = m.full_att(
        torch.relu(m.encoder_att(places) + m.decoder_att(h)[:, None])
    )[..., 0]
    alpha = e.exp() / e.exp().sum(1, keepdim=True)  # eq-captioning-attention
    seen = torch.stack([a @ x for a, x in zip(alpha, places)])
    z = torch.sigmoid(model.f_beta(h)) * seen  # eq-captioning-context
    h, c = model.decode_step(torch.cat([model.embedding(word), z], 1), (h, c))
    return h, c, alpha  # eq-captioning-step


captions = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
lengths = torch.tensor([4, 3])
found = model.teacher_forced(places, captions, lengths)
h, c = model.init_h(places.mean(1)), model.init_c(places.mean(1))
for t in range(2):
    h, c, alpha = literal_step(captions[:, t], places, h, c)
    assert_close(found.attention[:, t], alpha)
    assert_close(found.logits[:, t], model.fc(h))
print([round(x, 4) for x in alpha[0].tolist()])
""")
md(r"""
Nothing tells the network where to look. It learns that from the words alone, by the loss

```{math}
:label: eq-captioning-loss
\mathcal{L}_{\text{words}} + \frac1P \sum_p \Bigl( 1 - \sum_t \alpha_{tp} \Bigr)^2 ,
```

whose first term is the mean cross-entropy of the words, and whose second asks that every place is looked at once in all. The second term pulls *away* from sharp
maps: with $P = 64$ places and 14 words an attention that is the same everywhere leaves $(1 - 14/64)^2 = 0.61$ of it (an exercise finds the least). The paper takes
it over from Show, attend and tell with its weight of 1, and so do we.

### Where CKA comes in

Equation 4 of the paper subtracts CKA from the loss, as the [chapter on CKA](cka.ipynb) derives it:

```{math}
:label: eq-captioning-cka
\mathcal{L} = \mathcal{L}_{\text{words}} + \dots - \lambda_{\CKA} \CKA(X, Y) .
```

But CKA compares *pairs*, and a picture has 64 places where its caption has a dozen words. The paper draws $N$ vectors from either side "in order to match the number of
examples" and says no more. If they are drawn from the whole batch, row $i$ of $X$ and row $i$ of $Y$ belong to two pictures, and there is nothing to align. So we draw within each picture: as many
places, without replacement, as the caption has words, each paired with a word. A place and a word of one picture need not have anything to do with each other. They have the picture in common.

`ModalityAlignment` does this, heeds masks, and tells three numbers: CKA of the pairs, biased and debiased, and CKA of *shuffled* pairs, for which it takes
the words of another picture. Let places and words of a picture share one vector of the picture, beside noise of their own:
""")
code("""
# NBVAL_CHECK_OUTPUT
rng = torch.Generator().manual_seed(0)
picture = torch.randn(32, 1, 16, generator=rng)
X = picture + 2 * torch.randn(32, 64, 16, generator=rng)
Y = picture + 2 * torch.randn(32, 12, 16, generator=rng)
real = torch.arange(12) < torch.randint(5, 13, (32, 1), generator=rng)

for estimator in ("biased", "debiased"):
    alignment = ModalityAlignment(0.1, estimator=estimator)
    told = alignment(X, Y, y_mask=real)
    value = getattr(told, estimator)
    assert_close(told.loss, -0.1 * value)
    print(f"{estimator}: {value:.2f}, shuffled {told.shuffled:.2f}")
""")
md(r"""
The biased value is mostly floor, as the shuffled pairs show. And the debiased value of shuffled pairs need not be zero: debiasing takes rows for independent, and here a dozen of them share a picture. That is why the baseline
stands beside *both*.

The draw is an honest source of doubt about the method. What is left if pairs are drawn without looking at the picture?
""")
code("""
# NBVAL_CHECK_OUTPUT
rows = int(real.sum())
any_place = X.flatten(0, 1)[torch.randperm(32 * 64, generator=rng)[:rows]]
any_word = Y[real][torch.randperm(rows, generator=rng)]
print(f"{cka(any_place, any_word, debiased=True):.2f}")
""")
md(r"""
Nothing is left, and with it no gradient that means anything.

### What counts as a good caption

BLEU-4 counts the runs of one to four words that a caption shares with its references {cite:p}`papineni2002bleu`, CIDEr weighs them by how rare they are
{cite:p}`vedantam2015cider`. Both are only as good as what they are given. The model has to say its captions *alone*: a captioner that is told the true words up to the
one it has to say scores far higher, and its score is no caption's (an exercise). And a score needs floors. These are of the world's test scenes: a person's caption against the other four, one sentence
for all pictures, and a caption of another picture.
""")
code("""
chosen = Setting()
recording.floors(chosen).style.format(precision=3)
""")
code("""
seed = 0  # of scenes, weights and order; 0 or more
epochs = 20  # passes over the pictures; 1 or more
examples = 1600  # pictures to train on; 64 or more
lambda_cka = 0.05  # weight of CKA; 0 or more
estimator = "biased"  # of the CKA that is maximised; biased or debiased
warmup_epochs = 0  # epochs of CKA alone, of the epochs; 0 or more
record_seeds = 0  # seeds to make the tables with, 0 to read them; 0 or more
jobs = 1  # processes that make them; 1 or more
""", tags=["parameters"])
code("""
chosen = Setting(
    seed=seed,
    epochs=epochs,
    examples=examples,
    weight=lambda_cka,
    estimator=estimator,
    warmup_epochs=warmup_epochs if lambda_cka else 0,
)
if record_seeds:
    for dataset in ("shapes", "flickr8k"):
        recording.record(dataset, seeds=range(record_seeds), jobs=jobs)
    world = records.load("captioning/shapes")
""")
md(r"""
## Experiments

### Scenes whose words are known

A scene has two or three things. Its captions name all of them, in the order of a list of colours, in five wordings: a *large* thing may be *big*, a *square* a *box*. The picture is 32 pixels wide, and a small network of our own leaves 8 × 8 places, so that
the network that sees trains too (with features from a file CKA would move the words alone). The code knows for each word of a name which pixels it names (it moves them by half a place, since that is where the encoder's places are centred). This is the training step, which `fit` calls for each batch through `alignment.objective`:
""")
code("""Code(inspect.getsource(training.parts), language="python")""")
code("""
run = training.train(chosen)
scores = training.measured(run)
print(*(f"{name} {value:.3g}" for name, value in scores.items()), sep="\\n")
""")
code("""
keep("live-bleu", scores["bleu_4"])
keep("live-pointing", scores["pointing"])
keep("chance", scores["pointing_by_chance"])
""", tags=HIDE)
md(r"""
In this run the maximum of the attention lies on the thing that a word names in {glue:text}`captioning-live-pointing:.0f`% of the words; a map that is the same everywhere does so in {glue:text}`captioning-chance:.0f`%. That is the *pointing game* {cite:p}`zhang2016top`.

**Pick a word**, by mouse, finger or the arrow keys, and see where the model looked before it said the word. It read the true words before it. The frame is around what the word names.
""")
code("""
each = training.reading(run, 0)
players.attention(
    each.picture,
    each.words,
    each.maps,
    masks=each.masks,
    word=2,
    label="A scene of the world with its caption: where the model looked",
)
""")
md(r"""
(sec-captioning-world)=
### Does CKA make it look at the right place?

The recorded sweep trains every row with the same scenes, steps and seeds: without CKA, and with it, for two weights, both estimators, and an epoch of CKA alone first, which is *counted* among the epochs ("warm-up") or goes *before* them. What decides was set before the runs, in
`modalign/studies/captioning/setting.py`: for c36 the pointing game and the intersection over union at $\lambda_{\CKA} = 0.05$; the smallest effects of interest are 2 points and 1 point.
""")
code("""
recording.summary(world)[["bleu_4", "pointing", "iou", "cka_debiased"]]
""")
code("""
numbers = {name: "{:.3f}" for name in ("mean", "low", "high")} | {"smallest": "{:g}"}
judged = recording.claims(world, "shapes")
judged[judged.claim == "c36"].style.format(numbers).hide(axis="index")
""")
code("""
verdicts = recording.verdicts().set_index("claim").verdict
for claim, verdict in verdicts.items():
    keep(f"symbol-{claim}", SYMBOLS[verdict])
    keep(f"verdict-{claim}", verdict)
tables = {"shapes": world, "flickr8k": records.load("captioning/flickr8k")}
for name, table in tables.items():
    ends = recording.scores(table).groupby("row")
    keep(f"{name}-bleu", f"{seed_interval(ends.get_group(WITHOUT).bleu_4):.3f}")
    keep(f"{name}-cka", f"{seed_interval(ends.get_group(WITHOUT).cka_debiased):.3f}")
    keep(f"{name}-raised", f"{seed_interval(ends.get_group(method).cka_debiased):.3f}")
    for part in recording.claims(table, name).itertuples():
        row = part.contrast.split(" minus")[0].replace(", ", "-")
        effect = Interval(part.mean, part.low, part.high)
        digits = 2 if part.measure in ("pointing", "iou") else 4
        keep(f"{name}-{part.measure}-{row}", f"{effect:.{digits}f}")
ends = recording.scores(world).groupby("row")
keep("pointing", f"{seed_interval(ends.get_group(WITHOUT).pointing):.1f}")
""", tags=HIDE)
md(r"""
PROSE-WORLD: Without CKA the attention points at what a word names in {glue:text}`captioning-pointing`% of the words. With the paper's $\lambda_{\CKA} = 0.05$ and a counted warm-up that changes by {glue:text}`captioning-shapes-pointing-0.05-biased-warm-up` points, and by
{glue:text}`captioning-shapes-pointing-0.05-biased-before` where the warm-up goes before. Debiased CKA at the end is {glue:text}`captioning-shapes-cka` without and {glue:text}`captioning-shapes-raised` with the term.

(sec-captioning-photographs)=
### Photographs

Flickr8k {cite:p}`hodosh2013framing` has the official split: 1,600 of its photographs to train on here, made as small as 64 pixels, and all 1,000 to test on. That is a small model on small pictures, trained for a minute, where the paper has
features of ResNet-101 trained on a million photographs. The floors, on the same 1,000 photographs, say what its scores mean: a person's caption against the other four has a BLEU-4 of 0.2095, the sentence "A dog is running through the grass ." for all photographs 0.0406, and a random caption 0.0177.
""")
code("""
photographs = tables["flickr8k"]
recording.summary(photographs)[["bleu_4", "cider", "curve", "early"]]
""")
code("""
recording.figure(photographs, [WITHOUT, *CLAIMS["c7"].rows]);
""", tags=HIDE, name="fig-captioning-photographs",
caption="Photographs: BLEU-4 of validation captions that the model says alone, and debiased CKA, after each epoch, without CKA and in the paper's rows. Recorded runs, means and 95% intervals over seeds.",
alt="Curves of five rows over epochs in two panels: BLEU-4 on validation photographs, and debiased CKA.")
code("""
judged = recording.claims(photographs, "flickr8k")
judged.style.format({**numbers, **{n: "{:.4f}" for n in ("mean", "low", "high")}}).hide(
    axis="index"
)
""")
md(r"""
PROSE-PHOTOGRAPHS: Without CKA the model reaches {glue:text}`captioning-flickr8k-bleu`, ...

## Against the paper

| The paper | Here | Verdict |
|---|---|---|
| c7: BLEU-4 rises with CKA, 0.1560 to 0.1617 | $\lambda_{\CKA} = 0.05$, counted: {glue:text}`captioning-flickr8k-bleu_4-0.05-biased-warm-up`; before: {glue:text}`captioning-flickr8k-bleu_4-0.05-biased-before` | {glue:text}`captioning-verdict-c7` |
| the same, $\lambda_{\CKA} = 0.1$ | counted: {glue:text}`captioning-flickr8k-bleu_4-0.1-biased-warm-up`; before: {glue:text}`captioning-flickr8k-bleu_4-0.1-biased-before` | as above |
| c8: converges faster (figure 6) | mean of BLEU-4 over epochs, 0.05, counted: {glue:text}`captioning-flickr8k-curve-0.05-biased-warm-up`; before: {glue:text}`captioning-flickr8k-curve-0.05-biased-before` | {glue:text}`captioning-verdict-c8` |
| c8: better from early epochs | over the first third, 0.05, counted: {glue:text}`captioning-flickr8k-early-0.05-biased-warm-up`; before: {glue:text}`captioning-flickr8k-early-0.05-biased-before` | as above |
| c36: attention looks at the right place (figure 5) | pointing game, points, counted: {glue:text}`captioning-shapes-pointing-0.05-biased-warm-up`; before: {glue:text}`captioning-shapes-pointing-0.05-biased-before` | {glue:text}`captioning-verdict-c36` |

Sixteen contrasts are judged; of as many without an effect, about one would have an interval beside zero by chance.
""")
code("""
made = records.listing(["captioning/shapes", "captioning/flickr8k"])
made.style.format(precision=1).hide(axis="index")
""", tags=HIDE)
md(r"""
```{code-block} bash
.venv/bin/modalign run captioning --preset gpu -p jobs 2
```

```{admonition} Deviations and readings
:class: note

- **Pairs** are drawn within a picture. The paper draws "from both" sequences and names no pairing.
- **Warm-up** takes an epoch, counted or before; the paper says "few steps". CKA keeps its weight in it, which Adam does not notice (an exercise).
- **What is compared**: the encoder's places and the embedded words, `<start>` and `<end>` included (section 8.1).
- **The encoder** is ours and trains. The paper's ResNet-101 is pretrained; features from a file do not train, so that CKA moves the words alone.
- **Sizes** are small: see `Setting`. The loss, the weight of its second term and the search are those of the public code; the gradient's norm is clipped at 5 in place of its entries.
- **BLEU** is that of captions that the model says alone, against all five references.
- **Debiased CKA**, rows without a warm-up, and means in place of drawn vectors are ours.
```

## Exercises

```{exercise} Everywhere once
:label: ex-captioning-once

★ 10 minutes. What is the least that the second term of {eq}`eq-captioning-loss` can be, for $T$ words and $P$ places? For which attention?
```

```{hint}
:class: dropdown
The sums over words add up to $T$ over all places. When is a mean of squares least, if the mean is given?
```

```{solution-start} ex-captioning-once
:class: dropdown
```
""")
code("""
# NBVAL_CHECK_OUTPUT
from modalign.models.captioner import doubly_stochastic

T, P = 14, 64
even = torch.full((1, T, P), 1 / P)
sharp = torch.nn.functional.one_hot(torch.arange(T) % 3, P).float()[None]
assert_close(doubly_stochastic(even).item(), (1 - T / P) ** 2)
print(f"{doubly_stochastic(even):.3f} {doubly_stochastic(sharp):.3f}")
""")
md(r"""
By Jensen's inequality it is $(1 - T/P)^2$, if all places get the same sum, such as where the attention is the same everywhere. A map that points at three things pays for it.

```{solution-end}
```

```{exercise} A score with help
:label: ex-captioning-forced

★★ 20 minutes. Let the model of this page caption the test scenes with the true words before each word as input, taking the likeliest word of each step. How does BLEU-4 compare with that of the captions it says alone?
```

```{hint}
:class: dropdown
`teacher_forced(...).logits.argmax(2)`, then `Vocabulary.decode`.
```

```{solution-start} ex-captioning-forced
:class: dropdown
```
""")
code("""
tested = run.splits["test"]
with torch.no_grad():
    seen = run.model.see(pictures.ready(tested.pixels))
    forced = run.model.teacher_forced(seen, tested.tokens[:, 0], tested.lengths[:, 0])
texts = run.vocabulary.decode(forced.logits.argmax(2))
helped = caption_scores(texts, tested.texts).bleu[3]
alone = training.test_scores(run).bleu[3]
print(f"helped {helped:.2f}, alone {alone:.2f}")
""")
md(r"""
```{solution-end}
```

```{exercise} The weight of a warm-up
:label: ex-captioning-adam

★★ 15 minutes. Show that Adam takes the same steps if a loss is multiplied by a constant, up to its $\epsilon$. So what does $\lambda_{\CKA}$ do in a warm-up on CKA alone?
```

```{hint}
:class: dropdown
Adam divides a running mean of the gradient by the root of a running mean of its square.
```

```{solution-start} ex-captioning-adam
:class: dropdown
```
""")
code("""
ends = []
for weight in (1.0, 0.05):
    w = X.mean(1).clone().requires_grad_()  # a vector a picture: all are drawn
    optimizer = torch.optim.Adam([w], 1e-2, eps=1e-12)
    alignment = ModalityAlignment(weight)
    for _ in range(10):
        optimizer.zero_grad()
        alignment(w, Y.mean(1)).loss.backward()
        optimizer.step()
    ends.append(w.detach())
assert (ends[0] - X.mean(1)).abs().max() > 0.05
assert_close(ends[0], ends[1], rtol=0, atol=1e-4)
""")
md(r"""
In a warm-up it does nothing, as long as the gradients are large beside $\epsilon$.

```{solution-end}
```

```{exercise} Maps that point elsewhere
:label: ex-captioning-order

★★★ 40 minutes. Our captions name things in the order of a list of colours, not from left to right. Places carry no position. What would happen to the attention if the order were from left to right, and why? Test it: change `described` in `pictures.py`.
```

```{hint}
:class: dropdown
{eq}`eq-captioning-attention` compares a state with features. Can it ask for the leftmost place?
```

## Summary

- Attention is a comparison of two modalities, learned from the words alone. The second term of the loss pulls it apart.
- CKA needs pairs. Within a picture, places and words share the picture, and a draw that ignores pictures shares nothing.
- Biased CKA of a batch is mostly floor. The floor to look at is that of shuffled pairs.
- A score needs floors, and words that the model says alone.

All works cited are in the [bibliography](../book/bibliography.md).
""")
code("""
keep("minutes", (time.perf_counter() - started) / 60)
""", tags=["remove-cell"])

book = new_notebook(
    cells=cells,
    metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
)
for i, cell in enumerate(book.cells):
    cell["id"] = f"captioning-{i:02d}"
nbformat.write(book, sys.argv[1])
print(len(cells), sum(len(c.source.split()) for c in cells if c.cell_type == "markdown"))
print([l for c in cells if c.cell_type == "code" for l in c.source.splitlines() if len(l) > 88])
