"""Ranges of tokens as a mask: which queries see which keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def allowed(
    spans: Sequence[tuple[int, int]], length: int, first: int = 0
) -> Bool[Tensor, "query key"]:
    """True where a query sees a key: the key does not come later, or both are in one segment.

    Args:
        spans: The ranges of the segments.
        length: Number of keys.
        first: The first query.
    """
    mask = torch.ones(length - first, length, dtype=torch.bool).tril(first)
    return _with_segments(mask, spans, first)


def later(
    spans: Sequence[tuple[int, int]], length: int, first: int = 0
) -> Bool[Tensor, "query key"]:
    """True where a query sees a key that comes later. Arguments as for `allowed`."""
    mask = torch.zeros(length - first, length, dtype=torch.bool)
    return _with_segments(mask, spans, first).triu(first + 1)


def _with_segments(
    mask: Bool[Tensor, "query key"], spans: Sequence[tuple[int, int]], first: int
) -> Bool[Tensor, "query key"]:
    for start, end in spans:
        if end > first:
            mask[max(start - first, 0) : end - first, start:end] = True
    return mask


def additive(mask: Bool[Tensor, "*rows"], dtype: torch.dtype) -> Float[Tensor, "*rows"]:
    """A mask as numbers to add to scores: 0 where a query sees a key, else the lowest number."""
    out = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return out.masked_fill_(~mask, torch.finfo(dtype).min)
