"""Features of SAEs and transcoders, patched at the hook that they reconstruct.

Another activation of a feature changes the hook by the difference times the feature's row of the
decoder; the error stays as it was. So a run with a feature patched is the run of a model in which
the module stands in the place of the hook, with its error put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.features.feature_module import FeatureModule
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.graph.same_features import another_module, module_words
from visit_tl.model.hooks import ROWS, hook_names
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.patch import Write
from visit_tl.model.view import ModelView
from visit_tl.xray.feature_sites import FeatureSites, Site

_PARTS: Final = ("features", "feature_error", "feature_bias", "scale")


@dataclass(frozen=True)
class FeaturePatches:
    """The feature modules whose nodes are patched.

    Attributes:
        view: The model.
        sites: The modules at their places.
    """

    view: ModelView
    sites: FeatureSites

    @classmethod
    def of(
        cls, view: ModelView, modules: Iterable[FeatureModule], nodes: Iterable[NodeId]
    ) -> FeaturePatches:
        """The modules that these nodes are of.

        Raises:
            InputError: a module does not fit the model.
        """
        found = FeatureSites(view, modules)
        wanted = {(node.layer, node.site) for node in nodes if node.site is not None}
        for place in [place for place in found.by_place if place not in wanted]:
            del found.by_place[place]
        return cls(view, found)

    def known(self, node: NodeId) -> bool:
        """Whether the module of a node is at hand.

        Raises:
            InputError: it is, and has no such feature.
        """
        site = self._site(node)
        if site is None:
            return False
        if node.neuron is not None and node.neuron >= site.module.n_features:
            raise InputError(
                f"{node} is not there: {site.module.name} has the features "
                f"0..{site.module.n_features - 1}"
            )
        return True

    def require_modules_of(self, graph: GraphData) -> None:
        """Require that what a graph shows at these sites can be of these modules.

        Raises:
            InputError: it is of others, whose ids do not mean the same.
        """
        for shown in graph.feature_sets:
            site = self.sites.by_place.get((shown.layer, shown.site))
            if site is not None and another_module(shown, site.module):
                raise InputError(
                    f"the graph's features at {shown.site} of block {shown.layer} are of "
                    f"{module_words(shown)}, and saes= has {module_words(site.module)}; "
                    f"pass the SAE of the graph"
                )

    def needed(self) -> dict[str, str]:
        """The hooks to keep, and which part of each (see `KeptRun`)."""
        keep: dict[str, str] = {}
        for site in self.sites.by_place.values():
            names = hook_names(self.view, site.layer)
            if site.own_hook is not None:
                keep[site.own_hook] = "row"
            keep[names[site.site]] = ROWS[site.site]
            if site.slot is not None:
                slot = site.slot if site.slot in names else self._before_norm(site.layer)
                keep[names[slot]] = ROWS[slot]
        return keep

    def split(self, run: KeptRun) -> None:
        """Put features, errors and the like of a run beside its kept activations."""
        for site in self.sites.by_place.values():
            whole = run.kept[hook_names(self.view, site.layer)[site.site]].flatten(1)
            made = site.module.apply(self._input(site, run.kept))
            offset = made.offset if made.skip is None else made.offset + made.skip
            parts = (made.features, whole - made.reconstruction.to(whole), offset, made.scale)
            for name, tensor in zip(_PARTS, parts, strict=True):
                run.kept[_key(site, name)] = tensor.to(whole)

    def write(
        self,
        node: NodeId,
        hook: str,
        run: KeptRun,
        other: Mapping[str, Tensor] | None,
        position: int,
    ) -> Write:
        """The change of a hook that gives a node its value in other activations; None is 0.

        Args:
            node: A feature, an error or a bias.
            hook: The hook that adds to the node's site.
            run: The run that is changed.
            other: The other activations, by hook.
            position: Where.
        """
        site = self._site(node)
        assert site is not None
        at = run.positions.index(position)
        key = _key(site, "features" if node.kind == "feature" else node.kind)
        old = run.kept[key][at]
        new = torch.zeros_like(old) if other is None else other[key][at]
        change = new - old
        if node.neuron is not None:
            row = site.module.W_dec[node.neuron].to(old) * run.kept[_key(site, "scale")][at]
            change = change[node.neuron] * row
        if site.site != "z":
            return Write(hook, (position,), change, add=True)
        change = change.reshape(run.kept[hook_names(self.view, site.layer)["z"]].shape[1:])
        return Write(hook, (position,), change, add=True)

    def about(self) -> list[list[str | float]]:
        """What tells these modules from others, for the file of a sweep's progress."""
        found: Sequence[FeatureModule] = [s.module for s in self.sites.by_place.values()]
        return [[m.name, m.hook, m.hook_out, float(m.W_dec.double().sum())] for m in found]

    def _site(self, node: NodeId) -> Site | None:
        if node.layer is None or node.site is None:
            return None
        return self.sites.by_place.get((node.layer, node.site))

    def _before_norm(self, layer: int) -> str:
        return "resid_mid" if self.view.parts[layer].between else "resid_pre"

    def _input(self, site: Site, kept: Mapping[str, Tensor]) -> Tensor:
        names = hook_names(self.view, site.layer)
        if site.own_hook is not None:
            return kept[site.own_hook]
        slot = site.slot or ""
        if slot in names:
            return kept[names[slot]].flatten(1)
        return self.view.norm(site.layer, "ln2")(kept[names[self._before_norm(site.layer)]])


def _key(site: Site, part: str) -> str:
    """The name of a part among kept activations; no hook has such a name."""
    return f"{site.module.hook_out} {part}"
