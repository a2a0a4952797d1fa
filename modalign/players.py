"""Moving pictures and sound inside a page, with nothing beside it: all is in the HTML."""

import base64
import html
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence

import av
import numpy as np
import torch
from IPython.display import HTML, Audio, Video
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from modalign._checks import checked
from modalign.gradients import gradient_cosine
from modalign.gradients import realign as realigned
from modalign.transport import ipot


@checked
def movie(frames: UInt8[np.ndarray, "t h w 3"], *, label: str, fps: int = 8) -> Video:
    """Show a clip with controls, as H.264 in an MP4, which every browser plays.

    Args:
        frames: red, green, blue; height and width even, as the format wants.
        label: describes the picture, for readers who do not see it.
        fps: frames a second.

    Raises:
        ValueError: for no frame, an odd height or width, or a rate below 1 or above 1,000.

    >>> clip = movie(np.zeros((4, 16, 16, 3), np.uint8), label="nothing moves")
    >>> clip.mimetype, clip.width
    ('video/mp4', 16)
    """
    t, height, width, _ = frames.shape
    if not t or height % 2 or width % 2 or not height * width:
        raise ValueError(
            f"frames: expected one or more, of even height and width, got {t} of {height} x {width}"
        )
    if not 1 <= fps <= 1000:
        raise ValueError(f"fps: expected 1 to 1,000, got {fps}")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    said = f'controls loop muted playsinline aria-label="{html.escape(label)}"'
    shown = {"mimetype": "video/mp4", "width": width, "height": height, "html_attributes": said}
    return Video(file.getvalue(), embed=True, **shown)


@checked
def sounds(waveforms: Mapping[str, Float32[np.ndarray, "_"]], *, rate: int) -> HTML:
    """Show sounds with controls, each under its name, as they are: nothing is made louder.

    Args:
        waveforms: samples from -1 to 1.
        rate: samples a second.

    Raises:
        ValueError: for no sound, an empty one, one that is not finite or outside [-1, 1], or a
            rate below 1 or above what WAV holds.

    >>> sounds({"silence": np.zeros(8, np.float32)}, rate=8000).data.count("<audio")
    1
    """
    if not waveforms:
        raise ValueError("waveforms: expected one or more, got none")
    if not 1 <= rate < 2**31:  # twice that, bytes a second, is a field of 32 bits
        raise ValueError(f"rate: expected a positive number of samples a second, got {rate}")
    shown = []
    for name, samples in waveforms.items():
        # a NaN compares as false
        if not len(samples) or not abs(samples).max() <= 1:
            raise ValueError(
                f"waveforms[{name!r}]: expected samples from -1 to 1, got {len(samples)} "
                f"up to {abs(samples).max(initial=0):.3g}"
            )
        label = html.escape(name)
        source = Audio(samples, rate=rate, normalize=False).src_attr()
        shown.append(
            f'<p>{label}<br/><audio controls aria-label="{label}" src="{source}"></audio></p>'
        )
    return HTML("".join(shown))


