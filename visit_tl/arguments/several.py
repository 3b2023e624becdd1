"""Turn an argument that may be one item or several into a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal


def integers(value: int | Iterable[int]) -> list[int]:
    """A list of integers; one integer becomes a list of one."""
    return [value] if isinstance(value, int) else list(value)


def integers_or_none(value: int | Iterable[int] | Literal["all"] | None) -> list[int] | None:
    """A list of integers; None for None and `all`, where the call itself chooses them."""
    return None if value is None or value == "all" else integers(value)


def each(value: str | int | Iterable[Any]) -> list[Any]:
    """A list of items; a text or a number becomes a list of one."""
    return [value] if isinstance(value, str | int) else list(value)
