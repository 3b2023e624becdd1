"""Find the two names of an IOI prompt in its text, without a tokenizer."""

from __future__ import annotations

import re

_TWO_NAMES = re.compile(r"(?<!\w)([^\W\d_][\w'’-]*) and ([^\W\d_][\w'’-]*)")


def ioi_names(text: str) -> tuple[str, str] | None:
    """Find IO and S in a prompt that introduces them as "A and B" and then repeats S.

    None if no pair of words fits, or if several do, since it is then unclear which one is meant.

    Args:
        text: The clean prompt.
    """
    found: set[tuple[str, str]] = set()
    for match in _TWO_NAMES.finditer(text):
        both = match.groups()
        if not all(name[0].isupper() for name in both) or both[0] == both[1]:
            continue
        places = [[at.start() for at in _mentions(text, name)] for name in both]
        for io, s in ((0, 1), (1, 0)):
            if len(places[io]) == 1 and len(places[s]) == 2 and places[s][1] > places[io][0]:
                found.add((both[io], both[s]))
    return found.pop() if len(found) == 1 else None


def _mentions(text: str, name: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text))
