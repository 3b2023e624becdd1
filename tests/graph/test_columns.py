"""Memories followed back: what is added is what the other positions computed, and no more."""

import json
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import visit_tl as vt
from visit_tl import GraphError, InputError, NodeId
from visit_tl.graph.io.json_format import from_json, to_json
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.budget import Budget
from visit_tl.xray.memories import Read, block_size, choose

PROMPT = "a b c d e"


@pytest.fixture(scope="module")
def expanded():
    from tests.conftest import made

    return vt.flow_graph(made("native"), PROMPT, expand=2)


def test_the_graphs_own_position_is_as_it_was(model):
    expanded, plain = vt.flow_graph(model, PROMPT, expand=1), vt.flow_graph(model, PROMPT)
    own = expanded.at(expanded.position)
    assert [(n.id, n.rank, n.top) for n in own] == [(n.id, n.rank, n.top) for n in plain]
    assert own.edges == plain.edges and plain.columns == () != expanded.columns
    assert expanded.pruning["expand"] == 1 and "expand" not in plain.pruning


def test_a_column_is_what_the_model_computed_at_that_position(model):
    expanded = vt.flow_graph(model, PROMPT, expand=2, heads=99, values=99)
    for column in (c for c in expanded.columns if c.layers):
        alone = vt.flow_graph(model, PROMPT, position=column.position, target=expanded.target_id)
        there = expanded.at(column.position)
        assert there.position == column.position and there.layers == column.layers
        for node in there:
            if node.kind in ("query", "b_O", "b_out") or node.id not in alone:
                continue
            other = alone[node.id]
            assert (node.rank, node.label, node.hook) == (other.rank, other.label, other.hook)
            assert node.norm == pytest.approx(other.norm, rel=1e-5)
        for layer in column.layers:
            assert column.residual_error[layer] <= 1e-5
            assert {f"L{layer}.{s}" for s in ("resid_pre", "attn_out", "resid_post")} <= {
                str(node.id) for node in there
            }


def test_the_state_that_a_memory_comes_from_is_the_one_it_was_made_of(native):
    """The value is the state times W_V; the edge goes from that state and from no other."""
    expanded = vt.flow_graph(native, PROMPT, expand=2)
    view = ModelView(native)
    prompt = view.tokens.encode(PROMPT, None)
    followed = [v for v in expanded.of_kind("value") if v not in expanded.unfollowed]
    assert any(v.id.position is not None for v in followed)
    for value in followed:
        j = value.id.key_position
        own = expanded.position if value.id.position is None else value.id.position
        sources = [e.source for e in expanded.edges_into(value.id) if e.kind == "flow"]
        wanted = [] if j == own else [NodeId("attn_in", value.layer, position=j)]
        assert sources == wanted
        attn_in = Trace.run(view, prompt, position=j).layers[value.layer].attn_in
        attn = native.blocks[value.layer].attn
        made = attn_in @ attn.W_V[value.id.head] + attn.b_V[value.id.head]
        norm = float((made @ attn.W_O[value.id.head]).detach().norm())
        assert value.norm == pytest.approx(norm, rel=1e-4)


def test_the_answer_can_be_walked_back_to_every_token_that_was_followed(expanded):
    above = expanded.ancestors("logits")
    for column in expanded.columns:
        start = NodeId("resid_pre", 0, position=column.position)
        assert start in above
        way = expanded.route(start)
        assert way[0].source == start and way[-1].target == NodeId("logits")
        assert all(a.target == b.source for a, b in pairwise(way))


def test_the_strongest_route_is_the_best_of_all_routes(native):
    graph = vt.flow_graph(native, "a b", expand=2, heads=2, values=1, neurons=0, layers=[0, 1])
    total = {}
    for edge in graph.edges:
        total[edge.target, edge.kind] = total.get((edge.target, edge.kind), 0) + abs(edge.score)

    def best(node, goal):
        if node == goal:
            return 1.0
        ways = [
            abs(e.score) / total[e.target, e.kind] * best(e.target, goal)
            for e in graph.edges_out_of(node)
        ]
        return max(ways, default=0.0)

    goal = NodeId("resid_post", 1)
    for node in graph:
        way, product = graph.route(node.id, goal), 1.0
        for edge in way:
            product *= abs(edge.score) / total[edge.target, edge.kind]
        if way:
            assert product == pytest.approx(best(node.id, goal))
        else:
            assert node.id == goal or best(node.id, goal) == 0
    assert graph.route("L0.resid_pre", "L0.resid_pre") == ()
    assert graph.route("logits", "L0.resid_pre") == ()


