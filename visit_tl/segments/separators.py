"""Blocks of a prompt that end with separators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visit_tl.arguments.words import short
from visit_tl.errors import InputError


def blocks_between(
    ids: Sequence[int], texts: Sequence[str], separators: Any
) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of tokens, each ending with a separator.

    Args:
        ids: The tokens.
        texts: Their texts; empty if unknown.
        separators: A text, a token id, a tuple of token ids, or a list of these.

    Raises:
        InputError: there is none of them in the prompt, or a text without the tokens' texts.
    """
    several = isinstance(separators, list | set | frozenset)
    ends: set[int] = set()
    for separator in separators if several else [separators]:
        ends |= (
            _text_ends(texts, separator) if isinstance(separator, str) else _ends(ids, separator)
        )
    if not ends:
        raise InputError(f"the separator {short(separators)} is nowhere in the prompt")
    starts = [0, *sorted(ends)[:-1]]
    return tuple(zip(starts, sorted(ends), strict=True))


def _ends(ids: Sequence[int], separator: Any) -> set[int]:
    """One past the last token of each place where some ids stand."""
    wanted = tuple(separator) if isinstance(separator, tuple) else (separator,)
    if not wanted or not all(isinstance(i, int) and not isinstance(i, bool) for i in wanted):
        raise InputError(
            f"a separator is a text, a token id or a tuple of token ids, got {short(separator)}"
        )
    n = len(wanted)
    return {i + n for i in range(len(ids) - n + 1) if tuple(ids[i : i + n]) == wanted}


def _text_ends(texts: Sequence[str], separator: str) -> set[int]:
    """One past the token in which each occurrence of a text ends."""
    if not texts:
        raise InputError(
            f"the separator {separator!r} is a text; pass tokenizer=, so that the tokens can be "
            f"read, or give its token ids"
        )
    if not separator:
        raise InputError("a separator is empty; every token would end a segment")
    found, whole, past = set(), "".join(texts), 0
    at = whole.find(separator)
    token = 0
    while at >= 0:
        last = at + len(separator) - 1
        while past + len(texts[token]) <= last:
            past += len(texts[token])
            token += 1
        found.add(token + 1)
        at = whole.find(separator, last + 1)
    return found
