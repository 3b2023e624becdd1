"""A hash of what a readout depends on besides the vector: unembedding, norm, logits and kernel."""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import Tensor

from visit_tl.atlas.weight_rows import Places
from visit_tl.lens.kernel_choice import kernel_for
from visit_tl.lenses.maps import Lens
from visit_tl.model.view import ModelView

FORMAT: Final = 2
"""Version of the files; raise it when their meaning or the lens's arithmetic changes."""


def fingerprint(view: ModelView, places: Places, k: int, lens: Lens | None = None) -> str:
    """The sha256 of everything that a row's readout depends on, except the row itself.

    It takes 0.06 s for 113 MB. It is computed for each graph, since weights can be edited in place
    without notice.
    """
    norm, transform = view.final_norm, view.output_transform
    # The transform acts on each logit alone, so its values at some logits identify it.
    probe = torch.cat((torch.linspace(-300, 300, 601), torch.logspace(-6, 3, 100)))
    # The last bits of a number depend on the kernel, so the kernel is chosen here, before reading.
    kernel = kernel_for(view).kernel
    facts = (FORMAT, torch.__version__, kernel.way, kernel.columns, k, places)
    facts = (*facts, norm.kind, norm.eps, tuple(view.W_U.shape))
    if lens is not None:
        facts = (*facts, lens.digest)
    hashed = hashlib.sha256(repr(facts).encode())
    transformed = probe if transform is None else transform(probe.clone())
    for tensor in (view.W_U, view.b_U, norm.weight, norm.bias, transformed):
        hashed.update(b"none" if tensor is None else str(tensor.dtype).encode())
        if tensor is not None:
            _update(hashed, tensor)
    return hashed.hexdigest()[:32]


def _update(hashed: hashlib._Hash, tensor: Tensor) -> None:
    # A tied unembedding is the embedding transposed; it is hashed as stored, without a copy.
    stored = tensor.T if tensor.dim() == 2 and tensor.T.is_contiguous() else tensor
    hashed.update(b"transposed" if stored is not tensor else b"plain")
    hashed.update(stored.detach().contiguous().cpu().view(torch.uint8).numpy().data)
