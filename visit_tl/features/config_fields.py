"""The keys of a configuration file, each with its type checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from visit_tl.arguments.words import short
from visit_tl.errors import InputError

_LONGEST: Final = 1000


class ConfigFields:
    """The keys of a configuration, each with its type checked.

    Args:
        content: The configuration.
        source: Where it is from, for messages.
    """

    def __init__(self, content: dict[str, Any], source: str) -> None:
        self.content, self.source = content, source

    def size(self, name: str) -> int:
        """A number of at least 1, which must be there."""
        value = self.content.get(name)
        if type(value) is not int or not 1 <= value < 2**31:
            raise self._wrong(name, value, "an integer of at least 1")
        return value

    def whole(
        self, name: str, default: int | None, place: Mapping[str, Any] | None = None
    ) -> int | None:
        """A number of at least 0."""
        value = (self.content if place is None else place).get(name)
        if value is None:
            return default
        if type(value) is not int or value < 0:
            raise self._wrong(name, value, "an integer of at least 0")
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number of at least 0."""
        value = self.content.get(name, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise self._wrong(name, value, "a finite number of at least 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.content.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(
        self, name: str, default: str | None, place: Mapping[str, Any] | None = None
    ) -> str | None:
        """A text."""
        value = (self.content if place is None else place).get(name)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > _LONGEST:
            raise self._wrong(name, value, f"a text of at most {_LONGEST} characters")
        return value

    def _wrong(self, name: str, value: Any, expected: str) -> InputError:
        return InputError(f"{self.source} has {name}={short(value)}, expected {expected}")
