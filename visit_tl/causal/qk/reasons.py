"""Why the heads of a graph looked where they looked: one score, or all that the graph shows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final
from weakref import ReferenceType, ref

from tqdm.auto import tqdm

from visit_tl.causal.qk.attribution_result import AttentionAttribution
from visit_tl.causal.qk.score_parts import attribute_score, head_of
from visit_tl.causal.qk.traced_run import TracedRun, traced_run
from visit_tl.graph.container import G, GraphData
from visit_tl.graph.ids import NodeName
from visit_tl.graph.records import Reason
from visit_tl.model.model_state import model_state
from visit_tl.model.view import ModelView
from visit_tl.xray.source_model import model_of

_KEPT: Final = 2
_VIEWS: OrderedDict[ReferenceType[Any], tuple[ModelView, object]] = OrderedDict()
"""The open models of the graphs that were asked last and their states, by `GraphData.source`."""
_MANY: Final = 200
"""From this many scores on there is a progress bar: one takes about 10 ms."""


def why(
    graph: GraphData,
    head: NodeName,
    key: int,
    query: int | None,
    model: Any,
    *,
    neurons: int = 0,
    top: int = 20,
) -> AttentionAttribution:
    """`FlowGraph.why`.

    Raises:
        GraphError: there is no model, or its run would not be the graph's.
        InputError: a head or position that does not fit, or a key that the query does not see.
    """
    view, run = _run_of(graph, model)
    layer, number = head_of(view, head)
    n = len(graph.token_ids)
    at = view.check_position(graph.position if query is None else query, n)
    to = view.check_position(key, n)
    return attribute_score(view, run, layer, number, at, to, neurons=neurons, top=top)


def with_reasons(graph: G, model: Any, *, top: int, neurons: int, verbose: bool) -> G:
    """The graph with a reason for every memory that it shows, in the order of its nodes."""
    view, run = _run_of(graph, model)
    places = []
    for node in graph.of_kind("value"):
        i = node.id
        assert i.layer is not None and i.head is not None and i.key_position is not None
        query = graph.position if i.position is None else i.position
        places.append((i.layer, i.head, query, i.key_position))
    run.at(view, sorted({at for place in places for at in place[2:]}))
    found: list[Reason] = []
    quiet = not verbose or len(places) < _MANY
    for layer, head, query, key in tqdm(places, desc="why", disable=quiet):
        one = attribute_score(view, run, layer, head, query, key, neurons=neurons, top=top)
        found.append(one.reason)
    return replace(graph, reasons=tuple(found))


def _run_of(graph: GraphData, model: Any) -> tuple[ModelView, TracedRun]:
    view = _view_of(graph, model)
    return view, traced_run(view, view.encode(list(graph.token_ids), None, graph.segments or None))


def _view_of(graph: GraphData, model: Any) -> ModelView:
    """The model that repeats the graph's run, opened; kept for the next call about this graph.

    It is kept by the graph's reference to its model, which graphs made from this one share. A graph
    that was loaded has none, and its model is opened each time.
    """
    source = graph.source
    if source is None:
        return ModelView(model_of(graph, model))
    name = ref(source, lambda gone: _VIEWS.pop(gone, None))
    view, state = _VIEWS.pop(name, (None, None))
    unchanged = view is not None and state is not None and state == model_state(view)
    if view is None or not unchanged or not (model is None or model is view.model):
        view = ModelView(model_of(graph, model))
        state = model_state(view)
    _VIEWS[name] = (view, state)
    while len(_VIEWS) > _KEPT:
        _VIEWS.popitem(last=False)
    return view
