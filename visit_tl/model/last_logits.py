"""The logits after the last token of many prompts, run in batches of equal length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.model.view import ModelView

_TOKENS_AT_ONCE = 2048


def last_logits(
    view: ModelView, prompts: Sequence[tuple[int, ...]]
) -> Float[Tensor, "prompt d_vocab"]:
    """The logits at the last position of each prompt, float32; hooks on the model fire.

    Args:
        view: The model.
        prompts: Token ids. Prompts of one length are run together, without padding.
    """
    found: dict[int, Tensor] = {}
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(i)
    for length, places in by_length.items():
        size = max(1, _TOKENS_AT_ONCE // length)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            tokens = torch.tensor([prompts[i] for i in part], device=view.W_U.device)
            with torch.no_grad():
                logits = view.model(tokens)[:, -1].float()
            found |= dict(zip(part, logits, strict=True))
    return torch.stack([found[i] for i in range(len(prompts))])