@checked
def transport(
    points: Float[np.ndarray, "n 2"],
    prototypes: Float[np.ndarray, "k 2"],
    *,
    exact: float,
    label: str,
    beta: float = 0.1,
    step: int = 50,
) -> HTML:
    """Show IPOT's plan between two clouds, moved by two sliders: beta, and the step.

    The page computes the plan itself, in logarithms. Without scripts, and on paper, the plan of
    ``beta`` and ``step`` stands still. Masses are 1/N and 1/K, costs are distances; a line is as
    wide as the mass it moves, and a point's area is the mass that the plan gives it.

    Args:
        points: (N, 2) places of the mass.
        prototypes: (K, 2) places that it goes to.
        exact: the least cost there is, which is shown beside the plan's.
        label: describes the picture, for readers who do not see it.
        beta: start of its slider, 0.01 to 1, at one of 41 places on a logarithmic scale.
        step: start of its slider, 1 to 50.

    Raises:
        ValueError: for a cloud that is empty or not finite, clouds in one place, a cost that is not
            finite, or a start off the sliders.

    >>> shown = transport(np.eye(2), 1 - np.eye(2), exact=0.0, label="two points on two")
    >>> shown.data.count("<line"), shown.data.count('type="range"')
    (4, 2)
    """
    clouds = {"points": points, "prototypes": prototypes}
    for name, cloud in clouds.items():
        if not len(cloud) or not np.isfinite(cloud).all():
            raise ValueError(f"{name}: expected one or more finite points, got {cloud!r:.60}")
    if not np.isfinite(exact):
        raise ValueError(f"exact: expected a finite number, got {exact}")
    if not 0.01 <= beta <= 1 or not 1 <= step <= 50:
        raise ValueError(
            f"beta, step: expected 0.01 to 1 and 1 to 50, the sliders' ranges, got {beta}, {step}"
        )
    place = round(20 * np.log10(beta / 0.01))
    beta = 0.01 * 10 ** (place / 20)
    both = np.concatenate([points, prototypes]).astype(float)
    low, extent = both.min(0), np.ptp(both, axis=0)
    if not extent.any():
        raise ValueError("points, prototypes: expected two places or more, got one")
    scale = min(440 / max(extent[0], 1e-9), 260 / max(extent[1], 1e-9))
    drawn = 20 + (both - low) * scale
    n, k = len(points), len(prototypes)
    cost = np.linalg.norm(both[:n, None] - both[None, n:], axis=2)
    plan = ipot(torch.from_numpy(cost), beta=beta, outer=step, method="log").numpy()

    lines = "".join(
        f'<line x1="{drawn[i, 0]:.1f}" y1="{drawn[i, 1]:.1f}" x2="{drawn[n + j, 0]:.1f}" '
        f'y2="{drawn[n + j, 1]:.1f}" stroke-width="{8 * max(n, k) * plan[i, j]:.2f}"/>'
        for i in range(n)
        for j in range(k)
    )
    dots = "".join(
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}"/>'
        for kind, cloud, radii in (
            ("from", drawn[:n], 6 * np.sqrt(n * plan.sum(1))),
            ("to", drawn[n:], 6 * np.sqrt(k * plan.sum(0))),
        )
        for (x, y), radius in zip(cloud, radii, strict=True)
    )
    height = 40 + scale * extent[1]
    values = {
        "ID": f"plan-{zlib.crc32(both.tobytes()):08x}",
        "BOX": f"0 0 480 {height:.0f}",
        "LINES": lines,
        "DOTS": dots,
        "PLACE": str(place),
        "STEP": str(step),
        "TEXT": _says(plan, cost, beta, step),
        "EXACT": f"{exact:.4f}",
        "COST": json.dumps(cost.round(6).tolist()),
    }
    return HTML(_filled(_TRANSPORT, label, values))


def _filled(template: str, label: str, values: Mapping[str, str]) -> str:
    """A template with a value in each place, such as ``%ID%``."""
    known = {**values, "LABEL": html.escape(label)}
    return re.sub(r"%([A-Z]+)%", lambda place: known[place[1]], template)


def _says(plan: np.ndarray, cost: np.ndarray, beta: float, step: int) -> str:
    off = 100 * abs(len(plan) * plan.sum(1) - 1).max()
    return (
        f"β = {beta:.3f}, step {step}: the plan costs {(plan * cost).sum():.4f}; "
        f"the mass of a point is off by up to {off:.1f}%"
    )


