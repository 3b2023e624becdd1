"""Where a model's static rows stand in one long list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from visit_tl.graph.ids import Kind, NodeId
from visit_tl.model.view import ModelView

KINDS: Final[tuple[Kind, ...]] = ("attn_neuron", "neuron_key", "neuron")
"""The kinds of nodes that are rows or columns of weight matrices."""


@dataclass(frozen=True)
class Places:
    """Block after block: the rows of W_O, the columns of W_in, the rows of W_out.

    Attributes:
        n_layers: Number of blocks.
        sizes: How many rows a block has of each kind; 0 where a kind is not static. A post-norm
            (Gemma 2) scales the rows of its matrix anew in every forward pass.
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
        """Where the row of a node stands; None if it is not static."""
        if node.kind not in KINDS:
            return None
        kind = KINDS.index(node.kind)
        layer, neuron = node.layer, node.neuron
        assert layer is not None and neuron is not None
        if neuron >= self.sizes[kind]:
            return None
        return layer * sum(self.sizes) + sum(self.sizes[:kind]) + neuron
