"""Memory values: which of them have the meaning of their head (VISIT, section 3.3 and D.2)."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.sweeps.overlap import top_overlap
from visit_tl.sweeps.paper.heads import cut, places, rows_of_stack
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study

_COLUMNS: Final = {
    "layer": "int64",
    "head": "int64",
    "rank": "int64",
    "position": "int64",
    "head_overlap": "float64",
    "attention": "float64",
}


def _ranked(run: PromptRun, rank_by: str, top: int) -> tuple[Tensor, Tensor]:
    """The positions of the first memory values of each head, and what they are in the stream."""
    if rank_by == "norm":
        whole = _memories(run)
        order = whole.norm(dim=-1).argsort(dim=-1, descending=True, stable=True)[..., :top]
        return order, whole.take_along_dim(order[..., None], 2)
    order = run.pattern.argsort(dim=-1, descending=True, stable=True)[..., :top]
    return order, run.written(run.values.take_along_dim(order[..., None], 2))


def _memories(run: PromptRun) -> Tensor:
    return run.once("memories", lambda: run.written(run.values))


def _with_their_head(run: PromptRun, k: int, top: int, rank_by: str) -> Any:
    """Rows of `_COLUMNS`; a part of studies."""
    if rank_by not in ("attention", "norm"):
        raise InputError(f"memory values are ranked by attention or norm, not by {rank_by!r}")
    n = cut(top, run.n_tokens)
    name = ("ranked memories", rank_by, n)
    position, vectors = run.once(name, lambda: _ranked(run, rank_by, n))
    rows = rows_of_stack("memories", run.values, position)
    own, heads = yield run.top(vectors, k, rows), run.top(run.heads, k)
    tops = own.view(*position.shape, -1)
    layer, head, rank = places(*position.shape)
    return {
        "layer": layer,
        "head": head,
        "rank": rank,
        "position": position.ravel(),
        "head_overlap": top_overlap(tops, heads.view(*position.shape[:2], 1, -1)).ravel(),
        "attention": run.pattern.take_along_dim(position, 2).ravel(),
    }


@study(columns=_COLUMNS, by=["layer", "rank"], source="VISIT, Fig. 5", paper=True)
def memory_values_top3(run: PromptRun, k: int = 50, top: int = 3) -> Any:
    """I_k of each head's output with its memory values of highest attention.

    Rank 0 has the highest attention of the last token; ties go to the lower position. A token
    outside a window has attention 0 and the last ranks.
    """
    return (yield from _with_their_head(run, k, top, "attention"))


@study(columns=_COLUMNS, by=["layer", "rank"], source="VISIT, Fig. 16", paper=True)
def memory_values_all(
    run: PromptRun, k: int = 50, top: int = 14, rank_by: str = "attention"
) -> Any:
    """As `memory_values_top3`, of all memory values, up to 14 ranks.

    The paper's caption ranks by norm, the name of its figure's file by attention. The norm is that
    of the memory value in the stream, `v W_O`, without its attention.
    """
    return (yield from _with_their_head(run, k, top, rank_by))


@study(columns=_COLUMNS, by=["layer", "head"], source="VISIT, Fig. 17", paper=True)
def memory_values_by_head(run: PromptRun, k: int = 50, top: int = 3) -> Any:
    """The rows of `memory_values_top3`, summarised by head."""
    return (yield from _with_their_head(run, k, top, "attention"))


@study(
    columns={"layer": "int64", "head": "int64", "position": "int64", "prob": "float64"},
    by=["layer"],
    source="VISIT, Fig. 18",
    paper=True,
)
def input_token_prob(run: PromptRun) -> Any:
    """Probability of a memory value's own token, the input at its position, in its logit lens."""
    vectors = _memories(run)
    tokens = torch.tensor(run.token_ids, device=vectors.device)
    readout = yield run.read_target(vectors, targets=tokens.expand(vectors.shape[:-1]))
    layer, head, position = places(*vectors.shape[:-1])
    prob = readout.target_probs[:, 0]
    return {"layer": layer, "head": head, "position": position, "prob": prob}
