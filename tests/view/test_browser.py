"""The page in a real browser: silent, offline, and nothing in it runs but our own script."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.view.synthetic import HOSTILE, hostile, realistic
from visit_tl.view.attention import attention
from visit_tl.view.labels import visible
from visit_tl.view.layout import layout
from visit_tl.view.notebook import notebook_html
from visit_tl.view.page import page
from visit_tl.view.sankey import sankey

pytestmark = pytest.mark.browser

SHOTS = Path(__file__).parents[1] / "screenshots"
SIZES = {"1280x720": (1280, 720), "1920x1080": (1920, 1080)}
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed; CHROMIUM=/path/to/it names one")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=list(QUIET))
        yield opened
        opened.close()


class Tab:
    """A file opened in the browser, with all that it said and asked for."""

    def __init__(self, browser, path, size=(1280, 720)):
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message) or dialog.dismiss())
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#figure[data-layers]")
        # Plotly fades links and nodes in over half a second.
        self.page.wait_for_timeout(700)

    def silent(self, path):
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("data:", "blob:"))] == [
            path.as_uri()
        ]

    def point_at(self, words):
        """Put the mouse on the node or link whose hover starts so."""
        spot = self.page.evaluate(
            """words => {
              const frame = document.getElementById("frame");
              const all = [...document.querySelectorAll(".sankey-node, .sankey-link")];
              const element = all.find(e => {
                const d = e.__data__, name = x => x.customdata[0].split(" · ")[0];
                return words === (d.link ? name(d.link.source) + " → " + name(d.link.target)
                                         : name(d.node));
              });
              element.scrollIntoView({block: "center", inline: "center"});
              const link = element.__data__.link;
              if (!link) {
                const box = element.querySelector("rect").getBoundingClientRect();
                return [box.left + box.width / 2, box.top + box.height / 2];
              }
              const box = element.getBoundingClientRect();
              for (let x = box.left + 0.5; x < box.right; x += 1)
                for (let y = box.top + 0.5; y < box.bottom; y += 0.5)
                  if (document.elementFromPoint(x, y) === element) return [x, y];
            }""",
            words,
        )
        self.page.wait_for_timeout(100)
        self.page.mouse.move(*spot)
        self.page.mouse.move(spot[0] + 0.2, spot[1])
        return self.page.locator("#tip")


@pytest.fixture
def opened(browser, tmp_path):
    tabs = []

    def open_(text, size=(1280, 720)):
        path = tmp_path / "graph.html"
        path.write_text(text, encoding="utf-8")
        tabs.append((Tab(browser, path, size), path))
        return tabs[-1][0]

    yield open_
    for tab, path in tabs:
        tab.silent(path)
        tab.page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_opens_without_a_word_and_is_drawn(opened, theme, size):
    graph = realistic(tuple(range(6)), 6)
    tab = opened(page(graph, theme=theme), SIZES[size])
    assert tab.page.locator(".sankey-node").count() == len(graph.subgraph([4, 5])) + 2
    SHOTS.mkdir(exist_ok=True)
    tab.page.screenshot(path=SHOTS / f"page-{theme}-{size}.png")


def test_plotly_draws_what_the_layout_says(opened):
    graph = realistic()
    place = layout(graph)
    tab = opened(page(graph))
    drawn = tab.page.evaluate(
        """() => {
          const top = document.querySelector(".sankey").getBoundingClientRect();
          const at = document.querySelector("#figure").getBoundingClientRect();
          return [...document.querySelectorAll(".sankey-node")].map(e => {
            const box = e.querySelector("rect").getBoundingClientRect();
            return [e.__data__.node.customdata[0].split(" · ")[0],
                    box.left - at.left, box.top - at.top, box.height];
          });
        }"""
    )
    found = {name: box for name, *box in drawn if name}
    assert len(found) == len(graph)
    for name, box in place.boxes.items():
        left, top, height = found[str(name)]
        assert left == pytest.approx(box.left, abs=0.1)
        assert top - 46 == pytest.approx(box.top, abs=0.1)
        assert height == pytest.approx(box.height, abs=0.1)


def test_labels_of_a_column_do_not_overlap_and_are_of_readable_size(opened):
    tab = opened(page(realistic()))
    labels = tab.page.evaluate(
        """() => [...document.querySelectorAll(".node-label, .annotation-text, header *, nav *")]
          .filter(e => e.textContent.trim())
          .map(e => {
            const box = e.getBoundingClientRect();
            return [e.getAttribute("class"), parseFloat(getComputedStyle(e).fontSize),
                    box.left, box.right, box.top, box.bottom];
          })"""
    )
    assert min(size for _, size, *_ in labels) >= 12
    nodes = [box for name, _, *box in labels if name == "node-label"]
    for i, (left, right, top, bottom) in enumerate(nodes):
        for other in nodes[:i]:
            across = min(right, other[1]) - max(left, other[0])
            down = min(bottom, other[3]) - max(top, other[2])
            # A line box is taller than its letters: 3 px of it may be shared.
            assert across < 0.5 or down < 3


def test_hovering_tells_what_a_node_and_an_edge_know(opened):
    graph = realistic()
    tab = opened(page(graph))
    head = graph["L2H3"]
    tip = tab.point_at("L2H3")
    assert tip.is_visible()
    text = tip.inner_text()
    assert text.startswith("L2H3 · output of head 3, after W_O\ntop: ")
    for fact in (
        f"target ␣the: rank {head.rank} of 0..999, p = {head.prob:.3g}",
        f"norm {head.norm:.3g} · entropy {head.entropy:.3g} nats",
        "blocks.0.hook_resid_pre[0, 3]",
    ):
        assert fact in text
    box = tip.bounding_box()
    assert 0 <= box["x"] < box["x"] + box["width"] <= 1280
    assert 0 <= box["y"] < box["y"] + box["height"] <= 720
    edge = graph.edges_into("L2H3")[0]
    text = tab.point_at(f"{edge.source} → L2H3").inner_text()
    assert text.startswith(f"{edge.source} · memory value of position")
    assert "→ L2H3 · output of head 3" in text
    assert text.endswith(f"attention {edge.score:.3g}")
    tab.page.mouse.move(5, 5)
    assert not tab.page.locator("#tip").is_visible()


def test_hostile_tokens_are_shown_and_never_run(opened):
    tab = opened(page(hostile()))
    isolates = dict.fromkeys((0x2068, 0x2069))
    labels = "\n".join(tab.page.locator(".node-label").all_text_contents()).translate(isolates)
    chips = tab.page.locator(".token bdi").all_text_contents()
    assert chips == [visible(token) for token in HOSTILE]
    for token in HOSTILE:
        assert visible(token, 12) in labels
    assert tab.page.locator("img, #figure a[href], script[src]").count() == 0
    head = hostile()["L1H0"]
    text = tab.point_at("L1H0").inner_text().translate(isolates)
    for read in (*head.top, *head.bottom):
        assert visible(read.token) in text.replace("\n    ", "")
    tab.page.locator("summary").nth(0).click()
    tab.page.locator("summary").nth(1).click()
    assert "</script><img␣src=x␣onerror=alert(1)>" in tab.page.locator("#text pre").inner_text()
    SHOTS.mkdir(exist_ok=True)
    tab.page.screenshot(path=SHOTS / "hostile.png")


def test_all_layers_are_reached_by_the_control(opened):
    tab = opened(page(realistic(tuple(range(5)), 5)))
    figure = tab.page.locator("#figure")
    assert figure.get_attribute("data-layers") == "layers 3..4"
    assert tab.page.locator("#later").is_disabled()
    seen = []
    for expected in ("layers 1..2", "layer 0"):
        tab.page.locator("#earlier").click()
        tab.page.wait_for_selector(f"#figure[data-layers='{expected}']")
        seen += tab.page.evaluate(
            "() => [...document.querySelectorAll('.annotation-text')].map(e => e.textContent)"
        )
    assert {"block 0", "block 1", "block 2"} <= set(seen)
    assert tab.page.locator("#earlier").is_disabled()
    tab.page.select_option("#layers", "2")
    tab.page.wait_for_selector("#figure[data-layers='layers 3..4']")
    assert "L4H0" in tab.point_at("L4H0").inner_text()


def test_the_notebook_frame_is_drawn_inside_another_page(browser, tmp_path):
    path = tmp_path / "cell.html"
    frame = notebook_html(realistic())
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}", encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 950})
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    inner = tab.frame_locator("iframe")
    inner.locator("#figure[data-layers]").wait_for()
    assert inner.locator(".sankey-node").count() == len(realistic()) + 2
    assert said == []
    tab.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_by_itself_has_title_legend_and_hover(browser, tmp_path, theme):
    figure = sankey(hostile(), theme=theme)
    path = tmp_path / "figure.html"
    figure.write_html(path, include_plotlyjs="inline")
    tab = browser.new_page(viewport={"width": 1920, "height": 760})
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    tab.goto(path.as_uri())
    tab.wait_for_selector(".sankey-node")
    tab.wait_for_timeout(700)
    title = tab.locator(".gtitle").text_content()
    assert "target </script><img␣src=x␣onerror=alert(1)> (given)" in title
    node = tab.locator(".sankey-node").nth(1)
    box = node.locator("rect").bounding_box()
    tab.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2)
    tab.wait_for_selector(".hovertext")
    assert "L0.attn_in" in tab.locator(".hovertext").first.text_content()
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"figure-{theme}.png")
    assert said == []
    tab.close()


def test_attention_of_heads_is_drawn_without_a_network_whatever_the_tokens(browser, tmp_path):
    n = len(HOSTILE)
    patterns = np.tril(np.random.default_rng(0).random((2, n, n)))
    view = attention(
        patterns / patterns.sum(-1, keepdims=True), HOSTILE, ["L0H1", "<b>"], title="x"
    )
    for name, html in (
        ("page", view.html),
        ("cell", f"<!doctype html><meta charset=utf-8>{view._repr_html_()}"),
    ):
        path = tmp_path / f"{name}.html"
        path.write_text(html, encoding="utf-8", errors="backslashreplace")
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        said, asked = [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("dialog", lambda dialog, said=said: said.append("dialog") or dialog.dismiss())
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        frame = page.main_frame if name == "page" else page.main_frame.child_frames[0]
        frame.wait_for_selector("canvas, svg")
        frame.wait_for_function("document.body.innerText.includes('Head Selector')")
        assert said == []
        assert [url for url in asked if url.startswith("http")] == []
        assert frame.locator("img").count() == frame.locator("img[src^='data:']").count()
        page.close()
