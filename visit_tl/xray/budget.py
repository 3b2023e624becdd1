"""Pruning: which heads, values and neurons to keep, by scores without readouts (A.4, A.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError

PRESETS: Final = ("default", "paper")

# The released code of the paper shows 18 of the highest and 7 of the lowest neurons.
_HIGH_SHARE: Final = 18 / 25


@dataclass(frozen=True)
class Budget:
    """How much of each block a graph keeps.

    Attributes:
        heads: Heads by the norm of their output after W_O; None keeps all.
        values: Memory values (and their keys) per head, by attention.
        high: Neurons with the highest positive scores, per matrix (W_O, MLP).
        low: Neurons with the lowest negative scores, per matrix.
        by: `contribution` scores a neuron by coefficient x row norm, `activation` by the absolute
            coefficient alone (paper, A.5) and keeps the high + low largest.
    """

    heads: int | None = 10
    values: int = 2
    high: int = 18
    low: int = 7
    by: Literal["contribution", "activation"] = "contribution"

    def as_dict(self) -> dict[str, str | int | None]:
        """The budget by name, as a graph records it."""
        return {
            "heads": self.heads,
            "values": self.values,
            "high_neurons": self.high,
            "low_neurons": self.low,
            "neurons_by": self.by,
        }


def budget(
    preset: str = "default",
    heads: int | None = None,
    values: int | None = None,
    neurons: int | Sequence[int] | None = None,
) -> Budget:
    """A preset with some of its numbers replaced.

    Args:
        preset: `default`, or `paper` for all heads and neurons by absolute activation.
        heads: Heads per block.
        values: Memory values per head.
        neurons: Neurons per matrix: (high, low), or their sum, of which 18 in 25 are high.

    Raises:
        InputError: an unknown preset or a number below 1 (0 for neurons).
    """
    if preset not in PRESETS:
        raise InputError(f"the preset {preset!r} is unknown; the presets are {', '.join(PRESETS)}")
    base = Budget() if preset == "default" else Budget(heads=None, by="activation")
    if isinstance(neurons, int):
        _at_least("neurons", neurons, 0)
        high = round(neurons * _HIGH_SHARE)
        neurons = (high, neurons - high)
    high, low = neurons if neurons is not None else (base.high, base.low)
    chosen = Budget(
        heads=base.heads if heads is None else heads,
        values=base.values if values is None else values,
        high=high,
        low=low,
        by=base.by,
    )
    if chosen.heads is not None:
        _at_least("heads", chosen.heads, 1)
    _at_least("values", chosen.values, 1)
    _at_least("neurons", min(chosen.high, chosen.low), 0)
    return chosen


def _at_least(name: str, number: int, least: int) -> None:
    if type(number) is not int or number < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {number!r}")


def keep_heads(norms: Float[Tensor, " head"], budget: Budget) -> Int[Tensor, " kept"]:
    """Indices of the heads to keep, ascending; equal norms go to the lower head."""
    count = len(norms) if budget.heads is None else budget.heads
    return highest(norms, count).sort().values


def keep_values(
    pattern: Float[Tensor, "head pos"], budget: Budget
) -> tuple[Int[Tensor, " memory"], Int[Tensor, " memory"]]:
    """For each head its highest-attended key positions, as (row of pattern, position) pairs.

    Positions that get no attention at all carry nothing and are never kept.
    """
    count = min(budget.values, pattern.shape[1])
    order = pattern.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    order = order.sort(dim=-1).values
    rows = torch.arange(len(pattern), device=pattern.device)[:, None].expand_as(order)
    rows, positions = rows.flatten(), order.flatten()
    alive = pattern[rows, positions] > 0
    return rows[alive], positions[alive]


def keep_neurons(
    coefficients: Float[Tensor, " neuron"], norms: Float[Tensor, " neuron"], budget: Budget
) -> Int[Tensor, " kept"]:
    """Indices of the neurons to keep, ascending; those that add nothing are never kept.

    Args:
        coefficients: What the forward pass multiplies each row by.
        norms: L2 norm of each row.
        budget: Which score, and how many of its highest and lowest.
    """
    if budget.by == "activation":
        size = coefficients.abs()
        kept = highest(size, budget.high + budget.low)
        return kept[size[kept] > 0].sort().values
    score = coefficients * norms
    high, low = highest(score, budget.high), highest(-score, budget.low)
    return torch.cat((high[score[high] > 0], low[score[low] < 0])).sort().values


def highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores; ties go to the lower index, on every machine."""
    candidates = torch.arange(len(scores), device=scores.device)
    if 0 < count < len(scores):
        # Sorting all scores of an MLP takes 4 x as long as first finding the few candidates.
        candidates = (scores >= scores.topk(count).values[-1]).nonzero()[:, 0]
    return candidates[scores[candidates].sort(descending=True, stable=True).indices[:count]]
