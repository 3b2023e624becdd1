"""The explorer in a real browser: typed, changed, asked, compared and kept."""

from __future__ import annotations

import json

import pytest

import visit_tl as vt
from tests.explorer.conftest import PROMPT
from tests.explorer.looking import Look

pytestmark = pytest.mark.browser


@pytest.fixture
def look(browser, explorer):
    tabs = []

    def open_(fragment="", size=(1280, 800), scheme="light"):
        tabs.append(Look(browser, explorer.address, fragment, size, scheme))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.close()


def test_a_prompt_is_typed_and_seen_in_stages(look, session):
    tab = look()
    tab.page.fill("textarea.prompt", PROMPT)
    tab.until(lambda: tab.page.locator(".chips.typed .chip").count() == 5, "the tokens")
    assert tab.page.locator(".chips.typed .chip").all_text_contents()[1:3] == ["a1", "␣b2"]
    tab.done(lambda: tab.page.press("textarea.prompt", "Enter"))
    graph = vt.flow_graph(session.views[0].model, PROMPT)
    assert f"{len(graph)} nodes" in tab.status
    assert not tab.page.locator(".chips.typed").is_visible()
    assert tab.frame().locator("#figure").get_attribute("data-drawn")
    tab.page.get_by_role("button", name="States").click()
    assert tab.page.locator(".grid tbody tr").count() == 3
    tab.shot("states")


def test_nothing_moves_when_the_tokens_come_after_the_run(look):
    # A click that was aimed before would miss.
    tab, held = look(), []
    tab.open("Compare")
    tab.page.fill("textarea.prompt", PROMPT)
    tab.until(lambda: tab.page.locator(".chips.typed .chip").count() == 5, "the tokens")
    tab.page.route("**/api/tokens", lambda route: held.append(route))
    tab.done(lambda: tab.page.press("textarea.prompt", "Enter"))
    tab.until(lambda: held, "the question for tokens")
    button = tab.panel.get_by_role("button", name="Put this prompt beside it")
    before = button.bounding_box()
    with tab.page.expect_response("**/api/tokens"):
        for route in held:
            route.continue_()
    tab.page.wait_for_timeout(100)
    assert button.bounding_box() == before


def test_options_are_taken_and_refusals_stand_in_the_status(look):
    tab = look()
    tab.page.get_by_role("button", name="Options").click()
    tab.page.get_by_label("target").fill(" c")
    tab.page.get_by_label("position").fill("3")
    tab.run(PROMPT)
    assert "␣c" in tab.page.locator(".says").first.text_content()
    assert tab.page.locator(".chip.here").text_content() == "␣c3"
    tab.page.get_by_label("target").fill("a b")
    tab.done(lambda: tab.page.press("textarea.prompt", "Enter"))
    assert "is 2 tokens" in tab.status
    assert tab.page.locator(".status.bad").count() == 1


def test_a_node_is_changed_and_the_patched_run_stands_beside_it(look, session):
    tab = look()
    tab.run(PROMPT)
    tab.open("Change")
    tab.click("L1H1")
    assert "L1H1" in tab.panel.locator(".what").text_content()
    tab.change()
    assert tab.page.locator(".slot:visible").count() == 2
    assert "measured" in tab.panel.locator(".effect").text_content()
    assert "Changed rank" in tab.panel.locator(".differs").text_content()
    clean = vt.flow_graph(session.views[0].model, PROMPT)
    metric = vt.causal.log_probability(clean.target_id)
    effect = vt.causal.effects(
        session.views[0].model, PROMPT, metric, nodes=["L1H1"], how="zero", verbose=False
    )["L1H1"].value
    told = tab.panel.locator(".stack .value").text_content()
    assert float(told) == pytest.approx(effect, rel=0.01)
    tab.until(lambda: "effect" in (tab.frame().locator("#panel").text_content() or ""), "effect")
    # A second change, on top; then both undone by the history.
    tab.choose("L0H2")
    tab.panel.get_by_label("what is done").select_option("scale")
    tab.panel.get_by_label("factor").fill("3")
    tab.change()
    assert tab.panel.locator(".stack .value").count() == 2
    tab.shot("change")
    for left in (1, 0):
        tab.done(lambda: tab.page.get_by_role("button", name="Undo", exact=True).click())
        assert tab.panel.locator(".stack .value").count() == left
    assert tab.page.locator(".slot:visible").count() == 1
    tab.done(lambda: tab.page.get_by_role("button", name="Redo", exact=True).click())
    assert tab.panel.locator(".stack .value").count() == 1


