"""The pages in a browser: they load alone, and zooming and choosing a head change the picture."""

import shutil

import numpy as np
import pytest
import torch

from catalog import model
from subquad.archs import PAIRS, pair_parts
from subquad.pair import build
from subquad.viz import Page, look
from subquad.viz.curves import Chart, Line
from subquad.viz.html import document, figure

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser that playwright drives: none of {', '.join(NAMES)}")
    with driver.sync_playwright() as play:
        # as root, as in containers, chromium runs without its sandbox or not at all
        opened = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page with all that it complained of and asked for."""

    def __init__(self, browser, path, **how):
        self.page = browser.new_context(**how).new_page()
        self.errors, self.requests = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text))
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.goto(path.as_uri())

    def ready(self):
        self.page.wait_for_selector("html[data-ready]")
        self.page.wait_for_timeout(300)
        return self

    def pixels(self, selector="#map-0"):
        """The bytes of a canvas."""
        self.page.wait_for_timeout(300)
        return self.page.evaluate(f"document.querySelector('{selector}').toDataURL()")

    def alone(self, path):
        """Nothing went wrong, and nothing but the file was asked for."""
        assert self.errors == []
        assert self.requests == [path.as_uri()]


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pages") / "maps.html"
    ids = torch.randint(0, 50, (1, 300))
    words = {"tokens": [f"w{i}" for i in range(300)]}
    shown = [look(model(a), ids, title=a, labels=words) for a in ("local", "reformer")]
    Page(shown).write(path)
    return path


def test_a_page_of_maps(browser, maps):
    opened = Opened(browser, maps).ready()
    page, whole = opened.page, opened.pixels()
    page.click("#zoom-in")
    near = opened.pixels()
    assert near != whole
    both = opened.pixels("#map-1")
    page.click("#reset")
    assert opened.pixels() == whole
    assert opened.pixels("#map-1") != both  # the other map goes along
    page.select_option("#head-0", "2")
    assert opened.pixels() != whole
    page.select_option("#layer-1", "1")
    page.click(".heads button[data-model='1'][data-layer='2'][data-head='3']")
    assert page.input_value("#layer-1") == "2"
    assert (
        page.get_attribute(".heads button[aria-pressed=true][data-model='1']", "data-head") == "3"
    )
    page.fill("#query", "299")
    page.dispatch_event("#query", "change")
    page.wait_for_timeout(300)
    assert "w299" in page.inner_text("#rows")
    assert page.is_visible("#buckets canvas")
    opened.alone(maps)


def test_by_keyboard(browser, maps):
    opened = Opened(browser, maps).ready()
    whole = opened.pixels()
    opened.page.focus("#map-0")
    for key in ("+", "+", "ArrowRight", "ArrowDown"):
        before = opened.pixels()
        opened.page.keyboard.press(key)
        assert opened.pixels() != before
    opened.page.keyboard.press("0")
    assert opened.pixels() == whole
    # every control comes up by the tab key
    met = set()
    opened.page.focus("#zoom-in")
    for _ in range(12):
        met.add(opened.page.evaluate("document.activeElement.id"))
        opened.page.keyboard.press("Tab")
    assert {"zoom-in", "zoom-out", "reset", "query", "contrast", "layer-0", "map-0"} <= met
    opened.alone(maps)


def test_a_cell_is_read_out(browser, maps):
    opened = Opened(browser, maps, viewport={"width": 1000, "height": 900}).ready()
    box = opened.page.locator("#map-0").bounding_box()
    opened.page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    opened.page.wait_for_timeout(200)
    said = opened.page.inner_text("figure .readout >> nth=0")
    assert said.startswith("from tokens ")
    assert " to tokens " in said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_dark_and_narrow(browser, maps, scheme):
    how = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    opened = Opened(browser, maps, **how).ready()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    shot = opened.page.screenshot()
    assert len(shot) > 10_000
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (np.array(paper[4:-1].split(","), int).mean() > 128) == (scheme == "light")
    opened.alone(maps)


def test_a_pair_on_a_phone(browser, tmp_path):
    path = tmp_path / "pair.html"
    torch.manual_seed(0)
    fields = vars(PAIRS["encoder_decoder"].PRESETS["tiny"])
    pair = build(**pair_parts("encoder_decoder", fields), vocab_size=50).eval()
    sides = {"source": torch.randint(0, 50, (1, 21)), "tokens": torch.randint(0, 50, (1, 2))}
    Page([look(pair, sides, title="pair")]).write(path)
    opened = Opened(browser, path, viewport={"width": 360, "height": 800}).ready()
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.select_option("#layer-0", label="layer 4, target to source, CrossAttention")
    page.wait_for_selector("#rows h3:has-text('layer 4, target to source, head 1')")
    # two by two, causal: above the diagonal the small picture is as empty as the matrix
    small = page.locator(".heads button[data-layer='2'] canvas").first.element_handle()
    read = """canvas => {
        const g = new OffscreenCanvas(64, 64).getContext("2d", { willReadFrequently: true });
        g.drawImage(canvas, 0, 0);
        return [[4, 60], [33, 30], [60, 4]].map(at => g.getImageData(...at, 1, 1).data.join());
    }"""
    for _ in range(100):  # until it is painted
        below, beside, far = small.evaluate(read)
        if below != far:
            break
        page.wait_for_timeout(100)
    assert below != far
    assert beside == far
    opened.alone(path)


def test_a_report(browser, tmp_path):
    path = tmp_path / "report.html"
    chart = figure(Chart("Loss", "step", "loss", [Line("training", [1, 2], [3.0, 2.0])]))
    path.write_text(document("Run <x>", chart), encoding="utf-8")
    opened = Opened(browser, path, viewport={"width": 390, "height": 800})
    assert opened.page.is_visible("figure svg")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.alone(path)
