"""Moving pictures and sound inside a page, with nothing beside it: all is in the HTML."""

import html
import io
import json
import re
import zlib
from collections.abc import Mapping

import av
import numpy as np
import torch
from IPython.display import HTML, Audio, Video
from jaxtyping import Float, Float32, UInt8

from modalign._checks import checked
from modalign.transport import ipot


@checked
def movie(frames: UInt8[np.ndarray, "t h w 3"], *, label: str, fps: int = 8) -> Video:
    """Show a clip with controls, as H.264 in an MP4, which every browser plays.

    Args:
        frames: red, green, blue; height and width even, as the format wants.
        label: what is seen, for readers who do not see it.
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
        points: (N, 2) where the mass is.
        prototypes: (K, 2) where it goes.
        exact: the least cost there is, which is shown beside the plan's.
        label: what is seen, for readers who do not see it.
        beta: where its slider starts, 0.01 to 1, at one of 41 places on a logarithmic scale.
        step: where its slider starts, 1 to 50.

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
            f"beta, step: expected 0.01 to 1 and 1 to 50, where the sliders are, got {beta}, {step}"
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
        "LABEL": html.escape(label, quote=True),
        "BOX": f"0 0 480 {height:.0f}",
        "LINES": lines,
        "DOTS": dots,
        "PLACE": str(place),
        "STEP": str(step),
        "TEXT": _says(plan, cost, beta, step),
        "EXACT": f"{exact:.4f}",
        "COST": json.dumps(cost.round(6).tolist()),
    }
    return HTML(re.sub(r"%([A-Z]+)%", lambda found: values[found[1]], _TRANSPORT))


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
