"""observed_heads: norm, readout, attribution and attention of every head, as `studies.observe`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import einsum

from visit_tl.causal.attribution.logit_parts import split_transform
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study


@study(
    columns={
        "layer": "int64",
        "head": "int64",
        "norm": "float64",
        "rank": "float64",
        "prob": "float64",
        "attribution": "float64",
        "to_first": "float64",
        "to_previous": "float64",
        "to_own": "float64",
    },
    by=["layer", "head"],
)
def observed_heads(run: PromptRun) -> Any:
    """What a graph shows of every head at the last token.

    - `norm`, `rank`, `prob`: L2 norm of the head's output, and rank and probability of the target
      in it.
    - `attribution`: the head's share of the target's logit, as `visit_tl.causal.attribute` gives
      it.
    - `to_first`, `to_previous`, `to_own`: attention to the first token (often a BOS), to the one
      before the last, and to the last itself. In a prompt of one token there is no previous one,
      and its column is NaN.
    """
    out = yield run.read_target(run.heads)
    layers, heads = np.indices(run.heads.shape[:2])
    pattern = run.pattern
    alone = run.n_tokens == 1
    previous = torch.full_like(pattern[..., 0], torch.nan) if alone else pattern[..., -2]
    return {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "norm": torch.linalg.vector_norm(run.heads, dim=-1).flatten(),
        "rank": out.target_ranks[:, 0],
        "prob": out.target_probs[:, 0],
        "attribution": einsum(run.heads, _direction(run), "l h d, d -> l h").flatten(),
        "to_first": pattern[..., 0].flatten(),
        "to_previous": previous.flatten(),
        "to_own": pattern[..., -1].flatten(),
    }


def _direction(run: PromptRun) -> torch.Tensor:
    """The direction of the target's logit in the stream, with the final norm's scale of this run.

    The share of a part of the stream is its inner product with it (docs/maths.md, "Causes").
    """
    view, last = run.view, run.resid_post[-1]
    scale, _ = split_transform(view)
    return view.final_norm.freeze(last).transpose(scale * view.W_U[:, run.target].to(last))
