"""Attention patterns of some heads, over all positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


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
