"""Which hooks of a block are read, and which part of each tensor is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.view import ModelView

FwdHooks = Sequence[tuple[str | Callable[[str], bool], Callable[..., Any]]]
"""Hooks as `run_with_hooks` takes them: pairs of a hook name (or a function that selects names) and
a hook function."""

# Hooks that some models have but never fire; their tensors are then computed from others.
OPTIONAL = ("attn_in", "mlp_in", "router", "rotated_query", "rotated_keys", "cos", "sin")
# Slots that are read only to compute something else.
NO_FIELD = (
    "latent_query",
    "latent_keys",
    "latent_values",
    "rotated_query",
    "rotated_keys",
    "cos",
    "sin",
    "router",
)

# Which part of a hook's tensor a graph needs: `row` is the row at the position, `all` is all
# positions, `query` is the row of an attention pattern at the query position (its third axis),
# `angles` is a whole table of rotary angles, `by head` is all positions of a tensor whose heads
# come first, and `token` is the row of a tensor without a batch axis.
ROWS: dict[str, str] = {
    "resid_pre": "row",
    "attn_in": "row",
    "query": "row",
    "rotated_query": "row",
    "cos": "angles",
    "sin": "angles",
    "rotated_keys": "all",
    "keys": "all",
    "latent_query": "query",
    "latent_keys": "by head",
    "latent_values": "by head",
    "values": "all",
    "pattern": "query",
    "z": "row",
    "attn_out": "row",
    "resid_mid": "row",
    "mlp_in": "row",
    "mlp_pre": "row",
    "mlp_post": "row",
    "mlp_out": "row",
    "opaque": "row",
    "router": "token",
    "resid_post": "row",
}


def hook_names(view: ModelView, layer: int) -> dict[str, str]:
    """The hooks to read for one block, by the name of the field that they fill.

    Raises:
        ModelError: the model lacks one of them.
    """
    block, parts = f"blocks.{layer}", view.parts[layer]
    wanted = {"resid_pre": "hook_resid_pre"}
    if parts.attention:
        wanted |= _attention_hooks(view, layer)
    if parts.opaque not in (None, "difference"):
        wanted["opaque"] = str(parts.opaque)
    wanted["resid_post"] = "hook_resid_post"
    if parts.mlp == "neurons":
        wanted |= {
            "mlp_pre": "mlp.hook_pre_linear" if view.gated_at(layer) else "mlp.hook_pre",
            "mlp_post": "mlp.hook_post",
        }
    if parts.mlp_out not in (None, "difference"):
        wanted["mlp_out"] = str(parts.mlp_out)
    if parts.between:
        wanted["resid_mid"] = "hook_resid_mid"
    router = None if parts.mixture is None else parts.mixture.hook
    if router is not None and view.has_hook(router):
        wanted["router"] = router.removeprefix(f"{block}.")
    # HookedTransformer has neither hook, and some bridges do not fire them; then the norm is
    # computed.
    for slot, inner, there in (
        ("attn_in", "attn.hook_in", parts.attention),
        ("mlp_in", "mlp.hook_in", parts.mlp != "none"),
    ):
        if there and view.has_hook(f"{block}.{inner}"):
            wanted[slot] = inner
    for slot, hook in wanted.items():
        if not view.has_hook(f"{block}.{hook}"):
            raise ModelError(
                f"{view.name} ({view.class_name}) has no hook {block}.{hook}, "
                f"from which a graph takes {slot}; such a block cannot be taken apart"
            )
    return {slot: f"{block}.{hook}" for slot, hook in wanted.items()}


def values_hook(view: ModelView, layer: int) -> str:
    """The hook of a block's values as its attention weighs them: after their norm (Gemma 4)."""
    normed = "attn.v_norm.hook_out"
    return normed if view.has_hook(f"blocks.{layer}.{normed}") else "attn.hook_v"


