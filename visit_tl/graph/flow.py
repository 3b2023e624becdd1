"""FlowGraph: all that a person asks of a graph; each answer is worked out in a room of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import node_ids
from visit_tl.arguments.vocabulary import (
    FigureKind,
    File,
    Flag,
    Layers,
    MetricFunction,
    Model,
    NodeName,
    NodeNames,
    Position,
    Schema,
    Theme,
    Token,
)
from visit_tl.graph.container import Container
from visit_tl.graph.records import Edge, Node

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

    from visit_tl.causal.attribution import Attribution
    from visit_tl.causal.graph_edges import GraphEdgeEffects
    from visit_tl.causal.measured import Effects
    from visit_tl.graph.diff import GraphDiff
    from visit_tl.states import LensTable
    from visit_tl.view.attention import AttentionView


@dataclass(frozen=True)
class FlowGraph(Container):
    """The X-ray of one forward pass at one position.

    Its attributes and its lookups are those of `visit_tl.graph.container.Container`.
    """

    # --- smaller graphs, and ways through them -------------------------------------------------

    @checked
    def subgraph(self, layers: Layers) -> FlowGraph:
        """The same graph, cut down to consecutive blocks (paper, A.5, last point).

        The final norm and the logits stay only if the model's last block does.

        Raises:
            GraphError: a layer is not in this graph, or the layers have a gap.
        """
        from visit_tl.graph.cut import to_layers

        return to_layers(self, layers)

    @checked
    def at(self, position: Position) -> FlowGraph:
        """The blocks at one position as a graph of their own, without the others.

        Args:
            position: The graph's own, or that of a column.

        Raises:
            GraphError: no whole block is shown at that position.
        """
        from visit_tl.graph.cut import to_position

        return to_position(self, position)

    @checked
    def route(self, source: NodeName, target: NodeName = "logits") -> tuple[Edge, ...]:
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

    # --- the model behind it -----------------------------------------------------------------

    @checked
    def hook_points(self, nodes: NodeNames | None = None) -> list[tuple[str, tuple[int, ...]]]:
        """Where nodes live in the model: (hook name, index), ready for `run_with_hooks`.

        Args:
            nodes: Nodes or their ids; None is all of the graph.

        Returns:
            In the order of the nodes, each place once; biases live at no hook and are left out.

        Raises:
            GraphError: a node is not in the graph.
        """
        wanted = self.nodes if nodes is None else node_ids(nodes)
        found = [node if isinstance(node, Node) else self[node] for node in wanted]
        places = [(n.hook.name, n.hook.index) for n in found if n.hook is not None]
        return list(dict.fromkeys(places))

    @checked
    def attribution(self, *, against: Token | None = None, model: Model = None) -> Attribution:
        """What each part adds directly to the target's logit; see `visit_tl.causal.attribute`.

        Args:
            against: A token whose logit is subtracted; None for none.
            model: The model; needed for a graph that was loaded.
        """
        from visit_tl.causal.attribution import attribute

        return attribute(self._model(model), self, against=against)

    @checked
    def effects(self, metric: MetricFunction, *, model: Model = None, **options: Any) -> Effects:
        """What patching each node of the graph does to a metric; see `visit_tl.causal.effects`.

        Args:
            metric: A callable on logits `[1, pos, d_vocab]`; see `visit_tl.causal.metrics`.
            model: The model; needed for a graph that was loaded.
            options: As for `visit_tl.causal.effects`: `corrupted`, `how`, `positions`, ...
        """
        from visit_tl.causal.sweep import effects

        options.setdefault("nodes", self)
        return effects(self._model(model), list(self.token_ids), metric, **options)

    @checked
    def edge_effects(
        self, metric: MetricFunction, *, model: Model = None, **options: Any
    ) -> GraphEdgeEffects:
        """What cutting each edge of the graph does to a metric, at the graph's position.

        Args:
            metric: As for `effects`.
            model: The model; needed for a graph that was loaded.
            options: As for `visit_tl.causal.graph_edge_effects`: `corrupted`, `how`, ...
        """
        from visit_tl.causal.graph_edges import graph_edge_effects

        return graph_edge_effects(self._model(model), self, metric, **options)

    def _model(self, model: Any) -> Any:
        from visit_tl.graph.source import model_of

        return model_of(self, model)

    @checked
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

    def to_networkx(self) -> nx.DiGraph:
        """The graph as a networkx graph, its nodes by id.

        Attributes are str, int, float or bool, lists among them as JSON, so that each of
        networkx's writers takes them; what is not known is left out. `position` is the graph's own
        where the id has none.

        Returns:
            A DiGraph, or a MultiDiGraph if two nodes are joined twice.
        """
        from visit_tl.graph.networks import to_networkx

        return to_networkx(self)

    @checked
    def attention(self, heads: NodeNames, *, model: Model = None) -> AttentionView:
        """Where heads look, from every position of the prompt; see `visit_tl.xray.attention`.

        Args:
            heads: Their ids.
            model: The model; needed for a graph that was loaded.

        Raises:
            GraphError: the model is not at hand, or running it again would be another run than
                the one that the graph is of.
        """
        from visit_tl.xray import attention

        return attention(self._model(model), list(self.token_ids), heads)

    @checked
    def lens_table(self, *, model: Model = None, **options: Any) -> LensTable:
        """The residual stream of the prompt, after every block at every position, read as words.

        Args:
            model: The model; needed for a graph that was loaded.
            options: `layers` and `k`, as for `visit_tl.states.lens_table`.

        Raises:
            GraphError: as `attention`.
        """
        from visit_tl.states import lens_table

        given = self.target_id if self.target_given else None
        ids = list(self.token_ids)
        table = lens_table(self._model(model), ids, target=given, **options)
        return replace(table, prompt=self.prompt)

    # --- to look at and to keep: the views and the files live in rooms of their own ------------

    @checked
    def figure(
        self,
        layers: Layers | None = None,
        theme: Theme = "light",
        position: Position | None = None,
        *,
        kind: FigureKind = "flow",
        **options: Any,
    ) -> go.Figure:
        """A Plotly figure.

        Args:
            layers: As for `visit_tl.view.sankey.sankey`.
            theme: `light` or `dark`.
            position: As for `visit_tl.view.sankey.sankey`.
            kind: `flow`; `heads`, a map of layers x heads; `lens`, the states that the graph holds
                as a table of layers x positions (`lens_table` has them all); `neurons`, the
                strongest neurons of a block as bars.
            options: As for the view of the kind; see `visit_tl.view.figures.figure`.

        Raises:
            InputError: an unknown kind, or as the view raises.
        """
        from visit_tl.view.figures import figure

        return figure(self, kind, layers=layers, theme=theme, position=position, **options)

    @checked
    def text(self, layers: Layers | None = None) -> str:
        """The graph as text; see `visit_tl.view.text.text`."""
        from visit_tl.view.text import text

        return text(self, layers=layers)

    def _repr_html_(self) -> str:
        from visit_tl.view.notebook import notebook_html

        return notebook_html(self)

    @checked
    def save(
        self,
        path: File,
        *,
        overwrite: Flag = False,
        theme: Theme = "light",
        layers: Layers | None = None,
        schema: Schema = "visit_tl",
    ) -> Path:
        """Write the graph, by the suffix of the path.

        - `.json`: all of it, to load again; with `schema="neuronpedia"`, for the viewers of
          Neuronpedia and circuit-tracer instead (`graph.neuronpedia`).
        - `.html`: the page. `.svg`, `.png`, `.pdf`: the figure; the last two need the extra
          `visit-tl[image]` and a Chrome.
        - `.graphml`, `.dot`: for tools that read networks (`graph.networks`).
        - `.csv`, `.parquet`: the nodes, and beside them the edges in `x.edges.csv`
          (`graph.sheets`); Parquet needs the extra `visit-tl[parquet]`.

        Args:
            path: Where; the folder must exist.
            overwrite: Replace a file that is not known for a graph of ours. PNG, PDF and Parquet
                do not say who made them, so they are never replaced without it.
            theme: `light` or `dark`, for the pictures.
            layers: The blocks that a picture shows, as for `figure`.
            schema: `visit_tl` or `neuronpedia`, for `.json`.

        Returns:
            The path.

        Raises:
            FileError: an unknown suffix, a path that cannot be written, a foreign file there, or
                an extra that is not installed.
            InputError: layers or a schema for a file that has none, or an unknown theme.
        """
        from visit_tl.graph.files import save

        return save(self, path, overwrite=overwrite, theme=theme, layers=layers, schema=schema)

    @classmethod
    @checked
    def load(cls, path: File) -> FlowGraph:
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
