"""The coordinates of a graph: numbers only, in px from the top left corner.

Time runs from left to right, one column for each step of a block. The residual stream is a straight
lane at the top; the nodes that read from it and write to it are below, attention first, then the
MLP. In a parallel block the MLP is under the attention instead; features of SAEs are at the bottom.
A head's query, keys, values and output share a strip, a neuron's column and row share a line, so
that no edge of a block crosses another.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from visit_tl.escaping import columns as text_columns
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import COLUMN_WORDS
from visit_tl.graph.ids import FEATURE_KINDS, KINDS, Kind, NodeId
from visit_tl.graph.node_descriptions import short_label
from visit_tl.graph.records import Node
from visit_tl.view.widths import SPINE, column_sums, heights, sources, widths

NODE_WIDTH: Final = 10
ROW: Final = 17.0
"""Least distance in px between the middles of two nodes of a column: the height of a label."""

GAP: Final = 3.0
CHARACTER: Final = 6.6
"""Width of a label's character in px: the mean of Arial at 12 px is 6.2 over the real labels."""

_LABEL_GAP: Final = 8
_LINK_ROOM: Final = 16
_SIDE: Final = 14
_LANE_TOP: Final = 6.0
_LANE_TO_DETAIL: Final = 34.0
_BOTTOM: Final = 12.0

_LANE: Final = SPINE | {"final_norm", "logits"}
# The router is drawn under the neurons, so that its edges to the experts do not run across them.
_BESIDE: Final = {"b_O": "attn_neuron", "b_out": "neuron", "router": "neuron"}
_STEP: Final[dict[Kind, int]] = {k: KINDS.index(_BESIDE.get(k, k)) for k in KINDS}  # type: ignore[arg-type]

# In a parallel block (GPT-J, NeoX) the MLP reads what the attention reads, at the same time.
_BESIDE_ATTENTION: Final[dict[Kind, Kind]] = {
    "mlp_in": "attn_in",
    "neuron_key": "head",
    "neuron": "attn_neuron",
    "b_out": "attn_neuron",
    "router": "attn_neuron",
    "expert": "b_O",
    "mlp_out": "attn_out",
}
_HEAD_KINDS: Final = ("head_query", "key", "value", "head")
_FEATURES: Final = "features of"


@dataclass(frozen=True, slots=True)
class Box:
    """Where a node is drawn, in px: left edge, top edge and height; all are `NODE_WIDTH` wide."""

    left: float
    top: float
    height: float

    @property
    def middle(self) -> float:
        """Height of the middle, in px from the top."""
        return self.top + self.height / 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its left edge in px, the words over it, and the block that it belongs to."""

    left: float
    words: str
    layer: int | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is drawn, in px.

    Attributes:
        width: Of the whole picture, labels included.
        height: Likewise.
        boxes: The box of every node that has an edge; a Sankey diagram has no place for others.
        edge_widths: In the order of the graph's edges.
        columns: From left to right.
        ballast: Px to add to the first and the last column that Plotly makes, so that the fullest
            column is exactly `height` and Plotly's scale is one to one.
        placed: The indices of the nodes of the boxes in the graph's nodes, in the same order.
        orphans: The nodes that were left out.
    """

    width: int
    height: int
    boxes: Mapping[NodeId, Box]
    edge_widths: tuple[float, ...]
    columns: tuple[Column, ...]
    ballast: float
    placed: tuple[int, ...]
    orphans: tuple[NodeId, ...]


def layout(graph: GraphData, edge_widths: tuple[float, ...] | None = None) -> Layout:
    """Place every node that has an edge.

    Args:
        graph: The graph.
        edge_widths: Px, in the order of the graph's edges; None is `widths.widths`.
    """
    edge_widths = widths(graph) if edge_widths is None else edge_widths
    nodes, tall, into = graph.nodes, heights(graph, edge_widths), sources(graph)
    placed = [i for i, height in enumerate(tall) if height > 0]
    column_of = _columns(nodes, into)
    lefts, headings, width = _across(graph, placed, column_of)
    tops = _down(nodes, placed, column_of, tall)
    boxes = {nodes[i].id: Box(lefts[column_of[i]], tops[i], tall[i]) for i in placed}
    bottom = max((max(b.top + b.height, b.middle + ROW / 2) for b in boxes.values()), default=ROW)
    sums = column_sums(tall, into)
    height = math.ceil(max(bottom + _BOTTOM, *sums))
    return Layout(
        width=width,
        height=height,
        boxes=boxes,
        edge_widths=edge_widths,
        columns=headings,
        ballast=height - max(sums[0], sums[-1]),
        placed=tuple(placed),
        orphans=tuple(node.id for node, height in zip(nodes, tall, strict=True) if height == 0),
    )


