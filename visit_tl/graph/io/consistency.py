"""Whether the fields of a graph that was read from a file fit each other."""

from __future__ import annotations

from typing import Final

from visit_tl.errors import GraphError
from visit_tl.graph.container import GraphData
from visit_tl.graph.records import Column, Node

_SUM: Final = 2e-2
"""How far the parts of a score may be from it: the tolerance of bfloat16, the widest there is."""


def check_whole(graph: GraphData) -> None:
    """Check that the fields of a graph fit each other.

    Raises:
        GraphError: they do not.
    """
    if not graph.nodes or not graph.layers:
        raise GraphError("this graph has no nodes or no layers")
    if graph.layers != tuple(range(graph.layers[0], graph.layers[-1] + 1)):
        raise GraphError(f"the layers {list(graph.layers)} are not consecutive and ascending")
    if len(graph.tokens) != len(graph.token_ids) or graph.position >= len(graph.tokens):
        raise GraphError(
            f"{len(graph.tokens)} tokens, {len(graph.token_ids)} token ids and the position "
            f"{graph.position} do not fit together"
        )
    _check_segments(graph)
    _check_tables(graph, "the graph")
    where: dict[int | None, set[int]] = {None: set(graph.layers)}
    for column in graph.columns:
        _check_column(graph, column)
        where[column.position] = {*column.layers, graph.layers[0] + len(column.layers)}
    if len(where) != len(graph.columns) + 1:
        raise GraphError("two columns are at the same position")
    for node in graph.nodes:
        known = where.get(node.id.position)
        outside = node.layer is not None and node.layer not in graph.layers
        if known is None or outside or (node.layer is not None and node.layer not in known):
            raise GraphError(f"the node {node.id} is outside the graph's layers and columns")
        if node.rank >= graph.d_vocab:
            raise GraphError(f"the node {node.id} has rank {node.rank} of {graph.d_vocab} tokens")
        if not node.top or not node.bottom:
            raise GraphError(f"the node {node.id} has no readout")
        _check_gradients(graph, node)
        _check_unopened(node)
    _check_reasons(graph)


def _check_reasons(graph: GraphData) -> None:
    places = set()
    for reason in graph.reasons:
        name = f"the reason of {reason.head} from {reason.query} to {reason.key}"
        at = None if reason.query == graph.position else reason.query
        if reason.head.at(at) not in graph:
            raise GraphError(f"{name} is of a head that is not in the graph")
        if not max(reason.query, reason.key) < len(graph.tokens):
            raise GraphError(f"{name} is outside the {len(graph.tokens)} tokens")
        parts = [*(pair.value for pair in reason.pairs), reason.others]
        total, most = sum(parts), max(1.0, abs(reason.score), *map(abs, parts))
        if abs(total - reason.score) > _SUM * most:
            raise GraphError(
                f"the parts of {name} sum to {total:.6g}, its score is {reason.score:.6g}"
            )
        places.add((reason.head, reason.query, reason.key))
    if len(places) != len(graph.reasons):
        raise GraphError("two reasons are of the same head, query and key")
        _check_roles(node)


def _check_segments(graph: GraphData) -> None:
    past = 0
    for start, end in graph.segments:
        if not past <= start < end <= len(graph.tokens):
            raise GraphError(
                f"the segments {list(graph.segments)} are not ascending ranges within the "
                f"{len(graph.tokens)} tokens"
            )
        past = end


def _check_unopened(node: Node) -> None:
    if node.unopened is not None and node.kind not in ("opaque", "attn_out", "mlp_out"):
        raise GraphError(f"{node.id} is said not to be opened, but is no part of a block")
    if node.unopened == "" or (node.kind == "opaque" and node.unopened is None):
        raise GraphError(f"{node.id} does not say what was not opened")


def _check_roles(node: Node) -> None:
    if node.roles and node.kind != "head":
        raise GraphError(f"{node.id} has roles, but is no head")
    if "" in node.roles or len(set(node.roles)) != len(node.roles):
        raise GraphError(f"the roles of {node.id} are {list(node.roles)}: one is empty or twice")


def _check_gradients(graph: GraphData, node: Node) -> None:
    gradient, found = node.gradient, node.reversed
    if gradient is not None:
        rank = gradient.rank
        if rank is not None and rank >= graph.d_vocab:
            raise GraphError(f"the gradient of {node.id} has rank {rank} of {graph.d_vocab} tokens")
        if len({rank is not None, bool(gradient.top), bool(gradient.bottom)}) > 1:
            raise GraphError(
                f"the gradient of {node.id} has some of a rank, top tokens and bottom tokens, but "
                f"not all: a gradient that is 0 has none of them"
            )
    if found is None:
        return
    if node.kind != "head":
        raise GraphError(f"{node.id} has reversed attention, but is no head")
    if len(found.row) != len(graph.tokens):
        raise GraphError(
            f"the reversed attention of {node.id} has {len(found.row)} entries for "
            f"{len(graph.tokens)} tokens"
        )


def _check_column(graph: GraphData, column: Column) -> None:
    at = graph.position
    if column.position == at or column.position >= graph.seen or column.hops < 1:
        raise GraphError(
            f"a column at position {column.position}, {column.hops} hops away, does not fit a "
            f"graph of position {graph.position}"
        )
    if column.layers != graph.layers[: len(column.layers)]:
        raise GraphError(
            f"the column at position {column.position} has the layers {list(column.layers)}, "
            f"which are not the first of the graph's"
        )
    _check_tables(column, f"the column at position {column.position}")


def _check_tables(part: GraphData | Column, where: str) -> None:
    for name, table in (("hidden", part.hidden), ("residual_error", part.residual_error)):
        if set(table) != set(part.layers):
            raise GraphError(f"{where}: {name!r} is not given for exactly its layers")