def test_without_rows_of_a_matrix_the_way_through_it_stays_open(native):
    graph = vt.flow_graph(native, PROMPT, neurons=0)
    ends = {(str(e.source), str(e.target)): e for e in graph.edges}
    assert ends["L0.z", "L0.attn_out"].score == pytest.approx(graph["L0.z"].norm)
    assert ends["L0.mlp_in", "L0.mlp_out"].kind == "flow"
    assert NodeId("head", 0, 0) in graph.ancestors("logits")
    shown = vt.flow_graph(native, PROMPT, neurons=2)
    assert not {("L0.z", "L0.attn_out"), ("L0.mlp_in", "L0.mlp_out")} & {
        (str(e.source), str(e.target)) for e in shown.edges
    }


def test_only_the_asked_positions_are_followed(native):
    graph = vt.flow_graph(native, PROMPT, positions=[2, -2], expand=3)
    assert {c.position for c in graph.columns} <= {2, 4}
    assert any(n.id.key_position not in (2, 4) for n in graph.unfollowed)
    once = vt.flow_graph(native, PROMPT, positions=[2])
    assert once.pruning["expand"] == 1 and [c.position for c in once.columns] == [2]


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_hops_are_counted_from_the_graphs_own_position(native, hops):
    graph = vt.flow_graph(native, [1, 2, 3, 4, 5, 6, 7, 8], expand=hops, heads=1, values=1)
    reached = {graph.position: 0}
    for hop in range(1, hops + 1):
        for value in graph.of_kind("value"):
            at = graph.position if value.id.position is None else value.id.position
            j = value.id.key_position
            if reached.get(at) == hop - 1 and j not in reached:
                reached[j] = hop
    for column in graph.columns:
        assert column.hops <= reached[column.position] <= hops


@settings(deadline=None, max_examples=15)
@given(room=st.integers(0, 200), hops=st.integers(1, 3))
def test_following_never_adds_more_nodes_than_allowed(room, hops):
    from tests.conftest import made

    model = made("native")
    plain = vt.flow_graph(model, PROMPT)
    graph = vt.flow_graph(model, PROMPT, expand=hops, max_nodes=room)
    assert len(graph) - len(plain) <= room
    assert from_json(json.loads(json.dumps(to_json(graph)))) == graph
    known = {n.id for n in graph if n.kind == "attn_in"}
    for value in graph.of_kind("value"):
        j = value.id.key_position
        at = None if j == graph.position else j
        assert (NodeId("attn_in", value.layer, position=at) in known) == (
            value not in graph.unfollowed
        )


READS = st.lists(
    st.builds(
        lambda layer, j, share: Read(
            layer, j, 9, share, NodeId("key", layer, 0, j), NodeId("value", layer, 0, j)
        ),
        st.integers(0, 5),
        st.integers(0, 9),
        st.floats(0, 1),
    ),
    max_size=20,
)


@given(READS, st.integers(0, 60), st.dictionaries(st.integers(0, 9), st.integers(0, 5)))
def test_the_largest_shares_find_room_first(reads, room, reach):
    found, left = choose(reads, reach, first=0, cost=5, room=room, positions=None)
    spent = 0
    for j, until in found.items():
        assert j != 9 and until > reach.get(j, -1)
        assert any(r.key_position == j and r.layer == until for r in reads)
        spent += 5 * (until - reach.get(j, 0)) + (0 if j in reach else 2)
    assert left == room - spent >= 0
    others = [r for r in reads if r.key_position != 9 and r.layer > reach.get(r.key_position, -1)]
    if others:
        first = min(others, key=lambda r: (-r.share, r.layer, r.key_position))
        cost = 5 * (first.layer - reach.get(first.key_position, 0))
        cost += 0 if first.key_position in reach else 2
        assert (first.key_position in found) or cost > room


