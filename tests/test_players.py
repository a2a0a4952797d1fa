import base64
import io
import re

import av
import numpy as np
import pytest
import scipy.io.wavfile
import torch
from bs4 import BeautifulSoup

from modalign import players
from modalign.data.shapes import render_audio, render_video, sample_scene
from modalign.gradients import harmonized_backward, realign
from modalign.transport import ipot


def content(source):
    kind, encoded = re.fullmatch(r"data:(.+?);base64,(.+)", source).groups()
    return kind, io.BytesIO(base64.b64decode(encoded))


def test_a_movie_holds_the_frames_it_was_given():
    frames = render_video(sample_scene(0, 0), frames=6).images
    shown = players.movie(frames, label='objects "move" <about>', fps=4)
    tag = BeautifulSoup(shown._repr_html_(), "html.parser").video
    assert tag["aria-label"] == 'objects "move" <about>'
    assert {"controls", "muted", "loop"} <= set(tag.attrs)
    kind, file = content(tag.source["src"])
    assert kind == tag.source["type"] == "video/mp4"
    assert (tag["width"], tag["height"]) == ("64", "64")
    with av.open(file) as container:
        assert container.streams.video[0].average_rate == 4
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert decoded.shape == frames.shape
    # colour is stored at half the resolution: edges differ, the rest does not
    assert np.median(np.abs(decoded.astype(int) - frames)) <= 2


@pytest.mark.parametrize("shape", [(0, 16, 16, 3), (2, 15, 16, 3), (2, 16, 17, 3), (2, 0, 0, 3)])
def test_clips_that_cannot_be_shown_are_refused(shape):
    with pytest.raises(ValueError, match="frames: expected one or more, of even height"):
        players.movie(np.zeros(shape, np.uint8), label="nothing")


def test_a_movie_of_other_types_is_refused():
    with pytest.raises(ValueError, match="frames: expected UInt8"):
        players.movie(np.zeros((2, 16, 16, 3)), label="floats")
    with pytest.raises(ValueError, match="fps: expected 1 to 1,000"):
        players.movie(np.zeros((2, 16, 16, 3), np.uint8), label="stuck", fps=0)


def test_sounds_are_kept_as_they_are_under_their_names():
    waves = {f"scene {i} <{i}>": render_audio(sample_scene(0, i), 8000) for i in range(2)}
    page = BeautifulSoup(players.sounds(waves, rate=8000).data, "html.parser")
    assert [part.text for part in page.find_all("p")] == list(waves)
    for tag, wave in zip(page.find_all("audio"), waves.values(), strict=True):
        kind, file = content(tag["src"])
        rate, samples = scipy.io.wavfile.read(file)
        assert (kind, rate) == ("audio/wav", 8000)
        assert np.abs(samples / 32767 - wave).max() < 1e-4


@pytest.mark.parametrize(
    "wave", [[], [np.nan, 0.0], [np.inf], [0.0, 1.5]], ids=["empty", "nan", "infinite", "loud"]
)
def test_sounds_that_cannot_be_heard_are_refused(wave):
    with pytest.raises(ValueError, match=r"waveforms\['it'\]: expected samples from -1 to 1"):
        players.sounds({"it": np.array(wave, np.float32)}, rate=8000)


def test_no_sound_and_no_rate_are_refused():
    with pytest.raises(ValueError, match="waveforms: expected one or more"):
        players.sounds({}, rate=8000)
    with pytest.raises(ValueError, match="rate: expected a positive number"):
        players.sounds({"it": np.zeros(3, np.float32)}, rate=0)


@pytest.mark.parametrize("rate", [2**31, 10**12, -1])
def test_rates_that_no_file_holds_are_refused(rate):
    with pytest.raises(ValueError, match="rate: expected a positive number"):
        players.sounds({"it": np.zeros(3, np.float32)}, rate=rate)
    with pytest.raises(ValueError, match="fps: expected 1 to 1,000"):
        players.movie(np.zeros((1, 2, 2, 3), np.uint8), label="it", fps=rate)


def clouds():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(5, 2)), rng.uniform(size=(3, 2))


def plan_of(points, prototypes, beta, step):
    cost = np.linalg.norm(points[:, None] - prototypes[None], axis=2)
    plan = ipot(torch.from_numpy(cost), beta=beta, outer=step, method="log").numpy()
    return plan, (plan * cost).sum(), 100 * abs(len(points) * plan.sum(1) - 1).max()


