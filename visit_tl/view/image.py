"""A graph as PNG or PDF: the Plotly figure, drawn by kaleido with the user's own Chrome."""

from __future__ import annotations

from visit_tl.arguments.vocabulary import Layers
from visit_tl.graph.container import GraphData
from visit_tl.view.figures.sankey import sankey
from visit_tl.view.kaleido_image import draw, require_kaleido


def image(
    graph: GraphData,
    kind: str,
    *,
    layers: Layers | None = None,
    theme: str = "light",
) -> bytes:
    """The figure of a graph as `png` or `pdf`.

    Args:
        graph: The graph.
        kind: `png` or `pdf`.
        layers: As for `visit_tl.view.figures.sankey.sankey`.
        theme: `light` or `dark`.

    Raises:
        FileError: kaleido is not installed, finds no Chrome, or fails.
        InputError: as `visit_tl.view.figures.sankey.sankey`.
    """
    require_kaleido()
    return draw(sankey(graph, layers=layers, theme=theme), kind)
