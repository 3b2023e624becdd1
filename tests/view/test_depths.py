"""The depth of blocks: what is left out, and the edges that lead past it."""

from __future__ import annotations

import pytest

from tests.view.synthetic import realistic
from tests.view.test_layout import check
from visit_tl.view.page.block_depths import BLOCK_KINDS, block_widths, blocks
from visit_tl.view.widths import strengths


def test_blocks_hold_states_heads_and_what_is_added():
    graph = realistic()
    made = blocks(graph)
    assert [n.id for n in made] == [n.id for n in graph if n.kind in BLOCK_KINDS]
    assert not check(made).orphans


def test_edges_lead_past_what_is_left_out_with_the_first_score():
    graph = realistic()
    found = {(str(e.source), str(e.target)): e for e in blocks(graph).edges}
    head, z = graph["L1H3"], next(e for e in graph.edges if str(e.source) == "L1H3")
    assert found["L1H3", "L1.attn_out"].score == z.score
    assert found["L1H3", "L1.attn_out"].kind == "sum"
    assert ("L1.resid_pre", str(head.id)) in found
    assert found["L1.resid_mid", "L1.mlp_out"].kind == "flow"
    assert found["L0.resid_post", "L1.resid_pre"].kind == "flow"
    assert ("L1.resid_pre", "L1.attn_out") not in found


def test_reading_the_stream_is_a_thin_line():
    made = blocks(realistic())
    for edge, width in zip(made.edges, block_widths(made), strict=True):
        if edge.target.kind == "head":
            assert width <= 1.6


def test_strengths_are_shares_of_the_largest_of_a_group():
    graph = realistic()
    found = dict(zip(graph.edges, strengths(graph), strict=True))
    attention = [e for e in graph.edges if (e.source.kind, e.target.kind) == ("value", "head")]
    largest = max(attention, key=lambda e: e.score)
    assert found[largest] == 1
    for edge in attention:
        assert found[edge] == pytest.approx(edge.score / largest.score)
