"""Choose which memories to follow back to the position of the state they were made from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from visit_tl.graph.ids import NodeId
from visit_tl.xray.budget import Budget


@dataclass(frozen=True, slots=True)
class Read:
    """A memory that a head read, and that can be followed back.

    Attributes:
        layer: Block of the head.
        key_position: Position of the state that the memory was made from.
        position: Position of the head.
        share: L2 norm of what the memory adds to the residual stream (attention x value), over the
            norm of the stream after the block's attention.
        key: Id of the memory key.
        value: Id of the memory value.
    """

    layer: int
    key_position: int
    position: int
    share: float
    key: NodeId
    value: NodeId


def block_size(budget: Budget, parts: int) -> int:
    """The most nodes that a block of a column can have.

    Args:
        budget: What the block keeps; `heads` must be a number.
        parts: Number of states, sub-block outputs and biases in a block of this model.
    """
    assert budget.heads is not None
    neurons = 3 * (budget.high + budget.low)
    return parts + 2 + budget.heads * (2 + 2 * budget.values) + neurons


def choose(
    reads: Iterable[Read],
    reach: Mapping[int, int],
    *,
    first: int,
    cost: int,
    room: int,
    positions: Collection[int] | None,
) -> tuple[dict[int, int], int]:
    """Choose the memories of one hop: the largest share first, as long as their nodes fit.

    Following a memory of block 9 shows blocks `first`..8 at its position, and the two states of
    block 9 that its attention read. Blocks that are already shown cost nothing.

    Args:
        reads: The memories to choose from; those at a head's own position are skipped.
        reach: By position, the block up to which (exclusive) all blocks are shown already.
        first: First block of the graph.
        cost: The most nodes that a block can have.
        room: How many nodes may be added.
        positions: Key positions that may be followed; None is all.

    Returns:
        By position, the block up to which to show it now, where that is further than `reach`; and
        the room that is left.
    """
    found: dict[int, int] = {}
    order = sorted(reads, key=lambda r: (-r.share, r.layer, r.key_position, r.position, str(r.key)))
    for read in order:
        j = read.key_position
        if j == read.position or (positions is not None and j not in positions):
            continue
        known = found.get(j, reach.get(j))
        start = first if known is None else known
        if known is not None and read.layer <= known:
            continue
        needed = cost * (read.layer - start) + (2 if known is None else 0)
        if needed <= room:
            found[j], room = read.layer, room - needed
    return found, room