def test_pictures_side_by_side_are_linked(look):
    tab = look()
    tab.run(PROMPT)
    tab.open("Compare")
    tab.put_beside("b a d c")
    tab.choose("L1H2")
    tab.until(lambda: tab.chosen(1) == "L1H2", "the same node in the second picture")
    tab.shot("compare-prompts")
    tab.done(lambda: tab.panel.get_by_role("button", name="Put the other model").click())
    assert tab.page.locator(".slot").nth(1).locator("h2").text_content() == "gpt2"
    assert "nodes changed" in tab.panel.locator(".differs").text_content()
    tab.panel.get_by_label("segments of the second").fill("0:3")
    tab.done(lambda: tab.panel.get_by_role("button", name="Put this mask beside it").click())
    assert "segments 0:3" in tab.page.locator(".slot").nth(1).text_content()


def test_what_was_typed_and_not_run_is_run_with_what_is_put_beside_it(look):
    tab = look()
    tab.run(PROMPT)
    tab.page.get_by_role("button", name="Options").click()
    tab.page.get_by_label("target").fill(" c")
    tab.page.get_by_label("position").fill("3")
    tab.open("Compare")
    tab.put_beside("b a d c")
    assert tab.page.get_by_label("target").input_value() == " c"
    assert tab.page.locator(".chip.here").all_text_contents() == ["␣c3", "␣d3"]
    assert "target ␣c: rank" in tab.page.locator(".says").nth(1).text_content()


def test_a_head_that_is_set_to_zero_is_said_to_say_nothing(look):
    tab = look()
    tab.run(PROMPT)
    tab.open("Change")
    tab.choose("L1H1")
    tab.change()
    tab.choose("L1H1", slot=1)
    said = tab.frame(1).locator("#panel").text_content()
    assert "⟨zero⟩" in said and "A vector of zeros" in said
    row = tab.panel.locator(".differs tr", has_text="L1H1")
    assert row.locator("td").nth(3).text_content() == "⟨zero⟩"
    tab.shot("zeroed")


def test_questions_are_answered_in_their_panel(look):
    tab = look()
    tab.run(PROMPT)
    tab.open("Ask")
    tab.choose("L1H2")
    for name, words in (
        ("Why did it look there?", "Why did L1H2 look at"),
        ("Where did it come from?", "Where did L1H2 come from?"),
        ("What would lower the loss?", "What would lower the loss of"),
        ("Is it this circuit?", "layers x"),
    ):
        tab.panel.get_by_role("button", name=name).click()
        tab.until(lambda w=words: w in tab.panel.locator(".answer").text_content(), words)
    tab.panel.get_by_role("button", name="Why did it look there?").click()
    tab.until(lambda: tab.panel.locator(".answer table").count() == 1, "the answer")
    tab.shot("ask")


def test_files_are_kept_and_opened_again(look, tmp_path):
    tab = look()
    tab.run(PROMPT)
    tab.open("Keep")
    begins = {
        "Page (HTML)": b"<!doctype html>", "Graph (JSON)": b'{"schema"', "Picture (SVG)": b"<svg",
        "Picture (PNG)": b"\x89PNG", "Notebook": b"{\n", "Python": b"import visit_tl",
        "Both pictures, to share (HTML)": b"<!doctype html>",
    }  # fmt: skip
    for name, start in begins.items():
        with tab.page.expect_download() as got:
            tab.panel.get_by_role("button", name=name, exact=True).click()
        path = tmp_path / got.value.suggested_filename
        got.value.save_as(path)
        assert path.read_bytes().startswith(start), name
    graph = vt.FlowGraph.load(tmp_path / "graph.json")
    tab.done(lambda: tab.panel.locator("input[type=file]").set_input_files(tmp_path / "graph.json"))
    assert f"{len(graph)} nodes" in tab.status
    (tmp_path / "bad.json").write_text(json.dumps({"prompt": "<script>alert(1)</script>"}))
    tab.panel.locator("input[type=file]").set_input_files(tmp_path / "bad.json")
    tab.until(lambda: "schema" in tab.panel.locator("[role=status]").text_content(), "a refusal")
    tab.said[:] = [said for said in tab.said if "400" not in said]


