"""The page inside a notebook's output cell."""

from __future__ import annotations

from typing import Final

from visit_tl.graph.flow import FlowGraph
from visit_tl.view.labels import for_html
from visit_tl.view.page import page
from visit_tl.view.words import readable

HEIGHT: Final = 900
"""Of the frame in px: header, figure and legend of a graph of the usual budget."""


def notebook_html(graph: FlowGraph) -> str:
    """The graph as HTML for an output cell of Jupyter Lab, VS Code or Colab.

    The page sits in a frame of its own (`srcdoc`), so that it neither needs the notebook's scripts
    (require.js, a renderer, a widget manager) nor can touch the notebook: the sandbox runs the
    page's script in an origin of its own.
    """
    title = for_html(f"flow graph of {readable(graph.model)}")
    return (
        f'<iframe title="{title}" sandbox="allow-scripts allow-downloads" '
        f'style="width:100%;height:{HEIGHT}px;border:0" '
        f'srcdoc="{for_html(page(graph))}"></iframe>'
    )
