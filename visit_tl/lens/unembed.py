"""From normalised vectors to logits: the product with W_U, the bias, and the output transform.

The transform (a softcap or a scale) keeps the order of logits, so ranks are counted before it.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.lens.product import exact, plain
from visit_tl.model.view import ModelView


def logits(
    view: ModelView,
    x: Float[Tensor, "row d_model"],
    tokens: Int[Tensor, " token"] | slice = slice(None),
) -> Float[Tensor, "row token"]:
    """Logits of normalised vectors for some tokens, or all."""
    columns = view.W_U[:, tokens].to(x.dtype)
    return transformed(view, biased(view, plain(x, columns), tokens))


def untransformed(
    view: ModelView, x: Float[Tensor, "row d_model"], tokens: Int[Tensor, " token"]
) -> Float[Tensor, "row token"]:
    """Logits before the transform; they do not depend on which other tokens are asked for."""
    # A tied unembedding has one contiguous row per token in memory; taking rows is 1000 x as fast.
    tied = view.W_U.T.is_contiguous()
    columns = view.W_U.T[tokens].T if tied else view.W_U.index_select(1, tokens)
    return biased(view, exact(x, columns.to(x.dtype)), tokens)


def biased(
    view: ModelView, product: Float[Tensor, "row token"], tokens: Int[Tensor, " token"] | slice
) -> Float[Tensor, "row token"]:
    """Add the bias of some tokens, in place."""
    return product if view.b_U is None else product.add_(view.b_U[tokens])


def transformed(view: ModelView, tile: Float[Tensor, "row token"]) -> Float[Tensor, "row token"]:
    """Logits after the model's output transform, if it has one."""
    return tile if view.output_transform is None else view.output_transform(tile)
