"""Whatever the container accepts can be drawn: odd kinds, odd numbers, odd text."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.view.synthetic import HOSTILE
from tests.view.test_layout import check
from visit_tl.escaping import columns
from visit_tl.flow import FlowGraph
from visit_tl.graph.ids import FEATURE_KINDS, FEATURE_SITES, KINDS, NodeId
from visit_tl.graph.records import (
    EDGE_KINDS,
    Column,
    Edge,
    FeatureSet,
    Gradient,
    Hidden,
    Node,
    Reversed,
    TokenProb,
)
from visit_tl.view.figures.sankey import sankey
from visit_tl.view.notebook import notebook_html
from visit_tl.view.page.asset_files import colours, script
from visit_tl.view.page.document import page
from visit_tl.view.page.payload import payload, to_json
from visit_tl.view.text import WIDTH, text

texts = st.sampled_from(HOSTILE) | st.text(max_size=6)
numbers = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def ids(draw, layers, position):
    kind = draw(st.sampled_from(KINDS))
    needs_head = kind in ("head_query", "key", "value", "head")
    return NodeId(
        kind,
        None if kind in ("final_norm", "logits") else draw(st.sampled_from(layers)),
        draw(st.integers(0, 2)) if needs_head else None,
        draw(st.integers(0, 2)) if kind in ("key", "value") else None,
        draw(st.integers(0, 2))
        if kind in ("attn_neuron", "neuron_key", "neuron", "feature")
        else None,
        draw(st.none() | st.integers(0, position - 1))
        if position and kind not in ("final_norm", "logits")
        else None,
        draw(st.sampled_from(FEATURE_SITES)) if kind in FEATURE_KINDS else None,
        draw(st.integers(-2, 2)) if kind == "expert" else None,
    )


@st.composite
def specs(draw):
    """What a graph is made of, as plain values.

    The records are made outside the strategy: beartype looks at random items of their tuples, and
    Hypothesis forbids `random` in a strategy.
    """
    first, count = draw(st.integers(0, 3)), draw(st.integers(1, 6))
    layers = tuple(range(first, first + count))
    reads = st.lists(st.tuples(texts, st.just(0), st.floats(0, 1)), max_size=3)
    tokens = draw(st.lists(texts, min_size=1, max_size=3))
    position = draw(st.integers(0, len(tokens) - 1))
    names = draw(st.lists(ids(layers, position), max_size=12, unique=True))
    facts = st.fixed_dictionaries(
        {
            "top": reads,
            "bottom": reads,
            "entropy": numbers,
            "norm": numbers,
            "rank": st.integers(0, 9),
            "prob": st.floats(0, 1),
            "token": st.none() | texts,
            "coefficient": st.none() | numbers,
            "attention": st.none() | st.tuples(numbers, numbers),
            "gradient": st.none() | st.tuples(numbers, st.none() | st.integers(0, 9), reads, reads),
            "explanation": st.none() | texts,
            "reversed": st.none() | st.tuples(numbers, st.tuples(numbers, numbers)),
        }
    )
    edges = []
    for _ in range(draw(st.integers(0, 20)) if len(names) > 1 else 0):
        a = draw(st.integers(0, len(names) - 2))
        b = draw(st.integers(a + 1, len(names) - 1))
        edges.append((names[a], names[b], draw(st.sampled_from(EDGE_KINDS)), draw(numbers)))
    words = {name: draw(texts) for name in ("model", "prompt", "target")}
    return {
        "layers": layers,
        "nodes": [(name, draw(facts)) for name in names],
        "edges": edges,
        "tokens": tokens,
        "position": position,
        "flags": draw(st.tuples(st.booleans(), st.booleans())),
        **words,
    }


def build(spec):
    layers = spec["layers"]
    nodes = []
    for name, facts in spec["nodes"]:
        reads = {side: tuple(TokenProb(*r) for r in facts[side]) for side in ("top", "bottom")}
        if (found := facts["gradient"]) is not None:
            words = (tuple(TokenProb(*r) for r in side) for side in found[2:])
            reads["gradient"] = Gradient(*found[:2], *words)
        if facts["reversed"] is not None:
            reads["reversed"] = Reversed(*facts["reversed"])
        if name.kind != "feature":
            reads["explanation"] = None
        nodes.append(Node(id=name, **{**facts, **reads}))
    sites = sorted({(n.layer, n.id.site) for n in nodes if n.id.site is not None})
    sets = (
        FeatureSet(spec["model"], layer, site, "topk", "a", "b", 3, 2, 0.5, 0.75)
        for layer, site in sites
    )
    return FlowGraph(
        feature_sets=tuple(sets),
        model=spec["model"],
        prompt=spec["prompt"],
        tokens=tuple(spec["tokens"]),
        token_ids=tuple(range(len(spec["tokens"]))),
        prepend_bos=spec["flags"][0],
        position=spec["position"],
        target=spec["target"],
        target_id=0,
        target_given=spec["flags"][1],
        layers=layers,
        n_layers=layers[-1] + 1,
        d_vocab=10,
        pruning={"expand": 1},
        hidden={layer: Hidden() for layer in layers},
        residual_error=dict.fromkeys(layers, 0.0),
        columns=tuple(
            Column(j, 1, layers, {layer: Hidden() for layer in layers}, dict.fromkeys(layers, 0.0))
            for j in sorted({n.id.position for n in nodes if n.id.position is not None})
        ),
        nodes=tuple(nodes),
        edges=tuple(Edge(*edge) for edge in spec["edges"]),
    )


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(specs(), st.sampled_from(["light", "dark"]))
def test_any_graph_draws(spec, theme):
    graph = build(spec)
    for column in graph.columns:
        sankey(graph, layers=graph.layers, theme=theme, position=column.position)
    own = graph.at(graph.position)
    whole = check(own)
    assert len(whole.boxes) + len(whole.orphans) == len(own)

    figure = sankey(graph, layers=graph.layers, theme=theme)
    figure.to_json()
    drawn = len(figure.data[0].node.label) - 2 if figure.data else 0
    assert drawn == len(whole.boxes)

    shown = text(graph)
    assert max(map(columns, shown.splitlines())) <= WIDTH
    shown.encode()

    html = page(graph, theme=theme)
    html.encode()
    notebook_html(graph).encode()
    assert len(re.findall("</script>", html)) == len(re.findall("<script[ >]", html))
    blocks = re.findall(r'<script type="application/json" id="\w+">(.*?)</script>', html, re.S)
    assert len(blocks) == 3
    for block in blocks:
        json.loads(block)


@pytest.fixture(scope="module", params=["plain", "gradients", "features"])
def stage(browser, request):
    """A tab with the script's functions and the places that they fill, and no graph."""
    tab = browser.new_page()
    tab.set_content(
        "<!doctype html><div id=figure style='width:900px;height:500px'></div>"
        "<aside id=panel></aside>"
    )
    features = request.param == "features"
    whole = script(gradients=request.param != "plain", features=features)
    tab.add_script_tag(content=whole[: whole.index("(function () {\n")])
    tab.evaluate("colours => { window.colours = colours; }", colours("dark", features=features))
    yield tab, features
    tab.close()


