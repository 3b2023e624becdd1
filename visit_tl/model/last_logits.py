"""The logits after the last token of many prompts, run in batches of equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.model.view import ModelView

_TOKENS_AT_ONCE = 2048


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of prompts that are run together: of one length, and not too many tokens in all."""
    by_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_length.setdefault(length, []).append(i)
    for length, places in by_length.items():
        size = max(1, _TOKENS_AT_ONCE // length)
        yield from (places[start : start + size] for start in range(0, len(places), size))


def last_logits(
    view: ModelView, prompts: Sequence[tuple[int, ...]]
) -> Float[Tensor, "prompt d_vocab"]:
    """The logits at the last position of each prompt, float32; hooks on the model fire.

    Args:
        view: The model.
        prompts: Token ids. Prompts of one length are run together, without padding.
    """
    found: dict[int, Tensor] = {}
    for part in batches([len(ids) for ids in prompts]):
        tokens = torch.tensor([prompts[i] for i in part], device=view.W_U.device)
        with torch.no_grad():
            logits = view.model(tokens)
        # Copies, so that the logits of the other positions are freed.
        found |= zip(part, logits[:, -1].float().clone(), strict=True)
    return torch.stack([found[i] for i in range(len(prompts))])
