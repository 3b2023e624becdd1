"""The logit lens: vectors of the residual stream's space, read as words (paper, 2.3).

One pass over tiles of the vocabulary and blocks of rows (`tiled_readout.py`). Most of the time goes
into the product with W_U (`product.py`). How the product is computed, and in what tiles, depends on
the machine (`kernel_choice.py`). The result does not depend on that choice: it has the accuracy of
float32, and the ranks are those of torch's own product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.vocabulary import (
    TENSOR,
    TOKEN_IDS,
    BlocksOfVectors,
    Count,
    Flag,
    LensLike,
)
from visit_tl.errors import InputError
from visit_tl.lens.kernel_choice import kernel_for
from visit_tl.lens.tiled_readout import TiledReadout
from visit_tl.lenses.given_lens import lens_of
from visit_tl.model.view import ModelView


@dataclass(frozen=True)
class Readout:
    """What the logit lens reads in each vector of a stack.

    Attributes:
        top_ids: Most probable tokens, best first; ties by lower id.
        top_probs: Their probabilities.
        bottom_ids: Least probable tokens, worst first; ties by lower id.
        bottom_probs: Their probabilities.
        entropy: Entropy over the whole vocabulary, in nats.
        log_normaliser: Logarithm of the sum of the exponentiated logits.
        target_ids: The target tokens of each vector; -1 where there is no target.
        target_logits: Their logits; NaN where there is no target.
        target_probs: Their probabilities; NaN where there is no target.
        target_ranks: How many tokens have a greater logit (0 is the argmax); -1 where there is no
            target.
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


@dataclass(frozen=True)
class TargetReadout:
    """What the logit lens reads of the targets of each vector; fields as those of `Readout`."""

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
    lens: LensLike | None = None,
    block: BlocksOfVectors | None = None,
    parts: Flag = False,
) -> Readout:
    """Read vectors through the final norm and the unembedding, `softmax(ln_f(x) W_U + b_U)`.

    The norm is recomputed for each vector, as in the paper's eq. 2; it does not use the scale of
    the forward pass (docs/maths.md, "Lens").

    Args:
        view: The model whose final norm and unembedding are used.
        vectors: The vectors to read.
        targets: Token ids whose logit, probability and rank are wanted. A sequence applies to every
            vector; a tensor has one row per vector, padded with -1 where a vector has fewer.
        k: How many top and how many bottom tokens.
        apply_norm: False for vectors that have already gone through the final norm.
        lens: What carries the vectors to the last block first; as for `flow_graph`.
        block: With a lens, the block whose output the vectors are at, or one for each vector; -1 is
            the embedding. The output of the last block is read as it is.
        parts: With a lens, whether the vectors are parts of states, such as heads: then the bias of
            a tuned lens, which belongs to the whole state, is not added.

    Raises:
        InputError: no vectors, a wrong width, k or a target out of range; a lens without a block or
            that does not fit.
    """
    n = vectors.shape[0] if vectors.ndim == 2 else 0
    if n == 0 or vectors.shape[1] != view.d_model:
        raise InputError(
            f"the lens of {view.name} reads [component, {view.d_model}] with at least one "
            f"component, got {list(vectors.shape)}"
        )
    if not 1 <= k <= view.d_vocab:
        raise InputError(f"k must be in 1..{view.d_vocab}, got {k}")
    if lens is not None or block is not None or parts:
        vectors = _carried(view, vectors, lens, block, parts, apply_norm)
    return Readout(*_tiled(view, vectors, targets, k, apply_norm).columns())


def _carried(
    view: ModelView, vectors: Tensor, given: Any, block: Any, parts: bool, apply_norm: bool
) -> Float[Tensor, "component d_model"]:
    """The vectors at the last block's output.

    Raises:
        InputError: there is no lens or no block, the lens does not fit, or it has no map for a
            block.
    """
    lens, blocks = lens_of(view, given), integers_or_none(block)
    if lens is None or blocks is None or not apply_norm:
        raise InputError(
            "another lens is given as lens= with block=, the block whose output the vectors are "
            "at, for vectors that have not gone through the final norm"
        )
    at = blocks * len(vectors) if isinstance(block, int) else blocks
    if len(at) != len(vectors):
        raise InputError(f"block= has {len(at)} numbers for {len(vectors)} vectors")
    last = view.n_layers - 1
    if unknown := [one for one in at if one != last and one not in lens.maps]:
        raise InputError(f"{lens!r} has no map of block {unknown[0]} of {view.name}")
    return lens.carry(vectors, at, [not parts] * len(at))


def read_targets(
    view: ModelView,
    vectors: Float[Tensor, "component d_model"],
    targets: Int[Tensor, "component target"],
) -> TargetReadout:
    """Only what `read` gives of the targets, to the bit, and in less time.

    Args:
        view: The model whose final norm and unembedding are used.
        vectors: The vectors to read.
        targets: Token ids for each vector, padded with -1 where a vector has fewer.

    Raises:
        InputError: a target out of range.
    """
    return TargetReadout(*_tiled(view, vectors, targets, 0, True).target_columns())


def _tiled(
    view: ModelView, vectors: Tensor, targets: Sequence[int] | Tensor, k: int, apply_norm: bool
) -> TiledReadout:
    """The readout, after all tokens."""
    n = len(vectors)
    asked = _asked(view, targets, n)
    vectors = vectors.to(view.W_U.device)
    exact = apply_norm and vectors.dtype == torch.float64
    kernel = kernel_for(view, n, torch.float64 if exact else torch.float32).kernel
    with torch.no_grad():
        tiled = TiledReadout(view, vectors, asked, k, kernel, apply_norm)
        tiled.see(0, view.d_vocab)
    return tiled


def _asked(
    view: ModelView, targets: Sequence[int] | Tensor, n: int
) -> Int[Tensor, "component target"]:
    """The targets of each of n vectors.

    Raises:
        InputError: a target is not in the vocabulary, or there is not one row per vector.
    """
    if alike := not isinstance(targets, Tensor):
        targets = torch.tensor(list(targets), dtype=torch.long, device=view.W_U.device)
    rows = targets.expand(n, -1) if alike else targets
    if rows.shape[:-1] != (n,):
        raise InputError(f"targets of {n} vectors must be [{n}, target], got {list(rows.shape)}")
    outside = (rows >= view.d_vocab) | (rows < (0 if alike else -1))
    if outside.any():
        target = int(rows[outside][0])
        raise InputError(f"target {target} is outside 0..{view.d_vocab - 1} of {view.name}")
    return rows.to(view.W_U.device)
