"""Subgraphs: fewer blocks, or one position."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress

from visit_tl.arguments.several import integers
from visit_tl.arguments.vocabulary import Layers
from visit_tl.errors import GraphError
from visit_tl.graph.container import G, GraphData
from visit_tl.graph.records import Column, Edge


def to_layers(graph: G, layers: Layers) -> G:
    """Cut a graph down to consecutive blocks; see `FlowGraph.subgraph`.

    Raises:
        GraphError: a layer is not in this graph, or the layers have a gap.
    """
    if layers == "all":
        return graph
    kept = tuple(sorted(set(integers(layers))))
    outside = [layer for layer in kept if layer not in graph.layers]
    if not kept or outside:
        raise GraphError(
            f"layers {outside or '(none)'} are not in this graph, "
            f"which has {graph.layers[0]}..{graph.layers[-1]}"
        )
    if kept != tuple(range(kept[0], kept[-1] + 1)):
        raise GraphError(f"layers {list(kept)} have a gap; a subgraph needs consecutive blocks")
    whole_end = kept[-1] == graph.n_layers - 1
    shown = [n.layer in kept if n.layer is not None else whole_end for n in graph.nodes]
    nodes = tuple(compress(graph.nodes, shown))
    positions = {node.id.position for node in nodes}
    return replace(
        graph,
        layers=kept,
        nodes=nodes,
        edges=_among(graph, shown),
        hidden={layer: graph.hidden[layer] for layer in kept},
        residual_error={layer: graph.residual_error[layer] for layer in kept},
        columns=tuple(_cut(c, kept) for c in graph.columns if c.position in positions),
        reasons=tuple(r for r in graph.reasons if r.head.layer in kept),
        feature_sets=tuple(one for one in graph.feature_sets if one.layer in kept),
    )


def to_position(graph: G, position: int) -> G:
    """Extract the blocks at one position as a separate graph; see `FlowGraph.at`.

    Raises:
        GraphError: the graph has no whole block at that position.
    """
    if position == graph.position:
        own = [node.id.position is None for node in graph.nodes]
        if all(own) and not graph.columns:
            return graph
        nodes = tuple(compress(graph.nodes, own))
        return replace(
            graph,
            nodes=nodes,
            edges=_among(graph, own),
            columns=(),
            reasons=tuple(r for r in graph.reasons if r.query == position),
        )
    column = next((c for c in graph.columns if c.position == position and c.layers), None)
    if column is None:
        known = [*(c.position for c in graph.columns if c.layers), graph.position]
        raise GraphError(
            f"no block is shown at position {position}; there are blocks at "
            f"{', '.join(map(str, known))}: expand= and max_nodes= show more"
        )
    there = [n.id.position == position and n.layer in column.layers for n in graph.nodes]
    return replace(
        graph,
        position=position,
        layers=column.layers,
        hidden=column.hidden,
        residual_error=column.residual_error,
        nodes=tuple(replace(node, id=node.id.at(None)) for node in compress(graph.nodes, there)),
        edges=tuple(
            replace(edge, source=edge.source.at(None), target=edge.target.at(None))
            for edge in _among(graph, there)
        ),
        columns=(),
        feature_sets=(),
        reasons=tuple(
            r for r in graph.reasons if r.query == position and r.head.layer in column.layers
        ),
    )


def _among(graph: GraphData, kept: list[bool]) -> tuple[Edge, ...]:
    """The edges whose ends are both kept."""
    ends = zip(*graph.ends, strict=True)
    return tuple(compress(graph.edges, (kept[source] and kept[target] for source, target in ends)))


def _cut(column: Column, layers: tuple[int, ...]) -> Column:
    """A column, cut down to these layers."""
    kept = tuple(layer for layer in column.layers if layer in layers)
    return replace(
        column,
        layers=kept,
        hidden={layer: column.hidden[layer] for layer in kept},
        residual_error={layer: column.residual_error[layer] for layer in kept},
    )
