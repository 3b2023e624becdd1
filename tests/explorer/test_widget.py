"""The widget of notebooks: the same session, spoken with by messages."""

import threading

import pytest

anywidget = pytest.importorskip("anywidget", reason="the extra explore is not installed")

import visit_tl as vt
from tests.explorer.conftest import PROMPT
from tests.explorer.looking import Look
from visit_tl.explorer.asset_files import script, style, widget_script
from visit_tl.explorer.widget import ExplorerWidget


class Kernel:
    """A widget, and what it sends."""

    def __init__(self, session, monkeypatch):
        self.sent, self.ended = [], threading.Event()
        monkeypatch.setattr(ExplorerWidget, "send", self.send)
        self.widget = ExplorerWidget(session)

    def send(self, content, buffers=None):
        self.sent.append((content, buffers))
        if content["event"].get("stage") == "end":
            self.ended.set()

    def ask(self, **message):
        self.sent.clear()
        self.ended.clear()
        self.widget._hear(None, message, message.pop("buffers", []))
        return self.sent

    def events(self, **message):
        self.ask(**message)
        assert self.ended.wait(60)
        return [content["event"] for content, _ in self.sent]


@pytest.fixture
def kernel(session, monkeypatch):
    made = Kernel(session, monkeypatch)
    yield made
    made.widget.close()


def test_the_widget_answers_as_the_server_does(kernel, session):
    ((content, _),) = kernel.ask(id=1, call="about")
    assert content == {"id": 1, "event": session.about()}
    runs = {"runs": [{"prompt": PROMPT}]}
    events = kernel.events(id=2, call="run", owner="abcdefgh", data=runs)
    assert [e["stage"] for e in events][-2:] == ["whole", "end"]
    ((_, (page,)),) = kernel.ask(id=3, call="picture", data={"key": events[-2]["picture"]})
    assert page.startswith(b"<!doctype html>") and b"FRAMED" in page
    ((content, (graph,)),) = kernel.ask(id=4, call="keep", data={"form": "json", **runs})
    assert content["event"]["name"] == "graph.json"
    ((content, _),) = kernel.ask(id=5, call="open", buffers=[graph])
    assert content["event"]["request"]["saved"]
    answer = kernel.events(
        id=6, call="ask", owner="abcdefgh-ask", data={"what": "lower", "run": {"prompt": PROMPT}}
    )
    assert answer[0]["stage"] == "answer"


def test_what_it_refuses_comes_back_in_words(kernel):
    ((content, _),) = kernel.ask(id=1, call="tokens", data={"prompt": 3})
    assert content["event"]["stage"] == "refused" and "prompt" in content["event"]["why"]
    assert [c["event"]["stage"] for c, _ in kernel.ask(id=2, call="run", data=7)] == [
        "refused", "end"]  # fmt: skip
    assert kernel.ask(id=3, call="eval") == [] and kernel.ask(id="x", call="about") == []


def test_a_notebook_gets_the_widget_and_no_server(session, monkeypatch):
    from visit_tl.explorer import start

    monkeypatch.setattr(start, "_in_notebook", lambda: True)
    monkeypatch.setattr(start, "Explorer", None)
    made = vt.explore(session.views[0].model, PROMPT)
    assert isinstance(made, ExplorerWidget) and made.session.prompt == PROMPT
    made.close()


@pytest.mark.browser
def test_the_module_draws_the_same_page(browser, explorer, session):
    """The module in a page, its messages answered by the session over a bridge of the test."""
    look = Look(browser, explorer.address)
    assert "export default" in widget_script() and script()[14:] in widget_script()
    page = look.context.new_page()
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    sent = []
    widget = ExplorerWidget(session)

    def answer(message):
        sent.clear()
        ended = threading.Event()

        def send(content, buffers=None):
            body = bytes(buffers[0]).decode() if buffers else None
            sent.append([content, body])
            if content["event"].get("stage") == "end":
                ended.set()

        widget.send = send
        widget._hear(None, message, [])
        if message["call"] in ("run", "ask"):
            assert ended.wait(60)
        return list(sent)

    page.expose_function("answer", answer)
    page.set_content("<div id=cell></div>")
    page.evaluate(
        """async source => {
          const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
          const module = await import(url), listeners = [];
          const model = {
            on: (name, listen) => listeners.push(listen),
            send: async message => {
              for (const [content, body] of await window.answer(message)) {
                const text = body === null ? [] : [new TextEncoder().encode(body).buffer];
                const bytes = text.map(one => new DataView(one));
                for (const listen of listeners) listen(content, bytes);
              }
            },
          };
          module.default.render({ model, el: document.getElementById("cell") });
        }""",
        widget_script(),
    )
    page.add_style_tag(content=style())
    page.wait_for_selector("textarea.prompt")
    # A notebook runs the cell again at Shift and Enter, where it hears them.
    page.evaluate("document.addEventListener('keydown', event => (window.heard = event.key))")
    page.fill("textarea.prompt", "a b")
    page.press("textarea.prompt", "Shift+Enter")
    assert page.locator("textarea.prompt").input_value() == "a b\n"
    page.fill("textarea.prompt", PROMPT)
    page.press("textarea.prompt", "Enter")
    page.wait_for_selector(".slot[data-shown] iframe:not(.coming)", timeout=60000)
    frame = page.locator(".slot iframe").first.element_handle().content_frame()
    frame.wait_for_selector("#figure[data-drawn]")
    page.get_by_role("button", name="Options").press("Control+z")
    look.until(lambda: page.locator(".status").text_content().startswith("Type a"), "the start")
    assert page.evaluate("window.heard") is None
    assert said == []
    widget._jobs.close()
    look.close()