_TRANSPORT = """
<div id="%ID%" class="moving-plan" role="group" aria-label="%LABEL%">
<style>
.moving-plan svg { width: 100%; max-width: 34rem; height: auto; display: block; }
.moving-plan line { stroke: #0072b2; opacity: 0.65; stroke-linecap: round; }
.moving-plan .from { fill: #0072b2; stroke: currentColor; }
.moving-plan .to { fill: #d55e00; stroke: currentColor; }
.moving-plan label { display: flex; gap: 0.6rem; align-items: center; max-width: 34rem; }
.moving-plan label[hidden] { display: none; }
.moving-plan input { flex: 1; min-width: 0; height: 2rem; }
@media print { .moving-plan label { display: none; } }
</style>
<svg viewBox="%BOX%" role="img" aria-label="%LABEL%">%LINES%%DOTS%</svg>
<label hidden>β <input type="range" name="beta" min="0" max="40" value="%PLACE%"></label>
<label hidden>step <input type="range" name="step" min="1" max="50" value="%STEP%"></label>
<p><output aria-live="polite">%TEXT%</output> (least cost there is: %EXACT%)</p>
<script>
(() => {
  const box = document.getElementById("%ID%"), cost = %COST%;
  const n = cost.length, k = cost[0].length;
  const [beta, step] = box.querySelectorAll("input");
  const lines = box.querySelectorAll("line"), output = box.querySelector("output");
  const from = box.querySelectorAll(".from"), to = box.querySelectorAll(".to");
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  const lse = (list) => {
    const top = Math.max(...list);
    return top + Math.log(sum(list.map((x) => Math.exp(x - top))));
  };
  const column = (rows, j) => rows.map((row) => row[j]);
  function ipot(b, steps) {
    let sigma = Array(k).fill(0), all = Array(k).fill(0), rows, sums;
    for (let t = 1; t <= steps; t++) {
      rows = cost.map((row) => {
        const scores = row.map((c, j) => all[j] + sigma[j] - (t * c) / b);
        const whole = lse(scores) + Math.log(n);
        return scores.map((x) => x - whole);
      });
      sums = sigma.map((_, j) => lse(column(rows, j)));
      sigma = sigma.map((x, j) => x - Math.log(k) - sums[j]);
      all = all.map((x, j) => x + sigma[j]);
    }
    return rows.map((row) => row.map((x, j) => Math.exp(x - Math.log(k) - sums[j])));
  }
  function draw() {
    const b = 0.01 * 10 ** (beta.value / 20), plan = ipot(b, Number(step.value));
    const masses = plan.map(sum), flat = plan.flat();
    flat.forEach((m, i) => lines[i].setAttribute("stroke-width", 8 * Math.max(n, k) * m));
    masses.forEach((m, i) => from[i].setAttribute("r", 6 * Math.sqrt(n * m)));
    to.forEach((dot, j) => dot.setAttribute("r", 6 * Math.sqrt(k * sum(column(plan, j)))));
    const spent = sum(flat.map((m, i) => m * cost.flat()[i]));
    const off = 100 * Math.max(...masses.map((m) => Math.abs(n * m - 1)));
    beta.setAttribute("aria-valuetext", b.toFixed(3));
    output.textContent = `β = ${b.toFixed(3)}, step ${step.value}: the plan costs ` +
      `${spent.toFixed(4)}; the mass of a point is off by up to ${off.toFixed(1)}%`;
  }
  for (const each of [beta, step]) {
    each.parentElement.hidden = false;
    each.addEventListener("input", draw);
  }
})();
</script>
</div>
"""


def sliders(
    draw: Callable[..., tuple[str, str]],
    places: Mapping[str, Sequence[str | int | float]],
    *,
    start: Mapping[str, str | int | float],
    size: tuple[int, int],
    label: str,
) -> HTML:
    """Show a picture that sliders move; Python makes every state of it beforehand.

    Without scripts, and on paper, the state of ``start`` stands still.

    Args:
        draw: takes a place of each slider by name; returns the inside of the SVG, and the text
            under it.
        places: of each slider, by its name, in order.
        start: where each slider stands at first.
        size: width and height of the SVG.
        label: describes the picture, for readers who do not see it.

    Raises:
        ValueError: for no slider, one without places, a start that is not among them, or a page
            above 300 kB.

    >>> def bar(width):
    ...     return f'<rect width="{width}" height="9"/>', f"{width} wide"
    >>> shown = sliders(bar, {"width": [1, 2, 4]}, start={"width": 2}, size=(4, 9), label="a bar")
    >>> shown.data.count('type="range"'), "2 wide</output>" in shown.data
    (1, True)
    """
    if not places or not all(places.values()) or set(start) != set(places):
        raise ValueError(
            f"places, start: expected one slider or more, with a start each, got {list(places)} "
            f"and {list(start)}"
        )
    for name, at in start.items():
        if at not in places[name]:
            raise ValueError(f"start[{name!r}]: expected one of {list(places[name])}, got {at!r}")
    combined = list(itertools.product(*places.values()))
    states = [draw(**dict(zip(places, each, strict=True))) for each in combined]
    svg, text = states[combined.index(tuple(start[name] for name in places))]
    inputs = "".join(
        f'<label hidden>{html.escape(name)} <input type="range" name="{html.escape(name)}" '
        f'min="0" max="{len(each) - 1}" value="{list(each).index(start[name])}"></label>'
        for name, each in places.items()
    )
    held = {"states": states, "places": [[*map(str, each)] for each in places.values()]}
    values = {
        "ID": f"moving-{zlib.crc32(repr((label, states)).encode()):08x}",
        "BOX": f"0 0 {size[0]} {size[1]}",
        "STATE": svg,
        "TEXT": html.escape(text),
        "INPUTS": inputs,
        "HELD": json.dumps(held).replace("<", "\\u003c"),
    }
    shown = _filled(_SLIDERS, label, values)
    if len(shown) > 300_000:
        raise ValueError(f"places: expected a page of up to 300 kB, got {len(shown):,} letters")
    return HTML(shown)


