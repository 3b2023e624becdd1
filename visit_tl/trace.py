"""One forward pass, or a cache of one, as plain tensors: only the hooks and rows that are needed.

A graph looks at one query position, so most hooks keep one row; keys and values keep every
position. Nothing of the batch, the other rows or the other layers is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.rotary import Rotation, find_pairing, find_rotation, stored_angles
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


@runtime_checkable
class Cache(Protocol):
    """What is asked of a cache: a TransformerLens ActivationCache or a plain dict."""

    def __getitem__(self, name: str) -> Tensor: ...

    def keys(self) -> Iterable[str]:
        """Names of the hooks that were cached."""
        ...


@dataclass(frozen=True)
class LayerTrace:
    """What one block computed at the graph's position, float32.

    Attributes:
        resid_pre: Residual stream entering the block.
        attn_in: The same after ln1.
        query: Queries, biases and query norm included, before rotary positions.
        keys: Keys of every key position, after key norm and rotary positions.
        values: Values of every key position, biases included.
        pattern: Attention of the graph's position over the key positions.
        z: Heads before W_O.
        attn_out: What the attention adds to the residual stream.
        resid_mid: Residual stream between attention and MLP; None in parallel blocks and
            attention-only models.
        mlp_in: Residual stream after ln2; None in attention-only models, as all that follows.
        mlp_pre: Inner product of mlp_in with each column of W_in, b_in included.
        mlp_post: Coefficient of each row of W_out.
        mlp_out: What the MLP adds to the residual stream.
        resid_post: Residual stream leaving the block.
        rotation: Rotation of the graph's position; None where positions are not rotary.
        query_norm: The norm of the queries at this position; None where there is none.
        key_norm: The norm of the keys at this position, one row a query head; None likewise.
        hooks: TransformerLens name of the hook that each of these was read from.
    """

    resid_pre: Float[Tensor, " d_model"]
    attn_in: Float[Tensor, " d_model"]
    query: Float[Tensor, "head d_head"]
    keys: Float[Tensor, "pos kv_head d_head"]
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
    hooks: Mapping[str, str]


@dataclass(frozen=True)
class Trace:
    """One forward pass at one query position.

    Attributes:
        prompt: The tokens that went in.
        position: The query position, counted from 0.
        layers: What each traced block computed.
        logits: The model's own next-token logits at the position; None if a cache has none.
    """

    prompt: Prompt
    position: int
    layers: Mapping[int, LayerTrace]
    logits: Float[Tensor, " d_vocab"] | None

    @classmethod
    def run(
        cls,
        view: ModelView,
        prompt: Prompt,
        *,
        position: int = -1,
        layers: Sequence[int] | None = None,
    ) -> Trace:
        """Run the model once and keep what a graph of these layers needs.

        The caller's hooks fire as they always do, and before ours; they, the flags, the grad mode
        and the random state are afterwards as they were before.

        Raises:
            ModelError: a hook that is needed is missing or did not fire.
            InputError: a position or layer out of range.
        """
        position = view.check_position(position, len(prompt.ids))
        chosen = view.check_layers(layers)
        names = {layer: _hook_names(view, layer) for layer in chosen}
        kept: dict[str, Tensor] = {}
        hooks = [
            (name, _keeper(kept, name, _ROWS[slot], position))
            for slots in names.values()
            for slot, name in slots.items()
        ]
        tokens = torch.tensor([prompt.ids], device=view.W_U.device)
        with torch.no_grad():
            logits = view.model.run_with_hooks(tokens, fwd_hooks=_unique(hooks))
        traced = {
            layer: _layer(view, layer, position, slots, kept) for layer, slots in names.items()
        }
        return cls(prompt, position, traced, logits[0, position].detach().float())

    @classmethod
    def from_cache(
        cls,
        view: ModelView,
        cache: Cache,
        prompt: Prompt,
        *,
        position: int = -1,
        layers: Sequence[int] | None = None,
        batch: int | None = None,
    ) -> Trace:
        """Use an ActivationCache (or a dict of its names) that the caller already has.

        Args:
            view: The model that made the cache.
            cache: Activations by TransformerLens name, with or without a batch axis.
            prompt: The tokens that it was made from.
            position: Query position; negative ones count from the end.
            layers: Blocks to trace; None is all.
            batch: Row of the batch; needed if the cache holds more than one.

        Raises:
            InputError: a hook is not in the cache, a shape does not fit the model or the prompt, or
                the batch row is missing or not there.
        """
        position = view.check_position(position, len(prompt.ids))
        chosen = view.check_layers(layers)
        names = {layer: _hook_names(view, layer) for layer in chosen}
        read = _CacheReader(view, cache, prompt, batch)
        kept: dict[str, Tensor] = {}
        for slots in names.values():
            for slot, name in slots.items():
                if slot in _OPTIONAL and name not in read.names:
                    continue
                _keeper(kept, name, _ROWS[slot], position)(read(name), None)
        read.require_embeddings_of_prompt()
        traced = {
            layer: _layer(view, layer, position, slots, kept) for layer, slots in names.items()
        }
        logits = read.optional("hook_unembed", "unembed.hook_out")
        return cls(prompt, position, traced, None if logits is None else logits[0, position])


# Hooks that some models have but never fire; what they would show is then worked out.
_OPTIONAL = ("attn_in", "mlp_in", "rotated_query", "rotated_keys", "cos", "sin")
_NO_FIELD = ("rotated_query", "rotated_keys", "cos", "sin")

# Which part of a hook's tensor a graph needs: its row at the position, all of its positions, or its
# query row, which is the third axis of attention patterns.
_ROWS: dict[str, str] = {
    "resid_pre": "row",
    "attn_in": "row",
    "query": "row",
    "rotated_query": "row",
    "cos": "angles",
    "sin": "angles",
    "own_key": "row",
    "rotated_keys": "all",
    "keys": "all",
    "values": "all",
    "pattern": "query",
    "z": "row",
    "attn_out": "row",
    "resid_mid": "row",
    "mlp_in": "row",
    "mlp_pre": "row",
    "mlp_post": "row",
    "mlp_out": "row",
    "resid_post": "row",
}


def _hook_names(view: ModelView, layer: int) -> dict[str, str]:
    """The hooks that one block is read from, by the name of the field that they fill.

    Raises:
        ModelError: the model lacks one of them.
    """
    block = f"blocks.{layer}"
    wanted: dict[str, tuple[str, ...]] = {
        "resid_pre": ("hook_resid_pre",),
        "query": ("attn.hook_q",),
        "keys": ("attn.hook_k",),
        "values": ("attn.hook_v",),
        "pattern": ("attn.hook_pattern",),
        "z": ("attn.hook_z",),
        "attn_out": ("hook_attn_out",),
        "resid_post": ("hook_resid_post",),
    }
    if view.head_norm(layer, "k_norm") is not None:
        wanted["own_key"] = ("attn.hook_k",)
    if view.rotary:
        if view.has_hook(f"{block}.attn.hook_rot_k"):
            wanted |= {"rotated_query": ("attn.hook_rot_q",), "rotated_keys": ("attn.hook_rot_k",)}
        if view.has_hook(f"{block}.attn.hook_cos"):
            wanted |= {"cos": ("attn.hook_cos",), "sin": ("attn.hook_sin",)}
    if not view.attn_only:
        pre = "mlp.hook_pre_linear" if view.gated else "mlp.hook_pre"
        wanted |= {
            "mlp_pre": (pre,),
            "mlp_post": ("mlp.hook_post",),
            "mlp_out": ("hook_mlp_out",),
        }
        if not view.parallel:
            wanted["resid_mid"] = ("hook_resid_mid",)
    # HookedTransformer has neither, and some bridges do not fire them; then the norm is computed.
    for slot, inner in (("attn_in", "attn.hook_in"), ("mlp_in", "mlp.hook_in")):
        if view.has_hook(f"{block}.{inner}") and not (slot == "mlp_in" and view.attn_only):
            wanted[slot] = (inner,)
    names: dict[str, str] = {}
    for slot, candidates in wanted.items():
        found = next((n for c in candidates if view.has_hook(n := f"{block}.{c}")), None)
        if found is None:
            raise ModelError(
                f"{view.name} ({view.class_name}) has no hook "
                f"{' or '.join(f'{block}.{c}' for c in candidates)}, "
                f"from which a graph takes {slot}; such a block cannot be taken apart"
            )
        names[slot] = found
    return names


def _unique(hooks: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """One hook a name: two fields may be read from the same one."""
    return list(dict(hooks).items())


def _keeper(
    kept: dict[str, Tensor], name: str, rows: str, position: int
) -> Callable[[Tensor, Any], None]:
    """A hook function that copies the rows that are needed and changes nothing."""

    def keep(tensor: Tensor, hook: Any) -> None:
        if rows == "row":
            part = tensor[0, position]
        elif rows == "query":
            part = tensor[0, :, position]
        elif rows == "angles":
            part = tensor[0] if tensor.ndim == 3 else tensor
        else:
            part = tensor[0]
        kept[name] = part.detach().float().clone()

    return keep


def _layer(
    view: ModelView,
    layer: int,
    position: int,
    names: Mapping[str, str],
    kept: Mapping[str, Tensor],
) -> LayerTrace:
    silent = [n for slot, n in names.items() if n not in kept and slot not in _OPTIONAL]
    if silent:
        raise ModelError(
            f"the hook {silent[0]} of {view.name} did not fire in this forward pass, "
            f"so the block {layer} cannot be taken apart"
        )
    read = {slot: kept[name] for slot, name in names.items() if name in kept}
    hooks = {slot: name for slot, name in names.items() if name in kept}
    read["query"], query_norm = _normed(view, layer, "q_norm", read["query"])
    key_norm = None
    if "own_key" in read:
        own, key_norm = _normed(view, layer, "k_norm", read.pop("own_key"))
        if key_norm is not None:
            each = view.kv_head(len(own)).to(own.device)
            key_norm = replace(key_norm, gain=key_norm.gain[each])
        if "rotated_keys" not in read:
            read["keys"] = torch.stack(
                [_normed(view, layer, "k_norm", key)[0] for key in read["keys"]]
            )
    rotation = _rotate(view, layer, position, read) if view.rotary else None
    hooks["keys"] = hooks.get("rotated_keys", hooks["keys"])
    mlp_from = read.get("resid_mid", read["resid_pre"])
    for slot, norm, state in (("attn_in", "ln1", read["resid_pre"]), ("mlp_in", "ln2", mlp_from)):
        if slot not in read and not (slot == "mlp_in" and view.attn_only):
            read[slot] = view.norm(layer, norm)(state)
            hooks[slot] = f"blocks.{layer}.{norm}.hook_normalized"
    absent = ("resid_mid", "mlp_in", "mlp_pre", "mlp_post", "mlp_out")
    fields = {slot: read.get(slot) for slot in absent} | {
        slot: tensor for slot, tensor in read.items() if slot not in _NO_FIELD
    }
    known = {"rotation": rotation, "query_norm": query_norm, "key_norm": key_norm}
    return LayerTrace(hooks=hooks, **known, **fields)  # type: ignore[arg-type]


def _normed(
    view: ModelView, layer: int, name: str, x: Float[Tensor, "head d_head"]
) -> tuple[Tensor, FrozenNorm | None]:
    """Queries or keys after their norm, if there is one, and that norm held at them.

    Raises:
        ModelError: the norm spans something else than a head or all heads.
    """
    norm = view.head_norm(layer, name)
    if norm is None or norm.kind == "none":
        return x, None
    size = x.shape[-1] if norm.weight is None else norm.weight.numel()
    if size == x.shape[-1] or (norm.weight is not None and norm.weight.shape == x.shape):
        return norm(x), norm.freeze(x)
    if size != x.numel() or norm.kind != "RMS":
        raise ModelError(
            f"{name} of blocks.{layer} in {view.name} spans {size} entries, neither one head of "
            f"{x.shape[-1]} nor all {x.numel()}; its queries and keys cannot be read"
        )
    frozen = norm.freeze(x.flatten())
    return norm(x.flatten()).view_as(x), replace(frozen, gain=frozen.gain.view_as(x))


def _rotate(view: ModelView, layer: int, position: int, read: dict[str, Tensor]) -> Rotation:
    """Puts the rotated keys into `read` and returns the rotation of the graph's position.

    Raises:
        ModelError: there are no angles, or none that give what the model computed.
    """
    attn, where = view.model.blocks[layer].attn, f"blocks.{layer}.attn"
    stored = stored_angles(attn) if "cos" not in read else (read["cos"], read["sin"])
    if stored is None:
        raise ModelError(
            f"{view.name} has rotary positions but neither {where}.hook_cos nor a table of angles; "
            f"memory keys cannot be read in the query's frame"
        )
    cos, sin = (table.to(read["query"].device) for table in stored)
    if "rotated_keys" in read:
        read["keys"] = read["rotated_keys"]
        rotated = read["rotated_query"]
        return find_rotation(cos[position], sin[position], read["query"], rotated, where)
    each = view.kv_head(read["keys"].shape[1]).to(cos.device)
    seen = slice(0, position + 1)
    adjacent = find_pairing(
        cos[seen],
        sin[seen],
        read["query"],
        read["keys"][seen][:, each],
        read["pattern"][:, seen],
        where,
    )
    n = len(read["keys"])
    read["keys"] = Rotation(cos[:n, None], sin[:n, None], adjacent).forward(read["keys"])
    return Rotation(cos[position], sin[position], adjacent)


class _CacheReader:
    """Takes tensors out of a caller's cache and checks that they are of this model and prompt."""

    def __init__(self, view: ModelView, cache: Cache, prompt: Prompt, batch: int | None) -> None:
        self._view, self._cache, self._prompt, self._batch = view, cache, prompt, batch
        self.names = set(cache.keys())

    def optional(self, *names: str) -> Tensor | None:
        return next((self(name) for name in names if name in self.names), None)

    def __call__(self, name: str) -> Tensor:
        if name not in self.names:
            raise InputError(
                f"the cache has no {name}; make it with model.run_with_cache(tokens) without a "
                f"names_filter, or let flow_graph run the model"
            )
        tensor = self._cache[name]
        axes = 4 if _last(name) in (*_PER_HEAD, "hook_pattern") else 3
        tensor = tensor if tensor.ndim == axes else tensor.unsqueeze(0)
        batch = self._row(tensor, name)
        tensor = tensor[batch : batch + 1].to(self._view.W_U.device)
        self._check_shape(tensor, name)
        return tensor

    def _row(self, tensor: Tensor, name: str) -> int:
        size = tensor.shape[0]
        if self._batch is None and size != 1:
            raise InputError(
                f"the cache holds a batch of {size} prompts; say which one with batch=0..{size - 1}"
            )
        if size == 1 and _last(name) in ("hook_cos", "hook_sin"):
            return 0  # one table of angles serves every row of a batch
        batch = self._batch or 0
        if not 0 <= batch < size:
            raise InputError(f"batch {batch} is outside 0..{size - 1} of the cache")
        return batch

    def _check_shape(self, tensor: Tensor, name: str) -> None:
        view, n = self._view, len(self._prompt.ids)
        last = _last(name)
        if last == "hook_pattern":
            expected: tuple[int | None, ...] = (1, view.n_heads, n, n)
        elif last in _PER_HEAD:
            heads = view.n_heads if last in ("hook_q", "hook_rot_q", "hook_z") else None
            expected = (1, n, heads, view.d_head)
        elif last.startswith("hook_resid") or last in ("hook_attn_out", "hook_mlp_out"):
            expected = (1, n, view.d_model)
        else:
            expected = (1, n, None)
        fits = tensor.ndim == len(expected) and all(
            want is None or want == got for want, got in zip(expected, tensor.shape, strict=True)
        )
        if not fits:
            shape = ", ".join("any" if e is None else str(e) for e in expected)
            raise InputError(
                f"{name} in the cache has shape {tuple(tensor.shape)}, but {view.name} and a "
                f"prompt of {n} tokens give ({shape}); the cache is of another model or prompt"
            )

    def require_embeddings_of_prompt(self) -> None:
        """The cached embeddings must point where the prompt's own do (a scale may be applied)."""
        cached = self.optional("hook_embed")
        table = getattr(self._view.model, "W_E", None)
        if cached is None or not isinstance(table, Tensor) or table.shape[-1] != cached.shape[-1]:
            return
        own = table.detach()[torch.tensor(self._prompt.ids, device=table.device)].float()
        cosine = torch.cosine_similarity(own, cached[0].float(), dim=-1)
        zero = (own.norm(dim=-1) == 0) & (cached[0].norm(dim=-1) == 0)
        wrong = ((cosine < 0.99) & ~zero).nonzero().flatten().tolist()
        if wrong:
            text = self._view.tokens.text(self._prompt.ids[wrong[0]])
            raise InputError(
                f"the cache was not made from this prompt: at position {wrong[0]} it does not "
                f"hold the embedding of {text!r}; check the prompt and prepend_bos"
            )


_PER_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k")


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
