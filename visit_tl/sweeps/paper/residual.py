"""The residual stream: the final prediction in it, and what attention shares with it (VISIT, D)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from visit_tl.sweeps.overlap import top_overlap
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study


@study(
    columns={"layer": "int64", "prob": "float64", "rank": "int64", "correct": "bool"},
    by=["layer", "correct"],
    source="VISIT, Fig. 14",
    paper=True,
)
def final_prob_by_layer(run: PromptRun) -> Any:
    """Probability and rank of the model's prediction in the states between blocks.

    `layer` 0 is the state that enters the first block; l + 1 is the state that leaves block l.
    `correct` says whether the prediction is the given target; without a target it is false.
    """
    states = torch.cat([run.resid_pre[:1], run.resid_post])
    targets = torch.full((len(states),), run.predicted, device=states.device)
    readout = yield run.read_target(states, targets)
    correct = run.target_given and run.predicted == run.target
    return {
        "layer": np.arange(len(states)),
        "prob": readout.target_probs[:, 0],
        "rank": readout.target_ranks[:, 0],
        "correct": np.full(len(states), correct),
    }


@study(
    columns={
        "layer": "int64",
        "resid_pre": "float64",
        "previous_resid_pre": "float64",
        "resid_mid": "float64",
        "resid_post": "float64",
        "previous_attn_out": "float64",
    },
    by=["layer"],
    source="VISIT, Fig. 15",
    paper=True,
)
def attn_vs_residual(run: PromptRun, k: int = 50) -> Any:
    """I_k of the attention's output with the residual stream and the attention before it.

    The stream is that before the block (`resid_pre`), before the block before
    (`previous_resid_pre`), after the attention (`resid_mid`) and after the block (`resid_post`);
    `previous_attn_out` is the attention's output one block before. NaN is where there is none: in
    the first block, and `resid_mid` in parallel blocks and without an MLP.
    """
    stacks = [run.attn_out, run.resid_pre, run.resid_post]
    if "resid_mid" in run.kept:
        stacks.append(run.resid_mid)
    attn, pre, post, *mid = yield tuple(run.top(stack, k) for stack in stacks)
    none = np.full(len(attn), np.nan)
    return {
        "layer": run.layers,
        "resid_pre": top_overlap(attn, pre),
        "previous_resid_pre": np.append(none[:1], top_overlap(attn[1:], pre[:-1])),
        "resid_mid": top_overlap(attn, mid[0]) if mid else none,
        "resid_post": top_overlap(attn, post),
        "previous_attn_out": np.append(none[:1], top_overlap(attn[1:], attn[:-1])),
    }
