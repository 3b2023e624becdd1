"""The named positions of an IOI prompt."""

from __future__ import annotations

from collections.abc import Sequence

from visit_tl.circuits.prompts.pair import END


def ioi_positions(ids: Sequence[int], io: int, s: int) -> dict[str, int] | None:
    """IO, S1, S1+1, S2 and END in a prompt that has IO once and S twice; else None."""
    at_io = [at for at, token in enumerate(ids) if token == io]
    at_s = [at for at, token in enumerate(ids) if token == s]
    if io == s or len(at_io) != 1 or len(at_s) != 2 or at_io[0] > at_s[1]:
        return None
    return {
        "IO": at_io[0],
        "S1": at_s[0],
        "S1+1": at_s[0] + 1,
        "S2": at_s[1],
        END: len(ids) - 1,
    }
