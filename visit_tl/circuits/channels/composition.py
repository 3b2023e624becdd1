"""`composition_scores`: how much every head's weights read of what every earlier head writes."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Model, NameOrNames, Whole
from visit_tl.circuits.channels.composition_result import CompositionScores
from visit_tl.circuits.channels.weights import HeadFactors, head_factors, rotations
from visit_tl.errors import InputError
from visit_tl.graph.circuit_parts import HEAD_INPUTS
from visit_tl.model.view import ModelView

KINDS: Final = HEAD_INPUTS


@checked
def composition_scores(
    model: Model,
    *,
    kinds: NameOrNames = KINDS,
    offset: Whole = 0,
    verbose: Flag = True,
) -> CompositionScores:
    r"""Q-, K- and V-composition of all pairs of heads, from weights (docs/maths.md, "Channels").

    `||W_OV^1 M|| / (||W_OV^1|| ||M||)` in Frobenius norms, with M the reader's `W_QK` (q), its
    transpose (k) or its `W_OV` (v), after Elhage et al. (2021). Products are of d_head x d_head
    factors and exact; no d_model x d_model matrix is made. The gains and the centring of norms are
    folded in, so that scores do not depend on how weights were processed; scales of norms cancel.

    Args:
        model: As for `flow_graph`, or a `ModelView`.
        kinds: `q`, `k`, `v`, one or several.
        offset: With rotary positions, how many positions the query is after the key; q and k depend
            on it. 0, the default, is what is alike for all distances: no rotation.
        verbose: Show a progress bar.

    Returns:
        The scores, and the score to expect by chance: the root of 1 / d_model (with LayerNorm, of
        1 / (d_model - 1)).

    Raises:
        InputError: an unknown kind; an offset beyond the context, or for a model without rotary
            positions.
    """
    from tqdm.auto import tqdm

    view = model if isinstance(model, ModelView) else ModelView(model)
    view.require_attention("composition scores")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(f"kinds of composition are q, k and v; got {', '.join(unknown) or 'none'}")
    turned = rotations(view, offset)
    shape = view.n_layers, view.n_heads
    scores = {kind: np.full((*shape, *shape), np.nan) for kind in KINDS if kind in kinds}
    written: list[Tensor] = []
    for layer in tqdm(range(view.n_layers), desc="composition", disable=not verbose):
        factors = head_factors(view, layer, rotation=turned[layer])
        for kind, grid in scores.items():
            if written:
                grid[:layer, :, layer] = _scores(torch.stack(written), reads(factors, kind))
        written.append(_writes(factors))
    return CompositionScores(
        model=view.name,
        scores=scores,
        baseline=(view.d_model - (view.norm(0, "ln1").kind == "LN")) ** -0.5,
        offset=offset,
        rotary=view.rotary,
    )


def _writes(factors: HeadFactors) -> Float[Tensor, "head d_head d_model"]:
    """W_OV of each head, divided by its norm, from the left turned to d_head rows: R W_O."""
    R = torch.linalg.qr(factors.W_V).R
    rows = einsum(R, factors.W_O, "head i j, head j d_model -> head i d_model")
    return rows / torch.linalg.matrix_norm(rows).clamp_min(_SMALLEST)[:, None, None]


def sides(factors: HeadFactors, kind: str) -> tuple[Tensor, Tensor]:
    """The reader's circuit as `near @ far`: near `[head, d_model, d_head]` reads the stream.

    Far is `[head, d_head, d_model]`: the transposed keys (q), queries (k), or the output (v).
    """
    if kind == "q":
        return factors.W_Q, factors.W_K.mT
    if kind == "k":
        return factors.W_K, factors.W_Q.mT
    return factors.W_V, factors.W_O


def reads(factors: HeadFactors, kind: str) -> Float[Tensor, "head d_model d_head"]:
    """The reader's circuit, divided by its norm, from the right turned to d_head columns."""
    near, far = sides(factors, kind)
    R = torch.linalg.qr(far.mT).R
    columns = einsum(near, R, "head d_model j, head i j -> head d_model i")
    return columns / torch.linalg.matrix_norm(columns).clamp_min(_SMALLEST)[:, None, None]


_SMALLEST: Final = 1e-30
"""For heads whose weights are all 0, whose scores are then 0."""


def _scores(
    written: Float[Tensor, "layer head d_head d_model"],
    read: Float[Tensor, "reader d_model width"],
) -> Float[np.ndarray, "layer head reader"]:
    """The norm of every product; one product for all heads of a block."""
    columns = rearrange(read, "reader d_model width -> d_model (reader width)")
    found = []
    for rows in written:
        product = rearrange(rows, "head i d_model -> (head i) d_model") @ columns
        squares = product.square_()
        found.append(
            reduce(
                squares,
                "(head i) (reader width) -> head reader",
                "sum",
                head=rows.shape[0],
                reader=read.shape[0],
            )
        )
    return torch.stack(found).sqrt().double().cpu().numpy()
