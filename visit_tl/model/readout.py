"""TransformerLens's own readout of the logit lens, where the release has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Readout = Callable[[Tensor], None]


def theirs(model: Any, target: int, k: int) -> Readout | None:
    """A call that reads vectors with `transformer_lens.tools.analysis.logit_readout`.

    It asks twice, as a caller who wants both must: for the top tokens, and for the target's
    probability and rank. Bottom tokens it does not give.

    Returns:
        None where the release has no such function (before 4.0).
    """
    try:
        from transformer_lens.tools.analysis import logit_readout
    except ImportError:
        return None

    def read(vectors: Tensor) -> None:
        logit_readout(model, vectors, top_k=k, return_type="probs")
        logit_readout(model, vectors, targets=[target], return_type="probs")

    return read
