"""One forward pass, or a cache of one, as plain tensors: only the hooks and rows that are needed.

A graph needs one query position, or a few if memories are followed back to their positions. So most
hooks keep one row for each of these positions; keys and values keep every position. Other rows,
other layers and the rest of the batch are not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.given_cache import Cache, CacheReader
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
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.query_key_way import normed, normed_rows, way_of
from visit_tl.model.rotary import HandedAngles, Way
from visit_tl.model.rotation import Rotation
from visit_tl.model.standing_hooks import Standing, left_on, watched
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


@dataclass(frozen=True)
class LayerTrace:
    """What one block computed at the graph's position, float32.

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
        mlp_in: Residual stream after ln2; None in attention-only models, as are mlp_pre, mlp_post
            and mlp_out.
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
    heads_norm: FrozenNorm | None
    hooks: Mapping[str, str]


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
    """

    prompt: Prompt
    position: int
    layers: Mapping[int, LayerTrace]
    logits: Float[Tensor, " d_vocab"] | None
    patched: tuple[str, ...] = ()
    replaced: frozenset[str] = frozenset()
    standing: Standing | None = field(default_factory=dict)
    embeddings: Float[Tensor, "two d_model"] | None = None

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

        The caller's hooks fire as usual, before the hooks added here. Afterwards hooks, flags, grad
        mode and random state are as they were before.

        Raises:
            ModelError: a required hook is missing or did not fire.
            InputError: a position or layer is out of range.
        """
        position = view.check_position(position, len(prompt.ids))
        return cls.run_at(view, prompt, [position], layers=layers)[position]

    @classmethod
    def run_at(
        cls,
        view: ModelView,
        prompt: Prompt,
        positions: Sequence[int],
        *,
        layers: Sequence[int] | None = None,
        fwd_hooks: FwdHooks = (),
    ) -> dict[int, Trace]:
        """The traces of several positions from one forward pass; otherwise as `run`.

        Args:
            view: The model.
            prompt: The tokens.
            positions: Query positions.
            layers: Blocks to trace; None is all.
            fwd_hooks: Hooks as for `run_with_hooks`; they act before anything is read.
        """
        at = [view.check_position(position, len(prompt.ids)) for position in positions]
        names = {layer: hook_names(view, layer) for layer in view.check_layers(layers)}
        kept: dict[str, Tensor] = {}
        hooks = [
            (name, keeper(kept, name, ROWS[slot], at))
            for slots in names.values()
            for slot, name in slots.items()
        ]
        hooks += [(name, keeper(kept, name, "row", at)) for name in embedding_hooks(view)]
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
        return {j: replace(t, **acted) for j, t in traces.items()}

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
                keeper(kept, name, ROWS[slot], at)(read(name), None)
        read.require_embeddings_of_prompt()
        read.require_mask_of_prompt({i: kept[slots["pattern"]] for i, slots in names.items()}, at)
        logits = read.optional("hook_unembed", "unembed.hook_out")
        rows = None if logits is None else logits[0, at]
        return _traces(view, prompt, at, names, kept, rows)


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
    _require_shapes(view, read, hooks)
    try:
        seen = prompt.seen_until(position)
        way = way_of(view, layer, position, seen, read, passed)
    except ModelError as error:
        raise ModelError(f"{error}{left_on(view.model)}") from error
    scored = _scored(view, layer, position, way, read)
    scored["heads_norm"] = _heads_norm(view, layer, read)
    hooks["keys"] = hooks.get("rotated_keys", hooks["keys"])
    mlp_from = read.get("resid_mid", read["resid_pre"])
    for slot, norm, state in (("attn_in", "ln1", read["resid_pre"]), ("mlp_in", "ln2", mlp_from)):
        if slot not in read and not (slot == "mlp_in" and view.attn_only):
            read[slot] = view.norm(layer, norm)(state)
            hooks[slot] = f"blocks.{layer}.{norm}.hook_normalized"
    absent = ("resid_mid", "mlp_in", "mlp_pre", "mlp_post", "mlp_out")
    fields = {slot: read.get(slot) for slot in absent} | {
        slot: tensor for slot, tensor in read.items() if slot not in NO_FIELD
    }
    return LayerTrace(hooks=hooks, **fields, **scored)  # type: ignore[arg-type]


