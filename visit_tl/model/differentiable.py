"""Where gradients can be taken, whatever mode the caller is in and the weights were made in.

Torch saves no tensor for gradients that was made in inference mode, and says so only in the middle
of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from visit_tl.errors import InputError


@contextmanager
def gradients_enabled(model: Any) -> Iterator[None]:
    """Gradients can be taken inside; modes, weights and buffers are afterwards as they were.

    Weights that were made in inference mode have copies in their places meanwhile.

    Raises:
        InputError: something else that was made in inference mode takes part.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), _copied(model):
            yield
    except RuntimeError as error:
        if "inference tensor" not in str(error).lower():
            raise
        raise InputError(
            "no gradient can be taken through tensors that were made in torch.inference_mode(), "
            "and the metric, or a hook on the model, holds one; make it outside, or clone() it "
            "there, or do without screen='attribution'"
        ) from error


@contextmanager
def _copied(model: Any) -> Iterator[None]:
    """Copies in the places of tensors that were made in inference mode.

    Not by torch.func.functional_call: a bridge has its modules at two places each, and is left
    with the copies.
    """
    copies: dict[int, Tensor] = {}
    places: list[tuple[dict[str, Any], str, Tensor]] = []
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            found = [(n, t) for n, t in table.items() if t is not None and t.is_inference()]
            places += [(table, name, tensor) for name, tensor in found]
    try:
        for table, name, tensor in places:
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor.detach().clone()
            table[name] = copies[id(tensor)]
        yield
    finally:
        for table, name, tensor in places:
            table[name] = tensor
