"""Whether two runs of a model gave the same logits."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

# As a share of the largest logit. A processor multiplies few rows in another order than many, and
# how much that moves depends on both. Measured in float32: every small model of the tests at most
# 5e-7; SmolLM2-135M on ordinary words at most 3e-6, on its special tokens 2.6e-5 (one to five rows,
# AMD EPYC, family 25). A lost row or mask gives 1e-2 or more.
_SAME: Final = 3e-4
_SAME_HALF: Final = 2e-2


def error_of(found: Float[Tensor, "*rows token"], expected: Float[Tensor, "*rows token"]) -> float:
    """The largest difference, as a share of the largest expected logit; NaN if one is NaN."""
    difference = (found - expected).abs().max()
    # All logits may be 0.
    return float(difference / expected.abs().max()) if difference else 0.0


def allowed_error(dtype: torch.dtype) -> float:
    """The largest error of logits of a dtype that is put down to rounding."""
    return _SAME_HALF if dtype in (torch.float16, torch.bfloat16) else _SAME


def differ(found: Float[Tensor, "*rows token"], expected: Float[Tensor, "*rows token"]) -> bool:
    """Whether logits differ by more than rounding in the dtype of those that were expected."""
    return not error_of(found, expected) <= allowed_error(expected.dtype)
