"""Vectors of components in the residual stream's space, from a trace and weights (docs/maths.md).

Every function takes stacks and returns stacks; nothing loops over heads, positions or neurons.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.model.experts import ExpertsTrace, with_rows
from visit_tl.model.layer_trace import LayerTrace
from visit_tl.model.layer_weights import LayerWeights
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.rotation import Rotation
from visit_tl.model.view import ModelView


def head_outputs(
    z: Float[Tensor, "head d_head"], W_O: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head d_model"]:
    """What each head adds to the residual stream, `z_h W_O^h` (paper, 3.1)."""
    return einsum(z, W_O, "head d_head, head d_head d_model -> head d_model")


def memory_values(
    values: Float[Tensor, "memory d_head"], W_O: Float[Tensor, "memory d_head d_model"]
) -> Float[Tensor, "memory d_model"]:
    """What each memory value would add at attention 1, `v_j W_O^h` (paper, 3.1).

    Args:
        values: One value per row.
        W_O: For each row, the output matrix of the head that reads it.
    """
    return einsum(values, W_O, "memory d_head, memory d_head d_model -> memory d_model")


def query_readings(
    query: Float[Tensor, "head d_head"],
    W_K: Float[Tensor, "head d_model d_head"],
    key_norm: FrozenNorm | None = None,
) -> Float[Tensor, "head d_model"]:
    """Each head's query mapped through the QK circuit, `q_h W_K^h^T` (paper, D.3).

    Its inner product with a normalised state is the unscaled attention score that the state would
    get at the query's own position (without position terms and key biases).

    Args:
        query: One query per head.
        W_K: The key matrix of each head.
        key_norm: The norm of the keys at the query's position; its transpose is applied to the
            query.
    """
    carried = query if key_norm is None else key_norm.transpose(query)
    return einsum(carried, W_K, "head d_head, head d_model d_head -> head d_model")


def key_readings(
    keys: Float[Tensor, "memory d_head"],
    W_Q: Float[Tensor, "memory d_model d_head"],
    rotation: Rotation | None,
    query_norm: FrozenNorm | None = None,
) -> Float[Tensor, "memory d_model"]:
    """Each memory key mapped through the QK circuit, `k_j W_Q^h^T` (paper, D.3).

    Args:
        keys: One key per row, as the model scored it (after rotary positions).
        W_Q: For each row, the query matrix of the head that reads it.
        rotation: Rotation of the query position. The keys are rotated back into its frame; then
            their inner product with the query is the score that the model used. None if positions
            are not rotary.
        query_norm: The norm of the head's queries at the query position, one row per key; its
            transpose is applied to the keys.
    """
    turned = keys if rotation is None else rotation.transpose(keys)
    turned = turned if query_norm is None else query_norm.transpose(turned)
    return einsum(turned, W_Q, "memory d_head, memory d_model d_head -> memory d_model")


def grouped(
    per_kv_head: Float[Tensor, "pos kv_head d_head"], kv_head: Int[Tensor, " head"]
) -> Float[Tensor, "head pos d_head"]:
    """Keys or values as each query head sees them: grouped K/V heads are shared, not copied."""
    return rearrange(per_kv_head, "pos kv_head d_head -> kv_head pos d_head")[kv_head]


def through_heads_norm(
    t: LayerTrace, vectors: Float[Tensor, "head *pos d_head"], heads: Int[Tensor, " head"]
) -> Float[Tensor, "head *pos d_head"]:
    """Vectors of heads, such as their values, as parts of z: through a norm before W_O, if any.

    Args:
        t: What the block computed.
        vectors: One or several for each of these heads.
        heads: The head of each row.
    """
    if t.heads_norm is None:
        return vectors
    gain = t.heads_norm.gain[heads]
    return vectors * (gain if vectors.ndim == 2 else gain[:, None])


def attn_neurons(
    W_O: Float[Tensor, "head d_head d_model"],
) -> Float[Tensor, "entry d_model"]:
    """The rows of W_O, one for each entry of the concatenated heads (paper, A.1.6)."""
    return rearrange(W_O, "head d_head d_model -> (head d_head) d_model")


def row_norms(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """L2 norm of each row."""
    return torch.sqrt(reduce(rows * rows, "row d_model -> row", "sum"))


def stream_weights(view: ModelView, layer: int, t: LayerTrace) -> LayerWeights:
    """The weights of one block, with post-norms included in the output matrices.

    A post-norm (Gemma 2, OLMo 2) scales what a sub-block adds to the residual stream. With its
    scale fixed at its input it is linear. So the scale is applied to the rows of W_O and W_out, and
    the bias is added to that of the sub-block. Heads, values and neurons then are what they add to
    the residual stream, and their sum is still the whole.
    """
    weights = view.weights(layer)
    if t.latent is not None:
        weights = replace(weights, W_Q=t.latent[0], W_K=t.latent[1])
    attn_norm, mlp_norm = view.norm(layer, "ln1_post"), view.norm(layer, "ln2_post")
    b_O, b_out = weights.b_O, weights.b_out
    W_O, W_out = weights.W_O, weights.W_out
    if attn_norm.kind != "none":
        frozen = attn_norm.freeze(head_outputs(t.z, W_O).sum(0) + (0 if b_O is None else b_O))
        W_O, b_O = frozen.parts(W_O), _bias_after(frozen, b_O)
    if mlp_norm.kind != "none" and W_out is not None and t.mlp_post is not None:
        frozen = mlp_norm.freeze(t.mlp_post @ W_out + (0 if b_out is None else b_out))
        W_out, b_out = frozen.parts(W_out), _bias_after(frozen, b_out)
    return replace(weights, W_O=W_O, b_O=b_O, W_out=W_out, b_out=b_out)


def stream_experts(view: ModelView, layer: int, t: LayerTrace) -> ExpertsTrace | None:
    """The experts of one block, as the residual stream sees them; None if it has none.

    As with `stream_weights`, a post-norm, or a factor by which the block multiplies the output of
    the mixture, is included in the rows of W_out and in the biases.
    """
    found, norm = t.experts, view.norm(layer, "ln2_post")
    if found is None or (norm.kind == "none" and view.parts[layer].mlp_scale == 1):
        return found
    if norm.kind == "none":
        scale = view.parts[layer].mlp_scale
        biases = [None if b is None else scale * b for b in found.b_out]
        return with_rows(found, [scale * W for W in found.W_out], biases)
    frozen = norm.freeze(found.outputs.sum(0))
    biases = [None if b is None else frozen.parts(b) for b in found.b_out]
    return with_rows(found, [frozen.parts(W) for W in found.W_out], biases)


def experts_bias(view: ModelView, layer: int, t: LayerTrace) -> Tensor | None:
    """The bias of the post-norm of a mixture, which belongs to no expert; None if it has none."""
    norm = view.norm(layer, "ln2_post")
    if t.experts is None or norm.kind == "none":
        return None
    return norm.freeze(t.experts.outputs.sum(0)).bias


def _bias_after(frozen: FrozenNorm, bias: Tensor | None) -> Tensor | None:
    parts = [] if bias is None else [frozen.parts(bias)]
    parts += [] if frozen.bias is None else [frozen.bias]
    return None if not parts else torch.stack(parts).sum(0)
