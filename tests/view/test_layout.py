"""Coordinates: nothing overlaps, time runs to the right, all of it is inside the picture."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

import pytest

from tests.view.synthetic import hostile, realistic
from visit_tl.graph.ids import NodeId
from visit_tl.view.layout import NODE_WIDTH, ROW, layout
from visit_tl.view.widths import (
    SPINE,
    WIDEST,
    WIDEST_FAN,
    WIDEST_SPINE,
    column_sums,
    heights,
    sources,
    widths,
)

GRAPHS = {"realistic": realistic(), "hostile": hostile(), "a part": realistic((4, 5), 12)}


@pytest.fixture(params=list(GRAPHS))
def graph(request):
    return GRAPHS[request.param]


def check(graph):
    """What must hold in any layout."""
    place = layout(graph)
    columns = defaultdict(list)
    for name, box in place.boxes.items():
        columns[box.left].append(box)
        assert 0 < box.left < box.left + NODE_WIDTH < place.width, name
        assert 0 < box.top < box.top + box.height < place.height, name
    for boxes in columns.values():
        boxes.sort(key=lambda box: box.middle)
        for above, below in itertools.pairwise(boxes):
            assert above.top + above.height < below.top
            assert below.middle - above.middle > ROW - 0.01
    for edge in graph.edges:
        source, target = place.boxes[edge.source], place.boxes[edge.target]
        assert source.left + NODE_WIDTH < target.left, edge
    return place


def test_nodes_of_a_column_do_not_touch_and_edges_run_to_the_right(graph):
    assert not check(graph).orphans


def test_the_residual_stream_is_a_straight_lane_above_the_rest(graph):
    place = layout(graph)
    spine = [place.boxes[n.id] for n in graph.nodes if n.kind in SPINE]
    rest = [
        place.boxes[n.id]
        for n in graph.nodes
        if n.kind not in SPINE and n.kind not in ("final_norm", "logits")
    ]
    assert len({box.top for box in spine}) == 1
    assert max(box.top + box.height for box in spine) < min(box.top for box in rest)


def test_columns_follow_the_forward_pass():
    words = [column.words for column in layout(realistic((0,), 1)).columns]
    assert words == [
        *("resid_pre", "attn_in", "query", "queries", "keys", "values", "heads", "z", "W_O rows"),
        *("attn_out", "resid_mid", "mlp_in", "W_in cols", "neurons", "mlp_out", "resid_post"),
        *("ln_final", "logits"),
    ]


def test_a_head_stands_in_the_middle_of_its_keys_and_values(graph):
    place = layout(graph)
    for head in graph.of_kind("head"):
        strip = [
            n.id
            for n in graph.of_kind("key", "value")
            if (n.layer, n.id.head) == (head.layer, head.id.head)
        ]
        middles = [place.boxes[name].middle for name in strip]
        assert min(middles) <= place.boxes[head.id].middle <= max(middles)
        for name in strip:
            twin = NodeId("value", name.layer, name.head, name.key_position)
            assert place.boxes[twin].middle == place.boxes[name].middle


def test_a_neuron_is_on_the_line_of_its_key_and_the_largest_is_first():
    graph = realistic()
    place = layout(graph)
    rows = sorted(graph.of_kind("neuron"), key=lambda n: (n.layer, place.boxes[n.id].middle))
    for _, members in itertools.groupby(rows, key=lambda n: n.layer):
        coefficients = [n.coefficient for n in members]
        assert coefficients == sorted(coefficients, reverse=True)
    for row in rows:
        key = NodeId("neuron_key", row.layer, neuron=row.id.neuron)
        assert place.boxes[key].middle == place.boxes[row.id].middle


def test_no_edge_of_a_fan_crosses_another(graph):
    place = layout(graph)
    fans = defaultdict(list)
    for edge in graph.edges:
        if not {edge.source.kind, edge.target.kind} & SPINE:
            fans[edge.source.layer, edge.source.kind, edge.target.kind].append(edge)
    for edges in fans.values():
        ends = sorted((place.boxes[e.source].middle, place.boxes[e.target].middle) for e in edges)
        assert [b for _, b in ends] == sorted(b for _, b in ends)


def test_widths_are_in_proportion_within_a_group():
    graph = realistic()
    found = dict(zip(graph.edges, widths(graph), strict=True))
    attention = [e for e in graph.edges if (e.source.kind, e.target.kind) == ("value", "head")]
    largest = max(attention, key=lambda e: e.score)
    for edge in attention:
        expected = found[largest] * edge.score / largest.score
        assert found[edge] == pytest.approx(max(1.2, expected))
    assert found[largest] == WIDEST
    spine = [e for e in graph.edges if e.source.kind in SPINE and e.target.kind in SPINE]
    assert max(found[e] for e in spine) == pytest.approx(WIDEST_SPINE)
    fan = [e for e in graph.edges if e.target == NodeId("mlp_out", 0)]
    assert sum(found[e] for e in fan) < WIDEST_FAN + 1.2 * len(fan)


def test_the_ballast_fills_plotlys_fullest_column_to_the_height(graph):
    place = layout(graph)
    tall = heights(graph, place.edge_widths)
    assert {n.id: h for n, h in zip(graph, tall, strict=True) if h > 0} == {
        name: box.height for name, box in place.boxes.items()
    }
    sums = column_sums(tall, sources(graph))
    assert sum(sums) == pytest.approx(sum(tall))
    assert max(sums) <= place.height
    assert max(sums[0], sums[-1]) + place.ballast == pytest.approx(place.height)


def parallel():
    """The realistic graph as GPT-J would have it: the MLP reads resid_pre, nothing in between."""
    graph = realistic()
    edges = []
    for edge in graph.edges:
        source, target = edge.source, edge.target
        if target.kind == "resid_mid":
            if source.kind == "resid_pre":
                continue
            target = NodeId("resid_post", target.layer)
        if source.kind == "resid_mid":
            source = NodeId("resid_pre", source.layer)
        edges.append(replace(edge, source=source, target=target))
    nodes = tuple(node for node in graph.nodes if node.kind != "resid_mid")
    return replace(graph, nodes=nodes, edges=tuple(edges))


def test_the_mlp_of_a_parallel_block_stands_under_its_attention():
    graph = parallel()
    place = check(graph)
    mlp = ("mlp_in", "neuron_key", "neuron", "b_out", "mlp_out")
    for layer in graph.layers:
        rows = [n for n in graph.nodes if n.layer == layer and n.kind not in SPINE]
        bottom = max(place.boxes[n.id].middle for n in rows if n.kind not in mlp)
        assert min(place.boxes[n.id].middle for n in rows if n.kind in mlp) > bottom + ROW
        pairs = [("attn_in", "mlp_in"), ("attn_out", "mlp_out")]
        for pair in pairs:
            lefts = {place.boxes[NodeId(kind, layer)].left for kind in pair}
            assert len(lefts) == 1
