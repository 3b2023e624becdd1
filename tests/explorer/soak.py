"""Random interactions in several tabs of the explorer, for a while: no error, bounded memory.

    python -m tests.explorer.soak --interactions 200 --tabs 4 --seconds 300 [--model smollm2-135m]

Prints what was done, the memory of the server at the beginning and at the end, and every error.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.explorer.looking import Look
from tests.view.browsing import QUIET

TEXT = "The capital of Japan is a city where Mary and John went"
WORDS = {"tiny": [*"abcde"], "other": TEXT.split()}

SERVER = """
import sys, threading
import visit_tl as vt
if sys.argv[1] == "tiny":
    from tests import tiny
    model = tiny.native()
else:
    model = vt.load_model(sys.argv[1], verbose=False)
with vt.explore(model, browser=False) as explorer:
    for line in sys.stdin:
        print(explorer.address, flush=True)
"""


class Server:
    """The explorer in a process of its own; a line in gives an address out."""

    def __init__(self, model="tiny"):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, model],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def address(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    @property
    def memory(self):
        """MB that are resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if "VmRSS" in line) / 1024

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class Person:
    """Somebody at one tab who does one thing or another."""

    def __init__(self, look, draw, words):
        self.look, self.draw, self.words = look, draw, words
        self.done: dict[str, int] = {}

    def act(self):
        names = ["type", "type", "change", "undo", "redo", "ask", "compare", "panel", "theme",
                 "keep", "depth", "again", "hasty"]  # fmt: skip
        name = self.draw.choice(names)
        getattr(self, f"_{name}")()
        self.done[name] = self.done.get(name, 0) + 1

    def settle(self):
        self.look.until(lambda: not self.look.page.locator("progress").is_visible(), "an end")
        self.look.until(lambda: self.look.page.locator("iframe.coming").count() == 0, "a picture")

    def _prompt(self):
        return " ".join(self.draw.choices(self.words, k=self.draw.randint(3, 8)))

    def _type(self):
        self.look.page.fill("textarea.prompt", self._prompt())
        self.look.page.press("textarea.prompt", "Enter")
        self.settle()

    def _hasty(self):
        for _ in range(3):
            self.look.page.fill("textarea.prompt", self._prompt())
            self.look.page.press("textarea.prompt", "Enter")
            self.look.page.wait_for_timeout(self.draw.randint(20, 300))
        self.settle()

    def _change(self):
        if not self.look.page.locator(".slot:visible iframe").count():
            return self._type()
        self.look.open("Change")
        self.look.choose(f"L{self.draw.randint(0, 1)}.mlp_out")
        self.look.panel.get_by_label("what is done").select_option(
            self.draw.choice(["zero", "scale"])
        )
        add = self.look.panel.get_by_role("button", name="Change it")
        if add.is_enabled():
            add.click()
        return self.settle()

    def _step(self, name):
        button = self.look.page.get_by_role("button", name=name, exact=True)
        if button.is_enabled():
            button.click()
        self.settle()

    def _undo(self):
        self._step("Undo")

    def _redo(self):
        self._step("Redo")

    def _ask(self):
        self.look.open("Ask")
        names = ["Where did it come from?", "What would lower the loss?"]
        if self.look.page.locator(".slot:visible iframe").count():
            self.look.panel.get_by_role("button", name=self.draw.choice(names)).click()
            answer = self.look.panel.locator(".answer")
            self.look.until(lambda: answer.locator("table, .bad").count() > 0, "an answer")

    def _compare(self):
        self.look.open("Compare")
        self.look.panel.get_by_label("second prompt").fill(self._prompt())
        self.look.panel.get_by_role("button", name="Put this prompt beside it").click()
        self.settle()

    def _panel(self):
        self.look.page.locator("[data-panel]").nth(self.draw.randint(0, 4)).click()

    def _theme(self):
        self.look.page.locator("nav button").last.click()

    def _keep(self):
        if self.look.page.locator(".slot:visible iframe").count():
            self.look.open("Keep")
            self.look.panel.get_by_role("button", name="Python", exact=True).click()
            told = self.look.panel.locator("[role=status]")
            self.look.until(lambda: told.text_content() not in ("", "writing …"), "a file")
            if told.text_content() != "done":
                self.look.said.append(f"keep: {told.text_content()}")

    def _depth(self):
        if self.look.page.locator(".slot:visible iframe").count():
            names = ["Route", "Blocks", "Everything"]
            frame = self.look.frame()
            frame.locator("label", has_text=self.draw.choice(names)).first.click()

    def _again(self):
        self.look.page.reload()
        self.look.page.wait_for_selector("textarea.prompt")
        self.look.until(lambda: self.look.runs or self.look.status.startswith("Type"), "a start")
        self.settle()


def soak(browser, server, interactions, tabs, seconds, words, seed=0):
    """Returns what was done, the memory after each tenth of it, and the errors."""
    draw = random.Random(seed)
    people = [Person(Look(browser, server.address()), draw, words) for _ in range(tabs)]
    began, memory = time.monotonic(), []
    for i in range(interactions):
        if i % max(interactions // 10, 1) == 0:
            memory.append(server.memory)
        draw.choice(people).act()
        # Spread over the whole time, as people do.
        ahead = seconds * (i + 1) / interactions - (time.monotonic() - began)
        if ahead > 0:
            people[0].look.page.wait_for_timeout(1000 * ahead)
    memory.append(server.memory)
    # A stream that was cancelled is told by the browser, and is no error.
    errors = [said for one in people for said in one.look.said if "503" not in said]
    done: dict[str, int] = {}
    for one in people:
        for name, n in one.done.items():
            done[name] = done.get(name, 0) + n
        one.look.context.close()
    return done, memory, errors


def main():
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", type=int, default=200)
    parser.add_argument("--tabs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with Server(asked.model) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(QUIET))
        words = WORDS["tiny" if asked.model == "tiny" else "other"]
        began = time.monotonic()
        done, memory, errors = soak(
            browser, server, asked.interactions, asked.tabs, asked.seconds, words, asked.seed
        )
        browser.close()
    print(f"{sum(done.values())} interactions in {time.monotonic() - began:.0f} s: {done}")
    print("MB of the server:", " ".join(f"{m:.0f}" for m in memory))
    print(f"{len(errors)} errors", *errors[:20], sep="\n")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
