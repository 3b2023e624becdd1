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
from visit_tl.model.query_key_way import head_norms, normed_rows, way_of
from visit_tl.model.rotary import Way
from visit_tl.model.rotary_tables import HandedAngles
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
        way: How the sources become what is scored, by norms and rotation; None if they are what is
            scored.
    """

    queries: Float[Tensor, "pos head d_head"]
    keys: Float[Tensor, "pos kv_head d_head"]
    query_gradient: Float[Tensor, "pos head d_head"]
    key_gradient: Float[Tensor, "pos kv_head d_head"]
    query_source: Float[Tensor, "pos head d_head"]
    key_source: Float[Tensor, "pos kv_head d_head"]
    way: Way | None

    def back(
        self,
        view: ModelView,
        layer: int,
        queries: Float[Tensor, "pos head d_head"],
        keys: Float[Tensor, "pos kv_head d_head"],
    ) -> tuple[Tensor, Tensor]:
        """Gradients at the scored queries and keys, taken back to the sources."""
        if self.way is None:
            return queries, keys
        found: list[Tensor] = []
        for source, norm, gradient in (
            (self.query_source, "q_norm", queries),
            (self.key_source, "k_norm", keys),
        ):
            with torch.inference_mode(False), torch.enable_grad():
                x = source.detach().clone().requires_grad_()
                y = _as_scored(view, layer, norm, x, self.way)
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
    if view.latent(layer):
        # Shown as they are scored, heads first.
        names = list(required.values())
        (q, k), (dq, dk) = _both(run.values, names), _both(run.gradients, names)
        q, k, dq, dk = (x.transpose(0, 1) for x in (q, k, dq, dk))
        return Scored(q, k, dq, dk, q, k, None)
    hooks = required | {slot: name for slot, name in optional.items() if name in run.values}
    read = {slot: run.values[name] for slot, name in hooks.items()}
    rows = {slot: read[slot][-1] for slot in ("query", "rotated_query") if slot in read}
    n = len(read["query"])
    with torch.no_grad():
        way: Way | None = way_of(
            view, layer, n - 1, n, {**read, **rows, "pattern": pattern[:, -1]}, handed
        )
    assert way is not None
    sources = [required["query"], required["keys"]]
    if "rotated_query" in read and "rotated_keys" in read:
        sources = [optional["rotated_query"], optional["rotated_keys"]]
        # What is shown is rotated already; only a norm may still follow.
        way = Way(None, None) if way.norm_last else None
    elif not view.rotary and head_norms(view, layer) is None:
        way = None
    (q, k), (dq, dk) = _both(run.values, sources), _both(run.gradients, sources)
    with torch.no_grad():
        queries = _as_scored(view, layer, "q_norm", q, way)
        keys = _as_scored(view, layer, "k_norm", k, way)
    return Scored(queries, keys, dq, dk, q, k, way)


def _both(tensors: Mapping[str, Tensor], names: list[str]) -> tuple[Tensor, Tensor]:
    one, other = (tensors[name] for name in names)
    return one, other


def _as_scored(view: ModelView, layer: int, norm: str, x: Tensor, way: Way | None) -> Tensor:
    if way is None:
        return x
    return way.scored(x, way.each(len(x)), lambda rows: normed_rows(view, layer, norm, rows))
