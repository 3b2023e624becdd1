"""The largest and the smallest numbers of long rows that come in tiles.

A tile is looked through in groups of columns. Its groups' extremes raise the bar that a number has
to reach to be among the k best of its row so far; only the few groups that reach it are opened. So
after the first tiles nearly all of a tile is passed over at the price of one maximum and minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GROUPS: Final = 64
"""Members of a group. Of 16, 32, 64 and 128, measured on tiles of 2048 columns, the quickest."""


@dataclass
class Extremes:
    """The k largest and the k smallest of each of a number of rows; ties go to the lower column.

    Numbers that are not comparable (NaN) are the largest and the smallest.

    Attributes:
        rows: Number of rows.
        k: How many of each side; no row may end up with fewer columns.
    """

    rows: int
    k: int
    _bar: Tensor | None = None
    _found: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def see(self, tile: Float[Tensor, "row column"], start: int) -> Float[Tensor, " row"]:
        """Take in the columns from `start` on, all rows of them. Tiles come in any order.

        Returns:
            The largest number of each row of the tile.
        """
        n = tile.shape[1]
        members = math.gcd(n, _GROUPS)
        if n // members < self.k:
            members = 1
        # Group g holds the columns g, g + width, g + 2 width ...: neighbours stay in one vector.
        width = n // members
        grouped = tile.view(self.rows, members, width)
        largest = grouped.amax(1)
        peaks = torch.stack((largest, grouped.amin(1).neg_()))
        # The k best peaks are k different numbers: what is below the worst of them is out.
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
        """Largest numbers and their columns, largest first; smallest and theirs, smallest first."""
        key, numbers, columns = (torch.cat(part) for part in zip(*self._found, strict=True))
        kept = self._first(key, numbers, columns)
        values = numbers[kept].view(2, self.rows, self.k)
        ids = columns[kept].view(2, self.rows, self.k)
        return values[0], ids[0], -values[1], ids[1]

    def _keep(self, key: Tensor, numbers: Tensor, columns: Tensor) -> None:
        # A row whose numbers are all equal would keep them all, tile after tile.
        if len(key) > 8 * self.rows * self.k:
            kept = self._first(key, numbers, columns)
            key, numbers, columns = key[kept], numbers[kept], columns[kept]
        self._found.append((key, numbers, columns))

    def _first(self, key: Tensor, numbers: Tensor, columns: Tensor) -> Tensor:
        """Where the k best of each key are, by key, then best first, then by column."""
        order = columns.argsort(stable=True)
        order = order[numbers[order].argsort(descending=True, stable=True)]
        order = order[key[order].argsort(stable=True)]
        count = torch.bincount(key, minlength=2 * self.rows)
        begin = (count.cumsum(0) - count)[key[order]]
        place = torch.arange(len(order), device=order.device) - begin
        return order[place < self.k]