_SLIDERS = """
<div id="%ID%" class="moving-picture" role="group" aria-label="%LABEL%">
<style>
.moving-picture svg { width: 100%; max-width: 34rem; height: auto; display: block; }
.moving-picture text { font: 15px sans-serif; fill: currentColor; }
.moving-picture .one { stroke: #0072b2; fill: #0072b2; }
.moving-picture .two { stroke: #d55e00; fill: #d55e00; }
.moving-picture .axis { stroke: currentColor; opacity: 0.5; }
.moving-picture text.one, .moving-picture text.two { stroke: none; }
.moving-picture polyline.one { fill: none; stroke-width: 2.5; }
.moving-picture label { display: flex; gap: 0.6rem; align-items: center; max-width: 34rem; }
.moving-picture label[hidden] { display: none; }
.moving-picture input { flex: 1; min-width: 0; height: 2rem; }
@media print { .moving-picture label { display: none; } }
</style>
<svg viewBox="%BOX%" role="img" aria-label="%LABEL%">%STATE%</svg>
%INPUTS%
<p><output aria-live="polite">%TEXT%</output></p>
<script>
(() => {
  const box = document.getElementById("%ID%"), { states, places } = %HELD%;
  const inputs = [...box.querySelectorAll("input")];
  function show() {
    const at = inputs.reduce((all, each, i) => all * places[i].length + Number(each.value), 0);
    box.querySelector("svg").innerHTML = states[at][0];
    box.querySelector("output").textContent = states[at][1];
    inputs.forEach((each, i) => each.setAttribute("aria-valuetext", places[i][each.value]));
  }
  for (const each of inputs) {
    each.parentElement.hidden = false;
    each.addEventListener("input", show);
  }
})();
</script>
</div>
"""


REACH = (2.2, 1.6)  # of a gradient's tip, to each side


