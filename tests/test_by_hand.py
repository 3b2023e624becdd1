"""One block with hand-set weights: every node, edge and score is stated.

Tokens 0, 1, 2 embed as unit vectors; positions, norms and most weights are zero. At position 2:

- head 0 scores token 0 with log 2 and the others with 0, so it attends 1/2, 1/4, 1/4. Its values
  are (3, 0), (0, 3), (0, 0), so z = (3/2, 3/4); W_O turns the first entry into e3 and the second
  into 2 e1: the head adds (0, 3/2, 0, 3/2).
- head 1 attends 1/3 everywhere; only token 2 has a value, (1, 0); W_O turns it into -e0: the head
  adds (-1/3, 0, 0, 0). Its second entry of z is 0.
- b_O is e2 / 2, so resid_mid = e2 + attn_out = (-1/3, 3/2, 3/2, 3/2).
- neuron 0 has 3/2 at its input and adds 3/2 * 2 e3; neuron 1 has -3/2, which ReLU turns to 0.
  b_out is -e3, so resid_post = (-1/3, 3/2, 3/2, 7/2) = logits.
"""

import math

import pytest
import torch

import visit_tl as vt
from tests import tiny
from visit_tl.graph.records import Hidden, Hook

THIRD = 1 / 3


@pytest.fixture(scope="module")
def graph():
    return vt.flow_graph(tiny.hand_set(), [0, 1, 2], values=3)


VECTORS = {
    "L0.resid_pre": (0, 0, 1, 0),
    "L0.attn_in": (0, 0, 1, 0),
    # q W_K^T: only head 0 has a query, log 2 * sqrt 2 in its first entry, and W_K reads e0 there.
    "L0.query": (math.log(2) * 2**0.5, 0, 0, 0),
    "L0H0.q": (math.log(2) * 2**0.5, 0, 0, 0),
    "L0H1.q": (0, 0, 0, 0),
    # k W_Q^T: only token 0 has a key, (1, 0), and W_Q writes log 2 * sqrt 2 e2 there.
    "L0H0.k0": (0, 0, math.log(2) * 2**0.5, 0),
    "L0H0.k1": (0, 0, 0, 0),
    "L0H0.k2": (0, 0, 0, 0),
    "L0H1.k0": (0, 0, 0, 0),
    "L0H1.k1": (0, 0, 0, 0),
    "L0H1.k2": (0, 0, 0, 0),
    "L0H0.v0": (0, 0, 0, 3),
    "L0H0.v1": (0, 6, 0, 0),
    "L0H0.v2": (0, 0, 0, 0),
    "L0H1.v0": (0, 0, 0, 0),
    "L0H1.v1": (0, 0, 0, 0),
    "L0H1.v2": (-1, 0, 0, 0),
    "L0H0": (0, 1.5, 0, 1.5),
    "L0H1": (-THIRD, 0, 0, 0),
    "L0.z": (-THIRD, 1.5, 0, 1.5),
    "L0O0": (0, 0, 0, 1),
    "L0O1": (0, 2, 0, 0),
    "L0O2": (-1, 0, 0, 0),
    "L0.b_O": (0, 0, 0.5, 0),
    "L0.attn_out": (-THIRD, 1.5, 0.5, 1.5),
    "L0.resid_mid": (-THIRD, 1.5, 1.5, 1.5),
    "L0.mlp_in": (-THIRD, 1.5, 1.5, 1.5),
    "L0N0.k": (0, 1, 0, 0),
    "L0N0": (0, 0, 0, 2),
    "L0.b_out": (0, 0, 0, -1),
    "L0.mlp_out": (0, 0, 0, 2),
    "L0.resid_post": (-THIRD, 1.5, 1.5, 3.5),
    "final_norm": (-THIRD, 1.5, 1.5, 3.5),
    "logits": (-THIRD, 1.5, 1.5, 3.5),
}


def norm(name: str) -> float:
    return math.hypot(*VECTORS[name])


