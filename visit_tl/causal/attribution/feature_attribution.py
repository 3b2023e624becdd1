"""Direct feature attribution: which heads and source positions made a feature of hook_z active.

With the attention fixed to that of the run, z is linear in the memory values, and the
pre-activation of a feature is linear in z. So it is a sum over heads and source positions
(Kissane et al., 2024; docs/maths.md, "Features").
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import einsum

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    FeatureModules,
    Flag,
    Model,
    Position,
    PromptLike,
    SegmentsLike,
    Whole,
)
from visit_tl.causal.attribution.feature_attribution_result import FeatureAttribution
from visit_tl.errors import DecompositionError, GraphError, InputError
from visit_tl.features.feature_module import FeatureModule
from visit_tl.features.pre_activation import linear_reader
from visit_tl.features.several import modules_of
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.model.components import grouped
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import tolerance
from visit_tl.xray.feature_sites import FeatureSites, fit


@checked
def feature_attribution(
    model: Model,
    prompt: PromptLike,
    sae: FeatureModules,
    feature: Whole,
    *,
    position: Position = -1,
    prepend_bos: Flag | None = None,
    segments: SegmentsLike | None = None,
) -> FeatureAttribution:
    """Split the pre-activation of a feature of hook_z over heads and source positions.

    Runs the model once. Where the module normalises its input, the scale has its value in this run.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        sae: One SAE that reads `hook_z`: what `visit_tl.features.open` gives, or what it takes.
        feature: Index of the feature.
        position: Query position; negative ones count from the end.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`.

    Raises:
        InputError: the SAE does not read hook_z of this model, has no such feature, or encodes in a
            way that has no linear pre-activation; or a prompt or position that does not fit.
        DecompositionError: the parts do not sum to the pre-activation.
    """
    view = ModelView(model)
    module, *others = modules_of(sae)
    if others:
        raise InputError(f"a feature is of one SAE, and {1 + len(others)} were given; pass the one")
    site = fit(view, module)
    if site.slot != "z":
        raise InputError(
            f"{module.name} reads {module.hook}; only what is read from hook_z is a sum over heads "
            f"and source positions"
        )
    tokens = view.encode(prompt, prepend_bos, segments)
    trace = Trace.run(view, tokens, position=position, layers=[site.layer])
    t = trace.layers[site.layer]
    with torch.no_grad():
        x = site.read(trace)
        column, bias = linear_reader(module, x, feature)
        reader = column.to(t.z).unflatten(0, tuple(t.z.shape))
        values = grouped(t.values, view.kv_head(t.values.shape[1]).to(t.values.device))
        read = einsum(values, reader, "head pos d_head, head d_head -> head pos")
        parts = (t.pattern * read).double()
        whole = float(column.double() @ x.to(column).double()) + bias
        activation = float(module.encode(x)[feature])
    most = max(abs(whole), abs(bias), float(parts.abs().sum(1).max()), 1e-12)
    error = abs(float(parts.sum()) + bias - whole) / most
    if not error <= tolerance(view):
        raise DecompositionError(
            f"the heads of block {site.layer} of {view.name} sum to {float(parts.sum()) + bias:.6g}"
            f", the pre-activation of feature {feature} is {whole:.6g}: off by {error:.2g} of the "
            f"largest (tolerance {tolerance(view):.0e}); z is not the sum of attention x values "
            f"there{left_on(view.model)}"
        )
    text = view.tokens.text
    return FeatureAttribution(
        model=view.name,
        sae=module.name,
        feature=NodeId("feature", site.layer, neuron=feature, site=site.site),
        prompt=tokens.text,
        tokens=tuple(text(i) for i in tokens.ids),
        token_ids=tokens.ids,
        position=trace.position,
        parts=parts.float().cpu().numpy(),
        bias=bias,
        pre_activation=whole,
        activation=activation,
        error=error,
        patched=trace.patched,
        segments=tokens.spans,
    )


def of_graph(model: Any, graph: GraphData, feature: NodeId, sae: Any) -> FeatureAttribution:
    """Do the same for a feature of a graph, at its position there.

    Raises:
        GraphError: it is no feature, its SAE is not at hand, or another one was given.
    """
    if feature.kind != "feature" or feature.neuron is None:
        raise GraphError(f"{feature} is no feature; features look like L9.z.F123")
    if sae is None:
        place = feature.layer, feature.site
        own: tuple[FeatureModule, ...] = getattr(graph.source, "modules", ())
        sites = FeatureSites(ModelView(model), own).by_place
        sae = next((site.module for at, site in sites.items() if at == place), None)
    if sae is None:
        raise GraphError(f"the SAE of {feature} is not at hand; pass it as sae=")
    position = graph.position if feature.position is None else feature.position
    found = feature_attribution(
        model,
        list(graph.token_ids),
        sae,
        feature.neuron,
        position=position,
        segments=graph.segments or None,
    )
    if found.feature.site != feature.site or found.feature.layer != feature.layer:
        raise GraphError(f"{feature} was asked for, and sae= is of {found.feature}")
    if feature in graph and position == graph.position:
        shown = graph[feature].coefficient or 0.0
        # An SAE of another's size has its numbers of features too, and they mean something else.
        if not math.isclose(shown, found.activation, rel_tol=0.05, abs_tol=1e-3):
            raise GraphError(
                f"{feature} has the activation {shown:.4g} in the graph, and {found.activation:.4g}"
                f" by {found.sae}, so it is of another SAE, which is to be passed in sae=, or of a "
                f"run with other hooks or adapters"
            )
    return found
