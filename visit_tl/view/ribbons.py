"""Where edges run: ribbons from box to box, stacked at each node without crossings."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.view.layout import NODE_WIDTH, Layout


@dataclass(frozen=True, slots=True)
class Ribbon:
    """An edge in px: its index in the graph, its top edge at both ends, and its width."""

    edge: int
    x0: float
    y0: float
    x1: float
    y1: float
    width: float


def order(graph: GraphData, place: Layout) -> list[int]:
    """The indices of the edges in the order in which they are drawn and stacked at their nodes."""
    middles = {name: box.middle for name, box in place.boxes.items()}
    edges = graph.edges
    return sorted(
        range(len(edges)), key=lambda i: (middles[edges[i].source], middles[edges[i].target], i)
    )


def ribbons(graph: GraphData, place: Layout) -> list[Ribbon]:
    """Every edge; at a node, they are stacked from the top in the order of their other ends."""
    leaving: dict[NodeId, float] = defaultdict(float)
    entering: dict[NodeId, float] = defaultdict(float)
    found = []
    for i in order(graph, place):
        edge, width = graph.edges[i], place.edge_widths[i]
        start, end = place.boxes[edge.source], place.boxes[edge.target]
        y0, y1 = start.top + leaving[edge.source], end.top + entering[edge.target]
        leaving[edge.source] += width
        entering[edge.target] += width
        found.append(Ribbon(i, start.left + NODE_WIDTH, y0, end.left, y1, width))
    return found
