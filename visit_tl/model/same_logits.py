"""Whether two runs of a model gave the same logits."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

# As a share of the largest logit. Measured on every small model of the tests in float32: runs in
# two pieces at most 5e-7, under a causal mask at most 4e-7; a lost row or mask gives 1e-2.
_SAME: Final = 1e-5
_SAME_HALF: Final = 2e-2


def error_of(found: Float[Tensor, "*rows token"], expected: Float[Tensor, "*rows token"]) -> float:
    """The largest difference, as a share of the largest expected logit; NaN if one is NaN."""
    difference = (found - expected).abs().max()
    # All logits may be 0.
    return float(difference / expected.abs().max()) if difference else 0.0


def differ(found: Float[Tensor, "*rows token"], expected: Float[Tensor, "*rows token"]) -> bool:
    """Whether logits differ by more than rounding in the dtype of those that were expected."""
    half = expected.dtype in (torch.float16, torch.bfloat16)
    return not error_of(found, expected) <= (_SAME_HALF if half else _SAME)
