"""The strongest path through a graph."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Edge

if TYPE_CHECKING:
    from visit_tl.graph.container import GraphData


def shares(graph: GraphData) -> dict[Edge, float]:
    """The share of each edge, in [0, 1].

    It is the absolute score, divided by the sum over the edges of its kind into its target.
    """
    totals: dict[tuple[NodeId, str], float] = defaultdict(float)
    for edge in graph.edges:
        totals[edge.target, edge.kind] += abs(edge.score)
    return {
        edge: abs(edge.score) / total if (total := totals[edge.target, edge.kind]) > 0 else 0.0
        for edge in graph.edges
    }


def strongest(graph: GraphData, source: NodeId, target: NodeId) -> tuple[Edge, ...]:
    """The path with the largest product of shares; of equal paths, the one with fewer edges.

    Nodes are in the order of the forward pass, so one pass over the edges finds it.
    """
    share = shares(graph)
    # Sums of logarithms: the product of a few hundred shares is too small for a float.
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
    path: list[Edge] = []
    while target != source and target in came:
        path.append(came[target])
        target = came[target].source
    return tuple(reversed(path))
