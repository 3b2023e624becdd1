"""Rotary positions: turning a memory key into the query's frame.

The model scores `(R_p q) . (R_j k)`. In the query's own frame that is `q . (R_p^T R_j k)`, so the
key that the paper's `k W_Q^T` should read is `R_p^T` times the rotated key (docs/maths.md, "Keys").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError

# Measured over SmolLM2-135M (30 layers) and random Llama, GPT-J and NeoX shapes in float32: the
# right pairing reproduces the rotated query to 3e-7, the wrong one misses it by 0.2 and more.
_SAME = 1e-2


@dataclass(frozen=True)
class Rotation:
    """The rotation of one position in one block.

    Attributes:
        cos: Cosine for each rotated dimension.
        sin: Sine for each rotated dimension.
        adjacent: Whether dimensions (2i, 2i+1) are a pair (GPT-J), or (i, i + rotary/2) (Llama).
    """

    cos: Float[Tensor, " rotary"]
    sin: Float[Tensor, " rotary"]
    adjacent: bool

    def forward(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """R x."""
        return self._turn(x, self.sin)

    def transpose(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        """R^T x, which also holds where a scaled rotary embedding makes R not orthogonal."""
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
    """The pairing of dimensions under which the model's tables turn its query as it did.

    Raises:
        ModelError: neither pairing does, so keys could not be read in the query's frame.
    """
    for adjacent in (False, True):
        rotation = Rotation(cos, sin, adjacent)
        error = (rotation.forward(query) - rotated).norm() / rotated.norm().clamp_min(1e-30)
        if error < _SAME:
            return rotation
    raise ModelError(
        f"the rotary tables of {where} do not turn hook_q into hook_rot_q in either layout of "
        f"dimensions; memory keys cannot be read in the query's frame, so this model is refused"
    )
