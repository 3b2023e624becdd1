"""Check that a measurement and a graph are of the same model, prompt, position and segments."""

from __future__ import annotations

from collections.abc import Sequence

from visit_tl.errors import InputError
from visit_tl.graph.container import GraphData


def require_same(
    graph: GraphData,
    model: str,
    token_ids: Sequence[int],
    position: int,
    segments: Sequence[tuple[int, int]],
    *,
    what: str,
    remedy: str,
) -> None:
    """Check that a graph has the model, tokens, position and segments of a measurement.

    Raises:
        InputError: one of them differs; `what` was measured, and `remedy` is what to do.
    """
    ours = {"model": model, "tokens": tuple(token_ids), "position": position}
    ours["segments"] = tuple(segments)
    theirs = {"model": graph.model, "tokens": graph.token_ids, "position": graph.position}
    theirs["segments"] = graph.segments
    for name, value in ours.items():
        if value != theirs[name]:
            raise InputError(f"the {what} and the graph differ in {name}; {remedy}")
