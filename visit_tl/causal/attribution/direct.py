"""Direct logit attribution: what each part of one forward pass adds to a logit (docs/maths.md).

The scale of the final norm is fixed to its value in the run, so the logit is linear in the residual
stream. Every part's share is its inner product with one direction; the shares sum to the logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    FeatureModules,
    Flag,
    Kinds,
    Model,
    Position,
    PromptLike,
    SegmentsLike,
    Token,
)
from visit_tl.causal.attribution.feature_shares import FeatureShares, feature_shares
from visit_tl.causal.attribution.logit_parts import LayerShares, Shares, total_of
from visit_tl.causal.same_prompt import require_same
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.features.several import modules_of
from visit_tl.graph.container import GRAPH, G, Graph, GraphData
from visit_tl.graph.ids import FEATURE_KINDS, Kind, NodeId, NodeName
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.feature_sites import FeatureSites
from visit_tl.xray.source_model import other_run

if TYPE_CHECKING:
    import pandas as pd

PARTS: Final[tuple[Kind, ...]] = ("resid_pre", "head", "b_O", "opaque", "mlp_out")
"""The coarsest kinds of node that sum to the logit; `resid_pre` is that of the first block."""


@dataclass(frozen=True)
class Attribution(Drawn):
    """What every part of one forward pass adds to a logit, or to the difference of two.

    The parts are those at the query position, read with the scale that the final norm had there.
    What a part does through later blocks is not included; to measure that, patch its node.

    Attributes:
        model: Name of the model.
        token_ids: The prompt.
        position: The query position, counted from 0.
        target: The token whose logit is split.
        target_id: Its id.
        against: The token whose logit is subtracted; None if none is.
        against_id: Its id.
        total: The logit or difference that the shares sum to. Where the model caps its logits
            (Gemma 2), this is the value before the cap; a scale of the logits (Cohere) is included.
        capped: Whether the model then applies a cap to its logits, which the shares leave out.
        error: Distance of the model's own value from the sum of the parts, relative to the largest
            absolute value among it and the blocks' shares.
        remainder: What no node adds: the biases of the final norm and of the unembedding.
        layers: The shares, block by block, in logits.
        features: By SAE or transcoder, the shares of its features, error and bias. They take the
            vector of its site apart once more, so they are not added to the total again.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
    """

    model: str
    token_ids: tuple[int, ...]
    position: int
    target: str
    target_id: int
    against: str | None
    against_id: int | None
    total: float
    capped: bool
    error: float
    remainder: Mapping[str, float]
    layers: tuple[LayerShares, ...] = field(repr=False)
    features: tuple[FeatureShares, ...] = ()
    segments: tuple[tuple[int, int], ...] = ()

    @checked
    def __getitem__(self, node: NodeName) -> float:
        """The share of one node, such as `a["L9H6"]`, `a["L9H6.v3"]` or `a["L9.z.F123"]`.

        Raises:
            InputError: the node writes nothing to the stream at this position, is not there, or is
                of an SAE that was not given.
        """
        wanted = NodeId.parse(node)
        share = self._of(wanted)
        if share is None and wanted.site is not None and self._here(wanted):
            raise InputError(
                f"{wanted} is of an SAE at {wanted.site} of block {wanted.layer}, which is not at "
                f"hand; pass it in saes="
            )
        if share is None:
            raise InputError(
                f"{wanted} adds nothing directly to the logits at position {self.position}; "
                f"heads, values, neurons, features, biases, states and the outputs of sub-blocks do"
            )
        return share

    def _here(self, node: NodeId) -> bool:
        return node.position in (None, self.position)

    def _of(self, node: NodeId) -> float | None:
        if not self._here(node):
            return None  # writes at other positions reach this logit only through attention
        if node.kind == "logits":
            return self.total
        if node.kind == "final_norm":
            return self.total - self.remainder["b_U"]
        if node.layer is None or node.layer >= len(self.layers):
            raise InputError(f"{node} is outside layers 0..{len(self.layers) - 1} of {self.model}")
        if node.site is not None:
            place = node.layer, node.site
            return next((own.of(node) for own in self.features if own.place == place), None)
        return self.layers[node.layer].of(node)

    def heads(self) -> Float[Tensor, "layer head"]:
        """Every head's share; NaN in blocks without attention."""
        most = max(len(layer.heads) for layer in self.layers)
        none = torch.full((most,), torch.nan)
        return torch.stack([layer.heads if len(layer.heads) else none for layer in self.layers])

    @checked
    def to_dataframe(self, *kinds: Kinds) -> pd.DataFrame:
        """One row per node, in the order of the forward pass.

        Columns: node, kind, layer, head, attribution (logits), share (of the total).

        Args:
            *kinds: Kinds of node to list; of features, the active ones. The default is `PARTS`, and
                the remainder in rows without a layer; these rows sum to the total.
        """
        import pandas as pd

        if kinds:
            layers = range(len(self.layers))
            found = [i for n in layers for k in kinds for i in self._ids(k, n)]
        else:
            found = [NodeId("resid_pre", 0)]
            found += [
                i for n, at in enumerate(self.layers) for k in PARTS[1:] for i in at.ids(k, n)
            ]
        rows = [(str(i), i.kind, i.layer, i.head, self[i]) for i in found]
        if not kinds:
            rows += [(name, "remainder", None, None, x) for name, x in self.remainder.items()]
        columns = ["node", "kind", "layer", "head", "attribution"]
        frame = pd.DataFrame(rows, columns=columns)
        frame = frame.astype({"layer": "Int64", "head": "Int64"})
        return frame.assign(share=frame["attribution"] / self.total)

    def _ids(self, kind: Kind, layer: int) -> list[NodeId]:
        if kind not in FEATURE_KINDS:
            return self.layers[layer].ids(kind, layer)
        own = [of_site for of_site in self.features if of_site.record.layer == layer]
        return [node for of_site in own for node in of_site.ids(kind)]

    @checked
    def onto(self, graph: Annotated[G, GRAPH]) -> G:
        """The same graph with `Node.attribution` set on every node that writes to the stream.

        Features of an SAE that was not at hand have none.

        Raises:
            InputError: the graph is of another model, prompt or position, or its features are of
                other SAEs than these.
        """
        ours = self.model, self.token_ids, self.position, self.segments
        require_same(
            graph,
            *ours,
            what="attribution",
            remedy="attribute the graph itself, with attribute(model, graph)",
        )
        for own in self.features:
            own.require_same_module(graph)
        nodes = tuple(replace(node, attribution=self._of(node.id)) for node in graph.nodes)
        return replace(graph, nodes=nodes)


