"""Pages of graphs with gradients: what they add, and that other pages are without it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.view.synthetic import HOSTILE, hostile, realistic, with_gradients
from tests.view.test_page import Reader, block, contrast
from visit_tl.escaping import visible
from visit_tl.graph.descriptions import number
from visit_tl.view.page.asset_files import script, stylesheet
from visit_tl.view.page.document import page
from visit_tl.view.page.payload import payload, to_json
from visit_tl.view.style import PALETTES

GRAPH = with_gradients(realistic())


def test_a_page_without_gradients_has_nothing_of_them():
    plain = page(realistic())
    for word in (
        "GRADIENTS",
        "gradientAt",
        "signedTrack",
        "--plus",
        ".pair",
        "data-sort",
        "reversed",
    ):
        assert word not in plain, word
    assert not {"gradient", "reversed"} & set(block(plain, "data")["nodes"])
    bare = tuple(replace(node, gradient=None, reversed=None) for node in GRAPH)
    assert page(replace(GRAPH, nodes=bare)) == plain


def test_the_lines_of_gradients_are_statements_of_one_line():
    whole, plain = script(gradients=True), script()
    assert whole.count("const GRADIENTS = true;") == 1
    marked = [line for line in whole.splitlines() if line.startswith("if (GRADIENTS")]
    assert len(marked) == 6
    assert all(line.endswith(";") for line in marked)
    # What is left, if they and their file are taken away, is the script of other pages.
    start, end = whole.index("const GRADIENTS"), whole.index("(function () {\nconst model")
    rest = whole[:start] + whole[end:]
    assert "\n".join(n for n in rest.splitlines() if not n.startswith("if (GRADIENTS")) == plain
    assert stylesheet(gradients=True).startswith(stylesheet())
    assert "innerHTML" not in whole
    assert "/**" not in whole
    assert "</script" not in whole


def test_it_carries_the_numbers_and_the_words():
    data = block(page(GRAPH), "data")
    nodes, texts = data["nodes"], data["texts"]
    assert len(nodes["gradient"]) == sum(node.gradient is not None for node in GRAPH)
    for i, node in enumerate(GRAPH):
        found, back = nodes["gradient"].get(str(i)), nodes["reversed"].get(str(i))
        if node.gradient is None:
            assert found is None
            continue
        norm, rank, top, bottom = found
        assert norm == pytest.approx(node.gradient.norm, rel=0.006)
        assert rank == (-1 if node.gradient.rank is None else node.gradient.rank)
        for flat, reads in ((top, node.gradient.top), (bottom, node.gradient.bottom)):
            assert [texts[t] for t in flat[::2]] == [visible(read.token) for read in reads]
        if node.reversed is not None:
            assert back[0] == pytest.approx(node.reversed.norm, rel=0.006)
            assert back[1] == pytest.approx(node.reversed.row, rel=0.06)


def test_the_table_of_heads_ends_with_what_was_measured():
    text = page(GRAPH)
    heads = re.search(r'<details id="heads".*?</details>', text, re.S)[0]
    columns = [re.sub("<.*?>", "", th) for th in re.findall(r"<th[ >].*?</th>", heads)]
    assert columns[-5:] == [
        "looks at",
        "gradient norm",
        "rank of target in it",
        "a step down it adds",
        "reversed attention",
    ]
    own = GRAPH["L1H2"]
    row = next(r for r in re.findall("<tr>.*?</tr>", heads) if "<td>L1H2</td>" in r)
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
    assert cells[-4:-2] == [number(own.gradient.norm), str(own.gradient.rank)]
    assert cells[-1] == number(own.reversed.norm)
    bare = replace(GRAPH, nodes=tuple(replace(n, gradient=None) for n in GRAPH))
    assert "<td class=n></td><td class=n></td><td></td><td class=n data-value=" in page(bare)


def test_hostile_words_of_gradients_are_text():
    text = page(with_gradients(hostile()))
    elements = Reader(text).elements
    assert not [a for _, attrs in elements for a in attrs if a.startswith("on")]
    assert not [t for t, _ in elements if t in ("img", "a")]
    assert text.count("</script") == 4


@pytest.mark.parametrize("theme", PALETTES)
def test_bars_of_both_signs_stand_out(theme):
    rules = re.findall(
        rf':root\[data-theme="{theme}"\]{{--plus:(.*?);--minus:(.*?)}}', stylesheet(gradients=True)
    )
    (signs,) = rules
    for colour in signs:
        for ground in (PALETTES[theme].band, PALETTES[theme].rule):
            assert contrast(colour, ground) >= 3


# --- in a browser --------------------------------------------------------------------------------

browser_test = pytest.mark.browser


@browser_test
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_state_shows_forward_and_backward_words_side_by_side(opened, theme, width):
    tab = opened(page(GRAPH, theme=theme), (width, 900), fragment="#node=L1.attn_out")
    own = GRAPH["L1.attn_out"]
    told = tab.part("gradient").inner_text()
    wanted = f"norm {number(own.gradient.norm)}; in it, target ␣the has rank {own.gradient.rank} of"
    assert wanted in told
    assert "A step down the gradient adds its bottom tokens." in told
    parts = {"top": own.top, "bottom": own.bottom}
    parts |= {"gradient-top": own.gradient.top, "gradient-bottom": own.gradient.bottom}
    for name, reads in parts.items():
        shown = tab.part(name).locator(".name").all_inner_texts()
        assert shown == [visible(read.token) for read in reads]
    titles = [tab.part(name).locator("h3").inner_text() for name in parts]
    assert titles == ["Forward, top", "Forward, bottom", "Backward, top", "Backward, bottom"]
    for side in ("top", "bottom"):
        left, right = (tab.part(name).bounding_box() for name in (side, f"gradient-{side}"))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] < right["x"]
        assert right["x"] + right["width"] <= width
    assert tab.part("attention").count() == 0
    tab.part("top").scroll_into_view_if_needed()
    tab.shot(f"page-gradient-state-{theme}-{width}")


@browser_test
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_head_shows_attention_and_reversed_attention_of_the_same_tokens(opened, theme, width):
    tab = opened(page(GRAPH, theme=theme), (width, 900), fragment="#node=L1H2")
    own, part = GRAPH["L1H2"], tab.part("attention")
    assert f"Norm of the reversed map {number(own.reversed.norm)}; bars" in part.inner_text()
    assert part.locator(".row .name").all_inner_texts() == [
        f"{visible(token)}@{i}" for i, token in enumerate(GRAPH.tokens)
    ]
    for name, row in (("attention", own.attention), ("reversed", own.reversed.row)):
        shown = part.locator(f".value.{name}").all_text_contents()
        assert all(text.startswith(f"{name} ") for text in shown)
        assert [float(text.split()[1]) for text in shown] == pytest.approx(list(row), rel=0.06)
    largest = max(map(abs, own.reversed.row))
    boxes = part.evaluate(
        """part => [...part.querySelectorAll(".track.signed")].map(track => {
          const outer = track.getBoundingClientRect();
          const inner = track.firstElementChild.getBoundingClientRect();
          const middle = outer.left + outer.width / 2;
          return [inner.left - middle, inner.right - middle, outer.width / 2,
                  track.firstElementChild.className];
        })"""
    )
    for (left, right, half, name), value in zip(boxes, own.reversed.row, strict=True):
        assert name == ("fill minus" if value < 0 else "fill plus")
        ends = sorted((0.0, half * value / largest))
        assert [left, right] == pytest.approx(ends, abs=1.5)
    wide = part.evaluate("part => [part.scrollWidth, part.clientWidth]")
    assert wide[0] <= wide[1]
    for row in part.locator(".row").all():
        assert row.bounding_box()["height"] < 30
    part.scroll_into_view_if_needed()
    tab.shot(f"page-gradient-head-{theme}-{width}")
    # A row leads to what the head read there, as before.
    tab.part("attention").locator("button").first.focus()
    tab.page.keyboard.press("Enter")
    assert tab.chosen != "L1H2"


@browser_test
def test_a_gradient_of_0_and_a_node_without_one_keep_their_words(opened):
    tab = opened(page(GRAPH), fragment="#node=L0.resid_pre")
    assert "norm 0: it has no words" in tab.part("gradient").inner_text()
    assert tab.part("top").locator("h3").inner_text() == "Top tokens"
    assert tab.part("gradient-top").count() == 0
    tab.page.keyboard.press("Escape")
    tab.page.locator("#search").fill("L1.mlp_in")
    tab.page.locator("#search").press("Enter")
    assert tab.chosen == "L1.mlp_in"
    assert tab.part("gradient").count() == 0
    assert tab.part("top").locator("h3").inner_text() == "Top tokens"


@browser_test
@pytest.mark.parametrize("by", ["gradient", "reversed"])
def test_nodes_are_filtered_by_what_was_measured(opened, by):
    tab = opened(page(GRAPH), fragment="#depth=everything&layers=0-2&nodes=999&edges=9999")
    options = tab.page.locator("#by option").all_inner_texts()
    assert options == ["strength", "gradient", "reversed"]
    tab.page.locator("#by").select_option(by)
    tab.page.locator("#strength").fill("50")
    values = [abs(getattr(node, by).norm) if getattr(node, by) else 0.0 for node in GRAPH]
    stream = ("resid_pre", "resid_mid", "resid_post", "final_norm", "logits")
    kept = [
        node
        for node, value in zip(GRAPH, values, strict=True)
        if node.kind in stream or float(f"{value:.3g}") >= 0.5 * float(f"{max(values):.3g}")
    ]
    assert tab.counts()[0] == len(GRAPH) - len(kept)
    tab.until(f"location.hash.includes('by={by}')")


@browser_test
def test_the_table_is_sorted_by_the_measured_columns(opened):
    tab = opened(page(GRAPH))
    tab.page.locator("#heads summary").click()
    ids = tab.page.locator("#heads tbody tr td:first-child")
    before = ids.all_inner_texts()
    heads = {str(node.id): node for node in GRAPH.of_kind("head")}
    for name, norm in (
        ("gradient norm", lambda node: node.gradient.norm),
        ("reversed attention", lambda node: node.reversed.norm),
    ):
        button = tab.page.locator("#heads th button", has_text=name)
        button.click()
        assert ids.all_inner_texts() == sorted(before, key=lambda i: -norm(heads[i]))
        assert tab.page.locator("#heads th[aria-sort=descending]").inner_text() == name
    button.focus()
    tab.page.keyboard.press("Enter")
    assert ids.all_inner_texts() == before
    assert tab.page.locator("#heads th[aria-sort]").count() == 0


@browser_test
def test_a_word_is_found_where_a_step_down_the_gradient_adds_it(opened):
    tab = opened(page(GRAPH))
    tab.page.locator("#search").fill("Tokyo")
    reading = [
        n for n in GRAPH if any(r.token == " Tokyo" for r in (n.bottom if n.negative else n.top))
    ]
    adding = [
        n
        for n in GRAPH
        if n not in reading
        and n.gradient is not None
        and any(r.token == " Tokyo" for r in n.gradient.bottom)
    ]
    assert adding
    assert tab.page.locator("#found").inner_text().startswith(f"{len(reading) + len(adding)} nodes")
    whole = opened(page(replace(GRAPH, nodes=(adding[0],), edges=())))
    whole.page.locator("#search").fill("Tokyo")
    hit = whole.page.locator("#hits button").first.inner_text()
    assert "a step down its gradient adds ␣Tokyo" in hit


@browser_test
def test_hostile_words_stay_words_in_the_panel_and_in_the_tooltip(opened):
    graph = with_gradients(hostile())
    tab = opened(page(graph), fragment="#depth=everything&layers=0-1")
    shown = set()
    for node in graph.of_kind("head"):
        tab.page.evaluate("id => { location.hash = '#depth=everything&node=' + id; }", str(node.id))
        tab.until(f"document.querySelector('#panel h2 .id')?.textContent === '{node.id}'")
        shown |= set(tab.part("gradient-top").locator(".name").all_text_contents())
    assert len(shown & {visible(word) for word in HOSTILE}) > 15
    assert tab.page.locator("#panel img, #panel a, #panel script, #panel b").count() == 0
    tip = tab.page.evaluate(
        """text => {
          const model = readPayload(JSON.parse(text));
          const box = document.createElement("div");
          box.append(...nodeTip(model, model.byName.get("L0H3")));
          return [box.textContent, box.querySelectorAll("img, a, script").length];
        }""",
        to_json(payload(graph)),
    )
    own = graph["L0H3"]
    assert f"gradient norm {number(own.gradient.norm)}; a step down it adds " in tip[0]
    assert visible(own.gradient.bottom[0].token) in tip[0]
    assert tip[1] == 0
