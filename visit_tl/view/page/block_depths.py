"""The graph of the depth `blocks`: states, heads, features, and what attention and MLP add."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import compress
from typing import Final

from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FEATURE_KINDS
from visit_tl.graph.records import Edge, Node
from visit_tl.view.widths import SPINE, widths

BLOCK_KINDS: Final = SPINE | {
    "head",
    "attn_out",
    "opaque",
    "expert",
    "mlp_out",
    "final_norm",
    "logits",
    *FEATURE_KINDS,
}
"""The kinds of nodes that are shown at this depth; z too, where there are features of it."""

_READING: Final = 1.6
"""Maximum width in px of an edge by which a head reads the stream."""


def blocks(graph: GraphData) -> GraphData:
    """Leave out memories, queries, rows and norms; edges bridge what was left out.

    A bridging edge stands for a path and has the kind and the score of its first edge: what the
    source adds, or the norm of the source. Of several paths between two nodes, the one whose first
    edge has the largest score is kept.
    """
    of_z = {one.layer for one in graph.feature_sets if one.site == "z"}
    shown = [n.kind in BLOCK_KINDS or (n.kind == "z" and n.layer in of_z) for n in graph.nodes]
    kept = tuple(compress(graph.nodes, shown))
    leaving: list[list[int]] = [[] for _ in shown]
    for i, source in enumerate(graph.ends[0]):
        leaving[source].append(i)
    ends = _Ends(shown, [[graph.ends[1][i] for i in edges] for edges in leaving])
    bridges: list[tuple[int, int, Edge]] = []
    for source in compress(range(len(shown)), shown):
        found: dict[int, Edge] = {}
        for i in leaving[source]:
            first, next_one = graph.edges[i], graph.ends[1][i]
            for end in ends(next_one):
                if end not in found or abs(first.score) > abs(found[end].score):
                    found[end] = first if end == next_one else _past(first, graph, graph.nodes[end])
        bridges += ((end, source, edge) for end, edge in found.items())
    bridges.sort(key=lambda bridge: bridge[:2])
    return replace(graph, nodes=kept, edges=tuple(edge for _, _, edge in bridges))


def block_widths(graph: GraphData) -> tuple[float, ...]:
    """Edge widths in px of a graph of this depth.

    As `widths.widths`, but thin where a head reads the stream. Every head reads all of it; drawn to
    scale, most of the stream would seem to flow into the heads.
    """
    return tuple(
        min(width, _READING) if edge.target.kind in ("head", "expert") else width
        for edge, width in zip(graph.edges, widths(graph), strict=True)
    )


def _past(first: Edge, graph: GraphData, end: Node) -> Edge:
    # The effect of patching the first edge is not that of the whole path to `end`.
    past = replace(first, target=end.id, effect=None)
    if first.kind != "coefficient":
        return past
    # One number of z, by which it scales one row of W_O, with its sign: the edge is of all rows.
    return replace(past, kind="flow", score=graph[first.source].norm)


class _Ends:
    """For a node, the shown nodes that are reached through left-out nodes; all as indices."""

    def __init__(self, shown: list[bool], after: list[list[int]]) -> None:
        self._shown, self._after = shown, after
        self._known: dict[int, list[int]] = {}

    def __call__(self, start: int) -> list[int]:
        if start not in self._known:
            self._known[start] = self._walk(start)
        return self._known[start]

    def _walk(self, start: int) -> list[int]:
        ends, seen, waiting = [], {start}, deque([start])
        while waiting:
            here = waiting.popleft()
            if self._shown[here]:
                ends.append(here)
                continue
            for after in self._after[here]:
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return ends
