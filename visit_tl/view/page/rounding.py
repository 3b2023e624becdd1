"""Round numbers for the page: to a few significant digits, and to integers where they are whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

_FEW: Final = 64
"""Up to this many numbers are rounded one by one."""

_POWERS: Final = np.array([float(10**k) for k in range(23)])
"""The powers of ten that a float holds exactly."""

_WHOLE: Final = 1e6
"""Whole numbers of this size or more are written as floats."""


def short(value: float | None, digits: int = 3) -> float | int | None:
    """Round to `digits` significant digits; None for a missing or non-finite value."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    # The largest floats round up to infinity.
    rounded = rounded if math.isfinite(rounded) else value
    return int(rounded) if rounded.is_integer() and abs(rounded) < _WHOLE else rounded


def shorts(values: Sequence[float | None], digits: int = 3) -> list[float | int | None]:
    """Apply `short` to many numbers, in a fifth of the time.

    A number is scaled to an integer of `digits` digits and divided by a power of ten. Floats hold
    both exactly, so the quotient is the float nearest to the decimal number. Values near a tie, or
    beyond the exact powers of ten, are rounded one by one with `short`.
    """
    if len(values) <= _FEW:
        return [short(value, digits) for value in values]
    given = np.array(values, dtype=np.float64)
    with np.errstate(all="ignore"):
        size = np.abs(given)
        power = digits - 1 - np.floor(np.log10(size))
        clear = np.isfinite(power) & (np.abs(power) < len(_POWERS))
        by = _POWERS[np.abs(np.where(clear, power, 0)).astype(np.intp)]
        scaled = np.where(power >= 0, size * by, size / by)
        whole = np.rint(scaled)
        clear &= np.abs(scaled - np.floor(scaled) - 0.5) > 1e-6
        clear &= (whole >= 10 ** (digits - 1)) & (whole <= 10**digits)
        rounded = np.copysign(np.where(power >= 0, whole / by, whole * by), given)
    clear |= given == 0
    rounded[given == 0] = 0.0
    found: list[float | int | None] = rounded.tolist()
    for i in np.flatnonzero((rounded == np.rint(rounded)) & (np.abs(rounded) < _WHOLE)).tolist():
        found[i] = int(rounded[i])
    for i in np.flatnonzero(~clear).tolist():
        found[i] = short(values[i], digits)
    return found
