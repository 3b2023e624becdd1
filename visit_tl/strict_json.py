"""A strict JSON parser: no NaN, no repeated key in an object, one type of error for all faults."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """Parse a JSON text strictly.

    Raises:
        ValueError: the text is not JSON, is cut off or nested too deep, or has NaN, an infinity, a
            repeated key in an object or an integer too long to read.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_each_key_once)
    except RecursionError as error:
        raise ValueError(f"it is nested too deep: {error}") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return found