def _scored(
    view: ModelView, layer: int, position: int, way: Way, read: dict[str, Tensor]
) -> dict[str, object]:
    """Put queries and keys as they are scored into `read`, and return what made them so.

    The query is in its own frame: what the rotation of the position turns into the scored query.
    """
    rotation = way.at(position)
    own = read["keys"][position]
    if rotation is not None and way.norm_last:
        norms = {}
        for slot, name, x in (("query", "q_norm", read["query"]), ("key", "k_norm", own)):
            after, frozen = normed(view, layer, name, rotation.forward(x))
            norms[slot] = None if frozen is None else frozen.within(rotation)
            if slot == "query":
                read["query"] = rotation.inverse(after)
    else:
        read["query"], query_norm = normed(view, layer, "q_norm", read["query"])
        norms = {"query": query_norm, "key": normed(view, layer, "k_norm", own)[1]}
    if norms["key"] is not None:
        each = view.kv_head(len(own)).to(own.device)
        norms["key"] = replace(norms["key"], gain=norms["key"].gain[each])
    rotated, n = read.get("rotated_keys"), len(read["keys"])
    if rotated is None:
        read["keys"] = way.scored(
            read["keys"], way.each(n), lambda x: normed_rows(view, layer, "k_norm", x)
        )
    else:
        read["keys"] = normed_rows(view, layer, "k_norm", rotated) if way.norm_last else rotated
    return {"rotation": rotation, "query_norm": norms["query"], "key_norm": norms["key"]}


def _heads_norm(view: ModelView, layer: int, read: Mapping[str, Tensor]) -> FrozenNorm | None:
    """The norm of all heads before W_O with its scale held, `[head, d_head]`; None if none."""
    norm = view.heads_norm(layer)
    if norm is None:
        return None
    values = read["values"][:, view.kv_head(read["values"].shape[1]).to(read["values"].device)]
    heads = einsum(read["pattern"], values, "head pos, pos head d_head -> head d_head")
    frozen = norm.freeze(heads.flatten())
    return replace(frozen, gain=frozen.gain.view_as(heads))


def _require_shapes(view: ModelView, read: Mapping[str, Tensor], hooks: Mapping[str, str]) -> None:
    """Require that each hook shows what its slot is: heads, key positions, the stream's width.

    Raises:
        ModelError: one does not; the message names it.
    """
    n, width = len(read["keys"]), read["query"].shape[-1]
    values = read["z"].shape[-1]
    wanted: dict[str, tuple[int | None, ...]] = {
        "query": (view.n_heads, width),
        "keys": (n, None, width),
        "values": (n, None, values),
        "pattern": (view.n_heads, n),
        "z": (view.n_heads, values),
    }
    wanted |= dict.fromkeys(
        ("resid_pre", "attn_in", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"),
        (view.d_model,),
    )
    for slot, sizes in wanted.items():
        if slot not in read:
            continue
        shape = read[slot].shape
        fits = len(shape) == len(sizes) and all(
            size in (None, own) for size, own in zip(sizes, shape, strict=True)
        )
        grouped = slot not in ("keys", "values") or view.n_heads % max(shape[1], 1) == 0
        if not (fits and grouped):
            said = ", ".join("K/V heads" if size is None else str(size) for size in sizes)
            raise ModelError(
                f"the hook {hooks[slot]} of {view.name} gives {slot} the shape {tuple(shape)}, "
                f"where ({said}) is needed; such a block cannot be taken apart into heads and "
                f"memories"
            )
