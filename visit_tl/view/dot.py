"""A graph in Graphviz's language DOT, with the colours of the other pictures."""

from __future__ import annotations

from typing import Any

from visit_tl.escaping import isolated
from visit_tl.files import MARK
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FEATURE_KINDS
from visit_tl.graph.io.networks import carried_facts, edge_facts, graph_facts, node_facts
from visit_tl.graph.node_descriptions import edge_fact, edge_from_later, node_title, short_label
from visit_tl.view.style import FONT_SIZE, edge_colour, node_colour, palette


def dot(graph: GraphData, theme: str = "light") -> str:
    """The graph in DOT: a picture for `dot -Tsvg`, with all facts as attributes.

    The writer of networkx is not used: it needs pydot, which leaves quoting to the caller.

    Args:
        graph: The graph.
        theme: `light` or `dark`: the colours are those of the other pictures.

    Raises:
        InputError: there is no such theme.
    """
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
            "label": _shown(short_label(node, graph)),
            "tooltip": _shown(node_title(node)),
            "color": node_colour(node, graph.d_vocab, theme),
        }
        if node.kind in FEATURE_KINDS:
            look |= {"style": "rounded", "peripheries": 2}
        facts = {f"{k}_token" if k == "label" else k: v for k, v in node_facts(node, graph).items()}
        lines.append(f"  {_quoted(str(node.id))} {_attributes(facts | look)};")
    for edge in graph.edges:
        look = {
            "color": _hex(edge_colour(edge, graph[edge.source], graph.d_vocab, theme)),
            "tooltip": _shown(edge_fact(edge, graph)),
        }
        if edge_from_later(edge, graph):
            look["style"] = "dashed"
        ends = f"{_quoted(str(edge.source))} -> {_quoted(str(edge.target))}"
        lines.append(f"  {ends} {_attributes(edge_facts(edge) | look)};")
    return "\n".join([*lines, "}", ""])


def _attributes(facts: dict[str, Any]) -> str:
    pairs = (f"{name}={_quoted(fact)}" for name, fact in carried_facts(facts).items())
    return f"[{', '.join(pairs)}]"


def _quoted(fact: object) -> str:
    """A quoted DOT string in one line. Graphviz keeps the escapes and resolves them in labels."""
    text = str(fact).lower() if isinstance(fact, bool) else str(fact)
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.replace(character, escape)
    return f'"{text}"'


def _shown(text: str) -> str:
    """Text for a label, where Graphviz resolves HTML entities."""
    return isolated(text).replace("&", "&amp;")


def _hex(css: str) -> str:
    """`rgba(0,158,115,0.55)` as `#009e738c`."""
    *rgb, opacity = css.removeprefix("rgba(").removesuffix(")").split(",")
    return "#" + "".join(f"{int(part):02x}" for part in (*rgb, round(float(opacity) * 255)))