@checked
def conflict(
    first: Float[np.ndarray, " 2"],
    second: Float[np.ndarray, " 2"],
    *,
    label: str,
    gamma: float = -0.3,
) -> HTML:
    """Show two gradients of the plane, their projections and the step; their tips can be moved.

    The page computes eq-gradients-realign itself. A tip follows the mouse, a finger, or the arrow
    keys; a slider moves gamma. Without scripts, and on paper, the gradients given stand still.

    Args:
        first, second: (2,) gradients, within 2.2 to the sides and 1.6 up and down, at least 0.2
            long.
        label: describes the picture, for readers who do not see it.
        gamma: start of its slider, -1 to 1, in steps of 0.05.

    Raises:
        ValueError: for a gradient out of reach or too short, or a gamma outside -1 to 1.

    >>> shown = conflict(np.array([1.0, 0.0]), np.array([-1.0, 1.0]), label="two gradients")
    >>> "cosine -0.71: conflict. Weights 2.00 and 1.50, step (0.50, 1.50)" in shown.data
    True
    """
    for name, tip in {"first": first, "second": second}.items():
        if not ((abs(tip) <= REACH).all() and np.hypot(*tip) >= 0.2):
            raise ValueError(
                f"{name}: expected a gradient of at least 0.2 within {REACH}, got {tip.tolist()}"
            )
    if not -1 <= gamma <= 1:
        raise ValueError(f"gamma: expected a number from -1 to 1, got {gamma}")
    gamma = round(20 * gamma) / 20
    a, b = (torch.from_numpy(tip.astype(float)) for tip in (first, second))
    cosine = gradient_cosine([a], [b])
    hats = [each for sides in realigned([a], [b]) for each in sides if each is not None]
    delta = hats[0] + hats[1]
    opposed, ratio = max(0.0, -cosine), (b.norm() / a.norm()).item()
    weights = (1 + opposed * ratio, 1 + opposed / ratio)
    drawn = {"va": a, "vt": b, "hat-va": hats[0], "hat-vt": hats[1], "step": delta}
    arrows = "".join(
        f'<line class="{name}" x1="0" y1="0" x2="{60 * tip[0]:.1f}" y2="{-60 * tip[1]:.1f}"/>'
        for name, tip in drawn.items()
    )
    tips = "".join(
        f'<g class="tip {name}" transform="translate({60 * tip[0]:.1f} {-60 * tip[1]:.1f})">'
        f'<circle r="9"/><text x="12" y="-8">g<tspan class="sub" dy="4">{name}</tspan></text></g>'
        for name, tip in (("va", a), ("vt", b))
    )
    values = {
        "ID": f"conflict-{zlib.crc32(np.concatenate([first, second]).tobytes()):08x}",
        "ARROWS": arrows,
        "TIPS": tips,
        "GAMMA": f"{gamma:.2f}",
        "TEXT": _tells(cosine, weights, delta.tolist(), gamma),
        "FROM": json.dumps([a.tolist(), b.tolist()]),
        "REACH": json.dumps(REACH),
    }
    return HTML(_filled(_CONFLICT, label, values))


def _tells(cosine: float, weights: tuple[float, float], step: list[float], gamma: float) -> str:
    numbers = [f"{round(x, 2) + 0.0:.2f}" for x in (cosine, *weights, *step, gamma)]
    verdict = "conflict" if cosine < 0 else "no conflict"
    kept = "keeps" if cosine > gamma else "drops"
    return (
        "cosine {}: {verdict}. Weights {} and {}, step ({}, {}). "
        "At gamma = {} a curriculum {kept} it."
    ).format(*numbers, verdict=verdict, kept=kept)


