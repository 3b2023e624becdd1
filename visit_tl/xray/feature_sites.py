"""SAEs and transcoders at the hooks of a model: where each reads, and what its parts add up to.

A feature adds its row of the decoder, times its activation, to the residual stream. With what the
reconstruction has besides (`b_dec`, a skip connection, the mean of a normalised input) and with its
error, the features of a site sum to the site's vector exactly (docs/maths.md, "Features").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.features.feature_module import FeatureModule
from visit_tl.graph.ids import FEATURE_SITES, FeatureSite, Kind
from visit_tl.graph.records import FeatureSet
from visit_tl.model.components import attn_neurons, head_outputs
from visit_tl.model.layer_trace import LayerTrace
from visit_tl.model.layer_weights import LayerWeights
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView

SLOTS: Final[Mapping[str, str]] = {
    "attn.hook_z": "z",
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_in": "mlp_in",
}
"""Hooks whose row a trace keeps already, by the name inside their block, and its field there."""

_OTHER_INPUTS: Final = ("ln2.hook_normalized", "mlp.hook_out")
"""Hooks that are read for an SAE alone."""

_HOOK = re.compile(r"blocks\.([0-9]{1,9})\.(.+)")


@dataclass(frozen=True)
class Split:
    """One site's vector at one position, as features, the rest of the reconstruction and the error.

    Attributes:
        activations: Of every feature.
        active: The features that are not 0, ascending.
        rows: For each active feature, its row of the decoder, as the residual stream sees it.
        offset: What the reconstruction has besides the features, as the stream sees it.
        error: What the reconstruction misses, likewise.
        whole: The site's vector, likewise.
        error_share: L2 norm of the error over that of the whole, both at the hook.
    """

    activations: Float[Tensor, " n_features"]
    active: Int[Tensor, " active"]
    rows: Float[Tensor, "active d_model"]
    offset: Float[Tensor, " d_model"]
    error: Float[Tensor, " d_model"]
    whole: Float[Tensor, " d_model"]
    error_share: float

    @property
    def total(self) -> Float[Tensor, " d_model"]:
        """The sum of the features, the offset and the error, which is to be the whole."""
        return self.activations[self.active] @ self.rows + self.offset + self.error


@dataclass(frozen=True)
class Site:
    """A feature module at its place in a model.

    Attributes:
        module: The module.
        layer: The block.
        site: The vector that it reconstructs.
        reads: The kind of the state that its encoder reads.
        slot: The field of a trace that holds the encoder's input; None if it has a hook of its own.
    """

    module: FeatureModule
    layer: int
    site: FeatureSite
    reads: Kind
    slot: str | None

    @property
    def own_hook(self) -> str | None:
        """The hook that has to be read besides those of a trace."""
        return None if self.slot is not None else self.module.hook

    def read(self, trace: Trace) -> Float[Tensor, " d_in"]:
        """The encoder's input at the position of a trace."""
        found = trace.extra.get(self.module.hook) if self.slot is None else None
        if self.slot is not None:
            found = getattr(trace.layers[self.layer], self.slot)
        if found is None:
            raise ModelError(
                f"the hook {self.module.hook}, which {self.module.name} reads, did not fire"
            )
        return found.flatten()

    def whole(self, t: LayerTrace) -> Float[Tensor, " d_out"]:
        """The vector that is reconstructed, as the hook holds it."""
        return getattr(t, self.site).flatten()

    def stream(
        self, vectors: Float[Tensor, "*rows d_out"], w: LayerWeights
    ) -> Float[Tensor, "*rows d_model"]:
        """Vectors at the site's hook, as the residual stream sees them: z goes through W_O."""
        return vectors @ attn_neurons(w.W_O) if self.site == "z" else vectors

    def split(self, trace: Trace, w: LayerWeights) -> Split:
        """Take the site's vector apart at the position of a trace.

        Args:
            trace: What the model computed.
            w: The weights of the block, after post-norms (`components.stream_weights`).

        Raises:
            ModelError: the hook that the encoder reads did not fire.
        """
        t, module = trace.layers[self.layer], self.module
        run = module.apply(self.read(trace)[None])
        whole = self.whole(t)
        activations = run.features[0].to(whole)
        active = activations.nonzero()[:, 0]
        offset = run.offset if run.skip is None else run.offset + run.skip
        error = whole - run.reconstruction[0].to(whole)
        rows = (module.W_dec[active.to(module.W_dec.device)] * run.scale[0]).to(whole)
        # One product with W_O for all parts: its rows may have to be copied first.
        parts = self.stream(torch.cat([rows, offset.to(whole), error[None]]), w)
        return Split(
            activations=activations,
            active=active,
            rows=parts[:-2],
            offset=parts[-2],
            error=parts[-1],
            whole=head_outputs(t.z, w.W_O).sum(0) if self.site == "z" else whole,
            error_share=float(error.norm() / whole.norm().clamp_min(1e-12)),
        )

    def record(self, split: Split) -> FeatureSet:
        """What a graph records of the module."""
        module = self.module
        return FeatureSet(
            name=module.name,
            layer=self.layer,
            site=self.site,
            architecture=module.architecture,
            hook=module.hook,
            hook_out=module.hook_out,
            n_features=module.n_features,
            active=len(split.active),
            error_share=split.error_share,
            explained=1 - split.error_share**2,
            neuronpedia=module.neuronpedia_id,
        )


