"""A graph as pandas tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FEATURE_KINDS
from visit_tl.graph.io.csv_parquet import has_parts
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


def features_table(graph: GraphData) -> pd.DataFrame:
    """One row per shown feature, error and bias; see `FlowGraph.features`."""
    import pandas as pd

    sets = {(one.layer, one.site): one for one in graph.feature_sets}
    rows = []
    for node in graph.of_kind(*FEATURE_KINDS):
        assert node.layer is not None and node.id.site is not None
        own = sets[node.layer, node.id.site]
        index = node.id.neuron
        known = own.neuronpedia is not None and index is not None
        adds = node.norm if node.coefficient is None else abs(node.coefficient) * node.norm
        rows.append(
            {
                "feature": str(node.id),
                "layer": node.layer,
                "site": node.id.site,
                "index": index,
                "explanation": node.explanation,
                "activation": node.coefficient,
                "norm": node.norm,
                "adds": adds,
                "promotes": [read.token for read in node.promoted],
                "rank": graph.d_vocab - 1 - node.rank if node.negative else node.rank,
                "attribution": node.attribution,
                "effect": None if node.effect is None else node.effect.value,
                "sae": own.name,
                "error_share": own.error_share,
                "explained": own.explained,
                "neuronpedia": f"{own.neuronpedia}/{index}" if known else None,
            }
        )
    frame = pd.DataFrame(rows, columns=_FEATURE_COLUMNS).set_index("feature")
    return frame.astype({"index": "Int64"})


_FEATURE_COLUMNS = [
    "feature", "layer", "site", "index", "explanation", "activation", "norm", "adds", "promotes",
    "rank", "attribution", "effect", "sae", "error_share", "explained", "neuronpedia",
]  # fmt: skip


def _looks_at(values: tuple[Node, ...]) -> list[tuple[str, int | None, float]]:
    """(token, key position, attention) of each value."""
    return [(v.token or "", v.id.key_position, v.coefficient or 0.0) for v in values]


def nodes_table(graph: GraphData) -> pd.DataFrame:
    """One row per node; see `FlowGraph.to_dataframe`."""
    import pandas as pd

    frame = pd.DataFrame([_node_row(node) for node in graph.nodes]).set_index("id")
    if has_parts(graph):
        frame["expert"] = [node.id.expert for node in graph.nodes]
        frame["unopened"] = [node.unopened for node in graph.nodes]
    if graph.feature_sets:
        frame["site"] = [node.id.site for node in graph.nodes]
        frame["explanation"] = [node.explanation for node in graph.nodes]
    return frame


def _node_row(node: Node) -> dict[str, Any]:
    return {
        "id": str(node.id),
        "kind": node.kind,
        "layer": node.id.layer,
        "head": node.id.head,
        "key_position": node.id.key_position,
        "neuron": node.id.neuron,
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
    }
