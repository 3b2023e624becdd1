"""Heads: what they share with the attention, the block and the final state (VISIT, section 3)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.sweeps.overlap import top_overlap
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study

_STATES: Final = {"attn": "float64", "block": "float64", "final": "float64"}
_COLUMNS: Final = {"layer": "int64", "head": "int64", **_STATES}
_TOP_COLUMNS: Final = {
    "layer": "int64",
    "rank": "int64",
    "head": "int64",
    "norm": "float64",
    **_STATES,
}


def zero_padded(
    run: PromptRun, vectors: Float[Tensor, "layer head *rows d_head"]
) -> Float[Tensor, "layer head *rows d_model"]:
    """Vectors of each head at the head's own entries of d_model, and 0 elsewhere, without W_O.

    Raises:
        InputError: the heads together are wider than d_model.
    """
    n_heads, d_head = vectors.shape[1], vectors.shape[-1]
    view = run.view
    if n_heads * d_head > view.d_model:
        raise InputError(
            f"the {n_heads} heads of {view.name} are {d_head} wide, {n_heads * d_head} together, "
            f"which does not fit into d_model, {view.d_model}; they cannot be padded with zeros "
            f"(naive=False leaves them out of k_vs_v and q_vs_k)"
        )
    padded = vectors.new_zeros(*vectors.shape[:-1], view.d_model)
    for head in range(n_heads):
        padded[:, head, ..., head * d_head : (head + 1) * d_head] = vectors[:, head]
    return padded


def cut(top: Any, n: int) -> int:
    """How many of n are kept if the first `top` are wanted.

    Raises:
        InputError: none are wanted.
    """
    if type(top) is not int or top < 1:
        raise InputError(f"top is how many are kept, at least 1, not {top!r}")
    return min(top, n)


def places(*shape: int) -> list[np.ndarray]:
    """For each axis of a stack, the index of every row of the flattened stack."""
    return [axis.ravel() for axis in np.indices(shape)]


def rows_of_stack(
    name: str, whole: Float[Tensor, "*rows n d"], place: Int[Tensor, "*rows m"]
) -> tuple[str, Int[Tensor, "*rows m"]]:
    """Where vectors that were chosen along the last axis are among the rows of their stack.

    Args:
        name: The name by which a run keeps the stack.
        whole: The stack, or another with as many rows.
        place: The chosen places along its last axis but one.
    """
    n = whole.shape[-2]
    first = torch.arange(0, whole.shape[:-1].numel(), n, device=place.device)
    return name, first.view(whole.shape[:-2]).unsqueeze(-1) + place


def _shared_with_states(
    run: PromptRun,
    vectors: Float[Tensor, "layer n d_model"],
    k: int,
    rows_of: tuple[str, Int[Tensor, "layer n"]] | None = None,
) -> Any:
    """I_k of vectors with the states of their block, row by row; a part of studies."""
    states = (run.top(stack, k) for stack in (run.attn_out, run.resid_post))
    own, attn, block = yield run.top(vectors, k, rows_of), *states
    tops = own.view(*vectors.shape[:2], -1)
    return {
        "attn": top_overlap(tops, attn[:, None]).ravel(),
        "block": top_overlap(tops, block[:, None]).ravel(),
        "final": top_overlap(tops, block[-1]).ravel(),
    }


@study(columns=_COLUMNS, by=["layer"], source="VISIT, Fig. 2a", paper=True)
def heads_naive(run: PromptRun, k: int = 50) -> Any:
    """I_k of each head before W_O with the attention's output, the block's and the final state.

    A head is put at its own entries of d_model; the others are 0.
    """
    found = yield from _shared_with_states(run, zero_padded(run, run.z), k)
    layer, head = places(*run.z.shape[:2])
    return {"layer": layer, "head": head, **found}


@study(columns=_COLUMNS, by=["layer"], source="VISIT, Fig. 2b", paper=True)
def heads_ov(run: PromptRun, k: int = 50) -> Any:
    """I_k of each head's output with the attention's output, the block's and the final state."""
    found = yield from _shared_with_states(run, run.heads, k)
    layer, head = places(*run.heads.shape[:2])
    return {"layer": layer, "head": head, **found}


