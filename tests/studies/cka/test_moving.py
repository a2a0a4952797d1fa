import re

import pytest
import torch
from bs4 import BeautifulSoup

from modalign.cka import cka
from modalign.studies.cka import moving

pytest.importorskip("IPython")


def opened(browser, tmp_path, shown):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><main>{shown.data}</main>", "utf-8")
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page.as_uri())
    return tab


def numbers(text):
    return [float(each) for each in re.findall(r"-?\d+\.?\d*", text)]


def test_the_floor_shows_the_means_of_the_package(browser, tmp_path):
    tab = opened(browser, tmp_path, moving.floor(draws=2))
    for features, examples in ((4, 3), (3, 3), (3, 7)):
        for name, at in (("features", features), ("examples", examples)):
            tab.locator(f"[name={name}]").fill(str(at))
        n, d = moving.SIZES[examples], moving.WIDTHS[features]
        x = torch.randn(2, 2, n, d, generator=torch.Generator().manual_seed(0))
        means = [sum(cka(a, b, debiased=each).item() for a, b in x) / 2 for each in (False, True)]
        found = numbers(tab.locator("output").inner_text())
        assert found[:2] == [n, d]
        assert found[2:] == pytest.approx([means[0], d / (n - 1 + d), means[1]], abs=6e-4)
    tab.close()


def test_a_turn_moves_the_cosine_and_not_cka(browser, tmp_path):
    tab = opened(browser, tmp_path, moving.turned())
    for at, swapped in ((0, 0), (9, 0), (18, 0), (9, 1), (20, 1)):
        tab.locator("[name=degrees]").fill(str(at))
        tab.locator("[name=captions]").fill(str(swapped))
        degrees, cosine, measure = numbers(tab.locator("output").inner_text())
        said = moving.words(10 * at, bool(swapped))
        assert degrees == 10 * at
        true = torch.cosine_similarity(moving.PICTURES, said).mean().item()
        assert cosine == pytest.approx(true, abs=0.0051)
        assert measure == pytest.approx(cka(moving.PICTURES, said).item(), abs=0.0051)
        assert (measure == 1) == (not swapped)
        square = tab.locator("rect").first
        x = (float(square.get_attribute("x")) + 7 - 240) / 36
        assert x == pytest.approx(said[0, 0].item(), abs=0.01)
    tab.close()


@pytest.mark.parametrize("shown", [lambda: moving.floor(draws=2), moving.turned])
def test_the_first_states_stand_still_without_scripts(shown):
    page = BeautifulSoup(shown().data, "html.parser")
    assert page.svg.find("circle")
    assert numbers(page.output.text)
    assert all(label.has_attr("hidden") for label in page.find_all("label"))
