"""One self-contained HTML page: the figure, its header and legend, and the graph as text.

The page draws itself as SVG, holds all of its data and makes no network requests; a content
security policy forbids them. Text from prompts and vocabularies is escaped by `escaping.for_html`,
or stands in JSON in which `<` is escaped, so none of it can become markup or script.
"""

from __future__ import annotations

from typing import Any, Final

from visit_tl.arguments.vocabulary import Layers
from visit_tl.escaping import for_html
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import heading
from visit_tl.graph.subgraphs import to_position
from visit_tl.view import window
from visit_tl.view.page import parts as page_parts
from visit_tl.view.page.asset_files import colours, script, stylesheet, template
from visit_tl.view.page.payload import payload, roles_of, to_json
from visit_tl.view.style import PALETTES, palette
from visit_tl.view.text import text

POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)

_NODES: Final = 400
_EDGES: Final = 800
"""The most that is drawn until the reader asks for more; two cores draw it without a wait."""

_BLOCKS: Final = 3
"""Number of blocks that the depth `blocks` shows first; as many fit on a screen with labels."""

_ROUTE_FROM: Final = 3
"""With this many blocks or more, the page opens on the route."""


def page(
    graph: GraphData,
    *,
    theme: str = "light",
    layers: Layers | None = None,
    framed: bool = False,
) -> str:
    """The graph as one HTML file that needs nothing else.

    Args:
        graph: The graph.
        theme: `light` or `dark`; the page has a switch.
        layers: Consecutive blocks to show first; None for all in the route, and for the last few
            at the other depths. All blocks of the graph can be reached from the page.
        framed: Whether it is for the frame of the explorer, which shows the header itself and
            speaks with the page by messages (`assets/frame.js`).

    Returns:
        The text of the file, about 350 bytes per node. Write it as UTF-8.

    Raises:
        InputError: a layer is not in the graph, the layers have a gap, or there is no such theme.
    """
    palette(theme)
    own = to_position(graph, graph.position)
    words = heading(graph)
    roles = roles_of(graph.nodes)
    has: dict[str, Any] = {
        "gradients": any(node.gradient or node.reversed for node in graph.nodes),
        "segments": bool(graph.segments),
        "reasons": bool(graph.reasons),
        "roles": tuple(roles),
        "features": bool(graph.feature_sets),
        "framed": framed,
    }
    drawn = {name: colours(name, roles, features=has["features"]) for name in PALETTES}
    parts = {
        "THEME": for_html(theme),
        "TITLE": for_html(f"{words['model']} · {words['prompt']}"),
        "POLICY": for_html(POLICY),
        "STYLE": stylesheet(**has),
        "HEAD": page_parts.header(graph, words),
        "FIRST": str(graph.layers[0]),
        "LAST": str(graph.layers[-1]),
        "POSITIONS": page_parts.positions(graph),
        "LEGEND": page_parts.legend(
            graph.d_vocab,
            later=bool(graph.segments),
            roles=roles,
            features=has["features"],
        ),
        "HEADS": page_parts.heads(own, theme),
        "TEXT": for_html(text(graph, layers=graph.layers or None)),
        "DATA": to_json(payload(graph)),
        "THEMES": to_json(drawn),
        "OPENING": to_json(_opening(own, theme, layers)),
        "SCRIPT": script(**has, lens=graph.lens is not None),
    }
    # Split only once, so that a token that looks like a placeholder is not replaced.
    pieces = template().split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def _opening(own: GraphData, theme: str, layers: Layers | None) -> dict[str, Any]:
    """The settings with which the page opens."""
    whole = [own.layers[0], own.layers[-1]]
    # The last blocks; of a graph with features, the last that has some is the last shown.
    last = max((one.layer for one in own.feature_sets), default=whole[1])
    ranges = {
        "route": whole,
        "blocks": [max(whole[0], last - _BLOCKS + 1), last],
        "everything": [max(whole[0], last - window.LAST + 1), last],
    }
    if layers is not None:
        chosen = window.choose(own, layers).layers
        ranges = {depth: [chosen[0], chosen[-1]] for depth in ranges}
    # The route shows no features, and who asked for some wants to see them.
    long = "blocks" if own.feature_sets else "route"
    return {
        "depth": long if len(own.layers) >= _ROUTE_FROM else "everything",
        "layers": ranges,
        "nodes": _NODES,
        "edges": _EDGES,
        "theme": theme,
    }
