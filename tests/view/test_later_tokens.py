"""Graphs of runs with segments: memories of later tokens are shown, and told apart."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import visit_tl as vt
from tests.conftest import made
from tests.view.test_page import block
from visit_tl import InputError
from visit_tl.graph.descriptions import from_later, segments_words
from visit_tl.graph.node_descriptions import LATER, edge_from_later
from visit_tl.graph.subgraphs import to_position
from visit_tl.view.figures.reversed_maps import maps
from visit_tl.view.legend import LATER_LEGEND
from visit_tl.view.page.asset_files import script, stylesheet
from visit_tl.view.page.document import page
from visit_tl.view.page.payload import to_json
from visit_tl.view.svg import svg

PROMPT = "a b c d e f"
SPANS = [(0, 4), (4, 6)]


@pytest.fixture(scope="module", params=["native", "llama"])
def graph(request):
    return vt.flow_graph(made(request.param), PROMPT, segments=SPANS, position=1, expand=2)


@pytest.fixture(scope="module")
def causal():
    return vt.flow_graph(made("native"), PROMPT, position=1, expand=2)


def later_edges(graph):
    own = to_position(graph, graph.position)
    return [edge for edge in own.edges if edge_from_later(edge, own)]


def test_keys_and_values_after_their_head_are_later_tokens(graph, causal):
    later = {str(n.id) for n in graph if from_later(n, graph)}
    wanted = {
        str(n.id)
        for n in graph.of_kind("key", "value")
        if n.id.key_position > (1 if n.id.position is None else n.id.position)
    }
    assert later == wanted and wanted
    assert not any(from_later(n, causal) for n in causal)
    assert graph.seen == 4 and causal.seen == 2


def test_a_memory_that_leads_back_to_the_graph_itself_makes_no_column(graph, tmp_path):
    assert [column.position for column in graph.columns] == [0, 2, 3]
    back = [e for e in graph.edges if e.source.kind == "attn_in" and e.target.key_position == 1]
    assert all(e.source.position is None and e.target.position is not None for e in back)
    assert back or graph.model != "native"
    path = graph.save(tmp_path / "g.json")
    assert vt.FlowGraph.load(path) == graph


def test_the_sankey_has_a_dashed_outline_round_the_edges_of_later_tokens(graph, causal):
    figure = graph.figure()
    outlines = [shape for shape in figure.layout.shapes if shape.type == "path"]
    assert len(outlines) == len(later_edges(graph)) > 0
    assert all(shape.line.dash == "4px,3px" for shape in outlines)
    words = [note.text for note in figure.layout.annotations]
    assert LATER_LEGEND in words
    hovers = figure.data[0].link.customdata
    assert sum(LATER in words for words in hovers) == len(outlines)
    labels = [label for label in figure.data[0].node.label if label.startswith("later ")]
    own = [n for n in graph.of_kind("value") if n.id.position is None]
    assert len(labels) == sum(from_later(n, graph) for n in own) > 0
    assert "segments: 0..3, 4..5 see all of themselves" in figure.layout.title.text
    plain = causal.figure()
    assert not [shape for shape in plain.layout.shapes if shape.type == "path"]
    assert LATER_LEGEND not in [note.text for note in plain.layout.annotations]


def test_an_outline_runs_where_plotly_draws_the_link(graph):
    from visit_tl.view.layout import layout
    from visit_tl.view.ribbons import ribbons

    own = to_position(graph, 1)
    place = layout(own)
    shapes = [s for s in graph.figure().layout.shapes if s.type == "path"]
    later = [r for r in ribbons(own, place) if edge_from_later(own.edges[r.edge], own)]
    for shape, ribbon in zip(shapes, later, strict=True):
        x, y = map(float, re.match(r"M([\d.]+),([\d.]+)C", shape.path).groups())
        assert x * place.width == pytest.approx(ribbon.x0, abs=1e-2)
        assert (1 - y) * place.height == pytest.approx(ribbon.y0, abs=1e-2)


def test_svg_and_dot_dash_them_too(graph, causal, tmp_path):
    drawn = svg(graph)
    assert drawn.count('stroke-dasharray="4 3"') == len(later_edges(graph)) + 1
    assert LATER_LEGEND in drawn and LATER in drawn
    assert "stroke-dasharray" not in svg(causal)
    told = graph.save(tmp_path / "g.dot").read_text(encoding="utf-8")
    assert told.count('style="dashed"') == sum(edge_from_later(e, graph) for e in graph.edges)
    assert "dashed" not in causal.save(tmp_path / "c.dot").read_text(encoding="utf-8")


def test_the_text_says_which_tokens_are_later(graph, causal):
    said = graph.text()
    assert "segments    0..3, 4..5 see all of themselves" in said
    own = [n for n in graph.of_kind("value") if n.id.position is None and from_later(n, graph)]
    for node in own:
        assert f"@{node.id.key_position} (later) {node.coefficient:.2f}" in said
    assert re.search(r"␣b@2 \(later\) +\S+ +\d+ ", said)
    for node in graph.of_kind("value"):
        if node.id.position == 0 and node.layer == 0 and from_later(node, graph):
            assert f"@{node.id.key_position} (later) {node.coefficient:.2f}" in said
    assert "(later)" not in causal.text() and "segments" not in causal.text()


def test_a_map_of_heads_shows_attention_to_a_later_token_that_is_seen(graph, causal):
    scores = np.asarray(graph.figure(kind="heads", by="attention", to=3).data[0].z, dtype=float)
    for head in graph.of_kind("head"):
        if head.id.position is None:
            shown = scores[head.id.layer, head.id.head]
            assert shown == pytest.approx(head.attention[3])
    assert graph.figure(kind="heads", by="attention", to=" c").layout.title.text.endswith("at 3")
    with pytest.raises(InputError, match="position 1 cannot look at 4; it sees .* 3 ␣c"):
        graph.figure(kind="heads", by="attention", to=4)
    with pytest.raises(InputError, match="position 1 cannot look at 3"):
        causal.figure(kind="heads", by="attention", to=3)


def test_states_at_later_positions_are_in_the_table_which_names_the_segments(graph):
    figure = graph.figure(kind="lens")
    assert [name.split("<br>")[1] for name in figure.layout.xaxis.ticktext] == list("0123")
    assert "segments: 0..3, 4..5 see all of themselves" in figure.layout.title.text
    table = vt.lens_table(made("native"), PROMPT, segments=SPANS)
    assert "segments    0..3, 4..5 see all of themselves\n" in table.text()
    assert "segments" not in vt.lens_table(made("native"), PROMPT).text()


# --- the page ----------------------------------------------------------------------------------


def test_a_page_names_the_segments_and_marks_their_tokens(graph, causal):
    told = page(graph)
    assert "<dt>segments</dt><dd>0..3, 4..5 see all of themselves</dd>" in told
    marks = re.findall(r'class="token[^"]*(segment[^"]*)" data-position="(\d)"', told)
    assert marks == [
        ("segment begins followed", "0"),
        ("segment here", "1"),
        ("segment followed", "2"),
        ("segment ends followed", "3"),
        ("segment begins", "4"),
        ("segment ends", "5"),
    ]
    assert ", in the segment 4..5" in told
    assert block(told, "data")["graph"]["segments"] == [[0, 4], [4, 6]]
    assert "dashed: a memory of a later token" in told
    assert "@2 (later) 0." in told or "@3 (later) 0." in told


def test_a_page_without_segments_has_nothing_of_them(graph, causal):
    plain = page(causal)
    for word in ("SEGMENTS", "lastSeen", "edgeWords", "isLater", ".segment", "dashed:", "(later)"):
        assert word not in plain, word
    assert "segments" not in block(plain, "data")["graph"]
    bare = replace(graph, segments=())
    assert "SEGMENTS" not in page(bare)


def test_the_lines_of_segments_are_statements_of_one_line():
    whole, plain = script(segments=True), script()
    assert whole.count("const SEGMENTS = true;") == 1
    marked = [line for line in whole.splitlines() if line.startswith("if (SEGMENTS")]
    assert len(marked) == 3
    assert all(line.endswith((";", "continue;")) for line in marked)
    # What is left, if they and their file are taken away, is the script of other pages.
    start, end = whole.index("const SEGMENTS"), whole.index("(function () {\nconst model")
    rest = "\n".join(
        line
        for line in (whole[:start] + whole[end:]).splitlines()
        if not line.startswith("if (SEGMENTS")
    )
    assert rest.replace("lastSeen(", "positionOf(").replace("edgeWords(", "edgeTip(") == plain
    assert stylesheet(segments=True).startswith(stylesheet())
    assert "innerHTML" not in whole and "/**" not in whole and "</script" not in whole


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_draws_arcs_that_run_back_as_dashes(opened, graph, theme):
    tab = opened(page(graph, theme=theme), fragment="#depth=route")
    found = tab.page.evaluate("""() => {
      const model = readPayload(JSON.parse(document.getElementById("data").textContent));
      const route = model.depths.route, names = [];
      for (let e = 0; e < route.edges.source.length; e++) {
        if (isLaterEdge(model, route, e)) names.push(nodeName(model, route.edges.via[e]));
      }
      const line = dashes([[0, 0], [30, 0], [30, 10]], 9, 5);
      return {names, line, seen: lastSeen(model, model.byName.get("L1H0"))};
    }""")
    assert found["seen"] == 3
    assert found["names"]
    for name in found["names"]:
        assert from_later(graph[name], graph)
    assert found["line"] == [[[0, 0], [9, 0]], [[14, 0], [23, 0]], [[28, 0], [30, 0], [30, 7]]]


@pytest.mark.browser
def test_panel_and_tooltip_say_that_a_token_is_later(opened, graph):
    memory = next(n for n in graph.of_kind("value") if from_later(n, graph) and not n.id.position)
    tab = opened(page(graph), fragment=f"#depth=everything&node={memory.id}")
    told = tab.page.inner_text("#panel")
    assert "seen because" in told and "it is in the same segment" in told
    tip = tab.page.evaluate(
        """name => {
      const model = readPayload(JSON.parse(document.getElementById("data").textContent));
      return nodeTip(model, model.byName.get(name)).map((line) => line.textContent);
    }""",
        str(memory.id),
    )
    assert "a later token, seen because both are in one segment" in tip
    head = memory.id.layer, memory.id.head
    tab = opened(page(graph), fragment=f"#depth=everything&node=L{head[0]}H{head[1]}")
    rows = tab.page.eval_on_selector_all(
        "#panel [data-part=attention] .row", "rows => rows.map((row) => row.textContent)"
    )
    assert len(rows) == 4


# --- gradients, attention, differences ---------------------------------------------------------


def test_maps_leave_out_the_keys_that_a_query_does_not_see():
    found = vt.reversed_attention(made("native"), PROMPT, " b", segments=SPANS)
    figure = maps(found, [(0, 1)], "light")
    shown = np.array([[v is not None for v in row] for row in figure.data[1].z])
    wanted = vt.Segments.from_spans(SPANS).mask(len(found.tokens))[0, 0].numpy()
    assert shown.tolist() == wanted.tolist()
    # Attention that is 0 within a segment is a value, not a hidden key.
    zero = replace(found, store=({0: tuple(0 * m for m in found._pair(0))}, found.store[1]))
    dark = maps(zero, [(0, 1)], "dark")
    assert [[v is not None for v in row] for row in dark.data[0].z] == wanted.tolist()
    assert "segments 0..3, 4..5 see all of themselves" in figure.layout.title.text


def drawn(view):
    arguments = view.html.rpartition("CircuitsVis.AttentionHeads,")[2]
    return json.loads(arguments[: arguments.rindex("}") + 1])


def test_circuitsvis_shows_later_keys_of_segments(causal):
    view = vt.attention(made("native"), PROMPT, ["L1H2"], segments=SPANS)
    given = drawn(view)
    assert given["maskUpperTri"] is False
    assert np.triu(np.asarray(given["attention"][0]), 1)[0, 3] > 0
    assert "0..3, 4..5 see all of themselves" in view.html
    plain = vt.attention(made("native"), PROMPT, ["L1H2"])
    assert drawn(plain)["maskUpperTri"] is True and "themselves" not in plain.html
    found = vt.reversed_attention(made("native"), PROMPT, " b", segments=SPANS)
    assert drawn(found.attention(["L0H1"]))["maskUpperTri"] is False


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_difference_names_both_masks(theme):
    model, options = made("native"), {"target": " b"}
    before = vt.flow_graph(model, PROMPT, **options)
    after = vt.flow_graph(model, PROMPT, segments=SPANS, **options)
    difference = before.diff(after)
    assert (
        "masks       before: causal\n            after: 0..3, 4..5 see all of themselves\n"
    ) in difference.text()
    title = difference.figure(theme).layout.title.text
    assert "before: causal<br>after: 0..3, 4..5 see all of themselves" in title
    same = after.diff(after)
    assert "masks" not in same.text() and "<br>" not in same.figure(theme).layout.title.text
    assert before.diff(before).figure(theme).layout.height < difference.figure(theme).layout.height
    both = vt.view.compare(before, after).html
    assert "segments: 0..3, 4..5 see all of themselves" in both


def test_many_segments_are_counted():
    spans = tuple((2 * i, 2 * i + 2) for i in range(11))
    words = segments_words(spans)
    assert words.startswith("0..1, 2..3,") and words.endswith(
        "14..15 and 3 more see all of themselves"
    )


def test_data_of_the_page_is_safe(graph):
    assert "<" not in to_json(block(page(graph), "data"))
