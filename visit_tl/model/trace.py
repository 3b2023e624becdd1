"""One forward pass, or a cache of one, as plain tensors: only the hooks and rows that are needed.

A graph needs one query position, or a few if memories are followed back to their positions. So most
hooks keep one row for each of these positions; keys and values keep every position. Other rows,
other layers and the rest of the batch are not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.experts import ExpertsTrace
from visit_tl.model.given_cache import Cache, CacheReader
from visit_tl.model.hook_shapes import require_shapes
from visit_tl.model.hooks import (
    NO_FIELD,
    OPTIONAL,
    ROWS,
    FwdHooks,
    embedding_hooks,
    hook_names,
    keeper,
    patched_hooks,
    row_of,
)
from visit_tl.model.latent_attention import read_latent
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.query_key_way import heads_norm_of, scored_by, way_of
from visit_tl.model.rotary_tables import HandedAngles
from visit_tl.model.rotation import Rotation
from visit_tl.model.standing_hooks import Standing, left_on, watched
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


@dataclass(frozen=True)
class Trace:
    """One forward pass at one query position.

    Attributes:
        prompt: The input tokens.
        position: The query position, counted from 0.
        layers: What each traced block computed.
        logits: The model's own next-token logits at the position; None if a cache has none.
        patched: Names of the hooks at which the caller's functions acted: those in `fwd_hooks`,
            under the names that the caller gave, and hooks on the model that changed something.
            The tensors read there are the changed ones.
        replaced: The same hooks under all of their names.
        standing: Hooks on the model that changed something, with the ids of their functions; None
            if `fwd_hooks` acted, since another run of the model would not repeat those.
        embeddings: What the token and its learned position add to the residual stream; None where
            positions are not learned or no hook shows both.
        extra: The rows of further hooks that were asked for, by name.
    """

    prompt: Prompt
    position: int
    layers: Mapping[int, LayerTrace]
    logits: Float[Tensor, " d_vocab"] | None
    patched: tuple[str, ...] = ()
    replaced: frozenset[str] = frozenset()
    standing: Standing | None = field(default_factory=dict)
    embeddings: Float[Tensor, "two d_model"] | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def run(
        cls,
        view: ModelView,
        prompt: Prompt,
        *,
        position: int = -1,
        layers: Sequence[int] | None = None,
        extra: Sequence[str] = (),
    ) -> Trace:
        """Run the model once and keep what a graph of these layers needs.

        The caller's hooks fire as usual, before the hooks added here. Afterwards hooks, flags, grad
        mode and random state are as they were before.

        Raises:
            ModelError: a required hook is missing or did not fire.
            InputError: a position or layer is out of range.
        """
        position = view.check_position(position, len(prompt.ids))
        return cls.run_at(view, prompt, [position], layers=layers, extra=extra)[position]

    @classmethod
    def run_at(
        cls,
        view: ModelView,
        prompt: Prompt,
        positions: Sequence[int],
        *,
        layers: Sequence[int] | None = None,
        fwd_hooks: FwdHooks = (),
        extra: Sequence[str] = (),
    ) -> dict[int, Trace]:
        """The traces of several positions from one forward pass; otherwise as `run`.

        Args:
            view: The model.
            prompt: The tokens.
            positions: Query positions.
            layers: Blocks to trace; None is all.
            fwd_hooks: Hooks as for `run_with_hooks`; they act before anything is read.
            extra: Further hooks of which the rows are kept, none of those in `hook_names`.
        """
        at = [view.check_position(position, len(prompt.ids)) for position in positions]
        names = {layer: hook_names(view, layer) for layer in view.check_layers(layers)}
        kept: dict[str, Tensor] = {}
        hooks = [
            (name, keeper(kept, name, ROWS[slot], at))
            for slots in names.values()
            for slot, name in slots.items()
        ]
        others = (*embedding_hooks(view), *extra)
        hooks += [(name, keeper(kept, name, "row", at)) for name in others]
        tokens = torch.tensor([prompt.ids], device=view.W_U.device)
        patched, replaced = patched_hooks(view, fwd_hooks)
        with watched(view.model) as changes:
            logits = view.run(tokens, [*fwd_hooks, *hooks], prompt.segments)
        rows = logits[0, at].detach().float()
        traces = _traces(view, prompt, at, names, kept, rows)
        acted = {
            "patched": tuple(dict.fromkeys((*patched, *changes.standing))),
            "replaced": replaced | changes.names,
            "standing": None if patched else changes.standing,
        }
        more = _extra(kept, extra, at)
        return {j: replace(t, **acted, extra=more[j]) for j, t in traces.items()}

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
        """Read an ActivationCache (or a dict with the same names) that the caller already has.

        Args:
            view: The model that made the cache.
            cache: Activations by TransformerLens name, with or without a batch axis.
            prompt: The tokens that it was made from.
            position: Query position; negative ones count from the end.
            layers: Blocks to trace; None is all.
            batch: Row of the batch; needed if the cache holds more than one.

        Raises:
            InputError: a hook is not in the cache, a shape does not fit the model or the prompt, or
                the batch row is not given or does not exist.
        """
        position = view.check_position(position, len(prompt.ids))
        traces = cls.from_cache_at(view, cache, prompt, [position], layers=layers, batch=batch)
        return traces[position]

    @classmethod
    def from_cache_at(
        cls,
        view: ModelView,
        cache: Cache,
        prompt: Prompt,
        positions: Sequence[int],
        *,
        layers: Sequence[int] | None = None,
        batch: int | None = None,
        extra: Sequence[str] = (),
    ) -> dict[int, Trace]:
        """The traces of several positions from one cache; otherwise as `from_cache`."""
        at = [view.check_position(position, len(prompt.ids)) for position in positions]
        names = {layer: hook_names(view, layer) for layer in view.check_layers(layers)}
        read = CacheReader(view, cache, prompt, batch)
        kept: dict[str, Tensor] = {}
        for slots in names.values():
            for slot, name in slots.items():
                if slot in OPTIONAL and name not in read.names:
                    continue
                if slot == "router" and len(cache[name]) != len(prompt.ids):
                    continue  # several prompts, one after the other; it can be computed instead
                keeper(kept, name, ROWS[slot], at)(read(name), None)
        read.require_embeddings_of_prompt()
        seen = {i: kept[slots["pattern"]] for i, slots in names.items() if "pattern" in slots}
        read.require_mask_of_prompt(seen, at)
        logits = read.optional("hook_unembed", "unembed.hook_out")
        rows = None if logits is None else logits[0, at]
        traces = _traces(view, prompt, at, names, kept, rows)
        for name in extra:
            keeper(kept, name, "row", at)(read(name), None)
        more = _extra(kept, extra, at)
        return {j: replace(t, extra=more[j]) for j, t in traces.items()}


def _extra(
    kept: Mapping[str, Tensor], names: Sequence[str], at: Sequence[int]
) -> dict[int, dict[str, Tensor]]:
    """By position, the rows of further hooks; those that did not fire are missing."""
    return {j: {n: kept[n][i] for n in names if n in kept} for i, j in enumerate(at)}


def _traces(
    view: ModelView,
    prompt: Prompt,
    at: Sequence[int],
    names: Mapping[int, Mapping[str, str]],
    kept: Mapping[str, Tensor],
    logits: Tensor | None,
) -> dict[int, Trace]:
    passed = HandedAngles(view, torch.tensor([prompt.ids], device=view.W_U.device))
    shown = [kept[name] for name in embedding_hooks(view) if name in kept]
    return {
        position: Trace(
            prompt,
            position,
            {
                layer: _layer(view, layer, prompt, position, i, names[layer], kept, passed)
                for layer in names
            },
            None if logits is None else logits[i],
            # Positions that are the same for every prompt have one row for all of a batch.
            embeddings=torch.stack([rows[i] for rows in shown]) if len(shown) == 2 else None,
        )
        for i, position in enumerate(at)
    }


def patterns(
    view: ModelView, prompt: Prompt, heads: Sequence[tuple[int, int]]
) -> Float[Tensor, "head pos pos"]:
    """Attention patterns of some (layer, head) pairs over all positions, from one forward pass."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor, object], None]:
        def copy(tensor: Tensor, hook: object) -> None:
            kept[layer] = tensor[0].detach().float().cpu()

        return copy

    hooks = [(f"blocks.{i}.attn.hook_pattern", keep(i)) for i in sorted({i for i, _ in heads})]
    tokens = torch.tensor([prompt.ids], device=view.W_U.device)
    view.run(tokens, hooks, prompt.segments)
    return torch.stack([kept[layer][head] for layer, head in heads])


def _layer(
    view: ModelView,
    layer: int,
    prompt: Prompt,
    position: int,
    i: int,
    names: Mapping[str, str],
    kept: Mapping[str, Tensor],
    passed: HandedAngles,
) -> LayerTrace:
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
