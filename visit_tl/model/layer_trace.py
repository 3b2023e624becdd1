"""What one block computed at one position: the record, and how the rows of its hooks become it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.experts import ExpertsTrace
from visit_tl.model.hook_shapes import require_shapes
from visit_tl.model.hooks import NO_FIELD, OPTIONAL, ROWS, row_of
from visit_tl.model.latent_attention import read_latent
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.query_key_way import heads_norm_of, scored_by, way_of
from visit_tl.model.rotary_tables import HandedAngles
from visit_tl.model.rotation import Rotation
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


@dataclass(frozen=True)
class LayerTrace:
    """What one block computed at the graph's position, float32.

    A block without attention has no heads, and its `attn_out` is 0.

    Attributes:
        resid_pre: Residual stream entering the block.
        attn_in: The same after ln1.
        query: Queries, with biases and query norm, before rotary positions.
        keys: Keys of every key position, after key norm and rotary positions.
        values: Values of every key position, with biases.
        pattern: Attention of the graph's position over the key positions.
        z: Heads before W_O.
        attn_out: What the attention adds to the residual stream.
        resid_mid: Residual stream between attention and MLP; None in parallel blocks and
            attention-only models.
        mlp_in: Residual stream after ln2; None in blocks without MLP, as are mlp_pre, mlp_post and
            mlp_out.
        mlp_pre: Inner product of mlp_in with each column of W_in, plus b_in.
        mlp_post: Coefficient of each row of W_out.
        mlp_out: What the MLP adds to the residual stream.
        resid_post: Residual stream leaving the block.
        rotation: Rotation of the graph's position; None where positions are not rotary.
        query_norm: The norm of the queries at this position; None where there is none.
        key_norm: The norm of the keys at this position, one row per query head; None where there
            is none.
        heads_norm: The norm between the heads' sums of values and their z (BitNet), one row per
            head; None where z is the sum itself.
        hooks: TransformerLens name of the hook that each of these was read from.
        opaque: What a part that was not opened adds to the residual stream; None where there is
            none.
        experts: The chosen experts of a mixture; None in other blocks. Then mlp_pre and mlp_post
            are None.
        latent: W_Q and W_K at this position where the attention is latent, `[head, d_model,
            d_head]`, and what biases add to queries and keys; else None.
    """

    resid_pre: Float[Tensor, " d_model"]
    attn_in: Float[Tensor, " d_model"]
    query: Float[Tensor, "head d_key"]
    keys: Float[Tensor, "pos kv_head d_key"]
    values: Float[Tensor, "pos kv_head d_head"]
    pattern: Float[Tensor, "head pos"]
    z: Float[Tensor, "head d_head"]
    attn_out: Float[Tensor, " d_model"]
    resid_mid: Float[Tensor, " d_model"] | None
    mlp_in: Float[Tensor, " d_model"] | None
    mlp_pre: Float[Tensor, " d_mlp"] | None
    mlp_post: Float[Tensor, " d_mlp"] | None
    mlp_out: Float[Tensor, " d_model"] | None
    resid_post: Float[Tensor, " d_model"]
    rotation: Rotation | None
    query_norm: FrozenNorm | None
    key_norm: FrozenNorm | None
    heads_norm: FrozenNorm | None
    hooks: Mapping[str, str]
    opaque: Float[Tensor, " d_model"] | None = None
    experts: ExpertsTrace | None = None
    latent: tuple[Tensor, Tensor, Tensor, Tensor] | None = None


def trace_of_block(
    view: ModelView,
    layer: int,
    prompt: Prompt,
    position: int,
    i: int,
    names: Mapping[str, str],
    kept: Mapping[str, Tensor],
    passed: HandedAngles,
) -> LayerTrace:
    """Make the trace of a block from the rows that hooks kept.

    Args:
        view: The model.
        layer: The block.
        prompt: The tokens.
        position: The query position.
        i: Which of the positions that were kept it is.
        names: The block's hooks by the name of the field that they fill (`hooks.hook_names`).
        kept: What each hook kept (`hooks.keeper`).
        passed: The rotary angles that the model hands to its blocks.

    Raises:
        ModelError: a required hook did not fire, or what hooks hold is not what the block computes.
    """
    silent = [n for slot, n in names.items() if n not in kept and slot not in OPTIONAL]
    if silent:
        raise ModelError(
            f"the hook {silent[0]} of {view.name} did not fire in this forward pass, "
            f"so the block {layer} cannot be taken apart"
        )
    read = {s: row_of(kept[name], ROWS[s], i) for s, name in names.items() if name in kept}
    hooks = {slot: name for slot, name in names.items() if name in kept}
    if not view.parts[layer].attention:
        return _without_heads(view, layer, prompt, read, hooks)
    if view.latent(layer):
        known = read_latent(view, layer, position, read, passed)
        for slot in ("query", "keys", "values"):
            hooks[slot] = hooks.pop(f"latent_{slot}")
        require_shapes(view, read, hooks)
        return _completed(view, layer, read, hooks, known)
    require_shapes(view, read, hooks)
    try:
        seen = prompt.seen_until(position)
        way = way_of(view, layer, position, seen, read, passed)
    except ModelError as error:
        raise ModelError(f"{error}{left_on(view.model)}") from error
    known = scored_by(view, layer, position, way, read)
    known["heads_norm"] = heads_norm_of(view, layer, read)
    hooks["keys"] = hooks.get("rotated_keys", hooks["keys"])
    return _completed(view, layer, read, hooks, known)


def _without_heads(
    view: ModelView,
    layer: int,
    prompt: Prompt,
    read: dict[str, Tensor],
    hooks: dict[str, str],
) -> LayerTrace:
    """A block without attention, as one of no heads."""
    like, n = read["resid_pre"], len(prompt.ids)
    none = like.new_zeros(0, view.d_head)
    read |= {"query": none, "z": none, "pattern": like.new_zeros(0, n)}
    read |= {name: none.expand(n, 0, view.d_head) for name in ("keys", "values")}
    read["attn_out"] = torch.zeros_like(like)
    known: dict[str, object] = {}
    known |= dict.fromkeys(("rotation", "query_norm", "key_norm", "heads_norm"))
    return _completed(view, layer, read, hooks, known)


def _completed(
    view: ModelView,
    layer: int,
    read: dict[str, Tensor],
    hooks: dict[str, str],
    known: Mapping[str, object],
) -> LayerTrace:
    """The trace of a block, with what no hook shows: norms, experts, parts known by difference."""
    parts = view.parts[layer]
    mlp_from = read.get("resid_mid", read["resid_pre"])
    for slot, norm, state in (("attn_in", "ln1", read["resid_pre"]), ("mlp_in", "ln2", mlp_from)):
        if slot not in read and not (slot == "mlp_in" and parts.mlp == "none"):
            read[slot] = view.norm(layer, norm)(state)
            hooks[slot] = f"blocks.{layer}.{norm}.hook_normalized"
    if parts.mlp_out == "difference":
        read["mlp_out"] = read["resid_post"] - mlp_from
    if parts.opaque == "difference":
        after = read.get("resid_mid", read["resid_post"] - read.get("mlp_out", 0))
        read["opaque"] = after - read["resid_pre"] - read["attn_out"]
    experts = None
    if parts.mixture is not None:
        experts = parts.mixture.trace(read["mlp_in"], read.get("router"))
    absent = ("resid_mid", "mlp_in", "mlp_pre", "mlp_post", "mlp_out")
    fields = {slot: read.get(slot) for slot in absent} | {
        slot: tensor for slot, tensor in read.items() if slot not in NO_FIELD
    }
    return LayerTrace(hooks=hooks, experts=experts, **known, **fields)  # type: ignore[arg-type]
