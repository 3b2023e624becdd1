"""Rotary positions: rotating a memory key into the query's frame.

The model scores `(R_p q) . (R_j k)`. In the query's own frame this is `q . (R_p^T R_j k)`, so the
key for the paper's `k W_Q^T` is `R_p^T` times the rotated key (docs/maths.md, "Keys").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.replay.block_calls import BlockCalls
from visit_tl.model.view import ModelView

Angles = tuple[Tensor, Tensor]
"""Cosines and sines, `[pos, rotary]`."""

# Largest allowed error of a rotated query. Measured over SmolLM2-135M (30 layers) and seven random
# architectures in float32: the right pairing reproduces the rotated query to the bit, the wrong one
# is off by at least 0.21. Half precision rounds by about 4e-3.
_SAME = 1e-2
# Largest allowed misfit of attention. Measured over random GPT-J, NeoX and Falcon: 1e-6 in float32
# for the right pairing, at least 0.59 for the wrong one.
_PATTERN = 5e-2


@dataclass(frozen=True)
class Rotation:
    """The rotation of one position, or of several positions (one per row), in one block.

    Attributes:
        cos: Cosine for each rotated dimension.
        sin: Sine for each rotated dimension.
        adjacent: True if dimensions (2i, 2i+1) form a pair (GPT-J), False if (i, i + rotary/2) do
            (Llama).
    """

    cos: Float[Tensor, "*#rows rotary"]
    sin: Float[Tensor, "*#rows rotary"]
    adjacent: bool

    def forward(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """Apply the rotation: R x."""
        return self._turn(x, self.sin)

    def transpose(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """Apply the transpose: R^T x; also right if a scaled embedding makes R non-orthogonal."""
        return self._turn(x, -self.sin)

    def _turn(self, x: Tensor, sin: Tensor) -> Tensor:
        rotary = self.cos.shape[-1]
        turned, passed = x[..., :rotary], x[..., rotary:]
        if self.adjacent:
            half = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
        else:
            first, second = turned.chunk(2, dim=-1)
            half = torch.cat((-second, first), dim=-1)
        return torch.cat((turned * self.cos + half * sin, passed), dim=-1)


def find_rotation(
    cos: Float[Tensor, " rotary"],
    sin: Float[Tensor, " rotary"],
    query: Float[Tensor, "head d_head"],
    rotated: Float[Tensor, "head d_head"],
    where: str,
) -> Rotation:
    """The rotation with the pairing of dimensions that reproduces the model's rotated query.

    Raises:
        ModelError: neither pairing does, so keys cannot be read in the query's frame.
    """
    for adjacent in (False, True):
        rotation = Rotation(cos, sin, adjacent)
        error = (rotation.forward(query) - rotated).norm() / rotated.norm().clamp_min(1e-30)
        if error < _SAME:
            return rotation
    raise ModelError(
        f"the rotary tables of {where} do not rotate hook_q into hook_rot_q in either layout of "
        f"dimensions; memory keys cannot be read in the query's frame, so this model is refused"
    )


def find_pairing(
    tables: Sequence[Angles],
    query: Float[Tensor, "head d_head"],
    keys: Float[Tensor, "pos head d_head"],
    pattern: Float[Tensor, "head pos"],
    position: int,
    where: str,
) -> tuple[Angles, bool]:
    """The angles and the pairing of dimensions, for models without a hook of rotated queries.

    The layout of the tables gives the pairing: [a, a, b, b] means adjacent dimensions, [a, b, a, b]
    means halves. The result is checked against the model's attention, up to one scale and a
    constant per head. Attention alone would not be enough: if each head sees one key, any pairing
    fits.

    Args:
        tables: Candidates for the cosines and sines, `[pos, rotary]`; the best one is used.
        query: The queries of a position.
        keys: The keys of the positions that it sees, from the first on, one per query head.
        pattern: The model's attention to them.
        position: The position of the queries.
        where: Name of the attention, for messages.

    Returns:
        The cosines and sines, and whether adjacent dimensions form a pair.

    Raises:
        ModelError: the tables have neither layout, or do not reproduce the attention.
    """
    n = len(keys)
    found: list[tuple[float, Angles, bool]] = []
    for cos, sin in tables:
        half = cos.shape[-1] // 2
        own, other = (slice(0, None, 2), slice(1, None, 2)), (slice(half), slice(half, None))
        adjacent, halves = (
            all(torch.equal(table[:n, a], table[:n, b]) for table in (cos, sin))
            for a, b in (own, other)
        )
        if not (adjacent or halves):
            continue
        # Both hold if the pairing does not matter: at position 0 alone, or with a single pair.
        pairing = adjacent and not halves
        turned_query = Rotation(cos[position], sin[position], pairing).forward(query)
        turned_keys = Rotation(cos[:n, None], sin[:n, None], pairing).forward(keys)
        raw = torch.einsum("hd,jhd->hj", turned_query, turned_keys)
        found.append((_misfit(raw, pattern), (cos, sin), pairing))
    misfit, angles, pairing = min(found, key=lambda one: one[0], default=(1.0, None, False))
    if angles is None or not misfit <= _PATTERN:
        raise ModelError(
            f"the rotary tables of {where} do not reproduce the model's attention in either layout "
            f"of dimensions; memory keys cannot be read in the query's frame, so this model is "
            f"refused"
        )
    return angles, pairing


def _misfit(raw: Tensor, pattern: Tensor) -> float:
    """How far scores are from the logarithms of attention, for the best single scale."""
    seen = pattern > 1e-6  # smaller values are rounding errors or masked
    count = seen.sum(-1, keepdim=True).clamp_min(1)
    logs = torch.where(seen, pattern.clamp_min(1e-30).log(), 0.0)
    raw = torch.where(seen, raw, 0.0)
    logs = torch.where(seen, logs - logs.sum(-1, keepdim=True) / count, 0.0)
    raw = torch.where(seen, raw - raw.sum(-1, keepdim=True) / count, 0.0)
    scale = (raw * logs).sum() / (raw * raw).sum().clamp_min(1e-30)
    return float((scale * raw - logs).norm() / logs.norm().clamp_min(1e-6))


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
        return _spread(cos, sin)
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
        value.detach().float().reshape(-1, value.shape[-1])
        for value in arguments
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2
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
                found += [(cos, sin), *_spread(cos, sin)]
    return found


def _spread(cos: Tensor, sin: Tensor) -> list[Angles]:
    """Expand tables with one entry per pair of dimensions, to both layouts of the pairs."""
    return [
        (cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)),
        (torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)),
    ]
