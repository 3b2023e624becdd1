"""The grammar of node ids: what is printed is what is parsed."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from visit_tl import GraphError, NodeId, flow_graph
from visit_tl.graph.ids import FEATURE_KINDS, FEATURE_SITES, KINDS

INDEX = st.integers(0, 999_999)


@st.composite
def node_ids(draw):
    kind = draw(st.sampled_from(KINDS))
    layer = None if kind in ("final_norm", "logits") else draw(INDEX)
    head = draw(INDEX) if kind in ("head", "head_query", "key", "value") else None
    key_position = draw(INDEX) if kind in ("key", "value") else None
    rows = ("attn_neuron", "neuron", "neuron_key", "feature")
    neuron = draw(INDEX) if kind in rows else None
    position = None if layer is None else draw(st.none() | INDEX)
    site = draw(st.sampled_from(FEATURE_SITES)) if kind in FEATURE_KINDS else None
    expert = None
    if kind in ("expert", "neuron", "neuron_key", "b_out"):
        of_one = st.integers(-9, 999)
        expert = draw(of_one if kind == "expert" else st.none() | of_one)
    return NodeId(kind, layer, head, key_position, neuron, position, site, expert)


# The first call of a checked function imports pydantic.
@settings(deadline=None)
@given(node_ids())
def test_every_id_parses_to_itself(node_id):
    assert NodeId.parse(str(node_id)) == node_id
    assert NodeId.parse(node_id) is node_id
    assert eval(repr(node_id)) == node_id


@given(node_ids(), node_ids())
def test_no_two_ids_print_alike(one, other):
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize("spelling", ["L9H6", "9.6", "a9.h6", "A9.6", "9.h6"])
def test_heads_are_understood_in_other_tools_spellings(spelling):
    assert NodeId.parse(spelling) == NodeId("head", 9, 6)


def test_other_positions_stand_at_the_end():
    assert str(NodeId("value", 9, 6, 3, position=4)) == "L9H6.v3@4"
    assert NodeId.parse("9.6@4") == NodeId("head", 9, 6).at(4)
    assert NodeId("head", 9, 6, position=4).at(None) == NodeId("head", 9, 6)


@given(st.text(max_size=12))
def test_any_text_is_an_id_or_a_graph_error(text):
    try:
        parsed = NodeId.parse(text)
    except GraphError as error:
        assert "is no node id; ids look like L9H6" in str(error)
    else:
        assert NodeId.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "L9",
        "L9H",
        "H6",
        "L9H6.v",
        "L9H6.x3",
        "L-1H0",
        "L9.resid",
        "L9H6 ",
        "L٩H6",
        "9.",
        "logits@3",
        "L9H6@",
        "@4",
        "L9H6@4@5",
    ],
)
def test_what_is_no_id_is_refused(text):
    with pytest.raises(GraphError, match="is no node id"):
        NodeId.parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("head", 9), "needs head as an integer from 0 up, got None"),
        (("head", 9, -1), "needs head as an integer from 0 up, got -1"),
        (("head", True, 1), "needs layer as an integer from 0 up, got True"),
        (("logits", 3), "a node of kind logits has no layer, got 3"),
        (("z", 3, 1), "a node of kind z has no head, got 1"),
        (("head", 3, 1, None, None, -2), "the position of a node of kind head is -2; it must be"),
        (("logits", None, None, None, None, 2), "the final norm and the logits have none"),
    ],
)
def test_an_id_has_exactly_the_indices_of_its_kind(arguments, message):
    with pytest.raises(GraphError, match=message):
        NodeId(*arguments)


def test_a_graph_has_one_object_for_each_name(model):
    graph = flow_graph(model, [1, 12, 3], expand=1)
    ids = {node.id: node.id for node in graph}
    ends = [end for edge in graph.edges for end in (edge.source, edge.target)]
    states = {"resid_pre", "resid_post", "attn_in", "final_norm", "logits"}
    assert all(end is ids[end] for end in ends if end.kind not in states)
