"""A graph at the depth of blocks: states, heads, and what attention and MLP add."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Edge
from visit_tl.view.widths import SPINE, widths

BLOCK_KINDS: Final = SPINE | {"head", "attn_out", "mlp_out", "final_norm", "logits"}
"""The kinds of nodes that are shown at this depth."""

_READING: Final = 1.6
"""Px."""


def blocks(graph: FlowGraph) -> FlowGraph:
    """The graph without memories, queries, rows and norms: edges lead past what was left out.

    An edge that leads past others carries the kind and the score of the first of them: what its
    source adds, or the norm of its source; of several ways between two nodes, that of the largest
    score.
    """
    kept = tuple(node for node in graph.nodes if node.kind in BLOCK_KINDS)
    edges: list[Edge] = []
    for node in kept:
        found: dict[NodeId, Edge] = {}
        for first in graph.edges_out_of(node.id):
            for end in _ends(graph, first.target):
                if end not in found or abs(first.score) > abs(found[end].score):
                    # What patching the first edge does is not what the way to `end` does.
                    effect = first.effect if first.target == end else None
                    found[end] = replace(first, target=end, effect=effect)
        edges += found.values()
    order = {node.id: i for i, node in enumerate(kept)}
    edges.sort(key=lambda edge: (order[edge.target], order[edge.source]))
    return replace(graph, nodes=kept, edges=tuple(edges))


def block_widths(graph: FlowGraph) -> tuple[float, ...]:
    """Edge widths in px of a graph of this depth.

    As `widths.widths`, but thin where a head reads the stream: each reads all of it, which as a
    width would say that most of the stream goes there.
    """
    return tuple(
        min(width, _READING) if edge.target.kind == "head" else width
        for edge, width in zip(graph.edges, widths(graph), strict=True)
    )


def _ends(graph: FlowGraph, start: NodeId) -> list[NodeId]:
    """The nodes of this depth that a way through left-out nodes leads to."""
    ends, seen, waiting = [], {start}, deque([start])
    while waiting:
        name = waiting.popleft()
        if name.kind in BLOCK_KINDS:
            ends.append(name)
            continue
        for edge in graph.edges_out_of(name):
            if edge.target not in seen:
                seen.add(edge.target)
                waiting.append(edge.target)
    return ends
