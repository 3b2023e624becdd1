"""What changes of a run did: the prediction before and after, each change alone, and the diff."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from visit_tl.explorer.requests import Request
from visit_tl.explorer.stages import Run
from visit_tl.flow import FlowGraph
from visit_tl.graph.container import GraphData
from visit_tl.graph.difference import diff
from visit_tl.graph.node_descriptions import promoted_label
from visit_tl.graph.records import Effect, Node
from visit_tl.model.view import ModelView

METRIC: Final = "log p(target)"

_MOST: Final = 100
"""Nodes of each kind of difference that are listed."""


def measured(view: ModelView, clean: Run, asked: Request, target: int) -> dict[str, Any]:
    """The effect of all changes together, and of each alone, on the target's log probability."""

    def log_prob(run: Run) -> float:
        return float(run.logits().log_softmax(-1)[target])

    before = log_prob(clean)
    after = log_prob(Run.of(view, asked, target))
    alone = [after - before]
    if len(asked.changes) > 1:
        each = [asked.model_copy(update={"changes": [change]}) for change in asked.changes]
        alone = [log_prob(Run.of(view, one, target)) - before for one in each]
    return {
        "metric": METRIC,
        "before": before,
        "after": after,
        "all": after - before,
        "alone": [
            {"node": change.node, "how": change.how, "factor": change.factor, "effect": effect}
            for change, effect in zip(asked.changes, alone, strict=True)
        ],
    }


def with_effects(graph: FlowGraph, found: dict[str, Any]) -> FlowGraph:
    """The graph with what each change alone did, on its node."""
    effects = {str(one["node"]): Effect(one["effect"], exact=True) for one in found["alone"]}
    nodes = tuple(
        replace(node, effect=effects[str(node.id)]) if str(node.id) in effects else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def difference(before: GraphData, after: GraphData) -> dict[str, Any] | None:
    """What appeared, vanished and changed rank; None where the graphs cannot be compared."""
    if before.target_id != after.target_id or before.d_vocab != after.d_vocab:
        return None
    if before.n_layers != after.n_layers:
        return None
    found = diff(before, after)
    return {
        "changed": [
            {"id": str(c.id), **_of(c.before, "before"), **_of(c.after, "after")}
            for c in found.changed[:_MOST]
        ],
        "appeared": _listed(found.appeared, "after"),
        "vanished": _listed(found.vanished, "before"),
        "counts": [len(found.changed), len(found.appeared), len(found.vanished), found.same],
    }


def _listed(nodes: Iterable[Node], when: str) -> list[dict[str, Any]]:
    strongest = sorted(nodes, key=lambda node: (node.rank, -node.norm))[:_MOST]
    return [{"id": str(node.id), **_of(node, when)} for node in strongest]


def _of(node: Node, when: str) -> dict[str, Any]:
    return {f"says_{when}": promoted_label(node), f"rank_{when}": node.rank}
