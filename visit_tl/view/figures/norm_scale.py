"""One scale for the norms of a figure: linear, or logarithmic where they span decades."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

_SPAN: Final = 30
"""From this ratio of the largest to the smallest norm on, a linear scale hides the smaller ones."""
_DEEPEST: Final = 1e-4
"""Smaller norms, as a share of the largest, all have the lowest place."""
_MARKS: Final = 4
"""The least number of marks on a logarithmic scale, where round numbers give as many."""


@dataclass(frozen=True)
class NormScale:
    """Where norms stand on a scale from `low` to `high`.

    Attributes:
        low: The norm at the lowest place; on a logarithmic scale smaller ones, 0 too, are there.
        high: The norm at the highest place.
        logarithmic: Whether places are logarithms.
    """

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, norms: Float[np.ndarray, " *shape"]) -> NormScale:
        """The scale of some norms; zeros do not count."""
        above = norms[np.isfinite(norms) & (norms > 0)].astype(float)
        if not above.size:
            return cls(0.0, 1.0, False)
        low, high = float(above.min()), float(above.max())
        if high < _SPAN * low:
            return cls(0.0, high, False)
        return cls(max(low, high * _DEEPEST), high, True)

    def number(self, norm: float) -> float:
        """The number that is drawn for a norm: itself, or its decimal logarithm."""
        return math.log10(max(norm, self.low)) if self.logarithmic else norm

    def share(self, norm: float) -> float:
        """The place of a norm, from 0 to 1."""
        low, high = self.number(self.low), self.number(self.high)
        return min(max((self.number(norm) - low) / (high - low), 0.0), 1.0)

    @property
    def ends(self) -> tuple[float, float]:
        """The numbers at both ends."""
        return self.number(self.low), self.number(self.high)

    @property
    def words(self) -> str:
        """What is to be said after the name of the norm."""
        return ", logarithmic" if self.logarithmic else ""

    def marks(self) -> dict[str, Any]:
        """Ticks at round norms, as options of a Plotly axis or colour bar."""
        if not self.logarithmic:
            return {"nticks": 6}
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5)):
            found = [d * 10.0**p for p in powers for d in digits]
            found = [norm for norm in found if self.low <= norm <= self.high]
            if len(found) >= _MARKS:
                break
        return {
            "tickmode": "array",
            "tickvals": [self.number(norm) for norm in found],
            "ticktext": [f"{norm:g}" for norm in found],
        }
