"""One or several: what a call may be given alone or in a list, as a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from visit_tl.arguments.vocabulary import NodeNames
    from visit_tl.graph.ids import NodeId


def integers(value: int | Iterable[int]) -> list[int]:
    """Integers; one is a list of one."""
    return [value] if isinstance(value, int) else list(value)


def integers_or_none(value: int | Iterable[int] | Literal["all"] | None) -> list[int] | None:
    """Integers; None for None and for `all`, which both leave the choice to the call."""
    return None if value is None or value == "all" else integers(value)


def node_ids(value: NodeNames) -> list[str | NodeId]:
    """Ids of nodes, for ids or nodes; one is a list of one."""
    from visit_tl.arguments.plain import nodes

    return nodes(value)


def each(value: str | int | Iterable[Any]) -> list[Any]:
    """Items; a text or a number is a list of one."""
    return [value] if isinstance(value, str | int) else list(value)