def _columns(nodes: Sequence[Node], into: Sequence[Sequence[int]]) -> list[int]:
    """The column of every node: its step in the forward pass, to the right of all its sources."""
    last = max((n.layer for n in nodes if n.layer is not None), default=0)
    parallel = _parallel(nodes)
    found: list[int] = []
    for node, before in zip(nodes, into, strict=True):
        layer = last if node.layer is None else node.layer
        if node.kind in FEATURE_KINDS:
            # The bias has no source; the error, which is before it in the list, has one.
            right_of = [found[source] + 1 for source in before]
            found.append(max(right_of, default=found[-1] if found else layer * len(KINDS)))
            continue
        kind = _BESIDE_ATTENTION.get(node.kind, node.kind) if layer in parallel else node.kind
        right_of = [found[source] + 1 for source in before]
        found.append(max(layer * len(KINDS) + _STEP[kind], *right_of, -1))
    return found


def _parallel(nodes: Iterable[Node]) -> set[int | None]:
    """The blocks whose MLP and attention run in parallel."""
    kinds: dict[int | None, set[Kind]] = defaultdict(set)
    for node in nodes:
        kinds[node.layer].add(node.kind)
    return {
        layer
        for layer, has in kinds.items()
        if {"attn_in", "mlp_in"} <= has and "resid_mid" not in has
    }


def _across(
    graph: GraphData, placed: list[int], column_of: list[int]
) -> tuple[dict[int, float], tuple[Column, ...], int]:
    """Left edges of the columns: as far apart as the longest label between them needs."""
    members: dict[int, list[Node]] = defaultdict(list)
    for i in placed:
        members[column_of[i]].append(graph.nodes[i])
    left, lefts, headings = float(_SIDE), {}, []
    for column in sorted(members):
        here = members[column]
        words = " / ".join(dict.fromkeys(COLUMN_WORDS[node.kind] for node in here))
        layer = Counter(node.layer for node in here).most_common(1)[0][0]
        longest = max(text_columns(short_label(node, graph)) for node in here)
        room = max(longest * CHARACTER + _LABEL_GAP + _LINK_ROOM, len(words) * CHARACTER + 6)
        lefts[column] = left
        headings.append(Column(left, words, layer))
        left += NODE_WIDTH + room
    return lefts, tuple(headings), math.ceil(left + _SIDE)


def _down(
    nodes: Sequence[Node], placed: list[int], column_of: list[int], tall: list[float]
) -> dict[int, float]:
    """Top edges of the nodes."""
    lane = [i for i in placed if nodes[i].kind in _LANE]
    lane_height = max((tall[i] for i in lane), default=0.0)
    start = _LANE_TOP + lane_height + _LANE_TO_DETAIL if lane else _LANE_TOP
    strips = _strips(nodes, [i for i in placed if nodes[i].kind not in _LANE], tall)
    parallel = _parallel(nodes[i] for i in placed)
    below = {(layer, kind) for layer in parallel for kind in _BESIDE_ATTENTION}
    features = {name for name in strips if name[1].startswith(_FEATURES)}
    tops = dict.fromkeys(lane, _LANE_TOP)
    rows = [strips.keys() - below - features, strips.keys() & below]
    for row in (*rows, *([features] if features else [])):
        deepest = max((strips[name][1] for name in row), default=0.0)
        for middles, depth in (strips[name] for name in row):
            for i, middle in middles.items():
                tops[i] = start + (deepest - depth) / 2 + middle - tall[i] / 2
        start += deepest + _LANE_TO_DETAIL
    _separate(placed, column_of, tall, tops)
    return tops


def _section(node: Node) -> tuple[int | None, str]:
    """The section of a node, such as the heads of a block: its columns share their strips."""
    kind = _BESIDE.get(node.kind, node.kind)
    if kind in _HEAD_KINDS:
        return node.layer, "heads"
    if kind in FEATURE_KINDS:
        return node.layer, f"{_FEATURES} {node.id.site}"
    return node.layer, "neuron" if kind == "neuron_key" else kind