EDGES = {
    ("L0.resid_pre", "L0.attn_in"): ("flow", 1),
    ("L0.attn_in", "L0.query"): ("flow", 1),
    ("L0.query", "L0H0.q"): ("flow", math.log(2) * 2**0.5),
    ("L0.query", "L0H1.q"): ("flow", 0),
    ("L0H0.q", "L0H0.k0"): ("coefficient", 1 / 2),
    ("L0H0.k0", "L0H0.v0"): ("coefficient", 1 / 2),
    ("L0H0.v0", "L0H0"): ("coefficient", 1 / 2),
    **{
        edge: ("coefficient", share)
        for head, share in ((0, 1 / 4), (1, THIRD))
        for j in ((1, 2) if head == 0 else (0, 1, 2))
        for edge in (
            (f"L0H{head}.q", f"L0H{head}.k{j}"),
            (f"L0H{head}.k{j}", f"L0H{head}.v{j}"),
            (f"L0H{head}.v{j}", f"L0H{head}"),
        )
    },
    ("L0H0", "L0.z"): ("sum", norm("L0H0")),
    ("L0H1", "L0.z"): ("sum", THIRD),
    ("L0.z", "L0O0"): ("coefficient", 1.5),
    ("L0.z", "L0O1"): ("coefficient", 0.75),
    ("L0.z", "L0O2"): ("coefficient", THIRD),
    ("L0O0", "L0.attn_out"): ("sum", 1.5),
    ("L0O1", "L0.attn_out"): ("sum", 1.5),
    ("L0O2", "L0.attn_out"): ("sum", THIRD),
    ("L0.b_O", "L0.attn_out"): ("sum", 0.5),
    ("L0.resid_pre", "L0.resid_mid"): ("sum", 1),
    ("L0.attn_out", "L0.resid_mid"): ("sum", norm("L0.attn_out")),
    ("L0.resid_mid", "L0.mlp_in"): ("flow", norm("L0.resid_mid")),
    ("L0.mlp_in", "L0N0.k"): ("coefficient", 1.5),
    ("L0N0.k", "L0N0"): ("coefficient", 1.5),
    ("L0N0", "L0.mlp_out"): ("sum", 3),
    ("L0.b_out", "L0.mlp_out"): ("sum", 1),
    ("L0.resid_mid", "L0.resid_post"): ("sum", norm("L0.resid_mid")),
    ("L0.mlp_out", "L0.resid_post"): ("sum", 2),
    ("L0.resid_post", "final_norm"): ("flow", norm("L0.resid_post")),
    ("final_norm", "logits"): ("flow", norm("L0.resid_post")),
}


def test_the_graph_has_exactly_the_nodes_worked_out_by_hand(graph):
    assert {str(node.id) for node in graph} == set(VECTORS)


def test_every_readout_is_the_softmax_of_the_vector_worked_out_by_hand(graph):
    for name, vector in VECTORS.items():
        probs = torch.tensor(vector, dtype=torch.float64).softmax(-1)
        order = sorted(range(4), key=lambda i: (-vector[i], i))
        node = graph[name]
        assert [t.id for t in node.top] == order, name
        assert [t.prob for t in node.top] == pytest.approx(probs[order].tolist(), abs=1e-6), name
        assert [t.id for t in node.bottom] == sorted(range(4), key=lambda i: (vector[i], i)), name
        assert node.norm == pytest.approx(math.hypot(*vector), abs=1e-6), name
        assert node.entropy == pytest.approx(float(-(probs * probs.log()).sum()), abs=1e-6), name
        assert node.rank == sum(v > vector[3] for v in vector), name
        assert node.prob == pytest.approx(float(probs[3]), abs=1e-6), name


def test_every_edge_has_the_kind_and_score_worked_out_by_hand(graph):
    found = {(str(e.source), str(e.target)): (e.kind, e.score) for e in graph.edges}
    assert set(found) == set(EDGES)
    for edge, (kind, score) in EDGES.items():
        assert found[edge][0] == kind, edge
        assert found[edge][1] == pytest.approx(score, abs=1e-6), edge


def test_the_prediction_is_the_target_where_none_is_given(graph):
    assert (graph.target_id, graph.target_given) == (3, False)
    assert graph["logits"].top[0].id == 3


def test_coefficients_tokens_hooks_and_what_is_hidden(graph):
    assert graph["L0H0.v1"].coefficient == pytest.approx(1 / 4)
    assert graph["L0H0.v1"].token == "<1>"
    assert graph["L0H0"].attention == pytest.approx((1 / 2, 1 / 4, 1 / 4))
    assert graph["L0N0"].coefficient == pytest.approx(1.5)
    assert graph["L0O2"].coefficient == pytest.approx(THIRD)
    assert graph["L0.b_O"].hook is None
    assert graph["L0H0.v1"].hook == Hook("blocks.0.attn.hook_v", (0, 1, 0))
    assert graph["L0O2"].hook == Hook("blocks.0.attn.hook_z", (0, 2, 1, 0))
    assert graph["L0N0"].hook == Hook("blocks.0.mlp.hook_post", (0, 2, 0))
    # Entry 3 of z and neuron 1 are zero: they add nothing, so they are neither kept nor hidden.
    assert graph.hidden[0] == Hidden()
    assert graph.residual_error[0] < 1e-6
