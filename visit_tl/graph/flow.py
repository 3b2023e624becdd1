"""FlowGraph: the container, and the questions that a person asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visit_tl.errors import GraphError, InputError
from visit_tl.graph.ids import KINDS, NodeId
from visit_tl.graph.records import Column, Edge, Hidden, Node, total

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from visit_tl.causal.attribution import Attribution
    from visit_tl.causal.graph_edges import GraphEdgeEffects
    from visit_tl.causal.measured import Effects
    from visit_tl.graph.diff import GraphDiff
    from visit_tl.view.attention import AttentionView


@dataclass(frozen=True)
class FlowGraph:
    """The X-ray of one forward pass at one position.

    Attributes:
        model: Name of the model.
        prompt: The text that was given; the decoded tokens where token ids were given.
        tokens: The text of each token, BOS included where there is one.
        token_ids: Their ids.
        prepend_bos: Whether the first token is a BOS that was put before the prompt.
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
        patched: The hooks at which the caller's `fwd_hooks` acted. Where a whole was patched, its
            parts do not sum to it.

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
    source: Callable[[], Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        order = {node.id: i for i, node in enumerate(self.nodes)}
        if len(order) != len(self.nodes):
            seen: set[NodeId] = set()
            twice = next(n.id for n in self.nodes if n.id in seen or seen.add(n.id))
            raise GraphError(f"the node {twice} is there twice")
        for edge in self.edges:
            for end in (edge.source, edge.target):
                if end not in order:
                    raise GraphError(
                        f"the edge {edge.source} -> {edge.target} ends at {end}, "
                        f"which is no node of this graph"
                    )
            if order[edge.source] >= order[edge.target]:
                raise GraphError(
                    f"the edge {edge.source} -> {edge.target} runs against the forward pass"
                )

    # --- looking things up -------------------------------------------------------------------

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

    def __getitem__(self, node: str | NodeId) -> Node:
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

    def name_of(self, node: str | NodeId) -> NodeId:
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

    def of_kind(self, *kinds: str) -> tuple[Node, ...]:
        """The nodes of these kinds, in the order of the forward pass.

        Raises:
            GraphError: a name is no kind.
        """
        for kind in kinds:
            if kind not in KINDS:
                raise GraphError(f"{kind!r} is no kind of node; the kinds are {', '.join(KINDS)}")
        return tuple(node for node in self.nodes if node.kind in kinds)

    def edges_into(self, node: str | NodeId) -> tuple[Edge, ...]:
        """The edges that end at a node."""
        return tuple(self._into[self[node].id])

    def edges_out_of(self, node: str | NodeId) -> tuple[Edge, ...]:
        """The edges that start at a node."""
        return tuple(self._out_of[self[node].id])

    def ancestors(self, node: str | NodeId) -> frozenset[NodeId]:
        """Every node from which this one can be reached, itself left out."""
        return _closure(self[node].id, self._into, lambda edge: edge.source)

    def descendants(self, node: str | NodeId) -> frozenset[NodeId]:
        """Every node that can be reached from this one, itself left out."""
        return _closure(self[node].id, self._out_of, lambda edge: edge.target)

    def find(self, word: str) -> tuple[Node, ...]:
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

    def values_of(self, head: str | NodeId) -> tuple[Node, ...]:
        """The shown memory values of a head, most attended first."""
        values = self._values.get(self.name_of(head), [])
        return tuple(sorted(values, key=lambda value: -(value.coefficient or 0.0)))

    def subgraph(self, layers: Iterable[int]) -> FlowGraph:
        """The same graph, cut down to consecutive blocks (paper, A.5, last point).

        The final norm and the logits stay only if the model's last block does.

        Raises:
            GraphError: a layer is not in this graph, or the layers have a gap.
        """
        from visit_tl.graph.cut import to_layers

        return to_layers(self, layers)

    @cached_property
    def hidden_in_all(self) -> Hidden:
        """How much pruning left out, over all blocks of the graph and its columns."""
        columns = (part for column in self.columns for part in column.hidden.values())
        return total([*self.hidden.values(), *columns])

    # --- positions ---------------------------------------------------------------------------

    def at(self, position: int) -> FlowGraph:
        """The blocks at one position as a graph of their own, without the others.

        Args:
            position: The graph's own, or that of a column.

        Raises:
            GraphError: no whole block is shown at that position.
        """
        from visit_tl.graph.cut import to_position

        return to_position(self, position)

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

    def route(self, source: str | NodeId, target: str | NodeId = "logits") -> tuple[Edge, ...]:
        """The strongest way from one node to another.

        The strength of a way is the product of its edges' shares; the share of an edge is its
        absolute score among the edges of the same kind into the same node. In a graph that was
        expanded, ways lead from one position to the next through memories.

        Returns:
            The edges in the order of the way; empty if there is none or the ends are the same.

        Raises:
            GraphError: an end is not in the graph.
        """
        from visit_tl.graph.route import strongest

        return strongest(self, self[source].id, self[target].id)

    # --- patching ----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process, or one that was kept, has no model.
        return {**self.__dict__, "source": None}

    def hook_points(
        self, nodes: Iterable[str | NodeId | Node] | None = None
    ) -> list[tuple[str, tuple[int, ...]]]:
        """Where nodes live in the model: (hook name, index), ready for `run_with_hooks`.

        Args:
            nodes: Nodes or their ids; None is all of the graph.

        Returns:
            In the order of the nodes, each place once; biases live at no hook and are left out.

        Raises:
            GraphError: a node is not in the graph.
        """
        wanted = self.nodes if nodes is None else nodes
        found = [node if isinstance(node, Node) else self[node] for node in wanted]
        places = [(n.hook.name, n.hook.index) for n in found if n.hook is not None]
        return list(dict.fromkeys(places))

    def attribution(self, *, against: str | int | None = None, model: Any = None) -> Attribution:
        """What each part adds directly to the target's logit; see `visit_tl.causal.attribute`.

        Args:
            against: A token whose logit is subtracted; None for none.
            model: The model; needed for a graph that was loaded.
        """
        from visit_tl.causal.attribution import attribute

        return attribute(self._model(model), self, against=against)

    def effects(self, metric: Any, *, model: Any = None, **options: Any) -> Effects:
        """What patching each node of the graph does to a metric; see `visit_tl.causal.effects`.

        Args:
            metric: A callable on logits `[1, pos, d_vocab]`; see `visit_tl.causal.metrics`.
            model: The model; needed for a graph that was loaded.
            options: As for `visit_tl.causal.effects`: `corrupted`, `how`, `positions`, ...
        """
        from visit_tl.causal.sweep import effects

        options.setdefault("nodes", self)
        return effects(self._model(model), list(self.token_ids), metric, **options)

    def edge_effects(self, metric: Any, *, model: Any = None, **options: Any) -> GraphEdgeEffects:
        """What cutting each edge of the graph does to a metric, at the graph's position.

        Args:
            metric: As for `effects`.
            model: The model; needed for a graph that was loaded.
            options: As for `visit_tl.causal.graph_edge_effects`: `corrupted`, `how`, ...
        """
        from visit_tl.causal.graph_edges import graph_edge_effects

        return graph_edge_effects(self._model(model), self, metric, **options)

    def _model(self, model: Any) -> Any:
        found = self.source() if model is None and self.source is not None else model
        if found is None:
            raise GraphError(
                f"the model {self.model} that made this graph is not at hand (the graph was "
                f"loaded, or the model is gone); pass it as model="
            )
        return found

    def diff(self, other: FlowGraph) -> GraphDiff:
        """What another graph shows that this one does not, and the other way round.

        Raises:
            GraphError: the graphs are of models of other shapes, or follow other targets.
        """
        from visit_tl.graph.diff import diff

        return diff(self, other)

    # --- tables ------------------------------------------------------------------------------

    def heads(self) -> pd.DataFrame:
        """One row a kept head: what it says, how it ranks the target, where it looks.

        Columns: head, top, bottom, rank, prob, norm, looks_at (tokens of the shown memory values
        with their attention), entropy, attribution, effect (None where not measured); sorted as in
        the forward pass.
        """
        from visit_tl.graph.tables import heads_table

        return heads_table(self)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a node, with everything that the node knows but its attention row."""
        from visit_tl.graph.tables import nodes_table

        return nodes_table(self)

    def attention(self, heads: Iterable[str | NodeId], *, model: Any = None) -> AttentionView:
        """Where heads look, from every position of the prompt; see `visit_tl.xray.attention`.

        Args:
            heads: Their ids.
            model: The model; needed for a graph that was loaded.

        Raises:
            GraphError: the model is not at hand, or the graph is of a patched run, whose attention
                another run would not show.
        """
        from visit_tl.xray import attention

        if self.patched:
            raise GraphError(
                "this graph is of a patched run, and running the model again would show the "
                "attention of an unpatched one; its heads' rows are in g['L0H0'].attention"
            )
        return attention(self._model(model), list(self.token_ids), heads)

    # --- to look at and to keep: the views and the files live in rooms of their own ------------

    def figure(
        self,
        layers: Iterable[int] | None = None,
        theme: str = "light",
        position: int | None = None,
        *,
        kind: str = "flow",
        **options: Any,
    ) -> go.Figure:
        """A Plotly figure.

        Args:
            layers: As for `visit_tl.view.sankey.sankey`.
            theme: `light` or `dark`.
            position: As for `visit_tl.view.sankey.sankey`.
            kind: `flow`, or `heads` for a map of layers x heads.
            options: For `heads`: `by` and `reference`; see `visit_tl.view.heads.heads`.

        Raises:
            InputError: an unknown kind, or as the view raises.
        """
        if kind == "heads":
            from visit_tl.view.heads import heads

            return heads(self, theme=theme, **options)
        if kind != "flow":
            raise InputError(f"figures are of the kinds flow and heads; got {kind!r}")
        from visit_tl.view.sankey import sankey

        return sankey(self, layers=layers, theme=theme, position=position, **options)

    def text(self, layers: Iterable[int] | None = None) -> str:
        """The graph as text; see `visit_tl.view.text.text`."""
        from visit_tl.view.text import text

        return text(self, layers=layers)

    def _repr_html_(self) -> str:
        from visit_tl.view.notebook import notebook_html

        return notebook_html(self)

    def save(self, path: str | Path, *, overwrite: bool = False, theme: str = "light") -> Path:
        """Write the graph to `.json` (to load again) or `.html` (to look at); see `graph.files`.

        Raises:
            FileError: an unknown suffix, a path that cannot be written, or a file already there
                that is not a graph of ours (`overwrite=True` replaces it all the same).
        """
        from visit_tl.graph.files import save

        return save(self, path, overwrite=overwrite, theme=theme)

    @classmethod
    def load(cls, path: str | Path) -> FlowGraph:
        """Read a graph that was saved as `.json`; equal to the one that was saved.

        Raises:
            GraphError: it is no graph, or of another schema, or not consistent in itself.
            FileError: it cannot be read.
        """
        from visit_tl.graph.files import load

        return load(path)

    def to_json(self) -> dict[str, Any]:
        """The graph as plain JSON types; see `visit_tl.graph.export`."""
        from visit_tl.graph.export import to_json

        return to_json(self)


def _closure(start: NodeId, edges: dict[NodeId, list[Edge]], end: Any) -> frozenset[NodeId]:
    seen: set[NodeId] = set()
    waiting = [start]
    while waiting:
        for edge in edges[waiting.pop()]:
            if (there := end(edge)) not in seen:
                seen.add(there)
                waiting.append(there)
    return frozenset(seen)
