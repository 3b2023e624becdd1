"""GraphData: the records of a graph, and the lookups that need nothing else."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from visit_tl.arguments import plain
from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken
from visit_tl.arguments.vocabulary import Kinds, Word
from visit_tl.errors import GraphError
from visit_tl.graph.ids import KINDS, NodeId, NodeName, NodeNames
from visit_tl.graph.lens_record import LensRecord
from visit_tl.graph.records import Column, Edge, FeatureSet, Hidden, Node, Reason, total


@dataclass(frozen=True)
class GraphData:
    """The nodes and edges of one forward pass, checked, with methods to look them up.

    Attributes:
        model: Name of the model.
        prompt: The text that was given; the decoded tokens where token ids were given.
        tokens: The text of each token, BOS included where there is one.
        token_ids: The ids of the tokens.
        prepend_bos: Whether the first token is a BOS that was put before the prompt.
        bos_in_prompt: Whether the prompt itself begins with a BOS. Then no other was put before it,
            unless `prepend_bos=True` asked for one.
        position: The query position of the graph, counted from 0.
        target: The token whose rank and probability every node carries.
        target_id: The id of the target.
        target_given: True if the caller named it, False if it is the model's own prediction.
        layers: The blocks in the graph, ascending and without gaps.
        n_layers: Number of blocks of the model.
        d_vocab: Size of the vocabulary; ranks go from 0 to d_vocab - 1.
        pruning: The budgets of the pruning, by name.
        hidden: By block, how much pruning left out.
        residual_error: By block, the largest relative error of the conservation laws of
            docs/maths.md, as measured on this forward pass.
        nodes: In the order of the forward pass.
        edges: In the order of their targets.
        columns: Other positions that memories were followed back to, ascending.
        source: A weak reference to the model that made the graph, for `effects` and the like; None
            in a graph that was loaded. Neither saved nor compared.
        patched: The hooks at which the caller's `fwd_hooks` acted, and those at which hooks left on
            the model changed something. Where a sum was patched, its parts no longer add up to it.
        adapters: The names of the adapters (such as LoRA) that were active, merged or not.
        segments: Half-open ranges of tokens that saw each other in both directions; empty if the
            attention was causal.
        reasons: Why heads looked where they looked, where asked (`why`, `with_why`).
        feature_sets: The SAEs and transcoders whose features the graph shows, by block and site.
        lens: The lens that read the nodes; None is the logit lens.

    Raises:
        GraphError: two nodes have the same id, or an edge names a node that is not there or does
            not follow the order of the forward pass.
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...] = field(repr=False)
    prepend_bos: bool
    position: int
    target: str
    target_id: int
    target_given: bool
    layers: tuple[int, ...]
    n_layers: int
    d_vocab: int
    pruning: Mapping[str, str | int | None]
    hidden: Mapping[int, Hidden] = field(repr=False)
    residual_error: Mapping[int, float] = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)
    edges: tuple[Edge, ...] = field(repr=False)
    columns: tuple[Column, ...] = field(default=(), repr=False)
    patched: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    bos_in_prompt: bool = False
    segments: tuple[tuple[int, int], ...] = ()
    reasons: tuple[Reason, ...] = field(default=(), repr=False)
    feature_sets: tuple[FeatureSet, ...] = field(default=(), repr=False)
    lens: LensRecord | None = None
    source: Callable[[], Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ = self.ends

    def __eq__(self, other: object) -> bool:
        # A FlowGraph equals a GraphData with the same records.
        if not isinstance(other, GraphData):
            return NotImplemented
        names = [each.name for each in fields(GraphData) if each.compare]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def seen(self) -> int:
        """One past the last position that the graph's own position sees."""
        at = self.position
        return next((end for start, end in self.segments if start <= at < end), at + 1)

    @cached_property
    def ends(self) -> tuple[Sequence[int], Sequence[int]]:
        """The indices in `nodes` of the source and of the target of every edge.

        Computed once, when the graph is made: looking up all ids again would be most of the time
        of drawing a picture.
        """
        order = {node.id: i for i, node in enumerate(self.nodes)}
        if len(order) != len(self.nodes):
            seen: set[NodeId] = set()
            twice = next(n.id for n in self.nodes if n.id in seen or seen.add(n.id))
            raise GraphError(f"the node {twice} appears twice")
        sources, targets = array("i"), array("i")
        for edge in self.edges:
            start, end = order.get(edge.source), order.get(edge.target)
            if start is None or end is None:
                raise GraphError(
                    f"the edge {edge.source} -> {edge.target} ends at "
                    f"{edge.source if start is None else edge.target}, "
                    f"which is not a node of this graph"
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
        """The node with this id, such as `g["L29H1"]` or `g["29.1"]`.

        Raises:
            GraphError: the id cannot be read, or the node is not in the graph (it may be pruned).
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
        """Parse an id; a position is left out if it is the graph's own.

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
        """Every node from which this one can be reached, without the node itself."""
        return _closure(self[node].id, self._into, lambda edge: edge.source)

    @checked
    def descendants(self, node: NodeName) -> frozenset[NodeId]:
        """Every node that can be reached from this one, without the node itself."""
        return _closure(self[node].id, self._out_of, lambda edge: edge.target)

    @checked
    def find(self, word: Word) -> tuple[Node, ...]:
        """The nodes that have a word among the tokens that they promote (case is ignored).

        Features are also found by what their explanation says.
        """
        wanted = word.strip().casefold()
        return tuple(
            node
            for node in self.nodes
            if any(read.token.strip().casefold() == wanted for read in node.promoted)
            or (node.explanation is not None and wanted and wanted in node.explanation.casefold())
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
        """The memory values of other positions whose source state is not in the graph."""
        return tuple(
            node
            for node in self.of_kind("value")
            if node.id.key_position is not None and self._state_of(node.id) not in self._by_id
        )

    def _state_of(self, value: NodeId) -> NodeId:
        """The id of the state that a memory was made from."""
        return self.name_of(NodeId("attn_in", value.layer, position=value.key_position))

    def __getstate__(self) -> dict[str, Any]:
        # A pickled copy, in another process or in a file, has no model.
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


G = TypeVar("G", bound=GraphData)
"""For functions that return the type of graph that they were given: GraphData or FlowGraph."""

# Types of arguments: a graph; or nodes or edges, where a graph stands for those that it shows.
GRAPH: Final = Taken("a FlowGraph", classes=(GraphData,))
if TYPE_CHECKING:
    Graph = GraphData
    Nodes = GraphData | NodeNames
    Edges = GraphData | str | Iterable[Any]
else:
    Graph = Annotated[Any, GRAPH]
    Nodes = Annotated[
        Any, Taken("a graph, a list of ids of nodes, 'heads' or a kind of state", "['L9H6']",
                   "NodeNames", (GraphData, str), plain.nodes),
    ]  # fmt: skip
    Edges = Annotated[
        Any, Taken("a graph or a list of edges", "['L0H1->logits']", "Many", (GraphData,),
                   plain.one_or_many),
    ]  # fmt: skip
