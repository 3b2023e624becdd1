"""Queries and keys as attention scores them, at all positions, and the gradients there.

Some models fire hooks after rotary positions, others only before. Where there are none after, the
queries and keys are normed and rotated here as the model does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.model.backward import BackwardPass
from visit_tl.model.rotary import HandedAngles, Rotation, find_pairing, find_rotation, stored_angles
from visit_tl.model.trace import normed_rows
from visit_tl.model.view import ModelView


@dataclass(frozen=True, eq=False)
class Scored:
    """Queries and keys of one block as they were scored, and where their gradients were read.

    Attributes:
        queries: After norms and rotary positions, float32.
        keys: The same of the keys.
        query_gradient: The gradient of the loss at `query_source`.
        key_gradient: The gradient at `key_source`.
        query_source: The tensor that the gradient belongs to: the scored queries or, where no hook
            shows them, the ones before norm and rotary positions.
        key_source: The same of the keys.
        rotation: The rotation of every position, to get from the sources to what is scored; None
            if the sources are what is scored, or there is none.
        normed: Whether query and key norms lie between the sources and what is scored.
    """

    queries: Float[Tensor, "pos head d_head"]
    keys: Float[Tensor, "pos kv_head d_head"]
    query_gradient: Float[Tensor, "pos head d_head"]
    key_gradient: Float[Tensor, "pos kv_head d_head"]
    query_source: Float[Tensor, "pos head d_head"]
    key_source: Float[Tensor, "pos kv_head d_head"]
    rotation: Rotation | None
    normed: bool

    def back(
        self,
        view: ModelView,
        layer: int,
        queries: Float[Tensor, "pos head d_head"],
        keys: Float[Tensor, "pos kv_head d_head"],
    ) -> tuple[Tensor, Tensor]:
        """Gradients at the scored queries and keys, taken back to the sources."""
        if self.rotation is None and not self.normed:
            return queries, keys
        found: list[Tensor] = []
        for source, norm, gradient in (
            (self.query_source, "q_norm", queries),
            (self.key_source, "k_norm", keys),
        ):
            with torch.inference_mode(False), torch.enable_grad():
                x = source.detach().clone().requires_grad_()
                y = _as_scored(view, layer, norm, x, self.rotation, self.normed)
                found.append(torch.autograd.grad(y, x, gradient.detach().clone())[0])
        return found[0], found[1]


SOFTCAPS: Final = ("attn_scores_soft_cap", "attn_logit_softcapping")
"""Names of a limit c of attention scores, which are then `c tanh(s / c)`, in configurations."""


def softcaps(view: ModelView) -> tuple[float, ...]:
    """The limits of attention scores that the configuration names; usually none."""
    inner = getattr(getattr(view.model, "original_model", None), "config", None)
    found = (getattr(cfg, name, None) for cfg in (view.model.cfg, inner) for name in SOFTCAPS)
    caps = (float(c) for c in found if isinstance(c, int | float) and c > 0)
    return tuple(dict.fromkeys(caps))


def scored_hooks(view: ModelView, layer: int) -> tuple[dict[str, str], dict[str, str]]:
    """The hooks that `scored` reads of a block, by slot: those required, and those optional."""
    attn = f"blocks.{layer}.attn"
    required = {"query": f"{attn}.hook_q", "keys": f"{attn}.hook_k"}
    optional = {
        slot: f"{attn}.{hook}"
        for slot, hook in (
            ("rotated_query", "hook_rot_q"),
            ("rotated_keys", "hook_rot_k"),
            ("cos", "hook_cos"),
            ("sin", "hook_sin"),
        )
        if view.rotary and view.has_hook(f"{attn}.{hook}")
    }
    return required, optional


def scored(
    view: ModelView,
    layer: int,
    run: BackwardPass,
    pattern: Float[Tensor, "head query key"],
    handed: HandedAngles,
) -> Scored:
    """The queries and keys of a block as they were scored.

    Args:
        view: The model.
        layer: The block.
        run: A run with the hooks of `scored_hooks`.
        pattern: The block's attention, to find the rotation by.
        handed: Finds rotary angles among what the model passes to its blocks.

    Raises:
        ModelError: no rotation reproduces the model's attention.
    """
    required, optional = scored_hooks(view, layer)
    rotated = [optional.get(slot, "") for slot in ("rotated_query", "rotated_keys")]
    if all(name in run.values for name in rotated):
        (q, k), (dq, dk) = _both(run.values, rotated), _both(run.gradients, rotated)
        return Scored(q, k, dq, dk, q, k, None, False)
    names = [required["query"], required["keys"]]
    (q, k), (dq, dk) = _both(run.values, names), _both(run.gradients, names)
    normed = view.head_norm(layer, "q_norm") is not None
    rotation = _rotation(view, layer, run, q, k, pattern, handed) if view.rotary else None
    with torch.no_grad():
        queries = _as_scored(view, layer, "q_norm", q, rotation, normed)
        keys = _as_scored(view, layer, "k_norm", k, rotation, normed)
    return Scored(queries, keys, dq, dk, q, k, rotation, normed)


def _both(tensors: Mapping[str, Tensor], names: list[str]) -> tuple[Tensor, Tensor]:
    one, other = (tensors[name] for name in names)
    return one, other


def _as_scored(
    view: ModelView,
    layer: int,
    norm: str,
    x: Tensor,
    rotation: Rotation | None,
    normed: bool,
) -> Tensor:
    x = normed_rows(view, layer, norm, x) if normed else x
    return x if rotation is None else rotation.forward(x)


def _rotation(
    view: ModelView,
    layer: int,
    run: BackwardPass,
    q: Tensor,
    k: Tensor,
    pattern: Tensor,
    handed: HandedAngles,
) -> Rotation:
    """The rotation of every position, `[pos, 1, rotary]` tables."""
    attn, where, n = view.model.blocks[layer].attn, f"blocks.{layer}.attn", len(q)
    shown = [run.values.get(f"{where}.{name}") for name in ("hook_cos", "hook_sin")]
    if shown[0] is not None and shown[1] is not None:
        tables = [(shown[0], shown[1])]
    else:
        tables = stored_angles(attn) or handed(layer)
    tables = [(cos.to(q.device), sin.to(q.device)) for cos, sin in tables]
    with torch.no_grad():
        last = normed_rows(view, layer, "q_norm", q)[-1]
        keys = normed_rows(view, layer, "k_norm", k)
    if f"{where}.hook_rot_q" in run.values and tables:
        cos, sin = tables[0]
        turned = run.values[f"{where}.hook_rot_q"][-1]
        found = find_rotation(cos[n - 1], sin[n - 1], last, turned, where)
        return Rotation(cos[:n, None], sin[:n, None], found.adjacent)
    each = view.kv_head(keys.shape[1]).to(keys.device)
    (cos, sin), adjacent = find_pairing(tables, last, keys[:, each], pattern[:, -1], n - 1, where)
    return Rotation(cos[:n, None], sin[:n, None], adjacent)
