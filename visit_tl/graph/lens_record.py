"""Which lens read a graph, if it was not the logit lens, and how it read each kind of node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from visit_tl.graph.ids import FEATURE_KINDS, Kind, NodeId

STATES: Final[tuple[Kind, ...]] = ("resid_pre", "resid_mid", "resid_post")
"""Kinds that are whole states of the residual stream."""

PARTS: Final[tuple[Kind, ...]] = (
    "head",
    "value",
    "z",
    "attn_neuron",
    "b_O",
    "attn_out",
    "opaque",
    "neuron",
    "b_out",
    "expert",
    "mlp_out",
    *FEATURE_KINDS,
)
"""Kinds that are added to the stream within a block, or are parts of what is added."""

EMBEDDING: Final = -1
"""The block of the state before block 0."""


@dataclass(frozen=True, slots=True)
class LensRecord:
    """The lens that read the nodes of a graph or the cells of a table.

    Attributes:
        name: Its name, such as `Jacobian lens`.
        blocks: The blocks whose output it has a map for, ascending; -1 is the embedding.
        digest: A hash of its maps.
    """

    name: str
    blocks: tuple[int, ...]
    digest: str

    def block_of(self, node: NodeId) -> int | None:
        """The block whose map carried a node to the last block's output; None if none did."""
        block = block_of(node)
        return block if block in self.blocks else None


def block_of(node: NodeId) -> int | None:
    """The block whose output a node is a state at, or a part of; None for other nodes.

    Queries, keys, columns of W_in and the normalised inputs of sub-blocks are not vectors of the
    residual stream, so no lens carries them forward.
    """
    if node.layer is None or node.kind not in (*STATES, *PARTS):
        return None
    return node.layer - 1 if "resid_pre" in (node.kind, node.site) else node.layer


def needed_blocks(layers: tuple[int, ...], n_layers: int) -> tuple[int, ...]:
    """The blocks whose maps a graph of these layers needs; the last block's is the identity.

    The embedding is not among them: without a map for it, it is read by the logit lens.
    """
    first = [layers[0] - 1] if layers[0] > 0 else []
    return tuple(block for block in (*first, *layers) if block < n_layers - 1)
