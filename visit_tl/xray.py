"""The one call that does the whole job: model and prompt in, graph out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from visit_tl.graph import prune
from visit_tl.graph.build import build
from visit_tl.graph.flow import FlowGraph
from visit_tl.model.view import ModelView
from visit_tl.trace import Cache, Trace


def flow_graph(
    model: Any,
    prompt: str | Sequence[int] | Tensor,
    *,
    target: str | int | None = None,
    layers: Iterable[int] | int | None = None,
    position: int = -1,
    prepend_bos: bool | None = None,
    cache: Cache | None = None,
    preset: str = "default",
    heads: int | None = None,
    values: int | None = None,
    neurons: int | tuple[int, int] | None = None,
    k: int = 5,
) -> FlowGraph:
    """X-ray one forward pass: every part that mattered, read as words (paper, section 4).

    Args:
        model: A HookedTransformer or TransformerBridge, or what `load_model` gives. It is run once
            and left exactly as it was.
        prompt: Text, or token ids of shape [pos] or [1, pos].
        target: The token to follow, as text (one token, with its space) or id; None is the model's
            own prediction.
        layers: Consecutive blocks; None is all.
        position: Query position; negative ones count from the end.
        prepend_bos: Whether a BOS goes before a text; None is the model's own default.
        cache: Activations of this prompt that the caller already has, instead of a forward pass.
        preset: `default`, or `paper` for all heads and neurons by absolute activation.
        heads: Heads per block, by norm of output (default 10).
        values: Memory values per head, by attention (default 2).
        neurons: Neurons per matrix: (high, low), default (18, 7), or their sum.
        k: How many top and bottom tokens each node keeps.

    Returns:
        The graph; it draws itself in a notebook.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: a prompt, target, layer, position or budget that does not fit.
        DecompositionError: parts do not sum to their whole.
    """
    budget = prune.budget(preset, heads, values, neurons)
    view = ModelView(model)
    tokens = view.tokens.encode(prompt, prepend_bos)
    chosen = view.check_layers(layers)
    target_id = None if target is None else view.tokens.single(target)
    if cache is None:
        trace = Trace.run(view, tokens, position=position, layers=chosen)
    else:
        trace = Trace.from_cache(view, cache, tokens, position=position, layers=chosen)
    return build(view, trace, target=target_id, budget=budget, k=k)
