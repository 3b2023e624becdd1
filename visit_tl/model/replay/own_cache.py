"""Whether a model's own generation, with its key/value cache, agrees with full forward passes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.model.same_logits import error_of
from visit_tl.model.view import ModelView

NEW_TOKENS: Final = 3


def generation_error(view: ModelView, ids: Sequence[int], **options: Any) -> float:
    """How far the logits of `model.generate` are from those of full forward passes.

    A cache that loses earlier positions is detected at the second new token, which is then computed
    as if the first new token were the whole prompt.

    Args:
        view: The model.
        ids: The prompt; it and three new tokens must fit into the context.
        **options: Passed to `model.generate`.

    Returns:
        The largest difference of a logit at any of three new tokens, as a share of the largest
        logit. Errors of the model are passed on.
    """
    prompt = torch.tensor([list(ids)], device=view.W_U.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps, out = _captured(
            view.model,
            lambda: view.model.generate(
                prompt,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                stop_at_eos=False,
                verbose=False,
                **options,
            ),
        )
        worst = 0.0
        for i, step in enumerate(steps[:NEW_TOKENS]):
            so_far = out[:, : len(ids) + i]
            whole, _ = _captured(view.model, lambda so_far=so_far: view.model(so_far))
            worst = max(worst, error_of(step, whole[-1]))
    return worst


def _captured(model: Any, run: Any) -> tuple[list[Tensor], Any]:
    """The last row of logits of each forward pass in a call, and the result of the call."""
    rows: list[Tensor] = []

    def keep(module: Any, args: Any, out: Tensor) -> None:
        rows.append(out[0, -1].detach().float())

    handle = model.unembed.register_forward_hook(keep)
    try:
        return rows, run()
    finally:
        handle.remove()
