"""The readout, computed one tile of logits at a time: a block of rows by a part of the vocabulary.

Only one tile and one copy of it are in memory at any time, so the whole [component, d_vocab] matrix
never exists. The work on a tile must be cheap compared with its product. In ns per logit, on one
core of an EPYC (Zen 3) with tiles of 256 x 2048 and d_model 576: product 13.5, exp 1.0, comparing
into floats .17 and summing .08, multiplying .17, subtracting .13, the maxima or minima of groups
.1. But torch.softmax takes 2.3, comparing into booleans .6, torch.aminmax 2.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from visit_tl.lens.extremes import Extremes
from visit_tl.lens.kernel import Kernel
from visit_tl.lens.product import LEAST, Factor, numbers_of
from visit_tl.lens.threads import side_by_side, workers_for
from visit_tl.lens.unembed import biased, transformed, untransformed
from visit_tl.model.view import ModelView

_FAR = -80.0
"""Logits further than this below the peak are raised to it: e^-80 is negligible next to 1. MKL's
exp takes 25 times as long where its results are too small for float32."""
_PAIRS = LEAST
"""Pairs of row and token that are checked at once; each row is multiplied with each token."""


class TiledReadout:
    """Normalised vectors, and their readout over the tokens processed so far.

    Args:
        view: The model whose final norm and unembedding are used.
        vectors: The vectors to read, `[component, d_model]`.
        targets: Token ids whose ranks are wanted, `[component, target]`; -1 means no target.
        k: How many top and how many bottom tokens; 0 is only what is about the targets.
        kernel: The way of multiplying, and the size of a tile.
        apply_norm: False for vectors that have already gone through the final norm.
    """

    def __init__(
        self,
        view: ModelView,
        vectors: Tensor,
        targets: Tensor,
        k: int,
        kernel: Kernel,
        apply_norm: bool,
    ) -> None:
        self.view, self.kernel = view, kernel
        size = _rows_per_block(len(vectors), kernel)
        parts = zip(vectors.split(size), targets.split(size), strict=True)
        self.blocks = [
            _Block(view, view.final_norm(rows) if apply_norm else rows.float(), wanted, k, kernel)
            for rows, wanted in parts
        ]
        x = self.blocks[0].x
        self.dtype = x.dtype
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def see(self, first: int, last: int) -> None:
        """Process the logits of the tokens from `first` up to, not including, `last`."""

        def work(blocks: Sequence[_Block]) -> None:
            product, spare = buffers = self._buffer()
            for start in range(first, last, self.kernel.columns):
                end = min(start + self.kernel.columns, last)
                columns = Factor(self.view.W_U[:, start:end].T.to(self.dtype), self.kernel.way)
                for block in blocks:
                    block.see(columns, start, product, spare)
            self._buffers.append(buffers)

        if self.kernel.threads and len(self.blocks) > 1:
            side_by_side(work, self.blocks)
        else:
            work(self.blocks)

    def _buffer(self) -> tuple[Tensor, Tensor]:
        """Memory for a tile, which all tiles of a thread share.

        Fresh memory costs a page fault per 1024 numbers.
        """
        try:
            return self._buffers.pop()
        except IndexError:
            x = self.blocks[0].x
            rows, columns = len(x), min(self.view.d_vocab, self.kernel.columns)
            return x.new_empty(numbers_of(rows, columns)), x.new_empty(rows * columns)

    def columns(self) -> tuple[Tensor, ...]:
        """The readout of the vectors, in the order of the fields of `Readout`."""
        with torch.no_grad():
            parts = [block.readout() for block in self.blocks]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def target_columns(self) -> tuple[Tensor, ...]:
        """What is about the targets, in the order of the fields of `TargetReadout`."""
        with torch.no_grad():
            parts = [block.of_targets(block.log_z()) for block in self.blocks]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _rows_per_block(vectors: int, kernel: Kernel) -> int:
    """How many vectors a tile has; of threads, each gets as many tiles as the others."""
    workers = workers_for(vectors, LEAST) if kernel.threads else 1
    if workers < 2:
        return kernel.rows
    tiles = workers * math.ceil(vectors / (workers * kernel.rows))
    return math.ceil(vectors / tiles)


class _Block:
    """One block of rows: as many vectors as a tile has rows."""

    def __init__(self, view: ModelView, x: Tensor, targets: Tensor, k: int, kernel: Kernel) -> None:
        self.view, self.x, self.targets = view, x, targets
        self.rows = Factor(x, kernel.way)
        self.norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        self.extremes = Extremes(x.shape[0], k) if k else None
        self.asked = targets >= 0
        # For each column of targets, the number of rows up to the last one with a target. It is
        # small if rows with many targets come first.
        rows = torch.arange(1, len(x) + 1, device=x.device)[:, None]
        self.depths: list[int] = (rows * self.asked).amax(0).tolist()
        distinct, which = targets.clamp_min(0).unique(return_inverse=True)
        # Ranks are counted against these: the logits of the targets before the output transform,
        # which keeps their order.
        self.bars = x.new_empty(targets.shape)
        if targets.numel():
            self.bars = untransformed(view, x, distinct).gather(1, which)
        self.ranks = torch.zeros_like(targets)
        # For each column of targets: the least and the greatest id, and the pairs of row and token
        # that rounding could put on the wrong side of the target.
        width = targets.shape[1]
        self.first: list[int] = targets.masked_fill(~self.asked, view.d_vocab).amin(0).tolist()
        self.last: list[int] = targets.amax(0).tolist()
        self.doubtful: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(width)]
        self.log_sums: list[Tensor] = []
        self.means: list[Tensor] = []

    def see(self, columns: Factor, start: int, product: Tensor, spare: Tensor) -> None:
        """Process the logits of the tokens from `start` on; overwrites `product` and `spare`."""
        tokens = slice(start, start + columns.count)
        tile = biased(self.view, self.rows.times(columns, product), tokens)
        spare = spare[: tile.numel()].view(tile.shape)
        for i, n in enumerate(self.depths):
            if n:
                self._rank(i, n, tile[:n], start, columns.rounding, spare[:n])
        tile = transformed(self.view, tile)
        peak = tile.amax(-1) if self.extremes is None else self.extremes.see(tile, start)
        shifted = tile.sub_(peak[:, None]).clamp_min_(_FAR)
        weights = torch.exp(shifted, out=spare)
        total = weights.sum(-1).double()
        self.log_sums.append(peak.double() + total.log())
        if self.extremes is not None:
            self.means.append(peak.double() + weights.mul_(shifted).sum(-1).double() / total)

    def _rank(
        self, i: int, n: int, tile: Tensor, start: int, rounding: float, spare: Tensor
    ) -> None:
        """Count the tokens of a tile that are certainly above target i, for the first n rows.

        Tokens so close that rounding could put them on either side are stored in `doubtful`.
        """
        bar = self.bars[:n, i : i + 1]
        own = self._own(i, n, start, tile.shape[1])

        def above(level: Tensor) -> Tensor:
            greater = torch.gt(tile, level, out=spare)
            if own is not None:
                greater[own] = 0
            return greater.sum(-1).long()  # exact: fewer than 2^24 columns

        margin = self.norms[:n] * rounding
        low, high = bar - margin, bar + margin
        sure = above(high)
        self.ranks[:n, i] += sure
        near = (above(low) != sure).nonzero()[:, 0]
        if len(near):
            rows = tile.index_select(0, near)
            row, column = ((rows > low[near]) & (rows <= high[near])).nonzero(as_tuple=True)
            self.doubtful[i].append((near[row], start + column))

    def _own(self, i: int, n: int, start: int, columns: int) -> tuple[Tensor, Tensor] | None:
        """The rows and columns of a tile that hold target i itself; None if there are none."""
        if self.last[i] < start or self.first[i] >= start + columns:
            return None
        target = self.targets[:n, i]
        row = ((target >= start) & (target < start + columns)).nonzero()[:, 0]
        return row, target[row] - start

    def _settle(self) -> None:
        """Compute the doubtful logits again with `exact`, and count them by that result.

        Without it 1 rank in 150 would be off by one or two.
        """
        for i, noted in enumerate(self.doubtful):
            if not noted:
                continue
            rows, tokens = (torch.cat(part) for part in zip(*noted, strict=True))
            for begin in range(0, len(rows), _PAIRS):
                row, token = rows[begin : begin + _PAIRS], tokens[begin : begin + _PAIRS]
                settled = untransformed(self.view, self.x[row], token).diagonal()
                self.ranks[:, i].index_add_(0, row, (settled > self.bars[row, i]).long())
            noted.clear()

    def log_z(self) -> Tensor:
        """The logarithm of the sum of the exponentiated logits, in float64."""
        return torch.stack(self.log_sums).logsumexp(0)

    def of_targets(self, log_z: Tensor) -> tuple[Tensor, ...]:
        """The targets, their logits, probabilities and ranks."""
        self._settle()
        wanted = transformed(self.view, self.bars).masked_fill(~self.asked, torch.nan)
        probs = (wanted - log_z.to(self.x.dtype)[:, None]).exp()
        return self.targets, wanted, probs, self.ranks.masked_fill(~self.asked, -1)

    def readout(self) -> tuple[Tensor, ...]:
        """The readout of the block, in the order of the fields of `Readout`."""
        assert self.extremes is not None
        log_z = self.log_z()
        mean = ((torch.stack(self.log_sums) - log_z).exp() * torch.stack(self.means)).sum(0)
        entropy = (log_z - mean).clamp_min(0.0).to(self.x.dtype)
        own = self.of_targets(log_z)
        log_z = log_z.to(self.x.dtype)
        top, top_ids, low, low_ids = self.extremes.best()
        return (
            top_ids,
            (top - log_z[:, None]).exp(),
            low_ids,
            (low - log_z[:, None]).exp(),
            entropy,
            log_z,
            *own,
        )
