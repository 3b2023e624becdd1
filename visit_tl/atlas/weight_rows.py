"""The list of all static rows of a model, and the index of each row in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from visit_tl.graph.ids import Kind, NodeId
from visit_tl.model.view import ModelView

KINDS: Final[tuple[Kind, ...]] = ("attn_neuron", "neuron_key", "neuron")
"""The kinds of nodes that are rows or columns of weight matrices."""


@dataclass(frozen=True)
class Places:
    """The order of the static rows: per block, rows of W_O, columns of W_in, rows of W_out.

    Attributes:
        n_layers: Number of blocks.
        sizes: How many rows a block has of each kind; 0 where a kind is not static. Rows of a
            matrix that a post-norm follows (Gemma 2) are not: the norm scales them differently in
            every forward pass.
    """

    n_layers: int
    sizes: tuple[int, int, int]

    @classmethod
    def of(cls, view: ModelView) -> Places:
        """The static rows of a model."""
        n = view.n_layers
        attn, mlp = (
            all(view.norm(layer, name).kind == "none" for layer in range(n))
            for name in ("ln1_post", "ln2_post")
        )
        return cls(n, (view.n_heads * view.d_head * attn, view.d_mlp, view.d_mlp * mlp))

    def __len__(self) -> int:
        return self.n_layers * sum(self.sizes)

    def place(self, node: NodeId) -> int | None:
        """The index of a node's row in the list; None if the row is not static."""
        if node.kind not in KINDS or node.expert is not None:
            return None
        kind = KINDS.index(node.kind)
        layer, neuron = node.layer, node.neuron
        assert layer is not None and neuron is not None
        if neuron >= self.sizes[kind]:
            return None
        return layer * sum(self.sizes) + sum(self.sizes[:kind]) + neuron
