"""A graph as a Plotly Sankey diagram with the coordinates of `layout`.

Plotly scales all links by one factor, so that the fullest column of *its own* layout fills the
height; no setting changes this. Therefore two nodes outside the picture, joined by a link (the
ballast), fill that column to exactly the height. Then one unit is one pixel, and the coordinates
are right.
"""

from __future__ import annotations

from typing import Any, Final

import plotly.graph_objects as go

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Layers, Position, Theme
from visit_tl.escaping import for_plotly
from visit_tl.graph.container import Graph, GraphData
from visit_tl.graph.ids import FEATURE_KINDS
from visit_tl.graph.node_descriptions import (
    edge_fact,
    edge_from_later,
    node_facts,
    node_title,
    short_label,
)
from visit_tl.graph.records import Node
from visit_tl.graph.subgraphs import to_position
from visit_tl.view import legend, ribbons
from visit_tl.view.caption import caption
from visit_tl.view.layout import NODE_WIDTH, Layout, layout
from visit_tl.view.style import (
    FEATURE_COLOUR,
    FONT_SIZE,
    edge_colour,
    ground,
    node_colour,
    palette,
)
from visit_tl.view.window import choose

_NODE_HOVER: Final = "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>"
_LINK_HOVER: Final = (
    "%{source.customdata[0]}<br>→ %{target.customdata[0]}<br><b>%{customdata}</b><extra></extra>"
)
_CLEAR: Final = "rgba(0,0,0,0)"
_TITLE: Final = 92
_WIDEST_LINE: Final = 110
"""The most columns of a line of a hover or of the title; a hover must fit a window of 1280 px."""


@checked
def sankey(
    graph: Graph,
    *,
    layers: Layers | None = None,
    theme: Theme = "light",
    position: Position | None = None,
) -> go.Figure:
    """Draw the graph: layers from left to right, the residual stream as a lane at the top.

    A node's colour is the rank of the target among what the node promotes. An edge with a
    coefficient is coloured by its sign. Any other edge is grey, and stands out more the lower the
    entropy of its source is. The width of an edge is its score in proportion to the largest of its
    group (the spine, or one pair of kinds of nodes; see `view.widths`), so widths can be compared
    only within a group; the hover has the true score. Edges of the memories of later tokens, which
    a head sees because of a segment, have a dashed outline.

    Args:
        graph: The graph. It is not changed, and neither are Plotly's defaults.
        layers: Consecutive blocks to show; None for all of up to four, or the last two of more,
            with a line in the title on how to see the rest.
        theme: `light` or `dark`.
        position: Which position to show of a graph whose memories were followed back; None is the
            graph's own.

    Returns:
        A figure of a fixed size in px, large enough to be read.

    Raises:
        InputError: a layer is not in the graph, the layers have a gap, or there is no such theme.
        GraphError: no block is shown at that position.
    """
    whole = graph
    graph = to_position(graph, graph.position if position is None else position)
    shown = choose(graph, layers)
    place, colours = layout(shown), palette(theme)
    drawn = _flow(shown, place, theme)
    figure = go.Figure(drawn)
    height = place.height + legend.HEADINGS + _TITLE + legend.LEGEND
    rims = _rims(shown, place, theme)
    marked = _feature_rims(place, theme)
    notes, shapes = legend.legend(graph.d_vocab, theme, later=bool(rims), features=bool(marked))
    figure.update_layout(
        height=height,
        width=max(place.width, legend.WIDTH),
        margin={"l": 0, "r": 0, "t": legend.HEADINGS + _TITLE, "b": legend.LEGEND},
        annotations=[*drawn["layout"]["annotations"], *notes],
        shapes=[*drawn["layout"]["shapes"], *shapes, *rims, *marked],
        title={
            "text": _title(caption(whole, graph, shown, len(place.orphans))),
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "pad": {"l": 12},
            "y": 1 - 24 / height,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 16, "color": colours.text},
        },
    )
    return figure


def _flow(shown: GraphData, place: Layout, theme: str) -> dict[str, Any]:
    """The flow with its headings, without title and legend."""
    colours = palette(theme)
    notes, shapes = legend.headings(place, theme)
    if not place.boxes:
        notes.append(legend.empty("no edges to draw", theme))
    drawn: dict[str, Any] = {
        "data": [_trace(shown, place, theme)] if place.boxes else [],
        "layout": {
            **ground(colours),
            "width": place.width,
            "height": place.height + legend.HEADINGS,
            "margin": {"l": 0, "r": 0, "t": legend.HEADINGS, "b": 0},
            "annotations": notes,
            "shapes": shapes,
        },
    }
    if not place.boxes:
        drawn["layout"] |= {"xaxis": {"visible": False}, "yaxis": {"visible": False}}
    return drawn


