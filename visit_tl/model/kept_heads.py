"""Runs with some heads switched off: their z is 0 at every position, as if rows of W_O were 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from visit_tl.model.hooks import hook_names
from visit_tl.model.last_logits import batches
from visit_tl.model.view import ModelView


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
    rows = [(choice, i) for i in range(len(prompts)) for choice in range(len(kept))]
    found: dict[tuple[int, int], Tensor] = {}
    for part in batches([len(prompts[i]) for _, i in rows]):
        pairs = [rows[place] for place in part]
        tokens = torch.tensor([prompts[i] for _, i in pairs], device=kept.device)
        masks = kept[[choice for choice, _ in pairs]]
        with torch.no_grad():
            logits = view.model.run_with_hooks(tokens, fwd_hooks=_switches(view, masks))
        # Copies, so that the logits of the other positions are freed.
        found |= zip(pairs, logits[:, -1].float().clone(), strict=True)
    return torch.stack(
        [
            torch.stack([found[choice, i] for i in range(len(prompts))])
            for choice in range(len(kept))
        ]
    )


def _switches(
    view: ModelView, masks: Bool[Tensor, "row layer head"]
) -> list[tuple[str, Callable[[Tensor, Any], Tensor]]]:
    view.require_attention("turning heads off")

    def switch(layer: int, mask: Tensor) -> Callable[[Tensor, Any], Tensor]:
        factors = rearrange(mask, "row head -> row 1 head 1")

        def off(z: Tensor, hook: Any) -> Tensor:
            # where, not a product: what is not finite would stay so.
            heads, none = view.by_head(layer, z), torch.zeros((), dtype=z.dtype)
            return torch.where(factors, heads, none).view(z.shape)

        return off

    return [
        (hook_names(view, layer)["z"], switch(layer, masks[:, layer]))
        for layer in range(view.n_layers)
    ]
