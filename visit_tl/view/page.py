"""One self-contained HTML page: the figure, what it is of, how to read it, and its text twin.

The page draws itself as SVG, holds all of its data and asks the network for nothing; a content
security policy says so to the browser. Text from prompts and vocabularies gets in through
`labels.for_html`, or as JSON in which `<` is escaped, so none of it can become markup or script.
"""

from __future__ import annotations

from typing import Any, Final

from visit_tl.arguments.vocabulary import Layers
from visit_tl.graph.flow import FlowGraph
from visit_tl.view import page_parts, window
from visit_tl.view.labels import for_html
from visit_tl.view.page_assets import colours, script, stylesheet, template
from visit_tl.view.payload import payload, to_json
from visit_tl.view.style import PALETTES, palette
from visit_tl.view.text import text
from visit_tl.view.words import heading

POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)

_NODES: Final = 400
_EDGES: Final = 800
"""How much is drawn at most before the reader asks for more: what two cores draw in a blink."""

_BLOCKS: Final = 3
"""Blocks that the depth of blocks opens on; a screen holds as many with their labels."""

_ROUTE_FROM: Final = 3
"""From this many blocks on, the page opens on the route."""


def page(
    graph: FlowGraph,
    *,
    theme: str = "light",
    layers: Layers | None = None,
) -> str:
    """The graph as one HTML file that needs nothing else.

    Args:
        graph: The graph.
        theme: `light` or `dark`; the page has a switch.
        layers: Consecutive blocks to open on; None for all in the route, and for the last few at
            the other depths. All blocks of the graph can be reached from the page.

    Returns:
        The text of the file, some 350 bytes a node. Write it as UTF-8.

    Raises:
        InputError: a layer is not in the graph, the layers have a gap, or there is no such theme.
    """
    palette(theme)
    own = graph.at(graph.position)
    words = heading(graph)
    parts = {
        "THEME": for_html(theme),
        "TITLE": for_html(f"{words['model']} · {words['prompt']}"),
        "POLICY": for_html(POLICY),
        "STYLE": stylesheet(),
        "HEAD": page_parts.header(graph, words),
        "FIRST": str(graph.layers[0]),
        "LAST": str(graph.layers[-1]),
        "POSITIONS": page_parts.positions(graph),
        "LEGEND": page_parts.legend(graph.d_vocab),
        "HEADS": page_parts.heads(own, theme),
        "TEXT": for_html(text(graph, layers=graph.layers or None)),
        "DATA": to_json(payload(graph)),
        "THEMES": to_json({name: colours(name) for name in PALETTES}),
        "OPENING": to_json(_opening(own, theme, layers)),
        "SCRIPT": script(),
    }
    # Split once, so that a token that spells a place holder is not taken for one.
    pieces = template().split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def _opening(own: FlowGraph, theme: str, layers: Layers | None) -> dict[str, Any]:
    """What the page shows first."""
    whole = [own.layers[0], own.layers[-1]]
    ranges = {
        "route": whole,
        "blocks": [max(whole[0], whole[1] - _BLOCKS + 1), whole[1]],
        "everything": [max(whole[0], whole[1] - window.LAST + 1), whole[1]],
    }
    if layers is not None:
        chosen = window.choose(own, layers).layers
        ranges = {depth: [chosen[0], chosen[-1]] for depth in ranges}
    return {
        "depth": "route" if len(own.layers) >= _ROUTE_FROM else "everything",
        "layers": ranges,
        "nodes": _NODES,
        "edges": _EDGES,
        "theme": theme,
    }
