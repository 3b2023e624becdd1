"""Ranges of tokens as a mask: which queries see which keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def allowed(spans: Sequence[tuple[int, int]], length: int) -> Bool[Tensor, "query key"]:
    """True where a query sees a key: the key does not come later, or both are in one segment."""
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    for start, end in spans:
        mask[start:end, start:end] = True
    return mask


def additive(mask: Bool[Tensor, "*rows"], dtype: torch.dtype) -> Float[Tensor, "*rows"]:
    """A mask as numbers to add to scores: 0 where a query sees a key, else the lowest number."""
    out = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return out.masked_fill_(~mask, torch.finfo(dtype).min)
