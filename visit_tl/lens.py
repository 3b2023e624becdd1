"""The logit lens: vectors of the residual stream's space, read as words (paper, 2.3).

One streaming pass over blocks of rows and tiles of the vocabulary. No more than one tile of logits
is alive at any time, so the [component, d_vocab] matrix never exists whole.

The floor is the product `vectors @ W_U`; what is done to its logits must cost little beside it.
Measured on one core in ns a logit, float32, tile of 1024 x 2048: product 13; softmax 1.0, row
products 0.26, comparing into floats and summing 0.2, a maximum or minimum 0.06. But torch.topk of a
tile would be 1.3, comparing into booleans and summing 0.5, exp and sum 1.2. See `extremes.py` for
how top and bottom are found for 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.extremes import Extremes
from visit_tl.model.view import ModelView

_ROWS = 1024
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
        target_ids: The tokens that were asked for.
        target_logits: Their logits.
        target_probs: Their probabilities.
        target_ranks: How many tokens have a greater logit (0 is the argmax).
    """

    top_ids: Int[Tensor, "component k"]
    top_probs: Float[Tensor, "component k"]
    bottom_ids: Int[Tensor, "component k"]
    bottom_probs: Float[Tensor, "component k"]
    entropy: Float[Tensor, " component"]
    log_normaliser: Float[Tensor, " component"]
    target_ids: Int[Tensor, " target"]
    target_logits: Float[Tensor, "component target"]
    target_probs: Float[Tensor, "component target"]
    target_ranks: Int[Tensor, "component target"]


def read(
    view: ModelView,
    vectors: Float[Tensor, "component d_model"],
    targets: Sequence[int] = (),
    *,
    k: int = 5,
    apply_norm: bool = True,
) -> Readout:
    """Read vectors through the final norm and the unembedding, `softmax(ln_f(x) W_U + b_U)`.

    The norm is recomputed for each vector, as in the paper's eq. 2; it is not the scale that the
    forward pass had (docs/maths.md, "Lens").

    Args:
        view: The model that reads.
        vectors: What is read.
        targets: Token ids whose logit, probability and rank are wanted.
        k: How many top and how many bottom tokens.
        apply_norm: False for vectors that went through the final norm already.

    Raises:
        InputError: no vectors, a wrong width, k or a target out of range.
    """
    if vectors.shape[0] == 0 or vectors.shape[1] != view.d_model:
        raise InputError(
            f"the lens of {view.name} reads [component, {view.d_model}] with at least one "
            f"component, got {list(vectors.shape)}"
        )
    if not 1 <= k <= view.d_vocab:
        raise InputError(f"k must be in 1..{view.d_vocab}, got {k}")
    for target in targets:
        if not 0 <= target < view.d_vocab:
            raise InputError(f"target {target} is outside 0..{view.d_vocab - 1} of {view.name}")
    target_ids = torch.tensor(list(targets), dtype=torch.long, device=view.W_U.device)
    with torch.no_grad():
        parts = [
            _read_rows(view, rows, target_ids, k, apply_norm)
            for rows in vectors.to(view.W_U.device).split(_ROWS)
        ]
    columns = (torch.cat(column) for column in zip(*parts, strict=True))
    top_logits, top_ids, low_logits, low_ids, entropy, log_z, wanted, ranks = columns
    return Readout(
        top_ids=top_ids,
        top_probs=(top_logits - log_z[:, None]).exp(),
        bottom_ids=low_ids,
        bottom_probs=(low_logits - log_z[:, None]).exp(),
        entropy=entropy,
        log_normaliser=log_z,
        target_ids=target_ids,
        target_logits=wanted,
        target_probs=(wanted - log_z[:, None]).exp(),
        target_ranks=ranks,
    )


def logits(
    view: ModelView,
    x: Float[Tensor, "row d_model"],
    start: int = 0,
    end: int | None = None,
    out: Tensor | None = None,
) -> Float[Tensor, "row tile"]:
    """Logits of normalised vectors for the tokens from `start` up to `end`.

    Args:
        view: The model that reads.
        x: What went through the final norm.
        start: The first token.
        end: The token after the last; None for the end of the vocabulary.
        out: Where they are put, if anywhere.
    """
    tile = torch.mm(x, view.W_U[:, start:end].to(x.dtype), out=out)
    if view.b_U is not None:
        tile += view.b_U[start:end]
    return tile if view.output_transform is None else view.output_transform(tile)


def _read_rows(
    view: ModelView, rows: Tensor, target_ids: Tensor, k: int, apply_norm: bool
) -> tuple[Tensor, ...]:
    """One block of rows against the whole vocabulary, tile by tile."""
    x = view.final_norm(rows) if apply_norm else rows.float()
    size = min(_TILE, view.d_vocab)
    # Two buffers for all tiles: fresh memory costs a page fault for every 1024 numbers.
    buffers = x.new_empty((2, x.shape[0] * size))
    extremes = Extremes(x.shape[0], k)
    wanted: Tensor | None = None
    ranks = torch.zeros((x.shape[0], len(target_ids)), dtype=torch.long, device=x.device)
    log_sums: list[Tensor] = []
    means: list[Tensor] = []
    for start in _starts(view.d_vocab, size, target_ids):
        end = min(start + size, view.d_vocab)
        place, spare = (b[: x.shape[0] * (end - start)].view(x.shape[0], -1) for b in buffers)
        tile = logits(view, x, start, end, out=place)
        if wanted is None:
            wanted = _target_logits(view, x, target_ids, start, tile)
        extremes.see(tile, start)
        for i in range(len(target_ids)):
            torch.gt(tile, wanted[:, i : i + 1], out=spare)
            ranks[:, i] += spare.sum(-1).long()  # exact: a tile has fewer than 2^24 columns
        peak = tile.amax(-1, keepdim=True)
        shifted = tile.sub_(peak)
        probs = torch.softmax(shifted, -1, out=spare)
        log_sums.append(peak[:, 0].double() - probs.amax(-1).double().log())
        means.append(peak[:, 0].double() + torch.linalg.vecdot(probs, shifted))
    assert wanted is not None
    by_tile = torch.stack(log_sums)
    log_z = by_tile.logsumexp(0)
    mean = ((by_tile - log_z).exp() * torch.stack(means)).sum(0)
    entropy = (log_z - mean).clamp_min(0.0)
    return (*extremes.best(), entropy.to(x.dtype), log_z.to(x.dtype), wanted, ranks)


def _starts(d_vocab: int, size: int, target_ids: Tensor) -> list[int]:
    """Where tiles start, one that holds a target first."""
    first = 0 if len(target_ids) == 0 else int(target_ids[0]) // size * size
    return [first, *(start for start in range(0, d_vocab, size) if start != first)]


def _target_logits(
    view: ModelView, x: Tensor, target_ids: Tensor, start: int, tile: Tensor
) -> Tensor:
    """Logits of the targets, from the same tiles as all others, so that ties compare as ties."""
    size = min(_TILE, view.d_vocab)
    wanted = x.new_empty((x.shape[0], len(target_ids)))
    for begin in {target // size * size for target in target_ids.tolist()}:
        there = tile if begin == start else logits(view, x, begin, begin + size)
        inside = (target_ids >= begin) & (target_ids < begin + size)
        wanted[:, inside] = there[:, target_ids[inside] - begin]
    return wanted