def _strips(
    nodes: Sequence[Node], hanging: list[int], tall: list[float]
) -> dict[tuple[int | None, str], tuple[dict[int, float], float]]:
    """For each section, the middle of every node and the depth of the whole, counted from 0."""
    sections: dict[tuple[int | None, str], list[int]] = defaultdict(list)
    for i in hanging:
        sections[_section(nodes[i])].append(i)
    place = {name: _heads if name[1] == "heads" else _lines for name in sections}
    return {name: place[name](nodes, members, tall) for name, members in sections.items()}


def _heads(
    nodes: Sequence[Node], members: list[int], tall: list[float]
) -> tuple[dict[int, float], float]:
    """One strip for each head, by index; in it one line for each memory, by attention."""
    middles: dict[int, float] = {}
    depth = 0.0
    by_head: dict[int | None, list[int]] = defaultdict(list)
    for i in members:
        by_head[nodes[i].id.head].append(i)
    for head in sorted(by_head, key=lambda h: -1 if h is None else h):
        strip = by_head[head]
        whole = [i for i in strip if nodes[i].id.key_position is None]
        lines: dict[int, list[int]] = defaultdict(list)
        for i in strip:
            if (position := nodes[i].id.key_position) is not None:
                lines[position].append(i)
        order = sorted(lines, key=lambda p: (-max(_strength(nodes[i]) for i in lines[p]), p))
        sizes = [_line_height(lines[position], tall) for position in order]
        needed = max([sum(sizes), *(_line_height([i], tall) for i in whole)])
        middles |= dict.fromkeys(whole, depth + needed / 2)
        line_top = depth + (needed - sum(sizes)) / 2
        for position, size in zip(order, sizes, strict=True):
            middles |= dict.fromkeys(lines[position], line_top + size / 2)
            line_top += size
        depth += needed + GAP
    return middles, max(depth - GAP, 0.0)


def _lines(
    nodes: Sequence[Node], members: list[int], tall: list[float]
) -> tuple[dict[int, float], float]:
    """One line for each neuron or feature, the largest coefficient first; biases last."""
    lines: dict[_Line, list[int]] = defaultdict(list)
    for i in members:
        name = nodes[i].id
        # Of two without an index, the earlier kind first.
        kind = KINDS.index(name.kind) if name.neuron is None else 0
        lines[name.expert, name.neuron, kind].append(i)
    # The row of W_O or W_out decides: the column of W_in has a coefficient of another kind.
    signed = {
        neuron: next((i for i in line if nodes[i].kind != "neuron_key"), line[0])
        for neuron, line in lines.items()
    }
    size = {n: _number(nodes[i].coefficient) or 0.0 for n, i in signed.items()}
    order = sorted(lines, key=lambda n: (_expert(n[0]), n[1] is None, n[2], -size[n], n[1] or 0))
    middles: dict[int, float] = {}
    depth = 0.0
    for neuron in order:
        high = _line_height(lines[neuron], tall)
        middles |= dict.fromkeys(lines[neuron], depth + high / 2)
        depth += high
    return middles, depth


_Line = tuple[int | None, int | None, int]
"""The expert and the neuron of a line, and the place of its kind where it has no neuron."""


def _expert(expert: int | None) -> tuple[int, int]:
    """Sort key: experts by index, then shared ones, then what is in none."""
    if expert is None:
        return 2, 0
    return (0, expert) if expert >= 0 else (1, -expert)


def _separate(
    placed: list[int], column_of: list[int], tall: list[float], tops: dict[int, float]
) -> None:
    """Move nodes down where two nodes of a column would touch.

    This changes nothing in a graph of whole blocks; others may have two sections in one column.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i in placed:
        members[column_of[i]].append(i)
    for column in members.values():
        free = -math.inf
        for i in sorted(column, key=lambda i: tops[i] + tall[i] / 2):
            half = max(tall[i] + GAP, ROW) / 2
            too_high = free - (tops[i] + tall[i] / 2 - half)
            # Rounding of the sums above must not bend the straight lane.
            if too_high > 1e-6:
                tops[i] += too_high
            free = tops[i] + tall[i] / 2 + half


def _line_height(line: list[int], tall: list[float]) -> float:
    return max(ROW, *(tall[i] + GAP for i in line), 0.0)


def _strength(node: Node) -> float:
    return abs(_number(node.coefficient) or 0.0)


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
