"""A rotation of queries and keys by their position, as data.

The model scores `(R_p q) . (R_j k)`. In the query's own frame this is `q . (R_p^T R_j k)`, so the
key for the paper's `k W_Q^T` is `R_p^T` times the rotated key (docs/maths.md, "Keys").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Angles = tuple[Tensor, Tensor]
"""Cosines and sines, `[pos, rotary]`."""


@dataclass(frozen=True)
class Rotation:
    """The rotation of one position, or of several positions (one per row), in one block.

    Attributes:
        cos: Cosine for each rotated dimension.
        sin: Sine for each rotated dimension; negative where a model turns the other way (nanochat).
        adjacent: True if dimensions (2i, 2i+1) form a pair (GPT-J), False if (i, i + rotary/2) do
            (Llama).
        last: Whether the last dimensions of a head are rotated (latent attention) instead of the
            first.
    """

    cos: Float[Tensor, "*#rows rotary"]
    sin: Float[Tensor, "*#rows rotary"]
    adjacent: bool
    last: bool = False

    def forward(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """Apply the rotation: R x."""
        return self._turn(x, self.cos, self.sin)

    def transpose(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """Apply the transpose: R^T x; also right if a scaled embedding makes R non-orthogonal."""
        return self._turn(x, self.cos, -self.sin)

    def inverse(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """Undo the rotation: R^-1 x; the transpose, unless the embedding is scaled."""
        size = self.cos.pow(2) + self.sin.pow(2)
        return self._turn(x, self.cos / size, -self.sin / size)

    def inverse_transpose(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """Undo the transpose: R^-T x."""
        size = self.cos.pow(2) + self.sin.pow(2)
        return self._turn(x, self.cos / size, self.sin / size)

    def double(self) -> Rotation:
        """The same rotation in float64."""
        return Rotation(self.cos.double(), self.sin.double(), self.adjacent, self.last)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rotary = cos.shape[-1]
        start = x.shape[-1] - rotary if self.last else 0
        before, turned, after = x.split((start, rotary, x.shape[-1] - start - rotary), dim=-1)
        if self.adjacent:
            half = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
        else:
            first, second = turned.chunk(2, dim=-1)
            half = torch.cat((-second, first), dim=-1)
        return torch.cat((before, turned * cos + half * sin, after), dim=-1)
