"""Pages of graphs that say why heads looked: what they add, and that other pages are without it."""

import re
from dataclasses import replace

import pytest

from tests.view.synthetic import realistic
from tests.view.test_page import block
from visit_tl.graph.records import Reason, ScorePair
from visit_tl.view.page.asset_files import script, stylesheet
from visit_tl.view.page.document import page


def with_reasons(graph):
    """The graph with made-up reasons for one of its heads."""
    head = next(n for n in graph.of_kind("head") if n.id.position is None).id
    pairs = (ScorePair("L0H1", "embed", 1.5), ScorePair("<b>", "b_K", -0.5))
    reasons = (
        Reason(head, graph.position, 0, 3.0, 2.5, 0.1, pairs, 2.0),
        Reason(head, graph.position, 1, 2.0, None, 0.7, pairs[:1], 0.5),
    )
    return replace(graph, reasons=reasons)


GRAPH = with_reasons(realistic())


def test_a_page_without_reasons_has_nothing_of_them():
    plain = page(replace(GRAPH, reasons=()))
    assert not re.search("REASONS|reasonsAt|Why it looked|details.why|signedTrack", plain)
    assert "reasons" not in block(plain, "data")["nodes"]
    assert plain == page(realistic())


def test_the_lines_of_reasons_are_statements_of_one_line():
    whole, plain = script(reasons=True), script()
    marked = [line for line in whole.splitlines() if line.startswith("if (REASONS")]
    assert marked and all(line.endswith(";") for line in marked)
    start, end = whole.index("const REASONS"), whole.index("(function () {\nconst model")
    rest = whole[:start] + whole[end:]
    assert "\n".join(n for n in rest.splitlines() if not n.startswith("if (REASONS")) == plain
    assert stylesheet(reasons=True).startswith(stylesheet())


def test_the_page_holds_the_reasons_of_a_head_the_most_attended_key_first():
    data = block(page(GRAPH), "data")
    (found,) = data["nodes"]["reasons"].values()
    assert [reason[0] for reason in found] == [1, 0]
    key, score, capped, attention, others, pairs = found[1]
    assert (key, score, capped, attention, others) == (0, 3.0, 2.5, 0.1, 2.0)
    texts = data["texts"]
    assert [texts[pairs[0]], texts[pairs[1]], pairs[2]] == ["L0H1", "embed", 1.5]
    assert found[0][2] is None
    head = GRAPH.reasons[0].head
    assert list(data["nodes"]["reasons"]) == [str([n.id for n in GRAPH.nodes].index(head))]


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_click_on_a_head_shows_why_it_looked(browser, tmp_path, theme):
    path = tmp_path / "page.html"
    path.write_text(page(GRAPH, theme=theme), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(f"{path.as_uri()}#node={GRAPH.reasons[0].head}")
    part = tab.locator("[data-part=why]")
    part.wait_for()
    told = part.inner_text()
    assert "score 2, attention 0.7" in told and "all others" in told
    part.locator("summary").nth(1).click()
    told = part.inner_text()
    assert "2.5 after the softcap" in told and "<b>" in told
    widths = part.locator(".fill").evaluate_all("all => all.map(e => e.getBoundingClientRect())")
    assert widths and all(box["width"] > 3 and box["height"] > 3 for box in widths)
    assert errors == []
    tab.close()
