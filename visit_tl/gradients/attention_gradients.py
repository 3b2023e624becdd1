"""Reversed Attention: the attention map of the backward pass, for every head.

Katz and Wolf, "Reversed Attention: On The Gradient Descent Of Attention Layers In GPT" (NAACL
2025). For one head, with A the attention, E the gradient of the loss at A and s the scale of the
scores, `R = s A o (E - rowsum(A o E))`: s times the gradient at the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Flag,
    Hooks,
    Layers,
    Model,
    Position,
    PromptLike,
    SegmentsLike,
    TargetOrMetric,
)
from visit_tl.errors import DecompositionError, PerformanceWarning, warn_caller
from visit_tl.gradients.loss import Loss
from visit_tl.gradients.reversed_attention_result import ReversedAttention
from visit_tl.model.attention_scores import Scored, scored, scored_hooks, softcaps
from visit_tl.model.backward import BackwardPass, run_backward
from visit_tl.model.hooks import FwdHooks, patched_hooks, values_hook
from visit_tl.model.rotary_tables import HandedAngles
from visit_tl.model.standing_hooks import left_on, watched
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import tolerance
from visit_tl.xray.source_model import Source

KEPT_BYTES: Final = 256 * 2**20
"""Maps of all heads are kept up to this size; beyond it they are computed again when asked for."""
_NOTHING: Final = 1e-9
"""A gradient of this norm or less is rounding."""


@checked
def reversed_attention(
    model: Model,
    prompt: PromptLike,
    target: TargetOrMetric | None = None,
    *,
    layers: Layers | None = None,
    position: Position = -1,
    prepend_bos: Flag | None = None,
    fwd_hooks: Hooks = (),
    segments: SegmentsLike | None = None,
) -> ReversedAttention:
    """Compute the attention map of the backward pass of every head, from one forward and backward.

    The laws of docs/maths.md are measured in every layer: rows sum to 0, nothing above the mask,
    and the gradients of queries, keys and values follow from the maps. The scale of the scores is
    the one by which they do. Where the maps of a long prompt would not fit into 256 MB, layers are
    taken in several runs, with a warning.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        target: The token of the loss `-log p(target)`; None is the model's own prediction. Or a
            metric of `visit_tl.causal`, which then stands in the place of the loss as it is: a
            step along -R lowers it.
        layers: Blocks, one or several; None or `all` is all.
        position: The position of the loss; a metric uses its own.
        prepend_bos: As for `flow_graph`.
        fwd_hooks: As for `flow_graph`.
        segments: As for `flow_graph`.

    Raises:
        InputError: as `backward_lens`.
        DecompositionError: the maps do not give the gradients of queries, keys or values.
    """
    view = ModelView(model)
    tokens = view.encode(prompt, prepend_bos, segments)
    chosen = view.check_layers(layers, gaps=True)
    loss = Loss.of(view, tokens, target, position)
    return reversed_maps(view, tokens, loss, chosen, fwd_hooks)


def reversed_maps(
    view: ModelView,
    tokens: Prompt,
    loss: Loss,
    chosen: tuple[int, ...],
    fwd_hooks: FwdHooks = (),
) -> ReversedAttention:
    """`reversed_attention` of a model that is open already."""
    view.require_attention("reversed attention", chosen)
    given, _ = patched_hooks(view, fwd_hooks)
    parts = _affordable(chosen, 8 * view.n_heads * len(tokens.ids) ** 2)
    kept: dict[int, tuple[Tensor, Tensor]] | None = {} if len(parts) == 1 else None
    found: dict[int, _Summary] = {}
    value = 0.0
    with watched(view.model) as changes:
        for part in parts:
            value, layers_found = _measured(view, tokens, loss, part, fwd_hooks)
            found |= {layer: one.summary() for layer, one in layers_found.items()}
            if kept is not None:
                kept = {layer: one.maps() for layer, one in layers_found.items()}
    patched = tuple(dict.fromkeys((*given, *changes.standing)))
    if not patched:
        _require_laws(view, found)
    first = found[chosen[0]]

    def again(layer: int) -> tuple[Tensor, Tensor]:
        return _measured(view, tokens, loss, (layer,), fwd_hooks)[1][layer].maps()

    return ReversedAttention(
        model=view.name,
        prompt=tokens.text,
        tokens=tuple(view.tokens.text(i) for i in tokens.ids),
        token_ids=tokens.ids,
        target=view.tokens.text(loss.target),
        target_id=loss.target,
        target_given=loss.given,
        metric=loss.name,
        is_metric=loss.is_metric,
        position=loss.position,
        loss=value,
        layers=chosen,
        n_layers=view.n_layers,
        n_heads=view.n_heads,
        norms=_stacked([one.norms for one in found.values()]),
        forward_norms=_stacked([one.forward_norms for one in found.values()]),
        scales=np.array([one.scale for one in found.values()]),
        errors={law: max(one.errors[law] for one in found.values()) for law in first.errors},
        patched=patched,
        adapters=view.adapters.names,
        segments=tokens.spans,
        source=Source(view.model, None if fwd_hooks else changes.standing),
        store=(kept, again),
    )


def _affordable(layers: Sequence[int], nbytes: int) -> list[tuple[int, ...]]:
    """The layers in parts whose maps fit into memory together; each part takes a run of its own.

    Warns:
        PerformanceWarning: there is more than one part.
    """
    size = max(1, KEPT_BYTES // max(nbytes, 1))
    parts = [tuple(layers[i : i + size]) for i in range(0, len(layers), size)]
    if len(parts) > 1:
        warn_caller(
            f"the maps of {len(layers)} layers take {len(layers) * nbytes / 2**30:.1f} GiB, so "
            f"they are computed {size} layers at a time, in {len(parts)} runs of the model, and "
            f"again when they are asked for; fewer layers= or a shorter prompt take one run",
            PerformanceWarning,
        )
    return parts


@dataclass(frozen=True)
class _Summary:
    """What stays of one block: norms of R and of A, the scale, and the errors of the laws."""

    norms: Float[Tensor, " head"]
    forward_norms: Float[Tensor, " head"]
    scale: float
    errors: dict[str, float]


@dataclass
class _Layer:
    """One block's maps while they are computed.

    Attributes:
        attention: A.
        at_scores: The gradient of the loss at the scores, `A o (E - rowsum(A o E))`.
        scale: The scale of the scores.
        errors: The largest error of each law, relative to what it is about.
    """

    attention: Float[Tensor, "head query key"]
    at_scores: Float[Tensor, "head query key"]
    scale: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, attention: Tensor, gradient: Tensor) -> _Layer:
        weighted = attention * gradient
        rows = weighted.sum(-1, keepdim=True)
        one = cls(attention, weighted - attention * rows)
        # Where a sink takes a part of the attention, rows sum to the part that it took.
        left = (1 - attention.sum(-1)) * rows[..., 0]
        error = (one.at_scores.sum(-1) - left).abs().max() / _size(weighted)
        one.errors["rows of R sum to 0"] = float(error)
        return one

    def summary(self) -> _Summary:
        return _Summary(
            abs(self.scale) * self.at_scores.flatten(1).norm(dim=1),
            self.attention.flatten(1).norm(dim=1),
            self.scale,
            self.errors,
        )

    def maps(self) -> tuple[Tensor, Tensor]:
        """R and A."""
        return self.scale * self.at_scores, self.attention


def _measured(
    view: ModelView, tokens: Prompt, loss: Loss, layers: Sequence[int], fwd_hooks: Any
) -> tuple[float, dict[int, _Layer]]:
    """The value of the loss, and the maps and laws of some blocks."""
    found: dict[int, _Layer] = {}
    names, optional = [], []
    for layer in layers:
        attn = f"blocks.{layer}.attn"
        required, more = scored_hooks(view, layer)
        values = f"blocks.{layer}.{values_hook(view, layer)}"
        names += [*required.values(), f"{attn}.hook_z", values]
        optional += more.values()
        if softcaps(view) and view.has_hook(f"{attn}.hook_attn_scores"):
            optional.append(f"{attn}.hook_attn_scores")

    def taker(layer: int) -> Any:
        def take(attention: Tensor, gradient: Tensor) -> None:
            found[layer] = _Layer.of(attention, gradient)

        return take

    passed = {f"blocks.{layer}.attn.hook_pattern": taker(layer) for layer in layers}
    run = run_backward(
        view,
        tokens,
        names,
        loss.function,
        optional=optional,
        passed=passed,
        fwd_hooks=fwd_hooks,
    )
    handed = HandedAngles(view, torch.tensor([tokens.ids], device=view.W_U.device))
    for layer in layers:
        _complete(view, layer, found[layer], run, handed)
    return run.loss, {layer: found[layer] for layer in layers}


def _complete(
    view: ModelView, layer: int, one: _Layer, run: BackwardPass, handed: HandedAngles
) -> None:
    """Find the scale of the scores, and measure the laws of queries, keys and values."""
    attn = f"blocks.{layer}.attn"
    at = scored(view, layer, run, one.attention, handed)
    each = view.kv_head(at.keys.shape[1]).to(at.keys.device)
    scores = run.values.get(f"{attn}.hook_attn_scores")
    tried: list[tuple[float, float, float]] = []
    for cap in (None, *softcaps(view)):
        if cap is not None and scores is None:
            continue
        slope = one.at_scores
        if cap is not None and scores is not None:
            inside = torch.where(one.attention > 0, scores / cap, 0.0)
            slope = slope * (1 - inside.square())
        queries = einsum(slope, at.keys[:, each], "head query key, key head d -> query head d")
        keys = einsum(slope, at.queries, "head query key, query head d -> key head d")
        made = at.back(view, layer, queries, _grouped_sum(keys, at.key_source))
        # In half precision the model's own sums round by a share of what is summed, which rows
        # that sum to 0 largely cancel.
        floor = (
            float(torch.linalg.vector_norm(slope.abs().sum(-1)) * at.keys.abs().max())
            if view.W_U.dtype in (torch.float16, torch.bfloat16)
            else 0.0
        )
        tried.append(_fitted(*made, at, floor))
    one.scale, query_error, key_error = min(tried, key=lambda fit: fit[1] + fit[2])
    one.scale = _named_scale(view, layer, one.scale)
    shown = f"blocks.{layer}.{values_hook(view, layer)}"
    weighed, own = run.values[shown], run.gradients[shown]
    if view.latent(layer):  # heads first
        weighed, own = weighed.transpose(0, 1), own.transpose(0, 1)
    at_heads = _before_heads_norm(
        view,
        layer,
        one.attention,
        weighed,
        view.by_head(layer, run.gradients[f"{attn}.hook_z"]),
    )
    values = einsum(one.attention, at_heads, "head query key, query head d -> key head d")
    one.errors |= {
        "gradient at queries = R K": query_error,
        "gradient at keys = R^T Q": key_error,
        "gradient at values = A^T e": float((_grouped_sum(values, own) - own).norm() / _size(own)),
    }


def _before_heads_norm(
    view: ModelView,
    layer: int,
    attention: Float[Tensor, "head query key"],
    values: Float[Tensor, "key kv_head d_head"],
    gradient: Float[Tensor, "query head d_head"],
) -> Float[Tensor, "query head d_head"]:
    """The gradient at the heads' sums of values, from that at z; a norm may be between (BitNet)."""
    norm = view.heads_norm(layer)
    if norm is None:
        return gradient
    each = values[:, view.kv_head(values.shape[1]).to(values.device)]
    with torch.inference_mode(False), torch.enable_grad():
        sums = einsum(attention, each, "head query key, key head d -> query head d")
        sums = sums.detach().clone().requires_grad_()
        return torch.autograd.grad(norm(sums.flatten(1)), sums, gradient.clone().flatten(1))[0]


