"""Tokens of a node are packed, and compare, print and copy as the tuple that they stand for."""

import copy
import pickle

import pytest

import visit_tl as vt
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Node, TokenProb, TokenProbs

TOP = (TokenProb(" b", 3, 0.375), TokenProb("<0xE2>", 2**31 - 1, 2**-20))
PACKED = TokenProbs([3, 2**31 - 1], [0.375, 2**-20], {3: " b", 2**31 - 1: "<0xE2>", 5: "another"})


def node(top):
    return Node(NodeId("logits"), top, (), entropy=1.0, norm=2.0, rank=0, prob=0.375)


def test_packed_tokens_are_a_sequence_of_what_went_in():
    assert len(PACKED) == 2 and list(PACKED) == list(TOP)
    assert PACKED[0] == TOP[0] and PACKED[-1] == TOP[1] and PACKED[:1] == TOP[:1]
    assert TOP[1] in PACKED and [*reversed(PACKED)] == [*reversed(TOP)]
    for outside in (2, -3):
        with pytest.raises(IndexError):
            PACKED[outside]
    assert PACKED[-2] == TOP[0]
    assert PACKED.unpacked() == ([" b", "<0xE2>"], (0.375, 2**-20))
    assert not TokenProbs([], [], {})
    assert PACKED + PACKED == PACKED + TOP == TOP + PACKED == TOP + TOP


def test_packed_and_plain_tokens_make_the_same_node():
    assert node(PACKED) == node(TOP) and node(TOP) == node(PACKED)
    assert hash(node(PACKED)) == hash(node(TOP))
    assert repr(node(PACKED)) == repr(node(TOP))
    assert node(PACKED).label == " b"
    assert node(PACKED) != node(TOP[:1])
    assert list(TOP) != PACKED


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_copies_are_equal_and_carry_no_text_of_others(again):
    copied = again(PACKED)
    assert copied == PACKED == TOP and hash(copied) == hash(TOP)
    assert b"another" not in pickle.dumps(PACKED)


def test_graphs_of_one_model_share_the_names_of_its_places(native):
    one, two = (vt.flow_graph(native, prompt) for prompt in ("a b c", "c b a"))
    places = {node.id: node.hook for node in one if node.hook is not None}
    both = [(places[n.id], n.hook) for n in two if n.id in places and n.kind in ("head", "neuron")]
    assert both and all(mine is theirs for mine, theirs in both)