DRAW = """text => {
  const model = readPayload(JSON.parse(text)), worth = worths(model), counts = [];
  const range = model.graph.layers, panel = document.getElementById("panel");
  const usual = {
    layers: {route: range, blocks: range, everything: range}, position: model.graph.position,
    nodes: 400, edges: 800, without: [], rank: null, strength: 0, by: "strength",
    selected: -1, way: -1, query: "", second: "", theme: "dark", depth: "route",
  };
  const tools = {worth, colours, select: () => {}, copy: () => {}, second: () => {}};
  const figure = document.getElementById("figure"), size = {width: 900, height: 500};
  for (const depth of ["route", "blocks", "everything"]) {
    const view = {...usual, depth}, lit = {marks: null, way: []}, seen = extent(model, view);
    const made = picture(model, view, colours, seen, size, lit, new Set());
    paint(figure, made.painted);
    if (document.querySelectorAll("img, #figure a").length) throw new Error("markup");
    const elements = [...figure.querySelectorAll("svg, svg *")];
    const written = elements.flatMap(e => [...e.attributes].map(a => a.value)).join();
    if (/NaN|Infinity|undefined/.test(written)) throw new Error("not a number in " + depth);
    counts.push(made.drawn.slots.length);
    pick(model, view, made.drawn, 200, 200);
  }
  for (let i = 0; i < model.count; i++) {
    showPanel(panel, model, {...usual, selected: i, second: "a"}, tools);
    nodeTip(model, i);
    const said = panel.textContent, odd = /undefined|NaN/;
    if (odd.test(said) && !odd.test(text)) throw new Error(said);
    const back = readFragment(model, writeFragment(model, {...usual, selected: i}, usual), usual);
    if (back.selected !== i) throw new Error("fragment of " + nodeName(model, i));
  }
  for (const token of model.graph.tokens) search(model, token);
  return counts;
}"""


@pytest.mark.browser
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(specs())
def test_any_graph_is_drawn_by_the_script_of_the_page(stage, spec):
    tab, features = stage
    graph = build(spec)
    # Only the page of a graph with features has the script that names them.
    assume(bool(graph.feature_sets) == features)
    route, blocks, everything = tab.evaluate(DRAW, to_json(payload(graph)))
    own = graph.at(graph.position)
    assert everything == min(len(check(own).boxes), 400)
    assert blocks <= everything
    assert route <= len(graph)
