"""Shares of features: what each feature of a site, its error and its bias add to a logit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FeatureSite, Kind, NodeId
from visit_tl.graph.records import FeatureSet
from visit_tl.graph.same_features import another_in_the_run, another_module, module_words, shown_at
from visit_tl.model import components
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import check_features
from visit_tl.xray.feature_sites import FeatureSites, Site


@dataclass(frozen=True)
class FeatureShares:
    """What the parts of one site add to the logit; they sum to what the site's vector adds.

    Attributes:
        record: The SAE or transcoder, and its place.
        active: The features that are not 0, ascending; all others add nothing.
        shares: What each of these adds: its activation times its row of the decoder.
        error: What the error of the reconstruction adds.
        bias: What the reconstruction adds besides features: `b_dec`, the mean of a normalised
            input, a skip connection.
    """

    record: FeatureSet
    active: Int[Tensor, " active"] = field(repr=False)
    shares: Float[Tensor, " active"] = field(repr=False)
    error: float
    bias: float

    @property
    def place(self) -> tuple[int, FeatureSite]:
        """Block and site."""
        return self.record.layer, self.record.site

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return float(self.shares.double().sum()) + self.error + self.bias

    @cached_property
    def _by_index(self) -> dict[int, float]:
        return dict(zip(self.active.tolist(), self.shares.tolist(), strict=True))

    def of(self, node: NodeId) -> float:
        """The share of a feature, an error or a bias of this site.

        Raises:
            InputError: the module has no such feature.
        """
        if node.neuron is None:
            return self.error if node.kind == "feature_error" else self.bias
        if node.neuron >= self.record.n_features:
            raise InputError(
                f"{node} is not there: {self.record.name} has the features "
                f"0..{self.record.n_features - 1}"
            )
        return self._by_index.get(node.neuron, 0.0)

    def ids(self, kind: Kind) -> list[NodeId]:
        """The nodes of one kind: of features, those that are active."""
        layer, site = self.place
        if kind == "feature":
            return [NodeId(kind, layer, neuron=i, site=site) for i in self._by_index]
        return [NodeId(kind, layer, site=site)]

    def require_same_module(self, graph: GraphData) -> None:
        """Require that what a graph of the same run shows at this site is of the same module.

        Raises:
            InputError: it is of another one.
        """
        other = shown_at(graph, self.record)
        if other is not None and another_in_the_run(graph, self.record, self._by_index):
            raise InputError(
                f"the graph's features at {self.record.site} of block {self.record.layer} are "
                f"of {module_words(other)}, these shares of {module_words(self.record)}"
                f"{_other_weights(other, self.record)}; pass the SAE of the graph in saes="
            )


def feature_shares(
    view: ModelView, trace: Trace, sites: FeatureSites, direction: Float[Tensor, " d_model"]
) -> tuple[FeatureShares, ...]:
    """The shares of all parts of some sites, at the position of a trace.

    Args:
        view: The model.
        trace: A trace of their blocks that kept `sites.hooks`.
        sites: The feature modules at their places.
        direction: What turns a vector of the residual stream into logits.

    Raises:
        DecompositionError: the parts of a site do not sum to it.
    """
    return tuple(_of_site(view, trace, site, direction) for site in sites.by_place.values())


def _of_site(view: ModelView, trace: Trace, site: Site, direction: Tensor) -> FeatureShares:
    w = components.stream_weights(view, site.layer, trace.layers[site.layer])
    split = site.split(trace, w)
    check_features(view, site.module.name, site.layer, split.total, split.whole, split.error)
    return FeatureShares(
        record=site.record(split),
        active=split.active.cpu(),
        shares=(split.activations[split.active] * (split.rows @ direction)).cpu(),
        error=float(split.error @ direction),
        bias=float(split.offset @ direction),
    )


def _other_weights(one: FeatureSet, other: FeatureSet) -> str:
    """What a message says besides, where the modules differ in nothing but their weights."""
    return "" if another_module(one, other) else " with other weights, or of another run"
