"""Only the top k tokens of many vectors: what I_k needs, at little more than the product.

A block of logits is made, a tile of columns after the other; the maximum of each group of columns
is taken while the tile is in the processor's cache. The k best numbers of a row are in the k groups
with the best maxima, so only these are searched.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.lens.kernel_choice import kernel_for
from visit_tl.lens.product import Factor, numbers_of
from visit_tl.lens.unembed import biased
from visit_tl.model.view import ModelView

_GROUP: Final = 32
"""Columns per group. Measured with SmolLM2-135M and k = 50: of 16, 32 and 64 the fastest, 1.3 x the
product alone."""
_ROWS: Final = 256
"""Least rows of a block; with fewer, the product takes longer."""


def top_ids(
    view: ModelView, vectors: Float[Tensor, "component d_model"], k: int
) -> Int[Tensor, "component k"]:
    """The ids of the k most probable tokens of each vector, best first; ties go to the lower id.

    They are those of `read`; the model's output transform keeps the order of logits.
    """
    with torch.no_grad():
        x = view.final_norm(vectors.to(view.W_U.device).float())
        kernel = kernel_for(view, len(x), torch.float32).kernel
        starts = range(0, view.d_vocab, kernel.columns)
        columns = [
            Factor(view.W_U[:, a : a + kernel.columns].T.to(x.dtype), kernel.way) for a in starts
        ]
        blocks = x.split(max(kernel.rows, _ROWS))
        size = -(-kernel.columns // _GROUP) * _GROUP
        # The same memory for all blocks: fresh memory costs a page fault per 1024 numbers.
        logits = x.new_full((len(blocks[0]), len(columns), size), -torch.inf)
        spare = x.new_empty(numbers_of(len(blocks[0]), kernel.columns))
        return torch.cat(
            [
                _block(view, Factor(b, kernel.way), columns, logits[: len(b)], spare, k)
                for b in blocks
            ]
        )


def _block(
    view: ModelView,
    rows: Factor,
    columns: list[Factor],
    logits: Float[Tensor, "row tile column"],
    spare: Float[Tensor, " number"],
    k: int,
) -> Int[Tensor, "row k"]:
    """The top tokens of a block of rows; overwrites `logits`, except past the last column."""
    n, width, size = rows.count, columns[0].count, logits.shape[-1]
    groups = size // _GROUP
    peaks: list[Tensor] = []
    for i, part in enumerate(columns):
        start = i * width
        tile = biased(view, rows.times(part, spare), slice(start, start + part.count))
        block = logits[:, i]
        block[:, : part.count] = tile
        # Group g of a tile holds its columns g, g + groups, g + 2 groups ...
        if part.count == size:
            peaks.append(tile.view(n, _GROUP, groups).amax(1))
        else:
            peaks.append(block.view(n, _GROUP, groups).amax(1))
    best = torch.cat(peaks, 1)
    flat = logits.view(n, -1)
    n_groups = min(k, best.shape[1])
    bars, chosen = best.topk(n_groups, -1)
    tiles, group = chosen // groups, chosen % groups
    members = torch.arange(_GROUP, device=flat.device) * groups
    places = ((tiles * size + group)[:, None] + members[:, None]).flatten(1)
    numbers = flat.gather(1, places)
    values, at = numbers.topk(k, -1)
    found = places.gather(1, at)
    ids = found // size * width + found % size
    # Equal numbers at the edge may be in groups that were not searched, or in any order.
    tied = (best >= bars[:, -1:]).sum(-1) > n_groups
    tied |= (numbers >= values[:, -1:]).sum(-1) > k
    tied |= (values[:, 1:] == values[:, :-1]).any(-1)
    for row in tied.nonzero().flatten().tolist():
        own = torch.cat([logits[row, i, : part.count] for i, part in enumerate(columns)])
        ids[row] = own.argsort(descending=True, stable=True)[:k]
    return ids