_CONFLICT = """
<div id="%ID%" class="moving-conflict" role="group" aria-label="%LABEL%">
<style>
.moving-conflict svg { width: 100%; max-width: 34rem; height: auto; display: block; }
.moving-conflict line { stroke-width: 3; stroke-linecap: round; }
.moving-conflict .axis { stroke: currentColor; stroke-width: 0.5; opacity: 0.4; }
.moving-conflict .va { stroke: #0072b2; }
.moving-conflict .vt { stroke: #d55e00; }
.moving-conflict .hat-va, .moving-conflict .hat-vt { stroke-width: 2; stroke-dasharray: 5 5; }
.moving-conflict .hat-va { stroke: #0072b2; }
.moving-conflict .hat-vt { stroke: #d55e00; }
.moving-conflict .step { stroke: currentColor; stroke-width: 5; opacity: 0.5; }
.moving-conflict .tip { stroke: none; cursor: grab; touch-action: none; }
.moving-conflict .tip.va { fill: #0072b2; }
.moving-conflict .tip.vt { fill: #d55e00; }
.moving-conflict text { font: 18px sans-serif; user-select: none; }
.moving-conflict .sub { font-size: 13px; }
.moving-conflict label { display: flex; gap: 0.6rem; align-items: center; max-width: 34rem; }
.moving-conflict label[hidden] { display: none; }
.moving-conflict input { flex: 1; min-width: 0; height: 2rem; }
@media print { .moving-conflict label { display: none; } }
</style>
<svg viewBox="-240 -180 480 360" role="group" aria-label="%LABEL%">
<line class="axis" x1="-240" y1="0" x2="240" y2="0"/>
<line class="axis" x1="0" y1="-180" x2="0" y2="180"/>
%ARROWS%%TIPS%
</svg>
<label hidden>gamma <input type="range" min="-1" max="1" step="0.05" value="%GAMMA%"></label>
<p><output aria-live="polite">%TEXT%</output></p>
<script>
(() => {
  const box = document.getElementById("%ID%"), svg = box.querySelector("svg");
  const [a, b] = %FROM%, ends = [a, b], reach = %REACH%;
  const gamma = box.querySelector("input"), output = box.querySelector("output");
  const tips = [...box.querySelectorAll(".tip")];
  const lines = ["va", "vt", "hat-va", "hat-vt", "step"].map((n) => box.querySelector("line." + n));
  const dot = (x, y) => x[0] * y[0] + x[1] * y[1];
  const sum = (x, y, w = 1) => [x[0] + w * y[0], x[1] + w * y[1]];
  const say = (x) => (Math.round(100 * x) / 100 + 0).toFixed(2);
  function draw() {
    const d = dot(a, b), cosine = d / Math.sqrt(dot(a, a) * dot(b, b));
    const share = [Math.min(d, 0) / dot(a, a), Math.min(d, 0) / dot(b, b)];
    const hats = [sum(a, b, -share[1]), sum(b, a, -share[0])], step = sum(...hats);
    [a, b, ...hats, step].forEach((x, i) => {
      lines[i].setAttribute("x2", 60 * x[0]);
      lines[i].setAttribute("y2", -60 * x[1]);
    });
    ends.forEach((x, i) => {
      tips[i].setAttribute("transform", `translate(${60 * x[0]} ${-60 * x[1]})`);
      tips[i].setAttribute("aria-valuetext", `${say(x[0])} right, ${say(x[1])} up`);
      tips[i].setAttribute("aria-valuenow", say((180 / Math.PI) * Math.atan2(x[1], x[0])));
    });
    gamma.setAttribute("aria-valuetext", gamma.value);
    output.textContent = `cosine ${say(cosine)}: ${d < 0 ? "" : "no "}conflict. ` +
      `Weights ${say(1 - share[0])} and ${say(1 - share[1])}, ` +
      `step (${say(step[0])}, ${say(step[1])}). At gamma = ${say(gamma.value)} ` +
      `a curriculum ${cosine > gamma.value ? "keeps" : "drops"} it.`;
  }
  function move(i, x) {
    const to = x.map((v, k) => Math.max(-reach[k], Math.min(reach[k], Math.round(v * 20) / 20)));
    if (Math.hypot(...to) >= 0.2) [ends[i][0], ends[i][1]] = to;
    draw();
  }
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  tips.forEach((tip, i) => {
    tip.setAttribute("tabindex", 0);
    tip.setAttribute("role", "slider");
    tip.setAttribute("aria-label", `gradient ${["va", "vt"][i]}, moved by the arrow keys; degrees`);
    tip.setAttribute("aria-valuemin", -180);
    tip.setAttribute("aria-valuemax", 180);
    tip.addEventListener("pointerdown", (event) => {
      tip.setPointerCapture(event.pointerId);
      event.preventDefault();
      tip.focus();
    });
    tip.addEventListener("pointermove", (event) => {
      if (!tip.hasPointerCapture(event.pointerId)) return;
      const at = new DOMPoint(event.clientX, event.clientY);
      const place = at.matrixTransform(svg.getScreenCTM().inverse());
      move(i, [place.x / 60, -place.y / 60]);
    });
    tip.addEventListener("keydown", (event) => {
      if (!(event.key in arrows)) return;
      event.preventDefault();
      move(i, sum(ends[i], arrows[event.key], 0.1));
    });
  });
  gamma.parentElement.hidden = false;
  gamma.addEventListener("input", draw);
  draw();
})();
</script>
</div>
"""


