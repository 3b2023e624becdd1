"""TransformerLens's own logit-lens readout, if the installed release has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Readout = Callable[[Tensor], None]


def theirs(model: Any, target: int, k: int) -> Readout | None:
    """A function that reads vectors with `transformer_lens.tools.analysis.logit_readout`.

    It calls `logit_readout` twice, since one call gives either the top tokens or the target's
    probability and rank. `logit_readout` gives no bottom tokens.

    Returns:
        The function; None if the release has no `logit_readout` (before 4.0).
    """
    try:
        from transformer_lens.tools.analysis import logit_readout
    except ImportError:
        return None

    def read(vectors: Tensor) -> None:
        logit_readout(model, vectors, top_k=k, return_type="probs")
        logit_readout(model, vectors, targets=[target], return_type="probs")

    return read
