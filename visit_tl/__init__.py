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

from visit_tl.version import __version__ as __version__

if TYPE_CHECKING:
    from visit_tl import (
        atlas,
        causal,
        circuits,
        features,
        gradients,
        lenses,
        segments,
        studies,
        sweeps,
        view,
    )
    from visit_tl.attention_maps import attention
    from visit_tl.calls import flow_graph, flow_graphs, generate, iter_flow_graphs
    from visit_tl.checks.check_model import check
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
    from visit_tl.explorer.start import explore
    from visit_tl.flow import FlowGraph
    from visit_tl.gradients.attention_gradients import reversed_attention
    from visit_tl.gradients.lens_of_gradients import backward_lens
    from visit_tl.graph.ids import NodeId
    from visit_tl.graph.ranks_by_lens import LensRanks
    from visit_tl.graph.records import Edge, Node
    from visit_tl.graph.state_table import LensTable
    from visit_tl.lens.readout import Readout, read
    from visit_tl.model.load import load_model
    from visit_tl.model.opened_models import release_models
    from visit_tl.model.trace import Trace
    from visit_tl.model.view import ModelView
    from visit_tl.segments.spans import Segments
    from visit_tl.sweeps.sweep_call import sweep
    from visit_tl.text_generation import GeneratedText, generate_text, prefix_cache
    from visit_tl.xray.residual_states import lens_table
    from visit_tl.xray.target_ranks import lens_ranks


_HOMES = {
    "attention": "visit_tl.attention_maps",
    "backward_lens": "visit_tl.gradients.lens_of_gradients",
    "check": "visit_tl.checks.check_model",
    "flow_graph": "visit_tl.calls",
    "flow_graphs": "visit_tl.calls",
    "generate": "visit_tl.calls",
    "iter_flow_graphs": "visit_tl.calls",
    "generate_text": "visit_tl.text_generation",
    "GeneratedText": "visit_tl.text_generation",
    "prefix_cache": "visit_tl.text_generation",
    "Segments": "visit_tl.segments.spans",
    "sweep": "visit_tl.sweeps.sweep_call",
    "explore": "visit_tl.explorer.start",
    "load_model": "visit_tl.model.load",
    "reversed_attention": "visit_tl.gradients.attention_gradients",
    "release_models": "visit_tl.model.opened_models",
    "FlowGraph": "visit_tl.flow",
    "Node": "visit_tl.graph.records",
    "Edge": "visit_tl.graph.records",
    "NodeId": "visit_tl.graph.ids",
    "LensRanks": "visit_tl.graph.ranks_by_lens",
    "LensTable": "visit_tl.graph.state_table",
    "lens_ranks": "visit_tl.xray.target_ranks",
    "lens_table": "visit_tl.xray.residual_states",
    "ModelView": "visit_tl.model.view",
    "Trace": "visit_tl.model.trace",
    "Readout": "visit_tl.lens.readout",
    "read": "visit_tl.lens.readout",
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
_ROOMS = (
    "atlas", "causal", "circuits", "features", "gradients", "lenses", "segments", "studies",
    "sweeps", "view",
)  # fmt: skip

__all__ = [
    "ArgumentTypeError",
    "ArgumentValueError",
    "DecompositionError",
    "Edge",
    "FileError",
    "FlowGraph",
    "GeneratedText",
    "GraphError",
    "InputError",
    "LensRanks",
    "LensTable",
    "ModelError",
    "ModelView",
    "Node",
    "NodeId",
    "PerformanceWarning",
    "Readout",
    "Segments",
    "Trace",
    "VisitError",
    "atlas",
    "attention",
    "backward_lens",
    "causal",
    "check",
    "circuits",
    "explore",
    "features",
    "flow_graph",
    "flow_graphs",
    "generate",
    "generate_text",
    "gradients",
    "iter_flow_graphs",
    "lens_ranks",
    "lens_table",
    "lenses",
    "load_model",
    "prefix_cache",
    "read",
    "release_models",
    "reversed_attention",
    "segments",
    "studies",
    "sweep",
    "sweeps",
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
