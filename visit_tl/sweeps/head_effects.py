"""head_effects: what ablating each head at the last token does, as `visit_tl.causal.effects`."""

from __future__ import annotations

from typing import Any

import numpy as np

from visit_tl.causal.metrics import evaluate, log_probability
from visit_tl.causal.patching.batched_runs import Replay
from visit_tl.causal.patching.replacements import Patcher
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.tokens import Prompt
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study


@study(
    columns={"layer": "int64", "head": "int64", "effect": "float64"},
    by=["layer", "head"],
)
def head_effects(run: PromptRun, how: str = "zero") -> Any:
    """The change of the target's log-probability when one head is ablated at the last token.

    In nats; below 0 where the head helps. The model runs again: once, and then the blocks from each
    head on, many heads at a time.

    Args:
        run: The run.
        how: `zero`, or `mean`: the mean of the head's z over the tokens of this prompt. (The mean
            over prompts, as of `effects`, would need others of the same length.)
    """
    if how not in ("zero", "mean"):
        raise InputError(f"how is 'zero' or 'mean', got {how!r}")
    view, last = run.view, run.n_tokens - 1
    view.require_attention("ablating every head")
    hooks = [slots["z"] for slots in run.swept.hooks]
    positions = range(run.n_tokens) if how == "mean" else (last,)
    clean = KeptRun(
        view, Prompt(run.text, run.token_ids, False), dict.fromkeys(hooks, "row"), positions
    )
    means = {name: z.mean(0, keepdim=True).expand_as(z) for name, z in clean.kept.items()}
    patcher = Patcher(clean, means if how == "mean" else None)
    grid = np.zeros((view.n_layers, view.n_heads))
    heads = list(np.ndindex(grid.shape))
    writes = [patcher.writes(NodeId("head", *head), [last]) for head in heads]
    metric = log_probability(run.target)
    before = evaluate(metric, clean.logits)
    for i, logits in Replay(clean).run(writes):
        grid[heads[i]] = evaluate(metric, logits) - before
    layers, columns = np.indices(grid.shape)
    return {"layer": layers.ravel(), "head": columns.ravel(), "effect": grid.ravel()}
