"""A tab with the explorer, and what a person does with it."""

from __future__ import annotations

from tests.view.browsing import SHOTS

_PLACE = """name => {
  const model = readPayload(JSON.parse(document.getElementById("data").textContent));
  const figure = document.getElementById("figure"), depth = model.depths[figure.dataset.depth];
  const [x, y] = nodeMiddle(depth, depth.slot[model.byName.get(name)]);
  const place = figure.querySelector("svg").dataset.place.split(" ");
  const [left, top, x0, y0, sx, sy] = place.map(Number);
  return [left + (x - x0) * sx, top + (y - y0) * sy];
}"""


class Look:
    """The explorer in a tab, with all that it said and asked for."""

    def __init__(self, browser, address, fragment="", size=(1280, 800), scheme="light"):
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.said, self.asked, self._moves = [], [], 0
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message) or dialog.dismiss())
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.origin = address.partition("/?")[0]
        self.page.goto(address)
        if fragment:
            self.page.goto(f"{self.origin}/{fragment}")
            self.page.reload()
        self.page.wait_for_selector("textarea.prompt")

    @property
    def runs(self):
        """How many runs have come to their end."""
        return int(self.page.locator(".visit-explorer").get_attribute("data-runs") or 0)

    def until(self, holds, what="it"):
        """Wait; Playwright's own polling is what the page's policy forbids."""
        for _ in range(600):
            if holds():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{what} never was: {self.status}")

    def rests(self, read):
        """What is read, once it stays the same: a frame draws again when its size changed."""
        before, now = None, read()
        while now != before:
            self.page.wait_for_timeout(100)
            before, now = now, read()
        return now

    @property
    def status(self):
        return self.page.locator(".status").text_content()

    def done(self, act):
        """Do something, and wait for the run that it begins, pictures and all."""
        before = self.runs
        act()
        self.until(lambda: self.runs > before, "the end of the run")
        self.until(lambda: self.page.locator("iframe.coming").count() == 0, "the last picture")

    def run(self, prompt):
        self.page.fill("textarea.prompt", prompt)
        self.done(lambda: self.page.press("textarea.prompt", "Enter"))

    def open(self, name):
        tab = self.page.get_by_role("button", name=name, exact=True)
        if tab.get_attribute("aria-expanded") == "false":
            tab.click()
            self.until(lambda: self.points_at(self.panel), "a panel under the mouse")

    def change(self):
        """Change the chosen node as the open panel says, and wait for the run."""
        self.done(lambda: self.panel.get_by_role("button", name="Change it").click())

    def put_beside(self, prompt):
        """Put another prompt beside the picture, in the open panel, and wait for both."""
        self.panel.get_by_label("second prompt").fill(prompt)
        button = self.panel.get_by_role("button", name="Put this prompt beside it")
        self.done(button.click)

    def points_at(self, place):
        """Move the mouse to a place; whether the browser takes it to be there.

        A frame has a process of its own. When it becomes narrower, the browser gives clicks beside
        it to the frame until that process has drawn again, later than layout and screenshots show.
        """
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        self._moves += 1
        self.page.mouse.move(box["x"] + 5 + self._moves % 2, box["y"] + box["height"] / 2)
        return place.evaluate("element => element.matches(':hover')")

    def frame(self, slot=0):
        handle = self.page.locator(".slot").nth(slot).locator("iframe").element_handle()
        return handle.content_frame()

    def choose(self, node, slot=0):
        """Find a node in the picture."""
        frame = self.frame(slot)
        frame.locator("#search").fill(node)
        frame.locator("#search").press("Enter")
        self.until(lambda: self.chosen(slot) == node, node)

    def click(self, node, slot=0):
        """Click on a node of the picture."""
        frame = self.frame(slot)
        frame.locator("label", has_text="Everything").first.click()
        frame.wait_for_selector("#figure[data-depth=everything]")
        x, y = self.rests(lambda: frame.evaluate(_PLACE, node))
        frame.locator("#figure").click(position={"x": x, "y": y})
        self.until(lambda: self.chosen(slot) == node, node)

    def chosen(self, slot=0):
        found = self.frame(slot).locator("#panel h2 .id")
        return found.text_content() if found.count() else None

    @property
    def panel(self):
        return self.page.locator("aside.panel")

    def shot(self, name):
        SHOTS.mkdir(exist_ok=True)
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=SHOTS / f"explorer-{name}.png")

    def close(self):
        """Close the tab; it must have been silent and have asked nobody else."""
        assert self.said == []
        others = [u for u in self.asked if not u.startswith((self.origin, "blob:", "data:"))]
        assert others == []
        self.context.close()
