"""Take gradients even if the caller is in inference mode, or the weights were made in it.

Torch cannot use tensors that were made in inference mode for gradients, and raises the error only
in the middle of a run.
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
    """Allow gradients inside; afterwards modes, weights and buffers are as they were before.

    Weights that were made in inference mode are replaced by copies inside.

    Raises:
        InputError: another tensor that was made in inference mode is used.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), _copied(model):
            yield
    except RuntimeError as error:
        if "inference tensor" not in str(error).lower():
            raise
        raise InputError(
            "no gradient can be taken through tensors that were made in torch.inference_mode(), "
            "and the metric, or a hook on the model, uses one; make it outside inference mode, or "
            "clone() it there"
        ) from error


@contextmanager
def _copied(model: Any) -> Iterator[None]:
    """Replace tensors that were made in inference mode by copies, and put them back afterwards.

    torch.func.functional_call does not work here: a bridge holds each module at two places, and
    would keep the copies.
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
