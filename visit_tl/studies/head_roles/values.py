"""Roles by what the values of heads say: copying, and the successor of a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.lens.top_tokens import top_ids
from visit_tl.lens.unembed import untransformed
from visit_tl.model.probe_runs import parts, run_probes
from visit_tl.model.view import ModelView
from visit_tl.studies.head_roles.probes import Draws

Grid = Float[np.ndarray, "layer head"]

TOP: Final = 5
"""A token is copied if it is among so many (Wang et al. 2022, section 3.4)."""

_ROWS: Final = 4096
"""Vectors that are read together."""

CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "digits": tuple("0123456789"),
    "numbers": (
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    "ordinals": (
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
        "sixth",
        "seventh",
        "eighth",
        "ninth",
        "tenth",
    ),
    "days": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "months": (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}
"""Words in their order; the last of a class has no successor."""

_LEAST: Final = 3
"""A class counts if so many words of it, each with its successor, are one token."""


def values_of(
    view: ModelView, tokens: Int[Tensor, "sequence pos"], at: Int[Tensor, "row 2"]
) -> list[Float[Tensor, "row kv_head d_head"]]:
    """The values of each block at some places (sequence, position), from the run."""
    found: list[list[Tensor]] = [[] for _ in range(view.n_layers)]
    start = 0
    for part in parts(tokens):
        here = at[(at[:, 0] >= start) & (at[:, 0] < start + len(part))]

        def see(layer: int, values: Tensor, here: Tensor = here, start: int = start) -> None:
            found[layer].append(values[here[:, 0] - start, here[:, 1]].clone())

        run_probes(view, part, values=see)
        start += len(part)
    return [torch.cat(each) for each in found]


def outputs_of(
    view: ModelView, layer: int, values: Float[Tensor, "row kv_head d_head"]
) -> Float[Tensor, "head row d_model"]:
    """What every head adds at attention 1 to each value, after the gain of a post-norm.

    The post-norm's scale is left out: the lens normalises, so it changes no order of tokens.
    """
    W_O = view.weights(layer).W_O
    each = values[:, view.kv_head(values.shape[1]).to(values.device)]
    if (inner := view.heads_norm(layer)) is not None and inner.weight is not None:
        each = each * inner.weight.view(each.shape[1:])
    after = view.norm(layer, "ln1_post")
    out = einsum(each, W_O, "row head d_head, head d_head d_model -> head row d_model")
    if after.kind == "LN":
        out = out - out.mean(-1, keepdim=True)
    return out if after.weight is None else out * after.weight


def copying_scores(
    view: ModelView,
    tokens: Int[Tensor, "sequence pos"],
    at: Int[Tensor, "row 2"],
    draws: Draws,
) -> tuple[Grid, Grid]:
    """The share of tokens that a head's value of the token says, and the same of other tokens.

    Args:
        view: The model.
        tokens: The sequences.
        at: Places (sequence, position) of the tokens, ordered by sequence.
        draws: Draws which other token each is held against.
    """
    own = tokens[at[:, 0], at[:, 1]]
    other = own[draws.derangement(len(own))]
    grids = np.zeros((2, view.n_layers, view.n_heads))
    k = min(TOP, view.d_vocab)
    for layer, values in enumerate(values_of(view, tokens, at)):
        rows = rearrange(outputs_of(view, layer, values), "head row d -> (head row) d")
        said = torch.cat([top_ids(view, part, k).cpu() for part in rows.split(_ROWS)])
        said = said.view(view.n_heads, len(own), k)
        for i, wanted in enumerate((own, other)):
            grids[i, layer] = (said == wanted[:, None]).any(-1).double().mean(-1).numpy()
    return grids[0], grids[1]


def one_token_classes(view: ModelView) -> dict[str, list[int]]:
    """By class, the ids of the longest run of its words that are one token each, with a space."""
    found: dict[str, list[int]] = {}
    for name, words in CLASSES.items():
        longest: list[int] = []
        current: list[int] = []
        for word in words:
            token = _single(view, word)
            current = [] if token is None else [*current, token]
            longest = max(longest, current, key=len)
        if len(longest) > _LEAST and len(set(longest)) == len(longest):
            found[name] = longest
    return found


def _single(view: ModelView, word: str) -> int | None:
    """The id of a word, after a space if that is one token, else without; None if it is not one."""
    for text in (f" {word}", word):
        ids = view.tokens.split(text)
        if len(ids) == 1:
            return ids[0]
    return None


def successor_scores(
    view: ModelView, classes: dict[str, list[int]], draws: Draws
) -> tuple[Grid, Grid]:
    """The share of words whose successor a head says first of all words of the class.

    Args:
        view: The model.
        classes: From `one_token_classes`; at least one.
        draws: Draws the orders of words that the control holds for successors.
    """
    grids = np.zeros((2, view.n_layers, view.n_heads))
    total = sum(len(ids) - 1 for ids in classes.values())
    for ids in classes.values():
        tokens = draws.words(ids[:-1])
        at = torch.stack((torch.arange(len(tokens)), torch.ones(len(tokens)).long()), 1)
        right = torch.arange(1, len(ids))
        wrong = right[draws.derangement(len(right))]
        for layer, values in enumerate(values_of(view, tokens, at)):
            said = _said(view, outputs_of(view, layer, values), ids)
            for i, wanted in enumerate((right, wrong)):
                grids[i, layer] += (said == wanted).double().sum(-1).numpy() / total
    return grids[0], grids[1]


def _said(
    view: ModelView, outputs: Float[Tensor, "head row d_model"], ids: Sequence[int]
) -> Int[Tensor, "head row"]:
    """For each vector, the place in `ids` of the token with the highest logit of these."""
    rows = view.final_norm(rearrange(outputs, "head row d -> (head row) d"))
    logits = untransformed(view, rows, torch.tensor(ids, device=view.W_U.device))
    return logits.argmax(-1).view(outputs.shape[:2]).cpu()
