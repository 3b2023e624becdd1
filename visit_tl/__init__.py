"""visit_tl: an X-ray of one forward pass, for TransformerLens.

    import visit_tl as vt
    model = vt.load_model("smollm2-135m")
    g = vt.flow_graph(model, "The capital of Japan is the city of", target=" Tokyo")
    g.heads()
    g.save("tokyo.html")

Names are imported when they are first used, so that `import visit_tl` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl import atlas, causal, circuits, view
    from visit_tl.checks import check
    from visit_tl.errors import (
        ArgumentTypeError,
        ArgumentValueError,
        DecompositionError,
        FileError,
        GraphError,
        InputError,
        ModelError,
        PerformanceWarning,
        VisitError,
    )
    from visit_tl.graph.flow import FlowGraph
    from visit_tl.graph.ids import NodeId
    from visit_tl.graph.records import Edge, Node
    from visit_tl.lens import Readout, read
    from visit_tl.model.kept import release_models
    from visit_tl.model.load import load_model
    from visit_tl.model.view import ModelView
    from visit_tl.states import LensTable, lens_table
    from visit_tl.trace import Trace
    from visit_tl.xray import attention, flow_graph, flow_graphs, generate

__version__ = "0.1.0"

_HOMES = {
    "attention": "visit_tl.xray",
    "check": "visit_tl.checks",
    "flow_graph": "visit_tl.xray",
    "flow_graphs": "visit_tl.xray",
    "generate": "visit_tl.xray",
    "load_model": "visit_tl.model.load",
    "release_models": "visit_tl.model.kept",
    "FlowGraph": "visit_tl.graph.flow",
    "Node": "visit_tl.graph.records",
    "Edge": "visit_tl.graph.records",
    "NodeId": "visit_tl.graph.ids",
    "LensTable": "visit_tl.states",
    "lens_table": "visit_tl.states",
    "ModelView": "visit_tl.model.view",
    "Trace": "visit_tl.trace",
    "Readout": "visit_tl.lens",
    "read": "visit_tl.lens",
    "VisitError": "visit_tl.errors",
    "ModelError": "visit_tl.errors",
    "InputError": "visit_tl.errors",
    "ArgumentTypeError": "visit_tl.errors",
    "ArgumentValueError": "visit_tl.errors",
    "DecompositionError": "visit_tl.errors",
    "GraphError": "visit_tl.errors",
    "FileError": "visit_tl.errors",
    "PerformanceWarning": "visit_tl.errors",
}

# Packages that are reached by name: vt.circuits.load(...), vt.causal.effects(...).
_ROOMS = ("atlas", "causal", "circuits", "view")

__all__ = [
    "ArgumentTypeError",
    "ArgumentValueError",
    "DecompositionError",
    "Edge",
    "FileError",
    "FlowGraph",
    "GraphError",
    "InputError",
    "LensTable",
    "ModelError",
    "ModelView",
    "Node",
    "NodeId",
    "PerformanceWarning",
    "Readout",
    "Trace",
    "VisitError",
    "atlas",
    "attention",
    "causal",
    "check",
    "circuits",
    "flow_graph",
    "flow_graphs",
    "generate",
    "lens_table",
    "load_model",
    "read",
    "release_models",
    "view",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"visit_tl.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'visit_tl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_ROOMS])
