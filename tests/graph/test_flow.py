"""Queries of a graph, on small graphs whose answers can be seen."""

from dataclasses import replace

import pytest

import visit_tl as vt
from visit_tl import GraphError
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Edge


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    return vt.flow_graph(made("native"), "a b c d", target=" b")


def test_a_result_prints_as_its_text_and_shows_itself_shortly(native):
    prompt = "a b c d"
    graph = vt.flow_graph(native, prompt)
    results = [
        graph,
        vt.lens_table(native, prompt),
        graph.diff(vt.flow_graph(native, prompt, heads=1, target=graph.target_id)),
        vt.backward_lens(native, prompt),
        vt.reversed_attention(native, prompt),
        graph.why("L1H1", 2),
        vt.studies.roles(native, length=6),
    ]
    for result in results:
        assert str(result) == f"{result}"
        assert len(str(result).splitlines()) > 3 and type(result).__name__ not in str(result)
    assert str(graph) == graph.text() and str(results[3]) == results[3].text()
    assert len(repr(graph)) < 800 and repr(graph.nodes[0].id) == "NodeId.parse('L0.resid_pre')"


def test_nodes_are_found_by_id_in_any_spelling(graph):
    assert graph["L1H0"] is graph["1.0"] is graph[NodeId("head", 1, 0)]
    assert "L1H0" in graph and "L1H99" not in graph and "nonsense" not in graph and 3 not in graph


def test_a_node_that_is_not_there_says_what_to_do(graph):
    with pytest.raises(
        GraphError, match=r"L1H99 is not in this graph of layers 0\.\.1; it was pru"
    ):
        graph["L1H99"]


def test_ancestors_and_descendants_meet_only_in_the_node(graph):
    above, below = graph.ancestors("L1H0"), graph.descendants("L1H0")
    assert NodeId("resid_pre", 0) in above and NodeId("logits") in below
    assert not above & below
    assert NodeId("head", 1, 0) not in above | below
    assert graph.descendants("logits") == frozenset()


def test_edges_know_where_their_ends_stand(graph):
    for edge, source, target in zip(graph.edges, *graph.ends, strict=True):
        assert graph.nodes[source].id == edge.source and graph.nodes[target].id == edge.target
    part = graph.subgraph([1])
    for edge, source, target in zip(part.edges, *part.ends, strict=True):
        assert part.nodes[source].id == edge.source and part.nodes[target].id == edge.target


def test_a_graph_of_one_position_is_its_own_part(graph):
    assert graph.at(graph.position) is graph


def test_words_are_found_among_what_nodes_promote(graph):
    word = graph["L1H0"].label
    assert graph["L1H0"] in graph.find(word)
    assert graph.find("no such word") == ()


def test_a_negative_neuron_is_labelled_by_its_bottom_token(graph):
    negative = [n for n in graph.of_kind("neuron", "attn_neuron") if n.coefficient < 0]
    assert negative
    for node in negative:
        assert node.negative
        assert (node.label, node.promoted) == (node.bottom[0].token, node.bottom)
    positive = next(n for n in graph.of_kind("neuron") if n.coefficient > 0)
    assert (positive.label, positive.suppressed) == (positive.top[0].token, positive.bottom)
    # A key's coefficient is an inner product; a negative one does not turn what the key reads.
    assert not any(n.negative for n in graph.of_kind("neuron_key"))


def test_a_subgraph_keeps_its_layers_and_the_end_only_with_the_last(graph):
    first = graph.subgraph([0])
    assert first.layers == (0,) and "logits" not in first and set(first.hidden) == {0}
    last = graph.subgraph([1])
    assert "logits" in last and all(n.layer in (1, None) for n in last)
    assert graph.subgraph([0, 1]) == graph


@pytest.mark.parametrize("layers", [[], [2], [0, 5]])
def test_a_subgraph_of_layers_that_are_not_there_is_refused(graph, layers):
    with pytest.raises(GraphError, match=r"not in this graph, which has 0\.\.1"):
        graph.subgraph(layers)


def test_an_unknown_kind_is_refused(graph):
    with pytest.raises(GraphError, match="'heads' is no kind of node"):
        graph.of_kind("heads")


def test_the_table_of_heads_says_what_each_says_and_where_it_looks(graph):
    table = graph.heads()
    assert list(table.columns) == [
        "top", "bottom", "rank", "prob", "norm", "looks_at", "entropy", "attribution", "effect",
        "gradient", "gradient_rank", "reversed", "roles",
    ]  # fmt: skip
    assert list(table.index) == [f"L{layer}H{h}" for layer in (0, 1) for h in range(4)]
    row = table.loc["L1H2"]
    node = graph["L1H2"]
    assert row["top"] == [t.token for t in node.top] and row["rank"] == node.rank
    token, position, attention = row["looks_at"][0]
    assert attention == max(node.attention) and token == graph.tokens[position]


def test_the_table_of_nodes_has_a_row_for_each(graph):
    assert list(graph.to_dataframe().index) == [str(n.id) for n in graph]


def test_edges_must_join_nodes_of_the_graph_in_the_order_of_the_pass(graph):
    outside = Edge(NodeId("head", 7, 7), NodeId("logits"), "flow", 1.0)
    with pytest.raises(GraphError, match="ends at L7H7, which is not a node of this graph"):
        replace(graph, edges=(*graph.edges, outside))
    backwards = Edge(NodeId("logits"), NodeId("resid_pre", 0), "flow", 1.0)
    with pytest.raises(GraphError, match="runs against the forward pass"):
        replace(graph, edges=(*graph.edges, backwards))
    with pytest.raises(GraphError, match=r"L0\.resid_pre appears twice"):
        replace(graph, nodes=(*graph.nodes, graph.nodes[0]))
