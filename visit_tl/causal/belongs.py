"""Whether what was measured is of the graph that it is to be laid onto."""

from __future__ import annotations

from collections.abc import Sequence

from visit_tl.errors import InputError
from visit_tl.graph.flow import FlowGraph


def require_same(
    graph: FlowGraph, model: str, token_ids: Sequence[int], position: int, *, what: str, remedy: str
) -> None:
    """Hold a graph against the model, tokens and position of a measurement.

    Raises:
        InputError: one of them differs; `what` was measured, and `remedy` is what to do.
    """
    ours = {"model": model, "tokens": tuple(token_ids), "position": position}
    theirs = {"model": graph.model, "tokens": graph.token_ids, "position": graph.position}
    for name, value in ours.items():
        if value != theirs[name]:
            raise InputError(f"the {what} and the graph differ in {name}; {remedy}")
