"""The strongest way through a graph."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Edge

if TYPE_CHECKING:
    from visit_tl.graph.flow import FlowGraph


def shares(graph: FlowGraph) -> dict[Edge, float]:
    """Each edge's absolute score among the edges of its kind into its target, in [0, 1]."""
    totals: dict[tuple[NodeId, str], float] = defaultdict(float)
    for edge in graph.edges:
        totals[edge.target, edge.kind] += abs(edge.score)
    return {
        edge: abs(edge.score) / total if (total := totals[edge.target, edge.kind]) > 0 else 0.0
        for edge in graph.edges
    }


def strongest(graph: FlowGraph, source: NodeId, target: NodeId) -> tuple[Edge, ...]:
    """The way of the largest product of shares; of equal ways, the one of fewer edges.

    Nodes stand in the order of the forward pass, so one walk over the edges finds it.
    """
    share = shares(graph)
    # Sums of logarithms: the product of a few hundred shares is below what a float can hold.
    best: dict[NodeId, tuple[float, int]] = {source: (0.0, 0)}
    came: dict[NodeId, Edge] = {}
    for node in graph.nodes:
        for edge in graph.edges_into(node.id):
            if edge.source not in best or node.id == source:
                continue
            logarithm, length = best[edge.source]
            step = math.log(share[edge]) if share[edge] > 0 else -math.inf
            reached = (logarithm + step, length - 1)
            if node.id not in best or reached > best[node.id]:
                best[node.id], came[node.id] = reached, edge
    way: list[Edge] = []
    while target != source and target in came:
        way.append(came[target])
        target = came[target].source
    return tuple(reversed(way))
