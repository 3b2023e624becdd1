"""The pure parts of the page's script, run in a browser without a page: choices, ways, words."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from tests.view.synthetic import HOSTILE, realistic
from visit_tl.escaping import isolated, visible
from visit_tl.graph.descriptions import number
from visit_tl.graph.ids import NodeId
from visit_tl.graph.node_descriptions import ZERO, node_facts, node_title, promoted_label
from visit_tl.graph.routes import strongest
from visit_tl.view.page.asset_files import SCRIPTS, script
from visit_tl.view.page.payload import payload, to_json
from visit_tl.view.style import promoted_rank, rank_place
from visit_tl.view.text import text

pytestmark = pytest.mark.browser

GRAPH = realistic()


@pytest.fixture(scope="module")
def run(browser):
    """Evaluate JavaScript beside the script, `model` being that of `GRAPH`."""
    tab = browser.new_page()
    assert SCRIPTS[-1] == "main.js"
    whole = script()
    tab.add_script_tag(content=whole[: whole.index("(function () {\n")])
    tab.evaluate(
        "text => { window.model = readPayload(JSON.parse(text)); }", to_json(payload(GRAPH))
    )
    yield tab.evaluate
    tab.close()


def test_ids_and_titles_are_those_of_python(run):
    names = run("() => model.nodes.kind.map((_, i) => nodeName(model, i))")
    assert names == [str(node.id) for node in GRAPH]
    titles = run(
        "() => model.nodes.kind.map((_, i) => nodeName(model, i) + ' · ' + nodeTitle(model, i))"
    )
    assert titles == [node_title(node) for node in GRAPH]
    says = run("() => model.nodes.kind.map((_, i) => promoted(model, i))")
    assert says == [visible(node.label) for node in GRAPH]


def test_a_vector_of_zeros_says_nothing_and_has_no_rank(run):
    heads = [i for i, node in enumerate(GRAPH) if node.kind == "head"]
    first = replace(GRAPH.nodes[heads[0]], norm=0.0, rank=0)
    subtracted = replace(GRAPH.nodes[heads[1]], norm=0.0, rank=0, coefficient=-1.0)
    nodes = list(GRAPH.nodes)
    nodes[heads[0]], nodes[heads[1]] = first, subtracted
    zeroed = replace(GRAPH, nodes=tuple(nodes))
    found = run(
        """([text, at]) => { const model = readPayload(JSON.parse(text));
          return at.map(i => [promoted(model, i), promotedRank(model, i)]); }""",
        [to_json(payload(zeroed)), heads[:2]],
    )
    middle = GRAPH.d_vocab // 2
    assert found == [["⟨zero⟩", middle]] * 2
    for node in (first, subtracted):
        assert (promoted_label(node), promoted_rank(node, GRAPH.d_vocab)) == ("⟨zero⟩", middle)
        assert ZERO in node_facts(node, zeroed)
    assert f"L{first.layer}H{first.id.head}" in text(zeroed) and "⟨zero⟩" in text(zeroed)
    assert abs(rank_place(middle, GRAPH.d_vocab) - 0.5) < 0.01


def test_ranks_have_the_places_that_python_gives_them(run):
    ranks = [0, 1, 9, 500, 998, 999]
    found = run("ranks => ranks.map(rank => rankPlace(rank, 1000))", ranks)
    assert found == pytest.approx([rank_place(rank, 1000) for rank in ranks])
    assert run("() => rankPlace(0, 1)") == 0


@pytest.mark.parametrize(
    "value",
    [0, 1, 0.5, 0.123456, 12.3456, 123.456, 1234.4, 0.00012, 1.5e-05, 2.4e-17, -0.25, 3e9, 999.9],
)
def test_numbers_have_three_digits_as_in_python(run, value):
    shown = run("value => number(value)", value)
    assert float(shown) == pytest.approx(
        float(number(float(value))), rel=0.06 if value < 1e-4 else 0.006
    )
    assert len(shown) <= 8


def test_what_is_no_number_is_said(run):
    assert run("() => number(null)") == "not a number"


@pytest.mark.parametrize("token", HOSTILE)
def test_text_is_drawn_as_text_and_cannot_turn_its_surroundings(run, token):
    shown = run(
        """text => {
          const made = written({x: 1, y: 2, lines: [[{text}], [{text: "b", bold: true}]]}, "start");
          return [made.childElementCount, made.firstChild.childElementCount, made.textContent];
        }""",
        visible(token),
    )
    right_to_left = visible(token) != isolated(visible(token))
    said = f"\u2068{visible(token)}\u2069" if right_to_left else visible(token)
    assert shown == [2, 0, said + "b"]


def test_reach_marks_all_ancestors_and_all_descendants(run):
    for name in ("L1H3", "L0.resid_mid", "logits", "L2N4"):
        marks = run("name => [...reach(model, model.byName.get(name))]", name)
        above, below = {NodeId.parse(name)}, {NodeId.parse(name)}
        for node in reversed(GRAPH.nodes):
            if node.id in above:
                above |= {edge.source for edge in GRAPH.edges_into(node.id)}
        for node in GRAPH.nodes:
            if node.id in below:
                below |= {edge.target for edge in GRAPH.edges_out_of(node.id)}
        for node, mark in zip(GRAPH, marks, strict=True):
            expected = 1 * (node.id in above) + 2 * (node.id in below)
            assert mark == expected, node.id


def test_the_best_way_is_that_of_a_search_of_all_shares(run):
    """With what is said left out of the worths, it is the strongest way of `FlowGraph.route`."""
    way = run(
        """() => {
          const plain = {...model, nodes: {...model.nodes, rank: model.nodes.rank.map(() => 0),
            coefficient: model.nodes.coefficient.map(() => 1)}};
          plain.graph = {...model.graph};
          const ways = waysTo(plain, worths(plain), model.byName.get("logits"));
          return follow(plain, ways, model.byName.get("L0.resid_pre")).map(i => nodeName(model, i));
        }"""
    )
    edges = strongest(GRAPH, NodeId("resid_pre", 0), NodeId("logits"))
    assert way == [str(edges[0].source), *(str(edge.target) for edge in edges)]


def test_ways_prefer_what_says_the_target(run):
    worths = run("() => [...worths(model)].map(w => w === -Infinity ? null : w)")
    totals: dict[tuple[object, str], float] = {}
    for edge in GRAPH.edges:
        key = edge.target, edge.kind
        totals[key] = totals.get(key, 0) + abs(edge.score)
    for edge, worth in zip(GRAPH.edges, worths, strict=True):
        node = GRAPH[edge.source]
        carries = 1 - rank_place(node.rank, GRAPH.d_vocab) if node.kind in ("head", "value") else 1
        expected = carries * abs(edge.score) / totals[edge.target, edge.kind]
        assert (math.exp(worth) if worth is not None else 0) == pytest.approx(expected, rel=0.02)


def test_ways_start_at_the_memories_of_tokens_that_have_no_state(run):
    ways = run(
        """() => waysFromInput(model, worths(model), model.byName.get("L2.attn_out")).map(way => ({
          ...way, nodes: way.nodes.map(i => nodeName(model, i)),
          heads: way.heads.map(i => nodeName(model, i))}))"""
    )
    assert len({way["position"] for way in ways}) == len(ways) > 4
    for way in ways:
        start, end = NodeId.parse(way["nodes"][0]), way["nodes"][-1]
        assert end == "L2.attn_out"
        if way["position"] == GRAPH.position:
            assert str(start) == "L0.resid_pre"
        else:
            assert (start.kind, start.key_position) == ("value", way["position"])
            assert way["heads"][0] == f"L{start.layer}H{start.head}"
    worths = [way["worth"] for way in ways if not way["same"]]
    assert worths == sorted(worths, reverse=True)


def test_a_cut_keeps_the_best_in_their_order(run):
    assert run("() => cut([5, 1, 4, 2, 3], x => -x, 3)") == [1, 2, 3]
    assert run("() => cut([5, 1, 4], x => x, 3)") == [5, 1, 4]
    assert run("() => cut([4, 3, 2, 1], x => 0, 2)") == [1, 2]


def test_labels_that_would_touch_are_left_out_or_moved(run):
    place = "wanted => placeLabels(wanted, 300, 100, [{left: 0, right: 9, top: 0, bottom: 99}], 9)"

    def label(text, weight, *places):
        return {"text": text, "weight": weight, "places": [list(p) for p in places]}

    found = run(
        place,
        [
            label("low", 1, (20, 50)),
            label("high", 2, (22, 52)),
            label("moved", 1, (21, 51), (20, 80)),
            label("taken", 9, (5, 50)),
            label("outside", 9, (290, 50)),
            {**label("too long to fit", 1, (270, 20)), "short": "H4"},
        ],
    )
    assert [(put["label"], put["text"], put["x"], put["y"]) for put in found] == [
        (1, "high", 22, 52),
        (2, "moved", 20, 80),
        (5, "H4", 270, 20),
    ]


def test_a_fragment_gives_the_view_that_wrote_it(run):
    usual = {
        "depth": "route",
        "layers": {"route": [0, 2], "blocks": [1, 2], "everything": [1, 2]},
        "position": 8,
        "nodes": 400,
        "edges": 800,
        "without": [],
        "rank": None,
        "strength": 0,
        "selected": -1,
        "way": -1,
        "query": "",
        "second": "",
        "theme": "light",
    }
    views = [
        {},
        {"depth": "blocks", "selected": 17, "way": 3, "theme": "dark"},
        {"query": "a=b&c#d %", "second": "</b>", "rank": 0, "strength": 0.25},
        {"depth": "everything", "without": ["neuron", "key"], "nodes": 7, "edges": 9},
    ]
    for changes in views:
        view = {**usual, **changes}
        found = run(
            "([view, usual]) => { const text = writeFragment(model, view, usual);"
            " return [text, readFragment(model, '#' + text, usual)]; }",
            [view, usual],
        )
        assert found[1] == view, found[0]
        assert json.dumps(found[0]).isascii()