def said(text):
    pattern = r"β = ([\d.]+), step (\d+): the plan costs ([\d.]+); .* up to ([\d.]+)%"
    return [float(each) for each in re.match(pattern, text).groups()]


def test_a_plan_stands_still_without_scripts():
    points, prototypes = clouds()
    shown = players.transport(points, prototypes, exact=0.25, label="a <plan>", beta=0.1, step=7)
    page = BeautifulSoup(shown.data, "html.parser")
    plan, cost, off = plan_of(points, prototypes, 0.1, 7)
    widths = [float(line["stroke-width"]) for line in page.find_all("line")]
    np.testing.assert_allclose(widths, 8 * 5 * plan.ravel(), atol=0.006)
    radii = [float(dot["r"]) for dot in page.find_all("circle")]
    np.testing.assert_allclose(radii[5:], 6, atol=0.006)  # columns are exact
    assert said(page.output.text) == pytest.approx([0.1, 7, cost, off], abs=0.06)
    assert page.div["aria-label"] == "a <plan>"
    assert all(label.has_attr("hidden") for label in page.find_all("label"))
    assert "0.2500" in page.p.text
    assert len(shown.data) < 20_000


@pytest.mark.parametrize("touch", [False, True])
def test_a_plan_moves_by_keyboard_mouse_and_touch(browser, tmp_path, touch):
    points, prototypes = clouds()
    shown = players.transport(points, prototypes, exact=0.25, label="a plan")
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><main>{shown.data}</main>", "utf-8")
    context = browser.new_context(
        offline=True, has_touch=touch, viewport={"width": 390, "height": 800}
    )
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(page.as_uri())

    def holds():
        beta, step, cost, off = said(tab.locator("output").inner_text())
        place = int(tab.locator("[name=beta]").input_value())
        assert beta == pytest.approx(0.01 * 10 ** (place / 20), abs=6e-4)
        _, true, far = plan_of(points, prototypes, 0.01 * 10 ** (place / 20), int(step))
        assert cost == pytest.approx(true, abs=6e-5)
        assert off == pytest.approx(far, abs=0.06)
        return beta, step

    seen = [holds()]
    for name, share in (("beta", 0.02), ("step", 0.3)):
        box = tab.locator(f"[name={name}]").bounding_box()
        place = (box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        (tab.touchscreen.tap if touch else tab.mouse.click)(*place)
        seen.append(holds())
        tab.locator(f"[name={name}]").focus()
        tab.keyboard.press("ArrowRight")
        seen.append(holds())
    assert len(set(seen)) == 5
    assert not faults
    tab.emulate_media(media="print")
    assert not tab.locator("label").first.is_visible()
    assert tab.locator("svg").is_visible()
    context.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((0, 2))}, "points: expected one or more finite points"),
        ({"prototypes": np.array([[0.0, np.nan]])}, "prototypes: expected one or more finite"),
        ({"points": np.ones((2, 2)), "prototypes": np.ones((1, 2))}, "expected two places or more"),
        ({"beta": 2.0}, "beta, step: expected 0.01 to 1 and 1 to 50, .* got 2.0, 50"),
        ({"step": 0}, "got 0.1, 0"),
        ({"points": np.zeros((2, 3))}, "points: expected"),
        ({"exact": float("nan")}, "exact: expected a finite number, got nan"),
    ],
)
def test_plans_that_cannot_be_shown_are_refused(change, message):
    points, prototypes = clouds()
    given = {"points": points, "prototypes": prototypes, "exact": 0.0, **change}
    with pytest.raises(ValueError, match=message):
        players.transport(**given, label="none")


def told(text):
    pattern = (
        r"cosine (-?[\d.]+): (no )?conflict\. Weights ([\d.]+) and ([\d.]+), "
        r"step \((-?[\d.]+), (-?[\d.]+)\)\. At gamma = (-?[\d.]+) a curriculum (keeps|drops) it\."
    )
    cosine, peace, *numbers, kept = re.fullmatch(pattern, text).groups()
    return float(cosine), peace is None, [float(x) for x in numbers], kept == "keeps"


