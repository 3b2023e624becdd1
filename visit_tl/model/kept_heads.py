"""Runs with some heads switched off: their z is 0 at every position, as if rows of W_O were 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from visit_tl.model.hooks import hook_names
from visit_tl.model.view import ModelView

_TOKENS_AT_ONCE = 2048


def logits_with_heads(
    view: ModelView,
    prompts: Sequence[tuple[int, ...]],
    kept: Bool[Tensor, "choice layer head"],
) -> Float[Tensor, "choice prompt d_vocab"]:
    """The logits at the last position of each prompt, for each choice of the heads that stay.

    Args:
        view: The model.
        prompts: Token ids. Prompts of one length, and all choices, are run together.
        kept: True where a head stays.
    """
    kept = kept.to(view.W_U.device)
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(i)
    found: list[list[Tensor | None]] = [[None] * len(prompts) for _ in kept]
    for length, places in by_length.items():
        rows = [(choice, i) for i in places for choice in range(len(kept))]
        size = max(1, _TOKENS_AT_ONCE // length)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            tokens = torch.tensor([prompts[i] for _, i in part], device=kept.device)
            masks = kept[[choice for choice, _ in part]]
            with torch.no_grad():
                logits = view.model.run_with_hooks(tokens, fwd_hooks=_switches(view, masks))
            logits = logits[:, -1].float()
            for (choice, i), row in zip(part, logits, strict=True):
                found[choice][i] = row.clone()
    return torch.stack([torch.stack([r for r in rows if r is not None]) for rows in found])


def _switches(
    view: ModelView, masks: Bool[Tensor, "row layer head"]
) -> list[tuple[str, Callable[[Tensor, Any], Tensor]]]:
    def switch(mask: Tensor) -> Callable[[Tensor, Any], Tensor]:
        factors = rearrange(mask, "row head -> row 1 head 1")
        # where, not a product: what is not finite would stay so.
        return lambda z, hook: torch.where(factors, z, torch.zeros((), dtype=z.dtype))

    return [
        (hook_names(view, layer)["z"], switch(masks[:, layer])) for layer in range(view.n_layers)
    ]
