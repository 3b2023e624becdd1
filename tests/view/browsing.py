"""A page in a browser, and what a person does with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SHOTS = Path(__file__).parents[1] / "screenshots"
SIZES = {"1280x720": (1280, 720), "1920x1080": (1920, 1080)}
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

# Where the page drew a node, worked out as a reader of the picture would: from its place and scale.
_PLACE = """name => {
  const model = window.tested || (window.tested = readPayload(
    JSON.parse(document.getElementById("data").textContent)));
  const figure = document.getElementById("figure"), box = figure.getBoundingClientRect();
  const depth = model.depths[figure.dataset.depth], node = model.byName.get(name);
  const slot = depth.slot[node], [x, y] = nodeMiddle(depth, slot);
  const place = figure.querySelector("svg").dataset.place.split(" ");
  const [left, top, x0, y0, sx, sy] = place.map(Number);
  return [box.left + left + (x - x0) * sx, box.top + top + (y - y0) * sy];
}"""


def chromium():
    """The program to test with; the test is skipped, with the reason, where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed; CHROMIUM=/path/to/it names one")
    return found


class Tab:
    """A file opened in the browser, with all that it said and asked for."""

    def __init__(self, browser, path, size=(1280, 720), fragment=""):
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message) or dialog.dismiss())
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri() + fragment)
        self.page.wait_for_selector("#figure[data-drawn]")

    def silent(self, path):
        assert self.said == []
        asked = [url.partition("#")[0] for url in self.asked]
        asked = [url for url in asked if not url.startswith(("data:", "blob:"))]
        assert set(asked) == {path.as_uri()}

    def place(self, name):
        """Where a node stands on the screen, in px."""
        return self.page.evaluate(_PLACE, name)

    def click(self, name):
        """Click on a node of the picture."""
        self.page.mouse.click(*self.place(name))

    def hover(self, x, y):
        self.page.mouse.move(x, y)
        self.page.mouse.move(x + 0.3, y)
        return self.page.locator("#tip")

    @property
    def chosen(self):
        """The id that the panel is about; None while it is about none."""
        found = self.page.locator("#panel h2 .id")
        return found.text_content() if found.count() else None

    def part(self, name):
        """A part of the panel."""
        return self.page.locator(f"#panel [data-part={name}]")

    def depth(self, name):
        self.page.locator("#bar label", has_text=name).first.click()

    def until(self, expression):
        """Wait for it. Playwright's own polling is what the page's policy forbids."""
        for _ in range(100):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"it never was: {expression}")

    def counts(self):
        """Hidden and all nodes, hidden and all edges, as the page says them."""
        words = self.page.locator("#counts").text_content().split()
        return [int(word) for word in words if word.isdigit()]

    def labels(self):
        """The texts in the figure."""
        return self.page.evaluate(
            "() => [...document.querySelectorAll('#figure .labels text')].map(e => e.textContent)"
        )

    def shot(self, name):
        SHOTS.mkdir(exist_ok=True)
        self.page.mouse.move(1, 1)
        self.page.screenshot(path=SHOTS / f"{name}.png")
