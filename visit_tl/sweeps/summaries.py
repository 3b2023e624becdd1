"""Means and standard errors over prompts, of a table that is read one part after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from visit_tl.sweeps.registry import PROMPT

if TYPE_CHECKING:
    import pandas as pd

_ALL: Final = "(all)"
"""The one group of a summary without groups."""


class Moments:
    """By group, the number of prompts and, for each number, its count, mean and squared deviations.

    Args:
        groups: Columns that are grouped by.
        numbers: Columns that are averaged, first over the rows of a prompt in a group.
    """

    def __init__(self, groups: Sequence[str], numbers: Sequence[str]) -> None:
        self._groups, self._numbers = list(groups), list(numbers)
        self._place: dict[Any, int] = {}
        self._n = np.zeros(0, dtype="int64")
        self._count, self._mean, self._squares = np.zeros((3, 0, len(self._numbers)))

    def add(self, frame: pd.DataFrame) -> None:
        """Add all rows of some prompts, of which no row was added before."""
        if not len(frame):
            return
        frame = frame.astype(dict.fromkeys(self._numbers, "float64"))
        keys = self._groups
        if not keys:
            frame, keys = frame.assign(**{_ALL: 0}), [_ALL]
        rows = frame.groupby([PROMPT, *keys], sort=False, dropna=False)
        means = rows[self._numbers].mean() if self._numbers else rows.size().to_frame()
        by = means.reset_index().groupby(keys, sort=False, dropna=False)
        sizes = by.size()
        at = self._places(sizes.index.to_frame().itertuples(index=False, name=None))
        self._n[at] += sizes.to_numpy()
        if not self._numbers:
            return
        numbers = by[self._numbers]
        count, mean = numbers.count().to_numpy("float64"), numbers.mean().to_numpy()
        squares = numbers.var(ddof=0).to_numpy() * count
        mean, squares = (np.where(count > 0, x, 0.0) for x in (mean, squares))
        # Chan, Golub and LeVeque: the moments of both from those of each, without cancellation.
        total = self._count[at] + count
        share = count / np.maximum(total, 1)
        step = mean - self._mean[at]
        self._squares[at] += squares + step**2 * self._count[at] * share
        self._mean[at] += step * share
        self._count[at] = total

    def table(self, measured: int, kinds: Mapping[str, str]) -> pd.DataFrame:
        """A row for each group, in their order.

        Args:
            measured: The number of all measured prompts, of which `share` is a share.
            kinds: The type of each column.
        """
        import pandas as pd

        keys = list(self._place)
        parts = [
            pd.Series([key[i] for key in keys], dtype=None if keys else object, name=name)
            for i, name in enumerate(self._groups)
        ]
        found = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=range(len(keys)))
        found["n"] = self._n
        found["share"] = self._n / max(1, measured)
        for i, name in enumerate(self._numbers):
            count = self._count[:, i]
            deviation = np.sqrt(self._squares[:, i] / np.where(count > 1, count - 1, np.nan))
            found[name] = np.where(count > 0, self._mean[:, i], np.nan)
            found[f"{name}_se"] = deviation / np.sqrt(count)
        if not self._groups:
            return found
        exact = {name: "int64" for name in self._groups if kinds[name] == "int64"}
        return found.astype(exact).sort_values(self._groups, ignore_index=True)

    def _places(self, keys: Any) -> np.ndarray:
        """The row of each group, new ones added."""
        import pandas as pd

        own = [tuple(None if pd.isna(value) else value for value in key) for key in keys]
        at = np.array([self._place.setdefault(key, len(self._place)) for key in own], dtype=int)
        more = len(self._place) - len(self._n)
        self._n = np.concatenate([self._n, np.zeros(more, dtype="int64")])
        none = np.zeros((more, len(self._numbers)))
        self._count, self._mean, self._squares = (
            np.concatenate([x, none]) for x in (self._count, self._mean, self._squares)
        )
        return at
