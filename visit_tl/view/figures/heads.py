"""One number per head, as a map of layers x heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import plotly.graph_objects as go

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import NumberName, Theme, Token
from visit_tl.circuits.references import KnownCircuit
from visit_tl.errors import InputError
from visit_tl.escaping import visible
from visit_tl.graph.container import Graph, GraphData
from visit_tl.graph.records import Node
from visit_tl.view.figures.head_map import head_map

_NUMBERS: Final[dict[str, tuple[str, Callable[[Node], float | None]]]] = {
    "rank": ("−log10(rank + 1)", lambda node: -math.log10(node.rank + 1)),
    "prob": ("probability", lambda node: node.prob),
    "norm": ("norm", lambda node: node.norm),
    "attribution": ("attribution", lambda node: node.attribution),
    "effect": ("effect", lambda node: None if node.effect is None else node.effect.value),
    "gradient": ("norm", lambda node: None if node.gradient is None else node.gradient.norm),
    "reversed": ("norm of R", lambda node: None if node.reversed is None else node.reversed.norm),
}
_MEASURED_BY: Final = {
    "attribution": "g.attribution().onto(g)",
    "effect": "g.effects(metric).onto(g)",
    "gradient": "lens.onto(g), with lens = visit_tl.backward_lens(model, prompt),",
    "reversed": "reversed.onto(g), with reversed = visit_tl.reversed_attention(model, prompt),",
}
_TITLES: Final = {"reversed": "reversed attention"}


@checked
def heads(
    graph: Graph,
    by: NumberName = "rank",
    *,
    to: Token | None = None,
    reference: KnownCircuit | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Draw one number per head as a map; heads that pruning left out have no score.

    Args:
        graph: The graph.
        by: `rank` (of the target, 0 at the top of the scale), `prob`, `norm`, `attribution`,
            `effect`, `gradient` (its norm at the head's z), `reversed` (the norm of the reversed
            attention), or `attention` (from the graph's position).
        to: For `attention`, where the heads look: a key position (negative ones count from the
            end), or the text of a token, at all positions where it occurs.
        reference: A circuit whose heads are outlined.
        theme: `light` or `dark`.

    Raises:
        InputError: the number or the theme is unknown, the number was not measured, the token is
            not in the prompt, or the reference is for another shape.
    """
    if by not in (*_NUMBERS, "attention"):
        raise InputError(f"heads can be drawn by {', '.join(_NUMBERS)}, attention; got {by!r}")
    if (by == "attention") != (to is not None):
        raise InputError(
            "heads by attention need a token to look at, and no others do: by='attention', "
            f"to={graph.tokens[0]!r} or to=0"
        )
    if to is None:
        words, number = _NUMBERS[by]
        title = f"{_TITLES.get(by, by)} of the heads, target {visible(graph.target)}"
    else:
        at = _positions(graph, to)
        words, number = "attention", lambda node: _attention(node, at)
        places = ", ".join(map(str, at))
        title = f"attention of the heads to {visible(graph.tokens[at[0]])} at {places}"
    shown = [node for node in graph.of_kind("head") if node.id.position is None]
    in_block = [sum(n.layer == layer for n in shown) for layer in graph.layers]
    whole = (graph.hidden[i].heads + n for i, n in zip(graph.layers, in_block, strict=True))
    indices = (node.id.head or 0 for node in shown)
    n_heads = max(max(whole, default=0), max(indices, default=0) + 1)
    scores = np.full((graph.n_layers, n_heads), np.nan)
    for node in shown:
        value = number(node)
        scores[node.id.layer, node.id.head] = np.nan if value is None else value
    if by in _MEASURED_BY and np.isnan(scores).all():
        what = "measured reversed attention" if by == "reversed" else f"a measured {by}"
        raise InputError(f"no head of this graph has {what}; {_MEASURED_BY[by]} measures it")
    return head_map(
        scores,
        reference=reference,
        title=title,
        score=words,
        theme=theme,
    )


def _positions(graph: GraphData, to: str | int) -> tuple[int, ...]:
    """The positions of a token, among those that the graph's own position sees.

    Raises:
        InputError: it is not there.
    """
    seen = graph.tokens[: graph.seen]
    if isinstance(to, str):
        found = tuple(i for i, token in enumerate(seen) if token == to)
    else:
        n = len(graph.tokens)
        found = (to % n,) if -n <= to < n and to % n < len(seen) else ()
    if not found:
        told = "  ".join(f"{i} {visible(token)}" for i, token in enumerate(seen))
        raise InputError(
            f"position {graph.position} cannot look at {to!r}; it sees the tokens {told}"
        )
    return found


def _attention(node: Node, at: tuple[int, ...]) -> float | None:
    if node.attention is None:
        return None
    return sum(node.attention[i] for i in at if i < len(node.attention))
