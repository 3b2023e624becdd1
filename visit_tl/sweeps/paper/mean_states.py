"""The words of mean states before and after a norm (VISIT, Tables 1, 2 and 4), over many prompts.

These are functions and not studies: a mean needs all prompts at once, and a table of states would
have d_model columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Layers, Model, Name, PromptsLike
from visit_tl.errors import InputError
from visit_tl.lens.readout import read
from visit_tl.model.last_logits import batches
from visit_tl.model.norm import Norm
from visit_tl.model.view import ModelView
from visit_tl.sweeps.options import quarter_points
from visit_tl.sweeps.paper.norm_filter import (
    largest_changes,
    moved_rows,
    normed,
    norms_of,
    probabilities,
    top_rows,
)
from visit_tl.sweeps.prompt_run import SweptModel

if TYPE_CHECKING:
    import pandas as pd

_AFTER: Final = ("mean of norms", "norm of mean")


@checked
def mean_state_tokens(
    model: Model,
    prompts: PromptsLike,
    *,
    layers: Layers | None = None,
    norm: Name = "ln1",
    k: Count = 10,
    after: Name = "mean of norms",
    apply_norm: Flag = True,
    prepend_bos: Flag | None = None,
) -> pd.DataFrame:
    """The top tokens of the mean state at the last token, before and after a norm.

    Args:
        model: As for `flow_graph`.
        prompts: The prompts that are averaged over.
        layers: Blocks; None is the quarter points, `all` is all.
        norm: `ln1` or `ln2`.
        k: How many top tokens.
        after: `mean of norms` averages the states after the norm; `norm of mean` applies the norm
            to the mean state. VISIT does not say which.
        apply_norm: False reads without the final norm.
        prepend_bos: As for `flow_graph`.

    Returns:
        The columns of `ln_top_tokens`: layer, norm, side, rank, token_id, token, prob.

    Raises:
        InputError: no prompts, a norm that is not there or was folded, or another `after`.
    """
    import pandas as pd

    view, chosen, stacks = _means(model, prompts, layers, norm, after, prepend_bos)
    k = min(k, view.d_vocab)
    out = read(view, stacks.transpose(0, 1).flatten(0, 1), k=k, apply_norm=apply_norm)
    ids, probs = (part.view(-1, 2, k) for part in (out.top_ids, out.top_probs))
    return pd.DataFrame(top_rows(view, chosen, norm, ids, probs))


@checked
def mean_state_movers(
    model: Model,
    prompts: PromptsLike,
    *,
    layers: Layers | None = None,
    norm: Name = "ln1",
    k: Count = 10,
    after: Name = "mean of norms",
    apply_norm: Flag = True,
    prepend_bos: Flag | None = None,
) -> pd.DataFrame:
    """The tokens that lose and gain the most probability between mean states around a norm.

    Arguments and errors as for `mean_state_tokens`; the columns are those of `ln_losers`.
    """
    import pandas as pd

    view, chosen, stacks = _means(model, prompts, layers, norm, after, prepend_bos)
    probs = probabilities(view, stacks, apply_norm)
    kinds = largest_changes(probs[1] - probs[0], min(k, view.d_vocab))
    return pd.DataFrame(moved_rows(view, chosen, norm, kinds, probs))


def _means(
    model: Model,
    prompts: PromptsLike,
    layers: Layers | None,
    norm: str,
    after: str,
    prepend_bos: bool | None,
) -> tuple[ModelView, tuple[int, ...], Float[Tensor, "side layer d_model"]]:
    """The model, the blocks, and the mean states before and after the norm."""
    if after not in _AFTER:
        raise InputError(f"after is {' or '.join(map(repr, _AFTER))}, got {after!r}")
    view = ModelView(model)
    swept = SweptModel(view)
    default = quarter_points(view.n_layers)
    chosen = default if layers is None else view.check_layers(layers, gaps=True)
    ids = [view.encode(prompt, prepend_bos).ids for prompt in prompts]
    if not ids:
        raise InputError("no prompts were given; a mean needs at least one")
    total = torch.zeros(2, len(chosen), view.d_model, dtype=torch.double, device=view.W_U.device)
    norms: list[Norm] = []
    for part in batches([len(one) for one in ids]):
        runs = swept.passes([(i, ids[i], None, "") for i in part])
        states = torch.stack([run.norm_input(norm)[list(chosen)] for run in runs], 1)
        norms = norms_of(swept, norm, chosen)
        total[0] += states.sum(1)
        total[1] += normed(norms, states).sum(1)
    before, mean = (total / len(ids)).float()
    if after == "norm of mean":
        mean = normed(norms, before)
    return view, chosen, torch.stack([before, mean])
