"""A graph for other tools that read networks: networkx, GraphML and DOT."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.records import Edge, Node

if TYPE_CHECKING:
    import networkx as nx

MARK: Final = "made by visit_tl"
"""What the first lines of our GraphML, DOT and SVG say, so that we know them for ours."""


def to_networkx(graph: FlowGraph) -> nx.DiGraph:
    """The graph as a networkx graph; see `FlowGraph.to_networkx`."""
    import networkx as nx

    pairs = [(edge.source, edge.target) for edge in graph.edges]
    made = nx.DiGraph() if len(set(pairs)) == len(pairs) else nx.MultiDiGraph()
    made.graph.update(graph_facts(graph))
    made.add_nodes_from((str(node.id), node_facts(node, graph)) for node in graph.nodes)
    made.add_edges_from((str(e.source), str(e.target), edge_facts(e)) for e in graph.edges)
    return made


def graph_facts(graph: FlowGraph) -> dict[str, Any]:
    """What holds for all of the graph; lists as JSON."""
    return {
        "model": graph.model,
        "prompt": graph.prompt,
        "tokens": _json(graph.tokens),
        "token_ids": _json(graph.token_ids),
        "prepend_bos": graph.prepend_bos,
        "bos_in_prompt": graph.bos_in_prompt,
        "position": graph.position,
        "target": graph.target,
        "target_id": graph.target_id,
        "n_layers": graph.n_layers,
        "d_vocab": graph.d_vocab,
        "pruning": _json(dict(graph.pruning)),
    }


def node_facts(node: Node, graph: FlowGraph) -> dict[str, Any]:
    """What a node knows, each a str, int, float or bool; what it does not know is left out."""
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
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def edge_facts(edge: Edge) -> dict[str, Any]:
    """What an edge knows; what it does not know is left out."""
    facts: dict[str, Any] = {"kind": edge.kind, "score": edge.score}
    if edge.effect is not None:
        facts |= {"effect": edge.effect.value, "effect_exact": edge.effect.exact}
    return facts


def graphml(graph: FlowGraph) -> bytes:
    """The graph as GraphML, for Gephi, yEd, Cytoscape and networkx."""
    import networkx as nx

    made = to_networkx(graph)
    tables: Iterable[dict[str, Any]] = (
        made.graph,
        *(facts for _, facts in made.nodes(data=True)),
        *(facts for _, _, facts in made.edges(data=True)),
    )
    for facts in tables:
        facts.update(_carried(facts))
    written = io.BytesIO()
    # Not write_graphml, which takes lxml where it is installed: the same bytes everywhere.
    nx.write_graphml_xml(made, written)
    head, declaration, body = written.getvalue().partition(b"?>\n")
    return head + declaration + f"<!-- {MARK} -->\n".encode() + body


def dot(graph: FlowGraph, theme: str = "light") -> str:
    """The graph in Graphviz's language: a picture for `dot -Tsvg`, with everything as attributes.

    Written here because what networkx has for it needs pydot, which leaves quoting to the caller.

    Args:
        graph: The graph.
        theme: `light` or `dark`: the colours are those of the other pictures.

    Raises:
        InputError: there is no such theme.
    """
    from visit_tl.view.style import FONT_SIZE, edge_colour, node_colour, palette
    from visit_tl.view.words import edge_fact, node_title, short_label

    colours = palette(theme)
    font = {"fontname": "Helvetica", "fontsize": FONT_SIZE, "fontcolor": colours.text}
    box = {"shape": "box", "penwidth": 2, "height": 0.2, "margin": "0.08,0.03"}
    drawn = {"rankdir": "LR", "bgcolor": colours.background, "ranksep": 0.6, "nodesep": 0.08}
    lines = [
        f"// {MARK}",
        "digraph flow {",
        f"  graph {_attributes(drawn | graph_facts(graph))};",
        f"  node {_attributes(box | font)};",
        f"  edge {_attributes({'arrowsize': 0.5})};",
    ]
    for node in graph.nodes:
        look = {
            "label": _shown(short_label(node)),
            "tooltip": _shown(node_title(node)),
            "color": node_colour(node, graph.d_vocab, theme),
        }
        facts = {f"{k}_token" if k == "label" else k: v for k, v in node_facts(node, graph).items()}
        lines.append(f"  {_quoted(str(node.id))} {_attributes(facts | look)};")
    for edge in graph.edges:
        look = {
            "color": _hex(edge_colour(edge, graph[edge.source], graph.d_vocab, theme)),
            "tooltip": _shown(edge_fact(edge, graph[edge.target])),
        }
        ends = f"{_quoted(str(edge.source))} -> {_quoted(str(edge.target))}"
        lines.append(f"  {ends} {_attributes(edge_facts(edge) | look)};")
    return "\n".join([*lines, "}", ""])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _carried(facts: dict[str, Any]) -> dict[str, Any]:
    from visit_tl.view.labels import carried

    return {name: carried(f) if isinstance(f, str) else f for name, f in facts.items()}


def _attributes(facts: dict[str, Any]) -> str:
    pairs = (f"{name}={_quoted(fact)}" for name, fact in _carried(facts).items())
    return f"[{', '.join(pairs)}]"


def _quoted(fact: object) -> str:
    """A quoted string of DOT, in one line. Graphviz keeps its escapes, and reads them in labels."""
    text = str(fact).lower() if isinstance(fact, bool) else str(fact)
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.replace(character, escape)
    return f'"{text}"'


def _shown(text: str) -> str:
    """Text for a label, in which Graphviz reads entities."""
    from visit_tl.view.labels import isolated

    return isolated(text).replace("&", "&amp;")


def _hex(css: str) -> str:
    """`rgba(0,158,115,0.55)` as `#009e738c`."""
    *rgb, opacity = css.removeprefix("rgba(").removesuffix(")").split(",")
    return "#" + "".join(f"{int(part):02x}" for part in (*rgb, round(float(opacity) * 255)))
