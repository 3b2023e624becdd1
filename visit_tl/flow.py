"""FlowGraph: the records of a graph, with methods to query, test, draw and save it.

Each method calls a function of a lower package; no lower package imports this class.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Count,
    FeatureModules,
    FigureKind,
    File,
    Flag,
    Layers,
    MetricFunction,
    Model,
    Position,
    Schema,
    Theme,
    Token,
    Whole,
)
from visit_tl.drawn import Drawn
from visit_tl.errors import GraphError
from visit_tl.graph.container import GRAPH, GraphData
from visit_tl.graph.ids import NodeName, NodeNames, node_ids
from visit_tl.graph.records import Edge, Node

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

    from visit_tl.causal.attribution.direct import Attribution
    from visit_tl.causal.attribution.feature_attribution_result import FeatureAttribution
    from visit_tl.causal.circuit.edges_of_graph import GraphEdgeEffects
    from visit_tl.causal.patching.effects_result import Effects
    from visit_tl.causal.qk.attribution_result import AttentionAttribution
    from visit_tl.graph.difference import GraphDiff
    from visit_tl.graph.state_table import LensTable
    from visit_tl.view.attention import AttentionView


class FlowGraph(GraphData, Drawn):
    """The X-ray of one forward pass at one position.

    Its attributes and lookups are described in `visit_tl.graph.container.GraphData`.
    """

    @classmethod
    @checked
    def of(cls, records: Annotated[GraphData, GRAPH]) -> FlowGraph:
        """Make a FlowGraph from the records of a graph, without checking them again."""
        graph = object.__new__(cls)
        graph.__dict__.update(records.__dict__)
        return graph

    # --- subgraphs and paths -------------------------------------------------------------------

    @checked
    def subgraph(self, layers: Layers) -> FlowGraph:
        """Cut the graph down to consecutive blocks (paper, A.5, last point).

        The final norm and the logits are kept only together with the model's last block.

        Raises:
            GraphError: a layer is not in this graph, or the layers have a gap.
        """
        from visit_tl.graph.subgraphs import to_layers

        return to_layers(self, layers)

    @checked
    def at(self, position: Position) -> FlowGraph:
        """Extract the blocks at one position as a separate graph.

        Args:
            position: The graph's own position, or the position of one of its `columns`.

        Raises:
            GraphError: the graph has no whole block at that position.
        """
        from visit_tl.graph.subgraphs import to_position

        return to_position(self, position)

    @checked
    def route(self, source: NodeName, target: NodeName = "logits") -> tuple[Edge, ...]:
        """Find the strongest path from one node to another.

        The strength of a path is the product of the shares of its edges. The share of an edge is
        its absolute score divided by the sum over all edges of the same kind into the same node.
        In an expanded graph, paths lead from one position to another through memories.

        Returns:
            The edges in the order of the path; empty if there is no path or the ends are the same.

        Raises:
            GraphError: an end is not in the graph.
        """
        from visit_tl.graph.routes import strongest

        return strongest(self, self[source].id, self[target].id)

    # --- calls that need the model -------------------------------------------------------------

    @checked
    def hook_points(self, nodes: NodeNames | None = None) -> list[tuple[str, tuple[int, ...]]]:
        """The hook name and tensor index of each node, ready for `run_with_hooks`.

        Args:
            nodes: Nodes or their ids; None for all nodes of the graph.

        Returns:
            (hook name, index) pairs in the order of the nodes, without repeats. Biases have no
            hook and are left out.

        Raises:
            GraphError: a node is not in the graph.
        """
        wanted = self.nodes if nodes is None else node_ids(nodes)
        found = [node if isinstance(node, Node) else self[node] for node in wanted]
        places = [(n.hook.name, n.hook.index) for n in found if n.hook is not None]
        return list(dict.fromkeys(places))

    @checked
    def attribution(
        self,
        *,
        against: Token | None = None,
        model: Model = None,
        saes: FeatureModules | None = None,
    ) -> Attribution:
        """What each part adds directly to the target's logit; see `visit_tl.causal.attribute`.

        Args:
            against: A token whose logit is subtracted; None for none.
            model: The model; required if the graph was loaded from a file.
            saes: SAEs and transcoders whose features have shares, too; None is those of the graph.
        """
        from visit_tl.causal.attribution.direct import attribute

        return attribute(self._model(model), self, against=against, saes=saes)

    @checked
    def effects(self, metric: MetricFunction, *, model: Model = None, **options: Any) -> Effects:
        """What patching each node of the graph does to a metric; see `visit_tl.causal.effects`.

        Args:
            metric: A callable on logits `[1, pos, d_vocab]`; see `visit_tl.causal.metrics`.
            model: The model; required if the graph was loaded from a file.
            options: As for `visit_tl.causal.effects`: `corrupted`, `how`, `positions`, ...
        """
        from visit_tl.causal.patching.node_effects import effects

        options.setdefault("nodes", self)
        if self.feature_sets:
            options.setdefault("saes", getattr(self.source, "modules", ()) or None)
        options.setdefault("segments", self.segments or None)
        return effects(self._model(model), list(self.token_ids), metric, **options)

    @checked
    def edge_effects(
        self, metric: MetricFunction, *, model: Model = None, **options: Any
    ) -> GraphEdgeEffects:
        """What cutting each edge of the graph does to a metric, at the graph's position.

        Args:
            metric: As for `effects`.
            model: The model; required if the graph was loaded from a file.
            options: As for `visit_tl.causal.graph_edge_effects`: `corrupted`, `how`, ...
        """
        from visit_tl.causal.circuit.edges_of_graph import graph_edge_effects

        return graph_edge_effects(self._model(model), self, metric, **options)

    @checked
    def why(
        self,
        head: NodeName,
        key: Position,
        query: Position | None = None,
        *,
        model: Model = None,
        **options: Any,
    ) -> AttentionAttribution:
        """Why a head looked at a position; see `visit_tl.causal.attention_attribution`.

        The run is kept for the next call, and with it the model, as long as this graph is there and
        no two other graphs were asked since.

        Args:
            head: The head, such as `L23H0`; it need not be in the graph.
            key: The position that it looked at.
            query: The position that looked; None is the graph's.
            model: The model; required if the graph was loaded from a file.
            options: `neurons` and `top`, as for `visit_tl.causal.attention_attribution`.
        """
        from visit_tl.causal.qk.reasons import why

        return why(self, head, key, query, model, **options)

    @checked
    def feature_attribution(
        self,
        feature: NodeName,
        *,
        sae: FeatureModules | None = None,
        model: Model = None,
    ) -> FeatureAttribution:
        """Which heads and source positions made a feature of hook_z active.

        See `visit_tl.causal.feature_attribution`.

        Args:
            feature: The feature, such as `L9.z.F123`; it need not be in the graph.
            sae: Its SAE; None is that of the graph.
            model: The model; required if the graph was loaded from a file.

        Raises:
            GraphError: it is no feature, or its SAE is not at hand.
            InputError: as `visit_tl.causal.feature_attribution`.
        """
        from visit_tl.causal.attribution.feature_attribution import of_graph

        return of_graph(self._model(model), self, self.name_of(feature), sae)

    @checked
    def with_why(
        self,
        *,
        top: Count = 8,
        neurons: Whole = 0,
        model: Model = None,
        verbose: Flag = True,
    ) -> FlowGraph:
        """The same graph with why its heads looked at the memories that it shows, for the page.

        Args:
            top: How many pairs are kept of each score; all others are one number.
            neurons: As for `visit_tl.causal.attention_attribution`.
            model: The model; required if the graph was loaded from a file.
            verbose: Show a progress bar where there are many.
        """
        from visit_tl.causal.qk.reasons import with_reasons

        return with_reasons(self, model, top=top, neurons=neurons, verbose=verbose)

    def _model(self, model: Any) -> Any:
        from visit_tl.xray.source_model import model_of

        return model_of(self, model)

    @checked
    def diff(self, other: Annotated[FlowGraph, GRAPH]) -> GraphDiff:
        """Compare with another graph: nodes that appeared, vanished or changed rank.

        Raises:
            GraphError: the graphs are of models of different shapes, follow different targets,
                were read by different lenses, or show features of different SAEs at one site.
        """
        from visit_tl.graph.difference import diff

        return diff(self, other)

    # --- tables ------------------------------------------------------------------------------

    def heads(self) -> pd.DataFrame:
        """Table with one row per kept head: its tokens, its rank of the target, its attention.

        Columns: head, top, bottom, rank, prob, norm, looks_at (tokens of the shown memory values
        with their attention), entropy, and, missing where not measured, attribution, effect,
        gradient (its norm), gradient_rank (the target's rank in it), reversed (the norm of the
        reversed attention). The rows are in the order of the forward pass.
        """
        from visit_tl.graph.io.dataframes import heads_table

        return heads_table(self)

    def features(self) -> pd.DataFrame:
        """Table with one row per shown feature, and per error and bias of an SAE or transcoder.

        Columns: feature (the id), layer, site, index, explanation, activation, norm (of the row of
        the decoder, as the residual stream sees it), adds (|activation| x norm), promotes, rank
        (the target's among what it promotes), attribution and effect (missing where not measured),
        and of its SAE: sae (the name), error_share, explained, neuronpedia (the feature's id
        there). The rows are in the order of the forward pass.
        """
        from visit_tl.graph.io.dataframes import features_table

        return features_table(self)

    def to_dataframe(self) -> pd.DataFrame:
        """Table with one row per node and its fields.

        The rows of attention and the words of gradients are left out.
        """
        from visit_tl.graph.io.dataframes import nodes_table

        return nodes_table(self)

    def to_networkx(self) -> nx.DiGraph:
        """The graph as a networkx graph, its nodes by id.

        Attributes are str, int, float or bool, which all networkx writers accept; lists are JSON
        strings. Missing values are left out. If an id has no position, `position` is the graph's
        own.

        Returns:
            A DiGraph, or a MultiDiGraph if two nodes are joined by more than one edge.
        """
        from visit_tl.graph.io.networks import to_networkx

        return to_networkx(self)

    @checked
    def attention(self, heads: NodeNames, *, model: Model = None) -> AttentionView:
        """Show the attention of heads from every position; see `visit_tl.attention`.

        Args:
            heads: Ids of the heads.
            model: The model; required if the graph was loaded from a file.

        Raises:
            GraphError: the model is not available, or running it again would not reproduce the run
                that the graph was made from.
        """
        from visit_tl.attention_maps import attention

        spans = self.segments or None
        return attention(self._model(model), list(self.token_ids), heads, segments=spans)

    @checked
    def lens_table(self, *, model: Model = None, **options: Any) -> LensTable:
        """Read the residual stream as tokens, after every block and at every position.

        Args:
            model: The model; required if the graph was loaded from a file.
            options: `layers`, `k` and `lens`, as for `visit_tl.xray.residual_states.lens_table`. If
                another lens than the logit lens read the graph, `lens` must be given.

        Raises:
            GraphError: as `attention`, or no `lens` was given.
        """
        from visit_tl.xray.residual_states import lens_table

        if self.lens is not None and "lens" not in options:
            raise GraphError(
                f"this graph was read by the {self.lens.name}, whose maps it does not hold; pass "
                f"it as lens= (None is the logit lens)"
            )
        given = self.target_id if self.target_given else None
        ids = list(self.token_ids)
        options.setdefault("segments", self.segments or None)
        table = lens_table(self._model(model), ids, target=given, **options)
        return replace(table, prompt=self.prompt)

    # --- figures, text and files ---------------------------------------------------------------

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
        """Draw the graph as a Plotly figure.

        Args:
            layers: As for `visit_tl.view.figures.sankey.sankey`.
            theme: `light` or `dark`.
            position: As for `visit_tl.view.figures.sankey.sankey`.
            kind: `flow`; `heads`, a map of layers x heads; `lens`, the states that the graph holds
                as a table of layers x positions (`lens_table` has them all); `neurons`, the
                strongest neurons of a block as bars.
            options: Further options of the kind; see `visit_tl.view.figures.kinds.figure`.

        Raises:
            InputError: the kind is unknown, or an option does not fit it.
        """
        return self._drawn("figure", kind, layers=layers, theme=theme, position=position, **options)

    @checked
    def text(self, layers: Layers | None = None) -> str:
        """The graph as text; see `visit_tl.view.text.text`."""
        return self._drawn("text", layers=layers)

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
        """Write the graph to a file; the suffix of the path chooses the format.

        - `.json`: the whole graph, which `load` reads; with `schema="neuronpedia"`, a file for the
          viewers of Neuronpedia and circuit-tracer instead (`graph.io.neuronpedia`).
        - `.html`: the interactive page. `.svg`, `.png`, `.pdf`: the figure; PNG and PDF need the
          extra `visit-tl[image]` and Chrome.
        - `.graphml`, `.dot`: for tools that read networks (`graph.io.networks`, `view.dot`).
        - `.csv`, `.parquet`: the nodes, with the edges in a second file such as `x.edges.csv`
          (`graph.io.csv_parquet`); Parquet needs the extra `visit-tl[parquet]`.

        Args:
            path: Where; the folder must exist.
            overwrite: Replace an existing file even if visit_tl did not write it. PNG, PDF and
                Parquet files do not say who wrote them, so they are never replaced without it.
            theme: `light` or `dark`, for the pictures.
            layers: The blocks that a picture shows, as for `figure`.
            schema: `visit_tl` or `neuronpedia`, for `.json`.

        Returns:
            The path.

        Raises:
            FileError: the suffix is unknown, the path cannot be written, a file that visit_tl did
                not write is there, or an extra is not installed.
            InputError: layers or a schema was given for a format that takes none, or the theme is
                unknown.
        """
        from visit_tl.saving import save

        return save(self, path, overwrite=overwrite, theme=theme, layers=layers, schema=schema)

    @classmethod
    @checked
    def load(cls, path: File) -> FlowGraph:
        """Read a graph from a `.json` file; it equals the graph that was saved.

        Raises:
            GraphError: the file is not a graph, has another schema, or is not consistent.
            FileError: the file cannot be read.
        """
        from visit_tl.saving import load

        return cls.of(load(path))

    def to_json(self) -> dict[str, Any]:
        """The graph as plain JSON types; see `visit_tl.graph.io.json_format`."""
        from visit_tl.graph.io.json_format import to_json

        return to_json(self)
