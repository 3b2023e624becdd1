"""Edge scores to widths in pixels: proportional within a group, so that every group is readable.

Attention weights, activations and norms of the residual stream differ by orders of magnitude and
have no common unit. Edges are therefore compared within groups, and the true score is in the hover:

- the spine: everything that is summed into or passed along the residual stream, over all blocks;
- every other pair of kinds of nodes (memory values into heads, neurons into mlp_out, ...), over
  all blocks that are shown.

The largest score of a group gets the group's full width. An edge never gets thinner than
`style.THINNEST`, so that a small score is still there to be hovered.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Edge
from visit_tl.view.style import THINNEST

SPINE: Final = frozenset(("resid_pre", "resid_mid", "resid_post"))
"""The kinds of nodes that are states of the residual stream."""

WIDEST_SPINE: Final = 16.0
WIDEST: Final = 11.0
WIDEST_FAN: Final = 130.0
"""The most, in px, that the edges of one group take together at one node."""

# A bias is summed beside the neurons, so both are measured by one scale.
_SAME: Final = {"b_O": "attn_neuron", "b_out": "neuron"}


def widths(graph: FlowGraph) -> tuple[float, ...]:
    """The width of every edge in px, in the order of `graph.edges`."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, edge in enumerate(graph.edges):
        groups[_group(edge)].append(i)
    found = [THINNEST] * len(graph.edges)
    for name, members in groups.items():
        scale = _scale(name, [graph.edges[i] for i in members])
        for i in members:
            found[i] = max(THINNEST, scale * _size(graph.edges[i]))
    return tuple(found)


def strengths(graph: FlowGraph) -> tuple[float, ...]:
    """Every edge's absolute score as a share of the largest of its group, in [0, 1]."""
    largest: dict[tuple[str, ...], float] = defaultdict(float)
    for edge in graph.edges:
        name = _group(edge)
        largest[name] = max(largest[name], _size(edge))
    return tuple(
        _size(edge) / largest[name] if largest[name := _group(edge)] else 0.0
        for edge in graph.edges
    )


def heights(graph: FlowGraph, edge_widths: tuple[float, ...]) -> dict[NodeId, float]:
    """The height of every node in px: what enters or what leaves it, whichever is more."""
    into: dict[NodeId, float] = defaultdict(float)
    out_of: dict[NodeId, float] = defaultdict(float)
    for edge, width in zip(graph.edges, edge_widths, strict=True):
        into[edge.target] += width
        out_of[edge.source] += width
    return {node.id: max(into[node.id], out_of[node.id]) for node in graph.nodes}


def column_sums(graph: FlowGraph, tall: Mapping[NodeId, float]) -> list[float]:
    """The heights of all nodes in each of the columns that a Sankey diagram makes by itself.

    Plotly (d3-sankey, `justify`) puts a node into the column of its longest path from a source,
    and a node that nothing leaves into the last one; it then scales all links so that the fullest
    column fits. Nodes without a link are not there at all.
    """
    depth = {node.id: 0 for node in graph.nodes if tall[node.id] > 0}
    ends = set(depth)
    for edge in sorted(graph.edges, key=_order(graph)):
        depth[edge.target] = max(depth[edge.target], depth[edge.source] + 1)
        ends.discard(edge.source)
    last = max(depth.values(), default=0)
    sums = [0.0] * (last + 1)
    for name in depth:
        sums[last if name in ends else depth[name]] += tall[name]
    return sums


def _order(graph: FlowGraph) -> Callable[[Edge], int]:
    place = {node.id: i for i, node in enumerate(graph.nodes)}
    return lambda edge: place[edge.target]


def _group(edge: Edge) -> tuple[str, ...]:
    source, target = edge.source.kind, edge.target.kind
    if target in SPINE and (source in SPINE or edge.kind == "sum"):
        return ("spine",)
    return (_SAME.get(source, source), target, edge.kind)


def _scale(name: tuple[str, ...], edges: list[Edge]) -> float:
    largest = max(_size(edge) for edge in edges)
    if largest == 0:
        return 0.0
    if name == ("spine",):
        return WIDEST_SPINE / largest
    at_a_node: dict[tuple[int, NodeId], float] = defaultdict(float)
    for edge in edges:
        at_a_node[0, edge.source] += _size(edge)
        at_a_node[1, edge.target] += _size(edge)
    return min(WIDEST / largest, WIDEST_FAN / max(at_a_node.values()))


def _size(edge: Edge) -> float:
    # Kept within 1e-100..1e100, so that sums of sizes and their quotients stay finite.
    if not math.isfinite(edge.score) or abs(edge.score) < 1e-100:
        return 0.0
    return min(abs(edge.score), 1e100)
