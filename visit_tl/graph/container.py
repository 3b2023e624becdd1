"""The records of a graph, and the questions that need nothing else."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Kinds, NodeName, Word
from visit_tl.errors import GraphError
from visit_tl.graph.ids import KINDS, NodeId
from visit_tl.graph.records import Column, Edge, Hidden, Node, total


@dataclass(frozen=True)
class Container:
    """Nodes and edges of one forward pass, checked, and how to find them.

    Attributes:
        model: Name of the model.
        prompt: The text that was given; the decoded tokens where token ids were given.
        tokens: The text of each token, BOS included where there is one.
        token_ids: Their ids.
        prepend_bos: Whether the first token is a BOS that was put before the prompt.
        bos_in_prompt: Whether the prompt begins with a BOS itself, so that no other was put before
            it unless `prepend_bos=True` asked for one.
        position: The query position that the graph is of, counted from 0.
        target: The token whose rank and probability every node carries.
        target_id: Its id.
        target_given: True if the caller named it, False if it is the model's own prediction.
        layers: The blocks in the graph, ascending and without gaps.
        n_layers: Number of blocks of the model.
        d_vocab: Size of the vocabulary; ranks go from 0 to d_vocab - 1.
        pruning: How it was pruned: the budgets by name.
        hidden: By block, how much pruning left out.
        residual_error: By block, the largest relative error of the conservation laws of
            docs/maths.md, as measured on this forward pass.
        nodes: In the order of the forward pass.
        edges: In the order of their targets.
        columns: Other positions that memories were followed back to, ascending.
        source: A weak reference to the model that made the graph, for `effects` and the like; None
            in a graph that was loaded. Neither saved nor compared.
        patched: The hooks at which the caller's `fwd_hooks` acted, and those at which hooks left on
            the model changed something. Where a whole was patched, its parts do not sum to it.
        adapters: The names of the adapters (LoRA and its kin) that took part, merged or not.

    Raises:
        GraphError: two nodes have the same id, or an edge names a node that is not there or does
            not follow the order of the forward pass.
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    prepend_bos: bool
    position: int
    target: str
    target_id: int
    target_given: bool
    layers: tuple[int, ...]
    n_layers: int
    d_vocab: int
    pruning: Mapping[str, str | int | None]
    hidden: Mapping[int, Hidden]
    residual_error: Mapping[int, float]
    nodes: tuple[Node, ...] = field(repr=False)
    edges: tuple[Edge, ...] = field(repr=False)
    columns: tuple[Column, ...] = field(default=(), repr=False)
    patched: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    bos_in_prompt: bool = False
    source: Callable[[], Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ = self.ends

    @cached_property
    def ends(self) -> tuple[Sequence[int], Sequence[int]]:
        """Where the source and where the target of every edge stand in `nodes`.

        Worked out when the graph is made, and kept: looking up every name again is most of what a
        picture would cost.
        """
        order = {node.id: i for i, node in enumerate(self.nodes)}
        if len(order) != len(self.nodes):
            seen: set[NodeId] = set()
            twice = next(n.id for n in self.nodes if n.id in seen or seen.add(n.id))
            raise GraphError(f"the node {twice} is there twice")
        sources, targets = array("i"), array("i")
        for edge in self.edges:
            start, end = order.get(edge.source), order.get(edge.target)
            if start is None or end is None:
                raise GraphError(
                    f"the edge {edge.source} -> {edge.target} ends at "
                    f"{edge.source if start is None else edge.target}, "
                    f"which is no node of this graph"
                )
            if start >= end:
                raise GraphError(
                    f"the edge {edge.source} -> {edge.target} runs against the forward pass"
                )
            sources.append(start)
            targets.append(end)
        return sources, targets

    @cached_property
    def _by_id(self) -> dict[NodeId, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _into(self) -> dict[NodeId, list[Edge]]:
        into: dict[NodeId, list[Edge]] = {node.id: [] for node in self.nodes}
        for edge in self.edges:
            into[edge.target].append(edge)
        return into

    @cached_property
    def _out_of(self) -> dict[NodeId, list[Edge]]:
        out_of: dict[NodeId, list[Edge]] = {node.id: [] for node in self.nodes}
        for edge in self.edges:
            out_of[edge.source].append(edge)
        return out_of

    @checked
    def __getitem__(self, node: NodeName) -> Node:
        """The node of that id, such as `g["L29H1"]` or `g["29.1"]`.

        Raises:
            GraphError: the id cannot be read, or the node is not in the graph (pruned, perhaps).
        """
        found = self._by_id.get(wanted := self.name_of(node))
        if found is None:
            raise GraphError(
                f"{wanted} is not in this graph of layers {self.layers[0]}..{self.layers[-1]}; "
                f"it was pruned or never there: build the graph with more layers or a larger budget"
            )
        return found

    @checked
    def name_of(self, node: NodeName) -> NodeId:
        """An id as this graph prints it: without a position where that is the graph's own.

        Raises:
            GraphError: the id cannot be read.
        """
        parsed = NodeId.parse(node)
        return parsed.at(None) if parsed.position == self.position else parsed

    def __contains__(self, node: object) -> bool:
        if not isinstance(node, str | NodeId):
            return False
        try:
            return self.name_of(node) in self._by_id
        except GraphError:
            return False

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @checked
    def of_kind(self, *kinds: Kinds) -> tuple[Node, ...]:
        """The nodes of these kinds, in the order of the forward pass.

        Raises:
            GraphError: a name is no kind.
        """
        for kind in kinds:
            if kind not in KINDS:
                raise GraphError(f"{kind!r} is no kind of node; the kinds are {', '.join(KINDS)}")
        return tuple(node for node in self.nodes if node.kind in kinds)

    @checked
    def edges_into(self, node: NodeName) -> tuple[Edge, ...]:
        """The edges that end at a node."""
        return tuple(self._into[self[node].id])

    @checked
    def edges_out_of(self, node: NodeName) -> tuple[Edge, ...]:
        """The edges that start at a node."""
        return tuple(self._out_of[self[node].id])

    @checked
    def ancestors(self, node: NodeName) -> frozenset[NodeId]:
        """Every node from which this one can be reached, itself left out."""
        return _closure(self[node].id, self._into, lambda edge: edge.source)

    @checked
    def descendants(self, node: NodeName) -> frozenset[NodeId]:
        """Every node that can be reached from this one, itself left out."""
        return _closure(self[node].id, self._out_of, lambda edge: edge.target)

    @checked
    def find(self, word: Word) -> tuple[Node, ...]:
        """The nodes that read a word: it is among the tokens that they promote (case ignored)."""
        wanted = word.strip().casefold()
        return tuple(
            node
            for node in self.nodes
            if any(read.token.strip().casefold() == wanted for read in node.promoted)
        )

    @cached_property
    def _values(self) -> dict[NodeId, list[Node]]:
        values: dict[NodeId, list[Node]] = {}
        for node in self.of_kind("value"):
            head = NodeId("head", node.id.layer, node.id.head, position=node.id.position)
            values.setdefault(head, []).append(node)
        return values

    @checked
    def values_of(self, head: NodeName) -> tuple[Node, ...]:
        """The shown memory values of a head, most attended first."""
        values = self._values.get(self.name_of(head), [])
        return tuple(sorted(values, key=lambda value: -(value.coefficient or 0.0)))

    @cached_property
    def hidden_in_all(self) -> Hidden:
        """How much pruning left out, over all blocks of the graph and its columns."""
        columns = (part for column in self.columns for part in column.hidden.values())
        return total([*self.hidden.values(), *columns])

    @cached_property
    def unfollowed(self) -> tuple[Node, ...]:
        """The memory values made at another position whose state is not in the graph."""
        return tuple(
            node
            for node in self.of_kind("value")
            if node.id.key_position is not None and self._state_of(node.id) not in self._by_id
        )

    def _state_of(self, value: NodeId) -> NodeId:
        """The state that a memory was made from."""
        return self.name_of(NodeId("attn_in", value.layer, position=value.key_position))

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process, or one that was kept, has no model.
        return {**self.__dict__, "source": None}


def _closure(start: NodeId, edges: dict[NodeId, list[Edge]], end: Any) -> frozenset[NodeId]:
    seen: set[NodeId] = set()
    waiting = [start]
    while waiting:
        for edge in edges[waiting.pop()]:
            if (there := end(edge)) not in seen:
                seen.add(there)
                waiting.append(there)
    return frozenset(seen)
