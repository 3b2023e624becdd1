"""Numbers as a page holds them: so many significant digits, a whole number where they make one."""

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
"""From here on a whole number is written as a float."""


def short(value: float | None, digits: int = 3) -> float | int | None:
    """A number of so many significant digits; None for what is missing or no number."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    # The largest floats round up to infinity.
    rounded = rounded if math.isfinite(rounded) else value
    return int(rounded) if rounded.is_integer() and abs(rounded) < _WHOLE else rounded


def shorts(values: Sequence[float | None], digits: int = 3) -> list[float | int | None]:
    """`short` of each of many numbers, a fifth of the time.

    A number is scaled to an integer of so many digits; the quotient of two integers that floats
    hold exactly is the float nearest to the decimal. What is near a tie, or outside the powers of
    ten that floats hold, is rounded by its decimals.
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
