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


def opened(browser, folder, shown, touch):
    """A player alone on a page of a phone: the browser's context, the tab, and the errors in it."""
    page = folder / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><main>{shown.data}</main>", "utf-8")
    context = browser.new_context(
        offline=True, has_touch=touch, viewport={"width": 390, "height": 800}
    )
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(page.as_uri())
    return context, tab, faults


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


def point(tab, name, share, touch):
    """Tap or click on a slider, at a share of its width."""
    box = tab.locator(f"[name={name}]").bounding_box()
    place = (box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    (tab.touchscreen.tap if touch else tab.mouse.click)(*place)


def assert_prints(tab):
    """On paper there are no sliders, and there is the picture."""
    tab.emulate_media(media="print")
    assert not tab.locator("label").first.is_visible()
    assert tab.locator("svg").is_visible()


@pytest.mark.parametrize("touch", [False, True])
def test_a_plan_moves_by_keyboard_mouse_and_touch(browser, tmp_path, touch):
    points, prototypes = clouds()
    shown = players.transport(points, prototypes, exact=0.25, label="a plan")
    context, tab, faults = opened(browser, tmp_path, shown, touch)

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
        point(tab, name, share, touch)
        seen.append(holds())
        tab.locator(f"[name={name}]").focus()
        tab.keyboard.press("ArrowRight")
        seen.append(holds())
    assert len(set(seen)) == 5
    assert not faults
    assert_prints(tab)
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


def bar(width, colour):
    return (
        f'<rect x="0" y="0" height="40" width="{30 * width}" fill="{colour}"/>',
        f"{width} wide & {colour} </script>",
    )


def sliding(**changes):
    given = {
        "draw": bar,
        "places": {"width": [1, 2, 4], "colour": ["red", "blue"]},
        "start": {"colour": "blue", "width": 2},
        "size": (120, 40),
        "label": "a <bar>",
    }
    return players.sliders(**{**given, **changes})


def test_a_picture_with_sliders_stands_still_without_scripts():
    shown = sliding()
    page = BeautifulSoup(shown.data, "html.parser")
    assert (page.rect["width"], page.rect["fill"]) == ("60", "blue")
    assert page.output.text == "2 wide & blue </script>"
    assert page.div["aria-label"] == "a <bar>"
    assert [each["value"] for each in page.find_all("input")] == ["1", "1"]
    assert all(label.has_attr("hidden") for label in page.find_all("label"))
    assert shown.data.count("</script>") == 1


@pytest.mark.parametrize("touch", [False, True])
def test_sliders_move_a_picture_by_keyboard_mouse_and_touch(browser, tmp_path, touch):
    context, tab, faults = opened(browser, tmp_path, sliding(), touch)

    def holds(width, colour):
        assert tab.locator("output").inner_text() == bar(width, colour)[1]
        rect = tab.locator("rect")
        assert (rect.get_attribute("width"), rect.get_attribute("fill")) == (
            str(30 * width),
            colour,
        )
        assert rect.bounding_box()["width"] > 0  # drawn, not only written down

    holds(2, "blue")
    point(tab, "width", 0.98, touch)
    holds(4, "blue")
    assert tab.locator("[name=width]").get_attribute("aria-valuetext") == "4"
    tab.locator("[name=width]").focus()
    tab.keyboard.press("ArrowLeft")
    holds(2, "blue")
    tab.keyboard.press("Home")
    holds(1, "blue")
    tab.locator("[name=colour]").focus()
    tab.keyboard.press("ArrowLeft")
    holds(1, "red")
    assert not faults
    assert_prints(tab)
    context.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": {}, "start": {}}, "places, start: expected one slider or more"),
        ({"places": {"width": [], "colour": ["red"]}}, "places, start: expected one slider"),
        ({"start": {"width": 2}}, "places, start: expected one slider or more, with a start each"),
        (
            {"start": {"width": 3, "colour": "red"}},
            r"start\['width'\]: expected one of \[1, 2, 4\]",
        ),
        ({"draw": lambda width, colour: ("x" * 60_000, "")}, "expected a page of up to 300 kB"),
    ],
)
def test_sliders_that_cannot_be_shown_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sliding(**change)


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
    context, tab, faults = opened(browser, tmp_path, shown, touch)

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
    assert_prints(tab)
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


WORDS = ["a", "red", "</script>star"]


def attended(**changes):
    """A picture of 16 x 24, whose three words look at a grid of 4 x 6; two of them name a thing."""
    rng = np.random.default_rng(0)
    masks = np.zeros((3, 16, 24), bool)
    masks[1, 4:10, 6:11] = masks[2, 0:3, 20:24] = True
    given = {
        "picture": rng.integers(0, 256, (16, 24, 3), np.uint8),
        "words": WORDS,
        "maps": rng.random((3, 4, 6)) ** 3,
        "masks": masks,
    }
    return {**given, **changes}


