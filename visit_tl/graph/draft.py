"""Nodes before they are read, and the one call of the lens that reads them all."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visit_tl import components, lens
from visit_tl.graph.ids import KINDS, NodeId
from visit_tl.graph.records import Edge, EdgeKind, Hook, Node, TokenProb
from visit_tl.model.view import ModelView


@dataclass
class Draft:
    """Nodes that wait for their readout: what is known of each, and its vector.

    Attributes:
        ids: Names of the nodes, in the order in which they were added.
        stacks: Their vectors, in stacks of [component, d_model].
        facts: What a Node holds besides its readout.
        edges: Edges between them.
    """

    ids: list[NodeId] = field(default_factory=list)
    stacks: list[Tensor] = field(default_factory=list)
    facts: list[dict[str, object]] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def add(self, ids: list[NodeId], vectors: Tensor, facts: list[dict[str, object]]) -> None:
        """Nodes of one kind, their vectors and what is known of each."""
        self.ids += ids
        self.stacks.append(vectors)
        self.facts += facts

    def one(self, node: NodeId, vector: Tensor, hook: Hook | None) -> None:
        """A single node."""
        self.add([node], vector[None], [{"hook": hook}])

    def vectors(self) -> Iterator[tuple[NodeId, Tensor]]:
        """Every node with its vector."""
        return zip(self.ids, (row for stack in self.stacks for row in stack), strict=True)

    def link(self, source: NodeId, target: NodeId, kind: EdgeKind, score: float) -> None:
        """An edge."""
        self.edges.append(Edge(source, target, kind, score))


def read_draft(view: ModelView, draft: Draft, target: int, k: int) -> tuple[Node, ...]:
    """Read the whole stack at once and lay the readouts into the nodes."""
    k = min(k, view.d_vocab)
    final = [node.kind in ("final_norm", "logits") for node in draft.ids]
    vectors = torch.cat(draft.stacks)
    norms = components.row_norms(vectors).tolist()
    # The final norm's output must not be normalised again; it reads as the resid_post before it.
    if any(final):
        last = NodeId("resid_post", view.n_layers - 1)
        source = vectors[draft.ids.index(last)].clone()
        vectors[torch.tensor(final, device=vectors.device)] = source
    readout = lens.read(view, vectors, [target], k=k)
    tops = _token_rows(view, readout.top_ids, readout.top_probs)
    bottoms = _token_rows(view, readout.bottom_ids, readout.bottom_probs)
    entropies = readout.entropy.tolist()
    ranks, probs = readout.target_ranks[:, 0].tolist(), readout.target_probs[:, 0].tolist()
    nodes = [
        Node(
            id=node,
            top=tops[i],
            bottom=bottoms[i],
            entropy=entropies[i],
            norm=norms[i],
            rank=ranks[i],
            prob=probs[i],
            **facts,  # type: ignore[arg-type]
        )
        for i, (node, facts) in enumerate(zip(draft.ids, draft.facts, strict=True))
    ]
    return tuple(sorted(nodes, key=lambda node: _place(node.id, view.n_layers)))


def _token_rows(view: ModelView, ids: Tensor, probs: Tensor) -> list[tuple[TokenProb, ...]]:
    text = view.tokens.text
    # One integer a token, not one for each place that names it: a fifth of a graph's memory.
    same: dict[int, int] = {}
    return [
        tuple(
            TokenProb(text(i), same.setdefault(i, i), min(p, 1.0))
            for i, p in zip(row, values, strict=True)
        )
        for row, values in zip(ids.tolist(), probs.tolist(), strict=True)
    ]


_KIND_PLACE: Mapping[str, int] = {kind: place for place, kind in enumerate(KINDS)}


def _place(node: NodeId, n_layers: int) -> tuple[int, ...]:
    """Where a node stands in the forward pass."""
    layer = n_layers if node.layer is None else node.layer
    # The graph's own position comes last: attention looks back.
    position = sys.maxsize if node.position is None else node.position
    indices = (node.head, node.key_position, node.neuron)
    return (layer, _KIND_PLACE[node.kind], position, *(-1 if i is None else i for i in indices))
