"""Segments as they are typed."""

from __future__ import annotations

from visit_tl.errors import InputError


def spans(text: str) -> list[tuple[int, int]] | None:
    """The ranges of `0:8,8:15`; None of an empty text.

    Raises:
        InputError: the text is something else.
    """
    if not text.strip():
        return None
    found = []
    for part in text.split(","):
        ends = part.strip().split(":")
        if len(ends) != 2 or not all(end.isdecimal() and len(end) < 10 for end in ends):
            raise InputError(
                f"segments are ranges start:end separated by commas, such as 0:8,8:15; got {text!r}"
            )
        found.append((int(ends[0]), int(ends[1])))
    return found
