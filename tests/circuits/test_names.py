"""The spellings of heads, inputs, MLPs and edges, and what is wrong with those that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_tl.errors import GraphError
from visit_tl.graph.circuit_parts import HEAD_INPUTS, Edge, Part, is_edge, parse_end
from visit_tl.graph.ids import NodeId

HEAD = Part("head", 9, 6)

SPELLINGS = [
    *(("9.6", None), ("L9H6", None), ("a9.h6", None), ("A9.6", None), ("<a9.6>", None)),
    *((" a9.h6 ", None), ((9, 6), None), ((np.int64(9), np.int64(6)), None)),
    *((NodeId("head", 9, 6), None), (HEAD, None)),
    *(("A9.6.Q", "q"), ("A9.6.K", "k"), ("<a9.6_q>", "q"), ("<a9.6_v>", "v")),
    *(("a9.h6<q>", "q"), ("L9H6.v", "v"), ("L9H6<k>", "k"), ("9.6.q", "q"), ("9.6_k", "k")),
    *(("L9H6.q", "q"), (NodeId("head_query", 9, 6), "q")),
]


@pytest.mark.parametrize(("spelled", "read"), SPELLINGS)
def test_every_spelling_of_a_head_is_read(spelled, read):
    assert parse_end(spelled) == (HEAD, read)


@pytest.mark.parametrize(
    ("spelled", "part"),
    [
        *((text, Part("mlp", 3)) for text in ("m3", "M3", "<m3>", "mlp3", "MLP 3", "mlp_3")),
        *((text, Part("mlp", 3)) for text in ("L3.mlp_out", "3_mlp_out")),
        (NodeId("mlp_out", 3), Part("mlp", 3)),
        *((text, Part("input")) for text in ("input", "embed", "<embed>", "Resid Start")),
        *((text, Part("input")) for text in ("pos_embed", "L0.resid_pre")),
        *((text, Part("logits")) for text in ("logits", "output", "unembed", "Resid End")),
        *((text, Part("logits")) for text in ("<resid_post>", "final_post")),
    ],
)
def test_mlps_and_the_two_ends_are_read(spelled, part):
    assert Part.parse(spelled) == part


@pytest.mark.parametrize(
    "spelled",
    [
        *("a0.h1->a5.h5<k>", "L0H1->L5H5<k>", "A0.1->A5.5.K", "0.1 -> 5.5.k", "<a0.1>-><a5.5_k>"),
        *("L0H1 → L5H5.k", ("0.1", "5.5", "k"), ("L0H1", "a5.h5<k>"), ("0.1", "5.5.K", "K")),
        (Part("head", 0, 1), NodeId("head", 5, 5), "k"),
        ("blocks.5.hook_k_input", [None, None, 5], "blocks.0.attn.hook_result", [None, None, 1]),
        ("blocks.5.hook_k_input", (None, None, 5), "blocks.0.attn.hook_z", (None, None, 1)),
    ],
)
def test_every_spelling_of_an_edge_is_read(spelled):
    edge = Edge(Part("head", 0, 1), Part("head", 5, 5), "k")
    assert Edge.parse(spelled) == edge
    assert Edge.parse(edge) is edge
    assert is_edge(spelled)


@pytest.mark.parametrize(
    ("spelled", "printed"),
    [
        ("input->logits", "input->logits"),
        ("MLP 3->Resid End", "m3->logits"),
        ("a3.h0->m3", "L3H0->m3"),
        ("m3->a4.h0<q>", "m3->L4H0<q>"),
        (("blocks.11.hook_resid_post", [None], "blocks.3.hook_mlp_out", [None]), "m3->logits"),
        (("blocks.4.hook_mlp_in", [None], "blocks.0.hook_resid_pre", [None]), "input->m4"),
        (("blocks.4.hook_mlp_in", [None], "hook_embed", [None]), "input->m4"),
    ],
)
def test_edges_of_mlps_and_ends(spelled, printed):
    assert str(Edge.parse(spelled)) == printed


class TorchIndex:
    """What ACDC's index looks like from outside."""

    def __init__(self, entries):
        self.hashable_tuple = tuple(entries)


def test_the_edges_inside_heads_that_acdc_counts():
    index = TorchIndex([None, None, 6])
    edge = Edge.parse(("blocks.9.attn.hook_q", index, "blocks.9.hook_q_input", index))
    assert (edge.source, edge.target, edge.input, edge.internal) == (HEAD, HEAD, "q", True)
    assert str(edge) == "L9H6->L9H6<q>"
    assert not Edge.parse("a8.h6->a9.h6<q>").internal


HEADS = st.builds(Part, st.just("head"), st.integers(0, 99), st.integers(0, 99))
MLPS = st.builds(Part, st.just("mlp"), st.integers(0, 99))
PARTS = st.one_of(HEADS, MLPS, st.just(Part("input")), st.just(Part("logits")))


