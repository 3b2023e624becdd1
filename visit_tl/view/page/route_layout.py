"""Layout of the route: tokens x layers, and which heads moved what between tokens.

There is a row for every token and a column for every block; time runs from left to right. A state
is the residual stream at one position as it enters one block. A head is placed between the state
from which it read its strongest memory and the state to which it wrote. In a graph that was not
expanded, other positions have no states; there the memory value is placed where it was read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Literal

from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Node

COLUMN: Final = 40.0
"""Px from one block to the next."""

ROW: Final = 30.0
"""Px from one token to the next."""

ALL_ROWS: Final = 40
"""Up to this many tokens, each has a row; with more, only those that the route uses."""

_BETWEEN: Final = 0.7
"""The share of a column that heads may take, so that they stay clear of the states."""

_STAGGER: Final = 13.0
"""Px between two heads of a block that carry from the same token to the same other one."""

Role = Literal["state", "head", "memory"]
LinkKind = Literal["stream", "read", "write"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a node is drawn.

    Attributes:
        id: The node.
        x: Px from the left.
        y: Px from the top.
        role: A state of the residual stream, a head between two of them, or a memory value that
            stands for a state which the graph does not hold.
        strength: In [0, 1]: 1 for a state; for a head and its memory their `share`, divided by the
            largest share of the graph.
    """

    id: NodeId
    x: float
    y: float
    role: Role
    strength: float


