"""Tables of rotary angles: those that attention stores, and those that the model passes to it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.model.replay.block_calls import BlockCalls
from visit_tl.model.rotation import Angles
from visit_tl.model.view import ModelView

# Largest allowed change of the sum of squares of a cosine and a sine, from row to row, relative.
_SAME: Final = 1e-2


def stored_angles(attn: Any) -> list[Angles]:
    """Cosines and sines by position, `[n_ctx, rotary]`, if attention stores them; else empty."""
    inner = getattr(attn, "original_component", None)
    for holder, names in (
        (attn, ("rotary_cos", "rotary_sin")),  # HookedTransformer
        (getattr(inner, "rotary", None), ("cos_cached", "sin_cached")),  # TransformerLens's native
    ):
        cos, sin = (getattr(holder, name, None) for name in names)
        if isinstance(cos, Tensor) and isinstance(sin, Tensor):
            return [(cos.detach().float(), sin.detach().float())]
    # GPT-J before transformers 5.24: sines, then cosines, one per pair.
    table = getattr(inner, "embed_positions", None)
    if isinstance(table, Tensor):
        sin, cos = table.detach().float().chunk(2, dim=-1)
        return [(cos, sin)]
    return []


class HandedAngles:
    """The angles that the model passes to its blocks, found among their arguments.

    The search starts at the first call, since the model has to be run once for it.

    Args:
        view: The model.
        tokens: The prompt, `[1, pos]`.
    """

    def __init__(self, view: ModelView, tokens: Tensor) -> None:
        self._view, self._tokens = view, tokens
        self._calls: BlockCalls | None = None

    def __call__(self, layer: int) -> list[Angles]:
        """Candidates for the tables passed to a block, `[pos, rotary]`; empty if there are none."""
        if self._calls is None:
            self._calls = BlockCalls(self._view, self._tokens)
            with self._calls.noted(), torch.no_grad():
                self._view.model(self._tokens)
        return _pairs_in(self._calls.arguments(layer), self._tokens.shape[1])


def _pairs_in(arguments: Iterable[Any], n_tokens: int) -> list[Angles]:
    """Pairs of tensors, one row per token, that can be cosines and sines.

    In each column, the sum of their squares must be the same in all rows.
    """
    tables = [
        part.detach().float().reshape(-1, part.shape[-1])
        for value in arguments
        if isinstance(value, Tensor) and value.ndim >= 2
        # DeepSeek 2 passes both as one complex table.
        for part in ((value.real, value.imag) if value.is_complex() else (value,))
        if part.is_floating_point()
    ]
    tables = [table for table in tables if len(table) == n_tokens]
    found: list[Angles] = []
    for one, two in pairwise(tables):
        if one.shape != two.shape:
            continue
        squares = one.pow(2) + two.pow(2)
        if (squares - squares[:1]).abs().max() > _SAME * squares.abs().max():
            continue
        for cos, sin in ((one, two), (two, one)):
            # The first position's angle is 0 in every model that counts positions from 0.
            if not sin[0].any():
                found.append((cos, sin))
    return found
