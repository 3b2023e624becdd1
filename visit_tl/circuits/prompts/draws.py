"""Random choices that are the same on every machine and with every release of Python.

Python promises the sequence of `random.Random.random` for a seed, and nothing of `choice`, `sample`
and `shuffle`, so those are made of it here. No global state is touched.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of random choices.

    Args:
        *key: What the stream is for; equal keys give equal streams.
    """

    def __init__(self, *key: str | int) -> None:
        self._random = random.Random("/".join(map(str, key)))

    def below(self, n: int) -> int:
        """A number of 0..n-1."""
        return min(int(self._random.random() * n), n - 1)

    def some(self, pool: Sequence[T], k: int) -> list[T]:
        """As many different ones of the pool as k says, in random order."""
        left = list(pool)
        return [left.pop(self.below(len(left))) for _ in range(k)]
