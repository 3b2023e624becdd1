"""Follow memories back: add the blocks, at other positions, that made the states behind them.

This goes hop by hop. A hop chooses, among the memories that the last hop added, those that add the
largest share to the residual stream (`memories.choose`). One forward pass traces their positions,
and the blocks there show the memories of the next hop. The shares along a path are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Column, Hidden
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray import budget as prune
from visit_tl.xray.block import Block
from visit_tl.xray.memories import Read, block_size, choose
from visit_tl.xray.unread_nodes import Draft

BUDGET: Final = prune.Budget(heads=2, values=1, high=0, low=0)
"""What a block of a column keeps: enough to see where its state came from. `flow_graph` at that
position shows the rest."""

MAX_NODES: Final = 3000
"""How many nodes following may add: with 30 blocks, all blocks at about five positions."""

Traces = Callable[[Sequence[int], Sequence[int]], dict[int, Trace]]
"""From positions and layers to traces by position, of the same forward pass as the graph's."""


@dataclass(frozen=True)
class Follow:
    """How far to follow memories back.

    Attributes:
        hops: How many memories to follow, one after the other.
        max_nodes: How many nodes may be added.
        positions: Key positions that may be followed; None is all.
        traces: The function that gives the traces of positions.
    """

    hops: int
    max_nodes: int
    positions: Collection[int] | None
    traces: Traces


@dataclass
class _GrowingColumn:
    """A column that is still being extended."""

    hops: int
    share: float
    trace: Trace
    until: int
    hidden: dict[int, Hidden] = field(default_factory=dict)
    errors: dict[int, float] = field(default_factory=dict)


def add_columns(
    draft: Draft, view: ModelView, trace: Trace, reads: Sequence[Read], follow: Follow
) -> tuple[Column, ...]:
    """Follow the memories that the graph's own blocks read; return the added columns, by position.

    Raises:
        DecompositionError: the parts of a block do not sum to its whole.
    """
    layers = sorted(trace.layers)
    cost = block_size(BUDGET, parts=9)
    growing: dict[int, _GrowingColumn] = {}
    shown = [*reads]
    latest, room = shown, follow.max_nodes
    for hop in range(1, follow.hops + 1):
        shares = _best(latest)
        # All blocks of the graph's own position are shown already.
        reach = {j: column.until for j, column in growing.items()} | {trace.position: layers[-1]}
        found, room = choose(
            latest,
            reach,
            first=layers[0],
            cost=cost,
            room=room,
            positions=follow.positions,
        )
        if not found:
            break
        at = sorted(found)
        traces = follow.traces(at, range(layers[0], max(found.values()) + 1))
        latest = []
        for j in at:
            start = reach.get(j, layers[0])
            column = growing.setdefault(j, _GrowingColumn(hop, shares[j], traces[j], start))
            column.trace, column.until = traces[j], found[j]
            for layer in range(start, found[j]):
                latest += _whole_block(draft, view, column, layer, j)
        shown += latest
    for j, column in growing.items():
        _block(draft, view, column.trace, column.until, j).entry()
        _link_blocks(draft, column, layers[0], j)
    if growing:
        _link_memories(draft, shown, trace.position)
    return tuple(
        Column(j, c.hops, tuple(range(layers[0], c.until)), c.hidden, c.errors)
        for j, c in sorted(growing.items())
    )


def _whole_block(
    draft: Draft, view: ModelView, column: _GrowingColumn, layer: int, at: int
) -> list[Read]:
    """Add a block of a column; return its memories, shares multiplied by the column's."""
    block = _block(draft, view, column.trace, layer, at)
    column.errors[layer] = block.check()
    column.hidden[layer] = block.add()
    return [replace(read, share=read.share * column.share) for read in block.reads]


def _block(draft: Draft, view: ModelView, trace: Trace, layer: int, at: int) -> Block:
    return Block(draft, view, trace, layer, BUDGET, at, [])


def _link_blocks(draft: Draft, column: _GrowingColumn, first: int, at: int) -> None:
    """Link each block of a column to the next."""
    for layer in range(first + 1, column.until + 1):
        ends = NodeId("resid_post", layer - 1, position=at), NodeId("resid_pre", layer, position=at)
        draft.link(*ends, "flow", float(column.trace.layers[layer].resid_pre.norm()))


def _link_memories(draft: Draft, reads: Sequence[Read], own: int) -> None:
    """Link the state that a memory was made from, where it is shown, to the key and the value.

    A head's memory of its own position needs no link: that state is shown as the query's input.

    Args:
        draft: The nodes.
        reads: The memories.
        own: The graph's own position, which ids leave out.
    """
    states = {
        node: float(stack.norm()) for node, stack in draft.vectors() if node.kind == "attn_in"
    }
    for read in reads:
        j = read.key_position
        if j == read.position:
            continue
        source = NodeId("attn_in", read.layer, position=None if j == own else j)
        if source in states:
            for memory in (read.key, read.value):
                draft.link(source, memory, "flow", states[source])


def _best(reads: Sequence[Read]) -> dict[int, float]:
    """By key position, the largest share of a memory made there."""
    best: dict[int, float] = {}
    for read in reads:
        best[read.key_position] = max(read.share, best.get(read.key_position, 0.0))
    return best
