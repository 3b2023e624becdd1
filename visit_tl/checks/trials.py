"""What is tried on a model besides its laws: its hooks, patched runs and `model.generate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import torch

from visit_tl.causal.patching.batched_runs import Replay
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.own_cache import NEW_TOKENS, generation_error
from visit_tl.model.replay.patch import Write
from visit_tl.model.same_logits import allowed_error
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import tolerance

# TransformerLens's names of the standard hooks of a block.
_STATES: Final = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_ATTENTION: Final = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z")
_ROTARY: Final = ("hook_rot_q", "hook_rot_k")


def missing_hooks(view: ModelView, ids: list[int]) -> tuple[str, ...]:
    """Standard hooks of the first block that are not there or do not fire."""
    wanted = [f"blocks.0.{name}" for name in _standard_hooks(view)]
    fired: set[str] = set()

    def note(name: str) -> Any:
        return lambda tensor, hook: fired.add(name)

    present = [(name, note(name)) for name in wanted if view.has_hook(name)]
    view.run(torch.tensor([ids], device=view.W_U.device), present)
    return tuple(name for name in wanted if name not in fired)


def _standard_hooks(view: ModelView) -> Iterator[str]:
    """The hooks that TransformerLens documents for a block of this kind."""
    parts = view.parts[0]
    yield from (name for name in _STATES if parts.between or name != "hook_resid_mid")
    if parts.attention:
        yield "hook_attn_out"
        yield from (f"attn.{name}" for name in _ATTENTION)
        if view.rotary:
            yield from (f"attn.{name}" for name in _ROTARY)
    if parts.mlp == "neurons":
        yield from ("mlp.hook_pre", "mlp.hook_post", "hook_mlp_out")
        if view.gated_at(0):
            yield "mlp.hook_pre_linear"
    elif parts.mlp_out not in (None, "difference"):
        yield str(parts.mlp_out)


def patching_words(view: ModelView, ids: list[int]) -> str:
    """The way in which patched runs are run, tried by patching block 0 at the last position."""
    kept = KeptRun(view, view.tokens.encode(ids, None))
    change = Write("blocks.0.hook_resid_pre", (len(ids) - 1,), torch.zeros(view.d_model))
    replay = Replay(kept, quiet=True)
    for _ in replay.run([[change]]):
        pass
    way = {
        "rows": "rows: only the positions and blocks that a change can reach are run",
        "blocks": "blocks (slow): all positions are run",
        "model": "model (slow): the whole model is run for each change",
    }[replay.way]
    return way if replay.reason is None else f"{way}, because {replay.reason}"


def generation_words(view: ModelView, ids: list[int]) -> str:
    """Compare `model.generate` with whole forward passes, and describe the result."""
    prompt = ids[: max(1, view.n_ctx - NEW_TOKENS)]
    # Runs of few rows are compared with runs of many, so the laws' tolerance alone is too small.
    allowed = max(tolerance(view), allowed_error(view.W_U.dtype))
    try:
        error = generation_error(view, prompt)
    except Exception as failed:  # not every model can generate, and each fails in its own way
        return f"not tried: model.generate failed with {type(failed).__name__}: {failed}"
    if error <= allowed:
        return f"model.generate says what the model says (off by {error:.1e})"
    remedy = "visit_tl.generate is right"
    with contextlib.suppress(Exception):
        if generation_error(view, prompt, use_past_kv_cache=False) <= allowed:
            remedy += ", and so is model.generate(..., use_past_kv_cache=False)"
    return (
        f"WRONG: model.generate is off by {error:.1e} of the largest logit, because the model's "
        f"own cache of keys and values loses earlier tokens; {remedy}"
    )
