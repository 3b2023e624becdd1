"""The route: a row for every token, a column for every block, heads between what they join."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest

from tests.view.synthetic import hostile, realistic
from visit_tl.graph.ids import NodeId
from visit_tl.view.page.route_layout import COLUMN, ROW, route, share

GRAPHS = {
    "realistic": realistic(tuple(range(4)), 4),
    "hostile": hostile(),
    "a part": realistic((4, 5), 12),
}


@pytest.fixture(params=list(GRAPHS))
def graph(request):
    return GRAPHS[request.param]


def test_states_stand_in_the_row_of_their_token_and_the_column_of_their_block(graph):
    made = route(graph)
    rows = dict(made.rows)
    states = {stop.id: stop for stop in made.stops if stop.role == "state"}
    assert {n.id for n in graph.of_kind("resid_pre", "logits")} <= set(states)
    for name, stop in states.items():
        assert stop.y == rows[graph.position]
        if name.kind == "resid_pre":
            assert stop.x == (name.layer - graph.layers[0] + 0.5) * COLUMN
    assert list(rows.values()) == [(i + 0.5) * ROW for i in range(len(graph.tokens))]


def test_everything_is_inside_and_runs_to_the_right(graph):
    made = route(graph)
    place = {stop.id: stop for stop in made.stops}
    for stop in made.stops:
        assert 0 < stop.x < made.width
        assert 0 < stop.y < made.height
        assert 0 <= stop.strength <= 1
    for link in made.links:
        assert place[link.source].x < place[link.target].x


def test_a_head_stands_between_the_token_that_it_took_most_from_and_its_own(graph):
    made = route(graph)
    place = {stop.id: stop for stop in made.stops}
    rows = dict(made.rows)
    heads = [stop for stop in made.stops if stop.role == "head"]
    assert heads
    for stop in heads:
        memories = [
            n
            for n in graph.of_kind("value")
            if (n.layer, n.id.head) == (stop.id.layer, stop.id.head)
            and n.id.key_position != graph.position
        ]
        best = max(memories, key=lambda n: share(graph, n))
        read, write = (link for link in made.links if stop.id in (link.source, link.target))
        assert read.via == write.via == best.id
        assert read.score == write.score == share(graph, best)
        assert place[read.source].y == rows[best.id.key_position]
        assert rows[best.id.key_position] < stop.y < rows[graph.position]
        assert write.target.layer in (stop.id.layer + 1, stop.id.layer)


def test_a_share_is_what_the_memory_adds_over_the_stream_that_it_joins():
    graph = GRAPHS["realistic"]
    value = next(n for n in graph.of_kind("value") if n.layer == 2)
    expected = value.coefficient * value.norm / graph["L2.resid_mid"].norm
    assert share(graph, value) == pytest.approx(expected)


def test_heads_do_not_cover_each_other(graph):
    spots = defaultdict(list)
    for stop in route(graph).stops:
        if stop.role == "head":
            spots[round(stop.x, 3), round(stop.y, 3)].append(stop.id)
    # Two groups may meet by chance; two heads of one group never do.
    for names in spots.values():
        assert len({(n.layer, n.head) for n in names}) == len(names) <= 2


def test_a_state_of_another_position_is_read_where_the_graph_holds_it():
    graph = GRAPHS["realistic"]
    memory = next(link.via for link in route(graph).links if link.via and link.via.layer == 1)
    there = memory.key_position
    state = replace(graph["L1.resid_pre"], id=NodeId("resid_pre", 1, position=there))
    held = route(replace(graph, nodes=(state, *graph.nodes)))
    place = {stop.id: stop for stop in held.stops}
    assert place[state.id].role == "state"
    assert place[state.id].y == dict(held.rows)[there]
    assert memory in {link.via for link in held.links if link.source == state.id}
    assert memory not in place


def test_many_tokens_leave_out_rows_without_a_part():
    graph = GRAPHS["realistic"]
    long = replace(
        graph,
        tokens=(*graph.tokens, *(" x" for _ in range(60))),
        token_ids=tuple(range(len(graph.tokens) + 60)),
    )
    assert len(route(long).rows) <= len(graph.tokens)
