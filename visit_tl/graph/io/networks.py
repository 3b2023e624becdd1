"""A graph for other tools that read networks: networkx and GraphML."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from visit_tl.escaping import carried
from visit_tl.files import MARK
from visit_tl.graph.container import GraphData
from visit_tl.graph.records import Edge, Node

if TYPE_CHECKING:
    import networkx as nx


def to_networkx(graph: GraphData) -> nx.DiGraph:
    """The graph as a networkx graph; see `FlowGraph.to_networkx`."""
    import networkx as nx

    pairs = [(edge.source, edge.target) for edge in graph.edges]
    made = nx.DiGraph() if len(set(pairs)) == len(pairs) else nx.MultiDiGraph()
    made.graph.update(graph_facts(graph))
    made.add_nodes_from((str(node.id), node_facts(node, graph)) for node in graph.nodes)
    made.add_edges_from((str(e.source), str(e.target), edge_facts(e)) for e in graph.edges)
    return made


def graph_facts(graph: GraphData) -> dict[str, Any]:
    """Attributes of the whole graph; lists are JSON strings."""
    return {
        "model": graph.model,
        "prompt": graph.prompt,
        "tokens": _json(graph.tokens),
        "token_ids": _json(graph.token_ids),
        "prepend_bos": graph.prepend_bos,
        "bos_in_prompt": graph.bos_in_prompt,
        "segments": _json([list(span) for span in graph.segments]),
        "position": graph.position,
        "target": graph.target,
        "target_id": graph.target_id,
        "n_layers": graph.n_layers,
        "d_vocab": graph.d_vocab,
        "pruning": _json(dict(graph.pruning)),
    }


def node_facts(node: Node, graph: GraphData) -> dict[str, Any]:
    """Attributes of a node, each a str, int, float or bool; missing ones are left out."""
    at = graph.position if node.id.position is None else node.id.position
    facts: dict[str, Any] = {
        "label": node.label if node.promoted else None,
        "kind": node.kind,
        "layer": node.layer,
        "head": node.id.head,
        "key_position": node.id.key_position,
        "neuron": node.id.neuron,
        "position": at,
        "token": node.token,
        "top": _json([read.token for read in node.top]),
        "bottom": _json([read.token for read in node.bottom]),
        "rank": node.rank,
        "prob": node.prob,
        "norm": node.norm,
        "entropy": node.entropy,
        "coefficient": node.coefficient,
        "attribution": node.attribution,
        "effect": None if node.effect is None else node.effect.value,
        "effect_exact": None if node.effect is None else node.effect.exact,
        "hook": None if node.hook is None else node.hook.name,
        "index": None if node.hook is None else _json(node.hook.index),
        **gradient_facts(node),
        "roles": _json(node.roles) if node.roles else None,
        "expert": node.id.expert,
        "unopened": node.unopened,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def gradient_facts(node: Node) -> dict[str, Any]:
    """The norm of the gradient, the target's rank in it, and the norm of reversed attention.

    None where they were not measured.
    """
    gradient = node.gradient
    return {
        "gradient": None if gradient is None else gradient.norm,
        "gradient_rank": None if gradient is None else gradient.rank,
        "reversed": None if node.reversed is None else node.reversed.norm,
    }


def edge_facts(edge: Edge) -> dict[str, Any]:
    """Attributes of an edge; missing ones are left out."""
    facts: dict[str, Any] = {"kind": edge.kind, "score": edge.score}
    if edge.effect is not None:
        facts |= {"effect": edge.effect.value, "effect_exact": edge.effect.exact}
    return facts


def graphml(graph: GraphData) -> bytes:
    """The graph as GraphML, for Gephi, yEd, Cytoscape and networkx."""
    import networkx as nx

    made = to_networkx(graph)
    tables: Iterable[dict[str, Any]] = (
        made.graph,
        *(facts for _, facts in made.nodes(data=True)),
        *(facts for _, _, facts in made.edges(data=True)),
    )
    for facts in tables:
        facts.update(carried_facts(facts))
    written = io.BytesIO()
    # write_graphml would use lxml where it is installed; this gives the same bytes everywhere.
    nx.write_graphml_xml(made, written)
    head, declaration, body = written.getvalue().partition(b"?>\n")
    return head + declaration + f"<!-- {MARK} -->\n".encode() + body


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def carried_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Attributes with their texts escaped by `carried`, for every file format."""
    return {name: carried(f) if isinstance(f, str) else f for name, f in facts.items()}