def test_a_graph_from_a_file_is_shown_as_its_own_run_and_nothing_else(look, session, tmp_path):
    graph = vt.flow_graph(session.views[0].model, "c c b")
    graph.save(tmp_path / "old.json")
    tab = look()
    tab.run(PROMPT)
    tab.open("Keep")
    tab.done(lambda: tab.panel.locator("input[type=file]").set_input_files(tmp_path / "old.json"))
    slot = tab.page.locator(".slot").first
    assert slot.locator(".chip").all_text_contents() == ["<bos>0", "c1", "␣c2", "␣b3"]
    assert slot.locator("button.chip").count() == 0
    told = slot.locator(".says").text_content()
    assert told.startswith("a graph from a file, of native") and "predicts" not in told
    assert "holds no table of states" in slot.locator(".states").text_content()
    tab.choose("L1H1")
    for panel, names in (
        ("Change", ["Change it"]),
        (
            "Ask",
            ["Why did it look there?", "Where did it come from?", "What would lower the loss?"],
        ),
        ("Compare", ["Put this prompt beside it", "Put this mask beside it"]),
    ):
        tab.open(panel)
        assert tab.panel.get_by_text("This picture is a graph from a file").is_visible()
        for name in names:
            assert tab.panel.get_by_role("button", name=name).is_disabled(), name
    tab.done(lambda: tab.page.press("textarea.prompt", "Enter"))
    assert "predicts" in slot.locator(".says").text_content()
    assert tab.panel.get_by_role("button", name="Put this prompt beside it").is_enabled()


def test_a_picture_is_never_called_by_the_name_of_another_run(look):
    tab = look()
    tab.page.get_by_role("button", name="Options").click()
    tab.run(PROMPT)
    tab.open("Compare")
    tab.put_beside("b a d c")
    titles = tab.page.locator(".slot h2")
    assert titles.all_text_contents() == [PROMPT, "b a d c"]
    # Refused: the picture of the run before keeps its name, and the status says whose it is.
    tab.page.get_by_label("target").fill("a b")
    tab.page.fill("textarea.prompt", "d d")
    tab.done(lambda: tab.page.press("textarea.prompt", "Enter"))
    assert titles.first.text_content() == PROMPT
    assert "still that of the run before" in tab.status
    # Half refused: the second picture of the run before does not stay beside the new first one.
    tab.done(lambda: tab.page.get_by_role("button", name="Undo", exact=True).click())
    assert tab.page.locator(".slot:visible").count() == 2
    tab.panel.get_by_label("segments of the second").fill("0:99")
    tab.done(lambda: tab.panel.get_by_role("button", name="Put this mask beside it").click())
    assert "ends past the prompt" in tab.status and "run before" not in tab.status
    assert tab.page.locator(".slot:visible").count() == 1
    # Without a prompt there is no picture, and no file of one.
    tab.page.fill("textarea.prompt", "")
    tab.page.press("textarea.prompt", "Enter")
    tab.until(lambda: tab.page.locator(".slot:visible").count() == 0, "an empty page")
    tab.open("Keep")
    tab.panel.get_by_role("button", name="Graph (JSON)", exact=True).click()
    told = tab.panel.locator("[role=status]")
    tab.until(lambda: told.text_content() == "there is no picture yet", "the reason")
    tab.said[:] = [said for said in tab.said if "400" not in said]


def test_an_empty_number_is_the_usual_one_and_a_broken_one_is_refused(look):
    tab = look()
    tab.page.get_by_role("button", name="Options").click()
    tab.page.get_by_label("position").fill("")
    tab.page.get_by_label("expand").fill("")
    tab.run(PROMPT)
    assert tab.page.locator(".chip.here").text_content() == "␣d4"
    tab.page.get_by_label("position").fill("1.5")
    tab.done(lambda: tab.page.press("textarea.prompt", "Enter"))
    assert tab.status.startswith("position: Input should be a valid integer")
    tab.said[:] = [said for said in tab.said if "400" not in said]


