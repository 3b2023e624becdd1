"""The logit lens: vectors of the residual stream's space, read as words (paper, 2.3).

One streaming pass over tiles of the vocabulary and blocks of rows. No more than one tile of logits
of one block is alive at any time, so the [component, d_vocab] matrix never exists whole.

The floor is the product with W_U (`product.py`); what is done to its logits must cost little beside
it. Measured on one core in ns a logit, float32: product 6 (13 by torch.mm), softmax 1.0, row
products 0.3, comparing into floats and summing 0.2, a maximum or minimum 0.06. But torch.topk of a
tile would take 1.3, comparing into booleans and summing 0.5, exp and sum 1.2. See `extremes.py` for
how top and bottom are found for 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import TENSOR, TOKEN_IDS, Count, Flag
from visit_tl.errors import InputError
from visit_tl.extremes import Extremes
from visit_tl.model.view import ModelView
from visit_tl.product import Factor, plain

# Of 128 to 2048 rows and 1024 to 8192 tokens the quickest, by 5 % to 50 %: a tile of 4 MB is given
# back by the allocator as it was, larger ones page by page.
_ROWS = 512
_TILE = 2048


@dataclass(frozen=True)
class Readout:
    """What the logit lens reads in each of a stack of vectors.

    Attributes:
        top_ids: Most probable tokens, best first; ties by lower id.
        top_probs: Their probabilities.
        bottom_ids: Least probable tokens, worst first; ties by lower id.
        bottom_probs: Their probabilities.
        entropy: Entropy over the whole vocabulary, in nats.
        log_normaliser: Logarithm of the sum of the exponentiated logits.
        target_ids: The tokens that each vector was asked for; -1 where none was.
        target_logits: Their logits; NaN where none was asked for.
        target_probs: Their probabilities; NaN likewise.
        target_ranks: How many tokens have a greater logit (0 is the argmax); -1 likewise.
    """

    top_ids: Int[Tensor, "component k"]
    top_probs: Float[Tensor, "component k"]
    bottom_ids: Int[Tensor, "component k"]
    bottom_probs: Float[Tensor, "component k"]
    entropy: Float[Tensor, " component"]
    log_normaliser: Float[Tensor, " component"]
    target_ids: Int[Tensor, "component target"]
    target_logits: Float[Tensor, "component target"]
    target_probs: Float[Tensor, "component target"]
    target_ranks: Int[Tensor, "component target"]


@checked
def read(
    view: ModelView,
    vectors: Annotated[Float[Tensor, "component d_model"], TENSOR],
    targets: Annotated[Sequence[int] | Int[Tensor, "component target"], TOKEN_IDS] = (),
    *,
    k: Count = 5,
    apply_norm: Flag = True,
) -> Readout:
    """Read vectors through the final norm and the unembedding, `softmax(ln_f(x) W_U + b_U)`.

    The norm is recomputed for each vector, as in the paper's eq. 2; it is not the scale that the
    forward pass had (docs/maths.md, "Lens").

    Args:
        view: The model that reads.
        vectors: What is read.
        targets: Token ids whose logit, probability and rank are wanted: the same of every vector,
            or each vector's own, with -1 where it has fewer than others.
        k: How many top and how many bottom tokens.
        apply_norm: False for vectors that went through the final norm already.

    Raises:
        InputError: no vectors, a wrong width, k or a target out of range.
    """
    n = vectors.shape[0] if vectors.ndim == 2 else 0
    if n == 0 or vectors.shape[1] != view.d_model:
        raise InputError(
            f"the lens of {view.name} reads [component, {view.d_model}] with at least one "
            f"component, got {list(vectors.shape)}"
        )
    if not 1 <= k <= view.d_vocab:
        raise InputError(f"k must be in 1..{view.d_vocab}, got {k}")
    asked = _asked(view, targets, n)
    vectors = vectors.to(view.W_U.device)
    with torch.no_grad():
        parts = _read_blocks(view, vectors, asked, k, apply_norm)
    return Readout(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _read_blocks(
    view: ModelView, vectors: Tensor, targets: Tensor, k: int, apply_norm: bool
) -> list[tuple[Tensor, ...]]:
    """Blocks of rows against the whole vocabulary, tile by tile."""
    blocks = [
        _Block(view, view.final_norm(rows) if apply_norm else rows.float(), wanted, k)
        for rows, wanted in zip(vectors.split(_ROWS), targets.split(_ROWS), strict=True)
    ]
    dtype = blocks[0].x.dtype
    # One for all tiles: fresh memory costs a page fault for every 1024 numbers.
    spare = vectors.new_empty(min(len(vectors), _ROWS) * min(view.d_vocab, _TILE), dtype=dtype)
    for start in range(0, view.d_vocab, _TILE):
        end = min(start + _TILE, view.d_vocab)
        columns = Factor(view.W_U[:, start:end].T.to(dtype))
        for block in blocks:
            block.see(columns, start, spare)
    return [block.readout() for block in blocks]


def _asked(
    view: ModelView, targets: Sequence[int] | Tensor, n: int
) -> Int[Tensor, "component target"]:
    """The targets of each of n vectors.

    Raises:
        InputError: one is not in the vocabulary, or there is not a row for each vector.
    """
    alike = not isinstance(targets, Tensor)
    rows = torch.tensor(list(targets), dtype=torch.long).expand(n, -1) if alike else targets
    if rows.shape[:-1] != (n,):
        raise InputError(f"targets of {n} vectors must be [{n}, target], got {list(rows.shape)}")
    outside = (rows >= view.d_vocab) | (rows < (0 if alike else -1))
    if outside.any():
        target = int(rows[outside][0])
        raise InputError(f"target {target} is outside 0..{view.d_vocab - 1} of {view.name}")
    return rows.to(view.W_U.device)


def logits(
    view: ModelView,
    x: Float[Tensor, "row d_model"],
    tokens: Int[Tensor, " token"] | slice = slice(None),
) -> Float[Tensor, "row token"]:
    """Logits of normalised vectors for some tokens, or all."""
    return _transformed(view, _untransformed(view, x, tokens))


def _untransformed(view: ModelView, x: Tensor, tokens: Tensor | slice) -> Tensor:
    return _biased(view, plain(x, view.W_U[:, tokens].to(x.dtype)), tokens)


def _biased(view: ModelView, product: Tensor, tokens: Tensor | slice) -> Tensor:
    return product if view.b_U is None else product.add_(view.b_U[tokens])


def _transformed(view: ModelView, tile: Tensor) -> Tensor:
    return tile if view.output_transform is None else view.output_transform(tile)


class _Block:
    """One block of rows, and what is known of them after the tiles that they have seen."""

    def __init__(self, view: ModelView, x: Tensor, targets: Tensor, k: int) -> None:
        self.view, self.x, self.targets = view, x, targets
        self.rows = Factor(x)
        self.norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        self.extremes = Extremes(x.shape[0], k)
        self.asked = targets >= 0
        # Up to which row each column of targets has any: little, if rows with many come first.
        rows = torch.arange(1, len(x) + 1, device=x.device)[:, None]
        self.depths: list[int] = (rows * self.asked).amax(0).tolist()
        distinct, which = targets.clamp_min(0).unique(return_inverse=True)
        # What ranks are counted against: the logits of the targets before their transform, which
        # keeps the order.
        self.bars = x.new_empty(targets.shape)
        if targets.numel():
            self.bars = _untransformed(view, x, distinct).gather(1, which)
        self.ranks = torch.zeros_like(targets)
        self.log_sums: list[Tensor] = []
        self.means: list[Tensor] = []

    def see(self, columns: Factor, start: int, spare: Tensor) -> None:
        """Take in the logits of the tokens from `start` on; what is in `spare` is lost."""
        tokens = slice(start, start + columns.count)
        tile = _biased(self.view, self.rows.times(columns), tokens)
        spare = spare[: tile.numel()].view(tile.shape)
        for i, n in enumerate(self.depths):
            if n:
                self._rank(i, n, tile[:n], start, columns.rounding, spare[:n])
        tile = _transformed(self.view, tile)
        self.extremes.see(tile, start)
        peak = tile.amax(-1, keepdim=True)
        shifted = tile.sub_(peak)
        probs = torch.softmax(shifted, -1, out=spare)
        self.log_sums.append(peak[:, 0].double() - probs.amax(-1).double().log())
        self.means.append(peak[:, 0].double() + probs.mul_(shifted).sum(-1))

    def _rank(
        self, i: int, n: int, tile: Tensor, start: int, rounding: float, spare: Tensor
    ) -> None:
        """Count the tokens of a tile that are above target i of the first n rows.

        Those that are so near that rounding could put them on either side are multiplied once more
        by torch itself, whose own product decides: 1 rank in 150 would be off by one or two.
        """
        target, bar = self.targets[:n, i], self.bars[:n, i : i + 1]
        own = ((target >= start) & (target < start + tile.shape[1])).nonzero()[:, 0]

        def above(level: Tensor) -> Tensor:
            greater = torch.gt(tile, level, out=spare)
            greater[own, target[own] - start] = 0
            return greater.sum(-1).long()  # exact: fewer than 2^24 columns

        margin = self.norms[:n] * rounding
        high = bar + margin
        sure = above(high)
        self.ranks[:n, i] += sure
        if not rounding:
            return
        near = (above(bar - margin) != sure).nonzero()[:, 0]
        if len(near):
            doubtful = (spare[near] > 0) & (tile[near] <= high[near])
            tokens = doubtful.any(0).nonzero()[:, 0]
            exact = _untransformed(self.view, self.x[near], start + tokens)
            self.ranks[near, i] += (doubtful[:, tokens] & (exact > bar[near])).sum(-1)

    def readout(self) -> tuple[Tensor, ...]:
        """What the block reads as, in the order of the fields of `Readout`."""
        by_tile = torch.stack(self.log_sums)
        log_z = by_tile.logsumexp(0)
        mean = ((by_tile - log_z).exp() * torch.stack(self.means)).sum(0)
        entropy = (log_z - mean).clamp_min(0.0).to(self.x.dtype)
        log_z = log_z.to(self.x.dtype)
        top, top_ids, low, low_ids = self.extremes.best()
        wanted = _transformed(self.view, self.bars).masked_fill(~self.asked, torch.nan)
        return (
            top_ids,
            (top - log_z[:, None]).exp(),
            low_ids,
            (low - log_z[:, None]).exp(),
            entropy,
            log_z,
            self.targets,
            wanted,
            (wanted - log_z[:, None]).exp(),
            self.ranks.masked_fill(~self.asked, -1),
        )