def _trace(graph: GraphData, place: Layout, theme: str) -> dict[str, Any]:
    colours = palette(theme)
    nodes = [node for node in graph.nodes if node.id in place.boxes]
    index = {node.id: i for i, node in enumerate(nodes)}
    middles = {name: box.middle for name, box in place.boxes.items()}
    # Plotly stacks the links of a node from the top in the order given.
    order = ribbons.order(graph, place)
    edges = [graph.edges[i] for i in order]
    return {
        "type": "sankey",
        "arrangement": "fixed",
        "textfont": {"size": FONT_SIZE, "color": colours.text, **_halo(colours.background)},
        "node": {
            "pad": 0,
            "thickness": NODE_WIDTH,
            "line": {"width": 0},
            "label": [*(for_plotly(short_label(node, graph)) for node in nodes), "", ""],
            "color": [*(node_colour(node, graph.d_vocab, theme) for node in nodes), _CLEAR, _CLEAR],
            "x": [*(_inside(_centre(place, n), place.width) for n in nodes), -2, 3],
            "y": [*(_inside(middles[n.id], place.height) for n in nodes), -9, -9],
            "customdata": [*(_node_data(node, graph) for node in nodes), ["", ""], ["", ""]],
            "hovertemplate": _NODE_HOVER,
        },
        "link": {
            "source": [*(index[edge.source] for edge in edges), len(nodes)],
            "target": [*(index[edge.target] for edge in edges), len(nodes) + 1],
            "value": [*(round(place.edge_widths[i], 3) for i in order), round(place.ballast, 3)],
            "color": [
                *(edge_colour(e, graph[e.source], graph.d_vocab, theme) for e in edges),
                _CLEAR,
            ],
            "customdata": [*(for_plotly(edge_fact(e, graph)) for e in edges), ""],
            "hovertemplate": _LINK_HOVER,
            **_input_order(),
        },
    }


def _feature_rims(place: Layout, theme: str) -> list[dict[str, Any]]:
    """An outline of each feature: Plotly outlines all nodes of a diagram or none."""
    line = {"width": 2, "color": FEATURE_COLOUR[theme]}
    found = []
    for name, box in place.boxes.items():
        if name.kind in FEATURE_KINDS:
            x0, x1 = (x / place.width for x in (box.left - 1, box.left + NODE_WIDTH + 1))
            y0, y1 = (1 - y / place.height for y in (box.top - 1, box.top + box.height + 1))
            corners = {"x0": x0, "x1": x1, "y0": y0, "y1": y1}
            found.append(
                {"type": "rect", "xref": "paper", "yref": "paper", "line": line, **corners}
            )
    return found


def _rims(graph: GraphData, place: Layout, theme: str) -> list[dict[str, Any]]:
    """A dashed outline of each edge of a later token's memory.

    Plotly outlines all links of a diagram or none, so these are shapes over it.
    """
    colour, found = palette(theme).text, []
    for one in ribbons.ribbons(graph, place):
        if edge_from_later(graph.edges[one.edge], graph):
            x0, middle, x1 = (x / place.width for x in (one.x0, (one.x0 + one.x1) / 2, one.x1))
            ends = (one.y0, one.y1, one.y1 + one.width, one.y0 + one.width)
            a, b, c, d = (1 - y / place.height for y in ends)
            path = (
                f"M{x0:.6f},{a:.6f}C{middle:.6f},{a:.6f},{middle:.6f},{b:.6f},{x1:.6f},{b:.6f}"
                f"L{x1:.6f},{c:.6f}C{middle:.6f},{c:.6f},{middle:.6f},{d:.6f},{x0:.6f},{d:.6f}Z"
            )
            line = {"width": 1, "color": colour, "dash": "4px,3px"}
            found.append(
                {"type": "path", "path": path, "xref": "paper", "yref": "paper", "line": line}
            )
    return found


def _node_data(node: Node, graph: GraphData) -> list[str]:
    facts = (_line(fact) for fact in node_facts(node, graph))
    return [for_plotly(node_title(node)), "<br>".join(facts)]


def _line(line: str) -> str:
    """A line of a hover: escaped, and broken where it is too long for a window."""
    lines, rest = [], line
    while len(rest) > _WIDEST_LINE:
        cut = rest.rfind("  ", 20, _WIDEST_LINE)
        cut = _WIDEST_LINE if cut < 0 else cut
        lines.append(rest[:cut])
        rest = "    " + rest[cut:].lstrip()
    return "<br>".join(for_plotly(part) for part in (*lines, rest))


def _title(lines: tuple[str, str, str]) -> str:
    first, second, third = map(for_plotly, lines)
    small = f'<span style="font-size:{FONT_SIZE + 1}px">'
    return f"<b>{first}</b><br>{small}{second}</span><br>{small}{third}</span>"


def _halo(ground: str) -> dict[str, str]:
    # Labels lie over links. Before Plotly 5.23 the halo always has the background's colour.
    sides = ("1px 1px", "-1px 1px", "1px -1px", "-1px -1px", "0 0")
    if "shadow" not in go.sankey.Textfont():
        return {}
    return {"shadow": ", ".join(f"{side} 2px {ground}" for side in sides)}


def _input_order() -> dict[str, str]:
    # Older versions of Plotly have no `sort`, and order the links of a node by their positions.
    return {"sort": "input"} if "sort" in go.sankey.Link() else {}


def _inside(px: float, size: int) -> float:
    # Plotly ignores a coordinate of exactly 0.
    return round(min(max(px / size, 0.001), 0.999), 5)


def _centre(place: Layout, node: Node) -> float:
    return place.boxes[node.id].left + NODE_WIDTH / 2
