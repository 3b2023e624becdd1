"""`roles`: what every head does on generated probes, held against probes without the structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, NameOrNames, Number, Seed
from visit_tl.errors import InputError
from visit_tl.model.view import ModelView
from visit_tl.studies.head_roles.attention import Grid, attention_scores, retrieval_scores
from visit_tl.studies.head_roles.probes import Draws
from visit_tl.studies.head_roles.result import ROLES, HeadRoles
from visit_tl.studies.head_roles.values import (
    copying_scores,
    one_token_classes,
    successor_scores,
)

_COPIED: Final = 24
"""Tokens whose values are read for `copying`; each costs a product with W_U for every head."""

Found = dict[str, tuple[Grid, Grid]]
"""By role, scores and controls."""


@checked
def roles(
    model: Model,
    *,
    only: NameOrNames = ROLES,
    probes: Count = 8,
    length: Count = 50,
    context: Count = 256,
    margin: Number = 0.1,
    prepend_bos: Flag | None = None,
    seed: Seed = 0,
    verbose: Flag = True,
) -> HeadRoles:
    """Score every head for eight roles on generated token sequences.

    The formulas are in docs/maths.md, "Roles of heads". Works with any tokenizer, and without one
    (then `successor` has no scores). All scores are shares from 0 to 1. A head has a role if its
    score is above the role's threshold: the largest score that any head has where the structure is
    broken (the control), plus a margin.

    - `previous`: mean attention to the token before, on random tokens.
    - `duplicate`, `induction`: on random tokens twice in a row, mean attention from the second half
      to the same token in the first half, or to the token after it.
    - `retrieval`: a needle of random tokens is to be copied out of a long context; the share of
      copied tokens at which the head looks most (Wu et al. 2024).
    - `copying`: share of tokens that are among the top 5 of what the head makes of them, through OV
      and the lens (Wang et al. 2022, section 3.4).
    - `successor`: share of days, months, letters and numbers whose successor is the first of all
      words of the class in what the head makes of them (after Gould et al. 2023).
    - `sink`: mean attention to the first token; `sink-free`: to all others.

    Args:
        model: As for `flow_graph`, or a `ModelView`.
        only: Roles to measure, one or several.
        probes: How many sequences of each kind.
        length: Tokens that are repeated; fewer where the context or the vocabulary is too small.
        context: Tokens of a sequence with a needle, at most the model's context.
        margin: How much a score must exceed the largest control.
        prepend_bos: Whether sequences begin with a BOS; None is the model's own default. Without
            one they begin with one more random token, and that is the first token.
        seed: Of the tokens and of the controls; the same seed gives the same numbers.
        verbose: Show a progress bar.

    Raises:
        InputError: an unknown role, or a context or vocabulary that is too small for probes.
        ModelError: the model has no attention patterns or values to look at.
    """
    from tqdm.auto import tqdm

    view = model if isinstance(model, ModelView) else ModelView(model)
    view.require_attention("roles of heads")
    if unknown := [name for name in only if name not in ROLES]:
        raise InputError(f"roles are {', '.join(ROLES)}; got {', '.join(unknown) or 'none'}")
    if not only:
        raise InputError(f"no role was asked for; there are {', '.join(ROLES)}")
    notes: list[str] = []
    found: Found = {}
    steps = [make for names, make in _STEPS.items() if set(names) & set(only)]
    for make in tqdm(steps, desc="roles of heads", disable=not verbose):
        # Each step draws anew, so that a role has the same scores whatever else is measured.
        draws = Draws(view, prepend_bos, seed)
        found |= make(view, draws, {"probes": probes, "length": length, "context": context}, notes)
    wanted = [name for name in ROLES if name in only]
    return HeadRoles(
        model=view.name,
        scores={name: found[name][0] for name in wanted},
        controls={name: found[name][1] for name in wanted},
        margin=margin,
        seed=seed,
        notes=tuple(notes),
    )


def _attention(view: ModelView, draws: Draws, sizes: dict[str, int], notes: list[str]) -> Found:
    probes = draws.repeated(sizes["probes"], sizes["length"])
    scores, control = attention_scores(view, probes, draws.random)
    if probes.half < sizes["length"]:
        notes.append(f"repeated are {probes.half} tokens: there is no room for {sizes['length']}")
    return {name: (scores[name], control[name]) for name in scores}


def _retrieval(view: ModelView, draws: Draws, sizes: dict[str, int], notes: list[str]) -> Found:
    probes = draws.needles(sizes["probes"], sizes["context"])
    if probes is None:
        notes.append("retrieval is not measured: the context has no room for a needle in hay")
        return {"retrieval": _nothing(view)}
    scores, control, copied = retrieval_scores(view, probes)
    total = probes.needles.numel()
    told = f"of {total} tokens of needles in contexts of {probes.tokens.shape[1]}"
    notes.append(
        f"retrieval: {told}, the model copied {copied}"
        if copied
        else f"retrieval is not measured: {told}, the model copied none"
    )
    return {"retrieval": (scores, control)}


def _copying(view: ModelView, draws: Draws, sizes: dict[str, int], notes: list[str]) -> Found:
    probes = draws.repeated(sizes["probes"], sizes["length"])
    n, half = len(probes.tokens), probes.half
    # Of the first half, in which no token comes twice; at least two, for the control.
    each = min(half, max(2, -(-_COPIED // n)))
    at = torch.stack(
        (
            torch.arange(n).repeat_interleave(each),
            1 + (torch.arange(each) * half // each).repeat(n),
        ),
        1,
    )
    return {"copying": copying_scores(view, probes.tokens, at, draws)}


def _successor(view: ModelView, draws: Draws, sizes: dict[str, int], notes: list[str]) -> Found:
    classes = {} if view.model.tokenizer is None else one_token_classes(view)
    if not classes:
        notes.append("successor is not measured: no class has four words of one token in a row")
        return {"successor": _nothing(view)}
    counts = ", ".join(f"{len(ids) - 1} {name}" for name, ids in classes.items())
    notes.append(f"successor: {counts}")
    return {"successor": successor_scores(view, classes, draws)}


def _nothing(view: ModelView) -> tuple[Grid, Grid]:
    grid = np.full((view.n_layers, view.n_heads), np.nan)
    return grid, grid


_Make = Callable[[ModelView, Draws, dict[str, int], list[str]], Found]
_STEPS: Final[dict[tuple[str, ...], _Make]] = {
    ("previous", "duplicate", "induction", "sink", "sink-free"): _attention,
    ("retrieval",): _retrieval,
    ("copying",): _copying,
    ("successor",): _successor,
}