class FeatureSites:
    """The feature modules of a graph, each at its place; checked against the model.

    Args:
        view: The model.
        modules: The modules.
        layers: The blocks of the graph.

    Raises:
        InputError: a module does not fit the model, is outside the layers, or two are at one site.
    """

    def __init__(
        self, view: ModelView, modules: Iterable[FeatureModule], layers: Sequence[int] | None = None
    ) -> None:
        sites: dict[tuple[int, FeatureSite], Site] = {}
        for module in modules:
            site = fit(view, module, layers)
            place = site.layer, site.site
            if place in sites:
                raise InputError(
                    f"{sites[place].module.name} and {module.name} both reconstruct "
                    f"{module.hook_out}; the features of a site have one decoder, so pass one of "
                    f"them, and make a second graph with the other"
                )
            sites[place] = site
        order = {site: i for i, site in enumerate(FEATURE_SITES)}
        self.by_place = dict(sorted(sites.items(), key=lambda one: (one[0][0], order[one[0][1]])))

    def of_layer(self, layer: int) -> list[Site]:
        """The sites in one block, in the order of the forward pass."""
        return [site for (at, _), site in self.by_place.items() if at == layer]

    @cached_property
    def hooks(self) -> tuple[str, ...]:
        """The hooks to read besides those of a trace."""
        found = (site.own_hook for site in self.by_place.values())
        return tuple(dict.fromkeys(name for name in found if name is not None))


def fit(view: ModelView, module: FeatureModule, layers: Sequence[int] | None = None) -> Site:
    """Find the place of a module in a model.

    Raises:
        InputError: the model lacks a hook of it, the hook is none that a graph can show, its width
            is not that of the hook, or its block is not among the layers.
    """
    layer, out = _hook(view, module, module.hook_out)
    layer_in, inner = _hook(view, module, module.hook)
    if layer_in != layer:
        raise InputError(
            f"{module.name} reads {module.hook} and writes {module.hook_out}, of another block; "
            f"a graph shows the features of one block each"
        )
    module.require_fit(view)
    site = _site(view, module, layer, out)
    if layers is not None and layer not in layers:
        raise InputError(
            f"{module.name} is in block {layer}, outside the graph's layers {layers[0]}.."
            f"{layers[-1]}; pass layers= that hold its block, or leave it out"
        )
    reads, slot = _input(view, module, layer, inner)
    return Site(module, layer, site, reads, slot)


def _hook(view: ModelView, module: FeatureModule, name: str) -> tuple[int, str]:
    match = _HOOK.fullmatch(name)
    if match is None and view.has_hook(name):
        raise InputError(
            f"{module.name} is at the hook {name!r}, which is in no block; a graph shows features "
            f"of hooks in blocks, such as blocks.0.hook_resid_pre"
        )
    if match is None or int(match[1]) >= view.n_layers:
        raise InputError(
            f"{module.name} is at the hook {name!r}, which {view.name} with its {view.n_layers} "
            f"blocks does not have"
        )
    return int(match[1]), match[2]


def _site(view: ModelView, module: FeatureModule, layer: int, inner: str) -> FeatureSite:
    found = SLOTS.get(inner)
    if inner == "mlp.hook_out":
        if view.norm(layer, "ln2_post").kind != "none":
            raise InputError(
                f"{module.name} reconstructs {module.hook_out}, which {view.name} normalises "
                f"before it adds it to the stream; a graph shows features of hook_mlp_out"
            )
        found = "mlp_out"
    if found not in FEATURE_SITES:
        known = ", ".join(name for name, slot in SLOTS.items() if slot in FEATURE_SITES)
        raise InputError(
            f"{module.name} reconstructs {module.hook_out}; a graph shows features of {known}"
        )
    _require(view, module, layer, found)
    return found


def _require(view: ModelView, module: FeatureModule, layer: int, slot: str) -> None:
    parts = view.parts[layer]
    there = {
        "z": parts.attention,
        "attn_out": parts.attention,
        "resid_mid": parts.between,
        "mlp_in": parts.mlp != "none",
        "mlp_out": parts.mlp != "none",
    }
    if not there.get(slot, True):
        raise InputError(
            f"{module.name} is at {slot} of block {layer}, which a graph of {view.name} does not "
            f"have{_why_not(view, layer)}"
        )


def _why_not(view: ModelView, layer: int) -> str:
    """Why a block lacks a part that others have, as the end of a message."""
    if view.parallel:
        return ": attention and MLP run in parallel"
    words = view.parts[layer].opaque_words
    return "" if words is None else f": {words} was not opened"


def _input(
    view: ModelView, module: FeatureModule, layer: int, inner: str
) -> tuple[Kind, str | None]:
    """The state that an encoder reads, and the field of a trace that holds it."""
    if inner in SLOTS:
        slot = SLOTS[inner]
        _require(view, module, layer, slot)
        return slot, slot  # type: ignore[return-value]
    if inner == "hook_mlp_in":  # TransformerLens splits it off before ln2, where it fires at all
        slot = "resid_mid" if view.parts[layer].between else "resid_pre"
        _require(view, module, layer, "mlp_in")
        return slot, slot  # type: ignore[return-value]
    if inner not in _OTHER_INPUTS:
        raise InputError(
            f"{module.name} reads {module.hook}; a graph shows features that are read from "
            f"{', '.join((*SLOTS, 'hook_mlp_in', *_OTHER_INPUTS))}"
        )
    if not view.has_hook(module.hook):
        raise InputError(f"{module.name} reads {module.hook}, which {view.name} does not have")
    return ("mlp_out" if inner == "mlp.hook_out" else "mlp_in"), None
