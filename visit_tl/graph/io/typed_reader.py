"""Read typed values from untrusted JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from visit_tl.errors import GraphError

_T = TypeVar("_T")


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


class TypedReader:
    """Reads typed values from untrusted JSON; its errors name the place of a wrong one."""

    def __init__(self, data: object, where: str) -> None:
        self._data, self._where = data, where

    def get(self, key: str) -> object:
        """The value of a key, whatever it is."""
        if not isinstance(self._data, Mapping):
            raise GraphError(f"{self._where} is {type(self._data).__name__}, not an object")
        if key not in self._data:
            raise GraphError(f"{self._where} has no {key!r}")
        return self._data[key]

    def has(self, key: str) -> bool:
        """Whether there is such a key, for fields that are left out if they are empty."""
        return isinstance(self._data, Mapping) and key in self._data

    def text(self, key: str) -> str:
        """A string."""
        return self._typed(key, self.get(key), str)

    def boolean(self, key: str) -> bool:
        """True or False."""
        return self._typed(key, self.get(key), bool)

    def integer(self, key: str) -> int:
        """An integer of at least 0."""
        value = self._typed(key, self.get(key), int)
        if value < 0:
            raise GraphError(f"{self._where}: {key!r} is {value}, below 0")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise GraphError(f"{self._where}: {key!r} is {value!r}, not a finite number")
        return float(value)

    def length(self, key: str) -> float:
        """A finite number of at least 0."""
        value = self.number(key)
        if value < 0:
            raise GraphError(f"{self._where}: {key!r} is {value}, below 0")
        return value

    def prob(self, key: str) -> float:
        """A number in [0, 1]."""
        value = self.number(key)
        if not 0.0 <= value <= 1.0:
            raise GraphError(f"{self._where}: {key!r} is {value}, outside 0..1")
        return value

    def items(self, key: str, kind: type[_T]) -> list[_T]:
        """A list of values of one type."""
        value = self._typed(key, self.get(key), list)
        return [self._typed(f"{key}[{i}]", item, kind) for i, item in enumerate(value)]

    def parts(self, key: str) -> list[TypedReader]:
        """A list, with a reader for each of its items."""
        value = self._typed(key, self.get(key), list)
        return [TypedReader(item, f"{key}[{i}]") for i, item in enumerate(value)]

    def by_layer(self, key: str) -> list[tuple[int, TypedReader]]:
        """An object whose keys are layers, with a reader for each of its values."""
        value = self._typed(key, self.get(key), dict)
        found = []
        for layer, part in value.items():
            if not (isinstance(layer, str) and layer.isascii() and layer.isdigit()):
                raise GraphError(f"{self._where}: {key!r} has {layer!r} where a layer belongs")
            part = part if isinstance(part, dict) else {"error": part}
            found.append((int(layer), TypedReader(part, f"{key}[{layer}]")))
        return found

    def optional(self, key: str) -> bool:
        """Whether the value of a key is not null."""
        return self.get(key) is not None

    def _typed(self, key: str, value: object, kind: type[_T]) -> _T:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise GraphError(
                f"{self._where}: {key!r} is {type(value).__name__}, expected {kind.__name__}"
            )
        return value
