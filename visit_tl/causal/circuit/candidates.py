"""A circuit to be evaluated, read from any form: the edges of the model that it keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import Shape, model_edges
from visit_tl.graph.circuit_parts import Edge, Part, is_edge
from visit_tl.graph.container import GraphData

_WHOLE = ("input", "logits")


@dataclass(frozen=True)
class Candidate:
    """A circuit, as the set of edges that it keeps.

    Attributes:
        coding: What the circuit is made of: `edges`, `heads` (all MLPs kept) or `heads and MLPs`.
        edges: What the model is reduced to.
        parts: The parts that it names, or that its edges join.
        size: How many edges, or heads (and MLPs), it has.
        out_of: How many of these the model has.
    """

    coding: str
    edges: frozenset[Edge] = field(repr=False)
    parts: frozenset[Part]
    size: int
    out_of: int

    @property
    def removable(self) -> tuple[Part, ...]:
        """The heads and MLPs among its parts, in the order of the forward pass."""
        found = (part for part in self.parts if part.kind not in _WHOLE)
        return tuple(sorted(found, key=lambda part: part.order))

    def members(self, parts: Iterable[Any]) -> frozenset[Part]:
        """Parts of this circuit, read in any spelling.

        Raises:
            InputError: one is not in it.
        """
        found = [Part.parse(part) for part in parts]
        if missing := [part for part in found if part not in self.removable]:
            raise InputError(
                f"{missing[0]} is no part of the circuit, which has "
                f"{', '.join(map(str, self.removable[:6]))}{' ...' * (len(self.removable) > 6)}"
            )
        return frozenset(found)

    def subsets(self, named: Mapping[str, Iterable[Any]]) -> dict[str, frozenset[Part]]:
        """Subsets of this circuit by name.

        Raises:
            InputError: a part is not in it.
        """
        return {name: self.members(parts) for name, parts in named.items()}

    def require_some(self, found: Collection[Any], what: str) -> None:
        """Check that there is something to measure.

        Raises:
            InputError: there is nothing.
        """
        if not found:
            raise InputError(f"there are no {what} to measure; the circuit has {self.size} parts")

    def like(self, shape: Shape, draws: Random) -> Candidate:
        """A random circuit of the same coding and size, drawn uniformly."""
        if self.coding == "edges":
            return candidate(shape, draws.sample(model_edges(shape), self.size))
        kinds = ("head",) if self.coding == "heads" else ("head", "mlp")
        chosen: list[Part] = []
        for kind in kinds:
            there = [part for part in _parts(shape) if part.kind == kind]
            n = sum(part.kind == kind for part in self.parts)
            chosen += draws.sample(there, n)
        return _of_parts(shape, frozenset(chosen), mlps=self.coding != "heads")


def candidate(shape: Shape, circuit: Any) -> Candidate:
    """Read a circuit.

    Args:
        shape: The heads and MLPs of the model that is reduced to the circuit.
        circuit: A FlowGraph, a Reference, a Candidate, or edges or parts in any spelling.

    Raises:
        InputError: it mixes edges and parts, or names some that the model does not have.
        GraphError: the name of an edge or part cannot be read.
    """
    if isinstance(circuit, Candidate):
        return circuit
    if isinstance(circuit, GraphData):
        heads = {Part("head", n.layer, n.id.head) for n in circuit.of_kind("head")}
        return _of_parts(shape, frozenset(heads), mlps=False)
    if hasattr(circuit, "heads") and hasattr(circuit, "edges"):  # a Reference
        kept = [edge for edge in circuit.edges if not edge.internal]
        return candidate(shape, kept or [*circuit.heads, *circuit.mlps])
    given = list(circuit)
    edges = [is_edge(spelled) for spelled in given]
    if not any(edges):
        parts = frozenset(Part.parse(spelled) for spelled in given)
        return _of_parts(shape, parts, mlps=any(part.kind == "mlp" for part in parts))
    if not all(edges):
        raise InputError(
            f"the circuit mixes edges and parts: {given[edges.index(True)]} is an edge, "
            f"{given[edges.index(False)]} is none; give one or the other"
        )
    read = frozenset(Edge.parse(spelled) for spelled in given)
    there = model_edges(shape)
    if unknown := read - set(there):
        first = min(unknown, key=lambda edge: edge.order)
        raise InputError(
            f"{first} is no edge of a model of {shape}; {len(unknown)} given edges are unknown"
        )
    ends = frozenset(part for edge in read for part in (edge.source, edge.target))
    return Candidate("edges", read, ends, len(read), len(there))


def without(edges: Iterable[Edge], parts: Collection[Part]) -> frozenset[Edge]:
    """The edges that are left when parts are ablated: those that do not start at one of them."""
    return frozenset(edge for edge in edges if edge.source not in parts)


def _parts(shape: Shape) -> list[Part]:
    mlps = [Part("mlp", layer) for layer in range(shape.n_layers)] if shape.mlps else []
    return [*shape.heads, *mlps]


def _of_parts(shape: Shape, parts: frozenset[Part], *, mlps: bool) -> Candidate:
    """The circuit that ablates all heads but these and, if `mlps`, all MLPs but these."""
    if unknown := [part for part in parts if not shape.holds(part)]:
        first = min(unknown, key=lambda part: part.order)
        raise InputError(f"{first} is not in a model of {shape}; {len(unknown)} parts are not")
    counted = [part for part in _parts(shape) if mlps or part.kind == "head"]
    gone = set(counted) - parts
    chosen = parts & set(counted)
    coding = "heads and MLPs" if mlps else "heads"
    return Candidate(coding, without(model_edges(shape), gone), parts, len(chosen), len(counted))
