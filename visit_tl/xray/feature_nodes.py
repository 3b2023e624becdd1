"""Features of SAEs and transcoders as nodes: which stay, their vectors and edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from visit_tl.features.feature_module import FeatureModule
from visit_tl.graph.ids import FeatureSite, Kind, NodeId
from visit_tl.graph.records import FeatureSet, shared_hook
from visit_tl.model.components import row_norms
from visit_tl.model.trace import Trace
from visit_tl.xray.block import Block
from visit_tl.xray.budget import highest
from visit_tl.xray.conservation import check_features
from visit_tl.xray.feature_sites import FeatureSites, Site, Split

Explanations = Mapping[tuple[int, FeatureSite], Mapping[int, str]]
"""By block and site, what somebody says that features are, by index."""

HIGHEST: Final = 10
"""How many features of a site a graph shows."""


@dataclass(frozen=True)
class ShownFeatures:
    """Which features of which sites a graph shows.

    Attributes:
        sites: The feature modules at their places.
        count: How many features of a site are shown, by |activation| x norm of the row.
        explanations: What somebody says that they are.
    """

    sites: FeatureSites
    count: int = HIGHEST
    explanations: Explanations = field(default_factory=dict)

    @property
    def modules(self) -> tuple[FeatureModule, ...]:
        """The feature modules."""
        return tuple(site.module for site in self.sites.by_place.values())

    def add(self, block: Block) -> tuple[list[FeatureSet], int, float]:
        """Add the features of one block.

        Returns:
            What the graph records of each module, how many active features pruning left out, and
            the largest relative error of the law that a site's parts sum to it.

        Raises:
            DecompositionError: they do not.
        """
        records, hidden, worst = [], 0, 0.0
        for site in self.sites.of_layer(block.layer):
            split = site.split(block.trace, block.w)
            name, layer = site.module.name, site.layer
            worst = max(
                worst,
                check_features(block.view, name, layer, split.total, split.whole, split.error),
            )
            kept = self._add_site(block, site, split)
            records.append(site.record(split))
            hidden += len(split.active) - kept
        return records, hidden, worst

    def _add_site(self, block: Block, site: Site, split: Split) -> int:
        """Add the kept features, the error and the bias of one site; return how many were kept."""
        draft, position = block.draft, block.trace.position
        hook = shared_hook(site.module.hook_out, (0, position))
        activations = split.activations[split.active]
        sizes = activations.abs() * row_norms(split.rows)
        kept = highest(sizes, self.count) if self.count else torch.tensor([], dtype=torch.long)
        kept = kept[sizes[kept] > 0].sort().values
        said = self.explanations.get((site.layer, site.site), {})
        indices, numbers = split.active[kept].tolist(), activations[kept].tolist()
        ids = [_id(block, site, "feature", neuron=i) for i in indices]
        draft.add(
            ids,
            split.rows[kept],
            [
                {"hook": hook, "coefficient": a, "explanation": said.get(i)}
                for i, a in zip(indices, numbers, strict=True)
            ],
        )
        error = _id(block, site, "feature_error")
        draft.one(error, split.error, hook)
        rest = [(error, split.error)]
        if bool(split.offset.any()):
            bias = _id(block, site, "feature_bias")
            draft.one(bias, split.offset, None)
            rest.append((bias, split.offset))
        source, target = block.id(site.reads), _target(block, site)
        for node, a in zip(ids, numbers, strict=True):
            draft.link(source, node, "coefficient", a)
        draft.link(source, error, "flow", float(_state(block, site, split).norm()))
        added = zip(ids, sizes[kept].tolist(), strict=True)
        for node, size in (*added, *((n, float(vector.norm())) for n, vector in rest)):
            draft.after[node] = site.reads
            if target is not None:
                draft.link(node, target, "sum", size)
        return len(ids)


def _id(block: Block, site: Site, kind: Kind, neuron: int | None = None) -> NodeId:
    return NodeId(kind, site.layer, neuron=neuron, position=block.at, site=site.site)


def _state(block: Block, site: Site, split: Split) -> Tensor:
    """The vector of the node that the encoder reads."""
    return split.whole if site.reads == site.site else getattr(block.t, site.reads)


def _target(block: Block, site: Site) -> NodeId | None:
    """The node that the parts of a site sum to, with others; None where the graph ends before it.

    An encoder that reads something else makes parts of the site itself, like the neurons of an
    MLP. One that reads the site takes it apart, and the parts add up to whatever the site is added
    to next.
    """
    if site.reads != site.site:
        return block.id(site.site)
    after_attention: Kind = "resid_post" if block.t.resid_mid is None else "resid_mid"
    following: dict[FeatureSite, Kind] = {
        "z": "attn_out",
        "attn_out": after_attention,
        "resid_pre": after_attention,
        "resid_mid": "resid_post",
        "mlp_out": "resid_post",
    }
    if site.site in following:
        return block.id(following[site.site])
    return _after_block(block.trace, block)


def _after_block(trace: Trace, block: Block) -> NodeId | None:
    if block.layer + 1 in trace.layers:
        return NodeId("resid_pre", block.layer + 1)
    return NodeId("final_norm") if block.layer == block.view.n_layers - 1 else None
