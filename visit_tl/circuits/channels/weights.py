"""The two circuits of every head as factors, what can be known without a run folded in.

Rows of the stream are multiplied from the left: a head adds `x W_V W_O` to it, and scores
`(x W_Q) . (y W_K)`. Folded in are the gain (and centring) of the norm before the attention, of
query and key norms, and of a post-norm. The scales of norms are numbers, which no score here
depends on. Biases are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.norm import Norm
from visit_tl.model.query_key_way import norms_come_last
from visit_tl.model.rotation import Rotation
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView


@dataclass(frozen=True, eq=False)
class HeadFactors:
    """The factors of one block's heads, in the dtype asked for; K/V heads are repeated.

    Attributes:
        W_Q: Queries.
        W_K: Keys; for a rotary model turned into the frame of a query `offset` positions later.
        W_V: Values.
        W_O: Output.
    """

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]


def head_factors(
    view: ModelView,
    layer: int,
    *,
    rotation: Rotation | None = None,
    dtype: torch.dtype = torch.float32,
) -> HeadFactors:
    """The factors of one block.

    Args:
        view: The model.
        layer: The block.
        rotation: That of the query's position, where the key's is 0 (`rotations`); None is none.
        dtype: Of the factors.
    """
    view.require_matrices("what heads read and write by weights")
    weights, before, after = (
        view.weights(layer),
        view.norm(layer, "ln1"),
        view.norm(layer, "ln1_post"),
    )
    W_Q, W_K, W_V = (
        _read_through(before, matrix.to(dtype))
        for matrix in (weights.W_Q, weights.W_K, view.value_weights(layer))
    )
    query_norm, key_norm = view.head_norm(layer, "q_norm"), view.head_norm(layer, "k_norm")
    gains = [
        norm for norm in (query_norm, key_norm) if norm is not None and norm.weight is not None
    ]
    if gains and norms_come_last(view, layer):
        raise ModelError(
            f"{view.name} normalises queries and keys after their rotation (blocks.{layer}), so "
            f"what they read by weights depends on the position; attention_attribution takes a "
            f"score of a prompt apart"
        )
    W_Q, W_K = _head_norm(query_norm, W_Q), _head_norm(key_norm, W_K)
    W_O = _gained(after, weights.W_O.to(dtype))
    if (heads_norm := view.heads_norm(layer)) is not None and heads_norm.weight is not None:
        W_O = W_O * heads_norm.weight.to(W_O).view(*W_O.shape[:2], 1)
    if before.kind == "LN":
        # No norm of such a model sees the mean of what is written (nor does its final norm).
        W_O = W_O - W_O.mean(-1, keepdim=True)
    each = view.kv_head(len(W_V)).to(W_V.device)
    W_K = W_K[each]
    if rotation is not None:
        W_K = rotation.transpose(W_K)
    return HeadFactors(W_Q, W_K, W_V[each], W_O)


def _read_through(norm: Norm, matrix: Float[Tensor, "h d_model d_head"]) -> Tensor:
    """A matrix behind a norm, with the norm's gain and centring in it."""
    if norm.weight is not None:
        matrix = matrix * norm.weight.to(matrix.dtype)[:, None]
    return matrix - matrix.mean(-2, keepdim=True) if norm.kind == "LN" else matrix


def _gained(norm: Norm, rows: Tensor) -> Tensor:
    """Rows through a norm without its scale and bias: what it makes of parts, up to a number."""
    if norm.kind == "LN":
        rows = rows - rows.mean(-1, keepdim=True)
    return rows if norm.weight is None else rows * norm.weight.to(rows.dtype)


def _head_norm(norm: Norm | None, matrix: Float[Tensor, "h d_model d_head"]) -> Tensor:
    """Queries or keys through their norm: one gain for all heads, or one for each."""
    if norm is None or norm.kind == "none":
        return matrix
    if norm.weight is None:
        return _gained(norm, matrix)
    d_head = matrix.shape[-1]
    gain = norm.weight.to(matrix.dtype)
    gain = gain if gain.numel() == d_head else gain.reshape(-1, d_head)[:, None]
    centred = matrix - matrix.mean(-1, keepdim=True) if norm.kind == "LN" else matrix
    return centred * gain


def rotations(view: ModelView, offset: int) -> list[Rotation | None]:
    """For each block, the rotation of a query that is `offset` positions after its key.

    At offset 0 it is none: query and key are turned alike.

    Raises:
        InputError: the offset is negative or beyond the context, or the model has no rotary
            positions, so that no offset changes its scores by weights.
    """
    if offset == 0:
        return [None] * view.n_layers
    if not view.rotary:
        raise InputError(
            f"{view.name} has no rotary positions, so its composition scores do not depend on how "
            f"far a key is: leave offset out"
        )
    if not 0 < offset < view.n_ctx:
        raise InputError(f"the offset {offset} is outside 0..{view.n_ctx - 1} of {view.name}")
    ids = view.tokens.plain()
    tokens = tuple(ids[i % len(ids)] for i in range(offset + 1))
    run = Trace.run(view, Prompt("", tokens, False), position=offset)
    return [run.layers[layer].rotation for layer in range(view.n_layers)]
