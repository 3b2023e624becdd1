"""The measurements of gradients: Backward Lens and reversed attention beside plain autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from visit_tl.bench.parts import Measurements
from visit_tl.bench.report import Figure, Timing
from visit_tl.gradients.attention_gradients import reversed_attention
from visit_tl.gradients.lens_of_gradients import backward_lens
from visit_tl.memory import peak_of


def gradients(measured: Measurements) -> Iterator[Timing]:
    """Time Backward Lens and reversed attention of all blocks.

    They are held against a forward pass and autograd's backward pass to what enters the first
    block, and for the lens, the product of the vectors that it reads. A backward pass to every
    weight, as training takes it, is timed as well.
    """
    view, model = measured.view, measured.model
    ids = measured.ids()
    device = view.W_U.device

    tokens = torch.tensor([ids], device=device)

    def reference() -> object:
        return to_activations(model, tokens, ids[1])

    seconds = measured.time(reference)
    peak = peak_of(reference, device)[1]
    yield Timing("gradients", "forward, and autograd to the first block", seconds, None, peak)

    def training() -> object:
        return to_weights(model, tokens, ids[1])

    whole = measured.time(training)
    peak = peak_of(training, device)[1]
    yield Timing("gradients", "forward, and autograd to every weight", whole, None, peak)

    def lens() -> object:
        return backward_lens(model, ids, ids[1])

    read = _vectors_read(lens())
    product = min(measured.products(view, read).values())
    yield Timing("gradients", f"product of {read} vectors, quickest", product)
    ours = measured.time(lens)
    peak = peak_of(lens, device)[1]
    yield Timing("gradients", "Backward Lens of all blocks and matrices", ours, None, peak)
    what = "Backward Lens / (forward + backward + product)"
    measured.figures.append(Figure(what, ours / (seconds + product)))

    def maps() -> object:
        return reversed_attention(model, ids, ids[1])

    ours = measured.time(maps)
    peak = peak_of(maps, device)[1]
    yield Timing("gradients", "reversed attention of all heads, laws measured", ours, None, peak)
    measured.figures.append(Figure("reversed attention / (forward + backward)", ours / seconds))


def to_activations(model: Any, tokens: Tensor, target: int) -> object:
    """A forward pass and the gradient of what enters the first block, by torch alone."""
    entered: list[Tensor] = []

    def cut(x: Tensor, hook: object) -> Tensor:
        entered.append(x.detach().requires_grad_())
        return entered[0]

    with torch.enable_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_pre", cut)])
        return torch.autograd.grad(-logits[0, -1].float().log_softmax(-1)[target], entered[0])


def to_weights(model: Callable[[Tensor], Tensor], tokens: Tensor, target: int) -> object:
    """A forward pass and the gradients of all weights, by torch alone."""
    weights = [p for p in model.parameters() if p.is_floating_point()]  # type: ignore[attr-defined]
    flags = [p.requires_grad for p in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            loss = -model(tokens)[0, -1].float().log_softmax(-1)[target]
            return torch.autograd.grad(loss, weights, allow_unused=True)
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)


def _vectors_read(lens: object) -> int:
    """How many vectors a lens read: those that matrices share are read once."""
    matrices = lens.matrices  # type: ignore[attr-defined]
    shared = {id(found.ranks): found.ranks for found in matrices.values()}
    return max(1, sum(int((ranks >= 0).sum()) for ranks in shared.values()))
