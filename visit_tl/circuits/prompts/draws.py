"""Random choices that are the same on every machine and with every release of Python.

For a given seed, Python guarantees the sequence of `random.Random.random`, but not the results of
`choice`, `sample` and `shuffle`. So this module uses only the former. It changes no global state.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of random choices.

    Args:
        *key: Name of the stream, such as task, seed and number; equal keys give equal streams.
    """

    def __init__(self, *key: str | int) -> None:
        self._random = random.Random("/".join(map(str, key)))

    def below(self, n: int) -> int:
        """A random integer in 0..n-1."""
        return min(int(self._random.random() * n), n - 1)

    def some(self, pool: Sequence[T], k: int) -> list[T]:
        """Choose k items of the pool, without repetition, in random order."""
        left = list(pool)
        return [left.pop(self.below(len(left))) for _ in range(k)]
