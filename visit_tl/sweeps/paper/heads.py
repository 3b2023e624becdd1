"""Heads: what they share with the attention, the block and the final state (VISIT, section 3)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from visit_tl.sweeps.overlap import top_overlap
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study

_COLUMNS: Final = {
    "layer": "int64",
    "head": "int64",
    "attn": "float64",
    "block": "float64",
    "final": "float64",
}


def _shared_with_states(run: PromptRun, vectors: torch.Tensor, k: int) -> Any:
    """I_k of vectors `[layer, n, d_model]` with the states of their block; a part of studies."""
    wanted = (vectors, run.attn_out, run.resid_post)
    own, attn, block = yield tuple(run.top(stack, k) for stack in wanted)
    tops = own.view(*vectors.shape[:2], -1)
    return {
        "attn": top_overlap(tops, attn[:, None]),
        "block": top_overlap(tops, block[:, None]),
        "final": top_overlap(tops, block[-1]),
    }


@study(columns=_COLUMNS, by=["layer"], source="VISIT, Fig. 2b and Fig. 3", paper=True)
def heads_ov(run: PromptRun, k: int = 50) -> Any:
    """I_k of each head's output with the attention's output, the block's and the final state."""
    found = yield from _shared_with_states(run, run.heads, k)
    layers, heads = np.indices(run.heads.shape[:2])
    return {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        **{name: values.ravel() for name, values in found.items()},
    }
