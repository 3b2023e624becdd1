"""The kinds of figures that a graph has, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from visit_tl.arguments.vocabulary import Layers
from visit_tl.errors import InputError
from visit_tl.graph.container import GraphData

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS: Final = ("flow", "heads", "lens", "neurons")


def figure(
    graph: GraphData,
    kind: str = "flow",
    *,
    layers: Layers | None = None,
    theme: str = "light",
    position: int | None = None,
    **options: Any,
) -> go.Figure:
    """Draw a figure of a graph.

    Args:
        graph: The graph.
        kind: `flow`; `heads`, a map of layers x heads; `lens`, the states that the graph holds as a
            table of layers x positions; `neurons`, the strongest of one block as bars.
        layers: For `flow`.
        theme: `light` or `dark`.
        position: For `flow`.
        options: For `heads`: `by`, `to`, `reference`; for `lens`: `by`, `positions`; for `neurons`:
            `layer`, `part`, `by`, `most`. See `figures.heads`, `figures.lens_table` and
            `figures.neurons`.

    Raises:
        InputError: the kind is unknown, layers or a position was given for a kind that takes none,
            or an option does not fit the kind.
    """
    if kind not in KINDS:
        raise InputError(f"figures are of the kinds {', '.join(KINDS)}; got {kind!r}")
    if kind == "flow":
        from visit_tl.view.figures.sankey import sankey

        return sankey(graph, layers=layers, theme=theme, position=position, **options)
    if layers is not None or position is not None:
        instead = {"heads": "", "lens": " takes positions=", "neurons": " takes layer="}[kind]
        raise InputError(
            f"layers and position are for the flow figure; kind={kind!r}"
            f"{f'{instead} instead' if instead else ' shows all of the graph'}"
        )
    if kind == "heads":
        from visit_tl.view.figures.heads import heads

        return heads(graph, theme=theme, **options)
    if kind == "lens":
        from visit_tl.graph.state_table import of_graph
        from visit_tl.view.figures.lens_table import figure as lens

        return lens(of_graph(graph), theme=theme, **options)
    from visit_tl.view.figures.neurons import neurons

    return neurons(graph, theme=theme, **options)
