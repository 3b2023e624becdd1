"""Gradients in numbers: norms and ranks of `backward_lens`, norms of `reversed_attention`.

Each runs the model forward and backward once more for every prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from visit_tl.gradients.attention_gradients import reversed_maps
from visit_tl.gradients.lens_of_gradients import backward_lens
from visit_tl.gradients.loss import Loss
from visit_tl.model.backward import MATRICES
from visit_tl.model.tokens import Prompt
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study


@study(
    columns={
        "layer": "int64",
        "matrix": "string",
        "norm": "float64",
        "input_norm": "float64",
        "rank": "float64",
    },
    by=["layer", "matrix"],
    source="Backward Lens, Fig. 5 and Fig. 6",
)
def backward_lens_summary(
    run: PromptRun, matrices: str | None = None, normalise: bool = True
) -> Any:
    """Norms and rank of the target in the gradient of every matrix, at the last token.

    - `norm`, `input_norm`: of the VJP and of the input of the matrix, before any normalisation.
    - `rank`: of the target in the one of them that is read as words; NaN where that is 0.

    The loss is `-log p(target)` at the last token.

    Args:
        run: The run.
        matrices: Matrices, such as `W_in,W_out`; None is all that the model has.
        normalise: Divide vectors by their norm before the lens.
    """
    lens = backward_lens(
        run.view.model,
        list(run.token_ids),
        run.target,
        matrices=MATRICES if matrices is None else matrices.split(","),
        positions=-1,
        normalise=normalise,
        k=1,
        check="none",
    )
    ranks = np.stack([found.ranks[:, 0] for found in lens.matrices.values()], 1).astype(float)
    return {
        "layer": np.repeat(lens.layers, len(lens.matrices)),
        "matrix": list(lens.matrices) * len(lens.layers),
        "norm": np.stack([found.norms[:, 0] for found in lens.matrices.values()], 1).ravel(),
        "input_norm": np.stack(
            [found.input_norms[:, 0] for found in lens.matrices.values()], 1
        ).ravel(),
        "rank": np.where(ranks < 0, np.nan, ranks).ravel(),
    }


@study(
    columns={
        "layer": "int64",
        "head": "int64",
        "norm": "float64",
        "forward_norm": "float64",
    },
    by=["layer", "head"],
    source="Reversed Attention, section 5",
)
def reversed_attention_summary(run: PromptRun) -> Any:
    """The Frobenius norm of the reversed attention of every head, and of its attention.

    The loss is `-log p(target)` at the last token.
    """
    prompt = Prompt(run.text, run.token_ids, False)
    loss = Loss.of(run.view, prompt, run.target, -1)
    found = reversed_maps(run.view, prompt, loss, tuple(range(run.view.n_layers)))
    layers, heads = np.indices(found.norms.shape)
    return {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "norm": found.norms.ravel(),
        "forward_norm": found.forward_norms.ravel(),
    }