@checked
def attribute(
    model: Model,
    prompt: PromptLike | Graph,
    target: Token | None = None,
    against: Token | None = None,
    *,
    position: Position | None = None,
    prepend_bos: Flag | None = None,
    segments: SegmentsLike | None = None,
    saes: FeatureModules | None = None,
) -> Attribution:
    """Split a logit, or a difference of two, into shares of all that wrote to the residual stream.

    Runs the model once. With its scale fixed to the value `s` of this run, the final norm is
    linear, so a part `x` adds `N_s(x) . (W_U[target] - W_U[against])` (docs/maths.md,
    "Direct logit attribution").

    Args:
        model: As for `flow_graph`.
        prompt: A prompt as for `flow_graph`, or a graph, whose prompt and position are used.
        target: The token, as text or id; None is the graph's target, or the model's prediction.
        against: A token whose logit is subtracted, as text or id.
        position: Query position; None is the graph's, or the last.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`; None is those of a graph, else causal.
        saes: As for `flow_graph`: SAEs and transcoders whose features, errors and biases have
            shares, too. None is those of a graph, as far as they are at hand (a graph that was
            loaded has none), else none.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: a prompt, token, position or SAE that does not fit.
        DecompositionError: the parts do not sum to the logit, or those of a site not to the site.
    """
    view = ModelView(model)
    own = () if saes is None else modules_of(saes)
    if isinstance(prompt, GraphData):
        graph, ids = prompt, prompt.token_ids
        if graph.n_layers != view.n_layers or graph.d_vocab != view.d_vocab:
            raise InputError(
                f"the graph is of {graph.model} ({graph.n_layers} layers, {graph.d_vocab} tokens), "
                f"the model is {view.name} ({view.n_layers} layers, {view.d_vocab} tokens)"
            )
        if (reason := other_run(graph, model)) is not None:
            raise InputError(reason)
        own = getattr(graph.source, "modules", ()) if saes is None else own
        target = graph.target_id if target is None else target
        position = graph.position if position is None else position
        encoded = view.encode(
            list(ids), None, graph.segments or None if segments is None else segments
        )
    else:
        encoded = view.encode(prompt, prepend_bos, segments)
    sites = FeatureSites(view, own)
    at = -1 if position is None else position
    trace = Trace.run(view, encoded, position=at, extra=sites.hooks)
    return attribute_trace(view, trace, target, against, sites)


def attribute_trace(
    view: ModelView,
    trace: Trace,
    target: str | int | None = None,
    against: str | int | None = None,
    sites: FeatureSites | None = None,
) -> Attribution:
    """Do the same as `attribute` from an existing trace, which needs all blocks and the logits.

    Args:
        view: The model.
        trace: What it computed; with `sites`, also at `sites.hooks`.
        target: As for `attribute`.
        against: As for `attribute`.
        sites: SAEs and transcoders whose features have shares, too.

    Raises:
        InputError: a token that does not fit, or missing blocks or logits.
        DecompositionError: as for `attribute`.
    """
    own = trace.logits
    if own is None or len(trace.layers) != view.n_layers:
        raise InputError(
            f"attribution needs the logits and all {view.n_layers} blocks of a forward pass, got "
            f"{len(trace.layers)} blocks{'' if own is not None else ' and no logits'}; trace the "
            f"model without layers=, or keep hook_unembed in the cache"
        )
    chosen = int(own.argmax()) if target is None else view.tokens.single(target)
    other = None if against is None else view.tokens.single(against)
    if other == chosen:
        raise InputError(f"target and against are the same token, {view.tokens.text(chosen)!r}")
    with torch.no_grad():
        shares = Shares(view, trace, chosen, other)
        layers = tuple(shares.layer(layer) for layer in range(view.n_layers))
        remainder, error = shares.close(layers, own)
        features = () if sites is None else feature_shares(view, trace, sites, shares.direction)
    return Attribution(
        model=view.name,
        token_ids=trace.prompt.ids,
        position=trace.position,
        target=view.tokens.text(chosen),
        target_id=chosen,
        against=None if other is None else view.tokens.text(other),
        against_id=other,
        total=total_of(layers) + sum(remainder.values()),
        capped=shares.cap is not None,
        error=error,
        remainder=remainder,
        layers=layers,
        features=features,
        segments=trace.prompt.spans,
    )