@checked
def attention(
    picture: UInt8[np.ndarray, "h w 3"],
    words: Sequence[str],
    maps: Float[np.ndarray, "t g k"],
    *,
    label: str,
    masks: Bool[np.ndarray, "t h w"] | None = None,
    word: int = 0,
) -> HTML:
    """Show a picture with a caption below it: pick a word, and see where a captioner looked.

    Words are picked by mouse, finger or the arrow keys. The less attention a place has, the darker
    it is. The text below gives the place of the most attention, and the share on the thing that the
    word names; a frame shows the thing. Without scripts, and on paper, the picture of ``word``
    stands.

    Args:
        picture: red, green, blue.
        words: T of them.
        maps: (T, g, k), the attention of each word over the places of a grid, none negative; each
            is divided by its sum.
        label: describes the picture, for readers who do not see it.
        masks: (T, h, w), of the thing that each word names; empty if it names nothing.
        word: which stands first, from 0.

    Raises:
        ValueError: for no word, other numbers of maps or masks, a map that is negative, not finite
            or zero, a picture or grid without a place, or a first word that is not among them.

    >>> maps = np.array([[[0.25, 0.75]], [[0.5, 0.5]]])
    >>> shown = attention(np.zeros((8, 8, 3), np.uint8), ["a", "star"], maps, label="a star")
    >>> "word 1 of 2, “a”: most attention, 75.0%, is in row 1, column 2." in shown.data
    True
    """
    t = len(words)
    if not t or len(maps) != t or (masks is not None and len(masks) != t):
        raise ValueError(
            f"words: expected one or more, and a map and a mask for each, got {t}, {len(maps)} maps"
            + ("" if masks is None else f" and {len(masks)} masks")
        )
    if not 0 <= word < t:
        raise ValueError(f"word: expected 0 to {t - 1}, got {word}")
    if not picture.size or not maps.size:
        raise ValueError(
            f"picture, maps: expected a place or more, got {picture.shape} and {maps.shape}"
        )
    totals = maps.sum((1, 2), keepdims=True)
    if not (np.isfinite(maps).all() and (maps >= 0).all() and (totals > 0).all()):
        raise ValueError("maps: expected finite numbers of 0 or more, not all 0 in a map")
    shares = (maps / totals).round(5)
    height, width, _ = picture.shape
    rows, columns = maps.shape[1:]
    tall = 480 * height / width
    if masks is None:
        masks = np.zeros((t, height, width), bool)
    # of each place, the part that the named thing fills
    covered = np.stack([_shrunk(mask, rows, columns) for mask in masks]).round(5)
    frames = [_frame(mask) for mask in masks]
    sides = (480 / columns, tall / rows)
    shades = 0.8 * (1 - shares[word] / shares[word].max())
    cells = "".join(
        f'<rect x="{sides[0] * j:.2f}" y="{sides[1] * i:.2f}" width="{sides[0]:.2f}" '
        f'height="{sides[1]:.2f}" opacity="{shades[i, j]:.3f}"/>'
        for i in range(rows)
        for j in range(columns)
    )
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    code = zlib.crc32(file.getvalue() + shares.tobytes())
    picks = "".join(
        f'<label><input type="radio" name="attention-{code:08x}" value="{i}" disabled'
        f"{' checked' if i == word else ''}>{html.escape(each)}</label>"
        for i, each in enumerate(words)
    )
    x, y, w, h = frames[word]
    values = {
        "ID": f"attention-{code:08x}",
        "BOX": f"0 0 480 {tall:.0f}",
        "PICTURE": base64.b64encode(file.getvalue()).decode(),
        "CELLS": cells,
        "FRAME": f'x="{480 * x:.2f}" y="{tall * y:.2f}" '
        f'width="{480 * w:.2f}" height="{tall * h:.2f}"',
        "PICKS": picks,
        "TEXT": html.escape(_looked(words, shares, covered, word), quote=False),
        # within a script, no text may end it
        "WORDS": json.dumps(list(words)).replace("<", "\\u003c"),
        "SHARES": json.dumps(shares.reshape(t, -1).tolist()),
        "COVERED": json.dumps(covered.reshape(t, -1).tolist()),
        "FRAMES": json.dumps(frames),
        "COLUMNS": str(columns),
        "TALL": f"{tall:.2f}",
    }
    return HTML(_filled(_ATTENTION, label, values))


