"""What callers give as the segments of one prompt or several, held against the prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from visit_tl.errors import InputError
from visit_tl.segments.spans import Segments, listed

SegmentRule = Callable[[tuple[int, ...]], Any]
"""A function of a prompt's token ids that gives its Segments or their ranges."""


def segments_of(given: Any, token_ids: tuple[int, ...], tokens: Sequence[str] = ()) -> Segments:
    """The segments of one prompt, from what a caller gave, checked against the prompt.

    Args:
        given: Segments, ranges, or a `SegmentRule`.
        token_ids: The prompt.
        tokens: The texts of its tokens.

    Raises:
        InputError: it is none of these, or does not fit the prompt.
    """
    if callable(given) and not isinstance(given, Segments):
        given = given(token_ids)
    found = given if isinstance(given, Segments) else Segments.from_spans(given)
    found.check(len(token_ids))
    known = len(found.token_ids)
    if known and found.token_ids != token_ids[:known]:
        at = next(
            (i for i, (a, b) in enumerate(zip(found.token_ids, token_ids, strict=False)) if a != b),
            min(known, len(token_ids)),
        )
        raise InputError(
            f"these segments were made from another prompt: at position {at} it has the token "
            f"{found.token_ids[at]}, this one {token_ids[at] if at < len(token_ids) else 'none'}; "
            f"make them from this prompt, or pass their ranges alone (segments.spans)"
        )
    return Segments(found.spans, found.names, tuple(tokens), tuple(token_ids))


def segments_of_each(given: Any, n: int) -> list[Any]:
    """What a caller gave as the segments of several prompts, one entry for each.

    Args:
        given: As for `segments_of`, for all prompts; or a list with one such entry a prompt, in
            which None is causal.
        n: Number of prompts.

    Raises:
        InputError: a list has another length.
    """
    if given is None or isinstance(given, Segments) or callable(given):
        return [given] * n
    found = listed(given, "segments")
    if all(isinstance(one, tuple | list) and _is_range(one) for one in found):
        return [found] * n
    if len(found) != n:
        raise InputError(
            f"there are {n} prompts but {len(found)} entries of segments; give one for all, or one "
            f"for each"
        )
    return found


def _is_range(given: Sequence[Any]) -> bool:
    return len(given) == 2 and not any(isinstance(x, tuple | list | Segments) for x in given)