def _top_heads(run: PromptRun, k: int, top: int) -> Any:
    n = cut(top, run.heads.shape[1])

    def ranked() -> tuple[Tensor, Tensor, Tensor]:
        norms = run.heads.norm(dim=-1)
        head = norms.argsort(dim=-1, descending=True, stable=True)[:, :n]
        return head, norms.gather(1, head), run.heads[torch.arange(len(head))[:, None], head]

    head, norm, vectors = run.once(("top_heads", n), ranked)
    rows = rows_of_stack("heads", run.heads, head)
    found = yield from _shared_with_states(run, vectors, k, rows)
    layer, rank = places(*head.shape)
    return {"layer": layer, "rank": rank, "head": head.ravel(), "norm": norm.ravel(), **found}


@study(columns=_TOP_COLUMNS, by=["layer", "rank"], source="VISIT, Fig. 3 and Fig. 12", paper=True)
def top_heads(run: PromptRun, k: int = 50, top: int = 3) -> Any:
    """As `heads_ov`, of the heads of each block with the largest outputs.

    Heads are ranked by the norm of `z W_O`; rank 0 is the largest, and ties go to the lower head.
    """
    return (yield from _top_heads(run, k, top))


@study(
    columns={**_TOP_COLUMNS, "random": "bool"},
    by=["layer", "random", "rank"],
    source="VISIT, Fig. 13",
    paper=True,
)
def correct_vs_random(run: PromptRun, k: int = 50, top: int = 3, seed: int = 0) -> Any:
    """As `top_heads`, of each prompt and of a prompt of random tokens.

    The random prompt is as long. Its tokens are drawn uniformly from the vocabulary by the seed and
    the prompt's index; a BOS stays.

    The paper's random prompts are others: prompts of the data set that were not chosen by whether
    the model answers them. For these, compare a sweep of the correct prompts with one of all.
    """
    other = yield run.other(random_tokens(run, seed))
    if not torch.isfinite(other.logits).all():
        raise InputError(
            f"the logits of {run.view.name} for a prompt of random tokens are not finite"
        )
    own = yield from _top_heads(run, k, top)
    drawn = yield from _top_heads(other, k, top)
    return {
        **{name: np.concatenate([own[name], drawn[name]]) for name in own},
        "random": np.repeat([False, True], len(own["layer"])),
    }


def random_tokens(run: PromptRun, seed: int) -> list[int]:
    """As many random tokens as the prompt has, the same for one seed and index; a BOS stays."""
    # RandomState's stream is the same in all releases of NumPy.
    stream = np.random.RandomState([seed, run.index])
    drawn = stream.randint(0, int(run.view.model.cfg.d_vocab), run.n_tokens).tolist()
    begins = run.view.tokens.encode(run.token_ids, None).bos_in_prompt
    return [run.token_ids[0], *drawn[1:]] if begins else drawn


@study(
    # A summary averages numbers, and so ranks, but no int64, which are places.
    columns={"layer": "int64", "head": "int64", "rank": "float64", "prob": "float64"},
    by=["layer", "head"],
    source="VISIT, Fig. 6",
    paper=True,
)
def target_by_head(run: PromptRun) -> Any:
    """Rank and probability of the target in the logit lens of each head's output.

    Rank 0 is the most probable token. Without a given target it is the model's prediction.
    """
    readout = yield run.read_target(run.heads)
    layer, head = places(*run.heads.shape[:2])
    rank, prob = readout.target_ranks[:, 0], readout.target_probs[:, 0]
    return {"layer": layer, "head": head, "rank": rank, "prob": prob}
