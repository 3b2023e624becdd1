"""A smaller graph out of a graph: fewer blocks, or one position."""

from __future__ import annotations

from dataclasses import replace

from visit_tl.arguments.several import integers
from visit_tl.arguments.vocabulary import Layers
from visit_tl.errors import GraphError
from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.records import Column, Edge, Node


def to_layers(graph: FlowGraph, layers: Layers) -> FlowGraph:
    """Consecutive blocks of a graph; see `FlowGraph.subgraph`.

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
    nodes = tuple(n for n in graph.nodes if (n.layer in kept if n.layer is not None else whole_end))
    shown = {node.id.position for node in nodes}
    return replace(
        graph,
        layers=kept,
        nodes=nodes,
        edges=_among(graph.edges, nodes),
        hidden={layer: graph.hidden[layer] for layer in kept},
        residual_error={layer: graph.residual_error[layer] for layer in kept},
        columns=tuple(_cut(c, kept) for c in graph.columns if c.position in shown),
    )


def to_position(graph: FlowGraph, position: int) -> FlowGraph:
    """The blocks at one position as a graph of their own; see `FlowGraph.at`.

    Raises:
        GraphError: no whole block is shown at that position.
    """
    if position == graph.position:
        nodes = tuple(node for node in graph.nodes if node.id.position is None)
        return replace(graph, nodes=nodes, edges=_among(graph.edges, nodes), columns=())
    column = next((c for c in graph.columns if c.position == position and c.layers), None)
    if column is None:
        there = [*(c.position for c in graph.columns if c.layers), graph.position]
        raise GraphError(
            f"no block is shown at position {position}; there are blocks at "
            f"{', '.join(map(str, there))}: expand= and max_nodes= show more"
        )
    nodes = tuple(
        node for node in graph.nodes if node.id.position == position and node.layer in column.layers
    )
    return replace(
        graph,
        position=position,
        layers=column.layers,
        hidden=column.hidden,
        residual_error=column.residual_error,
        nodes=tuple(replace(node, id=node.id.at(None)) for node in nodes),
        edges=tuple(
            replace(edge, source=edge.source.at(None), target=edge.target.at(None))
            for edge in _among(graph.edges, nodes)
        ),
        columns=(),
    )


def _among(edges: tuple[Edge, ...], nodes: tuple[Node, ...]) -> tuple[Edge, ...]:
    ids = {node.id for node in nodes}
    return tuple(edge for edge in edges if edge.source in ids and edge.target in ids)


def _cut(column: Column, layers: tuple[int, ...]) -> Column:
    """A column of fewer blocks."""
    kept = tuple(layer for layer in column.layers if layer in layers)
    return replace(
        column,
        layers=kept,
        hidden={layer: column.hidden[layer] for layer in kept},
        residual_error={layer: column.residual_error[layer] for layer in kept},
    )