def _shrunk(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The part of each place of a grid that a mask fills, (rows, columns)."""
    grown = mask.repeat(rows, 0).repeat(columns, 1)
    return grown.reshape(rows, len(mask), columns, mask.shape[1]).mean((1, 3))


def _frame(mask: np.ndarray) -> list[float]:
    """Left, top, width and height of the part that a mask fills, in sides of the picture."""
    if not mask.any():
        return [0, 0, 0, 0]
    y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = mask.shape
    found = x[0] / width, y[0] / height, (x[-1] + 1 - x[0]) / width, (y[-1] + 1 - y[0]) / height
    return [round(float(each), 5) for each in found]


def _looked(words: Sequence[str], shares: np.ndarray, covered: np.ndarray, word: int) -> str:
    row, column = np.unravel_index(shares[word].argmax(), shares[word].shape)
    said = (
        f"word {word + 1} of {len(words)}, “{words[word]}”: most attention, "
        f"{100 * shares[word].max():.1f}%, is in row {row + 1}, column {column + 1}."
    )
    if covered[word].any():
        on = (shares[word] * covered[word]).sum()
        fills = 100 * covered[word].mean()
        said += f" On what it names lies {100 * on:.1f}%; it fills {fills:.1f}% of the picture."
    return said


_ATTENTION = """
<div id="%ID%" class="moving-attention" role="group" aria-label="%LABEL%">
<style>
.moving-attention svg { width: 100%; max-width: 24rem; height: auto; display: block; }
.moving-attention image { image-rendering: pixelated; }
.moving-attention .cells rect { fill: black; }
.moving-attention .frame { fill: none; stroke: #e69f00; stroke-width: 3; }
.moving-attention fieldset { border: 0; padding: 0; margin: 0.5rem 0; }
.moving-attention label { display: inline-block; padding: 0.4rem 0.5rem; cursor: pointer; }
.moving-attention label:has(:checked) { font-weight: bold; text-decoration: underline; }
.moving-attention label:has(:focus-visible) { outline: 2px solid currentColor; }
.moving-attention input { position: absolute; opacity: 0; }
</style>
<svg viewBox="%BOX%" role="img" aria-label="%LABEL%">
<image href="data:image/png;base64,%PICTURE%" width="480" height="%TALL%"
preserveAspectRatio="none"/>
<g class="cells">%CELLS%</g>
<rect class="frame" %FRAME%/>
</svg>
<fieldset aria-label="words of the caption">%PICKS%</fieldset>
<p><output aria-live="polite">%TEXT%</output></p>
<script>
(() => {
  const box = document.getElementById("%ID%"), words = %WORDS%;
  const shares = %SHARES%, covered = %COVERED%, frames = %FRAMES%;
  const columns = %COLUMNS%, scale = [480, %TALL%, 480, %TALL%];
  const cells = box.querySelectorAll(".cells rect"), frame = box.querySelector(".frame");
  const output = box.querySelector("output"), picks = box.querySelectorAll("input");
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  const percent = (x) => (100 * x).toFixed(1) + "%";
  function draw(i) {
    const top = Math.max(...shares[i]), at = shares[i].indexOf(top);
    shares[i].forEach((x, p) => cells[p].setAttribute("opacity", 0.8 * (1 - x / top)));
    ["x", "y", "width", "height"].forEach((name, k) =>
      frame.setAttribute(name, scale[k] * frames[i][k]));
    let said = `word ${i + 1} of ${words.length}, “${words[i]}”: most attention, ` +
      `${percent(top)}, is in row ${Math.floor(at / columns) + 1}, column ${(at % columns) + 1}.`;
    if (covered[i].some((x) => x > 0)) {
      const on = sum(shares[i].map((x, p) => x * covered[i][p]));
      said += ` On what it names lies ${percent(on)}; it fills ` +
        `${percent(sum(covered[i]) / covered[i].length)} of the picture.`;
    }
    output.textContent = said;
  }
  picks.forEach((pick, i) => {
    pick.disabled = false;
    pick.addEventListener("change", () => draw(i));
  });
})();
</script>
</div>
"""
