"""What a readout depends on besides the vector: unembedding, norm, logits and kernel."""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import Tensor

from visit_tl.atlas.places import Places
from visit_tl.kernel_choice import kernel_for
from visit_tl.model.view import ModelView

FORMAT: Final = 2
"""Of the files; raise it when their meaning or the lens's arithmetic changes."""


def fingerprint(view: ModelView, places: Places, k: int) -> str:
    """The sha256 of everything that decides what a row reads as, but the row; 0.06 s for 113 MB.

    It is taken for each graph: weights can be edited in place without a trace.
    """
    norm, transform = view.final_norm, view.output_transform
    # Logits are transformed one by one, so a transform is known by what it makes of some.
    probe = torch.cat((torch.linspace(-300, 300, 601), torch.logspace(-6, 3, 100)))
    # The last bits of a number depend on how it is worked out: settled now, not while reading.
    kernel = kernel_for(view).kernel
    facts = (FORMAT, torch.__version__, kernel.way, kernel.columns, k, places)
    facts = (*facts, norm.kind, norm.eps, tuple(view.W_U.shape))
    hashed = hashlib.sha256(repr(facts).encode())
    transformed = probe if transform is None else transform(probe.clone())
    for tensor in (view.W_U, view.b_U, norm.weight, norm.bias, transformed):
        hashed.update(b"none" if tensor is None else str(tensor.dtype).encode())
        if tensor is not None:
            _update(hashed, tensor)
    return hashed.hexdigest()[:32]


def _update(hashed: hashlib._Hash, tensor: Tensor) -> None:
    # A tied unembedding is the embedding transposed: hashed as it lies, without a copy.
    lies = tensor.T if tensor.dim() == 2 and tensor.T.is_contiguous() else tensor
    hashed.update(b"transposed" if lies is not tensor else b"plain")
    hashed.update(lies.detach().contiguous().cpu().view(torch.uint8).numpy().data)
