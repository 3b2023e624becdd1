"""Memories followed back: the blocks at other positions that made the states they were read from.

Hop by hop. A hop chooses, among the memories that the last one showed, those that add the largest
share to the stream that they are read into (`follow.choose`); one forward pass reads their
positions; their blocks show the memories of the next hop. A share is multiplied along the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from visit_tl.graph import prune
from visit_tl.graph.block import Block
from visit_tl.graph.draft import Draft
from visit_tl.graph.follow import Read, block_size, choose
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Column, Hidden
from visit_tl.model.view import ModelView
from visit_tl.trace import Trace

BUDGET: Final = prune.Budget(heads=2, values=1, high=0, low=0)
"""What a block of a column keeps: enough to see where its state came from. `flow_graph` at that
position shows the rest."""

MAX_NODES: Final = 3000
"""How many nodes following may add: with 30 blocks, some five positions from the first block on."""

Traces = Callable[[Sequence[int], Sequence[int]], dict[int, Trace]]
"""Positions and layers in, their traces out, of the same forward pass as the graph's."""


@dataclass(frozen=True)
class Follow:
    """How far to follow memories back.

    Attributes:
        hops: Through how many memories, one after the other.
        max_nodes: How many nodes may be added.
        positions: Key positions that may be followed; None is all.
        traces: Where their traces come from.
    """

    hops: int
    max_nodes: int
    positions: Collection[int] | None
    traces: Traces


@dataclass
class _Growing:
    """A column while it grows."""

    hops: int
    share: float
    trace: Trace
    until: int
    hidden: dict[int, Hidden] = field(default_factory=dict)
    errors: dict[int, float] = field(default_factory=dict)


def add_columns(
    draft: Draft, view: ModelView, trace: Trace, reads: Sequence[Read], follow: Follow
) -> tuple[Column, ...]:
    """Follow the memories that the graph's own blocks read; returns what was added, by position.

    Raises:
        DecompositionError: the parts of a block do not sum to its whole.
    """
    layers = sorted(trace.layers)
    cost = block_size(BUDGET, parts=9)
    growing: dict[int, _Growing] = {}
    shown = [*reads]
    latest, room = shown, follow.max_nodes
    for hop in range(1, follow.hops + 1):
        shares = _best(latest)
        reach = {j: column.until for j, column in growing.items()}
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
            column = growing.setdefault(j, _Growing(hop, shares[j], traces[j], start))
            column.trace, column.until = traces[j], found[j]
            for layer in range(start, found[j]):
                latest += _whole_block(draft, view, column, layer, j)
        shown += latest
    for j, column in growing.items():
        _block(draft, view, column.trace, column.until, j).entry()
        _chain(draft, column, layers[0], j)
    if growing:
        _link_memories(draft, shown)
    return tuple(
        Column(j, c.hops, tuple(range(layers[0], c.until)), c.hidden, c.errors)
        for j, c in sorted(growing.items())
    )


def _whole_block(
    draft: Draft, view: ModelView, column: _Growing, layer: int, at: int
) -> list[Read]:
    """A block of a column; returns what it read, each share weighted by the column's."""
    block = _block(draft, view, column.trace, layer, at)
    column.errors[layer] = block.check()
    column.hidden[layer] = block.add()
    return [replace(read, share=read.share * column.share) for read in block.reads]


def _block(draft: Draft, view: ModelView, trace: Trace, layer: int, at: int) -> Block:
    return Block(draft, view, trace, layer, BUDGET, at, [])


def _chain(draft: Draft, column: _Growing, first: int, at: int) -> None:
    """From each block of a column to the next."""
    for layer in range(first + 1, column.until + 1):
        ends = NodeId("resid_post", layer - 1, position=at), NodeId("resid_pre", layer, position=at)
        draft.link(*ends, "flow", float(column.trace.layers[layer].resid_pre.norm()))


def _link_memories(draft: Draft, reads: Sequence[Read]) -> None:
    """From the state that a memory was made from to its key and its value, where it is shown.

    A head's memory of its own position needs no link: its block reads that state for the query.
    """
    states = {
        node: float(stack.norm()) for node, stack in draft.vectors() if node.kind == "attn_in"
    }
    for read in reads:
        j = read.key_position
        if j == read.position:
            continue
        source = NodeId("attn_in", read.layer, position=j)
        if source in states:
            for memory in (read.key, read.value):
                draft.link(source, memory, "flow", states[source])


def _best(reads: Sequence[Read]) -> dict[int, float]:
    """By key position, the largest share of what was read from it."""
    best: dict[int, float] = {}
    for read in reads:
        best[read.key_position] = max(read.share, best.get(read.key_position, 0.0))
    return best
