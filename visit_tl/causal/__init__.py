"""Causes: what patching a node, an edge or a circuit does to the model's output.

    import visit_tl as vt
    question = vt.causal.logit_difference(" Mary", " John")
    vt.causal.effects(model, prompt, question, corrupted=other).heads()

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.causal.attribution import Attribution, attribute
    from visit_tl.causal.curve import FaithfulnessCurve, faithfulness_curve
    from visit_tl.causal.edges import EdgeEffects
    from visit_tl.causal.faithful import completeness, faithfulness, minimality
    from visit_tl.causal.graph_edges import GraphEdgeEffects, graph_edge_effects
    from visit_tl.causal.measured import Effects
    from visit_tl.causal.metrics import (
        kl,
        log_probability,
        logit_difference,
        probability,
        probability_difference,
    )
    from visit_tl.causal.paths import edge_effects
    from visit_tl.causal.scored import Completeness, Faithfulness, Minimality
    from visit_tl.causal.sweep import effects

_HOMES = {
    "Attribution": "attribution",
    "attribute": "attribution",
    "FaithfulnessCurve": "curve",
    "faithfulness_curve": "curve",
    "EdgeEffects": "edges",
    "completeness": "faithful",
    "faithfulness": "faithful",
    "minimality": "faithful",
    "GraphEdgeEffects": "graph_edges",
    "graph_edge_effects": "graph_edges",
    "Effects": "measured",
    "kl": "metrics",
    "log_probability": "metrics",
    "logit_difference": "metrics",
    "probability": "metrics",
    "probability_difference": "metrics",
    "edge_effects": "paths",
    "Completeness": "scored",
    "Faithfulness": "scored",
    "Minimality": "scored",
    "effects": "sweep",
}

__all__ = [
    "Attribution",
    "Completeness",
    "EdgeEffects",
    "Effects",
    "Faithfulness",
    "FaithfulnessCurve",
    "GraphEdgeEffects",
    "Minimality",
    "attribute",
    "completeness",
    "edge_effects",
    "effects",
    "faithfulness",
    "faithfulness_curve",
    "graph_edge_effects",
    "kl",
    "log_probability",
    "logit_difference",
    "minimality",
    "probability",
    "probability_difference",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'visit_tl.causal' has no attribute {name!r}")
    return getattr(import_module(f"visit_tl.causal.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
