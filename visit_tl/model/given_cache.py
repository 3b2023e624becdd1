"""Read a cache of activations from the caller, and check that it fits the model and the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


@runtime_checkable
class Cache(Protocol):
    """The methods that a cache must have: a TransformerLens ActivationCache or a plain dict."""

    def __getitem__(self, name: str) -> Tensor: ...

    def keys(self) -> Iterable[str]:
        """Names of the hooks that were cached."""
        ...


class CacheReader:
    """Reads tensors from a caller's cache and checks that they fit the model and the prompt."""

    def __init__(self, view: ModelView, cache: Cache, prompt: Prompt, batch: int | None) -> None:
        self._view, self._cache, self._prompt, self._batch = view, cache, prompt, batch
        self.names = set(cache.keys())

    def optional(self, *names: str) -> Tensor | None:
        """The first of these hooks that the cache has; None if it has none of them."""
        return next((self(name) for name in names if name in self.names), None)

    def __call__(self, name: str) -> Tensor:
        """One hook's tensor, with a batch axis of 1.

        Raises:
            InputError: the hook is not in the cache, its shape does not fit the model or the
                prompt, or the batch row is not given or does not exist.
        """
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
            return 0  # all rows of a batch share one table of angles
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
            if any(view.latent(layer) for layer in range(view.n_layers)):
                # By head, and of other widths; z in rows of d_head, which may be several a head.
                expected = (1, n if last == "hook_z" else None, None, None)
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
        """Require that the cached embeddings have the directions of the prompt's embeddings.

        Their lengths may differ, since some models scale embeddings.

        Raises:
            InputError: the cache was made from another prompt.
        """
        cached = self.optional("hook_embed")
        table = getattr(self._view.model, "W_E", None)
        if cached is None or not isinstance(table, Tensor) or table.shape[-1] != cached.shape[-1]:
            return
        ids = torch.tensor(self._prompt.ids, device=table.device)
        adapted = self._view.adapters.embeddings(self._view.model.embed, ids)
        own = (table.detach()[ids] if adapted is None else adapted).float()
        cosine = torch.cosine_similarity(own, cached[0].float(), dim=-1)
        zero = (own.norm(dim=-1) == 0) & (cached[0].norm(dim=-1) == 0)
        wrong = ((cosine < 0.99) & ~zero).nonzero().flatten().tolist()
        if wrong:
            text = self._view.tokens.text(self._prompt.ids[wrong[0]])
            raise InputError(
                f"the cache was not made from this prompt: at position {wrong[0]} it does not "
                f"hold the embedding of {text!r}; check the prompt and prepend_bos"
            )

    def require_mask_of_prompt(
        self, patterns: Mapping[int, Float[Tensor, "row head pos"]], at: Sequence[int]
    ) -> None:
        """Require that the cached attention is that of a run under the prompt's segments.

        Args:
            patterns: By layer, the attention of some query positions.
            at: These positions.

        Raises:
            InputError: a query attends to a key that its mask hides, or to no later one of its
                segment.
        """
        later = False
        for i, position in enumerate(at):
            seen = self._prompt.seen_until(position)
            for layer, pattern in patterns.items():
                row = pattern[i]
                if bool((row[:, seen:] != 0).any()):
                    raise InputError(
                        f"in the cache, blocks.{layer} attends from position {position} to later "
                        f"ones that the prompt's attention hides; pass the segments that the cache "
                        f"was made under"
                    )
                later |= bool((row[:, position + 1 : seen] != 0).any())
        if not later and any(self._prompt.seen_until(p) > p + 1 for p in at):
            raise InputError(
                "the cache is of a causal run: no query attends to a later token of its segment; "
                "leave segments out, or let flow_graph run the model"
            )


_PER_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k")


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
