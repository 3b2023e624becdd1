"""Edge scores to widths in pixels: proportional within a group, so that every group is readable.

Attention weights, activations and norms of the residual stream differ by orders of magnitude and
have no common unit. Edges are therefore compared within groups, and the true score is in the hover:

- the spine: everything that is summed into or passed along the residual stream, over all blocks;
- every other pair of kinds of nodes (memory values into heads, neurons into mlp_out, ...), over
  all blocks that are shown.

The largest score of a group gets the group's full width. An edge never gets thinner than
`style.THINNEST`, so that an edge with a small score can still be hovered over.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FEATURE_KINDS
from visit_tl.graph.records import Edge
from visit_tl.view.style import THINNEST

SPINE: Final = frozenset(("resid_pre", "resid_mid", "resid_post"))
"""The kinds of nodes that are states of the residual stream."""

WIDEST_SPINE: Final = 16.0
WIDEST: Final = 11.0
WIDEST_FAN: Final = 130.0
"""The most, in px, that the edges of one group take together at one node."""

# A bias is added to the same sum as the neurons, so both share one scale.
_SAME: Final = {
    "b_O": "attn_neuron",
    "b_out": "neuron",
    "feature_error": "feature",
    "feature_bias": "feature",
}


def widths(graph: GraphData) -> tuple[float, ...]:
    """The width of every edge in px, in the order of `graph.edges`."""
    sizes = [_size(edge) for edge in graph.edges]
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, edge in enumerate(graph.edges):
        groups[_group(edge)].append(i)
    found = [THINNEST] * len(sizes)
    for name, members in groups.items():
        scale = _scale(name, members, sizes, graph.ends)
        for i in members:
            if (width := scale * sizes[i]) > THINNEST:
                found[i] = width
    return tuple(found)


def strengths(graph: GraphData) -> tuple[float, ...]:
    """Every edge's absolute score as a share of the largest of its group, in [0, 1]."""
    sizes = [_size(edge) for edge in graph.edges]
    groups = [_group(edge) for edge in graph.edges]
    largest: dict[tuple[str, ...], float] = defaultdict(float)
    for name, size in zip(groups, sizes, strict=True):
        largest[name] = max(largest[name], size)
    return tuple(
        size / largest[name] if largest[name] else 0.0
        for name, size in zip(groups, sizes, strict=True)
    )


def heights(graph: GraphData, edge_widths: tuple[float, ...]) -> list[float]:
    """The height of every node in px: the edges into it or out of it, whichever take more."""
    into, out_of = [0.0] * len(graph.nodes), [0.0] * len(graph.nodes)
    for source, target, width in zip(*graph.ends, edge_widths, strict=True):
        into[target] += width
        out_of[source] += width
    return [max(enters, leaves) for enters, leaves in zip(into, out_of, strict=True)]


def sources(graph: GraphData) -> list[list[int]]:
    """For every node, the indices in `graph.nodes` of the sources of the edges into it."""
    found: list[list[int]] = [[] for _ in graph.nodes]
    for source, target in zip(*graph.ends, strict=True):
        found[target].append(source)
    return found


def column_sums(tall: Sequence[float], into: Sequence[Sequence[int]]) -> list[float]:
    """The summed height of the nodes in each column that Plotly's own Sankey layout would make.

    Plotly (d3-sankey, `justify`) puts a node into the column of its longest path from a source,
    and a node that nothing leaves into the last one; it then scales all links so that the fullest
    column fits. Nodes without a link are left out.

    Args:
        tall: The height of every node.
        into: The nodes that each node has a link from, as `sources` gives them.
    """
    depth, ends = [0] * len(tall), [True] * len(tall)
    for node, before in enumerate(into):
        for source in before:
            depth[node] = max(depth[node], depth[source] + 1)
            ends[source] = False
    last = max(depth, default=0)
    sums = [0.0] * (last + 1)
    for node, height in enumerate(tall):
        if height > 0:
            sums[last if ends[node] else depth[node]] += height
    return sums


def _group(edge: Edge) -> tuple[str, ...]:
    source, target = edge.source.kind, edge.target.kind
    if target in SPINE and source not in FEATURE_KINDS and (source in SPINE or edge.kind == "sum"):
        return ("spine",)
    return (_SAME.get(source, source), target, edge.kind)


def _scale(
    name: tuple[str, ...],
    members: list[int],
    sizes: list[float],
    ends: tuple[Sequence[int], Sequence[int]],
) -> float:
    largest = max(sizes[i] for i in members)
    if largest == 0:
        return 0.0
    if name == ("spine",):
        return WIDEST_SPINE / largest
    fullest = 0.0
    for side in ends:
        at_a_node: dict[int, float] = defaultdict(float)
        for i in members:
            at_a_node[side[i]] += sizes[i]
        fullest = max(fullest, *at_a_node.values())
    return min(WIDEST / largest, WIDEST_FAN / fullest)


def _size(edge: Edge) -> float:
    # Kept within 1e-100..1e100, so that sums of sizes and their quotients stay finite.
    if not math.isfinite(edge.score) or abs(edge.score) < 1e-100:
        return 0.0
    return min(abs(edge.score), 1e100)