def _attention_hooks(view: ModelView, layer: int) -> dict[str, str]:
    block = f"blocks.{layer}"
    if view.latent(layer):
        return {
            "latent_query": "attn.hook_q",
            "latent_keys": "attn.hook_k",
            "latent_values": "attn.hook_v",
            "pattern": "attn.hook_pattern",
            "z": "attn.hook_z",
            "attn_out": "hook_attn_out",
        } | ({"cos": "attn.hook_cos", "sin": "attn.hook_sin"} if view.rotary else {})
    wanted = {
        "query": "attn.hook_q",
        "keys": "attn.hook_k",
        "values": values_hook(view, layer),
        "pattern": "attn.hook_pattern",
        "z": "attn.hook_z",
        "attn_out": "hook_attn_out",
    }
    if view.rotary:
        if view.has_hook(f"{block}.attn.hook_rot_k"):
            wanted |= {"rotated_query": "attn.hook_rot_q", "rotated_keys": "attn.hook_rot_k"}
        if view.has_hook(f"{block}.attn.hook_cos"):
            wanted |= {"cos": "attn.hook_cos", "sin": "attn.hook_sin"}
    return wanted


def embedding_hooks(view: ModelView) -> tuple[str, ...]:
    """The hooks of the embedding of tokens and of learned positions; empty unless both are there.

    A bridge has names for hooks that it lacks, so its list of hooks is asked.
    """
    learned = getattr(view.model.cfg, "positional_embedding_type", None) == "standard"
    both = ("hook_embed", "hook_pos_embed")
    return both if learned and all(name in view.model.hook_dict for name in both) else ()


def keeper(
    kept: dict[str, Tensor], name: str, rows: str, positions: Sequence[int]
) -> Callable[[Tensor, Any], None]:
    """A hook function that copies the required rows into `kept` and changes nothing."""
    # Indexing with a list of one position would cost more than the copy itself.
    at = slice(positions[0], positions[0] + 1) if len(positions) == 1 else list(positions)

    def keep(tensor: Tensor, hook: Any) -> None:
        try:
            part = _part(tensor, rows, at)
        except (AttributeError, IndexError, TypeError):
            part = None
        if part is None or (rows in ("row", "query", "token") and len(part) != len(positions)):
            raise ModelError(
                f"the hook {name} holds {_shape_of(tensor)}, where a tensor [batch, "
                f"{'head, query, key' if rows == 'query' else 'pos, ...'}] is needed, so the block "
                f"cannot be taken apart"
            )
        kept[name] = part.detach().float().clone()

    return keep


def _part(tensor: Tensor, rows: str, at: slice | list[int]) -> Tensor:
    if rows == "row":
        return tensor[0, at]
    if rows == "query":
        return tensor[0, :, at].transpose(0, 1)
    if rows == "by head":
        return tensor[0].transpose(0, 1)
    if rows == "token":
        return (tensor if tensor.ndim == 2 else tensor[0])[at]
    if rows == "angles":
        return tensor[0] if tensor.ndim == 3 else tensor
    return tensor[0]


def _shape_of(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a tensor of shape {tuple(shape)}"


def row_of(part: Tensor, rows: str, i: int) -> Tensor:
    """The part that `keeper` stored for the i-th of its positions."""
    return part[i] if rows in ("row", "query", "token") else part


def patched_hooks(view: ModelView, fwd_hooks: FwdHooks) -> tuple[tuple[str, ...], frozenset[str]]:
    """The hooks at which a caller's functions act: as the caller named them, and by all names.

    Raises:
        InputError: a name is not a hook of the model.
    """
    known = view.model.hook_dict
    asked: dict[str, int] = {}
    for name, _ in fwd_hooks:
        names = [name] if isinstance(name, str) else [n for n in known if name(n)]
        for one in names:
            if one not in known:
                near = get_close_matches(one, list(known), n=1)
                raise InputError(
                    f"{view.name} has no hook {one!r}"
                    f"{f'; did you mean {near[0]!r}?' if near else ''}"
                )
            asked[one] = id(known[one])
    acted = set(asked.values())
    return tuple(asked), frozenset(name for name, hook in known.items() if id(hook) in acted)
