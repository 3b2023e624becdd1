"""Known circuits as data, prompts for finding them, and comparison of a graph with a circuit.

    import visit_tl as vt
    reference = vt.circuits.load("ioi-wang-2022")
    vt.circuits.compare(graph, reference, by="norm")

    vt.circuits.composition_scores(model).top(10)

Nothing here patches a model: scores come from `causal/`, from a graph or from the caller. Names are
imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.circuits.channels.channel_result import Channel
    from visit_tl.circuits.channels.channel_use import ChannelUse
    from visit_tl.circuits.channels.composition import composition_scores
    from visit_tl.circuits.channels.composition_result import CompositionScores
    from visit_tl.circuits.channels.directions import channel
    from visit_tl.circuits.circuit_overlap import CircuitOverlap
    from visit_tl.circuits.compare_scores import compare
    from visit_tl.circuits.comparison import Comparison
    from visit_tl.circuits.known_circuits import available, load
    from visit_tl.circuits.overlap_of_circuits import overlap
    from visit_tl.circuits.references import Reference
    from visit_tl.graph.circuit_parts import Edge, Part

_MODULES = {
    "CircuitOverlap": "visit_tl.circuits.circuit_overlap",
    "overlap": "visit_tl.circuits.overlap_of_circuits",
    "Channel": "visit_tl.circuits.channels.channel_result",
    "ChannelUse": "visit_tl.circuits.channels.channel_use",
    "CompositionScores": "visit_tl.circuits.channels.composition_result",
    "channel": "visit_tl.circuits.channels.directions",
    "composition_scores": "visit_tl.circuits.channels.composition",
    "Comparison": "visit_tl.circuits.comparison",
    "compare": "visit_tl.circuits.compare_scores",
    "Edge": "visit_tl.graph.circuit_parts",
    "Part": "visit_tl.graph.circuit_parts",
    "Reference": "visit_tl.circuits.references",
    "available": "visit_tl.circuits.known_circuits",
    "load": "visit_tl.circuits.known_circuits",
}

_SUBMODULES = ("metrics", "prompts")

__all__ = [
    "Channel",
    "ChannelUse",
    "CircuitOverlap",
    "Comparison",
    "CompositionScores",
    "Edge",
    "Part",
    "Reference",
    "available",
    "channel",
    "compare",
    "composition_scores",
    "load",
    "overlap",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"visit_tl.circuits.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'visit_tl.circuits' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, *_SUBMODULES])
