"""One forward pass, or a cache of one, as plain tensors: only the hooks and rows that are needed.

A graph needs one query position, or a few if memories are followed back to their positions. So most
hooks keep one row for each of these positions; keys and values keep every position. Other rows,
other layers and the rest of the batch are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.model.given_cache import Cache, CacheReader
from visit_tl.model.hooks import (
    OPTIONAL,
    ROWS,
    FwdHooks,
    embedding_hooks,
    hook_names,
    keeper,
    patched_hooks,
)
from visit_tl.model.layer_trace import LayerTrace, trace_of_block
from visit_tl.model.rotary_tables import HandedAngles
from visit_tl.model.standing_hooks import Standing, watched
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


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
                layer: trace_of_block(view, layer, prompt, position, i, names[layer], kept, passed)
                for layer in names
            },
            None if logits is None else logits[i],
            # Positions that are the same for every prompt have one row for all of a batch.
            embeddings=torch.stack([rows[i] for rows in shown]) if len(shown) == 2 else None,
        )
        for i, position in enumerate(at)
    }
