"""Which blocks a view shows: all if there are few, else the last, with a note on the rest."""

from __future__ import annotations

from typing import Final

from visit_tl.arguments.several import integers
from visit_tl.arguments.vocabulary import Layers
from visit_tl.errors import InputError
from visit_tl.graph.container import GraphData
from visit_tl.graph.subgraphs import to_layers

FEW: Final = 4
"""Up to this many blocks, a view shows all that the graph has."""

LAST: Final = 2
"""With more blocks than `FEW`, a view shows this many: two blocks are about 2500 px wide."""


def choose(graph: GraphData, layers: Layers | None) -> GraphData:
    """The part of a graph that a view shows.

    Args:
        graph: The graph.
        layers: Consecutive blocks, or `all`; None for all of up to `FEW`, else the last `LAST`.

    Raises:
        InputError: a layer is not in the graph, there is none, or they have a gap.
    """
    if layers is None:
        if len(graph.layers) <= FEW:
            return graph
        return to_layers(graph, graph.layers[-LAST:])
    if layers == "all":
        return graph
    wanted = tuple(sorted(set(integers(layers))))
    if outside := [layer for layer in wanted if layer not in graph.layers]:
        raise InputError(
            f"layer {outside[0]} is outside {_range(graph.layers)}, which this graph of "
            f"{graph.model} has: choose among those, or build the graph with more layers"
        )
    if not wanted:
        raise InputError(f"no layers to show; this graph has {_range(graph.layers)}")
    if wanted != tuple(range(wanted[0], wanted[-1] + 1)):
        raise InputError(
            f"layers {', '.join(map(str, wanted))} have a gap; show consecutive blocks, "
            f"such as layers=range({wanted[0]}, {wanted[-1] + 1})"
        )
    return graph if wanted == graph.layers else to_layers(graph, wanted)


def notice(whole: GraphData, shown: GraphData, call: str) -> str:
    """Which blocks of the model are shown; if some are left out, also the call that shows all."""
    if not shown.layers:
        return "no blocks"
    words = f"{name(shown.layers)} of 0..{whole.n_layers - 1}"
    if shown.layers == whole.layers:
        return words
    return (
        f"{words} shown; {call}(layers=range({whole.layers[0]}, {whole.layers[-1] + 1})) "
        f"shows all {len(whole.layers)}"
    )


def name(layers: tuple[int, ...]) -> str:
    """Consecutive blocks in words: `layer 3`, `layers 3..5`."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {_range(layers)}"


def _range(layers: tuple[int, ...]) -> str:
    return f"{layers[0]}..{layers[-1]}" if layers else "nothing"