def test_the_size_of_a_block_is_never_underestimated(model):
    budget = Budget(heads=2, values=1, high=0, low=0)
    graph = vt.flow_graph(model, PROMPT, heads=2, values=1, neurons=0)
    for layer in graph.layers:
        assert sum(n.layer == layer for n in graph) <= block_size(budget, parts=9)


def test_a_cache_is_followed_like_a_forward_pass(model):
    _, cache = model.run_with_cache(PROMPT)
    by_cache = vt.flow_graph(model, PROMPT, cache=cache, expand=2)
    by_pass = vt.flow_graph(model, PROMPT, expand=2)
    assert [n.id for n in by_cache] == [n.id for n in by_pass]
    assert [n.rank for n in by_cache] == [n.rank for n in by_pass]


def test_several_prompts_are_each_followed_as_alone(native):
    graphs = vt.flow_graphs(native, [PROMPT, "c b a"], expand=2, verbose=False)
    assert graphs == [vt.flow_graph(native, p, expand=2) for p in (PROMPT, "c b a")]


def test_a_part_of_the_blocks_keeps_the_part_of_the_columns(expanded):
    part = expanded.subgraph([1])
    assert {n.layer for n in part if n.layer is not None} == {1}
    assert {c.position for c in part.columns} == {
        n.id.position for n in part if n.id.position is not None
    }
    assert all(set(c.layers) <= {1} for c in part.columns)
    assert from_json(json.loads(json.dumps(to_json(part)))) == part


def test_nodes_are_found_by_their_position_too(expanded):
    assert expanded[f"L1H0@{expanded.position}"] is expanded["L1H0"]
    column = next(c for c in expanded.columns if c.layers)
    state = expanded[f"L0.resid_post@{column.position}"]
    assert state.id.position == column.position and state is not expanded["L0.resid_post"]
    heads = [n for n in expanded.of_kind("head") if n.id.position is not None]
    assert all(
        {v.id.position for v in expanded.values_of(head.id)} == {head.id.position} for head in heads
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"expand": -1}, InputError, "expand must be an integer of at least 0, or None, got -1"),
        (
            {"expand": True},
            InputError,
            "expand must be an integer of at least 0, or None, got True",
        ),
        ({"expand": 1, "max_nodes": -1}, InputError, "max_nodes must be an integer"),
        ({"positions": [99]}, InputError, "position 99 is outside the prompt"),
        ({"positions": [4], "position": 2}, InputError, "position 4 comes after the graph's own"),
    ],
)
def test_wrong_wishes_are_refused(native, arguments, error, message):
    with pytest.raises(error, match=message):
        vt.flow_graph(native, PROMPT, **arguments)


def test_a_position_that_is_not_there_says_which_are(expanded):
    with pytest.raises(GraphError, match=r"no block is shown at position 77; there are blocks at"):
        expanded.at(77)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["columns"][0].update(position=99), "does not fit a graph of position"),
        (lambda d: d["columns"][0].update(hops=0), "0 hops away"),
        (lambda d: d["columns"][-1].update(layers=[1]), "not the first of the graph's"),
        (lambda d: d["columns"][-1].update(hidden={}), "'hidden' is not given for exactly"),
        (lambda d: d["columns"].append(d["columns"][0]), "two columns are at the same position"),
        (lambda d: d["columns"].pop(), "outside the graph's layers and columns"),
    ],
)
def test_a_file_whose_columns_do_not_fit_is_refused(expanded, change, message):
    data = json.loads(json.dumps(to_json(expanded)))
    change(data)
    with pytest.raises(GraphError, match=message):
        from_json(data)


def test_text_and_figure_say_what_was_followed_and_what_was_not(expanded):
    words = expanded.text()
    left = len(expanded.unfollowed)
    assert f"memories back; {left} shown memory values not followed" in words
    column = next(c for c in expanded.columns if c.layers)
    assert f"@{column.position}" in words.partition("followed  ")[2]
    title = expanded.figure().layout.title.text
    assert "followed back" in title and "figure(position=...)" in title
    there = expanded.figure(position=column.position)
    alone = expanded.at(column.position).figure()
    assert there.data[0].node.label == alone.data[0].node.label


def test_it_is_deterministic(native, expanded):
    torch.manual_seed(3)
    assert vt.flow_graph(native, PROMPT, expand=2) == expanded
