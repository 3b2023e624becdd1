"""A row of what was measured of a family, as it is kept in docs/data."""

from __future__ import annotations

import re
from typing import Any

Row = dict[str, Any]
"""`family` and `verdict`, and where it could be opened what `measure.measured` lists."""


def is_raw(verdict: str) -> bool:
    """Whether a verdict of `vt.check` is an error that is none of ours, with its class in front."""
    return re.match(r"refused: \w+(Error|Exception|Interrupt|Iteration)\b", verdict) is not None
