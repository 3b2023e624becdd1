"""Cut edges of a FlowGraph: each stands for a bundle of edges between parts.

`L9.query -> L9H6.q` stands for the edges from all earlier parts to the queries of head 6;
`L9H6 -> L9.z` stands for the edges from head 6 to all later readers. Cutting an edge of the graph
cuts its whole bundle at the graph's position.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import torch

from visit_tl.arguments.checked import checked
from visit_tl.arguments.shared import Unpack
from visit_tl.arguments.vocabulary import MetricFunction, Model
from visit_tl.causal.circuit.circuit_run import CircuitRun
from visit_tl.causal.circuit.edge_bundles import bundle
from visit_tl.causal.metrics import bind, evaluate, metric_name
from visit_tl.causal.patching_options import PATCHING_OPTIONS, PatchingOptions
from visit_tl.causal.paths.chosen_edges import other_writes, shape_of
from visit_tl.causal.residual_writes import WrittenRun
from visit_tl.causal.same_prompt import require_same
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.graph.circuit_parts import Edge as PartEdge
from visit_tl.graph.container import GRAPH, G, Graph
from visit_tl.graph.ids import Ends, NodeId
from visit_tl.graph.records import Edge, Effect
from visit_tl.model.view import ModelView

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class GraphEdgeEffects(Drawn):
    """What cutting edges of a graph does to a metric.

    Attributes:
        model: Name of the model.
        token_ids: The prompt.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
        position: The graph's position, at which edges were cut.
        ends: Source and target of each edge that was measured.
        values: For each edge, the metric with it cut, minus the metric of the clean run.
        sizes: For each edge, how many edges between parts are in its bundle.
        left_out: How many edges of the graph have no bundle of their own: those of single memories
            and neurons, of biases, and of other positions.
        metric: Name of the metric.
        how: What was written instead: `resample`, `mean` or `zero`.
        clean: The metric of the clean run.
        corrupted: The metric of the corrupted run; None if there is none.
        complete: False if the sweep was interrupted, so that edges are missing.
    """

    model: str
    token_ids: tuple[int, ...]
    position: int
    ends: tuple[tuple[NodeId, NodeId], ...] = field(repr=False)
    values: tuple[float, ...] = field(repr=False)
    sizes: tuple[int, ...] = field(repr=False)
    left_out: int
    metric: str
    how: str
    clean: float
    corrupted: float | None
    complete: bool
    segments: tuple[tuple[int, int], ...] = ()

    @checked
    def __getitem__(self, ends: Ends) -> float:
        """The effect of one edge, such as `effects["L9.query", "L9H6.q"]`.

        Raises:
            InputError: the edge was not measured.
        """
        wanted = NodeId.parse(ends[0]), NodeId.parse(ends[1])
        if wanted not in self._by_ends:
            raise InputError(
                f"the edge {wanted[0]} -> {wanted[1]} was not measured; it is not in the graph, or "
                f"has no bundle of its own"
            )
        return self._by_ends[wanted]

    @cached_property
    def _by_ends(self) -> dict[tuple[NodeId, NodeId], float]:
        return dict(zip(self.ends, self.values, strict=True))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge: source, target, effect, and the number of edges in its bundle."""
        import pandas as pd

        return pd.DataFrame(
            {
                "source": [str(source) for source, _ in self.ends],
                "target": [str(target) for _, target in self.ends],
                "effect": self.values,
                "bundle": self.sizes,
            }
        )

    @checked
    def onto(self, graph: Annotated[G, GRAPH]) -> G:
        """The same graph with `Edge.effect` set on every edge that was measured.

        Raises:
            InputError: the graph is of another model, prompt or position.
        """
        ours = self.model, self.token_ids, self.position, self.segments
        require_same(graph, *ours, what="effects", remedy="measure this graph")

        def marked(edge: Edge) -> Edge:
            value = self._by_ends.get((edge.source, edge.target))
            return edge if value is None else replace(edge, effect=Effect(value, exact=True))

        return replace(graph, edges=tuple(map(marked, graph.edges)))


@checked
def graph_edge_effects(
    model: Model,
    graph: Graph,
    metric: MetricFunction,
    **options: Unpack[PatchingOptions],
) -> GraphEdgeEffects:
    """Cut the edges of a graph one at a time and measure what each does to a metric.

    When an edge is cut, the readers of its bundle see the senders' replacement values at the
    graph's position (see `edge_effects`); everything after them is recomputed. Only edges between
    states, sub-blocks, heads and queries are measured. To cut a memory or a neuron, patch its node.

    Args:
        model: The model of the graph, or its ModelView.
        graph: The graph whose edges are cut.
        metric: As for `edge_effects`.
        options: `corrupted`, `how`, `mean_over`, `prepend_bos` and `verbose`; see
            `visit_tl.causal.patching_options.PatchingOptions`.

    Raises:
        InputError: the graph is of another model; or as for `edge_effects`.
        ModelError: as for `edge_effects`.
    """
    from tqdm.auto import tqdm

    view = model if isinstance(model, ModelView) else ModelView(model)
    if (graph.model, graph.n_layers, graph.d_vocab) != (view.name, view.n_layers, view.d_vocab):
        raise InputError(f"the graph is of {graph.model}, the model is {view.name}")
    given = {**PATCHING_OPTIONS, **options}
    segments = given["segments"]
    segments = graph.segments or None if segments is None else segments
    own = view.encode(list(graph.token_ids), None, segments)
    if own.spans != graph.segments:
        raise InputError(
            f"the graph is of a run with the segments {list(graph.segments)}, not "
            f"{list(own.spans)}; leave segments out, or build the graph with them"
        )
    clean = WrittenRun(view, own)
    how, corrupted, prepend_bos = (given[name] for name in ("how", "corrupted", "prepend_bos"))
    other = None if corrupted is None else view.encode_beside(own, corrupted, prepend_bos)
    others = [view.encode_beside(own, p, prepend_bos) for p in given["mean_over"] or ()]
    base, ran = other_writes(view, clean, how, other, others)
    here = torch.zeros(len(graph.token_ids), 1, dtype=torch.bool, device=clean.logits.device)
    here[graph.position] = True
    parts = {p: torch.where(here, base.parts[p], x) for p, x in clean.writes.parts.items()}
    reduced = CircuitRun(clean, replace(base, parts=parts))
    metric = bind(metric, view, clean.logits)
    before = evaluate(metric, clean.logits)
    whole = frozenset(model_edges(shape_of(view)))
    bundles = {
        (edge.source, edge.target): cut
        for edge in graph.edges
        if (cut := bundle(shape_of(view), edge.source, edge.target))
    }
    found: dict[tuple[NodeId, NodeId], float] = {}
    known: dict[frozenset[PartEdge], float] = {}
    complete = True
    try:
        for ends, cut in tqdm(bundles.items(), desc="edges", disable=not given["verbose"]):
            if cut not in known:
                known[cut] = evaluate(metric, reduced.logits(whole - cut)) - before
            found[ends] = known[cut]
    except KeyboardInterrupt:
        complete = False
    return GraphEdgeEffects(
        model=view.name,
        token_ids=graph.token_ids,
        segments=own.spans,
        position=graph.position,
        ends=tuple(found),
        values=tuple(found.values()),
        sizes=tuple(len(bundles[ends]) for ends in found),
        left_out=len(graph.edges) - len(bundles),
        metric=metric_name(metric),
        how=how,
        clean=before,
        corrupted=None if ran is None else evaluate(metric, ran.logits),
        complete=complete,
    )
