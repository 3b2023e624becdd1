"""The conservation laws of all blocks on one run: the largest error of each, and what it means."""

from __future__ import annotations

from typing import Final

import torch

from visit_tl.checks.report import LawError
from visit_tl.model import components
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray import conservation as conserve

LENS_LAW: Final = "lens of the last resid_post = logits"


def largest_errors(view: ModelView, trace: Trace) -> list[LawError]:
    """Each law with its largest error over the blocks, then the lens."""
    worst: dict[str, LawError] = {}
    for layer, t in trace.layers.items():
        weights = components.stream_weights(view, layer, t)
        for law, hook, error in conserve.laws(view, layer, t, weights):
            if hook in trace.replaced:
                continue
            if law not in worst or not error <= worst[law].error:
                worst[law] = LawError(law, hook, error)
    last = trace.layers[view.n_layers - 1]
    own = conserve.own_logits(trace)
    if own is not None:
        error = conserve.lens_error(view, last.resid_post, own)
        worst[LENS_LAW] = LawError(LENS_LAW, last.hooks["resid_post"], error)
    return list(worst.values())


def sink_words(trace: Trace, tolerance: float) -> str:
    """How much attention goes to no token: a sink is part of the softmax, but has no value."""
    rows = [t.pattern.sum(-1) for t in trace.layers.values() if len(t.pattern)]
    lost = 1 - torch.cat(rows).min() if rows else torch.zeros(())
    if not lost > tolerance:
        return ""
    blocks = sum(bool((1 - row > tolerance).any()) for row in rows)
    return (
        f"rows of attention sum to less than 1 in {blocks} of {len(rows)} blocks: up to "
        f"{float(lost):.0%} of a head's attention goes to no token"
    )


def broken_law(view: ModelView, trace: Trace, laws: list[LawError], tolerance: float) -> str | None:
    """The message for the first law that does not hold; an error of NaN does not hold."""
    for law in laws:
        if not law.error <= tolerance:
            return (
                f"{law.law} is off by {law.error:.2g} of the whole at {law.hook} "
                f"(tolerance {tolerance:.0e}){_cause(view, trace, law)}"
            )
    return None


def _cause(view: ModelView, trace: Trace, law: LawError) -> str:
    """The likely cause of a law's failure, as the end of its message."""
    if law.law == LENS_LAW:
        own = conserve.own_logits(trace)
        assert own is not None
        return conserve.lens_cause(view, trace.layers[view.n_layers - 1].resid_post, own)
    layer = int(law.hook.split(".")[1])
    t = trace.layers[layer]
    return conserve.cause(view, layer, t, components.stream_weights(view, layer, t), law.law)