@given(PARTS, PARTS, st.sampled_from(HEAD_INPUTS))
def test_what_is_printed_is_read_again(source, target, read):
    assert Part.parse(str(source)) == source
    assert Part.parse(source.node) == source
    if source.feeds(target):
        edge = Edge(source, target, read if target.kind == "head" else None)
        assert Edge.parse(str(edge)) == edge


@given(PARTS, PARTS)
def test_one_part_feeds_the_other_as_the_forward_pass_runs(a, b):
    """A brute-force twin: the time at which a part reads and the time at which it writes."""

    def time(part, writes):
        if part.layer is None:
            return -1 if part.kind == "input" else 10**6
        return 2 * part.layer + (part.kind == "mlp") + (0.5 if writes else 0)

    before = a.kind != "logits" and b.kind != "input" and time(a, True) < time(b, False)
    assert a.feeds(b) == before
    side_by_side = (a.kind, b.kind) == ("head", "mlp") and a.layer == b.layer
    assert a.feeds(b, parallel=True) == (before and not side_by_side)
    if a != b:
        assert not (a.feeds(b) and b.feeds(a))


def test_the_node_of_a_part_is_where_a_graph_has_it():
    assert str(Part("mlp", 3).node) == "L3.mlp_out"
    assert str(HEAD.node) == "L9H6"
    assert (str(Part("input").node), str(Part("logits").node)) == ("L0.resid_pre", "logits")


WRONG = ["", "9", "L9", "H6", "L9H6H", "9.6.x", "m", "a1", "L9H6.k3", "L9N120", "m3<q>", "-1.0"]


@pytest.mark.parametrize("text", [*WRONG, "L9H6@4", "L1.resid_pre", "<<a9.6>>"])
def test_what_is_no_part_is_refused_with_the_spellings(text):
    with pytest.raises(GraphError, match=r"is no part of a circuit; heads look like L9H6, 9\.6"):
        Part.parse(text)


@pytest.mark.parametrize("spelled", [9.6, None, (9,), (True, False), (9, 6, 1)])
def test_what_is_no_text_is_refused_too(spelled):
    with pytest.raises(GraphError, match="is no part of a circuit"):
        parse_end(spelled)


def test_an_input_is_no_whole_part():
    with pytest.raises(GraphError, match=r"'A9\.6\.Q' names the q input of L9H6, but a whole part"):
        Part.parse("A9.6.Q")


ACDC_END = ("blocks.9.attn.hook_result", [None, None, 6])


@pytest.mark.parametrize(
    ("spelled", "words"),
    [
        ("9.6", "is no edge; edges look like a0.h1->a5.h5<k>"),
        ("m1->m2->m3", "is no edge"),
        (("m1",), r"as a tuple it is \(source, target\)"),
        (7, "7 is no edge"),
        ("a0.h1->a5.h5", "must say at which of its inputs: L5H5<q>, <k> or <v>; got None"),
        (("0.1", "5.5", "o"), "got 'o'"),
        (("0.1", "5.5.q", "k"), "names two inputs, q and k"),
        (("m1", "m2", "q"), "does not end at a head and has no q, k or v; got 'q'"),
        ("a5.h5->a0.h1<k>", "L5H5->L0H1<k> runs against the forward pass"),
        ("a5.h5->a5.h6<k>", "runs against the forward pass"),
        ("m5->m5", "runs against the forward pass"),
        ("m5->a5.h0<q>", "runs against the forward pass"),
        ("logits->m3", "runs against the forward pass"),
        ("m3->input", "runs against the forward pass"),
        ((*ACDC_END, "blocks.9.attn.hook_q", [None, None, 6]), "is one of ACDC's placeholders"),
        (("blocks.3.hook_mlp_out", None, "blocks.3.hook_mlp_in", None), "ACDC's placeholders"),
        (("blocks.9.hook_z", None, *ACDC_END), "is no end of an ACDC edge; those are"),
        (("blocks.9.hook_q_input", [None], *ACDC_END), r"must end in a head, such as \[None, N"),
        (
            ("blocks.9.attn.hook_q", [6], "blocks.9.hook_k_input", [6]),
            "is computed from the q input of L9H6 alone, not from blocks.9.hook_k_input",
        ),
    ],
)
def test_what_is_no_edge_says_why(spelled, words):
    with pytest.raises(GraphError, match=words):
        Edge.parse(spelled)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Part("head", 1), "a head needs head as an integer from 0 up, got None"),
        (lambda: Part("mlp", -1), "a mlp needs layer as an integer from 0 up, got -1"),
        (lambda: Part("mlp", 1, 2), "the mlp has no head, got 2"),
        (lambda: Part("input", 0), "the input has no layer, got 0"),
    ],
)
def test_a_part_has_the_indices_that_it_needs_and_no_others(made, words):
    with pytest.raises(GraphError, match=words):
        made()
