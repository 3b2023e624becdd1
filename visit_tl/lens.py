"""The logit lens: vectors of the residual stream's space, read as words (paper, 2.3).

One streaming pass over blocks of rows and tiles of the vocabulary. No more than one tile of logits
is alive at any time, so the [component, d_vocab] matrix never exists whole.

The floor is the product `vectors @ W_U`; what is done to its logits must cost little beside it.
Measured on two cores in ns a logit, float32, tile of 512 x 2048: product 8.3; softmax 0.35, row
products 0.13, maximum and minimum of 64 groups 0.05 each, comparing into floats and summing 0.08;
but torch.topk 0.8, comparing into booleans and summing 0.4, exp and sum 0.7, logsumexp 0.65.
Hence top and bottom are looked for only in the groups with the largest and smallest members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.model.view import ModelView

_ROWS = 1024
_TILE = 2048
_GROUPS = 64


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
    view: ModelView, x: Float[Tensor, "row d_model"], start: int = 0, end: int | None = None
) -> Float[Tensor, "row tile"]:
    """Logits of normalised vectors for the tokens from `start` up to `end`."""
    tile = x @ view.W_U[:, start:end].to(x.dtype)
    if view.b_U is not None:
        tile += view.b_U[start:end]
    return tile if view.output_transform is None else view.output_transform(tile)


def _read_rows(
    view: ModelView, rows: Tensor, target_ids: Tensor, k: int, apply_norm: bool
) -> tuple[Tensor, ...]:
    """One block of rows against the whole vocabulary, tile by tile."""
    x = view.final_norm(rows) if apply_norm else rows.float()
    wanted = _target_logits(view, x, target_ids)
    ranks = torch.zeros_like(wanted, dtype=torch.long)
    top: tuple[Tensor, Tensor] | None = None
    low: tuple[Tensor, Tensor] | None = None
    log_sums: list[Tensor] = []
    means: list[Tensor] = []
    for start in range(0, view.d_vocab, _TILE):
        tile = logits(view, x, start, start + _TILE)
        top = _merge(top, tile, start, k, largest=True)
        low = _merge(low, tile, start, k, largest=False)
        for i in range(len(target_ids)):
            greater = torch.gt(tile, wanted[:, i : i + 1], out=torch.empty_like(tile))
            ranks[:, i] += greater.sum(-1).long()  # exact: a tile has fewer than 2^24 columns
        peak = tile.amax(-1, keepdim=True)
        shifted = tile.sub_(peak)
        probs = shifted.softmax(-1)
        log_sums.append(peak[:, 0].double() - probs.amax(-1).double().log())
        means.append(peak[:, 0].double() + torch.linalg.vecdot(probs, shifted))
    assert top is not None and low is not None
    by_tile = torch.stack(log_sums)
    log_z = by_tile.logsumexp(0)
    mean = ((by_tile - log_z).exp() * torch.stack(means)).sum(0)
    entropy = (log_z - mean).clamp_min(0.0)
    return (*top, *low, entropy.to(x.dtype), log_z.to(x.dtype), wanted, ranks)


def _target_logits(view: ModelView, x: Tensor, target_ids: Tensor) -> Tensor:
    """Logits of the targets, from the same tiles as all others, so that ties compare as ties."""
    wanted = x.new_empty((x.shape[0], len(target_ids)))
    for start in sorted({target // _TILE * _TILE for target in target_ids.tolist()}):
        tile = logits(view, x, start, start + _TILE)
        inside = (target_ids >= start) & (target_ids < start + _TILE)
        wanted[:, inside] = tile[:, target_ids[inside] - start]
    return wanted


def _merge(
    best: tuple[Tensor, Tensor] | None, tile: Tensor, start: int, k: int, *, largest: bool
) -> tuple[Tensor, Tensor]:
    """The k best of what there was and of a tile; equal logits are ordered by lower id."""
    values, columns = _best(tile, min(k, tile.shape[1]), largest)
    ids = columns + start
    if best is not None:
        values, ids = torch.cat((best[0], values), -1), torch.cat((best[1], ids), -1)
    by_id = ids.argsort(dim=-1, stable=True)
    values, ids = values.gather(-1, by_id), ids.gather(-1, by_id)
    order = values.argsort(dim=-1, descending=largest, stable=True)[:, :k]
    return values.gather(-1, order), ids.gather(-1, order)


def _best(tile: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The k best columns of each row; where the k-th is tied with others, those of lower id."""
    width = tile.shape[1] // _GROUPS
    if tile.shape[1] % _GROUPS == 0 and width > k:
        # Group g holds the columns g, g + width, g + 2 width ...: k groups hold the k best.
        grouped = tile.view(-1, _GROUPS, width)
        extremes = grouped.amax(1) if largest else grouped.amin(1)
        edge, groups = torch.topk(extremes, k + 1, dim=-1, largest=largest)
        chosen = groups[:, None, :k].expand(-1, _GROUPS, -1)
        members = grouped.gather(2, chosen).flatten(1)
        values, at = torch.topk(members, k + 1, dim=-1, largest=largest)
        columns = at // k * width + groups.gather(1, at % k)
        tied = (edge[:, k] == values[:, k - 1]) | (values[:, k] == values[:, k - 1])
    else:
        values, columns = torch.topk(tile, min(k + 1, tile.shape[1]), dim=-1, largest=largest)
        tied = values[:, -1] == values[:, k - 1] if values.shape[1] > k else None
    # topk takes any of several tied columns. That matters at the edge only, and only those rows,
    # which are rare, are sorted.
    if tied is not None and tied.any():
        sorted_values, sorted_columns = tile[tied].sort(dim=-1, descending=largest, stable=True)
        values[tied, :k], columns[tied, :k] = sorted_values[:, :k], sorted_columns[:, :k]
    return values[:, :k], columns[:, :k]