@dataclass(frozen=True, slots=True)
class Link:
    """A line from one stop to another.

    Attributes:
        source: Where it starts.
        target: Where it ends.
        kind: The residual stream, what a head read, or what it wrote.
        score: For a head, the share of its strongest memory; for the stream, 1.
        via: The memory value that was read; None for the stream.
    """

    source: NodeId
    target: NodeId
    kind: LinkKind
    score: float
    via: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Everything that is drawn, in px from the top left corner.

    Attributes:
        stops: In drawing order: of two at one place, the stronger one is last.
        links: The stream first.
        rows: Position and y of every token's row.
        columns: Layer and x of every column; the layer is None for the prediction.
        width: Width of the whole.
        height: Height of the whole.
    """

    stops: tuple[Stop, ...]
    links: tuple[Link, ...]
    rows: tuple[tuple[int, float], ...]
    columns: tuple[tuple[int | None, float], ...]
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Hop:
    """A head with its strongest memory of another position."""

    head: Node
    value: Node
    share: float
    source: int
    target: int


def share(graph: GraphData, value: Node) -> float:
    """What a memory adds to the residual stream, relative to the stream after the attention.

    L2 norm of attention x memory value, over the norm of `resid_mid` (`resid_post` in a parallel
    block); 0 where any of these is missing.
    """
    at, layer = value.id.position, value.layer
    for kind in ("resid_mid", "resid_post"):
        state = NodeId(kind, layer, position=at)  # type: ignore[arg-type]
        if state in graph:
            added = abs(value.coefficient or 0.0) * value.norm
            whole = graph[state].norm
            ratio = added / whole if whole > 0 else 0.0
            return ratio if math.isfinite(ratio) else 0.0
    return 0.0


def route(graph: GraphData) -> Route:
    """Place the states of a graph, and its heads between them."""
    hops = _hops(graph)
    used = {hop.source for hop in hops} | {graph.position}
    used |= {n.id.position for n in graph.of_kind("resid_pre") if n.id.position is not None}
    if len(graph.tokens) <= ALL_ROWS:
        used |= set(range(len(graph.tokens)))
    rows = {position: (i + 0.5) * ROW for i, position in enumerate(sorted(used))}
    states, columns = _states(graph, rows)
    stops, links = _between(graph, hops, rows, {stop.id for stop in states})
    return Route(
        stops=(*stops, *states),
        links=(*_stream(graph), *links),
        rows=tuple(rows.items()),
        columns=columns,
        width=columns[-1][1] + COLUMN,
        height=len(rows) * ROW,
    )


def _hops(graph: GraphData) -> list[_Hop]:
    """Every head that has memories of other positions, with the strongest of them."""
    best: dict[NodeId, _Hop] = {}
    for value in graph.of_kind("value"):
        name = NodeId("head", value.layer, value.id.head, position=value.id.position)
        here = graph.position if value.id.position is None else value.id.position
        there = value.id.key_position
        if there is None or there == here or name not in graph:
            continue
        hop = _Hop(graph[name], value, share(graph, value), there, here)
        if name not in best or hop.share > best[name].share:
            best[name] = hop
    return list(best.values())


def _column(graph: GraphData, layer: int) -> float:
    return (layer - graph.layers[0] + 0.5) * COLUMN


def _states(
    graph: GraphData, rows: dict[int, float]
) -> tuple[list[Stop], tuple[tuple[int | None, float], ...]]:
    stops = []
    columns = {layer: _column(graph, layer) for layer in graph.layers}
    for node in graph.of_kind("resid_pre"):
        here = graph.position if node.id.position is None else node.id.position
        stops.append(Stop(node.id, columns[node.layer or 0], rows[here], "state", 1.0))
    named: list[tuple[int | None, float]] = list(columns.items())
    after = _column(graph, graph.layers[-1] + 1)
    end = NodeId("resid_post", graph.layers[-1])
    if end in graph:
        stops.append(Stop(end, after, rows[graph.position], "state", 1.0))
        named.append((graph.layers[-1] + 1, after))
    if "logits" in graph:
        last = NodeId("logits")
        stops.append(Stop(last, after + 1.5 * COLUMN, rows[graph.position], "state", 1.0))
        named.append((None, after + 1.5 * COLUMN))
    return stops, tuple(named)


def _stream(graph: GraphData) -> list[Link]:
    """The links from each state to the next one at the same position."""
    found = []
    rows: dict[int | None, dict[int, NodeId]] = defaultdict(dict)
    for node in graph.of_kind("resid_pre"):
        rows[node.id.position][node.layer or 0] = node.id
    end = NodeId("resid_post", graph.layers[-1])
    if end in graph:
        rows[None][graph.layers[-1] + 1] = end
    for row in rows.values():
        for layer, name in row.items():
            if layer + 1 in row:
                found.append(Link(name, row[layer + 1], "stream", 1.0))
    if "logits" in graph and end in graph:
        found.append(Link(end, NodeId("logits"), "stream", 1.0))
    return found


def _between(
    graph: GraphData, hops: list[_Hop], rows: dict[int, float], states: set[NodeId]
) -> tuple[list[Stop], list[Link]]:
    """Place the heads halfway between the rows, side by side where they would overlap."""
    largest = max((hop.share for hop in hops), default=0.0) or 1.0
    beside: dict[tuple[int, float], list[_Hop]] = defaultdict(list)
    for hop in sorted(hops, key=lambda h: (h.share, str(h.head.id))):
        middle = (rows[hop.source] + rows[hop.target]) / 2
        beside[hop.head.layer or 0, middle].append(hop)
    stops, links = [], []
    for (layer, middle), group in beside.items():
        step = min(0.2, _BETWEEN / len(group))
        tall = abs(rows[group[0].source] - rows[group[0].target])
        for i, hop in enumerate(group):
            shift = i - (len(group) - 1) / 2
            x = _column(graph, layer) + (0.5 + shift * step) * COLUMN
            y = middle + shift * min(_STAGGER, tall / (len(group) + 1))
            strength = hop.share / largest
            stops.append(Stop(hop.head.id, x, y, "head", strength))
            source = _read_from(graph, hop)
            if source not in states:
                source = hop.value.id
                place = _column(graph, layer), rows[hop.source]
                stops.append(Stop(source, *place, "memory", strength))
            links.append(Link(source, hop.head.id, "read", hop.share, hop.value.id))
            if (target := _written_to(graph, hop)) in states:
                links.append(Link(hop.head.id, target, "write", hop.share, hop.value.id))
    return stops, links


def _read_from(graph: GraphData, hop: _Hop) -> NodeId:
    at = None if hop.source == graph.position else hop.source
    return NodeId("resid_pre", hop.head.layer, position=at)


def _written_to(graph: GraphData, hop: _Hop) -> NodeId:
    at, layer = hop.head.id.position, hop.head.layer or 0
    if layer == graph.layers[-1] and at is None:
        return NodeId("resid_post", layer)
    return NodeId("resid_pre", layer + 1, position=at)
