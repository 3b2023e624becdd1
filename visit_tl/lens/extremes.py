"""The k largest and k smallest numbers of each row of a matrix that arrives in tiles.

The columns of a tile are split into groups. The maximum and minimum of each group update a
threshold per row: the value that a number must reach to be among the k best of its row so far. Only
the few groups that reach the threshold are searched. So after the first tiles, nearly all of a tile
costs one maximum and one minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GROUPS: Final = 64
"""Columns per group. The fastest of 16, 32, 64 and 128, measured on tiles of 2048 columns."""


@dataclass
class Extremes:
    """The k largest and the k smallest numbers of each row; ties go to the lower column.

    NaN counts both as the largest and as the smallest number.

    Attributes:
        rows: Number of rows.
        k: How many numbers of each side; a row must have at least k columns in all.
    """

    rows: int
    k: int
    _bar: Tensor | None = None
    _found: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def see(self, tile: Float[Tensor, "row column"], start: int) -> Float[Tensor, " row"]:
        """Process the columns from `start` on, for all rows. Tiles may come in any order.

        Returns:
            The largest number of each row of the tile.
        """
        n = tile.shape[1]
        members = math.gcd(n, _GROUPS)
        while members > 1 and n // members < 2 * self.k:
            members //= 2
        # Group g holds the columns g, g + width, g + 2 width ..., so the reductions below run over
        # contiguous vectors.
        width = n // members
        grouped = tile.view(self.rows, members, width)
        largest = grouped.amax(1)
        peaks = torch.stack((largest, grouped.amin(1).neg_()))
        # The k best peaks are k different numbers, so a number below the worst of them is not
        # among the k best.
        known = peaks if self._bar is None else torch.cat((self._bar, peaks), -1)
        self._bar = known.topk(min(self.k, known.shape[-1]), dim=-1).values
        bar = self._bar[..., -1]
        side, row, group = (~(peaks < bar[..., None])).nonzero(as_tuple=True)
        numbers = grouped[row, :, group]
        numbers = torch.where(side[:, None] == 0, numbers, -numbers)
        opened, member = (~(numbers < bar[side, row][:, None])).nonzero(as_tuple=True)
        key = (side * self.rows + row)[opened]
        self._keep(key, numbers[opened, member], start + member * width + group[opened])
        return largest.amax(-1)

    def best(
        self,
    ) -> tuple[
        Float[Tensor, "row k"], Int[Tensor, "row k"], Float[Tensor, "row k"], Int[Tensor, "row k"]
    ]:
        """The largest numbers and their columns, largest first; the smallest, smallest first."""
        key, numbers, columns = (torch.cat(part) for part in zip(*self._found, strict=True))
        kept = self._first(key, numbers, columns)
        values = numbers[kept].view(2, self.rows, self.k)
        ids = columns[kept].view(2, self.rows, self.k)
        return values[0], ids[0], -values[1], ids[1]

    def _keep(self, key: Tensor, numbers: Tensor, columns: Tensor) -> None:
        # Without this, a row whose numbers are all equal would keep all of them.
        if len(key) > 8 * self.rows * self.k:
            kept = self._first(key, numbers, columns)
            key, numbers, columns = key[kept], numbers[kept], columns[kept]
        self._found.append((key, numbers, columns))

    def _first(self, key: Tensor, numbers: Tensor, columns: Tensor) -> Tensor:
        """Indices of the k best entries of each key, by key, then best first, then by column."""
        order = columns.argsort(stable=True)
        order = order[numbers[order].argsort(descending=True, stable=True)]
        order = order[key[order].argsort(stable=True)]
        count = torch.bincount(key, minlength=2 * self.rows)
        begin = (count.cumsum(0) - count)[key[order]]
        place = torch.arange(len(order), device=order.device) - begin
        return order[place < self.k]
