"""Roles by where heads look: previous, duplicate, induction, sink, and retrieval."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.model.probe_runs import parts, run_probes
from visit_tl.model.view import ModelView
from visit_tl.studies.head_roles.probes import Needles, Repeated

Grid = Float[np.ndarray, "layer head"]

Pairs = dict[str, tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]]
"""By name, queries and the key that each is to look at."""


def mean_attention(
    view: ModelView, tokens: Int[Tensor, "sequence pos"], pairs: Pairs
) -> dict[str, Grid]:
    """The mean attention of every head from queries to keys, over all pairs and sequences."""
    sums = {name: torch.zeros(view.n_layers, view.n_heads).double() for name in pairs}

    def see(layer: int, pattern: Tensor) -> None:
        for name, (queries, keys) in pairs.items():
            at = pattern[:, :, queries.to(pattern.device), keys.to(pattern.device)]
            sums[name][layer] += reduce(at.double(), "s h pair -> h", "sum").cpu()

    for part in parts(tokens):
        run_probes(view, part, patterns=see)
    n = len(tokens)
    return {name: (sums[name] / (n * len(pairs[name][0]))).numpy() for name in pairs}


def repeated_pairs(half: int) -> Pairs:
    """Where a duplicate-token and an induction head look, in the second half of the repetition."""
    queries = torch.arange(half + 1, 2 * half + 1)
    return {"duplicate": (queries, queries - half), "induction": (queries, queries - half + 1)}


def plain_pairs(length: int, random: torch.Generator) -> Pairs:
    """Where heads look in any sequence: at the previous token, the first one, and another one.

    Args:
        length: Tokens of a sequence.
        random: Draws for each query an earlier key that is neither the first nor the previous one.
    """
    queries = torch.arange(3, length)
    share = torch.rand(len(queries), generator=random)
    others = 1 + (share * (queries - 2)).long()
    return {
        "previous": (queries, queries - 1),
        "sink": (queries, torch.zeros_like(queries)),
        "other": (queries, others),
    }


def attention_scores(
    view: ModelView, probes: Repeated, random: torch.Generator
) -> tuple[dict[str, Grid], dict[str, Grid]]:
    """The scores and their controls, by role (docs/maths.md, "Roles of heads")."""
    own = repeated_pairs(probes.half)
    plain = plain_pairs(probes.broken.shape[1], random)
    found = mean_attention(view, probes.tokens, own)
    broken = mean_attention(view, probes.broken, own | plain)
    queries = plain["sink"][0].double()
    # What a head that attends equally to all tokens would give to the first one.
    equal = np.full((view.n_layers, view.n_heads), float((1 / (queries + 1)).mean()))
    scores = found | {
        "previous": broken["previous"],
        "sink": broken["sink"],
        "sink-free": 1 - broken["sink"],
    }
    control = {name: broken[name] for name in own} | {
        "previous": broken["other"],
        "sink": broken["other"],
        "sink-free": 1 - equal,
    }
    return scores, control


def retrieval_scores(view: ModelView, probes: Needles) -> tuple[Grid, Grid, int]:
    """The share of copied tokens at which a head looks most, the control, and how many are copied.

    A token is copied if the model predicts it; a head retrieves it if no key has more of its
    attention than that token in the needle (Wu et al. 2024). NaN where nothing is copied.
    """
    hits = torch.zeros(2, view.n_layers, view.n_heads)
    copied = 0
    for rows in _parts_of(probes):
        most: dict[int, Tensor] = {}

        def see(layer: int, pattern: Tensor, most: dict[int, Tensor] = most) -> None:
            most[layer] = pattern[:, :, probes.queries.to(pattern.device)].argmax(-1).cpu()

        logits = run_probes(view, probes.tokens[rows], patterns=see)
        said = logits[:, probes.queries.to(logits.device)].argmax(-1).cpu()
        right = said == probes.needles[rows]
        copied += int(right.sum())
        for layer, keys in most.items():
            for i, wanted in enumerate((probes.at[rows], probes.others[rows])):
                found = (keys == wanted[:, None]) & right[:, None]
                hits[i, layer] += reduce(found.float(), "s h needle -> h", "sum")
    shares = (hits / copied).double().numpy() if copied else np.full(hits.shape, np.nan)
    return shares[0], shares[1], copied


def _parts_of(probes: Needles) -> Iterable[Tensor]:
    rows = torch.arange(len(probes.tokens))
    size = len(next(parts(probes.tokens)))
    return rows.split(size)