def says_where_the_model_looked(text, given, word):
    """The numbers under the figure, from maps at the resolution of the picture."""
    pattern = (
        r"word (\d+) of 3, “(.*)”: most attention, ([\d.]+)%, is in row (\d+), column (\d+)\."
        r"(?: On what it names lies ([\d.]+)%; it fills ([\d.]+)% of the picture\.)?"
    )
    place, name, top, row, column, on, fills = re.fullmatch(pattern, text).groups()
    share = given["maps"][word] / given["maps"][word].sum()
    assert (int(place) - 1, name) == (word, WORDS[word])
    assert share[int(row) - 1, int(column) - 1] == share.max()
    assert float(top) == pytest.approx(100 * share.max(), abs=0.06)
    mask = given["masks"][word]
    assert (on is None) == (not mask.any())
    if mask.any():
        pixels = share.repeat(4, 0).repeat(4, 1) / 16
        assert float(on) == pytest.approx(100 * pixels[mask].sum(), abs=0.06)
        assert float(fills) == pytest.approx(100 * mask.mean(), abs=0.06)


def test_attention_stands_still_without_scripts():
    given = attended()
    for word in range(3):
        shown = players.attention(**given, label="a <star>", word=word)
        page = BeautifulSoup(shown.data, "html.parser")
        says_where_the_model_looked(page.output.text, given, word)
        shades = np.array([float(each["opacity"]) for each in page.select(".cells rect")])
        maps = given["maps"][word].flatten()
        assert shades == pytest.approx(0.8 * (1 - maps / maps.max()), abs=1e-3)
        assert page.div["aria-label"] == "a <star>"
        assert [each["value"] for each in page.select("input[checked]")] == [str(word)]
        assert all(each.has_attr("disabled") for each in page.find_all("input"))
        assert shown.data.count("</script>") == 1
    frame = page.select_one(".frame")  # of the thing in rows 0 to 2, columns 20 to 23
    drawn = [float(frame[name]) for name in ("x", "y", "width", "height")]
    assert drawn == pytest.approx([400, 0, 80, 60])
    assert len(shown.data) < 20_000


def test_a_grid_need_not_divide_the_picture():
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    covered = players._shrunk(mask, 3, 4)
    assert covered == pytest.approx(np.array([[1, 1, 0, 0]] * 3))
    assert players._shrunk(mask, 1, 3)[0] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("touch", [False, True])
def test_a_word_is_picked_by_keyboard_mouse_and_touch(browser, tmp_path, touch):
    given = attended()
    shown = players.attention(**given, label="a star")
    context, tab, faults = opened(browser, tmp_path, shown, touch)

    def holds(word):
        says_where_the_model_looked(tab.locator("output").inner_text(), given, word)
        shades = tab.locator(".cells rect").evaluate_all(
            "cells => cells.map((cell) => Number(cell.getAttribute('opacity')))"
        )
        maps = given["maps"][word].flatten()
        assert shades == pytest.approx((0.8 * (1 - maps / maps.max())).tolist(), abs=1e-3)

    holds(0)
    label = tab.locator("label").nth(2)
    if touch:
        label.tap()
    else:
        label.click()
    holds(2)
    for key, word in (("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowRight", 1)):
        tab.keyboard.press(key)
        holds(word)
    frame = tab.locator(".frame")
    assert [float(frame.get_attribute(name)) for name in ("x", "y", "width", "height")] == (
        pytest.approx([120, 80, 100, 120], abs=0.01)
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert not faults
    context.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": []}, "words: expected one or more"),
        ({"words": ["a", "b"]}, "words: .*got 2, 3 maps and 3 masks"),
        ({"masks": np.ones((2, 16, 24), bool)}, "masks"),
        ({"masks": np.ones((3, 8, 24), bool)}, "masks: expected"),
        ({"maps": np.ones((3, 4))}, "maps: expected"),
        ({"maps": np.full((3, 4, 6), -1.0)}, "maps: expected finite numbers of 0 or more"),
        ({"maps": np.full((3, 4, 6), np.nan)}, "maps: expected finite numbers of 0 or more"),
        ({"maps": np.zeros((3, 4, 6))}, "maps: .*not all 0"),
        ({"maps": np.ones((3, 0, 6))}, "picture, maps: expected a place or more"),
        ({"word": 3}, "word: expected 0 to 2, got 3"),
        ({"picture": np.zeros((16, 24, 4), np.uint8)}, "picture: expected"),
    ],
)
def test_attention_that_cannot_be_shown_is_refused(change, message):
    players.attention(**attended(), label="a star")
    with pytest.raises(ValueError, match=message):
        players.attention(**attended(**change), label="a star")
