"""Known circuits as data, prompts to look for them with, and how well a graph agrees with one.

    import visit_tl as vt
    reference = vt.circuits.load("ioi-wang-2022")
    vt.circuits.compare(graph, reference, by="norm")

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.circuits.comparison import Comparison
    from visit_tl.circuits.measure import compare
    from visit_tl.circuits.names import Edge, Part
    from visit_tl.circuits.references import Reference, available, load

_HOMES = {
    "Comparison": "visit_tl.circuits.comparison",
    "compare": "visit_tl.circuits.measure",
    "Edge": "visit_tl.circuits.names",
    "Part": "visit_tl.circuits.names",
    "Reference": "visit_tl.circuits.references",
    "available": "visit_tl.circuits.references",
    "load": "visit_tl.circuits.references",
}

_ROOMS = ("metrics", "prompts")

__all__ = ["Comparison", "Edge", "Part", "Reference", "available", "compare", "load"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"visit_tl.circuits.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'visit_tl.circuits' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_ROOMS])
