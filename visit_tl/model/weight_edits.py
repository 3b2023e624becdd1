"""Change a weight of the caller's model inside a block of code, and put it back to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.view import ModelView


@contextmanager
def w_out_changed(
    view: ModelView, layer: int, rows: Float[Tensor, " d_mlp"], direction: Float[Tensor, " d_model"]
) -> Iterator[None]:
    """Add the outer product of two vectors to W_out of one block, in the model's own parameter.

    Raises:
        ModelError: the block has no MLP, or shows W_out from a copy of its parameters.
    """
    with w_out_moved(view, layer, torch.outer(rows.double(), direction.double())):
        yield


@contextmanager
def w_out_moved(
    view: ModelView, layer: int, change: Float[Tensor, "d_mlp d_model"]
) -> Iterator[None]:
    """Add a matrix to W_out of one block, in the model's own parameter.

    Raises:
        ModelError: the block has no MLP, or shows W_out from a copy of its parameters.
    """
    weight, parameter = _w_out(view, layer)
    # Torch changes tensors that were made in inference mode only inside it.
    mode = torch.inference_mode() if parameter.is_inference() else torch.no_grad()
    before = parameter.detach().clone()
    try:
        with mode:
            weight.add_(change.to(weight.device, weight.dtype))
        yield
    finally:
        with torch.inference_mode() if parameter.is_inference() else torch.no_grad():
            parameter.copy_(before)


def _w_out(view: ModelView, layer: int) -> tuple[Tensor, Tensor]:
    """W_out, `[d_mlp, d_model]`, as a view of the parameter that holds it, and that parameter."""
    mlp: Any = getattr(view.model.blocks[layer], "mlp", None)
    weight = None if mlp is None else view.adapters.beneath(mlp, "W_out")
    if view.parts[layer].mlp != "neurons" or not isinstance(weight, Tensor):
        raise ModelError(f"blocks.{layer} of {view.name} has no W_out that could be edited")
    weight = weight.detach()
    assert mlp is not None
    for parameter in mlp.parameters():
        if parameter.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr():
            return weight, parameter.detach()
    raise ModelError(
        f"blocks.{layer} of {view.name} shows W_out from a copy of its parameters, so an edit of "
        f"it would not reach the model"
    )
