"""Causal analysis: what patching a node, an edge or a circuit does to the model's output.

    import visit_tl as vt
    question = vt.causal.logit_difference(" Mary", " John")
    vt.causal.effects(model, prompt, question, corrupted=other).heads()

Graphs come in as records (`graph/`). Nothing here compares with known circuits or draws.
Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.causal.attribution.direct import Attribution, attribute
    from visit_tl.causal.attribution.feature_attribution import feature_attribution
    from visit_tl.causal.attribution.feature_attribution_result import FeatureAttribution
    from visit_tl.causal.circuit.edges_of_graph import GraphEdgeEffects, graph_edge_effects
    from visit_tl.causal.circuit.faithfulness_by_size import FaithfulnessCurve, faithfulness_curve
    from visit_tl.causal.circuit.faithfulness_results import Completeness, Faithfulness, Minimality
    from visit_tl.causal.circuit.faithfulness_scores import completeness, faithfulness, minimality
    from visit_tl.causal.logit_margin import logit_margin
    from visit_tl.causal.metrics import (
        kl,
        log_probability,
        logit_difference,
        probability,
        probability_difference,
    )
    from visit_tl.causal.patching.change_hooks import change_hooks
    from visit_tl.causal.patching.effects_result import Effects
    from visit_tl.causal.patching.node_effects import effects
    from visit_tl.causal.paths.edge_effects_result import EdgeEffects
    from visit_tl.causal.paths.path_patching import edge_effects
    from visit_tl.causal.qk.attribution_result import AttentionAttribution
    from visit_tl.causal.qk.score_parts import attention_attribution

_MODULES = {
    "AttentionAttribution": "qk.attribution_result",
    "Attribution": "attribution.direct",
    "attention_attribution": "qk.score_parts",
    "attribute": "attribution.direct",
    "FeatureAttribution": "attribution.feature_attribution_result",
    "feature_attribution": "attribution.feature_attribution",
    "change_hooks": "patching.change_hooks",
    "FaithfulnessCurve": "circuit.faithfulness_by_size",
    "faithfulness_curve": "circuit.faithfulness_by_size",
    "EdgeEffects": "paths.edge_effects_result",
    "completeness": "circuit.faithfulness_scores",
    "faithfulness": "circuit.faithfulness_scores",
    "minimality": "circuit.faithfulness_scores",
    "GraphEdgeEffects": "circuit.edges_of_graph",
    "graph_edge_effects": "circuit.edges_of_graph",
    "Effects": "patching.effects_result",
    "kl": "metrics",
    "log_probability": "metrics",
    "logit_difference": "metrics",
    "logit_margin": "logit_margin",
    "probability": "metrics",
    "probability_difference": "metrics",
    "edge_effects": "paths.path_patching",
    "Completeness": "circuit.faithfulness_results",
    "Faithfulness": "circuit.faithfulness_results",
    "Minimality": "circuit.faithfulness_results",
    "effects": "patching.node_effects",
}

__all__ = [
    "AttentionAttribution",
    "Attribution",
    "Completeness",
    "EdgeEffects",
    "Effects",
    "Faithfulness",
    "FaithfulnessCurve",
    "FeatureAttribution",
    "GraphEdgeEffects",
    "Minimality",
    "attention_attribution",
    "attribute",
    "change_hooks",
    "completeness",
    "edge_effects",
    "effects",
    "faithfulness",
    "faithfulness_curve",
    "feature_attribution",
    "graph_edge_effects",
    "kl",
    "log_probability",
    "logit_difference",
    "logit_margin",
    "minimality",
    "probability",
    "probability_difference",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'visit_tl.causal' has no attribute {name!r}")
    return getattr(import_module(f"visit_tl.causal.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
