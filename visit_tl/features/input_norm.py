"""How SAELens normalises each input before it is encoded (docs/maths.md, "Features")."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_EPS: Final = 1e-5
"""SAELens adds it to the standard deviation when it divides, not when it multiplies again."""


def normalised(
    x: Float[Tensor, "row d_in"], norm: str
) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row 1"], Float[Tensor, "row 1"]]:
    """The normalised inputs; the scale and the shift that bring reconstructions back.

    Args:
        x: Inputs, one a row.
        norm: `none`, `layer_norm` or `constant_norm_rescale`.
    """
    one, zero = x.new_ones(len(x), 1), x.new_zeros(len(x), 1)
    if norm == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        centred = x - mean
        std = centred.std(-1, keepdim=True)
        return centred / (std + _EPS), std, mean
    if norm == "constant_norm_rescale":
        factor = x.shape[1] ** 0.5 / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * factor, 1 / factor, zero
    return x, one, zero
