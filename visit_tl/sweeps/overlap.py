"""I_k: how many of the top k tokens two vectors share (VISIT, section 3.2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


def top_overlap(
    one: Int[Tensor, "*#rows k"], other: Int[Tensor, "*#rows k"]
) -> Float[np.ndarray, "*#rows"]:
    """The share of the top k tokens that is in both, from 0 to 1, row by row.

    Args:
        one: Ids of the top tokens of some vectors.
        other: Those of as many others, or of shapes that broadcast.
    """
    k = one.shape[-1]
    both = (one.unsqueeze(-1) == other.unsqueeze(-2)).any(-1)
    return (both.sum(-1).double() / k).cpu().numpy()