@pytest.mark.parametrize("width", [1280, 400])
def test_tables_of_the_panel_are_read_whole(look, width):
    tab = look(size=(width, 800))
    tab.run(PROMPT)
    tab.open("Compare")
    tab.put_beside("b a d c")
    assert tab.panel.locator(".differs th").count() >= 5
    assert tab.page.evaluate(_CUT) == []
    # Long words and ranks of a real vocabulary: none is broken inside, and all have their place.
    tab.panel.locator(".differs tr:has(td)").first.evaluate(
        """row => ["L29.attn_out", "paralleled", "48807", "Bangladesh", "17256"].forEach(
          (text, i) => { row.cells[i].firstChild.textContent = text; })"""
    )
    assert tab.page.evaluate(_CUT) == []
    heights = "row => [...row.cells].map(cell => cell.firstChild.getClientRects().length)"
    assert set(tab.panel.locator(".differs tr:has(td)").first.evaluate(heights)) == {1}
    tab.open("Ask")
    tab.choose("L1H2")
    # A press right after the page was scrolled would land on the frame that was there before.
    tab.page.evaluate("scrollTo(0, 0)")
    tab.until(lambda: tab.points_at(tab.panel), "a panel under the mouse")
    for name in ("Why did it look", "Where did it come", "What would lower"):
        tab.panel.get_by_role("button", name=name).click()
        tab.until(lambda: tab.panel.locator(".answer table").count() == 1, name)
        assert tab.page.evaluate(_CUT) == [], name


_CUT = """() => [...document.querySelectorAll(".panel .wide, .panel th, .panel td")]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.className + " " + e.textContent.slice(0, 60))"""


def test_the_address_restores_everything(look):
    tab = look()
    tab.run(PROMPT)
    tab.open("Change")
    tab.choose("L1H1")
    tab.change()
    tab.page.get_by_role("button", name="Dark", exact=True).click()
    tab.until(lambda: "theme=dark" in tab.page.url and "node%3DL1H1" in tab.page.url, "the address")
    other = look("#" + tab.page.url.partition("#")[2])
    other.until(lambda: other.runs == 1 and other.page.locator("iframe.coming").count() == 0)
    assert other.page.locator("textarea.prompt").input_value() == PROMPT
    assert other.panel.locator(".stack li").count() == 1
    assert other.page.locator(".visit-explorer").get_attribute("data-theme") == "dark"
    other.until(lambda: other.chosen() == "L1H1", "the chosen node")
    tab.done(lambda: tab.page.go_back())
    assert tab.page.locator(".slot:visible").count() == 1
    hostile = look("#prompt=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&changes=[{]&layers=7&x=%")
    hostile.until(lambda: hostile.runs == 1)
    assert hostile.page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_is_named_and_can_be_read(look, width, scheme):
    tab = look(size=(width, 800), scheme=scheme)
    tab.run(PROMPT)
    tab.open("Change")
    tab.choose("L1H1")
    tab.shot(f"{width}-{scheme}")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, iframe")]
          .filter(e => !(e.textContent.trim() || e.title || e.ariaLabel || (e.labels || []).length))
          .map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert tab.page.evaluate(_CONTRAST) == []


_CONTRAST = """() => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const bad = [];
  for (const e of document.querySelectorAll(".visit-explorer *")) {
    if (!e.checkVisibility() || e.disabled || !e.textContent.trim() || e.children.length) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(e.outerHTML.slice(0, 80) + (a + 0.05) / (b + 0.05));
  }
  return bad;
}"""


def test_all_is_reached_by_the_keyboard(look):
    tab = look()
    tab.run(PROMPT)
    seen = []
    for _ in range(14):
        tab.page.keyboard.press("Tab")
        seen.append(tab.page.evaluate("document.activeElement.textContent.trim().slice(0, 8)"))
    assert {"Options", "Run", "Graph", "States"} <= set(seen), seen
    tab.page.locator("[data-panel=change]").focus()
    tab.page.keyboard.press("Enter")
    assert tab.panel.is_visible()
    tab.frame().locator("#frame").focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.until(lambda: tab.chosen() is not None, "a node chosen by an arrow key")
    tab.page.locator("h1").click()
    tab.page.keyboard.press("Control+z")
    tab.until(lambda: tab.status == "Type a prompt, and Enter.", "the state before")


def test_a_file_of_a_picture_that_was_dropped_is_made_again(look, session):
    tab = look()
    tab.run("d d a b")
    tab.open("Keep")
    for key in list(session.graphs._values):
        del session.graphs._values[key]
    with tab.page.expect_download() as got:
        tab.panel.get_by_role("button", name="Graph (JSON)", exact=True).click()
    assert vt.FlowGraph.load(got.value.path().rename(got.value.path().with_suffix(".json")))
    tab.said[:] = [said for said in tab.said if "400" not in said]
