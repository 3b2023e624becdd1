"""The conservation laws of a whole model, tried on a short prompt before it is measured."""

from __future__ import annotations

from typing import Final

import torch

from visit_tl.model import components
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import check_layer, check_logits

_TOKENS: Final = 8


def trial_prompt(view: ModelView) -> list[int]:
    """Up to eight ids spread over the vocabulary, with a BOS first if the tokenizer has one."""
    size, n = int(view.model.cfg.d_vocab), min(_TOKENS, view.n_ctx)
    bos = getattr(getattr(view.model, "tokenizer", None), "bos_token_id", None)
    first = [bos] if isinstance(bos, int) and 0 <= bos < size else []
    return (first + [(2 * i + 1) * size // (2 * n) for i in range(n)])[:n]


def require_laws(view: ModelView) -> None:
    """Require that every block comes apart, and that the lens gives the model's own logits.

    Raises:
        DecompositionError: a law does not hold; the message is that of a graph.
        ModelError: the model cannot be taken apart.
    """
    trace = Trace.run(view, view.tokens.encode(trial_prompt(view), None))
    with torch.no_grad():
        for layer, t in trace.layers.items():
            weights = components.stream_weights(view, layer, t)
            check_layer(view, layer, t, weights, trace.replaced)
        check_logits(view, trace, trace.layers[view.n_layers - 1].resid_post)