def _fitted(queries: Tensor, keys: Tensor, at: Scored, floor: float) -> tuple[float, float, float]:
    """The scale by which the queries' and keys' gradients are these, and the errors of both.

    Args:
        queries: What the gradient of the queries should be, but for the scale.
        keys: The same of the keys.
        at: The gradients themselves.
        floor: Size of the summands, times the scale the least size that errors are relative to.
    """
    pairs = ((queries, at.query_gradient), (keys, at.key_gradient))
    square = sum(float(made.square().sum()) for made, _ in pairs)
    scale = sum(float((made * own).sum()) for made, own in pairs) / square if square else 0.0
    # Where both are rounding errors of nothing, as in a prompt of one token, there is no error.
    errors = [
        float((scale * made - own).norm()) / max(_size(own), abs(scale) * floor)
        if float(own.norm()) > _NOTHING
        else 0.0
        for made, own in pairs
    ]
    return scale, errors[0], errors[1]


def _named_scale(view: ModelView, layer: int, fitted: float) -> float:
    """The usual scale that a fitted one is, up to rounding; the fitted one if there is none."""
    cfg = view.model.cfg
    own = getattr(cfg, "attn_scale", None)
    usual = [view.d_head**-0.5, 1.0]
    usual += [1 / own] if isinstance(own, int | float) and own > 0 else []
    usual += [one / (layer + 1) for one in usual]
    near = min(usual, key=lambda one: abs(one - fitted))
    return near if abs(near - fitted) <= tolerance(view) * near else fitted


def _grouped_sum(per_head: Tensor, like: Tensor) -> Tensor:
    """Gradients of query heads summed over the heads that share a key or value head."""
    return rearrange(
        per_head, "key (kv_head group) d -> key kv_head group d", kv_head=like.shape[1]
    ).sum(2)


def _size(tensor: Tensor) -> float:
    return max(float(tensor.norm()), 1e-12)


def _stacked(rows: Sequence[Tensor]) -> np.ndarray:
    return torch.stack(list(rows)).cpu().numpy()


def _require_laws(view: ModelView, found: dict[int, _Summary]) -> None:
    for layer, one in found.items():
        law = max(one.errors, key=lambda name: one.errors[name])
        if not one.errors[law] <= tolerance(view):
            raise DecompositionError(
                f"reversed attention of blocks.{layer} of {view.name}: {law} is off by "
                f"{one.errors[law]:.2g} (tolerance {tolerance(view):.0e}); the attention computes "
                f"something that visit_tl does not know{left_on(view.model)}"
            )
