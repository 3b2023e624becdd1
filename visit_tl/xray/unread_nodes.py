"""Nodes whose readouts are not computed yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from visit_tl.graph.ids import Kind, NodeId
from visit_tl.graph.records import Edge, EdgeKind, Hook


@dataclass
class Draft:
    """Nodes without readouts: their ids, vectors and other attributes, and edges between them.

    Attributes:
        ids: Ids of the nodes, in the order in which they were added.
        stacks: Their vectors, in stacks of [component, d_model].
        facts: By node, the attributes of its `Node` besides the readout.
        edges: Edges between them.
        after: For nodes whose kind does not say where they are in a block, the kind after which
            they come.
    """

    ids: list[NodeId] = field(default_factory=list)
    stacks: list[Tensor] = field(default_factory=list)
    facts: list[dict[str, object]] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    after: dict[NodeId, Kind] = field(default_factory=dict)

    def add(self, ids: list[NodeId], vectors: Tensor, facts: list[dict[str, object]]) -> None:
        """Add nodes of one kind with their vectors and facts; no nodes add no stack."""
        if ids:
            self.ids += ids
            self.stacks.append(vectors)
            self.facts += facts

    def one(self, node: NodeId, vector: Tensor, hook: Hook | None) -> None:
        """Add a single node."""
        self.add([node], vector[None], [{"hook": hook}])

    def vectors(self) -> Iterator[tuple[NodeId, Tensor]]:
        """Every node with its vector."""
        return zip(self.ids, (row for stack in self.stacks for row in stack), strict=True)

    def link(self, source: NodeId, target: NodeId, kind: EdgeKind, score: float) -> None:
        """Add an edge."""
        self.edges.append(Edge(source, target, kind, score))
