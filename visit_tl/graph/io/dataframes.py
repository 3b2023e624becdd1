"""A graph as pandas tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visit_tl.graph.container import GraphData
from visit_tl.graph.io.networks import gradient_facts
from visit_tl.graph.records import Node

if TYPE_CHECKING:
    import pandas as pd


def heads_table(graph: GraphData) -> pd.DataFrame:
    """One row per kept head; see `FlowGraph.heads`."""
    import pandas as pd

    rows = [
        {
            "head": str(node.id),
            "top": [t.token for t in node.top],
            "bottom": [t.token for t in node.bottom],
            "rank": node.rank,
            "prob": node.prob,
            "norm": node.norm,
            "looks_at": _looks_at(graph.values_of(node.id)),
            "entropy": node.entropy,
            "attribution": node.attribution,
            "effect": None if node.effect is None else node.effect.value,
            **gradient_facts(node),
            "roles": list(node.roles),
        }
        for node in graph.of_kind("head")
    ]
    columns = ["head", "top", "bottom", "rank", "prob", "norm", "looks_at", "entropy"]
    columns += ["attribution", "effect", "gradient", "gradient_rank", "reversed", "roles"]
    return pd.DataFrame(rows, columns=columns).set_index("head")


def _looks_at(values: tuple[Node, ...]) -> list[tuple[str, int | None, float]]:
    """(token, key position, attention) of each value."""
    return [(v.token or "", v.id.key_position, v.coefficient or 0.0) for v in values]


def nodes_table(graph: GraphData) -> pd.DataFrame:
    """One row per node; see `FlowGraph.to_dataframe`."""
    import pandas as pd

    return pd.DataFrame([_node_row(node) for node in graph.nodes]).set_index("id")


def _node_row(node: Node) -> dict[str, Any]:
    return {
        "id": str(node.id),
        "kind": node.kind,
        "layer": node.id.layer,
        "head": node.id.head,
        "key_position": node.id.key_position,
        "neuron": node.id.neuron,
        "expert": node.id.expert,
        "position": node.id.position,
        "token": node.token,
        "label": node.label,
        "top": [t.token for t in node.top],
        "bottom": [t.token for t in node.bottom],
        "rank": node.rank,
        "prob": node.prob,
        "entropy": node.entropy,
        "norm": node.norm,
        "coefficient": node.coefficient,
        "attribution": node.attribution,
        "effect": None if node.effect is None else node.effect.value,
        "hook": None if node.hook is None else node.hook.name,
        "index": None if node.hook is None else node.hook.index,
        **gradient_facts(node),
        "roles": list(node.roles),
        "unopened": node.unopened,
    }