def holds_what_the_package_says(text, first, second):
    """The numbers under the figure are those of harmonized_backward."""
    a, b = (torch.tensor(x, dtype=torch.float64) for x in (first, second))
    cosine, conflict, (w_a, w_b, x, y, gamma), kept = told(text)
    w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    report = harmonized_backward(w @ a, w @ b, [w], realign=True)
    assert cosine == pytest.approx(report.cosine, abs=0.0051)
    assert conflict == report.conflict
    assert [x, y] == pytest.approx(w.grad.tolist(), abs=0.0051)
    assert kept == (report.cosine > gamma)
    # weighted by what is shown, the gradients add up to the step, to what rounding leaves
    assert (w_a * a + w_b * b).tolist() == pytest.approx([x, y], abs=0.03)
    return cosine, gamma, kept


def test_a_conflict_stands_still_without_scripts():
    a, b = np.array([1.0, 0.4]), np.array([-1.2, 1.0])
    shown = players.conflict(a, b, label="two <gradients>", gamma=-0.5)
    page = BeautifulSoup(shown.data, "html.parser")
    holds_what_the_package_says(page.output.text, a, b)
    found = {line["class"][0]: line for line in page.find_all("line")}
    hats = realign([torch.tensor(a)], [torch.tensor(b)])
    for name, (hat,) in zip(("hat-va", "hat-vt"), hats, strict=True):
        drawn = [float(found[name]["x2"]) / 60, -float(found[name]["y2"]) / 60]
        assert drawn == pytest.approx(hat.tolist(), abs=1e-3)
    assert page.div["aria-label"] == "two <gradients>"
    assert page.label.has_attr("hidden")
    assert len(shown.data) < 20_000


@pytest.mark.parametrize("touch", [False, True])
def test_a_conflict_moves_by_keyboard_mouse_and_touch(browser, tmp_path, touch):
    shown = players.conflict(np.array([1.0, 0.4]), np.array([-1.2, 1.0]), label="two gradients")
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><main>{shown.data}</main>", "utf-8")
    context = browser.new_context(
        offline=True, has_touch=touch, viewport={"width": 390, "height": 800}
    )
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(page.as_uri())

    def holds():
        ends = [
            tab.locator(f"line.{name}").evaluate(
                "line => [line.x2.baseVal.value / 60, -line.y2.baseVal.value / 60]"
            )
            for name in ("va", "vt")
        ]
        return *holds_what_the_package_says(tab.locator("output").inner_text(), *ends), *ends[0]

    def drag(name, right, up):
        box = tab.locator(f".tip.{name} circle").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        if touch:  # a finger, by the protocol of the browser
            devtools = context.new_cdp_session(tab)
            for kind, place in (
                ("touchStart", [{"x": x, "y": y}]),
                ("touchMove", [{"x": x + right, "y": y - up}]),
                ("touchEnd", []),
            ):
                devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": place})
        else:
            tab.mouse.move(x, y)
            tab.mouse.down()
            tab.mouse.move(x + right, y - up)
            tab.mouse.up()

    seen = [holds()]
    drag("va", -30, 40)
    seen.append(holds())
    drag("vt", 60, -20)
    seen.append(holds())
    tab.locator(".tip.va").focus()
    for key in ("ArrowDown", "ArrowRight"):
        tab.keyboard.press(key)
        seen.append(holds())
    drag("vt", 500, 500)  # no farther than the picture
    seen.append(holds())
    tab.locator("input").focus()
    tab.keyboard.press("ArrowRight")
    seen.append(holds())
    assert len(set(seen)) == len(seen)
    assert not faults
    tab.emulate_media(media="print")
    assert not tab.locator("label").first.is_visible()
    assert tab.locator("svg").is_visible()
    context.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": np.array([3.0, 0.0])}, "first: expected a gradient of at least 0.2 within"),
        ({"second": np.array([0.1, 0.1])}, r"second: expected .* got \[0.1, 0.1\]"),
        ({"second": np.array([np.nan, 1.0])}, "second: expected a gradient"),
        ({"gamma": 1.5}, "gamma: expected a number from -1 to 1, got 1.5"),
        ({"first": np.array([1.0, 1.0, 0.0])}, "first: expected"),
    ],
)
def test_conflicts_that_cannot_be_shown_are_refused(change, message):
    given = {"first": np.array([1.0, 0.0]), "second": np.array([0.0, 1.0]), **change}
    with pytest.raises(ValueError, match=message):
        players.conflict(**given, label="none")
