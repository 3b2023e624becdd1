"""Which function draws which result, by class and form; imported on first use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

RENDERERS: Final[dict[str, dict[str, str]]] = {
    "visit_tl.graph.container:GraphData": {
        "figure": "figures.kinds:figure",
        "text": "text:text",
        "html": "notebook:notebook_html",
    },
    "visit_tl.graph.difference:GraphDiff": {
        "figure": "figures.difference:figure",
        "text": "figures.difference:text",
        "html": "figures.difference:html",
    },
    "visit_tl.graph.state_table:LensTable": {
        "figure": "figures.lens_table:figure",
        "text": "figures.lens_table:text",
        "html": "figures.lens_table:html",
    },
    "visit_tl.graph.ranks_by_lens:LensRanks": {
        "figure": "figures.lens_ranks:figure",
        "text": "figures.lens_ranks:text",
        "html": "figures.lens_ranks:html",
    },
    "visit_tl.gradients.backward_lens_result:BackwardLens": {
        "figure": "figures.backward_lens:figure",
        "text": "figures.backward_lens:text",
        "html": "figures.backward_lens:html",
        "save": "figures.backward_lens:save",
    },
    "visit_tl.gradients.reversed_attention_result:ReversedAttention": {
        "figure": "figures.reversed_attention:figure",
        "text": "figures.reversed_attention:text",
        "html": "figures.reversed_attention:html",
        "circuitsvis": "figures.reversed_attention:circuitsvis",
        "save": "figures.reversed_attention:save",
    },
    "visit_tl.causal.patching.effects_result:Effects": {
        "text": "largest_effects:effects",
        "html": "largest_effects:html",
    },
    "visit_tl.causal.paths.edge_effects_result:EdgeEffects": {
        "text": "largest_effects:edge_effects",
        "html": "largest_effects:html",
    },
    "visit_tl.causal.circuit.edges_of_graph:GraphEdgeEffects": {
        "text": "largest_effects:graph_edge_effects",
        "html": "largest_effects:html",
    },
    "visit_tl.causal.attribution.direct:Attribution": {
        "text": "largest_effects:attribution",
        "html": "largest_effects:html",
    },
    "visit_tl.causal.qk.attribution_result:AttentionAttribution": {
        "figure": "figures.score_parts:figure",
        "text": "figures.score_parts:text",
        "html": "figures.score_parts:html",
    },
    "visit_tl.causal.attribution.feature_attribution_result:FeatureAttribution": {
        "figure": "figures.feature_attribution:figure",
        "text": "figures.feature_attribution:text",
        "html": "figures.feature_attribution:html",
    },
    "visit_tl.studies.head_roles.result:HeadRoles": {
        "figure": "figures.head_roles:figure",
        "text": "figures.head_roles:text",
        "html": "figures.head_roles:html",
    },
    "visit_tl.sweeps.results:SweepRun": {
        "figure": "figures.studies.choose:figure",
        "html": "figures.studies.choose:html",
        "save": "figures.studies.run_page:save",
    },
    "visit_tl.sweeps.paper_run:PaperRun": {
        "html": "figures.studies.choose:html",
        "save": "figures.studies.run_page:save",
    },
    "visit_tl.segments.spans:Segments": {
        "figure": "figures.segment_mask:figure",
        "html": "figures.segment_mask:html",
    },
    "visit_tl.circuits.channels.composition_result:CompositionScores": {
        "figure": "figures.composition:figure",
        "text": "figures.composition:text",
        "html": "figures.composition:html",
    },
    "visit_tl.circuits.channels.channel_result:Channel": {
        "figure": "figures.channel:figure",
        "text": "figures.channel:text",
        "html": "figures.channel:html",
    },
    "visit_tl.circuits.channels.channel_use:ChannelUse": {
        "figure": "figures.channel:use_figure",
        "text": "figures.channel:use_text",
        "html": "figures.channel:use_html",
    },
    "visit_tl.circuits.comparison:Comparison": {
        "figure": "figures.comparison:figure",
        "html": "figures.comparison:html",
    },
    "visit_tl.circuits.circuit_overlap:CircuitOverlap": {
        "figure": "figures.overlap:figure",
        "html": "figures.overlap:html",
    },
}
"""For each class and form, a function in a module of `visit_tl.view`; subclasses inherit it."""


def renderer(kind: type, form: str) -> Callable[..., Any]:
    """The function that draws a class in a form.

    Raises:
        TypeError: no function draws it.
    """
    for one in kind.__mro__:
        place = RENDERERS.get(f"{one.__module__}:{one.__qualname__}", {}).get(form)
        if place is not None:
            module, _, name = place.partition(":")
            return getattr(import_module(f"visit_tl.view.{module}"), name)
    raise TypeError(f"view/registry.py names nothing that draws {kind.__qualname__} as {form}")
